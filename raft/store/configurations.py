"""The stored form of a configuration: a msgpack list of ``[node, incarnation, part]``, sorted.

The same list stands in CONFIG runs, in the WAL's marks and in the heads of snapshot files.  New
fields go to the end of each member and are left to who knows them; a new *part* is refused by who
does not (see :mod:`raft.configuration`).
"""

from __future__ import annotations

from typing import Any

from raft.configuration import Configuration
from raft.messages import Replica

MEMBER_FIELDS = 3


def configuration_fields(configuration: Configuration) -> list[list[Any]]:
    """What msgpack is to pack; equal configurations give equal lists."""
    return [[replica.node, replica.incarnation, part] for replica, part in configuration.parts()]


def configuration_of(fields: Any) -> Configuration:
    """The configuration in what msgpack has unpacked.

    Raises UnknownPart (a newer version's), ValueError on anything else that can be none.
    """
    if type(fields) is not list:
        raise ValueError("a configuration is no list of members")
    return Configuration.from_parts([_member(member) for member in fields])


def _member(member: Any) -> tuple[Replica, int]:
    if type(member) is not list or len(member) < MEMBER_FIELDS:
        raise ValueError("a member of a configuration is no list of three fields")
    node, incarnation, part = member[:MEMBER_FIELDS]
    if type(node) is not str or type(incarnation) is not int or incarnation < 0:
        raise ValueError(f"{node!r}, {incarnation!r} where a replica belongs")
    if type(part) is not int:
        raise ValueError(f"{part!r} where the part of a replica belongs")
    return Replica(node, incarnation), part
