"""Requests to bytes and replies to outcomes: what protobuf itself would make of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.client.fake_node import each, reply, whole
from transport import polyraft_pb2 as pb
from transport.client import wire


def test_a_joined_batch_is_a_request_batch_with_the_time_limit_in_each_request() -> None:
    requests = [
        wire.encode_write("PUT", "k", b"v" * 300, type_name="t", extend={"a": "b"}),
        wire.encode_read(b"question", consistency=wire.STALE, min_index=7),
        wire.encode_admin("why", "x", {"machine": "kv"}),
        wire.encode_open_session(5),
        wire.encode_close_session(6),
    ]
    batch = pb.RequestBatch.FromString(wire.join_batch(requests, 1_234))
    assert [request.timeout_ms for request in batch.requests] == [1_234] * 5
    write, read, admin, opening, closing = batch.requests
    assert (write.write.key, write.write.operation, write.write.type) == ("k", "PUT", "t")
    assert (write.write.data, dict(write.write.extendInfo)) == (b"v" * 300, {"a": "b"})
    assert (read.read.request.data, read.read.consistency, read.read.min_index) == (
        b"question",
        pb.STALE,
        7,
    )
    assert (admin.admin.command, admin.admin.value) == ("why", "x")
    assert dict(admin.admin.options) == {"machine": "kv"}
    assert (opening.session, opening.WhichOneof("body")) == (5, "open_session")
    assert (closing.session, closing.WhichOneof("body")) == (6, "close_session")


def test_a_joined_batch_without_sessions_is_byte_for_byte_what_protobuf_writes() -> None:
    requests = [wire.encode_write("PUT", f"key{number}", b"v" * number) for number in range(300)]
    ours = wire.join_batch(requests, 600_000)
    theirs = pb.RequestBatch(
        requests=[
            pb.Request(
                timeout_ms=600_000,
                write=pb.WriteRequest(operation="PUT", key=f"key{number}", data=b"v" * number),
            )
            for number in range(300)
        ]
    )
    assert ours == theirs.SerializeToString()


def test_a_write_in_a_session_carries_its_mark() -> None:
    mark = wire.SessionMark(session=1 << 63, sequence=3, acknowledged=2)
    batch = wire.join_batch([wire.encode_write("PUT", "k", b"v", mark=mark)], 10)
    request = pb.RequestBatch.FromString(batch).requests[0]
    assert (request.session, request.sequence, request.acknowledged) == (1 << 63, 3, 2)


@given(st.integers(0, 2**64 - 1))
def test_a_number_is_written_as_protobuf_writes_it(value: int) -> None:
    assert b"\x08" + wire.varint(value) == b"\x08" + _protobuf_varint(value)


def _protobuf_varint(value: int) -> bytes:
    if value == 0:
        return b"\x00"
    return pb.Request(session=value).SerializeToString()[1:]


def test_replies_come_back_in_order_with_everything_they_say() -> None:
    payload = each(
        reply(index=1, data=b"x", leader_address="tcp://a:1"),
        reply(pb.BUSY, text="full", retry_after_ms=9, maybe=True, session=4),
    ).SerializeToString()
    first, second = wire.decode_replies(payload, 2)
    assert (first.code, first.index, first.data, first.leader_address) == (0, 1, b"x", "tcp://a:1")
    assert (second.code, second.error_text, second.retry_after_ms) == (wire.BUSY, "full", 9)
    assert (second.maybe_applied, second.session) == (True, 4)


def test_a_whole_reply_answers_any_number_of_requests_and_others_exactly_theirs() -> None:
    payload = whole(reply(pb.BUSY)).SerializeToString()
    assert len(wire.decode_replies(payload, 17)) == 17
    with pytest.raises(wire.BadReplyError, match="1 replies to 2 requests"):
        wire.decode_replies(each(reply()).SerializeToString(), 2)
    two = pb.ReplyBatch(replies=[reply(), reply()], whole=True).SerializeToString()
    with pytest.raises(wire.BadReplyError, match="holds 2"):
        wire.decode_replies(two, 2)


@given(st.binary(max_size=60))
def test_bytes_from_strangers_are_a_bad_reply_or_outcomes(payload: bytes) -> None:
    try:
        outcomes = wire.decode_replies(payload, 1)
    except wire.BadReplyError:
        return
    assert len(outcomes) == 1


def test_plain_ok_replies_are_counted_without_decoding() -> None:
    payload = each(
        reply(index=5, leader_address="tcp://10.0.0.1:7001"),
        reply(index=2**63),
        reply(pb.REJECTED, index=6),
        reply(data=b"answer"),
    ).SerializeToString()
    assert wire.count_plain_ok(payload) == 2


def test_the_names_of_codes_are_the_contracts() -> None:
    assert wire.CODE_NAMES[wire.NO_LEADER] == "NO_LEADER"
    for number, name in wire.CODE_NAMES.items():
        assert getattr(wire, name) == number
