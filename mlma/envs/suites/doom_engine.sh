#!/bin/sh
# VizDoom's engine, tied to the process that started it: it ignores SIGTERM, and would live on after a kill -9 of that.
exec "$MLMA_PYTHON" -ISc '
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):  # else it died before we asked
    os.chdir(sys.argv[2])
    os.execv(sys.argv[3], sys.argv[3:])
' "$MLMA_DOOM_PARENT" "$MLMA_DOOM_FOLDER" "$MLMA_DOOM_ENGINE" "$@"
