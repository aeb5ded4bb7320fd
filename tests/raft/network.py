"""A cluster of cores in one thread, with everything that is not the core under the test's control.

Nothing happens by itself: messages lie in ``in_flight`` until they are delivered or dropped, saves
in ``Node.saves`` until they are persisted, time stands until it is moved, and moving it ticks
nobody unless asked to. For stories in which only the outcome matters, :meth:`Network.settle` does
what a good network and a fast disk would do, and :meth:`Network.run` lets time pass as well.

After every step the invariants of the core that stepped are checked, and those of the cluster that
no single core can see: one leader per term, and equal entries wherever something was handed out to
be applied (state machine safety).
"""

from __future__ import annotations

import ast
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from raft import invariants
from raft.configuration import Configuration
from raft.core import Core
from raft.log import Log
from raft.messages import (
    COMMAND,
    ChunkStored,
    Decision,
    HardState,
    Mark,
    Message,
    Output,
    PeerMessage,
    Persisted,
    PreVote,
    PreVoteReply,
    Propose,
    Read,
    Replica,
    Run,
    Save,
    SendChunk,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReceived,
    SnapshotTaken,
    Tick,
    Vote,
    VoteReply,
)
from raft.settings import RaftSettings

Choice = Callable[[PeerMessage], bool]

SETTLE_STEPS_MAX = 100_000
VOTING = (PreVote, PreVoteReply, Vote, VoteReply)


def everything(_: PeerMessage) -> bool:
    return True


def to(name: str) -> Choice:
    return lambda message: message.to.node == name


def sent_by(name: str) -> Choice:
    return lambda message: message.sender.node == name


def make_run(
    kind: int,
    term: int,
    first: int,
    configuration: Configuration | None = None,
    count: int = 1,
    body: bytes = b"",
    crc: int = 0,
) -> Run:
    if configuration is not None:
        parts = [(*replica, part) for replica, part in configuration.parts()]
        body = repr(parts).encode()
    return Run(kind, term, first, count, body or b"%d:%d" % (term, first), crc)


def read_configuration(run: Run) -> Configuration:
    parts = ast.literal_eval(run.body.decode())
    return Configuration.from_parts((Replica(*part[:2]), part[2]) for part in parts)


def replica(name: str, incarnation: int = 1) -> Replica:
    return Replica(name, incarnation)


@dataclass(slots=True)
class Disk:
    """What a crash leaves: exactly the saves that were persisted."""

    hard_state: HardState = field(default_factory=HardState)
    runs: list[Run] = field(default_factory=list)
    base: tuple[int, int] = (0, 0)
    snapshot: SnapshotMeta | None = None

    @property
    def last_index(self) -> int:
        return self.runs[-1].last if self.runs else self.base[0]

    def write(self, save: Save) -> None:
        if save.hard_state is not None:
            self.hard_state = save.hard_state
        if save.truncate_from is not None:
            self.runs = [run for run in self.runs if run.first < save.truncate_from]
        if save.mark is not None:
            self._mark(save.mark)
        for run in save.runs:
            last = self.last_index
            assert run.first == last + 1, f"the disk ends at {last}, a save begins at {run.first}"
            self.runs.append(run)

    def _mark(self, mark: Mark) -> None:
        kept = [] if mark.resets else [run for run in self.runs if run.last > mark.base_index]
        assert not kept or kept[0].first == mark.base_index + 1, "the base lies inside a run"
        assert mark.resets or self.last_index >= mark.snapshot.index
        self.runs, self.base = kept, (mark.base_index, mark.base_term)
        self.snapshot = mark.snapshot


@dataclass(slots=True)
class Node:
    """One replica: its core, its disk, and all that came out of it."""

    name: str
    me: Replica
    core: Core
    disk: Disk
    seed: int
    persists_at_once: bool = True
    is_up: bool = True
    saves: list[Save] = field(default_factory=list)  # given out, not persisted
    applied: list[Run] = field(default_factory=list)  # of this life
    reads: list[tuple[int, int]] = field(default_factory=list)
    reads_failed: list[int] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    received: dict[tuple[int, int, int], int] = field(default_factory=dict)  # bytes of snapshots
    state_index: int = 0  # what the machine was last restored to in this life
    outputs: list[Output] = field(default_factory=list)
    sent: list[PeerMessage] = field(default_factory=list)

    @property
    def log(self) -> list[tuple[int, int]]:
        """(index, term) of every entry, for comparing logs in tests."""
        return entries(self.core.log.between(self.core.log.first_index, self.core.last_index))


