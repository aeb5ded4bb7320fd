"""The groups of one node: what the catalog wants it to have, and what it has.

What may live here: bringing the placement into line with the catalog, and telling workers what is
wanted of their groups.  The node process owns it; processes and frames are the node's.

**To have.**  A group that is to have a replica on this disk and is not placed gets a slot, durably,
before its worker hears of it.  Its log begins with the *founders* of the group, to whom a newcomer
does not belong: it neither votes nor stands until the leader sends it a log that says so.  Nothing
is ever made because a peer speaks to it.

**Not to have any more.**  The node asks the group's leader, again and again, whether the replica is
no member any more (Admin ``mayLeave``); only then is it stopped.  What the replica itself has in
its log may be behind, and a member that vanishes can cost the group its majority.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from actors import wire
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.catalog_members import Row, complete_group, system_members, system_version
from actors.desired import desired_row
from actors.known_nodes import KnownNodes
from actors.machines.registry import DECLARED
from raft.messages import Replica
from raft.store.placement import PlacedGroup, Placement
from transport import protocol

log = logging.getLogger("polyraft.node")

SYSTEM_SLOT: Final = 0
WORKERS_MAX: Final = 1_000  # processes; beyond, groups share workers, whatever groups_per_worker
# Option of a placed group: this node has no part in it any more, since this version of its row.
# Rows are heard again, from the first one on, whenever the catalog's log is applied anew.
LEFT: Final = "left"
_NEVER: Final = 1 << 64  # above every version
LEAVE_PAUSE_MS_MIN: Final = 200  # between two questions to the leader; doubled each time
LEAVE_PAUSE_MS_MAX: Final = 10_000
LEAVE_TIMEOUT_MS: Final = 3_000


class Host(Protocol):
    """What the node process does for its groups."""

    def send(self, kind: int, *fields: Any) -> None: ...

    def start_worker(self, slot: int) -> None: ...

    def has_worker(self, slot: int) -> bool: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None: ...

    async def ask(
        self, group: str, batch: bytes, *, elsewhere: bool = False
    ) -> tuple[int, str, bytes]: ...

    @property
    def is_stopping(self) -> bool: ...


class LocalGroups:
    """``me``: the node with its disk; ``declared``: machines that its configuration names."""

    def __init__(
        self,
        me: Replica,
        placement: Placement,
        nodes: KnownNodes,
        groups_per_worker: int,
        declared: frozenset[str],
        host: Host,
    ) -> None:
        self._me = me
        self._placement = placement
        self._nodes = nodes
        self._groups_per_worker = groups_per_worker
        self._declared = declared
        self._host = host
        self._leaving: set[int] = set()
        self.groups: dict[int, Row] = {}  # as the catalog has them

    # ------------------------------------------------------------------ the catalog

    def learn(self, groups: list[Row]) -> None:
        """Rows of the catalog, all or what is new."""
        for group in groups:
            known = self.groups.get(group["id"])
            if known is None or group.get("version", 0) >= known["version"]:
                self.groups[group["id"]] = complete_group(group)
        self.reconcile()
        self.tell_desired({group["id"] for group in groups})

    def reconcile(self) -> None:
        """Make what is missing, and begin to leave what is too much."""
        if self._host.is_stopping:
            return
        placed = dict(self._placement.groups)
        slots = set()
        for group in self.groups.values():
            known = placed.get(group["id"])
            is_wanted = self._is_wanted(group["id"])
            if is_wanted and (known is None or group["version"] > known.options.get(LEFT, _NEVER)):
                placed[group["id"]] = found = self._place(placed, group, known)
                slots.add(found.slot)
            elif not is_wanted and known is not None and LEFT not in known.options:
                self._begin_leaving(group["id"])
        if slots:
            self._placement.replace(placed)
            self._reload(slots)

    def _place(
        self, placed: Mapping[int, PlacedGroup], group: Row, known: PlacedGroup | None
    ) -> PlacedGroup:
        if known is not None:
            # It comes back to what it has promised.
            options = {key: value for key, value in known.options.items() if key != LEFT}
            return replace(known, options=options)
        return PlacedGroup(
            free_slot(placed, self._groups_per_worker),
            1,
            group["name"],
            group["machine"],
            tuple(Replica(node, incarnation) for node, incarnation in group["founders"]),
            {DECLARED: True} if group["machine"] in self._declared else {},
        )

    def _is_wanted(self, group: int) -> bool:
        """Whether this disk is to have a replica of it."""
        row = self.groups[group]
        return list(self._me) in row["members"] + row["learners"]

    def _reload(self, slots: set[int]) -> None:
        for slot in sorted(slots):
            if self._host.has_worker(slot):
                self._host.send(wire.RELOAD, slot)
            else:
                self._host.start_worker(slot)

    # ------------------------------------------------------------------ leaving

    def _begin_leaving(self, group: int) -> None:
        if group not in self._leaving:
            self._leaving.add(group)
            self._host.spawn(self._leave(group))

    async def _leave(self, group: int) -> None:
        pause_ms = LEAVE_PAUSE_MS_MIN
        name = self.groups[group]["name"]
        options = {"incarnation": f"{self._me.incarnation:016x}"}
        batch = protocol.encode_admin("mayLeave", self._me.node, options, LEAVE_TIMEOUT_MS)
        try:
            while not self._is_wanted(group) and not self._host.is_stopping:
                code, text, _ = await self._host.ask(name, batch, elsewhere=True)
                if self._is_wanted(group):
                    return
                if code == protocol.OK:
                    self._forget(group)
                    return
                log.debug("group %s cannot be left yet: %s", name, text)
                await asyncio.sleep(pause_ms / 1_000)
                pause_ms = min(2 * pause_ms, LEAVE_PAUSE_MS_MAX)
        finally:
            self._leaving.discard(group)

    def _forget(self, group: int) -> None:
        """The placement first: that is the moment from which there is no replica here."""
        placed = self._placement.groups[group]
        log.info("group %s: this node is no member any more", placed.name)
        version = self.groups[group]["version"]
        left = replace(placed, options={**placed.options, LEFT: version})
        self._placement.replace({**self._placement.groups, group: left})
        self._reload({placed.slot})

    # ------------------------------------------------------------------ telling others

    def routes(self) -> list[list[Any]]:
        """As :data:`actors.wire.GROUPS` has it."""
        rows: dict[int, list[Any]] = {
            group: [
                group,
                each["name"],
                each["machine"],
                [node for node, _ in each["members"]],
                None,
            ]
            for group, each in self.groups.items()
        }
        for group, placed in self._placement.groups.items():
            if LEFT in placed.options:
                continue
            members = [each.node for each in placed.members]
            if group in rows:
                members = rows[group][3]
            elif group == SYSTEM_GROUP_ID and self._nodes.rows:
                members = [node for node, _ in system_members(self._nodes.rows)]
            rows[group] = [group, placed.name, placed.machine, members, placed.slot]
        return list(rows.values())

    def tell_desired(self, groups: set[int] | None = None, slot: int | None = None) -> None:
        """Workers hear what is wanted of these of their groups; None: of all."""
        by_slot: dict[int, list[Any]] = {}
        for group, placed in self._placement.groups.items():
            if (groups is None or group in groups) and slot in (None, placed.slot):
                row = self._desired(group)
                if row is not None:
                    by_slot.setdefault(placed.slot, []).append(row)
        for each, rows in by_slot.items():
            self._host.send(wire.DESIRED, each, rows)

    def _desired(self, group: int) -> list[Any] | None:
        if group == SYSTEM_GROUP_ID:
            nodes = self._nodes.rows
            version = system_version(nodes)
            # Before anything was changed the founders are the members, and nobody need say so.
            return desired_row(group, version, system_members(nodes), []) if version else None
        row = self.groups.get(group)
        if row is None:
            return None
        return desired_row(group, row["version"], row["members"], row["learners"])

    async def carry_question(self, frame: list[Any]) -> None:
        """A group asks the catalog; its worker hears the answer."""
        slot, group, token, command, value, options = frame
        batch = protocol.encode_admin(command, value, options, LEAVE_TIMEOUT_MS)
        code, text, data = await self._host.ask(SYSTEM_GROUP, batch)
        self._host.send(wire.CATALOG_ANSWER, slot, group, token, code, text, data)


def free_slot(placed: Mapping[int, PlacedGroup], groups_per_worker: int) -> int:
    """The lowest slot with room; ``_system`` keeps its own."""
    used: dict[int, int] = {}
    for each in placed.values():
        if LEFT not in each.options:
            used[each.slot] = used.get(each.slot, 0) + 1
    slots = range(SYSTEM_SLOT + 1, SYSTEM_SLOT + 1 + WORKERS_MAX)
    for slot in slots:
        if used.get(slot, 0) < groups_per_worker:
            return slot
    # So many processes are enough for a host: from here on groups share them.
    return min(slots, key=lambda slot: used[slot])
