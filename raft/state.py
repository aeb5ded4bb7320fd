"""What one replica of a group knows, and how its role changes.

Roles change like this; the term rises only on the way to candidate, or when a higher one is seen::

                 silence                majority of         majority of votes,
                                        pre-votes           own vote durable
    +----------+ -----> +---------------+ -----> +-----------+ -----> +--------+
    | follower |        | pre-candidate |        | candidate |        | leader |
    +----------+ <----- +---------------+ <----- +-----------+        +--------+
         ^      refused, leader heard,     (the same, or silence)          |
         |      higher term                                                |
         +--- higher term, silent majority, stalled disk, stalled process -+

Nothing here looks at a message: :mod:`raft.core` does, and decides which change it calls for. What
belongs to a role alone goes when the role goes: the ballot of a campaign, the leadership of a
leader.

Indexes, in the order in which they must stand::

    base <= handed <= min(commit, durable) <= last

(While a snapshot waits to be restored, base and commit are already its index, and what was handed
out is still behind.)

``commit`` and ``durable`` overtake each other: an entry can be committed by the others' disks
before it is on this one, and then it is not handed out to be applied yet (pitfall 18).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from raft.configuration import Configuration, History
from raft.election import Ballot, ElectionTimer, Random
from raft.errors import Contradiction
from raft.leader import Leadership
from raft.log import Log
from raft.messages import (
    CONFIG,
    NOOP,
    Decision,
    HardState,
    PreVote,
    Replica,
    Run,
    SnapshotChunk,
    SnapshotMeta,
    Vote,
)
from raft.outbox import Outbox
from raft.quorum import WON
from raft.reads import NEVER_MS, AskedReads
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE
from raft.settings import RaftSettings
from raft.status import PeerStatus, Status

# (kind, term, first index, configuration of a CONFIG run) -> a run without commands
MakeRun = Callable[[int, int, int, Configuration | None], Run]
ReadConfiguration = Callable[[Run], Configuration]


@dataclass(slots=True)
class Handover:
    """A transfer of leadership, from when it was asked for until somebody leads again."""

    token: int
    target: Replica
    deadline_ms: int
    sent_ms: int | None = None  # when TimeoutNow was last sent


@dataclass(slots=True)
class Change:
    """A change of membership that was asked for, from step to step (:mod:`raft.membership`)."""

    token: int
    voters: frozenset[Replica]
    learners: frozenset[Replica]
    origin: Configuration
    error: str | None = None  # why it is being taken back


class State:
    """What one replica knows, and the changes of role; :class:`raft.core.Core` decides when."""

    __slots__ = (
        "_alone",
        "_asked_reads",
        "_ballot",
        "_campaign",
        "_change",
        "_compactions",
        "_decisions",
        "_handed_index",
        "_handover",
        "_heard_ms",
        "_history",
        "_ignored",
        "_leadership",
        "_make_run",
        "_needed_asked_ms",
        "_needed_index",
        "_now",
        "_outbox",
        "_override",
        "_override_token",
        "_read_configuration",
        "_reads",
        "_reads_failed",
        "_received",
        "_restoring",
        "_seen",
        "_settings",
        "_started_ms",
        "_stepped_ms",
        "_take_wanted",
        "_timer",
        "_uncommitted_bytes",
        "commit_index",
        "configuration",
        "leader",
        "log",
        "me",
        "role",
        "snapshot",
        "term",
        "vote",
    )

    def __init__(
        self,
        *,
        me: Replica,
        configuration: Configuration,
        hard_state: HardState,
        log: Log,
        settings: RaftSettings,
        random: Random,
        make_run: MakeRun,
        read_configuration: ReadConfiguration,
        now: int,
        snapshot: SnapshotMeta | None = None,
    ) -> None:
        """``configuration``: what the group began with, if ``snapshot`` is None.

        ``log``, ``hard_state`` and ``snapshot`` are what the disk holds; the driver has brought the
        machine to the snapshot.
        """
        assert log.last_term <= hard_state.term, "the log is ahead of the term on the same disk"
        snapshot_index = 0 if snapshot is None else snapshot.index
        assert log.base_index <= snapshot_index <= log.last_index, (
            f"snapshot {snapshot_index}, the log has {log.first_index}..{log.last_index}"
        )
        self.me = me
        self.log = log
        self.snapshot = snapshot  # the newest; it stands for the log up to its index
        self._read_configuration = read_configuration
        if snapshot is None:
            self._history = History(configuration)
        else:
            self._history = History(snapshot.configuration, snapshot.index)
        for run in log.between(snapshot_index + 1, log.last_index):
            if run.kind == CONFIG:
                self._history.append(run.first, read_configuration(run))
        # What is in force: the latest of the log, committed or not (paper 6).
        self.configuration = self._history.latest
        # By ResetPeers, until it is in the log, and who waits for that.
        self._override: Configuration | None = None
        self._override_token = 0
        self.role: int = FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader: Replica | None = None
        # The highest index known to be committed. Not stored: a restart learns it (pitfall 19).
        self.commit_index = snapshot_index
        # The last entry handed out to be applied; at most min(commit_index, durable_index).
        self._handed_index = snapshot_index
        # Installed, and not handed out to be restored yet.
        self._restoring: SnapshotMeta | None = None
        # (save, index) of marks: once the save is durable the log up to the index may go.
        self._compactions: list[tuple[int, int]] = []
        self._received: list[SnapshotChunk] = []
        # Of the least snapshot that helps a lost machine, 0: it is well (:mod:`raft.rebuild`); and
        # whether another one waits for a newer snapshot than this leader has.
        self._needed_index = 0
        self._needed_asked_ms: int | None = None
        self._take_wanted = False
        self._settings = settings
        self._make_run = make_run
        self._now = now
        self._started_ms = now
        self._stepped_ms = now  # when anything but a proposal was last stepped
        self._heard_ms: int | None = None  # when a leader of this term was last heard
        self._alone = self.configuration.is_only_voter(me)
        self._outbox = Outbox(durable_index=log.last_index)
        # Nobody else can have led: not before, and no configuration is under way that says so.
        led_alone = self._alone and self._history.latest_index <= snapshot_index
        is_restart = hard_state.term > 0 and not led_alone
        self._timer = ElectionTimer(settings, random, now=now, is_restart=is_restart)
        if led_alone:
            self._timer.expire(now)
        self._ballot: Ballot | None = None
        # The number of its last attempt to be elected. An answer to one of an earlier life must not
        # count in this one: attempts are rarer than milliseconds, and time goes on.
        self._campaign = now
        self._leadership: Leadership | None = None
        self._uncommitted_bytes = 0
        self._reads: list[tuple[int, int]] = []
        self._reads_failed: list[int] = []
        self._asked_reads = AskedReads(settings.reads_pending_max)
        self._decisions: list[Decision] = []
        self._handover: Handover | None = None
        self._change: Change | None = None
        self._ignored: dict[str, int] = {}  # by reason; the reasons are a fixed set
        # What the driver was last told to have changed.
        self._seen: tuple[int, int, Replica | None, bool, Configuration] = (
            FOLLOWER,
            self.term,
            None,
            False,
            self.configuration,
        )

    # ------------------------------------------------------------------ looking inside

    @property
    def is_leader(self) -> bool:
        return self.role == LEADER

    @property
    def can_serve(self) -> bool:
        """Leader with a committed entry of its own term: it knows all commits (pitfall 29)."""
        leadership = self._leadership
        return leadership is not None and self.commit_index >= leadership.noop_index

    @property
    def configuration_index(self) -> int:
        """The entry that brought the configuration; 0: the group began with it."""
        return self._history.latest_index

    @property
    def may_stand(self) -> bool:
        """Who votes; and until its removal is known to be committed also who does not vote any
        more: the entry that removes it may be on no voter yet, and then only it can be elected, by
        votes that are not its own (thesis 4.2.2).

        Every configuration before the latest was committed when the latest was appended, so the one
        before is the only other that counts, also after a restart, which forgets what is committed.
        """
        if self.configuration.votes(self.me):
            return True
        latest_index = self._history.latest_index
        return (
            self._override is None
            and latest_index > self.commit_index
            and self._history.at(latest_index - 1).votes(self.me)
        )

    @property
    def committed_configuration(self) -> Configuration:
        return self._history.at(self.commit_index)

    def configuration_at(self, index: int) -> Configuration:
        """What is in force at an index of the log, not before the newest snapshot: what a snapshot
        of that index has to carry."""
        return self._history.at(index)

    @property
    def is_changing(self) -> bool:
        """A change of membership is under way, or the last one is not known to be committed."""
        return (
            self._change is not None
            or self.configuration.is_joint
            or self._history.latest_index > self.commit_index
        )

    @property
    def is_transferring(self) -> bool:
        """A leader that hands over takes no proposals until that has succeeded or failed."""
        return self.role == LEADER and self._handover is not None

    @property
    def lease_until_ms(self) -> int:
        """Before that moment nobody else can lead; 0: that cannot be said."""
        leadership = self._leadership
        if leadership is None or not self._settings.lease_reads or not self.can_serve:
            return 0
        return NEVER_MS if self._alone else leadership.lease.until_ms

    @property
    def snapshots_in_use(self) -> list[SnapshotMeta]:
        """Those that travel to somebody: their files are needed."""
        return [] if self._leadership is None else self._leadership.snapshots_in_use()

    @property
    def restoring(self) -> SnapshotMeta | None:
        """A snapshot that was installed and is not handed out yet."""
        return self._restoring

    @property
    def first_index(self) -> int:
        return self.log.first_index

    @property
    def last_index(self) -> int:
        return self.log.last_index

    @property
    def last_term(self) -> int:
        return self.log.last_term

    @property
    def next_index(self) -> int:
        return self.log.last_index + 1

    @property
    def durable_index(self) -> int:
        return self._outbox.durable_index

    @property
    def handed_index(self) -> int:
        return self._handed_index

    @property
    def uncommitted_bytes(self) -> int:
        """Bodies appended and not committed, on a leader; 0 elsewhere."""
        return self._uncommitted_bytes

    @property
    def holds(self) -> tuple[bool, bool]:
        """Whether there is a ballot, and a leadership: each belongs to some roles alone."""
        return (self._ballot is not None, self._leadership is not None)

    @property
    def settings(self) -> RaftSettings:
        return self._settings

    def release_log(self, bytes_max: int) -> None:
        """Let go of bodies in memory, down to so many bytes, of what was handed out: it is on the
        disk."""
        self.log.release(self._handed_index, bytes_max)

    def last_run(self) -> Run | None:
        """The run that ends the log, None if the log holds none."""
        return self.log.last_run

    def progress(self) -> list[PeerStatus]:
        """What a leader knows of the others; empty elsewhere."""
        if self._leadership is None:
            return []
        return [PeerStatus.of(peer) for peer in self._leadership.progress.values()]

    def status(self) -> Status:
        leadership = self._leadership
        return Status(
            me=self.me,
            role=self.role,
            term=self.term,
            vote=self.vote,
            leader=self.leader,
            can_serve=self.can_serve,
            first_index=self.log.first_index,
            last_index=self.log.last_index,
            last_term=self.log.last_term,
            durable_index=self.durable_index,
            commit_index=self.commit_index,
            handed_index=self._handed_index,
            uncommitted_bytes=self._uncommitted_bytes,
            held_count=self._outbox.held_count,
            reads_pending_count=0 if leadership is None else leadership.reads_pending_count,
            ignored=dict(self._ignored),
            peers=tuple(self.progress()),
            configuration=self.configuration,
            configuration_index=self._history.latest_index,
            snapshot_index=0 if self.snapshot is None else self.snapshot.index,
        )

    # ------------------------------------------------------------------ changes of role

    def _become_follower(self, term: int) -> None:
        """Of a leader that is to be learned. The vote stays unless the term rises (pitfall 2)."""
        assert term >= self.term, f"term would fall from {self.term} to {term}"
        if term > self.term:
            self.term = term
            self.vote = None
            self._outbox.record_hard_state(term, None)
            self._outbox.drop_promises()
            self._heard_ms = None
        if self.role == LEADER:
            self._lose_leadership()
            self._timer.restart(self._now)
        elif self.role != FOLLOWER:
            self._timer.retry(self._now)
        self.role = FOLLOWER
        self._ballot = None
        self._lose_leader()

    def _lose_leader(self) -> None:
        """Nobody is followed any more: what was asked of the leader is not answered."""
        self.leader = None
        self._needed_asked_ms = None  # the next one is asked at once
        self._reads_failed.extend(self._asked_reads.take_all())

    def _lose_leadership(self) -> None:
        leadership = self._leadership
        assert leadership is not None
        # Who asked for others finds out by itself: this answer would carry a term that is over.
        failed = [read.token for read in leadership.take_all_reads() if read.asker is None]
        self._reads_failed.extend(failed)
        if self._change is not None:
            error = self._change.error or "leadership was lost while it was under way"
            self._decide(self._change.token, error, unknown=True)
            self._change = None
        self._leadership = None
        self._uncommitted_bytes = 0

    def _ignore(self, reason: str) -> bool:
        self._ignored[reason] = self._ignored.get(reason, 0) + 1
        return False

    def _decide(self, token: int, error: str | None = None, *, unknown: bool = False) -> None:
        index = self._history.latest_index
        self._decisions.append(Decision(token, error, index, unknown))

    def _follow(self, leader: Replica) -> None:
        """A message of this term's leader: whatever else it says, it lives (pitfall 50)."""
        if self.role == LEADER:
            raise Contradiction(f"{leader} leads term {self.term} too")
        if self.leader not in (None, leader):
            raise Contradiction(f"{leader} and {self.leader} both lead term {self.term}")
        if self.role != FOLLOWER:
            self._become_follower(self.term)
        if self.leader is None:
            self.leader = leader
            self._end_handover(leader)
            if self._override is not None:
                self._override = None
                self._decide(self._override_token, f"{leader} leads: the majority is not lost")
                self._configuration_changed()
        self._heard_ms = self._now
        self._timer.heard_leader(self._now)

    def _end_handover(self, leader: Replica | None) -> None:
        """Somebody leads, or nobody came to within the time: tell who asked for the transfer."""
        handover = self._handover
        if handover is None:
            return
        self._handover = None
        if leader == handover.target:
            self._decide(handover.token)
        elif handover.sent_ms is None:
            self._decide(handover.token, "the target did not catch up in time")
        elif leader is None or leader == self.me:
            self._decide(handover.token, "the target did not take over in time", unknown=True)
        else:
            self._decide(handover.token, f"{leader} took over instead")

    def _stand_for_election(self) -> None:
        """The deadline has passed without a leader.

        Only who may stands, and only if its disk can take its own vote; the others note that there
        is no leader, and wait on.
        """
        if self.may_stand and not self._disk_is_stalled():
            self._become_pre_candidate()
            return
        if self.role != FOLLOWER:
            self._become_follower(self.term)
        self._lose_leader()
        self._timer.restart(self._now)

    def _become_pre_candidate(self) -> None:
        """Ask whether an election could be won, and disturb nobody by asking (thesis 9.6)."""
        assert self.role != LEADER
        self.role = PRE_CANDIDATE
        self._lose_leader()
        self._timer.stand(self._now)
        self._ballot = Ballot(self.configuration.halves)
        self._campaign += 1
        if self._ballot.record(self.me, True) == WON:
            self._become_candidate()
            return
        log, campaign = self.log, self._campaign
        for voter in self._other_voters():
            self._outbox.send(
                PreVote(self.me, voter, self.term + 1, log.last_index, log.last_term, campaign)
            )

    def _become_candidate(self, *, transfer: bool = False) -> None:
        """Paper 5.2. Nothing of the new term leaves, and the own vote does not count, before both
        are durable (pitfalls 1 and 8). ``transfer``: the leader wants it so (pitfall 6)."""
        assert self.role == PRE_CANDIDATE or transfer
        assert self.may_stand
        self.role = CANDIDATE
        self._lose_leader()
        self._heard_ms = None
        self.term += 1
        self.vote = self.me
        self._outbox.record_hard_state(self.term, self.me)
        self._outbox.drop_promises()
        self._timer.restart(self._now)
        self._ballot = Ballot(self.configuration.halves)
        for voter in self._other_voters():
            self._outbox.promise_term(
                Vote(self.me, voter, self.term, self.log.last_index, self.log.last_term, transfer)
            )

    def _become_leader(self) -> None:
        """Start with an entry of the new term: only such a one commits what is before it
        (5.4.2)."""
        assert self.role == CANDIDATE
        assert self._outbox.term_is_durable
        self.role = LEADER
        self.leader = self.me
        self._ballot = None
        self._leadership = Leadership(
            me=self.me,
            term=self.term,
            configuration=self.configuration,
            log=self.log,
            outbox=self._outbox,
            settings=self._settings,
            snapshot=self.snapshot,
            now=self._now,
        )
        self._end_handover(self.me)
        tail = self.log.between(self.commit_index + 1, self.log.last_index)
        self._uncommitted_bytes = sum(len(run.body) for run in tail)
        self._append_own([self._make_run(NOOP, self.term, self.next_index, None)])
        if self._override is not None:
            configuration, self._override = self._override, None
            self._append_configuration(configuration)
            # Done when it is committed, like any other change.
            self._change = Change(
                self._override_token, configuration.voters, frozenset(), origin=configuration
            )

    def _other_voters(self) -> list[Replica]:
        configuration = self.configuration
        return [
            voter
            for voter in sorted(configuration.voters | configuration.outgoing)
            if voter != self.me
        ]

    def _disk_is_stalled(self) -> bool:
        since_ms = self._outbox.stalled_since()
        return since_ms is not None and self._now - since_ms > self._settings.election_timeout_ms

    # ------------------------------------------------------------------ log, commit, apply

    def _append_configuration(self, configuration: Configuration) -> None:
        """It is in force from now on, on this replica as on those that get the entry (paper 6)."""
        run = self._make_run(CONFIG, self.term, self.next_index, configuration)
        assert run.count == 1
        self._append_own([run])
        self._history.append(run.first, configuration)
        self._configuration_changed()

    def _configuration_changed(self) -> None:
        self.configuration = self._override or self._history.latest
        self._alone = self.configuration.is_only_voter(self.me)
        if self._leadership is not None:
            self._leadership.reconfigure(self.configuration, self._history.latest_index, self._now)

    def _append_own(self, runs: list[Run]) -> None:
        self.log.append(runs)
        self._outbox.record_runs(runs)
        self._uncommitted_bytes += sum(len(run.body) for run in runs)

    def _raise_commit(self, index: int) -> None:
        """The commit index never falls, and never lies beyond the log or inside a run."""
        if index <= self.commit_index:
            return
        assert index <= self.log.last_index, f"commit {index} beyond {self.log.last_index}"
        if self._leadership is not None:
            for run in self.log.between(self.commit_index + 1, index):
                self._uncommitted_bytes -= len(run.body)
            assert self._uncommitted_bytes >= 0
        self.commit_index = index

    def _take_committed(self) -> list[Run]:
        """What is committed, durable here, and was not handed out before (pitfall 18)."""
        if self._restoring is not None:
            return []
        last = min(self.commit_index, self._outbox.durable_index)
        if last <= self._handed_index:
            return []
        runs = self.log.between(self._handed_index + 1, last)
        self._handed_index = last
        return runs
