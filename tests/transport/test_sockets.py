"""The sharp edges of ZeroMQ sockets, each held by a test over real loopback sockets."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket as plain
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.transport.helpers import RUNNER_NAMES, RUNNERS, FreshContext, run_story, turns, until
from transport import sockets
from transport.frames import MESSAGE_BYTES_MAX, split_client
from transport.sockets import (
    AddressInUse,
    BindRefused,
    Context,
    RouterSender,
    Socket,
    SocketWatcher,
)

ANY = "tcp://127.0.0.1:*"


async def router_and_clients(context: Context, count: int) -> tuple[Socket, list[Socket]]:
    router = sockets.client_router(context)
    address = await sockets.bind(router, ANY)
    clients = []
    for _ in range(count):
        client: Socket = context.socket(zmq.DEALER)
        client.connect(address)
        clients.append(client)
    return router, clients


class Received:
    """Messages of a ROUTER, drained when asked."""

    def __init__(self, router: Socket) -> None:
        self.router = router
        self.messages: list[tuple[bytes, list[bytes]]] = []

    def drain(self, budget: int = sockets.DRAIN_MESSAGES_MAX) -> bool:
        return sockets.drain(self.router, lambda i, f: self.messages.append((i, f)), budget)

    async def until(self, count: int) -> list[list[bytes]]:
        def enough() -> bool:
            self.drain()
            return len(self.messages) >= count

        await until(enough)
        assert len(self.messages) == count
        return [frames for _, frames in self.messages]


# ----------------------------------------------------------------------------------------- options


def test_every_socket_has_its_limits_and_never_lingers() -> None:
    with FreshContext() as context:
        made = (
            sockets.client_router(context),
            sockets.peer_router(context),
            sockets.peer_dealer(context),
            sockets.events_pub(context),
        )
        for socket in made:
            assert socket.get(zmq.LINGER) == 0
            assert socket.get(zmq.MAXMSGSIZE) == MESSAGE_BYTES_MAX
            assert 0 < int(socket.get(zmq.SNDHWM)) <= 10_000
            assert 0 < int(socket.get(zmq.RCVHWM)) <= 10_000
            assert 0 < int(socket.get(zmq.HEARTBEAT_IVL)) < int(socket.get(zmq.HEARTBEAT_TIMEOUT))
            assert int(socket.get(zmq.HEARTBEAT_TIMEOUT)) < 65_000  # the wire has 16 bits for it
            assert int(socket.get(zmq.HANDSHAKE_IVL)) <= 5_000
            assert socket.get(zmq.TCP_KEEPALIVE) == 1
            assert socket.get(zmq.ROUTING_ID) == b""
        dealer = made[2]
        assert dealer.get(zmq.IMMEDIATE) == 1
        assert 0 < int(dealer.get(zmq.RECONNECT_IVL)) < int(dealer.get(zmq.RECONNECT_IVL_MAX))


def test_a_context_with_unsent_messages_ends_at_once() -> None:
    context = sockets.make_context()
    client: Socket = context.socket(zmq.DEALER)
    client.connect("tcp://127.0.0.1:1")
    client.send(b"for nobody")
    client.close()
    context.term()  # would hang for ever with the default LINGER


# ---------------------------------------------------------------------------------------- receiving


def test_messages_of_any_shape_are_taken_whole_and_in_order() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            shapes = [[b""], [b"a"], [b"", b"a", b"", b"b"], [b"x" * 100_000, b"y"], [b"z"] * 6]
            for shape in shapes:
                client.send_multipart(shape)
            received = Received(router)
            assert await received.until(len(shapes)) == shapes
            assert len({identity for identity, _ in received.messages}) == 1

    run_story(story())


def test_a_message_of_10_000_parts_is_swallowed_and_the_next_is_untouched() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            client.send_multipart([b"c", *[b"part"] * 9_999])
            client.send_multipart([b"c", b"kv", b"batch"])
            long, short = await Received(router).until(2)
            assert len(long) == sockets.FRAMES_KEPT_MAX
            malformed = split_client(long)
            assert malformed.correlation == b"c"
            assert not hasattr(malformed, "batch")
            assert short == [b"c", b"kv", b"batch"]

    run_story(story())


def test_a_budget_in_messages_and_in_bytes_ends_a_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            for _ in range(5):
                client.send(b"x" * 1_000)
            await turns(10)
            received = Received(router)
            assert received.drain(2)
            assert len(received.messages) == 2
            monkeypatch.setattr(sockets, "DRAIN_BYTES_MAX", 1_500)
            assert received.drain()
            assert len(received.messages) == 4
            assert not received.drain(2)
            assert len(received.messages) == 5

    run_story(story())


def test_frames_of_a_dealer_are_drained_likewise() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            client.send(b"hello")
            received = Received(router)
            await received.until(1)
            identity = received.messages[0][0]
            for parts in ([b"a"], [b"b", b"c"], [b"d"] * 100):
                router.send_multipart([identity, *parts])
            got: list[list[bytes]] = []

            def enough() -> bool:
                sockets.drain_frames(client, got.append)
                return len(got) == 3

            await until(enough)
            assert got == [[b"a"], [b"b", b"c"], [b"d"] * sockets.FRAMES_KEPT_MAX]
            router.send_multipart([identity, b"e"])
            router.send_multipart([identity, b"f"])
            await turns(10)
            assert sockets.drain_frames(client, got.append, 1)
            assert not sockets.drain_frames(client, got.append, 2)
            assert got[3:] == [[b"e"], [b"f"]]

    run_story(story())


# ------------------------------------------------------------------------------------------ sending


def test_dealer_and_req_both_get_their_replies() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (dealer,) = await router_and_clients(context, 1)
            req: Socket = context.socket(zmq.REQ)
            req.connect(sockets.bound_address(router))
            sender = RouterSender(router)
            dealer.send_multipart([b"d", b"kv", b"batch"])
            req.send_multipart([b"r", b"kv", b"batch"])
            received = Received(router)
            await received.until(2)
            for identity, frames in received.messages:
                message = split_client(frames)
                assert sender.reply(identity, message.delimited, message.correlation, b"reply")
            await until(lambda: dealer.poll(0) and req.poll(0))
            assert dealer.recv_multipart() == [b"d", b"reply"]
            assert req.recv_multipart() == [b"r", b"reply"]
            assert (sender.sent, sender.gone, sender.full) == (2, 0, 0)

    run_story(story())


def test_a_reply_to_a_client_that_has_gone_is_known_to_be_lost() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            sender = RouterSender(router)
            client.send(b"question")
            received = Received(router)
            await received.until(1)
            identity = received.messages[0][0]
            client.close()
            await until(lambda: not sender.frame(identity, b"answer"))
            assert not sender.reply(identity, True, b"c", b"answer")
            assert sender.gone == 2
            assert not sender.frame(b"never seen", b"answer")

    run_story(story())


def test_a_client_that_does_not_read_loses_its_own_replies_only() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router = sockets.client_router(context)
            router.set(zmq.SNDHWM, 2)
            router.set(zmq.SNDBUF, 4_096)
            address = await sockets.bind(router, ANY)
            clients = []
            for name in (b"deaf", b"listens"):
                client: Socket = context.socket(zmq.DEALER)
                client.set(zmq.RCVHWM, 2)
                client.set(zmq.RCVBUF, 4_096)
                client.connect(address)
                client.send(name)
                clients.append(client)
            received = Received(router)
            await received.until(2)
            identities = {frames[0]: identity for identity, frames in received.messages}
            sender = RouterSender(router)
            while sender.reply(identities[b"deaf"], False, b"c", b"x" * 1_000_000):
                pass
            assert sender.full == 1
            assert sender.reply(identities[b"listens"], False, b"c", b"small")
            await until(lambda: clients[1].poll(0))
            assert clients[1].recv_multipart() == [b"c", b"small"]

    run_story(story())


def test_a_claimed_identity_does_not_take_over_the_replies_of_another() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, _ = await router_and_clients(context, 0)
            received = Received(router)
            sender = RouterSender(router)
            twins = []
            for name in (b"first", b"second"):
                client: Socket = context.socket(zmq.DEALER)
                client.set(zmq.ROUTING_ID, b"claimed")
                client.connect(sockets.bound_address(router))
                client.send(name)
                twins.append(client)
                await turns(20)
                received.drain()
            assert received.messages == [(b"claimed", [b"first"])]
            assert sender.frame(b"claimed", b"secret")
            await until(lambda: twins[0].poll(0))
            assert not twins[1].poll(0)

    run_story(story())


def test_a_dealer_without_a_connection_refuses_instead_of_queueing_for_nobody() -> None:
    with FreshContext() as context:
        dealer = sockets.peer_dealer(context)
        dealer.connect("tcp://127.0.0.1:1")
        assert not sockets.try_send(sockets.bind_send(dealer), b"x")


def test_a_subscriber_hears_its_topics() -> None:
    async def story() -> None:
        with FreshContext() as context:
            events = sockets.events_pub(context)
            address = await sockets.bind(events, ANY)
            subscriber: Socket = context.socket(zmq.SUB)
            subscriber.set(zmq.SUBSCRIBE, b"group/kv/")
            subscriber.connect(address)
            send = sockets.bind_send(events)

            def heard() -> int:
                sockets.publish(send, b"node/n1", b"other")
                sockets.publish(send, b"group/kv/leader", b"payload")
                return subscriber.poll(0)

            await until(heard)
            assert subscriber.recv_multipart() == [b"group/kv/leader", b"payload"]

    run_story(story())


# ---------------------------------------------------------------------------------------- strangers


def test_bytes_that_are_no_zmtp_and_frames_above_the_limit_hurt_only_their_sender() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (honest, greedy) = await router_and_clients(context, 2)
            host, port = "127.0.0.1", int(sockets.bound_address(router).rpartition(":")[2])
            for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 200, b"\xff" + b"\x7f" * 300):
                with plain.create_connection((host, port), timeout=5) as stranger:
                    stranger.sendall(noise)
            greedy.send(bytes(MESSAGE_BYTES_MAX + 1))
            await turns(20)
            honest.send(b"still served")
            assert await Received(router).until(1) == [[b"still served"]]

    run_story(story())


# ------------------------------------------------------------------------------------------ binding


def test_a_port_in_use_is_tried_again_until_it_is_free() -> None:
    async def story() -> None:
        with FreshContext() as context:
            holder = sockets.peer_router(context)
            address = await sockets.bind(holder, ANY)
            heir = sockets.peer_router(context)
            asyncio.get_running_loop().call_later(0.08, holder.close)
            assert await sockets.bind(heir, address) == address

    run_story(story())


def test_a_port_that_stays_in_use_is_named() -> None:
    async def story() -> None:
        with FreshContext() as context:
            holder = sockets.peer_router(context)
            address = await sockets.bind(holder, ANY)
            with pytest.raises(AddressInUse, match=address):
                await sockets.bind(sockets.peer_router(context), address, wait_ms=60)

    run_story(story())


def test_an_address_of_another_machine_is_refused_at_once() -> None:
    async def story() -> None:
        with FreshContext() as context:
            for address in ("tcp://203.0.113.9:7001", "nonsense"):
                with pytest.raises(BindRefused, match=address):
                    await sockets.bind(sockets.peer_router(context), address)

    run_story(story())


# ----------------------------------------------------------------------------------------- watching


class Watched:
    """A watched ROUTER that counts its turns."""

    def __init__(self, router: Socket, budget: int) -> None:
        self.received = Received(router)
        self.calls = 0
        self.budget = budget
        self.watcher = SocketWatcher(asyncio.get_running_loop(), router, self.on_ready)

    def on_ready(self) -> bool:
        self.calls += 1
        return self.received.drain(self.budget)


@pytest.mark.parametrize("run", RUNNERS, ids=RUNNER_NAMES)
def test_nothing_is_left_behind_by_a_budget_or_before_the_first_look(
    run: Callable[[Any], None],
) -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            for number in range(100):
                client.send(b"%d" % number)
            await until(lambda: int(router.get(zmq.EVENTS)) & zmq.POLLIN)  # eats the edge
            watched = Watched(router, 7)
            await until(lambda: len(watched.received.messages) == 100)
            assert watched.calls >= 100 // 7
            client.send(b"later")
            await until(lambda: len(watched.received.messages) == 101)
            watched.watcher.close()
            client.send(b"unheard")
            await turns(10)
            assert len(watched.received.messages) == 101

    run(story())


@pytest.mark.parametrize("run", RUNNERS, ids=RUNNER_NAMES)
def test_the_edge_that_a_send_has_eaten_is_found_again(run: Callable[[Any], None]) -> None:
    async def story() -> None:
        with FreshContext() as context:
            router, (client,) = await router_and_clients(context, 1)
            watched = Watched(router, 100)
            client.send(b"first")
            await until(lambda: len(watched.received.messages) == 1)
            identity = watched.received.messages[0][0]
            sender = RouterSender(router)

            # A message arrives while this side is busy, and sending makes libzmq notice it: the
            # descriptor is quiet again, although the message was not read.
            client.send(b"second")
            descriptor = int(router.get(zmq.FD))
            with selectors.DefaultSelector() as selector:
                selector.register(os.dup(descriptor), selectors.EVENT_READ)
                assert selector.select(5)
                while not int(router.get(zmq.EVENTS)) & zmq.POLLIN:
                    sender.frame(identity, b"busy")
                assert not selector.select(0)
            await turns(10)
            assert len(watched.received.messages) == 1

            watched.watcher.after_send()
            await until(lambda: len(watched.received.messages) == 2)
            watched.watcher.close()
            watched.watcher.close()  # twice is once

    run(story())
