"""Replies to forwarded messages that wait for the link back, or may have been lost with it.

Between two nodes each direction comes up by itself, so a message can arrive from a node that is not
reached yet.  Its answer is kept until then; without it the client would wait for its whole
deadline.  Who does not wait for it any more drops it by its epoch.

What was sent is in the hands of libzmq and the kernel, and goes with the connection when that is
given up.  Nobody can say which replies those were, so who waits for some is told that they may be
gone: a write's outcome is unknown then, at once and not at its deadline.
"""

from __future__ import annotations

from typing import Final

KEPT_BYTES_MAX: Final = 16 << 20  # to all nodes together; above: dropped and counted
KEPT_OVERHEAD_BYTES: Final = 100  # of one reply, beside its body
AT_RISK_MS: Final = 10_000  # what was sent longer ago has arrived, or the connection had been lost


class KeptReplies:
    """Encoded replies by node, in the order kept; and when the last one was sent."""

    __slots__ = ("_bodies", "_bytes_max", "_sent_ms", "_untold", "size_bytes")

    def __init__(self, bytes_max: int = KEPT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bodies: dict[str, list[bytes]] = {}
        self._sent_ms: dict[str, int] = {}
        self._untold: set[str] = set()
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

    # ------------------------------------------------------------------ sent

    def note_sent(self, node: str, now_ms: int) -> None:
        self._sent_ms[node] = now_ms

    def note_lost(self, node: str, now_ms: int) -> None:
        """Its connection is gone; nothing with it if nothing was sent for long."""
        sent_ms = self._sent_ms.get(node)
        if sent_ms is not None and now_ms - sent_ms < AT_RISK_MS:
            self._untold.add(node)

    def is_to_be_told(self, node: str) -> bool:
        """It may be waiting for replies that are gone."""
        return node in self._untold

    def note_told(self, node: str) -> None:
        """By a message that may get lost like them: who loses that connection says so again."""
        self._untold.discard(node)
