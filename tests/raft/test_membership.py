"""Changes, transfers, resets: the answers to who asks for them, and the majority that was lost."""

from __future__ import annotations

import pytest

from raft.configuration import Configuration
from raft.errors import Contradiction
from raft.membership import RESET_TERM_LEAP
from raft.messages import (
    CONFIG,
    Append,
    AppendReply,
    Decision,
    Heartbeat,
    LinkClosed,
    Message,
    PreVote,
    Reconfigure,
    Replica,
    ResetPeers,
    Tick,
    TimeoutNow,
    Transfer,
)
from raft.roles import FOLLOWER, PRE_CANDIDATE
from tests.raft.network import (
    Network,
    led,
    replica,
    sent_by,
    to,
)

N1, N2, N3, N4, N5 = (replica(f"n{number}") for number in range(1, 6))
NOBODY: frozenset[Replica] = frozenset()
OLD = frozenset((N1, N2, N3))
PAIR = frozenset((N1, N2))


def decision(network: Network, message: Message, name: str = "n1") -> Decision:
    network.step(name, message)
    return network[name].decisions[-1]


# --------------------------------------------------------------------------- changes


def test_a_change_to_what_is_there_is_done_and_writes_nothing() -> None:
    network = led()
    assert decision(network, Reconfigure(5, OLD)) == Decision(5)
    assert network.core("n1").last_index == 1


@pytest.mark.parametrize(
    ("voters", "learners", "error"),
    [
        (NOBODY, OLD, "a group needs at least one voter"),
        (OLD, frozenset((N3, N2)), f"voter and learner at once: {N2}, {N3}"),
    ],
)
def test_a_change_to_what_can_be_no_group_is_refused(
    voters: frozenset[Replica], learners: frozenset[Replica], error: str
) -> None:
    assert decision(led(), Reconfigure(5, voters, learners)) == Decision(5, error)


def test_who_does_not_lead_changes_nothing() -> None:
    network = led()
    assert decision(network, Reconfigure(5, PAIR), "n2") == Decision(5, "not the leader")


def test_learners_come_and_go_without_a_joint_configuration() -> None:
    network = led(spares=2)
    network.step("n1", Reconfigure(5, OLD, frozenset((N4, N5))))
    network.run(500)
    assert network["n1"].decisions[-1] == Decision(5, index=2)
    assert network["n5"].log == network["n1"].log
    network.step("n1", Reconfigure(6, OLD, frozenset((N5,))))
    network.settle()
    assert network["n1"].decisions[-1] == Decision(6, index=3)
    assert network.core("n1").configuration == Configuration(OLD, frozenset((N5,)))


def test_everything_at_once() -> None:
    """n2 is demoted, n3 goes, n4 comes, the learner n5 gets a vote."""
    network = led(spares=2)
    network.step("n1", Reconfigure(5, OLD, frozenset((N5,))))
    network.run(500)
    network.step("n1", Reconfigure(6, frozenset((N1, N4, N5)), frozenset((N2,))))
    network.run(1_000)
    expected = Configuration(frozenset((N1, N4, N5)), frozenset((N2,)))
    assert network.core("n1").committed_configuration == expected
    for name in ("n2", "n4", "n5"):
        assert network.core(name).committed_configuration == expected
        assert network[name].log == network["n1"].log


def test_a_learner_that_goes_with_a_change_of_voters_is_gone_with_the_joint_one() -> None:
    network = led(spares=1)
    network.step("n1", Reconfigure(5, OLD, frozenset((N4,))))
    network.run(500)
    network.step("n1", Reconfigure(6, PAIR))
    assert network.core("n1").configuration == Configuration(PAIR, outgoing=OLD)
    network.run(500)
    assert network["n1"].decisions[-1].error is None
    assert network.core("n1").configuration == Configuration(PAIR)


def test_a_leader_may_become_a_learner() -> None:
    network = led()
    network.step("n1", Reconfigure(5, frozenset((N2, N3)), frozenset((N1,))))
    network.run(1_000)
    assert network["n1"].decisions == [Decision(5, index=3)]
    leader = network.leader
    assert leader is not None
    assert leader.name != "n1"
    network.propose(leader.name)
    network.run(200)
    assert network["n1"].log == leader.log
    assert network.core("n1").role == FOLLOWER


