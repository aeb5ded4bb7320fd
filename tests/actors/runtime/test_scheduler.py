"""Whose turn it is: rounds, lanes, budgets, wake, effects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from actors.runtime import (
    DROP_NEW,
    DROP_OLD,
    ActorRef,
    ActorSpec,
    BadEffect,
    Effects,
    Spawn,
    StartTimer,
    Stop,
    Tell,
)
from actors.runtime.scheduler import CONTROL_SLICE_MESSAGES_MAX

from .kit import Batcher, Probe, World, seeded


def test_an_actor_starts_in_the_turn_after_its_spawn_and_before_its_first_message() -> None:
    world = World()
    ref = world.spawn("a")
    world.tell(ref, "hello")
    assert world.log == []
    world.run()
    assert world.log == ["a:on_start", "a:hello"]


def test_actors_start_in_the_order_of_their_spawn() -> None:
    world = World()
    for name in "cab":
        world.spawn(name)
    world.run()
    assert world.log == ["c:on_start", "a:on_start", "b:on_start"]


def test_control_is_served_before_bulk_that_came_first() -> None:
    world = World()
    world.probe("a")
    world.tell("a", 1, 2)
    world.tell("a", "vote", control=True)
    world.run()
    assert world.log == ["a:vote", "a:1", "a:2"]


def test_control_of_anyone_goes_between_two_bulk_messages_of_another() -> None:
    world = World()
    world.script["a", 1] = [Tell("b", "vote", control=True)]
    world.probe("a")
    world.probe("b")
    world.tell("a", 1, 2)
    world.tell("b", "bulk")
    world.run()
    assert world.log == ["a:1", "b:vote", "b:bulk", "a:2"]


def test_actors_take_turns_by_slices() -> None:
    world = World(slice_messages_max=2)
    world.probe("a")
    world.probe("b")
    world.tell("a", 1, 2, 3)
    world.tell("b", 1, 2, 3)
    world.run()
    assert world.log == ["a:1", "a:2", "b:1", "b:2", "a:3", "b:3"]


def test_a_turn_ends_with_its_budget_and_the_next_goes_on_where_it_stopped() -> None:
    world = World(turn_messages_max=3, slice_messages_max=2)
    for name in "abc":
        world.probe(name)
    for name in "abc":
        world.tell(name, 1, 2)
    assert world.scheduler.run_turn()
    assert world.take_log() == ["a:1", "a:2", "b:1"]
    assert not world.scheduler.run_turn()
    assert world.take_log() == ["c:1", "c:2", "b:2"]


def test_a_flood_of_control_does_not_starve_bulk() -> None:
    """A peer that sends control messages without end must not stop the rest of the process."""
    world = World(turn_messages_max=1_024)
    flood = [Tell("a", "flood", control=True)] * 2
    world.script["a", "flood"] = flood
    world.probe("a")
    world.probe("b")
    world.tell("a", *["flood"] * (5 * CONTROL_SLICE_MESSAGES_MAX), control=True)
    world.tell("b", 1, 2)
    world.tell("a", 3)
    for _ in range(3):
        assert world.scheduler.run_turn()
    bulk = [line for line in world.log if not line.endswith("flood")]
    assert bulk == ["b:1", "a:3", "b:2"]


class Slow:
    """A stopwatch that each handled message moves on."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def work(self, ms: int) -> Callable[[], Effects]:
        def answer() -> Effects:
            self.now_ns += ms * 1_000_000
            return None

        return answer


def test_a_turn_ends_when_its_time_is_up_so_that_slow_slices_do_not_keep_sockets_waiting() -> None:
    stopwatch = Slow()
    world = World(stopwatch_ns=stopwatch, turn_ms_max=10)
    for name in "abc":
        world.script[name, "apply"] = stopwatch.work(6)
        world.probe(name)
    for name in "abc":
        world.tell(name, "apply", "apply", "apply")
    turns = []
    work_left = True
    while work_left:
        work_left = world.scheduler.run_turn()
        turns.append("".join(line[0] for line in world.take_log()))
    assert turns == ["aa", "bb", "cc", "ab", "c"]


def test_who_is_to_end_handles_nothing_more_though_the_time_is_up_before_its_end() -> None:
    stopwatch = Slow()
    world = World(stopwatch_ns=stopwatch, turn_ms_max=10)
    world.script["busy", "slow"] = stopwatch.work(20)
    world.probe("busy")
    world.probe("left")
    world.tell("left", "read")
    world.tell("busy", "slow", control=True)
    world.scheduler.stop_actor("left")
    world.run()
    assert world.take_log() == ["busy:slow", "left:on_stop"]


