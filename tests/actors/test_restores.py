"""Groups that begin with a snapshot: who brings it where, and that no founder begins empty."""

from __future__ import annotations

import base64
import errno
import json
from dataclasses import replace
from typing import Any

import msgpack
import pytest

from actors import restores
from actors.beginnings import members_in, meta_in
from actors.catalog import CatalogMachine
from actors.machines import Context, Response
from actors.replica import CannotOpen, Surroundings, begin_group
from actors.runtime import MonotonicClock
from actors.settings import SnapshotSettings
from raft.configuration import Configuration
from raft.messages import HardState, Replica, SnapshotMeta
from raft.settings import RaftSettings
from raft.store import uploads as uploads_module
from raft.store.backup_file import meta_values
from raft.store.files import make_directory
from raft.store.memory import MemoryFiles
from raft.store.placement import PlacedGroup, Placement
from raft.store.snapshots import SnapshotStore, snapshot_name
from raft.store.uploads import Refused, Uploads, directory_of, snapshots_of, take
from raft.store.wal import Wal
from tests.actors.cluster import Cluster, Node, Sent
from tests.crash_points.disk import Choice
from transport import polyraft_pb2 as pb
from transport import protocol
from transport.client import wire

DATA = "/data"
N1, N2, N3 = (Replica(f"n{at}", at) for at in (1, 2, 3))
MEMBERS = Configuration.of(N1, N2, N3)
STATE = b"the state of a machine" * 1_000
KV = 7


def a_snapshot(state: bytes = STATE, index: int = 40) -> tuple[SnapshotMeta, bytes]:
    store = SnapshotStore(MemoryFiles(), "/elsewhere")
    writer = store.begin(index, 3, MEMBERS, 5, 1)
    writer.write(state)
    meta = writer.finish()
    return meta, store.read_raw(meta, 0, meta.size_bytes)


META, BYTES = a_snapshot()


def a_disk() -> MemoryFiles:
    files = MemoryFiles()
    files.mkdir(DATA)
    return files


def bring(uploads: Uploads, meta: SnapshotMeta = META, data: bytes = BYTES) -> int:
    held = 0
    for at in range(0, len(data), 9_000):
        held = uploads.receive(meta, at, data[at : at + 9_000])
    return held


def placed(**options: Any) -> PlacedGroup:
    return PlacedGroup(1, 1, "kv", "kv", (N1, N2, N3), options)


RESTORED = placed(restore=meta_values(META))


# --------------------------------------------------------------------------- brought to a node


def test_what_was_brought_is_held_under_its_name_until_a_group_takes_it() -> None:
    files = a_disk()
    assert bring(Uploads(files, DATA)) == META.size_bytes
    assert files.listdir(directory_of(DATA)) == [snapshot_name(META)]
    assert take(files, DATA, KV, META)
    assert files.listdir(directory_of(DATA)) == []
    assert SnapshotStore(files, snapshots_of(DATA, KV)).read_raw(META, 0, 10**9) == BYTES
    assert take(files, DATA, KV, META), "and again after a crash"
    assert not take(files, DATA, KV + 1, META)


def test_what_was_said_to_be_here_is_here_after_a_loss_of_power_too() -> None:
    """The process died between giving it its name and syncing that; the next one is asked."""
    files = a_disk()
    bring(Uploads(files, DATA))
    aside = f"{directory_of(DATA)}/aside"
    name = f"{directory_of(DATA)}/{snapshot_name(META)}"
    files.rename(name, aside)
    files.fsync_dir(directory_of(DATA))
    files.rename(aside, name)
    files.kill()
    assert Uploads(files, DATA).receive(META, 0, b"x") == META.size_bytes
    files.crash(Choice(names=False, content=False))
    assert files.listdir(directory_of(DATA)) == [snapshot_name(META)]


def test_a_group_that_begins_with_what_an_earlier_process_has_taken_finds_it_ever_after() -> None:
    """That one died between the move and its sync; then the log is durable, and power is lost."""
    files = a_disk()
    bring(Uploads(files, DATA))
    make_directory(files, snapshots_of(DATA, KV))
    target = f"{snapshots_of(DATA, KV)}/{snapshot_name(META)}"
    files.rename(f"{directory_of(DATA)}/{snapshot_name(META)}", target)
    files.kill()
    assert take(files, DATA, KV, META)
    files.crash(Choice(names=False, content=False))
    assert files.exists(target)


