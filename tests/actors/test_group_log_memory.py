"""Groups that hold next to nothing of their logs in memory: whoever needs more gets it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from actors import snapshots as snapshots_module
from actors.machine import Apply
from actors.settings import SnapshotSettings
from raft.messages import Append
from raft.settings import RaftSettings
from raft.store.errors import WalDamaged
from tests.actors.cluster import Cluster, Node
from tests.actors.test_rebuild import Mood, cluster_of, fill, led_by, state, write
from transport import protocol

NOTHING = SnapshotSettings(snapshot_entries=1_000, log_memory_bytes=0)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 0)


def digests(cluster: Cluster) -> set[bytes]:
    return {node.machine.machine.digest() for node in cluster.up()}


def lagging(count: int = 40) -> tuple[Cluster, Node, Node]:
    """A follower that was away while so much was written."""
    settings = RaftSettings(append_bytes_max=300)
    cluster = Cluster(snapshots=NOTHING, settings=settings)
    leader = cluster.leader()
    follower = cluster.followers()[0]
    fill(cluster, leader, 10, "before")
    follower.crash()
    fill(cluster, leader, count)
    return cluster, leader, follower


def test_what_is_applied_is_not_in_memory() -> None:
    cluster = Cluster(snapshots=NOTHING)
    fill(cluster, cluster.leader(), 30)
    cluster.run(1_000)
    for node in cluster.up():
        log = node.core.log
        assert log.run_count > 30
        assert len(log.tail(1_000)) == 1
        assert log.released_index == node.core.handed_index - 1


def test_a_peer_that_lags_gets_what_is_on_the_disk_in_appends_and_no_snapshot() -> None:
    cluster, leader, follower = lagging()
    follower.start()
    cluster.run(3_000)
    assert follower.machine.applied_index == leader.machine.applied_index
    assert leader.log_reads.counts["reads"] > 5
    assert follower.group.snapshots.counts["received"] == 0
    assert len(digests(cluster)) == 1


def test_after_a_restart_what_is_applied_leaves_memory_again() -> None:
    cluster, leader, _ = lagging()
    leader.crash()
    leader.start()
    assert leader.core.log.released_index == 0
    cluster.run(5_000)
    assert len(leader.core.log.tail(1_000)) == 1


def test_a_log_that_is_not_what_was_written_ends_the_process_of_who_reads_it() -> None:
    cluster, leader, follower = lagging()
    extent = leader.wal._tidier._extents[-1]
    place = leader.wal._groups[7].places[30]
    path = f"{leader.wal._directory}/{extent.number:016x}.wal"
    leader.files.flip(path, place - extent.zero + 70)
    follower.start()
    with pytest.raises(WalDamaged, match="a run cannot be read back"):
        cluster.run(3_000)


def test_a_disk_that_does_not_read_ends_it_too() -> None:
    cluster, leader, follower = lagging()
    leader.files.fail("pread", errno.EIO, path=".wal")
    follower.start()
    with pytest.raises(OSError, match="pread"):
        cluster.run(3_000)


def test_a_leader_that_is_deposed_sends_nothing_of_what_it_has_read() -> None:
    cluster, leader, follower = lagging()
    leader.works_at_once = False
    follower.start()
    cluster.run(1_000)
    assert leader.jobs
    others = [node for node in cluster.up() if node not in (leader, follower)]
    led_by(cluster, others[0].name)
    cluster.drop()
    leader.work()
    leader.turn()
    assert not [it for it in cluster.in_flight if isinstance(it, Append)]
    leader.works_at_once = True
    cluster.run(3_000)
    assert len(digests(cluster)) == 1


def test_a_machine_is_rebuilt_from_a_log_that_is_on_the_disk() -> None:
    moods = {"n1": Mood("bad", times=1)}
    cluster = cluster_of(moods, snapshots=NOTHING)
    leader = led_by(cluster, "n2")
    sick = cluster.nodes["n1"]
    fill(cluster, leader, 30)
    write(cluster, leader, "bad")
    cluster.run(3_000)
    assert state(sick) == "running"
    assert sick.log_reads.counts["reads"] > 0
    assert sick.group.snapshots.counts["received"] == 0
    assert len(digests(cluster)) == 1


def test_the_snapshot_before_the_newest_is_enough_with_a_log_on_the_disk() -> None:
    snapshots = replace(NOTHING, snapshot_entries=10, keep_snapshots=2)
    cluster = cluster_of({}, snapshots=snapshots)
    leader = led_by(cluster, "n2")
    fill(cluster, leader, 25)
    cluster.run(1_000)
    sick = cluster.nodes["n1"]
    meta = sick.core.snapshot
    assert meta is not None
    assert sick.core.log.base_index < meta.index
    sick.crash(power=False)
    directory = sick.store.place[1]
    name = next(it for it in sick.files.listdir(directory) if it.startswith(f"{meta.index:016x}"))
    sick.files.flip(f"{directory}/{name}", 30)
    sick.start()
    cluster.run(3_000)
    assert state(sick) == "running"
    assert sick.group.snapshots.counts["spare_used"] == 1
    assert sick.log_reads.counts["reads"] > 0
    assert len(digests(cluster)) == 1


def test_a_machine_that_stands_still_is_told_little_and_catches_up_from_the_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one of its own thread does while it is restored: what it is told waits in its mailbox."""
    cluster = Cluster(("n1",), snapshots=NOTHING)
    leader = cluster.leader()
    fill(cluster, leader, 3)
    leader.group.log_memory.queued_bytes_max = 200
    handle = leader.machine._table[Apply]
    mailbox: list[Apply] = []
    monkeypatch.setitem(leader.machine._table, Apply, mailbox.append)
    sent = [write(cluster, leader, f"late{at}") for at in range(30)]
    bodies = [len(run.body) for message in mailbox for run, _ in message.runs]
    assert sum(bodies[:-1]) < 200 <= sum(bodies)
    assert mailbox[-1].passed_index == leader.core.handed_index
    assert leader.group._requests == {}, "nor is what was parsed kept elsewhere"
    assert len(leader.core.log.tail(1_000)) == 1

    def take_all(last: Apply) -> list[object]:
        told, mailbox[:] = [*mailbox, last], []
        return [effect for each in told for effect in handle(each)]

    monkeypatch.setitem(leader.machine._table, Apply, take_all)
    sent.append(write(cluster, leader, "end"))
    cluster.settle()
    assert [each.outcome.code for each in sent] == [protocol.OK] * 31
    assert leader.log_reads.counts["reads"] > 0
    assert leader.machine.applied_index == leader.core.handed_index
