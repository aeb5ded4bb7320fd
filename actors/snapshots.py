"""When a group takes snapshots, and how they come and go.  Decides; does no I/O.

**Taking one**: ask the machine for a view of its state between two runs, have it written aside
while applies go on, and tell the core, which lets go of the log once its own record of that is
durable (pitfall 41).  One at a time::

    idle --note_handed, doSnapshot--> asked --SnapshotView--> writing --SnapshotWritten--> idle

It is due when the log behind the last one has grown by so many entries or bytes.  Writing costs the
process about as much time as it takes, whatever thread it is on, so the next one waits ten times as
long as the last one took: at most a tenth of the time goes into snapshots, however fast the log
grows, until it has grown so much that memory is the greater worry.

**Sending and receiving**: the core says which bytes go to whom, and takes in what arrives; here one
read for each receiver, and a few writes, are under way at once.  What is too much is dropped; it is
asked for, or sent, again.

**Files** are removed when the record in the WAL that names a newer one is durable, and not before:
until then a restart needs the old one.  (A file that no record names yet, the store leaves alone.)
That is decided at the end of a turn, when the core's output, in which that record stands, is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from actors.clients import Clients, Pending
from actors.group_messages import (
    ChunkFailed,
    ChunkRead,
    KeepSnapshots,
    ReadChunk,
    SendPeers,
    SnapshotFailed,
    SnapshotWritten,
    StoreChunk,
    WriteSnapshot,
    machine_name,
)
from actors.machine import NO_SNAPSHOTS, Restore, Restored, SnapshotView, TakeSnapshot
from actors.runtime import Clock, StartTimer, Tell
from actors.settings import SnapshotSettings
from raft.core import Core
from raft.messages import (
    ChunkStored,
    Replica,
    Run,
    Save,
    SendChunk,
    SnapshotChunk,
    SnapshotLost,
    SnapshotMeta,
    SnapshotReceived,
    SnapshotTaken,
)
from transport import protocol

TIMER: Final = "snapshot"
AGAIN_TIMER: Final = "snapshot again"
TIMERS: Final = (TIMER, AGAIN_TIMER)
PAUSE_FACTOR: Final = 10  # of the time that the last one took
HURRY_FACTOR: Final = 4  # of ``snapshot_bytes``: so large a log waits for no pause
FAILED_PAUSE_MS: Final = 10_000  # before the next attempt
WAITING_MAX: Final = 1_000  # doSnapshot messages that wait for one snapshot; then BUSY
CHUNK_BYTES_MAX: Final = 4 << 20  # whatever is configured; far below a peer frame
STORING_MAX: Final = 8  # received chunks on their way to the disk; one more is dropped

_IDLE, _ASKED, _WRITING = range(3)


@dataclass(slots=True)
class _Reading:
    """The chunk that is being read for a receiver."""

    snapshot: SnapshotMeta
    offset: int


class GroupSnapshots:
    """Part of one group actor; what a method returns are effects."""

    __slots__ = (
        "_clients",
        "_clock",
        "_core",
        "_counted_bytes",
        "_group",
        "_handed_bytes",
        "_has_none",
        "_is_lost",
        "_keep_wanted",
        "_mark_number",
        "_not_before_ms",
        "_reading",
        "_rebuilding",
        "_restoring",
        "_restoring_index",
        "_settings",
        "_state",
        "_storing",
        "_view_bytes",
        "_view_wanted",
        "_waiting",
        "counts",
        "held",
        "is_dirty",
        "on_fail",
    )

    def __init__(
        self,
        group: int,
        core: Core,
        clients: Clients,
        settings: SnapshotSettings,
        clock: Clock,
    ) -> None:
        self._group = group
        self._core = core
        self._clients = clients
        self._settings = settings
        self._clock = clock
        self._state = _IDLE
        self._has_none = False  # the machine has no snapshots, and is not asked again
        self._is_lost = False  # the newest one cannot be read: the next one is due at once
        self._waiting: list[Pending] = []  # doSnapshot
        self._not_before_ms = 0
        # Bytes of runs handed out in this life; those up to the last snapshot, and to the view.
        self._handed_bytes = 0
        self._counted_bytes = 0
        self._view_bytes = 0
        self._restoring_index = 0  # of what the machine was last told to become
        self._restoring: list[SnapshotMeta] = []  # told, and not known to be read yet
        self._rebuilding: list[SnapshotMeta] = []  # the same, after it has failed
        self._mark_number = 0  # the save with the newest mark, 0: it is durable
        self.is_dirty = False  # there is something for the end of the turn:
        self._view_wanted = False
        self._keep_wanted = False  # there may be files that nobody needs
        self._reading: dict[Replica, _Reading] = {}
        self._storing = 0
        # Of backups (actors/backups.py): what must stay, and who hears of an attempt that failed.
        self.held: list[SnapshotMeta] = []
        self.on_fail: Callable[[str], None] | None = None
        self.counts = {"taken": 0, "failed": 0, "received": 0, "chunks_dropped": 0}

    # ------------------------------------------------------------------ life

    def on_start(self) -> list[object]:
        """The machine begins as the newest snapshot, before anything is applied."""
        effects: list[object] = []
        snapshot = self._core.snapshot
        if snapshot is not None:
            effects += self.restore(snapshot)
            self._want_keep()
        if self._settings.snapshot_interval_ms:
            effects.append(self._timer())
        return effects

    def _timer(self) -> StartTimer:
        return StartTimer(TIMER, self._clock.now_ms() + self._settings.snapshot_interval_ms)

    def on_timer(self, key: object) -> list[object]:
        """The interval is over: take one if there is anything new.  Or the pause after one that
        failed is, and somebody waits for it."""
        if key == AGAIN_TIMER:
            return self._ask_for_view() if self._is_lost and self._may_begin else []
        effects: list[object] = [self._timer()]
        if (self._core.handed_index > self.index or self._is_lost) and self._may_begin:
            effects += self._ask_for_view()
        return effects

    @property
    def index(self) -> int:
        """Of the newest snapshot; 0: there is none."""
        snapshot = self._core.snapshot
        return 0 if snapshot is None else snapshot.index

    @property
    def is_lost(self) -> bool:
        """The newest one cannot be read."""
        return self._is_lost

    @property
    def has_none(self) -> bool:
        """The machine has no snapshots."""
        return self._has_none

    def is_restoring(self, applied_index: int) -> bool:
        return applied_index < self._restoring_index

    # ------------------------------------------------------------------ taking

    @property
    def _may_begin(self) -> bool:
        return self._state == _IDLE and not self._has_none

    def note_handed(self, runs: list[Run]) -> list[object]:
        """These go to the machine; take a snapshot of it if the log has grown enough."""
        for run in runs:
            self._handed_bytes += len(run.body)
        if not self._may_begin:
            return []
        settings = self._settings
        grown_bytes = self._handed_bytes - self._counted_bytes
        if (
            not self._is_lost
            and grown_bytes < settings.snapshot_bytes
            and self._core.handed_index - self.index < settings.snapshot_entries
        ):
            return []
        now = self._clock.now_ms()
        if now < self._not_before_ms and grown_bytes < HURRY_FACTOR * settings.snapshot_bytes:
            return []
        return self._ask_for_view()

    def take_for_peer(self) -> list[object]:
        """Somebody needs one that is newer than any there is; said again until there is one."""
        if not self._may_begin or self._clock.now_ms() < self._not_before_ms:
            return []
        return self._ask_for_view()

    def ask(self, pending: Pending) -> None:
        """doSnapshot: take one now, or have the one that is under way."""
        if len(self._waiting) >= WAITING_MAX:
            self._clients.refuse(pending.token, protocol.BUSY, "too many wait for this snapshot")
            return
        self._clients.admit(pending)
        self._waiting.append(pending)
        self.want_one()

    def want_one(self) -> None:
        """At the end of this turn, unless one is under way."""
        if self._state == _IDLE:
            self._view_wanted = self.is_dirty = True

    def _ask_for_view(self) -> list[object]:
        assert self._state == _IDLE
        self._state = _ASKED
        self._view_wanted = False
        return [Tell(machine_name(self._group), TakeSnapshot(None), control=True)]

    def on_view(self, message: SnapshotView) -> list[object]:
        assert self._state == _ASKED
        core = self._core
        self._state = _IDLE
        if message.view is None:
            assert message.error is not None
            self._has_none = message.error == NO_SNAPSHOTS
            return self._fail(message.error)
        if message.index < self.index + (not self._is_lost):
            # Also when a newer one was installed meanwhile.
            self._counted_bytes = self._handed_bytes
            self._finish_waiting()
            return []
        term = core.log.term_at(message.index)
        assert term is not None, f"{message.index} is applied and not in the log"
        self._state = _WRITING
        self._view_bytes = self._handed_bytes
        return [
            WriteSnapshot(
                self._group,
                message.index,
                term,
                core.configuration_at(message.index),
                message.time_ms,
                message.machine_version,
                message.view,
            )
        ]

    def on_written(self, message: SnapshotWritten) -> None:
        assert self._state == _WRITING
        self._state = _IDLE
        now = self._clock.now_ms()
        self._not_before_ms = now + PAUSE_FACTOR * message.elapsed_ms
        self._counted_bytes = self._view_bytes
        self._is_lost = False
        self.counts["taken"] += 1
        meta = message.meta
        self._core.step(SnapshotTaken(meta, self._compact_to(meta.index)), now)
        self._want_keep()
        self._finish_waiting()

    def on_failed(self, message: SnapshotFailed) -> list[object]:
        assert self._state == _WRITING
        self._state = _IDLE
        return self._fail(message.error)

    def _fail(self, error: str) -> list[object]:
        self.counts["failed"] += not self._has_none
        self._not_before_ms = self._clock.now_ms() + FAILED_PAUSE_MS
        # Counted from here on, so that a large log does not make it try again at once.
        self._counted_bytes = self._handed_bytes
        waiting, self._waiting = self._waiting, []
        self._clients.finish_all(waiting, protocol.REJECTED, error, maybe_applied=False)
        if self.on_fail is not None:
            self.on_fail(error)
        if not self._is_lost:
            return []
        # Whoever waits for it may be needed for anything new to be committed.
        return [StartTimer(AGAIN_TIMER, self._not_before_ms)]

    def _finish_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        snapshot = self._core.snapshot
        if snapshot is None:
            text = "nothing has been applied yet"
            self._clients.finish_all(waiting, protocol.REJECTED, text, maybe_applied=False)
            return
        values = {
            "node": self._core.me.node,
            "index": snapshot.index,
            "size_bytes": snapshot.size_bytes,
        }
        for pending in waiting:
            if not pending.answered:
                self._clients.finish_json(pending, values)

    def _compact_to(self, index: int) -> int:
        """What stays behind a snapshot for those who lag a little: bounded by count and bytes."""
        log = self._core.log
        least = max(log.base_index, index - self._settings.snapshot_trailing_entries)
        left_bytes = self._settings.snapshot_trailing_bytes
        while index > least:
            run = log.run_containing(index)
            assert run is not None
            left_bytes -= len(run.body)
            if left_bytes < 0:
                break
            index = run.first - 1
        return max(index, least)

    # ------------------------------------------------------------------ restoring

    def restore(self, snapshot: SnapshotMeta) -> list[object]:
        self._restoring_index = snapshot.index
        self._restoring.append(snapshot)
        return [Tell(machine_name(self._group), Restore(snapshot), control=True)]

    def note_rebuilding(self, snapshot: SnapshotMeta, *, is_at_another: bool) -> None:
        """A quarantined machine is told to begin with it (:mod:`actors.rebuild`)."""
        others = self._rebuilding if is_at_another else []
        self._rebuilding = [snapshot, *(each for each in others if each != snapshot)]

    def adopt(self, snapshot: SnapshotMeta) -> None:
        """One that was received stands for the log from now on, as if it were taken here."""
        self._is_lost = False
        taken = SnapshotTaken(snapshot, self._compact_to(snapshot.index))
        self._core.step(taken, self._clock.now_ms())
        self._want_keep()

    def on_restored(self, message: Restored) -> None:
        self._counted_bytes = self._handed_bytes
        index = message.meta.index
        self._restoring = [each for each in self._restoring if each.index > index]
        self._rebuilding = []
        self._want_keep()

    # ------------------------------------------------------------------ sending

    def send(self, chunks: list[SendChunk]) -> list[object]:
        effects: list[object] = []
        core = self._core
        for chunk in chunks:
            to, snapshot, offset = chunk.to, chunk.snapshot, chunk.offset
            if offset >= snapshot.size_bytes:
                # It has all of it, and nothing was heard since: ask what became of it.
                effects.append(self._chunk(to, snapshot, offset, b""))
                continue
            reading = self._reading.get(to)
            if reading is not None and (reading.snapshot, reading.offset) == (snapshot, offset):
                continue  # a slow disk
            self._reading[to] = _Reading(snapshot, offset)
            bytes_max = min(core.settings.snapshot_chunk_bytes, CHUNK_BYTES_MAX)
            effects.append(ReadChunk(self._group, to, chunk.term, snapshot, offset, bytes_max))
        return effects

    def on_chunk_read(self, message: ChunkRead) -> list[object]:
        core = self._core
        to = message.to
        reading = self._reading.get(to)
        if reading is None or (reading.snapshot, reading.offset) != (
            message.snapshot,
            message.offset,
        ):
            return []  # something else is wanted meanwhile
        del self._reading[to]
        if not core.is_leader or core.term != message.term:
            return []
        return [self._chunk(to, message.snapshot, message.offset, message.data)]

    def _chunk(self, to: Replica, snapshot: SnapshotMeta, offset: int, data: bytes) -> SendPeers:
        core = self._core
        return SendPeers([SnapshotChunk(core.me, to, core.term, snapshot, offset, data)])

    def on_lost(self, message: SnapshotLost) -> None:
        """Who was getting it waits for the next one.

        That one may be of the same index: perhaps nothing new can be committed before it arrives.
        """
        if message.snapshot == self._core.snapshot:
            self._is_lost = True
            self._view_wanted = self.is_dirty = self._may_begin
        self._reading = {
            to: reading
            for to, reading in self._reading.items()
            if reading.snapshot != message.snapshot
        }
        self._core.step(message, self._clock.now_ms())

    # ------------------------------------------------------------------ receiving

    def receive(self, chunks: list[SnapshotChunk]) -> list[object]:
        effects: list[object] = []
        for chunk in chunks:
            if self._storing >= STORING_MAX:
                self.counts["chunks_dropped"] += 1
                continue
            self._storing += 1
            effects.append(StoreChunk(self._group, chunk.snapshot, chunk.offset, chunk.data))
        return effects

    def on_stored(self, message: ChunkStored | SnapshotReceived) -> None:
        self._storing -= 1
        if type(message) is SnapshotReceived:
            self.counts["received"] += 1
            self._want_keep()
        elif message.snapshot.index <= self._core.commit_index and not self._core.wants(
            message.snapshot
        ):
            return  # a chunk that came twice, of what is installed by now
        self._core.step(message, self._clock.now_ms())

    def on_chunk_failed(self, message: ChunkFailed) -> None:
        self._storing -= 1

    # ------------------------------------------------------------------ files

    def note_save(self, save: Save) -> None:
        if save.mark is not None:
            self._mark_number = save.number

    def on_persisted(self, number: int) -> None:
        if self._mark_number and number >= self._mark_number:
            self._mark_number = 0
            self._want_keep()

    def let_go(self) -> None:
        """Something that was held is no longer."""
        self._want_keep()

    def _want_keep(self) -> None:
        self._keep_wanted = self.is_dirty = True

    def end_turn(self) -> list[object]:
        """If ``is_dirty``, when the core's output is taken."""
        effects: list[object] = []
        if self._view_wanted and self._state == _IDLE:
            effects += self._ask_for_view()
        if self._keep_wanted and not self._mark_number:
            self._keep_wanted = False
            core = self._core
            newest = [] if core.snapshot is None else [core.snapshot]
            needed = newest + core.snapshots_in_use + self._restoring + self._rebuilding
            needed += self.held
            effects.append(KeepSnapshots(self._group, needed))
        self.is_dirty = self._keep_wanted or self._view_wanted
        return effects
