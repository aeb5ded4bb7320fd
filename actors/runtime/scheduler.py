"""The generic half: whose turn it is, what becomes of what an actor returned.

One scheduler serves one thread.  Nothing here waits: a process calls :meth:`Scheduler.run_turn`
when there is work (``wake`` asks for it, once) and when :meth:`Scheduler.next_deadline` has come.

A **turn** drains what is there, up to a budget of messages and of time, in **rounds**:

1. the control lane of everyone who has something in it;
2. one slice of bulk of each actor that has some, round-robin; control that comes up is served
   between any two messages, and since it is served in bounded slices too, a flood of it cannot
   starve bulk;
3. ``end_turn`` of each actor that handled something in this round.

Effects are carried out in their order, directly after the callback that returned them.  What they
tell others is handled in the same or the next round.  When the turn is over the process's own
callbacks run once (:meth:`Scheduler.on_turn_end`): there it sends one frame per link and starts
one disk batch.

What an exception means depends on whose it is.  Out of an actor, or for an effect that nobody
carries: the actor has failed (:mod:`actors.runtime.life`).  Out of a carrier or a callback of the
process: it is the process's own bug or a poisoned disk; it leaves ``run_turn``, and the scheduler
is not to be used again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from actors.runtime.actor import Actor, ActorRef, Address
from actors.runtime.cell import BACKOFF, NEW, RUNNING, Cell
from actors.runtime.clock import Clock
from actors.runtime.dead_letters import FULL, NO_ACTOR, STOPPED
from actors.runtime.dispatcher import Post
from actors.runtime.effects import TimerFired
from actors.runtime.life import Life
from actors.runtime.mailbox import MAILBOX_MESSAGES_MAX, REJECT
from actors.runtime.statistics import SchedulerStatistics
from actors.runtime.supervisor import ActorSpec, CrashReport, Random, RestartSpec

TURN_MESSAGES_MAX = 1_024  # then the process gets to its sockets,
TURN_MS_MAX = 10  # at the latest after this time and the message that is being handled
SLICE_MESSAGES_MAX = 64  # of one actor before the next one's
CONTROL_SLICE_MESSAGES_MAX = 256

assert SLICE_MESSAGES_MAX <= CONTROL_SLICE_MESSAGES_MAX <= TURN_MESSAGES_MAX


class Scheduler(Life):
    """Call it from one thread only; other threads hand a closure to the loop.

    ``wake`` is called when work appears while no turn is pending; ``post`` is needed for blocking
    actors.  ``stopwatch_ns`` bounds and measures turns and decides nothing else; one that stands
    still makes turns repeatable.  ``random`` is for simulations: it shuffles who goes first within
    a round (order is promised per sender and receiver only) and spreads restarts.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        wake: Callable[[], None] | None = None,
        post: Post | None = None,
        turn_messages_max: int = TURN_MESSAGES_MAX,
        turn_ms_max: int = TURN_MS_MAX,
        slice_messages_max: int = SLICE_MESSAGES_MAX,
        random: Random | None = None,
        on_crash: Callable[[CrashReport], None] | None = None,
        stopwatch_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        assert 1 <= slice_messages_max <= turn_messages_max
        super().__init__(clock, wake, post, random, on_crash)
        self._turn_messages_max = turn_messages_max
        self._turn_ns_max = turn_ms_max * 1_000_000
        self._turn_ends_ns = 0
        self._time_is_up = False
        self._slice_messages_max = slice_messages_max
        self._stopwatch_ns = stopwatch_ns
        self._touched: list[Cell] = []
        self._turn_end: list[Callable[[], None]] = []
        self._turns = 0
        self._rounds = 0
        self._handled = 0

    # ----------------------------------------------------------------- actors

    def spawn(
        self,
        actor: Actor,
        *,
        mailbox_limit: int = MAILBOX_MESSAGES_MAX,
        policy: int = REJECT,
        factory: Callable[[], Actor] | None = None,
        restart: RestartSpec | None = None,
        blocking: bool = False,
    ) -> ActorRef:
        """Take ``actor`` in; it starts in the next turn, and messages may be told to it at once.

        With ``factory`` it is made again after a failure, by ``restart`` (default:
        ``RestartSpec()``).
        """
        assert restart is None or factory is not None, "who is to be restarted needs a factory"
        if factory is not None:
            restart = restart or RestartSpec()
        cell = self._admit(actor.name, mailbox_limit, policy, restart, blocking)
        cell.factory = factory
        cell.seat(actor)
        self._attend(cell)
        return cell.ref

    def start(self, spec: ActorSpec) -> ActorRef:
        """Make and take in an actor; a factory that raises is a failure like any later one."""
        cell = self._admit(spec.name, spec.mailbox_limit, spec.policy, spec.restart, spec.blocking)
        cell.factory = spec.factory
        self._make(cell)
        return cell.ref

    def ref(self, name: str) -> ActorRef | None:
        cell = self._cells.get(name)
        return None if cell is None else cell.ref

    def actor(self, address: Address) -> Actor | None:
        """The object itself, for its ``status()`` and for tests; None while it is down."""
        cell = self._cells.get(address)
        return None if cell is None else cell.actor

    # ----------------------------------------------------------------- messages

    def tell(self, to: Address, message: object, control: bool = False) -> bool:
        """Whether it was taken; if not, it is a dead letter.  Never raises into the sender."""
        cell = self._cells.get(to)
        if cell is None:
            gone = isinstance(to, ActorRef) and 0 < to.incarnation <= self._spawned
            self.dead_letters.add(STOPPED if gone else NO_ACTOR, to, message)
            return False
        if control:
            if not cell.mailbox.put_control(message):
                self.dead_letters.add(FULL, to, message)
                return False
            if not cell.control_ready:
                self._attend(cell)
            return True
        if not cell.mailbox.put(message):
            lost, taken = cell.mailbox.overflow(message)
            self.dead_letters.add(FULL, to, lost)
            return taken
        if not cell.ready:
            cell.ready = True
            self._ready.append(cell)
            if not self._awake:
                self._call_wake()
        return True

    # ----------------------------------------------------------------- turns

    def on_turn_end(self, callback: Callable[[], None]) -> None:
        """Called once after each turn; what it tells is work for the next."""
        self._turn_end.append(callback)

    def next_deadline(self) -> int | None:
        """When to call :meth:`run_turn` even without ``wake``, in ms; perhaps early, never late."""
        return self._timers.next_deadline()

    def run_turn(self) -> bool:
        """Whether work is left; then the caller calls again soon, ``wake`` will not ask for it."""
        assert not self._in_turn, "a turn within a turn"
        self._in_turn = self._awake = True
        self._fire_timers()
        budget = self._turn_messages_max
        self._time_is_up = False
        self._turn_ends_ns = self._stopwatch_ns() + self._turn_ns_max
        while budget > 0 and (self._ready or self._control_ready) and not self._time_is_up:
            budget -= self._run_round(budget)
        self._turns += 1
        for callback in self._turn_end:
            callback()
        self._in_turn = False
        self._awake = bool(self._ready or self._control_ready)
        return self._awake

    def _run_round(self, budget: int) -> int:
        left = budget - self._serve_all_control()
        ready = self._ready
        self._ready = []
        if self._random is not None:
            self._random.shuffle(ready)
        for position, cell in enumerate(ready):
            # The first is served whatever control has used up, or a flood of it would starve bulk.
            if position > 0 and (left <= 0 or self._time_is_up):
                self._ready[:0] = ready[position:]  # theirs is the next round's beginning
                break
            cell.ready = False
            left -= self._serve_bulk(cell, max(1, min(left, self._slice_messages_max)))
            if self._control_ready:
                left -= self._serve_all_control()
        self._end_round()
        handled = budget - left
        self._handled += handled
        return handled or 1  # starts and stops count too, so that no turn is endless

    def _end_round(self) -> None:
        self._rounds += 1
        touched = self._touched
        self._touched = []
        for cell in touched:
            if not cell.touched:
                continue  # failed since, or here twice; a new life owes nothing for the old one
            cell.touched = False
            if cell.end_turn is not None:
                began_ns = self._stopwatch_ns()
                self._call(cell, "end_turn", cell.end_turn)
                cell.spent(self._stopwatch_ns() - began_ns)

    # ----------------------------------------------------------------- slices

    def _serve_all_control(self) -> int:
        """Everyone who is in the queue now, once; at least one even if time is up."""
        queue = self._control_ready
        handled = 0
        for position in range(len(queue)):
            if position > 0 and self._time_is_up:
                break
            cell = queue.popleft()
            cell.control_ready = False
            handled += self._serve_control(cell)
        return handled

    def _serve_control(self, cell: Cell) -> int:
        """Changes of state first, then a slice of control messages."""
        if cell.state == BACKOFF:
            self._return(cell)
            return 0
        if cell.thread is not None:
            return self._serve_thread(cell)
        if cell.state == NEW and not self._begin(cell):
            return 0
        if cell.stop_reason is not None:
            self._end(cell)
            return 0
        if cell.state != RUNNING:
            return 0
        count = 0
        control = cell.mailbox.control
        if control:
            began_ns = self._stopwatch_ns()
            while control and count < CONTROL_SLICE_MESSAGES_MAX:
                message = control.popleft()
                count += 1
                if type(message) is TimerFired and not self._is_due(cell, message):
                    continue
                if not self._handle(cell, message):
                    break
                # One message may take as long as it likes; the others' control waits behind it.
                if self._stopwatch_ns() >= self._turn_ends_ns:
                    break
            self._after_slice(cell, count, began_ns)
        if cell.mailbox.control and cell.state == RUNNING and not cell.control_ready:
            self._attend(cell)
        return count

    def _serve_bulk(self, cell: Cell, slice_max: int) -> int:
        """At least one message, so that control cannot starve it; none if there is no actor now, or
        one that is to end: its turn to do so may come later, when time is up."""
        bulk = cell.mailbox.bulk
        if cell.state != RUNNING or not bulk or cell.stop_reason is not None:
            return 0
        if cell.thread is not None:
            return self._serve_thread(cell)
        control_ready = self._control_ready
        carriers = self._carriers
        handle = cell.handle
        count = 0
        stopwatch_ns, ends_ns = self._stopwatch_ns, self._turn_ends_ns
        began_ns = stopwatch_ns()
        while True:
            message = bulk.popleft()
            count += 1
            try:
                effects = handle(message)
            except Exception as error:  # noqa: BLE001  an actor's failure, reported whole
                self._fail(cell, "handle", error, message)
                break
            if effects and not self._carry_out(cell, effects, "handle", message, carriers):
                break
            if count >= slice_max or not bulk or control_ready or stopwatch_ns() >= ends_ns:
                break
        self._after_slice(cell, count, began_ns)
        if cell.state == RUNNING and cell.mailbox.bulk and not cell.ready:
            cell.ready = True
            self._ready.append(cell)
        return count

    def _handle(self, cell: Cell, message: Any) -> bool:
        """One message; whether the actor goes on."""
        try:
            effects = cell.handle(message)
        except Exception as error:  # noqa: BLE001  an actor's failure, reported whole
            self._fail(cell, "handle", error, message)
            return False
        return not effects or self._carry_out(cell, effects, "handle", message, self._carriers)

    def _after_slice(self, cell: Cell, count: int, began_ns: int) -> None:
        now_ns = self._stopwatch_ns()
        if now_ns >= self._turn_ends_ns:
            self._time_is_up = True
        cell.spent(now_ns - began_ns)
        cell.handled += count
        cell.mailbox.relax()
        if cell.end_turn is not None and not cell.touched:
            cell.touched = True
            self._touched.append(cell)

    # ----------------------------------------------------------------- looking and ending

    def stop(self, *, drain: bool = False, timeout_ms: int = 5_000) -> Sequence[str]:
        """End every actor, the last spawned first; names of those that were not done in time.

        Each handles its control lane, with ``drain`` its mailbox too, and then ``on_stop``; what
        is left becomes dead letters.  ``timeout_ms`` is one allowance for all blocking actors
        together; after half of it they are given no more messages.
        """
        assert not self._in_turn, "stop() from inside a turn; return a Stop effect"
        self._in_turn = self._awake = self._stopping = True
        began_ns, allowance_ns = self._stopwatch_ns(), timeout_ms * 1_000_000
        last_words_ns, ends_ns = began_ns + allowance_ns // 2, began_ns + allowance_ns
        overdue: list[str] = []
        for cell in list(reversed(self._by_name())):
            if cell.thread is not None:
                if not self._end_thread(cell, drain, self._stopwatch_ns, last_words_ns, ends_ns):
                    overdue.append(cell.ref.name)
                continue
            left = len(cell.mailbox.control or ()) + (len(cell.mailbox.bulk or ()) if drain else 0)
            while left > 0 and cell.state == RUNNING:
                cell.control_ready = False
                left -= self._serve_control(cell) or self._serve_bulk(cell, left) or left
            self._end_round()
            cell.stop_reason = cell.stop_reason or "shutdown"
            self._end(cell)
        for callback in self._turn_end:
            callback()
        self._ready.clear()
        self._control_ready.clear()
        self._in_turn = False
        return overdue

    def statistics(self) -> SchedulerStatistics:
        cells = self._by_name()
        return SchedulerStatistics(
            turns=self._turns,
            rounds=self._rounds,
            handled=self._handled,
            spawned=self._spawned,
            crashes=self._crashes,
            restarts=self._restarts,
            ready=len(self._ready) + len(self._control_ready),
            timer_entries=len(self._timers),
            dead_letters=dict(self.dead_letters.counts),
            actors=tuple(cell.statistics() for cell in cells),
        )
