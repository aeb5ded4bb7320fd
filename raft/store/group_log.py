"""Where the writer of a WAL stands with one group, what is only gathered included.

Borders between runs, so that what :mod:`raft.store.replay` refuses to read is not written; and
where each record that is live stands, so that :mod:`raft.store.tidying` finds what a segment holds.

**Live** is what a replay of nothing else would come to the same end with: the newest record of each
kind in ``FIXED``, and each run above the base that is not truncated.  A truncation is never live.

A *place* is a position in the log as a whole, as if its segments were one file.  Runs stand there
in the order of their indexes, until some are copied to the end.  So the places of a group's runs
rise, in a few pieces: a copy stands behind everything, and with the run after it a piece begins::

    runs by index     [ copied, rising ][ not copied, rising ............ ]
    pieces            0                 ^

Memory: 20 bytes for each live run, and some hundred for the group.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from raft.messages import Replica
from raft.store import records
from raft.store.records import DAMAGED, TableRow
from raft.store.replay import RecoveredGroup

# Of each of these kinds the newest record of a group is live, and no other.
FIXED = frozenset((records.BOOTSTRAP, records.HARD_STATE, records.SNAPSHOT, DAMAGED))


class GroupLog:
    """See the top of this file."""

    __slots__ = (
        "base_index",
        "damaged",
        "firsts",
        "fixed",
        "generation",
        "group",
        "gseq",
        "last_index",
        "last_term",
        "pieces",
        "places",
        "sizes",
        "snapshot_index",
        "snapshot_term",
        "term",
        "term_starts",
        "vote",
    )

    def __init__(self, group: int, generation: int) -> None:
        self.group = group
        self.generation = generation
        self.gseq = 0
        self.term = 0
        self.vote: Replica | None = None
        self.damaged: str | None = None  # why it must not vote or acknowledge again
        # Of each run: its first index, where a truncation may begin; where it stands; its bytes.
        self.firsts = array("Q")
        self.places = array("Q")
        self.sizes = array("I")
        self.pieces = [0]  # positions at which the places begin to rise anew
        self.fixed: dict[int, tuple[int, int]] = {}  # kind -> (place, bytes)
        self.snapshot_index = 0
        self.snapshot_term = 0
        self.begin_at(0, 0)

    @classmethod
    def recovered(cls, found: RecoveredGroup) -> GroupLog:
        log = cls(found.group, found.generation)
        log.gseq = found.last_gseq
        log.term, log.vote = found.hard_state.term, found.hard_state.vote
        log.begin_at(found.base_index, found.base_term)
        for run in found.runs:
            if run.term != log.last_term:
                log.term_starts.append((run.first, run.term))
            log.firsts.append(run.first)
            log.last_index, log.last_term = run.last, run.term
        log.places, log.sizes = found.run_places, found.run_sizes
        places = log.places
        falls = [at for at in range(1, len(places)) if places[at] < places[at - 1]]
        log.pieces = [0, *falls]
        log.fixed = {kind: at for kind, at in found.places.items() if kind in FIXED}
        if found.snapshot is not None:
            log.snapshot_index, log.snapshot_term = found.snapshot.index, found.snapshot.term
        return log

    @classmethod
    def stopped(cls, found: RecoveredGroup, row: TableRow) -> GroupLog:
        """Of a group that cannot be opened: nothing is saved of it, and each table says of it what
        is known.  Of one that is condemned nothing is live but the mark that says so."""
        log = cls(found.group, found.generation)
        log.gseq, log.term, log.vote, log.damaged = row.gseq, row.term, row.vote, row.damaged
        log.snapshot_index, log.last_index = row.snapshot_index, row.last_index
        if row.damaged is not None and DAMAGED in found.places:
            log.set_fixed(DAMAGED, *found.places[DAMAGED])
        return log

    def row(self, floor: int) -> TableRow:
        """What the table of a segment says of it."""
        return TableRow(
            self.generation,
            self.gseq,
            self.term,
            self.vote,
            self.snapshot_index,
            self.last_index,
            self.damaged,
            floor,
        )

    # ------------------------------------------------------------------ entries

    @property
    def live_bytes(self) -> int:
        """Takes a step for each run: who needs it often counts."""
        return sum(self.sizes) + sum(size for _, size in self.fixed.values())

    # What takes meaning away from records answers how many bytes of them.

    def begin_at(self, index: int, term: int) -> int:
        """The log is empty behind this entry."""
        killed_bytes = self._forget_runs(0, len(self.firsts))
        self.base_index = self.last_index = index
        self.last_term = term
        # (index, term): from there on up to the next one, entries have this term.
        self.term_starts = [(index, term)]
        return killed_bytes

    def term_at(self, index: int) -> int:
        assert self.base_index <= index <= self.last_index, (self.group, index)
        return self.term_starts[bisect_right(self.term_starts, index, key=_index_of) - 1][1]

    def is_border(self, index: int) -> bool:
        """Whether a run ends, or the log begins, at this entry."""
        if index in (self.base_index, self.last_index):
            return True
        position = bisect_left(self.firsts, index + 1)
        return position < len(self.firsts) and self.firsts[position] == index + 1

    def truncate_from(self, first: int) -> int:
        killed_bytes = self._forget_runs(bisect_left(self.firsts, first), len(self.firsts))
        self.last_index = first - 1
        self.last_term = self.term_at(first - 1)
        del self.term_starts[bisect_left(self.term_starts, first, key=_index_of) :]
        return killed_bytes

    def compact_to(self, index: int, term: int) -> int:
        """Forget the runs up to this entry."""
        position = bisect_right(self.term_starts, index, key=_index_of)
        self.term_starts[:position] = [(index, term)]
        self.base_index = index
        return self._forget_runs(0, bisect_right(self.firsts, index))

    def _forget_runs(self, start: int, end: int) -> int:
        """From the beginning, or up to the end."""
        killed_bytes: int = sum(self.sizes[start:end])
        del self.firsts[start:end]
        del self.places[start:end]
        del self.sizes[start:end]
        if start == 0:
            self.pieces = [0, *(at - end for at in self.pieces if at > end)]
        else:
            del self.pieces[bisect_left(self.pieces, start) :]
        return killed_bytes

    def keep_mark(self) -> int:
        """Nothing is live any more but the mark of damage; how far it was is still known."""
        killed_bytes = self._forget_runs(0, len(self.firsts))
        killed_bytes += sum(size for kind, (_, size) in self.fixed.items() if kind != DAMAGED)
        self.fixed = {DAMAGED: self.fixed[DAMAGED]}
        return killed_bytes

    # ------------------------------------------------------------------ places

    def set_fixed(self, kind: int, place: int, size: int) -> int:
        """A record of this kind takes the meaning of the one before it, or has never any."""
        if kind not in FIXED:
            return size
        _, killed_bytes = self.fixed.get(kind, (0, 0))
        self.fixed[kind] = (place, size)
        return killed_bytes

    def fixed_below(self, place: int) -> list[tuple[int, int, int]]:
        """(kind, place, bytes) of live records that are no runs and stand below this place."""
        return [(kind, at, size) for kind, (at, size) in self.fixed.items() if at < place]

    def runs_below(self, place: int) -> list[range]:
        """Positions of the live runs that stand below this place."""
        places, pieces = self.places, self.pieces
        found = []
        for start, end in zip(pieces, [*pieces[1:], len(places)], strict=True):
            stop = bisect_left(places, place, start, end)
            if start < stop:
                found.append(range(start, stop))
        return found

    def runs_between(self, first: int, last: int) -> list[tuple[int, int, int]]:
        """(first index, place, bytes) of the live runs ``first`` .. ``last``, both on borders; of
        none, if some are not live any more."""
        start, end = bisect_left(self.firsts, first), bisect_right(self.firsts, last)
        if self.firsts[start : start + 1].tolist() != [first]:
            return []
        columns = (self.firsts, self.places, self.sizes)
        return list(zip(*(column[start:end] for column in columns), strict=True))

    def bytes_below(self, place: int) -> int:
        count = sum(size for _, _, size in self.fixed_below(place))
        for part in self.runs_below(place):
            count += sum(self.sizes[part.start : part.stop])
        return count

    def move(self, kind: int, first: int, place: int, target: int) -> bool:
        """What stood at ``place`` is copied to ``target``, behind all else.  False: it is dead."""
        if kind != records.RUN:
            if self.fixed.get(kind, (-1, 0))[0] != place:
                return False
            self.fixed[kind] = (target, self.fixed[kind][1])
            return True
        position = bisect_left(self.firsts, first)
        if position == len(self.firsts) or self.places[position] != place:
            return False
        self.places[position] = target
        at = bisect_left(self.pieces, position)
        if position and at < len(self.pieces) and self.pieces[at] == position:
            del self.pieces[at]
        at = bisect_left(self.pieces, position + 1)
        if position + 1 < len(self.places) and position + 1 not in self.pieces[at : at + 1]:
            self.pieces.insert(at, position + 1)
        return True


def _index_of(start: tuple[int, int]) -> int:
    return start[0]
