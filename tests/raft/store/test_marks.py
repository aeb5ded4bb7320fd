"""Marks: from here on a snapshot stands for the log.  What they make of a log, written and read."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgpack
import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.messages import HardState, Mark, Run, Save
from raft.store import records
from raft.store.errors import StoreError
from raft.store.records import Record
from raft.store.recovery import recover
from raft.store.replay import RecoveredGroup, Replay
from raft.store.wal import Wal
from tests.raft.store.kit import (
    DIRECTORY,
    INCARNATION,
    N1,
    N2,
    Slot,
    a_slot,
    keeps,
    resets,
    run_of,
    snapshot_of,
)

# Group 7 with the runs 1..2, 3, 4..6 and 7 of term 1.
FOUR = [run_of(1, count=2), run_of(3), run_of(4, count=3), run_of(7)]


def a_log() -> Slot:
    slot = a_slot(7)
    slot.wal.save(7, Save(2, None, None, list(FOUR)))
    slot.write()
    return slot


def shape(group: RecoveredGroup) -> tuple[int, int, int, list[int]]:
    """(base index, base term, snapshot index, first index of each run)."""
    index = 0 if group.snapshot is None else group.snapshot.index
    return group.base_index, group.base_term, index, [run.first for run in group.runs]


# --------------------------------------------------------------------------- what a mark does


def test_a_log_without_a_mark_begins_at_nothing() -> None:
    found = a_log().reopen()[7]
    assert (found.base_index, found.base_term, found.snapshot) == (0, 0, None)


def test_a_mark_cuts_off_the_beginning_and_keeps_the_rest() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, mark=keeps(6, 3)))
    assert slot.write() == [(7, 3, 0, 0)]
    found = slot.reopen()[7]
    assert shape(found) == (3, 1, 6, [4, 7])
    assert found.snapshot == snapshot_of(6)
    assert found.runs == FOUR[2:]


def test_a_mark_may_keep_the_whole_log_or_nothing_of_it() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, mark=keeps(3, 0)))
    slot.write()
    assert shape(slot.reopen()[7]) == (0, 0, 3, [1, 3, 4, 7])
    slot.wal.save(7, Save(1, mark=keeps(7, 7)))
    slot.write()
    assert shape(slot.reopen()[7]) == (7, 1, 7, [])


def test_the_log_goes_on_behind_an_empty_one() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, mark=keeps(7, 7), runs=[run_of(8)]))
    assert slot.write() == [(7, 3, 1, 8)]
    slot.wal.save(7, Save(4, HardState(2, N1), runs=[run_of(9, term=2)]))
    slot.write()
    assert shape(slot.reopen()[7]) == (7, 1, 7, [8, 9])
    slot.wal.save(7, Save(1, runs=[run_of(10, term=2)]))
    slot.write()
    assert shape(slot.reopen()[7]) == (7, 1, 7, [8, 9, 10])


def test_a_mark_that_resets_lets_the_log_begin_anew_ahead_of_it() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, HardState(5, None), mark=resets(900, term=4)))
    slot.write()
    found = slot.reopen()[7]
    assert shape(found) == (900, 4, 900, [])
    assert found.hard_state == HardState(5, None)
    slot.wal.save(7, Save(1, runs=[run_of(901, term=5)]))
    slot.write()
    assert shape(slot.reopen()[7]) == (900, 4, 900, [901])


def test_a_mark_that_resets_throws_away_what_lay_behind_it() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, HardState(5, None), mark=resets(3, term=4)))
    slot.write()
    assert shape(slot.reopen()[7]) == (3, 4, 3, [])


def test_a_newer_mark_replaces_an_older_one() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, mark=keeps(3, 2)))
    slot.wal.save(7, Save(4, mark=keeps(6, 3)))
    slot.write()
    slot.wal.save(7, Save(5, mark=keeps(6, 6)))
    slot.write()
    assert shape(slot.reopen()[7]) == (6, 1, 6, [7])


def test_a_snapshot_that_was_taken_again_has_the_newer_file() -> None:
    slot = a_log()
    for number, crc in ((3, 111), (4, 222)):
        slot.wal.save(7, Save(number, mark=Mark(snapshot_of(6, crc=crc), 3, 1, False)))
    slot.write()
    snapshot = slot.reopen()[7].snapshot
    assert snapshot is not None
    assert snapshot.crc == 222


def test_a_truncation_and_a_mark_in_one_save_come_in_that_order() -> None:
    slot = a_log()
    slot.wal.save(
        7,
        Save(
            3,
            HardState(2, N2),
            truncate_from=7,
            mark=keeps(6, 6),
            runs=[run_of(7, term=2), run_of(8, term=2)],
        ),
    )
    assert slot.write() == [(7, 3, 2, 8)]
    assert shape(slot.reopen()[7]) == (6, 1, 6, [7, 8])


def test_truncations_on_both_sides_of_a_mark() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, HardState(2, N2), 7, [run_of(7, term=2), run_of(8, term=2)]))
    slot.wal.save(7, Save(4, mark=keeps(6, 3)))
    slot.wal.save(7, Save(5, HardState(3, N1), 8, [run_of(8, term=3)]))
    slot.wal.save(7, Save(6, mark=keeps(7, 7, term=2)))
    slot.wal.save(7, Save(7, HardState(4, N1), 8, []))
    slot.write()
    found = slot.reopen()[7]
    assert shape(found) == (7, 2, 7, [])
    slot.wal.save(7, Save(1, runs=[run_of(8, term=4)]))
    slot.write()
    assert shape(slot.reopen()[7]) == (7, 2, 7, [8])


def test_groups_have_marks_of_their_own() -> None:
    slot = a_slot(7, 8)
    for group in (7, 8):
        slot.wal.save(group, Save(2, runs=[run_of(1), run_of(2)]))
    slot.wal.save(8, Save(3, mark=keeps(2, 1)))
    slot.write()
    groups = slot.reopen()
    assert [shape(groups[group]) for group in (7, 8)] == [(0, 0, 0, [1, 2]), (1, 1, 2, [2])]


def test_a_group_that_was_moved_begins_without_a_mark() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, mark=keeps(6, 3)))
    slot.write()
    slot.wal.add_group(7, 2, b"moved")
    slot.wal.save(7, Save(1, HardState(9, N1)))
    slot.write()
    assert shape(slot.reopen()[7]) == (0, 0, 0, [])


# --------------------------------------------------------------------------- what is reported


def test_entries_before_a_resetting_mark_do_not_count_as_persisted() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, runs=[run_of(8)]))
    slot.wal.save(7, Save(4, mark=resets(900)))
    assert slot.write() == [(7, 4, 0, 0)]
    slot.wal.save(7, Save(5, mark=resets(1000), runs=[run_of(1001), run_of(1002)]))
    assert slot.write() == [(7, 5, 1, 1002)]


def test_entries_before_any_other_mark_do() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, runs=[run_of(8)]))
    slot.wal.save(7, Save(4, mark=keeps(8, 8)))
    assert slot.write() == [(7, 4, 1, 8)]


# --------------------------------------------------------------------------- segments


def test_the_table_of_a_segment_has_the_snapshot_of_each_group() -> None:
    slot = a_slot(7, 8)
    slot.wal.save(7, Save(2, runs=[run_of(1), run_of(2)], mark=None))
    slot.wal.save(7, Save(3, mark=keeps(2, 1)))
    slot.write()
    slot.wal.save(8, Save(2, mark=resets(50), runs=[run_of(51, body=bytes(4000))]))
    slot.write()
    data = slot.files.content(slot.path(2))
    header = records.decode_header(data, 0)
    assert header is not None
    table = records.decode_segment(data[64 : 64 + header.length]).table
    assert {group: row.snapshot_index for group, row in table.items()} == {7: 2, 8: 50}


def test_marks_are_found_across_segments() -> None:
    """Two runs of two entries between two marks; every tenth save begins the log anew."""
    slot = a_slot(7)
    index = base = snapshot = 0
    for number in range(2, 60):
        save = Save(number)
        if number % 10 == 0:
            index = base = snapshot = index + 100
            save.mark = resets(index)
        elif number % 3 == 0:
            base, snapshot = max(base, index - 10), index
            save.mark = keeps(snapshot, base)
        save.runs.append(run_of(index + 1, count=2, body=bytes(300)))
        index += 2
        slot.wal.save(7, save)
        slot.write()
    assert len(slot.segments()) > 3
    assert shape(slot.reopen()[7]) == (base, 1, snapshot, list(range(base + 1, index, 2)))
    assert 0 < base < snapshot < index


def test_a_table_that_names_another_snapshot_than_the_records_is_refused() -> None:
    slot = a_log()
    slot.wal.save(7, Save(3, mark=keeps(6, 3)))
    slot.write()
    slot.wal._groups[7].snapshot_index = 7
    slot.wal.save(7, Save(4, runs=[run_of(8, body=bytes(4000))]))
    slot.write()
    assert "its table says" in (slot.reopen()[7].damaged or "")


# --------------------------------------------------------------------------- what cannot be


def a_marked_log() -> Slot:
    """The runs 1..2 of term 1, 3 and 4..6 of term 2, 7 of term 3; the mark keeps the last two."""
    slot = a_slot(7)
    runs = [run_of(1, count=2), run_of(3, term=2), run_of(4, term=2, count=3), run_of(7, term=3)]
    slot.wal.save(7, Save(2, HardState(5, N1), None, runs))
    slot.wal.save(7, Save(3, mark=keeps(6, 3, term=2)))
    slot.write()
    return slot


def a_mark(index: int, term: int, base: int, base_term: int) -> Save:
    return Save(9, mark=keeps(index, base, term=term, base_term=base_term))


def a_reset(index: int, term: int, *runs: Run) -> Save:
    return Save(9, mark=resets(index, term=term), runs=list(runs))


WRONG: dict[str, Callable[[], Save]] = {
    "a snapshot of nothing": lambda: a_mark(0, 0, 0, 0),
    "a snapshot of no term": lambda: a_reset(50, 0),
    "a snapshot of what is not here": lambda: a_mark(8, 3, 3, 2),
    "a snapshot inside a run": lambda: a_mark(5, 2, 3, 2),
    "a snapshot of another term": lambda: a_mark(7, 4, 6, 2),
    "a snapshot that falls": lambda: a_mark(3, 2, 3, 2),
    "a snapshot before all": lambda: a_mark(2, 1, 2, 1),
    "a base behind its snapshot": lambda: a_mark(6, 2, 7, 3),
    "a base inside a run": lambda: a_mark(7, 3, 4, 2),
    "a base of another term": lambda: a_mark(7, 3, 6, 1),
    "a base that falls": lambda: a_mark(6, 2, 2, 1),
    "a base before all": lambda: a_mark(6, 2, 0, 0),
    "a reset that falls": lambda: a_reset(3, 2),
    "a reset to another term of the same index": lambda: a_reset(6, 3),
    "a reset to an older term": lambda: a_reset(50, 1),
    "a reset that keeps something": lambda: Save(9, mark=Mark(snapshot_of(9, term=3), 7, 3, True)),
    "a gap behind a reset": lambda: a_reset(50, 3, run_of(52, term=3)),
    "a term that falls behind a reset": lambda: a_reset(50, 3, run_of(51, term=2)),
    "a term that falls behind a truncation": lambda: Save(9, None, 7, [run_of(7, term=1)]),
    "a truncation of what the snapshot stands for": lambda: Save(9, truncate_from=4),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_no_core_may_ask_for_is_an_assertion(what: str) -> None:
    with pytest.raises(AssertionError):
        a_marked_log().wal.save(7, WRONG[what]())


@pytest.mark.parametrize("mark", [keeps(0, 0, term=0), resets(5, term=0), resets(0, term=5)])
def test_a_log_without_a_mark_takes_none_of_nothing(mark: Mark) -> None:
    slot = Slot()
    slot.open()
    slot.begin(7, term=9)
    with pytest.raises(AssertionError):
        slot.wal.save(7, Save(2, mark=mark))
    slot = Slot()
    slot.open()
    slot.begin(7, term=9)
    forge(slot.wal, Save(2, mark=mark))
    slot.write()
    assert recover(slot.files, DIRECTORY, 0, INCARNATION).groups[7].damaged


@pytest.mark.parametrize("what", WRONG)
def test_what_no_writer_writes_is_damage(what: str) -> None:
    slot = a_marked_log()
    forge(slot.wal, WRONG[what]())
    slot.write()
    assert recover(slot.files, DIRECTORY, 0, INCARNATION).groups[7].damaged


def forge(wal: Wal, save: Save) -> None:
    """Gather the records of a save without any of the writer's checks."""
    state = wal._groups[7]
    if save.truncate_from is not None:
        wal._record(state, records.TRUNCATE, first=save.truncate_from)
    if save.mark is not None:
        snapshot, body = save.mark.snapshot, records.encode_mark(save.mark)
        wal._record(state, records.SNAPSHOT, body=body, first=snapshot.index, term=snapshot.term)
    if save.runs:
        state.begin_at(save.runs[0].first - 1, 0)
        wal._save_runs(state, save)


