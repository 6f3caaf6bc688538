"""Logdirs with a checkpoint of random weights, as a run that has just started leaves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agents import make_agent
from mlma.core import config as configs
from mlma.core.config import Config
from mlma.core.flat_weights import build_variables, named_variables
from mlma.core.presets.resolve import resolve
from mlma.envs.registry import env_spec
from mlma.learning.checkpoint import Checkpoints
from mlma.learning.run_state import run_identity


def write_run(logdir: Path, **flags: Any) -> Path:
    """A logdir with config.json and one checkpoint."""
    config = Config.from_flags(logdir=str(logdir), **flags)
    spec = env_spec(config.environment)
    config = resolve(config, spec, 1)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    variables = {name: value.numpy() for name, value in named_variables("network", agent.network.variables).items()}
    Checkpoints(logdir / "checkpoints", 3).save(7, variables, run_identity(config) | {"step": 7, "frames": 4000})
    configs.save(config, logdir / "config.json")
    return logdir
