"""What production writes with ``await``, in the world's time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.sim.loop import SimLoop
from tests.sim.world import MS, SECOND, World


class Life:
    """A process that may end."""

    def __init__(self) -> None:
        self.world = World(1)
        self.is_over = False
        self.loop = SimLoop(lambda: self.world.now_us, self.later)
        self.said: list[str] = []

    def later(self, delay_us: int, what: Callable[[], None]) -> None:
        self.world.after(delay_us, lambda: None if self.is_over else what())

    def run(self, until_us: int) -> None:
        while self.world.run(until_us, 10) == 10:
            pass


def test_who_sleeps_goes_on_when_its_time_has_come() -> None:
    life = Life()

    async def sleeper() -> None:
        await asyncio.sleep(0.5)
        life.said.append(f"woke at {life.world.now_us}")

    life.loop.spawn(sleeper())
    life.run(499 * MS)
    assert not life.said
    life.run(SECOND)
    assert life.said == [f"woke at {500 * MS}"]


def test_those_that_wait_for_one_another_take_turns() -> None:
    life = Life()
    door = asyncio.Semaphore(1)
    future = life.loop.create_future()

    async def passes(name: str) -> None:
        async with door:
            await asyncio.sleep(0.001)
            life.said.append(name)
        await future
        life.said.append(f"{name} is out")

    for name in "ab":
        life.loop.spawn(passes(name))
    life.run(SECOND)
    assert life.said == ["a", "b"]
    future.set_result(None)
    life.run(2 * SECOND)
    assert sorted(life.said[2:]) == ["a is out", "b is out"]


def test_a_fault_in_a_task_ends_the_history() -> None:
    life = Life()

    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("it is wrong")

    life.loop.spawn(fails())
    with pytest.raises(ValueError, match="it is wrong"):
        life.run(SECOND)


def test_nothing_of_a_life_that_is_over_is_called() -> None:
    life = Life()

    async def speaks() -> None:
        await asyncio.sleep(0.1)
        life.said.append("I live")

    life.loop.spawn(speaks())
    life.run(1)
    life.is_over = True
    life.run(SECOND)
    assert not life.said
