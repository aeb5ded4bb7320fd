"""A disk in memory that records what is done to it, and forgets what was not synced.

Stands in for :class:`raft.store.files.Files` in tests and in the simulator.  What it models:

* a write is seen by readers at once, but is on the disk only after ``fdatasync`` or ``fsync`` of
  the file; a name created, renamed or removed is on the disk only after ``fsync_dir``;
* :meth:`MemoryFiles.crash` is a loss of power: of each write that was not synced nothing arrives,
  or all of it, or a beginning of it, or any choice of its 512-byte sectors; of each change of size
  or of a name that was not synced, either the old or the new;
* :meth:`MemoryFiles.kill` is the death of the process alone: the page cache lives on;
* a sync that fails leaves the pages *clean*: readers go on seeing what never reached the disk, and
  a second sync has nothing to do (pitfall 44);
* :meth:`MemoryFiles.lose_power_after` breaks off in the middle of a run of operations, and
  :meth:`MemoryFiles.fork` gives the disk as it is at a moment, while the run goes on;
* ``limit_bytes`` is how much there is room for, and what is beyond fails with ENOSPC;
* :meth:`MemoryFiles.fail` lets chosen operations fail, :meth:`MemoryFiles.decay` lets a bit flip.

The randomness is the caller's, so a seed replays a history.

A simulation does all of this thousands of times in a second.  So zeros at the end of a file take
neither memory nor time (a segment consists of little else), and a crash looks at nothing but the
files and names that were not synced.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from raft.store.files import Files

SECTOR_BYTES = 512
_ZEROS = bytes(1 << 20)  # in one piece, as a segment is filled
# What changes the disk, or asks it to keep something: what ``lose_power_after`` counts.
CHANGES = frozenset(
    ("create", "pwrite", "fdatasync", "fsync", "truncate", "mkdir", "rename", "unlink", "fsync_dir")
)


class Random(Protocol):
    def random(self) -> float: ...
    def randrange(self, stop: int, /) -> int: ...


class PowerLoss(Exception):
    """The machine is off.  Every further operation raises it too, until :meth:`crash`."""


class _Content:
    """The bytes of a file: ``held``, and behind them zeros up to ``size``."""

    __slots__ = ("held", "size")

    def __init__(self) -> None:
        self.held = bytearray()
        self.size = 0

    def write(self, offset: int, data: bytes) -> None:
        held = self.held
        if offset < len(held) or not _is_zeros(data):
            self._hold(offset)
            held[offset : offset + len(data)] = data
        self.size = max(self.size, offset + len(data))

    def resize(self, size: int) -> None:
        del self.held[size:]
        self.size = size

    def read(self, offset: int, count: int) -> bytes:
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        with memoryview(self.held) as held:
            data = bytes(held[offset : offset + count])
        return data if len(data) == count else data.ljust(count, b"\0")

    def flip(self, offset: int, bit: int) -> None:
        if offset < self.size:
            self._hold(offset + 1)
            self.held[offset] ^= 1 << bit

    def become(self, other: _Content) -> None:
        self.held[:] = other.held
        self.size = other.size

    def _hold(self, count: int) -> None:
        if len(self.held) < count:
            self.held.extend(bytes(count - len(self.held)))


def _is_zeros(data: bytes) -> bool:
    if data[:1] != b"\0":
        return False
    zeros = _ZEROS if len(data) == len(_ZEROS) else bytes(len(data))
    return data == zeros


class _Inode:
    """``data`` is what readers see, ``durable`` what is on the disk, ``pending`` the way there.

    Without anything pending the two are equal, unless a sync ``failed``.
    """

    __slots__ = ("data", "durable", "failed", "locked_by", "pending")

    def __init__(self) -> None:
        self.data = _Content()
        self.durable = _Content()
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, bytes) or (size, None)
        self.failed = False
        self.locked_by: int | None = None

    def copy(self) -> _Inode:
        twin = _Inode()
        twin.data.become(self.data)
        twin.durable.become(self.durable)
        twin.pending = list(self.pending)
        twin.failed = self.failed
        return twin

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.durable, offset, data)
        self.pending.clear()

    def crash(self, rng: Random) -> None:
        for offset, data in self.pending:
            if data is None:
                if rng.random() < 0.5:
                    self.durable.resize(offset)
                continue
            for start, piece in _survivors(offset, data, rng, alone=len(self.pending) == 1):
                self.durable.write(start, piece)
        self.pending.clear()
        self.data.become(self.durable)
        self.failed = False


# (name that goes or None, name that comes or None, its file; None: it is a directory)
_NameChange = tuple[str | None, str | None, _Inode | None]


def _apply(content: _Content, offset: int, data: bytes | None) -> None:
    if data is None:
        content.resize(offset)
    else:
        content.write(offset, data)


def _survivors(offset: int, data: bytes, rng: Random, *, alone: bool) -> list[tuple[int, bytes]]:
    """What arrives of a write that was never synced.

    A write that ended early may have ended at any byte.  But two of the same bytes, of which the
    second was made when the first was whole in the cache, leave no sector that is half of one: a
    disk takes whole sectors.
    """
    fate = rng.randrange(4)
    if fate == 0:
        return []
    if fate == 1:
        return [(offset, data)]
    if fate == 2:
        end = rng.randrange(len(data) + 1)
        return [(offset, data[: end if alone else max(0, end - (offset + end) % SECTOR_BYTES)])]
    found = []
    position = 0
    while position < len(data):
        end = position + SECTOR_BYTES - (offset + position) % SECTOR_BYTES
        if rng.random() < 0.5:
            found.append((offset + position, data[position:end]))
        position = end
    return found


class MemoryFiles(Files):
    """See the top of this file.  ``operations``: (name, path, ...) of everything done, in order."""

    __slots__ = (
        "_descriptors",
        "_directories",
        "_dirty",
        "_durable_directories",
        "_durable_names",
        "_failures",
        "_names",
        "_next_descriptor",
        "_off",
        "_pending_names",
        "_power_left",
        "limit_bytes",
        "operations",
        "recording",
    )

    def __init__(self, *, recording: bool = True, limit_bytes: int | None = None) -> None:
        self.operations: list[tuple[str | int, ...]] = []
        self.recording = recording
        self.limit_bytes = limit_bytes  # of all files together; None: there is room for ever
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._directories = {"/", "."}
        self._durable_directories = {"/", "."}
        self._pending_names: dict[str, list[_NameChange]] = {}  # not yet synced, by directory
        # Whose content on the disk is not what readers see; in the order in which it began.
        self._dirty: dict[_Inode, None] = {}
        self._descriptors: dict[int, tuple[_Inode, str]] = {}
        self._next_descriptor = 1_000
        self._failures: list[tuple[str, int, str, int]] = []
        self._power_left: int | None = None
        self._off = False

    # ------------------------------------------------------------------ what tests do to it

    def fail(self, operation: str, error: int, *, path: str = "", times: int = 1) -> None:
        """Let the next ``times`` operations of this name on a path ending so raise this errno."""
        self._failures.append((operation, error, path, times))

    def repair(self) -> None:
        """No more injected failures."""
        self._failures.clear()

    def lose_power_after(self, count: int) -> None:
        """Go off at the change after the next ``count``; a write under way may still arrive."""
        self._power_left = count

    def crash(self, rng: Random) -> None:
        """The power is gone and comes back; see the top of this file for what is left."""
        if self._pending_names:
            for pending in self._pending_names.values():
                for change in pending:
                    if rng.random() < 0.5:
                        self._apply_name(change)
            self._pending_names.clear()
            self._names = dict(self._durable_names)
            self._directories = set(self._durable_directories)
        for inode in self._dirty:
            inode.crash(rng)
        self._dirty.clear()
        self._restart()

    def fork(self, under_way: tuple[str, int, bytes] | None = None) -> MemoryFiles:
        """A disk of its own, in the state of this one: to let the power go, or whatever else.

        ``under_way``: path, offset and bytes of a write that has begun.
        """
        twin = MemoryFiles(recording=False, limit_bytes=self.limit_bytes)
        inodes = {inode: inode.copy() for inode in self._dirty}
        tables = (*self._names.values(), *self._durable_names.values())
        changed = [inode for pending in self._pending_names.values() for _, _, inode in pending]
        for inode in (*tables, *changed):
            if inode is not None and inode not in inodes:
                inodes[inode] = inode.copy()
        twin._names = {path: inodes[inode] for path, inode in self._names.items()}
        twin._durable_names = {path: inodes[it] for path, it in self._durable_names.items()}
        twin._directories = set(self._directories)
        twin._durable_directories = set(self._durable_directories)
        twin._pending_names = {
            directory: [
                (gone, made, None if inode is None else inodes[inode])
                for gone, made, inode in pending
            ]
            for directory, pending in self._pending_names.items()
        }
        twin._dirty = {inodes[inode]: None for inode in self._dirty}
        if under_way is not None:
            path, offset, data = under_way
            twin._names[path].pending.append((offset, data))
            twin._dirty[twin._names[path]] = None
        return twin

    def kill(self) -> None:
        """The process is gone; what it wrote stays in the page cache, synced or not."""
        self._restart()

    def _restart(self) -> None:
        for inode, _ in self._descriptors.values():
            inode.locked_by = None
        self._descriptors.clear()
        self._power_left = None
        self._off = False

    def flip(self, path: str, offset: int, bit: int = 0) -> None:
        """Decay one bit, on the disk and in the cache."""
        inode = self._names[path]
        inode.data.flip(offset, bit)
        inode.durable.flip(offset, bit)

    def decay(self, rng: Random, path: str) -> int | None:
        """Flip a random bit of what is durable, and not zeros to its end; where, if anywhere."""
        count = len(self._names[path].durable.held.rstrip(b"\0"))
        if count == 0:
            return None
        offset = rng.randrange(count)
        self.flip(path, offset, rng.randrange(8))
        return offset

    def content(self, path: str) -> bytes:
        """What a reader sees."""
        data = self._names[path].data
        return data.read(0, data.size)

    def put(self, path: str, data: bytes) -> None:
        """Plant a durable file."""
        inode = _Inode()
        inode.data.write(0, data)
        inode.durable.write(0, data)
        self._names[path] = self._durable_names[path] = inode

    def unsynced(self, path: str) -> bool:
        return bool(self._names[path].pending)

    @property
    def used_bytes(self) -> int:
        """Of all files that have a name, zeros included."""
        return sum(inode.data.size for inode in self._names.values())

    @property
    def open_count(self) -> int:
        """How many descriptors are open: of a store at rest, those it says it holds."""
        return len(self._descriptors)

    # ------------------------------------------------------------------ the operations

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        inode = self._names.get(path)
        if inode is not None and exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if inode is None:
            if not (create or exclusive):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self._parent(path)
            self._begin("create", path)
            inode = self._link(path, _Inode())
        descriptor = self._next_descriptor
        self._next_descriptor += 1
        self._descriptors[descriptor] = (inode, path)
        return descriptor

    def close(self, descriptor: int) -> None:
        entry = self._descriptors.pop(descriptor, None)
        if entry is not None and entry[0].locked_by == descriptor:
            entry[0].locked_by = None

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        inode, path = self._inode(descriptor)
        self._begin("pread", path, offset, count)
        return inode.data.read(offset, count)

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        inode, path = self._inode(descriptor)
        data = bytes(data)
        try:
            self._begin("pwrite", path, offset, len(data))
        except PowerLoss:
            self._dirty[inode] = None
            inode.pending.append((offset, data))
            raise
        room = len(data)
        if self.limit_bytes is not None and offset + len(data) > inode.data.size:
            end = inode.data.size + max(0, self.limit_bytes - self.used_bytes)
            room = max(0, end - offset)
        written = data if room >= len(data) else data[:room]
        if written:
            self._dirty[inode] = None
            inode.pending.append((offset, written))
            inode.data.write(offset, written)
        if room < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def fdatasync(self, descriptor: int) -> None:
        self._sync("fdatasync", descriptor)

    def fsync(self, descriptor: int) -> None:
        self._sync("fsync", descriptor)

    def _sync(self, operation: str, descriptor: int) -> None:
        inode, path = self._inode(descriptor)
        try:
            self._begin(operation, path)
        except OSError:
            inode.failed |= bool(inode.pending)
            inode.pending.clear()  # marked clean; what readers see was never written
            raise
        inode.sync()
        if not inode.failed:
            self._dirty.pop(inode, None)

    def truncate(self, descriptor: int, size: int) -> None:
        inode, path = self._inode(descriptor)
        self._begin("truncate", path, size)
        self._dirty[inode] = None
        inode.pending.append((size, None))
        inode.data.resize(size)

    def size(self, descriptor: int) -> int:
        return self._inode(descriptor)[0].data.size

    def flock(self, descriptor: int) -> bool:
        inode, path = self._inode(descriptor)
        self._begin("flock", path)
        if inode.locked_by not in (None, descriptor):
            return False
        inode.locked_by = descriptor
        return True

    def exists(self, path: str) -> bool:
        return path in self._names or path in self._directories

    def listdir(self, path: str) -> list[str]:
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        everything = (*self._names, *self._directories)
        found = {each for each in everything if each != path and _parent_of(each) == path}
        return sorted(each.rpartition("/")[2] for each in found)

    def mkdir(self, path: str) -> None:
        parent = self._parent(path)
        self._begin("mkdir", path)
        self._directories.add(path)
        self._later(parent, (None, path, None))

    def rename(self, source: str, target: str) -> None:
        self._begin("rename", source, target)
        inode = self._names.pop(source)
        self._names[target] = inode
        # One change: a crash leaves the old name or the new one.
        self._later(self._parent(target), (source, target, inode))

    def unlink(self, path: str) -> None:
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._begin("unlink", path)
        inode = self._names.pop(path)
        self._later(self._parent(path), (path, None, inode))

    def fsync_dir(self, path: str) -> None:
        self._begin("fsync_dir", path)
        for change in self._pending_names.pop(path, ()):
            self._apply_name(change)

    # ------------------------------------------------------------------ inside

    def _begin(self, operation: str, path: str, *details: str | int) -> None:
        """Record the operation, unless it is one that is to fail."""
        if self._off:
            raise PowerLoss
        if operation in CHANGES and self._power_left is not None:
            self._power_left -= 1
            if self._power_left < 0:
                self._off = True
                raise PowerLoss
        for position, (name, error, suffix, times) in enumerate(self._failures):
            if name == operation and path.endswith(suffix):
                if times > 1:
                    self._failures[position] = (name, error, suffix, times - 1)
                else:
                    del self._failures[position]
                raise OSError(error, os.strerror(error), path)
        if self.recording:
            self.operations.append((operation, path, *details))

    def _inode(self, descriptor: int) -> tuple[_Inode, str]:
        if self._off:
            raise PowerLoss
        entry = self._descriptors.get(descriptor)
        if entry is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return entry

    def _parent(self, path: str) -> str:
        parent = _parent_of(path)
        if parent not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return parent

    def _link(self, path: str, inode: _Inode) -> _Inode:
        self._names[path] = inode
        self._later(self._parent(path), (None, path, inode))
        return inode

    def _later(self, directory: str, change: _NameChange) -> None:
        self._pending_names.setdefault(directory, []).append(change)

    def _apply_name(self, change: _NameChange) -> None:
        gone, made, inode = change
        if made is not None and inode is None:
            self._durable_directories.add(made)
        elif made is not None and inode is not None:
            if gone is not None:
                self._durable_names.pop(gone, None)
            self._durable_names[made] = inode
        elif gone is not None and self._durable_names.get(gone) is inode:
            del self._durable_names[gone]


def _parent_of(path: str) -> str:
    parent, slash, _ = path.rpartition("/")
    return parent or slash or "."