def test_a_leader_that_goes_and_has_no_line_to_anybody_just_goes() -> None:
    """Its removal is committed while a transfer is tried; then the link to the target closes."""
    network = led(2)
    network.step("n1", Reconfigure(5, frozenset((N2,))))
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))
    network.step("n1", Transfer(6, N2))
    network.now += 500
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))
    core = network.core("n1")
    assert core.is_leader
    assert core.configuration_index == core.commit_index
    network.isolate("n1")
    network.step("n1", LinkClosed("n2"))
    sent = len(network["n1"].sent)
    network.now += 500
    network.step("n1", Tick())
    assert not network.core("n1").is_leader
    assert not any(isinstance(message, TimeoutNow) for message in network["n1"].sent[sent:])


def test_a_leadership_that_ends_leaves_the_outcome_open() -> None:
    network = led()
    network.isolate("n1")
    network.step("n1", Reconfigure(5, PAIR))
    network.step("n1", AppendReply(N3, N1, 9, 0))
    assert network["n1"].decisions == [
        Decision(5, "leadership was lost while it was under way", index=2, unknown=True)
    ]


def test_why_a_change_was_taken_back_is_told_also_when_leadership_ends_meanwhile() -> None:
    network = led(spares=1)
    network.crash("n4")
    network.step("n1", Reconfigure(5, OLD | {N4}))
    network.settle()
    network.cut("n2", "n1")
    for _ in range(103):
        network.now += 100
        network.step("n1", sign_of_life(network, N3))
    network.cut("n3", "n1")
    network.step("n1", Tick())
    network.step("n1", AppendReply(N3, N1, 9, 0))
    (told,) = network["n1"].decisions
    assert (told.error, told.unknown) == (f"{N4} is not heard of", True)


def sign_of_life(network: Network, sender: Replica) -> Message:
    return AppendReply(sender, N1, 1, network.core("n1").commit_index)


def test_a_change_waits_while_leadership_is_transferred_and_goes_on_when_that_fails() -> None:
    network = led(5)
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.step("n1", Reconfigure(5, frozenset((N1, N2, N3, N4))))
    network.step("n1", Transfer(6, N2))
    core = network.core("n1")
    network.run(900)
    assert core.is_transferring
    assert core.configuration.is_joint
    assert core.configuration_index == core.commit_index
    network.run(1_000)
    assert [each.token for each in network["n1"].decisions] == [6, 5]
    assert core.configuration == Configuration(frozenset((N1, N2, N3, N4)))


def test_no_change_while_leadership_is_transferred() -> None:
    network = led()
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.step("n1", Transfer(6, N2))
    assert decision(network, Reconfigure(5, PAIR)).error == "leadership is being transferred"
    error = f"leadership is being transferred to {N2}"
    assert decision(network, Transfer(7, N3)) == Decision(7, error)


def test_the_last_change_has_to_be_committed_when_leadership_is_new() -> None:
    """An entry of this term is committed, and the change behind it is not."""
    network = led()
    network.step("n1", Reconfigure(5, OLD, frozenset((N4,))))
    network.core("n1")._change = None  # as if a former leadership had begun it
    error = "the last change of membership is not committed yet"
    assert decision(network, Reconfigure(6, PAIR)) == Decision(6, error, index=2)


# --------------------------------------------------------------------------- transfer


def test_a_transfer_to_who_leads_is_done() -> None:
    network = led()
    assert decision(network, Transfer(5, N1)) == Decision(5)
    assert network.core("n1").is_leader


def test_a_transfer_to_anybody_needs_somebody_who_is_heard() -> None:
    network = led(1)
    assert decision(network, Transfer(5)) == Decision(5, "no other voter is heard")


def test_a_transfer_ends_when_the_target_leads_however_the_election_went() -> None:
    network = led()
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.step("n1", Transfer(5, N2))
    network.step("n1", Heartbeat(N2, N1, 4, 0, 1))
    assert network["n1"].decisions == [Decision(5)]


