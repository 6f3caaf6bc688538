"""The console of a run: a live table with a progress bar on a terminal, plain lines in a file or pipe.

Not here: what is reported (mlma/monitoring/metrics.py), the log (mlma/monitoring/run_log.py).
"""

from __future__ import annotations

import collections
import math
import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlma.monitoring.bottleneck import RECENT_REPORTS, average_columns, diagnose
from mlma.monitoring.metrics import Row

SECTIONS = {  # title -> (label, column of metrics.csv)
    "speed": (
        ("frames/s", "frames_per_second"),
        ("steps/s", "learner_steps_per_second"),
        ("queue full", "queue/fill"),
        ("learner waits", "learner/wait"),
        ("actors wait", "actors/wait"),
    ),
    "last 100 episodes": (
        ("mean return", "return/mean"),
        ("median", "return/median"),
        ("max", "return/max"),
        ("frames", "episode_frames"),
        ("all episodes", "episodes"),
    ),
    "learning": (
        ("entropy", "policy/entropy"),
        ("policy loss", "loss/policy"),
        ("value loss", "loss/value"),
        ("gradient norm", "gradient_norm"),
        ("learning rate", "learning_rate"),
    ),
    "off-policy": (
        ("lag mean", "lag/mean"),
        ("lag max", "lag/max"),
        ("rho mean", "vtrace/rho_mean"),
        ("rho clipped", "vtrace/rho_clipped"),
        ("value mean", "value/mean"),
    ),
}
SHARES = ("queue/fill", "learner/wait", "actors/wait", "vtrace/rho_clipped")
WIDE_COLUMNS = 104  # terminal columns that all sections need next to each other
BAR_COLUMNS = 60
REPEAT_SECONDS = 60.0  # after which plain lines repeat an unchanged bottleneck, and the returns of several levels
LEVEL_RETURN, LEVEL_SCORE = "level_return/", "level_score/"  # columns of runs with several levels
LEVELS_SIDE_BY_SIDE = 3


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds; "?" if unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def format_number(name: str, value: float) -> str:
    """The value of a column, in the format of that column."""
    if not math.isfinite(value):
        return "-"
    if name in SHARES:
        return f"{100 * value:.0f} %"
    if name.startswith("return/"):
        return f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class ConsoleDisplay:
    """A report listener that prints. On a terminal and unless `plain`, lines of the log appear above a live table.
    Without `reports`, only lines are printed, for another process shows the reports.

    What cannot be printed is lost: see mlma/utils/console_streams.py.
    """

    name = "the console"

    def __init__(self, title: str, total_frames: float, plain: bool = False, reports: bool = True) -> None:
        self._title, self._total = title, total_frames
        self._recent: collections.deque[Row] = collections.deque(maxlen=RECENT_REPORTS)
        self._verdict, self._shown_at = "", -math.inf  # bottleneck that was printed last, and when
        self._levels_shown_at = -math.inf
        self._last_row: Row = {}
        self._shows_reports = reports
        self._console = Console(stderr=False, highlight=False)
        is_live = self._console.is_terminal and not plain
        self._live = Live(console=self._console, auto_refresh=False) if is_live else None

    def __enter__(self) -> ConsoleDisplay:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, line: str) -> None:
        """Prints a line of the log."""
        if self._live:
            self._console.print(Text(line))
        else:
            print(line, flush=True)

    def on_report(self, row: Row) -> None:
        """Shows the report; the bottleneck, too, on a terminal, when it changes, and every REPEAT_SECONDS."""
        self._recent.append(row)
        self._last_row = row
        if not self._shows_reports:
            return
        diagnosis = diagnose(average_columns(self._recent))
        if self._live:
            self._live.update(Group(self._table(row), Text(diagnosis, style="italic")), refresh=True)
            return
        print(self.line(row), flush=True)
        verdict = diagnosis.partition(":")[0]
        if diagnosis and (verdict != self._verdict or row["seconds"] - self._shown_at > REPEAT_SECONDS):
            self._verdict, self._shown_at = verdict, row["seconds"]
            self.show(f"{time.strftime('%H:%M:%S')} {diagnosis}")
        if row["seconds"] - self._levels_shown_at > REPEAT_SECONDS:
            self._show_levels(row)

    def close(self, finished: bool) -> None:
        """Prints how each of several levels ended; the display ends with its `with` block."""
        self._show_levels(self._last_row)

    def _show_levels(self, row: Row) -> None:
        if levels := level_returns(row):
            self._levels_shown_at = row["seconds"]
            self.show(
                f"{time.strftime('%H:%M:%S')} returns of {len(levels)} levels: {', '.join(map(' '.join, levels))}"
            )

    def line(self, row: Row) -> str:
        """One report as one line."""
        return (
            f"{time.strftime('%H:%M:%S')} {row['frames']:>12,.0f} frames ({100 * row['frames'] / self._total:5.1f} %)"
            f"  {row['frames_per_second']:>7,.0f} frames/s  return {format_number('return/mean', row['return/mean'])}"
            f" (last {min(100, int(row['episodes']))}){self._levels(row)}  {self._algorithm(row)}"
            f"  lag {format_number('', row.get('lag/mean', math.nan))}"
            f"  learner waits {format_number('learner/wait', row.get('learner/wait', math.nan))}"
            f"  left {format_duration(row['eta_seconds'])}"
        )

    def _levels(self, row: Row) -> str:
        if "score/mean" not in row:
            return ""
        mean, median = f"mean {row['score/mean']:.1f} %", f"median {row['score/median']:.1f} %"
        return f"  human-normalised: {mean}, {median} ({row['score/levels']} levels)"

    def _algorithm(self, row: Row) -> str:
        if "replay/ratio" in row:
            greedy = format_number("return/greedy", row.get("return/greedy", math.nan))
            fill = format_number("queue/fill", row["queue/fill"])
            return f"greedy {greedy}  replay {fill} full, ratio {row['replay/ratio']:.2f}"
        return f"entropy {format_number('', row.get('policy/entropy', math.nan))}"

    def _table(self, row: Row) -> Group:
        wide = self._console.width >= WIDE_COLUMNS
        titles = list(SECTIONS)
        groups = [titles] if wide else [titles[:2], titles[2:]]
        tables = [_section_table(group, row) for group in groups]
        elapsed, left = format_duration(row["seconds"]), format_duration(row["eta_seconds"])
        head = Text(f"{self._title}   {elapsed} elapsed, {left} left", style="bold")
        done = min(1.0, row["frames"] / self._total)
        filled = round(BAR_COLUMNS * done)
        bar = Text.assemble(("━" * filled, "green"), ("─" * (BAR_COLUMNS - filled), "dim"), f" {100 * done:.1f} %")
        frames = Text(f"{row['frames']:,.0f} of {self._total:,.0f} frames", style="dim")
        return Group(head, bar, frames, *tables, *_level_tables(row))


