"""Consensus messages as bytes: round trips, and what a damaged or dishonest peer may send."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.configuration import Configuration
from raft.lives import replica_of
from raft.messages import (
    PEER_MESSAGES,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    PreVote,
    PreVoteReply,
    ReadIndex,
    ReadIndexReply,
    Replica,
    Run,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
    SnapshotWanted,
    TimeoutNow,
    Vote,
    VoteReply,
)
from transport import peer_codec
from transport.frames import LANE_BULK, FrameError

A = Replica("n1", 11)
B = Replica("n2", 22)
TOP = 2**64 - 1
LATER_A, LATER_B = replica_of(A, 7, 1), replica_of(B, 7, 2)
RUNS = [Run(1, 4, 8, 3, b"abc", 0xFFFF_FFFF), Run(0, 5, 11, 1, b"", 0)]

C = Replica("n3", 33)
JOINT = Configuration(frozenset((A, B)), frozenset((C,)), frozenset((A, Replica("n4", 0))))
SNAPSHOT = SnapshotMeta(90, 4, JOINT, 5_000, 1, 1_000, 0xFFFF_FFFF)

SAMPLES: list[PeerMessage] = [
    PreVote(A, B, 5, 7, 4, 3),
    PreVoteReply(A, B, 5, True, 3),
    Vote(A, B, TOP, 7, 4, True),
    VoteReply(A, B, 5, False),
    Append(A, B, 5, 7, 4, 6, RUNS),
    Append(A, B, 5, 0, 0, 0, []),
    AppendReply(A, B, 5, 7),
    AppendReply(A, B, 5, 7, True, 3, 2),
    Heartbeat(A, B, 5, 6, 9),
    HeartbeatReply(A, B, 5, 9),
    TimeoutNow(A, B, 5),
    ReadIndex(A, B, 5, TOP),
    ReadIndexReply(A, B, 5, 8, 90),
    SnapshotChunk(A, B, 5, SNAPSHOT, 990, b"0123456789"),
    SnapshotChunk(A, B, 5, SNAPSHOT, 0, b""),
    SnapshotChunk(A, B, 5, SNAPSHOT, 1_000, b""),
    SnapshotReply(A, B, 5, 90, 4, 1_000),
    SnapshotWanted(A, B, 5, 90),
]


def test_every_message_has_a_sample_an_encoder_and_a_lane() -> None:
    assert {type(sample) for sample in SAMPLES} == set(PEER_MESSAGES)
    assert set(peer_codec._ENCODERS) == set(PEER_MESSAGES) == set(peer_codec.LANES)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_comes_back_as_it_went(message: PeerMessage) -> None:
    assert peer_codec.decode(peer_codec.encode(message), A, B) == message


def test_sender_and_receiver_are_who_the_header_says() -> None:
    data = peer_codec.encode(Heartbeat(A, B, 5, 6, 9))
    assert b"n1" not in data
    assert peer_codec.decode(data, B, A) == Heartbeat(B, A, 5, 6, 9)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_a_message_of_or_to_another_life_says_so_itself(message: PeerMessage) -> None:
    """Pitfall 21: the header of a frame knows disks, and a disk may be another replica by now."""
    plain = peer_codec.encode(message)
    for sender, to in ((LATER_A, B), (A, LATER_B), (LATER_A, LATER_B)):
        addressed = replace(message, sender=sender, to=to)
        data = peer_codec.encode(addressed)
        assert peer_codec.decode(data, A, B) == addressed
        assert 3 <= len(data) - len(plain) <= 21
    assert peer_codec.header_incarnation(B) == B.incarnation
    assert peer_codec.header_incarnation(LATER_B) == 0, "whoever it is, the message says"


def test_an_address_that_cannot_be_is_a_frame_error() -> None:
    fields = msgpack.unpackb(peer_codec.encode(Heartbeat(LATER_A, B, 5, 6, 9)))
    assert fields[:3] == [peer_codec.ADDRESSED, LATER_A.incarnation, 0]
    for wrong in ([0], [0, 0], [0, 0, 0], [0, 0, 0, 7], [0, 1, 0, *fields[3:]], [0, *fields]):
        with pytest.raises(FrameError):
            peer_codec.decode(msgpack.packb(wrong), A, B)
    for value in (-1, 22, 2**63 - 1, "n1", None, True, 1.5):
        with pytest.raises(FrameError):
            peer_codec.decode(msgpack.packb([0, 0, value, *fields[3:]]), A, B)
    with pytest.raises(FrameError):
        peer_codec.decode(msgpack.packb([False, *fields[1:]]), A, B)


def test_only_appends_and_snapshots_travel_on_the_bulk_lane() -> None:
    bulk = [kind for kind, lane in peer_codec.LANES.items() if lane == LANE_BULK]
    assert bulk == [Append, SnapshotChunk]


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_every_field_of_another_type_or_below_zero_is_a_frame_error(message: PeerMessage) -> None:
    array = msgpack.unpackb(peer_codec.encode(message))
    for at in range(len(array)):
        wrongs: tuple[Any, ...] = (-1, None, "x", 1.5, {}, type(array[at]) is int or 1)
        for wrong in wrongs:
            if type(wrong) is type(array[at]) and wrong != -1:
                continue
            damaged = [*array[:at], wrong, *array[at + 1 :]]
            with pytest.raises(FrameError):
                peer_codec.decode(msgpack.packb(damaged), A, B)
        with pytest.raises(FrameError):
            peer_codec.decode(msgpack.packb(array[:at]), A, B)


@pytest.mark.parametrize("message", SAMPLES, ids=lambda m: type(m).__name__)
def test_fields_added_at_the_end_are_ignored(message: PeerMessage) -> None:
    array = msgpack.unpackb(peer_codec.encode(message))
    assert peer_codec.decode(msgpack.packb([*array, "new"]), A, B) == message


def test_the_codec_carries_every_field_of_the_vocabulary() -> None:
    for message in SAMPLES:
        array = msgpack.unpackb(peer_codec.encode(message))
        count = len(fields(message)) - 2 + 1  # sender and receiver out, the number in
        if isinstance(message, SnapshotChunk):
            count += len(fields(SnapshotMeta)) - 1  # which lies flat
        assert len(array) == count


GOOD = Append(A, B, 5, 7, 4, 6, RUNS)


@pytest.mark.parametrize(
    "runs",
    [
        [replace(RUNS[0], first=9)],  # a gap after the predecessor
        [replace(RUNS[0], first=7)],  # an overlap
        [RUNS[0], replace(RUNS[1], first=12)],  # a gap between runs
        [replace(RUNS[0], count=0)],
        [replace(RUNS[0], term=3)],  # below the predecessor's term
        [replace(RUNS[0], term=6)],  # above the message's term
        [replace(RUNS[0], term=5), replace(RUNS[1], term=4)],
        [replace(RUNS[0], crc=1 << 32)],
        [replace(RUNS[0], kind=256)],
    ],
)
def test_runs_that_cannot_follow_one_another_are_a_frame_error(runs: list[Run]) -> None:
    with pytest.raises(FrameError):
        peer_codec.decode(peer_codec.encode(replace(GOOD, runs=runs)), A, B)


def test_a_run_with_a_wrong_or_missing_field_is_a_frame_error() -> None:
    array = msgpack.unpackb(peer_codec.encode(GOOD))
    flat = array[5]
    for damaged in (
        flat[:-1],
        [*flat[:-1], "text"],
        [True, *flat[1:]],
        [*flat[:2], 8.0, *flat[3:]],
    ):
        with pytest.raises(FrameError):
            peer_codec.decode(msgpack.packb([*array[:5], damaged]), A, B)


def test_a_predecessor_that_cannot_be_is_a_frame_error() -> None:
    for prev_index, prev_term in ((0, 1), (1, 0), (7, 6)):
        message = Append(A, B, 5, prev_index, prev_term, 0, [])
        with pytest.raises(FrameError):
            peer_codec.decode(peer_codec.encode(message), A, B)


def test_an_unknown_kind_of_run_is_handed_on_for_the_worker_to_stop_at() -> None:
    message = replace(GOOD, runs=[replace(RUNS[0], kind=99)])
    assert peer_codec.decode(peer_codec.encode(message), A, B) == message


CHUNK = SnapshotChunk(A, B, 5, SNAPSHOT, 0, b"x" * 10)


@pytest.mark.parametrize(
    "chunk",
    [
        replace(CHUNK, data=b"", offset=1_001),
        replace(CHUNK, data=b"", snapshot=replace(SNAPSHOT, size_bytes=0)),
        replace(CHUNK, offset=991),  # the end lies behind the snapshot's
        replace(CHUNK, snapshot=replace(SNAPSHOT, size_bytes=9)),
        replace(CHUNK, snapshot=replace(SNAPSHOT, index=0)),
        replace(CHUNK, snapshot=replace(SNAPSHOT, term=0)),
        replace(CHUNK, snapshot=replace(SNAPSHOT, term=6)),  # above the message's
        replace(CHUNK, snapshot=replace(SNAPSHOT, crc=1 << 32)),
    ],
)
def test_a_chunk_that_cannot_be_is_a_frame_error(chunk: SnapshotChunk) -> None:
    with pytest.raises(FrameError):
        peer_codec.decode(peer_codec.encode(chunk), A, B)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (["n1", 11, 1, "n2", 22, 9], "part 9"),  # of a newer version
        (["n1", 11, 1, "n1", 11, 2], "two parts"),
        (["n1", 11, 2], "at least one voter"),
        (["n1", 11, 4], "old half"),
        ([], "at least one voter"),
        (["n1", 11], "incomplete"),
        (["n1", True, 1], "wrong type"),
        ([b"n1", 11, 1], "wrong type"),
        (["n1", 11, "1"], "wrong type"),
        (["", 11, 1], "out of range"),
        (["n1", -1, 1], "out of range"),
    ],
)
def test_a_snapshot_with_members_that_cannot_be_is_a_frame_error(
    members: list[Any], text: str
) -> None:
    array = msgpack.unpackb(peer_codec.encode(CHUNK))
    array[4] = members
    with pytest.raises(FrameError, match=text):
        peer_codec.decode(msgpack.packb(array), A, B)


@settings(max_examples=300)
@given(st.binary(max_size=80))
def test_strangers_bytes_are_a_frame_error_and_nothing_else(data: bytes) -> None:
    _decode_or_frame_error(data)


_value: Any = st.none() | st.booleans() | st.integers(-5, 12) | st.binary(max_size=2)
_fields = st.lists(_value | st.lists(_value, max_size=13), max_size=11)


@settings(max_examples=500)
@given(st.integers(0, 15), _fields)
def test_arrays_of_anything_are_a_message_or_a_frame_error(number: int, rest: list[Any]) -> None:
    _decode_or_frame_error(msgpack.packb([number, *rest]))


@settings(max_examples=300)
@given(st.sampled_from(SAMPLES), st.integers(0, 90), st.integers(0, 7))
def test_a_flipped_bit_is_a_message_or_a_frame_error(
    message: PeerMessage, at: int, bit: int
) -> None:
    data = bytearray(peer_codec.encode(message))
    data[at % len(data)] ^= 1 << bit
    _decode_or_frame_error(bytes(data))


def _decode_or_frame_error(data: bytes) -> None:
    try:
        message = peer_codec.decode(data, A, B)
    except FrameError:
        return
    assert type(message) in PEER_MESSAGES
    assert peer_codec.decode(peer_codec.encode(message), A, B) == message
