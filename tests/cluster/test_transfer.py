"""Leadership changes hands because somebody wants it to."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from tests.cluster.harness import Cluster, Node, ask, wait_until
from tests.cluster.test_failures import under_load
from transport.client import Client, PolyraftError
from transport.client.ctl import main as ctl

pytestmark = pytest.mark.cluster

# An election that nobody asked for takes five seconds: a closed link does not hasten it here.
SLOW_ELECTIONS = {"election_timeout_ms": 5_000, "lease_reads": "true"}
SOON_S = 2.5


def transfer(node: Node, to: str = "") -> str | None:
    answer = ask(node.client, "kv", "transferLeader", to)
    return None if answer is None else str(answer["leader"])


def test_leadership_goes_round_under_load(cluster: Cluster) -> None:
    """Through any node; nothing is lost, nothing is done twice, every write is answered."""
    with under_load(cluster) as workload:
        for node in [*cluster.nodes, *cluster.nodes]:
            through = cluster.nodes[cluster.nodes.index(node) - 1]
            wait_until(lambda n=node, t=through: transfer(t, n.name) == n.name, "it leads")  # type: ignore[misc]
            assert cluster.leader("kv") is node
            workload.wait_acknowledged()


def test_the_command_line_moves_a_leader(
    cluster: Cluster, capfd: pytest.CaptureFixture[str]
) -> None:
    leader = cluster.leader("kv")
    connect = ["--connect", leader.client, "--json"]
    assert ctl([*connect, "transfer-leader", "kv"]) == 0
    successor = cluster.leader("kv")
    assert successor is not leader
    assert json.loads(capfd.readouterr().out) == {"leader": successor.name}
    assert ctl([*connect, "transfer-leader", "kv", "n9"]) == 1
    assert "does not vote" in capfd.readouterr().err


def test_a_node_that_is_stopped_hands_its_groups_over_first(
    make_cluster: Callable[..., Cluster],
) -> None:
    """Nobody waits for an election."""
    cluster = make_cluster(raft=SLOW_ELECTIONS)
    leader = cluster.leader("kv")
    others = cluster.others(leader)
    assert leader.stop() == 0
    began = time.monotonic()
    with Client([node.client for node in others], timeout_ms=4_000) as client:
        client.kv("kv").put("after", b"the stop")
    assert time.monotonic() - began < SOON_S
    assert (others[0].why("kv") or {})["ok"]
    leader.start()
    cluster.wait_equal("kv")


def test_reads_are_served_by_any_node_that_may(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(raft={"follower_reads": "true"})
    follower = cluster.followers("kv")[0]
    question = b"\x81\xa3get\xa5color"
    with Client(cluster.addresses) as writer, Client(follower.client) as reader:
        for number in range(20):
            written = writer.kv("kv").put("color", b"%d" % number)
            linearizable = reader.read("kv", question)
            assert b"%d" % number in linearizable.data
            stale = reader.read("kv", question, consistency="stale", min_index=written)
            assert b"%d" % number in stale.data
    counts = (follower.metadata("kv") or {})["counts"]
    assert counts["reads"] >= 40, "they were served here"


def test_after_the_loss_of_a_majority_the_rest_goes_on_by_hand(cluster: Cluster) -> None:
    with Client(cluster.addresses) as client:
        client.kv("kv").put("kept", b"value")
    cluster.wait_equal("kv")
    left, *lost = cluster.nodes
    for node in lost:
        node.kill_all()
    wait_until(lambda: (left.why("kv") or {}).get("reason") == "no_quorum", "it is noticed")
    with Client(left.client, timeout_ms=500) as client, pytest.raises(PolyraftError):
        client.kv("kv").put("a", b"b")
    assert left.ask("kv", "resetPeers", left.name) is None, "the catalog has to take it"
    wait_until(lambda: left.ask("_system", "resetPeers", left.name), "the catalog goes on")
    answer = wait_until(lambda: left.ask("kv", "resetPeers", left.name), "the leader is given up")
    assert answer == {"voters": [left.name]}
    assert cluster.leader("kv") is left
    with Client(left.client) as client:
        entry = client.kv("kv").get("kept")
        assert entry is not None
        client.kv("kv").put("a", b"b")
    members = (left.metadata("kv") or {})["members"]
    assert [member["id"] for member in members] == [left.name]
