"""The group actor: one replica of one group, between clients, peers, disk and machine.

It owns the consensus core (:mod:`raft.core`) and carries out, as effects, what the core wants
done.  It does no I/O and reads no clock but the injected ones, so production and simulation run
the same object.

**One turn.**  The scheduler hands over everything that has arrived (client messages, peer
messages, news from disk and machine); :meth:`GroupActor.end_turn` then proposes all gathered
commands as one run, starts one ReadIndex round for all gathered reads, and takes the core's
output once.  The effects keep the core's order: peer messages, save, apply, answers.

**Bookkeeping of a write.**  ``_gathered`` (accepted this turn, not yet in the log) ->
``_appended`` (by first index of their run) -> answered when their run is applied, when the
leader steps down (NOT_LEADER, unknown) or when the deadline passes (TIMEOUT, unknown).  A
message never spans two runs.

**Bookkeeping of a read.**  ``_reads_gathered`` -> ``_reads_pending`` (by ReadIndex token) ->
query of the machine -> answered.  Reads that lose their leader were never accepted: they are
handed back.

**Log time** advances on the leader by its own monotonic clock, from the highest that its log
holds; it stands still without a leader, so expiry may be late, never early.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from actors import machine as machines
from actors.catalog import ADDRESSES, SYSTEM_GROUP
from actors.group_messages import (
    LATER_ADMINS,
    DescribeGroup,
    Drain,
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
from actors.machine import WRITE_TAG
from actors.machines import WriteRequest
from actors.machines.registry import kind_error
from actors.replies import ReplyEncoder
from actors.runtime import Actor, Clock, Effects, StartTimer, Tell, TimerFired
from actors.settings import GROUP_UNCOMMITTED_BYTES_MAX, RETRY_AFTER_MS
from raft.core import Core
from raft.messages import (
    COMMAND,
    LinkClosed,
    Persisted,
    Propose,
    Read,
    Replica,
    Run,
    Tick,
)
from raft.store.runs import decode_run, encode_run
from transport import protocol
from transport.addresses import AddressError, parse_tcp
from transport.frames import BODY_ADMIN, UINT64_MAX
from transport.protocol import AdminOperation, BadBatch, Reads, SessionOperation, Writes

SWEEP_DEADLINES_MIN = 1_024  # deadlines of answered messages that may stay, besides half of all
# Asked by node processes, never by clients.
RIGHTS_NEEDED = {"registerNode": protocol.RIGHT_NODE}

RUN_BYTES_MAX = 1 << 20  # of commands in one run; a larger message has a run of its own
EARLY_READS_MAX = 4_096  # reads that wait for an index which is not in the log yet: then BUSY
PENDING_MESSAGES_MAX = 200_000  # client messages without an answer in one group: then BUSY
COMMAND_OVERHEAD_BYTES = 16  # of the array around each command in a run


# --------------------------------------------------------------------------- bookkeeping


@dataclass(slots=True, eq=False)
class Pending:
    """One client message that was accepted, until its answer leaves."""

    token: int
    deadline_ms: int
    offset: int = 0  # of its first command in its run
    count: int = 0  # of its commands
    appended: bool = False
    answered: bool = False
    json: bool = False  # the answer of the machine is msgpack and has to become JSON
    reads: list[Any] = field(default_factory=list)
    min_index: int = 0
    early: bool = False  # it waits for an index that is not in the log yet


@dataclass(slots=True)
class Gathered:
    """Commands accepted in this turn: what will be one run."""

    commands: list[tuple[int, int, int, bytes]] = field(default_factory=list)
    requests: list[WriteRequest] = field(default_factory=list)
    messages: list[Pending] = field(default_factory=list)
    size_bytes: int = 0


ROLE_NAMES = ("follower", "pre_candidate", "candidate", "leader")


class GroupActor(Actor):
    """One replica of one group.

    ``core`` is built by the worker from what the disk holds; ``leader_address`` is this node's
    client address, told to clients while this replica leads.
    """

    def __init__(
        self,
        *,
        group: int,
        name: str,
        machine_kind: str,
        members: list[Replica],
        core_factory: Callable[[Callable[[int, int, int], Run]], Core],
        clock: Clock,
        wall_ms: Callable[[], int],
        client_address: str,
    ) -> None:
        super().__init__(actor_name(group))
        self.group = group
        self.group_name = name
        self.machine_kind = machine_kind
        self.members = members
        self._machine = machine_name(group)
        self._clock = clock
        self._wall_ms = wall_ms
        self._log_time_ms = 0  # highest seen in the log
        self._time_term = -1  # the term in which log time was begun here as leader
        self._time_base_ms = 0  # log time minus this clock, in that term
        self._gathered: list[Gathered] = []
        self._gathered_bytes = 0
        self._appended: dict[int, list[Pending]] = {}
        self._requests: dict[int, list[WriteRequest]] = {}  # parsed commands of our own runs
        self._reads_gathered: list[Pending] = []
        self._reads_pending: dict[int, list[Pending]] = {}
        self._read_token = 0
        self._pending_count = 0
        self._early_count = 0  # reads among them whose min_index is not in the log yet
        self._deadlines: list[tuple[int, int, Pending]] = []
        self._deadline_order = 0
        self._timer_ms: int | None = None
        self._replies: list[Any] = []
        self._hand_backs: list[Any] = []
        self._draining = False
        self._machine_error: str | None = None
        self._applied_index = 0
        self._summary: dict[str, Any] = {}
        self._is_system = name == SYSTEM_GROUP
        self.counts = {"proposals": 0, "commands": 0, "reads": 0, "timeouts": 0, "busy": 0}
        self.core = core_factory(self._make_run)
        self._encoder = ReplyEncoder(self.core.me.node, client_address)
        self._led = False
        self._table: dict[type, Callable[[Any], list[object] | None]] = {
            Requests: self._on_requests,
            PeerMessages: self._on_peer_messages,
            Persisted: self._on_persisted,
            machines.Applied: self._on_applied,
            machines.Answered: self._on_answered,
            machines.Described: self._on_described,
            machines.Quarantined: self._on_quarantined,
            TimerFired: self._on_timer,
            LinkClosed: self._on_link_closed,
            DescribeGroup: self._on_describe,
            Drain: self._on_drain,
        }

    def on_start(self) -> Effects:
        return self.end_turn()

    def handle(self, message: object) -> Effects:
        return self._table[type(message)](message)

    @property
    def pending_count(self) -> int:
        """Client messages that were accepted and are not answered yet."""
        return self._pending_count

    # ------------------------------------------------------------------ requests

    def _on_requests(self, message: Requests) -> None:
        items = message.items
        now = self._clock.now_ms()
        for at in range(0, len(items), 4):
            token, remaining_ms, rights, batch = items[at : at + 4]
            if not self.core.is_leader:
                self._hand_back(token)
                continue
            if self._draining:
                self._refuse(token, protocol.SHUTTING_DOWN, "the node is shutting down")
                continue
            self._accept(token, remaining_ms, rights, batch, now)

    def _accept(self, token: int, remaining_ms: int, rights: int, batch: bytes, now: int) -> None:
        decoded = protocol.decode_batch(self.group_name, batch)
        if self._pending_count >= PENDING_MESSAGES_MAX:
            self.counts["busy"] += 1
            self._refuse(token, protocol.BUSY, "too many messages wait in this group")
            return
        needed = RIGHTS_NEEDED.get(getattr(decoded, "command", ""), 0)
        if needed & ~rights:
            self._refuse(token, protocol.FORBIDDEN, "this command is for nodes alone")
            return
        _ACCEPT[type(decoded)](self, token, decoded, now, remaining_ms)

    def _accept_bad(self, token: int, decoded: BadBatch, now: int, remaining_ms: int) -> None:
        self._refuse(token, protocol.BAD_REQUEST, decoded.reason)

    def _accept_writes(self, token: int, decoded: Writes, now: int, remaining_ms: int) -> None:
        writes = decoded.requests
        commands = [
            (each.session, each.sequence, each.acknowledged, WRITE_TAG + each.raw)
            for each in writes
        ]
        size_bytes = sum([len(command[3]) for command in commands])
        size_bytes += COMMAND_OVERHEAD_BYTES * len(commands)
        refusal = self._write_refusal(writes, size_bytes)
        if refusal is not None:
            self._refuse(token, *refusal)
            return
        deadline_ms = _deadline_ms(now, remaining_ms, writes[0].timeout_ms, decoded.timeout_ms)
        pending = Pending(token, deadline_ms)
        self._gather(pending, commands, [each.request for each in writes], size_bytes)

    def _write_refusal(
        self, writes: list[protocol.Write], size_bytes: int
    ) -> tuple[int, str] | None:
        """(code, reason) why these writes cannot be appended now, or None."""
        if self.group_name.startswith("_"):
            return protocol.FORBIDDEN, "groups whose name begins with _ are the system's"
        if any([each.session for each in writes]):  # noqa: C419 - a list is faster here
            return protocol.SESSION_EXPIRED, "no such session: this version opens none"
        return self._append_refusal(size_bytes)

    def _append_refusal(self, size_bytes: int) -> tuple[int, str] | None:
        if self._machine_error is not None:
            return protocol.READ_ONLY, f"the machine is quarantined: {self._machine_error}"
        if (
            self.core.uncommitted_bytes + self._gathered_bytes + size_bytes
            > GROUP_UNCOMMITTED_BYTES_MAX
        ):
            self.counts["busy"] += 1
            return (
                protocol.BUSY,
                f"more than {GROUP_UNCOMMITTED_BYTES_MAX} bytes wait to be committed",
            )
        return None

    def _gather(
        self,
        pending: Pending,
        commands: list[tuple[int, int, int, bytes]],
        requests: list[WriteRequest],
        size_bytes: int,
    ) -> None:
        if not self._gathered or self._gathered[-1].size_bytes + size_bytes > RUN_BYTES_MAX:
            self._gathered.append(Gathered())
        gathered = self._gathered[-1]
        pending.offset = len(gathered.commands)
        pending.count = len(commands)
        gathered.commands += commands
        gathered.requests += requests
        gathered.messages.append(pending)
        gathered.size_bytes += size_bytes
        self._gathered_bytes += size_bytes
        self._admit(pending)

    def _admit(self, pending: Pending) -> None:
        self._pending_count += 1
        self._deadline_order += 1
        if len(self._deadlines) > 2 * self._pending_count + SWEEP_DEADLINES_MIN:
            # Answered messages behind one with an early deadline would stay until it passes.
            self._deadlines = [each for each in self._deadlines if not each[2].answered]
            heapq.heapify(self._deadlines)
        heapq.heappush(self._deadlines, (pending.deadline_ms, self._deadline_order, pending))

    def _accept_reads(self, token: int, decoded: Reads, now: int, remaining_ms: int) -> None:
        reads = decoded.requests
        deadline_ms = _deadline_ms(now, remaining_ms, reads[0].timeout_ms, decoded.timeout_ms)
        if decoded.min_index > self.core.last_index:
            if self._early_count >= EARLY_READS_MAX:
                self.counts["busy"] += 1
                self._refuse(token, protocol.BUSY, "too many reads wait for writes to come")
                return
            self._early_count += 1
        pending = Pending(
            token,
            deadline_ms,
            min_index=decoded.min_index,
            early=decoded.min_index > self.core.last_index,
        )
        self._gather_reads(pending, [each.request for each in reads])

    def _gather_reads(self, pending: Pending, requests: list[Any]) -> None:
        pending.reads = requests
        self._reads_gathered.append(pending)
        self.counts["reads"] += len(requests)
        self._admit(pending)

    def _accept_session(
        self, token: int, decoded: SessionOperation, now: int, remaining_ms: int
    ) -> None:
        self._refuse(token, protocol.BAD_REQUEST, "sessions are not available in this version")

    def _accept_admin(
        self, token: int, decoded: AdminOperation, now: int, remaining_ms: int
    ) -> None:
        handler = _ADMIN.get(decoded.command) if self._is_system else None
        if handler is None:
            text = f"unknown command {decoded.command[:64]!r} for group {self.group_name}"
            if decoded.command in LATER_ADMINS:
                text = f"{decoded.command} is not in this version"
            self._refuse(token, protocol.BAD_REQUEST, text)
            return
        assumed_ms = decoded.timeout_ms
        if remaining_ms > assumed_ms:
            # No time-out was given: the router assumes the longer default, not knowing the command.
            assumed_ms = protocol.default_timeout_ms(BODY_ADMIN)
        deadline_ms = _deadline_ms(now, remaining_ms, assumed_ms, decoded.timeout_ms)
        handler(self, Pending(token, deadline_ms), decoded)

    def _admin_read(self, pending: Pending, admin: AdminOperation) -> None:
        self._gather_reads(pending, [protocol.ReadRequest(data=admin.command.encode())])

    def _admin_create_group(self, pending: Pending, admin: AdminOperation) -> None:
        machine = admin.options.get("machine", "")
        error = kind_error(machine)
        if error is not None:
            self._refuse(pending.token, protocol.BAD_REQUEST, error)
            return
        values = {"machine": machine}
        self._admin_write(pending, "CREATE_GROUP", admin.value, values)

    def _admin_register_node(self, pending: Pending, admin: AdminOperation) -> None:
        values: dict[str, Any] = {key: admin.options.get(key, "") for key in ADDRESSES}
        try:
            for address in values.values():
                parse_tcp(address)
        except AddressError as error:
            self._refuse(pending.token, protocol.BAD_REQUEST, str(error))
            return
        values["incarnation"] = _decimal(admin.options.get("incarnation", ""))
        self._admin_write(pending, "REGISTER_NODE", admin.value, values)

    def _admin_write(
        self, pending: Pending, operation: str, key: str, values: Mapping[str, Any]
    ) -> None:
        request = protocol.WriteRequest(operation=operation, key=key, data=msgpack.packb(values))
        raw = request.SerializeToString()
        size_bytes = len(raw) + COMMAND_OVERHEAD_BYTES
        refusal = self._append_refusal(size_bytes)
        if refusal is not None:
            self._refuse(pending.token, *refusal)
            return
        pending.json = True
        self._gather(pending, [(0, 0, 0, WRITE_TAG + raw)], [request], size_bytes)

    # ------------------------------------------------------------------ answers

    def _refuse(self, token: int, code: int, text: str) -> None:
        retry_after_ms = RETRY_AFTER_MS if code == protocol.BUSY else 0
        payload = self._encoder.whole(
            self._leader_node(), code, text, retry_after_ms=retry_after_ms
        )
        self._replies += (token, payload)

    def _hand_back(self, token: int, reason: str = "") -> None:
        self._hand_backs += (token, self._leader_node(), self.core.term, reason)

    def _finish(self, pending: Pending, payload: bytes) -> None:
        assert not pending.answered
        pending.answered = True
        self._pending_count -= 1
        self._early_count -= pending.early
        self._replies += (pending.token, payload)

    def _unaccept(self, pending: Pending) -> None:
        """Hand back a message of which nothing was appended."""
        assert not pending.answered
        assert not pending.appended
        pending.answered = True
        self._pending_count -= 1
        self._early_count -= pending.early
        self._hand_back(pending.token)

    def _leader_node(self) -> str | None:
        leader = self.core.leader
        return None if leader is None else leader.node

    # ------------------------------------------------------------------ peers, disk, time

    def _on_peer_messages(self, message: PeerMessages) -> None:
        now = self._clock.now_ms()
        step = self.core.step
        for each in message.messages:
            step(each, now)

    def _on_persisted(self, message: Persisted) -> None:
        self.core.step(message, self._clock.now_ms())

    def _on_link_closed(self, message: LinkClosed) -> None:
        self.core.step(message, self._clock.now_ms())

    def _on_timer(self, message: TimerFired) -> None:
        self._timer_ms = None
        now = self._clock.now_ms()
        if self.core.next_deadline() <= now:
            self.core.step(Tick(), now)
        self._expire(now)

    def _expire(self, now: int) -> None:
        heap = self._deadlines
        while heap and (heap[0][0] <= now or heap[0][2].answered):
            pending = heapq.heappop(heap)[2]
            if pending.answered:
                continue
            self.counts["timeouts"] += 1
            payload = self._encoder.whole(
                self._leader_node(),
                protocol.TIMEOUT,
                "the deadline passed",
                # What is gathered will be in the log at the end of this turn.
                maybe_applied=pending.count > 0,
            )
            self._finish(pending, payload)

    def _on_drain(self, message: Drain) -> None:
        self._draining = True

    # ------------------------------------------------------------------ the machine's news

    def _on_applied(self, message: machines.Applied) -> None:
        self._applied_index = message.last
        self._log_time_ms = max(self._log_time_ms, message.time_ms)
        self._requests.pop(message.first, None)
        for pending in self._appended.pop(message.first, ()):
            if not pending.answered:
                self._finish(
                    pending,
                    self._encoder.writes(
                        message.first + pending.offset,
                        message.responses[pending.offset : pending.offset + pending.count],
                        pending.json,
                    ),
                )

    def _on_answered(self, message: machines.Answered) -> None:
        pending: Pending = message.key
        if pending.answered:
            return
        self._finish(pending, self._encoder.reads(self._leader_node(), message))

    def _on_quarantined(self, message: machines.Quarantined) -> list[object]:
        self._machine_error = message.error
        self._refuse_gathered()
        payload = self._encoder.whole(
            self._leader_node(),
            protocol.INTERNAL,
            f"the machine is quarantined: {message.error}",
            maybe_applied=True,
        )
        for messages in self._appended.values():
            for pending in messages:
                if not pending.answered:
                    self._finish(pending, payload)
        self._appended.clear()
        self._requests.clear()
        return self._on_changed(self._clock.now_ms())

    def _refuse_gathered(self) -> None:
        """Commands that are not in the log yet: nobody would ever apply and answer them."""
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        payload = self._encoder.whole(
            self._leader_node(),
            protocol.READ_ONLY,
            f"the machine is quarantined: {self._machine_error}",
        )
        for each in gathered:
            for pending in each.messages:
                if not pending.answered:
                    self._finish(pending, payload)

    # ------------------------------------------------------------------ the turn's end

    def end_turn(self) -> list[object]:
        core = self.core
        now = self._clock.now_ms()
        if self._gathered:
            self._propose(now)
        if self._reads_gathered:
            self._start_reads(now)
        effects: list[object] = []
        # Taking output can make more: a lost leadership fails reads, which become hand-backs.
        while (output := core.take_output()) is not None:
            if output.messages:
                effects.append(SendPeers(output.messages))
            if output.save is not None:
                effects.append(SaveLog(self.group, output.save))
            if output.apply and self._machine_error is None:
                requests = self._requests
                runs = [(run, requests.get(run.first)) for run in output.apply]
                effects.append(Tell(self._machine, machines.Apply(runs), control=True))
            for token, index in output.reads:
                effects += self._query(token, index)
            for token in output.reads_failed:
                for pending in self._reads_pending.pop(token, ()):
                    if not pending.answered:
                        self._unaccept(pending)
            if output.changed:
                effects += self._on_changed(now)
        if self._is_system and self._summary.get("current") != self._is_current():
            effects += self._on_changed(now)
        if self._replies:
            effects.append(Replies(self._replies))
            self._replies = []
        if self._hand_backs:
            effects.append(HandBacks(self._hand_backs))
            self._hand_backs = []
        self._arm(effects)
        return effects

    def _arm(self, effects: list[object]) -> None:
        due = self.core.next_deadline()
        heap = self._deadlines
        while heap and heap[0][2].answered:
            heapq.heappop(heap)
        if heap and heap[0][0] < due:
            due = heap[0][0]
        if due != self._timer_ms:
            self._timer_ms = due
            effects.append(StartTimer("tick", due))

    def _propose(self, now: int) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        core = self.core
        if not core.is_leader:
            for each in gathered:
                for pending in each.messages:
                    if not pending.answered:
                        self._unaccept(pending)
            return
        time_ms, wall_ms = self._time_ms(now), self._wall_ms()
        first = core.next_index
        runs = []
        for each in gathered:
            run = encode_run(
                COMMAND, core.term, first, time_ms=time_ms, wall_ms=wall_ms, commands=each.commands
            )
            runs.append(run)
            self._appended[first] = each.messages
            self._requests[first] = each.requests
            for pending in each.messages:
                pending.appended = True
            self.counts["proposals"] += len(each.messages)
            self.counts["commands"] += run.count
            first += run.count
        core.step(Propose(runs), now)

    def _start_reads(self, now: int) -> None:
        reads, self._reads_gathered = self._reads_gathered, []
        self._read_token += 1
        self._reads_pending[self._read_token] = reads
        self.core.step(Read(self._read_token), now)

    def _query(self, token: int, index: int) -> list[object]:
        return [
            Tell(
                self._machine,
                machines.Query(
                    pending,
                    max(index, pending.min_index),
                    pending.reads,
                ),
                control=True,
            )
            for pending in self._reads_pending.pop(token, ())
            if not pending.answered
        ]

    def _on_changed(self, now: int) -> list[object]:
        """Role, term, leader or readiness is another: settle what hung on it, and report."""
        effects: list[object] = []
        leads = self.core.is_leader
        if leads and not self._led:
            self._led = True
            effects.append(Tell(self._machine, machines.Leadership(True, self.core.term), True))
        elif not leads and self._led:
            self._led = False
            self._step_down()
            effects.append(Tell(self._machine, machines.Leadership(False, self.core.term), True))
        summary = self.summary()
        if summary != self._summary:
            self._summary = summary
            effects.append(RoleChanged(self.group, summary))
        return effects

    def _step_down(self) -> None:
        payload = self._encoder.whole(
            self._leader_node(),
            protocol.NOT_LEADER,
            "the leader stepped down while the write was under way",
            maybe_applied=True,
        )
        appended, self._appended = self._appended, {}
        self._requests.clear()
        for messages in appended.values():
            for pending in messages:
                if not pending.answered:
                    self._finish(pending, payload)

    # ------------------------------------------------------------------ log time, runs of the core

    def _time_ms(self, now: int) -> int:
        """Log time of this moment; only while this replica leads, or is about to."""
        if self._time_term != self.core.term:
            self._time_term = self.core.term
            last = self.core.last_run()
            if last is not None:
                self._log_time_ms = max(self._log_time_ms, decode_run(last.body).time_ms)
            self._time_base_ms = self._log_time_ms - now
        return self._time_base_ms + now

    def _make_run(self, kind: int, term: int, first: int) -> Run:
        now = self._clock.now_ms()
        return encode_run(
            kind, term, first, time_ms=self._time_ms(now), wall_ms=self._wall_ms(), commands=[]
        )

    # ------------------------------------------------------------------ status

    def summary(self) -> dict[str, Any]:
        """What the router must know at once: who leads, and whether this replica may answer."""
        core = self.core
        state = "quarantined" if self._machine_error is not None else "running"
        return {
            "role": ROLE_NAMES[core.role],
            "term": core.term,
            "leader": self._leader_node(),
            "state": state,
            "current": self._is_current(),
            "error": self._machine_error,
        }

    def _is_current(self) -> bool:
        """Whether this replica has applied an entry of the present leader's term, and all it knows
        to be committed: then it may say that something does not exist."""
        core = self.core
        if core.is_leader:
            return core.can_serve and self._applied_index >= core.commit_index
        return (
            core.leader is not None
            and self._applied_index >= core.commit_index
            and core.log.term_at(core.commit_index) == core.term
        )

    def _on_describe(self, message: DescribeGroup) -> list[object]:
        return [Tell(self._machine, machines.Describe(message.key), control=True)]

    def _on_described(self, message: machines.Described) -> list[object]:
        core = self.core
        now = self._clock.now_ms()
        peers: Mapping[str, Any] = {
            peer.replica.node: {
                "match": peer.match,
                "lag": core.last_index - peer.match,
                "active_ms_ago": None if peer.active_ms is None else now - peer.active_ms,
            }
            for peer in core.progress()
        }
        digest = message.digest
        description = {
            **self.summary(),
            "id": self.group,
            "group": self.group_name,
            "machine": self.machine_kind,
            "members": [[each.node, each.incarnation] for each in self.members],
            "commit_index": core.commit_index,
            "applied_index": message.applied_index,
            "first_index": core.first_index,
            "last_index": core.last_index,
            "peers": peers if core.is_leader else {},
            "digest": None if digest is None else digest.hex(),
            "counts": dict(self.counts),
        }
        return [GroupDescribed(message.key, self.group, description)]


def _deadline_ms(now: int, remaining_ms: int, assumed_ms: int, longest_ms: int) -> int:
    """When a message is given up.

    The router measured ``remaining_ms`` for the first request, as if its time-out were
    ``assumed_ms``; what it spent is the age of all requests of the message alike.
    """
    age_ms = max(0, assumed_ms - remaining_ms)
    return now + longest_ms - age_ms


def _decimal(text: str) -> int:
    """A non-negative number of at most 64 bits, or -1."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1
    return number if number <= UINT64_MAX else -1


_ACCEPT: dict[type, Callable[[GroupActor, int, Any, int, int], None]] = {
    BadBatch: GroupActor._accept_bad,
    Writes: GroupActor._accept_writes,
    Reads: GroupActor._accept_reads,
    SessionOperation: GroupActor._accept_session,
    AdminOperation: GroupActor._accept_admin,
}
_ADMIN: dict[str, Callable[[GroupActor, Pending, AdminOperation], None]] = {
    "nodes": GroupActor._admin_read,
    "groups": GroupActor._admin_read,
    "createGroup": GroupActor._admin_create_group,
    "registerNode": GroupActor._admin_register_node,
}