def test_a_mark_that_is_no_msgpack_is_damage() -> None:
    slot = a_log()
    wal = slot.wal
    wal._record(wal._groups[7], records.SNAPSHOT, body=b"\xc1", first=3, term=1)
    slot.write()
    assert recover(slot.files, DIRECTORY, 0, INCARNATION).groups[7].damaged


def test_a_mark_with_a_part_of_a_newer_version_stops_the_group_and_is_never_cut() -> None:
    slot = a_log()
    fields = [3, 1, False, [["n1", 1, 1], ["n2", 2, 3]], 5, 6, 7, 8]
    at = slot.wal.statistics()["segment_used_bytes"]
    body = msgpack.packb(fields)
    slot.wal._record(slot.wal._groups[7], records.SNAPSHOT, body=body, first=3, term=1)
    slot.write()
    group = slot.reopen()[7]
    assert group.damaged is None
    assert f"{slot.path(1)} at offset {at}: group 7: " in (group.unknown or "")
    assert "part 3" in (group.unknown or "")


def test_a_mark_too_large_to_be_a_record_is_refused_before_anything_is_gathered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pitfall 47."""
    slot = a_log()
    monkeypatch.setattr(records, "RECORD_BODY_BYTES_MAX", 20)
    with pytest.raises(StoreError, match="at most 20"):
        slot.wal.save(7, Save(3, HardState(2), mark=keeps(6, 3)))
    assert slot.wal.take_batch() is None


# --------------------------------------------------------------------------- in any order

TERM_MAX = 3  # of the group, from the beginning: so that runs of every term may be written
INDEXES = st.integers(0, 9)
TERMS = st.integers(0, TERM_MAX)
RUNS = st.builds(
    lambda first, term, count: [run_of(first, term=term, count=count)],
    INDEXES,
    TERMS,
    st.integers(1, 3),
)
MARKS = st.builds(
    lambda index, term, base, base_term, reset: Mark(
        snapshot_of(index, term=term), base, base_term, reset
    ),
    INDEXES,
    TERMS,
    INDEXES,
    TERMS,
    st.booleans(),
)
# A step that may not fit at all.
ANY_STEP = st.one_of(
    st.builds(lambda runs: Save(0, runs=runs), RUNS),
    st.builds(lambda first: Save(0, truncate_from=first), INDEXES),
    st.builds(lambda mark: Save(0, mark=mark), MARKS),
)


class Twins:
    """A writer and a reader, given the same steps."""

    def __init__(self) -> None:
        self.slot = Slot()
        self.slot.open()
        self.slot.wal.add_group(7, 1, b"")
        self.slot.wal.save(7, Save(1, HardState(TERM_MAX)))
        self.number = 1
        self.replay = Replay(7, 1)
        self._read(records.BOOTSTRAP, b"")

    def step(self, save: Save) -> bool:
        """Whether it was accepted; by both, or by none."""
        self.number += 1
        save.number = self.number
        before = self.slot.wal._groups[7].gseq
        try:
            self.slot.wal.save(7, save)
            written = True
        except AssertionError:
            written = False
        self._read_save(save)
        read = self.replay.broken is None
        assert read == written, save
        if written:
            assert self.slot.wal._groups[7].gseq == before + 1
        return written

    def check_the_writer(self) -> None:
        """It stands where the reader stands, and remembers nothing else."""
        state, replay = self.slot.wal._groups[7], self.replay
        assert (state.base_index, state.snapshot_index) == (
            replay.base_index,
            replay.snapshot_index,
        )
        assert (state.last_index, state.last_term) == replay.last
        assert list(state.firsts) == [run.first for run in replay.runs]
        assert state.term_at(replay.base_index) == replay.base_term
        for run in replay.runs:
            assert {state.term_at(run.first), state.term_at(run.last)} == {run.term}
        assert len(state.term_starts) <= 1 + len({run.term for run in replay.runs})

    def a_fitting_step(self, seed: int) -> Save:
        rng = random.Random(seed)
        replay = self.replay
        last, term = replay.last
        borders = [(replay.base_index, replay.base_term)]
        borders += [(run.last, run.term) for run in replay.runs]
        kind = rng.randrange(4)
        if kind == 0:
            first = rng.choice([it for it, _ in borders if it >= replay.snapshot_index]) + 1
            return Save(0, truncate_from=first)
        covered = [it for it in borders if it[0] >= max(1, replay.snapshot_index)]
        if kind == 1 and covered:
            index, snapshot_term = rng.choice(covered)
            base, base_term = rng.choice([it for it in borders if it[0] <= index])
            snapshot = snapshot_of(index, term=snapshot_term)
            return Save(0, mark=Mark(snapshot, base, base_term, False))
        if kind == 2:
            index = max(last, 1) + rng.randrange(5)
            return Save(0, mark=resets(index, term=max(term, 1)))
        run = run_of(last + 1, term=rng.randint(max(term, 1), TERM_MAX), count=rng.randint(1, 3))
        return Save(0, runs=[run])

    def _read_save(self, save: Save) -> None:
        if save.truncate_from is not None:
            self._read(records.TRUNCATE, b"", first=save.truncate_from)
        if save.mark is not None:
            snapshot = save.mark.snapshot
            body = records.encode_mark(save.mark)
            self._read(records.SNAPSHOT, body, first=snapshot.index, term=snapshot.term)
        for run in save.runs:
            self._read(records.RUN, run.body, first=run.first, term=run.term, run=run)

    def _read(
        self, kind: int, body: bytes, *, first: int = 0, term: int = 0, run: Run | None = None
    ) -> None:
        run_kind, count = (0, 0) if run is None else (run.kind, run.count)
        gseq, length = self.replay.gseq + 1, len(body)
        raw = records.encode_header(
            kind, run_kind, 1, count, 7, gseq, term, first, length, crc32c(body)
        )
        header = records.decode_header(raw, 0)
        assert header is not None
        self.replay.add("a.wal", Record(header, raw, body, 0, 0))


@given(st.lists(st.integers(0, 2**32), max_size=15), st.none() | ANY_STEP)
@settings(max_examples=400)
def test_what_is_written_can_be_read_and_nothing_else(seeds: list[int], step: Save | None) -> None:
    """Pitfall 47, for marks, truncations and runs in any order."""
    twins = Twins()
    for seed in seeds:
        assert twins.step(twins.a_fitting_step(seed))
    if step is not None and not twins.step(step):
        return  # refused by both; what the writer has gathered is not to be used any more
    twins.check_the_writer()
    twins.slot.write()
    found = twins.slot.reopen()[7]
    replay = twins.replay
    assert found.runs == replay.runs
    assert found.snapshot == replay.snapshot
    assert (found.base_index, found.base_term) == (replay.base_index, replay.base_term)
    twins.check_the_writer()
