"""Snapshots of a group: when they are taken, how they travel, and what a crash leaves of them."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import pytest

from actors import snapshots as snapshots_module
from actors.group_messages import (
    ChunkRead,
    KeepSnapshots,
    ReadChunk,
    SendPeers,
    SnapshotFailed,
    SnapshotWritten,
    StoreChunk,
    WriteSnapshot,
)
from actors.machine import Restored, RunRestore
from actors.machines import Machine, Response
from actors.machines.kv import KeyValueMachine
from actors.settings import SnapshotSettings
from raft.messages import (
    ChunkStored,
    Replica,
    SendChunk,
    SnapshotChunk,
    SnapshotLost,
    SnapshotMeta,
    SnapshotReply,
)
from raft.settings import RaftSettings
from raft.store.runs import decode_run
from raft.store.snapshots import SnapshotStore
from tests.actors.cluster import Cluster, Node, Sent, put
from transport import protocol
from transport.client import wire

# Every ten entries, and of those two stay behind.
OFTEN = SnapshotSettings(snapshot_entries=10, snapshot_trailing_entries=2)
SMALL_CHUNKS = RaftSettings(snapshot_chunk_bytes=64)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time stands still while a snapshot is written, real time does not."""
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 0)


def three(**options: Any) -> tuple[Cluster, Node, list[Node]]:
    cluster = Cluster(**{"snapshots": OFTEN, **options})
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader, cluster.followers()


def fill(cluster: Cluster, leader: Node, count: int, prefix: str = "k") -> None:
    """One run each; then everybody hears that the last one is committed."""
    for at in range(count):
        sent = cluster.request(leader, put(f"{prefix}{at}", b"v" * 20))
        cluster.settle()
        assert sent.outcome.code == protocol.OK
    cluster.run(cluster.settings.heartbeat_ms)


def files(node: Node) -> list[str]:
    path = f"/{node.name}/snapshots"
    return sorted(node.files.listdir(path)) if node.files.exists(path) else []


def digests(cluster: Cluster) -> set[bytes]:
    return {node.machine.machine.digest() for node in cluster.up()}


def ask(cluster: Cluster, node: Node, value: str = "") -> Sent:
    return cluster.request(node, wire.encode_admin("doSnapshot", value))


# --------------------------------------------------------------------------- taking


def test_a_snapshot_is_taken_when_the_log_has_grown_and_the_log_behind_it_goes() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 8)
    assert [files(node) for node in cluster.up()] == [[], [], []]
    fill(cluster, leader, 2, "more")
    for node in cluster.up():
        assert node.core.snapshot is not None
        assert node.core.snapshot.index == 10
        assert node.core.first_index == 9, "two entries stay for those who lag a little"
        assert len(files(node)) == 1
    assert len(digests(cluster)) == 1


def test_of_several_snapshots_the_newest_stays() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 45)
    for node in cluster.up():
        assert node.core.snapshot is not None
        assert node.core.snapshot.index == 40
        (name,) = files(node)
        assert name.startswith(f"{40:016x}-")
        assert node.group.snapshots.counts["taken"] == 4


def test_bytes_count_as_well_as_entries() -> None:
    few = SnapshotSettings(snapshot_bytes=1_000, snapshot_trailing_entries=0)
    cluster, leader, _ = three(snapshots=few)
    fill(cluster, leader, 3)
    assert leader.core.snapshot is None
    sent = cluster.request(leader, put("large", bytes(1_000)))
    cluster.settle()
    assert sent.outcome.code == protocol.OK
    assert leader.group.snapshots.index == 5
    fill(cluster, leader, 3)
    assert leader.group.snapshots.index == 5, "what it holds is not counted again"


def test_what_stays_behind_a_snapshot_is_bounded_by_bytes_too() -> None:
    tight = replace(OFTEN, snapshot_trailing_entries=9, snapshot_trailing_bytes=400)
    cluster, leader, _ = three(snapshots=tight)
    fill(cluster, leader, 10)
    kept = leader.core.log.between(leader.core.first_index, 10)
    assert 0 < sum(len(run.body) for run in kept) <= 400
    assert len(kept) > 2


