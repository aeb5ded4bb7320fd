"""The snapshots of one group: ``DATA/groups/<group id>/snapshots``.

A snapshot is one file, named by what identifies it: ``<index>-<term>-<crc>.snapshot``, in hex.  It
is written under another name, synced, renamed, and the rename is synced; only then may the WAL say
that it stands for the log (pitfall 41).  So a file with its final name is complete, and is never
changed again.  What a crash leaves behind of one that was written is removed when the store is
opened; what was received goes on (:mod:`raft.store.incoming`)::

    write():    <index>-<term>.writing            --finish()-->    <index>-<term>-<crc>.snapshot
    receive():  <index>-<term>-<crc>.receiving    --complete()-->  the same

The bytes are sent as they are, so that a receiver has the same file as the sender, bit for bit.
Both sides check them: who sends does not pass damage on, which would be thrown away at the end of
the transfer and sent again for ever.

Which snapshots are still needed, the owner says with :meth:`SnapshotStore.keep`.  One that was
finished since the last ``keep`` is not removed by it: the WAL does not know of it yet.  One before
the newest may be kept to spare, with the log from there on: should the newest turn out to be
damaged, this disk has all that is needed (:meth:`SnapshotStore.spare`).

Threads: the store itself may be used by several, a writer or an iterator by one at a time.  Nothing
here starts one.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from raft.configuration import Configuration
from raft.messages import SnapshotMeta
from raft.store.errors import SnapshotDamaged, UnknownFormat
from raft.store.files import Files
from raft.store.incoming import (
    RECEIVING,
    SUFFIX,
    SYNC_BYTES,
    Found,
    Incoming,
    create_empty,
    index_in,
    look_at,
    snapshot_name,
)
from raft.store.snapshot_file import (
    CHUNK,
    CHUNK_BYTES,
    Head,
    SnapshotFile,
    encode_end,
    encode_frame,
    encode_head,
    read_meta,
)

__all__ = ["SUFFIX", "SYNC_BYTES", "SnapshotStore", "SnapshotWriter", "snapshot_name"]

WRITING = ".writing"
_NAME = re.compile(rf"[0-9a-f]{{16}}-[0-9a-f]{{16}}-[0-9a-f]{{8}}{re.escape(SUFFIX)}")


class SnapshotStore:
    """See the top of this file.  Nothing is created before there is something to keep."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory
        self._lock = threading.Lock()
        self._written_aside: set[str] = set()  # names of open writers
        self._fresh: set[str] = set()  # complete, and not yet named in a call of keep()
        names = files.listdir(directory) if files.exists(directory) else []
        for name in names:
            if name.endswith(WRITING):
                files.unlink(self._path(name))
        self._incoming = Incoming(files, directory, [n for n in names if n.endswith(RECEIVING)])

    @property
    def place(self) -> tuple[Files, str]:
        """Where they are."""
        return self._files, self._directory

    # ------------------------------------------------------------------ writing

    def begin(
        self,
        index: int,
        term: int,
        configuration: Configuration,
        time_ms: int,
        machine_version: int,
    ) -> SnapshotWriter:
        """A writer, to be finished or aborted.  Raises OSError, StoreError."""
        head = Head(index, term, configuration, time_ms, machine_version)
        first_frame = encode_head(head)
        name = f"{index:016x}-{term:016x}{WRITING}"
        with self._lock:
            assert name not in self._written_aside, f"{name} is written twice at a time"
            descriptor = create_empty(self._files, self._directory, name)
            self._written_aside.add(name)
        return SnapshotWriter(self, name, descriptor, head, first_frame)

    def _end_writing(self, name: str) -> None:
        with self._lock:
            self._written_aside.discard(name)

    def _adopt(self, aside: str, meta: SnapshotMeta) -> None:
        """A synced file gets its final name, durably.  Called with the lock held."""
        name = snapshot_name(meta)
        self._files.rename(self._path(aside), self._path(name))
        self._files.fsync_dir(self._directory)
        self._fresh.add(name)

    # ------------------------------------------------------------------ reading

    def has(self, meta: SnapshotMeta) -> bool:
        """Whether there is a file; whether it is sound, :meth:`verify` tells."""
        return self._files.exists(self._path(snapshot_name(meta)))

    def read(self, meta: SnapshotMeta) -> Iterator[bytes]:
        """The machine's bytes, as they are needed.

        Raises SnapshotDamaged, at the latest instead of ending: who has restored half a machine
        from it must throw that away.  Also UnknownFormat, OSError.
        """
        with self._opened(meta) as file:
            yield from file.chunks()

    def verify(self, meta: SnapshotMeta) -> None:
        """Read all of it; raises as :meth:`read` does."""
        deque(self.read(meta), maxlen=0)

    def read_raw(self, meta: SnapshotMeta, offset: int, count: int) -> bytes:
        """Bytes of the file from ``offset`` on, fewer only at its end.  Raises as :meth:`read`."""
        with self._opened(meta) as file:
            return file.raw(offset, count)

    def _opened(self, meta: SnapshotMeta) -> SnapshotFile:
        return SnapshotFile(self._files, self._path(snapshot_name(meta)), meta)

    # ------------------------------------------------------------------ receiving

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int | None:
        """Keep bytes of this snapshot; how many are held of it afterwards.

        They are kept if they follow on what is held; or if they are the first ones, which takes
        the place of whatever was held of another snapshot; without any, it is only asked.  None:
        something is here from before a restart, and :meth:`check_received` has not looked at it
        yet.  After an OSError nothing is held.  Of one that was completed a moment ago, all is
        held: a chunk of it that was sent twice must not begin it anew.
        """
        with self._lock:
            if snapshot_name(meta) in self._fresh:
                return meta.size_bytes
            return self._incoming.receive(meta, offset, data)

    @property
    def is_receiving(self) -> bool:
        """There is a part of a snapshot, sound or not."""
        return self._incoming.name is not None

    def stop_receiving(self) -> None:
        """Throw away what is here of a snapshot, and close its file: this store is used no more."""
        with self._lock:
            self._incoming.drop()

    def check_received(self) -> None:
        """See how much there is of a snapshot that was being received before a restart.

        Takes as long as reading and writing it takes; meanwhile everything else can be done.
        """
        with self._lock:
            left = self._incoming.begin_check()
        if left is None:
            return
        found: Found | None = None
        try:
            found = look_at(self._files, self._path(left.name))
        finally:  # also of one that could not be read, nothing is held
            with self._lock:
                self._incoming.end_check(left, found)

    def complete(self, meta: SnapshotMeta) -> bool:
        """Give the received file its name, durably.  After that it counts as one of our own.

        False: not all of it is here, or it is not what ``meta`` says; what was held is gone.
        Raises UnknownFormat (a newer version's; gone, too), OSError.
        """
        with self._lock:
            if snapshot_name(meta) in self._fresh:
                return True
            aside = self._incoming.finish(meta)
            if aside is None:
                return False
            try:
                self._adopt(aside, meta)
            except OSError:
                if self._files.exists(self._path(aside)):
                    self._files.unlink(self._path(aside))
                raise
            return True

    # ------------------------------------------------------------------ removing

    def keep(
        self, metas: Iterable[SnapshotMeta], *, useless_to: int = 0, spare_from: int = 0
    ) -> None:
        """Remove all that is older than what is kept, or of no use to anybody.

        ``useless_to``: what is received of a snapshot up to this index is of no use.
        ``spare_from``: of those before the newest, keep one more, if it is not before this index
        (from which the log goes on); 0: none.
        Left alone: what is being written or received, and what was finished and not yet named here,
        unless something newer is named.
        """
        names = {snapshot_name(meta) for meta in metas}
        newest = max(map(index_in, names), default=0)
        with self._lock:
            incoming = self._incoming
            if incoming.name is not None and index_in(incoming.name) < max(newest, useless_to + 1):
                incoming.drop()
            self._fresh = {name for name in self._fresh - names if index_in(name) >= newest}
            names |= self._fresh | self._written_aside
            if incoming.name is not None:
                names.add(incoming.name)
            if not self._files.exists(self._directory):
                return
            found = self._files.listdir(self._directory)
            if spare_from:
                names |= set(self._before(newest, found, spare_from)[-1:])
            for name in found:
                if name.endswith((SUFFIX, WRITING, RECEIVING)) and name not in names:
                    # Not synced: a removal that is undone by a crash is done again.
                    self._files.unlink(self._path(name))

    def _before(self, index: int, names: list[str], first: int = 1) -> list[str]:
        """Snapshots of ``first`` .. ``index - 1``, oldest first."""
        return [name for name in names if _NAME.fullmatch(name) and first <= index_in(name) < index]

    def spare(self, meta: SnapshotMeta, first: int) -> SnapshotMeta | None:
        """The newest one of ``first`` .. before ``meta``, if there is any that can be told of.

        Raises OSError.
        """
        with self._lock:
            if not self._files.exists(self._directory):
                return None
            names = self._before(meta.index, self._files.listdir(self._directory), max(1, first))
        for name in reversed(names):
            index, term, crc = (int(part, 16) for part in name.removesuffix(SUFFIX).split("-"))
            try:
                return read_meta(self._files, self._path(name), (term, index, crc))
            except (SnapshotDamaged, UnknownFormat, FileNotFoundError):
                continue  # not that one, then
        return None

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


