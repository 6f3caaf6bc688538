"""Imports TensorFlow without the lines that it prints before it reads any log setting, and lets malloc keep memory."""

from __future__ import annotations

import ctypes
import os
import tempfile

import tensorflow as tf

# For glibc. Trajectories and activations are megabytes: by default each goes back to the kernel and is asked for anew.
MALLOC_OPTIONS = {-1: 2**30, -2: 2**26, -3: 2**25}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD


def import_tensorflow() -> None:
    """What was printed is shown after all if the import fails."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, size in MALLOC_OPTIONS.items():
            libc.mallopt(option, size)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    shown = os.dup(2)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            hidden.seek(0)
            os.write(shown, hidden.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)


def set_tensorflow_threads(count: int, parts: int = 1) -> None:
    """So many for what consists of `parts` that can go side by side."""
    tf.config.threading.set_intra_op_parallelism_threads(-(-count // parts))  # within an operation
    tf.config.threading.set_inter_op_parallelism_threads(min(count, max(2, parts)))
