"""The group actor: one replica of one group, between clients, peers, disk and machine.

It owns the consensus core (:mod:`raft.core`) and carries out, as effects, what the core wants
done.  It does no I/O and reads no clock but the injected ones, so production and simulation run
the same object.

**One turn.**  The scheduler hands over everything that has arrived (client messages, peer
messages, news from disk and machine); :meth:`GroupActor.end_turn` then proposes all gathered
commands as one run, starts one ReadIndex round for all gathered reads, and takes the core's
output once.  The effects keep the core's order.

**Bookkeeping of a write.**  ``_gathered`` (accepted, not yet in the log) -> ``_appended`` (by
first index of their run) -> answered when their run is applied, when the leader steps down
(NOT_LEADER, unknown) or when the deadline passes (TIMEOUT; unknown if it is in the log).  A message
never spans two runs.  While leadership is being transferred, commands stay gathered: they are
proposed if it fails, and handed back, to go to the new leader, if it succeeds.

**Reads** have a bookkeeping of their own (:mod:`actors.reads`).  Any replica serves STALE reads,
and linearizable ones if it is allowed to ask the leader for an index.

**Log time** advances on the leader by its own monotonic clock, from the highest that its log
holds; it stands still without a leader, so expiry may be late, never early.

Parts of it have files of their own: :mod:`actors.clients`, :mod:`actors.group_admin`,
:mod:`actors.reads`, :mod:`actors.snapshots`, :mod:`actors.backups`, :mod:`actors.rebuild`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from actors import machine as machines
from actors.backups import TIMER as BACKUPS_TIMER
from actors.backups import GroupBackups
from actors.catalog import SYSTEM_GROUP
from actors.clients import Clients, Gathered, Pending
from actors.group_admin import RIGHTS_NEEDED, GroupAdmin
from actors.group_description import describe
from actors.group_members import TIMER as MEMBERS_TIMER
from actors.group_messages import (
    BackupChunk,
    CatalogAnswered,
    DescribeGroup,
    DesiredMembers,
    DiskRoom,
    Drain,
    GroupDescribed,
    PeerMessages,
    ReplicaRetired,
    Requests,
    RoleChanged,
    SaveLog,
    SendPeers,
    SpareFound,
    UploadStored,
    actor_name,
    machine_name,
)
from actors.log_memory import GroupLogMemory
from actors.machine import WRITE_TAG
from actors.machines import WriteRequest
from actors.reads import GroupReads
from actors.rebuild import TIMER as REBUILD_TIMER
from actors.rebuild import GroupRebuild
from actors.runtime import Actor, Clock, Effects, StartTimer, Stop, Tell, TimerFired
from actors.settings import GROUP_UNCOMMITTED_BYTES_MAX, SnapshotSettings
from actors.snapshots import TIMERS as SNAPSHOT_TIMERS
from actors.snapshots import GroupSnapshots
from raft.configuration import Configuration, UnknownPart
from raft.core import Core
from raft.errors import Contradiction
from raft.messages import (
    COMMAND,
    CONFIG,
    ChunkStored,
    ClockAnomaly,
    LinkClosed,
    Output,
    Persisted,
    Propose,
    Run,
    SnapshotReceived,
    Tick,
)
from raft.roles import ROLE_NAMES
from raft.store.errors import DamagedRun
from raft.store.runs import decode_run, encode_configuration_run, encode_run
from transport import protocol
from transport.frames import BODY_ADMIN, BODY_READ, peek
from transport.protocol import AdminOperation, BadBatch, Reads, SessionOperation, Writes

RUN_BYTES_MAX = 1 << 20  # of commands in one run; a larger message has a run of its own
EARLY_READS_MAX = 4_096  # reads that wait for an index which is not in the log yet: then BUSY
PENDING_MESSAGES_MAX = 200_000  # client messages without an answer in one group: then BUSY
COMMAND_OVERHEAD_BYTES = 16  # of the array around each command in a run

MakeRun = Callable[..., Run]  # as the core calls it


class GroupActor(Actor):
    """One replica of one group.

    ``core`` is built by the worker from what the disk holds; ``client_address`` is this node's
    client address, told to clients while this replica leads. ``first_token`` is drawn anew in each
    life: an answer to a read of an earlier one must find nobody.
    """

    def __init__(
        self,
        *,
        group: int,
        name: str,
        machine_kind: str,
        core_factory: Callable[[MakeRun], Core],
        clock: Clock,
        wall_ms: Callable[[], int],
        client_address: str,
        snapshots: SnapshotSettings | None = None,
        first_token: int = 0,
    ) -> None:
        super().__init__(actor_name(group))
        self.group = group
        self.group_name = name
        self.machine_kind = machine_kind
        self.is_system = name == SYSTEM_GROUP
        self._machine = machine_name(group)
        self._clock = clock
        self._wall_ms = wall_ms
        self._log_time_ms = 0  # highest seen in the log
        self._time_term = -1  # the term in which log time was begun here as leader
        self._time_base_ms = 0  # log time minus this clock, in that term
        self._gathered: list[Gathered] = []
        self._gathered_bytes = 0
        self._appended: dict[int, list[Pending]] = {}
        self._requests: dict[int, list[WriteRequest]] = {}  # parsed; of our runs, until handed out
        self._timer_ms: int | None = None
        self._draining = False
        self._machine_error: str | None = None
        self._disk_full: str | None = None  # why no writes are taken
        self._applied_index = 0
        self._summary: dict[str, Any] = {}
        self.counts = {"proposals": 0, "commands": 0, "reads": 0, "timeouts": 0, "busy": 0}
        self.core = core_factory(self._make_run)
        self.clients = Clients(self.core, client_address)
        self.reads = GroupReads(self.core, self.clients, clock, self._machine, first_token)
        settings = snapshots or SnapshotSettings()
        self.snapshots = GroupSnapshots(group, self.core, self.clients, settings, clock)
        self.log_memory = GroupLogMemory(group, self.core, settings, clock)
        self.rebuild = GroupRebuild(self)
        self.backups = GroupBackups(self)
        self.admin = GroupAdmin(self)
        self._led = False
        self._is_retired = False
        self._is_stirred = True  # something came in this turn that the core may have output for
        self._table: dict[type, Callable[[Any], list[object] | None]] = {
            Requests: self._on_requests,
            PeerMessages: self._on_peer_messages,
            Persisted: self._on_persisted,
            machines.Applied: self._on_applied,
            machines.Answered: self.reads.on_answered,
            machines.Described: self._on_described,
            machines.Quarantined: self._on_quarantined,
            machines.Restored: self._on_restored,
            machines.Rebuilt: self._on_rebuilt,
            **self.snapshots.table,
            **self.log_memory.table,
            BackupChunk: self.backups.on_chunk,
            UploadStored: self.admin.uploading.on_stored,
            ChunkStored: self.rebuild.on_stored,
            SnapshotReceived: self.rebuild.on_stored,
            SpareFound: self.rebuild.on_spare_found,
            TimerFired: self._on_timer,
            LinkClosed: self._on_link_closed,
            ClockAnomaly: self._on_clock_anomaly,
            DescribeGroup: self._on_describe,
            Drain: self._on_drain,
            DiskRoom: self._on_disk_room,
            DesiredMembers: self.admin.members.on_desired,
            CatalogAnswered: self.admin.members.on_answered,
        }

    def on_start(self) -> Effects:
        self.log_memory.keep_within()
        return self.snapshots.on_start() + self.end_turn()

    def handle(self, message: object) -> Effects:
        if self._is_retired:
            return None
        kind = type(message)
        if kind is not machines.Applied:
            self._is_stirred = True
        return self._table[kind](message)

    def now_ms(self) -> int:
        return self._clock.now_ms()

    @property
    def pending_count(self) -> int:
        """Client messages that were accepted and are not answered yet."""
        return self.clients.pending_count

    @property
    def machine_error(self) -> str | None:
        return self._machine_error

    @property
    def applied_index(self) -> int:
        return self._applied_index

    @property
    def is_drained(self) -> bool:
        """Nothing is under way, and leadership is not about to go to somebody else."""
        return not self.clients.pending_count and not self.admin.hands_over

    # ------------------------------------------------------------------ requests

    def _on_requests(self, message: Requests) -> None:
        items = message.items
        now = self._clock.now_ms()
        leads = self.core.is_leader
        for at in range(0, len(items), 4):
            token, remaining_ms, rights, batch = items[at : at + 4]
            if not leads and (self._draining or peek(batch)[0] not in _BODIES_ELSEWHERE):
                self.clients.hand_back(token)
            elif self._draining:
                text = "the node is shutting down"
                self.clients.refuse(token, protocol.SHUTTING_DOWN, text)
            else:
                self._accept(token, remaining_ms, rights, batch, now)

    def _accept(self, token: int, remaining_ms: int, rights: int, batch: bytes, now: int) -> None:
        decoded = protocol.decode_batch(self.group_name, batch)
        if self.clients.pending_count >= PENDING_MESSAGES_MAX:
            self.counts["busy"] += 1
            self.clients.refuse(token, protocol.BUSY, "too many messages wait in this group")
            return
        needed = RIGHTS_NEEDED.get(getattr(decoded, "command", ""), 0)
        if needed & ~rights:
            self.clients.refuse(token, protocol.FORBIDDEN, "this command is for nodes alone")
            return
        accept = _ACCEPT if self.core.is_leader else _ACCEPT_ELSEWHERE
        handler = accept.get(type(decoded))
        if handler is None:
            self.clients.hand_back(token)
            return
        handler(self, token, decoded, now, remaining_ms)

    def _accept_bad(self, token: int, decoded: BadBatch, now: int, remaining_ms: int) -> None:
        self.clients.refuse(token, protocol.BAD_REQUEST, decoded.reason)

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
            self.clients.refuse(token, *refusal)
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
        if self._disk_full is not None:
            return protocol.READ_ONLY, self._disk_full
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

    def gather_write(self, pending: Pending, request: protocol.WriteRequest) -> None:
        """One write of our own making, for a message that is not admitted yet."""
        raw = request.SerializeToString()
        size_bytes = len(raw) + COMMAND_OVERHEAD_BYTES
        refusal = self._append_refusal(size_bytes)
        if refusal is not None:
            self.clients.refuse(pending.token, *refusal)
            return
        self._gather(pending, [(0, 0, 0, WRITE_TAG + raw)], [request], size_bytes)

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
        self.clients.admit(pending)

    def _accept_reads(self, token: int, decoded: Reads, now: int, remaining_ms: int) -> None:
        reads = decoded.requests
        deadline_ms = _deadline_ms(now, remaining_ms, reads[0].timeout_ms, decoded.timeout_ms)
        early = decoded.min_index > self.core.last_index
        if early and self.clients.early_count >= EARLY_READS_MAX:
            self.counts["busy"] += 1
            self.clients.refuse(token, protocol.BUSY, "too many reads wait for writes to come")
            return
        pending = Pending(token, deadline_ms, min_index=decoded.min_index, early=early)
        self.gather_reads(pending, [each.request for each in reads], decoded.consistency)

    def _accept_reads_elsewhere(
        self, token: int, decoded: Reads, now: int, remaining_ms: int
    ) -> None:
        core = self.core
        asks_leader = core.settings.follower_reads and core.leader is not None
        if decoded.consistency == protocol.STALE or asks_leader:
            self._accept_reads(token, decoded, now, remaining_ms)
        else:
            self.clients.hand_back(token)

    def gather_reads(self, pending: Pending, requests: list[Any], consistency: int) -> None:
        """Reads of a message that is not admitted yet."""
        self.counts["reads"] += len(requests)
        self.reads.gather(pending, requests, consistency)

    def _accept_session(
        self, token: int, decoded: SessionOperation, now: int, remaining_ms: int
    ) -> None:
        text = "sessions are not available in this version"
        self.clients.refuse(token, protocol.BAD_REQUEST, text)

    def _accept_admin(
        self, token: int, decoded: AdminOperation, now: int, remaining_ms: int
    ) -> None:
        assumed_ms = decoded.timeout_ms
        if remaining_ms > assumed_ms:
            # No time-out was given: the router assumes the longer default, not knowing the command.
            assumed_ms = protocol.default_timeout_ms(BODY_ADMIN)
        deadline_ms = _deadline_ms(now, remaining_ms, assumed_ms, decoded.timeout_ms)
        self.admin.accept(Pending(token, deadline_ms), decoded)

    # ------------------------------------------------------------------ peers, disk, time

    def _on_peer_messages(self, message: PeerMessages) -> list[object] | None:
        now = self._clock.now_ms()
        step = self.core.step
        try:
            for each in message.messages:
                step(each, now)
        except (Contradiction, UnknownPart, DamagedRun) as error:
            return self._retire(error)
        return None

    def _on_persisted(self, message: Persisted) -> None:
        self.core.step(message, self._clock.now_ms())
        self.snapshots.on_persisted(message.number)

    def _on_link_closed(self, message: LinkClosed) -> None:
        self.core.step(message, self._clock.now_ms())

    def _on_clock_anomaly(self, message: ClockAnomaly) -> None:
        self.core.step(message, self._clock.now_ms())

    def _on_timer(self, message: TimerFired) -> list[object] | None:
        if message.key in SNAPSHOT_TIMERS:
            return self.snapshots.on_timer(message.key)
        if message.key == REBUILD_TIMER:
            return self.rebuild.on_timer() + self._on_changed()
        if message.key == BACKUPS_TIMER:
            self.backups.on_timer()
            return None
        if message.key == MEMBERS_TIMER:
            self.admin.members.on_timer()
            return None
        self._timer_ms = None
        now = self._clock.now_ms()
        if self.core.next_deadline() <= now:
            self.core.step(Tick(), now)
        self.counts["timeouts"] += self.clients.expire(now)
        return None

    def _on_drain(self, message: Drain) -> None:
        self._draining = True

    def _on_disk_room(self, message: DiskRoom) -> list[object]:
        self._disk_full = message.refusal
        return self._on_changed()

    def _retire(self, error: Exception) -> list[object]:
        """Stop for good: what others say cannot be borne here.

        Nothing of this turn leaves, nor does anything after it: the core may have taken half of a
        message in.
        """
        self._is_retired = True
        state = "damaged" if isinstance(error, Contradiction) else "down"
        return [ReplicaRetired(self.group, state, str(error)), Stop(str(error))]

    # ------------------------------------------------------------------ the machine's news

    def _on_applied(self, message: machines.Applied) -> None:
        self._applied_index = message.last
        self._log_time_ms = max(self._log_time_ms, message.time_ms)
        self.log_memory.note_applied(message.first)
        for pending in self._appended.pop(message.first, ()):
            if not pending.answered:
                self.clients.finish_writes(pending, message.first, message.responses)

    def _on_quarantined(self, message: machines.Quarantined) -> list[object]:
        self._machine_error = message.error
        self._refuse_gathered()
        appended, self._appended = self._appended, {}
        self._requests.clear()
        text = f"the machine is quarantined: {message.error}"
        for messages in appended.values():
            self.clients.finish_all(messages, protocol.INTERNAL, text, maybe_applied=True)
        self.snapshots.note_machine_failed(message.failed)
        return self.rebuild.on_quarantined(message) + self._on_changed()

    def _refuse_gathered(self) -> None:
        """Commands that are not in the log yet: nobody would ever apply and answer them."""
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        text = f"the machine is quarantined: {self._machine_error}"
        for each in gathered:
            self.clients.finish_all(each.messages, protocol.READ_ONLY, text, maybe_applied=False)

    def _on_restored(self, message: machines.Restored) -> list[object]:
        """The machine is the snapshot's; whatever was wrong with it is gone with its state."""
        self._machine_error = None
        self._applied_index = max(self._applied_index, message.meta.index)
        self.log_memory.note_state(message.meta.index)
        self.snapshots.on_restored(message)
        self.rebuild.on_well(message.meta)
        return self._on_changed()

    def _on_rebuilt(self, message: machines.Rebuilt) -> list[object]:
        self._machine_error = None
        self._applied_index = message.index
        self.log_memory.note_state(message.index)
        if message.snapshot is None:
            self.snapshots.note_well()
        else:
            self.snapshots.on_restored(machines.Restored(message.snapshot))
        self.rebuild.on_well(message.snapshot)
        return self._on_changed()

    # ------------------------------------------------------------------ the turn's end

    def end_turn(self) -> list[object]:
        if self._is_retired:
            return []
        if not self._is_stirred and not self._looks_at_applied:
            # News of the machine alone change nothing in the core, and make no deadline earlier.
            answers: list[object] = []
            self.clients.take_out(answers)
            return answers
        self._is_stirred = False
        core = self.core
        now = self._clock.now_ms()
        if self.reads.is_dirty:
            self.reads.start(now)
        if self._draining or self._machine_error is not None or self._disk_full is not None:
            self._maybe_offer_leadership()
        effects: list[object] = self.rebuild.end_turn() if self.rebuild.is_dirty else []
        while True:
            if self._gathered and not self._holds_commands:
                self._propose(now)
            # Taking output can make more, and end what commands were held for.
            output = core.take_output()
            if output is None:
                break
            self._carry_out(output, effects)
        if self.backups.is_dirty:
            effects += self.backups.end_turn()
        if self.snapshots.is_dirty:
            effects += self.snapshots.end_turn()
        if self.admin.members.is_dirty:
            effects += self.admin.members.take_effects()
        if self.is_system and self._summary.get("current") != self._is_current():
            effects += self._on_changed()
        self.clients.take_out(effects)
        self._arm(effects)
        return effects

    @property
    def _looks_at_applied(self) -> bool:
        """Whether the end of the turn has more to do when runs are applied than to answer."""
        return (
            self.is_system
            or self._draining
            or self._machine_error is not None
            or self._disk_full is not None
            or self.backups.is_dirty
        )

    @property
    def _holds_commands(self) -> bool:
        """Leadership is on its way: from the moment the core takes none until somebody leads."""
        core = self.core
        return core.is_transferring or (self.admin.awaits_transfer and not core.is_leader)

    def _carry_out(self, output: Output, effects: list[object]) -> None:
        """In the order of the fields."""
        if output.messages:
            effects.append(SendPeers(self.group, output.messages))
        if output.save is not None:
            effects.append(SaveLog(self.group, output.save))
            self.snapshots.note_save(output.save)
        if output.restore is not None:
            effects += self.snapshots.restore(output.restore)
        if output.apply:
            apply = self.log_memory.hand_out(output.apply, self._requests)
            effects.append(Tell(self._machine, apply, control=True))
            effects += self.snapshots.note_handed(output.apply)
            self.log_memory.keep_within()
        if output.read_runs:
            effects += self.log_memory.read(output.read_runs)
        if output.send_chunks:
            effects += self.snapshots.send(output.send_chunks)
        if output.take_snapshot and self._machine_error is None:
            effects += self.snapshots.take_for_peer()
        if output.received:
            effects += self.snapshots.receive(output.received)
        for token, index in output.reads:
            effects += self.reads.query(token, index)
        for token in output.reads_failed:
            self.reads.fail(token)
        for decision in output.decisions:
            self.admin.on_decision(decision)
        if output.changed or output.restore is not None:
            effects += self._on_changed()

    def _arm(self, effects: list[object]) -> None:
        due_ms = self.core.next_deadline()
        clients_due_ms = self.clients.next_deadline()
        if clients_due_ms is not None and clients_due_ms < due_ms:
            due_ms = clients_due_ms
        # A later one needs no timer of its own: the earlier one looks again when it goes off.
        if self._timer_ms is None or due_ms < self._timer_ms:
            self._timer_ms = due_ms
            effects.append(StartTimer("tick", due_ms))

    def _propose(self, now: int) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        core = self.core
        if not core.is_leader:
            for each in gathered:
                for pending in each.messages:
                    if not pending.answered:
                        self.clients.unaccept(pending)
            return
        if self.clients.withdrawn:
            self.clients.withdrawn = False
            left = [each.without_answered() for each in gathered]
            gathered = [each for each in left if each.messages]
            if not gathered:
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

    def _maybe_offer_leadership(self) -> None:
        """To somebody who can serve: this node stops, its machine is quarantined, its disk full."""
        if not self.core.is_leader or (self._draining and self._appended):
            return  # writes that are in the log are answered first
        self.admin.offer_leadership(stopping=self._draining)

    def _on_changed(self) -> list[object]:
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
        self.admin.members.look()
        summary = self.summary()
        if summary != self._summary:
            self._summary = summary
            effects.append(RoleChanged(self.group, summary))
        return effects

    def _step_down(self) -> None:
        appended, self._appended = self._appended, {}
        self._requests.clear()
        text = "the leader stepped down while the write was under way"
        for messages in appended.values():
            self.clients.finish_all(messages, protocol.NOT_LEADER, text, maybe_applied=True)

    # ------------------------------------------------------------------ log time, runs of the core

    def _time_ms(self, now: int) -> int:
        """Log time of this moment; only while this replica leads, or is about to."""
        if self._time_term != self.core.term:
            self._time_term = self.core.term
            last, snapshot = self.core.last_run(), self.core.snapshot
            if snapshot is not None:
                self._log_time_ms = max(self._log_time_ms, snapshot.time_ms)
            if last is not None:
                self._log_time_ms = max(self._log_time_ms, decode_run(last.body).time_ms)
            self._time_base_ms = self._log_time_ms - now
        return self._time_base_ms + now

    def _make_run(
        self, kind: int, term: int, first: int, configuration: Configuration | None = None
    ) -> Run:
        now = self._clock.now_ms()
        time_ms, wall_ms = self._time_ms(now), self._wall_ms()
        if configuration is not None:
            assert kind == CONFIG
            return encode_configuration_run(term, first, configuration, time_ms, wall_ms)
        return encode_run(kind, term, first, time_ms=time_ms, wall_ms=wall_ms, commands=[])

    # ------------------------------------------------------------------ status

    @property
    def _state(self) -> str:
        if self._machine_error is not None:
            return "quarantined"
        if self._disk_full is not None:
            return "read_only"
        return "starting" if self.snapshots.is_restoring(self._applied_index) else "running"

    def summary(self) -> dict[str, Any]:
        """What the router must know at once: who leads, and whether this replica may answer."""
        core = self.core
        return {
            "role": ROLE_NAMES[core.role],
            "term": core.term,
            "leader": self.clients.leader_node,
            "state": self._state,
            "current": self._is_current(),
            "error": self.rebuild.error or self._disk_full,
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
        description = describe(self, message.applied_index, message.digest)
        return [GroupDescribed(message.key, self.group, description)]


def _deadline_ms(now: int, remaining_ms: int, assumed_ms: int, longest_ms: int) -> int:
    """When a message is given up.

    The router measured ``remaining_ms`` for the first request, as if its time-out were
    ``assumed_ms``; what it spent is the age of all requests of the message alike.
    """
    age_ms = max(0, assumed_ms - remaining_ms)
    return now + longest_ms - age_ms


_ACCEPT: dict[type, Callable[[GroupActor, int, Any, int, int], None]] = {
    BadBatch: GroupActor._accept_bad,
    Writes: GroupActor._accept_writes,
    Reads: GroupActor._accept_reads,
    SessionOperation: GroupActor._accept_session,
    AdminOperation: GroupActor._accept_admin,
}
# On a replica that does not lead; what is missing here is handed back.
_ACCEPT_ELSEWHERE: dict[type, Callable[[GroupActor, int, Any, int, int], None]] = {
    BadBatch: GroupActor._accept_bad,
    Reads: GroupActor._accept_reads_elsewhere,
    AdminOperation: GroupActor._accept_admin,
}
# Only these are looked into there: handing back must stay cheap.
_BODIES_ELSEWHERE = frozenset((BODY_READ, BODY_ADMIN))
