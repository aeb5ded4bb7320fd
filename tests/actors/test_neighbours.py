"""Who the other nodes are: what a node says of itself, and whom it believes."""

from __future__ import annotations

from collections import Counter
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from actors.kept_replies import KeptReplies
from actors.neighbours import Listener, Neighbours, Self
from actors.router import _FROM_PEERS, Router
from actors.runtime import VirtualClock
from transport import frames
from transport.frames import LANE_BULK

CLUSTER = b"c" * 16
OLD, NEW = 2, 22  # disks of n2
NO_SOCKETS: tuple[Any, Any] = (None, None)
NOBODY = Listener(*[cast(Any, None)] * 6)


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
    neighbours = Neighbours(me, *NO_SOCKETS, VirtualClock(), Counter(), NOBODY)
    link = Link()
    neighbours.links["n2"] = cast(Any, link)
    neighbours.introduce(b"", [])
    for _ in range(2):
        neighbours.introduce(CLUSTER, [["n1", 1], ["n2", 2]])
    assert (link.clusters, link.expected) == ([CLUSTER], [2])
    assert neighbours.endpoint().cluster == CLUSTER


def test_what_is_meant_for_a_disk_that_is_gone_does_not_reach_the_one_in_its_place() -> None:
    """Pitfall 21: frames carry the receiver of the link, messages have one each."""
    link = SimpleNamespace(remote_incarnation=NEW, sent=[])
    link.send = lambda lane, kind, body: link.sent.append(frames.unpack_raft(body)) or True
    me = Self("n1", 1, 5, {}, {}, b"")
    neighbours = Neighbours(me, *NO_SOCKETS, VirtualClock(), Counter(), NOBODY)
    neighbours.links["n2"] = cast(Any, link)
    counts: Counter[str] = Counter()
    router = cast(Router, SimpleNamespace(neighbours=neighbours, counts=counts))
    router._send_by_receiver = partial(Router._send_by_receiver, router)  # type: ignore[method-assign]
    for each in ("n2", OLD, 7, b"old"), ("n2", NEW, 7, b"new"), ("n2", NEW, 8, b"too"):
        Router._send_raft(router, LANE_BULK, list(each))
    Router._send_raft(router, LANE_BULK, ["n2", OLD, 9, b"old", "n2", NEW, 9, b"new"])
    assert link.sent == [[7, b"new"], [8, b"too"], [9, b"new"]]
    assert counts == {"raft_misaddressed": 2}
    link.remote_incarnation = 0  # not up: the link says so
    assert neighbours.lives("n2", OLD)
    assert neighbours.lives("n3", OLD)


def header(node: str, incarnation: int, cluster: bytes = CLUSTER) -> frames.PeerHeader:
    return frames.PeerHeader(cluster, node, incarnation, 9, "n1", 1)


def says(*nodes: list[Any], formed: bool = True) -> frames.Hello:
    return frames.Hello(formed, b"", "tcp://c:1", "tcp://p:1", "", 1, 1, [], list(nodes))


def row(node: str, incarnation: int, version: int, *, awaits: bool = False) -> list[Any]:
    """A row of NODES."""
    return [node, incarnation, {}, version, awaits, False]


def told(node: str, incarnation: int, version: int) -> list[Any]:
    """A row of HELLO."""
    return [node, incarnation, version, ["", "", ""], False, False]


