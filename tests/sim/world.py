"""Virtual time, what is to happen in it, and the record of what did.

The world is a heap of events, each a function to call at a moment.  Nothing in a simulation knows
another clock, and nothing draws from another source of chance than the streams made here from the
seed; so a seed *is* a history.  A stream has a name, and drawing from one never shifts another: a
fault that is switched off leaves the draws of the others where they were, which is what makes a
failing history shrink.

Times are whole microseconds.  Two events of the same moment happen in the order in which they were
asked for.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

MS: Final = 1_000  # microseconds
SECOND: Final = 1_000_000

TAIL_LINES_MAX: Final = 400  # of the trace that are kept to be shown when a history fails
DIGEST_LINES: Final = 128  # so many lines go into the digest at once

Action = Callable[..., object]


class Trace:
    """One line per event.  All go into the digest, the last into the tail, each to ``sink``."""

    __slots__ = ("_hash", "_lines", "_sink", "count", "tail")

    def __init__(self, sink: Callable[[str], None] | None = None) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._lines: list[str] = []
        self._sink = sink
        self.tail: deque[str] = deque(maxlen=TAIL_LINES_MAX)
        self.count = 0

    def add(self, line: str) -> None:
        self.count += 1
        lines = self._lines
        lines.append(line)
        if len(lines) >= DIGEST_LINES:
            self._fold()
        if self._sink is not None:
            self._sink(line)

    def _fold(self) -> None:
        self._hash.update("\n".join([*self._lines, ""]).encode())
        self.tail.extend(self._lines)
        self._lines.clear()

    def digest(self) -> str:
        self._fold()
        return self._hash.hexdigest()

    def last_lines(self) -> list[str]:
        self._fold()
        return list(self.tail)


class World:
    """The clock, the events to come, the streams of chance, the trace."""

    __slots__ = ("_events", "_number", "calm_us", "now_us", "seed", "trace")

    def __init__(self, seed: int, sink: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.now_us = 0
        self.calm_us: int | None = None  # since when, or from when on, nothing goes wrong any more
        self.trace = Trace(sink)
        self._events: list[tuple[int, int, Action, tuple[Any, ...]]] = []
        self._number = 0

    def stream(self, name: str) -> random.Random:
        """A source of chance of its own.  Seeded with text, which is hashed the same everywhere."""
        return random.Random(f"{self.seed}/{name}")

    def at(self, when_us: int, action: Action, *arguments: Any) -> None:
        assert when_us >= self.now_us, f"{action} in the past: {when_us} < {self.now_us}"
        self._number += 1
        heapq.heappush(self._events, (when_us, self._number, action, arguments))

    def after(self, delay_us: int, action: Action, *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now_us + delay_us, self._number, action, arguments))

    def run(self, until_us: int, count_max: int) -> int:
        """The next events, at most so many; how many.  Fewer: time has come to ``until_us``."""
        events = self._events
        pop = heapq.heappop
        count = 0
        while count < count_max:
            if not events or events[0][0] > until_us:
                self.now_us = max(self.now_us, until_us)
                break
            self.now_us, _, action, arguments = pop(events)
            count += 1
            action(*arguments)
        return count

    def is_calm_since(self, when_us: int) -> bool:
        return self.calm_us is not None and when_us >= self.calm_us

    def note(self, where: str, what: str) -> None:
        """A line of the trace: when, where, what."""
        now_us = self.now_us
        self.trace.add(f"{now_us // 1_000:>6}.{now_us % 1_000:03} {where:<6} {what}")


def draw_us(rng: random.Random, low_us: int, high_us: int) -> int:
    """Between the two, small ones more often: most waits are short, and a few are long."""
    part = rng.random()
    return low_us + int((high_us - low_us) * part * part)
