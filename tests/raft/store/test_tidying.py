"""The log stays bounded, and what lives in it stays."""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from google_crc32c import value as crc32c

from raft.messages import HardState, Run, Save
from raft.store import records
from raft.store.errors import WalDamaged
from raft.store.memory import MemoryFiles
from raft.store.reader import SegmentReader
from raft.store.records import Record
from raft.store.recovery import RecoveredGroup, recover
from raft.store.segments import segment_name
from raft.store.tidying import GARBAGE_FACTOR, SEGMENTS_MAX
from tests.raft.store.kit import (
    DIRECTORY,
    INCARNATION,
    N2,
    Slot,
    a_slot,
    check_places,
    keeps,
    resets,
    run_of,
)

SMALL: dict[str, Any] = {
    "segment_bytes_first": 2048,
    "segment_bytes_max": 2048,
    "copy_bytes_max": 600,
}


class Writer:
    """Writes runs to some groups of a slot, one batch at a time, and takes snapshots."""

    def __init__(self, slot: Slot, *groups: int) -> None:
        self.slot = slot
        self.last = dict.fromkeys(groups, 0)
        self.bases = dict.fromkeys(groups, 0)
        self._number = 1
        self.most_segments = 0

    def save(self, group: int, **what: Any) -> None:
        self._number += 1
        self.slot.wal.save(group, Save(self._number, **what))

    def append(self, group: int, count: int = 1, *, size: int = 100) -> None:
        runs = [
            run_of(at, body=b"%d of %d " % (at, group) + b"x" * size)
            for at in range(self.last[group] + 1, self.last[group] + count + 1)
        ]
        self.last[group] += count
        self.save(group, runs=runs)

    def snapshot(self, group: int, *, keep: int = 2) -> None:
        base = self.last[group] - keep
        if base > self.bases[group]:
            self.bases[group] = base
            self.save(group, mark=keeps(base, base))

    def write(self) -> None:
        self.slot.write()
        self.slot.tidy()
        self.most_segments = max(self.most_segments, len(self.slot.segments()))

    def busy(self, group: int, entries: int) -> None:
        """A group that overwrites the same keys again and again."""
        for step in range(entries):
            self.append(group)
            if step % 10 == 9:
                self.snapshot(group)
            self.write()


def summary(groups: dict[int, RecoveredGroup]) -> dict[int, Any]:
    return {
        group: (it.bootstrap, it.last_gseq, it.hard_state, it.runs, it.base_index, it.snapshot)
        for group, it in groups.items()
    }


def check_bound(slot: Slot) -> None:
    """Twice what is live, and one segment; beside them the one that is written to."""
    statistics = slot.wal.statistics()
    extents = slot.wal._tidier._extents
    sealed = [extent.used for extent in extents][:-1]
    assert sum(sealed) <= GARBAGE_FACTOR * statistics["live_bytes"] + max(sealed, default=0)
    check_places(slot)


# --------------------------------------------------------------------------- the bound


def test_a_busy_group_with_snapshots_keeps_four_segments_at_most_and_copies_next_to_nothing() -> (
    None
):
    slot = a_slot(7, **SMALL)
    writer = Writer(slot, 7)
    writer.busy(7, 400)
    statistics = slot.wal.statistics()
    assert statistics["segments_removed"] > 20
    assert writer.most_segments <= 4
    assert statistics["copied_bytes"] < statistics["bytes"] / 10
    check_bound(slot)
    assert [run.first for run in slot.reopen()[7].runs] == [399, 400]


def test_an_idle_group_among_busy_ones_is_carried_along_bit_for_bit() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 3, size=60)
    writer.save(8, hard_state=HardState(2, N2))
    writer.write()
    before = {(r.header.gseq, r.raw, r.body) for r in all_records(slot) if r.header.group == 8}
    found = summary(slot.reopen())[8]
    writer = Writer(slot, 7)
    writer.busy(7, 300)
    assert slot.wal.statistics()["segments_removed"] > 15
    assert slot.wal.statistics()["copied_records"] > 5
    assert writer.most_segments <= 4
    check_bound(slot)
    assert summary(slot.reopen())[8] == found
    after = {(r.header.gseq, r.raw, r.body) for r in all_records(slot) if r.header.group == 8}
    assert after < before, "less one vote that is not the newest"
    assert sorted(gseq for gseq, _, _ in after) == [1, 3, 4, 5, 6]


