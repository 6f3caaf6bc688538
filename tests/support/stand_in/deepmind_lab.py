"""A fake of the module deepmind_lab, which no package index has: it behaves as the real one was measured to, with toy
levels.

A level is a circle of 24 cells. The player turns with LOOK and walks with MOVE; reaching the goal gives reward 1 and
moves the goal. Each seed has a map of its own, which is "compiled" unless the level cache has it; language levels
compile another one in the middle of an episode, psychlab levels none. Each Lab and each compiled map is a line in the
file $STAND_IN_LOG. What can go wrong is staged with the level MISSING_MAP, and with
$STAND_IN_WITHOUT (a package that the import lacks), $STAND_IN_COMPILE_SECONDS and $STAND_IN_EXIT_AT_RESET (a number).
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

if lacking := os.environ.get("STAND_IN_WITHOUT"):
    raise ModuleNotFoundError(f"No module named {lacking!r}", name=lacking)

EPISODE_SECONDS, FPS = 4, 60
MAP_REPEATS = 1000  # of a hash of 32 bytes
LOW, HIGH = np.array([-512, -512, -1, -1, 0, 0, 0]), np.array([512, 512, 1, 1, 1, 1, 1])
NAMES = ("LOOK_LEFT_RIGHT_PIXELS_PER_FRAME", "LOOK_DOWN_UP_PIXELS_PER_FRAME", "STRAFE_LEFT_RIGHT", "MOVE_BACK_FORWARD",
         "FIRE", "JUMP", "CROUCH")  # fmt: skip
IMAGES = ("RGB_INTERLEAVED", "RGBD_INTERLEAVED", "RGB", "RGBD", "BGR_INTERLEAVED", "BGRD_INTERLEAVED",
          "RGB.LOOK_RIGHT", "RGB.LOOK_BACK", "RGB.LOOK_LEFT", "DEBUG.CAMERA_INTERLEAVED.TOP_DOWN",
          "DEBUG.CAMERA_INTERLEAVED.PLAYER_VIEW", "DEBUG.CAMERA_INTERLEAVED.PLAYER_VIEW_NO_RETICLE",
          "DEBUG.CAMERA.TOP_DOWN", "DEBUG.CAMERA.PLAYER_VIEW", "DEBUG.CAMERA.PLAYER_VIEW_NO_RETICLE")  # fmt: skip
TEXTS = ("INSTR", "DEBUG.MAZE.LAYOUT", "DEBUG.MAZE.VARIATION", "DEBUG.PLAYERS.NAME")
NUMBERS = {"MAP_FRAME_NUMBER": 1, "VEL.TRANS": 3, "VEL.ROT": 3, "TEAM.SCORE": 2, "DEBUG.POS.TRANS": 3,
           "DEBUG.POS.ROT": 3, "DEBUG.PLAYER_ID": 1, "DEBUG.FLAGS.RED": 5, "DEBUG.FLAGS.BLUE": 5,
           "DEBUG.FLAGS.RED_HOME": 4, "DEBUG.FLAGS.BLUE_HOME": 4}  # fmt: skip
PLAYERS = ("ARMOR", "GADGET", "GADGET_AMOUNT", "HEALTH", "HOLDING_FLAG", "ID", "EYE.POS", "EYE.ROT", "VELOCITY", "TEAM",
           "CAPTURES", "SCORE", "IS_BOT")  # fmt: skip
DMLAB30 = Path(__file__).parents[3] / "mlma" / "envs" / "published" / "dmlab30.csv"
MISSING_MAP = "demos/missing_map"  # its script is there, its map is not
OTHER_LEVELS = {MISSING_MAP, "seekavoid_arena_01", "stairway_to_melon"}
WITH_PICTURES = ("psychlab_arbitrary_visuomotor_mapping", "psychlab_continuous_recognition")
_runfiles = "/nowhere"
_resets = 0  # of this process


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


def _print(line: str) -> None:
    """As the engine does, behind Python's back."""
    os.write(1, f"{line}\n".encode())


def _exists(level: str) -> bool:
    name = level.removeprefix("contributed/dmlab30/")
    with DMLAB30.open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = {row[column] for row in rows for column in ("train_level", "test_level")}
    return level in OTHER_LEVELS or (name != level and name in known)


def _specs(width: int, height: int) -> list[dict[str, Any]]:
    rows: list[tuple[str, Any, tuple[int, ...]]] = []
    for name in IMAGES:
        depth = 4 if name.startswith(("RGBD", "BGRD")) else 3
        shape = (height, width, depth) if "INTERLEAVED" in name else (depth, height, width)
        rows.append((name, np.uint8, shape))
    rows += [(name, str, ()) for name in TEXTS]
    rows += [(name, np.float64, (count,)) for name, count in NUMBERS.items()]
    rows += [(f"DEBUG.PLAYERS.{name}", np.float64, (0,)) for name in PLAYERS]
    return [{"name": name, "dtype": dtype, "shape": shape} for name, dtype, shape in rows]


