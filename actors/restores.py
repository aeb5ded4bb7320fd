"""Groups that begin as something: with a snapshot that was restored from a backup.

    ctl        puts the members of the group into the head of the snapshot, and brings the file to
               each of their nodes                                              (restoreWrite)
    catalog    one entry says that there is a group, and with which snapshot it begins
                                                                                (restoreGroup)
    worker     each of these replicas begins with a log that stands behind that snapshot, wherever
               its file may be: term, base and mark are in the first batch of its log

**Why nobody can begin empty.** How a replica begins follows from the catalog, which is agreed upon,
and not from what was found on its disk. A founder that has not got the file does not begin at all:
a majority of empty founders could otherwise elect a leader that knows nothing of what was restored.
So whatever was prepared where, all founders that vote have the same last entry.

Who becomes a member later, or comes back with another disk or another life, is not among the
members in that snapshot's head. It begins empty, like every newcomer, and is given everything by
the leader.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Final

from actors.beginnings import meta_in
from actors.clients import Pending
from actors.group_messages import StoreUpload, UploadStored
from raft.messages import HardState, Mark, Replica, Save, SnapshotMeta
from raft.store.files import Files
from raft.store.placement import PlacedGroup
from raft.store.recovery import RecoveredGroup
from raft.store.uploads import beginning_of, take
from raft.store.wal import Wal
from transport import protocol
from transport.protocol import AdminOperation

if TYPE_CHECKING:
    from actors.group import GroupActor

STORING_MAX: Final = 8  # chunks on their way to the disk; then BUSY
# Of a chunk: an Admin message has at most 64 KiB, and this goes into it as base64, with the meta.
CHUNK_BYTES: Final = 36_000


# --------------------------------------------------------------------------- the worker's part


def beginning(
    files: Files, data: str, me: Replica, group: int, placed: PlacedGroup
) -> RecoveredGroup | None:
    """What a replica that has no log yet begins as; None: it has to, and cannot.

    ``me``: as a member of the group.
    """
    try:
        meta = beginning_of(placed)
    except ValueError:
        return None
    if meta is None or me not in meta.configuration.voters:
        return RecoveredGroup(group, placed.generation, None, HardState(), [], 0)
    if not take(files, data, group, meta):
        return None
    return RecoveredGroup(
        group,
        placed.generation,
        None,
        HardState(meta.term),
        [],
        0,
        base_index=meta.index,
        base_term=meta.term,
        snapshot=meta,
    )


def missing_text(placed: PlacedGroup) -> str:
    """For the operator, where :func:`beginning` gave None."""
    return (
        f"the snapshot that group {placed.name} begins with is not on this node; "
        "give the same `ctl restore` again, then restart the node"
    )


def save_beginning(wal: Wal, recovered: RecoveredGroup) -> None:
    """Into the batch with the replica's first record, and before anything that it does."""
    snapshot = recovered.snapshot
    if snapshot is not None:
        mark = Mark(snapshot, snapshot.index, snapshot.term, resets=True)
        wal.save(recovered.group, Save(0, recovered.hard_state, mark=mark))


# --------------------------------------------------------------------------- the Admins


class Uploading:
    """Part of the group actor of ``_system``: snapshots come in, chunk by chunk."""

    __slots__ = ("_group", "_storing")

    def __init__(self, group: GroupActor) -> None:
        self._group = group
        self._storing = 0

    def write(self, pending: Pending, admin: AdminOperation) -> None:
        clients = self._group.clients
        meta = described(admin)
        text = admin.options.get("offset", "")
        offset = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
        data = _decoded(admin.options.get("data", ""))
        if meta is None or offset < 0 or not data:
            text = "restoreWrite needs snapshot, offset and data"
            clients.refuse(pending.token, protocol.BAD_REQUEST, text)
        elif self._storing >= STORING_MAX:
            clients.refuse(pending.token, protocol.BUSY, "too much is being restored")
        else:
            clients.admit(pending)
            self._storing += 1
            store = StoreUpload(self._group.group, pending, meta, offset, data)
            self._group.backups.effects.append(store)

    def on_stored(self, message: UploadStored) -> None:
        self._storing -= 1
        clients, pending = self._group.clients, message.key
        if message.error is not None:
            text = message.error
            clients.finish_all([pending], protocol.REJECTED, text, maybe_applied=False)
        elif not pending.answered:
            node = self._group.core.me.node
            clients.finish_json(pending, {"node": node, "held": message.held_bytes})


def described(admin: AdminOperation) -> SnapshotMeta | None:
    """The snapshot that an Admin speaks of."""
    try:
        values = json.loads(admin.options.get("snapshot", ""))
    except (ValueError, RecursionError):
        return None
    return meta_in(values)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