def entries(runs: Iterable[Run]) -> list[tuple[int, int]]:
    return [(index, run.term) for run in runs for index in range(run.first, run.last + 1)]


class Network:
    """``Network(3)`` has n1, n2, n3; ``Network(3, learners=1)`` has n4 as a learner."""

    def __init__(
        self,
        voters: int,
        *,
        learners: int = 0,
        seed: int = 1,
        settings: RaftSettings | None = None,
        disks: dict[str, Disk] | None = None,
    ) -> None:
        names = [f"n{number}" for number in range(1, voters + learners + 1)]
        replicas = [replica(name) for name in names]
        self.settings = settings or RaftSettings()
        self.configuration = Configuration.of(*replicas[:voters], learners=replicas[voters:])
        self.now = 10_000
        self.in_flight: list[PeerMessage] = []
        self.dropped: list[PeerMessage] = []
        self.nodes: dict[str, Node] = {}
        self._cut: set[tuple[str, str]] = set()
        self._leaders: dict[int, Replica] = {}
        self._applied: dict[int, int] = {}  # index -> term, of all that was ever handed out
        self._tokens = 0
        for number, (name, me) in enumerate(zip(names, replicas, strict=True)):
            disk = (disks or {}).get(name) or Disk()
            self.nodes[name] = self._boot(name, me, disk, seed * 1_000 + number)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def core(self, name: str) -> Core:
        return self.nodes[name].core

    @property
    def leader(self) -> Node | None:
        """The leader of the highest term, if there is one."""
        leaders = [node for node in self.nodes.values() if node.is_up and node.core.is_leader]
        return max(leaders, key=lambda node: node.core.term, default=None)

    # ------------------------------------------------------------------ one thing at a time

    def step(self, name: str, message: Message) -> None:
        """Hand a message to a core, check it, and gather what comes out."""
        node = self.nodes[name]
        assert node.is_up, f"{name} is down"
        before = invariants.take(node.core)
        node.core.step(message, self.now)
        invariants.check(before, node.core)
        self.collect(name)

    def feed(self, name: str, message: Message) -> None:
        """Like :meth:`step`, but what comes out stays inside: several inputs, one output."""
        node = self.nodes[name]
        before = invariants.take(node.core)
        node.core.step(message, self.now)
        invariants.check(before, node.core)

    def collect(self, name: str) -> None:
        node = self.nodes[name]
        while (output := node.core.take_output()) is not None:
            invariants.check(None, node.core)
            node.outputs.append(output)
            self._carry_out(node, output)
        self._check_leaders(node)

    def tick(self, name: str) -> None:
        """Move time to the deadline of this node, if it is not past, and tick this node alone."""
        self.now = max(self.now, self.core(name).next_deadline())
        self.step(name, Tick())

    def deliver(self, choice: Choice = everything, *, count: int | None = None) -> int:
        """Deliver what is under way now (not what that leads to), oldest first."""
        chosen = [message for message in self.in_flight if choice(message)][:count]
        for message in chosen:
            self.in_flight.remove(message)
            self._arrive(message)
        return len(chosen)

    def deliver_again(self, message: PeerMessage) -> None:
        """A duplicate, or one that was dropped and comes late."""
        self._arrive(message)

    def drop(self, choice: Choice = everything) -> list[PeerMessage]:
        gone = [message for message in self.in_flight if choice(message)]
        self.in_flight = [message for message in self.in_flight if not choice(message)]
        self.dropped.extend(gone)
        return gone

    def persist(self, name: str, *, count: int | None = None) -> None:
        """Make the oldest saves of this node durable and tell it, once, about the last of them."""
        node = self.nodes[name]
        done, node.saves = (
            (node.saves, []) if count is None else (node.saves[:count], node.saves[count:])
        )
        if not done:
            return
        last = (0, 0)
        for save in done:
            node.disk.write(save)
            last = save.last if save.runs else last
        self.step(name, Persisted(done[-1].number, *last))

    def hold_disk(self, *names: str) -> None:
        """From now on these nodes' saves wait for :meth:`persist`."""
        for name in names:
            self.nodes[name].persists_at_once = False

    def release_disk(self, name: str) -> None:
        self.nodes[name].persists_at_once = True
        self.persist(name)

    def propose(self, name: str, *, count: int = 1, body: bytes = b"") -> Run:
        core = self.core(name)
        run = make_run(COMMAND, core.term, core.next_index, count=count, body=body)
        self.step(name, Propose([run]))
        return run

    def read(self, name: str) -> int:
        self._tokens += 1
        self.step(name, Read(self._tokens))
        return self._tokens

    def answer_pre_vote(self, name: str, *voters: Replica, granted: bool = True) -> None:
        """These answer the attempt that this node is making now."""
        for voter in voters:
            core = self.core(name)
            term = core.term + 1 if granted else core.term
            self.step(name, PreVoteReply(voter, core.me, term, granted, core._campaign))

    def snapshot(
        self, name: str, *, keep: int = 0, size_bytes: int = 100, index: int | None = None
    ) -> SnapshotMeta:
        """Take a snapshot of what is applied, and keep so many entries of the log before it."""
        node = self.nodes[name]
        core = node.core
        at = core.handed_index if index is None else index
        term = core.log.term_at(at)
        assert term is not None
        configuration = core.configuration_at(at)
        meta = SnapshotMeta(at, term, configuration, at, 1, size_bytes, 97 * at + size_bytes)
        self.step(name, SnapshotTaken(meta, max(0, at - keep)))
        return meta

    def add(self, name: str, *, incarnation: int = 1) -> Node:
        """A blank node that is no member yet."""
        me = replica(name, incarnation)
        self.nodes[name] = self._boot(name, me, Disk(), 1_000 + len(self.nodes))
        return self.nodes[name]

    # ------------------------------------------------------------------ faults

    def cut(self, sender: str, to: str) -> None:
        """Lose all that goes from one node to another, in this direction only."""
        self._cut.add((sender, to))

    def isolate(self, *names: str) -> None:
        """These on one side, the others on the other."""
        for inside in names:
            for outside in self.nodes.keys() - set(names):
                self._cut |= {(inside, outside), (outside, inside)}
        self.in_flight = [message for message in self.in_flight if not self._is_cut(message)]

    def heal(self) -> None:
        self._cut.clear()

    def crash(self, name: str) -> None:
        """Everything that was not persisted is gone, and so is what it had not yet sent."""
        node = self.nodes[name]
        node.is_up = False
        node.saves = []

    def restart(self, name: str) -> None:
        old = self.nodes[name]
        assert not old.is_up
        self.nodes[name] = self._boot(name, old.me, old.disk, old.seed + 100)

    # ------------------------------------------------------------------ a good network

    def settle(self) -> None:
        """Deliver until nothing is under way; time stands."""
        for _ in range(SETTLE_STEPS_MAX):
            if not self.deliver(count=1):
                return
        raise AssertionError("the network does not come to rest")

    def run(self, duration_ms: int) -> None:
        """Let time pass: tick who is due, deliver everything, again and again."""
        end = self.now + duration_ms
        self.settle()
        while True:
            due = min(
                (node.core.next_deadline() for node in self.nodes.values() if node.is_up),
                default=end,
            )
            if due > end:
                break
            self.now = max(self.now, due)
            for name, node in self.nodes.items():
                if node.is_up and node.core.next_deadline() <= self.now:
                    self.step(name, Tick())
            self.settle()
        self.now = end

    def elect(self, name: str) -> Node:
        """Make this node the leader: nobody hears a living leader any more, and it alone times
        out."""
        self.now += 2 * self.settings.election_timeout_ms
        self.tick(name)
        self.settle()
        assert self.core(name).is_leader, f"{name} did not win"
        return self.nodes[name]

    def settle_until_leader(self, name: str, *, reach: tuple[str, ...] | None = None) -> None:
        """Deliver votes and their answers until this node leads; its appends are not delivered.

        ``reach``: the only ones that it reaches.
        """

        def is_vote(message: PeerMessage) -> bool:
            other = message.to.node if message.sender.node == name else message.sender.node
            return isinstance(message, VOTING) and (reach is None or other in reach)

        while not self.core(name).is_leader:
            assert self.deliver(is_vote, count=1), f"{name} does not win"

    # ------------------------------------------------------------------ inside

    def _boot(self, name: str, me: Replica, disk: Disk, seed: int) -> Node:
        core = Core(
            me=me,
            configuration=self.configuration,
            hard_state=HardState(disk.hard_state.term, disk.hard_state.vote),
            log=Log(disk.runs, base_index=disk.base[0], base_term=disk.base[1]),
            snapshot=disk.snapshot,
            settings=self.settings,
            random=random.Random(seed),
            make_run=make_run,
            read_configuration=read_configuration,
            now=self.now,
        )
        invariants.check(None, core)
        state_index = 0 if disk.snapshot is None else disk.snapshot.index
        return Node(name, me, core, disk, seed, state_index=state_index)

    def _is_cut(self, message: PeerMessage) -> bool:
        return (message.sender.node, message.to.node) in self._cut

    def _arrive(self, message: PeerMessage) -> None:
        node = self.nodes.get(message.to.node)
        if node is not None and node.is_up and not self._is_cut(message):
            self.step(node.name, message)

    def _carry_out(self, node: Node, output: Output) -> None:
        for message in output.messages:
            assert message.sender == node.me, f"{node.me} sends in the name of {message.sender}"
            assert message.to != node.me, f"{node.me} sends to itself"
            node.sent.append(message)
            if not self._is_cut(message):
                self.in_flight.append(message)
        if output.save is not None:
            node.saves.append(output.save)
        if output.restore is not None:
            self._restore(node, output.restore)
        for run in output.apply:
            self._apply(node, run)
        for wanted in output.send_chunks:
            self._send_chunk(node, wanted)
        node.decisions.extend(output.decisions)
        node.reads.extend(output.reads)
        node.reads_failed.extend(output.reads_failed)
        if node.persists_at_once:
            self.persist(node.name)
        for chunk in output.received:
            self._store_chunk(node, chunk)

    def _send_chunk(self, node: Node, wanted: SendChunk) -> None:
        chunk = self.chunk(node, wanted)
        node.sent.append(chunk)
        if not self._is_cut(chunk):
            self.in_flight.append(chunk)

    def chunk(self, node: Node, wanted: SendChunk) -> SnapshotChunk:
        """What the driver sends when it is asked for this."""
        snapshot, offset = wanted.snapshot, wanted.offset
        size = min(self.settings.snapshot_chunk_bytes, snapshot.size_bytes - offset)
        if wanted.asks:
            size = 0
        return SnapshotChunk(node.me, wanted.to, wanted.term, snapshot, offset, b"s" * size)

    def _store_chunk(self, node: Node, chunk: SnapshotChunk) -> None:
        """The driver's part: keep what fits, say how far it has come."""
        snapshot = chunk.snapshot
        key = (snapshot.index, snapshot.term, snapshot.crc)
        held = node.received.get(key, 0)
        if chunk.offset == held and chunk.data:
            held += len(chunk.data)
            node.received = {key: held}
        if held == snapshot.size_bytes:
            self.step(node.name, SnapshotReceived(snapshot))
        else:
            self.step(node.name, ChunkStored(snapshot, held))

    def _restore(self, node: Node, snapshot: SnapshotMeta) -> None:
        assert node.disk.snapshot == snapshot, "restored before the disk knows"
        known = self._applied.get(snapshot.index, snapshot.term)
        assert known == snapshot.term, f"a snapshot of {snapshot.index} with term {snapshot.term}"
        node.applied = []
        node.state_index = snapshot.index

    def _apply(self, node: Node, run: Run) -> None:
        expected = (node.applied[-1].last if node.applied else node.state_index) + 1
        assert run.first == expected, f"{node.name} applies {run.first} instead of {expected}"
        assert run in node.disk.runs, (
            f"{node.name} applies {run.last}, which its disk does not have"
        )
        node.applied.append(run)
        for index, term in entries([run]):
            known = self._applied.setdefault(index, term)
            assert known == term, f"index {index} applied with terms {known} and {term}"

    def _check_leaders(self, node: Node) -> None:
        core = node.core
        if core.is_leader:
            known = self._leaders.setdefault(core.term, node.me)
            assert known == node.me, f"{known} and {node.me} both lead term {core.term}"


# --------------------------------------------------------------------------- where stories begin


def led(voters: int = 3, *, spares: int = 0, settings: RaftSettings | None = None) -> Network:
    """n1 leads and everybody knows what is committed; the spares are no members."""
    network = Network(voters, settings=settings)
    for number in range(voters + 1, voters + spares + 1):
        network.add(f"n{number}")
    network.elect("n1")
    network.run(200)
    return network


def go_on_until_chunk(network: Network) -> SnapshotChunk:
    """Deliver, and let n1's deadlines pass, until a chunk of its snapshot is under way: n1 has
    asked how much there is, and was answered."""
    for _ in range(200):
        for message in network.in_flight:
            if isinstance(message, SnapshotChunk) and message.data:
                return message
        if not network.deliver(count=1):
            network.tick("n1")
    raise AssertionError("no chunk is sent")
