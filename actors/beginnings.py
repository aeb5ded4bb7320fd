"""What a group can begin as, in the words of the catalog: see :mod:`actors.restores`.

Pure, and total: the catalog asks on all nodes alike, whatever the bytes.
"""

from __future__ import annotations

from typing import Any

from raft.messages import SnapshotMeta
from raft.store.backup_file import meta_of


def meta_in(values: Any) -> SnapshotMeta | None:
    """What a group is to begin with; None: it describes no snapshot with plain voters."""
    try:
        meta = meta_of(values)
    except ValueError:
        return None
    configuration = meta.configuration
    plain = not (configuration.is_joint or configuration.learners)
    return meta if plain else None


def members_in(values: Any) -> list[list[Any]]:
    """The members in it, as the catalog lists them; none where it describes no snapshot."""
    meta = meta_in(values)
    if meta is None:
        return []
    return [[each.node, each.incarnation] for each in sorted(meta.configuration.voters)]
