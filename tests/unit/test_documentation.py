"""What the documents promise: accepted commands, links that lead somewhere, reference pages that are up to date.

Running the commands is tests/integration/test_documented_commands.py.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.cluster.options import parse_invocation
from mlma.core import config
from tests.support.documents import ALL_COMMANDS, DOCUMENTS
from tests.support.runs import ROOT

FORMER = {
    "bench": "benchmarks.roofline", "bench_scale": "benchmarks.scaling", "bench_allreduce": "benchmarks.allreduce",
    "bench_inference": "benchmarks.inference", "bench_replay": "benchmarks.replay", "plots": "mlma.evaluation.plot",
    "health": "mlma.monitoring.health_check",
}  # fmt: skip


def command_lines(program: str, text: str) -> list[str]:
    """What follows `program` in blocks of code and between backticks."""
    code = "\n".join(re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text))
    return [found.strip() for found in re.findall(rf"{program}((?: +-{{1,2}}[^#&\n|;`<:]*)+)", code)]


def lines_of(program: str) -> list[tuple[str, str]]:
    found = {
        (path.relative_to(ROOT).as_posix(), line)
        for path in DOCUMENTS
        for line in command_lines(program, path.read_text())
    }
    for command in ALL_COMMANDS:
        for match in re.finditer(rf"(?<!\w){program}((?: +[\w-](?:[^#&\n|;`<:]|:(?=\w))*)*)", command.text):
            found.add((command.document, match[1].strip()))
    return sorted(found)


TRAINING = lines_of(r"experiment(?:\.py)?")
FRONTEND = lines_of(r"run_experiment_mm_raw\.py")
MODULES = sorted(
    {(c.document, name) for c in ALL_COMMANDS for name in re.findall(r"-m ((?:mlma|benchmarks)[\w.]*)", c.text)}
)
TARGETS = sorted(
    {(c.document, name) for c in ALL_COMMANDS for name in re.findall(r"^make ((?:[a-z0-9-]+ ?)+)", c.text)}
)


def words_of(line: str) -> list[str]:
    words = shlex.split(re.sub(r"\$\w+|\.\.\.", "", line.replace("$i", "0").replace("=...", "=catch")))
    return [word for word in words if word not in ("--help",) and not word.startswith("--config=")]


@pytest.mark.parametrize(("document", "line"), TRAINING)
def test_each_documented_training_command_is_accepted(document: str, line: str) -> None:
    config.parse(words_of(line))


@pytest.mark.parametrize(("document", "line"), FRONTEND)
def test_each_documented_command_of_the_frontend_is_accepted(document: str, line: str) -> None:
    parse_invocation(words_of(line))


@pytest.mark.parametrize(("document", "name"), MODULES)
def test_each_documented_module_exists(document: str, name: str) -> None:
    assert importlib.util.find_spec(name), f"{document}: python -m {name}"


@pytest.mark.parametrize(("document", "names"), TARGETS)
def test_each_documented_target_of_make_exists(document: str, names: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in names.split():
        assert re.search(rf"^{name}:", makefile, flags=re.M), f"{document}: make {name}"


def test_there_are_commands_in_the_documents() -> None:
    assert len(TRAINING) > 30 and len(FRONTEND) > 8 and len(MODULES) > 5 and len(TARGETS) > 10


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_every_test_in_the_list_of_regressions_exists() -> None:
    tests = re.findall(r"([\w/]+\.py)::(test_\w+)", (ROOT / "docs" / "regressions.md").read_text())
    assert len(tests) >= 40
    for file, name in tests:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_the_reference_pages_are_those_of_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "tools/reference_pages.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("former", FORMER)
def test_a_former_command_names_its_successor(former: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"mlma.{former}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"python -m mlma.{former} is now: python -m {FORMER[former]}\n"
    assert importlib.util.find_spec(FORMER[former])
