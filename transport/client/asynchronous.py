"""The asyncio client.

    async with AsyncClient("tcp://127.0.0.1:7001,tcp://127.0.0.1:7002") as client:
        await client.write("kv", "PUT", "color", b"blue")

A client belongs to the loop it is first used on. Calls made in one turn of the loop travel
together, so `asyncio.gather` over many calls is the fast way, and no batch needs to be built by
hand. Cancelling a call only stops waiting for it: a command that was sent may still be applied.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from transport.client import kv, requests, wire
from transport.client.calls import Call, ClientSettings
from transport.client.carrier import Carrier, now_ms
from transport.client.errors import ClientClosed, PolyraftError
from transport.client.requests import Prepared, ReadResult, WriteResult


def settings_for(
    settings: ClientSettings | None, timeout_ms: int | None, batch_requests_max: int | None
) -> ClientSettings:
    """The settings of a client, with the two that are most often given by themselves."""
    changes = {"timeout_ms": timeout_ms, "batch_requests_max": batch_requests_max}
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(settings or ClientSettings(), **given)


def make_call(prepared: Prepared, on_done: Callable[[wire.Outcome | PolyraftError], None]) -> Call:
    """A prepared request as a call whose time runs from now."""
    return Call(
        prepared.group,
        prepared.kind,
        prepared.request,
        deadline_ms=now_ms() + prepared.timeout_ms,
        repeatable=prepared.repeatable,
        on_done=on_done,
        address=prepared.address,
    )


class AsyncClient:
    """Calls to any group of a cluster, from coroutines of one loop."""

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        timeout_ms: int | None = None,
        batch_requests_max: int | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self._addresses = requests.parse_addresses(addresses)
        self._settings = settings_for(settings, timeout_ms, batch_requests_max)
        self._carrier: Carrier | None = None
        self._closed = False

    async def write(
        self,
        group: str,
        operation: str,
        key: str,
        data: bytes = b"",
        *,
        type: str = "",
        extend: Mapping[str, str] | None = None,
        timeout_ms: int | None = None,
    ) -> WriteResult:
        """Apply one command once, or say that this is not known (OutcomeUnknown)."""
        prepared = requests.prepare_write(
            group, operation, key, data, type_name=type, extend=extend,
            timeout_ms=self._timeout_ms(timeout_ms),
        )  # fmt: skip
        outcome = await self._call(prepared)
        return WriteResult(data=outcome.data, index=outcome.index)

    async def read(
        self,
        group: str,
        data: bytes,
        *,
        consistency: str = "linearizable",
        min_index: int = 0,
        timeout_ms: int | None = None,
    ) -> ReadResult:
        """Ask a group's machine; linearizable unless said otherwise."""
        prepared = requests.prepare_read(
            group, data, consistency=consistency, min_index=min_index,
            timeout_ms=self._timeout_ms(timeout_ms),
        )  # fmt: skip
        outcome = await self._call(prepared)
        return ReadResult(data=outcome.data, index=outcome.index)

    async def admin(
        self,
        group: str,
        command: str,
        value: str = "",
        options: Mapping[str, str] | None = None,
        *,
        address: str = "",
        timeout_ms: int | None = None,
    ) -> dict[str, Any]:
        """Ask about a group or change it; `address` fixes the node that is asked."""
        prepared = requests.prepare_admin(
            group, command, value, options=options, address=address,
            timeout_ms=self._timeout_ms(timeout_ms),
        )  # fmt: skip
        return requests.parse_admin(await self._call(prepared))

    async def open_session(self, group: str, *, timeout_ms: int | None = None) -> AsyncSession:
        """A session of this group, in which a write is applied exactly once however often sent."""
        limit_ms = self._timeout_ms(timeout_ms)
        outcome = await self._call(requests.prepare_open_session(group, 0, limit_ms))
        return AsyncSession(self, group, outcome.session)

    def kv(self, group: str) -> AsyncKV:
        """The operations of a `kv` machine."""
        return AsyncKV(self, group)

    async def close(self) -> None:
        """End the client; calls that are not answered fail."""
        self._closed = True
        if self._carrier is not None:
            self._carrier.close()

    def statistics(self) -> dict[str, int]:
        """Counts of calls, messages and links."""
        return {} if self._carrier is None else self._carrier.statistics()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _timeout_ms(self, timeout_ms: int | None) -> int:
        return self._settings.timeout_ms if timeout_ms is None else timeout_ms

    async def _call(self, prepared: Prepared) -> wire.Outcome:
        if self._closed:
            raise ClientClosed("the client is closed")
        loop = asyncio.get_running_loop()
        if self._carrier is None:
            self._carrier = Carrier(loop, self._addresses, self._settings)
        future: asyncio.Future[wire.Outcome | PolyraftError] = loop.create_future()

        def on_done(verdict: wire.Outcome | PolyraftError) -> None:
            if not future.done():
                future.set_result(verdict)

        self._carrier.submit(make_call(prepared, on_done))
        return requests.outcome_of(await future)


