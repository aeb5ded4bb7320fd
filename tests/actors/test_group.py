"""The group actor: what a client is told, when, and what that may not be.

Most stories run in :mod:`tests.actors.cluster`; a few hand the actor its messages one by one,
because what they tell of is the order within one turn.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors import group as group_module
from actors.catalog import SYSTEM_GROUP, CatalogMachine
from actors.group import (
    GroupActor,
)
from actors.group_messages import (
    DescribeGroup,
    Drain,
    HandBacks,
    PeerMessages,
    ReplicaRetired,
    Replies,
    Requests,
    SaveLog,
    SendPeers,
)
from actors.machine import Applied, Apply, Quarantined
from actors.machines import DONE, Context, Response, WriteRequest
from actors.machines.kv import KeyValueMachine
from actors.runtime import Stop, Tell, TimerFired
from actors.settings import GROUP_UNCOMMITTED_BYTES_MAX, RETRY_AFTER_MS
from raft.messages import Append, Heartbeat, HeartbeatReply, Replica
from raft.store.runs import decode_run
from tests.actors import cluster as harness
from tests.actors.cluster import Cluster, Node, Sent, batch_of, put
from transport import protocol
from transport.client import wire
from transport.polyraft_pb2 import RequestBatch

SIZE = wire.encode_read(b"\x81\xa4size\xc3")
OVERHEAD_BYTES = group_module.COMMAND_OVERHEAD_BYTES


def lone(**options: Any) -> tuple[Cluster, Node]:
    """One node that leads."""
    cluster = Cluster(("n1",), **options)
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader


def three() -> tuple[Cluster, Node, list[Node]]:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader, cluster.followers()


def leads(node: Node) -> bool:
    return node.core.is_leader


def codes(sent: Sent) -> list[int]:
    assert sent.outcomes is not None
    return [each.code for each in sent.outcomes]


# --------------------------------------------------------------------------- outcomes


def test_writes_of_one_message_get_consecutive_indexes_and_an_outcome_each() -> None:
    cluster, leader, _ = three()
    cas = wire.encode_write("CAS", "a", b"\x92\xc4\x01x\xc0")
    add = wire.encode_write("ADD", "n", b"\x05")
    sent = cluster.request(leader, put("a"), cas, add, put(""))
    cluster.settle()
    assert codes(sent) == [protocol.OK, protocol.REJECTED, protocol.OK, protocol.REJECTED]
    assert sent.outcomes is not None
    assert [each.index for each in sent.outcomes] == [2, 3, 4, 5]
    assert [each.data for each in sent.outcomes] == [b"", b"", b"\x05", b""]
    assert sent.outcomes[1].error_text == "the value differs from the expected one"
    assert all(each.leader == leader.name for each in sent.outcomes)
    assert not any(each.maybe_applied for each in sent.outcomes)


def test_messages_are_appended_and_answered_in_the_order_sent() -> None:
    cluster, leader, _ = three()
    sent = [cluster.request(leader, put(f"{at}"), put(f"{at}b")) for at in range(50)]
    cluster.settle()
    assert [each.outcome.index for each in sent] == [2 + 2 * at for at in range(50)]
    replies = [int(event[2]) for event in cluster.trace if event[0] == "reply"]
    assert replies == sorted(replies)


def test_a_follower_hands_back_everything_and_names_the_leader() -> None:
    cluster, leader, followers = three()
    write = cluster.request(followers[0], put("a"))
    read = cluster.request(followers[1], SIZE)
    nonsense = cluster.request_raw(followers[0], b"\xff")
    cluster.settle()
    for sent in (write, read, nonsense):
        assert sent.handed_back == (leader.name, leader.core.term, "")


def test_without_a_leader_messages_are_handed_back_naming_nobody() -> None:
    cluster = Cluster()
    sent = cluster.request(cluster["n1"], put("a"))
    cluster["n1"].turn()
    assert sent.handed_back == (None, 0, "")


def bad_session() -> bytes:
    mark = wire.SessionMark(session=5, sequence=1, acknowledged=0)
    return batch_of(wire.encode_write("PUT", "a", b"", mark=mark))


def wrong_group() -> bytes:
    batch = RequestBatch()
    batch.requests.add().write.group = "other"
    return batch.SerializeToString()


@pytest.mark.parametrize(
    ("batch", "code", "text"),
    [
        (b"", protocol.BAD_REQUEST, "at least one request"),
        (b"\xff\xff", protocol.BAD_REQUEST, "not a RequestBatch"),
        (b"\x0a\x00", protocol.BAD_REQUEST, "request 0"),
        (batch_of(put("a"), SIZE), protocol.BAD_REQUEST, "request 1"),
        (batch_of(SIZE, put("a")), protocol.BAD_REQUEST, "request 1"),
        (wrong_group(), protocol.BAD_REQUEST, "request 0: its group"),
        (bad_session(), protocol.SESSION_EXPIRED, "no such session"),
        (batch_of(wire.encode_open_session()), protocol.BAD_REQUEST, "sessions"),
        (batch_of(wire.encode_admin("nodes", "")), protocol.BAD_REQUEST, "unknown command"),
    ],
)
def test_what_cannot_be_accepted_is_refused_whole_at_once_and_appended_nowhere(
    batch: bytes, code: int, text: str
) -> None:
    cluster, leader = lone()
    last = leader.core.last_index
    sent = cluster.request_raw(leader, batch)
    leader.turn()
    assert sent.outcome.code == code
    assert text in sent.outcome.error_text
    assert not sent.outcome.maybe_applied
    assert leader.core.last_index == last
    assert leader.group.pending_count == 0


def test_clients_may_not_write_to_the_system_s_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "NAME", SYSTEM_GROUP)
    cluster, leader = lone(machines={"n1": CatalogMachine([("n1", 100)])})
    sent = cluster.request(leader, wire.encode_write("CREATE_GROUP", "mine", b"\x80"))
    leader.turn()
    assert sent.outcome.code == protocol.FORBIDDEN
    assert not sent.outcome.maybe_applied


def test_too_many_uncommitted_bytes_are_busy_and_the_rest_goes_on() -> None:
    cluster, leader, followers = three()
    for follower in followers:
        cluster.cut(leader.name, follower.name)
    big = put("k", bytes(4 << 20))
    room = GROUP_UNCOMMITTED_BYTES_MAX // (4 << 20)
    sent = [cluster.request(leader, big) for _ in range(room + 1)]
    leader.turn()
    # Counted within the turn already, before anything is in the log.
    busy = [each for each in sent if each.outcomes is not None]
    assert busy == sent[-len(busy) :]
    assert 1 <= len(busy) <= 2
    assert {each.outcome.code for each in busy} == {protocol.BUSY}
    assert busy[0].outcome.retry_after_ms == RETRY_AFTER_MS
    assert not busy[0].outcome.maybe_applied
    cluster.heal()
    cluster.run(2_000)
    assert {each.outcome.code for each in sent[: -len(busy)]} == {protocol.OK}
    assert leader.core.uncommitted_bytes == 0


def test_too_many_messages_under_way_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "PENDING_MESSAGES_MAX", 3)
    cluster, leader = lone()
    leader.syncs_at_once = False
    sent = [cluster.request(leader, put(str(at))) for at in range(5)]
    cluster.settle()
    assert [each.outcomes is not None for each in sent] == [False, False, False, True, True]
    assert {each.outcome.code for each in sent[3:]} == {protocol.BUSY}
    leader.syncs_at_once = True
    cluster.settle()
    assert codes(sent[0]) == [protocol.OK]
    later = cluster.request(leader, put("later"))
    cluster.settle()
    assert codes(later) == [protocol.OK]


def test_a_draining_group_answers_what_it_has_and_accepts_no_more() -> None:
    cluster, leader = lone()
    leader.syncs_at_once = False
    before = cluster.request(leader, put("a"))
    leader.turn()
    leader.tell(Drain(), control=True)
    after = cluster.request(leader, put("b"))
    leader.syncs_at_once = True
    cluster.settle()
    assert before.outcome.code == protocol.OK
    assert after.outcome.code == protocol.SHUTTING_DOWN
    assert not after.outcome.maybe_applied
    assert leader.group.pending_count == 0


# --------------------------------------------------------------------------- runs


def test_what_one_turn_gathers_is_one_run() -> None:
    cluster, leader = lone()
    for at in range(20):
        cluster.request(leader, put(str(at)))
    leader.turn()
    run = leader.core.last_run()
    assert run is not None
    assert run.count == 20


def test_a_message_never_spans_two_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_module, "RUN_BYTES_MAX", 400)
    cluster, leader, _ = three()
    sent = [cluster.request(leader, *[put(f"{at}.{n}") for n in range(7)]) for at in range(6)]
    large = cluster.request(leader, put("large", bytes(5_000)), put("large2"))
    cluster.settle()
    log = leader.core.log
    runs = log.between(2, log.last_index)
    assert len(runs) > 3
    borders = {run.first for run in runs}
    for each in (*sent, large):
        assert each.outcomes is not None
        indexes = [outcome.index for outcome in each.outcomes]
        assert indexes == list(range(indexes[0], indexes[0] + each.count))
        assert not borders & set(indexes[1:])
    assert {run.last for run in runs} >= {large.outcome.index + 1}


# --------------------------------------------------------------------------- deadlines


def test_a_write_that_cannot_be_committed_times_out_and_may_be_applied() -> None:
    """Pitfall 52: it is in the log, and a later leader may commit it."""
    cluster, leader, followers = three()
    for follower in followers:
        follower.syncs_at_once = False
    sent = cluster.request(leader, put("a"), timeout_ms=300)
    cluster.run(299)
    assert sent.outcomes is None
    cluster.run(2)
    assert codes(sent) == [protocol.TIMEOUT]
    assert sent.outcome.maybe_applied
    for follower in followers:
        follower.syncs_at_once = True
    cluster.run(500)
    assert leader.machine.applied_index == 2
    assert leader.group.pending_count == 0


def test_a_read_that_times_out_was_surely_not_applied() -> None:
    cluster, leader, followers = three()
    for follower in followers:
        cluster.cut(follower.name, leader.name)
    sent = cluster.request(leader, SIZE, timeout_ms=200)
    cluster.run(201)
    assert codes(sent) == [protocol.TIMEOUT]
    assert not sent.outcome.maybe_applied


def test_deadlines_are_measured_from_the_receipt_by_the_router() -> None:
    cluster, leader, followers = three()
    for follower in followers:
        follower.syncs_at_once = False
    late = cluster.request_raw(leader, batch_of(put("a"), timeout_ms=500), remaining_ms=100)
    longer = RequestBatch()
    for timeout_ms in (300, 700):  # the longest of the message counts; both are 100 ms old
        request = longer.requests.add()
        request.timeout_ms = timeout_ms
        request.write.operation = "PUT"
        request.write.key = "b"
    both = cluster.request_raw(leader, longer.SerializeToString(), count=2, remaining_ms=200)
    cluster.run(99)
    assert late.outcomes is None
    cluster.run(1)
    assert codes(late) == [protocol.TIMEOUT]
    cluster.run(499)
    assert both.outcomes is None
    cluster.run(1)
    assert codes(both) == [protocol.TIMEOUT] * 2


def test_a_write_that_times_out_before_it_is_in_the_log_never_gets_there() -> None:
    """The answer says that it is not applied, so it must not be; its neighbours are."""
    cluster, leader = lone()
    actor = leader.group
    actor.handle(Requests([1, 500, protocol.RIGHTS_ALL, batch_of(put("a"), put("b"))]))
    actor.handle(Requests([2, 0, protocol.RIGHTS_ALL, batch_of(put("c"), put("d"))]))
    actor.handle(Requests([3, 500, protocol.RIGHTS_ALL, batch_of(put(""), put("e"))]))
    actor.handle(TimerFired("tick", cluster.clock.now_ms()))
    effects = actor.end_turn()
    (outcome,) = outcomes_of(effects)[2]
    assert outcome.code == protocol.TIMEOUT
    assert not outcome.maybe_applied
    (run,) = [run for each in effects if isinstance(each, SaveLog) for run in each.save.runs]
    commands = [protocol.parse_write(each[3][2:]) for each in decode_run(run.body).commands]
    assert [each.key for each in commands] == ["a", "b", "", "e"]
    answers = [DONE, DONE, Response.refuse("no"), DONE]
    actor.handle(Applied(run.first, run.last, 10, answers))
    answered = outcomes_of(actor.end_turn(), count=2)
    assert [each.index for each in answered[1]] == [run.first, run.first + 1]
    assert [each.code for each in answered[3]] == [protocol.REJECTED, protocol.OK]


def test_when_all_that_was_gathered_has_timed_out_nothing_is_appended() -> None:
    cluster, leader = lone()
    actor = leader.group
    actor.handle(Requests([1, 0, protocol.RIGHTS_ALL, batch_of(put("a"))]))
    actor.handle(TimerFired("tick", cluster.clock.now_ms()))
    effects = actor.end_turn()
    assert not any(isinstance(each, SaveLog) for each in effects)
    assert outcomes_of(effects)[1][0].code == protocol.TIMEOUT


def test_a_leader_that_steps_down_in_the_turn_in_which_a_write_timed_out_survives() -> None:
    cluster, leader, followers = three()
    actor = leader.group
    actor.handle(Requests([1, 0, protocol.RIGHTS_ALL, batch_of(put("a"))]))
    actor.handle(Requests([2, 500, protocol.RIGHTS_ALL, batch_of(put("b"))]))
    actor.handle(TimerFired("tick", cluster.clock.now_ms()))
    actor.handle(news_of_a_new_leader(leader, followers[0]))
    effects = actor.end_turn()
    assert outcomes_of(effects)[1][0].code == protocol.TIMEOUT
    assert hand_backs_of(effects) == {2: (followers[0].name, leader.core.term)}


def news_of_a_new_leader(node: Node, other: Node) -> PeerMessages:
    term = node.core.term + 1
    return PeerMessages([Heartbeat(other.me, node.me, term, 0, 1)])


def outcomes_of(effects: list[object], count: int = 1) -> dict[int, list[wire.Outcome]]:
    found = {}
    for each in effects:
        if isinstance(each, Replies):
            for token, payload in zip(each.items[::2], each.items[1::2], strict=True):
                found[token] = wire.decode_replies(payload, count)
    return found


def hand_backs_of(effects: list[object]) -> dict[int, tuple[str | None, int]]:
    found = {}
    for each in effects:
        if isinstance(each, HandBacks):
            for at in range(0, len(each.items), 4):
                found[each.items[at]] = (each.items[at + 1], each.items[at + 2])
    return found


# --------------------------------------------------------------------------- losing leadership


def test_what_is_in_the_log_of_a_leader_that_steps_down_is_unknown() -> None:
    cluster, leader, _ = three()
    cluster.isolate(leader.name)
    sent = cluster.request(leader, put("a"))
    cluster.run(2_500)
    assert not leader.core.is_leader
    assert codes(sent) == [protocol.NOT_LEADER]
    assert sent.outcome.maybe_applied
    assert leader.group.pending_count == 0


def test_what_was_gathered_when_leadership_went_is_handed_back() -> None:
    _, leader, followers = three()
    actor = leader.group
    actor.handle(Requests([1, 500, protocol.RIGHTS_ALL, batch_of(put("a"))]))
    actor.handle(Requests([2, 500, protocol.RIGHTS_ALL, batch_of(SIZE)]))
    last = leader.core.last_index
    actor.handle(news_of_a_new_leader(leader, followers[0]))
    effects = actor.end_turn()
    term = leader.core.term
    assert hand_backs_of(effects) == {1: (followers[0].name, term), 2: (followers[0].name, term)}
    assert outcomes_of(effects) == {}
    assert leader.core.last_index == last
    assert actor.pending_count == 0


def test_a_replica_that_is_contradicted_says_nothing_more_not_even_of_that_turn() -> None:
    _, _, (node, other) = three()
    actor, ahead = node.group, node.core.last_index + 1
    actor.handle(news_of_a_new_leader(node, other))
    lie = Heartbeat(other.me, node.me, node.core.term, ahead, 2)
    retired, stop = actor.handle(PeerMessages([lie])) or ()
    assert isinstance(retired, ReplicaRetired)
    assert (retired.state, type(stop)) == ("damaged", Stop)
    assert f"knows {ahead} to be here" in retired.reason
    assert actor.end_turn() == [], "the new term is on its way to nobody, nor to the disk"
    assert not actor.handle(Requests([1, 500, protocol.RIGHTS_ALL, batch_of(put("a"))]))


def test_reads_whose_leader_steps_down_are_handed_back() -> None:
    """Pitfall 30, 31: an isolated leader answers no read, and another node may."""
    cluster, leader, _ = three()
    cluster.isolate(leader.name)
    sent = cluster.request(leader, SIZE)
    cluster.run(300)
    assert leader.core.is_leader
    assert sent.outcomes is None
    cluster.run(2_500)
    assert sent.handed_back == (None, leader.core.term, "")


def test_a_read_is_confirmed_by_a_round_that_began_after_it_arrived() -> None:
    """Pitfall 30: the answer to an earlier heartbeat is no confirmation."""
    cluster, leader, _ = three()
    cluster.clock.advance(120)
    leader.turn()  # a heartbeat leaves
    early = [each for each in cluster.in_flight if isinstance(each, Heartbeat)]
    assert early
    sent = cluster.request(leader, SIZE)
    leader.turn()
    cluster.drop(lambda it: isinstance(it, Heartbeat) and it not in early)
    cluster.settle()
    assert sent.outcomes is None
    cluster.run(200)
    assert sent.outcome.code == protocol.OK


def test_a_read_waits_for_what_was_answered_before_it_arrived() -> None:
    cluster, leader, _ = three()
    write = cluster.request(leader, put("a"))
    cluster.settle()
    read = cluster.request(leader, SIZE)
    cluster.settle()
    assert read.outcome.index >= write.outcome.index
    assert read.outcome.data == b"\x01"


def test_a_new_leader_reads_only_after_an_entry_of_its_own_term_is_committed() -> None:
    """Pitfall 29, seen from the client."""
    cluster, leader, followers = three()
    cluster.request(leader, put("a"))
    cluster.settle()
    leader.crash()
    for node in followers:
        node.syncs_at_once = True
    while not any(node.core.is_leader for node in followers):
        due_ms = cluster.next_deadline()
        assert due_ms is not None
        cluster.clock.advance_to(due_ms)
        for _ in range(20):
            for node in followers:
                node.turn()
                node.sync()
            cluster.deliver(lambda it: not isinstance(it, Append))
    new = next(node for node in followers if node.core.is_leader)
    assert not new.core.can_serve
    sent = cluster.request(new, SIZE)
    for _ in range(5):
        new.turn()
        new.sync()
        cluster.deliver(lambda it: isinstance(it, Heartbeat | HeartbeatReply))
        for node in followers:
            node.turn()
    assert sent.outcomes is None
    cluster.settle()
    assert sent.outcome.data == b"\x01"
    assert sent.outcome.index >= new.core.last_index


def test_min_index_waits_for_its_entry_or_its_deadline() -> None:
    cluster, leader, _ = three()
    ahead = wire.encode_read(b"\x81\xa4size\xc3", min_index=leader.core.last_index + 2)
    early = cluster.request(leader, ahead, timeout_ms=300)
    cluster.settle()
    assert early.outcomes is None
    cluster.request(leader, put("a"), put("b"))
    cluster.settle()
    assert early.outcome.data == b"\x02"
    never = cluster.request(
        leader, wire.encode_read(b"\x81\xa4size\xc3", min_index=1_000), timeout_ms=300
    )
    cluster.run(301)
    assert codes(never) == [protocol.TIMEOUT]


def test_a_leader_whose_disk_stalls_steps_down() -> None:
    """Pitfall 48: heartbeats alone do not make a leader."""
    cluster, leader, followers = three()
    leader.syncs_at_once = False
    sent = cluster.request(leader, put("a"))
    cluster.run(400)
    assert leads(leader)
    cluster.run(1_500)
    assert not leads(leader)
    assert codes(sent) == [protocol.NOT_LEADER]
    cluster.run(3_000)
    assert any(node.core.can_serve for node in followers)


def test_a_leader_that_was_stopped_does_not_answer_as_if_nothing_had_been() -> None:
    """Pitfall 33: it steps down before it looks at anything, even at a read's confirmation."""
    cluster, leader, followers = three()
    sent = cluster.request(leader, SIZE)
    leader.turn()
    cluster.deliver()
    for follower in followers:
        follower.turn()
    cluster.deliver()  # the round is confirmed, and the process stands still
    cluster.clock.advance(5_000)
    leader.turn()
    assert not leads(leader)
    assert sent.outcomes is None
    assert sent.handed_back is not None


