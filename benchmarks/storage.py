"""What the log costs when a node comes back, and how large it stays.

    python benchmarks/storage.py restart [--entries 1000000] [--behind 100000] [--value-bytes 100]
    python benchmarks/storage.py size [--seconds 3600] [--keys 1000] [--rate 0]

``restart``: fills three nodes, has each take a snapshot, writes on behind it, kills one node with
all its processes, starts it again, and tells how long until its replica has applied everything
that was committed before the kill and answers a read itself.

``size``: overwrites the same keys all the time, with snapshots as they come by default, and looks
at the segments of each node once a second.  ``--rate``: writes per second; 0: as many as go.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

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
from transport.client.own_cluster import OwnCluster, OwnNode

GROUP = "kv"
BATCH = 500  # writes in one message
IN_FLIGHT = 8  # messages
ANSWER_WAIT_S = 30.0
READY_WAIT_S = 120.0
TIMEOUT_MS = 30_000

_CORRELATION = struct.Struct("<Q")


def batches(first: int, count: int, keys: int, value_bytes: int) -> Iterator[bytes]:
    """Messages that put ``count`` values under the keys ``first``, ``first + 1``, ..., in turn."""
    for at in range(first, first + count, BATCH):
        numbers = range(at, min(at + BATCH, first + count))
        writes = [
            wire.encode_write("PUT", f"bench/{n % keys:08d}", os.urandom(value_bytes))
            for n in numbers
        ]
        yield wire.join_batch(writes, TIMEOUT_MS)


class Writer:
    """A closed loop of messages to one node.  Whatever is not answered with OK is written again."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = open_dealer(self._context, address)
        self._waiting: dict[bytes, bytes] = {}
        self._number = 0
        self.again = 0

    def write(self, messages: Iterator[bytes], pause_s: float = 0.0) -> None:
        """Send all of them; returns when each is answered."""
        for body in messages:
            while len(self._waiting) >= IN_FLIGHT:
                self._receive()
            self._send(body)
            if pause_s:
                time.sleep(pause_s)
        while self._waiting:
            self._receive()

    def _send(self, body: bytes) -> None:
        self._number += 1
        correlation = _CORRELATION.pack(self._number)
        self._waiting[correlation] = body
        self._socket.send_multipart([correlation, GROUP.encode(), body])

    def _receive(self) -> None:
        deadline = time.monotonic() + ANSWER_WAIT_S
        while True:
            try:
                correlation, payload = self._socket.recv_multipart()
                break
            except zmq.Again:
                assert time.monotonic() < deadline, "no answer"
        body = self._waiting.pop(correlation)
        if not wire.count_plain_ok(payload):
            self.again += 1
            pause()
            self._send(body)

    def close(self) -> None:
        self._socket.close()
        self._context.term()


def metadata(client: Client, address: str) -> dict[str, object]:
    found: dict[str, object] = client.admin(GROUP, "metadata", address=address, timeout_ms=2_000)
    return found


def restart(arguments: argparse.Namespace) -> None:
    entries, behind = arguments.entries, arguments.behind
    # The second part must stay behind the snapshot that this program has asked for.
    more = ["--raft", f"snapshot_entries={10 * (entries + behind)}", "--raft"]
    more += [f"snapshot_bytes={1 << 40}"]
    with (
        tempfile.TemporaryDirectory(prefix="polyraft-") as data,
        OwnCluster(3, Path(data), [GROUP], more=more) as cluster,
        Client(",".join(cluster.addresses), timeout_ms=TIMEOUT_MS) as client,
    ):
        _restart(arguments, cluster, client)


