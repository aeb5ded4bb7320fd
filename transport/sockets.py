"""Sockets: every option set on purpose, drained without waste, watched without losing an edge.

What may live here: ZeroMQ sockets as such.  Who is behind them, and what the frames mean, is for
others; :mod:`transport.peers` builds links on top, the router builds the client socket.

Rules, each with a test:

* Sends and receives never block.  A ROUTER is MANDATORY, so that a reply to a client that has
  gone (EHOSTUNREACH) or that does not read (EAGAIN) is known and counted instead of vanishing.
  HANDOVER stays off and nobody sets a routing id: a claimed id would take over somebody else's
  replies.
* A DEALER is IMMEDIATE: without a connection a send is refused, not queued for nobody.
* LINGER is 0, otherwise ending the context waits for ever for a peer that is away.
* The descriptor of a socket tells only of *changes*, of both directions at once, and a send can
  eat the change that announced a message.  So a reader drains until EAGAIN, or calls itself again
  when its budget is used up; and who has sent on a socket looks once more whether something can
  be read.
* A message may have any number of frames.  All are taken (there is no other way to the next
  message), few are kept.

Speed: in pyzmq the cost of a message is Python, not libzmq.  Methods of the base class, plain
integer flags, the identity by a copying ``recv`` and the rest as frames that know whether more
follow: 0.6 times the cost of ``recv_multipart``, and a third of its cost when sending.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import Callable
from types import MethodType
from typing import Any, Final

import zmq
import zmq.backend

from transport.addresses import TcpAddress, parse_tcp
from transport.frames import MESSAGE_BYTES_MAX
from transport.unsent import TRACKED_BYTES_MIN, Unsent

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

FRAMES_KEPT_MAX: Final = 6  # of a message, after the identity; 5 can never be well-formed
DRAIN_MESSAGES_MAX: Final = 512  # in one go; then the loop serves the others first
DRAIN_BYTES_MAX: Final = 16 << 20  # likewise

CLIENT_HWM: Final = 10_000  # messages per client and direction; above, its replies are dropped
PEER_HWM: Final = 1_000  # control lane: small messages
BULK_HWM: Final = 64  # bulk lane: up to megabytes each; more wait in a queue that counts bytes
EVENTS_HWM: Final = 1_000  # per subscriber; above, it sees a gap in the sequence numbers
SOCKETS_MAX: Final = 4_096  # of a context: two and two monitors per peer
BACKLOG: Final = 1_024

BIND_WAIT_MS: Final = 5_000  # for a port that a dying process still holds
BIND_RETRY_MS: Final = 50

_COMMON: Final[dict[int, int]] = {
    zmq.LINGER: 0,
    zmq.MAXMSGSIZE: MESSAGE_BYTES_MAX,
    zmq.IPV6: 1,
    zmq.HANDSHAKE_IVL: 3_000,
    zmq.TCP_KEEPALIVE: 1,
    zmq.TCP_KEEPALIVE_IDLE: 10,
    zmq.TCP_KEEPALIVE_INTVL: 5,
    zmq.TCP_KEEPALIVE_CNT: 3,
    zmq.BACKLOG: BACKLOG,
}
_BETWEEN_PEERS: Final[dict[int, int]] = {zmq.HEARTBEAT_IVL: 500, zmq.HEARTBEAT_TIMEOUT: 1_500}
_WITH_CLIENTS: Final[dict[int, int]] = {zmq.HEARTBEAT_IVL: 5_000, zmq.HEARTBEAT_TIMEOUT: 15_000}
_RECONNECT: Final[dict[int, int]] = {
    zmq.RECONNECT_IVL: 50,
    zmq.RECONNECT_IVL_MAX: 1_000,
    zmq.CONNECT_TIMEOUT: 2_000,
}
_ROUTER: Final[dict[int, int]] = {zmq.ROUTER_MANDATORY: 1, zmq.ROUTER_HANDOVER: 0}

_NOBLOCK: Final = int(zmq.NOBLOCK)
_NOBLOCK_MORE: Final = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)
_POLLOUT: Final = int(zmq.POLLOUT)
_EAGAIN: Final = errno.EAGAIN
_EHOSTUNREACH: Final = errno.EHOSTUNREACH


class AddressInUse(OSError):
    """Another process has held the port for all of BIND_WAIT_MS."""


class BindRefused(OSError):
    """The address cannot be bound on this machine."""


# ---------------------------------------------------------------------------------------- factories


def make_context() -> Context:
    """Only in the process that uses it, after any fork."""
    context: Context = zmq.Context(io_threads=1)
    context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
    context.linger = 0
    return context


def client_router(context: Context) -> Socket:
    return _make(context, zmq.ROUTER, CLIENT_HWM, _WITH_CLIENTS, _ROUTER)


def peer_router(context: Context) -> Socket:
    return _make(context, zmq.ROUTER, PEER_HWM, _BETWEEN_PEERS, _ROUTER)


def peer_dealer(context: Context, hwm: int = PEER_HWM) -> Socket:
    return _make(context, zmq.DEALER, hwm, _BETWEEN_PEERS, _RECONNECT, {zmq.IMMEDIATE: 1})


def events_pub(context: Context) -> Socket:
    return _make(context, zmq.PUB, EVENTS_HWM, _WITH_CLIENTS)


def _make(context: Context, kind: int, hwm: int, *options: dict[int, int]) -> Socket:
    socket = context.socket(kind)
    tables: tuple[dict[int, int], ...] = ({zmq.SNDHWM: hwm, zmq.RCVHWM: hwm}, _COMMON, *options)
    for table in tables:
        for option, value in table.items():
            socket.set(option, value)
    return socket


async def bind(socket: Socket, address: str, *, wait_ms: int = BIND_WAIT_MS) -> str:
    """Bind, trying again while the port is in use; the address as bound, its port a number."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_ms / 1_000
    while True:
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            if error.errno != errno.EADDRINUSE:
                raise BindRefused(error.errno, f"cannot bind {address}: {error}") from None
            if loop.time() >= deadline:
                raise AddressInUse(error.errno, f"{address} is in use by another process") from None
            await asyncio.sleep(BIND_RETRY_MS / 1_000)
        else:
            return bound_address(socket)


