"""Rebirths: how a replica whose log was condemned comes back by itself, on the same disk.

Two things here have to do with the placement alone being the memory of who a replica is: a replica
that has *begun* is noted as born, and one whose log is *lost* ends its life and begins another one
(:mod:`raft.lives`).  Of the second, this file is the node's half, :mod:`actors.replacing` the
leader's::

    worker: LOST (group, life k, reason)
        |
        v            "learner"          placement: life k+1,             "done"
    asks for k+1  ---------------->  generation+1, rejoining  ... asks ... ----> rejoining is over
    (not placed)                        |        (placed)
        ^  |                            v
        +--+ waiting, refused,       RELOAD: the worker begins life k+1 with an empty log
             nobody leads

**Each step can be done again.**  Before the placement says k+1, nothing here has changed: a node
that dies finds the same loss, and asks the same question; the leader finds its learner there.  From
then on ``rejoining`` says what is left to do.  The placement is durable before the worker hears of
it, so a life speaks only when the one before it never can again.

**The order is not free.**  The leader's word "learner" says that a majority without this replica
has just committed something.  Until then the remains of the log stay what they are: where no such
majority is left, somebody may want them.

A log can also be *given up*, by those who went on without it (:mod:`actors.local_groups`): what it
has is of another history, and it goes the same way.

At most :data:`REBIRTHS_MAX` catch up at once, since each may get the whole state of its group.
Nothing here does I/O but the placement: whoever has a loop hands in the ways out.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from actors.replacing import DONE, LEARNER, USED, WAITING, encode_question
from actors.wire import BEGUN
from raft.lives import LIVES_MAX
from raft.messages import Replica
from raft.store.placement import BORN, LEFT, MEMBER, REJOINING, PlacedGroup, Placement
from transport import protocol

log = logging.getLogger("polyraft.node")

REBIRTHS_MAX: Final = 4  # that catch up at the same time; the others wait for their turn
ASK_TIMEOUT_MS: Final = 3_000
POLL_MS: Final = 300  # between two questions while it goes on
PAUSE_MIN_MS: Final = 300  # after a refusal; twice as long after each further one
PAUSE_MAX_MS: Final = 10_000

NOBODY_LEADS: Final = (
    "the others have no leader that is reached from here: bring back a majority of them, or "
    "restore from a backup, or give up what only the lost ones had (reset-peers)"
)

Answered = Callable[[int, str, bytes], None]  # code, reason, data


@dataclass(slots=True, frozen=True)
class Ways:
    """The ways out.  ``place``: all groups of the node, durably; False if the disk is too full for
    it now; ``ask``: (group name, RequestBatch, not by way of the own replica?, who hears of the
    answer), as this node's own process; ``later``: (ms, what); ``reload``: the worker of a slot
    reads the placement again; ``changed``: :meth:`Rebirths.state` says something else."""

    place: Callable[[Mapping[int, PlacedGroup]], bool]
    ask: Callable[[str, bytes, bool, Answered], None]
    later: Callable[[int, Callable[[], None]], None]
    reload: Callable[[int], None]
    changed: Callable[[], None]


@dataclass(slots=True, eq=False)
class _Rebirth:
    """``lost``: the life that is over; ``life``: the one that is asked for; ``placed``: the
    placement says so already."""

    group: int
    lost: int
    life: int
    placed: bool
    text: str
    asks: bool = False  # a question is under way, or is about to be asked
    moves: bool = False  # the last answer was that it goes on
    pause_ms: int = PAUSE_MIN_MS

    def is_of(self, placed: PlacedGroup | None) -> bool:
        """Whether this is still what is to come back: the node may have left the group meanwhile,
        and have come back to it with a life that is none of ours."""
        if placed is None or LEFT in placed.options:
            return False
        return placed.life == (self.life if self.placed else self.lost)


class Rebirths:
    """Of one node.  ``disk``: its name, and the incarnation of its disk."""

    def __init__(self, disk: Replica, placement: Placement, ways: Ways) -> None:
        self._disk = disk
        self._placement = placement
        self._ways = ways
        self._under_way: dict[int, _Rebirth] = {}
        self.counts = Counter(lost=0, begun=0, done=0)

    def begin(self) -> None:
        """What an earlier life of this process has left half done."""
        for group, placed in self._placement.groups.items():
            if placed.options.get(REJOINING) and group not in self._under_way:
                rebirth = _Rebirth(
                    group, placed.life - 1, placed.life, True, "it comes back as a new replica"
                )
                self._under_way[group] = rebirth
                self._ask(rebirth)

    @property
    def is_idle(self) -> bool:
        return not self._under_way

    def state(self) -> dict[str, Any]:
        """For ``why``: group -> how it stands."""
        return {str(group): each.text for group, each in self._under_way.items()}

    # ------------------------------------------------------------------ what workers tell

    def on_replicas(self, rows: list[list[Any]]) -> None:
        """Rows of :data:`actors.wire.REPLICAS`."""
        groups = self._placement.groups
        born, slots = {}, set()
        for group, life, what, reason in rows:
            placed = groups.get(group)
            if placed is None or LEFT in placed.options:
                continue
            if what == BEGUN or life < placed.life:
                slots.add(placed.slot)  # it has not read what it waits for
            if what == BEGUN:
                if life == placed.life and not placed.is_born:
                    born[group] = replace(placed, options={**placed.options, BORN: True})
            elif life == placed.life:
                self._on_lost(placed, group, reason)
        if born and not self._ways.place({**groups, **born}):
            return  # told again when there is room
        for slot in sorted(slots):
            self._ways.reload(slot)

    def _on_lost(self, placed: PlacedGroup, group: int, reason: str) -> None:
        known = self._under_way.get(group)
        if known is not None and known.is_of(placed) and not known.placed:
            return
        self.counts["lost"] += 1
        log.error("group %s: %s", placed.name, reason)
        life = placed.life + 1
        if life > LIVES_MAX:
            log.error("group %s: its log was lost %d times from this disk", placed.name, life)
            return
        text = "it is to come back as a new replica"
        if known is None:
            known = self._under_way[group] = _Rebirth(group, placed.life, life, False, text)
        known.lost, known.life, known.placed = placed.life, life, False
        known.moves, known.text = False, text
        known.pause_ms = PAUSE_MIN_MS
        self._ways.changed()
        self._ask(known)

    # ------------------------------------------------------------------ questions

    def _ask(self, rebirth: _Rebirth) -> None:
        if rebirth.asks:
            return
        rebirth.asks = True
        self._ask_now(rebirth)

    def _ask_now(self, rebirth: _Rebirth) -> None:
        placed = self._placement.groups.get(rebirth.group)
        if placed is None or not rebirth.is_of(placed):
            self._end(rebirth)  # the node has no replica of the group any more, or another one
            return
        if not rebirth.placed and self._moving >= REBIRTHS_MAX:
            self._say(rebirth, "it waits until other groups of this node have come back")
            self._ways.later(POLL_MS, lambda: self._ask_now(rebirth))
            return
        batch = encode_question(
            self._disk, rebirth.life, placed=rebirth.placed, timeout_ms=ASK_TIMEOUT_MS
        )
        asked = rebirth.life, rebirth.placed

        def answered(code: int, reason: str, data: bytes) -> None:
            is_asked = (rebirth.life, rebirth.placed) == asked
            if is_asked and rebirth.is_of(self._placement.groups.get(rebirth.group)):
                self._on_answer(rebirth, code, reason, data)
            if self._under_way.get(rebirth.group) is rebirth:
                pause_ms = POLL_MS if rebirth.moves else rebirth.pause_ms
                self._ways.later(pause_ms, lambda: self._ask_now(rebirth))

        # The one that is over may run, and know of another leader, or of none.
        self._ways.ask(placed.name, batch, not rebirth.placed, answered)

    @property
    def _moving(self) -> int:
        return sum(each.placed and each.moves for each in self._under_way.values())

    def _on_answer(self, rebirth: _Rebirth, code: int, reason: str, data: bytes) -> None:
        answer = _parse(data) if code == protocol.OK else None
        if answer is None:
            rebirth.moves = False
            rebirth.pause_ms = min(2 * rebirth.pause_ms, PAUSE_MAX_MS)
            self._say(rebirth, _REFUSED.get(code, f"the leader refuses: {reason}"))
            return
        rebirth.moves, rebirth.pause_ms = True, PAUSE_MIN_MS
        _ANSWERS[answer["state"]](self, rebirth, answer)

    def _on_waiting(self, rebirth: _Rebirth, answer: dict[str, Any]) -> None:
        if not rebirth.placed:
            self._say(rebirth, "the leader is adding the new replica")
            return
        match, last = answer.get("match"), answer.get("last")
        how_far = f" {100 * (match or 0) // last} %" if type(last) is int and last > 0 else ""
        self._say(rebirth, f"it comes back as a new replica: catching up{how_far}")

    def _on_learner(self, rebirth: _Rebirth, answer: dict[str, Any]) -> None:
        """The life before is over: durably, before the worker hears of it."""
        if rebirth.placed:
            return
        group = rebirth.group
        placed = self._placement.groups[group]
        assert placed.life < rebirth.life, (group, placed.life, rebirth.life)
        over = (BORN, MEMBER)
        options = {key: each for key, each in placed.options.items() if key not in over}
        begins = replace(
            placed,
            generation=placed.generation + 1,
            life=rebirth.life,
            options={**options, REJOINING: True},
        )
        if not self._ways.place({**self._placement.groups, group: begins}):
            return  # answered again, when it is asked again
        self.counts["begun"] += 1
        log.warning("group %s: begins life %d on this disk", placed.name, rebirth.life)
        rebirth.placed = True
        self._say(rebirth, "it comes back as a new replica")
        self._ways.reload(placed.slot)

    def _on_used(self, rebirth: _Rebirth, answer: dict[str, Any]) -> None:
        if rebirth.life >= LIVES_MAX:
            return
        if rebirth.placed:
            text = "life %d of group %d was given up before it had come back"
            rebirth.lost, rebirth.placed = rebirth.life, False
        else:
            text = (
                "life %d of group %d was begun before, and is not in the placement: was that put "
                "back from an old copy?"
            )
        log.error(text, rebirth.life, rebirth.group)
        rebirth.life += 1

    def _on_done(self, rebirth: _Rebirth, answer: dict[str, Any]) -> None:
        placed = self._placement.groups[rebirth.group]
        if not rebirth.placed or not placed.is_born:
            return
        options = {key: each for key, each in placed.options.items() if key != REJOINING}
        settled = replace(placed, options=options)
        if not self._ways.place({**self._placement.groups, rebirth.group: settled}):
            return
        self.counts["done"] += 1
        log.warning("group %s: came back as life %d", placed.name, placed.life)
        self._end(rebirth)

    def _end(self, rebirth: _Rebirth) -> None:
        del self._under_way[rebirth.group]
        self._ways.changed()

    def _say(self, rebirth: _Rebirth, text: str) -> None:
        if text != rebirth.text:
            rebirth.text = text
            self._ways.changed()


def _parse(data: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(data)
    except ValueError:
        return None
    is_known = isinstance(answer, dict) and answer.get("state") in _ANSWERS
    return answer if is_known else None


_REFUSED: Final = {
    protocol.NO_LEADER: NOBODY_LEADS,
    protocol.NOT_LEADER: NOBODY_LEADS,
    protocol.TIMEOUT: NOBODY_LEADS,
    protocol.UNAVAILABLE: NOBODY_LEADS,
}
_ANSWERS: Final[dict[str, Callable[[Rebirths, _Rebirth, dict[str, Any]], None]]] = {
    WAITING: Rebirths._on_waiting,
    LEARNER: Rebirths._on_learner,
    USED: Rebirths._on_used,
    DONE: Rebirths._on_done,
}
