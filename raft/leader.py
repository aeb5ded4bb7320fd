"""What only a leader has: the others' progress, rounds of heartbeats, reads that wait for one.

It is made when an election is won and thrown away when leadership ends, so nothing of it can
outlive the term. It changes no state of the replica: commit index, role and term belong to
:class:`raft.core.Core`, which hands in what is needed.

**Replication.** Appends are not built when something is proposed but in :meth:`flush`, once for
each output: whatever has gathered by then leaves in one append per peer. A lost append shows itself
when the next one is refused. When there is no next one: a peer that answers heartbeats, lacks
entries, and has acknowledged nothing for a heartbeat interval is asked with an empty append behind
what was sent last. If it has everything, its answer says so; if not, it refuses, and sending starts
again there.

**Rounds.**  All heartbeats that go out together have one number, and the answer repeats it. A read
is safe once a majority has answered a round that *started after* the read arrived (pitfall 30), and
once an entry of the leader's own term is committed (pitfall 29): before that the leader may not yet
know all that was committed before it.

**Commit.**  Followers hear of a new commit index from the next append; when none is due within
``commit_notice_ms``, from a heartbeat. A heartbeat may overtake appends, so it never speaks of more
than the peer is known to have.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from raft.configuration import Configuration
from raft.log import Log
from raft.messages import Append, AppendReply, Heartbeat, HeartbeatReply, Replica
from raft.outbox import Outbox
from raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from raft.quorum import reached_by_majority
from raft.settings import RaftSettings

# A deadline that is never reached: nothing is to be done by itself.
NEVER_MS: Final = 1 << 62


class PendingRead(NamedTuple):
    token: int
    round: int  # the first round that started after it arrived
    read_index: int  # what has to be applied before it may be served


class Leadership:
    """One term's leadership of one replica."""

    __slots__ = (
        "_configuration",
        "_heartbeat_due_ms",
        "_is_alone",
        "_log",
        "_me",
        "_notice_due_ms",
        "_outbox",
        "_peers",
        "_reads",
        "_round",
        "_round_wanted",
        "_settings",
        "_term",
        "_votes",
        "_watch_due_ms",
        "noop_index",
        "progress",
    )

    def __init__(
        self,
        *,
        me: Replica,
        term: int,
        configuration: Configuration,
        log: Log,
        outbox: Outbox,
        settings: RaftSettings,
        now: int,
    ) -> None:
        self._me = me
        self._term = term
        self._configuration = configuration
        self._log = log
        self._outbox = outbox
        self._settings = settings
        # The first entry of this term, about to be appended; nothing is served before it is
        # committed.
        self.noop_index = log.last_index + 1
        self._votes = me in configuration.voters
        self._is_alone = configuration.is_only_voter(me)
        self.progress: dict[Replica, Progress] = {
            replica: Progress(
                replica,
                votes=replica in configuration.voters,
                next_index=self.noop_index,
                settings=settings,
                now=now,
            )
            for replica in configuration.members
            if replica != me
        }
        self._peers = tuple(self.progress.values())
        self._round = 0
        self._round_wanted = True  # the first heartbeats announce the leader
        self._reads: deque[PendingRead] = deque()
        self._heartbeat_due_ms = now if self._peers else NEVER_MS
        self._notice_due_ms = NEVER_MS
        # When to look at quorum and disk: rounds that reads start put heartbeats off, but not this.
        self._watch_due_ms = now + settings.heartbeat_ms if self._peers else NEVER_MS

    # ------------------------------------------------------------------ time

    @property
    def next_deadline_ms(self) -> int:
        return min(self._heartbeat_due_ms, self._notice_due_ms, self._watch_due_ms)

    def on_time(self, commit: int, now: int) -> None:
        """Start the round that is due, or tell of a commit index that no append has carried."""
        if now >= min(self._heartbeat_due_ms, self._watch_due_ms):
            self._watch_due_ms = now + self._settings.heartbeat_ms
        if now >= self._heartbeat_due_ms:
            self._round_wanted = True
        elif now >= self._notice_due_ms:
            self._notice_due_ms = NEVER_MS
            for peer in self._peers:
                if min(commit, peer.match) > peer.commit_told:
                    self._send_heartbeat(peer, commit)

    def quorum_heard_ms(self, now: int) -> int:
        """Since when no majority (this replica included) has been silent."""
        times = [peer.active_ms for peer in self._peers if peer.votes]
        if self._votes:
            times.append(now)
        return reached_by_majority(times)

    # ------------------------------------------------------------------ answers

    def on_append_reply(self, message: AppendReply, now: int) -> bool:
        """Learn how far a peer is; True if the commit index may have moved."""
        peer = self.progress[message.sender]
        peer.active_ms = now
        if message.match > self._log.last_index:
            return False  # not an answer to anything that this leader can have sent
        if message.rejected:
            self._on_rejection(peer, message)
            return False
        rose = peer.maybe_match(message.match)
        if rose:
            peer.quiet_ms = now
        if peer.state == SNAPSHOT or (peer.state == PROBE and message.match >= peer.next - 1):
            peer.become_replicate()
        return rose and peer.votes

    def _on_rejection(self, peer: Progress, message: AppendReply) -> None:
        """Step back to where the logs may agree, at once and not entry by entry."""
        refused = message.match
        log = self._log
        if refused <= peer.match:
            return  # it has acknowledged that entry since
        if refused <= log.base_index:
            peer.state = SNAPSHOT  # what it lacks is in no log any more
            return
        hint = min(message.hint_index, refused - 1)
        index, _ = log.agreement(hint, message.hint_term)
        peer.maybe_retreat(refused, log.border_at_or_before(index))

    def on_heartbeat_reply(self, message: HeartbeatReply, commit: int, now: int) -> None:
        peer = self.progress[message.sender]
        peer.active_ms = now
        if self._round >= message.round > peer.round:
            peer.round = message.round
        if (
            peer.match < self._log.last_index
            and peer.state != SNAPSHOT
            and now - peer.quiet_ms >= self._settings.heartbeat_ms
        ):
            peer.quiet_ms = now
            self._send_probe(peer, commit)

    def on_link_closed(self, node: str) -> None:
        """What was on its way to that node is probably lost: do not wait to find out."""
        for peer in self._peers:
            if peer.replica.node == node and peer.state == REPLICATE:
                peer.become_probe()

    # ------------------------------------------------------------------ commit

    def quorum_match(self, durable_index: int) -> int:
        """The highest index that a majority holds durably; this replica counts by its own disk."""
        matches = [peer.match for peer in self._peers if peer.votes]
        if self._votes:
            matches.append(durable_index)
        return reached_by_majority(matches)

    def note_commit(self, now: int) -> None:
        """The commit index rose, or a peer came to hold what is committed: it wants to be told.

        While there is news the notice moves on, for then there are appends that carry it.
        """
        if self._peers:
            self._notice_due_ms = now + self._settings.commit_notice_ms

    # ------------------------------------------------------------------ reads

    def maybe_add_read(self, token: int, commit: int) -> bool:
        """Let a read wait for a round that is yet to start; False if too many wait already."""
        if len(self._reads) >= self._settings.reads_pending_max:
            return False
        index = max(commit, self.noop_index)
        if self._is_alone:
            self._reads.append(PendingRead(token, self._round, index))
        else:
            self._reads.append(PendingRead(token, self._round + 1, index))
            self._round_wanted = True
        return True

    def take_safe_reads(self, commit: int) -> list[tuple[int, int]]:
        """(token, index) of the reads whose round is confirmed, in the order of arrival."""
        reads = self._reads
        if not reads or commit < self.noop_index:
            return []
        confirmed = self._confirmed_round()
        safe = []
        while reads and reads[0].round <= confirmed:
            read = reads.popleft()
            assert read.read_index <= commit, f"read at {read.read_index} above commit {commit}"
            safe.append((read.token, read.read_index))
        return safe

    def take_all_reads(self) -> list[int]:
        tokens = [read.token for read in self._reads]
        self._reads.clear()
        return tokens

    @property
    def reads_pending_count(self) -> int:
        return len(self._reads)

    def _confirmed_round(self) -> int:
        rounds = [peer.round for peer in self._peers if peer.votes]
        if self._votes:
            rounds.append(self._round)
        return reached_by_majority(rounds)

    # ------------------------------------------------------------------ sending

    def flush(self, commit: int, now: int) -> None:
        """Send all that is wanted and allowed; called once for each output."""
        if self._round_wanted:
            self._start_round(commit, now)
        next_index = self._log.last_index + 1
        for peer in self._peers:
            if peer.next < next_index and not peer.is_paused:
                self._replicate(peer, commit, now)

    def _start_round(self, commit: int, now: int) -> None:
        self._round_wanted = False
        if not self._peers:
            return
        self._round += 1
        self._heartbeat_due_ms = now + self._settings.heartbeat_ms
        self._notice_due_ms = NEVER_MS
        for peer in self._peers:
            self._send_heartbeat(peer, commit)

    def _send_heartbeat(self, peer: Progress, commit: int) -> None:
        safe_commit = min(commit, peer.match)
        peer.commit_told = max(peer.commit_told, safe_commit)
        self._outbox.send(
            Heartbeat(self._me, peer.replica, self._term, commit=safe_commit, round=self._round)
        )

    def _replicate(self, peer: Progress, commit: int, now: int) -> None:
        log = self._log
        while peer.next <= log.last_index and not peer.is_paused:
            if peer.next <= log.base_index:
                peer.state = SNAPSHOT
                return
            previous = peer.next - 1
            runs = log.slice(peer.next, self._settings.append_bytes_max)
            last = runs[-1].last
            term = log.term_at(previous)
            assert term is not None, f"no term for {previous}"
            self._outbox.send(
                Append(self._me, peer.replica, self._term, previous, term, commit, runs)
            )
            peer.commit_told = max(peer.commit_told, min(commit, last))
            if peer.state == PROBE:
                peer.probe_sent = True
                peer.quiet_ms = now
                return
            if peer.window.count == 0:
                peer.quiet_ms = now
            peer.window.add(last, sum(len(run.body) for run in runs))
            peer.next = last + 1

    def _send_probe(self, peer: Progress, commit: int) -> None:
        """An append without runs: is everything up to here with you?"""
        previous = peer.next - 1
        term = self._log.term_at(previous)
        if term is None or previous < self._log.base_index:
            peer.state = SNAPSHOT
            return
        self._outbox.send(Append(self._me, peer.replica, self._term, previous, term, commit, []))
