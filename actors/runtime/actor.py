"""The specific half of an actor: what its author writes.

::

    Actor (specific)                      Scheduler (generic)
    ----------------                      -------------------
    on_start()        <-----------------  first turn after spawn, and after each restart
    handle(message)   <-----------------  one message of the control lane, else of the mailbox
    end_turn()        <-----------------  once per round in which it handled something
    on_stop()         <-----------------  Stop effect, stop_actor(), stop(); not after a failure
      returns effects ----------------->  carried out in order, after the method has returned

An actor touches nothing but its own state: no I/O, no other actor, no ``await``.  What it wants
done it returns.  So it can be tested by calling ``handle`` and comparing what comes back.

A message belongs to the receiver once it was told; nobody changes it after that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

Effects: TypeAlias = Sequence[object] | None
"""What a callback returns: effects in the order to carry them out; ``None`` for none."""


class ActorRef(NamedTuple):
    """Where to send.  A value: hashable and comparable; it holds no object.

    ``incarnation`` is drawn at spawn and kept over restarts.  A reference to an actor that has
    ended never reaches a successor of the same name; a plain name always means who lives there
    now.
    """

    name: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.name}#{self.incarnation}"


Address: TypeAlias = str | ActorRef


class Actor:
    """Derive from it; ``handle`` is the only method that must be written.

    ``ref`` is set by the scheduler before ``on_start``; it is the address to hand out.
    """

    __slots__ = ("name", "ref")

    name: str
    ref: ActorRef

    def __init__(self, name: str) -> None:
        self.name = name

    def on_start(self) -> Effects:
        """First callback of a life.  Open resources here, not in the constructor: a blocking actor
        is constructed on the scheduler's thread and started on its own."""
        return None

    def handle(self, message: Any) -> Effects:
        raise NotImplementedError(f"{type(self).__name__} handles no messages")

    def end_turn(self) -> Effects:
        """Called once per round for an actor that handled something in it: the place to take
        outputs
        in batches.  Not overridden, it is never called and costs nothing."""
        return None

    def on_stop(self) -> Effects:
        """Last callback of an orderly end."""
        return None

    def status(self) -> Mapping[str, object]:
        """For people: what this actor is doing.  Cheap, changes nothing."""
        return {}
