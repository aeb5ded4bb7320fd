"""The log stays bounded: its oldest segment is given up again and again.

What the oldest segment still holds alive is copied to the log's end, bit for bit, gseq included;
then a record says that the segment is needed no more; then, when that is durable, it is removed::

    live records of the oldest ->  read on a thread  ->  ride behind the records of ordinary batches
                                                                        |
    all of them are copied     ->  OLDEST, in the batch with the last copies, or in any later one
                                                                        |
    that batch is synced       ->  unlink, sync of the directory, on a thread

Nothing is removed on the word of a batch that is not synced.  Recovery makes the last batch durable
before it opens a segment, and what is left over is removed only after that segment's first batch.

**Live** is the bootstrap record, the newest term and vote, the newest mark, the mark of damage, and
each run above the base that is not truncated (:mod:`raft.store.group_log`).  Nothing else is ever
copied, and nothing else is missed, because

    *whatever takes a record's meaning away stands behind it, and behind each copy of it.*

A newer record of the kind, a truncation, a mark: each was gathered after its victim, and whether a
record is live is looked at once more when its copy is gathered, behind all ordinary records of the
batch.  So when the segment with a truncation is given up, all that it truncated is gone before it;
that truncation, too, is needed no more.  The same holds for older marks and votes.

**What proves that nothing was lost.**  Each segment's table has, per group, a *floor*: its last
gseq in the segments before.  When those are gone, records above the floor are all there, without
a hole, as ever.  Those up to it are there if they were live, and which ones these must be follows
from the table's row and the records above it (:mod:`raft.store.remnants`).  That segments are
gone by design is said by the newest OLDEST record, or by the record that opened the newest
segment; they are removed oldest first, each durably before the next, so never one between
others.

A segment of which both records that open it are lost says nothing by itself, neither floors nor
whose bytes these are.  It is *bound* to the one before it: they are given up together, once nothing
in them lives, by one OLDEST record.

**When.**  With nothing live in it, the oldest segment goes at once.  Otherwise it is due if

* live is at most a quarter of it: a copied byte then frees four; or
* the sealed segments behind it hold more than twice what is live in the whole log; or
* there are too many of them (small ones, of one start each).

So **all sealed segments together hold at most twice the live bytes, and one segment**; beside
them are the one that is written to and the one made ahead.  (What is written while a segment is
being given up comes on top: copies keep pace, see the limits.)  As only the oldest goes, live
data is copied in turn; each turn gives up more than twice the live bytes and copies them at most
once, so in the long run a byte is copied for each byte written, at most, and none where the
oldest die first, as in a single busy group.

What cannot be read back is never given up: tidying then stops for good, says so, and the next start
finds out what is lost.

Threads: all methods belong to the owner's thread but the work that :meth:`Tidier.work` returns.
Memory: beside :mod:`raft.store.group_log`, one chunk of copies, and some numbers for each segment.
"""

from __future__ import annotations

import itertools
import os
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google_crc32c import value as crc32c

from raft.store import records
from raft.store.errors import WalDamaged
from raft.store.files import Files
from raft.store.group_log import GroupLog
from raft.store.reading import Item, RunsReader, read_records
from raft.store.records import HEADER_BYTES, PADDING, encode_header
from raft.store.recovery import ReadSegment
from raft.store.segments import segment_name

# What rides in one batch, so that the saves in it wait a little longer only.  One record may be
# larger.  The second limit is for the owner's thread, which has a step for each record.
COPY_BYTES_MAX = 1 << 20
COPY_RECORDS_MAX = 1_024
# Live bytes of a segment that is worth giving up at once: one part in so many.
CHEAP_PART = 4
GARBAGE_FACTOR = 2
SEGMENTS_MAX = 64
ENOUGH_BYTES = 1 << 62  # more than there ever is


@dataclass(slots=True)
class Extent:
    """A segment that is there.  Places: of its first byte, of its first record of a group.

    ``is_bound``: see :class:`raft.store.recovery.ReadSegment`.
    """

    number: int
    path: str  # another segment's, perhaps, where names were changed by hand
    zero: int
    start: int
    used: int = 0  # once it is sealed
    is_bound: bool = False


