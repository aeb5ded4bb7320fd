"""Pitfalls by number: each one a rule that some well-known system has broken.

Here are those of votes, log, commit, reads and disks that the core alone decides; beside this file
stand test_pitfalls_membership.py, test_pitfalls_snapshots.py and test_pitfalls_time.py. The rules
of storage and clients are tested where they belong: docs/raft.md has the table. Where a unit test
of a part shows the rule more closely, that test names the number too.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raft import invariants
from raft.errors import Contradiction
from raft.messages import (
    COMMAND,
    Append,
    AppendReply,
    HardState,
    Heartbeat,
    HeartbeatReply,
    LinkClosed,
    Persisted,
    PreVote,
    PreVoteReply,
    Propose,
    Read,
    Run,
    Tick,
    Vote,
    VoteReply,
)
from raft.progress import PROBE, REPLICATE
from raft.roles import CANDIDATE, FOLLOWER, PRE_CANDIDATE
from raft.settings import RaftSettings
from tests.raft.network import Disk, Network, make_run, replica, sent_by, to

N1, N2, N3 = replica("n1"), replica("n2"), replica("n3")


def run(index: int, term: int, count: int = 1) -> Run:
    return make_run(COMMAND, term, index, count=count)


def disk(term: int, *terms: int, vote: str | None = None) -> Disk:
    runs = [run(index, each) for index, each in enumerate(terms, start=1)]
    return Disk(HardState(term, replica(vote) if vote else None), runs)


def replies(network: Network, name: str) -> list[AppendReply]:
    return [message for message in network[name].sent if isinstance(message, AppendReply)]


# --------------------------------------------------------------------------- votes and elections


def test_pitfall_1_no_vote_request_leaves_before_term_and_vote_are_durable() -> None:
    network = Network(3)
    network.hold_disk("n1")
    network.tick("n1")
    network.answer_pre_vote("n1", N2)
    network.drop(lambda message: isinstance(message, PreVote))
    assert network.core("n1").role == CANDIDATE
    assert network.in_flight == []
    (save,) = network["n1"].saves
    assert save.hard_state == HardState(1, N1)
    network.persist("n1")
    assert network.in_flight == [Vote(N1, N2, 1, 0, 0), Vote(N1, N3, 1, 0, 0)]


def test_pitfall_1_no_vote_leaves_before_it_is_durable_and_a_crash_forgets_none() -> None:
    network = Network(3)
    network.hold_disk("n1")
    network.step("n1", Vote(N2, N1, 1, 0, 0))
    assert network["n1"].sent == []
    network.crash("n1")
    network.restart("n1")
    assert (network.core("n1").term, network.core("n1").vote) == (0, None)
    network.step("n1", Vote(N3, N1, 1, 0, 0))
    network.persist("n1")
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").vote == N3
    network.now += 1_000
    network.step("n1", Vote(N2, N1, 1, 0, 0))
    assert network["n1"].sent == [VoteReply(N1, N2, 1, False)]


def test_pitfall_1_no_answer_in_a_new_term_leaves_before_the_term_is_durable() -> None:
    network = Network(3)
    network.hold_disk("n1")
    network.step("n1", Heartbeat(N2, N1, 3, 0, 7))
    network.step("n1", Append(N2, N1, 3, 5, 3, 0, []))
    assert network["n1"].sent == []
    network.persist("n1")
    assert network["n1"].sent == [
        HeartbeatReply(N1, N2, 3, 7),
        AppendReply(N1, N2, 3, 5, True, 0, 0),
    ]
    network.step("n1", Heartbeat(N2, N1, 3, 0, 8))
    assert network["n1"].sent[-1] == HeartbeatReply(N1, N2, 3, 8), "nothing new to write"


def test_pitfall_2_stepping_down_within_a_term_keeps_the_vote() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n1")
    network.run(1_500)
    assert network.core("n1").role in (FOLLOWER, PRE_CANDIDATE)
    assert (network.core("n1").term, network.core("n1").vote) == (1, N1)
    network = Network(3)
    network.tick("n1")
    network.answer_pre_vote("n1", N2)
    network.step("n1", VoteReply(N2, N1, 1, False))
    network.step("n1", VoteReply(N3, N1, 1, False))
    assert (network.core("n1").role, network.core("n1").vote) == (FOLLOWER, N1)
    network.step("n1", Vote(N2, N1, 1, 9, 1))
    assert network["n1"].sent[-1] == VoteReply(N1, N2, 1, False)


def test_pitfall_3_answers_to_another_campaign_do_not_count() -> None:
    network = Network(3, disks={"n1": disk(4)})
    network.now += 2_000
    network.tick("n1")
    now = network.core("n1")._campaign
    network.step("n1", PreVoteReply(N2, N1, 4, True, campaign=now))
    network.step("n1", PreVoteReply(N2, N1, 6, True, campaign=now))
    network.step("n1", VoteReply(N2, N1, 4, True))
    assert network.core("n1").role == PRE_CANDIDATE
    network.step("n1", PreVoteReply(N2, N1, 5, True, campaign=now))
    assert network.core("n1").role == CANDIDATE
    network.step("n1", PreVoteReply(N3, N1, 5, True, campaign=now))
    network.step("n1", VoteReply(N3, N1, 4, True))
    assert network.core("n1").role == CANDIDATE


@pytest.mark.parametrize("granted", [True, False])
def test_pitfall_3_an_answer_to_an_earlier_attempt_for_the_same_term_does_not_count(
    granted: bool,
) -> None:
    network = Network(3)
    network.tick("n1")
    network.tick("n1")
    now = network.core("n1")._campaign
    deadline = network.core("n1").next_deadline()
    term = 1 if granted else 0
    network.step("n1", PreVoteReply(N2, N1, term, granted, campaign=now - 1))
    network.step("n1", PreVoteReply(N3, N1, term, granted, campaign=now - 1))
    assert (network.core("n1").role, network.core("n1").term) == (PRE_CANDIDATE, 0)
    assert network.core("n1").next_deadline() == deadline
    network.step("n1", PreVoteReply(N2, N1, 1, True, campaign=now))
    assert network.core("n1").role == CANDIDATE


def miss_the_leader(network: Network, name: str) -> None:
    """Only this one does not hear it, and stands: what it asks is on its way."""
    network.isolate(name)
    network.run(network.core(name).next_deadline() - network.now - 1)
    network.heal()
    network.now += 1
    network.step(name, Tick())
    assert network.core(name).role == PRE_CANDIDATE


def test_pitfall_3_a_late_pre_vote_does_not_depose_the_leader_that_was_kept() -> None:
    """n2 said yes when it had lost the leader, and found it again. Much later n3 asks once more,
    for the same term."""
    network = Network(3)
    network.elect("n1")
    network.run(500)
    miss_the_leader(network, "n3")
    network.step("n2", LinkClosed("n1"))
    network.deliver(lambda message: isinstance(message, PreVote) and message.to == N2)
    (late,) = network.drop(lambda message: isinstance(message, PreVoteReply))
    assert late == PreVoteReply(N2, N3, 2, True, campaign=network.core("n3")._campaign)
    network.run(3_000)
    assert network.core("n3").leader == N1
    miss_the_leader(network, "n3")
    network.deliver_again(late)
    network.run(3_000)
    assert network.core("n1").is_leader
    assert network.core("n1").term == 1


def test_pitfall_3_a_refusal_is_no_grant_whatever_it_carries() -> None:
    network = Network(3)
    network.tick("n1")
    network.step("n1", PreVoteReply(N2, N1, 9, False))
    assert (network.core("n1").role, network.core("n1").term) == (FOLLOWER, 9)


def test_pitfall_4_a_longer_log_of_an_older_term_is_worse() -> None:
    network = Network(3, disks={"n1": disk(3, 1, 3)})
    network.now += 1_000
    network.step("n1", Vote(N2, N1, 4, 50, 2))
    assert network["n1"].sent == [VoteReply(N1, N2, 4, False)]


def test_pitfall_5_a_pre_vote_changes_neither_term_nor_vote() -> None:
    network = Network(3)
    network.step("n1", PreVote(N2, N1, 8, 0, 0, campaign=3))
    core = network.core("n1")
    assert (core.term, core.vote) == (0, None)
    assert network["n1"].sent == [PreVoteReply(N1, N2, 8, True, campaign=3)]
    assert network["n1"].outputs[-1].save is None


@pytest.mark.parametrize("seed", range(3))
def test_pitfall_5_a_pair_that_differs_in_term_and_log_does_not_get_stuck(seed: int) -> None:
    """The one with the higher term has the worse log, the one with the better log is behind."""
    disks = {"n1": disk(9, 1), "n2": disk(5, 1, 5), "n3": disk(1)}
    network = Network(3, seed=seed, disks=disks)
    network.crash("n3")
    network.run(6_000)
    assert network.leader is network["n2"]
    assert network.leader.core.can_serve


def test_pitfall_5_a_pre_candidate_has_no_leader_any_more() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n2")
    network.run(2_500)
    assert network.core("n2").role == PRE_CANDIDATE
    assert network.core("n2").leader is None
    network.step("n2", PreVote(N3, N2, 2, 1, 1))
    assert network["n2"].sent[-1] == PreVoteReply(N2, N3, 2, True)


def test_pitfall_7_a_replica_with_a_high_term_cannot_depose_a_leader_that_others_hear() -> None:
    network = Network(3)
    network.elect("n1")
    network.run(300)
    for request in (Vote(N3, N1, 50, 9, 9), PreVote(N3, N1, 50, 9, 9)):
        network.step("n1", request)
        network.step("n2", Vote(N3, N2, 50, 9, 9))
    assert network.core("n1").is_leader
    assert network.core("n2").term == 1


def test_pitfall_7_a_replica_stuck_at_a_higher_term_is_freed_by_its_answer() -> None:
    network = Network(3)
    network.elect("n1")
    network.crash("n3")
    network["n3"].disk.hard_state = HardState(7, N3)
    network.restart("n3")
    network.run(5_000)
    leader = network.leader
    assert leader is not None
    assert leader.core.term > 7
    assert [node.core.leader for node in network.nodes.values()] == [leader.me] * 3


def test_pitfall_8_a_group_of_one_waits_for_its_own_disk() -> None:
    network = Network(1)
    network.hold_disk("n1")
    network.tick("n1")
    assert network.core("n1").role == CANDIDATE
    network.persist("n1")
    assert network.core("n1").is_leader
    assert network.core("n1").commit_index == 0
    network.persist("n1")
    assert network.core("n1").commit_index == 1
    network.propose("n1")
    token = network.read("n1")
    assert network.core("n1").commit_index == 1
    assert network["n1"].reads == [(token, 1)]
    network.persist("n1")
    assert [each.first for each in network["n1"].applied] == [1, 2]


def test_pitfall_8_an_older_save_does_not_make_the_own_vote_durable() -> None:
    network = Network(2)
    network.hold_disk("n1")
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, [run(1, 1)]))
    network.step("n1", LinkClosed("n2"))
    network.tick("n1")
    network.answer_pre_vote("n1", N2)
    network.persist("n1", count=1)
    network.step("n1", VoteReply(N2, N1, 2, True))
    assert network.core("n1").role == CANDIDATE
    network.persist("n1")
    assert network.core("n1").is_leader


def test_one_refusal_hastens_the_next_attempt_and_late_grants_still_win() -> None:
    """A split vote with the third voter dead: nobody has lost, and nobody will ever win."""
    network = Network(3)
    network.tick("n1")
    network.answer_pre_vote("n1", N2)
    network.step("n1", VoteReply(N2, N1, 1, False))
    core = network.core("n1")
    assert core.role == CANDIDATE
    assert 50 <= core.next_deadline() - network.now <= 300
    network.step("n1", VoteReply(N3, N1, 1, True))
    assert core.is_leader


def test_pitfall_9_every_attempt_draws_its_own_timeout() -> None:
    network = Network(3)
    network.isolate("n1")
    waits = set()
    for _ in range(20):
        network.tick("n1")
        waits.add(network.core("n1").next_deadline() - network.now)
    assert len(waits) > 10
    assert all(1_000 <= wait <= 2_000 for wait in waits)


def test_pitfall_10_heartbeats_and_their_answers_wait_for_no_disk() -> None:
    network = Network(3)
    network.elect("n1")
    network.settle()
    network.hold_disk("n1", "n2", "n3")
    network.propose("n1")
    network.run(600)
    assert network["n1"].saves
    assert network["n2"].saves
    beats = [message for message in network["n2"].sent if isinstance(message, HeartbeatReply)]
    assert len(beats) >= 6
    assert network.core("n1").is_leader


# --------------------------------------------------------------------------- log and commit


def test_pitfall_11_only_entries_of_the_own_term_are_counted() -> None:
    """See figure 8 in test_paper.py; here the same with one message."""
    network = Network(3, disks={name: disk(3, 1, 3) for name in ("n1", "n2", "n3")})
    network.now += 2_000
    network.tick("n1")
    network.settle_until_leader("n1")
    core = network.core("n1")
    network.step("n1", AppendReply(N2, N1, core.term, 2))
    assert core.commit_index == 0
    network.step("n1", AppendReply(N2, N1, core.term, 3))
    assert core.commit_index == 3


def test_pitfall_12_a_leader_counts_itself_only_after_its_own_disk() -> None:
    network = Network(5)
    network.elect("n1")
    network.hold_disk("n1")
    network.propose("n1")
    for name in ("n2", "n3"):
        network.deliver(to(name))
        network.deliver(sent_by(name))
    assert network.core("n1").commit_index == 1, "two of five disks have it"
    network.persist("n1")
    assert network.core("n1").commit_index == 2


def test_pitfall_12_the_others_may_commit_what_the_leader_has_not_yet_written() -> None:
    """Committed it is, and yet not applied here before it is on this disk (pitfall 18)."""
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n1")
    network.propose("n1")
    network.settle()
    assert (network.core("n1").commit_index, network.core("n1").durable_index) == (2, 1)
    assert network.core("n1").handed_index == 1
    network.persist("n1")
    assert network.core("n1").handed_index == 2


def test_pitfall_12_the_same_news_of_the_disk_twice_commits_nothing_more() -> None:
    network = Network(2)
    network.elect("n1")
    network.hold_disk("n1")
    network.propose("n1")
    network.settle()
    (save,) = network["n1"].saves
    network.persist("n1")
    assert network.core("n1").commit_index == 2
    network.propose("n1")
    network.settle()
    network.step("n1", Persisted(save.number, *save.last))
    assert (network.core("n1").commit_index, network.core("n1").durable_index) == (2, 2)


def test_pitfall_13_a_follower_acknowledges_what_is_durable_and_no_more() -> None:
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n2")
    network.propose("n1")
    network.deliver(to("n2"))
    network.propose("n1")
    network.deliver(to("n2"))
    before = replies(network, "n2")
    network.persist("n2", count=1)
    assert replies(network, "n2")[len(before) :] == [AppendReply(N2, N1, 1, 2)]
    network.persist("n2", count=1)
    assert replies(network, "n2")[-1] == AppendReply(N2, N1, 1, 3)


def test_pitfall_13_an_entry_replaced_while_its_write_was_under_way() -> None:
    """The older write's success must not acknowledge the newer entry at the same index."""
    network = Network(3)
    network.hold_disk("n1")
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, [run(1, 1)]))
    network.step("n1", Append(N3, N1, 2, 0, 0, 0, [run(1, 2)]))
    network.persist("n1", count=1)
    assert network.core("n1").durable_index == 0
    assert network["n1"].sent == [], "the term 1 answer is of no use any more"
    network.persist("n1", count=1)
    assert network["n1"].sent == [AppendReply(N1, N3, 2, 1)]
    assert network.core("n1").durable_index == 1


