"""Who the other nodes are: what a node says of itself, and whom it believes."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from actors.neighbours import Listener, Neighbours, Self
from actors.runtime import VirtualClock

CLUSTER = b"c" * 16


class Link:
    """What it was told, in place of a link."""

    def __init__(self) -> None:
        self.clusters: list[bytes] = []
        self.expected: list[int] = []

    def set_endpoint(self, endpoint: Any) -> None:
        self.clusters.append(endpoint.cluster)

    def expect(self, incarnation: int) -> None:
        self.expected.append(incarnation)


def test_a_blank_node_that_forms_introduces_itself_anew_and_once() -> None:
    me = Self("n1", 1, 5, {}, {}, b"")
    nobody = Listener(*[cast(Any, None)] * 4)
    neighbours = Neighbours(me, cast(Any, None), cast(Any, None), VirtualClock(), Counter(), nobody)
    link = Link()
    neighbours.links["n2"] = cast(Any, link)
    neighbours.introduce(b"", [])
    for _ in range(2):
        neighbours.introduce(CLUSTER, [["n1", 1], ["n2", 2]])
    assert (link.clusters, link.expected) == ([CLUSTER], [2])
    assert neighbours.endpoint().cluster == CLUSTER
