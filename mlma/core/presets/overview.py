"""All presets side by side: the text of --preset=help. Its values are those for Atari; other levels: resolve.py."""

from __future__ import annotations

from typing import Any

from mlma.core.catalog import ALGORITHMS
from mlma.core.config import flag_table
from mlma.core.presets.papers import FAST, PAPER_PRESETS

NOT_SET = "-"
SUITE = "atari"  # whose values are shown
Table = list[list[str]]  # rows of text; the first one is the header


def preset_tables() -> dict[str, Table]:
    """Algorithms -> a row for each flag that one of their presets sets, a column for each preset."""
    with_queue = [name for name, algorithm in ALGORITHMS.items() if not algorithm.uses_replay]
    with_replay = [name for name, algorithm in ALGORITHMS.items() if algorithm.uses_replay]
    return {", ".join(names): _table(names) for names in (with_queue, with_replay)}


def preset_help() -> str:
    """The text of --preset=help."""
    lines = [
        "--preset is one of these; a flag that is given takes precedence. The values are those for Atari games.",
        "",
    ]
    lines += [f"  {FAST}: for a few cores, by algorithm and level; the default"]
    lines += [f"  {name}: {preset.title} ({preset.paper})" for name, preset in PAPER_PRESETS.items()]
    for rows in preset_tables().values():
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", *("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)]
    lines += ["", f"{NOT_SET}: not set by the preset. Sources of the papers' values: docs/reference/presets.md."]
    return "\n".join(lines)


def _table(algorithms: list[str]) -> Table:
    columns: dict[str, dict[str, Any]] = {}
    for algorithm in algorithms:
        title = FAST if len(algorithms) == 1 else f"{FAST}: {algorithm}"
        presets = ALGORITHMS[algorithm].presets
        columns[title] = {"algorithm": algorithm, **presets.images, **presets.suites.get(SUITE, {})}
        columns |= {name: preset.flags() for name, preset in PAPER_PRESETS.items() if preset.algorithm == algorithm}
    rows = [["flag", *columns]]
    for name, flag in flag_table().items():
        if any(name in values for values in columns.values()):
            cells = [_shortest(flag.format(values[name])) if name in values else NOT_SET for values in columns.values()]
            rows.append([name, *cells])
    return rows


def _shortest(value: str) -> str:
    """A number in its shortest usual form."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.5g}" if abs(number) < 1e5 else f"{number:.4g}".replace("e+0", "e").replace("e+", "e")
