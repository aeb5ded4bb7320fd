"""Writing: what is gathered, when it is written, and what may be said of it."""

from __future__ import annotations

import errno
import threading

import pytest

from raft.messages import HardState, Run, Save
from raft.store import records
from raft.store.errors import StoreError, WalPoisoned
from raft.store.files import Files
from raft.store.wal import Wal
from tests.raft.store.kit import DIRECTORY, N1, N2, Slot, a_slot, run_of, state


def test_a_blank_slot_opens_with_nothing_in_it() -> None:
    slot = Slot()
    assert slot.open() == {}
    assert slot.segments() == ["0000000000000001.wal"]
    assert slot.wal.take_batch() is None


def test_what_was_completed_is_found_again() -> None:
    slot = a_slot(7)
    runs = [run_of(1), run_of(2, count=5, body=b"five entries")]
    slot.wal.save(7, Save(2, HardState(1, N1), None, runs))
    assert slot.write() == [(7, 2, 1, 6)]
    found = slot.reopen()[7]
    assert (found.group, found.generation, found.bootstrap) == (7, 1, b"members of 7")
    assert state(found) == (HardState(1, N1), runs)
    assert found.last_gseq == 5
    assert found.damaged is None


def test_one_batch_holds_the_saves_of_many_groups() -> None:
    slot = a_slot(*range(1, 101))
    for group in range(1, 101):
        slot.wal.save(group, Save(2, None, None, [run_of(1, body=b"%d" % group)]))
    assert sorted(slot.write()) == [(group, 2, 1, 1) for group in range(1, 101)]
    assert slot.wal.statistics()["batches"] == 3
    groups = slot.reopen()
    assert [groups[group].runs[0].body for group in (1, 50, 100)] == [b"1", b"50", b"100"]


def test_the_newest_save_of_a_group_answers_for_those_before_it() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, count=3)]))
    slot.wal.save(7, Save(3, HardState(2, None)))
    assert slot.write() == [(7, 3, 1, 3)]


def test_a_save_without_entries_answers_with_index_zero() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, HardState(2, N2)))
    assert slot.write() == [(7, 2, 0, 0)]


def test_a_save_of_nothing_is_answered_too() -> None:
    slot = a_slot(7, 8)
    slot.wal.save(7, Save(2))
    assert slot.write() == [(7, 2, 0, 0)]
    slot.wal.save(7, Save(3))
    slot.wal.save(8, Save(2, HardState(2)))
    assert slot.write() == [(7, 3, 0, 0), (8, 2, 0, 0)]
    assert slot.reopen()[8].hard_state == HardState(2)


def test_entries_that_were_truncated_in_the_same_batch_are_not_reported() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1), run_of(2)]))
    slot.wal.save(7, Save(3, HardState(2), 2, []))
    assert slot.write() == [(7, 3, 0, 0)]
    slot.wal.save(7, Save(4, None, None, [run_of(2, term=2)]))
    assert slot.write() == [(7, 4, 2, 2)]
    assert [(run.term, run.first) for run in slot.reopen()[7].runs] == [(1, 1), (2, 2)]


def test_a_new_group_is_durable_without_a_save_and_answers_nothing() -> None:
    slot = a_slot()
    slot.wal.add_group(7, 3, b"")
    assert slot.write() == []
    found = slot.reopen()[7]
    assert (found.generation, found.bootstrap, found.runs) == (3, b"", [])


def test_a_higher_generation_replaces_the_group() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1)]))
    slot.write()
    slot.wal.add_group(7, 2, b"moved")
    slot.wal.save(7, Save(1, HardState(4, N2)))
    slot.write()
    found = slot.reopen()[7]
    assert (found.generation, found.bootstrap, found.last_gseq) == (2, b"moved", 2)
    assert state(found) == (HardState(4, N2), [])


def test_a_damaged_mark_stays() -> None:
    slot = a_slot(7, 8)
    slot.wal.mark_damaged(7, "log hole at 12")
    slot.write()
    slot.reopen()
    groups = slot.reopen()
    assert groups[7].damaged == "log hole at 12"
    assert groups[8].damaged is None


