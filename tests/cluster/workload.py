"""Five clients who use one group at the same time, and write down what they asked and heard.

Each client is an :class:`AsyncClient` of its own that knows all nodes, another one first. What
comes of a call goes to one of four places:

* answered, also by a refusal of the machine (REJECTED): into the history;
* **unknown**: into the history without an end;
* **refused**: a definite error. It is no operation; its command must be in no replica's log;
* a **surprise**: an error that none of the failures tested here may cause.

Every command carries a tag in its ``type`` field that no other has, and every value written is its
tag. So the logs of the replicas tell what became of each (:mod:`tests.cluster.logs`).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Final

from tests.cluster.harness import wait_until
from tests.linearizability import (
    DONE,
    REJECTED,
    UNANSWERED,
    UNKNOWN,
    Answer,
    Operation,
    State,
)
from transport.client import AsyncClient, OutcomeUnknown, PolyraftError, Rejected
from transport.client.kv import (
    decode_get,
    decode_number,
    encode_add,
    encode_cas,
    encode_get,
)

CLIENTS: Final = 5
CALL_MS: Final = 2_000
THINK_S: Final = 0.008  # at most, between two calls of a client: a history is for reading, too
OPERATIONS_MAX: Final = 30_000
STOP_S: Final = 15.0
REGISTERS: Final = ("r1", "r2", "r3")  # get, put, delete, cas
COUNTERS: Final = ("c1", "c2")  # get, add
AMOUNT_MAX: Final = 1_000_000

# What a definite error may say while processes are killed.
EXPECTED: Final = frozenset(("NO_LEADER", "BUSY", "TIMEOUT", "SHUTTING_DOWN", "UNREACHABLE"))
# And what a read may, to which nothing can have happened.
EXPECTED_OF_READS: Final = EXPECTED | {"UNAVAILABLE", "NOT_LEADER"}


class Workload:
    """Runs from ``with`` to :meth:`stop`, in a thread."""

    def __init__(
        self,
        addresses: Sequence[str],
        group: str = "kv",
        *,
        clients: int = CLIENTS,
        call_ms: int = CALL_MS,
        first_client: int = 0,
        writes: bool = True,
        also_expected: Sequence[str] = (),
    ) -> None:
        self.history: list[Operation] = []
        self.acknowledged: dict[str, int] = {}  # tag -> log index
        self.refused: dict[str, PolyraftError] = {}
        self.unknown: set[str] = set()
        self.surprises: list[str] = []
        self.under_way: dict[int, Operation] = {}  # client -> the call it waits for
        self._addresses = list(addresses)
        self._group = group
        self.clients = range(first_client, first_client + clients)
        self._call_ms = call_ms
        self._writes = writes
        self._expected = EXPECTED.union(also_expected)
        self._seen: dict[str, State] = {}  # what somebody read last, for cas
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)

    def __enter__(self) -> Workload:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(STOP_S)

    def stop(self) -> None:
        """No more calls; return when those under way have ended."""
        self._stopping.set()
        self._thread.join(STOP_S)
        waiting = [str(operation) for operation in self.under_way.values()]
        assert not self._thread.is_alive(), f"at {time.monotonic()} calls do not end: {waiting}"
        assert not self.surprises, self.surprises[:10]

    def wait_alive(self) -> None:
        """Return when whatever these clients ask for is answered again."""
        if self._writes:
            self.wait_acknowledged()
        self.wait_read()

    def wait_acknowledged(self, count: int = 30, deadline_s: float = 10.0) -> None:
        """Return when so many writes that were asked from now on are acknowledged."""
        self._wait_answered(count, deadline_s, "acknowledged writes", reads=False)

    def wait_read(self, count: int = 10, deadline_s: float = 10.0) -> None:
        """Return when so many reads that were asked from now on are answered."""
        self._wait_answered(count, deadline_s, "answered reads", reads=True)

    def _wait_answered(self, count: int, deadline_s: float, what: str, *, reads: bool) -> None:
        now, begin = time.monotonic(), len(self.history)

        def are_there() -> bool:
            assert self._thread.is_alive(), f"the clients have ended: {self.surprises[:10]}"
            found = sum(
                (each.action == "get") == reads and each.asked >= now and not each.is_unknown
                for each in self.history[begin:]
            )
            return found >= count

        wait_until(are_there, f"{count} {what}", deadline_s)

    # ------------------------------------------------------------------ the clients

    def _run(self) -> None:
        asyncio.run(self._run_all())

    async def _run_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in self.clients:
                tasks.create_task(self._run_client(number))

    async def _run_client(self, number: int) -> None:
        draw = random.Random(number)
        at = number % len(self._addresses)
        addresses = self._addresses[at:] + self._addresses[:at]
        count = 0
        async with AsyncClient(addresses, timeout_ms=self._call_ms) as client:
            while not self._stopping.is_set() and len(self.history) < OPERATIONS_MAX:
                count += 1
                operation = self._draw(draw, number, f"{number}.{count}")
                self.under_way[number] = operation
                await self._carry_out(client, operation, f"{number}.{count}")
                del self.under_way[number]
                await asyncio.sleep(draw.random() * THINK_S)

    def _draw(self, draw: random.Random, number: int, tag: str) -> Operation:
        argument: bytes | int | tuple[State, State] | None = None
        if not self._writes:
            key, action = draw.choice((*REGISTERS, *COUNTERS)), "get"
        elif draw.random() < 0.3:
            key = draw.choice(COUNTERS)
            action = draw.choice(("add", "add", "get"))
            argument = draw.randint(-AMOUNT_MAX, AMOUNT_MAX) if action == "add" else None
        else:
            key = draw.choice(REGISTERS)
            action = draw.choices(("get", "put", "cas", "delete"), (5, 5, 4, 1))[0]
            if action == "put":
                argument = tag.encode()
            elif action == "cas":
                argument = (self._seen.get(key), tag.encode())
        return Operation(number, key, action, argument, time.monotonic(), UNANSWERED, UNKNOWN)

    async def _carry_out(self, client: AsyncClient, asked: Operation, tag: str) -> None:
        answer: Answer
        try:
            if asked.action == "get":
                answer = await self._get(client, asked.key)
            else:
                answer = await self._write(client, asked, tag)
        except OutcomeUnknown:
            if asked.action != "get":
                self.unknown.add(tag)
                self.history.append(asked)
            return
        except PolyraftError as error:
            is_read = asked.action == "get"
            if error.code not in (EXPECTED_OF_READS if is_read else self._expected):
                self.surprises.append(f"{asked}: {error}")
            if not is_read:
                self.refused[tag] = error
            return
        self.history.append(
            Operation(
                asked.client, asked.key, asked.action, asked.argument,
                asked.asked, time.monotonic(), answer,
            )
        )  # fmt: skip

    async def _get(self, client: AsyncClient, key: str) -> State:
        entry = decode_get((await client.read(self._group, encode_get(key))).data)
        value = None if entry is None else entry.value
        self._seen[key] = value
        return value

    async def _write(self, client: AsyncClient, asked: Operation, tag: str) -> Answer:
        argument = asked.argument
        data = b""
        if isinstance(argument, bytes):
            data = argument
        elif isinstance(argument, tuple):
            data = encode_cas(*argument)
        elif isinstance(argument, int):
            data = encode_add(argument)
        try:
            result = await client.write(
                self._group, asked.action.upper(), asked.key, data, type=tag
            )
        except Rejected as error:
            self.acknowledged[tag] = error.index
            return REJECTED
        self.acknowledged[tag] = result.index
        return decode_number(result.data) if asked.action == "add" else DONE