def test_two_hundred_idle_groups_among_one_busy_do_not_let_the_log_grow() -> None:
    idle = range(100, 300)
    options: dict[str, Any] = {"segment_bytes_first": 1 << 16, "segment_bytes_max": 1 << 16}
    slot = a_slot(7, *idle, **options)
    found = {group: it for group, it in summary(slot.reopen()).items() if group != 7}
    writer = Writer(slot, 7)
    for _ in range(400):
        writer.append(7, 5, size=400)
        writer.snapshot(7, keep=20)
        writer.write()
    statistics = slot.wal.statistics()
    assert statistics["segments_removed"] > 10
    assert writer.most_segments <= 6
    assert statistics["copied_bytes"] < statistics["bytes"]
    check_bound(slot)
    again = summary(slot.reopen())
    assert {group: again[group] for group in idle} == found


def test_a_log_in_which_everything_lives_is_left_alone() -> None:
    slot = a_slot(7, **SMALL)
    writer = Writer(slot, 7)
    for _ in range(100):
        writer.append(7)
        writer.write()
    statistics = slot.wal.statistics()
    assert (statistics["copied_records"], statistics["segments_removed"]) == (0, 0)
    assert statistics["segments_kept"] > 5


def test_live_data_that_is_many_segments_large_is_copied_no_more_often_than_is_written() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    for _ in range(60):
        writer.append(8)  # idle from here on
        writer.write()
    live = slot.wal.statistics()["live_bytes"]
    written = slot.wal.statistics()["bytes"]
    writer.busy(7, 800)
    statistics = slot.wal.statistics()
    assert statistics["copied_bytes"] > live, "once all around"
    ordinary = statistics["bytes"] - written - statistics["copied_bytes"]
    assert statistics["copied_bytes"] < ordinary
    check_bound(slot)
    assert len(slot.reopen()[8].runs) == 60


def test_starts_without_a_write_in_between_do_not_add_up() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7)
    writer.append(7, 8)
    writer.write()
    found = summary(slot.reopen())
    for _ in range(2 * SEGMENTS_MAX):
        assert summary(slot.reopen()) == found
        slot.tidy()
    assert len(slot.segments()) < 20


def test_what_one_batch_carries_is_limited() -> None:
    slot = a_slot(7, 8, **{**SMALL, "segment_bytes_first": 8192, "segment_bytes_max": 8192})
    writer = Writer(slot, 7, 8)
    writer.append(8, 30)
    slot.write()
    while slot.wal.statistics()["segments_kept"] < 5:
        writer.append(7)
        slot.write()
    writer.snapshot(7)
    slot.write()
    most = 0
    for _ in range(100):
        work = slot.wal.tidy()
        if work is not None:
            work()
        before = slot.wal.statistics()["copied_bytes"]
        writer.append(7)
        slot.write()
        most = max(most, slot.wal.statistics()["copied_bytes"] - before)
    assert slot.wal.statistics()["copied_bytes"] > 2_000
    assert 300 < most <= 600 + 200, "the limit, and the rest of one record"


def test_a_log_that_has_become_small_goes_back_to_small_segments() -> None:
    slot = a_slot(7, segment_bytes_first=1024, segment_bytes_max=32768)
    writer = Writer(slot, 7)
    writer.append(7, 300)
    writer.write()
    for _ in range(10):
        writer.append(7, 100)
        writer.write()
    large = slot.wal.statistics()["segment_bytes"]
    assert large == 32768
    for _ in range(1500):
        writer.append(7)
        writer.snapshot(7)
        writer.write()
    assert slot.wal.statistics()["segment_bytes"] <= 8192
    assert sum(len(slot.files.content(f"{DIRECTORY}/{name}")) for name in slot.segments()) < 20_000


def test_where_segments_cannot_go_the_next_ones_are_larger() -> None:
    slot = a_slot(7, 8, segment_bytes_first=1024, segment_bytes_max=32768, copy_bytes_max=600)
    writer = Writer(slot, 7, 8)
    writer.append(8, 1, size=10)
    slot.write()
    while slot.wal.statistics()["segments_kept"] < 3:
        writer.append(7)
        writer.snapshot(7)
        slot.write()
    slot.files.fail("pread", errno.EIO, path=".wal")
    with pytest.raises(OSError, match="Input/output"):
        slot.tidy()
    writer.busy(7, 600)
    assert slot.wal.statistics()["live_bytes"] < 4096
    assert slot.wal.statistics()["segment_bytes"] == 32768
    assert len(slot.segments()) < 12


