"""What snapshots cost: a replica that needs one, and writes while one is written.

    python benchmarks/snapshots.py join [--megabytes 256] [--rate 5000] [--value-bytes 1000]
                                        [--raft KEY=VALUE ...]
    python benchmarks/snapshots.py take [--entries 1000000] [--rate 10000] [--value-bytes 100]

``join``: three nodes hold a state of so many megabytes; one loses its disk and is replaced, and its
new replica joins while writes go on at ``--rate`` a second: how fast they are before and while it
gets the snapshot and the log behind it, how long that takes, by how much the memory of the sender
grows, how much the receiver and a follower with the same state take, and how many elections there
were.

``take``: fills one group with so many entries, then writes at ``--rate`` a second, first alone and
then while the leader writes a snapshot that it was asked for; p50 and p99 of both.

Both start and end a cluster of their own on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(root), str(root / "bin")]
    import bootstrap

    bootstrap.enter()

import zmq

from transport.client import wire
from transport.client.blocking import Client
from transport.client.errors import PolyraftError
from transport.client.fleet import find_leader_address, pause
from transport.client.load import open_dealer
from transport.client.own_cluster import OwnCluster

GROUP = "kv"
SYSTEM_GROUP = "_system"
BATCH_BYTES = 256 << 10  # of values in one message while filling
FILL_IN_FLIGHT = 16  # messages
MEASURE_BATCH = 10  # writes in a message while measuring
ANSWER_WAIT_S = 120.0
TIMEOUT_MS = 30_000
MEASURE_S = 5.0
TRAILING = 1_000  # entries that stay in the log
_CORRELATION = struct.Struct("<Q")


class Seen:
    """What the nodes say of themselves, and what /proc says of them."""

    def __init__(self, cluster: OwnCluster, client: Client) -> None:
        self._client = client
        self.leader = find_leader_address(client, cluster.addresses, GROUP)

    def metadata(self, address: str) -> dict[str, Any]:
        """Empty: it does not answer now."""
        try:
            return self._client.admin(GROUP, "metadata", address=address, timeout_ms=2_000)
        except PolyraftError:
            return {}

    def worker_memory_mb(self, address: str) -> float:
        worker = self.metadata(address).get("worker", {}).get("pid")
        try:
            pages = int(Path(f"/proc/{worker}/statm").read_text().split()[1])
        except OSError:
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def replace(self, name: str) -> None:
        """As soon as it counts as silent."""
        ends = time.monotonic() + ANSWER_WAIT_S
        while True:
            try:
                self._client.admin(SYSTEM_GROUP, "replaceNode", name)
                return
            except PolyraftError:
                if time.monotonic() > ends:
                    raise
                pause()

    def take_snapshot(self, name: str) -> int:
        """Bytes of it."""
        wait_ms = int(1_000 * ANSWER_WAIT_S)
        found = self._client.admin(
            GROUP, "doSnapshot", name, address=self.leader, timeout_ms=wait_ms
        )
        return int(found["size_bytes"])


@contextmanager
def running(raft: dict[str, int]) -> Iterator[tuple[OwnCluster, Client]]:
    more = [word for key, value in raft.items() for word in ("--raft", f"{key}={value}")]
    with (
        tempfile.TemporaryDirectory(prefix="polyraft-") as data,
        OwnCluster(3, Path(data), [GROUP], more=more) as cluster,
        Client(",".join(cluster.addresses), timeout_ms=TIMEOUT_MS) as client,
    ):
        yield cluster, client


# --------------------------------------------------------------------------- writes


def message(first: int, count: int, keys: int, value_bytes: int) -> bytes:
    writes = [
        wire.encode_write("PUT", f"bench/{number % keys:010d}", os.urandom(value_bytes))
        for number in range(first, first + count)
    ]
    return wire.join_batch(writes, TIMEOUT_MS)


class Connection:
    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_dealer(self._context, address)
        self._number = 0
        self.sent: dict[bytes, float] = {}

    def send(self, body: bytes, when: float) -> None:
        self._number += 1
        correlation = _CORRELATION.pack(self._number)
        self.sent[correlation] = when
        self._socket.send_multipart([correlation, GROUP.encode(), body])

    def receive(self, wait_s: float) -> tuple[float, bool] | None:
        """When it was sent, or should have been; whether all of it is written."""
        if not self._socket.poll(max(0, int(1_000 * wait_s))):
            return None
        correlation, payload = self._socket.recv_multipart()
        return self.sent.pop(correlation), bool(wire.count_plain_ok(payload))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def fill(address: str, entries: int, value_bytes: int) -> None:
    per_message = max(1, min(500, BATCH_BYTES // max(1, value_bytes)))
    connection = Connection(address)
    for first in range(0, entries, per_message):
        while len(connection.sent) >= FILL_IN_FLIGHT:
            assert connection.receive(ANSWER_WAIT_S) is not None, "no answer"
        count = min(per_message, entries - first)
        connection.send(message(first, count, entries, value_bytes), time.monotonic())
    while connection.sent:
        assert connection.receive(ANSWER_WAIT_S) is not None, "no answer"
    connection.close()


@dataclass(slots=True)
class Window:
    """Latencies in seconds of what was sent within it, from the moment when it was due."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    def show(self, what: str) -> str:
        found = sorted(self.latencies)
        if not found:
            return f"{what}: no writes"
        p50, p99 = (1_000 * found[int(part * (len(found) - 1))] for part in (0.5, 0.99))
        rate = MEASURE_BATCH * len(found) / self.seconds
        return (
            f"{what}: {rate:,.0f} writes/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms, "
            f"{self.failed} messages failed"
        )


