"""How much of the logs is in memory, and how the rest is read back.

The log of a group is on the disk, and what was applied is needed again by few: by a peer that lags,
and by a machine that is built anew.  So of what was applied each group holds its newest bytes in
memory, and no more: ``log_memory_bytes``, or an even share of ``log_memory_worker_bytes`` where
many groups are in one process.  What is not applied yet is held in any case.

A group lets go of a part at a time, so that it costs next to nothing per run, and nobody waits
for it.  What it needs again is read on a thread, an append's worth at a time, and lives until it is
sent or applied::

    core, machine --ReadLog--> LogReads --thread--> LogRead --> RunsRead, RunsAgain

**A machine that is behind** is not told more than so many bytes that it has not applied: its queue
and its mailbox hold no more, whatever it is at.  What is beyond it asks for when its turn comes.

What cannot be read back is damage of the log: the error ends the process, as any error of the log
does, and recovery finds out who has lost what.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from actors.group_messages import actor_name, machine_name
from actors.machine import Apply, RunsAgain, RunsWanted
from actors.machines import WriteRequest
from actors.runtime import Actor, Clock, Scheduler, Tell
from actors.settings import SnapshotSettings
from raft.core import Core
from raft.messages import ReadRuns, Run, RunsRead
from raft.store.wal import Wal

QUEUED_BYTES_MAX: Final = 8 << 20  # of bodies that a machine was told and has not applied
RELEASED_PART: Final = 32  # one part in so many at a time
MACHINE_BYTES_MAX: Final = 1 << 20  # read for a machine at a time, or one run
# So many are under way in a process: each has files open, and brings as much into memory.  When a
# node comes back, all groups that are led here may have somebody who needs some.
READS_MAX: Final = 4


@dataclass(slots=True)
class LogShare:
    """So many bytes of its log may the group hold."""

    bytes_max: int


@dataclass(slots=True)
class ReadLog:
    """Effect: -> LogRead, with the runs ``first`` .. ``last``, or none if a snapshot stands for
    some of them."""

    group: int
    wanted: ReadRuns | RunsWanted
    first: int
    last: int


@dataclass(slots=True)
class LogRead:
    wanted: ReadRuns | RunsWanted
    runs: list[Run]


class GroupLogMemory:
    """Part of one group actor; what a method returns are effects."""

    __slots__ = (
        "_bytes_max",
        "_clock",
        "_core",
        "_group",
        "_queued",
        "_queued_bytes",
        "queued_bytes_max",
    )

    def __init__(self, group: int, core: Core, settings: SnapshotSettings, clock: Clock) -> None:
        self._group = group
        self._core = core
        self._clock = clock
        self._bytes_max = settings.log_memory_bytes
        self.queued_bytes_max = QUEUED_BYTES_MAX
        # Told and not applied: bytes by first index; those that a quarantine drops count until
        # another state stands for them.
        self._queued: dict[int, int] = {}
        self._queued_bytes = 0

    @property
    def table(self) -> dict[type, Callable[[Any], Any]]:
        """What the group actor is told that belongs here."""
        return {
            LogShare: self.on_share,
            LogRead: self.on_read,
            RunsWanted: self.on_wanted,
        }

    def on_share(self, message: LogShare) -> None:
        self._bytes_max = message.bytes_max
        self.keep_within()

    def keep_within(self) -> None:
        """Something was handed out to be applied."""
        bytes_max = self._bytes_max
        if self._core.log.held_bytes > bytes_max:
            self._core.release_log(bytes_max - bytes_max // RELEASED_PART)

    def hand_out(self, runs: list[Run], requests: dict[int, list[WriteRequest]]) -> Apply:
        """``requests``: parsed, by first index; nobody else may hold those of who is behind."""
        told: list[tuple[Run, list[WriteRequest] | None]] = []
        passed_index = 0
        for run in runs:
            parsed = requests.pop(run.first, None)
            if self._queued_bytes < self.queued_bytes_max:
                self._queued[run.first] = size_bytes = len(run.body)
                self._queued_bytes += size_bytes
                told.append((run, parsed))
            else:
                passed_index = run.last
        return Apply(told, passed_index)

    def note_applied(self, first: int) -> None:
        """The run that begins there."""
        self._queued_bytes -= self._queued.pop(first, 0)

    def note_state(self, index: int) -> None:
        """The machine has another one, of that index."""
        for first in [first for first in self._queued if first <= index]:
            self.note_applied(first)

    def read(self, wanted: list[ReadRuns]) -> list[object]:
        return [ReadLog(self._group, each, each.first, each.last) for each in wanted]

    def on_wanted(self, message: RunsWanted) -> list[object]:
        """By the machine, which is built anew."""
        log, first = self._core.log, message.first
        if first <= log.base_index:
            return self._to_machine([])
        if first <= log.released_index:
            last = min(message.last, log.released_stretch(first, MACHINE_BYTES_MAX))
            return [ReadLog(self._group, message, first, last)]
        runs = log.slice(first, MACHINE_BYTES_MAX)
        return self._to_machine([run for run in runs if run.last <= message.last])

    def on_read(self, message: LogRead) -> list[object]:
        wanted = message.wanted
        if isinstance(wanted, RunsWanted):
            return self._to_machine(message.runs)
        news = RunsRead(wanted.to, message.runs)
        self._core.step(news, self._clock.now_ms())
        return []

    def _to_machine(self, runs: list[Run]) -> list[object]:
        return [Tell(machine_name(self._group), RunsAgain(runs), control=True)]


class LogReads:
    """Between the groups of a process and their log.

    ``groups``: actors by group, those that are here at the moment.  ``submit``: have something done
    on a thread, then a function called with what came of it.
    """

    def __init__(
        self,
        settings: SnapshotSettings,
        wal: Wal,
        groups: Mapping[int, Actor],
        scheduler: Scheduler,
        submit: Callable[[Callable[[], object], Callable[[Any], None]], None],
    ) -> None:
        self._settings = settings
        self._wal = wal
        self._groups = groups
        self._scheduler = scheduler
        self._submit = submit
        self._line: deque[tuple[ReadLog, Actor | None]] = deque()
        self._under_way = 0
        self._copied: list[tuple[ReadLog, Actor | None]] = []  # until the batch is complete
        self.counts = {"reads": 0, "bytes": 0}

    def share(self) -> None:
        """There are other groups than before."""
        settings = self._settings
        share = settings.log_memory_worker_bytes // max(1, len(self._groups))
        for group in self._groups:
            self._tell(group, LogShare(min(settings.log_memory_bytes, share)))

    def _tell(self, group: int, news: object) -> None:
        self._scheduler.tell(actor_name(group), news, control=True)

    def carry(self, effect: ReadLog) -> None:
        self._line.append((effect, self._groups.get(effect.group)))
        self._go_on()

    def on_batch_done(self) -> None:
        self._line.extend(self._copied)
        self._copied.clear()
        self._go_on()

    def _go_on(self) -> None:
        while self._line and self._under_way < READS_MAX:
            self._begin(*self._line.popleft())

    def _begin(self, effect: ReadLog, replica: Actor | None) -> None:
        group = effect.group
        if replica is None or self._groups.get(group) is not replica:
            return  # its successor has another log
        reader = self._wal.runs_reader(group, effect.first, effect.last)
        if reader is None:
            self._copied.append((effect, replica))
            return
        self._under_way += 1

        def on_done(runs: list[Run]) -> None:
            self._under_way -= 1
            if self._groups.get(group) is replica:
                self.counts["reads"] += 1
                self.counts["bytes"] += sum([len(run.body) for run in runs])
                self._tell(group, LogRead(effect.wanted, runs))
            self._go_on()

        self._submit(reader, on_done)
