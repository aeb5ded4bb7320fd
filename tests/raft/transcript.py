"""The language of the transcripts: commands in, everything that can be seen out.

A transcript is a script for a small cluster of cores (:mod:`tests.raft.network`). A line that
begins with ``>`` is a command; below it stands what it caused, indented, one line each. Other lines
are for the reader. What a line of output means::

    n1: pre_candidate term=0 leader=none commit=0   its state has changed
    n1: members (n1 n2 n4)&&(n1 n2 n3) since 7      its configuration has: joint, brought by entry 7
    n1 -> n2 PreVote term=1 last=0/0                a message left (not: arrived)
    n2 <- n1 PreVote term=1 last=0/0                it arrived; ``n2 x- n1``: it was lost on arrival
    n1 save #1 term=1 vote=n1 runs=1/1              given to the disk: runs as first..last/term
    n1 save #7 mark=9/1 base=4/1                    the snapshot of 9 stands for the log up to 4
    n1 apply 1/1 2..4/1 5/1[(n1 n2)]                handed out to be applied; 5 is a configuration
    n1 restore 9/1                                  the machine becomes this snapshot
    n1 keeps 9/1 bytes 0..64 of 100                 a chunk of a snapshot, to be kept
    n1 read 7 at 3, n1 read 7 failed
    n1 decision 2: done, members since 7            what became of a change or a transfer
    n1 decision 3: refused: not the leader          nothing was changed; ``unknown:`` perhaps it was

Commands. KEY=VALUE are options; FROM and TO are nodes or ``*``; KINDS are names of messages:

``voters N [learners M] [SETTING=VALUE ...]``
    a new cluster, with other settings than the defaults
``disk NODE TERMS [term=T]``
    give it this log, of which only the terms are said (``1 1 4``: entries 1/1, 2/1, 3/4), and boot
``add NODE [incarnation=N]``
    a blank replica that is no member yet
``elect NODE``
    make it the leader, with all that leads to it left out
``campaign NODE``
    nobody hears a leader any more; its deadline comes first
``tick NODE``, ``wait MS``, ``run MS``
    move time to its deadline; move time and tick nobody; let time pass with a good network
``deliver [FROM] [TO] [KINDS] [count=N]``, ``drop ...``
    what is under way now, not what that leads to
``delay NAME [FROM] [TO] [KINDS]``, ``arrive NAME``
    take messages out of the network, and put them back much later
``settle [NODES]``
    deliver until nothing is under way; among these nodes alone
``isolate NODES``, ``cut FROM TO``, ``heal``
    cut the network in two, or in one direction; make it whole
``link-closed NODE PEER``
    its connection to the peer was reset
``propose NODE [COUNT]``, ``read NODE [lease | stale]``, ``anomaly NODE``
    ``anomaly``: clocks are found to disagree
``reconfigure NODE N1,N2,.. [learners=..]``, ``transfer NODE [TO]``,
``reset-peers NODE N1,.. [force]``
    changes of members and leaders; numbered as the decisions are
``snapshot NODE [at=I] [keep=N] [bytes=N]``, ``lose-snapshot NODE``
    of what is applied, with so many entries of the log before it left; the file is found unreadable
``hold NODE``, ``persist NODE [COUNT]``, ``release NODE``, ``crash NODE``, ``restart NODE``
    its saves wait; the oldest of them become durable; all do, from now on
``logs``, ``terms``, ``configurations NODE``, ``progress NODE``, ``lease NODE``
    look at all logs and states, at the terms alone, at the configurations in a log, at what a
    leader knows of the others, at how long its lease lasts

``briefly COMMAND`` leaves the messages out, ``quietly COMMAND`` all but the state that it ends in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from raft.configuration import Configuration
from raft.messages import (
    COMMAND,
    CONFIG,
    LEASE,
    LINEARIZABLE,
    PEER_MESSAGES,
    STALE,
    Append,
    AppendReply,
    ClockAnomaly,
    Decision,
    HardState,
    Heartbeat,
    HeartbeatReply,
    LinkClosed,
    Output,
    PeerMessage,
    PreVote,
    PreVoteReply,
    Read,
    ReadIndex,
    ReadIndexReply,
    Reconfigure,
    Replica,
    ResetPeers,
    Run,
    Save,
    SendChunk,
    SnapshotChunk,
    SnapshotLost,
    SnapshotMeta,
    SnapshotReply,
    SnapshotWanted,
    TimeoutNow,
    Transfer,
    Vote,
    VoteReply,
)
from raft.roles import ROLE_NAMES
from raft.settings import RaftSettings
from tests.raft.network import Choice, Disk, Network, Node, make_run, read_configuration

KINDS = frozenset(kind.__name__ for kind in PEER_MESSAGES)
READ_MODES = {"linearizable": LINEARIZABLE, "lease": LEASE, "stale": STALE}
SWITCHES = {"on": True, "off": False}
SETTLE_STEPS_MAX = 10_000

# ------------------------------------------------------------------------------ how things look


def show_replica(replica: Replica) -> str:
    first = replica.incarnation == 1
    return replica.node if first else f"{replica.node}#{replica.incarnation}"


def show_replicas(replicas: Iterable[Replica]) -> str:
    return f"({' '.join(show_replica(each) for each in sorted(replicas))})"


def show_members(configuration: Configuration) -> str:
    words = ["&&".join(show_replicas(half) for half in configuration.halves)]
    if configuration.learners:
        words.append(f"learners {show_replicas(configuration.learners)}")
    if configuration.demoted:
        words.append(f"then learners {show_replicas(configuration.demoted)}")
    return " ".join(words)


def show_indexes(run: Run) -> str:
    indexes = f"{run.first}" if run.count == 1 else f"{run.first}..{run.last}"
    return f"{indexes}/{run.term}"


def show_run(run: Run) -> str:
    if run.kind == CONFIG:
        return f"{show_indexes(run)}[{show_members(read_configuration(run))}]"
    return show_indexes(run)


def show_runs(runs: list[Run]) -> str:
    return " ".join(map(show_run, runs)) or "none"


def show_asking(message: PreVote | Vote) -> str:
    transfer = " transfer" if isinstance(message, Vote) and message.transfer else ""
    return f"last={message.last_index}/{message.last_term}{transfer}"


def show_answer(message: PreVoteReply | VoteReply) -> str:
    return "granted" if message.granted else "refused"


def show_append(message: Append) -> str:
    return (
        f"prev={message.prev_index}/{message.prev_term} commit={message.commit} "
        f"runs={show_runs(message.runs)}"
    )


def show_append_reply(message: AppendReply) -> str:
    if message.rejected:
        return f"refused={message.match} hint={message.hint_index}/{message.hint_term}"
    return f"match={message.match}"


def show_piece(snapshot: SnapshotMeta, offset: int, count: int) -> str:
    return f"{snapshot.index}/{snapshot.term} bytes {offset}..{offset + count} of " + str(
        snapshot.size_bytes
    )


SHOW: dict[type, Callable[..., str]] = {
    PreVote: show_asking,
    Vote: show_asking,
    PreVoteReply: show_answer,
    VoteReply: show_answer,
    Append: show_append,
    AppendReply: show_append_reply,
    Heartbeat: lambda message: f"commit={message.commit} round={message.round}",
    HeartbeatReply: lambda message: f"round={message.round}",
    TimeoutNow: lambda _: "",
    ReadIndex: lambda message: f"read={message.token}",
    ReadIndexReply: lambda message: f"read={message.token} index={message.index}",
    SnapshotChunk: lambda each: show_piece(each.snapshot, each.offset, len(each.data)),
    SnapshotReply: lambda each: f"{each.index}/{each.snapshot_term} has={each.offset}",
    SnapshotWanted: lambda each: f"{each.index}",
}


def show(message: PeerMessage) -> str:
    text = SHOW[type(message)](message)
    return f"{type(message).__name__} term={message.term} {text}".rstrip()


def show_save(save: Save) -> str:
    words = [f"save #{save.number}"]
    if save.hard_state is not None:
        vote = save.hard_state.vote
        words.append(f"term={save.hard_state.term} vote={show_replica(vote) if vote else 'none'}")
    if save.truncate_from is not None:
        words.append(f"truncate={save.truncate_from}")
    if save.mark is not None:
        mark = save.mark
        words.append(f"mark={mark.snapshot.index}/{mark.snapshot.term}")
        words.append("resets" if mark.resets else f"base={mark.base_index}/{mark.base_term}")
    if save.runs:
        words.append(f"runs={show_runs(save.runs)}")
    return " ".join(words)


def show_decision(decision: Decision) -> str:
    if decision.error is None:
        return f"decision {decision.token}: done, members since {decision.index}"
    certainty = "unknown" if decision.unknown else "refused"
    error = decision.error
    for number in range(1, 10):  # the tests' incarnations, in 16 digits
        error = error.replace(f"#{1:016x}", "").replace(f"#{number:016x}", f"#{number}")
    return f"decision {decision.token}: {certainty}: {error}"


def show_state(node: Node) -> str:
    core = node.core
    leader = show_replica(core.leader) if core.leader else "none"
    return (
        f"{ROLE_NAMES[core.role]} term={core.term} leader={leader} commit={core.commit_index}"
        f"{' serves' if core.can_serve else ''}"
    )


def show_membership(node: Node) -> str:
    return f"members {show_members(node.core.configuration)} since {node.core.configuration_index}"


def show_difference(name: str, before: tuple[str, str], now: tuple[str, str]) -> list[str]:
    """State and membership, each if it has changed."""
    return [f"{name}: {new}" for old, new in zip(before, now, strict=True) if new != old]


def is_about_a_message(line: str) -> bool:
    return line.split()[1] in ("->", "<-", "x-")


# ------------------------------------------------------------------------------ the cluster


class Observed(Network):
    """A network that writes down what can be seen."""

    def __init__(self, voters: int, learners: int, settings: RaftSettings) -> None:
        self.lines: list[str] = []
        self._states: dict[str, tuple[str, str]] = {}
        super().__init__(voters, learners=learners, settings=settings)
        for node in self.nodes.values():
            self._note(node)

    def add(self, name: str, *, incarnation: int = 1) -> Node:
        node = super().add(name, incarnation=incarnation)
        self._note(node)
        return node

    def begin(self, name: str, disk: Disk) -> None:
        """A node with this disk in the place of the one that is there."""
        node = self.nodes[name]
        self.nodes[name] = self._boot(name, node.me, disk, node.seed)
        self._note(self.nodes[name])

    def restart(self, name: str) -> None:
        super().restart(name)
        self._show_change(self.nodes[name])

    def collect(self, name: str) -> None:
        super().collect(name)
        self._show_change(self.nodes[name])

    def state(self, name: str) -> tuple[str, str]:
        return self._states.get(name, ("", ""))

    def _note(self, node: Node) -> None:
        self._states[node.name] = (show_state(node), show_membership(node))

    def _show_change(self, node: Node) -> None:
        before = self.state(node.name)
        self._note(node)
        self.lines.extend(show_difference(node.name, before, self.state(node.name)))

    def _arrive(self, message: PeerMessage) -> None:
        node = self.nodes.get(message.to.node)
        lost = node is None or not node.is_up or self._is_cut(message)
        arrow = "x-" if lost else "<-"
        self.lines.append(f"{message.to.node} {arrow} {message.sender.node} {show(message)}")
        super()._arrive(message)

    def _carry_out(self, node: Node, output: Output) -> None:
        self._show_change(node)
        self.lines.extend(f"{node.name} {line}" for line in self._show_output(output, node))
        super()._carry_out(node, output)

    def _show_output(self, output: Output, node: Node) -> list[str]:
        """Field by field, in the order in which they are carried out."""
        lines = [f"-> {show_replica(each.to)} {show(each)}" for each in output.messages]
        if output.save is not None:
            lines.append(show_save(output.save))
        if output.restore is not None:
            lines.append(f"restore {output.restore.index}/{output.restore.term}")
        if output.apply:
            lines.append(f"apply {show_runs(output.apply)}")
        lines.extend(self._show_chunk(wanted, node) for wanted in output.send_chunks)
        for chunk in output.received:
            lines.append(f"keeps {show_piece(chunk.snapshot, chunk.offset, len(chunk.data))}")
        if output.take_snapshot:
            lines.append("take a snapshot")
        lines.extend(f"read {token} at {index}" for token, index in output.reads)
        lines.extend(f"read {token} failed" for token in output.reads_failed)
        lines.extend(show_decision(decision) for decision in output.decisions)
        return lines

    def _show_chunk(self, wanted: SendChunk, node: Node) -> str:
        chunk = self.chunk(node, wanted)
        return f"-> {show_replica(chunk.to)} {show(chunk)}"


# ------------------------------------------------------------------------------ commands


def take_options(words: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The words without ``=``, and the others as options."""
    plain: list[str] = []
    options: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if equals:
            options[name] = value
        else:
            plain.append(word)
    return plain, options


