"""Unsent: how many bytes of replies libzmq holds for each client that does not read them.

libzmq bounds what waits for a client in messages, never in bytes, and answers to reads can have
megabytes.  So a large reply goes out as a tracked, uncopied frame: libzmq says when it is done
with the buffer, and until then the bytes count.  Small replies are copied and bounded by their
number; so what waits for one client is at most ``CLIENT_HWM * TRACKED_BYTES_MIN`` and
``UNSENT_BYTES_MAX``.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import zmq

TRACKED_BYTES_MIN: Final = 8 << 10  # below, copying is cheaper than tracking
UNSENT_BYTES_MAX: Final = 64 << 20  # of tracked replies to one client; above, they are dropped
CLIENTS_SWEPT_MIN: Final = 256  # so many clients are looked through for those that hold nothing


class Unsent:
    """The tracked replies of all clients.  ``has_room``, then send :meth:`track`'s frame."""

    __slots__ = ("_bytes_max", "_clients", "_sweep_at")

    def __init__(self, bytes_max: int = UNSENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._clients: dict[bytes, _Client] = {}
        self._sweep_at = CLIENTS_SWEPT_MIN

    def __len__(self) -> int:
        return len(self._clients)

    def has_room(self, identity: bytes, size_bytes: int) -> bool:
        """Whether one more reply may wait.  The first always may, whatever its size."""
        client = self._clients.get(identity)
        if client is None:
            return True
        client.settle()
        if not client.frames:
            del self._clients[identity]
            return True
        return client.size_bytes + size_bytes <= self._bytes_max

    def track(self, identity: bytes, body: bytes) -> zmq.Frame:
        """``body`` as the frame to send; it counts until libzmq has let go of it."""
        frame = zmq.Frame(body, track=True, copy=False, copy_threshold=0)
        client = self._clients.get(identity)
        if client is None:
            if len(self._clients) >= self._sweep_at:
                self._sweep()
            client = self._clients[identity] = _Client()
        assert isinstance(frame.tracker, zmq.MessageTracker)
        client.frames.append((frame.tracker, len(body)))
        client.size_bytes += len(body)
        return frame

    def _sweep(self) -> None:
        for client in self._clients.values():
            client.settle()
        self._clients = {key: client for key, client in self._clients.items() if client.frames}
        self._sweep_at = max(CLIENTS_SWEPT_MIN, 2 * len(self._clients))


class _Client:
    """In the order sent, which is the order in which they are done."""

    __slots__ = ("frames", "size_bytes")

    def __init__(self) -> None:
        self.frames: deque[tuple[zmq.MessageTracker, int]] = deque()
        self.size_bytes = 0

    def settle(self) -> None:
        frames = self.frames
        while frames and frames[0][0].done:
            self.size_bytes -= frames.popleft()[1]
