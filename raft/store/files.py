"""The one layer of file operations: whatever the store does to a disk, it does through here.

Tests and the simulator put :class:`raft.store.memory.MemoryFiles` in its place, which records every
operation and forgets what was not synced.  So nothing else under ``raft/store`` may call ``os`` or
``open`` for a file that matters.

The operations mean what the store needs, not what the kernel offers: :meth:`Files.pwrite` writes
everything or raises, :meth:`Files.pread` reads everything up to the end of the file.

An OSError out of here names the operation and the file, also where the kernel knows nothing but a
descriptor: it becomes the last words of a process, and somebody has to know which disk to look at.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

FILE_MODE = 0o640
DIRECTORY_MODE = 0o750


class Files:
    """The real disk.  Descriptors are plain ints, never inherited by a child that executes."""

    __slots__ = ("_paths",)

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}  # of open descriptors

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        """Open for reading and writing.  ``exclusive``: create it, and fail if it is there."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if create or exclusive:
            flags |= os.O_CREAT
        if exclusive:
            flags |= os.O_EXCL
        with _named("open", path):
            descriptor = os.open(path, flags, FILE_MODE)
        self._paths[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        # Forgotten first: once it is closed, another thread may be given the same number.
        path = self._paths.pop(descriptor, "")
        try:
            os.close(descriptor)
        except OSError as error:
            raise named(error, "close", path) from None

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        """``count`` bytes from ``offset``; fewer only at the end of the file."""
        try:
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
        except OSError as error:
            raise named(error, "pread", self._path(descriptor)) from None
        return b"".join(pieces)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        """All of ``data``, or an OSError after which the file's content there is unknown."""
        try:
            written = os.pwrite(descriptor, data, offset)
            while written < len(data):
                rest = memoryview(data)[written:]
                written += os.pwrite(descriptor, rest, offset + written)
        except OSError as error:
            raise named(error, "pwrite", self._path(descriptor)) from None

    def fdatasync(self, descriptor: int) -> None:
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            raise named(error, "fdatasync", self._path(descriptor)) from None

    def fsync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            raise named(error, "fsync", self._path(descriptor)) from None

    def truncate(self, descriptor: int, size: int) -> None:
        try:
            os.ftruncate(descriptor, size)
        except OSError as error:
            raise named(error, "ftruncate", self._path(descriptor)) from None

    def size(self, descriptor: int) -> int:
        return os.fstat(descriptor).st_size

    def free_bytes(self, path: str) -> int:
        """What we may still write on the file system of ``path``.  A file system that hangs may
        make this hang, too."""
        with _named("statvfs", path):
            found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def flock(self, descriptor: int) -> bool:
        """Take the exclusive lock without waiting; False when another description holds it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise named(error, "flock", self._path(descriptor)) from None
        return True

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def listdir(self, path: str) -> list[str]:
        """Names in the directory, sorted."""
        with _named("listdir", path):
            return sorted(os.listdir(path))

    def mkdir(self, path: str) -> None:
        with _named("mkdir", path):
            os.mkdir(path, DIRECTORY_MODE)

    def rename(self, source: str, target: str) -> None:
        with _named("rename", source):
            os.rename(source, target)

    def unlink(self, path: str) -> None:
        with _named("unlink", path):
            os.unlink(path)

    def fsync_dir(self, path: str) -> None:
        """Make names created, renamed and removed in ``path`` durable (pitfall 46)."""
        with _named("fsync of directory", path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _path(self, descriptor: int) -> str:
        return self._paths.get(descriptor, "")


def named(error: OSError, operation: str, path: str) -> OSError:
    """The same kind of error, which says what failed, and where:
    ``[Errno 5] fdatasync: Input/output error: '/data/wal/0/...'``."""
    if error.errno is None:
        return error
    return OSError(error.errno, f"{operation}: {os.strerror(error.errno)}", path)


@contextmanager
def _named(operation: str, path: str) -> Iterator[None]:
    """Where a microsecond does not count; what each batch does is written out."""
    try:
        yield
    except OSError as error:
        raise named(error, operation, path) from None


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
