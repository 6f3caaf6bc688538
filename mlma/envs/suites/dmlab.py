"""DeepMind Lab (Beattie et al. 2016, arXiv 1612.03801): the 30 levels of DMLab-30 by name, `dmlab/LEVEL` for any other script.

96x72 RGB, action repeat 4, the nine actions of the IMPALA paper, the instruction as words. The module `deepmind_lab` is the
user's to install. Each environment is a worker process, since a step keeps Python's lock. Maps that were compiled go to a
folder that all actors of a host share. Evaluation plays the test levels, holdouts allowed, with the seed of the published
evaluations. Not here: scores (mlma/envs/reference_scores.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
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
EVALUATION_SEED = 0x600D5EED  # mixes what evaluation plays apart from what training plays
PREFIX = "dmlab/"
MISSING_MODULE = (
    "needs the module deepmind_lab, which is not installed: build it from github.com/google-deepmind/lab, and put it on the "
    "path of this Python"
)


def level_names() -> list[str]:
    return sorted({*train_to_test_levels(), *train_to_test_levels().values()})


def level_script(level_name: str, evaluation: bool) -> str | None:
    """The level script of the Lab that this name is, or None if it is none."""
    name = level_name.removeprefix(DMLAB30_FOLDER)
    if name in level_names():
        return DMLAB30_FOLDER + (train_to_test_levels().get(name, name) if evaluation else name)
    return level_name.removeprefix(PREFIX) if level_name.startswith((PREFIX, DMLAB30_FOLDER)) else None


def env_spec(level_name: str, config: EnvironmentConfig) -> EnvSpec | None:
    """ValueError where the module is missing."""
    if level_script(level_name, False) is None:
        return None
    if missing_package_note():
        raise ValueError(f"--level_name={level_name}: {MISSING_MODULE}")
    if config.color_mode == "grey":
        raise ValueError(f"--color_mode=grey: {level_name} has only rgb")
    shape = (config.height or HEIGHT, config.width or WIDTH, 3)
    return EnvSpec(
        ArraySpec(shape, "uint8"),
        len(ACTIONS),
        config.num_action_repeats or ACTION_REPEATS,
        {"words": ArraySpec((MAX_WORDS,), "int32")},
        tuple(ACTIONS),
    )


def missing_package_note() -> str:
    """What to say where the module is missing."""
    return "" if importlib.util.find_spec("deepmind_lab") else " (the module deepmind_lab is not installed)"


def make_env(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig, evaluation: bool) -> VectorEnv | None:
    if (spec := env_spec(level_name, config)) is None:
        return None
    sticky, workers = (
        max(0.0, config.sticky_actions),
        config.env_processes if config.env_processes > 0 else num_envs,
    )
    return SubprocessVectorEnv(__name__, level_name, spec, num_envs, workers, seed, config, evaluation, sticky)


def make_single(level_name: str, config: EnvironmentConfig, evaluation: bool) -> Lab:
    return Lab(level_name, config, evaluation)


class Lab:
    """See mlma.envs.vector.sequential.SingleEnv."""

    reward_scale = 1.0

    def __init__(self, level_name: str, config: EnvironmentConfig, evaluation: bool) -> None:
        import deepmind_lab

        spec = env_spec(level_name, config)
        assert spec
        self.spec = spec
        height, width, _ = spec.observation.shape
        settings = {"width": str(width), "height": str(height)}
        if evaluation:
            settings |= {"allowHoldOutLevels": "true", "mixerSeed": str(EVALUATION_SEED)}
        if config.dataset_path:
            settings["datasetPath"] = config.dataset_path
        cache = LevelCache(Path(config.level_cache).expanduser()) if config.level_cache else None
        self._actions = [np.array(action, np.intc) for action in ACTIONS.values()]
        self._rng = np.random.default_rng()
        self._lab = deepmind_lab.Lab(
            level=level_script(level_name, evaluation),
            observations=["RGB_INTERLEAVED", "INSTR"],
            config=settings,
            renderer=config.dmlab_renderer,
            level_cache=cache,
        )
        self._parts: ObservationParts = {}

    def reset(self, seed: int | None) -> ObservationParts:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._lab.reset(seed=int(self._rng.integers(2**31)))
        return self._look()

    def step(self, action: int) -> tuple[ObservationParts, float, bool, bool]:
        """A level ends by its own clock: that is its end, as the published scores take it."""
        reward = self._lab.step(self._actions[action], num_steps=self.spec.action_repeats)
        over = not self._lab.is_running()
        return self._parts if over else self._look(), float(reward), over, False  # the Lab shows nothing after the end

    def _look(self) -> ObservationParts:
        seen = self._lab.observations()
        self._parts = {"observation": seen["RGB_INTERLEAVED"], "words": hash_words(_decode(seen["INSTR"]))}
        return self._parts

    def close(self) -> None:
        self._lab.close()


def _decode(instruction: Any) -> str:
    return instruction.decode() if isinstance(instruction, bytes) else str(instruction)


class LevelCache:
    """Compiled maps in a folder. Called by the Lab: a map from here takes a second, compiling it takes up to 26."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def fetch(self, key: str, pk3_path: str) -> bool:
        """Copies the map to where the Lab wants it; False if it is not here."""
        try:
            shutil.copyfile(self._place(key), pk3_path)
        except OSError:
            return False
        return True

    def write(self, key: str, pk3_path: str) -> None:
        """Whole or not at all: others read at the same time, and may be writing the same map."""
        place = self._place(key)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(place) as new, open(pk3_path, "rb") as made:
                shutil.copyfileobj(made, new)
        except OSError as problem:  # a full disk: the map is compiled again the next time
            print(f"level cache {self._folder}: {problem}", flush=True)

    def _place(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / name
