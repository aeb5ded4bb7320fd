"""What a node writes down of its groups, also when the disk of DATA has no room for it now.

A node whose own disk is full is told of groups that others create.  That must not end it, and with
it all the groups that run: what is to be placed waits, and nothing has come of it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

from raft.store.placement import PlacedGroup, Placement
from raft.store.space import is_full_error

log = logging.getLogger("polyraft.node")

PLACE_RETRY_MS: Final = 500  # until there is room for a new placement


class Placing:
    """``again`` is called once more when there may be room."""

    def __init__(
        self, placement: Placement, loop: asyncio.AbstractEventLoop, again: Callable[[], None]
    ) -> None:
        self._placement = placement
        self._loop = loop
        self._again = again
        self._unmarked: set[int] = set()  # groups that were born, which is not written down yet
        self._timer: asyncio.TimerHandle | None = None

    def place(self, groups: Mapping[int, PlacedGroup]) -> bool:
        """Whether this is the placement on disk.  Raises OSError; of a full disk it is False."""
        try:
            self._placement.replace(groups)
        except OSError as error:
            if not is_full_error(error):
                raise
            log.error("%s; trying again", error)
            if self._timer is None:
                self._timer = self._loop.call_later(PLACE_RETRY_MS / 1_000, self._place_again)
            return False
        return True

    def _place_again(self) -> None:
        self._timer = None
        unmarked, self._unmarked = self._unmarked, set()
        self.mark_born(sorted(unmarked))
        self._again()

    def mark_born(self, groups: Iterable[int]) -> None:
        """The log of these groups is on disk; a missing one is a loss from now on, no beginning."""
        placed = self._placement.groups
        born = {
            group: replace(placed[group], options={**placed[group].options, "born": True})
            for group in groups
            if group in placed and not placed[group].options.get("born")
        }
        self._unmarked |= born.keys()
        if born and self.place({**placed, **born}):
            self._unmarked -= born.keys()
