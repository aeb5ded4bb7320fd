"""The checkers object: to each kind of history that must never be, one made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from raft.configuration import Configuration
from raft.core import Core
from raft.log import Log
from raft.messages import (
    COMMAND,
    AppendReply,
    HardState,
    Mark,
    Replica,
    Run,
    Save,
    SnapshotMeta,
    VoteReply,
)
from raft.store.runs import encode_configuration_run, encode_run
from tests.linearizability import DONE, Operation
from tests.sim.checkers import (
    Command,
    Disk,
    GroupChecker,
    Promised,
    Reset,
    Seen,
    check_equal,
    check_log_time,
    check_recovered,
    commands_of,
    is_legal_step,
)
from tests.sim.clients import FORGOTTEN, Ledger, check_calm
from tests.sim.world import World
from transport.client import wire
from transport.client.wire import Outcome
from transport.protocol import WriteRequest

ONE, TWO, THREE = (Replica(name, 100) for name in ("n1", "n2", "n3"))
ALL = Configuration.of(ONE, TWO, THREE)


def _put(tag: str) -> bytes:
    return WriteRequest(type=tag, operation="PUT", key="k").SerializeToString()


def a_run(term: int, first: int, *tags: str, time_ms: int = 1) -> Run:
    """One command for each tag."""
    commands = [(0, 0, 0, b"\x38\x02" + _put(tag)) for tag in tags or ("a",)]
    return encode_run(COMMAND, term, first, time_ms=time_ms, wall_ms=1, commands=commands)


@dataclass
class Stub:
    """As much of a core as the checkers look at."""

    me: Replica
    term: int
    log: Log
    commit_index: int = 0
    is_leader: bool = True
    configuration: Configuration = ALL
    can_serve: bool = True
    last_index: int = 0
    durable_index: int = 0
    configurations: dict[int, Configuration] = field(default_factory=lambda: {0: ALL})

    def configuration_at(self, index: int) -> Configuration:
        return self.configurations[max(at for at in self.configurations if at <= index)]


def seen(
    me: Replica, term: int, runs: Iterable[Run] = (), commit: int = 0, *, leads: bool = True
) -> Core:
    return cast(Core, Stub(me, term, Log(runs), commit, leads))


def news(checker: GroupChecker, core: Core) -> None:
    """Its commit index has moved, from nothing."""
    checker.note_committed(core, Seen(0, None, core.configuration))


def durable_on(checker: GroupChecker, replicas: Iterable[Replica], runs: list[Run]) -> None:
    for replica in replicas:
        checker.note_durable(replica, Save(1, runs=runs))


def committed(runs: list[Run], term: int = 1) -> GroupChecker:
    """A group that has committed these."""
    checker = GroupChecker(7, ALL)
    durable_on(checker, (ONE, TWO), runs)
    news(checker, seen(ONE, term, runs, runs[-1].last))
    return checker


# --------------------------------------------------------------------------- leaders


def elect(checker: GroupChecker, leader: Replica, term: int, *voters: Replica) -> None:
    checker.disks[leader].hard_state = HardState(term, leader)
    for voter in voters:
        checker.promised[voter].note(VoteReply(voter, leader, term, True))


def test_a_leader_that_nobody_has_elected() -> None:
    checker = GroupChecker(7, ALL)
    elect(checker, ONE, 2, TWO)
    with pytest.raises(AssertionError, match="leads term 3 with the votes of 0 of 3 voters"):
        checker.note_leader(seen(ONE, 3))
    elect(checker, ONE, 3)
    with pytest.raises(AssertionError, match="with the votes of 1 of 3 voters: n1"):
        checker.note_leader(seen(ONE, 3))
    elect(checker, ONE, 3, TWO)
    checker.note_leader(seen(ONE, 3))


def test_a_leader_that_only_half_of_a_joint_configuration_has_elected() -> None:
    joint = ALL.enter(frozenset((Replica("n4", 100),)), frozenset())
    checker = GroupChecker(7, joint)
    elect(checker, ONE, 3, TWO)
    core = cast(Core, Stub(ONE, 3, Log(), configuration=joint))
    with pytest.raises(AssertionError, match="with the votes of 0 of 1 voters"):
        checker.note_leader(core)
    checker.note_leader(core, ALL)


def test_two_leaders_in_one_term() -> None:
    checker = GroupChecker(7, ALL)
    elect(checker, ONE, 3, TWO)
    checker.note_leader(seen(ONE, 3))
    checker.note_leader(seen(ONE, 3))
    with pytest.raises(AssertionError, match=r"n1#.* and n2#.* lead term 3"):
        checker.note_leader(seen(TWO, 3))


def test_a_leader_that_lacks_what_an_earlier_term_has_committed() -> None:
    runs = [a_run(1, 1), a_run(1, 2)]
    checker = committed(runs)
    elect(checker, TWO, 4, ONE)
    elect(checker, THREE, 2, ONE)
    with pytest.raises(AssertionError, match="n3 leads term 2 without entry 2 of term 1"):
        checker.note_leader(seen(THREE, 2, runs[:1]))
    elect(checker, THREE, 3, ONE)
    with pytest.raises(AssertionError, match=r"n3 leads term 3 without entry 2 .* has 2 there"):
        checker.note_leader(seen(THREE, 3, [runs[0], a_run(2, 2)]))
    checker.note_leader(seen(TWO, 4, runs))


def test_a_leader_that_came_too_late_need_not_have_what_later_terms_committed() -> None:
    """Its votes were under way while others elected somebody else; it can commit nothing."""
    checker = committed([a_run(3, 1)], term=3)
    elect(checker, THREE, 2, TWO)
    checker.note_leader(seen(THREE, 2, [a_run(2, 1)]))


# --------------------------------------------------------------------------- a lost majority

ALONE = Configuration.of(ONE)


def reset_to_one(checker: GroupChecker, runs: list[Run], *, expected: int, term: int = 1003) -> Run:
    """The run with its configuration.  ``expected``: what n1 had when it was asked."""
    checker.expect_reset(Reset(ONE, ALONE, 1002, expected, 1))
    elect(checker, ONE, term)
    run = encode_configuration_run(term, runs[-1].last + 1, ALONE, 1, 1)
    core = cast(Core, Stub(ONE, term, Log([*runs, run]), configuration=ALONE))
    checker.note_leader(core)
    checker.note_stored(core, [run])
    return run


def test_after_a_reset_exactly_what_its_log_lacks_is_gone() -> None:
    runs = [a_run(1, 1, "a"), a_run(1, 2, "b"), a_run(1, 3, "c")]
    checker = committed(runs)
    checker.note_digest("n2", 3, b"c")
    run = reset_to_one(checker, runs[:2], expected=2)
    assert (checker.committed, checker.kept_index) == (runs[:2], 2)
    assert checker.committed_before == runs
    assert checker.committed_index == 2
    durable_on(checker, (ONE,), [*runs[:2], run])
    core = Stub(ONE, 1003, Log([*runs[:2], run]), 3, configuration=ALONE)
    checker.note_committed(cast(Core, core), Seen(2, 1003, ALONE))
    assert checker.is_reset
    assert checker.configuration == ALONE
    checker.note_digest("n1", 3, b"other")
    checker.check_read("n1", 2, (0, 3))  # asked before, of what is no more
    with pytest.raises(AssertionError, match="n1 reads at 2, but 3 was committed"):
        checker.check_read("n1", 2, checker.committed_now())


def test_a_reset_may_not_lose_what_it_had() -> None:
    runs = [a_run(1, 1), a_run(1, 2)]
    with pytest.raises(AssertionError, match="n1 has not kept 2"):
        reset_to_one(committed(runs), runs[:1], expected=2)


def test_a_reset_that_nobody_asked_for_or_that_has_not_leapt() -> None:
    runs = [a_run(1, 1), a_run(1, 2)]
    with pytest.raises(AssertionError, match="leads term 1001 without entry 2"):
        reset_to_one(committed(runs), runs[:1], expected=1, term=1001)


def test_nobody_of_before_leads_after_a_reset() -> None:
    runs = [a_run(1, 1), a_run(1, 2)]
    checker = committed(runs)
    reset_to_one(checker, runs, expected=2)
    elect(checker, TWO, 5, THREE)
    with pytest.raises(AssertionError, match="n2 leads term 5, the group was reset in 1003"):
        checker.note_leader(seen(TWO, 5, runs))


def test_what_clients_heard_of_lost_entries_is_true_of_before_alone() -> None:
    ledger = Ledger(acknowledged={"a": 1, "b": 2}, reads=[(1, "k", b""), (2, "k", b"")])
    answered = Operation(1, "k", "put", b"b", 0, 9, DONE)
    ledger.note(answered, 2)
    ledger.begin_anew(1, [])
    assert ledger.before is not None
    assert (ledger.history, ledger.before.history) == ([], [answered])
    assert ledger.reads == [(1, "k", b"")]
    before = list(commands_of([a_run(1, 1, "a"), a_run(1, 2, "b")]))
    ledger.check(before[:1], ())
    ledger.before.check(before, ())
    with pytest.raises(AssertionError, match="b was lost, and is committed again"):
        ledger.check([before[0], Command("b", 3, 1)], ())


# --------------------------------------------------------------------------- logs


def test_two_runs_of_one_term_at_one_index() -> None:
    checker = GroupChecker(7, ALL)
    first, other = a_run(1, 1, "a"), a_run(1, 1, "b")
    checker.note_stored(seen(ONE, 1, [first]), [first])
    checker.note_stored(seen(TWO, 1, [first]), [first])
    with pytest.raises(AssertionError, match="two runs of term 1 begin at 1"):
        checker.note_stored(seen(THREE, 1, [other]), [other])


def test_the_same_run_behind_different_ones() -> None:
    checker = GroupChecker(7, ALL)
    run = a_run(3, 2)
    checker.note_stored(seen(ONE, 3, [a_run(1, 1), run]), [run])
    with pytest.raises(AssertionError, match="behind term 2 on n2, elsewhere behind 1"):
        checker.note_stored(seen(TWO, 3, [a_run(2, 1), run]), [run])


def test_a_run_that_was_changed_after_it_was_stored() -> None:
    checker = GroupChecker(7, ALL)
    run = a_run(1, 1)
    core = seen(ONE, 1, [run])
    checker.note_stored(core, [run])
    checker.check_tail(core)
    with pytest.raises(AssertionError, match="has changed on n2"):
        checker.check_tail(seen(TWO, 1, [a_run(1, 1, "b")]))
    with pytest.raises(AssertionError, match="was never stored"):
        checker.check_tail(seen(TWO, 2, [a_run(2, 1)]))


# --------------------------------------------------------------------------- commits


def test_a_commit_that_no_majority_of_disks_has() -> None:
    checker = GroupChecker(7, ALL)
    runs = [a_run(1, 1)]
    durable_on(checker, (TWO,), runs)
    with pytest.raises(AssertionError, match="durable on 1 of 3 voters: n2"):
        news(checker, seen(ONE, 1, runs, 1))
    durable_on(checker, (THREE,), runs)
    news(checker, seen(ONE, 1, runs, 1))


def test_in_a_joint_configuration_each_half_counts() -> None:
    four = Replica("n4", 100)
    joint = ALL.enter(frozenset((ONE, four)), frozenset())
    checker = GroupChecker(7, joint)
    runs = [a_run(1, 1)]
    durable_on(checker, (ONE, TWO), runs)
    core = cast(Core, Stub(ONE, 1, Log(runs), 1, True, joint))
    with pytest.raises(AssertionError, match="durable on 1 of 2 voters: n1"):
        news(checker, core)
    durable_on(checker, (four,), runs)
    news(checker, core)


def test_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    checker = GroupChecker(7, ALL)
    runs = [a_run(1, 1)]
    durable_on(checker, (ONE, TWO, THREE), runs)
    with pytest.raises(AssertionError, match="leader of term 2 commits 1, of term 1"):
        news(checker, seen(ONE, 2, runs, 1))


def test_a_follower_commits_what_no_leader_has() -> None:
    checker = GroupChecker(7, ALL)
    runs = [a_run(1, 1)]
    durable_on(checker, (ONE, TWO, THREE), runs)
    with pytest.raises(AssertionError, match="n1 commits 1 and does not lead"):
        news(checker, seen(ONE, 1, runs, 1, leads=False))


def test_a_follower_commits_something_else() -> None:
    checker = committed([a_run(2, 1)], term=2)
    with pytest.raises(AssertionError, match=r"takes 1\.\.1 of term 1 for committed"):
        news(checker, seen(TWO, 2, [a_run(1, 1)], 1, leads=False))


def test_a_leader_that_commits_its_own_removal_led_until_then() -> None:
    checker = GroupChecker(7, ALL)
    runs = [a_run(3, 1)]
    durable_on(checker, (TWO, THREE), runs)
    core = seen(ONE, 4, runs, 1, leads=False)
    checker.note_committed(core, Seen(0, 3, ALL))
    assert checker.committed == runs


def test_in_the_turn_of_a_change_the_configuration_before_it_counts_too() -> None:
    runs = [a_run(1, 1)]
    four = Replica("n4", 100)
    joint = ALL.enter(frozenset((four,)), frozenset())
    core = cast(Core, Stub(ONE, 1, Log(runs), 1, True, joint))
    for before, holds in ((ALL, True), (joint, False)):
        checker = GroupChecker(7, ALL)
        durable_on(checker, (ONE, TWO), runs)
        if holds:
            checker.note_committed(core, Seen(0, 1, before))
        else:
            with pytest.raises(AssertionError, match="durable on 0 of 1 voters"):
                checker.note_committed(core, Seen(0, 1, before))


# --------------------------------------------------------------------------- configurations


def a_configuration(term: int, first: int, configuration: Configuration) -> Run:
    return encode_configuration_run(term, first, configuration, 1, 1)


def test_steps_from_one_configuration_to_the_next() -> None:
    four = Replica("n4", 100)
    joint = ALL.enter(frozenset((ONE, TWO, four)), frozenset())
    with_learner = Configuration.of(ONE, TWO, THREE, learners=(four,))
    for before, after in ((ALL, with_learner), (with_learner, ALL), (ALL, joint)):
        assert is_legal_step(before, after)
    assert is_legal_step(joint, joint.leave())
    assert not is_legal_step(ALL, Configuration.of(ONE, TWO, four))
    assert not is_legal_step(ALL, Configuration.of(ONE, TWO))
    assert not is_legal_step(joint, ALL), "the way back from a joint one is a change of its own"
    assert not is_legal_step(Configuration.of(ONE, TWO), joint)


def configured(
    configurations: dict[int, Configuration], runs: list[Run], *, serves: bool = True
) -> Core:
    """A leader of term 1 with these configurations in its log, by index."""
    core = Stub(ONE, 1, Log(runs), can_serve=serves, last_index=runs[-1].last)
    core.configurations = {0: ALL, **configurations}
    return cast(Core, core)


def test_a_change_of_voters_without_a_joint_configuration() -> None:
    checker = GroupChecker(7, ALL)
    two = Configuration.of(ONE, TWO)
    run = a_configuration(1, 1, two)
    with pytest.raises(AssertionError, match=r"n1 goes from .* at 1"):
        checker.note_stored(configured({1: two}, [run]), [run])


def test_a_change_before_an_entry_of_the_leader_s_term_is_committed() -> None:
    checker = GroupChecker(7, ALL)
    wider = Configuration.of(ONE, TWO, THREE, learners=(Replica("n4", 100),))
    run = a_configuration(1, 1, wider)
    with pytest.raises(AssertionError, match="changes members at 1 before an entry of its term 1"):
        checker.note_stored(configured({1: wider}, [run], serves=False), [run])


def test_two_configurations_that_are_not_committed() -> None:
    checker = GroupChecker(7, ALL)
    wider = Configuration.of(ONE, TWO, THREE, learners=(Replica("n4", 100),))
    runs = [a_configuration(1, 1, wider), a_configuration(1, 2, ALL)]
    found = {1: wider, 2: ALL}
    checker.note_stored(configured(found, runs[:1]), runs[:1])
    assert checker.configurations_possible() == [ALL, wider]
    with pytest.raises(AssertionError, match=r"uncommitted configurations at \[1, 2\]"):
        checker.note_stored(configured(found, runs), runs[1:])
    durable_on(checker, (ONE, TWO), runs[:1])
    news(checker, seen(ONE, 1, runs[:1], 1))
    checker.note_stored(configured(found, runs), runs[1:])
    assert checker.configurations_possible() == [wider, ALL]


# --------------------------------------------------------------------------- snapshots


def a_snapshot(index: int, term: int, crc: int = 1, **rest: Any) -> SnapshotMeta:
    fields = {"configuration": ALL, "time_ms": 1, "machine_version": 1, "size_bytes": 9, **rest}
    return SnapshotMeta(index=index, term=term, crc=crc, **fields)


def test_a_snapshot_of_something_else() -> None:
    checker = committed([a_run(1, 1), a_run(1, 2)])
    checker.note_snapshot("n1", a_snapshot(2, 1))
    with pytest.raises(AssertionError, match="at 3 of term 1, committed is None"):
        checker.note_snapshot("n2", a_snapshot(3, 1))
    with pytest.raises(AssertionError, match="at 2 of term 2, committed is 1"):
        checker.note_snapshot("n2", a_snapshot(2, 2))
    with pytest.raises(AssertionError, match="in force was"):
        checker.note_snapshot("n2", a_snapshot(1, 1, configuration=Configuration.of(ONE)))
    with pytest.raises(AssertionError, match="another snapshot at 2"):
        checker.note_snapshot("n2", a_snapshot(2, 1, crc=2))


def test_a_machine_that_becomes_what_nobody_has_made() -> None:
    checker = committed([a_run(1, 1), a_run(1, 2)])
    checker.note_snapshot("n1", a_snapshot(2, 1))
    checker.note_restored("n2", a_snapshot(2, 1))
    with pytest.raises(AssertionError, match="which nobody has made"):
        checker.note_restored("n2", a_snapshot(1, 1))


def test_a_piece_of_a_snapshot_that_has_decayed_is_sent() -> None:
    checker = GroupChecker(7, ALL)
    checker.note_written(a_snapshot(2, 1), b"abcdef")
    checker.check_sent("n1", a_snapshot(2, 1), 2, b"cd")
    with pytest.raises(AssertionError, match="n1 sends what has decayed"):
        checker.check_sent("n1", a_snapshot(2, 1), 2, b"cD")


def test_the_group_s_disks_follow_marks() -> None:
    checker = GroupChecker(7, ALL)
    runs = [a_run(1, 1), a_run(1, 2), a_run(1, 3)]
    durable_on(checker, (ONE, TWO), runs)
    mark = Mark(a_snapshot(2, 1), 1, 1, resets=False)
    checker.note_durable(ONE, Save(2, mark=mark))
    assert all(checker.disks[ONE].holds(run) for run in runs)
    assert checker.disks[ONE].runs == runs[1:]
    checker.note_durable(TWO, Save(2, mark=Mark(a_snapshot(2, 1), 2, 1, resets=True)))
    assert [checker.disks[TWO].holds(run) for run in runs] == [True, True, False]
    found = Disk(HardState(), runs[2:], base_index=2, snapshot=mark.snapshot)
    with pytest.raises(AssertionError, match="durable were"):
        checker.note_recovered(ONE, found, [])
    found = Disk(HardState(), runs[1:], base_index=1, snapshot=mark.snapshot)
    checker.note_recovered(ONE, found, [])


def test_something_else_is_applied() -> None:
    runs = [a_run(1, 1)]
    checker = committed(runs)
    checker.note_applied("n2", runs)
    with pytest.raises(AssertionError, match="applies 2, which is not committed"):
        checker.note_applied("n2", [a_run(1, 2)])
    with pytest.raises(AssertionError, match="applies 1 of term 2, committed is 1 of term 1"):
        checker.note_applied("n2", [a_run(2, 1)])


def test_two_states_at_one_index() -> None:
    checker = GroupChecker(7, ALL)
    checker.note_digest("n1", 4, b"a")
    checker.note_digest("n2", 5, b"b")
    with pytest.raises(AssertionError, match="n2 has another state at 4"):
        checker.note_digest("n2", 4, b"b")


def test_an_answer_before_anybody_has_applied() -> None:
    checker = GroupChecker(7, ALL)
    checker.note_digest("n1", 4, b"a")
    checker.check_answered("tag", 4)
    with pytest.raises(AssertionError, match="tag was answered at 5"):
        checker.check_answered("tag", 5)
    checker.note_digest("n2", 5, None)  # quarantined behind it: so much has been applied
    checker.check_answered("tag", 5)
    checker.note_digest("n1", 5, b"b")


def test_replicas_that_differ_at_the_end() -> None:
    check_equal(7, {"n1": (3, b"a"), "n2": (3, b"a")})
    with pytest.raises(AssertionError, match="differ at the end"):
        check_equal(7, {"n1": (3, b"a"), "n2": (3, b"b")})


def test_log_time_that_goes_back() -> None:
    check_log_time([a_run(1, 1, time_ms=5), a_run(1, 2, time_ms=5)])
    with pytest.raises(AssertionError, match="from 5 back to 4 at 2"):
        check_log_time([a_run(1, 1, time_ms=5), a_run(1, 2, time_ms=4)])


# --------------------------------------------------------------------------- reads


def test_a_read_that_misses_what_was_committed_before_it() -> None:
    checker = GroupChecker(7, ALL)
    checker.check_read("n1", 5, (0, 5))
    with pytest.raises(AssertionError, match="n1 reads at 4, but 5 was committed"):
        checker.check_read("n1", 4, (0, 5))


def test_a_lease_of_a_leader_that_has_been_followed_by_another() -> None:
    checker = GroupChecker(7, ALL)
    elect(checker, ONE, 3, TWO)
    checker.note_leader(seen(ONE, 3))
    checker.check_lease(seen(ONE, 3))
    elect(checker, TWO, 4, THREE)
    checker.note_leader(seen(TWO, 4))
    with pytest.raises(AssertionError, match="n1 has a lease in term 3, and n2 leads term 4"):
        checker.check_lease(seen(ONE, 3))


# --------------------------------------------------------------------------- disks, promises


def test_an_entry_that_is_taken_to_be_durable_and_is_not() -> None:
    checker = GroupChecker(7, ALL)
    core = cast(Core, Stub(ONE, 1, Log([a_run(1, 1)]), durable_index=1))
    with pytest.raises(AssertionError, match="n1 takes 1 of term 1 to be durable"):
        checker.check_durable(core)
    durable_on(checker, (ONE,), [a_run(1, 1, "b")])
    with pytest.raises(AssertionError, match="to be durable"):
        checker.check_durable(core)
    checker.note_durable(ONE, Save(2, truncate_from=1, runs=[a_run(1, 1)]))
    checker.check_durable(core)


def test_a_restart_finds_less_than_was_durable() -> None:
    runs = [a_run(1, 1), a_run(1, 2)]
    disk = Disk(HardState(1, ONE), runs)
    check_recovered(Disk(HardState(1, ONE), runs), disk, [])
    with pytest.raises(AssertionError, match=r"holds .* and 1; durable were .* and 2"):
        check_recovered(Disk(HardState(1, ONE), runs[:1]), disk, [])
    with pytest.raises(AssertionError, match="durable were"):
        check_recovered(Disk(HardState(1, None), runs), disk, [])


def test_a_restart_finds_a_batch_whole_or_not_at_all() -> None:
    one, two, three = a_run(1, 1), a_run(1, 2), a_run(2, 2)
    disk = Disk(HardState(1), [one, two])
    under_way = [Save(3, HardState(2, TWO), 2, []), Save(4, runs=[three])]
    check_recovered(Disk(HardState(2, TWO), [one, three]), disk, under_way)
    check_recovered(Disk(HardState(1), [one, two]), disk, under_way)
    with pytest.raises(AssertionError, match="with the batch under way"):
        check_recovered(Disk(HardState(2, TWO), [one]), disk, under_way)


def test_the_group_s_disks_follow_truncations() -> None:
    checker = GroupChecker(7, ALL)
    runs = [a_run(1, 1), a_run(1, 2)]
    durable_on(checker, (ONE,), runs)
    checker.note_durable(ONE, Save(2, truncate_from=2))
    assert checker.disks[ONE].holds(runs[0])
    assert not checker.disks[ONE].holds(runs[1])
    checker.note_recovered(ONE, Disk(HardState(), runs[:1]), [])
    with pytest.raises(AssertionError, match="durable were"):
        checker.note_recovered(ONE, Disk(HardState(), runs), [])


def test_a_second_vote_in_a_term() -> None:
    promised = Promised()
    promised.note(VoteReply(ONE, TWO, 3, True))
    promised.note(VoteReply(ONE, TWO, 3, True))
    promised.note(VoteReply(ONE, THREE, 3, False))
    with pytest.raises(AssertionError, match=r"voted for n2.* and n3.* in term 3"):
        promised.note(VoteReply(ONE, THREE, 3, True))


def test_promises_that_a_disk_has_forgotten() -> None:
    promised = Promised()
    promised.note(VoteReply(ONE, TWO, 3, True))
    promised.check(HardState(3, TWO), 0)
    promised.check(HardState(4, None), 0)
    with pytest.raises(AssertionError, match="forgot term 3"):
        promised.check(HardState(2, None), 0)
    with pytest.raises(AssertionError, match="forgot its vote for n2"):
        promised.check(HardState(3, None), 0)
    promised.note(AppendReply(ONE, TWO, 4, 9))
    with pytest.raises(AssertionError, match="acknowledged 9 in term 4, has 8"):
        promised.check(HardState(4, None), 8)


# --------------------------------------------------------------------------- what clients heard


def a_refusal() -> Outcome:
    return Outcome(wire.BUSY, b"", "no", False, "", "", 0, 0, 0)


def test_what_clients_were_told_is_held_against_the_logs() -> None:
    there, cut_off = a_run(1, 1, "a", "b"), a_run(1, 3, "c")
    ledger = Ledger(acknowledged={"a": 1, "b": 2})
    log = list(commands_of([there]))
    assert log == [Command("a", 1, 1), Command("b", 2, 1)]
    ledger.check(log, log)
    ledger.acknowledged["c"] = 3
    with pytest.raises(AssertionError, match="c was answered at 3 and is committed at None"):
        ledger.check(log, log)
    ledger = Ledger(refused={"c": a_refusal()})
    ledger.check(log, log)
    with pytest.raises(AssertionError, match=r"c was definitely refused .* was in a log at 3"):
        ledger.check(log, [*log, *commands_of([cut_off])])


def test_a_read_that_is_not_the_state_at_its_index() -> None:
    log = [a_run(1, 1, "a")]
    Ledger(reads=[(0, "k", None), (1, "k", b"")]).check_reads(log)
    for wrong in ((0, "k", b""), (1, "k", None), (1, "j", b"")):
        with pytest.raises(AssertionError, match="was read as"):
            Ledger(reads=[wrong]).check_reads(log)


def test_a_message_that_is_forgotten_in_the_calm() -> None:
    world = World(1)
    said = Outcome(wire.TIMEOUT, b"", FORGOTTEN, True, "", "", 0, 0, 0)
    check_calm(world, 5, said)
    world.calm_us = 5
    check_calm(world, 4, said)
    check_calm(world, 5, a_refusal())
    with pytest.raises(AssertionError, match="accepted and forgotten"):
        check_calm(world, 5, said)


def test_a_command_that_is_committed_twice() -> None:
    log = list(commands_of([a_run(1, 1, "a", "b"), a_run(1, 3, "a")]))
    with pytest.raises(AssertionError, match="a is committed at 1 and at 3"):
        Ledger().check(log, log)


# --------------------------------------------------------------------------- who leaves, who begins


def test_a_member_that_is_left() -> None:
    checker = GroupChecker(7, ALL)
    with pytest.raises(AssertionError, match="is left, and is a member"):
        checker.note_left(ONE)
    checker.note_left(Replica("n1", 99))


def test_a_replica_that_was_left_and_speaks() -> None:
    checker = GroupChecker(7, ALL)
    other = Replica("n4", 100)
    checker.note_sent(VoteReply(other, ONE, 1, True))
    checker.note_forgotten(other)
    with pytest.raises(AssertionError, match="was left, and speaks"):
        checker.note_sent(VoteReply(other, ONE, 2, True))


def test_a_replica_that_was_left_and_comes_back_as_itself() -> None:
    checker = GroupChecker(7, ALL)
    other = Replica("n4", 100)
    checker.note_begun(other, Disk())
    checker.note_forgotten(other)
    with pytest.raises(AssertionError, match="was left, and begins anew"):
        checker.note_begun(other, Disk())


def test_a_group_that_is_restored_to_another_state() -> None:
    runs = [a_run(1, 1, "a"), a_run(1, 2, "b"), a_run(1, 3, "c")]
    old = committed(runs)
    old.note_digest("n1", 2, b"state")
    meta = SnapshotMeta(2, 1, ALL, 1, 1, 100, 7)
    beginning = old.beginning_at(meta)
    assert beginning is not None
    assert [run.first for run in beginning.runs] == [1, 2]
    new = GroupChecker(8, ALL)
    new.begin_with(beginning, meta, b"file")
    assert new.committed_index == 2
    new.note_restored("n1", meta)
    new.note_digest("n1", 2, b"state")
    with pytest.raises(AssertionError, match="another state at 2"):
        new.note_digest("n2", 2, b"something else")


def test_a_backup_of_what_is_committed_no_more() -> None:
    old = committed([a_run(1, 1, "a"), a_run(1, 2, "b")])
    assert old.beginning_at(SnapshotMeta(2, 3, ALL, 1, 1, 100, 7)) is None
    assert old.beginning_at(SnapshotMeta(9, 1, ALL, 1, 1, 100, 7)) is None
