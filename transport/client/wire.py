"""The client's side of the wire contract: what calls become bytes, and what replies mean.

This is the one file of the client that knows the generated protobuf code. Everything above it works
with bytes of single requests and with `Outcome` objects.

A RequestBatch is a repeated message field, so on the wire it is nothing but its requests one after
another, each behind a tag and a length. The client uses that twice. A request is encoded once,
when the call is made, without its time limit; and a batch is put together by joining encoded
requests, so that coalescing many calls into one message costs no second encoding. The time limit
changes from one attempt to the next, and protobuf lets fields stand in any order, so it is put in
front on sending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from transport import polyraft_pb2 as pb

OK = 0
REJECTED = 1
NO_SUCH_GROUP = 2
NO_LEADER = 3
NOT_LEADER = 4
BUSY = 5
TIMEOUT = 6
BAD_REQUEST = 7
SESSION_EXPIRED = 8
APPLY_FAILED = 9
READ_ONLY = 10
FORBIDDEN = 11
SHUTTING_DOWN = 12
INTERNAL = 13
UNAVAILABLE = 14

CODE_NAMES: Mapping[int, str] = {number: name for name, number in pb.Code.items()}

LINEARIZABLE = 0
LEASE = 1
STALE = 2

# Limits of the contract that a client must keep; a batch above them would be refused as a whole.
BATCH_BYTES_MAX = 8 << 20
BATCH_REQUESTS_MAX = 1024
GROUP_BYTES_MAX = 128
MESSAGE_BYTES_MAX = 16 << 20
TIMEOUT_MS_MAX = 600_000

# What framing adds to a request inside its batch: a tag, the length, and the time limit in front.
REQUEST_OVERHEAD_BYTES_MAX = 1 + 5 + 1 + 5

assert BATCH_BYTES_MAX < MESSAGE_BYTES_MAX


class BadReplyError(Exception):
    """The bytes of a reply are no ReplyBatch, or not one that answers what was asked."""


@dataclass(slots=True)
class Outcome:
    """What one reply says about one request."""

    code: int
    data: bytes
    error_text: str
    maybe_applied: bool
    leader: str
    leader_address: str
    index: int
    retry_after_ms: int
    session: int


@dataclass(slots=True, kw_only=True)
class SessionMark:
    """What makes a write exactly-once: its session, its number there, what may be forgotten."""

    session: int
    sequence: int
    acknowledged: int


def encode_write(
    operation: str,
    key: str,
    data: bytes,
    *,
    type_name: str = "",
    extend: Mapping[str, str] | None = None,
    mark: SessionMark | None = None,
) -> bytes:
    """One Request that writes. `group` stays empty: the group frame of the message names it."""
    write = pb.WriteRequest(
        key=key, data=data, type=type_name, operation=operation, extendInfo=extend
    )
    if mark is None:
        return pb.Request(write=write).SerializeToString()
    request = pb.Request(
        session=mark.session,
        sequence=mark.sequence,
        acknowledged=mark.acknowledged,
        write=write,
    )
    return request.SerializeToString()


def encode_read(data: bytes, *, consistency: int = LINEARIZABLE, min_index: int = 0) -> bytes:
    """One Request that reads."""
    read = pb.Read(
        request=pb.ReadRequest(data=data),
        consistency=pb.Consistency.Name(consistency),
        min_index=min_index,
    )
    return pb.Request(read=read).SerializeToString()


def encode_admin(command: str, value: str, options: Mapping[str, str] | None = None) -> bytes:
    """One Request that asks a node about itself or changes the cluster."""
    return pb.Request(
        admin=pb.Admin(command=command, value=value, options=options)
    ).SerializeToString()


def encode_open_session(session: int = 0) -> bytes:
    """One Request that opens a session, or renews `session`."""
    return pb.Request(session=session, open_session=pb.OpenSession()).SerializeToString()


def encode_close_session(session: int) -> bytes:
    """One Request that ends a session."""
    return pb.Request(session=session, close_session=pb.CloseSession()).SerializeToString()


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    assert value >= 0, value
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def join_batch(requests: Sequence[bytes], timeout_ms: int) -> bytes:
    """The RequestBatch of encoded requests, each with the same time limit."""
    assert 0 < timeout_ms <= TIMEOUT_MS_MAX, timeout_ms
    assert 0 < len(requests) <= BATCH_REQUESTS_MAX, len(requests)
    limit = b"\x18" + varint(timeout_ms)
    limit_bytes = len(limit)
    parts: list[bytes] = []
    for request in requests:
        parts += (b"\n", varint(limit_bytes + len(request)), limit, request)
    return b"".join(parts)


def decode_replies(payload: bytes, request_count: int) -> list[Outcome]:
    """The outcome of each request of a message, in order; BadReplyError when they do not fit it."""
    try:
        batch = pb.ReplyBatch.FromString(payload)
    except DecodeError as error:
        raise BadReplyError(f"no ReplyBatch: {error}") from error
    outcomes = [
        Outcome(
            code=int(reply.code),
            data=reply.response.data,
            error_text=reply.response.errMsg,
            maybe_applied=reply.maybe_applied,
            leader=reply.leader,
            leader_address=reply.leader_address,
            index=reply.index,
            retry_after_ms=reply.retry_after_ms,
            session=reply.session,
        )
        for reply in batch.replies
    ]
    if batch.whole:
        if len(outcomes) != 1:
            raise BadReplyError(f"a reply for the whole message holds {len(outcomes)} replies")
        return outcomes * request_count
    if len(outcomes) != request_count:
        raise BadReplyError(f"{len(outcomes)} replies to {request_count} requests")
    return outcomes


# An OK reply begins with Reply.response = {success: true} and, for a command without an answer,
# holds nothing else in it; success is true exactly with OK.
_OK_WITHOUT_DATA = b"\n\x02\x18\x01"


def count_plain_ok(payload: bytes) -> int:
    """How many replies are OK and carry no data, without decoding them.

    For the load generator only. A leader's name or an error text could in principle contain these
    four bytes, so an answer above the number of requests means nothing; it then has to decode.
    """
    return payload.count(_OK_WITHOUT_DATA)