def test_a_transfer_ends_when_the_same_leader_is_elected_again() -> None:
    network = led()
    network.step("n1", Transfer(5, N2))
    network.drop()
    network.crash("n2")
    network.step("n1", AppendReply(N3, N1, 2, 0))
    assert not network.core("n1").is_leader
    network.core("n1")._timer.expire(network.now)
    network.core("n3")._timer.forget_leader(network.now)
    network.tick("n1")
    network.settle()
    assert network.core("n1").is_leader
    assert network["n1"].decisions == [
        Decision(5, "the target did not take over in time", unknown=True)
    ]


def test_a_transfer_ends_also_when_nobody_leads() -> None:
    network = led()
    network.step("n1", Transfer(5, N2))
    network.drop()
    network.isolate("n1")
    network.step("n1", AppendReply(N3, N1, 2, 0))
    network.run(1_100)
    (told,) = network["n1"].decisions
    assert told == Decision(5, "the target did not take over in time", unknown=True)


def test_who_cannot_write_does_not_stand_for_the_leader() -> None:
    network = led()
    network.hold_disk("n2")
    network.propose("n1")
    network.settle()
    network.now += 1_001
    network.step("n2", TimeoutNow(N1, N2, 1))
    assert network.core("n2").role == FOLLOWER
    assert network.core("n2").status().ignored == {"asked to stand while the disk is stalled": 1}


def test_who_is_asked_to_stand_by_somebody_else_than_the_leader_does_not() -> None:
    network = led()
    network.step("n2", TimeoutNow(N3, N2, 1))
    assert network.core("n2").status().ignored == {
        "asked to stand by somebody who does not lead": 1
    }


# --------------------------------------------------------------------------- majority lost


def without_majority() -> Network:
    """Of five, n3, n4 and n5 are lost for good; n1 and n2 know of it."""
    network = led(5)
    network.propose("n1", count=3)
    network.run(200)
    for name in ("n3", "n4", "n5"):
        network.crash(name)
    network.run(5_000)
    assert network.leader is None
    return network


def test_a_reset_makes_a_group_of_those_that_are_left() -> None:
    network = without_majority()
    term = network.core("n1").term
    network.step("n1", ResetPeers(5, PAIR))
    assert network.core("n1").term == term + RESET_TERM_LEAP + N1.incarnation
    assert network["n1"].decisions == [], "it is not known yet who will lead"
    network.tick("n1")
    network.settle()
    leader = network.leader
    assert leader is network["n1"]
    core = leader.core
    assert leader.decisions == [Decision(5, index=core.configuration_index)]
    assert core.committed_configuration == Configuration(PAIR)
    last = core.last_run()
    assert last is not None
    assert (last.kind, last.first) == (CONFIG, core.configuration_index)
    network.propose(leader.name)
    network.run(200)
    assert network["n1"].log == network["n2"].log
    assert network.core("n2").committed_configuration == Configuration(PAIR)
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").configuration == Configuration(PAIR)


def test_a_reset_to_oneself_alone_elects_at_once() -> None:
    network = without_majority()
    network.isolate("n1")
    network.step("n1", ResetPeers(5, frozenset((N1,))))
    network.tick("n1")
    core = network.core("n1")
    assert core.can_serve
    assert core.committed_configuration == Configuration.of(N1)
    assert core.commit_index == core.last_index


def test_the_others_are_asked_and_may_say_no() -> None:
    """A reset gives no vote away: the better log wins, here as always."""
    network = without_majority()
    network.crash("n1")
    network["n1"].disk.runs.pop()
    network.restart("n1")
    network.now += 3_000
    network.isolate("n1", "n2")
    network.step("n1", ResetPeers(5, PAIR))
    network.tick("n1")
    (asked,) = (message for message in network.in_flight if isinstance(message, PreVote))
    assert asked.to == N2
    network.settle()
    assert not network.core("n1").is_leader


@pytest.mark.parametrize(
    ("voters", "name", "error"),
    [
        (frozenset((N2, N3)), "n1", f"{N1} has to be one of the voters"),
        (PAIR, "n1", f"the leader {N1} is heard: the majority is not lost"),
        (PAIR, "n2", f"the leader {N1} is heard: the majority is not lost"),
    ],
)
def test_a_reset_is_refused_while_there_is_a_leader(
    voters: frozenset[Replica], name: str, error: str
) -> None:
    network = led()
    assert decision(network, ResetPeers(5, voters), name) == Decision(5, error)
    assert network.core(name).configuration == network.configuration


