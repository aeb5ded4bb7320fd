"""Reading back: a torn tail is cut, lost bytes are refused, never one taken for the other."""

from __future__ import annotations

import errno

import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from raft.messages import HardState, Run, Save
from raft.store import records
from raft.store.errors import ForeignWal, UnknownFormat, WalDamaged
from raft.store.memory import MemoryFiles
from raft.store.reader import used_bytes
from raft.store.recovery import RecoveredGroup, recover
from raft.store.segments import segment_name
from raft.store.wal import Wal
from tests.raft.store.kit import DIRECTORY, INCARNATION, N1, N2, Slot, a_slot, run_of


def image(slot: Slot) -> dict[str, bytes]:
    return {name: slot.files.content(f"{DIRECTORY}/{name}") for name in slot.segments()}


def a_disk(segments: dict[str, bytes]) -> Slot:
    """A fresh machine with these segments on its disk."""
    files = MemoryFiles(recording=False)
    for directory in ("/data", "/data/wal", DIRECTORY):
        files.mkdir(directory)
        files.fsync_dir(directory.rpartition("/")[0] or "/")
    for name, data in segments.items():
        files.put(f"{DIRECTORY}/{name}", data)
    return Slot(files)


def three_batches(*, ids_from: int = 1) -> tuple[Slot, list[int]]:
    """Groups 7 and 8: votes, then runs, then more runs.  And where each batch ends."""
    slot = a_slot(7, 8, ids_from=ids_from)
    ends = [slot.wal.statistics()["segment_used_bytes"]]
    for number in (2, 3):
        for group in (7, 8):
            body = b"body %d of group %d " % (number, group) * 9
            slot.wal.save(group, Save(number, None, None, [run_of(number - 1, body=body)]))
        slot.write()
        ends.append(slot.wal.statistics()["segment_used_bytes"])
    return slot, ends


@given(st.binary(max_size=300), st.integers(0, 4), st.integers(0, 70_000))
@settings(max_examples=60)
def test_the_last_byte_in_use_is_found_behind_any_number_of_zeros(
    data: bytes, blocks: int, zeros: int
) -> None:
    data += bytes(blocks * 65_536 + zeros)
    assert used_bytes(data) == len(data.rstrip(b"\0"))


def hit(groups: dict[int, RecoveredGroup]) -> set[int]:
    return {group for group, it in groups.items() if it.damaged is not None}


def counts(slot: Slot) -> list[int]:
    return [len(slot.groups[group].runs) for group in (7, 8)]


# --------------------------------------------------------------------------- torn tails


@pytest.mark.parametrize("cut_file", [False, True], ids=["zeros behind", "file cut"])
def test_a_write_that_ended_early_at_any_byte_is_cut(cut_file: bool) -> None:
    original, ends = three_batches()
    ((name, data),) = image(original).items()
    for length in range(ends[1], ends[2]):
        torn = data[:length] + (b"" if cut_file else bytes(len(data) - length))
        slot = a_disk({name: torn})
        slot.open()
        assert counts(slot) == [1, 1], length
        assert slot.wal.statistics()["recovered_torn"] == (length > ends[1]), length
        assert len(slot.files.content(slot.path(1))) == ends[1]
    slot = a_disk({name: data[: ends[2]]})
    slot.open()
    assert counts(slot) == [2, 2]


def test_any_choice_of_sectors_of_the_last_batch_is_cut() -> None:
    original = a_slot(7, 8)
    start = original.wal.statistics()["segment_used_bytes"]
    for group in (7, 8):
        original.wal.save(group, Save(2, None, None, [run_of(1, body=b"x" * 900)]))
    original.write()
    ((name, data),) = image(original).items()
    end = original.wal.statistics()["segment_used_bytes"]
    first, last = start // 512, (end - 1) // 512
    assert last - first >= 3
    for choice in range(1 << (last - first + 1)):
        torn = bytearray(data)
        for sector in range(first, last + 1):
            if not choice >> (sector - first) & 1:
                low, high = max(start, sector * 512), min(len(data), sector * 512 + 512)
                torn[low:high] = bytes(high - low)
        slot = a_disk({name: bytes(torn)})
        slot.open()
        whole = choice == (1 << (last - first + 1)) - 1
        assert counts(slot) == ([1, 1] if whole else [0, 0]), bin(choice)


