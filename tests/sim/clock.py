"""The clock of a host: monotonic, like the real one, and as wrong as that may be.

It runs at a rate of its own, drifts when the rate changes, and jumps ahead when the host was
suspended; it never goes back.  Worker processes of a host share it, and each sees a little more of
it while it computes: what a turn *spends* passes for that process alone, until the world has caught
up (see :class:`ProcessClock`).
"""

from __future__ import annotations

from typing import Final

from tests.sim.world import World

RATE_EXACT: Final = 1_000_000  # microseconds of the host in one second of the world


class HostClock:
    """Local time since the host was made, in microseconds."""

    __slots__ = ("_local_us", "_rate", "_since_us", "_world")

    def __init__(self, world: World, start_us: int, rate: int = RATE_EXACT) -> None:
        self._world = world
        self._local_us = start_us
        self._since_us = world.now_us
        self._rate = rate

    def now_us(self) -> int:
        return self._local_us + (self._world.now_us - self._since_us) * self._rate // RATE_EXACT

    def now_ms(self) -> int:
        return self.now_us() // 1_000

    def when_us(self, local_us: int) -> int:
        """The moment of the world at which this clock shows ``local_us``; at the earliest now."""
        missing_us = local_us - self.now_us()
        if missing_us <= 0:
            return self._world.now_us
        return self._world.now_us + -(-missing_us * RATE_EXACT // self._rate) + 1

    def run_at(self, rate: int) -> None:
        self._rebase(self.now_us())
        self._rate = rate

    def jump(self, ahead_us: int) -> None:
        assert ahead_us >= 0, "a monotonic clock does not go back"
        self._rebase(self.now_us() + ahead_us)

    def stand_at(self, local_us: int) -> int:
        """Nobody has looked since it showed that, and it has stood still: how much it missed."""
        missed_us = self.now_us() - local_us
        assert missed_us >= 0
        self._rebase(local_us)
        return missed_us

    def _rebase(self, local_us: int) -> None:
        self._local_us = local_us
        self._since_us = self._world.now_us


class ProcessClock:
    """What one process sees: the host's clock, and the time that its present turn has spent."""

    __slots__ = ("_host", "_shown_ms", "spent_us")

    def __init__(self, host: HostClock) -> None:
        self._host = host
        self._shown_ms = 0
        self.spent_us = 0

    def now_ms(self) -> int:
        now_ms = (self._host.now_us() + self.spent_us) // 1_000
        if now_ms > self._shown_ms:
            self._shown_ms = now_ms
        return self._shown_ms
