"""The catalog of the simulation: what is wanted of a group, and nodes that offer their replicas.

There is no ``_system`` here.  What it would want, each host hears sooner or later, or not at all
until it asks again: a word of it may be late, and an older one come behind a newer one.  What makes
it come true is real: :mod:`actors.group_members` in whoever leads, and hosts that offer the life
that their disk is.

Two such words are said in a history, at most.  An older one may be followed by somebody who has not
heard the newer one, so both count for what a group must be able to do without.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from actors.group_messages import DesiredMembers
from raft.configuration import Configuration
from tests.sim.checkers import shown
from tests.sim.world import MS
from transport import protocol

if TYPE_CHECKING:
    from tests.sim.host import Host
    from tests.sim.simulation import Simulation

WORDS_MAX: Final = 2  # about one group
HEARD_US_MAX: Final = 300 * MS
OFFER_AGAIN_US: Final = 150 * MS
TOLD_AGAIN_US: Final = 500 * MS
ASK_TIMEOUT_MS: Final = 1_000


class Desire:
    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._rng: random.Random = simulation.world.stream("desire")
        self._words: defaultdict[int, list[DesiredMembers]] = defaultdict(list)
        self.offers = 0

    def may_want(self, group: int) -> bool:
        return len(self._words[group]) < WORDS_MAX

    def has_wanted(self, group: int) -> bool:
        return bool(self._words[group])

    def want(self, group: int, wanted: Configuration) -> None:
        """``wanted`` names replicas; the catalog wants their disks."""
        hosts = self._simulation.hosts
        disks = [
            frozenset(hosts[each.node].me for each in part)
            for part in (wanted.voters, wanted.learners)
        ]
        word = DesiredMembers(len(self._words[group]) + 1, *disks)
        self._words[group].append(word)
        self._simulation.wanted[group].append(wanted)
        self._simulation.note("ops", f"wanted of {group}: {shown(wanted)}")
        for host in hosts.values():
            self._tell(host, group, word)
            self._offer_soon(host, group, word)

    def _tell(self, host: Host, group: int, word: DesiredMembers) -> None:
        """Again and again: a group that was not there, or has another life, has not heard it."""
        delay_us = self._rng.randrange(HEARD_US_MAX)
        self._simulation.world.after(delay_us, self._on_told, host, group, word)

    def _on_told(self, host: Host, group: int, word: DesiredMembers) -> None:
        slot = host.hosts(group)
        if slot is not None and slot.is_up and group in slot.groups:
            slot.tell(group, word, control=True)
        self._simulation.world.after(TOLD_AGAIN_US, self._tell, host, group, word)

    def _offer_soon(self, host: Host, group: int, word: DesiredMembers) -> None:
        if host.me in word.voters | word.learners:
            delay_us = OFFER_AGAIN_US + self._rng.randrange(OFFER_AGAIN_US)
            self._simulation.world.after(delay_us, self._offer, host, group, word)

    def _offer(self, host: Host, group: int, word: DesiredMembers) -> None:
        """Whatever life its disk is now; not when another word has come, nor another disk."""
        if word is not self._words[group][-1] or host.me not in word.voters | word.learners:
            return
        members = self._simulation.checkers[group].configuration
        if host.is_up and host.hosts(group) is not None and host.replica(group) not in members:
            placed = host.placement.groups[group]
            options = {"incarnation": str(host.me.incarnation), "life": str(placed.life)}
            batch = protocol.encode_admin("offerReplica", host.name, options, ASK_TIMEOUT_MS)
            self.offers += 1
            host.ask(placed.name, batch, lambda code, reason, data: None)
        self._offer_soon(host, group, word)
