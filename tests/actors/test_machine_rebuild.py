"""The machine actor that is built anew, from a snapshot or from nothing, by a new machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from actors.machine import (
    Answered,
    Applied,
    Apply,
    Describe,
    Leadership,
    Quarantined,
    Query,
    Rebuild,
    Rebuilt,
    Restore,
    Restored,
    RunsAgain,
    RunsWanted,
    TakeSnapshot,
)
from actors.machines import Machine, Response
from actors.machines.kv import KeyValueMachine
from actors.settings import APPLY_SLICE_ENTRIES_MAX
from raft.messages import Run
from tests.actors.test_machine import SIZE, Asked, run_of
from tests.actors.test_machine_snapshots import Bench, filled, meta_at


class Once(KeyValueMachine):
    """Raises at the key "bad" while ``bad`` is set, having changed something."""

    bad = True
    heard: list[tuple[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self.heard = []

    def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
        if type(self).bad and any(request.key == "bad" for request in requests):
            super().apply_batch(requests[:1], contexts[:1])
            raise ValueError("bad")
        return super().apply_batch(requests, contexts)

    def on_leader_start(self, term: int) -> None:
        self.heard.append(("start", term))

    def on_leader_stop(self, term: int) -> None:
        self.heard.append(("stop", term))


def failing(*, blocking: bool = False) -> tuple[Bench, type[Once]]:
    """Its machine, one of a class of its own, has failed at entry 11."""

    class Mine(Once):
        pass

    Mine.blocking = blocking
    donor, _ = filled()
    bench = Bench(Mine())
    bench.snapshots = donor.snapshots
    assert isinstance(bench.apply(*ten(), run_of(11, ["half", "bad"]))[-1], Quarantined)
    return bench, Mine


def ten() -> list[Run]:
    return [run_of(1, [f"{at}" for at in range(10)])]


def digest_of(*runs: Run) -> bytes:
    bench = Bench()
    bench.apply(*runs)
    return bench.actor.machine.digest()


def test_from_nothing_all_is_applied_again_by_another_machine() -> None:
    bench, kind = failing()
    failed = bench.actor.machine
    kind.bad = False
    runs = [*ten(), run_of(11, ["half", "bad"])]
    *applied, rebuilt = bench.tell(Rebuild(None, runs))
    assert [type(each) for each in applied] == [Applied, Applied]
    assert rebuilt == Rebuilt(12, None)
    assert bench.actor.error is None
    assert bench.actor.machine is not failed
    assert type(bench.actor.machine) is kind
    assert bench.actor.machine.digest() == digest_of(*runs)


def test_from_a_snapshot_what_is_behind_it_is_applied_again() -> None:
    bench, kind = failing()
    kind.bad = False
    bad = run_of(11, ["half", "bad"])
    assert bench.tell(Rebuild(meta_at(10), [bad])) == []
    applied, rebuilt = bench.restore()
    assert (applied.last, rebuilt) == (12, Rebuilt(12, meta_at(10)))
    assert bench.actor.machine.digest() == digest_of(*ten(), bad)


def test_a_snapshot_with_nothing_behind_it_is_all_there_is_to_do() -> None:
    bench, _ = failing()
    bench.tell(Rebuild(meta_at(10), []))
    assert bench.restore() == [Rebuilt(10, meta_at(10))]


def test_a_blocking_machine_is_made_and_restored_where_it_runs() -> None:
    """Both in the call: what it opens may belong to its thread."""
    bench, kind = failing(blocking=True)
    kind.bad = False
    bad = run_of(11, ["half", "bad"])
    assert bench.tell(Rebuild(meta_at(10), [bad]))[-1] == Rebuilt(12, meta_at(10))
    assert bench.asked == []


def test_until_all_is_applied_it_is_quarantined_and_serves_nobody() -> None:
    bench, kind = failing()
    kind.bad = False
    size = APPLY_SLICE_ENTRIES_MAX + 10
    (applied,) = bench.tell(Rebuild(None, [*ten(), run_of(11, ["k"] * size)]))
    assert applied.last == 10
    (answered,) = bench.tell(Query(Asked(), 0, [SIZE]))
    assert isinstance(answered, Answered)
    assert "quarantined" in str(answered.error)
    (described,) = bench.tell(Describe(1))
    assert (described.digest, bool(described.error)) == (None, True)
    assert bench.tell(TakeSnapshot("key")) == []
    assert bench.apply(run_of(11 + size, ["later"])) == []
    news = bench.go_on_to_the_end()
    assert [type(each).__name__ for each in news] == [
        "Applied",
        "Rebuilt",
        "SnapshotView",
        "Applied",
    ]
    assert news[-1].last == 11 + size, "what was told meanwhile comes behind it"


def test_a_machine_that_is_well_by_then_is_left_alone() -> None:
    bench, kind = failing()
    kind.bad = False
    runs = [*ten(), run_of(11, ["half", "bad"])]
    bench.tell(Rebuild(None, runs))
    machine, before = bench.actor.machine, len(bench.news)
    bench.apply(run_of(13, ["more"]))
    assert bench.tell(Rebuild(None, [*runs, run_of(13, ["more"])])) == []
    assert bench.actor.machine is machine
    assert bench.actor.applied_index == 13
    assert len(bench.news) == before + 1


def test_one_that_fails_again_goes_on_with_the_next_attempt_that_is_told() -> None:
    bench, kind = failing()
    bad = run_of(11, ["half", "bad"])
    bench.tell(Rebuild(meta_at(10), [bad]))
    bench.tell(Rebuild(None, [*ten(), bad, run_of(13, ["b"])]))
    bench.apply(run_of(14, ["c"]))
    *_, first = bench.restore()
    assert isinstance(first, Quarantined), "this time at the end of what is told"
    kind.bad = False
    *_, last = bench.tell(Rebuild(None, [*ten(), bad, run_of(13, ["b"]), run_of(14, ["c"])]))
    assert last == Rebuilt(14, None)


def test_a_snapshot_of_the_leader_that_replaces_the_log_overtakes_an_attempt_that_fails() -> None:
    bench, _ = failing()
    donor, _ = filled()
    bench.snapshots[30] = donor.snapshots[10]
    bench.tell(Rebuild(meta_at(10), [run_of(11, ["half", "bad"])]))
    bench.tell(Restore(meta_at(30)))
    bench.apply(run_of(31, ["behind"]))
    quarantined = bench.restore()[-1]
    assert isinstance(quarantined, Quarantined)
    restored, applied = bench.restore()
    assert (restored, applied.last) == (Restored(meta_at(30)), 31)


def test_the_file_that_could_not_be_read_is_named() -> None:
    bench, _ = failing()
    bench.tell(Rebuild(meta_at(9), []))
    (quarantined,) = bench.restore()
    assert isinstance(quarantined, Quarantined)
    assert (quarantined.index, quarantined.failed) == (9, meta_at(9))
    assert "could not be restored: KeyError" in quarantined.error
    assert bench.tell(Apply([(run_of(13, ["x"]), None)])) == []


def test_a_new_machine_hears_that_its_replica_leads_once_it_has_its_state() -> None:
    bench, kind = failing()
    kind.bad = False
    bench.tell(Leadership(True, 4))
    bench.tell(Rebuild(meta_at(10), []))
    machine = bench.actor.machine
    assert isinstance(machine, Once)
    assert machine.heard == []
    bench.restore()
    assert machine.heard == [("start", 4)]
    bench.tell(Leadership(False, 5))
    assert machine.heard == [("start", 4), ("stop", 5)]


def test_a_machine_that_cannot_even_be_made_stays_quarantined() -> None:
    def make() -> Machine:
        raise ImportError("it is gone")

    bench, _ = failing()
    bench.actor._make_machine = make
    for told in (Rebuild(None, ten()), Restore(meta_at(20))):
        (quarantined,) = bench.tell(told)
        assert isinstance(quarantined, Quarantined)
        assert "no new machine could be made: ImportError" in quarantined.error
    assert bench.apply(run_of(12, ["x"])) == []


def test_a_restore_of_a_failed_machine_is_made_on_a_new_one_too() -> None:
    class Adding(Once):
        """Half changed by what failed, it would not be replaced by what is restored."""

        def restore(self, reader: Iterator[bytes], version: int) -> None:
            assert not self._entries, "not the one that failed"
            super().restore(reader, version)

    donor, _ = filled()
    bench = Bench(Adding())
    bench.snapshots = {20: donor.snapshots[10]}
    bench.apply(*ten(), run_of(11, ["half", "bad"]))
    bench.tell(Restore(meta_at(20)))
    assert bench.restore() == [Restored(meta_at(20))]


# --------------------------------------------------------------------------- a log in pieces


def test_what_lies_before_the_last_runs_is_asked_for_in_pieces() -> None:
    bench, kind = failing()
    kind.bad = False
    runs = [*ten(), run_of(11, ["half", "bad"]), run_of(13, ["c"]), run_of(14, ["d"])]
    assert bench.tell(Rebuild(None, runs[3:])) == [RunsWanted(1, 13)]
    assert bench.apply(run_of(15, ["e"])) == [], "in its order"
    assert [type(it) for it in bench.tell(RunsAgain(runs[:1]))] == [Applied, RunsWanted]
    *applied, last = bench.tell(RunsAgain(runs[1:3]))
    assert [each.first for each in applied if isinstance(each, Applied)] == [11, 13, 14]
    assert (applied[-1], last.first) == (Rebuilt(14, None), 15)
    assert bench.actor.machine.digest() == digest_of(*runs, run_of(15, ["e"]))


def test_behind_a_snapshot_only_what_follows_on_it_is_asked_for() -> None:
    bench, kind = failing()
    kind.bad = False
    bench.tell(Rebuild(meta_at(10), [run_of(13, ["c"])]))
    assert bench.restore() == [RunsWanted(11, 12)]
    bench.tell(RunsAgain([run_of(11, ["half", "bad"])]))
    assert bench.actor.error is None
    assert bench.actor.applied_index == 13


def test_a_log_that_is_gone_meanwhile_leaves_it_quarantined_for_the_next_attempt() -> None:
    bench, kind = failing()
    kind.bad = False
    bench.tell(Rebuild(None, [run_of(13, ["c"])]))
    (quarantined,) = bench.tell(RunsAgain([]))
    assert quarantined == Quarantined(0, "the log behind 0 is there no more")
    assert bench.apply(run_of(14, ["d"])) == []
    runs = [*ten(), run_of(11, ["half", "bad"]), run_of(13, ["c"]), run_of(14, ["d"])]
    assert bench.tell(Rebuild(None, runs))[-1] == Rebuilt(14, None)


def test_what_was_left_out_of_what_it_was_told_is_asked_for_when_its_turn_comes() -> None:
    """While a large snapshot is restored, the log goes on."""
    bench, kind = failing()
    kind.bad = False
    bench.tell(Rebuild(meta_at(10), [run_of(11, ["half", "bad"])]))
    more = [run_of(at, [f"more{at}"]) for at in range(13, 33)]
    for run in more[:4]:
        assert bench.apply(run) == []
    assert bench.tell(Apply([(more[4], None)], passed_index=20)) == []
    assert bench.apply(*more[8:10]) == []
    assert bench.tell(Apply([], passed_index=32)) == []
    *_, wanted = bench.restore()
    assert wanted == RunsWanted(18, 20)
    *_, wanted = bench.tell(RunsAgain(more[5:7]))
    assert wanted == RunsWanted(20, 20)
    *_, wanted = bench.tell(RunsAgain(more[7:8]))
    assert wanted == RunsWanted(23, 32)
    *_, applied = bench.tell(RunsAgain(more[10:]))
    assert applied.last == 32
    runs = [*ten(), run_of(11, ["half", "bad"]), *more]
    assert bench.actor.machine.digest() == digest_of(*runs)


def test_what_is_asked_for_and_gone_is_skipped_if_a_snapshot_stands_for_it() -> None:
    donor, _ = filled()
    bench = Bench()
    bench.snapshots = donor.snapshots
    assert bench.tell(Apply([], passed_index=1)) == [RunsWanted(1, 1)]
    bench.tell(Restore(meta_at(10)))
    assert bench.tell(RunsAgain([])) == []
    assert bench.restore()[-1] == Restored(meta_at(10))
    assert bench.actor.applied_index == 10


def test_what_is_gone_is_no_failure_where_a_snapshot_for_it_is_about_to_be_told() -> None:
    """The log began anew behind the snapshot; who is to become it hears of that once it is
    durable."""
    donor, _ = filled()
    bench = Bench()
    bench.snapshots = donor.snapshots
    assert bench.tell(Apply([], passed_index=1)) == [RunsWanted(1, 1)]
    assert bench.tell(RunsAgain([])) == []
    assert bench.actor.error is None
    bench.tell(Restore(meta_at(10)))
    assert bench.restore()[-1] == Restored(meta_at(10))
    assert bench.tell(Apply([], passed_index=11)) == [RunsWanted(11, 11)]
    *_, applied = bench.tell(RunsAgain([run_of(11, ["b"])]))
    assert applied.last == 11