# --------------------------------------------------------------------------- what proves it


def all_records(slot: Slot) -> list[Record]:
    return [it for batches in batches_of(slot).values() for batch, _ in batches for it in batch]


def batches_of(slot: Slot) -> dict[str, list[tuple[list[Record], Record]]]:
    """Segment -> its batches, each records and commit frame."""
    found: dict[str, list[tuple[list[Record], Record]]] = {}
    for name in slot.segments():
        reader = SegmentReader(name, slot.files.content(f"{DIRECTORY}/{name}"))
        found[name] = []
        while (batch := reader.next_batch()) is not None:
            found[name].append(batch)
    return {name: batches for name, batches in found.items() if batches}


def without(slot: Slot, lost: Callable[[Record], bool]) -> MemoryFiles:
    """The same log, whole in itself, as if these records had never been in it."""
    files = MemoryFiles(recording=False)
    for directory in ("/data", "/data/wal", DIRECTORY):
        files.mkdir(directory)
    chain, used = 0, 0
    for at, (name, batches) in enumerate(batches_of(slot).items()):
        data = b""
        for number, (found, frame) in enumerate(batches):
            kept = [it for it in found if not lost(it)]
            commit = records.decode_commit(frame.body)
            if at == 0 and number == 0:
                chain = commit.previous_crc
            elif number == 0:
                info = records.decode_segment(kept[0].body)
                info.sealed_bytes = used
                kept[0] = sealed(kept[0], records.encode_segment(info))
            commit.previous_crc = chain
            commit.headers_crc = records.crc_of_headers([it.raw for it in kept])
            commit.groups = {}
            for it in kept:
                if it.header.group:
                    gseq = max(it.header.gseq, commit.groups.get(it.header.group, 0))
                    commit.groups[it.header.group] = gseq
            last = sealed(frame, records.encode_commit(commit), entries=len(kept))
            chain = last.header.header_crc
            for it in (*kept, last):
                data += it.raw + it.body + records.PADDING[len(it.body) & 7]
        files.put(f"{DIRECTORY}/{name}", data)
        used = len(data)
    return files


def sealed(record: Record, body: bytes, *, entries: int | None = None) -> Record:
    old = record.header
    raw = records.encode_header(
        old.kind,
        old.run_kind,
        old.generation,
        old.entries if entries is None else entries,
        old.group,
        old.gseq,
        old.term,
        old.first,
        len(body),
        crc32c(body),
    )
    header = records.decode_header(raw, 0)
    assert header is not None
    return record._replace(header=header, raw=raw, body=body)


def a_tidied_log() -> Slot:
    """Groups of every sort, most of their records copied forward, some of them twice."""
    slot = a_slot(7, 8, 9, 10, **SMALL)
    writer = Writer(slot, 7, 8, 9, 10)
    writer.append(8, 4, size=40)
    writer.append(9, 3, size=40)
    writer.save(9, hard_state=HardState(2, N2), truncate_from=3, runs=[run_of(3, term=2)])
    writer.save(9, mark=keeps(2, 1))
    writer.save(10, mark=resets(20))
    writer.last[10] = 20
    writer.append(10)
    slot.wal.mark_damaged(10, "a reason")
    writer.write()
    writer.busy(7, 120)
    assert slot.segments()[0] != segment_name(1)
    while len(slot.segments()) < 3:
        writer.append(7)
        slot.write()
    return slot


def test_of_a_group_that_is_forgotten_everything_dies_at_once_but_one_record() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    while len(slot.segments()) < 4:
        writer.append(8, 4, size=40)
        writer.write()
    writer.save(8, mark=keeps(4, 1))
    slot.wal.forget_group(8, "it was left")
    assert slot.wal._groups[8].live_bytes == slot.wal._groups[8].fixed[records.DAMAGED][1]
    slot.write()
    check_places(slot)
    slot.tidy()
    check_places(slot)
    assert len(slot.segments()) <= 2, "what held nothing but entries of the group is gone"
    for _ in range(2):
        groups = slot.reopen()
        assert (groups[7].damaged, groups[8].damaged) == (None, "it was left")
        check_places(slot)
        slot.tidy()