def test_an_actor_that_goes_on_by_telling_itself_does_not_keep_the_turn() -> None:
    stopwatch = Slow()
    world = World(stopwatch_ns=stopwatch, turn_ms_max=10)

    def go_on() -> Effects:
        stopwatch.now_ns += 10_000_000
        return [Tell("machine", "slice")]

    world.script["machine", "slice"] = go_on
    world.probe("machine")
    world.probe("group")
    world.tell("machine", "slice")
    assert world.scheduler.run_turn()
    world.tell("group", "heartbeat", control=True)  # what came in meanwhile
    assert world.scheduler.run_turn()
    assert world.take_log() == ["machine:slice", "group:heartbeat", "machine:slice"]


def test_even_without_any_time_each_turn_serves_control_and_bulk_of_somebody() -> None:
    stopwatch = Slow()
    world = World(stopwatch_ns=stopwatch, turn_ms_max=10)
    for name in "ab":
        world.script[name, "vote"] = stopwatch.work(11)
        world.script[name, "bulk"] = stopwatch.work(11)
        world.probe(name)
    for name in "ab":
        world.tell(name, "vote", control=True)
        world.tell(name, "bulk")
    assert world.scheduler.run_turn()
    assert world.take_log() == ["a:vote", "a:bulk", "b:vote"]
    assert not world.scheduler.run_turn()
    assert world.take_log() == ["b:bulk"]


def test_a_long_control_lane_is_served_in_slices_until_it_is_empty() -> None:
    world = World()
    world.probe("a")
    world.tell("a", *range(2 * CONTROL_SLICE_MESSAGES_MAX + 1), control=True)
    world.run()
    assert world.log == [f"a:{number}" for number in range(2 * CONTROL_SLICE_MESSAGES_MAX + 1)]


def test_a_turn_ends_even_if_actors_do_nothing_but_spawn_actors() -> None:
    world = World(turn_messages_max=64)

    def child(number: int) -> ActorSpec:
        name = f"child{number}"
        world.script[name, "on_start"] = lambda: [Spawn(child(number + 1))]
        return ActorSpec(name, lambda: Probe(name, world))

    world.scheduler.start(child(0))
    assert world.scheduler.run_turn()
    assert 64 <= world.scheduler.statistics().spawned <= 66


def test_an_actor_that_was_busy_and_is_idle_holds_no_queues() -> None:
    world = World()
    world.probe("a")
    world.tell("a", 1)
    world.tell("a", 2, control=True)
    world.run()
    (cell,) = world.scheduler._by_name()
    assert (cell.mailbox.bulk, cell.mailbox.control) == (None, None)


def test_order_is_kept_per_sender_and_receiver_whatever_the_shuffle() -> None:
    orders = set()
    for seed in range(10):
        world = World(random=seeded(seed), slice_messages_max=1)
        for name in "abc":
            world.probe(name)
        for name in "abc":
            world.tell(name, 1, 2, 3)
        world.run()
        for name in "abc":
            assert [x for x in world.log if x[0] == name] == [f"{name}:{n}" for n in (1, 2, 3)]
        orders.add(tuple(world.log))
    assert len(orders) > 3


# --------------------------------------------------------------------------- end of round and turn


def test_end_turn_comes_once_after_everything_that_was_handled_in_the_round() -> None:
    world = World()
    world.script["a", "end_turn"] = lambda: [Tell("b", "outputs")]
    world.probe("a", Batcher)
    world.probe("b")
    world.tell("a", 1, 2, 3)
    world.tell("a", "vote", control=True)
    world.run()
    assert world.log == ["a:vote", "a:1", "a:2", "a:3", "a:end_turn", "b:outputs"]


def test_end_turn_comes_again_in_each_round() -> None:
    world = World()
    world.probe("a", Batcher)
    for _ in range(2):
        world.tell("a", 1)
        world.run()
    assert world.log == ["a:1", "a:end_turn"] * 2


def test_a_new_life_owes_no_end_turn_for_what_the_old_one_handled() -> None:
    world = World()
    world.script["a", "bad"] = ValueError("bad")
    world.probe("a", Batcher, restarts=True)
    world.script["b", 1] = [Tell("a", "bad", control=True)]
    for name in "bcd":
        world.probe(name)
    for name in "abcd":  # control is served after each slice: the new life starts in this round
        world.tell(name, 1)
    world.run()
    assert world.take_log() == ["a:1", "b:1", "a:bad", "c:1", "d:1", "a:on_start"]
    world.tell("a", 2)
    world.run()
    assert world.log == ["a:2", "a:end_turn"]


def test_end_turn_is_not_called_for_who_handled_nothing() -> None:
    world = World()
    world.probe("a", Batcher)
    world.probe("b", Batcher)
    world.tell("b", 1)
    world.run()
    assert world.log == ["b:1", "b:end_turn"]


