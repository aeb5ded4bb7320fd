"""Nothing is promised that a crash can undo: recording disks, and forgetting ones.

**Recording**: a whole life of a cluster is one list of disk operations, promises and answers.  An
auditor walks along it, knows at each point what every disk holds for certain, and objects to
whatever leaves too early: votes, terms, acknowledgements, applies, answers to clients (pitfalls 1,
8, 12, 13, 18), and to a record of a snapshot whose file may not be there (pitfall 41).

**Forgetting**: storms by seed.  Disks lose or tear what was not synced, processes die, syncs fail
(pitfall 44), the network cuts and delays.  Then the power goes off everywhere at once: whatever a
client was told is on a majority of the disks.  Then all is well again: it is on all of them,
machines are equal, and what was definitely refused is nowhere (pitfall 52).

A failing seed, named in the note of the error, is the whole report: call ``weather(seed)``.  More
of them: ``POLYRAFT_STORMS=5000``.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from actors.machines.kv import KeyValueMachine
from actors.settings import SnapshotSettings
from raft.messages import (
    AppendReply,
    HeartbeatReply,
    PeerMessage,
    Persisted,
    Run,
    VoteReply,
)
from raft.outbox import Outbox
from raft.settings import RaftSettings
from raft.store import snapshots as snapshot_store
from raft.store.memory import MemoryFiles
from raft.store.runs import open_run
from tests.actors.cluster import Cluster, Node, Sent, put
from transport import protocol
from transport.client import wire

STORMS = int(os.environ.get("POLYRAFT_STORMS", "240"))
SEEDS_PER_TEST = 20
STORM_STEPS = 160
IN_THE_LOG = (protocol.OK, protocol.REJECTED)


# --------------------------------------------------------------------------- recording


class Disk:
    """What the trace has said of one node's disk so far."""

    def __init__(self) -> None:
        self.term = 0
        self.vote = ""
        self.entries: dict[int, int] = {}  # index -> term
        self.covered_index = 0  # what a snapshot stands for, whatever its terms were
        self.gathered: list[tuple[str | int, ...]] = []
        self.under_way: list[tuple[str | int, ...]] = []
        self.unsynced: set[str] = set()  # paths with writes that no sync has followed
        self.renamed = False  # and the directory was not synced since
        self.written = False

    def became_durable(self) -> None:
        for what, _, *fields in self.under_way:
            if what == "hard_state":
                self.term, self.vote = int(fields[0]), str(fields[1])
            elif what == "truncate":
                first = int(fields[0])
                self.entries = {at: term for at, term in self.entries.items() if at < first}
            elif what == "mark":
                self.covered_index = max(self.covered_index, int(fields[0]))
                if fields[2]:
                    self.entries.clear()
            else:
                term, first, last = map(int, fields)
                self.entries.update(dict.fromkeys(range(first, last + 1), term))
        self.under_way = []

    @property
    def last_index(self) -> int:
        return max(self.entries, default=self.covered_index)

    def holds(self, index: int) -> int | None:
        """The term of the entry; 0: a snapshot stands for it."""
        return 0 if index <= self.covered_index else self.entries.get(index)


