"""Frames: how bytes are cut on the three kinds of link, and how large anything may become.

What may live here: layouts, limits, and pure functions between bytes and small records.  No
socket, no clock, no protobuf.  Every function that reads bytes is total: whatever a stranger
sends ends in a value or in :class:`FrameError`, never in another exception.

* **Client link** (ZeroMQ multipart, docs/protocol.md): after the identity an optional empty
  delimiter, then ``[correlation | group | RequestBatch]`` in and ``[correlation | ReplyBatch]``
  out.
* **Peer link** (one ZeroMQ frame): ``b"PR"``, version u8, kind u8, header length u16
  little-endian, then the header and the body, both msgpack arrays.  The header names both ends,
  so that a frame which was meant for another cluster, another disk or another life of a process
  is dropped (pitfall 55).  The header is the same for all frames of one link, so both sides keep
  it ready-made.
* **Worker link** (Unix stream): u32 little-endian length, then one msgpack array ``[kind, from
  epoch, to epoch, ...]``; see :mod:`transport.links` for the stream itself.

Arrays have fixed positions.  New fields go at the end; what is longer than expected is accepted
and the rest is ignored, so that two versions can talk.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgpack

# ------------------------------------------------------------------------------------------- limits
# A command must fit into a batch, a batch with all its commands into one record of the log, a
# record into one frame between peers, and that into what libzmq lets in.

COMMAND_BYTES_MAX: Final = (8 << 20) - 1024  # one encoded WriteRequest
BATCH_BYTES_MAX: Final = 8 << 20  # a RequestBatch; above: BAD_REQUEST
RECORD_BYTES_MAX: Final = 10 << 20  # a run in the log, with at most 40 bytes beside each command
PEER_FRAME_BYTES_MAX: Final = 12 << 20  # senders split before it
MESSAGE_BYTES_MAX: Final = 16 << 20  # ZMQ_MAXMSGSIZE: above, libzmq closes the connection
LINK_FRAME_BYTES_MAX: Final = 17 << 20  # a worker link refuses more before it allocates anything

BATCH_REQUESTS_MAX: Final = 1024
GROUP_BYTES_MAX: Final = 128
CORRELATION_BYTES_MAX: Final = 64

GATHER_BYTES_MAX: Final = 4 << 20  # who gathers many messages into one frame sends it at this size
HEADER_BYTES_MAX: Final = 1024  # of a peer frame
MEMBERS_HASH_BYTES_MAX: Final = 64
ADDRESS_CHARACTERS_MAX: Final = 256
FOUNDERS_MAX: Final = 64
HELLO_NODES_MAX: Final = 1_000  # of which a HELLO tells; a catalog has fewer
HEADERS_CACHED_MAX: Final = 256  # parsed peer headers kept; at the limit the cache starts anew
PEEK_FIELDS_MAX: Final = 32  # fields of a request that the router looks at before it gives up
ARRAY_ITEMS_MAX: Final = 1 << 18  # in one msgpack array from another process

assert COMMAND_BYTES_MAX < BATCH_BYTES_MAX < RECORD_BYTES_MAX < PEER_FRAME_BYTES_MAX
assert BATCH_BYTES_MAX + 40 * BATCH_REQUESTS_MAX < RECORD_BYTES_MAX
assert PEER_FRAME_BYTES_MAX < MESSAGE_BYTES_MAX < LINK_FRAME_BYTES_MAX
assert GATHER_BYTES_MAX + BATCH_BYTES_MAX <= PEER_FRAME_BYTES_MAX

UINT64_MAX: Final = (1 << 64) - 1


class FrameError(ValueError):
    """Bytes of somebody else that do not have the layout they should have."""


# ------------------------------------------------------------------------------------ client frames


class ClientMessage(NamedTuple):
    """The right number of frames of the right sizes; nothing inside was looked at."""

    delimited: bool  # an empty first frame came, and is repeated in the reply
    correlation: bytes
    group: bytes  # UTF-8
    batch: bytes


class Malformed(NamedTuple):
    """To be answered BAD_REQUEST, whole, with ``reason``."""

    delimited: bool
    correlation: bytes  # empty when there was none that could be repeated
    reason: str


def split_client(frames: list[bytes]) -> ClientMessage | Malformed:
    """Cut the frames that came after the identity."""
    delimited = bool(frames) and not frames[0]
    if delimited:
        frames = frames[1:]
    if len(frames) == 3:
        correlation, group, batch = frames
        if (
            0 < len(correlation) <= CORRELATION_BYTES_MAX
            and len(group) <= GROUP_BYTES_MAX
            and len(batch) <= BATCH_BYTES_MAX
            and (group.isascii() or _is_utf8(group))
        ):
            return ClientMessage(delimited, correlation, group, batch)
    return _malformed(delimited, frames)


def _malformed(delimited: bool, frames: list[bytes]) -> Malformed:
    correlation = frames[0] if frames else b""
    usable = 0 < len(correlation) <= CORRELATION_BYTES_MAX
    if len(frames) != 3:
        reason = "a request has exactly three frames: correlation id, group, RequestBatch"
    elif not usable:
        reason = f"the correlation id must have 1 to {CORRELATION_BYTES_MAX} bytes"
    elif len(frames[1]) > GROUP_BYTES_MAX:
        reason = f"the group frame has more than {GROUP_BYTES_MAX} bytes"
    elif len(frames[2]) > BATCH_BYTES_MAX:
        reason = f"the RequestBatch has more than {BATCH_BYTES_MAX} bytes"
    else:
        reason = "the group frame is not UTF-8"
    return Malformed(delimited, correlation if usable else b"", reason)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


# Field numbers of the bodies of a Request, as `peek` gives them.
BODY_UNCLEAR: Final = 0
BODY_WRITE: Final = 10
BODY_READ: Final = 11
BODY_ADMIN: Final = 12
BODY_OPEN_SESSION: Final = 13
BODY_CLOSE_SESSION: Final = 14

_UNCLEAR: Final = (BODY_UNCLEAR, 0)
_TAG_REQUESTS: Final = 0x0A
_TAG_TIMEOUT: Final = 0x18


def peek(batch: bytes) -> tuple[int, int]:
    """(body field, timeout_ms) of the first request, without decoding; (0, 0) when that is unclear.

    For the router, which must know a deadline and a class but never looks further.  What is unclear
    here is refused, or understood, by the worker.
    """
    try:
        if batch[0] != _TAG_REQUESTS:
            return _UNCLEAR
        end = batch[1]
        at = 2
        if end >= 0x80:  # two bytes are the usual case, and a call would double the time
            second = batch[2]
            if second < 0x80:
                end += (second - 1) << 7
                at = 3
            else:
                end, at = varint_at(batch, 1)
        end += at
        body = timeout_ms = fields = 0
        while at < end:
            tag = batch[at]
            at += 1
            if tag >= 0x80:
                tag, at = varint_at(batch, at - 1)
            value = batch[at]
            at += 1
            if value >= 0x80:
                second = batch[at]
                if second < 0x80:
                    value += (second - 1) << 7
                    at += 1
                else:
                    value, at = varint_at(batch, at - 1)
            wire_type = tag & 7
            if wire_type == 2:
                at += value
                if 0x52 <= tag <= 0x72:
                    body = tag >> 3
            elif wire_type == 0:
                if tag == _TAG_TIMEOUT:
                    timeout_ms = value & 0xFFFFFFFF
            else:
                return _UNCLEAR  # our fields are varints and byte strings; others need no guess
            fields += 1
            if fields > PEEK_FIELDS_MAX:
                return _UNCLEAR
    except IndexError:
        return _UNCLEAR
    return (body, timeout_ms) if at == end <= len(batch) else _UNCLEAR


def varint_at(data: bytes, at: int) -> tuple[int, int]:
    """(value, position after it); IndexError when the bytes end, or when it has more than ten."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError("a varint of more than ten bytes")


