"""Counting majorities, checked against counting on fingers."""

from __future__ import annotations

from itertools import product

import pytest

from raft.quorum import LOST, PENDING, WON, ballot_result, majority, reached_by_majority


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
