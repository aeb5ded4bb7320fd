"""Links between nodes: when they are up, what waits, what is dropped, and who is believed."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from typing import Any

import pytest
import zmq

from tests.transport.helpers import RUNNER_NAMES, RUNNERS, FreshContext, run_story, turns, until
from transport import frames, peers, sockets
from transport.frames import (
    LANE_BULK,
    LANE_CONTROL,
    PEER_FORWARD,
    PEER_HELLO,
    PEER_RAFT,
    Endpoint,
    Hello,
    PeerFrame,
    PeerFrameParser,
    PeerHeader,
)
from transport.monitors import DISCONNECTED, HANDSHAKE_SUCCEEDED
from transport.peers import CONNECTING, DOWN, UP, PeerLink
from transport.sockets import Context, RouterSender, Socket, SocketWatcher

CLUSTER = b"c" * 16
N1 = Endpoint(CLUSTER, "n1", 11, 111)
N2 = Endpoint(CLUSTER, "n2", 22, 222)
FORMED = Hello(True, b"", "tcp://c:1", "tcp://p:1", "tcp://e:1", 1, 1, [])
BLANK = FORMED._replace(formed=False)


class Node:
    """The other node's ROUTER: answers HELLO as told, keeps the rest."""

    def __init__(self, context: Context, me: Endpoint = N2) -> None:
        self.me = me
        self.hello = FORMED
        self.answers = True
        self.reads = True
        self.frames: list[PeerFrame] = []
        self.questions: list[tuple[bytes, PeerHeader]] = []
        self.router: Socket = sockets.peer_router(context)
        self.sender = RouterSender(self.router)
        self.parser = PeerFrameParser()
        self.watcher: SocketWatcher | None = None

    async def bind(self, address: str = "tcp://127.0.0.1:*") -> str:
        bound = await sockets.bind(self.router, address)
        loop = asyncio.get_running_loop()
        self.watcher = SocketWatcher(loop, self.router, self.on_ready)
        return bound

    def on_ready(self) -> bool:
        return self.reads and sockets.drain(self.router, self.on_message)

    def on_message(self, identity: bytes, parts: list[bytes]) -> None:
        frame = self.parser.parse(parts[0])
        if frame.kind != PEER_HELLO:
            self.frames.append(frame)
            return
        self.questions.append((identity, frame.header))
        if self.answers:
            self.say_hello(identity, frame.header)
        assert self.watcher is not None
        self.watcher.after_send()

    def say_hello(self, identity: bytes, header: PeerHeader) -> None:
        self.sender.frame(
            identity,
            frames.pack_hello_frame(self.me, header.sender, header.sender_incarnation, self.hello),
        )

    def resume(self) -> None:
        self.reads = True
        assert self.watcher is not None
        self.watcher.again()

    def close(self) -> None:
        assert self.watcher is not None
        self.watcher.close()
        self.router.close()


class Near:
    """This node's link, with everything that it told."""

    def __init__(self, context: Context, address: str, me: Endpoint = N1, **more: Any) -> None:
        self.told: list[Any] = []
        self.hellos: list[tuple[PeerHeader, Hello]] = []
        self.link = PeerLink(
            context,
            asyncio.get_running_loop(),
            me=me,
            node="n2",
            address=address,
            make_hello=lambda: FORMED if me.cluster else BLANK,
            on_up=lambda link: self.told.append((UP, link.remote_incarnation, link.remote_epoch)),
            on_down=lambda _, reason: self.told.append((DOWN, reason)),
            on_hello=lambda _, header, hello: self.hellos.append((header, hello)),
            **more,
        )
        self.link.start()

    async def until_up(self) -> None:
        await until(lambda: self.link.state == UP)


