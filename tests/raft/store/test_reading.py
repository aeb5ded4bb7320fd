"""Runs that are read back from the log: wherever they stand, and not what is not there."""

from __future__ import annotations

import errno
import random

import pytest

from raft.messages import HardState, Run, Save
from raft.store.errors import WalDamaged, WalPoisoned
from tests.raft.store.kit import Slot, a_slot, keeps, run_of

SMALL = {"segment_bytes_first": 2048, "segment_bytes_max": 2048, "copy_bytes_max": 600}


def bodies(first: int, last: int) -> list[Run]:
    return [run_of(at, body=b"%d " % at + b"x" * 90) for at in range(first, last + 1)]


def filled(last: int, *, batch: int = 3) -> Slot:
    """Runs of group 7 in many small segments, each batch with something of group 8 between."""
    slot = a_slot(7, 8, **SMALL)
    for number, first in enumerate(range(1, last + 1, batch), 2):
        slot.wal.save(7, Save(number, runs=bodies(first, min(last, first + batch - 1))))
        slot.wal.save(8, Save(number, hard_state=HardState(number)))
        slot.write()
    return slot


def read(slot: Slot, first: int, last: int, group: int = 7) -> list[Run] | None:
    reader = slot.wal.runs_reader(group, first, last)
    return None if reader is None else reader()


def test_runs_are_read_back_from_all_the_segments_that_they_stand_in() -> None:
    slot = filled(60)
    assert len(slot.segments()) > 4
    before = slot.files.open_count
    for first, last in ((1, 60), (1, 1), (60, 60), (13, 37)):
        assert read(slot, first, last) == bodies(first, last)
    assert slot.files.open_count == before, "what was opened is closed"
    slot.reopen()
    assert read(slot, 1, 60) == bodies(1, 60)


def test_runs_that_were_copied_to_the_end_are_found_there() -> None:
    slot = filled(6)
    for number in range(100, 400):
        slot.wal.save(8, Save(number, hard_state=HardState(number)))
        slot.write()
        slot.tidy()
    assert slot.wal.statistics()["copied_records"] > 12
    assert read(slot, 1, 6) == bodies(1, 6)


def test_copies_are_read_when_their_batch_is_on_the_disk_and_not_before() -> None:
    slot = filled(6)
    waited = 0
    for number in range(100, 400):
        slot.wal.save(8, Save(number, hard_state=HardState(number)))
        work = slot.wal.tidy()
        if work is not None:
            work()
        batch = slot.wal.take_batch()
        assert batch is not None
        found = read(slot, 1, 6)
        waited += found is None
        assert found in (None, bodies(1, 6))
        batch.run()
        slot.wal.complete(batch)
        assert read(slot, 1, 6) == bodies(1, 6)
    assert waited > 2


def test_a_segment_that_is_given_up_while_it_is_read_is_read_to_the_end() -> None:
    slot = filled(6)
    reader = slot.wal.runs_reader(7, 1, 6)
    assert reader is not None
    oldest = slot.segments()[0]
    for number in range(100, 400):
        slot.wal.save(8, Save(number, hard_state=HardState(number)))
        slot.write()
        slot.tidy()
    assert oldest not in slot.segments()
    assert reader() == bodies(1, 6)


def test_segments_that_have_traded_their_names_are_read_for_what_they_are() -> None:
    slot = filled(60)
    one, other = (slot.path(number) for number in (2, 3))
    first, second = slot.files.content(one), slot.files.content(other)
    slot.files.kill()
    slot.files.put(one, second)
    slot.files.put(other, first)
    assert slot.open()[7].damaged is None
    assert read(slot, 1, 60) == bodies(1, 60)


def test_of_what_a_mark_stands_for_nothing_is_read() -> None:
    slot = filled(30)
    slot.wal.save(7, Save(100, mark=keeps(20, 12)))
    assert read(slot, 10, 20) == []
    assert read(slot, 13, 20) == bodies(13, 20)


def test_what_is_gathered_and_not_on_the_disk_is_not_read() -> None:
    slot = filled(3)
    slot.wal.save(7, Save(100, runs=bodies(4, 4)))
    assert read(slot, 1, 3) == bodies(1, 3)
    assert read(slot, 1, 4) is None
    slot.write()
    assert read(slot, 1, 4) == bodies(1, 4)


@pytest.mark.parametrize("where", ["header", "body"])
def test_a_run_that_has_decayed_is_damage_of_the_log(where: str) -> None:
    slot = filled(30)
    log = slot.wal._groups[7]
    extent = max(
        (it for it in slot.wal._tidier._extents if it.start <= log.places[10]),
        key=lambda it: it.start,
    )
    offset = log.places[10] - extent.zero + (20 if where == "header" else 70)
    slot.files.flip(slot.path(extent.number), offset)
    assert read(slot, 1, 10) == bodies(1, 10)
    with pytest.raises(WalDamaged, match=r"\.wal is damaged at offset \d+ \(group 7\)"):
        read(slot, 1, 30)


def test_a_disk_that_does_not_read_says_so() -> None:
    slot = filled(30)
    slot.files.fail("pread", errno.EIO)
    reader = slot.wal.runs_reader(7, 1, 30)
    assert reader is not None
    before = slot.files.open_count
    with pytest.raises(OSError, match="pread"):
        reader()
    assert slot.files.open_count < before, "what was opened is closed"


def test_a_log_that_is_poisoned_reads_nothing() -> None:
    slot = filled(3)
    slot.wal.save(7, Save(100, runs=bodies(4, 4)))
    slot.files.fail("fdatasync", errno.EIO)
    with pytest.raises(WalPoisoned):
        slot.write()
    with pytest.raises(WalPoisoned):
        slot.wal.runs_reader(7, 1, 3)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_live_is_read_back_as_it_was_saved(seed: int) -> None:
    rng = random.Random(seed)
    slot = a_slot(7, 8, 9, **SMALL)
    saved: dict[int, list[Run]] = {7: [], 8: [], 9: []}
    bases = dict.fromkeys(saved, 0)
    for number in range(2, 300):
        for group in rng.sample([7, 8, 9], rng.randrange(1, 3)):
            runs, save = saved[group], Save(number)
            choice = rng.random()
            last = runs[-1].last if runs else 0
            if choice < 0.1 and last > bases[group] + 1:
                cut = rng.randrange(bases[group] + 1, last) + 1
                save.truncate_from = cut
                del runs[cut - 1 :]
                last = cut - 1
            elif choice < 0.2 and last > bases[group]:
                bases[group] = rng.randrange(bases[group], last) + 1
                save.mark = keeps(bases[group], bases[group])
            more = [
                run_of(at, body=b"%d " % number + b"x" * rng.randrange(200))
                for at in range(last + 1, last + 1 + rng.randrange(4))
            ]
            save.runs = more if save.mark is None else []
            runs += save.runs
            slot.wal.save(group, save)
        work = slot.wal.tidy()
        if work is not None:
            work()
        batch = slot.wal.take_batch()
        if batch is not None:
            batch.run()
            slot.wal.complete(batch)
        for group, runs in saved.items():
            if len(runs) > bases[group]:
                first = rng.randrange(bases[group], len(runs))
                last = rng.randrange(first, len(runs))
                assert read(slot, first + 1, last + 1, group) == runs[first : last + 1]
    assert slot.wal.statistics()["copied_records"] > 20
