"""Imports run one way. Read from the source, wherever in a file they stand."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*ROOT.glob("mlma/**/*.py"), *ROOT.glob("agents/**/*.py"), *ROOT.glob("*.py")]
}
ENTRY_POINTS = {
    "benchmarks.roofline",
    "benchmarks.allreduce",
    "benchmarks.replay",
    "benchmarks.inference",
}  # wire the parts like experiment.py
MACHINE = sorted(name for name in FILES if name.split(".")[0] == "mlma" and name not in ENTRY_POINTS)


def imports(name: str) -> set[str]:
    """What the file of this module imports: modules, and names in them, which may be modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reached(name: str) -> set[str]:
    """Everything that importing this module imports, through our own files."""
    todo, found = [name], {name}
    while todo:
        for other in imports(todo.pop()) - found:
            found.add(other)
            if other in FILES:
                todo.append(other)
    return found


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def test_the_records_import_nothing_of_ours() -> None:
    assert packages(imports("mlma.core.types")) & {"mlma", "agents", "experiment"} == set()


@pytest.mark.parametrize("name", MACHINE)
def test_the_machine_does_not_know_the_papers(name: str) -> None:
    assert packages(imports(name)) & {"agents", "experiment"} == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_only_one_file_imports_horovod(name: str) -> None:
    assert name == "mlma.distributed.allreduce" or "horovod" not in packages(imports(name))


def test_an_actor_never_imports_horovod() -> None:
    found = reached("mlma.acting.environment_loop")
    assert "mlma.core.record_layout" in found
    assert "mlma.core.types" in found
    assert "horovod" not in packages(found)
    assert "mlma.distributed.allreduce" not in found


def test_a_typo_is_answered_before_tensorflow_is_imported() -> None:
    assert packages(reached("mlma.core.config.config")) & {"tensorflow", "sonnet", "numpy"} == set()


def test_equations_networks_and_environments_do_not_know_the_loops() -> None:
    loops = {
        "mlma.acting.environment_loop",
        "mlma.learning.learner",
        "mlma.transport.server",
        "mlma.replay.trajectory_queue",
        "mlma.replay.prioritized_replay",
        "mlma.roles.evaluator",
    }
    for name in [
        "agents.ops.vtrace",
        "agents.ops.value_learning",
        *(n for n in FILES if n.split(".")[0] == "agents"),
        *(n for n in MACHINE if n.startswith("mlma.envs")),
    ]:
        assert reached(name) & loops == set(), name
