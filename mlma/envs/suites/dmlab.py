"""DeepMind Lab (Beattie et al. 2016, arXiv 1612.03801): DMLab-30 levels by name, `dmlab/LEVEL` for other scripts.

96x72 RGB, action repeat 4, the nine actions of the IMPALA paper, the instruction as words. Users install the module
`deepmind_lab` themselves. Each environment has a worker process by default, since a step holds the GIL. Compiled maps
are cached in a folder that all actors of a host share. Evaluation uses the test levels, with holdout levels allowed and
the mixer seed of the published evaluations. Not here: scores (mlma/envs/reference_scores.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, VectorEnv
from mlma.envs.level_syntax import DMLAB30_FOLDER, train_to_test_levels
from mlma.envs.spaces import MAX_WORDS, ObservationParts, hash_words
from mlma.envs.vector.multiprocess import SubprocessVectorEnv
from mlma.utils.atomic_file import atomic_write

logger = logging.getLogger(__name__)

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
MISSING_MODULE = (
    "needs the module deepmind_lab, which is not installed: build it from github.com/google-deepmind/lab and put it on "
    "the PYTHONPATH"
)


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
    return level_script(level_name, False) is not None and not missing_package_note()


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite. ValueError if the module is not installed."""
    if level_script(level_name, False) is None:
        return None
    if missing_package_note():
        raise ValueError(f"--level_name={level_name}: {MISSING_MODULE}")
    if settings.color_mode == "grey":
        raise ValueError(f"--color_mode=grey: {level_name} supports only rgb")
    shape = (settings.height or HEIGHT, settings.width or WIDTH, 3)
    return EnvSpec(
        ArraySpec(shape, "uint8"),
        len(ACTIONS),
        settings.num_action_repeats or ACTION_REPEATS,
        {"words": ArraySpec((MAX_WORDS,), "int32")},
        tuple(ACTIONS),
    )


def missing_package_note() -> str:
    """A remark for the list of levels if the module is not installed, else ""."""
    return "" if importlib.util.find_spec("deepmind_lab") else " (the module deepmind_lab is not installed)"


def make_env(
    level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool
) -> VectorEnv | None:
    """See mlma.envs.registry.Suite."""
    if (spec := env_spec(level_name, settings)) is None:
        return None
    sticky = max(0.0, settings.sticky_actions)
    workers = settings.env_processes if settings.env_processes > 0 else num_envs
    return SubprocessVectorEnv(__name__, level_name, spec, num_envs, workers, seed, settings, evaluation, sticky)


def make_single(level_name: str, settings: EnvironmentConfig, evaluation: bool) -> Lab:
    """One environment; called by the worker processes."""
    return Lab(level_name, settings, evaluation)


class Lab:
    """See mlma.envs.vector.sequential.SingleEnv."""

    reward_scale = 1.0

    def __init__(self, level_name: str, settings: EnvironmentConfig, evaluation: bool) -> None:
        import deepmind_lab

        spec = env_spec(level_name, settings)
        assert spec
        self.spec = spec
        height, width, _ = spec.observation.shape
        lab_config = {"width": str(width), "height": str(height)}
        if evaluation:
            lab_config |= {"allowHoldOutLevels": "true", "mixerSeed": str(EVALUATION_SEED)}
        if settings.dataset_path:
            lab_config["datasetPath"] = settings.dataset_path
        cache = LevelCache(Path(settings.level_cache).expanduser()) if settings.level_cache else None
        self._actions = [np.array(action, np.intc) for action in ACTIONS.values()]
        self._rng = np.random.default_rng()
        self._lab = deepmind_lab.Lab(
            level=level_script(level_name, evaluation),
            observations=["RGB_INTERLEAVED", "INSTR"],
            config=lab_config,
            renderer=settings.dmlab_renderer,
            level_cache=cache,
        )
        self._last_observation: ObservationParts = {}

    def reset(self, seed: int | None) -> ObservationParts:
        """See SingleEnv."""
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._lab.reset(seed=int(self._rng.integers(2**31)))
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

    def close(self) -> None:
        """See SingleEnv."""
        self._lab.close()


def _decode(instruction: Any) -> str:
    return instruction.decode() if isinstance(instruction, bytes) else str(instruction)


class LevelCache:
    """Compiled maps in a folder, called by the Lab. Loading a map takes a second; compiling it takes up to 26."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copies the map to `pk3_path`; False if it is not in the cache."""
        try:
            shutil.copyfile(self._path(key), pk3_path)
        except OSError:
            return False
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Adds the map atomically: other processes read the cache and may write the same map at the same time."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file, open(pk3_path, "rb") as compiled:
                shutil.copyfileobj(compiled, file)
        except OSError as error:  # such as a full disk: the map is compiled again next time
            logger.warning("could not add a map to the level cache %s: %s", self._folder, error)

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / name