def test_pitfall_13_an_entry_that_comes_back_is_acknowledged_for_its_last_write() -> None:
    network = Network(3)
    network.hold_disk("n1")
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, [run(1, 1)]))
    network.step("n1", Append(N3, N1, 2, 0, 0, 0, [run(1, 2)]))
    network.step("n1", Append(N2, N1, 3, 0, 0, 0, [run(1, 1)]))
    network.persist("n1", count=1)
    assert network["n1"].sent == []
    assert network.core("n1").durable_index == 0
    network.persist("n1", count=1)
    assert network["n1"].sent == []
    network.persist("n1", count=1)
    assert network["n1"].sent == [AppendReply(N1, N2, 3, 1)]


@pytest.mark.parametrize(
    "late",
    [
        Append(N2, N1, 3, 0, 0, 0, []),
        Append(N2, N1, 3, 1, 3, 0, []),
        Append(N2, N1, 3, 0, 0, 0, [run(1, 3)]),
        Append(N2, N1, 3, 1, 3, 0, [run(2, 3, 2)]),
    ],
)
def test_pitfall_14_a_short_or_late_append_removes_nothing(late: Append) -> None:
    network = Network(3)
    runs = [run(1, 3), run(2, 3, 2), run(4, 3)]
    network.step("n1", Append(N2, N1, 3, 0, 0, 0, runs))
    saves = len(network["n1"].outputs)
    network.step("n1", late)
    assert network.core("n1").last_index == 4
    assert all(output.save is None for output in network["n1"].outputs[saves:])