def test_applies_go_on_while_a_snapshot_is_written_and_are_not_in_it() -> None:
    cluster, leader, _ = three()
    leader.works_at_once = False
    fill(cluster, leader, 20)
    (job,) = leader.jobs
    assert isinstance(job[1], WriteSnapshot)
    assert job[1].index == 10
    assert leader.machine.applied_index == 21
    leader.works_at_once = True
    cluster.settle()
    assert leader.group.snapshots.index == 10
    fill(cluster, leader, 1)
    assert leader.group.snapshots.index == 22, "the next one was due meanwhile"


def test_nothing_of_the_log_goes_before_the_record_of_the_snapshot_is_durable() -> None:
    """Pitfall 41."""
    cluster, leader, _ = three()
    fill(cluster, leader, 8)
    leader.syncs_at_once = False
    cluster.request(leader, put("last"))
    cluster.settle()
    leader.sync()
    cluster.settle()
    assert leader.core.snapshot is not None
    assert leader.core.snapshot.index == 10
    assert leader.batch is not None, "the record is on its way"
    assert leader.core.first_index == 1
    leader.sync()
    cluster.settle()
    assert leader.core.first_index == 9


def test_the_old_file_stays_until_the_record_of_the_new_one_is_durable() -> None:
    """A crash in between needs it."""
    cluster, leader, (follower, _) = three()
    fill(cluster, leader, 18)
    follower.syncs_at_once = False
    fill(cluster, leader, 1)
    follower.sync()
    cluster.run(20)
    assert [int(name[:16], 16) for name in files(follower)] == [10, 20], "and not recorded yet"
    assert follower.batch is not None
    follower.crash()
    follower.start()
    follower.syncs_at_once = True
    cluster.run(2_000)
    assert follower.group.snapshots.index >= 10
    assert len(digests(cluster)) == 1


