"""Backups of a group: what they hold, from whom, and how long a snapshot is kept for them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from actors import backups
from actors import snapshots as snapshots_module
from actors.machine import SnapshotView
from actors.machines import Machine, Response
from actors.machines.kv import KeyValueMachine
from raft.messages import SnapshotLost
from raft.store.backup_file import BackupFile, BackupHead, BackupWriter, meta_of
from raft.store.memory import MemoryFiles
from raft.store.snapshots import snapshot_name
from tests.actors.cluster import Cluster, Node, Sent, put
from tests.actors.test_group_snapshots import OFTEN, files, fill
from transport import protocol
from transport.client import wire


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time stands still while a snapshot is written, real time does not."""
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 0)


def three(**options: Any) -> tuple[Cluster, Node, list[Node]]:
    cluster = Cluster(**options)
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader, cluster.followers()


def admin(cluster: Cluster, node: Node, command: str, value: str = "", **options: str) -> Sent:
    sent = cluster.request(node, wire.encode_admin(command, value, options), timeout_ms=500_000)
    cluster.settle()
    return sent


def answer(sent: Sent) -> dict[str, Any]:
    assert sent.outcome.code == protocol.OK, sent.outcome.error_text
    values: dict[str, Any] = json.loads(sent.outcome.data)
    return values


def index_now(cluster: Cluster, leader: Node) -> str:
    return str(answer(admin(cluster, leader, "readIndex"))["index"])


def read_all(cluster: Cluster, node: Node, begun: dict[str, Any]) -> bytes:
    data = b""
    while len(data) < begun["snapshot"]["size_bytes"]:
        sent = admin(cluster, node, "backupRead", backup=begun["backup"], offset=str(len(data)))
        piece = base64.b64decode(answer(sent)["data"])
        assert 0 < len(piece) <= backups.CHUNK_BYTES
        data += piece
    return data


def restored(begun: dict[str, Any], data: bytes) -> KeyValueMachine:
    """By way of a file."""
    memory = MemoryFiles()
    head = BackupHead("kv", "kv", "cc", "n1", meta_of(begun["snapshot"]), 0, "1")
    writer = BackupWriter(memory, "/kv.backup", head)
    writer.write(data)
    writer.finish()
    backup = BackupFile(memory, "/kv.backup")
    backup.verify()
    machine = KeyValueMachine()
    machine.restore(backup.machine_bytes(), head.snapshot.machine_version)
    return machine


# --------------------------------------------------------------------------- what it holds


def test_a_follower_s_backup_has_all_that_was_answered_before_it_was_asked_for() -> None:
    cluster, leader, (follower, _) = three()
    fill(cluster, leader, 5)
    for at in range(3):
        # Answered by the leader; the follower has not heard yet that it is committed.
        sent = cluster.request(leader, put(f"late{at}", b"v"))
        cluster.settle()
        assert sent.outcome.code == protocol.OK
    index = index_now(cluster, leader)
    begun = cluster.request(
        follower, wire.encode_admin("backupBegin", "", {"min_index": index}), timeout_ms=9_000
    )
    cluster.run(cluster.settings.heartbeat_ms)
    values = answer(begun)
    assert values["node"] == follower.name
    assert values["snapshot"]["index"] >= int(index)
    machine = restored(values, read_all(cluster, follower, values))
    assert machine.digest() == follower.machine.machine.digest()
    assert leader.core.snapshot is None, "each replica takes its own"


def test_a_snapshot_that_holds_enough_is_not_taken_anew() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 5)
    first = answer(admin(cluster, leader, "backupBegin", min_index=index_now(cluster, leader)))
    second = answer(admin(cluster, leader, "backupBegin", min_index=index_now(cluster, leader)))
    assert first["backup"] == second["backup"]
    assert leader.group.snapshots.counts["taken"] == 1


