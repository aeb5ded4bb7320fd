"""``bin/check``: everything that CI runs.

The tests with real processes wait more than they compute.  Beside them, with less of a claim to the
processors, goes all the rest, in the order in which a mistake is cheapest to find; what it says is
shown when a step of it has ended.

Each step is one program in a session of its own, so that it and all that it starts can be ended
as a whole: Ctrl-C asks it to stop as Ctrl-C would, and ends it when it does not.  Steps go on
after a failure, except that nothing follows an interruption.  The last line counts tests; a step
without tests that failed counts as one failure.
"""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
COVERAGE_PERCENT_MIN = 98  # of lines and branches of the pure part of raft/
STOP_SECONDS_MAX = 60.0  # for pytest to take down what its tests have started
PYTEST_NO_TESTS = 5
BESIDE_NICENESS = 10  # of what computes beside tests that wait for answers in time
OUTCOMES = ("passed", "failed", "skipped")


@dataclass(frozen=True)
class Step:
    name: str
    command: tuple[str, ...]
    tests: bool = False


@dataclass
class Result:
    step: Step
    code: int
    seconds: float
    counts: dict[str, int]

    @property
    def failed(self) -> bool:
        return self.code != 0


# Its steps follow one another; lanes go side by side.
Lane = Sequence[Step]


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; the argument is the signal."""


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


def _programs() -> list[str]:
    """Programs in bin/ have no suffix, so the checkers must be told of them."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "bin").iterdir()
        if path.is_file() and not path.suffix
    )


def lint_steps() -> list[Step]:
    return [
        Step("ruff check", _python("ruff", "check", ".", *_programs())),
        Step("ruff format", _python("ruff", "format", "--check", ".", *_programs())),
        Step("mypy --strict", _python("mypy")),
    ]


def unit_steps(extra: Sequence[str]) -> list[Step]:
    return [Step("unit tests", _python("pytest", "-m", "not cluster", *extra), tests=True)]


def coverage_steps() -> list[Step]:
    """The tests of consensus reach all of it, without help from the layers above or from chance."""
    own = ("tests/raft", "--ignore=tests/raft/store", "--ignore=tests/raft/test_storms.py")
    return [
        Step("tests of raft/", _python("coverage", "run", "-m", "pytest", *own)),
        Step(
            "their coverage", _python("coverage", "report", f"--fail-under={COVERAGE_PERCENT_MIN}")
        ),
    ]


def cluster_steps(extra: Sequence[str], repeat: int) -> list[Step]:
    command = _python("pytest", "-m", "cluster", *extra)
    if repeat == 1:
        return [Step("cluster tests", command, tests=True)]
    return [Step(f"cluster tests {i + 1}/{repeat}", command, tests=True) for i in range(repeat)]


# --------------------------------------------------------------------------- running


class Running:
    """A step that was started.  Beside another lane it is nice, and heard when it has ended."""

    def __init__(self, step: Step, *, beside: bool) -> None:
        self.step = step
        self._aside = tempfile.TemporaryDirectory(prefix="polyraft-check-")
        self._report = Path(self._aside.name) / "report.xml"
        self._said = Path(self._aside.name) / "said" if beside else None
        command = [*step.command, f"--junitxml={self._report}"] if step.tests else [*step.command]
        if self._said is None:
            print(f"\n== {step.name}", flush=True)
            output = None
        else:
            command = ["nice", "-n", str(BESIDE_NICENESS), *command]
            output = self._said.open("wb")
        self._began = time.monotonic()
        try:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
            )
        finally:
            if output is not None:
                output.close()

    def end(self, *, empty_is_fine: bool) -> Result:
        """Its process has ended, or does now."""
        code = self.process.wait()
        seconds = time.monotonic() - self._began
        if code == PYTEST_NO_TESTS and self.step.tests and empty_is_fine:
            code = 0
        counts = _counts(self._report) if self.step.tests else {}
        if code and not counts.get("failed"):
            counts["failed"] = 1
        self._tell()
        return Result(self.step, code, seconds, counts)

    def stop(self) -> None:
        """End it with all that it has started: it was asked; now end the whole session."""
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except (subprocess.TimeoutExpired, Interrupted):
            pass  # a second Ctrl-C means now
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # its session: it and its children alone
        except ProcessLookupError:
            pass
        self.process.wait()
        self._tell()

    def _tell(self) -> None:
        if self._said is not None:
            said = self._said.read_text(errors="replace")
            print(f"\n== {self.step.name}, beside the others\n{said}", end="", flush=True)
        self._aside.cleanup()


