"""The machines of a simulated process: real ones, that are slow, fail, or run beside the loop.

**Failing.**  While a process is in a bad way (:attr:`Troubles.calls`), what its machines are called
for raises: an apply in the middle of its commands, a snapshot when it is asked for or while it is
written, a restore when it has read half.  That alone, and a snapshot that has decayed, explains a
quarantine; any other is a fault of ours.  A machine that is made in place of one that has failed is
in the same process, and as badly off.

**Blocking.**  A machine may have a thread: then it is called some time after it was told, what it
says arrives later still, and the process may die in between.  One job is out at a time, as in
:class:`actors.runtime.dispatcher.ThreadDispatcher`, whose place :class:`MachineThread` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from actors.machine import MachineActor
from actors.machines import Context, ReadRequest, Response, View, WriteRequest
from actors.machines.kv import KeyValueMachine
from actors.runtime import Scheduler
from actors.runtime.cell import Cell
from actors.runtime.dispatcher import Job, Result, ThreadDispatcher, run_job
from actors.runtime.supervisor import RestartSpec
from raft.messages import SnapshotMeta
from tests.sim.checkers import GroupChecker
from tests.sim.clock import ProcessClock

APPLY: Final = "apply"
READ: Final = "read"
SNAPSHOT: Final = "snapshot"
WRITE: Final = "write"  # of a view that was given out
RESTORE: Final = "restore"
HOOKS: Final = "hooks"

Run = Callable[[], None]


class MachineFailure(Exception):
    """Raised by a machine whose process is in a bad way."""


@dataclass(slots=True)
class Troubles:
    """What befalls all machines of one process: which of their ``calls`` raise, and how long each
    command takes."""

    calls: frozenset[str] = frozenset()
    apply_us: int = 0
    apply_once: bool = False  # the next apply raises, and no other

    def end(self) -> None:
        self.calls, self.apply_us, self.apply_once = frozenset(), 0, False

    def strike(self, call: str) -> None:
        if call in self.calls:
            raise MachineFailure(f"in {call}")


class TroubledMachine(KeyValueMachine):
    """``clock``: of whoever calls it, who has no time for anything else meanwhile."""

    def __init__(self, troubles: Troubles, clock: ProcessClock, *, blocking: bool) -> None:
        super().__init__()
        self.blocking = blocking
        self._troubles = troubles
        self.clock = clock

    def apply_batch(
        self, requests: Sequence[WriteRequest], contexts: Sequence[Context]
    ) -> list[Response]:
        troubles = self._troubles
        self.clock.spent_us += troubles.apply_us * len(requests)
        if APPLY in troubles.calls or troubles.apply_once:
            super().apply_batch(requests[: len(requests) // 2], contexts)
        if troubles.apply_once:
            troubles.apply_once = False
            raise MachineFailure("in apply, this once")
        troubles.strike(APPLY)
        return super().apply_batch(requests, contexts)

    def read(self, request: ReadRequest) -> Response:
        self._troubles.strike(READ)
        return super().read(request)

    def snapshot(self) -> View:  # type: ignore[override]  # only of kv's own kind there
        self._troubles.strike(SNAPSHOT)
        return _TroubledView(super().snapshot(), self._troubles)

    def restore(self, reader: Iterator[bytes], version: int) -> None:
        if RESTORE in self._troubles.calls:
            next(reader)
        self._troubles.strike(RESTORE)
        super().restore(reader, version)

    def on_leader_start(self, term: int) -> None:
        self._troubles.strike(HOOKS)

    def on_leader_stop(self, term: int) -> None:
        self._troubles.strike(HOOKS)

    def on_membership(self, members: Sequence[str]) -> None:
        self._troubles.strike(HOOKS)

    def on_error(self, error: BaseException) -> None:
        self._troubles.strike(HOOKS)


class _TroubledView:
    def __init__(self, view: View, troubles: Troubles) -> None:
        self._view = view
        self._troubles = troubles

    def write(self, sink: Callable[[bytes], None]) -> None:
        self._view.write(sink)
        self._troubles.strike(WRITE)


class WatchedMachine(MachineActor):
    """A machine actor whose snapshots, restores and failures are looked at.

    ``has_decayed``: whether a snapshot of this replica has; ``is_over``: it was left, or begins
    anew as another; ``node``: where it is.
    """

    node: str
    checker: GroupChecker
    has_decayed: Callable[[], bool]
    is_over: Callable[[], bool]

    def note_digest(self) -> None:
        """Of the state at the applied index, unless it is that of nothing."""
        digest = self.machine.digest() if self.error is None else None
        self.checker.note_digest(self.node, self.applied_index, digest)

    def _hand_over_views(self, effects: list[object]) -> None:
        self.note_digest()
        super()._hand_over_views(effects)

    def _end_restore(self, error: Exception | None, effects: list[object]) -> None:
        meta = self._restoring
        assert meta is not None
        super()._end_restore(error, effects)
        if error is None:
            self.checker.note_restored(self.node, meta)
            self.note_digest()

    def _maybe_end_rebuild(self, effects: list[object]) -> None:
        super()._maybe_end_rebuild(effects)
        if self._rebuild is None:
            self.checker.note_rebuilt(self.node, self.applied_index)
            self.note_digest()

    def _quarantine(
        self, index: int, error: str, *, failed: SnapshotMeta | None = None
    ) -> list[object]:
        if self.is_over():
            # What its thread was doing when it was left ends afterwards, with the files gone.
            return super()._quarantine(index, error, failed=failed)
        # A snapshot that was under way when it failed may end while it begins with the one before,
        # and then the log behind that goes: the next attempt begins with the newer one.
        was_overtaken = self._rebuild is not None and error.endswith("is there no more")
        assert MachineFailure.__name__ in error or self.has_decayed() or was_overtaken, (
            f"the machine of {self.node} is quarantined at {index} for no reason: {error}"
        )
        self.checker.note_quarantined(self.node, index)
        return super()._quarantine(index, error, failed=failed)


class MachineThread:
    """In the place of a :class:`ThreadDispatcher`; ``start`` has a job run some time later."""

    def __init__(self, start: Callable[[Job], None]) -> None:
        self._start = start
        self.busy = False
        self.finished: Result | None = None

    def submit(self, job: Job) -> None:
        assert not self.busy, "one job at a time"
        self.busy = True
        self._start(job)

    def take_result(self, timeout_s: float = 0.0) -> Result | None:
        result, self.finished = self.finished, None
        if result is not None:
            self.busy = False
        return result

    def close(self) -> None:
        """The process ends it, and everything else."""


# How long a job takes is up to the process: (what runs, then what hears of it, the clock it uses)
StartJob = Callable[[Run, Run, ProcessClock], None]


class MachineScheduler(Scheduler):
    """Blocking actors run as jobs that ``start_job`` runs, on a clock of their own."""

    start_job: StartJob
    thread_clocks: dict[str, ProcessClock]

    def _admit(
        self, name: str, limit: int, policy: int, restart: RestartSpec | None, blocking: bool
    ) -> Cell:
        cell = super()._admit(name, limit, policy, restart, blocking=False)
        if blocking:
            cell.thread = cast(ThreadDispatcher, self._make_thread(cell, name))
        return cell

    def _make_thread(self, cell: Cell, name: str) -> MachineThread:
        results: list[Result] = []

        def start(job: Job) -> None:
            self.start_job(lambda: results.append(run_job(job)), finish, self.thread_clocks[name])

        def finish() -> None:
            thread.finished = results.pop()
            self._attend(cell)

        thread = MachineThread(start)
        return thread
