"""Input that is well-formed and means no good: large, many, or made to break the next hop.

Each of these once ended a process, or stopped a group, in a review of this code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zmq

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.wire import (
    Wire,
    add,
    admin,
    data_of,
    get,
    put,
    read,
    shared_cluster,
    show_logs_of,
)
from transport import frames
from transport import polyraft_pb2 as pb

pytestmark = pytest.mark.cluster

LARGE_VALUE = bytes(7_900_000)
# Nobody here harms a cluster, so there is one for all.  Who writes much has a group for it.
GROUPS = {"kv": "kv", "ranges": "kv", "answers": "kv", "large": "kv"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared_cluster(tmp_path_factory, groups=GROUPS) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster, request: pytest.FixtureRequest) -> Cluster:
    show_logs_of(shared, request)
    return shared


def told(node: Node) -> dict[str, Any]:
    status = wait_until(node.status, f"{node.name} tells its status")
    assert status is not None
    return status


def told_of(cluster: Cluster, group: str) -> dict[str, Any]:
    leader = cluster.leader(group)
    metadata = wait_until(lambda: leader.metadata(group), "the leader tells of its group")
    assert metadata is not None
    return metadata


def pids(cluster: Cluster) -> dict[str, list[tuple[str, int]]]:
    """Who runs: another router or worker than before would show."""
    found = {}
    for node in cluster.nodes:
        found[node.name] = [(each["kind"], each["pid"]) for each in told(node)["processes"]]
    return found


def assert_serves(cluster: Cluster) -> None:
    """Through every node; a disk that was given 100 MB may have cost a leader its place."""
    for node in cluster.nodes:
        wire = Wire(node.client)
        try:
            wait_until(
                lambda wire=wire: wire.one("kv", add("alive", 1)).code == pb.OK,  # type: ignore[misc]
                f"{node.name} serves",
            )
        finally:
            wire.close()


def test_a_message_of_a_thousand_large_ranges(cluster: Cluster) -> None:
    """It is refused for the size of its answers, early, and the leader goes on leading."""
    wire = Wire(cluster.leader("ranges").client)
    for start in range(0, 3_000, 1_000):
        wire.send("ranges", *(put(f"k{start + at:05}", bytes(380)) for at in range(1_000)))
    wire.receive_all(3)
    before = told_of(cluster, "ranges")
    wire.send("ranges", *[read({"range": ["", None], "limit": 10_000})] * 1_024)
    _, answer = wire.receive(30.0)
    assert answer.whole
    assert answer.replies[0].code == pb.REJECTED
    assert "ask in several" in answer.replies[0].response.errMsg
    after = told_of(cluster, "ranges")
    assert after["term"] == before["term"], "the leader was taken for dead"
    assert data_of(wire.one("ranges", get("k00000")))["value"] == bytes(380)
    wire.close()


def test_numbers_too_large_for_what_comes_after(cluster: Cluster) -> None:
    before = pids(cluster)
    wire = Wire(cluster.leader("_system").client)
    for number in ("99999999999999999999", str(1 << 64), "-1", "", "1e3", "\u0663"):
        answer = wire.one("_system", admin("registerNode", "n1", incarnation=number))
        assert answer.code == pb.FORBIDDEN, number
    wire.close()
    assert pids(cluster) == before


def test_a_client_cannot_say_where_a_node_is(cluster: Cluster) -> None:
    """An address that cannot be connected to would end every other node's router, for ever."""
    before = pids(cluster)
    wire = Wire(cluster.leader("_system").client)
    nodes = wire.ask("_system", "nodes")["nodes"]
    for node in nodes:
        for address in ("garbage", "tcp://127.0.0.1:1"):
            values = {"client": address, "peer": address, "events": address}
            answer = wire.one(
                "_system",
                admin(
                    "registerNode", node["id"], 0, incarnation=str(node["incarnation"]), **values
                ),
            )
            assert answer.code == pb.FORBIDDEN
    wire.close()
    assert_serves(cluster)
    assert pids(cluster) == before


