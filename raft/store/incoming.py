"""A snapshot on its way in: what a leader has sent of it so far.  At most one of a group.

Its file, ``<index>-<term>-<crc>.receiving``, grows chunk by chunk and lives through restarts, of
the leader as well: the bytes of a snapshot are the same whoever sends them, so whatever of them is
here need not be sent again.

**What an answer promises: nothing.**  The sender has the whole file until all of it is here, synced
and checked, so chunks are answered when they are written and synced in steps: one sync for each
chunk would stand in the way of the log's own, on the same disk.  After a loss of power there is
less than was told; who sends asks again, and goes back.

**After a restart** the file is a claim.  Its frames are read from the beginning, as far as they are
sound, and what is behind them is cut off: some bytes may never have reached the disk, and others
may be in the cache alone, from a write that failed when nobody was there any more to hear of it.
So each frame is written again in its place, and synced; as the log does with its last batch.  That
takes as long as the disk takes, so it is asked for (:meth:`Incoming.begin_check`) and done where it
holds up nobody; until then nobody is told how much is here.

A failure while receiving throws the file away: pages of a failed sync are never synced a second
time (pitfall 44).  The descriptor stays open from one chunk to the next, since the kernel tells a
write that failed behind our back to those who had the file open.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from raft.messages import SnapshotMeta
from raft.store.errors import SnapshotDamaged
from raft.store.files import Files, make_directory
from raft.store.snapshot_file import Head, SnapshotFile, sound_frames

SUFFIX = ".snapshot"
RECEIVING = ".receiving"
# While a snapshot is written, it goes to the disk in steps: the sync of the WAL's next batch must
# not wait behind all of it.
SYNC_BYTES = 1 << 20


def snapshot_name(meta: SnapshotMeta) -> str:
    return f"{meta.index:016x}-{meta.term:016x}-{meta.crc:08x}{SUFFIX}"


def index_in(name: str) -> int:
    """The index in a name of ours; 0 for any other name."""
    try:
        return int(name[:16], 16)
    except ValueError:
        return 0


def create_empty(files: Files, directory: str, name: str) -> int:
    """Open this file with nothing in it, also if there was something."""
    make_directory(files, directory)
    descriptor = files.open(os.path.join(directory, name), create=True)
    try:
        files.truncate(descriptor, 0)
    except OSError:
        files.close(descriptor)
        raise
    return descriptor


@dataclass(slots=True)
class Found:
    """What a file from before a restart holds: ``held`` bytes of sound frames."""

    descriptor: int
    head: Head
    held: int
    crc: int


@dataclass(slots=True)
class Left:
    """A file from before a restart.  ``found``: None until somebody has looked."""

    name: str
    found: Found | None = None


@dataclass(slots=True)
class _Part:
    """``held`` bytes are here, of which ``crc`` is the checksum; the last ``unsynced`` of them may
    get lost."""

    meta: SnapshotMeta
    name: str
    descriptor: int
    held: int = 0
    crc: int = crc32c(b"")
    unsynced: int = 0


def look_at(files: Files, path: str) -> Found | None:
    """Read, write again and cut off what an earlier process has left; None: nothing of use.

    Raises OSError.
    """
    descriptor = files.open(path)
    head: Head | None = None
    held, unsynced, crc = 0, 0, crc32c(b"")
    try:
        for frame in sound_frames(files, descriptor, path):
            head = head or frame.head()
            files.pwrite(descriptor, frame.raw, held)
            held += len(frame.raw)
            crc = crc32c_extend(crc, frame.raw)
            unsynced += len(frame.raw)
            if unsynced >= SYNC_BYTES:
                files.fdatasync(descriptor)
                unsynced = 0
        if head is not None:
            files.truncate(descriptor, held)
            files.fsync(descriptor)
            return Found(descriptor, head, held, crc)
    except OSError:
        files.close(descriptor)
        raise
    files.close(descriptor)
    return None


class Incoming:
    """See the top of this file.  Not for several threads at a time; :func:`look_at` is."""

    __slots__ = ("_directory", "_files", "_left", "_part")

    def __init__(self, files: Files, directory: str, left: list[str]) -> None:
        """``left``: names of what was being received before; all but the newest are removed."""
        self._files = files
        self._directory = directory
        self._part: _Part | None = None
        self._left: Left | None = None
        for name in sorted(left)[:-1]:
            files.unlink(self._path(name))
        if left:
            self._left = Left(max(left))

    @property
    def name(self) -> str | None:
        """Of the file aside."""
        at = self._part or self._left
        return None if at is None else at.name

    # ------------------------------------------------------------------ after a restart

    def begin_check(self) -> Left | None:
        """What nobody has looked at yet."""
        left = self._left
        return left if left is not None and left.found is None else None

    def end_check(self, left: Left, found: Found | None) -> None:
        """What :func:`look_at` has found there; None: nothing, or it failed."""
        if left is not self._left:
            if found is not None:  # thrown away meanwhile
                self._files.close(found.descriptor)
        elif found is None:
            self.drop()
        else:
            left.found = found

    def _take_up(self, meta: SnapshotMeta, left: Left) -> None:
        """What was left is a part of this snapshot: go on with it."""
        found = left.found
        assert found is not None
        if found.head != Head.of(meta) or found.held > meta.size_bytes:
            self.drop()  # its name was chance, or a lie
            return
        self._left = None
        self._part = _Part(meta, left.name, found.descriptor, found.held, found.crc)

    # ------------------------------------------------------------------ chunks

    def receive(self, meta: SnapshotMeta, offset: int, data: bytes) -> int | None:
        """How many bytes of this snapshot are here, with these if they follow on what is held.

        The first ones take the place of whatever was held of another snapshot; without any, it is
        only asked.  None: there is something that nobody has looked at yet; ask later.  After an
        OSError nothing is held.
        """
        left = self._left
        if left is not None and left.name == _aside(meta):
            if left.found is None:
                return None
            self._take_up(meta, left)
        part = self._part
        if part is not None and part.meta != meta:
            part = None
        held = 0 if part is None else part.held
        if not data or offset != held or held + len(data) > meta.size_bytes:
            return held
        try:
            if part is None:
                part = self._begin(meta)
            self._append(part, data)
        except OSError:
            self.drop()
            raise
        return part.held

    def _begin(self, meta: SnapshotMeta) -> _Part:
        self.drop()
        name = _aside(meta)
        descriptor = create_empty(self._files, self._directory, name)
        self._part = _Part(meta, name, descriptor)
        return self._part

    def _append(self, part: _Part, data: bytes) -> None:
        self._files.pwrite(part.descriptor, data, part.held)
        part.held += len(data)
        part.crc = crc32c_extend(part.crc, data)
        part.unsynced += len(data)
        if part.unsynced >= SYNC_BYTES:
            self._files.fdatasync(part.descriptor)
            part.unsynced = 0

    def finish(self, meta: SnapshotMeta) -> str | None:
        """The name of the file with all of it, synced and checked, which is the caller's now.

        None: not all of it is here, or it is not what ``meta`` says; nothing is held any more.
        Raises UnknownFormat, OSError, after which nothing is held either.
        """
        part = self._part
        if part is None or part.meta != meta:
            return None
        is_right = False
        try:
            is_right = self._is_what_was_sent(part)
        finally:
            if not is_right:
                self.drop()
        if not is_right:
            return None
        self._part = None
        self._files.close(part.descriptor)
        return part.name

    def _is_what_was_sent(self, part: _Part) -> bool:
        """That its frames are sound follows from the CRC: they were when they were sent."""
        meta = part.meta
        if (part.held, part.crc) != (meta.size_bytes, meta.crc):
            return False
        try:
            with SnapshotFile(self._files, self._path(part.name), meta) as file:
                file.check_head()
        except SnapshotDamaged:
            return False
        self._files.fsync(part.descriptor)
        return True

    def drop(self) -> None:
        """Throw away whatever there is."""
        part, self._part = self._part, None
        left, self._left = self._left, None
        name: str | None = None
        if part is not None:
            self._files.close(part.descriptor)
            name = part.name
        elif left is not None:
            if left.found is not None:
                self._files.close(left.found.descriptor)
            name = left.name
        if name is not None and self._files.exists(self._path(name)):
            self._files.unlink(self._path(name))

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)


def _aside(meta: SnapshotMeta) -> str:
    return snapshot_name(meta).removesuffix(SUFFIX) + RECEIVING
