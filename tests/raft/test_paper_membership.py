"""Changes of membership and of the leader, by the section that states the rule.

Paper 6 is joint consensus; thesis 4 says what a whole system needs beside it, and 3.10 how a leader
hands over. "In Search of an Understandable Consensus Algorithm (Extended Version)"; "Consensus:
Bridging Theory and Practice".
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raft.configuration import Configuration
from raft.messages import (
    Append,
    AppendReply,
    Decision,
    PeerMessage,
    PreVote,
    Reconfigure,
    Replica,
    Tick,
    TimeoutNow,
    Transfer,
    Vote,
    VoteReply,
)
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE
from raft.settings import RaftSettings
from tests.raft.network import (
    Network,
    led,
    replica,
    sent_by,
    to,
)

N1, N2, N3, N4, N5, N6 = (replica(f"n{number}") for number in range(1, 7))
OLD = frozenset((N1, N2, N3))
NEW = frozenset((N1, N4, N5))
STEPS_MAX = 1_000


def change(network: Network, voters: frozenset[Replica], *learners: Replica) -> None:
    network.step("n1", Reconfigure(7, voters, frozenset(learners)))


def caught_up() -> Network:
    """{n1, n2, n3} is on the way to {n1, n4, n5}, and n1 has just appended the joint one."""
    network = led(spares=2)
    change(network, NEW)
    go_on_until(network, lambda: network.core("n1").configuration.is_joint)
    return network


def go_on_until(network: Network, is_reached: Callable[[], bool]) -> None:
    """Deliver one message after the other, and let time pass when there is none."""
    for _ in range(STEPS_MAX):
        if is_reached():
            return
        if not network.deliver(count=1):
            network.tick("n1")
    raise AssertionError("it never comes to that")


def reach_only(network: Network, *names: str) -> None:
    """What is between the leader and these arrives, all else is lost."""

    def is_theirs(message: PeerMessage) -> bool:
        return message.sender.node in names or message.to.node in names

    while network.deliver(is_theirs):
        pass
    network.drop()


# --------------------------------------------------------------------------- 6 joint consensus


def test_6_a_configuration_is_in_force_as_soon_as_it_is_in_the_log() -> None:
    """Committed or not, on the leader and on whoever gets it."""
    network = led(spares=1)
    change(network, OLD, N4)
    wanted = Configuration(OLD, frozenset((N4,)))
    assert network.core("n1").configuration == wanted
    assert network.core("n1").configuration_index == 2
    assert network.core("n1").committed_configuration == network.configuration
    network.deliver(to("n2"))
    assert network.core("n2").configuration == wanted
    assert network.core("n2").commit_index == 1
    assert network.core("n3").configuration == network.configuration


def test_6_voters_change_by_way_of_a_joint_configuration() -> None:
    network = led(spares=2)
    change(network, NEW)
    seen = [network.core("n1").configuration]

    def is_decided() -> bool:
        if network.core("n1").configuration != seen[-1]:
            seen.append(network.core("n1").configuration)
        return bool(network["n1"].decisions)

    go_on_until(network, is_decided)
    assert seen == [
        Configuration(OLD, frozenset((N4, N5))),
        Configuration(NEW, outgoing=OLD),
        Configuration(NEW),
    ]
    assert network["n1"].decisions == [Decision(7, index=network.core("n1").configuration_index)]
    network.run(500)
    for name in ("n1", "n4", "n5"):
        assert network.core(name).committed_configuration == Configuration(NEW)


@pytest.mark.parametrize(
    ("reach", "committed"),
    [
        ((), False),
        (("n2", "n3"), False),  # all of the old half, one of the new
        (("n4", "n5"), False),  # all of the new half, one of the old
        (("n2", "n4"), True),
        (("n3", "n5"), True),
    ],
)
def test_6_while_joint_an_entry_needs_a_majority_of_both_halves(
    reach: tuple[str, ...], committed: bool
) -> None:
    network = caught_up()
    joint_index = network.core("n1").configuration_index
    reach_only(network, *reach)
    assert (network.core("n1").commit_index >= joint_index) == committed
    assert network.core("n1").configuration.is_joint == (not committed)


@pytest.mark.parametrize(
    ("granting", "role"),
    [
        ((N2, N3), CANDIDATE),
        ((N4, N5), CANDIDATE),
        ((N2, N4), LEADER),
        ((N3, N5), LEADER),
    ],
)
def test_6_while_joint_an_election_needs_a_majority_of_both_halves(
    granting: tuple[Replica, ...], role: int
) -> None:
    network = caught_up()
    network.drop()
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").configuration.is_joint, "it is in force, committed or not"
    network.now += 3_000
    network.tick("n1")
    for voter in (N2, N4):  # the pre-vote is won by both halves
        network.deliver(lambda m, voter=voter: m.to == voter)  # type: ignore[misc]
        network.deliver(lambda m, voter=voter: m.sender == voter)  # type: ignore[misc]
    core = network.core("n1")
    assert core.role == CANDIDATE
    for voter in granting:
        network.step("n1", VoteReply(voter, N1, core.term, True))
    assert core.role == role


def test_6_while_joint_everybody_of_both_halves_is_asked_for_a_vote() -> None:
    network = caught_up()
    network.drop()
    network.crash("n1")
    network.restart("n1")
    network.now += 3_000
    network.tick("n1")
    asked = [message.to for message in network.in_flight if isinstance(message, PreVote)]
    assert asked == [N2, N3, N4, N5]


def test_6_old_and_new_cannot_decide_alone_when_the_leader_dies_in_between() -> None:
    """Figure 11: who has the joint entry needs both halves; who has not may go on as before."""
    network = caught_up()
    reach_only(network, "n4", "n5")
    network.crash("n1")
    for name in ("n4", "n5"):
        assert network.core(name).configuration.is_joint
    network.isolate("n4", "n5")
    network.run(10_000)
    leader = network.leader
    assert leader is not None
    assert leader.name in ("n2", "n3"), "two of the old three"
    assert {network.core(name).role for name in ("n4", "n5")} <= {FOLLOWER, PRE_CANDIDATE}
    network.heal()
    network.run(5_000)
    assert network.core("n4").configuration == leader.core.configuration
    assert not leader.core.configuration.is_joint


def test_6_a_new_member_gets_the_log_before_it_has_a_vote() -> None:
    network = led(spares=1)
    for _ in range(5):
        network.propose("n1")
    network.settle()
    network.cut("n4", "n1")
    change(network, OLD | {N4})
    network.run(500)
    core = network.core("n1")
    assert N4 in core.configuration.learners, "nothing is heard of it"
    assert not core.configuration.votes(N4)
    network.heal()
    network.run(500)
    assert core.configuration == Configuration(OLD | {N4})
    assert network["n4"].log == network["n1"].log


def test_6_a_leader_that_is_not_in_the_new_half_does_not_count_itself() -> None:
    network = led()
    change(network, frozenset((N2, N3)))
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))  # joint: n1 and n2 of the old, but only n2 of the new half
    assert network.core("n1").commit_index == 1
    network.deliver(to("n3"))
    network.deliver(sent_by("n3"))
    assert network.core("n1").commit_index == 2


def test_6_a_leader_that_is_removed_steps_down_once_that_is_committed() -> None:
    network = led()
    change(network, frozenset((N2, N3)))
    while network.core("n1").is_leader:
        assert network.deliver(count=1)
        if network.core("n1").commit_index < 3:
            assert network.core("n1").is_leader
    assert network["n1"].decisions == [Decision(7, index=3)]
    network.run(5_000)
    leader = network.leader
    assert leader is not None
    assert leader.name in ("n2", "n3")
    assert leader.core.configuration == Configuration(frozenset((N2, N3)))


# --------------------------------------------------------------------------- thesis 4


def test_thesis_4_3_any_members_may_be_exchanged_in_one_change() -> None:
    """What single-server changes cannot do: from three voters to three others."""
    network = led(spares=3)
    network.propose("n1", count=3)
    change(network, frozenset((N4, N5, N6)))
    network.run(5_000)
    leader = network.leader
    assert leader is not None
    assert leader.name in ("n4", "n5", "n6")
    assert leader.core.configuration == Configuration(frozenset((N4, N5, N6)))
    assert network["n1"].decisions[0].error is None


def test_thesis_4_2_1_a_newcomer_votes_after_a_round_that_was_short_enough() -> None:
    """The first round takes longer than an election timeout, the second does not."""
    network = led(spares=1)
    change(network, OLD, N4)
    network.run(500)
    network.hold_disk("n4")
    network.propose("n1")
    change(network, OLD | {N4})
    network.run(1_500)
    network.propose("n1")  # what the second round has to bring
    network.settle()
    core = network.core("n1")
    network.persist("n4", count=1)
    network.settle()
    assert core.configuration.learners == {N4}, "that took too long"
    network.persist("n4", count=1)
    network.settle()
    assert core.configuration.votes(N4)


def test_thesis_4_2_1_a_slow_first_round_is_enough_where_nothing_comes_meanwhile() -> None:
    network = led(spares=1)
    change(network, OLD, N4)
    network.run(500)
    network.hold_disk("n4")
    network.propose("n1")
    change(network, OLD | {N4})
    network.run(1_500)
    assert network.core("n1").configuration.learners == {N4}
    network.release_disk("n4")
    network.run(300)
    assert network.core("n1").configuration.votes(N4)
    assert [each.error for each in network["n1"].decisions] == [None, None]


@pytest.mark.parametrize("rounds", [1, 3])
def test_thesis_4_2_1_a_newcomer_that_needs_too_many_rounds_is_given_up(rounds: int) -> None:
    network = led(spares=1, settings=RaftSettings(catch_up_rounds_max=rounds))
    network.cut("n1", "n4")
    change(network, OLD | {N4})
    network.settle()
    core = network.core("n1")
    for number in range(rounds):
        assert network["n1"].decisions == [], f"given up in round {number + 1}"
        for _ in range(11):  # it acknowledges what the round began with, and that took too long
            network.now += 100
            network.step("n1", Tick())
            network.settle()
        target = core.last_index
        network.propose("n1")
        network.settle()
        network.step("n1", AppendReply(N4, N1, core.term, target))
    network.now += 100
    network.step("n1", Tick())
    network.settle()
    (decision,) = network["n1"].decisions
    assert decision.error == f"{N4} does not catch up"
    assert not decision.unknown
    assert core.configuration == network.configuration, "taken back"


def test_thesis_4_2_1_a_newcomer_that_is_silent_is_given_up() -> None:
    network = led(spares=1)
    network.crash("n4")
    change(network, OLD | {N4})
    network.run(9_900)
    assert network["n1"].decisions == []
    network.run(400)
    (decision,) = network["n1"].decisions
    assert decision.error == f"{N4} is not heard of"
    assert network.core("n1").configuration == network.configuration
    change(network, OLD, N4)  # and the next change may be asked for
    network.settle()
    assert network.core("n1").configuration == Configuration(OLD, frozenset((N4,)))


def test_thesis_4_2_1_a_learner_that_is_behind_already_counts_its_rounds_from_now() -> None:
    network = led(spares=1)
    change(network, OLD, N4)
    network.run(60_000)
    change(network, OLD | {N4})
    network.settle()
    assert network.core("n1").configuration == Configuration(OLD | {N4})


def test_thesis_4_2_2_who_removes_itself_may_still_be_needed_to_finish_that() -> None:
    """The entry that removes n1 is on n1 alone, and n1 has led: it may stand, not count."""
    network = led(2)
    change(network, frozenset((N2,)))
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))
    core = network.core("n1")
    assert core.configuration == Configuration(frozenset((N2,)))
    network.drop()
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").may_stand
    network.crash("n2")
    network.restart("n2")
    network.now += 3_000
    network.tick("n1")
    assert network.core("n1").role == PRE_CANDIDATE, "its own vote is not enough"
    network.run(10_000)
    assert network.core("n2").is_leader
    assert network.core("n2").configuration == Configuration(frozenset((N2,)))
    assert not network.core("n1").may_stand


def test_thesis_4_2_2_so_it_may_after_a_restart_that_forgot_what_was_committed() -> None:
    """n1 has left, and comes back as n2 leaves. The last step is on n2 alone, which votes there no
    more; n1 has the joint configuration and a log that is shorter."""
    network = led(1, spares=1)
    change(network, frozenset((N2,)))
    network.run(3_000)
    assert network.core("n2").committed_configuration == Configuration.of(N2)
    network.step("n2", Reconfigure(8, frozenset((N1,))))
    while network.core("n2").configuration != Configuration.of(N1):
        if not network.deliver(count=1):
            network.tick("n2")
    assert network.core("n2").is_leader
    network.in_flight.clear()
    network.crash("n2")
    network.restart("n2")
    assert network.core("n2").may_stand
    network.run(10_000)
    leader = network.leader
    assert leader is not None
    assert leader.core.committed_configuration == Configuration.of(N1)


def test_thesis_4_2_2_a_replica_votes_for_a_candidate_that_it_does_not_know_yet() -> None:
    network = Network(3)
    network.step("n1", Vote(N4, N1, 3, 9, 2))
    assert network["n1"].sent == [VoteReply(N1, N4, 3, True)]


def test_thesis_4_2_2_a_replica_that_votes_no_more_still_gives_its_vote() -> None:
    """It is the candidate who counts: with a log that says so, and votes that matter to it."""
    network = led()
    change(network, frozenset((N1, N2)), N3)
    network.run(1_000)
    network.isolate("n1", "n2")
    network.run(3_000)
    network.step("n3", Vote(N2, N3, 9, 99, 1))
    assert network["n3"].sent[-1] == VoteReply(N3, N2, 9, True)


def test_thesis_4_2_3_who_was_removed_cannot_depose_the_leader_with_votes() -> None:
    network = led()
    network.isolate("n3")
    change(network, frozenset((N1, N2)))
    network.run(15_000)
    term = network.core("n1").term
    network.heal()
    network.step("n1", Vote(N3, N1, 40, 99, 40))
    network.step("n2", Vote(N3, N2, 40, 99, 40))
    network.run(5_000)
    assert network.core("n1").is_leader
    assert network.core("n1").term == term


# --------------------------------------------------------------------------- thesis 3.10


def test_thesis_3_10_proposals_stop_and_the_target_gets_the_whole_log_first() -> None:
    network = led()
    network.isolate("n2")
    network.propose("n1")
    network.settle()
    network.heal()
    network.step("n1", Transfer(5, N2))
    core = network.core("n1")
    assert core.is_transferring
    assert not any(isinstance(message, TimeoutNow) for message in network.in_flight)
    with pytest.raises(AssertionError, match="proposed while leadership is transferred"):
        network.propose("n1")
    network.run(600)
    assert network.core("n2").is_leader
    assert not network.core("n1").is_transferring
    assert network["n1"].decisions == [Decision(5)]


def test_thesis_3_10_the_target_stands_at_once_while_everybody_hears_the_leader() -> None:
    """Pitfall 6: past its own timeout, past pre-vote, past the others' promise."""
    network = led()
    network.step("n1", Transfer(5, N3))
    (message,) = (each for each in network.in_flight if isinstance(each, TimeoutNow))
    assert message == TimeoutNow(N1, N3, 1)
    network.deliver(to("n3"))
    assert network.core("n3").role == CANDIDATE
    assert [each for each in network.in_flight if isinstance(each, Vote)] == [
        Vote(N3, N1, 2, 1, 1, transfer=True),
        Vote(N3, N2, 2, 1, 1, transfer=True),
    ]
    network.settle()
    assert network.core("n3").is_leader
    assert network.now < network.core("n2").next_deadline()


