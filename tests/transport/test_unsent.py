"""Replies that libzmq holds for who does not read them, in bytes."""

from __future__ import annotations

import zmq

from tests.transport.helpers import FreshContext, run_story, until
from transport.sockets import RouterSender, client_router
from transport.unsent import CLIENTS_SWEPT_MIN, TRACKED_BYTES_MIN, Unsent

MIB = 1 << 20


def test_a_client_that_does_not_read_has_room_for_so_many_bytes_and_gets_it_back() -> None:
    unsent = Unsent(10)
    assert unsent.has_room(b"a", 100), "the first reply is never too large"
    frames = [unsent.track(b"a", b"12345"), unsent.track(b"a", b"12345")]
    assert not unsent.has_room(b"a", 1)
    assert unsent.has_room(b"b", 10), "another client has its own"

    async def story() -> None:
        frames.clear()
        await until(lambda: unsent.has_room(b"a", 10))
        assert len(unsent) == 0, "nothing is remembered of who holds nothing"

    run_story(story())


def test_clients_that_left_are_forgotten() -> None:
    unsent = Unsent()
    kept = [unsent.track(b"kept", b"12345")]
    for number in range(CLIENTS_SWEPT_MIN - 1):
        unsent.track(b"%d" % number, b"12345")
    last = len(unsent)
    assert last == CLIENTS_SWEPT_MIN

    async def story() -> None:
        number = 0

        def is_swept() -> bool:
            nonlocal number
            number += 1
            unsent.track(b"more%d" % number, b"12345")
            return len(unsent) < last

        await until(is_swept)
        assert not unsent.has_room(b"kept", 64 * MIB)

    run_story(story())
    kept.clear()


def test_large_replies_beyond_the_bound_are_dropped_and_small_ones_are_not() -> None:
    async def story() -> None:
        with FreshContext() as context:
            router = client_router(context)
            port = router.bind_to_random_port("tcp://127.0.0.1")
            deaf = context.socket(zmq.DEALER)
            deaf.setsockopt(zmq.RCVHWM, 1)
            deaf.connect(f"tcp://127.0.0.1:{port}")
            deaf.send(b"hello")
            await until(lambda: router.getsockopt(zmq.EVENTS))
            identity = router.recv_multipart()[0]
            sender = RouterSender(router)
            sent = 0
            while sender.reply(identity, False, b"c", bytes(4 * MIB)):
                sent += 1
                assert sent < 40, "nothing bounds what waits for a client"
            assert sent >= 16
            assert (sender.full, sender.gone) == (1, 0)
            assert sender.reply(identity, False, b"c", bytes(TRACKED_BYTES_MIN - 1))

            def reads() -> bool:
                while int(deaf.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                    deaf.recv_multipart()
                return sender.reply(identity, True, b"c", bytes(4 * MIB))

            await until(reads)
            deaf.close()
            router.close()

    run_story(story())
