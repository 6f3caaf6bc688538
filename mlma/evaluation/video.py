"""Videos of episodes as MP4 and a small GIF: best, median and worst episode of an evaluation, and episodes of training.

An evaluation records only actions and network outputs. Afterwards the chosen episodes run again with the same seeds and
actions in environments that render images (mlma.envs.registry.make_for_video); a panel next to the image shows what the
network computed. Not here: running the evaluation (mlma/evaluation/evaluation.py).
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

from mlma.core.actions import part_width
from mlma.core.config import Config
from mlma.core.own_code import find_algorithm
from mlma.core.types import ChoicePart, EnvSpec
from mlma.envs.registry import make_for_video
from mlma.evaluation.evaluation import EpisodeRecording
from mlma.utils.own_files import check_own_folder, make_own_folder
from mlma.utils.side_task import SideTask

logger = logging.getLogger(__name__)

FRAME_HEIGHT, PANEL_WIDTH = 420, 300
GIF_BYTES = 900_000  # maximum size
GIF_HEIGHT = 240
MAX_NAME = 12  # letters of an action, for which there is room
GIF_FRAMES = 120  # maximum, from the end of the episode
WHITE, GRAY, BLUE, DARK = (235, 235, 235), (140, 140, 140), (235, 150, 60), (28, 28, 28)  # BGR


def choose_episodes(returns: Sequence[float]) -> dict[str, int]:
    """The environments with the best, median and worst return; they may be the same one."""
    order = np.argsort(returns, kind="stable")
    return {"best": int(order[-1]), "median": int(order[len(order) // 2]), "worst": int(order[0])}


def render_episodes(
    config: Config, seed: int, recording: EpisodeRecording, returns: Sequence[float], folder: Path
) -> list[Path]:
    """Repeats the recorded evaluation and writes videos of the chosen episodes; `returns` are by environment.

    Returns the paths of the MP4 files: none if the episodes do not have the same returns again.
    """
    chosen = choose_episodes(returns)
    make_own_folder(folder)
    env: Any = make_for_video(config.environment.level_name, len(returns), seed, config.environment)
    writers = {
        i: VideoWriter(folder / f"{name}.mp4", fps=frames_per_second(env)) for name, i in reversed(chosen.items())
    }
    timestep = env.reset()
    for t, action in enumerate(recording.actions):
        active = {i: writer for i, writer in writers.items() if not writer.episode_over}
        for i, writer in active.items():
            value, logits = float(recording.values[t][i]), recording.logits[t][i]
            overlay = PolicyOverlay(writer.episode_return, t, value, logits, action[i])
            writer.add(compose_frame(image_of(env, i, timestep), overlay, config, env.spec))
        timestep = env.step(action)
        for i, writer in active.items():
            writer.episode_return += float(timestep.reward[i])
            writer.episode_over = not np.isnan(timestep.episode_return[i])
        if all(writer.episode_over for writer in writers.values()):
            break
    env.close()
    repeated = all(np.isclose(writer.episode_return, returns[i], atol=1e-3) for i, writer in writers.items())
    for i, writer in writers.items():
        writer.close(keep=repeated)
        if repeated:
            logger.info("%s episode, return %g: %s and .gif", writer.path.stem, returns[i], writer.path)
    if not repeated:
        level_name = config.environment.level_name
        logger.warning("no video: %s is not repeatable with the same seed and actions", level_name)
    return [writer.path for writer in writers.values() if repeated]


class PolicyOverlay(NamedTuple):
    """The contents of the panel next to an image."""

    episode_return: float  # so far
    step: int
    value: float
    logits: Any  # [A]
    action: Any  # int [], or float32 [N]


class VideoWriter:
    """Writes the video of one episode; the GIF gets only its last frames."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self.episode_return, self.episode_over = 0.0, False
        self._writer: Any = None
        self._gif_frames: collections.deque[Any] = collections.deque(maxlen=GIF_FRAMES)
        self._count = 0

    def add(self, frame: Any) -> None:
        """Appends a frame, uint8 [H, W, 3], BGR; every second frame goes to the GIF too."""
        height, width = frame.shape[:2]
        if self._writer is None:
            # MPEG-4 does not play in browsers, which show the GIF; VP9 does, but takes 40 times as long to write.
            self._writer = cv2.VideoWriter(str(self.path), cv2.VideoWriter.fourcc(*"mp4v"), self.fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"{self.path}: OpenCV cannot write it")
        self._writer.write(frame)
        if self._count % 2 == 0:
            size = (round(width * GIF_HEIGHT / height), GIF_HEIGHT)
            small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            self._gif_frames.append(Image.fromarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)))
        self._count += 1

    def close(self, keep: bool) -> None:
        """Finishes the MP4 and writes the GIF, or deletes the MP4."""
        self._writer.release()
        if keep:
            write_gif(self.path.with_suffix(".gif"), list(self._gif_frames), self.fps / 2)
        else:
            self.path.unlink()


