"""A slot with damage is opened: marks are durable first, the others work on, and it stays so."""

from __future__ import annotations

import errno
import random
import sys
from functools import cache

import pytest
from google_crc32c import value as crc32c

from raft.messages import HardState, Save
from raft.store import records
from raft.store.errors import UnknownFormat
from raft.store.evidence import REASON_BYTES_MAX
from raft.store.memory import PowerLoss
from raft.store.recovery import RecoveredGroup
from raft.store.segments import segment_name
from tests.raft.store.damage import (
    Disk,
    History,
    Writer,
    a_disk,
    a_history,
    check,
    condemned,
    flipped,
    history_of,
    image,
    read,
    truth_of,
    zeroed,
)
from tests.raft.store.kit import DIRECTORY, N1, N2, Slot, a_slot, run_of
from tests.raft.store.test_recovery import reseal

HISTORY = cache(a_history)


def of_kind(history: History, kind: int, group: int = 0, *, at: int = 0) -> tuple[str, int]:
    """Where such a record stands; ``at``: the how manieth of them."""
    found = [it for it in history.places if (it.kind, it.group) == (kind, group)]
    return found[at].name, found[at].offset


def without_8(history: History) -> Disk:
    """A run of group 8 is damaged, and nothing else."""
    name, offset = of_kind(history, records.RUN, 8, at=1)
    return flipped(history.disk, name, offset + 80, 3)


def opened(disk: Disk, *, ids_from: int = 5000) -> Slot:
    slot = Slot(a_disk(disk), ids_from=ids_from)
    slot.open()
    return slot


# --------------------------------------------------------------------------- life goes on


def test_the_others_go_on_and_who_is_condemned_stays_so_with_the_same_words() -> None:
    history = HISTORY()
    slot = opened(without_8(history))
    reason = slot.groups[8].damaged
    assert condemned(slot.groups) == {8}
    for round_ in range(4):
        run = slot.groups[7].runs[-1]
        slot.wal.save(7, Save(1, None, None, [run_of(run.last + 1, body=b"new %d" % round_)]))
        if round_ == 1:
            slot.wal.add_group(30, 1, b"a new one")
        slot.write()
        groups = slot.reopen()
        assert groups[8].damaged == reason
        assert condemned(groups) == {8}, "and nobody else, though the damage is still there"
        assert groups[7].runs[-1].body == b"new %d" % round_
    assert groups[30].bootstrap == b"a new one"
    gseqs = [it.last_gseq for it in groups.values()]
    assert len(gseqs) == 5


def test_a_damaged_segment_is_never_written_to() -> None:
    history = HISTORY()
    last = list(history.disk)[-1]
    for name in (last, list(history.disk)[1]):
        disk = flipped(history.disk, name, 90, 2)
        slot = opened(disk)
        slot.reopen()
        assert slot.files.content(f"{DIRECTORY}/{name}") == disk[name]


def test_each_condemned_group_has_one_mark_and_its_row_says_so() -> None:
    slot = opened(without_8(HISTORY()))
    for _ in range(3):
        slot.reopen()
    data = b"".join(image(slot).values())
    assert data.count(b"is lost: ") == 1 + 2 * 4, "one record, and one row for each opening, twice"