# -------------------------------------------------------------------------------------- peer frames

PEER_MAGIC: Final = b"PR"
PEER_VERSION: Final = 1

PEER_HELLO: Final = 1  # who I am; the only kind that may go to an unknown incarnation
PEER_RAFT: Final = 2  # messages of consensus for many groups
PEER_FORWARD: Final = 3  # a client's message, for the leader's node
PEER_FORWARD_REPLY: Final = 4
PEER_RAFT_CONTROL: Final = 5  # the same as RAFT, in the control lane
PEER_REPLIES_LOST: Final = 6  # answers to forwarded messages may have been lost on their way
PEER_KINDS: Final = frozenset(
    (
        PEER_HELLO,
        PEER_RAFT,
        PEER_FORWARD,
        PEER_FORWARD_REPLY,
        PEER_RAFT_CONTROL,
        PEER_REPLIES_LOST,
    )
)

CLUSTER_BYTES: Final = 16

_PREFIX = struct.Struct("<2sBBH")
Buffer = bytes | bytearray | memoryview


class Endpoint(NamedTuple):
    """One end of a peer link: this process of this node with this disk, in this cluster."""

    cluster: bytes  # 16 bytes, or empty while the disk is blank
    node: str
    incarnation: int
    epoch: int


class PeerHeader(NamedTuple):
    """Who sent a peer frame, and for whom it is."""

    cluster: bytes
    sender: str
    sender_incarnation: int
    sender_epoch: int
    receiver: str
    receiver_incarnation: int  # 0: unknown, in HELLO only


