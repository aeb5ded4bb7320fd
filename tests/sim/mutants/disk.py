"""Bugs of what is written: a crash, or a disk that fails, takes what was promised."""

from __future__ import annotations

from typing import Any, Final

from raft.store import wal as wal_module
from raft.store.errors import WalPoisoned
from raft.store.files import Files
from raft.store.memory import MemoryFiles
from raft.store.recovery import Recovered
from raft.store.salvage import Salvage
from raft.store.settling import settle
from raft.store.tidying import Tidier
from raft.store.wal import Batch
from tests.sim.mutants.mutant import Change, Mutant, nothing


def _damage_is_cut() -> list[Change]:
    """NATS 2.12.1: whatever cannot be read is taken for a torn tail."""

    def torn(salvage: Any, place: Any, stop: Any, *, provisional: bool) -> bool:
        return True

    return [(Salvage, "_looks_torn", torn)]


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
    def half(files: Files, directory: str, found: Recovered) -> None:
        last_batch, found.last_batch = found.last_batch, b""
        settle(files, directory, found)
        if last_batch:
            descriptor = files.open(found.last)
            files.truncate(descriptor, found.end)
            files.close(descriptor)

    return [(wal_module, "settle", half)]


def _failure_is_ignored() -> list[Change]:
    run = Batch.run

    def careless(batch: Batch) -> None:
        try:
            run(batch)
        except WalPoisoned:
            batch._wal._poisoned = None

    return [(Batch, "run", careless)]


def _segments_go_at_once() -> list[Change]:
    """What took away the last meaning of a segment need not be on the disk yet."""
    give_up = Tidier._give_up_dead

    def hasty(tidier: Tidier) -> None:
        give_up(tidier)
        tidier._removable += tidier._given_up
        tidier._given_up = []

    return [(Tidier, "_give_up_dead", hasty)]


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
    "segments-go-at-once": Mutant(
        "removes a segment before it is durable that nobody needs it (pitfall 41)",
        _segments_go_at_once,
    ),
    "damage-is-cut": Mutant("cuts damage like a torn tail (pitfall 45)", _damage_is_cut),
    "no-directory-sync": Mutant(
        "does not sync the directory of a new file (pitfall 46)",
        lambda: [(MemoryFiles, "fsync_dir", nothing)],
    ),
}
