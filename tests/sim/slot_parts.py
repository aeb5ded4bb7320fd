"""What a simulated worker process is made of, beside the actors: threads, files, limits."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google_crc32c import value as crc32c

from actors.runtime.supervisor import CrashReport
from actors.space import DiskSpace
from raft.messages import (
    Append,
    PeerMessage,
    Replica,
    Save,
    SnapshotChunk,
)
from raft.store.errors import WalDamaged, WalPoisoned
from raft.store.memory import MemoryFiles, PowerLoss
from raft.store.snapshots import SUFFIX, SnapshotStore
from raft.store.space import Room
from raft.store.wal import Wal
from tests.sim.world import MS

COUNTS: Final = (
    "turns",
    "batches",
    "deaths",
    "starts",
    "works",
    "jobs",
    "anomalies",
    "snapshots lost",
    "lives",
    "condemned",
    "full",
    "short",
    "parts found",
    "log reads",
)
RESTART_MS: Final = (1, 400)  # until a process that ended is started again
RETRY_MS: Final = (100, 600)  # until one is that could not read its disk
DRAIN_MS_MAX: Final = 2_000
DISK_OPERATIONS_MAX: Final = 8  # in a batch that opens a segment, or in a piece of work
LONG_WORK_FACTOR: Final = 8  # how much longer than a batch a whole snapshot takes
LONG_WORK_US_MAX: Final = 1_500 * MS  # some may wait in line when the world is healed
DATA: Final = "/"
DIRECTORY: Final = "/wal"
BY_HAND: Final = "its records are lost"
# Of a disk, in segments of the least size.
SOFT_LIMIT_SEGMENTS: Final = 64
RESERVE_SEGMENTS: Final = 4
SEGMENT_GROWTH: Final = 4  # from the least size to the largest
LOOK_US: Final = 100 * MS


class ProcessDied(BaseException):
    """Out of a carrier, through the scheduler: the process is gone.  No actor can catch it."""


class SlotSpace(DiskSpace):
    """Without a thread; and nobody waits for room while the world stands still."""

    def limit(self, wal: Wal, room: Room) -> None:
        super().limit(wal, room)
        largest = SEGMENT_GROWTH * self._segment_bytes_first
        wal.segment_bytes_max = min(largest, wal.segment_bytes_max)

    def _wait_for_room(self, deadline_ms: int, error: Exception) -> None:
        raise error


@dataclass(slots=True)
class Work:
    group: int
    run: Callable[[], object]
    store: SnapshotStore | None  # of the replica that it is for; None: nobody hears of it
    actor: str  # which hears of the result
    effect: Any = None  # of a group actor, if it is
    on_done: Callable[[Any], None] | None = None  # hears of the result in place of an actor
    takes_us: int = 0


@dataclass(slots=True, frozen=True)
class Saved:
    """Handed to the log, by whoever lived there then."""

    group: int
    replica: Replica
    save: Save


class Thread:
    """One of a worker's threads: what it is given is done in that order."""

    __slots__ = ("free_us", "works")

    def __init__(self) -> None:
        self.works: deque[Work] = deque()
        self.free_us = 0  # when it will have done all of it


def end_somewhere(
    files: MemoryFiles,
    rng: random.Random,
    threads: Iterable[Thread],
    batch: Sequence[Callable[[], object]],
) -> str | None:
    """The threads that write were somewhere between their beginnings and their ends."""
    queues: list[list[Callable[[], object]]]
    queues = [*([work.run for work in thread.works] for thread in threads), list(batch)]
    steps: list[Callable[[], object]] = []
    while queues := [queue for queue in queues if queue]:
        steps.append(rng.choice(queues).pop(0))
    if not steps:
        return None
    files.lose_power_after(rng.randrange(DISK_OPERATIONS_MAX))
    try:
        for step in steps:
            step()
    except (PowerLoss, WalPoisoned, WalDamaged) as error:
        return f"while it wrote: {type(error).__name__}"
    return None


def bytes_of(messages: dict[int, list[PeerMessage]]) -> int:
    """Of appends and chunks; the rest of a frame is small."""
    appends = [it for found in messages.values() for it in found if type(it) is Append]
    chunks = [it for found in messages.values() for it in found if type(it) is SnapshotChunk]
    return sum(len(run.body) for it in appends for run in it.runs) + sum(
        len(it.data) for it in chunks
    )


def snapshots_of(group: int) -> str:
    return f"/groups/{group}/snapshots"


def snapshot_paths(files: MemoryFiles, groups: Iterable[int], suffix: str) -> list[str]:
    found = []
    for directory in map(snapshots_of, groups):
        if files.exists(directory):
            names = files.listdir(directory)
            found += [f"{directory}/{name}" for name in names if name.endswith(suffix)]
    return found


def has_decayed(files: MemoryFiles, path: str) -> bool:
    """A snapshot's name ends with the checksum of the file."""
    crc = int(path.removesuffix(SUFFIX).rpartition("-")[2], 16)
    return bool(crc32c(files.content(path)) != crc)


def raise_it(report: CrashReport) -> None:
    raise report.error
