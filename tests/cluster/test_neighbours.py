"""Groups that share one worker process, and nodes that are not a cluster yet."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.harness import READY_S_MAX, Cluster, wait_until
from tests.cluster.wire import Wire, admin, data_of, describe, get, put, wires, write
from transport import polyraft_pb2 as pb

pytestmark = pytest.mark.cluster

MakeWire = Callable[..., Wire]
MakeCluster = Callable[..., Cluster]


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    with wires() as make:
        yield make


def test_a_group_that_fails_leaves_its_neighbours_in_the_same_process_alone(
    make_cluster: MakeCluster, make_wire: MakeWire
) -> None:
    """One raises in apply, one cannot be made: while the worker runs, and when it starts again."""
    cluster = make_cluster(
        nodes=1,
        groups={"kv": "kv", "fragile": "tests.cluster.fragile:Fragile"},
        groups_per_worker=64,
        started=False,
    )
    node = cluster.nodes[0]
    for name, machine in (("unmakeable", "Unmakeable"), ("absent", "NoSuchClass")):
        node.arguments += ["--group", f"{name}=tests.cluster.fragile:{machine}"]
    cluster.start()
    wire = make_wire(node.client)
    worker = node.worker_of("kv")
    assert node.worker_of("fragile") == worker
    assert wire.one("fragile", write("BREAK")).code == pb.INTERNAL

    def reasons() -> dict[str, str]:
        found = {}
        for name in ("kv", "fragile", "unmakeable", "absent", "after"):
            why = node.why(name)
            found[name] = "" if why is None else str(why["reason"])
        return found

    expected = {
        "kv": "ok",
        "fragile": "quarantined",
        "unmakeable": "worker_down",
        "absent": "worker_down",
        "after": "no_such_group",
    }
    wait_until(lambda: reasons() == expected, f"{expected}")
    assert wire.one("kv", put("k", b"1")).code == pb.OK
    assert worker.is_alive(), "it had no reason to end"

    worker.signal(signal.SIGKILL)
    wait_until(lambda: node.worker_of("kv") != worker, "the worker is restarted")
    wait_until(lambda: reasons() == expected, f"{expected} again")
    assert data_of(wire.one("kv", get("k")))["value"] == b"1"
    assert wire.one("_system", admin("createGroup", "after", 0, machine="kv")).code == pb.OK
    wait_until(lambda: wire.one("after", put("k")).code == pb.OK, "a new group is made beside them")


def test_a_node_that_waits_for_its_cluster_says_for_whom(
    make_cluster: MakeCluster, make_wire: MakeWire
) -> None:
    cluster = make_cluster(started=False)
    first, second, third = cluster.nodes
    first.start()
    wire = make_wire(first.client)

    def silent() -> list[str]:
        why = wire.ask("kv", "why")
        assert not why["ok"]
        assert why["reason"] == "forming"
        return sorted(each["node"] for each in why["silent"])

    wait_until(lambda: silent() == ["n2", "n3"], "both are named")
    for request in (put("k"), get("k")):
        reply = wire.one("kv", request)
        assert reply.code == pb.NO_LEADER, describe(reply)
        assert reply.retry_after_ms > 0
    status = wire.ask("", "status")
    assert status["cluster"] is None
    assert status["groups"] == {}
    second.start()
    wait_until(lambda: silent() == ["n3"], "only the third is missing")
    third.start()
    cluster.wait_serving(deadline_s=READY_S_MAX)
    assert wire.one("kv", put("k")).code == pb.OK