def test_thesis_3_10_a_transfer_without_a_name_goes_to_who_is_furthest() -> None:
    network = led(5)
    network.isolate("n1", "n4")
    network.propose("n1")
    network.settle()
    network.heal()
    network.step("n1", Transfer(5))
    network.settle()
    assert network.core("n4").is_leader


def test_thesis_3_10_a_transfer_that_fails_is_over_after_an_election_timeout() -> None:
    network = led()
    network.isolate("n2")
    network.step("n1", Transfer(5, N2))
    network.run(900)
    core = network.core("n1")
    assert core.is_transferring
    network.run(200)
    assert core.is_leader
    assert not network.core("n1").is_transferring
    assert network["n1"].decisions == [
        Decision(5, "the target did not take over in time", unknown=True)
    ]
    assert network.propose("n1").first == 2


def test_thesis_3_10_a_lost_request_to_stand_is_sent_again() -> None:
    network = led()
    network.step("n1", Transfer(5, N2))
    lost = network.drop(lambda message: isinstance(message, TimeoutNow))
    assert len(lost) == 1
    network.run(network.settings.heartbeat_ms + 1)
    assert network.core("n2").is_leader


def test_thesis_3_10_a_target_that_never_gets_the_log_was_never_asked() -> None:
    network = led()
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.step("n1", Transfer(5, N2))
    network.run(1_100)
    assert network["n1"].decisions == [Decision(5, "the target did not catch up in time")]
    assert not any(isinstance(message, TimeoutNow) for message in network["n1"].sent)


def test_thesis_3_10_somebody_else_may_win() -> None:
    network = led()
    network.step("n1", Transfer(5, N2))
    network.drop()
    network.crash("n2")
    network.isolate("n1")
    network.step("n1", AppendReply(N3, N1, 4, 0))
    network.step("n1", Append(N3, N1, 4, 1, 1, 0, []))
    (decision,) = network["n1"].decisions
    assert decision == Decision(5, f"{N3} took over instead")
