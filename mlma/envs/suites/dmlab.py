"""DeepMind Lab (Beattie et al. 2016, arXiv 1612.03801): DMLab-30 levels by name, `dmlab/LEVEL` for other scripts.

96x72 RGB, action repeat 4, the nine actions of the IMPALA paper, the instruction as words. Users install the module
`deepmind_lab` themselves. Each environment has a worker process by default, since a step holds the GIL. Evaluation uses
the test levels, with holdout levels allowed and the mixer seed of the published evaluations. Not here: compiled maps
(mlma/envs/level_cache.py), scores (mlma/envs/reference_scores.py).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, VectorEnv
from mlma.envs.level_cache import LevelCache
from mlma.envs.level_syntax import DMLAB30_FOLDER, train_to_test_levels
from mlma.envs.spaces import MAX_WORDS, ObservationParts, hash_words
from mlma.envs.vector.multiprocess import SubprocessVectorEnv, WorkerTraits
from mlma.utils.code_layout import setup_hint
from mlma.utils.import_object import add_to_path

WIDTH, HEIGHT, ACTION_REPEATS = 96, 72, 4
ACTIONS = {  # look left/right, look down/up, strafe left/right, move back/forward, fire, jump, crouch
    "forward": (0, 0, 0, 1, 0, 0, 0),
    "backward": (0, 0, 0, -1, 0, 0, 0),
    "strafe_left": (0, 0, -1, 0, 0, 0, 0),
    "strafe_right": (0, 0, 1, 0, 0, 0, 0),
    "look_left": (-20, 0, 0, 0, 0, 0, 0),
    "look_right": (20, 0, 0, 0, 0, 0, 0),
    "forward_look_left": (-20, 0, 0, 1, 0, 0, 0),
    "forward_look_right": (20, 0, 0, 1, 0, 0, 0),
    "fire": (0, 0, 0, 0, 1, 0, 0),
}
EVALUATION_SEED = 0x600D5EED  # mixer seed, which keeps evaluation episodes apart from those of training
PREFIX = "dmlab/"
MODULE, EXTENSION = "deepmind_lab", "deepmind_lab.so"
MISSING_MODULE = (
    "needs the module deepmind_lab, which is not installed: build it from github.com/google-deepmind/lab and name its "
    "folder with --dmlab_path, or put it on the PYTHONPATH"
)
IMPORTED_BY_PACKAGE = ("dm_env", "pkg_resources", "imp")  # by its __init__; the extension needs none of them
WITH_PICTURES = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")
MISSING_PICTURES = (
    f"the levels {' and '.join(WITH_PICTURES)} need a folder of pictures, 0001.png to 2400.png, which "
    "data/brady_konkle_oliva2008 of the Lab's source says how to get; they load with any folder that exists"
)
MAX_SEEDS = 2**31
OWN_TEMP_FOLDER = HAS_WORKERS = True  # see mlma.envs.registry.Suite
SIZE_STEP = 4  # the Lab's images have sides of a multiple of this


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    return sorted({*train_to_test_levels(), *train_to_test_levels().values()})


def level_script(level_name: str, evaluation: bool) -> str | None:
    """The level script for a name, or None if the name is not a DeepMind Lab level."""
    name = level_name.removeprefix(DMLAB30_FOLDER)
    if name in level_names():
        return DMLAB30_FOLDER + (train_to_test_levels().get(name, name) if evaluation else name)
    return level_name.removeprefix(PREFIX) if level_name.startswith((PREFIX, DMLAB30_FOLDER)) else None


def needs_trial(level_name: str) -> bool:
    """See mlma.envs.registry.Suite."""
    return level_script(level_name, False) is not None


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite. ValueError if the module is not installed."""
    if level_script(level_name, False) is None:
        return None
    check_settings(level_name, settings)
    shape = (settings.height or HEIGHT, settings.width or WIDTH, 3)
    return EnvSpec(
        ArraySpec(shape, "uint8"),
        len(ACTIONS),
        settings.num_action_repeats or ACTION_REPEATS,
        {"words": ArraySpec((MAX_WORDS,), "int32")},
        tuple(ACTIONS),
    )


def check_settings(level_name: str, settings: EnvironmentConfig) -> None:
    """See mlma.envs.registry.Suite."""
    if (script := level_script(level_name, False)) is None:
        return
    if settings.dmlab_path and find_module(settings.dmlab_path) is None:
        raise ValueError(f"--dmlab_path={settings.dmlab_path}: has neither {EXTENSION} nor the package {MODULE}")
    if not settings.dmlab_path and missing_package_note():
        raise ValueError(f"--level_name={level_name}: {MISSING_MODULE}")
    if settings.color_mode == "grey":
        raise ValueError(f"--color_mode=grey: {level_name} supports only rgb")
    for flag in ("width", "height"):
        if (size := getattr(settings, flag)) % SIZE_STEP:
            raise ValueError(f"--{flag}={size}: must be a multiple of {SIZE_STEP} in DeepMind Lab")
    if script.endswith(WITH_PICTURES) and not (settings.dataset_path and Path(settings.dataset_path).is_dir()):
        problem = "no such folder" if settings.dataset_path else "is empty"
        raise ValueError(f"--dataset_path={settings.dataset_path}: {problem}; {MISSING_PICTURES}")