def test_a_pause_of_ten_times_what_the_last_one_took_lies_between_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At most a tenth of the time goes into snapshots."""
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 10)
    cluster, leader, _ = three()
    leader.works_at_once = False
    fill(cluster, leader, 10)
    (_, effect) = leader.jobs.pop()
    tell_written(leader, effect, elapsed_ms=200)
    fill(cluster, leader, 20)
    assert leader.jobs == [] or isinstance(leader.jobs[-1][1], KeepSnapshots)
    cluster.run(2_000)
    fill(cluster, leader, 1)
    assert isinstance(leader.jobs[-1][1], WriteSnapshot)


def write(node: Node, effect: WriteSnapshot) -> SnapshotMeta:
    writer = node.store.begin(
        effect.index, effect.term, effect.configuration, effect.time_ms, effect.machine_version
    )
    effect.view.write(writer.write)
    return writer.finish()


def tell_written(node: Node, effect: WriteSnapshot, elapsed_ms: int) -> None:
    result = SnapshotWritten(write(node, effect), elapsed_ms)
    node.traffic.note_done(effect, result)
    node.tell(result, control=True)


def test_a_log_that_has_grown_far_too_large_waits_for_no_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 1_000_000)
    few = SnapshotSettings(snapshot_bytes=1_000)
    cluster, leader, _ = three(snapshots=few)
    leader.works_at_once = False
    cluster.request(leader, put("a", bytes(1_000)))
    cluster.settle()
    (_, effect) = leader.jobs.pop()
    tell_written(leader, effect, elapsed_ms=200)
    for _ in range(3):
        cluster.request(leader, put("a", bytes(1_000)))
        cluster.settle()
    assert not [each for each in leader.jobs if isinstance(each[1], WriteSnapshot)]
    cluster.request(leader, put("a", bytes(1_000)))
    cluster.settle()
    assert isinstance(leader.jobs[-1][1], WriteSnapshot)


INTERVAL_MS = 12_000
BY_TIME = SnapshotSettings(snapshot_interval_ms=INTERVAL_MS)


def test_the_first_entry_that_is_in_no_snapshot_makes_one_due_within_the_interval() -> None:
    cluster, leader, _ = three(snapshots=BY_TIME)
    began_ms = cluster.clock.now_ms()
    fill(cluster, leader, 3)
    cluster.run(INTERVAL_MS * 3 // 4 - 100)
    assert leader.group.snapshots.counts["taken"] == 0
    cluster.run(began_ms + INTERVAL_MS - cluster.clock.now_ms())
    assert [node.group.snapshots.index for node in cluster.up()] == [4, 4, 4]
    cluster.run(3 * INTERVAL_MS)
    assert [node.group.snapshots.counts["taken"] for node in cluster.up()] == [1, 1, 1]
    assert not [key for node in cluster.up() for key in timers(node)], "nothing new is no timer"
    fill(cluster, leader, 1)
    assert all(timers(node) == [snapshots_module.TIMER] for node in cluster.up())
    cluster.run(INTERVAL_MS)
    assert [node.group.snapshots.counts["taken"] for node in cluster.up()] == [2, 2, 2]


def timers(node: Node) -> list[object]:
    running = node.group.snapshots._interval_due_ms
    return [] if running is None else [snapshots_module.TIMER]


def test_one_that_was_taken_for_another_reason_puts_the_next_one_off() -> None:
    cluster, leader, _ = three(snapshots=BY_TIME)
    fill(cluster, leader, 3)
    cluster.run(INTERVAL_MS // 2)
    ask(cluster, leader)
    cluster.settle()
    fill(cluster, leader, 1)
    cluster.run(INTERVAL_MS // 2 + 100)
    assert leader.group.snapshots.counts["taken"] == 1, "half an interval ago"
    cluster.run(INTERVAL_MS // 2)
    assert leader.group.snapshots.counts["taken"] == 2


def test_the_moments_of_many_groups_and_replicas_lie_apart() -> None:
    at = [
        snapshots_module.spread_ms(group, Replica(f"n{number}", 100 + number), INTERVAL_MS)
        for group in range(1, 101)
        for number in range(3)
    ]
    assert len(set(at)) > 290
    assert 0 <= min(at) < max(at) < INTERVAL_MS // 4
    quarters = [sum(each * 16 // INTERVAL_MS == part for each in at) for part in range(4)]
    assert min(quarters) > 50, "all over the last quarter of the interval"


def test_without_an_interval_there_is_no_timer() -> None:
    cluster, leader, _ = three(snapshots=SnapshotSettings(snapshot_interval_ms=0))
    fill(cluster, leader, 3)
    assert timers(leader) == []
    cluster.run(3 * INTERVAL_MS)
    assert leader.group.snapshots.counts["taken"] == 0


def test_it_is_half_an_hour_unless_somebody_says_otherwise() -> None:
    assert SnapshotSettings().snapshot_interval_ms == 1_800_000


# --------------------------------------------------------------------------- doSnapshot


def test_a_snapshot_can_be_asked_for_on_any_replica() -> None:
    cluster, leader, (follower, _) = three()
    fill(cluster, leader, 3)
    for node in (leader, follower):
        sent = ask(cluster, node)
        cluster.settle()
        answer = json.loads(sent.outcome.data)
        assert (answer["node"], answer["index"]) == (node.name, 4)
        assert answer["size_bytes"] == node.core.snapshot.size_bytes  # type: ignore[union-attr]
    assert [len(files(node)) for node in cluster.up()].count(1) == 2


def test_a_replica_is_asked_through_any_other() -> None:
    cluster, leader, (follower, _) = three()
    sent = ask(cluster, leader, follower.name)
    own = ask(cluster, follower, follower.name)
    nobody = ask(cluster, leader, "n9")
    cluster.settle()
    assert sent.handed_back == (follower.name, leader.core.term, "")
    assert json.loads(own.outcome.data)["node"] == follower.name
    assert nobody.outcome.code == protocol.BAD_REQUEST


def test_who_asks_meanwhile_has_the_one_that_is_under_way() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 3)
    leader.works_at_once = False
    one = ask(cluster, leader)
    cluster.settle()
    two = ask(cluster, leader)
    cluster.settle()
    assert len(leader.jobs) == 1
    leader.works_at_once = True
    cluster.settle()
    assert one.outcome.data == two.outcome.data
    again = ask(cluster, leader)
    cluster.settle()
    assert json.loads(again.outcome.data)["index"] == 4, "nothing is new"
    assert leader.traffic._line._writer is None, "and others may write"
    assert leader.group.snapshots.counts["taken"] == 1


def test_too_many_who_wait_for_one_snapshot_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "WAITING_MAX", 1)
    cluster, leader, _ = three()
    leader.works_at_once = False
    ask(cluster, leader)
    cluster.settle()
    sent = ask(cluster, leader)
    cluster.settle()
    assert sent.outcome.code == protocol.BUSY


class Bare(Machine):
    def __init__(self) -> None:
        self.count = 0

    def apply(self, request: Any, context: Any) -> Response:
        self.count += 1
        return Response()

    def digest(self) -> bytes:
        return bytes([self.count])


def test_a_machine_without_snapshots_keeps_its_log_and_is_not_asked_again() -> None:
    cluster, leader, _ = three(machines={name: Bare() for name in ("n1", "n2", "n3")})
    fill(cluster, leader, 25)
    sent = ask(cluster, leader)
    cluster.settle()
    assert sent.outcome.code == protocol.REJECTED
    assert "has no snapshots" in sent.outcome.error_text
    assert leader.core.first_index == 1
    assert not any(leader.group.snapshots.counts.values())
    assert leader.traffic._line._writer is None


def test_a_snapshot_that_cannot_be_written_is_tried_again_later_and_harms_nobody() -> None:
    """Pitfall 49: a full disk."""
    cluster, leader, _ = three()
    leader.files.fail("pwrite", errno.ENOSPC, path=".writing")
    fill(cluster, leader, 10)
    assert leader.core.snapshot is None
    assert leader.group.snapshots.counts["failed"] == 1
    assert files(leader) == []
    fill(cluster, leader, 10)
    assert leader.group.snapshots.counts["taken"] == 0, "not at once"
    leader.files.fail("pwrite", errno.ENOSPC, path=".writing")
    refused = ask(cluster, leader)
    cluster.settle()
    assert refused.outcome.code == protocol.REJECTED
    assert "could not be written" in refused.outcome.error_text
    cluster.run(snapshots_module.FAILED_PAUSE_MS)
    fill(cluster, leader, 1)
    assert leader.group.snapshots.counts["taken"] == 1


def test_nothing_applied_is_nothing_to_take() -> None:
    cluster = Cluster(snapshots=OFTEN)
    sent = ask(cluster, cluster["n1"])
    cluster["n1"].turn()
    cluster["n1"].turn()
    assert sent.outcome.code == protocol.REJECTED
    assert sent.outcome.error_text == "nothing has been applied yet"


# --------------------------------------------------------------------------- travelling


def lagging(**options: Any) -> tuple[Cluster, Node, Node]:
    """A follower that lacks what the leader's log has no longer."""
    cluster, leader, (follower, _) = three(settings=SMALL_CHUNKS, **options)
    fill(cluster, leader, 2, "before")
    follower.crash()
    fill(cluster, leader, 25)
    assert leader.core.first_index > follower.core.last_index + 1
    follower.start()
    return cluster, leader, follower


