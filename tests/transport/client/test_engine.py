"""The engine by itself: every story is a script of calls, replies, lost links and passing time."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

import pytest

from tests.transport.client.fake_node import each, reply, whole
from transport import polyraft_pb2 as pb
from transport.client import errors, wire
from transport.client.calls import ADMIN, READ, SESSION, WRITE, Call, ClientSettings
from transport.client.engine import Engine, Output

A = "tcp://127.0.0.1:7001"
B = "tcp://127.0.0.1:7002"
C = "tcp://127.0.0.1:7003"


class Half:
    """Chance without surprises: always the middle."""

    def random(self) -> float:
        return 0.5


class World:
    """An engine, its time, and all it ever did."""

    def __init__(self, *addresses: str, settings: ClientSettings | None = None) -> None:
        self.now = 1_000
        self.engine = Engine(list(addresses) or [A], settings or ClientSettings(), Half())
        self.links: dict[int, str] = {}
        self.closed: list[int] = []
        self.sent: list[tuple[int, bytes, str, pb.RequestBatch]] = []
        self.ended: dict[Call, wire.Outcome | errors.PolyraftError] = {}

    def call(
        self,
        kind: int = WRITE,
        key: str = "k",
        *,
        group: str = "kv",
        timeout_ms: int = 10_000,
        repeatable: bool | None = None,
        address: str = "",
    ) -> Call:
        """A new call, not yet sent."""
        if kind == READ:
            request = wire.encode_read(key.encode())
        elif kind == ADMIN:
            request = wire.encode_admin(key, "")
        elif kind == SESSION:
            request = wire.encode_open_session()
        else:
            request = wire.encode_write("PUT", key, b"v")
        call = Call(
            group,
            kind,
            request,
            deadline_ms=self.now + timeout_ms,
            repeatable=kind in (READ, SESSION) if repeatable is None else repeatable,
            on_done=lambda verdict: None,
            address=address,
        )
        self.engine.submit(call)
        return call

    def turn(self) -> Output:
        """The end of a turn of the loop."""
        self.engine.flush(self.now)
        return self.take()

    def take(self) -> Output:
        """Carry out what the engine wants."""
        output = self.engine.take_output()
        for number in output.closes:
            self.links.pop(number, None)
            self.closed.append(number)
        self.links.update(output.opens)
        for number, correlation, group, batch in output.sends:
            assert self.engine.closed or number in self.links, "sent on a link that is closed"
            message = pb.RequestBatch.FromString(batch)
            self.sent.append((number, correlation, group.decode(), message))
        for call, verdict in output.done:
            assert call not in self.ended, "a call ended twice"
            self.ended[call] = verdict
        return output

    def up(self, address: str = A) -> int:
        """The newest link to an address is connected."""
        number = max(number for number, it in self.links.items() if it == address)
        self.engine.on_link_up(number, self.now)
        self.take()
        return number

    def down(self, number: int) -> None:
        """A link is lost."""
        self.engine.on_link_down(number, "connection lost", self.now)
        self.take()

    def answer(self, answer: pb.ReplyBatch | bytes, message: int = -1) -> None:
        """A reply to a message that was sent, by default the last."""
        number, correlation, _, _ = self.sent[message]
        payload = answer if isinstance(answer, bytes) else answer.SerializeToString()
        self.engine.on_message(number, [correlation, payload], self.now)
        self.take()

    def pass_ms(self, ms: int) -> None:
        """Time passes; the engine is called when it asked to be."""
        end = self.now + ms
        while (moment := self.engine.next_deadline_ms(self.now)) is not None and moment <= end:
            self.now = max(self.now, moment)
            self.engine.on_time(self.now)
            self.take()
            if moment == self.now == end:
                break
            self.now += 1
        self.now = max(self.now, end)

    def keys(self, message: int = -1) -> list[str]:
        """What a message writes."""
        return [request.write.key for request in self.sent[message][3].requests]

    def error(self, call: Call) -> errors.PolyraftError:
        """What a call failed with."""
        verdict = self.ended[call]
        assert isinstance(verdict, errors.PolyraftError)
        return verdict


def connected(*addresses: str, settings: ClientSettings | None = None) -> World:
    """A world whose first address is connected, by an answered read."""
    world = World(*addresses, settings=settings)
    world.call(READ)
    world.turn()
    world.up(addresses[0] if addresses else A)
    world.answer(each(reply()))
    world.sent.clear()
    return world


# -- coalescing ----------------------------------------------------------------------------------


def test_calls_of_one_turn_travel_together_but_reads_and_groups_apart() -> None:
    world = connected()
    for key in ("a", "b", "c"):
        world.call(WRITE, key)
    world.call(READ)
    world.call(WRITE, "other", group="names")
    world.turn()
    assert [world.keys(number) for number in range(3)] == [["a", "b", "c"], [""], ["other"]]
    assert [group for _, _, group, _ in world.sent] == ["kv", "kv", "names"]


def test_each_call_gets_the_reply_of_its_position() -> None:
    world = connected()
    first, second = world.call(WRITE, "a"), world.call(WRITE, "b")
    world.turn()
    world.answer(each(reply(index=7), reply(pb.REJECTED, index=8, text="no")))
    outcome = world.ended[first]
    assert isinstance(outcome, wire.Outcome)
    assert outcome.index == 7
    error = world.error(second)
    assert isinstance(error, errors.Rejected)
    assert (error.definite, error.index) == (True, 8)


def test_one_reply_for_the_whole_message_is_for_every_call() -> None:
    world = connected()
    calls = [world.call(WRITE, "a"), world.call(WRITE, "b")]
    world.turn()
    world.answer(whole(reply(pb.FORBIDDEN, text="this key may not write")))
    assert [type(world.error(call)) for call in calls] == [errors.Forbidden] * 2


def test_what_comes_while_enough_is_in_flight_makes_the_next_message_fuller() -> None:
    world = connected(settings=ClientSettings(messages_in_flight_max=2))
    for key in ("a", "b", "c", "d"):
        world.call(WRITE, key)
        world.turn()
    assert [world.keys(number) for number in range(len(world.sent))] == [["a"], ["b"]]
    world.answer(each(reply()), 0)
    assert world.keys() == ["c", "d"]


def test_a_message_keeps_to_its_limits_of_requests_and_bytes() -> None:
    world = connected(settings=ClientSettings(batch_requests_max=2))
    for key in "abcde":
        world.call(WRITE, key)
    world.turn()
    assert [world.keys(number) for number in range(3)] == [["a", "b"], ["c", "d"], ["e"]]
    size = len(wire.encode_write("PUT", "a", b"v")) + wire.REQUEST_OVERHEAD_BYTES_MAX
    world = connected(settings=ClientSettings(batch_bytes_max=2 * size))
    for key in "abc":
        world.call(WRITE, key)
    world.turn()
    assert [world.keys(number) for number in range(2)] == [["a", "b"], ["c"]]


def test_an_impatient_call_does_not_share_its_deadline_with_a_patient_one() -> None:
    world = connected()
    world.call(WRITE, "patient", timeout_ms=10_000)
    world.call(WRITE, "also", timeout_ms=9_500)
    world.call(WRITE, "impatient", timeout_ms=200)
    world.turn()
    assert [world.keys(0), world.keys(1)] == [["patient", "also"], ["impatient"]]
    limits = [[request.timeout_ms for request in it[3].requests] for it in world.sent]
    assert limits == [[9_500, 9_500], [200]]


def test_admin_and_session_calls_travel_alone() -> None:
    world = connected()
    for kind in (ADMIN, ADMIN, SESSION, SESSION):
        world.call(kind)
    world.turn()
    assert [len(it[3].requests) for it in world.sent] == [1, 1, 1, 1]


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [pb.NO_LEADER, pb.BUSY, pb.SHUTTING_DOWN])
def test_a_refused_write_is_sent_again_not_before_the_reply_allows(code: int) -> None:
    world = connected()
    call = world.call(WRITE)
    world.turn()
    world.answer(whole(reply(code, retry_after_ms=300)))
    world.pass_ms(299)
    assert len(world.sent) == 1
    assert call not in world.ended
    world.pass_ms(200)
    assert len(world.sent) == 2
    world.answer(each(reply(index=9)))
    assert isinstance(world.ended[call], wire.Outcome)


def test_pauses_double_and_what_was_refused_goes_first() -> None:
    world = connected()
    world.call(WRITE, "old")
    world.turn()
    gaps = []
    for _ in range(5):
        world.answer(whole(reply(pb.NO_LEADER)))
        before, start = len(world.sent), world.now
        while len(world.sent) == before:
            world.pass_ms(1)
        gaps.append(world.now - start)
    assert all(later > 1.6 * sooner for sooner, later in itertools.pairwise(gaps))
    world.call(WRITE, "new")
    world.answer(whole(reply(pb.BUSY)))
    world.pass_ms(2_000)
    assert world.keys() == ["old", "new"]


def test_no_leader_until_the_deadline_is_a_definite_failure() -> None:
    world = connected()
    call = world.call(WRITE, timeout_ms=500)
    world.turn()
    world.answer(whole(reply(pb.NO_LEADER, text="electing", retry_after_ms=2_000)))
    world.pass_ms(600)
    error = world.error(call)
    assert isinstance(error, errors.NoLeader)
    assert (error.definite, error.message, len(world.sent)) == (True, "electing", 1)


def test_a_refusal_that_names_the_leader_is_followed_at_once() -> None:
    world = connected(A, B)
    call = world.call(WRITE)
    world.turn()
    world.answer(whole(reply(pb.NO_LEADER, leader_address=B, retry_after_ms=1_000)))
    world.turn()
    link = world.up(B)
    assert world.sent[-1][0] == link
    world.answer(each(reply(index=3)))
    assert isinstance(world.ended[call], wire.Outcome)


def test_after_an_answer_that_names_the_leader_the_next_call_goes_there() -> None:
    world = connected(A)
    world.call(WRITE)
    world.turn()
    usual = world.sent[-1][0]
    world.answer(each(reply(leader_address=C)))
    world.call(WRITE, "meanwhile")
    world.turn()
    assert (world.sent[-1][0], world.keys()) == (usual, ["meanwhile"])
    link = world.up(C)
    world.call(WRITE, "next")
    world.turn()
    assert (world.sent[-1][0], world.keys()) == (link, ["next"])


def test_a_leader_that_cannot_be_reached_from_here_delays_nobody() -> None:
    world = connected(A)
    for _ in range(50):
        world.call(WRITE)
        world.turn()
        assert world.links[world.sent[-1][0]] == A
        world.answer(each(reply(leader_address=C)))
        world.pass_ms(100)
    assert len(world.sent) == 50
    assert 2 <= len(world.closed) <= 8, "tried now and then"


def test_a_leader_address_that_is_none_is_not_believed() -> None:
    world = connected(A)
    world.call(WRITE)
    world.turn()
    world.answer(each(reply(leader_address="ipc:///etc/passwd")))
    world.call(WRITE)
    world.turn()
    assert set(world.links.values()) == {A}


def test_a_node_that_never_knows_a_leader_is_not_asked_for_ever() -> None:
    world = connected(A, B)
    world.call(WRITE)
    world.turn()
    for _ in range(ClientSettings().refusals_per_node_max):
        world.answer(whole(reply(pb.NO_LEADER)))
        world.pass_ms(300)
    world.up(B)
    assert world.links[world.sent[-1][0]] == B


def test_a_deadline_of_the_server_with_nothing_appended_is_tried_again_while_time_is_left() -> None:
    world = connected()
    call = world.call(WRITE)
    world.turn()
    world.answer(whole(reply(pb.TIMEOUT)))
    world.pass_ms(100)
    assert len(world.sent) == 2
    world.answer(whole(reply(pb.TIMEOUT, maybe=True)))
    assert isinstance(world.error(call), errors.OutcomeUnknown)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (pb.NO_SUCH_GROUP, errors.NoSuchGroup),
        (pb.BAD_REQUEST, errors.BadRequest),
        (pb.SESSION_EXPIRED, errors.SessionExpired),
        (pb.APPLY_FAILED, errors.ApplyFailed),
        (pb.READ_ONLY, errors.ReadOnly),
        (pb.FORBIDDEN, errors.Forbidden),
    ],
)
def test_a_verdict_that_a_repeat_would_not_change_ends_the_call(
    code: int, kind: type[errors.PolyraftError]
) -> None:
    world = connected()
    call = world.call(WRITE)
    world.turn()
    world.answer(whole(reply(code, text="because")))
    error = world.error(call)
    assert (type(error), error.definite, error.message) == (kind, True, "because")


def test_a_code_of_a_later_version_ends_the_call_with_what_the_reply_says_of_it() -> None:
    world = connected()
    call = world.call(WRITE)
    world.turn()
    # Reply { code: 99, maybe_applied: true }
    world.answer(b"\n\x04\x10\x63\x18\x01")
    error = world.error(call)
    assert (type(error), error.code, error.definite) == (errors.OutcomeUnknown, "CODE_99", False)


# -- unknown outcomes ----------------------------------------------------------------------------


def test_pitfall_52_a_write_whose_answer_is_lost_is_unknown_at_once_and_never_sent_again() -> None:
    world = connected(A, B)
    call = world.call(WRITE)
    world.turn()
    world.down(world.sent[-1][0])
    error = world.error(call)
    assert (type(error), error.definite) == (errors.OutcomeUnknown, False)
    world.pass_ms(20_000)
    assert len(world.sent) == 1


@pytest.mark.parametrize("code", [pb.NOT_LEADER, pb.UNAVAILABLE, pb.INTERNAL])
def test_a_write_that_a_node_lost_is_unknown_and_a_read_is_asked_again(code: int) -> None:
    world = connected()
    write, read = world.call(WRITE), world.call(READ)
    world.turn()
    for message in (0, 1):
        world.answer(whole(reply(code, maybe=True)), message)
    assert isinstance(world.error(write), errors.OutcomeUnknown)
    assert world.error(write).code == pb.Code.Name(code)
    world.pass_ms(100)
    assert len(world.sent) == 3
    world.answer(each(reply(data=b"x")))
    assert isinstance(world.ended[read], wire.Outcome)


def test_a_read_whose_link_is_lost_is_asked_at_the_next_node() -> None:
    world = connected(A, B)
    call = world.call(READ)
    world.turn()
    world.down(world.sent[-1][0])
    link = world.up(B)
    assert world.sent[-1][0] == link
    world.answer(each(reply()))
    assert isinstance(world.ended[call], wire.Outcome)


def test_pitfall_53_a_write_in_a_session_is_repeated_as_the_same_bytes() -> None:
    world = connected(A, B)
    mark = wire.SessionMark(session=5, sequence=1, acknowledged=0)
    request = wire.encode_write("PUT", "k", b"v", mark=mark)
    call = Call(
        "kv", WRITE, request, deadline_ms=9_000, repeatable=True, on_done=lambda verdict: None
    )
    world.engine.submit(call)
    world.turn()
    world.down(world.sent[-1][0])
    world.up(B)
    first, second = (it[3].requests[0] for it in world.sent)
    assert (second.session, second.sequence, second.write) == (5, 1, first.write)
    world.answer(each(reply(index=4)))
    assert isinstance(world.ended[call], wire.Outcome)


def test_a_definite_refusal_of_a_repeat_does_not_make_the_first_attempt_definite() -> None:
    world = connected(A, B)
    call = world.call(WRITE, repeatable=True, timeout_ms=1_000)
    world.turn()
    world.down(world.sent[-1][0])
    world.up(B)
    world.answer(whole(reply(pb.SESSION_EXPIRED)))
    error = world.error(call)
    assert (type(error), error.code) == (errors.OutcomeUnknown, "SESSION_EXPIRED")


def test_a_machines_no_to_a_repeat_is_its_no_to_the_command() -> None:
    world = connected(A, B)
    call = world.call(WRITE, repeatable=True)
    world.turn()
    world.down(world.sent[-1][0])
    world.up(B)
    world.answer(each(reply(pb.REJECTED, index=6)))
    assert isinstance(world.error(call), errors.Rejected)


def test_a_reply_that_makes_no_sense_leaves_a_write_unknown() -> None:
    world = connected()
    calls = [world.call(WRITE), world.call(WRITE)]
    world.turn()
    world.answer(each(reply()))  # one reply to two requests
    assert [type(world.error(call)) for call in calls] == [errors.OutcomeUnknown] * 2
    assert world.engine.bad_replies_count == 1
    call = world.call(WRITE)
    world.turn()
    world.answer(b"\xff\xff\xff")
    assert isinstance(world.error(call), errors.OutcomeUnknown)


# -- silence and deadlines -----------------------------------------------------------------------


def test_a_silent_node_costs_one_deadline_then_the_next_node_is_asked() -> None:
    world = connected(A, B)
    world.pass_ms(5)
    call = world.call(WRITE, timeout_ms=1_000)
    world.turn()
    link = world.sent[-1][0]
    world.pass_ms(1_000)
    assert call not in world.ended, "the server's own answer at the deadline is worth the grace"
    world.pass_ms(ClientSettings().reply_grace_ms)
    error = world.error(call)
    assert (type(error), error.code) == (errors.OutcomeUnknown, "TIMEOUT")
    assert link in world.closed, "its socket is made anew"
    world.call(WRITE, "next")
    world.turn()
    assert (world.up(B), world.keys()) == (world.sent[-1][0], ["next"])


def test_what_else_is_in_flight_to_a_silent_node_may_still_be_answered() -> None:
    world = connected(A, B)
    world.pass_ms(5)
    world.call(WRITE, "impatient", timeout_ms=500)
    world.turn()
    patient = world.call(WRITE, "patient", timeout_ms=20_000)
    world.turn()
    link = world.sent[-1][0]
    world.pass_ms(800)
    assert link not in world.closed
    world.answer(each(reply(index=5)))
    assert isinstance(world.ended[patient], wire.Outcome)
    assert link in world.closed


def test_a_read_given_back_by_its_neighbours_deadline_still_has_its_own() -> None:
    world = connected(A, B)
    world.pass_ms(5)
    first = world.call(READ, timeout_ms=10_000)
    second = world.call(READ, timeout_ms=11_000)
    world.turn()
    world.pass_ms(10_300)
    assert isinstance(world.error(first), errors.TimedOut)
    world.up(B)
    assert (len(world.sent), second in world.ended) == (2, False)
    world.pass_ms(1_000)
    assert isinstance(world.error(second), errors.TimedOut)


def test_a_reply_after_the_end_of_its_call_is_nobodys() -> None:
    world = connected()
    world.pass_ms(5)
    world.call(WRITE, "slow", timeout_ms=100)
    world.turn()
    other = world.call(WRITE, timeout_ms=20_000)
    world.turn()
    world.pass_ms(400)
    world.answer(each(reply()), 0)
    assert world.engine.stray_replies_count == 1
    world.answer(each(reply()), 1)
    assert isinstance(world.ended[other], wire.Outcome)


def test_a_reply_over_another_link_is_nobodys() -> None:
    world = connected(A, B)
    call = world.call(WRITE)
    world.turn()
    correlation = world.sent[-1][1]
    other = world.call(READ, address=B)
    world.turn()
    link = world.up(B)
    world.engine.on_message(link, [correlation, each(reply()).SerializeToString()], world.now)
    world.engine.on_message(link, [b"x"], world.now)
    world.take()
    assert call not in world.ended
    assert other not in world.ended
    assert world.engine.stray_replies_count == 2


# -- links ---------------------------------------------------------------------------------------


def test_nothing_is_sent_before_a_connection_stands() -> None:
    world = World(A)
    call = world.call(WRITE)
    world.turn()
    assert (list(world.links.values()), world.sent) == ([A], [])
    world.up(A)
    assert len(world.sent) == 1
    assert call not in world.ended


def test_a_node_that_refuses_connections_is_left_for_the_next_and_nothing_is_unknown() -> None:
    world = World(A, B)
    call = world.call(WRITE)
    world.turn()
    world.down(1)
    world.up(B)
    world.answer(each(reply()))
    assert isinstance(world.ended[call], wire.Outcome)


def test_a_node_that_does_not_connect_in_time_is_left_for_the_next() -> None:
    world = World(A, B)
    world.call(WRITE)
    world.turn()
    world.pass_ms(ClientSettings().connect_wait_ms)
    assert list(world.links.values()) == [B]


def test_when_no_node_can_be_reached_a_write_fails_definitely_at_its_deadline() -> None:
    world = World(A, B)
    call = world.call(WRITE, timeout_ms=5_000)
    world.turn()
    attempts = 0
    while call not in world.ended:
        for number in list(world.links):
            attempts += 1
            world.down(number)
        world.pass_ms(10)
    error = world.error(call)
    assert (type(error), error.definite, world.now) == (errors.Unreachable, True, 6_000)
    assert 8 <= attempts <= 40, "paused between attempts"


def test_a_send_that_the_socket_refused_is_tried_again_since_it_never_left() -> None:
    world = connected()
    call = world.call(WRITE)
    world.turn()
    number, correlation, _, _ = world.sent[-1]
    world.engine.on_send_refused(number, correlation, world.now)
    world.pass_ms(100)
    assert len(world.sent) == 2
    world.answer(each(reply()))
    assert isinstance(world.ended[call], wire.Outcome)


def test_messages_lost_with_a_link_are_repeated_in_their_order() -> None:
    world = connected(A, B, settings=ClientSettings(batch_requests_max=1))
    for key in "abc":
        world.call(WRITE, key, repeatable=True)
    world.turn()
    world.down(world.sent[-1][0])
    world.up(B)
    assert [world.keys(number) for number in (3, 4, 5)] == [["a"], ["b"], ["c"]]


def test_the_address_of_a_lost_leader_is_forgotten() -> None:
    world = connected(A)
    world.call(WRITE)
    world.turn()
    world.answer(each(reply(leader_address=C)))
    world.call(WRITE)
    world.turn()
    world.answer(each(reply()))
    world.down(world.up(C))
    world.pass_ms(5_000)
    world.call(WRITE)
    world.turn()
    assert world.links[world.sent[-1][0]] == A


def test_a_question_to_one_node_is_not_asked_at_another() -> None:
    world = connected(A, B)
    call = world.call(ADMIN, "status", address=B, repeatable=True, timeout_ms=3_000)
    world.turn()
    while call not in world.ended:
        for number, address in list(world.links.items()):
            if address == B:
                world.down(number)
        world.pass_ms(10)
    assert isinstance(world.error(call), errors.Unreachable)
    assert not world.sent


# -- limits and the end --------------------------------------------------------------------------


def test_a_client_that_is_too_far_ahead_is_refused_at_once() -> None:
    world = World(A, settings=ClientSettings(pending_calls_max=2))
    world.call()
    world.call()
    with pytest.raises(errors.Busy, match="2 calls"):
        world.call()
    world = World(A, settings=ClientSettings(pending_bytes_max=10))
    with pytest.raises(errors.Busy, match="bytes"):
        world.call(WRITE, "a key of many bytes")


def test_closing_ends_what_was_sent_as_unknown_and_the_rest_definitely() -> None:
    world = connected()
    sent_write, sent_read = world.call(WRITE), world.call(READ)
    world.turn()
    queued = world.call(WRITE)
    world.engine.close()
    world.take()
    assert [type(world.error(call)) for call in (sent_write, sent_read, queued)] == [
        errors.OutcomeUnknown,
        errors.ClientClosed,
        errors.ClientClosed,
    ]
    assert not world.links
    with pytest.raises(errors.ClientClosed):
        world.call()


def test_an_idle_engine_keeps_nothing_and_asks_for_no_timer() -> None:
    world = connected()
    for group in range(50):
        world.call(WRITE, group=f"g{group}")
    world.turn()
    for message in range(50):
        world.answer(each(reply()), message)
    statistics = world.engine.statistics()
    assert (statistics["lanes"], statistics["pending_calls"], statistics["pending_bytes"]) == (
        0,
        0,
        0,
    )
    world.pass_ms(60_000)
    assert world.engine.next_deadline_ms(world.now) is None


def test_settings_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_requests_max must be"):
        ClientSettings(batch_requests_max=1025)
    with pytest.raises(ValueError, match="timeout_ms"):
        ClientSettings(timeout_ms=0)


# -- everything at once --------------------------------------------------------------------------

_CODES = [
    (pb.OK, False),
    (pb.OK, False),
    (pb.OK, False),
    (pb.REJECTED, False),
    (pb.NO_LEADER, False),
    (pb.BUSY, False),
    (pb.SHUTTING_DOWN, False),
    (pb.NOT_LEADER, True),
    (pb.TIMEOUT, False),
    (pb.TIMEOUT, True),
    (pb.UNAVAILABLE, True),
]


class Chaos(World):
    """A world that remembers, for each key, what became of each attempt to write it."""

    def __init__(self, seed: int) -> None:
        settings = ClientSettings(batch_requests_max=3, messages_in_flight_max=2)
        super().__init__(A, B, C, settings=settings)
        self.chance = random.Random(seed)
        self.open: dict[int, list[str]] = {}
        self.may_be_applied: set[str] = set()
        self.applied: set[str] = set()

    def take(self) -> Output:
        """Every message that leaves is checked: no plain write after an attempt left open."""
        before = len(self.sent)
        output = super().take()
        for position in range(before, len(self.sent)):
            keys = [key for key in self.keys(position) if key.startswith("once")]
            again = self.may_be_applied.intersection(keys)
            assert not again, f"sent again although it may be applied: {again}"
            self.may_be_applied.update(keys)
            self.open[position] = keys
        return output

    def step(self, number: int) -> None:
        """One thing happens."""
        chance = self.chance
        happening = chance.choices(
            ["call", "answer", "up", "down", "time", "refuse"], [5, 6, 3, 1, 4, 1]
        )[0]
        if happening == "call":
            kind, key = chance.choice([(WRITE, f"once{number}"), (READ, "r"), (WRITE, "again")])
            timeout_ms = chance.choice([50, 1_000, 10_000])
            self.call(kind, key, timeout_ms=timeout_ms, repeatable=not key.startswith("once"))
            self.turn()
        elif happening == "answer" and self.open:
            self.answer_some(chance.choice(list(self.open)))
        elif happening == "up":
            for link in list(self.links):
                self.engine.on_link_up(link, self.now)
            self.take()
        elif happening == "down" and self.links:
            self.down(chance.choice(list(self.links)))
        elif happening == "refuse" and self.open:
            position = chance.choice(list(self.open))
            link, correlation, _, _ = self.sent[position]
            if correlation in self.engine._messages:
                self.may_be_applied.difference_update(self.open.pop(position))
                self.engine.on_send_refused(link, correlation, self.now)
                self.take()
        else:
            self.pass_ms(chance.randint(1, 400))

    def answer_some(self, position: int) -> None:
        """A message gets a random reply."""
        code, maybe = self.chance.choice(_CODES)
        keys = self.open.pop(position)
        if self.sent[position][1] in self.engine._messages and not maybe:
            self.may_be_applied.difference_update(keys)
            if code == pb.OK:
                self.applied.update(keys)
        hint = self.chance.choice(["", A, B, C])
        self.answer(whole(reply(code, maybe=maybe, leader_address=hint)), position)


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_every_call_ends_once_and_no_write_is_risked_twice(seed: int) -> None:
    world = Chaos(seed)
    for number in range(400):
        world.step(number)
    world.pass_ms(30_000)
    statistics = world.engine.statistics()
    assert statistics["pending_calls"] == 0, "a call never ended"
    assert statistics["pending_bytes"] == 0
    assert statistics["lanes"] == 0
    for call, verdict in world.ended.items():
        key = _key_of(call)
        if isinstance(verdict, wire.Outcome) and key.startswith("once"):
            assert key in world.applied
        if isinstance(verdict, errors.PolyraftError) and verdict.definite:
            assert key not in world.may_be_applied, "called definite, yet an attempt is open"


def _key_of(call: Call) -> str:
    return pb.Request.FromString(call.request).write.key


def test_the_chaos_covers_what_it_should() -> None:
    """The random walk above must really see the verdicts that it is about."""
    seen: set[str] = set()
    for seed in range(30):
        world = Chaos(seed)
        for number in range(400):
            world.step(number)
        seen |= _names(world.ended.values())
    assert {"Outcome", "OutcomeUnknown", "Rejected", "TimedOut"} <= seen


def _names(verdicts: Iterable[object]) -> set[str]:
    return {type(verdict).__name__ for verdict in verdicts}
