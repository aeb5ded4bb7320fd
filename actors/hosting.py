"""The replicas of one worker: which of the groups placed in its slot run, and why others do not.

What may live here: the way from the placement and from what the log holds to running actors, and
back.  The placement decides (:meth:`Hosting.load`); what there is of each group is one of::

    begun      its first record is on its way to the disk; it waits to be noted as born
    open       its two actors run
    broken     it cannot run, or was stopped, and why
    left       this node has no part in it any more, or another life of it is to begin; nothing of
               it is needed

How an actor, a machine or a file is made is the worker's (:class:`Ways`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from actors.births import Births
from actors.group import GroupActor
from actors.group_messages import ReplicaRetired, actor_name, machine_name
from actors.machines import Machine
from actors.replica import CannotOpen, Opened, broken_summary, find_log
from actors.restores import save_beginning
from actors.runtime import Scheduler
from actors.settings import GROUP_MAILBOX_MESSAGES_MAX
from actors.snapshot_traffic import SnapshotTraffic
from raft.store.placement import LEFT, PlacedGroup, Placement
from raft.store.snapshots import SnapshotStore
from raft.store.wal import RecoveredGroup, Wal

log = logging.getLogger("polyraft.worker")

MACHINE_MAILBOX_MESSAGES_MAX: Final = 1_000_000  # never refused: bounded by what is committed
WHY_LEFT: Final = "this node is no member of the group any more"
WHY_MOVED: Final = "this node has the group in another slot"
WHY_OVER: Final = "this node begins anew in the group, as another replica"


class Ways(Protocol):
    """How what a group needs is made and undone.  ``machine``, ``begin`` and ``open`` raise
    CannotOpen; ``open`` starts nothing."""

    def machine(self, group: int, placed: PlacedGroup) -> Machine: ...

    def begin(self, group: int, placed: PlacedGroup) -> RecoveredGroup: ...

    def open(
        self, group: int, placed: PlacedGroup, recovered: RecoveredGroup, machine: Machine
    ) -> Opened: ...

    def on_opened(self, group: int) -> None:
        """Its actors run."""

    def on_left(self, group: int, life: int | None, store: SnapshotStore | None) -> None:
        """Its snapshots are needed no more; ``life``, ``store``: of the replica that was here until
        now, if there was one."""

    def on_stopped(self) -> None:
        """Actors that ran are about to be gone."""

    def show(self, group: int, summary: dict[str, Any]) -> None: ...


class Hosting:
    """See the top of this file."""

    def __init__(
        self, slot: int, scheduler: Scheduler, traffic: SnapshotTraffic, ways: Ways
    ) -> None:
        self._slot = slot
        self._scheduler = scheduler
        self._traffic = traffic
        self._ways = ways
        self._wal: Wal | None = None
        self._recovered: dict[int, RecoveredGroup] = {}  # what no replica has taken yet
        self._left: set[int] = set()
        self._lives: dict[int, int] = {}  # of all others that were placed here
        self.groups: dict[int, GroupActor] = {}
        self.broken: dict[int, dict[str, Any]] = {}  # as they are shown
        self.stores: dict[int, SnapshotStore] = {}
        self.births = Births()

    def start(self, wal: Wal, recovered: Mapping[int, RecoveredGroup]) -> None:
        self._wal, self._recovered = wal, dict(recovered)

    def load(self, placement: Placement) -> None:
        """What it says by now."""
        here, placed = placement.in_slot(self._slot), placement.groups
        self._forget_moved(placement)
        for group, life in list(self._lives.items()):
            now = placed.get(group)
            if now is not None and (group not in here or now.life != life):
                # Its log was lost; or it was left, and wanted again before this was read.
                self._leave(group, WHY_OVER)
        for group, each in here.items():
            if LEFT in each.options:
                self._leave(group, WHY_LEFT)
                continue
            self._left.discard(group)
            if group not in self.groups and group not in self.broken:
                self._open(group, each)

    def _forget_moved(self, placement: Placement) -> None:
        """Left-overs of groups that this node left, and has again in another slot, while this one
        was down."""
        for group, recovered in list(self._recovered.items()):
            if placement.has_elsewhere(group, self._slot, recovered.generation):
                assert self._wal is not None
                del self._recovered[group]
                self._wal.forget_group(group, WHY_MOVED)

    def _open(self, group: int, placed: PlacedGroup) -> None:
        self._lives[group] = placed.life
        recovered = self._recovered.pop(group, None)
        try:
            recovered = find_log(placed, recovered)
            machine = self._ways.machine(group, placed)
            if recovered is None or not placed.is_born:
                self._begin(group, placed, recovered)
                return
            opened = self._ways.open(group, placed, recovered, machine)
        except CannotOpen as trouble:
            log.error("group %s: %s", placed.name, trouble)
            self.births.settle(group)
            self.broken[group] = broken_summary(trouble)
            self._ways.show(group, self.broken[group])
            if trouble.is_lost:
                self.births.lose(group, placed.life, str(trouble))
            return
        self.births.settle(group)
        self.groups[group] = opened.group
        self.stores[group] = opened.store
        self._scheduler.spawn(
            opened.machine,
            mailbox_limit=MACHINE_MAILBOX_MESSAGES_MAX,
            blocking=machine.blocking,
        )
        self._scheduler.spawn(opened.group, mailbox_limit=GROUP_MAILBOX_MESSAGES_MAX)
        self._ways.show(group, opened.group.summary())
        self._ways.on_opened(group)

    def _begin(self, group: int, placed: PlacedGroup, recovered: RecoveredGroup | None) -> None:
        """It takes part when the placement says that it was born (:mod:`actors.births`)."""
        if recovered is None:
            recovered = self._ways.begin(group, placed)
            assert recovered.bootstrap is not None
            assert self._wal is not None
            self._wal.add_group(group, placed.generation, recovered.bootstrap)
            save_beginning(self._wal, recovered)
            self.births.gather(group, placed.life)
        else:
            self.births.find(group, placed.life)
        self._recovered[group] = recovered

    def retire(self, effect: ReplicaRetired) -> None:
        """Where two histories of one group meet, the other groups go on."""
        group = effect.group
        trouble = CannotOpen(effect.reason, effect.state)
        log.critical("group %s stops: %s", self.groups[group].group_name, trouble)
        del self.groups[group]
        self.broken[group] = broken_summary(trouble)
        self._ways.show(group, self.broken[group])
        self._scheduler.stop_actor(machine_name(group), effect.reason)
        self._traffic.forget(group)
        self._ways.on_stopped()

    def _leave(self, group: int, why: str) -> None:
        """Nothing of the replica is needed any more, nor will it be."""
        if group in self._left:
            return
        self._left.add(group)
        life = self._lives.pop(group, None)
        self.births.settle(group)
        self._recovered.pop(group, None)
        store = self.stores.pop(group, None)
        assert self._wal is not None
        self._wal.forget_group(group, why)
        if self.broken.pop(group, None) or self.groups.pop(group, None):
            self._ways.show(group, broken_summary(CannotOpen(why, "down")))
            self._scheduler.stop_actor(actor_name(group), why)
            self._scheduler.stop_actor(machine_name(group), why)
            self._traffic.forget(group)
            self._ways.on_stopped()
        self._ways.on_left(group, life, store)

    def is_over(self, group: int, store: SnapshotStore) -> bool:
        """Whether the replica whose snapshots these are has ended: its successor, who goes by the
        same name, must not hear what was done for it."""
        return group not in self.groups or self.stores[group] is not store
