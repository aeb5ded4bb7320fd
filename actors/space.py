"""Room on the disk of a worker: when it is looked at, on which thread, and what is said of it.

::

    thread "space"                             loop
    statvfs -> Judge -> what has changed ----> segments no larger than that; groups are told
       |                                       to refuse writes, or to take them again
       +-> the reserve, a step at a time

A file system that hangs may keep ``statvfs`` for as long as it likes.  So only this thread asks;
the loop has the last answer, and the age of the question that is not answered.  **Silence is a
stall, not a full disk**: nothing is refused for it.  A leader whose own sync hangs steps down by
itself (:meth:`raft.core.Core`), and ``why`` says whose disk it is that keeps everybody waiting.

**Opening the log of a full disk** must not fail, or the supervisor would use up its patience while
somebody makes room.  The reserve is there for that.  Mostly hardly anything is missing: the zeros
that the segment of the last life did not use are nearly all that the first one of this life needs.
So it is given up little by little, twice as much each time.  With none left it waits, in the same
process, and ends only after ``ROOM_WAIT_MS_MAX``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from actors.runtime import Clock
from actors.settings import DiskSettings
from raft.store.errors import StoreError
from raft.store.files import Files, make_directory
from raft.store.segments import SEGMENT_BYTES_FIRST
from raft.store.space import (
    GIVE_PART,
    Judge,
    Limits,
    Reserve,
    Room,
    SparingFiles,
    is_full_error,
)
from raft.store.wal import Wal

log = logging.getLogger("polyraft.worker")

T = TypeVar("T")

# Before a worker that cannot open its log for want of room ends, and is started again later.
ROOM_WAIT_MS_MAX: Final = 10_000
ROOM_POLL_MS: Final = 200
# Of a short disk's segment in use: this part of the least one is for votes, terms and marks;
# appends, and what is copied so that old segments may go, may have the rest.
VOTES_PART: Final = 4


class DiskSpace:
    """Of the file system on which ``directory``, of the log, is."""

    def __init__(
        self,
        files: Files,
        directory: str,
        settings: DiskSettings,
        clock: Clock,
        segment_bytes_first: int = SEGMENT_BYTES_FIRST,
    ) -> None:
        self._files = files
        self._directory = directory
        self._clock = clock
        self._limits = Limits(settings.disk_soft_limit_bytes)
        self._segment_bytes_first = segment_bytes_first
        self._judge = Judge(self._limits, segment_bytes_first)  # of whoever looks: one thread
        self._reserve = Reserve(files, directory, settings.disk_reserve_bytes)
        self._poke = threading.Event()
        self._asked_ms: int | None = None  # a question to the file system that is not answered
        self._is_silent = False  # the last one failed, and that was said
        self._trouble: str | None = None  # with the reserve, as it was said
        self.free_bytes = 0  # by the last answer
        # As the loop knows it:
        self.room = self._judge.room
        self.refusal: str | None = None  # why no write is taken; None: they are
        self.sync_since_ms: int | None = None  # when the batch under way was handed to the disk

    # ------------------------------------------------------------------ opening the log

    def open(self, attempt: Callable[[], T]) -> T:
        """What ``attempt`` returns, with the room made for it that it needs.

        Blocks; before the loop runs.  Raises what ``attempt`` raises; of a full disk only when
        nothing was left to give up, and it stayed full.
        """
        make_directory(self._files, self._directory)
        deadline_ms = self._clock.now_ms() + ROOM_WAIT_MS_MAX
        count = self._segment_bytes_first // GIVE_PART
        while True:
            try:
                result = attempt()
            except (OSError, StoreError) as error:
                if not is_full_error(error):
                    raise
                if not self._give(count):
                    self._wait_for_room(deadline_ms, error)
                count *= 2
                continue
            self._hear(self._files.free_bytes(self._directory))
            self.take(self._judge.room)
            return result

    def _make_room(self, count: int) -> None:
        free_bytes = self._files.free_bytes(self._directory)
        if free_bytes < count:
            self._give(count - free_bytes)

    def _give(self, count: int) -> int:
        given = self._reserve.give(max(count, self._segment_bytes_first // GIVE_PART))
        if given:
            log.warning("the disk is full: %d bytes of the reserve are given up", given)
        return given

    def _wait_for_room(self, deadline_ms: int, error: Exception) -> None:
        if self._clock.now_ms() >= deadline_ms:
            raise error
        if not self._is_silent:
            self._is_silent = True
            log.error("%s; nothing is left in reserve; waiting for room", error)
        self._poke.wait(ROOM_POLL_MS / 1_000)

    # ------------------------------------------------------------------ looking

    def start(
        self, post: Callable[[Callable[[], None]], None], on_room: Callable[[Room], None]
    ) -> None:
        """Have ``on_room`` called, in the loop's thread, when something has changed."""

        def watch() -> None:
            while True:
                if self.look():
                    post(_call(on_room, self._judge.room))
                self._poke.wait(self._judge.look_again_ms() / 1_000)
                self._poke.clear()

        threading.Thread(target=watch, name="space", daemon=True).start()

    def look(self) -> bool:
        """Ask the file system, and see to the reserve; whether anything is another now."""
        self._asked_ms = self._clock.now_ms()
        try:
            free_bytes = self._files.free_bytes(self._directory)
        except OSError as error:
            if not self._is_silent:
                log.error("how full the disk is cannot be told: %s", error)
            self._is_silent = True
            return False
        finally:
            self._asked_ms = None
        self._is_silent = False
        changed = self._hear(free_bytes)
        self._fill_reserve(free_bytes)
        return changed

    def look_soon(self) -> None:
        """Something has grown."""
        self._poke.set()

    def _hear(self, free_bytes: int) -> bool:
        self.free_bytes = free_bytes
        return self._judge.hear(free_bytes)

    def _fill_reserve(self, free_bytes: int) -> None:
        """One step, if it does not make the disk full; the next look makes the next one.  Where
        many workers start at a time, their logs come first."""
        reserve = self._reserve
        if free_bytes < self._limits.resume_bytes + reserve.bytes_max:
            return
        try:
            reserve.fill()
        except OSError as error:
            # Nobody relies on it yet; the log has a sync of its own that tells of a bad disk.
            if self._trouble != str(error):
                self._trouble = str(error)
                log.warning("the reserve of the log cannot be made: %s", error)

    # ------------------------------------------------------------------ the loop's side

    def take(self, room: Room) -> bool:
        """Believe it from now on; whether groups are to be told."""
        before, self.room = self.room, room
        if room.is_full and self.refusal is None:
            limits = self._limits
            self.refusal = (
                f"the disk is full: {self._directory} has {room.free_bytes} bytes free, less than "
                f"{limits.soft_bytes}; make room there: above {limits.resume_bytes} bytes writes "
                "are taken again by themselves"
            )
        elif not room.is_full:
            self.refusal = None
        return room.is_full != before.is_full

    def limit(self, wal: Wal, room: Room) -> None:
        """What the log may take of the disk of its own accord."""
        wal.segment_bytes_max = room.segment_bytes_max
        wal.kept_from_copies = self._segment_bytes_first // VOTES_PART if room.is_short else None

    def drops(self, bulk_bytes: int, wal: Wal) -> bool:
        """Whether so much from leaders is better not taken, on a disk that is short: it would need
        another segment."""
        return bulk_bytes + self._segment_bytes_first // VOTES_PART > wal.segment_room_bytes

    def prepared(self, preparation: Callable[[], None]) -> Callable[[], None]:
        """The making of the next segment, on a thread of its own, with room made for it."""

        def prepare() -> None:
            # Where little is left, a segment has the least size.
            self._make_room(self._segment_bytes_first)
            try:
                preparation()
            finally:
                self.look_soon()

        return prepare

    def files_of_snapshots(self, data: str) -> Files:
        """For what may not take the last of the room."""
        hard_bytes = self._limits.hard_bytes
        return SparingFiles(self._files, data, hard_bytes) if hard_bytes else self._files

    def describe(self, wal: Wal) -> dict[str, dict[str, Any]]:
        """What ``status`` and ``metadata`` show.  Ages in ms; None: nothing is waited for."""
        now = self._clock.now_ms()
        asked_ms, since_ms = self._asked_ms, self.sync_since_ms
        disk = {
            "path": self._directory,
            "free_bytes": self.free_bytes,
            "soft_limit_bytes": self._limits.soft_bytes,
            "refusal": self.refusal,
            "look_ms": None if asked_ms is None else now - asked_ms,
            "sync_ms": None if since_ms is None else now - since_ms,
        }
        told = wal.statistics()
        log = {
            "bytes": told["log_bytes"] + told["segment_used_bytes"],
            "live_bytes": told["live_bytes"],
            "segments": told["segments_kept"],
            "segments_removed": told["segments_removed"],
            "tidying_stopped": told["tidying_stopped"],
        }
        return {"disk": disk, "log": log}


def bytes_in(items: list[Any]) -> int:
    """Of what peers have sent in one frame."""
    return sum(len(data) for flat in items[2::3] for data in flat[1::2])


def _call(on_room: Callable[[Room], None], room: Room) -> Callable[[], None]:
    return lambda: on_room(room)
