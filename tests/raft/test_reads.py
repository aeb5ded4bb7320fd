"""The queue of reads, the lease and the reads that were asked for elsewhere, each by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft.reads import NEVER_MS, AskedReads, Lease, PendingRead, ReadQueue
from raft.settings import RaftSettings


def lease(*, drift_percent: int = 10) -> Lease:
    return Lease(election_timeout_ms=1_000, drift_percent=drift_percent)


def test_reads_leave_in_the_order_of_arrival_once_their_round_is_confirmed() -> None:
    queue = ReadQueue(10)
    reads = [PendingRead(token, round_, 3, None) for token, round_ in ((1, 4), (2, 4), (3, 5))]
    assert all(queue.maybe_add(read) for read in reads)
    assert queue.take_confirmed(3, 3) == []
    assert queue.take_confirmed(4, 3) == reads[:2]
    assert len(queue) == 1
    assert queue.take_all() == reads[2:]
    assert len(queue) == 0


def test_a_queue_that_is_full_takes_no_more() -> None:
    queue = ReadQueue(1)
    assert queue.maybe_add(PendingRead(1, 1, 0, None))
    assert not queue.maybe_add(PendingRead(2, 1, 0, None))


def test_rounds_that_fall_and_reads_above_the_commit_index_are_errors_of_ours() -> None:
    queue = ReadQueue(10)
    queue.maybe_add(PendingRead(1, 4, 9, None))
    with pytest.raises(AssertionError, match="rounds only rise"):
        queue.maybe_add(PendingRead(2, 3, 9, None))
    with pytest.raises(AssertionError, match="read at 9 above commit 8"):
        queue.take_confirmed(4, 8)


def test_a_lease_runs_from_the_sending_of_the_newest_confirmed_round() -> None:
    """Pitfall 32."""
    each = lease()
    assert each.until_ms == 0
    for round_, sent_ms in ((1, 100), (2, 250), (3, 900)):
        each.on_round(round_, sent_ms)
    each.on_confirmed(2)
    assert each.until_ms == 250 + 900
    each.on_confirmed(1)
    assert each.until_ms == 250 + 900
    each.on_confirmed(3)
    assert each.until_ms == 900 + 900


@pytest.mark.parametrize(("percent", "until_ms"), [(0, 1_100), (10, 1_000), (99, 110)])
def test_a_lease_is_shorter_by_what_clocks_may_differ(percent: int, until_ms: int) -> None:
    each = lease(drift_percent=percent)
    each.on_round(1, 100)
    each.on_confirmed(1)
    assert each.until_ms == until_ms


@pytest.mark.parametrize("percent", [-1, 100])
def test_a_drift_that_leaves_no_lease_is_refused(percent: int) -> None:
    with pytest.raises(ValueError, match="lease_drift_percent"):
        RaftSettings(lease_drift_percent=percent)


def test_a_lease_that_is_void_begins_anew_with_a_round_that_starts_later() -> None:
    """Pitfalls 33 and 35."""
    each = lease()
    each.on_round(1, 100)
    each.on_round(2, 300)
    each.on_confirmed(1)
    each.void(300)
    assert each.until_ms == 0
    each.on_confirmed(2)
    assert each.until_ms == 0, "sent before it was void"
    each.on_round(3, 301)
    each.on_confirmed(3)
    assert each.until_ms == 301 + 900


def test_a_lease_that_has_ended_does_not_come_back() -> None:
    """Pitfall 36."""
    each = lease()
    each.on_round(1, 100)
    each.on_confirmed(1)
    each.end()
    each.on_round(2, 200)
    each.on_confirmed(2)
    assert each.until_ms == 0


@given(
    st.lists(st.tuples(st.sampled_from(["round", "confirm", "void"]), st.integers(0, 400))),
    st.integers(0, 50),
)
def test_a_lease_is_never_longer_than_the_promises_behind_it(
    actions: list[tuple[str, int]], drift: int
) -> None:
    """Against a list of all rounds: until T minus the drift after the newest good one."""
    each = lease(drift_percent=drift)
    now, void_ms, confirmed = 0, -1, 0
    sent: list[int] = []
    for action, number in actions:
        now += number
        if action == "round":
            sent.append(now)
            each.on_round(len(sent), now)
        elif action == "confirm" and sent:
            confirmed = max(confirmed, 1 + number % len(sent))
            each.on_confirmed(1 + number % len(sent))
        elif action == "void":
            each.void(now)
            void_ms = now
        good = [sent_ms for sent_ms in sent[:confirmed] if sent_ms > void_ms]
        assert each.until_ms == (good[-1] + 10 * (100 - drift) if good else 0)


def test_reads_that_were_asked_for_are_late_one_by_one() -> None:
    asked = AskedReads(10)
    assert asked.next_deadline_ms == NEVER_MS
    for token, deadline_ms in ((1, 100), (2, 100), (3, 150)):
        assert asked.maybe_add(token, deadline_ms)
    assert asked.take_late(99) == []
    assert asked.take(2)
    assert asked.take_late(149) == [1]
    assert asked.next_deadline_ms == 150
    assert not asked.take(1)
    assert asked.take_all() == [3]
    assert asked.next_deadline_ms == NEVER_MS
    assert asked.take_late(1_000) == []


def test_reads_that_were_asked_for_are_bounded() -> None:
    asked = AskedReads(1)
    assert asked.maybe_add(1, 100)
    assert not asked.maybe_add(2, 100)
    assert asked.take(1)
    assert asked.maybe_add(2, 100)