class Load(threading.Thread):
    """Writes that come at a rate whatever becomes of them; ``window`` may be exchanged."""

    def __init__(self, address: str, rate: float, keys: int, value_bytes: int) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._gap_s = MEASURE_BATCH / rate
        self._messages = self._bodies(keys, value_bytes)
        self._ends = threading.Event()
        self.window = Window()

    @staticmethod
    def _bodies(keys: int, value_bytes: int) -> Iterator[bytes]:
        made = [
            message(first, MEASURE_BATCH, keys, value_bytes)
            for first in range(0, 200 * MEASURE_BATCH, MEASURE_BATCH)
        ]
        while True:
            yield from made

    def run(self) -> None:
        connection = Connection(self._address)
        due = time.monotonic()
        while not self._ends.is_set():
            now = time.monotonic()
            while now >= due:
                connection.send(next(self._messages), due)
                due += self._gap_s
            answer = connection.receive(due - now)
            while answer is not None:
                window = self.window
                window.latencies.append(time.monotonic() - answer[0])
                window.failed += not answer[1]
                answer = connection.receive(0)
        connection.close()

    def measure(self, is_over: Callable[[float], bool]) -> Window:
        """Of what is answered until then; seconds since the beginning are handed in."""
        self.window = window = Window()
        began = time.monotonic()
        while not is_over(time.monotonic() - began):
            pause()
        window.seconds = time.monotonic() - began
        return window

    def end(self) -> None:
        self._ends.set()
        self.join()


# --------------------------------------------------------------------------- the two


