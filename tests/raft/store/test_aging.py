"""Damage grows old: it is judged anew at each start, while what acquitted somebody is given up.

A log of several segments, one damage anywhere; it is opened and written to until all of its
segments are gone, one by one.  Whoever was whole when it was opened stays so, with all that he had;
whoever was condemned stays condemned.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeVar

import pytest

from raft.messages import HardState, Save
from raft.store import records
from raft.store.recovery import RecoveredGroup
from raft.store.tidying import Removal
from tests.raft.store.damage import (
    Disk,
    History,
    Writer,
    a_disk,
    check,
    condemned,
    flipped,
    history_of,
    image,
    read,
    truth_of,
    without_openings,
    zeroed,
)
from tests.raft.store.kit import N1, Slot, check_places, keeps, run_of

T = TypeVar("T")
SECTOR = 512
# Large enough for a first record and its copy to share no sector.
SIZES: dict[str, Any] = {
    "segment_bytes_first": 1 << 14,
    "segment_bytes_max": 1 << 14,
    "copy_bytes_max": 1 << 11,
}
NEWCOMER = 99
MARKED = 10
STEPS_MAX = 500


@cache
def a_log(seed: int) -> History:
    """Busy groups 7 and 8, a quiet one 9, a marked one 10, one that began anew 11, one whose log is
    truncated again and again 12, one that keeps all of its log 13; with copies, if the seed is
    odd."""
    rng = random.Random(seed)
    writer = Writer(7, 8, 9, MARKED, 11, 12, 13, **SIZES)
    slot = writer.slot
    writer.run(9, b"quiet")
    slot.wal.mark_damaged(MARKED, "a reason")
    slot.wal.forget_group(11, "it was left")
    writer.write()
    slot.wal.add_group(11, 2, b"again")
    writer.last[11] = 0
    writer.vote(11, 3)
    writer.run(11, b"eleven", term=3)
    step = 0
    while step < 30 or len(slot.segments()) < 4:
        step += 1
        for group in (7, 8):
            writer.run(group, b"%d of %d " % (step, group) * rng.randrange(1, 120))
        for group, every in ((8, 5), (7, 7)):
            if step % every == 4:
                writer.mark(group, keeps(writer.last[group] - 1, writer.last[group] - 2))
        if step % 3 == 0:
            writer.run(12, b"twelve" * rng.randrange(1, 50))
            save = Save(0, None, writer.last[12], [run_of(writer.last[12], body=b"another")])
            writer.save(12, save)
        writer.write()
        if step % 3 == 1:
            writer.run(13, b"thirteen")
            writer.write()
        if seed % 2 and step < 60:
            slot.tidy()
        if step % 17 == 16:
            writer.reopen()
    while (work := slot.wal.tidy()) is not None and not isinstance(work, Removal):
        work()
        writer.write()  # copies of what stands in the oldest, which is there all the same
    writer.run(7, b"the last batch, which may be taken for one that never was")
    writer.write()
    return history_of(slot)


class Aging:
    """One log with a damage, from when it is opened on."""

    def __init__(self, history: History, disk: Disk) -> None:
        self.slot = slot = Slot(a_disk(disk), ids_from=5000, **SIZES)
        slot.open()
        self.condemned = check(history, slot.groups)
        self.truth = dict(history.truth)
        self.last = {group: truth.base[0] for group, truth in self.truth.items()}
        self.last |= {group: it.runs[-1].last for group, it in self.truth.items() if it.runs}
        self.number = 0
        self.newcomer_last = 0
        self.old = set(slot.segments()[:-1])
        slot.wal.add_group(NEWCOMER, 1, b"nobody knew of it")
        self._save(NEWCOMER, Save(0, HardState(1, N1)))
        slot.write()

    def _save(self, group: int, save: Save) -> None:
        self.number += 1
        save.number = self.number
        self.slot.wal.save(group, save)

    def until_it_is_gone(self, rng: random.Random) -> None:
        """The old segments are given up one by one; a process dies behind each."""
        for _ in range(STEPS_MAX):
            names = self.slot.segments()
            if not self.old & set(names):
                return
            self._write(rng)
            before = image(self.slot)
            self._tidy()
            now = image(self.slot)
            gone = [name for name in names if name not in now]
            for at in range(len(gone)):
                # It died between two of them.
                self.check(read({**{name: before[name] for name in gone[at:]}, **now}).groups)
            if gone:
                self.check(read(now).groups)
                self.check(self.slot.reopen())
                check_places(self.slot)
        raise AssertionError(f"{self.slot.segments()} stay: {self.slot.wal.statistics()}")

    def _write(self, rng: random.Random) -> None:
        self.newcomer_last += 1
        last = self.newcomer_last
        self._save(NEWCOMER, Save(0, None, None, [run_of(last, body=bytes(rng.randrange(2000)))]))
        if last % 4 == 0:
            save = Save(0)
            save.mark = keeps(last, last)
            self._save(NEWCOMER, save)
        for group in sorted(self.truth.keys() - self.condemned - {9, 13}):
            if rng.random() < 0.1:
                self.last[group] += 1
                truth = self.truth[group]
                run = run_of(self.last[group], term=truth.hard_state.term, body=b"more")
                self.truth[group] = truth._replace(runs=(*truth.runs, run))
                self._save(group, Save(0, None, None, [run]))
        self.slot.write()

    def _tidy(self) -> None:
        work = self.slot.wal.tidy()
        if work is not None:
            work()
            batch = self.slot.wal.take_batch()
            if batch is not None:
                batch.run()
                self.slot.wal.complete(batch)

    def check(self, groups: dict[int, RecoveredGroup]) -> None:
        assert condemned(groups) | (self.truth.keys() - groups.keys()) == self.condemned, {
            group: it.damaged for group, it in groups.items() if it.damaged
        }
        for group in self.truth.keys() - self.condemned:
            assert truth_of(groups[group]) == self.truth[group], f"group {group} lost something"
        runs = groups[NEWCOMER].runs
        assert not runs or runs[-1].last == self.newcomer_last


# --------------------------------------------------------------------------- damages


def _some(count: int, population: Sequence[T], rng: random.Random) -> list[T]:
    return rng.sample(population, min(count, len(population)))


def _bits_of_headers(history: History, rng: random.Random) -> Iterator[Disk]:
    for kind in (records.SEGMENT, records.COMMIT, records.RUN, records.HARD_STATE):
        for place in _some(6, [it for it in history.places if it.kind == kind], rng):
            yield flipped(history.disk, place.name, rng.randrange(place.offset, place.body), 3)


def _bits_of_bodies(history: History, rng: random.Random) -> Iterator[Disk]:
    bodies = [it for it in history.places if it.body < it.body_end]
    for kind in (records.SEGMENT, records.COMMIT, records.RUN, records.SNAPSHOT):
        for place in _some(4, [it for it in bodies if it.kind == kind], rng):
            yield flipped(history.disk, place.name, rng.randrange(place.body, place.body_end), 5)


def _bits_of_copies(history: History, rng: random.Random) -> Iterator[Disk]:
    """Records that stand more than once."""
    seen: dict[bytes, int] = {}
    for place in history.places:
        raw = history.disk[place.name][place.offset : place.body]
        seen[raw] = seen.get(raw, 0) + 1
    for place in history.places:
        raw = history.disk[place.name][place.offset : place.body]
        if seen[raw] > 1 and place.group and rng.random() < 0.3:
            yield flipped(history.disk, place.name, place.offset + 17, 0)


def _bits_of_paddings(history: History, rng: random.Random) -> Iterator[Disk]:
    padded = [it for it in history.places if it.body_end < it.end]
    for place in _some(8, padded, rng):
        yield flipped(history.disk, place.name, place.end - 1, 0)


def _sectors(history: History, rng: random.Random) -> Iterator[Disk]:
    for name, data in history.disk.items():
        for start in [0, *_some(5, range(0, len(data), SECTOR), rng)]:
            yield zeroed(history.disk, name, start, start + SECTOR)


def _openings(history: History, rng: random.Random) -> Iterator[Disk]:
    """Both records that open a segment, of one, or of two that follow on each other."""
    names = list(history.disk)
    for name, after in itertools.pairwise(names):
        disk = without_openings(history, name)
        yield disk
        yield {**disk, after: without_openings(history, after)[after]}


def _files(history: History, rng: random.Random) -> Iterator[Disk]:
    for name, data in list(history.disk.items())[:-1]:
        for content in (b"", bytes(len(data)), rng.randbytes(len(data))):
            yield {**history.disk, name: content}
        yield {each: content for each, content in history.disk.items() if each != name}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "damages",
    [
        _bits_of_headers,
        _bits_of_bodies,
        _bits_of_copies,
        _bits_of_paddings,
        _sectors,
        _openings,
        _files,
    ],
)
def test_who_was_whole_stays_so_and_who_was_condemned_too_until_the_damage_is_gone(
    damages: Callable[[History, random.Random], Iterator[Disk]], seed: int
) -> None:
    history = a_log(seed)
    last = history.places[-1]
    tail = history.start_of(last.batch) // SECTOR * SECTOR
    survivors: set[int] = set()
    for at, disk in enumerate(damages(history, random.Random(seed))):
        if disk[last.name][tail:] != history.disk[last.name][tail:]:
            continue  # a loss in the very last batch looks like a write that never was
        aging = Aging(history, disk)
        aging.until_it_is_gone(random.Random(at))
        survivors |= aging.truth.keys() - aging.condemned
    assert survivors == {7, 8, 9, 11, 12, 13}, "most of the time"


def test_what_can_only_be_read_behind_another_is_never_there_alone() -> None:
    """A segment that was given up stands in for a copy that is lost; not if nothing says any more
    what it is."""
    history = a_log(2)
    names = list(history.disk)
    bound = names[1]
    aging = Aging(history, without_openings(history, bound))
    slot = aging.slot
    while bound not in str(getattr(work := slot.wal.tidy(), "_paths", "")):
        if work is not None:
            work()
        aging._write(random.Random(0))
    given_up = image(slot)
    aging.check(read(given_up).groups)
    originals = {
        history.disk[bound][it.offset : it.body] for it in history.places if it.name == bound
    }
    lost = [
        it
        for it in History(given_up, {}).places
        if (it.group, it.kind) == (13, records.RUN)
        and it.name not in names
        and given_up[it.name][it.offset : it.body] in originals
    ]
    assert lost
    disk = flipped(given_up, lost[0].name, lost[0].body, 0)
    again = Slot(a_disk(disk), ids_from=7000, **SIZES)
    aging.check(again.open())
    while (work := again.wal.tidy()) is not None:
        work()
        batch = again.wal.take_batch()
        if batch is not None:
            batch.run()
            again.wal.complete(batch)
        aging.check(read(image(again)).groups)
    assert bound not in again.segments()
