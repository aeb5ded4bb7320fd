"""The rules of Raft, one test each, named by the section of the paper (or thesis) that states them.

"In Search of an Understandable Consensus Algorithm (Extended Version)", Ongaro and Ousterhout,
2014; "Consensus: Bridging Theory and Practice", Ongaro, 2014.
"""

from __future__ import annotations

import pytest

from raft.messages import (
    COMMAND,
    Append,
    AppendReply,
    HardState,
    Heartbeat,
    PreVote,
    PreVoteReply,
    Run,
    Tick,
    Vote,
    VoteReply,
)
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE
from tests.raft.network import Disk, Network, make_run, replica, sent_by, to

N1, N2, N3 = replica("n1"), replica("n2"), replica("n3")


def log_of(*terms: int) -> list[Run]:
    """One run for each term: entries 1, 2, 3... of these terms."""
    return [make_run(COMMAND, term, index) for index, term in enumerate(terms, start=1)]


def disk(term: int, *terms: int, vote: str | None = None) -> Disk:
    return Disk(HardState(term, replica(vote) if vote else None), log_of(*terms))


def candidate(network: Network, name: str = "n1") -> None:
    """Through the pre-vote with the help of the others, up to the vote requests."""
    network.now += 2 * network.settings.election_timeout_ms
    network.tick(name)
    core = network.core(name)
    others = sorted(network.nodes.keys() - {name})[: len(network.nodes) // 2]
    network.answer_pre_vote(name, *map(replica, others))
    network.drop(lambda message: isinstance(message, PreVote))
    assert core.role == CANDIDATE


# --------------------------------------------------------------------------- 5.1 terms


@pytest.mark.parametrize("role", [FOLLOWER, PRE_CANDIDATE, CANDIDATE, LEADER])
def test_5_1_a_higher_term_makes_a_follower_of_everybody(role: int) -> None:
    network = Network(3)
    if role == PRE_CANDIDATE:
        network.tick("n1")
    elif role == CANDIDATE:
        candidate(network)
    elif role == LEADER:
        network.elect("n1")
    assert network.core("n1").role == role
    network.step("n1", AppendReply(N2, N1, 7, 0))
    core = network.core("n1")
    assert (core.role, core.term, core.vote, core.leader) == (FOLLOWER, 7, None, None)


def test_5_1_requests_of_an_older_term_are_refused() -> None:
    network = Network(3, disks={"n1": disk(5, 5)})
    network.step("n1", Vote(N2, N1, 4, 9, 4))
    network.step("n1", Append(N2, N1, 4, 0, 0, 0, log_of(4)))
    assert network["n1"].sent == [
        VoteReply(N1, N2, 5, False),
        AppendReply(N1, N2, 5, 0, rejected=True),
    ]
    assert network["n1"].log == [(1, 5)]


# --------------------------------------------------------------------------- 5.2 elections


def test_5_2_who_hears_nothing_becomes_a_candidate_in_a_new_term() -> None:
    network = Network(3)
    candidate(network)
    core = network.core("n1")
    assert (core.term, core.vote) == (1, N1)
    assert network.drop() == [Vote(N1, N2, 1, 0, 0), Vote(N1, N3, 1, 0, 0)]


@pytest.mark.parametrize(
    ("voters", "grants", "role"),
    [(3, 0, CANDIDATE), (3, 1, LEADER), (5, 1, CANDIDATE), (5, 2, LEADER), (2, 1, LEADER)],
)
def test_5_2_a_majority_of_votes_makes_a_leader(voters: int, grants: int, role: int) -> None:
    network = Network(voters)
    network.tick("n1")
    others = [replica(f"n{number}") for number in range(2, voters + 1)]
    network.answer_pre_vote("n1", *others[: voters // 2])
    for other in others[:grants]:
        network.step("n1", VoteReply(other, N1, 1, True))
    assert network.core("n1").role == role


def test_5_2_a_vote_is_given_once_per_term_first_come_first_served() -> None:
    network = Network(3)
    network.step("n1", Vote(N2, N1, 1, 0, 0))
    network.step("n1", Vote(N3, N1, 1, 5, 1))
    network.step("n1", Vote(N2, N1, 1, 0, 0))
    assert [(reply.to, reply.granted) for reply in votes(network, "n1")] == [
        (N2, True),
        (N3, False),
        (N2, True),
    ]


def votes(network: Network, name: str) -> list[VoteReply]:
    return [message for message in network[name].sent if isinstance(message, VoteReply)]


def test_5_2_a_candidate_that_hears_the_leader_of_its_term_follows_it() -> None:
    network = Network(3)
    candidate(network)
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, log_of(1)))
    core = network.core("n1")
    assert (core.role, core.leader, core.term, core.vote) == (FOLLOWER, N2, 1, N1)


def test_5_2_a_candidate_ignores_the_leader_of_an_older_term() -> None:
    network = Network(3)
    candidate(network)
    network.step("n1", Heartbeat(N2, N1, 0, 0, 1))
    assert network.core("n1").role == CANDIDATE


def test_5_2_a_split_vote_ends_with_another_attempt_and_timeouts_are_spread() -> None:
    network = Network(4)
    for name in ("n1", "n2"):
        candidate(network, name)
    n4 = replica("n4")
    for me, friend, foe, rival in ((N1, N3, n4, N2), (N2, n4, N3, N1)):
        network.step(me.node, VoteReply(friend, me, 1, True))
        network.step(me.node, VoteReply(foe, me, 1, False))
        network.step(me.node, VoteReply(rival, me, 1, False))
    for name in ("n1", "n2"):
        core = network.core(name)
        assert core.role == FOLLOWER
        assert 50 <= core.next_deadline() - network.now <= 300
    network.drop()
    network.run(3_000)
    assert network.leader is not None


def test_5_2_a_leader_sends_heartbeats_to_all() -> None:
    network = Network(3, learners=1)
    network.elect("n1")
    network.drop()
    network.tick("n1")
    beats = [message for message in network.drop() if isinstance(message, Heartbeat)]
    assert [message.to.node for message in beats] == ["n2", "n3", "n4"]


def test_5_2_a_voter_that_gave_its_vote_waits_for_the_outcome() -> None:
    network = Network(3)
    before = network.core("n1").next_deadline()
    network.step("n1", Vote(N2, N1, 1, 0, 0))
    assert network.core("n1").next_deadline() >= max(before, network.now + 1_000)


# --------------------------------------------------------------------------- 5.3 log replication


def test_5_3_an_entry_is_committed_when_a_majority_has_it() -> None:
    network = Network(5)
    network.elect("n1")
    network.propose("n1")
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))
    assert network.core("n1").commit_index == 1, "the leader and one other are no majority of five"
    network.deliver(to("n3"))
    network.deliver(sent_by("n3"))
    assert network.core("n1").commit_index == 2
    assert [run.first for run in network["n1"].applied] == [1, 2]