def test_a_crash_while_a_group_is_forgotten_leaves_all_of_it_or_the_mark() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    while len(slot.segments()) < 4:
        writer.append(8, 4, size=40)
        writer.write()
    slot.wal.forget_group(8, "it was left")
    names = slot.segments()
    if (work := slot.wal.tidy()) is not None:
        work()
    batch = slot.wal.take_batch()
    assert batch is not None
    assert slot.segments() == names, "nothing goes before the mark is durable"
    before = recover(slot.files, DIRECTORY, 0, INCARNATION).groups[8]
    assert before.damaged is None
    assert before.runs[-1].last == writer.last[8]
    batch.run()
    after = recover(slot.files, DIRECTORY, 0, INCARNATION).groups[8]
    assert after.damaged == "it was left"
    slot.wal.complete(batch)
    slot.tidy()
    assert len(slot.segments()) < len(names)
    check_places(slot)


def is_record(which: tuple[int, int], record: Record) -> bool:
    return (record.header.group, record.header.gseq) == which


def hit_or_found(files: MemoryFiles) -> tuple[int | None, Any]:
    """The group that is damaged, or what there is."""
    groups = recover(files, DIRECTORY, 0, INCARNATION).groups
    hit = [it.group for it in groups.values() if it.damaged not in (None, "a reason")]
    assert len(hit) < 2
    return (hit[0], None) if hit else (None, summary(groups))


def test_of_a_tidied_log_every_live_record_that_is_lost_is_missed() -> None:
    """Each record in turn has never been written, in a log that is whole in every other way."""
    slot = a_tidied_log()
    good = summary(recover(slot.files, DIRECTORY, 0, INCARNATION).groups)
    assert summary(recover(without(slot, lambda _: False), DIRECTORY, 0, INCARNATION).groups) == (
        good
    )
    wal = slot.wal
    live = {(kind, log.group, 0) for log in wal._groups.values() for kind in log.fixed}
    live |= {
        (records.RUN, log.group, first) for log in wal._groups.values() for first in log.firsts
    }
    missed = set()
    for lost in {(it.header.group, it.header.gseq) for it in all_records(slot) if it.header.group}:
        files = without(slot, partial(is_record, lost))
        one = next(it for it in all_records(slot) if (it.header.group, it.header.gseq) == lost)
        group = one.header.group
        if group == 10:
            # Condemned before, as the table of each segment says as well.
            assert recover(files, DIRECTORY, 0, INCARNATION).groups[10].damaged == "a reason"
            continue
        hit, found = hit_or_found(files)
        assert hit == group or found == good, one.header
        if hit == group:
            first = one.header.first if one.header.kind == records.RUN else 0
            missed.add((one.header.kind, group, first))
    assert {it for it in live if it[1] != 10} <= missed
    assert {kind for kind, _, _ in live} == records.GROUP_KINDS - {records.TRUNCATE}


def test_a_record_stands_in_for_its_copy() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 3, size=40)
    until_a_chunk_is_read(slot, writer)
    writer.append(7)
    slot.write()  # the copies; what they are copies of is not removed yet
    there = Counter((it.header.group, it.header.gseq) for it in all_records(slot))
    twice = [key for key, count in there.items() if count == 2 and key[0] == 8]
    assert len(twice) > 2
    good = summary(recover(slot.files, DIRECTORY, 0, INCARNATION).groups)
    for key in twice:
        original, copy = [it for it in all_records(slot) if is_record(key, it)]
        assert hit_or_found(without(slot, copy.__eq__)) == (None, good)
        assert hit_or_found(without(slot, original.__eq__)) == (None, good)


def test_a_segment_that_is_gone_and_was_not_given_up_is_missed_by_name() -> None:
    slot = a_tidied_log()
    first, *others = slot.segments()
    for name in (first, others[0]):
        twin = slot.files.fork()
        twin.kill()
        twin.unlink(f"{DIRECTORY}/{name}")
        found = recover(twin, DIRECTORY, 0, INCARNATION)
        assert f"{name} at offset 0: the segment is missing" in " ".join(map(str, found.damage))
        assert [it for it in found.groups.values() if it.damaged not in (None, "a reason")]


def test_a_segment_that_was_given_up_and_is_still_there_changes_nothing() -> None:
    """The process ended between the batch that says so and the removal."""
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 3, size=60)
    slot.write()
    while slot.wal.statistics()["segments_to_remove"] == 0:
        work = slot.wal.tidy()
        if work is not None:
            work()
        writer.append(7)
        writer.snapshot(7)
        slot.write()
    before = slot.segments()
    found = summary(slot.reopen())
    assert slot.segments()[: len(before)] == before
    slot.tidy()
    assert slot.segments()[0] != before[0]
    assert summary(slot.reopen()) == found
    check_places(slot)


