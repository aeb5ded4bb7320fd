"""The state-machine actor: applies what is committed, answers reads, and bears its own failures.

One per group, beside the group actor and behind a mailbox, so that consensus never waits for an
apply and a machine that fails takes nobody with it.

**Order.**  Runs arrive in log order and are applied in slices of at most
:data:`APPLY_SLICE_ENTRIES_MAX` entries or :data:`APPLY_SLICE_MS_MAX` ms; between slices the
scheduler serves whoever else is waiting, the control lane first (pitfall 10: a long apply must
not look like a dead node).  A query names the index that must have been applied before it is
answered; until then it waits here (pitfall 31).

**Decoding is total.**  A command that does not parse is refused on all replicas alike; it never
raises.

**Quarantine.**  An exception of the machine, or a kind of run that this version does not know,
ends applying: skipping an entry would make this replica differ from the others without anybody
noticing (pitfall 18).  The group actor is told and goes on voting and acknowledging.  Only what
replaces the whole state ends a quarantine: a snapshot, or a :class:`Rebuild` that brings the
machine, from a snapshot or from nothing, to all that it was ever told to apply.  The object that
failed may be half changed, so each attempt is made on a new one.  When there is an attempt, and
from what, is decided elsewhere (:mod:`actors.rebuild`).

**Snapshots.**  Taken between two runs, never within one: a snapshot stands for a border of the
log.  The machine hands over a view and applying goes on; writing it out is somebody else's work
(:mod:`actors.snapshots`).  A :class:`Restore` stands in the same queue as the runs (pitfall 37).
It may take seconds, so it runs where it holds up nobody; meanwhile nothing is applied, read, or
called on the machine: for that time it belongs to whoever restores it.
"""

from __future__ import annotations

import heapq
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.machines import DONE, Context, Contexts, Machine, Response, View, WriteRequest
from actors.runtime import Actor, Clock, Effects, StartTimer, Tell, TimerFired
from actors.settings import APPLY_SLICE_ENTRIES_MAX, APPLY_SLICE_MS_MAX
from raft.configuration import Configuration, UnknownPart
from raft.messages import COMMAND, CONFIG, NOOP, Run, SnapshotMeta
from raft.store.errors import DamagedRun
from raft.store.runs import decode_run, read_configuration
from transport.frames import FrameError
from transport.protocol import parse_write

log = logging.getLogger("polyraft.machine")

WRITE_TAG = b"\x38\x02"  # before a WriteRequest in the log; itself a legal, unknown field
CHUNK_ENTRIES = 250  # entries between two looks at the clock
ANSWER_BYTES_MAX = 8 << 20  # of all answers to one message; above, its reads are REJECTED
ERROR_TEXT_CHARACTERS_MAX = 500  # kept of what an exception of a machine says
ERROR_BYTES_MAX = 64 << 10  # of the reason of one refusal; above, the machine is at fault
ANSWER_AGAIN_MS = 5  # how soon to look whether the answers given so far have left
ANSWER_OVERHEAD_BYTES = 64  # of the reply around each answer
SWEEP_QUERIES_MIN = 256  # so many waiting queries are looked through for answered ones
WAITING_QUERIES_MAX = 65_536  # queries that wait for their index; then refused


@dataclass(slots=True)
class Apply:
    """Committed runs in log order; with each, its parsed commands where the leader kept them.

    Some may be left out, of those up to ``passed_index``: they are asked for (:class:`RunsWanted`)
    when their turn comes."""

    runs: list[tuple[Run, list[WriteRequest] | None]]
    passed_index: int = 0


@dataclass(slots=True)
class Query:
    """Answer ``requests`` once ``index`` is applied; ``key`` comes back with the answers.

    ``key.answered`` says that nobody waits for them any more.
    """

    key: Any
    index: int
    requests: Sequence[Any]


@dataclass(slots=True)
class Describe:
    """Say where you stand; ``key`` comes back with the description."""

    key: Any


@dataclass(slots=True)
class Leadership:
    """This replica leads from now on, or no longer does."""

    leads: bool
    term: int


