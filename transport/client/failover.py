"""How long a cluster takes no writes after something was killed, and whether anything was lost.

One probe every few milliseconds, each a write of its own, whether or not earlier ones were
answered: so neither a slow answer nor a client's retry policy is measured, and the resolution is
that of the probes. They go to a node that was not killed (or, when all were, to the first), begin a
moment before the kill and go on a moment after the recovery, so that writes are in flight when it
happens. The time counts from the kill to the first OK for a probe that was sent after it.

Every probe adds one to a counter. In the end the counter must be at least the number of probes that
were answered OK, and at most the number that were sent: an acknowledged write that is missing, or
one that was applied twice, fails the measurement.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from transport.client import wire
from transport.client.blocking import Client
from transport.client.errors import OutcomeUnknown, PolyraftError
from transport.client.fleet import ASK_MS, BenchError, find_leader_address, pause, wait_for_group
from transport.client.kv import encode_add
from transport.client.load import open_dealer
from transport.client.own_cluster import OwnCluster

PROBE_EVERY_MS = 5
PROBE_TIMEOUT_MS = 10_000
# Without an acknowledged write for so long the cluster is taken to be stuck.
RECOVERY_WAIT_S = 60.0
# Probes go on for so long before the kill and after the recovery.
STEADY_S = 0.5
COUNTER_KEY = "bench/failover"

NODE = "node"
WORKER = "worker"
ROUTER = "router"
ALL = "all"
TARGETS = (NODE, WORKER, ROUTER, ALL)


@dataclass(slots=True)
class Tally:
    """What became of the probes, over all kills."""

    sent_count: int = 0
    acknowledged_count: int = 0
    refused_count: int = 0
    unknown_count: int = 0


class Probes:
    """Writes to one node, one after the other without waiting."""

    def __init__(self, address: str, group: str, tally: Tally) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_dealer(self._context, address)
        self._group = group.encode()
        self._tally = tally
        request = wire.encode_write("ADD", COUNTER_KEY, encode_add(1))
        self._batch = wire.join_batch([request], PROBE_TIMEOUT_MS)
        self._open: dict[bytes, int] = {}
        self._number = 0
        self._acknowledged_number = 0
        self._due = 0.0

    def wait_acknowledged(self) -> float:
        """Probe until a write that is sent from now on is acknowledged; the time of that."""
        deadline = time.monotonic() + RECOVERY_WAIT_S
        before = self._number
        while time.monotonic() < deadline:
            self._probe()
            if self._acknowledged_number > before:
                return time.monotonic()
        raise BenchError(f"no write was acknowledged for {RECOVERY_WAIT_S:g} s")

    def go_on(self, seconds: float) -> None:
        """Probe for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._probe()

    def _probe(self) -> None:
        """Send one if it is time, and take in answers until it is time for the next."""
        now = time.monotonic()
        if now >= self._due:
            self._send()
            self._due = now + PROBE_EVERY_MS / 1000
        self._receive(max(1, int((self._due - now) * 1000)))

    def finish(self) -> None:
        """Wait for the answers that are still to come; what has none by then stays unknown."""
        deadline = time.monotonic() + PROBE_TIMEOUT_MS / 1000
        while self._open and time.monotonic() < deadline:
            self._receive(50)
        self._tally.unknown_count += len(self._open)
        self._socket.close()
        self._context.term()

    def _send(self) -> None:
        self._number += 1
        correlation = b"%d" % self._number
        self._open[correlation] = self._number
        self._tally.sent_count += 1
        self._socket.send_multipart([correlation, self._group, self._batch])

    def _receive(self, wait_ms: int) -> None:
        """Take in what was answered."""
        if not self._socket.poll(wait_ms, zmq.POLLIN):
            return
        while self._socket.poll(0, zmq.POLLIN):
            frames = self._socket.recv_multipart()
            number = self._open.pop(frames[0], None) if len(frames) == 2 else None
            if number is None:
                continue
            outcome = wire.decode_replies(frames[1], 1)[0]
            if outcome.code == wire.OK:
                self._acknowledged_number = max(self._acknowledged_number, number)
                self._tally.acknowledged_count += 1
            elif outcome.maybe_applied:
                self._tally.unknown_count += 1
            else:
                self._tally.refused_count += 1


