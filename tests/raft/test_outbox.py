"""What may leave, what waits for the disk, and what the disk proves."""

from __future__ import annotations

import pytest

from raft.configuration import Configuration
from raft.messages import (
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Mark,
    PeerMessage,
    Persisted,
    Replica,
    Run,
    SnapshotMeta,
    VoteReply,
)
from raft.outbox import Outbox
from tests.raft.network import make_run

A, B = Replica("a", 1), Replica("b", 1)


def run(first: int, term: int, count: int = 1) -> Run:
    return make_run(1, term, first, count=count)


def vote(term: int = 1) -> PeerMessage:
    return VoteReply(A, B, term, True)


def reply(match: int, *, rejected: bool = False) -> AppendReply:
    return AppendReply(A, B, 1, match, rejected)


def test_nothing_recorded_is_nothing_to_save() -> None:
    assert Outbox(0).take_save(0) is None


def test_a_save_has_what_was_recorded_since_the_last_one() -> None:
    outbox = Outbox(0)
    outbox.record_hard_state(1, B)
    outbox.record_runs([run(1, 1), run(2, 1)])
    first = outbox.take_save(0)
    assert first is not None
    assert (first.number, first.last) == (1, (1, 2))
    assert first.hard_state is not None
    outbox.record_runs([run(3, 1)])
    second = outbox.take_save(0)
    assert second is not None
    assert (second.number, second.hard_state, len(second.runs)) == (2, None, 1)


def test_a_promise_waits_until_the_save_that_covers_it_is_durable() -> None:
    outbox = Outbox(0)
    outbox.record_hard_state(1, B)
    outbox.promise_term(vote())
    outbox.take_save(0)
    outbox.record_runs([run(1, 1)])
    outbox.promise_all(reply(1))
    outbox.take_save(0)
    assert outbox.messages == []
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == [vote()]
    outbox.on_persisted(Persisted(2, 1, 1))
    assert outbox.messages == [vote(), reply(1)]
    assert outbox.held_count == 0


def test_a_promise_of_a_durable_term_does_not_wait_for_entries() -> None:
    outbox = Outbox(0)
    outbox.record_runs([run(1, 1)])
    outbox.promise_term(vote())
    outbox.promise_all(reply(1))
    assert outbox.messages == [vote()]


def test_acknowledgements_of_one_save_and_of_one_report_leave_as_one() -> None:
    outbox = Outbox(0)
    for index in (1, 2, 3):
        outbox.record_runs([run(index, 1)])
        outbox.promise_all(reply(index))
        if index != 1:
            outbox.take_save(0)
    assert outbox.held_count == 2
    outbox.on_persisted(Persisted(2, 1, 3))
    assert outbox.messages == [reply(3)]


def test_answers_to_heartbeats_leave_as_one_if_it_says_all() -> None:
    """A disk that takes its time does not make them gather."""
    beats = [HeartbeatReply(A, B, 1, round_) for round_ in range(1, 6)]
    outbox = Outbox(0)
    outbox.record_hard_state(1, None)
    for beat in beats:
        outbox.promise_term(beat)
    assert outbox.held_count == 1
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == beats[4:]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (HeartbeatReply(A, B, 1, 5), HeartbeatReply(A, B, 1, 4)),
        (HeartbeatReply(A, B, 1, 5), HeartbeatReply(A, Replica("c", 1), 1, 6)),
        (HeartbeatReply(A, B, 1, 5), HeartbeatReply(A, B, 2, 6)),
        (HeartbeatReply(A, B, 1, 5), reply(9)),
        (reply(9), HeartbeatReply(A, B, 1, 5)),
    ],
    ids=["an older round", "another peer", "another term", "an append after", "an append before"],
)
def test_answers_to_heartbeats_that_say_something_else_leave_each(
    earlier: PeerMessage, later: PeerMessage
) -> None:
    outbox = Outbox(0)
    outbox.record_hard_state(1, None)
    outbox.promise_term(earlier)
    outbox.promise_term(later)
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == [earlier, later]


