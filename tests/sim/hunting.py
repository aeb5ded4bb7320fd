"""Looking for the first seed that finds a deliberate bug.

A seed that fails without the bug, too, proves nothing about the bug, and tells of another one that
nobody has put there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from tests.sim.running import Options, Outcome, Processes, run_seed

SEEDS_MAX = 3_000  # of which one has to find it


@dataclass(slots=True, frozen=True)
class Caught:
    seed: int
    tried: int  # seeds, this one included
    error: str


class Hunter:
    """``options``: what all runs have in common.  ``failures``: seeds that fail without a bug of
    ours."""

    def __init__(self, processes: Processes, options: Options) -> None:
        self._processes = processes
        self._options = options
        self._without: dict[int, Outcome] = {}
        self.failures: dict[int, Outcome] = {}

    def hunt(
        self, name: str, seeds: Iterable[int], on_tried: Callable[[int], None] = lambda _: None
    ) -> Caught | None:
        """The lowest seed, also with many processes.  ``on_tried`` hears how many it is by now."""
        with_bug = replace(self._options, mutant=name)
        for tried, outcome in enumerate(self._processes.run_in_order(seeds, with_bug), 1):
            on_tried(tried)
            if outcome.error is not None and self._is_sound(outcome.seed):
                return Caught(outcome.seed, tried, outcome.error)
        return None

    def _is_sound(self, seed: int) -> bool:
        if seed not in self._without:
            self._without[seed] = outcome = run_seed(seed, replace(self._options, mutant=None))
            if outcome.error is not None:
                self.failures[seed] = outcome
        return self._without[seed].error is None