def test_a_message_for_another_life_of_the_replica_changes_nothing() -> None:
    """Pitfall 55: same node, another disk."""
    _, leader, followers = three()
    stranger = Replica(followers[0].name, 999)
    term, before = leader.core.term, leader.core.status().ignored
    reply = HeartbeatReply(stranger, leader.me, term + 5, 1)
    other = Heartbeat(followers[0].me, Replica(leader.name, 999), term + 5, 0, 1)
    leader.group.handle(PeerMessages([reply, other]))
    leader.group.end_turn()
    assert leader.core.is_leader
    assert leader.core.term == term
    assert leader.core.status().ignored != before


# --------------------------------------------------------------------------- log time


def times_of(node: Node) -> list[int]:
    log = node.core.log
    return [decode_run(run.body).time_ms for run in log.between(1, log.last_index)]


def test_log_time_goes_with_the_leader_s_clock_and_stands_still_without_one() -> None:
    cluster, leader, followers = three()
    cluster.request(leader, put("a"))
    cluster.settle()
    before = times_of(leader)[-1]
    cluster.run(5_000)
    cluster.request(leader, put("b"))
    cluster.settle()
    assert times_of(leader)[-1] == before + 5_000
    leader.crash()
    for follower in followers:
        follower.crash(power=False)
    cluster.clock.advance(3_600_000)
    for node in cluster.nodes.values():
        node.start()
    new = cluster.leader()
    cluster.settle()
    assert times_of(new)[-1] == before + 5_000, (
        "the first entry of a leader takes up where it stood"
    )