class Chunk:
    """Reads live records of one segment back.  Call it on a thread; then ``done`` is set."""

    __slots__ = ("_files", "_items", "_path", "_zero", "bodies", "done", "failure", "headers")

    def __init__(self, files: Files, path: str, zero: int, items: list[Item]) -> None:
        self._files = files
        self._path = path
        self._zero = zero
        self._items = items
        self.headers: list[bytes] = []
        self.bodies: list[bytes] = []
        self.failure: str | None = None
        self.done = False

    @property
    def items(self) -> list[Item]:
        return self._items

    def __call__(self) -> None:
        """Raises OSError, WalDamaged; the tidier hears of both."""
        try:
            descriptor = self._files.open(self._path)
            try:
                for raw, _, body in read_records(
                    self._files,
                    descriptor,
                    self._path,
                    self._zero,
                    self._items,
                    "it cannot be copied forward",
                ):
                    self.headers.append(raw)
                    self.bodies.append(body)
            finally:
                self._files.close(descriptor)
        except (OSError, WalDamaged) as error:
            self.failure = str(error)
            raise
        finally:
            self.done = True


class Removal:
    """Removes segments that are given up.  Call it on a thread; then ``done`` is set."""

    __slots__ = ("_directory", "_files", "_paths", "done", "failure", "removed")

    def __init__(self, files: Files, directory: str, paths: list[str]) -> None:
        self._files = files
        self._directory = directory
        self._paths = paths
        self.removed = 0
        self.failure: str | None = None
        self.done = False

    def __call__(self) -> None:
        """Oldest first, each durably before the next.  Raises OSError; the tidier hears of it."""
        try:
            for path in self._paths:
                self._files.unlink(path)
                self._files.fsync_dir(self._directory)
                self.removed += 1
        except OSError as error:
            self.failure = f"an old segment cannot be removed: {error}"
            raise
        finally:
            self.done = True


