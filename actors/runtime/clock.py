"""Time is an input: whoever needs it is given one of these."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since an arbitrary moment; never goes backwards."""
        ...


class MonotonicClock:
    """The system's clock, for processes."""

    __slots__ = ()

    def now_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class VirtualClock:
    """Stands still until told otherwise, for tests and simulations."""

    __slots__ = ("_now_ms",)

    def __init__(self, now_ms: int = 0) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    def advance(self, ms: int) -> None:
        assert ms >= 0, f"a monotonic clock cannot go back by {-ms} ms"
        self._now_ms += ms

    def advance_to(self, at_ms: int) -> None:
        """To ``at_ms``, or nowhere if that is past already."""
        self._now_ms = max(self._now_ms, at_ms)
