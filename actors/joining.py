"""``--join``: how a blank node becomes part of a cluster that it did not found.

It asks the cluster as any client does: *take me in* (Admin ``joinNode``, to the leader of the
catalog), and *who are the nodes*.  From there on it does what every blank node does
(:mod:`actors.formation`): it says who it is, until one of the members answers that it knows this
disk.  Whoever is to join never founds anything, whoever else is blank.

Every step can be done again: a disk that is in the catalog is taken in by finding it there.
"""

from __future__ import annotations

from dataclasses import replace

from actors.catalog import SYSTEM_GROUP
from actors.config import NodeConfig
from actors.node_data import NodeRefused
from transport.client import Client, PolyraftError

JOIN_TIMEOUT_MS = 10_000


def ask_to_join(config: NodeConfig, incarnation: int) -> NodeConfig:
    """``config`` with the nodes of the cluster as its members.  Blocks; raises NodeRefused."""
    assert config.join is not None
    options = {
        "incarnation": str(incarnation),
        "client": config.advertise_client,
        "peer": config.advertise_peer,
        "events": config.advertise_events,
    }
    try:
        with Client(config.join, timeout_ms=JOIN_TIMEOUT_MS) as client:
            client.admin(SYSTEM_GROUP, "joinNode", config.id, options)
            nodes = client.admin(SYSTEM_GROUP, "nodes")["nodes"]
    except PolyraftError as error:
        raise NodeRefused(f"cannot join by {config.join}: {error}") from error
    members = {row["id"]: row["peer"] for row in nodes if row["peer"]}
    return replace(config, members={**members, config.id: config.advertise_peer})