def test_questions_about_a_name_of_megabytes(cluster: Cluster) -> None:
    before = pids(cluster)
    wire = Wire(cluster.nodes[0].client)
    for command in ("metadata", "why"):
        assert wire.one("", admin(command, "\x01" * 3_000_000)).code == pb.BAD_REQUEST
        assert wire.one("", admin(command, "n" * 200)).code == pb.BAD_REQUEST
    assert wire.one("", admin("metadata", "no such name!")).code == pb.NO_SUCH_GROUP
    many = {f"k{number}": "v" for number in range(300_000)}
    assert wire.one("", admin("status", "", 0, **many)).code == pb.BAD_REQUEST
    wire.close()
    assert pids(cluster) == before


def test_more_answers_than_fit_into_the_way_out(cluster: Cluster) -> None:
    """Reads wait until earlier answers have left; writes beside them are answered as ever."""
    leader = cluster.leader("answers")
    wire, other = Wire(leader.client, RCVHWM=0), Wire(leader.client)
    for start in range(0, 10_000, 1_000):
        wire.send("answers", *(put(f"r{start + at:05}", b"12345678") for at in range(1_000)))
    wire.receive_all(10)
    ranges = [read({"range": ["", None], "limit": 10_000}, timeout_ms=60_000)] * 4
    for _ in range(100):
        wire.send("answers", *ranges)
    for _ in range(20):
        assert other.one("answers", add("beside", 1, timeout_ms=60_000), 60.0).code == pb.OK
    codes = [answer.replies[0].code for answer in wire.receive_all(100, 60.0).values()]
    assert codes == [pb.OK] * 100
    wire.close()
    other.close()


def hello_of_a_stranger(node: Node, founders: object, *, name: str = "n2") -> bytes:
    header = frames.PeerHeader(bytes(16), name, 5, 6, node.name, 0)
    body = msgpack.packb(
        ["formed", b"", "tcp://127.0.0.1:1", "tcp://127.0.0.1:1", "", 1, 1, founders],
        use_single_float=True,
    )
    return frames.pack_peer_frame(frames.PEER_HELLO, header, body)


def test_hellos_of_strangers_end_nobody_and_are_not_kept(cluster: Cluster) -> None:
    before = pids(cluster)
    node = cluster.nodes[0]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 5_000)
    socket.connect(node.peer)
    socket.send(hello_of_a_stranger(node, [0.1] * 3_000_000))
    socket.send(hello_of_a_stranger(node, [["n1", float("inf")]]))
    for number in range(200):
        socket.send(hello_of_a_stranger(node, [["x", 1]], name=f"stranger{number}"))

    def counts() -> dict[str, int]:
        status = node.status()
        return {} if status is None else status["counts"]

    cluster.wait_until(lambda: counts().get("peers_refused", 0) >= 200, "all were looked at")
    assert counts()["peer_malformed"] == 2
    socket.close()
    assert list(told(node)["refused"]) == ["*"], "strangers fill the memory with their names"
    assert_serves(cluster)
    assert pids(cluster) == before


def test_the_largest_writes_through_a_follower_many_at_once(cluster: Cluster) -> None:
    """What a router gathers for a worker stays below what a link carries.

    The last of them: these disks have much to do for a while.
    """
    before = pids(cluster)
    follower = cluster.followers("large")[0]
    wire = Wire(follower.client)
    for round_number in range(2):
        for number in range(7):
            wire.send("large", put(f"{round_number}/{number}", LARGE_VALUE))
        answers = wire.receive_all(7, 60.0)
        codes = {answer.replies[0].code for answer in answers.values()}
        # Refused for their size in flight is an answer, and so is a leader whose disk needed too
        # long for so much; UNAVAILABLE would mean that somebody died.
        assert codes <= {pb.OK, pb.BUSY, pb.NOT_LEADER}, codes
    wire.close()
    assert_serves(cluster)
    assert pids(cluster) == before
