"""VizDoom (Kempka et al. 2016), from its scenario files: `doom_basic`, `doom_my_way_home`, `doom_battle`, `doom_benchmark`, ...

128x72 RGB and two numbers, frame skip 4. An optional package: `make install-vizdoom`. A scenario is looked for in
--doom_scenarios, in the package vizdoom, and in the wheel sample-factory, which has the maps of Dosovitskiy & Koltun 2017
(battle, battle2). Each game is a process of its own; nothing of it is left however its worker ends. Not here: the workers
(mlma/envs/vector/multiprocess.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlma.core.config import EnvironmentConfig
from mlma.core.types import ArraySpec, EnvSpec, VectorEnv
from mlma.envs.spaces import ObservationParts
from mlma.envs.suites.gym import fit_image
from mlma.envs.vector.multiprocess import SubprocessVectorEnv
from mlma.envs.vector.sequential import SyncVectorEnv

WIDTH, HEIGHT, ACTION_REPEATS = 128, 72, 4
SCREEN = (120, 160, 3)  # what the engine draws
GAME_VARIABLES = (
    "HEALTH",
    "SELECTED_WEAPON_AMMO",
)  # beside the picture, which is drawn without the bar that shows them; in hundreds
STALE_SECONDS = (
    120.0  # seconds after which what is shared with an engine has been made nameless, unless its worker was ended at once
)
ButtonSet = tuple[str, ...]  # buttons held together


def one_of(*buttons: str) -> list[ButtonSet]:
    """Nothing, or one of them."""
    return [(), *((button,) for button in buttons)]


def product_of(*choices: list[ButtonSet]) -> list[ButtonSet]:
    """One of each list at the same time."""
    return [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*choices)]


class Scenario(NamedTuple):
    config: str  # file
    actions: list[ButtonSet]
    reward_scale: float = 1.0


TURNS, STRAFES, MOVES = (
    one_of("TURN_LEFT", "TURN_RIGHT"),
    one_of("MOVE_LEFT", "MOVE_RIGHT"),
    one_of("MOVE_FORWARD", "MOVE_BACKWARD"),
)
TURN_AND_WALK = product_of(TURNS, one_of("MOVE_FORWARD"))
TURN_OR_WALK = one_of("TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD")
BATTLE = product_of(MOVES, STRAFES, TURNS, one_of("ATTACK"), one_of("SPEED"))
SCENARIOS = {
    "doom_basic": Scenario("basic.cfg", one_of("MOVE_LEFT", "MOVE_RIGHT", "ATTACK"), 0.01),
    "doom_my_way_home": Scenario("my_way_home.cfg", TURN_AND_WALK),
    "doom_deadly_corridor": Scenario("deadly_corridor.cfg", product_of(MOVES, STRAFES, TURNS, one_of("ATTACK")), 0.01),
    "doom_defend_the_center": Scenario("defend_the_center.cfg", product_of(TURNS, one_of("ATTACK"))),
    "doom_defend_the_line": Scenario("defend_the_line.cfg", product_of(TURNS, one_of("ATTACK"))),
    "doom_health_gathering": Scenario("health_gathering.cfg", TURN_OR_WALK, 0.01),
    "doom_health_gathering_supreme": Scenario("health_gathering_supreme.cfg", TURN_OR_WALK, 0.01),
    "doom_predict_position": Scenario("predict_position.cfg", product_of(TURNS, one_of("ATTACK"))),
    "doom_take_cover": Scenario("take_cover.cfg", STRAFES, 0.01),
    "doom_battle": Scenario("battle.cfg", BATTLE),
    # No configuration of this map comes with plain turning: that of the other one, and its map.
    "doom_battle2": Scenario("battle2.wad", BATTLE),
    "doom_benchmark": Scenario(
        "battle.cfg",
        one_of(
            "MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_RIGHT", "MOVE_LEFT", "TURN_RIGHT", "TURN_LEFT", "ATTACK", "SPEED"
        ),
    ),
}  # fmt: skip


def level_names() -> list[str]:
    return list(SCENARIOS)


def env_spec(level_name: str, config: EnvironmentConfig) -> EnvSpec | None:
    """ValueError for a level of ours that cannot be played here."""
    if level_name not in SCENARIOS:
        return None
    find_scenario(level_name, config)
    actions = SCENARIOS[level_name].actions
    channels = 1 if config.color_mode == "grey" else 3
    return EnvSpec(
        ArraySpec((config.height or HEIGHT, config.width or WIDTH, channels), "uint8"),
        num_actions=len(actions),
        action_repeats=config.num_action_repeats or ACTION_REPEATS,
        extras={"vector": ArraySpec((len(GAME_VARIABLES),), "float32")},
        action_names=tuple("+".join(combination) or "NOOP" for combination in actions),
    )


def make_env(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig, evaluation: bool) -> VectorEnv | None:
    if (spec := env_spec(level_name, config)) is None:
        return None
    sticky, workers = max(0.0, config.sticky_actions), abs(config.env_processes) or 1
    return SubprocessVectorEnv(__name__, level_name, spec, num_envs, workers, seed, config, evaluation, sticky)


def make_for_video(level_name: str, num_envs: int, seed: int, config: EnvironmentConfig) -> VectorEnv | None:
    """The same games as `make` with `evaluation` and one worker, in the size that the engine draws."""
    if env_spec(level_name, config) is None:
        return None
    return SyncVectorEnv(
        [make_single(level_name, config, True) for _ in range(num_envs)], seed, max(0.0, config.sticky_actions)
    )


def find_scenario(level_name: str, config: EnvironmentConfig) -> Path:
    """The scenario's file. ValueError that says what to install."""
    if missing_package_note():
        raise ValueError(f"--level_name={level_name}: needs VizDoom; install it with: make install-vizdoom")
    name = SCENARIOS[level_name].config
    folders = [Path(config.doom_scenarios)] if config.doom_scenarios else []
    folders += [folder / inner for package, inner in PACKAGES.items() if (folder := _package_folder(package))]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    looked = ", ".join(map(str, folders))
    raise ValueError(
        f"--level_name={level_name}: {name} is in none of {looked}; install it with: make install-vizdoom, or name a folder "
        "that has it with --doom_scenarios"
    )


