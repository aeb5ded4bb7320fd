"""Each invariant can fail: the state is bent by hand, and the text names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from raft import invariants
from raft.configuration import Configuration
from raft.core import Core
from raft.election import Ballot
from raft.messages import SnapshotMeta
from raft.roles import CANDIDATE, FOLLOWER, PRE_CANDIDATE
from tests.raft.network import Network, make_run, replica


def settled() -> Network:
    """n1 leads, everybody has entries 1..3, all is committed everywhere."""
    network = Network(3)
    network.elect("n1")
    network.propose("n1", count=2)
    network.settle()
    network.run(100)
    return network


def handed(core: Core) -> None:
    core._handed_index = 9


def commit_beyond(core: Core) -> None:
    core.commit_index = 9


def commit_inside_a_run(core: Core) -> None:
    core.commit_index = 2
    core._handed_index = 1


def durable_beyond(core: Core) -> None:
    core._outbox.durable_index = 9


def not_durable(core: Core) -> None:
    core._outbox.durable_index = 1


def term_behind_log(core: Core) -> None:
    core.term = 0


def hole(core: Core) -> None:
    core.log._runs[-1].first += 1


def end(core: Core) -> None:
    core.log._last_index = 2


def stranger(core: Core) -> None:
    core.role = 7


@pytest.mark.parametrize(
    ("bend", "text"),
    [
        (handed, "handed out 9, committed only 3"),
        (commit_beyond, "committed 9, the log ends at 3"),
        (commit_inside_a_run, "commit index 2 lies inside a run"),
        (durable_beyond, "durable 9, the log ends at 3"),
        (not_durable, "handed out 3, durable only 1"),
        (term_behind_log, "last entry of term 1 in term 0"),
        (hole, "hole between 1 and 3"),
        (end, "committed 3, the log ends at 2"),
        (stranger, "unknown role 7"),
    ],
)
@pytest.mark.parametrize("name", ["n1", "n2"])
def test_a_core_that_is_wrong_is_noticed(
    name: str, bend: Callable[[Core], None], text: str
) -> None:
    core = settled().core(name)
    invariants.check(None, core)
    bend(core)
    with pytest.raises(AssertionError, match=text):
        invariants.check(None, core)


def test_a_leader_that_follows_somebody_is_noticed() -> None:
    core = settled().core("n1")
    core.leader = replica("n2")
    with pytest.raises(AssertionError, match="a leader that follows n2"):
        invariants.check(None, core)


def test_a_leader_without_its_own_vote_is_noticed() -> None:
    core = settled().core("n1")
    core.vote = replica("n2")
    with pytest.raises(AssertionError, match="voted for n2"):
        invariants.check(None, core)


def test_a_candidate_with_a_leader_is_noticed() -> None:
    core = settled().core("n2")
    core.role = CANDIDATE
    core._ballot = Ballot(core.configuration.halves)
    with pytest.raises(AssertionError, match="a candidate that follows n1"):
        invariants.check(None, core)


def test_a_follower_of_itself_is_noticed() -> None:
    core = settled().core("n2")
    core.leader = core.me
    with pytest.raises(AssertionError, match="a follower of itself"):
        invariants.check(None, core)


def test_leftovers_of_a_leadership_are_noticed() -> None:
    core = settled().core("n1")
    core.role = FOLLOWER
    core.leader = None
    with pytest.raises(AssertionError, match="a leadership without a leader"):
        invariants.check(None, core)
    core = settled().core("n2")
    core._ballot = Ballot(core.configuration.halves)
    with pytest.raises(AssertionError, match="a ballot without a campaign"):
        invariants.check(None, core)
    core = settled().core("n2")
    core._uncommitted_bytes = 5
    with pytest.raises(AssertionError, match="5 uncommitted bytes, no leader"):
        invariants.check(None, core)


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("match", 4, "match 4, next 4"),
        ("match", 2, "match 2, next 4.*: match"),
        ("next", 3, "match 3, next 3"),
        ("next", 9, "match 3, next 9"),
    ],
)
def test_a_progress_that_cannot_be_is_noticed(field: str, value: int, text: str) -> None:
    core = settled().core("n1")
    assert core._leadership is not None
    setattr(core._leadership.progress[replica("n2")], field, value)
    with pytest.raises(AssertionError, match=text):
        invariants.check(None, core)


@pytest.mark.parametrize(
    ("attribute", "value", "text"),
    [
        ("term", 0, "term fell from 1 to 0"),
        ("vote", replica("n3"), "vote of term 1 changed"),
        ("leader", replica("n3"), "leader of term 1 changed"),
    ],
)
def test_what_a_term_has_fixed_stays(attribute: str, value: object, text: str) -> None:
    network = settled()
    core = network.core("n2")
    core.term = 1
    before = invariants.take(core)
    setattr(core, attribute, value)
    with pytest.raises(AssertionError, match=text):
        invariants._check_change(before, core)


def test_indexes_never_fall() -> None:
    core = settled().core("n2")
    before = invariants.take(core)
    core._handed_index = 1
    with pytest.raises(AssertionError, match="handed index fell from 3 to 1"):
        invariants.check(before, core)
    core.commit_index = 1
    with pytest.raises(AssertionError, match="commit index fell from 3 to 1"):
        invariants.check(before, core)


def test_a_committed_entry_that_changes_is_noticed() -> None:
    core = settled().core("n2")
    core.term = 5
    before = invariants.take(core)
    core.log.truncate_from(2)
    core.log.append([make_run(1, 5, 2, count=2)])
    with pytest.raises(AssertionError, match="committed entry 3 of term 1 has term 5"):
        invariants.check(before, core)


def test_a_leader_that_loses_entries_is_noticed() -> None:
    network = settled()
    network.propose("n1")
    core = network.core("n1")
    before = invariants.take(core)
    core.log.truncate_from(4)
    with pytest.raises(AssertionError, match="leader's log shrank from 4 to 3"):
        invariants._check_change(before, core)


def test_a_match_that_falls_is_noticed() -> None:
    core = settled().core("n1")
    before = invariants.take(core)
    assert core._leadership is not None
    core._leadership.progress[replica("n3")].match = 1
    core._leadership.progress[replica("n3")].next = 2
    with pytest.raises(AssertionError, match=r"match of n3#\w+ fell from 3 to 1"):
        invariants.check(before, core)


# --------------------------------------------------------------------------- snapshots


def compacted() -> Core:
    """n2 has a snapshot of 3 in place of its log, and entry 4 behind it."""
    network = settled()
    network.snapshot("n2")
    network.propose("n1")
    network.settle()
    return network.core("n2")


def base_beyond_snapshot(core: Core) -> None:
    core.snapshot = None


def snapshot_beyond_commit(core: Core) -> None:
    core.commit_index = core._handed_index = 0


def base_beyond_handed(core: Core) -> None:
    core._handed_index = 2


def nothing_begun_anew(core: Core) -> None:
    assert core.snapshot is not None
    core._restoring = replace(core.snapshot, index=9)


def handed_out_already(core: Core) -> None:
    core._restoring = core.snapshot


@pytest.mark.parametrize(
    ("bend", "text"),
    [
        (base_beyond_snapshot, "the log begins behind 3, the snapshot is of 0"),
        (snapshot_beyond_commit, "handed 0 below base 3"),
        (base_beyond_handed, "handed 2 below base 3"),
        (nothing_begun_anew, "base is not 9"),
        (handed_out_already, "handed out 3, to be restored: 3"),
    ],
)
def test_a_snapshot_that_does_not_fit_the_log_is_noticed(
    bend: Callable[[Core], None], text: str
) -> None:
    core = compacted()
    invariants.check(None, core)
    bend(core)
    with pytest.raises(AssertionError, match=text):
        invariants.check(None, core)


def test_a_snapshot_of_what_is_not_committed_is_noticed() -> None:
    core = settled().core("n2")
    core.snapshot = SnapshotMeta(4, 1, core.configuration, 4, 1, 10, 7)
    with pytest.raises(AssertionError, match="snapshot of 4, committed only 3"):
        invariants.check(None, core)


def test_who_stands_without_being_allowed_to_is_noticed() -> None:
    core = settled().core("n2")
    core.role, core.leader = PRE_CANDIDATE, None
    core._ballot = Ballot(core.configuration.halves)
    invariants.check(None, core)
    core._history.reset(3, Configuration.of(replica("n1")))
    core.configuration = core._history.latest
    with pytest.raises(AssertionError, match="stands without being a voter"):
        invariants.check(None, core)
