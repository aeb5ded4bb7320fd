"""Messages of consensus as bytes: fixed-position msgpack arrays, ``[number, term, ...]``.

What may live here: the two directions between :mod:`raft.messages` and bytes, in two tables.
Sender and receiver are not in the bytes: the header of the peer frame names both nodes with the
incarnations of their disks, and the worker gives them to :func:`decode`.  A disk that has lost the
log of one group is another replica there (:mod:`raft.lives`), which the header does not know.  Of
such a sender, or to such a receiver, a message is **addressed**: ``[0, sender's incarnation,
receiver's incarnation, number, term, ...]``, where 0 stands for what the header says.  It costs the
others nothing; who does not know it takes 0 for an unknown number, and drops the message.

Decoding is total: what comes out has the types and ranges that the core relies on (runs that
follow directly after the predecessor, terms that do not fall, positive counts, a chunk that lies
within its snapshot), and everything else is a :class:`FrameError`.  Two things are left to the
worker, who must not skip them: the CRC of each run, and a kind of run that is unknown here, which
stops the replica instead of being dropped.  A *part* in the configuration of a snapshot that is
unknown here is a FrameError: nobody relies yet on what was only sent, so dropping it is safe, and
the snapshot never becomes this replica's.

Numbers and positions never change.  New fields go at the end and are ignored by older readers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raft.configuration import Configuration
from raft.lives import DERIVED_BIT
from raft.messages import (
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
from transport.frames import LANE_BULK, LANE_CONTROL, FrameError, pack, unpack_array

ADDRESSED: Final = 0
PRE_VOTE: Final = 1
PRE_VOTE_REPLY: Final = 2
VOTE: Final = 3
VOTE_REPLY: Final = 4
APPEND: Final = 5
APPEND_REPLY: Final = 6
HEARTBEAT: Final = 7
HEARTBEAT_REPLY: Final = 8
TIMEOUT_NOW: Final = 9
READ_INDEX: Final = 10
READ_INDEX_REPLY: Final = 11
SNAPSHOT_CHUNK: Final = 12
SNAPSHOT_REPLY: Final = 13
SNAPSHOT_WANTED: Final = 14

RUN_FIELDS: Final = 6  # kind, term, first, count, crc, body
MEMBER_FIELDS: Final = 3  # node, incarnation, part
ADDRESS_FIELDS: Final = 3  # ADDRESSED, sender's incarnation, receiver's incarnation
RUN_KIND_MAX: Final = 255
CRC_MAX: Final = (1 << 32) - 1

# Heartbeats and acknowledgements must never stand behind appends and snapshots.
LANES: Final[dict[type, int]] = {
    PreVote: LANE_CONTROL,
    PreVoteReply: LANE_CONTROL,
    Vote: LANE_CONTROL,
    VoteReply: LANE_CONTROL,
    Append: LANE_BULK,
    AppendReply: LANE_CONTROL,
    Heartbeat: LANE_CONTROL,
    HeartbeatReply: LANE_CONTROL,
    TimeoutNow: LANE_CONTROL,
    ReadIndex: LANE_CONTROL,
    ReadIndexReply: LANE_CONTROL,
    SnapshotChunk: LANE_BULK,
    SnapshotReply: LANE_CONTROL,
    SnapshotWanted: LANE_CONTROL,
}


def encode(message: PeerMessage) -> bytes:
    fields = _ENCODERS[type(message)](message)
    sender, to = message.sender.incarnation, message.to.incarnation
    if (sender | to) & DERIVED_BIT:
        fields[:0] = (ADDRESSED, _if_derived(sender), _if_derived(to))
    return pack(fields)


def _if_derived(incarnation: int) -> int:
    return incarnation if incarnation & DERIVED_BIT else 0


def header_incarnation(to: Replica) -> int:
    """Which disk the frame is for: 0 where the message says itself for whom it is."""
    return 0 if to.incarnation & DERIVED_BIT else to.incarnation


def decode(data: bytes | memoryview, sender: Replica, to: Replica) -> PeerMessage:
    """``sender`` and ``to``: as the header of the frame names them."""
    fields = unpack_array(data, 2, "peer message")
    number = fields[0]
    if number == ADDRESSED and type(number) is int:
        sender, to = _addresses(fields, sender, to)
        del fields[:ADDRESS_FIELDS]
        number = fields[0]
    entry = _DECODERS.get(number) if type(number) is int else None
    if entry is None:
        raise FrameError(f"unknown peer message {number!r:.20}")
    make, length, shape = entry
    if len(fields) < length:
        raise FrameError(f"peer message {number}: {len(fields)} fields, not {length}")
    for at, kind in shape:
        value = fields[at]
        if type(value) is not kind or (type(value) is int and value < 0):
            raise FrameError(f"peer message {number}: field {at} is wrong")
    return make(fields, sender, to)


def _addresses(fields: list[Any], sender: Replica, to: Replica) -> tuple[Replica, Replica]:
    if len(fields) < ADDRESS_FIELDS + 2:
        raise FrameError(f"an addressed peer message of {len(fields)} fields")
    found = []
    for value, known in zip(fields[1:ADDRESS_FIELDS], (sender, to), strict=True):
        if type(value) is not int or not (value == 0 or DERIVED_BIT <= value < 2 * DERIVED_BIT):
            raise FrameError("a peer message is addressed to or from nobody")
        found.append(Replica(known.node, value) if value else known)
    return found[0], found[1]


# ----------------------------------------------------------------------------------------- encoders


def _encode_append(message: Append) -> list[Any]:
    flat: list[Any] = []
    for run in message.runs:
        flat += (run.kind, run.term, run.first, run.count, run.crc, run.body)
    return [APPEND, message.term, message.prev_index, message.prev_term, message.commit, flat]


def _encode_append_reply(m: AppendReply) -> list[Any]:
    return [APPEND_REPLY, m.term, m.match, m.rejected, m.hint_index, m.hint_term]


def _encode_snapshot_chunk(message: SnapshotChunk) -> list[Any]:
    """The snapshot lies flat in the array, its configuration as one flat list of members."""
    it = message.snapshot
    members: list[Any] = []
    for replica, part in it.configuration.parts():
        members += (replica.node, replica.incarnation, part)
    return [
        SNAPSHOT_CHUNK,
        message.term,
        it.index,
        it.term,
        members,
        it.time_ms,
        it.machine_version,
        it.size_bytes,
        it.crc,
        message.offset,
        message.data,
    ]


_ENCODERS: dict[type, Callable[[Any], list[Any]]] = {
    PreVote: lambda m: [PRE_VOTE, m.term, m.last_index, m.last_term, m.campaign],
    PreVoteReply: lambda m: [PRE_VOTE_REPLY, m.term, m.granted, m.campaign],
    Vote: lambda m: [VOTE, m.term, m.last_index, m.last_term, m.transfer],
    VoteReply: lambda m: [VOTE_REPLY, m.term, m.granted],
    Append: _encode_append,
    AppendReply: _encode_append_reply,
    Heartbeat: lambda m: [HEARTBEAT, m.term, m.commit, m.round],
    HeartbeatReply: lambda m: [HEARTBEAT_REPLY, m.term, m.round],
    TimeoutNow: lambda m: [TIMEOUT_NOW, m.term],
    ReadIndex: lambda m: [READ_INDEX, m.term, m.token],
    ReadIndexReply: lambda m: [READ_INDEX_REPLY, m.term, m.token, m.index],
    SnapshotChunk: _encode_snapshot_chunk,
    SnapshotReply: lambda m: [SNAPSHOT_REPLY, m.term, m.index, m.snapshot_term, m.offset],
    SnapshotWanted: lambda m: [SNAPSHOT_WANTED, m.term, m.index],
}

# ----------------------------------------------------------------------------------------- decoders


def _decode_append(fields: list[Any], sender: Replica, to: Replica) -> Append:
    _, term, prev_index, prev_term, commit, flat = fields[:6]
    if len(flat) % RUN_FIELDS:
        raise FrameError("Append: a run is incomplete")
    if prev_term > term or (prev_index == 0) != (prev_term == 0):
        raise FrameError("Append: the predecessor cannot be")
    runs: list[Run] = []
    first_next = prev_index + 1
    term_least = max(prev_term, 1)
    for at in range(0, len(flat), RUN_FIELDS):
        kind, run_term, first, count, crc, body = flat[at : at + RUN_FIELDS]
        if (
            type(kind) is not int
            or type(run_term) is not int
            or type(first) is not int
            or type(count) is not int
            or type(crc) is not int
            or type(body) is not bytes
        ):
            raise FrameError("Append: a field of a run has the wrong type")
        if not 0 <= kind <= RUN_KIND_MAX or not 0 <= crc <= CRC_MAX or count < 1:
            raise FrameError("Append: a field of a run is out of range")
        if first != first_next or not term_least <= run_term <= term:
            raise FrameError("Append: runs do not follow one another")
        runs.append(Run(kind, run_term, first, count, body, crc))
        first_next += count
        term_least = run_term
    return Append(sender, to, term, prev_index, prev_term, commit, runs)


def _decode_append_reply(f: list[Any], sender: Replica, to: Replica) -> AppendReply:
    return AppendReply(sender, to, f[1], f[2], f[3], f[4], f[5])


def _decode_snapshot_chunk(f: list[Any], sender: Replica, to: Replica) -> SnapshotChunk:
    _, term, index, snapshot_term, members, time_ms, version, size_bytes, crc, offset, data = f[:11]
    if index < 1 or not 1 <= snapshot_term <= term:
        raise FrameError("SnapshotChunk: no log has such an entry")
    if crc > CRC_MAX:
        raise FrameError("SnapshotChunk: the checksum is out of range")
    if not size_bytes or offset + len(data) > size_bytes:
        raise FrameError("SnapshotChunk: the bytes do not lie within the snapshot")
    snapshot = SnapshotMeta(
        index, snapshot_term, _decode_members(members), time_ms, version, size_bytes, crc
    )
    return SnapshotChunk(sender, to, term, snapshot, offset, data)


def _decode_members(flat: list[Any]) -> Configuration:
    if len(flat) % MEMBER_FIELDS:
        raise FrameError("SnapshotChunk: a member is incomplete")
    parts: list[tuple[Replica, int]] = []
    for at in range(0, len(flat), MEMBER_FIELDS):
        node, incarnation, part = flat[at : at + MEMBER_FIELDS]
        if type(node) is not str or type(incarnation) is not int or type(part) is not int:
            raise FrameError("SnapshotChunk: a field of a member has the wrong type")
        if not node or incarnation < 0:
            raise FrameError("SnapshotChunk: a field of a member is out of range")
        parts.append((Replica(node, incarnation), part))
    try:
        return Configuration.from_parts(parts)
    except ValueError as error:  # an unknown part is one, too
        raise FrameError(f"SnapshotChunk: {error}") from error


_Decoder = Callable[[list[Any], Replica, Replica], PeerMessage]
_Shape = tuple[tuple[int, type], ...]


def _row(make: _Decoder, *kinds: type) -> tuple[_Decoder, int, _Shape]:
    """``kinds``: the types of the fields after the number."""
    return make, len(kinds) + 1, tuple(enumerate(kinds, start=1))


_DECODERS: dict[int, tuple[_Decoder, int, _Shape]] = {
    PRE_VOTE: _row(lambda f, s, t: PreVote(s, t, f[1], f[2], f[3], f[4]), int, int, int, int),
    PRE_VOTE_REPLY: _row(lambda f, s, t: PreVoteReply(s, t, f[1], f[2], f[3]), int, bool, int),
    VOTE: _row(lambda f, s, t: Vote(s, t, f[1], f[2], f[3], f[4]), int, int, int, bool),
    VOTE_REPLY: _row(lambda f, s, t: VoteReply(s, t, f[1], f[2]), int, bool),
    APPEND: _row(_decode_append, int, int, int, int, list),
    APPEND_REPLY: _row(_decode_append_reply, int, int, bool, int, int),
    HEARTBEAT: _row(lambda f, s, t: Heartbeat(s, t, f[1], f[2], f[3]), int, int, int),
    HEARTBEAT_REPLY: _row(lambda f, s, t: HeartbeatReply(s, t, f[1], f[2]), int, int),
    TIMEOUT_NOW: _row(lambda f, s, t: TimeoutNow(s, t, f[1]), int),
    READ_INDEX: _row(lambda f, s, t: ReadIndex(s, t, f[1], f[2]), int, int),
    READ_INDEX_REPLY: _row(lambda f, s, t: ReadIndexReply(s, t, f[1], f[2], f[3]), int, int, int),
    SNAPSHOT_CHUNK: _row(
        _decode_snapshot_chunk, int, int, int, list, int, int, int, int, int, bytes
    ),
    SNAPSHOT_REPLY: _row(
        lambda f, s, t: SnapshotReply(s, t, f[1], f[2], f[3], f[4]), int, int, int, int
    ),
    SNAPSHOT_WANTED: _row(lambda f, s, t: SnapshotWanted(s, t, f[1], f[2]), int, int),
}
assert len(_DECODERS) == len(_ENCODERS) == len(LANES)
