"""What the tests with real sockets share: waiting on conditions, never for a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from transport import sockets
from transport.sockets import Context

DEADLINE_S = 60.0  # far beyond what any condition here takes

Story = Coroutine[Any, Any, None]


def run_story(story: Story, run: Callable[[Story], None] = asyncio.run) -> None:
    """Run to the end; an exception in a callback, which a loop only logs, fails the test."""

    async def watched() -> None:
        errors: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        await story
        assert not errors, errors

    run(watched())


def run_story_on_uvloop(story: Story) -> None:
    run_story(story, uvloop.run)


RUNNERS: list[Callable[[Story], None]] = [run_story, run_story_on_uvloop]
RUNNER_NAMES = ["asyncio", "uvloop"]


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until the condition holds."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < deadline, "the condition never came true"
        await turns(1)


async def turns(count: int) -> None:
    """A few turns of the loop with a moment for the I/O thread in each."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_later(0.002, turned.set_result, None)
        await turned


class FreshContext:
    """A ZeroMQ context whose end is part of the test: LINGER 0 means that it never hangs."""

    def __enter__(self) -> Context:
        self._context = sockets.make_context()
        return self._context

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)