def test_a_torn_batch_that_was_to_open_a_segment_vanishes_with_it() -> None:
    original, _ = three_batches()
    original.wal.save(7, Save(4, None, None, [run_of(3, body=b"y" * 4000)]))
    original.write()
    segments = image(original)
    opened = segments[segment_name(2)]
    used = len(opened.rstrip(b"\0"))
    for length in (1, 63, 64, 100, used // 2, used - 1):
        slot = a_disk({**segments, segment_name(2): opened[:length] + bytes(len(opened) - length)})
        slot.open()
        assert counts(slot) == [2, 2], length
        assert slot.segments() == [segment_name(1), segment_name(2)]
        slot.begin(9)
        slot.write()
        assert sorted(slot.reopen()) == [7, 8, 9]


def test_a_cut_tail_never_comes_back() -> None:
    original, ends = three_batches()
    ((name, data),) = image(original).items()
    slot = a_disk({name: data[: ends[2] - 1] + bytes(len(data) - ends[2] + 1)})
    slot.open()
    other = run_of(2, body=b"another second run")
    slot.wal.save(7, Save(3, None, None, [other]))
    slot.write()
    for _ in range(3):
        slot.reopen()
        assert slot.groups[7].runs[1] == other
        assert counts(slot) == [2, 1]


def test_bits_in_zeros_that_were_never_written_are_no_batch() -> None:
    original, ends = three_batches()
    ((name, data),) = image(original).items()
    for offset in (ends[2], ends[2] + 63, ends[2] + 700, len(data) - 1):
        slot = a_disk({name: data})
        slot.files.flip(slot.path(1), offset)
        slot.open()
        assert counts(slot) == [2, 2]


# --------------------------------------------------------------------------- damage


def padding_of(data: bytes, end: int) -> set[int]:
    """Offsets of the zeros behind bodies, which no checksum covers."""
    found: set[int] = set()
    offset = 0
    while offset < end:
        header = records.decode_header(data, offset)
        assert header is not None
        body_end = offset + 64 + header.length
        offset = offset + 64 + records.padded(header.length)
        found |= set(range(body_end, offset))
    return found


def test_a_flipped_bit_is_never_taken_for_a_torn_tail_even_in_the_last_batch() -> None:
    """Pitfall 45: one flipped bit made another system forget half of what it had acknowledged."""
    original, ends = three_batches()
    ((name, data),) = image(original).items()
    padding = padding_of(data, ends[2])
    for offset in range(ends[2]):
        slot = a_disk({name: data})
        slot.files.flip(slot.path(1), offset, offset % 8)
        changed = slot.files.content(slot.path(1))
        slot.open()
        assert not slot.wal.statistics()["recovered_torn"], offset
        if offset in padding:
            assert counts(slot) == [2, 2]
            assert slot.wal.damage == []
        else:
            assert name in slot.wal.damage[0], offset
            assert slot.files.content(slot.path(1)) == changed, "it was written to"


def test_a_damaged_body_costs_its_group_alone_and_names_file_and_offset() -> None:
    original, _ends = three_batches()
    ((name, data),) = image(original).items()
    offset = data.index(b"body 2 of group 8")
    slot = a_disk({name: data})
    slot.files.flip(slot.path(1), offset)
    groups = slot.open()
    assert groups[7].damaged is None
    assert groups[8].damaged == (
        f"record 3 (index 1) is lost: {slot.path(1)} at offset {offset - 64}: "
        "the body's checksum is wrong"
    )


def test_of_a_damaged_header_the_commit_frame_tells_whose_it_was() -> None:
    original, _ends = three_batches()
    ((name, data),) = image(original).items()
    offset = data.index(b"body 2 of group 8") - 64
    slot = a_disk({name: data})
    slot.files.flip(slot.path(1), offset + 20)
    groups = slot.open()
    assert hit(groups) == {8}
    assert f"at offset {offset}: no valid record header" in (groups[8].damaged or "")


def test_a_lost_sector_below_a_later_batch_is_no_torn_tail() -> None:
    """It looks unwritten, but what came after it proves that it was durable."""
    original = a_slot(7)
    for number in (2, 3):
        body = b"x" * 1500
        original.wal.save(7, Save(number, None, None, [run_of(number - 1, body=body)]))
        original.write()
    ((name, data),) = image(original).items()
    lost = bytearray(data)
    lost[1024:1536] = bytes(512)
    assert hit(a_disk({name: bytes(lost)}).open()) == {7}


def test_a_lost_sector_below_the_beginning_of_a_later_batch_is_no_torn_tail() -> None:
    """The later batch is torn itself; that it was begun is proof enough."""
    original = a_slot(7)
    ends = []
    for number in (2, 3):
        body = b"x" * 1500
        original.wal.save(7, Save(number, None, None, [run_of(number - 1, body=body)]))
        original.write()
        ends.append(original.wal.statistics()["segment_used_bytes"])
    ((name, data),) = image(original).items()
    lost = bytearray(data)
    lost[1024:1536] = bytes(512)
    lost[ends[0] + 100 :] = bytes(len(data) - ends[0] - 100)
    assert hit(a_disk({name: bytes(lost)}).open()) == {7}


def test_a_flip_in_a_commit_frame_below_a_torn_batch_costs_nothing() -> None:
    original, ends = three_batches()
    ((name, data),) = image(original).items()
    slot = a_disk({name: data[: ends[2] - 30] + bytes(len(data) - ends[2] + 30)})
    slot.files.flip(slot.path(1), ends[1] - 90)
    assert hit(slot.open()) == set()
    assert counts(slot) == [1, 1]
    assert slot.wal.damage


def test_a_tail_below_a_later_segment_is_not_torn() -> None:
    original, _ends = three_batches()
    original.wal.save(7, Save(4, None, None, [run_of(3, body=b"y" * 4000)]))
    original.write()
    segments = image(original)
    first = segments[segment_name(1)]
    nearly = first[_ends[1] : -200] + bytes(200)
    for tail, lost in ((bytes(200), {7, 8}), (nearly, {8}), (b"", {7, 8})):
        slot = a_disk({**segments, segment_name(1): first[: _ends[1]] + tail})
        assert hit(slot.open()) == lost
    groups = a_disk({**segments, segment_name(1): bytes(len(first))}).open()
    assert hit(groups) == {7, 8}
    assert "is empty" in (groups[7].damaged or "")


def many_segments(*, ids_from: int = 1) -> dict[str, bytes]:
    slot = a_slot(7, ids_from=ids_from)
    for number in range(2, 30):
        slot.wal.save(7, Save(number, None, None, [run_of(number - 1, body=b"z" * 700)]))
        slot.write()
    segments = image(slot)
    assert len(segments) >= 3
    return segments


def test_a_missing_segment_is_named() -> None:
    segments = many_segments()
    first, middle, *_ = segments
    for gone in (first, middle):
        without = {name: data for name, data in segments.items() if name != gone}
        reason = a_disk(without).open()[7].damaged
        assert f"{gone} at offset 0: the segment is missing" in (reason or "")


def test_a_segment_of_another_slot_or_time_is_none_of_the_log() -> None:
    segments = many_segments()
    others = many_segments(ids_from=100)
    _, second, *_ = segments
    found = a_disk({**segments, second: others[second]}).open()
    assert found[7].runs, "what was before it"
    assert f"{second} at offset 0: it is no part of this log" in (found[7].damaged or "")
    slot = a_disk(segments)
    with pytest.raises(WalDamaged, match="slot"):
        Wal.open(slot.files, DIRECTORY, slot=5, incarnation=INCARNATION, random_id=lambda: 1)


def test_the_log_of_another_disk_is_never_voted_with() -> None:
    """Somebody copies a node's directory to another one: its votes are not that one's."""
    slot = a_disk(many_segments())
    with pytest.raises(ForeignWal, match="d15c, and this is 000000000000beef") as caught:
        Wal.open(slot.files, DIRECTORY, slot=0, incarnation=0xBEEF, random_id=lambda: 1)
    assert (caught.value.file, caught.value.written_for) == (slot.path(1), INCARNATION)
    assert slot.open()[7].runs, "and nothing was changed"


def test_a_single_segment_of_another_disk_is_never_voted_with() -> None:
    """Also a last one, which would fit in every other respect."""
    segments = many_segments()
    slot = a_disk(segments)
    *_, last = segments
    data = segments[last]
    header = records.decode_header(data, 0)
    assert header is not None
    info = records.decode_segment(data[64 : 64 + header.length])
    info.incarnation = 0xBEEF
    body = records.encode_segment(info, 128)
    raw = records.encode_header(
        records.SEGMENT, 0, 0, 0, 0, header.gseq, 0, 0, len(body), crc32c(body)
    )
    assert len(body) == header.length
    slot.files.put(slot.path(header.gseq), raw + body + data[64 + len(body) :])
    with pytest.raises(ForeignWal, match=last):
        slot.open()


def test_a_disk_that_cannot_be_read_is_an_error_of_the_system() -> None:
    original, _ = three_batches()
    slot = a_disk(image(original))
    slot.files.fail("pread", errno.EIO, path=".wal")
    with pytest.raises(OSError, match="Input/output"):
        slot.open()
    slot.open()  # and the lock was let go


# --------------------------------------------------------------------------- other versions


def reseal(data: bytes, offset: int, position: int, value: int) -> bytes:
    """Change one byte of a header and make its CRC right again."""
    changed = bytearray(data)
    changed[offset + position] = value
    crc = crc32c(bytes(changed[offset : offset + 60]))
    changed[offset + 60 : offset + 64] = crc.to_bytes(4, "little")
    return bytes(changed)


@pytest.mark.parametrize(
    ("position", "value", "what"),
    [(4, 2, "format 2"), (5, 99, "unknown kind 99"), (6, 77, "run of unknown kind 77")],
    ids=["format", "kind", "run kind"],
)
def test_what_a_newer_version_wrote_is_refused_and_never_cut(
    position: int, value: int, what: str
) -> None:
    slot = a_slot(7)
    offset = slot.wal.statistics()["segment_used_bytes"]
    slot.wal.save(7, Save(2, None, None, [run_of(1)]))
    slot.write()
    ((name, data),) = image(slot).items()
    changed = reseal(data, offset, position, value)
    if position == 4:
        with pytest.raises(UnknownFormat, match=what) as caught:
            a_disk({name: changed}).open()
        assert (caught.value.file, caught.value.offset) == (slot.path(1), offset)
        return
    group = a_disk({name: with_right_commit(changed, offset)}).open()[7]
    assert group.damaged is None
    assert f"{slot.path(1)} at offset {offset}: group 7: " in (group.unknown or "")
    assert what in (group.unknown or "")


def with_right_commit(data: bytes, start: int) -> bytes:
    """Make the commit frame of the one-record batch at ``start`` fit what is there now."""
    header = records.decode_header(data, start)
    assert header is not None
    at = start + 64 + records.padded(header.length)
    frame = records.decode_header(data, at)
    assert frame is not None
    body = data[at + 64 : at + 64 + frame.length]
    commit = records.decode_commit(body)
    commit.headers_crc = records.crc_of_headers([data[start : start + 64]])
    new = records.encode_commit(commit)
    head = records.encode_header(
        records.COMMIT, 0, 0, frame.entries, 0, frame.gseq, 0, 0, len(new), crc32c(new)
    )
    return data[:at] + head + new + data[at + 64 + len(new) :]


# --------------------------------------------------------------------------- order within a group


class Script:
    """Writes records as told, with right frames, which a writer of ours would never do."""

    def __init__(self) -> None:
        self.slot = a_slot(7)
        self.number = 1

    def write(self, *entries: tuple[int, int, bytes]) -> None:
        """(gseq, first index, body) of a run each."""
        wal = self.slot.wal
        for gseq, first, body in entries:
            wal._groups[7].gseq = gseq - 1
            wal._groups[7].last_index = first - 1
            self.number += 1
            wal.save(7, Save(self.number, None, None, [run_of(first, body=body)]))
        highest = max(gseq for gseq, _, _ in entries)
        wal._touched[7] = highest
        wal._groups[7].gseq = highest
        self.slot.write()


def test_records_are_taken_in_the_order_of_gseq() -> None:
    script = Script()
    script.write((4, 2, b"second"), (3, 1, b"first"), (5, 3, b"third"))
    groups = recover(script.slot.files, DIRECTORY, 0, INCARNATION).groups
    assert [run.body for run in groups[7].runs] == [b"first", b"second", b"third"]


def test_a_record_written_forward_again_counts_once() -> None:
    script = Script()
    script.write((3, 1, b"first"), (4, 2, b"second"))
    script.write((3, 1, b"first"), (5, 3, b"third"))
    groups = recover(script.slot.files, DIRECTORY, 0, INCARNATION).groups
    assert [run.body for run in groups[7].runs] == [b"first", b"second", b"third"]


def test_a_hole_in_gseq_is_damage() -> None:
    script = Script()
    script.write((3, 1, b"first"), (5, 2, b"third"))
    group = recover(script.slot.files, DIRECTORY, 0, INCARNATION).groups[7]
    assert "record 4 (behind index 1) is lost" in (group.damaged or "")


def test_a_hole_in_the_log_is_damage() -> None:
    script = Script()
    script.write((3, 1, b"first"), (4, 3, b"third"))
    group = recover(script.slot.files, DIRECTORY, 0, INCARNATION).groups[7]
    assert "run of 1 from 3 behind index 1" in (group.damaged or "")


def test_a_segments_table_that_contradicts_the_records_before_it_is_damage() -> None:
    """It would show records that are lost without a trace."""
    slot = a_slot(7, 8)
    slot.wal._groups[8].term = 5
    slot.wal.save(7, Save(2, None, None, [run_of(1, body=bytes(4000))]))
    slot.write()
    groups = slot.reopen()
    assert hit(groups) == {8}
    assert "its table says" in (groups[8].damaged or "")


def test_a_batch_out_of_the_chain_is_damage() -> None:
    slot = a_slot(7)
    slot.wal._chain ^= 1
    slot.begin(8)
    slot.write()
    assert "of another batch" in (slot.reopen()[7].damaged or "")


# --------------------------------------------------------------------------- what is on the disk


def test_a_whole_batch_that_was_never_synced_is_durable_once_recovered() -> None:
    """It was only in the page cache of a kernel that outlived the process."""
    slot = a_slot(7)
    slot.wal.save(7, Save(2, HardState(2, N2), None, [run_of(1, term=2)]))
    batch = slot.wal.take_batch()
    assert batch is not None
    slot.files.lose_power_after(1)  # the write, but not the sync
    with pytest.raises(Exception):  # noqa: B017 - whatever the machine does when it goes off
        batch.run()
    assert slot.reopen()[7].hard_state == HardState(2, N2)
    slot.files.crash(Nothing())
    assert slot.open()[7].hard_state == HardState(2, N2)


class Nothing:
    """A crash after which nothing unsynced arrives."""

    def random(self) -> float:
        return 0.99

    def randrange(self, stop: int, /) -> int:
        return 0


def test_pages_marked_clean_by_a_failed_sync_are_written_again() -> None:
    """Pitfall 44: after the failure a reader sees a batch that the disk never got."""
    slot = a_slot(7)
    slot.wal.save(7, Save(2, HardState(2, N2)))
    batch = slot.wal.take_batch()
    assert batch is not None
    slot.files.fail("fdatasync", errno.EIO)
    with pytest.raises(Exception, match="Input/output"):
        batch.run()
    assert not slot.files.unsynced(slot.path(1))
    assert slot.reopen()[7].hard_state == HardState(2, N2)
    slot.files.crash(Nothing())
    assert slot.open()[7].hard_state == HardState(2, N2)


def test_opening_makes_the_new_segment_durable_before_it_returns() -> None:
    slot = a_slot(7)
    slot.files.crash(Nothing())
    slot.open()
    slot.files.crash(Nothing())
    assert slot.open()[7].hard_state == HardState(1, N1)
    assert slot.segments() == [segment_name(number) for number in (1, 2, 3)]


def test_a_body_full_of_foreign_frames_is_only_a_body() -> None:
    """A client may store a copy of our own segment."""
    original, ends = three_batches(ids_from=100)
    ((_, data),) = image(original).items()
    not_quite = records.encode_header(records.COMMIT, 0, 0, 1, 0, 9, 0, 0, 8, crc32c(b"no frame"))
    data = not_quite + b"no frame" + data
    ends = [end + len(not_quite) + 8 for end in ends]
    slot = a_slot(7)
    start = slot.wal.statistics()["segment_used_bytes"]
    copy = Run(1, 1, 1, 1, data[: ends[2]], crc32c(data[: ends[2]]))
    slot.wal.save(7, Save(2, None, None, [copy]))
    slot.write()
    assert slot.wal.statistics()["segment"] == 1
    ((name, whole),) = image(slot).items()
    assert a_disk({name: whole}).open()[7].runs == [copy]
    torn = bytearray(whole)
    torn[(start // 512 + 1) * 512 : (start // 512 + 2) * 512] = bytes(512)
    assert a_disk({name: bytes(torn)}).open()[7].runs == []


def test_a_group_that_ends_and_begins_anew_in_one_batch_harms_nobody_in_it() -> None:
    """The commit frame says how far the later generation is, which may be less far."""
    slot = a_slot(7, 8)
    wal = slot.wal
    wal.save(7, Save(2, None, None, [run_of(1), run_of(2)]))
    wal.forget_group(7, "it was left")
    wal.add_group(7, 2, b"members of another life")
    wal.save(8, Save(2, None, None, [run_of(1)]))
    slot.write()
    wal.save(8, Save(3, None, None, [run_of(2)]))
    slot.write()
    for _ in range(3):
        groups = slot.reopen()
        assert slot.wal.damage == []
        assert [(it.generation, it.damaged, len(it.runs)) for it in groups.values()] == [
            (2, None, 0),
            (1, None, 2),
        ]
        slot.tidy()
