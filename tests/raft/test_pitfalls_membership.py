"""Pitfalls of membership and transfer (6, 17, 20 to 28), by number.

The same changes as stories of the paper: test_paper_membership.py; the answers to who asks for
them: test_membership.py.
"""

from __future__ import annotations

import pytest

from raft.configuration import Configuration
from raft.messages import (
    CONFIG,
    Append,
    AppendReply,
    Decision,
    HardState,
    Heartbeat,
    Message,
    PreVote,
    Reconfigure,
    Replica,
    SnapshotMeta,
    SnapshotReceived,
    Tick,
    TimeoutNow,
    Transfer,
    Vote,
    VoteReply,
)
from raft.roles import CANDIDATE, FOLLOWER, PRE_CANDIDATE
from tests.raft.network import (
    Disk,
    Network,
    led,
    make_run,
    replica,
    sent_by,
    to,
)

N1, N2, N3, N4 = (replica(f"n{number}") for number in range(1, 5))
OLD = frozenset((N1, N2, N3))
PAIR = frozenset((N1, N2))


def change(network: Network, voters: frozenset[Replica], *learners: Replica) -> None:
    network.step("n1", Reconfigure(7, voters, frozenset(learners)))


def errors(network: Network, name: str = "n1") -> list[str | None]:
    return [decision.error for decision in network[name].decisions]


# --------------------------------------------------------------------------- transfer


def test_pitfall_6_only_a_campaign_for_the_leader_goes_past_the_promise_to_it() -> None:
    network = led()
    network.step("n2", Vote(N3, N2, 2, 1, 1))
    assert network.core("n2").term == 1
    network.step("n2", Vote(N3, N2, 2, 1, 1, transfer=True))
    assert network["n2"].sent[-1] == VoteReply(N2, N3, 2, True)


def test_pitfall_6_also_such_a_campaign_needs_a_log_that_is_no_worse() -> None:
    network = led()
    network.propose("n1")
    network.settle()
    network.step("n2", Vote(N3, N2, 2, 1, 1, transfer=True))
    assert network["n2"].sent[-1] == VoteReply(N2, N3, 2, False)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (N2, f"{N2} lags 10001 entries behind"),
        (N4, f"{N4} does not vote in this group"),
        (N3, f"{N3} is not heard"),
    ],
)
def test_pitfall_6_a_target_that_lags_or_is_silent_is_refused(target: Replica, error: str) -> None:
    network = led()
    network.hold_disk("n2")
    network.crash("n3")
    network.propose("n1", count=network.settings.transfer_lag_entries_max + 1)
    for _ in range(13):  # heard of all the time
        network.now += 90
        network.step("n1", AppendReply(N2, N1, 1, 1))
    network.step("n1", Transfer(5, target))
    assert network["n1"].decisions == [Decision(5, error)]
    assert not network.core("n1").is_transferring


def test_pitfall_6_who_does_not_lead_hands_nothing_over_and_stands_for_the_leader_alone() -> None:
    network = led()
    network.step("n2", Transfer(5, N3))
    assert errors(network, "n2") == ["not the leader"]
    network.step("n2", TimeoutNow(N3, N2, 1))
    assert network.core("n2").role == FOLLOWER
    network.step("n2", TimeoutNow(N1, N2, 1))
    assert network.core("n2").role == CANDIDATE


# --------------------------------------------------------------------------- quorums


def test_pitfall_17_after_a_change_only_the_new_voters_count() -> None:
    network = led()
    change(network, PAIR, N3)
    network.run(1_000)
    network.isolate("n1", "n3")
    network.propose("n1")
    network.settle()
    core = network.core("n1")
    assert core.commit_index == core.last_index - 1, "n3 had a vote once, and has none any more"
    network.run(1_100)
    assert not core.is_leader


