"""The batches of one segment, and what can be seen of the first one that is not whole.

Reads strictly: up to the first byte that is not what was written.  What can still be read behind
it, and what of that can be believed, is for :mod:`raft.store.salvage` to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from google_crc32c import value as crc32c

from raft.store import records
from raft.store.errors import UnknownFormat
from raft.store.records import HEADER_BYTES, Commit, Header, Record, padded

SECTOR_BYTES = 512
_BLOCK_ZEROS = bytes(64 << 10)


def used_bytes(data: bytes) -> int:
    """Where the last byte stands that is not zero, plus one.

    In blocks, because stripping byte by byte takes milliseconds for each MiB.
    """
    block, end = len(_BLOCK_ZEROS), len(data)
    while end >= block and data[end - block : end] == _BLOCK_ZEROS:
        end -= block
    start = max(0, end - block)
    return start + len(data[start:end].rstrip(b"\0"))


@dataclass(slots=True)
class Stop:
    """The first record of a batch that is not whole.  ``header``: if at least that was right."""

    offset: int
    header: Header | None
    reason: str
    before: list[Record]  # the records of its batch that stand before it

    @property
    def end(self) -> int:
        length = 0 if self.header is None else self.header.length
        return self.offset + HEADER_BYTES + padded(length)


class Frame(NamedTuple):
    """A commit frame whose CRCs are right, wherever it stands: perhaps in a client's bytes."""

    offset: int
    header: Header
    commit: Commit
    end: int


@dataclass(slots=True)
class SegmentReader:
    """The batches of one segment.  ``offset``: where the last whole batch ended."""

    path: str
    data: bytes
    zero: int = 0  # the place of its first byte in the log as a whole
    used: int = 0  # the last byte that is not zero, plus one
    offset: int = 0
    batch_offset: int = 0  # where the last whole batch began
    stop: Stop | None = None

    def __post_init__(self) -> None:
        self.used = used_bytes(self.data)

    def put_first(self, copy: bytes) -> None:
        """In the place of the first record, which is damaged (:mod:`raft.store.openings`)."""
        self.data = copy + self.data[len(copy) :]

    def begin_at(self, offset: int) -> None:
        """Read on from there; nothing of what was seen counts."""
        self.offset, self.stop = offset, None

    def next_batch(self) -> tuple[list[Record], Record] | None:
        """Records and commit frame; None at the end, with ``stop`` set if something is there."""
        if self.offset >= self.used:
            return None
        found: list[Record] = []
        frame = self.read_to_frame(self.offset, found)
        if frame is None:
            return None
        self.batch_offset, self.offset = self.offset, frame.offset + frame.size
        return found, frame

    def read_to_frame(self, offset: int, found: list[Record]) -> Record | None:
        """Add the records from ``offset`` on to ``found``.  The commit frame behind them; None,
        with ``stop`` set, at one that is not whole."""
        while (record := self.record_at(offset, found)) is not None:
            if record.header.kind == records.COMMIT:
                return record
            found.append(record)
            offset += record.size
        return None

    def record_at(self, offset: int, before: list[Record]) -> Record | None:
        """The record that begins at ``offset``; None, with ``stop`` set, if it is not whole."""
        data = self.data
        header = records.decode_header(data, offset)
        if header is None:
            newer = _newer_format(data, offset)
            if newer is not None:
                raise UnknownFormat(self.path, f"record of format {newer}", offset)
            self.stop = Stop(offset, None, "no valid record header", before)
            return None
        if header.format != records.FORMAT:
            raise UnknownFormat(self.path, f"record of format {header.format}", offset)
        if header.kind not in records.RECORD_KINDS and header.group == 0:
            raise UnknownFormat(self.path, f"record of unknown kind {header.kind}", offset)
        start = offset + HEADER_BYTES
        body = data[start : start + header.length]
        if len(body) != header.length or crc32c(body) != header.body_crc:
            self.stop = Stop(offset, header, "the body's checksum is wrong", before)
            return None
        return Record(header, data[offset:start], body, offset, self.zero + offset)

    def looks_torn(self, stop: Stop) -> bool:
        """Does the record at ``stop`` look unwritten, rather than changed?"""
        header = stop.header
        if header is None:
            ended_early = self.used <= stop.end
        elif header.kind == records.COMMIT:
            # A commit frame ends in a byte that is never zero.
            ended_early = self.used < stop.end
        else:
            # Behind any other record there would have to be a commit frame.
            ended_early = self.used <= stop.end
        return ended_early or self._has_unwritten_sector(stop)

    def _has_unwritten_sector(self, stop: Stop) -> bool:
        """Sectors as they were before this batch: the first may end the batch before it."""
        sector = stop.offset - stop.offset % SECTOR_BYTES
        while sector < stop.end:
            part = self.data[max(sector, self.offset) : sector + SECTOR_BYTES]
            if not part.strip(b"\0"):
                return True
            sector += SECTOR_BYTES
        return False

    def later_commits(self, stop: Stop, segment_id: int) -> list[tuple[int, Commit, int]]:
        """(offset, frame, end) of each valid commit frame from ``stop`` on that is of this segment.

        The random id keeps a client's bytes that happen to look like a frame from counting.
        """
        return [
            (frame.offset, frame.commit, frame.end)
            for frame in self.frames(stop.offset)
            if segment_id in (0, frame.commit.segment_id)
        ]

    def frames(self, offset: int) -> Iterator[Frame]:
        """All valid commit frames from ``offset`` on, of whatever segment."""
        position = self.data.find(records.MAGIC, offset)
        while position != -1:
            header = None
            if position % records.ALIGNMENT_BYTES == 0:
                header = records.decode_header(self.data, position)
            if header is not None and header[:2] == (records.FORMAT, records.COMMIT):
                start = position + HEADER_BYTES
                body = self.data[start : start + header.length]
                commit = _commit_or_none(body, header)
                if commit is not None:
                    yield Frame(position, header, commit, start + padded(header.length))
            position = self.data.find(records.MAGIC, position + 1)


def _newer_format(data: bytes, offset: int) -> int | None:
    """The format of a newer version's record.  Its header has its checksum where ours has it; only
    at the beginning of a segment, where nothing that was written before can stand, we believe it
    without, unless one changed byte explains it."""
    format_ = records.foreign_format(data, offset)
    if format_ is None or offset != 0:
        return None
    ours = data[:4] + bytes((records.FORMAT,)) + data[5:HEADER_BYTES]
    return None if records.decode_header(ours, 0) is not None else format_


def _commit_or_none(body: bytes, header: Header) -> Commit | None:
    if crc32c(body) != header.body_crc:
        return None
    try:
        return records.decode_commit(body)
    except ValueError:
        return None
