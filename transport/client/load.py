"""The hot half of the load generator: one client process with many messages in flight.

A closed loop. There are `in_flight` slots; each sends one ready-made message and, when its reply
comes, the next one. Nothing is encoded while measuring: the bodies of all messages are made before,
and a reply whose every command says OK is recognised without decoding it. So this measures servers,
with as little client as a ZeroMQ program in Python can be; it is not how applications should call
(they use Client or AsyncClient, which coalesce, find the leader and retry).

A reply that refuses a command is counted by its code; its slot rests for as long as the reply asks,
so that a cluster without a leader is not asked a hundred thousand times a second. A message without
any reply is counted as lost after its own time limit plus a grace, and its slot goes on under a
fresh correlation id. Times come from CLOCK_MONOTONIC, which all processes of a host share: the
parent gives the start, and every client closes its windows at the same moments. (`clock` is there
for tests whose own pauses must not count.)
"""

from __future__ import annotations

import heapq
import random
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import zmq
from zmq.backend import Socket as BaseSocket

from transport.client import wire
from transport.client.histogram import Histogram

# The least rest of a refused slot, and how long beyond its time limit a reply may take.
REFUSED_REST_MS_MIN = 10
REPLY_GRACE_MS = 2_000
# How long one receive waits: rests, lost messages and the end of a window are seen this late.
RECEIVE_WAIT_MS = 20
LOST_CHECK_NS = 500_000_000
OVERDUE_NS = 1_000_000_000
# Ready-made bodies per group and client; also the number of different keys each client writes.
BODIES_COUNT = 256
BODIES_BYTES_MAX = 64 << 20
# Replies taken from one socket before the others get their turn.
DRAIN_MAX = 256

_SNDMORE = int(zmq.SNDMORE)
_NOBLOCK = int(zmq.NOBLOCK)
_CORRELATION = struct.Struct("<II")

PUT = "put"
GET = "get"


@dataclass(slots=True, kw_only=True)
class Target:
    """One group and the node that this client asks for it."""

    address: str
    group: str


@dataclass(slots=True, kw_only=True)
class LoadPlan:
    """Everything one client process needs to know."""

    client: int
    targets: list[Target]
    operation: str = PUT
    in_flight: int = 64
    batch: int = 1
    value_bytes: int = 256
    timeout_ms: int = 10_000
    warmup_s: float = 2.0
    seconds: float = 10.0
    runs: int = 3


@dataclass(slots=True)
class Window:
    """What one client saw during one measured run."""

    completed_count: int = 0
    message_count: int = 0
    lost_count: int = 0
    # In flight for long when the run ended: what a stuck server looks like before anything is lost.
    overdue_count: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    histogram: Histogram = field(default_factory=Histogram)
    cpu_s: float = 0.0

    def merge(self, other: Window) -> None:
        """Add what another client saw during the same run."""
        self.completed_count += other.completed_count
        self.message_count += other.message_count
        self.lost_count += other.lost_count
        self.overdue_count += other.overdue_count
        for name, count in other.refused.items():
            self.refused[name] = self.refused.get(name, 0) + count
        self.histogram.merge(other.histogram)
        self.cpu_s += other.cpu_s


class Slot:
    """One message in flight: where it goes and when it left."""

    __slots__ = (
        "attempt",
        "bodies",
        "correlation",
        "group",
        "next_body",
        "number",
        "send",
        "sent_ns",
    )

    def __init__(
        self, number: int, send: Callable[[bytes, int], object], group: bytes, bodies: list[bytes]
    ) -> None:
        self.number = number
        self.send = send
        self.group = group
        self.bodies = bodies
        self.next_body = number % len(bodies)
        self.attempt = 0
        self.sent_ns = 0
        self.correlation = _CORRELATION.pack(number, 0)

    def renew(self) -> None:
        """A fresh correlation id: a reply to the old one is nobody's from now on."""
        self.attempt += 1
        self.correlation = _CORRELATION.pack(self.number, self.attempt)