def test_pitfall_17_after_a_snapshot_its_configuration_counts() -> None:
    """The old one would still let {n1, n2} elect and commit."""
    network = Network(3)
    there = Configuration.of(N1, N3, N4)
    meta = SnapshotMeta(9, 2, there, 9, 1, 10, 1)
    network.step("n1", Append(N4, N1, 3, 20, 3, 0, []))
    network._applied[9] = 2
    network.step("n1", SnapshotReceived(meta))
    network.now += 3_000
    network.tick("n1")
    asked = [message.to for message in network.in_flight if isinstance(message, PreVote)]
    assert asked == [N3, N4]


def test_pitfall_20_a_replica_with_another_disk_is_no_member_until_it_is_added() -> None:
    network = led()
    network.crash("n3")
    blank = network.add("n3", incarnation=2)
    network.propose("n1")
    network.settle()
    assert blank.core.last_index == 0
    change(network, PAIR | {blank.me})
    network.run(2_000)
    assert network.core("n1").configuration == Configuration(PAIR | {blank.me})
    assert blank.log == network["n1"].log


def test_pitfall_21_a_former_incarnation_proves_nothing_for_its_successor() -> None:
    network = led()
    network.crash("n3")
    blank = network.add("n3", incarnation=2)
    change(network, PAIR | {blank.me})
    network.run(2_000)
    network.cut("n1", "n2")
    network.cut("n1", "n3")
    run = network.propose("n1")
    network.step("n1", AppendReply(N3, N1, 1, run.last))
    core = network.core("n1")
    assert core.commit_index == run.first - 1
    network.step("n1", AppendReply(blank.me, N1, 1, run.last))
    assert core.commit_index == run.last


def test_pitfall_21_who_comes_back_is_believed_nothing_of_before() -> None:
    network = led()
    change(network, PAIR)
    network.cut("n1", "n3")
    network.run(500)
    change(network, PAIR, N3)
    (peer,) = (each for each in network.core("n1").progress() if each.replica == N3)
    assert (peer.match, peer.votes, peer.departs) == (0, False, False)


# --------------------------------------------------------------------------- one change at a time


def test_pitfall_22_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    """The single-server bug: two leaders in turn, each with a change that nobody else has."""
    network = Network(4)
    network.now += 2_000
    network.tick("n1")
    network.settle_until_leader("n1")
    change(network, OLD)
    assert errors(network) == ["no entry of this leader's term is committed yet"]
    assert network.core("n1").configuration == network.configuration


def test_pitfall_22_one_change_at_a_time() -> None:
    network = led(spares=1)
    change(network, OLD, N4)
    change(network, PAIR)
    assert errors(network) == ["another change of membership is under way"]
    network.settle()
    change(network, PAIR)
    assert network.core("n1").configuration.is_joint
    change(network, PAIR)
    assert errors(network)[2:] == ["another change of membership is under way"]


def test_pitfall_22_there_is_never_more_than_one_uncommitted_configuration() -> None:
    network = led(spares=1)
    core = network.core("n1")
    change(network, PAIR | {N4}, N3)
    seen = 0
    for _ in range(400):
        if not network.deliver(count=1):
            network.tick("n1")
        uncommitted = core.log.between(core.commit_index + 1, core.last_index)
        count = sum(run.kind == CONFIG for run in uncommitted)
        assert count <= 1
        seen += count
    assert seen
    assert core.configuration == Configuration(PAIR | {N4}, frozenset((N3,)))


def test_pitfall_22_a_leader_that_inherits_an_uncommitted_change_starts_no_other() -> None:
    """Its own first entry commits it, and then there is room for the next one."""
    network = led(spares=1)
    change(network, OLD, N4)
    network.deliver(to("n2"))
    network.crash("n1")
    network.drop()
    network.now += 3_000
    network.tick("n2")
    network.settle_until_leader("n2")
    network.step("n2", Reconfigure(8, frozenset((N2, N3))))
    assert len(errors(network, "n2")) == 1
    network.settle()
    assert network.core("n2").committed_configuration == Configuration(OLD, frozenset((N4,)))


