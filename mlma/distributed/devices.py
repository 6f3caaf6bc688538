"""One GPU per learner."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from mlma.distributed.world import World


def use_own_gpu() -> bool:
    """One GPU for each learner of a host, and no more of its memory than needed; whether there is one."""
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    if gpus:
        mine = gpus[World.from_environment().local_rank % len(gpus)]
        tf.config.set_visible_devices(mine, "GPU")
        tf.config.experimental.set_memory_growth(mine, True)
    return bool(gpus)