def test_pitfall_14_a_conflict_below_the_commit_index_stops_the_replica() -> None:
    network = Network(3)
    network.step("n1", Append(N2, N1, 1, 0, 0, 2, [run(1, 1), run(2, 1)]))
    assert network.core("n1").commit_index == 2
    with pytest.raises(Contradiction, match="entry 2 is committed here with term 1"):
        network.step("n1", Append(N3, N1, 2, 2, 2, 0, []))


def test_pitfall_15_a_predecessor_behind_the_snapshot_is_no_conflict() -> None:
    network = Network(3)
    network.step("n1", Append(N2, N1, 1, 0, 0, 3, [run(1, 1), run(2, 1), run(3, 1)]))
    network.step("n1", Append(N2, N1, 1, 1, 1, 3, []))
    assert replies(network, "n1")[-1] == AppendReply(N1, N2, 1, 3), "all up to the commit index"


def test_pitfall_16_a_follower_commits_only_what_the_message_has_verified() -> None:
    network = Network(3, disks={"n1": disk(2, 1, 1, 2)})
    network.step("n1", Append(N2, N1, 3, 1, 1, 3, []))
    assert network.core("n1").commit_index == 1, "entries 2 and 3 may differ from the leader's"
    network.step("n1", Append(N2, N1, 3, 1, 1, 3, [run(2, 1)]))
    assert network.core("n1").commit_index == 2


