"""Client, peer and link frames: what is well-formed, and that all else is refused and no more."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, cast

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import frames
from transport.frames import (
    BODY_ADMIN,
    BODY_CLOSE_SESSION,
    BODY_OPEN_SESSION,
    BODY_READ,
    BODY_WRITE,
    ClientMessage,
    Endpoint,
    Forward,
    ForwardReply,
    FrameError,
    Hello,
    Malformed,
    PeerFrameParser,
    PeerHeader,
    split_client,
)
from transport.polyraft_pb2 import (
    Admin,
    CloseSession,
    OpenSession,
    Read,
    ReadRequest,
    Request,
    RequestBatch,
    WriteRequest,
)

CLUSTER = bytes(range(16))
HEADER = PeerHeader(CLUSTER, "n1", 0xFFFF_FFFF_FFFF_FFFF, 7, "n2", 9)

# ------------------------------------------------------------------------------------ client frames


def test_three_frames_are_a_request() -> None:
    assert split_client([b"c", b"kv", b"x"]) == ClientMessage(False, b"c", b"kv", b"x")


def test_an_empty_first_frame_is_a_delimiter() -> None:
    assert split_client([b"", b"c", b"kv", b"x"]) == ClientMessage(True, b"c", b"kv", b"x")


def test_a_group_of_any_alphabet_passes() -> None:
    assert type(split_client([b"c", "grüße".encode(), b""])) is ClientMessage


def test_group_and_batch_may_be_empty() -> None:
    assert split_client([b"c", b"", b""]) == ClientMessage(False, b"c", b"", b"")


@pytest.mark.parametrize(
    ("parts", "delimited", "correlation"),
    [
        ([b""], True, b""),  # a delimiter and nothing else
        ([b"", b""], True, b""),
        ([b"c"], False, b"c"),
        ([b"c", b"kv"], False, b"c"),
        ([b"c", b"kv", b"x", b"y"], False, b"c"),
        ([b"", b"c", b"kv", b"x", b"y"], True, b"c"),
        ([b"", b"", b"kv", b"x"], True, b""),  # the correlation id is empty
        ([b"c" * 65, b"kv", b"x"], False, b""),  # and here too long to be repeated
        ([b"c" * 64, b"k" * 129, b"x"], False, b"c" * 64),
        ([b"c", b"\xff", b"x"], False, b"c"),
        ([b"c", b"kv", bytes(frames.BATCH_BYTES_MAX + 1)], False, b"c"),
    ],
)
def test_anything_else_is_malformed_with_the_first_frame_as_correlation_if_it_can_be(
    parts: list[bytes], delimited: bool, correlation: bytes
) -> None:
    message = split_client(parts)
    assert type(message) is Malformed
    assert (message.delimited, message.correlation) == (delimited, correlation)
    assert message.reason


def test_sizes_at_their_limits_are_accepted() -> None:
    message = split_client([b"c" * 64, b"k" * 128, bytes(frames.BATCH_BYTES_MAX)])
    assert type(message) is ClientMessage


@given(st.lists(st.binary(max_size=140), max_size=6))
def test_every_list_of_frames_is_one_or_the_other(parts: list[bytes]) -> None:
    message = split_client(parts)
    assert len(message.correlation) <= 64
    if type(message) is ClientMessage:
        assert parts[-3:] == [message.correlation, message.group, message.batch]
        message.group.decode()


# --------------------------------------------------------------------------------------------- peek


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (Request(write=WriteRequest(key="k", data=b"v" * 300)), BODY_WRITE),
        (Request(write=WriteRequest()), BODY_WRITE),
        (Request(read=Read(request=ReadRequest(data=b"x"), min_index=1 << 60)), BODY_READ),
        (Request(admin=Admin(command="status")), BODY_ADMIN),
        (Request(open_session=OpenSession()), BODY_OPEN_SESSION),
        (Request(close_session=CloseSession(), session=5), BODY_CLOSE_SESSION),
    ],
)
@pytest.mark.parametrize("timeout_ms", [0, 1, 127, 128, 600_000, 0xFFFF_FFFF])
def test_peek_sees_class_and_timeout_of_the_first_request(
    request_: Request, body: int, timeout_ms: int
) -> None:
    first = Request()
    first.CopyFrom(request_)
    first.timeout_ms = timeout_ms
    first.sequence = 1 << 63
    batch = RequestBatch(requests=[first, Request(read=Read(), timeout_ms=3)])
    assert frames.peek(batch.SerializeToString()) == (body, timeout_ms)


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        b"\x0a",
        b"\x0a\x05\x18",  # cut inside the first request
        b"\x0a\x7f\x18\x05",
        b"\x12\x00",  # an unknown field comes first
        b"\x0a\x02\x18\xff",  # a varint that does not end
        b"\x0a" + b"\xff" * 11,
        b"\x0a\x03\x0d\x00\x00",  # a field of four bytes: not ours
        b"\x0a\x02\x52\x05",  # a body longer than its request
        b"\x0a\x7f\x52\x7d",  # both longer than the batch
    ],
)
def test_peek_says_unclear_when_it_is(batch: bytes) -> None:
    assert frames.peek(batch) == (0, 0)


def test_a_request_of_a_million_fields_does_not_hold_the_router_up() -> None:
    fields = b"\x08\x01" * 1_000_000 + b"\x52\x00"
    batch = b"\x0a" + _varint(len(fields)) + fields
    assert frames.peek(batch) == (0, 0)


def test_peek_does_not_take_an_unknown_body_for_one_of_ours() -> None:
    assert frames.peek(b"\x0a\x04\x18\x05\x7a\x00") == (0, 5)
    assert frames.peek(b"\x0a\x04\x18\x05\x4a\x00") == (0, 5)


@given(st.binary(max_size=60))
def test_peek_never_raises_and_agrees_with_protobuf(data: bytes) -> None:
    body, timeout_ms = frames.peek(data)
    assert body in (0, 10, 11, 12, 13, 14)
    assert 0 <= timeout_ms <= 0xFFFF_FFFF


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


# -------------------------------------------------------------------------------------- peer frames


def test_a_peer_frame_comes_back_as_it_went() -> None:
    body = frames.pack_raft([1, b"one", 1 << 63, b"two"])
    frame = PeerFrameParser().parse(frames.pack_peer_frame(frames.PEER_RAFT, HEADER, body))
    assert (frame.kind, frame.header) == (frames.PEER_RAFT, HEADER)
    assert frames.unpack_raft(frame.body) == [1, b"one", 1 << 63, b"two"]


def test_the_layout_of_the_header_is_the_documented_one() -> None:
    data = frames.pack_peer_frame(frames.PEER_RAFT, HEADER, b"BODY")
    magic, version, kind, header_bytes = struct.unpack("<2sBBH", data[:6])
    assert (magic, version, kind) == (b"PR", 1, 2)
    assert msgpack.unpackb(data[6 : 6 + header_bytes]) == [CLUSTER, "n1", 2**64 - 1, 7, "n2", 9]
    assert data[6 + header_bytes :] == b"BODY"


def test_headers_of_a_link_are_parsed_once_and_the_cache_is_bounded() -> None:
    parser = PeerFrameParser()
    first = parser.parse(frames.pack_peer_frame(frames.PEER_RAFT, HEADER, b""))
    assert (
        parser.parse(frames.pack_peer_frame(frames.PEER_RAFT, HEADER, b"")).header is first.header
    )
    for epoch in range(3 * frames.HEADERS_CACHED_MAX):
        header = HEADER._replace(sender_epoch=epoch)
        assert parser.parse(frames.pack_peer_frame(2, header, b"")).header == header
        assert len(parser._headers) <= frames.HEADERS_CACHED_MAX


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f[:5],
        lambda f: b"XX" + f[2:],
        lambda f: f[:2] + b"\x02" + f[3:],  # another version
        lambda f: f[:3] + b"\x63" + f[4:],  # another kind
        lambda f: f[:4] + b"\xff\xff" + f[6:],  # a header beyond the frame
        lambda f: f[:4] + b"\x01\x00" + f[6:],  # a header cut short
        lambda f: f[:6] + b"\xc1" + f[7:],
    ],
)
def test_a_damaged_peer_frame_is_a_frame_error(damage: object) -> None:
    assert callable(damage)
    good = frames.pack_peer_frame(frames.PEER_RAFT, HEADER, frames.pack_raft([1, b"x"]))
    with pytest.raises(FrameError):
        PeerFrameParser().parse(damage(good))


@pytest.mark.parametrize(
    "fields",
    [
        [b"short", "n1", 1, 1, "n2", 1],
        [CLUSTER, "", 1, 1, "n2", 1],
        [CLUSTER, "n1", 0, 1, "n2", 1],  # a sender always knows its own disk
        [CLUSTER, "n1", -1, 1, "n2", 1],
        [CLUSTER, "n1", True, 1, "n2", 1],
        [CLUSTER, "n1", 1, 1.0, "n2", 1],
        [CLUSTER, "n1", 1, 1, None, 1],
        [CLUSTER, "n1", 1, 1, "n2"],
        "text",
    ],
)
def test_a_header_with_a_wrong_field_is_a_frame_error(fields: object) -> None:
    packed = msgpack.packb(fields)
    data = struct.pack("<2sBBH", b"PR", 1, frames.PEER_HELLO, len(packed)) + packed
    with pytest.raises(FrameError):
        PeerFrameParser().parse(data)


def test_only_hello_may_go_to_an_unknown_incarnation() -> None:
    unknown = HEADER._replace(receiver_incarnation=0)
    hello = frames.pack_peer_frame(frames.PEER_HELLO, unknown, b"")
    assert PeerFrameParser().parse(hello).header == unknown
    with pytest.raises(FrameError):
        PeerFrameParser().parse(hello[:3] + bytes((frames.PEER_RAFT,)) + hello[4:])


def test_fields_added_at_the_end_of_a_header_are_ignored() -> None:
    packed = msgpack.packb([*HEADER, "new"])
    data = struct.pack("<2sBBH", b"PR", 1, frames.PEER_RAFT, len(packed)) + packed
    assert PeerFrameParser().parse(data).header == HEADER


def test_a_header_above_its_limit_is_refused_unread() -> None:
    packed = msgpack.packb([*HEADER, "x" * frames.HEADER_BYTES_MAX])
    data = struct.pack("<2sBBH", b"PR", 1, frames.PEER_RAFT, len(packed)) + packed
    with pytest.raises(FrameError):
        PeerFrameParser().parse(data)


def test_pitfall_55_a_frame_for_another_cluster_node_or_disk_is_not_for_me() -> None:
    me = Endpoint(CLUSTER, "n2", 9, 100)
    assert frames.header_mismatch(me, HEADER) == ""
    assert frames.header_mismatch(me, HEADER._replace(cluster=b"")) == "wrong_cluster"
    assert frames.header_mismatch(me, HEADER._replace(receiver="n3")) == "wrong_node"
    wrong_disk = HEADER._replace(receiver_incarnation=8)
    assert frames.header_mismatch(me, wrong_disk) == "wrong_incarnation"


@settings(max_examples=200)
@given(st.binary(max_size=120))
def test_strangers_bytes_are_a_frame_error_and_nothing_else(data: bytes) -> None:
    readers = (
        frames.unpack_hello,
        frames.unpack_raft,
        frames.unpack_forward,
        frames.unpack_forward_reply,
        frames.unpack_link,
    )
    for read in readers:
        try:
            read(data)
        except FrameError:
            pass
    for frame in (data, b"PR\x01\x02" + data):
        try:
            PeerFrameParser().parse(frame)
        except FrameError:
            pass


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=3)
    | st.binary(max_size=3) | st.floats(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200)
@given(st.lists(_anything, max_size=9))
def test_arrays_of_anything_are_a_value_or_a_frame_error(fields: list[object]) -> None:
    data = msgpack.packb(fields)
    for read in (frames.unpack_hello, frames.unpack_raft, frames.unpack_forward):
        try:
            read(data)
        except FrameError:
            pass
    try:
        reply = frames.unpack_forward_reply(data)
        assert type(reply.payload) is bytes
    except FrameError:
        pass


def test_an_array_header_that_promises_too_much_allocates_nothing() -> None:
    with pytest.raises(FrameError):
        frames.unpack_raft(b"\xdd\xff\xff\xff\xff" + bytes(100))
    with pytest.raises(FrameError):  # deeply nested
        frames.unpack_raft(b"\x91" * 100_000)
    with pytest.raises(FrameError):  # ext types are not ours
        frames.unpack_array(b"\x91\xd6\xff\x00\x00\x00\x00", 1, "array")


NODE: list[Any] = ["n2", 7, 9, ["tcp://c:1", "tcp://p:2", ""], True, False]


def test_hello_comes_back_as_it_went() -> None:
    for formed in (False, True):
        hello = Hello(formed, b"h" * 32, "tcp://a:1", "tcp://a:2", "tcp://a:3", 2, 1, [["n1", 7]])
        assert frames.unpack_hello(frames.pack_hello(hello)) == hello
        more = hello._replace(nodes=[NODE])
        assert frames.unpack_hello(frames.pack_hello(more)) == more
        earlier = frames.pack(frames.unpack_array(frames.pack_hello(more), 9, "")[:8])
        assert frames.unpack_hello(earlier) == hello, "an earlier version says nothing of nodes"


def test_a_hello_that_would_grow_or_confuse_its_reader_is_refused() -> None:
    """Anybody may send one: what it holds is kept, passed on and logged."""
    good = Hello(True, b"h" * 32, "tcp://a:1", "tcp://a:2", "tcp://a:3", 2, 1, [["n1", 7]])
    for bad in (
        good._replace(members_hash=bytes(65)),
        good._replace(client_address="a" * 257),
        good._replace(founders=[["n", 1]] * 65),
        good._replace(founders=[["n", 0]]),
        good._replace(founders=[["n", float("inf")]]),
        good._replace(founders=[["n", "9" * 30]]),
        good._replace(founders=[["n" * 200, 1]]),
        good._replace(founders=[["n", 1, 2]]),
        good._replace(founders=[1.5]),
        good._replace(nodes=cast(Any, 5)),
        good._replace(nodes=[NODE] * (frames.HELLO_NODES_MAX + 1)),
        good._replace(nodes=[NODE[:5]]),
        good._replace(nodes=[["", *NODE[1:]]]),
        good._replace(nodes=[["n2", 0, *NODE[2:]]]),
        good._replace(nodes=[["n2", 7, -1, *NODE[3:]]]),
        good._replace(nodes=[["n2", 7, 9, ["", ""], True, False]]),
        good._replace(nodes=[["n2", 7, 9, ["", "", "a" * 257], True, False]]),
        good._replace(nodes=[["n2", 7, 9, ["", "", ""], 1, False]]),
        good._replace(nodes=[["n2", 7, 9, ["", "", ""], True, None]]),
    ):
        with pytest.raises(FrameError):
            frames.unpack_hello(frames.pack_hello(bad))


def test_forward_and_its_reply_come_back_as_they_went() -> None:
    forward = Forward(1, 2, 3, 4_000, 7, b"batch")
    assert frames.unpack_forward(frames.pack_forward(forward)) == forward
    for reply in (
        ForwardReply(1, 2, True, b"replies", None, 0),
        ForwardReply(1, 2, False, b"", "n3", 12),
        ForwardReply(1, 2, False, b"", None, 12),
    ):
        assert frames.unpack_forward_reply(frames.pack_forward_reply(reply)) == reply


@pytest.mark.parametrize(
    ("read", "fields"),
    [
        (frames.unpack_raft, [0, b"x"]),
        (frames.unpack_raft, [1]),
        (frames.unpack_raft, [1, "x"]),
        (frames.unpack_forward, [1, 2, 3, 4, 5, "batch"]),
        (frames.unpack_forward, [1, 2, 3, 4, 5, bytes(frames.BATCH_BYTES_MAX + 1)]),
        (frames.unpack_forward, [1, 2, 3, -4, 5, b"batch"]),
        (frames.unpack_forward_reply, [1, 2, 1, b""]),
        (frames.unpack_forward_reply, [1, 2, True, ["n1", 1]]),
        (frames.unpack_forward_reply, [1, 2, False, b"replies"]),
        (frames.unpack_forward_reply, [1, 2, False, ["n1"]]),
        (frames.unpack_forward_reply, [1, 2, False, [1, 1]]),
        (frames.unpack_forward_reply, [1, 2, False, [None, None]]),
        (frames.unpack_hello, ["other", b"", "", "", "", 1, 1, []]),
        (frames.unpack_hello, ["blank", b"", "", "", None, 1, 1, []]),
    ],
)
def test_a_body_with_a_wrong_field_is_a_frame_error(
    read: Callable[[bytes], object], fields: list[object]
) -> None:
    with pytest.raises(FrameError):
        read(msgpack.packb(fields))


# -------------------------------------------------------------------------------------- link frames


def test_a_link_frame_begins_with_kind_and_epochs() -> None:
    data = frames.pack_link(3, 5, 6, [1, 2, 3_000, 7, b"batch"])
    assert frames.unpack_link(data) == [3, 5, 6, [1, 2, 3_000, 7, b"batch"]]
    for wrong in ([1, 2], [1, "2", 3], [None, 1, 2]):
        with pytest.raises(FrameError):
            frames.unpack_link(msgpack.packb(wrong))


def test_kinds_of_peer_frames_are_distinct_and_known() -> None:
    kinds = {
        name: value
        for name, value in vars(frames).items()
        if name.startswith("PEER_") and type(value) is int and not name.endswith(("MAX", "VERSION"))
    }
    assert sorted(kinds.values()) == sorted(frames.PEER_KINDS)
