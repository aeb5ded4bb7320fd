"""A worker whose disk errs, fills or hangs: what it answers, what it promises, and how it ends."""

from __future__ import annotations

import errno
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from actors import process as process_module
from actors import wire as kinds
from actors import worker as worker_module
from actors.disk import DiskThread
from actors.group_messages import machine_name
from actors.process import EXIT_CRASH, EXIT_STORE, end_by, failure_in
from actors.runtime import VirtualClock
from actors.settings import DiskSettings
from actors.space import ROOM_WAIT_MS_MAX, DiskSpace
from raft.messages import (
    COMMAND,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
)
from raft.settings import RaftSettings
from raft.store.errors import WalPoisoned
from raft.store.memory import MemoryFiles
from raft.store.runs import encode_run
from raft.store.segments import FILL_BYTES, SEGMENT_BYTES_FIRST
from raft.store.wal import Batch
from tests.actors.cluster import batch_of, put
from tests.actors.test_worker import KV, ME, N2, N3, Bench, snapshot
from transport import peer_codec, protocol
from transport.client import wire

MIB = 1 << 20
SIZE = wire.encode_read(b"\x81\xa4size\xc3")
LIMITS = DiskSettings(disk_soft_limit_bytes=8 * MIB, disk_reserve_bytes=4 * MIB)
WRITES = 12  # of one life
READ_ONLY, OK = protocol.READ_ONLY, protocol.OK
RESERVE = "/data/wal/1/reserve"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualClock:
    """Of every worker of the test."""
    clock = VirtualClock(1_000)
    monkeypatch.setattr(worker_module, "MonotonicClock", lambda: clock)
    return clock


def a_disk(capacity_bytes: int | None = None) -> MemoryFiles:
    files = MemoryFiles(limit_bytes=capacity_bytes)
    files.mkdir("/data")
    files.fsync_dir("/")
    return files


def a_bench(files: MemoryFiles, disk: DiskSettings = LIMITS, **rest: Any) -> Bench:
    """Of a disk that was used before, it finds the placement as it is."""
    return Bench(files=files, disk=disk, keep=files.exists("/data/placement"), **rest)