def test_unless_it_is_forced() -> None:
    network = led()
    network.isolate("n1")
    network.step("n1", ResetPeers(5, frozenset((N1,)), force=True))
    assert not network.core("n1").is_leader
    network.tick("n1")
    assert network.core("n1").committed_configuration == Configuration.of(N1)
    assert [each.error for each in network["n1"].decisions] == [None]


def test_a_leader_that_is_heard_after_all_undoes_a_reset() -> None:
    network = without_majority()
    network.step("n2", ResetPeers(5, frozenset((N2,))))
    assert network.core("n2").configuration == Configuration.of(N2)
    network.step("n2", Heartbeat(N3, N2, network.core("n2").term + 1, 0, 1))
    assert network.core("n2").configuration == network.configuration
    assert not network.core("n2")._alone
    assert network["n2"].decisions == [Decision(5, f"{N3} leads: the majority is not lost")]
    network.run(3_000)
    assert not network.core("n2").is_leader


def test_what_an_older_leader_had_sent_undoes_no_reset() -> None:
    """Its last heartbeat comes late, and would put the lost majority back into force."""
    network = led()
    network.now += 100
    network.step("n1", Tick())
    (late,) = (m for m in network.drop(to("n2")) if isinstance(m, Heartbeat))
    network.crash("n1")
    network.crash("n3")
    network.now += 1_500
    network.step("n2", ResetPeers(5, frozenset((N2,))))
    network.deliver_again(late)
    network.run(10)
    assert network.core("n2").is_leader
    assert network.core("n2").committed_configuration == Configuration.of(N2)


def test_a_reset_that_another_one_replaces_is_answered() -> None:
    network = without_majority()
    network.step("n1", ResetPeers(5, PAIR))
    network.step("n1", ResetPeers(6, frozenset((N1,))))
    assert network["n1"].decisions == [Decision(5, "another reset has replaced this one")]
    network.tick("n1")
    assert network.core("n1").committed_configuration == Configuration.of(N1)
    assert [each.token for each in network["n1"].decisions] == [5, 6]


def split_by_force() -> Network:
    """n1 has led alone since it was forced to, and so has another leader of n2 and n3."""
    network = led()
    # That both sides apply something else is the point here, and no error of the network's.
    network._apply = lambda node, run: node.applied.append(run)  # type: ignore[method-assign]
    network.isolate("n1")
    network.step("n1", ResetPeers(5, frozenset((N1,)), force=True))
    network.tick("n1")
    network.run(3_000)
    assert network.core("n1").is_leader
    assert network.core("n2").is_leader or network.core("n3").is_leader
    return network


def test_a_reset_while_the_majority_lives_gives_no_second_leader_to_any_term() -> None:
    network = split_by_force()
    leaders = [node.core for node in network.nodes.values() if node.core.is_leader]
    assert network.core("n1").term >= RESET_TERM_LEAP
    assert len({core.term for core in leaders}) == 2


def test_two_groups_that_a_reset_has_made_do_not_mix_unnoticed() -> None:
    """Each has committed what the other has not. Whoever of them meets the other stops."""
    network = split_by_force()
    other = "n2" if network.core("n2").is_leader else "n3"
    assert network.core("n1").commit_index >= 3
    assert network.core(other).commit_index >= 2
    runs = network.core(other).log.between(1, 2)
    higher = network.core("n1").term + 1
    foreign = Append(network[other].me, N1, higher, 0, 0, 2, list(runs))
    with pytest.raises(Contradiction, match="another entry at 2, which is committed here"):
        network.step("n1", foreign)


def test_a_reset_ends_a_campaign_under_the_old_configuration() -> None:
    network = without_majority()
    network.tick("n1")
    assert network.core("n1").role == PRE_CANDIDATE
    network.step("n1", ResetPeers(5, PAIR))
    assert network.core("n1").role == FOLLOWER
    network.tick("n1")
    assert network.core("n1").role == PRE_CANDIDATE
