"""Who takes part: values with a stored form that is the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.configuration import Configuration, History, UnknownPart
from raft.messages import Replica
from raft.roles import DEMOTED, INCOMING, LEARNER, OUTGOING, VOTER

A, B, C, D, E = (Replica(name, 1) for name in "abcde")
REPLICAS = [Replica(name, incarnation) for name in "abcde" for incarnation in (1, 2)]
some = st.frozensets(st.sampled_from(REPLICAS), max_size=5)
voters = st.frozensets(st.sampled_from(REPLICAS), min_size=1, max_size=5)


@st.composite
def simple(draw: st.DrawFn) -> Configuration:
    half = draw(voters)
    return Configuration(half, draw(some) - half)


@st.composite
def joint(draw: st.DrawFn) -> Configuration:
    """On the way from one simple configuration to another one with other voters."""
    start, end = draw(simple()), draw(simple())
    half = end.voters if end.voters != start.voters else end.voters ^ {REPLICAS[0]}
    half = half or frozenset({REPLICAS[1]})
    return start.enter(half, end.learners - half)


def test_voters_decide_and_learners_belong() -> None:
    configuration = Configuration.of(A, B, learners=[C])
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


# --------------------------------------------------------------------------- joint


def test_each_member_of_a_joint_configuration_has_its_part() -> None:
    there = Configuration.of(A, B, C, learners=[E]).enter(frozenset((A, D)), frozenset((B, E)))
    assert there.parts() == [
        (A, VOTER),
        (B, DEMOTED),
        (C, OUTGOING),
        (D, INCOMING),
        (E, LEARNER),
    ]
    assert there.halves == (frozenset((A, D)), frozenset((A, B, C)))
    assert all(there.votes(each) for each in (A, B, C, D))
    assert not there.votes(E)
    assert not there.is_only_voter(A)
    assert there.leave() == Configuration.of(A, D, learners=[B, E])


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([(A, VOTER), (A, LEARNER)], "a#0000000000000001 has two parts"),
        ([(A, INCOMING)], "without voters in its old half"),
        ([(A, OUTGOING)], "at least one voter"),
        ([(A, LEARNER)], "at least one voter"),
    ],
)
def test_a_stored_form_that_can_be_none_is_refused(
    parts: list[tuple[Replica, int]], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        Configuration.from_parts(parts)


def test_only_a_voter_of_the_old_half_can_be_demoted() -> None:
    for demoted in (A, C):
        with pytest.raises(ValueError, match="who is demoted"):
            Configuration(
                frozenset((A,)), outgoing=frozenset((A, B)), demoted=frozenset((demoted,))
            )


@given(simple() | joint())
def test_every_stored_form_comes_back(configuration: Configuration) -> None:
    parts = configuration.parts()
    assert parts == sorted(parts)
    assert Configuration.from_parts(reversed(parts)) == configuration
    assert [replica for replica, _ in parts] == list(configuration.members)


@given(joint(), simple())
def test_a_joint_configuration_leads_from_one_to_the_other(
    there: Configuration, other: Configuration
) -> None:
    after = there.leave()
    assert not after.is_joint
    assert after.voters == there.voters
    assert after.learners == there.learners | there.demoted
    assert not after.learners & after.voters
    with pytest.raises(AssertionError, match="another one is under way"):
        there.enter(other.voters, other.learners)


def decides(configuration: Configuration, side: frozenset[Replica]) -> bool:
    return all(2 * len(half & side) > len(half) for half in configuration.halves)


@given(joint(), st.data())
def test_neighbours_share_a_quorum(there: Configuration, data: st.DataObject) -> None:
    """Whoever decides under one and whoever decides under the next have a replica in common."""
    before = Configuration(there.outgoing)
    everybody = frozenset(there.members)
    for one, other in ((before, there), (there, there), (there, there.leave())):
        side = data.draw(st.frozensets(st.sampled_from(sorted(everybody))))
        assert not (decides(one, side) and decides(other, everybody - side))


def test_without_the_joint_one_two_sides_could_decide_at_once() -> None:
    """Figure 10 of the paper: what the test above would see."""
    old, new = Configuration.of(A, B, C), Configuration.of(A, B, C, D, E)
    side = frozenset((A, B))
    assert decides(old, side)
    assert decides(new, frozenset((C, D, E)))


# --------------------------------------------------------------------------- history


@dataclass
class Naive:
    """The whole truth, entry by entry."""

    by_index: dict[int, Configuration]
    base_index: int = 0
    last_index: int = 0

    def at(self, index: int) -> Configuration:
        return self.by_index[max(each for each in self.by_index if each <= index)]


PLENTY = [Configuration.of(each) for each in REPLICAS]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "truncate", "compact", "reset"]),
            st.integers(0, 30),
            st.integers(0, len(PLENTY) - 1),
        ),
        max_size=40,
    )
)
def test_a_history_is_that_of_its_log(actions: list[tuple[str, int, int]]) -> None:
    history, naive = History(PLENTY[0]), Naive({0: PLENTY[0]})
    for action, number, which in actions:
        if action == "append":
            naive.last_index += 1 + number % 4
            naive.by_index[naive.last_index] = PLENTY[which]
            history.append(naive.last_index, PLENTY[which])
        elif action == "truncate":
            index = naive.base_index + 1 + number % (naive.last_index - naive.base_index + 1)
            kept = {each: it for each, it in naive.by_index.items() if each < index}
            assert history.truncate_from(index) == (kept != naive.by_index)
            naive.by_index, naive.last_index = kept, index - 1
        elif action == "compact":
            index = naive.base_index + number % (naive.last_index - naive.base_index + 1)
            carried = naive.at(index)
            naive.by_index = {index: carried} | {
                each: it for each, it in naive.by_index.items() if each > index
            }
            naive.base_index = index
            history.compact_to(index, carried)
        else:
            naive = Naive({number: PLENTY[which]}, number, number)
            history.reset(number, PLENTY[which])
        assert history.latest == naive.at(naive.last_index)
        assert history.latest_index == max(naive.by_index)
        assert history.base_index == naive.base_index
        for index in range(naive.base_index, naive.last_index + 2):
            assert history.at(index) == naive.at(index)


def test_what_is_not_known_any_more_is_not_guessed() -> None:
    history = History(PLENTY[0], 5)
    with pytest.raises(AssertionError, match="no configuration is known at 4"):
        history.at(4)
    with pytest.raises(AssertionError, match="cannot undo the base of 5 from 5"):
        history.truncate_from(5)
    with pytest.raises(AssertionError, match="configuration at 5 after 5"):
        history.append(5, PLENTY[1])
