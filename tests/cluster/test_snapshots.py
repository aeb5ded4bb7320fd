"""Logs that are let go of: replicas catch up by a snapshot, and begin with one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.workload import Workload
from tests.linearizability import check
from transport.client import Client

pytestmark = pytest.mark.cluster

OFTEN = {
    "snapshot_entries": 300,
    "snapshot_trailing_entries": 20,
    "snapshot_chunk_bytes": 2_000,
}


def fill(cluster: Cluster, count: int, prefix: str = "k") -> None:
    with Client(cluster.addresses) as client, ThreadPoolExecutor(16) as threads:
        kv = client.kv("kv")
        list(threads.map(lambda at: kv.put(f"{prefix}{at}", b"v" * 50), range(count)))


def known(node: Node) -> dict[str, Any]:
    found = wait_until(lambda: node.metadata("kv"), f"{node.name} says where it stands")
    assert found is not None
    return found


def snapshots(node: Node) -> list[str]:
    return sorted(path.name for path in node.data.glob("groups/*/snapshots/*"))


def test_a_follower_that_was_away_gets_a_snapshot_and_a_restart_begins_with_it(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(raft=OFTEN)
    fill(cluster, 100, "before")
    cluster.wait_equal("kv")
    follower = cluster.followers("kv")[0]
    behind = known(follower)["last_index"]
    follower.kill_all()
    fill(cluster, 1_500)
    leader = cluster.leader("kv")
    wait_until(lambda: known(leader)["first_index"] > behind + 1, "the log is let go of")
    follower.start()
    cluster.wait_equal("kv")
    caught_up = known(follower)
    assert caught_up["counts"]["snapshots"]["received"] == 1
    assert caught_up["first_index"] > behind + 1, "the old log is gone here too"
    assert caught_up["state"] == "running"

    follower.kill_all()
    follower.start()
    cluster.wait_equal("kv")
    restarted = known(follower)
    assert restarted["counts"]["snapshots"]["received"] == 0, "it had all of it"
    assert restarted["snapshot_index"] >= caught_up["snapshot_index"]
    with Client(follower.client) as client:
        entry = client.kv("kv").get("k1499")
        assert entry is not None
        assert entry.value == b"v" * 50


def test_all_nodes_begin_with_their_snapshots_and_lack_nothing(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(raft=OFTEN)
    fill(cluster, 1_000)
    index = cluster.wait_equal("kv")
    for node in cluster.nodes:
        wait_until(lambda node=node: len(snapshots(node)) == 1, "one file is left")  # type: ignore[misc]
    digest = known(cluster.nodes[0])["digest"]
    for node in cluster.nodes:
        node.kill_all()
    cluster.start()
    assert cluster.wait_equal("kv") > index, "an entry of the new leader"
    for node in cluster.nodes:
        assert known(node)["first_index"] > 600
        assert known(node)["digest"] == digest


def test_histories_stay_linearizable_while_snapshots_come_and_go(
    make_cluster: Callable[..., Cluster],
) -> None:
    """A log of ten entries between two of them; nodes die meanwhile."""
    cluster = make_cluster(raft={**OFTEN, "snapshot_entries": 10, "snapshot_trailing_entries": 2})
    with Workload(cluster.addresses) as workload:
        workload.wait_alive()
        for node in cluster.nodes:
            node.kill_all()
            workload.wait_acknowledged(60)
            node.start()
            workload.wait_acknowledged()
            cluster.wait_serving()
        workload.wait_alive()
        for node in cluster.nodes:
            wait_until(
                lambda node=node: known(node)["counts"]["snapshots"]["taken"] > 0,  # type: ignore[misc]
                f"{node.name} has taken one in its new life",
            )
        workload.stop()
    cluster.wait_equal("kv")
    check(workload.history)
    received = [known(node)["counts"]["snapshots"]["received"] for node in cluster.nodes]
    assert sum(received) > 0, "nobody needed one"


def test_a_snapshot_is_taken_when_it_is_asked_for(cluster: Cluster) -> None:
    fill(cluster, 10)
    index = cluster.wait_equal("kv")
    one, two, _ = cluster.nodes
    answer = one.ask("kv", "doSnapshot")
    assert answer is not None
    assert (answer["node"], answer["index"]) == (one.name, index)
    assert known(one)["snapshot_index"] == index
    by_name = one.ask("kv", "doSnapshot", two.name)
    assert by_name is not None
    assert by_name["node"] == two.name
    assert [len(snapshots(node)) for node in cluster.nodes] == [1, 1, 0]
