"""The bytes of a snapshot file: frames with a checksum each, so that damage has a place.

    HEAD  |  CHUNK 1  |  CHUNK 2  | ... |  CHUNK n  |  END

Every frame is a header of 20 bytes and a body; numbers are little-endian, the CRC is CRC32C over
bytes 0..15 of the header and the body::

    0  magic "PRsn"   4  format u8   5  kind u8   6  zero u16   8  number u32   12  length u32
    16 CRC u32

``number`` counts the frames from 0 (the HEAD), so that one which is missing, repeated or out of
place is seen where it happened and not only at the end.

* HEAD: msgpack ``[index, term, members, time_ms, machine_version]``;
* CHUNK: bytes of the machine.  Each frame but the last one is exactly ``FRAME_BYTES`` long: equal
  states thereby give equal files however the machine cut its bytes, and any place of a file can be
  read and checked without what is before it;
* END: chunks u64, bytes of the machine u64.

Who holds the file's ``size_bytes`` and ``crc`` (over all its bytes, in the
:class:`~raft.messages.SnapshotMeta` of the WAL and of the wire) can also tell a file that is sound,
but not the one that is meant.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import msgpack
from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from raft.configuration import Configuration, UnknownPart
from raft.messages import SnapshotMeta
from raft.store.configurations import configuration_fields, configuration_of
from raft.store.errors import SnapshotDamaged, StoreError, UnknownFormat
from raft.store.files import Files

MAGIC = b"PRsn"
FORMAT = 1

# Kinds of frame.
HEAD = 0
CHUNK = 1
END = 2
KINDS = frozenset((HEAD, CHUNK, END))

_HEADER = struct.Struct("<4sBBxxIII")
FRAME_HEADER_BYTES = _HEADER.size
assert FRAME_HEADER_BYTES == 20
_SIGNED_BYTES = 16  # of the header, before its CRC
_END = struct.Struct("<QQ")
END_FRAME_BYTES = FRAME_HEADER_BYTES + _END.size

# Of a full CHUNK, header included.  What is held in memory at once, and part of the format.
FRAME_BYTES = 256 << 10
CHUNK_BYTES = FRAME_BYTES - FRAME_HEADER_BYTES
# The same configuration has to fit into a record of the WAL.
HEAD_BYTES_MAX = 16 << 20
HEAD_FIELDS = 5


@dataclass(slots=True, frozen=True)
class Head:
    """What a file says of itself."""

    index: int
    term: int
    configuration: Configuration
    time_ms: int
    machine_version: int

    @classmethod
    def of(cls, meta: SnapshotMeta) -> Head:
        return cls(meta.index, meta.term, meta.configuration, meta.time_ms, meta.machine_version)


class Frame(NamedTuple):
    """A frame whose CRC and number were right.  ``raw``: its header as well."""

    kind: int
    raw: bytes
    path: str

    @property
    def body(self) -> bytes:
        return self.raw[FRAME_HEADER_BYTES:]

    def head(self) -> Head:
        """What the first frame of a file says.  Raises SnapshotDamaged, UnknownFormat."""
        if self.kind != HEAD:
            raise SnapshotDamaged(self.path, 0, "it does not begin with a head")
        try:
            return _decode_head(self.body)
        except UnknownPart as error:
            raise UnknownFormat(self.path, str(error), 0) from error
        except ValueError as error:
            raise SnapshotDamaged(self.path, 0, str(error)) from error


def encode_frame(kind: int, number: int, body: bytes) -> bytes:
    unsigned = _HEADER.pack(MAGIC, FORMAT, kind, number, len(body), 0)[:_SIGNED_BYTES]
    crc: int = crc32c_extend(crc32c(unsigned), body)
    return b"".join((unsigned, crc.to_bytes(4, "little"), body))


def encode_head(head: Head) -> bytes:
    """Raises StoreError when it could not be read back (pitfall 47)."""
    assert min(head.index, head.term) >= 1, head
    assert min(head.time_ms, head.machine_version) >= 0, head
    members = configuration_fields(head.configuration)
    body: bytes = msgpack.packb(
        [head.index, head.term, members, head.time_ms, head.machine_version]
    )
    if len(body) > HEAD_BYTES_MAX:
        raise StoreError(f"the head of a snapshot has {len(body)} bytes, at most {HEAD_BYTES_MAX}")
    return encode_frame(HEAD, 0, body)


def encode_end(number: int, bytes_total: int) -> bytes:
    """The frame behind ``number - 1`` chunks with so many bytes of the machine."""
    return encode_frame(END, number, _END.pack(number - 1, bytes_total))


class SnapshotFile:
    """An open file, read and checked.  ``meta`` says what it should be.

    Raises SnapshotDamaged and UnknownFormat, and OSError when the disk does not give the bytes.
    """

    __slots__ = ("_descriptor", "_files", "_meta", "path")

    def __init__(self, files: Files, path: str, meta: SnapshotMeta) -> None:
        self._files = files
        self._meta = meta
        self.path = path
        if not files.exists(path):
            raise self._damaged(0, "it is missing")
        self._descriptor = files.open(path)
        try:
            size = files.size(self._descriptor)
            if size != meta.size_bytes:
                at = min(size, meta.size_bytes)
                raise self._damaged(at, f"it has {size} bytes instead of {meta.size_bytes}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._files.close(self._descriptor)

    def __enter__(self) -> SnapshotFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check_head(self) -> Frame:
        """The HEAD, which says what ``meta`` says."""
        frame = self._frame(0, 0)
        head = frame.head()
        if head != Head.of(self._meta):
            said = f"entry {head.index} of term {head.term}"
            raise self._damaged(0, f"it is another snapshot, of {said}")
        return frame

    def chunks(self) -> Iterator[bytes]:
        """The machine's bytes, each piece checked before it is given out, the whole at the end."""
        frame = self.check_head()
        crc, offset, number, bytes_total = crc32c(frame.raw), len(frame.raw), 1, 0
        short_at: int | None = None
        while True:
            frame = self._frame(offset, number)
            if frame.kind == END:
                break
            if frame.kind != CHUNK or short_at is not None:
                at = offset if short_at is None else short_at
                raise self._damaged(at, "a frame that cannot stand here")
            crc = crc32c_extend(crc, frame.raw)
            if len(frame.raw) < FRAME_BYTES:
                short_at = offset
            body = frame.body
            bytes_total += len(body)
            offset += len(frame.raw)
            number += 1
            yield body
        if frame.body != _END.pack(number - 1, bytes_total):
            raise self._damaged(offset, "its end tells of other chunks than there are")
        if offset + len(frame.raw) != self._meta.size_bytes:
            raise self._damaged(offset + len(frame.raw), "there is something behind its end")
        if crc32c_extend(crc, frame.raw) != self._meta.crc:
            raise self._damaged(0, "it is sound, but not the file that was recorded")

    def raw(self, offset: int, count: int) -> bytes:
        """Bytes of the file itself, up to its end; all frames that they lie in are checked."""
        end = min(offset + count, self._meta.size_bytes)
        if offset >= end:
            return b""
        position = number = 0
        head_bytes = len(self.check_head().raw)
        if offset >= head_bytes:
            # Only the last chunk may be short, so the others are where they must be.
            chunks_end = self._meta.size_bytes - END_FRAME_BYTES
            before = max(0, min(offset, chunks_end - 1) - head_bytes) // FRAME_BYTES
            position, number = head_bytes + before * FRAME_BYTES, 1 + before
        start = position
        pieces = []
        while position < end:
            pieces.append(self._frame(position, number).raw)
            position += len(pieces[-1])
            number += 1
        return b"".join(pieces)[offset - start : end - start]

    def _frame(self, offset: int, number: int) -> Frame:
        return read_frame(self._files, self._descriptor, self.path, offset, number)

    def _damaged(self, offset: int, reason: str) -> SnapshotDamaged:
        return SnapshotDamaged(self.path, offset, reason)


