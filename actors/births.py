"""Births and losses of the replicas of one worker: what it and the node process owe each other.

A replica whose log is missing looks like one that never had a log.  Only the placement tells the
two apart: *born* means that this log was durable once.  So a replica takes part only when that is
written down; as long as it is not, nothing was promised to anybody, and a log that is lost may
begin anew.  The worker asks, the node process writes, the worker opens::

    worker   first record gathered -> durable          opened
                                         |               ^
                                       BEGUN           RELOAD
                                         v               |
    node                                 +--> placement: born (durable)

Nobody waits for an answer: what waits is told again whenever the router is another one, and in
answer to every RELOAD; the node process writes what is new in it and answers with RELOAD.  A worker
that died meanwhile finds the record in its log, and asks again before it opens the group.

A log that is *lost* goes the same way: it is told, with its reason, until the placement knows of
another life (:mod:`actors.rebirths`).
"""

from __future__ import annotations

from typing import Any

from actors.wire import BEGUN, LOST


class Births:
    """Replicas of one worker that are not opened: by group, with their life."""

    __slots__ = ("_begun", "_gathered", "_lost", "_under_way")

    def __init__(self) -> None:
        self._gathered: dict[int, int] = {}  # the first record is in no batch yet
        self._under_way: dict[int, int] = {}
        self._begun: dict[int, int] = {}  # it is durable
        self._lost: dict[int, tuple[int, str]] = {}  # group -> (life, reason)

    def gather(self, group: int, life: int) -> None:
        """The first record is in the log's memory."""
        self._gathered[group] = life

    def find(self, group: int, life: int) -> None:
        """The first record is in the log."""
        if group not in self._gathered and group not in self._under_way:
            self._begun[group] = life

    def lose(self, group: int, life: int, reason: str) -> None:
        self._lost[group] = life, reason

    def settle(self, group: int) -> None:
        """It is opened, or begins another life."""
        self._begun.pop(group, None)
        self._lost.pop(group, None)

    def on_batch_taken(self) -> None:
        if self._gathered:
            self._under_way, self._gathered = self._gathered, {}

    def on_batch_done(self) -> bool:
        """Whether there is something new to be told."""
        if not self._under_way:
            return False
        self._begun.update(self._under_way)
        self._under_way = {}
        return True

    def rows(self) -> list[list[Any]]:
        """What the node process has to know, as :data:`actors.wire.REPLICAS` has it."""
        begun = [[group, life, BEGUN, ""] for group, life in self._begun.items()]
        return begun + [[group, life, LOST, reason] for group, (life, reason) in self._lost.items()]
