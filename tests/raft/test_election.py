"""The election timer and the ballot."""

from __future__ import annotations

import random

from raft.election import Ballot, ElectionTimer
from raft.messages import Replica
from raft.quorum import LOST, PENDING, WON
from raft.settings import RaftSettings

SETTINGS = RaftSettings()
A, B, C = (Replica(name, 1) for name in "abc")


class Highest:
    """Draws the upper bound, and remembers what was asked for."""

    def __init__(self) -> None:
        self.drawn: list[tuple[int, int]] = []

    def randint(self, a: int, b: int, /) -> int:
        self.drawn.append((a, b))
        return b


def timer(*, is_restart: bool = True, now: int = 0) -> ElectionTimer:
    return ElectionTimer(SETTINGS, Highest(), now=now, is_restart=is_restart)


def test_the_first_answer_of_a_voter_counts() -> None:
    ballot = Ballot([frozenset((A, B, C))])
    assert ballot.record(A, True) == PENDING
    assert ballot.record(B, False) == PENDING
    assert ballot.record(B, True) == PENDING
    assert ballot.record(C, True) == WON


def test_who_is_no_voter_does_not_count() -> None:
    ballot = Ballot([frozenset((A, B))])
    assert ballot.record(A, True) == PENDING
    assert ballot.record(C, True) == PENDING
    assert ballot.record(B, False) == LOST


def test_the_timeout_is_drawn_between_once_and_twice_for_every_attempt() -> None:
    """Pitfall 9."""
    generator = random.Random(7)
    drawn = set()
    each = ElectionTimer(SETTINGS, generator, now=0, is_restart=True)
    for _ in range(200):
        each.restart(0)
        drawn.add(each.deadline_ms)
    assert min(drawn) >= 1_000
    assert max(drawn) <= 2_000
    assert len(drawn) > 100


def test_hearing_the_leader_starts_the_same_timeout_over() -> None:
    source = Highest()
    each = ElectionTimer(SETTINGS, source, now=0, is_restart=True)
    each.heard_leader(500)
    assert each.deadline_ms == 2_500
    assert source.drawn == [(1_000, 2_000)]


def test_a_leader_is_alive_for_one_election_timeout() -> None:
    each = timer()
    each.heard_leader(5_000)
    assert each.leader_is_alive(5_999)
    assert not each.may_vote(5_999)
    assert not each.leader_is_alive(6_000)
    assert each.may_vote(6_000)


def test_a_reset_link_ends_the_life_of_the_leader_and_hastens_the_election() -> None:
    each = timer()
    each.heard_leader(5_000)
    each.lost_leader(5_100)
    assert not each.leader_is_alive(5_100)
    assert each.may_vote(5_100)
    assert each.deadline_ms == 5_400


def test_hurrying_never_delays() -> None:
    each = timer()
    each.expire(100)
    each.hurry(90)
    assert each.deadline_ms == 100


def test_a_retry_waits_but_not_for_a_whole_timeout() -> None:
    each = timer()
    each.expire(100)
    each.retry(100)
    assert each.deadline_ms == 400


def test_each_further_attempt_in_a_row_waits_twice_as_long_up_to_a_timeout() -> None:
    each = timer()
    waits = []
    for _ in range(5):
        each.stand(1_000)
        each.retry(1_000)
        waits.append(each.deadline_ms - 1_000)
    assert waits == [300, 600, 1_200, 2_000, 2_000]
    for _ in range(20):
        each.stand(1_000)
        each.retry(1_000)
    assert each.deadline_ms == 3_000
    each.heard_leader(5_000)
    each.stand(6_000)
    each.retry(6_000)
    assert each.deadline_ms == 6_300, "the next failure is the first one again"


def test_a_clock_that_jumped_makes_the_promise_to_the_leader_begin_anew() -> None:
    each = timer(is_restart=False)
    each.heard_leader(5_000)
    each.distrust(6_500)
    assert not each.leader_is_alive(6_500), "so it was measured"
    assert not each.may_vote(7_499)
    assert each.may_vote(7_500)
    assert each.deadline_ms >= 7_500, "who would vote for nobody does not stand either"


def test_nobody_gets_a_vote_for_one_election_timeout_after_a_restart() -> None:
    """Pitfall 34: the replica does not remember when it last heard the leader."""
    each = timer(now=10_000)
    assert not each.may_vote(10_999)
    assert each.may_vote(11_000)


def test_a_clock_that_jumps_shortens_no_promise_of_an_earlier_life() -> None:
    each = timer(now=10_000)
    each.distrust(10_200)
    assert not each.may_vote(11_199)


def test_a_replica_that_never_answered_a_leader_votes_at_once_and_stands_soon() -> None:
    each = timer(is_restart=False, now=10_000)
    assert each.may_vote(10_000)
    assert each.deadline_ms == 10_300
