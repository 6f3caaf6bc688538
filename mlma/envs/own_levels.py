"""Finds and opens gymnasium environments: registered ids, and ids, classes and functions of a module or file of yours.

`Id`, `module:Id`, `module:function`, `./file.py:Class`. Not here: what their spaces become (mlma/envs/spaces.py).
"""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from mlma.core.config.flags import did_you_mean
from mlma.core.config.json_object import json_object
from mlma.utils.import_object import import_user_module, in_one_line

RENDER_MODE = "rgb_array"
BUILT_IN = "gymnasium.envs."  # start of the entry points of environments that come with gymnasium
RAW_ATARI = "ale_py."
MAX_NAMES = 8  # of a module that a message lists


class Source(NamedTuple):
    """Where an environment comes from."""

    name: str  # its id, or the name of the factory
    factory: Callable[..., Any] | None  # None: gymnasium makes it by its id


def find_source(level_name: str) -> Source | None:
    """The source of a level; None for a name without a colon that gymnasium does not have. ValueError in one line."""
    module_name, colon, name = level_name.rpartition(":")
    if not colon and not level_name.endswith(".py"):
        return Source(level_name, None) if level_name in gymnasium.registry else None
    if not colon:
        module_name, name = level_name, ""
    try:
        module = import_user_module(module_name)
    except ValueError as error:
        raise ValueError(f"--level_name={level_name}: {error}") from None
    if name in gymnasium.registry:
        return Source(name, None)
    factory = getattr(module, name, None) if name else None
    if callable(factory):
        return Source(name, factory)
    raise ValueError(f"--level_name={level_name}: {_absent(module_name, module, name)}")


def _absent(module_name: str, module: Any, name: str) -> str:
    """What is said about a module that lacks the name."""
    own = getattr(module, "__name__", "")
    ids = [i for i, spec in gymnasium.registry.items() if _module_of(spec.entry_point) in (own, module_name)]
    classes = [key for key, value in vars(module).items() if callable(value) and _module_of(value) == own]
    names = [each for each in (*ids, *classes) if not each.startswith("_")]
    known = f"; it has {', '.join(names[:MAX_NAMES])}" if names else ""
    if not name:
        return f"needs the name of an environment in that file, {module_name}:NAME{known}"
    return f"{module_name} registers no {name}, and has no class or function of that name{known}"


def _module_of(entry_point: Any) -> str:
    if isinstance(entry_point, str):
        return entry_point.partition(":")[0]
    return str(getattr(entry_point, "__module__", ""))


def is_foreign(level_name: str) -> bool:
    """Whether the environment is other code than gymnasium's own. Imports nothing."""
    if ":" in level_name or level_name.endswith(".py"):
        return True
    spec = gymnasium.registry.get(level_name)
    return spec is not None and not _module_of(spec.entry_point).startswith((BUILT_IN, RAW_ATARI))


def is_raw_atari(level_name: str) -> bool:
    """Whether this is a game as ale_py registers it, without the preprocessing of the Atari levels."""
    spec = gymnasium.registry.get(level_name)
    return spec is not None and _module_of(spec.entry_point).startswith(RAW_ATARI)


def open_env(level_name: str, env_args: str, render: bool = False) -> Any:
    """The environment, with these arguments. ValueError, in one line, for whatever goes wrong.

    With `render` it can render images, if it takes a render mode.
    """
    source = find_source(level_name)
    assert source is not None
    arguments = json_object(env_args)
    if render and (source.factory is None or takes_argument(source.factory, "render_mode")):
        arguments["render_mode"] = RENDER_MODE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gymnasium warns about ids that have a newer version
            env = source.factory(**arguments) if source.factory else gymnasium.make(source.name, **arguments)
    except (gymnasium.error.Error, ImportError) as error:  # many ids need an optional package
        raise ValueError(f"--level_name={level_name}: {' '.join(str(error).split())}") from None
    except Exception as error:
        raise ValueError(_refusal(level_name, env_args, source, error)) from None
    try:
        _check_env(env)
    except ValueError as error:
        raise ValueError(f"--level_name={level_name}: {error}") from None
    return env


def open_vector_env(level_name: str, env_args: str, num_envs: int) -> Any:
    """The level's own vector environment; None if it has none, or if it cannot be opened: single environments say what
    is wrong."""
    source = find_source(level_name)
    assert source is not None
    if source.factory is not None or gymnasium.registry[source.name].vector_entry_point is None:
        return None
    try:  # gymnasium refuses levels with wrappers of their own
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mode = gymnasium.VectorizeMode.VECTOR_ENTRY_POINT
            return gymnasium.make_vec(source.name, num_envs, mode, **json_object(env_args))
    except Exception:
        return None


def _refusal(level_name: str, env_args: str, source: Source, error: Exception) -> str:
    known, names = _arguments(source), json_object(env_args)
    if isinstance(error, TypeError) and known is not None:
        allowed = f"it takes {', '.join(known)}" if known else "it takes none"
        if unknown := [name for name in names if name not in known]:
            hint = did_you_mean(unknown[0], known)
            return f"--env_args={env_args}: {level_name} has no argument {unknown[0]}; {allowed}{hint}"
        if "missing" in str(error) and "argument" in str(error):
            return f"--env_args={env_args}: {level_name}: {str(error).split(' was raised from')[0]}; {allowed}"
    given = f" --env_args={env_args}" if names else ""
    return f"--level_name={level_name}{given}: cannot be opened: {in_one_line(error)}"


def _arguments(source: Source) -> list[str] | None:
    """The names of the arguments that the environment takes; None if it takes any, or does not say."""
    try:
        factory = source.factory
        if factory is None:
            entry_point = gymnasium.spec(source.name).entry_point
            factory = (
                gymnasium.envs.registration.load_env_creator(entry_point)
                if isinstance(entry_point, str)
                else entry_point
            )
        parameters = inspect.signature(factory).parameters.values()  # type: ignore[arg-type]
    except Exception:  # only for a better message
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def takes_argument(factory: Callable[..., Any], name: str) -> bool:
    """Whether the factory can be called with this keyword argument, as far as it says."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False
    return name in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _check_env(env: Any) -> None:
    """ValueError for an object that is no environment of one agent."""
    given = [getattr(env, name, None) for name in ("observation_space", "action_space")]
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise ValueError("makes a vector environment; return a single one: --envs_per_actor says how many are made")
    if not all(isinstance(space, gymnasium.Space) for space in given) or not hasattr(env, "step"):
        raise ValueError(
            f"makes a {type(env).__name__}, which is no gymnasium.Env with an observation_space and an action_space; "
            "PettingZoo's environments of several agents are not supported"
        )


def print_raw_atari_note(level_name: str) -> None:
    """Says that a game runs without Atari's preprocessing."""
    print(f"note: --level_name={level_name} has no preprocessing; the levels atari_GAME have it", file=sys.stderr)
