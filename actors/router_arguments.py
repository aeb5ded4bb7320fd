"""What a router process is told when it is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class RouterArguments:
    """Plain values: handed to a new process.  ``members``: node id -> peer address."""

    node: str
    incarnation: int
    socket_path: str
    client: str
    peer: str
    events: str
    advertise: dict[str, str]  # "client", "peer", "events"
    members: dict[str, str]
    members_hash: bytes
    log_level: str
