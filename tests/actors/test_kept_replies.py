"""Replies that wait for the link back to who forwarded the message."""

from __future__ import annotations

from actors.kept_replies import AT_RISK_MS, KEPT_OVERHEAD_BYTES, KeptReplies


def test_replies_are_kept_by_node_and_taken_once_in_order() -> None:
    kept = KeptReplies()
    assert kept.keep("n1", b"1")
    assert kept.keep("n2", b"2")
    assert kept.keep("n1", b"3")
    assert kept.take("n1") == [b"1", b"3"]
    assert kept.take("n1") == []
    assert kept.take("n3") == []
    assert kept.size_bytes == 1 + KEPT_OVERHEAD_BYTES


def test_what_a_node_that_never_comes_back_is_owed_has_a_bound() -> None:
    kept = KeptReplies(2 * KEPT_OVERHEAD_BYTES + 10)
    assert kept.keep("n1", b"12345")
    assert not kept.keep("n1", b"123456")
    assert kept.keep("n2", b"12345")
    assert not kept.keep("n2", b"")
    kept.take("n1")
    assert kept.keep("n2", b"12345")
    assert kept.size_bytes == 2 * KEPT_OVERHEAD_BYTES + 10


def test_who_waits_for_replies_is_told_when_the_connection_they_were_in_is_lost() -> None:
    kept = KeptReplies()
    kept.note_lost("n1", 5)
    assert not kept.is_to_be_told("n1"), "nothing was ever sent to it"
    kept.note_sent("n1", 10)
    assert not kept.is_to_be_told("n1")
    kept.note_lost("n1", 9 + AT_RISK_MS)
    assert kept.is_to_be_told("n1")
    assert not kept.is_to_be_told("n2")
    kept.note_told("n1")
    assert not kept.is_to_be_told("n1")
    kept.note_lost("n1", 9 + AT_RISK_MS)
    assert kept.is_to_be_told("n1"), "what it was told with is lost, too"
    kept.note_told("n1")
    kept.note_lost("n1", 10 + AT_RISK_MS)
    assert not kept.is_to_be_told("n1"), "by then they have arrived"
