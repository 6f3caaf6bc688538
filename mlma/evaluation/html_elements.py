"""HTML building blocks of the report page: escaped text, numbers, sections, tiles, figures, tables.

Not here: the contents of the page (mlma/evaluation/html_report.py), its style (mlma/evaluation/report.css).
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

STYLE = (Path(__file__).parent / "report.css").read_text()
UNKNOWN = "–"  # shown for a number that is not finite


def escape(text: object) -> str:
    """Text that is safe in HTML, also in attributes."""
    return html.escape(str(text))


def format_number(value: float) -> str:
    """A number with about three significant digits and units G and M."""
    if not math.isfinite(value):
        return UNKNOWN
    for unit, name in ((1e9, " G"), (1e6, " M")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def format_percent(share: float) -> str:
    """A share in [0, 1] as a percentage."""
    return f"{100 * share:.0f} %" if math.isfinite(share) else UNKNOWN


def page(title: str, parts: Sequence[str]) -> str:
    """A complete document that loads nothing."""
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def section(title: str, body: str) -> str:
    """A heading and its body; nothing if the body is empty."""
    return f"<h2>{title}</h2>\n{body}" if body else ""


def note(text: str) -> str:
    """A paragraph in small gray text."""
    return f"<p class='dim'>{escape(text)}</p>"


class Tile(NamedTuple):
    """One number of the summary."""

    value: str
    label: str
    is_bad: bool = False


def tiles(items: Sequence[Tile]) -> str:
    """The summary at the top of the page."""
    cells = (
        f"<div class='tile {'bad' if is_bad else ''}'><b>{escape(value)}</b><span>{escape(label)}</span></div>"
        for value, label, is_bad in items
    )
    return f"<div class='tiles'>{''.join(cells)}</div>"


def figure(title: str, data: bytes, kind: str, remark: str = "") -> str:
    """An embedded image with a caption. `kind` is its MIME type, such as image/gif."""
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    remark = f" <span class='dim'>{escape(remark)}</span>" if remark else ""
    return (
        f"<figure><figcaption>{escape(title)}{remark}</figcaption><img alt='{escape(title)}' src='{source}'></figure>"
    )


def grid(figures: Sequence[str]) -> str:
    """Figures side by side, as many as fit."""
    return f"<div class='grid'>{''.join(figures)}</div>" if figures else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", bad: Sequence[bool] = ()) -> str:
    """A table with CSS class `kind`; `bad[i]` marks row i. Nothing without rows."""
    if not rows:
        return ""
    body = "".join(
        f"<tr{' class=bad' if is_bad else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row, is_bad in zip(rows, bad or [False] * len(rows), strict=True)
    )
    top = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>" if head else ""
    return f"<div class='scroll'><table class='{kind}'>{top}{body}</table></div>"
