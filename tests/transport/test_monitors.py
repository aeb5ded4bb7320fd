"""Connections as libzmq tells them: by name, counted, and never after the end."""

from __future__ import annotations

import asyncio
import socket as plain
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.transport.helpers import RUNNER_NAMES, RUNNERS, FreshContext, run_story, turns, until
from transport import monitors, sockets
from transport.monitors import SocketMonitor
from transport.sockets import Socket


@pytest.mark.parametrize("run", RUNNERS, ids=RUNNER_NAMES)
def test_both_ends_tell_of_a_connection_that_comes_and_goes(run: Callable[[Any], None]) -> None:
    async def story() -> None:
        with FreshContext() as context:
            loop = asyncio.get_running_loop()
            router = sockets.peer_router(context)
            address = await sockets.bind(router, "tcp://127.0.0.1:*")
            events: list[tuple[str, str]] = []
            at_router = SocketMonitor(context, router, loop)
            dealer = sockets.peer_dealer(context)
            at_dealer = SocketMonitor(context, dealer, loop, lambda *event: events.append(event))
            dealer.connect(address)
            await until(lambda: (monitors.HANDSHAKE_SUCCEEDED, address) in events)
            await until(lambda: at_router.counts[monitors.ACCEPTED] == 1)
            router.unbind(address)
            at_router.close()
            router.close()
            await until(lambda: at_dealer.counts[monitors.DISCONNECTED] == 1)
            at_dealer.close()

    run(story())


@pytest.mark.parametrize(
    ("noise", "event"),
    [
        (b"\xff" + bytes(8) + b"\x7f\x09" + b"x" * 60, "protocol"),
        (b"", "ended"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" + bytes(100), "disconnected"),
    ],
    ids=["no ZMTP behind the greeting", "ends within the handshake", "another protocol"],
)
def test_a_handshake_that_fails_is_counted(noise: bytes, event: str) -> None:
    name = {
        "protocol": monitors.HANDSHAKE_FAILED_PROTOCOL,
        "ended": monitors.HANDSHAKE_FAILED,
        "disconnected": monitors.DISCONNECTED,  # libzmq takes it for ZMTP 1, then for nothing
    }[event]

    async def story() -> None:
        with FreshContext() as context:
            router = sockets.client_router(context)
            address = await sockets.bind(router, "tcp://127.0.0.1:*")
            monitor = SocketMonitor(context, router, asyncio.get_running_loop())
            port = int(address.rpartition(":")[2])
            with plain.create_connection(("127.0.0.1", port), timeout=5) as stranger:
                stranger.sendall(noise)
                await until(lambda: monitor.counts[monitors.ACCEPTED])
            await until(lambda: monitor.counts[name])
            monitor.close()

    run_story(story())


def test_a_callback_may_close_the_monitor_and_hears_nothing_more() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router: Socket = context.socket(zmq.ROUTER)
            address = await sockets.bind(router, "tcp://127.0.0.1:*")
            heard: list[str] = []

            def on_event(name: str, _: str) -> None:
                heard.append(name)
                monitor.close()

            monitor = SocketMonitor(context, router, asyncio.get_running_loop(), on_event)
            for _ in range(3):
                client: Socket = context.socket(zmq.DEALER)
                client.connect(address)
            await until(lambda: heard)
            await turns(10)
            assert len(heard) == 1
            monitor.close()  # twice is once

    run_story(story())
