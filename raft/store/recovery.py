"""Reading a WAL back: what a crash tore is cut, what a disk lost condemns whom it may have hit.

The writer keeps one promise that makes this possible: batch n+1 is written only after the sync of
batch n has returned, also across a change of segment.  So **whatever was torn belongs to the last
batch that was begun**, and everything before it was durable and may have been acknowledged.

A batch that is not whole is cut only if all of this holds; otherwise something durable is gone
(pitfall 45):

* nothing shows that a later batch was begun: no later segment with a byte in it, no valid commit
  frame with a higher number, no byte behind this batch's own commit frame;
* the first record that is not whole looks *unwritten*: either nothing follows it (the write ended
  early) or one of the 512-byte sectors it lies in is still the zeros that the segment was filled
  with (sectors may arrive in any order).  A flipped bit looks like neither, even in the very last
  batch.

Everything else is **damage**.  It stops the groups that lost something, or may have; no others::

    files  --members-->  segments, oldest first       which files are the log
           --salvage-->  batches and gaps of each     what is proven, and where more may have been
           --evidence->  groups, whole or condemned   who lost something

Nothing is changed here; :mod:`raft.store.settling` does what is to be done to the disk, and the
first batch of the next segment says who is condemned, before anything else is said of them.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, field

from raft.store.evidence import Evidence
from raft.store.files import Files, read_whole
from raft.store.members import Member, find_members, missing_before
from raft.store.reader import SegmentReader
from raft.store.records import Record, TableRow
from raft.store.replay import RecoveredGroup
from raft.store.salvage import Batch, Gap, Loss, Place, Salvage, SegmentRead

__all__ = ["Recovered", "RecoveredGroup", "recover"]


@dataclass(slots=True)
class Recovered:
    """What was found, and what is to be done before the next segment is opened."""

    groups: dict[int, RecoveredGroup]
    discard: list[str]  # segments in which nothing ever became durable
    aside: list[str] = field(default_factory=list)  # names of files that are no part of the log
    rows: dict[int, TableRow] = field(default_factory=dict)  # of groups that cannot be opened
    unmarked: dict[int, str] = field(default_factory=dict)  # condemned groups without their mark
    damage: list[Loss] = field(default_factory=list)  # all that was met
    number: int = 0  # the highest number of a segment that is in use; 0: none
    last: str = ""  # path of the segment that the log ends in
    segment_id: int = 0  # of that one
    end: int = 0  # its first byte that is not in use
    batch: int = 0
    chain: int = 0  # CRC of the last commit frame
    last_batch: bytes = b""  # the bytes of the last batch, which ends at ``end``
    carried: list[Record] = field(default_factory=list)  # the same where it cannot be written again
    torn: bool = False
    bytes_read: int = 0
    oldest: int = 1  # number of the oldest segment that the log still needs
    # (number, bytes in use, path) of each segment that was read; places count through all of them.
    segments: list[tuple[int, int, str]] = field(default_factory=list)
    pinned: str | None = None  # why no segment may be given up


class _NeverWas(Exception):
    """The batch that was to open the newest segment is torn: as if it had never been begun."""

    def __init__(self, member: Member) -> None:
        super().__init__(member.path)
        self.name = member.path.rpartition("/")[2]


class _Over(Exception):
    """At the beginning of the log are files that cannot be read, and are needed no more."""

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__(*sorted(names))
        self.names = names


class _Recovery:
    """One pass over the segments, oldest first."""

    def __init__(
        self,
        files: Files,
        directory: str,
        slot: int,
        incarnation: int | None,
        without: str | None,
        over: frozenset[str],
    ) -> None:
        self._files = files
        self._directory = directory
        self._slot = slot
        self._incarnation = incarnation
        self._without = without  # name of the newest segment, if that was never durable
        self._over = over  # names of files that were given up
        self._result = Recovered({}, [])
        self._evidence = Evidence()
        self._place: Place | None = Place(0, 0, 0)  # where the chain is; None: that is not known
        self._zero = 0  # place of the first byte of the next segment

    def run(self) -> Recovered:
        result, evidence = self._result, self._evidence
        members = find_members(
            self._files, self._directory, self._slot, self._incarnation, self._without, self._over
        )
        result.discard, result.aside, result.number = members.discard, members.aside, members.number
        result.torn = self._without is not None
        segments = members.segments
        last = self._read(segments[-1]) if segments else None
        if last is not None and self._never_was(segments[-1], last):
            raise _NeverWas(segments[-1])
        for position, member in enumerate(segments):
            # What an unsynced batch has in a later segment proves that all before it was synced.
            is_last = position == len(segments) - 1 and self._without is None
            reader = last if member is segments[-1] else self._read(member)
            self._segment(member, reader, is_last)
        self._drop_given_up(segments)
        first = segments[0] if segments else None
        if first is not None and first.is_late and first.number > result.oldest:
            loss = missing_before(first)
            result.damage.append(loss)
            evidence.begins_without(loss)
        result.groups, result.rows, result.unmarked = evidence.judge()
        if members.misnamed:
            result.pinned = f"{', '.join(members.misnamed)}: segments under wrong names"
        whole = {(it.group, it.generation) for it in result.groups.values() if it.damaged is None}
        result.carried = [
            it for it in result.carried if (it.header.group, it.header.generation) in whole
        ]
        for group in result.groups.values():
            if group.unknown is not None and group.damaged is None:
                result.pinned = group.unknown
        return result

    def _drop_given_up(self, segments: list[Member]) -> None:
        """Who gives segments up copies what is live in them, and removes what was read of the log.
        A file that could not be read is left over, and stands for nothing any more."""
        lost = itertools.takewhile(lambda it: it.lost is not None, segments)
        given_up = [it.path for it in lost if it.number < self._result.oldest]
        if given_up:
            raise _Over(frozenset(os.path.basename(path) for path in given_up))

    def _read(self, member: Member) -> SegmentReader | None:
        if member.lost is not None:
            return None
        try:
            data = read_whole(self._files, member.path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, member.path) from error
        self._result.bytes_read += len(data)
        if member.sealed is not None:
            data = data[: member.sealed.end]  # what is behind it was cut, or never written
        return SegmentReader(member.path, data, self._zero)

    def _never_was(self, member: Member, reader: SegmentReader) -> bool:
        """The batch that was to open the newest segment is torn."""
        if self._without is not None or not member.is_next:
            return False
        # Without the copy of what is missing at its beginning: that may have arrived alone.
        return self._salvage(member, reader, Place(0, None, None), is_last=True).opening_is_torn()

    def _salvage(
        self, member: Member, reader: SegmentReader, before: Place, *, is_last: bool
    ) -> Salvage:
        info = member.info
        return Salvage(
            reader,
            before,
            segment_id=member.segment_id,
            opened=None if info is None else info.batch,
            sealed=member.sealed,
            is_last=is_last,
        )

    def _segment(self, member: Member, reader: SegmentReader | None, is_last: bool) -> None:
        if member.missing is not None:
            self._gap(member.missing)
        if member.is_late:
            self._place = None
        before = self._place or Place(0, None, None)
        if reader is None:
            assert member.lost is not None
            self._gap(member.loss(member.lost))
            return
        if member.is_late:
            assert member.info is not None
            self._evidence.begin_late(member.info)
        reader.zero = self._zero
        if member.copy:
            reader.put_first(member.copy)
        found = self._salvage(member, reader, before, is_last=is_last).read()
        self._result.torn |= found.torn
        if found.torn and found.place.offset == 0 and member.is_next:
            raise _NeverWas(member)
        if not (member.follows or found.follows or member.missing):
            self._boundary(member)
        if member.copy:
            self._result.damage.append(member.loss("its first record is damaged, a copy is whole"))
        self._take(member, found)
        self._end(member, reader, found)
        self._result.segments.append((member.number, reader.used, member.path))
        self._zero += reader.used

    def _boundary(self, member: Member) -> None:
        """Nothing says that this segment follows on the one before it."""
        is_first = self._result.batch == 0 and not self._result.damage
        if not is_first:
            self._gap(member.loss("it does not follow on the segment before it"))

    def _take(self, member: Member, found: SegmentRead) -> None:
        evidence, path, result = self._evidence, member.path, self._result
        if member.info is not None:
            result.oldest = max(result.oldest, member.info.oldest)
        for position, item in enumerate(found.items):
            if isinstance(item, Batch):
                result.oldest = max(result.oldest, evidence.take_batch(path, item))
                result.damage += item.damage
            else:
                self._gap(item.loss)
            if position == 0 and member.info is not None:
                evidence.take_table(path, member.info)

    def _gap(self, loss: Loss) -> None:
        self._evidence.take_gap(loss)
        self._result.damage.append(loss)
        self._place = None

    def _end(self, member: Member, reader: SegmentReader, found: SegmentRead) -> None:
        """The log goes on behind the last batch that is proven, in a segment of its own."""
        result, place = self._result, found.place
        is_broken = bool(found.items) and isinstance(found.items[-1], Gap)
        self._place = None if is_broken or place.chain is None else place
        if place.number is None or place.offset == 0:
            return
        result.last, result.segment_id, result.end = member.path, found.segment_id, place.offset
        result.batch, result.chain = place.number, place.chain or 0
        batches = [item for item in found.items if isinstance(item, Batch)]
        is_sound = all(isinstance(it, Batch) and not it.damage for it in found.items)
        result.last_batch, result.carried = b"", []
        if is_sound and member.info is not None and not member.copy:
            result.last_batch = reader.data[batches[-1].offset : place.offset]
        else:
            result.carried = [it for it in batches[-1].records if it.header.group]


def recover(files: Files, directory: str, slot: int, incarnation: int | None) -> Recovered:
    """Read all segments in ``directory``.  Changes nothing.

    ``incarnation``: of the disk that it must have been written for; None for who only looks.
    Damage is no exception: it is in ``groups``.  Raises UnknownFormat, ForeignWal and WalDamaged
    when not one segment is of this disk and slot, and OSError when the disk gives no bytes.
    """
    without: str | None = None
    over: frozenset[str] = frozenset()
    while True:
        try:
            return _Recovery(files, directory, slot, incarnation, without, over).run()
        except _NeverWas as newest:
            # What it says of those before it does not count either.
            without = newest.name
        except _Over as more:
            over |= more.names
