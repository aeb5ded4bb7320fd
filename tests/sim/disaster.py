"""A majority of one group is lost for good, and somebody makes the rest of it go on.

Once in a history at most.  The lost replicas never come back; their hosts may, wiped.  Lost are all
but a minority of the voters: a learner, or one that was removed and not told, may know of more that
is committed than any voter that is left, and must not meet whoever begins anew without it (see
docs/raft.md, "Reset of peers").  The operator waits until nobody leads any more, looks at the logs
of all survivors, and has the one that goes furthest reset the group onto itself alone, or onto all
survivors; again, if that came to nothing.

What the checkers allow from then on is exactly this (:meth:`GroupChecker.expect_reset`): once that
one leads, what is committed and not in its log is gone, with all that clients were told of it, and
the configuration may take that one step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from raft.configuration import Configuration
from raft.membership import RESET_TERM_LEAP
from raft.messages import Replica
from raft.quorum import majority
from tests.sim.checkers import Reset
from tests.sim.slot import Slot
from tests.sim.world import MS

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

CALM_ELECTIONS: Final = (4, 10)  # election timeouts until somebody looks what is left
AGAIN_ELECTIONS: Final = 3
LAGGING: Final = 0.8  # of the disasters
LAG_ELECTIONS: Final = (1, 4)  # election timeouts for which the survivors hear nothing before


class Disaster:
    """``survivors``: where the voters are that are left."""

    def __init__(
        self, simulation: Simulation, group: int, survivors: Sequence[Slot], rng: random.Random
    ) -> None:
        self.group = group
        self._simulation = simulation
        self._checker = simulation.checkers[group]
        self._survivors = survivors
        self._wants_all = rng.random() < 0.5
        self._asked: tuple[int, Slot, int] | None = None  # number, of whom, in which life
        self._election_us = simulation.plan.settings.election_timeout_ms * MS

    @property
    def is_over(self) -> bool:
        return self._checker.is_reset

    def begin(self, rng: random.Random) -> None:
        simulation = self._simulation
        for host in simulation.hosts.values():
            slot = host.hosts(self.group)
            if slot is None or slot in self._survivors:
                continue
            slot.die("it burns")
            slot.lose("for good, with a majority")
            # What it has sent is not to come after somebody has looked what is left.
            simulation.network.reset(simulation.network.around(host.name))
        names = ", ".join(sorted(slot.host.name for slot in self._survivors))
        simulation.note("ops", f"of {self.group} there is left: {names}")
        simulation.world.after(rng.randint(*CALM_ELECTIONS) * self._election_us, self._try)

    def _try(self) -> None:
        if self.is_over:
            return
        self._simulation.world.after(AGAIN_ELECTIONS * self._election_us, self._try)
        slots = self._survivors
        if not all(slot.host.is_up and slot.is_up for slot in slots) or self._is_under_way():
            return
        best = max(slots, key=lambda slot: self._reach_of(slot))
        everybody = frozenset(each.host.replica(self.group) for each in slots)
        voters = everybody if self._wants_all else {best.host.replica(self.group)}
        self._ask(best, Configuration(frozenset(voters)))

    def _reach_of(self, slot: Slot) -> tuple[int, int, Replica]:
        core = slot.groups[self.group].core
        return core.last_term, core.last_index, core.me

    def _is_under_way(self) -> bool:
        """It may yet come to something: a restart forgets it."""
        if self._asked is None:
            return False
        number, slot, life = self._asked
        if slot.life != life:
            return False
        core = slot.groups[self.group].core
        return self._simulation.operator.is_asked(number) or core._override is not None

    def _ask(self, slot: Slot, configuration: Configuration) -> None:
        simulation = self._simulation
        core = slot.groups[self.group].core
        durable_index = core.durable_index
        durable_term = core.log.term_at(durable_index)
        assert durable_term is not None
        term_least = core.term + RESET_TERM_LEAP
        self._checker.expect_reset(
            Reset(core.me, configuration, term_least, durable_index, durable_term)
        )
        names = ",".join(sorted(each.node for each in configuration.voters))
        group = simulation.plan.group(self.group).name
        number = simulation.operator.ask_at(slot.host, group, "resetPeers", names, {})
        self._asked = number, slot, slot.life


def maybe_strike(simulation: Simulation, group: int, rng: random.Random) -> None:
    """Unless it is not the moment.  Mostly those who will be left have not heard anything for a
    while by then, so that there is something to be lost."""
    survivors = _draw_survivors(simulation, group, rng)
    if survivors is None:
        return
    if rng.random() < LAGGING:
        names = {slot.host.name for slot in survivors}
        network = simulation.network
        pairs = [pair for pair in network.pairs() if (pair[0] in names) != (pair[1] in names)]
        simulation.note("net", f"{', '.join(sorted(names))} will be left")
        network.wall(pairs, thick=False)

        def strike() -> None:
            network.unwall(pairs, thick=False)
            if _may_survive(simulation, group, survivors):
                _strike(simulation, group, survivors, rng)

        election_us = simulation.plan.settings.election_timeout_ms * MS
        delay_us = rng.randint(*LAG_ELECTIONS) * election_us
        simulation.world.after(delay_us, simulation.unless_healed, strike)
    else:
        _strike(simulation, group, survivors, rng)


def _strike(simulation: Simulation, group: int, survivors: list[Slot], rng: random.Random) -> None:
    simulation.disaster = Disaster(simulation, group, survivors, rng)
    simulation.disaster.begin(rng)


def _sound_voters(simulation: Simulation, group: int) -> list[Slot]:
    voters = simulation.checkers[group].configuration.voters
    return [
        slot
        for replica in sorted(voters)
        if (slot := simulation.slot_of(group, replica)) is not None and slot.is_sound(group)
    ]


def _may_survive(simulation: Simulation, group: int, survivors: list[Slot]) -> bool:
    """They are a minority of the voters, of which nobody can say that they are not all that is
    left; and no other group loses anything with the others."""
    checker = simulation.checkers[group]
    voters = checker.configuration.voters
    if simulation.disaster is not None or simulation.is_restoring:
        return False
    if checker.configuration.is_joint:
        return False
    if checker.configurations_possible() != [checker.configuration]:
        return False
    slots = [host.placed(group) for host in simulation.hosts.values()]
    if any(slot is not None and set(slot.plans) != {group} for slot in slots):
        return False
    sound = _sound_voters(simulation, group)
    return all(slot in sound for slot in survivors) and len(survivors) < majority(len(voters))


def _draw_survivors(simulation: Simulation, group: int, rng: random.Random) -> list[Slot] | None:
    checker = simulation.checkers[group]
    sound = _sound_voters(simulation, group)
    most = majority(len(checker.configuration.voters)) - 1
    if not 1 <= most <= len(sound):
        return None
    rng.shuffle(sound)
    if rng.random() < 0.7:  # those who have least: something is to be lost
        sound.sort(key=lambda slot: checker.disks[slot.host.replica(group)].last_index)
    survivors = sound[: rng.randint(1, most)]
    return survivors if _may_survive(simulation, group, survivors) else None
