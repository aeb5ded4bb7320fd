"""``ctl restore`` against a faked node that passes things on to three disks."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import ctl
from raft.configuration import Configuration
from raft.messages import Replica, SnapshotMeta
from raft.store.backup_file import BackupFile, BackupHead, BackupWriter, meta_of
from raft.store.files import Files
from raft.store.snapshots import SnapshotStore
from raft.store.uploads import Uploads
from tests.transport.client.fake_node import Answer, FakeNode, each, reply, whole
from transport import polyraft_pb2 as pb

Run = Callable[..., tuple[int, str, str]]
OLD = Configuration.of(Replica("old", 1))
NODES = {"n1": 0xFF00000000000001, "n2": 2, "n3": 3}
STATE = bytes(range(256)) * 500


def make_backup(path: Path) -> None:
    store = SnapshotStore(Files(), str(path / "old"))
    writer = store.begin(40, 3, OLD, 5, 1)
    writer.write(STATE)
    meta = writer.finish()
    head = BackupHead("kv", "kv", "cc", "old", meta, 1_700_000_000_000, "0.1")
    backup = BackupWriter(Files(), str(path / "kv.backup"), head)
    backup.write(store.read_raw(meta, 0, meta.size_bytes))
    backup.finish()


class NewCluster:
    """``groups``: what there is already; ``forgets``: nodes whose process ends in between."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.uploads = {node: Uploads(Files(), str(path / node)) for node in NODES}
        self.groups: list[dict[str, Any]] = []
        self.forgets: list[str] = []
        self.refuses: Answer = None
        self.written: list[tuple[str, int]] = []
        self.created: list[tuple[str, str, SnapshotMeta]] = []

    def __call__(self, group: str, batch: pb.RequestBatch) -> Answer:
        admin = batch.requests[0].admin
        assert group == ("_system" if admin.command != "why" else "kv2")
        return getattr(self, f"on_{admin.command}")(admin)  # type: ignore[no-any-return]

    def on_nodes(self, admin: pb.Admin) -> Answer:
        rows = [{"id": node, "incarnation": f"{number:016x}"} for node, number in NODES.items()]
        return _json({"nodes": rows})

    def on_groups(self, admin: pb.Admin) -> Answer:
        return _json({"groups": self.groups})

    def on_restoreWrite(self, admin: pb.Admin) -> Answer:  # noqa: N802
        if self.refuses is not None:
            return self.refuses
        options = dict(admin.options)
        assert len(admin.SerializeToString()) < 64 << 10
        offset = int(options["offset"])
        self.written.append((admin.value, offset))
        if admin.value in self.forgets and offset:
            self.forgets.remove(admin.value)
            self.uploads[admin.value] = Uploads(Files(), str(self.path / admin.value))
        meta = meta_of(json.loads(options["snapshot"]))
        data = base64.b64decode(options["data"])
        held = self.uploads[admin.value].receive(meta, offset, data)
        return _json({"node": admin.value, "held": held})

    def on_restoreGroup(self, admin: pb.Admin) -> Answer:  # noqa: N802
        options = dict(admin.options)
        meta = meta_of(json.loads(options["snapshot"]))
        self.created.append((admin.value, options["machine"], meta))
        return _json({"id": 12, "created": True})

    def on_why(self, admin: pb.Admin) -> Answer:
        return _json({"ok": True})


def _json(values: dict[str, Any]) -> pb.ReplyBatch:
    return each(reply(data=json.dumps(values).encode()))


@pytest.fixture
def cluster(tmp_path: Path) -> NewCluster:
    make_backup(tmp_path)
    return NewCluster(tmp_path)


@pytest.fixture
def run(cluster: NewCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with FakeNode(cluster) as node:

        def run_it(*arguments: str) -> tuple[int, str, str]:
            connect = ["--connect", node.address, "--timeout-ms", "5000", "restore"]
            code = ctl.main([*connect, str(tmp_path / "kv.backup"), *arguments])
            captured = capfd.readouterr()
            return code, captured.out, captured.err

        yield run_it


def test_all_nodes_have_it_before_the_group_is_made(
    run: Run, cluster: NewCluster, tmp_path: Path
) -> None:
    code, out, err = run("--group", "kv2")
    assert (code, err) == (0, "")
    assert out == "kv2: restored up to index 40 on n1, n2, n3\n"
    ((name, machine, meta),) = cluster.created
    assert (name, machine, meta.index, meta.term) == ("kv2", "kv", 40, 3)
    assert meta.configuration == Configuration.of(
        *(Replica(node, number) for node, number in NODES.items())
    )
    for node in NODES:
        store = SnapshotStore(Files(), str(tmp_path / node / "groups" / "1" / "restores"))
        assert b"".join(store.read(meta)) == STATE
    code, out, _ = run("--group", "kv2", "--json")
    assert json.loads(out)["created"] is True
    assert len(cluster.written) > len({*cluster.written}), "only one chunk each, the second time"


def test_a_node_that_ends_in_between_is_given_what_it_lacks(run: Run, cluster: NewCluster) -> None:
    cluster.forgets = ["n2"]
    assert run("--group", "kv2")[0] == 0
    assert cluster.forgets == [], "it has ended"
    ((_, _, meta),) = cluster.created
    store = SnapshotStore(Files(), str(cluster.path / "n2" / "groups" / "1" / "restores"))
    assert b"".join(store.read(meta)) == STATE


def test_a_node_that_keeps_nothing_is_given_up(run: Run, cluster: NewCluster) -> None:
    cluster.refuses = _json({"node": "n1", "held": 0})
    code, _, err = run("--group", "kv2")
    assert (code, err) == (1, "ctl: n1 does not keep what it is sent\n")
    assert cluster.created == []


def test_what_a_node_refuses_ends_it_before_there_is_a_group(run: Run, cluster: NewCluster) -> None:
    cluster.refuses = whole(reply(pb.REJECTED, text="it cannot be stored: disk full"))
    code, _, err = run("--group", "kv2")
    assert (code, err) == (1, "ctl: REJECTED: it cannot be stored: disk full\n")
    assert cluster.created == []


def test_a_group_that_is_there_is_not_touched(run: Run, cluster: NewCluster) -> None:
    cluster.groups = [{"name": "kv", "id": 5}]
    code, _, err = run()
    assert (code, "there is a group kv already" in err, err.count("\n")) == (1, True, 1)
    assert (cluster.written, cluster.created) == ([], [])


def test_a_damaged_backup_is_not_restored(run: Run, cluster: NewCluster, tmp_path: Path) -> None:
    path = tmp_path / "kv.backup"
    content = bytearray(path.read_bytes())
    content[-1_000] ^= 1
    path.write_bytes(content)
    code, _, err = run("--group", "kv2")
    assert (code, "checksum" in err) == (1, True)
    assert cluster.written == []
    assert BackupFile(Files(), str(path)).head.group == "kv"


@pytest.mark.parametrize("name", ["_system", "a b", ""])
def test_a_name_that_no_group_can_have_is_refused(run: Run, cluster: NewCluster, name: str) -> None:
    if name:
        assert run("--group", name)[0] == 1
    else:
        cluster.groups = [{"name": "kv"}]
        assert run("--group", name)[0] == 1, "no name: that of the backup"
    assert cluster.written == []
