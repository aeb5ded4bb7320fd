"""What a worker process is told when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from actors.settings import DiskSettings, SnapshotSettings
from raft.settings import RaftSettings


@dataclass(slots=True, frozen=True)
class WorkerArguments:
    """Plain values: handed to a new process."""

    slot: int
    data: str
    node: str
    incarnation: int
    router_socket: str
    client_address: str
    raft: RaftSettings
    sync: bool
    log_level: str
    snapshots: SnapshotSettings = field(default_factory=SnapshotSettings)
    disk: DiskSettings = field(default_factory=DiskSettings)
    machines: frozenset[str] = frozenset()  # kinds that this node's own configuration names
