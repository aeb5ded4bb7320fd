"""What bin/check makes of its steps."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).resolve().parent.parent / "bin" / "checks.py"


@pytest.fixture(scope="module")
def checks() -> types.ModuleType:
    specification = importlib.util.spec_from_file_location("checks", PATH)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["checks"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def python(checks: types.ModuleType, code: str, *, tests: bool = False, name: str = "step") -> Any:
    return checks.Step(name, (sys.executable, "-c", code), tests=tests)


def run(
    checks: types.ModuleType, *lanes: Sequence[object], empty_is_fine: bool = True
) -> list[Any]:
    results: list[Any] = []
    checks.run_lanes(lanes, results, empty_is_fine=empty_is_fine)
    return results


def write_report(counts: str) -> str:
    """Code of a stand-in for pytest: writes the report that it is asked for."""
    report = f"<testsuites><testsuite {counts}/></testsuites>"
    return f"import sys; open(sys.argv[1].split('=')[1], 'w').write('{report}')"


def test_the_last_line_counts_the_tests_of_all_steps(checks: types.ModuleType) -> None:
    first = write_report('tests="12" errors="1" failures="2" skipped="3"') + "; sys.exit(1)"
    second = write_report('tests="5" errors="0" failures="0" skipped="0"')
    steps = [
        python(checks, "pass"),
        python(checks, first, tests=True),
        python(checks, second, tests=True),
    ]
    results = run(checks, steps)
    assert [result.failed for result in results] == [False, True, False]
    last = checks.summary(results, 1.25).splitlines()[-1]
    assert last == "11 passed, 3 failed, 3 skipped in 1.2s"


def test_a_step_without_tests_that_fails_is_one_failure(checks: types.ModuleType) -> None:
    (result,) = run(checks, [python(checks, "raise SystemExit(4)")])
    assert result.code == 4
    assert checks.summary([result], 0).splitlines()[-1] == "0 passed, 1 failed in 0.0s"


def test_no_tests_are_fine_unless_somebody_asked_for_them(checks: types.ModuleType) -> None:
    step = python(checks, "raise SystemExit(5)", tests=True)
    assert not run(checks, [step])[0].failed
    assert run(checks, [step], empty_is_fine=False)[0].failed


def test_lanes_go_side_by_side_and_each_in_its_order(
    checks: types.ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fifo = tmp_path / "meeting"
    os.mkfifo(fifo)
    # Each of the two waits, though not for ever, for the other one to open the pipe.
    patient = f"import signal; signal.alarm(60); fifo = {str(fifo)!r}; "
    front = [python(checks, patient + "print(open(fifo).read())", name="front")]
    beside = [
        python(checks, patient + "print('from beside', file=open(fifo, 'w'))", name="first"),
        python(checks, "import os; print('niceness', os.nice(0))", name="second"),
    ]
    results = run(checks, front, beside)
    names = [result.step.name for result in results]
    assert sorted(names) == ["first", "front", "second"]
    assert names.index("first") < names.index("second")
    assert not any(result.failed for result in results)
    said = capfd.readouterr().out
    assert "from beside" in said
    niceness = min(os.nice(0) + checks.BESIDE_NICENESS, 19)
    assert f"== second, beside the others\nniceness {niceness}\n" in said


def test_an_interruption_ends_the_step_and_all_that_it_started(
    checks: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "held"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    grandchild = f"exec 3> {fifo}; kill -USR1 {os.getpid()}; sleep 600"
    code = (
        "import signal, subprocess\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"  # does not stop when asked
        f"subprocess.call(['sh', '-c', {grandchild!r}])\n"
    )
    monkeypatch.setattr(checks, "STOP_SECONDS_MAX", 0.05)
    before = signal.signal(signal.SIGUSR1, checks._interrupt)
    try:
        with pytest.raises(checks.Interrupted):
            run(checks, [python(checks, "import time; time.sleep(600)")], [python(checks, code)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert os.read(reader, 1) == b""  # whoever held the other end is gone
    os.close(reader)


@pytest.mark.parametrize("line", ["--repeat 3", "e2e --repeat 0", "all -k x", "lint -x", "lnt"])
def test_what_makes_no_sense_is_wrong_usage(checks: types.ModuleType, line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        checks._parse(line.split())
    assert caught.value.code == 2


def test_what_is_not_known_is_handed_to_pytest(checks: types.ModuleType) -> None:
    known, extra = checks._parse(["unit", "tests/raft", "-k", "vote"])
    assert (known.what, extra) == ("unit", ["tests/raft", "-k", "vote"])
