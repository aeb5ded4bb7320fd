"""The harness itself: it sees every process, and what it says of a cluster is so."""

from __future__ import annotations

import signal

import pytest

from tests.cluster.harness import Cluster

pytestmark = pytest.mark.cluster


def test_a_cluster_starts_tells_its_processes_and_ends_without_a_trace(cluster: Cluster) -> None:
    leader = cluster.leader("kv")
    assert len(cluster.followers("kv")) == 2
    for node in cluster.nodes:
        seen = {process.pid for process in node.processes()}
        assert node.process is not None
        named = {node.process.pid, node.forkserver().pid, node.router().pid}
        named |= {node.child("worker", 0).pid, node.worker_of("kv").pid}
        assert named <= seen
    assert cluster.wait_equal("kv") >= 1
    leader.kill()
    cluster.wait_until(lambda: not leader.processes(), "its children have noticed")
    leader.start()
    cluster.followers("kv")[0].kill_all()
    assert cluster.leader("kv").stop() == 0


def test_a_process_that_is_left_behind_is_seen_and_ended(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    worker = node.worker_of("kv")
    worker.signal(signal.SIGSTOP)
    cluster.wait_until(worker.is_stopped, "the worker stands still")
    node.kill()
    assert worker in cluster.processes()
    cluster.end_all()
    assert not worker.is_alive()
