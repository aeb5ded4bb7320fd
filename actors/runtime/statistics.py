"""What a running scheduler can be asked, as immutable records.

Every actor can be looked at without doing anything for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.runtime.actor import ActorRef


@dataclass(slots=True, frozen=True)
class ActorStatistics:
    ref: ActorRef
    kind: str  # class of the actor
    state: str  # "new", "running", "backoff" or "ended"
    mailbox: int  # messages waiting in bulk
    control: int  # and in the control lane
    mailbox_limit: int
    overflows: int  # messages lost at the limit
    timers: int
    handled: int
    crashes: int
    restarts: int
    busy_ns: int  # time inside its callbacks and their effects
    slice_ns_max: int  # the longest it kept everybody else waiting
    blocking: bool


@dataclass(slots=True, frozen=True)
class SchedulerStatistics:
    turns: int
    rounds: int
    handled: int
    spawned: int
    crashes: int
    restarts: int
    ready: int  # actors with work waiting
    timer_entries: int
    dead_letters: Mapping[str, int]
    actors: tuple[ActorStatistics, ...]  # in the order of their spawn
