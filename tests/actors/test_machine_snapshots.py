"""The machine actor and snapshots: views between runs, restoring in order, quarantine's end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from actors.machine import (
    NO_SNAPSHOTS,
    Answered,
    Applied,
    Apply,
    Describe,
    Leadership,
    Quarantined,
    Query,
    Restore,
    Restored,
    RestoreEnded,
    RunRestore,
    SnapshotView,
    TakeSnapshot,
)
from actors.machines import Machine, Response
from actors.machines.kv import KeyValueMachine
from actors.runtime import Tell
from actors.settings import APPLY_SLICE_ENTRIES_MAX
from raft.configuration import Configuration
from raft.messages import CONFIG, Replica, Run, SnapshotMeta
from raft.store.runs import encode_configuration_run, encode_run
from tests.actors.test_machine import SIZE, Asked, run_of
from tests.actors.test_machine import Bench as Simple

A, B, C = (Replica(name, 1) for name in ("n1", "n2", "n3"))
MEMBERS = Configuration.of(B, A, learners=[C])


def meta_at(index: int) -> SnapshotMeta:
    return SnapshotMeta(index, 1, MEMBERS, 1_000 + index, 1, 100, index)


class Bench(Simple):
    """With snapshots: restoring waits until :meth:`restore`."""

    def __init__(self, machine: Machine | None = None) -> None:
        super().__init__(machine)
        self.actor._open_snapshot = self.open_snapshot
        self.snapshots: dict[int, list[bytes]] = {}  # by index
        self.asked: list[RunRestore] = []

    def open_snapshot(self, meta: SnapshotMeta) -> Iterator[bytes]:
        yield from self.snapshots[meta.index]

    def tell(self, message: object) -> list[Any]:
        before = len(self.news)
        for effect in self.actor.handle(message) or ():
            if isinstance(effect, RunRestore):
                self.asked.append(effect)
                continue
            assert isinstance(effect, Tell)
            (self.news if effect.address == "group/7" else self.to_itself).append(effect.message)
        return self.news[before:]

    def restore(self) -> list[Any]:
        """What was asked for is done."""
        (effect,) = self.asked
        self.asked = []
        try:
            effect.work()
        except Exception as error:  # noqa: BLE001 - as the process does
            return self.tell(RestoreEnded(effect.meta, error))
        return self.tell(RestoreEnded(effect.meta))

    def take(self, key: Any = "key") -> SnapshotView:
        (view,) = self.tell(TakeSnapshot(key))
        assert isinstance(view, SnapshotView)
        return view

    def keep(self) -> SnapshotMeta:
        """The present state as a snapshot in the store."""
        taken = self.take()
        assert taken.view is not None
        chunks = self.snapshots[taken.index] = []
        taken.view.write(chunks.append)
        return meta_at(taken.index)


def filled() -> tuple[Bench, SnapshotMeta]:
    """Another replica's snapshot of ten entries, for a bench that has none of them."""
    other = Bench()
    other.apply(run_of(1, [f"{at}" for at in range(10)]))
    meta = other.keep()
    bench = Bench()
    bench.snapshots = other.snapshots
    return bench, meta


# --------------------------------------------------------------------------- taking


def test_a_snapshot_names_the_index_and_the_log_time_of_the_state_it_is_of() -> None:
    bench = Bench()
    bench.apply(run_of(1, ["a", "b"], time_ms=70), run_of(3, ["c"], time_ms=90))
    view = bench.take("my key")
    assert (view.key, view.index, view.time_ms, view.machine_version) == ("my key", 3, 90, 1)
    assert view.error is None
    assert view.view is not None


def test_a_snapshot_is_never_taken_within_a_run() -> None:
    """It stands for a border of the log."""
    bench = Bench()
    size = APPLY_SLICE_ENTRIES_MAX + 10
    bench.apply(run_of(1, ["k"] * size), run_of(size + 1, ["last"]))
    assert bench.actor.applied_index == APPLY_SLICE_ENTRIES_MAX
    assert bench.tell(TakeSnapshot("key")) == []
    news = bench.go_on()
    assert [type(each) for each in news] == [Applied, SnapshotView, Applied]
    assert news[1].index == size


def test_all_who_ask_at_once_get_one_and_the_same_view() -> None:
    bench = Bench()
    bench.actor._continues = True  # a slice is under way
    assert bench.tell(TakeSnapshot(1)) == bench.tell(TakeSnapshot(2)) == []
    bench.actor._continues = False
    one, two, three = bench.tell(TakeSnapshot(3))
    assert [one.key, two.key, three.key] == [1, 2, 3]
    assert one.view is two.view is three.view is not None


