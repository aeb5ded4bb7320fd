"""Bugs of who counts: two majorities that do not meet, or the wrong replicas in one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raft.configuration import Configuration, History
from raft.core import Core
from raft.election import Ballot
from raft.leader import Leadership, _Half
from raft.membership import MembershipRules
from raft.messages import Reconfigure, Replica
from raft.progress import Progress
from raft.quorum import ballot_result, joint_result
from raft.roles import LEADER
from raft.state import Change as MemberChange
from raft.state import State
from tests.sim import host as host_module
from tests.sim.host import Host
from tests.sim.mutants.mutant import Change, Mutant, handlers, nothing


def _half_of_joint() -> list[Change]:
    return [(Configuration, "halves", property(lambda configuration: (configuration.voters,)))]


def _no_joint() -> list[Change]:
    next_step = MembershipRules._next_step

    def straight(
        core: MembershipRules, change: MemberChange, now_in_force: Configuration
    ) -> Configuration | None:
        step = next_step(core, change, now_in_force)
        if step is not None and step.is_joint:
            return Configuration(change.voters, change.learners)
        return step

    return [(MembershipRules, "_next_step", straight)]


def _with_noop_committed(core: Core, step: Any, *arguments: Any) -> None:
    leadership = core._leadership
    if leadership is None:
        step(core, *arguments)
        return
    noop_index, leadership.noop_index = leadership.noop_index, 0
    try:
        step(core, *arguments)
    finally:
        leadership.noop_index = noop_index


def _change_before_own_commit() -> list[Change]:
    advance, reconfigure = Core._advance_change, Core._on_reconfigure

    def at_once(core: Core) -> None:
        _with_noop_committed(core, advance)

    def taken(core: Core, message: Reconfigure) -> None:
        _with_noop_committed(core, reconfigure, message)

    return [
        (MembershipRules, "_advance_change", at_once),
        *handlers({Reconfigure: taken}, LEADER),
    ]


def _impatient_change() -> list[Change]:
    """The next configuration does not wait for the last one (pitfall 22)."""
    advance = Core._advance_change

    def at_once(core: Core) -> None:
        commit = core.commit_index
        core.commit_index = core.log.last_index
        try:
            advance(core)
        finally:
            core.commit_index = commit

    return [(Core, "_advance_change", at_once)]


def _no_way_back() -> list[Change]:
    def keeps(history: History, index: int) -> bool:
        while history._indexes[-1] >= index and len(history._indexes) > 1:
            history._indexes.pop()
            last = history._configurations.pop()
            history._configurations[-1] = last
        return False

    return [(History, "truncate_from", keeps)]


def _restarts_as(known: Callable[[Configuration], Configuration]) -> list[Change]:
    init = State.__init__

    def begins(core: State, **rest: Any) -> None:
        init(core, **rest)
        history = core._history
        history._configurations[-1] = known(history.latest)
        core.configuration = history.latest
        core._alone = core.configuration.is_only_voter(core.me)

    return [(State, "__init__", begins)]


def _alone_for_ever() -> list[Change]:
    change = State._configuration_changed

    def still(core: State) -> None:
        alone = core._alone
        change(core)
        core._alone = alone or core._alone

    return [(State, "_configuration_changed", still)]


def _without_joint(configuration: Configuration) -> Configuration:
    return configuration.leave() if configuration.is_joint else configuration


def _all_vote(configuration: Configuration) -> Configuration:
    if configuration.is_joint:
        return configuration
    return Configuration(configuration.voters | configuration.learners)


def _halves_with(more: Callable[[Leadership, Configuration, _Half], _Half]) -> list[Change]:
    reconfigure = Leadership.reconfigure

    def changed(leadership: Leadership, configuration: Configuration, index: int, now: int) -> None:
        reconfigure(leadership, configuration, index, now)
        leadership._halves = tuple(
            more(leadership, configuration, half) for half in leadership._halves
        )

    return [(Leadership, "reconfigure", changed)]


def _and_learners(leadership: Leadership, configuration: Configuration, half: _Half) -> _Half:
    learners = [leadership.progress[it] for it in sorted(configuration.learners)]
    return _Half((*half.peers, *learners), half.counts_me)


def _and_me(leadership: Leadership, configuration: Configuration, half: _Half) -> _Half:
    return _Half(half.peers, counts_me=True)


def _anybody_elects() -> list[Change]:
    def others(core: State) -> list[Replica]:
        return [it for it in core.configuration.members if it != core.me]

    def record(ballot: Ballot, replica: Replica, granted: bool) -> int:
        (ballot._granted if granted else ballot._refused).add(replica)
        return joint_result(
            [
                ballot_result(len(half), min(len(half), len(ballot._granted)), 0)
                for half in ballot._halves
            ]
        )

    return [(State, "_other_voters", others), (Ballot, "record", record)]


def _known_by_node() -> list[Change]:
    make = Leadership._new_progress

    def inherited(leadership: Leadership, replica: Replica, now: int) -> Progress:
        peer = make(leadership, replica, now)
        for other in leadership.progress.values():
            if other.replica.node == replica.node:
                peer.match = other.match
        return peer

    return [(Leadership, "_new_progress", inherited)]


def _frames_of_the_past() -> list[Change]:
    """The host of the simulator stands in for the transport, which looks at every header."""
    receive = Host.receive

    def anyway(host: Host, sender: str, lane: int, frame: Any) -> None:
        kind, _, _, body = frame
        receive(host, sender, lane, (kind, host.peers[sender], host.me, body))

    return [(Host, "receive", anyway)]


MUTANTS: Final[dict[str, Mutant]] = {
    "blank-disk-same-replica": Mutant(
        "a blank disk goes on as who it was (pitfall 20)",
        lambda: [(host_module, "WIPE_STEP", 0)],
    ),
    "known-by-node": Mutant(
        "believes of a new incarnation what was known of the last (pitfall 21)", _known_by_node
    ),
    "frames-of-the-past": Mutant(
        "takes frames of, and for, an earlier incarnation (pitfalls 21 and 55)", _frames_of_the_past
    ),
    "half-of-joint": Mutant("one half of a joint configuration decides (paper 6)", _half_of_joint),
    "no-joint": Mutant("goes straight to the new voters (paper 6)", _no_joint),
    "change-before-own-commit": Mutant(
        "changes members before an entry of its own is committed (pitfall 22)",
        _change_before_own_commit,
    ),
    "impatient-change": Mutant(
        "the next configuration does not wait for the last (pitfall 22)", _impatient_change
    ),
    "members-not-adopted": Mutant(
        "a follower goes on with the configuration that it has (pitfall 23)",
        lambda: [(Core, "_adopt_configurations", nothing)],
    ),
    "no-way-back": Mutant(
        "a configuration stays when its entry is cut off (pitfall 23)", _no_way_back
    ),
    "joint-forgotten": Mutant(
        "a restart forgets that its configuration is joint (pitfall 24)",
        lambda: _restarts_as(_without_joint),
    ),
    "still-alone": Mutant(
        "who was the only voter goes on as if it were (pitfall 23)", _alone_for_ever
    ),
    "removed-counts": Mutant(
        "a leader that is removed counts itself (pitfall 26)", lambda: _halves_with(_and_me)
    ),
    "removed-stays": Mutant(
        "a leader that was removed goes on leading (pitfall 26)",
        lambda: [(MembershipRules, "_leave_leadership", nothing)],
    ),
    "learner-acknowledges": Mutant(
        "a learner counts when entries are committed (thesis 4.2.1)",
        lambda: _halves_with(_and_learners),
    ),
    "learner-elects": Mutant("a learner counts in elections (thesis 4.2.1)", _anybody_elects),
    "learner-wakes-as-voter": Mutant(
        "after a restart learners are voters (pitfall 27)", lambda: _restarts_as(_all_vote)
    ),
}