def bound_address(socket: Socket) -> str:
    """Where the socket listens.  With IPV6 on, libzmq writes IPv4 as ``::ffff:1.2.3.4``."""
    endpoint = socket.get(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    host, port = parse_tcp(endpoint.rstrip(b"\0").decode())
    mapped = ipaddress.IPv6Address(host).ipv4_mapped if ":" in host else None
    return str(TcpAddress(str(mapped) if mapped else host, port))


# ---------------------------------------------------------------------------------------- receiving


def drain(
    socket: Socket,
    on_message: Callable[[bytes, list[bytes]], None],
    budget: int = DRAIN_MESSAGES_MAX,
) -> bool:
    """Take messages of a ROUTER: ``on_message(identity, frames)``.  True: more may be waiting.

    ``frames`` has at least one and at most FRAMES_KEPT_MAX items; what a longer message had beyond
    that is gone, and its length alone shows that it is malformed.
    """
    receive = socket.recv
    bytes_left = DRAIN_BYTES_MAX
    while budget > 0 and bytes_left > 0:
        try:
            identity = receive(_NOBLOCK)
        except zmq.Again:
            return False
        frame: Any = receive(_NOBLOCK, False)
        data = frame.bytes
        bytes_left -= len(data)
        frames = [data]
        while frame.more:
            frame = receive(_NOBLOCK, False)
            if len(frames) < FRAMES_KEPT_MAX:
                data = frame.bytes
                bytes_left -= len(data)
                frames.append(data)
        budget -= 1
        on_message(identity, frames)
    return True


def drain_frames(
    socket: Socket,
    on_message: Callable[[list[bytes]], None],
    budget: int = DRAIN_MESSAGES_MAX,
) -> bool:
    """The same for sockets that have no identities: DEALER, PAIR, SUB."""
    receive = socket.recv
    bytes_left = DRAIN_BYTES_MAX
    while budget > 0 and bytes_left > 0:
        try:
            frame: Any = receive(_NOBLOCK, False)
        except zmq.Again:
            return False
        data = frame.bytes
        bytes_left -= len(data)
        frames = [data]
        while frame.more:
            frame = receive(_NOBLOCK, False)
            if len(frames) < FRAMES_KEPT_MAX:
                data = frame.bytes
                bytes_left -= len(data)
                frames.append(data)
        budget -= 1
        on_message(frames)
    return True


# ------------------------------------------------------------------------------------------ sending


def bind_send(socket: Socket) -> Callable[[bytes | zmq.Frame, int], Any]:
    """``send`` of the base class, bound once; the method of ``zmq.Socket`` wraps it at a price."""
    return MethodType(zmq.backend.Socket.send, socket)


class RouterSender:
    """Replies through a ROUTER, in two to four plain sends.

    Only the first of them, the identity, can be refused: libzmq looks for the connection and for
    room in its queue there, and nowhere else in a message.  It counts messages; the bytes of large
    replies are counted by :mod:`transport.unsent`, and a reply beyond its bound is dropped too.
    """

    __slots__ = ("_send", "_unsent", "full", "gone", "sent")

    def __init__(self, socket: Socket) -> None:
        self._send = bind_send(socket)
        self._unsent = Unsent()
        self.sent = 0
        self.gone = 0  # dropped: the client has disconnected
        self.full = 0  # dropped: the client does not read

    def reply(self, identity: bytes, delimited: bool, correlation: bytes, body: bytes) -> bool:
        send = self._send
        is_large = len(body) >= TRACKED_BYTES_MIN
        if is_large and not self._unsent.has_room(identity, len(body)):
            self.full += 1
            return False
        try:
            send(identity, _NOBLOCK_MORE)
        except zmq.ZMQError as error:
            return self._refused(error)
        if delimited:
            send(b"", _NOBLOCK_MORE)
        send(correlation, _NOBLOCK_MORE)
        send(self._unsent.track(identity, body) if is_large else body, _NOBLOCK)
        self.sent += 1
        return True

    def frame(self, identity: bytes, frame: bytes) -> bool:
        send = self._send
        try:
            send(identity, _NOBLOCK_MORE)
        except zmq.ZMQError as error:
            return self._refused(error)
        send(frame, _NOBLOCK)
        self.sent += 1
        return True

    def _refused(self, error: zmq.ZMQError) -> bool:
        if error.errno == _EHOSTUNREACH:
            self.gone += 1
        elif error.errno == _EAGAIN:
            self.full += 1
        else:
            raise error
        return False


def try_send(send: Callable[[bytes, int], Any], frame: bytes) -> bool:
    """One frame through a DEALER or PUB; False: no room, or nobody is connected."""
    try:
        send(frame, _NOBLOCK)
    except zmq.Again:
        return False
    return True


def publish(send: Callable[[bytes, int], Any], topic: bytes, payload: bytes) -> None:
    """A PUB never refuses: a subscriber that is too slow has a gap."""
    send(topic, _NOBLOCK_MORE)
    send(payload, _NOBLOCK)


# ----------------------------------------------------------------------------------------- watching


class SocketWatcher:
    """Calls ``on_ready`` when a socket may have something to read, or room to write again.

    ``on_ready`` drains with a budget and returns whether more may be waiting; then it is called
    again after the others had their turn.  Who sends on the socket outside of ``on_ready`` calls
    :meth:`after_send` once per round.
    """

    __slots__ = ("_fd", "_handle", "_loop", "_on_ready", "_socket")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, socket: Socket, on_ready: Callable[[], bool]
    ) -> None:
        self._loop = loop
        self._socket = socket
        self._on_ready = on_ready
        self._handle: asyncio.Handle | None = None
        self._fd = fd = int(socket.get(zmq.FD))
        loop.add_reader(fd, self._ready)
        self.again()  # what came before the first look made its change already

    def again(self) -> None:
        """Look once more in the next turn of the loop."""
        if self._handle is None and self._fd >= 0:
            self._handle = self._loop.call_soon(self._again)

    def after_send(self, waits_for_room: bool = False) -> None:
        """Asking takes the news of both kinds; ``waits_for_room``: something is not sent yet."""
        wanted = _POLLIN | _POLLOUT if waits_for_room else _POLLIN
        if int(self._socket.get(_EVENTS)) & wanted:
            self.again()

    def close(self) -> None:
        """Before the socket is closed, whose descriptor is then somebody else's."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _again(self) -> None:
        self._handle = None
        self._ready()

    def _ready(self) -> None:
        if self._fd >= 0 and self._on_ready():
            self.again()
