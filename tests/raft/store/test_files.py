"""The real file operations, and that the disk in memory answers as they do."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import threading
from pathlib import Path

import pytest

from raft.store.files import Files, make_directory, read_whole, replace_whole
from raft.store.memory import MemoryFiles, PowerLoss
from raft.store.segments import segment_name, segment_number


@pytest.fixture(params=["real", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Files, str]:
    if request.param == "real":
        return Files(), str(tmp_path)
    files = MemoryFiles()
    files.mkdir("/data")
    files.fsync_dir("/")
    return files, "/data"


def test_write_read_truncate(disk: tuple[Files, str]) -> None:
    files, root = disk
    path = f"{root}/file"
    with pytest.raises(FileNotFoundError):
        files.open(path)
    descriptor = files.open(path, create=True)
    files.pwrite(descriptor, b"abc", 5)
    assert files.size(descriptor) == 8
    assert files.pread(descriptor, 100, 0) == b"\0\0\0\0\0abc"
    assert files.pread(descriptor, 2, 6) == b"bc"
    assert files.pread(descriptor, 2, 60) == b""
    files.truncate(descriptor, 6)
    files.truncate(descriptor, 7)
    files.fdatasync(descriptor)
    files.fsync(descriptor)
    assert read_whole(files, path) == b"\0\0\0\0\0a\0"
    files.close(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.pread(descriptor, 1, 0)


def test_names(disk: tuple[Files, str]) -> None:
    files, root = disk
    make_directory(files, f"{root}/a/b")
    make_directory(files, f"{root}/a/b")
    files.close(files.open(f"{root}/a/one", exclusive=True))
    with pytest.raises(FileExistsError):
        files.open(f"{root}/a/one", exclusive=True)
    with pytest.raises(FileNotFoundError):
        files.open(f"{root}/none/one", create=True)
    replace_whole(files, f"{root}/a/one", b"new")
    files.rename(f"{root}/a/one", f"{root}/a/two")
    files.fsync_dir(f"{root}/a")
    assert files.listdir(f"{root}/a") == ["b", "two"]
    assert files.exists(f"{root}/a/b")
    assert not files.exists(f"{root}/a/one")
    assert read_whole(files, f"{root}/a/two") == b"new"
    files.unlink(f"{root}/a/two")
    with pytest.raises(FileNotFoundError):
        files.unlink(f"{root}/a/two")
    with pytest.raises(FileNotFoundError):
        files.listdir(f"{root}/none")


def test_a_lock_belongs_to_who_opened(disk: tuple[Files, str]) -> None:
    files, root = disk
    first, second = (files.open(f"{root}/lock", create=True) for _ in range(2))
    assert files.flock(first)
    assert files.flock(first)
    assert not files.flock(second)
    files.close(first)
    assert files.flock(second)


def test_short_reads_and_writes_of_the_kernel_are_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, pwrite = os.pread, os.pwrite
    monkeypatch.setattr(os, "pread", lambda fd, n, offset: pread(fd, min(n, 3), offset))
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:3], offset))
    files = Files()
    descriptor = files.open(str(tmp_path / "file"), create=True)
    files.pwrite(descriptor, b"0123456789", 2)
    assert files.pread(descriptor, 12, 0) == b"\0\0" + b"0123456789"
    assert files.pread(descriptor, 50, 9) == b"789"


def test_segment_names_are_recognised_and_nothing_else_is() -> None:
    assert segment_name(26) == "000000000000001a.wal"
    assert segment_number("000000000000001a.wal") == 26
    for name in ("lock", "1a.wal", "000000000000001A.wal", "00000000000000-1.wal", "1a.wal.new"):
        assert segment_number(name) is None, name


# --------------------------------------------------------------------------- forgetting


class Chance:
    """A generator that always says the same."""

    def __init__(self, chance: float, choice: int) -> None:
        self._chance = chance
        self._choice = choice

    def random(self) -> float:
        return self._chance

    def randrange(self, stop: int, /) -> int:
        return min(self._choice, stop - 1)


LOSE, KEEP = Chance(0.9, 0), Chance(0.1, 1)


def synced_file() -> tuple[MemoryFiles, int]:
    files = MemoryFiles()
    descriptor = files.open("./file", create=True)
    files.pwrite(descriptor, b"old", 0)
    files.fdatasync(descriptor)
    files.fsync_dir(".")
    return files, descriptor


def test_a_write_that_was_not_synced_may_be_lost_or_kept() -> None:
    for chance, expected in ((LOSE, b"old"), (KEEP, b"new!")):
        files, descriptor = synced_file()
        files.pwrite(descriptor, b"new!", 0)
        assert files.content("./file") == b"new!"
        files.crash(chance)
        assert files.content("./file") == expected


def test_a_name_that_was_not_synced_may_be_lost_with_all_its_synced_bytes() -> None:
    files = MemoryFiles()
    descriptor = files.open("./file", create=True)
    files.pwrite(descriptor, b"data", 0)
    files.fdatasync(descriptor)
    files.crash(LOSE)
    assert not files.exists("./file")


def test_a_removal_and_a_rename_that_were_not_synced_may_be_undone() -> None:
    files, _ = synced_file()
    files.rename("./file", "./other")
    files.crash(LOSE)
    assert files.listdir(".") == ["file"]
    files.unlink("./file")
    files.crash(LOSE)
    assert files.content("./file") == b"old"
    files.unlink("./file")
    files.crash(KEEP)
    assert files.listdir(".") == []


def test_a_directory_that_was_made_before_the_process_died_is_made_durable_by_the_next() -> None:
    """It is in the cache of the kernel, and what is put into it would go with it."""
    for count in range(6):
        files = MemoryFiles()
        files.lose_power_after(count)
        with pytest.raises(PowerLoss):
            make_directory(files, "/data/wal/0")
        files.kill()
        make_directory(files, "/data/wal/0")
        files.close(files.open("/data/wal/0/file", create=True))
        files.fsync_dir("/data/wal/0")
        files.crash(LOSE)
        assert files.listdir("/data/wal/0") == ["file"], count


def test_a_directory_that_is_in_use_is_not_synced_again() -> None:
    files, _ = synced_file()
    make_directory(files, "./made")
    files.close(files.open("./made/file", create=True))
    files.operations.clear()
    make_directory(files, "./made")
    make_directory(files, "/")
    make_directory(files, ".")
    assert files.operations == []


def test_a_write_may_be_torn_at_sectors_and_at_bytes() -> None:
    seen = set()
    for seed in range(60):
        files, descriptor = synced_file()
        files.pwrite(descriptor, b"x" * 1500, 0)
        files.crash(random.Random(seed))
        content = files.content("./file")
        seen.add((len(content), content[:1], content[600:601]))
    assert {(3, b"o", b""), (1500, b"x", b"x"), (1500, b"o", b"x")} <= seen
    assert any(length % 512 for length, _, _ in seen - {(3, b"o", b"")} if length != 1500)


def test_after_the_death_of_the_process_alone_the_cache_is_still_there() -> None:
    files, descriptor = synced_file()
    assert files.flock(descriptor)
    files.pwrite(descriptor, b"new", 0)
    files.kill()
    assert files.content("./file") == b"new"
    assert files.unsynced("./file")
    assert files.flock(files.open("./file"))
    with pytest.raises(OSError, match="Bad file"):
        files.size(descriptor)


def test_the_power_goes_off_in_the_middle_and_stays_off() -> None:
    files, descriptor = synced_file()
    files.lose_power_after(1)
    files.pwrite(descriptor, b"one", 0)
    with pytest.raises(PowerLoss):
        files.fdatasync(descriptor)
    with pytest.raises(PowerLoss):
        files.pread(descriptor, 1, 0)
    files.close(descriptor)
    files.crash(LOSE)
    assert files.content("./file") == b"old"


def test_failures_are_as_many_as_asked_for() -> None:
    files, descriptor = synced_file()
    files.fail("pwrite", 28, path="file", times=2)
    files.fail("pwrite", 5, path="elsewhere")
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            files.pwrite(descriptor, b"x", 0)
    files.pwrite(descriptor, b"x", 0)
    files.fail("pwrite", 28)
    files.repair()
    files.pwrite(descriptor, b"x", 0)


# --------------------------------------------------------------------------- what errors say


def test_an_error_names_operation_and_file_also_of_a_descriptor(tmp_path: Path) -> None:
    files = Files()
    path = str(tmp_path / "file")
    descriptor = files.open(path, create=True)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    usual = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="pwrite: File too large") as error:
            files.pwrite(descriptor, bytes(20), 0)
        assert (error.value.errno, error.value.filename) == (errno.EFBIG, path)
        with pytest.raises(OSError, match="ftruncate: File too large") as error:
            files.truncate(descriptor, 20)
        assert error.value.filename == path
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, usual)
    files.close(descriptor)
    with pytest.raises(FileNotFoundError, match="rename"):
        files.rename(f"{path}.none", path)
    with pytest.raises(FileNotFoundError, match="fsync of directory"):
        files.fsync_dir(f"{path}.none")


def test_room_on_a_real_file_system_is_what_its_user_may_still_write(tmp_path: Path) -> None:
    told = os.statvfs(tmp_path)
    free_bytes = Files().free_bytes(str(tmp_path))
    assert 0 < free_bytes <= told.f_blocks * told.f_frsize
    with pytest.raises(FileNotFoundError, match="statvfs"):
        Files().free_bytes(str(tmp_path / "none"))


def test_room_in_memory_is_what_no_file_has_taken() -> None:
    files = MemoryFiles(limit_bytes=100)
    files.mkdir("/data")
    descriptor = files.open("/data/a", create=True)
    files.pwrite(descriptor, bytes(60), 0)
    files.pwrite(descriptor, bytes(60), 0)
    assert files.free_bytes("/data") == 40, "in place: that takes none"
    with pytest.raises(OSError, match="pwrite: No space left") as full:
        files.pwrite(descriptor, b"x" * 70, 50)
    assert full.value.errno == errno.ENOSPC
    assert files.pread(descriptor, 200, 0) == bytes(50) + b"x" * 50, "a part of it has arrived"
    assert files.free_bytes("/data") == 0
    files.truncate(descriptor, 10)
    assert files.free_bytes("/data") == 90


def test_the_change_that_is_to_fail_fails_once_and_half_of_a_write_arrives() -> None:
    files = MemoryFiles()
    files.mkdir("/data")
    descriptor = files.open("/data/a", create=True)
    files.fail_change(1, errno.EIO)
    files.pwrite(descriptor, b"abcd", 0)
    with pytest.raises(OSError, match="pwrite: Input/output error: '/data/a'"):
        files.pwrite(descriptor, b"efgh", 4)
    assert not files.change_is_to_fail
    assert files.pread(descriptor, 9, 0) == b"abcdef"
    files.fsync(descriptor)


def test_what_hangs_goes_on_when_it_is_let() -> None:
    files = MemoryFiles()
    files.mkdir("/data")
    descriptor = files.open("/data/a", create=True)
    files.hang("fdatasync", path="/a")
    files.fsync(descriptor)
    syncing = threading.Thread(target=files.fdatasync, args=(descriptor,), daemon=True)
    syncing.start()
    syncing.join(0.02)
    assert syncing.is_alive()
    files.go_on()
    syncing.join(60)
    assert not syncing.is_alive()
