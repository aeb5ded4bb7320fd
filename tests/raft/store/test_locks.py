"""Two writers on one directory must be impossible."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raft.store.errors import LockHeld
from raft.store.files import Files
from raft.store.identity import Child, DataLock
from raft.store.locks import FileLock, me, process_start_time, read_lock_file
from raft.store.memory import MemoryFiles
from raft.store.wal import Wal

HOLDER = """
import sys
from raft.store.files import Files
from raft.store.wal import Wal
wal, _ = Wal.open(Files(), sys.argv[1], slot=0, incarnation=1, random_id=lambda: 1)
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_opener_is_told_who_holds_it(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = FileLock(Files(), path)
    lock.write(me())
    with pytest.raises(LockHeld, match=f"process {os.getpid()} ") as caught:
        FileLock(Files(), path)
    assert caught.value.path == path
    lock.close()
    lock.close()
    second = FileLock(Files(), path)
    assert second.previous == me()
    second.close()


def test_a_wal_is_opened_by_one_process_until_its_death(tmp_path: Path) -> None:
    directory = str(tmp_path / "wal" / "0")
    root = Path(__file__).resolve().parents[3]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=root,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(LockHeld, match=f"process {holder.pid} "):
            Wal.open(Files(), directory, slot=0, incarnation=1, random_id=lambda: 2)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    wal, _ = Wal.open(Files(), directory, slot=0, incarnation=1, random_id=lambda: 2)
    content = read_lock_file(Files(), f"{directory}/lock")
    assert content == {**me(), "slot": 0}
    wal.close()


def test_a_lock_file_with_anything_in_it_is_locked_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for content in (b"", b"{", b"\xff", b"[1]", b'{"pid"'):
        path.write_bytes(content)
        lock = FileLock(Files(), str(path))
        assert lock.previous == {}
        with pytest.raises(LockHeld, match="another process"):
            FileLock(Files(), str(path))
        lock.close()
    assert read_lock_file(Files(), str(tmp_path / "none")) == {}


def test_a_shorter_content_leaves_nothing_of_the_longer(tmp_path: Path) -> None:
    lock = FileLock(Files(), str(tmp_path / "lock"))
    lock.write({"pid": 1, "children": ["x" * 1000]})
    lock.write({"pid": 2})
    assert read_lock_file(Files(), str(tmp_path / "lock")) == {"pid": 2}
    lock.close()


def test_children_left_over_stay_listed_until_they_are_dealt_with(tmp_path: Path) -> None:
    """Also when the node process that was to end them dies before it has."""
    data = str(tmp_path)
    children = (Child(41, 1000, "worker", 3), Child(42, None, "router"))
    first = DataLock(Files(), data)
    assert first.left_over == ()
    first.set_children(children)
    first.close()
    second = DataLock(Files(), data)
    assert second.left_over == children
    second.close()
    third = DataLock(Files(), data)
    assert third.left_over == children
    third.set_children(())
    assert DataLock.read(Files(), data) == {**me(), "children": []}
    third.close()


def test_children_that_cannot_be_told_apart_are_left_out() -> None:
    files = MemoryFiles()
    files.put(
        "./lock", b'{"children": [7, {"pid": "x"}, {"pid": 5, "kind": "worker", "slot": "a"}]}'
    )
    assert DataLock(files, ".").left_over == (Child(5, None, "worker", None),)


def test_the_start_time_tells_a_process_from_its_successor() -> None:
    assert process_start_time(os.getpid()) == process_start_time(os.getpid())
    child = subprocess.Popen(["sleep", "60"])
    try:
        started = process_start_time(child.pid)
        own = process_start_time(os.getpid())
        assert started is not None
        assert own is not None
        assert started >= own
    finally:
        child.kill()
        child.wait()
    assert process_start_time(child.pid) is None
