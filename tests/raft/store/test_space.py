"""Room on the disk: when it counts as little, and the reserve that is kept for the log."""

from __future__ import annotations

import errno
import inspect

import pytest

from raft.messages import HardState, Save
from raft.store.errors import WalPoisoned
from raft.store.files import Files
from raft.store.memory import MemoryFiles
from raft.store.segments import (
    FILL_BYTES,
    SEGMENT_BYTES_FIRST,
    SEGMENT_BYTES_MAX,
    segment_name,
)
from raft.store.space import (
    LOOK_OFTEN_MS,
    LOOK_SELDOM_MS,
    Judge,
    Limits,
    Reserve,
    SparingFiles,
    is_full_error,
    segment_bytes_max,
)
from tests.raft.store.kit import DIRECTORY, N2, a_slot, keeps, run_of

MIB = 1 << 20
LIMITS = Limits(80 * MIB)  # resume at 90, hard at 10
DATA = "/data"


def reserve_of(bytes_max: int, *, limit_bytes: int | None = None) -> tuple[MemoryFiles, Reserve]:
    files = MemoryFiles(limit_bytes=limit_bytes)
    files.mkdir(DATA)
    return files, Reserve(files, DATA, bytes_max)


# --------------------------------------------------------------------------- limits


def test_a_disk_that_fills_and_empties_is_full_below_one_line_and_usable_above_another() -> None:
    judge = Judge(LIMITS)
    seen = []
    for free in (100, 90, 80, 79, 10, 9, 0, 11, 80, 89, 90, 79):
        judge.hear(free * MIB)
        seen.append((free, judge.room.is_full, judge.room.is_short))
    assert seen == [
        (100, False, False),
        (90, False, False),
        (80, False, False),
        (79, True, False),
        (10, True, False),
        (9, True, True),
        (0, True, True),
        (11, True, False),
        (80, True, False),
        (89, True, False),
        (90, False, False),
        (79, True, False),
    ]


def test_free_space_that_goes_up_and_down_around_the_limit_changes_nothing_twice() -> None:
    judge = Judge(LIMITS)
    judge.hear(81 * MIB)
    changes = [judge.hear(free * MIB) for free in (79, 81, 79, 85, 79, 89, 78)]
    assert changes == [True, False, False, False, False, False, False]
    assert judge.room.free_bytes == 78 * MIB


def test_without_a_limit_no_disk_is_ever_full() -> None:
    judge = Judge(Limits(0))
    judge.hear(0)
    assert not judge.room.is_full
    assert not judge.room.is_short


def test_segments_take_at_most_a_quarter_of_what_is_free() -> None:
    assert segment_bytes_max(1 << 50) == SEGMENT_BYTES_MAX
    assert segment_bytes_max(4 * SEGMENT_BYTES_MAX) == SEGMENT_BYTES_MAX
    assert segment_bytes_max(4 * SEGMENT_BYTES_MAX - 1) == SEGMENT_BYTES_MAX // 2
    assert segment_bytes_max(33 * MIB) == 8 * MIB
    assert segment_bytes_max(0) == SEGMENT_BYTES_FIRST


def test_a_disk_with_plenty_of_room_is_looked_at_seldom() -> None:
    judge = Judge(LIMITS)
    judge.hear(1_000 * MIB)
    assert judge.look_again_ms() == LOOK_SELDOM_MS
    judge.hear(359 * MIB)
    assert judge.look_again_ms() == LOOK_OFTEN_MS


def test_a_full_disk_is_known_by_its_error_also_through_the_log() -> None:
    full = OSError(errno.ENOSPC, "full")
    poisoned = WalPoisoned("no")
    poisoned.__cause__ = full
    assert is_full_error(full)
    assert is_full_error(OSError(errno.EDQUOT, "quota"))
    assert is_full_error(poisoned)
    assert not is_full_error(OSError(errno.EIO, "broken"))
    assert not is_full_error(WalPoisoned("no"))


