"""Looking into a log: everything that is wrong is told, with its place, and nothing is changed."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import pytest
from google_crc32c import value as crc32c

from raft.messages import Save
from raft.store import records
from raft.store.errors import ForeignWal, UnknownFormat, WalDamaged
from raft.store.files import read_whole
from raft.store.inspect import ReadingFiles, Survey, batches_of, open_segment
from raft.store.memory import MemoryFiles
from raft.store.recovery import recover
from raft.store.segments import segment_name
from tests.raft.store.damage import a_disk, a_history, condemned, hurt
from tests.raft.store.kit import DIRECTORY, INCARNATION, Slot, a_slot, keeps, resets, run_of


def look(slot: Slot) -> Survey:
    return Survey(slot.files, DIRECTORY).run()


def places(seen: Survey) -> list[tuple[str, int | None, tuple[int, ...], int | None]]:
    return [
        (each.file.rpartition("/")[2][:16].lstrip("0"), each.offset, each.groups, each.index)
        for each in seen.findings
    ]


def write(slot: Slot, number: int, *groups: int, body: bytes = b"body") -> dict[int, int]:
    """One batch with the run ``number - 1`` of each group; where each record stands, by group."""
    for group in groups:
        slot.wal.save(group, Save(number, None, None, [run_of(number - 1, body=body)]))
    slot.write()
    reader = open_segment(slot.files, DIRECTORY, 1)
    *_, batch = batches_of(reader, 0, is_last=True)
    return {record.header.group: record.offset for record in batch.found}


def with_three_batches() -> tuple[Slot, dict[int, int], dict[int, int]]:
    """A slot; where the records of the second and of the third batch are."""
    slot = a_slot(7, 8, segment_bytes_first=16384)
    second = write(slot, 2, 7, 8)
    third = write(slot, 3, 7, 8)
    write(slot, 4, 7)
    return slot, second, third


def test_a_sound_log_is_counted_and_nothing_is_found() -> None:
    slot, _, _ = with_three_batches()
    seen = look(slot)
    assert seen.findings == []
    assert seen.torn is None
    assert (seen.batches, seen.slot, len(seen.segments)) == (5, 0, len(slot.segments()))
    assert {g: it.last for g, it in seen.groups.items()} == {7: (3, 1), 8: (2, 1)}
    assert seen.groups[7].gseq == 5


def test_a_flipped_bit_in_a_body_is_told_with_group_and_index_and_the_rest_is_read() -> None:
    slot, second, _ = with_three_batches()
    slot.files.flip(slot.path(1), second[7] + records.HEADER_BYTES + 1)
    seen = look(slot)
    assert places(seen) == [("1", second[7], (7,), 1)]
    assert "checksum" in seen.findings[0].reason
    assert seen.groups[8].is_whole
    assert seen.groups[8].last == (2, 1), "another group's records, behind the damage"
    assert not seen.groups[7].is_whole
    assert seen.batches == 5


def test_the_rest_of_a_batch_is_read_behind_a_record_whose_length_is_known() -> None:
    slot, _, third = with_three_batches()
    slot.files.flip(slot.path(1), third[7] + records.HEADER_BYTES)
    assert third[8] > third[7]
    seen = look(slot)
    assert seen.groups[8].last == (2, 1)
    assert seen.records == 10, "all but one"


def test_a_flipped_bit_in_a_header_is_told_with_what_the_commit_frame_knows() -> None:
    slot, second, _ = with_three_batches()
    slot.files.flip(slot.path(1), second[8] + 20)
    seen = look(slot)
    assert places(seen) == [("1", second[8], (8,), 1)]
    assert seen.groups[7].last == (3, 1)


def test_all_places_are_told_not_the_first_alone() -> None:
    slot, second, third = with_three_batches()
    slot.files.flip(slot.path(1), second[7] + records.HEADER_BYTES)
    slot.files.flip(slot.path(1), third[8] + records.HEADER_BYTES)
    assert places(look(slot)) == [("1", second[7], (7,), 1), ("1", third[8], (8,), 2)]


def test_a_torn_tail_is_no_damage() -> None:
    slot, _, third = with_three_batches()
    last = max(third.values())
    content = slot.files.content(slot.path(1))
    slot.files.put(slot.path(1), content[: last + 60] + bytes(len(content) - last - 60))
    seen = look(slot)
    assert seen.findings == []
    assert seen.torn is not None
    assert seen.torn.offset == last
    assert seen.groups[7].last == (1, 1)


def test_a_segment_that_is_missing_is_told() -> None:
    slot = a_slot(7)
    for number in range(2, 30):
        slot.wal.save(7, Save(number, None, None, [run_of(number - 1, body=b"x" * 400)]))
        slot.write()
    slot.files.unlink(slot.path(2))
    seen = look(slot)
    assert ("2", 0, ()) in [place[:3] for place in places(seen)]
    assert not seen.groups[7].is_whole


def test_a_log_of_another_disk_is_told() -> None:
    slot, _, _ = with_three_batches()
    seen = Survey(slot.files, DIRECTORY, 0, INCARNATION + 1).run()
    assert ["another node" in each.reason for each in seen.findings] == [True]


def test_a_record_of_a_newer_version_hides_the_rest_of_its_batch_and_nothing_else() -> None:
    slot, second, _ = with_three_batches()
    content, at = slot.files.content(slot.path(1)), second[7]
    signed = content[at : at + 4] + b"\x09" + content[at + 5 : at + 60]
    newer = signed + crc32c(signed).to_bytes(4, "little")
    slot.files.put(slot.path(1), content[:at] + newer + content[at + 64 :])
    seen = look(slot)
    assert places(seen) == [("1", second[7], (7, 8), 1)]
    assert "newer version" in seen.findings[0].reason
    assert (seen.groups[7].is_whole, seen.groups[8].is_whole) == (False, False)
    assert seen.batches == 5


def test_what_a_group_needs_is_told_apart_from_what_it_has_left_behind() -> None:
    slot = a_slot(7, segment_bytes_first=16384)
    before = look(slot).groups[7]
    for number in range(2, 12):
        slot.wal.save(7, Save(number, None, None, [run_of(number - 1, body=b"x" * 100)]))
    slot.write()
    full = look(slot).groups[7]
    assert full.live_bytes == full.size_bytes > before.size_bytes
    slot.wal.save(7, Save(20, None, None, [], keeps(10, 8)))
    slot.write()
    seen = look(slot).groups[7]
    assert seen.snapshot is not None
    assert (seen.first, seen.snapshot.index) == (9, 10)
    assert seen.live_bytes < full.live_bytes / 2
    assert seen.size_bytes > full.size_bytes
    slot.wal.save(7, Save(21, None, None, [], resets(30)))
    slot.write()
    assert look(slot).groups[7].last == (30, 1)


HISTORY = cache(a_history)


def is_refused(files: MemoryFiles) -> bool:
    """Recovery takes the log as a whole or in part for damaged, or for another's."""
    try:
        found = recover(files, DIRECTORY, 0, INCARNATION)
    except (WalDamaged, UnknownFormat, ForeignWal):
        return True
    unknown = any(group.unknown for group in found.groups.values())
    return bool(found.damage or condemned(found) or unknown)


