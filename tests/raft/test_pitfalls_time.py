"""Pitfalls of leases and clocks (31 to 36), by number.

The lease itself, by section of the thesis: test_paper_reads.py; its arithmetic: test_reads.py.
"""

from __future__ import annotations

import pytest

from raft.configuration import Configuration
from raft.messages import (
    LEASE,
    Append,
    ClockAnomaly,
    Heartbeat,
    HeartbeatReply,
    LinkClosed,
    PreVote,
    PreVoteReply,
    Read,
    Reconfigure,
    Tick,
    TimeoutNow,
    Transfer,
    Vote,
    VoteReply,
)
from raft.roles import CANDIDATE, FOLLOWER, PRE_CANDIDATE
from raft.settings import RaftSettings
from tests.raft.network import Network, replica, sent_by, to

N1, N2, N3 = (replica(f"n{number}") for number in range(1, 4))
SETTINGS = RaftSettings(lease_reads=True, follower_reads=True)


def led() -> Network:
    network = Network(3, settings=SETTINGS)
    network.elect("n1")
    network.run(200)
    assert network.core("n1").lease_until_ms > network.now
    return network


def test_pitfall_31_a_follower_serves_at_the_index_that_the_leader_named_and_not_before() -> None:
    network = led()
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.step("n2", Read(7))
    network.settle()
    assert network["n2"].reads == [(7, 2)]
    assert network.core("n2").handed_index == 1


def test_pitfall_31_a_leader_that_steps_down_answers_nobody() -> None:
    network = led()
    network.step("n2", Read(7))
    network.deliver(to("n1"))
    network.step("n1", Heartbeat(N3, N1, 5, 0, 1))
    network.step("n2", Heartbeat(N3, N2, 5, 0, 1))
    network.settle()
    assert network["n2"].reads == []
    assert network["n2"].reads_failed == [7]


def test_pitfall_32_late_answers_do_not_lengthen_the_lease() -> None:
    network = led()
    core = network.core("n1")
    network.now += 100
    network.step("n1", Tick())
    sent_ms = network.now
    network.deliver(lambda message: isinstance(message, Heartbeat))
    answers = network.drop()
    network.isolate("n1")
    network.now += 290
    network.step("n1", answers[0])
    assert core.lease_until_ms == sent_ms + 900


def test_pitfall_32_an_answer_to_an_older_round_counts_for_that_one() -> None:
    network = led()
    core = network.core("n1")
    network.drop()
    rounds = []
    for _ in range(2):
        network.now += 100
        network.step("n1", Tick())
        (beat,) = (m for m in network.in_flight if isinstance(m, Heartbeat) and m.to == N2)
        rounds.append((beat.round, network.now))
        network.drop()
    network.step("n1", HeartbeatReply(N2, N1, 1, rounds[0][0]))
    assert core.lease_until_ms == rounds[0][1] + 900
    network.step("n1", HeartbeatReply(N3, N1, 1, rounds[1][0]))
    assert core.lease_until_ms == rounds[1][1] + 900
    network.step("n1", HeartbeatReply(N2, N1, 1, rounds[1][0]))
    assert core.lease_until_ms == rounds[1][1] + 900


@pytest.mark.parametrize(("pause_ms", "holds"), [(300, True), (301, False)])
def test_pitfall_33_a_leader_that_stood_still_for_a_while_trusts_no_lease(
    pause_ms: int, holds: bool
) -> None:
    """Less than an election timeout, so it leads on; but what happened to its clock?"""
    network = led()
    network.drop()
    core = network.core("n1")
    network.now = core._stepped_ms + pause_ms
    network.step("n1", Read(7, LEASE))
    assert core.is_leader
    assert bool(network["n1"].reads) == holds
    network.settle()
    assert network["n1"].reads == [(7, 1)], "then a round confirms it"


def test_pitfall_33_rounds_from_before_the_pause_give_no_lease_afterwards() -> None:
    network = led()
    core = network.core("n1")
    network.now += 100
    network.step("n1", Tick())
    network.deliver(lambda message: isinstance(message, Heartbeat))
    answers = [message for message in network.drop() if isinstance(message, HeartbeatReply)]
    network.now += 400
    network.step("n1", answers[0])
    assert core.lease_until_ms == 0
    network.now += 1
    network.step("n1", Tick())
    sent_ms = network.now
    network.settle()
    assert core.lease_until_ms == sent_ms + 900


