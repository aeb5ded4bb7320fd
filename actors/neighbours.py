"""The other nodes: who they are, the links to them, and who is not spoken to.

What may live here: identity between nodes.  What travels is the router's business.

A node says nothing to anybody, and hears nobody, before it knows itself who it is
(:meth:`Neighbours.introduce`): one that is formed and called itself blank for a moment could
help a new disk to form a cluster of its own.

What strangers say is neither believed nor kept.  An address or incarnation is taken only from a
node that the configuration or the catalog names; a node of another cluster, or with another
disk than the one that formed ours, is refused, remembered for ``why``, and logged at most once
a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from actors.runtime.clock import Clock
from actors.settings import PEER_BULK_QUEUE_BYTES_MAX, PEER_CONTROL_QUEUE_BYTES_MAX
from transport import frames
from transport.addresses import AddressError, parse_tcp
from transport.frames import Endpoint, Hello, PeerHeader
from transport.peers import UP, PeerLink
from transport.sockets import Context

log = logging.getLogger("polyraft.router")

STRANGERS: Final = "*"  # no node's name
REFUSED_PEERS_MAX: Final = 64  # remembered for `why`; then the oldest is forgotten
REFUSED_LOG_MS: Final = 60_000  # at most one line about the same peer in this time
STORE_FORMAT: Final = 1


@dataclass(slots=True, frozen=True)
class Self:
    """What does not change in the life of this process.  ``members``: node id -> peer address."""

    node: str
    incarnation: int
    epoch: int
    advertise: dict[str, str]  # "client", "peer", "events"
    members: dict[str, str]
    members_hash: bytes


@dataclass(slots=True, frozen=True)
class Listener:
    """Who is told what; nodes by name."""

    on_heard: Callable[[PeerHeader, Hello], None]  # a node that counts said who it is
    on_up: Callable[[str], None]
    on_down: Callable[[str], None]
    on_bulk_lost: Callable[[str], None]  # what was forwarded is lost; the node may be well
    on_candidate: Callable[[PeerHeader, Hello], None]  # a blank disk where a new one is awaited
    on_news: Callable[[PeerHeader, Hello], None]  # somebody of this cluster knows more of nodes


class Neighbours:
    """``counts`` is the router's own, shown by ``status``."""

    def __init__(
        self,
        me: Self,
        context: Context,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        counts: Counter[str],
        listener: Listener,
    ) -> None:
        self._me = me
        self._context = context
        self._loop = loop
        self._clock = clock
        self._counts = counts
        self._listener = listener
        self._founders: list[Any] = []  # [node, incarnation] of who formed the cluster
        self.introduced = False
        self.cluster = b""  # empty while the disk is blank
        self.links: dict[str, PeerLink] = {}
        self.incarnations: dict[str, int] = {}  # of the catalog, or of who formed the cluster
        self._nodes: dict[str, list[Any]] = {}  # rows of NODES (actors/wire.py)
        self.refused: dict[str, tuple[str, int]] = {}  # node -> why, when last logged
        self.down_since_ms: dict[str, int] = {}  # nodes whose link is not up

    # ------------------------------------------------------------------ who we are, who they are

    def introduce(self, cluster: bytes, founders: list[Any]) -> None:
        """This node knows who it is, or has just become part of a cluster."""
        if self.introduced and cluster == self.cluster:
            return
        self.cluster, self._founders = cluster, founders
        if cluster:
            for node, incarnation in founders:
                self.incarnations.setdefault(node, incarnation)
        if not self.introduced:
            self.introduced = True
            for node, address in self._me.members.items():
                self._reach(node, address)
            return
        for node, link in self.links.items():
            link.set_endpoint(self.endpoint())
            link.expect(self.incarnations.get(node, 0))

    def learn(self, row: list[Any]) -> None:
        """What the catalog says of a node: a row of NODES (:mod:`actors.wire`)."""
        node, incarnation, addresses, _, _, is_removed = row
        self._nodes[node] = row
        self.incarnations[node] = incarnation
        if node in self.links:
            self.links[node].expect(incarnation)
        peer_address = addresses.get("peer")
        if not peer_address or (is_removed and node not in self.links):
            return  # who is removed is spoken to until it has left, and not sought again
        try:
            parse_tcp(peer_address)
        except AddressError as error:
            self._counts["bad_addresses"] += 1
            log.error("the catalog has no usable address of %s: %s", node, error)
            return
        self._reach(node, peer_address)

    def endpoint(self) -> Endpoint:
        return Endpoint(self.cluster, self._me.node, self._me.incarnation, self._me.epoch)

    def hello_to(self, header: PeerHeader) -> bytes:
        """The frame that tells the sender of ``header`` who we are."""
        return frames.pack_hello_frame(
            self.endpoint(), header.sender, header.sender_incarnation, self._hello()
        )

    def mismatch(self, header: PeerHeader) -> str:
        """Why a frame is not for us, or not from a node that counts: the word that is counted."""
        word = frames.header_mismatch(self.endpoint(), header)
        if not word and header.sender_incarnation != self.incarnations.get(header.sender):
            return "wrong_sender"
        return word

    def hear(self, header: PeerHeader, hello: Hello, *, asked: bool) -> None:
        """A node said who it is; ``asked``: in answer to us, at the address that we know.

        A blank node believes answers alone: anybody could come and call himself a member.
        """
        node = header.sender
        if node == self._me.node or not (asked or self.cluster):
            self._counts["hello_unasked"] += 1
            return
        if self.cluster and hello.formed and header.cluster == self.cluster:
            self._compare(header, hello)
        known = self.incarnations.get(node)
        is_stranger = known is None and node not in self._me.members
        if self.cluster and hello.formed and header.cluster != self.cluster:
            # Of strangers, who may call themselves anything, only the last one is remembered.
            self._refuse(
                STRANGERS if is_stranger else node,
                f"{node} at {hello.peer_address} belongs to another cluster",
            )
        elif is_stranger:
            self._counts["unknown_nodes"] += 1
        elif self.cluster and known is not None and header.sender_incarnation != known:
            if not hello.formed and node in self._nodes and self._nodes[node][4]:
                self._listener.on_candidate(header, hello)
                return
            self._refuse(node, f"{node} at {hello.peer_address} has a new disk; replace the node")
        else:
            self.refused.pop(node, None)
            self._listener.on_heard(header, hello)

    def _compare(self, header: PeerHeader, hello: Hello) -> None:
        """Who knows more of nodes than we do is believed before it is asked who it is: it may be
        what we have missed (:mod:`actors.known_nodes`)."""
        for node, _, version, *_ in hello.nodes:
            known = self._nodes.get(node)
            if version > (0 if known is None else known[3]):
                self._listener.on_news(header, hello)
                return

    def _hello(self) -> Hello:
        advertise = self._me.advertise
        return Hello(
            bool(self.cluster),
            self._me.members_hash,
            advertise["client"],
            advertise["peer"],
            advertise["events"],
            STORE_FORMAT,
            STORE_FORMAT,
            self._founders,
            [
                [
                    node,
                    incarnation,
                    version,
                    [addresses.get(key, "") for key in ("client", "peer", "events")],
                    awaits,
                    removed,
                ]
                for node, incarnation, addresses, version, awaits, removed in self._nodes.values()
            ]
            if self.cluster
            else [],
        )

    def _refuse(self, node: str, reason: str) -> None:
        """Remember why a node is not spoken to; say it at most once a minute."""
        self._counts["peers_refused"] += 1
        now = self._clock.now_ms()
        _, logged_ms = self.refused.pop(node, ("", now - REFUSED_LOG_MS))
        if now - logged_ms >= REFUSED_LOG_MS:
            log.warning("link refused: %s", reason)
            logged_ms = now
        while len(self.refused) >= REFUSED_PEERS_MAX:
            del self.refused[next(iter(self.refused))]
        self.refused[node] = (reason, logged_ms)

    # ------------------------------------------------------------------ links

    def is_up(self, node: str) -> bool:
        link = self.links.get(node)
        return link is not None and link.state == UP

    def lives(self, node: str, incarnation: int) -> bool:
        """Whether this disk, and no other, is what the link to the node leads to.

        A link that is not up leads nowhere yet: that is for :meth:`send` to say.
        """
        link = self.links.get(node)
        return link is None or link.remote_incarnation in (0, incarnation)

    def can_forward(self, node: str) -> bool:
        """Whether a client's message would leave at once; otherwise the client tries again."""
        link = self.links.get(node)
        return link is not None and link.carries_bulk

    def send(self, node: str, lane: int, kind: int, body: bytes) -> bool:
        """False: dropped; the node is unknown or not reached, or its lane is full."""
        link = self.links.get(node)
        return link is not None and link.send(lane, kind, body)

    def silent_ms(self, node: str) -> int | None:
        """For how long the link has not been up; None while it is."""
        since_ms = self.down_since_ms.get(node)
        return None if since_ms is None else self._clock.now_ms() - since_ms

    def close(self) -> None:
        for link in self.links.values():
            link.close()

    def _reach(self, node: str, address: str) -> None:
        if node == self._me.node:
            return
        known = self.links.get(node)
        if known is not None:
            known.set_address(address)
            known.expect(self.incarnations.get(node, 0))
            return
        link = PeerLink(
            self._context,
            self._loop,
            me=self.endpoint(),
            node=node,
            address=address,
            make_hello=self._hello,
            on_up=self._on_up,
            on_down=self._on_down,
            on_hello=self._on_link_hello,
            on_bulk_lost=lambda link: self._listener.on_bulk_lost(link.node),
            incarnation=self.incarnations.get(node, 0),
            control_queue_bytes_max=PEER_CONTROL_QUEUE_BYTES_MAX,
            bulk_queue_bytes_max=PEER_BULK_QUEUE_BYTES_MAX,
        )
        self.links[node] = link
        self.down_since_ms[node] = self._clock.now_ms()
        link.start()

    def _on_link_hello(self, link: PeerLink, header: PeerHeader, hello: Hello) -> None:
        if header.sender != link.node:
            self._refuse(link.node, f"{link.address} is {header.sender}, not {link.node}")
            return
        self.hear(header, hello, asked=True)

    def _on_up(self, link: PeerLink) -> None:
        log.info("link to %s is up", link.node)
        self.down_since_ms.pop(link.node, None)
        self._listener.on_up(link.node)

    def _on_down(self, link: PeerLink, reason: str) -> None:
        log.info("link to %s is down: %s", link.node, reason)
        self.down_since_ms[link.node] = self._clock.now_ms()
        self._listener.on_down(link.node)
