"""Counting majorities, checked against counting on fingers."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.election import Ballot
from raft.messages import Replica
from raft.quorum import (
    LOST,
    PENDING,
    WON,
    ballot_result,
    joint_result,
    majority,
    reached_by_majority,
)

REPLICAS = [Replica(f"n{number}", 1) for number in range(1, 8)]
halves = st.frozensets(st.sampled_from(REPLICAS), min_size=1)
answers = st.dictionaries(st.sampled_from(REPLICAS), st.booleans())


def test_any_two_majorities_share_a_voter() -> None:
    assert [majority(count) for count in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]
    assert all(2 * majority(count) > count for count in range(1, 50))
    with pytest.raises(AssertionError):
        majority(0)


@pytest.mark.parametrize("voters", [1, 2, 3, 4, 5])
def test_what_a_majority_reaches_is_the_highest_value_that_enough_have(voters: int) -> None:
    for values in product(range(4), repeat=voters):
        reached = reached_by_majority(list(values))
        enough = [
            value for value in range(4) if sum(each >= value for each in values) >= majority(voters)
        ]
        assert reached == max(enough), values


def test_the_values_are_not_reordered_for_the_caller() -> None:
    values = [1, 3, 2]
    assert reached_by_majority(values) == 2
    assert values == [1, 3, 2]


@pytest.mark.parametrize(
    ("voters", "granted", "refused", "result"),
    [
        (1, 0, 0, PENDING),
        (1, 1, 0, WON),
        (2, 1, 0, PENDING),
        (2, 1, 1, LOST),
        (3, 1, 1, PENDING),
        (3, 2, 1, WON),
        (3, 1, 2, LOST),
        (4, 2, 2, LOST),  # a split vote: two refusals make three grants impossible
        (4, 2, 1, PENDING),
        (5, 2, 2, PENDING),
        (5, 3, 0, WON),
        (5, 0, 3, LOST),
    ],
)
def test_a_ballot_is_lost_when_no_majority_is_left(
    voters: int, granted: int, refused: int, result: int
) -> None:
    assert ballot_result(voters, granted, refused) == result


def test_more_answers_than_voters_are_an_error_of_ours() -> None:
    with pytest.raises(AssertionError):
        ballot_result(3, 2, 2)


# --------------------------------------------------------------------------- against naive ones


@given(st.lists(st.integers(0, 50), min_size=1, max_size=9))
def test_what_a_majority_reaches_is_reached_by_one_and_more_is_not(values: list[int]) -> None:
    reached = reached_by_majority(values)
    assert 2 * sum(value >= reached for value in values) > len(values)
    assert 2 * sum(value > reached for value in values) <= len(values)


def naive_ballot(half: frozenset[Replica], given_: dict[Replica, bool]) -> int:
    """Try all ways in which those who have not answered may yet answer."""
    silent = [voter for voter in half if voter not in given_]
    outcomes = set()
    for rest in product((True, False), repeat=len(silent)):
        granted = sum(rest) + sum(given_.get(voter, False) for voter in half)
        outcomes.add(2 * granted > len(half))
    if outcomes == {True}:
        return WON
    return LOST if outcomes == {False} else PENDING


@given(halves, halves, answers)
def test_a_ballot_stands_as_trying_all_answers_says(
    new: frozenset[Replica], old: frozenset[Replica], given_: dict[Replica, bool]
) -> None:
    """Joint ones included: won if both are won, lost as soon as one is lost."""
    expected = {naive_ballot(new, given_), naive_ballot(old, given_)}
    results = [PENDING]
    ballot = Ballot((new, old))
    for voter, granted in given_.items():
        results.append(ballot.record(voter, granted))
    if len(results) > 1:
        if LOST in expected:
            assert results[-1] == LOST
        else:
            assert results[-1] == (WON if expected == {WON} else PENDING)
    decided = [result for result in results if result != PENDING]
    assert len(set(decided)) <= 1, "what is decided stays"


@given(st.lists(st.sampled_from((PENDING, WON, LOST)), min_size=1, max_size=3))
def test_halves_win_together_and_lose_alone(results: list[int]) -> None:
    together = joint_result(results)
    assert (together == WON) == all(result == WON for result in results)
    assert (together == LOST) == any(result == LOST for result in results)


@given(halves, halves)
def test_any_two_majorities_of_a_joint_configuration_meet_in_both_halves(
    new: frozenset[Replica], old: frozenset[Replica]
) -> None:
    """By exhaustion: two disjoint sets of replicas never both decide."""
    everybody = sorted(new | old)
    for chosen in product((True, False), repeat=len(everybody)):
        one = {replica for replica, is_in in zip(everybody, chosen, strict=True) if is_in}
        other = set(everybody) - one
        decided = [
            all(ballot_result(len(half), len(half & side), 0) == WON for half in (new, old))
            for side in (one, other)
        ]
        assert decided != [True, True]
