"""From a CSV to commands, without any host: all errors are reported at once, and the planned commands are correct."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mlma.cluster.options import DERIVED_FROM_CSV, Options, parse_invocation
from mlma.cluster.planning.launch_plan import Plan, make_plan
from mlma.cluster.planning.workers_csv import CsvErrors, csv_warnings, read_workers
from mlma.cluster.state import PERSISTED_FLAGS
from mlma.core.config import Config, flag_table, parse
from mlma.core.config.flags import flag_table as option_table
from tests.support.runs import ROOT
from tests.support.workers_csv import BASE_HEADER, FOUR_HOSTS, write_csv


def plan_of(tmp_path: Path, text: str = FOUR_HOSTS, num_actors: int = 0, **options: Any) -> Plan:
    workers = read_workers(write_csv(tmp_path, text))
    return make_plan(workers, Config.from_flags(logdir="/runs/pong.1"), Options(**options), num_actors)


def csv_errors(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(CsvErrors) as error:
        read_workers(write_csv(tmp_path, text))
    return str(error.value).splitlines()


def frontend(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_experiment_mm_raw.py"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_csv_of_earlier_systems_is_read_unchanged(tmp_path: Path) -> None:
    rows = [
        "learner,localhost,8001,0,,,",
        "actor,localhost,9001,,,,",
        "actor,10.0.0.7,9002,,36000,root,secret word ",
        "",
    ]
    text = "\r\n".join([BASE_HEADER, *rows])
    with pytest.raises(CsvErrors, match="cannot reach a learner there"):
        read_workers(write_csv(tmp_path, text))
    learner, first, second = read_workers(write_csv(tmp_path, text.replace("learner,localhost", "learner,10.0.0.8")))
    assert (learner.job, learner.tf_port, learner.cuda_visible_devices, learner.local) == ("learner", 8001, "0", False)
    assert (first.local, first.host) == (True, "localhost")
    assert (second.host, second.ssh_password) == ("root@10.0.0.7:36000", "secret word ")
    assert "secret" not in repr(second)


def test_all_errors_are_reported_at_once_with_row_column_value_and_allowed_values(tmp_path: Path) -> None:
    text = f"""{BASE_HEADER},num_actors
