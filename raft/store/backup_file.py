"""A backup: one snapshot of one group in one file, with all that is needed to know what it is.

    head      8 magic "PRbackup"   4 format u32   4 length u32   the length's bytes of JSON
              4 CRC32C over all before it
    snapshot  the frames of the snapshot file, bit for bit (raft/store/snapshot_file.py)
    end       8 magic "PRbk-end"   8 length of the file u64   4 CRC32C over all before it

Numbers are little-endian. The head says what the frames must be: length, checksum and everything
that their own head says. So a file that is cut off, changed or put together from two is seen, and
the place is named.

It is written as ``FILE.writing``; only a file that is whole, held against its own checksums and
synced gets its name, and a file that is there is never replaced.

A digest of the machine is not in it. Many a snapshot that is backed up was written by an earlier
process, or received: nobody knows the digest at its index any more, unless each snapshot's own head
had it. Beyond the checksums it would find faults in a machine's ``restore``, and it would refuse
all backups of a machine that computes its digest otherwise by now.

**For another cluster** the frames need other members: :func:`with_members` gives the same snapshot
with another head, and what it is then called by.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from raft.configuration import Configuration
from raft.messages import SnapshotMeta
from raft.store.configurations import configuration_fields, configuration_of
from raft.store.errors import SnapshotDamaged, StoreError, UnknownFormat
from raft.store.files import Files
from raft.store.snapshot_file import Head, SnapshotFile, encode_head

MAGIC = b"PRbackup"
END_MAGIC = b"PRbk-end"
FORMAT = 1
WRITING = ".writing"
HEAD_BYTES_MAX = 16 << 20
PIECE_BYTES = 256 << 10  # what is read at once
SYNC_BYTES = 8 << 20  # written between two syncs
NUMBERS_END = 1 << 62  # of index, term and time: whoever goes on from there counts with 64 bits

_FIXED = struct.Struct("<8sII")
_CRC = struct.Struct("<I")
_END = struct.Struct("<8sQI")
_END_SIGNED_BYTES = 16


class BadBackup(StoreError):
    """The file is no backup, or not what was written. One line, with the place."""

    def __init__(self, file: str, reason: str, offset: int | None = None) -> None:
        place = file if offset is None else f"{file} at offset {offset}"
        super().__init__(f"{place}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


@dataclass(slots=True, frozen=True)
class BackupHead:
    """Of whom, and of what. ``made_ms``: wall clock, for people."""

    group: str
    machine: str
    cluster: str
    node: str
    snapshot: SnapshotMeta
    made_ms: int
    version: str  # of the program

    def values(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "group": self.group,
            "machine": self.machine,
            "cluster": self.cluster,
            "node": self.node,
            "snapshot": meta_values(self.snapshot),
            "made_ms": self.made_ms,
            "version": self.version,
        }


def meta_values(meta: SnapshotMeta) -> dict[str, Any]:
    """What identifies a snapshot, as JSON."""
    return {
        "index": meta.index,
        "term": meta.term,
        "members": [
            [node, f"{incarnation:016x}", part]
            for node, incarnation, part in configuration_fields(meta.configuration)
        ],
        "time_ms": meta.time_ms,
        "machine_version": meta.machine_version,
        "size_bytes": meta.size_bytes,
        "crc": f"{meta.crc:08x}",
    }


def meta_of(values: Any) -> SnapshotMeta:
    """Raises ValueError (UnknownPart is one) for whatever else it is."""
    try:
        members = configuration_of(
            [[node, int(incarnation, 16), part] for node, incarnation, part in values["members"]]
        )
        crc = int(values["crc"], 16)
        numbers = [
            values[key] for key in ("index", "term", "time_ms", "machine_version", "size_bytes")
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no description of a snapshot ({error})") from error
    if not all(type(number) is int and 0 <= number < NUMBERS_END for number in numbers):
        raise ValueError("the description of a snapshot has something else where a number belongs")
    index, term, time_ms, machine_version, size_bytes = numbers
    if not (index and term and size_bytes and 0 <= crc < 1 << 32):
        raise ValueError("the description of a snapshot of nothing")
    return SnapshotMeta(index, term, members, time_ms, machine_version, size_bytes, crc)


# --------------------------------------------------------------------------- writing


def refuse_to_replace(files: Files, path: str) -> None:
    """Raises BadBackup when ``path`` is there already, OSError."""
    if files.exists(path):
        # Who made it may have died before its name was durable; who hears this relies on it.
        files.fsync_dir(os.path.dirname(path) or ".")
        raise BadBackup(path, "it is there already, and a backup is never replaced")


class BackupWriter:
    """A backup on its way to ``path``. Ends with :meth:`finish` or :meth:`abort`."""

    def __init__(self, files: Files, path: str, head: BackupHead) -> None:
        """Raises BadBackup when ``path`` is there already, OSError."""
        refuse_to_replace(files, path)
        self.head = head
        self.held_bytes = 0  # of the snapshot
        self._files = files
        self._path = path
        self._snapshot_crc: int = crc32c(b"")
        self._crc: int = crc32c(b"")
        self._offset = 0
        self._unsynced = 0
        self._descriptor: int | None = files.open(path + WRITING, create=True)
        try:
            files.truncate(self._descriptor, 0)
            self._append(_encode_head(head))
        except BaseException:
            self.abort()
            raise

    def write(self, data: bytes) -> None:
        """The next bytes of the snapshot."""
        self._append(data)
        self.held_bytes += len(data)
        self._snapshot_crc = crc32c_extend(self._snapshot_crc, data)

    def finish(self) -> int:
        """The backup is on the disk under its name, and sound: its size in bytes.

        Raises BadBackup when it is not the snapshot that was announced, OSError.
        """
        meta = self.head.snapshot
        assert self._descriptor is not None, "finished or aborted"
        if (self.held_bytes, self._snapshot_crc) != (meta.size_bytes, meta.crc):
            raise BadBackup(self._path, "what was received is not the snapshot that was announced")
        size_bytes = self._offset + _END.size
        end = _END.pack(END_MAGIC, size_bytes, 0)[:_END_SIGNED_BYTES]
        self._append(end + _CRC.pack(crc32c_extend(self._crc, end)))
        self._files.fsync(self._descriptor)
        self._close()
        BackupFile(self._files, self._path + WRITING).verify()
        if self._files.exists(self._path):
            raise BadBackup(self._path, "somebody else has made it meanwhile")
        self._files.rename(self._path + WRITING, self._path)
        self._files.fsync_dir(os.path.dirname(self._path) or ".")
        return size_bytes

    def abort(self) -> None:
        """Throw away what there is. Does nothing to one that is finished."""
        self._close()
        if self._files.exists(self._path + WRITING):
            self._files.unlink(self._path + WRITING)

    def _append(self, data: bytes) -> None:
        assert self._descriptor is not None, "finished or aborted"
        self._files.pwrite(self._descriptor, data, self._offset)
        self._offset += len(data)
        self._crc = crc32c_extend(self._crc, data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_BYTES:
            self._files.fdatasync(self._descriptor)
            self._unsynced = 0

    def _close(self) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None


def _encode_head(head: BackupHead) -> bytes:
    body = json.dumps(head.values(), sort_keys=True).encode()
    signed = _FIXED.pack(MAGIC, FORMAT, len(body)) + body
    return signed + _CRC.pack(crc32c(signed))


# --------------------------------------------------------------------------- reading


class _Within(Files):
    """A part of one file, as a file of its own: the snapshot's frames in a backup."""

    __slots__ = ("_files", "_length", "_start")

    def __init__(self, files: Files, start: int, length: int) -> None:
        self._files = files
        self._start = start
        self._length = length

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> int:
        return self._files.open(path, create=create, exclusive=exclusive)

    def close(self, descriptor: int) -> None:
        self._files.close(descriptor)

    def exists(self, path: str) -> bool:
        return self._files.exists(path)

    def size(self, descriptor: int) -> int:
        return max(0, min(self._files.size(descriptor) - self._start, self._length))

    def pread(self, descriptor: int, count: int, offset: int) -> bytes:
        count = max(0, min(count, self._length - offset))
        return self._files.pread(descriptor, count, self._start + offset)