class Auditor:
    """Walks along a trace; ``seen`` counts how often each kind of promise was held against it."""

    def __init__(self, names: list[str]) -> None:
        self.disks = {name: Disk() for name in names}
        self.seen: dict[str, int] = {}

    def walk(self, trace: list[tuple[str | int, ...]]) -> None:
        for event in trace:
            what, where = str(event[0]), str(event[1])
            if where.startswith("/"):
                self.on_operation(what, where)
            elif what in ("hard_state", "truncate", "run", "mark"):
                self.on_save(what, where, event)
            elif what == "batch":
                disk = self.disks[where]
                assert not disk.under_way, "two batches are unsynced"
                disk.under_way, disk.gathered, disk.written = disk.gathered, [], False
            elif what == "ran":
                disk = self.disks[where]
                assert disk.written, f"batch {event[2]} of {where} was never written"
                logs = {path for path in disk.unsynced if path.endswith(".wal")}
                assert not logs, f"batch {event[2]} of {where} was not synced"
                disk.became_durable()
            elif what == "applied":
                self.check_majority("applied", int(event[3]))
            elif what == "restored":
                self.check_majority("restored", int(event[2]))
            elif what == "reply":
                self.check_majority("reply", int(event[4]))
            else:
                term, to, verdict, match = event[2:]
                self.on_message(what, where, int(term), str(to), int(verdict), int(match))

    def on_save(self, what: str, name: str, event: tuple[str | int, ...]) -> None:
        disk = self.disks[name]
        disk.gathered.append(event)
        if what == "mark":
            self.seen["mark"] = self.seen.get("mark", 0) + 1
            assert not disk.renamed, f"{name} records a snapshot whose name is not synced"

    def on_operation(self, what: str, path: str) -> None:
        if not path.endswith(".wal") and "/snapshots" not in path:
            return
        disk = self.disks[path.split("/")[1]]
        if what == "rename":
            assert path not in disk.unsynced, f"{path} gets its name before it is synced"
            disk.renamed = True
        elif what == "fsync_dir":
            disk.renamed = False
        elif what == "pwrite":
            disk.unsynced.add(path)
            disk.written = disk.written or path.endswith(".wal")
        elif what in ("fdatasync", "fsync"):
            disk.unsynced.discard(path)

    def on_message(
        self, what: str, name: str, term: int, to: str, verdict: int, match: int
    ) -> None:  # as Cluster.send notes them
        disk = self.disks[name]
        if what in ("PreVote", "PreVoteReply"):
            return  # promise nothing; see Promised.note
        self.seen[what] = self.seen.get(what, 0) + 1
        assert disk.term >= term, f"{what} of {name} shows term {term}, durable is {disk.term}"
        if what == "Vote":
            assert disk.vote == name, f"{name} asks for votes in {term} before it has its own"
        elif what == "VoteReply" and verdict:
            self.seen["granted"] = self.seen.get("granted", 0) + 1
            assert disk.vote == to, f"{name} votes for {to} in {term}, durable: {disk.vote!r}"
        elif what == "AppendReply" and not verdict:
            assert disk.last_index >= match, f"{name} acknowledges {match} of {disk.last_index}"

    def check_majority(self, what: str, index: int) -> None:
        if index == 0:
            return
        self.seen[what] = self.seen.get(what, 0) + 1
        holders = [disk.holds(index) for disk in self.disks.values()]
        # Whoever has a snapshot of it has what was committed, which is what the others have.
        count = max(holders.count(term) for term in {*holders, 0} - {None, 0} | {-1})
        count = max(count, 0) + holders.count(0)
        assert count * 2 > len(holders), f"{what} at {index}, durable on {count}: {holders}"


def a_recorded_life(names: tuple[str, ...] = ("n1", "n2", "n3"), seed: int = 3) -> Cluster:
    """Elections, writes, reads, a partitioned leader, a restart; disks are slow now and then."""
    snapshots = SnapshotSettings(snapshot_entries=4, snapshot_trailing_entries=1)
    cluster = Cluster(names, seed=seed, snapshots=snapshots)
    for round_number in range(3):
        leader = cluster.leader()
        for at in range(4):
            cluster.request(leader, put(f"{round_number}.{at}"))
        cluster.request(leader, wire.encode_read(b"\x81\xa4size\xc3"))
        slow = cluster.random.choice(cluster.up())
        slow.syncs_at_once = False
        cluster.run(30)
        slow.syncs_at_once = True
        cluster.run(200)
        if len(names) > 1:
            cluster.isolate(leader.name)
            cluster.request(leader, put(f"{round_number}.lost"))
            cluster.run(4_000)
            cluster.heal()
            cluster.run(2_000)
        victim = cluster.random.choice(cluster.up())
        victim.crash(power=False)
        cluster.run(500)
        victim.start()
        cluster.run(2_500)
    return cluster


@pytest.mark.parametrize("names", [("n1", "n2", "n3"), ("n1",), ("n1", "n2", "n3", "n4", "n5")])
def test_no_promise_leaves_before_the_sync_that_covers_it(names: tuple[str, ...]) -> None:
    cluster = a_recorded_life(names)
    auditor = Auditor(list(names))
    auditor.walk(cluster.trace)
    assert auditor.seen["reply"] >= 15
    assert auditor.seen["mark"] >= 2 * len(names)
    if len(names) > 1:
        assert min(auditor.seen[it] for it in ("Vote", "granted", "AppendReply")) >= 4, auditor.seen