learner,10.0.0.1,80001,,,,,
# a comment
actr,10.0.0.2,,,ssh,bob,hunter2,
actor,,9001,,,,,0
actor,10.0.0.3
learner,10.0.0.4,,,,-oProxyCommand=x,,2
"""
    path = str(tmp_path / "workers.csv")
    assert csv_errors(tmp_path, text) == [
        f"{path}, row 2, column tf_port: '80001': must be an integer from 1 to 65535, or empty",
        f"{path}, row 4, column job: 'actr': must be learner or actor",
        f"{path}, row 4, column ssh_port: 'ssh': must be an integer from 1 to 65535, or empty",
        f"{path}, row 5, column ip: '': must be a host name, an IPv4 or IPv6 address, or localhost",
        f"{path}, row 5, column num_actors: '0': must be an integer from 1 to 10000, or empty",
        f"{path}, row 6, 2 fields in 8 columns: the numbers must be equal; a field that contains a comma needs quotes "
        '("0,1")',
        f"{path}, row 7, column ssh_username: '-oProxyCommand=x': must be a user name, or empty",
        f"{path}, row 7, column num_actors: '2': must be empty for a learner",
    ]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "the header is missing"),
        ("learner,localhost,8001,,,,\n", "column 'job': is required"),
        (f"{BASE_HEADER},gpu\n", "column 'gpu': no such column"),
        (f"{BASE_HEADER},envs_per_actors\n", "did you mean envs_per_actor?"),
        (f"{BASE_HEADER}\nactor,a,,,,,\n", "no row is a learner"),
        (f"{BASE_HEADER}\nlearner,a,,,,,\n", "0 actors for 1 learners"),
        (
            f"{BASE_HEADER}\nlearner,a,1,,,,\nlearner,a,1,,,,\nactor,a,,,,,\nactor,a,,,,,\n",
            "row 3, column tf_port: '1': already used by",
        ),
        (f"{BASE_HEADER}\nlearner,a,,,,u,x\nactor,a,,,,u,y\n", "row 3, column ssh_password: differs from row 2"),
        (
            f"{BASE_HEADER},ssh_key_file\nlearner,a,,,,,,/no/such\nactor,a,,,,,,\n",
            "'/no/such': must be a file on this machine",
        ),
        (f'{BASE_HEADER},python\nlearner,a,,,,,,"it\'s"\nactor,a,,,,,,\n', "must be a command, quoted as in a shell"),
        (
            f"{BASE_HEADER},image\nlearner,a,,,,,,--privileged\nactor,a,,,,,,\n",
            "must be a container image (name or file)",
        ),
        (f"{BASE_HEADER},folder\nlearner,a,,,,,,~/code\nactor,a,,,,,,\n", "without ~"),
    ],
)
def test_a_csv_that_cannot_run_is_refused(tmp_path: Path, text: str, hint: str) -> None:
    assert hint in "\n".join(csv_errors(tmp_path, text))


def test_a_host_name_that_begins_like_loopback_is_no_loopback(tmp_path: Path) -> None:
    text = f"{BASE_HEADER}\nlearner,HOST,,,,ann,\nactor,10.9.0.3,,,,ann,\n"
    assert len(read_workers(write_csv(tmp_path, text.replace("HOST", "127.evil.example")))) == 2
    assert "cannot reach a learner there" in "\n".join(csv_errors(tmp_path, text.replace("HOST", "127.0.0.9")))


def test_a_csv_with_passwords_that_others_can_read_causes_a_warning(tmp_path: Path) -> None:
    text = f"{BASE_HEADER}\nlearner,a,,,,u,secret\nactor,a,,,,u,\n"
    path = write_csv(tmp_path, text, 0o644)
    (line,) = csv_warnings(path, read_workers(path))
    assert "mode 0644" in line and "chmod 600" in line and "secret" not in line
    path = write_csv(tmp_path, text, 0o600)
    assert csv_warnings(path, read_workers(path)) == []


def test_actors_are_assigned_to_learners_round_robin_and_each_gets_its_command(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    assert plan.session == "pong-1"
    assert [learner.actors for learner in plan.learners] == [(0, 3), (1, 4), (2, 5)]
    assert [learner.port for learner in plan.learners] == [8001, 8002, 8001]
    processes = {process.name: process for process in plan.processes}
    argv = processes["actor-5"].argv
    assert argv[:5] == ("conda", "run", "-n", "rl", "python")
    assert argv[5] == "/my code/experiment.py"
    assert parse(list(argv[6:])) == Config.from_flags(
        logdir="/runs/pong.1",
        job_name="actor",
        task=1,
        learner_host="unix:.mlma/pong-1/10.9.0.4/learner-2.sock",
        envs_per_actor=7,
        token_file=".mlma/pong-1/10.9.0.4/token",
        heartbeat_folder=".mlma/pong-1/10.9.0.4/health/actor-5",
    )
    assert processes["actor-0"].argv[0] == "mlma/.venv/bin/python"
    names = [process.name for process in plan.processes_on("bob@10.9.0.3:22")]
    assert names == ["actor-0", "actor-1", "actor-2", "actor-3", "tunnel-0", "tunnel-1", "tunnel-2"]


def test_learners_are_one_mpirun_across_their_hosts(tmp_path: Path) -> None:
    (learners,) = plan_of(tmp_path).processes_on("ann@10.9.0.1:2222")
    assert (learners.name, learners.argv[0]) == ("learners", "/env/bin/mpirun")
    segments = " ".join(learners.argv).split(" : ")
    assert len(segments) == 3
    for segment, host in zip(segments, ("10.9.0.1:1", "10.9.0.1:1", "10.9.0.2:1"), strict=True):
        assert f"--host {host} -np 1 " in segment
    assert "CUDA_VISIBLE_DEVICES=1 /env/bin/python /code/experiment.py" in segments[1]
    assert (
        "--learner_host=unix:.mlma/pong-1/10.9.0.1-2222/learner-1.sock --actor_hosts=10.9.0.3:9002,10.9.0.4:9005 "
        in segments[1]
    )
    assert all("--num_learners=3" in segment for segment in segments)
    ssh = "ssh -F .mlma/pong-1/10.9.0.1-2222/ssh_config"
    assert learners.env["PRTE_MCA_plm_ssh_agent"] == learners.env["OMPI_MCA_plm_rsh_agent"] == ssh


def test_one_learner_needs_no_mpirun(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f"{BASE_HEADER}\nlearner,localhost,8005,,,,\nactor,localhost,,,,,\n")
    learner, actor = plan.processes
    assert learner.argv[0] == actor.argv[0] == sys.executable
    assert parse(list(actor.argv[2:])).distributed.learner_host == "unix:.mlma/pong-1/localhost/learner-0.sock"


def test_through_ssh_learners_listen_on_sockets_only(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    commands = " ".join(word for process in plan.processes for word in process.argv)
    assert "--learner_host=10." not in commands
    assert "--learner_host=unix:.mlma/pong-1/10.9.0.1-2222/learner-1.sock" in commands
    assert "--learner_host=unix:.mlma/pong-1/10.9.0.3/learner-2.sock" in commands
    tunnels = [process for process in plan.processes_on("bob@10.9.0.3:22") if process.name.startswith("tunnel")]
    assert [process.name for process in tunnels] == ["tunnel-0", "tunnel-1", "tunnel-2"]
    assert tunnels[0].required_by == ("actor-0", "actor-3")


@pytest.mark.parametrize("channel", ["tls", "plaintext"])
def test_other_channels_use_a_port_and_only_where_another_host_needs_it(tmp_path: Path, channel: str) -> None:
    plan = plan_of(tmp_path, channel=channel)
    commands = " ".join(word for process in plan.processes for word in process.argv)
    assert "--learner_host=10.9.0.1:8002" in commands and "unix:" not in commands
    assert ("--insecure_plaintext=true" in commands) == (channel == "plaintext")
    assert not [process for process in plan.processes if process.name.startswith("tunnel")]
    alone = plan_of(tmp_path, f"{BASE_HEADER}\nlearner,localhost,8005,,,,\nactor,localhost,,,,,\n", channel=channel)
    assert all("unix:.mlma" in " ".join(process.argv) for process in alone.processes)


def test_more_actors_than_rows_start_again_at_the_first_row_and_fewer_are_the_first(tmp_path: Path) -> None:
    processes = plan_of(tmp_path, num_actors=14).processes_on("bob@10.9.0.4:22")
    assert len([process for process in processes if process.name.startswith("actor")]) == 4
    names = [process.name for process in plan_of(tmp_path, num_actors=3).processes]
    assert names == ["learners", "actor-0", "actor-1", "actor-2", "tunnel-0", "tunnel-1", "tunnel-2"]
    with pytest.raises(ValueError, match="2 actors for 3 learners"):
        plan_of(tmp_path, num_actors=2)


@pytest.mark.parametrize("channel", ["ssh", "tls"])
def test_actors_move_with_their_learner_and_number_and_nothing_else_changes(tmp_path: Path, channel: str) -> None:
    text = f"{FOUR_HOSTS}actor,10.9.0.2,,,,bob,,,/code,/env/bin/python,,1\n"
    home = plan_of(tmp_path, text, channel=channel)
    config, options, workers = home.config, home.options, read_workers(f"{tmp_path}/workers.csv")
    moved = make_plan(workers, config, options, away=["bob@10.9.0.3:22"])
    places = {process.name: process.host.partition("@")[2] for process in moved.processes if "actor" in process.name}
    others = ["10.9.0.4:22", "10.9.0.4:22", "10.9.0.2:22"]
    assert list(places.values()) == [*others, others[0], *others]
    assert moved.hosts == home.hosts and not moved.processes_on("bob@10.9.0.3:22")
    kept = {process.name: process for process in home.processes if not process.name.startswith("tunnel")}
    for process in moved.processes:
        if process.name in ("learners", "actor-4", "actor-5", "actor-6"):
            assert process == kept[process.name]
        elif process.name.startswith("actor"):
            task = next(word for word in kept[process.name].argv if word.startswith("--task="))
            assert task in process.argv
            assert any(word.startswith("--learner_host=") for word in process.argv)
            if channel == "tls":
                assert {word for word in process.argv if "learner_host" in word} <= set(kept[process.name].argv)
    everywhere = {worker.host for worker in workers}
    assert make_plan(workers, config, options, away=everywhere) == home, "without another host they stay"


def test_a_row_with_an_image_runs_in_a_container_and_its_host_needs_only_a_python(tmp_path: Path) -> None:
    header = f"{BASE_HEADER},image,folder"
    learners = "learner,10.0.0.1,,0,,,,lab/learner:2,\nlearner,10.0.0.1,,1,,,,lab/learner:2,\n"
    actors = "actor,10.0.0.2,,,,ann,,mlma-actor,\nactor,10.0.0.3,,,,ann,,mlma.sif,/code\n"
    plan = plan_of(tmp_path, f"{header}\n{learners}{actors}")
    mpirun, first, second, *_tunnels = plan.processes
    assert first.argv[:3] == ("sh", "-c", f'exec {Options().container} "$@"')
    assert first.argv[3:7] == ("sh", "mlma-actor", "/opt/mlma/.venv/bin/python", "/opt/mlma/experiment.py")
    assert second.argv[4:7] == ("mlma.sif", "/code/.venv/bin/python", "/code/experiment.py")
    assert parse(list(first.argv[7:])).distributed.token_file == ".mlma/pong-1/10.0.0.2/token"
    argv = mpirun.argv[mpirun.argv.index("lab/learner:2") + 1 :]
    assert argv[:2] == ("env", "OMPI_MCA_mpi_yield_when_idle=1"), "a container has its own environment"
    assert "/opt/mlma/.venv/bin/mpirun" in argv and argv.count("/opt/mlma/experiment.py") == 2
    assert [plan.hosts[key].python for key in ("ann@10.0.0.2:22", "ann@10.0.0.3:22")] == [("python3",), ("python3",)]
    assert plan.container_engines(plan.hosts["ann@10.0.0.2:22"]) == ["podman"]


def test_several_learners_in_images_are_in_one_container(tmp_path: Path) -> None:
    for rows in ("learner,a,,,,,,x\nlearner,b,,,,,,x\n", "learner,a,,,,,,x\nlearner,a,,,,,,\n"):
        with pytest.raises(ValueError, match="rows 2, 3, column image: several learners run in one container"):
            plan_of(tmp_path, f"{BASE_HEADER},image\n{rows}actor,c,,,,,,\nactor,c,,,,,,\n")


def test_learners_with_different_pythons_are_refused_before_mpirun_fails(tmp_path: Path) -> None:
    row = "learner,10.9.0.2,,,,bob,,,/code"
    with pytest.raises(ValueError, match="Open MPI is expected next to python, in the same folder"):
        plan_of(tmp_path, FOUR_HOSTS.replace(f"{row},/env/bin", f"{row},/other/bin"))


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--levle_name=x"], "--levle_name: no such flag; did you mean --level_name"),
        (["--workers_csv=x"], "did you mean --workers_csv_path"),
        (["statsu"], "statsu: no such command; allowed: up, check, status"),
        (["down", "actor-3"], "down takes no 'actor-3'"),
        (["--task=3"], "--task: follows from the CSV"),
        (["--connect_seconds=0"], "--connect_seconds=0.0: must be at least 0.1"),
        (["--batch_size=many"], "--batch_size=many: must be an integer"),
    ],
)
def test_an_error_in_the_command_line_is_one_line(arguments: list[str], hint: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as error:
        parse_invocation(arguments)
    assert hint in str(error.value)
    assert "\n" not in str(error.value)


def test_no_flag_of_the_frontend_is_one_of_training_and_all_are_explained() -> None:
    options = option_table(Options, "Cluster")
    assert set(options) & set(flag_table()) == set()
    assert [name for name, flag in options.items() if len(flag.help) < 4 or not flag.group] == []
    assert DERIVED_FROM_CSV - set(flag_table()) == set()
    assert set(PERSISTED_FLAGS) <= set(options)


def test_the_command_in_the_readme_of_earlier_systems_runs_unchanged(tmp_path: Path) -> None:
    arguments = [
        "--workers_csv_path=sandbox/local_workers_example.csv", "--level_name=BreakoutNoFrameskip-v4",
        "--agent_name=SimpleConvNetAgent", "--num_action_repeats=1", "--batch_size=32", "--unroll_length=20",
        "--entropy_cost=0.01", "--learning_rate=0.0006", "--total_environment_frames=200000000",
        "--reward_clipping=abs_one", "--gradients_clipping=40.0",
    ]  # fmt: skip
    result = frontend("dry-run", *arguments, f"--logdir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    assert "--level_name=BreakoutNoFrameskip-v4" in result.stdout
    assert "--total_environment_frames=200000000.0" in result.stdout


def test_a_typo_is_reported_before_anything_starts(tmp_path: Path) -> None:
    path = write_csv(tmp_path, f"{BASE_HEADER}\nlearner,localhost,,,,,\nactor,localhost,,,,,\n")
    for flag, hint in (("--level_name=PongNoFrameskp-v4", "PongNoFrameskip-v4"), ("--sede=3", "--seed")):
        result = frontend(f"--workers_csv_path={path}", f"--logdir={tmp_path}/run", flag)
        assert result.returncode == 2
        assert hint in result.stderr
        assert not (tmp_path / "run").exists()


def test_two_hundred_rows_are_planned_in_seconds(tmp_path: Path) -> None:
    learners = ["learner,10.8.0.1,,,,bob,", "learner,10.8.0.2,,,,bob,"]
    actors = [f"actor,10.9.{i // 250}.{i % 250},,,,bob," for i in range(200)]
    path = write_csv(tmp_path, "\n".join([BASE_HEADER, *learners, *actors]) + "\n")
    started = time.monotonic()
    result = frontend("dry-run", f"--workers_csv_path={path}", "--level_name=corridor", f"--logdir={tmp_path}/run")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("--job_name=actor") == 200
    assert time.monotonic() - started < 30, "seconds on an idle machine"


def test_the_frontend_never_imports_tensorflow() -> None:
    code = "import sys, pkgutil, importlib, mlma.cluster as c\n"
    code += "[importlib.import_module(m.name) for m in pkgutil.walk_packages(c.__path__, 'mlma.cluster.')]\n"
    code += "assert len([name for name in sys.modules if name.startswith('mlma.cluster.')]) > 20\n"
    code += "assert not {'tensorflow', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
