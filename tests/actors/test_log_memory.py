"""What of its log a group holds in memory, and how a process reads the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from actors.log_memory import GroupLogMemory, LogRead, LogReads, LogShare, ReadLog
from actors.machine import Apply, RunsAgain, RunsWanted
from actors.runtime import Tell
from actors.settings import MIB, SnapshotSettings
from raft.log import Log
from raft.messages import COMMAND, ReadRuns, Run, RunsRead
from tests.raft.network import replica

N2 = replica("n2")
RUNS = [Run(COMMAND, 1, index, 1, b"x" * 10, index) for index in range(1, 101)]


class CoreStub:
    def __init__(self) -> None:
        self.log = Log(RUNS)
        self.handed_index = 0
        self.heard: list[object] = []

    def release_log(self, bytes_max: int) -> None:
        self.log.release(self.handed_index, bytes_max)

    def step(self, message: object, now: int) -> None:
        self.heard.append(message)


class ClockStub:
    def now_ms(self) -> int:
        return 5


def a_group(bytes_max: int = 200) -> tuple[GroupLogMemory, CoreStub]:
    core: Any = CoreStub()
    clock: Any = ClockStub()
    settings = SnapshotSettings(log_memory_bytes=bytes_max)
    return GroupLogMemory(7, core, settings, clock), core


def test_what_is_not_applied_stays_in_memory_however_much_it_is() -> None:
    memory, core = a_group()
    memory.keep_within()
    assert core.log.held_bytes == 1_000
    core.handed_index = 60
    memory.keep_within()
    assert (core.log.held_bytes, core.log.released_index) == (410, 59)


def test_a_part_is_let_go_of_at_a_time() -> None:
    memory, core = a_group(bytes_max=640)
    core.handed_index = 100
    memory.keep_within()
    assert core.log.held_bytes == 620
    for more in range(2):
        core.log.append([Run(COMMAND, 1, 101 + more, 1, b"x" * 10, 0)])
        core.handed_index = 101 + more
        memory.keep_within()
        assert core.log.held_bytes == 630 + 10 * more, "nothing to do yet"
    core.log.append([Run(COMMAND, 1, 103, 1, b"x" * 10, 0)])
    core.handed_index = 103
    memory.keep_within()
    assert core.log.held_bytes == 620


def test_a_smaller_share_counts_at_once() -> None:
    memory, core = a_group(bytes_max=10_000)
    core.handed_index = 100
    memory.on_share(LogShare(80))
    assert core.log.held_bytes == 70


def test_a_machine_that_is_behind_is_not_told_more_than_so_many_bytes() -> None:
    memory, _ = a_group()
    memory.queued_bytes_max = 25
    parsed: list[Any] = []
    requests = {2: parsed, 3: parsed, 4: parsed}
    assert memory.hand_out(RUNS[:2], requests) == Apply([(RUNS[0], None), (RUNS[1], parsed)])
    assert memory.hand_out(RUNS[2:5], requests) == Apply([(RUNS[2], parsed)], passed_index=5)
    assert requests == {}, "of who is behind, too"
    memory.note_applied(1)
    assert memory.hand_out(RUNS[5:7], requests) == Apply([(RUNS[5], None)], passed_index=7)
    for again in (2, 3, 4, 5):
        memory.note_applied(again)
    assert memory.hand_out(RUNS[7:10], requests) == Apply([(run, None) for run in RUNS[7:9]], 10)


def test_what_another_state_stands_for_is_not_waited_for() -> None:
    memory, _ = a_group()
    memory.queued_bytes_max = 25
    memory.hand_out(RUNS[:5], {})
    memory.note_state(2)
    assert memory.hand_out(RUNS[5:8], {}) == Apply([(run, None) for run in RUNS[5:7]], 8)


def test_what_was_read_for_a_peer_goes_to_the_core() -> None:
    memory, core = a_group()
    wanted = ReadRuns(N2, 4, 6)
    assert memory.read([wanted]) == [ReadLog(7, wanted, 4, 6)]
    assert memory.on_read(LogRead(wanted, RUNS[3:6])) == []
    assert core.heard == [RunsRead(N2, RUNS[3:6])]


def test_a_machine_gets_what_is_in_memory_and_has_the_rest_read() -> None:
    memory, core = a_group()
    core.log.compact_to(10)
    core.log.release(50, 0)

    def told(effects: list[object]) -> list[Run]:
        (effect,) = effects
        assert isinstance(effect, Tell)
        assert isinstance(effect.message, RunsAgain)
        return effect.message.runs

    assert told(memory.on_wanted(RunsWanted(10, 60))) == []
    wanted = RunsWanted(11, 60)
    assert memory.on_wanted(wanted) == [ReadLog(7, wanted, 11, 49)]
    assert memory.on_wanted(RunsWanted(11, 40)) == [ReadLog(7, RunsWanted(11, 40), 11, 40)]
    assert told(memory.on_read(LogRead(wanted, RUNS[10:49]))) == RUNS[10:49]
    assert told(memory.on_wanted(RunsWanted(50, 60))) == RUNS[49:60]


# --------------------------------------------------------------------------- of a process


class WalStub:
    """``is_busy``: what is asked for is in the batch under way."""

    def __init__(self) -> None:
        self.is_busy = False
        self.opened = 0

    def runs_reader(self, group: int, first: int, last: int) -> Callable[[], list[Run]] | None:
        self.opened += not self.is_busy
        return None if self.is_busy else lambda: RUNS[first - 1 : last]


class Process:
    def __init__(self, **settings: int) -> None:
        self.wal = WalStub()
        self.groups: dict[int, object] = {7: object(), 8: object()}
        self.told: list[tuple[str, object]] = []
        self.works: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []
        reads: Any = LogReads
        self.reads: LogReads = reads(
            SnapshotSettings(**settings),
            self.wal,
            self.groups,
            self,
            lambda work, on_done: self.works.append((work, on_done)),
        )

    def tell(self, name: str, news: object, *, control: bool) -> None:
        assert control
        self.told.append((name, news))

    def work(self) -> None:
        works, self.works = self.works, []
        for work, on_done in works:
            on_done(work())


WANTED = ReadRuns(N2, 4, 6)
EFFECT = ReadLog(7, WANTED, 4, 6)


def test_what_is_read_on_a_thread_is_told_to_the_group() -> None:
    process = Process()
    process.reads.carry(EFFECT)
    assert process.told == []
    process.work()
    assert process.told == [("group/7", LogRead(WANTED, RUNS[3:6]))]
    assert process.reads.counts == {"reads": 1, "bytes": 30}


def test_what_is_being_copied_is_read_when_the_batch_is_complete() -> None:
    process = Process()
    process.wal.is_busy = True
    process.reads.carry(EFFECT)
    process.reads.on_batch_done()
    assert process.works == []
    process.wal.is_busy = False
    process.reads.on_batch_done()
    process.reads.on_batch_done()
    assert len(process.works) == 1


def test_few_are_read_at_a_time_and_the_others_in_the_order_of_asking() -> None:
    """Each has files open, and what was read is in memory until its group has its turn."""
    process = Process()
    for first in range(1, 21):
        process.reads.carry(ReadLog(7, ReadRuns(N2, first, first), first, first))
    opened = len(process.works)
    assert 1 < opened == process.wal.opened < 20
    while process.works:
        process.work()
        assert len(process.works) <= opened
    read = [it.runs[0].first for _, it in process.told if isinstance(it, LogRead)]
    assert read == list(range(1, 21))


def test_who_is_gone_when_its_turn_comes_keeps_nobody_waiting() -> None:
    process = Process()
    for first in range(1, 21):
        process.reads.carry(ReadLog(7 + first % 2, ReadRuns(N2, first, first), first, first))
    del process.groups[8]
    while process.works:
        process.work()
    read = [it.runs[0].first for _, it in process.told if isinstance(it, LogRead)]
    assert read == list(range(2, 21, 2))


@pytest.mark.parametrize("is_read", [False, True])
def test_nobody_hears_what_was_read_for_the_replica_before(is_read: bool) -> None:
    process = Process()
    process.wal.is_busy = not is_read
    process.reads.carry(EFFECT)
    process.groups[7] = object()
    process.wal.is_busy = False
    process.reads.on_batch_done()
    assert len(process.works) == is_read
    process.work()
    assert process.told == []


def test_groups_of_a_worker_have_even_shares_and_none_more_than_one_group_may() -> None:
    process = Process(log_memory_bytes=8 * MIB, log_memory_worker_bytes=10 * MIB)
    process.reads.share()
    assert process.told == [(f"group/{group}", LogShare(5 * MIB)) for group in (7, 8)]
    process.told.clear()
    del process.groups[8]
    process.reads.share()
    assert process.told == [("group/7", LogShare(8 * MIB))]


@pytest.mark.parametrize("name", ["log_memory_bytes", "log_memory_worker_bytes"])
def test_a_limit_below_nothing_is_wrong_usage(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must not be negative"):
        SnapshotSettings(**{name: -1})
