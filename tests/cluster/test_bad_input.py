"""Whatever comes in over TCP: refused with its reason, and the node goes on.

One cluster serves all tests of this file, and after each of them it must still serve: that is the
point.
"""

from __future__ import annotations

import random
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import zmq

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.wire import (
    Wire,
    admin,
    batch,
    counted,
    describe,
    get,
    put,
    shared_cluster,
    show_logs_of,
    wires,
    write,
)
from transport import polyraft_pb2 as pb

pytestmark = pytest.mark.cluster

MIB: Final = 1 << 20
CLOSED_S_MAX: Final = 8.0  # libzmq gives a handshake three seconds
MakeWire = Callable[..., Wire]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared_cluster(tmp_path_factory, groups={"kv": "kv", "side": "kv"}) as cluster:
        yield cluster


@pytest.fixture
def three(shared: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    show_logs_of(shared, request)
    yield shared
    with wires() as make:
        for node in shared.nodes:
            reply = make(node.client).one("kv", put("still"))
            assert reply.code == pb.OK, f"{node.name} no longer serves: {describe(reply)}"


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    with wires() as make:
        yield make


def status(node: Node) -> dict[str, Any]:
    found = node.status()
    assert found is not None, f"{node.name} does not answer"
    return found


def is_bad_request(reply_frames: list[bytes], correlation: bytes, *words: str) -> None:
    assert len(reply_frames) == 2
    assert reply_frames[0] == correlation
    payload = pb.ReplyBatch.FromString(reply_frames[1])
    assert payload.whole
    (reply,) = payload.replies
    assert reply.code == pb.BAD_REQUEST, describe(reply)
    assert not reply.maybe_applied
    assert not reply.response.success
    for word in words:
        assert word in reply.response.errMsg


# --------------------------------------------------------------------------- frames

ONE_PUT = batch(put("k"))
FRAMES: dict[str, tuple[list[bytes], bytes, str]] = {
    # frames, correlation id of the reply, what the reason says
    "one frame": ([b"id"], b"id", "three frames"),
    "two frames": ([b"id", b"kv"], b"id", "three frames"),
    "four frames": ([b"id", b"kv", ONE_PUT, b""], b"id", "three frames"),
    "a thousand frames": ([b"id", *[b"x"] * 999], b"id", "three frames"),
    "only a delimiter": ([b"", b""], b"", "three frames"),
    "no correlation id": ([b"", b"", b"kv", ONE_PUT], b"", "correlation"),
    "an overlong correlation id": ([b"i" * 65, b"kv", ONE_PUT], b"", "correlation"),
    "an overlong group": ([b"id", b"g" * 129, ONE_PUT], b"id", "128"),
    "a group that is not UTF-8": ([b"id", b"k\xff", ONE_PUT], b"id", "UTF-8"),
    "an empty group": ([b"id", b"", ONE_PUT], b"id", "group frame is empty"),
    "a batch of 9 MiB": ([b"id", b"kv", bytes(9 * MIB)], b"id", "8388608"),
}


@pytest.mark.parametrize("situation", FRAMES)
def test_wrong_frames(three: Cluster, make_wire: MakeWire, situation: str) -> None:
    sent, correlation, word = FRAMES[situation]
    for node in three.nodes:
        wire = make_wire(node.client)
        before = counted(status(node), "bad_requests")
        wire.send_frames(*sent)
        reply = wire.receive_frames()
        if sent[0] == b"" and len(sent) > 1:
            assert reply.pop(0) == b"", "a delimiter is repeated"
        is_bad_request(reply, correlation, word)
        assert wire.is_quiet()
        if situation != "an empty group":
            assert counted(status(node), "bad_requests") == before + 1


def test_a_correlation_id_of_64_bytes_is_fine(three: Cluster, make_wire: MakeWire) -> None:
    wire = make_wire(three.nodes[0].client)
    wire.send_frames(b"i" * 64, b"kv", ONE_PUT)
    correlation, payload = wire.receive()
    assert correlation == b"i" * 64
    assert payload.replies[0].code == pb.OK


# --------------------------------------------------------------------------- batches


def read_of(consistency: int) -> pb.Request:
    return get("k", consistency=consistency)


EMPTY = pb.Request()
BATCHES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "no protobuf": (b"\xff\xff\xff", ("not a RequestBatch",)),
    "cut short": (ONE_PUT[:-1], ("not a RequestBatch",)),
    "no request": (b"", ("at least one",)),
    "a body that is missing": (batch(EMPTY), ("request 0", "missing")),
    "a body that is missing later": (batch(put("a"), put("b"), EMPTY), ("request 2", "missing")),
    "a body that is unknown": (b"\x0a\x03\xfa\x01\x00", ("request 0", "unknown")),
    "a read among writes": (batch(put("a"), get("a")), ("request 1", "one class")),
    "a write among reads": (batch(get("a"), get("a"), put("a")), ("request 2", "one class")),
    "an Admin that is not alone": (batch(admin("status"), admin("status")), ("request 1",)),
    "1,025 writes": (batch(*[put("k")] * 1_025), ("1024",)),
    "1,025 reads": (batch(*[get("k")] * 1_025), ("1024",)),
    "100,000 empty requests": (b"\x0a\x00" * 100_000, ("1024",)),
    "a write of another group": (batch(put("a"), put("b", group="side")), ("request 1", "group")),
    "a read of another group": (batch(get("a", group="side")), ("request 0", "group")),
    "an unknown consistency": (batch(get("a"), read_of(3)), ("request 1", "consistency 3")),
    "a write with a timeout above": (batch(put("a", timeout_ms=600_001)), ("request 0", "600000")),
    "a read with a timeout above": (
        batch(get("a"), get("a", timeout_ms=600_001)),
        ("request 1", "600000"),
    ),
    "an Admin with a timeout above": (batch(admin("groups", timeout_ms=600_001)), ("600000",)),
    "a sequence without a session": (batch(put("a", sequence=1)), ("request 0", "session")),
    "a session without a sequence": (batch(put("a", session=7)), ("request 0", "sequence")),
    "a sequence that was acknowledged": (
        batch(put("a", session=7, sequence=2, acknowledged=2)),
        ("request 0", "acknowledged"),
    ),
    "a session that is to be opened": (
        batch(pb.Request(open_session=pb.OpenSession())),
        ("sessions",),
    ),
    "a session that is to be closed": (
        batch(pb.Request(session=7, close_session=pb.CloseSession())),
        ("sessions",),
    ),
    "an unknown Admin": (batch(admin("reboot")), ("'reboot'",)),
}


