"""The world itself: time, chance, clocks, the network, plans."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.clock import HostClock, ProcessClock
from tests.sim.faults import FAULTS
from tests.sim.network import LATE_FACTORS, Network, Weather
from tests.sim.plan import draw_plan
from tests.sim.world import MS, SECOND, TAIL_LINES_MAX, World
from transport.frames import LANE_BULK, LANE_CONTROL

KINDS = {name: fault.mean_ms for name, fault in FAULTS.items()}


def run_all(world: World, until_us: int = SECOND) -> None:
    while world.run(until_us, 10):
        pass


def test_events_happen_in_time_and_then_in_the_order_asked_for() -> None:
    world = World(1)
    seen: list[str] = []
    world.at(20, seen.append, "late")
    world.at(10, seen.append, "first")
    world.at(10, seen.append, "second")
    world.after(10, seen.append, "third")
    assert world.run(15, 1) == 1
    assert world.now_us == 10
    run_all(world, 15)
    assert seen == ["first", "second", "third"]
    assert world.now_us == 15
    run_all(world)
    assert seen[-1] == "late"
    with pytest.raises(AssertionError, match="in the past"):
        world.at(20, seen.append, "never")


def test_drawing_from_one_stream_moves_no_other() -> None:
    first, second = World(5), World(5)
    first.stream("a").random()
    assert first.stream("b").random() == second.stream("b").random()
    assert World(6).stream("b").random() != second.stream("b").random()


def test_the_digest_covers_every_line_and_the_tail_is_bounded() -> None:
    lines: list[str] = []
    first, second = World(1, lines.append), World(1)
    for world in (first, second):
        for at in range(2 * TAIL_LINES_MAX):
            world.note("n1", f"line {at}")
    assert first.trace.digest() == second.trace.digest()
    assert len(lines) == first.trace.count == 2 * TAIL_LINES_MAX
    assert first.trace.last_lines() == lines[-TAIL_LINES_MAX:]
    second.note("n1", "one more")
    assert first.trace.digest() != second.trace.digest()


def test_a_host_s_clock_is_fast_or_slow_and_jumps_but_never_goes_back() -> None:
    world = World(1)
    clock = HostClock(world, 5 * SECOND)
    world.run(1 * SECOND, 1)
    assert clock.now_ms() == 6_000
    clock.run_at(500_000)
    world.run(3 * SECOND, 1)
    assert clock.now_ms() == 7_000
    due_us = clock.when_us(8 * SECOND)
    world.run(due_us - 2, 1)
    assert clock.now_us() < 8 * SECOND
    world.run(due_us, 1)
    assert clock.now_us() >= 8 * SECOND
    clock.jump(2 * SECOND)
    assert clock.now_ms() == 10_000
    assert clock.when_us(0) == world.now_us
    with pytest.raises(AssertionError, match="does not go back"):
        clock.jump(-1)


def test_what_a_turn_spends_passes_for_its_process_alone() -> None:
    world = World(1)
    host = HostClock(world, 0)
    busy, other = ProcessClock(host), ProcessClock(host)
    busy.spent_us = 30 * MS
    assert (busy.now_ms(), other.now_ms()) == (30, 0)
    busy.spent_us = 0
    assert busy.now_ms() == 30, "its time does not go back when the next turn begins"
    world.run(40 * MS, 1)
    assert (busy.now_ms(), other.now_ms()) == (40, 40)


# --------------------------------------------------------------------------- the network


def a_network(weather: Weather | None = None) -> tuple[World, Network, list[tuple[str, Any]]]:
    world = World(3)
    network = Network(world, weather or Weather())
    heard: list[tuple[str, Any]] = []

    def joins(name: str) -> None:
        network.join(name, lambda sender, lane, frame: heard.append((name, frame)))

    for name in ("n1", "n2", "n3"):
        joins(name)
    return world, network, heard


def test_frames_of_a_lane_keep_their_order_unless_the_weather_is_bad() -> None:
    for keeps_order in (True, False):
        world, network, heard = a_network(Weather(delay_max_us=5_000, keeps_order=keeps_order))
        for at in range(50):
            network.send("n1", "n2", LANE_BULK, at, doubles=True)
        run_all(world)
        arrived = [frame for _, frame in heard]
        assert (arrived == list(range(50))) == keeps_order
        assert sorted(arrived) == list(range(50))


def test_a_lane_does_not_wait_for_the_other() -> None:
    world, network, heard = a_network(Weather(delay_min_us=100, delay_max_us=101))
    network.weather = Weather(delay_min_us=100, delay_max_us=101, lateness=1.0)
    network.send("n1", "n2", LANE_BULK, "bulk", doubles=True)
    network.weather = Weather(delay_min_us=100, delay_max_us=101)
    network.send("n1", "n2", LANE_CONTROL, "control", doubles=True)
    run_all(world, 100 * min(LATE_FACTORS) - 1)
    assert heard == [("n2", "control")]
    run_all(world)
    assert heard[-1] == ("n2", "bulk")


def test_walls_are_one_way_and_count() -> None:
    world, network, heard = a_network()
    network.wall([("n1", "n2")])
    network.wall([("n1", "n2")])
    network.unwall([("n1", "n2")])
    network.send("n1", "n2", LANE_BULK, "there", doubles=True)
    network.send("n2", "n1", LANE_BULK, "back", doubles=True)
    run_all(world)
    assert heard == [("n1", "back")]
    network.heal()
    network.unwall([("n1", "n2")])
    network.send("n1", "n2", LANE_BULK, "there", doubles=True)
    run_all(world, 2 * SECOND)
    assert heard[-1] == ("n2", "there")


def test_through_a_thin_wall_comes_what_was_under_way() -> None:
    for thick in (False, True):
        world, network, heard = a_network()
        network.send("n1", "n2", LANE_BULK, "before", doubles=True)
        network.wall([("n1", "n2")], thick=thick)
        network.send("n1", "n2", LANE_BULK, "behind", doubles=True)
        run_all(world)
        assert heard == ([] if thick else [("n2", "before")])


def test_a_reset_loses_what_is_under_way_and_nothing_later() -> None:
    world, network, heard = a_network()
    network.send("n1", "n2", LANE_BULK, "lost", doubles=True)
    network.reset(network.around("n2"))
    network.send("n1", "n2", LANE_BULK, "found", doubles=True)
    run_all(world)
    assert heard == [("n2", "found")]


def test_only_what_can_bear_it_is_doubled() -> None:
    world, network, heard = a_network(Weather(doubling=1.0))
    network.send("n1", "n2", LANE_BULK, "twice", doubles=True)
    network.send("n1", "n2", LANE_BULK, "once", doubles=False)
    run_all(world)
    assert sorted(str(frame) for _, frame in heard) == ["once", "twice", "twice"]


# --------------------------------------------------------------------------- plans


def test_a_fault_that_is_left_out_moves_nothing_else() -> None:
    for seed in range(30):
        whole = draw_plan(World(seed), KINDS)
        for kind in whole.faults:
            rest = draw_plan(World(seed), KINDS, without=(kind,))
            assert rest.faults == {k: v for k, v in whole.faults.items() if k != kind}
            assert (rest.groups, rest.settings, rest.weather) == (
                whole.groups,
                whole.settings,
                whole.weather,
            )


def test_seeds_differ_in_what_goes_wrong() -> None:
    plans = [draw_plan(World(seed), KINDS) for seed in range(60)]
    for kind in KINDS:
        assert 10 < sum(kind in plan.faults for plan in plans) < 50
    assert {len(plan.nodes) for plan in plans} >= {1, 3, 5}
    assert {len(plan.groups) for plan in plans} == {1, 2, 3}
