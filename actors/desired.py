"""Between a group and the catalog: what is wanted of it, and what it asks.

The worker of a group and the catalog's leader are far apart: the node process tells workers what
the catalog wants, and asks it in their name.  What the catalog has, the worker of this node's
replica of it tells the node process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from actors import wire
from actors.catalog import SYSTEM_GROUP_ID, CatalogMachine
from actors.group_messages import (
    AskCatalog,
    CatalogAnswered,
    DesiredMembers,
    actor_name,
    machine_name,
)
from actors.machine import Emitted, MachineActor
from actors.runtime import Scheduler
from raft.messages import Replica

Pairs = Iterable[Iterable[Any]]  # [[node, incarnation] ...]


def desired_row(group: int, version: int, voters: Pairs, learners: Pairs) -> list[Any]:
    """As :data:`actors.wire.DESIRED` has it."""
    return [group, version, [list(pair) for pair in voters], [list(pair) for pair in learners]]


def read_desired(row: list[Any]) -> tuple[int, DesiredMembers]:
    group, version, voters, learners = row
    return group, DesiredMembers(version, _replicas(voters), _replicas(learners))


def _replicas(pairs: Pairs) -> frozenset[Replica]:
    return frozenset(Replica(node, incarnation) for node, incarnation in pairs)


class CatalogTalk:
    """The end in a worker.  ``send`` a frame to the router; without one it is lost.

    What is wanted of a group is said when the group is placed, and then when it changes; its actor
    begins only when its log was born (:mod:`actors.births`), and has to know it then.
    """

    def __init__(self, slot: int, scheduler: Scheduler, send: Callable[..., None]) -> None:
        self._slot = slot
        self._scheduler = scheduler
        self._send = send
        self._early: dict[int, DesiredMembers] = {}  # by group, of those that are not open

    def on_desired(self, frame: list[Any]) -> None:
        for row in frame[3]:
            group, desired = read_desired(row)
            known = self._early.get(group)
            if not self._scheduler.tell(actor_name(group), desired, control=True) and (
                known is None or desired.version > known.version
            ):
                self._early[group] = desired

    def on_opened(self, group: int) -> None:
        desired = self._early.pop(group, None)
        if desired is not None:
            self._scheduler.tell(actor_name(group), desired, control=True)

    def on_answer(self, frame: list[Any]) -> None:
        group, *answer = frame[3:8]
        self._scheduler.tell(actor_name(group), CatalogAnswered(*answer), control=True)

    def carry_question(self, it: AskCatalog, address: object) -> None:
        self._send(
            wire.ASK_CATALOG, self._slot, it.group, it.token, it.command, it.value, it.options
        )

    def tell_catalog(self) -> None:
        """All of it, if it is here."""
        actor = self._scheduler.actor(machine_name(SYSTEM_GROUP_ID))
        if isinstance(actor, MachineActor):
            assert isinstance(actor.machine, CatalogMachine)
            self._send(wire.CATALOG, actor.machine.table())

    def carry_emitted(self, effect: Emitted, address: object) -> None:
        """Events of machines; nobody but the catalog's has listeners."""
        if effect.group != SYSTEM_GROUP_ID:
            return
        table: dict[str, list[Any]] = {"nodes": [], "groups": []}
        for _, _, kind, values in effect.events:
            table[f"{kind}s"].append(values)
        self._send(wire.CATALOG, table)
