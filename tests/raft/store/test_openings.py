"""What opens a segment is damaged; its copy stands for it, unless it may be forged."""

from __future__ import annotations

from functools import cache

import pytest
from google_crc32c import value as crc32c

from raft.messages import Save
from raft.store import records
from raft.store.inspect import Survey
from raft.store.records import Commit, SegmentInfo, TableRow
from tests.raft.store.damage import (
    History,
    Writer,
    a_disk,
    check,
    condemned,
    flipped,
    history_of,
    image,
    read,
    zeroed,
)
from tests.raft.store.kit import DIRECTORY, INCARNATION, Slot, keeps, run_of

SECTOR = 512
GROUPS = (7, 8, 9, 10)


def written(*, rounds: int, **options: int) -> Writer:
    """9 and 10 are quiet, 8 takes snapshots; a segment is opened by a batch of 7 and 8."""
    writer = Writer(
        *GROUPS, segment_bytes_first=1 << 14, segment_bytes_max=1 << 14, copy_bytes_max=1 << 11
    )
    for number in range(rounds):
        for group in (7, 8):
            writer.run(group, b"%d of %d " % (number, group) * 100)
            if number % 8 == 7:
                last = writer.last[group]
                writer.mark(group, keeps(last, last - 1))
        writer.write()
        writer.slot.tidy()
    return writer


@cache
def a_log() -> History:
    """The oldest segments were given up; the newest has several batches."""
    writer = written(rounds=60)
    while len(writer.slot.segments()) < 4:
        writer.run(7, b"7" * 900)
        writer.run(8, b"8" * 900)
        writer.write()
    writer.run(7, b"in the newest")
    writer.write()
    history = history_of(writer.slot)
    first = next(iter(history.disk))
    info = opening_of(history.disk[first])
    assert info.previous_id, "there was one before"
    assert any(row.floor for row in info.table.values())
    assert len(history.disk) >= 3
    newest = [it for it in history.places if it.name == [*history.disk][-1]]
    assert sum(it.kind == records.COMMIT for it in newest) >= 2
    return history


def opening_of(data: bytes) -> SegmentInfo:
    header = records.decode_header(data, 0)
    assert header is not None
    return records.decode_segment(data[64 : 64 + header.length])


@pytest.mark.parametrize("position", [0, 1, -1])
def test_the_sectors_of_a_first_record_are_lost_and_nobody_is_condemned(position: int) -> None:
    """The oldest segment, whose table all groups begin with; the newest; one in between."""
    history = a_log()
    name = list(history.disk)[position]
    first, *_ = (it for it in history.places if it.name == name)
    for start in range(0, first.end, SECTOR):
        found = read(zeroed(history.disk, name, start, start + SECTOR))
        assert check(history, found.groups) == set()
        assert [loss.path.rpartition("/")[2] for loss in found.damage] == [name]


def test_the_first_record_and_its_copy_share_no_sector() -> None:
    history = a_log()
    for name in history.disk:
        first, copy = (it for it in history.places if (it.name, it.kind) == (name, records.SEGMENT))
        assert (first.end - 1) // SECTOR < copy.offset // SECTOR
        data = history.disk[name]
        assert data[first.offset : first.end] == data[copy.offset : copy.end]
        frame = next(it for it in history.places if it.name == name and it.offset == copy.end)
        assert frame.kind == records.COMMIT


def test_the_largest_multiple_keeps_the_sectors_of_large_disks_apart() -> None:
    slot = Slot(segment_bytes_first=1 << 20, segment_bytes_max=1 << 20)
    slot.open()
    header = records.decode_header(slot.files.content(slot.path(1)), 0)
    assert header is not None
    assert 64 + records.padded(header.length) == 4096


@pytest.mark.parametrize("position", [0, 1, -1])
def test_both_are_lost_and_who_is_in_doubt_is_condemned(position: int) -> None:
    history = a_log()
    name = list(history.disk)[position]
    disk = history.disk
    for place in history.places:
        if (place.name, place.kind) == (name, records.SEGMENT):
            disk = flipped(disk, name, place.offset + 20, 1)
    lost = check(history, read(disk).groups)
    assert lost == set(GROUPS) if position == -1 else lost >= {8}


def test_a_segment_with_a_damaged_opening_is_left_as_it_is_and_life_goes_on() -> None:
    history = a_log()
    name = list(history.disk)[-1]
    disk = zeroed(history.disk, name, 0, SECTOR)
    slot = Slot(a_disk(disk), ids_from=5000)
    groups = slot.open()
    assert len(slot.wal.damage) == 1
    assert name in slot.wal.damage[0]
    for number in range(3):
        run = groups[7].runs[-1]
        slot.wal.save(7, Save(1, None, None, [run_of(run.last + 1, body=b"new %d" % number)]))
        slot.write()
        assert slot.files.content(f"{DIRECTORY}/{name}") == disk[name]
        groups = slot.reopen()
        assert condemned(groups) == set()
        assert groups[7].runs[-1].body == b"new %d" % number
    for _ in range(20):
        slot.tidy()
        run = slot.groups[7].runs[-1]
        slot.wal.save(7, Save(1, None, None, [run_of(run.last + 1, body=bytes(5000))]))
        slot.write()
        slot.wal.save(7, Save(2))
        slot.reopen()
        last = slot.groups[7].runs[-1].last
        slot.wal.save(7, Save(1, mark=keeps(last, last - 1)))
        slot.write()
    assert name not in slot.segments(), "it is given up as any other"
    assert slot.wal.statistics()["tidying_stopped"] is None
    assert condemned(slot.reopen()) == set()


