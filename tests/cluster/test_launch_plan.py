"""From a CSV to commands, without any host: mistakes are all told at once, and what would run is what was meant."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlma.cluster.options import DERIVED_FROM_CSV, Options, parse_invocation
from mlma.cluster.planning.launch_plan import Plan, container_engines, make_plan
from mlma.cluster.planning.workers_csv import CsvErrors, csv_warnings, read_workers
from mlma.cluster.state import PERSISTED_FLAGS, State, load_state
from mlma.core.config import Config, flag_table, parse
from mlma.core.config.flags import flag_table as options_table
from tests.support.runs import ROOT

ANCESTOR = "job,ip,tf_port,cuda_visible_devices,ssh_port,ssh_username,ssh_password"
WIDE = f"{ANCESTOR},ssh_key_file,folder,python,envs_per_actor,num_actors"
FOUR = f"""{WIDE}
learner,10.9.0.1,8001,0,2222,ann,,,/code,/env/bin/python,,
learner,10.9.0.1,8002,1,2222,ann,,,/code,/env/bin/python,,
learner,10.9.0.2,,,,bob,,,/code,/env/bin/python,,
actor,10.9.0.3,,,,bob,,,,,,4
actor,10.9.0.4,,,,bob,,,"/my code","conda run -n rl python",7,2
"""


def csv(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "workers.csv"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def make(tmp_path: Path, text: str = FOUR, actors: int = 0, **given: object) -> Plan:
    return make_plan(
        read_workers(csv(tmp_path, text)), Config.from_flags(logdir="/runs/pong.1"), Options(**given), actors
    )  # type: ignore[arg-type]


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(CsvErrors) as caught:
        read_workers(csv(tmp_path, text))
    return str(caught.value).splitlines()


def frontend(*words: str, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "run_experiment_mm_raw.py"), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_csv_of_the_ancestor_is_read_as_it_stands(tmp_path: Path) -> None:
    rows = [
        "learner,localhost,8001,0,,,",
        "actor,localhost,9001,,,,",
        "actor,10.0.0.7,9002,,36000,root,secret word ",
        "",
    ]
    text = "\r\n".join([ANCESTOR, *rows])
    with pytest.raises(CsvErrors, match="cannot reach a learner there"):
        read_workers(csv(tmp_path, text))
    learner, first, second = read_workers(csv(tmp_path, text.replace("learner,localhost", "learner,10.0.0.8")))
    assert (learner.job, learner.tf_port, learner.cuda_visible_devices, learner.local) == ("learner", 8001, "0", False)
    assert (first.local, first.host) == (True, "localhost")
    assert (second.host, second.ssh_password) == ("root@10.0.0.7:36000", "secret word ")
    assert "secret" not in repr(second)


def test_all_mistakes_are_told_at_once_with_row_column_value_and_what_is_allowed(tmp_path: Path) -> None:
    text = f"""{ANCESTOR},num_actors
