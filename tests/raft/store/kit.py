"""A slot on a disk in memory, and short ways to fill it."""

from __future__ import annotations

import itertools
from typing import Any

from google_crc32c import value as crc32c
from hypothesis import strategies as st

from raft.configuration import Configuration
from raft.messages import COMMAND, HardState, Mark, Replica, Run, Save, SnapshotMeta
from raft.store import records
from raft.store.memory import MemoryFiles
from raft.store.recovery import RecoveredGroup
from raft.store.segments import segment_name
from raft.store.wal import Wal

DIRECTORY = "/data/wal/0"
INCARNATION = 0xD15C  # of the disk
N1 = Replica("n1", 0x11)
N2 = Replica("n2", 0x22)
CONFIGURATION = Configuration.of(N1, N2)

Newest = list[tuple[int, int, int, int]]


def run_of(first: int, *, term: int = 1, count: int = 1, body: bytes = b"body") -> Run:
    return Run(COMMAND, term, first, count, body, crc32c(body))


def snapshot_of(index: int, *, term: int = 1, time_ms: int = 0, crc: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, CONFIGURATION, time_ms, 1, 1_000, crc)


def keeps(index: int, base: int, *, term: int = 1, base_term: int | None = None) -> Mark:
    """A snapshot was taken; the log behind ``base`` stays."""
    if base_term is None:
        base_term = term if base else 0
    return Mark(snapshot_of(index, term=term), base, base_term, resets=False)


def resets(index: int, *, term: int = 1) -> Mark:
    """A snapshot was received, and the log begins anew behind it."""
    return Mark(snapshot_of(index, term=term), index, term, resets=True)


class Slot:
    """``open`` it, write to it, let it crash, ``open`` it again."""

    def __init__(
        self, files: MemoryFiles | None = None, *, ids_from: int = 0xABCDEF01, **options: Any
    ) -> None:
        self.files = files or MemoryFiles()
        self._ids = itertools.count(ids_from)
        self._options = {"segment_bytes_first": 4096, "segment_bytes_max": 16384, **options}
        self.wal: Wal
        self.groups: dict[int, RecoveredGroup] = {}

    def open(self) -> dict[int, RecoveredGroup]:
        self.wal, self.groups = Wal.open(
            self.files,
            DIRECTORY,
            slot=0,
            incarnation=INCARNATION,
            random_id=lambda: next(self._ids),
            **self._options,
        )
        return self.groups

    def reopen(self) -> dict[int, RecoveredGroup]:
        """After the death of the process: the page cache is still there."""
        self.files.kill()
        return self.open()

    def write(self) -> Newest:
        batch = self.wal.take_batch()
        assert batch is not None
        batch.run()
        return self.wal.complete(batch)

    def tidy(self) -> int:
        """Everything that is due, with batches of nothing but copies.  How much work there was."""
        for count in itertools.count():
            work = self.wal.tidy()
            if work is not None:
                work()
            batch = self.wal.take_batch()
            if batch is not None:
                batch.run()
                self.wal.complete(batch)
            elif work is None:
                return count
        raise AssertionError("unreachable")

    def begin(self, group: int, *, term: int = 1) -> None:
        """Add a group that has voted for itself."""
        self.wal.add_group(group, 1, b"members of %d" % group)
        self.wal.save(group, Save(1, HardState(term, N1)))

    def path(self, number: int) -> str:
        return f"{DIRECTORY}/{segment_name(number)}"

    def segments(self) -> list[str]:
        return [name for name in self.files.listdir(DIRECTORY) if name.endswith(".wal")]


def a_slot(*groups: int, **options: Any) -> Slot:
    """An open slot in which these groups are durable, each by its save number 1."""
    slot = Slot(**options)
    slot.open()
    for group in groups:
        slot.begin(group)
    if groups:
        slot.write()
    return slot


def check_places(slot: Slot) -> None:
    """Each live record stands where the writer thinks, in a segment that is kept, or gathered."""
    wal = slot.wal
    extents = list(wal._tidier._extents)
    contents = {extent.number: slot.files.content(slot.path(extent.number)) for extent in extents}
    live_bytes = sum(log.live_bytes for log in wal._groups.values())
    assert wal._tidier.live_bytes + wal._gathered == live_bytes
    for log in wal._groups.values():
        live = [(place, size, kind, 0) for kind, (place, size) in log.fixed.items()]
        runs = zip(log.places, log.sizes, log.firsts, strict=True)
        live += [(place, size, records.RUN, first) for place, size, first in runs]
        falls = [at for at in range(1, len(log.places)) if log.places[at] < log.places[at - 1]]
        assert log.pieces == [0, *falls]
        for place, size, kind, first in live:
            if place >= wal._log_end:
                continue  # gathered
            extent = max((it for it in extents if it.start <= place), key=lambda it: it.start)
            header = records.decode_header(contents[extent.number], place - extent.zero)
            assert header is not None
            assert (header.kind, header.group) == (kind, log.group)
            assert header.generation == log.generation
            assert size == 64 + records.padded(header.length)
            assert kind != records.RUN or header.first == first


def state(group: RecoveredGroup) -> tuple[HardState, list[Run]]:
    return group.hard_state, group.runs


REPLICAS = st.builds(Replica, st.text(max_size=5), st.integers(0, 2**64 - 1))


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    """Any that can be: simple or joint, with learners, with demoted ones."""
    replicas = draw(st.lists(REPLICAS, min_size=1, max_size=8, unique=True))
    old = frozenset(replicas[: draw(st.integers(1, len(replicas)))])
    others = frozenset(replicas) - old
    plain = Configuration(old, draw(st.frozensets(st.sampled_from(replicas))) & others)
    new = draw(st.frozensets(st.sampled_from(replicas), min_size=1))
    if new == old or draw(st.booleans()):
        return plain
    return plain.enter(new, draw(st.frozensets(st.sampled_from(replicas))) - new)