def test_pitfall_33_a_clock_anomaly_ends_the_lease_until_the_next_round() -> None:
    network = led()
    core = network.core("n1")
    network.step("n1", ClockAnomaly())
    assert core.is_leader
    assert core.lease_until_ms == 0
    network.step("n1", Read(7, LEASE))
    assert network["n1"].reads == []
    network.run(200)
    assert network["n1"].reads == [(7, 1)]
    assert core.lease_until_ms > network.now


def test_pitfall_34_a_voter_that_restarts_within_the_lease_elects_nobody() -> None:
    network = led()
    network.isolate("n1")
    until = network.core("n1").lease_until_ms
    for name in ("n2", "n3"):
        network.crash(name)
        network.restart(name)
    for _ in range(20):
        network.step("n2", Vote(N3, N2, 5, 9, 9))
        network.step("n3", PreVote(N2, N3, 5, 9, 9))
        network.now += 40
    assert network.now < until
    answers = [*network["n2"].sent, *network["n3"].sent]
    assert not any(isinstance(m, VoteReply | PreVoteReply) and m.granted for m in answers)
    network.now = until + 200
    network.step("n2", Vote(N3, N2, 5, 9, 9))
    assert network["n2"].sent[-1] == VoteReply(N2, N3, 5, True)


def leaving(settings: RaftSettings = SETTINGS) -> Network:
    """n2 leads on its way out of a group of which n1 alone is left. n1's disk has the entry that
    says so, its acknowledgement is lost, and n2's lease is new."""
    network = Network(3, settings=settings)
    network.elect("n2")
    network.run(300)
    network.step("n2", Reconfigure(1, frozenset((N1,))))
    while network.core("n2").configuration.is_joint or network.core("n2").configuration_index == 0:
        network.deliver(count=1)
    assert network.core("n2").configuration == Configuration.of(N1)
    network.drop(to("n3"))
    network.deliver(to("n1"))
    network.drop(sent_by("n1"))
    network.now += 100
    network.step("n2", Tick())
    network.deliver(lambda message: isinstance(message, Heartbeat))
    network.deliver(lambda message: isinstance(message, HeartbeatReply))
    network.isolate("n1")
    return network


def test_pitfall_34_the_only_voter_waits_too_if_another_may_have_led_it() -> None:
    network = leaving()
    until = network.core("n2").lease_until_ms
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").configuration == Configuration.of(N1)
    network.run(until - network.now - 1)
    assert not network.core("n1").is_leader
    network.step("n2", Read(7, LEASE))
    assert [token for token, _ in network["n2"].reads] == [7]
    network.run(2_500)
    assert network.core("n1").can_serve


def test_pitfall_34_the_only_voter_that_has_led_alone_waits_for_nobody() -> None:
    """Its snapshot says that the change is over; and a group may always have had one voter."""
    network = leaving()
    network.run(3_000)
    assert network.core("n1").is_leader
    network.snapshot("n1")
    network.crash("n1")
    network.restart("n1")
    network.run(10)
    assert network.core("n1").can_serve
    network = Network(1, settings=SETTINGS)
    network.run(10)
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").term == 1
    network.run(10)
    assert network.core("n1").can_serve


def test_pitfall_34_a_closed_link_does_not_end_the_promise_where_there_are_leases() -> None:
    network = led()
    deadline = network.core("n2").next_deadline()
    network.step("n2", LinkClosed("n1"))
    assert network.core("n2").next_deadline() == deadline
    network.step("n2", Vote(N3, N2, 5, 9, 9))
    assert network.core("n2").term == 1


def test_pitfall_34_a_term_that_rises_does_not_end_the_promise() -> None:
    """Somebody's answer brought the higher term here; the leader does not know of it."""
    network = led()
    network.step("n2", PreVoteReply(N3, N2, 4, False))
    assert network.core("n2").term == 4
    network.step("n2", Vote(N3, N2, 5, 9, 9))
    assert network.core("n2").term == 4
    network.now += 1_000
    network.step("n2", Vote(N3, N2, 5, 9, 9))
    assert network["n2"].sent[-1] == VoteReply(N2, N3, 5, True)


def test_pitfall_35_after_a_large_gap_nothing_that_was_timed_is_known() -> None:
    network = led()
    network.now += 1_001
    network.step("n1", Read(7, LEASE))
    assert not network.core("n1").is_leader
    assert network["n1"].reads == []
    assert network["n1"].reads_failed == [7]