@pytest.mark.parametrize("seed", range(300))
def test_what_recovery_refuses_is_found_and_what_it_takes_is_sound(seed: int) -> None:
    rng = random.Random(seed)
    files = a_disk(hurt(HISTORY().disk, rng))
    refused = is_refused(files)
    seen = Survey(files, DIRECTORY, 0, INCARNATION).run()
    assert bool(seen.findings) == refused, seen.findings
    assert seen.torn is None or not refused, "one place is hurt, and it is damage"


def test_the_same_batch_counts_as_torn_as_recovery_cuts() -> None:
    history = HISTORY()
    last = history.places[-1]
    data, start = history.disk[last.name], history.start_of(last.batch)
    torn = data[: start + 10] + bytes(len(data) - start - 10)
    files = a_disk({**history.disk, last.name: torn})
    assert recover(files, DIRECTORY, 0, INCARNATION).torn
    seen = Survey(files, DIRECTORY).run()
    assert seen.torn is not None
    assert seen.findings == []


def test_reading_files_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    files = ReadingFiles()
    assert read_whole(files, str(path)) == b"abc"
    descriptor = files.open(str(path))
    with pytest.raises(OSError, match="Bad file descriptor"):
        files.pwrite(descriptor, b"x", 0)
    files.close(descriptor)
    for change in (
        lambda: files.open(str(path), create=True),
        lambda: files.unlink(str(path)),
        lambda: files.rename(str(path), "b"),
        lambda: files.mkdir(str(tmp_path / "d")),
    ):
        with pytest.raises(AssertionError):
            change()


def test_a_log_whose_beginning_was_let_go_of_is_sound() -> None:
    """Records that were copied forward, and segments that are gone because nobody needs them."""
    slot = a_slot(7, 8)
    for number in range(2, 200):
        save = Save(number, None, None, [run_of(number - 1, body=b"x" * 300)])
        if number % 20 == 0:
            save.mark = keeps(number - 2, number - 5)
        slot.wal.save(7, save)
        slot.write()
        slot.tidy()
    assert slot.segments()[0] > segment_name(1), "something is gone"
    seen = look(slot)
    assert seen.findings == []
    assert seen.groups[7].last == (198, 1)
    assert seen.groups[8].is_whole
    assert seen.groups[7].live_bytes <= seen.groups[7].size_bytes
