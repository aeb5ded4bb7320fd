"""Each deliberate bug is caught by a seed that is known to catch it and finds nothing without it.

That one of the first 2,000 seeds catches it at all, `bin/sim --mutants` shows.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from raft.outbox import Outbox
from tests.sim.hunting import SEEDS_MAX
from tests.sim.mutants import MUTANTS, applied, seeds
from tests.sim.running import Options, Outcome, run_seed

PITFALLS = Path(__file__).resolve().parents[2] / "docs" / "pitfalls.md"
RULE = re.compile(
    r"\((?:pitfalls? [0-9]+(?: and [0-9]+)*|paper [0-9.]+|thesis [0-9.]+|docs/[a-z]+\.md)\)$"
)

KNOWN = seeds.read()


@cache
def without_bug(seed: int) -> Outcome:
    return run_seed(seed, Options())


@pytest.mark.parametrize("name", MUTANTS)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    seed = KNOWN.get(name)
    again = f"find another one with: {seeds.RECORD} --mutant {name}"
    assert seed is not None, f"no seed is noted: {again}"
    outcome = run_seed(seed, Options(mutant=name))
    assert outcome.error is not None, f"seed {seed} does not see it any more: {again}"
    error = without_bug(seed).error
    assert error is None, f"seed {seed} fails without the bug, too: {error}"


def test_the_seeds_are_those_of_the_bugs_there_are() -> None:
    assert list(KNOWN) == list(MUTANTS), f"note them anew with: {seeds.RECORD}"
    assert max(KNOWN.values()) < SEEDS_MAX


def test_each_bug_says_which_rule_it_breaks() -> None:
    for name, mutant in MUTANTS.items():
        assert RULE.search(mutant.what), f"{name}: {mutant.what}"


def test_each_group_of_pitfalls_has_a_bug() -> None:
    text = PITFALLS.read_text(encoding="utf-8")
    groups = {
        title: {int(number) for number in re.findall(r"^\| ([0-9]+) \|", part, re.MULTILINE)}
        for title, part in re.findall(r"^## (.*)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    }
    assert len(groups) == 7
    broken = {
        int(number)
        for mutant in MUTANTS.values()
        for number in re.findall(r"[0-9]+", mutant.what.rpartition("pitfall")[2])
    }
    for title, numbers in groups.items():
        assert len(numbers & broken) >= 2, f"{title}: {sorted(numbers)}"


def test_a_bug_is_gone_again_afterwards() -> None:
    before = Outbox._hold
    with applied("ack-before-sync"):
        assert Outbox._hold is not before
    assert Outbox._hold is before


def test_seeds_are_noted_in_the_order_of_their_bugs(tmp_path: Path) -> None:
    file = tmp_path / "seeds.txt"
    assert seeds.read(file) == {}
    seeds.write({"second": 12, "first": 3}, file)
    assert list(seeds.read(file).items()) == [("second", 12), ("first", 3)]
    lines = file.read_text().splitlines()
    assert all(len(one) == len(other) for one, other in pairwise(lines))
