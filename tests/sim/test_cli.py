"""The command line: what it says, and that a failing seed says how to see it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.sim import cli
from tests.sim.cli import EXIT_DONE, EXIT_FAILED, EXIT_USAGE, main
from tests.sim.faults import FAULTS
from tests.sim.hunting import Hunter
from tests.sim.mutants import MUTANTS, seeds
from tests.sim.running import Options, Outcome, Processes, run_many, run_seed, shrink

BUG = "leader-memory"
SEED = 16  # finds it, as nearly every one does


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


# --------------------------------------------------------------------------- many seeds

SHORT = Options(nodes=1, seconds=0.1)


def of(seed: int, error: str | None = None) -> Outcome:
    return Outcome(seed, Options(), "a plan", error, "somewhere", "", 1, 2_000_000, 0.1)


def test_of_many_seeds_one_that_fails_is_shown_before_the_next_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def runs(*_: object) -> Iterator[Outcome]:
        yield of(4)
        assert not capsys.readouterr().out
        yield of(5, "AssertionError: it lies")
        assert "FAILED seed 5: AssertionError: it lies" in capsys.readouterr().out
        yield of(6)

    monkeypatch.setattr(cli, "run_many", runs)
    assert main(["--seeds", "4..7"]) == EXIT_FAILED
    captured = capsys.readouterr()
    assert "FAILED" not in captured.out
    assert "3 seeds, 1 failed; 6 s simulated" in captured.out
    assert captured.err == ""  # it took no time


def test_a_long_run_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "run_many", lambda *_: iter((of(1), of(2, "no"), of(3))))
    monkeypatch.setattr(cli, "PROGRESS_S", 0.0)
    assert main(["--seeds", "1..4"]) == EXIT_FAILED
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2].partition(" s simulated")[0][:23] for line in lines] == [
        "1 seeds done, 0 failed,",
        "2 seeds done, 1 failed,",
        "3 seeds done, 1 failed,",
    ]
    assert all(line.endswith(" s simulated per second") for line in lines)


def test_a_run_of_hours_says_where_it_begins_and_ends_when_the_time_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("secrets.randbelow", lambda _: 17)
    assert main(["--hours", "0.00005", "--jobs", "1", "--seconds", "0.1", "--nodes", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("from seed 17 on\n")
    assert " seeds, 0 failed; " in out


def test_processes_run_each_seed_once_and_in_order_where_that_is_asked_for() -> None:
    alone = {outcome.seed: outcome.digest for outcome in run_many(range(5), SHORT, 1)}
    with Processes(2) as processes:
        ordered = list(processes.run_in_order(range(5), SHORT))
        found = {outcome.seed: outcome.digest for outcome in processes.run(range(5), SHORT)}
        first = next(processes.run_in_order(range(100_000), SHORT))
    assert [outcome.seed for outcome in ordered] == list(range(5))
    assert {outcome.seed: outcome.digest for outcome in ordered} == found == alone
    assert first.digest == alone[0]


# --------------------------------------------------------------------------- deliberate bugs


def mutants_in(monkeypatch: pytest.MonkeyPatch, file: Path, *names: str) -> None:
    monkeypatch.setattr(cli, "MUTANTS", {name: MUTANTS[name] for name in names})
    monkeypatch.setattr(seeds, "FILE", file)


def test_deliberate_bugs_are_told_with_what_found_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mutants_in(monkeypatch, tmp_path / "seeds.txt", BUG, "second-vote")
    assert main(["--mutants", "--jobs", "1"]) == EXIT_DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{BUG:<26}    1 tried, seed    0: AssertionError: ")
    assert lines[1].startswith("second-vote ")
    assert lines[2].startswith("2 bugs, 0 not found; ")
    assert not seeds.FILE.exists()


def test_a_bug_that_no_seed_finds_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without faults, and without a second node, nobody can vote twice."""
    mutants_in(monkeypatch, tmp_path / "seeds.txt", "second-vote")
    words = ["--mutants", "--seeds", "3..5", "--nodes", "1", "--seconds", "0.1", "--jobs", "1"]
    assert main(words) == EXIT_FAILED
    out = capsys.readouterr().out
    assert "NOT FOUND by 2 seeds: votes again in the same term" in out
    assert "1 bugs, 1 not found" in out


def test_seeds_are_noted_and_what_was_noted_is_tried_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mutants_in(monkeypatch, tmp_path / "seeds.txt", "second-vote", BUG)
    words = ["--mutants", "--record", "--jobs", "1", "--mutant"]
    assert main([*words, BUG]) == EXIT_DONE
    assert seeds.read() == {BUG: 0}
    seeds.write({BUG: 2})  # which finds it, too
    assert main([*words, BUG]) == EXIT_DONE
    assert seeds.read() == {BUG: 2}
    assert "seed    2: " in capsys.readouterr().out.splitlines()[-2]
    assert main([*words, "second-vote"]) == EXIT_DONE
    assert list(seeds.read()) == ["second-vote", BUG]


def test_a_seed_that_fails_anyway_finds_no_bug_and_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(seed: int, options: Options) -> Outcome:
        return of(seed, "AssertionError: broken" if seed == 8 or options.mutant else None)

    def in_order(_: Processes, span: Iterable[int], options: Options) -> Iterator[Outcome]:
        return (failing(seed, options) for seed in span)

    mutants_in(monkeypatch, tmp_path / "seeds.txt", BUG)
    monkeypatch.setattr("tests.sim.hunting.run_seed", failing)
    monkeypatch.setattr(Processes, "run_in_order", in_order)
    caught = Hunter(Processes(1), Options()).hunt(BUG, range(8, 20))
    assert caught is not None
    assert (caught.seed, caught.tried) == (9, 2)
    assert main(["--mutants", "--seeds", "8..20", "--jobs", "1"]) == EXIT_FAILED
    out = capsys.readouterr().out
    assert "2 tried, seed    9: AssertionError: broken" in out
    assert "FAILED seed 8: AssertionError: broken" in out


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
        ["3", "--mutants"],
        ["--mutants", "--hours", "1"],
        ["--mutants", "--record", "--nodes", "3"],
        ["3", "--record"],
    ],
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == EXIT_USAGE
    assert "usage" in capsys.readouterr().err
