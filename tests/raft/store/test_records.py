"""The bytes of records, one by one."""

from __future__ import annotations

import msgpack
import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.configuration import UnknownPart
from raft.messages import HardState, Mark, SnapshotMeta
from raft.store import records
from raft.store.records import Commit, SegmentInfo, TableRow
from tests.raft.store.kit import N1, configurations, keeps


def a_header(**changes: int) -> bytes:
    fields = {
        "kind": records.RUN,
        "run_kind": 1,
        "generation": 2,
        "count": 3,
        "group": 2**64 - 1,
        "gseq": 5,
        "term": 6,
        "first": 7,
        "length": 8,
        "body_crc": 9,
    }
    return records.encode_header(**{**fields, **changes})


def test_a_header_is_laid_out_as_documented() -> None:
    header = a_header()
    assert len(header) == records.HEADER_BYTES == 64
    assert header[:8] == b"PRwl" + bytes((1, records.RUN, 1, 0))
    numbers = [int.from_bytes(header[at : at + 4], "little") for at in (8, 12, 48, 52, 56)]
    assert numbers == [2, 3, 8, 9, 0]
    longs = [int.from_bytes(header[at : at + 8], "little") for at in (16, 24, 32, 40)]
    assert longs == [2**64 - 1, 5, 6, 7]
    assert int.from_bytes(header[60:], "little") == crc32c(header[:60])


def test_a_header_comes_back_from_any_offset() -> None:
    header = records.decode_header(b"........" + a_header(), 8)
    assert header is not None
    assert header[:11] == (1, records.RUN, 1, 2, 3, 2**64 - 1, 5, 6, 7, 8, 9)


