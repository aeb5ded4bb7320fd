"""The command line: what it says, and that a failing seed says how to see it again."""

from __future__ import annotations

import pytest

from tests.sim.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from tests.sim.faults import FAULTS
from tests.sim.running import Options, run_seed, shrink

BUG = "leader-memory"
SEED = 0  # finds it, as nearly every one does


def test_one_seed_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["3", "--seconds", "1"]) == EXIT_DONE
    out = capsys.readouterr().out
    assert out.startswith("seed 3: ")
    assert "digest" in out.splitlines()[-1]


def test_the_trace_is_printed_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["3", "--seconds", "1", "--trace"]) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert sum(" leads term " in line for line in lines) >= 1
    assert any(line.endswith("heals") for line in lines)


def test_a_failing_seed_says_how_to_see_it_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(SEED), "--mutant", BUG]) == EXIT_FAILED
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f"FAILED seed {SEED}: AssertionError: ") for line in lines)
    assert lines[-1] == f"  again: bin/sim {SEED} --mutant {BUG} --trace"
    assert main(["--seeds", f"{SEED}..{SEED + 1}", "--jobs", "1", "--mutant", BUG]) == EXIT_FAILED
    assert "1 seeds, 1 failed" in capsys.readouterr().out


def test_shrinking_leaves_a_smaller_history_that_fails_still() -> None:
    found = run_seed(SEED, Options(mutant=BUG))
    said: list[str] = []
    small = shrink(found, said.append)
    assert said
    assert run_seed(SEED, small.options).error is not None
    assert len(small.options.without) > len(FAULTS) // 2
    assert small.options.seconds is not None
    assert small.simulated_us <= found.simulated_us


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["3", "--seeds", "1..2"],
        ["--seeds", "2..2"],
        ["--seeds", "7"],
        ["3", "--without", "rain"],
        ["3", "--nodes", "0"],
        ["3", "--mutant", "nobody"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == EXIT_USAGE
    assert "usage" in capsys.readouterr().err
