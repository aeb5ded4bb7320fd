"""Logs that are damaged or gone on one node: the replica comes back by itself, as another one.

Nothing else may come of it: the other groups of its log go on as who they are, nobody loses what
was acknowledged, and whoever came back counts: without it there is no majority at the end.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raft.store.files import Files
from raft.store.placement import REJOINING, PlacedGroup, Placement
from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.logs import check_logs
from tests.cluster.workload import Workload
from tests.linearizability import check
from transport.client import Client

pytestmark = pytest.mark.cluster

BACK_S_MAX = 20.0  # until it has caught up and votes
NEEDLE = b"needle-%s-%d"


def write_needles(cluster: Cluster, group: str, count: int = 40) -> None:
    with Client(cluster.addresses) as client:
        kv = client.kv(group)
        for at in range(count):
            kv.put(f"needle{at}", NEEDLE % (group.encode(), at))


def placed(node: Node, group: str) -> PlacedGroup:
    groups = Placement.load(Files(), str(node.data)).groups
    return next(each for each in groups.values() if each.name == group)


def log_directory(node: Node, group: str) -> Path:
    return node.data / "wal" / str(placed(node, group).slot)


def flip_byte(node: Node, group: str, at: int = 20) -> Path:
    """In the middle of what it has written of this group."""
    assert not node.is_running
    needle = NEEDLE % (group.encode(), at)
    for path in sorted(log_directory(node, group).glob("*.wal")):
        data = bytearray(path.read_bytes())
        offset = data.find(needle)
        if offset >= 0:
            data[offset] ^= 0x10
            path.write_bytes(data)
            return path
    raise AssertionError(f"{needle!r} is not in the log of {node.name}")


def wait_back(node: Node, group: str, life: int = 1) -> None:
    """It has caught up, votes, and is done with it."""

    def is_back() -> bool:
        found = placed(node, group)
        return found.life == life and found.is_born and REJOINING not in found.options

    wait_until(is_back, f"{group} has come back on {node.name}", BACK_S_MAX)


def seen(node: Node, group: str) -> dict[str, Any]:
    found = wait_until(lambda: node.metadata(group), f"{node.name} says how {group} is")
    assert found is not None
    return found


def check_votes(cluster: Cluster, node: Node, group: str) -> None:
    """Of three, this one and one other are a majority."""
    cluster.wait_equal(group)
    members = seen(node, group)["members"]
    assert {row["id"]: row["voter"] for row in members} == {"n1": True, "n2": True, "n3": True}
    other = (
        next(each for each in cluster.followers(group) if each is not node)
        if (cluster.leader(group) is not node)
        else cluster.others(node)[0]
    )
    other.kill_all()
    with Client([each.client for each in cluster.running]) as client:
        client.kv(group).put("without", other.name.encode())
    other.start()
    cluster.wait_serving()
    cluster.wait_equal(group)


@contextlib.contextmanager
def under_load(cluster: Cluster) -> Iterator[Workload]:
    with Workload(cluster.addresses) as workload:
        workload.wait_alive()
        yield workload
        workload.wait_alive()
        workload.stop()
    cluster.wait_equal("kv")
    check(workload.history)
    cluster.close()
    check_logs(cluster, "kv", workload)


def test_a_follower_with_a_flipped_byte_comes_back_as_a_voter(cluster: Cluster) -> None:
    write_needles(cluster, "kv")
    follower = cluster.followers("kv")[0]
    follower.stop()
    path = flip_byte(follower, "kv")
    follower.start()
    wait_back(follower, "kv")
    assert str(path) in follower.log.read_text(), "it says which file"
    check_votes(cluster, follower, "kv")
    assert placed(follower, "_system").life == 0

    follower.kill_all()
    follower.start()
    cluster.wait_serving()
    cluster.wait_equal("kv")
    assert placed(follower, "kv").life == 1, "the old damage condemns nobody else"


def test_a_leader_dies_under_load_and_its_log_is_damaged(cluster: Cluster) -> None:
    write_needles(cluster, "kv")
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        leader.kill_all()
        flip_byte(leader, "kv")
        workload.wait_acknowledged()
        leader.start()
        wait_back(leader, "kv")
        workload.wait_acknowledged()


def test_a_group_beside_the_damaged_one_goes_on(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(groups={"kv": "kv", "beside": "kv"}, groups_per_worker=2)
    write_needles(cluster, "kv")
    write_needles(cluster, "beside")
    assert placed(cluster.nodes[0], "kv").slot == placed(cluster.nodes[0], "beside").slot
    follower = cluster.followers("kv")[0]
    term = seen(cluster.leader("beside"), "beside")["term"]
    others = cluster.others(follower)
    with under_load(cluster) as workload:
        if cluster.leader("beside") is follower:
            assert follower.ask("beside", "transferLeader", others[0].name) is not None
            wait_until(lambda: cluster.leader_now("beside") is not follower, "somebody else leads")
            term = seen(cluster.leader("beside"), "beside")["term"]
        follower.stop()
        flip_byte(follower, "kv")
        follower.start()
        wait_until(lambda: seen(follower, "beside")["state"] == "running", "beside runs")
        wait_back(follower, "kv")
        workload.wait_acknowledged()
        assert placed(follower, "beside").life == 0
        assert seen(cluster.leader("beside"), "beside")["term"] == term, "nobody was disturbed"
        cluster.wait_equal("beside")


def test_a_log_that_is_gone_comes_back_too(cluster: Cluster) -> None:
    write_needles(cluster, "kv")
    follower = cluster.followers("kv")[0]
    follower.stop()
    shutil.rmtree(log_directory(follower, "kv"))
    follower.start()
    wait_back(follower, "kv")
    check_votes(cluster, follower, "kv")


def test_without_a_majority_of_the_others_nothing_is_given_up(cluster: Cluster) -> None:
    write_needles(cluster, "kv")
    follower, other = cluster.followers("kv")
    other.kill_all()
    follower.stop()
    flip_byte(follower, "kv")
    follower.start(wait=False)
    follower.wait_ready()

    def is_said() -> bool:
        told = follower.why("kv") or {}
        return told.get("reason") == "damaged" and "majority" in told.get("text", "")

    wait_until(is_said, "why says what can be done")
    assert placed(follower, "kv").life == 0
    other.start()
    wait_back(follower, "kv")
    cluster.wait_serving()
    cluster.wait_equal("kv")
