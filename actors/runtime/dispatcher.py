"""A thread for an actor that must block (SQLite, snapshot files), under the same contract.

The scheduler keeps the mailbox, the timers, the supervision and the effects; only the callbacks
run over here.  At most **one job** is out: a few messages from the mailbox, or the start, or the
stop.  The rest waits in the mailbox under its own limit and policy, so there is no second queue
to bound, and control still goes first at every border between jobs.

A job never raises: its :class:`Result` carries what the callbacks returned, in order, and the
failure if there was one.  It is left in ``finished`` and the scheduler's thread is told through
``post`` (``loop.call_soon_threadsafe``); nothing else is shared between the two threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

from actors.runtime.actor import Actor

Post = Callable[[Callable[[], None]], None]

JOB_MESSAGES_MAX = 64  # effects of a job are seen when all of it is done


@dataclass(slots=True)
class Job:
    """``kind``: "on_start", "handle" or "on_stop"; messages only with "handle"."""

    actor: Actor
    kind: str
    messages: list[Any] = field(default_factory=list)


@dataclass(slots=True)
class Result:
    kind: str
    effects: list[object] = field(default_factory=list)
    handled: int = 0
    during: str = ""  # the callback that raised
    error: Exception | None = None
    failed_message: object = None
    elapsed_ns: int = 0
    unhandled: list[Any] = field(default_factory=list)  # after the message that failed


class ThreadDispatcher:
    """The thread of one actor; it outlives restarts of the actor and ends with :meth:`close`."""

    __slots__ = ("_jobs", "_on_result", "_post", "busy", "finished", "thread")

    def __init__(self, name: str, post: Post, on_result: Callable[[], None]) -> None:
        self._post = post
        self._on_result = on_result
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        # At most one: the thread puts, the scheduler takes.
        self.finished: SimpleQueue[Result] = SimpleQueue()
        self.busy = False  # a job is out; the scheduler's thread alone looks at it
        # A daemon: a call that never returns must not keep the process from ending.
        self.thread = threading.Thread(target=self._run, name=f"actor-{name}", daemon=True)
        self.thread.start()

    def submit(self, job: Job) -> None:
        assert not self.busy, "one job at a time"
        self.busy = True
        self._jobs.put(job)

    def take_result(self, timeout_s: float = 0.0) -> Result | None:
        """The result of the job that is out, if it is done by then.  Waits only when told to."""
        try:
            result = self.finished.get(block=timeout_s > 0, timeout=timeout_s)
        except Empty:
            return None
        self.busy = False
        return result

    def close(self) -> None:
        """End the thread after the job that is out; does not wait."""
        self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self.finished.put(run_job(job))
            try:
                self._post(self._on_result)
            except RuntimeError:
                # The loop has been closed: nobody is left to take results, the process is ending.
                return


def run_job(job: Job) -> Result:
    """The generic loop of one job, on whatever thread."""
    result = Result(job.kind)
    began_ns = time.perf_counter_ns()
    actor = job.actor
    message: object = None
    during = job.kind
    try:
        if job.kind == "handle":
            for message in job.messages:
                result.handled += 1
                result.effects.extend(actor.handle(message) or ())
            during = "end_turn"
            result.effects.extend(actor.end_turn() or ())
        elif job.kind == "on_start":
            result.effects.extend(actor.on_start() or ())
        else:
            assert job.kind == "on_stop", f"unknown kind of job {job.kind!r}"
            result.effects.extend(actor.on_stop() or ())
    except Exception as error:  # noqa: BLE001  an actor's failure, reported whole
        result.error = error
        result.during = during
        if during == "handle":
            result.failed_message = message
            result.unhandled = job.messages[result.handled :]
    result.elapsed_ns = time.perf_counter_ns() - began_ns
    return result
