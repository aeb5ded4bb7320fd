"""A quarantined machine is built anew while its replica goes on voting.  Decides; does no I/O.

A machine is quarantined when an apply raised, or when the snapshot that it was to become could not
be restored.  The log and the votes of the replica are intact, and a majority may need them, so
nothing of consensus stops.  What failed is a Python object; another one is brought to where this
one should be, from one of two sources:

* **its own disk**: the newest snapshot, if it can be read, and the log behind it; or the one
  before it, where ``keep_snapshots`` has left it there with the log from it on; or the whole log,
  if it was never compacted.  Helps against what failed by chance, and costs nobody else anything;
* **the leader**: a snapshot of an index at which this machine has failed, or a later one.  Whatever
  raised there has been applied by somebody else.  The leader takes one first if its newest is
  older (:mod:`raft.rebuild`).  It becomes a snapshot of this replica's own, log untouched.

They take turns: own disk first, unless it is the snapshot there that cannot be read.  Who leads,
and who is the only voter, has the first source alone; a leader also hands over, to somebody whose
machine is well (:mod:`actors.group_admin`).

::

    well --Quarantined--> planned --due--> asked: leader --SnapshotReceived--+
      ^                   ^  |                |                              v
      |                   |  +--due--> own disk -----------------------> rebuilding
      |                   +---------- time is up -----------+--- Quarantined ---+
      +-------------------------------------------------------- Rebuilt --------+

**Pauses.**  The first attempt is made at once, the next after :data:`PAUSE_MS_FIRST`, then after
twice as long each, up to :data:`PAUSE_MS_MAX`.  They begin anew when the machine has been well for
that long: one that fails at some entry again and again, by its own bug, costs one attempt in a
minute and no more.  Whoever asks ``why`` is told the entry, the exception, the attempts, and what
can be done where none of them can help.

What may be forgotten: everything.  A restart finds the machine well, or quarantined once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from actors.group_messages import SpareFound, machine_name
from actors.machine import Quarantined, Rebuild
from actors.runtime import StartTimer, Tell
from raft.messages import (
    ChunkStored,
    SnapshotLost,
    SnapshotMeta,
    SnapshotNeeded,
    SnapshotReceived,
)

if TYPE_CHECKING:
    from actors.group import GroupActor

TIMER: Final = "rebuild"
PAUSE_MS_FIRST: Final = 1_000  # between the first attempt and the second
PAUSE_MS_MAX: Final = 60_000  # between any two; and for so long it is well before all is forgotten
LEADER_AGAIN_MS: Final = 1_000  # how often to look whether there is a leader to ask

_NOBODY, _OWN_DISK, _LEADER = range(3)

_CORRECT_IT: Final = "correct the machine's code and start the nodes again with it"


def pause_ms(attempts: int) -> int:
    """How long after that many attempts the next one comes."""
    if attempts == 0:
        return 0
    return PAUSE_MS_MAX if attempts > 16 else min(PAUSE_MS_FIRST << (attempts - 1), PAUSE_MS_MAX)


class GroupRebuild:
    """Part of one group actor; what a method returns are effects."""

    __slots__ = (
        "_attempts",
        "_began_ms",
        "_damaged",
        "_failed",
        "_group",
        "_index",
        "_is_rebuilding",
        "_last_source",
        "_moved_ms",
        "_received",
        "_spare_wanted",
        "_well_ms",
        "counts",
    )

    def __init__(self, group: GroupActor) -> None:
        self._group = group
        self._failed: Quarantined | None = None  # the last of this quarantine; None: it is well
        self._index = 0  # the highest at which it has failed in this quarantine
        self._damaged: SnapshotMeta | None = None  # could not be restored
        self._attempts = 0  # since it was last well for long
        self._began_ms = 0  # the last one
        self._well_ms: int | None = None  # since when; None: it has never failed
        self._last_source = _NOBODY
        self._is_rebuilding = False  # the machine is at it, and will say how it ended
        self._moved_ms = -PAUSE_MS_MAX  # when bytes of what was asked for last came
        self._received: SnapshotMeta | None = None  # all of it, for the next moment that fits
        self._spare_wanted: SnapshotMeta | None = None  # looked for in place of this one, once
        self.counts = {"attempts": 0, "rebuilt": 0}

    # ------------------------------------------------------------------ what the machine says

    def on_quarantined(self, message: Quarantined) -> list[object]:
        now = self._group.now_ms()
        if self._failed is None:
            if self._well_ms is None or now - self._well_ms >= PAUSE_MS_MAX:
                self._attempts = 0
            self._last_source = _NOBODY
            self._index = 0
        self._failed = message
        self._index = max(self._index, message.index)
        self._damaged = message.failed or self._damaged
        self._is_rebuilding = False
        return self._plan(now)

    def on_well(self, snapshot: SnapshotMeta | None) -> None:
        """It has become ``snapshot``, or what the whole log makes of nothing, and all behind it."""
        if self._failed is None:
            return
        group = self._group
        self.counts["rebuilt"] += 1
        self._failed, self._received = None, None
        self._is_rebuilding = False
        self._well_ms = group.now_ms()
        group.core.step(SnapshotNeeded(0), self._well_ms)
        damaged, self._damaged = self._damaged, None
        if damaged is not None and damaged == group.core.snapshot:
            # It still stands for the log, and the next start would read it.
            group.snapshots.on_lost(SnapshotLost(damaged))

    # ------------------------------------------------------------------ attempts

    def on_timer(self) -> list[object]:
        return [] if self._failed is None else self._plan(self._group.now_ms())

    def _plan(self, now: int) -> list[object]:
        """Begin the attempt that is due, or see to it that it will begin."""
        pause = pause_ms(self._attempts)
        due_ms = self._began_ms + pause if self._attempts else now
        if self._last_source == _LEADER and now - self._moved_ms < pause:
            due_ms = max(due_ms, self._moved_ms + pause)  # it comes, however long it takes
        core = self._group.core
        if now < due_ms:
            return [StartTimer(TIMER, due_ms)]
        if self._is_rebuilding or core.restoring is not None:
            return [StartTimer(TIMER, now + LEADER_AGAIN_MS)]  # a large snapshot takes its time
        if core.snapshot == self._damaged != self._spare_wanted:
            self._spare_wanted = self._damaged
            looks = self._group.snapshots.find_spare()
            if looks:
                return looks
        source = self._choose()
        if source == _NOBODY:
            return [StartTimer(TIMER, now + LEADER_AGAIN_MS)]
        self._last_source = source
        self._attempts += 1
        self.counts["attempts"] += 1
        self._began_ms = now
        if source == _OWN_DISK:
            return self._rebuild_from(core.snapshot if self._can_read_own else None)
        core.step(SnapshotNeeded(max(self._index, self._group.snapshots.index)), now)
        return [StartTimer(TIMER, now + pause_ms(self._attempts))]

    def on_spare_found(self, message: SpareFound) -> list[object]:
        """Of a snapshot before the newest, which cannot be restored; or of none."""
        if self._failed is None or self._is_rebuilding:
            return []
        now = self._group.now_ms()
        spare = self._group.snapshots.spare_in(message)
        if spare is None:
            return self._plan(now)
        self._last_source = _OWN_DISK
        self._attempts += 1
        self.counts["attempts"] += 1
        self._began_ms = now
        return self._rebuild_from(spare)

    @property
    def _can_read_own(self) -> bool:
        """There is a snapshot, and as far as is known it can be restored; or there is nothing else
        to begin with."""
        core = self._group.core
        return core.snapshot != self._damaged or core.log.base_index > 0

    @property
    def _has_leader(self) -> bool:
        core = self._group.core
        return core.leader not in (None, core.me)

    @property
    def _is_on_its_own(self) -> bool:
        """Nobody else can ever help."""
        core = self._group.core
        return core.is_leader or core.configuration.is_only_voter(core.me)

    def _choose(self) -> int:
        core = self._group.core
        own_helps = core.snapshot is None or core.snapshot != self._damaged
        own_helps = own_helps or core.log.base_index == 0
        if self._has_leader and (self._last_source == _OWN_DISK or not own_helps):
            return _LEADER
        # A file that could not be read is read again where nothing else is left to be tried.
        return _OWN_DISK if own_helps or self._is_on_its_own else _NOBODY

    def _rebuild_from(self, snapshot: SnapshotMeta | None) -> list[object]:
        core = self._group.core
        first = 1 if snapshot is None else snapshot.index + 1
        first = max(first, core.log.released_index + 1)  # what is before, it asks for
        if snapshot is not None:
            is_at_another = self._is_rebuilding
            self._group.snapshots.note_rebuilding(snapshot, is_at_another=is_at_another)
        self._is_rebuilding = True
        # The runs are those of the log, not copies.
        rebuild = Rebuild(snapshot, core.log.between(first, core.handed_index))
        return [Tell(machine_name(self._group.group), rebuild, control=True)]

    # ------------------------------------------------------------------ what the leader sends

    def on_stored(self, message: ChunkStored | SnapshotReceived) -> list[object]:
        """Bytes of a snapshot are on the disk: of one that was asked for, or of any other."""
        snapshot = message.snapshot
        is_wanted = self._failed is not None and self._group.core.wants(snapshot)
        effects = self._group.snapshots.on_stored(message)
        if not is_wanted:
            return effects
        self._moved_ms = self._group.now_ms()
        if type(message) is SnapshotReceived:
            self._received = snapshot
        return effects + self.end_turn()

    @property
    def is_dirty(self) -> bool:
        return self._received is not None

    def end_turn(self) -> list[object]:
        """If ``is_dirty``: begin with what was received, once the log has been handed out so far.

        The machine is quarantined, or at it: then it finds this one behind what it is at.
        """
        snapshot, core = self._received, self._group.core
        if snapshot is None or snapshot.index > core.handed_index:
            return []
        self._received = None
        if self._failed is None or snapshot.index < self._group.snapshots.index:
            return []
        self._group.snapshots.adopt(snapshot)
        return self._rebuild_from(snapshot)

    # ------------------------------------------------------------------ what people are told

    @property
    def error(self) -> str | None:
        """What failed, where, how often it was tried since, and what can be done."""
        failed = self._failed
        if failed is None:
            return None
        times = "1 attempt" if self._attempts == 1 else f"{self._attempts} attempts"
        return f"{failed.error} (at index {self._index}, {times} to rebuild it; {self._outlook})"

    @property
    def _outlook(self) -> str:
        core = self._group.core
        if core.configuration.is_only_voter(core.me):
            if self._failed is not None and self._failed.failed is not None:
                return "no other replica has its state: put a sound copy of the file back"
            return f"no other replica has its state: {_CORRECT_IT}"
        if core.is_leader:
            voters = [each for each in core.progress() if each.votes]
            if all(each.wants_snapshot for each in voters):
                return f"it fails on the other replicas too: {_CORRECT_IT}"
            return "another replica is to lead, and then to send its state"
        if self._has_leader:
            assert core.leader is not None
            return f"{core.leader.node} is asked for a snapshot if its own disk does not help"
        return "it waits for a leader that can send a snapshot"
