"""A leader looks at its majority and at its disk however busy it is with reads.

Each read starts a round of heartbeats, and so puts the next one off; what has to be looked at
regularly must not hang on the heartbeat's deadline.
"""

from __future__ import annotations

from raft.messages import Tick
from tests.raft.network import Network


def read_all_the_time(network: Network, duration_ms: int) -> None:
    """A read to n1 every few ms, for as long as it leads; ticks when they are due, as a driver."""
    end = network.now + duration_ms
    while network.now < end and network.core("n1").is_leader:
        network.now += network.settings.heartbeat_ms // 10
        network.read("n1")
        for name, node in network.nodes.items():
            if node.core.next_deadline() <= network.now:
                network.step(name, Tick())
        network.settle()


def test_reads_keep_no_leader_in_office_whom_nobody_follows() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n1")
    read_all_the_time(network, 2 * network.settings.election_timeout_ms)
    assert not network.core("n1").is_leader
    assert network["n1"].reads_failed


def test_reads_keep_no_leader_in_office_whose_disk_hangs() -> None:
    """Pitfall 48."""
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n1")
    network.propose("n1")
    network.settle()
    read_all_the_time(network, 2 * network.settings.election_timeout_ms)
    assert not network.core("n1").is_leader


def test_reads_disturb_no_leader_who_is_followed() -> None:
    network = Network(3)
    network.elect("n1")
    read_all_the_time(network, 3 * network.settings.election_timeout_ms)
    assert network.core("n1").is_leader
    assert len(network["n1"].reads) >= 300