@pytest.mark.parametrize("situation", BATCHES)
def test_wrong_batches_are_refused_whole_and_alike_by_every_node(
    three: Cluster, make_wire: MakeWire, situation: str
) -> None:
    data, words = BATCHES[situation]
    last = three.leader("kv").metadata("kv")
    assert last is not None
    reasons = set()
    for node in three.nodes:
        wire = make_wire(node.client)
        wire.send_frames(b"id", b"kv", data)
        reply = wire.receive_frames()
        is_bad_request(reply, b"id", *words)
        assert wire.is_quiet()
        reasons.add(pb.ReplyBatch.FromString(reply[1]).replies[0].response.errMsg)
    assert len(reasons) == 1
    now = three.leader("kv").metadata("kv")
    assert now is not None
    assert now["last_index"] == last["last_index"], "something was appended"


def test_the_largest_of_everything_is_accepted(three: Cluster, make_wire: MakeWire) -> None:
    for node in three.nodes:
        wire = make_wire(node.client)
        writes = [put(f"k{at}", group="kv", timeout_ms=600_000) for at in range(1_024)]
        replies = wire.call("kv", *writes).replies
        first = replies[0].index
        assert [reply.index for reply in replies] == list(range(first, first + 1_024))
    wire = make_wire(three.leader("side").client)
    assert wire.one("side", put("large", bytes(8 * MIB - 1_100))).code == pb.OK


def test_a_write_with_a_session_that_nobody_opened(three: Cluster, make_wire: MakeWire) -> None:
    for node in three.nodes:
        payload = make_wire(node.client).call("kv", put("a", session=7, sequence=1), put("b"))
        assert payload.whole
        assert payload.replies[0].code == pb.SESSION_EXPIRED


