"""Who uses the groups: clients that ask, wait, give up, ask elsewhere, and write everything down.

A client has one message under way at a time, with one or a few requests in it.  Some clients know
one node only, and ask that, whatever becomes of it; the others ask the node of the leader that they
heard of last, mostly, and any other at times.

* **answered**, also by a refusal of the machine (REJECTED): into the history;
* a **definite refusal** (nothing was appended): tried again, with new tags, until the time is up;
  then it is no operation at all;
* **unknown** (``maybe_applied``, or silence): into the history without an end, if it writes.

Every command carries a tag in its ``type`` field that no other has, one per attempt; so the logs
tell at the end whether clients were told the truth (:meth:`Ledger.check`): what was answered stands
where the answer said, what was definitely refused stands in no log that ever was, and nothing
stands in the log twice.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actors.machines import Context
from actors.machines.kv import KeyValueMachine
from raft.messages import COMMAND, Run
from raft.store.runs import open_run
from tests import linearizability
from tests.linearizability import (
    DONE,
    REJECTED,
    UNANSWERED,
    UNKNOWN,
    Answer,
    Operation,
    State,
)
from tests.sim.checkers import Command, GroupChecker, commands_of
from tests.sim.machines import MachineFailure
from tests.sim.plan import GroupPlan
from tests.sim.world import MS, World, draw_us
from transport.client import wire
from transport.client.kv import decode_get, decode_number, encode_add, encode_cas, encode_get
from transport.client.wire import Outcome
from transport.protocol import ReadRequest, parse_write

if TYPE_CHECKING:
    from tests.sim.host import Host

LINK_US: Final = (20, 400)  # one way between a client and its node
RETRY_US: Final = (2 * MS, 60 * MS)
TIMEOUTS_MS: Final = (60, 300, 1_000, 2_000)
PATIENCE_MS: Final = (0, 1_500)  # how long a client waits beyond the time limit of its message
OPERATION_MS_MAX: Final = 3_000  # an operation is given up after that, if it was always refused
REQUESTS_WEIGHTS: Final = (80, 12, 8)  # of messages with one, two, three
CONSISTENCIES: Final = (wire.LINEARIZABLE, wire.LEASE, wire.STALE)
CONSISTENCIES_WEIGHTS: Final = (50, 35, 15)  # of messages that read
AMOUNT_MAX: Final = 1_000_000

IN_THE_LOG: Final = (wire.OK, wire.REJECTED)
# What anybody may be told while things go wrong.  Anything else is a surprise, and an error.
EXPECTED: Final = frozenset(
    (
        wire.OK,
        wire.REJECTED,
        wire.NO_LEADER,
        wire.NOT_LEADER,
        wire.BUSY,
        wire.TIMEOUT,
        wire.UNAVAILABLE,
        wire.SHUTTING_DOWN,
        wire.READ_ONLY,  # the machine is quarantined
        wire.INTERNAL,
    )
)

# What a router says when nobody else did: somebody has lost a message.
FORGOTTEN: Final = "the deadline passed without an answer"


def check_expected(who: str, outcome: Outcome) -> None:
    assert outcome.code in EXPECTED, f"{who} is told {outcome}"


def check_calm(world: World, asked_us: int, outcome: Outcome) -> None:
    """When nothing goes wrong any more, whoever took a message answers it."""
    assert not world.is_calm_since(asked_us) or outcome.error_text != FORGOTTEN, (
        f"a message of {asked_us} us was accepted and forgotten"
    )


@dataclass(slots=True)
class Ledger:
    """What all clients of one group have heard, by tag."""

    history: list[Operation] = field(default_factory=list)
    acknowledged: dict[str, int] = field(default_factory=dict)  # tag -> index
    refused: dict[str, Outcome | None] = field(default_factory=dict)  # None: nobody listened
    unknown: set[str] = field(default_factory=set)
    seen: dict[str, State] = field(default_factory=dict)  # key -> what was read last, for cas
    reads: list[tuple[int, str, State]] = field(default_factory=list)  # (index, key, value)
    indexes: list[int] = field(default_factory=list)  # of the history; 0: unknown
    before: Ledger | None = None  # what was heard until the group began anew
    lost: set[str] = field(default_factory=set)  # tags that were acknowledged, and are gone

    def note(self, operation: Operation, index: int = 0) -> None:
        self.history.append(operation)
        self.indexes.append(index)

    def begin_anew(self, kept_index: int, under_way: Iterable[Operation]) -> None:
        """The group goes on without what stood behind that index.  What was heard until now is
        the truth about what it was; what is left of it, and what comes, about what it is."""
        self.before = Ledger(
            history=[*self.history, *under_way],
            acknowledged=dict(self.acknowledged),
            reads=list(self.reads),
        )
        kept = [index <= kept_index for index in self.indexes]
        self.history = list(compress(self.history, kept))
        self.indexes = list(compress(self.indexes, kept))
        self.reads = [each for each in self.reads if each[0] <= kept_index]
        self.lost = {tag for tag, index in self.acknowledged.items() if index > kept_index}
        for tag in self.lost:
            del self.acknowledged[tag]

    def check(self, committed: Iterable[Command], made: Iterable[Command]) -> None:
        """Hold it against the log of the group, and against all that ever was in one of its
        logs."""
        where: dict[str, int] = {}
        for command in committed:
            assert command.tag not in where, (
                f"{command.tag} is committed at {where[command.tag]} and at {command.index}"
            )
            assert command.tag not in self.lost, f"{command.tag} was lost, and is committed again"
            where[command.tag] = command.index
        for tag, index in self.acknowledged.items():
            assert where.get(tag) == index, (
                f"{tag} was answered at {index} and is committed at {where.get(tag)}"
            )
        for command in made:
            assert command.tag not in self.refused, (
                f"{command.tag} was definitely refused ({self.refused[command.tag]}) and was in a "
                f"log at {command.index}"
            )

    def check_reads(self, committed: Iterable[Run]) -> None:
        """Each answer is the state at the index that came with it."""
        machine = KeyValueMachine()
        wanted = sorted(self.reads, key=itemgetter(0))
        position = 0
        for run in (*committed, None):
            until = UNANSWERED if run is None else run.first
            while position < len(wanted) and wanted[position][0] < until:
                index, key, value = wanted[position]
                position += 1
                answer = machine.read(ReadRequest(data=encode_get(key)))
                entry = decode_get(answer.data)
                found = None if entry is None else entry.value
                assert found == value, f"{key} at {index} was read as {value!r}, it is {found!r}"
            if run is not None and run.kind == COMMAND:
                for index, command in enumerate(open_run(run).commands, run.first):
                    context = Context(index, 0, machine.version, _emit_nothing)
                    machine.apply(parse_write(command[3][2:]), context)

    def check_linearizable(self) -> None:
        linearizability.check(self.history)
        if self.before is not None:
            self.before.check_linearizable()


def _emit_nothing(kind: str, values: Mapping[str, Any]) -> None:
    raise AssertionError("the kv machine has no events")


@dataclass(slots=True)
class _Asked:
    """One operation of the present message, until something definite is known of it."""

    operation: Operation
    data: bytes


class Client:
    def __init__(
        self,
        world: World,
        plan: GroupPlan,
        number: int,
        hosts: Sequence[Host],
        ledger: Ledger,
        checker: GroupChecker,
    ) -> None:
        self.world = world
        self.plan = plan
        self.number = number
        self.identity = f"c{number}".encode()
        self.where = f"c{number}"
        self.ledger = ledger
        self._checker = checker
        self.is_stopped = False
        self.counts = {"asked": 0, "answered": 0, "refused": 0, "unknown": 0, "failed reads": 0}
        self._rng: random.Random = world.stream(f"client/{number}")
        self._hosts = {host.name: host for host in hosts}
        self._names = [host.name for host in hosts]
        self._home = self._rng.choice(self._names) if self._rng.random() < 0.4 else None
        self._leader: str | None = None
        self._consistency = wire.LINEARIZABLE  # of the present message, if it reads
        self._count = 0
        self._attempt = 0
        self._asked: list[_Asked] = []
        self._tags: list[str] = []
        self._host = ""
        self._asked_us = 0  # of the present attempt
        self._give_up_us = 0

    def under_way(self) -> list[Operation]:
        """What it has asked for that may change something, or have done so."""
        return [each.operation for each in self._asked if each.operation.action != "get"]

    def start(self) -> None:
        self.world.after(self._rng.randrange(self.plan.think_max_us), self._begin)

    @property
    def is_waiting(self) -> bool:
        return bool(self._asked)

    # ------------------------------------------------------------------ asking

    def _begin(self) -> None:
        if self.is_stopped:
            return
        rng = self._rng
        count = rng.choices((1, 2, 3), REQUESTS_WEIGHTS)[0]
        reads = rng.random() < 0.4
        self._consistency = rng.choices(CONSISTENCIES, CONSISTENCIES_WEIGHTS)[0]
        self._asked = []
        for _ in range(count):
            self._count += 1
            self._asked.append(self._draw(f"{self.number}.{self._count}", reads))
        self.counts["asked"] += count
        self._give_up_us = self.world.now_us + OPERATION_MS_MAX * MS
        self._try()

    def _draw(self, value: str, reads: bool) -> _Asked:
        rng = self._rng
        number = rng.randrange(self.plan.keys)
        key, padding = f"{self.plan.name}/{number}", b"." * self.plan.padding
        argument: bytes | int | tuple[State, State] | None = None
        data = b""
        if reads:
            action = "get"
            data = encode_get(key)
        elif number % 2 == (rng.random() < 0.95):  # counters have odd numbers, mostly
            action = "add"
            argument = rng.randint(-AMOUNT_MAX, AMOUNT_MAX)
            data = encode_add(argument)
        else:
            action = rng.choices(("put", "cas", "delete"), (5, 4, 1))[0]
            if action == "put":
                is_text = rng.random() < 0.8
                argument = data = (
                    value.encode() + padding if is_text else msgpack.packb(self._count)
                )
            elif action == "cas":
                expected, new = self.ledger.seen.get(key), value.encode() + padding
                argument, data = (expected, new), encode_cas(expected, new)
        operation = Operation(
            self.number, key, action, argument, self.world.now_us, UNANSWERED, UNKNOWN
        )
        return _Asked(operation, data)

    def _try(self) -> None:
        """One more attempt, at a node that may know better."""
        rng = self._rng
        self._attempt += 1
        self._asked_us = self.world.now_us
        self._tags = [f"{self.number}.{self._attempt}.{at}" for at in range(len(self._asked))]
        timeout_ms = rng.choice(TIMEOUTS_MS)
        requests = [
            wire.encode_read(each.data, consistency=self._consistency)
            if each.operation.action == "get"
            else wire.encode_write(
                each.operation.action.upper(), each.operation.key, each.data, type_name=tag
            )
            for each, tag in zip(self._asked, self._tags, strict=True)
        ]
        batch = wire.join_batch(requests, timeout_ms)
        leader = self._leader
        self._host = leader if leader and rng.random() < 0.8 else rng.choice(self._names)
        self._host = self._home or self._host
        what = " ".join(
            f"{each.operation.action} {each.operation.key}#{tag}"
            for each, tag in zip(self._asked, self._tags, strict=True)
        )
        self.world.note(self.where, f"asks {self._host}: {what}")
        self.world.after(draw_us(rng, *LINK_US), self._arrive, self._attempt, batch)
        patience_ms = timeout_ms + rng.randint(*PATIENCE_MS)
        self.world.after(patience_ms * MS, self._on_silence, self._attempt)

    def _arrive(self, attempt: int, batch: bytes) -> None:
        host = self._hosts[self._host]
        correlation = str(attempt).encode()
        if not host.take_client_message(self.identity, correlation, self.plan.name, batch):
            self.world.after(draw_us(self._rng, *LINK_US), self._on_nobody, attempt)

    # ------------------------------------------------------------------ hearing

    def take_reply(self, correlation: bytes, payload: bytes) -> None:
        """From the node, on its way."""
        attempt = int(correlation)
        self.world.after(draw_us(self._rng, *LINK_US), self._on_reply, attempt, payload)

    def on_host_down(self, host: str) -> None:
        """The connection has broken, and the client sees it."""
        if self._asked and self._host == host:
            self.world.after(draw_us(self._rng, *LINK_US), self._on_silence, self._attempt)

    def _on_nobody(self, attempt: int) -> None:
        """Nobody listens there: nothing has happened."""
        if attempt == self._attempt and self._asked:
            self._leader = None
            self._refuse(None)

    def _on_silence(self, attempt: int) -> None:
        """No answer, and none is waited for any more."""
        if attempt == self._attempt and self._asked:
            self._leader = None
            self._finish([None] * len(self._asked))

    def _on_reply(self, attempt: int, payload: bytes) -> None:
        if attempt != self._attempt or not self._asked:
            return
        outcomes = wire.decode_replies(payload, len(self._asked))
        first = outcomes[0]
        codes = {outcome.code for outcome in outcomes}
        for outcome in outcomes:
            check_expected(self.where, outcome)
        check_calm(self.world, self._asked_us, first)
        self._leader = first.leader or None
        if any(outcome.code not in IN_THE_LOG for outcome in outcomes):
            assert len(codes) == 1, f"a message is taken or refused as a whole: {codes}"
            if not first.maybe_applied:
                self._refuse(first)
                return
        self._finish(outcomes)

    # ------------------------------------------------------------------ what comes of it

    def _refuse(self, outcome: Outcome | None) -> None:
        """Certainly not applied: try again, or call it nothing."""
        reason = "nobody there" if outcome is None else wire.CODE_NAMES[outcome.code]
        self.world.note(self.where, f"is refused: {reason}")
        self.ledger.refused.update(dict.fromkeys(self._tags, outcome))
        if self.world.now_us < self._give_up_us and not self.is_stopped:
            self.world.after(draw_us(self._rng, *RETRY_US), self._try_again, self._attempt)
            return
        self.counts["refused"] += len(self._asked)
        self._rest()

    def _try_again(self, attempt: int) -> None:
        if attempt == self._attempt and self._asked:
            self._try()

    def _finish(self, outcomes: Sequence[Outcome | None]) -> None:
        texts = []
        for each, tag, outcome in zip(self._asked, self._tags, outcomes, strict=True):
            operation = each.operation
            if outcome is not None and outcome.code in IN_THE_LOG:
                self._note_answer(operation, tag, outcome)
                texts.append(f"{wire.CODE_NAMES[outcome.code]}@{outcome.index}")
                continue
            self.counts["unknown"] += 1
            texts.append("silence" if outcome is None else wire.CODE_NAMES[outcome.code])
            if operation.action != "get":
                self.ledger.unknown.add(tag)
                self.ledger.note(operation)
        self.world.note(self.where, f"hears {' '.join(texts)}")
        self._rest()

    def _note_answer(self, asked: Operation, tag: str, outcome: Outcome) -> None:
        self.counts["answered"] += 1
        answer: Answer = DONE
        if asked.action == "get":
            if outcome.code == wire.REJECTED:
                # Its fault is its own: the machine goes on.
                assert MachineFailure.__name__ in outcome.error_text, outcome
                self.counts["failed reads"] += 1
                return
            assert outcome.code == wire.OK, outcome
            entry = decode_get(outcome.data)
            answer = None if entry is None else entry.value
            self.ledger.reads.append((outcome.index, asked.key, answer))
            if self._consistency == wire.STALE:
                return
            self.ledger.seen[asked.key] = answer
        else:
            self.ledger.acknowledged[tag] = outcome.index
            self._checker.check_answered(tag, outcome.index)
            if outcome.code == wire.REJECTED:
                answer = REJECTED
            elif asked.action == "add":
                answer = decode_number(outcome.data)
        answered = Operation(
            asked.client,
            asked.key,
            asked.action,
            asked.argument,
            asked.asked,
            self.world.now_us,
            answer,
        )
        self.ledger.note(answered, outcome.index)

    def _rest(self) -> None:
        self._asked = []
        if not self.is_stopped:
            self.world.after(self._rng.randrange(self.plan.think_max_us), self._begin)


def check_ledger(ledger: Ledger, checker: GroupChecker) -> None:
    ledger.check(checker.commands_committed(), checker.commands_made())
    ledger.check_reads(checker.committed)
    if ledger.before is not None:
        ledger.before.check(commands_of(checker.committed_before), ())
        ledger.before.check_reads(checker.committed_before)
