"""The groups of one node: what the catalog wants it to have, and what it has.

What may live here: bringing the placement into line with the catalog, and telling workers what is
wanted of their groups.  The node process owns it; processes and frames are the node's.

**To have.**  A group that is to have a replica on this disk and is not placed gets a slot, durably,
before its worker hears of it.  Its log begins with the *founders* of the group, to whom a newcomer
does not belong: it neither votes nor stands until the leader sends it a log that says so.  Nothing
is ever made because a peer speaks to it.  Then the node offers it to the leader (Admin
``offerReplica``), again and again, until it is a member.

**Not to have any more.**  The node asks the group's leader, again and again, whether the replica is
no member any more (Admin ``mayLeave``); only then is it stopped and forgotten.  What the replica
itself has in its log may be behind, and a member that vanishes can cost the group its majority.
A node that was removed from the cluster leaves ``_system`` last, in the same way, and ends.

**Given up.**  Where a majority of ``_system`` was lost and whoever was left was told to go on alone
(``resetPeers``), a node that comes back after all is no member any more, though every node is to be
one.  So each asks at its start, and now and then.  A leader without it says so; then its log, which
is of a history that is over, counts as lost, and it comes back as a new replica
(:mod:`actors.rebirths`).  What it has of other groups is not concerned.

What is left is one line in the placement: that this disk has been there, up to which life and
generation.  Should it come back, it comes as the next life (:mod:`raft.lives`), for what the last
one has promised is forgotten.
"""

from __future__ import annotations

import asyncio
import json
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
from raft.store.placement import LEFT, MEMBER, REJOINING, PlacedGroup, Placement
from raft.store.uploads import RESTORE
from transport import protocol

log = logging.getLogger("polyraft.node")

SYSTEM_SLOT: Final = 0
WORKERS_MAX: Final = 1_000  # processes; beyond, groups share workers, whatever groups_per_worker
_NEVER: Final = 1 << 64  # above every version
PAUSE_MS_MIN: Final = 200  # between two questions to the leader; doubled each time
PAUSE_MS_MAX: Final = 10_000
# A member that asks others as well has known no leader for so many questions, 3 s together: longer
# than an election takes.  After a reset by mistake they may be of another history.
PATIENCE_QUESTIONS: Final = 5
ASK_TIMEOUT_MS: Final = 3_000
QUESTIONS_MAX: Final = 16  # to leaders at the same time, however many groups come or go

GIVEN_UP: Final = "those who were left have gone on without it; what it has is of another history"


