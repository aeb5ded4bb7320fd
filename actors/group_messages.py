"""What a group actor is told, and the effects that only its process can carry out.

Messages are what has arrived, effects are what is to be done; both are plain records.  The messages
between a group and its machine are in :mod:`actors.machine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raft.messages import PeerMessage, Save

# Admin commands to come; until then they are refused by name.
LATER_ADMINS = frozenset(
    (
        "deleteGroup",
        "transferLeader",
        "changePeers",
        "removePeer",
        "removePeers",
        "resetPeers",
        "addLearner",
        "doSnapshot",
    )
)


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


# --------------------------------------------------------------------------- addresses


def actor_name(group: int) -> str:
    return f"group/{group}"


def machine_name(group: int) -> str:
    return f"machine/{group}"
