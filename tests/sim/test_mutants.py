"""Each deliberate bug is caught, and within few seeds.  Without it, the same seeds find nothing.

Those that need a rare coincidence are left out here, where time is short: ``POLYRAFT_MUTANTS=1``.
"""

from __future__ import annotations

import os

import pytest

from raft.outbox import Outbox
from tests.sim.cli import first_caught
from tests.sim.mutants import MUTANTS, applied
from tests.sim.running import Options, run_seed

ALL = bool(os.environ.get("POLYRAFT_MUTANTS"))


@pytest.mark.parametrize(
    "name", [name for name, mutant in MUTANTS.items() if ALL or not mutant.is_rare]
)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    found = first_caught(name, Options(), range(mutant.seeds), jobs=1)
    assert found is not None, f"{mutant.seeds} seeds do not see it: {mutant.what}"
    assert run_seed(found.seed, Options()).error is None, "not of the bug's making"


def test_a_bug_is_gone_again_afterwards() -> None:
    before = Outbox._hold
    with applied("ack-before-sync"):
        assert Outbox._hold is not before
    assert Outbox._hold is before
