"""A slot on a disk in memory, and short ways to fill it."""

from __future__ import annotations

import itertools
from typing import Any

from google_crc32c import value as crc32c
from hypothesis import strategies as st

from raft.configuration import Configuration
from raft.messages import COMMAND, HardState, Mark, Replica, Run, Save, SnapshotMeta
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
