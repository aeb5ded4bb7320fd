"""What a group actor is told, and the effects that only its process can carry out.

Messages are what has arrived, effects are what is to be done; both are plain records.  The messages
between a group and its machine are in :mod:`actors.machine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actors.machines import View
from raft.configuration import Configuration
from raft.messages import PeerMessage, Replica, Save, SnapshotMeta

# Admin commands to come; until then they are refused by name.
LATER_ADMINS = frozenset(("deleteGroup",))


# --------------------------------------------------------------------------- messages


@dataclass(slots=True)
class Requests:
    """Client messages: flat ``[token, remaining ms, rights, RequestBatch bytes, ...]``."""

    items: list[Any]


@dataclass(slots=True)
class PeerMessages:
    messages: list[PeerMessage]


@dataclass(slots=True)
class Drain:
    """The node is stopping: accept nothing more, answer what is under way."""


@dataclass(slots=True)
class DescribeGroup:
    """Say everything that ``metadata`` shows; ``key`` comes back with it."""

    key: Any


@dataclass(slots=True)
class SnapshotWritten:
    """Durable: file, name and directory.  ``elapsed_ms``: how long it took to write."""

    meta: SnapshotMeta
    elapsed_ms: int


@dataclass(slots=True)
class SnapshotFailed:
    """It could not be written; nothing is left of it."""

    error: str


@dataclass(slots=True)
class ChunkRead:
    """To be sent, if the leadership of ``term`` still stands."""

    to: Replica
    term: int
    snapshot: SnapshotMeta
    offset: int
    data: bytes


@dataclass(slots=True)
class BackupChunk:
    """Bytes of a snapshot for who backs it up; ``key`` says for whom. Or why there are none."""

    key: Any
    snapshot: SnapshotMeta
    offset: int
    data: bytes
    error: str | None = None


@dataclass(slots=True)
class UploadStored:
    """So much is held of a snapshot that is brought here for a group to come; or why it is not."""

    key: Any
    held_bytes: int
    error: str | None = None


@dataclass(slots=True)
class ChunkFailed:
    """A received chunk could not be stored: the leader sends it again, in its own time."""

    snapshot: SnapshotMeta


@dataclass(slots=True, frozen=True)
class DesiredMembers:
    """What the catalog wants the group's members to be, since its entry ``version``: disks, of
    which any life will do (:mod:`raft.lives`)."""

    version: int
    voters: frozenset[Replica]
    learners: frozenset[Replica]


@dataclass(slots=True)
class CatalogAnswered:
    """What came of an AskCatalog: a code of replies, its reason, and the answer in JSON."""

    token: int
    code: int
    text: str
    data: bytes


# --------------------------------------------------------------------------- effects


@dataclass(slots=True)
class SendPeers:
    messages: list[PeerMessage]


@dataclass(slots=True)
class SaveLog:
    group: int
    save: Save


@dataclass(slots=True)
class Replies:
    """Flat ``[token, ReplyBatch bytes, ...]``."""

    items: list[Any]


@dataclass(slots=True)
class HandBacks:
    """Flat ``[token, leader's node or None, term, reason, ...]`` of messages not accepted."""

    items: list[Any]


@dataclass(slots=True)
class RoleChanged:
    group: int
    summary: dict[str, Any]


@dataclass(slots=True)
class GroupDescribed:
    key: Any
    group: int
    description: dict[str, Any]


@dataclass(slots=True)
class AskCatalog:
    """An Admin for the group ``_system``, wherever it is led.  -> CatalogAnswered, or nothing, when
    a process on the way is lost: whoever waits asks again, so what is asked must be idempotent."""

    group: int
    token: int
    command: str
    value: str
    options: dict[str, str]


@dataclass(slots=True)
class ReplicaRetired:
    """It cannot go on, in this life of its process; the others of the process can.

    ``state``: "damaged" or "down", as shown.  Its machine is to be ended, and what clients have
    asked for is unknown.
    """

    group: int
    state: str
    reason: str


# Effects that block.  The process carries them out beside its loop (actors/snapshot_files.py); what
# comes of one is told to the group actor by control.


@dataclass(slots=True)
class WriteSnapshot:
    """-> SnapshotWritten | SnapshotFailed"""

    group: int
    index: int
    term: int
    configuration: Configuration
    time_ms: int
    machine_version: int
    view: View


@dataclass(slots=True)
class ReadChunk:
    """-> ChunkRead | raft.messages.SnapshotLost"""

    group: int
    to: Replica
    term: int
    snapshot: SnapshotMeta
    offset: int
    bytes_max: int


@dataclass(slots=True)
class StoreChunk:
    """-> raft.messages.ChunkStored | SnapshotReceived, when it was the last one | ChunkFailed"""

    group: int
    snapshot: SnapshotMeta
    offset: int
    data: bytes


@dataclass(slots=True)
class ReadBackup:
    """-> BackupChunk"""

    group: int
    key: Any
    snapshot: SnapshotMeta
    offset: int
    bytes_max: int


@dataclass(slots=True)
class StoreUpload:
    """-> UploadStored"""

    group: int
    key: Any
    snapshot: SnapshotMeta
    offset: int
    data: bytes


@dataclass(slots=True)
class KeepSnapshots:
    """Remove the files of all others.  Nothing comes of it."""

    group: int
    snapshots: list[SnapshotMeta]


# --------------------------------------------------------------------------- addresses


def actor_name(group: int) -> str:
    return f"group/{group}"


def machine_name(group: int) -> str:
    return f"machine/{group}"