# --------------------------------------------------------------------------- the reserve


def test_the_reserve_is_made_in_steps_each_of_them_durable() -> None:
    files, reserve = reserve_of(2 * FILL_BYTES + 5)
    assert [reserve.fill() for _ in range(4)] == [True, True, False, False]
    assert reserve.held_bytes() == files.used_bytes == 2 * FILL_BYTES + 5
    assert not files.unsynced(f"{DATA}/reserve")
    assert files.open_count == 0


def test_of_the_reserve_is_given_what_is_missing_and_not_all() -> None:
    files, reserve = reserve_of(4 * FILL_BYTES, limit_bytes=4 * FILL_BYTES)
    while reserve.fill():
        pass
    assert files.free_bytes(DATA) == 0
    assert reserve.give(1) == 1
    assert files.free_bytes(DATA) == 1
    assert reserve.give(FILL_BYTES + 1) == FILL_BYTES + 1
    assert reserve.held_bytes() == 3 * FILL_BYTES - 2
    assert reserve.give(9 * FILL_BYTES) == 3 * FILL_BYTES - 2
    assert reserve.give(1) == 0
    assert files.free_bytes(DATA) == 4 * FILL_BYTES
    assert files.open_count == 0


def test_a_reserve_that_finds_no_room_keeps_what_it_has_and_is_made_good_later() -> None:
    files, reserve = reserve_of(3 * FILL_BYTES, limit_bytes=FILL_BYTES + 7)
    assert reserve.fill()
    with pytest.raises(OSError, match="pwrite: No space left"):
        reserve.fill()
    assert reserve.held_bytes() == FILL_BYTES + 7
    files.limit_bytes = None
    while reserve.fill():
        pass
    assert reserve.held_bytes() == 3 * FILL_BYTES
    assert files.open_count == 0


def test_a_log_opens_beside_a_reserve_and_does_not_take_it_for_a_segment() -> None:
    slot = a_slot(1)
    while Reserve(slot.files, DIRECTORY, 2 * FILL_BYTES).fill():
        pass
    slot.wal.close()
    assert set(slot.reopen()) == {1}
    assert Reserve(slot.files, DIRECTORY, 0).held_bytes() == 2 * FILL_BYTES


# --------------------------------------------------------------------------- what is not the log


def test_what_is_not_the_log_does_not_get_the_last_of_the_room() -> None:
    under = MemoryFiles(limit_bytes=100)
    under.mkdir(DATA)
    files = SparingFiles(under, DATA, 30)
    descriptor = files.open(f"{DATA}/1.writing", create=True)
    files.pwrite(descriptor, bytes(70), 0)
    with pytest.raises(OSError, match="30 bytes free, of which 30 are kept") as refused:
        files.pwrite(descriptor, b"x", 70)
    assert refused.value.errno == errno.ENOSPC
    assert under.size(descriptor) == 70


def test_everything_else_is_done_by_the_files_under_it() -> None:
    """A method that was forgotten would act on the real disk in every test."""
    operations = {name for name, _ in inspect.getmembers(Files, inspect.isfunction)}
    own = vars(SparingFiles).keys()
    assert {name for name in operations if not name.startswith("_")} <= own
    under = MemoryFiles()
    files = SparingFiles(under, "/", 0)
    files.mkdir(DATA)
    descriptor = files.open(f"{DATA}/a", exclusive=True)
    files.pwrite(descriptor, b"abc", 0)
    files.truncate(descriptor, 2)
    files.fdatasync(descriptor)
    files.fsync(descriptor)
    assert files.flock(descriptor)
    assert (files.size(descriptor), files.pread(descriptor, 9, 0)) == (2, b"ab")
    files.close(descriptor)
    files.rename(f"{DATA}/a", f"{DATA}/b")
    files.fsync_dir(DATA)
    assert files.listdir(DATA) == ["b"]
    files.unlink(f"{DATA}/b")
    assert not files.exists(f"{DATA}/b")
    assert files.free_bytes(DATA) == under.free_bytes(DATA)


