"""The contract with clients, held against real nodes by a client that does nothing by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import msgpack
import pytest
import zmq

from tests.cluster.harness import Cluster
from tests.cluster.wire import (
    Wire,
    add,
    admin,
    batch,
    check_shape,
    data_of,
    describe,
    get,
    put,
    read,
    shared_cluster,
    show_logs_of,
    wires,
    write,
)
from transport import polyraft_pb2 as pb

pytestmark = pytest.mark.cluster

MakeWire = Callable[..., Wire]
_keys = itertools.count(1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared_cluster(tmp_path_factory, groups={"kv": "kv", "side": "kv"}) as cluster:
        yield cluster


@pytest.fixture
def three(shared: Cluster, request: pytest.FixtureRequest) -> Cluster:
    show_logs_of(shared, request)
    return shared


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    with wires() as make:
        yield make


@pytest.fixture
def every(three: Cluster, make_wire: MakeWire) -> list[Wire]:
    """A socket to each node: one is the leader of kv, two must forward."""
    return [make_wire(node.client) for node in three.nodes]


def new_key() -> str:
    return f"key{next(_keys)}"


# --------------------------------------------------------------------------- writes and reads

Outcome = tuple[int, str, bytes, bool, str]


def outcome(reply: pb.Reply) -> Outcome:
    """All of a reply but the number of its index."""
    response = reply.response
    return reply.code, response.errMsg, response.data, reply.index > 0, reply.leader


CAS_DIFFERS = msgpack.packb([b"other", b"new"])
WRITES: dict[str, tuple[Callable[[str], pb.Request], int]] = {
    "PUT": (lambda key: put(key), pb.OK),
    "DELETE": (lambda key: write("DELETE", key), pb.OK),
    "CAS": (lambda key: write("CAS", key, msgpack.packb([None, b"new"])), pb.OK),
    "ADD": (lambda key: add(key, 5), pb.OK),
    "CAS that differs": (lambda key: write("CAS", key, CAS_DIFFERS), pb.REJECTED),
    "ADD of a text": (lambda key: write("ADD", key, msgpack.packb("5")), pb.REJECTED),
    "CAS of no msgpack": (lambda key: write("CAS", key, b"\xc1"), pb.REJECTED),
    "no key": (lambda key: put(""), pb.REJECTED),
    "an overlong key": (lambda key: put("k" * 4_097), pb.REJECTED),
    "an unknown operation": (lambda key: write("INVENT", key), pb.REJECTED),
}


@pytest.mark.parametrize("situation", WRITES)
def test_a_write_has_the_same_outcome_through_every_node(
    three: Cluster, every: list[Wire], situation: str
) -> None:
    make, code = WRITES[situation]
    leader = three.leader("kv").name
    outcomes = set()
    for wire in every:
        payload = wire.call("kv", make(new_key()))
        assert not payload.whole, "what a machine says it says to each command"
        (reply,) = payload.replies
        assert reply.code == code, describe(reply)
        assert reply.index > 0, "it is in the log, whatever the machine said"
        assert reply.leader == leader
        outcomes.add(outcome(reply))
    assert len(outcomes) == 1


READS: dict[str, tuple[object, int]] = {
    "a key": ({"get": "fixed"}, pb.OK),
    "a key that is not there": ({"get": "absent"}, pb.OK),
    "a range": ({"range": ["fixed", "fixed2"]}, pb.OK),
    "a range with a limit": ({"range": ["fixed", None], "limit": 1}, pb.OK),
    "an overlong key": ({"get": "k" * 4_097}, pb.REJECTED),
    "no key": ({"get": ""}, pb.REJECTED),
    "a limit of zero": ({"range": ["", None], "limit": 0}, pb.REJECTED),
    "a limit of 10,001": ({"range": ["", None], "limit": 10_001}, pb.REJECTED),
    "an unknown read": ({"sum": True}, pb.REJECTED),
    "no map": ([1, 2], pb.REJECTED),
}


@pytest.mark.parametrize("situation", READS)
def test_a_read_has_the_same_outcome_through_every_node(
    three: Cluster, every: list[Wire], situation: str
) -> None:
    query, code = READS[situation]
    for key in ("fixed", "fixed1", "fixed2"):
        assert every[0].one("kv", put(key, key.encode())).code == pb.OK
    outcomes = set()
    for wire in every:
        payload = wire.call("kv", read(query))
        assert not payload.whole
        (reply,) = payload.replies
        assert reply.code == code, describe(reply)
        assert reply.index > 0, "the index that the answer is good for"
        outcomes.add(outcome(reply))
    assert len(outcomes) == 1


def test_what_was_written_is_read_with_its_index_as_version(every: list[Wire]) -> None:
    key = new_key()
    written = every[0].one("kv", put(key, b"one"))
    assert written.response.data == b""
    for wire in every:
        assert data_of(wire.one("kv", get(key))) == {"value": b"one", "version": written.index}
    removed = every[1].one("kv", write("DELETE", key))
    assert removed.index > written.index
    assert [data_of(wire.one("kv", get(key))) for wire in every] == [None] * 3


def test_counts_start_at_zero_and_stop_at_64_bits(every: list[Wire]) -> None:
    key = new_key()
    assert [data_of(wire.one("kv", add(key, 2))) for wire in every] == [2, 4, 6]
    top = (1 << 63) - 1
    assert data_of(every[0].one("kv", add(key, top - 6))) == top
    reply = every[1].one("kv", add(key, 1))
    assert reply.code == pb.REJECTED
    assert "64 bits" in reply.response.errMsg
    assert every[2].one("kv", put(key, b"text")).code == pb.OK
    assert every[0].one("kv", add(key, 1)).code == pb.REJECTED


def test_an_answer_above_4_mib_is_rejected(every: list[Wire]) -> None:
    for number in range(5):
        assert every[0].one("side", put(f"large{number}", bytes(1 << 20))).code == pb.OK
    for wire in every:
        reply = wire.one("side", read({"range": ["large", None]}))
        assert reply.code == pb.REJECTED, describe(reply)
        assert "4194304" in reply.response.errMsg
        assert len(data_of(wire.one("side", read({"range": ["large", None], "limit": 3})))) == 3


def test_a_linearizable_read_sees_every_write_that_was_answered(every: list[Wire]) -> None:
    """To anybody: written through one node, read at once through the next."""
    key = new_key()
    for number in range(60):
        writer, reader = every[number % 3], every[(number + 1) % 3]
        written = writer.one("kv", put(key, b"%d" % number))
        reply = reader.one("kv", get(key))
        assert data_of(reply) == {"value": b"%d" % number, "version": written.index}
        assert reply.index >= written.index


@pytest.mark.parametrize("consistency", [pb.LINEARIZABLE, pb.LEASE, pb.STALE])
def test_every_consistency_is_served_by_every_node(every: list[Wire], consistency: int) -> None:
    key = new_key()
    index = every[0].one("kv", put(key, b"x")).index
    for wire in every:
        reply = wire.one("kv", get(key, consistency=consistency, min_index=index))
        assert data_of(reply) == {"value": b"x", "version": index}
        assert reply.index >= index


def test_a_read_waits_for_its_index_and_gives_up_at_its_deadline(every: list[Wire]) -> None:
    """The highest min_index of the message counts for all of it."""
    index = every[0].one("side", put("k")).index
    for wire in every:
        late = get("k", min_index=index + 1_000, timeout_ms=200)
        payload = wire.call("side", get("k", timeout_ms=200), late, get("k", timeout_ms=100))
        assert payload.whole
        assert payload.replies[0].code == pb.TIMEOUT, describe(payload.replies[0])
        assert not payload.replies[0].maybe_applied
    waiting = every[0].send("side", get("k", min_index=index + 3))
    for _ in range(3):
        assert every[1].one("side", put("k")).code == pb.OK
    correlation, answered = every[0].receive()
    assert correlation == waiting
    assert answered.replies[0].index >= index + 3


# --------------------------------------------------------------------------- messages


def test_each_write_of_a_message_has_its_index_and_its_outcome(every: list[Wire]) -> None:
    """Contiguous, in order, and nothing is atomic."""
    for wire in every:
        key = new_key()
        payload = wire.call(
            "kv", add(key, 1), write("NOPE", key), add(key, 1), put("", b""), add(key, 1)
        )
        replies = payload.replies
        first = replies[0].index
        assert [reply.index - first for reply in replies] == [0, 1, 2, 3, 4]
        codes = [pb.OK, pb.REJECTED, pb.OK, pb.REJECTED, pb.OK]
        assert [reply.code for reply in replies] == codes
        assert [data_of(reply) for reply in replies[::2]] == [1, 2, 3]


def test_each_read_of_a_message_has_its_answer(every: list[Wire]) -> None:
    key = new_key()
    every[0].one("kv", put(key, b"x"))
    for wire in every:
        replies = wire.call("kv", get(key), read({"nope": 1}), get("absent")).replies
        assert [reply.code for reply in replies] == [pb.OK, pb.REJECTED, pb.OK]
        assert data_of(replies[0])["value"] == b"x"
        assert data_of(replies[2]) is None
        assert len({reply.index for reply in replies}) == 1, "they are served together"


def test_every_message_gets_exactly_one_reply(every: list[Wire]) -> None:
    kinds = [
        ("kv", [put("k")]),
        ("kv", [get("k")]),
        ("kv", [write("NOPE", "k"), put("k")]),
        ("kv", [put("k"), get("k")]),
        ("kv", []),
        ("nobody", [put("k")]),
        ("kv", [admin("metadata")]),
        ("", [admin("status")]),
        ("_system", [admin("groups")]),
        ("_system", [put("k")]),
        ("side", [put("k", bytes(20_000))]),
        ("", [put("k")]),
    ]
    for wire in every:
        sent = {}
        for _ in range(25):
            for group, requests in kinds:
                sent[wire.send(group, *requests)] = len(requests)
        found = wire.receive_all(len(sent))
        assert found.keys() == sent.keys()
        for correlation, payload in found.items():
            check_shape(payload, sent[correlation])
        assert wire.is_quiet()


def test_messages_of_one_client_are_appended_in_the_order_sent(every: list[Wire]) -> None:
    """Also through nodes that forward, and whatever their sizes."""
    for wire in every:
        key = new_key()
        sent = [
            wire.send("kv", add(key, 1), put(f"{key}/{number % 7}", bytes(number % 5 * 7_000)))
            for number in range(400)
        ]
        found = wire.receive_all(len(sent))
        counts = [data_of(found[correlation].replies[0]) for correlation in sent]
        assert counts == list(range(1, 401))
        indexes = [reply.index for each in sent for reply in found[each].replies]
        assert indexes == sorted(indexes)


def test_replies_carry_the_correlation_id_byte_for_byte(every: list[Wire]) -> None:
    for wire in every:
        for correlation in (b"\0", b"\xff" * 64, b"kv"):
            wire.send_frames(correlation, b"kv", batch(put("k")))
            assert wire.receive()[0] == correlation


def test_a_req_socket_is_served(three: Cluster, make_wire: MakeWire) -> None:
    """It sends an empty delimiter and takes only replies that begin with one."""
    for node in three.nodes:
        wire = make_wire(node.client, zmq.REQ)
        assert wire.one("kv", put("k")).code == pb.OK
        assert data_of(wire.one("kv", get("k")))["value"] == b"v"
        assert wire.one("nobody", put("k")).code == pb.NO_SUCH_GROUP
        wire.send_frames(b"id", b"kv")
        assert wire.receive()[1].replies[0].code == pb.BAD_REQUEST
        assert wire.ask("kv", "metadata")["group"] == "kv"


def test_a_delimiter_is_repeated_to_a_dealer_that_sends_one(every: list[Wire]) -> None:
    for wire in every:
        wire.send_frames(b"", b"id", b"kv", batch(put("k")))
        delimiter, correlation, _ = wire.receive_frames()
        assert (delimiter, correlation) == (b"", b"id")


def test_unknown_fields_are_ignored(every: list[Wire]) -> None:
    """A newer client may say more."""
    unknown = b"\xa2\x06\x03new"  # field 100, text
    request = put("newer", b"x").SerializeToString() + unknown
    body = b"\x0a" + bytes([len(request)]) + request + unknown
    for wire in every:
        wire.send_frames(b"id", b"kv", body)
        assert wire.receive()[1].replies[0].code == pb.OK
        assert data_of(wire.one("kv", get("newer")))["value"] == b"x"


def test_many_clients_on_one_node_get_only_their_own_replies(
    three: Cluster, make_wire: MakeWire
) -> None:
    node = three.followers("kv")[0]
    clients = [make_wire(node.client) for _ in range(20)]
    for client in clients:
        key = new_key()
        for _ in range(20):
            client.send_frames(b"same id for all", b"kv", batch(add(key, 1)))
    for client in clients:
        counts = [data_of(client.receive()[1].replies[0]) for _ in range(20)]
        assert counts == list(range(1, 21))
        assert client.is_quiet()
