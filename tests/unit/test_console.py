"""The console of a run: one line a report in a pipe, a live table on a terminal, and the returns of several levels."""

from __future__ import annotations

import math
from typing import Any

import pytest
from rich.console import Console

from mlma.monitoring.console import ConsoleDisplay, level_returns

BASE: dict[str, float] = {
    "frames": 500, "frames_per_second": 100.0, "seconds": 5.0, "eta_seconds": 5.0, "episodes": 7, "return/mean": 1.5,
}  # fmt: skip
LEVELS = {"level_return/atari_pong": -20.5, "level_score/atari_pong": 0.6, "level_return/catch": 0.25}


def test_a_plain_run_says_the_return_of_each_level_once_a_minute(
    capsys: pytest.CaptureFixture[str],
) -> None:
    display = ConsoleDisplay("impala", 1000, plain=True)
    for seconds in (0.0, 5.0, 59.0, 61.0):
        display.on_report(BASE | LEVELS | {"seconds": seconds})
    display.close(finished=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if "returns of" in line]
    assert len(lines) == 3, "the first report, one after a minute, and the end"
    assert all(line[9:] == "returns of 2 levels: atari_pong -20.50 (1 %), catch 0.25" for line in lines)


def test_a_run_of_one_level_has_no_such_line(capsys: pytest.CaptureFixture[str]) -> None:
    display = ConsoleDisplay("impala", 1000, plain=True)
    display.on_report(BASE)
    display.close(finished=True)
    assert "returns of" not in capsys.readouterr().out


@pytest.mark.parametrize("num_levels", [2, 57])
def test_the_live_table_has_the_return_of_every_level(num_levels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    display: Any = ConsoleDisplay("impala", 1000, plain=True)
    display._console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    row = BASE | {f"level_return/level_{n}": n + 0.5 for n in range(num_levels)}
    display._console.print(display._table(row))
    text = display._console.export_text()
    assert all(f"level_{n} " in text and f"{n}.50" in text for n in range(num_levels))
    assert len(text.splitlines()) <= 10 + math.ceil(num_levels / 3)
    assert level_returns(BASE) == []
