"""Transcripts: what is done to a small cluster, and everything that can be seen of it.

The files in ``transcripts/`` are read as documentation, and replayed here word by word. In each, a
line that begins with ``>`` is a command; below it stands what it caused, one line each::

    n1: pre_candidate term=0 leader=none commit=0    its state has changed
    n1 -> n2 PreVote term=1 last=0/0                   a message left (not: arrived)
    n1 save #1 term=1 vote=n1 runs=1/1                 given to the disk: runs as first..last/term
    n1 apply 1/1                                       handed out to be applied
    n1 read 7 at 3, n1 read 7 failed

A message that is delivered is shown as ``n2 <- n1 PreVote ...``. Commands:

* ``voters N [learners M]``: a new cluster; ``logs``: all logs and states;
* ``elect NODE``: make it the leader, with all that leads to it left out;
* ``tick NODE``: move time to its deadline; ``wait MS``: move time and tick nobody;
* ``deliver [FROM] [TO]``, ``drop [FROM] [TO]``: what is under way now, ``*`` is anybody;
  ``settle``: deliver until nothing is under way;
* ``propose NODE [COUNT]``, ``read NODE``;
* ``hold NODE``: its saves wait for ``persist NODE``; ``crash NODE``, ``restart NODE``.

To record them anew after a wanted change, and then read the difference::

    RECORD_TRANSCRIPTS=1 pytest tests/raft/test_transcripts.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Output,
    PeerMessage,
    PreVote,
    PreVoteReply,
    Run,
    Save,
    Vote,
    VoteReply,
)
from raft.roles import ROLE_NAMES
from tests.raft.network import Choice, Network, Node

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))


def show_runs(runs: list[Run]) -> str:
    if not runs:
        return "none"
    return " ".join(
        f"{run.first}/{run.term}" if run.count == 1 else f"{run.first}..{run.last}/{run.term}"
        for run in runs
    )


def show_asking(message: PreVote | Vote) -> str:
    return f"last={message.last_index}/{message.last_term}"


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


SHOW: dict[type, Callable[..., str]] = {
    PreVote: show_asking,
    Vote: show_asking,
    PreVoteReply: show_answer,
    VoteReply: show_answer,
    Append: show_append,
    AppendReply: show_append_reply,
    Heartbeat: lambda message: f"commit={message.commit} round={message.round}",
    HeartbeatReply: lambda message: f"round={message.round}",
}


def show(message: PeerMessage) -> str:
    return f"{type(message).__name__} term={message.term} {SHOW[type(message)](message)}"


def show_save(save: Save) -> str:
    words = [f"save #{save.number}"]
    if save.hard_state is not None:
        vote = save.hard_state.vote
        words.append(f"term={save.hard_state.term} vote={vote.node if vote else 'none'}")
    if save.truncate_from is not None:
        words.append(f"truncate={save.truncate_from}")
    if save.runs:
        words.append(f"runs={show_runs(save.runs)}")
    return " ".join(words)


def show_state(node: Node) -> str:
    core = node.core
    leader = core.leader.node if core.leader else "none"
    return (
        f"{ROLE_NAMES[core.role]} term={core.term} leader={leader} commit={core.commit_index}"
        f"{' serves' if core.can_serve else ''}"
    )


class Observed(Network):
    """A network that writes down what can be seen."""

    def __init__(self, voters: int, learners: int) -> None:
        self.lines: list[str] = []
        self._shown: dict[str, str] = {}
        super().__init__(voters, learners=learners)
        for node in self.nodes.values():
            self._shown[node.name] = show_state(node)

    def _arrive(self, message: PeerMessage) -> None:
        self.lines.append(f"{message.to.node} <- {message.sender.node} {show(message)}")
        super()._arrive(message)

    def _carry_out(self, node: Node, output: Output) -> None:
        self._show_change(node)
        for message in output.messages:
            self.lines.append(f"{node.name} -> {message.to.node} {show(message)}")
        if output.save is not None:
            self.lines.append(f"{node.name} {show_save(output.save)}")
        if output.apply:
            self.lines.append(f"{node.name} apply {show_runs(output.apply)}")
        for token, index in output.reads:
            self.lines.append(f"{node.name} read {token} at {index}")
        for token in output.reads_failed:
            self.lines.append(f"{node.name} read {token} failed")
        super()._carry_out(node, output)

    def collect(self, name: str) -> None:
        super().collect(name)
        self._show_change(self.nodes[name])

    def _show_change(self, node: Node) -> None:
        now = show_state(node)
        if now != self._shown[node.name]:
            self._shown[node.name] = now
            self.lines.append(f"{node.name}: {now}")


class Player:
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.network = Observed(3, 0)
        self.commands: dict[str, Callable[..., None]] = {
            "voters": self.voters,
            "elect": self.elect,
            "tick": lambda name: self.network.tick(name),
            "wait": self.wait,
            "deliver": lambda *ends: self._discard(self.network.deliver(between(*ends))),
            "drop": lambda *ends: self._discard(self.network.drop(between(*ends))),
            "settle": lambda: self.network.settle(),
            "propose": self.propose,
            "read": lambda name: self._discard(self.network.read(name)),
            "hold": lambda name: self.network.hold_disk(name),
            "persist": lambda name: self.network.persist(name),
            "crash": lambda name: self.network.crash(name),
            "restart": lambda name: self.network.restart(name),
            "logs": self.logs,
        }

    def play(self, command: str) -> list[str]:
        name, *words = command.split()
        self.commands[name](*words)
        lines, self.network.lines = self.network.lines, []
        return lines

    def voters(self, voters: str, _: str = "learners", learners: str = "0") -> None:
        self.network = Observed(int(voters), int(learners))

    def elect(self, name: str) -> None:
        self.network.elect(name)
        self.network.lines = [f"{name}: {show_state(self.network[name])}"]

    def wait(self, duration_ms: str) -> None:
        self.network.now += int(duration_ms)

    def propose(self, name: str, count: str = "1") -> None:
        self.network.propose(name, count=int(count))

    def logs(self) -> None:
        for node in self.network.nodes.values():
            runs = node.core.log.tail(99)
            self.network.lines.append(f"{node.name} log {show_runs(runs)}: {show_state(node)}")

    def _discard(self, _: object) -> None:
        """What the network returns is seen in the lines."""


def between(sender: str = "*", receiver: str = "*") -> Choice:
    return lambda message: (
        sender in ("*", message.sender.node) and receiver in ("*", message.to.node)
    )


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


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_transcript_is_what_happens(path: Path) -> None:
    text = path.read_text()
    happened = replay(text)
    if os.environ.get("RECORD_TRANSCRIPTS"):
        path.write_text(happened)
    assert happened.splitlines() == (path.read_text() if happened else text).splitlines()


def test_there_are_transcripts_and_a_wrong_one_would_be_noticed() -> None:
    assert len(FILES) >= 5
    text = FILES[0].read_text()
    assert replay(text.replace("term=1", "term=7")) == text
