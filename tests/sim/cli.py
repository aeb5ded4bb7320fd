"""`sim`: whole clusters by seed.

    sim 42                     one history; prints its plan, its digest and what happened
    sim 42 --trace             with all lines of the trace (their legend: docs/simulator.md)
    sim 42 --shrink            if it fails: the smallest command that fails still
    sim --seeds 0..200         many, on all processors
    sim --hours 2              seed after seed, from a random one on, until the time is up
    sim --mutants              every deliberate bug, and how many seeds it takes to find it
    sim --mutants --record     note a seed for each, for the tests; first tried are those noted now

Together with --mutant NAME only that one; with --seeds A..B only these seeds are tried.

Exit codes: 0 all that must hold has held, 1 something did not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from tests.sim.faults import FAULTS, WEATHER
from tests.sim.hunting import SEEDS_MAX, Caught, Hunter
from tests.sim.mutants import MUTANTS, seeds
from tests.sim.running import Options, Outcome, Processes, run_many, run_seed, shrink
from tests.sim.world import SECOND

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

TAIL_LINES = 40  # of a failing history that are shown
HOURS_SEED_MAX = 1 << 32
PROGRESS_S = 10.0  # between two lines that say how far it has come
ERROR_CHARACTERS = 120  # of what has found a deliberate bug


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Progress:
    """A line now and then, apart from the results: a long run shows that it lives, and one that is
    killed has said how far it came."""

    def __init__(self) -> None:
        self.began_s = self._said_s = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s

    def maybe_say(self, done: str, simulated_us: int = 0) -> None:
        now_s = time.monotonic()
        if now_s - self._said_s < PROGRESS_S:
            return
        self._said_s = now_s
        speed = simulated_us / SECOND / max(now_s - self.began_s, 0.001)
        rate = f", {speed:.0f} s simulated per second" if simulated_us else ""
        sys.stderr.write(f"{now_s - self.began_s:.0f} s: {done}{rate}\n")
        sys.stderr.flush()


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    known = parser.parse_args(argv)
    options = Options(known.nodes, known.seconds, _without(parser, known.without), known.mutant)
    span = None if known.seeds is None else _range(parser, known.seeds)
    if known.mutants:
        if known.seed is not None or known.hours is not None:
            parser.error("--mutants goes through seeds by itself")
        if known.record and replace(options, mutant=None) != Options():
            parser.error("seeds are noted for plain histories: no --nodes, --seconds, --without")
        return _mutants(options, span or range(SEEDS_MAX), known.jobs, records=known.record)
    if known.record:
        parser.error("--record belongs to --mutants")
    if sum(it is not None for it in (known.seed, span, known.hours)) != 1:
        parser.error("one of SEED, --seeds, --hours and --mutants")
    if known.seed is not None:
        return _one(known.seed, options, trace=known.trace, shrinks=known.shrink)
    if span is not None:
        return _many(span, options, known.jobs, None)
    first = secrets.randbelow(HOURS_SEED_MAX)
    say(f"from seed {first} on")
    return _many(itertools.count(first), options, known.jobs, known.hours * 3_600)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/sim",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("seed", nargs="?", type=int, metavar="SEED")
    parser.add_argument("--seeds", metavar="A..B", help="A included, B not")
    parser.add_argument("--hours", type=float, metavar="N")
    parser.add_argument("--mutants", action="store_true")
    parser.add_argument("--record", action="store_true", help="with --mutants: note the seeds")
    parser.add_argument("--trace", action="store_true", help="print every line")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller failing history")
    parser.add_argument("--seconds", type=float, metavar="N", help="of faults, in simulated time")
    parser.add_argument("--nodes", type=int, metavar="N", choices=range(1, 10))
    parser.add_argument("--without", metavar="A,B", help="kinds of fault to leave out")
    parser.add_argument("--mutant", choices=MUTANTS, help="with this deliberate bug")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; default: one a processor")
    return parser


def _without(parser: argparse.ArgumentParser, text: str | None) -> tuple[str, ...]:
    names = tuple(text.split(",")) if text else ()
    for name in names:
        if name not in FAULTS and name not in WEATHER:
            parser.error(f"no fault {name!r}; there are: {', '.join((*FAULTS, *WEATHER))}")
    return names


def _range(parser: argparse.ArgumentParser, text: str) -> range:
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        parser.error("--seeds is A..B, with A below B")
    return range(int(first), int(last))


# --------------------------------------------------------------------------- one


def _one(seed: int, options: Options, *, trace: bool, shrinks: bool) -> int:
    outcome = run_seed(seed, options, say if trace else None)
    if outcome.error is not None:
        if shrinks:
            outcome = shrink(outcome, say)
        _say_failure(outcome, tail=not trace or shrinks)
        return EXIT_FAILED
    say(f"seed {seed}: {outcome.plan}")
    for name, count in sorted(outcome.counts.items()):
        say(f"{count:>9} {name}")
    say(
        f"ok: {outcome.events} events, {outcome.simulated_us / SECOND:.1f} s simulated in "
        f"{outcome.elapsed_s:.2f} s, digest {outcome.digest}"
    )
    return EXIT_DONE


def _say_failure(outcome: Outcome, *, tail: bool = True) -> None:
    if tail:
        for line in outcome.tail[-TAIL_LINES:]:
            say(line)
    say(outcome.where.rstrip())
    say(f"FAILED seed {outcome.seed}: {outcome.error}")
    say(f"  after {outcome.simulated_us / SECOND:.3f} s and {outcome.events} events")
    say(f"  {outcome.plan}")
    say(f"  again: {outcome.options.command(outcome.seed)} --trace")


# --------------------------------------------------------------------------- many


def _many(seeds: Iterable[int], options: Options, jobs: int | None, limit_s: float | None) -> int:
    progress = Progress()
    done = failed = simulated_us = 0
    counts: Counter[str] = Counter()
    for outcome in run_many(_until(seeds, progress, limit_s), options, jobs):
        done += 1
        simulated_us += outcome.simulated_us
        counts.update(outcome.counts)
        if outcome.error is not None:
            failed += 1
            _say_failure(outcome)
        progress.maybe_say(f"{done} seeds done, {failed} failed", simulated_us)
    for name, count in sorted(counts.items()):
        say(f"{count:>9} {name}")
    say(
        f"{done} seeds, {failed} failed; {simulated_us / SECOND:.0f} s simulated in "
        f"{progress.elapsed_s:.1f} s"
    )
    return EXIT_FAILED if failed else EXIT_DONE


def _until(seeds: Iterable[int], progress: Progress, limit_s: float | None) -> Iterable[int]:
    for seed in seeds:
        if limit_s is not None and progress.elapsed_s >= limit_s:
            return
        yield seed


# --------------------------------------------------------------------------- deliberate bugs


def _mutants(options: Options, span: range, jobs: int | None, *, records: bool) -> int:
    names = [options.mutant] if options.mutant is not None else list(MUTANTS)
    noted = seeds.read()
    missed = 0
    progress = Progress()
    with Processes(jobs) as processes:
        hunter = Hunter(processes, replace(options, mutant=None))
        for name in names:
            found = None
            if records and name in noted:
                found = hunter.hunt(name, [noted[name]])
            if found is None:
                found = hunter.hunt(name, span, _teller(progress, name))
            missed += found is None
            say(_told(name, found, span))
            if records:
                _note(noted, name, found)
    for outcome in hunter.failures.values():
        _say_failure(outcome)
    say(f"{len(names)} bugs, {missed} not found; {progress.elapsed_s:.0f} s")
    return EXIT_FAILED if missed or hunter.failures else EXIT_DONE


def _teller(progress: Progress, name: str) -> Callable[[int], None]:
    return lambda tried: progress.maybe_say(f"{name} is not found by {tried} seeds")


def _told(name: str, found: Caught | None, span: range) -> str:
    if found is None:
        return f"{name:<26} NOT FOUND by {len(span)} seeds: {MUTANTS[name].what}"
    first_line = found.error.splitlines()[0][:ERROR_CHARACTERS]
    return f"{name:<26} {found.tried:>4} tried, seed {found.seed:>4}: {first_line}"


def _note(noted: dict[str, int], name: str, found: Caught | None) -> None:
    """At once: a run that is broken off has noted what it has found."""
    noted.pop(name, None)
    if found is not None:
        noted[name] = found.seed
    seeds.write({each: noted[each] for each in MUTANTS if each in noted})
