"""Bugs of backups, and of groups that are made of them."""

from __future__ import annotations

from typing import Any, Final

from actors import hosting
from actors.backups import GroupBackups
from actors.clients import Pending
from raft.messages import HardState, Replica
from raft.store.files import Files
from raft.store.placement import PlacedGroup
from raft.store.recovery import RecoveredGroup
from tests.sim import slot_groups
from tests.sim.mutants.mutant import Change, Mutant, nothing
from transport.protocol import AdminOperation


def _begins_empty() -> list[Change]:
    def empty(
        files: Files, data: str, me: Replica, group: int, placed: PlacedGroup
    ) -> RecoveredGroup:
        return RecoveredGroup(group, placed.generation, None, HardState(), [], 0)

    return [(slot_groups, "beginning", empty)]


def _holds_what_is_there() -> list[Change]:
    begin = GroupBackups.begin

    def any_index(self: GroupBackups, pending: Pending, admin: AdminOperation) -> Any:
        admin.options.pop("min_index", None)
        begin(self, pending, admin)

    return [(GroupBackups, "begin", any_index)]


MUTANTS: Final[dict[str, Mutant]] = {
    "restored-begins-empty": Mutant(
        "a founder of a restored group begins without what was restored (docs/storage.md)",
        _begins_empty,
    ),
    "restored-mark-forgotten": Mutant(
        "the log of a restored group does not say with what it begins (docs/storage.md)",
        lambda: [(hosting, "save_beginning", nothing)],
    ),
    "backup-of-less": Mutant(
        "a backup holds what a replica has applied, not what was acknowledged (docs/operations.md)",
        _holds_what_is_there,
    ),
}