def test_pitfall_17_learners_do_not_count() -> None:
    network = Network(3, learners=2)
    network.elect("n1")
    network.isolate("n1", "n4", "n5")
    network.propose("n1")
    network.settle()
    assert network.core("n5").last_index == 2
    assert network.core("n1").commit_index == 1
    network.run(1_200)
    assert not network.core("n1").is_leader, "learners keep no leader alive"


def test_pitfall_18_nothing_is_applied_before_it_is_committed_and_durable() -> None:
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.run(100)
    core = network.core("n2")
    assert (core.commit_index, core.durable_index, core.handed_index) == (2, 1, 1)
    network.persist("n2")
    network.settle()
    network.run(100)
    assert core.handed_index == 2


def test_pitfall_19_a_restart_trusts_its_log_and_not_a_commit_index() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.settle()
    network.crash("n1")
    network.restart("n1")
    core = network.core("n1")
    assert (core.commit_index, core.durable_index, core.last_index) == (0, 2, 2)


def test_pitfall_21_answers_from_before_a_replica_was_added_again_are_ignored() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.step("n1", AppendReply(replica("n2", incarnation=9), N1, 1, 2))
    assert network.core("n1").commit_index == 1


# --------------------------------------------------------------------------- reads and time


def test_pitfall_29_no_read_before_an_entry_of_the_own_term_is_committed() -> None:
    network = Network(3, disks={name: disk(3, 1, 3) for name in ("n1", "n2", "n3")})
    network.now += 2_000
    network.tick("n1")
    network.settle_until_leader("n1")
    token = network.read("n1")
    while network.deliver(lambda message: isinstance(message, Heartbeat | HeartbeatReply)):
        pass
    assert network["n1"].reads == []
    assert not network.core("n1").can_serve
    network.settle()
    assert network["n1"].reads == [(token, 3)]


