"""What is left of a transfer after a restart: gone on with where it is sound, and nowhere else."""

from __future__ import annotations

import errno
import itertools
import random

import pytest

from raft.messages import SnapshotMeta
from raft.store import incoming
from raft.store.errors import UnknownFormat
from raft.store.memory import MemoryFiles
from raft.store.snapshot_file import FRAME_BYTES, encode_frame
from raft.store.snapshots import SnapshotStore, snapshot_name
from tests.raft.store.test_snapshots import (
    DIRECTORY,
    JOINT,
    a_store,
    content,
    frames,
    machine_bytes,
    memory,
    names,
    put,
    take,
)

SENDER = a_store()
META = take(SENDER, machine_bytes(5 * FRAME_BYTES))
WHOLE = content(SENDER, META)
BORDERS = [0, *itertools.accumulate(map(len, frames(WHOLE)))]
ASIDE = f"{DIRECTORY}/{snapshot_name(META)}".replace(".snapshot", ".receiving")
STEP = 100_000  # bytes of a chunk


def receive(store: SnapshotStore, until: int, meta: SnapshotMeta = META) -> None:
    held = store.receive(meta, 0, b"")
    assert held is not None
    while held < until:
        end = min(held + STEP, until)
        assert store.receive(meta, held, WHOLE[held:end]) == end
        held = end


def reopened(store: SnapshotStore, *, power: random.Random | None = None) -> SnapshotStore:
    if power is None:
        memory(store).kill()
    else:
        memory(store).crash(power)
    return a_store(memory(store))


def border_before(held: int) -> int:
    return max(border for border in BORDERS if border <= held)


@pytest.mark.parametrize("held", [1, 100, BORDERS[1], BORDERS[2] - 1, BORDERS[2], 900_000])
def test_a_receiver_that_was_restarted_goes_on_at_the_last_frame_that_is_whole(held: int) -> None:
    store = a_store()
    receive(store, held)
    store = reopened(store)
    assert store.receive(META, 0, b"") is None, "nobody has looked yet"
    assert store.receive(META, 0, WHOLE[:STEP]) is None
    store.check_received()
    assert store.receive(META, 0, b"") == border_before(held)
    receive(store, len(WHOLE))
    assert store.complete(META)
    assert content(store, META) == WHOLE
    assert names(store) == [snapshot_name(META)]
    assert memory(store).open_count == 0


def test_all_of_it_was_there_and_only_the_end_was_missing() -> None:
    store = a_store()
    receive(store, len(WHOLE))
    store = reopened(store)
    store.check_received()
    assert store.receive(META, 0, b"") == len(WHOLE)
    assert store.complete(META)


def test_a_file_with_nothing_sound_in_it_is_removed() -> None:
    junks = (b"", b"PRsn", WHOLE[: BORDERS[1] - 1], b"x" * 1_000, WHOLE[BORDERS[1] :])
    for junk in junks:
        files = MemoryFiles()
        store = a_store(files)
        receive(store, 10)
        files.put(ASIDE, junk)
        store = reopened(store)
        store.check_received()
        assert names(store) == []
        assert files.open_count == 0
        assert store.receive(META, 0, b"") == 0
        receive(store, len(WHOLE))
        assert store.complete(META)


def test_a_flipped_bit_costs_what_is_behind_it_and_no_more() -> None:
    for number in range(1, 4):
        store = a_store()
        receive(store, BORDERS[5])
        memory(store).flip(ASIDE, BORDERS[number] + 50_000)
        store = reopened(store)
        store.check_received()
        assert store.receive(META, 0, b"") == BORDERS[number]
        receive(store, len(WHOLE))
        assert store.complete(META)


def test_what_is_taken_up_has_been_written_again_and_synced() -> None:
    """Pitfall 44: pages that an earlier process could not write are clean, and only in the
    cache."""
    store = a_store()
    files = memory(store)
    receive(store, BORDERS[3])
    files.fail("fdatasync", errno.EIO, path=".receiving")
    files.fail("unlink", errno.EIO, path=".receiving")
    with pytest.raises(OSError, match="Input/output"):
        receive(store, BORDERS[5])
    files.repair()
    files.kill()
    assert len(files.content(ASIDE)) > BORDERS[4], "seen, and on no disk"
    store = a_store(files)
    store.check_received()
    held = store.receive(META, 0, b"")
    assert held is not None
    assert held >= BORDERS[4]
    files.crash(random.Random(1))
    assert files.content(ASIDE)[:held] == WHOLE[:held]


def test_a_part_of_another_snapshot_is_not_taken_up() -> None:
    """Its name has the same index, term and checksum: only what the head says is different."""
    store = a_store()
    receive(store, 900_000)
    store = reopened(store)
    store.check_received()
    other = SnapshotMeta(10, 2, JOINT, 5_001, 3, META.size_bytes, META.crc)
    assert store.receive(other, 0, b"") == 0
    assert names(store) == []


