"""What must hold: after every step, and between any two moments of one replica's life.

All of it in one place, in two parts. The absolute ones are statements about a core as it is; the
ones between two moments compare it with a :class:`Snapshot` taken before. Tests and the simulator
check after every step, production by option::

    before = invariants.take(core)
    core.step(message, now)
    invariants.check(before, core)

A violation is an error of ours and never something to go on from: an AssertionError whose text
names the indexes. What holds between *replicas* (one leader per term, equal committed entries)
cannot be seen from here; the test cluster and the simulator check it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from raft.core import Core
from raft.messages import Replica
from raft.progress import PROBE, REPLICATE
from raft.roles import CANDIDATE, LEADER, PRE_CANDIDATE, ROLES

# How many of the last runs are looked at after each step; the ones before were looked at earlier.
TAIL_RUNS_MAX: Final = 16


@dataclass(slots=True, frozen=True)
class Snapshot:
    """What the next moment is compared with."""

    role: int
    term: int
    vote: Replica | None
    leader: Replica | None
    commit_index: int
    commit_term: int | None
    handed_index: int
    last_index: int
    last_term: int
    durable_index: int
    matches: dict[Replica, int]


def take(core: Core) -> Snapshot:
    return Snapshot(
        role=core.role,
        term=core.term,
        vote=core.vote,
        leader=core.leader,
        commit_index=core.commit_index,
        commit_term=core.log.term_at(core.commit_index),
        handed_index=core.handed_index,
        last_index=core.last_index,
        last_term=core.last_term,
        durable_index=core.durable_index,
        matches={peer.replica: peer.match for peer in core.progress() if not peer.departs},
    )


def check(before: Snapshot | None, core: Core) -> None:
    """Raise AssertionError, with the indexes, if the core is wrong or came to be so wrongly."""
    _check_indexes(core)
    _check_log_tail(core)
    _check_role(core)
    if core.role == LEADER:
        _check_leader(core)
    if before is not None:
        _check_change(before, core)


def _check_indexes(core: Core) -> None:
    """base <= handed <= min(commit, durable) and both within the log (pitfall 18).

    While a snapshot waits to be restored, the log has begun anew at it, and what was handed out and
    is durable still speaks of before.
    """
    handed, commit, durable = core.handed_index, core.commit_index, core.durable_index
    restoring = core.restoring
    if restoring is None:
        assert core.log.base_index <= handed, f"handed {handed} below base {core.log.base_index}"
    else:
        assert core.log.base_index == restoring.index, f"base is not {restoring.index}"
        assert handed < restoring.index, f"handed out {handed}, to be restored: {restoring.index}"
        assert commit >= restoring.index, f"committed {commit}, installed {restoring.index}"
    assert handed <= commit, f"handed out {handed}, committed only {commit}"
    assert handed <= durable, f"handed out {handed}, durable only {durable}"
    assert commit <= core.last_index, f"committed {commit}, the log ends at {core.last_index}"
    assert durable <= core.last_index, f"durable {durable}, the log ends at {core.last_index}"
    for name, index in (("commit", commit), ("durable", durable), ("handed", handed)):
        before_base = restoring is not None and index < core.log.base_index
        assert before_base or core.log.is_border(index), f"{name} index {index} lies inside a run"
    snapshot_index = 0 if core.snapshot is None else core.snapshot.index
    assert snapshot_index <= commit, f"snapshot of {snapshot_index}, committed only {commit}"
    assert core.log.base_index <= snapshot_index, (
        f"the log begins behind {core.log.base_index}, the snapshot is of {snapshot_index}"
    )


def _check_log_tail(core: Core) -> None:
    """No hole, no falling term, nothing of a term that this replica does not know."""
    assert core.last_term <= core.term, f"last entry of term {core.last_term} in term {core.term}"
    tail = core.log.tail(TAIL_RUNS_MAX)
    for earlier, later in pairwise(tail):
        assert later.first == earlier.last + 1, f"hole between {earlier.last} and {later.first}"
        assert later.term >= earlier.term, f"term falls at {later.first}"
    if tail:
        assert tail[-1].last == core.last_index, (
            f"last run ends at {tail[-1].last}, last index is {core.last_index}"
        )


def _check_role(core: Core) -> None:
    assert core.role in ROLES, f"unknown role {core.role}"
    if core.role == LEADER:
        assert core.leader == core.me, f"a leader that follows {core.leader}"
    elif core.role in (PRE_CANDIDATE, CANDIDATE):
        assert core.leader is None, f"a candidate that follows {core.leader}"
    else:
        assert core.leader != core.me, "a follower of itself"
    has_ballot, has_leadership = core.holds
    assert has_ballot == (core.role in (PRE_CANDIDATE, CANDIDATE)), "a ballot without a campaign"
    assert has_leadership == (core.role == LEADER), "a leadership without a leader"
    if core.role in (CANDIDATE, LEADER):
        assert core.vote == core.me, f"stands in term {core.term} and voted for {core.vote}"
    if core.role in (PRE_CANDIDATE, CANDIDATE):
        assert core.may_stand, "stands without being a voter"
    if core.role not in (CANDIDATE, LEADER):
        assert not core.can_serve, "serves without leading"
        assert core.uncommitted_bytes == 0, f"{core.uncommitted_bytes} uncommitted bytes, no leader"
    assert core.uncommitted_bytes >= 0


def _check_leader(core: Core) -> None:
    settings = core.settings
    assert core.last_term == core.term, f"a leader of term {core.term} without an entry of its own"
    for peer in core.progress():
        who = f"{peer.replica} (match {peer.match}, next {peer.next})"
        assert peer.match < peer.next <= core.last_index + 1, f"{who}, log to {core.last_index}"
        assert core.log.is_border(peer.match) or peer.match < core.log.base_index, f"{who}: match"
        assert core.log.is_border(peer.next - 1) or peer.next <= core.log.base_index, f"{who}: next"
        assert peer.inflight_count <= settings.inflight_messages_max, (
            f"{who}: {peer.inflight_count}"
        )
        if peer.state == PROBE:
            assert peer.inflight_count == 0, f"{who}: a window while probing"
        if peer.state == REPLICATE:
            assert peer.inflight_count > 0 or peer.next == peer.match + 1, f"{who}: empty window"


def _check_change(before: Snapshot, core: Core) -> None:
    assert core.term >= before.term, f"term fell from {before.term} to {core.term}"
    if core.term == before.term:
        assert before.vote is None or core.vote == before.vote, (
            f"vote of term {core.term} changed from {before.vote} to {core.vote}"
        )
        assert before.leader is None or core.leader in (None, before.leader), (
            f"leader of term {core.term} changed from {before.leader} to {core.leader}"
        )
        assert core.role != LEADER or before.role in (CANDIDATE, LEADER, PRE_CANDIDATE), (
            f"led term {core.term} without standing for it"
        )
    assert core.commit_index >= before.commit_index, (
        f"commit index fell from {before.commit_index} to {core.commit_index}"
    )
    assert core.handed_index >= before.handed_index, (
        f"handed index fell from {before.handed_index} to {core.handed_index}"
    )
    committed_term = core.log.term_at(before.commit_index)
    assert before.commit_index < core.log.base_index or committed_term == before.commit_term, (
        f"committed entry {before.commit_index} of term {before.commit_term} "
        f"has term {committed_term}"
    )
    if before.role == core.role == LEADER and before.term == core.term:
        _check_leadership_change(before, core)


def _check_leadership_change(before: Snapshot, core: Core) -> None:
    """A leader only adds to its log (paper 5.3, leader append-only), and matches only rise."""
    assert core.last_index >= before.last_index, (
        f"leader's log shrank from {before.last_index} to {core.last_index}"
    )
    assert core.log.term_at(before.last_index) == before.last_term, (
        f"leader's entry {before.last_index} changed its term {before.last_term}"
    )
    assert core.durable_index >= before.durable_index, (
        f"leader's durable index fell from {before.durable_index} to {core.durable_index}"
    )
    for peer in core.progress():
        earlier = before.matches.get(peer.replica, 0)
        assert peer.match >= earlier, f"match of {peer.replica} fell from {earlier} to {peer.match}"