def test_pitfall_30_a_round_confirms_only_reads_that_came_before_it_started() -> None:
    network = Network(3)
    network.elect("n1")
    network.run(100)
    network.tick("n1")  # a round is under way
    late = [message for message in network.drop() if isinstance(message, Heartbeat)]
    token = network.read("n1")
    own = network.drop()
    for message in late:
        network.deliver_again(message)
    network.settle()
    assert network["n1"].reads == [], "answers to the round that started before the read"
    network.deliver_again(own[0])
    network.settle()
    assert [each for each, _ in network["n1"].reads] == [token]


def test_pitfall_30_all_reads_of_a_turn_share_one_round() -> None:
    network = Network(3)
    network.elect("n1")
    network.drop()
    for token in (101, 102, 103):
        network.feed("n1", Read(token))
    network.collect("n1")
    assert len(network.in_flight) == 2
    network.settle()
    assert network["n1"].reads == [(101, 1), (102, 1), (103, 1)]


def test_pitfall_31_the_read_index_is_what_was_committed_when_the_read_arrived() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.settle()
    token = network.read("n1")
    network.propose("n1")
    network.settle()
    assert network["n1"].reads == [(token, 2)]


def test_pitfall_31_a_leadership_that_ends_fails_its_reads() -> None:
    network = Network(3)
    network.elect("n1")
    first = network.read("n1")
    network.drop()
    network.step("n1", AppendReply(N2, N1, 5, 0))
    assert network["n1"].reads_failed == [first]
    second = network.read("n1")
    assert network["n1"].reads_failed == [first, second], "nor can a follower confirm any"


