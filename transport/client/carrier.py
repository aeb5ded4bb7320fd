"""Runs an engine over real sockets on an asyncio loop.

One DEALER per link, each with a monitor, all watched through `add_reader` on their descriptors.
What to know about those descriptors: they are edge-triggered and shared by reading and sending, so
a send can swallow the edge of an arriving message. Therefore whoever was woken drains until there
is nothing left or the budget is used (then it comes back by itself), and after sends the socket is
asked once whether something has arrived.

A DEALER reconnects by itself and would send what it had kept to whomever it finds. Neither is
wanted here: the engine must know what was lost. So sockets refuse to send while unconnected
(IMMEDIATE), and the first sign of a lost connection ends the socket; the engine opens another.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import zmq
from zmq.backend import Socket as BaseSocket
from zmq.utils.monitor import parse_monitor_message

from transport.client import wire
from transport.client.calls import Call, ClientSettings
from transport.client.engine import Engine

# Messages taken from one socket before the loop gets its turn.
DRAIN_MAX = 512
# Frames of one reply that are kept; a reply has two, and more make it nobody's.
FRAMES_MAX = 3
# A node whose host froze is noticed after this, since nothing closes its connections.
HEARTBEAT_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 3_000
HANDSHAKE_MS = 3_000

_SNDMORE_NOBLOCK = int(zmq.SNDMORE) | int(zmq.NOBLOCK)
_NOBLOCK = int(zmq.NOBLOCK)
_POLLIN = int(zmq.POLLIN)
_EVENTS = int(zmq.EVENTS)

_UP_EVENTS = frozenset((int(zmq.EVENT_HANDSHAKE_SUCCEEDED),))
_DOWN_EVENTS = {
    int(zmq.EVENT_DISCONNECTED): "connection lost",
    int(zmq.EVENT_CLOSED): "connection refused",
    int(zmq.EVENT_CONNECT_RETRIED): "connection refused",
    int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL): "handshake failed",
    int(zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL): "handshake failed: not ZeroMQ",
    int(zmq.EVENT_HANDSHAKE_FAILED_AUTH): "handshake failed: key refused",
}
_MONITORED = sum((*_UP_EVENTS, *_DOWN_EVENTS))

_ZMQSocket = zmq.Socket[bytes]


def now_ms() -> int:
    """Monotonic milliseconds."""
    return time.monotonic_ns() // 1_000_000


class Dealer:
    """The socket and monitor of one link."""

    __slots__ = ("fd", "monitor", "monitor_fd", "number", "receive", "send", "socket")

    def __init__(self, number: int, context: zmq.Context[_ZMQSocket]) -> None:
        self.number = number
        socket = context.socket(zmq.DEALER)
        options = (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),
            (zmq.IPV6, 1),
            (zmq.MAXMSGSIZE, wire.MESSAGE_BYTES_MAX),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS),
            (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        )
        for option, value in options:
            socket.setsockopt(option, value)
        self.socket = socket
        self.monitor = socket.get_monitor_socket(_MONITORED)
        self.fd = int(socket.getsockopt(zmq.FD))
        self.monitor_fd = int(self.monitor.getsockopt(zmq.FD))
        # Base-class methods with plain integers: the convenience layer costs more than libzmq.
        self.send = BaseSocket.send.__get__(socket)
        self.receive: Callable[..., Any] = BaseSocket.recv.__get__(socket)

    def close(self) -> None:
        """Drop the connection and everything unsent."""
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)


class Carrier:
    """One engine, its sockets and its timer on one loop; used from that loop's thread alone."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, addresses: list[str], settings: ClientSettings
    ) -> None:
        self._loop = loop
        self._engine = Engine(addresses, settings, random.Random())
        self._context: zmq.Context[_ZMQSocket] = zmq.Context()
        self._dealers: dict[int, Dealer] = {}
        self._flush_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ms = 0

    def submit(self, call: Call) -> None:
        """Take a call; all calls of this turn of the loop are sent together."""
        self._engine.submit(call)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """End everything; calls that are not answered fail now."""
        if self._engine.closed:
            return
        self._engine.close()
        self._carry_out()
        if self._timer is not None:
            self._timer.cancel()
        self._context.term()

    def statistics(self) -> dict[str, int]:
        """Counts of the engine."""
        return self._engine.statistics()

    def _flush(self) -> None:
        self._flush_due = False
        if not self._engine.closed:
            self._engine.flush(now_ms())
            self._carry_out()

    def _on_timer(self) -> None:
        self._timer = None
        self._engine.on_time(now_ms())
        self._carry_out()

    # -- carrying out ----------------------------------------------------------------------------

    def _carry_out(self) -> None:
        """Do what the engine wants until it wants nothing more, then set the timer."""
        engine = self._engine
        while True:
            output = engine.take_output()
            for number in output.closes:
                self._close(number)
            for number, address in output.opens:
                self._open(number, address)
            if output.sends:
                self._send_all(output.sends)
            for call, verdict in output.done:
                call.on_done(verdict)
            if not (output.closes or output.opens or output.sends or output.done):
                break
        self._set_timer()

    def _open(self, number: int, address: str) -> None:
        dealer = Dealer(number, self._context)
        self._dealers[number] = dealer
        self._loop.add_reader(dealer.fd, self._drain, dealer)
        self._loop.add_reader(dealer.monitor_fd, self._drain_monitor, dealer)
        try:
            dealer.socket.connect(address)
        except zmq.ZMQError as error:
            self._engine.on_link_down(number, f"cannot connect: {error.strerror}", now_ms())
            return
        # Its first events may precede the reader.
        self._loop.call_soon(self._drain_monitor, dealer)

    def _close(self, number: int) -> None:
        dealer = self._dealers.pop(number, None)
        if dealer is not None:
            self._loop.remove_reader(dealer.fd)
            self._loop.remove_reader(dealer.monitor_fd)
            dealer.close()

    def _send_all(self, sends: list[tuple[int, bytes, bytes, bytes]]) -> None:
        used: dict[int, Dealer] = {}
        for number, correlation, group, batch in sends:
            dealer = self._dealers.get(number)
            if dealer is None:
                self._engine.on_send_refused(number, correlation, now_ms())
                continue
            try:
                dealer.send(correlation, _SNDMORE_NOBLOCK)
                dealer.send(group, _SNDMORE_NOBLOCK)
                dealer.send(batch, _NOBLOCK)
            except zmq.Again:
                self._engine.on_send_refused(number, correlation, now_ms())
                continue
            used[number] = dealer
        for dealer in used.values():
            if int(dealer.socket.getsockopt(_EVENTS)) & _POLLIN:
                self._loop.call_soon(self._drain, dealer)

    def _set_timer(self) -> None:
        """One timer, moved only to earlier: one that fires too early looks and is set again."""
        if self._engine.closed:
            return
        now = now_ms()
        deadline_ms = self._engine.next_deadline_ms(now)
        if deadline_ms is None:
            return
        if self._timer is not None:
            if self._timer_ms <= deadline_ms:
                return
            self._timer.cancel()
        self._timer_ms = deadline_ms
        # One more, since the loop rounds: never a moment before the deadline.
        delay_s = (max(deadline_ms - now, 0) + 1) / 1000
        self._timer = self._loop.call_later(delay_s, self._on_timer)

    # -- what comes in ---------------------------------------------------------------------------

    def _drain(self, dealer: Dealer) -> None:
        engine = self._engine
        receive = dealer.receive
        for _ in range(DRAIN_MAX):
            if dealer.number not in self._dealers:
                return
            try:
                frame = receive(_NOBLOCK, False)
            except zmq.Again:
                break
            frames = [frame.bytes]
            while frame.more:
                frame = receive(_NOBLOCK, False)
                if len(frames) < FRAMES_MAX:
                    frames.append(frame.bytes)
            engine.on_message(dealer.number, frames, now_ms())
        else:
            self._loop.call_soon(self._drain, dealer)
        engine.flush(now_ms())
        self._carry_out()

    def _drain_monitor(self, dealer: Dealer) -> None:
        while dealer.number in self._dealers:
            try:
                frames = dealer.monitor.recv_multipart(_NOBLOCK)
            except zmq.Again:
                break
            event = int(parse_monitor_message(frames)["event"])
            if event in _UP_EVENTS:
                self._engine.on_link_up(dealer.number, now_ms())
            elif event in _DOWN_EVENTS:
                # What was answered before the connection went is still there to be read.
                self._drain(dealer)
                self._engine.on_link_down(dealer.number, _DOWN_EVENTS[event], now_ms())
            self._carry_out()