@pytest.mark.parametrize("run", RUNNERS, ids=RUNNER_NAMES)
def test_a_link_is_up_when_hello_is_answered_and_carries_both_lanes(
    run: Callable[[Any], None],
) -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            assert near.link.state == CONNECTING
            await near.until_up()
            assert near.told == [(UP, 22, 222)]
            assert near.hellos == [(PeerHeader(*N2, "n1", 11), FORMED)]
            assert node.questions[0][1] == PeerHeader(*N1, "n2", 0)

            assert near.link.send(LANE_CONTROL, PEER_RAFT, b"vote")
            assert near.link.send(LANE_BULK, PEER_FORWARD, b"batch")
            await until(lambda: len(node.frames) == 2)
            assert {(f.kind, bytes(f.body)) for f in node.frames} == {
                (PEER_RAFT, b"vote"),
                (PEER_FORWARD, b"batch"),
            }
            assert node.frames[0].header == PeerHeader(*N1, "n2", 22)
            assert near.link.status()["lanes"][LANE_BULK]["sent"] == 1
            near.link.close()
            near.link.close()
            assert near.told[1:] == [(DOWN, "closed")]
            assert not near.link.send(LANE_CONTROL, PEER_RAFT, b"late")

    run(story())


def test_what_is_sent_while_nobody_is_there_is_dropped_and_counted() -> None:
    async def story() -> None:
        with FreshContext() as context:
            near = Near(context, "tcp://127.0.0.1:1")
            assert not near.link.send(LANE_CONTROL, PEER_RAFT, b"x")
            await turns(10)
            assert near.link.state == CONNECTING
            assert near.link.counts["dropped_not_up"] == 1
            assert near.told == []
            near.link.close()

    run_story(story())


def test_hello_is_asked_again_with_growing_pauses_until_it_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "HELLO_RETRY_MS", 5)
    monkeypatch.setattr(peers, "HELLO_RETRY_MAX_MS", 20)

    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            node.answers = False
            near = Near(context, await node.bind())
            await until(lambda: len(node.questions) >= 4)
            assert near.link._retry_ms == 20
            assert near.link.state == CONNECTING
            node.answers = True
            await near.until_up()
            asked = near.link.counts["hello_sent"]
            await turns(20)
            assert near.link.counts["hello_sent"] == asked
            near.link.close()

    run_story(story())


@pytest.mark.parametrize("run", RUNNERS, ids=RUNNER_NAMES)
def test_a_node_that_restarts_is_down_and_then_up_with_its_new_epoch(
    run: Callable[[Any], None],
) -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            address = await node.bind()
            near = Near(context, address)
            await near.until_up()
            node.close()
            await until(lambda: near.told[-1] == (DOWN, "disconnected"))
            assert not near.link.send(LANE_CONTROL, PEER_RAFT, b"x")
            node = Node(context, N2._replace(epoch=333))
            await node.bind(address)
            await near.until_up()
            assert near.told[-1] == (UP, 22, 333)
            near.link.close()

    run(story())


def test_pitfall_55_only_the_expected_node_of_this_cluster_is_believed() -> None:
    stories: list[tuple[str, Endpoint, Hello, PeerHeader | None]] = [
        ("wrong_node", N2._replace(node="n3"), FORMED, None),
        ("wrong_incarnation", N2._replace(incarnation=23), FORMED, None),
        ("wrong_cluster", N2._replace(cluster=b"d" * 16), FORMED, None),
        ("not_formed", N2._replace(cluster=b""), BLANK, None),
        ("wrong_receiver", N2, FORMED, PeerHeader(*N1._replace(node="n9"), "n2", 22)),
        ("wrong_receiver", N2, FORMED, PeerHeader(*N1._replace(incarnation=12), "n2", 22)),
    ]

    async def story(count: str, me: Endpoint, hello: Hello, to: PeerHeader | None) -> None:
        with FreshContext() as context:
            node = Node(context, me)
            node.hello = hello
            node.answers = to is None
            near = Near(context, await node.bind(), incarnation=22)
            if to is not None:
                await until(lambda: node.questions)
                node.say_hello(node.questions[0][0], to)
            await until(lambda: near.link.counts[count])
            assert near.link.state == CONNECTING
            assert near.told == []
            assert len(near.hellos) >= 1  # told nevertheless: who forms a cluster must know
            near.link.close()

    for one in stories:
        run_story(story(*one))


def test_a_blank_node_hears_the_answers_and_comes_up_when_it_has_joined() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind(), me=N1._replace(cluster=b""))
            await until(lambda: near.hellos)
            header, hello = near.hellos[0]
            assert hello.formed
            assert near.link.state == CONNECTING
            near.link.set_endpoint(N1._replace(cluster=header.cluster))
            await near.until_up()
            near.link.send(LANE_CONTROL, PEER_RAFT, b"x")
            await until(lambda: node.frames)
            assert node.frames[0].header.cluster == CLUSTER
            near.link.close()

    run_story(story())


