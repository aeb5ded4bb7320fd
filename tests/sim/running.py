"""Running seeds: one, many at a time in processes, and one again and again until it is small.

A run is (seed, options), plain values both, so it can be handed to another process, and written
down as the command that repeats it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from tests.sim import mutants
from tests.sim.faults import FAULTS, WEATHER
from tests.sim.simulation import Simulation
from tests.sim.world import SECOND

Sink = Callable[[str], None]

SECONDS_LEAST = 0.25  # of faults: a failing history is not cut shorter than this


@dataclass(slots=True, frozen=True)
class Options:
    nodes: int | None = None
    seconds: float | None = None
    without: tuple[str, ...] = ()
    mutant: str | None = None

    def command(self, seed: int) -> str:
        words = [f"bin/sim {seed}"]
        if self.nodes is not None:
            words.append(f"--nodes {self.nodes}")
        if self.seconds is not None:
            words.append(f"--seconds {self.seconds:g}")
        if self.without:
            words.append(f"--without {','.join(self.without)}")
        if self.mutant is not None:
            words.append(f"--mutant {self.mutant}")
        return " ".join(words)


@dataclass(slots=True)
class Outcome:
    """What became of one seed.  ``error`` None: all that must hold has held."""

    seed: int
    options: Options
    plan: str
    error: str | None
    where: str  # in our code the error came up
    digest: str
    events: int
    simulated_us: int
    elapsed_s: float
    tail: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


@contextmanager
def _quiet() -> Iterator[None]:
    """What goes wrong here is meant to; the trace tells of it."""
    logger = logging.getLogger("polyraft")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def run_seed(seed: int, options: Options, sink: Sink | None = None) -> Outcome:
    began_s = time.perf_counter()
    error: str | None = None
    where = ""
    counts: Counter[str] = Counter()
    with mutants.applied(options.mutant), _quiet():
        simulation = Simulation(
            seed,
            nodes=options.nodes,
            seconds=options.seconds,
            without=options.without,
            sink=sink,
        )
        try:
            counts = simulation.run().counts
        except Exception as caught:  # noqa: BLE001 - whatever it is, it is what the seed found
            error = f"{type(caught).__name__}: {caught}"
            where = "".join(traceback.format_tb(caught.__traceback__)[-3:])
    world = simulation.world
    return Outcome(
        seed,
        options,
        simulation.plan.describe(),
        error,
        where,
        world.trace.digest(),
        simulation.events,
        world.now_us,
        time.perf_counter() - began_s,
        [] if error is None else world.trace.last_lines(),
        counts,
    )


def _run_one(run: tuple[int, Options]) -> Outcome:
    return run_seed(*run)


def run_many(seeds: Iterable[int], options: Options, jobs: int | None = None) -> Iterator[Outcome]:
    """As they are done.  Fresh processes: a mutant, or a leak, stays in the one that has it."""
    runs = ((seed, options) for seed in seeds)
    jobs = jobs or os.cpu_count() or 1
    if jobs == 1:
        yield from map(_run_one, runs)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap_unordered(_run_one, runs, chunksize=2)


def shrink(outcome: Outcome, say: Sink) -> Outcome:
    """The smallest history of this seed that fails still: fewer kinds of fault, then shorter."""
    assert outcome.error is not None
    best = outcome
    for kind in (*FAULTS, *WEATHER):
        if kind not in best.options.without:
            best = _try(best, replace(best.options, without=(*best.options.without, kind)), say)
    while True:
        seconds = best.options.seconds
        if seconds is None:
            # Faults end no later than the failure came up.
            seconds = best.simulated_us / SECOND
        shorter = _try(best, replace(best.options, seconds=round(seconds * 0.7, 2)), say)
        if shorter is best or seconds < SECONDS_LEAST:
            return shorter
        best = shorter


def _try(best: Outcome, options: Options, say: Sink) -> Outcome:
    found = run_seed(best.seed, options)
    if found.error is None:
        return best
    say(f"fails still: {options.command(best.seed)}")
    return found