def level_returns(row: Row) -> list[tuple[str, str]]:
    """Each of several levels with its mean return, and its human-normalised score if that is known."""
    found = []
    for name in (column.removeprefix(LEVEL_RETURN) for column in row if column.startswith(LEVEL_RETURN)):
        score = row.get(LEVEL_SCORE + name, math.nan)
        text = format_number("return/", row[LEVEL_RETURN + name])
        found.append((name, text if math.isnan(score) else f"{text} ({score:.0f} %)"))
    return found


def _level_tables(row: Row) -> list[Table]:
    """The returns of several levels, column by column; nothing for one level."""
    if not (levels := level_returns(row)):
        return []
    table = Table.grid(padding=(0, 1))
    height = -(-len(levels) // LEVELS_SIDE_BY_SIDE)
    for _ in range(LEVELS_SIDE_BY_SIDE):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
    for line in range(height):
        table.add_row(*[cell for entry in levels[line::height] for cell in entry])
    return [table]


def _section_table(titles: list[str], row: Row) -> Table:
    """A table with these sections next to each other."""
    table = Table.grid(padding=(0, 1))
    for _ in titles:
        table.add_column(style="dim", min_width=13, no_wrap=True)
        table.add_column(justify="right", min_width=9, no_wrap=True)
    table.add_row(*[cell for title in titles for cell in (Text(title, style="bold not dim"), "")])
    for entries in zip(*(SECTIONS[title] for title in titles), strict=True):
        table.add_row(
            *[text for label, name in entries for text in (label, format_number(name, row.get(name, math.nan)))]
        )
    return table


def print_error(line: str) -> None:
    """Prints a line to standard error."""
    print(line, file=sys.stderr, flush=True)
