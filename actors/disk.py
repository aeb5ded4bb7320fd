"""The threads that write: a worker's WAL batches; and the segments that come next or have served.

What may live here: blocking calls of the store, each reported to the loop when it has returned.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from raft.store.errors import StoreError
from raft.store.wal import Batch

log = logging.getLogger("polyraft.worker")


class DiskThread:
    """The thread that writes: one batch at a time, in the order given.  A second one does the rest.

    Preparing the next segment writes and syncs megabytes of zeros, and giving up an old one reads
    and unlinks as much; in the first thread a batch would wait for it.
    """

    def __init__(
        self,
        on_done: Callable[[Batch, BaseException | None], None],
        on_beside_done: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_done = on_done
        self._on_beside_done = on_beside_done
        self._loop = loop
        self._batches: SimpleQueue[Batch] = SimpleQueue()
        self._beside: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._writer = threading.Thread(target=self._write, name="wal", daemon=True)
        self._other = threading.Thread(target=self._work_beside, name="wal-next", daemon=True)
        self._writer.start()
        self._other.start()

    def submit(self, batch: Batch) -> None:
        self._batches.put(batch)

    def beside(self, work: Callable[[], None] | None) -> None:
        """Work for the second thread, if there is any."""
        if work is not None:
            self._beside.put(work)

    def _write(self) -> None:
        while True:
            batch = self._batches.get()
            error: BaseException | None = None
            try:
                batch.run()
            except BaseException as caught:  # noqa: BLE001 - reported to the loop, which ends us
                error = caught
            self._loop.call_soon_threadsafe(self._on_done, batch, error)

    def _work_beside(self) -> None:
        while True:
            work = self._beside.get()
            try:
                work()
            except (OSError, StoreError) as error:
                # Not fatal: the writer makes the segment when it needs it, or fails there; and one
                # that is not given up stays until the next start.
                log.warning("a WAL segment could not be prepared or given up: %s", error)
            self._loop.call_soon_threadsafe(self._on_beside_done)
