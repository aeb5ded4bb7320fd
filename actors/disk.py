"""The threads that write: a worker's WAL batches, and the segments that come next.

What may live here: blocking calls of the store, each reported to the loop when it has returned.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from raft.store.wal import Batch

log = logging.getLogger("polyraft.worker")


class DiskThread:
    """The thread that writes: one batch at a time, in the order given.  A second one prepares.

    Preparing the next segment writes and syncs megabytes of zeros; in the first thread it would
    make a batch wait for it.
    """

    def __init__(
        self,
        on_done: Callable[[Batch, BaseException | None], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_done = on_done
        self._loop = loop
        self._batches: SimpleQueue[Batch] = SimpleQueue()
        self._preparations: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="wal", daemon=True)
        self._preparer = threading.Thread(target=self._prepare, name="wal-next", daemon=True)
        self._writer.start()
        self._preparer.start()

    def submit(self, batch: Batch) -> None:
        self._batches.put(batch)

    def prepare(self, preparation: Callable[[], None]) -> None:
        self._preparations.put(preparation)

    def _write(self) -> None:
        while True:
            batch = self._batches.get()
            error: BaseException | None = None
            try:
                batch.run()
            except BaseException as caught:  # noqa: BLE001 - reported to the loop, which ends us
                error = caught
            self._loop.call_soon_threadsafe(self._on_done, batch, error)

    def _prepare(self) -> None:
        while True:
            preparation = self._preparations.get()
            try:
                preparation()
            except OSError as error:
                # Not fatal: the writer makes the segment when it needs it, or fails there.
                log.warning("the next WAL segment could not be prepared: %s", error)
