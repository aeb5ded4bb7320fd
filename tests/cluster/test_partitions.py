"""The network between the nodes fails, and clients reach all of them all the time.

The hardest case for reads: a leader that nobody follows any more does not know it yet, and its
clients still ask it, while the others have a new leader who acknowledges writes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.network import Network
from tests.cluster.test_failures import under_load
from tests.cluster.workload import Workload

pytestmark = pytest.mark.cluster

CUTS = 8
CUT_S = 1.0  # of each fault: about an election timeout, so that some elections are cut in two


@pytest.fixture
def network() -> Iterator[Network]:
    reason = Network.why_not()
    if reason:
        pytest.skip(reason)
    with Network(3) as network:
        yield network


@pytest.fixture
def cluster(network: Network, make_cluster: Callable[..., Cluster]) -> Cluster:
    return make_cluster(network=network)


def host(node: Node) -> int:
    return int(node.name[1:])


def loyal_to(node: Node) -> Workload:
    return Workload([node.client], first_client=100, call_ms=20_000)


@pytest.mark.parametrize("how", ["both ways", "it is not heard", "it does not hear"])
def test_the_leader_is_cut_off(cluster: Cluster, network: Network, how: str) -> None:
    leader = cluster.leader("kv")
    others = cluster.others(leader)
    loyal = loyal_to(leader)
    with under_load(cluster, loyal) as workload:
        for other in others:
            if how != "it does not hear":
                network.block(host(leader), host(other))
            if how != "it is not heard":
                network.block(host(other), host(leader))
        began = time.monotonic()
        wait_until(lambda: cluster.leader_now("kv") in others, "one of the others leads")
        workload.wait_acknowledged()
        workload.wait_read()
        wait_until(lambda: (leader.metadata("kv") or {})["role"] != "leader", "it has given up")
        answered = [
            operation
            for operation in loyal.history
            if operation.asked > began and operation.action != "get" and not operation.is_unknown
        ]
        assert not answered, "it acknowledged without a majority"
        network.heal()
        cluster.wait_serving()


SLOW = ["--raft", "election_timeout_ms=3000"]
QUICK = ["--raft", "election_timeout_ms=700"]


def test_reads_of_a_leader_who_does_not_know_yet(
    network: Network, make_cluster: Callable[..., Cluster]
) -> None:
    """The leader waits longer for its followers than they for it: so for a while there are two, as
    with clocks that run at different speeds.  Only asking a majority keeps its reads true."""
    cluster = make_cluster(network=network, started=False)
    for node in cluster.nodes:
        node.arguments += SLOW
    cluster.start()
    leader = cluster.leader("kv")
    others = cluster.others(leader)
    for other in others:
        assert other.stop() == 0
        other.arguments[-len(SLOW) :] = QUICK
        other.start()
        cluster.wait_serving(["kv"])
    assert cluster.leader("kv") is leader
    readers = Workload([leader.client], first_client=100, call_ms=1_000, writes=False)
    with under_load(cluster, readers) as workload:
        network.cut([host(leader)], [host(other) for other in others])
        began = time.monotonic()
        wait_until(lambda: leads(others[0]) or leads(others[1]), "one of the others leads")
        elected = time.monotonic()
        assert leads(leader), f"the old leader has given up in {elected - began} s"
        workload.wait_acknowledged(100)
        wait_until(lambda: not leads(leader), "it has given up")
        network.heal()
        cluster.wait_serving()


def leads(node: Node) -> bool:
    return bool((node.metadata("kv") or {})["role"] == "leader")


def test_a_follower_that_does_not_hear_the_leader_disturbs_nobody(
    cluster: Cluster, network: Network
) -> None:
    """The third still hears the leader, and refuses its vote, although the logs are equal."""
    leader = cluster.leader("kv")
    follower = cluster.others(leader)[0]
    term = (leader.metadata("kv") or {})["term"]
    network.cut([host(leader)], [host(follower)])

    def has_asked_for_long() -> bool:
        peers = (leader.metadata("kv") or {})["peers"]
        silent_ms: int = peers.get(follower.name, {}).get("active_ms_ago") or 0
        return not peers or silent_ms > 4_000

    wait_until(has_asked_for_long, "it has asked for votes a few times")
    assert (follower.metadata("kv") or {})["role"] == "pre_candidate"
    assert (leader.metadata("kv") or {})["role"] == "leader"
    assert (leader.metadata("kv") or {})["term"] == term
    with under_load(cluster):
        network.heal()
        cluster.wait_serving()
        assert (leader.metadata("kv") or {})["term"] == term, "its return disturbed the leader"


def test_the_network_breaks_again_and_again(cluster: Cluster, network: Network) -> None:
    draw = random.Random(3)
    pause = threading.Event()
    hosts = list(network.hosts)
    with under_load(cluster, loyal_to(cluster.leader("kv"))):
        for _ in range(CUTS):
            one, two, three = draw.sample(hosts, 3)
            match draw.choice(("alone", "pair", "deaf", "all")):
                case "alone":
                    network.cut([one], [two, three])
                case "pair":
                    network.cut([one], [two])
                case "deaf":
                    network.block(two, one)
                    network.block(three, one)
                case "all":
                    network.cut([one], [two, three])
                    network.cut([two], [three])
            pause.wait(draw.random() * 2 * CUT_S)  # how long a fault lasts is part of the fault
            if draw.random() < 0.7:
                network.heal()
        network.heal()
        cluster.wait_serving()
