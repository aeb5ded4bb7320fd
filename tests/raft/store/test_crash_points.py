"""A crash at every single operation on files, in every way; and one more while coming back.

The story below appends, changes segments, truncates, takes snapshots, copies forward, gives
segments up, and starts twice in between.  Wherever it stops, what is then found is what was
acknowledged, or that and the batch under way as a whole; and one crash later it is the same.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from raft.messages import HardState, Save
from raft.store.memory import CHANGES, MemoryFiles, PowerLoss, Random
from raft.store.recovery import RecoveredGroup
from tests.raft.store.kit import N1, N2, Slot, check_places, keeps, resets, run_of

NEVER = 1 << 40
OPTIONS = {"segment_bytes_first": 1024, "segment_bytes_max": 2048, "copy_bytes_max": 400}
Seen = dict[int, tuple[Any, ...]]


class Kept:
    """All that was not synced arrives."""

    def random(self) -> float:
        return 0.0

    def randrange(self, stop: int, /) -> int:
        return 1


class Lost:
    """Nothing of it does."""

    def random(self) -> float:
        return 0.99

    def randrange(self, stop: int, /) -> int:
        return 0


def seen(groups: dict[int, RecoveredGroup]) -> Seen:
    """Of a group that was marked as damaged nothing else matters than that, and its vote."""
    return {
        group: (it.damaged, it.hard_state)
        if it.damaged
        else (it.last_gseq, it.hard_state, it.runs, it.base_index, it.snapshot)
        for group, it in groups.items()
    }


class Point(NamedTuple):
    """The disk just before an operation, and what may be found on it."""

    operation: str
    disk: MemoryFiles
    right: list[Seen]


class Watched(MemoryFiles):
    """Keeps the disk as it was before each change; with the write that is under way."""

    __slots__ = ("on_change",)

    def __init__(self) -> None:
        super().__init__(recording=False)
        self.on_change: Callable[[str, MemoryFiles], None] | None = None

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.on_change is not None:
            _, path = self._inode(descriptor)
            self.on_change("pwrite", self.fork((path, offset, bytes(data))))
        super().pwrite(descriptor, data, offset)

    def _begin(self, operation: str, path: str, *details: str | int) -> None:
        if self.on_change is not None and operation in CHANGES and operation != "pwrite":
            self.on_change(operation, self.fork())
        super()._begin(operation, path, *details)


class Story:
    def __init__(self) -> None:
        self.files = Watched()
        self.files.on_change = self._note
        self.slot = Slot(self.files, **OPTIONS)
        self.points: list[Point] = []
        self.durable: Seen = {}
        self.with_batch: Seen = {}
        self.first: dict[int, int] = {}
        self.numbers: Counter[int] = Counter()

    def _note(self, operation: str, disk: MemoryFiles) -> None:
        self.points.append(Point(operation, disk, [self.durable, self.with_batch]))

    def tell(self) -> None:
        self.slot.open()
        for group in (7, 8, 9):
            self.slot.begin(group)
            self.first[group] = 1
        self._write()
        self._append(8, 3, 40)  # and nothing more of it
        for step in range(14):
            self._append(7, 3, 120)
            if step % 4 == 3:
                self._save(7, mark=keeps(self.first[7] - 2, self.first[7] - 3))
            if step == 6:
                self._save(9, hard_state=HardState(2, N2))
                self._append(9, 2, 30, term=2)
                self._save(9, hard_state=HardState(3, N1), truncate_from=2)
                self.first[9] = 2
            if step == 8:
                self._save(9, mark=resets(9, term=2))
                self.first[9] = 10
                self.slot.wal.mark_damaged(9, "a reason")
            self._write()
            if step in (5, 11):
                self.slot.wal.close()
                self.slot.open()
                self.numbers.clear()
            if step > 2:
                self._tidy()

    def _append(self, group: int, count: int, size: int, *, term: int = 1) -> None:
        first = self.first[group]
        runs = [run_of(at, term=term, body=b"%d" % at * size) for at in range(first, first + count)]
        self.first[group] += count
        self._save(group, runs=runs)

    def _save(self, group: int, **what: Any) -> None:
        self.numbers[group] += 1
        self.slot.wal.save(group, Save(self.numbers[group] + 1, **what))

    def _write(self) -> None:
        batch = self.slot.wal.take_batch()
        if batch is None:
            return
        # What the batch says is asked of a disk on which it arrives.
        noted, self.files.on_change = self.files.on_change, None
        twin = self.files.fork()
        self.files.on_change = noted
        self.with_batch = seen_after(twin, b"".join(batch.pieces), batch.opens, self.slot)
        work = self.slot.wal.tidy()  # while the batch is under way
        if work is not None:
            work()
        batch.run()
        self.slot.wal.complete(batch)
        self.durable = self.with_batch

    def _tidy(self) -> None:
        for _ in range(4):
            for work in (self.slot.wal.tidy(), self.slot.wal.prepare_next_segment()):
                if work is not None:
                    work()
            self._write()
        check_places(self.slot)


def seen_after(twin: MemoryFiles, data: bytes, opens: Any, slot: Slot) -> Seen:
    """What a start finds when this batch is on the disk as a whole."""
    twin.kill()
    number = slot.wal.statistics()["segment"]
    offset = 0 if opens is not None else slot.wal.statistics()["segment_used_bytes"]
    if opens is not None:
        twin.put(slot.path(number), bytes(opens.size))
    descriptor = twin.open(slot.path(number))
    twin.pwrite(descriptor, data, offset)
    twin.kill()
    return seen(Slot(twin, ids_from=1 << 40, **OPTIONS).open())


@pytest.fixture(scope="module")
def story() -> Story:
    story = Story()
    story.tell()
    return story


def test_the_story_has_everything_in_it(story: Story) -> None:
    statistics = story.slot.wal.statistics()
    assert statistics["segments_removed"] > 3
    assert statistics["copied_records"] > 5
    assert statistics["tidying_stopped"] is None
    kinds = Counter(point.operation for point in story.points)
    for kind in ("create", "pwrite", "fdatasync", "fsync", "truncate", "unlink", "fsync_dir"):
        assert kinds[kind] > 3, kinds


FATES: dict[str, Callable[[int], Random | None]] = {
    "the process dies": lambda at: None,
    "power lost, unsynced kept": lambda at: Kept(),
    "power lost, unsynced lost": lambda at: Lost(),
    "power lost, unsynced torn": lambda at: random.Random(at),
}


@pytest.mark.parametrize("fate", FATES)
def test_wherever_it_stops_all_that_was_acknowledged_is_found(
    story: Story, fate: str, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = 0
    for at, point in enumerate(story.points):
        disk = point.disk.fork()
        stop(disk, FATES[fate](at))
        # Once more, at some operation of the start.
        slot = Slot(disk, ids_from=1 << 50, **OPTIONS)
        disk.lose_power_after(at % 13)
        try:
            found = seen(slot.open())
        except PowerLoss:
            twice += 1
            stop(disk, FATES[fate](at + 1))
            found = seen(slot.open())
        disk.lose_power_after(NEVER)
        assert found in point.right, (at, point.operation)
        check_places(slot)
        # And what is built on it is found, too.
        slot.tidy()
        slot.wal.save(8, Save(1, HardState(7, N2))) if 8 in found else slot.begin(8, term=7)
        slot.write()
        slot.tidy()
        again = seen(slot.reopen())
        assert again[8][1].term == 7
        assert {**again, 8: ()} == {**found, 8: ()}
    with capsys.disabled():
        sys.stdout.write(f"\n{fate}: {len(story.points)} points, {twice} of them twice ")


def stop(disk: MemoryFiles, rng: Random | None) -> None:
    if rng is None:
        disk.kill()
    else:
        disk.crash(rng)


def test_a_start_may_be_interrupted_at_each_of_its_operations(story: Story) -> None:
    """Where the most was under way: copies written, nothing removed yet."""
    at = max(i for i, point in enumerate(story.points) if point.operation == "unlink")
    point = story.points[at]
    for count in itertools.count():
        disk = point.disk.fork()
        disk.kill()
        disk.lose_power_after(count)
        slot = Slot(disk, ids_from=1 << 50, **OPTIONS)
        try:
            slot.open()
            slot.tidy()
        except PowerLoss:
            disk.crash(random.Random(count))
            assert seen(slot.open()) in point.right, count
            continue
        break
    assert count > 12
