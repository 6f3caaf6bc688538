"""What the documents promise: every command line of ours in them is accepted, every file that they link exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mlma.core.config import parse
from tests.support.runs import ROOT

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sandbox/**/*.md"), *ROOT.glob("docker/**/*.md")]


def commands(text: str) -> list[str]:
    """What follows experiment.py in code, in a block or between backticks; rows of what is "not yet" there aside."""
    text = "\n".join(line for line in text.splitlines() if "not yet" not in line)
    code = "\n".join(re.findall(r"```(?:bash)?\n(.*?)```", text, flags=re.S) + re.findall(r"(?<!`)`([^`]+)`(?!`)", text))
    code = code.replace("\\\n", " ")
    return [found.strip() for found in re.findall(r"experiment(?:\.py)?((?: +-{1,2}[^#&\n|;`]*)+)", code)]


LINES = sorted({(path.relative_to(ROOT).as_posix(), line) for path in DOCUMENTS for line in commands(path.read_text())})


@pytest.mark.parametrize(("document", "line"), LINES)
def test_each_documented_command_line_is_accepted(document: str, line: str) -> None:
    words = shlex.split(line.replace("$i", "0").replace("=...", "=catch"))
    parse([word for word in words if word not in ("...", "--help") and not word.startswith("--config=")])


def test_there_are_commands_in_the_documents() -> None:
    assert len(LINES) > 15


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"