def test_a_follower_that_was_down_catches_up_by_a_snapshot() -> None:
    cluster, leader, follower = lagging()
    cluster.run(1_000)
    assert follower.core.commit_index == leader.core.commit_index
    assert follower.group.snapshots.counts["received"] == 1
    assert follower.machine.applied_index == leader.machine.applied_index
    assert len(digests(cluster)) == 1
    chunks = [each for each in cluster.trace if each[0] == "SnapshotChunk"]
    assert len(chunks) > 5, "in pieces"
    assert files(follower) == files(leader), "the same file, bit for bit"
    fill(cluster, leader, 3, "after")
    assert len(digests(cluster)) == 1


def test_after_the_installation_a_restart_begins_with_it() -> None:
    cluster, _, follower = lagging()
    cluster.run(1_000)
    index = follower.core.snapshot.index  # type: ignore[union-attr]
    follower.crash()
    follower.start()
    assert follower.core.snapshot.index == index  # type: ignore[union-attr]
    follower.turn()
    assert follower.group.summary()["state"] == "starting"
    cluster.run(2_000)
    assert follower.group.summary()["state"] == "running"
    assert len(digests(cluster)) == 1
    fill(cluster, cluster.leader(), 1)
    assert len(digests(cluster)) == 1


def test_a_crash_during_the_transfer_begins_it_anew() -> None:
    cluster, _, follower = lagging()
    seen = 0
    for _ in range(300):
        cluster.clock.advance(1)
        for node in cluster.up():
            node.turn()
            node.sync()
            node.work()
        cluster.deliver()
        seen = sum(each[:2] == ("SnapshotReply", follower.name) for each in cluster.trace)
        if seen == 3:
            break
    assert seen == 3
    assert [name for name in files(follower) if name.endswith(".receiving")]
    follower.crash()
    follower.start()
    cluster.run(3_000)
    assert len(digests(cluster)) == 1
    assert not [name for name in files(follower) if name.endswith(".receiving")]
    assert follower.machine.applied_index == cluster.leader().machine.applied_index


