"""The router process: all TCP sockets of a node, and the traffic of all groups through them.

::

    clients  <-> ROUTER ----+                    +---- Unix links <-> workers
    peers     -> ROUTER ----+-- Routing, tables --+
    peers    <-  DEALERs ---+                    +---- Unix link  <-> node process
    events   <-  PUB -------+

It never looks into a request or a Raft message.  What a drain of a socket brought goes on as
one frame per worker; what a worker's round brought goes on as one message per peer and lane,
peers first, then replies.  It always reads, and refuses: a router that stopped reading clients
would stop reading peers.

A frame on a Unix link carries both ends' epochs, a frame between nodes both ends' identities:
what was meant for an earlier life of somebody is dropped and counted (pitfalls 21 and 55).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

import msgpack
import uvloop

from actors import wire
from actors.catalog import SYSTEM_GROUP_ID
from actors.kept_replies import KeptReplies
from actors.neighbours import Listener, Neighbours, Self
from actors.process import EXIT_ADDRESS, end_on_error, end_with_parent, start_logging
from actors.router_arguments import RouterArguments
from actors.routing import CLIENT, OWN, Outcomes, Pending, Route, Routing, WorkerLink
from actors.runtime import MonotonicClock
from actors.status import Status
from transport import frames, links, protocol
from transport.frames import (
    GATHER_BYTES_MAX,
    LANE_BULK,
    LANE_CONTROL,
    PEER_FORWARD,
    PEER_FORWARD_REPLY,
    PEER_FRAME_BYTES_MAX,
    PEER_HELLO,
    PEER_RAFT,
    PEER_RAFT_CONTROL,
    PEER_REPLIES_LOST,
    ClientMessage,
    Forward,
    ForwardReply,
    FrameError,
    Hello,
    Malformed,
    PeerHeader,
)
from transport.monitors import SocketMonitor
from transport.sockets import (
    AddressInUse,
    BindRefused,
    RouterSender,
    SocketWatcher,
    bind,
    bind_send,
    client_router,
    drain,
    events_pub,
    make_context,
    peer_router,
    publish,
)

log = logging.getLogger("polyraft.router")

EXPIRE_EVERY_MS: Final = 250


class Router:
    """One life of the router; all state is lost with it, and nothing durable is ever in it."""

    def __init__(self, arguments: RouterArguments, loop: asyncio.AbstractEventLoop) -> None:
        self._arguments = arguments
        self._loop = loop
        self._clock = MonotonicClock()
        self.node = arguments.node
        self.epoch = secrets.randbits(63) | 1
        self._stopped = loop.create_future()
        self._context = make_context()
        self._parser = frames.PeerFrameParser()
        self._client_look: asyncio.Handle | None = None
        self.bound: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self._events_seq: Counter[str] = Counter()
        self._node_link: links.LinkProtocol | None = None
        self._node_epoch = 0
        self._workers: dict[links.LinkProtocol, WorkerLink] = {}
        self._early_summaries: dict[int, dict[str, Any]] = {}  # of groups not in the table yet
        self._peer_in: dict[tuple[int, int], list[Any]] = {}  # (slot, lane) -> flat
        self._peer_in_bytes = 0
        self._kept_replies = KeptReplies()
        self.monitors: dict[str, SocketMonitor] = {}
        self.routing = Routing(
            self.node,
            self.epoch,
            Outcomes(self._reply, self._send_forward, self._send_not_accepted, self._on_admin),
            self._clock.now_ms,
        )
        self.routing.addresses[self.node] = arguments.advertise["client"]
        self.neighbours = Neighbours(
            Self(
                self.node,
                arguments.incarnation,
                self.epoch,
                arguments.advertise,
                arguments.members,
                arguments.members_hash,
            ),
            self._context,
            loop,
            self._clock,
            self.counts,
            Listener(
                self._on_peer_heard,
                self._on_peer_up,
                self._on_peer_down,
                self._on_bulk_lost,
                self._on_candidate,
                self._on_news,
            ),
        )
        self.status = Status(self)
        self._from_links: dict[int, Callable[[links.LinkProtocol, list[Any]], None]] = {
            wire.HELLO: self._on_hello,
            wire.ROUND: self._on_round,
            wire.PEER_CONTROL: self._on_peer_control,
            wire.SUMMARIES: self._on_summaries,
            wire.DESCRIBED: self._on_described,
            wire.CATALOG: self._on_catalog,
            wire.DRAINED: self._pass_to_node,
            wire.ASK_CATALOG: self._pass_to_node,
            wire.DESIRED: self._pass_to_worker,
            wire.CATALOG_ANSWER: self._pass_to_worker,
            wire.REPLICAS: self._pass_to_node,
            wire.IDENTITY: self._on_identity,
            wire.GROUPS: self._on_groups,
            wire.NODES: self._on_nodes,
            wire.STATE: self._on_state,
            wire.REQUEST: self._on_request,
            wire.RELOAD: self._pass_to_worker,
            wire.DRAIN: self._on_drain,
        }

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        await self._bind()
        self._server = await links.listen(self._loop, self._arguments.socket_path, self._make_link)
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._loop.call_later(EXPIRE_EVERY_MS / 1_000, self._expire)
        await self._stopped
        self._server.close()
        self.neighbours.close()
        for monitor in self.monitors.values():
            monitor.close()
        if self._client_look is not None:
            self._client_look.cancel()
        self._client_watcher.close()
        self._peer_watcher.close()
        self._context.destroy(linger=200)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._arguments.socket_path)

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def _bind(self) -> None:
        arguments = self._arguments
        self._client = client_router(self._context)
        self._peer = peer_router(self._context)
        self._events = events_pub(self._context)
        # Before the first connection can come.
        for name, socket in (("client", self._client), ("peer", self._peer)):
            self.monitors[name] = SocketMonitor(self._context, socket, self._loop)
        self.bound = {
            "client": await bind(self._client, arguments.client),
            "peer": await bind(self._peer, arguments.peer),
            "events": await bind(self._events, arguments.events),
        }
        self.client_sender = RouterSender(self._client)
        self._peer_sender = RouterSender(self._peer)
        self._publish = bind_send(self._events)
        self._client_watcher = SocketWatcher(self._loop, self._client, self._drain_clients)
        self._peer_watcher = SocketWatcher(self._loop, self._peer, self._drain_peers)

    def _make_link(self) -> links.LinkProtocol:
        return links.LinkProtocol(self._on_link_frames, self._on_link_closed)

    def _expire(self) -> None:
        self.routing.expire()
        self._flush()
        self._loop.call_later(EXPIRE_EVERY_MS / 1_000, self._expire)

    # ------------------------------------------------------------------ clients

    def _drain_clients(self) -> bool:
        more = drain(self._client, self._on_client)
        self._flush()
        return more

    def _on_client(self, identity: bytes, parts: list[bytes]) -> None:
        message = frames.split_client(parts)
        if type(message) is Malformed:
            self.routing.counts["bad_requests"] += 1
            payload = protocol.encode_whole(protocol.BAD_REQUEST, message.reason)
            self.client_sender.reply(identity, message.delimited, message.correlation, payload)
            self._client_sent()
            return
        assert type(message) is ClientMessage
        delimited, correlation, group, batch = message
        self._make_room(len(batch))
        self.routing.on_message(CLIENT, identity, delimited, correlation, group, batch)

    def _client_sent(self) -> None:
        """A send may have eaten the news of a message: look again, once per turn of the loop."""
        if self._client_look is None:
            self._client_look = self._loop.call_soon(self._look_at_clients)

    def _look_at_clients(self) -> None:
        self._client_look = None
        self._client_watcher.after_send()

    def _reply(self, pending: Pending, payload: bytes) -> None:
        _REPLY[pending.origin](self, pending, payload)

    def _reply_client(self, pending: Pending, payload: bytes) -> None:
        self.client_sender.reply(pending.source, pending.delimited, pending.correlation, payload)
        self._client_sent()

    def _reply_peer(self, pending: Pending, payload: bytes) -> None:
        reply = ForwardReply(pending.source_epoch, pending.source_id, True, payload, None, 0)
        self._send_forward_reply(pending.source, reply)

    def _reply_own(self, pending: Pending, payload: bytes) -> None:
        self.to_node(wire.REPLY, pending.source, payload)

    # ------------------------------------------------------------------ forwarding

    def _send_forward(self, node: str, forward: Forward) -> bool:
        return self.neighbours.can_forward(node) and self.neighbours.send(
            node, LANE_BULK, PEER_FORWARD, frames.pack_forward(forward)
        )

    def _send_not_accepted(self, pending: Pending, leader: str | None, term: int) -> None:
        reply = ForwardReply(pending.source_epoch, pending.source_id, False, b"", leader, term)
        self._send_forward_reply(pending.source, reply)

    def _send_forward_reply(self, node: str, reply: ForwardReply) -> None:
        body = frames.pack_forward_reply(reply)
        if self.neighbours.is_up(node):
            taken = self.neighbours.send(node, LANE_BULK, PEER_FORWARD_REPLY, body)
            self._kept_replies.note_sent(node, self._clock.now_ms())
        else:
            taken = node in self.neighbours.links and self._kept_replies.keep(node, body)
        self.counts["forward_replies_dropped"] += not taken

    # ------------------------------------------------------------------ peers, inbound

    def _drain_peers(self) -> bool:
        more = drain(self._peer, self._on_peer_message)
        self._flush()
        self._peer_watcher.after_send()
        return more

    def _on_peer_message(self, identity: bytes, parts: list[bytes]) -> None:
        try:
            if len(parts) != 1:
                raise FrameError(f"a peer message of {len(parts)} frames")
            if not self.neighbours.introduced:
                self.counts["before_identity"] += 1
                return
            frame = self._parser.parse(parts[0])
            header = frame.header
            if frame.kind == PEER_HELLO:
                self._on_peer_hello(identity, header, frames.unpack_hello(frame.body))
            elif mismatch := self.neighbours.mismatch(header):
                self.counts[mismatch] += 1
                self._peer_sender.frame(identity, self.neighbours.hello_to(header))
            else:
                _FROM_PEERS[frame.kind](self, identity, header, frame.body)
        except FrameError as error:
            self.counts["peer_malformed"] += 1
            log.debug("a peer message was dropped: %s", error)

    def _on_peer_hello(self, identity: bytes, header: PeerHeader, hello: Hello) -> None:
        if header.receiver != self.node:
            self.counts["wrong_node"] += 1
            return
        self.neighbours.hear(header, hello, asked=False)
        self._peer_sender.frame(identity, self.neighbours.hello_to(header))

    def _on_peer_raft(self, identity: bytes, header: PeerHeader, body: memoryview) -> None:
        self._take_raft(LANE_BULK, header, body)

    def _on_peer_raft_control(self, identity: bytes, header: PeerHeader, body: memoryview) -> None:
        self._take_raft(LANE_CONTROL, header, body)

    def _take_raft(self, lane: int, header: PeerHeader, body: memoryview) -> None:
        flat = frames.unpack_raft(body)
        by_slot: dict[int, list[Any]] = {}
        hosts = self.routing.hosts
        for at in range(0, len(flat), 2):
            worker = hosts.get(flat[at])
            if worker is None:
                self.counts["no_worker"] += 1
                continue
            by_slot.setdefault(worker.slot, []).extend((flat[at], flat[at + 1]))
        if self._peer_in_bytes + len(body) > GATHER_BYTES_MAX:
            self._flush()
        for slot, messages in by_slot.items():
            out = self._peer_in.setdefault((slot, lane), [])
            out += (header.sender, header.sender_incarnation, messages)
        self._peer_in_bytes += len(body)

    def _on_peer_forward(self, identity: bytes, header: PeerHeader, body: memoryview) -> None:
        forward = frames.unpack_forward(body)
        self._make_room(len(forward.batch))
        self.routing.on_forward(header.sender, forward)

    def _on_peer_forward_reply(self, identity: bytes, header: PeerHeader, body: memoryview) -> None:
        self.routing.on_forward_reply(header.sender, frames.unpack_forward_reply(body))

    def _on_peer_replies_lost(self, identity: bytes, header: PeerHeader, body: memoryview) -> None:
        self.routing.on_peer_lost(header.sender)

    # ------------------------------------------------------------------ peers, outbound

    def _on_peer_heard(self, header: PeerHeader, hello: Hello) -> None:
        self.routing.addresses[header.sender] = hello.client_address
        self._on_news(header, hello)

    def _on_news(self, header: PeerHeader, hello: Hello) -> None:
        self.to_node(
            wire.PEER_HELLO,
            header.sender,
            header.sender_incarnation,
            header.cluster if hello.formed else b"",
            hello.members_hash,
            hello.founders,
            hello.nodes,
        )

    def _on_candidate(self, header: PeerHeader, hello: Hello) -> None:
        addresses = {
            "client": hello.client_address,
            "peer": hello.peer_address,
            "events": hello.events_address,
        }
        self.to_node(wire.CANDIDATE, header.sender, header.sender_incarnation, addresses)

    def _on_peer_up(self, node: str) -> None:
        for body in self._kept_replies.take(node):
            self.neighbours.send(node, LANE_BULK, PEER_FORWARD_REPLY, body)
        self._tell_replies_lost(node)

    def _on_bulk_lost(self, node: str) -> None:
        """What was in that connection is lost, in both directions of what was asked."""
        self.routing.on_peer_lost(node)
        self._kept_replies.note_lost(node, self._clock.now_ms())
        self._tell_replies_lost(node)

    def _tell_replies_lost(self, node: str) -> None:
        """Behind the replies that wait, in their lane: those may still come."""
        if self._kept_replies.is_to_be_told(node) and self.neighbours.send(
            node, LANE_BULK, PEER_REPLIES_LOST, b""
        ):
            self._kept_replies.note_told(node)
            self.counts["replies_lost_told"] += 1

    def _on_peer_down(self, node: str) -> None:
        self._kept_replies.note_lost(node, self._clock.now_ms())
        self.routing.on_peer_lost(node)
        for worker in self.routing.workers.values():
            worker.send(wire.LINK_CLOSED, node, control=True)

    def _send_raft(self, lane: int, items: list[Any]) -> None:
        """Flat [node, incarnation, group id, message]: one frame per receiver, split below the
        limit of a frame.

        What is meant for a disk that is gone must not reach the replica that now lives under the
        same name (pitfall 21): frames carry the receiver of the link, not of each message.
        Incarnation 0: the message says itself for whom it is, and is looked at there.
        """
        by_receiver: dict[tuple[str, int], list[Any]] = {}
        size_bytes = 0
        for at in range(0, len(items), 4):
            node, incarnation, group, data = items[at : at + 4]
            size_bytes += len(data) + 16
            if size_bytes > PEER_FRAME_BYTES_MAX - _HEADER_ROOM_BYTES and by_receiver:
                self._send_by_receiver(lane, by_receiver)
                by_receiver = {}
                size_bytes = len(data) + 16
            by_receiver.setdefault((node, incarnation), []).extend((group, data))
        self._send_by_receiver(lane, by_receiver)

    def _send_by_receiver(self, lane: int, by_receiver: dict[tuple[str, int], list[Any]]) -> None:
        kind = _RAFT_KINDS[lane]
        for (node, incarnation), flat in by_receiver.items():
            if incarnation and not self.neighbours.lives(node, incarnation):
                self.counts["raft_misaddressed"] += 1
            elif not self.neighbours.send(node, lane, kind, frames.pack_raft(flat)):
                self.counts["raft_dropped"] += 1

    # ------------------------------------------------------------------ Unix links

    def _on_link_frames(self, link: links.LinkProtocol, received: list[bytes]) -> None:
        for data in received:
            try:
                frame = frames.unpack_link(data)
            except FrameError as error:
                self.counts["link_malformed"] += 1
                log.error("a frame of a local process does not parse: %s", error)
                link.abort()
                return
            if frame[0] != wire.HELLO and frame[2] != self.epoch:
                self.counts["link_wrong_epoch"] += 1
                continue
            self._from_links[frame[0]](link, frame)
        self._flush()

    def _on_link_closed(self, link: links.LinkProtocol, error: Exception | None) -> None:
        if link is self._node_link:
            self._node_link = None
            return
        worker = self._workers.pop(link, None)
        if worker is None:
            return
        log.info("worker %d is gone%s", worker.slot, f": {error}" if error else "")
        for lane in (LANE_CONTROL, LANE_BULK):
            self._peer_in.pop((worker.slot, lane), None)
        self.routing.on_worker_lost(worker)
        self.to_node(wire.WORKER, worker.slot, worker.pid, False, [])
        self._flush()

    def _on_hello(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        _, epoch, _, role, slot, pid, rows = frame
        if role == "node":
            self._node_link = link
            self._node_epoch = epoch
            link.send(self._pack(wire.WELCOME, epoch, self.node, self.bound), control=True)
            self._tell_again()
            return
        old = self.routing.workers.get(slot)
        if old is not None:
            # A worker has one link; the old one is half dead.
            for each in [each for each, worker in self._workers.items() if worker is old]:
                del self._workers[each]
                each.abort()
            self.routing.on_worker_lost(old)

        def send(kind: int, *fields: Any, control: bool = False) -> bool:
            taken = link.send(self._pack(kind, epoch, *fields), control=control)
            if not taken and control:
                # It does not read; what it held becomes unknown, which is the truth.
                self.counts["worker_links_cut"] += 1
                link.abort()
            return taken

        worker = WorkerLink(slot, pid, epoch, send)
        self._workers[link] = worker
        self.routing.on_worker(worker, [group for group, summary in rows if _runs(summary)])
        send(wire.WELCOME, self.node, self.bound, control=True)
        self._take_summaries(rows)
        self.to_node(wire.WORKER, slot, pid, True, sorted(worker.groups))

    def _tell_again(self) -> None:
        """What workers said while the node process was not connected."""
        for worker in self.routing.workers.values():
            self.to_node(wire.WORKER, worker.slot, worker.pid, True, sorted(worker.groups))
            worker.send(wire.RELOAD, control=True)  # in answer it tells of its replicas again
        system = self.routing.hosts.get(SYSTEM_GROUP_ID)
        if system is not None:
            system.send(wire.CATALOG_WANTED, control=True)

    def _pack(self, kind: int, to_epoch: int, *fields: Any) -> bytes:
        return frames.pack_link(kind, self.epoch, to_epoch, *fields)

    def to_node(self, kind: int, *fields: Any) -> None:
        """To the node process; without one it is lost, and told again (:meth:`_tell_again`)."""
        if self._node_link is not None:
            self._node_link.send(self._pack(kind, self._node_epoch, *fields), control=True)

    def _pass_to_node(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self.to_node(frame[0], *frame[3:])

    def _on_round(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        worker = self._workers.get(link)
        if worker is None:
            return
        _, _, _, peer_items, replies, hand_backs = frame
        if peer_items:
            self._send_raft(LANE_BULK, peer_items)
        on_reply = self.routing.on_reply
        for at in range(0, len(replies), 2):
            on_reply(worker, replies[at], replies[at + 1])
        for at in range(0, len(hand_backs), 4):
            self.routing.on_hand_back(worker, *hand_backs[at : at + 4])

    def _on_peer_control(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self._send_raft(LANE_CONTROL, frame[3])

    def _on_summaries(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        worker = self._workers.get(link)
        if worker is None:
            return
        new = []
        for group, summary in frame[3]:
            if _runs(summary) != (group in worker.groups):
                if _runs(summary):
                    new.append(group)
                else:
                    self.routing.remove_host(worker, group)
        if new:
            for group in new:
                self.routing.add_host(worker, group)
            self.to_node(wire.WORKER, worker.slot, worker.pid, True, new)
        self._take_summaries(frame[3])

    def _take_summaries(self, rows: list[Any]) -> None:
        for group, summary in rows:
            if group == SYSTEM_GROUP_ID:
                self.routing.catalog_is_current = summary["current"]
                if summary["current"]:
                    self.to_node(wire.CATALOG_CURRENT)
            route = self.routing.by_group.get(group)
            if route is None:
                self._early_summaries[group] = summary
                continue
            moved = route.summary.get("leader") != summary["leader"]
            route.summary = summary
            if moved:
                self._publish_leader(route)

    def _publish_leader(self, route: Route) -> None:
        topic = f"group/{route.name}/leader"
        self._events_seq[topic] += 1
        event = {
            "node": self.node,
            "epoch": self.epoch,
            "seq": self._events_seq[topic],
            "term": route.summary["term"],
            "time_ms": self._clock.now_ms(),
            "leader": route.summary["leader"],
        }
        publish(self._publish, topic.encode(), msgpack.packb(event))

    def _on_described(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        worker = self._workers.get(link)
        if worker is not None:
            self.status.on_described(worker.slot, *frame[3:6])

    # ------------------------------------------------------------------ the node process

    def _on_identity(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self.neighbours.introduce(*frame[3:5])

    def _on_groups(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self.routing.set_routes(Route(*row) for row in frame[3])
        early, self._early_summaries = self._early_summaries, {}
        self._take_summaries(list(early.items()))

    def _on_nodes(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        for row in frame[3]:
            node, _, addresses = row[:3]
            if addresses.get("client"):
                self.routing.addresses[node] = addresses["client"]
            self.neighbours.learn(row)

    def _on_state(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self.status.state = frame[3]

    def _on_request(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        number, group, batch, elsewhere = frame[3:7]
        self.routing.on_message(OWN, number, False, b"", group.encode(), batch, elsewhere=elsewhere)

    def _on_catalog(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self._pass_to_node(link, frame)
        if self.routing.catalog_is_current:
            self.to_node(wire.CATALOG_CURRENT)

    def _pass_to_worker(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        """Lost without one; it is told again when it says HELLO."""
        worker = self.routing.workers.get(frame[3])
        if worker is not None:
            worker.send(frame[0], *frame[4:], control=True)

    def _on_drain(self, link: links.LinkProtocol, frame: list[Any]) -> None:
        self.routing.stopping = True
        for worker in self.routing.workers.values():
            worker.send(wire.DRAIN, control=True)

    def _on_admin(self, pending: Pending, group: str) -> bool:
        return self.status.on_admin(pending, group)

    # ------------------------------------------------------------------ the end of a drain

    def _make_room(self, size_bytes: int) -> None:
        """What is gathered into one frame and ``size_bytes`` more must stay below its limit."""
        if self.routing.gathered_bytes + size_bytes > GATHER_BYTES_MAX:
            self._flush()

    def _flush(self) -> None:
        """One frame per worker and lane for all that has come in: control first."""
        if self._peer_in:
            peer_in, self._peer_in = self._peer_in, {}
            self._peer_in_bytes = 0
            for (slot, lane), flat in sorted(peer_in.items(), key=_by_lane):
                worker = self.routing.workers.get(slot)
                if worker is not None and not worker.send(
                    wire.PEER_IN, flat, control=lane == LANE_CONTROL
                ):
                    self.counts["peer_in_dropped"] += 1
        if self.routing.dirty:
            dirty, self.routing.dirty = self.routing.dirty, {}
            self.routing.gathered_bytes = 0
            for worker in dirty.values():
                requests, worker.requests = worker.requests, []
                if not worker.send(wire.REQUESTS, requests):
                    self.routing.on_not_taken(worker, requests[::5])


_RAFT_KINDS: Final = {LANE_CONTROL: PEER_RAFT_CONTROL, LANE_BULK: PEER_RAFT}
_HEADER_ROOM_BYTES: Final = 4 << 10  # header of the frame and array around the messages


def _runs(summary: dict[str, Any]) -> bool:
    """A replica that is broken is shown, but is not handed anything."""
    return bool(summary["role"] != "none")


def _by_lane(item: tuple[tuple[int, int], list[Any]]) -> int:
    return item[0][1]


assert LANE_CONTROL < LANE_BULK

_FROM_PEERS: Final[dict[int, Callable[[Router, bytes, PeerHeader, memoryview], None]]] = {
    PEER_RAFT: Router._on_peer_raft,
    PEER_RAFT_CONTROL: Router._on_peer_raft_control,
    PEER_FORWARD: Router._on_peer_forward,
    PEER_FORWARD_REPLY: Router._on_peer_forward_reply,
    PEER_REPLIES_LOST: Router._on_peer_replies_lost,
}

_REPLY: tuple[Callable[[Router, Pending, bytes], None], ...] = (
    Router._reply_client,
    Router._reply_peer,
    Router._reply_own,
)


def router_process(arguments: RouterArguments, said: Connection) -> None:
    """Entry point of the router process; ``said`` takes its last words."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_logging(arguments.log_level, f"{arguments.node} router")
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(end_on_error)
    try:
        loop.run_until_complete(Router(arguments, loop).run())
    except (AddressInUse, BindRefused) as error:
        said.send_bytes(str(error.strerror).encode())
        os._exit(EXIT_ADDRESS)
    logging.shutdown()
    os._exit(0)
