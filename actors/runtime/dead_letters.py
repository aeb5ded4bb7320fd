"""Messages that no actor will handle: counted by reason, the last few remembered by type.

The messages themselves are not kept, they may be megabytes; who must answer their senders (a router
owes every request a reply) sets ``listener`` and gets each message as it is lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from actors.runtime.actor import Address

NO_ACTOR = "no_actor"  # nobody of that name
FULL = "full"  # a mailbox was at its limit
STOPPED = "stopped"  # the receiver is ending or has ended
FAILED = "failed"  # its handling raised, or it waited behind such a message without a restart

REASONS = (NO_ACTOR, FULL, STOPPED, FAILED)
RECENT_MAX = 64


class DeadLetter(NamedTuple):
    reason: str
    address: Address
    message_type: str


class DeadLetters:
    __slots__ = ("counts", "listener", "recent")

    def __init__(self) -> None:
        self.counts = dict.fromkeys(REASONS, 0)
        self.recent: deque[DeadLetter] = deque(maxlen=RECENT_MAX)
        self.listener: Callable[[DeadLetter, object], None] | None = None

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def add(self, reason: str, address: Address, message: object) -> None:
        self.counts[reason] += 1  # an unknown reason is a bug, and a KeyError
        letter = DeadLetter(reason, address, type(message).__name__)
        self.recent.append(letter)
        if self.listener is not None:
            self.listener(letter, message)