def test_reads_that_wait_are_bounded() -> None:
    network = Network(3, settings=RaftSettings(reads_pending_max=2))
    network.elect("n1")
    network.cut("n1", "n2")
    network.cut("n1", "n3")
    tokens = [network.read("n1") for _ in range(3)]
    assert network["n1"].reads_failed == tokens[2:]


@pytest.mark.parametrize("seed", range(2))
def test_pitfall_33_a_leader_that_stood_still_steps_down_before_it_does_anything(
    seed: int,
) -> None:
    """Also pitfall 35: SIGSTOP, a suspended machine, a container that was moved."""
    network = Network(3, seed=seed)
    network.elect("n1")
    token = network.read("n1")
    heard = network.drop(lambda message: message.sender == N1)
    network.now += 1_001
    network.step("n1", HeartbeatReply(N2, N1, 1, heard[-1].round))  # type: ignore[union-attr]
    assert network.core("n1").role == FOLLOWER
    assert network["n1"].reads == []
    assert network["n1"].reads_failed == [token]


def test_pitfall_33_a_proposal_after_a_stall_is_appended_and_then_leadership_ends() -> None:
    """The driver looked before it proposed; it cannot know what the core has not seen yet."""
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n1")
    network.now += 5_000
    network.propose("n1")
    assert network.core("n1").is_leader
    network.step("n1", Tick())
    assert not network.core("n1").is_leader
    assert network.core("n1").commit_index == 1


def test_pitfall_33_a_group_of_one_may_stand_still() -> None:
    network = Network(1)
    network.tick("n1")
    network.now += 100_000
    network.step("n1", Tick())
    assert network.core("n1").is_leader


