"""N learners that train on the same samples, each on its share; writes the final values of each rank to a file.

mpirun runs it for tests/integration/test_several_learners.py: python -m tests.support.one_batch FOLDER CASE ...
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf

from agents import make_agent
from mlma.core.catalog import networks_for
from mlma.core.flat_weights import named_variables
from mlma.core.types import Sample
from mlma.distributed.allreduce import Allreduce, connect_learners
from mlma.learning.learner import Learner
from tests.support.samples import IMAGE, REAL, VECTOR, as_tensors, make_impala, random_sample, small_config

BATCH = 64  # trajectories of all learners


class Case(NamedTuple):
    """What to train.

    With random images, networks amplify rounding errors, the deep one most; epsilon and learning rate keep them small.
    """

    agent_name: str
    optimizer: str
    epsilon: float
    learning_rate: float = 1e-4
    steps: int = 20
    compression: Literal["none", "fp16"] = "none"
    idle: int = -1  # the rank that has no sample at odd steps
    bad: int = -1  # the rank whose sample at step 2 is not finite
    algorithm: Literal["impala", "apex", "r2d2"] = "impala"
    popart: bool = False
    real_actions: bool = False  # with normalised observations


CASES = {
    "shallow-rmsprop": Case("ShallowConvNetAgent", "rmsprop", epsilon=0.1),
    "shallow-adam": Case("ShallowConvNetAgent", "adam", epsilon=1e-5),
    "deep-rmsprop": Case("ResNetLSTMAgent", "rmsprop", epsilon=1.0, learning_rate=3e-5, steps=8),
    "deep-adam": Case("ResNetLSTMAgent", "adam", epsilon=0.5, learning_rate=3e-5),
    "apex": Case("MLPAgent", "rmsprop", epsilon=0.1, learning_rate=1e-3, algorithm="apex"),
    "r2d2": Case("MLPLSTMAgent", "rmsprop", epsilon=0.1, learning_rate=1e-3, algorithm="r2d2"),
    "popart": Case("MLPAgent", "rmsprop", epsilon=0.1, popart=True),
    "real": Case("SeparateMLPAgent", "adam", epsilon=1e-3, popart=True, real_actions=True),
    "fp16": Case("MLPAgent", "rmsprop", epsilon=0.1, compression="fp16"),
    "idle": Case("MLPAgent", "rmsprop", epsilon=0.1, steps=5, idle=1),
    "bad": Case("MLPAgent", "rmsprop", epsilon=0.1, steps=5, bad=1),
}


def share_of(sample: Sample, agent: Any, rank: int, size: int) -> Sample:
    """The part of a sample that rank `rank` of `size` trains on."""
    batch = len(sample.keys)
    share = slice(rank * batch // size, (rank + 1) * batch // size)
    trajectory = sample.trajectory
    return Sample(
        trajectory._replace(
            agent_state=agent.initial_state(batch // size),
            timesteps=tf.nest.map_structure(lambda x: x[:, share], trajectory.timesteps),
            act_outputs=tf.nest.map_structure(lambda x: x[:, share], trajectory.act_outputs),
            weights_version=trajectory.weights_version[share],
            actor_id=trajectory.actor_id[share],
        ),
        sample.keys[share],
        sample.importance_weights[share],
        sample.num_new_steps // size,
    )


def train(case: Case, allreduce: Allreduce) -> dict[str, Any]:
    """The final weights by name, PopArt's statistics among them, with frames, steps, and how far the weights moved."""
    spec = VECTOR if case.agent_name in networks_for("vector") else IMAGE
    if case.real_actions:
        spec = REAL
    config = small_config(
        agent_name=case.agent_name, optimizer=case.optimizer, batch_size=BATCH, unroll_length=2,
        learning_rate=case.learning_rate, epsilon=case.epsilon,
        num_stacked_frames=4 if case.agent_name == "ShallowConvNetAgent" else 1,
        algorithm=case.algorithm, popart=case.popart, n_step=2,
        normalize_observations="on" if case.real_actions else "off", burn_in=1, sequence_length=1, target_period=5,
    )  # fmt: skip
    tf.random.set_seed(1)
    agent: Any = make_impala(config, spec) if case.algorithm == "impala" else make_agent(config, spec)
    learner = Learner(config, agent, spec.action_repeats, allreduce)
    before = learner.weights.read().numpy()
    for step in range(case.steps):
        whole = random_sample(step, config, spec)
        if allreduce.rank == case.bad and step == 2:
            whole.trajectory.timesteps.observation[:] = np.inf
        sample = as_tensors(share_of(whole, agent, allreduce.rank, allreduce.size))
        learner.update(None if allreduce.rank == case.idle and step % 2 else sample)
    variables = named_variables("network", learner.weights.variables)
    values = {name.replace("/", "|"): v.numpy() for name, v in variables.items()}
    moved = np.abs(learner.weights.read().numpy() - before).max()
    return values | {"frames": learner.frames, "step": learner.step, "moved": moved}


def main(folder: str, *names: str) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    for name in names:
        case = CASES[name]
        allreduce = connect_learners(small_config(compression=case.compression).distributed)
        np.savez(Path(folder) / f"{name}-{allreduce.size}-{allreduce.rank}.npz", **train(case, allreduce))
    allreduce.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
