"""Snapshots on their way: broken off and gone on with, held back, and one kept to spare."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from actors import snapshots as snapshots_module
from actors.group_messages import WriteSnapshot
from actors.settings import SnapshotSettings
from raft.messages import SnapshotChunk, SnapshotMeta
from raft.settings import RaftSettings
from tests.actors.cluster import Cluster, Node, put
from tests.actors.test_group_snapshots import OFTEN, digests, files, fill, three

LARGE = b"v" * 40_000  # several of them make several frames
SETTINGS = RaftSettings(snapshot_chunk_bytes=30_000)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 0)


def lagging(
    settings: RaftSettings = SETTINGS, **options: SnapshotSettings
) -> tuple[Cluster, Node, Node]:
    """A follower that lacks what the leader's log has no longer: a megabyte in a snapshot."""
    snapshots = options.get("snapshots", replace(OFTEN, snapshot_entries=24))
    cluster, leader, (follower, _) = three(settings=settings, snapshots=snapshots)
    follower.crash()
    for at in range(26):
        cluster.request(leader, put(f"large{at}", LARGE))
        cluster.settle()
    cluster.run(100)
    assert leader.core.first_index > follower.core.last_index + 1
    follower.start()
    return cluster, leader, follower


def meta_of(node: Node) -> SnapshotMeta:
    assert node.core.snapshot is not None
    return node.core.snapshot


def run_until(cluster: Cluster, is_true: Callable[[], bool], each: Callable[[], None]) -> None:
    """A step at a time, a millisecond each."""
    for _ in range(5_000):
        if is_true():
            return
        cluster.clock.advance(1)
        for node in cluster.up():
            node.turn()
            node.sync()
            node.work()
        each()
        cluster.deliver()
    raise AssertionError("it does not come true")


