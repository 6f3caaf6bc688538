"""A fake of the module deepmind_lab, which no package index has: its API with all checks, and toy levels.

A level is a circle of 24 cells. The player turns with LOOK and walks with MOVE; reaching the goal gives reward 1 and
moves the goal. The map is "compiled" at each reset, unless the level cache has it. Each Lab and each compiled map is a
line in the file $STAND_IN_LOG.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

EPISODE_FRAMES = 240
NUM_MAPS = 3  # per level
LOW, HIGH = np.array([-512, -512, -1, -1, 0, 0, 0]), np.array([512, 512, 1, 1, 1, 1, 1])
NAMES = ("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", "LOOK_DOWN_UP_PIXELS_PER_FRAME", "STRAFE_LEFT_RIGHT", "MOVE_BACK_FORWARD",
         "FIRE", "JUMP", "CROUCH")  # fmt: skip
_runfiles = "/nowhere"


def version() -> str:
    """See the real deepmind_lab."""
    return "stand-in"


def runfiles_path() -> str:
    """See the real deepmind_lab."""
    return _runfiles


def set_runfiles_path(path: str) -> None:
    """See the real deepmind_lab."""
    global _runfiles
    _runfiles = path


def _log(**entry: Any) -> None:
    if path := os.environ.get("STAND_IN_LOG"):
        with open(path, "a") as file:
            file.write(json.dumps(entry | {"pid": os.getpid()}) + "\n")


class Lab:
    """See Lab of the real deepmind_lab."""

    def __init__(
        self,
        level: str,
        observations: list[str],
        config: Any = None,
        renderer: str = "software",
        level_cache: Any = None,
        temp_folder: str = "",
    ) -> None:
        config = {} if config is None else config
        if not isinstance(level, str) or not isinstance(observations, list):
            raise TypeError("level must be str and observations a list")
        if not isinstance(config, dict) or not all(isinstance(x, str) for pair in config.items() for x in pair):
            raise TypeError("config must be a dictionary of str to str")
        if renderer not in ("software", "hardware"):
            raise ValueError(f"renderer {renderer!r}")
        if not isinstance(temp_folder, str):
            raise TypeError("temp_folder must be str")
        if level_cache is not None and not (callable(level_cache.fetch) and callable(level_cache.write)):
            raise TypeError("level_cache must have fetch and write")
        unknown = set(observations) - {"RGB_INTERLEAVED", "INSTR"}
        if unknown:
            raise RuntimeError(f"Unknown observation {unknown}")
        if level.endswith("_test") and "rooms_" in level and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError("hold out levels are not allowed")
        self._level, self._names, self._config, self._cache = level, observations, config, level_cache
        self._width, self._height = int(config.get("width", "320")), int(config.get("height", "240"))
        self._running, self._closed = False, False
        _log(start=level, config=config, renderer=renderer)

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        """Starts an episode."""
        if self._closed:
            raise RuntimeError("closed")
        if seed is not None and not isinstance(seed, int):
            raise TypeError("'seed' must be int or None")
        self._rng = np.random.default_rng(seed)
        self._make_map(int(self._rng.integers(NUM_MAPS)))
        self._frames, self._angle, self._cell, self._goal = 0, 0, 0, int(self._rng.integers(1, 24))
        self._running = True
        return True

    def _make_map(self, number: int) -> None:
        key = f"{self._level}-{number}"
        content = hashlib.sha256(key.encode()).digest() * 20_000
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "map.pk3")
            if self._cache is not None and self._cache.fetch(key, path):
                if Path(path).read_bytes() != content:
                    raise RuntimeError(f"the cache returned an incomplete map for {key}")
                return
            Path(path).write_bytes(content)
            _log(compiled=key)
            if self._cache is not None:
                self._cache.write(key, path)

    def _must_run(self, call: str) -> None:
        if not self._running:
            raise RuntimeError(f"Environment wrong status for call '{call}'")

    def step(self, action: Any, num_steps: int = 1) -> float:
        """Repeats an action; returns the summed reward."""
        self._must_run("step")
        if not isinstance(action, np.ndarray) or action.dtype != np.intc or action.shape != (len(NAMES),):
            raise ValueError("action must be a 1-D numpy array of intc of the size of the action spec")
        if (action < LOW).any() or (action > HIGH).any():
            raise ValueError("action out of bounds")
        reward = 0.0
        for _ in range(num_steps):
            self._cell = (self._cell + int(action[3])) % 24
            self._angle = (self._angle + int(action[0])) % 360
            if self._cell == self._goal:
                reward += 1.0
                self._goal = int(self._rng.integers(24))
            self._frames += 1
            if self._frames >= EPISODE_FRAMES:
                self._running = False
                break
        return reward

    def observations(self) -> dict[str, Any]:
        """Player in red, goal in green, view angle in blue. RuntimeError after the end of an episode, as in the Lab."""
        self._must_run("observations")
        image = np.zeros((self._height, self._width, 3), np.uint8)
        image[:, self._cell * self._width // 24, 0] = 255
        image[:, self._goal * self._width // 24, 1] = 255
        image[self._angle * self._height // 360, :, 2] = 255
        values = {"RGB_INTERLEAVED": image, "INSTR": "go to the green line"}
        return {name: values[name] for name in self._names}

    def is_running(self) -> bool:
        """Whether the episode goes on."""
        return self._running

    def num_steps(self) -> int:
        """Frames of the episode so far."""
        return self._frames

    def events(self) -> list[tuple[str, list[Any]]]:
        """Always empty."""
        return []

    def observation_spec(self) -> list[dict[str, Any]]:
        """See Lab of the real deepmind_lab."""
        specs = {"RGB_INTERLEAVED": (np.uint8, (self._height, self._width, 3)), "INSTR": (str, ())}
        return [{"name": name, "dtype": specs[name][0], "shape": specs[name][1]} for name in self._names]

    def action_spec(self) -> list[dict[str, Any]]:
        """See Lab of the real deepmind_lab."""
        return [{"name": n, "min": int(lo), "max": int(hi)} for n, lo, hi in zip(NAMES, LOW, HIGH, strict=True)]

    def close(self) -> bool:
        """Makes further calls fail."""
        self._closed, self._running = True, False
        return True
