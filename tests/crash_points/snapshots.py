"""Stories of snapshots: taken and received, brought for a group that is to come, and backed up."""

from __future__ import annotations

import base64
import errno
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, cast
from unittest.mock import patch

from actors import ctl_backup, snapshot_files
from actors.group_messages import (
    CheckReceived,
    FindSpare,
    KeepSnapshots,
    ReceivedUnchecked,
    SnapshotFailed,
    SnapshotWritten,
    SpareFound,
    StoreChunk,
    StoreUpload,
    UploadStored,
    WriteSnapshot,
)
from actors.replica import (
    Surroundings,
    begin_group,
    find_log,
    forget_snapshots,
    snapshot_store,
)
from actors.restores import save_beginning
from actors.runtime import MonotonicClock
from actors.settings import SnapshotSettings
from raft.configuration import Configuration
from raft.messages import (
    ChunkStored,
    Mark,
    Replica,
    SnapshotMeta,
    SnapshotReceived,
)
from raft.settings import RaftSettings
from raft.store import backup_file, incoming, snapshots
from raft.store.backup_file import BackupFile, BackupHead, BackupWriter, BadBackup, meta_values
from raft.store.files import Files, make_directory
from raft.store.incoming import RECEIVING
from raft.store.memory import MemoryFiles
from raft.store.placement import BORN, LEFT, PlacedGroup, Placement
from raft.store.snapshot_file import CHUNK_BYTES
from raft.store.snapshots import SnapshotStore, snapshot_name
from raft.store.space import SparingFiles
from raft.store.uploads import RESTORE, directory_of, snapshots_of, take
from tests.crash_points.disk import DIES, LOST
from tests.crash_points.logs import OPTIONS, SlotStory
from tests.crash_points.story import Found, Story
from tests.raft.store.kit import INCARNATION, N1, N2, run_of

DATA: Final = "/data"
GROUP: Final = 7
ME: Final = Replica(N1.node, INCARNATION)
MEMBERS: Final = Configuration.of(ME, N2)