def run_lanes(lanes: Sequence[Lane], results: list[Result], *, empty_is_fine: bool) -> None:
    """All steps; ``results`` grows as they end.  The first lane is heard, the others beside it."""
    left = [list(lane) for lane in lanes]
    with selectors.DefaultSelector() as ends:

        def start_next(lane: int) -> None:
            if left[lane]:
                running = Running(left[lane].pop(0), beside=lane > 0)
                end = os.pidfd_open(running.process.pid)
                ends.register(end, selectors.EVENT_READ, (lane, running))

        try:
            for lane in range(len(lanes)):
                start_next(lane)
            while ends.get_map():
                for key, _ in ends.select():
                    ends.unregister(key.fd)
                    os.close(key.fd)
                    lane, running = key.data
                    results.append(running.end(empty_is_fine=empty_is_fine))
                    start_next(lane)
        finally:
            _stop([key.data[1] for key in ends.get_map().values()])


def _stop(steps: Sequence[Running]) -> None:
    for each in steps:
        try:
            os.kill(each.process.pid, signal.SIGINT)
        except ProcessLookupError:
            pass
    for each in steps:
        each.stop()


def _counts(report: Path) -> dict[str, int]:
    if not report.exists():  # pytest did not get that far
        return {}
    counts = dict.fromkeys(OUTCOMES, 0)
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        number = {
            name: int(suite.get(name, "0")) for name in ("tests", "errors", "failures", "skipped")
        }
        failed = number["failures"] + number["errors"]
        counts["failed"] += failed
        counts["skipped"] += number["skipped"]
        counts["passed"] += number["tests"] - failed - number["skipped"]
    return counts


def summary(results: Sequence[Result], seconds: float) -> str:
    """The table, and as its last line the counts."""
    lines = [""]
    for result in results:
        text = ", ".join(f"{result.counts[name]} {name}" for name in result.counts)
        verdict = "FAILED" if result.failed else "ok"
        lines.append(
            f"{result.step.name:<20} {verdict:<7} {result.seconds:6.1f} s  {text}".rstrip()
        )
    total = {name: sum(result.counts.get(name, 0) for result in results) for name in OUTCOMES}
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    lines.append(f"{total['passed']} passed, {total['failed']} failed{skipped} in {seconds:.1f}s")
    return "\n".join(lines)


# --------------------------------------------------------------------------- the command line


def _parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="bin/check",
        allow_abbrev=False,
        description="Everything that CI runs: lint, types, unit tests, tests with real processes.",
        epilog="What is not known here is handed to pytest: bin/check unit tests/raft -k vote",
    )
    parser.add_argument("what", nargs="?", default="all", choices=("all", "lint", "unit", "e2e"))
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="e2e: so many times")
    known, extra = parser.parse_known_args(argv)
    if known.repeat < 1:
        parser.error("--repeat must be at least 1")
    if known.repeat > 1 and known.what != "e2e":
        parser.error("--repeat belongs to e2e")
    if extra and known.what in ("all", "lint"):
        parser.error(f"{extra[0]}: arguments for pytest need unit or e2e before them")
    return known, extra


def _lanes(what: str, extra: Sequence[str], repeat: int) -> list[Lane]:
    if what == "lint":
        return [lint_steps()]
    if what == "unit":
        return [unit_steps(extra)]
    if what == "e2e":
        return [cluster_steps(extra, repeat)]
    return [cluster_steps((), 1), [*lint_steps(), *unit_steps(()), *coverage_steps()]]


def _interrupt(number: int, _frame: types.FrameType | None) -> None:
    raise Interrupted(number)


def main(argv: Sequence[str] | None = None) -> int:
    known, extra = _parse(sys.argv[1:] if argv is None else argv)
    lanes = _lanes(known.what, extra, known.repeat)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    began = time.monotonic()
    results: list[Result] = []
    try:
        run_lanes(lanes, results, empty_is_fine=not extra)
    except Interrupted as interruption:
        print(summary(results, time.monotonic() - began))
        ended = [result.step for result in results]
        names = [next((it.name for it in lane if it not in ended), "") for lane in lanes]
        print(f"bin/check: stopped in {', '.join(filter(None, names))}", file=sys.stderr)
        return 128 + int(interruption.args[0])
    print(summary(results, time.monotonic() - began))
    return 1 if any(result.failed for result in results) else 0