def test_the_auditor_objects_to_a_snapshot_that_a_power_cut_would_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pitfall 41, each of its steps left out in turn."""
    for operation, objection in (("fsync_dir", "name is not synced"), ("fsync", "before it is")):
        sync = getattr(MemoryFiles, operation)

        def lazy(files: MemoryFiles, what: Any, sync: Any = sync) -> None:
            path = what if isinstance(what, str) else files._inode(what)[1]
            if "/snapshots" not in path:
                sync(files, what)

        with monkeypatch.context() as patched:
            patched.setattr(MemoryFiles, operation, lazy)
            if operation == "fsync":
                patched.setattr(snapshot_store, "SYNC_BYTES", 1 << 30)
            trace = a_recorded_life(("n1",)).trace
        with pytest.raises(AssertionError, match=objection):
            Auditor(["n1"]).walk(trace)


def test_the_auditor_objects_when_a_promise_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each promise in turn skips the disk, and is found out."""
    hold = Outbox._hold
    for kind, objection in (
        (VoteReply, "shows term|votes for"),
        (AppendReply, "acknowledges"),
        (HeartbeatReply, "shows term"),
    ):

        def impatient(outbox: Outbox, number: int, message: PeerMessage, kind: type = kind) -> None:
            hold(outbox, 0 if type(message) is kind else number, message)

        monkeypatch.setattr(Outbox, "_hold", impatient)
        auditor = Auditor(["n1", "n2", "n3"])
        with pytest.raises(AssertionError, match=objection):
            auditor.walk(a_recorded_life().trace)


def test_the_auditor_objects_to_an_answer_before_the_leader_s_own_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pitfall 8: with one node there is no other disk to lean on."""

    begin = Node._begin_batch

    def hasty(node: Node) -> None:
        """The news of the disk is told when the batch begins, and the sync comes later."""
        known = node.batch
        begin(node)
        if node.batch is not None and node.batch is not known:
            for number, term, index in node.batch.newest.values():
                node.tell(Persisted(number, term, index), control=True)

    monkeypatch.setattr(Node, "_begin_batch", hasty)
    auditor = Auditor(["n1"])
    with pytest.raises(AssertionError, match="durable on 0"):
        auditor.walk(a_recorded_life(("n1",)).trace)


def test_messages_leave_before_the_leader_s_own_batch_begins() -> None:
    """Order of effects: followers append while the leader's own disk does."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.settle()
    begin = len(cluster.trace)
    leader.syncs_at_once = False
    sent = cluster.request(leader, put("a"))
    cluster.settle()
    kinds = [what for what, name, *_ in cluster.trace[begin:] if name == leader.name]
    assert kinds.index("Append") < kinds.index("batch")
    assert "pwrite" not in kinds
    assert leader.core.commit_index == leader.core.last_index, "two followers are a majority"
    assert sent.outcomes is None, "but the leader applies, and answers, what is durable here"
    leader.syncs_at_once = True
    cluster.settle()
    assert sent.outcome.code == protocol.OK