def test_the_processs_callback_runs_once_per_turn_and_its_tells_are_work_left() -> None:
    world = World()
    told = iter(["persisted"])

    def flush() -> None:
        world.log.append("flush")
        for message in told:
            world.tell("a", message, control=True)

    world.script["a", 1] = [Tell("b", 2)]
    world.probe("a")
    world.probe("b")
    world.scheduler.on_turn_end(flush)
    world.tell("a", 1)
    assert world.scheduler.run_turn()
    assert world.take_log() == ["a:1", "b:2", "flush"]
    assert not world.scheduler.run_turn()
    assert world.take_log() == ["a:persisted", "flush"]


# --------------------------------------------------------------------------- wake


def test_wake_is_called_once_for_many_messages() -> None:
    world = World()
    world.probe("a")
    world.probe("b")
    world.wakes = 0
    world.tell("a", 1, 2)
    world.tell("b", 1)
    world.tell("b", 1, control=True)
    assert world.wakes == 1
    world.run()
    world.tell("b", 1, control=True)
    assert world.wakes == 2


def test_wake_is_not_called_from_within_a_turn_nor_while_work_is_left() -> None:
    world = World(turn_messages_max=1, slice_messages_max=1)
    world.script["a", 1] = [Tell("b", 2)]
    world.probe("a")
    world.probe("b")
    world.wakes = 0
    world.tell("a", 1)
    assert world.scheduler.run_turn()  # the caller knows that it must call again
    world.tell("a", 3)
    assert world.wakes == 1
    world.run()
    assert world.log == ["a:1", "b:2", "a:3"]


def test_a_turn_that_a_timer_asked_for_does_not_call_wake() -> None:
    world = World()
    world.script["a", 1] = [StartTimer("tick", 2_000)]
    world.script["a", "timer tick"] = [Tell("a", "x", control=True), Tell("b", "x")]
    world.probe("a")
    world.probe("b")
    world.tell("a", 1)
    world.run()
    world.wakes = 0
    world.advance(1_000)
    assert world.log == ["a:1", "a:timer tick", "a:x", "b:x"]
    assert world.wakes == 0


def test_a_turn_without_work_is_a_turn() -> None:
    world = World()
    assert not world.scheduler.run_turn()
    assert world.scheduler.next_deadline() is None


def test_a_turn_within_a_turn_is_our_own_bug() -> None:
    world = World()
    world.script["a", 1] = lambda: world.scheduler.run_turn() and None
    world.probe("a")
    world.tell("a", 1)
    world.run()
    assert "turn within a turn" in str(world.crashes[0].error)


# --------------------------------------------------------------------------- tell and refusals


def test_a_full_mailbox_refuses_without_failing_the_sender() -> None:
    world = World()
    world.script["a", "go"] = [Tell("b", 1), Tell("b", 2), Tell("c", 3)]
    world.probe("a")
    world.probe("b", mailbox_limit=1)
    world.probe("c")
    world.tell("a", "go")
    world.run()
    assert world.log == ["a:go", "b:1", "c:3"]
    assert world.crashes == []
    assert world.letters() == {"full": 1}


def test_only_reject_tells_the_sender() -> None:
    world = World()
    world.probe("reject", mailbox_limit=1)
    world.probe("new", mailbox_limit=1, policy=DROP_NEW)
    world.probe("old", mailbox_limit=1, policy=DROP_OLD)
    answers = {
        name: [world.scheduler.tell(name, 1), world.scheduler.tell(name, 2)]
        for name in ("reject", "new", "old")
    }
    assert answers == {"reject": [True, False], "new": [True, True], "old": [True, True]}
    world.run()
    assert world.log == ["reject:1", "new:1", "old:2"]
    assert world.letters() == {"full": 3}


def test_a_full_mailbox_cannot_block_a_stop() -> None:
    world = World()
    ref = world.probe("a", mailbox_limit=1)
    world.tell(ref, 1)
    assert world.scheduler.stop_actor(ref)
    world.run()
    assert world.log == ["a:on_stop"]
    assert world.letters() == {"stopped": 1}


