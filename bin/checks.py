"""``bin/check``: everything that CI runs, in the order in which a mistake is cheapest to find.

Each step is one program in a session of its own, so that it and all that it starts can be ended
as a whole: Ctrl-C asks it to stop as Ctrl-C would, and ends it when it does not.  Steps go on
after a failure, except that nothing follows an interruption.  The last line counts tests; a step
without tests that failed counts as one failure.
"""

from __future__ import annotations

import argparse
import os
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


def run_step(step: Step, *, empty_is_fine: bool) -> Result:
    print(f"\n== {step.name}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="polyraft-check-") as aside:
        report = Path(aside) / "report.xml"
        command = [*step.command, f"--junitxml={report}"] if step.tests else [*step.command]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait()
        except Interrupted:
            _stop(process)
            raise
        if code == PYTEST_NO_TESTS and step.tests and empty_is_fine:
            code = 0
        counts = _counts(report) if step.tests else {}
    if code and not counts.get("failed"):
        counts["failed"] = 1
    return Result(step, code, time.monotonic() - began, counts)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the step with all that it has started: first ask it, then end the whole session."""
    try:
        os.kill(process.pid, signal.SIGINT)
        process.wait(STOP_SECONDS_MAX)
    except (ProcessLookupError, subprocess.TimeoutExpired, Interrupted):
        pass  # a second Ctrl-C means now
    try:
        os.killpg(process.pid, signal.SIGKILL)  # the step's session: it and its children alone
    except ProcessLookupError:
        return
    process.wait()


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


def summary(results: Sequence[Result]) -> str:
    """The table, and as its last line the counts."""
    lines = [""]
    for result in results:
        text = ", ".join(f"{result.counts[name]} {name}" for name in result.counts)
        verdict = "FAILED" if result.failed else "ok"
        lines.append(
            f"{result.step.name:<20} {verdict:<7} {result.seconds:6.1f} s  {text}".rstrip()
        )
    total = {name: sum(result.counts.get(name, 0) for result in results) for name in OUTCOMES}
    seconds = sum(result.seconds for result in results)
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


def _steps(what: str, extra: Sequence[str], repeat: int) -> list[Step]:
    if what == "lint":
        return lint_steps()
    if what == "unit":
        return unit_steps(extra)
    if what == "e2e":
        return cluster_steps(extra, repeat)
    return [*lint_steps(), *unit_steps(()), *coverage_steps(), *cluster_steps((), 1)]


def _interrupt(number: int, _frame: types.FrameType | None) -> None:
    raise Interrupted(number)


def main(argv: Sequence[str] | None = None) -> int:
    known, extra = _parse(sys.argv[1:] if argv is None else argv)
    steps = _steps(known.what, extra, known.repeat)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    results: list[Result] = []
    try:
        for step in steps:
            results.append(run_step(step, empty_is_fine=not extra))
    except Interrupted as interruption:
        print(summary(results))
        print(f"bin/check: stopped in {steps[len(results)].name}", file=sys.stderr)
        return 128 + int(interruption.args[0])
    print(summary(results))
    return 1 if any(result.failed for result in results) else 0
