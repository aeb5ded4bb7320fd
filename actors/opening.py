"""The log of a slot that is still locked by the worker before: wait, and say for whom.

What may live here: waiting at the very start of a process, when nothing else runs in it yet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from actors.runtime import Clock
from actors.settings import LOCK_WAIT_MS_MAX
from raft.store.errors import LockHeld

log = logging.getLogger("polyraft.worker")

Opened = TypeVar("Opened")


def when_unlocked(opening: Callable[[], Opened], slot: int, clock: Clock) -> Opened:
    """What ``opening`` gives, once nobody holds its lock.  Raises LockHeld after
    ``LOCK_WAIT_MS_MAX``."""
    deadline_ms = clock.now_ms() + LOCK_WAIT_MS_MAX
    named = False
    while True:
        try:
            return opening()
        except LockHeld as error:
            if clock.now_ms() >= deadline_ms:
                raise
            if not named:
                log.warning("slot %d: %s; waiting", slot, error)
                named = True
            # flock has no wait with a deadline.
            threading.Event().wait(0.02)