def test_pitfall_34_no_vote_for_one_election_timeout_after_a_restart() -> None:
    network = Network(3)
    network.elect("n1")
    network.run(200)
    network.crash("n2")
    network.restart("n2")
    network.step("n2", Vote(N3, N2, 2, 9, 1))
    network.step("n2", PreVote(N3, N2, 2, 9, 1))
    assert network["n2"].sent == [PreVoteReply(N2, N3, 1, False)]
    assert network.core("n2").term == 1
    network.now += 1_000
    network.step("n2", Vote(N3, N2, 2, 9, 1))
    assert network["n2"].sent[-1] == VoteReply(N2, N3, 2, True)


def test_pitfall_48_a_leader_whose_disk_stands_still_steps_down() -> None:
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n1")
    network.propose("n1")
    network.run(900)
    assert network.core("n1").is_leader
    network.run(300)
    assert not network.core("n1").is_leader
    network.run(5_000)
    leader = network.leader
    assert leader is not None
    assert leader is not network["n1"], "who cannot write does not stand"
    assert leader.core.can_serve
    network.release_disk("n1")
    network.run(500)
    assert network["n1"].log == leader.log


def test_pitfall_48_a_replica_whose_disk_stands_still_does_not_stand_for_election() -> None:
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.isolate("n2")
    sent = len(network["n2"].sent)
    network.run(5_000)
    assert (network.core("n2").role, network.core("n2").leader) == (FOLLOWER, None)
    assert network["n2"].sent[sent:] == []
    network.persist("n2")
    network.run(2_500)
    assert network.core("n2").role == PRE_CANDIDATE


def test_pitfall_48_a_candidate_whose_disk_stands_still_gives_up() -> None:
    network = Network(3)
    network.hold_disk("n1")
    network.tick("n1")
    network.answer_pre_vote("n1", N2)
    assert network.core("n1").role == CANDIDATE
    network.now += 2_001
    network.step("n1", Tick())
    assert (network.core("n1").role, network.core("n1").term) == (FOLLOWER, 1)


def test_pitfall_48_a_group_of_one_waits_for_its_disk() -> None:
    network = Network(1)
    network.tick("n1")
    network.hold_disk("n1")
    network.propose("n1")
    network.run(5_000)
    assert network.core("n1").is_leader
    network.persist("n1")
    assert network.core("n1").commit_index == 2


def test_pitfall_50_the_election_timer_starts_over_at_receipt_not_after_the_disk() -> None:
    network = Network(3)
    network.elect("n1")
    network.hold_disk("n2")
    network.now += 700
    network.step("n2", Append(N1, N2, 1, 1, 1, 1, [run(2, 1)]))
    assert network["n2"].saves, "not durable yet"
    assert network.core("n2").next_deadline() >= network.now + 1_000


# --------------------------------------------------------------------------- lost and late appends


def test_a_lost_append_with_another_behind_it_is_refused_and_sent_again() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.drop(to("n2"))
    network.propose("n1")
    network.settle()
    assert network["n2"].log == network["n1"].log


def test_a_lost_append_with_nothing_behind_it_is_found_with_the_heartbeat() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.drop(to("n2"))
    network.settle()
    assert network.core("n2").last_index == 1
    network.run(250)
    assert network["n2"].log == network["n1"].log


def test_a_lost_acknowledgement_is_asked_for_and_nothing_is_sent_twice() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.deliver(to("n2"))
    network.drop(lambda message: isinstance(message, AppendReply) and message.sender == N2)
    sent = len(network["n1"].sent)
    network.run(250)
    (peer, _) = network.core("n1").progress()
    assert (peer.replica, peer.match) == (N2, 2)
    appends = [m for m in network["n1"].sent[sent:] if isinstance(m, Append) and m.to == N2]
    assert [message.runs for message in appends] == [[]]


def test_a_peer_that_has_everything_is_never_probed() -> None:
    network = Network(3)
    network.elect("n1")
    network.run(200)
    sent = len(network["n1"].sent)
    network.run(2_000)
    assert not [m for m in network["n1"].sent[sent:] if isinstance(m, Append)]


