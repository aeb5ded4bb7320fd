"""What only a leader has: the others' progress, rounds of heartbeats, reads that wait for one.

It is made when an election is won and thrown away when leadership ends, so nothing of it can
outlive the term. It changes no state of the replica: commit index, role, term and configuration
belong to :class:`raft.core.Core`, which hands in what is needed.

**Replication.** Appends are not built when something is proposed but in :meth:`flush`, once for
each output: whatever has gathered by then leaves in one append per peer. A lost append shows itself
when the next one is refused. When there is no next one: a peer that answers heartbeats, lacks
entries, and has acknowledged nothing for a heartbeat interval is asked with an empty append behind
what was sent last. If it has everything, its answer says so; if not, it refuses, and sending starts
again there.

**Snapshots** (paper 7). A peer that lacks what the log has no longer gets a snapshot, chunk by
chunk: one is on its way, the answer asks for the next. The first one has no bytes and asks how much
is there already, and so does the one after a chunk that stayed unanswered: who is silent for long
costs little, and who was restarted goes on where it was. A transfer begins anew, with the newest
snapshot, when the log does not go on any more from where it will end, or while nothing has arrived.
Only so many peers at a time (pitfall 43); the log behind the snapshots that travel is kept
(pitfall 40). A peer whose machine is lost gets one beside its appends (:mod:`raft.rebuild`).

**What is on the disk alone.** A peer that lags may lack runs whose bodies are in memory no more
(:mod:`raft.log`). The driver reads them, one append's worth at a time, and they are sent when they
come. Where such a peer stands is found out with an empty append: nothing is read for that.

**Rounds** are in :mod:`raft.reads`, with what they are good for.

**Commit.**  Followers hear of a new commit index from the next append; when none comes within
``commit_notice_ms``, from a heartbeat. Where appends have come less than a heartbeat apart, the
next one is given time to come, up to a heartbeat: with hundreds of groups, each of which is written
to now and then, a notice for each write would double all messages. A heartbeat may overtake
appends, so it never speaks of more than the peer is known to have.

**Beats.**  A peer that was sent an append within the last interval, and has answered one, hears
from this leader, and needs no heartbeat on top of that; unless a round is wanted, by reads or for
the lease.  An answer alone says little: it waits for the peer's disk, and then in the queue of a
leader that stood still.  Nobody is left without a word for more than half an election timeout.

**Who counts.** ``_halves`` has, for each half of the configuration, the peers that vote in it and
whether this replica does. Beside them there are learners, and for a while those who have left: they
are told so, for who does not know goes on asking for votes (pitfall 28).
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final, NamedTuple

from raft.configuration import Configuration
from raft.log import Log
from raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    ReadRuns,
    Replica,
    Run,
    RunsRead,
    SendChunk,
    SnapshotMeta,
    SnapshotReply,
    SnapshotWanted,
    TimeoutNow,
)
from raft.outbox import Outbox
from raft.progress import PROBE, REPLICATE, SNAPSHOT, Progress
from raft.quorum import reached_by_majority
from raft.reads import NEVER_MS, Lease, PendingRead, ReadQueue
from raft.settings import RaftSettings

SNAPSHOT_PEERS_MAX: Final = 2  # that get a snapshot from one leader at the same time
DEPARTING_PEERS_MAX: Final = 16  # that are told that they have left; one more is not told
DEPARTING_TIMEOUTS: Final = 10  # election timeouts for which they are told
SNAPSHOT_PATIENCE_TIMEOUTS: Final = 3  # election timeouts without a step: its place is free
CHUNK_AGAIN_HEARTBEATS: Final = 3  # after so many intervals an unanswered chunk is sent again

_MATCH: Final[Callable[[Progress], int]] = attrgetter("match")
_ROUND: Final[Callable[[Progress], int]] = attrgetter("round")
_ACTIVE: Final[Callable[[Progress], int]] = attrgetter("active_ms")


class _Half(NamedTuple):
    peers: tuple[Progress, ...]
    counts_me: bool


class Leadership:
    """One term's leadership of one replica."""

    __slots__ = (
        "_append_gap_ms",
        "_append_ms",
        "_chunks",
        "_flushed_index",
        "_halves",
        "_heartbeat_due_ms",
        "_is_alone",
        "_log",
        "_me",
        "_notice_due_ms",
        "_outbox",
        "_peers",
        "_read_runs",
        "_reads",
        "_removal_index",
        "_round",
        "_round_wanted",
        "_settings",
        "_term",
        "_watch_due_ms",
        "lease",
        "noop_index",
        "progress",
        "snapshot",
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
        snapshot: SnapshotMeta | None,
        now: int,
    ) -> None:
        self._me = me
        self._term = term
        self._log = log
        self._outbox = outbox
        self._settings = settings
        # The first entry of this term, about to be appended; nothing is served before it is
        # committed.
        self.noop_index = log.last_index + 1
        self.snapshot = snapshot  # the newest that there is to send
        self.progress: dict[Replica, Progress] = {}
        self._peers: tuple[Progress, ...] = ()
        self._halves: tuple[_Half, ...] = ()
        self._is_alone = False
        self._removal_index = 0  # of the last configuration that somebody was removed by
        self._round = 0
        self._round_wanted = True  # the first heartbeats announce the leader
        self._reads = ReadQueue(settings.reads_pending_max)
        self.lease = Lease(
            election_timeout_ms=settings.election_timeout_ms,
            drift_percent=settings.lease_drift_percent,
        )
        self._chunks: list[SendChunk] = []
        self._read_runs: list[ReadRuns] = []
        self._heartbeat_due_ms = NEVER_MS
        self._notice_due_ms = NEVER_MS
        # When entries were last sent for the first time, and how long after those before.
        self._append_ms = now - settings.heartbeat_ms
        self._append_gap_ms = settings.heartbeat_ms
        self._flushed_index = 0  # up to here entries have been on their way once
        # When to look at quorum and disk: rounds that reads start put heartbeats off, but not this.
        self._watch_due_ms = NEVER_MS
        self.reconfigure(configuration, 0, now)

    # ------------------------------------------------------------------ who takes part

    def reconfigure(self, configuration: Configuration, index: int, now: int) -> None:
        """Another configuration is in force, by the entry at ``index``."""
        for replica in configuration.members:
            if replica == self._me:
                continue
            peer = self.progress.get(replica)
            if peer is None or peer.departs_ms is not None:
                # Also who comes back: what was believed of it may be from before.
                self.progress[replica] = self._new_progress(replica, now)
            self.progress[replica].votes = configuration.votes(replica)
        for replica, peer in self.progress.items():
            if replica not in configuration and peer.departs_ms is None:
                peer.votes = False
                self._removal_index = index
                self._depart(peer, now)
        self._halves = tuple(
            _Half(
                tuple(self.progress[voter] for voter in sorted(half) if voter != self._me),
                self._me in half,
            )
            for half in configuration.halves
        )
        self._is_alone = configuration.is_only_voter(self._me)
        self._peers_changed(now)

    def tell(self, stranger: Replica, index: int, now: int) -> None:
        """Somebody who is no member asks for votes: send it the log that says so."""
        departing = sum(peer.departs_ms is not None for peer in self._peers)
        if stranger in self.progress or departing >= DEPARTING_PEERS_MAX:
            return
        peer = self._new_progress(stranger, now)
        self._removal_index = max(self._removal_index, index)
        self._depart(peer, now)
        self.progress[stranger] = peer
        self._peers_changed(now)

    def _new_progress(self, replica: Replica, now: int) -> Progress:
        return Progress(
            replica,
            votes=False,
            next_index=self._log.last_index + 1,
            settings=self._settings,
            now=now,
        )

    def _depart(self, peer: Progress, now: int) -> None:
        peer.catch_up = None
        peer.departs_ms = now + DEPARTING_TIMEOUTS * self._settings.election_timeout_ms

    def _forget_departed(self, now: int) -> None:
        """Those who have been told, or were told long enough."""
        index = self._removal_index
        gone = [
            peer.replica
            for peer in self._peers
            if peer.departs_ms is not None
            and (now >= peer.departs_ms or (peer.match >= index and peer.commit_told >= index > 0))
        ]
        for replica in gone:
            del self.progress[replica]
        if gone:
            self._peers_changed(now)

    def _peers_changed(self, now: int) -> None:
        self._peers = tuple(self.progress[replica] for replica in sorted(self.progress))
        if not self._peers:
            self._heartbeat_due_ms = self._watch_due_ms = self._notice_due_ms = NEVER_MS
            return
        self._round_wanted = True
        self._heartbeat_due_ms = min(self._heartbeat_due_ms, now)
        self._watch_due_ms = min(self._watch_due_ms, now + self._settings.heartbeat_ms)

    # ------------------------------------------------------------------ time

    @property
    def next_deadline_ms(self) -> int:
        return min(self._heartbeat_due_ms, self._notice_due_ms, self._watch_due_ms)

    def on_time(self, commit: int, now: int) -> None:
        """Start the round that is due, or tell of a commit index that no append has carried."""
        if now >= min(self._heartbeat_due_ms, self._watch_due_ms):
            self._watch_due_ms = now + self._settings.heartbeat_ms
            self._forget_departed(now)
            self._forget_wants(now)
            self._send_chunks_again(now)
        if now >= self._heartbeat_due_ms:
            self._beat(commit, now)
        if now >= self._notice_due_ms and not self._round_wanted:
            self._notice_due_ms = NEVER_MS
            for peer in self._peers:
                if min(commit, peer.match) > peer.commit_told:
                    self._send_heartbeat(peer, commit)

    def _beat(self, commit: int, now: int) -> None:
        """A round; or, where nobody waits for one, something for those who hear nothing else."""
        heartbeat_ms = self._settings.heartbeat_ms
        # The next look is an interval from now.
        quiet_ms = min(heartbeat_ms, self._settings.election_timeout_ms // 2 - heartbeat_ms)
        answered_ms, sent_ms = now - heartbeat_ms, now - quiet_ms
        silent = [
            peer
            for peer in self._peers
            if peer.sent_ms <= sent_ms or peer.answered_ms <= answered_ms
        ]
        if len(silent) == len(self._peers) or self._reads or self._settings.lease_reads:
            self._round_wanted = True
            return
        self._heartbeat_due_ms = now + heartbeat_ms
        for peer in silent:
            self._send_heartbeat(peer, commit)

    def quorum_heard_ms(self, now: int) -> int:
        """Since when no majority (this replica included) has been silent."""
        return self._agreed(_ACTIVE, now)

    def is_silent(self, replica: Replica, now: int, silence_ms: int) -> bool:
        return now - self.progress[replica].active_ms >= silence_ms

    def _agreed(self, value: Callable[[Progress], int], mine: int) -> int:
        """The highest number that a majority of each half reaches."""
        agreed = NEVER_MS
        for peers, counts_me in self._halves:
            values = list(map(value, peers))
            if counts_me:
                values.append(mine)
            agreed = min(agreed, reached_by_majority(values))
        return agreed

    # ------------------------------------------------------------------ answers

    def on_append_reply(self, message: AppendReply, now: int) -> bool:
        """Learn how far a peer is; True if the commit index may have moved."""
        peer = self.progress[message.sender]
        peer.active_ms = peer.answered_ms = now
        if message.match > self._log.last_index or not (
            message.match <= self._log.base_index or self._log.is_border(message.match)
        ):
            return False  # not an answer to anything that this leader can have sent
        if message.rejected:
            self._on_rejection(peer, message)
            return False
        rose = peer.maybe_match(message.match)
        if rose:
            peer.quiet_ms = now
            if peer.catch_up is not None:
                peer.catch_up.on_match(
                    peer.match, self._log.last_index, now, self._settings.election_timeout_ms
                )
        if peer.state == SNAPSHOT:
            if peer.match >= self._log.base_index:
                peer.become_replicate()
            elif peer.snapshot is not None and peer.match >= peer.snapshot.index:
                peer.become_snapshot()  # the log went on without it: it needs a newer one
        elif peer.state == PROBE and message.match >= peer.next - 1:
            peer.become_replicate()
        return rose and peer.votes

    def _on_rejection(self, peer: Progress, message: AppendReply) -> None:
        """Step back to where the logs may agree, at once and not entry by entry."""
        refused = message.match
        log = self._log
        if refused <= peer.match or peer.state == SNAPSHOT:
            return  # it has acknowledged that entry since, or will get all before it
        if refused <= log.base_index:
            peer.become_snapshot()  # what it lacks is in no log any more
            return
        hint = min(message.hint_index, refused - 1)
        index, _ = log.agreement(hint, message.hint_term)
        peer.maybe_retreat(refused, log.border_at_or_before(index))

    def on_heartbeat_reply(self, message: HeartbeatReply, commit: int, now: int) -> None:
        peer = self.progress[message.sender]
        peer.active_ms = now
        if self._round >= message.round > peer.round:
            peer.round = message.round
            if self._settings.lease_reads and peer.votes:
                self.lease.on_confirmed(self._confirmed_round())
        if peer.state == PROBE and peer.match == self._log.last_index:
            peer.become_replicate()  # the line is there, and no append will ever ask
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
            if peer.replica.node == node:
                peer.answered_ms = -NEVER_MS
                peer.chunk_sent = peer.agreed = False
                if peer.state == REPLICATE:
                    peer.become_probe()

    # ------------------------------------------------------------------ commit

    def quorum_match(self, durable_index: int) -> int:
        """The highest index that a majority holds durably; this replica counts by its own disk."""
        return self._agreed(_MATCH, durable_index)

    def note_commit(self, now: int) -> None:
        """The commit index rose, or a peer came to hold what is committed: it wants to be told.

        While there is news the notice moves on, for then there are appends that carry it.
        """
        if self._peers:
            wait_ms, heartbeat_ms = self._settings.commit_notice_ms, self._settings.heartbeat_ms
            if self._append_gap_ms < heartbeat_ms:
                wait_ms = max(wait_ms, min(2 * self._append_gap_ms, heartbeat_ms))
            self._notice_due_ms = now + wait_ms

    def announce_commit(self, commit: int) -> None:
        """Tell everybody now: this leader is about to be none."""
        for peer in self._peers:
            self._send_heartbeat(peer, commit)

    # ------------------------------------------------------------------ reads

    def maybe_add_read(self, token: int, commit: int, asker: Replica | None = None) -> bool:
        """Let a read wait for a round that is yet to start; False if too many wait already."""
        index = max(commit, self.noop_index)
        if not self._reads.maybe_add(PendingRead(token, self._round + 1, index, asker)):
            return False
        self._round_wanted = True
        return True

    def take_safe_reads(self, commit: int) -> list[PendingRead]:
        """The reads whose round is confirmed, in the order of arrival."""
        if not self._reads or commit < self.noop_index:
            return []
        return self._reads.take_confirmed(self._confirmed_round(), commit)

    def take_all_reads(self) -> list[PendingRead]:
        return self._reads.take_all()

    @property
    def reads_pending_count(self) -> int:
        return len(self._reads)

    def _confirmed_round(self) -> int:
        return self._agreed(_ROUND, self._round)

    # ------------------------------------------------------------------ sending

    def flush(self, commit: int, now: int) -> None:
        """Send all that is wanted and allowed; called once for each output."""
        if self._round_wanted:
            self._start_round(commit, now)
        next_index = self._log.last_index + 1
        if next_index > self._flushed_index:
            self._flushed_index = next_index
            self._append_gap_ms, self._append_ms = now - self._append_ms, now
        for peer in self._peers:
            if peer.next < next_index and not peer.is_paused:
                self._replicate(peer, commit, now)
            if not peer.chunk_sent and peer.gets_snapshot:
                self._want_chunk(peer, now)

    def _start_round(self, commit: int, now: int) -> None:
        self._round_wanted = False
        self._round += 1
        if not self._peers:
            return
        if self._settings.lease_reads and not self._is_alone:
            self.lease.on_round(self._round, now)
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
                peer.become_snapshot()
                return
            if peer.next > log.released_index:
                runs = log.slice(peer.next, self._settings.append_bytes_max)
                self._send_runs(peer, runs, commit, now)
            elif peer.state == PROBE:
                peer.probe_sent = True
                peer.quiet_ms = now
                self._send_probe(peer, commit)
            else:
                peer.reading = True
                last = log.released_stretch(peer.next, self._settings.append_bytes_max)
                self._read_runs.append(ReadRuns(peer.replica, peer.next, last))

    def _send_runs(self, peer: Progress, runs: list[Run], commit: int, now: int) -> None:
        previous, last = peer.next - 1, runs[-1].last
        term = self._log.term_at(previous)
        assert term is not None, f"no term for {previous}"
        self._outbox.send(Append(self._me, peer.replica, self._term, previous, term, commit, runs))
        peer.commit_told = max(peer.commit_told, min(commit, last))
        peer.sent_ms = now
        if peer.state == PROBE:
            peer.probe_sent = True
            peer.quiet_ms = now
            return
        if peer.window.count == 0:
            peer.quiet_ms = now
        peer.window.add(last, sum([len(run.body) for run in runs]))
        peer.next = last + 1

    def take_read_runs(self) -> list[ReadRuns]:
        wanted, self._read_runs = self._read_runs, []
        return wanted

    def on_runs_read(self, message: RunsRead, commit: int, now: int) -> None:
        """Send them, if they are still what the peer gets next."""
        peer = self.progress.get(message.to)
        if peer is None or not peer.reading:
            return
        peer.reading = False
        if peer.state != REPLICATE or peer.window.is_full:
            return
        if not message.runs:
            peer.become_snapshot()  # a mark that is on its way to the disk stands for them
        elif message.runs[0].first == peer.next > self._log.base_index:
            assert self._log.has(message.runs), f"{message.runs[0].first} is not what was saved"
            self._send_runs(peer, message.runs, commit, now)

    def _send_probe(self, peer: Progress, commit: int) -> None:
        """An append without runs: is everything up to here with you?"""
        previous = peer.next - 1
        term = self._log.term_at(previous)
        if term is None or previous < self._log.base_index:
            peer.become_snapshot()
            return
        self._outbox.send(Append(self._me, peer.replica, self._term, previous, term, commit, []))

    def send_timeout_now(self, target: Replica) -> None:
        """The lease ends first, and for the rest of the term (pitfall 36)."""
        self.lease.end()
        self._outbox.send(TimeoutNow(self._me, target, self._term))

    # ------------------------------------------------------------------ snapshots

    def on_snapshot_reply(self, message: SnapshotReply, now: int) -> None:
        """So much of the snapshot has arrived; the next chunk may leave."""
        peer = self.progress[message.sender]
        peer.active_ms = now
        snapshot = peer.snapshot
        if snapshot is None or (message.index, message.snapshot_term) != (
            snapshot.index,
            snapshot.term,
        ):
            return
        if peer.agreed and peer.chunk_sent and message.offset == peer.offset:
            return  # doubled, late, or nothing could be kept: it is asked again in its time
        peer.agreed = True
        peer.chunk_ms = now
        if message.offset > peer.reached:
            peer.reached = message.offset
            peer.moved_ms = now
            if peer.catch_up is not None:
                peer.catch_up.moved_ms = now
        peer.offset = min(message.offset, snapshot.size_bytes)
        # With all of it there, what is missing is the word that it is installed.
        peer.chunk_sent = peer.offset == snapshot.size_bytes

    def on_snapshot_lost(self, snapshot: SnapshotMeta) -> None:
        """It cannot be read any more: whoever was getting it gets the next one."""
        if self.snapshot == snapshot:
            self.snapshot = None
        for peer in self._peers:
            if peer.snapshot == snapshot:
                peer.drop_snapshot()

    def on_snapshot_wanted(self, message: SnapshotWanted, now: int) -> bool:
        """Its machine is lost; False if there is no snapshot that would help it."""
        peer = self.progress[message.sender]
        peer.active_ms = now
        peer.wants_index = message.index
        peer.wants_until_ms = now + self._settings.election_timeout_ms
        if peer.state == SNAPSHOT:
            return True  # it gets one anyway, of more than its log has ever had
        if peer.snapshot is not None and peer.snapshot.index < message.index:
            peer.drop_snapshot()  # it has come so far by itself, and no further
        return self.snapshot is not None and self.snapshot.index >= message.index

    def _forget_wants(self, now: int) -> None:
        for peer in self._peers:
            if peer.wants_index and now >= peer.wants_until_ms:
                peer.wants_index = 0
                if peer.state != SNAPSHOT:
                    peer.drop_snapshot()

    def take_chunks(self) -> list[SendChunk]:
        chunks, self._chunks = self._chunks, []
        return chunks

    def snapshots_in_use(self) -> list[SnapshotMeta]:
        return [peer.snapshot for peer in self._peers if peer.snapshot is not None]

    def log_needed_from(self, now: int) -> int:
        """The log behind this index is needed by who is getting a snapshot (pitfall 40).

        By nobody who has come no nearer to it for long: a receiver whose disk is full begins again
        and again. Nor for longer than ``snapshot_log_bytes_max`` of it has gathered: who is so slow
        begins anew with a newer snapshot.
        """
        timeout_ms = self._settings.election_timeout_ms
        patience_ms = SNAPSHOT_PATIENCE_TIMEOUTS * timeout_ms
        wanted = sorted(
            peer.snapshot.index
            for peer in self._peers
            if peer.snapshot is not None
            and peer.state == SNAPSHOT
            and now - peer.active_ms < timeout_ms
            and now - peer.moved_ms < patience_ms
        )
        for index in wanted:
            if self._log_bytes_behind(index) <= self._settings.snapshot_log_bytes_max:
                return index
        return NEVER_MS

    def _log_bytes_behind(self, index: int) -> int:
        log = self._log
        first = max(log.border_at_or_before(index), log.base_index) + 1
        return log.bytes_from(first)

    def _want_chunk(self, peer: Progress, now: int) -> None:
        newest = self.snapshot
        if (
            peer.state == SNAPSHOT
            and peer.snapshot is not None
            and peer.snapshot.index < self._log.base_index
        ):
            peer.drop_snapshot()  # it would need another one at once
        if peer.snapshot is None:
            if newest is None:
                return
            if peer.state != SNAPSHOT and newest.index < peer.wants_index:
                return  # the next one
            if self._is_busy_with_snapshots(now):
                return
            peer.snapshot = newest
            peer.offset = peer.reached = 0
            peer.moved_ms = now
        elif peer.reached == 0 and newest is not None and newest.index > peer.snapshot.index:
            # It has waited for its turn: not an old one, whose log is perhaps kept for nobody else.
            peer.drop_snapshot()
            peer.snapshot = newest
        peer.chunk_sent = True
        peer.chunk_ms = now
        asks = not peer.agreed
        self._chunks.append(SendChunk(peer.replica, self._term, peer.snapshot, peer.offset, asks))

    def _is_busy_with_snapshots(self, now: int) -> bool:
        """Who gets one and does not come nearer to having it keeps nobody waiting."""
        patience_ms = SNAPSHOT_PATIENCE_TIMEOUTS * self._settings.election_timeout_ms
        under_way = sum(
            peer.snapshot is not None and now - peer.moved_ms < patience_ms for peer in self._peers
        )
        return under_way >= SNAPSHOT_PEERS_MAX

    def _send_chunks_again(self, now: int) -> None:
        again_ms = CHUNK_AGAIN_HEARTBEATS * self._settings.heartbeat_ms
        for peer in self._peers:
            if peer.gets_snapshot and peer.chunk_sent and now - peer.chunk_ms >= again_ms:
                peer.chunk_sent = peer.agreed = False
