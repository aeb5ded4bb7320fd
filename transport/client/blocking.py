"""The blocking client, for threads.

    with Client("tcp://127.0.0.1:7001") as client:
        client.write("kv", "PUT", "color", b"blue")

It is the asyncio client's engine on a loop in one thread of its own, to which callers hand their
calls and then wait. Any number of threads may share a client: what they ask at the same time
travels together. If that thread should ever end by a fault, every waiting call fails with that
fault and later ones are refused; nothing waits for ever. After a fork, make a new client in the
child.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from transport.client import kv, requests, wire
from transport.client.asynchronous import make_call, settings_for
from transport.client.calls import ClientSettings
from transport.client.carrier import Carrier
from transport.client.errors import ClientClosed, OutcomeUnknown, PolyraftError
from transport.client.requests import Prepared, ReadResult, WriteResult

Verdict = wire.Outcome | PolyraftError


class LoopThread:
    """A carrier on a loop in a thread."""

    def __init__(self, addresses: list[str], settings: ClientSettings) -> None:
        self._addresses = addresses
        self._settings = settings
        self._lock = threading.Lock()
        self._closed = False
        self._fault: BaseException | None = None
        # Calls that are not answered yet; taken out by whoever answers them.
        self._waiting: dict[Future[Verdict], None] = {}
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_fault)
        self._carrier: Carrier | None = None
        self._thread = threading.Thread(target=self._run, name="polyraft-client", daemon=True)
        self._thread.start()

    def call(self, prepared: Prepared) -> wire.Outcome:
        """Hand over a call and wait for its end."""
        future: Future[Verdict] = Future()
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed") from self._fault
            self._waiting[future] = None
            self._loop.call_soon_threadsafe(self._start, prepared, future)
        return requests.outcome_of(future.result())

    def statistics(self) -> dict[str, int]:
        """Counts of calls, messages and links."""
        return {} if self._carrier is None else self._carrier.statistics()

    def close(self) -> None:
        """End the thread; calls that are not answered fail."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._carrier = Carrier(self._loop, self._addresses, self._settings)
            self._loop.run_forever()
            self._carrier.close()
        finally:
            with self._lock:
                self._closed = True
            self._end_waiting()
            self._loop.close()

    def _start(self, prepared: Prepared, future: Future[Verdict]) -> None:
        assert self._carrier is not None
        try:
            self._carrier.submit(make_call(prepared, self._finisher(future)))
        except PolyraftError as error:
            self._finisher(future)(error)

    def _finisher(self, future: Future[Verdict]) -> Callable[[Verdict], None]:
        def finish(verdict: Verdict) -> None:
            self._waiting.pop(future, None)
            future.set_result(verdict)

        return finish

    def _on_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of our own in a callback: end, rather than go on with a broken engine."""
        fault = context.get("exception")
        self._fault = fault if isinstance(fault, BaseException) else None
        loop.default_exception_handler(context)
        loop.stop()

    def _end_waiting(self) -> None:
        for future in list(self._waiting):
            # The carrier has ended all calls it knew, unless it is itself what broke.
            error: PolyraftError = ClientClosed("the client was closed")
            if self._fault is not None:
                error = OutcomeUnknown("the client's thread has ended", code="INTERNAL")
                error.__cause__ = self._fault
            self._waiting.pop(future, None)
            future.set_result(error)


class Client:
    """Calls to any group of a cluster, from any thread."""

    def __init__(
        self,
        addresses: str | Sequence[str],
        *,
        timeout_ms: int | None = None,
        batch_requests_max: int | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        self._settings = settings_for(settings, timeout_ms, batch_requests_max)
        self._thread = LoopThread(requests.parse_addresses(addresses), self._settings)

    def write(
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
        outcome = self._thread.call(prepared)
        return WriteResult(data=outcome.data, index=outcome.index)

    def read(
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
        outcome = self._thread.call(prepared)
        return ReadResult(data=outcome.data, index=outcome.index)

    def admin(
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
        return requests.parse_admin(self._thread.call(prepared))

    def open_session(self, group: str, *, timeout_ms: int | None = None) -> Session:
        """A session of this group, in which a write is applied exactly once however often sent."""
        limit_ms = self._timeout_ms(timeout_ms)
        outcome = self._thread.call(requests.prepare_open_session(group, 0, limit_ms))
        return Session(self, group, outcome.session)

    def kv(self, group: str) -> KV:
        """The operations of a `kv` machine."""
        return KV(self, group)

    def close(self) -> None:
        """End the client; calls that are not answered fail."""
        self._thread.close()

    def statistics(self) -> dict[str, int]:
        """Counts of calls, messages and links."""
        return self._thread.statistics()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _timeout_ms(self, timeout_ms: int | None) -> int:
        return self._settings.timeout_ms if timeout_ms is None else timeout_ms


class Session:
    """Writes of one group that are applied exactly once, or are OutcomeUnknown at their deadline.

    A session ends 600 s of the group's time after its last write; `renew` keeps one that writes
    more seldom. Threads may share one.
    """

    def __init__(self, client: Client, group: str, session: int) -> None:
        self._client = client
        self.group = group
        self.id = session
        self._sequences = requests.Sequences()
        self._lock = threading.Lock()

    def write(
        self,
        operation: str,
        key: str,
        data: bytes = b"",
        *,
        type: str = "",
        extend: Mapping[str, str] | None = None,
        timeout_ms: int | None = None,
    ) -> WriteResult:
        """Like Client.write, and repeated after lost answers until the deadline."""
        with self._lock:
            mark = self._sequences.start(self.id)
        try:
            prepared = requests.prepare_write(
                self.group, operation, key, data, type_name=type, extend=extend, mark=mark,
                timeout_ms=self._client._timeout_ms(timeout_ms),
            )  # fmt: skip
            outcome = self._client._thread.call(prepared)
        finally:
            with self._lock:
                self._sequences.end(mark)
        return WriteResult(data=outcome.data, index=outcome.index)

    def renew(self, *, timeout_ms: int | None = None) -> None:
        """Let the session's time begin anew."""
        limit_ms = self._client._timeout_ms(timeout_ms)
        prepared = requests.prepare_open_session(self.group, self.id, limit_ms)
        self._client._thread.call(prepared)

    def close(self, *, timeout_ms: int | None = None) -> None:
        """End the session at the replicas; without this it expires by itself."""
        limit_ms = self._client._timeout_ms(timeout_ms)
        prepared = requests.prepare_close_session(self.group, self.id, limit_ms)
        self._client._thread.call(prepared)