def missing_package_note() -> str:
    """What to say where the package is missing."""
    return "" if importlib.util.find_spec("vizdoom") else " (not installed: make install-vizdoom)"


PACKAGES = {"vizdoom": "scenarios", "sf_examples": "vizdoom/doom/scenarios"}


def _package_folder(package: str) -> Path | None:
    """Of an installed package, without importing it."""
    found = importlib.util.find_spec(package)
    return Path(next(iter(found.submodule_search_locations))) if found and found.submodule_search_locations else None


def _remove_stale_memory() -> None:
    """Removes what was left by workers that were ended while they started a game. Who still uses such memory keeps it."""
    for memory in Path("/dev/shm").glob("ViZDoom*"):
        with contextlib.suppress(OSError):
            found = memory.stat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > STALE_SECONDS:
                memory.unlink()


def make_single(level_name: str, config: EnvironmentConfig, evaluation: bool) -> Doom:
    return Doom(level_name, config)


class Doom:
    """See mlma.envs.vector.sequential.SingleEnv."""

    def __init__(self, level_name: str, config: EnvironmentConfig) -> None:
        spec = env_spec(level_name, config)
        assert spec
        self.spec, self.reward_scale = spec, SCENARIOS[level_name].reward_scale
        self._level_name, self._config = level_name, config
        self._game: Any = None
        self._seen = np.zeros(spec.observation.shape, np.uint8)

    def _start(self, seed: int) -> None:
        import vizdoom

        package = Path(vizdoom.__file__).parent
        os.environ["MLMA_PYTHON"], os.environ["MLMA_DOOM_PARENT"] = sys.executable, str(os.getpid())
        os.environ["MLMA_DOOM_ENGINE"] = str(package / "vizdoom")
        game = vizdoom.DoomGame()
        path = find_scenario(self._level_name, self._config).resolve()
        if path.suffix == ".wad":
            game.load_config(str(path.with_name("battle.cfg")))
            game.set_doom_scenario_path(str(path))
        else:
            game.load_config(str(path))
        game.set_vizdoom_path(str(Path(__file__).with_name("doom_engine.sh")))
        game.set_doom_config_path(os.devnull)  # else it leaves a file in the folder that we are in
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        combinations = SCENARIOS[self._level_name].actions
        buttons = sorted(set(itertools.chain(*combinations)))
        game.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons])
        self._held = [[button in combination for button in buttons] for combination in combinations]
        self._told = [getattr(vizdoom.GameVariable, name) for name in GAME_VARIABLES]
        game.set_seed(seed % 2**31)
        _remove_stale_memory()
        with tempfile.TemporaryDirectory() as folder:  # where it leaves files that nobody wants
            os.environ["MLMA_DOOM_FOLDER"] = folder
            game.init()
        # What we share with the engine stays ours without a name, and ends with us.
        for memory in Path("/dev/shm").glob(f"ViZDoom*{game.get_instance_id()}"):
            memory.unlink(missing_ok=True)
        self._game = game

    def reset(self, seed: int | None) -> ObservationParts:
        if seed is not None or self._game is None:
            self.close()
            self._start(random.randrange(2**31) if seed is None else seed)
        else:
            self._game.new_episode()
        return self._parts()

    def step(self, action: int) -> tuple[ObservationParts, float, bool, bool]:
        reward = self._game.make_action(self._held[action], self.spec.action_repeats)
        over = self._game.is_episode_finished()
        timeout = over and self._game.is_episode_timeout_reached() and not self._game.is_player_dead()
        return self._parts(), reward, over and not timeout, timeout

    def _parts(self) -> ObservationParts:
        """After the last step of a game there is nothing to see but what was seen before."""
        if (state := self._game.get_state()) is not None:
            height, width, channels = self.spec.observation.shape
            self._seen = fit_image(state.screen_buffer, (width, height), channels == 1)
        told = [self._game.get_game_variable(variable) / 100 for variable in self._told]
        return {"observation": self._seen, "vector": np.array(told, np.float32)}

    def render(self) -> Any:
        state = self._game.get_state()
        return np.zeros(SCREEN, np.uint8) if state is None else state.screen_buffer

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None
