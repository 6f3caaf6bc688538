"""Pictures of what an agent plays: the best, the median and the worst episode of an evaluation as MP4 and as a small GIF.

Nothing is filmed while it is played. The actions are kept, and the chosen episodes are played once more with the same seeds in
environments that show full-size colour pictures (`mlma.envs.film`); what the agent thought stands beside them. Not here:
playing itself (mlma/evaluation/evaluation.py).
"""

from __future__ import annotations

import collections
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config
from mlma.envs.registry import make_for_video
from mlma.evaluation.evaluation import EpisodeRecording

logger = logging.getLogger(__name__)

FRAME_HEIGHT, PANEL_WIDTH = 420, 300  # of the picture, and width of what stands beside it
GIF_BYTES = 900_000
GIF_HEIGHT = 240
GIF_FRAMES = 120  # at most, from the end of the episode
WHITE, GRAY, BLUE, DARK = (235, 235, 235), (140, 140, 140), (235, 150, 60), (28, 28, 28)  # BGR


def choose_episodes(returns: Sequence[float]) -> dict[str, int]:
    """name -> environment; one episode may be all three."""
    order = np.argsort(returns, kind="stable")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}


def render_episodes(config: Config, seed: int, tape: EpisodeRecording, returns: Sequence[float], folder: Path) -> list[Path]:
    """Plays the chosen episodes again and writes their videos; `returns` is by environment."""
    chosen = choose_episodes(returns)
    folder.mkdir(parents=True, exist_ok=True)
    env: Any = make_for_video(config.environment.level_name, len(returns), seed, config.environment)
    names = env.spec.action_names
    reels = {i: VideoWriter(folder / f"{name}.mp4", fps=frames_per_second(env)) for name, i in reversed(chosen.items())}
    timestep = env.reset()
    for t, action in enumerate(tape.actions):
        rolling = {i: reel for i, reel in reels.items() if not reel.over}
        for i, reel in rolling.items():
            picture = frame_of(env, i, timestep)
            thought = PolicyOverlay(reel.score, t, float(tape.values[t][i]), tape.logits[t][i], int(action[i]))
            reel.add(compose_frame(picture, thought, config, names))
        timestep = env.step(action)
        for i, reel in rolling.items():
            reel.score += float(timestep.reward[i])
            reel.over = not np.isnan(timestep.episode_return[i])
        if all(reel.over for reel in reels.values()):
            break
    env.close()
    same = all(np.isclose(reel.score, returns[i], atol=1e-3) for i, reel in reels.items())
    for i, reel in reels.items():
        reel.end(keep=same)
        if same:
            logger.info("%s episode, return %g: %s and .gif", reel.path.stem, returns[i], reel.path)
    if not same:
        level_name = config.environment.level_name
        logger.warning("no video: %s is not repeatable with the same seed and actions", level_name)
    return [reel.path for reel in reels.values() if same]


class PolicyOverlay(NamedTuple):
    """What stands beside a picture."""

    score: float
    step: int
    value: float
    logits: Any  # [A]
    action: int


class VideoWriter:
    """One video that is being written; of the GIF only the last part is kept."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.score, self.over = 0.0, False
        self._writer: Any = None
        self._small: collections.deque[Any] = collections.deque(maxlen=GIF_FRAMES)
        self._count = 0

    def add(self, frame: Any) -> None:
        height, width = frame.shape[:2]
        if self._writer is None:  # MPEG-4: browsers play VP9 but not this; VP9 takes 40 times as long, and they have the GIF
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot write it")
        self._writer.write(frame)
        if self._count % 2 == 0:
            size = (round(width * GIF_HEIGHT / height), GIF_HEIGHT)
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            self._small.append(Image.fromarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)))
        self._count += 1

    def end(self, keep: bool) -> None:
        self._writer.release()
        if keep:
            write_gif(self.path.with_suffix(".gif"), list(self._small), self.fps / 2)
        else:
            self.path.unlink()


def frames_per_second(env: Any) -> float:
    """Pictures per second: consoles make 60 frames; what repeats nothing has no speed of its own."""
    return 60 / env.spec.action_repeats if env.spec.action_repeats > 1 else 15.0


def frame_of(env: Any, i: int, timestep: Any) -> Any:
    """Environment i as it shows itself, else what the agent sees."""
    picture = env.render(i) if hasattr(env, "render") else None
    return vector_bars(timestep.observation[i]) if picture is None else picture


class TrainingVideoRecorder:
    """Films every so many games of an actor's first environment while they are played, as the agent sees them."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._games = self._steps = 0
        self._reel: VideoWriter | None = None

    def __call__(self, env: Any, timestep: Any, output: Any) -> None:
        """The observation before the action, and what was thought of it."""
        if timestep.is_first[0] and self._games % self._config.reports.video_every_episodes == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-game-{self._games}.mp4"
            self._reel, self._steps = VideoWriter(self._folder / name, fps=frames_per_second(env)), 0
        if self._reel:
            picture = frame_of(env, 0, timestep)
            self._reel.score += float(timestep.reward[0])
            value, logits, action = (np.asarray(x[0]) for x in (output.value, output.logits, output.action))
            thought = PolicyOverlay(self._reel.score, self._steps, float(value), logits, int(action))
            self._reel.add(compose_frame(picture, thought, self._config, env.spec.action_names))
            self._steps += 1
        if not np.isnan(timestep.episode_return[0]):
            self._games += 1
            if self._reel:
                self._reel.end(keep=True)
                logger.info("recorded an episode, return %g: %s and .gif", timestep.episode_return[0], self._reel.path)
                self._reel = None