def test_lost_chunks_and_lost_answers_are_sent_again() -> None:
    cluster, _, follower = lagging()
    lost = 0

    def lose(message: object) -> bool:
        nonlocal lost
        if isinstance(message, SnapshotChunk | SnapshotReply) and cluster.random.random() < 0.3:
            lost += 1
            return True
        return False

    for _ in range(80):
        cluster.clock.advance(50)
        for _ in range(30):
            for node in cluster.up():
                node.turn()
                node.sync()
                node.work()
            cluster.drop(lose)
            cluster.deliver()
    cluster.run(1_000)
    assert lost > 3
    assert follower.group.snapshots.counts["received"] == 1
    assert len(digests(cluster)) == 1


def test_a_file_that_arrives_damaged_is_thrown_away_and_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    complete = SnapshotStore.complete
    damaged: list[SnapshotMeta] = []

    def once(store: SnapshotStore, meta: SnapshotMeta) -> bool:
        part = store._incoming._part
        assert part is not None
        if not damaged:
            damaged.append(meta)
            part.crc ^= 1
        return complete(store, meta)

    monkeypatch.setattr(SnapshotStore, "complete", once)
    cluster, _, follower = lagging()
    cluster.run(2_000)
    assert damaged
    assert follower.group.snapshots.counts["received"] == 1
    assert len(digests(cluster)) == 1


def test_a_full_disk_at_the_receiver_ends_when_there_is_room_again() -> None:
    cluster, _, follower = lagging()
    follower.files.fail("pwrite", errno.ENOSPC, path=".receiving", times=5)
    cluster.run(5_000)
    assert follower.group.snapshots.counts["received"] == 1
    assert len(digests(cluster)) == 1


def test_a_leader_whose_snapshot_is_damaged_takes_it_once_more_and_sends_that() -> None:
    """Also when nothing new is written: perhaps nothing can be, before the follower is back."""
    cluster, leader, follower = lagging()
    (name,) = files(leader)
    leader.files.flip(f"/{leader.name}/snapshots/{name}", 150)
    cluster.run(1_000)
    assert follower.group.snapshots.counts["received"] == 1
    assert len(digests(cluster)) == 1


