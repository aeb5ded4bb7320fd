"""The disk as it was before each operation that changed it, and what may become of it then."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, NamedTuple

from raft.store.memory import CHANGES, MemoryFiles, Random

ROOT: Final = Path(__file__).resolve().parents[2]


# --------------------------------------------------------------------------- fates


class Choice:
    """Of what was not synced: changes of names and sizes, and bytes, all of each or none."""

    def __init__(self, *, names: bool, content: bool) -> None:
        self._chance = 0.0 if names else 0.99
        self._survives = int(content)

    def random(self) -> float:
        return self._chance

    def randrange(self, stop: int, /) -> int:
        return self._survives  # as raft.store.memory has it: 0 is nothing of a write, 1 all of it


class Fate(NamedTuple):
    """``choice`` None: only the process dies. It is made anew for each crash, from a seed."""

    name: str
    choice: Callable[[str], Random] | None

    def befall(self, disk: MemoryFiles, seed: str) -> None:
        if self.choice is None:
            disk.kill()
        else:
            disk.crash(self.choice(seed))


LOST: Final = Fate("power lost, unsynced lost", lambda _: Choice(names=False, content=False))
DIES: Final = Fate("the process dies", None)
TORN: Final = Fate("power lost, torn at sectors", random.Random)
FATES: Final = (
    LOST,
    DIES,
    Fate("power lost, unsynced kept", lambda _: Choice(names=True, content=True)),
    TORN,
    Fate("power lost, names kept, bytes lost", lambda _: Choice(names=True, content=False)),
    Fate("power lost, bytes kept, names lost", lambda _: Choice(names=False, content=True)),
)


# --------------------------------------------------------------------------- where it was called


class Site(NamedTuple):
    """A call in our code: its file, and where it stands there from its first to its last byte."""

    path: str
    line: int
    column: int
    line_end: int
    column_end: int


@cache
def _our_path(code: CodeType) -> str | None:
    """Of a file of which the call sites are known; raft.store.memory stands for the disk."""
    path = Path(code.co_filename)
    if not path.is_relative_to(ROOT):
        return None
    name = path.relative_to(ROOT).as_posix()
    is_ours = name.startswith(("raft/", "actors/")) and name != "raft/store/memory.py"
    return name if is_ours else None


@cache
def _positions(code: CodeType) -> Sequence[tuple[int | None, int | None, int | None, int | None]]:
    return list(code.co_positions())


def sites_of(frame: FrameType | None) -> list[Site]:
    """All calls of ours that are under way, the innermost first."""
    found = []
    while frame is not None:
        path = _our_path(frame.f_code)
        if path is not None:
            line, line_end, column, column_end = _positions(frame.f_code)[frame.f_lasti // 2]
            assert line is not None
            assert line_end is not None
            assert column is not None
            assert column_end is not None
            found.append(Site(path, line, column, line_end, column_end))
        frame = frame.f_back
    return found


class Watched(MemoryFiles):
    """``on_change`` hears of each change before it is made, with the disk as it is, and the write
    that is under way; ``sites``: what has made one."""

    __slots__ = ("on_change", "sites")

    def __init__(self, *, limit_bytes: int | None = None) -> None:
        super().__init__(recording=False, limit_bytes=limit_bytes)
        self.on_change: Callable[[str, str, MemoryFiles], None] | None = None
        self.sites: set[Site] = set()

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        if self.on_change is not None and not self._off:
            _, path = self._inode(descriptor)
            self.on_change("pwrite", path, self.fork((path, offset, bytes(data))))
        super().pwrite(descriptor, data, offset)

    def _begin(self, operation: str, path: str, *details: str | int) -> None:
        if operation in CHANGES and not self._off:
            if self.on_change is not None and operation != "pwrite":
                self.on_change(operation, path, self.fork())
            self.sites.update(sites_of(sys._getframe(1)))
        super()._begin(operation, path, *details)
