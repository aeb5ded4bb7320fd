"""One history: a cluster and its clients under faults, then healed, then judged.

**Phase one**, safety: faults come and go, clients ask.  After every turn of a group the invariants
of its replica are held, and the checkers of the group follow what is stored, committed, applied and
promised.

**Phase two**, liveness: nothing goes wrong any more.  Within some election timeouts each group has
a leader and takes a write, all replicas that are left are equal, and no request waits for an
answer anywhere.

**The end**: what clients were told is held against the logs, and their histories have to be
linearizable.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from actors.group_admin import HAND_OVER_AGAIN_MS
from actors.local_groups import ASK_TIMEOUT_MS
from actors.local_groups import PAUSE_MS_MAX as LOCAL_PAUSE_MS_MAX
from actors.rebirths import PAUSE_MAX_MS
from actors.rebuild import PAUSE_MS_MAX
from actors.snapshots import FAILED_PAUSE_MS
from raft.configuration import Configuration
from raft.lives import life_of
from raft.messages import Replica
from raft.quorum import majority
from tests.linearizability import Undecided
from tests.sim.checkers import GroupChecker, check_equal, check_log_time, halves_of, shown
from tests.sim.clients import Client, Ledger, check_ledger
from tests.sim.clock import RATE_EXACT
from tests.sim.desire import Desire
from tests.sim.disaster import Disaster
from tests.sim.faults import FAULTS
from tests.sim.host import Host
from tests.sim.network import Network
from tests.sim.operator import IDENTITY, READER, Operator, Reader
from tests.sim.plan import GroupPlan, Plan, draw_plan
from tests.sim.restoring import Restoring
from tests.sim.slot import Slot
from tests.sim.world import MS, SECOND, World, draw_us

INCARNATION_FIRST: Final = 100
EVENTS_PER_LOOK: Final = 100  # between two looks at all logs
CALM_ELECTIONS: Final = 4  # election timeouts after the faults until all is taken to be calm
CLIENTS_STOP_US: Final = 1 * SECOND  # they go on for so long in the calm
SETTLE_ELECTIONS_MAX: Final = 12  # election timeouts until all must be well, beside
SETTLE_US_MAX: Final = 8 * SECOND  # what clients and routers may wait for answers that are lost
RESET_ELECTIONS_MAX: Final = 60  # until a group without its majority goes on
# Until a node that is wanted, or not, has asked the leader once more.
SETTLED_MS_MAX: Final = 2 * LOCAL_PAUSE_MS_MAX + ASK_TIMEOUT_MS
REBIRTH_MS_MAX: Final = 4 * PAUSE_MAX_MS  # until a replica that is lost has come back
SETTLE_LOOK_US: Final = 20 * MS


class NotSettled(AssertionError):
    """Healed long ago, and still something does not work."""


@dataclass(slots=True)
class Result:
    seed: int
    digest: str
    events: int
    simulated_us: int
    counts: Counter[str]


class Simulation:
    def __init__(
        self,
        seed: int,
        *,
        nodes: int | None = None,
        seconds: float | None = None,
        without: Collection[str] = (),
        sink: Callable[[str], None] | None = None,
    ) -> None:
        self.world = World(seed, sink)
        kinds = {name: fault.mean_ms for name, fault in FAULTS.items()}
        self.plan: Plan = draw_plan(
            self.world, kinds, nodes=nodes, seconds=seconds, without=without
        )
        plan = self.plan
        self.network = Network(self.world, plan.weather)
        self.checkers: dict[int, GroupChecker] = {}
        self.hosts: dict[str, Host] = {}
        self.clients: dict[bytes, Client] = {}
        self.ledgers: defaultdict[int, Ledger] = defaultdict(Ledger)
        self.events = 0
        self._is_healed = False
        self._faults_seen: Counter[str] = Counter()
        self.disaster: Disaster | None = None  # at most one in a history
        self._undecided = 0
        self._configurations: dict[int, Configuration] = {}
        replicas = {
            name: Replica(name, INCARNATION_FIRST + at) for at, name in enumerate(plan.nodes)
        }
        # Changes of members that were asked for, and of which nobody has said how they ended.
        self.wanted: defaultdict[int, list[Configuration]] = defaultdict(list)
        self.reader = Reader(self.world, plan, self.hosts)
        for each in plan.groups:
            self._add_checker(each, Configuration.of(*(replicas[name] for name in each.members)))
        for replica in list(replicas.values()):
            host = Host(
                self.world, plan, self.network, replica, self.checkers, self._reply_to_client
            )
            host.peers = replicas
            self.hosts[host.name] = host
        self.operator = Operator(self.world, self.hosts)
        self.desire = Desire(self)
        for host in self.hosts.values():
            host.catalog = self.desire
        self.restoring: Restoring | None = None  # at most one in a history
        for each in plan.groups:
            for _ in range(each.clients):
                self.add_client(each)

    def _add_checker(self, plan: GroupPlan, founders: Configuration) -> GroupChecker:
        checker = self.checkers[plan.group] = GroupChecker(
            plan.group, founders, self._note_group, self.reader.on_leader, self._on_reset
        )
        return checker

    def add_client(self, plan: GroupPlan) -> Client:
        number = len(self.clients) + 1
        hosts = list(self.hosts.values())
        ledger, checker = self.ledgers[plan.group], self.checkers[plan.group]
        client = Client(self.world, plan, number, hosts, ledger, checker)
        self.clients[client.identity] = client
        return client

    def add_group(self, plan: GroupPlan, founders: Configuration) -> GroupChecker:
        """While the cluster runs."""
        self.plan.groups += (plan,)
        checker = self._add_checker(plan, founders)
        for host in self.hosts.values():
            host.add_group(plan)
        return checker

    # ------------------------------------------------------------------ running

    def run(self) -> Result:
        for host in self.hosts.values():
            host.start()
        for client in self.clients.values():
            client.start()
        for name in self.plan.faults:
            self._schedule(name, self.world.stream(f"fault/{name}"))
        self._run_until(self.plan.faults_us)
        self._heal()
        self._await_reset()
        self.world.calm_us = self._calm_us()
        self._run_until(self.world.calm_us)
        self._ask_for_everything()
        self._run_until(self.world.now_us + CLIENTS_STOP_US)
        for client in self.clients.values():
            client.is_stopped = True
        self._settle()
        self._judge()
        world = self.world
        return Result(world.seed, world.trace.digest(), self.events, world.now_us, self.counts())

    def _run_until(self, until_us: int) -> None:
        count = EVENTS_PER_LOOK
        while count == EVENTS_PER_LOOK:
            count = self.world.run(until_us, EVENTS_PER_LOOK)
            self.events += count
            self._look()

    def _look(self) -> None:
        """Now and then, at all that is up."""
        for group, checker in self.checkers.items():
            if checker.configuration != self._configurations.get(group):
                self._configurations[group] = checker.configuration
                for host in self.hosts.values():
                    host.on_members_changed(group)
        for host in self.hosts.values():
            for slot in host.slots:
                if slot.is_up:
                    for group, actor in slot.groups.items():
                        self.checkers[group].check_tail(actor.core)

    def _schedule(self, name: str, rng: random.Random) -> None:
        wait_us = int(rng.expovariate(1.0 / self.plan.faults[name])) + 1
        self.world.after(wait_us, self._strike, name, rng)

    def _strike(self, name: str, rng: random.Random) -> None:
        if not self._is_healed:
            self._faults_seen[name] += 1
            FAULTS[name].apply(self, rng)
            self._schedule(name, rng)

    # ------------------------------------------------------------------ what faults may use

    def note(self, where: str, what: str) -> None:
        self.world.note(where, what)

    def later(self, rng: random.Random, longest_ms: int, end: Callable[[], None]) -> None:
        """``end`` what lasts, after a while; healing ends it otherwise."""
        self.world.after(draw_us(rng, 1 * MS, longest_ms * MS), self.unless_healed, end)

    def unless_healed(self, end: Callable[[], None]) -> None:
        if not self._is_healed:
            end()

    def crash(self, host: Host, why: str, *, power: bool, closes: bool) -> None:
        """``closes``: the others see its connections close, and do not just hear nothing."""
        host.crash(why, power=power)
        if closes:
            for other in self.hosts.values():
                if other is not host:
                    delay_us = draw_us(host.rng, 50, 5 * MS)
                    self.world.after(delay_us, other.on_link_closed, host.name)
        for client in self.clients.values():
            if host.rng.random() < 0.7:
                client.on_host_down(host.name)

    def break_link(self, rng: random.Random, first: str, second: str) -> None:
        self.network.reset(((first, second), (second, first)))
        for end, other in ((first, second), (second, first)):
            if rng.random() < 0.7:
                delay_us = draw_us(rng, 50, 5 * MS)
                self.world.after(delay_us, self.hosts[end].on_link_closed, other)

    def may_lose(self, slot: Slot) -> bool:
        """Whether all groups of the slot would survive it: majorities elsewhere are undamaged, in
        each configuration that is in force, may come to be, or was asked for."""
        if slot.is_lost or slot.is_flipped or self.is_restoring:
            return False
        return all(self.can_do_without(slot.host.replica(group), group) for group in slot.plans)

    @property
    def is_restoring(self) -> bool:
        """A new group has begun on some disks, and not yet on all."""
        return self.restoring is not None and self.restoring.is_beginning

    def may_lose_snapshot(self, slot: Slot, group: int) -> bool:
        """The same of one replica alone, whose machine may be quarantined then, and is rebuilt by
        what the others have."""
        return slot.is_sound(group) and self.can_do_without(slot.host.replica(group), group)

    def can_do_without(self, replica: Replica, group: int) -> bool:
        return all(
            sum(self._is_sound(group, each) for each in half - {replica}) >= majority(len(half))
            for configuration in (
                *self.checkers[group].configurations_possible(),
                *self.wanted[group],
                *self.desire.possible(group),
            )
            for half in halves_of(configuration)
        )

    def _is_sound(self, group: int, replica: Replica) -> bool:
        """Its disk is as it left it, as far as anybody knows."""
        slot = self.slot_of(group, replica)
        return slot is not None and slot.is_sound(group)

    def slot_of(self, group: int, replica: Replica) -> Slot | None:
        """Where it is, up or not; None: it is gone."""
        host = self.hosts[replica.node]
        return host.placed(group) if host.replica(group) == replica else None

    def slots_for(self, group: int) -> list[Slot]:
        """Where a replica of the group may be, or is."""
        number = self.plan.group(group).slot
        hosts = [host for host in self.hosts.values() if host.is_up]
        slots = [host.placed(group) or host.slot(number) for host in hosts]
        return [slot for slot in slots if slot.is_sound(group)]

    def leader_of(self, group: int) -> Slot | None:
        """The one that leads, as far as it knows; of several the newest."""
        leaders = [slot for slot in self._slots_up() if slot.leads(group)]
        return max(leaders, key=lambda slot: slot.groups[group].core.term, default=None)

    def _slots_up(self) -> list[Slot]:
        return [slot for host in self.hosts.values() for slot in host.slots if slot.is_up]

    def senders_of_snapshots(self) -> list[Slot]:
        """Where somebody is getting one from, or shall when he is heard again."""
        return [
            slot
            for slot in self._slots_up()
            if any(actor.core.snapshots_in_use for actor in slot.groups.values())
        ]

    def leading_hosts(self) -> list[Host]:
        return [
            host
            for host in self.hosts.values()
            if any(slot.leads(group) for slot in host.slots for group in slot.groups)
        ]

    # ------------------------------------------------------------------ healing

    def _heal(self) -> None:
        """Whatever went wrong has stopped, and whoever is down comes back."""
        self._is_healed = True
        self.note("world", "heals")
        self.network.heal()
        for host in self.hosts.values():
            host.clock.run_at(RATE_EXACT)
            host.on_clock_changed()
            host.node.heal()
            for slot in host.slots:
                slot.dies_after = None
                slot.troubles.end()
                slot.disk_factor = 1
                slot.disk_free_us = 0
                slot.files.repair()
                slot.files.limit_bytes = None
            host.restart()

    def _await_reset(self) -> None:
        """Where a majority is lost, it takes somebody to make the rest go on."""
        if self.disaster is None:
            return
        election_us = self.plan.settings.election_timeout_ms * MS
        deadline_us = self.world.now_us + RESET_ELECTIONS_MAX * election_us + SETTLE_US_MAX
        while not self.disaster.is_over:
            assert self.world.now_us < deadline_us, f"group {self.disaster.group} is not reset"
            self._run_until(self.world.now_us + SETTLE_LOOK_US)

    def _calm_us(self) -> int:
        """From when on nothing is left of what went wrong."""
        election_us = self.plan.settings.election_timeout_ms * MS
        paused_us = max(
            max(host.paused_until_us, *(slot.busy_until_us for slot in host.slots))
            for host in self.hosts.values()
        )
        return max(self.world.now_us, paused_us) + CALM_ELECTIONS * election_us

    def _ask_for_everything(self) -> None:
        """Each command of an operator once: now it has to be answered by whom it is for; and a
        write, which has to succeed."""
        rng = self.world.stream("calm")
        for plan in self.plan.groups:
            self.operator.write(plan.name)
            for command in ("transferLeader", "doSnapshot"):
                self.operator.ask(rng, plan.name, command, rng.choice(("", *plan.members)))

    def _settle(self) -> None:
        election_us = self.plan.settings.election_timeout_ms * MS
        began_us = self.world.now_us
        patience_us = SETTLE_ELECTIONS_MAX * election_us + SETTLE_US_MAX
        why = "nothing was looked at"
        pause_us = 0  # a pause that is over has been one all the same
        while self.world.now_us < began_us + patience_us + pause_us:
            pause_us = max(pause_us, self._pause_us())
            self._run_until(self.world.now_us + SETTLE_LOOK_US)
            found = self._unsettled()
            if found is None:
                return
            why = found
        raise NotSettled(f"still at {self.world.now_us / SECOND:.3f} s: {why}")

    def _pause_us(self) -> int:
        """How long a leader whose machine is quarantined may be one: somebody has made it that,
        and it gives leadership away no more often.  How long a machine that has failed again and
        again waits for the next two attempts to rebuild it: one of them asks the leader.  How long
        one that could not write a snapshot lets those who need it wait."""
        slots = self._slots_up()
        if any(slot.is_quarantined for slot in slots):
            return (HAND_OVER_AGAIN_MS + 2 * PAUSE_MS_MAX) * MS
        actors = [actor for slot in slots for actor in slot.groups.values()]
        if any(not host.node.rebirths.is_idle for host in self.hosts.values()):
            return REBIRTH_MS_MAX * MS
        if any(self.desire.unsettled(group) for group in self.checkers):
            return SETTLED_MS_MAX * MS
        has_failed = any(actor.snapshots.counts["failed"] for actor in actors)
        return FAILED_PAUSE_MS * MS if has_failed else 0

    def _unsettled(self) -> str | None:
        """What is not yet as it has to be at the end."""
        if self.operator.unwritten:
            return f"{', '.join(sorted(self.operator.unwritten))} takes no write"
        for client in self.clients.values():
            if client.is_waiting:
                return f"client {client.number} waits"
        for host in self.hosts.values():
            if host.routing.under_way:
                return f"{host.routing.under_way} messages wait in the router of {host.name}"
            for slot in host.slots:
                if not (slot.is_up or slot.is_lost):
                    return f"{slot.where} is down"
        for group, checker in self.checkers.items():
            for host in self.hosts.values():
                if self._comes_back(host, group):
                    return f"{host.name} has not come back in {group}"
            why = self._unsettled_group(group, checker) or self.desire.unsettled(group)
            if why is not None:
                return f"group {group}: {why}"
        return None

    def _comes_back(self, host: Host, group: int) -> bool:
        """It is a member, and another life of it than the one that there is."""
        slot = host.placed(group)
        if slot is None or slot.is_lost:
            return False
        members = self.checkers[group].configuration.members
        is_member = any(life_of(each, host.me, group) is not None for each in members)
        return is_member and str(group) in host.node.rebirths.state()

    def _unsettled_group(self, group: int, checker: GroupChecker) -> str | None:
        slots = [slot for slot in self._slots_up() if group in slot.groups]
        for slot in slots:
            if slot.groups[group].pending_count:
                return f"{slot.groups[group].pending_count} messages wait in {slot.where}"
        members = self._members_left(group, checker)
        leaders = [slot for slot in members if slot.groups[group].core.can_serve]
        if not any(slot.machines[group].error is None for slot in leaders):
            return "nobody leads who can answer"
        for slot in members:
            core, machine = slot.groups[group].core, slot.machines[group]
            if machine.error is not None:
                return f"the machine of {slot.where} has failed: {machine.error}"
            at = (core.last_index, core.commit_index, core.durable_index, machine.applied_index)
            if set(at) != {checker.committed_index}:
                return f"{slot.where} is at {at}, committed is {checker.committed_index}"
            if core.configuration != checker.configuration or core.configuration.is_joint:
                return f"{slot.where} has {shown(core.configuration)}"
        return None

    def _members_left(self, group: int, checker: GroupChecker) -> list[Slot]:
        """Members of the committed configuration that are there, learners too."""
        configuration = checker.configuration
        return [
            slot
            for slot in self._slots_up()
            if group in slot.groups and slot.host.replica(group) in configuration
        ]

    # ------------------------------------------------------------------ judging

    def _judge(self) -> None:
        for group, checker in self.checkers.items():
            members = self._members_left(group, checker)
            states = {
                slot.where: (
                    slot.machines[group].applied_index,
                    slot.machines[group].machine.digest(),
                    slot.groups[group].core.term,
                )
                for slot in members
            }
            voters = checker.configuration.voters
            left = sum(slot.host.replica(group) in voters for slot in members)
            assert left >= majority(len(voters)), f"only {left} of {len(voters)} voters are left"
            check_equal(group, states)
            check_log_time(checker.committed)
            ledger = self.ledgers[group]
            check_ledger(ledger, checker)
            try:
                ledger.check_linearizable()
            except Undecided as error:
                self._undecided += 1
                self.note("world", f"group {group}: {error}")

    def counts(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for name, count in self._faults_seen.items():
            found[f"fault {name}"] += count
        for checker in self.checkers.values():
            found.update(checker.counts)
        for client in self.clients.values():
            found.update({f"clients {name}": count for name, count in client.counts.items()})
        for host in self.hosts.values():
            for slot in host.slots:
                found.update(slot.counts)
                found["lost"] += slot.is_lost
            found.update(host.node.counts)
            found["messages misdirected"] += host.misdirected
            found.update({f"message {name}": count for name, count in host.messages.items()})
        found.update({f"operator {name}": count for name, count in self.operator.counts.items()})
        found.update({f"frames {name}": count for name, count in self.network.counts.items()})
        if self.restoring is not None:
            found["backups"] += self.restoring.has_backup
            found["groups restored"] += self.restoring.group is not None
        found["reads of two leaders"] += self.reader.count
        found["undecided"] += self._undecided
        return found

    # ------------------------------------------------------------------ inside

    def _reply_to_client(self, identity: bytes, correlation: bytes, payload: bytes) -> None:
        if identity == IDENTITY:
            self.operator.take_reply(correlation, payload)
        elif identity != READER:
            self.clients[identity].take_reply(correlation, payload)

    def _on_reset(self, group: int) -> None:
        checker = self.checkers[group]
        under_way = [
            operation
            for client in self.clients.values()
            if client.plan.group == group
            for operation in client.under_way()
        ]
        self.ledgers[group].begin_anew(checker.kept_index, under_way)
        self.wanted[group].clear()

    def _note_group(self, what: str) -> None:
        self.world.note("group", what)