def take_choice(words: Iterable[str]) -> Choice:
    """``[FROM] [TO] [KINDS]``."""
    kinds = {word for word in words if word in KINDS}
    ends = [word for word in words if word not in KINDS]
    assert len(ends) <= 2, f"a message has two ends: {ends}"
    sender, receiver = [*ends, "*", "*"][:2]
    return lambda message: (
        sender in ("*", message.sender.node)
        and receiver in ("*", message.to.node)
        and (not kinds or type(message).__name__ in kinds)
    )


class Player:
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.network = Observed(3, 0, RaftSettings())
        self._delayed: dict[str, list[PeerMessage]] = {}
        self._tokens = 0
        self.commands: dict[str, Callable[..., None]] = {
            "voters": self.voters,
            "disk": self.disk,
            "add": self.add,
            "elect": self.elect,
            "campaign": self.campaign,
            "tick": lambda name: self.network.tick(name),
            "wait": self.wait,
            "run": lambda duration_ms: self.network.run(int(duration_ms)),
            "deliver": self.deliver,
            "drop": lambda *words: self._discard(self.network.drop(take_choice(words))),
            "delay": self.delay,
            "arrive": self.arrive,
            "settle": self.settle,
            "isolate": lambda *names: self.network.isolate(*names),
            "cut": lambda sender, to: self.network.cut(sender, to),
            "heal": lambda: self.network.heal(),
            "link-closed": lambda name, peer: self.network.step(name, LinkClosed(peer)),
            "propose": self.propose,
            "read": self.read,
            "anomaly": lambda name: self.network.step(name, ClockAnomaly()),
            "reconfigure": self.reconfigure,
            "transfer": self.transfer,
            "reset-peers": self.reset_peers,
            "snapshot": self.snapshot,
            "lose-snapshot": self.lose_snapshot,
            "hold": lambda *names: self.network.hold_disk(*names),
            "persist": self.persist,
            "release": lambda name: self.network.release_disk(name),
            "crash": self.crash,
            "restart": lambda name: self.network.restart(name),
            "logs": self.logs,
            "terms": self.terms,
            "configurations": self.configurations,
            "progress": self.progress,
            "lease": self.lease,
        }

    def play(self, command: str) -> list[str]:
        name, *words = command.split()
        if name == "briefly":
            return [line for line in self.play(" ".join(words)) if not is_about_a_message(line)]
        if name == "quietly":
            return self._play_quietly(" ".join(words))
        self.commands[name](*words)
        lines, self.network.lines = self.network.lines, []
        return lines

    def _play_quietly(self, command: str) -> list[str]:
        before = {name: self.network.state(name) for name in self.network.nodes}
        self.play(command)
        lines: list[str] = []
        for name, was in before.items():
            lines += show_difference(name, was, self.network.state(name))
        return lines

    # ------------------------------------------------------------------ the cluster

    def voters(self, voters: str, *words: str) -> None:
        plain, options = take_options(words)
        learners = int(plain[1]) if plain else 0
        changes: dict[str, Any] = {
            name: SWITCHES[value] if value in SWITCHES else int(value)
            for name, value in options.items()
        }
        settings = dataclasses.replace(RaftSettings(), **changes)
        self.network = Observed(int(voters), learners, settings)

    def disk(self, name: str, *words: str) -> None:
        plain, options = take_options(words)
        terms = [int(word) for word in plain]
        runs = [make_run(COMMAND, term, index) for index, term in enumerate(terms, start=1)]
        term = int(options.get("term", max(terms, default=0)))
        self.network.begin(name, Disk(HardState(term), runs))

    def add(self, name: str, *words: str) -> None:
        _, options = take_options(words)
        self.network.add(name, incarnation=int(options.get("incarnation", "1")))

    def elect(self, name: str) -> None:
        self.network.elect(name)
        self.network.lines = [f"{name}: {show_state(self.network[name])}"]

    def campaign(self, name: str) -> None:
        self.network.now += 2 * self.network.settings.election_timeout_ms
        self.network.tick(name)

    # ------------------------------------------------------------------ network and time

    def wait(self, duration_ms: str) -> None:
        self.network.now += int(duration_ms)

    def deliver(self, *words: str) -> None:
        plain, options = take_options(words)
        count = int(options["count"]) if "count" in options else None
        self.network.deliver(take_choice(plain), count=count)

    def delay(self, name: str, *words: str) -> None:
        assert name not in self._delayed
        self._delayed[name] = self.network.drop(take_choice(words))
        assert self._delayed[name], "nothing of that kind is under way"

    def arrive(self, name: str) -> None:
        for message in self._delayed.pop(name):
            self.network.deliver_again(message)

    def settle(self, *names: str) -> None:
        def among(message: PeerMessage) -> bool:
            return not names or {message.sender.node, message.to.node} <= set(names)

        for _ in range(SETTLE_STEPS_MAX):
            if not self.network.deliver(among, count=1):
                return
        raise AssertionError("the network does not come to rest")

    # ------------------------------------------------------------------ requests

    def propose(self, name: str, count: str = "1") -> None:
        self.network.propose(name, count=int(count))

    def read(self, name: str, mode: str = "linearizable") -> None:
        self.network.step(name, Read(self._token(), READ_MODES[mode]))

    def reconfigure(self, name: str, voters: str, *words: str) -> None:
        _, options = take_options(words)
        learners = self._replicas(options.get("learners", ""))
        self.network.step(name, Reconfigure(self._token(), self._replicas(voters), learners))

    def transfer(self, name: str, to: str = "") -> None:
        target = self.network[to].me if to else None
        self.network.step(name, Transfer(self._token(), target))

    def reset_peers(self, name: str, voters: str, force: str = "") -> None:
        message = ResetPeers(self._token(), self._replicas(voters), force == "force")
        self.network.step(name, message)

    def _token(self) -> int:
        self._tokens += 1
        return self._tokens

    def _replicas(self, names: str) -> frozenset[Replica]:
        return frozenset(self.network[name].me for name in names.split(",") if name)

    # ------------------------------------------------------------------ disks and snapshots

    def snapshot(self, name: str, *words: str) -> None:
        _, options = take_options(words)
        self.network.snapshot(
            name,
            keep=int(options.get("keep", "0")),
            size_bytes=int(options.get("bytes", "100")),
            index=int(options["at"]) if "at" in options else None,
        )

    def lose_snapshot(self, name: str) -> None:
        snapshot = self.network.core(name).snapshot
        assert snapshot is not None
        self.network.step(name, SnapshotLost(snapshot))

    def persist(self, name: str, count: str = "") -> None:
        self.network.persist(name, count=int(count) if count else None)

    def crash(self, *names: str) -> None:
        for name in names:
            self.network.crash(name)

    # ------------------------------------------------------------------ looking

    def logs(self) -> None:
        for node in self.network.nodes.values():
            log = node.core.log
            base = f"behind {log.base_index}/{log.base_term}: " if log.base_index else ""
            runs = log.between(log.first_index, log.last_index)
            text = " ".join(map(show_indexes, runs)) or "none"
            down = "" if node.is_up else " (down)"
            self.network.lines.append(f"{node.name} log {base}{text}: {show_state(node)}{down}")

    def configurations(self, name: str) -> None:
        log = self.network.core(name).log
        for run in log.between(log.first_index, log.last_index):
            if run.kind == CONFIG:
                self.network.lines.append(f"{name} log {show_run(run)}")

    def terms(self) -> None:
        for node in self.network.nodes.values():
            terms = " ".join(str(term) for _, term in node.log) or "none"
            self.network.lines.append(f"{node.name} terms {terms}")

    def progress(self, name: str) -> None:
        for peer in self.network.core(name).progress():
            part = "voter" if peer.votes else "departs" if peer.departs else "learner"
            self.network.lines.append(
                f"{name} knows {show_replica(peer.replica)}: {part} {peer.state_name} "
                f"match={peer.match} next={peer.next} inflight={peer.inflight_count}"
            )

    def lease(self, name: str) -> None:
        left_ms = self.network.core(name).lease_until_ms - self.network.now
        text = f"lasts {left_ms} ms more" if left_ms > 0 else "none"
        self.network.lines.append(f"{name} lease: {text}")

    def _discard(self, _: object) -> None:
        """What the network returns is seen in the lines."""


def replay(text: str) -> str:
    """The same transcript with what happens now below each command; other lines stay."""
    player = Player()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(">"):
            lines.append(line)
            lines.extend(f"    {each}" for each in player.play(line[1:]))
        elif not line.startswith("    "):
            lines.append(line)
    return "\n".join(lines) + "\n"