class Tidier:
    """See the top of this file.  ``groups``: of the WAL, by id; shared with it."""

    def __init__(
        self, files: Files, directory: str, groups: dict[int, GroupLog], copy_bytes_max: int
    ) -> None:
        self._files = files
        self._directory = directory
        self._groups = groups
        self.copy_bytes_max = copy_bytes_max
        self._extents: deque[Extent] = deque()  # that are needed, oldest first
        self.announces = False  # the oldest changed, and no record says so yet
        self._given_up: list[int] = []  # numbers of which the next batch will say so
        self.leaving: list[int] = []  # numbers that the batch under way gives up
        self._removable: list[int] = []  # numbers that a synced batch has given up
        self._removal: Removal | None = None
        self.chunk: Chunk | None = None
        self._due = False  # the oldest is being given up
        self._source = Extent(0, "", 0, 0)  # what is read for that, up to this place
        self._source_end = 0
        self._todo: list[GroupLog] = []  # groups that it may hold something of
        self._look = True
        self._lacked_bytes = ENOUGH_BYTES  # with so much room, or less, nothing could be copied
        # What is live is counted by batch; until then a record may be dead and not yet counted.
        self.live_bytes = 0
        self._killed_bytes = 0  # since the last look
        self._stopped: str | None = None
        self._copied_records = self._copied_bytes = self._segments_removed = 0

    # ------------------------------------------------------------------ what the writer tells

    def recovered(self, segments: list[ReadSegment], oldest: int, pinned: str | None = None) -> int:
        """Segments as they were read.  Answers the log's end.

        ``pinned``: why nothing may be given up as long as this log is open.

        ``oldest``: what the log says is needed.  What is live below it after all (something else
        was damaged) is kept.
        """
        self._stopped = pinned
        self.live_bytes = sum(log.live_bytes for log in self._groups.values())
        lowest = min((low for log in self._groups.values() for low in _lowest(log)), default=None)
        zero, extents = 0, []
        for it in segments:
            extents.append(Extent(it.number, it.path, zero, zero, it.used, it.is_bound))
            zero += it.used
        end = ENOUGH_BYTES if lowest is None else lowest
        gone = 0
        while gone < len(extents) and _is_given_up(extents[gone], oldest, end):
            gone += 1
        while 0 < gone < len(extents) and extents[gone].is_bound:
            gone -= 1
        self._removable += [extent.number for extent in extents[:gone]]
        self._extents.extend(extents[gone:])
        return zero

    def killed(self, count: int) -> None:
        """So many bytes are live no longer."""
        self.live_bytes -= count
        self._killed_bytes += count

    def opens(self, number: int, start: int, sealed_bytes: int) -> int:
        """A batch opens this segment and seals the one before.  Answers the oldest needed.

        ``start``: place of the first record of a group in it.
        """
        if self._extents:
            self._extents[-1].used = sealed_bytes
        path = os.path.join(self._directory, segment_name(number))
        self._extents.append(Extent(number, path, start, start))
        self._give_up_dead()
        self._leave()
        self._look = True
        return self._extents[0].number

    def opened(self, zero: int) -> None:
        """The place of its first byte, once it is known how long its own record is."""
        self._extents[-1].zero = zero

    def completed(self) -> None:
        """The batch under way is synced."""
        self._removable += self.leaving
        self.leaving = []

    def runs_reader(
        self, log: GroupLog, first: int, last: int, synced_end: int
    ) -> RunsReader | None:
        """Of live runs; None: some are not before that place, that is on the disk.  Raises
        OSError."""
        found = log.runs_between(first, last)
        items = [Item(place, size, records.RUN, at, log) for at, place, size in found]
        if any(item.place >= synced_end for item in items):
            return None
        starts = [extent.start for extent in self._extents]
        reader = RunsReader(self._files)
        try:
            for at, part in itertools.groupby(items, lambda it: bisect_right(starts, it.place) - 1):
                extent = self._extents[at]
                reader.add(extent.path, extent.zero, list(part))
        except OSError:
            reader.close()
            raise
        return reader

    # ------------------------------------------------------------------ what rides in batches

    @property
    def is_ready(self) -> bool:
        """Whether there is something for a batch, even if nobody saves anything."""
        return self.announces or self.is_read

    def gather(
        self, place: int, pieces: list[bytes], crcs: list[bytes], touched: dict[int, int]
    ) -> int:
        """Add copies, at ``place`` of the log, behind what is there.  Answers their bytes."""
        chunk, begin = self.chunk, place
        if chunk is not None and self.is_read:
            self.chunk = None
            for item, header, body in zip(chunk.items, chunk.headers, chunk.bodies, strict=True):
                log = item.log
                if self._groups.get(log.group) is not log:
                    continue  # it lives on under a higher generation
                if not log.move(item.kind, item.first, item.place, place):
                    continue
                crcs.append(header[-4:])
                pieces += (header, body, PADDING[len(body) & 7])
                touched[log.group] = log.gseq  # how far it is, which proves more than the copy
                place += item.size
                self._copied_records += 1
            self._copied_bytes += place - begin
            if not self._todo:
                self._due, self._look = False, True
                self._give_up_dead()
        if self.announces:
            self._leave()
            oldest = self._extents[0].number
            header = encode_header(records.OLDEST, 0, 0, 0, 0, 0, 0, oldest, 0, crc32c(b""))
            crcs.append(header[-4:])
            pieces.append(header)
            place += HEADER_BYTES
        return place - begin

    def _leave(self) -> None:
        """The batch that is being made says which segments are given up, and has in it whatever
        took away the meaning of what is in them.  Not the one under way: that may be older."""
        self.announces = False
        self.leaving += self._given_up
        self._given_up = []

    @property
    def is_read(self) -> bool:
        """There are copies for a batch."""
        chunk = self.chunk
        return chunk is not None and chunk.done and chunk.failure is None

    @property
    def read_bytes(self) -> int:
        """Of these copies, with what the commit frame has of their groups."""
        assert self.chunk is not None
        return sum(item.size + records.COMMIT_GROUP_BYTES for item in self.chunk.items)

    def _give_up_dead(self) -> None:
        extents = self._extents
        if self._stopped is not None:
            return
        while len(extents) > self._oldest_count and self._live_in_oldest() == 0:
            for _ in range(self._oldest_count):
                self._given_up.append(extents.popleft().number)
            self.announces = True
            self._due = False
            self._look = True

    # ------------------------------------------------------------------ work for a thread

    def put_off(self, room_bytes: int) -> None:
        """So much is too little.  Until there is more, or more has died."""
        self.chunk, self._due, self._lacked_bytes = None, False, max(0, room_bytes)

    def work(self, room_bytes: int) -> Callable[[], None] | None:
        """What a background thread may do now.  It may raise OSError, WalDamaged.

        ``room_bytes``: so much may be copied at a time, or so much and one record.
        """
        self._take_note()
        if room_bytes > self._lacked_bytes:
            self._look, self._lacked_bytes = True, ENOUGH_BYTES
        if self._stopped is not None or self._removal is not None or self.chunk is not None:
            return None  # one thing at a time: nothing is read that is being removed
        if self._removable:
            paths = [os.path.join(self._directory, segment_name(it)) for it in self._removable]
            self._removable = []
            self._removal = Removal(self._files, self._directory, paths)
            return self._removal
        if not self._due:
            self._see_what_is_due()
        if not self._due:
            return None
        if room_bytes <= 0:
            self.put_off(room_bytes)
            return None
        items = self._next_items(room_bytes)
        if not items:
            self._due, self._look = False, True
            return None
        self.chunk = Chunk(self._files, self._source.path, self._source.zero, items)
        return self.chunk

    def _take_note(self) -> None:
        """Of what the thread has done."""
        removal, chunk = self._removal, self.chunk
        if removal is not None and removal.done:
            self._removal = None
            self._segments_removed += removal.removed
            self._stopped = self._stopped or removal.failure
        if chunk is not None and chunk.done and chunk.failure is not None:
            self.chunk = None
            self._stopped = chunk.failure

    # ------------------------------------------------------------------ what is due

    def _see_what_is_due(self) -> None:
        extents = self._extents
        if len(extents) < 2:
            return
        # Looking costs a step for each group: once for each segment, or when much has died.
        if not self._look and CHEAP_PART * self._killed_bytes < extents[0].used:
            return
        self._give_up_dead()
        self._look, self._killed_bytes = False, 0
        if len(extents) < 2:
            return
        live = self.live_bytes
        oldest = sum(extents[at].used for at in range(self._oldest_count))
        behind = sum(extent.used for extent in extents) - oldest - extents[-1].used
        self._due = (
            CHEAP_PART * self._live_in_oldest() <= oldest
            or behind > GARBAGE_FACTOR * live
            or len(extents) > SEGMENTS_MAX
        )
        if self._due:
            self._find_source()

    @property
    def _oldest_count(self) -> int:
        """Of segments that go together: the oldest, and those behind it that are bound to it."""
        count = 1
        while count < len(self._extents) and self._extents[count].is_bound:
            count += 1
        return count

    def _find_source(self) -> None:
        """The first of the segments that are due, and have something live."""
        for at in range(self._oldest_count):
            self._source, self._source_end = self._extents[at], self._extents[at + 1].start
            self._todo = [log for log in self._groups.values() if log.bytes_below(self._source_end)]
            if self._todo:
                return

    def _live_in_oldest(self) -> int:
        end = self._extents[self._oldest_count].start
        return sum(log.bytes_below(end) for log in self._groups.values())

    def _next_items(self, room: int) -> list[Item]:
        """Of the segment that is read, in the order in which they stand there."""
        end = self._source_end
        found: list[Item] = []
        while self._todo and room > 0 and len(found) < COPY_RECORDS_MAX:
            log = self._todo[-1]
            for kind, place, size in log.fixed_below(end):
                found.append(Item(place, size, kind, 0, log))
                room -= size
            for at in itertools.chain.from_iterable(log.runs_below(end)):
                if room <= 0 or len(found) >= COPY_RECORDS_MAX:
                    break
                size = log.sizes[at]
                found.append(Item(log.places[at], size, records.RUN, log.firsts[at], log))
                room -= size
            else:
                self._todo.pop()
        found.sort(key=_place_of)
        return found

    # ------------------------------------------------------------------ to be seen

    @property
    def needed_count(self) -> int:
        """Segments, with the current one."""
        return len(self._extents)

    def statistics(self) -> dict[str, Any]:
        """``log_bytes``: in sealed segments; ``segments_kept``: needed, with the current one."""
        return {
            "copied_records": self._copied_records,
            "copied_bytes": self._copied_bytes,
            "segments_removed": self._segments_removed,
            "live_bytes": self.live_bytes,
            "log_bytes": sum(extent.used for extent in self._extents),
            "segments_kept": len(self._extents),
            "segments_to_remove": len(self._given_up) + len(self.leaving) + len(self._removable),
            "tidying_stopped": self._stopped,
        }


def _is_given_up(extent: Extent, oldest: int, lowest: int) -> bool:
    """``oldest``: what the log says is needed; ``lowest``: place of the first live record."""
    return extent.number < oldest and extent.zero + extent.used <= lowest


def _lowest(log: GroupLog) -> list[int]:
    lowest = [place for place, _ in log.fixed.values()]
    if log.places:
        lowest.append(min(log.places))
    return lowest


def _place_of(item: Item) -> int:
    return item.place
