"""Damaged checkpoints: each kind of damage is one line, and a run continues with the newest one that can be read.

MLMA_FUZZ=12000 tries that many damaged files instead of some hundred.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlma.distributed.allreduce import SingleProcess
from mlma.learning.checkpoint import Checkpoints
from mlma.learning.checkpoint_file import CheckpointMismatchError, load_checkpoint, write_checkpoint
from mlma.learning.learner import Learner
from mlma.learning.run_state import RunState
from tests.support.samples import VECTOR, make_impala, make_metrics, small_config

VARIANTS = int(os.environ.get("MLMA_FUZZ", 400))
VARIABLES: dict[str, Any] = {
    "network/a/w:0": np.arange(6, dtype=np.float32).reshape(2, 3),
    "network/b/w:0": np.ones((2, 3), np.float32),
    "network/c:0": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "step:0": np.int64(7),
    "none:0": np.zeros((0, 3)),
}
META: dict[str, Any] = {
    "step": 3, "frames": 60, "seconds": 1.5, "best": float("-inf"), "seeds": [1, 2], "level_name": "catch",
}  # fmt: skip


def checkpoint_bytes(meta: dict[str, Any] = META) -> bytes:
    """A small checkpoint."""
    file = io.BytesIO()
    write_checkpoint(file, VARIABLES, meta)
    return file.getvalue()


def rezipped(data: bytes, change: Callable[[list[tuple[str, bytes]]], None], compression: int = 0) -> bytes:
    """The archive with its members changed, and with right checksums again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    change(members)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """The file with one random damage of a random kind."""
    start, end = sorted(rng.integers(0, len(data) + 1, 2))
    match rng.integers(8):
        case 0:
            return data[:end]
        case 1:  # a few flipped bits
            changed = bytearray(data)
            for position in rng.integers(0, len(data), rng.integers(1, 4)):
                changed[position] ^= 1 << int(rng.integers(8))
            return bytes(changed)
        case 2:
            return data[:start] + bytes(end - start) + data[end:]
        case 3:
            return data[:start] + data[end:]
        case 4:
            return data[:end] + rng.bytes(int(rng.integers(1, 40))) + data[end:]
        case 5:  # two members change places
            one, other = rng.integers(0, len(VARIABLES) + 1, 2)

            def swap(members: list[tuple[str, bytes]]) -> None:
                (first, a), (second, b) = members[one], members[other]
                members[one], members[other] = (first, b), (second, a)

            return rezipped(data, swap)
        case 6:  # one byte of a member, with the right checksum: an absurd shape, another type, another description

            def change(members: list[tuple[str, bytes]]) -> None:
                index = int(rng.integers(len(members)))
                name, content = members[index]
                changed = bytearray(content)
                position = int(rng.integers(min(200, len(content))))
                changed[position] = rng.choice([*b"0123456789,()<>|OVUfi' ", 255])
                members[index] = name, bytes(changed)

            return rezipped(data, change)
        case _:  # a field of the archive's own structures
            changed = bytearray(data)
            position = data.rindex(b"PK\1\2") if rng.integers(2) else data.rindex(b"PK\5\6")
            for offset in rng.integers(0, 46, rng.integers(1, 4)):
                if position + offset < len(data):
                    changed[position + offset] = rng.integers(256)
            return bytes(changed)


