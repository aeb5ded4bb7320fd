"""Monitors: what libzmq tells of connections, counted and told by name.

What may live here: the event stream of one socket.  It is the only way to learn that a handshake
was refused, and the quickest to learn that a connection was reset.

libzmq reports from its I/O thread through a PAIR socket, and *waits* when that is full; so the
limit is high, and the monitor is drained on the loop like any other socket.  An event speaks of
one TCP connection; the socket itself goes on, and reconnects.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

import zmq

from transport.sockets import Context, Socket, SocketWatcher, drain_frames

MONITOR_HWM: Final = 100_000  # events not yet read; beyond, the I/O thread would stand still
EVENTS_PER_TURN_MAX: Final = 256

CONNECTED: Final = "connected"  # TCP alone; the handshake is to come
CONNECT_RETRIED: Final = "connect_retried"
HANDSHAKE_SUCCEEDED: Final = "handshake_succeeded"
HANDSHAKE_FAILED: Final = "handshake_failed"  # no ZMTP, or a connection that ended within it
HANDSHAKE_FAILED_PROTOCOL: Final = "handshake_failed_protocol"
HANDSHAKE_FAILED_AUTH: Final = "handshake_failed_auth"
ACCEPTED: Final = "accepted"
ACCEPT_FAILED: Final = "accept_failed"
DISCONNECTED: Final = "disconnected"
CLOSED: Final = "closed"

EVENT_NAMES: Final[dict[int, str]] = {
    int(zmq.EVENT_CONNECTED): CONNECTED,
    int(zmq.EVENT_CONNECT_RETRIED): CONNECT_RETRIED,
    int(zmq.EVENT_HANDSHAKE_SUCCEEDED): HANDSHAKE_SUCCEEDED,
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): HANDSHAKE_FAILED,
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): HANDSHAKE_FAILED_PROTOCOL,
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): HANDSHAKE_FAILED_AUTH,
    int(zmq.EVENT_ACCEPTED): ACCEPTED,
    int(zmq.EVENT_ACCEPT_FAILED): ACCEPT_FAILED,
    int(zmq.EVENT_DISCONNECTED): DISCONNECTED,
    int(zmq.EVENT_CLOSED): CLOSED,
}
_MASK: Final = sum(EVENT_NAMES)
_EVENT = struct.Struct("=HI")  # event number, value; as libzmq writes it on this machine
_numbers = itertools.count(1)


class SocketMonitor:
    """Events of ``socket`` by name: ``on_event(name, endpoint)``, and ``counts`` of each."""

    def __init__(
        self,
        context: Context,
        socket: Socket,
        loop: asyncio.AbstractEventLoop,
        on_event: Callable[[str, str], None] | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._on_event = on_event
        self._watched: Socket | None = socket
        address = f"inproc://polyraft.monitor.{next(_numbers)}"
        socket.monitor(address, _MASK)
        self._pair: Socket = context.socket(zmq.PAIR)
        self._pair.set(zmq.LINGER, 0)
        self._pair.set(zmq.RCVHWM, MONITOR_HWM)
        self._pair.connect(address)
        self._watcher = SocketWatcher(loop, self._pair, self._on_ready)

    def close(self) -> None:
        """Before the watched socket is closed.  No event is told any more."""
        if self._watched is None:
            return
        self._watcher.close()
        self._watched.monitor(None, 0)
        self._watched = None
        self._pair.close()

    def _on_ready(self) -> bool:
        messages: list[list[bytes]] = []
        more = drain_frames(self._pair, messages.append, EVENTS_PER_TURN_MAX)
        for number_and_value, endpoint in messages:
            number, _value = _EVENT.unpack(number_and_value)
            name = EVENT_NAMES.get(number)
            if name is None:
                continue
            self.counts[name] += 1
            if self._on_event is not None and self._watched is not None:
                self._on_event(name, endpoint.decode(errors="replace"))  # may close this monitor
        return more and self._watched is not None
