"""Two lanes, a limit, three policies."""

from __future__ import annotations

import pytest

from actors.runtime import DROP_NEW, DROP_OLD, REJECT, Mailbox
from actors.runtime import mailbox as mailbox_module


def full(policy: int) -> Mailbox:
    mailbox = Mailbox(limit=2, policy=policy)
    assert mailbox.put("a")
    assert mailbox.put("b")
    assert not mailbox.put("c")
    return mailbox


@pytest.mark.parametrize(
    ("policy", "lost", "taken", "kept"),
    [
        (REJECT, "c", False, ["a", "b"]),
        (DROP_NEW, "c", True, ["a", "b"]),
        (DROP_OLD, "a", True, ["b", "c"]),
    ],
)
def test_each_policy_loses_its_message_at_the_limit(
    policy: int, lost: str, taken: bool, kept: list[str]
) -> None:
    mailbox = full(policy)
    assert mailbox.overflow("c") == (lost, taken)
    assert mailbox.overflows == 1
    assert mailbox.take_all() == kept


def test_a_full_mailbox_still_takes_control() -> None:
    mailbox = full(REJECT)
    assert mailbox.put_control("stop")
    assert len(mailbox) == 3
    assert mailbox.take_all() == ["stop", "a", "b"]
    assert len(mailbox) == 0


def test_a_flood_of_the_control_lane_is_refused_but_timers_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mailbox_module, "CONTROL_MESSAGES_MAX", 2)
    mailbox = Mailbox()
    assert mailbox.put_control(1)
    assert mailbox.put_control(2)
    assert not mailbox.put_control(3)
    assert mailbox.overflows == 1
    assert mailbox.put_control("timer", always=True)
    assert mailbox.take_all() == [1, 2, "timer"]


def test_what_is_put_back_goes_first_in_its_order_and_beyond_the_limit() -> None:
    mailbox = full(REJECT)
    mailbox.put_back([1, 2])
    assert mailbox.take_all() == [1, 2, "a", "b"]
    mailbox.put_back([])
    assert mailbox.bulk is None
    mailbox.put_back([3])
    assert mailbox.take_all() == [3]


def test_an_idle_mailbox_holds_no_queue() -> None:
    mailbox = Mailbox()
    mailbox.put("a")
    mailbox.put_control("b")
    assert mailbox.bulk is not None
    assert mailbox.control is not None
    mailbox.relax()
    assert len(mailbox) == 2
    mailbox.bulk.clear()
    mailbox.control.clear()
    mailbox.relax()
    queues: list[object] = [mailbox.bulk, mailbox.control]
    assert queues == [None, None]


@pytest.mark.parametrize(("limit", "policy"), [(0, REJECT), (1, 9)])
def test_a_senseless_mailbox_is_our_own_bug(limit: int, policy: int) -> None:
    with pytest.raises(AssertionError):
        Mailbox(limit, policy)