@dataclass(slots=True)
class TakeSnapshot:
    """Hand over a view at the next border between runs; ``key`` comes back with it."""

    key: Any


@dataclass(slots=True)
class Restore:
    """Become this snapshot, after what was told before and before what is told after."""

    meta: SnapshotMeta


@dataclass(slots=True)
class Rebuild:
    """If quarantined: begin anew as ``snapshot``, or as nothing (None), and apply what follows.

    ``runs`` are the last of it, and end where what was told before this ends; those before them are
    asked for (:class:`RunsWanted`)."""

    snapshot: SnapshotMeta | None
    runs: list[Run]


@dataclass(slots=True)
class RunsWanted:
    """The next ones of ``first`` .. ``last``, which are not here (any more).  -> RunsAgain"""

    first: int
    last: int


@dataclass(slots=True)
class RunsAgain:
    """Some of them, from the first one on; none: a snapshot stands for them."""

    runs: list[Run]


@dataclass(slots=True)
class RestoreEnded:
    """From the process: what :class:`RunRestore` asked for is done, or failed."""

    meta: SnapshotMeta
    error: Exception | None = None


@dataclass(slots=True)
class Applied:
    """The run that begins at ``first`` is applied up to ``last``, with one response per command."""

    first: int
    last: int
    time_ms: int
    responses: list[Response]


@dataclass(slots=True)
class Answered:
    """The answers to one :class:`Query`, good for the state at ``index``; or why there are none."""

    key: Any
    index: int
    responses: list[Response]
    error: str | None = None
    busy: bool = False  # too many reads wait here
    too_large: bool = False  # the responses so far exceed ANSWER_BYTES_MAX; the rest was not asked


@dataclass(slots=True)
class Described:
    key: Any
    applied_index: int
    digest: bytes | None
    error: str | None


@dataclass(slots=True)
class Quarantined:
    """The machine failed at ``index``; it applies nothing more until it is restored or rebuilt."""

    index: int
    error: str
    failed: SnapshotMeta | None = None  # what it could not become


@dataclass(slots=True)
class SnapshotView:
    """The state at ``index``, to be written out; without ``view``, ``error`` says why."""

    key: Any
    index: int
    time_ms: int
    machine_version: int
    view: View | None
    error: str | None = None


@dataclass(slots=True)
class Restored:
    """The machine is this snapshot now, and no longer quarantined."""

    meta: SnapshotMeta


@dataclass(slots=True)
class Rebuilt:
    """A :class:`Rebuild` has succeeded: all its runs are applied, up to ``index``."""

    index: int
    snapshot: SnapshotMeta | None


@dataclass(slots=True)
class RunRestore:
    """Effect: call ``work``, which blocks and may raise, then tell :class:`RestoreEnded`."""

    group: int
    meta: SnapshotMeta
    work: Callable[[], None]


@dataclass(slots=True)
class Emitted:
    """Effect: the machine has events; ``events`` are (index, ordinal, kind, map)."""

    group: int
    events: list[tuple[int, int, str, Mapping[str, Any]]]


@dataclass(slots=True)
class _Continue:
    """To itself: the slice is used up, there is more."""


@dataclass(slots=True)
class _Progress:
    """The run being applied: parsed commands, and the responses so far."""

    run: Run
    time_ms: int
    requests: list[WriteRequest | None]
    responses: list[Response] = field(default_factory=list)


@dataclass(slots=True)
class _Serving:
    """A read message being answered: what there is so far."""

    query: Query
    responses: list[Response] = field(default_factory=list)
    size_bytes: int = 0


NO_SNAPSHOTS = "this machine has no snapshots"

_NOT_A_COMMAND = Response.refuse("the entry holds no command that this version can read")


