"""Damage condemns the groups that lost something; the others have all that was acknowledged."""

from __future__ import annotations

import itertools
import random
import sys
from functools import cache

import pytest

from raft.store import records
from raft.store.segments import segment_name
from tests.raft.store.damage import (
    History,
    Place,
    a_history,
    a_small_history,
    check,
    condemned,
    flipped,
    hurt,
    read,
    zeroed,
)

SMALL = cache(a_small_history)
LARGE = cache(a_history)


def behind(history: History, place: Place) -> set[int]:
    """Groups with records in the same batch, from this one on."""
    return {
        it.group
        for it in history.places
        if it.group and it.batch == place.batch and it.offset >= place.offset
    }


def hit_by_flip(history: History, place: Place, offset: int) -> set[int]:
    """Exactly those that a flipped bit costs their place."""
    is_header = offset < place.body
    if place.kind in (records.COMMIT, records.SEGMENT) or offset >= place.body_end:
        return set()  # the rest, or the copy, says what it was; padding is nothing
    return behind(history, place) if is_header else {place.group}


def test_every_flipped_bit_condemns_exactly_those_that_lost_something() -> None:
    history = SMALL()
    points = 0
    for place in history.places:
        for offset in range(place.offset, place.end):
            expected = hit_by_flip(history, place, offset)
            for bit in range(8):
                found = read(flipped(history.disk, place.name, offset, bit))
                assert check(history, found.groups) == expected, (place, offset, bit)
                points += 1
    sys.stdout.write(f"\n{points} bits flipped, one at a time")
    assert points == 8 * sum(map(len, history.disk.values()))


def test_the_reason_names_file_offset_record_and_index() -> None:
    history = SMALL()
    place = next(it for it in history.places if (it.group, it.kind) == (8, records.RUN))
    found = read(flipped(history.disk, place.name, place.body, 0))
    reason = found.groups[8].damaged
    assert reason is not None
    assert reason.startswith("record 3 (index 1) is lost: ")
    assert reason.endswith(f"{place.name} at offset {place.offset}: the body's checksum is wrong")


def test_the_reason_of_a_lost_header_names_the_place_too() -> None:
    history = SMALL()
    place = next(it for it in history.places if (it.group, it.kind) == (8, records.RUN))
    found = read(flipped(history.disk, place.name, place.offset + 20, 0))
    reason = found.groups[8].damaged
    assert reason is not None
    assert reason.startswith("record 3 (behind index 0) is lost: ")
    assert f"{place.name} at offset {place.offset}: no valid record header" in reason


# --------------------------------------------------------------------------- more than a bit


def test_every_lost_sector_condemns_at_least_those_that_had_something_in_it() -> None:
    history = LARGE()
    *_, last = history.places
    whole = torn = 0
    for name, data in history.disk.items():
        for start in range(0, len(data), 512):
            found = read(zeroed(history.disk, name, start, start + 512))
            hit = history.hit(name, start, start + 512)
            in_last_batch = name == last.name and start + 512 > history.start_of(last.batch)
            if in_last_batch:
                assert found.torn, "a sector that never arrived"
                assert condemned(found) == set()
                torn += 1
                continue
            lost = check(history, found.groups)
            assert hit <= lost, (name, start)
            whole += len(history.groups - lost)
    assert whole > 0
    assert torn > 0


def test_every_segment_that_is_missing_condemns_those_with_something_in_it() -> None:
    history = LARGE()
    names = list(history.disk)
    for name in names[:-1]:
        found = read({each: data for each, data in history.disk.items() if each != name})
        assert check(history, found.groups) == history.hit(name, 0, 1 << 40), name
        assert any(name in (it.damaged or "") for it in found.groups.values()), name


def test_any_choice_of_segments_may_be_missing() -> None:
    history = LARGE()
    names = list(history.disk)
    for gone in itertools.product((False, True), repeat=len(names) - 1):
        left = {
            name: history.disk[name]
            for name, is_gone in zip(names, (*gone, False), strict=True)
            if not is_gone
        }
        hit = set().union(
            *(history.hit(name, 0, 1 << 40) for name in names if name not in left),
        )
        assert check(history, read(left).groups) == hit


