"""The state that the frontend keeps of a run: complete, without passwords, readable in later versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from mlma.cluster.options import Options
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
