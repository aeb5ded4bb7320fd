"""Snapshots that were brought to a node before there is a group that begins with them.

They lie in ``DATA/groups/1/restores``, beside the snapshots of ``_system``, whose replica takes
them in, under the names that they have as snapshots of their group later. Who begins a replica
moves the file to where it belongs (:func:`take`).

A file that no group took is of no use to anybody. It goes when the next one comes, in another life
of the process; within one, so many may lie here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from raft.messages import SnapshotMeta
from raft.store.backup_file import meta_of
from raft.store.errors import StoreError
from raft.store.files import Files, make_directory
from raft.store.placement import PlacedGroup, Placement
from raft.store.snapshots import SUFFIX, SnapshotStore, snapshot_name

UPLOADS_MAX = 8  # complete ones
RESTORE = "restore"  # option of a placed group: values of a snapshot (backup_file.meta_values)


class Refused(StoreError):
    """It cannot be taken in; the text is for the operator."""


def directory_of(data: str) -> str:
    return os.path.join(data, "groups", "1", "restores")


def snapshots_of(data: str, group: int) -> str:
    return os.path.join(data, "groups", str(group), "snapshots")


class Uploads:
    """One that is coming, and those that are here. Nothing is created before there is one."""

    def __init__(self, files: Files, data: str) -> None:
        self._files = files
        self._data = data
        self._directory = directory_of(data)
        self._store: SnapshotStore | None = None
        self._meta: SnapshotMeta | None = None
        self._is_tidy = False  # what earlier lives have left is gone

    def receive(self, meta: SnapshotMeta, offset: int, chunk: bytes) -> int:
        """Keep these bytes, durably; how many are held of it, all: it is whole and sound.

        Another snapshot takes the place of one that is not complete. Raises Refused, OSError,
        UnknownFormat.
        """
        if self._files.exists(os.path.join(self._directory, snapshot_name(meta))):
            # It may have got its name in a life that ended before that was durable.
            self._files.fsync_dir(self._directory)
            return meta.size_bytes
        if not self._is_tidy:
            self._remove_left_over()
            self._is_tidy = True
        if self._store is None or self._meta != meta:
            if len(self._complete()) >= UPLOADS_MAX:
                raise Refused(f"{UPLOADS_MAX} snapshots lie here already that no group has taken")
            if self._store is not None:
                self._store.stop_receiving()
            self._store, self._meta = SnapshotStore(self._files, self._directory), meta
        held_bytes = self._store.receive(meta, offset, chunk)
        if held_bytes is None:  # there is a part of it from before a restart
            self._store.check_received()
            held_bytes = self._store.receive(meta, offset, chunk)
            assert held_bytes is not None, "it was looked at"
        if held_bytes < meta.size_bytes:
            return held_bytes
        is_sound = self._store.complete(meta)
        self._store = None  # which would remember the file also when a group has taken it
        if is_sound:
            return held_bytes
        raise Refused("what was received is not the snapshot that was announced")

    def _complete(self) -> list[str]:
        if not self._files.exists(self._directory):
            return []
        return [name for name in self._files.listdir(self._directory) if name.endswith(SUFFIX)]

    def _remove_left_over(self) -> None:
        """But not what a group that is placed has yet to begin with."""
        needed = set(_needed(Placement.load(self._files, self._data)))
        for name in self._complete():
            if name not in needed:
                self._files.unlink(os.path.join(self._directory, name))


def _needed(placement: Placement) -> Iterable[str]:
    for placed in placement.groups.values():
        meta = beginning_of(placed)
        if meta is not None and not placed.is_born:
            yield snapshot_name(meta)


def beginning_of(placed: PlacedGroup) -> SnapshotMeta | None:
    """The snapshot that its founders begin with, None: they begin with nothing.

    Raises ValueError: a newer version's.
    """
    values = placed.options.get(RESTORE)
    return None if values is None else meta_of(values)


def take(files: Files, data: str, group: int, meta: SnapshotMeta) -> bool:
    """Move an uploaded snapshot to its group, durably. False: it is nowhere."""
    directory = snapshots_of(data, group)
    target = os.path.join(directory, snapshot_name(meta))
    if files.exists(target):
        # And the process died before the group's log said so; perhaps before this was durable.
        files.fsync_dir(directory)
        return True
    source = os.path.join(directory_of(data), snapshot_name(meta))
    if not files.exists(source):
        return False
    make_directory(files, directory)
    files.rename(source, target)
    files.fsync_dir(directory)
    files.fsync_dir(directory_of(data))
    return True
