"""Supervision as data: what to do with who failed is decided here, not in who failed.

A failure ends the actor (or the operating-system process: the node process uses the same budget
for its children).  Within ``intensity`` failures in ``period_ms`` it is restarted at once; beyond
that after ``backoff_min_ms``, then twice as long each time up to ``backoff_max_ms``, for as long
as it keeps failing; there is no giving up, since a group that stays down needs a person anyway
and every failure is reported.  After a whole period without a failure everything is forgotten.

The budget belongs to one child: a sibling's failures never use it up.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from actors.runtime.actor import Actor, ActorRef
from actors.runtime.mailbox import MAILBOX_MESSAGES_MAX, REJECT

ONE_FOR_ONE = "one_for_one"
STRATEGIES = frozenset((ONE_FOR_ONE,))


logger = logging.getLogger("polyraft.actors")


class Random(Protocol):
    """The part of :class:`random.Random` that the kernel uses."""

    def random(self) -> float: ...
    def shuffle(self, x: list[Any], /) -> None: ...


@dataclass(slots=True, frozen=True)
class RestartSpec:
    """How often, how fast."""

    strategy: str = ONE_FOR_ONE
    intensity: int = 5  # failures within the period that are answered at once
    period_ms: int = 60_000
    backoff_min_ms: int = 500
    backoff_max_ms: int = 30_000

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {self.strategy!r}; known: {sorted(STRATEGIES)}")
        if self.intensity < 0 or self.period_ms < 1:
            raise ValueError("intensity must not be negative, period_ms must be at least 1")
        if not 0 < self.backoff_min_ms <= self.backoff_max_ms:
            raise ValueError("0 < backoff_min_ms <= backoff_max_ms does not hold")


class RestartBudget:
    """What one child has used of its :class:`RestartSpec`."""

    __slots__ = ("_backoff_ms", "_failures_ms", "_last_ms", "_random", "spec")

    def __init__(self, spec: RestartSpec, random: Random | None = None) -> None:
        self.spec = spec
        self._random = random
        # Moments of the newest failures, at most intensity + 1: enough to see one too many.
        self._failures_ms: deque[int] = deque(maxlen=spec.intensity + 1)
        self._backoff_ms = 0  # 0: within intensity; otherwise what the last failure cost
        self._last_ms: int | None = None

    def record(self, now_ms: int) -> int:
        """One more failure, at ``now_ms``: in how many ms to restart.

        With a random source the backoff is drawn from its upper half, so that children which failed
        together do not return together.
        """
        spec = self.spec
        # Quiet is counted from when the child came back, not from when it failed.
        if self._last_ms is not None and now_ms - self._last_ms > self._backoff_ms + spec.period_ms:
            self._failures_ms.clear()
            self._backoff_ms = 0
        self._last_ms = now_ms
        self._failures_ms.append(now_ms)
        while now_ms - self._failures_ms[0] > spec.period_ms:
            self._failures_ms.popleft()
        if self._backoff_ms == 0 and len(self._failures_ms) <= spec.intensity:
            return 0
        doubled = self._backoff_ms * 2 or spec.backoff_min_ms
        self._backoff_ms = min(doubled, spec.backoff_max_ms)
        if self._random is None:
            return self._backoff_ms
        return self._backoff_ms - int(self._random.random() * (self._backoff_ms // 2))


@dataclass(slots=True, frozen=True)
class ActorSpec:
    """How to make an actor, as often as needed.  ``restart=None``: a failure is its end."""

    name: str
    factory: Callable[[], Actor]
    restart: RestartSpec | None = RestartSpec()
    mailbox_limit: int = MAILBOX_MESSAGES_MAX
    policy: int = REJECT
    blocking: bool = False  # on a thread of its own


@dataclass(slots=True, frozen=True)
class CrashReport:
    """An actor failed; everything known about it, in one place."""

    ref: ActorRef
    during: str  # "factory", a callback, or "effects" (of a blocking actor)
    message_type: str | None
    error: Exception
    crashes: int  # of this actor, this one included
    restart_in_ms: int | None  # None: it stays down

    def __str__(self) -> str:
        what = self.during if self.message_type is None else f"{self.during}({self.message_type})"
        then = (
            "it stays down"
            if self.restart_in_ms is None
            else f"it restarts in {self.restart_in_ms} ms"
        )
        error = f"{type(self.error).__name__}: {self.error}"
        return f"actor {self.ref} failed in {what}: {error}; failure {self.crashes}, {then}"


def log_crash(report: CrashReport) -> None:
    """What becomes of a report when the process names nobody else: a failure is never silent."""
    logger.error("%s", report, exc_info=report.error)
