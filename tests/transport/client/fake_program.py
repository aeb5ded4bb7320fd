"""A program with the command line of a node, for clusters of the bench's own: one counter for all.

All nodes of one cluster count in one file, a byte for each probe, so that whoever answers knows of
the others' writes. Each says that it leads. FAKE_LOSES=1 makes nodes acknowledge without counting,
FAKE_DOES=fail makes them end at the start, FAKE_DOES=lie makes them say nonsense.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

import msgpack

from tests.transport.client.fake_node import FakeNode, each, reply
from transport import polyraft_pb2 as pb


class Counter:
    """What the nodes of a cluster agree on."""

    def __init__(self, path: Path, client: str, members: str) -> None:
        self.path = path
        self.client = client
        self.members = [it.split("=")[0] for it in members.split(",")]

    def __call__(self, group: str, batch: pb.RequestBatch) -> pb.ReplyBatch:
        """One request per message is all that is needed here."""
        request = batch.requests[0]
        if request.WhichOneof("body") == "admin":
            return each(reply(data=json.dumps(self._admin(request.admin.command)).encode()))
        counts = request.write.operation == "ADD" and msgpack.unpackb(request.write.data)
        if counts and not os.environ.get("FAKE_LOSES"):
            with self.path.open("ab") as file:
                file.write(b"x")
        return each(*[reply(data=self._answer(it), index=1) for it in batch.requests])

    def _answer(self, request: pb.Request) -> bytes:
        if request.write.operation != "ADD":
            return b""
        total = self.path.stat().st_size if self.path.exists() else 0
        packed: bytes = msgpack.packb(total)
        return packed

    def _admin(self, command: str) -> dict[str, object]:
        if command == "status":
            return {"processes": [{"kind": "router", "pid": os.getpid()}]}
        peers = {name: {"lag": 0, "active_ms_ago": 5} for name in self.members}
        return {"leader_address": self.client, "peers": peers, "worker": {"pid": os.getpid()}}


def main() -> int:
    """Be a node until SIGTERM."""
    parser = argparse.ArgumentParser()
    for name in ("id", "data", "client", "peer", "events", "members", "group"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    does = os.environ.get("FAKE_DOES")
    if does == "fail":
        sys.stderr.write("something went by\npolyraft-node: the disk is new\n")
        return 1
    if does == "lie":
        sys.stdout.write("hello\n")
        sys.stdout.flush()
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    counter = Counter(Path(options.data).parent / "counter", options.client, options.members)
    with FakeNode(counter, address=options.client):
        sys.stdout.write(f"ready node={options.id} client={options.client} pid={os.getpid()}\n")
        sys.stdout.flush()
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