def assert_same(variables: dict[str, Any], meta: dict[str, Any]) -> None:
    """The content is what was saved."""
    assert meta == META
    assert variables.keys() == VARIABLES.keys()
    for name, value in VARIABLES.items():
        assert (variables[name].dtype, variables[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(variables[name], value)


def test_a_damaged_file_gives_the_saved_content_or_one_line(tmp_path: Path) -> None:
    path, intact, rng = tmp_path / "c.npz", checkpoint_bytes(), np.random.default_rng(5)
    lines: list[str] = []
    for _ in range(VARIANTS):
        path.write_bytes(damaged(intact, rng))
        try:
            assert_same(*load_checkpoint(path))
        except CheckpointMismatchError as problem:
            lines.append(str(problem))
    print(f"{VARIANTS} damaged files: {len(lines)} refused, {VARIANTS - len(lines)} loaded with equal content")
    assert len(lines) > VARIANTS / 2
    assert [line for line in lines if not line.startswith(f"{path}: not a checkpoint: ") or "\n" in line] == []
    path.write_bytes(intact)
    assert_same(*load_checkpoint(path))


def array_bytes(header: str, data: bytes = b"") -> bytes:
    """A .npy file with this header."""
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        array_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"),
        array_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        array_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"\x80\4N."),
        array_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': " + "(" * 60 + ",)}"),
        b"\x93NUMPY\3\0",
        b"",
    ],
)
def test_an_absurd_array_is_refused_before_memory_is_taken(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(rezipped(checkpoint_bytes(), lambda members: members.append(("network/d:0.npy", content))))
    with pytest.raises(CheckpointMismatchError, match="not a checkpoint"):
        load_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(rezipped(checkpoint_bytes(), lambda members: None, zipfile.ZIP_DEFLATED))
    with pytest.raises(CheckpointMismatchError, match="is compressed"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("step", -1), ("step", 1.0), ("step", True), ("frames", "60"), ("frames", 10**30), ("seconds", float("nan")),
        ("seconds", -1), ("best", None), ("seeds", [1]), ("seeds", [1, 2.5]), ("seeds", {"a": 1}),
    ],
)  # fmt: skip
def test_a_value_that_a_run_cannot_have_is_refused(tmp_path: Path, entry: str, value: Any) -> None:
    path = tmp_path / "c.npz"
    path.write_bytes(checkpoint_bytes(META | {entry: value}))
    with pytest.raises(CheckpointMismatchError, match=f"not a checkpoint: {entry} cannot be "):
        load_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_has_no_digest_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    meta: Any = np.frombuffer(json.dumps(META).encode(), np.uint8)
    np.savez(path, __meta__=meta, **VARIABLES)
    assert_same(*load_checkpoint(path))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[RunState, list[Path]]:
    """A run with three checkpoints, of the steps 1 to 3."""
    config = small_config(logdir=str(tmp_path))
    learner = Learner(config, make_impala(config, seed=1), VECTOR.action_repeats, SingleProcess())
    state = RunState(config, learner, SingleProcess())
    for step in (1, 2, 3):
        learner.step, learner.frames = step, 100 * step
        assert state.save(make_metrics())
    return state, sorted((tmp_path / "checkpoints").glob("checkpoint-*.npz"))


def test_a_run_continues_with_the_newest_checkpoint_that_can_be_read(
    saved: tuple[RunState, list[Path]], log_lines: Callable[[], list[str]]
) -> None:
    state, paths = saved
    for path in paths[1:]:
        os.truncate(path, 1000)
    state.resume()
    assert state._learner.step == 1
    lines = [line for line in log_lines() if "damaged" in line]
    assert [line.partition(": not a")[0] for line in lines] == [
        f"damaged, continuing with {paths[0].name}: {path}" for path in (paths[2], paths[1])
    ]
    names = {path.name for path in paths[0].parent.iterdir()}
    assert names == {paths[0].name, f"{paths[1].name}.damaged", f"{paths[2].name}.damaged"}
    state._learner.step = 2
    assert state.save(make_metrics()), "the names are free again"
    state.resume()
    assert state._learner.step == 2


def test_a_run_without_a_readable_checkpoint_ends_with_one_line_and_changes_nothing(
    saved: tuple[RunState, list[Path]],
) -> None:
    state, paths = saved
    for path in paths:
        os.truncate(path, 1000)
    with pytest.raises(
        CheckpointMismatchError, match=r"no checkpoint in .* can be read \(3 damaged\), the newest: "
    ) as it:
        state.resume()
    assert "\n" not in str(it.value) and "--logdir" in str(it.value)
    assert sorted(paths[0].parent.iterdir()) == paths
    assert {path.stat().st_size for path in paths} == {1000}


def test_a_checkpoint_of_another_network_is_no_damage(saved: tuple[RunState, list[Path]]) -> None:
    state, paths = saved
    variables, meta = load_checkpoint(paths[2])
    Checkpoints(paths[0].parent, keep=3).save(4, variables | {"network/more:0": np.ones(2)}, meta)
    with pytest.raises(CheckpointMismatchError, match="belongs to another network: has unknown network/more:0"):
        state.resume()


def test_a_damaged_best_checkpoint_is_one_line(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(3, VARIABLES, META)
    os.truncate(checkpoints.save_best(VARIABLES, META), 500)
    with pytest.raises(CheckpointMismatchError, match=r"best\.npz: not a checkpoint: "):
        checkpoints.load("best")
    assert checkpoints.load("last").meta == META


class SecondRank(SingleProcess):
    """The second of two learners: the first one has sent `first`."""

    rank, size = 1, 2

    def __init__(self, first: list[Any]) -> None:
        self._first = first

    def gather(self, data: bytes) -> list[bytes]:
        return [json.dumps(self._first).encode(), data]


def test_every_rank_ends_with_the_line_of_the_first(tmp_path: Path) -> None:
    config = small_config(logdir=str(tmp_path))
    learner = Learner(config, make_impala(config, seed=1), VECTOR.action_repeats, SingleProcess())
    with pytest.raises(CheckpointMismatchError, match="no good"):
        RunState(config, learner, SecondRank([0, 0, 1, 1, 0.0, "no good"])).resume()
    RunState(config, learner, SecondRank([5, 50, 1, 1, 0.0, ""])).resume()
    assert (learner.step, learner.frames) == (5, 50)