def test_why_there_is_no_snapshot_is_told_and_harms_nobody() -> None:
    class Bare(Machine):
        def apply(self, request: Any, context: Any) -> Response:
            return Response()

    class Failing(KeyValueMachine):
        def snapshot(self) -> Any:
            raise OSError("no room")

    class Broken(KeyValueMachine):
        def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
            raise ValueError("broken")

    bare, failing, broken = Bench(Bare()), Bench(Failing()), Bench(Broken())
    broken.apply(run_of(1, ["a"]))
    assert bare.take().error == NO_SNAPSHOTS
    assert "OSError: no room" in (failing.take().error or "")
    assert "quarantined: ValueError: broken" in (broken.take().error or "")
    for bench in (bare, failing):
        (applied,) = bench.apply(run_of(1, ["a"]))
        assert isinstance(applied, Applied)


# --------------------------------------------------------------------------- restoring


def test_a_restored_machine_goes_on_behind_its_snapshot() -> None:
    bench, meta = filled()
    assert bench.tell(Restore(meta)) == []
    assert bench.restore() == [Restored(meta)]
    assert bench.actor.applied_index == 10
    assert bench.take().time_ms == 1_010, "log time is the snapshot's"
    (applied,) = bench.apply(run_of(11, ["a"]))
    assert applied.last == 11
    (answered,) = bench.tell(Query(Asked(), 11, [SIZE]))
    assert answered.responses[0].data == b"\x0b"


def test_restoring_keeps_its_place_among_the_runs() -> None:
    """Pitfall 37: what was told before is applied before, what comes after waits."""
    bench, meta = filled()
    size = APPLY_SLICE_ENTRIES_MAX + 10
    bench.apply(run_of(1, ["k"] * 4))
    bench.actor._continues = True
    bench.apply(run_of(5, ["k"]))
    bench.tell(Restore(meta))
    bench.apply(run_of(11, ["late"] * size))
    bench.actor._continues = False
    (applied,) = bench.tell(TakeSnapshot(1))[:1]
    assert applied == SnapshotView(1, 4, 5, 1, applied.view)
    assert bench.actor.applied_index == 5, "and the restore has begun"
    assert bench.go_on_to_the_end() == []
    restored, *rest = bench.restore() + bench.go_on_to_the_end()
    assert restored == Restored(meta)
    assert [each.last for each in rest] == [10 + size]


def test_nobody_touches_the_machine_while_it_is_being_restored() -> None:
    calls: list[str] = []

    class Watched(KeyValueMachine):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("_") and name not in ("version", "blocking"):
                calls.append(name)
            return super().__getattribute__(name)

    _, meta = filled()
    bench = Bench(Watched())
    bench.snapshots = filled()[0].snapshots
    bench.tell(Restore(meta))
    calls.clear()
    asked, late = Asked(), Asked()
    assert bench.tell(Query(asked, 0, [SIZE])) == []
    assert bench.tell(Query(late, 10, [SIZE])) == []
    assert bench.tell(TakeSnapshot("view")) == []
    assert bench.apply(run_of(11, ["a"])) == []
    bench.tell(Leadership(False, 7))
    (described,) = bench.tell(Describe("who"))
    assert described.digest is None
    assert set(calls) <= {"on_leader_stop"}, "looked up, not called"
    news = bench.restore()
    assert [type(each) for each in news] == [Restored, SnapshotView, Answered, Applied, Answered]
    assert [each.index for each in news if isinstance(each, Answered)] == [10, 11]


def test_leadership_that_changed_meanwhile_is_told_afterwards() -> None:
    heard: list[Any] = []

    class Proud(KeyValueMachine):
        def on_leader_start(self, term: int) -> None:
            heard.append(term)

        def on_membership(self, members: Any) -> None:
            heard.append(members)

    bench = Bench(Proud())
    donor, meta = filled()
    bench.snapshots = donor.snapshots
    bench.tell(Restore(meta))
    bench.tell(Leadership(True, 3))
    assert heard == []
    bench.restore()
    assert heard == [["n1", "n2", "n3"], 3]


@pytest.mark.parametrize("index", [9, 10])
def test_a_snapshot_that_is_not_newer_is_ignored(index: int) -> None:
    """Pitfall 38."""
    bench = Bench()
    bench.apply(run_of(1, ["k"] * 10))
    assert bench.tell(Restore(meta_at(index))) == []
    assert bench.asked == []
    assert bench.actor.applied_index == 10


