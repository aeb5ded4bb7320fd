"""Routing: exactly one reply to every message, whatever becomes of who holds it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors import routing as routing_module
from actors import wire as kinds
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.routing import (
    CLIENT,
    EXPIRE_GRACE_MS,
    OWN,
    Outcomes,
    Pending,
    Route,
    Routing,
    WorkerLink,
)
from actors.runtime import VirtualClock
from actors.settings import CLIENT_IN_FLIGHT_BYTES_MAX, RETRY_AFTER_MS
from tests.actors.cluster import batch_of, put
from transport import protocol
from transport.client import wire
from transport.frames import Forward, ForwardReply
from transport.polyraft_pb2 import RequestBatch

ALICE, BOB = b"alice", b"bob"
GROUP = 7


class Bench:
    """A router's tables without a router: ``n1``, with the group ``kv`` on n1, n2 and n3."""

    def __init__(self, *, epoch: int = 0xABC) -> None:
        self.clock = VirtualClock(1_000)
        self.replies: list[tuple[Pending, bytes]] = []
        self.forwards: list[tuple[str, Forward]] = []
        self.not_accepted: list[tuple[Pending, str | None, int]] = []
        self.admins: list[str] = []
        self.answers_admins = False
        self.unreachable: set[str] = set()
        self.routing = Routing(
            "n1",
            epoch,
            Outcomes(self._reply, self._forward, self._not_accepted, self._admin),
            self.clock.now_ms,
        )
        self.routing.addresses["n2"] = "tcp://n2:7001"
        self.set_routes()

    def set_routes(self, slot: int | None = 1) -> None:
        members = ["n1", "n2", "n3"]
        self.routing.set_routes(
            [
                Route(GROUP, "kv", "kv", members, slot),
                Route(SYSTEM_GROUP_ID, SYSTEM_GROUP, "_catalog", members, 0),
            ]
        )

    def _reply(self, pending: Pending, payload: bytes) -> None:
        self.replies.append((pending, payload))

    def _forward(self, node: str, forward: Forward) -> bool:
        if node in self.unreachable:
            return False
        self.forwards.append((node, forward))
        return True

    def _not_accepted(self, pending: Pending, leader: str | None, term: int) -> None:
        self.not_accepted.append((pending, leader, term))

    def _admin(self, pending: Pending, group: str) -> bool:
        self.admins.append(group)
        return self.answers_admins

    def worker(self, *groups: int, slot: int = 1) -> WorkerLink:
        worker = WorkerLink(slot, 100 + slot, 1, lambda *fields, control=False: True)
        self.routing.on_worker(worker, groups or (GROUP,))
        return worker

    def send(
        self,
        batch: bytes | None = None,
        *,
        source: Any = ALICE,
        group: str = "kv",
        origin: int = CLIENT,
    ) -> None:
        batch = batch_of(put("a")) if batch is None else batch
        self.routing.on_message(origin, source, True, b"c", group.encode(), batch)

    def forward_reply(
        self, node: str, at: int = -1, *, leader: str | None = None, payload: bytes | None = None
    ) -> None:
        forward = self.forwards[at][1]
        accepted = payload is not None
        reply = ForwardReply(
            forward.origin_epoch, forward.forward_id, accepted, payload or b"", leader, 3
        )
        self.routing.on_forward_reply(node, reply)

    @property
    def outcome(self) -> wire.Outcome:
        """Of the only message that was answered."""
        ((_, payload),) = self.replies
        (outcome,) = wire.decode_replies(payload, 1)
        return outcome

    def outcomes(self) -> list[int]:
        return [wire.decode_replies(payload, 1)[0].code for _, payload in self.replies]


def requests(worker: WorkerLink) -> list[list[Any]]:
    items = worker.requests
    return [items[at : at + 5] for at in range(0, len(items), 5)]


OK = protocol.ok_batch(5, 1, "n1")


# --------------------------------------------------------------------------- the worker here


def test_a_message_goes_undecoded_to_the_worker_here_and_its_answer_back() -> None:
    bench = Bench()
    worker = bench.worker()
    batch = batch_of(put("a"), timeout_ms=700)
    bench.send(batch)
    assert bench.routing.dirty == {1: worker}
    assert bench.routing.gathered_bytes == len(batch)
    ((token, group, remaining_ms, rights, data),) = requests(worker)
    assert (group, remaining_ms, rights, data) == (GROUP, 700, protocol.RIGHTS_ALL, batch)
    assert bench.replies == []
    bench.routing.on_reply(worker, token, OK)
    ((pending, payload),) = bench.replies
    assert (pending.source, pending.correlation, pending.delimited) == (ALICE, b"c", True)
    assert payload == OK
    assert bench.routing.under_way == 0


