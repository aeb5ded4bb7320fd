"""The client contract on the server's side: RequestBatch in, ReplyBatch out.

What may live here: the only server code that imports the generated protobuf classes, and what a
batch must satisfy before a group sees it.  Frames around the batch are in
:mod:`transport.frames`.

Decoding uses the *view* classes, in which a write is plain bytes: these bytes go into the log as
they came, and the parsed :class:`WriteRequest` beside them is kept for the leader's own apply.  A
generated object is never reused (its arena would grow until it dies).

Replies of the hot path are put together by hand from a constant prefix and a varint; a test holds
them equal, byte for byte, to what protobuf writes.

A message is of one class, that of its first request, and is refused as a whole
(:class:`BadBatch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from google.protobuf.message import DecodeError

from transport.frames import (
    BATCH_BYTES_MAX,
    BATCH_REQUESTS_MAX,
    BODY_READ,
    COMMAND_BYTES_MAX,
    FrameError,
    varint_at,
)
from transport.polyraft_pb2 import (
    Admin,
    Read,
    ReadRequest,
    Reply,
    ReplyBatch,
    RequestBatch,
    RequestBatchView,
    RequestView,
    Response,
    WriteRequest,
)

__all__ = ["ReadRequest", "WriteRequest"]  # for those who hold them; the rest is found by name

OK: Final = 0
REJECTED: Final = 1
NO_SUCH_GROUP: Final = 2
NO_LEADER: Final = 3
NOT_LEADER: Final = 4
BUSY: Final = 5
TIMEOUT: Final = 6
BAD_REQUEST: Final = 7
SESSION_EXPIRED: Final = 8
APPLY_FAILED: Final = 9
READ_ONLY: Final = 10
FORBIDDEN: Final = 11
SHUTTING_DOWN: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14

CODE_NAMES: Final = (
    "OK",
    "REJECTED",
    "NO_SUCH_GROUP",
    "NO_LEADER",
    "NOT_LEADER",
    "BUSY",
    "TIMEOUT",
    "BAD_REQUEST",
    "SESSION_EXPIRED",
    "APPLY_FAILED",
    "READ_ONLY",
    "FORBIDDEN",
    "SHUTTING_DOWN",
    "INTERNAL",
    "UNAVAILABLE",
)

LINEARIZABLE: Final = 0
LEASE: Final = 1
STALE: Final = 2

WRITES: Final = 1
READS: Final = 2
SESSION: Final = 3
ADMIN: Final = 4

TIMEOUT_CHANGING_MS: Final = 10_000  # writes, session operations, Admins that change something
TIMEOUT_READING_MS: Final = 5_000  # the rest
TIMEOUT_MAX_MS: Final = 600_000  # above: BAD_REQUEST

RIGHT_READ: Final = 1
RIGHT_WRITE: Final = 2
RIGHT_ADMIN: Final = 4
RIGHTS_ALL: Final = RIGHT_READ | RIGHT_WRITE | RIGHT_ADMIN  # of a client
RIGHT_NODE: Final = 8  # only of the node processes themselves

READING_ADMINS: Final = frozenset(("status", "why", "metadata", "groups", "nodes"))

# Below this size a batch is decoded at once: even the smallest requests cannot become many.
SCAN_BYTES_MIN: Final = 64 << 10


def classify(kind: int, command: str = "") -> tuple[int, int]:
    """(right needed, default time-out in ms) of a class; the one place that decides both."""
    if kind == READS or (kind == ADMIN and command in READING_ADMINS):
        return RIGHT_READ, TIMEOUT_READING_MS
    if kind == ADMIN:
        return RIGHT_ADMIN, TIMEOUT_CHANGING_MS
    return RIGHT_WRITE, TIMEOUT_CHANGING_MS


def default_timeout_ms(body: int) -> int:
    """For who has only peeked: never shorter than what the worker will say."""
    return TIMEOUT_READING_MS if body == BODY_READ else TIMEOUT_CHANGING_MS


# ----------------------------------------------------------------------------------------- requests


@dataclass(slots=True)
class Write:
    session: int
    sequence: int
    acknowledged: int
    timeout_ms: int
    raw: bytes  # the encoded WriteRequest, as it goes into the log
    request: WriteRequest


@dataclass(slots=True)
class ReadItem:
    timeout_ms: int
    consistency: int
    min_index: int
    request: ReadRequest


@dataclass(slots=True)
class Writes:
    kind: ClassVar[int] = WRITES
    requests: list[Write]
    timeout_ms: int  # the longest of them

    rights: ClassVar[int] = RIGHT_WRITE


@dataclass(slots=True)
class Reads:
    """Served together, at the strongest consistency and the highest min_index among them."""

    kind: ClassVar[int] = READS
    requests: list[ReadItem]
    timeout_ms: int
    consistency: int
    min_index: int

    rights: ClassVar[int] = RIGHT_READ


@dataclass(slots=True)
class SessionOperation:
    """Open (``session`` set: renew) or close one session."""

    kind: ClassVar[int] = SESSION
    opens: bool
    session: int
    timeout_ms: int

    rights: ClassVar[int] = RIGHT_WRITE


@dataclass(slots=True)
class AdminOperation:
    kind: ClassVar[int] = ADMIN
    command: str
    value: str
    options: dict[str, str]
    timeout_ms: int
    rights: int


@dataclass(slots=True)
class BadBatch:
    """To be answered BAD_REQUEST, whole.  ``reason`` names the position, counted from 0."""

    kind: ClassVar[int] = 0
    reason: str


Decoded = Writes | Reads | SessionOperation | AdminOperation


def decode_batch(group_name: str, batch: bytes) -> Decoded | BadBatch:
    """Everything that can be known of a message without the state of its group."""
    if len(batch) > BATCH_BYTES_MAX:
        return BadBatch(f"a RequestBatch has at most {BATCH_BYTES_MAX} bytes")
    if len(batch) >= SCAN_BYTES_MIN and _has_too_many(batch):
        return BadBatch(f"a RequestBatch has at most {BATCH_REQUESTS_MAX} requests")
    try:
        views = RequestBatchView.FromString(batch).requests
    except DecodeError:
        return BadBatch("the third frame is not a RequestBatch")
    count = len(views)
    if not count:
        return BadBatch("a RequestBatch has at least one request")
    if count > BATCH_REQUESTS_MAX:
        return BadBatch(f"a RequestBatch has at most {BATCH_REQUESTS_MAX} requests")
    first = views[0]
    if first.write:
        return _decode_writes(group_name, views)
    body = first.WhichOneof("body")
    if body is None:
        return BadBatch("request 0: the body is missing or unknown")
    if body == "write":
        return _decode_writes(group_name, views)
    if body == "read":
        return _decode_reads(group_name, views)
    if count > 1:
        return BadBatch("request 1: a session operation or an Admin stands alone in its message")
    trouble = _check_common(first)
    if trouble:
        return BadBatch(f"request 0: {trouble}")
    return _decode_admin(first) if body == "admin" else _decode_session(first, body)


def _has_too_many(batch: bytes) -> bool:
    """Count fields without decoding: two bytes of batch can become a hundred bytes of objects."""
    at = count = 0
    end = len(batch)
    try:
        while at < end:
            tag = batch[at]
            at += 1
            if tag >= 0x80:
                tag, at = varint_at(batch, at - 1)
            wire_type = tag & 7
            if wire_type == 2:
                length = batch[at]
                at += 1
                if length >= 0x80:
                    length, at = varint_at(batch, at - 1)
                at += length
            elif wire_type == 0:
                _, at = varint_at(batch, at)
            else:
                return True  # unknown to us in form and name; not worth megabytes
            count += 1
            if count > BATCH_REQUESTS_MAX:
                return True
    except IndexError:
        return False  # cut short, as the decoder will say
    return False


def _check_common(view: RequestView) -> str:
    if view.timeout_ms > TIMEOUT_MAX_MS:
        return f"timeout_ms is above {TIMEOUT_MAX_MS}"
    if view.sequence and not view.session:
        return "a sequence without a session"
    return ""


def _decode_writes(group_name: str, views: Sequence[RequestView]) -> Writes | BadBatch:
    writes: list[Write] = []
    timeout_longest_ms = 0
    parse = WriteRequest.FromString
    for view in views:
        raw = view.write
        if not raw and view.WhichOneof("body") != "write":
            return _other_body(len(writes), view)
        try:
            request = parse(raw)
        except DecodeError:
            return BadBatch(f"request {len(writes)}: the write does not parse")
        group = request.group
        if group and group != group_name:
            return BadBatch(f"request {len(writes)}: its group is not the group of the message")
        if len(raw) > COMMAND_BYTES_MAX:
            return BadBatch(f"request {len(writes)}: a write has at most {COMMAND_BYTES_MAX} bytes")
        session = view.session
        sequence = view.sequence
        acknowledged = view.acknowledged
        timeout_ms = view.timeout_ms or TIMEOUT_CHANGING_MS
        if timeout_ms > timeout_longest_ms:
            timeout_longest_ms = timeout_ms
        if (session or sequence or timeout_ms > TIMEOUT_MAX_MS) and (
            trouble := _check_common(view) or _check_sequence(sequence, acknowledged)
        ):
            return BadBatch(f"request {len(writes)}: {trouble}")
        writes.append(Write(session, sequence, acknowledged, timeout_ms, raw, request))
    return Writes(writes, timeout_longest_ms)


def _check_sequence(sequence: int, acknowledged: int) -> str:
    if not sequence:
        return "a write of a session needs a sequence, from 1"
    if sequence <= acknowledged:
        return "its sequence is at or below acknowledged"
    return ""


def _decode_reads(group_name: str, views: Sequence[RequestView]) -> Reads | BadBatch:
    reads: list[ReadItem] = []
    timeout_longest_ms = min_index = 0
    strongest = STALE
    for at, view in enumerate(views):
        if view.WhichOneof("body") != "read":
            return _other_body(at, view)
        read: Read = view.read
        request = read.request
        trouble = _check_common(view)
        if not trouble and request.group and request.group != group_name:
            trouble = "its group is not the group of the message"
        if not trouble and read.consistency not in (LINEARIZABLE, LEASE, STALE):
            trouble = f"unknown consistency {int(read.consistency)}"
        if trouble:
            return BadBatch(f"request {at}: {trouble}")
        timeout_ms = view.timeout_ms or TIMEOUT_READING_MS
        timeout_longest_ms = max(timeout_longest_ms, timeout_ms)
        strongest = min(strongest, int(read.consistency))
        min_index = max(min_index, read.min_index)
        reads.append(ReadItem(timeout_ms, int(read.consistency), read.min_index, request))
    return Reads(reads, timeout_longest_ms, strongest, min_index)


def _decode_session(view: RequestView, body: str) -> SessionOperation | BadBatch:
    opens = body == "open_session"
    if not opens and not view.session:
        return BadBatch("request 0: CloseSession without a session")
    return SessionOperation(opens, view.session, view.timeout_ms or TIMEOUT_CHANGING_MS)


def _decode_admin(view: RequestView) -> AdminOperation:
    admin: Admin = view.admin
    right, timeout_ms = classify(ADMIN, admin.command)
    return AdminOperation(
        admin.command, admin.value, dict(admin.options), view.timeout_ms or timeout_ms, right
    )


def _other_body(at: int, view: RequestView) -> BadBatch:
    if view.WhichOneof("body") is None:
        return BadBatch(f"request {at}: the body is missing or unknown")
    return BadBatch(f"request {at}: a message is of one class, that of its first request")


def parse_write(raw: bytes) -> WriteRequest:
    """For apply.  FrameError: this command is REJECTED, on all replicas alike."""
    try:
        return WriteRequest.FromString(raw)
    except DecodeError:
        raise FrameError("the command is not a WriteRequest") from None


# ------------------------------------------------------------------------------------------ replies

FIELDS_CACHED_MAX: Final = 256  # node names and addresses are few, this is only a bound

_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(256))
_RESPONSE_OK: Final = b"\x0a\x02\x18\x01"  # response { success: true }
_BATCH_WHOLE: Final = b"\x10\x01"  # whole: true
_leader_fields: dict[str, bytes] = {}
_address_fields: dict[str, bytes] = {"": b""}


def varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _leader_field(leader: str) -> bytes:
    """Field 4 of a Reply and the tag of field 5, which always follows it."""
    if len(_leader_fields) >= FIELDS_CACHED_MAX:
        _leader_fields.clear()
    name = leader.encode()
    field = b"\x22" + varint(len(name)) + name if name else b""
    _leader_fields[leader] = field = field + b"\x28"
    return field


def _address_field(address: str) -> bytes:
    """Field 7 of a Reply, the last that a reply without a session has."""
    field = _address_fields.get(address)
    if field is None:
        if len(_address_fields) >= FIELDS_CACHED_MAX:
            _address_fields.clear()
        name = address.encode()
        field = _address_fields[address] = b"\x3a" + varint(len(name)) + name if name else b""
    return field


def ok_reply(index: int, leader: str, address: str = "") -> bytes:
    """Reply { OK, index, leader, leader_address } without data: the answer to most writes."""
    assert index > 0
    head = _leader_fields.get(leader) or _leader_field(leader)
    return _RESPONSE_OK + head + varint(index) + _address_field(address)


def ok_reply_with_data(index: int, leader: str, data: bytes, address: str = "") -> bytes:
    """The same with an answer; ``index`` 0 is left out, as protobuf does."""
    tail = _leader_fields.get(leader) or _leader_field(leader)
    tail = tail + varint(index) if index else tail[:-1]
    tail += _address_field(address)
    if not data:
        return _RESPONSE_OK + tail
    size = varint(len(data))
    response = varint(len(data) + len(size) + 3)
    return b"".join((b"\x0a", response, b"\x0a", size, data, b"\x18\x01", tail))


def ok_batch(first_index: int, count: int, leader: str, address: str = "") -> bytes:
    """ReplyBatch for ``count`` writes at consecutive indexes, all OK without data."""
    assert first_index > 0
    head = _RESPONSE_OK + (_leader_fields.get(leader) or _leader_field(leader))
    tail = _address_field(address)
    parts: list[bytes] = []
    number_bytes = 0
    lead = b""
    for index in range(first_index, first_index + count):
        number = varint(index)
        if len(number) != number_bytes:
            number_bytes = len(number)
            lead = b"\x0a" + varint(len(head) + number_bytes + len(tail)) + head
        parts += (lead, number, tail)
    return b"".join(parts)


def encode_batch(replies: list[bytes]) -> bytes:
    """ReplyBatch of encoded replies, in the order of the requests."""
    parts: list[bytes] = []
    for reply in replies:
        parts += (b"\x0a", varint(len(reply)), reply)
    return b"".join(parts)


def encode_reply(
    code: int,
    error: str = "",
    *,
    data: bytes = b"",
    index: int = 0,
    maybe_applied: bool = False,
    leader: str = "",
    leader_address: str = "",
    retry_after_ms: int = 0,
    session: int = 0,
) -> bytes:
    """One Reply.  Every code but OK has a reason; without one its name stands in."""
    assert 0 <= code < len(CODE_NAMES)
    response = Response(
        data=data, errMsg="" if code == OK else error or CODE_NAMES[code], success=code == OK
    )
    return Reply(
        response=response,
        code=code,  # type: ignore[arg-type]  # an open enum: plain numbers are its values
        maybe_applied=maybe_applied,
        leader=leader,
        index=index,
        retry_after_ms=retry_after_ms,
        leader_address=leader_address,
        session=session,
    ).SerializeToString()


def encode_whole(
    code: int,
    error: str = "",
    *,
    maybe_applied: bool = False,
    leader: str = "",
    leader_address: str = "",
    retry_after_ms: int = 0,
    index: int = 0,
) -> bytes:
    """ReplyBatch whose one Reply holds for all requests of the message."""
    reply = encode_reply(
        code,
        error,
        index=index,
        maybe_applied=maybe_applied,
        leader=leader,
        leader_address=leader_address,
        retry_after_ms=retry_after_ms,
    )
    return b"\x0a" + varint(len(reply)) + reply + _BATCH_WHOLE


# ------------------------------------------------------------------------- this node as a client


def encode_admin(command: str, value: str, options: Mapping[str, str], timeout_ms: int) -> bytes:
    """RequestBatch with one Admin: what a node asks of its own cluster."""
    batch = RequestBatch()
    request = batch.requests.add()
    request.timeout_ms = timeout_ms
    request.admin.command = command
    request.admin.value = value
    request.admin.options.update(options)
    return batch.SerializeToString()


def encode_read(data: bytes, timeout_ms: int) -> bytes:
    """RequestBatch with one linearizable Read."""
    batch = RequestBatch()
    request = batch.requests.add()
    request.timeout_ms = timeout_ms
    request.read.request.data = data
    return batch.SerializeToString()


def first_reply(payload: bytes) -> tuple[int, str, bytes]:
    """(code, reason, data) of the first Reply in a ReplyBatch."""
    try:
        replies = ReplyBatch.FromString(payload).replies
    except DecodeError:
        return INTERNAL, "the answer is no ReplyBatch", b""
    if not replies:
        return INTERNAL, "no answer", b""
    response = replies[0].response
    return int(replies[0].code), response.errMsg, response.data
