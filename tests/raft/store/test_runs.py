"""The body of a run: what goes in comes out, and nothing else does."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.messages import COMMAND, KINDS, NOOP, Run
from raft.store.errors import DamagedRun, UnknownRun
from raft.store.runs import check_run, decode_run, encode_run, open_run

U64 = st.integers(0, 2**64 - 1)


def test_commands_come_back_as_they_were() -> None:
    commands = [(0, 0, 0, b""), (2**64 - 1, 5, 4, b"\x00\xff"), [7, 1, 0, b"x" * 70_000]]
    run = encode_run(COMMAND, 3, 10, time_ms=5, wall_ms=6, commands=commands)
    assert (run.kind, run.term, run.first, run.count, run.last) == (COMMAND, 3, 10, 3, 12)
    body = decode_run(run.body)
    assert (body.kind, body.flags, body.term, body.first) == (COMMAND, 0, 3, 10)
    assert (body.time_ms, body.wall_ms) == (5, 6)
    assert body.commands == [list(command) for command in commands]
    assert open_run(run) == body


def test_a_noop_is_one_entry_without_a_command() -> None:
    run = encode_run(NOOP, 1, 1, time_ms=0, wall_ms=0, commands=[])
    assert run.count == 1
    assert decode_run(run.body).commands == []
    assert open_run(run).kind == NOOP


@pytest.mark.parametrize("kind", sorted(KINDS - {NOOP}))
def test_every_other_kind_holds_a_payload_per_entry(kind: int) -> None:
    run = encode_run(kind, 2, 9, time_ms=1, wall_ms=1, commands=[(0, 0, 0, b"payload")])
    assert run.count == 1
    assert open_run(run).commands == [[0, 0, 0, b"payload"]]


def test_the_leaders_crc_tells_a_changed_body() -> None:
    run = encode_run(COMMAND, 1, 1, time_ms=0, wall_ms=0, commands=[(0, 0, 0, b"data")])
    assert check_run(run)
    run.body = run.body.replace(b"data", b"date")
    assert not check_run(run)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        {},
        7,
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 1, 0, 0, []],
        [0, 0, 1, 1, 0, 0, [[0, 0, 0, b""]]],
        [1, 0, -1, 1, 0, 0, [[0, 0, 0, b""]]],
        [1, 0, True, 1, 0, 0, [[0, 0, 0, b""]]],
        [1, 0, 1.0, 1, 0, 0, [[0, 0, 0, b""]]],
        [1, 0, 1, 1, 0, 0, [[0, 0, b""]]],
        [1, 0, 1, 1, 0, 0, [[0, 0, 0, "text"]]],
        [1, 0, 1, 1, 0, 0, [[0, -1, 0, b""]]],
        [1, 0, 1, 1, 0, 0, [b"x"]],
    ],
)
def test_another_shape_is_damage(fields: object) -> None:
    with pytest.raises(DamagedRun):
        decode_run(msgpack.packb(fields))


@pytest.mark.parametrize("fields", [[99, 0], [1, 4]])
def test_a_newer_versions_kind_or_flag_is_told_apart_from_damage(fields: list[int]) -> None:
    with pytest.raises(UnknownRun):
        decode_run(msgpack.packb([*fields, 1, 1, 0, 0, [[0, 0, 0, b""]]]))


def test_new_fields_at_the_end_are_left_to_who_knows_them() -> None:
    body = msgpack.packb([1, 0, 1, 1, 0, 0, [[0, 0, 0, b"", "new"]], "newer"])
    assert decode_run(body).commands[0][:4] == [0, 0, 0, b""]


def test_a_header_that_says_something_else_than_the_body_is_damage() -> None:
    run = encode_run(COMMAND, 1, 5, time_ms=0, wall_ms=0, commands=[(0, 0, 0, b"")])
    for other in (
        Run(6, 1, 5, 1, run.body, run.crc),
        Run(COMMAND, 2, 5, 1, run.body, run.crc),
        Run(COMMAND, 1, 6, 1, run.body, run.crc),
        Run(COMMAND, 1, 5, 2, run.body, run.crc),
    ):
        with pytest.raises(DamagedRun):
            open_run(other)


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_decoding_is_total(data: bytes) -> None:
    try:
        decode_run(data)
    except DamagedRun:
        pass


@given(U64, U64, st.lists(st.tuples(U64, U64, U64, st.binary(max_size=20)), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_any_numbers_of_64_bits_fit(
    term: int, first: int, commands: list[tuple[int, int, int, bytes]]
) -> None:
    run = encode_run(COMMAND, term, first, time_ms=0, wall_ms=0, commands=commands)
    assert open_run(run).commands == [list(command) for command in commands]


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_decoding_a_run_with_a_changed_byte_is_total(data: st.DataObject) -> None:
    run = encode_run(COMMAND, 1, 1, time_ms=9, wall_ms=9, commands=[(1, 2, 1, b"abcdef")] * 3)
    body = bytearray(run.body)
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_run(bytes(body))
    except DamagedRun:
        pass
