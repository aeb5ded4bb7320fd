"""One question to one node over a socket of its own, without retries.

For tools that want to know what *this* node says: a load generator that looks for the leader, a
failover measurement that must not be helped by a client's retries.
"""

from __future__ import annotations

import itertools
import time

import zmq

from transport.client import wire

_numbers = itertools.count(1)


class NoAnswerError(Exception):
    """Nothing came back within the time limit; what happened to the question is unknown."""


class Asker:
    """A DEALER to one address, used by one thread, one question at a time."""

    __slots__ = ("_context", "_socket", "address")

    def __init__(self, address: str) -> None:
        self.address = address
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IPV6, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MESSAGE_BYTES_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        socket.connect(address)
        self._socket = socket

    def ask(
        self, group: str, request: bytes, timeout_ms: int, wait_ms: int | None = None
    ) -> wire.Outcome:
        """The answer within the time limit; NoAnswerError after `wait_ms` (default: the same)."""
        correlation = b"ask-%d" % next(_numbers)
        batch = wire.join_batch([request], timeout_ms)
        deadline = time.monotonic() + (timeout_ms if wait_ms is None else wait_ms) / 1000
        self._socket.send_multipart([correlation, group.encode(), batch])
        while True:
            left_ms = int((deadline - time.monotonic()) * 1000)
            if left_ms <= 0 or not self._socket.poll(left_ms, zmq.POLLIN):
                raise NoAnswerError(f"{self.address} did not answer")
            frames = self._socket.recv_multipart()
            if len(frames) == 2 and frames[0] == correlation:
                return wire.decode_replies(frames[1], 1)[0]

    def close(self) -> None:
        """Forget the node; what is unsent is dropped."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
