"""The agent of a run with the weights of one of its checkpoints, ready to act: for evaluation, the API and export.

Not here: what a checkpoint holds (mlma/learning/checkpoint.py), running episodes (mlma/evaluation/evaluation.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mlma.core.config import Config, load
from mlma.core.flat_weights import build_variables, named_variables
from mlma.core.presets.resolve import resolve
from mlma.core.types import Agent, EnvSpec, MakeAgent
from mlma.envs.registry import env_spec
from mlma.learning.checkpoint import BEST_NAME, Checkpoints, LoadedCheckpoint, check_compatible
from mlma.learning.checkpoint_file import CheckpointMismatchError
from mlma.learning.run_state import run_identity
from mlma.utils.child_process import available_cores

MAKE_AGENT = "agents:make_agent"  # for those who start without one; by name, since the system imports no algorithm
FULL_PRECISION = {"precision": "float32", "acting_precision": "float32"}  # the same results on every machine
CONFIG_NAME, CHECKPOINTS_NAME = "config.json", "checkpoints"


class SavedPolicy(NamedTuple):
    """An agent with the weights of a checkpoint, and where they come from."""

    config: Config  # of the run, resolved
    spec: EnvSpec
    agent: Agent
    logdir: Path
    checkpoint: Path
    meta: dict[str, Any]  # the checkpoint's description


def load_saved_policy(source: Path, which: str, make_agent: MakeAgent) -> SavedPolicy:
    """The policy of a logdir, with its checkpoint `which`: last, best or a file; or that of a checkpoint in a logdir.

    ValueError in one line that names the file, and what is allowed.
    """
    logdir, which = find_run(source, which)
    config = Config.from_flags(**load(str(logdir / CONFIG_NAME)))
    loaded = Checkpoints(logdir / CHECKPOINTS_NAME, config.reports.keep_checkpoints).load(which)
    spec = env_spec(config.environment)
    config = resolve(config, spec, available_cores())
    agent = make_agent(config.replace(**FULL_PRECISION), spec)
    meta = restore_network(agent, spec, loaded, config)
    return SavedPolicy(config, spec, agent, logdir, loaded.path, meta)


def find_run(source: Path, which: str) -> tuple[Path, str]:
    """The logdir that `source` is or belongs to, and the checkpoint; ValueError if there is none."""
    allowed = f"allowed: a logdir, which has a {CONFIG_NAME}, or a checkpoint in LOGDIR/{CHECKPOINTS_NAME}"
    if source.is_file():
        if source.suffix != ".npz":
            raise ValueError(f"{source}: is not a checkpoint; {allowed}")
        for folder in (source.parent.parent, source.parent):
            if (folder / CONFIG_NAME).is_file():
                return folder, str(source)
        raise ValueError(f"{source}: its run has no {CONFIG_NAME} in {source.parent.parent}; {allowed}")
    if not (source / CONFIG_NAME).is_file():
        raise ValueError(f"{source}: {'has no ' + CONFIG_NAME if source.is_dir() else 'does not exist'}; {allowed}")
    folder = source / CHECKPOINTS_NAME
    files = {"last": folder.glob("checkpoint-*.npz"), "best": folder.glob(BEST_NAME)}.get(which, iter([Path(which)]))
    if not any(path.is_file() for path in files):
        raise ValueError(f"{source}: there is no checkpoint {which} in {folder}; allowed: last, best, or a file")
    return source, which


def restore_network(agent: Agent, spec: EnvSpec, loaded: LoadedCheckpoint, config: Config) -> dict[str, Any]:
    """Sets the network's variables; returns the checkpoint's description. CheckpointMismatchError if they differ."""
    build_variables(agent, spec)
    path, variables, meta, _ = loaded
    if "frames" not in meta:
        raise CheckpointMismatchError(f"{path}: its description lacks frames")
    expected = named_variables("network", agent.network.variables)
    network = {name: value for name, value in variables.items() if name.startswith("network/")}
    check_compatible(path, network, meta, expected, run_identity(config))
    for name, variable in expected.items():
        variable.assign(network[name])
    return meta
