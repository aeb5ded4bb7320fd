"""Crash after crash, by seed: what was completed is found, and a batch is there as a whole or not
at all.

Each history writes random saves of some groups, and the power goes off, the process dies or the
disk fails at a random operation: also inside recovery itself.  The model knows two states of the
disk that are right: all batches up to the last completed one, or those and the one under
way.  Anything else is a bug.
"""

from __future__ import annotations

import copy
import errno
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest

from raft.messages import HardState, Mark, Run, Save, SnapshotMeta
from raft.store.errors import WalPoisoned
from raft.store.memory import MemoryFiles, PowerLoss
from raft.store.recovery import RecoveredGroup
from tests.raft.store.kit import N1, N2, Slot, check_places, run_of, snapshot_of

ATTEMPTS_MAX = 100


class Log(NamedTuple):
    """What is to be found of one group."""

    gseq: int = 1
    hard_state: HardState = HardState()
    runs: tuple[Run, ...] = ()
    base: tuple[int, int] = (0, 0)  # (index, term)
    snapshot: SnapshotMeta | None = None

    def last(self) -> tuple[int, int]:
        return (self.runs[-1].last, self.runs[-1].term) if self.runs else self.base


Model = dict[int, Log]


class History:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.files = MemoryFiles(recording=False)
        self.slot = Slot(
            self.files, segment_bytes_first=2048, segment_bytes_max=8192, copy_bytes_max=1500
        )
        self.completed: Model = {}
        self.under_way: Model | None = None
        self.gathered: Model = {}
        self.numbers: dict[int, int] = {}
        self.crashes = 0
        self.removed = 0
        self.copied = 0

    def run(self, steps: int) -> None:
        self._start()
        for _ in range(steps):
            if self.rng.random() < 0.15:
                self._plan_a_failure()
            try:
                self._step()
            except (PowerLoss, WalPoisoned):
                self._start()
            self._count()
        self.files.repair()
        self.files.crash(self.rng)
        self._start()

    def _count(self) -> None:
        check_places(self.slot)
        statistics = self.slot.wal.statistics()
        self.removed = max(self.removed, statistics["segments_removed"])
        self.copied = max(self.copied, statistics["copied_records"])

    def _plan_a_failure(self) -> None:
        if self.rng.random() < 0.7:
            self.files.lose_power_after(self.rng.randrange(6))
        else:
            operation = self.rng.choice(("pwrite", "fdatasync", "fsync"))
            self.files.fail(operation, errno.EIO, path=".wal")

    def _start(self) -> None:
        """Come back, however often it takes, and check what is found."""
        for _ in range(ATTEMPTS_MAX):
            self.crashes += 1
            self.files.repair()
            if self.rng.random() < 0.7:
                self.files.crash(self.rng)
            else:
                self.files.kill()
            if self.rng.random() < 0.3:
                self.files.lose_power_after(self.rng.randrange(12))
            try:
                found = self.slot.open()
            except (PowerLoss, WalPoisoned, OSError):
                continue
            self._check(found)
            return
        raise AssertionError("the slot cannot be opened any more")

    def _check(self, found: dict[int, RecoveredGroup]) -> None:
        assert [it.damaged for it in found.values() if it.damaged] == []
        state = {
            group: Log(
                it.last_gseq,
                it.hard_state,
                tuple(it.runs),
                (it.base_index, it.base_term),
                it.snapshot,
            )
            for group, it in found.items()
        }
        assert state == self.completed or state == self.under_way
        self.completed, self.under_way = state, None
        self.gathered = copy.deepcopy(state)
        self.numbers = dict.fromkeys(state, 0)

    def _step(self) -> None:
        for _ in range(self.rng.randrange(6)):
            self._save(self.rng.randrange(1, 6))
        if self.rng.random() < 0.8:
            self._work(self.slot.wal.tidy())
        batch = self.slot.wal.take_batch()
        if batch is None:
            return
        self.under_way = copy.deepcopy(self.gathered)
        numbers = dict(self.numbers)
        for _ in range(self.rng.randrange(3)):
            self._save(self.rng.randrange(1, 6))  # gathered while the batch is under way
        assert self.slot.wal.take_batch() is None
        batch.run()
        for group, number, term, index in self.slot.wal.complete(batch):
            assert number == numbers[group]
            assert index == 0 or self.under_way[group].last() == (index, term)
        self.completed, self.under_way = self.under_way, None
        if self.rng.random() < 0.5:
            self._work(self.slot.wal.prepare_next_segment())
        check_places(self.slot)

    def _work(self, work: Callable[[], None] | None) -> None:
        if work is None:
            return
        try:
            work()
        except OSError:
            pass  # the next batch makes the segment itself, the next start removes it

    def _save(self, group: int) -> None:
        wal, rng = self.slot.wal, self.rng
        if group not in self.gathered:
            wal.add_group(group, 1, b"bootstrap")
            self.gathered[group] = Log()
            self.numbers[group] = 0
        log = self.gathered[group]
        save = Save(self.numbers[group] + 1)
        if rng.random() < 0.3 or log.hard_state.term == 0:
            save.hard_state = HardState(log.hard_state.term + 1, rng.choice((None, N1, N2)))
            log = log._replace(gseq=log.gseq + 1, hard_state=save.hard_state)
        if log.runs and rng.random() < 0.2:
            log = self._truncated(log, save)
        if rng.random() < 0.2:
            log = self._marked(log, save)
        for _ in range(rng.randrange(4)):
            filler = rng.choice((b"\0", b"x", b"PRwl\x01\x05"))
            body = filler * rng.randrange(rng.choice((10, 300, 2000)))
            first, term, count = log.last()[0] + 1, log.hard_state.term, rng.randrange(1, 4)
            save.runs.append(run_of(first, term=term, count=count, body=body))
            log = log._replace(gseq=log.gseq + 1, runs=(*log.runs, save.runs[-1]))
        wal.save(group, save)
        self.numbers[group] = save.number
        self.gathered[group] = log

    def _truncated(self, log: Log, save: Save) -> Log:
        """Cut somewhere behind the snapshot, if there is anything."""
        covered = 0 if log.snapshot is None else log.snapshot.index
        positions = [at for at, run in enumerate(log.runs) if run.first > covered]
        if not positions:
            return log
        position = self.rng.choice(positions)
        save.truncate_from = log.runs[position].first
        return log._replace(gseq=log.gseq + 1, runs=log.runs[:position])

    def _marked(self, log: Log, save: Save) -> Log:
        """A snapshot of our own, with some of the log before it kept; or one of the leader's."""
        rng = self.rng
        last, last_term = log.last()
        if rng.random() < 0.3:
            index, term = last + rng.randrange(1, 9), max(last_term, 1)
            save.mark = Mark(snapshot_of(index, term=term), index, term, resets=True)
            runs: tuple[Run, ...] = ()
        else:
            borders = [log.base, *((run.last, run.term) for run in log.runs)]
            covered = 1 if log.snapshot is None else log.snapshot.index
            behind = [at for at, (index, _) in enumerate(borders) if index >= covered]
            if not behind:
                return log
            position = rng.choice(behind)
            kept = rng.randrange(position + 1)
            snapshot = snapshot_of(borders[position][0], term=borders[position][1])
            save.mark = Mark(snapshot, *borders[kept], resets=False)
            runs = log.runs[kept:]
        mark = save.mark
        base = (mark.base_index, mark.base_term)
        return log._replace(gseq=log.gseq + 1, runs=runs, base=base, snapshot=mark.snapshot)


@pytest.mark.parametrize("seed", range(60))
def test_everything_completed_is_found_after_every_crash(seed: int) -> None:
    history = History(seed)
    history.run(steps=40)
    assert history.crashes > 1
