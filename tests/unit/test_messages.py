"""Records and messages: what is sent arrives, and what is damaged is a ValueError and nothing else."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tree

from mlma.core.record_layout import RecordLayout, trajectory_spec
from mlma.core.types import ArraySpec, EnvSpec, NetworkState, Trajectory
from mlma.transport.messages import MAGIC, pack, split_message, unpack
from tests.support.samples import IMAGE, VECTOR

STATE = NetworkState(frames=tf.zeros([1, 84, 84, 3], tf.uint8), core=(tf.zeros([1, 5]), tf.zeros([1, 5])))
NO_STATE = NetworkState(None, None)
REFUSED = "message|JSON|Expecting|Extra|decode"  # what a refusal speaks of


def layout(env: EnvSpec = IMAGE, state: NetworkState = STATE, unroll_length: int = 3) -> RecordLayout:
    return RecordLayout(trajectory_spec(env, state, unroll_length))


def filled(of: RecordLayout, count: int, seed: int = 1) -> Any:
    """Records of random values, written through views."""
    records, rng = of.empty(count), np.random.default_rng(seed)
    for array in leaves(of.view(records)):
        array[...] = rng.integers(2 if array.dtype == bool else 200, size=array.shape)
    return records


def leaves(nest: Any) -> list[Any]:
    return [leaf for leaf in tree.flatten(nest) if leaf is not None]


@pytest.mark.parametrize(("env", "state"), [(IMAGE, STATE), (VECTOR, NO_STATE)])
def test_records_survive_the_way_through_bytes(env: EnvSpec, state: NetworkState) -> None:
    of = layout(env, state)
    records = filled(of, 3)
    arrived = of.view(of.from_bytes(records.tobytes()))
    sent = of.view(records)
    assert isinstance(arrived, Trajectory)
    assert isinstance(arrived.agent_state, NetworkState)
    tree.assert_same_structure(arrived, sent)
    for one, two in zip(leaves(sent), leaves(arrived), strict=True):
        assert one.dtype == two.dtype
        assert one.any()
        np.testing.assert_array_equal(one, two)


def test_a_view_has_the_shapes_of_the_spec_and_writes_into_the_records() -> None:
    of = layout()
    records = of.empty(2)
    view = of.view(records)
    assert view.timesteps.observation.shape == (2, 4, 84, 84, 1)
    assert view.timesteps.observation.dtype == np.uint8
    assert view.act_outputs.logits.shape == (2, 4, IMAGE.num_actions)
    assert view.agent_state.core[0].shape == (2, 5)
    view.timesteps.reward[1, 2] = 7.0
    view.agent_state.core[1][0] = 3.0
    again = of.view(of.from_bytes(records.tobytes()))
    assert again.timesteps.reward.tolist() == [[0, 0, 0, 0], [0, 0, 7, 0]]
    assert again.agent_state.core[1].tolist() == [[3.0] * 5, [0.0] * 5]


def test_part_of_a_record_is_refused() -> None:
    of = layout()
    data = filled(of, 2).tobytes()
    for size in (1, len(data) // 2 - 1, len(data) - 1):
        with pytest.raises(ValueError, match="no whole number of records"):
            of.from_bytes(data[:size])


def test_the_signature_changes_with_the_spec_and_with_nothing_else() -> None:
    others = [
        layout(unroll_length=4),
        layout(env=IMAGE._replace(num_actions=5)),
        layout(env=IMAGE._replace(observation=ArraySpec((84, 80, 1), "uint8"))),
        layout(env=IMAGE._replace(observation=ArraySpec((84, 84, 1), "float32"))),
        layout(state=STATE._replace(core=(tf.zeros([1, 6]), tf.zeros([1, 6])))),
        layout(state=NO_STATE),
    ]
    assert len({of.signature for of in [layout(), *others]}) == 1 + len(others)
    assert layout().signature == layout().signature


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 10])
def test_a_message_survives(payload: bytes) -> None:
    header = {"task": 3, "waited": 1.5, "name": "Größe", "list": [1, None]}
    arrived, data = unpack(pack(header, payload))
    assert (arrived, bytes(data)) == (header, payload)


def test_a_truncated_or_lengthened_message_is_refused() -> None:
    message = pack({"task": 1}, b"some payload")
    for size in range(len(message)):
        with pytest.raises(ValueError, match=REFUSED):
            unpack(message[:size])
    with pytest.raises(ValueError, match=REFUSED):
        unpack(message + b"\0")


def test_every_flipped_bit_is_found() -> None:
    message = pack({"task": 1}, b"some payload")
    for bit in range(8 * len(message)):
        damaged = bytearray(message)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=REFUSED):
            unpack(bytes(damaged))


def test_random_bytes_are_refused() -> None:
    rng = np.random.default_rng(1)
    for size in (0, 1, 16, 17, 18, 40, 1000):
        for start in (b"", MAGIC):
            with pytest.raises(ValueError, match=REFUSED):
                unpack((start + rng.bytes(size))[: max(size, len(start))])


@pytest.mark.parametrize("head", [b"not json", b"[1]", b"3", b"\xff\xfe", b'{"task": 1', b"", b"[" * 100_000])
def test_a_header_that_is_no_object_is_refused_although_its_checksum_is_right(head: bytes) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        unpack(struct.pack("<5sIII", MAGIC, len(head), 0, zlib.crc32(head)) + head)


def test_another_protocol_is_refused() -> None:
    message = pack({"task": 1}, b"some payload")
    with pytest.raises(ValueError, match="protocol"):
        unpack(b"mlma0" + message[len(MAGIC) :])


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (9, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
def test_long_payloads_travel_in_numbered_parts(size: int, parts: int) -> None:
    payload = np.random.default_rng(2).bytes(size)
    unpacked = [unpack(message) for message in split_message({"task": 7}, payload, part_size=10)]
    assert [header for header, _ in unpacked] == [{"task": 7, "part": i, "parts": parts} for i in range(parts)]
    assert b"".join(piece for _, piece in unpacked) == payload
    assert all(len(piece) <= 10 for _, piece in unpacked)
