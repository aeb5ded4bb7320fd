"""How actors begin, fail, return and end, and how their effects are carried out.

This is the scheduler's lower half, apart so that each can be read alone: nothing here decides
whose turn it is, nothing in :mod:`actors.runtime.scheduler` decides what becomes of an actor.

What happens at a failure, in this order: the message goes to the dead letters (it is not tried
again: it would fail again); timers are cancelled, queued firings included; the supervision is
asked for a delay; the crash is reported; watchers hear of it.  Then either the actor is made anew
after the delay, with its reference and its waiting messages, or it ends and those messages become
dead letters.  ``on_stop`` is not called: the state of who failed is not to be trusted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from actors.runtime.actor import ActorRef, Address, Effects
from actors.runtime.cell import BACKOFF, ENDED, NEW, RUNNING, Cell
from actors.runtime.clock import Clock
from actors.runtime.dead_letters import FAILED, STOPPED, DeadLetters
from actors.runtime.dispatcher import JOB_MESSAGES_MAX, Job, Post, Result, ThreadDispatcher
from actors.runtime.effects import (
    BadEffect,
    CancelTimer,
    Ended,
    Spawn,
    StartTimer,
    Stop,
    Tell,
    TimerFired,
    Watch,
)
from actors.runtime.mailbox import Mailbox
from actors.runtime.supervisor import CrashReport, Random, RestartBudget, RestartSpec, log_crash
from actors.runtime.timers import Timer, Timers

WATCHERS_MAX = 1_024  # of one actor; beyond it watching fails the one watcher too many

Carrier = Callable[[Any, ActorRef], None]


class Life:
    def __init__(
        self,
        clock: Clock,
        wake: Callable[[], None] | None,
        post: Post | None,
        random: Random | None,
        on_crash: Callable[[CrashReport], None] | None,
    ) -> None:
        self.clock = clock
        self.dead_letters = DeadLetters()
        self._wake = wake
        self._post = post
        self._random = random
        self._on_crash = on_crash or log_crash
        self._cells: dict[Address, Cell] = {}  # each cell twice: by name and by reference
        self._timers: Timers[Cell] = Timers()
        self._ready: list[Cell] = []  # have bulk
        self._control_ready: deque[Cell] = (
            deque()
        )  # have control, or a change of state to go through
        self._awake = False  # a turn is running or has been asked for
        self._in_turn = False
        self._stopping = False
        self._spawned = 0
        self._crashes = 0
        self._restarts = 0
        self._carriers: dict[type, Carrier] = {
            Tell: self._carry_tell,
            StartTimer: self._carry_start_timer,
            CancelTimer: self._carry_cancel_timer,
            Stop: self._carry_stop,
            Spawn: self._carry_spawn,
            Watch: self._carry_watch,
        }

    # ----------------------------------------------------------------- what the scheduler adds

    def tell(self, to: Address, message: object, control: bool = False) -> bool:
        raise NotImplementedError

    def start(self, spec: Any) -> ActorRef:
        raise NotImplementedError

    # ----------------------------------------------------------------- carrying effects

    def carry(self, effect_type: type, carrier: Callable[[Any, ActorRef], None]) -> None:
        """Have ``carrier(effect, ref of the actor)`` called for effects of exactly this type.

        It may raise :class:`BadEffect`: the actor's fault; anything else is the process's own.
        """
        assert effect_type not in self._carriers, f"{effect_type.__name__} is carried already"
        self._carriers[effect_type] = carrier

    def _carry_out(
        self,
        cell: Cell,
        effects: Sequence[object],
        during: str,
        message: object,
        carriers: Mapping[type, Carrier],
    ) -> bool:
        """In order; whether the actor goes on after that."""
        ref = cell.ref
        try:
            for effect in effects:
                carrier = carriers.get(type(effect))
                if carrier is None:
                    raise BadEffect(f"nobody carries out {type(effect).__name__}")
                carrier(effect, ref)
        except BadEffect as error:
            self._fail(cell, during, error, message)
            return False
        if cell.stop_reason is not None and during != "on_stop" and cell.thread is None:
            self._end(cell)
            return False
        return True

    def _carry_tell(self, effect: Tell, ref: ActorRef) -> None:
        self.tell(effect.address, effect.message, effect.control)

    def _carry_start_timer(self, effect: StartTimer, ref: ActorRef) -> None:
        cell = self._cells[ref]
        timers = cell.timers
        if timers is None:
            timers = cell.timers = {}
        timer = timers.get(effect.key)
        if timer is None:
            timer = timers[effect.key] = Timer(cell, effect.key)
        self._timers.start(timer, effect.deadline_ms)

    def _carry_cancel_timer(self, effect: CancelTimer, ref: ActorRef) -> None:
        timers = self._cells[ref].timers
        timer = timers.pop(effect.key, None) if timers else None
        if timer is not None:
            self._timers.cancel(timer)

    def _carry_stop(self, effect: Stop, ref: ActorRef) -> None:
        self._cells[ref].stop_reason = effect.reason

    def _carry_spawn(self, effect: Spawn, ref: ActorRef) -> None:
        if effect.spec.name in self._cells:
            raise BadEffect(f"{ref} spawned {effect.spec.name!r}, which is alive")
        if not self._stopping:
            self.start(effect.spec)

    def _carry_watch(self, effect: Watch, ref: ActorRef) -> None:
        target = self._cells.get(effect.address)
        if target is None:
            self.tell(ref, Ended(effect.address, "no_actor"), control=True)
            return
        if target.watchers is None:
            target.watchers = {}
        if len(target.watchers) >= WATCHERS_MAX:
            target.watchers = {each: None for each in target.watchers if each in self._cells}
            if len(target.watchers) >= WATCHERS_MAX:
                raise BadEffect(f"{target.ref} has {WATCHERS_MAX} watchers already")
        target.watchers[ref] = None

    # ----------------------------------------------------------------- beginnings

    def _admit(
        self, name: str, limit: int, policy: int, restart: RestartSpec | None, blocking: bool
    ) -> Cell:
        assert name not in self._cells, f"{name!r} is alive; names are unique"
        assert not self._stopping, f"{name!r} spawned after stop()"
        assert not blocking or self._post is not None, "blocking actors need post"
        self._spawned += 1
        ref = ActorRef(name, self._spawned)
        budget = None if restart is None else RestartBudget(restart, self._random)
        cell = Cell(ref, Mailbox(limit, policy), None, budget)
        if blocking and self._post is not None:
            cell.thread = ThreadDispatcher(name, self._post, lambda: self._attend(cell))
        self._cells[name] = self._cells[ref] = cell
        return cell

    def _by_name(self) -> list[Cell]:
        """Each cell once, in the order of their spawn."""
        return [cell for address, cell in self._cells.items() if type(address) is str]

    def _attend(self, cell: Cell) -> None:
        """Put into the queue of those to be served before any bulk."""
        if not cell.control_ready and cell.state != ENDED:
            cell.control_ready = True
            self._control_ready.append(cell)
            if not self._awake:
                self._call_wake()

    def _call_wake(self) -> None:
        self._awake = True
        if self._wake is not None:
            self._wake()

    def _make(self, cell: Cell) -> None:
        """A first or further object; it starts when its control is served next."""
        if cell.restart_due:
            cell.restart_due = False
            cell.restarts += 1
            self._restarts += 1
        assert cell.factory is not None
        try:
            cell.seat(cell.factory())
        except Exception as error:  # noqa: BLE001  a constructor that raises leaves no zombie
            self._fail(cell, "factory", error)
            return
        self._attend(cell)

    def _return(self, cell: Cell) -> None:
        """Out of BACKOFF, when the wait is over or an end has been asked for."""
        if cell.stop_reason is not None:
            self._end(cell)
        elif cell.restart_due:
            self._make(cell)

    def _begin(self, cell: Cell) -> bool:
        assert cell.actor is not None
        cell.state = RUNNING
        if not self._call(cell, "on_start", cell.actor.on_start):
            return False
        self._resume(cell)
        return True

    def _resume(self, cell: Cell) -> None:
        """Messages may have come while it could not handle them."""
        if cell.mailbox.bulk and not cell.ready:
            cell.ready = True
            self._ready.append(cell)

    def _call(self, cell: Cell, during: str, callback: Callable[[], Effects]) -> bool:
        try:
            effects = callback()
        except Exception as error:  # noqa: BLE001  an actor's failure, reported whole
            self._fail(cell, during, error)
            return False
        return self._carry_out(cell, effects or (), during, None, self._carriers)

    # ----------------------------------------------------------------- failures

    def _fail(self, cell: Cell, during: str, error: Exception, message: object = None) -> None:
        handling = during == "handle"
        cell.crashes += 1
        self._crashes += 1
        if handling:
            self.dead_letters.add(FAILED, cell.ref, message)
        self._cancel_timers(cell)
        delay_ms: int | None = None
        if cell.budget is not None and cell.stop_reason is None and not self._stopping:
            delay_ms = cell.budget.record(self.clock.now_ms())
        message_type = type(message).__name__ if handling else None
        self._on_crash(CrashReport(cell.ref, during, message_type, error, cell.crashes, delay_ms))
        if delay_ms is None:
            self._remove(cell, f"{type(error).__name__}: {error}", FAILED)
            return
        cell.vacate(BACKOFF)
        self._tell_watchers(cell, f"{type(error).__name__}: {error}", restarts=True)
        if delay_ms == 0:
            cell.restart_due = True
            self._attend(cell)
        else:
            cell.restart_timer = Timer(cell, "restart")
            self._timers.start(cell.restart_timer, self.clock.now_ms() + delay_ms)

    def _tell_watchers(self, cell: Cell, reason: str, restarts: bool) -> None:
        for watcher in cell.watchers or ():
            if watcher in self._cells:  # who watched may be gone; nobody misses that letter
                self.tell(watcher, Ended(cell.ref, reason, restarts), control=True)

    # ----------------------------------------------------------------- ends

    def stop_actor(self, address: Address, reason: str = "stopped") -> bool:
        """Have it end in the next turn, before any further message; False if nobody is there."""
        cell = self._cells.get(address)
        if cell is None:
            return False
        cell.stop_reason = cell.stop_reason or reason
        self._attend(cell)
        return True

    def _end(self, cell: Cell) -> None:
        assert cell.stop_reason is not None
        if cell.state == RUNNING and cell.actor is not None:
            self._call(cell, "on_stop", cell.actor.on_stop)
        if cell.state != ENDED:
            self._remove(cell, cell.stop_reason, STOPPED)

    def _remove(self, cell: Cell, reason: str, letters: str) -> None:
        self._cancel_timers(cell)
        if cell.restart_timer is not None:
            self._timers.cancel(cell.restart_timer)
            cell.restart_timer = None
        cell.restart_due = False
        cell.vacate(ENDED)
        del self._cells[cell.ref], self._cells[cell.ref.name]
        for message in cell.mailbox.take_all():
            if type(message) is not TimerFired:
                self.dead_letters.add(letters, cell.ref, message)
        if cell.thread is not None:
            cell.thread.close()
        self._tell_watchers(cell, reason, restarts=False)

    # ----------------------------------------------------------------- timers

    def _fire_timers(self) -> None:
        if not len(self._timers):
            return
        for timer in self._timers.take_due(self.clock.now_ms()):
            cell = timer.owner
            if timer is cell.restart_timer:
                cell.restart_timer = None
                cell.restart_due = True
            else:
                assert timer.deadline_ms is not None
                timer.queued = TimerFired(timer.key, timer.deadline_ms)
                cell.mailbox.put_control(timer.queued, always=True)
            self._attend(cell)

    def _is_due(self, cell: Cell, fired: TimerFired) -> bool:
        """Not cancelled, moved or orphaned by a restart since it was queued."""
        timer = cell.timers.get(fired.key) if cell.timers else None
        if timer is None or timer.queued is not fired:
            return False
        assert cell.timers is not None
        del cell.timers[fired.key]
        return True

    def _cancel_timers(self, cell: Cell) -> None:
        for timer in (cell.timers or {}).values():
            self._timers.cancel(timer)
        cell.timers = None

    # ----------------------------------------------------------------- threads

    def _serve_thread(self, cell: Cell) -> int:
        """Take back a job that is done, give out the next one."""
        thread = cell.thread
        assert thread is not None
        handled = 0
        result = thread.take_result()
        if result is not None and cell.actor is not None:
            handled = self._take_back(cell, result)
        if not thread.busy and cell.actor is not None:
            job = self._next_job(cell)
            if job is not None:
                thread.submit(job)
        return handled

    def _next_job(self, cell: Cell, drain: bool = True) -> Job | None:
        assert cell.actor is not None
        if cell.state == NEW:
            return Job(cell.actor, "on_start")
        messages: list[Any] = []
        if cell.stop_reason is None:
            control, bulk = cell.mailbox.control, cell.mailbox.bulk
            while control and len(messages) < JOB_MESSAGES_MAX:
                message = control.popleft()
                if type(message) is not TimerFired or self._is_due(cell, message):
                    messages.append(message)
            while drain and bulk and len(messages) < JOB_MESSAGES_MAX:
                messages.append(bulk.popleft())
            cell.mailbox.relax()
            return Job(cell.actor, "handle", messages) if messages else None
        return Job(cell.actor, "on_stop")

    def _take_back(self, cell: Cell, result: Result) -> int:
        cell.handled += result.handled
        cell.spent(result.elapsed_ns)
        if cell.state == NEW:
            cell.state = RUNNING
        # Firings belong to the life that has just ended; everything else keeps its place.
        cell.mailbox.put_back([m for m in result.unhandled if type(m) is not TimerFired])
        during = "on_stop" if result.kind == "on_stop" else "effects"
        if not self._carry_out(cell, result.effects, during, None, self._carriers):
            return result.handled
        if result.error is not None:
            self._fail(cell, result.during, result.error, result.failed_message)
        elif result.kind == "on_stop":
            assert cell.stop_reason is not None
            self._remove(cell, cell.stop_reason, STOPPED)
        return result.handled

    def _end_thread(
        self,
        cell: Cell,
        drain: bool,
        stopwatch_ns: Callable[[], int],
        last_words_ns: int,
        ends_ns: int,
    ) -> bool:
        """Bring a blocking actor to its end, waiting for its jobs; False if time ran out.

        From ``last_words_ns`` on it is given no more messages, so that who never runs out of them
        has time left to stop.
        """
        thread = cell.thread
        assert thread is not None
        while cell.state != ENDED:
            if thread.busy:
                # The last millisecond is for what finishes with the deadline.
                result = thread.take_result(max(1_000_000, ends_ns - stopwatch_ns()) / 1e9)
                if result is None:
                    self._remove(cell, "shutdown, not done in time", STOPPED)
                    return False
                if cell.actor is not None:
                    self._take_back(cell, result)
            elif cell.actor is None:
                self._remove(cell, "shutdown", STOPPED)
            else:
                in_time = stopwatch_ns() < last_words_ns
                job = self._next_job(cell, drain) if in_time else None
                if job is None:
                    cell.stop_reason = cell.stop_reason or "shutdown"
                    job = Job(cell.actor, "on_stop")
                thread.submit(job)
        return True