def look(bench: Bench) -> None:
    """What the thread does that looks, as often as it takes to make a reserve."""
    space = bench.worker._space
    for _ in range(LIMITS.disk_reserve_bytes // FILL_BYTES + 1):
        if space.look():
            bench.worker._on_room(space._judge.room)
    bench.loop.turn()


def leave_free(bench: Bench, free_bytes: int) -> None:
    """Somebody else fills the disk, or empties it."""
    bench.files.limit_bytes = bench.files.used_bytes + free_bytes
    look(bench)


def write(token: int, key: str = "a", value: bytes = b"value") -> list[Any]:
    return [token, KV, 10_000, protocol.RIGHTS_ALL, batch_of(put(key, value))]


def read(token: int) -> list[Any]:
    return [token, KV, 10_000, protocol.RIGHTS_ALL, batch_of(SIZE)]


def reply_to(bench: Bench, token: int) -> Any:
    for _, replies, _ in bench.link.of(kinds.ROUND):
        for at, payload in zip(replies[::2], replies[1::2], strict=True):
            if at == token:
                return wire.decode_replies(payload, 1)[0]
    raise AssertionError(f"{token} is not answered")


def metadata(bench: Bench) -> dict[str, Any]:
    bench.frame(kinds.DESCRIBE, 5, [KV])
    _, rows, shared = bench.link.of(kinds.DESCRIBED)[-1]
    return {**dict(rows)[KV], **shared}


# --------------------------------------------------------------------------- the soft limit


def test_a_disk_that_fills_turns_writes_away_and_takes_them_again_by_itself() -> None:
    bench = a_bench(a_disk())
    bench.join()
    leave_free(bench, 100 * MIB)
    bench.request(*write(1))
    bench.sync()
    leave_free(bench, 8 * MIB - 1)
    bench.request(*write(2), *read(3))
    bench.sync()
    refused = reply_to(bench, 2)
    assert (refused.code, refused.maybe_applied) == (READ_ONLY, False)
    for part in ("/data/wal/1", f"{8 * MIB - 1} bytes free", f"less than {8 * MIB}", "make room"):
        assert part in refused.error_text
    assert reply_to(bench, 3).code == OK
    leave_free(bench, 9 * MIB - 1)
    bench.request(*write(4))
    assert reply_to(bench, 4).code == READ_ONLY, "not yet: it would flap"
    leave_free(bench, 9 * MIB)
    bench.request(*write(5))
    bench.sync()
    assert reply_to(bench, 5).code == OK


def test_a_full_disk_is_shown_with_its_path_and_its_bytes() -> None:
    bench = a_bench(a_disk())
    bench.join()
    leave_free(bench, 5 * MIB)
    (rows,) = bench.link.of(kinds.SUMMARIES)[-1]
    summary = dict(rows)[KV]
    assert summary["state"] == "read_only"
    assert f"{5 * MIB} bytes free" in summary["error"]
    leave_free(bench, 3 * MIB)
    described = metadata(bench)
    assert described["state"] == "read_only"
    assert described["disk"]["free_bytes"] == 3 * MIB, "the latest, though nothing else changed"
    assert described["disk"]["path"] == "/data/wal/1"
    leave_free(bench, 50 * MIB)
    assert metadata(bench)["state"] == "running"


def test_what_was_accepted_before_the_disk_was_full_is_answered() -> None:
    bench = a_bench(a_disk())
    bench.join()
    bench.request(*write(1))
    leave_free(bench, 2 * MIB)
    bench.sync()
    assert reply_to(bench, 1).code == OK


def test_a_snapshot_is_taken_while_no_writes_are() -> None:
    bench = a_bench(a_disk())
    bench.join()
    bench.request(*write(1))
    bench.sync()
    leave_free(bench, 2 * MIB)
    bench.request(*snapshot(2))
    bench.loop.turn()
    bench.work()
    assert reply_to(bench, 2).code == OK


def test_with_hardly_any_room_a_snapshot_fails_alone() -> None:
    bench = a_bench(a_disk())
    bench.join()
    bench.request(*write(1))
    bench.sync()
    leave_free(bench, MIB)  # the hard limit: any byte would be below it
    bench.request(*snapshot(2))
    bench.loop.turn()
    bench.work()
    refused = reply_to(bench, 2)
    assert refused.code == protocol.REJECTED
    assert "bytes free, of which" in refused.error_text
    bench.request(*read(3))
    bench.sync()
    assert reply_to(bench, 3).code == OK


def test_a_leader_with_a_full_disk_offers_leadership(monkeypatch: pytest.MonkeyPatch) -> None:
    offers: list[bool] = []
    bench = a_bench(a_disk())
    bench.join()
    admin = type(bench.worker._groups[KV].admin)
    monkeypatch.setattr(admin, "offer_leadership", lambda _, stopping: offers.append(stopping))
    bench.request(*write(1))
    bench.sync()
    assert offers == []
    leave_free(bench, MIB)
    assert offers[0] is False


def test_a_group_that_is_placed_while_the_disk_is_full_takes_no_writes() -> None:
    bench = a_bench(a_disk())
    leave_free(bench, 4 * MIB)
    bench.place(9)
    bench.worker._load_groups()
    bench.worker._turn()
    bench.sync()
    assert bench.worker._groups[9].summary()["state"] == "read_only"


def test_a_file_system_that_does_not_answer_is_no_full_one() -> None:
    bench = a_bench(a_disk())
    bench.join()
    leave_free(bench, 100 * MIB)
    bench.files.fail("statvfs", errno.EIO)
    look(bench)
    bench.request(*write(1))
    bench.sync()
    assert reply_to(bench, 1).code == OK


def test_who_looks_may_hang_and_nobody_else_does(clock: VirtualClock) -> None:
    bench = a_bench(a_disk())
    bench.join()
    bench.files.hang("statvfs")
    looking = threading.Thread(target=bench.worker._space.look, daemon=True)
    looking.start()
    try:
        while bench.worker._space._asked_ms is None:
            looking.join(0.001)
        clock.advance(3_000)
        assert metadata(bench)["disk"]["look_ms"] == 3_000
        bench.request(*write(1))
        bench.sync()
        assert reply_to(bench, 1).code == OK
    finally:
        bench.files.go_on()
        looking.join()
    assert metadata(bench)["disk"]["look_ms"] is None


def test_the_thread_that_looks_tells_the_loop_of_changes_alone() -> None:
    files = a_disk(100 * MIB)
    space = DiskSpace(files, "/data/wal/1", LIMITS, VirtualClock(0))
    space.open(lambda: None)
    assert space.room.free_bytes == 100 * MIB
    heard: list[Any] = []
    told = threading.Event()

    def post(call: Callable[[], None]) -> None:
        call()
        told.set()

    space.start(post, heard.append)
    files.limit_bytes = files.used_bytes + MIB
    space.look_soon()
    assert told.wait(60)
    # The reserve, of which some steps may have been made by then, is no change of its own.
    assert [room.is_full for room in heard] == [True]


# --------------------------------------------------------------------------- the reserve


def test_the_reserve_is_made_while_there_is_room_and_given_up_in_steps() -> None:
    bench = a_bench(a_disk(100 * MIB))
    look(bench)
    assert len(bench.files.content(RESERVE)) == 4 * MIB
    leave_free(bench, 0)
    bench.worker._space.prepared(lambda: None)()
    assert len(bench.files.content(RESERVE)) == 3 * MIB, "as much as the next segment needs"
    assert bench.files.free_bytes("/") == SEGMENT_BYTES_FIRST
    leave_free(bench, 100 * MIB)
    assert len(bench.files.content(RESERVE)) == 4 * MIB


def test_no_reserve_is_made_that_would_itself_make_the_disk_full() -> None:
    bench = a_bench(a_disk())
    bench.files.limit_bytes = bench.files.used_bytes + 9 * MIB + 4 * MIB - 1
    look(bench)
    assert not bench.files.exists(RESERVE)
    leave_free(bench, 9 * MIB + 4 * MIB)
    assert bench.files.exists(RESERVE)
    assert bench.worker._space.refusal is None


def test_a_worker_that_starts_on_a_full_disk_serves_reads_and_votes_and_uses_up_nothing() -> None:
    """Pitfall 49."""
    bench = a_bench(a_disk(100 * MIB))
    bench.join()
    for token in range(5):
        bench.request(*write(token, str(token)))
        bench.sync()
    look(bench)
    for life in range(20):
        leave_free(bench, 0)
        bench.files.kill()
        bench = a_bench(bench.files)
        bench.join()
        bench.request(*read(1), *write(2))
        bench.sync()
        assert reply_to(bench, 1).code == OK, life
        assert reply_to(bench, 2).code == READ_ONLY, life
        assert bench.worker._groups[KV].core.term == life + 2, "it has voted, durably"
    assert len(bench.files.content(RESERVE)) >= 2 * MIB
    leave_free(bench, 50 * MIB)
    bench.request(*write(3))
    bench.sync()
    assert reply_to(bench, 3).code == OK
    assert len(bench.files.content(RESERVE)) == 4 * MIB


def test_room_that_somebody_else_takes_first_costs_more_of_the_reserve() -> None:
    files = a_disk(20 * MIB)
    space = DiskSpace(files, "/data/wal/1", LIMITS, VirtualClock(0))
    space.open(lambda: None)
    while space._reserve.fill():
        pass
    files.limit_bytes = files.used_bytes
    tries: list[int] = []

    def attempt() -> str:
        tries.append(files.free_bytes("/"))
        if len(tries) < 4:
            files.limit_bytes = files.used_bytes
            raise OSError(errno.ENOSPC, "somebody was faster")
        return "open"

    assert space.open(attempt) == "open"
    assert tries == [0, 64 << 10, 128 << 10, 256 << 10]
    assert space.refusal is not None


def test_without_room_and_reserve_a_start_waits_and_then_says_that_the_disk_is_full(
    clock: VirtualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = a_bench(a_disk(100 * MIB), DiskSettings(8 * MIB, 0))
    leave_free(bench, 0)
    bench.files.kill()
    waits: list[float] = []

    class Poke(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert timeout is not None
            waits.append(timeout)
            clock.advance(int(timeout * 1_000))
            return False

    # The zeros of the segment that was in use are room for the next: until somebody takes them.
    unlink, truncate = MemoryFiles.unlink, MemoryFiles.truncate

    def greedy(of: Any) -> Any:
        def then(files: MemoryFiles, *what: Any) -> None:
            of(files, *what)
            files.limit_bytes = files.used_bytes

        return then

    with monkeypatch.context() as patched:
        patched.setattr(threading, "Event", Poke)
        patched.setattr(MemoryFiles, "unlink", greedy(unlink))
        patched.setattr(MemoryFiles, "truncate", greedy(truncate))
        with pytest.raises(WalPoisoned, match="No space left") as full:
            a_bench(bench.files, DiskSettings(8 * MIB, 0))
    assert sum(waits) * 1_000 == pytest.approx(ROOM_WAIT_MS_MAX)
    assert process_module._kind_of(full.value) == "full"
    bench.files.limit_bytes = bench.files.used_bytes + 2 * SEGMENT_BYTES_FIRST
    again = a_bench(bench.files, DiskSettings(8 * MIB, 0))
    assert again.worker._space.refusal is not None


def test_segments_stay_small_while_room_is_scarce() -> None:
    bench = a_bench(a_disk())
    bench.join()
    leave_free(bench, 40 * MIB)
    for token in range(120):
        bench.request(*write(token, str(token), bytes(400_000)))
        bench.sync()
        look(bench)
    sizes = [
        len(bench.files.content(f"/data/wal/1/{name}"))
        for name in bench.files.listdir("/data/wal/1")
        if name.endswith(".wal")
    ]
    assert max(sizes) <= 8 * MIB
    assert bench.worker._space.refusal is not None
    assert bench.files.free_bytes("/") > MIB, "it stopped early enough by far"


# --------------------------------------------------------------------------- followers


def a_follower() -> Bench:
    bench = a_bench(a_disk(), members=(ME, N2, N3))
    bench.join()
    return bench


def append(first: int, size_bytes: int) -> Append:
    commands = [(0, 0, 0, bytes(size_bytes))]
    run = encode_run(COMMAND, 1, first, time_ms=1, wall_ms=1, commands=commands)
    return Append(N2, ME, 1, first - 1, 1 if first > 1 else 0, 0, [run])


def test_a_follower_with_a_full_disk_goes_on_with_what_is_in_the_log_elsewhere() -> None:
    bench = a_follower()
    leave_free(bench, 2 * MIB)
    for first in range(1, 5):
        bench.peer(N2, append(first, 400_000))
        bench.sync()
        look(bench)
    assert bench.worker._groups[KV].core.durable_index == 4
    assert bench.worker._groups[KV].summary()["state"] == "read_only"


def test_below_the_hard_limit_a_follower_takes_what_fits_into_its_segment() -> None:
    """So that somebody can still be elected, and what is in the log be committed."""
    bench = a_follower()
    leave_free(bench, MIB - 1)
    core = bench.worker._groups[KV].core
    bench.peer(N2, append(1, 400_000))
    bench.sync()
    bench.peer(N2, append(2, 400_000))
    bench.sync()
    assert core.durable_index == 1, "the second one would need another segment"
    assert bench.worker.counts["appends_dropped"] == 1
    bench.peer(N2, append(2, 100))
    bench.sync()
    assert core.durable_index == 2
    leave_free(bench, 20 * MIB)
    bench.peer(N2, append(3, 400_000))
    bench.sync()
    assert core.durable_index == 3


def test_a_follower_whose_sync_hangs_answers_heartbeats_and_does_not_grow_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "WAL_BEHIND_BYTES_MAX", 1_000_000)
    bench = a_follower()
    bench.peer(N2, Heartbeat(N2, ME, 1, 0, 1))
    bench.sync()
    for first in range(1, 30):
        bench.peer(N2, append(first, 400_000))
    assert len(bench.disk.batches) == 1
    assert bench.worker._wal.gathered_bytes < 1_000_000 + 500_000
    assert bench.worker.counts["appends_dropped"] > 20
    before = len(bench.link.of(kinds.PEER_CONTROL))
    bench.peer(N2, Heartbeat(N2, ME, 1, 0, 2))
    (items,) = bench.link.of(kinds.PEER_CONTROL)[before:][-1]
    assert peer_codec.decode(items[3], ME, N2) == HeartbeatReply(ME, N2, 1, 2)
    last = bench.worker._groups[KV].core.last_index
    bench.sync()
    bench.peer(N2, append(last + 1, 400_000))
    bench.sync()
    assert bench.worker._groups[KV].core.durable_index == last + 1


# --------------------------------------------------------------------------- a disk that hangs


def test_a_leader_whose_sync_hangs_steps_down_and_serves_again_when_it_is_over(
    clock: VirtualClock,
) -> None:
    settings = RaftSettings()
    bench = a_bench(a_disk(), members=(ME, N2, N3), raft=settings)
    bench.join()
    core = bench.worker._groups[KV].core
    _elect(bench, clock)
    bench.request(1, KV, 60_000, protocol.RIGHTS_ALL, batch_of(put("a"), timeout_ms=60_000))
    began_ms = clock.now_ms()
    hung = bench.disk.batches
    assert len(hung) == 1
    while core.is_leader:
        _pass(bench, clock, 50)
        # The others hear it: it is not for want of a majority that it gives up.
        _answer_heartbeats(bench)
        assert clock.now_ms() - began_ms <= 2 * settings.election_timeout_ms
    assert clock.now_ms() - began_ms >= settings.election_timeout_ms
    assert reply_to(bench, 1).code == protocol.NOT_LEADER
    assert metadata(bench)["disk"]["sync_ms"] == clock.now_ms() - began_ms
    bench.sync()
    assert metadata(bench)["disk"]["sync_ms"] is None
    _elect(bench, clock)
    assert core.is_leader


def test_a_sync_that_hangs_keeps_the_disk_thread_and_is_heard_of_when_it_is_over() -> None:
    bench = a_bench(a_disk())
    bench.join()
    heard: list[tuple[Batch, BaseException | None]] = []
    told = threading.Event()

    class Loop:
        def call_soon_threadsafe(
            self, call: Callable[..., None], batch: Batch, error: BaseException | None
        ) -> None:
            call(batch, error)
            told.set()

    thread = DiskThread(
        lambda batch, error: heard.append((batch, error)), lambda: None, cast(Any, Loop())
    )
    bench.files.hang("fdatasync", path=".wal")
    bench.request(*write(1))
    (batch,) = bench.disk.batches
    thread.submit(batch)
    try:
        bench.request(*write(2), *write(3))
        assert not told.wait(0.02)
        assert bench.worker._wal.take_batch() is None, "at most one is unsynced"
        assert bench.replies() == {}
    finally:
        bench.files.go_on()
    assert told.wait(60)
    bench.disk.batches.clear()
    ((done, error),) = heard
    bench.worker._on_disk_done(done, error)
    bench.loop.turn()
    bench.sync()
    assert bench.replies() == {1: OK, 2: OK, 3: OK}


def _pass(bench: Bench, clock: VirtualClock, ms: int) -> None:
    clock.advance(ms)
    bench.worker._on_timer()
    bench.loop.turn()


def _sent(bench: Bench) -> Iterator[Any]:
    """What has been sent to peers in the control lane, once each."""
    frames = bench.link.of(kinds.PEER_CONTROL)
    seen = getattr(bench, "seen", 0)
    bench.seen = len(frames)  # type: ignore[attr-defined]
    for (items,) in frames[seen:]:
        for at in range(0, len(items), 4):
            to = N2 if items[at] == N2.node else N3
            yield peer_codec.decode(items[at + 3], ME, to)


def _elect(bench: Bench, clock: VirtualClock) -> None:
    core = bench.worker._groups[KV].core
    list(_sent(bench))
    while not core.is_leader:
        _pass(bench, clock, 100)
        bench.sync()
        for message in _sent(bench):
            if type(message) is PreVote:
                reply = PreVoteReply(message.to, ME, message.term, True, message.campaign)
                bench.peer(message.to, reply)
            elif type(message) is Vote:
                bench.peer(message.to, VoteReply(message.to, ME, message.term, True))
        bench.sync()
    bench.peer(N2, AppendReply(N2, ME, core.term, core.last_index))
    bench.sync()


def _answer_heartbeats(bench: Bench) -> None:
    for message in _sent(bench):
        if type(message) is Heartbeat:
            bench.peer(message.to, HeartbeatReply(message.to, ME, message.term, message.round))


# --------------------------------------------------------------------------- how it ends


class Ended(BaseException):
    """The process has ended with this code."""


class Said:
    """The pipe for last words."""

    def __init__(self) -> None:
        self.words = ""

    def send_bytes(self, data: bytes) -> None:
        self.words = data.decode()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(process_module, "end_process", end)
    return Said()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.EIO, "gone"), EXIT_STORE, "failed: [Errno 5] gone"),
        (OSError(errno.ENOSPC, "full"), EXIT_STORE, "full: [Errno 28] full"),
        (WalPoisoned("by a sync"), EXIT_STORE, "failed: by a sync"),
        (KeyError("bug"), EXIT_CRASH, ""),
    ],
)
def test_a_failed_batch_ends_the_process_and_answers_nothing(
    said: Said, error: Exception, code: int, words: str
) -> None:
    """Pitfall 44."""
    bench = Bench()
    bench.join()
    bench.request(*write(1))
    with pytest.raises(type(error)) as raised:
        bench.worker._on_disk_done(bench.disk.batches[0], error)
    with pytest.raises(Ended) as ended:
        end_by(failure_in({"exception": raised.value}), cast(Any, said), "slot 1")
    assert ended.value.args == (code,)
    assert said.words == words
    assert bench.replies() == {}


