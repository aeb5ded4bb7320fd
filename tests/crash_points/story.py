"""A story, its points, and how it is told again from each of them.

A **story** is told in *episodes* on a watched disk. Before each operation that changes the disk its
state is kept, with what was promised by then, and which episode it was::

    first telling    start, episode 1, episode 2, ...          each operation is a point
    at each point    fate -> start, perhaps with another crash in the middle of it
                          -> what is found is what was promised
                          -> power lost: what a start has found stays so, for it may act on it
                          -> that episode again, power lost: found is what was when it had ended
                          -> those behind it, power lost: found is what was at the end

**Promises.** While something is under way two things are right: all as it was, or all as it is to
be; when it has returned only the second is. What a crash may take from a batch, a document or a
snapshot is nothing of it, or all of it.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Final, NamedTuple

from raft.store.memory import MemoryFiles, PowerLoss
from tests.crash_points.disk import DIES, FATES, LOST, TORN, Fate, Site, Watched

NEVER: Final = 1 << 40
SECOND_CRASHES: Final = 17  # where a second crash may be, when there is one for each point
LOOKS_TWICE: Final = 3  # then, every so manieth crash is looked at once more,
TO_THE_END: Final = 12  # and followed to the end of its story

Found = dict[str, object]


class _Later:
    """Something that is known when it is done."""

    def __init__(self) -> None:
        self.value: object = self  # like nothing that is found


class Promises:
    """What may be found, by name. ``is_kept`` False: nobody looks at it."""

    def __init__(self, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self.right: dict[str, tuple[object, ...]] = {}

    @contextmanager
    def making(self, name: str, result: Callable[[], object]) -> Iterator[None]:
        """Until the end of this, what was right is right as well as ``result``, asked afterwards.

        An OSError leaves it open which of the two it is.
        """
        if not self.is_kept:
            yield
            return
        later = _Later()
        before = self.right.get(name, (None,))
        self.right = {**self.right, name: (*before, later)}
        try:
            yield
        finally:
            later.value = result()
        self.right = {**self.right, name: (later.value,)}

    def hold(self, found: Mapping[str, object]) -> None:
        """What a start has found it acts upon."""
        self.right = {**self.right, **{name: (value,) for name, value in found.items()}}


class Point(NamedTuple):
    """The disk just before an operation, what may be found on it, and how the story goes on."""

    operation: str
    path: str
    disk: MemoryFiles
    right: dict[str, tuple[object, ...]]
    episode: int

    def check(self, found: Found, made: frozenset[str]) -> None:
        """``made``: by a start that came between, if it was not there."""
        for name in sorted({*self.right, *found}):
            if name in made and None in self.right.get(name, (None,)):
                continue
            right = [
                each.value if isinstance(each, _Later) else each
                for each in self.right.get(name, (None,))
            ]
            value = found.get(name)
            assert value in right, f"{name} is {value!r:.1500}, right is one of {right!r:.3000}"


class Story(ABC):
    """One telling of it. ``found``: what the last start has found, by name; a name is missing where
    there is nothing."""

    title: ClassVar[str]
    points_min: ClassVar[int]
    limit_bytes: ClassVar[int | None] = None
    is_quick: ClassVar[bool] = True
    acts_on_what_it_finds: ClassVar[bool] = True
    made_by_starting: ClassVar[frozenset[str]] = frozenset()  # names of what a start makes

    def __init__(self, files: MemoryFiles, promises: Promises) -> None:
        self.files = files
        self.promises = promises
        self.found: Found = {}

    @classmethod
    def settings(cls) -> AbstractContextManager[object]:
        """Under which all of it happens: limits that are small enough for a test."""
        return nullcontext()

    @abstractmethod
    def prepare(self) -> None:
        """What is on the disk before."""

    @abstractmethod
    def start(self) -> None:
        """As processes start that find this disk."""

    @abstractmethod
    def episodes(self) -> list[Callable[[], None]]:
        """What is told, in order. Each can be told from wherever an earlier telling broke off."""

    def end(self) -> Found:
        """Of ``found``, what does not depend on how often it was begun."""
        return self.found

    def starts_again(self, fate: Fate = DIES) -> None:
        """Part of the story: all processes end, and start again."""
        fate.befall(self.files, "")
        self.start()
        self.promises.hold(self.found)


# --------------------------------------------------------------------------- telling it once


@dataclass(slots=True)
class Tally:
    crashes: int = 0
    twice: int = 0  # of those, with another one while starting
    failures: list[str] = field(default_factory=list)


@dataclass
class Told:
    kind: type[Story]
    points: list[Point] = field(default_factory=list)
    ends: list[Found] = field(default_factory=list)  # of the episodes
    sites: set[Site] = field(default_factory=set)

    @property
    def operations(self) -> Counter[str]:
        return Counter(point.operation for point in self.points)

    def line(self, tally: Tally) -> str:
        return (
            f"{self.kind.title}: {len(self.points)} points, {tally.crashes} crashes, "
            f"{tally.twice} of them twice"
        )


def tell(kind: type[Story]) -> Told:
    told = Told(kind)
    with kind.settings():
        files = Watched(limit_bytes=kind.limit_bytes)
        promises = Promises(is_kept=True)
        story = kind(files, promises)
        story.prepare()
        promises.hold(found_on(kind, files, LOST).found)
        episode = 0

        def note(operation: str, path: str, disk: MemoryFiles) -> None:
            told.points.append(Point(operation, path, disk, promises.right, episode))

        files.on_change = note
        story.start()
        promises.hold(story.found)
        for episode, each in enumerate(story.episodes()):  # noqa: B007 - note() has it
            each()
            told.ends.append(found_on(kind, files, LOST).end())
        note("end", "", files.fork())
        files.on_change = None
        told.sites = files.sites
    return told


def found_on(kind: type[Story], files: MemoryFiles, fate: Fate) -> Story:
    """What is found after this fate, on a disk that stays as it is."""
    twin = files.fork()
    fate.befall(twin, "")
    story = kind(twin, Promises(is_kept=False))
    story.start()
    return story


# --------------------------------------------------------------------------- and from each point


class Crash(NamedTuple):
    """``second``: the change of the following start before which there is another crash.
    ``looks_twice``: whether what a start has found is there after a loss of power, too.
    ``to_the_end``: the story is told to its end, and not only what was broken off."""

    fate: Fate
    seed: int = 0
    second: int | None = None
    looks_twice: bool = True
    to_the_end: bool = True


def survive(told: Told, at: int, crash: Crash) -> bool:
    """Crash at this point; whether the second crash came before the start was over."""
    kind, point = told.kind, told.points[at]
    disk = point.disk.fork()
    seed = f"{at} {crash.fate.name} {crash.seed}"
    crash.fate.befall(disk, seed)
    story = kind(disk, Promises(is_kept=False))
    twice = False
    if crash.second is not None:
        disk.lose_power_after(crash.second)
        try:
            story.start()
        except PowerLoss:
            twice = True
            crash.fate.befall(disk, f"{seed} again")
            story = kind(disk, Promises(is_kept=False))
    if not twice:
        disk.lose_power_after(NEVER)
    if twice or crash.second is None:
        story.start()
    point.check(story.found, kind.made_by_starting if twice else frozenset())
    if crash.looks_twice and kind.acts_on_what_it_finds:
        again = found_on(kind, disk, LOST)
        lost = [name for name in story.found if again.found.get(name) != story.found[name]]
        assert not lost, f"found once, and lost: {[(story.found[it], again.found) for it in lost]}"
    last = len(told.ends) - 1
    for number, episode in enumerate(story.episodes()):
        if number == point.episode or (crash.to_the_end and number > point.episode):
            episode()
        if number == point.episode or (crash.to_the_end and number == last):
            end, right = found_on(kind, disk, LOST).end(), told.ends[number]
            assert end == right, (
                f"episode {number} ends with {end!r:.2000} instead of {right!r:.2000}"
            )
    return twice


def some(told: Told) -> Iterator[tuple[int, Crash]]:
    """Two fates at each point, or one, by turns, and a second crash in most of them. Where names
    wait to be synced, a process that dies leaves them to one that may take them for good."""
    others = [fate for fate in FATES if fate is not LOST]
    both = told.kind.is_quick
    for at, point in enumerate(told.points):
        second = at % SECOND_CRASHES if at % 3 else None
        if both or at % 2:
            yield at, _one(LOST, at, second)
        if both or not at % 2:
            yield at, _one(others[at % len(others)], at + 1, second)
        if point.operation == "fsync_dir":
            yield at, _one(DIES, at + 2, None)
    if both:
        # Where the most is under way, everywhere while coming back.
        unlinks = [at for at, point in enumerate(told.points) if point.operation == "unlink"]
        for second in range(SECOND_CRASHES):
            yield (unlinks or [0])[-1], _one(TORN, second, second)


def _one(fate: Fate, turn: int, second: int | None) -> Crash:
    looks_twice = (
        fate is DIES or turn % LOOKS_TWICE == 0
    )  # power that was lost leaves less in doubt
    return Crash(fate, 0, second, looks_twice, turn % TO_THE_END == 0)


def every(told: Told, seeds: Iterable[int], seconds: int) -> Iterator[tuple[int, Crash]]:
    """All fates at each point, with each seed; alone, and with a second crash at each operation of
    the start, up to so many."""
    for at in range(len(told.points)):
        for fate in FATES:
            for seed in seeds:
                for second in (None, *range(seconds)):
                    yield at, Crash(fate, seed, second)


def enumerate_crashes(
    told: Told, crashes: Iterable[tuple[int, Crash]], failures_max: int = 1
) -> Tally:
    tally = Tally()
    over: set[tuple[int, Fate, int]] = set()  # the start has no more operations than that
    with told.kind.settings():
        for at, crash in crashes:
            if (at, crash.fate, crash.seed) in over:
                continue
            tally.crashes += 1
            try:
                twice = survive(told, at, crash)
            except Exception as error:  # noqa: BLE001 - whatever it is: said with its place
                point = told.points[at]
                tally.failures.append(
                    f"{told.kind.title}: point {at}, before {point.operation} {point.path}, "
                    f"episode {point.episode}, {crash.fate.name}, seed {crash.seed}, "
                    f"second crash at {crash.second}: {type(error).__name__}: {error}"
                )
                if len(tally.failures) >= failures_max:
                    break
                continue
            tally.twice += twice
            if crash.second is not None and not twice:
                over.add((at, crash.fate, crash.seed))
    return tally


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
