"""Quarantined machines that are rebuilt: from their own disk, from the leader, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from actors import rebuild as module
from actors import snapshots as snapshots_module
from actors.group_messages import KeepSnapshots, StoreChunk, WriteSnapshot
from actors.machine import RunRestore
from actors.machines import Machine, Response
from actors.machines.kv import KeyValueMachine
from actors.rebuild import PAUSE_MS_FIRST, PAUSE_MS_MAX, pause_ms
from actors.settings import SnapshotSettings
from raft.messages import SnapshotWanted
from raft.settings import RaftSettings
from tests.actors.cluster import Cluster, Node, Sent, put
from transport import protocol
from transport.client import wire
from transport.protocol import WriteRequest

# Every ten entries, and of those two stay behind.
OFTEN = SnapshotSettings(snapshot_entries=10, snapshot_trailing_entries=2)
SELDOM = SnapshotSettings(snapshot_entries=1_000)
SMALL_CHUNKS = RaftSettings(snapshot_chunk_bytes=64)
SIZE = wire.encode_read(b"\x81\xa4size\xc3")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time stands still while a snapshot is written, real time does not."""
    monkeypatch.setattr(snapshots_module, "PAUSE_FACTOR", 0)


class Mood:
    """Of all machines of one replica, in all their lives: a copy of a machine shares it."""

    def __init__(self, key: str, times: int = 1 << 30) -> None:
        self.key = key
        self.times = times
        self.applies = 0
        self.restores = 0
        self.fails_restores = False

    def __deepcopy__(self, memo: Any) -> Mood:
        return self

    def strike(self, requests: Sequence[WriteRequest]) -> None:
        self.applies += len(requests)
        if self.times and any(request.key == self.key for request in requests):
            self.times -= 1
            raise ZeroDivisionError(f"moody at {self.key}")


class Moody(KeyValueMachine):
    """Raises at a key, in the middle of a batch, so often as its mood says."""

    def __init__(self, mood: Mood) -> None:
        super().__init__()
        self.mood = mood

    def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
        if any(request.key == self.mood.key for request in requests) and self.mood.times:
            super().apply_batch([WriteRequest(key="half", operation="PUT")], contexts[:1])
        self.mood.strike(requests)
        return super().apply_batch(requests, contexts)

    def restore(self, reader: Iterator[bytes], version: int) -> None:
        self.mood.restores += 1
        if self.mood.fails_restores:
            raise ZeroDivisionError("moody in restore")
        super().restore(reader, version)


def cluster_of(moods: dict[str, Mood], **options: Any) -> Cluster:
    machines: dict[str, Machine] = {name: Moody(mood) for name, mood in moods.items()}
    return Cluster(**{"snapshots": OFTEN, "machines": machines, **options})


def led_by(cluster: Cluster, name: str) -> Node:
    if cluster.leader().name != name:
        cluster.request(cluster.leader(), wire.encode_admin("transferLeader", name))
        cluster.run(500)
    leader = cluster.leader()
    assert leader.name == name
    return leader


def write(cluster: Cluster, node: Node, key: str) -> Sent:
    sent = cluster.request(node, put(key, b"v" * 20))
    cluster.settle()
    return sent


def fill(cluster: Cluster, leader: Node, count: int, prefix: str = "k") -> None:
    """One run each; then everybody hears that the last one is committed."""
    for at in range(count):
        assert write(cluster, leader, f"{prefix}{at}").outcome.code == protocol.OK
    cluster.run(cluster.settings.heartbeat_ms)


def state(node: Node) -> str:
    return str(node.summary["state"])


def counts(node: Node) -> dict[str, int]:
    return node.group.rebuild.counts


def assert_all_equal(cluster: Cluster) -> None:
    fill(cluster, cluster.leader(), 1, "last")
    cluster.run(500)
    assert [state(node) for node in cluster.up()] == ["running"] * len(cluster.up())
    assert len({node.machine.applied_index for node in cluster.up()}) == 1
    assert len({node.machine.machine.digest() for node in cluster.up()}) == 1


