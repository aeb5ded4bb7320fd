"""Arbitrary damage, by seed: who is hit is condemned, and nothing but a last batch is ever cut."""

from __future__ import annotations

import random
import sys
from functools import cache

from raft.messages import Save
from raft.store.errors import UnknownFormat
from tests.raft.store.damage import a_disk, a_history, check, condemned, hurt, read, truth_of
from tests.raft.store.kit import Slot, run_of

HISTORY = cache(a_history)
SEEDS = 1500


def test_damage_anywhere_is_seen_or_costs_nothing_or_looks_like_a_tail_that_never_was() -> None:
    history = HISTORY()
    last = list(history.disk)[-1]
    whole = read(history.disk)
    counts = {"harmless": 0, "some": 0, "all": 0, "newer": 0, "shorter": 0}
    for seed in range(SEEDS):
        rng = random.Random(seed)
        disk = hurt(history.disk, rng)
        if rng.random() < 0.3:
            disk = hurt(disk, rng)
        try:
            found = read(disk)
        except UnknownFormat:
            # Bytes were swapped for others at the beginning of a segment; and no other exception.
            counts["newer"] += 1
            continue
        if found.batch == whole.batch or condemned(found) == history.groups:
            lost = check(history, found.groups)
            counts["all" if lost == history.groups else "some" if lost else "harmless"] += 1
            continue
        # Only where nothing later proves the contrary, and everything before it is as it was.
        assert disk.get(last) != history.disk[last], seed
        truth = history.truth_until(found.batch)
        for group, it in found.groups.items():
            assert it.damaged is not None or truth_of(it) == truth[group], (seed, group)
        counts["shorter"] += 1
    sys.stdout.write(f"\n{SEEDS} damages: {counts}\n")
    assert counts["newer"] < SEEDS / 50
    assert min(counts["harmless"], counts["some"], counts["all"]) > SEEDS / 50


def test_the_last_batch_alone_is_what_zeros_can_take() -> None:
    """Zeros over more of the log's end look exactly like writes that never were."""
    history = HISTORY()
    last = history.places[-1]
    data, start = history.disk[last.name], history.start_of(last.batch)
    torn = data[: start + 10] + bytes(len(data) - start - 10)
    found = read({**history.disk, last.name: torn})
    assert (found.batch, found.torn, condemned(found)) == (last.batch, True, set())


def test_the_disk_is_usable_after_a_cut() -> None:
    history = HISTORY()
    last = history.places[-1]
    start = history.start_of(last.batch)
    cut = {**history.disk, last.name: history.disk[last.name][: start + 99]}
    slot = Slot(a_disk(cut), ids_from=1000)
    run = slot.open()[7].runs[-1]
    slot.wal.save(7, Save(1, None, None, [run_of(run.last + 1, body=b"again")]))
    slot.write()
    assert slot.reopen()[7].runs[-1].body == b"again"