def read_frame(files: Files, descriptor: int, path: str, offset: int, number: int) -> Frame:
    """The frame of this number, which begins at ``offset``.

    Raises SnapshotDamaged, UnknownFormat, OSError.
    """
    data = files.pread(descriptor, FRAME_BYTES, offset)
    if len(data) < FRAME_HEADER_BYTES or data[:4] != MAGIC:
        raise SnapshotDamaged(path, offset, f"frame {number} does not begin here")
    _, format_, kind, found, length, crc = _HEADER.unpack_from(data)
    if format_ > FORMAT and number == 0:
        # Judged before the CRC, which a newer version may place elsewhere.
        raise UnknownFormat(path, f"snapshot of format {format_}", offset)
    end = FRAME_HEADER_BYTES + length
    if end > FRAME_BYTES and number == 0 and length <= HEAD_BYTES_MAX:
        data = files.pread(descriptor, end, offset)
    raw = data[:end]
    is_right = (
        format_ == FORMAT
        and len(raw) == end
        and crc32c_extend(crc32c(raw[:_SIGNED_BYTES]), raw[FRAME_HEADER_BYTES:]) == crc
    )
    if not is_right:
        raise SnapshotDamaged(path, offset, f"the checksum of frame {number} is wrong")
    if found != number:
        raise SnapshotDamaged(path, offset, f"frame {found} stands where frame {number} belongs")
    if kind not in KINDS:
        raise UnknownFormat(path, f"frame of unknown kind {kind}", offset)
    return Frame(kind, raw, path)


def sound_frames(files: Files, descriptor: int, path: str) -> Iterator[Frame]:
    """The frames of a file that may end anywhere, from its head on, as far as they are sound.

    Raises OSError alone.
    """
    offset = number = 0
    while True:
        try:
            frame = read_frame(files, descriptor, path, offset, number)
            if number == 0:
                frame.head()
        except (SnapshotDamaged, UnknownFormat):
            return
        yield frame
        if frame.kind == END:
            return
        offset += len(frame.raw)
        number += 1


def read_meta(files: Files, path: str, term_index_crc: tuple[int, int, int]) -> SnapshotMeta:
    """What a file of this (term, index, crc) in its name says of itself; only its head is looked
    at.  Raises SnapshotDamaged, UnknownFormat, OSError."""
    term, index, crc = term_index_crc
    descriptor = files.open(path)
    try:
        head = read_frame(files, descriptor, path, 0, 0).head()
        size_bytes = files.size(descriptor)
    finally:
        files.close(descriptor)
    if (head.term, head.index) != (term, index):
        raise SnapshotDamaged(path, 0, f"it is of entry {head.index} of term {head.term}")
    return SnapshotMeta(
        index, term, head.configuration, head.time_ms, head.machine_version, size_bytes, crc
    )


def _decode_head(body: bytes) -> Head:
    """Raises UnknownPart, ValueError on anything else; later versions may add to its end."""
    try:
        fields = msgpack.unpackb(body)
    except TypeError as error:
        raise ValueError(str(error)) from error
    if type(fields) is not list or len(fields) < HEAD_FIELDS:
        raise ValueError("its head is no list of five fields")
    index, term, members, time_ms, machine_version = fields[:HEAD_FIELDS]
    for number in (index, term, time_ms, machine_version):
        if type(number) is not int or number < 0:
            raise ValueError(f"its head has {number!r} where a number belongs")
    return Head(index, term, configuration_of(members), time_ms, machine_version)