def test_a_group_that_does_not_exist(three: Cluster, make_wire: MakeWire) -> None:
    for node in three.nodes:
        wire = make_wire(node.client)
        for request in (put("k"), get("k"), admin("metadata")):
            payload = wire.call("nobody", request)
            assert payload.whole
            assert payload.replies[0].code == pb.NO_SUCH_GROUP, describe(payload.replies[0])
            assert "'nobody'" in payload.replies[0].response.errMsg


@pytest.mark.parametrize("operation", ["CREATE_GROUP", "REGISTER_NODE", "PUT", ""])
def test_writes_of_a_client_to_the_system_group(
    three: Cluster, make_wire: MakeWire, operation: str
) -> None:
    for node in three.nodes:
        payload = make_wire(node.client).call("_system", write(operation, "mine"))
        assert payload.whole
        assert payload.replies[0].code == pb.FORBIDDEN, describe(payload.replies[0])


# --------------------------------------------------------------------------- bytes on TCP


def ports(node: Node) -> dict[str, tuple[str, int]]:
    found = {}
    for name in ("client", "peer"):
        host, port = getattr(node, name).removeprefix("tcp://").rsplit(":", 1)
        found[name] = (host, int(port))
    return found


def ends(node: Node, port: str) -> int:
    """Connections that libzmq has ended, however it calls that."""
    counts = status(node)["connections"][port]
    return sum(counts.get(name, 0) for name in counts if "failed" in name or name == "disconnected")


# What could be ZMTP 1.0, which has no greeting, is not closed by libzmq: the first byte of "GET" is
# the length of a first frame, and the rest of it may still come.  It holds these bytes and no more.
MAYBE_ZMTP_1 = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
NO_ZMTP = {
    "random bytes": b"\xff" + random.Random(1).randbytes(4_000),
    "more random bytes": random.Random(2).randbytes(100_000),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "nothing": b"",
    "zeros": bytes(1_000),
    "a greeting and then noise": b"\xff\0\0\0\0\0\0\0\1\x7f\x03\x00NULL" + b"\xaa" * 200,
}


def test_bytes_that_are_no_zmtp(three: Cluster) -> None:
    """On both ports, several at once: closed, counted, and nobody else notices."""
    node = three.nodes[0]
    before = {name: ends(node, name) for name in ports(node)}
    opened: list[tuple[str, socket.socket]] = []
    try:
        for situation, data in NO_ZMTP.items():
            for name, address in ports(node).items():
                stream = socket.create_connection(address, timeout=CLOSED_S_MAX)
                opened.append((f"{situation} on the {name} port", stream))
                try:
                    stream.sendall(data)
                except ConnectionError:
                    continue  # closed while we were still sending
        for situation, stream in opened:
            assert _is_closed(stream), f"{situation}: the connection stays open"
    finally:
        for _, stream in opened:
            stream.close()
    for name in before:
        wait_until(
            lambda name=name: ends(node, name) >= before[name] + len(NO_ZMTP),  # type: ignore[misc]
            f"all are counted on the {name} port",
        )


def test_bytes_that_could_be_zmtp_1(three: Cluster) -> None:
    node = three.nodes[0]
    for name, address in ports(node).items():
        before = ends(node, name)
        with socket.create_connection(address, timeout=CLOSED_S_MAX) as stream:
            stream.sendall(MAYBE_ZMTP_1)
        wait_until(
            lambda name=name, before=before: ends(node, name) > before,  # type: ignore[misc]
            "its end is counted",
        )


def _is_closed(stream: socket.socket) -> bool:
    """Reads the greeting of the other side, then its end."""
    try:
        while stream.recv(1_000):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("port", ["client", "peer"])
def test_a_frame_of_20_mb(three: Cluster, port: str) -> None:
    node = three.nodes[1]
    before = ends(node, port)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    memory = resident_bytes(node)
    with context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        monitor = dealer.get_monitor_socket(int(zmq.EVENT_DISCONNECTED))
        dealer.connect(getattr(node, port))
        dealer.send_multipart([b"id", b"kv", bytes(20 * MIB)])
        assert monitor.poll(int(CLOSED_S_MAX * 1_000)), "the connection stays open"
        dealer.disable_monitor()
    wait_until(lambda: ends(node, port) > before, "it is counted")
    assert resident_bytes(node) < memory + 16 * MIB


