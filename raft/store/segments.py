"""The files of a WAL: ``<number, 16 hex digits>.wal``, filled with zeros before they are used.

A segment that is zero-filled and synced ahead takes appends up to 1.9 times faster than a file that
grows, and its zeros are what recovery tells a torn tail by.  Sizes double from the first to the
last limit.  A segment is never used twice.

:class:`SegmentJob` is the one thing here that runs beside the writer: it creates the next segment
on a background thread.  Its lock is held while it works, so a writer that needs the segment at once
waits for work that is already under way instead of doing it a second time.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from raft.store.files import Files
from raft.store.records import ALIGNMENT_BYTES

SUFFIX = ".wal"
SEGMENT_BYTES_FIRST = 1 << 20
SEGMENT_BYTES_MAX = 64 << 20
# What opens one takes a multiple of this: what a disk loses at once, it loses in such pieces.
OPENING_BYTES_MULTIPLE = 4 << 10
# Zeros go to disk in steps, so that a batch's own sync never waits behind a whole segment of them.
FILL_BYTES = 1 << 20
_ZEROS = bytes(FILL_BYTES)


@dataclass(slots=True)
class Segment:
    """An open segment.  ``used``: where the next batch goes."""

    number: int
    name: str
    descriptor: int
    size: int
    segment_id: int = 0
    used: int = 0


def opening_multiple(segment_bytes_first: int) -> int:
    """Where segments are small, as in tests, nobody wants one half full of what opens it."""
    part = segment_bytes_first // 32 & -ALIGNMENT_BYTES
    return max(ALIGNMENT_BYTES, min(OPENING_BYTES_MULTIPLE, part))


def segment_name(number: int) -> str:
    return f"{number:016x}{SUFFIX}"


def segment_number(name: str) -> int | None:
    """The number in a segment's name, or None for the name of anything else."""
    stem = name.removesuffix(SUFFIX)
    if stem == name or len(stem) != 16:
        return None
    try:
        number = int(stem, 16)
    except ValueError:
        return None
    return number if segment_name(number) == name else None


def create_segment(files: Files, directory: str, number: int, size: int, *, sync: bool) -> Segment:
    """A new file of zeros, durable together with its name.  The file must not exist."""
    name = segment_name(number)
    descriptor = files.open(os.path.join(directory, name), exclusive=True)
    try:
        for offset in range(0, size, FILL_BYTES):
            count = min(FILL_BYTES, size - offset)
            files.pwrite(descriptor, _ZEROS if count == FILL_BYTES else bytes(count), offset)
            if sync:
                files.fdatasync(descriptor)
        if sync:
            files.fsync(descriptor)
            files.fsync_dir(directory)
    except OSError:
        files.close(descriptor)
        raise
    return Segment(number, name, descriptor, size)


class SegmentJob:
    """Creates one segment ahead of need.  Call it on a thread; ``take`` it from the writer's."""

    __slots__ = ("_directory", "_done", "_files", "_lock", "_segment", "_sync", "number", "size")

    def __init__(self, files: Files, directory: str, number: int, size: int, *, sync: bool) -> None:
        self.number = number
        self.size = size
        self._files = files
        self._directory = directory
        self._sync = sync
        self._lock = threading.Lock()
        self._segment: Segment | None = None
        self._done = False

    def __call__(self) -> None:
        """Create it, unless the writer came first.  After an OSError the writer tries itself."""
        with self._lock:
            if self._done:
                return
            self._done = True
            try:
                self._segment = create_segment(
                    self._files, self._directory, self.number, self.size, sync=self._sync
                )
            except OSError:
                # Half a segment must not stand in the way of the writer's own attempt.
                path = os.path.join(self._directory, segment_name(self.number))
                if self._files.exists(path):
                    self._files.unlink(path)
                raise

    @property
    def made_bytes(self) -> int:
        """Size of the segment, once it is there to be taken; else 0."""
        segment = self._segment
        return 0 if segment is None else segment.size

    def take(self, bytes_min: int) -> Segment | None:
        """The segment, if it was made and is large enough.  Waits while it is being made.

        One that is too small is removed.  Whatever the answer, the job is over.
        """
        with self._lock:
            self._done = True
            segment, self._segment = self._segment, None
            if segment is None or segment.size >= bytes_min:
                return segment
            self._files.close(segment.descriptor)
            self._files.unlink(os.path.join(self._directory, segment.name))
            self._files.fsync_dir(self._directory)
            return None


class Opening:
    """The segment that a batch is to open: made ahead by ``job``, or made by the batch itself."""

    __slots__ = ("bytes_min", "job", "number", "segment_id", "size")

    def __init__(
        self, number: int, segment_id: int, bytes_min: int, size: int, job: SegmentJob | None
    ) -> None:
        self.number = number
        self.segment_id = segment_id
        self.bytes_min = bytes_min
        self.size = size
        self.job = job
