"""Members that change, and disks that are lost and replaced, under load with real processes."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.ports import PORTS_PER_NODE, free_loopback_ports
from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.test_failures import under_load
from transport.client import Client, ctl

pytestmark = pytest.mark.cluster

CATCH_UP_S_MAX = 30.0


def run_ctl(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    """Exit code, and what it said on either output."""
    connect = ",".join(node.client for node in cluster.running)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = ctl.main(["--connect", connect, "--timeout-ms", "30000", *arguments])
    return code, out.getvalue()


def done(cluster: Cluster, *arguments: str) -> dict[str, Any]:
    code, said = run_ctl(cluster, *arguments, "--json")
    assert code == 0, said
    answer: dict[str, Any] = json.loads(said)
    return answer


def replace_node(cluster: Cluster, name: str) -> None:
    """As soon as nobody has heard of it for long enough."""
    command = ("node", "replace", name, "--json")
    wait_until(lambda: run_ctl(cluster, *command)[0] == 0, f"{name} counts as silent")


def members(node: Node, group: str = "kv") -> list[str]:
    metadata = node.metadata(group)
    return [] if metadata is None else sorted(it["id"] for it in metadata["members"])


def wipe(node: Node) -> None:
    shutil.rmtree(node.data)


def has_none(node: Node, group: str) -> bool:
    metadata = node.metadata(group)
    return metadata is None or metadata["worker"]["slot"] is None


def test_three_members_become_two_and_three_again(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        leaves = cluster.followers("kv")[0]
        rest = sorted(node.name for node in cluster.nodes if node is not leaves)
        assert done(cluster, "change-peers", "kv", ",".join(rest))["members"] == rest
        workload.wait_acknowledged()
        cluster.wait_until(lambda: has_none(leaves, "kv"), "its replica is forgotten")
        assert done(cluster, "change-peers", "kv", "n1,n2,n3")["members"] == ["n1", "n2", "n3"]
        workload.wait_acknowledged()
        assert members(leader) == ["n1", "n2", "n3"]


def test_the_leader_is_removed_and_comes_back(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        assert leader.name not in done(cluster, "remove-peer", "kv", leader.name)["members"]
        workload.wait_acknowledged()
        assert cluster.leader("kv") is not leader
        done(cluster, "change-peers", "kv", "n1,n2,n3")
        workload.wait_acknowledged()


def test_a_lost_disk_is_replaced_under_load(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        lost = cluster.leader("kv")
        lost.kill_all()
        wipe(lost)
        workload.wait_acknowledged()
        lost.start(wait=False)
        assert lost.wait_end() == 1
        assert f"use `bin/ctl node replace {lost.name}`" in lost.log_tail()
        replace_node(cluster, lost.name)
        assert done(cluster, "node", "replace", lost.name)["stuck"] == {}
        lost.start()
        wait_for_votes(cluster, lost.name)
        workload.wait_acknowledged()


def test_all_replicas_of_a_lost_disk_come_back_as_others_by_one_command(
    make_cluster: Callable[..., Cluster],
) -> None:
    """Those of the catalog and of several groups, in shared workers; and nothing of it before."""
    names = ["kv", "a", "b", "c"]
    cluster = make_cluster(groups=dict.fromkeys(names, "kv"), groups_per_worker=2)
    lost = cluster.leader("_system")
    with Client(cluster.addresses) as client:
        for name in names:
            client.kv(name).put("before", b"1")
    status = lost.status()
    assert status is not None
    old = status["incarnation"]
    lost.kill_all()
    wipe(lost)
    cluster.wait_serving()
    lost.start(wait=False)
    assert lost.wait_end() == 1
    assert f"the disk of {lost.name} is new; use `bin/ctl node replace {lost.name}`" in (
        lost.log_tail()
    )
    code, shown = run_ctl(cluster, "status")
    assert code == 0
    assert f"refused {lost.name}: {lost.name} at {lost.peer} has a new disk; replace the" in shown
    for name in ("_system", *names):
        leader = cluster.leader(name)
        (row,) = (it for it in replicas(leader, name) if it["node"] == lost.name)
        assert row["incarnation"] == old, "nobody has taken the wiped disk for the old one"
    replace_node(cluster, lost.name)
    lost.start()
    for name in ("_system", *names):
        wait_until(
            lambda name=name: is_voter(cluster, lost.name, name),  # type: ignore[misc]
            f"{lost.name} votes in {name}",
            CATCH_UP_S_MAX,
        )
    (row,) = (it for it in done(cluster, "nodes")["nodes"] if it["id"] == lost.name)
    assert (row["past"], row["awaits"]) == ([old], False)
    assert row["incarnation"] != old
    said = "".join(node.log.read_text() for node in cluster.others(lost))
    assert f"{lost.name} has a new disk, which takes the place of the old one" in said
    gone = cluster.others(lost)[0]
    gone.kill_all()
    with Client([node.client for node in cluster.running]) as client:
        for name in names:
            client.kv(name).put("after", b"its vote is needed")
            assert client.kv(name).get("before") is not None
    gone.start()
    cluster.wait_serving()


def replicas(node: Node, group: str) -> list[dict[str, Any]]:
    metadata = node.metadata(group)
    return [] if metadata is None else list(metadata["replicas"])


def test_the_old_disk_is_refused_for_ever(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    lost = cluster["n1"]
    lost.stop()
    old = lost.data.with_name("old")
    shutil.copytree(lost.data, old)
    wipe(lost)
    cluster.wait_serving()
    replace_node(cluster, "n1")
    lost.start()
    cluster.wait_serving()
    wait_until(lambda: members(lost) == ["n1", "n2", "n3"], "n1 is back", CATCH_UP_S_MAX)
    lost.stop()
    shutil.rmtree(lost.data)
    shutil.copytree(old, lost.data)
    lost.start(wait=False)
    assert lost.wait_end() == 1
    assert "was replaced by another one" in lost.log_tail()
    shutil.rmtree(old)


def test_a_node_that_is_alive_is_not_replaced(cluster: Cluster) -> None:
    wait_until(lambda: run_ctl(cluster, "nodes")[0] == 0, "the catalog answers")
    code, said = run_ctl(cluster, "node", "replace", "n1")
    assert code == 1
    assert "is alive" in said


def test_nodes_that_replaced_their_disks_one_after_the_other_find_each_other(
    cluster: Cluster,
) -> None:
    """A restart of everything: nobody has heard the catalog yet, and the founders are gone."""
    for name in ("n1", "n2", "n3"):
        lost = cluster[name]
        lost.kill_all()
        wipe(lost)
        wait_until(lambda: run_ctl(cluster, "nodes")[0] == 0, "the catalog answers")
        replace_node(cluster, name)
        lost.start()
        wait_for_votes(cluster, name)
    for node in cluster.nodes:
        node.kill_all()
    cluster.start()
    cluster.wait_equal("kv")


def test_a_new_node_joins_and_gets_a_replica(cluster: Cluster, tmp_path: Path) -> None:
    with under_load(cluster) as workload:
        addresses = [f"tcp://127.0.0.1:{port}" for port in free_loopback_ports(PORTS_PER_NODE)]
        arguments = ["--join", cluster["n1"].client, "--group", "kv=kv"]
        new = Node("n4", addresses, tmp_path, cluster.mark, arguments, [])
        cluster.nodes.append(new)
        new.start()
        wait_until(lambda: is_voter(cluster, "n4", "_system"), "n4 is a node", CATCH_UP_S_MAX)
        done(cluster, "change-peers", "kv", "n1,n2,n4")
        wait_until(lambda: is_voter(cluster, "n4", "kv"), "n4 has a replica", CATCH_UP_S_MAX)
        workload.wait_acknowledged()
        new.stop()
        new.start()
        wait_until(lambda: is_voter(cluster, "n4", "kv"), "it is back", CATCH_UP_S_MAX)
        done(cluster, "change-peers", "kv", "n1,n2,n3,n4")


def wait_for_votes(cluster: Cluster, name: str) -> None:
    """A node votes again wherever it is to."""
    wait_until(
        lambda: all(is_voter(cluster, name, group) for group in ("_system", "kv")),
        f"{name} has caught up and votes",
        CATCH_UP_S_MAX,
    )


def is_voter(cluster: Cluster, name: str, group: str) -> bool:
    """With the disk that it has, and nobody else under its name."""
    leader, status = cluster.leader_now(group), cluster[name].status()
    metadata = None if leader is None else leader.metadata(group)
    own = cluster[name].metadata(group)
    if metadata is None or status is None or own is None:
        return False
    disk = {"node": name, "incarnation": status["incarnation"], "voter": True}
    named = [it for it in metadata["replicas"] if it["node"] == name]
    return named == [disk] and own["role"] in ("follower", "leader")
