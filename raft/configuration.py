"""Who takes part in a group.

A configuration is a value: it never changes, a change of membership replaces it. Everything is
keyed by :class:`~raft.messages.Replica`, node *and* incarnation, so that a replica which was
removed and added again, or came back with a blank disk, is somebody else (pitfalls 20 and 21).

The stored form is a sorted list of (replica, part), the part being a number with room for more
(:mod:`raft.roles`). A part that is not known here stops the replica: one that would count a new
kind of member as a voter, or not count it, could commit without a majority.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raft.messages import Replica
from raft.quorum import majority
from raft.roles import LEARNER, PARTS, VOTER


class UnknownPart(ValueError):
    """A configuration names a part that this version does not know."""


@dataclass(slots=True, frozen=True)
class Configuration:
    """``voters`` decide; ``learners`` get the log and neither vote nor count."""

    voters: frozenset[Replica]
    learners: frozenset[Replica] = frozenset()

    def __post_init__(self) -> None:
        if not self.voters:
            raise ValueError("a configuration needs at least one voter")
        both = self.voters & self.learners
        if both:
            raise ValueError(f"voter and learner at once: {', '.join(map(str, sorted(both)))}")

    @classmethod
    def of(cls, *voters: Replica, learners: Iterable[Replica] = ()) -> Configuration:
        return cls(frozenset(voters), frozenset(learners))

    @classmethod
    def from_parts(cls, parts: Iterable[tuple[Replica, int]]) -> Configuration:
        """The inverse of :meth:`parts`."""
        by_part: dict[int, set[Replica]] = {part: set() for part in PARTS}
        for replica, part in parts:
            if part not in by_part:
                raise UnknownPart(f"{replica} has the part {part}, which is not known here")
            by_part[part].add(replica)
        return cls(frozenset(by_part[VOTER]), frozenset(by_part[LEARNER]))

    def parts(self) -> list[tuple[Replica, int]]:
        """Sorted, so that equal configurations are stored as equal bytes."""
        voters = [(replica, VOTER) for replica in self.voters]
        learners = [(replica, LEARNER) for replica in self.learners]
        return sorted(voters + learners)

    @property
    def members(self) -> tuple[Replica, ...]:
        """All replicas, sorted: the order of the sets differs from process to process."""
        return tuple(sorted(self.voters | self.learners))

    @property
    def quorum_count(self) -> int:
        return majority(len(self.voters))

    def __contains__(self, replica: Replica) -> bool:
        return replica in self.voters or replica in self.learners

    def is_only_voter(self, replica: Replica) -> bool:
        return len(self.voters) == 1 and replica in self.voters
