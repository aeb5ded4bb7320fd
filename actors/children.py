"""Child processes of a node: forked from a warm parent, watched by descriptor, restarted by budget.

Children come from multiprocessing's *forkserver*: a process without threads that has imported
what a worker needs, so a worker is a fork of a few milliseconds whose memory is mostly shared.
The forkserver is their parent, not we; so

* a child's end is seen on a **pidfd**, which tells of the process itself.  Multiprocessing's
  own sentinel is written by the forkserver and ends with it, while the children live on;
* a child watches the pipe that multiprocessing gives it, whose other end only we hold, and
  exits at its end (:func:`actors.worker.end_with_parent`); the forkserver's death ends nobody;
* when the forkserver is gone, its orphans become ours to reap (we are a sub-reaper), and the
  next start makes a new one.

Every child has a pipe to say, in one line, why it could not go on.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any, Final

from actors.process import LAST_WORDS_BYTES_MAX
from actors.runtime import RestartBudget, RestartSpec
from actors.runtime.clock import Clock
from actors.settings import (
    RESTART_BACKOFF_MAX_MS,
    RESTART_BACKOFF_MIN_MS,
    RESTART_INTENSITY,
    RESTART_PERIOD_MS,
)
from raft.store.identity import Child, process_start_time

log = logging.getLogger("polyraft.node")

PRELOAD: Final = ["actors.worker"]
KILL_WAIT_MS: Final = 5_000
_PR_SET_CHILD_SUBREAPER: Final = 36

RESTARTS = RestartSpec(
    intensity=RESTART_INTENSITY,
    period_ms=RESTART_PERIOD_MS,
    backoff_min_ms=RESTART_BACKOFF_MIN_MS,
    backoff_max_ms=RESTART_BACKOFF_MAX_MS,
)


def make_context() -> ForkServerContext:
    """The forkserver's context; once per node process, before anything else starts children."""
    # Otherwise every child would run our main script again, as a module.
    main: Any = sys.modules["__main__"]
    main.__spec__ = None
    if hasattr(main, "__file__"):
        del main.__file__
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return context


class ChildProcess:
    """One place in the process tree: whoever fills it now, and those before."""

    def __init__(
        self,
        context: ForkServerContext,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        kind: str,
        slot: int | None,
        target: Callable[..., None],
        arguments: object,
        on_end: Callable[[ChildProcess, str], None],
        on_change: Callable[[], None],
    ) -> None:
        self.kind = kind
        self.slot = slot
        self.pid: int | None = None
        self.restarts = 0
        self.last_words = ""  # why the last one ended, in its own words
        self.wanted = True
        self._context = context
        self._loop = loop
        self._clock = clock
        self._target = target
        self._arguments = arguments
        self._on_end = on_end
        self._on_change = on_change
        self._budget = RestartBudget(RESTARTS)
        self._process: ForkServerProcess | None = None
        self._start: int | None = None
        self._pidfd = -1
        self._words: Connection | None = None
        self._again: asyncio.TimerHandle | None = None

    @property
    def name(self) -> str:
        return self.kind if self.slot is None else f"{self.kind} {self.slot}"

    def start(self) -> None:
        """Start it; when even that fails, try again as after a failure."""
        self._again = None
        assert self.pid is None, f"{self.name} runs already"
        words, said = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=self._target, args=(self._arguments, said), name=self.name, daemon=True
        )
        try:
            process.start()
            assert process.pid is not None
            self._pidfd = os.pidfd_open(process.pid)
        except (OSError, EOFError) as error:
            log.error("%s could not be started: %s", self.name, error)
            words.close()
            said.close()
            self._restart_later()
            return
        said.close()
        # The process object holds our end of the pipe that the child watches.
        self._process = process
        self._words = words
        self.pid = process.pid
        self._start = process_start_time(process.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._on_change()

    def as_child(self) -> Child:
        assert self.pid is not None
        return Child(self.pid, self._start, self.kind, self.slot)

    def signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                log.debug("%s ended by itself", self.name)

    def forget(self) -> None:
        """It is not wanted any more: its end is no failure."""
        self.wanted = False
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _on_exit(self) -> None:
        pid = self.pid
        assert pid is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.pid = None
        self._process = None
        _reap(pid)
        self.last_words = self._take_words()
        self._on_end(self, self.last_words)
        self._on_change()
        if self.wanted:
            words = self.last_words or "without a word"
            log.warning("%s (pid %d) ended: %s", self.name, pid, words)
            self._restart_later()

    def _restart_later(self) -> None:
        self.restarts += 1
        delay_ms = self._budget.record(self._clock.now_ms())
        self._again = self._loop.call_later(delay_ms / 1_000, self.start)

    def _take_words(self) -> str:
        words, self._words = self._words, None
        assert words is not None
        with words:
            try:
                if words.poll(0):
                    return words.recv_bytes(LAST_WORDS_BYTES_MAX).decode(errors="replace")
            except (EOFError, OSError):
                return ""
        return ""


def _reap(pid: int) -> None:
    """Our own child only if the forkserver that forked it is gone; otherwise that one reaps it."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def end_left_over(children: tuple[Child, ...], clock: Clock) -> None:
    """SIGKILL what an earlier life of this node left behind.  Pid and start time together name a
    process for good; SIGKILL also ends one that is stopped."""
    for child in children:
        if child.start is None or process_start_time(child.pid) != child.start:
            continue
        try:
            descriptor = os.pidfd_open(child.pid)
        except ProcessLookupError:
            continue
        try:
            if process_start_time(child.pid) == child.start:
                log.warning("ending %s %s (pid %d), left over", child.kind, child.slot, child.pid)
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _wait_for_end(descriptor, clock)
        except ProcessLookupError:
            continue
        finally:
            os.close(descriptor)


def _wait_for_end(descriptor: int, clock: Clock) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    if not poll.poll(KILL_WAIT_MS):
        log.warning("a left-over process does not end")
