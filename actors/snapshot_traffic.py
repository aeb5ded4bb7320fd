"""What the groups of one process share when it comes to snapshots: places, bytes, and a thread.

What may live here: who may go on now, and who waits.  Pure: time is told, nothing is read or sent;
a simulation has the same object.

**Places.**  After a node comes back, all groups that it leads may have somebody who needs a
snapshot, and all groups that follow may be sent one (pitfall 43).  At most
``snapshot_transfers_max`` are under way at a time, in each direction.  Whoever asks when there is
no place stands in line; who stops asking loses place or turn, and so does, when others wait, a
transfer that comes no nearer to its end: it goes to the end of the line.  Nobody waits for ever,
and nobody holds anything meanwhile: the leader's core asks every few heartbeats, with a message
that has no bytes, and the two go on with their heartbeats.  While nothing has been sent it is
always the newest snapshot that waits, so no log is kept for it.

**Bytes.**  What is read to be sent is charged to an account that fills with
``snapshot_send_bytes_per_s``; who comes too early is told how long to wait, and comes again, paid.
A chunk is at most an eighth of a second's worth, so that several transfers alternate, and each of
them shows every second that it goes on.

**The thread.**  Snapshots are written one at a time.  A view of a state costs memory as long as it
is held, so no group asks its machine for one before the thread is free: many groups whose
snapshots become due together stand in line with nothing in their hands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from actors.group_messages import (
    ChunkFailed,
    ChunkRead,
    ChunkWaits,
    LeavePlace,
    MayWrite,
    PlaceToWrite,
    ReadChunk,
    StoreChunk,
    WriteSnapshot,
)
from actors.settings import SnapshotSettings
from raft.leader import CHUNK_AGAIN_HEARTBEATS, SNAPSHOT_PATIENCE_TIMEOUTS
from raft.messages import ChunkStored, SnapshotReceived
from raft.settings import RaftSettings

CHUNKS_PER_S_MIN: Final = 8  # into which a second's worth of bytes is cut at least
CHUNK_BYTES_MIN: Final = 4 << 10  # whatever comes of that
QUESTIONS_MISSED: Final = 3  # so many are not asked, and nobody stands there any more
SWEEP_MS: Final = 100  # between two looks for those who stopped asking


@dataclass(slots=True)
class _Holder:
    asked_ms: int
    moved_ms: int
    reached: int = 0  # bytes


class Places:
    """At most ``most`` keys at a time; see the top of this file."""

    __slots__ = ("_held", "_idle_ms", "_most", "_patience_ms", "_swept_ms", "_waiting")

    def __init__(self, most: int, *, idle_ms: int, patience_ms: int) -> None:
        assert most > 0
        self._most = most
        self._idle_ms = idle_ms
        self._patience_ms = patience_ms
        self._held: dict[Hashable, _Holder] = {}
        self._waiting: dict[Hashable, int] = {}  # in order; when it last asked
        self._swept_ms = 0

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def may(self, key: Hashable, now: int) -> bool:
        """Whether it has a place, from now on or already."""
        self._sweep(now)
        holder = self._held.get(key)
        if holder is not None:
            holder.asked_ms = now
            if not self._waiting or now - holder.moved_ms < self._patience_ms:
                return True
            # It gets nowhere, and others wait.
            del self._held[key]
        self._waiting[key] = now
        free = self._most - len(self._held)
        if key not in islice(self._waiting, free):
            return False
        del self._waiting[key]
        self._held[key] = _Holder(now, now)
        return True

    def note_reached(self, key: Hashable, count: int, now: int) -> None:
        """It has come so far, in bytes; only more than ever before is a step."""
        holder = self._held.get(key)
        if holder is not None and count > holder.reached:
            holder.reached, holder.moved_ms = count, now

    def leave(self, key: Hashable) -> None:
        self._held.pop(key, None)
        self._waiting.pop(key, None)

    def forget(self, gone: Callable[[Any], bool]) -> None:
        for key in [key for key in (*self._held, *self._waiting) if gone(key)]:
            self.leave(key)

    def _sweep(self, now: int) -> None:
        if now - self._swept_ms < min(SWEEP_MS, self._idle_ms):
            return
        self._swept_ms = now
        silent_ms = now - self._idle_ms
        for key in [key for key, each in self._held.items() if each.asked_ms < silent_ms]:
            del self._held[key]
        for key in [key for key, asked_ms in self._waiting.items() if asked_ms < silent_ms]:
            del self._waiting[key]


class Throttle:
    """So many bytes a second; 0: as many as come.  Served in the order of asking."""

    __slots__ = ("_bytes_per_s", "_free_ms")

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_ms = 0.0  # when all that was let through is paid for

    def wait_ms(self, count: int, now: int) -> int:
        """Charge ``count`` bytes; how long to wait before they may go."""
        if not self._bytes_per_s:
            return 0
        begins_ms = max(float(now), self._free_ms)
        self._free_ms = begins_ms + 1_000 * count / self._bytes_per_s
        return int(begins_ms - now)

    def at_once_max(self, count: int) -> int:
        """How much of ``count`` bytes one chunk should have."""
        if not self._bytes_per_s:
            return count
        return min(count, max(CHUNK_BYTES_MIN, self._bytes_per_s // CHUNKS_PER_S_MIN))


class WritingLine:
    """Whose turn it is to have a snapshot written."""

    __slots__ = ("_waiting", "_writer")

    def __init__(self) -> None:
        self._writer: int | None = None
        self._waiting: deque[int] = deque()

    def may(self, group: int) -> bool:
        assert group != self._writer, f"group {group} asks twice"
        assert group not in self._waiting, f"group {group} asks twice"
        if self._writer is None:
            self._writer = group
            return True
        self._waiting.append(group)
        return False

    def leave(self, group: int) -> int | None:
        """Who is next, if that changes."""
        if group != self._writer:
            if group in self._waiting:
                self._waiting.remove(group)
            return None
        self._writer = self._waiting.popleft() if self._waiting else None
        return self._writer


class SnapshotTraffic:
    """Between the group actors of a process and its threads.

    ``tell``: have a group actor told, by control.  ``submit``: have an effect carried out; what
    comes of it is told to :meth:`note_done` first.
    """

    def __init__(
        self,
        settings: SnapshotSettings,
        raft: RaftSettings,
        now_ms: Callable[[], int],
        tell: Callable[[int, object], object],
        submit: Callable[[Any], None],
    ) -> None:
        self._now_ms = now_ms
        self._tell = tell
        self._submit = submit
        # A leader whose line is slow, or throttled, asks less often than its core would like to.
        idle_ms = QUESTIONS_MISSED * CHUNK_AGAIN_HEARTBEATS * raft.heartbeat_ms
        idle_ms = max(idle_ms, 1_000 * settings.snapshot_transfers_max // CHUNKS_PER_S_MIN)
        patience_ms = SNAPSHOT_PATIENCE_TIMEOUTS * raft.election_timeout_ms
        most = settings.snapshot_transfers_max
        self.sending = Places(most, idle_ms=idle_ms, patience_ms=patience_ms)
        self.receiving = Places(most, idle_ms=idle_ms, patience_ms=patience_ms)
        self._throttle = Throttle(settings.snapshot_send_bytes_per_s)
        self._line = WritingLine()
        self._begin: dict[type, Callable[[Any], None]] = {
            ReadChunk: self._read,
            StoreChunk: self._store,
            PlaceToWrite: self._place_to_write,
            LeavePlace: self._leave_place,
        }
        self._end: dict[type, Callable[[Any, object], None]] = {
            ReadChunk: self._was_read,
            StoreChunk: self._was_stored,
            WriteSnapshot: lambda effect, _: self._leave_place(effect),
        }

    def carry(self, effect: Any) -> None:
        """An effect of a group actor."""
        self._begin.get(type(effect), self._submit)(effect)

    def note_done(self, effect: Any, result: object) -> None:
        """An effect that was submitted is carried out."""
        end = self._end.get(type(effect))
        if end is not None:
            end(effect, result)

    def forget(self, group: int) -> None:
        """Its actor is gone."""
        self.sending.forget(lambda key: bool(key[0] == group))
        self.receiving.forget(lambda key: bool(key == group))
        self._next_writer(self._line.leave(group))

    # ------------------------------------------------------------------ sending

    def _read(self, effect: ReadChunk) -> None:
        now = self._now_ms()
        snapshot, offset = effect.snapshot, effect.offset
        # Behind the end it only asks what became of the snapshot; nobody waits in line for that.
        is_over = offset >= snapshot.size_bytes
        if not (is_over or self.sending.may((effect.group, effect.to), now)):
            self._tell(effect.group, ChunkWaits(effect.to, snapshot, offset, None))
            return
        if not effect.bytes_max:
            self._tell(effect.group, ChunkRead(effect.to, effect.term, snapshot, offset, b""))
            return
        if not effect.is_paid:
            count = min(self._throttle.at_once_max(effect.bytes_max), snapshot.size_bytes - offset)
            effect.bytes_max = count
            wait_ms = self._throttle.wait_ms(count, now)
            if wait_ms:
                self._tell(effect.group, ChunkWaits(effect.to, snapshot, offset, wait_ms, count))
                return
        self._submit(effect)

    def _was_read(self, effect: ReadChunk, result: object) -> None:
        key = (effect.group, effect.to)
        if type(result) is not ChunkRead:
            self.sending.leave(key)
            return
        end = effect.offset + len(result.data)
        self.sending.note_reached(key, end, self._now_ms())
        if end >= effect.snapshot.size_bytes:
            self.sending.leave(key)

    # ------------------------------------------------------------------ receiving

    def _store(self, effect: StoreChunk) -> None:
        is_over = effect.offset >= effect.snapshot.size_bytes
        if is_over or self.receiving.may(effect.group, self._now_ms()):
            self._submit(effect)
        else:
            self._tell(effect.group, ChunkFailed(effect.snapshot))

    def _was_stored(self, effect: StoreChunk, result: object) -> None:
        if type(result) is SnapshotReceived:
            self.receiving.leave(effect.group)
        elif type(result) is ChunkStored:
            self.receiving.note_reached(effect.group, result.offset, self._now_ms())

    # ------------------------------------------------------------------ writing

    def _place_to_write(self, effect: PlaceToWrite) -> None:
        if self._line.may(effect.group):
            self._tell(effect.group, MayWrite())

    def _leave_place(self, effect: Any) -> None:
        self._next_writer(self._line.leave(effect.group))

    def _next_writer(self, group: int | None) -> None:
        if group is not None:
            self._tell(group, MayWrite())


EFFECTS: Final = (PlaceToWrite, LeavePlace)
