"""A blank disk that is to be a node of this cluster: what the members do for it.

It says who it is wherever it gets through (HELLO), again and again.  Who hears it, and knows from
the catalog that a new disk is awaited under this name, has the catalog take it in
(:func:`actors.catalog_members.admit_node`); the next HELLO tells it so.  Several members may do so
at once: the first entry counts, and the others find it there.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from actors.catalog import SYSTEM_GROUP
from actors.known_nodes import KnownNodes
from transport import protocol

log = logging.getLogger("polyraft.node")

ADMIT_TIMEOUT_MS: Final = 3_000

Ask = Callable[[str, bytes], Awaitable[tuple[int, str, bytes]]]


class Admission:
    """``ask``: a request to a group; ``spawn``: have it carried out."""

    def __init__(self, nodes: KnownNodes, ask: Ask, spawn: Callable[[Any], None]) -> None:
        self._nodes = nodes
        self._ask = ask
        self._spawn = spawn
        self._under_way: set[int] = set()  # incarnations

    def on_candidate(self, frame: list[Any]) -> None:
        """CANDIDATE: it calls itself by the name of one of our nodes."""
        node, incarnation, addresses = frame[3:6]
        row = self._nodes.rows.get(node)
        if row is not None and row["awaits"] and incarnation not in self._under_way:
            self._under_way.add(incarnation)
            self._spawn(self._admit(node, incarnation, addresses))

    async def _admit(self, node: str, incarnation: int, addresses: dict[str, str]) -> None:
        """Once: it goes on saying who it is."""
        log.info("%s has a new disk, which takes the place of the old one", node)
        options = {"incarnation": str(incarnation), **addresses}
        batch = protocol.encode_admin("admitNode", node, options, ADMIT_TIMEOUT_MS)
        code, text, _ = await self._ask(SYSTEM_GROUP, batch)
        self._under_way.discard(incarnation)
        if code != protocol.OK:
            log.warning("the new disk of %s is not taken in: %s", node, text)
