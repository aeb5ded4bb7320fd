"""Whole lives of small clusters by seed: everything that a network, a disk and a process can do
wrong.

First a storm: messages are lost, doubled and overtake each other, saves take their time, replicas
crash and lose what was not durable, time passes unevenly. :mod:`tests.raft.network` checks the
invariants after every step and that nothing ever applied differs between two replicas. Then all is
well again, and within a few election timeouts there must be a leader, all logs must be equal, and
whatever was once applied must still be there.

A failing seed is the whole report: ``pytest tests/raft/test_storms.py -k "3-17"``.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from raft.messages import (
    LEASE,
    LINEARIZABLE,
    LinkClosed,
    PeerMessage,
    Read,
    Reconfigure,
    Tick,
    Transfer,
)
from raft.settings import RaftSettings
from tests.raft.network import Network, entries

STORM_STEPS = 1_200
SETTINGS = RaftSettings(inflight_messages_max=3, append_bytes_max=40, inflight_bytes_max=80)


class Storm:
    """``spares``: nodes beyond the first members; with them, membership changes as well."""

    def __init__(self, voters: int, learners: int, seed: int, spares: int = 0) -> None:
        self.random = random.Random(seed)
        settings = replace(
            SETTINGS, lease_reads=seed % 3 == 0, follower_reads=True, snapshot_chunk_bytes=40
        )
        self.network = Network(voters, learners=learners, seed=seed, settings=settings)
        for number in range(voters + learners + 1, voters + learners + spares + 1):
            self.network.add(f"n{number}")
        self.voters = voters
        self.names = list(self.network.nodes)
        self.proposed = 0
        self.reads: dict[tuple[str, int], int] = {}
        self.actions = {
            self.deliver_some: 60,
            self.let_time_pass: 25,
            self.persist_some: 30,
            self.propose: 12,
            self.read: 4,
            self.cut_leader_off: 1,
            self.lose_one: 4,
            self.double_one: 4,
            self.crash: 1,
            self.restart: 3,
            self.fail_power: 1,
            self.close_link: 1,
            self.cut: 2,
            self.heal: 2,
        }
        if spares:
            self.actions |= {
                self.reconfigure: 3,
                self.transfer: 1,
                self.snapshot: 2,
                self.read_elsewhere: 3,
                self.read_by_lease: 3,
            }

    def run(self) -> None:
        actions, weights = list(self.actions), list(self.actions.values())
        for name in self.names:
            self.network[name].persists_at_once = False
        for action in self.random.choices(actions, weights, k=STORM_STEPS):
            action()

    def up(self) -> list[str]:
        return [name for name in self.names if self.network[name].is_up]

    def any_message(self) -> PeerMessage | None:
        in_flight = self.network.in_flight
        return self.random.choice(in_flight) if in_flight else None

    def deliver_some(self) -> None:
        # Mostly in order, sometimes not.
        if self.random.random() < 0.8:
            self.network.deliver(count=self.random.randint(1, 8))
        elif (message := self.any_message()) is not None:
            self.network.in_flight.remove(message)
            self.network.deliver_again(message)

    def let_time_pass(self) -> None:
        self.network.now += self.random.choice((1, 5, 20, 60, 60, 200))
        for name in self.up():
            if self.network.core(name).next_deadline() <= self.network.now:
                self.network.step(name, Tick())

    def persist_some(self) -> None:
        for name in self.up():
            if self.random.random() < 0.5:
                self.network.persist(name, count=self.random.choice((1, 1, 2, 5)))

    def propose(self) -> None:
        for name in self.up():
            core = self.network.core(name)
            if core.is_leader and not core.is_transferring:
                self.proposed += 1
                self.network.propose(
                    name,
                    count=self.random.randint(1, 4),
                    body=b"%d." % self.proposed * self.random.choice((1, 8)),
                )

    def read(self) -> None:
        leader = self.network.leader
        if leader is not None:
            handed = max(node.core.handed_index for node in self.network.nodes.values())
            self.reads[leader.name, self.network.read(leader.name)] = handed
            self.check_reads()

    def read_elsewhere(self) -> None:
        """A follower asks the leader; what it may serve reaches what anybody had applied."""
        name = self.random.choice(self.up() or self.names)
        node = self.network[name]
        if node.is_up and not node.core.is_leader:
            self.ask(name, LINEARIZABLE)

    def read_by_lease(self) -> None:
        leaders = [name for name in self.up() if self.network.core(name).is_leader]
        if leaders:
            self.ask(self.random.choice(leaders), LEASE)

    def ask(self, name: str, mode: int) -> None:
        handed = max(node.core.handed_index for node in self.network.nodes.values())
        self.network._tokens += 1
        self.reads[name, self.network._tokens] = handed
        self.network.step(name, Read(self.network._tokens, mode))
        self.check_reads()

    def reconfigure(self) -> None:
        leader = self.network.leader
        if leader is not None:
            members = [self.network[name].me for name in self.names]
            self.random.shuffle(members)
            count = self.random.randint(1, 4)
            self.network._tokens += 1
            change = Reconfigure(
                self.network._tokens,
                frozenset(members[:count]),
                frozenset(members[count : count + self.random.randint(0, 2)]),
            )
            self.network.step(leader.name, change)

    def transfer(self) -> None:
        leader = self.network.leader
        if leader is not None:
            to = self.random.choice([None, *(node.me for node in self.network.nodes.values())])
            self.network._tokens += 1
            self.network.step(leader.name, Transfer(self.network._tokens, to))

    def snapshot(self) -> None:
        name = self.random.choice(self.up() or self.names)
        node = self.network[name]
        if node.is_up and node.core.handed_index > 0 and node.core.restoring is None:
            keep = self.random.choice((0, 3, 20))
            self.network.snapshot(name, keep=keep, size_bytes=self.random.choice((0, 30, 150)))

    def check_reads(self) -> None:
        """A read index reaches everything that anybody had applied when the read arrived."""
        for node in self.network.nodes.values():
            for token, index in node.reads:
                expected = self.reads[node.name, token]
                assert index >= expected, f"{node.name} reads at {index}, {expected} was applied"

    def lose_one(self) -> None:
        if (message := self.any_message()) is not None:
            self.network.in_flight.remove(message)

    def double_one(self) -> None:
        if (message := self.any_message()) is not None:
            self.network.deliver_again(message)

    def crash(self) -> None:
        name = self.random.choice(self.names)
        if self.network[name].is_up:
            self.network.crash(name)

    def restart(self) -> None:
        for name in self.names:
            if not self.network[name].is_up:
                self.network.restart(name)
                self.network[name].persists_at_once = False
                return

    def fail_power(self) -> None:
        """All at once: what was acknowledged without being durable has no other copy either."""
        for name in self.up():
            self.network.crash(name)
        for _ in self.names:
            self.restart()

    def close_link(self) -> None:
        one, other = self.random.sample(self.names, 2)
        for name, node in ((one, other), (other, one)):
            if self.network[name].is_up:
                self.network.step(name, LinkClosed(node))

    def cut_leader_off(self) -> None:
        """It goes on appending, alone, what the others will never hear of."""
        leader = self.network.leader
        if leader is not None:
            self.propose()
            self.network.heal()
            self.network.isolate(leader.name)
            self.propose()

    def cut(self) -> None:
        self.network.cut(*self.random.sample(self.names, 2))

    def heal(self) -> None:
        self.network.heal()

    def calm(self) -> None:
        self.network.heal()
        while len(self.up()) < len(self.names):
            self.restart()
        for name in self.names:
            self.network.release_disk(name)
        self.network.run(12 * SETTINGS.election_timeout_ms)


@pytest.mark.parametrize("voters", [1, 2, 3])
@pytest.mark.parametrize("seed", range(24))
def test_members_come_and_go_in_a_storm_and_nothing_breaks(voters: int, seed: int) -> None:
    storm = Storm(voters, learners=seed % 2, seed=seed, spares=3)
    storm.run()
    storm.calm()
    network = storm.network
    storm.check_reads()
    leader = network.leader
    assert leader is not None, "no leader although all is well"
    core = leader.core
    assert core.can_serve
    assert core.commit_index == core.last_index
    assert not core.configuration.is_joint
    for member in core.configuration.members:
        node = network[member.node]
        assert node.core.leader == leader.me
        assert node.core.last_index == core.last_index
        assert node.core.handed_index == core.commit_index
        assert node.core.configuration == core.configuration
        assert not node.saves


@pytest.mark.parametrize("voters", [2, 3, 5])
@pytest.mark.parametrize("seed", range(12))
def test_a_storm_breaks_nothing_and_is_followed_by_calm(voters: int, seed: int) -> None:
    storm = Storm(voters, learners=seed % 2, seed=seed)
    storm.run()
    storm.calm()
    network = storm.network
    storm.check_reads()
    leader = network.leader
    assert leader is not None, "no leader although all is well"
    assert leader.core.can_serve
    for node in network.nodes.values():
        assert node.core.leader == leader.me
        assert node.log == leader.log
        assert node.core.commit_index == node.core.last_index
        assert entries(node.applied) == leader.log
        assert not node.saves


def test_the_same_seed_gives_the_same_life() -> None:
    def life() -> list[list[tuple[int, int]]]:
        storm = Storm(3, learners=1, seed=5)
        storm.run()
        return [node.log for node in storm.network.nodes.values()]

    assert life() == life()
