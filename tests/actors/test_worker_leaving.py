"""A worker whose node joins and leaves groups, and comes back to them."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from actors import wire as kinds
from actors import worker as worker_module
from actors.desired import desired_row
from actors.group_messages import ReplicaRetired
from actors.hosting import WHY_LEFT
from raft.configuration import Configuration
from raft.lives import replica_of
from raft.messages import Heartbeat, SnapshotMeta
from raft.store.memory import MemoryFiles
from raft.store.placement import BORN, LEFT, PlacedGroup, Placement
from raft.store.records import DAMAGED
from tests.actors.test_worker import (
    KV,
    ME,
    N2,
    OTHER,
    Bench,
    name_of,
    snapshot,
    with_snapshot,
    write,
)
from transport import protocol


@pytest.fixture(autouse=True)
def _crashes_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise AssertionError(f"the worker ends with {code}")

    monkeypatch.setattr(worker_module, "end_process", end)


def leave(bench: Bench, group: int = KV) -> None:
    bench.place(group, **{BORN: True, LEFT: 9})
    bench.frame(kinds.RELOAD)
    bench.worker._turn()
    bench.sync()


def come_back(bench: Bench, group: int = KV) -> None:
    """As the next life."""
    placement = Placement.load(bench.files, "/data")
    back = PlacedGroup(1, 2, name_of(group), "kv", (ME,), {}, 1)
    placement.replace({**placement.groups, group: back})
    bench.frame(kinds.RELOAD)
    bench.worker._turn()
    bench.sync()


def test_who_leaves_while_in_line_to_write_a_snapshot_holds_up_nobody() -> None:
    bench = Bench(KV, OTHER)
    bench.join()
    bench.request(*write(1), *write(2, OTHER))
    bench.sync()
    bench.request(*snapshot(3, OTHER))
    bench.request(*snapshot(4, KV))
    leave(bench)
    bench.work()
    assert bench.replies()[3] == protocol.OK
    bench.request(*write(5, OTHER))
    bench.sync()
    bench.request(*snapshot(6, OTHER))
    bench.work()
    assert bench.replies()[6] == protocol.OK


def test_what_was_begun_for_a_life_that_is_over_is_told_to_nobody() -> None:
    """A snapshot that is being written, of a log that the next life knows nothing of."""
    bench = Bench(KV, OTHER)
    bench.join()
    bench.request(*write(1), *write(2, OTHER))
    bench.sync()
    bench.request(*snapshot(3, KV))
    leave(bench)
    come_back(bench)
    bench.request(*snapshot(6, KV), *snapshot(7, OTHER))
    bench.work()
    assert bench.worker._groups[KV].core.snapshot is None
    assert bench.replies()[6] == protocol.REJECTED, "nothing has been applied in this life"
    assert bench.replies()[7] == protocol.OK


def test_a_machine_that_was_being_restored_for_a_life_that_is_over_is_nobodys() -> None:
    donor = with_snapshot(KV, OTHER)
    donor.files.kill()
    bench = Bench(KV, OTHER, files=donor.files)
    bench.join()
    leave(bench)
    come_back(bench)
    bench.work()
    actor = bench.worker._groups[KV]
    assert (actor.applied_index, actor.summary()["state"]) == (0, "running")


def test_a_part_of_a_snapshot_that_was_coming_is_closed_when_its_group_is_left() -> None:
    bench = Bench(KV, OTHER)
    bench.join()
    leave(bench, OTHER)
    bench.work()
    idle = bench.files.open_count
    meta = SnapshotMeta(9, 1, Configuration.of(ME, N2), 5, 1, 100, 7)
    bench.worker._hosting.stores[KV].receive(meta, 0, b"x" * 10)
    assert bench.files.open_count == idle + 1
    leave(bench)
    bench.work()
    assert bench.files.open_count == idle
    assert bench.files.listdir("/data/groups/7/snapshots") == []


def test_a_part_of_a_snapshot_that_an_earlier_process_received_goes_with_its_group() -> None:
    bench = with_snapshot(KV, OTHER)
    meta = SnapshotMeta(50, 1, Configuration.of(ME, N2), 0, 1, 1_000, 7)
    bench.worker._hosting.stores[KV].receive(meta, 0, b"x" * 10)
    directory = "/data/groups/7/snapshots"
    assert len(bench.files.listdir(directory)) == 2
    bench.place(KV, **{BORN: True, LEFT: 9})
    bench.files.kill()
    again = Bench(KV, OTHER, files=bench.files, keep=True)
    again.work()
    assert again.files.listdir(directory) == []


def test_snapshots_of_a_group_that_was_left_and_cannot_be_removed_end_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would end again as often as it is started: the placement says that the group was left."""
    bench = with_snapshot(KV, OTHER)

    def unlink(files: MemoryFiles, path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(MemoryFiles, "unlink", unlink)
    leave(bench)
    bench.work()
    assert set(bench.worker._groups) == {OTHER}
    assert len(bench.files.listdir("/data/groups/7/snapshots")) == 1


def test_a_group_that_was_left_and_is_back_before_its_worker_looks_begins_the_next_life() -> None:
    bench = Bench(KV, OTHER)
    bench.join()
    bench.request(*write(1))
    bench.sync()
    bench.place(KV, **{BORN: True, LEFT: 9})
    come_back(bench)
    core = bench.worker._groups[KV].core
    assert core.me != ME
    assert core.last_index == 0


def retire(bench: Bench) -> None:
    """KV is told that it has what it never had."""
    bench.peer(N2, Heartbeat(N2, ME, 99, 99, 1))
    bench.worker._turn()
    assert bench.worker._hosting.broken[KV]["state"] == "damaged"


def test_the_next_life_of_a_replica_that_stopped_begins_though_its_leaving_was_not_read() -> None:
    bench = Bench(KV, OTHER, members=(ME, N2))
    bench.join()
    bench.sync()
    retire(bench)
    bench.place(KV, **{BORN: True, LEFT: 9})
    come_back(bench)
    assert bench.worker._groups[KV].core.me == replica_of(ME, KV, 1)
    assert KV not in bench.worker._hosting.broken


def test_so_does_that_of_one_that_could_not_be_opened() -> None:
    bench = Bench(KV)
    placement = Placement.load(bench.files, "/data")
    strange = PlacedGroup(1, 1, name_of(OTHER), "nobody.knows:It", (ME,), {})
    placement.replace({**placement.groups, OTHER: strange})
    bench.join()
    bench.frame(kinds.RELOAD)
    assert bench.worker._hosting.broken[OTHER]["state"] == "down"
    come_back(bench, OTHER)
    assert bench.worker._groups[OTHER].core.me == replica_of(ME, OTHER, 1)


def test_the_log_of_a_replica_that_stopped_is_forgotten_when_its_group_is_left() -> None:
    bench = Bench(KV, OTHER, members=(ME, N2))
    bench.join()
    bench.sync()
    retire(bench)
    leave(bench)
    assert bench.worker._wal._groups[KV].damaged == WHY_LEFT
    summaries = [row for (rows,) in bench.link.of(kinds.SUMMARIES) for row in rows]
    assert [summary["error"] for group, summary in summaries if group == KV][-1] == WHY_LEFT


def test_what_is_wanted_of_a_group_is_told_to_one_that_is_opened_later() -> None:
    """The node says it when it places the group; it is not said again when the log is born."""
    bench = Bench()
    bench.join()
    bench.place(OTHER)
    bench.frame(kinds.RELOAD)
    for version in (9, 12, 11):
        row = desired_row(OTHER, version, [[ME.node, ME.incarnation]], [[N2.node, N2.incarnation]])
        bench.frame(kinds.DESIRED, [row])
    bench.sync()
    actor = bench.worker._groups[OTHER]
    desired = actor.admin.members._desired
    assert desired is not None
    assert (desired.version, desired.learners) == (12, frozenset((N2,)))


def test_what_a_group_left_in_a_slot_whose_worker_was_down_when_it_moved_is_let_go_of() -> None:
    """Left, wanted again, and placed in another slot, before this one was started again."""
    donor = Bench(KV, OTHER)
    donor.join()
    donor.request(*write(1), *write(2, OTHER))
    donor.sync()
    donor.files.kill()
    placement = Placement.load(donor.files, "/data")
    moved = replace(placement.groups[KV], slot=2, generation=2, life=1)
    placement.replace({**placement.groups, KV: moved})
    bench = Bench(files=donor.files, keep=True)
    assert set(bench.worker._groups) == {OTHER}
    log = bench.worker._wal._groups[KV]
    assert log.live_bytes == log.fixed[DAMAGED][1], "one record stays"
    bench.files.kill()
    again = Bench(files=donor.files, keep=True)
    assert again.worker._hosting._recovered.get(KV) is None
    assert set(again.worker._groups) == {OTHER}


@pytest.mark.parametrize("generation", [0, 1])
def test_a_log_that_the_placement_says_nothing_later_of_is_kept_wherever_it_is(
    generation: int,
) -> None:
    """The placement may be an old copy, and then this is all that there is of the replica."""
    donor = Bench(KV, OTHER)
    donor.files.kill()
    placement = Placement.load(donor.files, "/data")
    elsewhere = replace(placement.groups[KV], slot=2, generation=generation)
    placement.replace({**placement.groups, KV: elsewhere})
    bench = Bench(files=donor.files, keep=True)
    assert bench.worker._wal._groups[KV].damaged is None


def test_a_group_that_stopped_and_is_left_leaves_one_record_in_the_log() -> None:
    bench = Bench(KV, OTHER)
    bench.join()
    bench.worker._hosting.retire(ReplicaRetired(KV, "two histories", "damaged"))
    leave(bench)
    log = bench.worker._wal._groups[KV]
    assert log.live_bytes == log.fixed[DAMAGED][1]