def test_a_leader_does_not_count_what_only_its_memory_holds() -> None:
    """Pitfall 12: one follower has it durably, the leader has not, the third is away."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.settle()
    near, away = cluster.followers()
    cluster.cut(leader.name, away.name)
    leader.syncs_at_once = False
    sent = cluster.request(leader, put("a"))
    cluster.run(300)
    assert near.core.durable_index == leader.core.last_index
    assert leader.core.commit_index == near.core.commit_index == leader.core.last_index - 1
    assert sent.outcomes is None
    leader.syncs_at_once = True
    cluster.settle()
    assert sent.outcome.code == protocol.OK


def test_the_failure_of_a_disk_answers_nothing_and_ends_the_process() -> None:
    """Pitfall 44: what the sync has really done is unknown; nobody acknowledges, nobody votes."""
    cluster = Cluster()
    leader = cluster.leader()
    cluster.settle()
    leader.files.fail("fdatasync", errno.EIO, path=".wal")
    begin = len(cluster.trace)
    sent = cluster.request(leader, put("a"))
    cluster.settle()
    assert not leader.is_up
    assert sent.outcomes is None
    assert not [each for each in cluster.trace[begin:] if each[:2] == ("AppendReply", leader.name)]
    cluster.run(3_000)
    leader.start()
    cluster.run(1_000)
    digests = {node.machine.machine.digest() for node in cluster.nodes.values()}
    assert len(digests) == 1


# --------------------------------------------------------------------------- forgetting


class Storm:
    """Everything goes wrong, by seed.  Each write has a key of its own: it names its message."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.cluster = Cluster(
            seed=seed,
            recording=False,
            segment_bytes=1 << self.random.randrange(10, 14),
            settings=RaftSettings(
                election_timeout_ms=400, heartbeat_ms=50, snapshot_chunk_bytes=200
            ),
            snapshots=SnapshotSettings(
                snapshot_entries=self.random.randrange(3, 40),
                snapshot_trailing_entries=self.random.randrange(4),
            ),
        )
        self.keys: dict[str, Sent] = {}
        self.reads: list[tuple[Sent, int]] = []  # with the highest index known to be answered
        self.actions = {
            self.turn: 40,
            self.deliver: 40,
            self.sync: 30,
            self.work: 30,
            self.write: 12,
            self.read: 4,
            self.let_time_pass: 14,
            self.settle: 6,
            self.crash: 3,
            self.fail_disk: 1,
            self.fail_snapshot: 1,
            self.transfer: 3,
            self.snapshot: 3,
            self.restart: 6,
            self.isolate: 2,
            self.heal: 4,
            self.lose: 3,
            self.double: 3,
        }

    def run(self) -> None:
        actions, weights = list(self.actions), list(self.actions.values())
        self.cluster.run(1_000)
        for action in self.random.choices(actions, weights, k=STORM_STEPS):
            action()

    def node(self) -> Node | None:
        nodes = self.cluster.up()
        return self.random.choice(nodes) if nodes else None

    def turn(self) -> None:
        for node in self.cluster.up():
            if node.has_work and self.random.random() < 0.7:
                node.turn()

    def sync(self) -> None:
        for node in self.cluster.up():
            if self.random.random() < 0.6:
                node.sync()

    def work(self) -> None:
        for node in self.cluster.up():
            if self.random.random() < 0.6:
                node.work()

    def deliver(self) -> None:
        in_flight = self.cluster.in_flight
        if not in_flight:
            return
        if self.random.random() < 0.8:
            self.cluster.deliver(count=self.random.randrange(1, 8))
        else:
            self.cluster.arrive(in_flight.pop(self.random.randrange(len(in_flight))))

    def settle(self) -> None:
        self.cluster.settle()

    def let_time_pass(self) -> None:
        self.cluster.clock.advance(self.random.choice((5, 20, 50, 50, 200)))
        if self.random.random() < 0.1:
            self.cluster.run(1_200)

    def write(self) -> None:
        node = self.node()
        if node is None:
            return
        leaders = [each for each in self.cluster.up() if each.core.is_leader]
        if leaders and self.random.random() < 0.8:
            node = self.random.choice(leaders)
        count = self.random.randrange(1, 4)
        keys = [f"{len(self.keys) + at}" for at in range(count)]
        size = self.random.choice((1, 1, 40, 900))
        requests = [put(key, b"v" * size) for key in keys]
        timeout_ms = self.random.choice((30, 500, 10_000))
        sent = self.cluster.request(node, *requests, timeout_ms=timeout_ms)
        self.keys.update(dict.fromkeys(keys, sent))

    def read(self) -> None:
        node = self.node()
        if node is not None:
            known = max((each[1] for each in self.answered()), default=0)
            sent = self.cluster.request(node, wire.encode_read(b"\x81\xa4size\xc3"))
            self.reads.append((sent, known))

    def crash(self) -> None:
        node = self.node()
        if node is None:
            return
        if self.random.random() < 0.5:
            node.files.lose_power_after(self.random.randrange(5))
            return
        node.crash(power=self.random.random() < 0.7)
        if self.random.random() < 0.5:
            self.cluster.close_links(node.name)

    def fail_disk(self) -> None:
        node = self.node()
        if node is not None:
            node.files.fail(self.random.choice(("pwrite", "fdatasync")), errno.EIO, path=".wal")

    def fail_snapshot(self) -> None:
        node = self.node()
        if node is not None:
            operation = self.random.choice(("pwrite", "fsync", "rename", "fsync_dir", "pread"))
            error = self.random.choice((errno.EIO, errno.ENOSPC))
            path = self.random.choice((".writing", ".receiving", "/snapshots"))
            node.files.fail(operation, error, path=path)

    def transfer(self) -> None:
        for node in self.cluster.up():
            if node.core.is_leader:
                to = self.random.choice(("", "n1", "n2", "n3"))
                self.cluster.request(node, wire.encode_admin("transferLeader", to))

    def snapshot(self) -> None:
        node = self.node()
        if node is not None:
            self.cluster.request(node, wire.encode_admin("doSnapshot", ""))

    def restart(self) -> None:
        for node in self.cluster.nodes.values():
            if not node.is_up:
                node.start()
                return

    def isolate(self) -> None:
        leaders = [each for each in self.cluster.up() if each.core.is_leader]
        victim = self.random.choice(leaders) if leaders else self.node()
        if victim is not None:
            self.cluster.isolate(victim.name)

    def heal(self) -> None:
        self.cluster.heal()

    def lose(self) -> None:
        in_flight = self.cluster.in_flight
        if in_flight:
            del in_flight[self.random.randrange(len(in_flight))]

    def double(self) -> None:
        if self.cluster.in_flight:
            self.cluster.arrive(self.random.choice(self.cluster.in_flight))

    # ------------------------------------------------------------------ what must hold

    def answered(self) -> Iterator[tuple[str, int]]:
        """(key, index) of every write whose client was told that it is in the log."""
        position: dict[int, int] = {}
        for key, sent in self.keys.items():
            at = position.get(id(sent), 0)
            position[id(sent)] = at + 1
            if sent.outcomes is not None and sent.outcomes[at].index:
                assert sent.outcomes[at].code in IN_THE_LOG
                yield key, sent.outcomes[at].index

    def the_power_goes_off_everywhere(self) -> None:
        """And what was answered is on a majority of what comes back."""
        logs = []
        for node in self.cluster.nodes.values():
            node.crash()
            found = node.open_disk()
            log = keys_of(found.runs)
            if found.snapshot is not None:
                machine = KeyValueMachine()
                machine.restore(node.store.read(found.snapshot), 1)
                log = {**keys_in(machine), **log}
            logs.append(log)
            node.crash()
        for key, index in self.answered():
            count = sum(log.get(index) == key for log in logs)
            assert count >= 2, f"{key} at {index} was answered and is on {count} disks"

    def calm(self) -> None:
        cluster = self.cluster
        cluster.heal()
        cluster.drop()
        for node in cluster.nodes.values():
            node.start()
        last = cluster.request(cluster.leader(), put("last"))
        cluster.run(2_000)
        assert last.outcome.code == protocol.OK
        assert len(cluster.up()) == 3
        digests = {node.machine.machine.digest() for node in cluster.up()}
        assert len(digests) == 1
        assert {node.machine.applied_index for node in cluster.up()} == {last.outcome.index}
        machine = cluster["n1"].machine.machine
        assert isinstance(machine, KeyValueMachine)
        state = keys_in(machine)
        for node in cluster.up():
            log = node.core.log
            runs = log.between(log.first_index, log.last_index)
            self.check_times(runs)
            # Each key is written once, so its version tells where.
            for index, key in keys_of(runs).items():
                assert state.get(index) == key, f"{key} was appended twice, also at {index}"
        for key, index in self.answered():
            assert state.get(index) == key, f"{key} was answered at {index}: {state.get(index)}"
        self.check_outcomes(set(state.values()))

    def check_outcomes(self, present: set[str]) -> None:
        for key, sent in self.keys.items():
            definite = sent.handed_back is not None or (
                sent.outcomes is not None
                and sent.outcome.code not in IN_THE_LOG
                and not sent.outcome.maybe_applied
            )
            assert not (definite and key in present), f"{key}: {sent} is in the log"
        for sent, known in self.reads:
            if sent.outcomes is not None and sent.outcome.code == protocol.OK:
                assert sent.outcome.index >= known, "a read did not see what was answered before"

    def check_times(self, runs: list[Run]) -> None:
        times = [open_run(run).time_ms for run in runs]
        assert times == sorted(times), "log time went back"


