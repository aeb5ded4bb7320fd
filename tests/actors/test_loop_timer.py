"""The one timer of a worker, on a loop that does nothing by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from actors.loop_timer import STEP_MS, LoopTimer


class Handle:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    def __init__(self) -> None:
        self.calls: list[tuple[float, Handle]] = []

    def call_later(self, delay_s: float, _: Callable[[], None]) -> Handle:
        self.calls.append((delay_s, Handle()))
        return self.calls[-1][1]


def timer(now_ms: int = 1_000) -> tuple[LoopTimer, Loop]:
    loop = Loop()
    return LoopTimer(cast(Any, loop), lambda: now_ms, lambda: None), loop


def test_it_is_moved_to_an_earlier_moment_and_never_to_a_later_one() -> None:
    it, loop = timer()
    it.arm(1_100, in_steps=False)
    it.arm(1_200, in_steps=False)
    assert [delay for delay, _ in loop.calls] == [0.1]
    it.arm(1_050, in_steps=False)
    assert [delay for delay, _ in loop.calls] == [0.1, 0.05]
    assert [handle.cancelled for _, handle in loop.calls] == [True, False]
    it.arm(None, in_steps=False)
    assert it.due_ms == 1_050


def test_what_is_due_already_is_due_at_once_and_once_it_has_passed_any_moment_will_do() -> None:
    it, loop = timer()
    it.arm(900, in_steps=False)
    assert (loop.calls[0][0], it.late_ms) == (0, 100)
    it.passed()
    it.arm(2_000, in_steps=False)
    assert (loop.calls[1][0], it.late_ms) == (1, -1_000)


def test_in_steps_those_that_are_due_at_about_the_same_time_are_due_together() -> None:
    moments = set()
    for due_ms in range(1_001, 1_001 + STEP_MS):
        it, _ = timer()
        it.arm(due_ms, in_steps=True)
        assert it.due_ms is not None
        assert due_ms <= it.due_ms < due_ms + STEP_MS
        moments.add(it.due_ms)
    assert len(moments) <= 2