def test_pitfall_23_a_configuration_that_is_cut_off_is_in_force_no_more() -> None:
    network = led()
    network.isolate("n1")
    change(network, PAIR)
    core = network.core("n1")
    assert core.configuration == Configuration(PAIR, outgoing=OLD)
    network.run(8_000)
    leader = network.leader
    assert leader is not None
    assert leader.name != "n1"
    network.heal()
    network.run(3_000)
    assert core.configuration == network.configuration
    assert core.configuration_index == 0
    assert network["n1"].decisions[0].unknown, "it may have come to something, or not"


def test_pitfall_23_only_what_was_cut_is_undone() -> None:
    network = Network(3)
    first, second = Configuration.of(N1, N2, N3, learners=[N4]), Configuration.of(N1, N2, N3)
    runs = [make_run(CONFIG, 1, 1, first), make_run(CONFIG, 1, 2, second)]
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, runs))
    assert network.core("n1").configuration == second
    network.step("n1", Append(N3, N1, 2, 1, 1, 0, [make_run(1, 2, 2)]))
    assert network.core("n1").configuration == first
    assert network.core("n1").configuration_index == 1


def joint_on_every_disk() -> Network:
    """All three were stopped with the joint configuration at 2 on their disks, uncommitted."""
    joint = Configuration(PAIR, outgoing=OLD)
    network = Network(3, disks={f"n{number}": joint_disk(joint) for number in (1, 2, 3)})
    network.now += 3_000
    return network


def joint_disk(joint: Configuration) -> Disk:
    return Disk(HardState(1, N3), [make_run(1, 1, 1), make_run(CONFIG, 1, 2, joint)])


def test_pitfall_24_a_recovered_joint_configuration_is_in_force_at_once() -> None:
    network = joint_on_every_disk()
    assert network.core("n1").configuration.is_joint
    assert network.core("n1").configuration_index == 2


def test_pitfall_24_it_is_committed_before_it_is_left() -> None:
    network = joint_on_every_disk()
    network.tick("n1")
    network.settle_until_leader("n1")
    core = network.core("n1")
    for _ in range(3):  # time alone does not lead out of it
        network.now += 100
        network.step("n1", Tick())
    assert (core.configuration.is_joint, core.commit_index) == (True, 0)
    assert core.last_index == 3
    network.settle()
    network.run(500)
    assert core.configuration == Configuration(PAIR)
    assert core.configuration_index == 4
    assert core.commit_index >= 4


# --------------------------------------------------------------------------- snapshots, removal


def test_pitfall_25_a_snapshot_has_the_configuration_of_its_index() -> None:
    """Not the latest: the entry behind it may yet be undone."""
    network = led(spares=1)
    network.isolate("n1")
    change(network, PAIR, N3)
    meta = network.snapshot("n1", index=1)
    assert meta.configuration == network.configuration
    assert network.core("n1").configuration == Configuration(PAIR, outgoing=OLD, demoted=OLD - PAIR)
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").configuration.is_joint


def test_pitfall_25_joint_halves_and_learners_travel_with_it() -> None:
    network = Network(3)
    there = Configuration(PAIR, frozenset((N4,)), outgoing=OLD, demoted=frozenset((N3,)))
    network.step("n1", Heartbeat(N2, N1, 3, 0, 1))
    network._applied[9] = 2
    network.step("n1", SnapshotReceived(SnapshotMeta(9, 2, there, 9, 1, 10, 1)))
    assert network.core("n1").configuration == there
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").configuration == there


def test_pitfall_26_a_leader_that_was_removed_names_a_successor_and_does_not_stand() -> None:
    network = led()
    change(network, frozenset((N2, N3)))
    network.settle()
    core = network.core("n1")
    assert not core.is_leader
    asked = [message.to for message in network["n1"].sent if isinstance(message, TimeoutNow)]
    assert asked == [N3]
    assert network.core("n3").is_leader
    network.isolate("n1")
    network.run(10_000)
    assert (core.role, core.may_stand) == (FOLLOWER, False)
    assert network.core("n1").term <= network.core("n3").term


