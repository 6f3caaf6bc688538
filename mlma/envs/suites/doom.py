"""VizDoom (Kempka et al. 2016, arXiv 1605.02097) scenarios: `doom_basic`, `doom_my_way_home`, `doom_battle`, ...

128x72 RGB and two numbers, frame skip 4. VizDoom is an optional package: `make install-vizdoom`. Scenario files are
searched in the folder --doom_scenarios, in the package vizdoom, and in the wheel sample-factory, which has the maps of
Dosovitskiy & Koltun 2017 (battle, battle2). Each environment has an engine process, which ends with its worker and
leaves no files or shared memory. Not here: the workers (mlma/envs/vector/multiprocess.py).
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
from mlma.envs.vector.sequential import SingleEnv, SyncVectorEnv
from mlma.utils.code_layout import setup_hint

WIDTH, HEIGHT, ACTION_REPEATS = 128, 72, 4
HAS_WORKERS = True  # see mlma.envs.registry.Suite
SCREEN = (120, 160, 3)  # the engine's image
# Numbers in addition to the image, divided by 100: the image has no status bar that would show them.
GAME_VARIABLES = ("HEALTH", "SELECTED_WEAPON_AMMO")
# Age after which a name in /dev/shm is stale: a worker removes the name as soon as its engine has started.
STALE_SECONDS = 120.0
ButtonSet = tuple[str, ...]  # buttons that are held together


def one_of(*buttons: str) -> list[ButtonSet]:
    """No button, or one of `buttons`."""
    return [(), *((button,) for button in buttons)]


def product_of(*choices: list[ButtonSet]) -> list[ButtonSet]:
    """All combinations of one element of each list."""
    return [tuple(itertools.chain(*combination)) for combination in itertools.product(*choices)]


class Scenario(NamedTuple):
    """A scenario file, the actions of its level, and the scale of the rewards that are learned from."""

    file: str
    actions: list[ButtonSet]
    reward_scale: float = 1.0


TURNS = one_of("TURN_LEFT", "TURN_RIGHT")
STRAFES = one_of("MOVE_LEFT", "MOVE_RIGHT")
MOVES = one_of("MOVE_FORWARD", "MOVE_BACKWARD")
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
    # The package has no configuration of this map with button turning: it is run with battle.cfg.
    "doom_battle2": Scenario("battle2.wad", BATTLE),
    "doom_benchmark": Scenario(
        "battle.cfg",
        one_of(
            "MOVE_FORWARD", "MOVE_BACKWARD", "MOVE_RIGHT", "MOVE_LEFT", "TURN_RIGHT", "TURN_LEFT", "ATTACK", "SPEED"
        ),
    ),
}
# Installed package -> folder of its scenario files.
PACKAGES = {"vizdoom": "scenarios", "sf_examples": "vizdoom/doom/scenarios"}


def level_names() -> list[str]:
    """See mlma.envs.registry.Suite."""
    return list(SCENARIOS)


def needs_trial(level_name: str) -> bool:
    """See mlma.envs.registry.Suite."""
    return level_name in SCENARIOS


def env_spec(level_name: str, settings: EnvironmentConfig) -> EnvSpec | None:
    """See mlma.envs.registry.Suite. ValueError if VizDoom or the scenario is not installed."""
    if level_name not in SCENARIOS:
        return None
    find_scenario(level_name, settings)
    actions = SCENARIOS[level_name].actions
    channels = 1 if settings.color_mode == "grey" else 3
    return EnvSpec(
        ArraySpec((settings.height or HEIGHT, settings.width or WIDTH, channels), "uint8"),
        num_actions=len(actions),
        action_repeats=settings.num_action_repeats or ACTION_REPEATS,
        extras={"vector": ArraySpec((len(GAME_VARIABLES),), "float32")},
        action_names=tuple("+".join(combination) or "NOOP" for combination in actions),
    )


def make_env(
    level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig, evaluation: bool
) -> VectorEnv | None:
    """See mlma.envs.registry.Suite."""
    if (spec := env_spec(level_name, settings)) is None:
        return None
    sticky, workers = max(0.0, settings.sticky_actions), settings.env_processes or 1
    return SubprocessVectorEnv(__name__, level_name, spec, num_envs, workers, seed, settings, evaluation, sticky)


def make_for_video(level_name: str, num_envs: int, seed: int, settings: EnvironmentConfig) -> VectorEnv | None:
    """Same episodes as `make_env` with `evaluation`; `render` has the resolution of the engine."""
    if env_spec(level_name, settings) is None:
        return None
    singles: list[SingleEnv] = [Doom(level_name, settings) for _ in range(num_envs)]
    return SyncVectorEnv(singles, seed, max(0.0, settings.sticky_actions))


def find_scenario(level_name: str, settings: EnvironmentConfig) -> Path:
    """Path of the scenario file. ValueError with install instructions if it is missing."""
    if missing_package_note():
        raise ValueError(f"--level_name={level_name}: needs VizDoom; install it with: {setup_hint('install-vizdoom')}")
    name = SCENARIOS[level_name].file
    folders = [Path(settings.doom_scenarios)] if settings.doom_scenarios else []
    folders += [folder / inner for package, inner in PACKAGES.items() if (folder := _package_folder(package))]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    searched = ", ".join(map(str, folders))
    raise ValueError(
        f"--level_name={level_name}: {name} is in none of {searched}; install it with: "
        f"{setup_hint('install-vizdoom')}, or set --doom_scenarios to a folder that has it"
    )


def missing_package_note() -> str:
    """A remark for the list of levels if the package is not installed, else ""."""
    return "" if importlib.util.find_spec("vizdoom") else f" (not installed: {setup_hint('install-vizdoom')})"


def _package_folder(package: str) -> Path | None:
    """Folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None