def test_a_reason_has_a_limit() -> None:
    slot = a_slot(7)
    slot.wal.mark_damaged(7, "ä" * 1000)
    slot.write()
    reason = slot.reopen()[7].damaged
    assert reason == "ä" * (REASON_BYTES_MAX // 2)


def test_what_is_no_part_of_the_log_is_set_aside_once_that_is_sure() -> None:
    history = HISTORY()
    names = list(history.disk)
    copy = segment_name(len(names) + 1)
    slot = opened({**history.disk, copy: history.disk[names[1]]})
    assert condemned(slot.groups) == history.groups
    assert copy in slot.segments()
    slot.wal.add_group(30, 1, b"a new one")
    slot.write()
    assert condemned(slot.reopen()) == history.groups, "the new one is not"
    assert copy not in slot.segments()
    assert slot.files.exists(f"{DIRECTORY}/{copy}.aside")


def test_a_name_that_no_segment_can_have_is_set_aside_at_once() -> None:
    history = HISTORY()
    name = segment_name((1 << 64) - 1)
    slot = opened({**history.disk, name: b"garbage"})
    assert condemned(slot.groups) == history.groups
    assert slot.files.exists(f"{DIRECTORY}/{name}.aside")
    slot.wal.add_group(30, 1, b"a new one")
    slot.write()
    assert condemned(slot.reopen()) == history.groups
    assert slot.wal.statistics()["segment"] == len(history.disk) + 2


def test_a_tail_that_was_cut_in_a_damaged_segment_is_not_found_later() -> None:
    """It is not cut on the disk: the next segment says where this one ends."""
    history = a_mimic([b"one", b"two", b"three"])
    ((name, data),) = history.disk.items()
    cut = history.start_of(history.places[-1].batch) + 90
    slot = opened(flipped({name: data[:cut]}, name, data.index(b"one"), 3))
    assert slot.wal.statistics()["recovered_torn"]
    damage = slot.wal.damage
    assert condemned(slot.groups) == {7}
    assert len(slot.files.content(f"{DIRECTORY}/{name}")) == cut
    for _ in range(2):
        assert condemned(slot.reopen()) == {7}
        assert slot.wal.damage == damage


def test_a_lost_sector_below_a_torn_opening_is_no_torn_tail() -> None:
    """That the next segment was begun proves that the batch was synced."""
    history = HISTORY()
    name = list(history.disk)[-1]
    data = history.disk[name]
    opening = next(it for it in history.places if (it.name, it.kind) == (name, records.COMMIT))
    before = list(history.disk)[-2]
    tail = len(history.disk[before]) - 30
    disk = {**history.disk, name: data[: opening.offset]}
    assert condemned(read(disk)) == set()
    disk = zeroed(disk, before, tail, len(history.disk[before]))
    assert condemned(read(disk)) == history.groups


# --------------------------------------------------------------------------- marks outlive damage


def test_a_mark_outlives_the_loss_of_its_record_and_of_any_table() -> None:
    history = HISTORY()
    slot = opened(without_8(history))
    slot.reopen()
    marked = history_of_disk(image(slot))
    points = 0
    for place in marked.places:
        if place.kind in (records.DAMAGED, records.SEGMENT, records.COMMIT):
            for offset in (place.offset + 20, place.body + 3):
                groups = opened(flipped(marked.disk, place.name, offset, 1)).groups
                assert 8 in condemned(groups), (place, offset)
                points += 1
    assert points > 20


def test_a_mark_outlives_the_damage_that_it_is_about() -> None:
    """The damaged segment is gone, as after tidying; and then the mark's own record decays."""
    history = HISTORY()
    slot = opened(without_8(history))
    disk = image(slot)
    newest = list(disk)[-1]
    left = {newest: disk[newest]}
    assert 8 in condemned(read(left))
    at = disk[newest].index(b"record ", disk[newest].index(b"PRwl\x01\x07"))
    assert 8 in condemned(read(flipped(left, newest, at, 0)))


def history_of_disk(disk: Disk) -> History:
    disk = {name: data.rstrip(b"\0") for name, data in disk.items()}
    return History(disk, {group: truth_of(it) for group, it in read(disk).groups.items()})


# --------------------------------------------------------------------------- crashes while opening


def test_the_mark_is_durable_before_the_slot_is_open() -> None:
    slot = opened(without_8(HISTORY()))
    slot.files.crash(Nothing())
    data = b"".join(image(slot).values())
    assert b"PRwl\x01\x07" in data


class Nothing:
    """A crash after which nothing unsynced arrives."""

    def random(self) -> float:
        return 0.99

    def randrange(self, stop: int, /) -> int:
        return 0


def test_a_batch_that_only_the_page_cache_has_is_durable_though_its_segment_is_damaged() -> None:
    """Pitfall 44: dead records, too, or there would be a hole."""
    slot = a_slot(7, 8)
    wal = slot.wal
    wal.save(8, Save(2, None, None, [run_of(1, body=b"is lost")]))
    slot.write()
    wal.save(7, Save(2, HardState(2, N2), None, [run_of(1, term=2), run_of(2, term=2)]))
    wal.save(7, Save(3, HardState(3, N1), 2, []))
    batch = wal.take_batch()
    assert batch is not None
    slot.files.lose_power_after(1)  # the write, but not the sync
    with pytest.raises(PowerLoss):
        batch.run()
    slot.files.kill()
    at = slot.files.content(slot.path(1)).index(b"is lost")
    slot.files.flip(slot.path(1), at)
    before = slot.open()
    assert condemned(before) == {8}
    assert before[7].hard_state == HardState(3, N1)
    slot.files.crash(Nothing())
    for _ in range(2):
        after = slot.reopen()
        assert condemned(after) == {8}
        assert truth_of(after[7]) == truth_of(before[7])


def test_a_last_batch_that_was_copied_stands_when_the_damaged_segment_is_given_up() -> None:
    """It has truncations, and what they truncated, of which nothing is live."""
    slot = a_slot(7, 8)
    wal = slot.wal
    wal.save(8, Save(2, None, None, [run_of(1, body=b"is lost")]))
    wal.save(7, Save(2, None, None, [run_of(1)]))
    slot.write()
    wal.save(7, Save(3, None, None, [run_of(2), run_of(3)]))
    wal.save(7, Save(4, HardState(2, N2), 2, [run_of(2, term=2)]))
    slot.write()
    slot.files.kill()
    at = slot.files.content(slot.path(1)).index(b"is lost")
    slot.files.flip(slot.path(1), at)
    before = slot.open()
    assert condemned(before) == {8}
    slot.tidy()
    slot.reopen()
    slot.tidy()
    assert slot.segments()[0] != segment_name(1)
    for _ in range(3):
        after = slot.reopen()
        assert condemned(after) == {8}
        assert truth_of(after[7]) == truth_of(before[7])
        slot.tidy()


# --------------------------------------------------------------------------- what clients may write


def a_mimic(bodies: list[bytes]) -> History:
    """Group 7 has runs with these bodies, group 8 votes beside each, in one segment."""
    writer = Writer(7, 8, segment_bytes_first=1 << 17, segment_bytes_max=1 << 17)
    for number, body in enumerate(bodies):
        writer.run(7, body)
        writer.vote(8, 2 + number)
        writer.write()
    return history_of(writer.slot)


def forged(segment_id: int, batch: int, chain: int, *, gseq: int | None = None) -> bytes:
    """A batch in which group 8 votes, as its writer would have written it, and after it another.
    The first one has this gseq, or that of the batch in which it would be its next."""
    data = b""
    ahead = 0 if gseq is None else gseq - batch
    for number in (batch, batch + 1):
        body = records.encode_hard_state(HardState(77, N2))
        vote = records.encode_header(
            records.HARD_STATE, 0, 1, 0, 8, number + ahead, 77, 0, len(body), crc32c(body)
        )
        commit = records.encode_commit(
            records.Commit(
                number, segment_id, chain, records.crc_of_headers([vote]), {8: number + ahead}
            )
        )
        frame = records.encode_header(
            records.COMMIT, 0, 0, 1, 0, number, 0, 0, len(commit), crc32c(commit)
        )
        data += vote + body + bytes(-len(body) % 8) + frame + commit
        chain = int.from_bytes(frame[-4:], "little")
    return data


def test_bytes_of_clients_are_never_taken_for_records() -> None:
    """Copies of our own log, and batches forged with its random id, in every order; and any header
    may lose a bit, so that they stand where a record would be looked for."""
    plain = a_mimic([b"one", b"two", b"three"])
    ((_, data),) = plain.disk.items()
    info = records.decode_segment(read_body(data, 0))
    start = plain.start_of(2)
    bodies = [b"one", b"two", data, data[start:]]
    bodies += [forged(info.segment_id, batch, 0) for batch in (3, 4, 5, 8, 12, 900)]
    bodies += [b"last"]
    history = a_mimic(bodies)
    ((name, whole),) = history.disk.items()
    assert records.decode_segment(read_body(whole, 0)).segment_id == info.segment_id
    points = 0
    for place in history.places[1:]:
        for offset in (place.offset, place.offset + 24, place.offset + 49, place.body):
            found = read(flipped(history.disk, name, min(offset, place.end - 1), 1))
            lost = check(history, found.groups)
            assert history.hit(name, offset, offset + 1) <= lost
            points += 1
    for place in history.places[1:]:
        rng = random.Random(place.offset)
        for _ in range(12):
            other = rng.choice(history.places[1:])
            disk = flipped(history.disk, name, place.offset + 9, 1)
            disk = flipped(disk, name, other.offset + rng.randrange(64), rng.randrange(8))
            check(history, read(disk).groups)
            points += 1
    sys.stdout.write(f"\n{points} damages among bytes that look like records\n")


@pytest.mark.parametrize("ahead", [0, 1, 2, 50])
def test_a_forged_batch_in_place_of_the_one_that_it_was_written_with(ahead: int) -> None:
    """Whoever wrote it knew the segment's random id and the batch to come.  The header before it is
    damaged, so that it is searched through; and perhaps the real commit frame behind it, too."""
    plain = a_mimic([b"one", b"two"])
    ((_, data),) = plain.disk.items()
    info = records.decode_segment(read_body(data, 0))
    own = 5  # of the third body
    fake = forged(info.segment_id, own + ahead, 0, gseq=own)
    history = a_mimic([b"one", b"two", fake, b"four", b"five"])
    ((name, whole),) = history.disk.items()
    at = whole.index(fake)
    run = next(it for it in history.places if it.body == at)
    frame = next(it for it in history.places if (it.batch, it.kind) == (run.batch, records.COMMIT))
    assert frame.batch == own - 1, "counted from 0"
    once = flipped(history.disk, name, run.offset + 9, 1)
    assert check(history, read(once).groups) == {7, 8}, "what stands behind it in its batch"
    twice = flipped(flipped(once, name, frame.offset + 9, 1), name, frame.body + 9, 1)
    for disk in (once, twice):
        groups = read(disk).groups
        assert condemned(groups) == {7, 8}
        assert all(group.hard_state.term != 77 for group in groups.values())


def read_body(data: bytes, offset: int) -> bytes:
    header = records.decode_header(data, offset)
    assert header is not None
    return data[offset + 64 : offset + 64 + header.length]


def test_a_tail_cut_right_behind_a_forged_frame_condemns() -> None:
    """All that was written behind it is gone, and with it what would have given it the lie."""
    plain = a_mimic([b"one", b"two"])
    ((_, data),) = plain.disk.items()
    info = records.decode_segment(read_body(data, 0))
    fake = forged(info.segment_id, 900, 0)
    history = a_mimic([b"one", b"two", fake, b"four", b"five"])
    ((name, whole),) = history.disk.items()
    end = whole.index(fake) + len(fake)
    header = next(it for it in history.places if it.body == end - len(fake))
    disk = flipped({name: whole[:end]}, name, header.offset + 9, 1)
    assert condemned(read(disk)) == history.groups


# --------------------------------------------------------------------------- versions


def test_a_damaged_format_is_no_newer_version() -> None:
    history = HISTORY()
    for place in history.places:
        for value in (0, 2, 3, 0x81, 255):
            data = bytearray(history.disk[place.name])
            data[place.offset + 4] = value
            check(history, read({**history.disk, place.name: bytes(data)}).groups)


def test_a_newer_version_stops_the_slot_even_where_its_header_is_another_one() -> None:
    history = HISTORY()
    last = list(history.disk)[-1]
    data = history.disk[last]
    newer = b"PRwl\x02" + bytes(range(59)) + data[64:]
    with pytest.raises(UnknownFormat, match="format 2"):
        read({**history.disk, last: newer})
    name, offset = of_kind(history, records.RUN, 8, at=1)
    with pytest.raises(UnknownFormat, match="format 9"):
        read({**history.disk, name: reseal(history.disk[name], offset, 4, 9)})


def test_what_a_newer_version_wrote_of_one_group_stops_that_group_alone_and_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot = a_slot(7, 8)
    wal = slot.wal
    wal._record(wal._groups[7], records.DAMAGED + 93, body=b"of a newer version")
    wal.save(7, Save(2, HardState(3, N2), None, [run_of(1, term=3)]))
    wal.save(8, Save(2, None, None, [run_of(1)]))
    slot.write()
    for round_ in range(5):
        groups = slot.reopen()
        assert condemned(groups) == set()
        assert "record of unknown kind 100; a newer" in (groups[7].unknown or "")
        assert groups[8].unknown is None
        body = bytes(3000)
        runs = [run_of(groups[8].runs[-1].last + 1 + at, body=body) for at in range(4)]
        slot.wal.save(8, Save(1, None, None, runs))
        slot.write()
        slot.tidy()
        assert slot.wal.statistics()["segments_removed"] == 0, round_
        assert "newer" in slot.wal.statistics()["tidying_stopped"]
    monkeypatch.setattr(records, "RECORD_KINDS", records.RECORD_KINDS | {100})
    monkeypatch.setitem(replay_table(), 100, lambda replay, header, body: None)
    found = slot.reopen()[7]
    assert (found.unknown, found.damaged) == (None, None)
    assert found.hard_state == HardState(3, N2)
    assert [run.first for run in found.runs] == [1]
    slot.wal.save(7, Save(1, HardState(4, N1)))
    slot.write()
    assert slot.reopen()[7].hard_state == HardState(4, N1)


def replay_table() -> dict[int, object]:
    from raft.store import replay

    table: dict[int, object] = replay.__dict__["_APPLY"]
    return table


# --------------------------------------------------------------------------- numbers


def test_a_wrong_huge_number_costs_nothing() -> None:
    slot = a_slot(7, 8)
    wal = slot.wal
    huge = (1 << 64) - 1
    wal._groups[7].gseq = huge - 1
    wal._record(wal._groups[7], records.HARD_STATE, body=records.encode_hard_state(HardState(2)))
    slot.write()
    groups = slot.reopen()
    assert condemned(groups) == {7}
    assert groups[7].last_gseq < huge
    assert condemned(slot.reopen()) == {7}
    header = records.encode_header(records.RUN, 1, 1, huge >> 32, 8, 3, 1, 1, (1 << 32) - 1, 0)
    name = slot.segments()[-1]
    data = slot.files.content(f"{DIRECTORY}/{name}").rstrip(b"\0") + header + b"x" * 40
    assert condemned(read({**image(slot), name: data})) >= {7}


def test_a_disk_that_cannot_be_read_is_no_loss() -> None:
    history = HISTORY()
    slot = Slot(a_disk(history.disk))
    for name in history.disk:
        slot.files.fail("pread", errno.EIO, path=name)
        with pytest.raises(OSError, match=name) as caught:
            slot.open()
        assert caught.value.errno == errno.EIO
        assert slot.segments() == list(history.disk)
    assert check(history, slot.open()) == set()


# --------------------------------------------------------------------------- with tidying


def test_copies_fill_holes_and_what_was_given_up_is_no_loss() -> None:
    """Damage in a log whose oldest segments are gone: who has all that lives is whole."""
    slot, model = a_tidied_log()
    history = history_of_disk(image(slot))
    assert history.truth == model
    assert next(iter(history.disk)) != segment_name(1)
    points = lost_count = 0
    for place in history.places:
        for offset in (place.offset + 30, place.body):
            found = read(flipped(history.disk, place.name, offset, 1))
            lost = check(history, found.groups)
            if place.group:
                lost_count += place.group in lost
            points += 1
    assert lost_count > 10
    for name in list(history.disk)[:-1]:
        found = read({each: data for each, data in history.disk.items() if each != name})
        check(history, found.groups)


def a_tidied_log() -> tuple[Slot, dict[int, object]]:
    from tests.raft.store.kit import keeps

    writer = Writer(7, 8, 9, segment_bytes_first=1 << 11, segment_bytes_max=1 << 11)
    for number in range(1, 30):
        writer.run(7, b"%d" % number * 100)
        if number % 5 == 0:
            writer.run(8, b"eight %d" % number)
        if number % 4 == 0:
            writer.mark(7, keeps(number - 1, number - 2))
        writer.write()
        writer.slot.tidy()
    assert writer.slot.wal.statistics()["segments_removed"] > 2
    groups: dict[int, RecoveredGroup] = read(image(writer.slot)).groups
    return writer.slot, {group: truth_of(it) for group, it in groups.items()}