# --------------------------------------------------------------------------- one unsynced batch


def test_no_second_batch_while_one_is_under_way() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1)]))
    first = slot.wal.take_batch()
    assert first is not None
    slot.wal.save(7, Save(3, None, None, [run_of(2)]))
    assert slot.wal.take_batch() is None
    first.run()
    assert slot.wal.take_batch() is None  # run, but not yet complete
    assert slot.wal.complete(first) == [(7, 2, 1, 1)]
    assert slot.write() == [(7, 3, 1, 2)]


def test_a_batch_is_synced_before_the_next_is_written_also_across_segments() -> None:
    slot = a_slot(7)
    slot.files.operations.clear()
    for number in range(2, 40):
        run = run_of(number - 1, body=bytes(500))
        slot.wal.save(7, Save(number, None, None, [run]))
        slot.write()
    dirty: set[str] = set()
    written = set()
    for operation, path, *_ in slot.files.operations:
        assert isinstance(path, str)
        if operation == "pwrite":
            assert not dirty, "a write while another was not synced"
            dirty.add(path)
            written.add(path)
        elif operation == "fdatasync":
            dirty.discard(path)
    assert len(written) > 2  # or no segment ever changed
    assert not dirty


def test_one_batch_is_one_write_and_one_sync() -> None:
    slot = a_slot(7, 8)
    for number in range(2, 6):
        for group in (7, 8):
            slot.wal.save(group, Save(number, None, None, [run_of(number - 1)]))
    slot.files.operations.clear()
    slot.write()
    assert [operation[0] for operation in slot.files.operations] == ["pwrite", "fdatasync"]


def test_a_batch_runs_once_and_only_what_ran_is_complete() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1)]))
    batch = slot.wal.take_batch()
    assert batch is not None
    with pytest.raises(AssertionError):
        slot.wal.complete(batch)
    batch.run()
    with pytest.raises(AssertionError):
        batch.run()
    slot.wal.complete(batch)
    with pytest.raises(AssertionError):
        slot.wal.complete(batch)


def test_gathered_bytes_count_what_is_in_no_batch() -> None:
    slot = a_slot(7)
    assert slot.wal.gathered_bytes == 0
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=b"123456789")]))
    assert slot.wal.gathered_bytes == 64 + 16
    batch = slot.wal.take_batch()
    assert batch is not None
    assert slot.wal.gathered_bytes == 0


# --------------------------------------------------------------------------- segments


def test_segments_double_up_to_the_largest() -> None:
    slot = a_slot(7, segment_bytes_first=4096, segment_bytes_max=16384)
    sizes = {}
    for number in range(2, 120):
        slot.wal.save(7, Save(number, None, None, [run_of(number - 1, body=bytes(400))]))
        slot.write()
        statistics = slot.wal.statistics()
        sizes[statistics["segment"]] = statistics["segment_bytes"]
    assert list(sizes.values())[:4] == [4096, 8192, 16384, 16384]
    assert len(slot.reopen()[7].runs) == 118
    assert slot.wal.statistics()["segment_bytes"] == 4096  # the progression starts again


def test_what_a_full_segment_did_not_use_is_given_back() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(3900))]))
    slot.write()
    assert len(slot.files.content(slot.path(1))) < 1000
    assert slot.wal.statistics()["segment"] == 2


def test_a_batch_larger_than_any_segment_gets_one_made_to_fit() -> None:
    slot = a_slot(7)
    large = run_of(1, body=bytes(range(256)) * 400)
    slot.wal.save(7, Save(2, None, None, [large]))
    assert slot.write() == [(7, 2, 1, 1)]
    assert slot.wal.statistics()["segment_bytes"] > len(large.body)
    slot.wal.save(7, Save(3, None, None, [run_of(2)]))
    slot.write()
    assert slot.reopen()[7].runs == [large, run_of(2)]


