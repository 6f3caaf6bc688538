"""Set-up of TensorFlow: a quiet import, malloc settings, thread pools."""

from __future__ import annotations

import ctypes
import os
import sys

# For glibc's mallopt: keep memory instead of returning it to the kernel. Trajectories and activations have megabytes.
MALLOC_OPTIONS = {-1: 2**30, -2: 2**26, -3: 2**25}  # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD


def import_tensorflow() -> None:
    """Imports TensorFlow without Keras, and without the lines that it prints before it reads any log setting.

    TensorFlow imports Keras, and with it matplotlib, if it can, and goes on if it cannot. Nothing here uses it: 50 MB
    of each process and a quarter of the time of the import. `tf.keras` still imports it when it is first used.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, size in MALLOC_OPTIONS.items():
            libc.mallopt(option, size)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    without_keras = "keras" not in sys.modules
    if without_keras:
        sys.modules["keras"] = None  # type: ignore[assignment]  # an import of it raises ImportError
    stderr = os.dup(2)
    with os.fdopen(os.memfd_create("hidden"), "w+b") as hidden:  # needs no room on a disk
        os.dup2(hidden.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            hidden.seek(0)  # why it failed
            os.write(stderr, hidden.read())
            raise
        finally:
            if without_keras:
                del sys.modules["keras"]
            os.dup2(stderr, 2)
            os.close(stderr)


def set_tensorflow_threads(count: int, shards: int = 1) -> None:
    """Sets TensorFlow's thread pools for `count` threads and `shards` independent subgraphs."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(-(-count // shards))  # within an operation
    tf.config.threading.set_inter_op_parallelism_threads(min(count, max(2, shards)))