def test_a_segment_that_has_but_its_opening_is_not_written_to_either() -> None:
    writer = written(rounds=3)
    writer.reopen()
    history = history_of(writer.slot)
    name = list(history.disk)[-1]
    disk = flipped(history.disk, name, 20, 3)
    slot = Slot(a_disk(disk), ids_from=5000)
    assert check(history, slot.open()) == set()
    assert slot.files.content(f"{DIRECTORY}/{name}") == disk[name]


def test_an_opening_that_never_was_durable_stays_cut_though_its_copy_arrived() -> None:
    writer = written(rounds=3)
    whole = history_of(writer.slot)
    before = image(writer.slot)
    writer.reopen()
    (name,) = image(writer.slot).keys() - before.keys()
    data = image(writer.slot)[name]
    torn = {**before, name: bytes(SECTOR) + data[SECTOR:]}
    found = read(torn)
    assert (found.torn, found.damage, found.discard) == (True, [], [name])
    assert check(whole, found.groups) == set()


def test_what_looks_into_the_log_names_the_place_and_nobody_as_hit() -> None:
    history = a_log()
    name = list(history.disk)[-1]
    files = a_disk(zeroed(history.disk, name, 0, SECTOR))
    seen = Survey(files, DIRECTORY, 0, INCARNATION).run()
    assert [(it.file.rpartition("/")[2], it.offset, it.groups) for it in seen.findings] == [
        (name, 0, ())
    ]
    assert all(group.is_whole for group in seen.groups.values())


# --------------------------------------------------------------------------- forged ones


def forged(info: SegmentInfo, *, length: int) -> bytes:
    """The copy of an opening and its frame, as a client may make them up: right in every way, but
    for what it cannot know."""
    body = records.encode_segment(info, length)
    opening = records.encode_header(
        records.SEGMENT, 0, 0, 0, 0, info.number, 0, 0, len(body), crc32c(body)
    )
    commit = Commit(info.batch + 1, info.segment_id, 7, records.crc_of_headers([opening] * 2), {})
    frame_body = records.encode_commit(commit)
    frame = records.encode_header(
        records.COMMIT, 0, 0, 2, 0, commit.batch, 0, 0, len(frame_body), crc32c(frame_body)
    )
    return opening + body + frame + frame_body


def with_value(value: bytes, *, more: int) -> History:
    """A client's value in the batch that opens the newest segment, and batches behind it."""
    writer = written(rounds=2)
    wal = writer.slot.wal
    while wal.segment_room_bytes > 8 << 10:
        writer.run(9, bytes(600))
        writer.write()
    before = len(image(writer.slot))
    writer.run(10, value + b"f" * ((8 << 10) - len(value)))
    writer.write()
    for _ in range(more):
        writer.run(7, b"later")
        writer.write()
    assert len(image(writer.slot)) == before + 1
    return history_of(writer.slot)


@pytest.mark.parametrize("more", [0, 2])
def test_a_forged_opening_in_a_value_is_never_taken_for_the_copy(more: int) -> None:
    """It would be a whole batch, were it read in place of the first record, and what follows looks
    unwritten.  But the real frames, of another segment id, are there, too."""
    plain = with_value(b"", more=0)
    name = list(plain.disk)[-1]
    _, run, *_ = (it for it in plain.places if it.name == name)
    assert (run.group, run.kind) == (10, records.RUN)
    info = opening_of(plain.disk[name])
    info.segment_id ^= 1
    info.oldest = info.number
    info.table = {7: TableRow(1, 0, 0, None, 0, 0, None, 0)}  # who has promised nothing
    value = forged(info, length=run.body)  # so long that it is followed by itself
    history = with_value(value + bytes(2 * SECTOR), more=more)
    damaged = flipped(history.disk, name, 20, 0)
    # Where the segments before it are there, the chain of frames alone would tell.
    for disk in (damaged, {name: damaged[name]}):
        found = read(disk)
        assert not found.torn
        assert check(history, found.groups) == set(GROUPS)


def test_a_piece_of_another_segment_in_a_value_leaves_the_damage_as_it_is() -> None:
    """Of an honest client.  Who is in doubt is condemned."""
    history = a_log()
    foreign = history.disk[next(iter(history.disk))]
    kept = with_value(foreign[: 6 << 10], more=1)
    assert check(kept, read(kept.disk).groups) == set()
    name = list(kept.disk)[-1]
    assert check(kept, read(flipped(kept.disk, name, 20, 0)).groups) == set(GROUPS)


def test_the_filling_has_any_length() -> None:
    info = opening_of(next(iter(a_log().disk.values())))
    for multiple in (8, 64, 256, 512, 4096):
        for rows in range(40):
            info.table = dict.fromkeys(range(7, 8 + rows), info.table[7])
            body = records.encode_segment(info, multiple)
            assert (64 + records.padded(len(body))) % multiple == 0
            assert records.decode_segment(body) == info