def missing_package_note() -> str:
    """A remark for the list of levels if the module is not installed, else ""."""
    return "" if importlib.util.find_spec(MODULE) else f" (the module {MODULE} is not installed)"


def find_module(path: str) -> Path | None:
    """The extension module that `path` is or has in it, or the package deepmind_lab that it is or has in it."""
    given = Path(path).expanduser()
    if given.name == EXTENSION and given.is_file():  # also within a package
        return given
    if (given / EXTENSION).is_file() and not _is_package(given):
        return given / EXTENSION
    return next((each for each in (given / MODULE, given) if each.name == MODULE and _is_package(each)), None)


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def import_lab(path: str) -> Any:
    """The module deepmind_lab, from `path` if there is one. Its files are beside the extension unless it says where."""
    found = find_module(path) if path else None
    if found is None or found.name != EXTENSION:
        if found is not None:
            add_to_path(str(found.parent))
        return _import_package()
    if MODULE in sys.modules:
        return sys.modules[MODULE]
    spec = importlib.util.spec_from_file_location(MODULE, found)
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[MODULE] = module
    if (found.parent / "baselab").is_dir():  # the layout of the package; a build's extension knows its own
        module.set_runfiles_path(str(found.parent))
    return module


def _import_package() -> Any:
    try:
        return importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        if error.name in IMPORTED_BY_PACKAGE:
            hint = f"install it with: {setup_hint('install-dmlab')}, or load the extension alone with --dmlab_path=FILE"
            raise ModuleNotFoundError(f"{error}; {hint}", name=error.name) from None
        raise


def make_env(
    level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool
) -> VectorEnv | None:
    """See mlma.envs.registry.Suite."""
    if (spec := env_spec(level_name, settings)) is None:
        return None
    sticky = max(0.0, settings.sticky_actions)
    workers = settings.env_processes if settings.env_processes > 0 else num_envs
    traits = WorkerTraits(own_temp_folder=OWN_TEMP_FOLDER, quiet=evaluation)
    return SubprocessVectorEnv(
        __name__, level_name, spec, num_envs, workers, seed, settings, evaluation, sticky, traits
    )


def make_single(level_name: str, settings: EnvironmentConfig, evaluation: bool) -> Lab:
    """One environment; called by the worker processes."""
    return Lab(level_name, settings, evaluation)


class Lab:
    """See mlma.envs.vector.sequential.SingleEnv."""

    reward_scale = 1.0

    def __init__(self, level_name: str, settings: EnvironmentConfig, evaluation: bool) -> None:
        spec = env_spec(level_name, settings)
        assert spec
        self.spec, self.level_name = spec, level_name
        deepmind_lab = import_lab(settings.dmlab_path)
        height, width, _ = spec.observation.shape
        lab_config = {"width": str(width), "height": str(height)}
        if evaluation:
            lab_config |= {"allowHoldOutLevels": "true", "mixerSeed": str(EVALUATION_SEED)}
        if settings.dataset_path:
            lab_config["datasetPath"] = settings.dataset_path
        cache_folder, max_bytes = Path(settings.level_cache).expanduser(), settings.level_cache_gb * 1e9
        self._cache = LevelCache(cache_folder, max_bytes) if settings.level_cache else None
        self._num_seeds = MAX_SEEDS if evaluation or not settings.map_seeds else settings.map_seeds
        self._actions = [np.array(action, np.intc) for action in ACTIONS.values()]
        self._rng = np.random.default_rng()
        self._lab = deepmind_lab.Lab(
            level=level_script(level_name, evaluation),
            observations=["RGB_INTERLEAVED", "INSTR"],
            config=lab_config,
            renderer=settings.dmlab_renderer,
            level_cache=self._cache,
        )
        self._last_observation: ObservationParts = {}

    def reset(self, seed: int | None) -> ObservationParts:
        """See SingleEnv."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._lab.reset(seed=int(self._rng.integers(self._num_seeds)))
        return self._observe()

    def step(self, action: int) -> tuple[ObservationParts, float, bool, bool]:
        """See SingleEnv. The time limit of a level terminates the episode, as in the published scores."""
        reward = self._lab.step(self._actions[action], num_steps=self.spec.action_repeats)
        over = not self._lab.is_running()
        # The Lab has no observation after the end of an episode.
        return self._last_observation if over else self._observe(), float(reward), over, False

    def _observe(self) -> ObservationParts:
        values = self._lab.observations()
        self._last_observation = {
            "observation": values["RGB_INTERLEAVED"],
            "words": hash_words(_decode(values["INSTR"])),
        }
        return self._last_observation

    def level_cache_counts(self) -> tuple[int, int]:
        """Hits and misses of the level cache so far."""
        return (self._cache.hits, self._cache.misses) if self._cache else (0, 0)

    def close(self) -> None:
        """See SingleEnv."""
        self._lab.close()


def _decode(instruction: Any) -> str:
    return instruction.decode() if isinstance(instruction, bytes) else str(instruction)
