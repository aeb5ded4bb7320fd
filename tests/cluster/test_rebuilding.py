"""Machines that fail alone, of real nodes: they come back by themselves, and lack nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.test_snapshots import fill, known
from tests.cluster.workload import Workload
from tests.linearizability import check
from transport.client import Client

pytestmark = pytest.mark.cluster

OFTEN = {
    "snapshot_entries": 300,
    "snapshot_trailing_entries": 20,
    "snapshot_chunk_bytes": 2_000,
}


def flip(node: Node) -> str:
    """One bit in the middle of its newest snapshot; the file's name."""
    path = max(node.data.glob("groups/*/snapshots/*.snapshot"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return path.name


def is_running(node: Node) -> dict[str, Any] | None:
    found = node.metadata("kv")
    return found if found is not None and found["state"] == "running" else None


@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_a_follower_whose_snapshot_was_damaged_while_it_was_down_serves_again(
    make_cluster: Callable[..., Cluster], how: str
) -> None:
    cluster = make_cluster(raft=OFTEN)
    fill(cluster, 1_000)
    cluster.wait_equal("kv")
    follower = cluster.followers("kv")[0]
    follower.kill_all()
    name = flip(follower)
    if how == "gone":
        for path in follower.data.glob(f"groups/*/snapshots/{name}"):
            path.unlink()
    follower.start()
    wait_until(lambda: is_running(follower), "its machine is rebuilt")
    cluster.wait_equal("kv")
    rebuilt = known(follower)
    assert rebuilt["counts"]["rebuilds"]["rebuilt"] == 1
    assert rebuilt["counts"]["snapshots"]["received"] == 1
    with Client(follower.client) as client:
        entry = client.kv("kv").get("k999")
        assert entry is not None
        assert entry.value == b"v" * 50
    follower.kill_all()
    follower.start()
    cluster.wait_equal("kv")
    assert known(follower)["counts"]["rebuilds"] == {"attempts": 0, "rebuilt": 0}


def test_its_votes_count_while_its_machine_is_rebuilt(
    make_cluster: Callable[..., Cluster],
) -> None:
    """A second replica is down: what is acknowledged meanwhile is on the disk of this one."""
    cluster = make_cluster(raft=OFTEN)
    fill(cluster, 1_000)
    cluster.wait_equal("kv")
    sick, other = cluster.followers("kv")
    sick.kill_all()
    flip(sick)
    with Workload(cluster.addresses) as workload:
        workload.wait_alive()
        sick.start()
        other.kill_all()
        workload.wait_acknowledged()
        wait_until(lambda: is_running(sick), "its machine is rebuilt")
        workload.wait_acknowledged()
        other.start()
        workload.wait_acknowledged()
        workload.wait_alive()
        workload.stop()
    cluster.wait_equal("kv")
    check(workload.history)
    assert known(sick)["counts"]["rebuilds"]["rebuilt"] == 1