def test_a_replica_that_lags_waits_until_it_has_what_is_asked_for() -> None:
    cluster, leader, (follower, _) = three()
    cluster.isolate(follower.name)
    fill(cluster, leader, 5)
    index = index_now(cluster, leader)
    request = wire.encode_admin("backupBegin", "", {"min_index": index})
    waiting = cluster.request(follower, request, timeout_ms=60_000)
    stale = cluster.request(follower, wire.encode_admin("backupBegin", "", {}), timeout_ms=60_000)
    cluster.settle()
    assert waiting.outcomes is None
    assert answer(stale)["snapshot"]["index"] < int(index), "what it has, if that is wanted"
    cluster.heal()
    cluster.run(3_000)
    assert answer(waiting)["snapshot"]["index"] >= int(index)


def test_the_read_index_is_the_leader_s_to_say() -> None:
    _, leader, (follower, _) = three()
    cluster = leader.cluster
    sent = admin(cluster, follower, "readIndex")
    assert sent.handed_back == (leader.name, leader.core.term, "")
    before = int(index_now(cluster, leader))
    fill(cluster, leader, 2)
    assert int(index_now(cluster, leader)) == before + 2


def test_another_node_s_backup_is_asked_of_that_node() -> None:
    cluster, leader, (follower, _) = three()
    for command in ("backupBegin", "backupRead"):
        sent = admin(cluster, leader, command, follower.name)
        assert sent.handed_back is not None
        assert sent.handed_back[0] == follower.name
        assert admin(cluster, leader, command, "n9").outcome.code == protocol.BAD_REQUEST


# --------------------------------------------------------------------------- how long it is held


def test_what_is_read_stays_though_newer_ones_come_and_goes_when_nobody_reads() -> None:
    cluster, leader, _ = three(snapshots=OFTEN)
    fill(cluster, leader, 5)
    begun = answer(admin(cluster, leader, "backupBegin"))
    fill(cluster, leader, 40, "more")
    assert begun["backup"] in files(leader)
    assert len(files(leader)) == 2
    for _ in range(5):
        cluster.run(backups.HELD_MS - 1_000)
        read_all(cluster, leader, begun)
    assert begun["backup"] in files(leader), "each read prolongs it"
    cluster.run(backups.HELD_MS + 1_000)
    assert begun["backup"] not in files(leader)
    assert len(files(leader)) == 1
    sent = admin(cluster, leader, "backupRead", backup=begun["backup"], offset="0")
    assert sent.outcome.code == protocol.REJECTED
    assert "not held here any more" in sent.outcome.error_text


def test_nothing_is_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "HELD_MS_MAX", 150_000)
    cluster, leader, _ = three(snapshots=OFTEN)
    fill(cluster, leader, 5)
    begun = answer(admin(cluster, leader, "backupBegin"))
    fill(cluster, leader, 20, "more")
    for _ in range(2):
        cluster.run(50_000)
        read_all(cluster, leader, begun)
    cluster.run(55_000)
    assert begun["backup"] not in files(leader)


def test_a_reader_goes_on_after_the_process_was_another() -> None:
    cluster, leader, (follower, _) = three()
    fill(cluster, leader, 5)
    begun = answer(admin(cluster, follower, "backupBegin"))
    follower.crash(power=False)
    follower.start()
    cluster.run(1_000)
    assert restored(begun, read_all(cluster, follower, begun)).digest()


def test_only_so_many_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "HELD_MAX", 2)
    cluster, leader, _ = three()
    codes = []
    for _ in range(3):
        fill(cluster, leader, 1)
        codes.append(admin(cluster, leader, "backupBegin").outcome.code)
    assert codes == [protocol.OK, protocol.OK, protocol.BUSY]
    cluster.run(backups.HELD_MS + 1)
    assert admin(cluster, leader, "backupBegin").outcome.code == protocol.OK


# --------------------------------------------------------------------------- refused


class NoSnapshots(KeyValueMachine):
    def snapshot(self) -> None:  # type: ignore[override]
        return None


