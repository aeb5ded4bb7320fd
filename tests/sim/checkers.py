"""What must hold in a group, whatever has happened: held while the history runs, not only after it.

One :class:`GroupChecker` per group hears of everything that its replicas do, in all their lives,
and keeps what the group has decided:

* **the runs that were ever made**, by (term, first index).  A leader makes each once; who stores
  one must store the same bytes behind the same predecessor.  By induction along the log this is log
  matching (paper 5.3), at the price of one look-up per run;
* **the leader of each term** (5.2): there is one, a majority of each half of its configuration has
  voted for it in that term, and it holds what earlier terms committed (5.4);
* **the committed log**: one, for ever (5.4.3).  Who moves it on leads, ends with an entry of its
  own term (5.4.2), and a quorum of *disks* holds it at that moment, in every half of the
  configuration in force;
* **configurations**: each follows from the one before it by one legal step, so that any two
  neighbours share a quorum; in no log are two of them uncommitted (thesis 4.1, pitfall 22);
* **snapshots**: each stands for the committed log up to its index, with the configuration in force
  there (pitfall 25), and is the same file whoever made it;
* **what is on each disk** (:class:`Disk`): what a replica's finished batches hold.  A restart finds
  exactly that, and may find the batch that was under way besides, whole;
* **what each replica has promised** (:class:`Promised`), over all its lives;
* **reads**: the index of a read that is not stale reaches all that was committed when it was asked
  for; who holds a lease is not led by anybody else meanwhile;
* **digests**: at one applied index there is one state of the machine.

What holds within one life of one replica is in :mod:`raft.invariants`.  What clients were told is
held against the log at the end (:mod:`tests.sim.clients`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raft.configuration import Configuration, History
from raft.core import Core
from raft.log import Shape
from raft.messages import (
    COMMAND,
    CONFIG,
    AppendReply,
    HardState,
    Mark,
    PeerMessage,
    PreVote,
    PreVoteReply,
    Replica,
    Run,
    Save,
    SnapshotMeta,
    VoteReply,
)
from raft.quorum import majority
from raft.store.runs import open_run, read_configuration
from transport.protocol import parse_write

TAIL_RUNS = 16  # of each log that are looked at again and again


@dataclass(slots=True)
class Promised:
    """What one replica has told others, over all its lives, and may never forget."""

    term: int = 0
    votes: dict[int, Replica] = field(default_factory=dict)  # by term
    acknowledged: tuple[int, int] = (0, 0)  # (term of the acknowledgement, match)

    def note(self, message: PeerMessage) -> None:
        kind = type(message)
        if kind is PreVote or kind is PreVoteReply:
            return  # at most they make somebody's term rise, which is always safe
        if message.term > self.term:
            self.term = message.term
        if kind is AppendReply:
            assert isinstance(message, AppendReply)
            if not message.rejected:
                self.acknowledged = max(self.acknowledged, (message.term, message.match))
        elif isinstance(message, VoteReply) and message.granted:
            known = self.votes.setdefault(message.term, message.to)
            assert known == message.to, (
                f"{message.sender} voted for {known} and {message.to} in term {message.term}"
            )

    def check(self, hard_state: HardState, last_index: int) -> None:
        """What is found on the disk after a crash keeps every promise."""
        assert hard_state.term >= self.term, f"forgot term {self.term}: {hard_state}"
        vote = self.votes.get(hard_state.term)
        assert vote in (None, hard_state.vote), f"forgot its vote for {vote}: {hard_state}"
        term, match = self.acknowledged
        assert hard_state.term != term or last_index >= match, (
            f"acknowledged {match} in term {term}, has {last_index}"
        )


class Disk:
    """What the batches of one replica have made durable for certain.

    ``snapshot`` stands for the log up to its index; ``base_index`` is the entry before the first
    run that is left.
    """

    __slots__ = ("_by_last", "base_index", "hard_state", "runs", "snapshot")

    def __init__(
        self,
        hard_state: HardState | None = None,
        runs: Iterable[Run] = (),
        *,
        base_index: int = 0,
        snapshot: SnapshotMeta | None = None,
    ) -> None:
        self.hard_state = hard_state or HardState()
        self.base_index = base_index
        self.snapshot = snapshot
        self.runs: list[Run] = []
        self._by_last: dict[int, Run] = {}
        self._add(runs)

    @property
    def last_index(self) -> int:
        return self.runs[-1].last if self.runs else self.base_index

    def _add(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self.runs.append(run)
            self._by_last[run.last] = run

    def fold(self, save: Save) -> None:
        """A save has become durable."""
        if save.hard_state is not None:
            self.hard_state = save.hard_state
        if save.truncate_from is not None:
            while self.runs and self.runs[-1].first >= save.truncate_from:
                del self._by_last[self.runs.pop().last]
        if save.mark is not None:
            self._fold_mark(save.mark)
        self._add(save.runs)

    def _fold_mark(self, mark: Mark) -> None:
        left = [] if mark.resets else [run for run in self.runs if run.last > mark.base_index]
        self.base_index, self.snapshot = mark.base_index, mark.snapshot
        self.runs, self._by_last = [], {}
        self._add(left)

    def holds(self, run: Run | Shape) -> bool:
        """It, or a snapshot that stands for it."""
        known = self._by_last.get(run.last)
        if known is None:
            return self.snapshot is not None and run.last <= self.snapshot.index
        return known.term == run.term and known.crc == run.crc

    def copy(self) -> Disk:
        return Disk(self.hard_state, self.runs, base_index=self.base_index, snapshot=self.snapshot)

    def state(self) -> tuple[object, ...]:
        """What two disks that hold the same have alike."""
        rows = [(run.last, run.term, run.crc) for run in self.runs]
        return self.hard_state.term, self.hard_state.vote, self.base_index, self.snapshot, rows


def check_recovered(found: Disk, durable: Disk, under_way: Iterable[Save]) -> None:
    """What a restart finds: what was durable, with the batch that was under way or without it."""
    if found.state() == durable.state():
        return
    later = durable.copy()
    for save in under_way:
        later.fold(save)
    if found.state() == later.state():
        return
    raise AssertionError(
        f"the disk holds {found.hard_state} and {found.last_index}; durable were "
        f"{durable.hard_state} and {durable.last_index}, with the batch under way "
        f"{later.hard_state} and {later.last_index}"
    )


@dataclass(slots=True, frozen=True)
class Made:
    """A run as it was first stored, and what came before it."""

    run: Run
    previous_term: int


@dataclass(slots=True, frozen=True)
class Command:
    """One command in a log: the tag that its client gave it, where it stands, when it was made."""

    tag: str
    index: int
    time_ms: int


@dataclass(slots=True, frozen=True)
class Seen:
    """A replica as it was when it was last looked at, one turn ago."""

    commit_index: int
    led_term: int | None  # None: it did not lead
    configuration: Configuration

    @classmethod
    def of(cls, core: Core) -> Seen:
        return cls(core.commit_index, core.term if core.is_leader else None, core.configuration)


@dataclass(slots=True, frozen=True)
class Reset:
    """What an operator has asked for when a majority was lost: that this replica goes on with this
    configuration, in a term that is out of reach of the others, and with what it has durably."""

    leader: Replica
    configuration: Configuration
    term_least: int
    durable_index: int
    durable_term: int

    def is_done_by(self, core: Core) -> bool:
        return (
            core.me == self.leader
            and core.term >= self.term_least
            and core.configuration == self.configuration
        )


@dataclass(slots=True, frozen=True)
class Beginning:
    """What a group begins with that is made of another one's backup: that one's committed runs,
    in which terms they were committed, and the state that they lead to."""

    runs: list[Run]
    terms: list[int]
    digest: bytes | None


class GroupChecker:
    """``founders``: the configuration that the group begins with.

    ``configuration`` is the newest that is committed.  ``note`` says to the trace what the group
    has decided; ``on_leader`` hears of the group when a term has got its leader, ``on_reset`` when
    it has begun anew without its majority.
    """

    def __init__(
        self,
        group: int,
        founders: Configuration,
        note: Callable[[str], None] = lambda _: None,
        on_leader: Callable[[int], None] = lambda _: None,
        on_reset: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.group = group
        self.founders = founders
        self._note = note
        self._on_leader = on_leader
        self._on_reset = on_reset
        self._reset: Reset | None = None  # asked for
        self._reset_term = 0  # of the leader that has begun anew; 0: nobody has
        self._reset_index = 0  # of the configuration that it has begun with
        self.kept_index = 0  # up to which what was committed before that is kept
        self.committed_before: list[Run] = []
        self._configurations = History(founders)  # the committed ones
        self._made_configurations: dict[tuple[int, int], Configuration] = {}
        self._snapshots: dict[int, SnapshotMeta] = {}  # by index
        self._written: dict[SnapshotMeta, bytes] = {}  # files as they were when they were new
        self.made: dict[tuple[int, int], Made] = {}
        self.leaders: dict[int, Replica] = {}
        self._newest_term = 0  # that anybody has led
        self.committed: list[Run] = []
        self._committed_firsts: list[int] = []
        self._committed_in: list[int] = []  # the term in which each became committed
        self.disks: defaultdict[Replica, Disk] = defaultdict(Disk)
        self.promised: defaultdict[Replica, Promised] = defaultdict(Promised)
        self._forgotten: set[Replica] = set()  # that were left, and know nothing any more
        self._digests: dict[int, bytes] = {}
        self._applied_index = 0  # of the machine that has ever come furthest
        self.counts = dict.fromkeys(
            (
                "leaders",
                "commits",
                "configurations",
                "applied",
                "digests",
                "reads",
                "leases",
                "recovered",
                "snapshots",
                "restored",
                "chunks sent",
                "quarantined",
                "rebuilt",
                "resets",
                "runs lost",
            ),
            0,
        )

    @property
    def configuration(self) -> Configuration:
        return self._configurations.latest

    # ------------------------------------------------------------------ leaders

    def note_leader(self, core: Core, before: Configuration | None = None) -> None:
        """``core`` leads; cheap when that is known.  ``before``: what it had one turn ago."""
        known = self.leaders.get(core.term)
        if known == core.me:
            return
        assert known is None, f"{known} and {core.me} lead term {core.term}"
        missing = [
            self._missing_votes(each, core.me, core.term)
            for each in (before or core.configuration, core.configuration)
        ]
        assert not all(missing), f"{core.me.node} leads term {core.term} with {missing[-1]}"
        if self._reset is not None and self._reset.is_done_by(core):
            self._begin_anew(core)
        assert core.term >= self._reset_term, (
            f"{core.me.node} leads term {core.term}, the group was reset in {self._reset_term}"
        )
        self.leaders[core.term] = core.me
        self._newest_term = max(self._newest_term, core.term)
        self.counts["leaders"] += 1
        self._note(f"{core.me.node} leads term {core.term} of {self.group}")
        self._on_leader(self.group)
        for run, term in zip(self.committed, self._committed_in, strict=True):
            if term < core.term and run.last > core.log.base_index:
                has = core.log.term_at(run.last)
                assert has == run.term, (
                    f"{core.me.node} leads term {core.term} without entry {run.last} of term "
                    f"{run.term}, committed in term {term}; it has {has} there"
                )

    def _missing_votes(self, configuration: Configuration, leader: Replica, term: int) -> str:
        """Which half has not elected it; empty: each has.  Its own vote is on its disk."""
        for half in halves_of(configuration):
            voted = {each for each in half if self.promised[each].votes.get(term) == leader}
            own = self.disks[leader].hard_state
            if leader in half and (own.term, own.vote) == (term, leader):
                voted.add(leader)
            if len(voted) < majority(len(half)):
                names = ", ".join(sorted(each.node for each in voted))
                return f"the votes of {len(voted)} of {len(half)} voters: {names}"
        return ""

    # ------------------------------------------------------------------ a lost majority

    def expect_reset(self, reset: Reset) -> None:
        """From now on it may come to be; one that was asked for before did not."""
        self._reset = reset

    @property
    def is_reset(self) -> bool:
        """There was a majority that is lost, and it is over."""
        return self.committed_index >= self._reset_index > 0

    def _begin_anew(self, core: Core) -> None:
        """What is committed and not in this log is gone; nothing else is."""
        log, reset = core.log, self._reset
        assert reset is not None
        assert log.base_index > reset.durable_index or (
            log.term_at(reset.durable_index) == reset.durable_term
        ), f"{core.me.node} has not kept {reset.durable_index}, which it had when it was reset"
        kept = 0
        for run in self.committed:
            if run.last > log.base_index and log.term_at(run.last) != run.term:
                break
            kept += 1
        lost = self.committed[kept:]
        if self._reset_term:
            assert not lost, f"{core.me.node} has lost {lost[0].first} to a second reset"
        else:
            self.committed_before = list(self.committed)
        del self.committed[kept:], self._committed_firsts[kept:], self._committed_in[kept:]
        index = self.committed_index
        if lost:
            self._configurations.truncate_from(index + 1)
        self._made_configurations = {
            (term, first): configuration
            for (term, first), configuration in self._made_configurations.items()
            if first <= index or log.term_at(first) == term
        }
        self._digests = {at: each for at, each in self._digests.items() if at <= index}
        self._snapshots = {at: each for at, each in self._snapshots.items() if at <= index}
        self._applied_index = min(self._applied_index, index)
        self.counts["runs lost"] += len(lost)
        is_first, self._reset_term = not self._reset_term, core.term
        self._note(f"{core.me.node} resets {self.group} in term {core.term}, keeping {index}")
        if is_first:
            self.kept_index = index
            self.counts["resets"] += 1
            self._on_reset(self.group)

    def _is_of_reset(self, core: Core, run: Run, configuration: Configuration) -> bool:
        reset = self._reset
        return (
            reset is not None
            and reset.is_done_by(core)
            and run.term == self._reset_term
            and configuration == reset.configuration
        )

    # ------------------------------------------------------------------ reads

    def check_lease(self, core: Core) -> None:
        """``core`` holds a lease at this moment."""
        assert self._newest_term <= core.term, (
            f"{core.me.node} has a lease in term {core.term}, and "
            f"{self.leaders[self._newest_term].node} leads term {self._newest_term}"
        )
        self.counts["leases"] += 1

    def committed_now(self) -> tuple[int, int]:
        """What a read that is asked for now has to reach, in the term of the last reset."""
        return self._reset_term, self.committed_index

    def check_read(self, node: str, index: int, asked: tuple[int, int]) -> None:
        """A read may be served at ``index``; so much was committed when it was asked for."""
        reset_term, committed = asked
        if reset_term != self._reset_term:
            committed = min(committed, self.kept_index)
        assert index >= committed, (
            f"{node} reads at {index}, but {committed} was committed before it was asked to"
        )
        self.counts["reads"] += 1

    # ------------------------------------------------------------------ the log

    def note_stored(self, core: Core, runs: list[Run]) -> None:
        """These runs are in the log of ``core`` now."""
        for run in runs:
            key = (run.term, run.first)
            known = self.made.get(key)
            previous = core.log.term_at(run.first - 1)
            if known is None:
                assert previous is not None, f"run {key} behind an entry that is not in the log"
                self.made[key] = Made(run, previous)
                if run.kind == CONFIG:
                    self._note_configuration_made(core, run)
                continue
            other = known.run
            assert (other.last, other.crc) == (run.last, run.crc), (
                f"two runs of term {run.term} begin at {run.first}: to {other.last} with CRC "
                f"{other.crc:08x}, and to {run.last} with {run.crc:08x}"
            )
            assert previous in (None, known.previous_term), (
                f"run {key} stands behind term {previous} on {core.me.node}, "
                f"elsewhere behind {known.previous_term}"
            )
            if run.kind == CONFIG:
                self._check_uncommitted(core)

    def check_tail(self, core: Core) -> None:
        """The last runs are still what was stored: nobody changed a message that it had sent."""
        for run in core.log.tail(TAIL_RUNS):
            known = self.made.get((run.term, run.first))
            assert known is not None, f"run {run.first} of term {run.term} was never stored"
            assert (known.run.last, known.run.crc) == (run.last, run.crc), (
                f"run {run.first} of term {run.term} has changed on {core.me.node}"
            )

    # ------------------------------------------------------------------ configurations

    def _note_configuration_made(self, core: Core, run: Run) -> None:
        """A leader has put it into its log."""
        before, after = core.configuration_at(run.first - 1), read_configuration(run)
        is_reset = self._is_of_reset(core, run, after)
        if is_reset:
            self._reset_index = run.first
        assert is_reset or is_legal_step(before, after), (
            f"{core.me.node} goes from {before} to {after} at {run.first}"
        )
        if core.is_leader and not is_reset:
            assert core.can_serve, (
                f"{core.me.node} changes members at {run.first} before an entry of its term "
                f"{core.term} is committed"
            )
        self._made_configurations[run.term, run.first] = after
        self._check_uncommitted(core)
        self._note(f"{self.group} has configuration {shown(after)} at {run.first}")

    def _check_uncommitted(self, core: Core) -> None:
        committed = max(self.committed_index, core.log.base_index)
        tail = core.log.shapes(core.log.border_at_or_before(committed) + 1, core.last_index)
        # What is in force after a reset makes no difference to what was before.
        found = [run.first for run in tail if run.kind == CONFIG and run.first >= self._reset_index]
        assert len(found) <= 1, f"{core.me.node} has uncommitted configurations at {found}"

    def configurations_possible(self) -> list[Configuration]:
        """The one in force, and those that may yet come to be."""
        committed = self.committed_index
        later = [
            configuration
            for (_, first), configuration in self._made_configurations.items()
            if first > committed
        ]
        return [self.configuration, *later]

    # ------------------------------------------------------------------ commits

    @property
    def committed_index(self) -> int:
        return self.committed[-1].last if self.committed else 0

    def note_committed(self, core: Core, seen: Seen) -> None:
        """The commit index of ``core`` has moved on since it was last ``seen``."""
        before = seen.commit_index
        known_to = self.committed_index
        first = max(before, core.log.base_index) + 1
        runs = core.log.shapes(first, core.commit_index)
        position = bisect_left(self._committed_firsts, first)
        for known, run in zip(self.committed[position:], runs, strict=False):
            assert (known.first, known.last, known.term, known.crc) == (
                run.first, run.last, run.term, run.crc,
            ), (
                f"{core.me.node} takes {run.first}..{run.last} of term {run.term} for committed, "
                f"that is {known.first}..{known.last} of term {known.term}"
            )  # fmt: skip
        if core.commit_index > known_to:
            # Some may be in memory no more; whoever made them had their bodies.
            new = [
                run if isinstance(run, Run) else self.made[run.term, run.first].run
                for run in runs
                if run.first > known_to
            ]
            self._move_on(core, seen, new)

    def _move_on(self, core: Core, seen: Seen, runs: list[Run]) -> None:
        # Who commits its own removal leads no more at the end of the turn.
        term = core.term if core.is_leader else seen.led_term
        newest = runs[-1]
        assert runs[0].first == self.committed_index + 1, "the committed log has a hole"
        assert term is not None, f"{core.me.node} commits {newest.last} and does not lead"
        assert newest.term == term, (
            f"the leader of term {term} commits {newest.last}, of term {newest.term}"
        )
        # In the same turn it may have put the next configuration into its log.
        missing = [self._missing(each, newest) for each in (seen.configuration, core.configuration)]
        assert not all(missing), (
            f"{core.me.node} commits {newest.last} of term {newest.term}, which is durable "
            f"on {missing[-1]}"
        )
        for run in runs:
            self.committed.append(run)
            self._committed_firsts.append(run.first)
            self._committed_in.append(term)
            if run.kind == CONFIG:
                if run.first == self._reset_index:
                    self._reset = None
                self._configurations.append(run.first, read_configuration(run))
                self.counts["configurations"] += 1
        self.counts["commits"] += 1
        self._note(f"{self.group} has committed {newest.last} of term {newest.term}")

    def _missing(self, configuration: Configuration, run: Run) -> str:
        """Which half has no majority that holds it; empty: each has."""
        for half in halves_of(configuration):
            holders = sorted(each.node for each in half if self._is_durable(each, run))
            if len(holders) < majority(len(half)):
                return f"{len(holders)} of {len(half)} voters: {', '.join(holders)}"
        return ""

    def _is_durable(self, replica: Replica, run: Run) -> bool:
        disk = self.disks.get(replica)
        return disk is not None and disk.holds(run)

    def term_at(self, index: int) -> int | None:
        """Of a committed entry."""
        position = bisect_right(self._committed_firsts, index) - 1
        if position < 0 or self.committed[position].last < index:
            return None
        return self.committed[position].term

    def note_applied(self, node: str, runs: list[Run]) -> None:
        """Handed to a machine: committed, and the same everywhere, in all lives."""
        for run in runs:
            position = bisect_left(self._committed_firsts, run.first)
            known = self.committed[position] if position < len(self.committed) else None
            assert known is not None, f"{node} applies {run.first}, which is not committed"
            assert (known.first, known.term, known.crc) == (run.first, run.term, run.crc), (
                f"{node} applies {run.first} of term {run.term}, committed is {known.first} "
                f"of term {known.term}"
            )
        self.counts["applied"] += len(runs)

    def note_digest(self, node: str, index: int, digest: bytes | None) -> None:
        """A machine has applied so much; None: it is quarantined, and in no state to speak of."""
        self._applied_index = max(self._applied_index, index)
        if digest is None:
            return
        known = self._digests.setdefault(index, digest)
        assert known == digest, f"{node} has another state at {index}: {digest!r}, not {known!r}"
        self.counts["digests"] += 1

    def check_answered(self, tag: str, index: int) -> None:
        """A client is told that its command has been applied."""
        assert index <= self._applied_index, (
            f"{tag} was answered at {index}, and no machine has applied more than "
            f"{self._applied_index}"
        )

    def note_quarantined(self, node: str, index: int) -> None:
        self.counts["quarantined"] += 1
        self._note(f"{node} has a machine of {self.group} that fails at {index}")

    def note_rebuilt(self, node: str, index: int) -> None:
        self.counts["rebuilt"] += 1
        self._note(f"{node} has a new machine of {self.group} at {index}")

    # ------------------------------------------------------------------ snapshots

    def note_snapshot(self, node: str, meta: SnapshotMeta) -> None:
        """A replica has one that stands for its log."""
        term = self.term_at(meta.index)
        assert term == meta.term, (
            f"{node} has a snapshot at {meta.index} of term {meta.term}, committed is {term}"
        )
        configuration = self._configurations.at(meta.index)
        assert configuration == meta.configuration, (
            f"the snapshot of {node} at {meta.index} has {shown(meta.configuration)}, "
            f"in force was {shown(configuration)}"
        )
        known = self._snapshots.setdefault(meta.index, meta)
        assert known == meta, f"{node} has another snapshot at {meta.index}: {meta}, not {known}"
        self.counts["snapshots"] += 1

    def beginning_at(self, meta: SnapshotMeta) -> Beginning | None:
        """None: this is committed no more, since the group has begun anew."""
        if self.term_at(meta.index) != meta.term:
            return None
        count = bisect_right(self._committed_firsts, meta.index)
        digest = self._digests.get(meta.index)
        return Beginning(self.committed[:count], self._committed_in[:count], digest)

    def begin_with(self, beginning: Beginning, meta: SnapshotMeta, data: bytes) -> None:
        """``meta``: what the snapshot is called by in this group, ``data``: its file there."""
        self.committed = list(beginning.runs)
        self._committed_firsts = [run.first for run in beginning.runs]
        self._committed_in = list(beginning.terms)
        if beginning.digest is not None:
            self._digests[meta.index] = beginning.digest
        self._snapshots[meta.index] = meta
        self.note_written(meta, data)

    def note_written(self, meta: SnapshotMeta, data: bytes) -> None:
        """A file is there under its name: it may decay, and these are its bytes."""
        known = self._written.setdefault(meta, data)
        assert known == data, f"two files for {meta}"

    def check_sent(self, node: str, meta: SnapshotMeta, offset: int, data: bytes) -> None:
        """A piece of a snapshot leaves."""
        written = self._written[meta]
        assert written[offset : offset + len(data)] == data, (
            f"{node} sends what has decayed of the snapshot at {meta.index}, from {offset} on"
        )
        self.counts["chunks sent"] += 1

    def note_restored(self, node: str, meta: SnapshotMeta) -> None:
        """A machine has become it."""
        known = self._snapshots.get(meta.index)
        assert known == meta, f"{node} is restored to {meta}, which nobody has made"
        self.counts["restored"] += 1
        self._note(f"{node} restores {self.group} to {meta.index}")

    # ------------------------------------------------------------------ disks

    def check_durable(self, core: Core) -> None:
        """What ``core`` takes to be on its disk is there."""
        run = core.log.run_containing(core.durable_index)
        assert run is None or self.disks[core.me].holds(run), (
            f"{core.me.node} takes {core.durable_index} of term {run.term} to be durable, its disk "
            f"holds {self.disks[core.me].last_index}"
        )

    def note_sent(self, message: PeerMessage) -> None:
        """It leaves, and whatever it promises counts."""
        assert message.sender not in self._forgotten, f"{message.sender} was left, and speaks"
        self.promised[message.sender].note(message)

    def note_left(self, replica: Replica) -> None:
        """Its node takes it for no member, and will let go of what it has promised."""
        assert replica not in self.configuration.members, (
            f"{replica} is left, and is a member: {shown(self.configuration)}"
        )

    def note_forgotten(self, replica: Replica) -> None:
        """Its process has let go of it."""
        self._forgotten.add(replica)
        self.disks.pop(replica, None)

    def note_begun(self, replica: Replica, disk: Disk) -> None:
        """It begins with this, as soon as that is durable, and promises nothing before."""
        assert replica not in self._forgotten, f"{replica} was left, and begins anew"
        self.disks[replica] = disk

    def note_durable(self, replica: Replica, save: Save) -> None:
        self.disks[replica].fold(save)

    def note_recovered(self, replica: Replica, found: Disk, under_way: Iterable[Save]) -> None:
        """A restart has found this on its disk."""
        check_recovered(found, self.disks[replica], under_way)
        self.promised[replica].check(found.hard_state, found.last_index)
        self.disks[replica] = found
        self.counts["recovered"] += 1

    # ------------------------------------------------------------------ what clients were told

    def commands_committed(self) -> Iterator[Command]:
        return commands_of(self.committed)

    def commands_made(self) -> Iterator[Command]:
        """Of every run that was ever in a log, also of those that were cut off again."""
        return commands_of(each.run for each in self.made.values())


def commands_of(runs: Iterable[Run]) -> Iterator[Command]:
    for run in runs:
        body = open_run(run)
        if run.kind != COMMAND:
            continue
        for index, command in enumerate(body.commands, run.first):
            yield Command(parse_write(command[3][2:]).type, index, body.time_ms)


def halves_of(configuration: Configuration) -> tuple[frozenset[Replica], ...]:
    """Who has to agree.  Said once more here, so that a bug there is not believed here."""
    both = (configuration.voters, configuration.outgoing)
    return both if configuration.outgoing else both[:1]


def is_legal_step(before: Configuration, after: Configuration) -> bool:
    """Whether one may follow the other in a log: neighbours share a quorum."""
    if before.is_joint:
        return after == before.leave()
    if after.is_joint:
        return after.outgoing == before.voters
    return after.voters == before.voters


def shown(configuration: Configuration) -> str:
    """In short, for the trace: voters, then learners, then the old half."""
    parts = (configuration.voters, configuration.learners, configuration.outgoing)
    texts = [" ".join(f"{it.node}#{it.incarnation}" for it in sorted(part)) for part in parts]
    return f"[{texts[0]}|{texts[1]}|{texts[2]}]"


def check_log_time(runs: Iterable[Run]) -> None:
    """Log time stands still at times; it never goes back."""
    last_ms = 0
    for run in runs:
        time_ms = open_run(run).time_ms
        assert time_ms >= last_ms, f"log time goes from {last_ms} back to {time_ms} at {run.first}"
        last_ms = time_ms


def check_equal(group: int, found: dict[str, tuple[Any, ...]]) -> None:
    """At the end all replicas are alike."""
    assert len(set(found.values())) <= 1, f"replicas of group {group} differ at the end: {found}"
