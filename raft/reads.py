"""Linearizable reads: rounds, the lease, and who waits for what.

**ReadIndex** (thesis 6.4). A read that arrived at the leader may be served, once everything up to
the commit index of that moment is applied, if the leader was still the leader *afterwards*. All
heartbeats that go out together are a round with a number, which the answers repeat. A majority that
has answered a round which **started after** the read arrived confirms it (pitfall 30). An entry of
the leader's own term must be committed too: before that it may not know all that is (pitfall 29).

**Lease.** Who answers a heartbeat promises to vote for nobody for an election timeout T from its
receipt (:mod:`raft.election`), so nobody else can lead before T after the *sending* of a round that
a majority has answered (pitfall 32). That holds as long as no clock runs faster than the leader's
by more than ``lease_drift_percent``, by which the lease is shortened. It ends

* for the rest of the term once TimeoutNow was sent: the vote of who got it, and the votes that this
  one asks for, honour no promise, and a message may be late by any time (pitfall 36);
* for all rounds before, when time was lost or clocks disagreed (pitfalls 33 and 35).

It says nothing about the time that passes until the answer leaves: the driver looks once more.

Followers and learners ask the leader for an index (thesis 6.4, end) and serve the read themselves.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from raft.messages import Replica

# A moment that is never reached.
NEVER_MS = 1 << 62


class PendingRead(NamedTuple):
    token: int
    round: int  # the first round that started after it arrived
    read_index: int  # what has to be applied before it may be served
    asker: Replica | None  # who asked for it, None: this replica's own driver


class ReadQueue:
    """The reads that wait for their round, oldest first, at most so many."""

    __slots__ = ("_count_max", "_reads")

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._reads: deque[PendingRead] = deque()

    def __len__(self) -> int:
        return len(self._reads)

    def maybe_add(self, read: PendingRead) -> bool:
        """False if too many wait already."""
        if len(self._reads) >= self._count_max:
            return False
        assert not self._reads or read.round >= self._reads[-1].round, "rounds only rise"
        self._reads.append(read)
        return True

    def take_confirmed(self, round_: int, commit: int) -> list[PendingRead]:
        reads = self._reads
        safe = []
        while reads and reads[0].round <= round_:
            read = reads.popleft()
            assert read.read_index <= commit, f"read at {read.read_index} above commit {commit}"
            safe.append(read)
        return safe

    def take_all(self) -> list[PendingRead]:
        reads = list(self._reads)
        self._reads.clear()
        return reads


class Lease:
    """Until when nobody else can lead."""

    __slots__ = ("_duration_ms", "_from_ms", "_is_over", "_started", "_void_ms")

    def __init__(self, *, election_timeout_ms: int, drift_percent: int) -> None:
        self._duration_ms = election_timeout_ms * (100 - drift_percent) // 100
        self._started: deque[tuple[int, int]] = deque()  # (round, when it was sent), unconfirmed
        self._from_ms: int | None = None
        self._void_ms = -1  # rounds sent up to then prove nothing
        self._is_over = False

    def on_round(self, round_: int, now: int) -> None:
        self._started.append((round_, now))

    def on_confirmed(self, round_: int) -> None:
        """A majority has answered this round, and so all that were sent before it."""
        started = self._started
        while started and started[0][0] <= round_:
            sent_ms = started.popleft()[1]
            if sent_ms > self._void_ms:
                self._from_ms = sent_ms

    def void(self, now: int) -> None:
        """Nothing that was measured up to now may be relied on."""
        self._void_ms = now
        self._from_ms = None

    def end(self) -> None:
        """No lease any more in this term."""
        self._is_over = True

    @property
    def until_ms(self) -> int:
        """0: there is none."""
        if self._is_over or self._from_ms is None:
            return 0
        return self._from_ms + self._duration_ms


class AskedReads:
    """Follower and learner: reads for which the leader was asked, until it answers or is late."""

    __slots__ = ("_count_max", "_deadlines")

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._deadlines: dict[int, int] = {}  # token -> ms; in the order in which they were asked

    def maybe_add(self, token: int, deadline_ms: int) -> bool:
        if len(self._deadlines) >= self._count_max:
            return False
        self._deadlines[token] = deadline_ms
        return True

    def take(self, token: int) -> bool:
        """False: nobody waits for it any more."""
        return self._deadlines.pop(token, None) is not None

    def take_late(self, now: int) -> list[int]:
        late = []
        for token, deadline_ms in self._deadlines.items():
            if deadline_ms > now:
                break
            late.append(token)
        for token in late:
            del self._deadlines[token]
        return late

    def take_all(self) -> list[int]:
        tokens = list(self._deadlines)
        self._deadlines.clear()
        return tokens

    @property
    def next_deadline_ms(self) -> int:
        for deadline_ms in self._deadlines.values():
            return deadline_ms
        return NEVER_MS