class KV:
    """The operations of a `kv` group."""

    def __init__(self, client: Client, group: str) -> None:
        self._client = client
        self.group = group

    def put(self, key: str, value: bytes) -> int:
        """Set a key; the log index of the write, which is its version."""
        return self._client.write(self.group, "PUT", key, value).index

    def get(self, key: str, *, consistency: str = "linearizable") -> kv.KVEntry | None:
        """A key's value and version, or None."""
        question = kv.encode_get(key)
        result = self._client.read(self.group, question, consistency=consistency)
        return kv.decode_get(result.data)

    def delete(self, key: str) -> int:
        """Remove a key; no matter whether it was there."""
        return self._client.write(self.group, "DELETE", key).index

    def cas(self, key: str, expected: bytes | None, new: bytes | None) -> int:
        """Set a key if its value is the expected one (None: absent); otherwise Rejected."""
        data = kv.encode_cas(expected, new)
        return self._client.write(self.group, "CAS", key, data).index

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; its new value."""
        result = self._client.write(self.group, "ADD", key, kv.encode_add(amount))
        return kv.decode_number(result.data)

    def range(
        self, start: str = "", end: str | None = None, *, limit: int = kv.RANGE_LIMIT_DEFAULT
    ) -> list[tuple[str, kv.KVEntry]]:
        """Keys in [start, end) with their values, in byte order."""
        result = self._client.read(self.group, kv.encode_range(start, end, limit))
        return kv.decode_range(result.data)

    def size(self) -> int:
        """How many keys there are."""
        return kv.decode_number(self._client.read(self.group, kv.encode_size()).data)
