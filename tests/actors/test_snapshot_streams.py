"""A machine whose state is a file: no step of a snapshot's way has all of it in memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

from actors.group_messages import (
    CheckReceived,
    ChunkRead,
    ReadChunk,
    ReceivedUnchecked,
    SnapshotWritten,
    StoreChunk,
    WriteSnapshot,
)
from actors.machine import MachineActor, Restore, RestoreEnded, RunRestore
from actors.machines import Machine
from actors.runtime import VirtualClock
from actors.snapshot_files import carry_out, run_restore
from raft.configuration import Configuration
from raft.messages import ChunkStored, Replica, SnapshotMeta, SnapshotReceived
from raft.store.files import Files
from raft.store.snapshots import SnapshotStore

STATE_BYTES = 64 << 20
MEMORY_BYTES_MAX = 8 << 20
PIECE_BYTES = 128 << 10
CHUNK_BYTES = 256 << 10
A, B = Replica("n1", 1), Replica("n2", 2)
MEMBERS = Configuration.of(A, B)


class FileView:
    """The file as it is now: a name of its own for content that is replaced and never changed."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".view")
        os.link(path, self._path)

    def write(self, sink: Callable[[bytes], None]) -> None:
        try:
            with self._path.open("rb") as file:
                while piece := file.read(PIECE_BYTES):
                    sink(piece)
        finally:
            self._path.unlink()


class FileMachine(Machine):
    def __init__(self, path: Path) -> None:
        self.path = path

    def snapshot(self) -> FileView:
        return FileView(self.path)

    def restore(self, reader: Iterator[bytes], version: int) -> None:
        aside = self.path.with_suffix(".new")
        with aside.open("wb") as file:
            for piece in reader:
                file.write(piece)
        aside.rename(self.path)

    def digest(self) -> bytes:
        crc = 0
        with self.path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                crc = crc32(piece, crc)
        return crc.to_bytes(4, "big")


def a_machine(directory: Path, seed: bytes) -> FileMachine:
    directory.mkdir()
    path = directory / "state"
    with path.open("wb") as file:
        for number in range(STATE_BYTES // PIECE_BYTES):
            file.write((seed + number.to_bytes(4, "big")) * (PIECE_BYTES // 8))
    return FileMachine(path)


def write(store: SnapshotStore, machine: FileMachine) -> SnapshotMeta:
    view = machine.snapshot()
    replacement = machine.path.with_suffix(".other")
    replacement.write_bytes(b"applies go on")
    replacement.rename(machine.path)
    result = carry_out(store, WriteSnapshot(7, 10, 1, MEMBERS, 5, 1, view))
    assert isinstance(result, SnapshotWritten)
    return result.meta


def travel(meta: SnapshotMeta, sender: SnapshotStore, receiver: SnapshotStore, until: int) -> int:
    result = carry_out(receiver, StoreChunk(7, meta, 0, b""))
    while isinstance(result, ChunkStored) and result.offset < until:
        read = carry_out(sender, ReadChunk(7, B, 3, meta, result.offset, CHUNK_BYTES))
        assert isinstance(read, ChunkRead)
        result = carry_out(receiver, StoreChunk(7, meta, read.offset, read.data))
    if isinstance(result, SnapshotReceived):
        return meta.size_bytes
    assert isinstance(result, ChunkStored)
    return result.offset


def restore(machine: FileMachine, store: SnapshotStore, meta: SnapshotMeta) -> None:
    clock = VirtualClock(0)
    actor = MachineActor("machine/7", 7, machine, "group/7", clock, open_snapshot=store.read)
    (effect,) = actor.handle(Restore(meta)) or ()
    assert isinstance(effect, RunRestore)
    assert run_restore(effect) == RestoreEnded(meta)


def test_sixty_four_megabytes_are_written_sent_taken_up_and_restored_within_eight(
    tmp_path: Path,
) -> None:
    one, two = a_machine(tmp_path / "one", b"one "), a_machine(tmp_path / "two", b"two ")
    digest = one.digest()
    assert two.digest() != digest
    sender = SnapshotStore(Files(), str(tmp_path / "one" / "snapshots"))
    receiver = SnapshotStore(Files(), str(tmp_path / "two" / "snapshots"))
    tracemalloc.start()
    try:
        meta = write(sender, one)
        assert meta.size_bytes > STATE_BYTES
        held = travel(meta, sender, receiver, STATE_BYTES // 2)
        receiver = SnapshotStore(Files(), str(tmp_path / "two" / "snapshots"))  # restarted
        asked = carry_out(receiver, StoreChunk(7, meta, 0, b""))
        assert asked == ReceivedUnchecked(meta)
        carry_out(receiver, CheckReceived(7))
        again = carry_out(receiver, StoreChunk(7, meta, 0, b""))
        assert isinstance(again, ChunkStored)
        assert held - CHUNK_BYTES < again.offset <= held
        assert travel(meta, sender, receiver, meta.size_bytes) == meta.size_bytes
        restore(two, receiver, meta)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert two.digest() == digest
    assert peak < MEMORY_BYTES_MAX, f"{peak / 1e6:.1f} MB"