def test_5_3_a_follower_learns_of_the_commit_and_applies_in_order() -> None:
    network = Network(3)
    network.elect("n1")
    for _ in range(4):
        network.propose("n1", count=2)
    network.settle()
    network.run(20)
    for node in network.nodes.values():
        assert [run.first for run in node.applied] == [1, 2, 4, 6, 8]


@pytest.mark.parametrize(("prev_index", "prev_term"), [(3, 2), (2, 1), (2, 3), (9, 2)])
def test_5_3_an_append_behind_an_entry_that_is_not_there_is_refused(
    prev_index: int, prev_term: int
) -> None:
    network = Network(3, disks={"n1": disk(2, 1, 2)})
    network.step("n1", Append(N2, N1, 4, prev_index, prev_term, 0, []))
    (reply,) = network.drop()
    assert isinstance(reply, AppendReply)
    assert (reply.rejected, reply.match) == (True, prev_index)
    assert network["n1"].log == [(1, 1), (2, 2)]


@pytest.mark.parametrize(
    ("prev", "sent", "expected"),
    [
        ((2, 2), [], [1, 2]),
        ((2, 2), [3], [1, 2, 3]),
        ((1, 1), [3, 3], [1, 3, 3]),
        ((1, 1), [2, 2, 2], [1, 2, 2, 2]),
        ((0, 0), [3, 3, 3], [3, 3, 3]),
        ((0, 0), [1, 2], [1, 2]),
        ((0, 0), [1], [1, 2]),
    ],
)
def test_5_3_conflicting_entries_are_replaced_and_missing_ones_added(
    prev: tuple[int, int], sent: list[int], expected: list[int]
) -> None:
    network = Network(3, disks={"n1": disk(2, 1, 2)})
    runs = [make_run(COMMAND, term, index) for index, term in enumerate(sent, start=prev[0] + 1)]
    network.step("n1", Append(N2, N1, 4, *prev, 0, runs))
    assert [term for _, term in network["n1"].log] == expected
    assert [run.term for run in network["n1"].disk.runs] == expected


