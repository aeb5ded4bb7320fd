"""When to stand for election, whom to refuse a vote, and how a ballot goes.

**Time.**  A follower that hears nothing from a leader for its election timeout stands for election.
The timeout is drawn anew for every attempt from [T, 2T] (pitfall 9), T being
``election_timeout_ms``; hearing the leader starts it over *at receipt*, never after the disk
(pitfall 50). After an explicit refusal, and when the link to the leader's node has been reset, the
next attempt comes sooner.

**The leader is alive.** For T after its last message. During that time nobody gets a vote here, and
nobody's higher term is believed, so that a replica that was cut off cannot depose a leader that all
others hear (pitfall 7). A rise of the own term does not end the promise: whoever brought it about,
the leader may rely on it for its lease (pitfall 32). A restart would break it, for it forgets when
the leader was last heard: so nobody gets a vote for T after a restart either (pitfall 34). A
replica whose term is 0 on its disk has never answered any leader; it has nothing to honour.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from raft.messages import Replica
from raft.quorum import ballot_result, joint_result
from raft.settings import RaftSettings

FAILED_DOUBLINGS_MAX: Final = 5


class Random(Protocol):
    """What the core needs of a generator: ``random.Random(seed)`` has it."""

    def randint(self, a: int, b: int, /) -> int: ...


class Ballot:
    """The answers to one (pre-)campaign; the first answer of each voter counts.

    ``halves``: the sets of voters of which each has to elect (:attr:`Configuration.halves`).
    """

    __slots__ = ("_granted", "_halves", "_refused")

    def __init__(self, halves: Sequence[frozenset[Replica]]) -> None:
        assert halves
        assert all(halves)
        self._halves = halves
        self._granted: set[Replica] = set()
        self._refused: set[Replica] = set()

    def record(self, replica: Replica, granted: bool) -> int:
        """Count an answer and return how the ballot stands; who is no voter does not count."""
        if replica not in self._granted and replica not in self._refused:
            (self._granted if granted else self._refused).add(replica)
        return joint_result(
            [
                ballot_result(len(half), len(half & self._granted), len(half & self._refused))
                for half in self._halves
            ]
        )


class ElectionTimer:
    """The deadline of the present attempt, and the memory of a living leader."""

    __slots__ = (
        "_alive_until_ms",
        "_failed",
        "_random",
        "_settings",
        "_timeout_ms",
        "_votes_from_ms",
        "deadline_ms",
    )

    def __init__(
        self, settings: RaftSettings, random: Random, *, now: int, is_restart: bool
    ) -> None:
        self._settings = settings
        self._random = random
        self._alive_until_ms = now
        self._votes_from_ms = now + settings.election_timeout_ms if is_restart else now
        self._timeout_ms = 0
        self._failed = 0  # attempts since a leader was heard
        self.deadline_ms = 0
        self.restart(now)
        if not is_restart:  # a new group need not wait for a leader that cannot exist yet
            self.hurry(now)

    def restart(self, now: int) -> None:
        """A new attempt, with a timeout of its own."""
        shortest_ms = self._settings.election_timeout_ms
        self._timeout_ms = self._random.randint(shortest_ms, 2 * shortest_ms)
        self.deadline_ms = now + self._timeout_ms

    def expire(self, now: int) -> None:
        """Stand for election at once: there is nobody to wait for."""
        self.deadline_ms = now

    def stand(self, now: int) -> None:
        """An attempt begins; that it fails is assumed until a leader is heard."""
        self._failed += 1
        self.forget_leader(now)
        self.restart(now)

    def hurry(self, now: int) -> None:
        """Try soon; never later than was meant before.

        Each further attempt in a row waits twice as long, up to a whole timeout: who alone does not
        hear the leader is refused for ever.
        """
        settings = self._settings
        soon_ms = self._random.randint(settings.retry_min_ms, settings.retry_max_ms)
        waits = 1 << min(max(self._failed - 1, 0), FAILED_DOUBLINGS_MAX)
        self.deadline_ms = min(self.deadline_ms, now + waits * soon_ms)

    def retry(self, now: int) -> None:
        """Try again soon, but do wait: the last attempt is over."""
        self.restart(now)
        self.hurry(now)

    def heard_leader(self, now: int) -> None:
        self._failed = 0
        self._alive_until_ms = now + self._settings.election_timeout_ms
        self.deadline_ms = now + self._timeout_ms

    def lost_leader(self, now: int) -> None:
        """The link to it was reset: a sign of death that silence is not.

        Not where the leader relies on the promise (lease reads): there only time ends it.
        """
        if not self._settings.lease_reads:
            self._alive_until_ms = now
            self.hurry(now)

    def distrust(self, now: int) -> None:
        """Time was not what it seemed: the promise to a leader is kept for a whole T from now."""
        self._votes_from_ms = max(self._votes_from_ms, now + self._settings.election_timeout_ms)
        self.restart(now)

    def forget_leader(self, now: int) -> None:
        self._alive_until_ms = now

    def leader_is_alive(self, now: int) -> bool:
        return now < self._alive_until_ms

    def may_vote(self, now: int) -> bool:
        """Whether a vote given now breaks no promise to a leader, of this life or the last."""
        return now >= self._alive_until_ms and now >= self._votes_from_ms
