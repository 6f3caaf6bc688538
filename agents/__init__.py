"""The algorithms, one file each. The equations are in agents/ops/, the networks in agents/networks/.

A new algorithm is one file here and one entry in mlma/core/catalog.py; one of the user's is any class, by its name.
"""

from __future__ import annotations

from agents.own_code import make_own_agent
from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config
from mlma.core.config.flags import is_own_name
from mlma.core.types import Agent, EnvSpec
from mlma.utils.import_object import import_object


def make_agent(config: Config, spec: EnvSpec) -> Agent:
    """The agent of `--algorithm` with the network of `--agent_name`, for levels with this spec."""
    if is_own_name(config.run.algorithm):
        return make_own_agent(config, spec)
    agent: Agent = import_object(ALGORITHMS[config.run.algorithm].agent)(config, spec)
    return agent