class BackupFile:
    """A backup that is there. ``head`` is checked when it is opened, the rest by :meth:`verify`."""

    def __init__(self, files: Files, path: str) -> None:
        """Raises BadBackup, UnknownFormat, OSError."""
        self._files = files
        self.path = path
        if not files.exists(path):
            raise BadBackup(path, "there is no such file")
        descriptor = files.open(path)
        try:
            self._start, self.head = self._read_head(descriptor)
        finally:
            files.close(descriptor)

    def _read_head(self, descriptor: int) -> tuple[int, BackupHead]:
        fixed = self._files.pread(descriptor, _FIXED.size, 0)
        if len(fixed) < _FIXED.size or fixed[: len(MAGIC)] != MAGIC:
            raise BadBackup(self.path, "it is no backup of a group", 0)
        _, format_, length = _FIXED.unpack(fixed)
        if format_ > FORMAT:
            raise UnknownFormat(self.path, f"backup of format {format_}", 0)
        start = _FIXED.size + length + _CRC.size
        if format_ < 1 or length > HEAD_BYTES_MAX:
            raise BadBackup(self.path, "its head is damaged", 0)
        data = self._files.pread(descriptor, start, 0)
        if len(data) < start or _CRC.pack(crc32c(data[: -_CRC.size])) != data[-_CRC.size :]:
            raise BadBackup(self.path, "the checksum of its head is wrong", 0)
        try:
            return start, _head_of(json.loads(data[_FIXED.size : -_CRC.size]))
        except (ValueError, KeyError, TypeError) as error:
            raise BadBackup(self.path, f"its head cannot be read: {error}", 0) from error

    def verify(self) -> None:
        """Read all of it. Raises BadBackup, UnknownFormat, OSError."""
        meta = self.head.snapshot
        descriptor = self._files.open(self.path)
        try:
            size_bytes = self._files.size(descriptor)
            wanted = self._start + meta.size_bytes + _END.size
            if size_bytes != wanted:
                at = min(size_bytes, wanted)
                raise BadBackup(self.path, f"it has {size_bytes} bytes instead of {wanted}", at)
            crc: int = crc32c(b"")
            for at in range(0, size_bytes - _CRC.size, PIECE_BYTES):
                count = min(PIECE_BYTES, size_bytes - _CRC.size - at)
                crc = crc32c_extend(crc, self._files.pread(descriptor, count, at))
            end = self._files.pread(descriptor, _END.size, size_bytes - _END.size)
        finally:
            self._files.close(descriptor)
        deque(self.machine_bytes(), maxlen=0)  # first, since it knows the place
        if end != _END.pack(END_MAGIC, size_bytes, crc):
            at = size_bytes - _END.size
            raise BadBackup(self.path, "its end is not what belongs there", at)

    def machine_bytes(self) -> Iterator[bytes]:
        """What the machine is restored from, checked as it is read. Raises as verify does."""
        meta = self.head.snapshot
        within = _Within(self._files, self._start, meta.size_bytes)
        try:
            with SnapshotFile(within, self.path, meta) as frames:
                yield from frames.chunks()
        except SnapshotDamaged as error:
            raise BadBackup(self.path, error.reason, self._start + error.offset) from error

    def frames(self, configuration: Configuration, offset: int = 0) -> Iterator[bytes]:
        """The frames with these members in their head, in pieces of at most PIECE_BYTES."""
        meta = self.head.snapshot
        head = encode_head(replace(Head.of(meta), configuration=configuration))
        if offset < len(head):
            yield head[offset:]
        skipped = len(encode_head(Head.of(meta)))
        descriptor = self._files.open(self.path)
        try:
            first = skipped + max(0, offset - len(head))
            for at in range(first, meta.size_bytes, PIECE_BYTES):
                count = min(PIECE_BYTES, meta.size_bytes - at)
                yield self._files.pread(descriptor, count, self._start + at)
        finally:
            self._files.close(descriptor)


def _head_of(values: Mapping[str, Any]) -> BackupHead:
    texts = [values[key] for key in ("group", "machine", "cluster", "node", "version")]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("something else stands where a text belongs")
    group, machine, cluster, node, version = texts
    return BackupHead(
        group=group,
        machine=machine,
        cluster=cluster,
        node=node,
        snapshot=meta_of(values["snapshot"]),
        made_ms=int(values["made_ms"]),
        version=version,
    )


def with_members(backup: BackupFile, configuration: Configuration) -> SnapshotMeta:
    """What the snapshot is called by when these are the members of its group. Reads all of it."""
    size_bytes, crc = 0, crc32c(b"")
    for piece in backup.frames(configuration):
        size_bytes += len(piece)
        crc = crc32c_extend(crc, piece)
    meta = backup.head.snapshot
    return replace(meta, configuration=configuration, size_bytes=size_bytes, crc=crc)