def test_a_control_lane_at_its_ceiling_refuses_without_failing_the_sender(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("actors.runtime.mailbox.CONTROL_MESSAGES_MAX", 1)
    world = World()
    world.probe("a")
    assert world.scheduler.tell("a", 1, control=True)
    assert not world.scheduler.tell("a", 2, control=True)
    assert world.letters() == {"full": 1}


def test_a_message_to_nobody_is_a_dead_letter_and_its_listener_gets_it() -> None:
    world = World()
    heard: list[tuple[str, object]] = []
    world.scheduler.dead_letters.listener = lambda letter, message: heard.append(
        (letter.reason, message)
    )
    assert not world.scheduler.tell("nobody", b"request")
    assert heard == [("no_actor", b"request")]
    assert list(world.scheduler.dead_letters.recent) == [("no_actor", "nobody", "bytes")]
    assert world.scheduler.dead_letters.total == 1


def test_a_reference_to_a_dead_actor_never_reaches_its_successor() -> None:
    world = World()
    old = world.probe("a")
    world.scheduler.stop_actor(old)
    world.run()
    new = world.probe("a")
    assert old != new
    assert not world.scheduler.tell(old, "for the dead")
    assert world.letters() == {"stopped": 1}
    world.tell("a", "for who lives there")
    world.tell(new, "too")
    world.run()
    assert world.log == ["a:on_stop", "a:for who lives there", "a:too"]
    assert world.scheduler.ref("a") == new
    assert world.scheduler.ref("b") is None


def test_a_reference_from_another_life_of_the_process_is_nobody() -> None:
    world = World()
    assert not world.scheduler.tell(ActorRef("a", 99), "x")
    assert world.letters() == {"no_actor": 1}


# --------------------------------------------------------------------------- effects


@dataclass(slots=True)
class Save:
    number: int


def test_effects_are_carried_out_in_order_after_the_callback_by_type() -> None:
    world = World()
    carried: list[object] = []

    def carry_save(effect: Save, ref: ActorRef) -> None:
        assert world.log[-1] == "a:go"  # handle has returned
        carried.append((effect.number, ref.name, len(world.scheduler._ready)))

    world.scheduler.carry(Save, carry_save)
    world.script["a", "go"] = [Save(1), Tell("b", 1), Save(2)]
    world.probe("a")
    world.probe("b")
    world.tell("a", "go")
    world.run()
    assert carried == [(1, "a", 0), (2, "a", 1)]  # the Tell stands between them


def test_an_effect_nobody_carries_fails_the_actor_that_returned_it() -> None:
    world = World()
    world.script["a", "go"] = [Tell("b", 1), Save(1), Tell("b", 2)]
    world.probe("a")
    world.probe("b")
    world.tell("a", "go")
    world.run()
    assert world.log == ["a:go", "b:1"]
    (crash,) = world.crashes
    assert isinstance(crash.error, AssertionError)
    assert "nobody carries out Save" in str(crash)


def test_an_exception_of_a_carrier_is_the_processs_and_leaves_the_turn() -> None:
    """A poisoned disk must end the process, not be taken for a fault of the group (pitfall 44)."""
    world = World()

    def carry_save(effect: Save, ref: ActorRef) -> None:
        raise OSError("disk")

    world.scheduler.carry(Save, carry_save)
    world.script["a", "go"] = [Save(1)]
    world.probe("a", restarts=True)
    world.tell("a", "go")
    with pytest.raises(OSError, match="disk"):
        world.scheduler.run_turn()
    assert world.crashes == []


def test_a_carrier_can_blame_the_actor() -> None:
    world = World()

    def carry_save(effect: Save, ref: ActorRef) -> None:
        raise BadEffect(f"save {effect.number} came twice")

    world.scheduler.carry(Save, carry_save)
    world.script["a", "go"] = [Save(1)]
    world.probe("a")
    world.tell("a", "go")
    world.run()
    assert "save 1 came twice" in str(world.crashes[0])


def test_a_type_has_one_carrier() -> None:
    world = World()
    with pytest.raises(AssertionError, match="carried already"):
        world.scheduler.carry(Tell, lambda effect, ref: None)


def test_the_effects_after_a_stop_are_carried_out_and_the_messages_after_it_are_not_handled() -> (
    None
):
    world = World()
    world.script["a", "go"] = [Stop("done"), Tell("b", "last words")]
    world.script["a", "on_stop"] = [Tell("b", "really last")]
    world.probe("a")
    world.probe("b")
    world.tell("a", "go", "too late")
    world.run()
    assert world.log == ["a:go", "a:on_stop", "b:last words", "b:really last"]
    assert world.letters() == {"stopped": 1}
    assert world.scheduler.ref("a") is None


def test_statistics_tell_what_each_actor_is_doing() -> None:
    world = World(stopwatch_ns=iter(range(0, 10_000, 7)).__next__)  # each look takes 7 ns
    world.script["a", "go"] = [StartTimer("tick", 9_000)]
    world.probe("a", mailbox_limit=5)
    world.tell("a", "go")
    world.run()
    world.tell("a", 1, 2)
    world.tell("a", 3, control=True)
    statistics = world.scheduler.statistics()
    (actor,) = statistics.actors
    assert (actor.ref.name, actor.kind, actor.state) == ("a", "Probe", "running")
    assert (actor.mailbox, actor.control, actor.mailbox_limit, actor.timers) == (2, 1, 5, 1)
    assert (actor.handled, actor.busy_ns, actor.slice_ns_max) == (1, 7, 7)
    assert (statistics.handled, statistics.spawned, statistics.ready) == (1, 1, 2)
    assert statistics.turns == 2
    assert statistics.dead_letters["full"] == 0