# --------------------------------------------------------------------------- the segment in use


def test_what_the_segment_in_use_still_takes_is_known_in_every_state_of_the_log() -> None:
    """Too much would make a batch open a segment for which there is no room."""
    slot = a_slot(1, segment_bytes_first=4096)
    wal, first = slot.wal, 1

    def save(size_bytes: int) -> None:
        nonlocal first
        wal.save(1, Save(first + 1, runs=[run_of(first, body=bytes(size_bytes))]))
        first += 1

    def left() -> int:
        told = wal.statistics()
        return int(told["segment_bytes"] - told["segment_used_bytes"])

    assert wal.segment_room_bytes == left()
    save(936)
    assert wal.segment_room_bytes == left() - 1_000
    batch = wal.take_batch()
    assert batch is not None
    assert wal.segment_room_bytes == left() - batch.bytes
    save(136)
    assert wal.segment_room_bytes == left() - batch.bytes - 200
    batch.run()
    wal.complete(batch)
    assert wal.segment_room_bytes == left() - 200
    # The next one is made ahead, under way, in use.
    save(1_000)
    slot.write()
    prepare = wal.prepare_next_segment()
    assert prepare is not None
    wal.segment_bytes_max = 4096  # after it was planned
    prepare()
    save(2_000)
    batch = wal.take_batch()
    assert batch is not None
    assert batch.opens is not None
    assert wal.segment_room_bytes <= 8192 - batch.bytes
    expected = wal.segment_room_bytes
    batch.run()
    wal.complete(batch)
    assert expected <= wal.segment_room_bytes == left()


def test_an_owner_that_is_short_of_room_gets_small_segments_and_larger_ones_later() -> None:
    slot = a_slot(1, segment_bytes_first=4096, segment_bytes_max=1 << 20)
    sizes = []
    for number, bytes_max in enumerate((1 << 20, 4096, 4096, 1 << 20, 1 << 20, 1 << 20), 1):
        slot.wal.segment_bytes_max = bytes_max
        while slot.wal.statistics()["segment"] == number:
            at = slot.wal._groups[1].last_index + 1
            slot.wal.save(1, Save(at + 1, runs=[run_of(at, body=bytes(1_500))]))
            slot.write()
        sizes.append(slot.wal.statistics()["segment_bytes"])
    assert sizes == [8192, 4096, 4096, 8192, 16384, 32768]


@pytest.mark.parametrize("live_bytes", [600, 1_900, 5_000])
def test_on_a_full_disk_copies_open_no_segment_for_which_there_is_no_room(live_bytes: int) -> None:
    """Old segments are given up by copying what is live; that must not be what ends the log."""
    slot = a_slot(7, 8, segment_bytes_first=4096, segment_bytes_max=4096)
    wal, last = slot.wal, 0
    for at in range(1, live_bytes // 300 + 1):
        wal.save(8, Save(at + 1, runs=[run_of(at, body=bytes([7]) * 240)]))
        slot.write()
    for number in range(2, 22):
        save, last = Save(number, runs=[run_of(last + 1, body=bytes([9]) * 900)]), last + 1
        save.mark = keeps(last - 1, last - 1) if last > 1 else None
        wal.save(7, save)
        slot.write()
    slot.files.limit_bytes = slot.files.used_bytes
    wal.kept_from_copies = 512
    wal.save(7, Save(22, HardState(2, N2)))
    slot.tidy()
    kept = wal.segment_room_bytes
    assert kept >= 0
    assert wal.poisoned is None
    # With room again it is as ever.
    slot.files.limit_bytes = None
    wal.kept_from_copies = None
    for number in range(23, 33):
        wal.save(7, Save(number, runs=[run_of(last + 1, body=bytes([9]) * 900)]))
        last += 1
        slot.write()
        slot.tidy()
    assert slot.segments()[0] != segment_name(1)
    assert [group.damaged for group in slot.reopen().values()] == [None, None]
