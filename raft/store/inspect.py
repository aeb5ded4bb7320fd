"""Looking into a WAL without changing it: what stands where, and what is wrong with it.

Recovery (:mod:`raft.store.recovery`) decides whether a log may be used, and ends at the first thing
that is wrong. Here is looked on behind it, for people: *what else* is there, whose is it, and how
much is lost. Nothing that is found here makes a log usable.

**Going on behind damage.** Where a record is not whole, reading goes on at the next place of which
it is certain that a record begins there:

* behind the record, if its header is right: then its length is, too;
* otherwise at the next commit frame that carries the segment's random id. A header alone proves
  nothing: a client may have stored the copy of one.

**A gap and a torn tail** look alike from near. Whether one may be cut follows the rule of recovery:
nothing later was begun, and it looks unwritten.

**Memory**: one segment at a time. A :class:`Survey` has recovery look at all of it, too, which
takes as much as a start of the node.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from raft.messages import HardState, SnapshotMeta
from raft.store import records
from raft.store.errors import StoreError, UnknownFormat, WalDamaged
from raft.store.files import Files, read_whole
from raft.store.openings import read_opening
from raft.store.reader import SegmentReader, Stop
from raft.store.records import HEADER_BYTES, Commit, Header, Record, SegmentInfo, padded
from raft.store.recovery import RecoveredGroup, recover
from raft.store.segments import segment_name, segment_number


class ReadingFiles(Files):
    """The real disk, for who may not change it: files are opened for reading alone.

    The kernel refuses every write through such a descriptor; what needs no descriptor is refused
    here.
    """

    __slots__ = ()

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        assert not create, path
        assert not exclusive, path
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def mkdir(self, path: str) -> None:
        raise AssertionError(f"{path} is only looked at")

    def rename(self, source: str, target: str) -> None:
        raise AssertionError(f"{source} is only looked at")

    def unlink(self, path: str) -> None:
        raise AssertionError(f"{path} is only looked at")


@dataclass(slots=True, frozen=True)
class Finding:
    """Something that is wrong, and where. ``index``: the first entry concerned, if it is known."""

    file: str
    offset: int | None
    groups: tuple[int, ...]
    index: int | None
    reason: str


@dataclass(slots=True)
class Hole:
    """Bytes ``offset``..``end`` of a segment that cannot be read."""

    stop: Stop
    end: int
    torn: bool  # and nothing is lost by it: the write of the last batch was cut off
    commits: list[tuple[int, Commit, int]]

    @property
    def offset(self) -> int:
        return self.stop.offset

    @property
    def reason(self) -> str:
        return self.stop.reason


@dataclass(slots=True)
class SeenBatch:
    """Records, and the commit frame behind them if there is one; in the order of the disk.

    ``holes``: what of it cannot be read. Without any, and with a frame, it is whole.
    """

    found: list[Record]
    frame: Record | None
    number: int | None
    holes: list[Hole] = field(default_factory=list)

    @property
    def is_whole(self) -> bool:
        return self.frame is not None and not self.holes

    @property
    def items(self) -> list[Record | Hole]:
        """All but the frame, in the order of the disk: what a hole hides follows what is before."""
        items: list[Record | Hole] = [*self.found, *self.holes]
        return sorted(items, key=lambda item: item.offset)


@dataclass(slots=True)
class SeenSegment:
    """A segment as it was found. ``used_bytes`` 0: made ahead, and never written to."""

    number: int
    path: str
    size_bytes: int
    used_bytes: int
    info: SegmentInfo | None = None


def segment_numbers(files: Files, directory: str) -> list[int]:
    return sorted(n for n in map(segment_number, files.listdir(directory)) if n is not None)


def open_segment(files: Files, directory: str, number: int) -> SegmentReader:
    path = os.path.join(directory, segment_name(number))
    return SegmentReader(path, read_whole(files, path))


def last_in_use(files: Files, directory: str, numbers: list[int]) -> int:
    """The number of the last segment that was written to; 0: none was."""
    for number in reversed(numbers):
        if open_segment(files, directory, number).used:
            return number
    return 0


def batches_of(reader: SegmentReader, batch: int, *, is_last: bool) -> Iterator[SeenBatch]:
    """All batches of a segment, with what is between them.

    ``batch``: number of the last one before. ``is_last``: no later segment is in use.
    """
    segment_id = 0
    seen = SeenBatch([], None, None)
    while True:
        try:
            whole = reader.next_batch()
            stop = reader.stop
        except UnknownFormat as error:
            whole, stop = None, Stop(error.offset or 0, None, str(error), [])
        if whole is not None:
            found, frame = whole
            seen.found += found
            seen.frame, seen.number = frame, frame.header.gseq
            if segment_id == 0:
                segment_id = _segment_id(frame)
            batch = frame.header.gseq
            yield seen
            seen = SeenBatch([], None, None)
            continue
        if stop is None:
            return
        commits = reader.later_commits(stop, segment_id)
        torn = is_last and not seen.holes and is_torn(reader, stop, commits, batch)
        resume = _place_to_go_on(stop, commits)
        end = reader.used if resume is None else resume
        seen.holes.append(Hole(stop, end, torn, commits))
        seen.found += stop.before
        if resume is None:
            yield seen
            return
        reader.offset, reader.stop = resume, None


def is_torn(
    reader: SegmentReader, stop: Stop, commits: list[tuple[int, Commit, int]], batch: int
) -> bool:
    """In the last segment in use: whether recovery would cut the log at ``stop``."""
    return reader.looks_torn(stop) and all(
        commit.batch == batch + 1 and end == reader.used for _, commit, end in commits
    )


def _segment_id(frame: Record) -> int:
    try:
        return records.decode_commit(frame.body).segment_id
    except ValueError:
        return 0


def _place_to_go_on(stop: Stop, commits: list[tuple[int, Commit, int]]) -> int | None:
    """The next offset at which a record begins for certain; None: there is none."""
    for offset, _, _ in commits:
        if stop.header is not None and offset >= stop.end:
            return stop.end
        if offset > stop.offset:
            return offset
    return None


# --------------------------------------------------------------------------- a whole slot


@dataclass(slots=True)
class SeenGroup:
    """One group of a slot, by its records of the highest generation.

    ``recovered``: what recovery makes of it, without the bodies of runs; None where recovery
    refused the log. ``last``, ``state``, ``gseq`` are what the records themselves say, as far as
    they can be read, in the order of the disk.
    """

    group: int
    generation: int
    records: int = 0
    size_bytes: int = 0
    segments: set[int] = field(default_factory=set)  # numbers of those that hold something of it
    gseq: int = 0
    last: tuple[int, int] = (0, 0)  # (index, term)
    state: HardState = field(default_factory=HardState)
    snapshot: SnapshotMeta | None = None
    marked: str | None = None  # the reason, if it was marked as damaged
    is_whole: bool = True
    recovered: RecoveredGroup | None = None
    live_bytes: int = 0  # of the records that it would miss
    single_bytes: dict[int, int] = field(default_factory=dict)  # by kind: the newest one's

    @property
    def first(self) -> int | None:
        return None if self.recovered is None else self.recovered.base_index + 1

    def note(self, record: Record) -> None:
        header = record.header
        if header.gseq <= self.gseq:
            return  # a copy
        self.gseq = header.gseq
        note = _NOTES.get(header.kind)
        if note is not None:
            note(self, header, record.body)

    def _note_run(self, header: Header, body: bytes) -> None:
        self.last = (header.first + header.entries - 1, header.term)

    def _note_truncation(self, header: Header, body: bytes) -> None:
        self.last = (min(self.last[0], header.first - 1), self.last[1])

    def _note_state(self, header: Header, body: bytes) -> None:
        self.state = records.decode_hard_state(body)

    def _note_mark(self, header: Header, body: bytes) -> None:
        mark = records.decode_mark(header, body)
        self.snapshot = mark.snapshot
        if mark.resets:
            self.last = (mark.snapshot.index, mark.snapshot.term)

    def _note_damaged(self, header: Header, body: bytes) -> None:
        self.marked = body.decode("utf-8", "replace")

    def take(self, found: RecoveredGroup) -> None:
        """Recovery has the last word."""
        run_bytes = sum(HEADER_BYTES + padded(len(run.body)) for run in found.runs)
        self.live_bytes = run_bytes + sum(self.single_bytes.values())
        if self.marked is not None:  # nothing else of it counts
            self.live_bytes = self.single_bytes[records.DAMAGED]
        self.gseq, self.state, self.snapshot = found.last_gseq, found.hard_state, found.snapshot
        self.last = (found.base_index, found.base_term)
        if found.runs:
            self.last = (found.runs[-1].last, found.runs[-1].term)
        self.is_whole = found.damaged is None and found.unknown is None
        found.runs.clear()
        self.recovered = found


_NOTES: dict[int, Callable[[SeenGroup, Header, bytes], None]] = {
    records.RUN: SeenGroup._note_run,
    records.TRUNCATE: SeenGroup._note_truncation,
    records.HARD_STATE: SeenGroup._note_state,
    records.SNAPSHOT: SeenGroup._note_mark,
    records.DAMAGED: SeenGroup._note_damaged,
}
# Of these a group needs the newest one alone.
_SINGLE_KINDS = frozenset(
    (records.BOOTSTRAP, records.HARD_STATE, records.SNAPSHOT, records.DAMAGED)
)


class Survey:
    """Everything about one slot; see the top of this file. :meth:`run` reads it, once."""

    def __init__(
        self, files: Files, directory: str, slot: int | None = None, incarnation: int | None = None
    ) -> None:
        """``slot``: its number; None: whatever its first segment says. ``incarnation``: of the
        disk in whose place it stands; None: whoever's."""
        self._files = files
        self._incarnation = incarnation
        self._batch = 0
        self.directory = directory
        self.slot = slot
        self.segments: list[SeenSegment] = []
        self.groups: dict[int, SeenGroup] = {}
        self.findings: list[Finding] = []
        self.batches = 0
        self.records = 0
        self.torn: Hole | None = None

    def run(self) -> Survey:
        """Raises OSError when the disk does not give the bytes."""
        numbers = segment_numbers(self._files, self.directory)
        last_used = last_in_use(self._files, self.directory, numbers)
        for number in numbers:
            self._segment(number, is_last=number >= last_used)
        self._ask_recovery()
        return self

    def _segment(self, number: int, *, is_last: bool) -> None:
        reader = open_segment(self._files, self.directory, number)
        opening = read_opening(self._files, reader.path, number)
        if opening.copy:
            reader.put_first(opening.copy)  # what recovery says of it is told below
        segment = SeenSegment(number, reader.path, len(reader.data), reader.used)
        self.segments.append(segment)
        for batch in batches_of(reader, self._batch, is_last=is_last):
            self._batch_of(segment, batch)

    def _batch_of(self, segment: SeenSegment, batch: SeenBatch) -> None:
        if batch.holes and batch.holes[0].torn:
            self.torn = batch.holes[0]  # nobody was promised anything of it
            return
        self.batches += 1
        if batch.number is not None:
            self._batch = batch.number
        for item in batch.items:
            if isinstance(item, Hole):
                self._hole(segment.path, batch, item)
            else:
                self._record(segment, item)

    def _record(self, segment: SeenSegment, record: Record) -> None:
        self.records += 1
        header = record.header
        if header.kind == records.SEGMENT:
            self._opening(segment, record)
            return
        if header.kind not in records.GROUP_KINDS:
            return
        seen = self.groups.get(header.group)
        if seen is None or seen.generation < header.generation:
            seen = self.groups[header.group] = SeenGroup(header.group, header.generation)
        size_bytes = HEADER_BYTES + padded(header.length)
        seen.records += 1
        seen.size_bytes += size_bytes
        seen.segments.add(segment.number)
        if header.generation < seen.generation:
            return
        if header.kind in _SINGLE_KINDS:
            seen.single_bytes[header.kind] = size_bytes
        try:
            seen.note(record)
        except ValueError as error:
            seen.is_whole = False
            self._find(segment.path, record.offset, (header.group,), None, str(error))

    def _opening(self, segment: SeenSegment, record: Record) -> None:
        try:
            segment.info = records.decode_segment(record.body)
        except ValueError as error:
            self._find(segment.path, record.offset, (), None, str(error))
            return
        if self.slot is None:
            self.slot = segment.info.slot

    def _hole(self, path: str, batch: SeenBatch, hole: Hole) -> None:
        groups = self._hit_by(batch, hole)
        for group in groups:
            if group in self.groups:
                self.groups[group].is_whole = False
        header = hole.stop.header
        index = header.first if header is not None and header.kind == records.RUN else None
        self._find(path, hole.offset, groups, index, hole.reason)

    def _hit_by(self, batch: SeenBatch, hole: Hole) -> tuple[int, ...]:
        """Whose record it was; by the batch's commit frame, if its own header does not say."""
        header = hole.stop.header
        if header is not None and header.kind in records.GROUP_KINDS:
            return (header.group,)
        if batch.frame is None:
            return tuple(sorted({r.header.group for r in batch.found if r.header.group}))
        try:
            last = records.decode_commit(batch.frame.body).groups
        except ValueError:
            return ()
        reached = {group: seen.gseq for group, seen in self.groups.items()}
        return tuple(g for g, gseq in sorted(last.items()) if reached.get(g, 0) < gseq)

    def _ask_recovery(self) -> None:
        """What holds batches and segments together is recovery's to judge."""
        if not self.segments:
            return
        try:
            found = recover(self._files, self.directory, self.slot or 0, self._incarnation)
        except WalDamaged as error:
            self._add_verdict(error.file, error.offset, error.groups, error.reason)
            return
        except StoreError as error:
            file = getattr(error, "file", self.directory)
            self._add_verdict(file, getattr(error, "offset", None), (), str(error))
            return
        for loss in found.damage:
            header = loss.header
            groups = (header.group,) if header is not None and header.group else ()
            self._add_verdict(loss.path, loss.offset, groups, loss.reason)
        told = {group for each in self.findings for group in each.groups}
        for group, recovered in found.groups.items():
            seen = self.groups.setdefault(group, SeenGroup(group, recovered.generation))
            seen.take(recovered)
            reason = recovered.unknown or recovered.damaged
            if reason is not None and group not in told and seen.marked is None:
                self._find(self.directory, None, (group,), None, reason)

    def _add_verdict(
        self, file: str, offset: int | None, groups: tuple[int, ...], reason: str
    ) -> None:
        for at, known in enumerate(self.findings):
            if (known.file, known.offset) == (file, offset):
                both = tuple(sorted({*known.groups, *groups}))
                self.findings[at] = Finding(file, offset, both, known.index, known.reason)
                return
        for group in groups or self.groups:  # of none: nobody knows whose it was
            if group in self.groups:
                self.groups[group].is_whole = False
        self._find(file, offset, groups, None, reason)

    def _find(
        self,
        file: str,
        offset: int | None,
        groups: tuple[int, ...],
        index: int | None,
        reason: str,
    ) -> None:
        if index is None and groups and groups[0] in self.groups:
            index = self.groups[groups[0]].last[0] + 1
        self.findings.append(Finding(file, offset, groups, index, reason))
