"""How fresh a read is, and who may serve it."""

from __future__ import annotations

from dataclasses import replace

import msgpack
import pytest

from actors.group_messages import Requests
from actors.machine import Answered
from actors.machines import Response
from raft.messages import ClockAnomaly, Heartbeat, ReadIndex
from raft.settings import RaftSettings
from tests.actors.cluster import Cluster, Node, Sent, batch_of, put
from transport import protocol
from transport.client import wire
from transport.protocol import LEASE, LINEARIZABLE, STALE

QUESTION = b"\x81\xa4size\xc3"
BY_LEASE = RaftSettings(lease_reads=True)
ANYWHERE = RaftSettings(follower_reads=True)


def read(consistency: int, min_index: int = 0) -> bytes:
    return wire.encode_read(QUESTION, consistency=consistency, min_index=min_index)


def three(settings: RaftSettings | None = None) -> tuple[Cluster, Node, list[Node]]:
    """One key is there, and everybody knows."""
    cluster = Cluster(settings=settings)
    leader = cluster.leader()
    sent = cluster.request(leader, put("a"))
    cluster.run(200)
    assert sent.outcome.code == protocol.OK
    return cluster, leader, cluster.followers()


def size(sent: Sent) -> int:
    assert sent.outcome.code == protocol.OK
    found: int = msgpack.unpackb(sent.outcome.data)
    return found


def rounds(cluster: Cluster, since: int) -> int:
    return len([each for each in cluster.trace[since:] if each[0] == "Heartbeat"])


# --------------------------------------------------------------------------- stale


def test_any_replica_serves_a_stale_read_from_what_it_has_at_once() -> None:
    cluster, leader, followers = three()
    for node in (leader, *followers):
        sent = cluster.request(node, read(STALE))
        node.turn()
        assert size(sent) == 1, node.name
        assert sent.outcome.index == 2
        assert sent.outcome.leader == leader.name
    assert cluster.in_flight == []


def test_a_replica_that_is_cut_off_serves_stale_reads_only_for_a_while() -> None:
    cluster, leader, (follower, _) = three()
    cluster.isolate(follower.name)
    behind = cluster.request(leader, put("b"))
    cluster.run(5_000)
    assert behind.outcome.code == protocol.OK
    sent = cluster.request(follower, read(STALE))
    cluster.settle()
    assert size(sent) == 1, "what is here"
    cluster.run(cluster.settings.stale_read_ms_max)
    late = cluster.request(follower, read(STALE))
    cluster.settle()
    assert late.handed_back is not None


def test_a_stale_read_with_an_index_waits_until_that_is_applied_here() -> None:
    """Reading one's own writes, anywhere."""
    cluster, leader, (follower, _) = three()
    cluster.cut(leader.name, follower.name)
    written = cluster.request(leader, put("b"))
    cluster.run(50)
    index = written.outcome.index
    sent = cluster.request(follower, read(STALE, index))
    cluster.settle()
    assert sent.outcomes is None
    cluster.heal()
    cluster.run(1_000)
    assert size(sent) == 2
    assert sent.outcome.index >= index


# --------------------------------------------------------------------------- on followers


@pytest.mark.parametrize("consistency", [LINEARIZABLE, LEASE])
def test_without_the_setting_a_follower_hands_other_reads_back(consistency: int) -> None:
    cluster, leader, (follower, _) = three()
    sent = cluster.request(follower, read(consistency))
    cluster.settle()
    assert sent.handed_back == (leader.name, leader.core.term, "")


@pytest.mark.parametrize("consistency", [LINEARIZABLE, LEASE])
def test_a_follower_asks_the_leader_for_an_index_and_answers_itself(consistency: int) -> None:
    cluster, leader, (follower, _) = three(ANYWHERE)
    unseen = cluster.request(leader, put("b"))
    cluster.settle()
    assert unseen.outcome.code == protocol.OK
    assert follower.machine.applied_index < unseen.outcome.index, "it does not know yet"
    sent = cluster.request(follower, read(consistency))
    cluster.run(100)
    assert size(sent) == 2
    assert sent.node == follower.name


def test_without_an_answer_of_the_leader_the_read_was_never_accepted() -> None:
    cluster, leader, (follower, _) = three(ANYWHERE)
    cluster.cut(follower.name, leader.name)
    sent = cluster.request(follower, read(LINEARIZABLE))
    cluster.run(cluster.settings.election_timeout_ms + 10)
    assert sent.handed_back is not None
    assert sent.outcomes is None


def test_without_a_leader_a_follower_asks_nobody() -> None:
    cluster = Cluster(settings=ANYWHERE)
    sent = cluster.request(cluster["n1"], read(LINEARIZABLE))
    cluster["n1"].turn()
    assert sent.handed_back == (None, 0, "")


