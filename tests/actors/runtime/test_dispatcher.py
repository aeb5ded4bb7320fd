"""Blocking actors: the same contract on a thread of their own.

The tests play the loop: ``post`` puts closures into a queue, and :meth:`Threads.settle` runs them
until nothing is out any more.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from actors.runtime import ActorRef, Effects, RestartSpec, StartTimer, Stop, Tell
from actors.runtime.dispatcher import JOB_MESSAGES_MAX, Job, ThreadDispatcher, run_job

from .kit import Batcher, Probe, World

PATIENCE_S = 60.0


class Note:
    """An effect of the process."""


def wait_for(gate: threading.Event, *effects: object) -> Effects:
    assert gate.wait(PATIENCE_S), "nobody opened the gate"
    return effects


class Threads(World):
    def __init__(self, **options: Any) -> None:
        self.posted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        super().__init__(post=self.posted.put, **options)

    def settle(self) -> None:
        self.run()
        while any(
            cell.thread is not None and cell.thread.busy for cell in self.scheduler._by_name()
        ):
            self.posted.get(timeout=PATIENCE_S)()
            self.run()

    def blocking(self, name: str, kind: type[Probe] = Probe, **options: Any) -> ActorRef:
        ref = self.spawn(name, kind, blocking=True, **options)
        self.settle()
        self.log.remove(f"{name}:on_start")
        return ref


def test_callbacks_run_on_the_thread_and_effects_on_the_schedulers() -> None:
    world = Threads()
    where: list[tuple[str, str]] = []

    def note(what: str) -> None:
        where.append((what, threading.current_thread().name))

    world.scheduler.carry(Note, lambda effect, ref: note("effect"))

    def query() -> Effects:
        note("handle")
        return [Note()]

    world.script["db", "query"] = query
    world.blocking("db")
    world.tell("db", "query")
    world.settle()
    assert where == [("handle", "actor-db"), ("effect", threading.current_thread().name)]
    assert world.scheduler.stop() == []


def test_messages_keep_their_order_control_first_and_end_turn_closes_a_job() -> None:
    world = Threads()
    world.blocking("db", Batcher)
    world.tell("db", 1, 2)
    world.tell("db", "vote", control=True)
    world.settle()
    assert world.take_log() == ["db:vote", "db:1", "db:2", "db:end_turn"]
    world.scheduler.stop()


def test_while_a_job_is_out_the_rest_waits_in_the_bounded_mailbox() -> None:
    world = Threads()
    gate = threading.Event()
    world.script["db", "slow"] = lambda: wait_for(gate)
    world.blocking("db", mailbox_limit=3)
    world.tell("db", "slow")
    world.run()
    world.tell("db", 1, 2, 3)
    assert not world.scheduler.tell("db", 4)
    world.run()
    gate.set()
    world.settle()
    assert world.take_log() == ["db:slow", "db:1", "db:2", "db:3"]
    assert world.letters() == {"full": 1}
    world.scheduler.stop()


def test_a_long_mailbox_goes_out_in_several_jobs() -> None:
    world = Threads()
    world.blocking("db", Batcher)
    world.tell("db", *range(JOB_MESSAGES_MAX + 1))
    world.settle()
    assert world.log.count("db:end_turn") == 2
    assert world.log[JOB_MESSAGES_MAX] == "db:end_turn"
    world.scheduler.stop()


def test_the_scheduler_goes_on_while_a_thread_is_stuck() -> None:
    world = Threads()
    gate = threading.Event()
    world.script["db", "slow"] = lambda: wait_for(gate)
    world.blocking("db")
    world.probe("a")
    world.tell("db", "slow")
    world.tell("a", 1)
    world.run()
    assert "a:1" in world.log
    gate.set()
    world.settle()
    world.scheduler.stop()


def test_a_failure_on_the_thread_is_the_actors_and_what_waited_behind_it_is_kept() -> None:
    world = Threads()
    world.script["db", "bad"] = ValueError("bad")
    world.script["db", 1] = [Tell("a", "answer")]
    world.probe("a")
    world.blocking("db", restarts=True)
    world.tell("db", 1, "bad", 2, 3)
    world.settle()
    assert [line for line in world.log if line[0] == "d"] == [
        "db:1",
        "db:bad",
        "db:on_start",
        "db:2",
        "db:3",
    ]
    assert "a:answer" in world.log  # what was returned before the failure counts
    assert world.letters() == {"failed": 1}
    assert world.crashes[0].message_type == "str"
    world.scheduler.stop()


@pytest.mark.parametrize("during", ["on_start", "end_turn"])
def test_a_failure_between_messages_is_reported_as_such(during: str) -> None:
    world = Threads()
    world.script["db", during] = ValueError("bad")
    world.spawn("db", Batcher, blocking=True, restart=RestartSpec(intensity=0))
    world.tell("db", 1)
    world.settle()
    assert [crash.during for crash in world.crashes] == [during]
    world.scheduler.stop()


def test_an_effect_nobody_carries_fails_a_blocking_actor() -> None:
    world = Threads()
    world.script["db", 1] = [Note()]
    world.blocking("db")
    world.tell("db", 1)
    world.settle()
    assert [crash.during for crash in world.crashes] == ["effects"]
    assert world.scheduler.ref("db") is None


def test_timers_of_a_blocking_actor_are_the_schedulers() -> None:
    world = Threads()
    world.script["db", 1] = [StartTimer("tick", 1_500)]
    world.blocking("db")
    world.tell("db", 1)
    world.settle()
    world.clock.advance(500)
    world.settle()
    assert world.take_log() == ["db:1", "db:timer tick"]
    world.scheduler.stop()


def test_a_firing_that_waits_behind_a_failure_on_the_thread_does_not_reach_the_next_life() -> None:
    world = Threads()
    world.script["db", 1] = [StartTimer("tick", 1_000)]
    world.script["db", "bad"] = ValueError("bad")
    world.blocking("db", restarts=True)
    world.tell("db", 1)
    world.settle()
    world.tell("db", "bad", control=True)  # one job with the firing behind it
    world.settle()
    assert world.take_log() == ["db:1", "db:bad", "db:on_start"]
    world.scheduler.stop()


def test_a_blocking_actor_stops_itself_on_its_thread() -> None:
    world = Threads()
    world.script["db", 1] = [Stop("done")]
    world.blocking("db")
    (cell,) = world.scheduler._by_name()
    world.tell("db", 1)
    world.settle()
    assert world.log == ["db:1", "db:on_stop"]
    assert world.scheduler.ref("db") is None
    assert cell.thread is not None
    cell.thread.thread.join(PATIENCE_S)
    assert not cell.thread.thread.is_alive()  # no thread leaks when groups close (pitfall 51)


def test_shutdown_waits_for_the_job_that_is_out_and_carries_its_effects() -> None:
    world = Threads()
    gate = threading.Event()
    world.script["db", "slow"] = lambda: wait_for(gate, Tell("a", "done", control=True))
    world.probe("a")
    world.blocking("db")
    world.tell("db", "slow")
    world.run()
    world.tell("db", "undone")
    gate.set()
    assert world.scheduler.stop(timeout_ms=60_000) == []
    assert world.log == ["db:slow", "db:on_stop", "a:done", "a:on_stop"]
    assert world.letters() == {"stopped": 1}


def test_shutdown_with_drain_empties_the_mailbox_of_a_blocking_actor() -> None:
    world = Threads()
    world.blocking("db")
    world.tell("db", *range(JOB_MESSAGES_MAX + 1))
    assert world.scheduler.stop(drain=True, timeout_ms=60_000) == []
    assert world.log[-2:] == [f"db:{JOB_MESSAGES_MAX}", "db:on_stop"]


def test_shutdown_names_who_was_not_done_in_time_and_goes_on_with_the_others() -> None:
    world = Threads()
    gate = threading.Event()
    world.script["db", "slow"] = lambda: wait_for(gate)
    world.probe("a")
    world.blocking("db")
    world.tell("db", "slow")
    world.run()
    assert world.scheduler.stop(timeout_ms=1) == ["db"]
    assert world.log[-1] == "a:on_stop"
    gate.set()


def test_shutdown_ends_although_a_blocking_actor_keeps_telling_itself() -> None:
    looks = itertools.count()
    world = Threads(stopwatch_ns=lambda: next(looks) * 1_000_000_000)
    world.script["db", "again"] = [Tell("db", "again")]
    world.blocking("db")
    world.tell("db", "again")
    assert world.scheduler.stop(drain=True, timeout_ms=60_000) == []
    assert world.log[-1] == "db:on_stop"
    assert 1 < world.log.count("db:again") < 30, "half of the allowance is for the end"


def test_shutdown_of_an_actor_in_backoff_does_not_wait() -> None:
    world = Threads()
    world.script["db", "bad"] = ValueError("bad")
    world.blocking("db", restart=RestartSpec(intensity=0))
    world.tell("db", "bad")
    world.settle()
    assert world.scheduler.stop() == []


def test_a_job_never_raises() -> None:
    world = World()
    world.script["a", 2] = ValueError("bad")
    result = run_job(Job(Probe("a", world), "handle", [1, 2, 3]))
    assert (result.handled, result.during, result.failed_message) == (2, "handle", 2)
    assert result.unhandled == [3]


def test_two_jobs_at_once_are_our_own_bug() -> None:
    world = Threads()
    dispatcher = ThreadDispatcher("a", world.posted.put, lambda: None)
    dispatcher.submit(Job(Probe("a", world), "on_start"))
    with pytest.raises(AssertionError, match="one job"):
        dispatcher.submit(Job(Probe("a", world), "on_stop"))
    world.posted.get(timeout=PATIENCE_S)()
    assert dispatcher.take_result() is not None
    assert dispatcher.take_result() is None
    dispatcher.close()


def test_a_thread_whose_loop_is_closed_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    noise: list[object] = []
    monkeypatch.setattr(threading, "excepthook", noise.append)

    def closed(callback: Callable[[], None]) -> None:
        raise RuntimeError("Event loop is closed")

    dispatcher = ThreadDispatcher("a", closed, lambda: None)
    dispatcher.submit(Job(Probe("a", World()), "on_start"))
    dispatcher.thread.join(PATIENCE_S)
    assert not dispatcher.thread.is_alive()
    assert noise == []
    dispatcher.close()
