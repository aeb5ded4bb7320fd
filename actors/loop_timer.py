"""One timer of the event loop for all timers of all actors of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

STEP_MS: Final = 20  # a fifth of a heartbeat; by so much a timer may be late


class LoopTimer:
    """Moved only to an earlier moment, so that most turns leave it alone.

    **In steps** it goes off at multiples of :data:`STEP_MS` alone: of many groups, those whose
    heartbeats are due at about the same time share a turn, a frame and a batch, and from then on
    they are due together.
    """

    __slots__ = ("_handle", "_loop", "_now_ms", "_on_due", "due_ms")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        now_ms: Callable[[], int],
        on_due: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._now_ms = now_ms
        self._on_due = on_due
        self._handle: asyncio.TimerHandle | None = None
        self.due_ms: int | None = None  # while it runs, and until ``passed``

    def arm(self, due_ms: int | None, *, in_steps: bool) -> None:
        if due_ms is None:
            return
        if in_steps:
            due_ms = -(-due_ms // STEP_MS) * STEP_MS
        if self.due_ms is not None:
            if self.due_ms <= due_ms:
                return
            assert self._handle is not None
            self._handle.cancel()
        self.due_ms = due_ms
        delay_s = max(0, due_ms - self._now_ms()) / 1_000
        self._handle = self._loop.call_later(delay_s, self._on_due)

    def passed(self) -> None:
        """It has gone off, and may be armed for any moment."""
        self.due_ms = None

    @property
    def late_ms(self) -> int:
        """How long ago it should have gone off; negative: how long it is until then."""
        return 0 if self.due_ms is None else self._now_ms() - self.due_ms
