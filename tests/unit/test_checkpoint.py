"""Checkpoints: written completely or not at all, refused if of another run, and without a variable missing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.networks.zoo import NETWORKS
from mlma.core.config import Config
from mlma.distributed.allreduce import SingleProcess
from mlma.evaluation.background_evaluator import BackgroundEvaluator
from mlma.learning.checkpoint import Checkpoints, check_compatible
from mlma.learning.checkpoint_file import CheckpointMismatchError, load_checkpoint
from mlma.learning.learner import Learner
from mlma.learning.run_state import RunState, SeedAllocator
from tests.support.samples import IMAGE, VECTOR, as_tensors, make_impala, make_metrics, random_sample, small_config

VARIABLES = {"network/a/w:0": np.arange(6, dtype=np.float32).reshape(2, 3), "network/a/b:0": np.ones(3, np.float32)}
META = {"step": 3, "frames": 60, "level_name": "catch", "random": [1, 2]}


def names(folder: Path) -> list[str]:
    """The files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    path = Checkpoints(tmp_path / "new" / "folder", keep=3).save(3, VARIABLES, META)
    variables, meta = load_checkpoint(path)
    assert meta == META
    assert variables.keys() == VARIABLES.keys()
    for name, value in VARIABLES.items():
        np.testing.assert_array_equal(variables[name], value)
        assert variables[name].dtype == value.dtype


def test_a_full_disk_leaves_the_previous_checkpoint_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save_best(VARIABLES, META)
    last = checkpoints.save(3, VARIABLES, META)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    for save in (lambda: checkpoints.save(4, VARIABLES, META), lambda: checkpoints.save_best(VARIABLES, META)):
        with pytest.raises(OSError, match="No space left"):
            save()
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before
    assert checkpoints.last() == last


def test_a_value_that_cannot_be_written_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    checkpoints.save(3, VARIABLES, META)
    with pytest.raises(TypeError):
        checkpoints.save(3, VARIABLES, {"what": object()})
    assert names(tmp_path) == ["checkpoint-000000003.npz"]
    assert load_checkpoint(tmp_path / "checkpoint-000000003.npz")[1] == META


def test_the_last_few_and_the_best_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save_best(VARIABLES, META)
    (tmp_path / "checkpoint-mine.npz").write_bytes(b"a user's own file")
    for step in (1, 9, 10, 100):
        checkpoints.save(step, VARIABLES, META)
    assert names(tmp_path) == [
        "best.npz",
        "checkpoint-000000010.npz",
        "checkpoint-000000100.npz",
        "checkpoint-mine.npz",
    ]
    assert checkpoints.load("last").path.name == "checkpoint-000000100.npz"
    assert checkpoints.load("best").path.name == "best.npz"
    assert checkpoints.load(str(tmp_path / "checkpoint-000000010.npz")).path.name == "checkpoint-000000010.npz"


@pytest.mark.parametrize("which", ["last", "best", "/nowhere/at/all.npz"])
def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path, which: str) -> None:
    with pytest.raises(ValueError, match=f"--test_checkpoint={which}: no such checkpoint"):
        Checkpoints(tmp_path, keep=2).load(which)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_no_checkpoint(tmp_path: Path, share: float) -> None:
    path = Checkpoints(tmp_path, keep=3).save(3, VARIABLES, META)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointMismatchError, match="not a checkpoint"):
        load_checkpoint(path)


