"""Replies that wait for the link back to who forwarded the message."""

from __future__ import annotations

from actors.kept_replies import KEPT_OVERHEAD_BYTES, KeptReplies


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