class MachineActor(Actor):
    """``group_actor``: the address that hears of results.

    ``may_answer``: false while the answers given so far wait to leave; reads wait then, so that
    large ones cannot fill the way out, which they share with everybody's.

    ``open_snapshot``: the machine's bytes of a snapshot; raises when it is missing or damaged.

    ``make_machine``: another one like ``machine`` in its first moment; called where it will run.
    """

    def __init__(
        self,
        name: str,
        group: int,
        machine: Machine,
        group_actor: str,
        clock: Clock,
        may_answer: Callable[[], bool] = lambda: True,
        open_snapshot: Callable[[SnapshotMeta], Iterator[bytes]] | None = None,
        make_machine: Callable[[], Machine] | None = None,
    ) -> None:
        super().__init__(name)
        self.machine = machine
        self.applied_index = 0
        self.error: str | None = None
        self._group = group
        self._group_actor = group_actor
        self._clock = clock
        self._may_answer = may_answer
        self._open_snapshot = open_snapshot
        self._make_machine = make_machine or type(machine)
        self._leads: Leadership | None = None  # as last told; a new machine must hear of it
        self._rebuild: Rebuild | None = None  # under way: ``error`` stands until it is done
        self._time_ms = 0  # log time at the applied index, while that is a border between runs
        # While quarantined: empty, or what may end it is first.
        self._queue: deque[tuple[Run, list[WriteRequest] | None] | Restore | Rebuild] = deque()
        self._passed_index = 0  # up to which some were left out of what was told
        self._awaits_runs = False  # that were asked for; until they come nothing is applied
        self._restoring: SnapshotMeta | None = None  # the machine is not ours to call meanwhile
        self._held_hooks: list[tuple[Callable[[Any], None], object]] = []  # for afterwards
        self._views_wanted: list[Any] = []  # keys
        self._progress: _Progress | None = None
        self._waiting: list[tuple[int, int, Query]] = []  # heap by index, then arrival
        self._query_number = 0
        self._due: deque[Query] = deque()  # their index is applied
        self._serving: _Serving | None = None
        self._continues = False  # a message to ourselves is under way
        self._sweep_at = SWEEP_QUERIES_MIN
        self._events: list[tuple[int, int, str, Mapping[str, Any]]] = []
        self._batched = type(machine).apply_batch is not Machine.apply_batch
        self._table: dict[type, Callable[[Any], list[object]]] = {
            Apply: self._on_apply,
            Query: self._on_query,
            Describe: self._on_describe,
            Leadership: self._on_leadership,
            TakeSnapshot: self._on_take_snapshot,
            Restore: self._on_restore,
            Rebuild: self._on_restore,
            RunsAgain: self._on_runs_again,
            RestoreEnded: self._on_restore_ended,
            _Continue: self._on_continue,
            TimerFired: self._on_timer,
        }

    def _tell(self, news: object) -> Tell:
        # In the control lane, which is never refused: an answer that got lost would never be given.
        return Tell(self._group_actor, news, control=True)

    def handle(self, message: object) -> Effects:
        return self._table[type(message)](message)

    # ------------------------------------------------------------------ work in slices

    def _on_apply(self, message: Apply) -> list[object]:
        if self.error is not None and not self._is_to_be_restored:
            return []
        self._queue.extend(message.runs)
        self._passed_index = max(self._passed_index, message.passed_index)
        return self._begin_work()

    def _on_timer(self, message: TimerFired) -> list[object]:
        return self._begin_work()

    def _on_continue(self, message: _Continue) -> list[object]:
        self._continues = False
        return self._work()

    def _begin_work(self) -> list[object]:
        """Unless it is under way, and goes on by itself."""
        return [] if self._continues else self._work()

    def _work(self) -> list[object]:
        """One slice of what is due; reads and applies take turns, a read message is one piece."""
        effects: list[object] = []
        entries_left = APPLY_SLICE_ENTRIES_MAX
        stop_ms = self._clock.now_ms() + APPLY_SLICE_MS_MAX
        reads_next = True
        while self._restoring is None:
            if self._views_wanted and self._progress is None:
                self._hand_over_views(effects)
            applies = self._has_applies()
            reads = self._serving is not None
            if not reads and self._due:
                # A message that is begun is finished: all its reads see the same state.
                reads = self._may_answer()
                if not reads:
                    effects.append(StartTimer("answer", self._clock.now_ms() + ANSWER_AGAIN_MS))
            if not (applies or reads):
                break
            if entries_left <= 0 or self._clock.now_ms() >= stop_ms:
                self._continues = True
                effects.append(Tell(self.name, _Continue()))
                break
            if reads and (self._serving or reads_next or not applies):
                self._serve(effects)
                reads_next = False
                entries_left -= 1
            else:
                entries_left -= self._apply_some(effects)
                reads_next = True
        if self._events:
            effects.append(Emitted(self._group, self._events))
            self._events = []
        return effects

    def _has_applies(self) -> bool:
        if self._progress is not None or self._awaits_runs:
            return self._progress is not None
        return bool(self._queue) or self._lacks_runs

    @property
    def _lacks_runs(self) -> bool:
        """The queue ends before what was told."""
        return self.error is None and self.applied_index < self._passed_index

    # ------------------------------------------------------------------ applying

    def _apply_some(self, effects: list[object]) -> int:
        """The next chunk of the open run, or open the next one; entries that were applied."""
        progress = self._progress or self._begin(effects)
        count = 0 if progress is None else self._apply_chunk(progress, effects)
        if self._rebuild is not None and self._restoring is None:
            self._maybe_end_rebuild(effects)
        if self._waiting:
            self._wake_queries()
        return count

    def _wake_queries(self) -> None:
        waiting = self._waiting
        while waiting and waiting[0][0] <= self.applied_index:
            self._due.append(heapq.heappop(waiting)[2])

    def _begin(self, effects: list[object]) -> _Progress | None:
        """Open the next run; runs without commands are applied by that."""
        lacks_to = self._lacks_to()
        if lacks_to > self.applied_index:
            self._awaits_runs = True
            effects.append(self._tell(RunsWanted(self.applied_index + 1, lacks_to)))
            return None
        item = self._queue.popleft()
        if isinstance(item, Restore):
            self._begin_restore(item.meta, effects)
            return None
        if isinstance(item, Rebuild):
            self._begin_rebuild(item, effects)
            return None
        run, requests = item
        assert run.first == self.applied_index + 1, (
            f"run {run.first} after applied index {self.applied_index}"
        )
        try:
            body = decode_run(run.body)
        except DamagedRun as error:
            effects += self._quarantine(run.first, f"run at index {run.first}: {error}")
            return None
        if run.kind in (NOOP, CONFIG):
            self._begin_silent(run, body.time_ms, effects)
            return None
        if run.kind != COMMAND:
            effects += self._quarantine(run.first, f"unknown kind of entry {run.kind}")
            return None
        parsed: list[WriteRequest | None]
        if requests is not None:
            parsed = list(requests)
        else:
            parsed = [_parse(command[3]) for command in body.commands]
        assert len(parsed) == run.count, f"{len(parsed)} commands in a run of {run.count}"
        self._progress = _Progress(run, body.time_ms, parsed)
        return self._progress

    def _lacks_to(self) -> int:
        """Up to here runs were told that are to be applied next, and are not here."""
        if not self._queue:
            return self._passed_index
        item = self._queue[0]
        if isinstance(item, tuple) and (
            self._rebuild is not None or item[0].first <= self._passed_index + 1
        ):
            return item[0].first - 1
        return 0

    def _begin_silent(self, run: Run, time_ms: int, effects: list[object]) -> None:
        """A run that holds nothing for the machine to answer."""
        if run.kind == CONFIG:
            try:
                configuration = read_configuration(run)
            except (DamagedRun, UnknownPart) as error:
                effects += self._quarantine(run.first, f"run at index {run.first}: {error}")
                return
            self._tell_members(configuration)
        self.applied_index = run.last
        self._time_ms = time_ms
        effects.append(self._tell(Applied(run.first, run.last, time_ms, [])))

    def _tell_members(self, configuration: Configuration) -> None:
        nodes = sorted({replica.node for replica in configuration.members})
        self._tell_machine(self.machine.on_membership, nodes)

    def _apply_chunk(self, progress: _Progress, effects: list[object]) -> int:
        """Apply up to CHUNK_ENTRIES commands of the open run; return how many."""
        run = progress.run
        done = len(progress.responses)
        requests = progress.requests[done : done + CHUNK_ENTRIES]
        first = run.first + done
        try:
            responses = self._apply(requests, first, progress.time_ms)
            _check_responses(responses, len(requests))
        except Exception as error:  # noqa: BLE001 - whatever a machine raises, it is quarantined
            self._tell_machine(self.machine.on_error, error)
            effects += self._quarantine(first, _text_of(error))
            return len(requests)
        progress.responses += responses
        self.applied_index = first + len(requests) - 1
        if self.applied_index == run.last:
            self._progress = None
            self._time_ms = progress.time_ms
            applied = Applied(run.first, run.last, progress.time_ms, progress.responses)
            effects.append(self._tell(applied))
        return len(requests)

    def _apply(
        self, requests: list[WriteRequest | None], first: int, time_ms: int
    ) -> list[Response]:
        version = self.machine.version
        if self._batched and None not in requests:
            contexts = Contexts(first, len(requests), time_ms, version, self._emitter(first))
            return self.machine.apply_batch(requests, contexts)  # type: ignore[arg-type]
        apply = self.machine.apply
        return [
            _NOT_A_COMMAND
            if request is None
            else apply(request, Context(index, time_ms, version, self._emitter(index)))
            for index, request in enumerate(requests, first)
        ]

    def _emitter(self, index: int) -> Callable[[str, Mapping[str, Any]], None]:
        def emit(kind: str, values: Mapping[str, Any]) -> None:
            events = self._events
            ordinal = events[-1][1] + 1 if events and events[-1][0] == index else 0
            events.append((index, ordinal, kind, dict(values)))

        return emit

    def _quarantine(
        self, index: int, error: str, *, failed: SnapshotMeta | None = None
    ) -> list[object]:
        self.error = error
        self._progress = None
        self._rebuild = None
        self._drop_runs()
        queries = [each[2] for each in self._waiting] + list(self._due)
        if self._serving is not None:
            queries.append(self._serving.query)
        self._waiting, self._serving = [], None
        self._due.clear()
        effects: list[object] = [self._unanswered(query) for query in queries]
        effects.append(self._tell(Quarantined(index, error, failed)))
        return effects

    def _drop_runs(self) -> None:
        """Up to what stands for them, if that is told."""
        while self._queue and isinstance(self._queue[0], tuple):
            self._queue.popleft()

    # ------------------------------------------------------------------ snapshots

    def _on_take_snapshot(self, message: TakeSnapshot) -> list[object]:
        self._views_wanted.append(message.key)
        return self._begin_work()

    def _hand_over_views(self, effects: list[object]) -> None:
        keys, self._views_wanted = self._views_wanted, []
        view, error = None, None
        if self.error is not None:
            error = f"the machine is quarantined: {self.error}"
        else:
            try:
                view = self.machine.snapshot()
            except Exception as caught:  # noqa: BLE001 - it changes nothing; no snapshot, no harm
                error = f"the machine gave no snapshot: {_text_of(caught)}"
        if view is None and error is None:
            error = NO_SNAPSHOTS
        index, time_ms, version = self.applied_index, self._time_ms, self.machine.version
        for key in keys:
            effects.append(self._tell(SnapshotView(key, index, time_ms, version, view, error)))

    @property
    def _is_to_be_restored(self) -> bool:
        return self._restoring is not None or self._rebuild is not None or bool(self._queue)

    def _on_restore(self, message: Restore | Rebuild) -> list[object]:
        self._queue.append(message)
        return self._begin_work()

    def _begin_restore(self, meta: SnapshotMeta, effects: list[object]) -> None:
        known = self.applied_index
        if meta.index < known or (meta.index == known and self.error is None):
            return  # pitfall 38: older than what is here
        if self.error is None or self._replace_machine(meta.index, effects):
            self._start_restore(meta, effects)

    def _begin_rebuild(self, rebuild: Rebuild, effects: list[object]) -> None:
        snapshot = rebuild.snapshot
        index = 0 if snapshot is None else snapshot.index
        if self.error is None or not self._replace_machine(index, effects):
            return
        self._rebuild = rebuild
        self.applied_index, self._time_ms = 0, 0
        if snapshot is None:
            self._queue_first(rebuild.runs)
            self._call_held_hooks()
        else:
            self._start_restore(snapshot, effects)

    def _replace_machine(self, index: int, effects: list[object]) -> bool:
        """The one that failed may be half changed."""
        try:
            self.machine = self._make_machine()
        except Exception as error:  # noqa: BLE001 - of the machine: it stays quarantined
            text = f"no new machine could be made: {_text_of(error)}"
            effects += self._quarantine(index, text)
            return False
        if self._leads is not None and self._leads.leads:
            self._held_hooks.append((self.machine.on_leader_start, self._leads.term))
        return True

    def _queue_first(self, runs: list[Run]) -> None:
        self._queue.extendleft((run, None) for run in reversed(runs))

    def _on_runs_again(self, message: RunsAgain) -> list[object]:
        assert self._awaits_runs
        self._awaits_runs = False
        effects: list[object] = []
        if message.runs:
            self._queue_first(message.runs)
        elif self._rebuild is None:
            # A snapshot of the leader's, which is told, or will be once it is durable.
            self._drop_runs()
            if not self._queue:
                self._passed_index = self.applied_index
        else:
            text = f"the log behind {self.applied_index} is there no more"
            effects += self._quarantine(self.applied_index, text)
        return effects + self._begin_work()

    def _maybe_end_rebuild(self, effects: list[object]) -> None:
        rebuild = self._rebuild
        assert rebuild is not None
        if rebuild.runs and self.applied_index < rebuild.runs[-1].last:
            return
        self._rebuild = None
        self.error = None
        effects.append(self._tell(Rebuilt(self.applied_index, rebuild.snapshot)))

    def _start_restore(self, meta: SnapshotMeta, effects: list[object]) -> None:
        self._restoring = meta
        machine, open_snapshot = self.machine, self._open_snapshot
        assert open_snapshot is not None, "nothing was ever told to be restored without a store"

        def work() -> None:
            machine.restore(open_snapshot(meta), meta.machine_version)

        if not machine.blocking:
            effects.append(RunRestore(self._group, meta, work))
            return
        # It has a thread, perhaps with state that belongs to that thread, and may take its time.
        try:
            work()
        except Exception as error:  # noqa: BLE001 - of the machine or the file, it is quarantined
            self._end_restore(error, effects)
        else:
            self._end_restore(None, effects)

    def _on_restore_ended(self, message: RestoreEnded) -> list[object]:
        assert message.meta == self._restoring, f"{message} while restoring {self._restoring}"
        effects: list[object] = []
        self._end_restore(message.error, effects)
        return effects + self._begin_work()

    def _end_restore(self, error: Exception | None, effects: list[object]) -> None:
        meta, self._restoring = self._restoring, None
        assert meta is not None
        rebuild = self._rebuild
        if error is None:
            self.applied_index = meta.index
            self._time_ms = meta.time_ms
            if rebuild is None:
                self.error = None
                effects.append(self._tell(Restored(meta)))
            else:
                self._queue_first(rebuild.runs)
                self._maybe_end_rebuild(effects)
            self._tell_members(meta.configuration)
        else:
            self._tell_machine(self.machine.on_error, error)
            text = f"the snapshot at index {meta.index} could not be restored: {_text_of(error)}"
            effects += self._quarantine(meta.index, text, failed=meta)
        self._call_held_hooks()
        self._wake_queries()

    def _call_held_hooks(self) -> None:
        hooks, self._held_hooks = self._held_hooks, []
        for hook, value in hooks:
            self._tell_machine(hook, value)

    # ------------------------------------------------------------------ reading

    def _on_query(self, query: Query) -> list[object]:
        if self.error is not None:
            return [self._unanswered(query)]
        if query.index <= self.applied_index:
            self._due.append(query)
            return self._begin_work()
        if len(self._waiting) >= self._sweep_at:
            # Those whose deadline has passed were answered without us.
            self._waiting = [each for each in self._waiting if not each[2].key.answered]
            heapq.heapify(self._waiting)
            self._sweep_at = max(SWEEP_QUERIES_MIN, 2 * len(self._waiting))
        if len(self._waiting) >= WAITING_QUERIES_MAX:
            return [self._tell(Answered(query.key, self.applied_index, [], busy=True))]
        self._query_number += 1
        heapq.heappush(self._waiting, (query.index, self._query_number, query))
        return []

    def _unanswered(self, query: Query, error: str | None = None) -> object:
        text = error or f"the machine is quarantined: {self.error}"
        return self._tell(Answered(query.key, self.applied_index, [], text))

    def _serve(self, effects: list[object]) -> None:
        """The next read of the message being served; all of them see the same state."""
        serving = self._serving
        if serving is None:
            serving = self._serving = _Serving(self._due.popleft())
        query, responses = serving.query, serving.responses
        if query.key.answered:
            self._serving = None
            return
        response = self._read(query.requests[len(responses)])
        responses.append(response)
        serving.size_bytes += len(response.data) + 4 * len(response.error) + ANSWER_OVERHEAD_BYTES
        too_large = serving.size_bytes > ANSWER_BYTES_MAX
        if too_large or len(responses) == len(query.requests):
            self._serving = None
            effects.append(
                self._tell(Answered(query.key, self.applied_index, responses, too_large=too_large))
            )

    def _read(self, request: Any) -> Response:
        try:
            response = self.machine.read(request)
            _check_responses([response], 1)
            return response
        except Exception as error:  # noqa: BLE001 - a read changes nothing; its fault is its own
            return Response.refuse(f"the read failed: {_text_of(error)}")

    # ------------------------------------------------------------------ the rest

    def _on_describe(self, message: Describe) -> list[object]:
        digest = None
        if self.error is None and self._restoring is None:
            try:
                digest = bytes(self.machine.digest())
            except Exception as error:  # noqa: BLE001 - shown to people, decides nothing
                log.error("group %d: the digest failed: %r", self._group, error)
        described = Described(message.key, self.applied_index, digest, self.error)
        return [self._tell(described)]

    def _on_leadership(self, message: Leadership) -> list[object]:
        self._leads = message
        hook = self.machine.on_leader_start if message.leads else self.machine.on_leader_stop
        self._tell_machine(hook, message.term)
        return []

    def _tell_machine(self, hook: Callable[[Any], None], value: object) -> None:
        """Call what a machine may override; its failure there changes no state, and ends nobody."""
        if self._restoring is not None:
            self._held_hooks.append((hook, value))
            return
        try:
            hook(value)
        except Exception as error:  # noqa: BLE001 - a bug of the machine, told and borne
            log.error("group %d: the machine's %s failed: %r", self._group, hook, error)