def test_pitfall_35_a_voter_whose_clock_jumped_keeps_its_promise_for_a_whole_timeout() -> None:
    network = led()
    network.isolate("n1")
    until = network.core("n1").lease_until_ms
    core = network.core("n2")
    core.step(ClockAnomaly(), network.now + 1_000)  # on its own clock, which is ahead from now on
    core.step(Vote(N3, N2, 2, 9, 9), network.now + 1_001)
    assert (core.term, core.vote) == (1, N1), f"n1 may rely on it until {until}"
    core.step(PreVote(N3, N2, 2, 9, 9), network.now + 1_002)
    output = core.take_output()
    assert output is not None
    assert output.messages == [PreVoteReply(N2, N3, 1, False)]
    assert core.next_deadline() >= network.now + 2_000
    core.step(Vote(N3, N2, 2, 9, 9), network.now + 2_000)
    assert core.vote == N3


@pytest.mark.parametrize("elected", [False, True])
def test_pitfall_35_who_stood_because_of_a_wrong_clock_stands_no_more(elected: bool) -> None:
    """The silence that it took for a dead leader was measured by that clock."""
    network = led()
    network.isolate("n2")
    network.now += 2_500
    network.step("n2", Tick())
    if elected:
        network.hold_disk("n2")
        network.answer_pre_vote("n2", N3)
    core = network.core("n2")
    assert core.role == (CANDIDATE if elected else PRE_CANDIDATE)
    network.step("n2", ClockAnomaly())
    assert core.role == FOLLOWER
    network.step("n2", VoteReply(N3, N2, core.term, True))
    assert not core.is_leader


def test_pitfall_36_a_transfer_ends_the_lease_before_the_target_is_told() -> None:
    network = led()
    core = network.core("n1")
    core.step(Transfer(5, N2), network.now)
    assert core.lease_until_ms == 0
    output = core.take_output()
    assert output is not None
    assert TimeoutNow(N1, N2, 1) in output.messages
    core.step(Read(7, LEASE), network.now)
    output = core.take_output()
    assert output is not None
    assert output.reads == []


def test_pitfall_36_a_transfer_that_waits_for_the_target_leaves_the_lease() -> None:
    network = led()
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.step("n1", Transfer(5, N2))
    assert network.core("n1").lease_until_ms > network.now
    network.persist("n2")
    network.deliver(to("n1"))
    assert network.core("n1").lease_until_ms == 0


def test_pitfall_36_after_a_failed_transfer_there_is_no_lease_in_this_term() -> None:
    """The request to stand may arrive at any time, and honours no promise."""
    network = led()
    network.step("n1", Transfer(5, N2))
    network.drop()
    network.isolate("n2")
    network.run(1_500)
    core = network.core("n1")
    assert core.is_leader
    assert not core.is_transferring
    network.run(1_000)
    assert core.lease_until_ms == 0
    network.step("n1", Read(7, LEASE))
    network.settle()
    assert network["n1"].reads == [(7, 1)]


def test_pitfall_36_who_stands_late_wins_while_the_old_leader_lives_and_serves_nothing() -> None:
    network = led()
    network.step("n1", Transfer(5, N2))
    late = network.drop(lambda message: isinstance(message, TimeoutNow))
    network.cut("n1", "n2")
    network.run(400)
    network.cut("n2", "n1")
    network.cut("n3", "n1")
    network.step("n2", late[0])
    network.settle()
    assert network.core("n2").is_leader
    assert network.core("n1").is_leader, "it does not know"
    network.step("n1", Read(7, LEASE))
    network.settle()
    assert network["n1"].reads == []


def test_pitfall_36_a_leader_that_is_removed_ends_its_lease_too() -> None:
    network = led()
    core = network.core("n1")
    network.step("n1", Reconfigure(7, frozenset((N2, N3))))
    leases = []
    while core.is_leader:
        leases.append(core.lease_until_ms > network.now)
        network.deliver(count=1)
    assert all(leases)
    assert core.lease_until_ms == 0
    assert network.core("n3").role == CANDIDATE or any(
        isinstance(message, TimeoutNow) for message in network.in_flight
    )


def test_an_append_renews_the_promise_that_the_lease_relies_on() -> None:
    network = led()
    network.now += 700
    network.step("n2", Append(N1, N2, 1, 1, 1, 1, []))
    network.now += 900
    network.step("n2", Vote(N3, N2, 2, 9, 9))
    assert network.core("n2").term == 1