def test_a_segment_made_ahead_is_used_and_costs_the_batch_no_creation() -> None:
    slot = a_slot(7)
    assert slot.wal.prepare_next_segment() is None  # half of the first is not used yet
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(2500))]))
    slot.write()
    work = slot.wal.prepare_next_segment()
    assert work is not None
    assert slot.wal.prepare_next_segment() is None
    work()
    slot.files.operations.clear()
    slot.wal.save(7, Save(3, None, None, [run_of(2, body=bytes(2500))]))
    slot.write()
    assert [operation[0] for operation in slot.files.operations] == [
        "pwrite",
        "fdatasync",
        "truncate",
    ]
    assert slot.wal.statistics()["segments_inline"] == 1
    assert len(slot.reopen()[7].runs) == 2


def test_a_segment_made_ahead_that_is_too_small_is_replaced() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(2500))]))
    slot.write()
    work = slot.wal.prepare_next_segment()
    assert work is not None
    work()
    slot.wal.save(7, Save(3, None, None, [run_of(2, body=bytes(50_000))]))
    slot.write()
    assert slot.segments() == ["0000000000000001.wal", "0000000000000002.wal"]
    assert len(slot.reopen()[7].runs) == 2


def test_work_that_comes_too_late_does_nothing() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(2500))]))
    slot.write()
    work = slot.wal.prepare_next_segment()
    assert work is not None
    slot.wal.save(7, Save(3, None, None, [run_of(2, body=bytes(2500))]))
    slot.write()
    before = slot.segments()
    work()
    assert slot.segments() == before
    assert len(slot.reopen()[7].runs) == 2


def test_work_that_fails_leaves_it_to_the_batch() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(2500))]))
    slot.write()
    work = slot.wal.prepare_next_segment()
    assert work is not None
    slot.files.fail("fdatasync", errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        work()
    assert slot.wal.poisoned is None
    slot.wal.save(7, Save(3, None, None, [run_of(2, body=bytes(2500))]))
    assert slot.write() == [(7, 3, 1, 2)]


def test_a_segment_made_ahead_and_never_used_is_removed_at_the_next_start() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(2500))]))
    slot.write()
    work = slot.wal.prepare_next_segment()
    assert work is not None
    work()
    assert slot.files.size(slot.files.open(slot.path(2))) == 8192
    slot.wal.close()
    slot.open()
    assert slot.files.size(slot.files.open(slot.path(2))) == 4096
    assert len(slot.groups[7].runs) == 1


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize("operation", ["pwrite", "fdatasync"])
def test_a_failed_write_or_sync_is_final(operation: str) -> None:
    """Pitfall 44: no retry, no acknowledgement, and no vote either."""
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1)]))
    batch = slot.wal.take_batch()
    assert batch is not None
    slot.files.fail(operation, errno.EIO)
    with pytest.raises(WalPoisoned, match="Input/output error"):
        batch.run()
    assert slot.wal.poisoned is not None
    with pytest.raises(WalPoisoned):
        slot.wal.complete(batch)
    with pytest.raises(WalPoisoned):
        slot.wal.take_batch()
    with pytest.raises(WalPoisoned):
        slot.wal.save(7, Save(3, HardState(2, N2)))
    with pytest.raises(WalPoisoned):
        slot.wal.add_group(8, 1, b"")
    assert slot.wal.prepare_next_segment() is None
    slot.wal.close()


def test_a_full_disk_at_a_change_of_segment_is_final_too() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(5000))]))
    batch = slot.wal.take_batch()
    assert batch is not None
    slot.files.fail("pwrite", errno.ENOSPC)
    with pytest.raises(WalPoisoned, match="No space"):
        batch.run()
    assert slot.reopen()[7].runs == []


def test_a_record_too_large_to_be_read_back_is_not_written() -> None:
    """Pitfall 47."""
    slot = a_slot(7)
    body = bytes(records.RECORD_BODY_BYTES_MAX + 1)
    with pytest.raises(StoreError, match="at most"):
        slot.wal.save(7, Save(2, HardState(2), None, [Run(1, 1, 1, 1, body, 0)]))
    with pytest.raises(StoreError, match="at most"):
        slot.wal.add_group(8, 1, body)
    assert slot.wal.take_batch() is None


