"""What a group answers, as bytes."""

from __future__ import annotations

import msgpack

from actors.machine import ANSWER_BYTES_MAX, Answered
from actors.machines import DONE, Response
from actors.replies import ReplyEncoder
from transport import protocol
from transport.client import wire

ADDRESS = "tcp://127.0.0.1:7001"


def encoder() -> ReplyEncoder:
    return ReplyEncoder("n1", ADDRESS)


def test_the_leader_tells_where_it_is_reached_in_every_answer() -> None:
    payloads = [
        encoder().writes(5, [DONE]),
        encoder().writes(5, [Response(b"data")]),
        encoder().writes(5, [Response.refuse("no")]),
        encoder().reads("n1", Answered(None, 5, [Response(b"data")])),
        encoder().whole("n1", protocol.BUSY, "too much"),
    ]
    for payload in payloads:
        (outcome,) = wire.decode_replies(payload, 1)
        assert (outcome.leader, outcome.leader_address) == ("n1", ADDRESS)


def test_of_another_leader_only_the_name_is_known_here() -> None:
    (outcome,) = wire.decode_replies(encoder().whole("n2", protocol.NOT_LEADER, "moved"), 1)
    assert (outcome.leader, outcome.leader_address) == ("n2", "")


def test_writes_have_consecutive_indexes_and_each_its_own_outcome() -> None:
    outcomes = wire.decode_replies(
        encoder().writes(9, [DONE, Response.refuse("differs"), Response(b"3")]), 3
    )
    assert [(each.code, each.index) for each in outcomes] == [
        (protocol.OK, 9),
        (protocol.REJECTED, 10),
        (protocol.OK, 11),
    ]


def test_the_catalog_answers_admins_in_json() -> None:
    payload = encoder().writes(4, [Response(msgpack.packb({"id": 4}))], as_json=True)
    (outcome,) = wire.decode_replies(payload, 1)
    assert outcome.data == b'{"id": 4}'


def test_answers_that_fit_into_no_frame_are_unknown_and_say_that_the_writes_were_applied() -> None:
    half = Response(bytes(ANSWER_BYTES_MAX // 2))
    (first, second) = wire.decode_replies(encoder().writes(7, [half, half]), 2)
    assert (first.code, first.maybe_applied) == (protocol.INTERNAL, True)
    assert "applied" in first.error_text
    assert second.code == protocol.INTERNAL


def test_reads_that_the_machine_could_not_answer() -> None:
    (outcome,) = wire.decode_replies(encoder().reads("n1", Answered(None, 5, [], "broken")), 1)
    assert outcome.code == protocol.INTERNAL
    too_large = Answered(None, 5, [], too_large=True)
    (outcome,) = wire.decode_replies(encoder().reads("n1", too_large), 1)
    assert outcome.code == protocol.REJECTED
