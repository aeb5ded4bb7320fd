"""The leader's half: from the configuration in force follows what is next, however often asked."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import cast

import pytest

from actors.replacing import (
    DONE,
    LEARNER,
    REPLACE,
    USED,
    WAITING,
    Standing,
    Wanted,
    encode_question,
    read_question,
    stand,
)
from raft.configuration import Configuration
from raft.core import Core
from raft.lives import earlier_lives, replica_of
from raft.messages import Replica
from raft.settings import RaftSettings
from tests.actors.cluster import Cluster, Node
from transport import protocol

A, B, C, D, E = (Replica(f"n{at}", 10 * at + at) for at in range(1, 6))
GROUP, NOW_MS = 7, 50_000
C1, C2 = replica_of(C, GROUP, 1), replica_of(C, GROUP, 2)


@dataclass
class Peer:
    replica: Replica
    match: int
    active_ms: int


@dataclass
class Leader:
    """As much of a core that leads as is looked at."""

    configuration: Configuration
    me: Replica = A
    is_changing: bool = False
    can_serve: bool = True
    matches: dict[Replica, int] = field(default_factory=dict)
    silent: tuple[Replica, ...] = ()
    settings: RaftSettings = field(default_factory=RaftSettings)

    def progress(self) -> list[Peer]:
        others = [each for each in self.configuration.members if each != self.me]
        silent_ms = NOW_MS - self.settings.election_timeout_ms
        return [
            Peer(each, self.matches.get(each, 0), silent_ms if each in self.silent else NOW_MS)
            for each in others
        ]


def ask(
    leader: Leader,
    life: int = 1,
    *,
    placed: bool = False,
    is_to_vote: bool = False,
    is_desired: bool = False,
) -> Standing:
    wanted = Wanted(C, replica_of(C, GROUP, life), earlier_lives(C, GROUP, life), placed)
    return stand(cast(Core, leader), wanted, NOW_MS, is_to_vote=is_to_vote, is_desired=is_desired)


def of(*voters: Replica, learners: tuple[Replica, ...] = ()) -> Configuration:
    return Configuration.of(*voters, learners=learners)


def test_the_steps_from_one_life_to_the_next() -> None:
    lost = (C,)
    leader = Leader(of(A, B, C), silent=lost)
    assert ask(leader) == Standing(WAITING, change=(frozenset((A, B, C)), frozenset((C1,))))
    leader = Leader(of(A, B, C, learners=(C1,)), silent=lost)
    assert ask(leader) == Standing(LEARNER)
    assert ask(leader, placed=True).change == (frozenset((A, B, C1)), frozenset())
    assert ask(Leader(of(A, B, C1)), placed=True) == Standing(DONE)


def test_a_learner_is_followed_by_a_learner() -> None:
    leader = Leader(of(A, B, learners=(C, D)))
    assert ask(leader).change == (frozenset((A, B)), frozenset((C, D, C1)))
    leader = Leader(of(A, B, learners=(C, C1, D)))
    assert ask(leader, placed=True).change == (frozenset((A, B)), frozenset((C1, D)))
    assert ask(Leader(of(A, B, learners=(C1, D))), placed=True) == Standing(DONE)


def test_all_lives_before_go_at_once() -> None:
    leader = Leader(of(A, B, C, learners=(C1,)))
    assert ask(leader, 2).change == (frozenset((A, B, C)), frozenset((C1, C2)))
    leader = Leader(of(A, B, C, learners=(C1, C2)))
    assert ask(leader, 2, placed=True).change == (frozenset((A, B, C2)), frozenset())


def test_nothing_is_said_of_what_is_not_committed_and_nothing_begun_beside_another_change() -> None:
    """Pitfall 22; and a learner that is not committed proves no majority."""
    learner = of(A, B, C, learners=(C1,))
    for leader in (Leader(learner, is_changing=True), Leader(of(A, B, C), is_changing=True)):
        assert ask(leader) == Standing(WAITING)
        assert ask(leader, placed=True) == Standing(WAITING)
    assert ask(Leader(of(A, B, C1), is_changing=True), placed=True) == Standing(WAITING)


@pytest.mark.parametrize("silent", [(B, C), (B,)])
def test_without_a_majority_beside_the_lost_one_it_is_refused(silent: tuple[Replica, ...]) -> None:
    """Also if the lost one was heard a moment ago: it is not heard any more."""
    standing = ask(Leader(of(A, B, C), silent=silent))
    assert standing.change is None
    assert standing.error == "only 1 of 3 voters are heard without it: no majority"


def test_two_of_five_may_be_lost() -> None:
    assert ask(Leader(of(A, B, C, D, E), silent=(C, D))).change is not None


def test_a_question_that_comes_late_brings_nobody_back() -> None:
    """Pitfall 21: the life after it is the member by then."""
    for placed in (False, True):
        late = ask(Leader(of(A, B, C2)), 1, placed=placed)
        assert late.error == "no replica of n3 that was lost is a member"
        assert ask(Leader(of(A, B)), 1, placed=placed).error


def test_who_was_given_up_and_is_to_vote_comes_back_in_nobody_s_place() -> None:
    alone = Leader(of(A))
    assert ask(alone).error == "no replica of n3 that was lost is a member"
    assert ask(alone, is_to_vote=True).change == (frozenset((A,)), frozenset((C1,)))
    added = Leader(of(A, learners=(C1,)))
    assert ask(added, is_to_vote=True) == Standing(LEARNER)
    assert ask(added, placed=True).state == DONE, "it is not to vote"
    assert ask(added, placed=True, is_to_vote=True).change == (frozenset((A, C1)), frozenset())
    assert ask(Leader(of(A, C1)), placed=True, is_to_vote=True) == Standing(DONE)
    assert ask(Leader(of(A, C1)), is_to_vote=True) == Standing(USED)


def test_a_life_that_was_let_in_and_given_up_again_does_not_come_back_as_who_it_was() -> None:
    """Its log may be of a history that ended with a second reset."""
    alone = Leader(of(A))
    assert ask(alone, placed=True, is_to_vote=True) == Standing(USED)
    changing = Leader(of(A), is_changing=True)
    assert ask(changing, placed=True, is_to_vote=True) == Standing(WAITING)
    assert ask(alone, 2, is_to_vote=True).change == (frozenset((A,)), frozenset((C2,)))


def test_who_lost_its_log_before_it_was_a_member_begins_again_where_it_is_wanted() -> None:
    leader = Leader(of(A, B, D))
    assert ask(leader, is_desired=True) == Standing(LEARNER)
    assert ask(leader, is_desired=True, placed=True) == Standing(WAITING), "it offers itself"
    assert ask(leader).error
    leader = Leader(of(A, B, D), is_changing=True)
    assert ask(leader, is_desired=True) == Standing(WAITING), "it may be about to become one"
    leader = Leader(of(A, B, D), can_serve=False)
    assert ask(leader, is_desired=True).error, "it may be one, as far as this leader knows"


def test_a_life_that_has_spoken_is_not_begun_again() -> None:
    assert ask(Leader(of(A, B, C1))) == Standing(USED)
    heard = Leader(of(A, B, C, learners=(C1,)), matches={C1: 4})
    assert ask(heard) == Standing(USED)


def test_a_question_says_which_disk_which_life_and_whether_it_has_begun() -> None:
    for life, placed in ((1, False), (3, True)):
        batch = encode_question(C, life, placed=placed, timeout_ms=100)
        decoded = protocol.decode_batch("kv", batch)
        assert isinstance(decoded, protocol.AdminOperation)
        wanted = Wanted(C, replica_of(C, GROUP, life), earlier_lives(C, GROUP, life), placed)
        assert read_question(GROUP, decoded.value, decoded.options) == wanted


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"incarnation": "33"},
        {"incarnation": "33", "life": "0"},
        {"incarnation": "0", "life": "1"},
        {"incarnation": "33", "life": "1001"},
        {"incarnation": "33", "life": "-1"},
        {"incarnation": str(1 << 64), "life": "1"},
        {"incarnation": "33x", "life": "1"},
    ],
)
def test_a_question_that_says_less_is_none(options: dict[str, str]) -> None:
    assert read_question(GROUP, "n3", options) is None
    assert read_question(GROUP, "", {"incarnation": "33", "life": "1"}) is None


def elected() -> tuple[Cluster, Node]:
    cluster = Cluster()
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader


def question(disk: Replica = C, *, placed: bool = False) -> bytes:
    return encode_question(disk, 1, placed=placed, timeout_ms=1_000)


def replace(cluster: Cluster, leader: Node, disk: Replica, *, placed: bool) -> str:
    rights = protocol.RIGHTS_ALL | protocol.RIGHT_NODE
    sent = cluster.request_raw(leader, question(disk, placed=placed), rights=rights)
    cluster.settle()
    assert sent.outcome.code == protocol.OK
    return str(json.loads(sent.outcome.data)["state"])


def test_a_leader_adds_the_next_life_and_says_so_when_that_is_committed() -> None:
    cluster, leader = elected()
    lost = next(node for node in cluster.nodes.values() if node is not leader)
    old = lost.core.me
    new = replica_of(old, GROUP, 1)
    lost.crash()
    assert replace(cluster, leader, old, placed=False) == WAITING
    assert replace(cluster, leader, old, placed=False) == LEARNER
    assert leader.core.configuration.learners == {new}
    assert replace(cluster, leader, old, placed=True) == WAITING
    assert leader.core.is_changing
    assert replace(cluster, leader, old, placed=True) == WAITING, "one change at a time"
    assert leader.core.configuration.voters >= {old}, "it stays until the new one has caught up"


def test_who_does_not_lead_hands_it_back() -> None:
    cluster, leader = elected()
    other = next(node for node in cluster.nodes.values() if node is not leader)
    rights = protocol.RIGHTS_ALL | protocol.RIGHT_NODE
    sent = cluster.request_raw(other, question(), rights=rights)
    cluster.settle()
    assert sent.handed_back is not None


def test_a_question_of_nobody_is_a_bad_request() -> None:
    cluster, leader = elected()
    batch = protocol.encode_admin(REPLACE, "n3", {"life": "1"}, 1_000)
    rights = protocol.RIGHTS_ALL | protocol.RIGHT_NODE
    sent = cluster.request_raw(leader, batch, rights=rights)
    cluster.settle()
    assert sent.outcome.code == protocol.BAD_REQUEST


def test_a_client_replaces_nobody() -> None:
    cluster, leader = elected()
    sent = cluster.request_raw(leader, question(), rights=protocol.RIGHTS_ALL)
    cluster.settle()
    assert sent.outcome.code == protocol.FORBIDDEN
