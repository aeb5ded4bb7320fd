"""A whole cluster in one thread: real group actors, machines, cores and logs, without processes.

What is real: :class:`GroupActor`, :class:`MachineActor`, the consensus core, the scheduler, the
WAL, the codec between peers, the client's codec.  What is not: the clock stands still until it is
moved, disks are in memory, and the network is a list.  Whoever drives it says what happens next::

    node.turn()          one turn of its scheduler: what it made is on its way, or awaits its disk
    node.sync()          the disk finishes the batch that is under way
    node.work()          the next piece of blocking work on snapshots is done
    cluster.deliver()    messages between nodes arrive
    cluster.settle()     all of that until nothing is left to do; time stands
    cluster.run(ms)      time passes, stopping wherever somebody wants a turn

A :class:`Node` stands where a worker process stands: it carries out effects in the same order
(messages leave, *then* the gathered batch begins), keeps one batch unsynced, and ends when its disk
fails.

``trace`` is one list of all that could be seen from outside, in order: every operation on every
disk (paths begin with the node's name) and, between them, saves, batches, promises, what is applied
and answered, as ``(what, node, ...)``.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import msgpack

from actors import snapshot_files, snapshot_traffic
from actors.catalog import CatalogMachine
from actors.group import GroupActor, MakeRun
from actors.group_messages import (
    AskCatalog,
    CatalogAnswered,
    DesiredMembers,
    GroupDescribed,
    HandBacks,
    PeerMessages,
    Replies,
    Requests,
    RoleChanged,
    SaveLog,
    SendPeers,
    actor_name,
    machine_name,
)
from actors.log_memory import LogReads, ReadLog
from actors.machine import Emitted, MachineActor, RestoreEnded, RunRestore
from actors.machines import Context, Machine
from actors.machines.kv import KeyValueMachine
from actors.runtime import Scheduler, VirtualClock
from actors.runtime.supervisor import CrashReport
from actors.settings import SnapshotSettings
from actors.snapshot_traffic import SnapshotTraffic
from raft import invariants
from raft.configuration import Configuration
from raft.core import Core
from raft.log import Log
from raft.messages import (
    Append,
    AppendReply,
    HardState,
    LinkClosed,
    PeerMessage,
    Persisted,
    PreVote,
    PreVoteReply,
    Replica,
    Run,
    SnapshotChunk,
    SnapshotMeta,
    VoteReply,
)
from raft.settings import RaftSettings
from raft.store.errors import WalPoisoned
from raft.store.memory import MemoryFiles, PowerLoss
from raft.store.runs import check_run, read_configuration
from raft.store.snapshots import SnapshotStore
from raft.store.wal import Batch, RecoveredGroup, Wal
from transport import peer_codec, protocol
from transport.client import wire
from transport.client.wire import Outcome

GROUP = 7
NAME = "kv"
TURNS_MAX = 100_000
WALL_MS = 1_800_000_000_000
TIMEOUT_MS = 10_000

Choice = Callable[[PeerMessage], bool]


def everything(message: PeerMessage) -> bool:
    return True


def batch_of(*requests: bytes, timeout_ms: int = TIMEOUT_MS) -> bytes:
    return wire.join_batch(requests, timeout_ms)


def put(key: str, value: bytes = b"value") -> bytes:
    return wire.encode_write("PUT", key, value)


@dataclass(slots=True)
class Sent:
    """One client message, and what became of it."""

    node: str
    life: int  # of the node that took it
    batch: bytes
    count: int
    sent_ms: int
    outcomes: list[Outcome] | None = None
    handed_back: tuple[str | None, int, str] | None = None  # leader's node, term, reason

    @property
    def outcome(self) -> Outcome:
        assert self.outcomes is not None, f"no answer to the message sent to {self.node}"
        return self.outcomes[0]


@dataclass(slots=True)
class Promised:
    """What one replica has told others, over all its lives, and may never forget."""

    term: int = 0
    votes: dict[int, Replica] = field(default_factory=dict)  # by term
    acknowledged: tuple[int, int] = (0, 0)  # (term of the acknowledgement, match)

    def note(self, message: PeerMessage) -> None:
        if isinstance(message, PreVote | PreVoteReply):
            return  # at most they make somebody's term rise, which is always safe
        self.term = max(self.term, message.term)
        if isinstance(message, VoteReply) and message.granted:
            known = self.votes.setdefault(message.term, message.to)
            assert known == message.to, f"{message.sender} voted twice in term {message.term}"
        elif isinstance(message, AppendReply) and not message.rejected:
            self.acknowledged = max(self.acknowledged, (message.term, message.match))

    def check(self, hard_state: HardState, runs: list[Run], base_index: int = 0) -> None:
        """What is found on the disk after a crash keeps every promise."""
        assert hard_state.term >= self.term, f"forgot term {self.term}: {hard_state}"
        vote = self.votes.get(hard_state.term)
        assert vote in (None, hard_state.vote), f"forgot its vote for {vote}: {hard_state}"
        term, match = self.acknowledged
        if hard_state.term == term:
            last = runs[-1].last if runs else base_index
            assert last >= match, f"acknowledged {match} in term {term}, has {last}"


class Node:
    """One life after another of what a worker process holds: a slot with one group."""

    def __init__(self, cluster: Cluster, me: Replica) -> None:
        self.cluster = cluster
        self.me = me
        self.name = me.node
        self.files = MemoryFiles()
        self.files.operations = cluster.trace
        self.promised = Promised()
        self.life = 0
        self.is_up = False
        self.syncs_at_once = True  # as far as settle() is concerned
        self.works_at_once = True
        self.wal: Wal
        self.batch: Batch | None = None
        self.store: SnapshotStore
        self.jobs: list[tuple[str, Any]] = []  # (actor, effect): blocking work, in order
        self.group: GroupActor
        self.machine: MachineActor
        self.summary: dict[str, Any] = {}
        self.descriptions: list[dict[str, Any]] = []
        self._has_work = False
        self._restored_index = 0  # what the machine will be in the next turn
        self._leaving: list[PeerMessage] = []
        self._replies: list[tuple[int, bytes]] = []
        self._hand_backs: list[tuple[int, str | None, int, str]] = []

    @property
    def core(self) -> Core:
        return self.group.core

    # ------------------------------------------------------------------ life

    def open_disk(self) -> RecoveredGroup:
        """Recover, and hold what is found against what was promised."""
        cluster = self.cluster
        self.wal, groups = Wal.open(
            self.files,
            f"/{self.name}",
            slot=0,
            incarnation=self.me.incarnation,
            random_id=lambda: cluster.random.randrange(1, 1 << 64),
            segment_bytes_first=cluster.segment_bytes,
            segment_bytes_max=4 * cluster.segment_bytes,
            copy_bytes_max=cluster.segment_bytes // 4,
        )
        found = groups.get(GROUP)
        if found is None:
            self.wal.add_group(GROUP, 1, b"the members")
            found = RecoveredGroup(GROUP, 1, None, HardState(), [], 0)
        self.promised.check(found.hard_state, found.runs, found.base_index)
        self.store = SnapshotStore(self.files, f"/{self.name}/snapshots")
        return found

    def start(self) -> None:
        assert not self.is_up
        found = self.open_disk()
        cluster = self.cluster
        self.life += 1
        self.is_up = True
        self.batch = None
        self.jobs = []
        self._restored_index = 0
        self.scheduler = scheduler = Scheduler(
            cluster.clock, wake=self._on_wake, on_crash=_raise, stopwatch_ns=lambda: 0
        )
        scheduler.carry(SendPeers, self._carry_peers)
        scheduler.carry(SaveLog, self._carry_save)
        scheduler.carry(Replies, self._carry_replies)
        scheduler.carry(HandBacks, self._carry_hand_backs)
        scheduler.carry(RoleChanged, self._carry_role)
        scheduler.carry(GroupDescribed, self._carry_described)
        scheduler.carry(Emitted, self._carry_nothing)
        scheduler.carry(AskCatalog, self._carry_ask)
        scheduler.carry(RunRestore, self._carry_restore)
        scheduler.carry(ReadLog, lambda effect, _: self.log_reads.carry(effect))
        self.traffic = SnapshotTraffic(
            cluster.snapshots,
            cluster.settings,
            cluster.clock.now_ms,
            lambda group, news: scheduler.tell(actor_name(group), news, True),
            lambda effect: self.jobs.append((actor_name(GROUP), effect)),
        )
        for effect in (*snapshot_files.EFFECTS, *snapshot_traffic.EFFECTS):
            scheduler.carry(effect, lambda effect, _: self.traffic.carry(effect))
        scheduler.on_turn_end(self._flush)
        self.machine = MachineActor(
            machine_name(GROUP),
            GROUP,
            cluster.make_machine(self.name),
            actor_name(GROUP),
            cluster.clock,
            open_snapshot=self.store.read,
            make_machine=lambda: cluster.remake_machine(self.name),
        )
        self.group = GroupActor(
            group=GROUP,
            name=NAME,
            machine_kind="kv",
            core_factory=lambda make_run: self._make_core(found, make_run),
            clock=cluster.clock,
            wall_ms=lambda: WALL_MS + cluster.clock.now_ms(),
            client_address=f"tcp://{self.name}:7001",
            snapshots=cluster.snapshots,
        )
        self.log_reads = LogReads(
            cluster.snapshots,
            self.wal,
            {GROUP: self.group},
            scheduler,
            lambda work, on_done: self.jobs.append(("", (work, on_done))),
        )
        scheduler.spawn(self.machine)
        scheduler.spawn(self.group)
        self._has_work = True
        if cluster.catalog.has_said_something:
            self.tell(cluster.catalog.desired(), control=True)

    def _make_core(self, found: RecoveredGroup, make_run: MakeRun) -> Core:
        cluster = self.cluster
        return Core(
            me=self.me,
            configuration=Configuration(frozenset(cluster.members)),
            hard_state=found.hard_state,
            log=Log(found.runs, base_index=found.base_index, base_term=found.base_term),
            snapshot=found.snapshot,
            settings=cluster.settings,
            random=cluster.random,
            make_run=make_run,
            read_configuration=read_configuration,
            now=cluster.clock.now_ms(),
        )

    def crash(self, *, power: bool = True) -> None:
        """The power goes, and what was not synced with it; or the process alone dies."""
        self.is_up = False
        self.batch = None
        self.jobs = []
        self._leaving = []
        self._replies = []
        self._hand_backs = []
        self.files.repair()
        if power:
            self.files.crash(self.cluster.random)
        else:
            self.files.kill()

    # ------------------------------------------------------------------ steps

    @property
    def has_work(self) -> bool:
        due_ms = self.scheduler.next_deadline()
        now_ms = self.cluster.clock.now_ms()
        return self._has_work or (due_ms is not None and due_ms <= now_ms)

    def turn(self) -> None:
        before = invariants.take(self.core) if self.cluster.checks else None
        applied = self.machine.applied_index
        self._has_work = False
        self._has_work = self.scheduler.run_turn() or self._has_work
        applied, self._restored_index = max(applied, self._restored_index), 0
        if self.machine.applied_index > applied:
            self.cluster.note_applied(self, applied + 1)
        if before is not None:
            invariants.check(before, self.core)

    def sync(self) -> None:
        """The disk finishes what it was given.  A disk that fails ends the process (pitfall 44)."""
        batch = self.batch
        if batch is None:
            return
        try:
            batch.run()
            self._tidy()
        except PowerLoss:
            self.crash()
            return
        except WalPoisoned:
            self.crash(power=self.cluster.random.random() < 0.5)
            return
        self.batch = None
        self.cluster.trace.append(("ran", self.name, batch.number))
        for _, number, term, index in self.wal.complete(batch):
            self.tell(Persisted(number, term, index), control=True)
        self.log_reads.on_batch_done()
        self._begin_batch()

    def _tidy(self) -> None:
        """The other thread of the disk; it never works at the same time here."""
        work = self.wal.tidy()
        if work is not None:
            try:
                work()
            except OSError:
                pass  # an old segment is kept until the next start

    def work(self) -> None:
        """The threads for snapshots finish the first thing that they were given."""
        if not self.jobs:
            return
        actor, effect = self.jobs.pop(0)
        try:
            if isinstance(effect, tuple):
                read, on_done = effect
                on_done(read())
                return
            if isinstance(effect, RunRestore):
                result: object = snapshot_files.run_restore(effect)
                if result == RestoreEnded(effect.meta):
                    self._restored_index = effect.meta.index
                    self.cluster.note_restored(self, effect.meta)
            else:
                result = snapshot_files.carry_out(self.store, effect)
                self.traffic.note_done(effect, result)
        except PowerLoss:
            self.crash()
            return
        if result is not None:
            self.scheduler.tell(actor, result, True)

    def tell(self, message: object, *, control: bool = False) -> bool:
        return self.scheduler.tell(actor_name(GROUP), message, control)

    def receive(self, message: PeerMessage) -> None:
        if isinstance(message, Append):
            assert all(map(check_run, message.runs))
        is_bulk = isinstance(message, Append | SnapshotChunk)
        self.tell(PeerMessages([message]), control=not is_bulk)

    def _begin_batch(self) -> None:
        if self.batch is None:
            self.batch = self.wal.take_batch()
            if self.batch is not None:
                self.cluster.trace.append(("batch", self.name, self.batch.number))

    def _on_wake(self) -> None:
        self._has_work = True

    # ------------------------------------------------------------------ effects

    def _carry_peers(self, effect: SendPeers, _: object) -> None:
        self._leaving += effect.messages

    def _carry_save(self, effect: SaveLog, _: object) -> None:
        self.wal.save(effect.group, effect.save)
        self.cluster.note_save(self, effect)

    def _carry_replies(self, effect: Replies, _: object) -> None:
        items = effect.items
        self._replies += zip(items[::2], items[1::2], strict=True)

    def _carry_hand_backs(self, effect: HandBacks, _: object) -> None:
        items = effect.items
        self._hand_backs += (tuple(items[at : at + 4]) for at in range(0, len(items), 4))

    def _carry_role(self, effect: RoleChanged, _: object) -> None:
        self.summary = effect.summary

    def _carry_described(self, effect: GroupDescribed, _: object) -> None:
        self.descriptions.append(effect.description)

    def _carry_restore(self, effect: RunRestore, _: object) -> None:
        self.jobs.append((machine_name(GROUP), effect))

    def _carry_ask(self, effect: AskCatalog, _: object) -> None:
        self.cluster.catalog.questions.append((self, self.life, effect))

    def _carry_nothing(self, effect: object, _: object) -> None:
        pass

    def _flush(self) -> None:
        leaving, self._leaving = self._leaving, []
        for message in leaving:
            self.promised.note(message)
            self.cluster.send(message)
        replies, self._replies = self._replies, []
        for token, payload in replies:
            self.cluster.answer(self, token, payload)
        hand_backs, self._hand_backs = self._hand_backs, []
        for hand_back in hand_backs:
            self.cluster.hand_back(*hand_back)
        self._begin_batch()


class Catalog:
    """The real machine of ``_system`` without its group: one question, one entry.

    ``answers``: whether it does; what it is asked meanwhile is lost.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.machine = CatalogMachine((each.node, each.incarnation) for each in cluster.members)
        self.index = GROUP - 1
        self.questions: list[tuple[Node, int, AskCatalog]] = []
        self.answers = True
        self.asked: list[AskCatalog] = []
        self.has_said_something = False
        self._offered: set[Any] = set()
        self.write("CREATE_GROUP", NAME, {"machine": "kv"})
        for at, member in enumerate(cluster.members):
            self.register("REGISTER_NODE", member, at)

    def write(self, operation: str, key: str, values: object) -> Any:
        self.index += 1
        request = protocol.WriteRequest(operation=operation, key=key, data=msgpack.packb(values))
        return self.machine.apply(request, Context(self.index, 0, 1, lambda kind, row: None))

    def register(self, operation: str, replica: Replica, at: int, **more: object) -> None:
        addresses = dict.fromkeys(("client", "peer", "events"), f"tcp://{replica.node}:7{at}01")
        values = {"incarnation": replica.incarnation, **addresses, **more}
        response = self.write(operation, replica.node, values)
        assert response.success, response.error

    def desired(self) -> DesiredMembers:
        row = self.machine.groups[NAME]
        return DesiredMembers(
            row["version"],
            frozenset(Replica(*pair) for pair in row["members"]),
            frozenset(Replica(*pair) for pair in row["learners"]),
        )

    def say(self) -> None:
        """Every node tells its group what is wanted."""
        self.has_said_something = True
        for node in self._cluster.up():
            node.tell(self.desired(), control=True)

    def offer(self) -> bool:
        """The nodes that are to have a replica, and are up, offer it to who leads, once each."""
        if not self.has_said_something:
            return False
        wanted, offered = self.desired(), False
        disks = wanted.voters | wanted.learners
        for leader in self._cluster.up():
            if not leader.core.can_serve:
                continue
            for node in self._cluster.up():
                key = (leader.name, leader.life, leader.core.term, wanted.version, node.me)
                is_member = node.me in leader.core.configuration
                if node.me not in disks or is_member or key in self._offered:
                    continue
                self._offered.add(key)
                offered = True
                options = {"incarnation": str(node.me.incarnation), "life": "0"}
                request = wire.encode_admin("offerReplica", node.name, options)
                rights = protocol.RIGHTS_ALL | protocol.RIGHT_NODE
                self._cluster.request_raw(leader, batch_of(request), rights=rights)
        return offered

    def work(self) -> bool:
        questions, self.questions = self.questions, []
        for node, life, ask in questions:
            self.asked.append(ask)
            if self.answers:
                self._answer(node, life, ask)
        return bool(questions)

    def _answer(self, node: Node, life: int, ask: AskCatalog) -> None:
        assert ask.command == "setMembers"
        values: dict[str, Any] = {
            key: [name for name in ask.options[key].split(",") if name]
            for key in ("voters", "learners")
        }
        if "if_version" in ask.options:
            values["if_version"] = int(ask.options["if_version"])
        response = self.write("SET_MEMBERS", ask.value, values)
        data = json.dumps(msgpack.unpackb(response.data)).encode() if response.success else b""
        code = protocol.OK if response.success else protocol.REJECTED
        if node.is_up and node.life == life:
            node.tell(CatalogAnswered(ask.token, code, response.error, data), control=True)
        self.say()


