"""Looking over the whole directory of a node that does not run: logs, snapshots, small files.

Nothing is changed, not even the content of a lock file. The locks are held meanwhile, so that no
node starts on a directory that is being read, and none that runs is read.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field

from raft.messages import SnapshotMeta
from raft.store import placement as placements
from raft.store.documents import NODES, NODES_FORMAT, read_document
from raft.store.errors import SnapshotDamaged, StoreError, UnknownFormat
from raft.store.files import Files
from raft.store.identity import FILE as IDENTITY_FILE
from raft.store.identity import LOCK_FILE, NodeIdentity
from raft.store.inspect import Finding, SeenGroup, Survey, segment_numbers
from raft.store.locks import QuietLock
from raft.store.placement import LEFT, PlacedGroup, Placement
from raft.store.snapshot_file import SnapshotFile
from raft.store.snapshots import snapshot_name

WAL = "wal"


class NoData(StoreError):
    """There is nothing here that a node has written."""


@dataclass(slots=True)
class DataSurvey:
    """``notes``: what is no damage and worth a line. ``placed`` None: there is no placement."""

    directory: str
    identity: NodeIdentity | None = None
    placed: dict[int, PlacedGroup] | None = None
    slots: list[Survey] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)  # outside of the logs
    notes: list[str] = field(default_factory=list)
    snapshots: int = 0  # sound ones

    @property
    def all_findings(self) -> list[Finding]:
        return [*self.findings, *(each for slot in self.slots for each in slot.findings)]

    def name_of(self, group: int) -> str:
        placed = (self.placed or {}).get(group)
        return "" if placed is None else placed.name


def slot_directories(files: Files, directory: str) -> tuple[str | None, list[str]]:
    """(DATA or None, directories of slots) for DATA itself, or for the directory of one slot.

    Raises NoData.
    """
    if not files.exists(directory):
        raise NoData(f"{directory}: there is no such directory")
    if segment_numbers(files, directory):
        return None, [directory]
    wal = os.path.join(directory, WAL)
    names = files.listdir(wal) if files.exists(wal) else []
    slots = sorted((name for name in names if name.isdigit()), key=int)
    if not slots and not files.exists(os.path.join(directory, IDENTITY_FILE)):
        raise NoData(f"{directory} is neither the data of a node nor the log of a slot")
    return directory, [os.path.join(wal, slot) for slot in slots]


def hold(files: Files, directory: str) -> ExitStack:
    """All locks of a node that does not run, until closed. Raises LockHeld, NoData."""
    data, slots = slot_directories(files, directory)
    with ExitStack() as locks:
        for path in [*([data] if data else []), *slots]:
            lock = QuietLock(files, os.path.join(path, LOCK_FILE))
            locks.callback(lock.close)
        return locks.pop_all()


def survey(files: Files, directory: str) -> DataSurvey:
    """Read all of it; the locks are held by the caller. Raises NoData, OSError."""
    data, slots = slot_directories(files, directory)
    seen = DataSurvey(directory)
    if data is not None:
        _small_files(files, data, seen)
    incarnation = None if seen.identity is None else seen.identity.incarnation
    for path in slots:
        name = os.path.basename(os.path.normpath(path))
        slot = int(name) if name.isdigit() else None
        seen.slots.append(Survey(files, path, slot, incarnation).run())
    for each in seen.slots:
        _marks(each, seen)
    if data is not None:
        _against_placement(data, seen)
        for each in seen.slots:
            for group, found in sorted(each.groups.items()):
                if not _is_left_over(found, seen):
                    _snapshots(files, data, group, found, seen)
    return seen


def _small_files(files: Files, data: str, seen: DataSurvey) -> None:
    try:
        seen.identity = NodeIdentity.load(files, data)
        if seen.identity is None:
            path = os.path.join(data, IDENTITY_FILE)
            seen.findings.append(Finding(path, None, (), None, "it is missing"))
    except StoreError as error:
        seen.findings.append(_of_document(os.path.join(data, IDENTITY_FILE), error))
    try:
        if files.exists(os.path.join(data, placements.FILE)):
            seen.placed = dict(Placement.load(files, data).groups)
        elif seen.identity is not None and seen.identity.cluster is not None:
            path = os.path.join(data, placements.FILE)
            seen.findings.append(Finding(path, None, (), None, "it is missing"))
        else:
            seen.notes.append("there is no placement: the node was never part of a cluster")
    except StoreError as error:
        seen.findings.append(_of_document(os.path.join(data, placements.FILE), error))
    path = os.path.join(data, NODES)
    try:
        read_document(files, path, NODES, NODES_FORMAT)
    except StoreError as error:
        seen.findings.append(_of_document(path, error))


def _of_document(path: str, error: StoreError) -> Finding:
    return Finding(path, None, (), None, getattr(error, "reason", str(error)))


def _is_left_over(found: SeenGroup, seen: DataSurvey) -> bool:
    """Of a group that this disk has left, or has as a later life, perhaps in another slot: by
    design nothing stays of it but the mark that says so."""
    placed = (seen.placed or {}).get(found.group)
    if placed is None:
        return False
    return found.generation < placed.generation + (LEFT in placed.options)


def _marks(slot: Survey, seen: DataSurvey) -> None:
    for group, found in sorted(slot.groups.items()):
        if found.marked is not None and not _is_left_over(found, seen):
            reason = f"the replica was marked as damaged: {found.marked}"
            seen.findings.append(Finding(slot.directory, None, (group,), None, reason))


def _against_placement(data: str, seen: DataSurvey) -> None:
    """The only authority on where a group lives (raft/store/placement.py)."""
    if seen.placed is None:
        return
    by_slot = {slot.slot: slot for slot in seen.slots}
    for group, placed in sorted(seen.placed.items()):
        slot = by_slot.get(placed.slot)
        found = None if slot is None else slot.groups.get(group)
        where = os.path.join(data, WAL, str(placed.slot))
        if LEFT in placed.options:
            continue  # this disk is no member of it any more
        if found is not None and found.generation > placed.generation:
            reason = (
                f"its log has generation {found.generation}, the placement says "
                f"{placed.generation}: the placement is an old copy"
            )
            seen.findings.append(Finding(where, None, (group,), None, reason))
        elif found is None or found.generation < placed.generation:
            if placed.is_born:
                reason = "its log is gone: the placement says that there was one"
                seen.findings.append(Finding(where, None, (group,), None, reason))
            else:
                seen.notes.append(f"group {group} ({placed.name}) is placed and not begun yet")
    for slot in seen.slots:
        for group in sorted(slot.groups):
            there = seen.placed.get(group)
            is_here = there is not None and there.slot == slot.slot
            if not is_here or _is_left_over(slot.groups[group], seen):
                seen.notes.append(f"slot {slot.slot} has left-overs of group {group}")


def _snapshots(files: Files, data: str, group: int, found: SeenGroup, seen: DataSurvey) -> None:
    directory = os.path.join(data, "groups", str(group), "snapshots")
    meta = found.snapshot
    needed = None if meta is None else snapshot_name(meta)
    if meta is not None:
        finding = _check_snapshot(files, os.path.join(directory, snapshot_name(meta)), group, meta)
        if finding is None:
            seen.snapshots += 1
        else:
            seen.findings.append(finding)
    for name in files.listdir(directory) if files.exists(directory) else []:
        if name != needed:
            seen.notes.append(f"{os.path.join(directory, name)} is not what the log names")


def _check_snapshot(files: Files, path: str, group: int, meta: SnapshotMeta) -> Finding | None:
    try:
        with SnapshotFile(files, path, meta) as file:
            for _ in file.chunks():
                pass
    except SnapshotDamaged as error:
        return Finding(error.file, error.offset, (group,), meta.index, error.reason)
    except UnknownFormat as error:
        return Finding(error.file, error.offset, (group,), meta.index, str(error))
    return None
