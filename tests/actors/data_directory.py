"""The directory of a node that has stopped, on a real disk: a log, a snapshot, the small files."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgpack

from actors.catalog_members import node_row
from actors.known_nodes import KnownNodes
from actors.machine import WRITE_TAG
from raft.configuration import Configuration
from raft.messages import COMMAND, HardState, Mark, Replica, Run, Save, SnapshotMeta
from raft.store.files import Files
from raft.store.identity import DataLock, NodeIdentity
from raft.store.placement import PlacedGroup, Placement
from raft.store.runs import encode_configuration_run, encode_run
from raft.store.snapshots import SnapshotStore
from raft.store.wal import Wal
from transport import polyraft_pb2 as pb

INCARNATION = 0x11
N1 = Replica("n1", INCARNATION)
N2 = Replica("n2", 0x22)
MEMBERS = Configuration.of(N1, N2)
KV, NAMES = 7, 9


def put(key: str, value: bytes) -> bytes:
    return WRITE_TAG + pb.WriteRequest(operation="PUT", key=key, data=value).SerializeToString()


def commands(term: int, first: int, *keys: str) -> Run:
    rows = [[0, 0, 0, put(key, b"value of " + key.encode())] for key in keys]
    return encode_run(COMMAND, term, first, time_ms=5, wall_ms=6, commands=rows)


def make_data(path: Path) -> None:
    """Slot 1 has the groups kv (with a snapshot of 2, up to 4) and names (up to 1)."""
    files = Files()
    data = str(path)
    lock = DataLock(files, data)
    identity = NodeIdentity.create(files, data, "n1", INCARNATION)
    identity.adopt(files, data, "cc" * 16, "dd" * 16)
    placed = {
        KV: PlacedGroup(1, 1, "kv", "kv", (N1, N2), {"born": True}),
        NAMES: PlacedGroup(1, 1, "names", "kv", (N1, N2), {"born": True}),
    }
    Placement.load(files, data).replace(placed)
    known = KnownNodes.load(files, data, on_full=lambda again: None)
    known.merge([node_row(N1.node, N1.incarnation, 3)])
    ids = itertools.count(0xABCDEF)
    wal, _ = Wal.open(
        files,
        str(path / "wal" / "1"),
        slot=1,
        incarnation=INCARNATION,
        random_id=lambda: next(ids),
        segment_bytes_first=16384,
    )

    def write() -> None:
        batch = wal.take_batch()
        assert batch is not None
        batch.run()
        wal.complete(batch)

    for group in (KV, NAMES):
        wal.add_group(group, 1, msgpack.packb([placed[group].name, "kv", [list(N1), list(N2)]]))
        wal.save(group, Save(1, HardState(3, N1)))
    write()
    wal.save(KV, Save(2, runs=[commands(3, 1, "a", "b")]))
    wal.save(NAMES, Save(2, runs=[commands(3, 1, "x")]))
    write()
    snapshot = make_snapshot(SnapshotStore(files, str(path / f"groups/{KV}/snapshots")))
    wal.save(KV, Save(3, mark=Mark(snapshot, 2, 3, resets=False)))
    wal.save(KV, Save(4, runs=[encode_configuration_run(3, 3, MEMBERS, 7, 8)]))
    write()
    wal.save(KV, Save(5, runs=[commands(3, 4, "c")]))
    write()
    wal.close()
    lock.close()


def make_snapshot(store: SnapshotStore) -> SnapshotMeta:
    writer = store.begin(2, 3, MEMBERS, 5, 1)
    writer.write(b"the state of the machine" * 100)
    return writer.finish()
