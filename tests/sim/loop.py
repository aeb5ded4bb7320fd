"""An event loop in the world's time: what production writes with ``await`` runs here as it is.

One loop is one life of a process.  When that ends nothing of it is called any more, and its tasks
are forgotten where they stand.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, cast

from tests.sim.world import SECOND

# (us from now, what): some time later, if the process still lives.
Later = Callable[[int, Callable[[], None]], None]


class SimLoop:
    """What futures, tasks, sleeps and semaphores need of a loop, and no more."""

    def __init__(self, now_us: Callable[[], int], later: Later) -> None:
        self._now_us = now_us
        self._later = later
        self._loop = cast(asyncio.AbstractEventLoop, self)

    def time(self) -> float:
        return self._now_us() / SECOND

    def call_soon(
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self._loop, context)
        self._later(0, lambda: self._run(handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        when = self.time() + delay
        handle = asyncio.TimerHandle(when, callback, args, self._loop, context)
        self._later(round(delay * SECOND), lambda: self._run(handle))
        return handle

    def _run(self, handle: asyncio.Handle) -> None:
        if handle.cancelled():
            return
        before = events._get_running_loop()
        events._set_running_loop(self._loop)
        try:
            handle._run()
        finally:
            events._set_running_loop(before)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is found to be cancelled when its time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._loop)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.Task(coroutine, loop=self._loop)
        task.add_done_callback(_raise_it)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Without a handle it is about what a process that has ended left behind."""
        if "handle" in context:
            error: BaseException = context["exception"]
            raise error

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return False


def _raise_it(task: asyncio.Task[None]) -> None:
    error = task.exception()
    if error is not None:
        raise error