def test_a_segment_that_was_lost_and_whose_neighbours_are_given_up_is_no_loss() -> None:
    """Nobody had anything in it that was needed; it cannot be read, so nobody gives it up."""
    slot = a_slot(7, 8, **SMALL)
    for _ in range(3):
        slot.reopen()
    lost = slot.segments()[1]
    slot.files.put(f"{DIRECTORY}/{lost}", b"")
    assert not [it for it in slot.reopen().values() if it.damaged]
    writer = Writer(slot, 7, 8)
    writer.busy(7, 60)
    assert slot.segments()[0] == lost
    assert slot.segments()[1] > segment_name(5)
    found = recover(slot.files, DIRECTORY, 0, INCARNATION)
    assert found.damage == []
    good = summary(found.groups)
    assert len(good[7][3]) > 1
    assert summary(slot.reopen()) == good
    assert f"{lost}.aside" in slot.files.listdir(DIRECTORY)
    check_places(slot)


def test_segments_are_removed_one_by_one_behind_the_sync_of_what_gave_them_up() -> None:
    slot = a_slot(7, 8, **SMALL)
    slot.files.operations.clear()
    writer = Writer(slot, 7, 8)
    writer.append(8, 3)
    writer.busy(7, 100)
    operations = [(name, path) for name, path, *_ in slot.files.operations]
    unlinked = [at for at, (name, _) in enumerate(operations) if name == "unlink"]
    assert len(unlinked) > 3
    assert [operations[at][1] for at in unlinked] == [
        slot.path(number) for number in range(1, len(unlinked) + 1)
    ]
    dirty = False
    for at, (name, _) in enumerate(operations):
        if name == "pwrite":
            dirty = True
        elif name == "fdatasync":
            dirty = False
        elif name == "unlink":
            assert not dirty
            assert operations[at + 1] == ("fsync_dir", DIRECTORY)


def write_until_the_oldest_has_but_runs(slot: Slot, writer: Writer) -> None:
    """Of group 7, which are alive."""
    tidier = slot.wal._tidier
    for step in range(300):
        writer.append(7, size=300)
        if step % 9 == 8:
            writer.snapshot(7, keep=6)
        writer.write()
        end = tidier._extents[1].start if len(tidier._extents) > 2 else 0
        logs = slot.wal._groups.values()
        if end and not any(log.fixed_below(end) for log in logs):
            return
    raise AssertionError("it always has something else")


@pytest.mark.parametrize("is_synced", [False, True])
def test_a_segment_outlives_the_batch_before_the_one_that_gives_it_up(is_synced: bool) -> None:
    """What takes the meaning of its records is only gathered while an older batch is under way."""
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    write_until_the_oldest_has_but_runs(slot, writer)
    oldest = slot.segments()[0]
    wal = slot.wal
    writer.save(8, hard_state=HardState(2, N2))
    before = wal.take_batch()
    assert before is not None
    writer.snapshot(7, keep=0)
    for _ in range(3):
        work = wal.tidy()
        if work is not None:
            work()
    assert wal.statistics()["segments_to_remove"] > 0
    before.run()
    wal.complete(before)
    batch = wal.take_batch()
    assert batch is not None, "with the mark"
    for _ in range(3):
        work = wal.tidy()
        if work is not None:
            work()
    if is_synced:
        batch.run()
        wal.complete(batch)
        slot.tidy()
    assert (slot.segments()[0] == oldest) == (not is_synced)
    found = slot.reopen()
    assert [group.damaged for group in found.values()] == [None, None]
    assert found[7].runs == [] if is_synced else found[7].runs[-1].last == writer.last[7]


# --------------------------------------------------------------------------- what may come between


def until_a_chunk_is_read(slot: Slot, writer: Writer) -> None:
    """Group 7 is busy until copies of group 8 lie ready for the next batch."""
    while True:
        work = slot.wal.tidy()
        if work is not None:
            work()
        chunk = slot.wal._tidier.chunk
        if chunk is not None and any(item.log.group == 8 for item in chunk.items):
            return
        writer.append(7)
        writer.snapshot(7)
        slot.write()