def test_reads_of_one_turn_ask_once() -> None:
    cluster, _, (follower, _) = three(ANYWHERE)
    for _ in range(5):
        cluster.request(follower, read(LINEARIZABLE))
    follower.turn()
    assert [type(message) for message in cluster.in_flight] == [ReadIndex]


def test_bad_reads_are_refused_by_whoever_gets_them() -> None:
    cluster, _, (follower, _) = three()
    two = [read(STALE), put("a")]
    sent = cluster.request(follower, *two)
    cluster.settle()
    assert sent.outcome.code == protocol.BAD_REQUEST


# --------------------------------------------------------------------------- the lease


def test_a_read_by_lease_needs_no_round() -> None:
    cluster, leader, _ = three(BY_LEASE)
    since = len(cluster.trace)
    sent = cluster.request(leader, read(LEASE))
    leader.turn()
    assert size(sent) == 1
    assert rounds(cluster, since) == 0


def test_without_lease_reads_it_is_as_good_as_linearizable_and_asked_once() -> None:
    cluster, leader, _ = three()
    since = len(cluster.trace)
    sent = cluster.request(leader, read(LEASE))
    leader.turn()
    assert sent.outcomes is None
    cluster.settle()
    assert size(sent) == 1
    assert rounds(cluster, since) == 2, "one round to two followers"


def test_a_lease_that_is_over_when_the_answer_comes_is_worth_nothing() -> None:
    """Pitfall 33: between the question and the answer the process may have stood still."""
    cluster, leader, _ = three(BY_LEASE)
    actor = leader.group
    actor.handle(one_by_lease())
    (query,) = [each.message for each in actor.end_turn() if hasattr(each, "message")]
    cluster.clock.advance_to(leader.core.lease_until_ms)
    answered = Answered(query.key, 2, [Response(b"\x01")])
    actor.handle(answered)
    effects = actor.end_turn()
    assert not query.key.answered
    sent = [message for each in effects for message in getattr(each, "messages", ())]
    assert [type(message) for message in sent] == [Heartbeat] * 2, "it asks, as without a lease"
    # That answer is good by the round, whatever the lease says by then.
    actor.handle(answered)
    assert query.key.answered


def one_by_lease() -> Requests:
    return Requests([1, 5_000, protocol.RIGHTS_ALL, batch_of(read(LEASE))])


def test_an_answer_within_the_lease_leaves() -> None:
    cluster, leader, _ = three(BY_LEASE)
    actor = leader.group
    actor.handle(one_by_lease())
    (query,) = [each.message for each in actor.end_turn() if hasattr(each, "message")]
    cluster.clock.advance_to(leader.core.lease_until_ms - 1)
    actor.handle(Answered(query.key, 2, [Response(b"\x01")]))
    assert query.key.answered


def test_a_clock_anomaly_ends_the_lease_until_the_next_round() -> None:
    """Pitfall 35."""
    cluster, leader, _ = three(BY_LEASE)
    leader.tell(ClockAnomaly(), control=True)
    leader.turn()
    assert leader.core.lease_until_ms == 0
    since = len(cluster.trace)
    sent = cluster.request(leader, read(LEASE))
    cluster.settle()
    assert size(sent) == 1
    assert rounds(cluster, since) == 2
    cluster.run(200)
    assert leader.core.lease_until_ms > cluster.clock.now_ms()


def test_a_follower_cares_for_no_anomaly() -> None:
    _, _, (follower, _) = three(BY_LEASE)
    follower.tell(ClockAnomaly(), control=True)
    follower.turn()
    assert not follower.core.is_leader


# --------------------------------------------------------------------------- mixed messages


def test_the_strongest_consistency_of_a_message_counts() -> None:
    cluster, leader, (follower, _) = three(replace(BY_LEASE, follower_reads=False))
    mixed = cluster.request(follower, read(STALE), read(LINEARIZABLE))
    alike = cluster.request(follower, read(STALE), read(STALE))
    cluster.settle()
    assert mixed.handed_back is not None
    assert alike.handed_back is None
    since = len(cluster.trace)
    sent = cluster.request(leader, read(STALE), read(LEASE), read(LINEARIZABLE))
    cluster.settle()
    assert [outcome.code for outcome in sent.outcomes or ()] == [protocol.OK] * 3
    assert rounds(cluster, since) == 2


def test_reads_of_different_freshness_do_not_wait_for_each_other() -> None:
    cluster, leader, _ = three(BY_LEASE)
    slow = cluster.request(leader, read(LINEARIZABLE))
    quick = [cluster.request(leader, read(mode)) for mode in (STALE, LEASE)]
    leader.turn()
    assert slow.outcomes is None
    assert [size(sent) for sent in quick] == [1, 1]
    cluster.settle()
    assert size(slow) == 1