class Broken(Machine):
    def apply(self, request: Any, context: Any) -> Response:
        raise RuntimeError("broken")

    def digest(self) -> bytes:
        return b""


def test_a_machine_without_snapshots_has_no_backup_and_says_so() -> None:
    cluster, leader, _ = three(machines={f"n{at}": NoSnapshots() for at in (1, 2, 3)})
    fill(cluster, leader, 2)
    for _ in range(2):
        sent = admin(cluster, leader, "backupBegin")
        assert (sent.outcome.code, sent.outcome.error_text) == (
            protocol.REJECTED,
            "this machine has no snapshots",
        )


def test_a_quarantined_replica_gives_none() -> None:
    cluster, leader, _ = three(machines={f"n{at}": Broken() for at in (1, 2, 3)})
    cluster.request(leader, put("a"))
    cluster.settle()
    sent = admin(cluster, leader, "backupBegin")
    assert sent.outcome.code == protocol.REJECTED
    assert "quarantined" in sent.outcome.error_text


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("backupBegin", {"min_index": "-1"}),
        ("backupBegin", {"min_index": "1" * 30}),
        ("backupRead", {"offset": "x"}),
        ("backupRead", {}),
    ],
)
def test_what_is_no_number_is_refused(command: str, options: dict[str, str]) -> None:
    cluster, leader, _ = three()
    assert admin(cluster, leader, command, **options).outcome.code == protocol.BAD_REQUEST


def test_a_snapshot_that_has_decayed_is_refused_and_taken_anew() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 5)
    begun = answer(admin(cluster, leader, "backupBegin"))
    leader.files.flip(f"/{leader.name}/snapshots/{begun['backup']}", 100)
    sent = admin(cluster, leader, "backupRead", backup=begun["backup"], offset="0")
    assert sent.outcome.code == protocol.REJECTED
    assert "damaged at offset" in sent.outcome.error_text
    again = answer(admin(cluster, leader, "backupBegin"))
    assert restored(again, read_all(cluster, leader, again))


def test_a_backup_that_was_given_up_while_it_waited_holds_nothing() -> None:
    cluster, _, (follower, _) = three()
    cluster.isolate(follower.name)
    request = wire.encode_admin("backupBegin", "", {"min_index": "100"})
    sent = cluster.request(follower, request, timeout_ms=500)
    cluster.run(1_000)
    assert sent.outcome.code == protocol.TIMEOUT
    assert not sent.outcome.maybe_applied
    assert follower.group.snapshots.held == []


def test_the_name_of_a_backup_is_that_of_the_snapshot_s_file() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 1)
    begun = answer(admin(cluster, leader, "backupBegin"))
    assert leader.core.snapshot is not None
    assert begun["backup"] == snapshot_name(leader.core.snapshot) == files(leader)[0]


def test_who_waits_while_the_machine_is_behind_a_lost_snapshot_does_not_spin() -> None:
    """Each answer would lead to the next question, and a view may be a copy of the state."""
    cluster, leader, (follower, _) = three(snapshots=OFTEN)
    fill(cluster, leader, 25)
    cluster.run(500)
    snapshots = follower.group.snapshots
    newest = follower.core.snapshot
    assert newest is not None
    views, lost = 0, newest.index
    on_view = snapshots.on_view

    def count(message: SnapshotView) -> list[object]:
        nonlocal views
        views += 1
        if views < 4:  # until then it applies once more what the lost one stood for
            message.index = lost - 1
        assert views < 10
        return on_view(message)

    follower.group._table[SnapshotView] = count
    snapshots.on_lost(SnapshotLost(newest))
    sent = admin(cluster, follower, "backupBegin")
    assert views == 1
    cluster.run(3 * snapshots_module.BEHIND_PAUSE_MS + 500)
    assert views == 4
    assert answer(sent)["snapshot"]["index"] >= lost
