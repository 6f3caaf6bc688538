"""What a stranger can make of the served functions: nothing, whatever he sends in addition to their arguments.

TensorFlow appends what a served function captures to the arguments of the caller, and accepts more of these than the
function has: an additional one takes the place of something captured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mlma.transport.auth import token_digest
from mlma.transport.client import Client
from mlma.transport.messages import pack
from mlma.transport.protocol import INT64, OK, REFUSED, STRING, VERSION_UNAVAILABLE, LearnerLostError
from mlma.transport.server import WRONG_TOKEN, Server
from mlma.utils.tf_function import tf_function
from tests.integration.test_inference import Learner, prepare
from tests.support.servers import SERVERS

FLAGS = ["--level_name=catch", "--unroll_length=4", "--envs_per_actor=2"]
ARGUMENTS: dict[str, list[Any]] = {
    "put": [pack({})],
    "fetch": [np.int64(-100), np.int64(0)],
    "handshake": [pack({"envs": 2})],
    "infer": [pack({"session": 0}, bytes(100))],
}
REFUSALS = {"put": REFUSED, "fetch": VERSION_UNAVAILABLE, "handshake": pack(WRONG_TOKEN), "infer": pack(WRONG_TOKEN)}
DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
EXTRAS: dict[str, Any] = {
    "text": b"x",
    "a digest as text": token_digest("another token"),
    "a digest as bytes": np.frombuffer(token_digest("another token"), np.uint8),
    "bool": np.array(True),
    "complex": np.complex64(1j),
    "bfloat16": tf.constant(1, tf.bfloat16),
    **{dtype: np.zeros((), dtype) for dtype in DTYPES},
}


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Learner:
    """A server with all four methods, and a token."""
    config, spec, _ = prepare(*FLAGS, "--inference=learner")
    learner = Learner(tmp_path_factory.mktemp("open"), config, spec)
    folder = tmp_path_factory.mktemp("served")
    learner.server = Server(f"unix:{folder}/socket", "the token", learner.admit, learner.inference)
    SERVERS.append(learner.server)
    learner.publish(3)
    learner.server.start()
    learner.folder = folder  # type: ignore[attr-defined]
    return learner


def client(learner: Learner, token: str) -> Client:
    """A client with this token."""
    folder: Path = learner.folder  # type: ignore[attr-defined]
    return Client(f"unix:{folder}/socket", token, 20)


def call(caller: Client, method: str, *extras: Any) -> Any:
    """The first part of the answer, or None if the call failed."""
    try:
        answer: Any = caller._call(method, *[caller._secret, *ARGUMENTS[method], *extras])
    except LearnerLostError:
        return None
    first = answer[0] if isinstance(answer, (list, tuple)) else answer
    return first.numpy()


@pytest.mark.parametrize("method", ARGUMENTS)
def test_no_number_of_arguments_of_any_type_replaces_the_token(learner: Learner, method: str) -> None:
    stranger = client(learner, "another token")
    assert call(stranger, method) == REFUSALS[method]
    for name, extra in EXTRAS.items():
        for count in range(1, 5):
            assert call(stranger, method, *([extra] * count)) in (None, REFUSALS[method]), f"{count} x {name}"
    assert learner.server._inbox.size() == 0
    assert len(learner.inference.sessions) == 0


@pytest.mark.parametrize("method", ARGUMENTS)
def test_an_actor_with_too_many_arguments_harms_nobody(learner: Learner, method: str) -> None:
    actor = client(learner, "the token")
    before = learner.inference._weights.read().numpy(), int(learner.inference._version)
    for extra in EXTRAS.values():
        for count in (1, 2, 4):
            call(actor, method, *([extra] * count))
            while int(learner.server._inbox.size()):
                learner.server.receive()
    assert call(client(learner, "the token"), "put") == OK
    assert learner.server.receive() == pack({})
    assert np.array_equal(learner.inference._weights.read().numpy(), before[0])
    assert int(learner.inference._version) == before[1]


def test_served_functions_capture_no_values(learner: Learner) -> None:
    server = learner.server
    signatures: list[tuple[Any, Any]] = [
        (server._fetch, [STRING, INT64, INT64]),
        (server._handshake, [STRING, STRING]),
    ]
    for function, signature in signatures:
        assert not tf_function(function, signature).get_concrete_function().captured_inputs
    captured = tf_function(server._put, [STRING, STRING]).get_concrete_function().captured_inputs
    assert [tensor.dtype for tensor in captured] == [tf.resource], "the inbox"
