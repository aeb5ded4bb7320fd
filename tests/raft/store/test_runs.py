"""The body of a run: what goes in comes out, and nothing else does."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.configuration import Configuration, UnknownPart
from raft.messages import COMMAND, CONFIG, KINDS, NOOP, Replica, Run
from raft.store.errors import DamagedRun, UnknownRun
from raft.store.runs import (
    check_run,
    decode_run,
    encode_configuration,
    encode_configuration_run,
    encode_run,
    open_run,
    read_configuration,
)
from tests.raft.store.kit import configurations

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
@settings(max_examples=200)
def test_decoding_is_total(data: bytes) -> None:
    try:
        decode_run(data)
    except DamagedRun:
        pass


@given(U64, U64, st.lists(st.tuples(U64, U64, U64, st.binary(max_size=20)), min_size=1, max_size=5))
@settings(max_examples=50)
def test_any_numbers_of_64_bits_fit(
    term: int, first: int, commands: list[tuple[int, int, int, bytes]]
) -> None:
    run = encode_run(COMMAND, term, first, time_ms=0, wall_ms=0, commands=commands)
    assert open_run(run).commands == [list(command) for command in commands]


@given(st.data())
@settings(max_examples=100)
def test_decoding_a_run_with_a_changed_byte_is_total(data: st.DataObject) -> None:
    run = encode_run(COMMAND, 1, 1, time_ms=9, wall_ms=9, commands=[(1, 2, 1, b"abcdef")] * 3)
    body = bytearray(run.body)
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode_run(bytes(body))
    except DamagedRun:
        pass


# --------------------------------------------------------------------------- configurations

N1, N2, N3 = (Replica(f"n{number}", number) for number in (1, 2, 3))


def a_config_run(data: bytes) -> Run:
    return encode_run(CONFIG, 2, 9, time_ms=1, wall_ms=1, commands=[(0, 0, 0, data)])


@given(configurations(), U64, U64)
@settings(max_examples=100)
def test_any_configuration_comes_back(configuration: Configuration, term: int, first: int) -> None:
    run = encode_configuration_run(term, first, configuration, 5, 6)
    assert (run.kind, run.term, run.first, run.count) == (CONFIG, term, first, 1)
    body = open_run(run)
    assert (body.time_ms, body.wall_ms) == (5, 6)
    assert body.commands == [[0, 0, 0, encode_configuration(configuration)]]
    assert read_configuration(run) == configuration


def test_a_configuration_is_the_list_of_its_members_in_order() -> None:
    joint = Configuration.of(N3, N1).enter(frozenset((N3, N2)), frozenset((N1,)))
    members = [["n1", 1, 6], ["n2", 2, 4], ["n3", 3, 1]]  # demoted, incoming, voter
    assert msgpack.unpackb(encode_configuration(joint)) == members


def test_new_fields_of_a_member_are_left_to_who_knows_them() -> None:
    data = msgpack.packb([["n1", 1, 1, "zone a"]])
    assert read_configuration(a_config_run(data)) == Configuration.of(N1)


def test_a_part_of_a_newer_version_is_told_apart_from_damage() -> None:
    with pytest.raises(UnknownPart):
        read_configuration(a_config_run(msgpack.packb([["n1", 1, 1], ["n2", 2, 3]])))


@pytest.mark.parametrize(
    "members",
    [
        [],
        7,
        {},
        ["n1"],
        [["n1", 1]],
        [[b"n1", 1, 1]],
        [["n1", -1, 1]],
        [["n1", True, 1]],
        [["n1", 1, True]],
        [["n1", 1, []]],
        [["n1", 1, 2]],
        [["n1", 1, 1], ["n1", 1, 1]],
        [["n1", 1, 5]],
    ],
    ids=[
        "nobody",
        "a number",
        "a map",
        "a name",
        "no part",
        "a node of bytes",
        "an incarnation below zero",
        "an incarnation that is none",
        "a part that is true",
        "a part that is a list",
        "no voter",
        "one replica twice",
        "an old half without a new one",
    ],
)
def test_what_can_be_no_configuration_is_damage(members: object) -> None:
    with pytest.raises(DamagedRun):
        read_configuration(a_config_run(msgpack.packb(members)))


def test_only_a_config_run_of_one_command_is_read_as_a_configuration() -> None:
    data = encode_configuration(Configuration.of(N1))
    two = encode_run(CONFIG, 2, 9, time_ms=1, wall_ms=1, commands=[(0, 0, 0, data)] * 2)
    other = encode_run(COMMAND, 2, 9, time_ms=1, wall_ms=1, commands=[(0, 0, 0, data)])
    relabelled = Run(CONFIG, 2, 9, 1, other.body, other.crc)
    one = a_config_run(data)
    of_another_term = Run(CONFIG, 3, 9, 1, one.body, one.crc)
    for run in (two, other, relabelled, of_another_term):
        with pytest.raises(DamagedRun):
            read_configuration(run)


@given(st.binary(max_size=60))
@settings(max_examples=200)
def test_reading_a_configuration_is_total(data: bytes) -> None:
    try:
        read_configuration(a_config_run(data))
    except (DamagedRun, UnknownPart):
        pass


@given(configurations(), st.data())
@settings(max_examples=100)
def test_reading_a_configuration_with_a_changed_byte_is_total(
    configuration: Configuration, data: st.DataObject
) -> None:
    changed = bytearray(encode_configuration(configuration))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_configuration(a_config_run(bytes(changed)))
    except (DamagedRun, UnknownPart):
        pass
