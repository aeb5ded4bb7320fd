"""One replica of one group: Raft as a function of messages.

One door in, one door out::

    core.step(message, now)    what a peer says, a proposal, news of the disk, that time has passed
    core.take_output()         what is to be done now, or None
    core.next_deadline()       when to step Tick() at the latest

An :class:`~raft.messages.Output` is carried out field by field. What happens if the process dies
between two of them:

1. ``messages`` may always leave at once: whatever promises something that is not durable is still
   held back (:mod:`raft.outbox`). Lost messages are sent again.
2. ``save`` goes to the WAL; when it is durable, step :class:`~raft.messages.Persisted`. Nobody has
   been told of what is lost here.
3. ``restore``, if there is one: the machine becomes this snapshot, of which file and WAL know.
4. ``apply`` is committed *and* on this disk, each run once, in order. A restart begins anew behind
   the newest snapshot (or what the machine has of its own).
5. ``send_chunks`` and ``received`` are about snapshots that travel; what is lost is sent again. So
   is ``take_snapshot`` of one that is to travel; it is said again. ``read_runs`` are to be sent,
   too; another leadership asks for them again.
6. ``reads`` may be served once everything up to their index is applied (pitfall 31).
7. ``decisions`` answer who asked for a change of members or of the leader.

How a message is treated depends on the role: ``HANDLERS`` has a table for each, ``IGNORED`` names,
with the reason, each pair that is left out; together they cover everything. Before the table,
``_admit`` applies the rules that hold in every role: whose message counts, and what a term that is
not ours means.

A leader that has stood still for an election timeout (a stopped process, a suspended machine) does
not know whether it still leads: it steps down before it processes anything (pitfalls 33 and 35).
One whose disk has not finished a save for so long steps down too (pitfall 48). A group with one
voter is spared both, there is nobody who could have taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from raft.errors import Contradiction
from raft.membership import MembershipRules
from raft.messages import (
    CONFIG,
    LEASE,
    PEER_MESSAGES,
    STALE,
    Append,
    AppendReply,
    ChunkStored,
    ClockAnomaly,
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
    ReadIndex,
    ReadIndexReply,
    ReadRuns,
    Reconfigure,
    Replica,
    ResetPeers,
    Run,
    RunsRead,
    SendChunk,
    SnapshotChunk,
    SnapshotLost,
    SnapshotNeeded,
    SnapshotReceived,
    SnapshotReply,
    SnapshotTaken,
    SnapshotWanted,
    Tick,
    TimeoutNow,
    Transfer,
    Vote,
    VoteReply,
)
from raft.quorum import LOST, WON
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, ROLE_NAMES
from raft.snapshots import SnapshotRules

Handler = Callable[["Core", Any], None]

# A leader that did not come to think for so many heartbeat intervals trusts no lease from before.
LEASE_PAUSE_HEARTBEATS: Final = 3

_PEER_KINDS: Final[frozenset[type]] = frozenset(PEER_MESSAGES)
# Requests are heeded from whoever sends them: a replica that lags behind may not know yet that the
# sender has become a member (thesis 4.2.2), and it is the sender who counts. Answers are counted
# here, so they count from members only (pitfall 21), and a leader serves members only.
_ANSWERS: Final[frozenset[type]] = frozenset(
    (PreVoteReply, VoteReply, AppendReply, HeartbeatReply, SnapshotReply, SnapshotWanted, ReadIndex)
)


class Core(MembershipRules, SnapshotRules):
    """The consensus of one replica. Not thread-safe; knows neither disk, clock nor network."""

    __slots__ = ()

    # ------------------------------------------------------------------ the doors

    def step(self, message: Message, now: int) -> None:
        """Take one message in. ``now``: milliseconds of a monotonic clock.

        Raises Contradiction, and whatever the reader of configurations raises for one that cannot
        be used here; the core is of no use after that.
        """
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
        chunks, read_runs = self._flush_leadership() if self._leadership is not None else ([], [])
        outbox = self._outbox
        messages, outbox.messages = outbox.messages, []
        save = outbox.take_save(self._now)
        restore = self._take_restore() if self._restoring is not None else None
        apply = self._take_committed()
        seen = (self.role, self.term, self.leader, self.can_serve, self.configuration)
        changed = seen != self._seen
        reads, failed = self._reads, self._reads_failed
        received, decisions = self._received, self._decisions
        take_snapshot = self._take_wanted
        if not (
            messages
            or save
            or apply
            or reads
            or failed
            or changed
            or restore
            or chunks
            or received
            or decisions
            or read_runs
            or take_snapshot
        ):
            return None
        self._seen = seen
        self._reads, self._reads_failed = [], []
        self._received, self._decisions = [], []
        self._take_wanted = False
        return Output(
            messages,
            save,
            apply,
            reads,
            failed,
            changed,
            restore,
            chunks,
            received,
            decisions,
            read_runs,
            take_snapshot,
        )

    def _flush_leadership(self) -> tuple[list[SendChunk], list[ReadRuns]]:
        """Send what has gathered, and pass on the reads that are safe now."""
        leadership = self._leadership
        assert leadership is not None
        if self._handover is not None:
            self._hand_over()
        leadership.flush(self.commit_index, self._now)
        for read in leadership.take_safe_reads(self.commit_index):
            if read.asker is None:
                self._reads.append((read.token, read.read_index))
            else:
                self._outbox.send(
                    ReadIndexReply(self.me, read.asker, self.term, read.token, read.read_index)
                )
        return leadership.take_chunks(), leadership.take_read_runs()

    def next_deadline(self) -> int:
        """When to step Tick() at the latest; a moment in the past means now."""
        leadership = self._leadership
        due_ms = self._timer.deadline_ms if leadership is None else leadership.next_deadline_ms
        if self._handover is not None:
            due_ms = min(due_ms, self._handover.deadline_ms)
        return min(due_ms, self._asked_reads.next_deadline_ms)

    # ------------------------------------------------------------------ rules for every role

    def _admit(self, message: PeerMessage) -> bool:
        """Whether a peer's message is for us, counts, and belongs to the present term."""
        if message.to != self.me:
            return self._ignore("addressed to another replica")
        if message.sender == self.me:
            return self._ignore("sent by this replica itself")
        kind = type(message)
        if kind in _ANSWERS and not self._counts(message.sender):
            return self._ignore("answer of a replica that is no member")
        if message.term == self.term or kind is PreVote:
            return True
        if message.term > self.term:
            if kind in _ANSWERS and message.sender not in self.configuration:
                # It is only told that it has left; it may not depose who tells it (thesis 4.2.3).
                return self._ignore("higher term of a replica that has left")
            return self._admit_newer_term(message)
        answer = OLDER_TERM.get(kind)
        if answer is None:
            return self._ignore("answer of an older term")
        return answer(self, message)

    def _counts(self, sender: Replica) -> bool:
        """Members, and on a leader those who have left and are told so."""
        leadership = self._leadership
        if leadership is not None and sender in leadership.progress:
            return True
        return sender in self.configuration

    def _admit_newer_term(self, message: PeerMessage) -> bool:
        """Whoever is behind catches up (paper 5.1), unless that would depose a living leader."""
        if type(message) is PreVoteReply and message.granted:
            return True  # carries the term of the campaign, which nobody is in yet
        if type(message) is Vote and not message.transfer and not self._may_vote():
            # Not even an answer: it would have to carry a term (pitfall 7, thesis 4.2.3).
            return self._ignore("vote asked for while the leader is alive")
        self._become_follower(message.term)
        return True

    def _answer_older_append(self, message: Append | Heartbeat | SnapshotChunk) -> bool:
        """Tell a leader of an older term that it is one. It may be a good leader to which this
        replica, stuck at a higher term, would otherwise never listen (pitfall 7).

        The term says it all. The rest of the answer must mean nothing, for its addressee may lead
        this very term when it comes: rounds are counted anew in each, and round 17 of the last one
        would confirm round 17 of this one. Neither a round nor an entry is ever numbered 0.
        """
        if type(message) is Append:
            self._outbox.promise_term(
                AppendReply(self.me, message.sender, self.term, 0, rejected=True)
            )
        elif type(message) is Heartbeat:
            self._outbox.promise_term(HeartbeatReply(self.me, message.sender, self.term, 0))
        else:
            assert type(message) is SnapshotChunk
            index, term = message.snapshot.index, message.snapshot.term
            self._outbox.promise_term(
                SnapshotReply(self.me, message.sender, self.term, index, term, 0)
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

    # ------------------------------------------------------------------ followers

    def _on_append(self, message: Append) -> None:
        """Paper 5.3, receiver of AppendEntries; the steps are numbered there as here."""
        self._follow(message.sender)
        if self._needed_index:
            self._ask_for_snapshot()
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
            if known_term is not None:
                raise Contradiction(
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
        """Skip what is here, cut at the first real conflict, add the rest (pitfall 14).

        A short or late append finds everything in place and changes nothing.
        """
        log = self.log
        for position, run in enumerate(runs):
            term = log.term_at(run.last)
            if run.last < log.base_index:
                continue
            if term == run.term:
                self._compare(run)
                continue
            if run.first <= self.commit_index:
                raise Contradiction(
                    f"{self.leader} has another entry at {run.first}, which is committed here "
                    f"(up to {self.commit_index})"
                )
            if run.first <= log.last_index:
                log.truncate_from(run.first)
                self._outbox.record_truncation(run.first)
                if self._history.truncate_from(run.first):
                    self._configuration_changed()
            missing = runs[position:]
            log.append(missing)
            self._outbox.record_runs(missing)
            self._adopt_configurations(missing)
            return

    def _compare(self, run: Run) -> None:
        """With what this log has there, of the same term: a leader makes a run once, so only two
        leaders of one term can have made two. At the base only the term is left."""
        own = self.log.run_containing(run.last)
        if own is not None and (own.first, own.count, own.crc) != (run.first, run.count, run.crc):
            raise Contradiction(
                f"{self.leader} has another run of term {run.term} that ends at {run.last}"
            )

    def _adopt_configurations(self, runs: list[Run]) -> None:
        """A configuration is in force as soon as it is in the log (paper 6)."""
        found = [run for run in runs if run.kind == CONFIG]
        if found:
            for run in found:
                self._history.append(run.first, self._read_configuration(run))
            self._configuration_changed()

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._follow(message.sender)
        if message.commit > self.log.last_index:
            raise Contradiction(
                f"{message.sender} knows {message.commit} to be here, "
                f"the log ends at {self.log.last_index}"
            )
        self._raise_commit(message.commit)
        self._outbox.promise_term(HeartbeatReply(self.me, message.sender, self.term, message.round))
        if self._needed_index:
            self._ask_for_snapshot()

    def _on_link_closed(self, message: LinkClosed) -> None:
        """The leader's node has reset the connection, as a killed process does."""
        if self.leader is not None and self.leader.node == message.node:
            self._reads_failed.extend(self._asked_reads.take_all())
            self._timer.lost_leader(self._now)

    def _on_deadline(self, _: Tick) -> None:
        self._watch_handover()
        self._reads_failed.extend(self._asked_reads.take_late(self._now))
        if self._now >= self._timer.deadline_ms:
            self._stand_for_election()

    def _on_persisted(self, message: Persisted) -> None:
        self._outbox.on_persisted(message)
        if self._compactions:
            self._compact()

    def _on_stray_proposal(self, message: Propose) -> None:
        raise AssertionError(f"proposal of {len(message.runs)} runs to a {ROLE_NAMES[self.role]}")

    def _on_read_elsewhere(self, message: Read) -> None:
        """Who does not lead asks the leader, if it is allowed to serve reads at all."""
        if message.mode == STALE:
            self._read_stale(message.token)
            return
        leader = self.leader
        deadline_ms = self._now + self._settings.election_timeout_ms
        if (
            leader is None
            or not self._settings.follower_reads
            or not self._asked_reads.maybe_add(message.token, deadline_ms)
        ):
            self._reads_failed.append(message.token)
            return
        self._outbox.promise_term(ReadIndex(self.me, leader, self.term, message.token))

    def _read_stale(self, token: int) -> None:
        """From what is here, if a leader was heard not long ago and this replica keeps up."""
        lag = self.commit_index - self._handed_index
        heard_ms = self._now if self.is_leader else self._heard_ms
        if (
            heard_ms is not None
            and self._now - heard_ms <= self._settings.stale_read_ms_max
            and lag <= self._settings.read_lag_entries_max
        ):
            self._reads.append((token, self._handed_index))
        else:
            self._reads_failed.append(token)

    def _on_read_index_reply(self, message: ReadIndexReply) -> None:
        if not self._asked_reads.take(message.token):
            self._ignore("answer to a read that nobody waits for")
            return
        lag = message.index - self._handed_index
        if message.index == 0 or lag > self._settings.read_lag_entries_max:
            self._reads_failed.append(message.token)
        else:
            self._reads.append((message.token, message.index))

    # ------------------------------------------------------------------ elections

    def _on_pre_vote(self, message: PreVote) -> None:
        """Would get the vote? Asked and answered without any change here (pitfall 5)."""
        granted = (
            message.term > self.term
            and self._may_vote()
            and self._is_up_to_date(message.last_term, message.last_index)
        )
        if self._leadership is not None and message.sender not in self.configuration:
            self._tell_stranger(message.sender)
        term = message.term if granted else self.term
        self._outbox.send(PreVoteReply(self.me, message.sender, term, granted, message.campaign))

    def _tell_stranger(self, sender: Replica) -> None:
        """It does not know that it was removed, and would go on asking (pitfall 28)."""
        assert self._leadership is not None
        index = self._history.latest_index
        if index <= self.commit_index:
            self._leadership.tell(sender, index, self._now)

    def _on_vote(self, message: Vote) -> None:
        """One vote per term, to the first who asks with a log that is no worse (5.2, 5.4.1)."""
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
        is_other_term = message.granted and message.term != self.term + 1
        if is_other_term or message.campaign != self._campaign:
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
        self._on_persisted(message)
        if self._outbox.term_is_durable and self._count(self.me, True) == WON:
            self._become_leader()

    # ------------------------------------------------------------------ leaders

    def _on_propose(self, message: Propose) -> None:
        assert message.runs, "nothing is proposed"
        assert self._handover is None, "proposed while leadership is transferred"
        for run in message.runs:
            assert run.term == self.term, f"run of term {run.term} proposed in term {self.term}"
        self._append_own(message.runs)

    def _on_append_reply(self, message: AppendReply) -> None:
        assert self._leadership is not None
        if self._leadership.on_append_reply(message, self._now):
            self._maybe_commit()
        elif self._change is not None:
            self._advance_change()  # a newcomer may have caught up

    def _on_heartbeat_reply(self, message: HeartbeatReply) -> None:
        assert self._leadership is not None
        self._leadership.on_heartbeat_reply(message, self.commit_index, self._now)

    def _on_persisted_leader(self, message: Persisted) -> None:
        """The leader's own disk counts like everybody else's (pitfall 12)."""
        if self._outbox.on_persisted(message):
            if self._compactions:
                self._compact()
            self._maybe_commit()

    def _maybe_commit(self) -> None:
        """Count replicas for entries of this term only; older ones come along (paper 5.4.2, pitfall
        11): an entry of an older term can still be overwritten although a majority holds it."""
        leadership = self._leadership
        assert leadership is not None
        index = leadership.quorum_match(self.durable_index)
        if index > self.commit_index and index >= leadership.noop_index:
            self._raise_commit(index)
        leadership.note_commit(self._now)
        if (
            self._change is not None
            or self.configuration.is_joint
            or self.me not in self.configuration.voters
        ):
            self._advance_change()

    def _on_read(self, message: Read) -> None:
        assert self._leadership is not None
        if message.mode == STALE:
            self._read_stale(message.token)
        elif message.mode == LEASE and self._now < self.lease_until_ms:
            self._reads.append((message.token, self.commit_index))
        elif not self._leadership.maybe_add_read(message.token, self.commit_index):
            self._reads_failed.append(message.token)

    def _on_read_index(self, message: ReadIndex) -> None:
        assert self._leadership is not None
        added = self._leadership.maybe_add_read(message.token, self.commit_index, message.sender)
        if not added:
            self._outbox.send(ReadIndexReply(self.me, message.sender, self.term, message.token, 0))

    def _on_snapshot_reply(self, message: SnapshotReply) -> None:
        assert self._leadership is not None
        self._leadership.on_snapshot_reply(message, self._now)

    def _on_runs_read(self, message: RunsRead) -> None:
        assert self._leadership is not None
        self._leadership.on_runs_read(message, self.commit_index, self._now)

    def _distrust_clock(self, _: ClockAnomaly) -> None:
        """The promise to the leader is elapsed time as well, on this replica's clock; so is the
        silence after which it stood."""
        if self.role != FOLLOWER:
            self._become_follower(self.term)
        self._timer.distrust(self._now)

    def _on_clock_anomaly(self, _: ClockAnomaly) -> None:
        """What was measured may be wrong: the lease begins anew with the next round."""
        assert self._leadership is not None
        self._leadership.lease.void(self._now)

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
        if self._handover is not None:
            self._watch_handover()
        if self._change is not None:
            self._watch_newcomers()
            self._advance_change()
        if self._leadership is not None:
            self._leadership.on_time(self.commit_index, self._now)

    def _maybe_step_down_stalled(self, now: int) -> None:
        pause_ms = now - self._stepped_ms
        if pause_ms > LEASE_PAUSE_HEARTBEATS * self._settings.heartbeat_ms:
            assert self._leadership is not None
            self._leadership.lease.void(now)
        if self._alone or pause_ms <= self._settings.election_timeout_ms:
            return
        self._now = now
        self._become_follower(self.term)


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
    SnapshotChunk: Core._answer_older_append,
    Vote: Core._refuse_older_vote,
    PreVoteReply: Core._pass_older_pre_vote_reply,
}

_EVERYBODY: Final[dict[type, Handler]] = {
    PreVote: Core._on_pre_vote,
    Vote: Core._on_vote,
    ResetPeers: Core._on_reset_peers,
    SnapshotTaken: Core._on_snapshot_taken,
    SnapshotLost: Core._on_snapshot_lost,
    SnapshotNeeded: Core._on_snapshot_needed,
}
_NOT_LEADING: Final[dict[type, Handler]] = {
    **_EVERYBODY,
    Propose: Core._on_stray_proposal,
    Append: Core._on_append,
    Heartbeat: Core._on_heartbeat,
    Tick: Core._on_deadline,
    Read: Core._on_read_elsewhere,
    Persisted: Core._on_persisted,
    TimeoutNow: Core._on_timeout_now,
    SnapshotChunk: Core._on_snapshot_chunk,
    ChunkStored: Core._on_chunk_stored,
    SnapshotReceived: Core._on_snapshot_received,
    ClockAnomaly: Core._distrust_clock,
    Reconfigure: Core._refuse_reconfigure,
    Transfer: Core._refuse_transfer,
}

HANDLERS: Final[dict[int, dict[type, Handler]]] = {
    FOLLOWER: {
        **_NOT_LEADING,
        LinkClosed: Core._on_link_closed,
        ReadIndexReply: Core._on_read_index_reply,
    },
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
        SnapshotChunk: Core._on_snapshot_chunk,
        AppendReply: Core._on_append_reply,
        HeartbeatReply: Core._on_heartbeat_reply,
        Tick: Core._on_tick_leader,
        Propose: Core._on_propose,
        Read: Core._on_read,
        Persisted: Core._on_persisted_leader,
        LinkClosed: Core._on_link_closed_leader,
        ReadIndex: Core._on_read_index,
        SnapshotReply: Core._on_snapshot_reply,
        SnapshotWanted: Core._on_snapshot_wanted,
        RunsRead: Core._on_runs_read,
        ClockAnomaly: Core._on_clock_anomaly,
        Reconfigure: Core._on_reconfigure,
        Transfer: Core._on_transfer,
    },
}

