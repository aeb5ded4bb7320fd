"""Who takes part: values with a stored form that is the same everywhere."""

from __future__ import annotations

import pytest

from raft.configuration import Configuration, UnknownPart
from raft.messages import Replica
from raft.roles import LEARNER, VOTER

A, B, C = Replica("a", 1), Replica("b", 1), Replica("c", 1)


def test_voters_decide_and_learners_belong() -> None:
    configuration = Configuration.of(A, B, learners=[C])
    assert configuration.quorum_count == 2
    assert A in configuration
    assert C in configuration
    assert C not in configuration.voters
    assert Replica("d", 1) not in configuration
    assert configuration.members == (A, B, C)


def test_the_same_node_with_another_disk_is_somebody_else() -> None:
    """Pitfalls 20 and 21."""
    assert Replica("a", 2) not in Configuration.of(A, B, C)


def test_the_stored_form_comes_back_and_is_sorted() -> None:
    configuration = Configuration.of(C, A, learners=[B])
    assert configuration.parts() == [(A, VOTER), (B, LEARNER), (C, VOTER)]
    assert Configuration.from_parts(configuration.parts()) == configuration


def test_a_part_that_is_not_known_stops_the_replica() -> None:
    with pytest.raises(UnknownPart, match="b#0000000000000001 has the part 3"):
        Configuration.from_parts([(A, VOTER), (B, 3)])


def test_nobody_is_voter_and_learner_at_once() -> None:
    with pytest.raises(ValueError, match="voter and learner at once: a#"):
        Configuration.of(A, B, learners=[A])


def test_a_group_without_voters_is_no_group() -> None:
    with pytest.raises(ValueError, match="at least one voter"):
        Configuration.of(learners=[A])


def test_the_only_voter_may_have_learners() -> None:
    assert Configuration.of(A, learners=[B]).is_only_voter(A)
    assert not Configuration.of(A, learners=[B]).is_only_voter(B)
    assert not Configuration.of(A, B).is_only_voter(A)
