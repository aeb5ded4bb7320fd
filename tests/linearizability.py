"""Is there one order of these operations that explains every answer?

A history is what clients saw of a key-value store: for each operation when it was asked, when it
was answered, and with what. It is **linearizable** when the operations can be put in one line such
that

* each operation that was answered before another was asked stands before it, and
* carried out one by one in this order, they give exactly these answers.

Keys are independent of each other, so each key is checked by itself.

**Unknown outcomes.** A write without an answer may have happened at any moment after it was
asked, also long after its client gave up, or never. So it may be left out of the line, and nothing
needs to stand behind it. A *definite* refusal is no operation at all: it must not be in the
history.

**The search** is that of Wing and Gong, with the memory of Lowe. A configuration is the set of
operations already in the line and the state of the key. From each, any operation may come next that
was asked before the first of the missing answers; answers that do not fit close the branch. A
configuration that failed once is never tried again. Three things keep it small:

* answered operations in the order of asking: what is in the line is nearly a prefix of them, so the
  set is a number (the length of that prefix) and a few bits behind it;
* a configuration that failed with some unknown writes still free fails also with fewer of them, so
  those with the most of them free come first;
* an unknown write is only tried where it changes the state, and one that overwrites never straight
  behind another unknown one, which could as well be left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import msgpack

State = bytes | None  # the value of a key; None: absent
Answer = bytes | int | str | None

DONE: Final = "done"
REJECTED: Final = "rejected"
UNKNOWN: Final = "unknown"
UNANSWERED: Final = math.inf
CONFIGURATIONS_MAX: Final = 2_000_000
OVERWRITES: Final = frozenset(("put", "delete"))  # whatever was there before
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1


@dataclass(slots=True, frozen=True)
class Operation:
    """One call, and what came of it.

    ========  ==========================  ===================
    action    argument                    answer
    ========  ==========================  ===================
    get       None                        the value or None
    put       the value                   DONE
    delete    None                        DONE
    cas       (expected, new), None: absent  DONE or REJECTED
    add       an int                      an int or REJECTED
    ========  ==========================  ===================

    A write whose outcome is not known has the answer UNKNOWN, at the time UNANSWERED.
    """

    client: int
    key: str
    action: str
    argument: bytes | int | tuple[State, State] | None
    asked: float
    answered: float
    answer: Answer

    def __str__(self) -> str:
        argument = "" if self.argument is None else f" {self.argument!r}"
        until = "" if self.is_unknown else f"{self.answered:.6f}"
        return (
            f"[{self.asked:.6f}..{until}] client {self.client}: "
            f"{self.action} {self.key}{argument} -> {self.answer!r}"
        )

    @property
    def is_unknown(self) -> bool:
        return self.answer == UNKNOWN and self.action != "get"


class NotLinearizable(AssertionError):
    """No order explains the answers; the text shows how far the best one came."""


class Undecided(AssertionError):
    """The search was given up: far too many operations at once."""


def check(history: Iterable[Operation]) -> None:
    """Raises NotLinearizable, Undecided."""
    by_key: dict[str, list[Operation]] = {}
    for operation in history:
        assert operation.asked <= operation.answered, operation
        by_key.setdefault(operation.key, []).append(operation)
    for key, operations in sorted(by_key.items()):
        _Search(key, operations).run()


def step(state: State, operation: Operation) -> tuple[State, Answer]:
    """What the operation does to the key, and what it has to answer."""
    argument = operation.argument
    match operation.action:
        case "get":
            return state, state
        case "put":
            assert isinstance(argument, bytes)
            return argument, DONE
        case "delete":
            return None, DONE
        case "cas":
            assert isinstance(argument, tuple)
            expected, new = argument
            return (new, DONE) if state == expected else (state, REJECTED)
        case "add":
            assert isinstance(argument, int)
            return _add(state, argument)
    raise AssertionError(operation.action)


def _add(state: State, amount: int) -> tuple[State, Answer]:
    try:
        value = 0 if state is None else msgpack.unpackb(state)
    except (ValueError, msgpack.UnpackException):
        return state, REJECTED
    if type(value) is not int or not INT64_MIN <= value + amount <= INT64_MAX:
        return state, REJECTED
    return msgpack.packb(value + amount), value + amount


@dataclass(slots=True, frozen=True)
class _Configuration:
    """Answered operations in the line: the first ``prefix``, and those in ``beyond`` (bit 0: the
    one behind the prefix, so never set). Unknown writes in the line: ``used``."""

    prefix: int
    beyond: int
    used: int
    state: State
    behind_unknown: bool = False  # the last in the line is an unknown write

    def with_answered(self, position: int, state: State) -> _Configuration:
        prefix, beyond = self.prefix, self.beyond | 1 << (position - self.prefix)
        while beyond & 1:
            prefix += 1
            beyond >>= 1
        return _Configuration(prefix, beyond, self.used, state)

    def with_unknown(self, position: int, state: State) -> _Configuration:
        return _Configuration(self.prefix, self.beyond, self.used | 1 << position, state, True)


def _pop(stacks: list[list[_Configuration]]) -> _Configuration | None:
    return next((stack.pop() for stack in stacks if stack), None)


class _Search:
    """One key."""

    def __init__(self, key: str, operations: Sequence[Operation]) -> None:
        self._key = key
        ordered = sorted(operations, key=lambda it: (it.asked, it.answered))
        self._answered = [it for it in ordered if not it.is_unknown]
        self._unknown = [it for it in ordered if it.is_unknown]
        # What failed: by everything but ``used``, the smallest sets of used ones.
        self._failed: dict[tuple[int, int, State], list[int]] = {}
        self._count = 0
        self._best = _Configuration(0, 0, 0, None)

    def run(self) -> None:
        if not self._answered:
            return
        # By the number of unknown writes in the line: lines with few of them first, in depth.
        stacks: list[list[_Configuration]] = [[] for _ in range(len(self._unknown) + 1)]
        stacks[0].append(_Configuration(0, 0, 0, None))
        while (at := _pop(stacks)) is not None:
            if at.prefix == len(self._answered):
                return
            if self._is_new(at):
                if self._reached(at) > self._reached(self._best):
                    self._best = at
                for following in self._next(at):
                    stacks[following.used.bit_count()].append(following)
        raise NotLinearizable(self._explanation())

    def _reached(self, at: _Configuration) -> int:
        return at.prefix + at.beyond.bit_count()

    def _is_new(self, at: _Configuration) -> bool:
        self._count += 1
        if self._count > CONFIGURATIONS_MAX:
            raise Undecided(f"key {self._key}: more than {CONFIGURATIONS_MAX} configurations")
        failed = self._failed.setdefault((at.prefix, at.beyond, at.state), [])
        if any(used & at.used == used for used in failed):
            return False
        failed[:] = [used for used in failed if used & at.used != at.used]
        failed.append(at.used)
        return True

    def _open(self, at: _Configuration) -> tuple[list[int], float]:
        """Positions of answered operations that may come next, and the first missing answer."""
        answered = self._answered
        found: list[int] = []
        first_answer = UNANSWERED
        for position in range(at.prefix, len(answered)):
            if answered[position].asked > first_answer:
                break
            if not at.beyond >> (position - at.prefix) & 1:
                found.append(position)
                first_answer = min(first_answer, answered[position].answered)
        return found, first_answer

    def _next(self, at: _Configuration) -> Iterator[_Configuration]:
        found, first_answer = self._open(at)
        for position in found:
            operation = self._answered[position]
            state, answer = step(at.state, operation)
            if answer == operation.answer:
                yield at.with_answered(position, state)
        for position, operation in enumerate(self._unknown):
            if operation.asked > first_answer:
                break
            overwrites = operation.action in OVERWRITES
            if not (at.used >> position & 1 or (overwrites and at.behind_unknown)):
                state, _ = step(at.state, operation)
                if state != at.state:
                    yield at.with_unknown(position, state)

    def _explanation(self) -> str:
        best = self._best
        found, first_answer = self._open(best)
        lines = [
            f"key {self._key}: {self._reached(best)} of {len(self._answered)} answers explained "
            f"({self._count} configurations); then the value is {best.state!r} and none fits of"
        ]
        lines += [f"  {self._answered[position]}" for position in found]
        free = [
            operation
            for position, operation in enumerate(self._unknown)
            if operation.asked <= first_answer and not best.used >> position & 1
        ]
        if free:
            lines.append("although these may have happened, too:")
            lines += [f"  {operation}" for operation in free]
        before = self._answered[max(0, best.prefix - 8) : best.prefix]
        lines.append("before that:")
        lines += [f"  {operation}" for operation in before]
        return "\n".join(lines)