def test_a_hello_that_was_not_asked_for_tells_of_another_life() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            await near.until_up()
            identity, header = node.questions[0]
            near.link._ask()  # the same answer again changes nothing
            await until(lambda: len(near.hellos) == 2)
            assert len(near.told) == 1
            assert near.link._retry is None
            node.me = N2._replace(epoch=333)
            node.say_hello(identity, header)
            await until(lambda: len(near.told) == 3)
            assert near.told[1:] == [(DOWN, "restarted"), (UP, 22, 333)]

            node.me = N2._replace(cluster=b"d" * 16)
            node.say_hello(identity, header)
            await until(lambda: near.link.state == CONNECTING)
            assert near.told[3:] == [(DOWN, "wrong_cluster")]
            near.link.close()

    run_story(story())


def test_another_incarnation_is_expected_from_now_on() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            await near.until_up()
            near.link.expect(22)
            assert near.link.state == UP
            near.link.expect(23)
            assert near.told[-1] == (DOWN, "another incarnation is expected")
            node.me = N2._replace(incarnation=23)
            await near.until_up()
            assert near.link.remote_incarnation == 23
            near.link.close()

    run_story(story())


def test_anything_but_hello_that_comes_back_is_counted_and_dropped() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            await near.until_up()
            identity, _ = node.questions[0]
            to = PeerHeader(*N2, "n1", 11)
            node.sender.frame(identity, b"noise")
            node.sender.frame(identity, frames.pack_peer_frame(PEER_RAFT, to, b""))
            node.sender.frame(identity, frames.pack_peer_frame(PEER_HELLO, to, b"\x90"))
            node.router.send_multipart([identity, b"two", b"parts"])
            await until(lambda: near.link.counts["malformed"] == 4)
            assert near.link.state == UP
            near.link.close()

    run_story(story())


def test_a_node_that_does_not_read_fills_its_queue_in_bytes_and_delays_no_control() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind(), bulk_queue_bytes_max=3_000_000)
            await near.until_up()
            node.reads = False
            sent = 0
            while near.link.send(LANE_BULK, PEER_RAFT, b"%06d" % sent + bytes(1_000_000)):
                sent += 1
                assert sent < 10_000
                if not sent % 16:
                    await turns(1)
            assert near.link.counts["dropped_full"] == 1
            waiting = near.link.status()["lanes"][LANE_BULK]["queue_bytes"]
            assert 1_000_000 < waiting <= 3_000_000
            assert near.link.send(LANE_CONTROL, PEER_RAFT, b"heartbeat")
            assert near.link.status()["lanes"][LANE_CONTROL]["queue_bytes"] == 0

            node.resume()
            await until(lambda: len(node.frames) == sent + 1)
            bodies = [bytes(frame.body[:6]) for frame in node.frames]
            bodies.remove(b"heartb")
            assert bodies == [b"%06d" % number for number in range(sent)]
            near.link.close()

    run_story(story())


def test_what_waits_goes_on_when_there_is_room_though_nobody_sends_any_more() -> None:
    """The news of room can be eaten by the look that follows a send; then none would ever come."""

    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            await near.until_up()
            lane = near.link._lanes[LANE_BULK]
            sent = 0
            while not lane.queue_bytes:
                assert near.link.send(LANE_BULK, PEER_RAFT, b"%06d" % sent + bytes(2_000))
                sent += 1
            poll = select.poll()
            poll.register(int(lane.socket.get(zmq.FD)), select.POLLIN)
            assert poll.poll(10_000), "the I/O thread tells of room"
            while poll.poll(50):
                lane.after_sends()
            await until(lambda: len(node.frames) == sent)
            bodies = [bytes(frame.body[:6]) for frame in node.frames]
            assert bodies == [b"%06d" % number for number in range(sent)]
            near.link.close()

    run_story(story())


def no_room(data: object, flags: int) -> None:
    raise zmq.Again