def test_log_time_never_goes_back_when_leaders_change() -> None:
    cluster, _, _ = three()
    for at in range(6):
        leader = cluster.leader()
        cluster.request(leader, put(str(at)))
        cluster.run(100 + 300 * at)
        cluster.isolate(leader.name)
        cluster.request(leader, put(f"{at} lost"))
        cluster.run(3_000)
        cluster.heal()
        cluster.run(1_000)
    times = times_of(cluster.leader())
    assert times == sorted(times)
    assert times[-1] < cluster.clock.now_ms(), "it stood still between leaders"


# --------------------------------------------------------------------------- quarantine


class Moody(KeyValueMachine):
    """Fails at the key that it was told of."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
        if any(each.key == self.key for each in requests):
            raise ZeroDivisionError("moody")
        return super().apply_batch(requests, contexts)

    def apply(self, request: WriteRequest, context: Context) -> Response:
        raise AssertionError("batches alone")


def test_a_machine_that_fails_is_quarantined_while_its_replica_goes_on_voting() -> None:
    """Pitfall 18: the others apply on; this one acknowledges, and is elected no worse."""
    machines = {"n1": Moody("bad"), "n2": Moody(""), "n3": Moody("")}
    cluster = Cluster(machines=dict(machines))
    leader = cluster.leader()
    if leader.name == "n1":
        cluster.isolate("n1")
        cluster.run(3_000)
        cluster.heal()
        cluster.run(1_000)
        leader = cluster.leader()
    assert leader.name != "n1"
    cluster.request(leader, put("bad"))
    cluster.run(100)
    sick = cluster["n1"]
    assert sick.summary["state"] == "quarantined"
    assert "moody" in sick.summary["error"]
    other = next(node for node in cluster.followers() if node.name != "n1")
    other.crash()
    after = cluster.request(leader, put("good"))
    cluster.settle()
    assert codes(after) == [protocol.OK], "n1 still acknowledges: two of three are a majority"
    assert sick.core.durable_index == leader.core.last_index
    assert sick.machine.applied_index < leader.machine.applied_index


def test_a_leader_with_a_quarantined_machine_answers_unknown_then_read_only() -> None:
    cluster, leader = lone(machines={"n1": Moody("bad")})
    leader.syncs_at_once = False
    before = cluster.request(leader, put("fine"))
    leader.turn()
    bad = cluster.request(leader, put("bad"))
    cluster.settle()
    leader.syncs_at_once = True
    cluster.settle()
    assert codes(before) == [protocol.OK]
    assert codes(bad) == [protocol.INTERNAL]
    assert bad.outcome.maybe_applied
    after = cluster.request(leader, put("more"))
    leader.turn()
    assert codes(after) == [protocol.READ_ONLY]
    assert not after.outcome.maybe_applied
    read = cluster.request(leader, SIZE)
    cluster.settle()
    assert read.outcome.code != protocol.OK
    assert "quarantined" in read.outcome.error_text
    assert leader.group.pending_count == 0


def test_what_was_gathered_when_the_machine_failed_is_not_appended() -> None:
    _, leader = lone()
    actor = leader.group
    actor.handle(Requests([1, 500, protocol.RIGHTS_ALL, batch_of(put("a"))]))
    actor.handle(Quarantined(2, "moody"))
    effects = actor.end_turn()
    (outcome,) = outcomes_of(effects)[1]
    assert outcome.code == protocol.READ_ONLY
    assert not outcome.maybe_applied
    assert not any(isinstance(each, SaveLog) for each in effects)
    assert actor.pending_count == 0


# --------------------------------------------------------------------------- order, reports


def test_effects_stand_in_the_order_in_which_they_must_be_carried_out() -> None:
    """Messages, save, apply, answers; a single turn has them all."""
    cluster, leader, _ = three()
    cluster.request(leader, put("a"))
    leader.turn()
    leader.sync()
    leader.turn()
    cluster.deliver()
    for follower in cluster.followers():
        follower.turn()
        follower.sync()
        follower.turn()
    actor = leader.group
    for message in [each for each in cluster.in_flight if each.to == leader.me]:
        actor.handle(PeerMessages([message]))
    actor.handle(Requests([900, 500, 7, batch_of(put("b"))]))
    actor.handle(Requests([901, 500, 7, b""]))
    kinds: list[type] = []
    for each in actor.end_turn():
        is_apply = isinstance(each, Tell) and isinstance(each.message, Apply)
        kinds.append(Apply if is_apply else type(each))
    wanted = [SendPeers, SaveLog, Apply, Replies]
    assert [kind for kind in kinds if kind in wanted] == wanted


def test_a_change_of_leader_is_reported_once() -> None:
    cluster, leader, followers = three()
    assert leader.summary["role"] == "leader"
    for follower in followers:
        assert follower.summary["leader"] == leader.name
        assert follower.summary["role"] == "follower"
    cluster.isolate(leader.name)
    cluster.run(2_500)
    assert leader.summary["leader"] is None


def test_the_description_says_what_metadata_shows() -> None:
    cluster, leader, followers = three()
    cluster.request(leader, put("a"))
    cluster.run(100)
    leader.tell(DescribeGroup(1), control=True)
    followers[0].tell(DescribeGroup(1), control=True)
    cluster.settle()
    (told,) = leader.descriptions
    assert (told["id"], told["group"], told["machine"]) == (harness.GROUP, "kv", "kv")
    assert told["commit_index"] == told["applied_index"] == told["last_index"] == 2
    assert told["peers"].keys() == {node.name for node in followers}
    assert all(peer["match"] == 2 and peer["lag"] == 0 for peer in told["peers"].values())
    (theirs,) = followers[0].descriptions
    assert theirs["peers"] == {}
    assert theirs["digest"] == told["digest"]


# --------------------------------------------------------------------------- _system


def system(monkeypatch: pytest.MonkeyPatch) -> tuple[Cluster, Node]:
    monkeypatch.setattr(harness, "NAME", SYSTEM_GROUP)
    return lone(machines={"n1": CatalogMachine([("n1", 100)])})


def admin(cluster: Cluster, node: Node, command: str, value: str = "", **options: str) -> Sent:
    batch = batch_of(wire.encode_admin(command, value, options))
    rights = protocol.RIGHTS_ALL | protocol.RIGHT_NODE
    sent = cluster.request_raw(node, batch, rights=rights)
    cluster.settle()
    return sent


def test_the_catalog_is_changed_and_read_by_admins(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, leader = system(monkeypatch)
    made = admin(cluster, leader, "createGroup", "kv", machine="kv")
    answer = json.loads(made.outcome.data)
    assert answer == {"id": made.outcome.index, "created": True}
    again = admin(cluster, leader, "createGroup", "kv", machine="kv")
    assert json.loads(again.outcome.data) == {"id": made.outcome.index, "created": False}
    other = admin(cluster, leader, "createGroup", "kv", machine="a.b:Other")
    assert other.outcome.code == protocol.REJECTED
    known = {name: f"tcp://{name}:1" for name in ("client", "peer", "events")}
    known["incarnation"] = "100"
    assert admin(cluster, leader, "registerNode", "n1", **known).outcome.code == protocol.OK
    for wrong in ("99", "", "-1", "x" * 30):
        refused = admin(cluster, leader, "registerNode", "n1", **{**known, "incarnation": wrong})
        assert refused.outcome.code == protocol.REJECTED
    groups = json.loads(admin(cluster, leader, "groups").outcome.data)["groups"]
    assert [each["name"] for each in groups] == ["kv"]
    nodes = json.loads(admin(cluster, leader, "nodes").outcome.data)["nodes"]
    assert nodes[0]["client"] == "tcp://client:1"
    for name in ("client", "peer", "events"):
        garbage = admin(cluster, leader, "registerNode", "n1", **{**known, name: "garbage"})
        assert garbage.outcome.code == protocol.BAD_REQUEST
    a_client = cluster.request(leader, wire.encode_admin("registerNode", "n1", known))
    cluster.settle()
    assert a_client.outcome.code == protocol.FORBIDDEN
    assert admin(cluster, leader, "dropEverything").outcome.code == protocol.BAD_REQUEST


def test_an_admin_without_a_time_out_has_the_default_of_its_own_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The router knows only that it is an Admin, and measures by the longer default."""
    cluster, leader = system(monkeypatch)
    actor: GroupActor = leader.group
    batch = b"\x0a" + bytes([len(wire.encode_admin("nodes", ""))]) + wire.encode_admin("nodes", "")
    actor.handle(Requests([1, protocol.TIMEOUT_CHANGING_MS - 300, 7, batch]))
    deadline_ms = actor.clients.next_deadline()
    assert deadline_ms == cluster.clock.now_ms() + protocol.TIMEOUT_READING_MS - 300


def test_applied_runs_of_another_leader_answer_nobody() -> None:
    _, _, followers = three()
    actor = followers[0].group
    actor.handle(Applied(50, 50, 10, [Response()]))
    assert outcomes_of(actor.end_turn()) == {}
