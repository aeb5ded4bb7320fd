"""The write-ahead log of one worker slot, shared by all groups of the worker.

How a save becomes durable::

    save() ... save()      gathered in memory, in order, many groups side by side
    take_batch()           one commit frame behind them; None while the last batch is under way
    batch.run()            one write, one sync; blocks, so it usually runs on a thread
    complete(batch)        which saves are durable now, newest per group

**At most one batch is unsynced**, also across a change of segment: recovery rests on it
(:mod:`raft.store.recovery`).  While a batch is under way, ``save`` gathers the next.

A write or sync that fails **poisons** the log for good: nothing can be said any more of what is on
disk, so nothing may be acknowledged, and no second sync may pretend otherwise (pitfall 44).  The
owner exits; recovery finds out what is there.

Threads: every method belongs to the owner's thread, except ``Batch.run`` and what
``prepare_next_segment`` and ``tidy`` return.

``open`` always begins a new segment, and never writes behind a tail that it cut.  Old segments are
given up beside the path (:mod:`raft.store.tidying`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from google_crc32c import value as crc32c

from raft.messages import HardState, Mark, Save
from raft.store import records
from raft.store.errors import StoreError, WalPoisoned
from raft.store.evidence import REASON_BYTES_MAX, shortened
from raft.store.files import Files, make_directory
from raft.store.group_log import GroupLog
from raft.store.locks import FileLock, me
from raft.store.reading import RunsReader
from raft.store.records import (
    ALIGNMENT_BYTES,
    FORMAT,
    HEADER_BYTES,
    MAGIC,
    PADDING,
    RUN,
    Commit,
    Record,
    SegmentInfo,
    encode_header,
    pack_unsigned,
)
from raft.store.recovery import Recovered, RecoveredGroup, recover
from raft.store.segments import (
    SEGMENT_BYTES_FIRST,
    SEGMENT_BYTES_MAX,
    Opening,
    Segment,
    SegmentJob,
    create_segment,
    opening_multiple,
)
from raft.store.settling import floors_of, set_aside, settle
from raft.store.tidying import COPY_BYTES_MAX, Tidier

__all__ = ["Batch", "RecoveredGroup", "Wal"]

LOCK_FILE = "lock"
_SIZE_ROUNDING = HEADER_BYTES + ALIGNMENT_BYTES - 1
_SIZE_MASK = -ALIGNMENT_BYTES
# Far above what the owner's own limits let in; beyond it the owner does not look at gathered_bytes.
GATHERED_BYTES_MAX = 1 << 30
# With so many segments that are needed, the next one is larger.
SEGMENTS_FEW = 3
# Of a group in what opens a segment: the reason of a damage, a name, and some numbers.
TABLE_ROW_BYTES_MAX = REASON_BYTES_MAX + 400


class Batch:
    """Gathered records with their commit frame, to be written once."""

    __slots__ = ("_ran", "_segment", "_wal", "bytes", "newest", "number", "opens", "pieces")

    def __init__(
        self,
        wal: Wal,
        number: int,
        pieces: list[bytes],
        newest: dict[int, tuple[int, int, int]],
        opens: Opening | None,
    ) -> None:
        self._wal = wal
        self._ran = False
        self.number = number
        self.pieces = pieces
        self.newest = newest
        self.opens = opens
        self.bytes = sum(map(len, pieces))

    def run(self) -> None:
        """Write and sync.  Blocks; raises WalPoisoned when the disk fails."""
        assert not self._ran, "a batch is written once"
        self._ran = True
        self._wal._write(self)


class Wal:
    """See the top of this file.  Made by :meth:`open` alone."""

    def __init__(
        self,
        files: Files,
        directory: str,
        lock: FileLock,
        *,
        slot: int,
        incarnation: int,
        random_id: Callable[[], int],
        segment_bytes_first: int,
        segment_bytes_max: int,
        copy_bytes_max: int,
        sync: bool,
    ) -> None:
        assert 0 < segment_bytes_first <= segment_bytes_max
        self._files = files
        self._directory = directory
        self._lock = lock
        self._slot = slot
        self._incarnation = incarnation
        self._random_id = random_id
        self._segment_bytes_first = segment_bytes_first
        self._opening_multiple = opening_multiple(segment_bytes_first)
        # The owner may lower it while room is scarce; when there is hardly any: what is copied must
        # fit into a segment that is there, and leave these bytes of it to what cannot wait.
        self.segment_bytes_max = segment_bytes_max
        self.kept_from_copies: int | None = None
        self._size = 0  # what the last segment had, or would have had if its batch had fitted
        self._sync = sync
        self._groups: dict[int, GroupLog] = {}
        self._tidier = Tidier(files, directory, self._groups, copy_bytes_max)
        self._log_end = 0  # place of the first record that the next batch will have
        self._synced_end = 0  # and of the first one that is not known to be on the disk
        # Gathered and not yet in a batch.
        self._pieces: list[bytes] = []
        self._crcs: list[bytes] = []  # the last four bytes of each header
        self._touched: dict[int, int] = {}
        self._newest: dict[int, tuple[int, int, int]] = {}
        self._gathered = 0
        # The batch under way, and where the log ends behind it.
        self._in_flight: Batch | None = None
        self._batch = 0
        self._chain = 0
        self._segment: Segment | None = None
        self._number = 0
        self._segment_id = 0
        self._used = 0
        self._job: SegmentJob | None = None
        self._poisoned: str | None = None
        self._damage: list[str] = []
        self._carried: list[Record] = []
        self._closed = False
        self._statistics: dict[str, Any] = {
            "batches": 0,
            "bytes": 0,
            "records": 0,
            "segments": 0,
            "segments_inline": 0,
            "syncs": 0,
            "sync_last_ms": 0.0,
            "sync_max_ms": 0.0,
            "recovered_bytes": 0,
            "recovered_torn": False,
        }

    # ------------------------------------------------------------------ opening and closing

    @classmethod
    def open(
        cls,
        files: Files,
        directory: str,
        *,
        slot: int,
        incarnation: int,
        random_id: Callable[[], int],
        segment_bytes_first: int = SEGMENT_BYTES_FIRST,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        copy_bytes_max: int = COPY_BYTES_MAX,
        sync: bool = True,
    ) -> tuple[Wal, dict[int, RecoveredGroup]]:
        """Lock, recover, and begin a new segment, which says who is condemned.

        Raises LockHeld (wait and try again), UnknownFormat, WalPoisoned, OSError; ForeignWal and
        WalDamaged where nothing is of this disk and slot.  ``incarnation``: of the disk in
        node.json; a log written for another one is refused.  ``random_id`` draws 64 bits.  ``sync``
        off loses data in a crash; for measurements alone.
        """
        make_directory(files, directory)
        lock = FileLock(files, os.path.join(directory, LOCK_FILE))
        try:
            lock.write({**me(), "slot": slot})
            found = recover(files, directory, slot, incarnation)
            settle(files, directory, found)
        except BaseException:
            lock.close()
            raise
        wal = cls(
            files,
            directory,
            lock,
            slot=slot,
            incarnation=incarnation,
            random_id=random_id,
            segment_bytes_first=segment_bytes_first,
            segment_bytes_max=segment_bytes_max,
            copy_bytes_max=copy_bytes_max,
            sync=sync,
        )
        try:
            wal._continue_from(found)
            set_aside(files, directory, found)
        except BaseException:
            wal._release()
            raise
        return wal, found.groups

    def _continue_from(self, found: Recovered) -> None:
        for group, recovered in found.groups.items():
            row = found.rows.get(group)
            if row is None:
                self._groups[group] = GroupLog.recovered(recovered)
            else:
                self._groups[group] = GroupLog.stopped(recovered, row)
        self._log_end = self._tidier.recovered(found.segments, found.oldest, found.pinned)
        self._batch = found.batch
        self._chain = found.chain
        self._number = found.number
        self._segment_id = found.segment_id
        self._used = found.end
        self._statistics["recovered_bytes"] = found.bytes_read
        self._statistics["recovered_torn"] = found.torn
        self._damage = [str(loss) for loss in found.damage]
        self._carried = found.carried
        for group, reason in found.unmarked.items():
            self.mark_damaged(group, reason)
        batch = self._make_batch(open_segment=True)
        batch.run()
        self.complete(batch)

    def close(self) -> None:
        """Let go of files and lock.  What is gathered and not written is lost, as in a crash."""
        if self._closed:
            return
        assert self._in_flight is None or self._poisoned, "a batch is under way"
        self._release()

    def _release(self) -> None:
        self._closed = True
        if self._job is not None:
            prepared = self._job.take(0)
            if prepared is not None:
                self._files.close(prepared.descriptor)
            self._job = None
        if self._segment is not None:
            self._files.close(self._segment.descriptor)
            self._segment = None
        self._lock.close()

    # ------------------------------------------------------------------ gathering

    def add_group(self, group: int, generation: int, bootstrap: bytes) -> None:
        """Begin a group.  Durable with the next batch: before or with its first save."""
        self._refuse_if_over()
        known = self._groups.get(group)
        assert group > 0, "group 0 is nobody"
        assert known is None or known.generation < generation, (group, generation)
        _check_length(group, len(bootstrap))
        if known is not None:
            self._tidier.killed(known.live_bytes)
        state = self._groups[group] = GroupLog(group, generation)
        self._record(state, records.BOOTSTRAP, body=bootstrap)

    def save(self, group: int, save: Save) -> None:
        """Gather one save: hard state, truncation, mark, runs, in this order."""
        if self._poisoned is not None or self._closed:
            self._refuse_if_over()
        state = self._groups[group]
        for run in save.runs:
            if len(run.body) > records.RECORD_BODY_BYTES_MAX:
                _check_length(group, len(run.body))
        mark = b""
        if save.mark is not None:
            mark = records.encode_mark(save.mark)
            _check_length(group, len(mark))
        number, term, index = save.number, 0, 0
        newest = self._newest.get(group)
        if newest is not None:
            assert newest[0] < number, (group, newest, number)
            _, term, index = newest
        if save.hard_state is not None:
            self._save_hard_state(state, save.hard_state)
        if save.truncate_from is not None:
            self._save_truncation(state, save.truncate_from)
            if index >= save.truncate_from:
                term, index = 0, 0
        if save.mark is not None:
            self._save_mark(state, save.mark, mark)
            if save.mark.resets:
                term, index = 0, 0
        if save.runs:
            term, index = self._save_runs(state, save)
        self._newest[group] = (number, term, index)

    def mark_damaged(self, group: int, reason: str) -> None:
        """Never again may this replica vote or acknowledge; recovery says so from then on.

        Nothing else of it is live.  What held it is not given up before this is durable: the batch
        that gives it up is this one, or a later one.
        """
        self._refuse_if_over()
        state = self._groups[group]
        state.damaged = reason = shortened(reason)
        self._record(state, records.DAMAGED, body=reason.encode())
        self._tidier.killed(state.keep_mark())

    def forget_group(self, group: int, reason: str) -> None:
        """Nothing of it is needed any more, and nobody may go on as who it was; under a higher
        generation it may be begun again.  One record stays of whatever there is."""
        state = self._groups.get(group)
        if state is not None and state.damaged is None:
            self.mark_damaged(group, reason)

    def _save_hard_state(self, state: GroupLog, hard_state: HardState) -> None:
        term, vote = hard_state.term, hard_state.vote
        assert term >= state.term, (state.group, state.term, term)
        assert term > state.term or state.vote in (None, vote), (state.group, state.vote, vote)
        state.term, state.vote = term, vote
        self._record(state, records.HARD_STATE, body=records.encode_hard_state(hard_state))

    def _save_truncation(self, state: GroupLog, first: int) -> None:
        assert first > state.snapshot_index, (state.group, first, state.snapshot_index)
        assert state.base_index < first <= state.last_index + 1, (state.group, first)
        assert state.is_border(first - 1), (state.group, first)
        self._tidier.killed(state.truncate_from(first))
        self._record(state, records.TRUNCATE, first=first)

    def _save_mark(self, state: GroupLog, mark: Mark, body: bytes) -> None:
        """What :mod:`raft.store.replay` refuses to read is not written."""
        snapshot, group = mark.snapshot, state.group
        index, term = snapshot.index, snapshot.term
        assert 0 < index, (group, index)
        assert 0 < term, (group, term)
        assert 0 <= min(
            snapshot.time_ms, snapshot.machine_version, snapshot.size_bytes, snapshot.crc
        ), (group, snapshot)
        assert state.base_index <= mark.base_index <= index, (group, state.base_index, mark)
        assert state.snapshot_index <= index, (group, state.snapshot_index, index)
        assert state.snapshot_term <= term <= state.term, (group, state.snapshot_term, term)
        assert index > state.snapshot_index or term == state.snapshot_term, (group, index, term)
        if mark.resets:
            assert (mark.base_index, mark.base_term) == (index, term), (group, mark)
            killed_bytes = state.begin_at(index, term)
        else:
            for at, of in ((mark.base_index, mark.base_term), (index, term)):
                assert at <= state.last_index, (group, at, state.last_index)
                assert state.is_border(at), (group, at)
                assert state.term_at(at) == of, (group, at, of)
            killed_bytes = state.compact_to(mark.base_index, mark.base_term)
        self._tidier.killed(killed_bytes)
        state.snapshot_index, state.snapshot_term = index, term
        self._record(state, records.SNAPSHOT, body=body, first=index, term=term)

    def _save_runs(self, state: GroupLog, save: Save) -> tuple[int, int]:
        """The path of every write: a header per run, the body as it is.  Answers (term, index)."""
        group, generation, gseq = state.group, state.generation, state.gseq
        last_index, last_term = state.last_index, state.last_term
        pieces, crcs, firsts = self._pieces, self._crcs, state.firsts
        term_starts, places, sizes = state.term_starts, state.places, state.sizes
        gathered, log_end, term_max = self._gathered, self._log_end, state.term
        for run in save.runs:
            body, term, first, count = run.body, run.term, run.first, run.count
            length = len(body)
            assert first == last_index + 1, (group, first, last_index)
            assert count > 0
            assert last_term <= term <= term_max, (group, last_term, term, term_max)
            gseq += 1
            # encode_header, without the call: this is the path of every write.
            unsigned = pack_unsigned(
                MAGIC,
                FORMAT,
                RUN,
                run.kind,
                generation,
                count,
                group,
                gseq,
                term,
                first,
                length,
                run.crc,
                0,
            )
            crc = crc32c(unsigned).to_bytes(4, "little")
            if term != last_term:
                term_starts.append((first, term))
            last_index, last_term = first + count - 1, term
            crcs.append(crc)
            pieces.append(unsigned + crc)
            pieces.append(body)
            padding = PADDING[length & 7]
            if padding:
                pieces.append(padding)
            size = (length + _SIZE_ROUNDING) & _SIZE_MASK  # HEADER_BYTES + padded(length)
            firsts.append(first)
            places.append(log_end + gathered)
            sizes.append(size)
            gathered += size
        state.gseq, state.last_index, state.last_term = gseq, last_index, last_term
        self._touched[group] = gseq
        self._gathered = gathered
        assert gathered <= GATHERED_BYTES_MAX, gathered
        return last_term, last_index

    def _record(
        self,
        state: GroupLog,
        kind: int,
        *,
        body: bytes = b"",
        first: int = 0,
        term: int | None = None,
    ) -> None:
        """Gather one record of any kind but RUN; of the group's term unless told."""
        state.gseq += 1
        length = len(body)
        header = encode_header(
            kind,
            0,
            state.generation,
            0,
            state.group,
            state.gseq,
            state.term if term is None else term,
            first,
            length,
            crc32c(body),
        )
        self._crcs.append(header[-4:])
        self._pieces += (header, body, PADDING[length & 7])
        size = HEADER_BYTES + records.padded(length)
        self._tidier.killed(state.set_fixed(kind, self._log_end + self._gathered, size))
        self._gathered += size
        self._touched[state.group] = state.gseq

    def _refuse_if_over(self) -> None:
        assert not self._closed, "the WAL is closed"
        if self._poisoned is not None:
            raise WalPoisoned(self._poisoned)

    # ------------------------------------------------------------------ batches

    @property
    def gathered_bytes(self) -> int:
        """Bytes of records that are in no batch yet."""
        return self._gathered

    @property
    def damage(self) -> list[str]:
        """What was found to be damaged when the log was opened, and where; who is hit by it is said
        in the groups that :meth:`open` answers."""
        return self._damage

    @property
    def poisoned(self) -> str | None:
        """Why nothing more can become durable; None while all is well."""
        return self._poisoned

    def take_batch(self) -> Batch | None:
        """All that is gathered, or None: nothing is, or the batch before is not complete."""
        self._refuse_if_over()
        if self._in_flight is not None:
            return None
        if not (self._crcs or self._newest or self._tidier.is_ready):
            return None
        return self._make_batch(open_segment=False)

    def complete(self, batch: Batch) -> list[tuple[int, int, int, int]]:
        """(group, save number, term, index) of the newest save of each group in ``batch``.

        After ``batch.run()`` has returned.  (0, 0) where the saves held no entry that still stands.
        """
        assert batch is self._in_flight, "not the batch under way"
        if self._poisoned is not None:
            raise WalPoisoned(self._poisoned)
        assert batch._ran, "batch.run() was not called"
        self._in_flight = None
        self._synced_end = self._log_end  # nothing was put behind it since it was taken
        if self._tidier.leaving:
            self._tidier.completed()
        return [(group, *newest) for group, newest in batch.newest.items()]

    def runs_reader(self, group: int, first: int, last: int) -> RunsReader | None:
        """What reads runs of a group back, on any thread; of no runs, where a mark stands for some.
        None: they are being copied, and can be read when the batch under way is complete.

        Raises OSError.  Whatever it, or the reader, raises is final, as what is saved is not there:
        the owner exits, and recovery finds out what is lost.
        """
        self._refuse_if_over()
        log = self._groups[group]
        return self._tidier.runs_reader(log, first, last, self._synced_end)

    def _make_batch(self, *, open_segment: bool) -> Batch:
        """Close what is gathered with a commit frame; open a segment if it does not fit."""
        pieces, crcs, touched = self._pieces, self._crcs, self._touched
        saved, gathered = len(pieces), self._gathered
        tidier = self._tidier
        tidier.live_bytes += gathered
        if tidier.is_read and (room := self._room_for_copies()) < tidier.read_bytes:
            tidier.put_off(room - (self.kept_from_copies or 0))
        if tidier.announces or tidier.chunk is not None:
            gathered += tidier.gather(self._log_end + gathered, pieces, crcs, touched)
        gathered += self._carry(pieces, crcs, touched)
        frame_bytes = (
            HEADER_BYTES + records.COMMIT_BODY_BYTES_MIN + len(touched) * records.COMMIT_GROUP_BYTES
        )
        bytes_total = gathered + frame_bytes
        opening = None
        segment = self._segment
        if open_segment or segment is None or self._used + bytes_total > segment.size:
            opening, record = self._open(bytes_total, pieces[:saved])
            self._carried = []
            # The second time for when the sectors of the first are lost (raft.store.openings).
            pieces[:0] = record
            pieces += record
            crcs.insert(0, record[0][-4:])
            crcs.append(record[0][-4:])
            bytes_total += sum(map(len, record))
        self._batch += 1
        crc = crc32c(b"".join(crcs))
        commit = records.encode_commit(
            Commit(self._batch, self._segment_id, self._chain, crc, touched)
        )
        frame = encode_header(
            records.COMMIT, 0, 0, len(crcs), 0, self._batch, 0, 0, len(commit), crc32c(commit)
        )
        self._chain = int.from_bytes(frame[-4:], "little")
        self._log_end += bytes_total
        pieces.append(frame)
        pieces.append(commit)
        self._statistics["records"] += len(crcs)
        batch = Batch(self, self._batch, pieces, self._newest, opening)
        self._in_flight = batch
        self._pieces, self._crcs, self._touched, self._newest = [], [], {}, {}
        self._gathered = 0
        return batch

    def _carry(self, pieces: list[bytes], crcs: list[bytes], touched: dict[int, int]) -> int:
        """Copy the last batch of a damaged segment, of which it is not known if it is durable."""
        for record in self._carried:
            crcs.append(record.raw[-4:])
            pieces += (record.raw, record.body, PADDING[len(record.body) & 7])
            touched[record.header.group] = self._groups[record.header.group].gseq
        return sum(record.size for record in self._carried)

    def _open(self, bytes_rest: int, saved: list[bytes]) -> tuple[Opening, tuple[bytes, ...]]:
        """Plan the next segment: what makes it, and its first record (header, body, padding).

        ``saved``: the pieces of the batch, without copies.
        """
        began = records.first_gseqs(saved)
        floors = floors_of(self._carried, self._groups)
        table = {
            group: state.row(
                floors.get(group, began.get((group, state.generation), state.gseq + 1) - 1)
            )
            for group, state in self._groups.items()
        }
        segment_id = self._random_id()
        assert 0 < segment_id < 1 << 64, segment_id
        number = self._number + 1
        oldest = self._tidier.opens(number, self._log_end, self._used)
        info = SegmentInfo(
            number,
            segment_id,
            self._segment_id,
            self._used,
            self._batch,
            self._slot,
            table,
            self._incarnation,
            oldest,
        )
        record = records.encode_opening(info, self._opening_multiple)
        size = sum(map(len, record))
        bytes_min = 2 * size + bytes_rest
        job, self._job = self._job, None
        self._size = self._next_size()
        self._tidier.opened(self._log_end - size)
        opening = Opening(number, segment_id, bytes_min, max(self._size, bytes_min), job)
        self._number, self._segment_id, self._used = number, segment_id, 0
        return opening, record

    def _write(self, batch: Batch) -> None:
        """On the batch's thread: everything that touches the disk."""
        assert batch is self._in_flight, "not the batch under way"
        if self._poisoned is not None:
            raise WalPoisoned(self._poisoned)
        files = self._files
        try:
            sealed = self._segment
            if batch.opens is not None:
                self._segment = self._create(batch.opens)
            segment = self._segment
            assert segment is not None
            data = b"".join(batch.pieces)
            assert segment.used + len(data) <= segment.size
            files.pwrite(segment.descriptor, data, segment.used)
            started = time.monotonic()
            if self._sync:
                files.fdatasync(segment.descriptor)
            elapsed_ms = (time.monotonic() - started) * 1_000
            segment.used += len(data)
            self._used = segment.used
            if batch.opens is not None and sealed is not None:
                # Its zeros are of no more use.  Needs no sync: they read as unused either way.
                files.truncate(sealed.descriptor, sealed.used)
                files.close(sealed.descriptor)
        except OSError as error:
            self._poisoned = f"writing the WAL in {self._directory} failed: {error}"
            raise WalPoisoned(self._poisoned) from error
        batch.pieces = []
        statistics = self._statistics
        statistics["batches"] += 1
        statistics["bytes"] += len(data)
        statistics["syncs"] += self._sync
        statistics["sync_last_ms"] = elapsed_ms
        statistics["sync_max_ms"] = max(elapsed_ms, statistics["sync_max_ms"])

    def _create(self, opening: Opening) -> Segment:
        segment = None
        if opening.job is not None:
            segment = opening.job.take(opening.bytes_min)
        if segment is None:
            self._statistics["segments_inline"] += 1
            segment = create_segment(
                self._files, self._directory, opening.number, opening.size, sync=self._sync
            )
        assert segment.number == opening.number
        segment.segment_id = opening.segment_id
        self._statistics["segments"] += 1
        return segment

    # ------------------------------------------------------------------ beside the path

    def prepare_next_segment(self) -> Callable[[], None] | None:
        """Work for a background thread, or None: the next segment is made or not yet due.

        It is due when half of the current one is used.  The work may raise OSError; the batch that
        needs the segment then tries again itself.
        """
        segment = self._segment
        if self._poisoned is not None or self._closed or self._job is not None:
            return None
        if self._in_flight is not None and self._in_flight.opens is not None:
            return None
        if segment is None or 2 * self._used < segment.size:
            return None
        self._job = SegmentJob(
            self._files, self._directory, self._number + 1, self._next_size(), sync=self._sync
        )
        return self._job

    def _next_size(self) -> int:
        """Twice the last, up to the largest; but a log that stays small goes back to small ones.

        A segment is filled with zeros before it is used, and up to two of them hold nothing else.
        Many small ones are of no use either: what they hold goes only with all before it.
        """
        size, live = self._size, self._tidier.live_bytes
        if size == 0:
            size = self._segment_bytes_first
        elif live >= size // 4 or self._tidier.needed_count >= SEGMENTS_FEW:
            size *= 2
        elif live < size // 16:
            size = max(self._segment_bytes_first, size // 2)
        return min(size, self.segment_bytes_max)

    @property
    def segment_room_bytes(self) -> int:
        """What the segment in use takes beyond all that is gathered and under way."""
        batch, segment = self._in_flight, self._segment
        assert segment is not None, "the WAL is closed"
        size, used = segment.size, self._used
        if batch is not None:
            if batch.opens is not None:
                # Its thread is about to make it, or take the one that was made ahead.
                size, used = batch.opens.size, 0
                if batch.opens.job is not None:
                    size = min(size, batch.opens.job.size)
            used += batch.bytes
        return size - used - self._gathered

    def tidy(self) -> Callable[[], None] | None:
        """Work for a background thread, or None: reads what is to be copied, removes segments.

        Ask before each ``take_batch``, also when nothing was saved, and when such work has returned
        or failed: with OSError, or WalDamaged when what is on disk is no longer what was written.
        Neither is final for this log, only for its getting smaller (``tidying_stopped``).
        """
        if self._poisoned is not None or self._closed:
            return None
        room = self._room_for_copies() - (self.kept_from_copies or 0)
        return self._tidier.work(min(room, self._tidier.copy_bytes_max))

    def _room_for_copies(self) -> int:
        """What may be copied beside all that is gathered.

        Where room is scarce: what the segment in use takes, or the one that was made ahead.
        """
        if self.kept_from_copies is None:
            return GATHERED_BYTES_MAX
        # The frame of the batch, and the record that says what is given up.
        frame = 2 * HEADER_BYTES + records.COMMIT_BODY_BYTES_MIN
        room = self.segment_room_bytes
        if self._job is not None and self._job.made_bytes:
            # Of the record: one row more than there are is for its header and all else in it.
            opening = TABLE_ROW_BYTES_MAX * (len(self._groups) + 1) + self._opening_multiple
            room = max(room, self._job.made_bytes - self._gathered - 2 * opening)
        return room - frame - records.COMMIT_GROUP_BYTES * len(self._touched)

    def statistics(self) -> dict[str, Any]:
        segment = self._segment
        return {
            **self._statistics,
            "batch": self._batch,
            "gathered_bytes": self._gathered,
            "groups": len(self._groups),
            **self._tidier.statistics(),
            "in_flight": self._in_flight is not None,
            "segment": self._number,
            "segment_bytes": 0 if segment is None else segment.size,
            "segment_used_bytes": self._used,
            "sync": self._sync,
            "poisoned": self._poisoned,
        }


def _check_length(group: int, length: int) -> None:
    if length > records.RECORD_BODY_BYTES_MAX:
        raise StoreError(
            f"record of {length} bytes for group {group}, at most {records.RECORD_BODY_BYTES_MAX}"
        )