def resident_bytes(node: Node) -> int:
    with open(f"/proc/{node.router().pid}/statm") as file:
        return int(file.read().split()[1]) * 4_096


# --------------------------------------------------------------------------- unmannered clients


def test_a_client_that_never_reads_its_replies(three: Cluster, make_wire: MakeWire) -> None:
    """Small replies: the queue of one client has a length, and what is beyond is dropped."""
    node = three.leader("kv")
    deaf = make_wire(node.client, RCVHWM=1, SNDHWM=0, RCVBUF=4_096)
    other = make_wire(node.client)
    dropped = counted(status(node), "replies_dropped_full")
    memory = resident_bytes(node)
    frames_sent = [b"id", b"nobody", batch(get("k"))]

    def is_dropped() -> bool:
        for _ in range(2_000):
            deaf.send_frames(*frames_sent)
        assert other.one("kv", put("k"), deadline_s=5).code == pb.OK
        return counted(status(node), "replies_dropped_full") > dropped

    wait_until(is_dropped, "replies are dropped and counted", 20)
    for _ in range(20_000):
        deaf.send_frames(*frames_sent)
    assert other.one("kv", put("k"), deadline_s=5).code == pb.OK
    assert resident_bytes(node) < memory + 32 * MIB


def test_a_client_that_never_reads_large_replies(three: Cluster, make_wire: MakeWire) -> None:
    """What waits for one client is bounded in bytes too."""
    node = three.leader("side")
    other = make_wire(node.client)
    assert other.one("side", put("mib", bytes(MIB))).code == pb.OK
    deaf = make_wire(node.client, RCVHWM=1, SNDHWM=0, RCVBUF=4_096)
    memory = resident_bytes(node)
    router = node.router()
    for _ in range(10):
        for _ in range(30):
            deaf.send("side", get("mib"))
        assert other.one("side", put("k"), deadline_s=5).code == pb.OK
        assert resident_bytes(node) < memory + 160 * MIB
    assert router.is_alive()
    wait_until(lambda: counted(status(node), "replies_dropped_full") > 0, "they are counted")


def test_more_than_64_mib_in_flight_of_one_client(three: Cluster, make_wire: MakeWire) -> None:
    node = three.leader("side")
    worker = node.worker_of("side")
    greedy, other = make_wire(node.client), make_wire(node.client)
    large = batch(pb.Request(read=pb.Read(request=pb.ReadRequest(data=bytes(8 * MIB - 100)))))
    worker.signal(signal.SIGSTOP)
    try:
        for number in range(9):
            greedy.send_frames(b"%d" % number, b"side", large)
        correlation, payload = greedy.receive()
        assert correlation == b"8", "the first eight fit"
        assert payload.whole
        assert payload.replies[0].code == pb.BUSY, describe(payload.replies[0])
        assert payload.replies[0].retry_after_ms > 0
        assert other.one("kv", put("k")).code == pb.OK, "it is the limit of one client"
    finally:
        worker.signal(signal.SIGCONT)
    replies = greedy.receive_all(8)
    assert set(replies) == {b"%d" % number for number in range(8)}
    wait_until(lambda: greedy.one("side", get("k")).code == pb.OK, "it may send again")


def test_empty_batches_in_flight(three: Cluster, make_wire: MakeWire) -> None:
    """They count no bytes, so nothing may be taken off for them either."""
    node = three.leader("side")
    worker, router = node.worker_of("side"), node.router()
    wire = make_wire(node.client)
    worker.signal(signal.SIGSTOP)
    try:
        for number in range(3):
            wire.send_frames(b"%d" % number, b"side", b"")
        assert wire.one("kv", put("k")).code == pb.OK
    finally:
        worker.signal(signal.SIGCONT)
    found = wire.receive_all(3)
    for number in range(3):
        assert found[b"%d" % number].replies[0].code == pb.BAD_REQUEST
    assert router.is_alive()
