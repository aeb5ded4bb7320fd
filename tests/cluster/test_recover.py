"""Two of three disks are gone: who is left goes on alone, when it is told to, and has its data."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from actors.catalog import SYSTEM_GROUP
from tests.cluster.harness import Cluster
from tests.cluster.operator import ctl, done, refused
from transport.client import Client

pytestmark = pytest.mark.cluster

RECOVER = ("--timeout-ms", "1500", "recover")  # whose disk is gone is not waited for any longer


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

    def leaderless() -> bool:
        found = [last.metadata(group) for group in (SYSTEM_GROUP, "kv")]
        return all(each is not None and each["leader"] is None for each in found)

    cluster.wait_until(leaderless, "nobody leads any more")
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