def test_without_a_time_out_the_default_of_the_class_counts() -> None:
    bench = Bench()
    worker = bench.worker()
    for request in (put("a"), wire.encode_read(b"x")):
        bench.send(
            RequestBatch.FromString(b"\x0a" + bytes([len(request)]) + request).SerializeToString()
        )
    bench.send(b"\xff")  # unclear: the longer one, the worker refuses it anyway
    assert [each[2] for each in requests(worker)] == [10_000, 5_000, 10_000]


def test_an_answer_that_comes_twice_or_late_is_counted_and_told_to_nobody() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.send()
    token = requests(worker)[0][0]
    bench.routing.on_reply(worker, token, OK)
    bench.routing.on_reply(worker, token, OK)
    bench.routing.on_hand_back(worker, token, "n2", 3, "")
    bench.routing.on_reply(worker, 12345, OK)
    assert len(bench.replies) == 1
    assert bench.routing.counts["late_replies"] == 3
    assert bench.forwards == []


def test_an_answer_to_what_an_earlier_router_handed_over_reaches_nobody() -> None:
    """Pitfall 55: the worker goes on across lives of the router, with old tokens in its groups."""
    before, after = Bench(epoch=0x1234567), Bench(epoch=0x7654321)
    worker = before.worker()
    before.send()
    old = requests(worker)[0][0]
    worker = after.worker()
    for _ in range(1_000):
        after.send()
    after.routing.on_reply(worker, old, OK)
    assert after.replies == []
    assert after.routing.counts["late_replies"] == 1
    tokens = [each[0] for each in requests(worker)]
    assert all(0 < each < 1 << 63 for each in tokens)


def test_the_loss_of_a_worker_makes_all_it_held_unknown_at_once() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.routing.by_group[GROUP].summary = {"leader": "n1"}
    for _ in range(3):
        bench.send()
    bench.routing.on_worker_lost(worker)
    assert bench.outcomes() == [protocol.UNAVAILABLE] * 3
    assert all(wire.decode_replies(payload, 1)[0].maybe_applied for _, payload in bench.replies)
    assert bench.routing.under_way == 0
    assert bench.routing.dirty == {}
    assert bench.routing.by_group[GROUP].summary == {}
    assert bench.forwards == [], "what one has had is never given to another"
    for token in [each[0] for each in requests(worker)]:
        bench.routing.on_reply(worker, token, OK)
    assert len(bench.replies) == 3


def test_the_end_of_a_replaced_worker_does_not_touch_the_one_that_replaced_it() -> None:
    bench = Bench()
    old = bench.worker()
    bench.send()
    new = bench.worker()
    bench.routing.on_worker_lost(old)
    assert bench.outcomes() == [protocol.UNAVAILABLE]
    bench.send()
    assert len(requests(new)) == 1
    assert bench.routing.workers == {1: new}


def test_other_workers_notice_nothing_of_a_loss() -> None:
    bench = Bench()
    lost, other = bench.worker(), bench.worker(SYSTEM_GROUP_ID, slot=0)
    bench.send()
    bench.send(group=SYSTEM_GROUP)
    bench.routing.on_worker_lost(lost)
    assert bench.outcomes() == [protocol.UNAVAILABLE]
    bench.routing.on_reply(other, requests(other)[0][0], OK)
    assert len(bench.replies) == 2


@pytest.mark.parametrize("by_loss", [True, False])
def test_a_worker_that_still_had_what_moved_leaves_it_to_the_one_that_has_it(by_loss: bool) -> None:
    """It connected last, and has not read yet that the group was left and is back elsewhere."""
    bench = Bench()
    there = bench.worker(slot=2)
    behind = bench.worker(slot=1)
    if by_loss:
        bench.routing.on_worker_lost(behind)
    else:
        bench.routing.remove_host(behind, GROUP)
    assert bench.routing.hosts[GROUP] is there


def test_a_replica_that_stops_makes_unknown_what_it_held_and_nothing_else() -> None:
    bench = Bench()
    worker = bench.worker(GROUP, SYSTEM_GROUP_ID)
    bench.send()
    bench.send(group=SYSTEM_GROUP)
    bench.routing.remove_host(worker, GROUP)
    assert bench.outcomes() == [protocol.UNAVAILABLE]
    assert wire.decode_replies(bench.replies[0][1], 1)[0].maybe_applied
    assert (bench.routing.hosts, worker.groups) == ({SYSTEM_GROUP_ID: worker}, {SYSTEM_GROUP_ID})
    bench.routing.on_reply(worker, requests(worker)[1][0], OK)
    assert len(bench.replies) == 2


