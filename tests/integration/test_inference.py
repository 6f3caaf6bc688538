"""Acting in the learner: the same trajectories as in the actor, over a real server; and what goes wrong on the way."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import make_agent
from mlma.acting.environment_loop import ActorDependencies, run_environment_loop
from mlma.acting.inference_server import InferenceServer
from mlma.acting.trajectory_writer import env_indices
from mlma.core.config import Config, parse
from mlma.core.flat_weights import FlatWeights, build_variables
from mlma.core.presets.resolve import resolve
from mlma.core.record_layout import trajectory_layout
from mlma.core.types import Agent, EnvSpec
from mlma.envs.registry import env_spec, make_for_levels
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.phase_timer import ACTOR_PHASES
from mlma.transport.client import Client
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import pack, unpack
from mlma.transport.server import Server
from tests.integration.test_transport import SERVERS
from tests.support.runs import Process, rows

R2D2 = ["--unroll_length=5", "--burn_in=2", "--sequence_length=9"]
CASES = {
    "impala": ["--level_name=catch", "--unroll_length=7", "--envs_per_actor=3"],
    "impala with memory": ["--level_name=tmaze", "--unroll_length=9", "--envs_per_actor=4"],
    "r2d2": ["--level_name=catch", "--algorithm=r2d2", *R2D2, "--envs_per_actor=2"],
    "apex and pictures": ["--algorithm=apex", "--agent_name=ShallowConvNetAgent", "--unroll_length=6", "--envs_per_actor=2"],
    "two levels": ["--level_name=atari_pong,atari_breakout", "--unroll_length=8", "--envs_per_actor=4"],
}  # fmt: skip


def prepare(*argv: str) -> tuple[Config, EnvSpec, Agent]:
    config = parse([*argv, "--num_actors=1", "--job_name=actor", "--task=0"])
    spec = env_spec(config.environment)
    config = resolve(config, spec, cores=2)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    return config, spec, agent


class Learner:
    """The end of the wire that hands out weights, acts, and collects trajectories; it never trains."""

    def __init__(self, folder: Path, config: Config, spec: EnvSpec, version: int = 3) -> None:
        self.layout = trajectory_layout(spec, make_agent(config, spec), config.learner.unroll_length)
        self.inference = InferenceServer(config, spec, make_agent(config, spec))
        self.server = Server(f"unix:{folder}/socket", "", self._welcome, self.inference)
        SERVERS.append(self.server)
        self.count = FlatWeights(self.inference._agent.network).count
        self.publish(version)
        self.server.start()
        self.records: list[Any] = []

    def publish(self, version: int) -> None:
        self.server.publish(version, 0.1 * tf.random.stateless_normal([self.count], [1, version]))

    def _welcome(self, offer: dict[str, Any]) -> dict[str, Any]:
        session = self.inference.open(0, offer["envs"], env_indices(0, 1, offer["envs"]), 40)
        return {"seed": 40, "actor": 0, "actors": 1, "time": 0.0, "session": session}

    def collect(self, trajectories: int) -> Any:
        """So many, from all that come."""
        records = self.layout.empty(0)
        while len(records) < trajectories:
            header, payload = unpack(self.server.receive() or b"")
            assert header["task"] == 0
            assert set(header["phases"]) == set(ACTOR_PHASES)
            records = np.concatenate([records, self.layout.from_bytes(payload)])
        return records


def play(folder: Path, *argv: str) -> threading.Thread:
    config, spec, agent = prepare(*argv)
    outside = ActorDependencies(
        make_env=lambda seed, places: make_for_levels(
            config.environment, spec, places % (len(spec.actions_by_level) or 1), seed
        ),
        connect=lambda: Client(f"unix:{folder}/socket", "", 20),
        handshake_request=lambda layout, weights: {"envs": config.actor.envs_per_actor},
        heartbeat=Heartbeat("", "actor-0"),
    )
    thread = threading.Thread(target=run_environment_loop, args=(config, spec, agent, outside), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("case", CASES)
def test_the_same_trajectories_come_of_acting_here_and_there(tmp_path: Path, case: str) -> None:
    config, spec, _ = prepare(*CASES[case])
    found = []
    for where in ("actor", "learner"):
        folder = tmp_path / where
        folder.mkdir()
        learner = Learner(folder, config, spec)
        player = play(folder, *CASES[case], f"--inference={where}")
        found.append(learner.collect(5 * config.actor.envs_per_actor))
        learner.server.shutdown(1)
        player.join(20)
        assert not player.is_alive(), "an actor that is told the end ends"
    view, other = (learner.layout.view(records) for records in found)
    assert len(np.unique(view.act_outputs.action)) > 1
    assert (view.weights_version == 3).all()
    for mine, its in zip(tf.nest.flatten(view), tf.nest.flatten(other), strict=True):
        if mine is None:
            continue
        if mine.dtype.kind == "f":  # a graph for batches of any size rounds otherwise
            np.testing.assert_allclose(mine, its, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(mine, its)


def ask(client: Client, message: bytes) -> dict[str, Any]:
    return unpack(client.infer(message)[0])[0]


def test_who_is_not_known_or_not_understood_is_told_so_and_the_others_go_on(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"])
    learner = Learner(tmp_path, config, spec)
    client = Client(f"unix:{tmp_path}/socket", "", 20)
    layout, _ = inference_layouts(spec, 3)
    fine = pack({"session": learner._welcome({"envs": 3})["session"]}, layout.empty(1).tobytes())
    assert ask(client, fine) == {}
    assert "does not know us" in ask(client, pack({"session": 77}, layout.empty(1).tobytes()))["refused"]
    for wrong in (b"", b"noise", fine[:-1], pack({}), pack({"session": 0}), pack({"session": 0}, b"x" * 50)):
        assert "does not understand" in ask(client, wrong)["refused"]
    assert ask(client, fine) == {}
    stranger = Client(f"unix:{tmp_path}/socket", "a token", 20)
    assert "token" in ask(stranger, fine)["refused"]


def test_actors_that_ask_at_the_same_time_share_a_batch(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"], "--inference_batch=12", "--inference_wait_ms=2000")
    learner = Learner(tmp_path, config, spec)
    layout, replies = inference_layouts(spec, 3)
    answers: list[bytes] = []

    def one() -> None:
        client = Client(f"unix:{tmp_path}/socket", "", 20)
        session = learner._welcome({"envs": 3})["session"]
        answers.append(client.infer(pack({"session": session}, layout.empty(1).tobytes()))[0])

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert learner.inference.batch_size() == pytest.approx(12)
    logits = [replies.view(replies.from_bytes(unpack(each)[1])).logits for each in answers]
    assert all(np.array_equal(each, logits[0]) for each in logits), "all saw the same"


def test_a_batch_is_filled_up_to_a_size_that_is_allowed(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"], "--inference_batch=16", "--inference_sizes=8,16", "--inference_wait_ms=0")
    learner = Learner(tmp_path, config, spec)
    layout, _ = inference_layouts(spec, 3)
    client = Client(f"unix:{tmp_path}/socket", "", 20)
    assert ask(client, pack({"session": learner._welcome({"envs": 3})["session"]}, layout.empty(1).tobytes())) == {}
    assert learner.inference.batch_size() == pytest.approx(8)


def test_each_answer_is_of_the_weights_that_were_published_last(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"])
    learner = Learner(tmp_path, config, spec)
    layout, replies = inference_layouts(spec, 3)
    client = Client(f"unix:{tmp_path}/socket", "", 20)
    message = pack({"session": learner._welcome({"envs": 3})["session"]}, layout.empty(1).tobytes())
    values = []
    for version in (3, 4, 2**40, 5):
        learner.publish(version)
        values.append(replies.view(replies.from_bytes(unpack(client.infer(message)[0])[1])).value[0, 0])
        assert int(learner.inference._acts_with) == version
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--inference=learner --deterministic", "not with --deterministic"),
        ("--inference_sizes=8,4", "must be ascending numbers"),
        ("--inference_sizes=8,16 --inference_batch=20", "the last one --inference_batch=20"),
        ("--inference_sizes=8,x --inference_batch=8", "must be ascending numbers"),
        ("--inference=learners", "learner"),
    ],
)
def test_a_mistake_is_one_line(words: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse(words.split())
    assert "\n" not in str(caught.value)


def test_an_observation_too_large_for_a_call_is_refused_with_what_fits(tmp_path: Path) -> None:
    config, spec, _ = prepare("--level_name=CartPole-v1")
    inference = InferenceServer(config, spec, make_agent(config, spec))
    with pytest.raises(ValueError, match="--envs_per_actor of at most"):
        inference.open(0, 200_000, np.arange(200_000), 1)


def test_training_with_actors_that_ask_learns_and_ends_by_itself(tmp_path: Path) -> None:
    flags = ["--level_name=catch", "--inference=learner", "--num_actors=2", "--total_environment_frames=8e4"]
    with Process(tmp_path, "train", *flags, f"--logdir={tmp_path}/run", "--report_every_seconds=1") as run:
        assert run.wait(120) == 0, run.text()
    table = rows(tmp_path / "run")
    assert table[-1]["frames"] >= 8e4
    assert table[-1]["return/mean"] > 0, "at random it is -.6"
    assert table[-1]["inference/batch"] >= 16
    assert table[-1]["lag/max"] < 40
