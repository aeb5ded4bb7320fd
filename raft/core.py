"""One replica of one group: Raft as a function of messages.

One door in, one door out::

    core.step(message, now) a peer's message, a proposal, news from the disk, or that time has
    passed core.take_output() what is to be done now, or None core.next_deadline() when to step
    Tick() at the latest

An :class:`~raft.messages.Output` is carried out field by field. What happens if the process dies
between two of them:

1. ``messages`` may always leave at once: whatever promises something that is not durable is still
   held back (:mod:`raft.outbox`). Lost messages are sent again.
2. ``save`` goes to the WAL; when it is durable, step :class:`~raft.messages.Persisted`. Nobody has
   been told of what is lost here.
3. ``apply`` is committed *and* on this disk, each run once, in order. A restart begins anew from
   the start of the log (or what the machine has of its own).
4. ``reads``     may be served once everything up to their index is applied (pitfall 31).

How a message is treated depends on the role: ``HANDLERS`` has a table for each, ``IGNORED`` names,
with the reason, each pair that is left out; together they cover everything. Before the table,
``_admit`` applies the rules that hold in every role: whose message counts, and what a term that is
not ours means.

Roles change like this; the term rises only on the way to candidate, or when a higher one is seen::

                 silence                majority of         majority of votes,
                                        pre-votes           own vote durable
    +----------+ -----> +---------------+ -----> +-----------+ -----> +--------+
    | follower |        | pre-candidate |        | candidate |        | leader |
    +----------+ <----- +---------------+ <----- +-----------+        +--------+
         ^      refused, leader heard,     (the same, or silence)          |
         |      higher term                                                |
         +--- higher term, silent majority, stalled disk, stalled process -+

A leader that has stood still for an election timeout (a stopped process, a suspended machine) does
not know whether it still leads: it steps down before it processes anything (pitfalls 33 and 35).
One whose disk has not finished a save for so long steps down too (pitfall 48). A group with one
voter is spared both, there is nobody who could have taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from raft.configuration import Configuration
from raft.election import Ballot, ElectionTimer, Random
from raft.leader import Leadership
from raft.log import Log
from raft.messages import (
    NOOP,
    PEER_MESSAGES,
    Append,
    AppendReply,
    HardState,
    Heartbeat,
    HeartbeatReply,
    LinkClosed,
    Message,
    Output,
    PeerMessage,
    Persisted,
    PreVote,
    PreVoteReply,
    Propose,
    Read,
    Replica,
    Run,
    Tick,
    Vote,
    VoteReply,
)
from raft.outbox import Outbox
from raft.quorum import LOST, WON
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, ROLE_NAMES
from raft.settings import RaftSettings
from raft.status import PeerStatus, Status

Handler = Callable[["Core", Any], None]
MakeRun = Callable[[int, int, int], Run]  # (kind, term, first index) -> a run without commands

_PEER_KINDS: Final[frozenset[type]] = frozenset(PEER_MESSAGES)
# Requests are heeded from whoever sends them: a replica that lags behind may not know yet that the
# sender has become a member (thesis 4.2.2), and it is the sender who counts. Answers are counted
# here, so they count from members only (pitfall 21).
_ANSWERS: Final[frozenset[type]] = frozenset((PreVoteReply, VoteReply, AppendReply, HeartbeatReply))


class Core:
    """The consensus state of one replica. Not thread-safe; knows neither disk, clock nor
    network."""

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
        # The highest index known to be committed. Not stored: a restart learns it again (pitfall
        # 19).
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

    # ------------------------------------------------------------------ the doors

    def step(self, message: Message, now: int) -> None:
        """Take one message in. ``now``: milliseconds of a monotonic clock."""
        assert now >= self._now, f"time went back from {self._now} to {now}"
        kind = type(message)
        # A proposal was built for a leader, so it is appended by one; whether it is one still, the
        # next message will tell.
        if kind is not Propose:
            if self.role == LEADER:
                self._maybe_step_down_stalled(now)
            self._stepped_ms = now
        self._now = now
        if kind in _PEER_KINDS and not self._admit(cast(PeerMessage, message)):
            return
        handler = HANDLERS[self.role].get(kind)
        if handler is None:
            self._ignore(IGNORED[self.role, kind])
            return
        handler(self, message)

    def take_output(self) -> Output | None:
        """What is to be done now. Each thing is given out once."""
        if self._leadership is not None:
            self._leadership.flush(self.commit_index, self._now)
            self._reads.extend(self._leadership.take_safe_reads(self.commit_index))
        outbox = self._outbox
        messages, outbox.messages = outbox.messages, []
        save = outbox.take_save(self._now)
        apply = self._take_committed()
        seen = (self.role, self.term, self.leader, self.can_serve)
        changed = seen != self._seen
        reads, failed = self._reads, self._reads_failed
        if not (messages or save or apply or reads or failed or changed):
            return None
        self._seen = seen
        self._reads, self._reads_failed = [], []
        return Output(messages, save, apply, reads, failed, changed)

    def next_deadline(self) -> int:
        """When to step Tick() at the latest; a moment in the past means now."""
        if self._leadership is not None:
            return self._leadership.next_deadline_ms
        return self._timer.deadline_ms

    # ------------------------------------------------------------------ looking inside

    @property
    def is_leader(self) -> bool:
        return self.role == LEADER

    @property
    def can_serve(self) -> bool:
        """Leader, and knows all that was ever committed: an entry of its own term is (pitfall
        29)."""
        leadership = self._leadership
        return leadership is not None and self.commit_index >= leadership.noop_index

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
    def settings(self) -> RaftSettings:
        return self._settings

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

    # ------------------------------------------------------------------ rules for every role

    def _admit(self, message: PeerMessage) -> bool:
        """Whether a peer's message is for us, counts, and belongs to the present term."""
        if message.to != self.me:
            return self._ignore("addressed to another replica")
        kind = type(message)
        if kind in _ANSWERS and message.sender not in self.configuration:
            return self._ignore("answer of a replica that is no member")
        if message.term == self.term or kind is PreVote:
            return True
        if message.term > self.term:
            return self._admit_newer_term(message)
        answer = OLDER_TERM.get(kind)
        if answer is None:
            return self._ignore("answer of an older term")
        return answer(self, message)

    def _admit_newer_term(self, message: PeerMessage) -> bool:
        """Whoever is behind catches up (paper 5.1), except where that would let a stranger
        depose."""
        if type(message) is PreVoteReply and message.granted:
            return True  # carries the term of the campaign, which nobody is in yet
        if type(message) is Vote and not message.transfer and not self._may_vote():
            # Not even an answer: it would have to carry a term (pitfall 7, thesis 4.2.3).
            return self._ignore("vote asked for while the leader is alive")
        self._become_follower(message.term)
        return True

    def _answer_older_append(self, message: Append | Heartbeat) -> bool:
        """Tell a leader of an older term that it is one. It may be a good leader to which this
        replica, stuck at a higher term, would otherwise never listen (pitfall 7)."""
        if type(message) is Append:
            self._outbox.promise_term(
                AppendReply(
                    self.me, message.sender, self.term, message.prev_index, True, self.commit_index
                )
            )
        else:
            assert type(message) is Heartbeat
            self._outbox.promise_term(
                HeartbeatReply(self.me, message.sender, self.term, message.round)
            )
        return False

    def _refuse_older_vote(self, message: Vote) -> bool:
        self._outbox.promise_term(VoteReply(self.me, message.sender, self.term, False))
        return False

    def _pass_older_pre_vote_reply(self, message: PreVoteReply) -> bool:
        """A refusal carries the term of who refuses, and that may be behind ours."""
        return not message.granted or self._ignore("answer of an older term")

    def _may_vote(self) -> bool:
        return self.role != LEADER and self._timer.may_vote(self._now)

    def _is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """Paper 5.4.1: the term decides, then the length (pitfall 4)."""
        return (last_term, last_index) >= (self.log.last_term, self.log.last_index)

    def _ignore(self, reason: str) -> bool:
        self._ignored[reason] = self._ignored.get(reason, 0) + 1
        return False

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

    # ------------------------------------------------------------------ followers

    def _on_append(self, message: Append) -> None:
        """Paper 5.3, receiver of AppendEntries; the steps are numbered there as here."""
        self._follow(message.sender)
        log = self.log
        if not _is_contiguous(message):
            self._ignore("append with a gap")
            return
        # 2. Whatever is committed is equal everywhere, and may be gone from this log (pitfall 15).
        known_term = log.term_at(message.prev_index)
        if known_term != message.prev_term:
            if message.prev_index > self.commit_index:
                self._reject_append(message)
                return
            assert known_term is None, (
                f"entry {message.prev_index} is committed here with term {known_term}, "
                f"{message.sender} has it with term {message.prev_term}"
            )
        verified = message.runs[-1].last if message.runs else message.prev_index
        # 3. and 4.
        self._store_missing(message.runs)
        # 5. Only what this message has verified (pitfall 16).
        self._raise_commit(min(message.commit, verified))
        self._outbox.promise_all(
            AppendReply(self.me, message.sender, self.term, max(verified, self.commit_index))
        )

    def _reject_append(self, message: Append) -> None:
        index, term = self.log.agreement(message.prev_index, message.prev_term)
        self._outbox.promise_term(
            AppendReply(
                self.me,
                message.sender,
                self.term,
                message.prev_index,
                rejected=True,
                hint_index=index,
                hint_term=term,
            )
        )

    def _store_missing(self, runs: list[Run]) -> None:
        """Skip what is here, cut at the first real conflict and only there (pitfall 14), add the
        rest.

        A short or late append finds everything in place and changes nothing.
        """
        log = self.log
        for position, run in enumerate(runs):
            if run.last <= self.commit_index or run.last <= log.base_index:
                continue
            if log.term_at(run.last) == run.term:
                continue
            if run.first <= log.last_index:
                assert run.first > self.commit_index, (
                    f"conflict at {run.first}, at or below commit index {self.commit_index}"
                )
                log.truncate_from(run.first)
                self._outbox.record_truncation(run.first)
            missing = runs[position:]
            log.append(missing)
            self._outbox.record_runs(missing)
            return

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._follow(message.sender)
        assert message.commit <= self.log.last_index, (
            f"{message.sender} knows {message.commit} to be here, "
            f"the log ends at {self.log.last_index}"
        )
        self._raise_commit(message.commit)
        self._outbox.promise_term(HeartbeatReply(self.me, message.sender, self.term, message.round))

    def _on_link_closed(self, message: LinkClosed) -> None:
        """The leader's node has reset the connection, as a killed process does."""
        if self.leader is not None and self.leader.node == message.node:
            self._timer.lost_leader(self._now)

    def _on_deadline(self, _: Tick) -> None:
        if self._now >= self._timer.deadline_ms:
            self._stand_for_election()

    def _on_persisted(self, message: Persisted) -> None:
        self._outbox.on_persisted(message)

    def _on_stray_proposal(self, message: Propose) -> None:
        raise AssertionError(f"proposal of {len(message.runs)} runs to a {ROLE_NAMES[self.role]}")

    def _refuse_read(self, message: Read) -> None:
        self._reads_failed.append(message.token)

    # ------------------------------------------------------------------ elections

    def _on_pre_vote(self, message: PreVote) -> None:
        """Would get the vote? Asked and answered without any change here (pitfall 5)."""
        granted = (
            message.term > self.term
            and self._may_vote()
            and self._is_up_to_date(message.last_term, message.last_index)
        )
        self._outbox.send(
            PreVoteReply(self.me, message.sender, message.term if granted else self.term, granted)
        )

    def _on_vote(self, message: Vote) -> None:
        """One vote per term, first come first served, to a log that is no worse (paper 5.2,
        5.4.1)."""
        granted = (
            self.vote in (None, message.sender)
            and self.leader is None
            and (message.transfer or self._timer.may_vote(self._now))
            and self._is_up_to_date(message.last_term, message.last_index)
        )
        if granted:
            if self.vote is None:
                self.vote = message.sender
                self._outbox.record_hard_state(self.term, self.vote)
            self._timer.restart(self._now)
        self._outbox.promise_term(VoteReply(self.me, message.sender, self.term, granted))

    def _on_pre_vote_reply(self, message: PreVoteReply) -> None:
        assert self._ballot is not None
        if message.granted and message.term != self.term + 1:
            self._ignore("answer to another campaign")  # pitfall 3
            return
        result = self._count(message.sender, message.granted)
        if result == WON:
            self._become_candidate()
        elif result == LOST:
            self._become_follower(self.term)

    def _on_vote_reply(self, message: VoteReply) -> None:
        result = self._count(message.sender, message.granted)
        if result == WON:
            self._become_leader()
        elif result == LOST:
            self._become_follower(self.term)

    def _count(self, sender: Replica, granted: bool) -> int:
        """A refusal hastens the next attempt, whether or not this one can still succeed."""
        assert self._ballot is not None
        if not granted:
            self._timer.hurry(self._now)
        return self._ballot.record(sender, granted)

    def _on_persisted_candidate(self, message: Persisted) -> None:
        self._outbox.on_persisted(message)
        if self._outbox.term_is_durable and self._count(self.me, True) == WON:
            self._become_leader()

    # ------------------------------------------------------------------ leaders

    def _on_propose(self, message: Propose) -> None:
        assert message.runs, "nothing is proposed"
        for run in message.runs:
            assert run.term == self.term, f"run of term {run.term} proposed in term {self.term}"
        self._append_own(message.runs)

    def _append_own(self, runs: list[Run]) -> None:
        self.log.append(runs)
        self._outbox.record_runs(runs)
        self._uncommitted_bytes += sum(len(run.body) for run in runs)

    def _on_append_reply(self, message: AppendReply) -> None:
        assert self._leadership is not None
        if self._leadership.on_append_reply(message, self._now):
            self._maybe_commit()

    def _on_heartbeat_reply(self, message: HeartbeatReply) -> None:
        assert self._leadership is not None
        self._leadership.on_heartbeat_reply(message, self.commit_index, self._now)

    def _on_persisted_leader(self, message: Persisted) -> None:
        """The leader's own disk counts like everybody else's (pitfall 12)."""
        if self._outbox.on_persisted(message):
            self._maybe_commit()

    def _maybe_commit(self) -> None:
        """Count replicas for entries of this term only; those before come along (5.4.2, pitfall
        11)."""
        leadership = self._leadership
        assert leadership is not None
        index = leadership.quorum_match(self.durable_index)
        if index > self.commit_index and index >= leadership.noop_index:
            self._raise_commit(index)
        leadership.note_commit(self._now)

    def _on_read(self, message: Read) -> None:
        assert self._leadership is not None
        if not self._leadership.maybe_add_read(message.token, self.commit_index):
            self._reads_failed.append(message.token)

    def _on_link_closed_leader(self, message: LinkClosed) -> None:
        assert self._leadership is not None
        self._leadership.on_link_closed(message.node)

    def _on_tick_leader(self, _: Tick) -> None:
        leadership = self._leadership
        assert leadership is not None
        if not self._alone:
            silent_ms = self._now - leadership.quorum_heard_ms(self._now)
            if silent_ms >= self._settings.election_timeout_ms or self._disk_is_stalled():
                self._become_follower(self.term)
                return
        leadership.on_time(self.commit_index, self._now)

    def _maybe_step_down_stalled(self, now: int) -> None:
        if self._alone or now - self._stepped_ms <= self._settings.election_timeout_ms:
            return
        self._now = now
        self._become_follower(self.term)

    def _disk_is_stalled(self) -> bool:
        since_ms = self._outbox.stalled_since()
        return since_ms is not None and self._now - since_ms > self._settings.election_timeout_ms

    # ------------------------------------------------------------------ commit and apply

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


