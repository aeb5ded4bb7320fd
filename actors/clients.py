"""The clients of one group: which of their messages are under way, until the answers leave.

What may live here: the promise that each message gets exactly one answer (or is handed back, once,
of which nothing was appended), and its deadline.  What a message asks for is none of this file's
business; :mod:`actors.group` moves a :class:`Pending` along and finishes it.

An answered message stays wherever else it is noted (in a run that is not applied yet, behind an
earlier deadline) and is skipped there: ``answered`` is the only truth.
"""

from __future__ import annotations

import heapq
import json
from dataclasses import dataclass, field
from typing import Any

from actors.group_messages import HandBacks, Replies
from actors.machines import WriteRequest
from actors.replies import ReplyEncoder
from actors.settings import RETRY_AFTER_MS
from raft.core import Core
from transport import protocol

SWEEP_DEADLINES_MIN = 1_024  # deadlines of answered messages that may stay, besides half of all


@dataclass(slots=True, eq=False)
class Pending:
    """One client message that was accepted, until its answer leaves."""

    token: int
    deadline_ms: int
    offset: int = 0  # of its first command in its run
    count: int = 0  # of its commands
    appended: bool = False  # it may take effect, whatever is answered
    answered: bool = False
    json: bool = False  # the answer of the machine is msgpack and has to become JSON
    reads: list[Any] = field(default_factory=list)
    min_index: int = 0
    early: bool = False  # it waits for an index that is not in the log yet
    by_lease: bool = False  # it is good as long as the lease is
    confirms: dict[str, Any] | None = None  # the answer, if this replica leads


@dataclass(slots=True)
class Gathered:
    """Commands accepted and not in the log yet: what will be one run."""

    commands: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    requests: list[WriteRequest] = field(default_factory=list)
    messages: list[Pending] = field(default_factory=list)
    size_bytes: int = 0

    def without_answered(self) -> Gathered:
        """The same without the commands of messages that were given up."""
        left = Gathered()
        for pending in self.messages:
            if pending.answered:
                continue
            commands = self.commands[pending.offset : pending.offset + pending.count]
            left.requests += self.requests[pending.offset : pending.offset + pending.count]
            pending.offset = len(left.commands)
            left.commands += commands
            left.messages.append(pending)
        return left


class Clients:
    """Answers leave at the end of the turn (:meth:`take_out`)."""

    __slots__ = (
        "_core",
        "_deadline_order",
        "_deadlines",
        "_encoder",
        "_hand_backs",
        "_replies",
        "early_count",
        "pending_count",
        "withdrawn",
    )

    def __init__(self, core: Core, client_address: str) -> None:
        self._core = core
        self._encoder = ReplyEncoder(core.me.node, client_address)
        self._deadlines: list[tuple[int, int, Pending]] = []
        self._deadline_order = 0
        self._replies: list[Any] = []
        self._hand_backs: list[Any] = []
        self.pending_count = 0  # accepted and not answered
        self.early_count = 0  # reads among them whose min_index is not in the log yet
        self.withdrawn = False  # one that has commands was given up before they were in the log

    # ------------------------------------------------------------------ in

    def admit(self, pending: Pending) -> None:
        self.pending_count += 1
        self.early_count += pending.early
        self._deadline_order += 1
        if len(self._deadlines) > 2 * self.pending_count + SWEEP_DEADLINES_MIN:
            # Answered messages behind one with an early deadline would stay until it passes.
            self._deadlines = [each for each in self._deadlines if not each[2].answered]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (pending.deadline_ms, self._deadline_order, pending))

    # ------------------------------------------------------------------ answers

    @property
    def leader_node(self) -> str | None:
        leader = self._core.leader
        return None if leader is None else leader.node

    def refuse(self, token: int, code: int, text: str) -> None:
        """Of a message that was not accepted."""
        retry_after_ms = RETRY_AFTER_MS if code == protocol.BUSY else 0
        payload = self._encoder.whole(self.leader_node, code, text, retry_after_ms=retry_after_ms)
        self._replies += (token, payload)

    def hand_back(self, token: int, node: str | None = None) -> None:
        """Not accepted: ``node`` may take it, by default the leader's."""
        self._hand_backs += (token, node or self.leader_node, self._core.term, "")

    def finish(self, pending: Pending, payload: bytes) -> None:
        assert not pending.answered
        pending.answered = True
        self.pending_count -= 1
        self.early_count -= pending.early
        self._replies += (pending.token, payload)

    def finish_all(
        self, messages: list[Pending], code: int, text: str, *, maybe_applied: bool
    ) -> None:
        """The same for all of them that are not answered yet."""
        payload = self._encoder.whole(self.leader_node, code, text, maybe_applied=maybe_applied)
        for pending in messages:
            if not pending.answered:
                self.finish(pending, payload)

    def finish_writes(self, pending: Pending, first: int, responses: list[Any]) -> None:
        """``responses`` are those of the run at ``first``."""
        mine = responses[pending.offset : pending.offset + pending.count]
        self.finish(pending, self._encoder.writes(first + pending.offset, mine, pending.json))

    def finish_reads(self, pending: Pending, answered: Any) -> None:
        self.finish(pending, self._encoder.reads(self.leader_node, answered))

    def finish_json(self, pending: Pending, values: dict[str, Any]) -> None:
        payload = self._encoder.data(self.leader_node, json.dumps(values).encode())
        self.finish(pending, payload)

    def unaccept(self, pending: Pending) -> None:
        """Hand back a message of which nothing was appended."""
        assert not pending.answered
        assert not pending.appended
        pending.answered = True
        self.pending_count -= 1
        self.early_count -= pending.early
        self.hand_back(pending.token)

    # ------------------------------------------------------------------ time and the turn's end

    def expire(self, now: int) -> int:
        """Give up what is overdue; how many messages."""
        heap = self._deadlines
        count = 0
        while heap and (heap[0][0] <= now or heap[0][2].answered):
            pending = heapq.heappop(heap)[2]
            if pending.answered:
                continue
            count += 1
            if pending.count and not pending.appended:
                self.withdrawn = True
            self.finish_all(
                [pending],
                protocol.TIMEOUT,
                "the deadline passed",
                maybe_applied=pending.appended,
            )
        return count

    def next_deadline(self) -> int | None:
        heap = self._deadlines
        while heap and heap[0][2].answered:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def take_out(self, effects: list[object]) -> None:
        if self._replies:
            effects.append(Replies(self._replies))
            self._replies = []
        if self._hand_backs:
            effects.append(HandBacks(self._hand_backs))
            self._hand_backs = []
