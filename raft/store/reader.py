"""The batches of one segment, and what can be seen of the first one that is not whole.

Judges a segment by itself; whether what it sees is a torn tail or damage depends on other segments,
too, and is decided in :mod:`raft.store.recovery`.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    def next_batch(self) -> tuple[list[Record], Record] | None:
        """Records and commit frame; None at the end, with ``stop`` set if something is there."""
        position = self.offset
        if position >= self.used:
            return None
        found: list[Record] = []
        while True:
            record = self._record(position, found)
            if record is None:
                return None
            position += HEADER_BYTES + padded(record.header.length)
            if record.header.kind == records.COMMIT:
                self.batch_offset, self.offset = self.offset, position
                return found, record
            found.append(record)

    def _record(self, offset: int, before: list[Record]) -> Record | None:
        data = self.data
        foreign = records.foreign_format(data, offset)
        if foreign is not None:
            raise UnknownFormat(self.path, f"record of format {foreign}", offset)
        header = records.decode_header(data, offset)
        if header is None:
            self.stop = Stop(offset, None, "no valid record header", before)
            return None
        if header.kind not in records.RECORD_KINDS:
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
        found = []
        position = self.data.find(records.MAGIC, stop.offset)
        while position != -1:
            header = None
            if position % records.ALIGNMENT_BYTES == 0:
                header = records.decode_header(self.data, position)
            if header is not None and header.kind == records.COMMIT:
                start = position + HEADER_BYTES
                body = self.data[start : start + header.length]
                commit = _commit_or_none(body, header)
                if commit is not None and segment_id in (0, commit.segment_id):
                    found.append((position, commit, start + padded(header.length)))
            position = self.data.find(records.MAGIC, position + 1)
        return found


def _commit_or_none(body: bytes, header: Header) -> Commit | None:
    if crc32c(body) != header.body_crc:
        return None
    try:
        return records.decode_commit(body)
    except ValueError:
        return None
