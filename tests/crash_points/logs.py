"""Stories of the log of one slot: whole, damaged, and on a disk that is full."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any, ClassVar, Final

from actors.runtime import MonotonicClock
from actors.settings import DiskSettings
from actors.space import DiskSpace
from raft.messages import HardState, Save
from raft.store import records
from raft.store.errors import WalPoisoned
from raft.store.recovery import RecoveredGroup
from raft.store.segments import segment_name
from tests.crash_points.disk import LOST
from tests.crash_points.story import Found, Story
from tests.raft.store.damage import (
    Disk,
    History,
    a_disk,
    a_history,
    check,
    flipped,
    without_openings,
)
from tests.raft.store.kit import (
    DIRECTORY,
    N1,
    N2,
    Slot,
    check_places,
    keeps,
    resets,
    run_of,
)

OPTIONS: Final = {"segment_bytes_first": 1024, "segment_bytes_max": 2048, "copy_bytes_max": 400}

Seen = dict[int, tuple[object, ...]]


def seen(groups: Mapping[int, RecoveredGroup]) -> Seen:
    """Of a group that is condemned nothing else matters than that."""
    return {
        group: (it.generation, it.damaged)
        if it.damaged
        else (
            it.generation,
            None,
            it.hard_state,
            it.last_gseq,
            tuple(it.runs),
            (it.base_index, it.base_term),
            it.snapshot,
        )
        for group, it in groups.items()
    }


class SlotStory(Story):
    """``ids``: of segments, drawn anew by each process."""

    ids = 0

    def open(self, **options: Any) -> None:
        SlotStory.ids += 1 << 20
        self.slot = Slot(self.files, ids_from=SlotStory.ids, **options)
        self.slot.open()
        self.found = {"log": seen(self.slot.groups)}
        self.numbers = dict.fromkeys(self.slot.groups, 0)

    def save(self, group: int, **what: Any) -> None:
        self.numbers[group] = self.numbers.get(group, 0) + 1
        self.slot.wal.save(group, Save(self.numbers[group], **what))

    def begin(self, group: int, *, term: int = 1, generation: int = 1) -> None:
        self.slot.wal.add_group(group, generation, b"members of %d" % group)
        self.save(group, hard_state=HardState(term, N1))

    def write(self, beside: Callable[[], None] = lambda: None) -> None:
        """``beside``: while the batch is under way."""
        batch = self.slot.wal.take_batch()
        if batch is None:
            return
        with self.promises.making("log", self._on_disk):
            beside()
            batch.run()
            self.slot.wal.complete(batch)

    def _on_disk(self) -> Seen:
        twin = self.files.fork()
        twin.limit_bytes = None
        twin.kill()
        return seen(Slot(twin, ids_from=1 << 60).open())

    def tidies(self) -> None:
        work = self.slot.wal.tidy()
        if work is not None:
            work()

    def prepares(self) -> None:
        work = self.slot.wal.prepare_next_segment()
        if work is not None:
            work()

    def goes_on_and_is_found(self, group: int) -> None:
        """What is built on what was found is found, too, and nothing of the others is lost."""
        found = seen(self.slot.groups)
        self.slot.tidy()
        check_places(self.slot)
        if group in found:
            self.save(group, hard_state=HardState(7, N2))
        else:
            self.begin(group, term=7)
        self.slot.write()
        self.slot.tidy()
        LOST.befall(self.files, "")
        again = seen(self.slot.open())
        hard_state = again[group][2]
        assert isinstance(hard_state, HardState)
        assert hard_state.term == 7
        assert {**again, group: ()} == {**found, group: ()}


class LogStory(SlotStory):
    """Appends, changes segments, truncates, takes snapshots, copies forward, gives segments up, and
    starts twice in between."""

    title = "a log"
    points_min = 150

    def prepare(self) -> None:
        """Nothing: a blank disk."""

    def start(self) -> None:
        self.open(**OPTIONS)

    def episodes(self) -> list[Callable[[], None]]:
        return [self._all_of_it if self.promises.is_kept else self._goes_on]

    def end(self) -> Found:
        return {}  # what it comes to depends on where it broke off

    def _goes_on(self) -> None:
        check_places(self.slot)
        self.goes_on_and_is_found(8)

    def _all_of_it(self) -> None:
        first = {7: 1, 8: 1, 9: 1}
        for group in first:
            self.begin(group)
        self.write()

        def append(group: int, count: int, size: int, *, term: int = 1) -> None:
            at = first[group]
            first[group] += count
            bodies = [(index, b"%d" % index * size) for index in range(at, at + count)]
            self.save(group, runs=[run_of(index, term=term, body=it) for index, it in bodies])

        append(8, 3, 40)  # and nothing more of it
        for step in range(14):
            append(7, 3, 120)
            if step % 4 == 3:
                self.save(7, mark=keeps(first[7] - 2, first[7] - 3))
            if step == 6:
                self.save(9, hard_state=HardState(2, N2))
                append(9, 2, 30, term=2)
                self.save(9, hard_state=HardState(3, N1), truncate_from=2)
                first[9] = 2
            if step == 8:
                self.save(9, mark=resets(9, term=2))
                first[9] = 10
                self.slot.wal.mark_damaged(9, "a reason")
            self.write(self.tidies)
            if step in (5, 11):
                self.slot.wal.close()
                self.start()
            if step == 9:
                append(7, 1, 50)
                self._sync_fails()
            if step > 2:
                for _ in range(4):
                    self.tidies()
                    self.prepares()
                    self.write(self.tidies)
                check_places(self.slot)
        statistics = self.slot.wal.statistics()
        assert statistics["segments_removed"] > 3
        assert statistics["copied_records"] > 5
        assert statistics["tidying_stopped"] is None

    def _sync_fails(self) -> None:
        """Its pages count as clean, and the next process finds in them what no disk has."""
        self.files.fail("fdatasync", errno.EIO, path=".wal")
        with suppress(WalPoisoned):
            self.write()
        self.starts_again()


# --------------------------------------------------------------------------- damaged


MARK: Final = records.MAGIC + bytes((records.FORMAT, records.DAMAGED))
HISTORY: Final = cache(a_history)


class DamagedStory(SlotStory):
    """A log that has lost something is opened: marks, copies of its last batch, what is set aside;
    and it goes on without who is condemned."""

    points_min = 20

    @staticmethod
    def damage(history: History) -> tuple[Disk, set[int]]:
        """The disk, and who is condemned for it."""
        raise NotImplementedError

    def prepare(self) -> None:
        disk, lost = self.damage(HISTORY())
        for directory in ("/data", "/data/wal", DIRECTORY):
            self.files.mkdir(directory)
            self.files.fsync_dir(directory.rpartition("/")[0] or "/")
        for name, data in disk.items():
            self.files.put(f"{DIRECTORY}/{name}", data)
        groups = Slot(a_disk(disk), ids_from=1 << 60).open()
        assert check(HISTORY(), groups) == lost

    def start(self) -> None:
        self.open()
        twin = self.files.fork()
        LOST.befall(twin, "")
        names = [name for name in twin.listdir(DIRECTORY) if name.endswith(".wal")]
        data = b"".join(twin.content(f"{DIRECTORY}/{name}") for name in names)
        lost = [group for group in self.slot.groups.values() if group.damaged]
        assert data.count(MARK) >= len(lost), "each mark is durable before anything is answered"

    def episodes(self) -> list[Callable[[], None]]:
        return [
            self._another_one_begins,
            self.starts_again,
            self._it_is_tidied,
            self._it_starts_again,
        ]

    def _another_one_begins(self) -> None:
        if 30 not in self.slot.groups:
            self.begin(30)
            self.write()

    def _it_is_tidied(self) -> None:
        for _ in range(40):
            self.tidies()
            self.write()

    def _it_starts_again(self) -> None:
        for fate in (LOST, LOST):
            self.starts_again(fate)
            self._it_is_tidied()


class DamagedRecordStory(DamagedStory):
    title = "a log with a damaged record"

    @staticmethod
    def damage(history: History) -> tuple[Disk, set[int]]:
        runs = [it for it in history.places if (it.kind, it.group) == (records.RUN, 8)]
        return flipped(history.disk, runs[1].name, runs[1].offset + 80, 3), {8}


class DamagedEndStory(DamagedStory):
    title = "a log whose newest segment is damaged"

    @staticmethod
    def damage(history: History) -> tuple[Disk, set[int]]:
        return without_openings(history, list(history.disk)[-1]), history.groups


class CopiedSegmentStory(DamagedStory):
    title = "a log with a copy of a segment"

    @staticmethod
    def damage(history: History) -> tuple[Disk, set[int]]:
        names = list(history.disk)
        copy = segment_name(len(names) + 1)
        return {**history.disk, copy: history.disk[names[1]]}, history.groups


# --------------------------------------------------------------------------- a full disk


class _Space(DiskSpace):
    """Nobody waits for room that nobody makes."""

    def _wait_for_room(self, deadline_ms: int, error: Exception) -> None:
        raise error


class FullDiskStory(SlotStory):
    """The reserve is made, and given up when a segment finds no room; one that cannot be made, or
    is too small when it is needed, goes again."""

    title = "a log on a full disk"
    points_min = 60
    limit_bytes: ClassVar[int | None] = 1 << 19
    segment_bytes = 8192
    filler = "/data/others"

    def prepare(self) -> None:
        self.files.mkdir("/data")
        self.files.fsync_dir("/")

    def start(self) -> None:
        settings = DiskSettings(disk_soft_limit_bytes=1 << 14, disk_reserve_bytes=1 << 17)
        self.space = _Space(self.files, DIRECTORY, settings, MonotonicClock(), self.segment_bytes)
        SlotStory.ids += 1 << 20
        self.slot = Slot(self.files, ids_from=SlotStory.ids, **self._options())
        self.space.open(self.slot.open)
        self.found = {"log": seen(self.slot.groups)}
        self.numbers = dict.fromkeys(self.slot.groups, 0)

    def _options(self) -> dict[str, int]:
        return {
            "segment_bytes_first": self.segment_bytes,
            "segment_bytes_max": self.segment_bytes,
        }

    def episodes(self) -> list[Callable[[], None]]:
        return [
            self._there_is_room,
            self._there_is_none,
            self._one_is_too_small,
        ]

    def _append_to(self, last: int, size: int) -> None:
        """One run at a time, each in a batch of its own."""
        while (first := self.slot.wal._groups[7].last_index + 1) <= last:
            self.save(7, runs=[run_of(first, body=b"x" * size)])
            self.write()

    def _there_is_room(self) -> None:
        self._make_room()
        if 7 not in self.slot.wal._groups:
            self.begin(7)
            self.write()
        self._append_to(3, 700)

    def _make_room(self) -> None:
        """Of which the reserve has its part."""
        self.files.put(self.filler, b"")
        self.space.look()

    def _fill(self) -> None:
        assert self.files.limit_bytes is not None
        held = len(self.files.content(self.filler))
        left = max(0, self.files.limit_bytes - self.files.used_bytes)
        self.files.put(self.filler, b"x" * (held + left))

    def _there_is_none(self) -> None:
        self._make_room()
        self._fill()
        self._append_to(4, 700)
        self._prepare_without_room()
        for last in range(5, 20):
            work = self.slot.wal.prepare_next_segment()
            if work is not None:
                self._fill()
                self.space.prepared(work)()
            self._append_to(last, 700)
        self._fill()
        self.starts_again(LOST)
        self._append_to(20, 700)

    def _prepare_without_room(self) -> None:
        """As when somebody is quicker to take the room that was made."""
        work = self.slot.wal.prepare_next_segment()
        if work is None:
            return
        try:
            work()
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017 - not always
        self.slot.wal._job = None  # the batch that needs it would try itself, and poison the log

    def _one_is_too_small(self) -> None:
        self._make_room()
        self._append_to(23, 700)
        work = self.slot.wal.prepare_next_segment()
        if work is not None:
            work()
        self._append_to(24, 3 * self.segment_bytes)
