"""A core and a group actor as production has them, with eyes on every turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.group import GroupActor
from raft import invariants
from raft.core import Core
from raft.messages import (
    STALE,
    Decision,
    Output,
    Read,
    Reconfigure,
    Replica,
    Run,
)
from tests.sim.checkers import GroupChecker, Seen


class WatchedCore(Core):
    """A core whose reads are held against what was committed when they were asked for."""

    checker: GroupChecker
    asked: dict[int, tuple[int, int]]  # token -> what the group had committed
    handed: list[Run]  # in this turn

    def step(self, message: Any, now: int) -> None:
        if type(message) is Read and message.mode != STALE:
            self.asked[message.token] = self.checker.committed_now()
        super().step(message, now)

    def take_output(self) -> Output | None:
        output = super().take_output()
        if output is not None:
            self.handed += output.apply
            for token, index in output.reads:
                committed = self.asked.pop(token, None)
                if committed is not None:
                    self.checker.check_read(self.me.node, index, committed)
        return output


@dataclass(slots=True)
class ChangeMembers:
    """To a group that leads: what a command of an operator will be, one day."""

    voters: frozenset[Replica]
    learners: frozenset[Replica]
    on_decision: Callable[[Decision], None]


class WatchedGroup(GroupActor):
    """A group actor whose every turn is looked at before its effects leave."""

    before: invariants.Snapshot
    seen: Seen
    looks: tuple[object, ...] = ()
    on_turn: Callable[[WatchedGroup, Sequence[object]], None]

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.log_memory.queued_bytes_max = 300
        self._table[ChangeMembers] = self._on_change_members

    def _on_change_members(self, message: ChangeMembers) -> None:
        token = self.admin.expect(message.on_decision)
        self.core.step(Reconfigure(token, message.voters, message.learners), self.now_ms())

    def end_turn(self) -> list[object]:
        effects = super().end_turn()
        self.on_turn(self, effects)
        return effects


def looks_of(core: Core) -> tuple[object, ...]:
    """What of a replica that does not lead its invariants speak of: unchanged, they hold still."""
    return (
        core.role,
        core.term,
        core.vote,
        core.leader,
        core.commit_index,
        core.handed_index,
        core.last_index,
        core.last_term,
        core.durable_index,
        core.first_index,
        core.restoring,
        core.configuration_index,
    )