def path_of_snapshot(node: Node) -> str:
    directory = f"/{node.name}/snapshots"
    return f"{directory}/{max(node.files.listdir(directory))}"


def flip(node: Node) -> None:
    path = path_of_snapshot(node)
    node.files.flip(path, len(node.files.content(path)) // 2, 3)


def until(cluster: Cluster, condition: Callable[[], bool], limit_ms: int = 5_000) -> None:
    for _ in range(limit_ms // 10):
        if condition():
            return
        cluster.run(10)
    raise AssertionError("it does not come to that")


def kept_by(cluster: Cluster, node: Node) -> list[KeepSnapshots]:
    """What it has its files removed by, from now on."""
    found: list[KeepSnapshots] = []
    carry = node.traffic.carry

    def watch(effect: Any) -> None:
        if type(effect) is KeepSnapshots:
            found.append(effect)
        carry(effect)

    node.traffic.carry = watch  # type: ignore[method-assign]
    return found


# --------------------------------------------------------------------------- what failed by chance


@pytest.mark.parametrize("snapshots", [OFTEN, SELDOM], ids=["snapshot and log", "whole log"])
def test_a_machine_that_raised_once_is_rebuilt_from_its_own_disk(
    snapshots: SnapshotSettings,
) -> None:
    mood = Mood("bad", times=1)
    cluster = cluster_of({"n3": mood}, snapshots=snapshots)
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 14)
    sick.works_at_once = snapshots is SELDOM
    failed = sick.machine.machine
    assert write(cluster, leader, "bad").outcome.code == protocol.OK
    cluster.run(cluster.settings.heartbeat_ms)
    assert mood.times == 0
    if not sick.works_at_once:
        assert state(sick) == "quarantined"
        fill(cluster, leader, 3, "meanwhile")
        sick.works_at_once = True
        cluster.settle()
    assert state(sick) == "running", "time need not pass for it"
    assert sick.machine.machine is not failed, "that one is half changed"
    assert counts(sick) == {"attempts": 1, "rebuilt": 1}
    assert not [it for it in cluster.trace if it[0] == "SnapshotWanted"]
    keeps = kept_by(cluster, sick)
    sick.group.snapshots.let_go()
    cluster.run(500)
    assert keeps[-1].useless_to == sick.core.commit_index, "nothing is kept any more for its sake"
    assert_all_equal(cluster)


def test_the_vote_of_a_quarantined_replica_commits_and_elects() -> None:
    """Pitfall 18: two of three are a majority, and one of the two is quarantined."""
    cluster = cluster_of({"n3": Mood("bad")})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    write(cluster, leader, "bad")
    cluster.run(cluster.settings.heartbeat_ms)
    assert state(sick) == "quarantined"
    cluster["n2"].crash()
    fill(cluster, leader, 3, "needs n3")
    assert state(sick) == "quarantined"
    assert sick.core.durable_index == leader.core.last_index
    refused = cluster.request(sick, wire.encode_read(b"\x81\xa4size\xc3", consistency=2))
    cluster.settle()
    assert refused.outcome.code == protocol.REJECTED or "quarantined" in refused.outcome.error_text
    cluster["n2"].start()
    cluster.run(100)
    sick.works_at_once = False
    leader.crash()
    until(cluster, lambda: cluster["n2"].core.is_leader or sick.core.is_leader)
    until(cluster, lambda: cluster["n2"].core.can_serve, 40_000)
    assert state(sick) == "quarantined"
    fill(cluster, cluster["n2"], 3, "needs it again")
    sick.works_at_once = True
    leader.start()
    cluster.run(20_000)
    assert_all_equal(cluster)


# --------------------------------------------------------------------------- from the leader


def test_an_entry_that_raises_here_alone_is_passed_by_a_snapshot_of_the_leader() -> None:
    """The leader's is older than the entry: it takes one for this."""
    cluster = cluster_of({"n3": Mood("bad")}, settings=SMALL_CHUNKS)
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 12)
    write(cluster, leader, "bad")
    fill(cluster, leader, 2, "behind")
    index = sick.group.rebuild._index
    assert leader.group.snapshots.index < index
    last_index, first_index = sick.core.last_index, sick.core.first_index
    until(cluster, lambda: state(sick) == "running")
    assert counts(sick) == {"attempts": 2, "rebuilt": 1}
    snapshot = sick.core.snapshot
    assert snapshot is not None
    assert leader.core.snapshot == snapshot
    assert snapshot.index >= index
    assert sick.core.last_index >= last_index, "what is behind it in the log is kept"
    assert sick.core.first_index >= first_index
    marks = [it for it in cluster.trace if it[:2] == ("mark", "n3")]
    assert marks[-1][2:] == (snapshot.index, snapshot.index - 2, False), "the log is not reset"
    assert_all_equal(cluster)
    sick.crash()
    sick.start()
    cluster.run(2_000)
    assert counts(sick) == {"attempts": 0, "rebuilt": 0}, "the next start begins with it"
    assert_all_equal(cluster)


