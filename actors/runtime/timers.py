"""Timers of all actors in one heap, re-armed lazily.

An election timer moves with every heartbeat and almost never fires.  Pushing it anew each time
costs 77 ms per beat with ten thousand groups; so a timer that moves *later* only changes its own
``deadline_ms``, and its old heap entry, when it comes up, is pushed again at the new place.  Only
a timer that moves *earlier* needs a new entry at once.

What is known of an entry ``(at_ms, number, timer)``: it stands for its timer exactly if
``timer.entry_ms == at_ms``; any other is left over and skipped.  A timer is in the heap at most
once as itself, and never later than its deadline.  Left-over entries are swept out when they
outnumber the live ones, so the heap is bounded by the number of timers.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from actors.runtime.effects import TimerFired

Owner = TypeVar("Owner")

SWEEP_ENTRIES_MIN = 64  # below this many left-over entries a sweep is not worth it


class Timer(Generic[Owner]):
    """``deadline_ms`` None: not started, or cancelled.  ``queued``: a firing in the mailbox."""

    __slots__ = ("deadline_ms", "entry_ms", "key", "owner", "queued")

    def __init__(self, owner: Owner, key: Hashable) -> None:
        self.owner = owner
        self.key = key
        self.deadline_ms: int | None = None
        self.entry_ms: int | None = None
        self.queued: TimerFired | None = None


class Timers(Generic[Owner]):
    __slots__ = ("_heap", "_left_over", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer[Owner]]] = []
        self._left_over = 0  # entries that stand for no timer any more
        self._number = 0  # breaks ties: timers of one moment fire in the order they were armed

    def __len__(self) -> int:
        """Entries in the heap, left-over ones included."""
        return len(self._heap)

    def start(self, timer: Timer[Owner], deadline_ms: int) -> None:
        timer.queued = None
        timer.deadline_ms = deadline_ms
        if timer.entry_ms is None:
            self._push(timer, deadline_ms)
        elif deadline_ms < timer.entry_ms:
            self._leave_over()
            self._push(timer, deadline_ms)

    def cancel(self, timer: Timer[Owner]) -> None:
        """For good: this object is not started again, so its entry is left over."""
        timer.queued = None
        timer.deadline_ms = None
        if timer.entry_ms is not None:
            timer.entry_ms = None
            self._leave_over()

    def next_deadline(self) -> int | None:
        """Never later than the first timer to fire; earlier if that timer has moved since."""
        heap = self._heap
        while heap:
            at_ms, _, timer = heap[0]
            if timer.entry_ms == at_ms:
                return at_ms
            heapq.heappop(heap)
            self._left_over -= 1
        return None

    def take_due(self, now_ms: int) -> Iterator[Timer[Owner]]:
        """Timers whose deadline has come, in order; each has left the heap when handed out."""
        heap = self._heap
        while heap and heap[0][0] <= now_ms:
            at_ms, _, timer = heapq.heappop(heap)
            if timer.entry_ms != at_ms:
                self._left_over -= 1
                continue
            timer.entry_ms = None
            assert timer.deadline_ms is not None, "a cancelled timer kept its entry"
            if timer.deadline_ms > now_ms:
                self._push(timer, timer.deadline_ms)
                continue
            yield timer

    def _push(self, timer: Timer[Owner], at_ms: int) -> None:
        self._number += 1
        timer.entry_ms = at_ms
        heapq.heappush(self._heap, (at_ms, self._number, timer))

    def _leave_over(self) -> None:
        self._left_over += 1
        if self._left_over < SWEEP_ENTRIES_MIN or self._left_over * 2 < len(self._heap):
            return
        newest: dict[int, tuple[int, int, Timer[Owner]]] = {}
        for entry in self._heap:
            if entry[2].entry_ms == entry[0]:
                newest[id(entry[2])] = entry
        self._heap[:] = newest.values()
        heapq.heapify(self._heap)
        self._left_over = 0
