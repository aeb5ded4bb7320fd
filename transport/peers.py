"""Peers: the outgoing link to one other node, as two lanes and three states.

What may live here: when a link counts as up, what waits, and what is dropped.  What goes through
it is opaque here.

Each node binds one ROUTER, on which it hears all others, and keeps a :class:`PeerLink` to each of
them, on which it speaks.  A link is two DEALERs to the same address: *control* for what must be
quick (votes, heartbeats, acknowledgements) and *bulk* for the rest, so that a heartbeat never
stands behind an append.  Lanes overtake each other; Raft copes.

States::

    DOWN         not started, or closed
    CONNECTING   both sockets try; when the control lane has shaken hands, HELLO is asked on it,
                 again and again with growing pauses, until it is answered
    UP           the answer named the node that was expected, in this cluster, and this node's
                 own disk as its receiver; frames may be sent

    CONNECTING --answer fits--> UP --connection reset, or the other end is another--> CONNECTING

The answer comes back through the other's ROUTER to the DEALER that asked.  So UP says: bytes go
both ways, and a process reads them; a TCP connection says neither.  A HELLO on a link is never
answered, which is why two nodes cannot keep each other busy with it.  The other end also sends
one when a frame was not for it (its disk or cluster is another): the link then goes down and up
again with the new identity, and ``on_down`` tells that the earlier life of that node is over.

Nothing is ever sent twice: what is sent while the link is not up, or does not fit into the queue
of its lane, is dropped and counted, and what waits when the link goes down is dropped as well.
Raft sends again what matters.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

import zmq

from transport.frames import (
    LANE_BULK,
    LANE_CONTROL,
    PEER_FRAME_BYTES_MAX,
    PEER_HELLO,
    PEER_KINDS,
    Endpoint,
    FrameError,
    Hello,
    PeerFrameParser,
    PeerHeader,
    pack_hello_frame,
    pack_peer_prefix,
    unpack_hello,
)
from transport.monitors import DISCONNECTED, HANDSHAKE_SUCCEEDED, SocketMonitor
from transport.sockets import (
    BULK_HWM,
    PEER_HWM,
    Context,
    Socket,
    SocketWatcher,
    bind_send,
    drain_frames,
    peer_dealer,
    try_send,
)

DOWN: Final = "down"
CONNECTING: Final = "connecting"
UP: Final = "up"

CONTROL_QUEUE_BYTES_MAX: Final = 16 << 20  # beside what libzmq holds; above: dropped and counted
BULK_QUEUE_BYTES_MAX: Final = 64 << 20
HELLO_RETRY_MS: Final = 100  # doubled after each HELLO without an answer
HELLO_RETRY_MAX_MS: Final = 1_000
HELLOS_PER_TURN_MAX: Final = 16  # nothing else comes in on a link

assert CONTROL_QUEUE_BYTES_MAX > PEER_FRAME_BYTES_MAX
assert BULK_QUEUE_BYTES_MAX > PEER_FRAME_BYTES_MAX


class Lane:
    """One DEALER with the queue before it: first in, first out.

    ``is_connected`` follows the monitor.  Between the news that a connection has ended and the
    moment when libzmq has taken its pipe away, a send still succeeds, into nowhere; so nothing is
    sent from the first news until the next handshake.  What was sent before that news is known to
    be lost by then, and its owner has been told.
    """

    def __init__(
        self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        *,
        hwm: int,
        queue_bytes_max: int,
        on_frame: Callable[[bytes], None],
        on_event: Callable[[str], None],
        prepare: Callable[[Socket], None] | None,
    ) -> None:
        self._queue_bytes_max = queue_bytes_max
        self._queue: deque[bytes] = deque()
        self._queue_bytes = 0
        self._on_frame = on_frame
        self._on_event = on_event
        self._is_open = True
        self.is_connected = False
        self.sent = 0
        self.sent_bytes = 0
        self.socket = peer_dealer(context, hwm)
        if prepare is not None:
            prepare(self.socket)
        self._send = bind_send(self.socket)
        self.monitor = SocketMonitor(context, self.socket, loop, self._on_monitor)
        self._watcher = SocketWatcher(loop, self.socket, self._on_ready)

    @property
    def queue_bytes(self) -> int:
        return self._queue_bytes

    def send(self, frame: bytes) -> bool:
        """Send or queue; False: the queue is full, and the frame is dropped."""
        if self.is_connected and not self._queue and try_send(self._send, frame):
            self.sent += 1
            self.sent_bytes += len(frame)
            return True
        if self._queue_bytes + len(frame) > self._queue_bytes_max:
            return False
        self._queue.append(frame)
        self._queue_bytes += len(frame)
        return True

    def send_now(self, frame: bytes) -> bool:
        """Send before everything that waits, or not at all."""
        return try_send(self._send, frame)

    def clear(self) -> int:
        """Give up what waits; how many frames that was."""
        count = len(self._queue)
        self._queue.clear()
        self._queue_bytes = 0
        return count

    def after_sends(self) -> None:
        self._watcher.after_send(waits_for_room=bool(self._queue))

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._watcher.close()
            self.monitor.close()
            self.socket.close()

    def _on_ready(self) -> bool:
        messages: list[list[bytes]] = []
        more = drain_frames(self.socket, messages.append, HELLOS_PER_TURN_MAX)
        self._flush()
        for frames in messages:
            if self._is_open:  # a callback may close the link
                self._on_frame(frames[0] if len(frames) == 1 else b"")
        if self._is_open:
            self.after_sends()
        return more and self._is_open

    def _flush(self) -> None:
        while self.is_connected and self._queue and try_send(self._send, self._queue[0]):
            frame = self._queue.popleft()
            self._queue_bytes -= len(frame)
            self.sent += 1
            self.sent_bytes += len(frame)

    def _on_monitor(self, name: str, _endpoint: str) -> None:
        if name == DISCONNECTED:
            self.is_connected = False
        elif name == HANDSHAKE_SUCCEEDED:
            # Asking for events makes libzmq carry out what it has put off: the old pipe is gone.
            self.socket.get(zmq.EVENTS)
            self.is_connected = True
            self._watcher.again()
        self._on_event(name)


class PeerLink:
    """The way to one other node.  Made, used and closed in the loop's thread.

    ``make_hello()`` gives what this node says of itself at the moment.  ``on_hello(link, header,
    hello)`` is called for every answer, before the state changes, also for one that does not bring
    the link up: a blank disk forms its cluster by these answers.  ``on_bulk_lost(link)``: the bulk
    lane alone broke, and what libzmq held for it is lost.  ``on_up(link)`` and
    ``on_down(link, reason)`` alternate.
    """

    def __init__(
        self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        *,
        me: Endpoint,
        node: str,
        address: str,
        make_hello: Callable[[], Hello],
        on_up: Callable[[PeerLink], None],
        on_down: Callable[[PeerLink, str], None],
        on_hello: Callable[[PeerLink, PeerHeader, Hello], None] | None = None,
        on_bulk_lost: Callable[[PeerLink], None] | None = None,
        incarnation: int = 0,
        prepare: Callable[[Socket], None] | None = None,
        control_queue_bytes_max: int = CONTROL_QUEUE_BYTES_MAX,
        bulk_queue_bytes_max: int = BULK_QUEUE_BYTES_MAX,
    ) -> None:
        self.node = node
        self.address = address
        self.expected_incarnation = incarnation  # 0: whoever answers for this node
        self.remote_incarnation = 0  # as the last fitting answer said; 0 while not up
        self.remote_epoch = 0
        self.state = DOWN
        self.counts: Counter[str] = Counter()
        self._context = context
        self._loop = loop
        self._me = me
        self._make_hello = make_hello
        self._on_up = on_up
        self._on_down = on_down
        self._on_hello = on_hello
        self._on_bulk_lost = on_bulk_lost
        self._prepare = prepare
        self._queue_bytes_max = (control_queue_bytes_max, bulk_queue_bytes_max)
        self._lanes: list[Lane] = []
        self._prefixes: dict[int, bytes] = {}
        self._parser = PeerFrameParser()
        self._shaken = False  # the control lane has a connection on which HELLO can be asked
        self._retry_ms = HELLO_RETRY_MS
        self._retry: asyncio.TimerHandle | None = None
        self._look: asyncio.Handle | None = None

    # -- life

    def start(self) -> None:
        assert self.state == DOWN
        self.state = CONNECTING
        control = self._make_lane(LANE_CONTROL, PEER_HWM, self._on_control_event)
        bulk = self._make_lane(LANE_BULK, BULK_HWM, self._on_bulk_event)
        self._lanes = [control, bulk]
        for lane in self._lanes:
            lane.socket.connect(self.address)

    def close(self) -> None:
        if self.state == DOWN:
            return
        self._leave_up("closed")
        self.state = DOWN
        self._shaken = False
        self._cancel_retry()
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for lane in self._lanes:
            lane.close()
        self._lanes = []

    def set_address(self, address: str) -> None:
        """The node has moved; its identity has not."""
        if address == self.address:
            return
        started = self.state != DOWN
        self.close()
        self.address = address
        if started:
            self.start()

    def set_endpoint(self, me: Endpoint) -> None:
        """This node has become somebody else, by joining a cluster: introduce it anew."""
        self._me = me
        self._leave_up("introduced anew")
        self._ask_soon()

    def expect(self, incarnation: int) -> None:
        """Only the disk with this number is meant from now on."""
        self.expected_incarnation = incarnation
        if self.state == UP and incarnation not in (0, self.remote_incarnation):
            self._leave_up("another incarnation is expected")
            self._ask_soon()

    # -- sending

    @property
    def carries_bulk(self) -> bool:
        """Up, and what is sent in the bulk lane now leaves at once."""
        return self.state == UP and self._lanes[LANE_BULK].is_connected

    def send(self, lane: int, kind: int, body: bytes) -> bool:
        """False: dropped, because the link is not up or the lane is full."""
        if self.state != UP:
            self.counts["dropped_not_up"] += 1
            return False
        frame = self._prefixes[kind] + body
        assert len(frame) <= PEER_FRAME_BYTES_MAX, "senders split before the limit"
        if self._look is None:
            self._look = self._loop.call_soon(self._after_sends)
        if self._lanes[lane].send(frame):
            return True
        self.counts["dropped_full"] += 1
        return False

    def _after_sends(self) -> None:
        # Once per turn of the loop: a send may have eaten the news of a message.
        self._look = None
        for lane in self._lanes:
            lane.after_sends()

    # -- looking inside

    def status(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "address": self.address,
            "state": self.state,
            "incarnation": self.remote_incarnation or None,
            "epoch": self.remote_epoch or None,
            "counts": dict(self.counts),
            "lanes": [
                {
                    "sent": lane.sent,
                    "sent_bytes": lane.sent_bytes,
                    "queue_bytes": lane.queue_bytes,
                    "events": dict(lane.monitor.counts),
                }
                for lane in self._lanes
            ],
        }

    # -- connections

    def _make_lane(self, number: int, hwm: int, on_event: Callable[[str], None]) -> Lane:
        return Lane(
            self._context,
            self._loop,
            hwm=hwm,
            queue_bytes_max=self._queue_bytes_max[number],
            on_frame=self._on_frame,
            on_event=on_event,
            prepare=self._prepare,
        )

    def _on_control_event(self, name: str) -> None:
        if name == HANDSHAKE_SUCCEEDED:
            self._shaken = True
            self._retry_ms = HELLO_RETRY_MS
            self._ask()
        elif name == DISCONNECTED:
            self._shaken = False
            self._cancel_retry()
            self._leave_up("disconnected")

    def _on_bulk_event(self, name: str) -> None:
        # What libzmq held for the lost connection is lost; what waits here may go through the next.
        if name == DISCONNECTED:
            self.counts["bulk_disconnected"] += 1
            if self.state == UP and self._on_bulk_lost is not None:
                self._on_bulk_lost(self)

    # -- HELLO

    def _ask_soon(self) -> None:
        self._retry_ms = HELLO_RETRY_MS
        if self._shaken:
            self._ask()

    def _ask(self) -> None:
        self._cancel_retry()
        frame = pack_hello_frame(self._me, self.node, self.expected_incarnation, self._make_hello())
        self.counts["hello_sent"] += 1
        if not self._lanes[LANE_CONTROL].send_now(frame):
            self.counts["hello_refused"] += 1
        self._lanes[LANE_CONTROL].after_sends()
        self._retry = self._loop.call_later(self._retry_ms / 1_000, self._ask)
        self._retry_ms = min(2 * self._retry_ms, HELLO_RETRY_MAX_MS)

    def _cancel_retry(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _on_frame(self, data: bytes) -> None:
        try:
            frame = self._parser.parse(data)
            if frame.kind != PEER_HELLO:
                raise FrameError("only HELLO comes back on a link")
            hello = unpack_hello(frame.body)
        except FrameError:
            self.counts["malformed"] += 1
            return
        header = frame.header
        self.counts["hello_received"] += 1
        lanes = self._lanes
        if self._on_hello is not None:
            self._on_hello(self, header, hello)
        if self._lanes is not lanes:
            return  # the callback has closed the link, or moved it to where nobody answered yet
        misfit = self._misfit(header, hello)
        other = (header.sender_incarnation, header.sender_epoch)
        if misfit:
            self.counts[misfit] += 1
            if self._leave_up(misfit):
                self._ask_soon()
            return
        if self.state == UP:
            if other == (self.remote_incarnation, self.remote_epoch):
                self._cancel_retry()
                return
            self._leave_up("restarted")
        if self.state == CONNECTING:  # not closed by the callback
            self._become_up(header)

    def _misfit(self, header: PeerHeader, hello: Hello) -> str:
        """Why this answer does not bring the link up; empty when it does."""
        if header.sender != self.node:
            return "wrong_node"
        if header.receiver != self._me.node or header.receiver_incarnation != self._me.incarnation:
            return "wrong_receiver"
        if self.expected_incarnation not in (0, header.sender_incarnation):
            return "wrong_incarnation"
        if not self._me.cluster or not hello.formed:
            return "not_formed"
        return "" if header.cluster == self._me.cluster else "wrong_cluster"

    # -- up and down

    def _become_up(self, header: PeerHeader) -> None:
        assert self.state == CONNECTING
        self._cancel_retry()
        self.state = UP
        self.remote_incarnation = header.sender_incarnation
        self.remote_epoch = header.sender_epoch
        to = PeerHeader(*self._me, self.node, self.remote_incarnation)
        self._prefixes = {kind: pack_peer_prefix(kind, to) for kind in PEER_KINDS}
        self.counts["up"] += 1
        self._on_up(self)

    def _leave_up(self, reason: str) -> bool:
        if self.state != UP:
            return False
        self.state = CONNECTING
        self.remote_incarnation = self.remote_epoch = 0
        for lane in self._lanes:
            self.counts["dropped_down"] += lane.clear()
        self._on_down(self, reason)
        return True