def test_a_segment_that_ends_early_anywhere_condemns_those_behind() -> None:
    history = LARGE()
    names = list(history.disk)
    points = 0
    for name in names[:-1]:
        data = history.disk[name]
        for length in range(0, len(data), 7):
            for rest in (b"", bytes(len(data) - length)):
                cut = {**history.disk, name: data[:length] + rest}
                lost = check(history, read(cut).groups)
                assert lost >= history.hit(name, length, 1 << 40), (name, length)
                assert lost <= behind_cut(history, name, length), (name, length)
                points += 1
    sys.stdout.write(f"\n{points} cuts")


def behind_cut(history: History, name: str, length: int) -> set[int]:
    """With a batch that is not there as a whole, all of it may be lost."""
    first = min(
        (it.batch for it in history.places if it.name == name and it.end > length), default=1 << 40
    )
    return {it.group for it in history.places if it.group and it.name == name and it.batch >= first}


# --------------------------------------------------------------------------- names


def test_swapped_names_lose_nothing() -> None:
    history = LARGE()
    names = list(history.disk)
    for first, second in itertools.combinations(names, 2):
        disk = {**history.disk, first: history.disk[second], second: history.disk[first]}
        found = read(disk)
        assert check(history, found.groups) == set()
        assert found.number == len(names)


@pytest.mark.parametrize("number", [99, (1 << 48) - 1, (1 << 64) - 1])
def test_a_renamed_segment_is_found(number: int) -> None:
    history = LARGE()
    for name, data in history.disk.items():
        disk = {each: content for each, content in history.disk.items() if each != name}
        found = read({**disk, segment_name(number): data})
        assert check(history, found.groups) == set()
        assert found.number < 1 << 48, "the next segment has to have a name"


def test_a_copy_under_the_name_of_a_later_one_condemns_all() -> None:
    """What that name stood for may be gone."""
    history = LARGE()
    for data in history.disk.values():
        found = read({**history.disk, segment_name(len(history.disk) + 1): data})
        assert check(history, found.groups) == history.groups


def test_garbage_under_the_name_of_a_later_one_condemns_all() -> None:
    """But what is no longer than a header looks like a write that ended there."""
    history = LARGE()
    name = segment_name(len(history.disk) + 1)
    found = read({**history.disk, name: b"garbage" * 100})
    assert check(history, found.groups) == history.groups
    assert check(history, read({**history.disk, name: b"g" * 64}).groups) == set()


def test_a_copy_in_the_place_of_another_is_the_loss_of_that_one() -> None:
    history = LARGE()
    names = list(history.disk)
    for name, other in itertools.permutations(names[:-1], 2):
        found = read({**history.disk, name: history.disk[other]})
        assert check(history, found.groups) == history.hit(name, 0, 1 << 40)


def test_a_stray_file_is_nothing() -> None:
    history = LARGE()
    strays = {"0000000000000001.wal.aside": b"x", "notes": b"y", "1.wal": b"z"}
    assert check(history, read({**history.disk, **strays}).groups) == set()


def test_an_empty_file_at_the_end_was_made_ahead() -> None:
    history = LARGE()
    name = segment_name(len(history.disk) + 1)
    for content in (b"", bytes(4096)):
        found = read({**history.disk, name: content})
        assert check(history, found.groups) == set()
        assert found.discard == [name]


# --------------------------------------------------------------------------- two at once


PAIRS = 1200


def test_pairs_of_damages_never_pass_for_less_than_they_are() -> None:
    """Who is not condemned has everything; but for what looks like a tail that never was."""
    history = LARGE()
    last = list(history.disk)[-1]
    spared = 0
    for seed in range(PAIRS):
        rng = random.Random(seed)
        disk = hurt(hurt(history.disk, rng), rng)
        if disk.get(last) != history.disk[last]:
            continue  # the next test
        lost = check(history, read(disk).groups)
        spared += len(history.groups - lost)
    sys.stdout.write(f"\n{PAIRS} pairs, {spared} groups spared")
    assert spared > PAIRS / 4
