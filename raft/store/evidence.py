"""Who lost something: what the log says of each group, held against what is there of it.

A group is whole if **something says how far it is, and all up to there is there**.  What says so is
a commit frame with the group in it, or the table of a segment; either speaks of everything before
it.  So behind a gap (:class:`raft.store.salvage.Gap`), in which anything may have been, a group is
whole only if it is spoken of once more, and no record up to the gseq that is named is missing.

Everybody else is **condemned**: may never vote or acknowledge again.  That is the safe side.  Who
is condemned needlessly is replaced and costs a snapshot; who votes with a lost vote can elect a
second leader, and who counts lost entries as there can commit what no majority has.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raft.store import records
from raft.store.records import Header, SegmentInfo, TableRow
from raft.store.remnants import Remnant
from raft.store.replay import RecoveredGroup, Replay
from raft.store.salvage import Batch, Loss

REASON_BYTES_MAX = 400  # it is repeated in the table of every segment
GSEQ_MAX = (1 << 64) - 1


@dataclass(slots=True)
class _Said:
    """What was said of one group.  ``at``: when that was said last; ``path``: where."""

    generation: int
    gseq: int = 0
    at: int = -1
    path: str = ""


@dataclass(slots=True)
class Evidence:
    """Fed with what the log has, oldest first."""

    replays: dict[int, Replay] = field(default_factory=dict)
    _said: dict[int, _Said] = field(default_factory=dict)
    _marks: dict[int, tuple[int, str]] = field(default_factory=dict)  # of tables: generation, why
    _doubts: dict[int, tuple[int, Loss]] = field(default_factory=dict)  # about one group alone
    _gap: tuple[int, Loss] | None = None  # the last one
    _gaps: list[Loss] = field(default_factory=list)
    _losses: list[Loss] = field(default_factory=list)  # each within a batch whose frame is there
    _now: int = 0

    # ------------------------------------------------------------------ what the log has

    def begin_late(self, info: SegmentInfo) -> None:
        """The log begins with this segment: those before it are gone, by design as it seems."""
        for group, row in info.table.items():
            if row.floor:
                self.replays[group] = Remnant(group, row)

    def begins_without(self, loss: Loss) -> None:
        """They were not to be gone.  Who misses something of them is seen without this."""
        self._gaps.append(loss)

    def take_batch(self, path: str, batch: Batch) -> int:
        """Answers the oldest segment that is still needed, if the batch says so, otherwise 0."""
        self._now += 1
        oldest = 0
        for record in batch.records:
            header = record.header
            if header.group:
                self._replay(header).add(path, record)
            elif header.kind == records.OLDEST:
                oldest = max(oldest, header.first)
        self._losses += batch.losses
        for loss in batch.losses:
            lost = loss.header
            if lost is not None and lost.group:
                said = self._said_of(lost.group, lost.generation)
                if said.generation == lost.generation:
                    said.gseq, said.path = max(said.gseq, lost.gseq), path
        for group, gseq in (batch.said or {}).items():
            self._take_said(path, group, gseq, batch)
        return oldest

    def take_table(self, path: str, info: SegmentInfo) -> None:
        """Of a segment whose first batch was taken just before."""
        for group in self.replays.keys() - info.table.keys():
            self.replays[group].contradict(path, "its table does not have the group")
        for group, row in info.table.items():
            said = self._said_of(group, row.generation)
            if row.generation < said.generation:
                continue
            said.gseq, said.at, said.path = max(said.gseq, row.gseq), self._now, path
            if row.damaged is not None:
                self._marks[group] = row.generation, row.damaged
            replay = self.replays.get(group)
            if replay is not None and replay.generation == row.generation:
                replay.check(path, row)

    def take_gap(self, loss: Loss) -> None:
        self._now += 1
        self._gap = self._now, loss
        self._gaps.append(loss)

    def _take_said(self, path: str, group: int, gseq: int, batch: Batch) -> None:
        replay = self.replays.get(group)
        generation = 0 if replay is None else replay.generation
        said = self._said_of(group, generation)
        if gseq < said.gseq and batch.losses:
            # It was further already: what is lost may be of a later generation of it.
            self._doubts[group] = self._now, batch.losses[0]
        elif gseq >= said.gseq:
            said.gseq, said.at, said.path = gseq, self._now, path

    def _said_of(self, group: int, generation: int) -> _Said:
        said = self._said.get(group)
        if said is None or said.generation < generation:
            said = self._said[group] = _Said(generation)
        return said

    def _replay(self, header: Header) -> Replay:
        """Of several generations the highest counts: it is a copy that replaced the others."""
        replay = self.replays.get(header.group)
        if replay is None or replay.generation < header.generation:
            replay = Replay(header.group, header.generation)
            self.replays[header.group] = replay
        elif replay.generation > header.generation:
            return Replay(header.group, header.generation, gseq=header.gseq)
        return replay

    # ------------------------------------------------------------------ what follows from it

    def judge(self) -> tuple[dict[int, RecoveredGroup], dict[int, TableRow], dict[int, str]]:
        """All groups; what the next segment's table is to say of those that cannot be opened; and
        the marks that have yet to be written."""
        groups: dict[int, RecoveredGroup] = {}
        rows: dict[int, TableRow] = {}
        unmarked: dict[int, str] = {}
        for group in sorted(self.replays.keys() | self._said.keys()):
            said = self._said.get(group)
            replay = self.replays.get(group)
            if replay is None or (said is not None and said.generation > replay.generation):
                assert said is not None
                replay = Replay(group, said.generation)
            recovered = groups[group] = replay.result()
            is_marked = replay.damaged is not None
            reason = replay.damaged or self._mark(replay) or self._condemned(replay, said)
            if reason is not None:
                recovered.damaged = reason = shortened(reason)
                known = (recovered.last_gseq, *replay.pending, 0 if said is None else said.gseq)
                recovered.last_gseq = min(max(known), GSEQ_MAX - 1)
                if not is_marked:
                    unmarked[group] = reason
            if reason is not None or recovered.unknown is not None:
                rows[group] = replay.row(0)._replace(gseq=recovered.last_gseq, damaged=reason)
        return groups, rows, unmarked

    def _mark(self, replay: Replay) -> str | None:
        generation, reason = self._marks.get(replay.group, (-1, ""))
        return reason if generation == replay.generation else None

    def _condemned(self, replay: Replay, said: _Said | None) -> str | None:
        """Why the group may have lost something; None if it is whole."""
        if replay.broken is not None:
            return replay.broken
        if replay.pending or (said is not None and said.gseq > replay.gseq):
            return self._missing(replay, said)
        if replay.unknown is None and (missing := replay.missing()) is not None:
            return ", ".join((missing, *map(str, self._gaps[:3])))
        at = -1 if said is None else said.at
        for doubt in (self._gap, self._doubts.get(replay.group)):
            if doubt is not None and doubt[0] > at:
                return (
                    f"what follows record {replay.gseq} (index {replay.last[0]}) may be lost: "
                    f"{doubt[1]}"
                )
        return None

    def _missing(self, replay: Replay, said: _Said | None) -> str:
        gseq = replay.gseq + 1
        what = f"record {gseq} (behind index {replay.last[0]}) is lost"
        for loss in self._losses:
            header = loss.header
            if header is not None and (header.group, header.gseq) == (replay.group, gseq):
                if header.kind == records.RUN:
                    what = f"record {gseq} (index {header.first}) is lost"
                return f"{what}: {loss}"
        # The frame knows that it was there, and the bytes do not say which of them it was.
        unnamed = [loss for loss in (*self._losses, *self._gaps) if loss.header is None]
        places = ", ".join(map(str, unnamed[:3]))
        if places:
            return f"{what}: {places}"
        path = said.path if said is not None else next(iter(replay.pending.values()))[0]
        return f"{what}: {path} follows on it"


def shortened(reason: str) -> str:
    return reason.encode()[:REASON_BYTES_MAX].decode("utf-8", "ignore")
