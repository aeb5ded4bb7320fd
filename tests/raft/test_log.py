"""The log of runs: where it cuts, what it finds, and what it refuses to do."""

from __future__ import annotations

import pytest

from raft.log import Log
from raft.messages import COMMAND, Run


def run(first: int, count: int, term: int, size_bytes: int = 10) -> Run:
    return Run(COMMAND, term, first, count, b"x" * size_bytes, 0)


def log() -> Log:
    """1..3 of term 1, 4 of term 1, 5..9 of term 3, 10..11 of term 6."""
    return Log([run(1, 3, 1), run(4, 1, 1), run(5, 5, 3), run(10, 2, 6)])


def test_an_empty_log_ends_before_its_first_index() -> None:
    empty = Log()
    assert (empty.first_index, empty.last_index, empty.last_term) == (1, 0, 0)
    assert empty.term_at(0) == 0
    assert empty.term_at(1) is None
    assert empty.slice(1, 100) == []
    assert empty.between(1, 0) == []
    assert empty.is_border(0)
    assert empty.tail(3) == []


def test_a_log_behind_a_snapshot_knows_the_term_of_its_base() -> None:
    short = Log([run(6, 2, 4)], base_index=5, base_term=3)
    assert (short.base_index, short.first_index, short.last_index) == (5, 6, 7)
    assert [short.term_at(index) for index in (4, 5, 6, 7, 8)] == [None, 3, 4, 4, None]
    assert short.agreement(4, 9) == (5, 3)
    assert short.agreement(7, 2) == (5, 3)
    assert short.border_at_or_before(3) == 5


@pytest.mark.parametrize(
    ("index", "term"), [(0, 0), (1, 1), (3, 1), (4, 1), (5, 3), (9, 3), (10, 6), (11, 6)]
)
def test_every_entry_has_the_term_of_its_run(index: int, term: int) -> None:
    assert log().term_at(index) == term


def test_entries_beyond_the_end_have_no_term() -> None:
    assert log().term_at(12) is None
    assert log().run_containing(12) is None
    assert log().run_containing(0) is None


def test_only_the_end_of_a_run_is_a_border() -> None:
    borders = [index for index in range(12) if log().is_border(index)]
    assert borders == [0, 3, 4, 9, 11]
    assert [log().border_at_or_before(index) for index in (0, 2, 3, 4, 8, 9, 10, 11, 99)] == [
        0,
        0,
        3,
        4,
        4,
        9,
        9,
        11,
        11,
    ]


def test_an_append_continues_without_a_hole() -> None:
    filled = log()
    filled.append([run(12, 1, 6), run(13, 2, 7)])
    assert (filled.last_index, filled.last_term, filled.run_count) == (14, 7, 6)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (run(13, 1, 6), "run starts at 13, the log ends at 11"),
        (run(11, 1, 6), "run starts at 11, the log ends at 11"),
        (run(12, 1, 5), "run of term 5 at 12 after term 6"),
        (run(12, 0, 6), "empty run at 12"),
    ],
)
def test_a_hole_an_overlap_and_a_falling_term_are_errors_of_ours(wrong: Run, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        log().append([wrong])


def test_a_cut_at_a_border_removes_whole_runs() -> None:
    cut = log()
    cut.truncate_from(5)
    assert (cut.last_index, cut.last_term, cut.run_count) == (4, 1, 2)
    cut.truncate_from(1)
    assert (cut.last_index, cut.last_term) == (0, 0)
    cut.append([run(1, 1, 9)])
    assert cut.term_at(1) == 9


@pytest.mark.parametrize("index", [0, 2, 6, 11, 12])
def test_a_cut_inside_a_run_or_outside_the_log_is_an_error_of_ours(index: int) -> None:
    with pytest.raises(AssertionError, match=f"cannot cut at {index}"):
        log().truncate_from(index)


def test_a_slice_is_bounded_by_bytes_but_never_empty() -> None:
    filled = log()
    assert [each.first for each in filled.slice(1, 30)] == [1, 4, 5]
    assert [each.first for each in filled.slice(1, 29)] == [1, 4]
    assert [each.first for each in filled.slice(4, 1)] == [4]
    assert [each.first for each in filled.slice(10, 1_000)] == [10]
    assert filled.slice(12, 1_000) == []
    with pytest.raises(AssertionError, match="no run starts at 2"):
        filled.slice(2, 100)


def test_between_gives_exactly_the_runs_of_a_stretch() -> None:
    filled = log()
    assert [each.first for each in filled.between(4, 9)] == [4, 5]
    assert filled.between(4, 3) == []
    with pytest.raises(AssertionError, match="8 lies inside a run"):
        filled.between(4, 8)


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [
        (11, 6, (11, 6)),
        (11, 5, (9, 3)),  # the entries of term 6 cannot agree
        (11, 3, (9, 3)),
        (11, 2, (4, 1)),
        (7, 3, (7, 3)),
        (7, 9, (7, 3)),
        (3, 1, (3, 1)),
        (11, 0, (0, 0)),
        (0, 9, (0, 0)),
        (99, 9, (11, 6)),  # the log is shorter than that
    ],
)
def test_agreement_skips_all_entries_of_higher_terms(
    index: int, term: int, found: tuple[int, int]
) -> None:
    assert log().agreement(index, term) == found