def test_a_refusal_is_never_swallowed_by_an_acknowledgement() -> None:
    outbox = Outbox(0)
    outbox.record_hard_state(1, None)
    outbox.promise_all(reply(1, rejected=True))
    outbox.promise_all(reply(2))
    outbox.promise_all(reply(1))
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == [reply(1, rejected=True), reply(2), reply(1)]


def test_dropped_promises_never_leave_but_what_was_free_to_go_does() -> None:
    outbox = Outbox(0)
    outbox.send(Heartbeat(A, B, 1, 0, 1))
    outbox.record_hard_state(1, B)
    outbox.promise_term(vote())
    outbox.drop_promises()
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == [Heartbeat(A, B, 1, 0, 1)]


def test_one_report_may_cover_many_saves_and_come_twice() -> None:
    outbox = Outbox(0)
    for index in (1, 2, 3):
        outbox.record_runs([run(index, 1)])
        outbox.take_save(index)
    assert outbox.stalled_since() == 1
    assert outbox.on_persisted(Persisted(2, 1, 2))
    assert (outbox.durable_index, outbox.stalled_since()) == (2, 3)
    assert not outbox.on_persisted(Persisted(2, 1, 2))
    assert outbox.on_persisted(Persisted(3, 1, 3))
    assert (outbox.durable_index, outbox.stalled_since()) == (3, None)


def test_the_last_entry_may_be_older_than_the_last_save() -> None:
    outbox = Outbox(0)
    outbox.record_runs([run(1, 1)])
    outbox.take_save(0)
    outbox.record_hard_state(2, None)
    outbox.take_save(0)
    outbox.on_persisted(Persisted(2, 1, 1))
    assert outbox.durable_index == 1


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (Persisted(2, 0, 0), "save 2 is durable, but only 1"),
        (Persisted(1, 1, 9), r"ends with \(term, index\) \(1, 1\), the disk reports \(1, 9\)"),
        (Persisted(1, 2, 1), "the disk reports"),
    ],
)
def test_a_disk_that_reports_what_was_never_given_to_it_is_an_error_of_ours(
    wrong: Persisted, text: str
) -> None:
    outbox = Outbox(0)
    outbox.record_runs([run(1, 1)])
    outbox.take_save(0)
    with pytest.raises(AssertionError, match=text):
        outbox.on_persisted(wrong)


def test_entries_that_were_cut_before_they_were_given_out_never_reach_the_disk() -> None:
    outbox = Outbox(2)
    outbox.record_runs([run(3, 1), run(4, 1)])
    outbox.record_truncation(4)
    outbox.record_runs([run(4, 2)])
    save = outbox.take_save(0)
    assert save is not None
    assert save.truncate_from is None, "the disk has nothing at 4"
    assert [(each.first, each.term) for each in save.runs] == [(3, 1), (4, 2)]


def test_two_cuts_in_one_save_are_the_deeper_one() -> None:
    outbox = Outbox(9)
    outbox.record_truncation(8)
    outbox.record_runs([run(8, 2), run(9, 2)])
    outbox.record_truncation(9)
    outbox.record_truncation(5)
    outbox.record_runs([run(5, 3)])
    save = outbox.take_save(0)
    assert save is not None
    assert (save.truncate_from, [each.first for each in save.runs]) == (5, [5])
    assert outbox.durable_index == 4


def test_a_save_under_way_does_not_prove_what_was_cut_from_it() -> None:
    """Pitfall 13, the race of an entry that was replaced while its write was under way."""
    outbox = Outbox(4)
    outbox.record_runs([run(5, 1)])
    outbox.take_save(0)
    outbox.record_truncation(5)
    outbox.record_runs([run(5, 2)])
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 1, 5))
    assert outbox.durable_index == 4, "entry 5 of term 2 is still under way"
    outbox.on_persisted(Persisted(2, 2, 5))
    assert outbox.durable_index == 5


