"""Machines that fail or have threads: what they do to the actors that are real."""

from __future__ import annotations

from typing import Any

import pytest

from actors.machine import Applied, Apply, Quarantined
from actors.runtime import CrashReport, Tell
from raft.configuration import Configuration
from raft.messages import COMMAND, Replica, Run
from raft.store.runs import encode_run
from tests.sim.checkers import GroupChecker
from tests.sim.clock import HostClock, ProcessClock
from tests.sim.machines import (
    APPLY,
    MachineScheduler,
    TroubledMachine,
    Troubles,
    WatchedMachine,
)
from tests.sim.world import World
from transport.protocol import WriteRequest


def a_run(first: int, *keys: str) -> Run:
    commands = [
        (0, 0, 0, b"\x38\x02" + WriteRequest(operation="PUT", key=key).SerializeToString())
        for key in keys
    ]
    return encode_run(COMMAND, 1, first, time_ms=1, wall_ms=1, commands=commands)


class Bench:
    """One machine actor of group 7 on n1."""

    def __init__(self, *, blocking: bool = False) -> None:
        self.world = World(1)
        self.clock = ProcessClock(HostClock(self.world, 0))
        self.troubles = Troubles()
        self.checker = GroupChecker(7, Configuration.of(Replica("n1", 1)))
        machine = TroubledMachine(self.troubles, self.clock, blocking=blocking)
        self.actor = WatchedMachine("machine/7", 7, machine, "group/7", self.clock)
        self.actor.node, self.actor.checker = "n1", self.checker
        self.has_decayed = False
        self.actor.has_decayed = lambda: self.has_decayed
        self.is_over = False
        self.actor.is_over = lambda: self.is_over
        self.started: list[tuple[Any, Any]] = []

    def apply(self, *runs: Run) -> list[object]:
        told = self.actor.handle(Apply([(run, None) for run in runs])) or []
        return [each.message for each in told if isinstance(each, Tell)]


def test_an_apply_fails_in_the_middle_and_has_changed_something() -> None:
    bench = Bench()
    assert [type(each) for each in bench.apply(a_run(1, "a"))] == [Applied]
    before = bench.actor.machine.digest()
    bench.troubles.calls = frozenset((APPLY,))
    assert [type(each) for each in bench.apply(a_run(2, "b", "c"))] == [Quarantined]
    assert bench.actor.machine.digest() != before
    bench.actor.note_digest()
    bench.checker.note_digest("n2", 1, before)  # what is left of it counts nowhere
    assert bench.checker.counts["quarantined"] == 1


def test_a_quarantine_that_nothing_explains() -> None:
    bench = Bench()
    strange = Run(99, 1, 1, 1, a_run(1, "a").body, 0)
    with pytest.raises(AssertionError, match="quarantined at 1 for no reason"):
        bench.apply(strange)
    bench.has_decayed = True
    assert [type(each) for each in bench.apply(strange)] == [Quarantined]


def test_what_a_thread_was_doing_when_its_replica_was_left_counts_nowhere() -> None:
    bench = Bench()
    bench.is_over = True
    strange = Run(99, 1, 1, 1, a_run(1, "a").body, 0)
    assert [type(each) for each in bench.apply(strange)] == [Quarantined]
    assert bench.checker.counts["quarantined"] == 0


def test_a_blocking_machine_does_later_what_it_is_told_and_one_thing_at_a_time() -> None:
    bench = Bench(blocking=True)
    crashes: list[CrashReport] = []
    scheduler = MachineScheduler(bench.clock, post=lambda call: call(), on_crash=crashes.append)
    scheduler.thread_clocks = {"machine/7": bench.clock}
    scheduler.start_job = lambda run, finish, clock: bench.started.append((run, finish))
    scheduler.spawn(bench.actor, blocking=True)
    scheduler.run_turn()
    for first, key in ((1, "a"), (2, "b")):
        scheduler.tell("machine/7", Apply([(a_run(first, key), None)]), True)
        scheduler.run_turn()
    done = 0
    seen = []
    while done < len(bench.started):
        run, finish = bench.started[done]
        done += 1
        assert done == len(bench.started), "one job is out at a time"
        run()
        finish()
        scheduler.run_turn()
        seen.append(bench.actor.applied_index)
    assert seen == [0, 2]  # its start, and what had gathered meanwhile
    assert not crashes
