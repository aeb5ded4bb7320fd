"""Two hundred histories, each another one, and that they are what they seem.

More of them: ``POLYRAFT_SEEDS=5000``, or ``bin/sim``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.sim.faults import FAULTS
from tests.sim.running import Options, run_many, run_seed
from tests.sim.simulation import Simulation

ROOT = Path(__file__).resolve().parents[2]
SEEDS = int(os.environ.get("POLYRAFT_SEEDS", "200"))


@pytest.mark.timeout(max(600, 2 * SEEDS))
def test_every_seed_holds_what_must_hold() -> None:
    counts: Counter[str] = Counter()
    failures = []
    for outcome in run_many(range(SEEDS), Options()):
        counts.update(outcome.counts)
        if outcome.error is not None:
            command = outcome.options.command(outcome.seed)
            failures.append(f"{outcome.error}\n  again: {command} --trace")
    assert not failures, "\n".join(failures)
    for kind in FAULTS:
        assert counts[f"fault {kind}"] >= SEEDS // 5, f"{kind} hardly ever came"
    for what, least in (
        ("leaders", 4),  # per seed
        ("recovered", 8),
        ("clients answered", 80),
        ("clients unknown", 3),
        ("commits", 40),
        ("digests", 100),
        ("configurations", 1),
        ("snapshots", 5),
        ("restored", 3),
        ("reads", 30),
        ("leases", 200),
        ("jobs", 30),  # of blocking machines
    ):
        assert counts[what] >= least * SEEDS, f"{what}: {counts[what]}"
    assert counts["lost"] >= SEEDS // 20
    assert counts["resets"] >= SEEDS // 8
    assert counts["runs lost"] >= SEEDS // 10
    assert counts["left"] >= SEEDS // 4
    assert counts["returned"] >= SEEDS // 20
    assert counts["died placing"] >= SEEDS // 20
    assert counts["condemned"] >= SEEDS // 20
    assert counts["lives"] >= SEEDS // 20
    assert counts["quarantined"] >= SEEDS // 3
    assert counts["rebuilt"] >= SEEDS // 4
    assert counts["message SnapshotWanted"] >= SEEDS // 4
    assert counts["snapshots lost"] >= SEEDS // 100
    assert counts["full"] >= SEEDS
    assert counts["short"] >= SEEDS // 2
    assert counts["clients failed reads"] >= SEEDS // 20
    assert counts["messages misdirected"] >= SEEDS
    assert counts["message TimeoutNow"] >= SEEDS
    assert counts["message SnapshotChunk"] >= SEEDS // 2
    assert counts["operator transferLeader OK"] >= SEEDS
    assert counts["operator doSnapshot OK"] >= SEEDS
    assert counts["undecided"] <= SEEDS // 50, "histories that nobody can check prove nothing"


_DIGESTS = """
from tests.sim.simulation import Simulation
for seed in (3, 4, 5):
    result = Simulation(seed, seconds=2).run()
    print(result.digest, result.events)
"""


def test_a_seed_is_a_history_whatever_the_order_of_sets() -> None:
    """In two processes with other hash seeds; and in this one."""
    found = set()
    for hash_seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1
    lines = [
        f"{result.digest} {result.events}"
        for result in (Simulation(seed, seconds=2).run() for seed in (3, 4, 5))
    ]
    assert found == {"\n".join(lines) + "\n"}
    assert len({line.split()[0] for line in lines}) == 3


def test_without_faults_nothing_is_lost_and_hardly_anything_refused() -> None:
    options = Options(nodes=3, seconds=3, without=(*FAULTS, "loss", "doubling", "disorder"))
    for seed in range(3):
        outcome = run_seed(seed, options)
        assert outcome.error is None
        assert outcome.counts["clients unknown"] == 0
        assert outcome.counts["deaths"] == 0
        assert outcome.counts["frames lost"] == outcome.counts["frames reset"] == 0


def test_one_node_and_many_survive_too() -> None:
    for nodes in (1, 2, 7):
        outcome = run_seed(11, Options(nodes=nodes, seconds=3))
        assert outcome.error is None, outcome.error
        assert outcome.counts["clients answered"] > 0
