"""How much room a log must have: what is refused when little is left, and what is kept in hand.

A disk that fills is no error until a write meets the end of it, and then it is one that poisons the
log (pitfall 44).  So there are lines before that, by the bytes that are free where the log is::

    free bytes
      |   everything
      +-- resume   an eighth above ``soft``: groups that were read-only take writes again
      |            (read-only or not: as before, so that it does not flap)
      +-- soft     groups take no new writes; elections, what is in the log already, snapshots and
      |            compaction, which bring room, go on
      +-- hard     an eighth of ``soft``: nothing large is begun; snapshots fail, each alone, and
      |            appends that need another segment are dropped, to be sent again later
      |            votes, terms and marks go into what the segment in use has left
      0            another segment: the reserve shrinks by as much

**The reserve** is a file of zeros beside the segments.  It is not given up when little is left, or
whoever fills the disk would have it too, but when the log needs a segment and there is no room for
it; and only as much of it as is missing.  It is made good once there is room again.

**Segments** grow up to 64 MiB each; where room is scarce they take at most a quarter of it.

What may live here: decisions by numbers, and the reserve's file.  When to look, and who is told, is
up to :mod:`actors.space`.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass
from typing import Final

from raft.store.files import Files, named
from raft.store.segments import FILL_BYTES, SEGMENT_BYTES_FIRST, SEGMENT_BYTES_MAX

RESERVE_FILE: Final = "reserve"
# For each other: resume is soft plus this part of it, hard is this part of soft.
LIMIT_PART: Final = 8
# How often to look: seldom while there is so many times the soft limit, otherwise often.
PLENTY_FACTOR: Final = 4
LOOK_SELDOM_MS: Final = 1_000
LOOK_OFTEN_MS: Final = 100
# Of the reserve, this part of the least segment is given up at once, or more.
GIVE_PART: Final = 16
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_ZEROS: Final = bytes(FILL_BYTES)


@dataclass(slots=True, frozen=True)
class Limits:
    """Free bytes at which something changes; see the top of this file."""

    soft_bytes: int

    @property
    def resume_bytes(self) -> int:
        return self.soft_bytes + self.soft_bytes // LIMIT_PART

    @property
    def hard_bytes(self) -> int:
        return self.soft_bytes // LIMIT_PART


@dataclass(slots=True, frozen=True)
class Room:
    """What follows from so many free bytes."""

    free_bytes: int
    is_full: bool  # no new writes
    is_short: bool  # nothing large
    segment_bytes_max: int


class Judge:
    """Remembers on which side of the limits it was."""

    __slots__ = ("_segment_bytes_first", "limits", "room")

    def __init__(self, limits: Limits, segment_bytes_first: int = SEGMENT_BYTES_FIRST) -> None:
        self._segment_bytes_first = segment_bytes_first
        self.limits = limits
        self.room = Room(0, is_full=False, is_short=False, segment_bytes_max=SEGMENT_BYTES_MAX)

    def hear(self, free_bytes: int) -> bool:
        """Take the answer of a file system; whether anything but the number is another now."""
        limits, before = self.limits, self.room
        line = limits.resume_bytes if before.is_full else limits.soft_bytes
        room = self.room = Room(
            free_bytes,
            is_full=free_bytes < line,
            is_short=free_bytes < limits.hard_bytes,
            segment_bytes_max=segment_bytes_max(free_bytes, self._segment_bytes_first),
        )
        return (room.is_full, room.is_short, room.segment_bytes_max) != (
            before.is_full,
            before.is_short,
            before.segment_bytes_max,
        )

    def look_again_ms(self) -> int:
        plenty = PLENTY_FACTOR * self.limits.resume_bytes
        return LOOK_SELDOM_MS if self.room.free_bytes >= plenty else LOOK_OFTEN_MS


def segment_bytes_max(free_bytes: int, least: int = SEGMENT_BYTES_FIRST) -> int:
    """A power of two, at most a quarter of what is free; in between the limits of segments."""
    quarter = max(least, min(SEGMENT_BYTES_MAX, free_bytes // 4))
    return 1 << (quarter.bit_length() - 1)


def is_full_error(error: BaseException) -> bool:
    """Whether it says, or was raised because something said, that there is no room."""
    causes: list[BaseException | None] = [error, error.__cause__]
    return any(isinstance(each, OSError) and each.errno in _FULL for each in causes)


class Reserve:
    """The file of zeros in ``directory``, of at most ``bytes_max``.

    Threads: one may make it while another takes of it.
    """

    __slots__ = ("_files", "_is_whole", "_lock", "_path", "bytes_max")

    def __init__(self, files: Files, directory: str, bytes_max: int) -> None:
        self._files = files
        self._path = os.path.join(directory, RESERVE_FILE)
        self._lock = threading.Lock()
        self._is_whole = False
        self.bytes_max = bytes_max

    def held_bytes(self) -> int:
        if not self._files.exists(self._path):
            return 0
        descriptor = self._files.open(self._path)
        try:
            return self._files.size(descriptor)
        finally:
            self._files.close(descriptor)

    def give(self, count: int) -> int:
        """Make room for ``count`` bytes, as far as it reaches; the bytes that were given up."""
        with self._lock:
            held = self.held_bytes()
            left = max(0, held - count)
            if left >= held:
                return 0
            self._is_whole = False
            self._resize(left)
            return held - left

    def _resize(self, size: int) -> None:
        descriptor = self._files.open(self._path)
        try:
            self._files.truncate(descriptor, size)
            # A file system with a journal may hand blocks out again only when it is written.
            self._files.fsync(descriptor)
        finally:
            self._files.close(descriptor)

    def fill(self) -> bool:
        """Make a step of it, durably; whether there is more to do.  Raises OSError."""
        if self._is_whole:
            return False
        with self._lock:
            held = self.held_bytes()
            if held >= self.bytes_max:
                self._is_whole = True
                return False
            count = min(FILL_BYTES, self.bytes_max - held)
            descriptor = self._files.open(self._path, create=True)
            try:
                self._files.pwrite(descriptor, _ZEROS[:count], held)
                # What is only promised by a file system that allocates late is no reserve.
                self._files.fdatasync(descriptor)
            finally:
                self._files.close(descriptor)
            self._is_whole = held + count >= self.bytes_max
            return not self._is_whole


class SparingFiles(Files):
    """``files``, for what is not the log: where a write would leave less than ``kept_bytes`` on the
    file system of ``path`` it fails as on a full disk.  So snapshots never take the last of what
    the log needs.
    """

    __slots__ = ("_directory", "_kept_bytes", "_on")

    def __init__(self, files: Files, path: str, kept_bytes: int) -> None:
        super().__init__()
        self._on = files
        self._directory = path
        self._kept_bytes = kept_bytes

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        free_bytes = self._on.free_bytes(self._directory)
        if free_bytes < self._kept_bytes + len(data):
            what = f"pwrite with {free_bytes} bytes free, of which {self._kept_bytes} are kept"
            raise named(OSError(errno.ENOSPC, ""), what, self._directory)
        self._on.pwrite(descriptor, data, offset)

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        return self._on.open(path, create=create, exclusive=exclusive)

    def close(self, descriptor: int) -> None:
        self._on.close(descriptor)

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        return self._on.pread(descriptor, count, offset)

    def fdatasync(self, descriptor: int) -> None:
        self._on.fdatasync(descriptor)

    def fsync(self, descriptor: int) -> None:
        self._on.fsync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        self._on.truncate(descriptor, size)

    def size(self, descriptor: int) -> int:
        return self._on.size(descriptor)

    def free_bytes(self, path: str) -> int:
        return self._on.free_bytes(path)

    def flock(self, descriptor: int) -> bool:
        return self._on.flock(descriptor)

    def exists(self, path: str) -> bool:
        return self._on.exists(path)

    def listdir(self, path: str) -> list[str]:
        return self._on.listdir(path)

    def mkdir(self, path: str) -> None:
        self._on.mkdir(path)

    def rename(self, source: str, target: str) -> None:
        self._on.rename(source, target)

    def unlink(self, path: str) -> None:
        self._on.unlink(path)

    def fsync_dir(self, path: str) -> None:
        self._on.fsync_dir(path)
