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
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import attrgetter

from tests.sim import mutants
from tests.sim.faults import FAULTS, WEATHER
from tests.sim.simulation import Simulation
from tests.sim.world import SECOND

Sink = Callable[[str], None]

SECONDS_LEAST = 0.25  # of faults: a failing history is not cut shorter than this
AHEAD_PER_PROCESS = 2  # seeds that are handed out and not known to be done


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


def _line_of(error: Exception) -> str:
    """Of our code, where an assertion says nothing more."""
    frames = traceback.extract_tb(error.__traceback__)
    return str(frames[-1].line) if frames else ""


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
            error = f"{type(caught).__name__}: {str(caught) or _line_of(caught)}"
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


class Processes:
    """So many, by default one a processor.  Fresh ones: a mutant, or a leak, stays in the one that
    has it.  One needs no other process than this."""

    def __init__(self, jobs: int | None = None) -> None:
        count = jobs or os.cpu_count() or 1
        self._ahead = AHEAD_PER_PROCESS * count
        self._executor: Executor | None = None
        if count > 1:
            self._executor = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def run(self, seeds: Iterable[int], options: Options) -> Iterator[Outcome]:
        """As they are done."""
        if self._executor is None:
            yield from (run_seed(seed, options) for seed in seeds)
            return
        source = iter(seeds)
        waiting: set[Future[Outcome]] = set()
        while True:
            for seed in islice(source, self._ahead - len(waiting)):
                waiting.add(self._executor.submit(run_seed, seed, options))
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from sorted((each.result() for each in done), key=attrgetter("seed"))

    def run_in_order(self, seeds: Iterable[int], options: Options) -> Iterator[Outcome]:
        """One after the other, however many work at it: who stops at the first that fails has the
        lowest."""
        if self._executor is None:
            yield from (run_seed(seed, options) for seed in seeds)
            return
        source = iter(seeds)
        waiting: deque[Future[Outcome]] = deque()
        try:
            while True:
                for seed in islice(source, self._ahead - len(waiting)):
                    waiting.append(self._executor.submit(run_seed, seed, options))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()


def run_many(seeds: Iterable[int], options: Options, jobs: int | None = None) -> Iterator[Outcome]:
    """As they are done."""
    with Processes(jobs) as processes:
        yield from processes.run(seeds, options)


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