@pytest.mark.parametrize(
    "save",
    [
        Save(2, HardState(0, None)),
        Save(2, HardState(1, N2)),
        Save(2, HardState(1, None)),
        Save(2, None, None, [run_of(2)]),
        Save(2, None, None, [run_of(1, term=2)]),
        Save(2, None, None, [run_of(1), run_of(3)]),
        Save(2, None, 2),
        Save(2, None, 1, [run_of(2)]),
    ],
    ids=[
        "an older term",
        "a second vote in a term",
        "a vote taken back",
        "a gap",
        "entries of a term not saved",
        "a gap between runs",
        "truncation behind the end",
        "truncation and a gap",
    ],
)
def test_what_no_core_may_ask_for_is_an_assertion(save: Save) -> None:
    slot = a_slot(7)
    with pytest.raises(AssertionError):
        slot.wal.save(7, save)


def test_a_truncation_inside_a_run_is_an_assertion() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1, count=3), run_of(4, count=3)]))
    with pytest.raises(AssertionError):
        slot.wal.save(7, Save(3, HardState(2), 5))
    slot.wal.save(7, Save(4, HardState(2), 4, [run_of(4, term=2)]))


def test_the_owner_of_a_closed_wal_cannot_write() -> None:
    slot = a_slot(7)
    slot.wal.close()
    slot.wal.close()
    with pytest.raises(AssertionError):
        slot.wal.save(7, Save(2, HardState(2)))
    assert slot.wal.prepare_next_segment() is None


def test_without_sync_nothing_is_synced_but_all_is_written() -> None:
    slot = a_slot(7, sync=False)
    slot.files.operations.clear()
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(5000))]))
    slot.write()
    assert not {"fdatasync", "fsync"} & {operation[0] for operation in slot.files.operations}
    assert len(slot.reopen()[7].runs) == 1


def test_statistics_count() -> None:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, [run_of(1)]))
    slot.write()
    statistics = slot.wal.statistics()
    assert statistics["batches"] == statistics["syncs"] == 3
    assert statistics["records"] == 2 + 2 + 1, "what opens a segment stands twice"
    assert statistics["groups"] == 1
    assert statistics["segments"] == statistics["segment"] == 1
    assert statistics["poisoned"] is None


def test_on_a_real_disk_with_a_thread(tmp_path: object) -> None:
    directory = f"{tmp_path}/wal/3"
    ids = iter(range(1, 100))
    wal, groups = Wal.open(Files(), directory, slot=3, incarnation=1, random_id=lambda: next(ids))
    assert groups == {}
    wal.add_group(7, 1, b"boot")
    wal.save(7, Save(1, HardState(1, N1), None, [run_of(1, body=bytes(600_000))]))
    for number in range(2, 5):
        batch = wal.take_batch()
        assert batch is not None
        work = wal.prepare_next_segment()
        threads = [threading.Thread(target=it) for it in (batch.run, work) if it is not None]
        for thread in threads:
            thread.start()
        wal.save(7, Save(number, None, None, [run_of(number, body=bytes(600_000))]))
        for thread in threads:
            thread.join()
        assert wal.complete(batch) == [(7, number - 1, 1, number - 1)]
    wal.close()
    wal, groups = Wal.open(Files(), directory, slot=3, incarnation=1, random_id=lambda: next(ids))
    assert [run.first for run in groups[7].runs] == [1, 2, 3]
    wal.close()


def test_the_directory_is_made_durably() -> None:
    slot = a_slot()
    made = [op[1] for op in slot.files.operations if op[0] == "mkdir"]
    assert made == ["/data", "/data/wal", DIRECTORY]
    synced = [op[1] for op in slot.files.operations if op[0] == "fsync_dir"]
    assert synced[:3] == ["/", "/data", "/data/wal"]
