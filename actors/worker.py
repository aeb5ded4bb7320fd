"""A worker process: the groups of one slot, their shared WAL, and one link to the router.

::

    router link --frames--> mailboxes --turn--> effects --> one link frame, one WAL batch
         ^                                                        |          |
         +--------------------------------------------------------+      disk thread
                                                                  <--Persisted--+

**A round.**  What one read of the socket brought goes into the mailboxes; the scheduler runs a
turn; at its end the worker sends what the turn made as one frame per lane, *then* hands the
gathered batch to the disk thread, so peers work while our own disk does (they are told to
append before we have; what we *promise* waits for the disk inside the core).

**One unsynced batch.**  While the disk thread has one, the next gathers.  Its end is brought
back by ``call_soon_threadsafe`` and becomes a Persisted message for each group in it.

**Ending.**  A failed write or sync is final: the process stops at once, without answering
anything, and the supervisor starts another (pitfall 44).  So does the failure of a group actor:
its core can only be rebuilt from disk.  When the node process ends, the pipe that only it holds
ends too, and so do we.

No ZeroMQ here: a worker has no I/O thread and no TCP socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from actors import snapshot_files, snapshot_traffic, wire
from actors.catalog import SYSTEM_GROUP_ID
from actors.clock_watch import ClockWatch, boot_ms
from actors.describing import Describing
from actors.desired import CatalogTalk
from actors.disk import DiskThread
from actors.garbage import ShortCollections
from actors.group_messages import (
    AskCatalog,
    DiskRoom,
    Drain,
    GroupDescribed,
    HandBacks,
    PeerMessages,
    ReplicaRetired,
    Replies,
    Requests,
    RoleChanged,
    SaveLog,
    SendPeers,
    actor_name,
    machine_name,
)
from actors.hosting import Hosting
from actors.log_memory import LogReads, ReadLog
from actors.loop_timer import LoopTimer
from actors.machine import Emitted, RunRestore
from actors.machines import Machine
from actors.opening import when_unlocked
from actors.peer_messages import sort_messages
from actors.process import (
    EXIT_CRASH,
    end_by,
    end_process,
    end_with_parent,
    failure_in,
    share_memory_between_threads,
    start_logging,
)
from actors.replica import (
    Opened,
    Surroundings,
    begin_group,
    forget_snapshots,
    make_machine_of,
    open_replica,
    snapshot_store,
)
from actors.runtime import MonotonicClock, Scheduler
from actors.runtime.supervisor import CrashReport
from actors.settings import RETRY_AFTER_MS
from actors.snapshot_files import Pauses, SnapshotThreads
from actors.snapshot_traffic import SnapshotTraffic
from actors.space import DiskSpace, bytes_in
from actors.worker_arguments import WorkerArguments
from raft.messages import ClockAnomaly, LinkClosed, Persisted, Replica
from raft.store.errors import StoreError
from raft.store.files import Files
from raft.store.placement import PlacedGroup, Placement
from raft.store.snapshots import SnapshotStore
from raft.store.space import Room
from raft.store.wal import Batch, RecoveredGroup, Wal
from transport import links, peer_codec, protocol
from transport.frames import GATHER_BYTES_MAX, LANE_BULK, FrameError, pack_link, unpack_link
from transport.peer_codec import LANES

log = logging.getLogger("polyraft.worker")

WAL_BEHIND_BYTES_MAX = 256 << 20  # gathered and not yet written; then appends are dropped
ROUND_ITEMS_MAX = 1 << 16  # of one kind in one frame; a multiple of what an item has
ANSWERS_QUEUED_BYTES_MAX = 8 << 20  # bulk that waits for the router; then reads wait
TIMERS_EXACT_GROUPS_MAX = 8  # with more groups, timers go off in steps
DRAIN_MS_MAX = 2_000


class Worker:
    """One slot.  :meth:`run` returns when the worker has been asked to stop, and has."""

    def __init__(self, arguments: WorkerArguments, loop: asyncio.AbstractEventLoop) -> None:
        self._arguments = arguments
        self._loop = loop
        self._me = Replica(arguments.node, arguments.incarnation)
        self._files = Files()
        self._clock = MonotonicClock()
        self._epoch = secrets.randbits(64) | 1
        self._router_epoch = 0
        self._link: links.LinkProtocol | None = None
        self._stopping = False
        self._stopped = loop.create_future()
        self._timer = LoopTimer(loop, lambda: self._clock.now_ms(), self._on_timer)
        self._turn_asked = False
        self._threads = SnapshotThreads(self._post)
        self._collections = ShortCollections()
        self._clock_watch = ClockWatch(arguments.raft.heartbeat_ms)
        # What this turn made, until its end.
        self._control_out: list[Any] = []
        self._bulk_out: list[Any] = []
        self._bulk_out_bytes = 0
        self._replies_out: list[Any] = []
        self._hand_backs_out: list[Any] = []
        self._summaries_out: dict[int, dict[str, Any]] = {}
        self.counts = {
            "appends_dropped": 0,
            "bad_frames": 0,
            "bad_runs": 0,
            "unknown_group": 0,
            "refused_busy": 0,
        }
        self._scheduler = Scheduler(
            self._clock,
            wake=self._ask_for_turn,
            post=self._post,
            on_crash=self._on_crash,
        )
        self._scheduler.carry(SendPeers, self._carry_peers)
        self._scheduler.carry(SaveLog, self._carry_save)
        self._scheduler.carry(Replies, self._carry_replies)
        self._scheduler.carry(HandBacks, self._carry_hand_backs)
        self._scheduler.carry(RoleChanged, self._carry_role)
        self._scheduler.carry(ReplicaRetired, lambda effect, _: self._hosting.retire(effect))
        self._describing = Describing(
            self._scheduler, self._send_control, lambda: self._space.describe(self._wal)
        )
        self._scheduler.carry(GroupDescribed, self._describing.carry_described)
        self._talk = CatalogTalk(arguments.slot, self._scheduler, self._send_control)
        self._scheduler.carry(AskCatalog, self._talk.carry_question)
        self._scheduler.carry(Emitted, self._talk.carry_emitted)
        self._traffic = SnapshotTraffic(
            arguments.snapshots,
            arguments.raft,
            self._clock.now_ms,
            lambda group, news: self._scheduler.tell(actor_name(group), news, control=True),
            self._submit_snapshot,
        )
        for effect in (*snapshot_files.EFFECTS, *snapshot_traffic.EFFECTS):
            self._scheduler.carry(effect, lambda effect, _: self._traffic.carry(effect))
        self._scheduler.carry(ReadLog, lambda effect, _: self._log_reads.carry(effect))
        self._scheduler.carry(RunRestore, self._carry_restore)
        self._hosting = Hosting(arguments.slot, self._scheduler, self._traffic, self)
        self._groups = self._hosting.groups
        self._scheduler.on_turn_end(self._flush)
        self._frames = self._frame_table()

    def _frame_table(self) -> dict[int, Callable[[list[Any]], None]]:
        return {
            wire.WELCOME: self._on_welcome,
            wire.REQUESTS: self._on_requests,
            wire.PEER_IN: self._on_peer_in,
            wire.DESCRIBE: self._on_describe,
            wire.LINK_CLOSED: self._on_link_closed,
            wire.RELOAD: self._on_reload,
            wire.DRAIN: self._on_drain,
            wire.CATALOG_WANTED: lambda frame: self._talk.tell_catalog(),
            wire.DESIRED: self._talk.on_desired,
            wire.CATALOG_ANSWER: self._talk.on_answer,
        }

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        self._collections.start()
        self._open_wal()
        self._disk = DiskThread(self._on_disk_done, self._write, self._loop)
        self._space.start(self._post, self._on_room)
        self._load_groups()
        self._loop.add_signal_handler(signal.SIGTERM, self._stop)
        self._scheduler.run_turn()
        self._arm()
        connecting = self._loop.create_task(
            links.stay_connected(
                self._loop,
                self._arguments.router_socket,
                self._on_frames,
                self._on_connected,
                self._on_link_lost,
            )
        )
        await self._stopped
        # What is not on disk now was promised to nobody: the process may just end.
        connecting.cancel()
        if self._link is not None:
            self._link.close()

    def _open_wal(self) -> None:
        """Wait for the lock, then recover."""
        arguments = self._arguments
        directory = os.path.join(arguments.data, "wal", str(arguments.slot))
        self._space = DiskSpace(self._files, directory, arguments.disk, self._clock)

        def open_it() -> tuple[Wal, dict[int, RecoveredGroup]]:
            return Wal.open(
                self._files,
                directory,
                slot=arguments.slot,
                incarnation=arguments.incarnation,
                random_id=lambda: secrets.randbits(64),
                sync=arguments.sync,
            )

        self._wal, recovered = when_unlocked(
            lambda: self._space.open(open_it), arguments.slot, self._clock
        )
        self._hosting.start(self._wal, recovered)
        self._space.limit(self._wal, self._space.room)
        self._log_reads = LogReads(
            arguments.snapshots, self._wal, self._groups, self._scheduler, self._threads.submit
        )
        for loss in self._wal.damage:
            log.error("slot %d: %s", arguments.slot, loss)

    def _load_groups(self) -> None:
        """At the start: the node process may have renamed the placement, and not synced that yet.

        What was read had its name before this sync.  So a log that begins by it never has more in
        it, after a loss of power, than the placement.
        """
        placement = Placement.load(self._files, self._arguments.data)
        self._files.fsync_dir(self._arguments.data)
        self._take_placement(placement)

    def _take_placement(self, placement: Placement) -> None:
        self._hosting.load(placement)
        self._log_reads.share()

    # How the hosting makes and undoes what a group needs.

    def machine(self, group: int, placed: PlacedGroup) -> Machine:
        return make_machine_of(group, placed, self._arguments.machines)

    def begin(self, group: int, placed: PlacedGroup) -> RecoveredGroup:
        return begin_group(self._around, group, placed)

    def open(
        self, group: int, placed: PlacedGroup, recovered: RecoveredGroup, machine: Machine
    ) -> Opened:
        return open_replica(group, placed, recovered, machine, self._around)

    def on_opened(self, group: int) -> None:
        self._talk.on_opened(group)
        if self._space.refusal is not None:
            self._scheduler.tell(actor_name(group), DiskRoom(self._space.refusal), control=True)

    def on_stopped(self) -> None:
        self._collections.thaw()

    def on_left(self, group: int, life: int | None, store: SnapshotStore | None) -> None:
        around = self._around

        def work() -> None:
            forget_snapshots(
                group,
                store,
                lambda: snapshot_store(around, group),
                lambda: Placement.load(around.files, around.data),
            )

        self._threads.submit(work, lambda _: None, long=True)

    def show(self, group: int, summary: dict[str, Any]) -> None:
        self._summaries_out[group] = summary

    @property
    def _around(self) -> Surroundings:
        arguments = self._arguments
        return Surroundings(
            me=self._me,
            files=self._space.files_of_snapshots(arguments.data),
            data=arguments.data,
            client_address=arguments.client_address,
            clock=self._clock,
            raft=arguments.raft,
            snapshots=arguments.snapshots,
            machines=arguments.machines,
            may_answer=self._may_answer,
        )

    def _on_crash(self, report: CrashReport) -> None:
        log.critical("%s", report, exc_info=report.error)
        end_process(EXIT_CRASH)

    def _stop(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # ------------------------------------------------------------------ turns

    def _post(self, callback: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(callback)

    def _ask_for_turn(self) -> None:
        if not self._turn_asked:
            self._turn_asked = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_asked = False
        self._run_turn(by_timer=False)

    def _run_turn(self, *, by_timer: bool) -> None:
        if self._arguments.raft.lease_reads:
            self._watch_clocks()
        if by_timer:
            self._timer.passed()
        if self._scheduler.run_turn():
            self._ask_for_turn()
        self._arm()

    def _watch_clocks(self) -> None:
        """Before anything is served that rests on elapsed time (pitfalls 33 and 35)."""
        anomaly = self._clock_watch.look(self._clock.now_ms(), boot_ms(), self._timer.late_ms)
        if anomaly is not None:
            log.warning("slot %d: %s", self._arguments.slot, anomaly)
            for group in self._groups:
                self._scheduler.tell(actor_name(group), ClockAnomaly(), control=True)

    def _arm(self) -> None:
        many = len(self._groups) > TIMERS_EXACT_GROUPS_MAX
        self._timer.arm(self._scheduler.next_deadline(), in_steps=many)

    def _on_timer(self) -> None:
        self._run_turn(by_timer=True)

    def _flush(self) -> None:
        """The end of a turn: control first, then what must not wait for our disk, then the disk."""
        link = self._link
        if link is not None and self._router_epoch:
            self._flush_link(link)
        else:
            # Nobody to tell: peers resend, and clients were answered by the router's own end.
            # Summaries are kept: what changes between HELLO and WELCOME stands in neither.
            self._control_out.clear()
            self._bulk_out.clear()
            self._replies_out.clear()
            self._hand_backs_out.clear()
        self._bulk_out_bytes = 0
        self._write()

    def _flush_link(self, link: links.LinkProtocol) -> None:
        if self._summaries_out:
            rows = [[group, summary] for group, summary in self._summaries_out.items()]
            self._summaries_out = {}
            link.send(self._pack(wire.SUMMARIES, rows), control=True)
        if self._control_out:
            link.send(self._pack(wire.PEER_CONTROL, self._control_out), control=True)
            self._control_out = []
        if self._bulk_out or self._replies_out or self._hand_backs_out:
            frame = self._pack(wire.ROUND, self._bulk_out, self._replies_out, self._hand_backs_out)
            self._bulk_out = []
            self._replies_out = []
            self._hand_backs_out = []
            if not link.send(frame):
                # The router does not read; it learns that these outcomes are unknown.
                link.abort()

    def _pack(self, kind: int, *fields: Any) -> bytes:
        return pack_link(kind, self._epoch, self._router_epoch, *fields)

    def _send_control(self, kind: int, *fields: Any) -> None:
        """Lost without a router."""
        if self._link is not None and self._router_epoch:
            self._link.send(self._pack(kind, *fields), control=True)

    # ------------------------------------------------------------------ disk

    def _write(self) -> None:
        self._disk.beside(self._wal.tidy())
        batch = self._wal.take_batch()
        if batch is not None:
            self._hosting.births.on_batch_taken()
            self._space.sync_since_ms = self._clock.now_ms()
            self._disk.submit(batch)
            prepare = self._wal.prepare_next_segment()
            self._disk.beside(prepare and self._space.prepared(prepare))

    def _on_disk_done(self, batch: Batch, error: BaseException | None) -> None:
        if error is not None:
            # Final, whatever it was: what the disk holds is unknown now (pitfall 44).
            raise error
        self._space.sync_since_ms = None
        for group, number, term, index in self._wal.complete(batch):
            self._scheduler.tell(actor_name(group), Persisted(number, term, index), control=True)
        self._log_reads.on_batch_done()
        if self._hosting.births.on_batch_done():
            self._tell_replicas()
        self._write()

    def _on_room(self, room: Room) -> None:
        self._space.limit(self._wal, room)
        if self._space.take(room):
            log.warning("slot %d: %s", self._arguments.slot, self._space.refusal or "there is room")
            for group in self._groups:
                message = DiskRoom(self._space.refusal)
                self._scheduler.tell(actor_name(group), message, control=True)

    # ------------------------------------------------------------------ carriers

    def _carry_peers(self, effect: SendPeers, address: object) -> None:
        group = effect.group
        for message in effect.messages:
            node = message.to.node
            incarnation = peer_codec.header_incarnation(message.to)
            data = peer_codec.encode(message)
            if LANES[type(message)] == LANE_BULK:
                self._bulk_out += (node, incarnation, group, data)
                self._bulk_out_bytes += len(data)
                if self._bulk_out_bytes > GATHER_BYTES_MAX:
                    self._flush_bulk_early()
            else:
                self._control_out += (node, incarnation, group, data)

    def _flush_bulk_early(self) -> None:
        self._bulk_out_bytes = 0
        link = self._link
        if link is not None and self._router_epoch:
            self._flush_link(link)
        else:
            self._bulk_out.clear()
            self._replies_out.clear()
            self._hand_backs_out.clear()

    def _carry_save(self, effect: SaveLog, address: object) -> None:
        self._wal.save(effect.group, effect.save)

    def _carry_replies(self, effect: Replies, address: object) -> None:
        items = effect.items
        for at in range(0, len(items), 2):
            payload = items[at + 1]
            self._replies_out += (items[at], payload)
            self._bulk_out_bytes += len(payload)
            if self._bulk_out_bytes > GATHER_BYTES_MAX or len(self._replies_out) > ROUND_ITEMS_MAX:
                self._flush_bulk_early()

    def _carry_hand_backs(self, effect: HandBacks, address: object) -> None:
        items = effect.items
        for at in range(0, len(items), ROUND_ITEMS_MAX):
            self._hand_backs_out += items[at : at + ROUND_ITEMS_MAX]
            if len(self._hand_backs_out) >= ROUND_ITEMS_MAX:
                self._flush_bulk_early()

    def _may_answer(self) -> bool:
        return self._link is None or self._link.queued_bytes < ANSWERS_QUEUED_BYTES_MAX

    def _carry_role(self, effect: RoleChanged, address: object) -> None:
        self._summaries_out[effect.group] = effect.summary

    # ------------------------------------------------------------------ snapshots

    def _submit_snapshot(self, effect: Any) -> None:
        store, name = self._hosting.stores[effect.group], actor_name(effect.group)

        def work() -> object:
            return snapshot_files.carry_out(store, effect, Pauses())

        def on_done(result: object) -> None:
            if self._hosting.is_over(effect.group, store):
                return
            self._traffic.note_done(effect, result)
            if result is not None:
                self._scheduler.tell(name, result, control=True)

        self._threads.submit(work, on_done, long=type(effect) in snapshot_files.LONG)

    def _carry_restore(self, effect: RunRestore, address: object) -> None:
        store = self._hosting.stores[effect.group]

        def work() -> object:
            return snapshot_files.run_restore(effect)

        def on_done(result: object) -> None:
            if self._hosting.is_over(effect.group, store):
                return
            self._scheduler.tell(machine_name(effect.group), result, control=True)
            if effect.group == SYSTEM_GROUP_ID:
                # What it has brought, no entry has told of.
                self._talk.tell_catalog()

        self._threads.submit(work, on_done, long=True)

    # ------------------------------------------------------------------ the link

    def _on_connected(self, link: links.LinkProtocol) -> None:
        self._link = link
        self._router_epoch = 0
        rows = [[group, actor.summary()] for group, actor in self._groups.items()]
        rows += [[group, summary] for group, summary in self._hosting.broken.items()]
        self._summaries_out = {}
        link.send(
            self._pack(wire.HELLO, "worker", self._arguments.slot, os.getpid(), rows), control=True
        )

    def _on_link_lost(self, link: links.LinkProtocol, error: Exception | None) -> None:
        if link is self._link:
            self._link = None
            self._router_epoch = 0

    def _on_frames(self, link: links.LinkProtocol, frames: list[bytes]) -> None:
        for data in frames:
            try:
                frame = unpack_link(data)
            except FrameError as error:
                self.counts["bad_frames"] += 1
                log.error("a frame from the router does not parse: %s", error)
                continue
            kind, from_epoch, to_epoch = frame[:3]
            if to_epoch != self._epoch or (self._router_epoch not in (0, from_epoch)):
                self.counts["bad_frames"] += 1
                continue
            self._frames[kind](frame)

    def _on_welcome(self, frame: list[Any]) -> None:
        self._router_epoch = frame[1]
        self._ask_for_turn()
        self._tell_replicas()
        self._talk.tell_catalog()

    def _tell_replicas(self) -> None:
        rows = self._hosting.births.rows()
        if rows and self._link is not None and self._router_epoch:
            self._link.send(self._pack(wire.REPLICAS, rows), control=True)

    def _on_requests(self, frame: list[Any]) -> None:
        items = frame[3]
        by_group: dict[int, list[Any]] = {}
        for at in range(0, len(items), 5):
            token, group, remaining_ms, rights, batch = items[at : at + 5]
            by_group.setdefault(group, []).extend((token, remaining_ms, rights, batch))
        for group, requests in by_group.items():
            if not self._scheduler.tell(actor_name(group), Requests(requests)):
                self._refuse(group, requests[::4])

    def _refuse(self, group: int, tokens: list[int]) -> None:
        """The group is not here, or its mailbox is full; nothing was appended."""
        if group not in self._groups:
            self.counts["unknown_group"] += 1
            for token in tokens:
                self._hand_backs_out += (token, None, 0, "the group does not run here")
        else:
            self.counts["refused_busy"] += 1
            payload = protocol.encode_whole(
                protocol.BUSY, "the group's mailbox is full", retry_after_ms=RETRY_AFTER_MS
            )
            for token in tokens:
                self._replies_out += (token, payload)
        self._ask_for_turn()

    def _on_peer_in(self, frame: list[Any]) -> None:
        items = frame[3]
        control, bulk = sort_messages(items, self._me, self.counts)
        for group, messages in control.items():
            self._scheduler.tell(actor_name(group), PeerMessages(messages), control=True)
        if bulk and (
            self._wal.gathered_bytes > WAL_BEHIND_BYTES_MAX
            or (self._space.room.is_short and self._space.drops(bytes_in(items), self._wal))
        ):
            # Our disk is full, or far behind; the leader sends again what it does not hear of.
            self.counts["appends_dropped"] += sum(map(len, bulk.values()))
            return
        for group, messages in bulk.items():
            self._scheduler.tell(actor_name(group), PeerMessages(messages))

    def _on_link_closed(self, frame: list[Any]) -> None:
        for group in self._groups:
            self._scheduler.tell(actor_name(group), LinkClosed(frame[3]), control=True)

    def _on_reload(self, frame: list[Any]) -> None:
        # No sync: this is the loop, and what RELOAD is about was durable before it was sent.
        self._take_placement(Placement.load(self._files, self._arguments.data))
        self._tell_replicas()
        self._ask_for_turn()

    def _on_describe(self, frame: list[Any]) -> None:
        self._describing.ask(frame, self._groups, self._hosting.broken)

    def _on_drain(self, frame: list[Any]) -> None:
        """Accept nothing more; say so when what was accepted is answered and others lead, or the
        time is up."""
        if self._stopping:
            return
        self._stopping = True
        for group in self._groups:
            self._scheduler.tell(actor_name(group), Drain(), control=True)
        deadline_ms = self._clock.now_ms() + DRAIN_MS_MAX
        self._loop.call_soon(self._watch_drain, deadline_ms)

    def _watch_drain(self, deadline_ms: int) -> None:
        under_way = any(not actor.is_drained for actor in self._groups.values())
        if under_way and self._clock.now_ms() < deadline_ms:
            self._loop.call_later(0.01, self._watch_drain, deadline_ms)
            return
        if self._link is not None:
            self._link.send(self._pack(wire.DRAINED, self._arguments.slot), control=True)


def worker_process(arguments: WorkerArguments, said: Connection) -> None:
    """Entry point of a worker process; ``said`` takes its last words."""
    share_memory_between_threads()
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start_logging(arguments.log_level, f"{arguments.node} worker {arguments.slot}")
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    who = f"slot {arguments.slot}"
    # Poison may be met in any turn, before the disk thread's news of it arrives.
    loop.set_exception_handler(lambda _, context: end_by(failure_in(context), said, who))
    try:
        loop.run_until_complete(Worker(arguments, loop).run())
    except (StoreError, OSError) as error:
        end_by(error, said, who)
    end_process(0)