def test_what_dies_between_reading_and_copying_is_not_copied() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 3, size=40)
    until_a_chunk_is_read(slot, writer)
    other = run_of(2, term=2, body=b"another second")
    slot.wal.save(8, Save(900, HardState(2, N2), 2, [other]))
    slot.write()
    writer.busy(7, 60)
    found = slot.reopen()[8]
    assert [run.first for run in found.runs] == [1, 2]
    assert found.runs[1] == other
    lasts = [it.header.term for it in all_records(slot) if it.header.group == 8]
    assert lasts.count(2) == 2


def test_a_group_that_begins_anew_between_reading_and_copying_leaves_nothing_behind() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 3, size=40)
    until_a_chunk_is_read(slot, writer)
    slot.wal.add_group(8, 2, b"moved")
    slot.write()
    writer.busy(7, 60)
    found = slot.reopen()[8]
    assert (found.generation, found.bootstrap, found.runs) == (2, b"moved", [])
    assert {it.header.generation for it in all_records(slot) if it.header.group == 8} == {2}
    check_places(slot)


def test_a_disk_that_cannot_read_an_old_segment_back_keeps_it_and_goes_on() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 1, size=10)
    slot.write()
    while slot.wal.statistics()["segments_kept"] < 3:
        writer.append(7)
        slot.write()
    writer.snapshot(7)
    slot.write()
    slot.files.fail("pread", errno.EIO, path=".wal")
    with pytest.raises(OSError, match="Input/output"):
        slot.tidy()
    writer.busy(7, 30)
    statistics = slot.wal.statistics()
    assert "Input/output" in statistics["tidying_stopped"]
    assert statistics["segments_removed"] == 0
    assert statistics["poisoned"] is None
    assert len(slot.reopen()[8].runs) == 1
    slot.tidy()
    assert slot.wal.statistics()["segments_removed"] > 0


def test_what_has_decayed_is_neither_copied_nor_removed() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    writer.append(8, 3)
    slot.write()
    at = slot.files.content(slot.path(1)).index(b"2 of 8")
    slot.files.flip(slot.path(1), at)
    with pytest.raises(WalDamaged, match="cannot be copied forward") as caught:
        writer.busy(7, 100)
    assert (caught.value.file, caught.value.group) == (slot.path(1), 8)
    writer.busy(7, 30)
    assert slot.segments()[0] == segment_name(1)
    assert "copied forward" in slot.wal.statistics()["tidying_stopped"]
    groups = slot.reopen()
    assert groups[7].damaged is None
    assert "is lost" in (groups[8].damaged or "")
    slot.tidy()
    assert slot.segments()[0] != segment_name(1), "nothing of it lives any more"
    assert "is lost" in (slot.reopen()[8].damaged or "")


def test_a_removal_that_fails_is_left_to_the_next_start() -> None:
    slot = a_slot(7, 8, **SMALL)
    writer = Writer(slot, 7, 8)
    slot.files.fail("unlink", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        writer.busy(7, 100)
    writer.busy(7, 60)
    assert slot.segments()[0] == segment_name(1)
    assert "cannot be removed" in slot.wal.statistics()["tidying_stopped"]
    found = summary(slot.reopen())
    slot.tidy()
    assert slot.segments()[0] != segment_name(1)
    assert summary(slot.reopen()) == found


@pytest.mark.parametrize("seed", range(8))
def test_places_are_right_whatever_is_copied_truncated_and_compacted(seed: int) -> None:
    rng = random.Random(seed)
    slot = a_slot(7, 8, 9, **SMALL)
    writer = Writer(slot, 7, 8, 9)
    runs: dict[int, list[Run]] = {7: [], 8: [], 9: []}
    for _ in range(80):
        group = rng.choice((7, 7, 7, 8, 9))
        log = runs[group]
        covered = writer.bases[group]
        if rng.random() < 0.15 and log and log[-1].first > covered:
            first = rng.choice([it.first for it in log if it.first > covered])
            runs[group] = log = [it for it in log if it.first < first]
            writer.last[group] = first - 1
            writer.save(group, truncate_from=first)
        writer.append(group, rng.randrange(1, 5), size=rng.randrange(150))
        if rng.random() < 0.2:
            writer.snapshot(group, keep=rng.randrange(6))
        slot.write()
        if rng.random() < 0.7:
            slot.tidy()
        if rng.random() < 0.05:
            slot.reopen()
        check_places(slot)
        runs[group] = recover(slot.files, DIRECTORY, 0, INCARNATION).groups[group].runs
        assert [it.last for it in runs[group]][-1:] in ([writer.last[group]], [])