def test_appends_go_on_beside_the_snapshot_that_a_quarantined_machine_gets() -> None:
    """Its acknowledgements may be needed: here for everything."""
    cluster = cluster_of({"n3": Mood("bad")}, settings=SMALL_CHUNKS)
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 30)
    write(cluster, leader, "bad")
    cluster["n2"].crash()
    until(cluster, lambda: counts(sick)["attempts"] == 2)
    sick.works_at_once = False
    until(cluster, lambda: bool(sick.jobs))
    assert isinstance(sick.jobs[0][1], StoreChunk)
    fill(cluster, leader, 3, "during")
    assert state(sick) == "quarantined"
    sick.works_at_once = True
    until(cluster, lambda: state(sick) == "running")
    cluster["n2"].start()
    cluster.run(1_000)
    assert_all_equal(cluster)


@pytest.mark.parametrize("how", ["gone", "flipped"])
def test_a_snapshot_that_is_damaged_at_the_start_is_replaced_by_the_leader_s(how: str) -> None:
    cluster = cluster_of({}, settings=SMALL_CHUNKS)
    leader = led_by(cluster, "n1")
    fill(cluster, leader, 25)
    sick = cluster["n3"]
    path = path_of_snapshot(sick)
    sick.crash()
    if how == "gone":
        sick.files.unlink(path)
    else:
        flip(sick)
    sick.start()
    cluster.settle()
    assert state(sick) == "quarantined"
    assert path.rpartition("/")[2] in sick.summary["error"], "it says which file"
    if how == "flipped":
        assert "byte" in sick.summary["error"] or "offset" in sick.summary["error"]
    until(cluster, lambda: state(sick) == "running")
    assert_all_equal(cluster)
    sick.store.verify(sick.core.snapshot)  # type: ignore[arg-type]
    sick.crash()
    sick.start()
    cluster.run(1_000)
    assert counts(sick)["attempts"] == 0


def test_a_damaged_snapshot_with_the_whole_log_behind_it_needs_nobody() -> None:
    whole = replace(OFTEN, snapshot_trailing_entries=1_000)
    cluster = cluster_of({}, names=("n1",), snapshots=whole)
    (node,) = cluster.up()
    fill(cluster, cluster.leader(), 25)
    node.crash()
    flip(node)
    node.start()
    cluster.run(1_000)
    assert counts(node) == {"attempts": 1, "rebuilt": 1}
    assert_all_equal(cluster)
    node.crash()
    node.start()
    cluster.run(1_000)
    assert counts(node)["attempts"] == 0, "another one has taken its place"


def test_a_machine_that_has_no_snapshots_is_rebuilt_from_its_whole_log() -> None:
    class Plain(Moody):
        def snapshot(self) -> None:  # type: ignore[override]
            return None

    moods = {"n1": Mood(""), "n2": Mood(""), "n3": Mood("bad", times=3)}
    machines: dict[str, Machine] = {name: Plain(mood) for name, mood in moods.items()}
    cluster = Cluster(snapshots=OFTEN, machines=machines)
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 25)
    write(cluster, leader, "bad")
    cluster.run(20_000)
    assert state(sick) == "running"
    assert sick.core.first_index == 1
    assert counts(sick)["rebuilt"] == 1
    assert_all_equal(cluster)


