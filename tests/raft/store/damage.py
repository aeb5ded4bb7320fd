"""A log of several groups, what must be found in it, and whom a damage may cost what."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raft.messages import HardState, Mark, Run, Save, SnapshotMeta
from raft.store import records
from raft.store.files import Files
from raft.store.memory import MemoryFiles
from raft.store.records import HEADER_BYTES, padded
from raft.store.recovery import Recovered, RecoveredGroup, recover
from tests.raft.store.kit import DIRECTORY, INCARNATION, N1, N2, Slot, keeps, run_of

Disk = dict[str, bytes]  # name of a segment -> its bytes


class Truth(NamedTuple):
    """What was acknowledged of one group."""

    hard_state: HardState
    runs: tuple[Run, ...]
    base: tuple[int, int]
    snapshot: SnapshotMeta | None


def truth_of(group: RecoveredGroup) -> Truth:
    return Truth(
        group.hard_state,
        tuple(group.runs),
        (group.base_index, group.base_term),
        group.snapshot,
    )


class Place(NamedTuple):
    """One record, by its bytes on the disk."""

    name: str
    batch: int  # counted over the whole log
    offset: int
    body: int  # where its body begins
    body_end: int
    end: int  # behind its padding
    group: int  # 0: of a commit frame or what opens a segment
    kind: int


@dataclass
class History:
    disk: Disk
    truth: dict[int, Truth]
    places: list[Place] = field(default_factory=list)

    def __post_init__(self) -> None:
        batch = 0
        for name, data in self.disk.items():
            offset = 0
            while (header := records.decode_header(data, offset)) is not None:
                body = offset + HEADER_BYTES
                end = body + padded(header.length)
                self.places.append(
                    Place(
                        name,
                        batch,
                        offset,
                        body,
                        body + header.length,
                        end,
                        header.group,
                        header.kind,
                    )
                )
                batch += header.kind == records.COMMIT
                offset = end

    @property
    def groups(self) -> set[int]:
        return set(self.truth)

    def at(self, name: str, offset: int) -> Place | None:
        for place in self.places:
            if place.name == name and place.offset <= offset < place.end:
                return place
        return None

    def truth_until(self, batch: int) -> dict[int, Truth]:
        """After so many batches."""
        disk: Disk = {}
        for it in self.places:
            if it.batch < batch:
                disk[it.name] = self.disk[it.name][: it.end]
        return {group: truth_of(it) for group, it in read(disk).groups.items()}

    def start_of(self, batch: int) -> int:
        """Where it begins, in its segment."""
        return min(it.offset for it in self.places if it.batch == batch)

    def hit(self, name: str, start: int, end: int) -> set[int]:
        """Groups with a record of which a byte in ``start:end`` counts."""
        return {
            it.group
            for it in self.places
            if it.group and it.name == name and it.offset < end and start < it.body_end
        }


def a_disk(segments: Disk) -> MemoryFiles:
    files = MemoryFiles(recording=False)
    for directory in ("/data", "/data/wal", DIRECTORY):
        files.mkdir(directory)
        files.fsync_dir(directory.rpartition("/")[0] or "/")
    for name, data in segments.items():
        files.put(f"{DIRECTORY}/{name}", data)
    return files


class _ReadOnly(Files):
    """Just what recovery needs, and quick: it is read many thousands of times."""

    __slots__ = ("_disk",)

    def __init__(self, disk: Disk) -> None:
        self._disk = [*disk.items()]

    def listdir(self, path: str) -> list[str]:
        return sorted(name for name, _ in self._disk)

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        name = path.rpartition("/")[2]
        return next(at for at, (each, _) in enumerate(self._disk) if each == name)

    def close(self, descriptor: int) -> None:
        assert 0 <= descriptor < len(self._disk)

    def size(self, descriptor: int) -> int:
        return len(self._disk[descriptor][1])

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        return self._disk[descriptor][1][offset : offset + count]


def read(segments: Disk) -> Recovered:
    return recover(_ReadOnly(segments), DIRECTORY, 0, INCARNATION)


def image(slot: Slot) -> Disk:
    return {name: slot.files.content(f"{DIRECTORY}/{name}") for name in slot.segments()}


def history_of(slot: Slot) -> History:
    disk = {name: data.rstrip(b"\0") for name, data in image(slot).items()}
    groups = read(disk).groups
    return History(disk, {group: truth_of(it) for group, it in groups.items()})


class Writer:
    """Saves of some groups, kept small."""

    def __init__(self, *groups: int, **options: Any) -> None:
        self.slot = Slot(**options)
        self.slot.open()
        self.groups = groups
        self.numbers = dict.fromkeys(groups, 0)
        self.last = dict.fromkeys(groups, 0)
        for group in groups:
            self.slot.wal.add_group(group, 1, b"members of %d" % group)
            self.vote(group, 1)
        self.slot.write()

    def save(self, group: int, save: Save) -> None:
        self.numbers[group] += 1
        save.number = self.numbers[group]
        self.slot.wal.save(group, save)

    def vote(self, group: int, term: int) -> None:
        self.save(group, Save(0, HardState(term, N1 if term % 2 else N2)))

    def run(self, group: int, body: bytes, *, term: int = 1) -> None:
        self.last[group] += 1
        self.save(group, Save(0, None, None, [run_of(self.last[group], term=term, body=body)]))

    def mark(self, group: int, mark: Mark) -> None:
        save = Save(0)
        save.mark = mark
        self.save(group, save)

    def write(self) -> None:
        self.slot.write()

    def reopen(self) -> None:
        self.slot.reopen()
        self.numbers = dict.fromkeys(self.groups, 0)


def a_small_history() -> History:
    """Three segments, three groups, one of them quiet; as few bytes as that takes."""
    writer = Writer(7, 8, 9, segment_bytes_first=760, segment_bytes_max=760)
    writer.run(7, b"seven 1")
    writer.run(8, b"eight 1")
    writer.write()
    writer.reopen()
    writer.run(7, b"seven 2")
    writer.mark(7, keeps(1, 0))
    writer.run(8, b"eight 2")
    writer.write()
    writer.vote(8, 2)
    writer.write()
    history = history_of(writer.slot)
    assert len(history.disk) >= 3
    return history


def a_history(*, rounds: int = 12) -> History:
    """Several segments of several sectors each, with four groups that write by turns."""
    writer = Writer(7, 8, 9, 10, segment_bytes_first=1 << 11, segment_bytes_max=1 << 11)
    for number in range(rounds):
        for group in (7, 8, 9) if number % 3 else (8, 10):
            writer.run(group, b"%d of %d " % (number, group) * 15)
        if number % 4 == 3:
            writer.vote(9, 2 + number)
            writer.mark(8, keeps(writer.last[8] - 1, writer.last[8] - 2))
        writer.write()
    history = history_of(writer.slot)
    assert len(history.disk) > 3
    return history


def flipped(disk: Disk, name: str, offset: int, bit: int) -> Disk:
    data = bytearray(disk[name])
    data[offset] ^= 1 << bit
    return {**disk, name: bytes(data)}


def without_openings(history: History, name: str) -> Disk:
    """Nothing in it says what it is."""
    disk = history.disk
    for place in history.places:
        if (place.name, place.kind) == (name, records.SEGMENT):
            disk = flipped(disk, name, place.offset + 20, 0)
    return disk


def zeroed(disk: Disk, name: str, start: int, end: int) -> Disk:
    data = disk[name]
    end = min(end, len(data))
    return {**disk, name: data[:start] + bytes(end - start) + data[end:]}


def hurt(disk: Disk, rng: random.Random) -> Disk:
    """One damage of any kind, of a log that is whole or not."""
    name = rng.choice(list(disk))
    data = disk[name]
    if not data:
        return disk
    start = rng.randrange(len(data))
    count = min(rng.choice((1, 8, 60, 512, 1500)), len(data) - start)
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
    kind = rng.randrange(9)
    if kind == 0:
        return {each: content for each, content in disk.items() if each != name}
    if kind == 1:
        return {**disk, name: data[:start]}
    if kind == 2:
        another = rng.choice(list(disk))
        return {**disk, name: disk[another], another: data}
    if kind < 6:
        return flipped(disk, name, start, rng.randrange(8))
    return {**disk, name: data[:start] + piece + data[end:]}


def condemned(found: Recovered | dict[int, RecoveredGroup]) -> set[int]:
    groups = found.groups if isinstance(found, Recovered) else found
    return {group for group, it in groups.items() if it.damaged is not None}


def check(history: History, groups: dict[int, RecoveredGroup]) -> set[int]:
    """Who is not condemned has exactly what was acknowledged.  Answers the others, and those of
    which there is no trace (the placement refuses them)."""
    for group, it in groups.items():
        assert group in history.truth, f"nobody ever wrote of group {group}"
        if it.damaged is None:
            assert truth_of(it) == history.truth[group], f"group {group} lost something"
    return condemned(groups) | (history.groups - groups.keys())
