"""--env and exec, as far as one machine can show them; over several hosts: tests/cluster/test_unequal_hosts.py."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mlma.cluster.cli import _function
from mlma.cluster.options import COMMANDS, Options, environment_words, parse_invocation
from mlma.cluster.planning.launch_plan import make_plan
from mlma.cluster.planning.workers_csv import read_workers
from mlma.cluster.run_list import remember_logdir, runs_file
from mlma.core.config import Config
from tests.support.runs import ROOT
from tests.support.workers_csv import BASE_HEADER, FOUR_HOSTS, write_csv


def frontend(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_experiment_mm_raw.py"), *arguments, f"--logdir={folder}/run"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_function(command: str) -> None:
    assert callable(_function(command))


def test_variables_reach_every_worker_but_no_command_line(tmp_path: Path) -> None:
    workers = read_workers(write_csv(tmp_path, FOUR_HOSTS))
    plan = make_plan(workers, Config(), Options(env="WANDB_API_KEY='s e c' NCCL_DEBUG=INFO"))
    for process in plan.processes:
        if not process.name.startswith("tunnel"):
            assert process.env["WANDB_API_KEY"] == "s e c"
        assert not any("s e c" in word for word in process.argv)
    (learners,) = [process for process in plan.processes if process.name == "learners"]
    assert shlex.join(learners.argv).count("-x WANDB_API_KEY -x NCCL_DEBUG -np 1") == 3, "those on other hosts, too"


def test_variables_are_set_inside_containers(tmp_path: Path) -> None:
    text = f"{BASE_HEADER},image\nlearner,a,,,,,,x\nactor,b,,,,,,y\n"
    plan = make_plan(read_workers(write_csv(tmp_path, text)), Config(), Options(env="A=1"))
    for process in plan.processes[:2]:
        assert process.argv[process.argv.index(process.image) + 1 :][:2] == ("env", "A=1")


@pytest.mark.parametrize("text", ["A", "1A=2", "A='1", "MLMA_TOKEN=x", "CUDA_VISIBLE_DEVICES=0"])
def test_what_is_no_variable_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"--env="):
        parse_invocation(["up", f"--env={text}"])
    assert environment_words("A=1 B='x y' C=") == {"A": "1", "B": "x y", "C": ""}


def test_a_command_runs_on_this_host_and_its_code_counts(tmp_path: Path) -> None:
    path = write_csv(tmp_path, f"{BASE_HEADER}\nlearner,localhost,,,,,\nactor,localhost,,,,,\n")
    done = frontend(tmp_path, "exec", "echo $HOME; echo no >&2; exit 3", f"--workers_csv_path={path}")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines() == [
        f"localhost: {os.environ['HOME']}",
        "localhost: no",
        "localhost: ended with code 3",
    ]
    assert frontend(tmp_path, "exec").returncode == 2


def test_json_is_one_object_with_all_workers(tmp_path: Path) -> None:
    path = write_csv(tmp_path, f"{BASE_HEADER}\nlearner,localhost,,,,,\nactor,localhost,,,,,\n")
    # A run that `up` planned on a host without tmux, or that was never started, has workers that are off.
    state = {
        "id": "abc", "workers": [], "argv": [], "options": {}, "actors": 0, "contacted_hosts": {}, "up": True,
    }  # fmt: skip
    state["workers"] = [{"row": 2, "job": job, "ip": "localhost"} for job in ("learner", "actor")]
    folder = tmp_path / "run/cluster"
    folder.mkdir(parents=True, mode=0o700)
    (folder / "run.json").write_text(json.dumps(state))
    done = frontend(tmp_path, "status", "--json", f"--workers_csv_path={path}")
    found = json.loads(done.stdout)
    assert done.returncode == 1 and found["ok"] is False
    assert [(w["worker"], w["host"], w["state"]) for w in found["workers"]] == [
        ("learner-0", "localhost", "off"),
        ("actor-0", "localhost", "off"),
    ]


def test_the_list_of_runs_is_not_the_users_while_tests_run(list_of_runs: Path) -> None:
    assert runs_file() == list_of_runs / "mlma/runs"


def test_runs_that_were_started_are_listed_with_their_states(tmp_path: Path) -> None:
    for name, up in (("first", True), ("second", False)):
        state = {
            "id": name, "workers": [{"row": 2, "job": job, "ip": "localhost"} for job in ("learner", "actor")],
            "argv": [], "options": {}, "actors": 0, "contacted_hosts": {}, "up": up,
        }  # fmt: skip
        folder = tmp_path / name / "cluster"
        folder.mkdir(parents=True, mode=0o700)
        (folder / "run.json").write_text(json.dumps(state))
    broken = tmp_path / "third/cluster"
    broken.mkdir(parents=True, mode=0o700)
    (broken / "run.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path))
        patch.setenv("COLUMNS", "300")
        done = frontend(tmp_path, "list")
        assert (done.returncode, done.stdout) == (0, "no runs were started from this machine\n")
        for name in ("first", "second", "third", "first", "removed"):
            remember_logdir(str(tmp_path / name))
        done = frontend(tmp_path, "list", "--json")
        assert [(row["run"], row["state"], row["logdir"]) for row in json.loads(done.stdout)] == [
            ("first", "off", f"{tmp_path}/first"),
            ("second", "down", f"{tmp_path}/second"),
            ("", "failed", f"{tmp_path}/third"),
        ]
        assert "inspect it, then remove it" in frontend(tmp_path, "list").stdout