# --------------------------------------------------------------------------- forwarding


def handed_back(bench: Bench, leader: str | None = "n2") -> WorkerLink:
    worker = bench.worker()
    bench.send()
    bench.routing.on_hand_back(worker, requests(worker)[-1][0], leader, 3, "")
    return worker


def test_what_the_worker_does_not_accept_goes_to_the_leader_s_node() -> None:
    bench = Bench()
    worker = bench.worker()
    batch = batch_of(put("a"), timeout_ms=700)
    bench.send(batch)
    bench.clock.advance(100)
    bench.routing.on_hand_back(worker, requests(worker)[0][0], "n2", 3, "")
    ((node, forward),) = bench.forwards
    assert node == "n2"
    assert (forward.group, forward.batch, forward.remaining_ms) == (GROUP, batch, 600)
    bench.forward_reply("n2", payload=OK)
    assert bench.replies[0][1] == OK
    assert bench.routing.under_way == 0


@pytest.mark.parametrize("leader", [None, "n1"])
def test_without_a_leader_elsewhere_the_answer_is_no_leader(leader: str | None) -> None:
    bench = Bench()
    worker = handed_back(bench, leader)
    assert bench.forwards == []
    assert bench.outcome.code == protocol.NO_LEADER
    assert bench.outcome.retry_after_ms == RETRY_AFTER_MS
    assert not bench.outcome.maybe_applied
    assert worker.pending == {}


def test_no_leader_names_the_leader_and_its_address_when_they_are_known() -> None:
    bench = Bench()
    bench.unreachable.add("n2")
    handed_back(bench, "n2")
    assert bench.outcome.code == protocol.NO_LEADER
    assert (bench.outcome.leader, bench.outcome.leader_address) == ("n2", "tcp://n2:7001")


def test_one_more_node_is_tried_and_no_third() -> None:
    """Pitfall 54: bounded hops."""
    bench = Bench()
    handed_back(bench, "n2")
    bench.forward_reply("n2", leader="n3")
    assert [node for node, _ in bench.forwards] == ["n2", "n3"]
    bench.forward_reply("n3", leader="n4")
    assert len(bench.forwards) == 2
    assert bench.outcome.code == protocol.NO_LEADER
    assert not bench.outcome.maybe_applied


@pytest.mark.parametrize("leader", ["n2", "n1", None])
def test_a_message_is_sent_to_no_node_twice_and_never_back_here(leader: str | None) -> None:
    bench = Bench()
    worker = handed_back(bench, "n2")
    bench.forward_reply("n2", leader=leader)
    assert len(bench.forwards) == 1
    assert len(requests(worker)) == 1
    assert bench.outcome.code == protocol.NO_LEADER


def test_the_node_itself_asks_another_member_each_time() -> None:
    """The first one may have no replica of the group any more, like this node."""
    bench = Bench()
    asked = []
    for _ in range(3):
        bench.send(origin=OWN, source=1)
        asked.append(bench.forwards[-1][0])
    assert set(asked) == {"n2", "n3"}
    for _ in range(3):
        bench.send()
    assert [node for node, _ in bench.forwards[3:]] == ["n2", "n2", "n2"]


def test_the_node_itself_asks_another_member_when_the_first_one_knows_no_leader() -> None:
    """Where two of three are new to the group, one of them knows as little as the other."""
    bench = Bench()
    bench.send(origin=OWN, source=1)
    ((first, _),) = bench.forwards
    bench.forward_reply(first, leader=None)
    assert {node for node, _ in bench.forwards} == {"n2", "n3"}
    bench.forward_reply(bench.forwards[1][0], leader=None)
    assert len(bench.forwards) == 2
    assert bench.outcome.code == protocol.NO_LEADER