def figure_7() -> dict[str, list[int]]:
    """The terms of the followers' entries in figure 7; the leader's are 1 1 1 4 4 5 5 6 6 6."""
    return {
        "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
        "b": [1, 1, 1, 4],
        "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        "e": [1, 1, 1, 4, 4, 4, 4],
        "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    }


@pytest.mark.parametrize("follower", list("abcdef"))
def test_5_3_a_leader_brings_every_follower_of_figure_7_to_its_own_log(follower: str) -> None:
    leader = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
    network = Network(
        3, disks={"n1": disk(7, *leader), "n2": disk(7, *figure_7()[follower]), "n3": disk(7)}
    )
    network.cut("n2", "n1")  # it may know better; n3 is enough to win
    network.now += 2_000
    network.tick("n1")
    network.settle()
    assert network.core("n1").is_leader
    network.heal()
    network.run(1_000)
    assert network["n2"].log == network["n1"].log
    assert [term for _, term in network["n2"].log] == [*leader, 8]


def test_5_3_a_leader_skips_a_whole_term_at_each_refusal() -> None:
    """The optimisation at the end of the section: one round trip for each term that conflicts."""
    theirs = [1] + [2] * 50 + [3] * 50
    network = Network(3, disks={"n1": disk(4, *[1] * 101), "n2": disk(4, *theirs), "n3": disk(4)})
    network.isolate("n2")
    network.now += 2_000
    network.tick("n1")
    network.settle()
    network.heal()
    network.run(150)
    refusals = [
        message
        for message in network["n2"].sent
        if isinstance(message, AppendReply) and message.rejected
    ]
    assert network["n2"].log == network["n1"].log
    assert len(refusals) <= 2


# --------------------------------------------------------------------------- 5.4 safety


@pytest.mark.parametrize(
    ("theirs", "granted"),
    [
        ((2, 2), True),  # equal
        ((3, 2), True),  # longer
        ((1, 3), True),  # shorter, of a later term
        ((1, 2), False),  # shorter
        ((9, 1), False),  # longer, of an earlier term
    ],
)
def test_5_4_1_only_a_log_that_is_no_worse_gets_the_vote(
    theirs: tuple[int, int], granted: bool
) -> None:
    index, term = theirs
    for request in (Vote(N2, N1, 4, index, term), PreVote(N2, N1, 4, index, term)):
        network = Network(3, disks={"n1": disk(3, 1, 2)})
        network.now += 1_000
        network.step("n1", request)
        (reply,) = network.drop()
        assert isinstance(reply, VoteReply | PreVoteReply)
        assert reply.granted == granted


def test_5_4_2_figure_8_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """A majority holds entry 2 of term 2, and it is still overwritten: (c) and (d) of the
    figure."""
    network = Network(5, disks={name: disk(1, 1) for name in ("n1", "n2", "n3", "n4", "n5")})
    # (a) n1 leads term 2 and brings entry 2 to n2 alone.
    network.now += 2_000
    network.tick("n1")
    network.settle_until_leader("n1")
    network.deliver(lambda message: message.to.node == "n2" and isinstance(message, Append))
    network.crash("n1")
    network.in_flight.clear()
    # (b) n5 leads term 3 with the votes of n3 and n4, and keeps its entry 2 to itself.
    network.now += 2_000
    network.tick("n5")
    network.settle_until_leader("n5", reach=("n3", "n4"))
    network.crash("n5")
    network.in_flight.clear()
    # (c) n1 is back, leads term 4, and brings entry 2 of term 2 to a majority, but not entry 3.
    network.restart("n1")
    network.now += 2_000
    network.tick("n1")
    network.deliver(to("n3"))
    network.deliver(sent_by("n3"))
    assert network.core("n1").term == 3, "it has learned of the term that it missed"
    network.in_flight.clear()
    network.tick("n1")
    network.settle_until_leader("n1", reach=("n2", "n3", "n4"))
    core = network.core("n1")
    assert core.term == 4
    network.step("n1", AppendReply(N2, N1, 4, 2))
    network.step("n1", AppendReply(N3, N1, 4, 2))
    assert core.commit_index == 0, "entry 2 is of term 2 and must not be committed by counting"
    # (e) entry 3, of its own term, commits everything before it.
    network.step("n1", AppendReply(N2, N1, 4, 3))
    network.step("n1", AppendReply(N3, N1, 4, 3))
    assert core.commit_index == 3


def test_5_4_3_a_leader_has_every_entry_that_was_ever_committed() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n3")
    network.propose("n1", count=5)
    network.settle()
    assert network.core("n1").commit_index == 6
    network.heal()
    network.crash("n1")
    network.now += 2_000
    network.tick("n3")
    network.settle()
    assert not network.core("n3").is_leader, "n3 lacks what was committed"
    network.run(5_000)
    assert network.leader is network["n2"]
    assert network["n3"].log == network["n2"].log


# --------------------------------------------------------------------------- 5.5, 8


def test_5_5_a_follower_that_was_down_catches_up_when_it_is_back() -> None:
    network = Network(3)
    network.elect("n1")
    network.crash("n2")
    for _ in range(20):
        network.propose("n1")
    network.settle()
    network.restart("n2")
    network.run(1_000)
    assert network["n2"].log == network["n1"].log
    assert network.core("n2").commit_index == 21


def test_8_a_new_leader_commits_what_was_left_with_an_entry_of_its_own() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.deliver(lambda message: isinstance(message, Append))
    network.crash("n1")
    network.in_flight.clear()
    network.run(5_000)
    leader = network.leader
    assert leader is not None
    assert [term for _, term in leader.log][:2] == [1, 1]
    assert leader.core.commit_index == leader.core.last_index == 3


# --------------------------------------------------------------------------- thesis


def test_thesis_4_2_3_a_vote_request_is_ignored_while_a_leader_is_heard() -> None:
    network = Network(3)
    network.elect("n1")
    network.drop()
    network.step("n2", Vote(N3, N2, 9, 99, 9))
    assert network.drop() == []
    assert network.core("n2").term == 1


def test_thesis_3_10_a_campaign_on_behalf_of_the_leader_is_not_ignored() -> None:
    """Pitfall 6."""
    network = Network(3)
    network.elect("n1")
    network.drop()
    network.step("n2", Vote(N3, N2, 2, 1, 1, transfer=True))
    assert votes(network, "n2")[-1] == VoteReply(N2, N3, 2, True)


def test_thesis_6_2_a_leader_that_no_majority_answers_steps_down() -> None:
    network = Network(5)
    network.elect("n1")
    network.isolate("n1", "n2")
    token = network.read("n1")
    network.run(950)
    assert network.core("n1").is_leader
    network.run(200)
    assert not network.core("n1").is_leader
    assert network.core("n1").leader is None
    assert network["n1"].reads_failed == [token]


def test_thesis_9_6_asking_whether_an_election_could_be_won_changes_nothing() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n3")
    network.run(10_000)
    assert network.core("n3").term == 1, "no majority answers its pre-votes"
    network.heal()
    network.run(1_000)
    assert network.leader is network["n1"]
    assert network.core("n1").term == 1


def test_time_between_heartbeats_does_not_depend_on_ticks_that_come_early() -> None:
    network = Network(3)
    network.elect("n1")
    network.drop()
    for _ in range(10):
        network.now += 5
        network.step("n1", Tick())
    assert [type(message) for message in network.drop()].count(Heartbeat) <= 2
