"""The rules of the layout, read from the source: imports point down, files stay small, names of algorithms stay in one
place.

The reasons are in docs/decisions/0013-layout.md. What an actor's process really loads is in
tests/integration/test_roles_loaded.py.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlma.cluster.remote.host_pool import HELPERS
from mlma.core.catalog import ALGORITHMS

ROOT = Path(__file__).parents[2]
# Of mlma/, lowest first. What takes a policy away (export) and what `import mlma` offers (api) use evaluation, and
# start training as a user does; nothing in the system knows them.
LAYERS = (
    "utils", "core", "envs", "transport", "replay", "distributed", "monitoring", "acting", "learning", "evaluation",
    "roles", "cluster", "export", "api", "studies", "command",
)  # fmt: skip
MAX_OWN_IMPORTS, MAX_FILES_PER_FOLDER, MAX_FILE_LINES, MAX_FUNCTION_LINES = 15, 15, 320, 60
OWN = ("mlma", "agents", "benchmarks", "experiment", "tests")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [
        *ROOT.glob("mlma/**/*.py"),
        *ROOT.glob("agents/**/*.py"),
        *ROOT.glob("*.py"),
        *ROOT.glob("benchmarks/*.py"),
    ]
}
SYSTEM = sorted(name for name in FILES if name.split(".")[0] == "mlma")
SIMULATORS = {"ale_py", "vizdoom", "deepmind_lab", "gymnasium"}


def imports(name: str) -> set[str]:
    """The modules that this module's file imports, wherever in the file; our own by their full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            module = node.module or ""
            submodules = {f"{module}.{alias.name}" for alias in node.names} & FILES.keys()
            found |= submodules or {module}
            if len(submodules) < len(node.names):
                found.add(module)
    return found - {name}


def own_imports(name: str) -> set[str]:
    return imports(name) & FILES.keys()


def closure(name: str) -> set[str]:
    """All that importing this module may import, through our own files."""
    todo, found = [name], {name}
    while todo:
        for other in imports(todo.pop()) - found:
            found.add(other)
            if other in FILES:
                todo.append(other)
    return found


def packages(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def layer(name: str) -> int:
    """Position in LAYERS; that of a package's own __init__ is its package's."""
    return LAYERS.index(name.split(".")[1])


@pytest.mark.parametrize("name", [name for name in SYSTEM if name.count(".") > 1])
def test_imports_point_down(name: str) -> None:
    upward = [other for other in own_imports(name) if other.startswith("mlma.") and layer(other) > layer(name)]
    assert upward == []


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_imports_more_of_ours_than_can_be_overlooked(name: str) -> None:
    assert len(own_imports(name)) <= MAX_OWN_IMPORTS, sorted(own_imports(name))


def test_there_is_no_circle_of_imports() -> None:
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in finished:
            for other in own_imports(name):
                visit(other, (*path, name))
            finished.add(name)

    for name in FILES:
        visit(name, ())


@pytest.mark.parametrize("name", SYSTEM)
def test_the_system_imports_no_algorithm_and_no_benchmark(name: str) -> None:
    assert packages(imports(name)) & {"agents", "benchmarks", "experiment"} == set()


@pytest.mark.parametrize("name", sorted(FILES))
def test_only_one_file_imports_horovod(name: str) -> None:
    assert name == "mlma.distributed.allreduce" or "horovod" not in packages(imports(name))


ABOVE_THE_FRONTEND = ("mlma.cluster", "mlma.command", "mlma.studies")


@pytest.mark.parametrize("name", [name for name in SYSTEM if not name.startswith(ABOVE_THE_FRONTEND)])
def test_no_worker_imports_the_frontend(name: str) -> None:
    assert [other for other in imports(name) if other.startswith("mlma.cluster")] == []


@pytest.mark.parametrize("name", [name for name in SYSTEM if name.startswith("mlma.cluster.on_host.")])
def test_what_runs_on_hosts_needs_only_the_standard_library(name: str) -> None:
    program = name.rpartition(".")[2]
    sent_along = {
        f"{package}{helper}" for helper in HELPERS.get(program, ()) for package in ("mlma.cluster.on_host.", "")
    }
    assert packages(imports(name) - sent_along) - sys.stdlib_module_names == set()


@pytest.mark.parametrize("name", [name for name in SYSTEM if name.startswith("mlma.envs")])
def test_environments_know_neither_roles_nor_other_learners(name: str) -> None:
    assert [other for other in closure(name) if other.startswith(("mlma.roles", "mlma.distributed"))] == []


@pytest.mark.parametrize(
    "name",
    [name for name in FILES if name.startswith(("mlma.monitoring", "mlma.core", "agents"))],
)
def test_metrics_presets_and_networks_know_no_simulator(name: str) -> None:
    assert packages(closure(name)) & SIMULATORS == set()


def test_a_typo_is_answered_before_anything_heavy_is_imported() -> None:
    assert packages(closure("mlma.core.config")) & {"tensorflow", "sonnet", "numpy"} == set()


def test_the_controller_of_a_study_imports_nothing_heavy() -> None:
    assert packages(closure("mlma.studies.cli")) & {"tensorflow", "sonnet", "numpy", "matplotlib", "optuna"} == set()


def string_constants(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


@pytest.mark.parametrize("name", sorted(name for name in FILES if not name.startswith("benchmarks")))
def test_names_of_algorithms_stand_in_the_catalog_alone(name: str) -> None:
    allowed = {"impala"} if name == "mlma.core.config.sections" else set()  # the default of --algorithm
    if name not in ("mlma.core.catalog", "mlma.core.presets.papers"):  # a paper's preset contains its algorithm
        assert {text for text in string_constants(FILES[name]) if text in ALGORITHMS} <= allowed


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_can_be_read_in_one_go_and_a_function_in_one_look(name: str) -> None:
    text = FILES[name].read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {function: lines for function, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}


def test_no_folder_is_crowded() -> None:
    folders: dict[Path, int] = {}
    for path in FILES.values():
        if path.name != "__init__.py":
            folders[path.parent] = folders.get(path.parent, 0) + 1
    assert {str(folder): count for folder, count in folders.items() if count > MAX_FILES_PER_FOLDER} == {}
