"""Formation: how nodes with blank disks become a cluster, and how nothing else ever does.

A blank disk draws an incarnation and writes it down before it says a word.  Then it asks
*every* listed member who it is.  Four answers are possible:

* all members are blank and were given the same list: the cluster forms.  Its voters are all
  (node id, incarnation) pairs, and its id is the first 16 bytes of SHA-256 over them, sorted,
  so every member computes the same id without asking again.  The id is durable before the first
  vote;
* a member is *formed* and its cluster has exactly our pair: we were part of it and crashed in
  between, or were a moment late; its cluster is ours;
* a member is formed and knows our name with another incarnation: our disk is new, and what the
  old one promised is lost.  We refuse (pitfalls 19, 20), unless an operator has ordered that the
  node be replaced: then the members of the cluster put this disk into their catalog, and when one
  of them says that it is there we are part of the cluster, as somebody else than the old disk;
* a member is silent: we wait.  Forming with those present could make two clusters of one list.

Pure: hellos in, a decision out.  The node process carries decisions out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgpack

Pair = tuple[str, int]  # (node id, incarnation)


def members_hash(members: Mapping[str, str]) -> bytes:
    """A fingerprint of the list of members (node id -> peer address)."""
    return hashlib.sha256(msgpack.packb(sorted(members.items()))).digest()[:16]


def cluster_id(pairs: Iterable[Pair]) -> bytes:
    """The id of the cluster that these (node id, incarnation) pairs form: 16 bytes."""
    rows = [[node, incarnation] for node, incarnation in sorted(pairs)]
    return hashlib.sha256(msgpack.packb(rows)).digest()[:16]


@dataclass(slots=True, frozen=True)
class Hello:
    """What a member says of itself; ``pairs``: who formed its cluster (empty while blank).

    ``nodes``: what it knows of nodes, by name: incarnation, and whether a new disk is awaited.
    """

    node: str
    incarnation: int
    cluster: bytes
    members_hash: bytes
    pairs: tuple[Pair, ...] = ()
    nodes: Mapping[str, tuple[int, bool]] = field(default_factory=dict)

    @property
    def formed(self) -> bool:
        return self.cluster != b""


@dataclass(slots=True, frozen=True)
class Wait:
    text: str
    silent: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Formed:
    cluster: bytes
    pairs: tuple[Pair, ...]


@dataclass(slots=True, frozen=True)
class Refused:
    text: str


Decision = Wait | Formed | Refused


class Formation:
    """One blank node that looks for its cluster.

    ``joins``: it has asked a cluster to take it in, and founds none.
    """

    def __init__(
        self, node: str, incarnation: int, members: Mapping[str, str], *, joins: bool = False
    ) -> None:
        assert node in members, "a node is one of its own members"
        self._joins = joins
        self._me: Pair = (node, incarnation)
        self._members = frozenset(members)
        self._hash = members_hash(members)
        self._hellos: dict[str, Hello] = {}

    def on_hello(self, hello: Hello) -> None:
        """A member spoke; the newest word counts."""
        if hello.node in self._members and hello.node != self._me[0]:
            self._hellos[hello.node] = hello

    def decide(self) -> Decision:
        # Of several answers the most favourable: who is behind knows of no replacement yet.
        joined = [self._join(hello) for hello in self._hellos.values() if hello.formed]
        if joined:
            return min(joined, key=lambda decision: _RANKS[type(decision)])
        if self._joins:
            return Wait("waiting for a member of the cluster that is to be joined")
        silent = sorted(self._members - {self._me[0]} - self._hellos.keys())
        if silent:
            names = ", ".join(silent)
            return Wait(f"waiting for members that are silent: {names}", tuple(silent))
        for hello in self._hellos.values():
            if hello.members_hash != self._hash:
                return Wait(f"{hello.node} was started with another list of members")
        pairs = [self._me, *((each.node, each.incarnation) for each in self._hellos.values())]
        return Formed(cluster_id(pairs), tuple(sorted(pairs)))

    def _join(self, hello: Hello) -> Decision:
        known = dict(hello.pairs)
        node, incarnation = self._me
        if cluster_id(hello.pairs) != hello.cluster:
            return Wait(f"{hello.node} names a cluster that does not follow from its members")
        present, is_awaited = hello.nodes.get(node, (known.get(node, 0), False))
        if present == incarnation:
            return Formed(hello.cluster, tuple(sorted(hello.pairs)))
        if is_awaited:
            return Wait(f"waiting to be taken in by {hello.node} in the place of the old disk")
        if not present and self._joins:
            return Wait(f"waiting to be taken in by {hello.node}")
        if not present:
            return Refused(f"the cluster of {hello.node} has no member {node}; use --join")
        return Refused(f"the disk of {node} is new; use `bin/ctl node replace {node}`")


_RANKS: Final = {Formed: 0, Wait: 1, Refused: 2}
