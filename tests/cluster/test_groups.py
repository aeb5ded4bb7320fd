"""Many groups on a node: in workers of their own, in shared ones, and after a restart."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.cluster.harness import Cluster, wait_until
from transport.client import KV, Client

pytestmark = pytest.mark.cluster


def write_to_all(cluster: Cluster) -> None:
    with Client(cluster.addresses) as client:
        for group in cluster.groups:
            client.kv(group).put("where", group.encode())


def read_from_all(cluster: Cluster) -> None:
    with Client(cluster.addresses) as client:
        for group in cluster.groups:
            entry = client.kv(group).get("where")
            assert entry is not None
            assert entry.value == group.encode()


def restart_all(cluster: Cluster) -> None:
    for node in cluster.nodes:
        assert node.stop() == 0
    cluster.start()


def test_groups_in_workers_of_their_own(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(groups={"one": "kv", "two": "kv", "three": "kv"})
    write_to_all(cluster)
    node = cluster.leader("one")
    workers = {group: node.worker_of(group) for group in cluster.groups}
    assert len({worker.pid for worker in workers.values()}) == 3
    terms = {group: (node.metadata(group) or {})["term"] for group in ("two", "three")}
    workers["one"].signal(signal.SIGKILL)
    wait_until(lambda: node.worker_of("one") != workers["one"], "it is restarted")
    cluster.wait_serving()
    for group in ("two", "three"):
        assert node.worker_of(group) == workers[group]
        assert (node.metadata(group) or {})["term"] == terms[group]
    read_from_all(cluster)
    restart_all(cluster)
    read_from_all(cluster)
    for group in cluster.groups:
        cluster.wait_equal(group)


def test_many_groups_share_workers(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(groups={f"g{n}": "kv" for n in range(20)}, groups_per_worker=8)
    write_to_all(cluster)
    node = cluster.nodes[0]
    slots = {group: (node.metadata(group) or {})["worker"]["slot"] for group in cluster.groups}
    assert len(set(slots.values())) == 3
    assert max(list(slots.values()).count(slot) for slot in slots.values()) <= 8
    ids = {group: (node.metadata(group) or {})["id"] for group in cluster.groups}
    assert len(set(ids.values())) == 20
    node.worker_of("g0").signal(signal.SIGKILL)
    read_from_all(cluster)
    restart_all(cluster)
    read_from_all(cluster)
    for group in cluster.groups:
        cluster.wait_equal(group)
        metadata = node.metadata(group) or {}
        assert (metadata["id"], metadata["worker"]["slot"]) == (ids[group], slots[group])


def test_a_group_created_while_running_is_there_after_all_were_killed(cluster: Cluster) -> None:
    assert cluster.nodes[1].ask("_system", "createGroup", "later", machine="kv") is not None
    cluster.wait_serving(["later"])
    with Client(cluster.addresses) as client:
        KV(client, "later").put("a", b"b")
    for node in cluster.nodes:
        node.kill_all()
    cluster.start()
    cluster.wait_serving(["later"])
    with Client(cluster.addresses) as client:
        entry = KV(client, "later").get("a")
    assert entry is not None
    assert entry.value == b"b"
    cluster.wait_equal("later")