def join(arguments: argparse.Namespace) -> None:
    entries = int(arguments.megabytes * 1e6 / arguments.value_bytes)
    raft = {"snapshot_trailing_entries": TRAILING, "snapshot_entries": 50_000_000}
    more = {key: int(value) for key, value in (it.split("=") for it in arguments.raft)}
    with running({**raft, "snapshot_bytes": 1 << 40, **more}) as (cluster, client):
        seen = Seen(cluster, client)
        leader = cluster.at(seen.leader)
        fill(seen.leader, entries, arguments.value_bytes)
        away, steady = (node for node in cluster.nodes.values() if node is not leader)
        size_bytes = seen.take_snapshot(leader.name)
        seen.take_snapshot(steady.name)
        term = seen.metadata(seen.leader)["term"]
        away.stop()
        shutil.rmtree(away.directory)
        seen.replace(away.name)
        load = Load(seen.leader, arguments.rate, entries, arguments.value_bytes)
        load.start()
        print(load.measure(lambda passed: passed >= MEASURE_S).show("before"), flush=True)
        sender_mb = seen.worker_memory_mb(seen.leader)
        away.start()
        watched = _Joining(seen, away.ports.client, away.name, steady.ports.client)
        window = load.measure(watched.is_there)
        print(window.show("while it joins"))
        load.end()
        most = watched.most
        print(
            f"a snapshot of {size_bytes / 1e6:.0f} MB: received after {watched.arrived_s:.1f} s, "
            f"votes after {window.seconds:.1f} s; "
            f"sender {sender_mb:.0f} MB, +{most[seen.leader] - sender_mb:.0f} MB; "
            f"receiver at most {most[watched.address]:.0f} MB, "
            f"a steady follower {most[steady.ports.client]:.0f} MB; "
            f"{seen.metadata(seen.leader)['term'] - term} elections"
        )


class _Joining:
    """Whether ``name``, at ``address``, votes, and how much memory everybody took meanwhile."""

    def __init__(self, seen: Seen, address: str, name: str, steady: str) -> None:
        self._seen = seen
        self._name = name
        self.address = address
        self.most = {seen.leader: 0.0, address: 0.0, steady: 0.0}
        self.arrived_s = 0.0

    def is_there(self, passed_s: float) -> bool:
        seen = self._seen
        for address, most in self.most.items():
            self.most[address] = max(most, seen.worker_memory_mb(address))
        found = seen.metadata(self.address)
        counts = found.get("counts") or {}
        if counts.get("snapshots", {}).get("received") and not self.arrived_s:
            self.arrived_s = passed_s
        replicas = seen.metadata(seen.leader).get("replicas", [])
        votes = [it["voter"] for it in replicas if it["node"] == self._name]
        # Until it votes, the one that it replaces is a member, too.
        return bool(self.arrived_s) and votes == [True] and found.get("state") == "running"


def take(arguments: argparse.Namespace) -> None:
    raft = {"snapshot_entries": 50_000_000, "snapshot_bytes": 1 << 40}
    with running(raft) as (cluster, client):
        seen = Seen(cluster, client)
        name = cluster.at(seen.leader).name
        fill(seen.leader, arguments.entries, arguments.value_bytes)
        load = Load(seen.leader, arguments.rate, arguments.entries, arguments.value_bytes)
        load.start()
        load.measure(lambda passed: passed >= 1.0)
        print(load.measure(lambda passed: passed >= MEASURE_S).show("alone"), flush=True)
        before_mb = most_mb = seen.worker_memory_mb(seen.leader)
        sizes: list[int] = []
        asking = threading.Thread(target=lambda: sizes.append(seen.take_snapshot(name)))
        asking.start()

        def is_written(_: float) -> bool:
            nonlocal most_mb
            most_mb = max(most_mb, seen.worker_memory_mb(seen.leader))
            return not asking.is_alive()

        window = load.measure(is_written)
        print(window.show("while it is written"))
        load.end()
        print(
            f"{sizes[0] / 1e6:.0f} MB in {window.seconds:.1f} s, "
            f"worker +{most_mb - before_mb:.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("join")
    one.add_argument("--megabytes", type=float, default=256)
    one.add_argument("--rate", type=float, default=5_000)
    one.add_argument("--value-bytes", type=int, default=1_000)
    one.add_argument("--raft", action="append", default=[], metavar="KEY=VALUE")
    one.set_defaults(run=join)
    other = commands.add_parser("take")
    other.add_argument("--entries", type=int, default=1_000_000)
    other.add_argument("--rate", type=float, default=10_000)
    other.add_argument("--value-bytes", type=int, default=100)
    other.set_defaults(run=take)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
