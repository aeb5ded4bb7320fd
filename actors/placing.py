"""What a node writes down of its groups, also when the disk of DATA has no room for it now.

A node whose own disk is full is told of groups that others create.  That must not end it, and with
it all the groups that run: what is to be placed waits, and nothing has come of it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Final

from raft.store.placement import PlacedGroup, Placement
from raft.store.space import is_full_error

log = logging.getLogger("polyraft.node")

PLACE_RETRY_MS: Final = 500  # until there is room for a new placement


class Placing:
    """``again``: what was to be placed is worked out anew, and placed, when there may be room."""

    def __init__(
        self, placement: Placement, loop: asyncio.AbstractEventLoop, again: Callable[[], None]
    ) -> None:
        self._placement = placement
        self._loop = loop
        self._again = again
        self._waiting: dict[Callable[[], None], None] = {}  # in order, each once

    def place(self, groups: Mapping[int, PlacedGroup]) -> bool:
        """Whether this is the placement on disk.  Raises OSError; of a full disk it is False."""
        try:
            self._placement.replace(groups)
        except OSError as error:
            if not is_full_error(error):
                raise
            log.error("%s; trying again", error)
            self.wait(self._again)
            return False
        return True

    def wait(self, what: Callable[[], None]) -> None:
        """Have something else tried again, too, when there may be room."""
        is_first = not self._waiting
        self._waiting[what] = None
        if is_first:
            self._loop.call_later(PLACE_RETRY_MS / 1_000, self._try_again)

    def _try_again(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for what in waiting:
            what()