def make_bodies(plan: LoadPlan) -> list[bytes]:
    """The RequestBatches that this client sends again and again, each key its own."""
    chance = random.Random(plan.client)
    body_bytes = plan.batch * (plan.value_bytes + 64)
    count = max(1, min(BODIES_COUNT, BODIES_BYTES_MAX // body_bytes))
    bodies = []
    for body in range(count):
        requests = []
        for position in range(plan.batch):
            key = f"bench/{plan.client}/{body * plan.batch + position}"
            if plan.operation == PUT:
                value = chance.randbytes(plan.value_bytes)
                requests.append(wire.encode_write("PUT", key, value))
            else:
                requests.append(wire.encode_read(kv_get(key)))
        bodies.append(wire.join_batch(requests, plan.timeout_ms))
    return bodies


def kv_get(key: str) -> bytes:
    """The kv machine's question for one key: msgpack {"get": key}, without needing msgpack here."""
    text = key.encode()
    assert len(text) < 256, key
    return b"\x81\xa3get\xd9" + bytes((len(text),)) + text


def open_dealer(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    """A DEALER for load: its own in-flight limit bounds it, so no high-water mark drops."""
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.LINGER, 0)
    dealer.setsockopt(zmq.SNDHWM, 0)
    dealer.setsockopt(zmq.RCVHWM, 0)
    dealer.setsockopt(zmq.IPV6, 1)
    dealer.setsockopt(zmq.MAXMSGSIZE, wire.MESSAGE_BYTES_MAX)
    dealer.setsockopt(zmq.RECONNECT_IVL, 50)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 1_000)
    dealer.setsockopt(zmq.RCVTIMEO, RECEIVE_WAIT_MS)
    dealer.connect(address)
    return dealer


class Load:
    """One client process's loop, from its first message to the end of its last window."""

    def __init__(
        self,
        plan: LoadPlan,
        on_window: Callable[[Window], None],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        assert plan.targets
        self.plan = plan
        self._on_window = on_window
        self._clock = clock
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = {
            address: open_dealer(self._context, address)
            for address in sorted({target.address for target in plan.targets})
        }
        bodies = make_bodies(plan)
        # Base-class methods and plain integers for flags: the convenience methods of pyzmq cost
        # several times what libzmq does.
        sends = {
            address: BaseSocket.send.__get__(socket) for address, socket in self._sockets.items()
        }
        self._slots = []
        for number in range(plan.in_flight):
            target = plan.targets[number % len(plan.targets)]
            slot = Slot(number, sends[target.address], target.group.encode(), bodies)
            self._slots.append(slot)
        self._waiting: dict[bytes, Slot] = {}
        self._resting: list[tuple[int, int]] = []
        self._window = Window()
        self._window_start_ns = 0
        self._window_end_ns = 0
        self._windows_left = plan.runs
        self._cpu_start_s = 0.0
        self._next_lost_check_ns = 0

    def run(self, start_ns: int) -> None:
        """Send from now on; measure from `start_ns` plus the warm-up; return after the last run."""
        self._window_start_ns = start_ns + int(self.plan.warmup_s * 1e9)
        self._window_end_ns = self._window_start_ns + int(self.plan.seconds * 1e9)
        for slot in self._slots:
            self._send(slot)
        try:
            if len(self._sockets) == 1:
                self._run_one(next(iter(self._sockets.values())))
            else:
                self._run_many()
        finally:
            for socket in self._sockets.values():
                socket.close()
            self._context.term()

    def _run_one(self, socket: zmq.Socket[bytes]) -> None:
        receive = BaseSocket.recv.__get__(socket)
        while self._windows_left:
            try:
                correlation = receive(0)
            except zmq.Again:
                self._look_around(self._clock())
                continue
            self._on_reply(correlation, self._rest_of_message(receive))

    def _run_many(self) -> None:
        poller = zmq.Poller()
        receives = {}
        for socket in self._sockets.values():
            poller.register(socket, zmq.POLLIN)
            receives[socket] = BaseSocket.recv.__get__(socket)
        while self._windows_left:
            ready = poller.poll(RECEIVE_WAIT_MS)
            if not ready:
                self._look_around(self._clock())
            for socket, _ in ready:
                self._drain(receives[socket])

    def _drain(self, receive: Callable[..., bytes]) -> None:
        for _ in range(DRAIN_MAX):
            try:
                correlation = receive(_NOBLOCK)
            except zmq.Again:
                return
            self._on_reply(correlation, self._rest_of_message(receive))

    @staticmethod
    def _rest_of_message(receive: Callable[..., bytes]) -> bytes:
        """The second and last frame; what is longer than the contract allows is nobody's reply."""
        frame = receive(0, False)
        payload: bytes = frame.bytes  # type: ignore[attr-defined]
        while frame.more:  # type: ignore[attr-defined]
            frame = receive(0, False)
            payload = b""
        return payload

    def _send(self, slot: Slot) -> None:
        bodies = slot.bodies
        body = bodies[slot.next_body]
        slot.next_body = (slot.next_body + 1) % len(bodies)
        slot.sent_ns = self._clock()
        self._waiting[slot.correlation] = slot
        send = slot.send
        send(slot.correlation, _SNDMORE)
        send(slot.group, _SNDMORE)
        send(body, 0)

    def _on_reply(self, correlation: bytes, payload: bytes) -> None:
        slot = self._waiting.pop(correlation, None)
        if slot is None:
            return
        now_ns = self._clock()
        if now_ns >= self._next_lost_check_ns or self._resting or now_ns >= self._window_end_ns:
            self._look_around(now_ns)
        rest_ms = 0
        ok_count = self.plan.batch
        if wire.count_plain_ok(payload) != ok_count:
            ok_count, rest_ms = self._read_outcomes(payload, now_ns)
        if now_ns >= self._window_start_ns and ok_count:
            window = self._window
            window.completed_count += ok_count
            window.message_count += 1
            window.histogram.add((now_ns - slot.sent_ns) // 1000)
        if rest_ms:
            heapq.heappush(self._resting, (now_ns + rest_ms * 1_000_000, slot.number))
        else:
            self._send(slot)

    def _read_outcomes(self, payload: bytes, now_ns: int) -> tuple[int, int]:
        """The OK commands of a message, and how long its slot rests."""
        try:
            outcomes = wire.decode_replies(payload, self.plan.batch)
        except wire.BadReplyError:
            self._refuse("BAD_REPLY", self.plan.batch, now_ns)
            return 0, REFUSED_REST_MS_MIN
        ok_count = 0
        rest_ms = 0
        for outcome in outcomes:
            if outcome.code == wire.OK:
                ok_count += 1
            else:
                self._refuse(wire.CODE_NAMES.get(outcome.code, str(outcome.code)), 1, now_ns)
                rest_ms = max(rest_ms, outcome.retry_after_ms, REFUSED_REST_MS_MIN)
        return ok_count, rest_ms

    def _refuse(self, name: str, count: int, now_ns: int) -> None:
        if now_ns >= self._window_start_ns:
            refused = self._window.refused
            refused[name] = refused.get(name, 0) + count

    def _look_around(self, now_ns: int) -> None:
        """What is due besides replies: rested slots, lost messages, the end of a window."""
        resting = self._resting
        while resting and resting[0][0] <= now_ns:
            _, number = heapq.heappop(resting)
            self._send(self._slots[number])
        if now_ns >= self._next_lost_check_ns:
            self._next_lost_check_ns = now_ns + LOST_CHECK_NS
            self._find_lost(now_ns)
        if self._cpu_start_s == 0.0 and now_ns >= self._window_start_ns:
            self._cpu_start_s = time.process_time()
        while self._windows_left and now_ns >= self._window_end_ns:
            self._close_window()

    def _find_lost(self, now_ns: int) -> None:
        limit_ns = now_ns - (self.plan.timeout_ms + REPLY_GRACE_MS) * 1_000_000
        for slot in [slot for slot in self._waiting.values() if slot.sent_ns < limit_ns]:
            del self._waiting[slot.correlation]
            if now_ns >= self._window_start_ns:
                self._window.lost_count += 1
            slot.renew()
            self._send(slot)

    def _close_window(self) -> None:
        cpu_s = time.process_time()
        self._window.cpu_s = cpu_s - self._cpu_start_s
        limit_ns = self._window_end_ns - OVERDUE_NS
        self._window.overdue_count = sum(slot.sent_ns < limit_ns for slot in self._waiting.values())
        self._cpu_start_s = cpu_s
        self._on_window(self._window)
        self._window = Window()
        self._windows_left -= 1
        self._window_start_ns = self._window_end_ns
        self._window_end_ns += int(self.plan.seconds * 1e9)
