"""The harness itself: it sees every process, and what it says of a cluster is so."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from tests.cluster import network as network_module
from tests.cluster import processes
from tests.cluster.harness import ROOT, Cluster
from tests.cluster.network import Network

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


_HAS_MUCH_TO_LET_GO_OF = """
room = bytearray(1 << 29)
room[::4096] = bytes([1]) * len(room[::4096])
print("ready", flush=True)
input()
"""


def test_a_process_is_seen_until_it_is_gone() -> None:
    """While it lets go of its memory it shows no environment, and may still hold locks."""
    mark = secrets.token_hex(8)
    with subprocess.Popen(
        [sys.executable, "-c", _HAS_MUCH_TO_LET_GO_OF],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, processes.MARK: mark},
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (process,) = processes.marked(mark)
        process.signal(signal.SIGKILL)
        looks = 0
        while process.is_alive():
            found = processes.marked(mark)
            assert found == [process] or not process.is_alive()
            looks += 1
    assert looks > 0
    assert processes.marked(mark) == []


_LEAVES_A_NETWORK = """
import os
from tests.cluster.network import Network
network = Network(2)
network.__enter__()
print(network._name, network.address(1), flush=True)
os.kill(os.getpid(), 9)
"""


def test_a_network_that_a_killed_process_has_left_is_in_nobody_s_way() -> None:
    """Two bridges of one subnet would take each other's packets."""
    reason = Network.why_not()
    if reason:
        pytest.skip(reason)
    done = subprocess.run(
        [sys.executable, "-c", _LEAVES_A_NETWORK], cwd=ROOT, capture_output=True, text=True
    )
    name, address = done.stdout.split()
    assert (done.returncode, name in _interfaces()) == (-signal.SIGKILL, True)
    subnet = address.rpartition(".")[0]
    with patch.object(network_module, "_remove_orphans"), patch.object(secrets, "choice") as choice:
        choice.side_effect = lambda free: free[0]
        Network(1)
        assert subnet not in choice.call_args.args[0], "it is taken"
    with Network(1):
        left = [each for each in _interfaces() if each.startswith(name)]
        assert left == []
        assert not Path(f"/var/run/netns/{name}-1").exists()


def _interfaces() -> list[str]:
    return [path.name for path in Path("/sys/class/net").iterdir()]
