"""How a worker keeps the pauses of Python's cyclic garbage collector short.

A full collection looks at every container that it knows, and at everything that is directly in it:
a map of a million entries costs it a tenth of a second, in which no heartbeat leaves.  It comes
after every 70,000 containers or so that stay, which with a busy group is every few seconds.  Such
a map costs even more: it holds nothing that could be in a cycle, so the collector lets go of it,
and begins to know it again with the next entry, as a young one: then it is looked at by the
collections of both young generations, too.

Nearly all of that lives as long as the group.  So what has survived a collection that took long, of
whatever generation, is *frozen*: still freed when nobody refers to it, but not looked at any more.
Then collections are short again, until so much more has come to stay that one takes long once more.

What is lost: cycles among frozen objects are garbage that nobody finds.  Few are made, and by few:
the actors of a group are one, with all that they hold.  So when a group ends, everything is thawed
(:meth:`ShortCollections.thaw`), and the next full collection looks at all of it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

PAUSE_S_MAX: Final = 0.010  # of a collection, in processor time

# Containers that have come, and not gone again, between two collections of the youngest generation
# (700 by default).  A young collection looks at every map that was written to: hundreds of groups
# have hundreds of them.
YOUNG_OBJECTS: Final = 4_000


class ShortCollections:
    """``clock_s`` counts the processor time of this thread."""

    def __init__(
        self,
        *,
        clock_s: Callable[[], float] = time.thread_time,
        freeze: Callable[[], None] = gc.freeze,
        unfreeze: Callable[[], None] = gc.unfreeze,
    ) -> None:
        self._clock_s = clock_s
        self._freeze = freeze
        self._unfreeze = unfreeze
        self._began_s = 0.0
        self.counts = {"freezes": 0, "thaws": 0}

    def start(self) -> None:
        gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
        gc.callbacks.append(self.note)

    def note(self, phase: str, info: Mapping[str, Any]) -> None:
        """As :data:`gc.callbacks` are called, on whatever thread the collection runs."""
        if phase == "start":
            self._began_s = self._clock_s()
        elif self._clock_s() - self._began_s > PAUSE_S_MAX:
            self.counts["freezes"] += 1
            self._freeze()

    def thaw(self) -> None:
        """Much of what is frozen may be garbage now."""
        self.counts["thaws"] += 1
        self._unfreeze()
