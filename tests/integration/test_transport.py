"""The transport with real servers and clients, over unix sockets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlma.acting.local_policy import wait_for_newer_weights
from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ArraySpec, EnvSpec
from mlma.learning.trajectory_receiver import TrajectoryReceiver
from mlma.monitoring.metrics import Metrics
from mlma.monitoring.phase_timer import ACTOR_PHASES, PhaseTimer
from mlma.transport.auth import read_token, token_digest
from mlma.transport.client import Client
from mlma.transport.messages import pack, split_message, unpack
from mlma.transport.protocol import BUSY, OK, REFUSED, TRAINING_OVER, HandshakeRefusedError, LearnerLostError
from mlma.transport.server import INBOX_CAPACITY, SPARE_PUTS, RemoteInference, Server
from tests.support.runs import wait_for
from tests.support.samples import make_metrics
from tests.support.servers import SERVERS


def serve(address: str, token: str = "", num_weights: int = 10, inference: RemoteInference | None = None) -> Server:
    """A server that has published version 0 and admits everyone."""
    server = Server(address, token, lambda request: {"seed": request["task"]}, inference)
    server.publish(0, tf.zeros([num_weights]))
    server.start()
    SERVERS.append(server)
    return server


def test_an_actor_never_mixes_two_versions_of_a_network_of_40_mb(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    server = serve(address, num_weights=10_000_000)
    stop = threading.Event()

    def publish() -> None:
        version = 0
        while not stop.wait(0.02):
            version += 1
            server.publish(version, tf.fill([10_000_000], float(version)))

    publisher = threading.Thread(target=publish)
    publisher.start()
    client, have = Client(address, "", 30), -1
    for _ in range(5):
        version, data = client.fetch(have)
        assert data is not None
        values = np.frombuffer(data, np.float32)
        assert len(values) == 10_000_000
        assert values.min() == values.max() == version > have
        have = version
    stop.set()
    publisher.join()
    beats: list[None] = []
    assert client.fetch(-1, lambda: beats.append(None))[1] is not None
    assert len(beats) == 12, "a sign of life before each of the calls, which may take a minute on a slow network"


BIG = EnvSpec(ArraySpec((300, 350, 1), "uint8"), 4, 1)
HEADER = {"task": 0, "phases": PhaseTimer(*ACTOR_PHASES).seconds}


def big_layout() -> RecordLayout:
    """A layout whose records travel in several parts."""
    return RecordLayout(trajectory_spec(BIG, None, unroll_length=99))  # 10.5 MB


def receive_into(server: Server, layout: RecordLayout, insert: Callable[[Any], None]) -> Metrics:
    """Starts a receiver; its metrics."""
    metrics = make_metrics()
    TrajectoryReceiver(server.receive, insert, layout, BIG, metrics, on_failure=lambda error: None)
    return metrics


def test_trajectories_of_10_mb_arrive_complete(tmp_path: Path) -> None:
    layout, arrived = big_layout(), []
    server = serve(f"unix:{tmp_path}/socket")
    receive_into(server, layout, lambda records: arrived.append(records.copy()))
    records = layout.empty(2)
    view = layout.view(records)
    view.timesteps.observation[:] = np.random.default_rng(0).integers(256, size=view.timesteps.observation.shape)
    assert layout.dtype.itemsize > 10e6
    client = Client(f"unix:{tmp_path}/socket", "", 30)
    for i in range(2):
        for message in split_message(HEADER, records[i : i + 1].tobytes()):
            client.put(message)
    wait_until(lambda: len(arrived) == 2)
    for name in layout.dtype.names or ():
        np.testing.assert_array_equal(np.concatenate([r[name] for r in arrived]), records[name])


def test_a_message_with_a_missing_part_is_dropped_and_the_next_one_arrives(tmp_path: Path) -> None:
    layout, arrived = big_layout(), []
    server = serve(f"unix:{tmp_path}/socket")
    metrics = receive_into(server, layout, lambda records: arrived.append(len(records)))
    client = Client(f"unix:{tmp_path}/socket", "", 30)
    parts = split_message(HEADER, layout.empty(1).tobytes())
    for message in [parts[0], *parts[2:], *parts]:
        client.put(message)
    wait_until(lambda: arrived == [1])
    assert metrics._faults["messages_refused"] == len(parts) - 2


def test_a_full_inbox_makes_put_wait_but_not_fetch(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket")
    client = Client(f"unix:{tmp_path}/socket", "", 30)
    sent = []

    def put() -> None:
        for i in range(8):
            client.put(pack({"i": i}))
            sent.append(i)

    threading.Thread(target=put, daemon=True).start()
    time.sleep(1.0)
    assert 2 <= len(sent) <= 5, "inbox, call in flight and outbox are full"
    began = time.monotonic()
    assert Client(f"unix:{tmp_path}/socket", "", 30).fetch(-1)[0] == 0, "a new client is served too"
    assert time.monotonic() - began < 2
    for i in range(8):
        message = server.receive()
        assert message is not None
        assert unpack(message)[0] == {"i": i}
    wait_until(lambda: len(sent) == 8)


def test_an_actor_in_lockstep_gives_signs_of_life_while_it_waits_for_weights(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket")
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 3:
            server.publish(1, tf.ones([10]))

    client = Client(f"unix:{tmp_path}/socket", "", 30)
    assert wait_for_newer_weights(client, 0, beat) == (1, np.ones(10, np.float32).tobytes())
    assert beats == 3


def test_a_closed_client_sends_nothing_more_and_its_thread_ends(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket")
    others = set(threading.enumerate())
    client = Client(f"unix:{tmp_path}/socket", "", 30)
    (sender,) = (thread for thread in set(threading.enumerate()) - others if thread.name == "sender")
    for i in range(INBOX_CAPACITY + 2):  # one is in flight, and the last one waits in the client
        client.put(pack({"i": i}))
    client.close()
    for i in range(INBOX_CAPACITY + 1):
        assert unpack(server.receive() or b"")[0] == {"i": i}
    sender.join(5)
    assert not sender.is_alive()
    assert not int(server._inbox.size()), "a message of a client that is closed"


def test_a_flood_of_messages_is_turned_away_before_it_fills_the_memory(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket")
    answers: list[int] = []
    client = Client(f"unix:{tmp_path}/socket", "", 60)

    def put() -> None:
        answers.append(int(client._call("put", client._secret, pack({}, bytes(100)))))

    floods = [threading.Thread(target=put, daemon=True) for _ in range(60)]
    for flood in floods:
        flood.start()
    accepted = SPARE_PUTS + 2 + INBOX_CAPACITY  # what the inbox holds, and what may wait for room in it
    wait_until(lambda: len(answers) == len(floods) - accepted + INBOX_CAPACITY)
    assert answers.count(BUSY) == len(floods) - accepted
    for _ in range(accepted):
        server.receive()
    for flood in floods:
        flood.join(20)
    assert answers.count(OK) == accepted and REFUSED not in answers
    assert int(client._call("put", client._secret, pack({}))) == OK, "there is room again"


@pytest.mark.parametrize("wrong", ["", "token", "tokens", "TOKEN!" * 30])
def test_without_the_token_nothing_is_accepted_and_nothing_revealed(tmp_path: Path, wrong: str) -> None:
    server = serve(f"unix:{tmp_path}/socket", token="the token")
    stranger = Client(f"unix:{tmp_path}/socket", wrong, 10)
    with pytest.raises(HandshakeRefusedError) as refusal:
        stranger.handshake({"task": 1})
    assert "the token is not the learner's" in str(refusal.value)
    assert token_digest("the token").decode() not in str(refusal.value)
    assert stranger.fetch(-100) == (-100, None)
    stranger.put(pack({}))
    wait_until(lambda: stranger._failure is not None)
    assert Client(f"unix:{tmp_path}/socket", "the token", 10).handshake({"task": 3}) == {"seed": 3}
    assert server._inbox.size() == 0


def test_a_learner_that_has_finished_notifies_and_releases_waiting_actors(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket")
    client = Client(f"unix:{tmp_path}/socket", "", 30)
    for i in range(3):
        client.put(pack({"i": i}))
    finishing = threading.Thread(target=server.shutdown, args=(1,))
    finishing.start()
    wait_until(lambda: client.fetch(0) == (TRAINING_OVER, None))
    assert Client(f"unix:{tmp_path}/socket", "", 30).handshake({"task": 3})["finished"]
    finishing.join(0.5)
    assert finishing.is_alive(), "an answer may not have arrived"
    client.say_farewell()
    finishing.join(5)
    assert not finishing.is_alive()
    assert server.receive() is None or server.receive() is None or server.receive() is None


def test_only_the_end_of_training_is_told_to_actors(tmp_path: Path) -> None:
    """A learner that failed or was stopped comes back: its actors lose it, and must look for it again."""
    server = serve(f"unix:{tmp_path}/socket")
    client = Client(f"unix:{tmp_path}/socket", "", 30)
    for i in range(3):
        client.put(pack({"i": i}))
    began = time.monotonic()
    server.shutdown(1, training_is_over=False)
    assert time.monotonic() - began < 5, "nobody has to be told anything"
    wait_until(lambda: isinstance(client._failure, LearnerLostError))
    assert client.fetch(0) == (0, None)
    with pytest.raises(LearnerLostError, match="training is not over"):
        Client(f"unix:{tmp_path}/socket", "", 30).handshake({"task": 3})


def test_a_missing_learner_is_an_error_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(LearnerLostError):
        Client(f"unix:{tmp_path}/nobody", "", 2).handshake({})
    assert time.monotonic() - began < 10


def test_a_token_file_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLMA_TOKEN", raising=False)
    path = tmp_path / "token"
    path.write_text("secret\n")
    os.chmod(path, 0o644)
    with pytest.raises(ValueError, match="allowed: 0600"):
        read_token(str(path))
    os.chmod(path, 0o600)
    assert read_token(str(path)) == "secret"
    monkeypatch.setenv("MLMA_TOKEN", "from the environment")
    assert read_token(str(path)) == "from the environment"


def wait_until(condition: Callable[[], Any]) -> None:
    wait_for(condition, 20, lambda: "not within 20 s")
