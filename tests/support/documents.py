"""The commands in the documents: every logical line of every shell block."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.support.runs import ROOT

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("sandbox/**/*.md"), *ROOT.glob("docker/**/*.md")]
)
SHELLS = ("bash", "sh", "shell", "console")


class Command(NamedTuple):
    """One command, or a whole block whose commands run at the same time."""

    document: str
    text: str


def blocks(text: str) -> list[str]:
    """The contents of shell blocks; other blocks are skipped, however they are marked."""
    found: list[list[str]] = []
    language: str | None = None
    for line in text.splitlines():
        if fence := re.match(r"\s*```(\w*)", line):
            language = None if language is not None else fence[1]
            if language in SHELLS:
                found.append([])
        elif language in SHELLS:
            found[-1].append(line)
    return ["\n".join(lines) for lines in found]


def commands(path: Path) -> list[Command]:
    """The commands of a document, in order."""
    name, made = path.relative_to(ROOT).as_posix(), []
    for block in blocks(path.read_text()):
        joined = block.replace("\\\n", " ")
        lines = [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()]
        lines = [line for line in lines if line and not line.startswith("#")]
        if any(line.endswith("&") for line in lines):
            lines = ["\n".join(lines)]
        made += [Command(name, re.sub(r" +", " ", line)) for line in lines]
    return made


ALL_COMMANDS = [command for path in DOCUMENTS for command in commands(path)]
