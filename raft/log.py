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

The log knows nothing of what is durable or committed: that is for the core, which never lets it be
cut at or below the commit index.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from raft.messages import Run


def _term(run: Run) -> int:
    return run.term


class Log:
    """Runs in order. ``base_index``, ``base_term``: the entry just before the first one."""

    __slots__ = ("_base_index", "_base_term", "_firsts", "_last_index", "_last_term", "_runs")

    def __init__(
        self, runs: Iterable[Run] = (), *, base_index: int = 0, base_term: int = 0
    ) -> None:
        assert base_index >= 0
        assert (base_index == 0) == (base_term == 0), "index and term of the base belong together"
        self._base_index = base_index
        self._base_term = base_term
        self._last_index = base_index
        self._last_term = base_term
        self._runs: list[Run] = []
        self._firsts: list[int] = []  # beside the runs, so that bisect compares plain integers
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
    def run_count(self) -> int:
        return len(self._runs)

    def term_at(self, index: int) -> int | None:
        """The term of an entry, None where it is unknown: beyond the end or before the base."""
        if index == self._last_index:
            return self._last_term
        if index == self._base_index:
            return self._base_term
        run = self.run_containing(index)
        return None if run is None else run.term

    def run_containing(self, index: int) -> Run | None:
        if not self._base_index < index <= self._last_index:
            return None
        run = self._runs[bisect_right(self._firsts, index) - 1]
        assert run.first <= index <= run.last, f"hole in the log at {index}"
        return run

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
            self._last_index = run.first + run.count - 1
            self._last_term = run.term

    def truncate_from(self, index: int) -> None:
        """Remove the entry at ``index`` and all behind it. Only at the start of a run."""
        assert self._base_index < index <= self._last_index, (
            f"cannot cut at {index}: the log has {self.first_index}..{self._last_index}"
        )
        position = bisect_left(self._firsts, index)
        assert self._firsts[position : position + 1] == [index], (
            f"cannot cut at {index}: inside a run"
        )
        del self._runs[position:]
        del self._firsts[position:]
        self._last_index = index - 1
        self._last_term = self._runs[-1].term if self._runs else self._base_term

    def compact_to(self, index: int) -> None:
        """Forget everything up to ``index``, a border: a snapshot has it."""
        assert self._base_index <= index <= self._last_index, (
            f"cannot compact to {index}: the log has {self.first_index}..{self._last_index}"
        )
        term = self.term_at(index)
        assert term is not None
        position = bisect_right(self._firsts, index)
        assert position == 0 or self._runs[position - 1].last == index, f"{index} lies inside a run"
        del self._runs[:position]
        del self._firsts[:position]
        self._base_index, self._base_term = index, term

    def reset(self, index: int, term: int) -> None:
        """Forget everything: a snapshot that ends at this entry replaces the log."""
        assert index > 0
        assert term > 0
        self._runs.clear()
        self._firsts.clear()
        self._base_index = self._last_index = index
        self._base_term = self._last_term = term

    def slice(self, from_index: int, bytes_max: int) -> list[Run]:
        """Runs from ``from_index`` on, up to so many bytes of bodies, but one at least."""
        taken: list[Run] = []
        size_bytes = 0
        for position in range(self._position(from_index), len(self._runs)):
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
        start = self._position(first)
        end = bisect_right(self._firsts, last)
        assert self._runs[end - 1].last == last, f"{last} lies inside a run"
        return self._runs[start:end]

    def tail(self, count_max: int) -> list[Run]:
        """The last runs, at most so many."""
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
        position = bisect_right(self._runs, term, key=_term) - 1
        if position < 0:
            return (self._base_index, self._base_term)
        run = self._runs[position]
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
            return len(self._runs)
        position = bisect_left(self._firsts, index)
        assert self._firsts[position : position + 1] == [index], f"no run starts at {index}"
        return position
