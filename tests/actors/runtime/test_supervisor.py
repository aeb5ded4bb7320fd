"""Restart budgets: at once within the intensity, then backoff, then forgiven."""

from __future__ import annotations

import pytest

from actors.runtime import ActorRef, CrashReport, RestartBudget, RestartSpec

from .kit import seeded

SPEC = RestartSpec(intensity=3, period_ms=10_000, backoff_min_ms=500, backoff_max_ms=3_000)


def test_failures_within_the_intensity_cost_nothing() -> None:
    budget = RestartBudget(SPEC)
    assert [budget.record(now) for now in (0, 1, 2)] == [0, 0, 0]


def test_more_failures_double_the_wait_up_to_its_maximum() -> None:
    budget = RestartBudget(SPEC)
    delays = [budget.record(now) for now in range(8)]
    assert delays == [0, 0, 0, 500, 1_000, 2_000, 3_000, 3_000]


def test_spread_failures_never_use_the_budget_up() -> None:
    budget = RestartBudget(SPEC)
    assert {budget.record(now) for now in range(0, 100_000, 4_000)} == {0}


def test_a_quiet_period_after_the_return_forgives_everything() -> None:
    budget = RestartBudget(SPEC)
    for now in range(4):
        last = budget.record(now)
    assert last == 500
    returned_ms = 3 + 500
    assert budget.record(returned_ms + SPEC.period_ms) == 1_000  # not quiet for long enough
    returned_ms += SPEC.period_ms + 1_000
    assert budget.record(returned_ms + SPEC.period_ms + 1) == 0


def test_the_long_wait_itself_is_not_a_quiet_period() -> None:
    """Else a child in 30 s of backoff with a 10 s period would look healthy whenever it returns."""
    spec = RestartSpec(intensity=0, period_ms=1_000, backoff_min_ms=5_000, backoff_max_ms=30_000)
    budget = RestartBudget(spec)
    now, delays = 0, []
    for _ in range(5):
        delays.append(budget.record(now))
        now += delays[-1] + 10  # fails again right after its return
    assert delays == [5_000, 10_000, 20_000, 30_000, 30_000]


def test_with_a_random_source_the_wait_is_in_its_upper_half() -> None:
    spec = RestartSpec(intensity=0, backoff_min_ms=1_000, backoff_max_ms=1_000)
    budget = RestartBudget(spec, seeded(1))
    delays = {budget.record(now) for now in range(50)}
    assert len(delays) > 20
    assert min(delays) >= 500
    assert max(delays) <= 1_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"strategy": "all_for_fun"},
        {"intensity": -1},
        {"period_ms": 0},
        {"backoff_min_ms": 0},
        {"backoff_min_ms": 2, "backoff_max_ms": 1},
    ],
)
def test_a_senseless_specification_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        RestartSpec(**wrong)  # type: ignore[arg-type]


def test_a_crash_report_says_who_what_why_and_what_next() -> None:
    report = CrashReport(ActorRef("kv", 3), "handle", "Append", ValueError("bad"), 2, 500)
    assert str(report) == (
        "actor kv#3 failed in handle(Append): ValueError: bad; failure 2, it restarts in 500 ms"
    )
    final = CrashReport(ActorRef("kv", 3), "on_start", None, OSError("x"), 1, None)
    assert str(final) == "actor kv#3 failed in on_start: OSError: x; failure 1, it stays down"