class Counted:
    """Bytes of snapshots that were sent."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.offsets: list[int] = []

    def __call__(self) -> None:
        self.offsets += [
            each.offset
            for each in self._cluster.in_flight
            if isinstance(each, SnapshotChunk) and each.data
        ]


def held_of(node: Node) -> int:
    part = node.store._incoming._part
    return 0 if part is None else part.held


@pytest.mark.parametrize("power", [False, True], ids=["process", "power"])
def test_a_receiver_that_was_restarted_goes_on_where_it_was(power: bool) -> None:
    cluster, leader, follower = lagging()
    counted = Counted(cluster)
    run_until(cluster, lambda: held_of(follower) > 800_000, counted)
    assert [name for name in files(follower) if name.endswith(".receiving")]
    follower.crash(power=power)
    follower.start()
    sent = len(counted.offsets)
    run_until(cluster, lambda: follower.core.snapshot is not None, counted)
    again = counted.offsets[sent:]
    if not power:
        assert min(again) > 800_000 - (256 << 10), "all but the frame that was not whole"
    assert files(follower) == files(leader)
    cluster.run(3_000)
    assert len(digests(cluster)) == 1


def test_a_sender_that_was_restarted_goes_on_where_it_was() -> None:
    cluster, leader, follower = lagging()
    counted = Counted(cluster)
    run_until(cluster, lambda: held_of(follower) > 800_000, counted)
    held, meta = held_of(follower), meta_of(leader)
    (other,) = (node for node in cluster.up() if node not in (leader, follower))
    other.crash()  # nobody else can lead
    leader.crash(power=False)
    leader.start()
    sent = len(counted.offsets)
    cluster.drop()
    run_until(cluster, lambda: follower.core.snapshot is not None, counted)
    assert cluster.leader() is leader
    assert meta_of(follower) == meta
    assert counted.offsets[sent] == held
    other.start()
    cluster.run(3_000)
    assert len(digests(cluster)) == 1


def test_a_new_leader_with_another_snapshot_begins_anew_and_the_old_part_goes() -> None:
    cluster, leader, follower = lagging()
    run_until(cluster, lambda: held_of(follower) > 800_000, lambda: None)
    (old,) = (name for name in files(follower) if name.endswith(".receiving"))
    (other,) = (node for node in cluster.up() if node not in (leader, follower))
    fill(cluster, other if other.core.is_leader else leader, 0)
    cluster.isolate(leader.name)
    cluster.run(10_000)
    cluster.heal()
    cluster.run(10_000)
    assert old not in files(follower)
    assert not [name for name in files(follower) if name.endswith(".receiving")]
    assert len(digests(cluster)) == 1


def test_what_nobody_sends_any_more_is_removed_after_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert snapshots_module.RECEIVED_AGE_MS_MAX == 3_600_000
    monkeypatch.setattr(snapshots_module, "RECEIVED_AGE_MS_MAX", 20_000)
    cluster, _, follower = lagging()
    run_until(cluster, lambda: held_of(follower) > 800_000, lambda: None)
    cluster.isolate(follower.name)
    cluster.run(19_000)
    assert [name for name in files(follower) if name.endswith(".receiving")]
    cluster.run(1_000)
    assert files(follower) == []
    cluster.heal()
    cluster.run(10_000)
    assert len(digests(cluster)) == 1


def test_a_transfer_keeps_to_the_bytes_a_second_and_the_receiver_is_not_given_up() -> None:
    slow = replace(OFTEN, snapshot_entries=24, snapshot_send_bytes_per_s=100_000)
    cluster, leader, follower = lagging(snapshots=slow)
    began_ms = cluster.clock.now_ms()
    meta = meta_of(leader)
    while follower.core.snapshot is None:
        cluster.run(100)
        assert cluster.clock.now_ms() < began_ms + 60_000
        (peer,) = (each for each in leader.core.progress() if each.replica == follower.me)
        assert cluster.clock.now_ms() - peer.active_ms < 1_000
    took_s = (cluster.clock.now_ms() - began_ms) / 1_000
    assert took_s >= meta.size_bytes / 100_000 - 1
    assert meta_of(follower) == meta
    cluster.run(1_000)
    assert len(digests(cluster)) == 1


def test_two_that_need_it_take_turns_where_there_is_one_place() -> None:
    one = replace(OFTEN, snapshot_entries=24, snapshot_transfers_max=1)
    cluster, leader, followers = three(settings=SETTINGS, snapshots=one)
    five = Cluster(("n1", "n2", "n3", "n4", "n5"), settings=SETTINGS, snapshots=one)
    cluster, leader = five, five.leader()
    cluster.settle()
    followers = cluster.followers()[:2]
    for follower in followers:
        follower.crash()
    for at in range(26):
        cluster.request(leader, put(f"large{at}", LARGE))
        cluster.settle()
    for follower in followers:
        follower.start()
    at_once: set[int] = set()

    def look() -> None:
        at_once.add(sum(held_of(follower) > 0 for follower in followers))
        assert leader.traffic.sending.held <= 1

    run_until(cluster, lambda: all(each.core.snapshot for each in followers), look)
    assert at_once == {0, 1}
    cluster.run(2_000)
    assert len(digests(cluster)) == 1


def test_a_group_has_no_view_before_it_is_its_turn() -> None:
    """Others of its process are being written."""
    cluster, leader, _ = three(snapshots=OFTEN)
    leader.traffic._line._writer = 99
    fill(cluster, leader, 25)
    assert leader.machine._views_wanted == []
    assert leader.group.snapshots.counts["taken"] == 0
    leader.traffic.forget(99)
    leader.works_at_once = False
    cluster.settle()
    (job,) = (effect for _, effect in leader.jobs if isinstance(effect, WriteSnapshot))
    assert job.index == 26, "as it is now, not as it was when it became due"


# --------------------------------------------------------------------------- one to spare

SPARE = replace(OFTEN, keep_snapshots=2)


def with_spare() -> tuple[Cluster, Node, list[str]]:
    cluster, leader, (follower, _) = three(snapshots=SPARE)
    fill(cluster, leader, 33)
    names = files(follower)
    assert [int(name[:16], 16) for name in names] == [20, 30]
    assert follower.core.first_index <= 21, "the log goes on from the older one"
    return cluster, follower, names


def test_a_newest_snapshot_that_is_damaged_is_replaced_from_the_own_disk() -> None:
    cluster, follower, (_, newest) = with_spare()
    follower.crash()
    follower.files.flip(f"/{follower.name}/snapshots/{newest}", 250)
    follower.start()
    for other in cluster.up():
        if other is not follower:
            cluster.cut(other.name, follower.name)
    cluster.run(200)
    assert follower.group.snapshots.counts["spare_used"] == 1
    assert follower.group.snapshots.counts["received"] == 0
    assert follower.machine.error is None
    assert follower.machine.applied_index == 30, "as much as it knows to be committed"
    cluster.heal()
    cluster.run(3_000)
    assert len(digests(cluster)) == 1
    assert follower.summary["state"] == "running"


def test_the_damaged_one_is_taken_anew() -> None:
    cluster, follower, (_, newest) = with_spare()
    follower.crash()
    follower.files.flip(f"/{follower.name}/snapshots/{newest}", 250)
    follower.start()
    cluster.run(5_000)
    follower.store.verify(meta_of(follower))
    assert follower.group.snapshots.counts["taken"] >= 1
    follower.crash()
    follower.start()
    cluster.run(3_000)
    assert follower.group.snapshots.counts["spare_used"] == 0
    assert len(digests(cluster)) == 1


@pytest.mark.parametrize("damage", ["both", "gone"])
def test_without_one_that_can_be_read_the_leader_s_takes_its_place(damage: str) -> None:
    cluster, follower, names = with_spare()
    follower.crash()
    directory = f"/{follower.name}/snapshots"
    follower.files.flip(f"{directory}/{names[1]}", 250)
    if damage == "both":
        follower.files.flip(f"{directory}/{names[0]}", 250)
    else:
        follower.files.unlink(f"{directory}/{names[0]}")
    follower.start()
    cluster.run(3_000)
    assert follower.summary["state"] == "running"
    counts = follower.group.snapshots.counts
    assert (counts["spare_used"], counts["received"]) == (damage == "both", 1)
    assert len(digests(cluster)) == 1


def test_one_is_kept_unless_somebody_says_otherwise() -> None:
    assert SnapshotSettings().keep_snapshots == 1
    cluster, leader, _ = three(snapshots=OFTEN)
    fill(cluster, leader, 33)
    assert len(files(leader)) == 1
    for wrong in (0, 3):
        with pytest.raises(ValueError, match="keep_snapshots must be 1 to 2"):
            SnapshotSettings(keep_snapshots=wrong)


@pytest.mark.parametrize(
    "wrong", [{"snapshot_transfers_max": 0}, {"snapshot_send_bytes_per_s": 1_000}]
)
def test_a_limit_under_which_nothing_could_go_on_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        SnapshotSettings(**wrong)


# --------------------------------------------------------------------------- whatever breaks

SEEDS = int(os.environ.get("POLYRAFT_TRANSFER_SEEDS", "6"))


class Story:
    """A follower gets a megabyte, while either end dies, loses power, or a bit of what it has."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        settings = replace(SETTINGS, snapshot_chunk_bytes=self.rng.choice((30_000, 100_000)))
        snapshots = replace(
            OFTEN,
            snapshot_entries=24,
            snapshot_send_bytes_per_s=self.rng.choice((0, 1 << 20)),
            keep_snapshots=self.rng.choice((1, 2)),
        )
        self.cluster, self.leader, self.follower = lagging(settings, snapshots=snapshots)
        self.cluster.random.seed(seed)
        self.resumed = self.breaks = 0

    def step(self) -> None:
        cluster = self.cluster
        cluster.clock.advance(self.rng.randint(1, 20))
        for node in cluster.up():
            for act in (node.turn, node.sync, node.work):
                if node.is_up and self.rng.random() < 0.9:
                    act()
        cluster.drop(lambda _: self.rng.random() < 0.02)
        cluster.deliver(lambda _: self.rng.random() < 0.8)

    def break_something(self) -> None:
        node = self.rng.choice((self.follower, self.follower, self.leader))
        if not node.is_up:
            return
        self.breaks += 1
        held = held_of(node)
        node.crash(power=self.rng.random() < 0.5)
        parts = [name for name in files(node) if name.endswith(".receiving")]
        assert len(parts) <= 1
        decays = bool(parts) and self.rng.random() < 0.2
        if decays:
            node.files.decay(self.rng, f"/{node.name}/snapshots/{parts[0]}")
        if self.rng.random() < 0.1:
            node.files.fail("pwrite", errno.EIO, path=".receiving")
        node.start()
        self.resumed += held > 0 and bool(parts)

    def is_over(self) -> bool:
        return self.follower.is_up and self.follower.core.snapshot is not None

    def run(self) -> None:
        for count in range(6_000):
            if self.is_over():
                break
            self.step()
            if self.breaks < 8 and self.rng.random() < 0.02:
                self.break_something()
            if count % 400 == 399:
                self.cluster.run(500)
        assert self.is_over(), "it never arrives"
        self.cluster.run(5_000)
        assert len(digests(self.cluster)) == 1
        for node in self.cluster.up():
            node.store.verify(meta_of(node))
            assert not [name for name in files(node) if not name.endswith(".snapshot")]


def test_whatever_breaks_the_snapshot_arrives_as_it_was_sent() -> None:
    resumed = breaks = 0
    for seed in range(SEEDS):
        story = Story(seed)
        try:
            story.run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        resumed += story.resumed
        breaks += story.breaks
    assert breaks >= SEEDS
    assert resumed >= SEEDS // 2, "hardly any transfer was broken off"
