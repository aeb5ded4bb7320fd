"""Who takes part in a group.

A configuration is a value: it never changes, a change of membership replaces it. Everything is
keyed by :class:`~raft.messages.Replica`, node *and* incarnation, so that a replica which was
removed and added again, or came back with a blank disk, is somebody else (pitfalls 20 and 21).

**Joint consensus** (paper 6). Voters do not change from one moment to the next, for two halves of
a group could then each believe in a majority of its own. Between the old voters and the new ones
lies a *joint* configuration in which every decision, elections and commits alike, needs a majority
of both::

    voters {1,2,3}  --enter-->  voters {1,2,4}, outgoing {1,2,3}  --leave-->  voters {1,2,4}

Learners count in neither half, so a change of learners alone needs no joint configuration.

**When it takes effect**: as soon as it is in the log, committed or not (paper 6), so it must be
undone when the entry is cut off again (pitfall 23): :class:`History` remembers.

The stored form is a sorted list of (replica, part), the part being a number with room for more
(:mod:`raft.roles`). A part that is not known here stops the replica: one that would count a new
kind of member as a voter, or not count it, could commit without a majority.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from raft.messages import Replica
from raft.roles import DEMOTED, INCOMING, LEARNER, OUTGOING, PARTS, VOTER

_NOBODY: frozenset[Replica] = frozenset()


class UnknownPart(ValueError):
    """A configuration names a part that this version does not know."""


@dataclass(slots=True, frozen=True)
class Configuration:
    """``voters`` decide; ``learners`` get the log and neither vote nor count.

    ``outgoing``, if not empty: the voters of the old half of a joint configuration. Those of them
    that stay as learners are ``demoted``.
    """

    voters: frozenset[Replica]
    learners: frozenset[Replica] = _NOBODY
    outgoing: frozenset[Replica] = _NOBODY
    demoted: frozenset[Replica] = _NOBODY

    def __post_init__(self) -> None:
        if not self.voters:
            raise ValueError("a configuration needs at least one voter")
        both = (self.voters | self.outgoing) & self.learners
        if both:
            raise ValueError(f"voter and learner at once: {', '.join(map(str, sorted(both)))}")
        if not self.demoted <= self.outgoing - self.voters:
            raise ValueError("who is demoted was a voter and is none any more")

    @classmethod
    def of(cls, *voters: Replica, learners: Iterable[Replica] = ()) -> Configuration:
        return cls(frozenset(voters), frozenset(learners))

    # ------------------------------------------------------------------ the stored form

    @classmethod
    def from_parts(cls, parts: Iterable[tuple[Replica, int]]) -> Configuration:
        """The inverse of :meth:`parts`. Raises UnknownPart, or ValueError if it can be none."""
        by_part: dict[int, set[Replica]] = {part: set() for part in PARTS}
        seen: set[Replica] = set()
        for replica, part in parts:
            if part not in by_part:
                raise UnknownPart(f"{replica} has the part {part}, which is not known here")
            if replica in seen:
                raise ValueError(f"{replica} has two parts")
            seen.add(replica)
            by_part[part].add(replica)
        stays, comes = by_part[VOTER], by_part[INCOMING]
        goes = by_part[OUTGOING] | by_part[DEMOTED]
        is_joint = bool(comes or goes)
        if is_joint and not stays | goes:
            raise ValueError("a joint configuration without voters in its old half")
        return cls(
            voters=frozenset(stays | comes),
            learners=frozenset(by_part[LEARNER]),
            outgoing=frozenset(stays | goes) if is_joint else _NOBODY,
            demoted=frozenset(by_part[DEMOTED]),
        )

    def parts(self) -> list[tuple[Replica, int]]:
        """Sorted, so that equal configurations are stored as equal bytes."""
        return [(replica, self.part_of(replica)) for replica in self.members]

    def part_of(self, replica: Replica) -> int:
        if replica in self.learners:
            return LEARNER
        if replica in self.voters:
            return INCOMING if self.outgoing and replica not in self.outgoing else VOTER
        return DEMOTED if replica in self.demoted else OUTGOING

    # ------------------------------------------------------------------ changes

    def enter(self, voters: frozenset[Replica], learners: frozenset[Replica]) -> Configuration:
        """The joint configuration on the way to these voters and learners."""
        assert not self.is_joint, "a change begins while another one is under way"
        assert voters != self.voters, "a change of learners alone needs no joint configuration"
        return Configuration(
            voters=voters,
            learners=learners - self.voters,
            outgoing=self.voters,
            demoted=learners & self.voters,
        )

    def leave(self) -> Configuration:
        """What follows the joint configuration, without looking at anything else."""
        assert self.is_joint
        return Configuration(self.voters, self.learners | self.demoted)

    # ------------------------------------------------------------------ who is what

    @property
    def is_joint(self) -> bool:
        return bool(self.outgoing)

    @property
    def halves(self) -> tuple[frozenset[Replica], ...]:
        """The sets of voters of which each has to decide by a majority of its own."""
        return (self.voters, self.outgoing) if self.outgoing else (self.voters,)

    @property
    def members(self) -> tuple[Replica, ...]:
        """All replicas, sorted: the order of the sets differs from process to process."""
        return tuple(sorted(self.voters | self.learners | self.outgoing))

    def __contains__(self, replica: Replica) -> bool:
        return replica in self.voters or replica in self.learners or replica in self.outgoing

    def votes(self, replica: Replica) -> bool:
        return replica in self.voters or replica in self.outgoing

    def is_only_voter(self, replica: Replica) -> bool:
        return len(self.voters) == 1 and replica in self.voters and not self.outgoing


class History:
    """The configurations of one log: which was in force from which index on.

    ``base`` is in force up to the first CONFIG entry; ``base_index`` is 0, or the index of the
    snapshot that carried it (pitfall 25).
    """

    __slots__ = ("_configurations", "_indexes")

    def __init__(self, base: Configuration, base_index: int = 0) -> None:
        self._indexes = [base_index]
        self._configurations = [base]

    @property
    def latest(self) -> Configuration:
        return self._configurations[-1]

    @property
    def latest_index(self) -> int:
        """The index of the entry that brought the latest one."""
        return self._indexes[-1]

    @property
    def base_index(self) -> int:
        return self._indexes[0]

    def at(self, index: int) -> Configuration:
        """What is in force at ``index``, for an index from the base on."""
        position = bisect_right(self._indexes, index) - 1
        assert position >= 0, f"no configuration is known at {index}"
        return self._configurations[position]

    def append(self, index: int, configuration: Configuration) -> None:
        assert index > self._indexes[-1], f"configuration at {index} after {self._indexes[-1]}"
        self._indexes.append(index)
        self._configurations.append(configuration)

    def truncate_from(self, index: int) -> bool:
        """Undo what came at ``index`` or behind it; True if that changed the latest one."""
        assert index > self._indexes[0], f"cannot undo the base of {self._indexes[0]} from {index}"
        position = bisect_right(self._indexes, index - 1)
        undone = position < len(self._indexes)
        del self._indexes[position:]
        del self._configurations[position:]
        return undone

    def compact_to(self, index: int, configuration: Configuration) -> None:
        """A snapshot at ``index`` carries this configuration; what came before is forgotten."""
        position = bisect_right(self._indexes, index)
        self._indexes[:position] = [index]
        self._configurations[:position] = [configuration]

    def reset(self, index: int, configuration: Configuration) -> None:
        """A snapshot replaces the log: what came behind it is forgotten as well."""
        self._indexes[:] = [index]
        self._configurations[:] = [configuration]