def test_a_lost_snapshot_is_taken_again_after_a_failure_though_nothing_new_comes() -> None:
    """Perhaps nothing can be committed before the follower that waits for it is back."""
    cluster, leader, follower = lagging()
    (name,) = files(leader)
    leader.files.flip(f"/{leader.name}/snapshots/{name}", 150)
    leader.files.fail("pwrite", errno.ENOSPC, path=".writing")
    cluster.run(1_000)
    assert leader.group.snapshots.counts["failed"] == 1
    assert follower.group.snapshots.counts["received"] == 0
    cluster.run(snapshots_module.FAILED_PAUSE_MS)
    assert follower.group.snapshots.counts["received"] == 1
    assert len(digests(cluster)) == 1


def test_what_the_machine_has_yet_to_read_is_kept_when_a_newer_one_arrives() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 12)
    snapshots, newest = leader.group.snapshots, leader.core.snapshot
    assert newest is not None
    older = replace(newest, index=newest.index - 1)
    snapshots.restore(older)
    snapshots.restore(newest)

    def kept() -> list[SnapshotMeta]:
        (keep,) = [each for each in snapshots.end_turn() if isinstance(each, KeepSnapshots)]
        return keep.snapshots

    snapshots._want_keep()
    assert older in kept()
    snapshots.on_restored(Restored(older))
    assert older not in kept()
    snapshots.on_restored(Restored(newest))
    assert kept() == [newest]


def test_one_read_for_each_receiver_is_under_way_whatever_the_core_asks() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 12)
    snapshots, meta = leader.group.snapshots, leader.core.snapshot
    assert meta is not None
    to = cluster.followers()[0].me
    want = SendChunk(to, leader.core.term, meta, 0)
    (read,) = snapshots.send([want, want])
    assert snapshots.send([want]) == []
    assert isinstance(read, ReadChunk)
    assert (read.offset, read.bytes_max) == (0, leader.core.settings.snapshot_chunk_bytes)
    # Another place is wanted meanwhile: what was read for the first one is of no use.
    (other,) = snapshots.send([SendChunk(to, leader.core.term, meta, 7)])
    assert isinstance(other, ReadChunk)
    term = leader.core.term
    assert snapshots.on_chunk_read(ChunkRead(to, term, meta, 0, b"old")) == []
    (sent,) = snapshots.on_chunk_read(ChunkRead(to, term, meta, 7, b"new"))
    assert isinstance(sent, SendPeers)
    assert sent.messages == [SnapshotChunk(leader.me, to, term, meta, 7, b"new")]


def test_a_chunk_that_was_read_in_a_leadership_that_is_over_is_not_sent() -> None:
    cluster, leader, followers = three()
    fill(cluster, leader, 12)
    snapshots, meta = leader.group.snapshots, leader.core.snapshot
    assert meta is not None
    to, term = followers[0].me, leader.core.term
    snapshots.send([SendChunk(to, leader.core.term, meta, 0)])
    assert snapshots.on_chunk_read(ChunkRead(to, term - 1, meta, 0, b"x")) == []


def test_behind_the_end_an_empty_chunk_asks_what_became_of_the_snapshot() -> None:
    cluster, leader, followers = three()
    fill(cluster, leader, 12)
    meta = leader.core.snapshot
    assert meta is not None
    (effect,) = leader.group.snapshots.send(
        [SendChunk(followers[0].me, leader.core.term, meta, meta.size_bytes, asks=True)]
    )
    assert isinstance(effect, ReadChunk)
    leader.traffic.carry(effect)
    assert leader.jobs == [], "nothing is read for it"
    leader.turn()
    (chunk,) = cluster.in_flight
    assert isinstance(chunk, SnapshotChunk)
    assert (chunk.offset, chunk.data) == (meta.size_bytes, b"")


def test_received_chunks_that_the_disk_does_not_keep_up_with_are_dropped() -> None:
    cluster, leader, followers = three()
    fill(cluster, leader, 12)
    meta = leader.core.snapshot
    assert meta is not None
    chunk = SnapshotChunk(leader.me, followers[0].me, leader.core.term, meta, 0, b"x")
    snapshots = followers[0].group.snapshots
    effects = snapshots.receive([chunk] * (snapshots_module.STORING_MAX + 3))
    assert [type(each) for each in effects] == [StoreChunk] * snapshots_module.STORING_MAX
    assert snapshots.counts["chunks_dropped"] == 3


