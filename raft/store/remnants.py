"""A group whose first records are gone by design, because their segments were given up.

What is still there (:mod:`raft.store.tidying` says why)::

    gseq     1 ............... floor | floor + 1 ................................. last
             only what was live when     all of it, without a hole, in order
             its segment was given up:
             copies, anywhere in the
             log, in any order

The floor is in the table of the oldest segment, and with it what the group had come to by then:
term, vote, snapshot, last entry.  From there on every record is at hand.  So two things are kept
apart:

* **said**: the table's row, carried on by each record above it.  It tells what must be there at the
  end, and it is held against the table of every further segment;
* **found**: the newest record of each kind, and the runs that nothing has taken away.

A copy that is lost leaves no hole in gseq.  But it leaves one between what is said and what is
found, whichever record it was: the bootstrap record, the newest term and vote, the newest mark, the
mark of damage, or a run; a last run, too, since the last index is said.  :meth:`Remnant.missing`
names it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from raft.messages import HardState, Run
from raft.store import records
from raft.store.errors import UnknownFormat
from raft.store.records import Header, Record, TableRow
from raft.store.replay import Replay, run_of


class Remnant(Replay):
    """See the top of this file.  ``row``: of the oldest segment's table.

    The fields of :class:`Replay` hold what is said, but ``runs``, ``snapshot``, ``damaged``,
    ``bootstrap`` and the base, which are found.
    """

    __slots__ = ("_floor", "_found", "_found_hard_state", "_kept", "_row_gseq", "_said")

    def __init__(self, group: int, row: TableRow) -> None:
        super().__init__(group, row.generation, gseq=row.floor)
        self.hard_state = HardState(row.term, row.vote)
        self.seen_last, self.seen_snapshot = row.last_index, row.snapshot_index
        self._floor = row.floor
        self._row_gseq = row.gseq
        self._said = row
        self._kept: set[int] = set()  # copies that were seen
        self._found: dict[int, int] = {}  # kind -> gseq of the newest that was seen
        self._found_hard_state = HardState()

    def add(self, path: str, record: Record) -> None:
        gseq = record.header.gseq
        if gseq > self._floor or record.header.kind == records.DAMAGED:
            super().add(path, record)
        elif gseq in self._kept:
            self.note_place(record)
        else:
            self._kept.add(gseq)
            self.apply(path, record)

    def row(self, floor: int) -> TableRow:
        said = self._said if self.unknown is None else super().row(floor)
        return said._replace(gseq=self.gseq, floor=floor, damaged=self.damaged)

    def take(self, header: Header, body: bytes) -> None:
        if header.gseq > self._floor and header.kind == records.BOOTSTRAP:
            raise ValueError("a group begins with its bootstrap record, and only there")
        handler = _TAKE.get(header.kind)
        if handler is None:
            raise UnknownFormat(f"record of unknown kind {header.kind}", "")
        handler(self, header, body)

    def see(self, header: Header, body: bytes) -> None:
        if header.gseq > max(self._floor, self._row_gseq):
            super().see(header, body)

    def _is_new(self, header: Header) -> bool:
        """Whether nothing of this kind was seen that is newer."""
        if header.gseq < self._found.get(header.kind, 0):
            return False
        self._found[header.kind] = header.gseq
        return True

    def _says(self, header: Header) -> bool:
        """Whether the row of the table does not yet include this record."""
        return header.gseq > self._row_gseq

    def _on_bootstrap(self, header: Header, body: bytes) -> None:
        if header.gseq != 1:
            raise ValueError("a group begins with its bootstrap record, and only there")
        self.bootstrap = body

    def _on_hard_state(self, header: Header, body: bytes) -> None:
        state = records.decode_hard_state(body)
        if self._says(header):
            if state.term < self.hard_state.term:
                raise ValueError(f"term {state.term} after term {self.hard_state.term}")
            self.hard_state = state
            self._said = self._said._replace(term=state.term, vote=state.vote)
        if self._is_new(header):
            self._found_hard_state = state

    def _on_run(self, header: Header, body: bytes) -> None:
        run = run_of(header, body)
        if self._says(header):
            last = self._said.last_index
            if run.first != last + 1 or (self.runs and run.term < self.runs[-1].term):
                raise ValueError(f"run of {run.count} from {run.first} behind index {last}")
            self._said = self._said._replace(last_index=run.last)
        position = bisect_left(self.runs, run.first, key=_first_of)
        before = self.runs[position - 1].last if position else 0
        after = self.runs[position].first if position < len(self.runs) else run.last + 1
        if not before < run.first <= run.last < after:
            raise ValueError(f"run of {run.count} from {run.first} between {before} and {after}")
        self.runs.insert(position, run)

    def _on_truncate(self, header: Header, body: bytes) -> None:
        self._is_no_copy(header)
        if self._says(header):
            if not self._said.snapshot_index < header.first <= self._said.last_index + 1:
                raise ValueError(f"truncation from {header.first} behind {self._said.last_index}")
            self._said = self._said._replace(last_index=header.first - 1)
        del self.runs[bisect_left(self.runs, header.first, key=_first_of) :]

    def _on_snapshot(self, header: Header, body: bytes) -> None:
        mark = records.decode_mark(header, body)
        snapshot = mark.snapshot
        if self._says(header):
            if snapshot.index < self._said.snapshot_index:
                raise ValueError(f"mark of {snapshot.index} after {self._said.snapshot_index}")
            last = snapshot.index if mark.resets else self._said.last_index
            self._said = self._said._replace(snapshot_index=snapshot.index, last_index=last)
        if not self._is_new(header):
            return
        self.snapshot = snapshot
        self.base_index, self.base_term = mark.base_index, mark.base_term
        if not mark.resets:
            del self.runs[: bisect_left(self.runs, mark.base_index + 1, key=_first_of)]
        elif header.gseq > self._floor:
            self.runs.clear()  # a copy of it takes nothing: all that it took stood before it

    def _is_no_copy(self, header: Header) -> None:
        if header.gseq <= self._floor:
            raise ValueError(f"a copy of record {header.gseq}, which is never live")

    def missing(self) -> str | None:
        """What is said of the group and was not found; all is there: None."""
        said, snapshot = self._said, self.snapshot
        index = 0 if snapshot is None else snapshot.index
        if self.bootstrap is None:
            return "its bootstrap record is gone"
        if self._found_hard_state != self.hard_state:
            return f"its newest {self.hard_state} is gone, there is {self._found_hard_state}"
        if index != said.snapshot_index:
            return f"its mark of a snapshot of {said.snapshot_index} is gone, there is {index}"
        last = self.base_index
        borders = {last}
        for run in self.runs:
            if run.first != last + 1:
                return f"its entries {last + 1} to {run.first - 1} are gone"
            last = run.last
            borders.add(last)
        if last != said.last_index:
            return f"its entries {last + 1} to {said.last_index} are gone"
        if index and index not in borders:
            return f"its snapshot of {index} ends inside a run"
        return None


def _first_of(run: Run) -> int:
    return run.first


_TAKE: dict[int, Callable[[Remnant, Header, bytes], None]] = {
    records.BOOTSTRAP: Remnant._on_bootstrap,
    records.HARD_STATE: Remnant._on_hard_state,
    records.RUN: Remnant._on_run,
    records.TRUNCATE: Remnant._on_truncate,
    records.DAMAGED: Replay._on_damaged,
    records.SNAPSHOT: Remnant._on_snapshot,
}
assert frozenset(_TAKE) == records.GROUP_KINDS
