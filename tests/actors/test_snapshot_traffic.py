"""What the groups of a process share: places, bytes a second, and the thread that writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import pytest

from actors.group_messages import (
    ChunkFailed,
    ChunkRead,
    ChunkWaits,
    KeepSnapshots,
    LeavePlace,
    MayWrite,
    PlaceToWrite,
    ReadChunk,
    SnapshotFailed,
    StoreChunk,
    WriteSnapshot,
)
from actors.settings import SnapshotSettings
from actors.snapshot_traffic import CHUNK_BYTES_MIN, Places, SnapshotTraffic, Throttle
from raft.configuration import Configuration
from raft.messages import ChunkStored, Replica, SnapshotLost, SnapshotMeta, SnapshotReceived
from raft.settings import RaftSettings

A, B = Replica("n1", 1), Replica("n2", 2)
META = SnapshotMeta(10, 1, Configuration.of(A, B), 5, 1, 10_000_000, 7)
IDLE_MS, PATIENCE_MS = 900, 3_000


def places(most: int = 2) -> Places:
    return Places(most, idle_ms=IDLE_MS, patience_ms=PATIENCE_MS)


# --------------------------------------------------------------------------- places


def test_only_so_many_have_a_place_and_the_others_get_one_in_the_order_in_which_they_came() -> None:
    line = places(2)
    assert [line.may(key, 0) for key in "abcd"] == [True, True, False, False]
    assert [line.may(key, 300) for key in "dcba"] == [False, False, True, True]
    line.leave("a")
    assert [line.may(key, 600) for key in "dc"] == [False, True], "c came before d"
    line.leave("b")
    assert line.may("d", 900)
    assert (line.held, line.waiting) == (2, 0)


def test_who_stops_asking_loses_its_place_and_its_turn() -> None:
    line = places(1)
    for key in "abc":
        line.may(key, 0)
    for now in range(300, 1_300, 300):
        assert line.may("a", now)
        assert not line.may("c", now)
    assert not line.may("c", 1_500), "a is there"
    line.leave("a")
    assert line.may("c", 1_800), "b went away"
    assert not line.may("d", 2_000)
    assert line.may("d", 3_000), "c went away"


def test_who_comes_no_nearer_goes_to_the_end_of_the_line_if_there_is_one() -> None:
    line = places(1)
    now = 0
    assert line.may("slow", now)
    while now < 2 * PATIENCE_MS:
        now += 300
        assert line.may("slow", now), "nobody else wants it"
    line.note_reached("slow", 100, now)
    moved_ms = now
    while now < moved_ms + PATIENCE_MS:
        assert not line.may("other", now)
        assert line.may("slow", now)
        line.note_reached("slow", 100, now)  # the same bytes again are no step
        now += 300
    assert not line.may("slow", now)
    assert line.may("other", now)


def test_a_transfer_that_goes_on_is_not_taken_its_place() -> None:
    line = places(1)
    assert line.may("long", 0)
    for now in range(0, 60_000, 300):
        assert line.may("long", now)
        line.note_reached("long", now, now)
        assert not line.may("other", now)


def test_nobody_starves_however_many_get_nowhere() -> None:
    """Each of them asks for ever and never gets any further: all the same all have their turn."""
    line = places(3)
    had: Counter[Hashable] = Counter()
    for now in range(0, 200_000, 300):
        for key in range(20):
            had[key] += line.may(key, now)
    assert min(had.values()) > max(had.values()) / 3


def test_a_group_that_is_gone_is_in_no_line() -> None:
    line = places(1)
    for key in ((7, A), (7, B), (8, A)):
        line.may(key, 0)
    line.forget(lambda key: bool(key[0] == 7))
    assert (line.held, line.waiting) == (0, 1)
    assert line.may((8, A), 0)


# --------------------------------------------------------------------------- bytes a second


def test_no_more_than_so_many_bytes_a_second_pass_whoever_asks() -> None:
    throttle = Throttle(1_000_000)
    now = sent = 0
    while now < 10_000:
        wait_ms = throttle.wait_ms(10_000, now)
        now += wait_ms
        sent += 10_000
    assert sent == pytest.approx(10_000_000, rel=0.01)


def test_what_was_not_used_is_not_saved_up() -> None:
    throttle = Throttle(1_000)
    assert throttle.wait_ms(500, 0) == 0
    assert throttle.wait_ms(500, 0) == 500
    assert throttle.wait_ms(500, 60_000) == 0
    assert throttle.wait_ms(500, 60_000) == 500


def test_without_a_limit_nobody_waits() -> None:
    throttle = Throttle(0)
    assert [throttle.wait_ms(1 << 30, 0) for _ in range(3)] == [0, 0, 0]
    assert throttle.at_once_max(1 << 22) == 1 << 22


def test_a_chunk_is_at_most_an_eighth_of_a_second_long() -> None:
    assert Throttle(1 << 20).at_once_max(1 << 22) == 1 << 17
    assert Throttle(1 << 30).at_once_max(1 << 18) == 1 << 18
    assert Throttle(1).at_once_max(1 << 18) == CHUNK_BYTES_MIN


# --------------------------------------------------------------------------- between the two


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.now_ms = 0
        self.told: list[tuple[int, object]] = []
        self.submitted: list[Any] = []
        self.traffic = SnapshotTraffic(
            SnapshotSettings(**settings),
            RaftSettings(),
            lambda: self.now_ms,
            lambda group, news: self.told.append((group, news)),
            lambda effect: self.submitted.append(effect),
        )

    def read(self, group: int, offset: int = 0, count: int = 1_000, **rest: Any) -> ReadChunk:
        effect = ReadChunk(group, B, 3, META, offset, count, **rest)
        self.traffic.carry(effect)
        return effect

    def store(self, group: int, offset: int = 0, data: bytes = b"") -> StoreChunk:
        effect = StoreChunk(group, META, offset, data)
        self.traffic.carry(effect)
        return effect

    def take(self) -> list[Any]:
        taken, self.submitted, self.told = [*self.submitted, *self.told], [], []
        return taken


def test_a_question_needs_a_place_and_no_thread() -> None:
    bench = Bench(snapshot_transfers_max=1)
    bench.read(7, count=0)
    assert bench.take() == [(7, ChunkRead(B, 3, META, 0, b""))]
    bench.read(8, count=0)
    assert bench.take() == [(8, ChunkWaits(B, META, 0, None))]
    bench.read(8, offset=META.size_bytes, count=0)
    assert bench.take() == [(8, ChunkRead(B, 3, META, META.size_bytes, b""))], "only what became"


def test_a_transfer_has_its_place_until_its_last_byte_is_read() -> None:
    bench = Bench(snapshot_transfers_max=1)
    first = bench.read(7)
    bench.traffic.note_done(first, ChunkRead(B, 3, META, 0, b"x" * 1_000))
    bench.read(8)
    assert bench.take() == [first, (8, ChunkWaits(B, META, 0, None))]
    last = bench.read(7, offset=META.size_bytes - 10)
    bench.traffic.note_done(last, ChunkRead(B, 3, META, META.size_bytes - 10, b"x" * 10))
    other = bench.read(8)
    assert bench.take() == [last, other]
    bench.traffic.note_done(other, SnapshotLost(META))
    third = bench.read(9)
    assert bench.take() == [third]


def test_what_is_too_early_waits_and_is_charged_once() -> None:
    bench = Bench(snapshot_send_bytes_per_s=1_000_000)
    first = bench.read(7, count=100_000)
    bench.read(8, count=100_000)
    bench.read(9, count=100_000)
    assert bench.take() == [
        first,
        (8, ChunkWaits(B, META, 0, 100, 100_000)),
        (9, ChunkWaits(B, META, 0, 200, 100_000)),
    ]
    bench.now_ms = 100
    paid = bench.read(8, count=100_000, is_paid=True)
    assert bench.take() == [paid]
    bench.now_ms = 300
    assert bench.take() == []
    last = bench.read(7, offset=META.size_bytes - 10, count=100_000)
    assert last.bytes_max == 10, "no more is charged than there is"


def test_received_chunks_need_a_place_too_until_all_of_it_is_there() -> None:
    bench = Bench(snapshot_transfers_max=1)
    first = bench.store(7)
    bench.store(8)
    over = bench.store(8, offset=META.size_bytes)
    assert bench.take() == [first, over, (8, ChunkFailed(META))]
    bench.traffic.note_done(first, ChunkStored(META, 100))
    bench.traffic.note_done(bench.store(7, 100, b"x"), SnapshotReceived(META))
    bench.take()
    second = bench.store(8)
    assert bench.take() == [second]


def test_whatever_else_there_is_to_do_passes() -> None:
    bench = Bench()
    keep = KeepSnapshots(7, [])
    bench.traffic.carry(keep)
    assert bench.take() == [keep]
    bench.traffic.note_done(keep, None)


class View:
    def write(self, sink: object) -> None: ...


def written(group: int) -> WriteSnapshot:
    return WriteSnapshot(group, 10, 1, META.configuration, 5, 1, View())


def test_one_group_at_a_time_asks_its_machine_for_a_view() -> None:
    bench = Bench()
    for group in (7, 8, 9):
        bench.traffic.carry(PlaceToWrite(group))
    assert bench.take() == [(7, MayWrite())]
    bench.traffic.carry(LeavePlace(7))
    assert bench.take() == [(8, MayWrite())], "there was nothing to write"
    bench.traffic.note_done(written(8), SnapshotFailed("full"))
    assert bench.take() == [(9, MayWrite())]
    bench.traffic.note_done(written(9), None)
    bench.traffic.carry(PlaceToWrite(7))
    assert bench.take() == [(7, MayWrite())]


def test_a_group_that_is_gone_holds_up_nobody() -> None:
    bench = Bench(snapshot_transfers_max=1)
    for group in (7, 8, 9):
        bench.traffic.carry(PlaceToWrite(group))
    bench.read(7, count=0)
    bench.store(7)
    bench.take()
    bench.traffic.forget(8)
    assert bench.take() == []
    bench.traffic.forget(7)
    assert bench.take() == [(9, MayWrite())]
    read, stored = bench.read(9), bench.store(9)
    assert bench.take() == [read, stored]


def test_a_group_that_asks_for_its_turn_twice_is_a_bug() -> None:
    bench = Bench()
    for group in (7, 8):
        bench.traffic.carry(PlaceToWrite(group))
        with pytest.raises(AssertionError, match="asks twice"):
            bench.traffic.carry(PlaceToWrite(group))