def test_a_forwarded_message_goes_no_further() -> None:
    """Pitfall 54: not accepted here is told to the origin, which alone may try another node."""
    bench = Bench()
    worker = bench.worker()
    batch = batch_of(put("a"))
    bench.routing.on_forward("n3", Forward(9, 44, GROUP, 300, protocol.RIGHT_READ, batch))
    ((token, group, remaining_ms, rights, data),) = requests(worker)
    assert (group, remaining_ms, rights, data) == (GROUP, 300, protocol.RIGHT_READ, batch)
    bench.routing.on_hand_back(worker, token, "n2", 3, "")
    assert bench.forwards == []
    assert bench.replies == []
    ((pending, leader, term),) = bench.not_accepted
    assert (pending.source, pending.source_epoch, pending.source_id) == ("n3", 9, 44)
    assert (leader, term) == ("n2", 3)
    assert bench.routing.under_way == 0


def test_the_answer_to_a_forwarded_message_goes_back_to_its_node() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.routing.on_forward("n3", Forward(9, 44, GROUP, 300, 7, batch_of(put("a"))))
    bench.routing.on_reply(worker, requests(worker)[0][0], OK)
    ((pending, payload),) = bench.replies
    assert (pending.source, pending.source_epoch, pending.source_id) == ("n3", 9, 44)
    assert payload == OK


def test_a_forward_is_not_accepted_without_a_worker_or_while_stopping() -> None:
    bench = Bench()
    forward = Forward(9, 44, GROUP, 300, 7, batch_of(put("a")))
    bench.routing.on_forward("n3", forward)
    bench.worker()
    bench.routing.stopping = True
    bench.routing.on_forward("n3", forward)
    assert [leader for _, leader, _ in bench.not_accepted] == [None, None]
    assert bench.routing.under_way == 0


def test_the_loss_of_a_peer_makes_what_it_has_unknown_at_once() -> None:
    bench = Bench()
    handed_back(bench, "n2")
    bench.routing.on_peer_lost("n3")
    assert bench.replies == []
    bench.routing.on_peer_lost("n2")
    assert bench.outcome.code == protocol.UNAVAILABLE
    assert bench.outcome.maybe_applied
    bench.forward_reply("n2", payload=OK)
    assert len(bench.replies) == 1
    assert bench.routing.counts["late_replies"] == 1


def test_an_answer_from_the_wrong_node_or_to_another_epoch_is_none() -> None:
    bench = Bench()
    handed_back(bench, "n2")
    bench.forward_reply("n3", payload=OK)
    forward = bench.forwards[0][1]
    stale = ForwardReply(forward.origin_epoch + 1, forward.forward_id, True, OK, None, 0)
    bench.routing.on_forward_reply("n2", stale)
    assert bench.replies == []
    assert bench.routing.counts["late_replies"] == 2


def test_without_a_worker_here_any_member_that_is_reached_is_asked() -> None:
    bench = Bench()
    bench.send()
    bench.unreachable.add("n2")
    bench.send()
    assert [node for node, _ in bench.forwards] == ["n2", "n3"]
    bench.unreachable.add("n3")
    bench.send()
    assert bench.outcome.code == protocol.NO_LEADER
    assert bench.outcome.retry_after_ms == RETRY_AFTER_MS


def test_a_known_leader_is_asked_first() -> None:
    bench = Bench()
    bench.routing.by_group[GROUP].summary = {"leader": "n3"}
    bench.send()
    assert [node for node, _ in bench.forwards] == ["n3"]


def test_too_many_forwards_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_module, "FORWARDS_IN_FLIGHT_MAX", 2)
    bench = Bench()
    for _ in range(3):
        bench.send()
    assert bench.outcome.code == protocol.BUSY
    bench.forward_reply("n2", payload=OK)
    bench.send()
    assert len(bench.forwards) == 3


# --------------------------------------------------------------------------- refusals


def test_more_than_64_mib_of_one_client_are_busy_and_others_are_served() -> None:
    bench = Bench()
    worker = bench.worker()
    large = batch_of(put("k", bytes(7 << 20)))
    fits = CLIENT_IN_FLIGHT_BYTES_MAX // len(large)
    for _ in range(fits + 1):
        bench.send(large)
    assert bench.outcome.code == protocol.BUSY
    assert bench.outcome.retry_after_ms == RETRY_AFTER_MS
    assert not bench.outcome.maybe_applied
    bench.send(large, source=BOB)
    assert len(requests(worker)) == fits + 1
    bench.routing.on_reply(worker, requests(worker)[0][0], OK)
    bench.send(large)
    assert len(requests(worker)) == fits + 2, "what is answered counts no more"


def test_bytes_in_flight_are_forgotten_with_the_last_answer() -> None:
    bench = Bench()
    worker = bench.worker()
    for _ in range(5):
        bench.send()
        bench.send(b"")
    for each in requests(worker):
        bench.routing.on_reply(worker, each[0], OK)
    assert bench.routing._in_flight_bytes == {}
    assert bench.routing.under_way == 0