_OVER = "the campaign that it answers is over"
_NOT_SENT = "answers what only a leader sends, of a leadership that is over"
_NO_LEADER = "no leader is followed whose link could close"
_NOT_ASKED = "answers a read that failed when the leader was lost"
_NOT_LED = "asks a leader, and this replica leads no more"
_NOT_LED_ANY_MORE = "was read to be sent, and this replica leads no more"
_LEADS = "whoever leads has all that is committed, and needs no chunk of it"

_NOT_LEADING_IGNORED: Final[dict[type, str]] = {
    AppendReply: _NOT_SENT,
    HeartbeatReply: _NOT_SENT,
    SnapshotReply: _NOT_SENT,
    SnapshotWanted: _NOT_LED,
    ReadIndex: _NOT_LED,
    RunsRead: _NOT_LED_ANY_MORE,
}
_STANDING_IGNORED: Final[dict[type, str]] = {
    **_NOT_LEADING_IGNORED,
    LinkClosed: _NO_LEADER,
    ReadIndexReply: _NOT_ASKED,
}
_IGNORED_BY_ROLE: Final[dict[int, dict[type, str]]] = {
    FOLLOWER: {**_NOT_LEADING_IGNORED, PreVoteReply: _OVER, VoteReply: _OVER},
    PRE_CANDIDATE: {**_STANDING_IGNORED, VoteReply: _OVER},
    CANDIDATE: {**_STANDING_IGNORED, PreVoteReply: _OVER},
    LEADER: {
        PreVoteReply: _OVER,
        VoteReply: _OVER,
        ReadIndexReply: _NOT_ASKED,
        TimeoutNow: "a leader need not be told to stand",
        ChunkStored: _LEADS,
        SnapshotReceived: _LEADS,
    },
}

# What HANDLERS leaves out, and why. Together the two tables cover every message in every role.
IGNORED: Final[dict[tuple[int, type], str]] = {
    (role, kind): reason
    for role, reasons in _IGNORED_BY_ROLE.items()
    for kind, reason in reasons.items()
}