learner,10.0.0.1,80001,,,,,
# a comment
actr,10.0.0.2,,,ssh,bob,hunter2,
actor,,9001,,,,,0
actor,10.0.0.3
learner,10.0.0.4,,,,-oProxyCommand=x,,2
"""
    path = str(tmp_path / "workers.csv")
    found = mistakes(tmp_path, text)
    assert found == [
        f"{path}, row 2, column tf_port: '80001': must be an integer from 1 to 65535, or empty",
        f"{path}, row 4, column job: 'actr': must be learner or actor",
        f"{path}, row 4, column ssh_port: 'ssh': must be an integer from 1 to 65535, or empty",
        f"{path}, row 5, column ip: '': must be a host name or an IPv4 address, or localhost",
        f"{path}, row 5, column num_actors: '0': must be an integer from 1 to 10000, or empty",
        f"{path}, row 6, 2 fields under 8 columns: must be as many, empty ones too; a field with a comma in it needs quotes "
        '("0,1")',
        f"{path}, row 7, column ssh_username: '-oProxyCommand=x': must be a user name, or empty",
        f"{path}, row 7, column num_actors: '2': must be empty for a learner",
    ]


@pytest.mark.parametrize(
    ("text", "helps"),
    [
        ("", "the header is missing"),
        ("learner,localhost,8001,,,,\n", "column 'job': is needed"),
        (f"{ANCESTOR},gpu\n", "column 'gpu': no such column"),
        (f"{ANCESTOR},envs_per_actors\n", "nearest: envs_per_actor"),
        (f"{ANCESTOR}\nactor,a,,,,,\n", "no row is a learner"),
        (f"{ANCESTOR}\nlearner,a,,,,,\n", "0 actors for 1 learners"),
        (
            f"{ANCESTOR}\nlearner,a,1,,,,\nlearner,a,1,,,,\nactor,a,,,,,\nactor,a,,,,,\n",
            "row 3, column tf_port: '1': is that of",
        ),
        (f"{ANCESTOR}\nlearner,a,,,,u,x\nactor,a,,,,u,y\n", "row 3, column ssh_password: differs from row 2"),
        (
            f"{ANCESTOR},ssh_key_file\nlearner,a,,,,,,/no/such\nactor,a,,,,,,\n",
            "'/no/such': must be a file on this machine",
        ),
        (f'{ANCESTOR},python\nlearner,a,,,,,,"it\'s"\nactor,a,,,,,,\n', "must be a command, quoted as in a shell"),
        (f"{ANCESTOR},image\nlearner,a,,,,,,--privileged\nactor,a,,,,,,\n", "must be the name or the file of an image"),
        (f"{ANCESTOR},folder\nlearner,a,,,,,,~/code\nactor,a,,,,,,\n", "without ~"),
    ],
)
def test_a_csv_that_cannot_run_is_refused(tmp_path: Path, text: str, helps: str) -> None:
    assert helps in "\n".join(mistakes(tmp_path, text))


def test_a_csv_with_passwords_that_others_can_read_is_warned_about(tmp_path: Path) -> None:
    text = f"{ANCESTOR}\nlearner,a,,,,u,secret\nactor,a,,,,u,\n"
    path = csv(tmp_path, text, 0o644)
    (line,) = csv_warnings(path, read_workers(path))
    assert "mode 0644" in line and "chmod 600" in line and "secret" not in line
    path = csv(tmp_path, text, 0o600)
    assert csv_warnings(path, read_workers(path)) == []


def test_actors_are_dealt_to_learners_in_turn_and_each_gets_its_command(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert made.session == "pong-1"
    assert [learner.actors for learner in made.learners] == [(0, 3), (1, 4), (2, 5)]
    assert [learner.port for learner in made.learners] == [8001, 8002, 8001]
    windows = {window.name: window for window in made.windows}
    words = windows["actor-5"].words
    assert words[:5] == ("conda", "run", "-n", "rl", "python")
    assert words[5] == "/my code/experiment.py"
    assert parse(list(words[6:])) == Config.from_flags(
        logdir="/runs/pong.1",
        job_name="actor",
        task=1,
        learner_host="10.9.0.2:8001",
        envs_per_actor=7,
        token_file=".mlma/pong-1/10.9.0.4/token",
        heartbeat_folder=".mlma/pong-1/10.9.0.4/health/actor-5",
    )
    assert windows["actor-0"].words[0] == "mlma/.venv/bin/python"
    assert [window.name for window in made.on("bob@10.9.0.3:22")] == ["actor-0", "actor-1", "actor-2", "actor-3"]


def test_learners_are_one_mpirun_across_their_hosts(tmp_path: Path) -> None:
    made = make(tmp_path)
    (window,) = made.on("ann@10.9.0.1:2222")
    assert (window.name, window.words[0]) == ("learners", "/env/bin/mpirun")
    segments = " ".join(window.words).split(" : ")
    assert len(segments) == 3
    for segment, words in zip(segments, ("10.9.0.1:1", "10.9.0.1:1", "10.9.0.2:1"), strict=True):
        assert f"--host {words} -np 1 " in segment
    assert "CUDA_VISIBLE_DEVICES=1 /env/bin/python /code/experiment.py" in segments[1]
    assert "--learner_host=10.9.0.1:8002 --actor_hosts=10.9.0.3:9002,10.9.0.4:9005 " in segments[1]
    assert all("--num_learners=3" in segment for segment in segments)
    assert (
        window.env["PRTE_MCA_plm_ssh_agent"]
        == window.env["OMPI_MCA_plm_rsh_agent"]
        == "ssh -F .mlma/pong-1/10.9.0.1-2222/ssh_config"
    )


def test_one_learner_needs_no_mpirun(tmp_path: Path) -> None:
    made = make(tmp_path, f"{ANCESTOR}\nlearner,localhost,8005,,,,\nactor,localhost,,,,,\n")
    learner, actor = made.windows
    assert learner.words[0] == actor.words[0] == sys.executable
    assert parse(list(actor.words[2:])).distributed.learner_host == "localhost:8005"


def test_with_a_tunnel_nothing_listens_beyond_loopback(tmp_path: Path) -> None:
    made = make(tmp_path, tunnel=True)
    text = " ".join(word for window in made.windows for word in window.words)
    assert "--learner_host=10." not in text
    assert "--learner_host=127.0.0.1:8002" in text
    assert "--learner_host=unix:.mlma/pong-1/10.9.0.3/learner-2.sock" in text
    tunnels = [window for window in made.on("bob@10.9.0.3:22") if window.name.startswith("tunnel")]
    assert [window.name for window in tunnels] == ["tunnel-0", "tunnel-1", "tunnel-2"]
    assert tunnels[0].serves == ("actor-0", "actor-3")


def test_more_actors_than_rows_go_round_the_rows_and_fewer_are_the_first(tmp_path: Path) -> None:
    assert len([w for w in make(tmp_path, actors=14).on("bob@10.9.0.4:22") if w.name.startswith("actor")]) == 4
    assert [w.name for w in make(tmp_path, actors=3).windows] == ["learners", "actor-0", "actor-1", "actor-2"]
    with pytest.raises(ValueError, match="2 actors for 3 learners"):
        make(tmp_path, actors=2)


def test_a_row_with_an_image_runs_in_a_container_and_its_host_needs_only_a_python(tmp_path: Path) -> None:
    text = f"{ANCESTOR},image,folder\nlearner,10.0.0.1,,0,,,,lab/learner:2,\nlearner,10.0.0.1,,1,,,,lab/learner:2,\n"
    made = make(tmp_path, f"{text}actor,10.0.0.2,,,,ann,,mlma-actor,\nactor,10.0.0.3,,,,ann,,mlma.sif,/code\n")
    learners, first, second = made.windows
    assert first.words[:3] == ("sh", "-c", f'exec {Options().container} "$@"')
    assert first.words[3:7] == ("sh", "mlma-actor", "/opt/mlma/.venv/bin/python", "/opt/mlma/experiment.py")
    assert second.words[4:7] == ("mlma.sif", "/code/.venv/bin/python", "/code/experiment.py")
    assert parse(list(first.words[7:])).distributed.token_file == ".mlma/pong-1/10.0.0.2/token"
    words = learners.words[learners.words.index("lab/learner:2") + 1 :]
    assert words[:2] == ("env", "OMPI_MCA_mpi_yield_when_idle=1"), "a container has an environment of its own"
    assert "/opt/mlma/.venv/bin/mpirun" in words and words.count("/opt/mlma/experiment.py") == 2
    assert [made.hosts[key].python for key in ("ann@10.0.0.2:22", "ann@10.0.0.3:22")] == [("python3",), ("python3",)]
    assert container_engines(made, made.hosts["ann@10.0.0.2:22"]) == ["podman"]


def test_several_learners_in_images_are_in_one_container(tmp_path: Path) -> None:
    for rows in ("learner,a,,,,,,x\nlearner,b,,,,,,x\n", "learner,a,,,,,,x\nlearner,a,,,,,,\n"):
        with pytest.raises(ValueError, match="rows 2, 3, column image: several learners run in one container"):
            make(tmp_path, f"{ANCESTOR},image\n{rows}actor,c,,,,,,\nactor,c,,,,,,\n")


def test_learners_with_different_pythons_are_refused_before_mpirun_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Open MPI is looked for in the same folder"):
        make(
            tmp_path,
            FOUR.replace("learner,10.9.0.2,,,,bob,,,/code,/env/bin", "learner,10.9.0.2,,,,bob,,,/code,/other/bin"),
        )


def test_the_state_of_a_run_never_holds_a_password(tmp_path: Path) -> None:
    workers = read_workers(csv(tmp_path, f"{ANCESTOR}\nlearner,a,,,,u,hunter2\nactor,a,,,,u,hunter2\n"))
    hosts = make_plan(workers, Config(), Options()).hosts
    kept = State(tmp_path / "run" / "cluster", "id", workers, ["--seed=2"], {"tunnel": True}, 3, hosts, True)
    kept.save()
    assert "hunter2" not in kept.path.read_text()
    again = load_state(str(tmp_path / "run"))
    assert again.workers == [dataclasses.replace(worker, ssh_password="") for worker in workers]
    assert (again.touched, again.actors, again.options, again.up) == (hosts, 3, {"tunnel": True}, True)


@pytest.mark.parametrize(
    ("words", "helps"),
    [
        (["--levle_name=x"], "--levle_name: no such flag; nearest: --level_name"),
        (["--workers_csv=x"], "nearest: --workers_csv_path"),
        (["statsu"], "statsu: no such verb; allowed: up, check, status"),
        (["down", "actor-3"], "down takes no 'actor-3'"),
        (["--task=3"], "--task: follows from the CSV"),
        (["--connect_seconds=0"], "--connect_seconds=0.0: must be at least 0.1"),
        (["--batch_size=many"], "--batch_size=many: must be an integer"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(words: list[str], helps: str) -> None:
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse_invocation(words)
    assert helps in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_flag_of_the_frontend_is_one_of_training_and_all_are_explained() -> None:
    ours = options_table(Options)
    assert set(ours) & set(flag_table()) == set()
    assert [name for name, flag in ours.items() if len(flag.help) < 4 or not flag.group] == []
    assert DERIVED_FROM_CSV - set(flag_table()) == set()
    assert set(PERSISTED_FLAGS) <= set(ours)


def test_the_command_of_the_ancestors_readme_runs_as_it_stands(tmp_path: Path) -> None:
    words = [
        "--workers_csv_path=sandbox/local_workers_example.csv", "--level_name=BreakoutNoFrameskip-v4",
        "--agent_name=SimpleConvNetAgent", "--num_action_repeats=1", "--batch_size=32", "--unroll_length=20",
        "--entropy_cost=0.01", "--learning_rate=0.0006", "--total_environment_frames=200000000", "--reward_clipping=abs_one",
        "--gradients_clipping=40.0",
    ]  # fmt: skip
    done = frontend("dry-run", *words, f"--logdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert "--level_name=BreakoutNoFrameskip-v4" in done.stdout
    assert "--total_environment_frames=200000000.0" in done.stdout


def test_a_typo_is_answered_before_anything_starts(tmp_path: Path) -> None:
    path = csv(tmp_path, f"{ANCESTOR}\nlearner,localhost,,,,,\nactor,localhost,,,,,\n")
    for words, helps in ((["--level_name=PongNoFrameskp-v4"], "nearest: PongNoFrameskip-v4"), (["--sede=3"], "--seed")):
        done = frontend(f"--workers_csv_path={path}", f"--logdir={tmp_path}/run", *words)
        assert done.returncode == 2
        assert helps in done.stderr
        assert not (tmp_path / "run").exists()


def test_two_hundred_rows_are_planned_in_seconds(tmp_path: Path) -> None:
    rows = [f"actor,10.9.{i // 250}.{i % 250},,,,bob," for i in range(200)]
    path = csv(tmp_path, "\n".join([ANCESTOR, "learner,10.8.0.1,,,,bob,", "learner,10.8.0.2,,,,bob,", *rows]) + "\n")
    begun = time.monotonic()
    done = frontend("dry-run", f"--workers_csv_path={path}", "--level_name=corridor", f"--logdir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--job_name=actor") == 200
    assert time.monotonic() - begun < 30, "seconds on an idle machine"


def test_the_frontend_never_imports_tensorflow() -> None:
    code = "import sys, pkgutil, importlib, mlma.cluster as c\n"
    code += "[importlib.import_module(f'mlma.cluster.{m.name}') for m in pkgutil.iter_modules(c.__path__)]\n"
    code += "assert not {'tensorflow', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