def vector_bars(observation: Any) -> Any:
    """A picture of a vector, or of an image that is already one."""
    if observation.ndim == 3:
        return np.repeat(observation, 3, axis=-1) if observation.shape[-1] == 1 else observation[..., :3]
    values = np.clip(observation, -3, 3)
    picture = np.full((120, 160, 3), 28, np.uint8)
    width = max(1, 160 // len(values))
    for n, value in enumerate(values[: 160 // width]):
        low, high = sorted((60, 60 - round(value * 18)))
        picture[low : high + 1, n * width : (n + 1) * width - (width > 2)] = 200
    return picture


def compose_frame(picture: Any, thought: PolicyOverlay, config: Config, names: Sequence[str]) -> Any:
    """The picture at HEIGHT with a panel on its right; uint8 [H, W, 3], BGR."""
    width = round(picture.shape[1] * FRAME_HEIGHT / picture.shape[0])
    big = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (width, FRAME_HEIGHT), interpolation=cv2.INTER_NEAREST)
    panel = np.full((FRAME_HEIGHT, PANEL_WIDTH, 3), DARK, np.uint8)
    write = _PanelWriter(panel)
    write.line(config.environment.level_name, WHITE)
    write.line(f"score  {thought.score:g}", WHITE)
    write.line(f"value  {thought.value:.2f}", WHITE)
    write.line(f"step   {thought.step}", GRAY)
    write.gap()
    policy = ALGORITHMS[config.run.algorithm].head == "policy"
    write.line("probability of each action" if policy else "q-value of each action", GRAY)
    shares = _softmax(thought.logits) if policy else _min_max_scaled(thought.logits)
    for number, (share, logit) in enumerate(zip(shares, thought.logits, strict=True)):
        name = names[number] if number < len(names) else str(number)
        write.bar(name, float(share), f"{share:.2f}" if policy else f"{logit:.2f}", number == thought.action)
    return np.concatenate([big, panel], axis=1)


class _PanelWriter:
    """Lines of text and bars, from top to bottom."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._y = panel, 14

    def line(self, text: str, colour: tuple[int, int, int]) -> None:
        self._y += 20
        cv2.putText(self._panel, text, (14, self._y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)

    def gap(self) -> None:
        self._y += 10

    def bar(self, name: str, share: float, number: str, chosen: bool) -> None:
        if self._y > FRAME_HEIGHT - 18:
            return
        colour = BLUE if chosen else GRAY
        self._y += 16
        cv2.putText(self._panel, name[:12], (14, self._y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1, cv2.LINE_AA)
        left, right = 120, 245
        end = left + round((right - left) * min(1.0, max(0.0, share)))
        cv2.rectangle(self._panel, (left, self._y - 9), (end, self._y - 1), colour, -1)
        cv2.putText(self._panel, number, (right + 6, self._y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)


def _softmax(logits: Any) -> Any:
    weights = np.exp(logits - np.max(logits))
    return weights / weights.sum()


def _min_max_scaled(values: Any) -> Any:
    """0 for the smallest, 1 for the largest."""
    return (values - np.min(values)) / max(float(np.ptp(values)), 1e-9)


def write_gif(path: Path, pictures: list[Any], fps: float) -> None:
    """Shortened, from its beginning, until the file is small enough for a README."""
    while True:
        palette = pictures[len(pictures) // 2].quantize(48)
        few = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
        few[0].save(path, save_all=True, append_images=few[1:], duration=1000 / fps, loop=0, optimize=True)
        if path.stat().st_size <= GIF_BYTES or len(pictures) < 10:
            return
        pictures = pictures[len(pictures) // 4 :]