def test_a_leader_whose_own_snapshot_is_damaged_sends_another_one() -> None:
    cluster = cluster_of({"n3": Mood("bad")}, settings=SMALL_CHUNKS)
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 8)
    write(cluster, leader, "bad")
    fill(cluster, leader, 1, "behind")
    sent = cluster.request(leader, wire.encode_admin("doSnapshot", ""))
    cluster.settle()
    assert sent.outcome.code == protocol.OK
    assert leader.group.snapshots.index >= sick.group.rebuild._index
    flip(leader)
    until(cluster, lambda: state(sick) == "running", 20_000)
    assert_all_equal(cluster)


def test_a_leader_whose_machine_failed_hands_over_and_is_rebuilt() -> None:
    cluster = cluster_of({"n1": Mood("bad")}, settings=SMALL_CHUNKS)
    leader = led_by(cluster, "n1")
    fill(cluster, leader, 12)
    sent = write(cluster, leader, "bad")
    assert sent.outcome.code == protocol.INTERNAL
    assert state(leader) == "quarantined"
    until(cluster, lambda: cluster.leader() is not leader, 1_000)
    until(cluster, lambda: state(leader) == "running")
    assert_all_equal(cluster)


# --------------------------------------------------------------------------- what cannot be helped


def test_an_entry_that_raises_everywhere_costs_an_attempt_in_a_minute() -> None:
    moods = {name: Mood("bad") for name in ("n1", "n2", "n3")}
    cluster = cluster_of(moods)
    leader = led_by(cluster, "n1")
    fill(cluster, leader, 3)
    write(cluster, leader, "bad")
    cluster.run(10 * 60_000)
    for node in cluster.up():
        assert state(node) == "quarantined"
        tries = counts(node)["attempts"]
        assert 14 <= tries <= 17, "1 + 2 + 4 ... seconds, then minutes"
        error = node.summary["error"]
        assert "moody at bad" in error
        assert f"at index {node.group.rebuild._index}, {tries} attempts" in error
    before = {name: mood.applies for name, mood in moods.items()}
    cluster.run(60_000)
    for name, mood in moods.items():
        assert mood.applies - before[name] <= 2 * 6, "one attempt, or two where the minute falls"
    leader = next(node for node in cluster.up() if node.core.is_leader)
    assert "correct the machine's code" in leader.summary["error"]


def test_a_corrected_machine_comes_back_by_itself() -> None:
    moods = {name: Mood("bad") for name in ("n1", "n2", "n3")}
    cluster = cluster_of(moods)
    write(cluster, led_by(cluster, "n1"), "bad")
    cluster.run(10_000)
    for mood in moods.values():
        mood.times = 0
    cluster.run(2 * PAUSE_MS_MAX)
    assert_all_equal(cluster)


def test_a_machine_alone_with_a_damaged_snapshot_says_that_nobody_has_its_state() -> None:
    cluster = cluster_of({}, names=("n1",))
    (node,) = cluster.up()
    fill(cluster, cluster.leader(), 25)
    sound = node.files.content(path := path_of_snapshot(node))
    node.crash()
    flip(node)
    node.start()
    cluster.run(5_000)
    assert state(node) == "quarantined"
    assert path in node.summary["error"]
    assert "put a sound copy of the file back" in node.summary["error"]
    refused = write(cluster, node, "a")
    assert refused.outcome.code == protocol.READ_ONLY
    at = len(sound) // 2
    node.files.flip(path, at, 3)
    cluster.run(PAUSE_MS_MAX)
    assert state(node) == "running", "and when that is done, it goes on"


def test_without_a_leader_a_damaged_snapshot_waits_for_one() -> None:
    cluster = cluster_of({}, settings=SMALL_CHUNKS)
    leader = led_by(cluster, "n1")
    fill(cluster, leader, 25)
    sick = cluster["n3"]
    for node in cluster.up():
        node.crash()
    flip(sick)
    sick.start()
    cluster.run(30_000)
    assert "waits for a leader" in sick.summary["error"]
    assert counts(sick)["attempts"] == 0, "there is nothing to try"
    cluster["n1"].start()
    cluster["n2"].start()
    cluster.run(5_000)
    assert_all_equal(cluster)


