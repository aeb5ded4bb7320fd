"""The one layer of file operations: whatever the store does to a disk, it does through here.

Tests and the simulator put :class:`raft.store.memory.MemoryFiles` in its place, which records every
operation and forgets what was not synced.  So nothing else under ``raft/store`` may call ``os`` or
``open`` for a file that matters.

The operations mean what the store needs, not what the kernel offers: :meth:`Files.pwrite` writes
everything or raises, :meth:`Files.pread` reads everything up to the end of the file.
"""

from __future__ import annotations

import fcntl
import os

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750


class Files:
    """The real disk.  Descriptors are plain ints, never inherited by a child that executes."""

    __slots__ = ()

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        """Open for reading and writing.  ``exclusive``: create it, and fail if it is there."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if create or exclusive:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        return os.open(path, flags, FILE_MODE)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        """``count`` bytes from ``offset``; fewer only at the end of the file."""
        data = os.pread(descriptor, count, offset)
        if len(data) == count or not data:
            return data
        pieces = [data]
        got = len(data)
        while got < count:
            data = os.pread(descriptor, count - got, offset + got)
            if not data:
                break
            pieces.append(data)
            got += len(data)
        return b"".join(pieces)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of ``data``, or an OSError after which the file's content there is unknown."""
        written = os.pwrite(descriptor, data, offset)
        while written < len(data):
            rest = memoryview(data)[written:]
            written += os.pwrite(descriptor, rest, offset + written)

    def fdatasync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def flock(self, descriptor: int) -> bool:
        """Take the exclusive lock without waiting; False when another description holds it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def listdir(self, path: str) -> list[str]:
        """Names in the directory, sorted."""
        return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        os.mkdir(path, DIRECTORY_MODE)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def fsync_dir(self, path: str) -> None:
        """Make names created, renamed and removed in ``path`` durable (pitfall 46)."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(files: Files, path: str) -> None:
    """Create ``path`` and whatever is missing above it, durably.

    An earlier attempt may have ended between making a name and syncing it.  So the name of an empty
    directory is synced again; one with something in it is durable, since nothing is put into it
    before this function has returned.
    """
    missing = []
    while path and not files.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    parent = os.path.dirname(path)
    if path and path != parent and not files.listdir(path):
        files.fsync_dir(parent or ".")
    for directory in reversed(missing):
        files.mkdir(directory)
        files.fsync_dir(os.path.dirname(directory) or ".")


def read_whole(files: Files, path: str) -> bytes:
    descriptor = files.open(path)
    try:
        return files.pread(descriptor, files.size(descriptor), 0)
    finally:
        files.close(descriptor)


def replace_whole(files: Files, path: str, data: bytes) -> None:
    """Old content or new content, whatever happens: aside, fsync, rename, fsync of the directory.

    The name aside is fixed: only the holder of the data lock writes, and a left-over is
    overwritten.
    """
    aside = path + ".new"
    descriptor = files.open(aside, create=True)
    try:
        files.truncate(descriptor, 0)
        files.pwrite(descriptor, data, 0)
        files.fsync(descriptor)
    finally:
        files.close(descriptor)
    files.rename(aside, path)
    files.fsync_dir(os.path.dirname(path) or ".")