def _check_responses(responses: Any, count: int) -> None:
    """What a machine answers goes to clients; what cannot is its failure, not the group's."""
    if type(responses) is not list or len(responses) != count:
        raise TypeError(f"not a list of {count} responses: {responses!r:.200}")
    if responses.count(DONE) == count:
        return
    for each in responses:
        if not (
            isinstance(each, Response)
            and isinstance(each.data, bytes)
            and isinstance(each.error, str)
        ):
            raise TypeError(f"not a Response with bytes and text: {each!r:.200}")
        # Also a text that is no Unicode raises here, and not where it is sent.
        if len(each.error.encode()) > ERROR_BYTES_MAX:
            raise ValueError(f"the reason of a refusal has more than {ERROR_BYTES_MAX} bytes")


def _text_of(error: BaseException) -> str:
    """An exception of a machine in a line: short, and encodable, whatever the machine put in it."""
    try:
        text = str(error)
    except Exception as another:  # noqa: BLE001 - even that is the machine's code
        text = f"no text: {type(another).__name__}"
    line = f"{type(error).__name__}: {text[:ERROR_TEXT_CHARACTERS_MAX]}"
    return line.encode("utf-8", "replace").decode()


def _parse(data: bytes) -> WriteRequest | None:
    """The command in a log entry, behind its two-byte type tag; None if there is none."""
    if data[:2] != WRITE_TAG:
        return None
    try:
        return parse_write(data[2:])
    except FrameError:
        return None
