"""The disk in memory, beyond what :mod:`tests.raft.store.test_files` asks of any disk."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.store.memory import SECTOR_BYTES, MemoryFiles, PowerLoss
from raft.store.segments import create_segment

PATH = "./file"


def a_file(**options: Any) -> tuple[MemoryFiles, int]:
    """An empty file whose name is durable."""
    files = MemoryFiles(recording=False, **options)
    descriptor = files.open(PATH, create=True)
    files.fsync_dir(".")
    return files, descriptor


# --------------------------------------------------------------------------- content

SIZES = st.integers(0, 40)
PIECES = st.one_of(st.binary(min_size=1, max_size=12), st.integers(1, 20).map(bytes))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), SIZES, PIECES),
        st.tuples(st.just("resize"), SIZES),
        st.tuples(st.just("sync")),
        st.tuples(st.just("crash")),
        st.tuples(st.just("kill")),
        st.tuples(st.just("flip"), SIZES, st.integers(0, 7)),
    ),
    max_size=20,
)


def written(content: bytes, offset: int, data: bytes) -> bytes:
    content = content.ljust(offset, b"\0")
    return content[:offset] + data + content[offset + len(data) :]


def flipped(content: bytes, offset: int, bit: int) -> bytes:
    if offset >= len(content):
        return content
    return content[:offset] + bytes((content[offset] ^ 1 << bit,)) + content[offset + 1 :]


class Lost:
    """A crash after which nothing unsynced has arrived."""

    def random(self) -> float:
        return 0.9

    def randrange(self, stop: int, /) -> int:
        return 0


@given(STEPS)
@settings(max_examples=300)
def test_content_is_that_of_plain_bytes(steps: list[tuple[Any, ...]]) -> None:
    """Zeros at the end are kept without keeping them; nobody may notice."""
    files, descriptor = a_file()
    seen = durable = b""
    for name, *details in steps:
        if name == "write":
            offset, data = details
            files.pwrite(descriptor, data, offset)
            seen = written(seen, offset, data)
        elif name == "resize":
            (size,) = details
            files.truncate(descriptor, size)
            seen = seen[:size].ljust(size, b"\0")
        elif name == "sync":
            files.fdatasync(descriptor)
            durable = seen
        elif name == "flip":
            offset, bit = details
            if not files.unsynced(PATH):
                files.flip(PATH, offset, bit)
                seen, durable = flipped(seen, offset, bit), flipped(durable, offset, bit)
        else:
            if name == "crash":
                files.crash(Lost())
                seen = durable
            else:
                files.kill()
            descriptor = files.open(PATH)
        assert files.content(PATH) == seen
        assert files.size(descriptor) == len(seen)
        for offset, count in ((0, 50), (3, 5), (len(seen) - 1, 9), (len(seen), 1)):
            if offset >= 0:
                assert files.pread(descriptor, count, offset) == seen[offset : offset + count]


def test_zeros_at_the_end_of_a_file_take_no_memory() -> None:
    files = MemoryFiles()
    segment = create_segment(files, "/", 1, 8 << 20, sync=True)
    files.pwrite(segment.descriptor, b"batch", 0)
    files.fdatasync(segment.descriptor)
    (inode,) = files._names.values()
    assert len(inode.data.held) == len(inode.durable.held) == 5
    assert files.size(segment.descriptor) == 8 << 20
    assert files.pread(segment.descriptor, 9, 3) == b"ch" + bytes(7)


def test_what_a_failed_sync_marked_clean_is_lost_in_the_crash_after_the_next_sync() -> None:
    """Pitfall 44: readers see it up to then."""
    files, descriptor = a_file()
    files.pwrite(descriptor, b"first", 0)
    files.fail("fdatasync", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.fdatasync(descriptor)
    files.pwrite(descriptor, b"second", 5)
    files.fdatasync(descriptor)
    assert files.content(PATH) == b"firstsecond"
    files.crash(Lost())
    assert files.content(PATH) == bytes(5) + b"second"
    files.crash(Lost())
    assert files.content(PATH) == bytes(5) + b"second"


def test_a_file_that_was_written_in_another_life_is_still_unsynced() -> None:
    files, descriptor = a_file()
    files.pwrite(descriptor, b"data", 0)
    files.kill()
    files.crash(Lost())
    assert files.content(PATH) == b""


def test_a_removed_file_that_a_crash_brings_back_has_what_was_durable_of_it() -> None:
    files, descriptor = a_file()
    files.pwrite(descriptor, b"old", 0)
    files.fsync(descriptor)
    files.pwrite(descriptor, b"new", 0)
    files.unlink(PATH)
    files.crash(Lost())
    assert files.content(PATH) == b"old"


def test_the_same_seed_gives_the_same_crash() -> None:
    def history() -> tuple[bytes, ...]:
        files = MemoryFiles(recording=False)
        paths = [f"./{number}" for number in range(20)]
        for path in paths:
            files.pwrite(files.open(path, create=True), b"x" * 3_000, 100)
        files.fsync_dir(".")
        files.crash(random.Random(7))
        return tuple(files.content(path) for path in paths)

    assert history() == history()
    assert len(set(history())) > 2


# --------------------------------------------------------------------------- decay


def test_decay_flips_one_bit_of_what_is_durable() -> None:
    files, descriptor = a_file()
    data = bytes(range(1, 200))
    files.pwrite(descriptor, data + bytes(5_000), 0)
    files.fsync(descriptor)
    rng = random.Random(3)
    offsets = set()
    for _ in range(50):
        before = files.content(PATH)
        offset = files.decay(rng, PATH)
        assert offset is not None
        after = files.content(PATH)
        assert [at for at in range(len(after)) if after[at] != before[at]] == [offset]
        assert (after[offset] ^ before[offset]).bit_count() == 1
        offsets.add(offset)
        files.crash(Lost())
        assert files.content(PATH) == after, "the cache alone had decayed"
    assert max(offsets) < len(data)
    assert len(offsets) > 20


def test_a_file_in_which_nothing_is_durable_cannot_decay() -> None:
    files, descriptor = a_file()
    assert files.decay(random.Random(1), PATH) is None
    files.pwrite(descriptor, b"data", 0)
    assert files.decay(random.Random(1), PATH) is None
    files.pwrite(descriptor, bytes(100), 0)
    files.fsync(descriptor)
    files.truncate(descriptor, 0)
    files.fsync(descriptor)
    assert files.decay(random.Random(1), PATH) is None


# --------------------------------------------------------------------------- room


def test_what_there_is_no_room_for_fails_after_what_there_was_room_for() -> None:
    files, descriptor = a_file(limit_bytes=100)
    files.pwrite(descriptor, b"x" * 90, 0)
    with pytest.raises(OSError, match="No space"):
        files.pwrite(descriptor, b"y" * 20, 85)
    assert files.content(PATH) == b"x" * 85 + b"y" * 15
    assert files.used_bytes == 100
    with pytest.raises(OSError, match="No space"):
        files.pwrite(descriptor, b"z", 500)
    assert files.used_bytes == 100


def test_a_full_disk_takes_what_replaces_something() -> None:
    files, descriptor = a_file(limit_bytes=10)
    files.pwrite(descriptor, bytes(10), 0)
    files.pwrite(descriptor, b"0123456789", 0)
    files.fsync(descriptor)
    assert files.content(PATH) == b"0123456789"


def test_zeros_need_room_as_well() -> None:
    """A segment is filled with them so that there is room for what comes."""
    files = MemoryFiles(limit_bytes=3 << 20)
    create_segment(files, "/", 1, 2 << 20, sync=True)
    with pytest.raises(OSError, match="No space"):
        create_segment(files, "/", 2, 2 << 20, sync=True)


def test_room_comes_back_with_what_is_removed_or_cut() -> None:
    files, descriptor = a_file(limit_bytes=10)
    files.pwrite(descriptor, b"0123456789", 0)
    other = files.open("./other", create=True)
    with pytest.raises(OSError, match="No space"):
        files.pwrite(other, b"x", 0)
    files.truncate(descriptor, 9)
    files.pwrite(other, b"x", 0)
    files.unlink(PATH)
    files.pwrite(other, b"y" * 9, 1)
    files.limit_bytes = None
    files.pwrite(other, bytes(1_000), 0)


def test_the_part_of_a_write_that_found_room_may_arrive_and_may_not() -> None:
    seen = set()
    for seed in range(20):
        files, descriptor = a_file(limit_bytes=4)
        with pytest.raises(OSError, match="No space"):
            files.pwrite(descriptor, b"abcdef", 0)
        files.crash(random.Random(seed))
        seen.add(files.content(PATH))
    assert {b"", b"abcd"} <= seen
    assert all(b"abcd".startswith(each) for each in seen)


# --------------------------------------------------------------------------- descriptors


def test_open_descriptors_are_counted_and_go_with_the_process() -> None:
    files, descriptor = a_file()
    second = files.open(PATH)
    assert files.open_count == 2
    files.close(second)
    assert files.open_count == 1
    assert files.flock(descriptor)
    files.kill()
    assert files.open_count == 0
    assert files.flock(files.open(PATH)), "the lock went with it"


def test_a_write_under_way_when_the_power_fails_may_arrive() -> None:
    seen = set()
    for seed in range(20):
        files, descriptor = a_file()
        files.lose_power_after(0)
        with pytest.raises(PowerLoss):
            files.pwrite(descriptor, b"data", 0)
        files.crash(random.Random(seed))
        seen.add(files.content(PATH))
    assert {b"", b"data"} <= seen


def test_two_unsynced_writes_of_the_same_bytes_leave_no_sector_that_is_half_of_one() -> None:
    """A log that is opened writes its last batch again, and the power may fail in between."""
    data = bytes(range(1, 251)) * 8
    halves = 0
    for seed in range(300):
        files = MemoryFiles(recording=False)
        descriptor = files.open(PATH, create=True)
        files.pwrite(descriptor, bytes(4096), 0)
        files.fsync(descriptor)
        files.fsync_dir(".")
        for _ in range(2):
            files.pwrite(descriptor, data, 100)
        files.crash(random.Random(seed))
        found = files.content(PATH)
        whole = bytes(100) + data + bytes(4096)
        sectors = [slice(at, at + SECTOR_BYTES) for at in range(0, 2560, SECTOR_BYTES)]
        assert all(found[it] in (whole[it], bytes(SECTOR_BYTES)) for it in sectors)
        halves += 0 < sum(found[it] == whole[it] for it in sectors[:4]) < 4
    assert halves > 100
