"""Interaction with clients by section: paper 8, thesis 6.

Sessions (6.3) belong to the replicated machine, not to consensus, and are tested with it.
"""

from __future__ import annotations

import pytest

from raft.configuration import Configuration
from raft.messages import (
    LEASE,
    LINEARIZABLE,
    STALE,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    LinkClosed,
    Persisted,
    Read,
    ReadIndex,
    ReadIndexReply,
    Reconfigure,
    Tick,
)
from raft.reads import NEVER_MS
from raft.settings import RaftSettings
from tests.raft.network import Network, make_run, replica, to

N1, N2, N3, N4 = (replica(f"n{number}") for number in range(1, 5))
SETTINGS = RaftSettings(lease_reads=True, follower_reads=True)


def led(voters: int = 3, *, learners: int = 0, settings: RaftSettings = SETTINGS) -> Network:
    network = Network(voters, learners=learners, settings=settings)
    network.elect("n1")
    network.run(200)
    return network


def ask(network: Network, name: str, mode: int = LINEARIZABLE, *, token: int = 7) -> None:
    network.step(name, Read(token, mode))


# --------------------------------------------------------------------------- 8, thesis 6.4


def test_8_a_read_is_not_answered_by_who_may_have_been_deposed() -> None:
    network = led()
    network.isolate("n1")
    ask(network, "n1")
    network.run(900)
    assert network["n1"].reads == []
    network.run(300)
    assert network["n1"].reads_failed == [7]


def test_8_nor_by_who_does_not_know_yet_what_is_committed() -> None:
    network = Network(3, settings=SETTINGS)
    network.now += 2_000
    network.tick("n1")
    network.settle_until_leader("n1")
    ask(network, "n1")
    ask(network, "n1", LEASE, token=8)
    network.deliver(lambda message: isinstance(message, Heartbeat))
    network.deliver(lambda message: isinstance(message, HeartbeatReply))
    assert network["n1"].reads == []
    assert network.core("n1").lease_until_ms == 0
    network.settle()
    assert network["n1"].reads == [(7, 1), (8, 1)]


def test_thesis_6_4_a_read_sees_what_was_committed_when_it_came() -> None:
    network = led()
    network.propose("n1")
    network.settle()
    ask(network, "n1")
    assert network["n1"].reads == [], "a round has to confirm the leader first"
    network.settle()
    assert network["n1"].reads == [(7, 2)]


def test_thesis_6_4_each_read_waits_for_a_later_round_also_when_the_others_leave() -> None:
    """One output in which the leader comes to be alone: rounds only rise."""
    network = led(2)
    network.hold_disk("n1")
    network.step("n1", Reconfigure(5, frozenset((N1,))))
    network.deliver(to("n2"))
    network.deliver(to("n1"))
    core = network.core("n1")
    assert core.configuration.is_joint
    node = network["n1"]
    (save,), node.saves = node.saves, []
    node.disk.write(save)
    network.feed("n1", Read(1))
    network.feed("n1", Persisted(save.number, *save.last))
    assert core.configuration == Configuration.of(N1)
    network.feed("n1", Read(2))
    network.collect("n1")
    network.release_disk("n1")
    network.run(200)
    assert [token for token, _ in network["n1"].reads] == [1, 2]


def test_thesis_6_4_a_follower_asks_the_leader_for_the_index() -> None:
    """It is good for what was committed when the leader was asked, and served here."""
    network = led(learners=1)
    network.propose("n1")
    network.cut("n1", "n4")
    network.settle()
    network.heal()
    for name in ("n2", "n4"):
        ask(network, name)
        network.settle()
        assert network[name].reads == [(7, 2)]
    assert network.core("n4").handed_index == 1, "and it waits until that is applied"


def test_thesis_6_4_the_leader_confirms_itself_for_a_follower_too() -> None:
    network = led()
    ask(network, "n2")
    (request,) = network.in_flight
    assert request == ReadIndex(N2, N1, 1, 7)
    network.deliver(to("n1"))
    assert not any(isinstance(message, ReadIndexReply) for message in network.in_flight)
    network.settle()
    assert ReadIndexReply(N1, N2, 1, 7, 1) in network["n1"].sent


