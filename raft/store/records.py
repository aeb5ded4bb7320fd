"""The bytes of a WAL: records, and the commit frame that ends each batch of them.

Every record is a header of 64 bytes, a body, and zeros up to the next multiple of 8.  All numbers
are little-endian::

    0  magic "PRwl"    4  format u8     5  kind u8       6  run kind u8   7  zero u8
    8  generation u32  12 count u32     16 group u64     24 gseq u64      32 term u64
    40 first u64       48 length u32    52 body CRC u32  56 zero u32      60 header CRC u32

CRCs are CRC32C.  The header's covers bytes 0..59 and thereby the body's CRC and length, so nothing
of a record can change unnoticed but its padding.

``gseq`` is the group's own counter: 1 for its first record, +1 for each further one of any kind.  A
record does not say which segment or batch it is in, so that it can be copied bit for bit
(:mod:`raft.store.tidying`).

A **batch** is what one write and one sync made durable together: records, then one COMMIT
frame.  It is there as a whole or not at all.  The commit frame names the CRC of the commit frame
before it (so the batches form one chain through all segments), a CRC over the header CRCs of its
batch in their order (not over the headers: a CRC over bytes that end in their own CRC is the same
whatever the bytes are), and the last gseq of every group in it.  It ends with a mark that is never
zero in its last byte: as segments are filled with zeros beforehand, the last byte of a segment that
is not zero tells whether the last write arrived up to its end.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgpack
from google_crc32c import value as crc32c

from raft.messages import HardState, Mark, Replica, SnapshotMeta
from raft.store.configurations import configuration_fields, configuration_of

MAGIC = b"PRwl"
FORMAT = 1

# Kinds of record.  A kind that this version does not know is refused, never skipped.
RUN = 1  # entries; term, first, count and run kind in the header, the run's body as it is
HARD_STATE = 2  # body: msgpack [term, node or nil, incarnation]
TRUNCATE = 3  # entries from ``first`` on are gone; no body
BOOTSTRAP = 4  # gseq 1 of every group; body: the driver's bytes
COMMIT = 5  # ends a batch; gseq is the batch's number, count that of its records
SEGMENT = 6  # opens a segment, and stands twice in its first batch; gseq is its number
DAMAGED = 7  # this replica is not to vote or acknowledge again; body: UTF-8 reason
SNAPSHOT = 8  # a snapshot stands for the log up to (term, first) of the header; body: encode_mark
OLDEST = 9  # of no group: segments with a number below ``first`` are needed no more; no body

GROUP_KINDS = frozenset((RUN, HARD_STATE, TRUNCATE, BOOTSTRAP, DAMAGED, SNAPSHOT))
RECORD_KINDS = GROUP_KINDS | {COMMIT, SEGMENT, OLDEST}

ALIGNMENT_BYTES = 8
# Refused when written.  Reading has no limit, so what was written can be read (pitfall 47).
# Above the largest client batch and peer frame.
RECORD_BODY_BYTES_MAX = 16 << 20

_HEADER = struct.Struct("<4sBBBxIIQQQQIIII")
_UNSIGNED = struct.Struct("<4sBBBxIIQQQQIII")  # the same without the header's CRC
HEADER_BYTES = _HEADER.size
_SIGNED_BYTES = _UNSIGNED.size
assert HEADER_BYTES == 64
_WHOSE = struct.Struct("<8xI4xQQ16xI12x")  # generation, group, gseq, length of a header
assert _WHOSE.size == HEADER_BYTES
assert _SIGNED_BYTES == 60

_COMMIT = struct.Struct("<QQIIII")  # batch, segment id, previous CRC, headers' CRC, groups, zero
COMMIT_GROUP_BYTES = 16  # group u64, last gseq u64
END_MARK = b"PRcommit"
assert END_MARK[-1] != 0
assert len(END_MARK) == ALIGNMENT_BYTES
COMMIT_BODY_BYTES_MIN = _COMMIT.size + len(END_MARK)

PADDING = tuple(bytes(-count % ALIGNMENT_BYTES) for count in range(ALIGNMENT_BYTES))

pack_unsigned = _UNSIGNED.pack  # magic, format, kind .. body CRC, zero: all but the header's CRC
_unpack_from = _HEADER.unpack_from


class Header(NamedTuple):
    """A header whose CRC was right."""

    format: int
    kind: int
    run_kind: int
    generation: int
    entries: int
    group: int
    gseq: int
    term: int
    first: int
    length: int
    body_crc: int
    header_crc: int


class Record(NamedTuple):
    """A record whose CRCs were right, and where it stood."""

    header: Header
    raw: bytes  # the header's bytes
    body: bytes
    offset: int
    place: int  # in the log as a whole: no two records share one

    @property
    def size(self) -> int:
        return HEADER_BYTES + padded(self.header.length)


@dataclass(slots=True)
class Commit:
    """The body of a commit frame.  ``groups``: each group in the batch -> its last gseq so far."""

    batch: int
    segment_id: int
    previous_crc: int
    headers_crc: int
    groups: dict[int, int]


class TableRow(NamedTuple):
    """What a segment says, when it opens, of one group: how far the WAL is, its batch included.

    ``damaged``: why this replica must not vote or acknowledge again.  Each segment repeats it, so
    that no later loss takes it away.
    """

    generation: int
    gseq: int
    term: int
    vote: Replica | None
    snapshot_index: int
    last_index: int
    damaged: str | None
    # Its last gseq in the segments before; what of it is still needed when those are gone was
    # copied, and the rest may be missing (raft.store.remnants).
    floor: int


@dataclass(slots=True)
class SegmentInfo:
    """The body of the record that opens a segment."""

    number: int
    segment_id: int
    previous_id: int  # 0: there was none
    sealed_bytes: int  # how much of the one before is in use
    batch: int  # number of the last batch before this one
    slot: int
    table: dict[int, TableRow]
    incarnation: int  # of the disk that it was written for
    oldest: int  # number of the oldest segment that is still needed


def padded(length: int) -> int:
    return (length + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


def encode_header(
    kind: int,
    run_kind: int,
    generation: int,
    count: int,
    group: int,
    gseq: int,
    term: int,
    first: int,
    length: int,
    body_crc: int,
) -> bytes:
    """The 64 bytes before a body."""
    unsigned = pack_unsigned(
        MAGIC,
        FORMAT,
        kind,
        run_kind,
        generation,
        count,
        group,
        gseq,
        term,
        first,
        length,
        body_crc,
        0,
    )
    crc: int = crc32c(unsigned)
    return unsigned + crc.to_bytes(4, "little")


def decode_header(data: bytes, offset: int) -> Header | None:
    """The header at ``offset``, or None if there is none with a right CRC.

    Says nothing about an unknown format or kind; see :func:`foreign_format`.
    """
    signed = data[offset : offset + _SIGNED_BYTES]
    if signed[:4] != MAGIC or len(data) < offset + HEADER_BYTES:
        return None
    _, *fields, _, header_crc = _unpack_from(data, offset)
    if crc32c(signed) != header_crc:
        return None
    return Header._make((*fields, header_crc))


def foreign_format(data: bytes, offset: int) -> int | None:
    """The format of a newer version's record, judged before any CRC: its header may differ.

    Format 0 was never used: it is what a header looks like whose first bytes alone were written.
    """
    if data[offset : offset + 4] != MAGIC or len(data) <= offset + 4:
        return None
    format_ = data[offset + 4]
    return None if format_ in (0, FORMAT) else format_


def encode_hard_state(state: HardState) -> bytes:
    vote = state.vote
    node, incarnation = (None, 0) if vote is None else vote
    body: bytes = msgpack.packb([state.term, node, incarnation])
    return body


def decode_hard_state(body: bytes) -> HardState:
    """Raises ValueError on anything else."""
    term, node, incarnation = _unpacked(body, 3)
    return HardState(_number(term), _vote(node, incarnation))


def encode_mark(mark: Mark) -> bytes:
    """All of the mark but the (term, index) of its snapshot, which the header has."""
    snapshot = mark.snapshot
    body: bytes = msgpack.packb(
        [
            mark.base_index,
            mark.base_term,
            mark.resets,
            configuration_fields(snapshot.configuration),
            snapshot.time_ms,
            snapshot.machine_version,
            snapshot.size_bytes,
            snapshot.crc,
        ]
    )
    return body


def decode_mark(header: Header, body: bytes) -> Mark:
    """Raises UnknownPart (a newer version's configuration), ValueError on anything else."""
    base_index, base_term, resets, members, *numbers = _unpacked(body, 8)
    if type(resets) is not bool:
        raise ValueError(f"{resets!r} where it belongs whether the log begins anew")
    configuration = configuration_of(members)
    time_ms, machine_version, size_bytes, crc = map(_number, numbers)
    snapshot = SnapshotMeta(
        header.first, header.term, configuration, time_ms, machine_version, size_bytes, crc
    )
    return Mark(snapshot, _number(base_index), _number(base_term), resets)


def mark_resets(body: bytes) -> bool:
    """What of a mark can be read even if the rest is of a newer version."""
    try:
        return _unpacked(body, 3)[2] is True
    except ValueError:
        return False


def crc_of_headers(headers: Iterable[bytes]) -> int:
    """Over the CRCs in these headers, in order: none can change, go, or trade places unseen."""
    crc: int = crc32c(b"".join([header[_SIGNED_BYTES:] for header in headers]))
    return crc


def first_gseqs(pieces: Sequence[bytes]) -> dict[tuple[int, int], int]:
    """(group, generation) -> the gseq of its first record, of records cut up in any way.

    As long as no cut goes through a header.
    """
    found: dict[tuple[int, int], int] = {}
    at = 0
    while at < len(pieces):
        generation, group, gseq, length = _WHOSE.unpack(pieces[at])
        found.setdefault((group, generation), gseq)
        at, rest = at + 1, padded(length)
        while rest > 0 or (at < len(pieces) and not pieces[at]):
            rest -= len(pieces[at])
            at += 1
    return found


def encode_commit(commit: Commit) -> bytes:
    groups = commit.groups
    flat = [number for pair in groups.items() for number in pair]
    fixed = _COMMIT.pack(
        commit.batch,
        commit.segment_id,
        commit.previous_crc,
        commit.headers_crc,
        len(groups),
        0,
    )
    return b"".join((fixed, struct.pack(f"<{len(flat)}Q", *flat), END_MARK))


def commit_length(data: bytes, start: int) -> int | None:
    """How long the body of a commit frame at ``start`` would be; None if it would not fit."""
    if start + COMMIT_BODY_BYTES_MIN > len(data):
        return None
    count = _COMMIT.unpack_from(data, start)[4]
    length: int = COMMIT_BODY_BYTES_MIN + count * COMMIT_GROUP_BYTES
    return length if start + length <= len(data) else None


def decode_commit(body: bytes) -> Commit:
    """Raises ValueError on anything else."""
    if len(body) < COMMIT_BODY_BYTES_MIN or not body.endswith(END_MARK):
        raise ValueError("commit frame without its end mark")
    batch, segment_id, previous_crc, headers_crc, count, _ = _COMMIT.unpack_from(body)
    if len(body) != COMMIT_BODY_BYTES_MIN + count * COMMIT_GROUP_BYTES:
        raise ValueError(f"commit frame of {len(body)} bytes for {count} groups")
    flat = struct.unpack_from(f"<{2 * count}Q", body, _COMMIT.size)
    groups = dict(zip(flat[::2], flat[1::2], strict=True))
    if len(groups) != count:
        raise ValueError("commit frame names a group twice")
    return Commit(batch, segment_id, previous_crc, headers_crc, groups)


def encode_segment(info: SegmentInfo, multiple: int = ALIGNMENT_BYTES) -> bytes:
    """``multiple``: of bytes that the whole record has; it is filled, and not with zeros."""
    table = [
        [
            group,
            row.generation,
            row.gseq,
            row.term,
            None if row.vote is None else row.vote.node,
            0 if row.vote is None else row.vote.incarnation,
            row.snapshot_index,
            row.last_index,
            row.damaged,
            row.floor,
        ]
        for group, row in info.table.items()
    ]
    fields = [
        info.number,
        info.segment_id,
        info.previous_id,
        info.sealed_bytes,
        info.batch,
        info.slot,
        table,
        info.incarnation,
        info.oldest,
    ]
    missing = -(HEADER_BYTES + len(msgpack.packb([*fields, b""]))) % multiple
    # The length of more than 255 bytes takes one byte more; the last one may be padding.
    filling = b"\xff" * (missing if missing < 256 else missing - 1)
    body: bytes = msgpack.packb([*fields, filling])
    return body


def encode_opening(info: SegmentInfo, multiple: int) -> tuple[bytes, bytes, bytes]:
    """The record that opens a segment: header, body, padding."""
    body = encode_segment(info, multiple)
    header = encode_header(SEGMENT, 0, 0, 0, 0, info.number, 0, 0, len(body), crc32c(body))
    return header, body, PADDING[len(body) & 7]


def decode_segment(body: bytes) -> SegmentInfo:
    """Raises ValueError on anything else."""
    *numbers, rows, disk, oldest = _unpacked(body, 9)
    if type(rows) is not list:
        raise ValueError("the table of groups is no list")
    table: dict[int, TableRow] = {}
    for row in rows:
        if type(row) is not list or len(row) < 10:
            raise ValueError("a row of the table of groups is too short")
        group, generation, gseq, term, node, incarnation, snapshot, last, damaged, floor = row[:10]
        table[_number(group)] = TableRow(
            _number(generation),
            _number(gseq),
            _number(term),
            _vote(node, incarnation),
            _number(snapshot),
            _number(last),
            _reason(damaged),
            _number(floor),
        )
    number, segment_id, previous_id, sealed_bytes, batch, slot = map(_number, numbers)
    return SegmentInfo(
        number,
        segment_id,
        previous_id,
        sealed_bytes,
        batch,
        slot,
        table,
        _number(disk),
        _number(oldest),
    )


def _unpacked(body: bytes, fields: int) -> list[Any]:
    """The first ``fields`` of a msgpack list; later versions may add to its end."""
    try:
        values = msgpack.unpackb(body)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if type(values) is not list or len(values) < fields:
        raise ValueError(f"no list of {fields} fields")
    return values[:fields]


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} where a number belongs")
    return value


def _reason(value: Any) -> str | None:
    if value is not None and type(value) is not str:
        raise ValueError(f"{value!r} where a reason belongs")
    return value


def _vote(node: Any, incarnation: Any) -> Replica | None:
    if node is None:
        return None
    if type(node) is not str:
        raise ValueError(f"{node!r} where a node belongs")
    return Replica(node, _number(incarnation))