class SnapshotWriter:
    """A snapshot on its way to the disk.  Ends with :meth:`finish` or :meth:`abort`.

    After an OSError of any method it is aborted.
    """

    __slots__ = (
        "_buffer",
        "_bytes",
        "_crc",
        "_descriptor",
        "_head",
        "_is_open",
        "_name",
        "_number",
        "_offset",
        "_store",
        "_unsynced",
    )

    def __init__(
        self, store: SnapshotStore, name: str, descriptor: int, head: Head, first_frame: bytes
    ) -> None:
        self._store = store
        self._name = name
        self._descriptor = descriptor
        self._head = head
        self._is_open = True
        self._buffer = bytearray()
        self._bytes = 0  # of the machine
        self._number = 0  # of the next frame
        self._offset = 0
        self._unsynced = 0
        self._crc: int = crc32c(b"")
        self._append(first_frame)

    def write(self, data: bytes) -> None:
        """Bytes of the machine, in pieces of any size."""
        assert self._is_open, "the snapshot is finished or aborted"
        rest = memoryview(data)
        while rest:
            taken = rest[: CHUNK_BYTES - len(self._buffer)]
            self._buffer += taken
            rest = rest[len(taken) :]
            if len(self._buffer) == CHUNK_BYTES:
                self._flush()

    def finish(self) -> SnapshotMeta:
        """The snapshot is on the disk under its final name."""
        assert self._is_open, "the snapshot is finished or aborted"
        if self._buffer:
            self._flush()
        self._append(encode_end(self._number, self._bytes))
        meta = SnapshotMeta(
            self._head.index,
            self._head.term,
            self._head.configuration,
            self._head.time_ms,
            self._head.machine_version,
            self._offset,
            self._crc,
        )
        store = self._store
        try:
            store._files.fsync(self._descriptor)
            with store._lock:
                store._adopt(self._name, meta)
        except OSError:
            self.abort()
            raise
        self._close()
        return meta

    def abort(self) -> None:
        """Throw it away.  Does nothing to one that is finished or aborted."""
        if not self._is_open:
            return
        self._close()
        path = self._store._path(self._name)
        if self._store._files.exists(path):  # or it was renamed, and that could not be synced
            self._store._files.unlink(path)

    def _close(self) -> None:
        self._is_open = False
        self._store._files.close(self._descriptor)
        self._store._end_writing(self._name)

    def _flush(self) -> None:
        body = bytes(self._buffer)
        self._buffer.clear()
        self._bytes += len(body)
        self._append(encode_frame(CHUNK, self._number, body))

    def _append(self, frame: bytes) -> None:
        files = self._store._files
        try:
            files.pwrite(self._descriptor, frame, self._offset)
            self._unsynced += len(frame)
            if self._unsynced >= SYNC_BYTES:
                files.fdatasync(self._descriptor)
                self._unsynced = 0
        except OSError:
            self.abort()
            raise
        self._offset += len(frame)
        self._number += 1
        self._crc = crc32c_extend(self._crc, frame)
