"""What one segment still says, damage and all: what is proven, and where there may have been more.

Reading goes on behind damage, but never takes bytes for a batch because they look like one.  A
client's value may hold a copy of our own log, or something made to be taken for it, and one flipped
bit in the header before it must not make it count.  So a batch is read only from a **known
beginning**: the start of the segment, or the end of a commit frame that is known to be real.

Behind the first byte of a batch that is not what was written there are four cases:

1. The body of a record is wrong, its header is right: the header says where the next one begins.
2. The *commit frame* is wrong in a part that can be done without: its header says that it ends a
   batch of just as many records; or its body is, byte by byte, what it must be behind these.
3. A *header* is wrong: the rest of the batch is lost with it.  Its frame is searched for.  It is
   real if it has the segment's random id and this batch's number, and names the CRC of the frame
   before: who wrote into this batch could not know that.  A copy of it can only stand behind it, so
   none is taken behind a frame of a later batch.
4. That frame is gone, too.  Then the *chain is broken*, and what comes later counts only if it is
   one unbroken chain from there up to the known end of the segment: where the one that follows says
   that it was sealed, or, in the last one, where its bytes end.  A chain inside a value is followed
   by the rest of what that value was written with, and cannot end there.  What lies between two
   breaks is not believed.

In cases 1 to 3 the commit frame says which groups have what in the batch, so what is lost is known
by name.  In the fourth, and where the end of a segment is gone, anything of anybody may have been:
a **gap**.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from google_crc32c import value as crc32c

from raft.store import records
from raft.store.errors import UnknownFormat
from raft.store.reader import Frame, SegmentReader, Stop
from raft.store.records import HEADER_BYTES, Commit, Header, Record, padded

Groups = dict[int, int]  # group -> its last gseq

_OF_ANOTHER = "the commit frame is of another batch"


@dataclass(slots=True, frozen=True)
class Loss:
    """Bytes that are not what was written.  ``header``: of the record, where it is right."""

    path: str
    offset: int
    reason: str
    header: Header | None = None

    def __str__(self) -> str:
        return f"{self.path} at offset {self.offset}: {self.reason}"


@dataclass(slots=True, frozen=True)
class Gap:
    """Between what stands before and what stands behind, anything of any group may be missing."""

    loss: Loss


@dataclass(slots=True)
class Batch:
    """From a known beginning.  ``said``: what its commit frame has; None if that is lost.

    ``frame_loss``: of the commit frame, where it could be done without.
    """

    records: list[Record]
    offset: int
    end: int
    said: Groups | None
    losses: list[Loss] = field(default_factory=list)
    frame_loss: Loss | None = None

    @property
    def damage(self) -> list[Loss]:
        return self.losses if self.frame_loss is None else [*self.losses, self.frame_loss]


@dataclass(slots=True, frozen=True)
class Place:
    """Where reading stands.  ``number`` and ``chain``: of the last batch, None if not known."""

    offset: int
    number: int | None
    chain: int | None


@dataclass(slots=True, frozen=True)
class Sealed:
    """What the segment that follows says of this one: its end, and its last batch."""

    end: int
    batch: int


@dataclass(slots=True)
class SegmentRead:
    items: list[Batch | Gap] = field(default_factory=list)
    place: Place = field(default_factory=lambda: Place(0, None, None))  # behind the last batch
    torn: bool = False
    follows: bool = False  # its first batch is the next one of the chain
    segment_id: int = 0


class Salvage:
    """Reads one segment.  ``before``: the last batch of the segment before, as far as known.

    ``segment_id``: 0 if not known.  ``opened``: its first record, which is whole, says this number
    of the batch before; None: that record is lost.  ``sealed`` is None where nothing that follows
    tells; ``is_last`` says that nothing follows.
    """

    def __init__(
        self,
        reader: SegmentReader,
        before: Place,
        *,
        segment_id: int,
        opened: int | None,
        sealed: Sealed | None,
        is_last: bool,
    ) -> None:
        self._reader = reader
        self._before = before
        self._id = segment_id
        self._opened = opened
        self._sealed = sealed
        self._is_last = is_last
        self._torn = False
        self._follows = False

    def read(self) -> SegmentRead:
        """Raises UnknownFormat."""
        result = SegmentRead()
        before = self._before
        # A segment that opens itself is known to begin here, whatever became of the one before.
        number = before.number if self._opened is None else self._opened
        start = Place(0, number, before.chain)
        place, items, broken = self._chain(start, provisional=False)
        result.items += items
        if broken is not None:
            place = self._behind_break(broken, place, result)
        elif not self._is_end(place):
            loss = self._loss(place.offset, "its end is missing")
            result.items.append(Gap(loss))
        result.place = place
        result.torn, result.follows, result.segment_id = self._torn, self._follows, self._id
        return result

    # ------------------------------------------------------------------ chains

    def _chain(
        self, place: Place, *, provisional: bool
    ) -> tuple[Place, list[Batch | Gap], Stop | None]:
        """Read on while the chain holds.  Answers where it ended, and where it broke, if it did."""
        reader = self._reader
        items: list[Batch | Gap] = []
        while True:
            reader.begin_at(place.offset)
            whole = reader.next_batch()
            if whole is not None:
                found, frame = whole
                step = self._sound(place, found, frame)
                stop = Stop(frame.offset, None, _OF_ANOTHER, found)
            elif reader.stop is not None:
                stop, step = reader.stop, None
            else:
                return place, items, None
            if step is None:
                if self._looks_torn(place, stop, provisional=provisional):
                    self._torn = True
                    return place, items, None
                step, partial = self._repaired(place, stop)
                if step is None:
                    items.append(partial)
                    return place, items, stop
            batch, place = step
            items.append(batch)

    def _behind_break(self, stop: Stop, place: Place, result: SegmentRead) -> Place:
        """Take up the chain where it holds up to the end: the earliest such place is right."""
        result.items.append(Gap(self._loss(stop.offset, stop.reason)))
        if self._id == 0:
            return place
        least = -1 if place.number is None else place.number + 1
        seen: set[int] = set()
        for frame in self._frames(stop.offset):
            if frame.commit.batch <= least or frame.end in seen:
                continue
            start = Place(frame.end, frame.commit.batch, frame.header.header_crc)
            try:
                end, items, broken = self._chain(start, provisional=True)
            except UnknownFormat:
                continue  # bytes that are made to be taken for a newer version's
            seen |= {frame.end, *(it.end for it in items if isinstance(it, Batch))}
            if broken is None and self._is_end(end):
                result.items.append(Batch([], frame.offset, frame.end, frame.commit.groups))
                result.items += items
                return end
            self._torn = False
        return place

    def _is_end(self, place: Place) -> bool:
        if self._sealed is not None:
            return (place.offset, place.number) == (self._sealed.end, self._sealed.batch)
        return self._torn or place.offset == self._reader.used

    # ------------------------------------------------------------------ one batch

    def _sound(
        self, place: Place, found: list[Record], frame: Record
    ) -> tuple[Batch, Place] | None:
        """A batch that is whole, if it is the one that belongs here."""
        return self._closed(place, found, [record.raw for record in found], [], frame)

    def _belongs(
        self, place: Place, commit: Commit, header: Header, raws: Sequence[bytes], reached: Groups
    ) -> bool:
        """Is this the frame of the batch that begins at ``place``, of which ``raws`` were found?"""
        if place.offset == 0 and self._opened is None and not self._adopt(place, commit):
            return False
        if header.gseq != commit.batch or header.entries < len(raws):
            return False
        if self._id != commit.segment_id or place.number is None:
            return False
        if commit.batch != place.number + 1:
            return False
        if place.chain is not None and commit.previous_crc != place.chain:
            return False
        said = commit.groups
        return all(said.get(group, 0) >= gseq for group, gseq in reached.items())

    def _adopt(self, place: Place, commit: Commit) -> bool:
        """The record that opens the segment is lost: does its first batch say whose it is?"""
        follows = place.number is not None and (commit.batch, commit.previous_crc) == (
            place.number + 1,
            place.chain,
        )
        if follows and self._id == 0:
            self._id = commit.segment_id
        self._follows = follows
        return follows

    def _repaired(self, place: Place, stop: Stop) -> tuple[tuple[Batch, Place] | None, Batch]:
        """What is left of a batch, and where the next begins; without that, what is left alone."""
        reader = self._reader
        found = list(stop.before)
        raws = [record.raw for record in found]
        losses: list[Loss] = []
        while stop.header is not None and stop.end <= len(reader.data):
            header = stop.header
            loss = self._loss(stop.offset, stop.reason, header)
            raw = reader.data[stop.offset : stop.offset + HEADER_BYTES]
            if header.kind == records.COMMIT:
                step = self._without_frame_body(place, stop, found, raws, losses)
                if step is not None:
                    return step, step[0]
                break
            losses.append(loss)
            raws.append(raw)
            stop, frame = self._read_on(stop.end, found, raws)
            if frame is not None:
                step = self._closed(place, found, raws, losses, frame)
                if step is not None:
                    return step, step[0]
        loss = self._loss(stop.offset, stop.reason, stop.header)
        step = self._without_frame_header(place, stop, found, raws, losses)
        if step is None:
            step = self._searched(place, stop, found, raws, [*losses, loss])
        is_known = place.offset > 0 or self._opened is not None
        partial = Batch(found if is_known else [], place.offset, stop.offset, None, [*losses, loss])
        return step, partial

    def _read_on(
        self, position: int, found: list[Record], raws: list[bytes]
    ) -> tuple[Stop, Record | None]:
        """Behind a record that was skipped: up to the commit frame, or what is not whole."""
        reader, known = self._reader, len(found)
        frame = reader.read_to_frame(position, found)
        raws += [record.raw for record in found[known:]]
        if frame is None:
            assert reader.stop is not None
            return reader.stop, None
        return Stop(frame.offset, None, _OF_ANOTHER, found), frame

    def _closed(
        self,
        place: Place,
        found: list[Record],
        raws: list[bytes],
        losses: list[Loss],
        frame: Record,
    ) -> tuple[Batch, Place] | None:
        """All headers are right, and so is the commit frame behind them."""
        try:
            commit = records.decode_commit(frame.body)
        except ValueError:
            return None
        if not self._belongs(place, commit, frame.header, raws, _reached(found, losses)):
            return None
        if frame.header.entries != len(raws) or commit.headers_crc != records.crc_of_headers(raws):
            return None
        end = frame.offset + frame.size
        batch = Batch(found, place.offset, end, commit.groups, losses)
        return batch, Place(end, commit.batch, frame.header.header_crc)

    def _without_frame_body(
        self,
        place: Place,
        stop: Stop,
        found: list[Record],
        raws: list[bytes],
        losses: list[Loss],
    ) -> tuple[Batch, Place] | None:
        """The header of a commit frame tells that the batch ends here, and that nothing is missing.
        What its body said of the groups is what it must have said, if that has its checksum."""
        header = stop.header
        assert header is not None
        if place.number is None or (place.offset == 0 and self._opened is None):
            return None
        if (header.gseq, header.entries) != (place.number + 1, len(raws)):
            return None
        said: Groups | None = _reached(found, losses)
        if place.chain is not None:
            crc = records.crc_of_headers(raws)
            body = records.encode_commit(
                Commit(header.gseq, self._id, place.chain, crc, dict(said or {}))
            )
            if crc32c(body) != header.body_crc:
                said = None
        else:
            said = None
        loss = self._loss(stop.offset, stop.reason, header)
        batch = Batch(found, place.offset, stop.end, said, losses, loss)
        return batch, Place(stop.end, header.gseq, header.header_crc)

    def _without_frame_header(
        self,
        place: Place,
        stop: Stop,
        found: list[Record],
        raws: list[bytes],
        losses: list[Loss],
    ) -> tuple[Batch, Place] | None:
        """Where a header is wrong, the body of just this batch's commit frame stands behind it."""
        data, start = self._reader.data, stop.offset + HEADER_BYTES
        length = records.commit_length(data, start)
        if length is None or place.number is None or self._id == 0:
            return None
        body = data[start : start + length]
        try:
            commit = records.decode_commit(body)
        except ValueError:
            return None
        raw = records.encode_header(
            records.COMMIT, 0, 0, len(raws), 0, commit.batch, 0, 0, length, crc32c(body)
        )
        header = records.decode_header(raw, 0)
        assert header is not None
        reached = _reached(found, losses)
        if commit.headers_crc != records.crc_of_headers(raws):
            return None
        if not self._belongs(place, commit, header, raws, reached):
            return None
        end = start + padded(length)
        loss = self._loss(stop.offset, "the commit frame has no valid header")
        # The checksum of this body is lost: what it says of the groups is taken if it must be so.
        said = commit.groups if commit.groups == reached else None
        batch = Batch(found, place.offset, end, said, losses, loss)
        return batch, Place(end, commit.batch, header.header_crc)

    def _searched(
        self,
        place: Place,
        stop: Stop,
        found: list[Record],
        raws: list[bytes],
        losses: list[Loss],
    ) -> tuple[Batch, Place] | None:
        """Case 3: the frame of this batch, before any of a later one."""
        if place.number is None or self._id == 0:
            return None
        reached = _reached(found, losses)
        for frame in self._frames(stop.offset):
            commit, header = frame.commit, frame.header
            if commit.batch > place.number + 1:
                return None
            if not self._belongs(place, commit, header, raws, reached):
                continue
            if header.entries == len(raws):
                # Every header is right, and they are not those of this batch.
                found = []
            batch = Batch(found, place.offset, frame.end, commit.groups, losses)
            return batch, Place(frame.end, commit.batch, header.header_crc)
        return None

    # ------------------------------------------------------------------ torn tails

    def _looks_torn(self, place: Place, stop: Stop, *, provisional: bool) -> bool:
        """Was the last batch begun and never made durable?  See :mod:`raft.store.recovery`."""
        reader = self._reader
        reader.offset = place.offset
        if not (self._is_last and reader.looks_torn(stop)):
            return False
        expected = None if provisional or place.number is None else place.number + 1
        for frame in self._frames(stop.offset):
            batch = frame.commit.batch
            if expected is not None and batch < expected:
                continue  # a copy of something older, in a client's bytes
            if frame.end != reader.used or (expected is not None and batch != expected):
                return False
        return True

    def opening_is_torn(self) -> bool:
        """Did the batch that opens this segment never become durable?  Then nothing in it did."""
        reader = self._reader
        reader.begin_at(0)
        if reader.next_batch() is not None or reader.stop is None:
            return False
        place = Place(0, self._opened, None)
        return self._looks_torn(place, reader.stop, provisional=False)

    # ------------------------------------------------------------------ small things

    def _frames(self, offset: int) -> Iterator[Frame]:
        for frame in self._reader.frames(offset):
            if self._id in (0, frame.commit.segment_id):
                yield frame

    def _loss(self, offset: int, reason: str, header: Header | None = None) -> Loss:
        return Loss(self._reader.path, offset, reason, header)


def _reached(found: Sequence[Record], losses: Sequence[Loss]) -> Groups:
    """The last gseq of each group among these, in the order in which groups come first.

    A group that begins anew counts from 1 again: of its generations the highest is meant, as in a
    commit frame.
    """
    headers = [(record.offset, record.header) for record in found]
    headers += [(loss.offset, loss.header) for loss in losses if loss.header is not None]
    headers.sort(key=_offset_of)
    highest: dict[int, tuple[int, int]] = {}
    for _, header in headers:
        if header.group:
            reached = header.generation, header.gseq
            highest[header.group] = max(reached, highest.get(header.group, reached))
    return {group: gseq for group, (_, gseq) in highest.items()}


def _offset_of(pair: tuple[int, Header]) -> int:
    return pair[0]
