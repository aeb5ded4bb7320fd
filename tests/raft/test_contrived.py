"""Schedules that chance hardly ever draws: answers of other terms and lives, receivers that always
begin again, removed leaders that still lead.

Each was first a way to break something.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raft.errors import Contradiction
from raft.membership import RESET_TERM_LEAP
from raft.messages import (
    COMMAND,
    LEASE,
    LINEARIZABLE,
    Append,
    AppendReply,
    ChunkStored,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    PreVote,
    PreVoteReply,
    Read,
    Reconfigure,
    Replica,
    ResetPeers,
    SnapshotChunk,
    Tick,
    Transfer,
    Vote,
    VoteReply,
)
from raft.roles import FOLLOWER
from raft.settings import RaftSettings
from tests.raft.network import Disk, Network, Node, led, make_run, replica

N1, N2, N3, N4 = (replica(f"n{number}") for number in range(1, 5))
TOKEN = 4_711


def between(one: str, other: str) -> Callable[[PeerMessage], bool]:
    return lambda message: {message.sender.node, message.to.node} == {one, other}


# --------------------------------------------------------------------------- another term's round


def an_answer_to_the_leader_before() -> tuple[Network, HeartbeatReply]:
    """n1 led, heard nobody, and leads the next term with n3.  A heartbeat of its first term reached
    n2 when that stood for the second one; the answer is on its way."""
    network = Network(3, settings=RaftSettings(lease_reads=True))
    network.elect("n1")
    network.run(1_500)
    network.tick("n1")
    slow = next(it for it in network.in_flight if it.to == N2)
    network.drop()
    network.now += 1_100
    network.step("n1", Tick())
    network.drop()
    network.now += 2_100
    for name in ("n2", "n1"):
        network.step(name, Tick())
        network.deliver(lambda it: isinstance(it, PreVote) and it.to == N3)
    network.deliver(lambda it: isinstance(it, PreVoteReply))
    network.deliver(lambda it: isinstance(it, Vote) and between("n1", "n3")(it))
    network.deliver(lambda it: isinstance(it, VoteReply) and it.to == N1)
    assert network.core("n1").is_leader
    assert network.core("n2").term == network.core("n1").term == slow.term + 1
    network.drop(between("n1", "n2"))
    network.deliver_again(slow)
    (late,) = network.drop(lambda it: isinstance(it, HeartbeatReply) and it.sender == N2)
    assert isinstance(late, HeartbeatReply)
    for _ in range(10):
        network.deliver(between("n1", "n3"))
    network.drop()
    return network, late


@pytest.mark.parametrize("mode", [LINEARIZABLE, LEASE])
def test_the_answer_to_a_heartbeat_of_an_older_term_confirms_no_round_of_this_one(
    mode: int,
) -> None:
    """Rounds are counted anew in each term.  n2 has promised nothing, and may vote for another."""
    network, late = an_answer_to_the_leader_before()
    core = network.core("n1")
    assert core.can_serve
    assert core._leadership is not None
    while core._leadership._round < late.round - 1:
        network.now += 20
        network.step("n1", Tick())
        network.deliver(between("n1", "n3"))
        network.drop()
    # From here on n3 is not heard any more, and may have voted for another leader.
    if mode == LINEARIZABLE:
        network.step("n1", Read(TOKEN, mode))
    else:
        while network.now < core.lease_until_ms:
            network.now += 20
            network.step("n1", Tick())
            network.drop()
    assert core.is_leader
    assert core._leadership._round >= late.round
    network.deliver_again(late)
    if mode == LEASE:
        assert core.lease_until_ms <= network.now
        network.step("n1", Read(TOKEN, mode))
    assert network["n1"].reads == []


@pytest.mark.parametrize("message", [Heartbeat(N2, N1, 1, 0, 7), Append(N2, N1, 1, 3, 1, 3, [])])
def test_what_an_older_leader_is_told_is_the_term_alone(message: PeerMessage) -> None:
    network = Network(3)
    network.elect("n3")
    network.step("n1", Heartbeat(N3, N1, 5, 0, 9))
    network["n1"].sent.clear()
    network.step("n1", message)
    (answer,) = network["n1"].sent
    assert answer in (
        HeartbeatReply(N1, N2, 5, 0),
        AppendReply(N1, N2, 5, 0, rejected=True),
    )


# --------------------------------------------------------------------------- another life's attempt


def test_a_pre_vote_for_an_attempt_of_an_earlier_life_does_not_count() -> None:
    """The link between the hosts outlives a worker, and what is on its way with it."""
    network = led(3)
    for one, other in (("n1", "n3"), ("n3", "n1")):
        network.cut(one, other)
    attempts = []
    for _ in range(2):
        network.now += 2_500
        network.step("n3", Tick())
        attempts.append(next(it for it in network.in_flight if isinstance(it, PreVote)))
        network.drop()
        network.crash("n3")
        network.now += 1_000
        network.restart("n3")
    assert attempts[0].campaign != attempts[1].campaign
    network.now += 2_500
    network.step("n3", Tick())
    first = attempts[0]
    network.step("n3", PreVoteReply(N2, N3, first.term, True, first.campaign))
    assert network.core("n3").term == network.core("n1").term, "it goes on asking"


# --------------------------------------------------------------------------- removed and leading


def test_a_leader_that_is_removed_and_hands_over_has_no_lease() -> None:
    """Its removal can be committed before it has handed over; then the one that votes alone may
    restart, and leads at once: nobody else can vote, so it owes nobody a wait."""
    network = Network(2, settings=RaftSettings(lease_reads=True))
    network.elect("n1")
    network.run(200)
    core = network.core("n1")
    network.step("n1", Reconfigure(1, frozenset([N2])))
    while core.configuration.is_joint or core.configuration.votes(N1):
        network.deliver(count=1)
    index = core.configuration_index
    network.drop(lambda it: isinstance(it, AppendReply))
    first = [it for it in network.in_flight if isinstance(it, Append) and it.runs[-1].last == index]
    network.propose("n1")
    network.step("n1", Transfer(2, N2))
    assert core.is_transferring
    network.deliver(lambda it: it in first)
    network.deliver(lambda it: it.to == N1)
    network.drop(lambda it: isinstance(it, Append))
    network.tick("n1")
    network.drop(lambda it: isinstance(it, Append))
    network.settle()
    assert core.is_leader
    assert core.commit_index == index
    network.step("n1", Read(TOKEN, LEASE))
    assert network["n1"].reads == []
    assert core.lease_until_ms <= network.now


# --------------------------------------------------------------------------- always from the start


class FullDisks(Network):
    """``full``: nodes that cannot store the last chunk of a snapshot, and so begin again."""

    full: tuple[str, ...] = ()

    def _store_chunk(self, node: Node, chunk: SnapshotChunk) -> None:
        if node.name not in self.full:
            super()._store_chunk(node, chunk)
            return
        snapshot = chunk.snapshot
        key = (snapshot.index, snapshot.term, snapshot.crc)
        held = node.received.get(key, 0)
        if chunk.offset == held and chunk.data:
            held += len(chunk.data)
            if held == snapshot.size_bytes:
                node.received = {}
                return
            node.received = {key: held}
        self.step(node.name, ChunkStored(snapshot, held))


def with_full(voters: int, *full: str, behind: tuple[str, ...]) -> FullDisks:
    network = FullDisks(voters, settings=RaftSettings(snapshot_chunk_bytes=400))
    network.full = full
    network.elect("n1")
    network.run(200)
    network.isolate(*behind)
    network.propose("n1")
    network.run(300)
    network.snapshot("n1", size_bytes=1_000)
    network.heal()
    return network


def test_who_can_never_finish_a_snapshot_does_not_keep_the_leader_s_log() -> None:
    network = with_full(5, "n5", behind=("n5",))
    core = network.core("n1")
    for _ in range(12):
        network.propose("n1", count=10)
        network.run(1_000)
        network.snapshot("n1", size_bytes=1_000, keep=0)
    network.run(100)
    assert core.last_index - core.log.base_index <= 10


def test_who_can_never_finish_a_snapshot_does_not_keep_its_place() -> None:
    network = with_full(7, "n5", "n6", behind=("n5", "n6", "n7"))
    network.run(20_000)
    assert network.core("n7").commit_index == network.core("n1").commit_index


def test_a_newcomer_that_can_never_finish_a_snapshot_does_not_hold_a_change_up() -> None:
    network = with_full(3, "n4", behind=())
    network.add("n4")
    network.propose("n1")
    network.snapshot("n1", size_bytes=1_000)
    network.step("n1", Reconfigure(1, frozenset([N1, N2, N3, N4])))
    network.run(60_000)
    (decision,) = network["n1"].decisions
    assert "does not come nearer" in (decision.error or "")


# --------------------------------------------------------------------------- two histories


def test_two_sides_that_are_both_reset_do_not_come_to_lead_the_same_terms() -> None:
    sides = [Replica("n1", 0x1234567), Replica("n3", 0x7654321)]
    terms = []
    for me in sides:
        network = Network(1)
        node = network[network.core("n1").me.node]
        node.core.me = me
        network.step("n1", ResetPeers(7, frozenset([me]), force=True))
        terms.append(node.core.term)
    assert min(terms) > RESET_TERM_LEAP
    assert abs(terms[0] - terms[1]) > RESET_TERM_LEAP


def test_another_run_of_the_same_term_is_a_contradiction() -> None:
    """One leader makes a run once; another disk brought back from a backup may have led again."""
    for other in (
        [make_run(COMMAND, 1, 1, count=2, crc=9), make_run(COMMAND, 1, 3)],
        [make_run(COMMAND, 1, 1), make_run(COMMAND, 1, 2), make_run(COMMAND, 1, 3)],
    ):
        network = Network(3)
        runs = [make_run(COMMAND, 1, 1, count=2), make_run(COMMAND, 1, 3)]
        network.step("n1", Append(N2, N1, 1, 0, 0, 2, runs))
        network.step("n1", Append(N2, N1, 1, 0, 0, 2, runs))
        assert network.core("n1").role == FOLLOWER
        with pytest.raises(Contradiction):
            network.step("n1", Append(N3, N1, 2, 0, 0, 2, other))


def test_also_of_runs_that_are_not_committed_and_begin_elsewhere() -> None:
    """Nothing is cut: there is no border where the other run begins."""
    network = Network(3)
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, [make_run(COMMAND, 1, 1, count=4)]))
    other = make_run(COMMAND, 1, 3, count=2)
    with pytest.raises(Contradiction, match="another run of term 1 that ends at 4"):
        network.step("n1", Append(N3, N1, 2, 2, 1, 0, [other]))


def test_an_acknowledgement_inside_a_run_is_nobody_s() -> None:
    """Of a replica with another history; the leader must not build on it."""
    network = Network(3, disks={"n1": Disk()})
    network.elect("n1")
    network.propose("n1", count=10)
    core = network.core("n1")
    network.drop()
    network.step("n1", AppendReply(N2, N1, core.term, 5))
    assert [peer.match for peer in core.progress() if peer.replica == N2] != [5]