def bytes_of(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


@cache
def a_snapshot(
    index: int, count: int, term: int = 2, members: Configuration = MEMBERS
) -> tuple[SnapshotMeta, bytes]:
    """Somebody else's, as a file."""
    store = SnapshotStore(MemoryFiles(), "/elsewhere")
    writer = store.begin(index, term, members, 5, 1)
    writer.write(bytes_of(count, index))
    meta = writer.finish()
    return meta, store.read_raw(meta, 0, meta.size_bytes)


def small_steps(count: int) -> AbstractContextManager[object]:
    """Syncs after so many bytes of a snapshot, on whichever way it is."""
    patches = ExitStack()
    for module in (snapshots, incoming, backup_file):
        patches.enter_context(patch.object(module, "SYNC_BYTES", count))
    return patches


@dataclass
class View:
    """A machine, as it was when its snapshot was taken; it may fail while it is written."""

    pieces: list[bytes]
    fails: bool = False

    def write(self, sink: Callable[[bytes], None]) -> None:
        for piece in self.pieces:
            sink(piece)
        if self.fails:
            raise ValueError("the machine has a bug")


# --------------------------------------------------------------------------- taken, received


class SnapshotStory(SlotStory):
    """Snapshots of one group are taken and recorded, two of them kept; some fail; another one comes
    from the leader, and the log begins anew behind it."""

    title = "snapshots that are taken"
    points_min = 100

    @classmethod
    def settings(cls) -> AbstractContextManager[object]:
        return small_steps(1_000)

    def prepare(self) -> None:
        self.files.mkdir(DATA)
        self.files.fsync_dir("/")

    def start(self) -> None:
        self.open(**OPTIONS)
        self.store = SnapshotStore(SparingFiles(self.files, DATA, 1_000), snapshots_of(DATA, GROUP))
        self._see_snapshots()

    def _see_snapshots(self) -> None:
        """The one that stands for the log is there, and whole; so is the one that is kept."""
        group = self.slot.groups.get(GROUP)
        meta = None if group is None else group.snapshot
        self.marked = meta
        if group is None or meta is None:
            return
        self.store.verify(meta)
        found = snapshot_files.carry_out(
            self.store, FindSpare(GROUP, meta, max(1, group.base_index))
        )
        assert isinstance(found, SpareFound)
        self.found["spare"] = None if found.spare is None else found.spare.index
        if found.spare is not None:
            self.store.verify(found.spare)

    def episodes(self) -> list[Callable[[], None]]:
        return [
            self._it_begins,
            lambda: self._take(4, 0),
            lambda: self._take(7, 4),
            self._one_fails,
            lambda: self._take(10, 7),
            self._disk_fails,
            lambda: self.starts_again(),
            self._one_comes,
            lambda: self._take(60, 50, CHUNK_BYTES + 100),
        ]

    def _it_begins(self) -> None:
        if GROUP not in self.slot.wal._groups:
            self.begin(GROUP, term=2)
            self.save(GROUP, runs=[run_of(index, term=2) for index in range(1, 13)])
            self.write()

    def _write(self, index: int, view: View, term: int = 2) -> object:
        effect = WriteSnapshot(GROUP, index, term, MEMBERS, 5, 1, view)
        return snapshot_files.carry_out(self.store, effect)

    def _take(self, index: int, before: int, count: int = 2_500) -> None:
        """``before``: the one that is kept, from which on the log is."""
        if self.marked is not None and self.marked.index >= index:
            self._keep()
            return
        log = self.slot.wal._groups[GROUP]
        if log.last_index < index:
            runs = [run_of(at, term=2) for at in range(log.last_index + 1, index + 3)]
            self.save(GROUP, runs=runs)
            self.write()
        written = self._write(index, View([bytes_of(count, index), b"more of it"]))
        assert isinstance(written, SnapshotWritten)
        mark = Mark(written.meta, before, 2 if before else 0, resets=False)
        self._record(mark, before if before else None)

    def _record(self, mark: Mark, spare: int | None) -> None:
        self.save(GROUP, mark=mark)
        with self.promises.making("spare", lambda: spare):
            self.write()
        self.marked = mark.snapshot
        self._keep()

    def _keep(self) -> None:
        assert self.marked is not None
        base = self.slot.wal._groups[GROUP].base_index
        effect = KeepSnapshots(GROUP, [self.marked], self.marked.index, max(1, base))
        snapshot_files.carry_out(self.store, effect)
        names = self.files.listdir(snapshots_of(DATA, GROUP))
        assert snapshot_name(self.marked) in names
        assert len(names) <= 2, f"the newest, and the one before it: {names}"

    def _one_fails(self) -> None:
        failed = self._write(9, View([bytes_of(1_500, 9)], fails=True))
        assert isinstance(failed, SnapshotFailed)

    def _disk_fails(self) -> None:
        """At each of its operations."""
        for operation in ("pwrite", "fdatasync", "fsync", "rename", "fsync_dir"):
            path = "/snapshots" if operation == "fsync_dir" else ".writing"
            self.files.fail(operation, errno.EIO, path=path)
            failed = self._write(11, View([bytes_of(1_500, 11)]))
            assert isinstance(failed, SnapshotFailed), operation
            self._keep()
        self.files.repair()

    def _one_comes(self) -> None:
        meta, whole = a_snapshot(50, 3_000)
        if self.marked is not None and self.marked.index >= meta.index:
            self._keep()
            return
        receive(self.store, meta, whole, 1_000)
        self._record(Mark(meta, meta.index, meta.term, resets=True), None)


def receive(store: SnapshotStore, meta: SnapshotMeta, whole: bytes, step: int) -> None:
    """All that is missing of it."""
    held = held_of(store, meta)
    while held < meta.size_bytes:
        chunk = StoreChunk(GROUP, meta, held, whole[held : held + step])
        stored = snapshot_files.carry_out(store, chunk)
        if isinstance(stored, SnapshotReceived):
            return
        assert isinstance(stored, ChunkStored)
        assert stored.offset > held
        held = stored.offset


def held_of(store: SnapshotStore, meta: SnapshotMeta) -> int:
    """As the sender asks, without any bytes; all of it: it has its name."""
    for _ in range(2):
        stored = snapshot_files.carry_out(store, StoreChunk(GROUP, meta, 0, b""))
        if not isinstance(stored, ReceivedUnchecked):
            break
        snapshot_files.carry_out(store, CheckReceived(GROUP))
    if isinstance(stored, SnapshotReceived):
        return meta.size_bytes
    assert isinstance(stored, ChunkStored)
    return stored.offset


class ReceivingStory(Story):
    """A snapshot comes in, through restarts of who receives it; others take its place; some of what
    comes is not what it is said to be."""

    title = "a snapshot that is received"
    points_min = 60
    step = 180_000

    @classmethod
    def settings(cls) -> AbstractContextManager[object]:
        return small_steps(150_000)

    def prepare(self) -> None:
        make_directory(self.files, DATA)

    def start(self) -> None:
        self.store = SnapshotStore(self.files, snapshots_of(DATA, GROUP))
        self.meta, self.whole = a_snapshot(50, 2 * CHUNK_BYTES)
        self.found = {}
        if self.store.has(self.meta):
            # One that has its name is whole; that it has it was promised only when it was received.
            self.store.verify(self.meta)
        directory = snapshots_of(DATA, GROUP)
        names = self.files.listdir(directory) if self.files.exists(directory) else []
        assert sum(name.endswith(".receiving") for name in names) <= 1

    def episodes(self) -> list[Callable[[], None]]:
        return [
            self._another_begins,
            self._what_comes_is_wrong,
            self._more_of_it,
            self._more_of_it,
            self._goes_on,
            self._what_is_left_is_nothing,
            self._what_is_left_is_of_another,
            self._its_name_is_refused,
            self._all_of_it,
        ]

    def _store(self, meta: SnapshotMeta, offset: int, data: bytes) -> object:
        return snapshot_files.carry_out(self.store, StoreChunk(GROUP, meta, offset, data))

    def _another_begins(self) -> None:
        other, data = a_snapshot(40, 2_000)
        held_of(self.store, other)
        self._store(other, 0, data[:500])

    def _what_comes_is_wrong(self) -> None:
        """As long as it should be, and something else: thrown away."""
        meta, data = a_snapshot(45, 2_000)
        held = held_of(self.store, meta)
        wrong = data[:-1] + bytes([data[-1] ^ 1])
        stored = self._store(meta, held, wrong[held:])
        assert stored == ChunkStored(meta, 0)

    def _more_of_it(self) -> None:
        """But not all."""
        held = held_of(self.store, self.meta)
        end = min(held + self.step, self.meta.size_bytes - 1)
        self._store(self.meta, held, self.whole[held:end])

    def _goes_on(self) -> None:
        """After a restart; and once more, when power was lost."""
        for fate in (DIES, LOST):
            self.starts_again(fate)
            self._more_of_it()

    def _what_is_left_is_nothing(self) -> None:
        """Of two files from before a restart one is no use; nor is one with nothing sound in it."""
        directory = snapshots_of(DATA, GROUP)
        for name in ("junk.receiving", f"{'0' * 15}a-{'0' * 15}2-00000000.receiving"):
            self.files.put(f"{directory}/{name}", b"junk")
        self.files.put(f"{directory}/junk.writing", b"junk")
        self.files.kill()
        self.store = SnapshotStore(self.files, directory)
        snapshot_files.carry_out(self.store, CheckReceived(GROUP))
        other, _ = a_snapshot(40, 2_000)
        assert held_of(self.store, other) == 0

    def _what_is_left_is_of_another(self) -> None:
        """Its name is that of one, and what is in it of another one."""
        (one, _), (_, another) = a_snapshot(47, 2_000), a_snapshot(46, 2_000)
        name = snapshot_name(one).replace(".snapshot", ".receiving")
        self.store.stop_receiving()
        self.files.put(f"{snapshots_of(DATA, GROUP)}/{name}", another)
        self.starts_again()
        assert held_of(self.store, one) == 0

    def _its_name_is_refused(self) -> None:
        """The disk fails when all of it is there."""
        for operation in ("rename", "pwrite"):
            other, data = a_snapshot(48, 2_000)
            held = held_of(self.store, other)
            self.files.fail(operation, errno.EIO, path=".receiving")
            self._store(other, held, data[held:])
            self.files.repair()

    def _all_of_it(self) -> None:
        receive(self.store, self.meta, self.whole, self.step)
        self.store.verify(self.meta)
        snapshot_files.carry_out(self.store, KeepSnapshots(GROUP, [self.meta], self.meta.index))

    def end(self) -> Found:
        directory = snapshots_of(DATA, GROUP)
        names = self.files.listdir(directory) if self.files.exists(directory) else []
        return {"received": snapshot_name(self.meta) in names}


# --------------------------------------------------------------------------- brought, and taken


class RestoreStory(SlotStory):
    """A snapshot is brought to a node, and a group begins with it; of others that were brought
    nobody takes one; the group is left again, and its snapshots go."""

    title = "a group that is restored"
    points_min = 60

    @classmethod
    def settings(cls) -> AbstractContextManager[object]:
        return small_steps(1_000)

    def prepare(self) -> None:
        make_directory(self.files, DATA)

    def start(self) -> None:
        self.files.fsync_dir(DATA)  # as the node process does
        self.meta, self.whole = a_snapshot(40, 2_500, members=Configuration.of(ME))
        self.around = Surroundings(
            me=ME,
            files=self.files,
            data=DATA,
            client_address="",
            clock=MonotonicClock(),
            raft=RaftSettings(),
            snapshots=SnapshotSettings(),
            machines=frozenset(),
            may_answer=lambda: True,
        )
        self.catalog = snapshot_store(self.around, 1)
        self.placement = Placement.load(self.files, DATA)
        self.open(**OPTIONS)
        self.found["placement"] = dict(self.placement.groups)
        self._see_the_group()

    def _see_the_group(self) -> None:
        placed = self.placement.groups.get(GROUP)
        if placed is None or LEFT in placed.options:
            return
        recovered = find_log(placed, self.slot.groups.get(GROUP))  # raises if it is gone
        if recovered is not None and recovered.snapshot is not None:
            snapshot_store(self.around, GROUP).verify(recovered.snapshot)

    def episodes(self) -> list[Callable[[], None]]:
        return [self._brought, self._placed, self._begun, self._another_is_brought, self._left]

    def _bring(self, meta: SnapshotMeta, whole: bytes) -> None:
        held = 0
        while held < meta.size_bytes:
            effect = StoreUpload(1, None, meta, held, whole[held : held + 900])
            stored = snapshot_files.carry_out(self.catalog, effect)
            assert isinstance(stored, UploadStored)
            assert stored.error is None, stored.error
            held = stored.held_bytes

    def _brought(self) -> None:
        other, data = a_snapshot(30, 1_000)
        self._bring(other, data)
        for _ in range(2):  # the second time it is there
            self._bring(self.meta, self.whole)

    def _place(self, **options: Any) -> None:
        placed = PlacedGroup(0, 1, "kv", "kv", (ME,), options)
        if self.placement.groups.get(GROUP) != placed:
            groups = {GROUP: placed}
            with self.promises.making("placement", lambda: groups):
                self.placement.replace(groups)

    def _placed(self) -> None:
        """The catalog has said so, because all of it was here."""
        if GROUP not in self.placement.groups:
            self._place(restore=meta_values(self.meta))

    def _begun(self) -> None:
        placed = self.placement.groups[GROUP]
        if placed.is_born or LEFT in placed.options:
            return
        if self.slot.wal._groups.get(GROUP) is None:
            recovered = begin_group(self.around, GROUP, placed)
            assert recovered.snapshot == self.meta, "it was brought here"
            assert recovered.bootstrap is not None
            self.slot.wal.add_group(GROUP, placed.generation, recovered.bootstrap)
            save_beginning(self.slot.wal, recovered)
            self.write()
        self._place(**{RESTORE: meta_values(self.meta), BORN: True})
        assert take(self.files, DATA, GROUP, self.meta), "as after a crash before the log said so"

    def _another_is_brought(self) -> None:
        """In another life of the worker: what nobody took goes."""
        self.starts_again()
        other, data = a_snapshot(31, 1_000)
        for part in ("a", "b"):
            self.files.put(f"{directory_of(DATA)}/{part}{RECEIVING}", b"junk")
        self._bring(other, data)
        left = self.files.listdir(directory_of(DATA))
        assert [name for name in left if "snapshot" in name] == [snapshot_name(other)]

    def _left(self) -> None:
        self._place(**{LEFT: 9})
        if self.slot.wal._groups[GROUP].damaged is None:
            self.slot.wal.forget_group(GROUP, "left")
            self.write()
        forget_snapshots(
            GROUP,
            None,
            lambda: snapshot_store(self.around, GROUP),
            lambda: Placement.load(self.files, DATA),
        )
        assert self.files.listdir(snapshots_of(DATA, GROUP)) == []

    def end(self) -> Found:
        directory = directory_of(DATA)
        names = self.files.listdir(directory) if self.files.exists(directory) else []
        return {**self.found, "uploads": snapshot_name(self.meta) in names}


# --------------------------------------------------------------------------- backed up


class BackupStory(Story):
    """A backup is written beside everything else of a node; some are given up."""

    title = "a backup"
    points_min = 25
    acts_on_what_it_finds = False  # a person does, who was told by a program that it is there
    path = "/backups/kv.backup"

    @classmethod
    def settings(cls) -> AbstractContextManager[object]:
        return small_steps(1_000)

    def prepare(self) -> None:
        make_directory(self.files, "/backups")

    def start(self) -> None:
        """As whoever looks for it."""
        self.found = {}
        if self.files.exists(self.path):
            BackupFile(self.files, self.path).verify()
            self.found["backup"] = True

    def episodes(self) -> list[Callable[[], None]]:
        return [self._given_up, self._cannot_begin, self._written, self._written]

    def _head(self) -> BackupHead:
        meta, _ = a_snapshot(40, 2_500)
        return BackupHead("kv", "kv", "c" * 32, "n1", meta, 5, "1")

    def _writer(self) -> BackupWriter:
        return BackupWriter(self.files, self.path, self._head())

    def admin(self, group: str, command: str, *more: object, address: str) -> dict[str, Any]:
        """The node that has the snapshot."""
        offset = int(cast(dict[str, str], more[1])["offset"])
        _, whole = a_snapshot(40, 2_500)
        return {"data": base64.b64encode(whole[offset : offset + 700]).decode()}

    def _given_up(self) -> None:
        if self.files.exists(self.path):
            return
        writer = self._writer()
        writer.write(b"x" * 1_500)
        writer.abort()

    def _cannot_begin(self) -> None:
        if self.files.exists(self.path):
            return
        self.files.fail("pwrite", errno.EIO, path=backup_file.WRITING)
        try:
            self._writer()
        except OSError:
            self.files.repair()

    def _written(self) -> None:
        options = SimpleNamespace(file=self.path, group="kv", addresses=["n1"])

        def files() -> Files:
            return self.files

        with (
            suppress(BadBackup),  # it is there
            patch.object(ctl_backup, "Files", files),
            self.promises.making("backup", lambda: True),
        ):
            ctl_backup._receive(cast(Any, self), cast(Any, options), "begun", self._head())