def test_a_leader_s_snapshot_that_cannot_be_restored_either_is_not_asked_for_all_the_time() -> None:
    mood = Mood("bad")
    cluster = cluster_of({"n3": mood})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 3)
    write(cluster, leader, "bad")
    mood.fails_restores = True
    cluster.run(5 * 60_000)
    assert state(sick) == "quarantined"
    assert mood.restores <= counts(sick)["attempts"] <= 12
    taken = leader.group.snapshots.counts["taken"]
    assert taken <= 2, "its snapshot is good, and not taken again"
    for at in range(4):
        fill(cluster, leader, 12, f"more{at}")
        cluster.run(2 * PAUSE_MS_MAX)
    assert sick.group.snapshots.counts["received"] > 4
    assert len(sick.files.listdir("/n3/snapshots")) <= 2, "what did not help does not stay"
    assert sick.core.first_index > 20, "nor does the log before it"
    mood.fails_restores = False
    cluster.run(2 * PAUSE_MS_MAX)
    assert_all_equal(cluster)


# --------------------------------------------------------------------------- pauses


def test_the_pauses_double_up_to_a_minute() -> None:
    found = [pause_ms(attempts) for attempts in range(10)]
    assert found == [0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]
    assert pause_ms(10_000) == PAUSE_MS_MAX
    assert pause_ms(1) == PAUSE_MS_FIRST


def test_who_fails_again_soon_does_not_begin_with_short_pauses() -> None:
    """By chance, at entry after entry: each time it is rebuilt, and fails at the next."""
    mood = Mood("bad", times=1)
    cluster = cluster_of({"n3": mood})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    for _ in range(3):
        mood.times = 1
        write(cluster, leader, "bad")
        cluster.run(cluster.settings.heartbeat_ms)
        assert mood.times == 0
        until(cluster, lambda: state(sick) == "running", 10_000)
    assert counts(sick) == {"attempts": 3, "rebuilt": 3}
    assert sick.group.rebuild._attempts == 3
    cluster.run(PAUSE_MS_MAX)
    mood.times = 1
    write(cluster, leader, "bad")
    cluster.run(cluster.settings.heartbeat_ms)
    assert state(sick) == "running"
    assert sick.group.rebuild._attempts == 1