def test_the_same_backup_can_be_brought_again_after_a_group_has_taken_it() -> None:
    files = a_disk()
    uploads = Uploads(files, DATA)
    for group in (7, 8):
        assert bring(uploads) == META.size_bytes
        assert bring(uploads) == META.size_bytes, "what is here is not kept twice"
        assert take(files, DATA, group, META)


def test_what_comes_damaged_is_refused_and_can_come_anew() -> None:
    files = a_disk()
    uploads = Uploads(files, DATA)
    with pytest.raises(Refused, match="not the snapshot that was announced"):
        bring(uploads, data=BYTES[:-1] + b"?")
    assert files.listdir(directory_of(DATA)) == []
    assert bring(uploads) == META.size_bytes


def test_a_chunk_that_is_lost_is_asked_for_by_what_is_held() -> None:
    uploads = Uploads(a_disk(), DATA)
    assert uploads.receive(META, 0, BYTES[:100]) == 100
    assert uploads.receive(META, 500, BYTES[500:600]) == 100
    assert uploads.receive(META, 100, BYTES[100:]) == META.size_bytes


@pytest.mark.parametrize("key", ["index", "term", "time_ms"])
def test_no_group_begins_at_the_end_of_all_numbers(key: str) -> None:
    """Its first entry could not be encoded, and its worker would end as often as it is started."""
    values = meta_values(META)
    assert meta_in(values) == META
    assert meta_in({**values, key: (1 << 64) - 1}) is None


def test_two_that_are_brought_at_once_drive_each_other_out_and_leave_nothing_open() -> None:
    """Whoever sends chunks of one and the other in turn must not use up the files of a process."""
    files = a_disk()
    uploads = Uploads(files, DATA)
    other, other_bytes = a_snapshot(b"another", 9)
    for _ in range(3):
        assert uploads.receive(META, 0, BYTES[:100]) == 100
        assert uploads.receive(other, 0, other_bytes[:100]) == 100
    assert files.open_count == 1
    assert len(files.listdir(directory_of(DATA))) == 1
    assert bring(uploads) == META.size_bytes
    assert files.open_count == 0


def test_it_survives_a_power_loss_once_it_is_whole() -> None:
    import random

    files = a_disk()
    files.fsync_dir("/")
    bring(Uploads(files, DATA))
    files.crash(random.Random(1))
    assert take(files, DATA, KV, META)


def test_what_nobody_took_goes_with_the_next_life_but_not_what_is_still_needed() -> None:
    files = a_disk()
    first = Uploads(files, DATA)
    other, other_bytes = a_snapshot(b"another", 9)
    bring(first)
    bring(first, other, other_bytes)
    Placement.load(files, DATA).replace({KV: RESTORED})
    third, third_bytes = a_snapshot(b"a third", 10)
    bring(Uploads(files, DATA), third, third_bytes)
    assert set(files.listdir(directory_of(DATA))) == {snapshot_name(META), snapshot_name(third)}
    born = replace(RESTORED, options={**RESTORED.options, "born": True})
    Placement.load(files, DATA).replace({KV: born})
    bring(Uploads(files, DATA), other, other_bytes)
    assert files.listdir(directory_of(DATA)) == [snapshot_name(other)]


def test_only_so_many_lie_there_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_module, "UPLOADS_MAX", 2)
    uploads = Uploads(a_disk(), DATA)
    for index in (1, 2):
        bring(uploads, *a_snapshot(index=index))
    with pytest.raises(Refused, match="2 snapshots lie here already"):
        bring(uploads, *a_snapshot(index=3))


# --------------------------------------------------------------------------- a replica begins


def around(files: MemoryFiles, me: Replica) -> Surroundings:
    return Surroundings(
        me=me,
        files=files,
        data=DATA,
        client_address="",
        clock=MonotonicClock(),
        raft=RaftSettings(),
        snapshots=SnapshotSettings(),
        machines=frozenset(),
        may_answer=lambda: True,
    )


