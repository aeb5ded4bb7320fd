"""Arbitrary damage, by seed: refused, harmless, or what a power failure could have left, too."""

from __future__ import annotations

import random

import pytest

from raft.messages import HardState, Save
from raft.store.errors import UnknownFormat, WalDamaged
from raft.store.memory import MemoryFiles
from raft.store.recovery import Recovered, recover
from tests.raft.store.kit import DIRECTORY, INCARNATION, N2, Slot, a_slot, keeps, run_of


def a_history() -> tuple[dict[str, bytes], str, int]:
    """Segments full of two groups' records; the last one's name; where its last batch begins."""
    slot = a_slot(7, 8)
    start = 0
    for number in range(2, 25):
        for group in (7, 8):
            save = Save(number, None, None, [run_of(number - 1, body=b"%d" % number * 90)])
            if number % 6 == 0:
                save.mark = keeps(number - 2, number - 5 + group % 2)
            slot.wal.save(group, save)
        if number == 20:
            slot.wal.save(7, Save(number + 100, HardState(2, N2)))
            slot.wal._newest.pop(7)
        start = slot.wal.statistics()["segment_used_bytes"]
        slot.write()
    names = slot.segments()
    assert len(names) > 2
    segments = {name: slot.files.content(f"{DIRECTORY}/{name}") for name in names}
    return segments, names[-1], start


def read(segments: dict[str, bytes]) -> Recovered:
    files = MemoryFiles(recording=False)
    for directory in ("/data", "/data/wal", DIRECTORY):
        files.mkdir(directory)
    for name, data in segments.items():
        files.put(f"{DIRECTORY}/{name}", data)
    return recover(files, DIRECTORY, 0, INCARNATION)


def hurt(data: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(data))
    count = min(rng.choice((1, 8, 60, 512, 3000)), len(data) - start)
    end = start + count
    other = rng.randrange(max(1, len(data) - count))
    piece = rng.choice(
        (
            bytes(count),
            rng.randbytes(count),
            data[other : other + count],
            b"PRwl\x01\x05" * (count // 6),
            data[start:end][::-1],
        )
    )
    return rng.choice((data[:start] + piece + data[end:], data[:start] + piece, data[:start]))


SEGMENTS, LAST, LAST_BATCH = a_history()
WHOLE = read(SEGMENTS)
assert [(it.base_index, it.snapshot and it.snapshot.index) for it in WHOLE.groups.values()] == [
    (20, 22),
    (19, 22),
]


@pytest.mark.parametrize("seed", range(300))
def test_damage_is_refused_or_harmless(seed: int) -> None:
    rng = random.Random(seed)
    name = rng.choice(list(SEGMENTS))
    data = hurt(SEGMENTS[name], rng)
    try:
        found = read({**SEGMENTS, name: data})
    except (WalDamaged, UnknownFormat):
        return  # and no other exception, whatever the bytes
    if found.batch == WHOLE.batch:
        assert found.groups == WHOLE.groups
        return
    # Only where nothing later proves the contrary, and everything before it is as it was.
    assert name == LAST
    assert found.batch < WHOLE.batch
    if found.number == WHOLE.number:
        assert data[: found.end] == SEGMENTS[name][: found.end]
    if LAST_BATCH <= len(data) and data[:LAST_BATCH] == SEGMENTS[name][:LAST_BATCH]:
        assert found.batch == WHOLE.batch - 1


def test_the_last_batch_alone_is_what_zeros_can_take() -> None:
    """Zeros over more of the log's end look exactly like writes that never were."""
    data = SEGMENTS[LAST]
    torn = data[: LAST_BATCH + 10] + bytes(len(data) - LAST_BATCH - 10)
    found = read({**SEGMENTS, LAST: torn})
    assert (found.batch, found.torn) == (WHOLE.batch - 1, True)


def test_the_disk_is_usable_after_a_cut() -> None:
    data = SEGMENTS[LAST]
    files = MemoryFiles()
    for directory in ("/data", "/data/wal", DIRECTORY):
        files.mkdir(directory)
        files.fsync_dir(directory.rpartition("/")[0] or "/")
    for name, content in {**SEGMENTS, LAST: data[: LAST_BATCH + 99]}.items():
        files.put(f"{DIRECTORY}/{name}", content)
    slot = Slot(files, ids_from=1000)
    slot.open()
    slot.wal.save(7, Save(1, None, None, [run_of(23, term=2, body=b"again")]))
    slot.write()
    assert slot.reopen()[7].runs[-1].body == b"again"
