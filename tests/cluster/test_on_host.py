"""Sources that are sent to hosts need only the standard library of Python 3.8, and read files of earlier versions."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlma.cluster.on_host.host_agent import Run
from mlma.cluster.on_host.host_files import exclusive
from mlma.cluster.on_host.supervisor import read_spec
from mlma.cluster.planning.worker_commands import SupervisedProcess
from mlma.cluster.remote.host_pool import HELPERS, ON_HOST_SOURCES

SOURCES = sorted(path for path in ON_HOST_SOURCES.glob("*.py") if path.name != "__init__.py")
NEWER_METHODS = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "hardlink_to", "readlink", "pairwise"}


def evaluated(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node` except annotations, which are never evaluated."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield child
                yield from evaluated(child)


def is_flag_of_the_system(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return is_flag_of_the_system(node.left) and is_flag_of_the_system(node.right)
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "fcntl")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_sources_for_hosts_need_only_python_3_8(path: Path) -> None:
    nodes = list(evaluated(ast.parse(path.read_text(), feature_version=(3, 8))))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    helpers = HELPERS.get(path.stem, ())
    sent_along = {*helpers, *(f"mlma.cluster.on_host.{helper}" for helper in helpers)}
    assert {name.partition(".")[0] for name in imported - sent_along} <= sys.stdlib_module_names
    assert {node.attr for node in nodes if isinstance(node, ast.Attribute)} & NEWER_METHODS == set()
    unions = [node for node in nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)]
    updates = [node for node in nodes if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr)]
    assert [node.lineno for node in unions if not is_flag_of_the_system(node)] == [], (
        "a union of dicts needs Python 3.9"
    )
    assert [node.lineno for node in updates] == [], "a union of dicts needs Python 3.9"


def test_the_spec_of_a_worker_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    process = SupervisedProcess(
        "localhost", "tunnel-0", ("ssh",), {}, 15, 5.0, 3, (1.0, 2.0, 3.0), ("actor-0",), "health", 180.0
    )
    spec = json.loads(json.dumps(process.spec("run")))
    earlier = {
        "words": "argv", "signal": "stop_signal", "grace": "stop_timeout", "restarts": "max_restarts",
        "pause": "backoff", "serves": "required_by", "health": "heartbeat_folder",
        "hung_seconds": "worker_hang_seconds", "group": "signal_group",
    }  # fmt: skip
    unchanged = {name: value for name, value in spec.items() if name not in earlier.values()}
    (tmp_path / "old.spec").write_text(json.dumps(unchanged | {old: spec[new] for old, new in earlier.items()}))
    assert read_spec(tmp_path / "old.spec") == spec


def test_a_folder_that_runs_of_an_earlier_version_share_gives_each_its_own_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    workers = tmp_path / ".mlma/run/localhost/workers"
    workers.mkdir(parents=True)
    for name, run_id in (("actor-0", "mine"), ("actor-1", "another")):
        (workers / f"{name}.spec").write_text(json.dumps({"name": name, "env": {"MLMA_RUN": run_id}}))
        (workers / f"{name}.json").write_text(json.dumps({"state": "done", "pid": 0}))
    run = Run({"name": "run", "id": "mine", "folder": ".mlma/run/localhost"})
    assert list(run.records()) == ["actor-0"]
    run.stop({"names": None, "seconds": 1.0, "final": True})
    assert [path.name for path in workers.glob("*.spec")] == ["actor-1.spec"]


def test_a_request_waits_for_an_earlier_one_to_the_same_run(tmp_path: Path) -> None:
    folder = tmp_path / "run/host"
    with (
        exclusive(folder, 1.0),
        pytest.raises(RuntimeError, match="an earlier request is still being carried out"),
        exclusive(folder, 0.2),
    ):
        pass
    with exclusive(folder, 0.2):
        shutil.rmtree(folder)  # as the end of a run does
        with exclusive(folder, 0.2):
            assert folder.is_dir()
