"""The snapshots of one group: ``DATA/groups/<group id>/snapshots``.

A snapshot is one file, named by what identifies it: ``<index>-<term>-<crc>.snapshot``, in hex.  It
is written under another name, synced, renamed, and the rename is synced; only then may the WAL say
that it stands for the log (pitfall 41).  So a file with its final name is complete, and is never
changed again.  What a crash leaves behind under a name aside is removed when the store is opened::

    write():    <index>-<term>.writing            --finish()-->    <index>-<term>-<crc>.snapshot
    receive():  <index>-<term>-<crc>.receiving    --complete()-->  the same

The bytes are sent as they are, so that a receiver has the same file as the sender, bit for bit.
Both sides check them: who sends does not pass damage on, which would be thrown away at the end of
the transfer and sent again for ever.

Which snapshots are still needed, the owner says with :meth:`SnapshotStore.keep`.  One that was
finished since the last ``keep`` is not removed by it: the WAL does not know of it yet.

Threads: the store itself may be used by several, a writer or an iterator by one at a time.  Nothing
here starts one.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from raft.configuration import Configuration
from raft.messages import SnapshotMeta
from raft.store.errors import SnapshotDamaged, UnknownFormat
from raft.store.files import Files, make_directory
from raft.store.snapshot_file import (
    CHUNK,
    CHUNK_BYTES,
    Head,
    SnapshotFile,
    encode_end,
    encode_frame,
    encode_head,
)

__all__ = ["SnapshotStore", "SnapshotWriter"]

SUFFIX = ".snapshot"
WRITING = ".writing"
RECEIVING = ".receiving"
# While a snapshot is written, it goes to the disk in steps: the sync of the WAL's next batch must
# not wait behind all of it.
SYNC_BYTES = 1 << 20


def snapshot_name(meta: SnapshotMeta) -> str:
    return f"{meta.index:016x}-{meta.term:016x}-{meta.crc:08x}{SUFFIX}"


def _index_in(name: str) -> int:
    """The index in a name of ours; 0 for any other name."""
    try:
        return int(name[:16], 16)
    except ValueError:
        return 0


@dataclass(slots=True)
class _Partial:
    """A snapshot that is being received: ``held`` bytes, of which ``crc`` is the checksum."""

    meta: SnapshotMeta
    name: str
    held: int = 0
    crc: int = crc32c(b"")


class SnapshotStore:
    """See the top of this file.  Nothing is created before there is something to keep."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files = files
        self._directory = directory
        self._lock = threading.Lock()
        self._partial: _Partial | None = None
        self._written_aside: set[str] = set()  # names of open writers
        self._fresh: set[str] = set()  # complete, and not yet named in a call of keep()
        if files.exists(directory):
            for name in files.listdir(directory):
                if name.endswith((WRITING, RECEIVING)):
                    files.unlink(self._path(name))

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
            descriptor = self._create(name)
            self._written_aside.add(name)
        return SnapshotWriter(self, name, descriptor, head, first_frame)

    def _create(self, name: str) -> int:
        make_directory(self._files, self._directory)
        descriptor = self._files.open(self._path(name), create=True)
        try:
            self._files.truncate(descriptor, 0)
        except OSError:
            self._files.close(descriptor)
            raise
        return descriptor

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

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int:
        """Keep bytes of this snapshot, durably; how many are held of it afterwards.

        They are kept if they follow on what is held; or if they are the first ones, which takes
        the place of whatever was held of another snapshot.  After an OSError nothing is held.  Of
        one that was completed a moment ago, all is held: a chunk of it that was sent twice must not
        begin it anew.
        """
        with self._lock:
            if snapshot_name(meta) in self._fresh:
                return meta.size_bytes
            partial = self._partial
            if partial is not None and partial.meta != meta:
                partial = None
            held = 0 if partial is None else partial.held
            if not data or offset != held or held + len(data) > meta.size_bytes:
                return held
            try:
                if partial is None:
                    partial = self._begin_partial(meta)
                self._append(partial, data)
            except OSError:
                # Its pages may be marked clean and yet never have been written (pitfall 44).
                self._drop_partial()
                raise
            return partial.held

    def complete(self, meta: SnapshotMeta) -> bool:
        """Give the received file its name, durably.  After that it counts as one of our own.

        False: not all of it is here, or it is not what ``meta`` says; what was held is gone.
        Raises UnknownFormat (a newer version's; gone, too), OSError.
        """
        with self._lock:
            if snapshot_name(meta) in self._fresh:
                return True
            partial = self._partial
            if partial is None or partial.meta != meta:
                return False
            try:
                if not self._is_what_was_sent(partial):
                    self._drop_partial()
                    return False
                self._adopt(partial.name, meta)
            except (OSError, UnknownFormat):
                self._drop_partial()
                raise
            self._partial = None
            return True

    def _begin_partial(self, meta: SnapshotMeta) -> _Partial:
        self._drop_partial()
        name = snapshot_name(meta).removesuffix(SUFFIX) + RECEIVING
        self._files.close(self._create(name))
        self._partial = _Partial(meta, name)
        return self._partial

    def _append(self, partial: _Partial, data: bytes) -> None:
        descriptor = self._files.open(self._path(partial.name))
        try:
            self._files.pwrite(descriptor, data, partial.held)
            self._files.fdatasync(descriptor)
        finally:
            self._files.close(descriptor)
        partial.held += len(data)
        partial.crc = crc32c_extend(partial.crc, data)

    def _is_what_was_sent(self, partial: _Partial) -> bool:
        """That its frames are sound follows from the CRC: they were when they were sent."""
        meta = partial.meta
        if (partial.held, partial.crc) != (meta.size_bytes, meta.crc):
            return False
        path = self._path(partial.name)
        try:
            with SnapshotFile(self._files, path, meta) as file:
                file.check_head()
        except SnapshotDamaged:
            return False
        descriptor = self._files.open(path)
        try:
            self._files.fsync(descriptor)
        finally:
            self._files.close(descriptor)
        return True

    def _drop_partial(self) -> None:
        partial, self._partial = self._partial, None
        if partial is not None and self._files.exists(self._path(partial.name)):
            self._files.unlink(self._path(partial.name))

    # ------------------------------------------------------------------ removing

    def keep(self, metas: Iterable[SnapshotMeta]) -> None:
        """Remove all that is older than what is kept, or of no use to anybody.

        Left alone: what is being written or received, and what was finished and not yet named here,
        unless something newer is named.
        """
        names = {snapshot_name(meta) for meta in metas}
        newest = max(map(_index_in, names), default=0)
        with self._lock:
            if self._partial is not None and self._partial.meta.index < newest:
                self._drop_partial()
            self._fresh = {name for name in self._fresh - names if _index_in(name) >= newest}
            names |= self._fresh | self._written_aside
            if self._partial is not None:
                names.add(self._partial.name)
            if not self._files.exists(self._directory):
                return
            for name in self._files.listdir(self._directory):
                if name.endswith((SUFFIX, WRITING, RECEIVING)) and name not in names:
                    # Not synced: a removal that is undone by a crash is done again.
                    self._files.unlink(self._path(name))

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
