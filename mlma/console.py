"""What a terminal shows of a run: a live table with a progress bar, or plain lines where nobody watches."""

from __future__ import annotations

import math
import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mlma.metrics import Row

SECTIONS = {
    "speed": ("frames_per_second", "learner_steps_per_second", "queue/fill", "learner/wait", "actors/wait"),
    "episodes": ("return/mean", "return/median", "return/max", "episode_frames", "episodes"),
    "learning": ("policy/entropy", "loss/policy", "loss/value", "gradient_norm", "learning_rate"),
    "off-policy": ("lag/mean", "lag/max", "vtrace/rho_mean", "vtrace/rho_clipped", "value/mean"),
}
SHARES = ("queue/fill", "learner/wait", "actors/wait", "vtrace/rho_clipped")


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def number(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "-"
    if name in SHARES:
        return f"{100 * value:.0f} %"
    if name in ("return/mean", "return/median", "return/max"):
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Screen:
    """A writer of rows. `say` prints a line above the table."""

    def __init__(self, title: str, total_frames: float) -> None:
        self._title, self._total = title, total_frames
        self._console = Console(stderr=False, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, line: str) -> None:
        if self._live:
            self._console.print(Text(f"{time.strftime('%H:%M:%S')} {line}"))
        else:
            print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)

    def __call__(self, row: Row) -> None:
        if self._live:
            self._live.update(self._table(row), refresh=True)
        else:
            print(self.line(row), flush=True)

    def line(self, row: Row) -> str:
        """One report as one line."""
        return (
            f"{time.strftime('%H:%M:%S')} {row['frames']:>12,.0f} frames ({100 * row['frames'] / self._total:5.1f} %)"
            f"  {row['frames_per_second']:>7,.0f} frames/s  return {number('return/mean', row['return/mean'])}"
            f" (last {min(100, int(row['episodes']))})  entropy {number('', row.get('policy/entropy', math.nan))}"
            f"  lag {number('', row.get('lag/mean', math.nan))}"
            f"  learner waits {number('learner/wait', row.get('learner/wait', math.nan))}  left {duration(row['eta_seconds'])}"
        )

    def _table(self, row: Row) -> Group:
        table = Table.grid(padding=(0, 2))
        for _ in SECTIONS:
            table.add_column(style="dim")
            table.add_column(justify="right", min_width=8)
        table.add_row(*[cell for title in SECTIONS for cell in (Text(title, style="bold not dim"), "")])
        for names in zip(*SECTIONS.values(), strict=True):
            cells = [(name.replace("_", " "), number(name, row.get(name, math.nan))) for name in names]
            table.add_row(*[text for cell in cells for text in cell])
        head = Text.assemble(
            (self._title, "bold"), f"   {row['frames']:,.0f} of {self._total:,.0f} frames"
            f"   {duration(row['seconds'])} gone, {duration(row['eta_seconds'])} left",
        )  # fmt: skip
        width = min(self._console.width, 100)
        return Group(head, ProgressBar(total=self._total, completed=row["frames"], width=width), table)


def error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