class AsyncSession:
    """Writes of one group that are applied exactly once, or are OutcomeUnknown at their deadline.

    A session ends 600 s of the group's time after its last write; `renew` keeps one that writes
    more seldom.
    """

    def __init__(self, client: AsyncClient, group: str, session: int) -> None:
        self._client = client
        self.group = group
        self.id = session
        self._sequences = requests.Sequences()

    async def write(
        self,
        operation: str,
        key: str,
        data: bytes = b"",
        *,
        type: str = "",
        extend: Mapping[str, str] | None = None,
        timeout_ms: int | None = None,
    ) -> WriteResult:
        """Like AsyncClient.write, and repeated after lost answers until the deadline."""
        mark = self._sequences.start(self.id)
        try:
            prepared = requests.prepare_write(
                self.group, operation, key, data, type_name=type, extend=extend, mark=mark,
                timeout_ms=self._client._timeout_ms(timeout_ms),
            )  # fmt: skip
            outcome = await self._client._call(prepared)
        finally:
            self._sequences.end(mark)
        return WriteResult(data=outcome.data, index=outcome.index)

    async def renew(self, *, timeout_ms: int | None = None) -> None:
        """Let the session's time begin anew."""
        limit_ms = self._client._timeout_ms(timeout_ms)
        await self._client._call(requests.prepare_open_session(self.group, self.id, limit_ms))

    async def close(self, *, timeout_ms: int | None = None) -> None:
        """End the session at the replicas; without this it expires by itself."""
        limit_ms = self._client._timeout_ms(timeout_ms)
        await self._client._call(requests.prepare_close_session(self.group, self.id, limit_ms))


class AsyncKV:
    """The operations of a `kv` group."""

    def __init__(self, client: AsyncClient, group: str) -> None:
        self._client = client
        self.group = group

    async def put(self, key: str, value: bytes) -> int:
        """Set a key; the log index of the write, which is its version."""
        return (await self._client.write(self.group, "PUT", key, value)).index

    async def get(self, key: str, *, consistency: str = "linearizable") -> kv.KVEntry | None:
        """A key's value and version, or None."""
        question = kv.encode_get(key)
        result = await self._client.read(self.group, question, consistency=consistency)
        return kv.decode_get(result.data)

    async def delete(self, key: str) -> int:
        """Remove a key; no matter whether it was there."""
        return (await self._client.write(self.group, "DELETE", key)).index

    async def cas(self, key: str, expected: bytes | None, new: bytes | None) -> int:
        """Set a key if its value is the expected one (None: absent); otherwise Rejected."""
        data = kv.encode_cas(expected, new)
        return (await self._client.write(self.group, "CAS", key, data)).index

    async def add(self, key: str, amount: int) -> int:
        """Add to a counter; its new value."""
        result = await self._client.write(self.group, "ADD", key, kv.encode_add(amount))
        return kv.decode_number(result.data)

    async def range(
        self, start: str = "", end: str | None = None, *, limit: int = kv.RANGE_LIMIT_DEFAULT
    ) -> list[tuple[str, kv.KVEntry]]:
        """Keys in [start, end) with their values, in byte order."""
        result = await self._client.read(self.group, kv.encode_range(start, end, limit))
        return kv.decode_range(result.data)

    async def size(self) -> int:
        """How many keys there are."""
        return kv.decode_number((await self._client.read(self.group, kv.encode_size())).data)