def test_every_flipped_bit_of_a_header_is_seen() -> None:
    good = a_header()
    for position in range(len(good) * 8):
        bad = bytearray(good)
        bad[position // 8] ^= 1 << position % 8
        assert records.decode_header(bytes(bad), 0) is None, position


def test_a_header_cut_short_is_none() -> None:
    good = a_header()
    assert all(records.decode_header(good[:length], 0) is None for length in range(64))


def test_a_newer_format_is_told_before_its_header_is_checked() -> None:
    assert records.foreign_format(a_header(), 0) is None
    assert records.foreign_format(b"PRwl\x02 any layout", 0) == 2
    assert records.foreign_format(b"PRwl\x00\x00\x00\x00", 0) is None  # began to be written
    assert records.foreign_format(b"PRwl", 0) is None
    assert records.foreign_format(b"none of ours", 0) is None


@pytest.mark.parametrize("state", [HardState(), HardState(7), HardState(2**64 - 1, N1)])
def test_a_hard_state_comes_back(state: HardState) -> None:
    assert records.decode_hard_state(records.encode_hard_state(state)) == state


def test_a_commit_frame_comes_back_and_ends_in_a_byte_that_is_not_zero() -> None:
    commit = Commit(9, 0xABC, 1, 2, {5: 10, 2**64 - 1: 0})
    body = records.encode_commit(commit)
    assert len(body) == records.COMMIT_BODY_BYTES_MIN + 2 * 16
    assert len(body) % records.ALIGNMENT_BYTES == 0  # so nothing follows its end mark
    assert body[-1] != 0
    assert records.decode_commit(body) == commit


def test_a_commit_frame_is_laid_out_as_documented() -> None:
    body = records.encode_commit(Commit(9, 0xABC, 1, 2, {5: 10, 2**64 - 1: 0}))
    assert len(body) == 32 + 2 * 16 + 8
    longs = [int.from_bytes(body[at : at + 8], "little") for at in (0, 8, 32, 40, 48, 56)]
    assert longs == [9, 0xABC, 5, 10, 2**64 - 1, 0]
    numbers = [int.from_bytes(body[at : at + 4], "little") for at in (16, 20, 24, 28)]
    assert numbers == [1, 2, 2, 0]
    assert body[-8:] == b"PRcommit"


def test_what_opens_a_segment_is_laid_out_as_documented() -> None:
    row = records.TableRow(2, 3, 4, N1, 5, 6, "why", 1)
    info = records.SegmentInfo(7, 8, 9, 10, 11, 12, {13: row}, 14, 15)
    body = records.encode_segment(info, 4096)
    assert len(body) + records.HEADER_BYTES == 4096
    *fields, filling = msgpack.unpackb(body)
    table = [[13, 2, 3, 4, N1.node, N1.incarnation, 5, 6, "why", 1]]
    assert fields == [7, 8, 9, 10, 11, 12, table, 14, 15]
    assert set(filling) == {0xFF}


HEADERS = [
    records.encode_header(records.RUN, 1, 1, 1, 7, gseq, 1, gseq, 3, 0xABC) for gseq in range(1, 6)
]


@pytest.mark.parametrize(
    "others",
    [
        HEADERS[:-1],
        HEADERS[1:],
        [],
        [*HEADERS, HEADERS[-1]],
        HEADERS[::-1],
        [HEADERS[1], HEADERS[0], *HEADERS[2:]],
        [a_header(), *HEADERS[1:]],
    ],
    ids=["last lost", "first lost", "all lost", "one twice", "reversed", "two swapped", "changed"],
)
def test_the_checksum_over_headers_tells_whichever_of_them_changes(others: list[bytes]) -> None:
    """One over whole headers would not: each ends in its own checksum, so all are alike to it."""
    assert records.crc_of_headers(others) != records.crc_of_headers(HEADERS)


@given(st.integers(0, len(HEADERS) - 1), st.integers(0, 59), st.integers(1, 255))
def test_the_checksum_over_headers_tells_a_header_that_was_sealed_anew(
    position: int, offset: int, change: int
) -> None:
    changed = bytearray(HEADERS[position])
    changed[offset] ^= change
    changed[60:] = crc32c(bytes(changed[:60])).to_bytes(4, "little")
    others = [*HEADERS[:position], bytes(changed), *HEADERS[position + 1 :]]
    assert records.crc_of_headers(others) != records.crc_of_headers(HEADERS)


def test_a_segments_opening_comes_back() -> None:
    table = {
        1: TableRow(1, 5, 3, N1, 0, 17, None, 4),
        900: TableRow(2, 1, 0, None, 0, 0, "gone", 0),
    }
    info = SegmentInfo(3, 0xABC, 0xABB, 777, 12, 4, table, 0xD15C, 2)
    assert records.decode_segment(records.encode_segment(info)) == info


U64 = st.integers(0, 2**64 - 1)
MARKS = st.builds(
    Mark,
    st.builds(SnapshotMeta, U64, U64, configurations(), U64, U64, U64, U64),
    U64,
    U64,
    st.booleans(),
)


def read_mark(mark: Mark, body: bytes) -> Mark:
    """As recovery does, with the index and term that the header of the record has."""
    raw = a_header(kind=records.SNAPSHOT, term=mark.snapshot.term, first=mark.snapshot.index)
    header = records.decode_header(raw, 0)
    assert header is not None
    return records.decode_mark(header, body)


@given(MARKS)
@settings(max_examples=100)
def test_a_mark_comes_back_from_its_header_and_body(mark: Mark) -> None:
    assert read_mark(mark, records.encode_mark(mark)) == mark


@given(MARKS, st.data())
@settings(max_examples=200)
def test_a_mark_with_a_changed_byte_is_a_mark_or_a_value_error(
    mark: Mark, data: st.DataObject
) -> None:
    body = bytearray(records.encode_mark(mark))
    body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_mark(mark, bytes(body))
    except ValueError:
        pass


def test_a_mark_is_laid_out_as_documented() -> None:
    body = msgpack.packb([3, 1, False, [["n1", 0x11, 1]], 5, 6, 7, 8, "a newer version's"])
    mark = read_mark(keeps(4, 3, term=2), body)
    assert (mark.snapshot.index, mark.snapshot.term) == (4, 2)  # of the header
    assert (mark.base_index, mark.base_term, mark.resets) == (3, 1, False)
    snapshot = mark.snapshot
    assert snapshot.configuration.voters == {N1}
    numbers = (snapshot.time_ms, snapshot.machine_version, snapshot.size_bytes, snapshot.crc)
    assert numbers == (5, 6, 7, 8)


@pytest.mark.parametrize(
    ("position", "value"),
    [(0, -1), (0, "1"), (1, None), (2, 0), (2, 1), (3, []), (3, None), (4, 1.0), (7, -1)],
)
def test_a_mark_with_a_field_of_another_type_is_a_value_error(position: int, value: object) -> None:
    fields: list[object] = [3, 1, False, [["n1", 0x11, 1]], 5, 6, 7, 8]
    fields[position] = value
    with pytest.raises(ValueError):
        read_mark(keeps(4, 3), msgpack.packb(fields))


def test_a_mark_of_a_newer_versions_configuration_is_told_apart() -> None:
    fields = [3, 1, False, [["n1", 0x11, 1], ["n2", 0x22, 3]], 5, 6, 7, 8]
    with pytest.raises(UnknownPart):
        read_mark(keeps(4, 3), msgpack.packb(fields))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x93\xff\xc0\x00",
        b"\x93\x01\x02\x00",
        b"\x92\x01\xc0",
        b"\x97\x01\x02\x00\x00\x00\x00\x00",
        b"\x97\x01\x02\x00\x00\x00\x00\x91\x91\x01",
    ],
)
def test_other_bytes_are_a_value_error(body: bytes) -> None:
    for decode in (records.decode_hard_state, records.decode_commit, records.decode_segment):
        with pytest.raises(ValueError):
            decode(body)
    with pytest.raises(ValueError):
        read_mark(keeps(4, 3), body)


def test_a_commit_frame_of_the_wrong_length_is_a_value_error() -> None:
    body = records.encode_commit(Commit(1, 1, 0, 0, {5: 1}))
    with pytest.raises(ValueError, match="bytes for"):
        records.decode_commit(body[:-24] + records.END_MARK)
