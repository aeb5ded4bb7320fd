"""Bugs of what is written: a crash, or a disk that fails, takes what was promised."""

from __future__ import annotations

import os
from typing import Any, Final

from raft.store import recovery as recovery_module
from raft.store import wal as wal_module
from raft.store.errors import WalPoisoned
from raft.store.files import Files
from raft.store.memory import MemoryFiles
from raft.store.reader import SegmentReader
from raft.store.recovery import Recovered
from raft.store.segments import segment_name
from raft.store.wal import Batch
from tests.sim.mutants.mutant import Change, Mutant, nothing


def _damage_is_cut() -> list[Change]:
    """NATS 2.12.1: whatever cannot be read is taken for a torn tail."""

    def cut(recovery: Any, number: int, reader: SegmentReader, stop: Any, last: bool) -> None:
        recovery._result.torn = True
        if reader.offset == 0:
            recovery._result.discard.append(segment_name(number))

    return [(recovery_module._Recovery, "_cut_or_refuse", cut)]


def _sync_again() -> list[Change]:
    """PostgreSQL, until 2018: an fsync that failed is tried again, and has nothing to do."""
    sync = MemoryFiles.fdatasync

    def stubborn(files: MemoryFiles, descriptor: int) -> None:
        try:
            sync(files, descriptor)
        except OSError:
            sync(files, descriptor)

    return [(MemoryFiles, "fdatasync", stubborn)]


def _cache_is_trusted() -> list[Change]:
    settle = wal_module._settle

    def half(files: Files, directory: str, found: Recovered) -> None:
        number, found.number = found.number, 0
        settle(files, directory, found)
        found.number = number
        if number:
            descriptor = files.open(os.path.join(directory, segment_name(number)))
            files.truncate(descriptor, found.end)
            files.close(descriptor)

    return [(wal_module, "_settle", half)]


def _failure_is_ignored() -> list[Change]:
    run = Batch.run

    def careless(batch: Batch) -> None:
        try:
            run(batch)
        except WalPoisoned:
            batch._wal._poisoned = None

    return [(Batch, "run", careless)]


MUTANTS: Final[dict[str, Mutant]] = {
    "no-sync": Mutant(
        "takes a write for durable without a sync (pitfall 44)",
        lambda: [(MemoryFiles, "fdatasync", nothing)],
    ),
    "sync-again": Mutant("tries a failed sync again (pitfall 44)", _sync_again),
    "failure-ignored": Mutant(
        "goes on after a write that failed (pitfall 44)", _failure_is_ignored
    ),
    "cache-trusted": Mutant(
        "a restart believes what only the page cache holds (pitfall 44)", _cache_is_trusted
    ),
    "damage-is-cut": Mutant("cuts damage like a torn tail (pitfall 45)", _damage_is_cut),
    "no-directory-sync": Mutant(
        "does not sync the directory of a new file (pitfall 46)",
        lambda: [(MemoryFiles, "fsync_dir", nothing)],
    ),
}
