"""Inference in the learner: the same trajectories as in the actor, over a real server; and its errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from agents import make_agent
from mlma.acting.action_noise import NoiseGenerator
from mlma.acting.environment_loop import ActorDependencies, run_environment_loop
from mlma.acting.inference_server import InferenceServer
from mlma.acting.remote_policy import RemotePolicy
from mlma.acting.telemetry import Instruments, LevelCacheReport, ThroughputLogger
from mlma.acting.trajectory_writer import env_indices
from mlma.core.config import Config, parse
from mlma.core.flat_weights import FlatWeights, build_variables
from mlma.core.presets.resolve import resolve
from mlma.core.record_layout import trajectory_layout
from mlma.core.types import Agent, EnvSpec
from mlma.envs.registry import env_spec, make_for_levels
from mlma.monitoring.heartbeat import Heartbeat
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from mlma.transport.client import Client
from mlma.transport.inference_messages import inference_layouts
from mlma.transport.messages import pack, unpack
from mlma.transport.server import Server
from tests.support.runs import Process, rows, wait_for
from tests.support.servers import SERVERS

R2D2 = ["--unroll_length=5", "--burn_in=2", "--sequence_length=9"]
CASES = {
    "impala": ["--level_name=catch", "--unroll_length=7", "--envs_per_actor=3"],
    "recurrent impala": ["--level_name=tmaze", "--unroll_length=9", "--envs_per_actor=4"],
    "real actions": [
        "--level_name=Pendulum-v1", "--unroll_length=7", "--envs_per_actor=3", "--normalize_observations=off",
    ],
    "r2d2": ["--level_name=catch", "--algorithm=r2d2", *R2D2, "--envs_per_actor=2"],
    "apex with images": [
        "--algorithm=apex", "--agent_name=ShallowConvNetAgent", "--unroll_length=6", "--envs_per_actor=2",
    ],
    "two levels": ["--level_name=atari_pong,atari_breakout", "--unroll_length=8", "--envs_per_actor=4"],
}  # fmt: skip


def prepare(*argv: str) -> tuple[Config, EnvSpec, Agent]:
    """The resolved configuration of an actor, its spec and an agent with variables."""
    config = parse([*argv, "--num_actors=1", "--job_name=actor", "--task=0"])
    spec = env_spec(config.environment)
    config = resolve(config, spec, cores=2)
    agent = make_agent(config, spec)
    build_variables(agent, spec)
    return config, spec, agent


class Learner:
    """A learner's server and inference server; it collects trajectories but never trains."""

    def __init__(self, folder: Path, config: Config, spec: EnvSpec, version: int = 3) -> None:
        self.layout = trajectory_layout(spec, make_agent(config, spec), config.learner.unroll_length)
        self.inference = InferenceServer(config, spec, make_agent(config, spec))
        self.server = Server(f"unix:{folder}/socket", "", self.admit, self.inference)
        SERVERS.append(self.server)
        self.num_weights = FlatWeights(self.inference._agent.network).count
        self.publish(version)
        self.server.start()
        self.records: list[Any] = []

    def publish(self, version: int) -> None:
        """Publishes random weights that depend on the version."""
        self.server.publish(version, 0.1 * tf.random.stateless_normal([self.num_weights], [1, version]))

    def admit(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a handshake request."""
        task, num_envs = request.get("task", 0), request["envs"]
        session = self.inference.open(task, num_envs, env_indices(0, 1, num_envs), 40)
        return {"seed": 40, "actor": 0, "actors": 1, "time": 0.0, "session": session}

    def collect(self, trajectories: int) -> Any:
        """The first trajectories that arrive."""
        records = self.layout.empty(0)
        while len(records) < trajectories:
            header, payload = unpack(self.server.receive() or b"")
            assert header["task"] == 0
            assert set(header["phases"]) == set(ACTOR_PHASES)
            records = np.concatenate([records, self.layout.from_bytes(payload)])
        return records


def start_actor(folder: Path, *argv: str) -> threading.Thread:
    """Runs an environment loop that connects to the learner in `folder`."""
    config, spec, agent = prepare(*argv)
    num_levels = len(spec.actions_by_level) or 1
    dependencies = ActorDependencies(
        make_env=lambda seed, indices: make_for_levels(config.environment, spec, indices % num_levels, seed),
        connect=lambda: Client(f"unix:{folder}/socket", "", 20),
        handshake_request=lambda layout, weights: {"envs": config.actor.envs_per_actor},
        heartbeat=Heartbeat("", "actor-0"),
    )
    thread = threading.Thread(target=run_environment_loop, args=(config, spec, agent, dependencies), daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("case", CASES)
def test_inference_in_actor_and_learner_gives_the_same_trajectories(tmp_path: Path, case: str) -> None:
    config, spec, _ = prepare(*CASES[case])
    collected = []
    for place in ("actor", "learner"):
        folder = tmp_path / place
        folder.mkdir()
        learner = Learner(folder, config, spec)
        actor = start_actor(folder, *CASES[case], f"--inference={place}")
        collected.append(learner.collect(5 * config.actor.envs_per_actor))
        learner.server.shutdown(1)
        actor.join(20)
        assert not actor.is_alive(), "an actor ends when training is over"
    view, other = (learner.layout.view(records) for records in collected)
    assert len(np.unique(view.act_outputs.action)) > 1
    assert (view.weights_version == 3).all()
    for one, two in zip(tf.nest.flatten(view), tf.nest.flatten(other), strict=True):
        if one is None:
            continue
        if one.dtype.kind == "f":  # a graph for batches of any size rounds differently
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, two)


def infer(client: Client, message: bytes) -> dict[str, Any]:
    """The header of the reply."""
    return unpack(client.infer(message)[0])[0]


def test_unknown_and_malformed_requests_are_refused_and_the_others_continue(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"])
    learner = Learner(tmp_path, config, spec)
    client = Client(f"unix:{tmp_path}/socket", "", 20)
    layout, _ = inference_layouts(spec, 3)
    session = {"session": learner.admit({"envs": 3})["session"]}
    valid = pack(session, layout.empty(1).tobytes())
    assert infer(client, valid) == {}
    assert "session expired or unknown" in infer(client, pack({"session": 77}, layout.empty(1).tobytes()))["refused"]
    for wrong in (b"", b"noise", valid[:-1], pack({}), pack(session), pack(session, b"x" * 50)):
        assert "malformed request" in infer(client, wrong)["refused"]
    assert infer(client, valid) == {}
    stranger = Client(f"unix:{tmp_path}/socket", "a token", 20)
    assert "token" in infer(stranger, valid)["refused"]


def test_each_dropped_trajectory_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlma.acting.trajectory_writer.MAX_PAYLOAD_BYTES", 1)  # a message for each trajectory
    config, spec, _ = prepare("--level_name=catch", "--unroll_length=2", "--envs_per_actor=3")
    learner = Learner(tmp_path, config, spec)
    instruments = Instruments(
        PhaseTimer(*ACTOR_PHASES), Heartbeat("", "a"), ThroughputLogger(1), LevelCacheReport(None)
    )
    session = learner.admit({"envs": 3})["session"]
    client, noise = Client(f"unix:{tmp_path}/socket", "", 20), NoiseGenerator(1, np.zeros(3), spec)
    policy = RemotePolicy(spec, 3, 2, session, noise, client, instruments)
    env, counts = make_for_levels(config.environment, spec, [0] * 3, 1), list[int]()

    def collect() -> None:
        while (message := learner.server.receive()) is not None:
            counts.append(unpack(message)[0]["dropped"])

    threading.Thread(target=collect, daemon=True).start()
    timestep = env.reset()
    for t in range(7):
        output = policy(timestep)
        assert output is not None
        timestep = env.step(output.action)
        if t in (0, 3):  # one environment of the first trajectories crashes, then all of the second ones
            policy.drop(np.array([True, t > 0, t > 0]))
    wait_for(lambda: len(counts) == 5, 10, lambda: str(counts))
    assert counts == [1, 0, 3, 0, 0]


def test_concurrent_requests_share_a_batch(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"], "--inference_batch=12", "--inference_wait_ms=2000")
    learner = Learner(tmp_path, config, spec)
    layout, reply_layout = inference_layouts(spec, 3)
    replies: list[bytes] = []

    def infer_once(task: int) -> None:
        client = Client(f"unix:{tmp_path}/socket", "", 20)
        session = learner.admit({"task": task, "envs": 3})["session"]
        replies.append(client.infer(pack({"session": session}, layout.empty(1).tobytes()))[0])

    threads = [threading.Thread(target=infer_once, args=(task,)) for task in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert learner.inference.batch_size() == pytest.approx(12)
    logits = [reply_layout.view(reply_layout.from_bytes(unpack(reply)[1])).logits for reply in replies]
    assert all(np.array_equal(each, logits[0]) for each in logits), "all sent the same observation"


def test_a_batch_is_filled_up_to_a_size_that_is_allowed(tmp_path: Path) -> None:
    config, spec, _ = prepare(
        *CASES["impala"], "--inference_batch=16", "--inference_sizes=8,16", "--inference_wait_ms=0"
    )
    learner = Learner(tmp_path, config, spec)
    layout, _ = inference_layouts(spec, 3)
    client = Client(f"unix:{tmp_path}/socket", "", 20)
    assert infer(client, pack({"session": learner.admit({"envs": 3})["session"]}, layout.empty(1).tobytes())) == {}
    assert learner.inference.batch_size() == pytest.approx(8)


def test_each_reply_uses_the_weights_that_were_published_last(tmp_path: Path) -> None:
    config, spec, _ = prepare(*CASES["impala"])
    learner = Learner(tmp_path, config, spec)
    layout, reply_layout = inference_layouts(spec, 3)
    client = Client(f"unix:{tmp_path}/socket", "", 20)
    message = pack({"session": learner.admit({"envs": 3})["session"]}, layout.empty(1).tobytes())
    values = []
    for version in (3, 4, 2**40, 5):
        learner.publish(version)
        _, payload = unpack(client.infer(message)[0])
        values.append(reply_layout.view(reply_layout.from_bytes(payload)).value[0, 0])
        assert int(learner.inference._version) == version
    assert len(set(values)) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--inference=learner --deterministic", "not with --deterministic"),
        ("--inference_sizes=8,4", "must be ascending numbers"),
        ("--inference_sizes=8,16 --inference_batch=20", "the last one --inference_batch=20"),
        ("--inference_sizes=8,x --inference_batch=8", "must be ascending numbers"),
        ("--inference=learners", "learner"),
    ],
)
def test_a_mistake_is_one_line(flags: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse(flags.split())
    assert "\n" not in str(caught.value)


def test_a_request_too_large_for_a_message_is_refused_with_the_limit(tmp_path: Path) -> None:
    config, spec, _ = prepare("--level_name=CartPole-v1")
    inference = InferenceServer(config, spec, make_agent(config, spec))
    with pytest.raises(ValueError, match="--envs_per_actor of at most"):
        inference.open(0, 200_000, np.arange(200_000), 1)


def test_training_with_inference_in_the_learner_learns_and_ends_by_itself(tmp_path: Path) -> None:
    flags = ["--level_name=catch", "--inference=learner", "--num_actors=2", "--total_environment_frames=8e4"]
    with Process(tmp_path, "train", *flags, f"--logdir={tmp_path}/run", "--report_every_seconds=1") as run:
        assert run.wait(120) == 0, run.text()
    table = rows(tmp_path / "run")
    assert table[-1]["frames"] >= 8e4
    assert table[-1]["return/mean"] > 0, "a random policy has -0.6"
    assert table[-1]["inference/batch"] >= 16
    assert table[-1]["lag/max"] < 40
