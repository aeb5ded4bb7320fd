"""State machines: what a group replicates.

This file is the contract; the other files of the folder are built-in machines.  What may live
in this folder: deterministic code over the standard library and msgpack.  A machine sees no
clock, no random source, no socket, and no other machine; two replicas that applied the same
entries hold the same state and the same :meth:`Machine.digest`, whatever their hash seed.

A machine of forty lines::

    class Counter(Machine):
        def __init__(self):
            self.total = 0

        def apply(self, request, context):
            self.total += len(request.data)
            return Response(data=str(self.total).encode())

        def read(self, request):
            return Response(data=str(self.total).encode())

        def digest(self):
            return self.total.to_bytes(8, "big")

**Refusing.**  ``apply`` says no with ``Response.refuse(reason)``; the entry stays in the log
and the client gets REJECTED.  Any exception means that this replica can no longer be trusted to
equal the others: the machine is quarantined, while consensus goes on without it.  A machine
that raises only *before* it changes anything may say so with ``atomic_apply``; then the entry
is skipped on all replicas alike.

**Snapshots.**  Without them a group keeps its whole log.  ``snapshot`` gives out a view of the
state as it is now, at once: it is called between two entries and holds up everything.  The view is
then written by another thread *while applies go on*, so it must not share what they change (the
easy way: copy what is small, and change only by replacing what is large).  It gives bytes to the
sink in pieces of 16 to 128 KiB, since after each of them it pauses, for the other threads; equal
states should give equal bytes.  ``restore`` gets the same bytes, cut into other pieces, also in
another thread; nothing else is called meanwhile.  What raises there quarantines, whatever was
changed.

**Streams.**  Neither side has a snapshot in memory as a whole, and a machine must not either: a
view reads its state piece by piece while it is written, a restore puts each piece where it belongs
and forgets it.  One whose state is a file, say a database, copies or links it in ``snapshot``,
writes it out from there, and in ``restore`` fills a new file and puts it in the old one's place.
What would be there twice goes first: the old state is of no use any more.  A view that is given up
is not written; what it holds, it lets go of when it is collected.

For the machine above::

        def snapshot(self):
            return Total(self.total)

        def restore(self, reader, version):
            self.total = int(b"".join(reader))

    class Total:
        def __init__(self, total):
            self.total = total

        def write(self, sink):
            sink(str(self.total).encode())
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, overload


class WriteRequest(Protocol):
    """One command, as decoded from the log.  ``extendInfo`` is named as on the wire."""

    @property
    def group(self) -> str: ...
    @property
    def key(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def type(self) -> str: ...
    @property
    def operation(self) -> str: ...
    @property
    def extendInfo(self) -> Mapping[str, str]: ...  # noqa: N802


class ReadRequest(Protocol):
    """One query."""

    @property
    def group(self) -> str: ...
    @property
    def data(self) -> bytes: ...
    @property
    def extendInfo(self) -> Mapping[str, str]: ...  # noqa: N802


class Response:
    """The answer of a machine.  ``success`` false is a refusal, alike on all replicas."""

    __slots__ = ("data", "error", "success")

    def __init__(self, data: bytes = b"", error: str = "", success: bool = True) -> None:
        self.data = data
        self.error = error
        self.success = success

    @classmethod
    def refuse(cls, error: str) -> Response:
        assert error, "a refusal names its reason"
        return cls(b"", error, False)

    def __repr__(self) -> str:
        return f"Response({self.data!r}, {self.error!r}, {self.success})"


DONE = Response()  # success without data: the most frequent answer, shared, never changed

Emit = Callable[[str, Mapping[str, Any]], None]


class Context:
    """Where an entry stands: log ``index``, log time in ms, the machine version in force."""

    __slots__ = ("emit", "index", "time_ms", "version")

    def __init__(self, index: int, time_ms: int, version: int, emit: Emit) -> None:
        self.index = index
        self.time_ms = time_ms
        self.version = version
        self.emit = emit


class Contexts(Sequence[Context]):
    """The contexts of consecutive entries, made one by one only when a machine asks for them."""

    __slots__ = ("emit", "first", "size", "time_ms", "version")

    def __init__(self, first: int, size: int, time_ms: int, version: int, emit: Emit) -> None:
        self.first = first
        self.size = size
        self.time_ms = time_ms
        self.version = version
        self.emit = emit

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, position: int) -> Context: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Context]: ...
    def __getitem__(self, position: int | slice) -> Context | Sequence[Context]:
        if isinstance(position, slice):
            return [self[at] for at in range(*position.indices(self.size))]
        if not -self.size <= position < self.size:
            raise IndexError(position)
        index = self.first + position % self.size
        return Context(index, self.time_ms, self.version, self.emit)

    def __iter__(self) -> Iterator[Context]:
        for index in range(self.first, self.first + self.size):
            yield Context(index, self.time_ms, self.version, self.emit)


class View(Protocol):
    """A cheap, consistent view of a machine's state, written out while applies go on."""

    def write(self, sink: Callable[[bytes], None]) -> None:
        """All of it, piece by piece; called once, in another thread."""


class Machine:
    """Base class of all state machines; override ``apply`` and ``digest`` at least."""

    version = 1
    blocking = False  # True: runs on a thread of its own
    atomic_apply = False  # True: apply raises only before it changes anything

    def open(self, directory: str, version: int) -> int:
        """Open what is kept in ``directory``; return the index durable there (0: memory only)."""
        return 0

    def apply(self, request: WriteRequest, context: Context) -> Response:
        """Apply one committed command.  Deterministic; a business failure is a refusal."""
        raise NotImplementedError

    def apply_batch(
        self, requests: Sequence[WriteRequest], contexts: Sequence[Context]
    ) -> list[Response]:
        """Apply consecutive commands.  Override for speed; an exception here always quarantines."""
        return [
            self.apply(request, context)
            for request, context in zip(requests, contexts, strict=True)
        ]

    def next_deadline(self) -> int | None:
        """Log time in ms at which :meth:`on_tick` is due; None: never."""
        return None

    def on_tick(self, context: Context) -> None:
        """Expiry happens here, on all replicas alike."""

    def read(self, request: ReadRequest) -> Response:
        """Answer from local state; called once the state is recent enough.  Changes nothing."""
        return Response.refuse("this machine answers no reads")

    def snapshot(self) -> View | None:
        """A view for a snapshot; None: this machine has none and its log is kept."""
        return None

    def restore(self, reader: Iterator[bytes], version: int) -> None:
        """Replace the whole state by what a view of a machine of this ``version`` wrote."""
        raise NotImplementedError

    def digest(self) -> bytes:
        """A fingerprint of the state, kept up to date as it changes; equal at equal index."""
        raise NotImplementedError

    def on_leader_start(self, term: int) -> None:
        """This replica leads now."""

    def on_leader_stop(self, term: int) -> None:
        """It no longer does."""

    def on_membership(self, members: Sequence[str]) -> None:
        """The nodes of the group."""

    def on_error(self, error: BaseException) -> None:
        """The machine was quarantined; degrade."""
