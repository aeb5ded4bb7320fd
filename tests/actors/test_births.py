"""Births and losses of replicas, in their worker: what is written down before anything leaves."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import pytest

from actors import wire as kinds
from actors.replica import CannotOpen, find_log
from raft.lives import replica_of
from raft.messages import (
    HardState,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    Replica,
    Vote,
    VoteReply,
)
from raft.store.memory import MemoryFiles
from raft.store.placement import BORN, PlacedGroup, Placement
from raft.store.wal import RecoveredGroup
from tests.actors.test_worker import KV, ME, N2, N3, OTHER, Bench
from tests.crash_points.disk import FATES, Fate
from transport import peer_codec

LATER = replica_of(ME, KV, 1)
THREE = (ME, N2, N3)
REASON = "its log is gone; this replica must be replaced, it may never vote again"


def sent(bench: Bench, *, me: Replica = ME) -> list[PeerMessage]:
    """What has left for N2, as it understands it."""
    found = []
    for (items,) in bench.link.of(kinds.PEER_CONTROL):
        for at in range(0, len(items), 4):
            node, incarnation, _, data = items[at : at + 4]
            if node == N2.node:
                assert incarnation in (0, N2.incarnation)
                found.append(peer_codec.decode(data, ME, N2))
    assert all(each.sender == me for each in found)
    return found


def lose_log(files: MemoryFiles) -> None:
    files.kill()
    for name in files.listdir("/data/wal/1"):
        files.unlink(f"/data/wal/1/{name}")


def placed(files: MemoryFiles) -> PlacedGroup:
    return Placement.load(files, "/data").groups[KV]


def begin_life(files: MemoryFiles, life: int = 1) -> None:
    """What the node process does when the leader has agreed."""
    placement = Placement.load(files, "/data")
    known = placement.groups[KV]
    options = {key: value for key, value in known.options.items() if key != BORN}
    later = replace(known, generation=known.generation + 1, life=life, options=options)
    placement.replace({**placement.groups, KV: later})


def lost(life: int = 0) -> Bench:
    """A worker of two groups that has lost its log; OTHER is not born yet, so it begins anew."""
    files = MemoryFiles()
    files.mkdir("/data")
    Bench(KV, files=files, members=THREE)
    if life:
        files.kill()
        begin_life(files, life)
        Bench(KV, files=files, members=THREE, keep=True)
    lose_log(files)
    bench = Bench(KV, files=files, members=THREE, keep=True)
    bench.join()
    return bench


def test_a_vote_leaves_only_when_the_birth_is_written_down() -> None:
    """A log that is lost before that begins anew, and could vote for somebody else."""
    bench = Bench(KV, members=THREE, synced=False)
    bench.join()
    bench.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True))
    bench.sync_disk()
    assert bench.link.of(kinds.REPLICAS) == [[[[KV, 0, kinds.BEGUN, ""]]]]
    bench.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True))
    bench.sync_disk()
    assert sent(bench) == []
    assert bench.bear()
    bench.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True))
    assert sent(bench) == [], "not on disk yet"
    bench.sync_disk()
    assert sent(bench) == [VoteReply(ME, N2, 3, True)]


def test_a_worker_that_dies_before_the_birth_is_written_down_asks_again() -> None:
    bench = Bench(KV, members=THREE, synced=False)
    bench.sync_disk()
    bench.files.kill()
    again = Bench(KV, files=bench.files, members=THREE, synced=False, keep=True)
    again.join()
    again.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True))
    again.sync_disk()
    assert again.link.of(kinds.REPLICAS) == [[[[KV, 0, kinds.BEGUN, ""]]]]
    assert sent(again) == []
    again.sync()
    assert KV in again.worker._groups


def test_what_waits_is_told_again_to_a_new_router_and_after_each_reload() -> None:
    bench = Bench(KV, synced=False)
    bench.sync_disk()
    row = [[[KV, 0, kinds.BEGUN, ""]]]
    assert bench.join().of(kinds.REPLICAS) == [row]
    assert bench.join().of(kinds.REPLICAS) == [row]
    bench.frame(kinds.RELOAD)
    assert bench.link.of(kinds.REPLICAS) == [row, row]
    bench.sync()
    bench.frame(kinds.RELOAD)
    assert bench.link.of(kinds.REPLICAS) == [row, row]


def test_a_log_that_is_lost_before_the_birth_is_written_down_begins_anew() -> None:
    bench = Bench(KV, synced=False)
    bench.sync_disk()
    lose_log(bench.files)
    again = Bench(KV, files=bench.files, keep=True)
    assert KV in again.worker._groups
    assert placed(bench.files).is_born


def test_a_lost_log_is_told_with_its_life_and_reason_until_there_is_another() -> None:
    bench = lost()
    assert bench.link.of(kinds.REPLICAS) == [[[[KV, 0, kinds.LOST, REASON]]]]
    begin_life(bench.files)
    bench.frame(kinds.RELOAD)
    assert bench.link.of(kinds.REPLICAS)[1:] == []
    bench.sync_disk()
    assert bench.link.of(kinds.REPLICAS)[1:] == [[[[KV, 1, kinds.BEGUN, ""]]]]


def test_the_next_life_is_another_replica_and_what_was_meant_for_the_last_is_not_for_it() -> None:
    """Pitfalls 20 and 21: a late message of, or for, the life that is over counts for nothing."""
    bench = lost()
    begin_life(bench.files)
    bench.frame(kinds.RELOAD)
    bench.sync()
    assert bench.worker._groups[KV].core.me == LATER
    summaries = [rows for (rows,) in bench.link.of(kinds.SUMMARIES)]
    assert summaries[-1][-1][0] == KV
    assert summaries[-1][-1][1]["role"] == "follower"
    bench.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True), Heartbeat(N2, ME, 3, 0, 1))
    bench.sync()
    assert sent(bench, me=LATER) == []
    bench.peer(N2, Heartbeat(N2, LATER, 3, 0, 2))
    bench.sync()
    assert sent(bench, me=LATER) == [HeartbeatReply(LATER, N2, 3, 2)]


def test_after_a_restart_the_next_life_finds_its_own_log_and_not_the_one_before() -> None:
    bench = Bench(KV, members=THREE)
    bench.join()
    bench.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True))
    bench.sync()
    bench.worker._wal.mark_damaged(KV, "a sector")
    bench.worker._write()
    bench.sync()
    bench.files.kill()
    again = Bench(KV, files=bench.files, members=THREE, keep=True)
    again.join()
    (((row,),),) = again.link.of(kinds.REPLICAS)
    assert row[:3] == [KV, 0, kinds.LOST]
    assert "a sector" in row[3]
    begin_life(bench.files)
    again.frame(kinds.RELOAD)
    again.sync()
    again.peer(N2, Vote(N2, LATER, 2, 0, 0, transfer=True))
    again.sync()
    bench.files.kill()
    last = Bench(KV, files=bench.files, members=THREE, keep=True)
    core = last.worker._groups[KV].core
    assert (core.me, core.term, core.vote) == (LATER, 2, N2)


def test_a_worker_that_dies_before_it_begins_the_next_life_does_not_find_the_one_before() -> None:
    bench = Bench(KV, members=THREE)
    bench.join()
    bench.peer(N2, Vote(N2, ME, 3, 0, 0, transfer=True))
    bench.sync()
    bench.files.kill()
    begin_life(bench.files)
    again = Bench(KV, files=bench.files, members=THREE, keep=True)
    core = again.worker._groups[KV].core
    assert (core.me, core.term, core.vote) == (LATER, 0, None)


def test_what_only_a_newer_version_can_read_is_not_lost() -> None:
    placed_here = PlacedGroup(1, 1, "kv", "kv", THREE, {BORN: True})
    found = RecoveredGroup(KV, 1, b"", HardState(), [], 1, unknown="a kind of record")
    with pytest.raises(CannotOpen, match="a kind of record") as error:
        find_log(placed_here, found)
    assert (error.value.state, error.value.is_lost) == ("down", False)


def test_the_next_life_too_can_be_lost() -> None:
    bench = lost(life=1)
    assert bench.link.of(kinds.REPLICAS) == [[[[KV, 1, kinds.LOST, REASON]]]]


def test_a_placement_that_is_older_than_the_log_ends_the_replica_and_begins_none() -> None:
    """It was put back from a copy: which lives there were is not known any more."""
    files = MemoryFiles()
    files.mkdir("/data")
    Bench(KV, files=files, members=THREE)
    old = files.content("/data/placement")
    begin_life(files)
    files.kill()
    Bench(KV, files=files, members=THREE, keep=True)
    files.kill()
    files.put("/data/placement", old)
    bench = Bench(KV, files=files, members=THREE, keep=True)
    ((_, _, _, rows),) = bench.join().of(kinds.HELLO)
    assert dict(rows)[KV]["state"] == "damaged"
    assert "an old copy" in dict(rows)[KV]["error"]
    assert bench.link.of(kinds.REPLICAS) == []


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.name)
def test_a_worker_that_starts_while_the_placement_is_replaced_begins_no_log_that_is_newer(
    fate: Fate,
) -> None:
    """The placement has its name already, and that is not durable yet."""
    files = MemoryFiles()
    files.mkdir("/data")
    files.fsync_dir("/")
    Bench(KV, files=files, members=THREE)
    files.kill()
    with patch.object(MemoryFiles, "fsync_dir"):
        begin_life(files)
    bench = Bench(KV, files=files, members=THREE, keep=True, synced=False)
    bench.sync_disk()
    fate.befall(files, "a seed")
    bench = Bench(KV, files=files, members=THREE, keep=True)
    assert bench.worker._hosting.broken == {}
    assert bench.worker._groups[KV].core.me == LATER


def test_the_other_groups_of_the_worker_go_on_as_who_they_are() -> None:
    files = MemoryFiles()
    files.mkdir("/data")
    bench = Bench(KV, OTHER, files=files)
    bench.worker._wal.mark_damaged(KV, "a sector")
    bench.worker._write()
    bench.sync()
    files.kill()
    again = Bench(files=files, keep=True)
    again.join()
    assert again.worker._groups.keys() == {OTHER}
    begin_life(files)
    again.frame(kinds.RELOAD)
    again.sync()
    found = {group: actor.core.me for group, actor in again.worker._groups.items()}
    assert found == {OTHER: ME, KV: LATER}


def test_a_birth_whose_machine_cannot_be_made_asks_for_nothing() -> None:
    bench = Bench(KV)
    placement = Placement.load(bench.files, "/data")
    strange = PlacedGroup(1, 1, "other", "nobody.knows:It", (ME,), {})
    placement.replace({**placement.groups, OTHER: strange})
    bench.join()
    bench.frame(kinds.RELOAD)
    bench.sync()
    assert bench.link.of(kinds.REPLICAS) == []
    assert bench.worker._hosting.broken[OTHER]["state"] == "down"
