"""Where the messages of one actor wait: two lanes, a limit and a policy.

*Bulk* is bounded by ``limit`` messages.  At the limit the policy decides:

* ``REJECT``: the sender is told (``tell`` returns False), the message is a dead letter;
* ``DROP_NEW``: the message is a dead letter, the sender need not care;
* ``DROP_OLD``: the oldest waiting message is the dead letter, the new one takes a place.

*Control* is for what keeps a group alive and what ends it: timers, votes, heartbeats, persisted,
stop. It is always served first and a full mailbox does not touch it, so overload can neither
starve heartbeats nor block a shutdown.  It has no policy but a ceiling, ``CONTROL_MESSAGES_MAX``,
far above what a healthy process reaches; beyond it a flood is refused rather than taking all
memory.

Order is kept within a lane, so per sender, receiver and lane.

An idle mailbox holds no queue at all: with ten thousand sleeping groups in a process, two empty
deques per actor would be 25 MB.
"""

from __future__ import annotations

from collections import deque
from typing import Any

REJECT = 0
DROP_NEW = 1
DROP_OLD = 2
POLICIES = frozenset((REJECT, DROP_NEW, DROP_OLD))

MAILBOX_MESSAGES_MAX = 4_096  # bulk, unless the spawn says otherwise
CONTROL_MESSAGES_MAX = 1_000_000

assert MAILBOX_MESSAGES_MAX < CONTROL_MESSAGES_MAX


class Mailbox:
    """``bulk`` and ``control`` are ``None`` while empty, apart from moments inside a turn."""

    __slots__ = ("bulk", "control", "limit", "overflows", "policy")

    def __init__(self, limit: int = MAILBOX_MESSAGES_MAX, policy: int = REJECT) -> None:
        assert limit >= 1, f"a mailbox of {limit} messages takes nothing"
        assert policy in POLICIES, f"unknown mailbox policy {policy}"
        self.limit = limit
        self.policy = policy
        self.overflows = 0  # messages lost at the limit, whichever message it was
        self.bulk: deque[Any] | None = None
        self.control: deque[Any] | None = None

    def __len__(self) -> int:
        return len(self.bulk or ()) + len(self.control or ())

    def put(self, message: object) -> bool:
        """Whether there was room; if not, the caller asks :meth:`overflow` what is to be done."""
        bulk = self.bulk
        if bulk is None:
            self.bulk = deque((message,))
            return True
        if len(bulk) < self.limit:
            bulk.append(message)
            return True
        return False

    def put_control(self, message: object, always: bool = False) -> bool:
        """Whether it was taken; False only beyond ``CONTROL_MESSAGES_MAX``.

        ``always`` is for what the kernel itself sends and must not lose: one firing per timer.
        """
        control = self.control
        if control is None:
            self.control = deque((message,))
            return True
        if always or len(control) < CONTROL_MESSAGES_MAX:
            control.append(message)
            return True
        self.overflows += 1
        return False

    def overflow(self, message: object) -> tuple[object, bool]:
        """No room for ``message``: which message is lost, and whether the sender hears "taken"."""
        assert self.bulk is not None, "an empty mailbox does not overflow"
        assert len(self.bulk) >= self.limit, "overflow() is for a full mailbox"
        self.overflows += 1
        if self.policy == DROP_OLD:
            lost = self.bulk.popleft()
            self.bulk.append(message)
            return lost, True
        return message, self.policy == DROP_NEW

    def put_back(self, messages: list[Any]) -> None:
        """Messages taken out and not handled, to the head of bulk, in their order.

        They had their place before, so the limit does not apply.
        """
        if messages:
            if self.bulk is None:
                self.bulk = deque()
            self.bulk.extendleft(reversed(messages))

    def relax(self) -> None:
        """Let go of queues that have run empty."""
        if not self.bulk:
            self.bulk = None
        if not self.control:
            self.control = None

    def take_all(self) -> list[Any]:
        """Everything, control first; the mailbox is empty afterwards."""
        messages = [*(self.control or ()), *(self.bulk or ())]
        self.bulk = self.control = None
        return messages
