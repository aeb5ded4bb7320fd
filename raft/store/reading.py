"""Records that are read back from a segment, by who knows where they stand.

Two do: the tidier, which copies what is live to the log's end, and whoever needs a run that is in
memory no more (:class:`RunsReader`).  Whatever is not the record that is known to stand there is
damage: each is checked by the CRCs of its header and of its body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google_crc32c import value as crc32c

from raft.messages import Run
from raft.store import records
from raft.store.errors import WalDamaged
from raft.store.files import Files
from raft.store.group_log import GroupLog
from raft.store.records import HEADER_BYTES, Header

# Records closer together than this are read in one go.
READ_GAP_BYTES = 4 << 10


class Item(NamedTuple):
    """A record to be read.  ``first``: of a run, otherwise 0."""

    place: int
    size: int
    kind: int
    first: int
    log: GroupLog


class Found(NamedTuple):
    raw: bytes  # of the header
    header: Header
    body: bytes


def read_records(
    files: Files, descriptor: int, path: str, zero: int, items: list[Item], consequence: str
) -> Iterator[Found]:
    """In the order of the items.  ``zero``: place of the segment's first byte.

    Raises OSError, WalDamaged; ``consequence``: what cannot be done then.
    """
    for start, end in _spans(items):
        part = items[start:end]
        begin = part[0].place
        count = part[-1].place + part[-1].size - begin
        data = files.pread(descriptor, count, begin - zero)
        for item in part:
            at = item.place - begin
            header = records.decode_header(data, at)
            body = b""
            if header is not None:
                body = data[at + HEADER_BYTES : at + HEADER_BYTES + header.length]
            if (
                header is None
                or (header.kind, header.group) != (item.kind, item.log.group)
                or (item.kind == records.RUN and header.first != item.first)
                or len(body) != header.length
                or crc32c(body) != header.body_crc
            ):
                raise WalDamaged(path, item.place - zero, (item.log.group,), consequence)
            yield Found(data[at : at + HEADER_BYTES], header, body)


def _spans(items: list[Item]) -> Iterator[tuple[int, int]]:
    """Positions, start and end, of neighbours that are read together."""
    start = 0
    for at in range(1, len(items) + 1):
        before = items[at - 1]
        if at == len(items) or not (
            before.place < items[at].place <= before.place + before.size + READ_GAP_BYTES
        ):
            yield start, at
            start = at


class RunsReader:
    """Reads runs of one group back.  Call it once, on any thread: the segments are open, so they
    may be given up meanwhile."""

    __slots__ = ("_files", "_parts")

    def __init__(self, files: Files) -> None:
        self._files = files
        self._parts: list[tuple[int, str, int, list[Item]]] = []

    def add(self, path: str, zero: int, items: list[Item]) -> None:
        """Raises OSError."""
        self._parts.append((self._files.open(path), path, zero, items))

    def __call__(self) -> list[Run]:
        """In their order.  Raises OSError, and WalDamaged if what was saved is not there."""
        runs: list[Run] = []
        try:
            for descriptor, path, zero, items in self._parts:
                found = read_records(
                    self._files, descriptor, path, zero, items, "a run cannot be read back"
                )
                for _, header, body in found:
                    run = Run(
                        header.run_kind, header.term, header.first, header.entries, body,
                        header.body_crc,
                    )  # fmt: skip
                    runs.append(run)
        finally:
            self.close()
        return runs

    def close(self) -> None:
        """Nobody needs it any more."""
        parts, self._parts = self._parts, []
        for descriptor, *_ in parts:
            self._files.close(descriptor)
