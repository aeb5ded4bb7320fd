"""Bugs of how a node leaves a group, and comes back to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from actors import group_admin, group_members
from actors.clients import Pending
from actors.group_members import GroupMembers
from actors.local_groups import LocalGroups
from actors.runtime import Scheduler
from raft.store.placement import LEFT, PlacedGroup, Placement
from raft.store.wal import Wal
from tests.sim import slot_groups
from tests.sim.mutants.mutant import Change, Mutant, nothing
from transport import protocol
from transport.protocol import AdminOperation


def _leaves_unasked() -> list[Change]:
    ask = LocalGroups._ask

    async def sure(
        self: LocalGroups, command: str, placed: PlacedGroup, attempt: int
    ) -> tuple[int, str, bytes]:
        if command == "mayLeave":
            return protocol.OK, "", b"{}"
        return await ask(self, command, placed, attempt)

    return [(LocalGroups, "_ask", sure)]


def _may_leave_what_is_not_wanted() -> list[Change]:
    def may_leave(self: GroupMembers, pending: Pending, admin: AdminOperation) -> None:
        disk, _ = self._read_replica(admin)
        desired = self._desired
        if disk is None or desired is None or self.desires(disk):
            self._refuse(pending, protocol.REJECTED, "it is wanted")
        else:
            self._answer_at_once(pending, {})

    commands = {**group_members.COMMANDS, "mayLeave": may_leave}
    return [(group_admin, "MEMBER_COMMANDS", commands)]


def _told_before_it_is_written() -> list[Change]:
    write = Placement.replace

    def later(self: Placement, groups: Mapping[int, PlacedGroup]) -> None:
        known = self.groups
        leaves = [
            group for group, each in groups.items() if LEFT in each.options and group in known
        ]
        if any(LEFT not in known[group].options for group in leaves):
            self._groups = dict(groups)
        else:
            write(self, groups)

    return [(Placement, "replace", later)]


def _comes_back_as_itself() -> list[Change]:
    place = LocalGroups._place

    def same(self: LocalGroups, placed: Any, group: Any, known: PlacedGroup | None) -> PlacedGroup:
        found = place(self, placed, group, known)
        return found if known is None else replace(found, life=known.life)

    return [(LocalGroups, "_place", same)]


MUTANTS: Final[dict[str, Mutant]] = {
    "leaves-unasked": Mutant(
        "who is not wanted any more leaves while it is a member (thesis 4.2.2)", _leaves_unasked
    ),
    "left-before-removed": Mutant(
        "a leader takes what is wanted for what is, and one whose vote counts is gone "
        "(thesis 4.2.2)",
        _may_leave_what_is_not_wanted,
    ),
    "left-before-written": Mutant(
        "the log lets go of a group before the placement says so (pitfall 20)",
        _told_before_it_is_written,
    ),
    "left-goes-on": Mutant(
        "a replica that was left goes on (pitfall 20)",
        lambda: [(Scheduler, "stop_actor", nothing)],
    ),
    "left-comes-back-as-itself": Mutant(
        "who comes back to a group does so as who it was, with a blank log (pitfall 20)",
        _comes_back_as_itself,
    ),
    "left-log-stays": Mutant(
        "the log keeps what it has of a group that was left (docs/storage.md)",
        lambda: [(Wal, "forget_group", nothing)],
    ),
    "left-files-stay": Mutant(
        "the snapshots of a group that was left stay (docs/storage.md)",
        lambda: [(slot_groups, "forget_snapshots", nothing)],
    ),
    "lost-newcomer-waits": Mutant(
        "who loses its log before it is a member never becomes one (docs/storage.md)",
        lambda: [(GroupMembers, "desires", lambda self, disk: False)],
    ),
}