def test_the_tail_is_at_most_the_last_runs() -> None:
    assert [each.first for each in log().tail(2)] == [5, 10]
    assert len(log().tail(99)) == 4


# --------------------------------------------------------------------------- compaction


def test_a_log_is_compacted_up_to_a_border_and_knows_its_term() -> None:
    filled = log()
    filled.compact_to(4)
    assert (filled.base_index, filled.base_term, filled.first_index) == (4, 1, 5)
    assert [filled.term_at(index) for index in (3, 4, 5)] == [None, 1, 3]
    filled.compact_to(4)
    filled.compact_to(11)
    assert (filled.base_index, filled.last_index, filled.last_term, filled.run_count) == (
        11,
        11,
        6,
        0,
    )
    filled.append([run(12, 1, 6)])
    assert filled.last_index == 12


@pytest.mark.parametrize(("index", "text"), [(2, "inside a run"), (12, "cannot compact to 12")])
def test_a_log_is_not_compacted_inside_a_run_nor_beyond_its_end(index: int, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        log().compact_to(index)


def test_what_is_compacted_is_not_compacted_again() -> None:
    filled = log()
    filled.compact_to(9)
    with pytest.raises(AssertionError, match=r"cannot compact to 4: the log has 10\.\.11"):
        filled.compact_to(4)
    with pytest.raises(AssertionError, match="cannot cut at 9"):
        filled.truncate_from(9)


def test_a_log_begins_anew_behind_a_snapshot() -> None:
    filled = log()
    filled.reset(20, 9)
    assert (filled.base_index, filled.last_index, filled.last_term) == (20, 20, 9)
    assert (filled.run_count, filled.term_at(20), filled.term_at(11)) == (0, 9, None)
    filled.append([run(21, 2, 9)])
    assert filled.border_at_or_before(22) == 22
    assert filled.border_at_or_before(21) == 20
    assert filled.is_border(20)


def test_the_base_of_a_log_that_lost_nothing_is_no_entry() -> None:
    for base_index, base_term in ((0, 3), (3, 0)):
        with pytest.raises(AssertionError, match="belong together"):
            Log(base_index=base_index, base_term=base_term)
    for index, term in ((0, 1), (1, 0)):
        with pytest.raises(AssertionError):
            log().reset(index, term)


# --------------------------------------------------------------------------- released bodies

RUNS = [run(1, 3, 1), run(4, 1, 1), run(5, 5, 3), run(10, 2, 6), run(12, 4, 6), run(16, 1, 7)]


def answers(it: Log) -> list[object]:
    """All that needs no body."""
    found: list[object] = [it.first_index, it.last_index, it.last_term, it.run_count]
    for index in range(20):
        found += [it.term_at(index), it.is_border(index), it.border_at_or_before(index)]
        found += [it.agreement(index, term) for term in range(9)]
        own = it.run_containing(index)
        if own is not None:
            found.append((own.kind, own.term, own.first, own.last, own.size_bytes, own.crc))
    return found


@pytest.mark.parametrize("index", [3, 4, 9, 11, 15, 16])
def test_a_log_without_its_old_bodies_answers_as_before(index: int) -> None:
    whole, it = Log(RUNS), Log(RUNS)
    it.release(index, 0)
    assert it.held_bytes == 10 * len([run for run in RUNS if run.last >= index])
    assert it.released_index == max([0, *(run.last for run in RUNS if run.last < index)])
    assert answers(it) == answers(whole)
    shapes = it.shapes(1, 16)
    assert [(each.first, each.last, each.size_bytes) for each in shapes] == [
        (each.first, each.last, 10) for each in RUNS
    ]


def test_no_more_is_released_than_has_to_be() -> None:
    it = Log(RUNS)
    it.release(16, 60)
    assert it.released_index == 0
    it.release(16, 35)
    assert (it.released_index, it.held_bytes) == (9, 30)
    it.release(11, 0)
    assert (it.released_index, it.held_bytes) == (9, 30), "not the run that ends there"


def test_what_is_behind_released_bodies_goes_on_as_ever() -> None:
    it = Log(RUNS)
    it.release(11, 0)
    assert it.slice(10, 1_000) == RUNS[3:]
    assert it.between(10, 15) == RUNS[3:5]
    it.truncate_from(12)
    assert (it.last_index, it.last_term, it.held_bytes) == (11, 6, 10)
    assert it.last_run == RUNS[3]
    it.append([run(12, 1, 9)])
    assert (it.run_count, it.held_bytes, it.term_at(12)) == (5, 20, 9)
    it.compact_to(4)
    assert (it.first_index, it.released_index, it.run_count) == (5, 9, 3)
    assert it.term_at(7) == 3
    it.compact_to(11)
    assert (it.first_index, it.released_index, it.held_bytes) == (12, 11, 10)
    it.reset(40, 9)
    assert (it.last_index, it.released_index, it.held_bytes, it.run_count) == (40, 40, 0, 0)


def test_a_body_that_was_released_is_not_handed_out() -> None:
    it = Log(RUNS)
    it.release(11, 0)
    with pytest.raises(AssertionError, match="the body at 5 was let go of"):
        it.slice(5, 100)
    with pytest.raises(AssertionError, match="the body at 5 was let go of"):
        it.between(5, 11)
    with pytest.raises(AssertionError, match="cannot cut at 5: its body was let go of"):
        it.truncate_from(5)
    with pytest.raises(AssertionError, match="the body at 10 is in memory"):
        it.released_stretch(10, 100)


def test_a_stretch_of_released_runs_has_so_many_bytes_but_one_run_at_least() -> None:
    it = Log(RUNS)
    it.release(16, 0)
    ends = [it.released_stretch(1, bytes_max) for bytes_max in (0, 19, 20, 1_000)]
    assert ends == [3, 3, 4, 15]


def test_a_stretch_of_very_small_runs_ends_where_reading_it_would_take_long() -> None:
    it = Log(run(index, 1, 1) for index in range(1, 3_001))
    it.release(3_000, 0)
    assert [it.released_stretch(first, 1 << 20) for first in (1, 2_500)] == [1_000, 2_999]


def test_bytes_of_bodies_are_counted_where_they_are() -> None:
    it = Log(RUNS)
    bytes_of = [sum(len(each.body) for each in RUNS[at:]) for at in range(len(RUNS) + 1)]
    starts = [*(each.first for each in RUNS), RUNS[-1].last + 1]
    for released_to in (0, 10, 16):
        it.release(released_to, 0)
        assert [it.bytes_from(start) for start in starts] == bytes_of


def test_runs_that_were_read_back_are_held_against_what_is_known_of_them() -> None:
    it = Log(RUNS)
    it.release(16, 0)
    assert it.has(RUNS[:3])
    for wrong in (run(4, 1, 2), run(5, 2, 1), run(17, 1, 7)):
        assert not it.has([wrong])