def test_a_file_of_anything_else_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-000000001.npz"
    np.savez(path, a=np.ones(3))
    others = [path.read_bytes(), b"text", b"PK\3\4" + bytes(100), bytes(1000)]
    intact = Checkpoints(tmp_path, keep=3).save(3, VARIABLES, META).read_bytes()
    middle = intact.index(b"level_name")  # one flipped bit, which the checksum finds
    others.append(intact[:middle] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :])
    for data in others:
        path.write_bytes(data)
        with pytest.raises(CheckpointMismatchError, match="not a checkpoint"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "identity", "mentions"),
    [
        ({}, {"level_name": "corridor"}, ["level_name=catch", "level_name=corridor", "--logdir"]),
        ({"network/a/b:0": None}, {}, ["has unknown network/a/b:0", "--logdir"]),
        ({"network/z/w:0": np.ones(2)}, {}, ["lacks network/z/w:0", "--logdir"]),
        ({"network/a/w:0": np.ones((2, 4))}, {}, ["network/a/w:0", "(2, 3)", "(2, 4)", "--logdir"]),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(
    change: Any, identity: Any, mentions: list[str]
) -> None:
    expected = {name: value for name, value in (VARIABLES | change).items() if value is not None}
    with pytest.raises(CheckpointMismatchError) as caught:
        check_compatible(Path("c.npz"), VARIABLES, META, expected, {"level_name": "catch"} | identity)
    assert [part for part in mentions if part not in str(caught.value)] == []
    assert "c.npz" in str(caught.value)
    check_compatible(Path("c.npz"), VARIABLES, META, VARIABLES, {"level_name": "catch"})  # its own run is accepted


def test_a_checkpoint_that_is_older_than_the_scaling_of_pixels_was_made_with_centred_ones() -> None:
    check_compatible(Path("c.npz"), VARIABLES, META, VARIABLES, {"pixel_scaling": "centered"})
    with pytest.raises(CheckpointMismatchError, match="with pixel_scaling=centered, this run has pixel_scaling=unit"):
        check_compatible(Path("c.npz"), VARIABLES, META, VARIABLES, {"pixel_scaling": "unit"})
    check_compatible(Path("c.npz"), VARIABLES, META | {"pixel_scaling": "unit"}, VARIABLES, {"pixel_scaling": "unit"})


def make_learner(config: Any, seed: int) -> tuple[Learner, Any]:
    """A learner and its network."""
    agent = make_impala(config, seed=seed)
    return Learner(config, agent, VECTOR.action_repeats, SingleProcess()), agent.network


def state_of(learner: Learner, network: Any) -> list[bytes]:
    """All variables of a learner as bytes."""
    return [v.numpy().tobytes() for v in (*network.variables, *learner._optimizer.variables)]


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_checkpoint_names_every_variable_of_the_network_and_of_the_optimizer(name: str) -> None:
    """Two variables with the same name would become one in the file."""
    spec = VECTOR if name == "MLPAgent" else IMAGE
    config = small_config(agent_name=name, num_stacked_frames=1 if spec is VECTOR else 4)
    agent = make_impala(config, spec)
    learner = Learner(config, agent, spec.action_repeats, SingleProcess())
    saved = {id(variable) for variable in learner.variables().values()}
    assert [v.name for v in agent.network.variables if id(v) not in saved] == []
    assert [v.name for v in learner._optimizer.variables if id(v) not in saved] == [learner._learning_rate.name]


def run_state(config: Config, learner: Learner) -> RunState:
    return RunState(config, learner, SingleProcess())


@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer": "rmsprop", "momentum": 0.5},
        {"optimizer": "rmsprop", "initial_mean_square": 1.0},
        {"optimizer": "adam"},
    ],
)
def test_a_restored_learner_continues_as_if_it_had_never_stopped(tmp_path: Path, optimizer: dict[str, Any]) -> None:
    config = small_config(total_environment_frames=1000, logdir=str(tmp_path), **optimizer)
    batches = [as_tensors(random_sample(seed, config)) for seed in range(5)]
    learner, network = make_learner(config, seed=1)
    for sample in batches[:3]:
        learner.update(sample)
    saved = run_state(config, learner)
    used_seeds = [saved.seeds.allocate() for _ in range(3)]
    assert saved.save(make_metrics())

    other, other_network = make_learner(config, seed=2)
    assert state_of(other, other_network) != state_of(learner, network)
    resumed = run_state(config, other)
    resumed.resume()
    assert (other.step, other.frames) == (learner.step, learner.frames)
    assert resumed.seeds.allocate() not in used_seeds
    for sample in batches[3:]:
        # Events hold times of day.
        assert learner.update(sample)._replace(events=[]) == other.update(sample)._replace(events=[])
        assert state_of(other, other_network) == state_of(learner, network)


def test_what_a_killed_learner_has_copied_for_an_evaluation_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "evaluation"
    Checkpoints(folder, keep=1).save(3, VARIABLES, META)
    (folder / "evaluation-000000002-20260101-120000.json").touch()
    BackgroundEvaluator(Config.from_flags(logdir=str(tmp_path), evaluate_every=10), 0, lambda: None)
    assert names(folder) == ["evaluation-000000002-20260101-120000.json"]


def test_no_learner_allocates_a_seed_again_after_a_resume() -> None:
    """The checkpoint has what the first learner had allocated, and actors connect after it, too."""
    learners, connections = 8, 500  # of each, after the last checkpoint
    seeds = set[int]()
    for session in range(2):
        for rank in range(learners):
            allocator = SeedAllocator(1, rank, learners)
            for _ in range(session):
                allocator.skip()
            seeds |= {allocator.allocate() for _ in range(connections)}
    assert len(seeds) == 2 * learners * connections


def test_a_run_does_not_resume_from_the_checkpoint_of_another_level(tmp_path: Path) -> None:
    config = small_config(logdir=str(tmp_path))
    learner, _ = make_learner(config, seed=1)
    assert run_state(config, learner).save(make_metrics())
    with pytest.raises(CheckpointMismatchError, match="level_name=PongNoFrameskip-v4, this run has level_name=catch"):
        run_state(small_config(logdir=str(tmp_path), level_name="catch"), learner).resume()


def test_a_full_disk_does_not_end_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_lines: Callable[[], list[str]]
) -> None:
    config = small_config(logdir=str(tmp_path))
    state = RunState(config, make_learner(config, seed=1)[0], SingleProcess())

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not state.save(make_metrics())
    assert "No space left" in log_lines()[0]
