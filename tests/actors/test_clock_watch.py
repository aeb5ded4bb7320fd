"""Whether elapsed time can be believed."""

from __future__ import annotations

import time

from actors.clock_watch import LOST_MS_MAX, ClockWatch, boot_ms

HEARTBEAT_MS = 100


def watch() -> ClockWatch:
    made = ClockWatch(HEARTBEAT_MS)
    assert made.look(1_000, 51_000, 0) is None, "whatever they say at first"
    return made


def test_clocks_that_go_together_are_believed() -> None:
    clocks = watch()
    for at in range(0, 100_000, 700):
        assert clocks.look(1_000 + at, 51_000 + at + at % LOST_MS_MAX, 0) is None


def test_a_host_that_was_suspended_is_told_of_once() -> None:
    """Pitfall 35: MONOTONIC stood still, BOOTTIME went on."""
    clocks = watch()
    assert "5000 ms" in (clocks.look(1_010, 56_010, 0) or "")
    assert clocks.look(1_020, 56_020, 0) is None


def test_a_clock_that_went_back_is_told_of_too() -> None:
    assert "-300 ms" in (watch().look(1_400, 51_100, 0) or "")


def test_many_small_losses_add_up() -> None:
    clocks = watch()
    looks = [clocks.look(1_000 + at, 51_000 + at + 5 * at, 0) for at in range(LOST_MS_MAX)]
    assert any(looks)


def test_a_loop_that_came_back_late_is_told_of() -> None:
    clocks = watch()
    assert clocks.look(2_000, 52_000, 3 * HEARTBEAT_MS) is None
    assert "301 ms late" in (clocks.look(2_000, 52_000, 3 * HEARTBEAT_MS + 1) or "")


def test_the_real_clocks_agree() -> None:
    clocks = ClockWatch(HEARTBEAT_MS)
    looks = [clocks.look(time.monotonic_ns() // 1_000_000, boot_ms(), 0) for _ in range(100)]
    # Who is put aside between the two readings sees them differ, which does no harm.
    assert looks.count(None) > 50
