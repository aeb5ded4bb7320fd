"""What a replica says of itself to people: one map, of what msgpack and JSON can carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.group import GroupActor


def describe(group: GroupActor, applied_index: int, digest: bytes | None) -> dict[str, Any]:
    """``applied_index``, ``digest``: of its machine, at one moment."""
    core = group.core
    now = group.now_ms()
    peers: Mapping[str, Any] = {
        peer.replica.node: {
            "match": peer.match,
            "lag": core.last_index - peer.match,
            "active_ms_ago": now - peer.active_ms,
        }
        for peer in core.progress()
    }
    configuration = core.configuration
    return {
        **group.summary(),
        "id": group.group,
        "group": group.group_name,
        "machine": group.machine_kind,
        "members": [
            [each.node, each.incarnation, configuration.votes(each)]
            for each in configuration.members
        ],
        "commit_index": core.commit_index,
        "applied_index": applied_index,
        "first_index": core.first_index,
        "last_index": core.last_index,
        "last_term": core.log.term_at(core.last_index),
        "snapshot_index": group.snapshots.index,
        "peers": peers,
        "digest": None if digest is None else digest.hex(),
        "counts": {
            **group.counts,
            "snapshots": dict(group.snapshots.counts),
            "rebuilds": dict(group.rebuild.counts),
        },
    }
