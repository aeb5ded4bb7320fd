"""A worker process of the simulation: the groups of one slot, their log, and how it dies.

Real are the group actors and their cores, the machines, the scheduler, the WAL and the codec of
peers.  What :mod:`actors.worker` does with sockets, threads and the loop is done here with events,
in the same order: a turn handles what has arrived; at its end the messages for control leave, then
bulk and answers, *then* the gathered batch begins; one batch is unsynced at most.

**Dying.**  A process can end between any two effects that it carries out: the carriers and the
steps of the flush count down, and at zero :class:`ProcessDied` leaves the turn.  What it had told
others by then is told; its memory is gone.  A batch under way has reached the page cache or not,
and what becomes of *that* when the power fails is up to :class:`~raft.store.memory.MemoryFiles`.
So it is with work on snapshot files, which in a worker is done by threads of its own.

Everything that is scheduled for a process names its ``life``, and finds out by it that the process
is another one by now.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from actors import snapshot_files, snapshot_traffic
from actors.clock_watch import ClockWatch
from actors.desired import CatalogTalk
from actors.group_messages import (
    AskCatalog,
    ChunkRead,
    DiskRoom,
    Drain,
    GroupDescribed,
    HandBacks,
    PeerMessages,
    ReceivedChecked,
    ReplicaRetired,
    Replies,
    Requests,
    RoleChanged,
    SaveLog,
    SendPeers,
    SnapshotWritten,
    actor_name,
    machine_name,
)
from actors.hosting import Hosting
from actors.log_memory import LogReads, ReadLog
from actors.machine import Emitted, RunRestore
from actors.settings import DiskSettings
from actors.snapshot_traffic import SnapshotTraffic
from raft import invariants
from raft.messages import (
    Append,
    ChunkStored,
    ClockAnomaly,
    LinkClosed,
    PeerMessage,
    Persisted,
    Replica,
    SnapshotLost,
    SnapshotMeta,
)
from raft.store.errors import StoreError, UnknownFormat, WalDamaged, WalPoisoned
from raft.store.incoming import RECEIVING
from raft.store.placement import LEFT
from raft.store.runs import check_run
from raft.store.snapshots import SUFFIX, snapshot_name
from raft.store.wal import Batch, RecoveredGroup, Wal
from tests.sim.checkers import GroupChecker, Seen
from tests.sim.clock import ProcessClock
from tests.sim.machines import (
    MachineScheduler,
    Run,
    Troubles,
    WatchedMachine,
)
from tests.sim.plan import GroupPlan
from tests.sim.slot_files import SlotFiles
from tests.sim.slot_groups import SlotGroups
from tests.sim.slot_parts import (
    BY_HAND,
    COUNTS,
    DIRECTORY,
    DRAIN_MS_MAX,
    LONG_WORK_FACTOR,
    LONG_WORK_US_MAX,
    LOOK_US,
    RESERVE_SEGMENTS,
    RESTART_MS,
    RETRY_MS,
    SEGMENT_GROWTH,
    SOFT_LIMIT_SEGMENTS,
    ProcessDied,
    Saved,
    SlotSpace,
    Thread,
    Work,
    bytes_of,
    end_somewhere,
    has_decayed,
    raise_it,
    snapshot_paths,
    snapshots_of,
)
from tests.sim.watched import WatchedCore, WatchedGroup, looks_of
from tests.sim.world import MS, draw_us
from transport import peer_codec
from transport.frames import LANE_BULK, LANE_CONTROL

if TYPE_CHECKING:
    from tests.sim.host import Host


class Slot:
    """One life after another of one worker process.

    ``is_lost``: its disk is not to be used again, and its replicas are gone for good.
    ``is_flipped``: something on it decayed, and nobody has read it since.  ``condemned``: groups
    whose log is lost, in which life of this disk and why, until the next one begins.
    """

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.world = host.world
        self.number = number
        self.where = f"{host.name}.{number}"
        self.files = SlotFiles(recording=False)
        self.rng: random.Random = host.world.stream(f"slot/{self.where}")
        self.life = 0
        self.is_up = False
        self.is_lost = False
        self.is_flipped = False
        self.dies_after: int | None = None  # so many effects
        self.dies_at_chunk: int | None = None  # of a snapshot, so many from now
        self.disk_free_us = 0  # before that the disk finishes nothing
        self.busy_until_us = 0  # it gets no time before
        self.disk_factor = 1  # how much slower it is than usual
        self.troubles = Troubles()  # of its machines
        self.clock = ProcessClock(host.clock)
        self._digested: dict[int, int] = {}  # group -> applied index at the last look
        self.condemned: dict[int, tuple[int, str]] = {}
        # Saves in no batch, those of the batch under way, and those of one that was under way when
        # the last life ended.
        self._gathered: list[Saved] = []
        self._under_way: list[Saved] = []
        self.unproven: list[Saved] = []
        self._batch: Batch | None = None
        self._threads = (Thread(), Thread())  # for short and for long work on snapshot files
        self.traffic = self._make_traffic()
        self._carriers: tuple[tuple[type, Callable[[Any, Any], None]], ...] = (
            (SendPeers, self._carry_peers),
            (SaveLog, self._carry_save),
            (Replies, self._carry_replies),
            (HandBacks, self._carry_hand_backs),
            (RoleChanged, self._carry_role),
            (ReplicaRetired, self._carry_retired),
            (GroupDescribed, self._carry_nothing),
            (Emitted, self._carry_nothing),
            (AskCatalog, self._carry_question),
            (RunRestore, self._carry_restore),
            (ReadLog, self._carry_log_read),
            *(
                (effect, self._carry_work)
                for effect in (*snapshot_files.EFFECTS, *snapshot_traffic.EFFECTS)
            ),
        )
        self.counts = dict.fromkeys(COUNTS, 0)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Recover and run; try again later if the disk does not let us."""
        assert not self.is_up
        assert not self.is_lost
        self.life += 1
        found = self._open_disk()
        if found is None:
            return
        self.is_up = True
        self.counts["starts"] += 1
        self.dies_after = None
        self._batch = None
        self._gathered, self._under_way = [], []
        self._threads = (Thread(), Thread())
        self.traffic = self._make_traffic()
        self._turn_asked = False
        self._drain_until_us: int | None = None
        self.busy_until_us = 0
        self._timer_us: int | None = None
        self._timer_due_ms: int | None = None
        self._clear_out()
        self.clock = ProcessClock(self.host.clock)
        self._clock_watch = ClockWatch(self.host.plan.settings.heartbeat_ms)
        self.scheduler = MachineScheduler(
            self.clock,
            wake=self._ask_for_turn,
            on_crash=raise_it,
            stopwatch_ns=lambda: 0,
            random=self.rng if self.host.plan.shuffles else None,
        )
        self.scheduler.start_job, self.scheduler.thread_clocks = self._start_job, {}
        for effect, carrier in self._carriers:
            self.scheduler.carry(effect, carrier)
        self.scheduler.on_turn_end(self._flush)
        self._digested = {}
        self.making = SlotGroups(self)
        self.hosting = Hosting(self.number, self.scheduler, self.traffic, self.making)
        self._talk = CatalogTalk(self.number, self.scheduler, self._ask_catalog)
        self.log_reads = LogReads(
            self.host.plan.snapshots,
            self._wal,
            self.hosting.groups,
            self.scheduler,
            self._submit_log_read,
        )
        for group in self.plans:
            self._condemn(group, found)
        self.hosting.start(self._wal, found)
        self._load()
        self.unproven = []
        self.is_flipped = False  # it was read, and judged
        self.world.note(self.where, "starts")
        self.host.on_slot_up(self)
        self.world.after(LOOK_US, self._look, self.life)
        self._ask_for_turn()

    def _open_disk(self) -> dict[int, RecoveredGroup] | None:
        segment_bytes = self.host.plan.segment_bytes
        settings = DiskSettings(
            SOFT_LIMIT_SEGMENTS * segment_bytes, RESERVE_SEGMENTS * segment_bytes
        )
        self.space = SlotSpace(
            self.files, DIRECTORY, settings, ProcessClock(self.host.clock), segment_bytes
        )
        try:
            self._wal, found = self.space.open(
                lambda: Wal.open(
                    self.files,
                    DIRECTORY,
                    slot=self.number,
                    incarnation=self.host.me.incarnation,
                    random_id=lambda: self.rng.randrange(1, 1 << 64),
                    segment_bytes_first=segment_bytes,
                    segment_bytes_max=SEGMENT_GROWTH * segment_bytes,
                    copy_bytes_max=segment_bytes // 2,
                )
            )
        except (WalDamaged, UnknownFormat) as error:
            if not self.is_flipped:
                raise AssertionError(f"{self.where} takes a good disk for damaged") from error
            self.lose(f"its disk is damaged: {error}")
            return None
        except (StoreError, OSError) as error:
            self.world.note(self.where, f"cannot start: {error}")
            self.files.kill()
            self._restart_after(RETRY_MS)
            return None
        self.space.limit(self._wal, self.space.room)
        return found

    def _load(self) -> None:
        """What the placement says by now; and what the node process has to know."""
        self.hosting.load(self.host.node.placement)
        self.log_reads.share()
        self.host.node.on_replicas(self.hosting.births.rows())

    def reload(self) -> None:
        if self.is_up:
            self._load()
            self._ask_for_turn()

    def take_desired(self, rows: list[list[Any]]) -> None:
        if self.is_up:
            self._talk.on_desired([None, None, None, rows])

    @property
    def plans(self) -> dict[int, GroupPlan]:
        """Of the groups that are placed here."""
        placed = self.host.node.placement.in_slot(self.number)
        plan = self.host.plan.group
        return {group: plan(group) for group, each in placed.items() if LEFT not in each.options}

    @property
    def groups(self) -> dict[int, WatchedGroup]:
        """That run, in the present life or the last one."""
        return cast(dict[int, WatchedGroup], self.hosting.groups)

    @property
    def machines(self) -> dict[int, WatchedMachine]:
        return self.making.machines

    def condemn(self, groups: Collection[int], *, whole: bool) -> None:
        """Their log is lost: damaged, or, of all groups of the ``whole`` slot, gone."""
        assert not self.is_up
        placed = self.host.node.placement.groups
        for group in groups:
            self.condemned[group] = placed[group].life, BY_HAND
        self.unproven = [each for each in self.unproven if each.group not in groups]
        if whole and self.files.exists(DIRECTORY):
            # Where the disk fails at this moment, some of it is left, and condemned all the same.
            with contextlib.suppress(OSError):
                for name in self.files.listdir(DIRECTORY):
                    if name.endswith(".wal"):
                        self.files.unlink(f"{DIRECTORY}/{name}")
                self.files.fsync_dir(DIRECTORY)

    def _condemn(self, group: int, found: dict[int, RecoveredGroup]) -> None:
        """As recovery does."""
        placed, log = self.host.node.placement.groups[group], found.get(group)
        life, reason = self.condemned.get(group, (-1, ""))
        if life != placed.life or log is None or log.generation != placed.generation:
            return
        if log.damaged is None:
            assert reason == BY_HAND, f"{self.where} forgets that {group} is condemned: {reason}"
            self._wal.mark_damaged(group, reason)
            log.damaged = reason

    def note_begun(self, group: int, life: int) -> None:
        """A replica begins with an empty log, or with a restored snapshot."""
        if self.condemned.pop(group, None) is not None and life:
            self.world.note(self.where, f"begins life {life} of {group}")
            self.counts["lives"] += 1

    def note_broken(self, group: int, state: str, error: str) -> None:
        life = self.host.node.placement.groups[group].life
        known, _ = self.condemned.get(group, (-1, ""))
        if known != life:
            is_damage = self.is_flipped and state == "damaged"
            assert is_damage, f"{self.where} cannot open {group}: {error}"
            self.condemned[group] = life, error
            self.counts["condemned"] += 1

    def note_left(self, group: int, replica: Replica) -> None:
        if group not in self.plans:
            self.condemned.pop(group, None)
        self.host.checkers[group].note_forgotten(replica)

    def remains_of(self, group: int) -> str | None:
        """Of a group that was left, what should have gone by the time that all is calm."""
        log = self._wal._groups.get(group)
        if group in self.groups:
            return "its actors"
        if log is not None and log.damaged is None:
            return "its log"
        paths = [*self.snapshot_paths(group), *self.parts_of_snapshots([group])]
        # Where the disk refuses to remove a file, the next start of the process does it.
        is_refused = "disk-error" in self.host.plan.faults
        return paths[0] if paths and not is_refused else None

    def die(self, why: str, *, power: bool = False) -> None:
        """The process ends; with ``power``, what was not synced may go, too."""
        if self.is_up:
            self.is_up = False
            self.life += 1
            self.counts["deaths"] += 1
            self.world.note(self.where, f"dies: {why}")
            self.unproven = self._under_way
            batch = [] if self._batch is None else [self._batch.run]
            if ended := end_somewhere(self.files, self.rng, self._threads, batch):
                self.world.note(self.where, ended)
            self.host.on_slot_down(self)
            self._restart_after(RESTART_MS)
        if power:
            self.files.crash(self.rng)
        else:
            self.files.kill()

    def lose(self, why: str) -> None:
        """Never to be used again under this name."""
        assert not self.is_up
        self.is_lost = True
        self.world.note(self.where, f"is lost: {why}")

    def wipe(self) -> None:
        """A blank disk: whoever comes back with it is somebody else, and has no groups."""
        assert not self.is_up
        self.files = SlotFiles(recording=False)
        self.unproven, self.condemned = [], {}
        self.is_lost = self.is_flipped = False
        self.world.note(self.where, "is wiped")

    @property
    def is_quarantined(self) -> bool:
        """One of its machines is."""
        return any(machine.error is not None for machine in self.machines.values())

    def is_sound(self, group: int) -> bool:
        """What this replica has on its disk is what it wrote, as far as anybody knows."""
        lost = self.is_lost or self.is_flipped or group in self.condemned
        return not (lost or self.has_decayed(group))

    def has_decayed(self, group: int) -> bool:
        """Whether a snapshot of the group here is not what was written."""
        return any(has_decayed(self.files, path) for path in self.snapshot_paths(group))

    def snapshot_paths(self, group: int) -> list[str]:
        return snapshot_paths(self.files, [group], SUFFIX)

    def parts_of_snapshots(self, groups: Iterable[int]) -> list[str]:
        """Files of what is being received."""
        return snapshot_paths(self.files, groups, RECEIVING)

    def _restart_after(self, ms: tuple[int, int]) -> None:
        self.world.after(draw_us(self.rng, ms[0] * MS, ms[1] * MS), self._restart, self.life)

    def _restart(self, life: int) -> None:
        if self.host.paused_until_us > self.world.now_us:
            self.world.at(self.host.paused_until_us, self._restart, life)
        elif life == self.life and self.host.is_up and not (self.is_up or self.is_lost):
            self.start()

    # ------------------------------------------------------------------ turns

    def _ask_for_turn(self) -> None:
        if not self._turn_asked:
            self._turn_asked = True
            delay_us = int(self.rng.random() * self.host.plan.turn_us)
            when_us = max(self.world.now_us + delay_us, self.busy_until_us)
            self.world.at(when_us, self._turn, self.life)

    def pause_until(self, when_us: int) -> None:
        """It gets no time before that; what arrives waits."""
        if self.is_up:
            self.busy_until_us = max(self.busy_until_us, when_us)

    def _turn(self, life: int) -> None:
        if life != self.life:
            return
        if self.busy_until_us > self.world.now_us:
            self.world.at(self.busy_until_us, self._turn, life)
            return
        self._turn_asked = False
        self.counts["turns"] += 1
        self.clock.spent_us = 0
        if self.host.plan.settings.lease_reads:
            self._watch_clocks()
        try:
            more = self.scheduler.run_turn()
        except ProcessDied:
            self._note_digests()
            self.die("in the middle of a turn")
            return
        self._note_digests()
        if self.clock.spent_us:
            clock = self.host.clock
            self.busy_until_us = clock.when_us(clock.now_us() + self.clock.spent_us)
        if self._drain_until_us is not None and self._is_drained():
            self.die("drained")
            return
        if more:
            self._ask_for_turn()
        self._arm()

    def _watch_clocks(self) -> None:
        """Before anything is served that rests on elapsed time (pitfalls 33 and 35)."""
        now_ms = self.clock.now_ms()
        late_ms = 0 if self._timer_due_ms is None else now_ms - self._timer_due_ms
        anomaly = self._clock_watch.look(now_ms, self.host.boot_ms(), late_ms)
        if anomaly is not None:
            self.counts["anomalies"] += 1
            self.world.note(self.where, anomaly)
            for group in self.groups:
                self.tell(group, ClockAnomaly(), control=True)

    def drain(self) -> None:
        """An orderly end: answer what is under way, and let others lead."""
        if self.is_up and self._drain_until_us is None:
            self.world.note(self.where, "drains")
            self._drain_until_us = self.world.now_us + DRAIN_MS_MAX * MS
            for group in self.groups:
                self.tell(group, Drain(), control=True)
            self.world.at(self._drain_until_us, self._end_drain, self.life)

    def _is_drained(self) -> bool:
        return all(actor.is_drained for actor in self.groups.values())

    def _end_drain(self, life: int) -> None:
        if life == self.life:
            self.die("did not drain in time")

    def _arm(self) -> None:
        due_ms = self.scheduler.next_deadline()
        if due_ms is None:
            return
        when_us = max(self.host.clock.when_us(due_ms * 1_000), self.busy_until_us)
        if self._timer_us is None or when_us < self._timer_us:
            self._timer_us, self._timer_due_ms = when_us, due_ms
            self.world.at(when_us, self._on_timer, self.life, when_us)

    def _on_timer(self, life: int, when_us: int) -> None:
        if life != self.life or when_us != self._timer_us:
            return  # another life, or an earlier timer was set since
        if self.busy_until_us > self.world.now_us:
            self._timer_us = self.busy_until_us
            self.world.at(self._timer_us, self._on_timer, life, self._timer_us)
            return
        self._timer_us = None
        due_ms = self.scheduler.next_deadline()
        if due_ms is not None and due_ms <= self.clock.now_ms():
            self._ask_for_turn()
        else:
            self._timer_due_ms = None
            self._arm()

    def on_clock_changed(self) -> None:
        if self.is_up:
            self._timer_us = None
            self._arm()

    def on_group_turn(self, actor: WatchedGroup, effects: Sequence[object]) -> None:
        core = actor.core
        checker = self.host.checkers[actor.group]
        looks = looks_of(core)
        if looks != actor.looks or core.is_leader:
            actor.looks = looks
            self._check_core(actor, checker)
        assert isinstance(core, WatchedCore)
        applied, core.handed = core.handed, []
        marks = []
        for effect in effects:
            if type(effect) is SaveLog:
                checker.note_stored(core, effect.save.runs)
                if effect.save.mark is not None:
                    marks.append(effect.save.mark)
        if applied:
            checker.note_applied(self.host.name, applied)
        for mark in marks:
            checker.note_snapshot(self.host.name, mark.snapshot)
            assert self.hosting.stores[actor.group].has(mark.snapshot), (
                "the file came after the record"
            )

    def _check_core(self, actor: WatchedGroup, checker: GroupChecker) -> None:
        core = actor.core
        before = actor.before
        invariants.check(before, core)
        actor.before = invariants.take(core)
        if core.is_leader:
            checker.note_leader(core, actor.seen.configuration)
            if self.clock.now_ms() < core.lease_until_ms:
                checker.check_lease(core)
        if core.durable_index != before.durable_index:
            checker.check_durable(core)
        if core.commit_index > before.commit_index:
            checker.note_committed(core, actor.seen)
        actor.seen = Seen.of(core)

    def _note_digests(self) -> None:
        for group, machine in self.machines.items():
            index = machine.applied_index
            if index != self._digested.get(group):
                self._digested[group] = index
                machine.note_digest()

    def leads(self, group: int) -> bool:
        """As far as it knows."""
        return self.is_up and group in self.groups and self.groups[group].core.is_leader

    # ------------------------------------------------------------------ what arrives

    def tell(self, group: int, message: object, *, control: bool = False) -> bool:
        return self.scheduler.tell(actor_name(group), message, control)

    def take_peer_messages(self, lane: int, messages: dict[int, list[PeerMessage]]) -> None:
        """By group, of one frame."""
        control = lane == LANE_CONTROL
        if not control and self.space.room.is_short:
            self.counts["short"] += 1
            if self.space.drops(bytes_of(messages), self._wal):
                return  # sent again by who does not hear of it
        for group, found in messages.items():
            if group not in self.groups:
                continue  # not a replica here, or not any more
            for message in found:
                if type(message) is Append:
                    assert all(map(check_run, message.runs)), "a run has changed on its way"
            self.tell(group, PeerMessages(found), control=control)

    def take_requests(self, items: list[Any]) -> None:
        """Flat [token, group, remaining ms, rights, batch], as the router hands them over."""
        if not self.is_up:
            return  # the router will hear that we are gone
        for at in range(0, len(items), 5):
            token, group, remaining_ms, rights, batch = items[at : at + 5]
            taken = self.tell(group, Requests([token, remaining_ms, rights, batch]))
            assert taken, f"the mailbox of group {group} is full"

    def on_link_closed(self, node: str) -> None:
        if self.is_up:
            for group in self.groups:
                self.tell(group, LinkClosed(node), control=True)

    # ------------------------------------------------------------------ effects

    def _live_on(self) -> None:
        """Between two effects: here a process may end."""
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise ProcessDied

    def _clear_out(self) -> None:
        """What this turn made, until its end."""
        self._control_out: dict[str, list[tuple[int, PeerMessage]]] = {}
        self._bulk_out: dict[str, list[tuple[int, PeerMessage]]] = {}
        self._replies_out: list[Any] = []
        self._hand_backs_out: list[Any] = []
        self._summaries_out: dict[int, dict[str, Any]] = {}

    def _carry_peers(self, effect: SendPeers, address: Any) -> None:
        self._live_on()
        group = int(address.name.partition("/")[2])
        for message in effect.messages:
            lane = peer_codec.LANES[type(message)]
            out = self._bulk_out if lane == LANE_BULK else self._control_out
            out.setdefault(message.to.node, []).append((group, message))

    def _carry_save(self, effect: SaveLog, _: object) -> None:
        self._live_on()
        self._wal.save(effect.group, effect.save)
        actor = self.scheduler.actor(actor_name(effect.group))
        assert isinstance(actor, WatchedGroup)
        me = actor.core.me
        self._gathered.append(Saved(effect.group, me, effect.save))

    def _carry_replies(self, effect: Replies, _: object) -> None:
        self._live_on()
        self._replies_out += effect.items

    def _carry_hand_backs(self, effect: HandBacks, _: object) -> None:
        self._live_on()
        self._hand_backs_out += effect.items

    def _carry_retired(self, effect: ReplicaRetired, address: object) -> None:
        raise AssertionError(f"{self.where} retires {effect.group}: {effect.reason}")

    def show(self, group: int, summary: dict[str, Any]) -> None:
        """Without a turn that would carry it."""
        self._summaries_out[group] = summary

    def note_opened(self, group: int) -> None:
        self._talk.on_opened(group)
        if self.space.refusal is not None:
            self.tell(group, DiskRoom(self.space.refusal), control=True)

    def _carry_role(self, effect: RoleChanged, _: object) -> None:
        self._live_on()
        self._summaries_out[effect.group] = effect.summary

    def _carry_question(self, effect: AskCatalog, address: object) -> None:
        self._live_on()
        self._talk.carry_question(effect, address)

    def _ask_catalog(self, kind: int, *fields: Any) -> None:
        self.host.node.take_question(list(fields))

    def take_answer(self, answer: list[Any]) -> None:
        if self.is_up:
            self._talk.on_answer([None, None, None, *answer])

    def _carry_nothing(self, effect: object, _: object) -> None:
        self._live_on()

    def _flush(self) -> None:
        """The end of a turn: control first, then what must not wait for our disk, then the disk."""
        summaries, control, bulk = self._summaries_out, self._control_out, self._bulk_out
        replies, hand_backs = self._replies_out, self._hand_backs_out
        if summaries or control or bulk or replies or hand_backs:
            self._clear_out()
            self.host.on_summaries(self, summaries)
            self._send(LANE_CONTROL, control)
            self._send(LANE_BULK, bulk)
            self._live_on()
            self.host.on_answers(self, replies, hand_backs)
        self._live_on()
        self._begin_batch()

    def _send(self, lane: int, by_node: dict[str, list[tuple[int, PeerMessage]]]) -> None:
        for node, messages in by_node.items():
            self._live_on()
            frame: list[Any] = []
            for group, message in messages:
                self.host.checkers[group].note_sent(message)
                incarnation = peer_codec.header_incarnation(message.to)
                frame += (group, incarnation, peer_codec.encode(message))
            self.host.send_raft(node, lane, frame)

    # ------------------------------------------------------------------ snapshots

    def _carry_work(self, effect: Any, _: object) -> None:
        self._live_on()
        self.traffic.carry(effect)

    def _make_traffic(self) -> SnapshotTraffic:
        def tell(group: int, news: object) -> None:
            self.scheduler.tell(actor_name(group), news, True)

        plan = self.host.plan
        now_ms = self.clock.now_ms
        return SnapshotTraffic(plan.snapshots, plan.settings, now_ms, tell, self._submit_work)

    def _submit_work(self, effect: Any) -> None:
        store, name = self.hosting.stores[effect.group], actor_name(effect.group)

        def carry_out() -> object:
            return snapshot_files.carry_out(store, effect)

        work = Work(effect.group, carry_out, store, name, effect)
        self._submit(work, is_long=type(effect) in snapshot_files.LONG)

    def _carry_restore(self, effect: RunRestore, _: object) -> None:
        self._live_on()

        store, name = self.hosting.stores[effect.group], machine_name(effect.group)
        work = Work(effect.group, lambda: snapshot_files.run_restore(effect), store, name)
        self._submit(work, is_long=True)

    def forget_snapshots(self, group: int, work: Callable[[], None]) -> None:
        """Of a replica that was left; nobody hears of it."""
        self._submit(Work(group, work, None, ""), is_long=True)

    def _submit(self, work: Work, *, is_long: bool) -> None:
        """What a thread does beside the loop: here it is done all at once, some time later."""
        shortest_us, longest_us = self.host.plan.disk_us
        delay_us = draw_us(self.rng, shortest_us, longest_us) * self.disk_factor
        if is_long:
            delay_us = min(delay_us * LONG_WORK_FACTOR, LONG_WORK_US_MAX)
        thread = self._threads[is_long]
        work.takes_us = delay_us
        thread.works.append(work)
        thread.free_us = max(thread.free_us, self.world.now_us) + delay_us
        self.world.at(thread.free_us, self._on_work_done, self.life, thread)

    def _on_work_done(self, life: int, thread: Thread) -> None:
        """The first of those that it was given."""
        if life != self.life:
            return
        if self.disk_free_us > self.world.now_us:
            self.world.at(self.disk_free_us, self._on_work_done, life, thread)
            return
        self.counts["works"] += 1
        work = thread.works.popleft()
        if work.on_done is not None:
            self._finish_log_read(work, work.on_done)
            return
        result = work.run()
        if work.store is None or self.hosting.is_over(work.group, work.store):
            return
        if work.effect is not None:
            self.traffic.note_done(work.effect, result)
            if type(result) is ReceivedChecked:
                self.counts["parts found"] += work.store.is_receiving
        if type(result) in (ChunkRead, ChunkStored) and self._breaks_transfer():
            return
        if type(result) is SnapshotWritten:
            self._note_written(work.group, result.meta)
            # How long it took is part of what happens next, so it is told in the world's time.
            result = SnapshotWritten(result.meta, work.takes_us // 1_000)
        elif type(result) is ChunkRead:
            checker = self.host.checkers[work.group]
            checker.check_sent(self.host.name, result.snapshot, result.offset, result.data)
        elif type(result) is SnapshotLost:
            self._note_lost(work.group, result.snapshot)
        if result is not None:
            self.scheduler.tell(work.actor, result, True)

    def _carry_log_read(self, effect: ReadLog, _: object) -> None:
        self._live_on()
        self.log_reads.carry(effect)

    def _submit_log_read(self, work: Callable[[], object], on_done: Callable[[Any], None]) -> None:
        self.counts["log reads"] += 1
        self._submit(Work(0, work, None, "", on_done=on_done), is_long=False)

    def _finish_log_read(self, work: Work, on_done: Callable[[Any], None]) -> None:
        try:
            runs = work.run()
        except (OSError, WalDamaged) as error:
            if isinstance(error, WalDamaged) and not self.is_flipped:
                raise AssertionError(f"{self.where} takes a good disk for damaged") from error
            self.die(f"its log cannot be read: {error}")
        else:
            on_done(runs)

    def _breaks_transfer(self) -> bool:
        if self.dies_at_chunk is None:
            return False
        self.dies_at_chunk -= 1
        if self.dies_at_chunk >= 0:
            return False
        self.dies_at_chunk = None
        self.die("killed while a snapshot travels", power=self.rng.random() < 0.4)
        paths = self.parts_of_snapshots(self.plans)
        if paths and self.rng.random() < 0.2:
            path = self.rng.choice(paths)
            offset = self.files.decay(self.rng, path)
            self.world.note(self.where, f"a bit flips in {path} at {offset}")
        return True

    def _note_lost(self, group: int, meta: SnapshotMeta) -> None:
        """It was to be sent, and cannot be read."""
        assert self.has_decayed(group), f"{self.where} cannot read {meta}, and nothing has decayed"
        self.counts["snapshots lost"] += 1
        self.world.note(self.where, f"cannot send the snapshot of {group} at {meta.index}")

    def _note_written(self, group: int, meta: SnapshotMeta) -> None:
        path = f"{snapshots_of(group)}/{snapshot_name(meta)}"
        self.host.checkers[group].note_written(meta, self.files.content(path))

    # ------------------------------------------------------------------ threads of machines

    def _start_job(self, run: Run, finish: Run, clock: ProcessClock) -> None:
        """It is run some time from now, and heard of later."""
        shortest_us, longest_us = self.host.plan.disk_us
        delay_us = draw_us(self.rng, shortest_us, longest_us)
        begins_us = self.rng.randrange(delay_us)
        self.world.after(begins_us, self._on_job, self.life, run, finish, clock, delay_us)

    def _on_job(self, life: int, run: Run, finish: Run, clock: ProcessClock, takes_us: int) -> None:
        if life != self.life:
            return
        waits_us = max(self.disk_free_us, self.busy_until_us)
        if waits_us > self.world.now_us:
            self.world.at(waits_us, self._on_job, life, run, finish, clock, takes_us)
            return
        self.counts["jobs"] += 1
        clock.spent_us = 0
        run()
        self.world.after(takes_us + clock.spent_us, self._on_job_done, life, finish)

    def _on_job_done(self, life: int, finish: Run) -> None:
        if life == self.life:
            finish()

    # ------------------------------------------------------------------ the disk

    def _begin_batch(self) -> None:
        self._beside(self._wal.tidy())
        if self._batch is not None:
            return
        self._batch = batch = self._wal.take_batch()
        if batch is None:
            return
        self._under_way, self._gathered = self._gathered, []
        self.hosting.births.on_batch_taken()
        shortest_us, longest_us = self.host.plan.disk_us
        delay_us = draw_us(self.rng, shortest_us, longest_us) * self.disk_factor
        self.world.after(delay_us, self._on_disk_done, self.life)
        prepare = self._wal.prepare_next_segment()
        self._beside(prepare and self.space.prepared(prepare))

    def _look(self, life: int) -> None:
        """How full the disk is; what hangs is asked again, and nothing follows from its silence."""
        if life != self.life:
            return
        self.world.after(LOOK_US, self._look, life)
        if self.disk_free_us > self.world.now_us or not self.space.look():
            return
        room = self.space._judge.room
        self.space.limit(self._wal, room)
        if self.space.take(room):
            refusal = self.space.refusal
            self.counts["full"] += refusal is not None
            self.world.note(self.where, refusal or "has room again")
            for group in self.groups:
                self.tell(group, DiskRoom(refusal), control=True)

    def _beside(self, work: Callable[[], None] | None) -> None:
        """The second thread of the disk."""
        if work is not None:
            _, longest_us = self.host.plan.disk_us
            self.world.after(draw_us(self.rng, 0, longest_us), self._work_beside, self.life, work)

    def _work_beside(self, life: int, work: Callable[[], None]) -> None:
        if life != self.life:
            return
        try:
            work()
        except OSError as error:
            # Not fatal: the writer makes the segment when it needs it, or fails there; and one that
            # is not given up stays until the next start.
            self.world.note(self.where, f"no segment ahead, or none given up: {error}")
        except WalDamaged as error:
            if not self.is_flipped:
                raise AssertionError(f"{self.where} takes a good disk for damaged") from error
            self.world.note(self.where, f"a segment cannot be given up: {error}")
        self._begin_batch()

    def _on_disk_done(self, life: int) -> None:
        if life != self.life:
            return
        if self.disk_free_us > self.world.now_us:
            self.world.at(self.disk_free_us, self._on_disk_done, life)
            return
        batch = self._batch
        assert batch is not None
        try:
            batch.run()
        except WalPoisoned as error:
            self._batch = None  # it was written somehow, or was not: recovery will see
            self.die(str(error))
            return
        self.counts["batches"] += 1
        self._batch = None
        for saved in self._under_way:
            self.host.checkers[saved.group].note_durable(saved.replica, saved.save)
        self._under_way = []
        if self.hosting.births.on_batch_done():
            self.host.node.on_replicas(self.hosting.births.rows())
        for group, number, term, index in self._wal.complete(batch):
            self.tell(group, Persisted(number, term, index), control=True)
        self.log_reads.on_batch_done()
        self._begin_batch()