def frames_per_second(env: Any) -> float:
    """Real time for consoles, which draw 60 frames per second; 15 for levels without action repeats."""
    return 60 / env.spec.action_repeats if env.spec.action_repeats > 1 else 15.0


def image_of(env: Any, i: int, timestep: Any) -> Any:
    """The rendered image of environment i, or an image of its observation if it cannot render."""
    image = env.render(i) if hasattr(env, "render") else None
    return observation_image(timestep.observation[i]) if image is None else image


def training_video_recorder(config: Config) -> TrainingVideoRecorder:
    """The recorder of an actor. ValueError in one line if the run's folder is not the caller's."""
    folder = Path(config.run.logdir)
    check_own_folder(folder, f"--logdir={folder}", entries=False)
    return TrainingVideoRecorder(config, folder / "videos" / "training")


class TrainingVideoRecorder:
    """Records every `video_every_episodes`-th episode of an actor's first environment, as the agent observes it."""

    def __init__(self, config: Config, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._episodes = self._steps = 0
        self._writer: VideoWriter | None = None
        self._task = SideTask("the video")

    def __call__(self, env: Any, timestep: Any, output: Any) -> None:
        """See mlma.acting.environment_loop.StepObserver. `timestep` is the step that `output` acts from.

        A video that cannot be written, e.g. on a full disk, is given up; the next one is a new attempt.
        """
        # An episode has several first steps where FIRE is pressed after lost lives.
        is_due = self._episodes % self._config.reports.video_every_episodes == 0
        starts = not self._writer and timestep.is_first[0] and is_due
        ends = not np.isnan(timestep.episode_return[0])
        if (starts or self._writer) and not self._task(self._record, env, timestep, output, starts, ends):
            self._writer = None
        self._episodes += ends

    def _record(self, env: Any, timestep: Any, output: Any, starts: bool, ends: bool) -> bool:
        if starts:
            make_own_folder(self._folder)
            name = f"{time.strftime('%Y%m%d-%H%M%S')}-game-{self._episodes}.mp4"
            self._writer, self._steps = VideoWriter(self._folder / name, fps=frames_per_second(env)), 0
        assert self._writer is not None
        image = image_of(env, 0, timestep)
        self._writer.episode_return += float(timestep.reward[0])
        value, logits, action = (np.asarray(x[0]) for x in (output.value, output.logits, output.action))
        overlay = PolicyOverlay(self._writer.episode_return, self._steps, float(value), logits, action)
        self._writer.add(compose_frame(image, overlay, self._config, env.spec))
        self._steps += 1
        if ends:
            self._writer.close(keep=True)
            logger.info("recorded an episode, return %g: %s and .gif", timestep.episode_return[0], self._writer.path)
            self._writer = None
        return True


def observation_image(observation: Any) -> Any:
    """An observation as uint8 [H, W, 3]: the first channels of an image, or a bar for each number of a vector."""
    if observation.ndim == 3:
        return np.repeat(observation, 3, axis=-1) if observation.shape[-1] == 1 else observation[..., :3]
    values = np.clip(observation, -3, 3)
    image = np.full((120, 160, 3), 28, np.uint8)
    width = max(1, 160 // len(values))
    for n, value in enumerate(values[: 160 // width]):
        low, high = sorted((60, 60 - round(value * 18)))
        image[low : high + 1, n * width : (n + 1) * width - (width > 2)] = 200
    return image


def compose_frame(image: Any, overlay: PolicyOverlay, config: Config, spec: EnvSpec) -> Any:
    """The image, scaled to FRAME_HEIGHT, with a panel on its right: uint8 [H, W, 3], BGR."""
    width = round(image.shape[1] * FRAME_HEIGHT / image.shape[0])
    scaled = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (width, FRAME_HEIGHT), interpolation=cv2.INTER_NEAREST)
    panel = np.full((FRAME_HEIGHT, PANEL_WIDTH, 3), DARK, np.uint8)
    writer = _PanelWriter(panel)
    writer.line(config.environment.level_name, WHITE)
    writer.line(f"return {overlay.episode_return:g}", WHITE)
    writer.line(f"value  {overlay.value:.2f}", WHITE)
    writer.line(f"step   {overlay.step}", GRAY)
    writer.gap()
    if spec.action_parts:
        _write_real_action(writer, overlay, spec)
        return np.concatenate([scaled, panel], axis=1)
    has_policy = find_algorithm(config.run.algorithm).head == "policy"
    writer.line("probability of each action" if has_policy else "q-value of each action", GRAY)
    shares = _softmax(overlay.logits) if has_policy else _min_max_scaled(overlay.logits)
    for action, (share, logit) in enumerate(zip(shares, overlay.logits, strict=True)):
        name = spec.action_names[action] if action < len(spec.action_names) else str(action)
        writer.bar(name, float(share), f"{share:.2f}" if has_policy else f"{logit:.2f}", action == overlay.action)
    return np.concatenate([scaled, panel], axis=1)


def _write_real_action(writer: _PanelWriter, overlay: PolicyOverlay, spec: EnvSpec) -> None:
    """A bar for each element of the action; its full length is from -1 to 1, or all alternatives of a choice."""
    writer.line("the action", GRAY)
    parts = [part for part in spec.action_parts for _ in range(part_width(part))]  # of each element
    for n, (number, part) in enumerate(zip(overlay.action, parts, strict=True)):
        if isinstance(part, ChoicePart):
            writer.bar(str(n), float(number / max(1, part.alternatives - 1)), f"{number:.0f}", True)
        else:
            writer.bar(str(n), float((number + 1) / 2), f"{number:.2f}", True)


class _PanelWriter:
    """Writes lines of text and bars from top to bottom."""

    def __init__(self, panel: Any) -> None:
        self._panel, self._y = panel, 14

    def line(self, text: str, color: tuple[int, int, int]) -> None:
        """A line of text."""
        self._y += 20
        cv2.putText(self._panel, text, (14, self._y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)

    def gap(self) -> None:
        """Half an empty line."""
        self._y += 10

    def bar(self, name: str, share: float, number: str, highlighted: bool) -> None:
        """A named bar of length `share` in [0, 1]; nothing if the panel is full."""
        if self._y > FRAME_HEIGHT - 18:
            return
        color = BLUE if highlighted else GRAY
        self._y += 16
        cv2.putText(self._panel, short_name(name), (14, self._y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)
        left, right = 120, 245
        end = left + round((right - left) * min(1.0, max(0.0, share)))
        cv2.rectangle(self._panel, (left, self._y - 9), (end, self._y - 1), color, -1)
        cv2.putText(self._panel, number, (right + 6, self._y), cv2.FONT_HERSHEY_SIMPLEX, 0.38, color, 1, cv2.LINE_AA)


def short_name(name: str) -> str:
    """A name of at most MAX_NAME letters: words before the last lose all but their first letter, so that names that
    differ at the end still do."""
    *words, last = name.split("_")
    for index in range(len(words)):
        if len("_".join([*words, last])) <= MAX_NAME:
            break
        words[index] = words[index][:1]
    return "_".join([*words, last])[:MAX_NAME]


def _softmax(logits: Any) -> Any:
    weights = np.exp(logits - np.max(logits))
    return weights / weights.sum()


def _min_max_scaled(values: Any) -> Any:
    """0 for the smallest, 1 for the largest."""
    return (values - np.min(values)) / max(float(np.ptp(values)), 1e-9)


def write_gif(path: Path, images: list[Any], fps: float) -> None:
    """Writes a GIF; drops images from its beginning until the file has at most GIF_BYTES."""
    while True:
        palette = images[len(images) // 2].quantize(48)
        few_colors = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
        few_colors[0].save(
            path, save_all=True, append_images=few_colors[1:], duration=1000 / fps, loop=0, optimize=True
        )
        if path.stat().st_size <= GIF_BYTES or len(images) < 10:
            return
        images = images[len(images) // 4 :]