def _remove_stale_shared_memory() -> None:
    """Removes names left by workers that were killed while starting an engine. Users of the memory keep it."""
    for path in Path("/dev/shm").glob("ViZDoom*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            if status.st_uid == os.getuid() and time.time() - status.st_mtime > STALE_SECONDS:
                path.unlink()


def make_single(level_name: str, settings: EnvironmentConfig, evaluation: bool) -> Doom:
    """One environment; called by the worker processes. Evaluation does not differ from training."""
    return Doom(level_name, settings)


class Doom:
    """See mlma.envs.vector.sequential.SingleEnv."""

    def __init__(self, level_name: str, settings: EnvironmentConfig) -> None:
        spec = env_spec(level_name, settings)
        assert spec
        self.spec, self.reward_scale = spec, SCENARIOS[level_name].reward_scale
        self._level_name, self._settings = level_name, settings
        self._game: Any = None
        self._last_image = np.zeros(spec.observation.shape, np.uint8)

    def _start(self, seed: int) -> None:
        import vizdoom

        os.environ["MLMA_PYTHON"], os.environ["MLMA_DOOM_PARENT"] = sys.executable, str(os.getpid())
        os.environ["MLMA_DOOM_ENGINE"] = str(Path(vizdoom.__file__).parent / "vizdoom")
        game = vizdoom.DoomGame()
        scenario = find_scenario(self._level_name, self._settings).resolve()
        if scenario.suffix == ".wad":
            game.load_config(str(scenario.with_name("battle.cfg")))
            game.set_doom_scenario_path(str(scenario))
        else:
            game.load_config(str(scenario))
        game.set_vizdoom_path(str(Path(__file__).with_name("doom_engine.sh")))
        game.set_doom_config_path(os.devnull)  # otherwise it writes a file to the current folder
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        combinations = SCENARIOS[self._level_name].actions
        buttons = sorted(set(itertools.chain(*combinations)))
        game.set_available_buttons([getattr(vizdoom.Button, button) for button in buttons])
        self._button_states = [[button in combination for button in buttons] for combination in combinations]
        self._game_variables = [getattr(vizdoom.GameVariable, name) for name in GAME_VARIABLES]
        game.set_seed(seed % 2**31)
        _remove_stale_shared_memory()
        with tempfile.TemporaryDirectory() as folder:  # the engine's current folder, to which it writes files
            os.environ["MLMA_DOOM_FOLDER"] = folder
            game.init()
        # Shared memory without a name is freed when worker and engine end, however they end.
        for path in Path("/dev/shm").glob(f"ViZDoom*{game.get_instance_id()}"):
            path.unlink(missing_ok=True)
        self._game = game

    def reset(self, seed: int | None) -> ObservationParts:
        """See SingleEnv. A seed starts a new engine."""
        if seed is not None or self._game is None:
            self.close()
            self._start(random.randrange(2**31) if seed is None else seed)
        else:
            self._game.new_episode()
        return self._parts()

    def step(self, action: int) -> tuple[ObservationParts, float, bool, bool]:
        """See SingleEnv. The time limit of a scenario truncates the episode."""
        reward = self._game.make_action(self._button_states[action], self.spec.action_repeats)
        over = self._game.is_episode_finished()
        timeout = over and self._game.is_episode_timeout_reached() and not self._game.is_player_dead()
        return self._parts(), reward, over and not timeout, timeout

    def _parts(self) -> ObservationParts:
        """The observation; after the end of an episode the engine has no image, so the previous one is repeated."""
        if (state := self._game.get_state()) is not None:
            height, width, channels = self.spec.observation.shape
            self._last_image = fit_image(state.screen_buffer, (width, height), channels == 1)
        numbers = [self._game.get_game_variable(variable) / 100 for variable in self._game_variables]
        return {"observation": self._last_image, "vector": np.array(numbers, np.float32)}

    def render(self) -> Any:
        """The engine's image, uint8 [H, W, 3]; black after the end of an episode."""
        state = self._game.get_state()
        return np.zeros(SCREEN, np.uint8) if state is None else state.screen_buffer

    def close(self) -> None:
        """See SingleEnv. Ends the engine."""
        if self._game is not None:
            self._game.close()
            self._game = None
