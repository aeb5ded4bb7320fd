"""The client contract on the server's side: what a batch must be, and replies byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import frames, protocol
from transport.frames import FrameError
from transport.polyraft_pb2 import (
    Admin,
    CloseSession,
    Code,
    Consistency,
    OpenSession,
    Read,
    ReadRequest,
    Reply,
    ReplyBatch,
    Request,
    RequestBatch,
    Response,
    WriteRequest,
)
from transport.protocol import (
    AdminOperation,
    BadBatch,
    Decoded,
    Reads,
    SessionOperation,
    Writes,
    decode_batch,
)

PUT = WriteRequest(group="kv", key="k", data=b"v" * 200, operation="PUT")


def batch(*requests: Request) -> bytes:
    return RequestBatch(requests=requests).SerializeToString()


def write(**more: Any) -> Request:
    return Request(write=PUT, **more)


def read(consistency: Any = 0, min_index: int = 0, **more: Any) -> Request:
    request = ReadRequest(data=b"q")
    return Request(read=Read(request=request, consistency=consistency, min_index=min_index), **more)


def good(data: bytes, group: str = "kv") -> Decoded:
    decoded = decode_batch(group, data)
    assert not isinstance(decoded, BadBatch), decoded
    return decoded


def refused(data: bytes, group: str = "kv") -> str:
    decoded = decode_batch(group, data)
    assert isinstance(decoded, BadBatch), decoded
    return decoded.reason


# ------------------------------------------------------------------------------------- constants


def test_codes_and_consistencies_are_those_of_the_proto() -> None:
    for number, name in enumerate(protocol.CODE_NAMES):
        assert getattr(protocol, name) == number == Code.Value(name)
    assert len(protocol.CODE_NAMES) == len(Code.keys())
    for name, number in Consistency.items():
        assert getattr(protocol, name) == number


# -------------------------------------------------------------------------------------- requests


def test_writes_keep_their_bytes_and_their_order() -> None:
    decoded = good(batch(*(write(session=3, sequence=n, acknowledged=1) for n in (2, 3, 4))))
    assert type(decoded) is Writes
    assert decoded.kind == protocol.WRITES
    assert [item.sequence for item in decoded.requests] == [2, 3, 4]
    first = decoded.requests[0]
    assert (first.session, first.acknowledged, first.timeout_ms) == (3, 1, 10_000)
    assert first.raw == PUT.SerializeToString()
    assert (first.request.key, first.request.operation) == ("k", "PUT")


def test_a_write_without_any_field_is_still_a_write() -> None:
    decoded = good(batch(Request(write=WriteRequest()), write()))
    assert type(decoded) is Writes
    assert decoded.requests[0].raw == b""


def test_reads_are_served_at_the_strongest_consistency_and_the_highest_index() -> None:
    decoded = good(batch(read(2, 5), read(1, 9), read(2, 7)))
    assert type(decoded) is Reads
    assert (decoded.consistency, decoded.min_index) == (protocol.LEASE, 9)
    assert [item.consistency for item in decoded.requests] == [2, 1, 2]
    assert decoded.timeout_ms == 5_000


def test_a_session_is_opened_renewed_and_closed() -> None:
    opened = good(batch(Request(open_session=OpenSession())))
    assert opened == SessionOperation(opens=True, session=0, timeout_ms=10_000)
    renewed = good(batch(Request(open_session=OpenSession(), session=9)))
    assert renewed == SessionOperation(opens=True, session=9, timeout_ms=10_000)
    closed = good(batch(Request(close_session=CloseSession(), session=9, timeout_ms=5)))
    assert closed == SessionOperation(opens=False, session=9, timeout_ms=5)
    assert "without a session" in refused(batch(Request(close_session=CloseSession())))


def test_an_admin_that_changes_something_needs_more_time_and_more_rights() -> None:
    status = good(batch(Request(admin=Admin(command="status"))), "")
    assert status == AdminOperation("status", "", {}, 5_000, protocol.RIGHT_READ)
    admin = Admin(command="createGroup", value="g", options={"machine": "kv"})
    create = good(batch(Request(admin=admin)), "_system")
    assert create == AdminOperation(
        "createGroup", "g", {"machine": "kv"}, 10_000, protocol.RIGHT_ADMIN
    )


def test_the_time_of_a_message_is_the_longest_of_its_requests() -> None:
    assert good(batch(write(timeout_ms=5), write(timeout_ms=50))).timeout_ms == 50
    assert good(batch(write(timeout_ms=5), write())).timeout_ms == 10_000
    assert good(batch(read(timeout_ms=7), read(timeout_ms=600_000))).timeout_ms == 600_000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "at least one"),
        (b"\xff\xff", "not a RequestBatch"),
        (b"\x0a\x04\x52\x02\x0a\xff", "request 0: the write does not parse"),
        (b"\x0a\x05\x52\x03\x0a\x01\xff", "request 0: the write does not parse"),  # no UTF-8
        (b"\x0a\x00", "request 0: the body is missing"),
        (b"\x0a\x03\x7a\x01\x00", "request 0: the body is missing or unknown"),  # field 15
        (batch(write(), Request()), "request 1: the body is missing"),
        (batch(write(), read()), "request 1: a message is of one class"),
        (batch(read(), write()), "request 1: a message is of one class"),
        (batch(read(), Request()), "request 1: the body is missing"),
        (batch(write(), Request(open_session=OpenSession())), "request 1: a message is of one"),
        (batch(Request(admin=Admin()), Request(admin=Admin())), "request 1: a session operation"),
        (batch(Request(open_session=OpenSession()), write()), "request 1: a session operation"),
        (batch(write(), write(timeout_ms=600_001)), "request 1: timeout_ms"),
        (batch(read(timeout_ms=600_001)), "request 0: timeout_ms"),
        (batch(Request(admin=Admin(), timeout_ms=600_001)), "request 0: timeout_ms"),
        (batch(read(), read(3)), "request 1: unknown consistency 3"),
        (batch(write(sequence=1)), "request 0: a sequence without a session"),
        (batch(read(sequence=1)), "request 0: a sequence without a session"),
        (batch(write(session=1)), "request 0: a write of a session needs a sequence"),
        (batch(write(session=1, sequence=4, acknowledged=4)), "request 0: its sequence"),
        (batch(*[write()] * 1025), "at most 1024 requests"),
        (batch(*[Request()] * 40_000), "at most 1024 requests"),
        (bytes(frames.BATCH_BYTES_MAX + 1), "at most 8388608 bytes"),
    ],
)
def test_a_batch_is_refused_as_a_whole_and_the_position_is_named(data: bytes, reason: str) -> None:
    assert reason in refused(data)


def test_the_group_inside_a_request_is_empty_or_the_group_of_the_message() -> None:
    inside = ReadRequest(group="kv")
    for data in (batch(write()), batch(Request(read=Read(request=inside)))):
        good(data, "kv")
        assert "request 0: its group" in refused(data, "other")
    good(batch(Request(write=WriteRequest(key="k"))), "other")


def test_1024_requests_are_accepted_small_and_large() -> None:
    assert len(good(batch(*[write()] * 1024)).requests) == 1024  # type: ignore[union-attr]
    assert len(good(batch(*[Request(write=WriteRequest())] * 1024)).requests) == 1024  # type: ignore[union-attr]


def test_pitfall_47_a_command_that_would_not_fit_the_log_is_refused_at_the_door() -> None:
    large = WriteRequest(data=bytes(frames.COMMAND_BYTES_MAX - 4))
    assert len(large.SerializeToString()) > frames.COMMAND_BYTES_MAX
    assert "request 0: a write has at most" in refused(batch(Request(write=large)))
    fits = WriteRequest(data=bytes(frames.COMMAND_BYTES_MAX - 5))
    assert len(fits.SerializeToString()) == frames.COMMAND_BYTES_MAX
    good(batch(Request(write=fits)))


def test_eight_megabytes_of_empty_requests_are_counted_before_they_become_objects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "RequestBatchView", None)  # nothing is decoded
        assert "at most 1024" in refused(b"\x0a\x00" * (4 << 20))
    assert "at most 1024" in refused(b"\x0a\x00" * (4 << 20))
    assert protocol._has_too_many(b"\x0a\x00" * 1025)
    assert not protocol._has_too_many(b"\x0a\x00" * 1024)
    assert not protocol._has_too_many(b"\x12\x00" * 1024)  # unknown fields count alike
    assert not protocol._has_too_many(b"\xa2\x06\x00" * 1024)
    assert protocol._has_too_many(b"\x08\x01" * 1025)
    assert protocol._has_too_many(b"\x13\x0a\x00")  # but not those of an unknown form
    assert not protocol._has_too_many(b"\x0a\xff")  # cut short: left to the decoder
    assert "not a RequestBatch" in refused(b"\x0a\xff\xff\xff\x7f" + bytes(100_000))


def test_unknown_fields_are_ignored() -> None:
    unknown = b"\xa2\x06\x01x"  # field 100
    data = write().SerializeToString() + unknown
    assert type(good(b"\x0a" + protocol.varint(len(data)) + data + unknown)) is Writes


@settings(max_examples=300)
@given(st.binary(max_size=60))
def test_strangers_bytes_are_decoded_or_refused_and_nothing_else(data: bytes) -> None:
    decode_batch("kv", data)
    decode_batch("kv", b"\x0a" + protocol.varint(len(data)) + data)


@settings(max_examples=300)
@given(st.integers(0, 400), st.integers(0, 7), st.booleans())
def test_a_flipped_bit_is_decoded_or_refused_and_peek_agrees(
    at: int, bit: int, reads: bool
) -> None:
    data = bytearray(batch(read(timeout_ms=7), read()) if reads else batch(write(timeout_ms=7)))
    data[at % len(data)] ^= 1 << bit
    decoded = decode_batch("kv", bytes(data))
    body, timeout_ms = frames.peek(bytes(data))
    if type(decoded) is Writes and body:
        assert body == frames.BODY_WRITE
        assert decoded.requests[0].timeout_ms == (timeout_ms or 10_000)
    if type(decoded) is Reads and body:
        assert body == frames.BODY_READ
        assert decoded.requests[0].timeout_ms == (timeout_ms or 5_000)


def test_the_router_never_gives_up_before_the_worker() -> None:
    kinds = {
        frames.BODY_WRITE: (protocol.WRITES, ""),
        frames.BODY_READ: (protocol.READS, ""),
        frames.BODY_ADMIN: (protocol.ADMIN, "createGroup"),
        frames.BODY_OPEN_SESSION: (protocol.SESSION, ""),
        frames.BODY_UNCLEAR: (protocol.WRITES, ""),
    }
    for body, (kind, command) in kinds.items():
        assert protocol.default_timeout_ms(body) >= protocol.classify(kind, command)[1]


def test_a_command_of_the_log_is_parsed_or_a_frame_error() -> None:
    assert protocol.parse_write(PUT.SerializeToString()) == PUT
    with pytest.raises(FrameError):
        protocol.parse_write(b"\x0a\xff")


# --------------------------------------------------------------------------------------- replies

INDEXES = (1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21, 2**28, 2**35, 2**63, 2**64 - 1)


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("leader", ["", "n1", "ñ" * 100])
@pytest.mark.parametrize("address", ["", "tcp://127.0.0.1:7001", "a" * 200])
def test_the_hand_made_reply_equals_what_protobuf_writes(
    index: int, leader: str, address: str
) -> None:
    reply = Reply(
        response=Response(success=True), leader=leader, index=index, leader_address=address
    )
    assert protocol.ok_reply(index, leader, address) == reply.SerializeToString()
    for data in (b"", b"x", b"x" * 123, b"x" * 124, b"x" * 130, b"x" * 70_000):
        reply.response.data = data
        made = protocol.ok_reply_with_data(index, leader, data, address)
        assert made == reply.SerializeToString()


def test_a_read_of_an_empty_log_has_no_index() -> None:
    for leader in ("", "n1"):
        reply = Reply(response=Response(success=True, data=b"x"), leader=leader)
        assert protocol.ok_reply_with_data(0, leader, b"x") == reply.SerializeToString()


@pytest.mark.parametrize("count", [1, 2, 100])
def test_a_batch_of_hand_made_replies_equals_what_protobuf_writes(count: int) -> None:
    indexes = range(120, 120 + count)
    address = "tcp://127.0.0.1:7001"
    replies = [
        Reply(response=Response(success=True), leader="n1", index=i, leader_address=address)
        for i in indexes
    ]
    expected = ReplyBatch(replies=replies).SerializeToString()
    assert protocol.ok_batch(120, count, "n1", address) == expected
    assert protocol.encode_batch([reply.SerializeToString() for reply in replies]) == expected


def test_remembered_fields_are_bounded() -> None:
    for number in range(3 * protocol.FIELDS_CACHED_MAX):
        protocol.ok_reply(1, f"node-{number}", f"address-{number}")
        assert len(protocol._leader_fields) <= protocol.FIELDS_CACHED_MAX
        assert len(protocol._address_fields) <= protocol.FIELDS_CACHED_MAX


def test_a_refusal_speaks_for_all_requests_and_gives_its_reason() -> None:
    data = protocol.encode_whole(
        protocol.NO_LEADER, "electing", leader="n2", leader_address="tcp://h:1", retry_after_ms=50
    )
    parsed = ReplyBatch.FromString(data)
    assert parsed.whole
    (reply,) = parsed.replies
    assert (reply.code, reply.response.errMsg, reply.response.success) == (3, "electing", False)
    assert (reply.leader, reply.leader_address, reply.retry_after_ms) == ("n2", "tcp://h:1", 50)
    assert not reply.maybe_applied
    assert data == parsed.SerializeToString()


@pytest.mark.parametrize("code", range(len(protocol.CODE_NAMES)))
def test_success_is_true_exactly_with_ok_and_every_other_code_has_a_reason(code: int) -> None:
    reply = Reply.FromString(protocol.encode_reply(code))
    assert reply.response.success == (code == protocol.OK)
    assert bool(reply.response.errMsg) == (code != protocol.OK)
    assert reply.code == code


def test_an_opened_session_is_told() -> None:
    reply = Reply.FromString(protocol.encode_reply(protocol.OK, session=2**64 - 1, index=4))
    assert (reply.session, reply.index) == (2**64 - 1, 4)


@given(st.integers(0, 2**64 - 1))
def test_varints_are_those_of_protobuf(value: int) -> None:
    expected = Reply(index=value).SerializeToString()[1:] if value else b"\0"
    assert protocol.varint(value) == expected


# ---------------------------------------------------------------------------- a node as a client


def test_a_node_asks_its_own_cluster_as_any_client_would() -> None:
    data = protocol.encode_admin("createGroup", "g", {"machine": "kv"}, 7_000)
    decoded = good(data, "_system")
    assert decoded == AdminOperation(
        "createGroup", "g", {"machine": "kv"}, 7_000, protocol.RIGHT_ADMIN
    )


def test_an_answer_to_a_node_is_its_code_and_reason_whatever_comes() -> None:
    refusal = protocol.encode_whole(protocol.BUSY, "later")
    assert protocol.first_reply(refusal) == (protocol.BUSY, "later", b"")
    assert protocol.first_reply(protocol.ok_batch(1, 1, "")) == (protocol.OK, "", b"")
    assert protocol.first_reply(b"")[0] == protocol.INTERNAL
    assert protocol.first_reply(b"\xff")[0] == protocol.INTERNAL