def test_a_chunk_that_comes_twice_does_not_begin_an_installed_snapshot_anew() -> None:
    """The store knows nothing of it any more, and the leader would believe that."""
    cluster, leader, (follower, _) = three()
    fill(cluster, leader, 12)
    meta = leader.core.snapshot
    assert meta is not None
    (store,) = follower.group.snapshots.receive(
        [SnapshotChunk(leader.me, follower.me, leader.core.term, meta, 0, b"again")]
    )
    assert isinstance(store, StoreChunk)
    follower.tell(ChunkStored(meta, 0), control=True)
    follower.turn()
    assert not [each for each in cluster.in_flight if isinstance(each, SnapshotReply)]
    assert follower.group.snapshots._storing == 0


def test_log_time_goes_on_from_a_snapshot_with_no_log_behind_it() -> None:
    """Expiry may be late, never early, and no entry is from before the one before it."""
    bare = replace(OFTEN, snapshot_trailing_entries=0)
    cluster = Cluster(("n1",), snapshots=bare)
    node = cluster.leader()
    cluster.run(60_000)
    fill(cluster, node, 9)
    meta = node.core.snapshot
    assert meta is not None
    assert meta.time_ms >= 60_000
    assert node.core.last_run() is None
    node.crash()
    node.start()
    cluster.settle()
    last = cluster.leader().core.last_run()
    assert last is not None
    assert decode_run(last.body).time_ms >= meta.time_ms


# --------------------------------------------------------------------------- quarantine


class Fragile(KeyValueMachine):
    """Fails at the key "poison"."""

    def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
        if any(request.key == "poison" for request in requests):
            raise ValueError("poison")
        return super().apply_batch(requests, contexts)


def test_a_snapshot_of_the_leader_ends_the_quarantine_of_a_follower() -> None:
    """Of one because it lacks log, too; the other has asked for it."""
    cluster = Cluster(
        snapshots=OFTEN, settings=SMALL_CHUNKS, machines={"n3": Fragile(), "n2": Fragile()}
    )
    leader = cluster.leader()
    if leader.name != "n1":
        cluster.request(leader, wire.encode_admin("transferLeader", "n1"))
        cluster.run(500)
    leader = cluster.leader()
    assert leader.name == "n1"
    cluster.request(leader, put("poison"))
    cluster.run(200)
    victim = cluster["n3"]
    assert victim.summary["state"] == "quarantined"
    assert cluster["n2"].summary["state"] == "quarantined"
    for other in ("n1", "n2"):
        cluster.cut(other, "n3")
        cluster.cut("n3", other)
    fill(cluster, leader, 25)
    cluster.heal()
    cluster.run(4_000)
    assert victim.summary["state"] == "running"
    assert victim.machine.machine.digest() == leader.machine.machine.digest()
    assert cluster["n2"].summary["state"] == "running"
    assert len(digests(cluster)) == 1


def test_a_lost_snapshot_quarantines_at_the_start_while_votes_and_log_go_on() -> None:
    cluster, leader, (follower, other) = three()
    fill(cluster, leader, 25)
    (name,) = files(follower)
    follower.crash()
    follower.files.unlink(f"/{follower.name}/snapshots/{name}")
    follower.start()
    cluster.settle()
    assert follower.summary["state"] == "quarantined"
    assert "could not be restored" in follower.summary["error"]
    other.crash()
    fill(cluster, leader, 2, "later")
    assert follower.core.durable_index == leader.core.last_index
    assert follower.summary["state"] == "quarantined"