def test_thesis_6_4_a_leader_that_has_too_many_waiting_says_so() -> None:
    network = led(settings=RaftSettings(follower_reads=True, reads_pending_max=1))
    network.cut("n1", "n3")
    ask(network, "n1")
    network.drop()
    network.step("n1", ReadIndex(N2, N1, 1, 9))
    assert network.in_flight == [ReadIndexReply(N1, N2, 1, 9, 0)]
    ask(network, "n2", token=9)
    network.drop(to("n1"))
    network.settle()
    assert network["n2"].reads_failed == [9]


def test_thesis_6_4_an_answer_counts_once_and_for_who_waits() -> None:
    network = led()
    ask(network, "n2")
    network.settle()
    before = list(network["n2"].reads)
    network.step("n2", ReadIndexReply(N1, N2, 1, 7, 1))
    network.step("n2", ReadIndexReply(N1, N2, 1, 99, 1))
    assert network["n2"].reads == before
    ignored = network.core("n2").status().ignored
    assert ignored["answer to a read that nobody waits for"] == 2


@pytest.mark.parametrize("fault", ["silence", "closed link", "new term"])
def test_thesis_6_4_a_read_that_was_asked_for_fails_when_the_leader_is_lost(fault: str) -> None:
    network = led()
    ask(network, "n2")
    network.drop()
    if fault == "silence":
        deadline = network.core("n2").next_deadline()
        assert deadline <= network.now + 1_000
        network.now = deadline
        network.step("n2", Tick())
    elif fault == "closed link":
        network.step("n2", LinkClosed("n1"))
    else:
        network.step("n2", Heartbeat(N3, N2, 5, 0, 1))
    assert network["n2"].reads_failed == [7]
    network.step("n2", ReadIndexReply(N1, N2, 1, 7, 1))
    assert network["n2"].reads == []


def test_reads_elsewhere_are_refused_where_they_are_not_allowed_or_nobody_leads() -> None:
    network = led(settings=RaftSettings())
    ask(network, "n2")
    assert network["n2"].reads_failed == [7]
    network = Network(3, settings=SETTINGS)
    ask(network, "n2")
    assert network["n2"].reads_failed == [7]


def test_reads_elsewhere_are_bounded() -> None:
    network = led(settings=RaftSettings(follower_reads=True, reads_pending_max=2))
    for token in (1, 2, 3):
        ask(network, "n2", token=token)
    assert network["n2"].reads_failed == [3]
    network.settle()
    assert [token for token, _ in network["n2"].reads] == [1, 2]


def test_a_replica_that_lags_too_far_behind_serves_no_reads_of_its_own() -> None:
    network = led(settings=RaftSettings(follower_reads=True, read_lag_entries_max=5))
    network.cut("n1", "n2")
    network.propose("n1", count=6)
    network.settle()
    network.heal()
    ask(network, "n2")
    network.deliver(to("n1"))
    network.deliver(to("n3"))
    network.deliver(lambda message: message.sender == N3)
    network.deliver(lambda message: isinstance(message, ReadIndexReply))
    assert network["n2"].reads_failed == [7], "7 - 1 is more than 5"


# --------------------------------------------------------------------------- thesis 6.4.1, lease


def test_thesis_6_4_1_a_lease_begins_with_the_sending_and_is_shorter_than_the_promise() -> None:
    """Pitfall 32: not when the answers come."""
    network = led()
    network.now += 100
    network.step("n1", Tick())
    sent_ms = network.now
    core = network.core("n1")
    before = core.lease_until_ms
    network.now += 60
    network.deliver(lambda message: isinstance(message, Heartbeat))
    assert core.lease_until_ms == before
    network.deliver(lambda message: message.sender == N2)
    assert core.lease_until_ms == sent_ms + 900


def test_thesis_6_4_1_within_it_a_read_waits_for_nobody() -> None:
    network = led()
    network.propose("n1")
    network.settle()
    network.isolate("n1")
    ask(network, "n1", LEASE)
    assert network["n1"].reads == [(7, 2)]
    assert network.in_flight == []


