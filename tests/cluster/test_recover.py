"""Two of three disks are gone: who is left goes on alone, when it is told to, and has its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from raft.store.files import Files
from raft.store.placement import LEFT, Placement
from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.operator import ctl, done, refused
from transport.client import Client

pytestmark = pytest.mark.cluster

RECOVER = ("--timeout-ms", "1500", "recover")  # whose disk is gone is not waited for any longer
BACK_S_MAX = 30.0


def test_the_last_of_three_goes_on_alone_and_has_everything(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster()
    with Client(cluster.addresses) as client:
        kv = client.kv("kv")
        for at in range(100):
            kv.put(f"k{at}", b"v%d" % at)
    cluster.wait_equal("kv")
    last, *lost = cluster.nodes
    assert "has a leader" in refused("recover", "kv", "--yes", "kv", connect=cluster.addresses)
    for node in lost:
        node.kill_all()
        shutil.rmtree(node.data)
    connect = cluster.addresses
    wait_leaderless(last)
    assert "not confirmed" in ctl(*RECOVER, "kv", connect=connect).stderr
    plan = done(*RECOVER, "kv", "--plan", connect=connect)
    assert (plan["proposed"], plan["voters"], plan["given_up"]) == ("n1", ["n1"], ["n2", "n3"])
    for group in (SYSTEM_GROUP, "kv"):
        after = done(*RECOVER, group, "--yes", group, connect=connect)
        assert after["leader"] == "n1"
    cluster.wait_serving()
    found = last.metadata("kv")
    assert found is not None
    assert [each["id"] for each in found["members"]] == ["n1"]
    with Client(last.client) as client:
        kv = client.kv("kv")
        for at in range(100):
            entry = kv.get(f"k{at}")
            assert entry is not None
            assert entry.value == b"v%d" % at
        kv.put("after", b"1")
    # It is in the log, so it holds after a restart.
    last.kill_all()
    last.start()
    cluster.wait_serving()
    with Client(last.client) as client:
        assert client.kv("kv").get("after") is not None
    last.stop()
    shown = ctl("wal", "dump", str(last.data), "--group", "kv").stdout
    assert "run CONFIG" in shown


def wait_leaderless(node: Node) -> None:
    def leaderless() -> bool:
        found = [node.metadata(group) for group in (SYSTEM_GROUP, "kv")]
        return all(each is not None and each["leader"] is None for each in found)

    wait_until(leaderless, "nobody leads any more")


def test_a_node_that_was_given_up_and_comes_back_with_its_disk_is_another_replica(
    cluster: Cluster,
) -> None:
    """Of the catalog's group; in others who is left is all that is wanted."""
    last, *lost = cluster.nodes
    incarnations = {node.name: node.status()["incarnation"] for node in lost}  # type: ignore[index]
    for node in lost:
        node.kill_all()
    wait_leaderless(last)
    for group in (SYSTEM_GROUP, "kv"):
        done(*RECOVER, group, "--yes", group, connect=cluster.addresses)
    for count, node in enumerate(lost, 2):
        node.start()
        wait_until(
            lambda count=count: voters(last) == [f"n{at}" for at in range(1, count + 1)],  # type: ignore[misc]
            f"{node.name} votes again",
            BACK_S_MAX,
        )
        assert node.status()["incarnation"] == incarnations[node.name]  # type: ignore[index]
        assert "_system: those who were left have gone on without it" in node.log.read_text()
        found = Placement.load(Files(), str(node.data)).groups[SYSTEM_GROUP_ID]
        assert found.life == 1
        wait_until(lambda node=node: has_left(node), "its old replica of kv is gone")  # type: ignore[misc]
    done("--timeout-ms", "30000", "change-peers", "kv", "n1,n2,n3", connect=cluster.addresses)
    cluster.wait_serving()
    cluster.wait_equal("kv")
    last.kill_all()
    cluster.leader(SYSTEM_GROUP)
    with Client([node.client for node in lost]) as client:
        client.kv("kv").put("without the one that was left", b"1")
    last.start()
    cluster.wait_serving()


def voters(node: Node) -> list[str]:
    metadata = node.metadata(SYSTEM_GROUP)
    members = [] if metadata is None else metadata["members"]
    return sorted(each["id"] for each in members if each["voter"])


def has_left(node: Node) -> bool:
    groups = Placement.load(Files(), str(node.data)).groups
    return all(LEFT in each.options for each in groups.values() if each.name == "kv")
