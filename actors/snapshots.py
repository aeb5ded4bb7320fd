"""When a group takes snapshots, and how they come and go.  Decides; does no I/O.

**Taking one**: ask the machine for a view of its state between two runs, have it written aside
while applies go on, and tell the core, which lets go of the log once its own record of that is
durable (pitfall 41).  One at a time::

    idle --due, doSnapshot--> waiting --MayWrite--> asked --SnapshotView--> writing
      ^                                                                        |
      +-----------------------------SnapshotWritten, SnapshotFailed------------+

It is due when the log behind the last one has grown by so many entries or bytes, or when the first
entry behind it has come long ago.  That last moment is spread over a quarter of the interval, by
group and replica, so that groups that began together do not all come together; where nothing new
is, no timer runs.  Before the machine is asked, the group waits for its turn
(:mod:`actors.snapshot_traffic`): what many groups of a process are due at once is written one by
one, and a view is held for what is being written, not for what waits.

Writing costs the process about as much time as it takes, whatever thread it is on, so the next one
waits ten times as long as the last one took: at most a tenth of the time goes into snapshots,
however fast the log grows, until it has grown so much that memory is the greater worry.

**Sending and receiving**: the core says which bytes go to whom, and takes in what arrives; here one
read for each receiver, and a few writes, are under way at once.  What is too much is dropped; it is
asked for, or sent, again.  What was received before a restart is looked at when somebody sends it
again, and removed when it is of no use or nobody has sent any of it for an hour.

**Files** are removed when the record in the WAL that names a newer one is durable, and not before:
until then a restart needs the old one.  (A file that no record names yet, the store leaves alone.)
That is decided at the end of a turn, when the core's output, in which that record stands, is taken.

**One to spare** (``keep_snapshots = 2``): the snapshot before the newest stays, and with it the log
from there on.  When the machine cannot be restored from the newest, it is restored from that one,
and what the newest stood for is applied once more; then the newest is taken anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from actors.clients import Clients, Pending
from actors.group_messages import (
    CheckReceived,
    ChunkFailed,
    ChunkRead,
    ChunkWaits,
    FindSpare,
    KeepSnapshots,
    LeavePlace,
    MayWrite,
    PlaceToWrite,
    ReadChunk,
    ReceivedChecked,
    ReceivedUnchecked,
    SendPeers,
    SnapshotFailed,
    SnapshotWritten,
    SpareFound,
    StoreChunk,
    WriteSnapshot,
    machine_name,
)
from actors.machine import (
    NO_SNAPSHOTS,
    Restore,
    Restored,
    SnapshotView,
    TakeSnapshot,
)
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
CHUNK_TIMER: Final = "snapshot chunk"
RECEIVED_TIMER: Final = "snapshot received"
TIMERS: Final = (TIMER, AGAIN_TIMER, CHUNK_TIMER, RECEIVED_TIMER)
PAUSE_FACTOR: Final = 10  # of the time that the last one took
HURRY_FACTOR: Final = 4  # of ``snapshot_bytes``: so large a log waits for no pause
FAILED_PAUSE_MS: Final = 10_000  # before the next attempt
WAITING_MAX: Final = 1_000  # doSnapshot messages that wait for one snapshot; then BUSY
CHUNK_BYTES_MAX: Final = 4 << 20  # whatever is configured; far below a peer frame
STORING_MAX: Final = 8  # received chunks on their way to the disk; one more is dropped
RECEIVED_AGE_MS_MAX: Final = 3_600_000  # of a part of a snapshot that nobody sends any more
BEHIND_PAUSE_MS: Final = 1_000  # until the machine is looked at again that is behind its snapshot
INTERVAL_SPREAD: Final = 4  # over the last 1/4 of the interval

COUNTS: Final = ("taken", "failed", "received", "chunks_dropped", "spare_used")
_ANY_INDEX: Final = (1 << 63) - 1
_IDLE, _WAITING, _ASKED, _WRITING = range(4)


@dataclass(slots=True)
class _Reading:
    """The chunk that is being read for a receiver, or will be at ``due_ms``."""

    chunk: SendChunk
    due_ms: int | None = None
    count: int = 0

    def is_for(self, snapshot: SnapshotMeta, offset: int) -> bool:
        return (self.chunk.snapshot, self.chunk.offset) == (snapshot, offset)


def spread_ms(group: int, replica: Replica, interval_ms: int) -> int:
    """Where in the last part of the interval this one's moment is; always the same."""
    mixed = (group * 0x9E3779B97F4A7C15 ^ replica.incarnation) * 0xC2B2AE3D27D4EB4F
    return (mixed >> 32 & 0xFFFF) * (interval_ms // INTERVAL_SPREAD) >> 16


class GroupSnapshots:
    """Part of one group actor; what a method returns are effects."""

    __slots__ = (
        "_checking",
        "_clients",
        "_clock",
        "_core",
        "_counted_bytes",
        "_group",
        "_handed_bytes",
        "_has_none",
        "_interval_due_ms",
        "_interval_ms",
        "_is_lost",
        "_keep_wanted",
        "_machine_failed",
        "_mark_number",
        "_not_before_ms",
        "_reading",
        "_rebuilding",
        "_received_is_old",
        "_received_ms",
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
        self._checking = False  # somebody looks at what is here from before a restart
        self._received_ms: int | None = None  # when a chunk last came; None: no timer runs
        self._received_is_old = False  # and is to be removed
        self._machine_failed = False
        # From the first entry that is in no snapshot until one has it.
        interval_ms = settings.snapshot_interval_ms
        self._interval_ms = interval_ms - spread_ms(group, core.me, interval_ms)
        self._interval_due_ms: int | None = None
        self.counts = dict.fromkeys(COUNTS, 0)

    @property
    def table(self) -> dict[type, Callable[[Any], Any]]:
        """What the group actor is told that belongs here."""
        return {
            SnapshotView: self.on_view,
            SnapshotWritten: self.on_written,
            SnapshotFailed: self.on_failed,
            MayWrite: self.on_may_write,
            ChunkRead: self.on_chunk_read,
            ChunkWaits: self.on_chunk_waits,
            ChunkFailed: self.on_chunk_failed,
            ReceivedUnchecked: self.on_unchecked,
            ReceivedChecked: self.on_checked,
            SnapshotLost: self.on_lost,
        }

    # ------------------------------------------------------------------ life

    def on_start(self) -> list[object]:
        """The machine begins as the newest snapshot, before anything is applied."""
        effects: list[object] = []
        snapshot = self._core.snapshot
        if snapshot is not None:
            effects += self.restore(snapshot)
            self._want_keep()
        return effects

    def on_timer(self, key: object) -> list[object]:
        now = self._clock.now_ms()
        if key == AGAIN_TIMER:  # the pause after one that failed, and somebody waits for it
            return self._ask_for_place() if self._is_lost and self._may_begin else []
        if key == CHUNK_TIMER:
            return self._read_due(now)
        if key == RECEIVED_TIMER:
            return self._forget_received(now)
        return self._on_interval(now)

    def _on_interval(self, now: int) -> list[object]:
        """Take one, unless there is nothing new, or one was taken meanwhile."""
        due_ms, self._interval_due_ms = self._interval_due_ms, None
        assert due_ms is not None
        if self._core.handed_index <= self.index:
            return []
        if now < due_ms or not self._may_begin:
            return self._start_interval(max(due_ms, now + self._interval_ms * (now >= due_ms)))
        return self._ask_for_place()

    def _start_interval(self, due_ms: int) -> list[object]:
        if self._has_none:
            return []
        self._interval_due_ms = due_ms
        return [StartTimer(TIMER, due_ms)]

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
        if self._interval_due_ms is None and self._interval_ms:
            started = self._start_interval(self._clock.now_ms() + self._interval_ms)
            return started + self._maybe_begin()
        return self._maybe_begin()

    def _maybe_begin(self) -> list[object]:
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
        return self._ask_for_place()

    def take_for_peer(self) -> list[object]:
        """Somebody needs one that is newer than any there is; said again until there is one."""
        if not self._may_begin or self._clock.now_ms() < self._not_before_ms:
            return []
        return self._ask_for_place()

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

    def _ask_for_place(self) -> list[object]:
        assert self._state == _IDLE
        self._state = _WAITING
        self._view_wanted = False
        return [PlaceToWrite(self._group)]

    def on_may_write(self, _: MayWrite) -> list[object]:
        assert self._state == _WAITING
        self._state = _ASKED
        return [Tell(machine_name(self._group), TakeSnapshot(None), control=True)]

    def on_view(self, message: SnapshotView) -> list[object]:
        assert self._state == _ASKED
        core = self._core
        self._state = _IDLE
        if message.view is None:
            assert message.error is not None
            self._has_none = message.error == NO_SNAPSHOTS
            return [LeavePlace(self._group), *self._fail(message.error)]
        if message.index < self.index + (not self._is_lost):
            # Also when a newer one was installed meanwhile.
            self._counted_bytes = self._handed_bytes
            self._finish_waiting()
            left: list[object] = [LeavePlace(self._group)]
            if self._is_lost:
                # The machine is on its way to what the lost one stood for.
                left.append(StartTimer(AGAIN_TIMER, self._clock.now_ms() + BEHIND_PAUSE_MS))
            return left
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
        compact_to = self._compact_to(message.meta.index)
        # A newer one may have been installed meanwhile, and be what is lost.
        self._is_lost = self._is_lost and message.meta.index < self.index
        if self._interval_due_ms is not None:
            self._interval_due_ms = now + self._interval_ms
        self.counts["taken"] += 1
        self._core.step(SnapshotTaken(message.meta, compact_to), now)
        self._want_keep()
        if self._is_lost:
            self.want_one()
        else:
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
        """What stays behind a snapshot for those who lag a little: bounded by count and bytes.

        And what is behind the one before it, as long as that is kept to spare, and worth it.
        """
        log = self._core.log
        if self._settings.keep_snapshots > 1 and self._core.snapshot and not self._is_lost:
            index = min(index, max(self.index, log.base_index))
        least = max(log.base_index, index - self._settings.snapshot_trailing_entries)
        left_bytes = self._settings.snapshot_trailing_bytes
        while index > least:
            run = log.run_containing(index)
            assert run is not None
            left_bytes -= run.size_bytes
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
        self.note_well()

    def note_well(self) -> None:
        """The machine is quarantined no more: what was kept for it is needed no more."""
        self._rebuilding = []
        self._machine_failed = False
        self._want_keep()

    def note_machine_failed(self, snapshot: SnapshotMeta | None) -> None:
        """It is quarantined; ``snapshot``: what it could not become."""
        self._machine_failed = True
        if snapshot in self._restoring:
            self._restoring.remove(snapshot)

    def find_spare(self) -> list[object]:
        """Look for the snapshot before the newest, where one is kept (-> SpareFound)."""
        newest = self._core.snapshot
        if newest is None or self._settings.keep_snapshots < 2:
            return []
        return [FindSpare(self._group, newest, max(1, self._core.log.base_index))]

    def spare_in(self, message: SpareFound) -> SnapshotMeta | None:
        """The one that was found, if the log goes on from it."""
        core, spare = self._core, message.spare
        log = core.log
        if spare is None or message.than != core.snapshot:
            return None
        if log.term_at(spare.index) != spare.term or not log.is_border(spare.index):
            return None  # of another history
        self.counts["spare_used"] += 1
        return spare

    # ------------------------------------------------------------------ sending

    def send(self, chunks: list[SendChunk]) -> list[object]:
        effects: list[object] = []
        core = self._core
        for chunk in chunks:
            to, snapshot, offset = chunk.to, chunk.snapshot, chunk.offset
            reading = self._reading.get(to)
            if reading is not None and reading.is_for(snapshot, offset):
                continue  # a slow disk, or a slow line
            self._reading[to] = _Reading(chunk)
            bytes_max = (
                0 if chunk.asks else min(core.settings.snapshot_chunk_bytes, CHUNK_BYTES_MAX)
            )
            effects.append(ReadChunk(self._group, to, chunk.term, snapshot, offset, bytes_max))
        return effects

    def on_chunk_waits(self, message: ChunkWaits) -> list[object]:
        reading = self._reading.get(message.to)
        if reading is None or not reading.is_for(message.snapshot, message.offset):
            return []
        if message.wait_ms is None:
            del self._reading[message.to]  # the core asks again
            return []
        reading.due_ms = self._clock.now_ms() + message.wait_ms
        reading.count = message.count
        return self._arm_chunks()

    def _arm_chunks(self) -> list[object]:
        due = [each.due_ms for each in self._reading.values() if each.due_ms is not None]
        return [StartTimer(CHUNK_TIMER, min(due))] if due else []

    def _read_due(self, now: int) -> list[object]:
        effects: list[object] = []
        for to, reading in self._reading.items():
            if reading.due_ms is not None and reading.due_ms <= now:
                reading.due_ms = None
                it, count = reading.chunk, reading.count
                effects.append(
                    ReadChunk(self._group, to, it.term, it.snapshot, it.offset, count, is_paid=True)
                )
        return effects + self._arm_chunks()

    def on_chunk_read(self, message: ChunkRead) -> list[object]:
        core = self._core
        to = message.to
        reading = self._reading.get(to)
        if reading is None or not reading.is_for(message.snapshot, message.offset):
            return []  # something else is wanted meanwhile
        del self._reading[to]
        if not core.is_leader or core.term != message.term:
            return []
        return [self._chunk(to, message.snapshot, message.offset, message.data)]

    def _chunk(self, to: Replica, snapshot: SnapshotMeta, offset: int, data: bytes) -> SendPeers:
        core = self._core
        chunk = SnapshotChunk(core.me, to, core.term, snapshot, offset, data)
        return SendPeers(self._group, [chunk])

    def on_lost(self, message: SnapshotLost) -> None:
        """Who was getting it waits for the next one.

        That one may be of the same index: perhaps nothing new can be committed before it arrives.
        """
        if message.snapshot == self._core.snapshot:
            self._is_lost = True
            if self._may_begin:
                self.want_one()
        self._reading = {
            to: reading
            for to, reading in self._reading.items()
            if reading.chunk.snapshot != message.snapshot
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

    def on_stored(self, message: ChunkStored | SnapshotReceived) -> list[object]:
        self._storing -= 1
        now = self._clock.now_ms()
        effects: list[object] = []
        if type(message) is SnapshotReceived:
            self.counts["received"] += 1
            self._want_keep()
        elif message.snapshot.index <= self._core.commit_index and not self._core.wants(
            message.snapshot
        ):
            return []  # a chunk that came twice, of what is installed by now
        else:
            if self._received_ms is None:
                effects.append(StartTimer(RECEIVED_TIMER, now + RECEIVED_AGE_MS_MAX))
            self._received_ms = now
        self._core.step(message, now)
        return effects

    def on_chunk_failed(self, message: ChunkFailed) -> None:
        self._storing -= 1

    def on_unchecked(self, message: ReceivedUnchecked) -> list[object]:
        self._storing -= 1
        if self._checking:
            return []
        self._checking = True
        return [CheckReceived(self._group)]

    def on_checked(self, _: ReceivedChecked) -> None:
        self._checking = False

    def _forget_received(self, now: int) -> list[object]:
        assert self._received_ms is not None
        due_ms = self._received_ms + RECEIVED_AGE_MS_MAX
        if now < due_ms:
            return [StartTimer(RECEIVED_TIMER, due_ms)]
        self._received_ms = None
        self._received_is_old = True
        self._want_keep()
        return []

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
            effects += self._ask_for_place()
        if self._keep_wanted and not self._mark_number:
            self._keep_wanted = False
            core = self._core
            newest = [] if core.snapshot is None else [core.snapshot]
            needed = newest + core.snapshots_in_use + self._restoring + self._rebuilding
            needed += self.held
            # A machine that failed may want one of what is committed long since.
            useless_to = 0 if self._machine_failed else core.commit_index
            if self._received_is_old:
                useless_to, self._received_is_old = _ANY_INDEX, False
            spare_from = max(1, core.log.base_index) if self._settings.keep_snapshots > 1 else 0
            effects.append(KeepSnapshots(self._group, needed, useless_to, spare_from))
        self.is_dirty = self._keep_wanted or self._view_wanted
        return effects
