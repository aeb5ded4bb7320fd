"""Snapshot files: what was finished is found as it was, and damage is never handed to a machine."""

from __future__ import annotations

import errno
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.configuration import Configuration
from raft.messages import HardState, Mark, Save, SnapshotMeta
from raft.store import snapshot_file
from raft.store.errors import SnapshotDamaged, StoreError, UnknownFormat
from raft.store.files import Files
from raft.store.memory import MemoryFiles
from raft.store.snapshot_file import (
    CHUNK,
    CHUNK_BYTES,
    END_FRAME_BYTES,
    FRAME_BYTES,
    HEAD,
    encode_end,
    encode_frame,
)
from raft.store.snapshots import SYNC_BYTES, SnapshotStore, SnapshotWriter, snapshot_name
from tests.raft.store.kit import CONFIGURATION, N1, N2, Slot, run_of

DIRECTORY = "/data/groups/7/snapshots"
JOINT = Configuration.of(N1).enter(frozenset((N2,)), frozenset((N1,)))


def a_store(files: Files | None = None) -> SnapshotStore:
    return SnapshotStore(files or MemoryFiles(), DIRECTORY)


def begin(store: SnapshotStore, index: int = 10, *, term: int = 2) -> SnapshotWriter:
    return store.begin(index, term, JOINT, 5_000, 3)


def take(store: SnapshotStore, *pieces: bytes, index: int = 10, term: int = 2) -> SnapshotMeta:
    writer = begin(store, index, term=term)
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def path_of(meta: SnapshotMeta) -> str:
    return f"{DIRECTORY}/{snapshot_name(meta)}"


def memory(store: SnapshotStore) -> MemoryFiles:
    files = store._files
    assert isinstance(files, MemoryFiles)
    return files


def content(store: SnapshotStore, meta: SnapshotMeta) -> bytes:
    return memory(store).content(path_of(meta))


def names(store: SnapshotStore) -> list[str]:
    return memory(store).listdir(DIRECTORY)


def machine_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


LARGE = machine_bytes(2 * CHUNK_BYTES + 1000)


# --------------------------------------------------------------------------- writing and reading