def test_too_many_messages_in_the_node_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routing_module, "ROUTER_PENDING_MESSAGES_MAX", 2)
    bench = Bench()
    bench.worker()
    for at in range(3):
        bench.send(source=b"%d" % at)
    assert bench.outcome.code == protocol.BUSY


def test_a_stopping_node_refuses_and_answers_what_it_has() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.send()
    bench.routing.stopping = True
    bench.send()
    assert bench.outcome.code == protocol.SHUTTING_DOWN
    assert not bench.outcome.maybe_applied
    bench.routing.on_reply(worker, requests(worker)[0][0], OK)
    assert len(bench.replies) == 2


def test_admins_are_offered_to_this_node_first() -> None:
    bench = Bench()
    worker = bench.worker()
    admin = batch_of(wire.encode_admin("status", ""))
    bench.send(admin)
    assert bench.admins == ["kv"]
    assert len(requests(worker)) == 1
    bench.answers_admins = True
    bench.send(admin, group="")
    assert bench.admins == ["kv", ""]
    assert len(requests(worker)) == 1


def test_this_node_s_own_requests_are_routed_like_any_client_s() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.send(origin=OWN, source=3)
    bench.routing.on_worker_lost(worker)
    ((pending, _),) = bench.replies
    assert (pending.origin, pending.source) == (OWN, 3)
    assert bench.outcomes() == [protocol.UNAVAILABLE]


# --------------------------------------------------------------------------- unknown groups


def ask(bench: Bench, worker: WorkerLink, answer: bytes) -> None:
    """The catalog's worker answers the question that is under way."""
    token = list(worker.pending)[-1]
    bench.routing.on_reply(worker, token, answer)


def names(*known: str) -> bytes:
    data = json.dumps(list(known)).encode()
    return protocol.encode_batch([protocol.ok_reply_with_data(5, "n1", data)])


def test_only_the_catalog_s_leader_can_say_that_a_group_does_not_exist() -> None:
    bench = Bench()
    catalog = bench.worker(SYSTEM_GROUP_ID, slot=0)
    bench.send(group="nowhere")
    bench.send(group="soon")
    assert bench.replies == []
    ask(bench, catalog, names())
    assert bench.outcome.code == protocol.NO_SUCH_GROUP
    assert not bench.outcome.maybe_applied
    # A read says nothing of what was asked after it: the second name has a read of its own.
    ask(bench, catalog, names("soon"))
    assert bench.outcomes() == [protocol.NO_SUCH_GROUP, protocol.NO_LEADER]
    assert bench.routing.under_way == 0
    assert catalog.pending == {}


def test_without_an_answer_of_the_catalog_an_unknown_group_has_no_leader() -> None:
    bench = Bench()
    catalog = bench.worker(SYSTEM_GROUP_ID, slot=0)
    bench.send(group="nowhere")
    bench.routing.on_worker_lost(catalog)
    assert bench.outcomes() == [protocol.NO_LEADER]
    bench.routing.set_routes([])
    bench.send(group="nowhere")
    assert bench.outcomes() == [protocol.NO_LEADER] * 2
    bench.send(group="")
    assert bench.outcomes()[-1] == protocol.BAD_REQUEST
    assert bench.routing.under_way == 0


# --------------------------------------------------------------------------- time


def test_what_a_stuck_worker_never_answers_times_out_and_its_outcome_is_unknown() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.send(batch_of(put("a"), timeout_ms=500))
    bench.clock.advance(500 + EXPIRE_GRACE_MS - 1)
    bench.routing.expire()
    assert bench.replies == []
    bench.clock.advance(1)
    bench.routing.expire()
    assert bench.outcome.code == protocol.TIMEOUT
    assert bench.outcome.maybe_applied
    bench.routing.on_reply(worker, requests(worker)[0][0], OK)
    bench.routing.expire()
    assert len(bench.replies) == 1
    assert bench.routing.counts["late_replies"] == 1
    assert bench.routing.under_way == 0


def test_the_longest_time_out_of_a_message_counts() -> None:
    bench = Bench()
    bench.worker()
    batch = RequestBatch()
    for timeout_ms in (200, 3_000):
        request = batch.requests.add()
        request.timeout_ms = timeout_ms
        request.write.key = "a"
    bench.send(batch.SerializeToString())
    bench.clock.advance(200 + EXPIRE_GRACE_MS)
    bench.routing.expire()
    bench.clock.advance(2_799)
    bench.routing.expire()
    assert bench.replies == []
    bench.clock.advance(1)
    bench.routing.expire()
    assert len(bench.replies) == 1


