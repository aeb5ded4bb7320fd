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

``commit`` and ``durable`` overtake each other: an entry can be committed by the others' disks
before it is on this one, and then it is not handed out to be applied yet (pitfall 18).
"""

from __future__ import annotations

from collections.abc import Callable

from raft.configuration import Configuration
from raft.election import Ballot, ElectionTimer, Random
from raft.leader import Leadership
from raft.log import Log
from raft.messages import NOOP, HardState, PreVote, Replica, Run, Vote
from raft.outbox import Outbox
from raft.quorum import WON
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE
from raft.settings import RaftSettings
from raft.status import PeerStatus, Status

MakeRun = Callable[[int, int, int], Run]  # (kind, term, first index) -> a run without commands


class State:
    """What one replica knows, and the changes of role; :class:`raft.core.Core` decides when."""

    __slots__ = (
        "_alone",
        "_ballot",
        "_handed_index",
        "_ignored",
        "_leadership",
        "_make_run",
        "_now",
        "_outbox",
        "_reads",
        "_reads_failed",
        "_seen",
        "_settings",
        "_stepped_ms",
        "_timer",
        "_uncommitted_bytes",
        "commit_index",
        "configuration",
        "leader",
        "log",
        "me",
        "role",
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
        now: int,
    ) -> None:
        assert log.last_term <= hard_state.term, "the log is ahead of the term on the same disk"
        self.me = me
        self.configuration = configuration
        self.log = log
        self.role: int = FOLLOWER
        self.term = hard_state.term
        self.vote = hard_state.vote
        self.leader: Replica | None = None
        # The highest index known to be committed. Not stored: a restart learns it (pitfall 19).
        self.commit_index = log.base_index
        # The last entry handed out to be applied; at most min(commit_index, durable_index).
        self._handed_index = log.base_index
        self._settings = settings
        self._make_run = make_run
        self._now = now
        self._stepped_ms = now  # when anything but a proposal was last stepped
        self._alone = configuration.is_only_voter(me)
        self._outbox = Outbox(durable_index=log.last_index)
        is_restart = hard_state.term > 0 and not self._alone
        self._timer = ElectionTimer(settings, random, now=now, is_restart=is_restart)
        if self._alone:
            self._timer.expire(now)
        self._ballot: Ballot | None = None
        self._leadership: Leadership | None = None
        self._uncommitted_bytes = 0
        self._reads: list[tuple[int, int]] = []
        self._reads_failed: list[int] = []
        self._ignored: dict[str, int] = {}  # by reason; the reasons are a fixed set
        # What the driver was last told to have changed.
        self._seen: tuple[int, int, Replica | None, bool] = (FOLLOWER, self.term, None, False)

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

    def last_run(self) -> Run | None:
        """The run that ends the log, None if the log holds none."""
        return self.log.run_containing(self.log.last_index)

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
            self._timer.forget_leader(self._now)
        if self.role == LEADER:
            assert self._leadership is not None
            self._reads_failed.extend(self._leadership.take_all_reads())
            self._leadership = None
            self._uncommitted_bytes = 0
            self._timer.restart(self._now)
        elif self.role != FOLLOWER:
            self._timer.retry(self._now)
        self.role = FOLLOWER
        self.leader = None
        self._ballot = None

    def _follow(self, leader: Replica) -> None:
        """A message of this term's leader: whatever else it says, it lives (pitfall 50)."""
        assert self.role != LEADER, f"{leader} leads term {self.term} too"
        assert self.leader is None or self.leader == leader, (
            f"{leader} and {self.leader} both lead term {self.term}"
        )
        if self.role != FOLLOWER:
            self._become_follower(self.term)
        self.leader = leader
        self._timer.heard_leader(self._now)

    def _stand_for_election(self) -> None:
        """The deadline has passed without a leader.

        Only a voter stands, and only if its disk can take its own vote; the others note that there
        is no leader, and wait on.
        """
        if self.me in self.configuration.voters and not self._disk_is_stalled():
            self._become_pre_candidate()
            return
        if self.role != FOLLOWER:
            self._become_follower(self.term)
        self.leader = None
        self._timer.restart(self._now)

    def _become_pre_candidate(self) -> None:
        """Ask whether an election could be won, and disturb nobody by asking (thesis 9.6)."""
        assert self.role != LEADER
        self.role = PRE_CANDIDATE
        self.leader = None
        self._timer.forget_leader(self._now)
        self._timer.restart(self._now)
        self._ballot = Ballot(self.configuration.voters)
        if self._ballot.record(self.me, True) == WON:
            self._become_candidate()
            return
        for voter in self._other_voters():
            self._outbox.send(
                PreVote(self.me, voter, self.term + 1, self.log.last_index, self.log.last_term)
            )

    def _become_candidate(self) -> None:
        """Paper 5.2. Nothing of the new term leaves, and the own vote does not count, before both
        are durable (pitfalls 1 and 8)."""
        assert self.role == PRE_CANDIDATE
        assert self.me in self.configuration.voters
        self.role = CANDIDATE
        self.term += 1
        self.vote = self.me
        self._outbox.record_hard_state(self.term, self.me)
        self._outbox.drop_promises()
        self._timer.restart(self._now)
        self._ballot = Ballot(self.configuration.voters)
        for voter in self._other_voters():
            self._outbox.promise_term(
                Vote(self.me, voter, self.term, self.log.last_index, self.log.last_term)
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
            now=self._now,
        )
        tail = self.log.between(self.commit_index + 1, self.log.last_index)
        self._uncommitted_bytes = sum(len(run.body) for run in tail)
        self._append_own([self._make_run(NOOP, self.term, self.next_index)])

    def _other_voters(self) -> list[Replica]:
        return [voter for voter in sorted(self.configuration.voters) if voter != self.me]

    def _disk_is_stalled(self) -> bool:
        since_ms = self._outbox.stalled_since()
        return since_ms is not None and self._now - since_ms > self._settings.election_timeout_ms

    # ------------------------------------------------------------------ log, commit, apply

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
        last = min(self.commit_index, self._outbox.durable_index)
        if last <= self._handed_index:
            return []
        runs = self.log.between(self._handed_index + 1, last)
        self._handed_index = last
        return runs
