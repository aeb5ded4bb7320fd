"""What every child process of a node does alike: how it logs, and how it ends.

A child ends without ceremony: what it has promised is on disk or was never said, and its supervisor
starts the next one.  So there is no clean-up that could be skipped by a crash.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import sys
import threading
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any, Final

from raft.store.errors import DamagedDocument, StoreError, UnknownFormat, WalDamaged
from raft.store.space import is_full_error

log = logging.getLogger("polyraft")

EXIT_STORE: Final = 3  # the disk refuses: damaged, poisoned, or another process holds the lock
EXIT_CRASH: Final = 4  # a bug of ours
EXIT_ADDRESS: Final = 5  # an address cannot be bound

LAST_WORDS_BYTES_MAX: Final = 4_096
# The last words of a worker begin with what it was, for its node to tell apart.
DAMAGED: Final = "damaged"  # another start will find the same
FULL: Final = "full"
FAILED: Final = "failed"  # a disk that errs, a lock that is held: another start may do


_M_ARENA_MAX: Final = -8  # of mallopt(3)


def share_memory_between_threads() -> bool:
    """Let all threads allocate from one arena; before the first thread is started.

    A state is built by one thread (a restore), and changed and dropped by another.  With an arena
    for each, what one has let go of is of no use to the other: a restored state of large values
    would take its memory twice.  One arena costs nothing here, as only one thread runs Python at a
    time.  False where the C library knows no arenas.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_ARENA_MAX, 1))


def end_process(code: int) -> None:
    logging.shutdown()
    os._exit(code)


def end_by(error: BaseException, said: Connection | None, who: str) -> None:
    """The one way out of a process whose store has failed, wherever that was found out.

    Nothing is answered, acknowledged or voted any more (pitfall 44).  What no disk can do is a bug
    of ours.
    """
    if not isinstance(error, StoreError | OSError):
        log.critical("%s: %r", who, error, exc_info=error)
        end_process(EXIT_CRASH)
        return
    log.critical("%s: %s", who, error)
    if said is not None:
        words = f"{_kind_of(error)}: {error}".encode()[:LAST_WORDS_BYTES_MAX]
        try:
            said.send_bytes(words)
        except OSError as trouble:
            log.warning("nobody hears the last words: %s", trouble)
    end_process(EXIT_STORE)


def _kind_of(error: StoreError | OSError) -> str:
    if isinstance(error, WalDamaged | UnknownFormat | DamagedDocument):
        return DAMAGED
    return FULL if is_full_error(error) else FAILED


def end_with_parent() -> None:
    """Exit when the node process is gone, however it went: only it holds the pipe's other end."""
    parent = parent_process()
    assert parent is not None, "a worker is started by multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def failure_in(context: dict[str, Any]) -> BaseException:
    """What a callback has raised, from what an event loop tells its exception handler."""
    error = context.get("exception")
    return error if isinstance(error, BaseException) else RuntimeError(str(context))


def end_on_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback raised: a bug of ours.  What state it left is unknown, so the process ends."""
    log.critical("%s", context.get("message"), exc_info=context.get("exception"))
    end_process(EXIT_CRASH)


def start_logging(level: str, name: str) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format=f"%(asctime)s %(levelname)s {name} %(message)s",
    )
