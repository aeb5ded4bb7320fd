"""What a simulated process makes for its groups: as :class:`actors.hosting.Ways` has it.

Which groups run, begin, come back and are left decides :mod:`actors.hosting`, as in a worker; here
are their actors, with eyes on them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from actors.group import MakeRun
from actors.group_messages import actor_name, machine_name
from actors.hosting import WHY_LEFT, WHY_OVER
from actors.machines import Machine
from actors.replica import CannotOpen, Opened, bootstrap, forget_snapshots
from actors.restores import beginning, missing_text
from raft import invariants
from raft.core import Core
from raft.lives import replica_of
from raft.log import Log
from raft.messages import Replica
from raft.store.placement import PlacedGroup
from raft.store.runs import read_configuration
from raft.store.snapshots import SnapshotStore
from raft.store.wal import RecoveredGroup
from tests.sim.checkers import Disk, GroupChecker, Seen
from tests.sim.clock import ProcessClock
from tests.sim.machines import TroubledMachine, WatchedMachine
from tests.sim.slot_parts import DATA, snapshots_of
from tests.sim.watched import WatchedCore, WatchedGroup

if TYPE_CHECKING:
    from tests.sim.slot import Slot


class SlotGroups:
    """Of one life of a process."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._checkers = slot.host.checkers
        self.machines: dict[int, WatchedMachine] = {}

    def machine(self, group: int, placed: PlacedGroup) -> Machine:
        slot, plan = self._slot, self._slot.host.plan.group(group)
        clock = slot.clock
        if plan.blocking:
            clock = ProcessClock(slot.host.clock)
            slot.scheduler.thread_clocks[machine_name(group)] = clock
        return TroubledMachine(slot.troubles, clock, blocking=plan.blocking)

    def begin(self, group: int, placed: PlacedGroup) -> RecoveredGroup:
        """Nothing of it is promised before it is opened."""
        slot = self._slot
        me = slot.host.replica(group)
        slot.note_begun(group, placed.life)
        files = slot.space.files_of_snapshots(DATA)
        recovered = beginning(files, DATA, me, group, placed)
        if recovered is None:
            raise CannotOpen(missing_text(placed), "down")
        recovered.bootstrap, recovered.last_gseq = bootstrap(placed), 1
        self._checkers[group].note_begun(me, _disk_of(recovered))
        return recovered

    def open(
        self, group: int, placed: PlacedGroup, recovered: RecoveredGroup, machine: Machine
    ) -> Opened:
        slot, checker = self._slot, self._checkers[group]
        me = slot.host.replica(group)
        unproven = [
            each.save for each in slot.unproven if (each.group, each.replica) == (group, me)
        ]
        checker.note_recovered(me, _disk_of(recovered), unproven)
        files = slot.space.files_of_snapshots(DATA)
        store = SnapshotStore(files, snapshots_of(group))
        assert recovered.snapshot is None or store.has(recovered.snapshot), (
            f"the log of {slot.where} names {recovered.snapshot}, there is no such file"
        )
        assert isinstance(machine, TroubledMachine)
        self.machines[group] = watched = self._watch(group, machine, checker, store)
        return Opened(self._make_group(group, me, recovered, checker), watched, store)

    def _watch(
        self, group: int, machine: TroubledMachine, checker: GroupChecker, store: SnapshotStore
    ) -> WatchedMachine:
        slot, clock = self._slot, machine.clock

        def make() -> TroubledMachine:
            return TroubledMachine(slot.troubles, clock, blocking=machine.blocking)

        watched = WatchedMachine(
            machine_name(group),
            group,
            machine,
            actor_name(group),
            clock,
            open_snapshot=store.read,
            make_machine=make,
        )
        watched.node, watched.checker = slot.host.name, checker
        watched.has_decayed = lambda: slot.has_decayed(group)
        watched.is_over = lambda: self.machines.get(group) is not watched
        return watched

    def _make_group(
        self, group: int, me: Replica, recovered: RecoveredGroup, checker: GroupChecker
    ) -> WatchedGroup:
        slot, plan = self._slot, self._slot.host.plan

        def make_core(make_run: MakeRun) -> Core:
            core = WatchedCore(
                me=me,
                configuration=checker.founders,
                hard_state=recovered.hard_state,
                log=Log(
                    recovered.runs, base_index=recovered.base_index, base_term=recovered.base_term
                ),
                snapshot=recovered.snapshot,
                settings=plan.settings,
                random=slot.rng,
                make_run=make_run,
                read_configuration=read_configuration,
                now=slot.clock.now_ms(),
            )
            core.checker, core.asked, core.handed = checker, {}, []
            return core

        actor = WatchedGroup(
            group=group,
            name=plan.group(group).name,
            machine_kind="kv",
            core_factory=make_core,
            clock=slot.clock,
            wall_ms=slot.host.wall_ms,
            client_address=f"tcp://{slot.host.name}:7001",
            snapshots=plan.snapshots,
        )
        actor.before = invariants.take(actor.core)
        actor.seen = Seen.of(actor.core)
        actor.on_turn = slot.on_group_turn
        return actor

    def on_opened(self, group: int) -> None:
        self._slot.note_opened(group)

    def on_stopped(self) -> None:
        """Nothing is kept for actors that run."""

    def on_left(self, group: int, life: int | None, store: SnapshotStore | None) -> None:
        """Whoever it was, it is heard of no more."""
        slot = self._slot
        # Of a life that is over the placement names the next one already.
        me = slot.host.replica(group) if life is None else replica_of(slot.host.me, group, life)
        self.machines.pop(group, None)
        slot.note_left(group, me)
        files = slot.space.files_of_snapshots(DATA)

        def work() -> None:
            forget_snapshots(
                group,
                store,
                lambda: SnapshotStore(files, snapshots_of(group)),
                lambda: slot.host.node.placement,
            )

        slot.forget_snapshots(group, work)

    def show(self, group: int, summary: dict[str, Any]) -> None:
        if summary["role"] == "none" and summary["error"] not in (WHY_LEFT, WHY_OVER):
            self._slot.note_broken(group, summary["state"], summary["error"])
        self._slot.show(group, summary)


def _disk_of(found: RecoveredGroup) -> Disk:
    return Disk(found.hard_state, found.runs, base_index=found.base_index, snapshot=found.snapshot)