def test_a_snapshot_on_its_way_is_waited_for_however_long_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No other attempt is made while bytes arrive."""
    monkeypatch.setattr(module, "PAUSE_MS_MAX", 2_000)
    cluster = cluster_of({"n3": Mood("bad")}, settings=replace(SMALL_CHUNKS))
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 12)
    write(cluster, leader, "bad")
    sick.works_at_once = False
    while not (sick.jobs and isinstance(sick.jobs[0][1], StoreChunk)):
        cluster.run(100)
        if sick.jobs and isinstance(sick.jobs[0][1], RunRestore):
            sick.work()
    for _ in range(20):
        cluster.run(1_500)
        sick.work()
    assert counts(sick) == {"attempts": 2, "rebuilt": 0}
    sick.works_at_once = True
    until(cluster, lambda: state(sick) == "running")
    assert_all_equal(cluster)


def test_a_long_restore_is_not_begun_again_meanwhile() -> None:
    cluster = cluster_of({"n3": Mood("bad")})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 12)
    write(cluster, leader, "bad")
    until(cluster, lambda: counts(sick)["attempts"] == 2)
    sick.works_at_once = False
    cluster.settle()
    while not (sick.jobs and isinstance(sick.jobs[0][1], RunRestore)):
        sick.work()
        cluster.run(100)
    cluster.run(30_000)
    assert counts(sick) == {"attempts": 2, "rebuilt": 0}
    assert [type(effect) for _, effect in sick.jobs].count(RunRestore) == 1
    sick.works_at_once = True
    cluster.run(100)
    assert_all_equal(cluster)


def test_a_leader_that_was_asked_is_not_once_the_own_disk_has_helped() -> None:
    cluster = cluster_of({"n3": Mood("bad", times=2)})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    leader.works_at_once = False
    write(cluster, leader, "bad")
    until(cluster, lambda: counts(sick)["attempts"] == 2)
    until(cluster, lambda: state(sick) == "running")
    assert counts(sick) == {"attempts": 3, "rebuilt": 1}
    wanted = [it for it in cluster.trace if it[0] == SnapshotWanted.__name__]
    assert wanted
    cluster.run(1_000)
    assert len([it for it in cluster.trace if it[0] == SnapshotWanted.__name__]) == len(wanted)


def test_the_snapshot_that_it_begins_with_stays_until_it_is_read() -> None:
    """A newer one that was under way when the machine failed takes its place in the log."""
    mood = Mood("bad", times=1)
    cluster = cluster_of({"n3": mood})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    fill(cluster, leader, 12)
    old = path_of_snapshot(sick)
    sick.works_at_once = False
    fill(cluster, leader, 10, "more")
    write(cluster, leader, "bad")
    cluster.run(cluster.settings.heartbeat_ms)
    assert [type(effect) for _, effect in sick.jobs] == [WriteSnapshot, RunRestore]
    sick.work()
    cluster.settle()
    assert sick.group.snapshots.index == 20
    sick.jobs.reverse()
    assert isinstance(sick.jobs[0][1], KeepSnapshots)
    sick.work()
    assert sick.files.exists(old)
    sick.works_at_once = True
    cluster.run(1_000)
    assert counts(sick) == {"attempts": 1, "rebuilt": 1}
    assert not sick.files.exists(old)
    assert_all_equal(cluster)


# --------------------------------------------------------------------------- crashes


def test_a_crash_at_any_step_of_rebuilding_loses_nothing() -> None:
    """Damaged snapshot, one from the leader, the record of it: at each disk operation in turn."""
    steps = 0
    for at in range(400):
        cluster = cluster_of({"n3": Mood("bad")}, settings=SMALL_CHUNKS, seed=at + 1)
        leader, sick = led_by(cluster, "n1"), cluster["n3"]
        fill(cluster, leader, 12)
        write(cluster, leader, "bad")
        fill(cluster, leader, 1, "behind")
        until(cluster, lambda: counts(sick)["attempts"] == 1)  # noqa: B023
        sick.files.lose_power_after(at)
        cluster.run(2_500)
        if sick.is_up:
            steps = at
            break
        sick.start()
        cluster.run(12_000)
        assert state(sick) == "running", f"after a crash before operation {at}"
        assert_all_equal(cluster)
    assert steps > 10


@pytest.mark.parametrize("power", [True, False], ids=["power", "process"])
def test_crashes_at_any_turn_of_rebuilding_lose_nothing(power: bool) -> None:
    rng = random.Random(5)
    for at in range(0, 60, 3):
        cluster = cluster_of({"n3": Mood("bad")}, settings=SMALL_CHUNKS, seed=at + 1)
        leader, sick = led_by(cluster, "n1"), cluster["n3"]
        fill(cluster, leader, 12)
        write(cluster, leader, "bad")
        fill(cluster, leader, 1, "behind")
        victim = rng.choice((sick, sick, leader))
        cluster.run(950 + 10 * at)
        victim.crash(power=power)
        cluster.run(50)
        victim.start()
        cluster.run(15_000)
        assert state(sick) == "running", f"after a crash of {victim.name} at {at}"
        assert_all_equal(cluster)


# --------------------------------------------------------------------------- what is asked for


def test_the_leader_is_asked_with_heartbeats_alone_and_no_longer_than_needed() -> None:
    cluster = cluster_of({"n3": Mood("bad")})
    leader, sick = led_by(cluster, "n1"), cluster["n3"]
    write(cluster, leader, "bad")
    cluster.run(PAUSE_MS_FIRST + 200)
    assert state(sick) == "running"
    wanted = [it for it in cluster.trace if it[0] == SnapshotWanted.__name__]
    assert 1 <= len(wanted) <= 4
    cluster.run(5_000)
    assert len([it for it in cluster.trace if it[0] == SnapshotWanted.__name__]) == len(wanted)
    assert not leader.core.snapshots_in_use, "the leader has forgotten it"