@pytest.mark.parametrize(
    "count", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_what_was_written_is_read_again(count: int) -> None:
    store = a_store()
    data = machine_bytes(count)
    meta = take(store, data)
    assert (meta.index, meta.term, meta.configuration) == (10, 2, JOINT)
    assert (meta.time_ms, meta.machine_version) == (5_000, 3)
    assert b"".join(store.read(meta)) == data
    store.verify(meta)
    assert store.has(meta)


def test_size_and_crc_are_those_of_the_file() -> None:
    store = a_store()
    meta = take(store, LARGE)
    whole = content(store, meta)
    assert (meta.size_bytes, meta.crc) == (len(whole), crc32c(whole))


@given(st.lists(st.integers(0, len(LARGE)), max_size=6))
@settings(max_examples=25)
def test_the_file_does_not_depend_on_how_the_machine_cuts_its_bytes(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(LARGE)]
    store = a_store()
    meta = take(store, *(LARGE[start:end] for start, end in itertools.pairwise(places)))
    assert meta == take(a_store(), LARGE)
    assert content(store, meta) == content(store, take(store, LARGE))


def test_a_file_is_laid_out_as_documented() -> None:
    store = a_store()
    meta = take(store, b"state")
    whole = content(store, meta)
    head = msgpack.packb([10, 2, [["n1", 0x11, 6], ["n2", 0x22, 4]], 5_000, 3])
    number = itertools.count()
    expected = b""
    for kind, body in ((0, head), (1, b"state"), (2, bytes((1, *[0] * 7, 5, *[0] * 7)))):
        header = b"PRsn" + bytes((1, kind, 0, 0))
        header += next(number).to_bytes(4, "little") + len(body).to_bytes(4, "little")
        expected += header + crc32c(header + body).to_bytes(4, "little") + body
    assert whole == expected
    assert path_of(meta).endswith(f"/{10:016x}-{2:016x}-{meta.crc:08x}.snapshot")


def test_a_large_snapshot_is_held_in_memory_by_pieces_and_synced_in_steps() -> None:
    store = a_store()
    writer = begin(store)
    writer.write(bytes(10 * SYNC_BYTES))
    meta = writer.finish()
    assert max(map(len, store.read(meta))) == CHUNK_BYTES
    unsynced = 0
    for operation, _, *details in memory(store).operations:
        if operation == "pwrite":
            count = details[1]
            assert isinstance(count, int)
            assert count <= FRAME_BYTES
            unsynced += count
        elif operation in ("fdatasync", "fsync"):
            unsynced = 0
        assert unsynced < SYNC_BYTES + FRAME_BYTES


def test_the_file_is_synced_before_it_gets_its_name_and_the_name_before_it_counts() -> None:
    """Pitfall 41."""
    store = a_store()
    writer = begin(store)
    writer.write(b"state")
    memory(store).operations.clear()
    meta = writer.finish()
    aside = f"{DIRECTORY}/{10:016x}-{2:016x}.writing"
    steps = [(name, path) for name, path, *_ in memory(store).operations]
    assert steps == [
        ("pwrite", aside),
        ("pwrite", aside),
        ("fsync", aside),
        ("rename", aside),
        ("fsync_dir", DIRECTORY),
    ]
    assert memory(store).operations[3][2] == path_of(meta)


def test_an_aborted_snapshot_leaves_nothing() -> None:
    store = a_store()
    writer = begin(store)
    writer.write(LARGE)
    writer.abort()
    writer.abort()
    assert names(store) == []
    assert memory(store).open_count == 0
    with pytest.raises(AssertionError):
        writer.write(b"more")
    with pytest.raises(AssertionError):
        writer.finish()


def test_a_finished_snapshot_cannot_be_aborted_or_finished_again() -> None:
    store = a_store()
    writer = begin(store)
    meta = writer.finish()
    writer.abort()
    assert store.has(meta)
    assert memory(store).open_count == 0
    with pytest.raises(AssertionError):
        writer.finish()


def test_two_writers_of_one_entry_at_a_time_are_an_assertion() -> None:
    store = a_store()
    begin(store)
    with pytest.raises(AssertionError):
        begin(store)
    begin(store, 11).abort()


def test_a_head_that_could_not_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 47."""
    monkeypatch.setattr(snapshot_file, "HEAD_BYTES_MAX", 10)
    store = a_store()
    with pytest.raises(StoreError, match="at most 10"):
        begin(store)
    assert not memory(store).exists(DIRECTORY)


def test_a_head_larger_than_a_chunk_is_read_again() -> None:
    store = a_store()
    many = Configuration(
        frozenset(N1._replace(node=f"node{n:06}" + "x" * 200) for n in range(2000))
    )
    writer = store.begin(10, 2, many, 0, 0)
    writer.write(LARGE)
    meta = writer.finish()
    assert meta.size_bytes > len(LARGE) + FRAME_BYTES
    assert b"".join(store.read(meta)) == LARGE
    whole = content(store, meta)
    for offset in range(0, meta.size_bytes, 100_000):
        assert store.read_raw(meta, offset, 70_000) == whole[offset : offset + 70_000]


@pytest.mark.parametrize("operation", ["create", "pwrite", "fdatasync", "fsync", "rename"])
def test_a_disk_that_fails_leaves_the_snapshot_before_and_no_other(operation: str) -> None:
    store = a_store()
    before = take(store, b"before")
    memory(store).fail(operation, errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        take(store, bytes(2 * SYNC_BYTES), index=11)
    store.keep([before])
    assert names(store) == [snapshot_name(before)]
    assert memory(store).open_count == 0
    store.verify(before)
    store.verify(take(store, bytes(2 * SYNC_BYTES), index=11))


def test_a_name_that_could_not_be_synced_does_not_count() -> None:
    store = a_store()
    take(store, b"before")
    memory(store).fail("fsync_dir", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        take(store, b"state", index=11)
    assert memory(store).open_count == 0


# --------------------------------------------------------------------------- damage


def put(
    store: SnapshotStore, meta: SnapshotMeta, data: bytes, *, honest: bool = False
) -> SnapshotMeta:
    """Another content under this name; ``honest``: with the size and CRC that go with it."""
    if honest:
        meta = SnapshotMeta(
            meta.index,
            meta.term,
            meta.configuration,
            meta.time_ms,
            meta.machine_version,
            len(data),
            crc32c(data),
        )
    memory(store).put(path_of(meta), data)
    return meta


def test_any_flipped_bit_of_a_small_file_is_seen() -> None:
    store = a_store()
    meta = take(store, b"state")
    whole = content(store, meta)
    for offset in range(len(whole)):
        for bit in range(8):
            memory(store).flip(path_of(meta), offset, bit)
            with pytest.raises((SnapshotDamaged, UnknownFormat)) as caught:
                store.verify(meta)
            assert path_of(meta) in str(caught.value)
            memory(store).flip(path_of(meta), offset, bit)
    store.verify(meta)


def test_damage_is_found_in_its_frame_and_nothing_of_it_is_given_out() -> None:
    store = a_store()
    meta = take(store, LARGE)
    head_bytes = meta.size_bytes - len(LARGE) - 3 * 20 - END_FRAME_BYTES
    for number in range(3):
        start = head_bytes + number * FRAME_BYTES
        for offset in (start, start + 5, start + 9, start + 13, start + 17, start + 900):
            memory(store).flip(path_of(meta), offset)
            given: list[bytes] = []
            with pytest.raises(SnapshotDamaged) as caught:
                given.extend(store.read(meta))
            assert caught.value.offset == start
            assert b"".join(given) == LARGE[: number * CHUNK_BYTES] or given == []
            memory(store).flip(path_of(meta), offset)


def test_chunks_before_the_damage_are_given_out() -> None:
    store = a_store()
    meta = take(store, LARGE)
    memory(store).flip(path_of(meta), meta.size_bytes - END_FRAME_BYTES - 1)
    reader = store.read(meta)
    assert next(reader) + next(reader) == LARGE[: 2 * CHUNK_BYTES]
    with pytest.raises(SnapshotDamaged):
        next(reader)
    assert memory(store).open_count == 0


def test_a_file_of_another_length_is_damaged() -> None:
    store = a_store()
    meta = take(store, b"state")
    whole = content(store, meta)
    for length in range(len(whole)):
        put(store, meta, whole[:length])
        with pytest.raises(SnapshotDamaged, match=f"has {length} bytes") as caught:
            store.verify(meta)
        assert caught.value.offset == length
    put(store, meta, whole + b"\0")
    with pytest.raises(SnapshotDamaged, match="instead of"):
        store.verify(meta)
    assert memory(store).open_count == 0


def test_a_missing_file_is_damage_too() -> None:
    store = a_store()
    meta = take(store, b"state")
    memory(store).unlink(path_of(meta))
    assert not store.has(meta)
    for attempt in (lambda: store.verify(meta), lambda: store.read_raw(meta, 0, 10)):
        with pytest.raises(SnapshotDamaged, match="missing"):
            attempt()


def of_format(format_: int, frame: bytes) -> bytes:
    """The same frame, as another version would write it."""
    header = frame[:4] + bytes((format_,)) + frame[5:16]
    crc: int = crc32c(header + frame[20:])
    return header + crc.to_bytes(4, "little") + frame[20:]


def frames(whole: bytes) -> list[bytes]:
    found = []
    while whole:
        length = 20 + int.from_bytes(whole[12:16], "little")
        found.append(whole[:length])
        whole = whole[length:]
    return found


def test_frames_in_another_order_are_damage_where_it_begins() -> None:
    store = a_store()
    meta = take(store, LARGE)
    head, one, two, three, end = frames(content(store, meta))
    for order, number in (
        ([head, two, one, three, end], 1),
        ([head, one, one, three, end], 2),
        ([one, head, two, three, end], 0),
    ):
        wrong = put(store, meta, b"".join(order), honest=True)
        with pytest.raises(SnapshotDamaged) as caught:
            store.verify(wrong)
        assert caught.value.offset == sum(map(len, order[:number]))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda head, _: [head, encode_frame(CHUNK, 1, b"x")], "does not begin here"),
        (lambda head, _: [head, encode_end(1, 1)], "tells of other chunks"),
        (lambda head, _: [head, encode_end(1, 0), b"more"], "behind its end"),
        (lambda head, _: [head, encode_frame(HEAD, 1, b"")], "cannot stand here"),
        (
            lambda head, _: [
                head,
                encode_frame(CHUNK, 1, b"short"),
                encode_frame(CHUNK, 2, b"x"),
                encode_end(3, 6),
            ],
            "cannot stand here",
        ),
        (lambda head, _: [of_format(0, head), encode_end(1, 0)], "frame 0 is wrong"),
        (lambda head, _: [head, of_format(2, encode_end(1, 0))], "frame 1 is wrong"),
        (lambda head, _: [encode_end(1, 0)], "frame 1 stands where frame 0 belongs"),
        (lambda head, _: [encode_frame(CHUNK, 0, b"x")], "does not begin with a head"),
        (lambda head, _: [encode_frame(HEAD, 0, b"\xc1")], "damaged"),
        (lambda head, _: [encode_frame(HEAD, 0, msgpack.packb(7))], "list of five"),
        (lambda head, _: [encode_frame(HEAD, 0, msgpack.packb([1, 2, [], 3, 4]))], "voter"),
        (lambda head, _: [encode_frame(HEAD, 0, msgpack.packb([1, -2, [], 3, 4]))], "number"),
        (lambda head, other: [other, encode_end(1, 0)], "another snapshot, of entry 11"),
        (lambda head, _: [head, encode_frame(CHUNK, 1, bytes(FRAME_BYTES))], "checksum"),
    ],
)
def test_a_sound_file_that_no_writer_writes_is_damage(
    build: Callable[[bytes, bytes], list[bytes]], reason: str
) -> None:
    store = a_store()
    meta = take(store, b"state")
    head = frames(content(store, meta))[0]
    other = frames(content(store, take(store, b"state", index=11)))[0]
    wrong = put(store, meta, b"".join(build(head, other)), honest=True)
    with pytest.raises(SnapshotDamaged, match=reason):
        store.verify(wrong)


def test_a_sound_file_that_is_not_the_recorded_one_is_damage() -> None:
    store = a_store()
    meta = take(store, b"state")
    other = take(store, b"stale")
    put(store, meta, content(store, other))
    with pytest.raises(SnapshotDamaged, match="not the file that was recorded"):
        store.verify(meta)


def test_what_a_newer_version_wrote_is_told_apart_from_damage() -> None:
    store = a_store()
    meta = take(store, b"state")
    whole = content(store, meta)
    head, *rest = frames(whole)
    newer = head[:4] + b"\x02 any layout"
    strange = encode_frame(9, 1, b"")
    part = encode_frame(HEAD, 0, msgpack.packb([10, 2, [["n1", 1, 1], ["n2", 2, 3]], 5_000, 3]))
    for data, what in (
        (newer + whole[len(newer) :], "format 2"),
        (head + strange, "unknown kind 9"),
        (part + b"".join(rest), "part 3"),
    ):
        wrong = put(store, meta, data, honest=True)
        with pytest.raises(UnknownFormat, match=what):
            store.verify(wrong)


def test_new_fields_of_a_head_are_left_to_who_knows_them() -> None:
    store = a_store()
    meta = take(store, b"state")
    head, *rest = frames(content(store, meta))
    newer = encode_frame(HEAD, 0, msgpack.packb([*msgpack.unpackb(head[20:]), "newer"]))
    meta = put(store, meta, newer + b"".join(rest), honest=True)
    assert b"".join(store.read(meta)) == b"state"


def test_a_disk_that_cannot_be_read_is_an_error_of_the_system() -> None:
    store = a_store()
    meta = take(store, b"state")
    memory(store).fail("pread", errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        store.verify(meta)
    assert memory(store).open_count == 0
    store.verify(meta)


# --------------------------------------------------------------------------- bytes of the file

RAW_STORE = a_store()
RAW_META = take(RAW_STORE, LARGE)
RAW = content(RAW_STORE, RAW_META)
HEAD_BYTES = len(RAW) - len(LARGE) - 3 * 20 - END_FRAME_BYTES


@given(st.integers(0, len(RAW) + 50), st.integers(0, 300_000))
@settings(max_examples=60)
def test_any_bytes_of_the_file_can_be_read(offset: int, count: int) -> None:
    assert RAW_STORE.read_raw(RAW_META, offset, count) == RAW[offset : offset + count]


@pytest.mark.parametrize("count", [0, 1, 236 - 20, CHUNK_BYTES - 30, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_bytes_around_every_border_can_be_read(count: int) -> None:
    """The last chunk is short, or full, or missing; its end lies where a further chunk might."""
    store = a_store()
    meta = take(store, machine_bytes(count))
    whole = content(store, meta)
    borders = [0, *itertools.accumulate(map(len, frames(whole)))]
    for border in borders:
        for offset in range(max(0, border - 2), border + 3):
            for length in (1, 5, 100_000):
                assert store.read_raw(meta, offset, length) == whole[offset : offset + length]


def test_damage_is_not_sent_on() -> None:
    store = a_store()
    meta = take(store, LARGE)
    whole = content(store, meta)
    memory(store).flip(path_of(meta), HEAD_BYTES + FRAME_BYTES + 100)
    assert store.read_raw(meta, 0, HEAD_BYTES + FRAME_BYTES) == whole[: HEAD_BYTES + FRAME_BYTES]
    after = HEAD_BYTES + 2 * FRAME_BYTES
    assert store.read_raw(meta, after, 5_000) == whole[after : after + 5_000]
    for offset, count in ((HEAD_BYTES + FRAME_BYTES - 1, 2), (after - 1, 1)):
        with pytest.raises(SnapshotDamaged) as caught:
            store.read_raw(meta, offset, count)
        assert caught.value.offset == HEAD_BYTES + FRAME_BYTES


# --------------------------------------------------------------------------- receiving


def chunks(whole: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    for offset in range(0, len(whole), count):
        yield offset, whole[offset : offset + count]


@pytest.mark.parametrize("count", [1_000, FRAME_BYTES, FRAME_BYTES - 1, 10 * FRAME_BYTES])
def test_a_received_file_is_the_one_that_was_sent(count: int) -> None:
    receiver = a_store()
    for offset, data in chunks(RAW, count):
        assert receiver.receive(RAW_META, offset, data) == offset + len(data)
    assert not receiver.has(RAW_META)
    assert receiver.complete(RAW_META)
    assert content(receiver, RAW_META) == RAW
    assert b"".join(receiver.read(RAW_META)) == LARGE
    assert names(receiver) == [snapshot_name(RAW_META)]
    assert memory(receiver).open_count == 0


def test_what_does_not_fit_is_answered_with_what_is_held() -> None:
    receiver = a_store()
    assert receiver.receive(RAW_META, 5, RAW[5:10]) == 0
    assert receiver.receive(RAW_META, 0, b"") == 0
    assert not memory(receiver).exists(DIRECTORY)
    assert receiver.receive(RAW_META, 0, RAW[:100]) == 100
    assert receiver.receive(RAW_META, 0, RAW[:100]) == 100  # again
    assert receiver.receive(RAW_META, 50, RAW[50:150]) == 100
    assert receiver.receive(RAW_META, 200, RAW[200:300]) == 100  # one in between was lost
    assert receiver.receive(RAW_META, 100, b"") == 100
    assert receiver.receive(RAW_META, 100, RAW[100:] + b"x") == 100  # beyond its end
    assert receiver.receive(RAW_META, 100, RAW[100:]) == len(RAW)
    assert receiver.receive(RAW_META, len(RAW), b"") == len(RAW)
    assert receiver.complete(RAW_META)


def test_what_is_received_is_synced_in_steps_and_all_of_it_before_it_counts() -> None:
    """One sync for each chunk would stand in the way of the log's own."""
    sender, receiver = a_store(), a_store()
    meta = take(sender, machine_bytes(3 * SYNC_BYTES))
    whole = content(sender, meta)
    for offset, data in chunks(whole, FRAME_BYTES):
        receiver.receive(meta, offset, data)
    assert receiver.complete(meta)
    steps = [(name, *rest) for name, _, *rest in memory(receiver).operations]
    syncs = [at for at, step in enumerate(steps) if step[0] == "fdatasync"]
    assert len(syncs) == 3
    assert syncs[0] > [step[0] for step in steps].index("pwrite") + 2
    names_of_steps = [step[0] for step in steps]
    assert names_of_steps[-3:] == ["fsync", "rename", "fsync_dir"]


def test_another_snapshot_takes_the_place_of_the_one_that_was_coming_in() -> None:
    sender, receiver = a_store(), a_store()
    newer = take(sender, b"newer", index=11)
    whole = content(sender, newer)
    receiver.receive(RAW_META, 0, RAW[:100])
    assert receiver.receive(newer, 10, whole[10:]) == 0  # not its beginning
    assert receiver.receive(RAW_META, 100, RAW[100:200]) == 200  # so the other is still there
    assert receiver.receive(newer, 0, whole[:20]) == 20
    assert receiver.receive(RAW_META, 200, RAW[200:300]) == 0
    assert not receiver.complete(RAW_META)
    assert receiver.receive(newer, 20, whole[20:]) == len(whole)
    assert receiver.complete(newer)
    assert names(receiver) == [snapshot_name(newer)]


def test_a_chunk_that_comes_twice_does_not_begin_a_completed_snapshot_anew() -> None:
    receiver = a_store()
    receiver.receive(RAW_META, 0, RAW)
    assert receiver.complete(RAW_META)
    for offset, data in ((0, RAW[:100]), (len(RAW) - 5, RAW[-5:]), (len(RAW), b"")):
        assert receiver.receive(RAW_META, offset, data) == len(RAW)
    assert receiver.complete(RAW_META)
    assert names(receiver) == [snapshot_name(RAW_META)]
    receiver.keep([RAW_META])  # its owner knows of it: who sends it now, knows of some damage
    assert receiver.receive(RAW_META, 100, RAW[100:]) == 0
    assert not receiver.complete(RAW_META)
    assert receiver.receive(RAW_META, 0, RAW) == len(RAW)
    assert receiver.complete(RAW_META)


def test_a_snapshot_with_a_wrong_byte_is_thrown_away_and_can_be_sent_again() -> None:
    receiver = a_store()
    before = take(receiver, b"before", index=3)
    for offset in (0, 30, HEAD_BYTES + 500, len(RAW) - 1):
        wrong = bytearray(RAW)
        wrong[offset] ^= 4
        receiver.receive(RAW_META, 0, bytes(wrong))
        assert not receiver.complete(RAW_META)
        assert names(receiver) == [snapshot_name(before)]
        assert receiver.receive(RAW_META, 100, RAW[100:]) == 0
    assert receiver.receive(RAW_META, 0, RAW) == len(RAW)
    assert receiver.complete(RAW_META)


def test_a_part_of_a_snapshot_is_not_complete() -> None:
    receiver = a_store()
    assert not receiver.complete(RAW_META)
    receiver.receive(RAW_META, 0, RAW[:-1])
    assert not receiver.complete(RAW_META)
    assert names(receiver) == []


def test_a_file_that_says_something_else_than_its_meta_is_not_complete() -> None:
    """It would put another configuration in the place of the log (pitfall 25)."""
    sender, receiver = a_store(), a_store()
    meta = take(sender, b"state")
    lie = SnapshotMeta(
        meta.index, meta.term, CONFIGURATION, meta.time_ms, 3, meta.size_bytes, meta.crc
    )
    receiver.receive(lie, 0, content(sender, meta))
    assert not receiver.complete(lie)
    assert names(receiver) == []


def test_a_snapshot_of_a_newer_format_is_refused_as_such() -> None:
    sender, receiver = a_store(), a_store()
    meta = take(sender, b"state")
    whole = content(sender, meta)
    meta = put(sender, meta, whole[:4] + b"\x02" + whole[5:], honest=True)
    receiver.receive(meta, 0, content(sender, meta))
    with pytest.raises(UnknownFormat):
        receiver.complete(meta)
    assert names(receiver) == []


@pytest.mark.parametrize("operation", ["create", "truncate", "pwrite", "fdatasync"])
def test_after_a_failure_nothing_is_held(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 44: pages of a failed sync are never synced a second time."""
    receiver = a_store()
    if operation in ("pwrite", "fdatasync"):
        receiver.receive(RAW_META, 0, RAW[:100])
    held = receiver.receive(RAW_META, 0, b"")
    assert held is not None
    memory(receiver).fail(operation, errno.EIO)
    monkeypatch.setattr("raft.store.incoming.SYNC_BYTES", 400)
    with pytest.raises(OSError, match="Input/output"):
        receiver.receive(RAW_META, held, RAW[held:500])
    assert receiver.receive(RAW_META, 500, RAW[500:600]) == 0
    assert memory(receiver).open_count == 0
    assert receiver.receive(RAW_META, 0, RAW) == len(RAW)
    assert receiver.complete(RAW_META)


@pytest.mark.parametrize("operation", ["fsync", "rename", "pread"])
def test_after_a_failure_to_complete_nothing_is_held(operation: str) -> None:
    receiver = a_store()
    receiver.receive(RAW_META, 0, RAW)
    memory(receiver).fail(operation, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        receiver.complete(RAW_META)
    assert names(receiver) == []
    assert memory(receiver).open_count == 0
    assert not receiver.complete(RAW_META)


def test_a_damaged_file_is_replaced_by_the_same_one_from_a_peer() -> None:
    receiver = a_store()
    meta = take(receiver, LARGE)
    receiver.keep([meta])
    memory(receiver).flip(path_of(meta), 5_000)
    with pytest.raises(SnapshotDamaged):
        receiver.verify(meta)
    receiver.receive(meta, 0, RAW)
    assert receiver.complete(meta)
    receiver.verify(meta)


# --------------------------------------------------------------------------- keeping


def test_what_is_not_kept_is_removed() -> None:
    store = a_store()
    metas = [take(store, b"state %d" % index, index=index) for index in (1, 2, 3, 4)]
    store.keep([metas[3], metas[1]])
    assert names(store) == [snapshot_name(metas[1]), snapshot_name(metas[3])]
    store.keep([metas[3]])
    assert names(store) == [snapshot_name(metas[3])]


def test_another_file_of_the_same_entry_is_removed() -> None:
    store = a_store()
    old = take(store, b"one state")
    store.keep([old])
    new = take(store, b"another state")
    store.keep([new])
    assert names(store) == [snapshot_name(new)]


def test_a_snapshot_that_nobody_knows_of_yet_is_not_removed() -> None:
    """It was finished on a thread; its owner hears of it later."""
    store = a_store()
    old = take(store, b"old", index=5)
    new = take(store, b"new", index=6)
    store.keep([old])
    assert store.has(new)
    store.keep([new])
    assert names(store) == [snapshot_name(new)]
    store.keep([take(store, b"newest", index=7)])
    assert not store.has(new)  # it had been named once


def test_a_finished_snapshot_that_is_never_named_goes_with_the_next() -> None:
    store = a_store()
    take(store, b"never recorded", index=5)
    newer = take(store, b"newer", index=6)
    store.keep([newer])
    assert names(store) == [snapshot_name(newer)]


def test_what_is_being_written_or_received_is_left_alone() -> None:
    store = a_store()
    old = take(store, b"old", index=5)
    writer = begin(store, 6)
    writer.write(b"new")
    store.receive(RAW_META, 0, RAW[:100])
    store.keep([old])
    assert len(names(store)) == 3
    assert store.receive(RAW_META, 100, RAW[100:]) == len(RAW)
    assert store.complete(RAW_META)
    store.verify(writer.finish())


def test_what_is_received_is_dropped_when_something_newer_is_kept() -> None:
    store = a_store()
    store.receive(RAW_META, 0, RAW[:100])
    newer = take(store, b"newer", index=11)
    store.keep([newer])
    assert names(store) == [snapshot_name(newer)]
    assert store.receive(RAW_META, 100, RAW[100:200]) == 0


def test_foreign_files_are_nobodys_business() -> None:
    store = a_store()
    meta = take(store, b"state")
    memory(store).put(f"{DIRECTORY}/README", b"by hand")
    memory(store).put(f"{DIRECTORY}/copy.snapshot", b"by hand")
    store.keep([meta])
    assert names(a_store(memory(store))) == [snapshot_name(meta), "README"]


def test_a_store_creates_nothing_before_there_is_something_to_keep() -> None:
    store = a_store()
    store.keep([])
    assert memory(store).operations == []


def test_what_was_being_written_is_removed_when_the_store_is_opened() -> None:
    store = a_store()
    meta = take(store, b"state", index=3)
    begin(store).write(LARGE)
    store.receive(RAW_META, 0, RAW[:100])
    assert len(names(store)) == 3
    memory(store).kill()
    reopened = a_store(memory(store))
    aside = snapshot_name(RAW_META).replace(".snapshot", ".receiving")
    assert names(reopened) == [snapshot_name(meta), aside], "what is received goes on"


def test_a_snapshot_that_is_being_read_may_be_removed() -> None:
    store = a_store()
    meta = take(store, LARGE, index=3)
    reader = store.read(meta)
    first = next(reader)
    store.keep([take(store, b"newer")])
    assert not store.has(meta)
    assert first + b"".join(reader) == LARGE


def test_an_iterator_that_is_given_up_closes_its_file() -> None:
    store = a_store()
    meta = take(store, LARGE)
    reader = store.read(meta)
    assert memory(store).open_count == 0
    next(reader)
    assert memory(store).open_count == 1
    reader.close()  # type: ignore[attr-defined]
    assert memory(store).open_count == 0


# --------------------------------------------------------------------------- the real disk


def test_on_a_real_disk_written_on_a_thread_while_another_is_received(tmp_path: Path) -> None:
    store = SnapshotStore(Files(), str(tmp_path / "groups" / "7" / "snapshots"))
    metas: list[SnapshotMeta] = []
    writer = begin(store, 20)

    def write() -> None:
        for _ in range(20):
            writer.write(LARGE)
        metas.append(writer.finish())

    thread = threading.Thread(target=write)
    thread.start()
    for offset, data in chunks(RAW, FRAME_BYTES):
        assert store.receive(RAW_META, offset, data) == offset + len(data)
        store.keep([])
    assert store.complete(RAW_META)
    thread.join()
    assert b"".join(store.read(metas[0])) == LARGE * 20
    store.keep([metas[0]])
    again = SnapshotStore(Files(), str(tmp_path / "groups" / "7" / "snapshots"))
    again.verify(metas[0])
    assert not again.has(RAW_META)


# --------------------------------------------------------------------------- crashes


def a_slot_with_entries() -> Slot:
    """One group's log of ten entries, in term 2."""
    slot = Slot(MemoryFiles(recording=False))
    slot.open()
    slot.begin(7, term=2)
    slot.wal.save(7, Save(2, runs=[run_of(index, term=2) for index in range(1, 11)]))
    slot.write()
    return slot


def test_a_crash_cannot_bring_back_more_than_the_wal_knows() -> None:
    """A file that was finished, and never recorded, is only a file."""
    slot = a_slot_with_entries()
    take(a_store(slot.files), b"state", index=4)
    slot.files.crash(random.Random(1))
    assert slot.open()[7].snapshot is None
    assert [run.first for run in slot.groups[7].runs] == list(range(1, 11))


def test_hard_state_and_log_do_not_depend_on_the_files() -> None:
    slot = a_slot_with_entries()
    store = a_store(slot.files)
    meta = take(store, machine_bytes(3_000), index=4)
    slot.wal.save(7, Save(3, mark=Mark(meta, 4, 2, resets=False)))
    slot.write()
    slot.files.unlink(path_of(meta))
    group = slot.reopen()[7]
    assert group.hard_state == HardState(2, N1)
    assert group.snapshot == meta
    assert not a_store(slot.files).has(meta)
    assert [run.first for run in group.runs] == list(range(5, 11))