def test_nor_when_the_very_same_entry_has_come_back() -> None:
    """Comparing (term, index) is not enough: between the two writes lies a truncation."""
    outbox = Outbox(4)
    outbox.record_runs([run(5, 1)])
    outbox.take_save(0)
    outbox.record_truncation(5)
    outbox.record_runs([run(5, 2)])
    outbox.take_save(0)
    outbox.record_truncation(5)
    outbox.record_runs([run(5, 1)])
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 1, 5))
    assert outbox.durable_index == 4, "a crash now could leave entry 5 of term 2 on the disk"
    outbox.on_persisted(Persisted(3, 1, 5))
    assert outbox.durable_index == 5


# --------------------------------------------------------------------------- snapshots


def mark(index: int, base: int, *, resets: bool = False) -> Mark:
    snapshot = SnapshotMeta(index, 1, Configuration.of(A, B), index, 1, 10, 7)
    return Mark(snapshot, base, 1, resets)


def test_a_mark_is_part_of_the_next_save_and_says_which_that_is() -> None:
    outbox = Outbox(9)
    assert outbox.record_mark(mark(8, 6), safe_index=8) == 1
    save = outbox.take_save(0)
    assert save is not None
    assert (save.number, save.mark, save.runs) == (1, mark(8, 6), [])
    assert outbox.take_save(0) is None
    assert outbox.record_mark(mark(9, 9), safe_index=9) == 2
    assert outbox.persisted_number == 0
    assert outbox.durable_index == 9


def test_a_mark_that_resets_drops_what_was_not_given_out_yet() -> None:
    outbox = Outbox(4)
    outbox.record_truncation(3)
    outbox.record_runs([run(3, 2)])
    outbox.record_mark(mark(20, 20, resets=True), safe_index=1)
    outbox.record_runs([run(21, 2)])
    save = outbox.take_save(0)
    assert save is not None
    assert save.truncate_from is None
    assert [each.first for each in save.runs] == [21]
    assert outbox.durable_index == 1


def test_until_it_is_durable_only_what_was_applied_is() -> None:
    """A crash leaves the old log or the new one; what is behind either is not known yet."""
    outbox = Outbox(2)
    outbox.record_runs([run(3, 1)])
    outbox.take_save(0)
    outbox.record_mark(mark(20, 20, resets=True), safe_index=2)
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 1, 3))
    assert outbox.durable_index == 2
    outbox.on_persisted(Persisted(2, 0, 0))
    assert outbox.durable_index == 20


def test_a_promise_about_a_snapshot_waits_for_its_mark() -> None:
    outbox = Outbox(2)
    outbox.record_mark(mark(20, 20, resets=True), safe_index=2)
    outbox.promise_all(reply(20))
    assert outbox.messages == []
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == [reply(20)]


def test_a_snapshot_taken_before_the_leaders_is_restored_is_an_error_of_ours() -> None:
    outbox = Outbox(2)
    outbox.record_mark(mark(20, 20, resets=True), safe_index=2)
    with pytest.raises(AssertionError, match="taken before it was restored"):
        outbox.record_mark(mark(2, 2), safe_index=2)


def test_acknowledgements_of_a_log_that_is_replaced_never_leave_but_refusals_do() -> None:
    """The entries that they speak of will never be on this disk."""
    outbox = Outbox(2)
    outbox.record_hard_state(1, B)
    outbox.record_runs([run(3, 1)])
    outbox.promise_term(vote())
    outbox.promise_all(reply(3))
    outbox.promise_all(reply(9, rejected=True))
    outbox.record_mark(mark(20, 20, resets=True), safe_index=2)
    outbox.promise_all(reply(20))
    outbox.take_save(0)
    outbox.on_persisted(Persisted(1, 0, 0))
    assert outbox.messages == [vote(), reply(9, rejected=True), reply(20)]