class Host(Protocol):
    """What the node process does for its groups."""

    def place(self, groups: Mapping[int, PlacedGroup]) -> bool: ...

    def send(self, kind: int, *fields: Any) -> None: ...

    def tell_routes(self) -> None: ...

    def start_worker(self, slot: int) -> None: ...

    def has_worker(self, slot: int) -> bool: ...

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None: ...

    async def ask(
        self, group: str, batch: bytes, *, elsewhere: bool = False
    ) -> tuple[int, str, bytes]: ...

    def leave_cluster(self) -> None: ...

    def lose(self, group: int, life: int, reason: str) -> None: ...

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
        self._joining: set[int] = set()
        self._settled: dict[
            int, int
        ] = {}  # group -> version at which the leader called it a member
        self._is_current = False
        self._turns = asyncio.Semaphore(QUESTIONS_MAX)
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

    def on_nodes(self) -> None:
        """Something new is known of nodes, all of which are members of ``_system``."""
        self.tell_desired({SYSTEM_GROUP_ID})
        self.reconcile_system()

    def on_current(self) -> None:
        """The local replica of the catalog has caught up, for the first time in this life."""
        if not self._is_current:
            self._is_current = True
            self.reconcile()
            self.reconcile_system()
            self.tell_desired()

    def reconcile(self) -> None:
        """Make what is missing, and begin to leave what is too much."""
        if self._host.is_stopping or not self._is_current:
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
            if not self._host.place(placed):
                return  # called again when there is room
            self._reload(slots)
            self._host.tell_routes()
        for number in self.groups:
            self._maybe_join(number)

    def _place(
        self, placed: Mapping[int, PlacedGroup], group: Row, known: PlacedGroup | None
    ) -> PlacedGroup:
        life = 0 if known is None else known.life + 1
        return PlacedGroup(
            free_slot(placed, self._groups_per_worker),
            1 if known is None else known.generation + 1,
            group["name"],
            group["machine"],
            tuple(Replica(node, incarnation) for node, incarnation in group["founders"]),
            {
                **({DECLARED: True} if group["machine"] in self._declared else {}),
                **({RESTORE: group[RESTORE]} if RESTORE in group else {}),
            },
            life=life,
        )

    def _is_wanted(self, group: int) -> bool:
        """Whether this disk is to have a replica of it."""
        if group == SYSTEM_GROUP_ID:
            return list(self._me) in system_members(self._nodes.rows)
        row = self.groups[group]
        return list(self._me) in row["members"] + row["learners"]

    def _reload(self, slots: set[int]) -> None:
        for slot in sorted(slots):
            if self._host.has_worker(slot):
                self._host.send(wire.RELOAD, slot)
            else:
                self._host.start_worker(slot)

    # ------------------------------------------------------------------ joining

    def _version(self, group: int) -> int:
        """Of what is wanted of it."""
        if group == SYSTEM_GROUP_ID:
            return system_version(self._nodes.rows)
        return int(self.groups[group]["version"])

    def _is_founder(self, placed: PlacedGroup) -> bool:
        return placed.life == 0 and self._me in placed.members

    def reconcile_system(self) -> None:
        """A node that did not found the cluster becomes a member of the catalog's group; one that
        was removed ceases to be."""
        placed = self._placement.groups.get(SYSTEM_GROUP_ID)
        if placed is None or self._host.is_stopping:
            return
        mine = self._nodes.rows.get(self._me.node)
        if mine is not None and mine["removed"]:
            self._begin_leaving(SYSTEM_GROUP_ID)
        elif not self._is_founder(placed):
            self._maybe_join(SYSTEM_GROUP_ID)

    def check_system(self) -> None:
        """Whether this node is a member still; now and then, for nothing tells it."""
        self._settled.pop(SYSTEM_GROUP_ID, None)
        if not self._host.is_stopping:
            self._maybe_join(SYSTEM_GROUP_ID)

    def _was_member(self, placed: PlacedGroup) -> bool:
        """Who comes back as another is a learner before it begins."""
        return self._is_noted(placed) or bool(placed.options.get(REJOINING))

    def _is_noted(self, placed: PlacedGroup) -> bool:
        return self._is_founder(placed) or bool(placed.options.get(MEMBER))

    def _maybe_join(self, group: int) -> None:
        placed, version = self._placement.groups.get(group), self._version(group)
        if (
            placed is None
            or LEFT in placed.options
            or group in self._joining
            or self._settled.get(group) == version
            or not self._is_wanted(group)
            # Nothing was ever changed; of _system that is version 0.
            or (version in (0, group) and self._is_founder(placed))
        ):
            return
        self._joining.add(group)
        self._host.spawn(self._join(group))

    async def _join(self, group: int) -> None:
        pause_ms, attempt = PAUSE_MS_MIN, 0
        try:
            while (placed := self._placement.groups.get(group)) and not self._host.is_stopping:
                version = self._version(group)
                if not self._is_wanted(group) or LEFT in placed.options:
                    return
                if not placed.is_born:
                    # Its log is not on disk yet, or it cannot be opened: the worker says why.
                    await asyncio.sleep(pause_ms / 1_000)
                    continue
                async with self._turns:
                    code, text, data = await self._ask("offerReplica", placed, attempt)
                attempt += 1
                now = self._placement.groups.get(group)
                if now is None or now.life != placed.life:
                    continue  # it was about one that is over
                answer = json.loads(data) if code == protocol.OK else {}
                if answer.get("given_up"):
                    self._host.lose(group, placed.life, GIVEN_UP)
                    return
                if answer.get("member") and version == self._version(group):
                    self._settled[group] = version
                    self._note_member(group)
                    return
                log.debug("group %s: not a member yet: %s", placed.name, text)
                await asyncio.sleep(pause_ms / 1_000)
                pause_ms = PAUSE_MS_MIN if code == protocol.OK else min(2 * pause_ms, PAUSE_MS_MAX)
        finally:
            self._joining.discard(group)

    def _note_member(self, group: int) -> None:
        """Founders need it not.  If the disk is full, it is noted another time."""
        placed = self._placement.groups[group]
        if group == SYSTEM_GROUP_ID and not self._is_noted(placed):
            noted = replace(placed, options={**placed.options, MEMBER: True})
            self._host.place({**self._placement.groups, group: noted})

    async def _ask(self, command: str, placed: PlacedGroup, attempt: int) -> tuple[int, str, bytes]:
        """The group's leader, wherever it is: by way of the replica that it is about, which may
        lead, and in turn by way of others, for it may know nobody who does: a newcomer at once, a
        member after a while."""
        options = {"incarnation": str(self._me.incarnation), "life": str(placed.life)}
        elsewhere = attempt % 2 == 1
        if placed.name == SYSTEM_GROUP and self._was_member(placed):
            options["was_member"] = "true"
            elsewhere = elsewhere and attempt >= PATIENCE_QUESTIONS
        batch = protocol.encode_admin(command, self._me.node, options, ASK_TIMEOUT_MS)
        return await self._host.ask(placed.name, batch, elsewhere=elsewhere)

    # ------------------------------------------------------------------ leaving

    def _begin_leaving(self, group: int) -> None:
        if group not in self._leaving:
            self._leaving.add(group)
            self._host.spawn(self._leave(group))

    async def _leave(self, group: int) -> None:
        pause_ms, attempt = PAUSE_MS_MIN, 1
        try:
            while not self._is_wanted(group) and not self._host.is_stopping:
                async with self._turns:
                    placed = self._placement.groups[group]
                    code, text, _ = await self._ask("mayLeave", placed, attempt)
                attempt += 1
                if self._is_wanted(group):
                    break
                if code == protocol.OK and group == SYSTEM_GROUP_ID:
                    self._host.leave_cluster()
                    return
                if code == protocol.OK and self._forget(group):
                    return
                log.debug("group %s cannot be left yet: %s", placed.name, text)
                await asyncio.sleep(pause_ms / 1_000)
                pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)
        finally:
            self._leaving.discard(group)
        self.reconcile()

    def _forget(self, group: int) -> bool:
        """The placement first: that is the moment from which there is no replica here.  False: the
        disk is too full for it now."""
        placed = self._placement.groups[group]
        log.info("group %s: this node is no member any more", placed.name)
        version = self.groups[group]["version"]
        left = replace(placed, options={LEFT: version})
        if not self._host.place({**self._placement.groups, group: left}):
            return False
        self._reload({placed.slot})
        self._host.tell_routes()
        return True

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
        """Workers hear what is wanted of these of their groups; None: of all.

        Not before the catalog is current here: applying its log anew tells, step by step, what was
        wanted once.
        """
        if not self._is_current:
            return
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
        batch = protocol.encode_admin(command, value, options, ASK_TIMEOUT_MS)
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