class PeerFrame(NamedTuple):
    kind: int
    header: PeerHeader
    body: memoryview


def pack_peer_prefix(kind: int, header: PeerHeader) -> bytes:
    """All bytes of a peer frame before its body; the same for every frame of a kind on a link."""
    assert kind in PEER_KINDS
    assert header.receiver_incarnation or kind == PEER_HELLO
    packed = pack(list(header))
    assert len(packed) <= HEADER_BYTES_MAX
    return _PREFIX.pack(PEER_MAGIC, PEER_VERSION, kind, len(packed)) + packed


def pack_peer_frame(kind: int, header: PeerHeader, body: bytes) -> bytes:
    return pack_peer_prefix(kind, header) + body


class PeerFrameParser:
    """Reads peer frames; remembers headers, which repeat with every frame of a link."""

    __slots__ = ("_headers",)

    def __init__(self) -> None:
        self._headers: dict[bytes, PeerHeader] = {}

    def parse(self, frame: bytes) -> PeerFrame:
        if len(frame) < _PREFIX.size:
            raise FrameError("a peer frame without a header")
        magic, version, kind, header_bytes = _PREFIX.unpack_from(frame)
        if magic != PEER_MAGIC:
            raise FrameError("not a peer frame: wrong magic")
        if version != PEER_VERSION:
            raise FrameError(f"peer protocol version {version}, not {PEER_VERSION}")
        body_at = _PREFIX.size + header_bytes
        if header_bytes > HEADER_BYTES_MAX or body_at > len(frame):
            raise FrameError(f"a peer header of {header_bytes} bytes")
        key = frame[_PREFIX.size : body_at]
        header = self._headers.get(key)
        if header is None:
            header = _parse_header(key)
            if len(self._headers) >= HEADERS_CACHED_MAX:
                self._headers.clear()
            self._headers[key] = header
        if kind not in PEER_KINDS:
            raise FrameError(f"unknown kind of peer frame: {kind}")
        if not header.receiver_incarnation and kind != PEER_HELLO:
            raise FrameError("only HELLO may be addressed to an unknown incarnation")
        return PeerFrame(kind, header, memoryview(frame)[body_at:])


def _parse_header(data: bytes) -> PeerHeader:
    fields = unpack_array(data, 6, "peer header")
    if (
        type(fields[0]) is not bytes
        or len(fields[0]) not in (0, CLUSTER_BYTES)
        or not _is_name(fields[1])
        or not _is_uint(fields[2])
        or not _is_uint(fields[3])
        or not _is_name(fields[4])
        or not _is_uint(fields[5])
        or not fields[2]
    ):
        raise FrameError("a field of the peer header has the wrong type or range")
    return PeerHeader(*fields[:6])


