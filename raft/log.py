"""The log of one replica, in memory: a list of runs without gaps.

The run is the unit. It was encoded once, by the leader of its term, and is present here as a whole
or not at all. Two facts follow, and the rest of the core leans on them:

* two logs that hold an entry of the same (index, term) hold the same run there, and are equal up to
  the end of that run (the log matching property of paper 5.3, for runs);
* so logs can only differ from a border between runs on, and whatever is acknowledged, committed,
  sent or cut lies on a border.

Positions::

      base_index   first_index                          last_index
          |            |                                     |
    ......|[ run, term 1 ][ run, term 1 ][ run, term 3 ......]|  next_index
    gone: a snapshot has it

**Bodies.** The bytes of the oldest runs may be let go of (:meth:`Log.release`): they are on the
disk, and what is known of each run stays, as a :class:`Shape`. They are a beginning of the list::

    base_index      released_index                        last_index
        |                 |                                   |
        [ shape ][ shape ][ run ][ run ][ run ]...............

Whoever needs such a body has the driver read it.

The log knows nothing of what is durable or committed: that is for the core, which never lets it be
cut at or below the commit index, and lets go of nothing that was not handed out.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from raft.messages import Run

STRETCH_RUNS_MAX: Final = 1_000  # that are read back at a time: each costs its reader time


@dataclass(slots=True)
class Shape:
    """All of a run but its body; the names are those of a run."""

    kind: int
    term: int
    first: int
    count: int
    size_bytes: int
    crc: int

    @property
    def last(self) -> int:
        return self.first + self.count - 1


def _term(run: Run) -> int:
    return run.term


class Log:
    """Runs in order. ``base_index``, ``base_term``: the entry just before the first one."""

    __slots__ = (
        "_base_index",
        "_base_term",
        "_crcs",
        "_firsts",
        "_held_bytes",
        "_kinds",
        "_last_index",
        "_last_term",
        "_released_index",
        "_runs",
        "_sizes",
        "_terms",
    )

    def __init__(
        self, runs: Iterable[Run] = (), *, base_index: int = 0, base_term: int = 0
    ) -> None:
        assert base_index >= 0
        assert (base_index == 0) == (base_term == 0), "index and term of the base belong together"
        self._base_index = self._released_index = base_index
        self._base_term = base_term
        self._last_index = base_index
        self._last_term = base_term
        self._firsts = array("Q")  # of all runs
        # Of those whose bodies are released: 25 bytes each, with the first index.
        self._kinds = array("B")
        self._terms = array("Q")
        self._sizes = array("I")
        self._crcs = array("I")
        self._runs: list[Run] = []  # those behind
        self._held_bytes = 0  # of their bodies
        self.append(runs)

    @property
    def base_index(self) -> int:
        return self._base_index

    @property
    def base_term(self) -> int:
        return self._base_term

    @property
    def first_index(self) -> int:
        """The first index that is, or would be, in the list."""
        return self._base_index + 1

    @property
    def last_index(self) -> int:
        return self._last_index

    @property
    def last_term(self) -> int:
        return self._last_term

    @property
    def released_index(self) -> int:
        """Up to here no body is in memory; a border."""
        return self._released_index

    @property
    def held_bytes(self) -> int:
        """Of all bodies in memory."""
        return self._held_bytes

    @property
    def last_run(self) -> Run | None:
        """Its body is never released; None: the log is empty."""
        return self._runs[-1] if self._runs else None

    @property
    def run_count(self) -> int:
        return len(self._firsts)

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None where it is unknown: beyond the end or before the base."""
        if index == self._last_index:
            return self._last_term
        if index == self._base_index:
            return self._base_term
        run = self.run_containing(index)
        return None if run is None else run.term

    def run_containing(self, index: int) -> Run | Shape | None:
        if not self._base_index < index <= self._last_index:
            return None
        run = self._at(bisect_right(self._firsts, index) - 1)
        assert run.first <= index <= run.last, f"hole in the log at {index}"
        return run

    def _at(self, position: int) -> Run | Shape:
        released = len(self._terms)
        if position >= released:
            return self._runs[position - released]
        # There is always one behind it.
        first, next_first = self._firsts[position : position + 2]
        return Shape(
            self._kinds[position],
            self._terms[position],
            first,
            next_first - first,
            self._sizes[position],
            self._crcs[position],
        )

    def is_border(self, index: int) -> bool:
        """Whether a run ends exactly at ``index``; the base and the empty log are borders too."""
        if index in (self._last_index, self._base_index):
            return True
        run = self.run_containing(index)
        return run is not None and run.last == index

    def append(self, runs: Iterable[Run]) -> None:
        """Add runs directly behind the last one."""
        for run in runs:
            assert run.count > 0, f"empty run at {run.first}"
            assert run.first == self._last_index + 1, (
                f"run starts at {run.first}, the log ends at {self._last_index}"
            )
            assert run.term >= self._last_term, (
                f"run of term {run.term} at {run.first} after term {self._last_term}"
            )
            self._runs.append(run)
            self._firsts.append(run.first)
            self._held_bytes += len(run.body)
            self._last_index = run.first + run.count - 1
            self._last_term = run.term

    def truncate_from(self, index: int) -> None:
        """Remove the entry at ``index`` and all behind it. Only at the start of a run."""
        assert self._base_index < index <= self._last_index, (
            f"cannot cut at {index}: the log has {self.first_index}..{self._last_index}"
        )
        assert index > self._released_index, f"cannot cut at {index}: its body was let go of"
        position = bisect_left(self._firsts, index)
        assert self._firsts[position : position + 1].tolist() == [index], (
            f"cannot cut at {index}: inside a run"
        )
        self._drop_held(position - len(self._terms), len(self._runs))
        del self._firsts[position:]
        assert self._runs or not self._terms, "nothing is held of a log that is not empty"
        self._last_index = index - 1
        self._last_term = self._runs[-1].term if self._runs else self._base_term

    def compact_to(self, index: int) -> None:
        """Forget everything up to ``index``, a border: a snapshot has it."""
        assert self._base_index <= index <= self._last_index, (
            f"cannot compact to {index}: the log has {self.first_index}..{self._last_index}"
        )
        assert self.is_border(index), f"{index} lies inside a run"
        term = self.term_at(index)
        assert term is not None
        position = bisect_right(self._firsts, index)
        self._drop_held(0, max(0, position - len(self._terms)))
        self._drop_released(position)
        del self._firsts[:position]
        self._base_index, self._base_term = index, term
        self._released_index = max(self._released_index, index)

    def reset(self, index: int, term: int) -> None:
        """Forget everything: a snapshot that ends at this entry replaces the log."""
        assert index > 0
        assert term > 0
        self._drop_held(0, len(self._runs))
        self._drop_released(len(self._terms))
        del self._firsts[:]
        self._base_index = self._last_index = self._released_index = index
        self._base_term = self._last_term = term

    def _drop_held(self, start: int, end: int) -> None:
        self._held_bytes -= sum([len(run.body) for run in self._runs[start:end]])
        del self._runs[start:end]

    def _drop_released(self, count: int) -> None:
        for column in (self._kinds, self._terms, self._sizes, self._crcs):
            del column[:count]

    # ------------------------------------------------------------------ bodies

    def release(self, index: int, bytes_max: int) -> None:
        """Let go of the oldest bodies until no more than so many bytes are held.

        Never of the run that ends at ``index``, a border, nor of what is behind it.
        """
        count, left_bytes = 0, self._held_bytes
        for run in self._runs:
            if left_bytes <= bytes_max or run.last >= index:
                break
            left_bytes -= len(run.body)
            count += 1
        gone = self._runs[:count]
        if not gone:
            return
        self._kinds.extend([run.kind for run in gone])
        self._terms.extend([run.term for run in gone])
        self._sizes.extend([len(run.body) for run in gone])
        self._crcs.extend([run.crc for run in gone])
        self._released_index = gone[-1].last
        self._held_bytes = left_bytes
        del self._runs[:count]

    def released_stretch(self, from_index: int, bytes_max: int) -> int:
        """Where the released runs from ``from_index`` on end, up to so many bytes, but one at
        least; and no more than can be read back without holding others up."""
        assert from_index <= self._released_index, f"the body at {from_index} is in memory"
        position = start = self._position(from_index)
        size_bytes = 0
        while position < min(len(self._terms), start + STRETCH_RUNS_MAX):
            size_bytes += self._sizes[position]
            if position > start and size_bytes > bytes_max:
                break
            position += 1
        return self._at(position - 1).last

    def bytes_from(self, from_index: int) -> int:
        """Of all bodies from there on, in memory or not."""
        position = self._position(from_index)
        held = self._runs[max(0, position - len(self._terms)) :]
        return sum(self._sizes[position:]) + sum([len(run.body) for run in held])

    def has(self, runs: list[Run]) -> bool:
        """Whether these, which were read back, are runs of this log."""
        for run in runs:
            own = self.run_containing(run.last)
            if own is None or (own.kind, own.term, own.first, own.count, own.crc) != (
                run.kind, run.term, run.first, run.count, run.crc,
            ):  # fmt: skip
                return False
        return True

    # ------------------------------------------------------------------ parts

    def slice(self, from_index: int, bytes_max: int) -> list[Run]:
        """Runs from ``from_index`` on, up to so many bytes of bodies, but one at least."""
        taken: list[Run] = []
        size_bytes = 0
        for position in range(self._held(from_index), len(self._runs)):
            run = self._runs[position]
            size_bytes += len(run.body)
            if taken and size_bytes > bytes_max:
                break
            taken.append(run)
        return taken

    def between(self, first: int, last: int) -> list[Run]:
        """Exactly the runs that make up ``first`` .. ``last``; both on borders."""
        if first > last:
            return []
        start = self._held(first)
        end = bisect_right(self._firsts, last) - len(self._terms)
        assert self._runs[end - 1].last == last, f"{last} lies inside a run"
        return self._runs[start:end]

    def shapes(self, first: int, last: int) -> list[Run | Shape]:
        """The same, whether the bodies are in memory or not."""
        if first > last:
            return []
        end = bisect_right(self._firsts, last)
        return [self._at(position) for position in range(self._position(first), end)]

    def tail(self, count_max: int) -> list[Run]:
        """The last runs, at most so many, of those whose bodies are in memory."""
        assert count_max > 0
        return self._runs[-count_max:]

    def agreement(self, index: int, term: int) -> tuple[int, int]:
        """(index, term) of the last entry up to ``index`` whose term is at most ``term``.

        Both sides of a rejected append use it to skip, in one round trip, everything that cannot
        agree: terms never fall along a log, so an entry of a higher term than the other side has at
        that place or before it cannot be in the other log.
        """
        index = min(index, self._last_index)
        if index <= self._base_index:
            return (self._base_index, self._base_term)
        position = len(self._terms) + bisect_right(self._runs, term, key=_term) - 1
        if position < len(self._terms):
            position = bisect_right(self._terms, term) - 1
        if position < 0:
            return (self._base_index, self._base_term)
        run = self._at(position)
        if run.last <= index:
            return (run.last, run.term)
        found = self.run_containing(index)
        assert found is not None
        assert found.term <= term
        return (index, found.term)

    def border_at_or_before(self, index: int) -> int:
        """The last border that is not behind ``index``."""
        run = self.run_containing(index)
        if run is None:
            return self._base_index if index <= self._base_index else self._last_index
        return index if run.last == index else run.first - 1

    def _position(self, index: int) -> int:
        """Where in the list the run starts that begins at ``index``; the end is a position too."""
        if index == self._last_index + 1:
            return len(self._firsts)
        position = bisect_left(self._firsts, index)
        assert self._firsts[position : position + 1].tolist() == [index], (
            f"no run starts at {index}"
        )
        return position

    def _held(self, index: int) -> int:
        """The same in ``_runs``."""
        position = self._position(index) - len(self._terms)
        assert position >= 0, f"the body at {index} was let go of"
        return position