class Lab:
    """See Lab of the real deepmind_lab."""

    def __init__(
        self,
        level: str,
        observations: list[str],
        config: Any = (),
        renderer: str = "software",
        level_cache: Any = None,
        temp_folder: str = "",
    ) -> None:
        config = {} if config == () else config
        if not isinstance(level, str) or not isinstance(observations, list):
            raise TypeError("level must be str and observations a list")
        if not isinstance(config, dict) or not all(isinstance(x, str) for pair in config.items() for x in pair):
            raise TypeError("'config' must be a dict of str to str")
        if not isinstance(temp_folder, str):
            raise TypeError("temp_folder must be str")
        if renderer not in ("software", "hardware", ""):
            raise RuntimeError(f"Failed to set renderer: {renderer!r}")
        self._level, self._names, self._config, self._cache = level, observations, config, level_cache
        self._width, self._height = int(config.get("width", "320")), int(config.get("height", "240"))
        unknown = set(observations) - {spec["name"] for spec in _specs(self._width, self._height)}
        if unknown:
            raise ValueError(f"Unknown observation '{sorted(unknown)[0]}'")
        if self._width % 4 or self._height % 4:
            raise RuntimeError("Invalid 'width' or 'height': must be a multiple of 4")
        if not _exists(level):
            _print(f"Level not found: {level}")
            raise RuntimeError(f"Failed to start level script '{level}'")
        if level.endswith("_test") and "rooms_" in level and config.get("allowHoldOutLevels") != "true":
            raise RuntimeError("Hold-out levels are not allowed: set 'allowHoldOutLevels'")
        if level.endswith(WITH_PICTURES) and not os.path.isdir(config.get("datasetPath", "")):
            raise RuntimeError("update DATASET_PATH to point the data folder.")
        self._temp_folder = temp_folder or tempfile.mkdtemp(prefix="dmlab_temp_folder_")
        self._is_own_temp_folder = not temp_folder
        self._running, self._closed, self._started, self._frames = False, False, False, 0
        self._length = EPISODE_SECONDS * int(config.get("fps", str(FPS)))
        _log(start=level, config=config, renderer=renderer)

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        """Starts an episode. Ends the process after `close`, or if the level's map is missing."""
        global _resets
        if self._closed:
            os.abort()
        if seed is not None:
            if type(seed) is not int:
                raise ValueError("'seed' must be int or None")
            if not -(2**63) <= seed < 2**63:
                raise OverflowError("Python int too large to convert to C long")
        _resets += 1
        _print("----- Server Initialization -----")
        if self._level == MISSING_MAP or str(_resets) == os.environ.get("STAND_IN_EXIT_AT_RESET"):
            _print("ERROR: Couldn't load maps/missing.bsp")
            os._exit(1)
        self._rng = np.random.default_rng(None if seed in (None, -1) else abs(int(seed or 0)))
        self._make_map(int(self._rng.integers(2**62)))
        self._frames, self._angle, self._cell, self._goal = 0, 0, 0, int(self._rng.integers(1, 24))
        self._running = self._started = True
        return True

    def _make_map(self, number: int) -> None:
        if "psychlab" in self._level:
            return
        key = f"{self._level}-{number}"
        content = hashlib.sha256(key.encode()).digest() * MAP_REPEATS
        with tempfile.TemporaryDirectory(dir=self._temp_folder) as folder:
            path = os.path.join(folder, "map.pk3")
            if self._cache is not None and self._cache.fetch(key, path):
                if Path(path).read_bytes() != content:
                    raise RuntimeError(f"the cache returned an incomplete map for {key}")
                return
            time.sleep(float(os.environ.get("STAND_IN_COMPILE_SECONDS", "0")))
            Path(path).write_bytes(content)
            _log(compiled=key)
            if self._cache is not None:
                self._cache.write(key, path)

    def _must_run(self, call: str) -> None:
        if not self._running:
            raise RuntimeError(f"Environment wrong status for call '{call}'")

    def step(self, action: Any, num_steps: int = 1) -> float:
        """Repeats an action; returns the summed reward. Bounds are not checked."""
        self._must_run("step")
        if not isinstance(action, np.ndarray):
            raise TypeError("'action' must be a numpy array")
        if action.dtype != np.intc or action.shape != (len(NAMES),):
            raise ValueError("action must be a 1-D numpy array of intc of the size of the action spec")
        reward = 0.0
        for _ in range(num_steps):
            self._cell = (self._cell + int(action[3])) % 24
            self._angle = (self._angle + int(action[0])) % 360
            if self._cell == self._goal:
                reward += 1.0
                self._goal = int(self._rng.integers(24))
            self._frames += 1
            if "language_" in self._level and self._frames == self._length // 2:
                self._make_map(int(self._rng.integers(2**62)))
            if self._frames >= self._length:
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
        values: dict[str, Any] = {"RGB_INTERLEAVED": image, "INSTR": "go to the green line"}
        for spec in self.observation_spec():
            values.setdefault(spec["name"], "" if spec["dtype"] is str else np.zeros(spec["shape"], spec["dtype"]))
        return {name: values[name] for name in self._names}

    def is_running(self) -> bool:
        """Whether the episode goes on."""
        return self._running

    def num_steps(self) -> int:
        """Frames of the episode so far; 0 before the first."""
        return self._frames

    def events(self) -> list[tuple[str, list[Any]]]:
        """Always empty; RuntimeError before the first episode."""
        if not self._started:
            raise RuntimeError("Environment wrong status for call 'events'")
        return []

    def observation_spec(self) -> list[dict[str, Any]]:
        """All 43 observations, whichever were asked for."""
        return _specs(self._width, self._height)

    def action_spec(self) -> list[dict[str, Any]]:
        """See Lab of the real deepmind_lab."""
        return [{"name": n, "min": int(lo), "max": int(hi)} for n, lo, hi in zip(NAMES, LOW, HIGH, strict=True)]

    def close(self) -> bool:
        """Removes the temporary folder, unless it was given. False the second time."""
        if self._closed:
            return False
        self._closed, self._running = True, False
        if self._is_own_temp_folder:
            shutil.rmtree(self._temp_folder, ignore_errors=True)
        return True
