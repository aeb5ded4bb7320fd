"""What a worker makes of a group that was placed in its slot: the two actors of one replica.

What may live here: the way from what the disk holds (placement, log, snapshots) to a
:class:`~actors.group.GroupActor` and a :class:`~actors.machine.MachineActor`, or to the reason why
there are none.  A replica that cannot be opened harms nobody beside it.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from actors.catalog import SYSTEM_GROUP_ID, CatalogMachine
from actors.group import GroupActor, MakeRun
from actors.group_messages import actor_name, machine_name
from actors.machine import MachineActor
from actors.machines import Machine
from actors.machines.registry import BUILT_IN, DECLARED, UnknownMachine, make_machine
from actors.restores import beginning, missing_text
from actors.runtime import Clock
from actors.settings import SnapshotSettings
from raft.configuration import Configuration, UnknownPart
from raft.core import Core
from raft.lives import replica_of
from raft.log import Log
from raft.messages import Replica
from raft.settings import RaftSettings
from raft.store.errors import DamagedRun, StoreError
from raft.store.files import Files
from raft.store.placement import LEFT, PlacedGroup, Placement
from raft.store.runs import read_configuration
from raft.store.snapshots import SnapshotStore
from raft.store.wal import RecoveredGroup

log = logging.getLogger("polyraft.worker")

TOKEN_BITS = 62  # of the first read token of a life; counted up from there, it stays in 64


class CannotOpen(Exception):
    """``state``: what is shown of the replica, "damaged" or "down".

    ``is_lost``: its log is; this disk may go on as another replica (:mod:`raft.lives`).
    """

    def __init__(self, reason: str, state: str, *, is_lost: bool = False) -> None:
        super().__init__(reason)
        self.state = state
        self.is_lost = is_lost


@dataclass(slots=True, frozen=True)
class Surroundings:
    """What all replicas of one worker have in common."""

    me: Replica  # with the disk's own incarnation
    files: Files
    data: str
    client_address: str
    clock: Clock
    raft: RaftSettings
    snapshots: SnapshotSettings
    machines: frozenset[str]  # kinds that this node's own configuration names
    may_answer: Callable[[], bool]


@dataclass(slots=True, frozen=True)
class Opened:
    group: GroupActor
    machine: MachineActor
    store: SnapshotStore


def find_log(placed: PlacedGroup, recovered: RecoveredGroup | None) -> RecoveredGroup | None:
    """The log of this replica among what was found; None: it has none yet.

    What is left of a life before it has an older generation, and is nobody's.  Raises CannotOpen
    for a log that must not be used, or whose absence is a loss.
    """
    if recovered is not None and recovered.generation > placed.generation:
        # This disk has been more than it remembers, and might become that once more.
        raise CannotOpen(
            f"the log has generation {recovered.generation}, the placement says "
            f"{placed.generation}: it is an old copy; restore the newer one, or replace the node",
            "damaged",
        )
    if recovered is None or recovered.generation < placed.generation:
        if placed.is_born:
            reason = "its log is gone; this replica must be replaced, it may never vote again"
            raise CannotOpen(reason, "damaged", is_lost=True)
        return None
    if recovered.damaged is not None:
        reason = f"its log was marked as damaged: {recovered.damaged}; it must be replaced"
        raise CannotOpen(reason, "damaged", is_lost=True)
    if recovered.unknown is not None:
        raise CannotOpen(recovered.unknown, "down")
    return recovered


def begin_group(around: Surroundings, group: int, placed: PlacedGroup) -> RecoveredGroup:
    """What a replica that has no log yet begins as.  Raises CannotOpen."""
    me = replica_of(around.me, group, placed.life)
    recovered = beginning(around.files, around.data, me, group, placed)
    if recovered is None:
        raise CannotOpen(missing_text(placed), "down")
    return replace(recovered, bootstrap=bootstrap(placed), last_gseq=1)


def make_machine_of(group: int, placed: PlacedGroup, machines: frozenset[str]) -> Machine:
    """Raises CannotOpen."""
    if group == SYSTEM_GROUP_ID:
        return CatalogMachine(placed.members)
    kind = placed.machine
    if not (kind in BUILT_IN or kind in machines or placed.options.get(DECLARED)):
        # A name that came over the wire alone is never imported.
        text = f"machine {kind} is not declared on this node; use --group {placed.name}={kind}"
        raise CannotOpen(text, "down")
    try:
        return make_machine(kind)
    except UnknownMachine as error:
        raise CannotOpen(str(error), "down") from error


def open_replica(
    group: int,
    placed: PlacedGroup,
    recovered: RecoveredGroup,
    machine: Machine,
    around: Surroundings,
) -> Opened:
    """The machine is empty; the group actor has it restored from the newest snapshot, if any.

    Raises CannotOpen.
    """

    def core(make_run: MakeRun) -> Core:
        return Core(
            me=replica_of(around.me, group, placed.life),
            configuration=Configuration(frozenset(placed.members)),
            hard_state=recovered.hard_state,
            log=Log(recovered.runs, base_index=recovered.base_index, base_term=recovered.base_term),
            snapshot=recovered.snapshot,
            settings=around.raft,
            random=random.SystemRandom(),
            make_run=make_run,
            read_configuration=read_configuration,
            now=around.clock.now_ms(),
        )

    store = snapshot_store(around, group)
    try:
        actor = GroupActor(
            group=group,
            name=placed.name,
            machine_kind=placed.machine,
            core_factory=core,
            clock=around.clock,
            wall_ms=_wall_ms,
            client_address=around.client_address,
            snapshots=around.snapshots,
            first_token=secrets.randbits(TOKEN_BITS),
        )
    except (UnknownPart, DamagedRun) as error:
        # Counting members otherwise than the others do could commit without a majority.
        raise CannotOpen(f"the configuration in its log cannot be used: {error}", "down") from error
    machine_actor = MachineActor(
        machine_name(group),
        group,
        machine,
        actor_name(group),
        around.clock,
        around.may_answer,
        store.read,
        lambda: make_machine_of(group, placed, around.machines),
    )
    return Opened(actor, machine_actor, store)


def snapshot_store(around: Surroundings, group: int) -> SnapshotStore:
    directory = os.path.join(around.data, "groups", str(group), "snapshots")
    return SnapshotStore(around.files, directory)


def forget_snapshots(
    group: int,
    before: SnapshotStore | None,
    open_store: Callable[[], SnapshotStore],
    placement: Callable[[], Placement],
) -> None:
    """Remove those of a replica that this node has left, ``before`` being its store.  Blocks.

    What cannot be removed harms nobody; the next start of the worker tries again.
    """
    try:
        if before is not None:
            before.stop_receiving()
        placed = placement().groups.get(group)
        # Another life may have come, here or in another worker: then these are its files.
        if placed is not None and LEFT in placed.options:
            store = open_store()
            store.stop_receiving()  # an earlier process may have left a part of one
            store.keep([])
    except (OSError, StoreError) as error:
        log.warning("group %d: the snapshots of a replica that left stay: %s", group, error)


def bootstrap(placed: PlacedGroup) -> bytes:
    """The first record of a replica: with whom it began."""
    data: bytes = msgpack.packb(
        [placed.name, placed.machine, [list(each) for each in placed.members]]
    )
    return data


def broken_summary(trouble: CannotOpen) -> dict[str, Any]:
    return {
        "role": "none",
        "term": 0,
        "leader": None,
        "state": trouble.state,
        "current": False,
        "error": str(trouble),
    }


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
