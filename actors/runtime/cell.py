"""One actor as its scheduler sees it: address, mailbox, timers, supervision and counters.

States::

    NEW --on_start--> RUNNING --Stop--> ENDED
     ^                   |  failure
     +----- BACKOFF <----+------------> ENDED   (nothing says to restart it)

In BACKOFF there is no actor object, but the reference and the mailbox stay and go on taking
messages within the limit.  Incarnation changes only with a new spawn.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from actors.runtime.actor import Actor, ActorRef, Effects
from actors.runtime.dispatcher import ThreadDispatcher
from actors.runtime.mailbox import Mailbox
from actors.runtime.statistics import ActorStatistics
from actors.runtime.supervisor import RestartBudget
from actors.runtime.timers import Timer

NEW = 0
RUNNING = 1
BACKOFF = 2
ENDED = 3

STATE_NAMES = ("new", "running", "backoff", "ended")


class Cell:
    __slots__ = (
        "actor",
        "budget",
        "busy_ns",
        "control_ready",
        "crashes",
        "end_turn",
        "factory",
        "handle",
        "handled",
        "kind",
        "mailbox",
        "ready",
        "ref",
        "restart_due",
        "restart_timer",
        "restarts",
        "slice_ns_max",
        "state",
        "stop_reason",
        "thread",
        "timers",
        "touched",
        "watchers",
    )

    def __init__(
        self,
        ref: ActorRef,
        mailbox: Mailbox,
        factory: Callable[[], Actor] | None,
        budget: RestartBudget | None,
    ) -> None:
        self.ref = ref
        self.mailbox = mailbox
        self.factory = factory
        self.budget = budget
        self.state = NEW
        self.actor: Actor | None = None
        self.kind = "-"
        self.handle: Callable[[Any], Effects] = _no_actor
        self.end_turn: Callable[[], Effects] | None = None
        self.ready = False  # in the scheduler's list of cells with bulk
        self.control_ready = False  # in its queue of cells with control or a change of state
        self.touched = False  # handled something in this round and wants end_turn
        self.stop_reason: str | None = None
        self.timers: dict[Hashable, Timer[Cell]] | None = None
        self.restart_due = False  # in BACKOFF: the wait is over
        self.restart_timer: Timer[Cell] | None = None
        self.watchers: dict[ActorRef, None] | None = None  # a set that keeps order
        self.thread: ThreadDispatcher | None = None
        self.handled = 0
        self.crashes = 0
        self.restarts = 0
        self.busy_ns = 0
        self.slice_ns_max = 0

    def seat(self, actor: Actor) -> None:
        """A new life: this object handles from now on."""
        assert actor.name == self.ref.name, f"{actor.name!r} was made for {self.ref}"
        actor.ref = self.ref
        self.actor = actor
        self.kind = type(actor).__name__
        self.handle = actor.handle
        # Not overridden: not called.
        self.end_turn = None if type(actor).end_turn is Actor.end_turn else actor.end_turn
        self.state = NEW

    def vacate(self, state: int) -> None:
        """The object has failed or ended; nothing may call it again."""
        self.actor = None
        self.handle = _no_actor
        self.end_turn = None
        self.touched = False
        self.state = state

    def spent(self, elapsed_ns: int) -> None:
        self.busy_ns += elapsed_ns
        if elapsed_ns > self.slice_ns_max:
            self.slice_ns_max = elapsed_ns

    def statistics(self) -> ActorStatistics:
        return ActorStatistics(
            ref=self.ref,
            kind=self.kind,
            state=STATE_NAMES[self.state],
            mailbox=len(self.mailbox.bulk or ()),
            control=len(self.mailbox.control or ()),
            mailbox_limit=self.mailbox.limit,
            overflows=self.mailbox.overflows,
            timers=len(self.timers or ()),
            handled=self.handled,
            crashes=self.crashes,
            restarts=self.restarts,
            busy_ns=self.busy_ns,
            slice_ns_max=self.slice_ns_max,
            blocking=self.thread is not None,
        )


def _no_actor(message: Any) -> Effects:
    raise AssertionError(f"{type(message).__name__} was handed to nobody")
