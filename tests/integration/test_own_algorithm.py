"""An algorithm is one file and one line: adds one to a copy of the code and trains with it.

The file is the listing in docs/guides/own_algorithm.md, and so is the line in mlma/core/catalog.py.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from tests.support.runs import ROOT, Process, rows

GUIDE = ROOT / "docs" / "guides" / "own_algorithm.md"
CATALOG = Path("mlma") / "core" / "catalog.py"


def listings() -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.S)


def test_the_guides_file_and_line_are_an_algorithm_that_learns_catch(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "mlma", checkout / "mlma", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "agents", checkout / "agents", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "experiment.py", checkout)
    (agent,) = [code for code in listings() if "class A2C" in code]
    (line,) = [code for code in listings() if "Algorithm(" in code and "class" not in code]
    (checkout / "agents" / "a2c.py").write_text(agent)
    catalog = (checkout / CATALOG).read_text()
    table = "ALGORITHMS: dict[str, Algorithm] = {\n"
    assert catalog.count(table) == 1
    (checkout / CATALOG).write_text(catalog.replace(table, table + line))
    logdir = tmp_path / "run"
    command = [sys.executable, str(checkout / "experiment.py")]
    flags = ["--algorithm=a2c", "--level_name=catch", "--sample_reuse=1", "--num_actors=1", "--report_every_seconds=1"]
    with Process(
        tmp_path, "run", *flags, "--total_environment_frames=4e5", f"--logdir={logdir}", command=command
    ) as run:
        assert run.wait(240) == 0, run.text()
    assert rows(logdir)[-1]["return/mean"] > 0.7
