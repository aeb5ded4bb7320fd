"""What a replica says about itself when asked: immutable records, made on demand."""

from __future__ import annotations

from dataclasses import dataclass

from raft.configuration import Configuration
from raft.messages import Replica
from raft.progress import STATE_NAMES, Progress
from raft.roles import ROLE_NAMES


@dataclass(slots=True, frozen=True)
class PeerStatus:
    """One peer in the eyes of its leader."""

    replica: Replica
    votes: bool
    state: int
    match: int
    next: int
    inflight_count: int
    inflight_bytes: int
    departs: bool  # it is no member any more, and is told so
    active_ms: int  # when it was last heard of, on the core's clock
    wants_snapshot: bool = False  # its machine is lost

    @classmethod
    def of(cls, progress: Progress) -> PeerStatus:
        return cls(
            replica=progress.replica,
            votes=progress.votes,
            state=progress.state,
            match=progress.match,
            next=progress.next,
            inflight_count=progress.window.count,
            inflight_bytes=progress.window.bytes,
            departs=progress.departs_ms is not None,
            active_ms=progress.active_ms,
            wants_snapshot=progress.wants_index > 0,
        )

    @property
    def state_name(self) -> str:
        return STATE_NAMES[self.state]


@dataclass(slots=True, frozen=True)
class Status:
    """One replica in its own eyes."""

    me: Replica
    role: int
    term: int
    vote: Replica | None
    leader: Replica | None
    can_serve: bool
    first_index: int
    last_index: int
    last_term: int
    durable_index: int
    commit_index: int
    handed_index: int  # the last entry handed out to be applied
    uncommitted_bytes: int
    held_count: int  # messages that wait for the disk
    reads_pending_count: int
    ignored: dict[str, int]  # messages that were not processed, by reason
    peers: tuple[PeerStatus, ...]
    configuration: Configuration
    configuration_index: int
    snapshot_index: int  # of the newest snapshot; 0: none

    @property
    def role_name(self) -> str:
        return ROLE_NAMES[self.role]
