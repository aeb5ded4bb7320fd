"""The records of one group, applied in the order of their gseq, never of their position.

So a record that was copied forward may come late or twice, and one that is lost leaves a hole.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raft.messages import KINDS, HardState, Run
from raft.store import records
from raft.store.errors import UnknownFormat, WalDamaged
from raft.store.records import Header, Record


@dataclass(slots=True)
class RecoveredGroup:
    """All that the WAL knows of one group.  ``damaged``: the reason, if it was so marked."""

    group: int
    generation: int
    bootstrap: bytes | None
    hard_state: HardState
    runs: list[Run]
    last_gseq: int
    damaged: str | None = None


@dataclass(slots=True)
class Replay:
    """One group under one generation, its records applied up to ``gseq``."""

    group: int
    generation: int
    gseq: int = 0
    bootstrap: bytes | None = None
    hard_state: HardState = field(default_factory=HardState)
    runs: list[Run] = field(default_factory=list)
    damaged: str | None = None
    pending: dict[int, tuple[str, Record]] = field(default_factory=dict)

    def add(self, path: str, record: Record) -> None:
        gseq = record.header.gseq
        if gseq <= self.gseq:
            return  # a copy, written forward, of what came before
        if gseq != self.gseq + 1:
            self.pending[gseq] = (path, record)
            return
        self._apply(path, record)
        while self.pending:
            following = self.pending.pop(self.gseq + 1, None)
            if following is None:
                return
            self._apply(*following)

    def _apply(self, path: str, record: Record) -> None:
        header = record.header
        try:
            if (header.gseq == 1) != (header.kind == records.BOOTSTRAP):
                raise ValueError("a group begins with its bootstrap record, and only there")
            _APPLY[header.kind](self, header, record.body)
        except UnknownFormat as error:
            raise UnknownFormat(path, f"group {self.group}: {error.file}", record.offset) from error
        except ValueError as error:
            raise WalDamaged(path, record.offset, (self.group,), str(error)) from error
        self.gseq = header.gseq

    def _on_bootstrap(self, header: Header, body: bytes) -> None:
        self.bootstrap = body

    def _on_hard_state(self, header: Header, body: bytes) -> None:
        state = records.decode_hard_state(body)
        if state.term < self.hard_state.term:
            raise ValueError(f"term {state.term} after term {self.hard_state.term}")
        self.hard_state = state

    def _on_run(self, header: Header, body: bytes) -> None:
        if header.run_kind not in KINDS:
            raise UnknownFormat(f"run of unknown kind {header.run_kind}", "")
        last = self.runs[-1].last if self.runs else 0
        if header.first != last + 1 or header.entries < 1:
            raise ValueError(f"run of {header.entries} from {header.first} behind index {last}")
        self.runs.append(
            Run(header.run_kind, header.term, header.first, header.entries, body, header.body_crc)
        )

    def _on_truncate(self, header: Header, body: bytes) -> None:
        runs = self.runs
        while runs and runs[-1].first >= header.first:
            runs.pop()
        last = runs[-1].last if runs else 0
        if last != header.first - 1:
            raise ValueError(f"truncation from {header.first} is on no border, last is {last}")

    def _on_damaged(self, header: Header, body: bytes) -> None:
        self.damaged = body.decode("utf-8", "replace")

    def result(self) -> RecoveredGroup:
        return RecoveredGroup(
            self.group,
            self.generation,
            self.bootstrap,
            self.hard_state,
            self.runs,
            self.gseq,
            self.damaged,
        )


_APPLY = {
    records.BOOTSTRAP: Replay._on_bootstrap,
    records.HARD_STATE: Replay._on_hard_state,
    records.RUN: Replay._on_run,
    records.TRUNCATE: Replay._on_truncate,
    records.DAMAGED: Replay._on_damaged,
}
assert frozenset(_APPLY) == records.GROUP_KINDS