def test_thesis_6_4_1_after_it_a_read_waits_for_a_round() -> None:
    network = led()
    network.isolate("n1")
    core = network.core("n1")
    while network.now < core.lease_until_ms:
        ask(network, "n1", LEASE, token=network.now)
        network.now += 100
        network.step("n1", Tick())
    assert core.is_leader
    served = len(network["n1"].reads)
    assert served >= 8
    ask(network, "n1", LEASE)
    assert len(network["n1"].reads) == served


def test_thesis_6_4_1_nobody_else_leads_while_it_lasts() -> None:
    """The leader alone is cut off; the others elect as soon as they may."""
    for seed in range(10):
        network = Network(3, seed=seed, settings=SETTINGS)
        network.elect("n1")
        network.run(500)
        network.isolate("n1")
        for name in ("n2", "n3"):
            network.step(name, LinkClosed("n1"))
        until = network.core("n1").lease_until_ms
        network.run(until - network.now - 1)
        assert network.core("n1").lease_until_ms == until
        assert network.leader is network["n1"]
        assert {node.core.term for node in network.nodes.values()} == {1}
        network.run(5_000)
        assert network.leader is not network["n1"]


def test_thesis_6_4_1_answers_of_learners_give_no_lease() -> None:
    network = led(learners=2)
    network.isolate("n1", "n4", "n5")
    until = network.core("n1").lease_until_ms
    network.run(500)
    assert network.core("n1").lease_until_ms == until


def test_without_the_setting_there_is_no_lease() -> None:
    network = led(settings=RaftSettings())
    assert network.core("n1").lease_until_ms == 0
    ask(network, "n1", LEASE)
    assert network["n1"].reads == []
    network.settle()
    assert network["n1"].reads == [(7, 1)]


def test_the_only_voter_needs_no_clock() -> None:
    network = Network(1, settings=SETTINGS)
    network.tick("n1")
    assert network.core("n1").lease_until_ms == NEVER_MS
    assert network.core("n1").is_leader
    ask(network, "n1", LEASE)
    assert network["n1"].reads == [(7, 1)]


def test_a_follower_has_no_lease_and_asks_the_leader_instead() -> None:
    network = led()
    assert network.core("n2").lease_until_ms == 0
    ask(network, "n2", LEASE)
    network.settle()
    assert network["n2"].reads == [(7, 1)]


# --------------------------------------------------------------------------- stale reads


def test_a_stale_read_takes_what_is_here() -> None:
    network = led(settings=RaftSettings())
    network.isolate("n2")
    network.propose("n1")
    network.settle()
    for name, index in (("n1", 2), ("n2", 1)):
        ask(network, name, STALE)
        assert network[name].reads == [(7, index)]


def test_a_stale_read_fails_where_no_leader_was_heard_for_long() -> None:
    network = led(settings=RaftSettings(stale_read_ms_max=3_000))
    network.isolate("n2")
    heard_ms = network.core("n2")._heard_ms
    assert heard_ms is not None
    network.now = heard_ms + 3_000
    ask(network, "n2", STALE, token=1)
    network.now += 1
    ask(network, "n2", STALE, token=2)
    assert network["n2"].reads == [(1, 1)]
    assert network["n2"].reads_failed == [2]


def test_a_stale_read_fails_where_no_leader_of_this_term_was_heard() -> None:
    network = Network(3)
    ask(network, "n1", STALE)
    assert network["n1"].reads_failed == [7]


@pytest.mark.parametrize(("committed", "served"), [(4, True), (5, False)])
def test_a_stale_read_fails_where_too_much_waits_to_be_applied(
    committed: int, served: bool
) -> None:
    network = Network(3, settings=RaftSettings(read_lag_entries_max=4))
    network.hold_disk("n1")
    runs = [make_run(1, 1, index) for index in range(1, 6)]
    network.step("n1", Append(N2, N1, 1, 0, 0, committed, runs))
    ask(network, "n1", STALE)
    assert bool(network["n1"].reads) == served


def test_an_answer_to_a_read_of_a_leadership_that_ended_is_nothing() -> None:
    network = led()
    ask(network, "n2")
    network.deliver(to("n1"))
    network.step("n1", AppendReply(N3, N1, 5, 0))
    assert not any(isinstance(message, ReadIndexReply) for message in network["n1"].sent)
    assert network["n1"].reads_failed == [], "who asked finds out by itself"
