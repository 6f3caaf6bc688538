"""The state that the frontend keeps of a run: complete, without passwords, readable in later versions."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from mlma.cluster.context import make_context
from mlma.cluster.frontend_lock import RunIsLockedError, frontend_lock
from mlma.cluster.options import Options, parse_invocation
from mlma.cluster.planning.launch_plan import make_plan
from mlma.cluster.planning.workers_csv import read_workers
from mlma.cluster.state import State, load_state, merged_options
from mlma.core.config import Config, parse, to_argv
from tests.support.workers_csv import BASE_HEADER, FOUR_HOSTS, write_csv


def test_the_state_of_a_run_never_contains_a_password(tmp_path: Path) -> None:
    workers = read_workers(write_csv(tmp_path, f"{BASE_HEADER}\nlearner,a,,,,u,hunter2\nactor,a,,,,u,hunter2\n"))
    hosts = make_plan(workers, Config(), Options()).hosts
    state = State(tmp_path / "run" / "cluster", "id", workers, ["--seed=2"], {"channel": "tls"}, 3, hosts, True)
    state.save()
    assert "hunter2" not in state.path.read_text()
    loaded = load_state(str(tmp_path / "run"))
    assert loaded.workers == [dataclasses.replace(worker, ssh_password="") for worker in workers]
    assert (loaded.contacted_hosts, loaded.actors, loaded.options, loaded.up) == (hosts, 3, {"channel": "tls"}, True)


def test_the_state_that_an_earlier_version_wrote_is_read(tmp_path: Path) -> None:
    workers = read_workers(write_csv(tmp_path, FOUR_HOSTS))
    hosts = make_plan(workers, Config(), Options()).hosts
    state = State(tmp_path / "cluster", "id", workers, ["--seed=2"], {}, 0, hosts, True)
    state.save()
    values = json.loads(state.path.read_text())
    values["touched"] = values.pop("contacted_hosts")
    values["options"] = {"hung_seconds": 7.0, "tunnel": True}
    values["argv"] = ["--seed=2", "--learner_parts=2"]
    state.path.write_text(json.dumps(values))
    loaded = load_state(str(tmp_path))
    assert (loaded.workers, loaded.contacted_hosts) == (workers, hosts)
    assert merged_options(loaded, {}) == Options(worker_hang_seconds=7.0, channel="ssh")
    assert loaded.argv == to_argv(parse(loaded.argv)) == ["--seed=2", "--gradient_shards=2"]


@pytest.mark.parametrize("is_up", [True, False])
def test_a_run_of_an_earlier_version_keeps_its_folder_on_hosts_until_it_ends(tmp_path: Path, is_up: bool) -> None:
    logdir = tmp_path / "my run"
    workers = read_workers(write_csv(tmp_path, FOUR_HOSTS))
    hosts = make_plan(workers, Config(), Options()).hosts if is_up else {}
    State(logdir / "cluster", "id", workers, [], {}, 0, hosts, is_up).save()
    values = json.loads((logdir / "cluster/run.json").read_text())
    earlier = {key: value for key, value in values.items() if key not in ("name", "session", "logdir")}
    (logdir / "cluster/run.json").write_text(json.dumps(earlier))
    plan = make_context(parse_invocation(["status", f"--logdir={logdir}"])).plan
    assert (plan.name, plan.session) == ("my-run", "my-run" if is_up else "my-run-id")


def test_a_copied_logdir_is_another_run_and_a_moved_one_is_the_same(tmp_path: Path) -> None:
    workers = read_workers(write_csv(tmp_path, FOUR_HOSTS))
    hosts = make_plan(workers, Config(), Options()).hosts
    state = State(tmp_path / "a/cluster", "id", workers, name="a", session="a-id")
    state.save()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = load_state(str(tmp_path / "b"))
    assert copy.id != "id" and (copy.session, load_state(str(tmp_path / "a")).session) == ("", "a-id")
    state.contacted_hosts = hosts
    state.save()
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    with pytest.raises(
        ValueError, match=f"a copy of the state of the run in {tmp_path}/a, which is up; use that logdir"
    ):
        load_state(str(tmp_path / "c"))
    shutil.rmtree(tmp_path / "a")
    assert (load_state(str(tmp_path / "c")).id, load_state(str(tmp_path / "c")).session) == ("id", "a-id")


def test_flags_of_the_last_up_are_kept_and_changes_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = read_workers(write_csv(tmp_path, FOUR_HOSTS))
    flags = ["--seed=2", "--batch_size=8", "--level_name=catch", "--preset=impala_shallow"]
    State(tmp_path / "cluster", "id", workers, flags, {"channel": "tls"}).save()

    def config_of(*arguments: str) -> list[str]:
        plan = make_context(parse_invocation(["up", *arguments, f"--logdir={tmp_path}"])).plan
        assert plan.options.channel == "tls"
        return sorted(word for word in to_argv(plan.config) if not word.startswith("--logdir"))

    assert config_of() == sorted(flags)
    assert capsys.readouterr().err == ""
    assert config_of("--batch_size=4", "--mpirun=/opt/mpirun") == sorted([*flags[2:], "--seed=2", "--batch_size=4"])
    assert capsys.readouterr().err == (
        "changed since the last `up`: --batch_size=4 (was 8), --mpirun=/opt/mpirun (was auto)\n"
        "kept from it: --seed=2 --level_name=catch --preset=impala_shallow; to drop one, give its default\n"
    )
    config_of("--env=KEY=secret")
    assert capsys.readouterr().err.startswith("changed since the last `up`: --env\n"), "not its values"
    (tmp_path / "more.json").write_text('{"batch_size": 16}')
    assert "--batch_size=16" in config_of(f"--config={tmp_path}/more.json"), "a file is given by this call, too"
    assert config_of(f"--seed={Config().run.seed}") == sorted(flags[1:]), "the default drops a flag"
    with pytest.raises(ValueError, match=r"--preset=impala_shallow.*; flags of the last `up`, which are kept: "):
        config_of("--algorithm=apex")


def test_the_lock_of_a_run_leaves_a_logdir_without_a_run_as_it_was(tmp_path: Path) -> None:
    for command in ("up", "down", "status"):
        with frontend_lock(command, str(tmp_path / "a/b")):
            assert (tmp_path / "a/b/cluster/lock").exists() == (command == "up")
        assert not (tmp_path / "a").exists()
    with (
        frontend_lock("up", str(tmp_path)),
        frontend_lock("status", str(tmp_path)),
        pytest.raises(RunIsLockedError, match=f"`up` is at work on this run: process {os.getpid()} on "),
        frontend_lock("down", str(tmp_path)),
    ):
        pass
    with frontend_lock("up", str(tmp_path)):
        pass
