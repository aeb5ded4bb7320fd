"""Reading a WAL back, and telling what a crash tore from what a disk lost.

The writer keeps one promise that makes this possible: batch n+1 is written only after the sync of
batch n has returned, also across a change of segment.  So **whatever was torn belongs to the last
batch that was begun**, and everything before it was durable and may have been acknowledged.

Reading goes batch by batch until one is not whole.  That batch may be cut only if all of this
holds; otherwise something durable is gone and recovery refuses (pitfall 45):

* nothing shows that a later batch was begun: no later segment with a byte in it, no valid commit
  frame with a higher number, no byte behind this batch's own commit frame;
* the first record that is not whole looks *unwritten*: either nothing follows it (the write ended
  early) or one of the 512-byte sectors it lies in is still the zeros that the segment was filled
  with (sectors may arrive in any order).  A flipped bit looks like neither, even in the very last
  batch.

A batch that is whole may still be only in the page cache of a kernel that outlived us, and a kernel
whose sync has failed may hold it in pages marked clean that never reached the disk (pitfall
44).  So who opens the WAL writes the last batch again, in place and bit for bit, and syncs it,
before anything is built on it.

Bytes become batches in :mod:`raft.store.reader`, records become groups in :mod:`raft.store.replay`;
here batches are held against each other, and what is not whole is judged.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field

from raft.store import records
from raft.store.errors import ForeignWal, WalDamaged
from raft.store.files import Files, read_whole
from raft.store.reader import SegmentReader, Stop, used_bytes
from raft.store.records import Commit, Header, Record, SegmentInfo
from raft.store.remnants import Remnant
from raft.store.replay import RecoveredGroup, Replay
from raft.store.segments import segment_name, segment_number

__all__ = ["Recovered", "RecoveredGroup", "recover"]


@dataclass(slots=True)
class Recovered:
    """What was found, and what is to be done before the next segment is opened."""

    groups: dict[int, RecoveredGroup]
    discard: list[str]  # segments in which nothing ever became durable
    number: int = 0  # of the last segment in use; 0: none
    segment_id: int = 0
    end: int = 0  # its first byte that is not in use
    batch: int = 0
    chain: int = 0  # CRC of the last commit frame
    last_batch: bytes = b""  # the bytes of the last batch, which ends at ``end``
    torn: bool = False
    bytes_read: int = 0
    oldest: int = 1  # number of the oldest segment that the log still needs
    # (number, bytes in use) of each segment that was read; places count through all of them.
    segments: list[tuple[int, int]] = field(default_factory=list)


class _Recovery:
    """One pass over the segments, oldest first."""

    def __init__(self, files: Files, directory: str, slot: int, incarnation: int | None) -> None:
        self._files = files
        self._directory = directory
        self._slot = slot
        self._incarnation = incarnation
        self._result = Recovered({}, [])
        self._replays: dict[int, Replay] = {}
        self._first = 0  # number of the oldest segment that is there
        # (group, generation) -> last gseq before this segment
        self._floors: dict[tuple[int, int], int] = {}
        self._zero = 0  # place of the first byte of this segment

    def run(self) -> Recovered:
        result = self._result
        numbers = self._numbers()
        last_data = b""
        while numbers:
            last_data = self._read(numbers[-1])
            if used_bytes(last_data):
                break
            # Made ahead, or made and never written to.
            result.discard.append(segment_name(numbers.pop()))
        if not numbers and result.discard[-1:] not in ([], [segment_name(1)]):
            raise WalDamaged(self._path(1), 0, (), "the segments are missing")
        self._first = numbers[0] if numbers else 0
        for position, number in enumerate(numbers):
            last = position == len(numbers) - 1
            data = last_data if last else self._read(number)
            reader = SegmentReader(self._path(number), data, self._zero)
            self._segment(number, reader, last)
            if reader.offset:
                result.segments.append((number, reader.offset))
                self._zero += reader.offset
        self._finish()
        return result

    def _numbers(self) -> list[int]:
        names = self._files.listdir(self._directory)
        numbers = sorted(n for n in map(segment_number, names) if n is not None)
        for before, number in itertools.pairwise(numbers):
            if number != before + 1:
                raise WalDamaged(self._path(before + 1), 0, (), "the segment is missing")
        return numbers

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, segment_name(number))

    def _read(self, number: int) -> bytes:
        data = read_whole(self._files, self._path(number))
        self._result.bytes_read += len(data)
        return data

    def _segment(self, number: int, reader: SegmentReader, last: bool) -> None:
        result = self._result
        while (batch := reader.next_batch()) is not None:
            self._batch(number, reader, *batch)
        if reader.stop is not None:
            self._cut_or_refuse(number, reader, reader.stop, last)
        elif reader.offset == 0:
            raise WalDamaged(reader.path, 0, (), "it is empty, but a later segment is not")
        if reader.offset:
            result.end = reader.offset
            result.last_batch = reader.data[reader.batch_offset : reader.offset]

    def _cut_or_refuse(self, number: int, reader: SegmentReader, stop: Stop, last: bool) -> None:
        result = self._result
        opened = result.number == number
        commits = reader.later_commits(stop, result.segment_id if opened else 0)
        torn = last and reader.looks_torn(stop)
        for _, commit, end in commits:
            # A later batch, or a byte behind this one, was begun after this one was synced.
            torn = torn and commit.batch == result.batch + 1 and end == reader.used
        if not torn:
            groups = self._hit(stop, commits)
            raise WalDamaged(reader.path, stop.offset, groups, stop.reason)
        result.torn = True
        if reader.offset == 0:
            result.discard.append(segment_name(number))

    def _hit(self, stop: Stop, commits: list[tuple[int, Commit, int]]) -> tuple[int, ...]:
        """The groups that lost something at ``stop``, as far as the WAL can still tell."""
        header = stop.header
        if header is not None and header.kind in records.GROUP_KINDS:
            return (header.group,)
        reached = {r.header.group: r.header.gseq for r in stop.before if r.header.group}
        for _, commit, _ in commits:
            if commit.batch == self._result.batch + 1:
                return tuple(
                    group
                    for group, gseq in sorted(commit.groups.items())
                    if reached.get(group, 0) < gseq
                )
        return tuple(sorted(reached))

    def _batch(
        self, number: int, reader: SegmentReader, found: list[Record], frame: Record
    ) -> None:
        """Take a batch of which each record is whole; hold it against all that came before."""
        result = self._result
        path = reader.path
        opening = reader.batch_offset == 0
        info = self._opening(number, path, found) if opening else None
        if info is not None:
            result.number, result.segment_id = number, info.segment_id
            result.oldest = max(result.oldest, info.oldest)
            result.end = 0
        try:
            commit = records.decode_commit(frame.body)
        except ValueError as error:
            raise WalDamaged(path, frame.offset, (), str(error)) from error
        if opening and number == self._first > 1:
            result.chain = commit.previous_crc  # of a segment that was given up
        highest: dict[int, int] = {}
        for record in found[1:] if opening else found:
            header = record.header
            if header.kind == records.SEGMENT:
                raise WalDamaged(path, record.offset, (), "a segment opens in the middle of one")
            if header.kind == records.OLDEST:
                result.oldest = max(result.oldest, header.first)
                continue
            highest[header.group] = max(header.gseq, highest.get(header.group, 0))
            self._replay(header).add(path, record)
        said = (
            commit.batch,
            commit.segment_id,
            commit.previous_crc,
            commit.headers_crc,
            frame.header.entries,
            commit.groups,
        )
        headers_crc = records.crc_of_headers([record.raw for record in found])
        seen = (
            result.batch + 1,
            result.segment_id,
            result.chain,
            headers_crc,
            len(found),
            highest,
        )
        if said != seen:
            groups = tuple(sorted(commit.groups.keys() | highest.keys()))
            raise WalDamaged(path, frame.offset, groups, "the commit frame is of another batch")
        result.batch = commit.batch
        result.chain = frame.header.header_crc
        if info is not None:
            self._check_table(path, info)

    def _opening(self, number: int, path: str, found: list[Record]) -> SegmentInfo:
        result = self._result
        if not found or found[0].header.kind != records.SEGMENT:
            raise WalDamaged(path, 0, (), "it does not begin with the record that opens a segment")
        try:
            info = records.decode_segment(found[0].body)
        except ValueError as error:
            raise WalDamaged(path, 0, (), str(error)) from error
        if self._incarnation not in (None, info.incarnation):
            raise ForeignWal(path, info.incarnation, self._incarnation)
        self._floors = {
            (group, replay.generation): replay.gseq for group, replay in self._replays.items()
        }
        if number == self._first > 1:
            self._begin_late(info)
        said = (info.number, info.slot, info.previous_id, info.sealed_bytes, info.batch)
        seen = (number, self._slot, result.segment_id, result.end, result.batch)
        if said != seen:
            raise WalDamaged(
                path,
                0,
                (),
                "it follows (number, slot, previous id, sealed bytes, batch) "
                f"{said}, but that is {seen}",
            )
        return info

    def _begin_late(self, info: SegmentInfo) -> None:
        """The segments before were given up; that they were, is known when all is read."""
        result = self._result
        result.segment_id, result.end = info.previous_id, info.sealed_bytes
        result.batch = info.batch
        for group, row in info.table.items():
            if row.floor:
                self._replays[group] = Remnant(group, row)
                self._floors[group, row.generation] = row.floor

    def _check_table(self, path: str, info: SegmentInfo) -> None:
        for group in sorted(info.table.keys() | self._replays.keys()):
            row, replay = info.table.get(group), self._replays.get(group)
            found = None
            if replay is not None:
                found = replay.row(self._floors.get((group, replay.generation), 0))
            if row is None or found != row:
                reason = f"its table says {row} of the group, the records before it {found}"
                raise WalDamaged(path, 0, (group,), reason)

    def _replay(self, header: Header) -> Replay:
        """Of several generations the highest counts: it is a copy that replaced the others."""
        replay = self._replays.get(header.group)
        if replay is None or replay.generation < header.generation:
            replay = Replay(header.group, header.generation)
            self._replays[header.group] = replay
        elif replay.generation > header.generation:
            return Replay(header.group, header.generation, gseq=header.gseq)
        return replay

    def _finish(self) -> None:
        result = self._result
        if self._first > result.oldest:
            raise WalDamaged(
                self._path(self._first),
                0,
                (),
                f"the segments before it are missing, from {segment_name(result.oldest)} on",
            )
        for group, replay in self._replays.items():
            for path, record in replay.pending.values():
                reason = f"record {record.header.gseq} of the group follows record {replay.gseq}"
                raise WalDamaged(path, record.offset, (group,), reason)
            missing = replay.missing()
            if missing is not None:
                raise WalDamaged(self._path(self._first), 0, (group,), missing)
            result.groups[group] = replay.result()


def recover(files: Files, directory: str, slot: int, incarnation: int | None) -> Recovered:
    """Read all segments in ``directory``.  Changes nothing.

    ``incarnation``: of the disk that it must have been written for; None for who only looks.
    Raises WalDamaged, ForeignWal, UnknownFormat, and OSError when the disk does not give the bytes.
    """
    return _Recovery(files, directory, slot, incarnation).run()