def _restart(arguments: argparse.Namespace, cluster: OwnCluster, client: Client) -> None:
    entries, behind = arguments.entries, arguments.behind
    leader = find_leader_address(client, cluster.addresses, GROUP)
    began = time.monotonic()
    writer = Writer(leader)
    writer.write(batches(0, entries, entries, arguments.value_bytes))
    for address in cluster.addresses:
        name = cluster.at(address).name
        client.admin(GROUP, "doSnapshot", name, address=address, timeout_ms=120_000)
    writer.write(batches(entries, behind, entries, arguments.value_bytes))
    writer.close()
    filled_s = time.monotonic() - began
    print(f"filled with {entries:,} entries, {behind:,} behind the snapshot, in {filled_s:.1f} s")
    others = [each for each in cluster.addresses if each != leader]
    for what, address in (("follower", others[0]), ("leader", leader)):
        node = cluster.at(address)
        committed = metadata(client, address)["commit_index"]
        assert isinstance(committed, int)
        took_s = _come_back(node, address, committed)
        print(f"{what} killed and started: serves again after {took_s:.2f} s", flush=True)


def _come_back(node: OwnNode, address: str, committed: int) -> float:
    """Seconds from the start of the process to an answer that has everything before the kill."""
    node.kill()
    started = time.monotonic()
    node.start()
    node.wait_ready()
    with Client(address, timeout_ms=2_000) as client:
        while time.monotonic() < started + READY_WAIT_S:
            try:
                found = metadata(client, address)
                applied = found["applied_index"]
                if (
                    isinstance(applied, int)
                    and found["state"] == "running"
                    and applied >= committed
                ):
                    client.kv(GROUP).get("bench/00000001", consistency="stale")
                    return time.monotonic() - started
            except PolyraftError:
                pass  # not there yet
            pause()
    raise SystemExit(f"{node.name} does not serve after {READY_WAIT_S:g} s")


def segments(directory: Path) -> tuple[int, int]:
    """(segments, bytes) of the log that holds the group under load: the largest."""
    found = [(0, 0)]
    for slot in directory.glob("wal/*"):
        sizes = []
        for each in slot.glob("*.wal"):
            try:
                sizes.append(each.stat().st_size)
            except FileNotFoundError:
                continue  # removed meanwhile: that is what is looked at
        found.append((len(sizes), sum(sizes)))
    return max(found, key=lambda each: each[1])


def size(arguments: argparse.Namespace) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="polyraft-") as data,
        OwnCluster(3, Path(data), [GROUP]) as cluster,
    ):
        with Client(",".join(cluster.addresses), timeout_ms=TIMEOUT_MS) as client:
            leader = find_leader_address(client, cluster.addresses, GROUP)
        _size(arguments, cluster, leader)


def _size(arguments: argparse.Namespace, cluster: OwnCluster, leader: str) -> None:
    writer = Writer(leader)
    began = time.monotonic()
    look_at = began
    written, bytes_most = 0, 0
    most: list[int] = []  # segments of the node that has most, at each look
    pause_s = BATCH / arguments.rate if arguments.rate else 0.0
    while time.monotonic() < began + arguments.seconds:
        writer.write(batches(written, 20 * BATCH, arguments.keys, arguments.value_bytes), pause_s)
        written += 20 * BATCH
        if time.monotonic() < look_at:
            continue
        look_at = time.monotonic() + 1.0
        found = [segments(node.directory) for node in cluster.nodes.values()]
        most.append(max(count for count, _ in found))
        bytes_most = max(bytes_most, *(length for _, length in found))
    writer.close()
    print(
        f"{written:,} overwrites of {arguments.keys:,} keys in {arguments.seconds:g} s, "
        f"{len(most)} looks: at most {max(most)} segments, {bytes_most / 1e6:.1f} MB in a log, "
        f"{max(most[len(most) // 2 :])} segments in the second half; "
        f"{writer.again} messages written again"
    )
    for node in cluster.nodes.values():
        print(f"{node.name} at the end: {segments(node.directory)[0]} segments")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("restart")
    one.add_argument("--entries", type=int, default=1_000_000)
    one.add_argument("--behind", type=int, default=100_000)
    one.add_argument("--value-bytes", type=int, default=100)
    one.set_defaults(run=restart)
    other = commands.add_parser("size")
    other.add_argument("--seconds", type=float, default=3_600)
    other.add_argument("--keys", type=int, default=1_000)
    other.add_argument("--value-bytes", type=int, default=100)
    other.add_argument("--rate", type=float, default=0.0)
    other.set_defaults(run=size)
    arguments = parser.parse_args()
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
