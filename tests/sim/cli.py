"""`sim`: whole clusters by seed.

    sim 42                     one history; prints its plan, its digest and what happened
    sim 42 --trace             with all lines of the trace (their legend: docs/simulator.md)
    sim 42 --shrink            if it fails: the smallest command that fails still
    sim --seeds 0..200         many, on all processors
    sim --hours 2              seed after seed, from a random one on, until the time is up
    sim --mutants              every deliberate bug, and how many seeds it takes to find it

Exit codes: 0 all that must hold has held, 1 something did not, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import itertools
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from tests.sim.faults import FAULTS, WEATHER
from tests.sim.mutants import MUTANTS
from tests.sim.running import Options, Outcome, run_many, run_seed, shrink
from tests.sim.world import SECOND

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

TAIL_LINES = 40  # of a failing history that are shown
HOURS_SEED_MAX = 1 << 32


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    known = parser.parse_args(argv)
    options = Options(known.nodes, known.seconds, _without(parser, known.without), known.mutant)
    chosen = [it for it in (known.seed, known.seeds, known.hours) if it is not None]
    if len(chosen) + known.mutants != 1:
        parser.error("one of SEED, --seeds, --hours and --mutants")
    if known.mutants:
        return _mutants(options, known.jobs)
    if known.seed is not None:
        return _one(known.seed, options, trace=known.trace, shrinks=known.shrink)
    if known.hours is not None:
        first = secrets.randbelow(HOURS_SEED_MAX)
        say(f"from seed {first} on")
        return _many(itertools.count(first), options, known.jobs, known.hours * 3_600)
    return _many(_range(parser, known.seeds), options, known.jobs, None)


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
    began_s = time.monotonic()
    done = failed = simulated_us = 0
    counts: Counter[str] = Counter()
    for outcome in run_many(_until(seeds, began_s, limit_s), options, jobs):
        done += 1
        simulated_us += outcome.simulated_us
        counts.update(outcome.counts)
        if outcome.error is not None:
            failed += 1
            _say_failure(outcome)
    elapsed_s = time.monotonic() - began_s
    for name, count in sorted(counts.items()):
        say(f"{count:>9} {name}")
    say(
        f"{done} seeds, {failed} failed; {simulated_us / SECOND:.0f} s simulated in "
        f"{elapsed_s:.1f} s"
    )
    return EXIT_FAILED if failed else EXIT_DONE


def _until(seeds: Iterable[int], began_s: float, limit_s: float | None) -> Iterable[int]:
    for seed in seeds:
        if limit_s is not None and time.monotonic() - began_s >= limit_s:
            return
        yield seed


def _mutants(options: Options, jobs: int | None) -> int:
    missed = 0
    for name, mutant in MUTANTS.items():
        found = first_caught(name, options, range(mutant.seeds), jobs)
        if found is None:
            missed += 1
            say(f"{name:<20} NOT CAUGHT by {mutant.seeds} seeds: {mutant.what}")
        else:
            assert found.error is not None
            say(f"{name:<20} seed {found.seed}: {found.error.splitlines()[0][:120]}")
    return EXIT_FAILED if missed else EXIT_DONE


def first_caught(
    name: str, options: Options, seeds: Iterable[int], jobs: int | None
) -> Outcome | None:
    """The first outcome that finds the bug; not always the lowest seed, if there are many jobs."""
    with_bug = Options(options.nodes, options.seconds, options.without, name)
    for outcome in run_many(seeds, with_bug, jobs):
        if outcome.error is not None:
            return outcome
    return None