def header_mismatch(me: Endpoint, header: PeerHeader) -> str:
    """Why a frame is not for ``me``: the word under which it is counted, empty when it is for me.

    A HELLO may come from and go to a blank disk; what it means is for its reader.
    """
    if header.cluster != me.cluster:
        return "wrong_cluster"
    if header.receiver != me.node:
        return "wrong_node"
    if header.receiver_incarnation != me.incarnation:
        return "wrong_incarnation"
    return ""


class Hello(NamedTuple):
    """What a node says of itself when a link opens, and whenever a frame came to the wrong one."""

    formed: bool  # false: the disk is blank, and belongs to no cluster yet
    members_hash: bytes  # of the list of members that the node was started with; empty without one
    client_address: str
    peer_address: str
    events_address: str
    format: int  # of the log that this node writes
    format_oldest: int  # the oldest one that it can read
    founders: list[Any]  # [node, incarnation] of each who formed the cluster; empty while blank
    # Of each node that the sender knows of: [node, incarnation, version, [client, peer, events
    # address], awaits?, removed?] (actors/known_nodes.py)
    nodes: list[Any] = []


def pack_hello(hello: Hello) -> bytes:
    return pack(["formed" if hello.formed else "blank", *hello[1:]])


def pack_hello_frame(me: Endpoint, receiver: str, receiver_incarnation: int, hello: Hello) -> bytes:
    """A whole HELLO frame: a question when a link opens, an answer when one came in."""
    return pack_peer_frame(
        PEER_HELLO, PeerHeader(*me, receiver, receiver_incarnation), pack_hello(hello)
    )


def unpack_hello(body: Buffer) -> Hello:
    fields = unpack_array(body, 8, "HELLO")
    if (
        fields[0] not in ("formed", "blank")
        or type(fields[1]) is not bytes
        or not all(type(field) is str for field in fields[2:5])
        or not _is_uint(fields[5])
        or not _is_uint(fields[6])
        or type(fields[7]) is not list
    ):
        raise FrameError("a field of HELLO has the wrong type")
    if (
        len(fields[1]) > MEMBERS_HASH_BYTES_MAX
        or max(map(len, fields[2:5])) > ADDRESS_CHARACTERS_MAX
        or len(fields[7]) > FOUNDERS_MAX
        or not all(map(_is_founder, fields[7]))
    ):
        raise FrameError("a field of HELLO is too long, or names no node")
    nodes = fields[8] if len(fields) > 8 else []
    if type(nodes) is not list or len(nodes) > HELLO_NODES_MAX or not all(map(_is_node, nodes)):
        raise FrameError("HELLO does not say properly which nodes there are")
    return Hello(fields[0] == "formed", *fields[1:8])._replace(nodes=nodes)


def _is_node(value: object) -> bool:
    return (
        type(value) is list
        and len(value) >= 6
        and _is_founder(value[:2])
        and _is_uint(value[2])
        and type(value[3]) is list
        and len(value[3]) == 3
        and all(type(it) is str and len(it) <= ADDRESS_CHARACTERS_MAX for it in value[3])
        and type(value[4]) is bool
        and type(value[5]) is bool
    )


def _is_founder(value: object) -> bool:
    return (
        type(value) is list
        and len(value) == 2
        and _is_name(value[0])
        and _is_uint(value[1])
        and value[1] > 0
    )


def pack_raft(flat: list[int | bytes]) -> bytes:
    """Body of RAFT: ``[group id, message, group id, message, ...]``."""
    assert not len(flat) & 1
    return pack(flat)


def unpack_raft(body: Buffer) -> list[Any]:
    flat = unpack_array(body, 0, "RAFT")
    if len(flat) & 1:
        raise FrameError("RAFT: a group id without a message")
    for group in flat[::2]:
        if type(group) is not int or group < 1:
            raise FrameError("RAFT: a group id is not a positive integer")
    for message in flat[1::2]:
        if type(message) is not bytes:
            raise FrameError("RAFT: a message is not bytes")
    return flat


