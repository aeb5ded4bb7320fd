"""Keyed timers in one heap: lazily re-armed, never fired after a cancel."""

from __future__ import annotations

import random

from actors.runtime import CancelTimer, StartTimer, TimerFired
from actors.runtime.timers import SWEEP_ENTRIES_MIN, Timer, Timers

from .kit import World


def due(timers: Timers[str], now_ms: int) -> list[object]:
    return [timer.key for timer in timers.take_due(now_ms)]


def test_a_timer_that_moves_later_keeps_its_one_entry() -> None:
    timers: Timers[str] = Timers()
    timer = Timer("owner", "election")
    for beat in range(100):
        timers.start(timer, 1_000 + 100 * beat)
        assert len(timers) == 1
    assert timers.next_deadline() == 1_000  # early, never late
    assert due(timers, 1_000) == []
    assert timers.next_deadline() == 10_900
    assert due(timers, 10_899) == []
    assert due(timers, 10_900) == ["election"]
    assert timers.next_deadline() is None


def test_a_timer_that_moves_earlier_fires_once_and_early() -> None:
    timers: Timers[str] = Timers()
    timer = Timer("owner", "election")
    timers.start(timer, 1_000)
    timers.start(timer, 300)
    assert timers.next_deadline() == 300
    assert due(timers, 300) == ["election"]
    assert timers.next_deadline() is None  # the entry at 1,000 stands for nothing
    assert due(timers, 2_000) == []


def test_a_timer_moved_earlier_and_back_to_the_same_moment_fires_once() -> None:
    timers: Timers[str] = Timers()
    timer = Timer("owner", "election")
    timers.start(timer, 1_000)
    timers.start(timer, 300)
    timers.start(timer, 1_000)
    assert due(timers, 300) == []
    assert due(timers, 1_000) == ["election"]
    assert due(timers, 1_000) == []
    assert len(timers) == 0


def test_timers_of_one_moment_fire_in_the_order_they_were_armed() -> None:
    timers: Timers[str] = Timers()
    for key in "cab":
        timers.start(Timer("owner", key), 5)
    timers.start(Timer("owner", "first"), 4)
    assert due(timers, 5) == ["first", "c", "a", "b"]


def test_left_over_entries_are_swept_out() -> None:
    timers: Timers[str] = Timers()
    keeper = Timer("owner", "keeper")
    timers.start(keeper, 1_000_000)
    for number in range(100 * SWEEP_ENTRIES_MIN):
        timer = Timer("owner", number)
        timers.start(timer, 500_000 + number)
        timers.cancel(timer)
        assert len(timers) <= 2 * SWEEP_ENTRIES_MIN + 2
    assert timers.next_deadline() == 1_000_000


def test_the_heap_agrees_with_a_plain_dictionary_under_random_use() -> None:
    rng = random.Random(7)
    timers: Timers[str] = Timers()
    live: dict[int, Timer[str]] = {}
    expected: dict[int, int] = {}
    now_ms = 0
    for _ in range(3_000):
        key = rng.randrange(40)
        action = rng.random()
        if action < 0.6:
            deadline_ms = now_ms + rng.randrange(200)
            timers.start(live.setdefault(key, Timer("owner", key)), deadline_ms)
            expected[key] = deadline_ms
        elif action < 0.8 and key in live:
            timers.cancel(live.pop(key))
            del expected[key]
        else:
            now_ms += rng.randrange(30)
            first_ms = timers.next_deadline()
            assert first_ms is None or first_ms <= min(expected.values())
            fired = {timer.key for timer in timers.take_due(now_ms)}
            assert fired == {key for key, at_ms in expected.items() if at_ms <= now_ms}
            for gone in [key for key in expected if key in fired]:
                del expected[gone], live[gone]


# --------------------------------------------------------------------------- through a scheduler


def test_a_timer_is_delivered_at_its_deadline_and_not_before() -> None:
    world = World()
    world.script["a", "go"] = [StartTimer("tick", 1_100)]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    assert world.scheduler.next_deadline() == 1_100
    world.advance(99)
    assert world.take_log() == ["a:go"]
    world.advance(1)
    assert world.take_log() == ["a:timer tick"]
    world.advance(10_000)
    assert world.take_log() == []


def test_what_fires_says_what_was_asked_for_even_when_late() -> None:
    world = World()
    seen: list[object] = []
    world.script["a", "go"] = [StartTimer(("k", 1), 1_100)]
    world.probe("a")
    actor = world.scheduler.actor("a")
    assert actor is not None
    world.tell("a", "go")
    world.run()
    cell = world.scheduler._cells["a"]
    cell.handle = lambda message: seen.append(message)
    world.clock.advance(5_000)
    world.run()
    assert seen == [TimerFired(("k", 1), 1_100)]


def test_a_firing_goes_before_waiting_bulk() -> None:
    world = World()
    world.script["a", "go"] = [StartTimer("tick", 1_000)]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    world.tell("a", 1, 2)
    world.run()
    assert world.take_log() == ["a:go", "a:timer tick", "a:1", "a:2"]


def test_a_timer_cancelled_while_its_firing_is_queued_does_not_arrive() -> None:
    world = World()
    world.script["a", "go"] = [StartTimer("tick", 1_000), StartTimer("other", 1_000)]
    world.script["a", "timer tick"] = [CancelTimer("other")]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    world.run()
    assert world.take_log() == ["a:go", "a:timer tick"]


def test_a_timer_moved_while_its_firing_is_queued_arrives_at_the_new_deadline_only() -> None:
    world = World()
    world.script["a", "go"] = [StartTimer("tick", 1_000), StartTimer("other", 1_000)]
    world.script["a", "timer tick"] = [StartTimer("other", 1_500)]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    world.run()
    assert world.take_log() == ["a:go", "a:timer tick"]
    world.advance(500)
    assert world.take_log() == ["a:timer other"]


def test_cancelling_what_does_not_run_is_nothing() -> None:
    world = World()
    world.script["a", "go"] = [CancelTimer("never")]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    assert world.crashes == []


def test_two_actors_may_use_one_key() -> None:
    world = World()
    for name, at_ms in (("a", 1_010), ("b", 1_020)):
        world.script[name, "go"] = [StartTimer("tick", at_ms)]
        world.probe(name)
        world.tell(name, "go")
    world.run()
    world.take_log()
    world.advance(15)
    assert world.take_log() == ["a:timer tick"]
    world.advance(15)
    assert world.take_log() == ["b:timer tick"]


def test_a_restart_cancels_timers_and_takes_back_queued_firings() -> None:
    world = World()
    world.script["a", "go"] = [StartTimer("tick", 1_000), StartTimer("later", 1_400)]
    world.probe("a", restarts=True)
    world.tell("a", "go")
    world.run()
    world.script["a", "bad"] = ValueError("no")
    world.tell("a", "bad", control=True)  # stands before the firing that comes now
    world.run()
    world.advance(1_000)
    assert world.take_log() == ["a:go", "a:bad", "a:on_start"]
    assert world.letters() == {"failed": 1}
