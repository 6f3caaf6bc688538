"""Records and messages arrive unchanged; damaged ones are a ValueError and no other error."""

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
from mlma.monitoring.phase_timer import ACTOR_PHASES, MAX_EVENTS, PhaseTimer
from mlma.transport.messages import MAGIC, MAX_HEADER_BYTES, pack, split_message, unpack
from mlma.utils.tf_function import leaves
from tests.support.samples import IMAGE, VECTOR

STATE = NetworkState(frames=tf.zeros([1, 84, 84, 3], tf.uint8), core=(tf.zeros([1, 5]), tf.zeros([1, 5])))
NO_STATE = NetworkState(None, None)
REFUSED = "message|JSON|Expecting|Extra|decode"  # one of these words is in each error message


def make_layout(env: EnvSpec = IMAGE, state: NetworkState = STATE, unroll_length: int = 3) -> RecordLayout:
    return RecordLayout(trajectory_spec(env, state, unroll_length))


def random_records(layout: RecordLayout, count: int, seed: int = 1) -> Any:
    """Records of random values, written through views."""
    records, rng = layout.empty(count), np.random.default_rng(seed)
    for array in leaves(layout.view(records)):
        array[...] = rng.integers(2 if array.dtype == bool else 200, size=array.shape)
    return records


@pytest.mark.parametrize(("env", "state"), [(IMAGE, STATE), (VECTOR, NO_STATE)])
def test_records_are_unchanged_by_conversion_to_bytes(env: EnvSpec, state: NetworkState) -> None:
    layout = make_layout(env, state)
    records = random_records(layout, 3)
    arrived = layout.view(layout.from_bytes(records.tobytes()))
    sent = layout.view(records)
    assert isinstance(arrived, Trajectory)
    assert isinstance(arrived.agent_state, NetworkState)
    tree.assert_same_structure(arrived, sent)
    for one, two in zip(leaves(sent), leaves(arrived), strict=True):
        assert one.dtype == two.dtype
        assert one.any()
        np.testing.assert_array_equal(one, two)


def test_a_view_has_the_shapes_of_the_spec_and_writes_into_the_records() -> None:
    layout = make_layout()
    records = layout.empty(2)
    view = layout.view(records)
    assert view.timesteps.observation.shape == (2, 4, 84, 84, 1)
    assert view.timesteps.observation.dtype == np.uint8
    assert view.act_outputs.logits.shape == (2, 4, IMAGE.num_actions)
    assert view.agent_state.core[0].shape == (2, 5)
    view.timesteps.reward[1, 2] = 7.0
    view.agent_state.core[1][0] = 3.0
    again = layout.view(layout.from_bytes(records.tobytes()))
    assert again.timesteps.reward.tolist() == [[0, 0, 0, 0], [0, 0, 7, 0]]
    assert again.agent_state.core[1].tolist() == [[3.0] * 5, [0.0] * 5]


def test_part_of_a_record_is_refused() -> None:
    layout = make_layout()
    data = random_records(layout, 2).tobytes()
    for size in (1, len(data) // 2 - 1, len(data) - 1):
        message = f"{size} bytes: must be a multiple of the record size, {layout.dtype.itemsize} bytes"
        with pytest.raises(ValueError, match=message):
            layout.from_bytes(data[:size])


def test_the_signature_changes_with_the_spec_and_with_nothing_else() -> None:
    others = [
        make_layout(unroll_length=4),
        make_layout(env=IMAGE._replace(num_actions=5)),
        make_layout(env=IMAGE._replace(observation=ArraySpec((84, 80, 1), "uint8"))),
        make_layout(env=IMAGE._replace(observation=ArraySpec((84, 84, 1), "float32"))),
        make_layout(state=STATE._replace(core=(tf.zeros([1, 6]), tf.zeros([1, 6])))),
        make_layout(state=NO_STATE),
    ]
    assert len({layout.signature for layout in [make_layout(), *others]}) == 1 + len(others)
    assert make_layout().signature == make_layout().signature


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(256)) * 10])
def test_a_message_arrives_unchanged(payload: bytes) -> None:
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


def test_every_flipped_bit_is_detected() -> None:
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
def test_a_header_that_is_not_an_object_is_refused_although_its_checksum_is_right(head: bytes) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        unpack(struct.pack("<5sIII", MAGIC, len(head), 0, zlib.crc32(head)) + head)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_no_json_is_refused(constant: str) -> None:
    head = f'{{"task": {constant}}}'.encode()
    with pytest.raises(ValueError, match=REFUSED):
        unpack(struct.pack("<5sIII", MAGIC, len(head), 0, zlib.crc32(head)) + head)


def test_a_header_beyond_the_limit_is_refused_and_a_profile_stays_within() -> None:
    with pytest.raises(ValueError, match="longer than"):
        unpack(pack({"text": "x" * MAX_HEADER_BYTES}))
    timer = PhaseTimer(*ACTOR_PHASES)
    timer.record_events([])
    timer.add([("simulate", 1795646083.4650273 + i, 1.2345678901234567e-05) for i in range(3 * MAX_EVENTS)])
    header, _ = unpack(pack({"task": 1} | timer.snapshot()))
    assert len(header["events"]) == MAX_EVENTS
    assert header["events"][-1][1] == 1795646083.4650273 + 3 * MAX_EVENTS - 1, "the last ones"


def test_another_protocol_is_refused() -> None:
    message = pack({"task": 1}, b"some payload")
    with pytest.raises(ValueError, match="protocol"):
        unpack(b"mlma0" + message[len(MAGIC) :])


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (9, 1), (10, 1), (11, 2), (30, 3), (31, 4)])
def test_long_payloads_travel_in_numbered_parts(size: int, parts: int) -> None:
    payload = np.random.default_rng(2).bytes(size)
    unpacked = [unpack(message) for message in split_message({"task": 7}, payload, part_size=10)]
    assert [header for header, _ in unpacked] == [{"task": 7, "part": i, "parts": parts} for i in range(parts)]
    assert b"".join(part for _, part in unpacked) == payload
    assert all(len(part) <= 10 for _, part in unpacked)
