"""Prints into a stream that takes nothing: no error, one line elsewhere, and whole lines once it takes some again."""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path

import pytest
from rich.console import Console
from rich.live import Live

from mlma.monitoring.run_log import setup_logging
from mlma.utils import console_streams
from mlma.utils.console_streams import ForgivingStream


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any descriptor may stand for standard output here."""
    monkeypatch.setattr(console_streams, "NAMES", dict.fromkeys(range(1024), "standard output"))


def wait_for_messages() -> None:
    """Until the threads that log a problem have ended."""
    for thread in threading.enumerate():
        if thread.name == "stream-problem":
            thread.join(10)


def test_lines_are_lost_as_a_whole_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mlma")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = ForgivingStream(writer, "utf-8")
    for number in range(2000):
        print("x" * 99, number, file=stream, flush=True)
    wait_for_messages()
    assert caplog.messages == ["standard output failed: Resource temporarily unavailable; training continues"]
    received = os.read(reader, 10**6)
    print("after", file=stream)
    wait_for_messages()
    received += os.read(reader, 10**6)
    lines = received.decode().splitlines()
    lost = 2000 - len([line for line in lines[:-2] if line])
    assert lines[-1] == "after" and lines[0] == "x" * 99 + " 0"
    assert abs(lost - int(caplog.messages[1].split("; ")[1].split()[0])) <= 1
    os.close(reader)
    os.close(writer)


def test_a_live_table_survives_a_pipe_without_reader() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = Console(file=ForgivingStream(writer, "utf-8"), force_terminal=True)  # type: ignore[arg-type]
    with Live("table", console=console, auto_refresh=False) as live:
        live.update("more", refresh=True)
        console.print("a line")
    wait_for_messages()
    os.close(writer)


def test_a_failing_log_file_is_named_on_the_console_and_the_other_way_round(tmp_path: Path) -> None:
    shown: list[str] = []
    loggers = [logging.getLogger(name) for name in ("mlma", "agents")]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    try:
        setup_logging(show=shown.append, event_file=tmp_path / "missing" / "events.log", timestamps=False)
        for number in range(3):
            loggers[0].info("line %d", number)
        assert len(shown) == 4 and [line for line in shown if "events.log failed: " in line] == shown[1:2]
        (tmp_path / "missing").mkdir()
        loggers[0].info("line 3")
        assert shown[-1] == "events.log works again, after 4 failures", "three lines and their own warning"

        def broken(line: str) -> None:
            raise io.UnsupportedOperation("not here")

        setup_logging(show=broken, event_file=tmp_path / "events.log")
        for number in range(3):
            loggers[0].info("line %d", number)
        text = (tmp_path / "events.log").read_text()
        assert text.count("the console failed: ") == 1 and text.count(" line ") == 3
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
