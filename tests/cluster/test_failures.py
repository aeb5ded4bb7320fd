"""Processes are killed and stopped while five clients work.  Whatever happens:

* the history of the clients is linearizable, lost answers included;
* what was acknowledged is in the log of every replica, where it was said to be; what was refused
  with ``maybe_applied`` false is in none; nothing is in a log twice;
* the replicas end up with one digest at one index;
* the nodes stop with exit code 0, and no process is left behind;
* acknowledging goes on within :data:`tests.cluster.harness.RECOVERY_S_MAX`.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.logs import check_logs
from tests.cluster.workload import Workload
from tests.linearizability import check

pytestmark = pytest.mark.cluster

RESTARTS = 50


@contextlib.contextmanager
def under_load(cluster: Cluster, *others: Workload) -> Iterator[Workload]:
    """Five clients at work, and ``others``; at the end all nodes must run, and all is checked."""
    workloads = [Workload(cluster.addresses), *others]
    with contextlib.ExitStack() as stack:
        for workload in workloads:
            stack.enter_context(workload)
            workload.wait_alive()
        yield workloads[0]
        for workload in workloads:
            workload.wait_alive()
            workload.stop()
    assert len(cluster.running) == len(cluster.nodes)
    cluster.wait_equal("kv")
    history = [operation for workload in workloads for operation in workload.history]
    check(history)
    cluster.close()
    check_logs(cluster, "kv", *workloads)


def test_the_leader_is_killed(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        leader.kill()
        workload.wait_acknowledged()
        wait_until(lambda: not leader.processes(), "its children have noticed")
        assert cluster.leader("kv") is not leader
        leader.start()


def test_the_leaders_host_dies(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        leader.kill_all()
        workload.wait_acknowledged()
        leader.start()


def test_a_follower_is_killed_and_restarted(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        term = (leader.metadata("kv") or {})["term"]
        follower = cluster.followers("kv")[0]
        follower.kill()
        workload.wait_acknowledged()
        follower.start()
        workload.wait_acknowledged()
        assert (leader.metadata("kv") or {})["term"] == term, "it disturbed the leader"


@pytest.mark.parametrize("of_leader", [True, False], ids=["of the leader", "of a follower"])
def test_a_worker_is_killed(cluster: Cluster, of_leader: bool) -> None:
    with under_load(cluster) as workload:
        node = cluster.leader("kv") if of_leader else cluster.followers("kv")[0]
        system = node.child("worker", 0)
        worker = node.worker_of("kv")
        worker.signal(signal.SIGKILL)
        wait_until(lambda: not worker.is_alive(), "it is gone")
        workload.wait_acknowledged()
        wait_until(lambda: node.worker_of("kv") != worker, "it is restarted")
        wait_until(lambda: (node.why("kv") or {}).get("ok"), "its group is back")
        assert system.is_alive(), "another worker was touched"
        assert node.is_running


@pytest.mark.parametrize("of_leader", [True, False], ids=["of the leader", "of a follower"])
def test_a_router_is_killed(cluster: Cluster, of_leader: bool) -> None:
    with under_load(cluster) as workload:
        node = cluster.leader("kv") if of_leader else cluster.followers("kv")[0]
        router, worker = node.router(), node.worker_of("kv")
        router.signal(signal.SIGKILL)
        wait_until(lambda: not router.is_alive(), "it is gone")
        workload.wait_acknowledged()
        wait_until(lambda: node.router() != router, "it is restarted on the same ports")
        wait_until(lambda: (node.why("kv") or {}).get("ok"), "its group is back")
        assert worker.is_alive(), "a worker ended with its router"
        assert node.worker_of("kv") == worker


def test_a_forkserver_is_killed_then_a_worker(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        node = cluster.leader("kv")
        forkserver, router, worker = node.forkserver(), node.router(), node.worker_of("kv")
        forkserver.signal(signal.SIGKILL)
        wait_until(lambda: not forkserver.is_alive(), "it is gone")
        workload.wait_acknowledged()
        assert router.is_alive(), "its death ended the router"
        assert worker.is_alive(), "its death ended a worker"
        assert cluster.leader("kv") is node
        worker.signal(signal.SIGKILL)
        wait_until(lambda: not worker.is_alive(), "the worker is gone")
        wait_until(lambda: node.worker_of("kv") != worker, "the worker is restarted")
        wait_until(lambda: (node.why("kv") or {}).get("ok"), "its group is back")
        assert node.forkserver() != forkserver


def test_all_nodes_die_at_once(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        for node in cluster.nodes:
            node.signal(signal.SIGKILL)
        for node in cluster.nodes:
            node.kill_all()
        for node in cluster.nodes:
            node.start(wait=False)
        workload.wait_acknowledged()


def test_a_node_is_killed_and_restarted_at_once_many_times(cluster: Cluster) -> None:
    draw = random.Random(2)
    with under_load(cluster) as workload:
        for number in range(RESTARTS):
            node = draw.choice(cluster.nodes)
            if draw.random() < 0.5:
                node.kill()
            else:
                node.kill_all()
            node.start(wait=draw.random() < 0.5)
            if number % 10 == 9:
                for node in cluster.nodes:
                    node.wait_ready()
                workload.wait_acknowledged()
        for node in cluster.nodes:
            node.wait_ready()
        cluster.wait_serving()


def stop_all(node: Node) -> Callable[[], None]:
    """SIGSTOP to all of a node; returns what lets it go on."""
    processes = node.processes()
    for process in processes:
        process.signal(signal.SIGSTOP)
    wait_until(lambda: all(process.is_stopped() for process in processes), "it stands still")

    def go_on() -> None:
        for process in processes:
            process.signal(signal.SIGCONT)

    return go_on


def stop_worker(node: Node) -> Callable[[], None]:
    worker = node.worker_of("kv")
    worker.signal(signal.SIGSTOP)
    wait_until(worker.is_stopped, "the worker stands still")
    return lambda: worker.signal(signal.SIGCONT)


def stop_router(node: Node) -> Callable[[], None]:
    router = node.router()
    router.signal(signal.SIGSTOP)
    wait_until(router.is_stopped, "the router stands still")
    return lambda: router.signal(signal.SIGCONT)


@pytest.mark.parametrize("stand_still", [stop_all, stop_worker, stop_router])
def test_the_leader_stands_still_for_a_while(
    cluster: Cluster, stand_still: Callable[[Node], Callable[[], None]]
) -> None:
    """Meanwhile it acknowledges nothing.  What was sent comes to it when it goes on: then it
    must know that it leads no more before it answers, reads above all."""
    leader = cluster.leader("kv")
    term = (leader.metadata("kv") or {})["term"]
    loyal = Workload([leader.client], first_client=100, call_ms=20_000)
    with under_load(cluster, loyal) as workload:
        go_on = stand_still(leader)
        began = time.monotonic()
        wait_until(lambda: cluster.leader_now("kv") not in (None, leader), "another one leads")
        workload.wait_acknowledged()
        answered = [it for it in loyal.history if it.asked >= began and not it.is_unknown]
        assert not answered, "it answered while it stood still"
        go_on()

        def has_stepped_down() -> bool:
            metadata = leader.metadata("kv") or {}
            return metadata.get("role") == "follower" and metadata["term"] > term

        wait_until(has_stepped_down, "it has stepped down")


def test_the_leader_is_left_alone_and_dies(cluster: Cluster) -> None:
    """The others stand still, so whatever it appends is nowhere else, and gone with it."""
    leader = cluster.leader("kv")
    loyal = Workload([leader.client], first_client=100, call_ms=20_000)
    with under_load(cluster, loyal) as workload:
        workers = [node.worker_of("kv") for node in cluster.others(leader)]
        for worker in workers:
            worker.signal(signal.SIGSTOP)
        wait_until(lambda: all(worker.is_stopped() for worker in workers), "they stand still")
        began = time.monotonic()
        wait_until(lambda: cluster.leader_now("kv") is None, "it has stepped down")
        answered = [
            operation
            for one in (workload, loyal)
            for operation in one.history
            if operation.asked >= began and not operation.is_unknown
        ]
        assert not answered, "it answered without a majority"
        leader.kill_all()
        for worker in workers:
            worker.signal(signal.SIGCONT)
        workload.wait_acknowledged()
        leader.start()


def holder_of_lock(node: Node, slot: int) -> int | None:
    content = json.loads((node.data / "wal" / str(slot) / "lock").read_text() or "{}")
    pid = content.get("pid")
    return pid if isinstance(pid, int) else None


def test_a_worker_stands_still_while_its_node_is_killed_and_restarted(cluster: Cluster) -> None:
    """It cannot notice, and holds the lock on its WAL: it is ended before another one writes."""
    with under_load(cluster) as workload:
        node = cluster.leader("kv")
        slot = (node.metadata("kv") or {})["worker"]["slot"]
        old = node.worker_of("kv")
        stop_worker(node)
        node.kill()
        assert old.is_stopped()
        assert holder_of_lock(node, slot) == old.pid
        node.start()
        assert not old.is_alive(), "two processes have one WAL"
        wait_until(lambda: (node.why("kv") or {}).get("ok"), "its group is back")
        assert holder_of_lock(node, slot) == node.worker_of("kv").pid != old.pid
        workload.wait_acknowledged()


def test_a_worker_nobody_knows_of_keeps_its_wal_until_it_ends(cluster: Cluster) -> None:
    """The node has forgotten its children; only the lock on the WAL stands between two writers."""
    with under_load(cluster) as workload:
        node = cluster.leader("kv")
        slot = (node.metadata("kv") or {})["worker"]["slot"]
        old = node.worker_of("kv")
        stop_worker(node)
        node.kill()
        (node.data / "lock").write_text("{}")
        node.start(wait=False)
        wait_until(lambda: f"slot {slot}: " in node.log_tail(), "the new worker names the holder")
        assert f"process {old.pid}" in node.log_tail()
        assert holder_of_lock(node, slot) == old.pid
        workload.wait_acknowledged()
        old.signal(signal.SIGCONT)  # now it notices that its node is gone
        wait_until(lambda: not old.is_alive(), "the old worker ends by itself")
        node.wait_ready()
        wait_until(lambda: (node.why("kv") or {}).get("ok"), "its group is back")
        assert holder_of_lock(node, slot) == node.worker_of("kv").pid


def test_the_leader_is_asked_to_stop(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        assert leader.stop() == 0
        workload.wait_acknowledged()
        leader.start()


def test_all_nodes_are_asked_to_stop_one_after_the_other(cluster: Cluster) -> None:
    with under_load(cluster) as workload:
        for node in cluster.nodes:
            assert node.stop() == 0
            node.start()
            cluster.wait_serving()
            workload.wait_acknowledged()