def test_a_forward_that_is_never_answered_times_out() -> None:
    bench = Bench()
    handed_back(bench, "n2")
    bench.clock.advance(10_000 + EXPIRE_GRACE_MS)
    bench.routing.expire()
    assert bench.outcome.code == protocol.TIMEOUT
    bench.routing.on_peer_lost("n2")
    assert len(bench.replies) == 1


def test_young_messages_behind_an_old_one_are_left_alone() -> None:
    bench = Bench()
    bench.worker()
    bench.send(batch_of(put("a"), timeout_ms=100))
    bench.clock.advance(100 + EXPIRE_GRACE_MS)
    bench.send(batch_of(put("b"), timeout_ms=100))
    bench.routing.expire()
    assert len(bench.replies) == 1
    assert bench.routing.under_way == 1


# --------------------------------------------------------------------------- the table


def test_a_new_table_keeps_what_is_known_of_replicas_here() -> None:
    bench = Bench()
    bench.routing.by_group[GROUP].summary = {"leader": "n3", "term": 4}
    bench.set_routes()
    assert bench.routing.by_group[GROUP].leader == "n3"
    bench.routing.set_routes([])
    assert bench.routing.routes == {}


def test_the_kinds_of_link_frames_are_distinct() -> None:
    numbers = [value for name, value in vars(kinds).items() if name.isupper()]
    assert len(numbers) == len(set(numbers))


# --------------------------------------------------------------------------- unknown groups, time


def catalog_question(bench: Bench) -> Forward:
    """The question to the catalog, which is elsewhere."""
    (question,) = [forward for _, forward in bench.forwards if forward.group == SYSTEM_GROUP_ID]
    return question


def test_an_overdue_question_is_answered_by_asking_the_next_one_at_another_node() -> None:
    """The answer to one question starts the next, and so changes the table looked at."""
    bench = Bench()
    system = bench.routing.by_group[SYSTEM_GROUP_ID]
    system.summary = {"leader": "n2"}
    bench.send(group="nobody", batch=batch_of(put("a"), timeout_ms=60_000))
    bench.send(group="nothing", batch=batch_of(put("a"), timeout_ms=60_000))
    assert [node for node, _ in bench.forwards] == ["n2"]
    system.summary = {"leader": "n3"}
    bench.clock.advance(routing_module.CATALOG_TIMEOUT_MS + EXPIRE_GRACE_MS)
    bench.routing.expire()
    assert [node for node, _ in bench.forwards] == ["n2", "n3"]
    assert bench.outcome.code == protocol.NO_LEADER


def test_a_message_for_an_unknown_group_is_answered_at_its_own_deadline() -> None:
    """Pitfall 52: nothing was appended, and it says so."""
    bench = Bench()
    bench.routing.by_group[SYSTEM_GROUP_ID].summary = {"leader": "n2"}
    bench.send(group="nobody", batch=batch_of(put("a"), timeout_ms=200))
    bench.clock.advance(200)
    bench.routing.expire()
    assert (bench.outcome.code, bench.outcome.maybe_applied) == (protocol.TIMEOUT, False)
    question = catalog_question(bench)
    bench.routing.on_forward_reply(
        "n2",
        ForwardReply(
            question.origin_epoch,
            question.forward_id,
            True,
            protocol.encode_batch([protocol.ok_reply_with_data(1, "n2", b"[]")]),
            None,
            0,
        ),
    )
    assert len(bench.replies) == 1, "answered twice"
    assert bench.routing.under_way == 0


def test_what_a_full_worker_does_not_take_is_busy_and_was_never_there() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.send()
    bench.routing.on_not_taken(worker, list(worker.pending))
    assert (bench.outcome.code, bench.outcome.maybe_applied) == (protocol.BUSY, False)
    assert bench.outcome.retry_after_ms == RETRY_AFTER_MS
    assert not worker.pending


def test_a_message_whose_time_is_up_is_not_forwarded_any_more() -> None:
    bench = Bench()
    worker = bench.worker()
    bench.send(batch_of(put("a"), timeout_ms=100))
    bench.clock.advance(100)
    (token,) = worker.pending
    bench.routing.on_hand_back(worker, token, "n2", 3, "")
    assert not bench.forwards
    assert (bench.outcome.code, bench.outcome.maybe_applied) == (protocol.TIMEOUT, False)