def test_a_machine_with_a_thread_of_its_own_is_restored_there() -> None:
    class Blocking(KeyValueMachine):
        blocking = True

    bench = Bench(Blocking())
    donor, meta = filled()
    bench.snapshots = donor.snapshots
    assert bench.tell(Restore(meta)) == [Restored(meta)]
    assert bench.asked == []
    (news,) = bench.tell(Restore(meta_at(99)))
    assert isinstance(news, Quarantined)


# --------------------------------------------------------------------------- quarantine


def test_a_snapshot_that_cannot_be_restored_quarantines() -> None:
    bench = Bench()
    bench.tell(Restore(meta_at(10)))
    bench.tell(Query(Asked(), 10, [SIZE]))
    (unanswered, quarantined) = bench.restore()
    assert "could not be restored: KeyError" in unanswered.error
    assert isinstance(quarantined, Quarantined)
    assert quarantined.index == 10
    assert bench.apply(run_of(11, ["a"])) == []
    assert bench.actor.applied_index == 0


class Fragile(KeyValueMachine):
    def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
        if any(request.key == "poison" for request in requests):
            raise ValueError("poison")
        return super().apply_batch(requests, contexts)


def test_a_restore_ends_a_quarantine_and_what_came_behind_it_is_applied() -> None:
    donor, meta = filled()
    bench = Bench(Fragile())
    bench.snapshots = donor.snapshots
    *_, news = bench.apply(run_of(1, ["a"]), run_of(2, ["poison"]), run_of(3, ["b"]))
    assert isinstance(news, Quarantined)
    bench.tell(Restore(meta))
    assert bench.apply(run_of(11, ["c"])) == []
    assert [type(each) for each in bench.tell(Query(Asked(), 1, [SIZE]))] == [Answered]
    assert bench.restore() == [Restored(meta), bench.news[-1]]
    assert bench.actor.error is None
    assert bench.actor.applied_index == 11


def test_a_restore_that_waits_behind_the_poison_is_not_thrown_away_with_it() -> None:
    donor, meta = filled()
    bench = Bench(Fragile())
    bench.snapshots = donor.snapshots
    bench.actor._continues = True
    bench.apply(run_of(1, ["poison"]), run_of(2, ["lost"]))
    bench.tell(Restore(meta))
    bench.apply(run_of(11, ["c"]))
    bench.actor._continues = False
    (quarantined,) = bench.tell(Apply([]))
    assert isinstance(quarantined, Quarantined)
    restored, applied = bench.restore()
    assert (restored, applied.last) == (Restored(meta), 11)


def test_after_a_failed_restore_a_newer_one_is_tried() -> None:
    donor, meta = filled()
    bench = Bench()
    bench.snapshots = donor.snapshots
    bench.tell(Restore(meta_at(5)))
    bench.tell(Restore(meta))
    (quarantined,) = bench.restore()
    assert isinstance(quarantined, Quarantined)
    assert bench.restore() == [Restored(meta)]


def test_the_state_at_the_very_index_of_the_failure_can_be_restored() -> None:
    donor, meta = filled()
    bench = Bench(Fragile())
    bench.snapshots = donor.snapshots
    bench.apply(run_of(1, ["k"] * 10), run_of(11, ["poison"]))
    assert bench.actor.applied_index == 10
    bench.tell(Restore(meta))
    assert bench.restore() == [Restored(meta)]


# --------------------------------------------------------------------------- configurations


def test_a_configuration_moves_the_index_and_tells_the_machine_the_nodes() -> None:
    heard = []

    class Social(KeyValueMachine):
        def on_membership(self, members: Any) -> None:
            heard.append(members)

    bench = Bench(Social())
    both = Configuration.of(B, Replica("n2", 9), A)
    assert bench.apply(encode_configuration_run(1, 1, both, 5, 9)) == [Applied(1, 1, 5, [])]
    assert heard == [["n1", "n2"]]
    assert bench.actor.applied_index == 1
    assert bench.take().index == 1


@pytest.mark.parametrize("data", [b"", b"\x90", b"\x91\x93\xa2n1\x01\x09"])
def test_a_configuration_that_cannot_be_read_quarantines(data: bytes) -> None:
    bench = Bench()
    run: Run = encode_run(CONFIG, 1, 1, time_ms=5, wall_ms=9, commands=[(0, 0, 0, data)])
    (news,) = bench.apply(run)
    assert isinstance(news, Quarantined)
    assert bench.actor.applied_index == 0
