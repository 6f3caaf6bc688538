"""Imports algorithms and networks of the user's, and checks that they can be used as one.

Not here: what is known of them before (mlma/core/own_code.py).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from mlma.core.config import Config
from mlma.core.own_code import find_algorithm
from mlma.core.types import Agent
from mlma.utils.import_object import import_user_module

MEMBERS = (*Agent.__annotations__, *(name for name, member in vars(Agent).items() if inspect.isfunction(member)))


def import_own(flag: str, name: str) -> Callable[..., Any]:
    """The class or function `module:NAME`; ValueError, in one line, if there is none."""
    module, _, attribute = name.rpartition(":")
    try:
        found = getattr(import_user_module(module), attribute, None)
    except ValueError as error:
        raise ValueError(f"{flag}={name}: {error}") from None
    if not callable(found):
        raise ValueError(f"{flag}={name}: {module} has no class or function {attribute}")
    return found


def takes(build: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the `given` arguments that `build` takes by name. TypeError if it needs others."""
    function = build.__init__ if inspect.isclass(build) else build
    parameters = list(inspect.signature(function).parameters.values())[inspect.isclass(build) :]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if missing := [p.name for p in named if p.default is p.empty and p.name not in given]:
        raise TypeError(f"needs an argument {missing[0]}; it is given {', '.join(given)}")
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return given
    return {p.name: given[p.name] for p in named if p.name in given}


def make_own_agent(config: Config, spec: Any) -> Agent:
    """The agent of an `--algorithm` of the user's; ValueError, in one line, if it is none."""
    name = config.run.algorithm
    agent: Agent = import_own("--algorithm", name)(config, spec)
    flag = f"--algorithm={name}"
    members = set(MEMBERS) - {"__init__"}
    if missing := sorted(each for each in members if each.strip("_") == each and not hasattr(agent, each)):
        raise ValueError(f"{flag}: is no mlma.core.types.Agent: it has no {', '.join(missing)}")
    if (agent.replay_windows is not None) != find_algorithm(name).uses_replay:
        has = "has" if agent.replay_windows is not None else "has no"
        raise ValueError(f"{flag}: {has} replay_windows, so uses_replay must be {agent.replay_windows is not None}")
    return agent
