"""Which replica of a group a disk is, life after life."""

from __future__ import annotations

import pytest

from raft.lives import DERIVED_BIT, LIVES_MAX, earlier_lives, incarnation_of, life_of, replica_of
from raft.messages import Replica

DISK = Replica("n1", 0x1234567890ABCDEF >> 1)
GROUP = 7


def test_the_first_life_is_the_disk_itself() -> None:
    assert replica_of(DISK, GROUP, 0) == DISK


def test_a_later_life_is_derived_and_the_same_for_everybody_for_ever() -> None:
    """Stored in logs and configurations: a change of the derivation would make others of them."""
    assert f"{incarnation_of(11, 7, 1):016x}" == "afd19e1ba2866c11"
    assert f"{incarnation_of(11, 7, 2):016x}" == "bc81e2aca14cde8f"
    assert f"{incarnation_of(11, 8, 1):016x}" == "8bb621b6ac22b746"
    assert f"{incarnation_of(12, 7, 1):016x}" == "d97319c379dd47b4"


def test_no_two_lives_are_one_replica_and_none_looks_like_a_disk_that_was_drawn() -> None:
    """Pitfall 20."""
    found = [
        incarnation_of(incarnation, group, life)
        for incarnation in (1, 2, (1 << 63) - 1)
        for group in (1, 2, 1 << 40)
        for life in range(1, 50)
    ]
    assert len(set(found)) == len(found)
    assert all(DERIVED_BIT <= each < 2 * DERIVED_BIT for each in found)


def test_earlier_lives_are_all_but_this_one() -> None:
    assert earlier_lives(DISK, GROUP, 0) == frozenset()
    assert earlier_lives(DISK, GROUP, 2) == {DISK, replica_of(DISK, GROUP, 1)}


def test_a_member_is_recognised_as_a_life_of_its_disk() -> None:
    assert life_of(DISK, DISK, GROUP) == 0
    assert life_of(replica_of(DISK, GROUP, 3), DISK, GROUP) == 3
    assert life_of(replica_of(DISK, GROUP + 1, 3), DISK, GROUP) is None
    assert life_of(Replica("n2", DISK.incarnation), DISK, GROUP) is None
    assert life_of(Replica("n1", 5), DISK, GROUP) is None


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, LIVES_MAX + 1), (1 << 64, 1, 1)])
def test_what_is_no_number_of_ours_is_our_own_mistake(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(AssertionError):
        incarnation_of(*numbers)