def test_a_founder_begins_behind_the_snapshot_and_finds_that_in_its_log() -> None:
    files = a_disk()
    bring(Uploads(files, DATA))
    begun = begin_group(around(files, N1), KV, RESTORED)
    assert (begun.base_index, begun.base_term, begun.snapshot) == (40, 3, META)
    ids = iter(range(1, 9))

    def open_wal() -> tuple[Wal, dict[int, Any]]:
        return Wal.open(
            files,
            "/data/wal/1",
            slot=1,
            incarnation=1,
            random_id=lambda: next(ids),
            segment_bytes_first=4096,
        )

    wal, _ = open_wal()
    wal.add_group(KV, 1, b"bootstrap")
    restores.save_beginning(wal, begun)
    batch = wal.take_batch()
    assert batch is not None
    batch.run()
    wal.complete(batch)
    wal.close()
    _, groups = open_wal()
    found = groups[KV]
    assert (found.base_index, found.base_term, found.snapshot) == (40, 3, META)
    assert (found.hard_state, found.runs) == (HardState(3), [])


def test_a_founder_without_the_file_does_not_begin_at_all() -> None:
    """A majority of empty ones could elect a leader, and what was restored would be gone."""
    with pytest.raises(CannotOpen, match="give the same `ctl restore` again") as caught:
        begin_group(around(a_disk(), N1), KV, RESTORED)
    assert caught.value.state == "down"


@pytest.mark.parametrize("values", [{}, {"index": 3}, "text", None])
def test_a_beginning_that_cannot_be_read_is_no_beginning(values: object) -> None:
    options = {"restore": {**meta_values(META), "members": [["n1", "1", 99]]}}
    if values:
        options = {"restore": values}  # type: ignore[dict-item]
    with pytest.raises(CannotOpen):
        begin_group(around(a_disk(), N1), KV, placed(**options))


def test_who_was_no_founder_begins_empty_and_is_given_everything() -> None:
    another_disk = Replica("n1", 99)
    begun = begin_group(around(a_disk(), another_disk), KV, RESTORED)
    assert (begun.base_index, begun.snapshot, begun.hard_state) == (0, None, HardState())


def test_a_group_that_was_not_restored_begins_empty() -> None:
    begun = begin_group(around(a_disk(), N1), KV, placed())
    assert (begun.base_index, begun.snapshot) == (0, None)


# --------------------------------------------------------------------------- the catalog


def catalog() -> CatalogMachine:
    return CatalogMachine([N1, N2, N3])


def apply(machine: CatalogMachine, name: str, restore: object, index: int = 12) -> Response:
    data = msgpack.packb({"machine": "kv", "restore": restore})
    request = pb.WriteRequest(operation="RESTORE_GROUP", key=name, data=data)
    return machine.apply(request, Context(index, 0, 1, lambda kind, values: None))


def test_the_catalog_says_with_what_a_group_begins() -> None:
    machine = catalog()
    response = apply(machine, "kv", meta_values(META))
    assert msgpack.unpackb(response.data) == {"id": 12, "created": True}
    assert machine.groups["kv"]["restore"] == meta_values(META)
    assert machine.groups["kv"]["members"] == [["n1", 1], ["n2", 2], ["n3", 3]]
    again = apply(machine, "kv", meta_values(META), 13)
    assert msgpack.unpackb(again.data) == {"id": 12, "created": False}
    copy = catalog()
    view = machine.snapshot()
    chunks: list[bytes] = []
    view.write(chunks.append)
    copy.restore(iter(chunks), 1)
    assert copy.groups == machine.groups


def test_a_group_that_exists_is_not_restored_into() -> None:
    machine = catalog()
    assert apply(machine, "kv", meta_values(META)).success
    other = {**meta_values(META), "crc": "00000001"}
    assert "began as something else" in apply(machine, "kv", other).error
    empty = pb.WriteRequest(
        operation="CREATE_GROUP", key="names", data=msgpack.packb({"machine": "kv"})
    )
    assert machine.apply(empty, Context(14, 0, 1, lambda kind, values: None)).success
    assert "began as something else" in apply(machine, "names", meta_values(META)).error
    assert "restore" not in machine.groups["names"]