def test_a_window_that_is_full_holds_back_and_goes_on_when_answers_come() -> None:
    settings = RaftSettings(inflight_messages_max=2)
    network = Network(3, settings=settings)
    network.elect("n1")
    network.isolate("n3")
    for _ in range(5):
        network.propose("n1")
    assert [message.to.node for message in network.in_flight] == ["n2", "n2"]
    (peer, _) = network.core("n1").progress()
    assert (peer.inflight_count, peer.next, peer.state) == (2, 4, REPLICATE)
    network.settle()
    assert network.core("n2").last_index == 6


def test_a_window_that_was_lost_as_a_whole_opens_again() -> None:
    settings = RaftSettings(inflight_messages_max=2)
    network = Network(3, settings=settings)
    network.elect("n1")
    network.propose("n1")
    network.propose("n1")
    network.propose("n1")
    network.drop()
    network.run(400)
    assert network["n2"].log == network["n3"].log == network["n1"].log


def test_appends_are_bounded_by_bytes_and_one_large_run_goes_alone() -> None:
    settings = RaftSettings(append_bytes_max=100)
    network = Network(3, settings=settings)
    network.elect("n1")
    core = network.core("n1")
    for size in (60, 60, 30, 500, 10):
        network.feed("n1", Propose([make_run(COMMAND, 1, core.next_index, body=b"x" * size)]))
    network.collect("n1")
    appends = [m for m in network.in_flight if isinstance(m, Append) and m.to == N2]
    assert [[len(each.body) for each in m.runs] for m in appends] == [[60], [60, 30], [500], [10]]


def test_a_closed_link_makes_the_leader_probe_from_what_is_known() -> None:
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.drop()
    network.now += 10
    network.step("n1", LinkClosed("n2"))
    peer, other = network.core("n1").progress()
    assert (peer.state, peer.match, peer.next) == (PROBE, 1, 2)
    assert other.state == REPLICATE
    network.settle()
    assert network["n2"].log == network["n1"].log


def test_a_heartbeat_never_speaks_of_more_than_the_peer_is_known_to_have() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n3")
    for _ in range(3):
        network.propose("n1")
    network.settle()
    assert network.core("n1").commit_index == 4
    network.heal()
    network.now += network.settings.heartbeat_ms
    network.tick("n1")
    beats = {m.to: m.commit for m in network.in_flight if isinstance(m, Heartbeat)}
    assert beats == {N2: 4, N3: 1}


def test_followers_hear_of_the_commit_soon_even_if_nothing_else_is_written() -> None:
    network = Network(3)
    network.elect("n1")
    network.run(500)
    network.propose("n1")
    network.settle()
    network.run(network.settings.commit_notice_ms)
    assert [node.core.commit_index for node in network.nodes.values()] == [2, 2, 2]


def test_every_step_is_checked_in_these_tests() -> None:
    """The network would not notice anything if the check could not fail."""
    network = Network(3)
    network.elect("n1")
    core = network.core("n1")
    before = invariants.take(core)
    core.commit_index = 0
    with pytest.raises(AssertionError, match="handed out 1, committed only 0"):
        invariants.check(before, core)


# --------------------------------------------------------------------------- docs/raft.md

TESTS = Path(__file__).resolve().parent.parent
PAGE = (TESTS.parent / "docs" / "raft.md").read_text(encoding="utf-8")


def test_the_tables_name_tests_that_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 80
    for file, beginning in named:
        path = TESTS / file if "/" in file else TESTS / "raft" / file
        assert f"\ndef {beginning}" in path.read_text(encoding="utf-8"), f"{file}::{beginning}"


def test_the_tables_name_functions_that_exist() -> None:
    modules = {path.stem for path in (TESTS.parent / "raft").glob("*.py")}
    named = re.findall(r"`(\w+)\.(\w+)`", PAGE)
    found = [(module, name) for module, name in named if module in modules]
    assert len(found) > 60
    for module, name in found:
        source = (TESTS.parent / "raft" / f"{module}.py").read_text(encoding="utf-8")
        assert re.search(rf"(def|class) {name}\b|self\.{name}\b", source), f"{module}.{name}"


def test_every_pitfall_of_the_core_is_in_the_table() -> None:
    rows = set(map(int, re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)))
    assert rows >= {*range(1, 44), 48, 50}