def test_pitfall_26_it_announces_the_commit_before_it_goes() -> None:
    network = led()
    change(network, frozenset((N2, N3)))
    while network.core("n1").is_leader:
        network.deliver(count=1)
    last = network["n1"].outputs[-1].messages
    beats = [message for message in last if isinstance(message, Heartbeat)]
    assert max(message.commit for message in beats) == 3


def test_pitfall_27_a_learner_that_restarts_is_a_learner() -> None:
    network = led()
    change(network, PAIR, N3)
    network.run(1_000)
    network.snapshot("n3")
    network.crash("n3")
    network.restart("n3")
    network.isolate("n3")
    network.run(10_000)
    core = network.core("n3")
    assert core.configuration == Configuration(PAIR, frozenset((N3,)))
    assert (core.role, core.may_stand) == (FOLLOWER, False)
    assert not any(isinstance(message, PreVote) for message in network["n3"].sent)


def test_pitfall_27_so_is_one_that_voted_before_and_whose_removal_is_behind_it_in_the_log() -> None:
    """A restart forgets what is committed, and the log begins with a configuration in which it
    votes. But whatever is before the latest one but one is committed."""
    network = led(4)
    change(network, OLD)
    network.run(500)
    change(network, OLD, N4)
    network.run(500)
    network.crash("n4")
    network.restart("n4")
    network.isolate("n4")
    network.run(10_000)
    core = network.core("n4")
    assert core.committed_configuration.votes(N4), "so far as it knows"
    assert (core.role, core.may_stand) == (FOLLOWER, False)
    assert not any(isinstance(message, PreVote) for message in network["n4"].sent)


@pytest.mark.parametrize(
    "asked", [TimeoutNow(N1, N4, 1), TimeoutNow(N1, N4, 9)], ids=["this term", "a newer term"]
)
def test_pitfall_27_a_learner_does_not_stand_when_it_is_asked_to(asked: Message) -> None:
    network = Network(3, learners=1)
    network.elect("n1")
    network.step("n4", asked)
    assert network.core("n4").role == FOLLOWER
    ignored = network.core("n4").status().ignored
    assert ignored == {"asked to stand without being a voter": 1}


def test_pitfall_28_who_was_removed_is_told_so() -> None:
    network = led()
    network.isolate("n3")
    change(network, PAIR)
    network.run(15_000)
    assert network.core("n3").role == PRE_CANDIDATE
    assert [each.replica for each in network.core("n1").progress()] == [N2], "given up by now"
    network.heal()
    network.run(4_000)
    assert network.core("n3").committed_configuration == Configuration(PAIR)
    sent = len(network["n3"].sent)
    network.run(30_000)
    assert not any(isinstance(message, PreVote) for message in network["n3"].sent[sent:])
    assert [each.replica for each in network.core("n1").progress()] == [N2]
    assert network.core("n1").term == 1


def test_pitfall_28_who_is_told_is_forgotten_when_it_knows() -> None:
    network = led()
    change(network, PAIR)
    assert [peer.departs for peer in network.core("n1").progress()] == [False, False]
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))
    assert [peer.departs for peer in network.core("n1").progress()] == [False, True]
    network.run(400)
    assert [peer.replica for peer in network.core("n1").progress()] == [N2]
    assert network.core("n3").committed_configuration == Configuration(PAIR)


def test_pitfall_28_who_asks_before_its_removal_is_committed_is_not_told_yet() -> None:
    network = led()
    network.isolate("n1")
    change(network, PAIR)
    stranger = replica("n9")
    network.step("n1", PreVote(stranger, N1, 5, 1, 1))
    assert stranger not in [peer.replica for peer in network.core("n1").progress()]


def test_pitfall_28_who_was_removed_at_a_higher_term_deposes_nobody_by_its_answers() -> None:
    network = led()
    network.isolate("n3")
    change(network, PAIR)
    network.run(15_000)
    network.crash("n3")
    network["n3"].disk.hard_state = HardState(7, N3)
    network.restart("n3")
    network.heal()
    network.run(5_000)
    assert network.core("n1").is_leader
    assert network.core("n1").term == 1
    assert network.core("n1").status().ignored["higher term of a replica that has left"]
