"""A scheduler with a clock that stands still, and an actor that does as it is told.

A :class:`Probe` writes every callback into a log shared by all probes of a :class:`World`, as
``"name:what"``, and answers a message by what ``world.script`` says for ``(name, message)``:
effects to return, an exception to raise, or a function that is called and whose value is
returned.
"""

from __future__ import annotations

import random
from typing import Any

from actors.runtime import (
    Actor,
    ActorRef,
    CrashReport,
    Effects,
    RestartSpec,
    Scheduler,
    TimerFired,
    VirtualClock,
)

TURNS_MAX = 1_000


class Probe(Actor):
    def __init__(self, name: str, world: World) -> None:
        super().__init__(name)
        self.world = world

    def _answer(self, what: Any) -> Effects:
        answer = self.world.script.get((self.name, what))
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def _note(self, what: Any) -> Effects:
        self.world.log.append(f"{self.name}:{what}")
        return self._answer(what)

    def on_start(self) -> Effects:
        return self._note("on_start")

    def handle(self, message: Any) -> Effects:
        if isinstance(message, TimerFired):
            return self._note(f"timer {message.key}")
        return self._note(message)

    def on_stop(self) -> Effects:
        return self._note("on_stop")


class Batcher(Probe):
    def end_turn(self) -> Effects:
        return self._note("end_turn")


class World:
    def __init__(self, **options: Any) -> None:
        self.clock = VirtualClock(1_000)
        self.log: list[str] = []
        self.script: dict[tuple[str, Any], Any] = {}
        self.crashes: list[CrashReport] = []
        self.wakes = 0
        options.setdefault("wake", self._on_wake)
        self.scheduler = Scheduler(self.clock, on_crash=self.crashes.append, **options)

    def _on_wake(self) -> None:
        self.wakes += 1

    def probe(self, name: str, kind: type[Probe] = Probe, **options: Any) -> ActorRef:
        """Spawn and start; the start itself is not left in the log."""
        ref = self.spawn(name, kind, **options)
        self.run()
        self.log.remove(f"{name}:on_start")
        return ref

    def spawn(self, name: str, kind: type[Probe] = Probe, **options: Any) -> ActorRef:
        if options.pop("restarts", False):
            options.setdefault("restart", RestartSpec())
        if options.get("restart") is not None:
            options.setdefault("factory", lambda: kind(name, self))
        return self.scheduler.spawn(kind(name, self), **options)

    def tell(self, to: str | ActorRef, *messages: object, control: bool = False) -> None:
        for message in messages:
            assert self.scheduler.tell(to, message, control), f"{message!r} was refused"

    def run(self) -> None:
        for _ in range(TURNS_MAX):
            if not self.scheduler.run_turn():
                return
        raise AssertionError("there is always work left")

    def advance(self, ms: int) -> None:
        """Let time pass, stopping wherever the scheduler wants a turn, as a process would."""
        ends_ms = self.clock.now_ms() + ms
        while (
            deadline_ms := self.scheduler.next_deadline()
        ) is not None and deadline_ms <= ends_ms:
            self.clock.advance_to(deadline_ms)
            self.run()
        self.clock.advance_to(ends_ms)
        self.run()

    def take_log(self) -> list[str]:
        log, self.log[:] = list(self.log), []
        return log

    def letters(self) -> dict[str, int]:
        return {key: count for key, count in self.scheduler.dead_letters.counts.items() if count}


def seeded(seed: int) -> random.Random:
    return random.Random(seed)
