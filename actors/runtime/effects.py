"""What an actor may return, and the messages that the kernel itself sends.

Effects are imperative, messages are past tense.  A process adds effect types of its own with
``Scheduler.carry``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from actors.runtime.actor import Address

if TYPE_CHECKING:
    from actors.runtime.supervisor import ActorSpec


class BadEffect(AssertionError):
    """An actor returned what nobody can carry out.  It fails, as with any other bug of its own."""


# --------------------------------------------------------------------------- effects


@dataclass(slots=True)
class Tell:
    """Send ``message``.  A refusal goes to the dead letters, never back into the sender."""

    address: Address
    message: object
    control: bool = False


@dataclass(slots=True)
class StartTimer:
    """Have :class:`TimerFired` delivered at ``deadline_ms`` of the clock.

    Keys are the actor's own.  Starting a running timer moves it, and a firing of the same key that
    is already queued is taken back.
    """

    key: Hashable
    deadline_ms: int


@dataclass(slots=True)
class CancelTimer:
    """After this, ``TimerFired`` of that key does not arrive, even if it was queued already."""

    key: Hashable


@dataclass(slots=True)
class Stop:
    """End me: the effects after this one are still carried out, then ``on_stop`` is called."""

    reason: str


@dataclass(slots=True)
class Spawn:
    """Start another actor; its failures are its own supervision's business, never its creator's."""

    spec: ActorSpec


@dataclass(slots=True)
class Watch:
    """Have :class:`Ended` delivered when that actor fails or stops; at once if nobody is there."""

    address: Address


# --------------------------------------------------------------------------- kernel messages


@dataclass(slots=True)
class TimerFired:
    """``deadline_ms`` is what was asked for; the clock may be past it."""

    key: Hashable
    deadline_ms: int


@dataclass(slots=True)
class Ended:
    """A watched actor failed or stopped.

    With ``restarts`` it comes back under the same reference and the watch stays; otherwise both are
    over.
    """

    address: Address
    reason: str
    restarts: bool = False


KERNEL_EFFECTS = (Tell, StartTimer, CancelTimer, Stop, Spawn, Watch)
