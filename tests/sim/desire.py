"""The catalog of the simulation: what is wanted of a group, and by when each host has heard it.

There is no ``_system`` here.  What it would want, each host hears sooner or later: a word of it may
be late, and an older one come behind a newer one.  What makes it come true is real: the node
process of each host (:mod:`actors.local_groups`), which makes replicas and offers them, and leaves
groups; and :mod:`actors.group_members` in whoever leads.

From its first word on the members of a group are the catalog's business alone.  An older word may
be followed by somebody who has not heard the newer one, so all that anybody goes by count for what
a group must be able to do without.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actors.catalog_members import Row, group_row, node_row, set_members
from actors.desired import read_desired
from actors.group_messages import DesiredMembers
from actors.machines import Context
from raft.configuration import Configuration
from raft.lives import life_of
from raft.messages import Replica
from tests.sim.world import MS
from transport import protocol

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.simulation import Simulation

WORDS_MAX: Final = 12  # about one group
HEARD_US_MAX: Final = 300 * MS


class Desire:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._rng: random.Random = simulation.world.stream("desire")
        self._rows: dict[int, Row] = {}
        self._words: defaultdict[int, list[DesiredMembers]] = defaultdict(list)

    def may_want(self, group: int) -> bool:
        """Nobody else may be about to change its members.

        Nor may a new group lack some of those it begins with: who is not wanted any more makes no
        replica, and without a majority of them nobody ever leads, and so could order that.
        """
        restoring = self._simulation.restoring
        if restoring is not None and restoring.group == group and restoring.is_beginning:
            return False
        words = self._words[group]
        if words:
            return len(words) < WORDS_MAX
        checker = self._simulation.checkers[group]
        return not self._simulation.wanted[group] and checker.configurations_possible() == [
            checker.configuration
        ]

    def has_wanted(self, group: int) -> bool:
        return bool(self._words[group])

    def make(self, row: Row) -> None:
        """A new group."""
        self._rows[row["id"]] = row
        self._tell(row)

    def _tell(self, row: Row) -> None:
        for host in self._simulation.hosts.values():
            delay_us = self._rng.randrange(HEARD_US_MAX)
            self._simulation.world.after(delay_us, host.node_learns, row)

    def want(self, group: int, voters: list[Host], learners: list[Host]) -> None:
        row = {
            **self._row(group),
            "members": [list(host.me) for host in voters],
            "learners": [list(host.me) for host in learners],
            "version": self._version(group),
        }
        self._say(group, row)

    def _row(self, group: int) -> Row:
        plan = self._simulation.plan.group(group)
        founders = self._simulation.checkers[group].founders.voters
        first = group_row(group, plan.name, "kv", [list(each) for each in sorted(founders)])
        return self._rows.get(group, first)

    def set_members(self, name: str, options: Mapping[str, str]) -> tuple[int, str, bytes]:
        """A replica orders it; the answer, as the real catalog gives it.  After a majority was lost
        this may be the first word on the members."""
        group = next(each.group for each in self._simulation.plan.groups if each.name == name)
        known = self._row(group)
        nodes = {
            host.name: {**node_row(host.name, host.me.incarnation), "peer": f"tcp://{host.name}"}
            for host in self._simulation.hosts.values()
        }
        values: dict[str, Any] = {
            part: [each for each in options[part].split(",") if each]
            for part in ("voters", "learners")
        }
        if "if_version" in options:
            values["if_version"] = int(options["if_version"])
        row = dict(known)
        context = Context(self._version(group), 0, 0, _emit_nothing)
        response = set_members(nodes, row, name, values, context)
        if not response.success:
            return protocol.REJECTED, response.error, b""
        if row != known:
            self._say(group, row)
        return protocol.OK, "", json.dumps(msgpack.unpackb(response.data)).encode()

    def _version(self, group: int) -> int:
        return group + len(self._words[group]) + 1

    def _say(self, group: int, row: Row) -> None:
        self._rows[group] = row
        words = self._words[group]
        _, word = read_desired([group, row["version"], row["members"], row["learners"]])
        words.append(word)
        names = [" ".join(node for node, _ in row[part]) for part in ("members", "learners")]
        self._simulation.note("ops", f"wanted of {group}: {' | '.join(names)}")
        self._tell(row)

    def possible(self, group: int) -> Iterator[Configuration]:
        """What may yet come to be by a word that somebody goes by: with the replicas that the
        disks have by now."""
        words = self._words[group]
        if not words:
            return
        oldest = min(self._versions_known(group), default=0)
        for word in words:
            if word.version >= oldest or word is words[-1]:
                voters, learners = (
                    self._replicas(disks, group) for disks in (word.voters, word.learners)
                )
                yield Configuration(voters, learners)

    def _versions_known(self, group: int) -> Iterator[int]:
        for host in self._simulation.hosts.values():
            yield host.node.heard.get(group, {"version": 0})["version"]
            slot = host.placed(group)
            if slot is not None and slot.is_up and group in slot.groups:
                known: DesiredMembers | None = slot.groups[group].admin.members._desired
                if known is not None:
                    yield known.version

    def _replicas(self, disks: frozenset[Replica], group: int) -> frozenset[Replica]:
        hosts = self._simulation.hosts
        return frozenset(
            hosts[disk.node].replica(group) if hosts[disk.node].me == disk else disk
            for disk in disks
        )

    def unsettled(self, group: int) -> str | None:
        """What is not yet as the last word has it, of all that can be."""
        if not self._words[group]:
            return None
        word = self._words[group][-1]
        awaits_lost = self._awaits_lost(group, word)
        for host in self._simulation.hosts.values():
            is_wanted = host.me in word.voters | word.learners
            if not is_wanted and host.node.has(group) is not None:
                if awaits_lost:
                    continue
                return f"{host.name} has not left {group}"
            if is_wanted and host.node.has(group) is None:
                return f"{host.name} has no replica of {group}"
            left = None if is_wanted else host.node.placement.groups.get(group)
            if left is not None and not (slot := host.slot(left.slot)).is_lost:
                remains = slot.remains_of(group)
                if remains is not None:
                    return f"{slot.where} has left {group}, and has {remains}"
        return None

    def _awaits_lost(self, group: int, word: DesiredMembers) -> bool:
        """A disk is wanted that was wiped before it was a member; an earlier one of its node may be
        one.  It offers itself no more, and nobody here has the node replaced: the leader changes
        nothing, and nobody may leave."""
        hosts = self._simulation.hosts
        members = self._simulation.checkers[group].configuration.members
        return any(
            hosts[disk.node].me != disk
            and not any(life_of(each, disk, group) is not None for each in members)
            for disk in word.voters | word.learners
        )


def _emit_nothing(kind: str, values: Mapping[str, Any]) -> None:
    """Hosts hear of it otherwise."""
