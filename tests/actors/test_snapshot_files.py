"""The blocking half of snapshots: what each effect does to the files, and what is told of it."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from actors import snapshot_files
from actors.group_messages import (
    CheckReceived,
    ChunkFailed,
    ChunkRead,
    FindSpare,
    KeepSnapshots,
    ReadBackup,
    ReadChunk,
    ReceivedChecked,
    ReceivedUnchecked,
    SnapshotFailed,
    SnapshotWritten,
    SpareFound,
    StoreChunk,
    StoreUpload,
    WriteSnapshot,
)
from actors.machine import RestoreEnded, RunRestore
from actors.snapshot_files import SWITCH_INTERVAL_S, SnapshotThreads, carry_out, run_restore
from raft.configuration import Configuration
from raft.messages import ChunkStored, Replica, SnapshotLost, SnapshotMeta, SnapshotReceived
from raft.store.memory import MemoryFiles
from raft.store.snapshots import SnapshotStore

A, B = Replica("n1", 1), Replica("n2", 2)
MEMBERS = Configuration.of(A, B)
PATH = "/n1/snapshots"


class View:
    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces = pieces
        self.error = error

    def write(self, sink: Callable[[bytes], None]) -> None:
        for piece in self.pieces:
            sink(piece)
        if self.error is not None:
            raise self.error


class Bench:
    def __init__(self) -> None:
        self.files = MemoryFiles()
        self.store = SnapshotStore(self.files, PATH)

    def write(self, *pieces: bytes, index: int = 10, error: Exception | None = None) -> object:
        view = View(*pieces, error=error)
        return carry_out(self.store, WriteSnapshot(7, index, 1, MEMBERS, 5, 1, view))

    def written(self, *pieces: bytes, index: int = 10) -> SnapshotMeta:
        result = self.write(*pieces, index=index)
        assert isinstance(result, SnapshotWritten)
        return result.meta

    def names(self) -> list[str]:
        return self.files.listdir(PATH) if self.files.exists(PATH) else []


def test_a_view_becomes_a_file_and_its_description_is_told() -> None:
    bench = Bench()
    meta = bench.written(b"ab", b"c")
    assert (meta.index, meta.term, meta.configuration) == (10, 1, MEMBERS)
    assert (meta.time_ms, meta.machine_version) == (5, 1)
    assert b"".join(bench.store.read(meta)) == b"abc"


@pytest.mark.parametrize("error", [ValueError("broken"), OSError(errno.EIO, "gone")])
def test_whatever_a_machine_raises_there_is_no_snapshot_and_nothing_left_of_it(
    error: Exception,
) -> None:
    bench = Bench()
    result = bench.write(b"half", error=error)
    assert isinstance(result, SnapshotFailed)
    assert "could not be written" in result.error
    assert bench.names() == []
    assert isinstance(bench.write(b"again"), SnapshotWritten)


@pytest.mark.parametrize("operation", ["create", "pwrite", "fsync", "rename", "fsync_dir"])
def test_a_disk_that_refuses_fails_one_snapshot(operation: str) -> None:
    bench = Bench()
    bench.files.mkdir("/n1")
    bench.files.mkdir(PATH)
    path = "" if operation in ("rename", "fsync_dir") else ".writing"
    bench.files.fail(operation, errno.ENOSPC, path=path)
    assert isinstance(bench.write(b"x"), SnapshotFailed)
    assert isinstance(bench.write(b"x", index=11), SnapshotWritten)


def test_an_unfinished_file_that_cannot_be_removed_either_is_told_once() -> None:
    bench = Bench()
    bench.files.fail("unlink", errno.EIO, path=".writing")
    assert isinstance(bench.write(error=ValueError("broken")), SnapshotFailed)


def test_a_file_travels_in_pieces_and_is_the_same_on_the_other_side() -> None:
    bench, other = Bench(), Bench()
    meta = bench.written(b"x" * 1_000)
    offset, told = 0, []
    while offset < meta.size_bytes:
        chunk = carry_out(bench.store, ReadChunk(7, B, 3, meta, offset, 300))
        assert isinstance(chunk, ChunkRead)
        assert (chunk.to, chunk.term, chunk.snapshot, chunk.offset) == (B, 3, meta, offset)
        told.append(carry_out(other.store, StoreChunk(7, meta, offset, chunk.data)))
        offset += len(chunk.data)
    *stored, received = told
    assert stored == [ChunkStored(meta, at) for at in range(300, meta.size_bytes, 300)]
    assert received == SnapshotReceived(meta)
    assert list(other.store.read(meta)) == list(bench.store.read(meta))


def test_a_chunk_that_does_not_fit_is_answered_with_what_is_there() -> None:
    bench, other = Bench(), Bench()
    meta = bench.written(b"x" * 1_000)
    data = bench.store.read_raw(meta, 0, 100)
    assert carry_out(other.store, StoreChunk(7, meta, 0, data)) == ChunkStored(meta, 100)
    assert carry_out(other.store, StoreChunk(7, meta, 0, data)) == ChunkStored(meta, 100)
    assert carry_out(other.store, StoreChunk(7, meta, 500, data)) == ChunkStored(meta, 100)


def test_a_file_with_a_wrong_checksum_begins_anew() -> None:
    bench, other = Bench(), Bench()
    meta = bench.written(b"x" * 1_000)
    data = bytearray(bench.store.read_raw(meta, 0, meta.size_bytes))
    data[500] ^= 1
    assert carry_out(other.store, StoreChunk(7, meta, 0, bytes(data))) == ChunkStored(meta, 0)
    assert other.names() == []


def test_a_chunk_that_the_disk_does_not_take_is_no_answer_at_all() -> None:
    """An answer would have it sent again at once, and again, while the disk is full."""
    bench, other = Bench(), Bench()
    meta = bench.written(b"x")
    data = bench.store.read_raw(meta, 0, 10)
    other.files.fail("pwrite", errno.ENOSPC, path=".receiving")
    assert carry_out(other.store, StoreChunk(7, meta, 0, data)) == ChunkFailed(meta)


@pytest.mark.parametrize("damage", ["flip", "unlink", "pread"])
def test_a_snapshot_that_cannot_be_read_is_lost(damage: str) -> None:
    bench = Bench()
    meta = bench.written(b"x" * 1_000)
    (name,) = bench.names()
    path = f"{PATH}/{name}"
    if damage == "flip":
        bench.files.flip(path, 700)
    elif damage == "unlink":
        bench.files.unlink(path)
    else:
        bench.files.fail("pread", errno.EIO, path=".snapshot")
    assert carry_out(bench.store, ReadChunk(7, B, 3, meta, 600, 200)) == SnapshotLost(meta)


def test_all_but_the_named_files_are_removed() -> None:
    bench = Bench()
    old, kept = bench.written(b"1", index=1), bench.written(b"2", index=2)
    assert carry_out(bench.store, KeepSnapshots(7, [kept])) is None
    assert not bench.store.has(old)
    assert bench.store.has(kept)
    bench.written(b"3", index=3)
    bench.files.fail("unlink", errno.EIO)
    newest = bench.written(b"4", index=4)
    assert carry_out(bench.store, KeepSnapshots(7, [newest])) is None, "told, and borne"


def test_the_end_of_a_restore_tells_what_went_wrong() -> None:
    bench = Bench()
    meta = bench.written(b"x")
    done: list[int] = []
    assert run_restore(RunRestore(7, meta, lambda: done.append(1))) == RestoreEnded(meta)
    assert done == [1]
    error = ValueError("no")

    def fail() -> None:
        raise error

    assert run_restore(RunRestore(7, meta, fail)) == RestoreEnded(meta, error)


# --------------------------------------------------------------------------- threads


class Threads:
    """Real ones; what they post waits in a queue, as for a loop."""

    def __init__(self) -> None:
        self.posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.threads = SnapshotThreads(self.posted.put)
        self.done: list[Any] = []

    def submit(self, work: Callable[[], object], *, long: bool) -> None:
        self.threads.submit(work, self.done.append, long=long)

    def wait(self) -> None:
        self.posted.get(timeout=60)()


def test_short_work_does_not_wait_for_long_work() -> None:
    bench = Threads()
    may_end = threading.Event()

    def write() -> object:
        assert may_end.wait(60)
        return "written"

    bench.submit(write, long=True)
    bench.submit(lambda: "restored", long=True)
    bench.submit(lambda: "read", long=False)
    bench.submit(lambda: "stored", long=False)
    bench.wait()
    bench.wait()
    assert bench.done == ["read", "stored"]
    may_end.set()
    bench.wait()
    bench.wait()
    assert bench.done == ["read", "stored", "written", "restored"], "each kind in order"


def test_long_work_lets_the_loop_have_its_turn_soon() -> None:
    bench = Threads()
    usual_s = sys.getswitchinterval()
    bench.submit(sys.getswitchinterval, long=True)
    bench.submit(sys.getswitchinterval, long=False)
    bench.wait()
    bench.wait()
    assert sorted(bench.done)[0] == pytest.approx(SWITCH_INTERVAL_S)
    bench.submit(lambda: None, long=True)
    bench.wait()
    assert sys.getswitchinterval() == usual_s


def test_a_bug_comes_to_the_loop_which_ends_the_process() -> None:
    bench = Threads()

    def bug() -> object:
        raise KeyError("bug")

    bench.submit(bug, long=False)
    with pytest.raises(KeyError):
        bench.wait()
    bench.submit(lambda: "next", long=False)
    bench.wait()
    assert bench.done == ["next"]


def test_every_effect_has_its_work() -> None:
    assert set(snapshot_files.EFFECTS) == {
        WriteSnapshot,
        ReadChunk,
        StoreChunk,
        ReadBackup,
        StoreUpload,
        KeepSnapshots,
        CheckReceived,
        FindSpare,
    }
    assert set(snapshot_files.EFFECTS) > snapshot_files.LONG


def test_a_snapshot_that_is_written_has_no_more_than_its_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 0.0
    paused_s: list[float] = []
    monkeypatch.setattr("time.thread_time", lambda: now_s)
    pauses = snapshot_files.Pauses()
    monkeypatch.setattr(pauses._never, "wait", paused_s.append)
    for worked_s in (0.0003, 0.0003, 0.004):
        now_s += worked_s
        pauses()
    assert len(paused_s) == 2, "not after every little piece"
    assert paused_s == pytest.approx([0.0006 * 1.5, 0.004 * 1.5]), "two fifths are work"


def test_each_piece_of_a_view_may_be_followed_by_a_pause() -> None:
    bench, paces = Bench(), []
    effect = WriteSnapshot(7, 10, 1, MEMBERS, 5, 1, View(b"a", b"b", b"c"))
    carry_out(bench.store, effect, lambda: paces.append(len(bench.names())))
    assert paces == [1, 1, 1]


def test_what_was_received_before_a_restart_is_answered_when_somebody_has_looked() -> None:
    bench, other = Bench(), Bench()
    meta = bench.written(b"x" * 1_000)
    data = bench.store.read_raw(meta, 0, 500)
    assert carry_out(other.store, StoreChunk(7, meta, 0, data)) == ChunkStored(meta, 500)
    other.files.kill()
    other.store = SnapshotStore(other.files, PATH)
    asked = StoreChunk(7, meta, 0, b"")
    assert carry_out(other.store, asked) == ReceivedUnchecked(meta)
    assert carry_out(other.store, CheckReceived(7)) == ReceivedChecked()
    (head,) = (each for each in (carry_out(other.store, asked),) if isinstance(each, ChunkStored))
    assert 0 < head.offset < 500, "its head is whole, the frame behind it is not"
    other.files.kill()
    other.store = SnapshotStore(other.files, PATH)
    other.files.fail("pread", errno.EIO, path=".receiving")
    assert carry_out(other.store, CheckReceived(7)) == ReceivedChecked(), "told, and borne"
    assert carry_out(other.store, asked) == ChunkStored(meta, 0)


def test_one_to_spare_is_found_or_not() -> None:
    bench = Bench()
    spare, newest = bench.written(b"1", index=1), bench.written(b"2", index=2)
    assert carry_out(bench.store, FindSpare(7, newest, 1)) == SpareFound(newest, spare)
    assert carry_out(bench.store, FindSpare(7, newest, 2)) == SpareFound(newest, None)
    bench.files.fail("pread", errno.EIO)
    assert carry_out(bench.store, FindSpare(7, newest, 1)) == SpareFound(newest, None)