class Heard:
    """A member of a cluster of n1, n2 and n3, and what it has passed on."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, int]] = []
        names = ("heard", "up", "down", "bulk_lost", "candidate", "news")
        listener = Listener(*[cast(Any, partial(self._note, name)) for name in names])
        me = Self("n1", 1, 5, {"client": "", "peer": "", "events": ""}, {}, b"")
        self.it = Neighbours(me, *NO_SOCKETS, VirtualClock(), Counter(), listener)
        self.it.introduce(CLUSTER, [["n1", 1], ["n2", OLD], ["n3", 3]])

    def _note(self, name: str, header: frames.PeerHeader, _: frames.Hello) -> None:
        self.calls.append((name, header.sender, header.sender_incarnation))

    def take(self) -> list[tuple[str, str, int]]:
        calls, self.calls = self.calls, []
        return calls


def test_a_blank_disk_under_a_known_name_is_a_candidate_where_a_new_one_is_awaited() -> None:
    heard = Heard()
    blank = says(formed=False)
    heard.it.hear(header("n2", NEW, b""), blank, asked=False)
    assert heard.take() == []
    assert "has a new disk" in heard.it.refused["n2"][0]
    heard.it.learn(row("n2", OLD, 7, awaits=True))
    heard.it.hear(header("n2", NEW, b""), blank, asked=False)
    assert heard.take() == [("candidate", "n2", NEW)]
    heard.it.hear(header("n2", NEW), says(), asked=False)
    assert heard.take() == [], "one that is formed comes from elsewhere"


def test_after_a_replacement_the_new_disk_counts_and_the_old_one_never_again() -> None:
    """Pitfalls 20, 21."""
    heard = Heard()
    heard.it.learn(row("n2", NEW, 9))
    me = heard.it.endpoint()
    for incarnation, word in ((NEW, ""), (OLD, "wrong_sender")):
        frame = frames.PeerHeader(CLUSTER, "n2", incarnation, 9, me.node, me.incarnation)
        assert heard.it.mismatch(frame) == word
    heard.it.hear(header("n2", OLD), says(told("n2", OLD, 3)), asked=True)
    assert heard.take() == []
    assert "n2" in heard.it.refused


def test_who_was_down_while_a_disk_was_replaced_learns_of_it_from_the_very_disk() -> None:
    heard = Heard()
    heard.it.hear(header("n2", NEW), says(told("n2", NEW, 9)), asked=True)
    assert heard.take() == [("news", "n2", NEW)]
    heard.it.learn(row("n2", NEW, 9))
    heard.it.hear(header("n2", NEW), says(told("n2", NEW, 9)), asked=True)
    assert heard.take() == [("heard", "n2", NEW)]
    heard.it.hear(header("n2", NEW, b"x" * 16), says(told("n3", 33, 12)), asked=True)
    assert heard.take() == [], "of another cluster"


def test_what_a_node_knows_of_others_goes_with_each_hello() -> None:
    heard = Heard()
    heard.it.learn(["n2", NEW, {"client": "tcp://c:1"}, 9, False, True])
    hello = frames.unpack_hello(frames.pack_hello(heard.it._hello()))
    assert hello.nodes == [["n2", NEW, 9, ["tcp://c:1", "", ""], False, True]]


def test_who_may_have_lost_replies_hears_of_it_behind_those_that_wait() -> None:
    """A connection can be given up by one end alone, with answers in it, while both links stay up:
    who waits for them would wait for the whole deadline."""
    sent: list[tuple[int, bytes]] = []

    def send(node: str, lane: int, kind: int, body: bytes) -> bool:
        sent.append((kind, body))
        return True

    lost: list[str] = []
    router = cast(
        Router,
        SimpleNamespace(
            neighbours=SimpleNamespace(send=send),
            counts=Counter(),
            routing=SimpleNamespace(on_peer_lost=lost.append, workers={}),
            _clock=VirtualClock(5_000),
            _kept_replies=KeptReplies(),
        ),
    )
    router._tell_replies_lost = partial(Router._tell_replies_lost, router)  # type: ignore[method-assign]
    Router._on_bulk_lost(router, "n2")
    assert (sent, lost) == ([], ["n2"]), "there were none"
    router._kept_replies.note_sent("n2", 4_000)
    Router._on_bulk_lost(router, "n2")
    assert sent == [(frames.PEER_REPLIES_LOST, b"")]
    Router._on_peer_down(router, "n2")  # and that message with it
    router._kept_replies.keep("n2", b"waits")
    Router._on_peer_up(router, "n2")
    assert sent[1:] == [(frames.PEER_FORWARD_REPLY, b"waits"), (frames.PEER_REPLIES_LOST, b"")]
    header = cast(Any, SimpleNamespace(sender="n3"))
    _FROM_PEERS[frames.PEER_REPLIES_LOST](router, b"", header, memoryview(b""))
    assert lost[-1] == "n3", "what n3 was to answer is unknown"


def test_whatever_a_peer_may_send_has_somebody_who_takes_it() -> None:
    assert _FROM_PEERS.keys() == frames.PEER_KINDS - {frames.PEER_HELLO}