class Forward(NamedTuple):
    """A client's message on its way to the leader's node.  Never forwarded again (pitfall 54)."""

    origin_epoch: int
    forward_id: int
    group: int
    remaining_ms: int
    rights: int
    batch: bytes


def pack_forward(forward: Forward) -> bytes:
    return pack(list(forward))


def unpack_forward(body: Buffer) -> Forward:
    fields = unpack_array(body, 6, "FORWARD")
    if not all(map(_is_uint, fields[:5])) or type(fields[5]) is not bytes:
        raise FrameError("a field of FORWARD has the wrong type")
    if len(fields[5]) > BATCH_BYTES_MAX:
        raise FrameError("FORWARD: the RequestBatch is too large")
    return Forward(*fields[:6])


class ForwardReply(NamedTuple):
    """``accepted``: ``payload`` is the ReplyBatch.  Otherwise nothing was appended; who leads?"""

    origin_epoch: int
    forward_id: int
    accepted: bool
    payload: bytes  # empty when not accepted
    leader: str | None
    term: int


def pack_forward_reply(reply: ForwardReply) -> bytes:
    payload: bytes | list[Any] = reply.payload if reply.accepted else [reply.leader, reply.term]
    return pack([reply.origin_epoch, reply.forward_id, reply.accepted, payload])


def unpack_forward_reply(body: Buffer) -> ForwardReply:
    fields = unpack_array(body, 4, "FORWARD_REPLY")
    epoch, forward_id, accepted, payload = fields[:4]
    if not (_is_uint(epoch) and _is_uint(forward_id) and type(accepted) is bool):
        raise FrameError("a field of FORWARD_REPLY has the wrong type")
    if accepted:
        if type(payload) is not bytes:
            raise FrameError("FORWARD_REPLY: the ReplyBatch is not bytes")
        return ForwardReply(epoch, forward_id, True, payload, None, 0)
    if type(payload) is not list or len(payload) < 2:
        raise FrameError("FORWARD_REPLY: a refusal must name leader and term")
    leader, term = payload[:2]
    if not (leader is None or _is_name(leader)) or not _is_uint(term):
        raise FrameError("FORWARD_REPLY: leader or term has the wrong type")
    return ForwardReply(epoch, forward_id, False, b"", leader, term)


# -------------------------------------------------------------------------------------- link frames
# `[kind, from epoch, to epoch, fields of the kind...]`; the kinds are the business of who is at the
# two ends.

LANE_CONTROL: Final = 0  # votes, heartbeats, acknowledgements, HELLO
LANE_BULK: Final = 1  # appends, forwards, snapshots


def pack_link(kind: int, from_epoch: int, to_epoch: int, *fields: Any) -> bytes:
    return pack([kind, from_epoch, to_epoch, *fields])


def unpack_link(data: Buffer) -> list[Any]:
    """The whole array; its first three items are checked to be kind and epochs."""
    fields = unpack_array(data, 3, "link frame")
    if not all(map(_is_uint, fields[:3])):
        raise FrameError("a link frame does not begin with kind and epochs")
    return fields


# ------------------------------------------------------------------------------------------ msgpack

# Bound once: making a packer costs more than packing a small message.  Safe with threads, because
# packing plain data never gives up the interpreter lock.
pack: Callable[[Any], bytes] = msgpack.Packer(
    autoreset=True, use_bin_type=True, buf_size=64 << 10
).pack


def unpack_array(data: Buffer, items_min: int, what: str) -> list[Any]:
    """Decode one msgpack array of at least ``items_min`` items, and nothing else."""
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=False,
            max_array_len=ARRAY_ITEMS_MAX,
            max_map_len=ARRAY_ITEMS_MAX,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise FrameError(f"{what}: no msgpack: {error or type(error).__name__}") from None
    if type(value) is not list or len(value) < items_min:
        raise FrameError(f"{what}: not an array of at least {items_min} items")
    return value


def _is_uint(value: object) -> bool:
    return type(value) is int and 0 <= value <= UINT64_MAX


def _is_name(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= GROUP_BYTES_MAX
