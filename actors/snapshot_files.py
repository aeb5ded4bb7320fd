"""The blocking half of snapshots: effects of a group actor, carried out on its files.

What may live here: what each effect does to a :class:`~raft.store.snapshots.SnapshotStore`, and the
two threads that do it in a worker.  A simulation calls :func:`carry_out` and :func:`run_restore`
where it likes; what they return is told to the actor by control.

**Two threads.**  *Long* work (writing a snapshot, restoring a machine, looking at what was received
before a restart) goes one after the other, whatever group it is for: it is mostly computing, so two
at once would be no faster and disturb the loop twice as much (pitfall 43).  A snapshot is written
with pauses, longer than the work between them: the loop needs Python's lock for each message.
*Short* work (a chunk to send, a chunk received, files to be removed) has a thread of its own, so
that no receiver waits for somebody's snapshot to be written.

Whatever fails here fails a snapshot and nothing else: it is written anew, sent again, or not taken;
the log, which promises rest on, is not concerned.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final
from weakref import WeakKeyDictionary

from actors.group_messages import (
    BackupChunk,
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
    UploadStored,
    WriteSnapshot,
)
from actors.machine import RestoreEnded, RunRestore
from raft.messages import ChunkStored, SnapshotLost, SnapshotReceived
from raft.store.errors import StoreError
from raft.store.snapshots import SnapshotStore
from raft.store.uploads import Uploads

log = logging.getLogger("polyraft.snapshots")

# Python lets a computing thread run for 5 ms by default while the loop waits, at each message.
SWITCH_INTERVAL_S: Final = 0.000_5

# So long does a snapshot that is written have the processor before it pauses, and the share of
# the time that it has at most.
PIECE_S: Final = 0.000_5
SHARE: Final = 0.4

Work = Callable[[], object]
Pace = Callable[[], object]


# --------------------------------------------------------------------------- what each effect does


def _write(store: SnapshotStore, effect: WriteSnapshot, pace: Pace) -> object:
    began_ns = time.perf_counter_ns()
    try:
        writer = store.begin(
            effect.index,
            effect.term,
            effect.configuration,
            effect.time_ms,
            effect.machine_version,
        )
    except (OSError, StoreError) as error:
        return _not_written(effect, error)
    try:
        effect.view.write(_paced(writer.write, pace))
        meta = writer.finish()
    except Exception as error:  # noqa: BLE001 - of the disk or the machine: there is no snapshot
        try:
            writer.abort()
        except OSError as also:
            log.warning("group %d: an unfinished snapshot stays for now: %s", effect.group, also)
        return _not_written(effect, error)
    return SnapshotWritten(meta, (time.perf_counter_ns() - began_ns) // 1_000_000)


def _not_written(effect: WriteSnapshot, error: Exception) -> SnapshotFailed:
    log.error("group %d: the snapshot at %d failed: %r", effect.group, effect.index, error)
    return SnapshotFailed(f"the snapshot could not be written: {error!r:.500}")


def _paced(sink: Callable[[bytes], None], pace: Pace) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        sink(data)
        pace()

    return write


def _read(store: SnapshotStore, effect: ReadChunk, _: Pace) -> object:
    snapshot = effect.snapshot
    try:
        data = store.read_raw(snapshot, effect.offset, effect.bytes_max)
    except (OSError, StoreError) as error:
        log.error("group %d: a snapshot cannot be sent: %s", effect.group, error)
        return SnapshotLost(snapshot)
    return ChunkRead(effect.to, effect.term, snapshot, effect.offset, data)


def _store(store: SnapshotStore, effect: StoreChunk, _: Pace) -> object:
    snapshot = effect.snapshot
    try:
        held_bytes = store.receive(snapshot, effect.offset, effect.data)
        if held_bytes is None:
            return ReceivedUnchecked(snapshot)
        if held_bytes < snapshot.size_bytes:
            return ChunkStored(snapshot, held_bytes)
        if store.complete(snapshot):
            return SnapshotReceived(snapshot)
    except (OSError, StoreError) as error:
        log.error("group %d: a received snapshot is not stored: %s", effect.group, error)
        return ChunkFailed(snapshot)
    log.error("group %d: the snapshot received at %d is damaged", effect.group, snapshot.index)
    return ChunkStored(snapshot, 0)


def _read_backup(store: SnapshotStore, effect: ReadBackup, _: Pace) -> object:
    snapshot, offset = effect.snapshot, effect.offset
    try:
        data = store.read_raw(snapshot, offset, effect.bytes_max)
    except (OSError, StoreError) as error:
        log.error("group %d: a snapshot cannot be backed up: %s", effect.group, error)
        return BackupChunk(effect.key, snapshot, offset, b"", str(error))
    return BackupChunk(effect.key, snapshot, offset, data)


# By the snapshots of the replica of ``_system``, which takes them in.
_uploads: Final[WeakKeyDictionary[SnapshotStore, Uploads]] = WeakKeyDictionary()


def _store_upload(store: SnapshotStore, effect: StoreUpload, _: Pace) -> object:
    uploads = _uploads.get(store)
    if uploads is None:
        files, directory = store.place
        data = os.path.dirname(os.path.dirname(os.path.dirname(directory)))
        uploads = _uploads[store] = Uploads(files, data)
    try:
        held_bytes = uploads.receive(effect.snapshot, effect.offset, effect.data)
    except (OSError, StoreError) as error:
        log.error("a snapshot to be restored is not stored: %s", error)
        return UploadStored(effect.key, 0, f"it cannot be stored: {error}")
    return UploadStored(effect.key, held_bytes)


def _keep(store: SnapshotStore, effect: KeepSnapshots, _: Pace) -> None:
    try:
        store.keep(effect.snapshots, useless_to=effect.useless_to, spare_from=effect.spare_from)
    except (OSError, StoreError) as error:
        log.warning("group %d: old snapshots stay for now: %s", effect.group, error)


def _check(store: SnapshotStore, effect: CheckReceived, _: Pace) -> object:
    try:
        store.check_received()
    except (OSError, StoreError) as error:
        log.warning("group %d: a part of a snapshot is thrown away: %s", effect.group, error)
    return ReceivedChecked()


def _find(store: SnapshotStore, effect: FindSpare, _: Pace) -> object:
    try:
        spare = store.spare(effect.than, effect.first)
    except (OSError, StoreError) as error:
        log.error("group %d: the snapshots cannot be looked through: %s", effect.group, error)
        spare = None
    return SpareFound(effect.than, spare)


_WORK: Final[dict[type, Callable[[SnapshotStore, Any, Pace], object]]] = {
    WriteSnapshot: _write,
    ReadChunk: _read,
    ReadBackup: _read_backup,
    StoreChunk: _store,
    StoreUpload: _store_upload,
    KeepSnapshots: _keep,
    CheckReceived: _check,
    FindSpare: _find,
}
EFFECTS: Final = tuple(_WORK)
LONG: Final = frozenset((WriteSnapshot, CheckReceived))


def carry_out(store: SnapshotStore, effect: Any, pace: Pace = lambda: None) -> object:
    """What the group actor is to be told; None: nothing.

    ``pace`` is called between two pieces of a snapshot that is written.
    """
    return _WORK[type(effect)](store, effect, pace)


def run_restore(effect: RunRestore) -> RestoreEnded:
    """What the machine actor is to be told."""
    try:
        effect.work()
    except Exception as error:  # noqa: BLE001 - of the file or the machine, which is quarantined
        return RestoreEnded(effect.meta, error)
    return RestoreEnded(effect.meta)


# --------------------------------------------------------------------------- the threads


class Pauses:
    """A pace: after each piece of work, as long a pause as makes the work its share of the time.

    By the time for which this thread had the processor: who had to wait for it has paused.
    """

    __slots__ = ("_began_s", "_never")

    def __init__(self) -> None:
        self._never = threading.Event()
        self._began_s = time.thread_time()

    def __call__(self) -> None:
        worked_s = time.thread_time() - self._began_s
        if worked_s >= PIECE_S:
            self._never.wait(worked_s * (1 - SHARE) / SHARE)
            self._began_s = time.thread_time()


class SnapshotThreads:
    """``post`` brings a call back to the loop's thread."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._long: SimpleQueue[tuple[Work, Callable[[object], None]]] = SimpleQueue()
        self._short: SimpleQueue[tuple[Work, Callable[[object], None]]] = SimpleQueue()
        self._started = False

    def submit(self, work: Work, on_done: Callable[[Any], None], *, long: bool = False) -> None:
        """Have ``on_done`` called, in the loop's thread, with what ``work`` has returned."""
        if not self._started:
            # Most workers never come here in tests, and many groups take no snapshot for days.
            self._started = True
            self._start("snapshots", self._long, is_long=True)
            self._start("snapshot-chunks", self._short, is_long=False)
        (self._long if long else self._short).put((work, on_done))

    def _start(self, name: str, queue: SimpleQueue[Any], *, is_long: bool) -> None:
        threading.Thread(target=self._run, args=(queue, is_long), name=name, daemon=True).start()

    def _run(
        self, queue: SimpleQueue[tuple[Work, Callable[[object], None]]], is_long: bool
    ) -> None:
        usual_s = sys.getswitchinterval()
        while True:
            work, on_done = queue.get()
            if is_long:
                sys.setswitchinterval(SWITCH_INTERVAL_S)
            try:
                result = work()
            except BaseException as error:  # noqa: BLE001 - a bug: the loop is told, and ends
                self._post(_raiser(error))
                continue
            finally:
                if is_long:
                    sys.setswitchinterval(usual_s)
            self._post(_call(on_done, result))


def _call(on_done: Callable[[object], None], result: object) -> Callable[[], None]:
    return lambda: on_done(result)


def _raiser(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it
