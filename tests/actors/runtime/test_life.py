"""How actors fail, return and end."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from actors.runtime import (
    Actor,
    ActorSpec,
    Effects,
    Ended,
    RestartSpec,
    Spawn,
    Stop,
    Tell,
    Watch,
)
from actors.runtime import life as life_module
from actors.runtime.supervisor import log_crash

from .kit import Batcher, Probe, World

BAD = ValueError("bad message")


def failing_world(**options: Any) -> World:
    world = World()
    world.script["a", "bad"] = BAD
    world.probe("a", **options)
    return world


# --------------------------------------------------------------------------- failures


def test_a_failure_without_supervision_ends_the_actor_and_its_messages_are_dead_letters() -> None:
    world = failing_world()
    ref = world.scheduler.ref("a")
    assert ref is not None
    world.tell(ref, 1, "bad", 2, 3)
    world.run()
    assert world.log == ["a:1", "a:bad"]  # no on_stop: its state is not to be trusted
    assert world.letters() == {"failed": 3}
    (crash,) = world.crashes
    assert (crash.ref, crash.during, crash.message_type) == (ref, "handle", "str")
    assert (crash.error, crash.restart_in_ms) == (BAD, None)
    assert not world.scheduler.tell(ref, 4)
    assert world.letters() == {"failed": 3, "stopped": 1}


def test_a_restart_keeps_the_reference_and_what_waited_but_not_the_failing_message() -> None:
    world = failing_world(restarts=True)
    ref = world.scheduler.ref("a")
    before = world.scheduler.actor("a")
    world.tell("a", 1, "bad", 2)
    world.run()
    assert world.log == ["a:1", "a:bad", "a:on_start", "a:2"]
    assert world.scheduler.ref("a") == ref
    assert world.scheduler.actor("a") is not before
    assert world.letters() == {"failed": 1}
    assert world.crashes[0].restart_in_ms == 0
    assert world.scheduler.statistics().actors[0].restarts == 1


def test_a_factory_alone_means_the_default_supervision() -> None:
    world = World()
    world.script["a", "bad"] = BAD
    world.probe("a", factory=lambda: Probe("a", world))
    world.tell("a", "bad")
    world.run()
    assert world.crashes[0].restart_in_ms == 0


def test_messages_of_an_earlier_slice_do_not_end_the_turn_of_who_failed_later() -> None:
    world = World()
    world.script["a", "bad"] = BAD
    world.script["b", 1] = [Tell("a", "bad", control=True)]
    world.probe("a", Batcher)
    world.probe("b")
    world.tell("a", 1)
    world.tell("b", 1)
    world.run()
    assert world.log == ["a:1", "b:1", "a:bad"]


def test_a_failure_does_not_touch_other_actors() -> None:
    world = failing_world()
    world.probe("b")
    world.tell("a", "bad")
    world.tell("b", 1)
    world.run()
    assert world.log == ["a:bad", "b:1"]


def test_beyond_the_intensity_it_waits_and_takes_messages_meanwhile() -> None:
    world = failing_world(restart=RestartSpec(intensity=1, backoff_min_ms=700), mailbox_limit=2)
    world.tell("a", "bad", "bad")
    world.run()
    assert [crash.restart_in_ms for crash in world.crashes] == [0, 700]
    assert world.scheduler.statistics().actors[0].state == "backoff"
    assert world.scheduler.actor("a") is None
    world.take_log()
    world.tell("a", 1, 2)
    world.tell("a", "vote", control=True)
    assert not world.scheduler.tell("a", 3)
    world.advance(699)
    assert world.take_log() == []
    world.advance(1)
    assert world.take_log() == ["a:on_start", "a:vote", "a:1", "a:2"]


def test_siblings_do_not_share_a_budget() -> None:
    world = failing_world(restart=RestartSpec(intensity=1))
    world.script["b", "bad"] = BAD
    world.probe("b", restart=RestartSpec(intensity=1))
    world.tell("a", "bad")
    world.tell("b", "bad")
    world.run()
    assert [crash.restart_in_ms for crash in world.crashes] == [0, 0]


def test_a_failing_on_start_is_reported_and_tried_again_by_budget() -> None:
    world = World()
    world.script["a", "on_start"] = OSError("locked")
    world.spawn("a", restart=RestartSpec(intensity=2, backoff_min_ms=100))
    world.run()
    assert [crash.during for crash in world.crashes] == ["on_start"] * 3
    assert world.letters() == {}
    del world.script["a", "on_start"]
    world.advance(100)
    assert world.log == ["a:on_start"] * 4
    world.tell("a", 1)
    world.run()
    assert world.log[-1] == "a:1"


def test_a_failing_on_start_without_supervision_leaves_no_zombie() -> None:
    world = World()
    world.script["a", "on_start"] = OSError("locked")
    ref = world.spawn("a")
    world.tell(ref, 1)
    world.run()
    assert world.scheduler.ref("a") is None
    assert world.letters() == {"failed": 1}
    del world.script["a", "on_start"]
    assert world.probe("a") != ref  # the name is free


def test_a_constructor_that_raises_leaves_no_zombie_and_is_retried() -> None:
    world = World()
    tries: list[int] = []

    def factory() -> Actor:
        tries.append(world.clock.now_ms())
        if len(tries) < 3:
            raise RuntimeError("no file yet")
        return Probe("a", world)

    spec = ActorSpec("a", factory, RestartSpec(intensity=0, backoff_min_ms=100))
    ref = world.scheduler.start(spec)
    world.tell(ref, "waits")
    world.advance(1_000)
    assert tries == [1_000, 1_100, 1_300]
    assert [crash.during for crash in world.crashes] == ["factory", "factory"]
    assert world.log == ["a:on_start", "a:waits"]
    assert world.scheduler.ref("a") == ref


def test_a_constructor_that_raises_without_supervision_is_reported_and_gone() -> None:
    world = World()

    def factory() -> Actor:
        raise RuntimeError("never")

    world.scheduler.start(ActorSpec("a", factory, restart=None))
    assert [crash.during for crash in world.crashes] == ["factory"]
    assert world.scheduler.ref("a") is None


def test_a_failing_end_turn_is_a_failure_of_its_actor() -> None:
    world = World()
    world.script["a", "end_turn"] = BAD
    world.probe("a", Batcher, restarts=True)
    world.tell("a", 1)
    world.run()
    assert world.log == ["a:1", "a:end_turn", "a:on_start"]
    assert world.crashes[0].during == "end_turn"
    assert world.letters() == {}


def test_who_failed_in_its_slice_gets_no_end_turn() -> None:
    world = World()
    world.script["a", "bad"] = BAD
    world.probe("a", Batcher)
    world.tell("a", 1, "bad")
    world.run()
    assert world.log == ["a:1", "a:bad"]


def test_a_control_message_can_fail_its_actor_too() -> None:
    world = failing_world(restarts=True)
    world.tell("a", "bad", "vote", control=True)
    world.run()
    assert world.log == ["a:bad", "a:on_start", "a:vote"]


def test_a_crash_is_logged_when_the_process_names_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.scheduler._on_crash = log_crash
    world.script["a", "bad"] = BAD
    world.probe("a", restarts=True)
    world.tell("a", "bad")
    with caplog.at_level(logging.ERROR, "polyraft.actors"):
        world.run()
    (record,) = caplog.records
    assert record.getMessage() == (
        "actor a#1 failed in handle(str): ValueError: bad message; failure 1, it restarts in 0 ms"
    )
    assert record.exc_info is not None


def test_a_keyboard_interrupt_is_nobodys_failure() -> None:
    world = World()

    def interrupt() -> Effects:
        raise KeyboardInterrupt

    world.script["a", 1] = interrupt
    world.probe("a", restarts=True)
    world.tell("a", 1)
    with pytest.raises(KeyboardInterrupt):
        world.run()
    assert world.crashes == []


# --------------------------------------------------------------------------- spawning by effect


def test_an_actor_spawns_another_and_may_tell_it_at_once() -> None:
    world = World()
    spec = ActorSpec("child", lambda: Probe("child", world))
    world.script["a", "go"] = [Spawn(spec), Tell("child", "first")]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    assert world.log == ["a:go", "child:on_start", "child:first"]


def test_spawning_a_name_that_is_alive_fails_the_actor_that_asked() -> None:
    world = World()
    world.script["a", "go"] = [Spawn(ActorSpec("b", lambda: Probe("b", world)))]
    world.probe("a")
    ref = world.probe("b")
    world.tell("a", "go")
    world.run()
    assert "'b', which is alive" in str(world.crashes[0])
    assert world.scheduler.ref("b") == ref


def test_an_actor_made_for_another_name_is_a_failure_of_its_factory() -> None:
    world = World()
    world.scheduler.start(ActorSpec("a", lambda: Probe("b", world), restart=None))
    assert "'b' was made for a#1" in str(world.crashes[0])


def test_senseless_spawns_are_our_own_bugs() -> None:
    world = World()
    world.probe("a")
    for options in ({"name": "a"}, {"name": "b", "blocking": True}):
        with pytest.raises(AssertionError):
            world.spawn(**options)
    with pytest.raises(AssertionError, match="factory"):
        world.scheduler.spawn(Probe("c", world), restart=RestartSpec())


# --------------------------------------------------------------------------- ends


def test_stopping_by_address_goes_before_waiting_messages() -> None:
    world = World()
    world.probe("a")
    world.tell("a", 1)
    assert world.scheduler.stop_actor("a", "no longer placed here")
    assert not world.scheduler.stop_actor("b")
    world.run()
    assert world.log == ["a:on_stop"]


def test_an_actor_stopped_before_its_first_turn_starts_and_stops() -> None:
    world = World()
    world.spawn("a")
    world.scheduler.stop_actor("a")
    world.run()
    assert world.log == ["a:on_start", "a:on_stop"]


def test_an_actor_in_backoff_can_be_stopped_and_does_not_return() -> None:
    world = failing_world(restart=RestartSpec(intensity=0))
    world.tell("a", "bad", 1)
    world.run()
    world.scheduler.stop_actor("a")
    world.run()
    assert world.scheduler.ref("a") is None
    assert world.letters() == {"failed": 1, "stopped": 1}
    world.take_log()
    world.advance(60_000)
    assert world.take_log() == []


def test_a_failing_on_stop_is_reported_and_the_actor_is_gone() -> None:
    world = World()
    world.script["a", "on_stop"] = BAD
    world.probe("a", restarts=True)
    world.scheduler.stop_actor("a")
    world.run()
    assert [(crash.during, crash.restart_in_ms) for crash in world.crashes] == [("on_stop", None)]
    assert world.scheduler.ref("a") is None


def test_shutdown_ends_actors_in_reverse_and_their_last_words_reach_who_stops_later() -> None:
    world = World()
    for name in "abc":
        world.probe(name)
    world.script["c", "on_stop"] = [Tell("a", "bye", control=True), Tell("a", "bulk")]
    world.script["a", "on_stop"] = [Tell("c", "too late")]
    world.tell("b", "waits")
    world.scheduler.on_turn_end(lambda: world.log.append("flush"))
    assert world.scheduler.stop() == []
    assert world.log == ["c:on_stop", "b:on_stop", "a:bye", "a:on_stop", "flush"]
    assert world.letters() == {"stopped": 2, "no_actor": 1}
    assert world.scheduler.statistics().actors == ()
    assert not world.scheduler.run_turn()


def test_shutdown_with_drain_handles_what_waits() -> None:
    world = World()
    world.probe("a", Batcher)
    world.probe("b")
    world.tell("a", 1, 2)
    world.tell("a", "vote", control=True)
    world.tell("b", 3)
    world.scheduler.stop(drain=True)
    assert world.log == ["b:3", "b:on_stop", "a:vote", "a:1", "a:2", "a:end_turn", "a:on_stop"]
    assert world.letters() == {}


def test_shutdown_ends_although_actors_keep_telling_themselves() -> None:
    world = World()
    world.script["a", "again"] = [Tell("a", "again", control=True), Tell("a", "again")]
    world.probe("a")
    world.tell("a", "again")
    world.scheduler.stop(drain=True)
    assert world.log[-1] == "a:on_stop"


def test_nothing_returns_or_is_spawned_during_a_shutdown() -> None:
    world = failing_world(restarts=True)
    world.probe("b")
    world.tell("a", "bad", control=True)
    world.script["b", "on_stop"] = [Spawn(ActorSpec("c", lambda: Probe("c", world)))]
    world.scheduler.stop()
    assert world.log == ["b:on_stop", "a:bad"]
    assert world.crashes[0].restart_in_ms is None
    with pytest.raises(AssertionError, match="after stop"):
        world.spawn("d")


# --------------------------------------------------------------------------- watching


class Watcher(Probe):
    def handle(self, message: Any) -> Effects:
        if isinstance(message, Ended):
            self.world.log.append(f"{message.address} {message.reason} {message.restarts}")
            return None
        return [Watch(message)]


def test_a_watcher_hears_of_a_failure_and_of_the_end() -> None:
    world = failing_world(restarts=True)
    world.script["a", "end"] = [Stop("done")]
    world.probe("w", Watcher)
    world.tell("w", "a")
    world.run()
    world.tell("a", "bad", "end")
    world.run()
    assert [line for line in world.log if line[1] != ":"] == [
        "a#1 ValueError: bad message True",
        "a#1 done False",
    ]


def test_watching_nobody_is_answered_at_once() -> None:
    world = World()
    world.probe("w", Watcher)
    world.tell("w", "nobody")
    world.run()
    assert world.log == ["nobody no_actor False"]


def test_a_watcher_that_is_gone_is_no_dead_letter() -> None:
    world = failing_world()
    world.probe("w", Watcher)
    world.tell("w", "a")
    world.run()
    world.scheduler.stop_actor("w")
    world.run()
    world.scheduler.stop_actor("a")
    world.run()
    assert world.letters() == {}


def test_watchers_are_bounded_and_dead_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life_module, "WATCHERS_MAX", 2)
    world = World()
    world.probe("a")
    for name in ("w1", "w2", "w3"):
        world.probe(name, Watcher)
        world.tell(name, "a")
        world.run()
        if name == "w1":
            world.scheduler.stop_actor(name)
    assert world.crashes == []
    world.probe("w4", Watcher)
    world.tell("w4", "a")
    world.run()
    assert "2 watchers already" in str(world.crashes[0])