def test_what_waits_when_the_link_goes_down_is_dropped_and_counted() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            await near.until_up()
            lane = near.link._lanes[LANE_BULK]
            lane._send = no_room
            assert near.link.send(LANE_BULK, PEER_RAFT, b"waits")
            assert near.link.send(LANE_BULK, PEER_RAFT, b"behind it")
            assert len(lane._queue) == 2  # nothing overtakes within a lane
            node.close()
            await until(lambda: near.told[-1] == (DOWN, "disconnected"))
            assert near.link.counts["dropped_down"] == 2
            assert not lane._queue
            near.link.close()

    run_story(story())


def test_a_node_that_moved_is_found_at_its_new_address() -> None:
    async def story() -> None:
        with FreshContext() as context:
            old, new = Node(context), Node(context)
            near = Near(context, await old.bind())
            await near.until_up()
            near.link.set_address(near.link.address)
            assert len(near.told) == 1
            near.link.set_address(await new.bind())
            await near.until_up()
            assert near.told == [(UP, 22, 222), (DOWN, "closed"), (UP, 22, 222)]
            assert len(new.questions) == 1
            near.link.close()

    run_story(story())


def test_a_hello_that_tells_of_a_new_address_does_not_count_for_it() -> None:
    async def story() -> None:
        with FreshContext() as context:
            old, new = Node(context), Node(context)
            new.answers = False
            moved_to = await new.bind()
            near = Near(context, await old.bind())
            near.link._on_hello = lambda link, *_: link.set_address(moved_to)
            await until(lambda: new.questions)
            assert near.link.state == CONNECTING
            near.link._on_hello = None
            new.say_hello(*new.questions[0])
            await near.until_up()
            assert near.told == [(UP, 22, 222)]
            near.link.close()

    run_story(story())


def test_a_closed_link_tells_nothing_of_what_was_already_received() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            node.answers = False
            near = Near(context, await node.bind())
            await until(lambda: node.questions)
            for _ in range(3):
                node.say_hello(*node.questions[0])
            lane = near.link._lanes[LANE_CONTROL]
            lane.socket.poll(5_000)
            heard: list[Hello] = []

            def on_hello(link: PeerLink, _: PeerHeader, hello: Hello) -> None:
                heard.append(hello)
                link.close()

            near.link._on_hello = on_hello
            await until(lambda: heard)
            await turns(5)
            assert len(heard) == 1
            assert near.told == []

    run_story(story())


def test_a_callback_may_close_the_link() -> None:
    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            near.link._on_hello = lambda link, *_: link.close()
            await until(lambda: near.link.state == DOWN)
            assert near.told == []

            near = Near(context, near.link.address)
            await near.until_up()
            near.link._on_down = lambda link, _: link.close()
            node.me = N2._replace(epoch=333)
            node.say_hello(*node.questions[-1])
            await until(lambda: near.link.state == DOWN)
            assert near.told == [(UP, 22, 222)]
            await turns(5)

    run_story(story())


def test_a_socket_can_be_prepared_before_it_connects() -> None:
    async def story() -> None:
        with FreshContext() as context:
            prepared: list[int] = []

            def prepare(socket: Socket) -> None:
                prepared.append(int(socket.get(zmq.TYPE)))

            near = Near(context, "tcp://127.0.0.1:1", prepare=prepare)
            assert prepared == [zmq.DEALER, zmq.DEALER]
            near.link.close()

    run_story(story())


def test_nothing_is_sent_between_the_news_of_a_lost_connection_and_the_next_handshake() -> None:
    """libzmq still takes a message into the pipe of the connection that has ended, and loses it."""

    async def story() -> None:
        with FreshContext() as context:
            node = Node(context)
            near = Near(context, await node.bind())
            await near.until_up()
            lane = near.link._lanes[LANE_BULK]
            await until(lambda: near.link.carries_bulk)
            lane._on_monitor(DISCONNECTED, "")
            assert [near.link.carries_bulk] == [False]
            assert near.link.send(LANE_BULK, PEER_RAFT, b"later")
            assert (lane.sent, len(lane._queue)) == (0, 1)
            lane._on_monitor(HANDSHAKE_SUCCEEDED, "")
            await until(lambda: node.frames)
            assert near.link.carries_bulk
            near.link.close()

    run_story(story())
