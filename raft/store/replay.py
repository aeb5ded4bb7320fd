"""The records of one group, applied in the order of their gseq, never of their position.

So a record that was copied forward may come late or twice, and one that is lost leaves a hole.
Where the first of them are gone by design, :mod:`raft.store.remnants` takes over.

Whatever is wrong with a record stops its group, and no other: ``broken`` says that no writer of
ours wrote it there, ``unknown`` that a newer version wrote it.  In both cases the records behind it
are still counted, and terms and votes still read: the next table has to say how far the group is.

What a log can be at any moment, and what is refused as damage if a record would make it else::

        base_index        snapshot.index           last
            |                   |                    |
        ....|[ run ][ run ][ run ]|[ run ][ run ] ....|
        gone: before the base     cannot be cut off any more

Base, snapshot and last lie on borders between runs, and no record moves base or snapshot backwards.
:mod:`raft.store.wal` asserts the same before it writes, so that what it wrote can be read.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field

from raft.configuration import UnknownPart
from raft.messages import KINDS, HardState, Mark, Run, SnapshotMeta
from raft.store import records
from raft.store.errors import UnknownFormat
from raft.store.records import Header, Record, TableRow

# Runs that are gone and whose places are still known, beyond as many as there are runs.
PLACES_LEFT_OVER_MAX = 1_000

Place = tuple[int, int, int]
_NOWHERE: Place = (0, 0, 0)


@dataclass(slots=True)
class RecoveredGroup:
    """All that the WAL knows of one group.

    ``damaged``: why it lost something, or may have; it must never vote or acknowledge again, and
    what else is here is only what is left.  ``unknown``: why only a newer version can open it.

    ``runs`` follow directly behind (``base_index``, ``base_term``).  ``snapshot``: the newest that
    was recorded; its file may be gone or damaged all the same.  ``run_places``, ``run_sizes`` and
    ``places``: where each run, and the newest record of each other kind, stands, and its bytes.
    """

    group: int
    generation: int
    bootstrap: bytes | None
    hard_state: HardState
    runs: list[Run]
    last_gseq: int
    damaged: str | None = None
    base_index: int = 0
    base_term: int = 0
    snapshot: SnapshotMeta | None = None
    run_places: array[int] = field(default_factory=lambda: array("Q"))
    run_sizes: array[int] = field(default_factory=lambda: array("I"))
    places: dict[int, tuple[int, int]] = field(default_factory=dict)
    unknown: str | None = None


@dataclass(slots=True)
class Replay:
    """One group under one generation, its records applied up to ``gseq``."""

    group: int
    generation: int
    gseq: int = 0
    bootstrap: bytes | None = None
    hard_state: HardState = field(default_factory=HardState)
    runs: list[Run] = field(default_factory=list)
    base_index: int = 0
    base_term: int = 0
    snapshot: SnapshotMeta | None = None
    damaged: str | None = None
    broken: str | None = None
    unknown: str | None = None
    # As the records say, also those that are not understood.
    seen_last: int = 0
    seen_snapshot: int = 0
    pending: dict[int, tuple[str, Record]] = field(default_factory=dict)
    # What a later segment's table says was true when the group was at this gseq, and where.
    rows: dict[int, tuple[str, TableRow]] = field(default_factory=dict)
    # Where they stand, gseq, place, bytes: runs by first index, other records by kind.
    run_places: dict[int, Place] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)

    @property
    def last(self) -> tuple[int, int]:
        """(index, term) of the last entry, of the base where the log is empty."""
        if not self.runs:
            return self.base_index, self.base_term
        run = self.runs[-1]
        return run.last, run.term

    @property
    def snapshot_index(self) -> int:
        return 0 if self.snapshot is None else self.snapshot.index

    def check(self, path: str, row: TableRow) -> None:
        """What a table says must be so once all records up to its gseq are there."""
        if row.gseq > self.gseq:
            self.rows[row.gseq] = path, row
            return
        ours = self.row(row.floor)
        if ours._replace(damaged=row.damaged) != row and self.unknown is None:
            self.contradict(path, f"its table says {row} of the group, the records before {ours}")

    def contradict(self, path: str, reason: str) -> None:
        self._break(path, 0, reason)

    def _break(self, path: str, offset: int, reason: str) -> None:
        if self.broken is None:
            self.broken = f"{path} at offset {offset}: {reason}"

    def add(self, path: str, record: Record) -> None:
        gseq = record.header.gseq
        if record.header.kind == records.DAMAGED and self.damaged is None:
            # In whatever order it comes, and whatever is missing before it.
            self.damaged = record.body.decode("utf-8", "replace")
            self.places[records.DAMAGED] = (gseq, record.place, record.size)
        if gseq <= self.gseq:
            self.note_place(record)
            return  # a copy, written forward, of what came before
        if gseq != self.gseq + 1:
            self.pending[gseq] = (path, record)
            return
        self.apply(path, record)
        while self.pending:
            following = self.pending.pop(self.gseq + 1, None)
            if following is None:
                return
            self.apply(*following)

    def apply(self, path: str, record: Record) -> None:
        header = record.header
        try:
            self.see(header, record.body)
            if (self.broken or self.unknown) is None or header.kind == records.HARD_STATE:
                self.take(header, record.body)
        except UnknownFormat as error:
            self._not_known(path, record, error.file)
        except UnknownPart as error:
            self._not_known(path, record, str(error))
        except ValueError as error:
            self._break(path, record.offset, str(error))
        self._note(record)
        row = self.rows.pop(self.gseq, None) if self.rows else None
        if row is not None:
            self.check(*row)

    def see(self, header: Header, body: bytes) -> None:
        """How far the group is, whether the record is understood or not."""
        if header.kind == records.RUN:
            self.seen_last = header.first + header.entries - 1
        elif header.kind == records.TRUNCATE:
            self.seen_last = header.first - 1
        elif header.kind == records.SNAPSHOT:
            self.seen_snapshot = header.first
            if records.mark_resets(body):
                self.seen_last = header.first

    def _not_known(self, path: str, record: Record, what: str) -> None:
        if self.unknown is None:
            self.unknown = str(UnknownFormat(path, f"group {self.group}: {what}", record.offset))

    def _note(self, record: Record) -> None:
        header = record.header
        self.gseq = max(self.gseq, header.gseq)
        if header.kind == records.RUN:
            self.run_places[header.first] = (header.gseq, record.place, record.size)
        elif header.gseq >= self.places.get(header.kind, _NOWHERE)[0]:
            self.places[header.kind] = (header.gseq, record.place, record.size)
            if len(self.run_places) > 2 * len(self.runs) + PLACES_LEFT_OVER_MAX:
                known = self.run_places
                self.run_places = {run.first: known[run.first] for run in self.runs}

    def note_place(self, record: Record) -> None:
        """A record that was seen stands further behind, too, and there it will stay longest."""
        header = record.header
        places, key = self.places, header.kind
        if header.kind == records.RUN:
            places, key = self.run_places, header.first
        if places.get(key, _NOWHERE)[0] == header.gseq:
            places[key] = (header.gseq, record.place, record.size)

    def take(self, header: Header, body: bytes) -> None:
        """Raises ValueError if it cannot follow on what is there."""
        if (header.gseq == 1) != (header.kind == records.BOOTSTRAP):
            raise ValueError("a group begins with its bootstrap record, and only there")
        handler = _APPLY.get(header.kind)
        if handler is None:
            raise UnknownFormat(f"record of unknown kind {header.kind}", "")
        handler(self, header, body)

    def row(self, floor: int) -> TableRow:
        """What the table of a segment has to say of it."""
        state = self.hard_state
        return TableRow(
            self.generation,
            self.gseq,
            state.term,
            state.vote,
            self.seen_snapshot,
            self.seen_last,
            self.damaged,
            floor,
        )

    def missing(self) -> str | None:
        """What is not there though nothing before it is; with all records at hand: nothing."""
        return None

    def _on_bootstrap(self, header: Header, body: bytes) -> None:
        self.bootstrap = body

    def _on_hard_state(self, header: Header, body: bytes) -> None:
        state = records.decode_hard_state(body)
        if state.term < self.hard_state.term:
            raise ValueError(f"term {state.term} after term {self.hard_state.term}")
        self.hard_state = state

    def _on_run(self, header: Header, body: bytes) -> None:
        run = run_of(header, body)
        last, last_term = self.last
        if header.first != last + 1 or header.entries < 1 or header.term < last_term:
            raise ValueError(
                f"run of {header.entries} from {header.first} behind index {last}, "
                f"term {header.term} after term {last_term}"
            )
        self.runs.append(run)

    def _on_truncate(self, header: Header, body: bytes) -> None:
        if header.first <= self.snapshot_index:
            raise ValueError(
                f"truncation from {header.first}, but a snapshot stands for {self.snapshot_index}"
            )
        runs = self.runs
        while runs and runs[-1].first >= header.first:
            runs.pop()
        last, _ = self.last
        if last != header.first - 1:
            raise ValueError(f"truncation from {header.first} is on no border, last is {last}")

    def _on_snapshot(self, header: Header, body: bytes) -> None:
        mark = records.decode_mark(header, body)
        snapshot, before = mark.snapshot, self.snapshot
        if snapshot.index < 1 or snapshot.term < 1:
            raise ValueError(f"{_shown(mark)} is of nothing")
        if before is not None and not _follows(before, snapshot):
            raise ValueError(f"{_shown(mark)} after {before.index} of term {before.term}")
        base = (mark.base_index, mark.base_term)
        if mark.resets:
            if base != (snapshot.index, snapshot.term):
                raise ValueError(f"{_shown(mark)} is to begin the log anew elsewhere")
            self.runs.clear()
        else:
            count = self._border(*base)
            covered = self._border(snapshot.index, snapshot.term)
            if count is None or covered is None or count > covered:
                raise ValueError(f"{_shown(mark)} does not fit a log that ends at {self.last[0]}")
            del self.runs[:count]
        self.base_index, self.base_term = base
        self.snapshot = snapshot

    def _border(self, index: int, term: int) -> int | None:
        """How many runs end at or before this entry; None unless a run ends with it."""
        runs = self.runs
        count = bisect_left(runs, index, key=_last_of)
        if count < len(runs) and (runs[count].last, runs[count].term) == (index, term):
            return count + 1
        return 0 if (index, term) == (self.base_index, self.base_term) else None

    def _on_damaged(self, header: Header, body: bytes) -> None:
        """Seen already, when it was added."""

    def result(self) -> RecoveredGroup:
        return RecoveredGroup(
            self.group,
            self.generation,
            self.bootstrap,
            self.hard_state,
            self.runs,
            self.gseq,
            self.damaged,
            self.base_index,
            self.base_term,
            self.snapshot,
            array("Q", [self.run_places[run.first][1] for run in self.runs]),
            array("I", [self.run_places[run.first][2] for run in self.runs]),
            {kind: (place, size) for kind, (_, place, size) in self.places.items()},
            self.unknown,
        )


def run_of(header: Header, body: bytes) -> Run:
    if header.run_kind not in KINDS:
        raise UnknownFormat(f"run of unknown kind {header.run_kind}", "")
    return Run(header.run_kind, header.term, header.first, header.entries, body, header.body_crc)


def _last_of(run: Run) -> int:
    return run.last


def _follows(before: SnapshotMeta, after: SnapshotMeta) -> bool:
    """Both stand for entries of one history, so the same index is the same entry."""
    if before.index == after.index:
        return before.term == after.term
    return before.index < after.index and before.term <= after.term


def _shown(mark: Mark) -> str:
    snapshot = mark.snapshot
    return (
        f"snapshot of {snapshot.index} in term {snapshot.term} "
        f"with the base {mark.base_index} of term {mark.base_term}"
    )


_APPLY = {
    records.BOOTSTRAP: Replay._on_bootstrap,
    records.HARD_STATE: Replay._on_hard_state,
    records.RUN: Replay._on_run,
    records.TRUNCATE: Replay._on_truncate,
    records.DAMAGED: Replay._on_damaged,
    records.SNAPSHOT: Replay._on_snapshot,
}
assert frozenset(_APPLY) == records.GROUP_KINDS
