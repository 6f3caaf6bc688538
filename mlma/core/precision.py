"""Whether this machine gains from bfloat16: `--precision` and `--acting_precision`."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import tensorflow as tf

from mlma.core.config import Config
from mlma.core.own_code import find_network
from mlma.core.types import Agent, EnvSpec, MakeAgent

logger = logging.getLogger(__name__)

CPU_FLAGS = {"avx512_bf16", "amx_bf16"}  # of processors that multiply bfloat16
GPU_CAPABILITY = (8, 0)  # the first that does
MIN_GAIN = 1.05  # below this, rounding is not worth it


def with_precision(make_agent: MakeAgent, config: Config) -> MakeAgent:
    """`make_agent`, for agents that compute in float32 or bfloat16 where the configuration says "auto".

    The configuration itself keeps "auto", since it is saved and may be used on another machine. "auto" is bfloat16
    where the processor or the GPU has it and a short test is faster with it; never with --deterministic, whose results
    must not depend on timing, nor for vectors, whose layers are small.
    """
    given = {"precision": config.learner.precision, "acting_precision": config.actor.acting_precision}
    undecided = [name for name, precision in given.items() if precision == "auto"]
    chosen, gain = "float32", 0.0
    may_see_images = find_network(config.run.agent_name).observations != "vector"
    if undecided and may_see_images and not config.run.deterministic and _has_bfloat16():
        gain = measure_gain()
        chosen = "bfloat16" if gain >= MIN_GAIN else "float32"

    def make(config: Config, spec: EnvSpec) -> Agent:
        sees_images = len(spec.observation.shape) == 3  # networks of the user's may see either
        if gain and sees_images:  # here, since the log of a learner begins with its session
            logger.info("computes in %s (--precision=auto): bfloat16 is %.2f times as fast in a test", chosen, gain)
        return make_agent(config.replace(**dict.fromkeys(undecided, chosen if sees_images else "float32")), spec)

    return make


def measure_gain(repetitions: int = 5) -> float:
    """Time of a convolution and its gradient in float32 as a multiple of that in bfloat16.

    It is the time of the processor, the least of several, since other processes run beside this one.
    """
    images = tf.random.stateless_normal([32, 20, 20, 32], seed=(0, 1))
    weights = tf.random.stateless_normal([4, 4, 32, 64], seed=(0, 2))

    @tf.function
    def gradient(images: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(weights)
            loss = tf.reduce_sum(tf.nn.relu(tf.nn.conv2d(images, weights, 2, "VALID")))
        return tape.gradient(loss, weights)

    least = dict.fromkeys((tf.float32, tf.bfloat16), float("inf"))
    arguments = {dtype: (tf.cast(images, dtype), tf.cast(weights, dtype)) for dtype in least}
    for dtype in least:
        gradient(*arguments[dtype])  # traces
    for _ in range(repetitions):  # in turn, since machines slow down and speed up
        for dtype in least:
            began = time.process_time()
            gradient(*arguments[dtype]).numpy()
            least[dtype] = min(least[dtype], time.process_time() - began)
    return least[tf.float32] / least[tf.bfloat16]


def _has_bfloat16() -> bool:
    if gpus := tf.config.get_visible_devices("GPU"):
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return bool(capability >= GPU_CAPABILITY)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    return any(CPU_FLAGS & set(line.split()) for line in lines if line.startswith("flags"))
