"""What is refused before it is sent, and the numbers of a session."""

from __future__ import annotations

import pytest

from transport.client import errors, requests, wire


def test_addresses_are_a_list_or_one_text() -> None:
    both = ["tcp://10.0.0.1:7001", "tcp://[::1]:7002"]
    assert requests.parse_addresses("tcp://10.0.0.1:7001, tcp://[::1]:7002,") == both
    assert requests.parse_addresses(both) == both


@pytest.mark.parametrize("text", ["", ",", "10.0.0.1:7001", "ipc://x", "tcp://host", "tcp://a:b"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        requests.parse_addresses(text)


def _write(group: str = "kv", data: bytes = b"", timeout_ms: int = 1) -> requests.Prepared:
    return requests.prepare_write(
        group, "PUT", "k", data, type_name="", extend=None, timeout_ms=timeout_ms
    )


def test_what_every_node_would_refuse_is_refused_here() -> None:
    with pytest.raises(errors.BadRequest, match="128 bytes"):
        _write(group="é" * 65)
    with pytest.raises(errors.BadRequest, match="the limit is 8388608"):
        _write(data=bytes(8 << 20))
    for timeout_ms in (0, -1, 600_001):
        with pytest.raises(errors.BadRequest, match="timeout_ms"):
            _write(timeout_ms=timeout_ms)
    with pytest.raises(errors.BadRequest, match="consistency"):
        requests.prepare_read("kv", b"", consistency="quick", min_index=0, timeout_ms=1)
    with pytest.raises(errors.BadRequest, match="not an address"):
        requests.prepare_admin("", "status", "", options=None, address="x", timeout_ms=1)


def test_only_what_does_no_harm_twice_may_be_repeated() -> None:
    assert not _write().repeatable
    mark = wire.SessionMark(session=1, sequence=1, acknowledged=0)
    marked = requests.prepare_write(
        "kv", "PUT", "k", b"", type_name="", extend=None, timeout_ms=1, mark=mark
    )
    assert marked.repeatable
    for command, repeatable in (("why", True), ("transferLeader", False), ("createGroup", False)):
        prepared = requests.prepare_admin("kv", command, "", options=None, address="", timeout_ms=1)
        assert prepared.repeatable is repeatable


def test_an_admin_answer_is_a_json_object() -> None:
    def answered(data: bytes) -> wire.Outcome:
        return wire.Outcome(0, data, "", False, "", "", 0, 0, 0)

    assert requests.parse_admin(answered(b'{"ok": true}')) == {"ok": True}
    assert requests.parse_admin(answered(b"")) == {}
    for data in (b"nonsense", b"[1]", b"\xff"):
        with pytest.raises(errors.PolyraftError, match="JSON"):
            requests.parse_admin(answered(data))


def test_acknowledged_stays_below_the_oldest_unanswered_write() -> None:
    sequences = requests.Sequences()
    first, second, third = (sequences.start(9) for _ in range(3))
    assert [mark.sequence for mark in (first, second, third)] == [1, 2, 3]
    assert [mark.acknowledged for mark in (first, second, third)] == [0, 0, 0]
    sequences.end(second)
    assert sequences.acknowledged == 0
    sequences.end(first)
    assert sequences.acknowledged == 2
    sequences.end(third)
    assert sequences.start(9).acknowledged == 3


def test_a_session_does_not_run_too_far_ahead_of_its_oldest_unanswered_write() -> None:
    sequences = requests.Sequences()
    oldest = sequences.start(9)
    for _ in range(requests.SESSION_WINDOW_MAX - 1):
        sequences.end(sequences.start(9))
    with pytest.raises(errors.Busy):
        sequences.start(9)
    sequences.end(oldest)
    sequences.start(9)