def test_a_part_that_is_longer_than_the_whole_is_not_taken_up() -> None:
    store = a_store()
    receive(store, 900_000)
    store = reopened(store)
    store.check_received()
    other = SnapshotMeta(10, 2, JOINT, 5_000, 3, 500_000, META.crc)
    assert store.receive(other, 0, b"") == 0
    assert memory(store).open_count == 0


def test_a_part_of_an_older_format_s_successor_is_left_to_nobody() -> None:
    store = a_store()
    receive(store, 900_000)
    memory(store).put(ASIDE, WHOLE[:4] + b"\x02" + WHOLE[5:])
    store = reopened(store)
    store.check_received()
    assert names(store) == []


def test_another_snapshot_takes_its_place_before_anybody_has_looked() -> None:
    sender, store = a_store(), a_store()
    newer = take(sender, b"newer", index=11)
    receive(store, 900_000)
    store = reopened(store)
    assert store.receive(newer, 0, b"") == 0
    assert len(names(store)) == 1, "asked only"
    assert store.receive(newer, 0, content(sender, newer)) == newer.size_bytes
    assert names(store) == [snapshot_name(newer).replace(".snapshot", ".receiving")]
    store.check_received()
    assert store.complete(newer)


def test_it_is_thrown_away_while_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    store = a_store()
    receive(store, 900_000)
    store = reopened(store)
    look_at = incoming.look_at

    def look_slowly(files: MemoryFiles, path: str) -> object:
        found = look_at(files, path)
        store.keep([], useless_to=META.index)
        return found

    monkeypatch.setattr("raft.store.snapshots.look_at", look_slowly)
    store.check_received()
    assert names(store) == []
    assert memory(store).open_count == 0
    assert store.receive(META, 0, b"") == 0


@pytest.mark.parametrize("operation", ["pread", "pwrite", "fdatasync", "fsync", "truncate"])
def test_a_disk_that_fails_while_somebody_looks_leaves_nothing(operation: str) -> None:
    store = a_store()
    receive(store, len(WHOLE) - 10)
    store = reopened(store)
    memory(store).fail(operation, errno.EIO, path=".receiving")
    with pytest.raises(OSError, match="Input/output"):
        store.check_received()
    assert names(store) == []
    assert memory(store).open_count == 0
    assert store.receive(META, 0, b"") == 0


def test_of_several_the_newest_is_kept() -> None:
    store = a_store()
    receive(store, 900_000)
    memory(store).put(ASIDE.replace("/000000000000000a", "/0000000000000009"), b"older")
    store = reopened(store)
    assert [f"{DIRECTORY}/{name}" for name in names(store)] == [ASIDE]


def test_a_part_of_what_is_superseded_is_removed_whether_looked_at_or_not() -> None:
    for looked in (False, True):
        for keep_index, useless_to, stays in ((9, 9, True), (11, 0, False), (9, 10, False)):
            store = a_store()
            receive(store, 900_000)
            kept = take(store, b"kept", index=keep_index)
            store = reopened(store)
            if looked:
                store.check_received()
            store.keep([kept], useless_to=useless_to)
            assert (len(names(store)) == 2) is stays
            assert memory(store).open_count == int(stays and looked)


def test_a_head_that_only_a_newer_version_can_read_is_refused_at_the_end() -> None:
    sender, store = a_store(), a_store()
    newer = put(sender, META, WHOLE[:4] + b"\x02" + WHOLE[5:], honest=True)
    data = content(sender, newer)
    assert store.receive(newer, 0, data) == len(data)
    with pytest.raises(UnknownFormat):
        store.complete(newer)
    assert names(store) == []
    assert memory(store).open_count == 0


# --------------------------------------------------------------------------- one to spare


def test_the_one_before_the_newest_is_kept_to_spare_if_the_log_goes_on_from_it() -> None:
    store = a_store()
    metas = [take(store, b"state %d" % index, index=index) for index in (5, 10, 15)]
    store.keep([metas[2]], spare_from=10)
    assert names(store) == [snapshot_name(metas[1]), snapshot_name(metas[2])]
    assert store.spare(metas[2], 10) == metas[1]
    assert store.spare(metas[2], 11) is None
    store = reopened(store)
    assert store.spare(metas[2], 1) == metas[1], "what its file says of itself"
    store.keep([metas[2]], spare_from=11)
    assert names(store) == [snapshot_name(metas[2])]
    assert store.spare(metas[2], 1) is None


def test_without_a_spare_there_is_none() -> None:
    assert a_store().spare(META, 1) is None


def test_a_spare_whose_head_is_damaged_is_none() -> None:
    store = a_store()
    spare, newest = take(store, b"spare", index=5), take(store, b"newest", index=9)
    path = f"{DIRECTORY}/{snapshot_name(spare)}"
    memory(store).flip(path, 25)
    assert store.spare(newest, 1) is None
    memory(store).put(path, content(store, newest))
    assert store.spare(newest, 1) is None, "another one under its name"
    memory(store).put(path, encode_frame(1, 0, b"x"))
    assert store.spare(newest, 1) is None
    memory(store).put(f"{DIRECTORY}/copy.snapshot", b"by hand")
    assert store.spare(newest, 1) is None