class Failover:
    """Kills one thing after the other in a cluster of its own and measures each."""

    def __init__(self, cluster: OwnCluster, group: str, target: str) -> None:
        assert target in TARGETS
        self._cluster = cluster
        self._group = group
        self._target = target
        self.tally = Tally()
        self._start_value = 0

    def measure(self, count: int, on_kill: Callable[[str, float], None]) -> list[float]:
        """Milliseconds without writes after each of `count` kills."""
        with Client(self._cluster.addresses) as client:
            wait_for_group(client, self._group)
            self._start_value = client.kv(self._group).add(COUNTER_KEY, 0)
        gaps_ms: list[float] = []
        for _ in range(count):
            self._wait_whole()
            name, gap_ms = self._kill_once()
            gaps_ms.append(gap_ms)
            on_kill(name, gap_ms)
        self._wait_whole()
        self._check_counter()
        return gaps_ms

    def _kill_once(self) -> tuple[str, float]:
        cluster = self._cluster
        with Client(cluster.addresses) as client:
            leader = find_leader_address(client, cluster.addresses, self._group)
            node = cluster.at(leader)
            pid = self._find_pid(client, leader)
        others = [address for address in cluster.addresses if address != leader]
        probes = Probes(others[0] if others else leader, self._group, self.tally)
        probes.wait_acknowledged()
        probes.go_on(STEADY_S)
        start = time.monotonic()
        if self._target == ALL:
            for each in cluster.nodes.values():
                each.kill()
            cluster.start()
        elif self._target == NODE:
            node.kill()
        else:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
        gap_ms = (probes.wait_acknowledged() - start) * 1000
        probes.go_on(STEADY_S)
        probes.finish()
        if self._target == NODE:
            node.start()
            node.wait_ready()
        return node.name, gap_ms

    def _find_pid(self, client: Client, address: str) -> int | None:
        """The process to kill on the leader's node, when it is not the node as a whole."""
        pid: object = None
        if self._target == WORKER:
            metadata = client.admin(self._group, "metadata", address=address)
            pid = (metadata.get("worker") or {}).get("pid")
        elif self._target == ROUTER:
            status = client.admin("", "status", address=address)
            routers = [it for it in status.get("processes") or [] if it.get("kind") == ROUTER]
            pid = routers[0].get("pid") if routers else None
        else:
            return None
        if not isinstance(pid, int) or pid <= 1:
            raise BenchError(f"{address} does not say which process its {self._target} is")
        return pid

    def _wait_whole(self) -> None:
        """Return when the group works through every node and all replicas have caught up."""
        deadline = time.monotonic() + RECOVERY_WAIT_S
        addresses = self._cluster.addresses
        while time.monotonic() < deadline:
            with Client(addresses) as client:
                leader = find_leader_address(client, addresses, self._group)
                if self._is_whole(client, leader, len(addresses)):
                    return
            pause()
        raise BenchError(f"the replicas did not catch up within {RECOVERY_WAIT_S:g} s")

    def _is_whole(self, client: Client, leader: str, count: int) -> bool:
        try:
            metadata = client.admin(self._group, "metadata", address=leader, timeout_ms=ASK_MS)
            for address in self._cluster.addresses:
                client.admin("", "status", address=address, timeout_ms=ASK_MS)
        except PolyraftError:
            return False
        peers = metadata.get("peers")
        if not isinstance(peers, dict) or len(peers) < count - 1:
            return False
        lags = [peer.get("lag") for peer in peers.values()]
        active_ms = [peer.get("active_ms_ago") for peer in peers.values()]
        fresh = all(isinstance(it, int) and it < 1_000 for it in active_ms)
        return fresh and all(isinstance(lag, int) and lag < 100 for lag in lags)

    def _check_counter(self) -> None:
        """What was acknowledged is there, and nothing was applied twice."""
        with Client(self._cluster.addresses) as client:
            try:
                value = client.kv(self._group).add(COUNTER_KEY, 0) - self._start_value
            except OutcomeUnknown as error:
                raise BenchError(f"cannot read the counter: {error}") from error
        tally = self.tally
        possible_count = tally.acknowledged_count + tally.unknown_count
        if value < tally.acknowledged_count:
            missing = tally.acknowledged_count - value
            raise BenchError(f"LOST WRITES: {missing} of {tally.acknowledged_count} acknowledged")
        if value > possible_count:
            raise BenchError(f"the counter is {value}, yet at most {possible_count} were applied")
