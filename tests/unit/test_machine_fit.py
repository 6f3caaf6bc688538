"""What a run needs is reckoned before it starts, and compared with the memory and the cores of this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.core import machine_fit
from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config, parse
from mlma.core.machine_fit import check_fits_machine, memory_parts
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec
from mlma.envs.registry import env_spec
from mlma.utils import memory
from mlma.utils.memory import available_memory, total_memory
from tests.support.runs import ROOT

ATARI = EnvSpec(ArraySpec((84, 84, 1), "uint8"), num_actions=6, action_repeats=4, suite="atari")
VECTOR = EnvSpec(ArraySpec((4,), "float32"), num_actions=2, action_repeats=1, suite="gymnasium")


def resolved(spec: EnvSpec, *flags: str) -> Config:
    level = "PongNoFrameskip-v4" if spec is ATARI else "CartPole-v1"
    return resolve(parse([f"--level_name={level}", *flags]), spec, cores=2)


@pytest.fixture
def gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 8 GB of which 6 are free, with two cores."""
    monkeypatch.setattr(machine_fit, "available_memory", lambda: 6e9)
    monkeypatch.setattr(machine_fit, "total_memory", lambda: 8e9)
    monkeypatch.setattr(machine_fit, "available_cores", lambda: 2)


@pytest.mark.usefixtures("gigabytes")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_presets_for_vectors_fit_eight_gigabytes(algorithm: str) -> None:
    check_fits_machine(resolved(VECTOR, f"--algorithm={algorithm}"), VECTOR, "learner")


@pytest.mark.usefixtures("gigabytes")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_presets_for_pong_fit_eight_gigabytes(algorithm: str) -> None:
    check_fits_machine(resolved(ATARI, f"--algorithm={algorithm}"), ATARI, "learner")


@pytest.mark.usefixtures("gigabytes")
@pytest.mark.parametrize("flags", [["--preset=r2d2"], ["--preset=apex", "--level_name=atari_breakout"]])
def test_a_replay_as_in_the_papers_is_refused_with_the_size_that_fits(flags: list[str]) -> None:
    with pytest.raises(
        ValueError, match=r"--replay_capacity=\d+: the replay would need at least [\d.]+ GB, "
    ) as caught:
        check_fits_machine(resolved(ATARI, *flags), ATARI, "learner")
    assert "6.0 GB are free" in str(caught.value)
    (fits,) = re.findall(r"about ([\d,]+) would fit", str(caught.value))
    fitting = f"--replay_capacity={int(fits.replace(',', '')) - 1}"
    check_fits_machine(resolved(ATARI, *flags, fitting), ATARI, "learner")


@pytest.mark.usefixtures("gigabytes")
@pytest.mark.parametrize(
    ("flags", "role", "named"),
    [
        (
            ["--num_actors=100", "--envs_per_actor=32"],
            "learner",
            "--num_actors=100: 100 actors would need at least 26.2 GB",
        ),
        (["--num_learners=50"], "learner", "--num_learners=50: 100 actors would need"),
        (["--env_processes=500", "--envs_per_actor=500"], "learner", "--env_processes=500: "),
        (
            ["--task=0", "--job_name=actor", "--unroll_length=9000", "--envs_per_actor=1000"],
            "actor",
            "--unroll_length=",
        ),
        (["--task=0", "--job_name=actor", "--env_processes=900", "--envs_per_actor=900"], "actor", "--env_processes="),
        (["--mode=test", "--test_num_episodes=1e5"], "evaluator", "--test_num_episodes=100000: the episodes"),
        (["--task=0", "--num_learners=3", "--batch_size=9000"], "learner", "--batch_size=9000: "),
        (["--learner_threads=65"], "learner", "--learner_threads=65: must be at most 64 with 2 cores"),
    ],
)
def test_the_flag_that_is_to_blame_is_named(flags: list[str], role: str, named: str) -> None:
    spec = VECTOR._replace(observation=ArraySpec((80, 80, 3), "uint8"))
    config = resolve(parse(["--level_name=CartPole-v1", *flags]), spec, cores=2)
    with pytest.raises(ValueError, match=re.escape(named)):
        check_fits_machine(config, spec, role)


@pytest.mark.usefixtures("gigabytes")
def test_a_worker_is_compared_with_all_memory_since_its_predecessor_may_still_use_some() -> None:
    spec = VECTOR._replace(observation=ArraySpec((2_000_000,), "float32"))
    config = resolve(parse(["--level_name=CartPole-v1", "--batch_size=2", "--num_actors=1"]), spec, cores=2)
    small = config.replace(envs_per_actor=1, unroll_length=40, queue_capacity=2, sample_reuse=1)
    needed = sum(part.size for part in memory_parts(small.replace(task=0), spec, "learner"))
    assert 6e9 < needed < 12e9, needed
    with pytest.raises(ValueError, match="are free"):
        check_fits_machine(small, spec, "learner")


def test_what_is_reckoned_is_no_more_than_what_a_run_uses() -> None:
    """Otherwise runs would be refused that work. The figures: mlma/core/machine_fit.py."""
    config = resolved(ATARI, "--num_actors=1", "--envs_per_actor=32", "--batch_size=32", "--sample_reuse=1")
    size = {part.name: part.size for part in memory_parts(config, ATARI, "learner")}
    assert sum(size.values()) - size["an actor"] < 840e6
    assert size["an actor"] < 316e6


def test_a_container_limits_the_memory_and_its_page_cache_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "CGROUP_FOLDER", tmp_path)
    (tmp_path / "memory.current").write_text("900000000\n")
    (tmp_path / "memory.stat").write_text("anon 300000000\ninactive_file 500000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert total_memory() > 1e9
    (tmp_path / "memory.max").write_text("1000000000\n")
    assert (available_memory(), total_memory()) == (6e8, 1e9)


def test_the_answer_comes_before_tensorflow_is_loaded() -> None:
    code = "import sys, experiment; sys.argv[1:] = ['--num_actors=100000']; code = experiment.main(); "
    code += "print(code, 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout == "2 False\n"
    assert done.stderr.count("\n") == 1


def test_every_flag_that_can_be_named_is_one() -> None:
    config = resolved(ATARI)
    for role in ("learner", "actor", "evaluator"):
        for algorithm in ALGORITHMS:
            for part in memory_parts(config.replace(algorithm=algorithm), ATARI, role):
                assert set(part.flags) <= machine_fit.USUAL_VALUES.keys()
    assert env_spec(config.environment).suite == "atari"
