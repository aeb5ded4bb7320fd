"""Which node to send to: addresses with their failures, links with their states.

A link is one connection to one address, numbered, never revived: when it is lost, silent or
refused, a new one under a new number takes its place after a pause, so a late reply can never be
taken for one of the new link's. Its states:

    CONNECTING --up--> UP --silent past a time limit--> RETIRING   (only listens; no new messages)
        |               |                                  |
        +---- lost -----+---------------- lost, or nothing in flight: closed

The usual node is the same for all groups until it fails; then the next address in the list becomes
it. A group whose leader is known is sent there instead, for as long as that address does not fail;
while a connection to it is still being made, the usual node forwards, unless it just refused to.
So a leader's address that this client cannot reach costs a try now and then, but no call its time.
"""

from __future__ import annotations

import re
from typing import Protocol

from transport.client.calls import ClientSettings, Lane, LaneKey

CONNECTING = 0
UP = 1
RETIRING = 2

# Addresses learned from replies are remembered up to this many, then the oldest is forgotten.
LEADERS_MAX = 65_536
LINKS_MAX = 256
# Addresses that were tried and failed are remembered up to this many beyond the given ones.
NODES_MAX = 1_024

_ADDRESS = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}\Z")


class Chance(Protocol):
    """The random numbers that spread retries."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


def is_address(text: str) -> bool:
    """Whether a text can be connected to."""
    return _ADDRESS.match(text) is not None


class Link:
    """One connection."""

    __slots__ = (
        "address",
        "connect_deadline_ms",
        "heard_ms",
        "in_flight",
        "messages_count",
        "number",
        "state",
    )

    def __init__(self, number: int, address: str, connect_deadline_ms: int) -> None:
        self.number = number
        self.address = address
        self.state = CONNECTING
        self.connect_deadline_ms = connect_deadline_ms
        self.heard_ms = 0
        # Messages in flight by lane, and together.
        self.in_flight: dict[LaneKey, int] = {}
        self.messages_count = 0

    def add(self, lane: LaneKey) -> None:
        """One more message is in flight."""
        self.in_flight[lane] = self.in_flight.get(lane, 0) + 1
        self.messages_count += 1

    def remove(self, lane: LaneKey) -> None:
        """One message fewer is in flight."""
        left = self.in_flight[lane] - 1
        if left:
            self.in_flight[lane] = left
        else:
            del self.in_flight[lane]
        self.messages_count -= 1


class Node:
    """One address: its link, if any, and when it may be tried again."""

    __slots__ = ("address", "failures", "link", "not_before_ms")

    def __init__(self, address: str) -> None:
        self.address = address
        self.link: Link | None = None
        self.failures = 0
        self.not_before_ms = 0


class Routes:
    """All addresses and links of one client."""

    def __init__(self, addresses: list[str], settings: ClientSettings, chance: Chance) -> None:
        self._settings = settings
        self._chance = chance
        self._addresses = list(dict.fromkeys(addresses))
        self._nodes: dict[str, Node] = {}
        self._home = 0
        self._next_number = 1
        self._leaders: dict[str, str] = {}
        self.links: dict[int, Link] = {}
        self.opened: list[Link] = []
        self.closed: list[Link] = []

    def learn_leader(self, group: str, address: str) -> None:
        """A reply says where a group is led."""
        if self._leaders.get(group) == address or not is_address(address):
            return
        if len(self._leaders) >= LEADERS_MAX:
            del self._leaders[next(iter(self._leaders))]
        self._leaders[group] = address

    def forget_leader(self, group: str, address: str) -> None:
        """The node that was believed to lead a group says that it does not."""
        if self._leaders.get(group) == address:
            del self._leaders[group]

    def leader_of(self, group: str) -> str | None:
        """Where a group is believed to be led."""
        return self._leaders.get(group)

    def choose(self, lane: Lane, now_ms: int) -> Link | None:
        """The link for a lane's next message; None while every candidate pauses."""
        if lane.address:
            return self._link_to(lane.address, now_ms)
        leader = self._leaders.get(lane.group)
        link = None if leader is None else self._link_to(leader, now_ms)
        if link is not None and (link.state == UP or lane.refusals):
            return link
        usual = self._usual_link(lane.turn, now_ms)
        return link if link is not None and (usual is None or usual.state != UP) else usual

    def _usual_link(self, turn: int, now_ms: int) -> Link | None:
        count = len(self._addresses)
        for step in range(count):
            position = (self._home + turn + step) % count
            link = self._link_to(self._addresses[position], now_ms)
            if link is not None:
                if turn == 0:
                    self._home = position
                return link
        return None

    def _link_to(self, address: str, now_ms: int) -> Link | None:
        node = self._nodes.get(address)
        if node is None:
            self._forget_nodes()
            node = self._nodes[address] = Node(address)
        if node.link is None and now_ms >= node.not_before_ms and self._make_room():
            number = self._next_number
            self._next_number += 1
            link = Link(number, address, now_ms + self._settings.connect_wait_ms)
            node.link = self.links[number] = link
            self.opened.append(link)
        return node.link

    def _forget_nodes(self) -> None:
        if len(self._nodes) < NODES_MAX:
            return
        linked = {link.address for link in self.links.values()}
        self._nodes = {
            address: node
            for address, node in self._nodes.items()
            if address in linked or address in self._addresses
        }

    def _make_room(self) -> bool:
        """Close an idle link when there are too many; False when all of them are busy."""
        if len(self.links) < LINKS_MAX:
            return True
        for link in self.links.values():
            if link.messages_count == 0 and link.state != CONNECTING:
                self.close(link)
                return True
        return False

    def up(self, link: Link) -> None:
        """The connection stands."""
        if link.state == CONNECTING:
            link.state = UP

    def heard(self, link: Link, now_ms: int) -> None:
        """Any reply proves that a node works."""
        link.heard_ms = now_ms
        node = self._nodes.get(link.address)
        if node is not None:
            node.failures = 0

    def failed(self, link: Link, now_ms: int) -> None:
        """A connection is lost or was refused: close it, pause the address, forget it as leader."""
        self._pause(link, now_ms)
        self.close(link)

    def retire(self, link: Link, now_ms: int) -> None:
        """A link was silent: send no more on it, but listen while answers may still come."""
        if link.state == RETIRING:
            return
        self._pause(link, now_ms)
        link.state = RETIRING
        self.close_if_done(link)

    def _pause(self, link: Link, now_ms: int) -> None:
        address = link.address
        node = self._nodes.get(address)
        if node is None or node.link is not link:
            return
        node.link = None
        node.failures += 1
        node.not_before_ms = now_ms + self.backoff_ms(node.failures)
        for group in [group for group, leader in self._leaders.items() if leader == address]:
            del self._leaders[group]

    def close_if_done(self, link: Link) -> None:
        """A retiring link ends with its last message."""
        if link.state == RETIRING and link.messages_count == 0 and link.number in self.links:
            self.close(link)

    def close(self, link: Link) -> None:
        """Let a connection go."""
        del self.links[link.number]
        self.closed.append(link)
        node = self._nodes.get(link.address)
        if node is None:
            return
        if node.link is link:
            node.link = None
        if node.link is None and not node.failures and link.address not in self._addresses:
            del self._nodes[link.address]

    def backoff_ms(self, failures: int) -> int:
        """A pause after this many failures in a row: doubled each time, half of it by chance."""
        settings = self._settings
        full_ms = min(settings.backoff_ms_max, settings.backoff_ms_min << min(failures, 16))
        return full_ms // 2 + int(self._chance.random() * (full_ms // 2)) + 1

    def next_deadline_ms(self, now_ms: int) -> int | None:
        """When a pause ends or a connection attempt has taken too long."""
        moments = [link.connect_deadline_ms for link in self.links.values() if not link.state]
        moments += [n.not_before_ms for n in self._nodes.values() if n.not_before_ms > now_ms]
        return min(moments, default=None)

    def overdue(self, now_ms: int) -> list[Link]:
        """Connection attempts that have taken too long."""
        return [
            link
            for link in self.links.values()
            if link.state == CONNECTING and link.connect_deadline_ms <= now_ms
        ]
