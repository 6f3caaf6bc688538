"""All presets side by side: the text of --preset=help. Its values are those for Atari; other levels: resolve.py."""

from __future__ import annotations

from typing import Any

from mlma.core.catalog import ALGORITHMS
from mlma.core.config import flag_table
from mlma.core.presets.papers import FAST, PAPER_PRESETS

NOT_SET = "-"


def preset_columns() -> dict[str, dict[str, Any]]:
    """Name -> values by flag, in the order of the flags; `fast` has a column for each algorithm."""
    columns = {
        f"{FAST}: {name}": {"algorithm": name, **algorithm.presets.images} for name, algorithm in ALGORITHMS.items()
    }
    columns |= {name: preset.flags() for name, preset in PAPER_PRESETS.items()}
    return {title: {flag: values[flag] for flag in flag_table() if flag in values} for title, values in columns.items()}


def preset_table() -> list[list[str]]:
    """Rows of text: the names of the presets, then each flag that one of them sets."""
    columns, table = preset_columns(), flag_table()
    rows = [["flag", *columns]]
    for name, flag in table.items():
        values = [_shown(flag.format(values[name])) if name in values else NOT_SET for values in columns.values()]
        if any(value != NOT_SET for value in values):
            rows.append([name, *values])
    return rows


def preset_help() -> str:
    """The text of --preset=help."""
    rows = preset_table()
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "--preset is one of these; a flag that is given takes precedence. The values are those for Atari games.",
        "",
    ]
    lines += [f"  {FAST}: for a few cores, by algorithm and level"]
    lines += [f"  {name}: {preset.title} ({preset.paper})" for name, preset in PAPER_PRESETS.items()]
    lines += [
        "",
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    lines += ["", f"{NOT_SET}: not set by the preset. Sources of the papers' values: docs/reference/presets.md."]
    return "\n".join(lines)


def _shown(value: str) -> str:
    """A number in its shortest usual form."""
    try:
        number = float(value)
    except ValueError:
        return value
    return f"{number:.5g}" if abs(number) < 1e5 else f"{number:.4g}".replace("e+0", "e").replace("e+", "e")