class Cluster:
    """``nodes`` by name, all started; see the top of this file.

    ``seed`` decides all that is left open.  ``checks``: hold the core's invariants after each turn.
    ``machines``: by node, instead of ``kv``.
    """

    def __init__(
        self,
        names: Iterable[str] = ("n1", "n2", "n3"),
        *,
        seed: int = 1,
        settings: RaftSettings | None = None,
        segment_bytes: int = 1 << 14,
        recording: bool = True,
        checks: bool = True,
        machines: dict[str, Machine] | None = None,
        snapshots: SnapshotSettings | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.clock = VirtualClock(1_000)
        self.settings = settings or RaftSettings()
        self.snapshots = snapshots or SnapshotSettings()
        self.segment_bytes = segment_bytes
        self.checks = checks
        self.trace: list[tuple[str | int, ...]] = []
        self.in_flight: list[PeerMessage] = []
        self.sent: dict[int, Sent] = {}
        self._machines = machines or {}
        self._as_new = copy.deepcopy(self._machines)
        self._cut: set[tuple[str, str]] = set()
        self._token = 0
        self._leaders: dict[int, str] = {}  # by term
        self._applied: dict[int, int | None] = {}  # index -> term
        self.members = tuple(Replica(name, 100 + at) for at, name in enumerate(names))
        self.catalog = Catalog(self)
        self.nodes = {each.node: Node(self, each) for each in self.members}
        for node in self.nodes.values():
            node.files.recording = recording
            node.start()

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def add_node(self, name: str, incarnation: int = 200) -> Node:
        """It joins the cluster, and has an empty replica of a group that it is no member of; in the
        place of who had its name."""
        me = Replica(name, incarnation)
        old = self.nodes.get(name)
        if old is not None and old.is_up:
            old.crash()
        self.catalog.register("ADMIT_NODE", me, len(self.nodes), joins=True)
        node = self.nodes[name] = Node(self, me)
        node.files.recording = True
        node.start()
        return node

    def make_machine(self, name: str) -> Machine:
        return self._machines.get(name) or KeyValueMachine()

    def remake_machine(self, name: str) -> Machine:
        """Another one, in place of one that has failed."""
        return copy.deepcopy(self._as_new.get(name)) or KeyValueMachine()

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_up]

    # ------------------------------------------------------------------ clients

    def request(self, to: Node, *requests: bytes, timeout_ms: int = TIMEOUT_MS) -> Sent:
        """A client's message of these encoded requests, as the router hands it over."""
        batch = batch_of(*requests, timeout_ms=timeout_ms)
        return self.request_raw(to, batch, count=len(requests), remaining_ms=timeout_ms)

    def request_raw(
        self,
        to: Node,
        batch: bytes,
        *,
        count: int = 1,
        remaining_ms: int = TIMEOUT_MS,
        rights: int = protocol.RIGHTS_ALL,
    ) -> Sent:
        self._token += 1
        sent = Sent(to.name, to.life, batch, count, self.clock.now_ms())
        self.sent[self._token] = sent
        assert to.tell(Requests([self._token, remaining_ms, rights, batch]))
        return sent

    def answer(self, node: Node, token: int, payload: bytes) -> None:
        sent = self.sent[token]
        assert sent.outcomes is None, f"token {token} is answered twice"
        assert sent.handed_back is None, f"token {token} was handed back and is answered"
        assert (sent.node, sent.life) == (node.name, node.life), "answered by somebody else"
        sent.outcomes = wire.decode_replies(payload, sent.count)
        for outcome in sent.outcomes:
            self.trace.append(("reply", node.name, token, outcome.code, outcome.index))

    def hand_back(self, token: int, leader: str | None, term: int, reason: str) -> None:
        sent = self.sent[token]
        assert sent.outcomes is None, f"token {token} was answered and is handed back"
        assert sent.handed_back is None, f"token {token} is handed back twice"
        sent.handed_back = (leader, term, reason)

    # ------------------------------------------------------------------ the network

    def send(self, message: PeerMessage) -> None:
        name = message.sender.node
        assert message.to != message.sender
        match = getattr(message, "match", 0)
        verdict = int(getattr(message, "granted", False) or getattr(message, "rejected", False))
        what = type(message).__name__
        self.trace.append((what, name, message.term, message.to.node, verdict, match))
        if (name, message.to.node) not in self._cut:
            data = peer_codec.encode(message)
            self.in_flight.append(peer_codec.decode(data, message.sender, message.to))

    def deliver(self, choice: Choice = everything, *, count: int | None = None) -> int:
        """What is under way now arrives, oldest first."""
        chosen = [message for message in self.in_flight if choice(message)][:count]
        for message in chosen:
            self.in_flight.remove(message)
            self.arrive(message)
        return len(chosen)

    def arrive(self, message: PeerMessage) -> None:
        node = self.nodes[message.to.node]
        is_meant = node.me == message.to  # the disk that now has this name, or the one before
        if node.is_up and is_meant and (message.sender.node, node.name) not in self._cut:
            node.receive(message)

    def drop(self, choice: Choice = everything) -> None:
        self.in_flight = [message for message in self.in_flight if not choice(message)]

    def cut(self, sender: str, to: str) -> None:
        self._cut.add((sender, to))

    def isolate(self, name: str) -> None:
        for other in self.nodes.keys() - {name}:
            self._cut |= {(name, other), (other, name)}
        self.drop(lambda it: (it.sender.node, it.to.node) in self._cut)

    def heal(self) -> None:
        self._cut.clear()

    def close_links(self, name: str) -> None:
        """What the others see when the process of this node is gone."""
        for node in self.up():
            if node.name != name:
                node.tell(LinkClosed(name), control=True)

    # ------------------------------------------------------------------ a good world

    def settle(self) -> None:
        """Turns, syncs and deliveries until nothing is left to do."""
        for _ in range(TURNS_MAX):
            busy = False
            for node in self.up():
                if node.has_work:
                    node.turn()
                    busy = True
                if node.syncs_at_once and node.batch is not None:
                    node.sync()
                    busy = True
                if node.works_at_once and node.jobs:
                    node.work()
                    busy = True
            busy = self.catalog.work() or self.catalog.offer() or busy
            if not (self.deliver() or busy):
                self.check_leaders()
                return
        raise AssertionError("the cluster does not come to rest")

    def run(self, duration_ms: int) -> None:
        ends_ms = self.clock.now_ms() + duration_ms
        self.settle()
        while (due_ms := self.next_deadline()) is not None and due_ms <= ends_ms:
            self.clock.advance_to(due_ms)
            self.settle()
        self.clock.advance_to(ends_ms)
        self.settle()

    def next_deadline(self) -> int | None:
        deadlines = [node.scheduler.next_deadline() for node in self.up()]
        return min((each for each in deadlines if each is not None), default=None)

    def leader(self) -> Node:
        """The leader of the highest term; lets time pass until there is one that can serve."""
        for _ in range(100):
            leaders = [node for node in self.up() if node.core.can_serve]
            if leaders:
                return max(leaders, key=lambda node: node.core.term)
            self.run(100)
        raise AssertionError("nobody leads")

    def followers(self) -> list[Node]:
        leader = self.leader()
        return [node for node in self.nodes.values() if node is not leader]

    # ------------------------------------------------------------------ inside

    def note_save(self, node: Node, effect: SaveLog) -> None:
        save = effect.save
        if save.hard_state is not None:
            vote = save.hard_state.vote
            term = save.hard_state.term
            self.trace.append(("hard_state", node.name, term, "" if vote is None else vote.node))
        if save.truncate_from is not None:
            self.trace.append(("truncate", node.name, save.truncate_from))
        if save.mark is not None:
            it = save.mark
            self.trace.append(("mark", node.name, it.snapshot.index, it.base_index, it.resets))
        for run in save.runs:
            self.trace.append(("run", node.name, run.term, run.first, run.last))

    def note_applied(self, node: Node, first: int) -> None:
        """At one index everybody applies the same, in all lives."""
        last = node.machine.applied_index
        self.trace.append(("applied", node.name, first, last))
        for index in range(first, last + 1):
            term = node.core.log.term_at(index)
            known = self._applied.setdefault(index, term)
            # A machine that is rebuilt may apply what the log has let go of meanwhile.
            assert term in (known, None), f"{node.name} applies {index} of term {term}, was {known}"

    def note_restored(self, node: Node, meta: SnapshotMeta) -> None:
        self.trace.append(("restored", node.name, meta.index))
        known = self._applied.setdefault(meta.index, meta.term)
        assert known == meta.term, f"{node.name} is restored to {meta.index} of another history"

    def check_leaders(self) -> None:
        """One leader per term, over all terms."""
        for node in self.up():
            if node.core.is_leader:
                known = self._leaders.setdefault(node.core.term, node.name)
                assert known == node.name, f"{known} and {node.name} lead term {node.core.term}"


def _raise(report: CrashReport) -> None:
    raise report.error
