"""Whether elapsed time can be believed (pitfalls 33 and 35).

A lease says "nobody else leads for so many milliseconds", and a clock that stood still meanwhile
makes it too long.  ``CLOCK_MONOTONIC`` stands still while the host is suspended, and may jump when
a container moves; ``CLOCK_BOOTTIME`` goes on.  So the difference between the two is looked at
before anything is served: when it has changed, time was lost that nobody here has seen.

A loop that came back much later than it wanted has seen the time pass, but whatever it concluded
before is old.
"""

from __future__ import annotations

import time
from typing import Final

LATE_HEARTBEATS: Final = 3
LOST_MS_MAX: Final = 20  # below, it is the time between the two readings


def boot_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


class ClockWatch:
    """Of one process; the readings are handed in."""

    __slots__ = ("_ahead_ms", "_late_ms_max")

    def __init__(self, heartbeat_ms: int) -> None:
        self._late_ms_max = LATE_HEARTBEATS * heartbeat_ms
        self._ahead_ms: int | None = None  # by how much BOOTTIME was ahead when it was believed

    def look(self, now_ms: int, boot_ms: int, late_ms: int) -> str | None:
        """What is wrong, once; None: nothing.  ``late_ms``: since the loop's timer was due."""
        ahead_ms = boot_ms - now_ms
        known_ms = ahead_ms if self._ahead_ms is None else self._ahead_ms
        lost_ms = ahead_ms - known_ms
        # Small differences must add up, so what is believed moves only with a report.
        if abs(lost_ms) > LOST_MS_MAX:
            self._ahead_ms = ahead_ms
            return f"the clocks disagree about {lost_ms} ms: was this host suspended?"
        self._ahead_ms = known_ms
        if late_ms > self._late_ms_max:
            return f"the loop came back {late_ms} ms late"
        return None