def keys_of(runs: list[Run]) -> dict[int, str]:
    """Index -> key of the write there."""
    found = {}
    for run in runs:
        for index, command in enumerate(open_run(run).commands, run.first):
            found[index] = protocol.parse_write(command[3][2:]).key
    return found


def keys_in(machine: KeyValueMachine) -> dict[int, str]:
    """Index of its write -> key."""
    return {index: key for key, (_, index, _) in machine._entries.items()}


def weather(seed: int) -> Storm:
    storm = Storm(seed)
    storm.run()
    storm.the_power_goes_off_everywhere()
    storm.calm()
    return storm


@pytest.mark.parametrize("first", range(0, STORMS, SEEDS_PER_TEST))
def test_what_was_answered_survives_every_storm(first: int) -> None:
    answered = 0
    for seed in range(first, min(first + SEEDS_PER_TEST, STORMS)):
        try:
            answered += len(list(weather(seed).answered()))
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    assert answered > SEEDS_PER_TEST, "these storms prove nothing"


def test_the_same_seed_gives_the_same_life() -> None:
    """Here and in other processes: what leaves follows no order of a set of names."""

    def life() -> list[tuple[str | int, ...]]:
        return [event for event in a_recorded_life(seed=5).trace if event[0] != "open"]

    assert life() == life()
    cluster = Cluster(tuple(f"n{at}" for at in range(1, 8)))
    leader = cluster.leader()
    targets = [event[3] for event in cluster.trace if event[:2] == ("Append", leader.name)]
    others = sorted(cluster.nodes.keys() - {leader.name})
    assert targets[: len(others)] == others
