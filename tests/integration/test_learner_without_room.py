"""An actor whose learner has no room for its messages, or does not answer any more: real servers and clients."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf

from mlma.transport.client import Client
from mlma.transport.messages import pack, unpack
from mlma.transport.protocol import LearnerLostError
from mlma.transport.server import INBOX_CAPACITY
from tests.integration.test_transport import serve, wait_until


def test_a_put_may_wait_longer_than_a_call_if_the_learner_answers(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket")
    client = Client(f"unix:{tmp_path}/socket", "", 1.0)
    put, lost = list[int](), list[Exception]()

    def act() -> None:
        try:
            for i in range(6):
                client.put(pack({"i": i}))
                put.append(i)
        except LearnerLostError as error:
            lost.append(error)

    threading.Thread(target=act, daemon=True).start()
    time.sleep(3.5)  # the learner has no room, but answers
    assert not lost and len(put) < 6
    arrived = [unpack(server.receive() or b"")[0]["i"] for _ in range(6)]
    assert arrived == list(range(6)), "each once, in order"
    wait_until(lambda: put == list(range(6)))


class Echo:
    """Answers a request with itself, and completes a trajectory in each."""

    finished = False

    def publish(self, version: int, weights: tf.Tensor) -> None:
        """Acts without weights."""

    def answer(self, message: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return message, tf.reshape(message, [1])


def test_a_request_for_actions_may_wait_longer_than_a_call_if_the_learner_answers(tmp_path: Path) -> None:
    server = serve(f"unix:{tmp_path}/socket", inference=Echo())
    client, requests = Client(f"unix:{tmp_path}/socket", "", 1.0), [pack({"i": i}) for i in range(INBOX_CAPACITY + 1)]
    waits, replies = list[float](), list[tuple[bytes, float]]()

    def act() -> None:
        for request in requests:
            replies.append(client.infer(request, on_wait=lambda: waits.append(time.monotonic())))

    threading.Thread(target=act, daemon=True).start()
    time.sleep(3.5)  # the learner has no room, but answers
    assert [reply for reply, _ in replies] == requests[:INBOX_CAPACITY]
    assert len(waits) >= 4, "the actor gives signs of life meanwhile"
    assert [server.receive() for _ in requests] == requests, "each once, in order"
    wait_until(lambda: len(replies) == len(requests))
    assert replies[-1][0] == requests[-1]
    assert replies[-1][1] > 3, "seconds without room"


@pytest.mark.parametrize("method", ["put", "infer"])
def test_a_call_notices_a_learner_that_does_not_answer_any_more(tmp_path: Path, method: str) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/socket")
        silent.listen()
        client = Client(f"unix:{tmp_path}/socket", "", 1.0)
        began = time.monotonic()
        for i in range(2 if method == "put" else 0):  # one in flight, one waits
            client.put(pack({"i": i}))
        with pytest.raises(LearnerLostError, match="fetch: DeadlineExceeded"):
            getattr(client, method)(pack({}))
        assert time.monotonic() - began < 20