def _is_contiguous(message: Append) -> bool:
    """Runs directly behind the predecessor, in terms that do not fall."""
    index, term = message.prev_index, message.prev_term
    for run in message.runs:
        if run.first != index + 1 or run.count < 1 or not term <= run.term <= message.term:
            return False
        index, term = run.first + run.count - 1, run.term
    return True


# What a message of an older term gets; a kind that is missing is ignored. True: to be handled as
# usual.
OLDER_TERM: Final[dict[type, Callable[[Core, Any], bool]]] = {
    Append: Core._answer_older_append,
    Heartbeat: Core._answer_older_append,
    Vote: Core._refuse_older_vote,
    PreVoteReply: Core._pass_older_pre_vote_reply,
}

_EVERYBODY: Final[dict[type, Handler]] = {PreVote: Core._on_pre_vote, Vote: Core._on_vote}
_NOT_LEADING: Final[dict[type, Handler]] = {
    **_EVERYBODY,
    Propose: Core._on_stray_proposal,
    Append: Core._on_append,
    Heartbeat: Core._on_heartbeat,
    Tick: Core._on_deadline,
    Read: Core._refuse_read,
    Persisted: Core._on_persisted,
}

HANDLERS: Final[dict[int, dict[type, Handler]]] = {
    FOLLOWER: {**_NOT_LEADING, LinkClosed: Core._on_link_closed},
    PRE_CANDIDATE: {**_NOT_LEADING, PreVoteReply: Core._on_pre_vote_reply},
    CANDIDATE: {
        **_NOT_LEADING,
        VoteReply: Core._on_vote_reply,
        Persisted: Core._on_persisted_candidate,
    },
    LEADER: {
        **_EVERYBODY,
        Append: Core._on_append,
        Heartbeat: Core._on_heartbeat,
        AppendReply: Core._on_append_reply,
        HeartbeatReply: Core._on_heartbeat_reply,
        Tick: Core._on_tick_leader,
        Propose: Core._on_propose,
        Read: Core._on_read,
        Persisted: Core._on_persisted_leader,
        LinkClosed: Core._on_link_closed_leader,
    },
}

_OVER = "the campaign that it answers is over"
_NOT_SENT = "answers what only a leader sends, of a leadership that is over"
_NO_LEADER = "no leader is followed whose link could close"

# What HANDLERS leaves out, and why. Together the two tables cover every message in every role.
IGNORED: Final[dict[tuple[int, type], str]] = {
    (FOLLOWER, PreVoteReply): _OVER,
    (FOLLOWER, VoteReply): _OVER,
    (FOLLOWER, AppendReply): _NOT_SENT,
    (FOLLOWER, HeartbeatReply): _NOT_SENT,
    (PRE_CANDIDATE, VoteReply): _OVER,
    (PRE_CANDIDATE, AppendReply): _NOT_SENT,
    (PRE_CANDIDATE, HeartbeatReply): _NOT_SENT,
    (PRE_CANDIDATE, LinkClosed): _NO_LEADER,
    (CANDIDATE, PreVoteReply): _OVER,
    (CANDIDATE, AppendReply): _NOT_SENT,
    (CANDIDATE, HeartbeatReply): _NOT_SENT,
    (CANDIDATE, LinkClosed): _NO_LEADER,
    (LEADER, PreVoteReply): _OVER,
    (LEADER, VoteReply): _OVER,
}
