"""Counting: what a majority has, and whether one is still possible.

What may live here: functions of plain numbers. There is one rule behind all of them (paper 5.2,
5.4): any two majorities of the same voters share a voter. So whatever one majority has
acknowledged, every later majority knows of. A joint configuration has two sets of voters, and only
what both have decided is decided (paper 6): the lower of two indexes, the worse of two ballots.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# The state of a ballot.
PENDING: Final = 0
WON: Final = 1
LOST: Final = 2


def majority(voter_count: int) -> int:
    """How many of so many voters make a majority: 1 of 1, 2 of 2, 2 of 3, 3 of 4, 3 of 5."""
    assert voter_count > 0, "a group without voters has no majority"
    return voter_count // 2 + 1


def reached_by_majority(values: list[int]) -> int:
    """The highest number that a majority of these values reach; one value for each voter.

    With match indexes it is the commit index, with rounds the round that is confirmed, with times
    the moment since which a majority has been heard.
    """
    position = majority(len(values)) - 1
    return sorted(values, reverse=True)[position]


def ballot_result(voter_count: int, granted_count: int, refused_count: int) -> int:
    """PENDING, WON or LOST. Lost: the voters that have not refused no longer make a majority."""
    assert granted_count + refused_count <= voter_count, "more answers than voters"
    needed = majority(voter_count)
    if granted_count >= needed:
        return WON
    if voter_count - refused_count < needed:
        return LOST
    return PENDING


def joint_result(results: Sequence[int]) -> int:
    """How a ballot stands of which each half has a result: all have to win, one may lose it."""
    assert results
    if LOST in results:
        return LOST
    return PENDING if PENDING in results else WON
