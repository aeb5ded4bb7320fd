"""What opens a segment: its first record, or, where that is damaged, the copy of it.

The record SEGMENT says what a file is, and has the table of all groups.  If it is lost in the
newest segment, nothing says whose bytes these are; in the oldest one, nothing says what groups had
come to before.  Far more than what a sector held would be in doubt, so it stands twice in the
first batch::

    [ SEGMENT ][ records of groups ... ][ SEGMENT ][ commit frame ]
      first                               copy

Both are the same bytes.  A record is filled up to a multiple of ``OPENING_BYTES_MULTIPLE``, so the
copy is on other sectors than the first, and the filling is not zero: that would look unwritten.

**When the copy counts.**  It may be read in place of the first record only if it *is* what the
writer put there, and not bytes of a client, who may have stored a segment, or something made to be
taken for one.  All of this must hold:

* The first record is not whole.
* Every whole commit frame in the file, wherever it stands, has one and the same segment id.
* The copy is whole, and ends where the first of these frames begins; it has their segment id, and
  says the number of the batch before theirs.

A segment id is 64 random bits that never leave the node, so what a client makes has another one.
Each batch of the segment ends with a frame of its real id.  So if one single real frame is whole,
all that are whole are real.  Then what ends where the first of them begins, and has their id, was
put there by the writer: the record before a frame ends there, and bytes of a client in it would
have to know the id, which no client does.  If the first batch's own frame is lost, too, the first
one that is whole is of a later batch, and nothing before that is an opening: there is no copy.

If no real frame is whole, all of them are damaged beside the first record.  A client's chain of
frames would then have to end exactly where the bytes in use do, behind the damaged last one, or
where the next segment says (:mod:`raft.store.salvage`); else its end is missing, and everybody is
condemned.

Reading then goes on with the copy's bytes in the place of the first record's.  The CRC over the
headers in the commit frame includes both, so that batch is whole only if the first record was the
same.

**What stays in doubt.**  Where both are lost, or a client has stored a piece of another log in the
same segment, nothing is believed, and everybody who cannot be acquitted otherwise is condemned.

**A torn opening stays torn.**  Sectors arrive in any order, so of a batch that never became durable
the copy may be there without the first record.  Whether it is torn is decided without the copy
(:meth:`raft.store.salvage.Salvage.opening_is_torn`).
"""

from __future__ import annotations

from dataclasses import dataclass

from google_crc32c import value as crc32c

from raft.store import records
from raft.store.files import Files, read_whole
from raft.store.reader import Frame, SegmentReader, used_bytes
from raft.store.records import HEADER_BYTES, SegmentInfo, padded

# Far above the largest batch: what is longer is no segment of ours, and is not read.
SEGMENT_READ_BYTES_MAX = 4 << 30


@dataclass(slots=True, frozen=True)
class Opening:
    """``info``: what opens the segment, if it can be read.  ``is_empty``: it was never written to.

    ``copy``: the bytes that belong in the place of the first record, which is damaged.  ``lost``:
    why nothing in the file can be read.
    """

    info: SegmentInfo | None = None
    copy: bytes = b""
    is_empty: bool = False
    lost: str | None = None


def read_opening(files: Files, path: str, number: int) -> Opening:
    """Of the file that has this number in its name.  Raises UnknownFormat, OSError."""
    try:
        first, says = _first_record(files, path)
        if first.info is not None or first.is_empty or first.lost is not None:
            return first
        copied = _copy_in(SegmentReader(path, read_whole(files, path)))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    if copied is None and says not in (None, number):
        return Opening(lost=f"it is segment {says}, and its first record is damaged")
    return copied or first


def _first_record(files: Files, path: str) -> tuple[Opening, int | None]:
    """With the number that its header says, if that much is right."""
    descriptor = files.open(path)
    try:
        size = files.size(descriptor)
        if size > SEGMENT_READ_BYTES_MAX:
            return Opening(lost=f"it has {size} bytes"), None
        head = files.pread(descriptor, HEADER_BYTES, 0)
        if not head.strip(b"\0") and used_bytes(files.pread(descriptor, size, 0)) == 0:
            return Opening(is_empty=True, lost="it is empty"), None
        SegmentReader(path, head).record_at(0, [])  # raises for what is of a newer version
        header = records.decode_header(head, 0)
        if header is None:
            return Opening(), None
        if header.kind != records.SEGMENT:
            reason = "it does not begin with the record that opens a segment"
            return Opening(lost=reason), None
        body = files.pread(descriptor, min(header.length, size), HEADER_BYTES)
    finally:
        files.close(descriptor)
    if len(body) != header.length or crc32c(body) != header.body_crc:
        return Opening(), header.gseq
    try:
        return Opening(records.decode_segment(body)), header.gseq
    except ValueError as error:
        return Opening(lost=str(error)), header.gseq


def _copy_in(reader: SegmentReader) -> Opening | None:
    """The copy, if it counts: see the top of this file."""
    first: Frame | None = None
    for frame in reader.frames(0):
        if first is None:
            first = frame
        elif frame.commit.segment_id != first.commit.segment_id:
            return None
    if first is None:
        return None
    data, end = reader.data, first.offset
    at = data.rfind(records.MAGIC, 0, end)
    while at > 0:
        header = records.decode_header(data, at)
        start = at + HEADER_BYTES
        if header is not None and (header.format, header.kind) == (records.FORMAT, records.SEGMENT):
            body = data[start : start + header.length]
            if start + padded(header.length) == end and crc32c(body) == header.body_crc:
                return _believed(data[at:end], body, first)
        at = data.rfind(records.MAGIC, 0, at)
    return None


def _believed(copy: bytes, body: bytes, frame: Frame) -> Opening | None:
    try:
        info = records.decode_segment(body)
    except ValueError:
        return None
    commit = frame.commit
    if (info.segment_id, info.batch + 1) != (commit.segment_id, commit.batch):
        return None
    return Opening(info, copy)