def test_who_has_nobody_to_say_last_words_to_ends_all_the_same(said: Said) -> None:
    class Gone:
        def send_bytes(self, data: bytes) -> None:
            assert len(data) <= process_module.LAST_WORDS_BYTES_MAX
            raise BrokenPipeError

    with pytest.raises(Ended) as ended:
        end_by(WalPoisoned("x" * 10_000), cast(Any, Gone()), "slot 1")
    assert ended.value.args == (EXIT_STORE,)


def test_poison_that_a_turn_meets_before_the_news_of_it_ends_the_process_alike(
    said: Said, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk thread has failed, and a turn has something to save: nothing of it leaves."""
    bench = Bench(members=(ME, N2, N3))
    bench.join()
    bench.peer(N2, append(1, 10))
    bench.files.fail("fdatasync", errno.EIO, path=".wal")
    with pytest.raises(WalPoisoned):
        bench.disk.batches[0].run()
    sent = len(bench.link.frames)
    with pytest.raises(WalPoisoned) as met:
        bench.peer(N2, append(2, 10))
    assert len(bench.link.frames) == sent
    with caplog.at_level(logging.CRITICAL), pytest.raises(Ended) as ended:
        end_by(failure_in({"exception": met.value}), cast(Any, said), "slot 1")
    assert ended.value.args == (EXIT_STORE,)
    for part in ("/data/wal/1/", "fdatasync", "Errno 5"):
        assert part in said.words
    assert "Traceback" not in caplog.text


def test_an_error_while_the_log_is_read_ends_the_process_with_file_and_errno(said: Said) -> None:
    bench = Bench()
    bench.files.kill()
    bench.files.fail("pread", errno.EIO, path=".wal")
    with pytest.raises(OSError, match="pread") as error:
        Bench(files=bench.files)
    with pytest.raises(Ended):
        end_by(error.value, cast(Any, said), "slot 1")
    assert said.words.startswith("failed: [Errno 5] pread: Input/output error: '/data/wal/1/0")


# --------------------------------------------------------------------------- each operation


def _a_life(files: MemoryFiles) -> tuple[set[str], bool]:
    """Write a while, over several segments and two snapshots: keys acknowledged, and whether the
    process has ended by an error of its disk."""
    try:
        bench = a_bench(files)
    except (OSError, WalPoisoned):
        return set(), True
    bench.join()
    has_ended = False
    try:
        for token in range(WRITES):
            bench.request(*write(token, f"key{token}", bytes(200_000)))
            if token % 5 == 4:
                bench.request(*snapshot(100 + token))
            bench.sync()
            bench.work()
            look(bench)
    except (OSError, WalPoisoned):
        has_ended = True
    answered = bench.replies().items()
    return {f"key{at}" for at, code in answered if at < WRITES and code == OK}, has_ended


def _found(files: MemoryFiles) -> set[str]:
    bench = a_bench(files)
    bench.join()
    bench.sync()
    bench.work()
    machine = bench.worker._scheduler.actor(machine_name(KV))
    assert machine is not None
    return set(cast(Any, machine).machine._entries)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("power", [False, True], ids=["process ends", "power fails"])
def test_whichever_operation_of_the_disk_fails_what_was_acknowledged_is_found(
    error: int, power: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each change of a life in turn: creations, writes, syncs, cuts, renames, removals."""
    ends = points = 0
    rng = random.Random(7)
    while True:
        files = a_disk(1 << 30)
        files.recording = False
        files.fail_change(points, error)
        acknowledged, has_ended = _a_life(files)
        if files.change_is_to_fail:
            break
        points += 1
        ends += has_ended
        if power:
            files.crash(rng)
        else:
            files.kill()
        files.repair()
        missing = acknowledged - _found(files)
        assert not missing, f"after operation {points} had failed: {sorted(missing)} are lost"
        assert has_ended or len(acknowledged) == WRITES
    with capsys.disabled():
        sys.stdout.write(f"\n{points} operations failed, each in a life of its own; {ends} ended\n")
    assert points > 100
    assert ends > 30
