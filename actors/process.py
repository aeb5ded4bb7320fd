"""What every child process of a node does alike: how it logs, and how it ends.

A child ends without ceremony: what it has promised is on disk or was never said, and its supervisor
starts the next one.  So there is no clean-up that could be skipped by a crash.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from multiprocessing import parent_process
from typing import Any, Final

log = logging.getLogger("polyraft")

EXIT_STORE: Final = 3  # the disk refuses: damaged, poisoned, or another process holds the lock
EXIT_CRASH: Final = 4  # a bug of ours
EXIT_ADDRESS: Final = 5  # an address cannot be bound


def end_process(code: int) -> None:
    logging.shutdown()
    os._exit(code)


def end_with_parent() -> None:
    """Exit when the node process is gone, however it went: only it holds the pipe's other end."""
    parent = parent_process()
    assert parent is not None, "a worker is started by multiprocessing"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


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