def test_a_restore_is_told_before_what_is_to_be_applied_behind_it() -> None:
    """Pitfall 37."""
    cluster, leader, follower = lagging()
    follower.works_at_once = False
    for _ in range(200):
        cluster.run(20)
        if follower.jobs and isinstance(follower.jobs[0][1], RunRestore):
            break
        follower.work()
    assert isinstance(follower.jobs[0][1], RunRestore)
    fill(cluster, leader, 3, "behind")
    assert follower.core.handed_index == leader.core.commit_index
    assert follower.machine.applied_index <= 3, "it waits for the restore"
    assert follower.summary["state"] == "starting"
    follower.works_at_once = True
    cluster.run(200)
    assert follower.machine.applied_index == leader.machine.applied_index
    assert follower.summary["state"] == "running"
    assert len(digests(cluster)) == 1


def test_a_view_of_what_a_snapshot_of_the_leader_has_overtaken_is_thrown_away() -> None:
    cluster, leader, (follower, _) = three(settings=SMALL_CHUNKS)
    fill(cluster, leader, 5)
    follower.works_at_once = False
    asked = ask(cluster, follower)
    cluster.settle()
    (_, effect) = follower.jobs.pop()
    assert isinstance(effect, WriteSnapshot)
    cluster.isolate(follower.name)
    fill(cluster, leader, 25)
    written = write(follower, effect)
    cluster.heal()
    follower.works_at_once = True
    cluster.run(3_000)
    newest = follower.core.snapshot
    assert newest is not None
    assert newest.index > effect.index
    follower.tell(SnapshotWritten(written, 1), control=True)
    cluster.run(1_000)
    assert follower.core.snapshot == newest
    assert json.loads(asked.outcome.data)["index"] == newest.index
    assert len(digests(cluster)) == 1


def test_a_snapshot_that_was_overtaken_does_not_stand_in_for_a_newer_one_that_is_lost() -> None:
    cluster, leader, (follower, _) = three(settings=SMALL_CHUNKS)
    fill(cluster, leader, 5)
    follower.works_at_once = False
    asked = ask(cluster, follower)
    cluster.settle()
    (_, effect) = follower.jobs.pop()
    cluster.isolate(follower.name)
    fill(cluster, leader, 25)
    written = write(follower, effect)
    cluster.heal()
    follower.works_at_once = True
    cluster.run(3_000)
    snapshots, newest = follower.group.snapshots, follower.core.snapshot
    assert newest is not None
    snapshots.on_lost(SnapshotLost(newest))
    follower.works_at_once = False
    follower.traffic.note_done(effect, None)
    follower.tell(SnapshotWritten(written, 1), control=True)
    cluster.settle()
    assert (snapshots.is_lost, asked.outcomes) == (True, None)
    follower.works_at_once = True
    cluster.run(1_000)
    assert (snapshots.is_lost, snapshots.counts["taken"]) == (False, 2)
    assert json.loads(asked.outcome.data)["index"] >= newest.index


def test_what_is_let_go_of_in_the_turn_of_a_loss_is_removed_while_one_is_written() -> None:
    cluster = Cluster(snapshots=OFTEN)
    leader = cluster.leader()
    fill(cluster, leader, 12)
    node = cluster.followers()[0]
    snapshots, newest = node.group.snapshots, node.core.snapshot
    assert newest is not None
    node.works_at_once = False
    ask(cluster, node)
    cluster.settle()
    assert [type(effect) for _, effect in node.jobs] == [WriteSnapshot]
    snapshots.let_go()
    snapshots.on_lost(SnapshotLost(newest))
    assert snapshots.is_dirty
    assert [type(effect) for effect in snapshots.end_turn()] == [KeepSnapshots]


def test_a_failure_that_is_told_late_frees_the_place_for_the_next() -> None:
    cluster, leader, _ = three()
    fill(cluster, leader, 3)
    leader.works_at_once = False
    first = ask(cluster, leader)
    cluster.settle()
    (_, effect) = leader.jobs.pop()
    leader.traffic.note_done(effect, None)
    leader.tell(SnapshotFailed("no room"), control=True)
    leader.works_at_once = True
    cluster.settle()
    assert first.outcome.error_text == "no room"
    second = ask(cluster, leader)
    cluster.settle()
    assert second.outcome.code == protocol.OK
