#!/bin/sh
# Starts VizDoom's engine so that it ends with its parent. It ignores SIGTERM and would survive a kill -9 of the parent.
exec "$MLMA_PYTHON" -ISc '
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() == int(sys.argv[1]):  # otherwise the parent ended before prctl
    os.chdir(sys.argv[2])
    os.execv(sys.argv[3], sys.argv[3:])
' "$MLMA_DOOM_PARENT" "$MLMA_DOOM_FOLDER" "$MLMA_DOOM_ENGINE" "$@"
