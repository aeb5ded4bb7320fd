"""Pauses of the garbage collector, and what is done about them."""

from __future__ import annotations

import subprocess
import sys

from actors.garbage import PAUSE_S_MAX, ShortCollections

FULL = 2


class Bench:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.calls: list[str] = []
        self.collections = ShortCollections(
            clock_s=lambda: self.now_s,
            freeze=lambda: self.calls.append("freeze"),
            unfreeze=lambda: self.calls.append("unfreeze"),
        )

    def collect(self, generation: int, took_s: float) -> None:
        info = {"generation": generation, "collected": 0, "uncollectable": 0}
        self.collections.note("start", info)
        self.now_s += took_s
        self.collections.note("stop", info)


def test_what_survives_a_long_full_collection_is_frozen() -> None:
    bench = Bench()
    bench.collect(FULL, 2 * PAUSE_S_MAX)
    assert bench.calls == ["freeze"]


def test_short_collections_freeze_nothing() -> None:
    bench = Bench()
    bench.collect(FULL, PAUSE_S_MAX / 2)
    bench.now_s += 1_000.0
    bench.collect(0, PAUSE_S_MAX / 2)
    assert bench.calls == []


def test_a_young_collection_that_looks_at_a_large_map_freezes_it() -> None:
    """A map of numbers and bytes is young again after each full collection."""
    bench = Bench()
    bench.collect(0, 2 * PAUSE_S_MAX)
    assert bench.calls == ["freeze"]


def test_when_a_group_ends_everything_is_looked_at_again() -> None:
    bench = Bench()
    bench.collect(FULL, 2 * PAUSE_S_MAX)
    bench.collections.thaw()
    bench.collect(FULL, 2 * PAUSE_S_MAX)
    assert bench.calls == ["freeze", "unfreeze", "freeze"]
    assert bench.collections.counts == {"freezes": 2, "thaws": 1}


STORY = """
import gc
from actors.garbage import ShortCollections
import actors.garbage
actors.garbage.PAUSE_S_MAX = 0.0
class Cycle:
    def __init__(self):
        self.me = self
        self.state = {n: [n] for n in range(1_000)}
gc.collect()
collections = ShortCollections()
collections.start()
cycle = Cycle()
gc.collect()
assert gc.get_freeze_count() >= 1_000, gc.get_freeze_count()
import weakref
watched = weakref.ref(cycle)
del cycle
gc.collect()
assert watched() is not None, "it is frozen, and a cycle"
collections.thaw()
gc.collect()
assert watched() is None
"""


MAP_STORY = """
import gc
from actors.garbage import ShortCollections
import actors.garbage
entries = {n: (n, n) for n in range(300_000)}
gc.collect()
assert not gc.is_tracked(entries)
collections = ShortCollections()
collections.start()
actors.garbage.PAUSE_S_MAX = 0.0
for n in range(300_000, 310_000):
    entries[n] = (n, str(n))
assert gc.is_tracked(entries)
gc.collect()
assert gc.is_tracked(entries), "it is frozen, and not let go of"
assert not any(each is entries for each in gc.get_objects()), "nobody looks at it"
"""


def test_a_map_of_numbers_stays_frozen_while_it_is_written_to() -> None:
    subprocess.run([sys.executable, "-c", MAP_STORY], check=True, timeout=60)


def test_frozen_garbage_is_found_after_a_thaw_by_the_real_collector() -> None:
    subprocess.run([sys.executable, "-c", STORY], check=True, timeout=60)