def test_a_group_for_other_nodes_than_there_are_is_refused() -> None:
    for members in (Configuration.of(N1, N2), Configuration.of(N1, N2, Replica("n3", 33))):
        values = meta_values(replace(META, configuration=members))
        machine = catalog()
        assert "others by now" in apply(machine, "kv", values).error
        assert machine.groups == {}


@pytest.mark.parametrize("restore", [None, {}, 5, {"index": 1}, [b"\xff"]])
def test_whatever_else_stands_there_is_refused_on_all_nodes_alike(restore: object) -> None:
    assert not apply(catalog(), "kv", restore).success


def test_learners_and_joint_configurations_are_no_beginning() -> None:
    for members in (
        Configuration(frozenset((N1,)), frozenset((N2,))),
        MEMBERS.enter(frozenset((N1,)), frozenset()),
    ):
        values = meta_values(replace(META, configuration=members))
        assert meta_in(values) is None
        assert members_in(values) == []


# --------------------------------------------------------------------------- the Admins


@pytest.fixture
def system() -> tuple[Cluster, Node]:
    cluster = Cluster()
    node = cluster.leader()
    node.group.is_system = True
    cluster.settle()
    return cluster, node


def ask(cluster: Cluster, node: Node, command: str, value: str, **options: str) -> Sent:
    sent = cluster.request(node, wire.encode_admin(command, value, options))
    cluster.settle()
    return sent


def chunk(offset: int, count: int) -> dict[str, str]:
    return {
        "snapshot": json.dumps(meta_values(META)),
        "offset": str(offset),
        "data": base64.b64encode(BYTES[offset : offset + count]).decode(),
    }


def test_chunks_come_in_by_any_replica_of_the_system_s_group(
    system: tuple[Cluster, Node],
) -> None:
    cluster, node = system
    held = 0
    while held < META.size_bytes:
        sent = ask(cluster, node, "restoreWrite", node.name, **chunk(held, 5_000))
        assert sent.outcome.code == protocol.OK, sent.outcome.error_text
        answer = json.loads(sent.outcome.data)
        assert answer["node"] == node.name
        assert answer["held"] > held
        held = answer["held"]
    assert node.files.listdir("/groups/1/restores") == [snapshot_name(META)]


def test_chunks_for_another_node_go_to_that_node(system: tuple[Cluster, Node]) -> None:
    cluster, node = system
    other = cluster.followers()[0].name
    sent = ask(cluster, node, "restoreWrite", other, **chunk(0, 10))
    assert sent.handed_back is not None
    assert sent.handed_back[0] == other


def test_other_groups_take_none() -> None:
    cluster = Cluster()
    sent = ask(cluster, cluster.leader(), "restoreWrite", "", **chunk(0, 10))
    assert sent.outcome.code == protocol.BAD_REQUEST


@pytest.mark.parametrize(
    "change",
    [
        {"snapshot": "{}"},
        {"snapshot": "["},
        {"offset": "x"},
        {"offset": ""},
        {"data": "?"},
        {"data": ""},
    ],
)
def test_what_is_no_chunk_is_refused(system: tuple[Cluster, Node], change: dict[str, str]) -> None:
    cluster, node = system
    sent = ask(cluster, node, "restoreWrite", "", **{**chunk(0, 10), **change})
    assert sent.outcome.code == protocol.BAD_REQUEST
    assert "needs snapshot, offset and data" in sent.outcome.error_text


def test_a_full_disk_is_told(system: tuple[Cluster, Node]) -> None:
    cluster, node = system
    node.files.fail("pwrite", errno.ENOSPC, path=".receiving")
    sent = ask(cluster, node, "restoreWrite", "", **chunk(0, 10))
    assert sent.outcome.code == protocol.REJECTED
    assert "cannot be stored" in sent.outcome.error_text


def test_a_group_needs_a_kind_and_a_snapshot(system: tuple[Cluster, Node]) -> None:
    cluster, node = system
    described = json.dumps(meta_values(META))
    for options in (
        {"machine": "kv"},
        {"snapshot": described},
        {"machine": "?", "snapshot": described},
    ):
        sent = ask(cluster, node, "restoreGroup", "kv", **options)
        assert sent.outcome.code == protocol.BAD_REQUEST
