"""What one worker says when the router asks: of its groups, of their log and disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from actors import wire
from actors.group_messages import DescribeGroup, GroupDescribed, actor_name
from actors.runtime import Scheduler

QUESTIONS_MAX: Final = 1_000  # of the router that are not answered yet


@dataclass(slots=True)
class _Question:
    rows: list[Any]
    missing: int


class Describing:
    """``send`` a frame to the router, in the control lane; without one it is lost.  ``shared``:
    what is said of what all groups share."""

    def __init__(
        self,
        scheduler: Scheduler,
        send: Callable[..., None],
        shared: Callable[[], dict[str, Any]],
    ) -> None:
        self._scheduler = scheduler
        self._send = send
        self._shared = shared
        self._questions: dict[int, _Question] = {}

    def ask(
        self,
        frame: list[Any],
        groups: Collection[int],
        broken: Mapping[int, dict[str, Any]],
    ) -> None:
        """DESCRIBE: of ``groups``, which run here, and ``broken``, which have a summary alone."""
        query, wanted = frame[3], frame[4]
        asked = [group for group in wanted if group in groups]
        rows = [[each, summary] for each, summary in broken.items() if each in wanted]
        while len(self._questions) >= QUESTIONS_MAX:
            # A machine that blocks never answered; the router stopped waiting long ago.
            del self._questions[next(iter(self._questions))]
        self._questions[query] = _Question(rows, len(asked))
        if not asked:
            self._finish(query)
        for group in asked:
            self._scheduler.tell(actor_name(group), DescribeGroup(query), control=True)

    def carry_described(self, effect: GroupDescribed, address: object) -> None:
        question = self._questions.get(effect.key)
        if question is None:
            return
        question.rows.append([effect.group, effect.description])
        question.missing -= 1
        if question.missing == 0:
            self._finish(effect.key)

    def _finish(self, query: int) -> None:
        self._send(wire.DESCRIBED, query, self._questions.pop(query).rows, self._shared())
