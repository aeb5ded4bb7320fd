"""Both front ends against faked nodes over real loopback sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import uvloop

from tests.transport.client.fake_node import Answer, FakeNode, KVMachine, each, reply, whole
from transport import polyraft_pb2 as pb
from transport.client import (
    AsyncClient,
    Client,
    ClientClosed,
    KVEntry,
    NoLeader,
    OutcomeUnknown,
    Rejected,
    Unreachable,
)
from transport.client.blocking import LoopThread

T = TypeVar("T")
WAITED_S = 9.0  # a call that waits for its deadline takes ten
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run[Any]:
    """Run a coroutine on either loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run_it(story: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(story, 60))

    return run_it


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A node with a kv group."""
    with FakeNode(KVMachine()) as it:
        yield it


def silence(group: str, batch: pb.RequestBatch) -> Answer:
    """Never answers."""
    return None


def test_kv_over_asyncio(node: FakeNode, run: Run[None]) -> None:
    async def story() -> None:
        async with AsyncClient(node.address) as client:
            kv = client.kv("kv")
            assert await kv.put("a", b"1") == 1
            assert await kv.get("a") == KVEntry(b"1", 1)
            assert await kv.get("b") is None
            assert await kv.cas("a", b"1", b"2") == 2
            with pytest.raises(Rejected, match="differs") as caught:
                await kv.cas("a", b"1", b"3")
            assert (caught.value.index, caught.value.definite) == (3, True)
            assert await kv.add("n", 5) == 5
            assert await kv.add("n", 2) == 7
            await kv.delete("n")
            assert await kv.size() == 1
            assert await kv.range() == [("a", KVEntry(b"2", 2))]

    run(story())


def test_kv_over_threads(node: FakeNode) -> None:
    with Client(node.address) as client:
        kv = client.kv("kv")
        assert kv.put("a", b"1") == 1
        assert kv.get("a") == KVEntry(b"1", 1)
        assert kv.cas("a", b"1", b"2") == 2
        with pytest.raises(Rejected):
            kv.cas("a", b"1", b"3")
        assert kv.add("n", 5) == 5
        kv.delete("n")
        assert kv.size() == 1
        assert kv.range("a", "b", limit=5) == [("a", KVEntry(b"2", 2))]


def test_calls_gathered_in_one_turn_are_one_message(node: FakeNode, run: Run[None]) -> None:
    async def story() -> None:
        async with AsyncClient(node.address) as client:
            results = await asyncio.gather(
                *(client.write("kv", "PUT", f"k{number}", b"v") for number in range(200))
            )
            assert [result.index for result in results] == list(range(1, 201))

    run(story())
    assert [len(batch.requests) for _, batch in node.messages] == [200]


def test_many_calls_of_many_turns_are_all_answered(node: FakeNode, run: Run[None]) -> None:
    async def caller(client: AsyncClient, name: str) -> None:
        for number in range(50):
            await client.write("kv", "PUT", f"{name}/{number}", b"v")

    async def story() -> None:
        async with AsyncClient(node.address) as client:
            await asyncio.gather(*(caller(client, f"c{number}") for number in range(40)))
            assert (await client.kv("kv").size()) == 2_000
            assert client.statistics()["pending_calls"] == 0

    run(story())
    assert len(node.messages) < 1_000, "coalesced"


def test_threads_share_a_client(node: FakeNode) -> None:
    with Client(node.address) as client:

        def caller(name: str) -> None:
            for number in range(30):
                client.write("kv", "PUT", f"{name}/{number}", b"v")

        threads = [threading.Thread(target=caller, args=(f"t{it}",)) for it in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.kv("kv").size() == 240
        assert client.statistics()["pending_calls"] == 0


def test_the_first_node_is_dead_and_the_second_answers(node: FakeNode, run: Run[None]) -> None:
    with FakeNode(silence) as dead:
        dead_address = dead.address

    async def story() -> None:
        async with AsyncClient([dead_address, node.address]) as client:
            start = time.monotonic()
            await client.write("kv", "PUT", "a", b"1")
            assert time.monotonic() - start < WAITED_S, "a refused connection is known at once"

    run(story())


def test_no_node_at_all_is_a_definite_failure(run: Run[None]) -> None:
    with FakeNode(silence) as dead:
        dead_address = dead.address

    async def story() -> None:
        async with AsyncClient(dead_address, timeout_ms=300) as client:
            with pytest.raises(Unreachable) as caught:
                await client.write("kv", "PUT", "a", b"1")
            assert caught.value.definite

    run(story())


def test_a_node_that_dies_leaves_its_writes_unknown_at_once_and_moves_its_reads(
    run: Run[None],
) -> None:
    async def story(dying: FakeNode, other: FakeNode) -> None:
        async with AsyncClient([dying.address, other.address]) as client:
            write = asyncio.create_task(client.write("kv", "PUT", "a", b"1"))
            read = asyncio.create_task(client.kv("kv").get("a"))
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, dying.wait_messages, 2)
            start = time.monotonic()
            await loop.run_in_executor(None, dying.stop)
            with pytest.raises(OutcomeUnknown) as caught:
                await write
            assert not caught.value.definite
            assert await read is None
            assert time.monotonic() - start < WAITED_S

    with FakeNode(silence) as dying, FakeNode(KVMachine()) as other:
        run(story(dying, other))
        assert len(other.messages) == 1


def test_a_node_that_comes_back_is_used_again(node: FakeNode, run: Run[None]) -> None:
    async def story() -> None:
        async with AsyncClient(node.address) as client:
            await client.write("kv", "PUT", "a", b"1")
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, node.stop)
            later = asyncio.create_task(client.kv("kv").get("a"))
            await loop.run_in_executor(None, node.start)
            assert await later == KVEntry(b"1", 1)

    run(story())


def test_a_named_leader_is_found_and_kept(run: Run[None]) -> None:
    async def story(follower: FakeNode) -> None:
        async with AsyncClient(follower.address) as client:
            for _ in range(3):
                await client.write("kv", "PUT", "a", b"1")

    with FakeNode(KVMachine()) as leader:
        refusal = reply(pb.NO_LEADER, leader_address=leader.address)
        with FakeNode(lambda group, batch: whole(refusal)) as follower:
            run(story(follower))
            assert (len(follower.messages), len(leader.messages)) == (1, 3)


def test_no_leader_is_waited_for_until_the_deadline(run: Run[None]) -> None:
    async def story(node: FakeNode) -> None:
        async with AsyncClient(node.address, timeout_ms=600) as client:
            with pytest.raises(NoLeader, match="electing"):
                await client.write("kv", "PUT", "a", b"1")

    refusal = reply(pb.NO_LEADER, text="electing", retry_after_ms=20)
    with FakeNode(lambda group, batch: whole(refusal)) as node:
        run(story(node))
        assert 2 <= len(node.messages) <= 20


def test_an_address_that_cannot_be_connected_to_is_passed_over(
    node: FakeNode, run: Run[None]
) -> None:
    async def story() -> None:
        async with AsyncClient(["tcp://127.0.0.1:99999", node.address]) as client:
            await client.write("kv", "PUT", "a", b"1")

    run(story())


def test_a_closed_client_ends_what_waits(run: Run[None]) -> None:
    async def story(node: FakeNode) -> None:
        client = AsyncClient(node.address)
        write = asyncio.create_task(client.write("kv", "PUT", "a", b"1"))
        await asyncio.get_running_loop().run_in_executor(None, node.wait_messages, 1)
        await client.close()
        with pytest.raises(OutcomeUnknown):
            await write
        with pytest.raises(ClientClosed):
            await client.write("kv", "PUT", "a", b"1")
        await client.close()

    with FakeNode(silence) as node:
        run(story(node))


def test_a_cancelled_call_does_not_disturb_the_others(node: FakeNode, run: Run[None]) -> None:
    async def story() -> None:
        async with AsyncClient(node.address) as client:
            await client.write("kv", "PUT", "a", b"1")
            given_up = asyncio.create_task(client.write("kv", "PUT", "b", b"2"))
            kept: Awaitable[Any] = asyncio.create_task(client.write("kv", "PUT", "c", b"3"))
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(turn.set_result, None)
            await turn
            given_up.cancel()
            assert (await kept).index == 3

    run(story())


def test_a_blocking_client_that_is_closed_ends_waiting_threads() -> None:
    caught: list[BaseException] = []

    def caller(client: Client) -> None:
        try:
            client.write("kv", "PUT", "a", b"1")
        except OutcomeUnknown as error:
            caught.append(error)

    with FakeNode(silence) as node:
        client = Client(node.address)
        thread = threading.Thread(target=caller, args=(client,))
        thread.start()
        node.wait_messages(1)
        client.close()
        thread.join()
    assert len(caught) == 1
    with pytest.raises(ClientClosed):
        client.write("kv", "PUT", "a", b"1")
    client.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_the_clients_own_thread_ends_waiting_calls_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object) -> None:
        raise AssertionError("a fault of our own")

    monkeypatch.setattr(LoopThread, "_start", broken)
    with FakeNode(KVMachine()) as node, Client(node.address) as client:
        with pytest.raises(OutcomeUnknown, match="thread has ended") as caught:
            client.write("kv", "PUT", "a", b"1")
        assert isinstance(caught.value.__cause__, AssertionError)
        with pytest.raises(ClientClosed):
            client.write("kv", "PUT", "a", b"1")


class LosesAnswers:
    """Applies every write once per (session, sequence), but loses its first answer."""

    def __init__(self) -> None:
        self.applied: dict[tuple[int, int], int] = {}
        self.acknowledged: list[int] = []

    def __call__(self, group: str, batch: pb.RequestBatch) -> Answer:
        request = batch.requests[0]
        if request.WhichOneof("body") != "write":
            return each(reply(session=request.session or 77))
        mark = (request.session, request.sequence)
        self.acknowledged.append(request.acknowledged)
        if mark not in self.applied:
            self.applied[mark] = len(self.applied) + 1
            return whole(reply(pb.UNAVAILABLE, maybe=True))
        return each(reply(index=self.applied[mark]))


def test_a_session_writes_exactly_once_over_lost_answers(run: Run[None]) -> None:
    machine = LosesAnswers()

    async def story(node: FakeNode) -> None:
        async with AsyncClient(node.address) as client:
            session = await client.open_session("kv")
            assert session.id == 77
            for number in (1, 2, 3):
                assert (await session.write("ADD", "n", b"\x01")).index == number
            await session.renew()
            await session.close()

    with FakeNode(machine) as node:
        run(story(node))
    assert machine.applied == {(77, 1): 1, (77, 2): 2, (77, 3): 3}
    assert machine.acknowledged == [0, 0, 1, 1, 2, 2]


def test_a_blocking_session_writes_exactly_once_over_lost_answers() -> None:
    machine = LosesAnswers()
    with FakeNode(machine) as node, Client(node.address) as client:
        session = client.open_session("kv")
        assert [session.write("ADD", "n", b"\x01").index for _ in range(3)] == [1, 2, 3]
        session.renew()
        session.close()
    assert len(machine.applied) == 3


def test_admin_answers_are_dicts(run: Run[None]) -> None:
    machine = KVMachine()
    machine.admin = {"status": b'{"node": "n1"}'}

    async def story(node: FakeNode) -> None:
        async with AsyncClient(node.address) as client:
            assert await client.admin("", "status") == {"node": "n1"}
            assert await client.admin("", "status", address=node.address) == {"node": "n1"}

    with FakeNode(machine) as node:
        run(story(node))
        with Client(node.address) as client:
            assert client.admin("", "status") == {"node": "n1"}
