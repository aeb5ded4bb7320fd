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
  old one promised is lost.  We refuse (pitfalls 19, 20); an operator replaces the node;
* a member is silent: we wait.  Forming with those present could make two clusters of one list.

Pure: hellos in, a decision out.  The node process carries decisions out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
    """What a member says of itself; ``pairs``: who formed its cluster (empty while blank)."""

    node: str
    incarnation: int
    cluster: bytes
    members_hash: bytes
    pairs: tuple[Pair, ...] = ()

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
    """One blank node that looks for its cluster."""

    def __init__(self, node: str, incarnation: int, members: Mapping[str, str]) -> None:
        assert node in members, "a node is one of its own members"
        self._me: Pair = (node, incarnation)
        self._members = frozenset(members)
        self._hash = members_hash(members)
        self._hellos: dict[str, Hello] = {}

    def on_hello(self, hello: Hello) -> None:
        """A member spoke; the newest word counts."""
        if hello.node in self._members and hello.node != self._me[0]:
            self._hellos[hello.node] = hello

    def decide(self) -> Decision:
        for hello in self._hellos.values():
            if hello.formed:
                return self._join(hello)
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
        if node not in known:
            return Refused(
                f"the cluster of {hello.node} has no member {node}; joining is not in this version"
            )
        if known[node] != incarnation:
            return Refused(f"the disk of {node} is new; use `bin/ctl node replace {node}`")
        return Formed(hello.cluster, tuple(sorted(hello.pairs)))
