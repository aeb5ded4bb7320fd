"""Replies to forwarded messages that wait for the link back.

Between two nodes each direction comes up by itself, so a message can arrive from a node that is not
reached yet.  Its answer is kept until then; without it the client would wait for its whole
deadline.  Who does not wait for it any more drops it by its epoch.
"""

from __future__ import annotations

from typing import Final

KEPT_BYTES_MAX: Final = 16 << 20  # to all nodes together; above: dropped and counted
KEPT_OVERHEAD_BYTES: Final = 100  # of one reply, beside its body


class KeptReplies:
    """Encoded replies by node, in the order kept."""

    __slots__ = ("_bodies", "_bytes_max", "size_bytes")

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bodies: dict[str, list[bytes]] = {}
        self.size_bytes = 0

    def keep(self, node: str, body: bytes) -> bool:
        """False: there is no room."""
        size_bytes = len(body) + KEPT_OVERHEAD_BYTES
        if self.size_bytes + size_bytes > self._bytes_max:
            return False
        self.size_bytes += size_bytes
        self._bodies.setdefault(node, []).append(body)
        return True

    def take(self, node: str) -> list[bytes]:
        """All that were kept for a node, which is reached now."""
        bodies = self._bodies.pop(node, [])
        self.size_bytes -= sum(map(len, bodies)) + KEPT_OVERHEAD_BYTES * len(bodies)
        return bodies
