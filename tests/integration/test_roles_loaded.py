"""Each process loads only its own role: what real processes of a real run have imported when they end."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.runs import ROOT, Process

# Runs experiment.py as it is, and prints the modules of ours just before the process ends.
DRIVER = """
import json, os, runpy, sys
NAMES = ("mlma", "agents", "horovod", "keras", "matplotlib")
end = os._exit
def report(code):
    print("MODULES " + json.dumps(sorted(m for m in sys.modules if m.split(".")[0] in NAMES)))
    sys.stdout.flush()
    end(code)
os._exit = report
sys.argv = ["experiment.py", *sys.argv[1:]]
runpy.run_path("experiment.py", run_name="__main__")
"""
FLAGS = ["--level_name=catch", "--envs_per_actor=8", "--batch_size=8", "--unroll_length=10", "--num_actors=1"]
NOT_AN_ACTORS = ("mlma.learning", "mlma.replay", "mlma.distributed", "mlma.cluster", "mlma.evaluation", "horovod")


def loaded(run: Process) -> list[str]:
    assert run.wait(120) == 0, run.text()
    (line,) = [line for line in run.text().splitlines() if line.startswith("MODULES ")]
    return list(json.loads(line.removeprefix("MODULES ")))


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Role -> the modules of ours, and of large packages that are of no use here, that its process had loaded."""

    folder = tmp_path_factory.mktemp("roles")
    where, logdir, python = (
        f"--learner_host=unix:{folder}/socket",
        f"--logdir={folder}/run",
        [sys.executable, "-c", DRIVER],
    )
    learner = ["--job_name=learner", "--task=0", where, logdir, "--total_environment_frames=4000"]
    with Process(folder, "learner", *learner, *FLAGS, command=python) as one:
        with Process(folder, "actor", "--job_name=actor", "--task=0", where, *FLAGS, command=python) as other:
            found = {"actor": loaded(other)}
        found["learner"] = loaded(one)
    evaluate = ["--mode=test", f"--config={folder}/run/config.json", logdir, "--test_num_episodes=2"]
    with Process(folder, "evaluator", *evaluate, command=python) as run:
        found["evaluator"] = loaded(run)
    return found


@pytest.mark.parametrize("role", ["actor", "learner", "evaluator"])
def test_a_process_loads_its_own_role_and_no_other(role: str, modules: dict[str, list[str]]) -> None:
    roles = {name.split(".")[2] for name in modules[role] if name.startswith("mlma.roles.")}
    assert roles & {"actor", "learner", "evaluator"} == {role}


def test_an_actor_loads_nothing_of_a_learner_or_of_the_frontend(modules: dict[str, list[str]]) -> None:
    assert [name for name in modules["actor"] if name.startswith(NOT_AN_ACTORS)] == []
    assert "mlma.acting.environment_loop" in modules["actor"]


def test_no_worker_loads_the_frontend_and_a_single_learner_no_horovod(modules: dict[str, list[str]]) -> None:
    for role, names in modules.items():
        assert [name for name in names if name.startswith(("mlma.cluster", "horovod"))] == [], role


def test_a_process_loads_the_algorithm_of_its_run_alone(modules: dict[str, list[str]]) -> None:
    for role, names in modules.items():
        assert {name for name in names if name in ("agents.impala", "agents.apex", "agents.r2d2")} == {
            "agents.impala"
        }, role


@pytest.mark.parametrize("role", ["actor", "learner", "evaluator"])
def test_no_process_loads_keras_or_matplotlib(role: str, modules: dict[str, list[str]]) -> None:
    assert not [name for name in modules[role] if name.split(".")[0] in ("keras", "matplotlib")]


def test_keras_is_there_for_those_who_use_it() -> None:
    code = (
        "from mlma.utils.tensorflow_setup import import_tensorflow; import_tensorflow(); import sys, tensorflow as tf\n"
    )
    code += "assert 'keras' not in sys.modules; print(tf.keras.layers.Dense(2)(tf.ones([1, 3])).shape)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout == "(1, 2)\n", run.stderr
