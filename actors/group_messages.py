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
class DiskRoom:
    """``refusal``: why no write may be taken, as clients are told; None: there is room again."""

    refusal: str | None


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
class ChunkWaits:
    """Not now: too many are under way (``wait_ms`` is None, the core asks again); or its bytes,
    ``count`` of them, are paid for and may be read after ``wait_ms``."""

    to: Replica
    snapshot: SnapshotMeta
    offset: int
    wait_ms: int | None
    count: int = 0


@dataclass(slots=True)
class ChunkFailed:
    """A received chunk could not be stored, or there is no place for it now: the leader asks again,
    in its own time."""

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


@dataclass(slots=True)
class ReceivedUnchecked:
    """A chunk of ``snapshot`` came, and nobody has looked yet at what is here of it from before a
    restart."""

    snapshot: SnapshotMeta


@dataclass(slots=True)
class ReceivedChecked:
    """Somebody has."""


@dataclass(slots=True)
class MayWrite:
    """It is this group's turn to have a snapshot written."""


@dataclass(slots=True)
class SpareFound:
    """``spare`` is on the disk, from before ``than``; None: none is."""

    than: SnapshotMeta
    spare: SnapshotMeta | None


# --------------------------------------------------------------------------- effects


@dataclass(slots=True)
class SendPeers:
    group: int
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
class PlaceToWrite:
    """-> MayWrite, when it is its turn.  It keeps the place until WriteSnapshot is done, or it
    leaves."""

    group: int


@dataclass(slots=True)
class LeavePlace:
    """There is nothing to write, after all."""

    group: int


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
    """-> ChunkRead | raft.messages.SnapshotLost | ChunkWaits.  Without bytes it is only asked for a
    place; ``is_paid``: it has waited for them."""

    group: int
    to: Replica
    term: int
    snapshot: SnapshotMeta
    offset: int
    bytes_max: int
    is_paid: bool = False


@dataclass(slots=True)
class StoreChunk:
    """-> raft.messages.ChunkStored | SnapshotReceived, when it was the last one | ChunkFailed |
    ReceivedUnchecked"""

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
    """Remove the files of all others, and what is received of one that is of no use any more.
    Nothing comes of it.

    ``useless_to``: up to this index; ``spare_from``: keep one more, if it is not before this index;
    0: none.
    """

    group: int
    snapshots: list[SnapshotMeta]
    useless_to: int = 0
    spare_from: int = 0


@dataclass(slots=True)
class CheckReceived:
    """-> ReceivedChecked"""

    group: int


@dataclass(slots=True)
class FindSpare:
    """-> SpareFound: the newest of ``first`` .. before ``than``"""

    group: int
    than: SnapshotMeta
    first: int


# --------------------------------------------------------------------------- addresses


def actor_name(group: int) -> str:
    return f"group/{group}"


def machine_name(group: int) -> str:
    return f"machine/{group}"
