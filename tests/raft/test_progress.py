"""What a leader believes about a peer, and how it changes its mind."""

from __future__ import annotations

import pytest

from raft.messages import Replica
from raft.progress import PROBE, REPLICATE, SNAPSHOT, CatchUp, Progress, Window
from raft.settings import RaftSettings

SETTINGS = RaftSettings(inflight_messages_max=2)


def progress(*, match: int = 0, next_index: int = 11, state: int = PROBE) -> Progress:
    peer = Progress(Replica("b", 1), votes=True, next_index=next_index, settings=SETTINGS, now=0)
    peer.match = match
    peer.state = state
    return peer


def test_a_window_is_full_by_messages() -> None:
    window = Window(messages_max=2, bytes_max=1_000)
    window.add(5, 10)
    assert (window.count, window.is_full) == (1, False)
    window.add(9, 10)
    assert (window.count, window.is_full) == (2, True)
    window.free_to(5)
    assert (window.count, window.bytes, window.is_full) == (1, 10, False)


def test_a_window_is_full_by_bytes_but_lets_one_large_append_through() -> None:
    window = Window(messages_max=99, bytes_max=100)
    window.add(1, 5_000)
    assert window.is_full
    with pytest.raises(AssertionError, match="full window"):
        window.add(2, 1)
    window.free_to(1)
    assert (window.bytes, window.is_full) == (0, False)


def test_a_late_answer_frees_everything_before_it() -> None:
    window = Window(messages_max=9, bytes_max=100)
    for last in (3, 6, 9):
        window.add(last, 1)
    window.free_to(6)
    assert window.count == 1
    window.free_to(2)
    assert window.count == 1
    window.clear()
    assert (window.count, window.bytes) == (0, 0)


def test_match_only_rises() -> None:
    peer = progress(match=4, next_index=8, state=REPLICATE)
    assert peer.maybe_match(7)
    assert not peer.maybe_match(5)
    assert (peer.match, peer.next) == (7, 8)
    assert peer.maybe_match(9)
    assert (peer.match, peer.next) == (9, 10)


def test_the_first_refusal_while_replicating_starts_again_behind_match() -> None:
    peer = progress(match=4, next_index=10, state=REPLICATE)
    peer.window.add(9, 1)
    assert peer.maybe_retreat(7, 5)
    assert (peer.state, peer.next, peer.window.count) == (PROBE, 5, 0)


@pytest.mark.parametrize("refused", [3, 4, 10, 99])
def test_a_refusal_of_what_is_known_or_was_never_sent_is_old_news(refused: int) -> None:
    peer = progress(match=4, next_index=10, state=REPLICATE)
    assert not peer.maybe_retreat(refused, 2)
    assert (peer.state, peer.next) == (REPLICATE, 10)


def test_while_probing_only_the_answer_to_the_probe_counts() -> None:
    peer = progress(match=2, next_index=10)
    peer.probe_sent = True
    assert not peer.maybe_retreat(8, 0)
    assert peer.probe_sent
    assert peer.maybe_retreat(9, 6)
    assert (peer.next, peer.probe_sent) == (7, False)


def test_a_probe_never_goes_back_behind_match_nor_stays_where_it_was() -> None:
    peer = progress(match=5, next_index=10)
    assert peer.maybe_retreat(9, 1)
    assert peer.next == 6
    peer = progress(match=0, next_index=10)
    assert peer.maybe_retreat(9, 9)
    assert peer.next == 9


def test_who_is_paused() -> None:
    peer = progress()
    paused = [peer.is_paused]
    peer.probe_sent = True
    paused.append(peer.is_paused)
    peer.become_replicate()
    paused.append(peer.is_paused)
    peer.window.add(1, 1)
    peer.window.add(2, 1)
    paused.append(peer.is_paused)
    peer.become_probe()
    paused.append(peer.is_paused)
    peer.state = SNAPSHOT
    paused.append(peer.is_paused)
    assert paused == [False, True, False, True, False, True]


def test_a_peer_that_needs_a_snapshot_starts_with_none_and_sends_no_appends() -> None:
    peer = progress(match=4, next_index=10, state=REPLICATE)
    peer.window.add(9, 1)
    peer.chunk_sent = True
    peer.offset = 7
    peer.become_snapshot()
    assert (peer.state, peer.next, peer.window.count, peer.is_paused) == (SNAPSHOT, 5, 0, True)
    assert (peer.snapshot, peer.offset, peer.chunk_sent) == (None, 0, False)


# --------------------------------------------------------------------------- catching up


def test_a_round_that_is_short_enough_is_the_last_one() -> None:
    """Thesis 4.2.1."""
    each = CatchUp(10, now=100)
    each.on_match(9, 12, 150, 1_000)
    assert not each.is_done
    each.on_match(10, 12, 1_100, 1_000)
    assert (each.is_done, each.round) == (True, 1)


def test_a_round_that_took_too_long_is_followed_by_one_for_what_came_meanwhile() -> None:
    each = CatchUp(10, now=100)
    each.on_match(11, 25, 1_101, 1_000)
    assert (each.is_done, each.round, each.target_index, each.since_ms) == (False, 2, 25, 1_101)
    each.on_match(24, 30, 1_500, 1_000)
    assert each.round == 2
    each.on_match(25, 30, 2_101, 1_000)
    assert each.is_done


def test_a_round_in_which_nothing_came_takes_no_time() -> None:
    """Otherwise a newcomer to an idle group would wait for an entry that nobody writes."""
    each = CatchUp(10, now=100)
    each.on_match(10, 10, 5_000, 1_000)
    assert (each.is_done, each.round) == (True, 2)
    each = CatchUp(10, now=100)
    each.on_match(10, 11, 5_000, 1_000)
    assert not each.is_done


def test_who_has_caught_up_stays_so() -> None:
    each = CatchUp(10, now=0)
    each.on_match(10, 10, 0, 1_000)
    each.on_match(11, 99, 99_999, 1_000)
    assert (each.is_done, each.round) == (True, 1)
