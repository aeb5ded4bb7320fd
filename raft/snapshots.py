"""Snapshots in the eyes of consensus: what they replace, and when that counts (paper 7).

The driver writes, reads, sends and keeps the files; here is decided what they mean.

**Taken** by this replica: the file is durable. The mark that says so goes to the WAL, and only when
that is durable the log up to it may go (pitfall 41): not what a follower will need behind the
snapshot that it is getting (pitfall 40).

**Received** from the leader: each chunk is a sign of life, like an append (pitfall 39). One that is
not newer than what is committed here is answered with that, so that the leader goes on from there
instead of sending it again (pitfall 38). Once all of it is here and durable it is installed:

* if the log has its last entry on the disk, the log is kept: it says the same and more;
* otherwise the log begins anew behind it. Nothing that was acknowledged is lost by that: what is
  behind its last entry in this log conflicts, or was never durable.

The configuration comes from the snapshot in either case in which the log is replaced (pitfalls 17
and 25). The machine hears of it in the same queue as of entries, in their order (pitfall 37), and
not before the WAL knows.
"""

from __future__ import annotations

from raft.errors import Contradiction
from raft.messages import (
    AppendReply,
    ChunkStored,
    Mark,
    SnapshotChunk,
    SnapshotLost,
    SnapshotMeta,
    SnapshotReceived,
    SnapshotReply,
    SnapshotTaken,
)
from raft.reads import NEVER_MS
from raft.rebuild import RebuildRules
from raft.roles import FOLLOWER


class SnapshotRules(RebuildRules):
    """Handlers of everything about snapshots."""

    __slots__ = ()

    # ------------------------------------------------------------------ one of our own

    def _on_snapshot_taken(self, message: SnapshotTaken) -> None:
        snapshot = message.snapshot
        leadership = self._leadership
        # The same index again counts where the file of the last one got lost.
        is_lost = leadership is not None and leadership.snapshot is None
        is_lost = is_lost or 0 < self._needed_index <= snapshot.index
        if self.snapshot is not None and snapshot.index < self.snapshot.index + (not is_lost):
            self._ignore("a newer snapshot is here")
            return
        assert snapshot.index <= self._handed_index, (
            f"snapshot of {snapshot.index}, applied is {self._handed_index} at most"
        )
        assert message.compact_to <= snapshot.index
        log = self.log
        assert log.term_at(snapshot.index) == snapshot.term, "a snapshot of another history"
        assert self._history.at(snapshot.index) == snapshot.configuration, (
            f"a snapshot of {snapshot.index} with the configuration of another moment"
        )
        needed_from = NEVER_MS
        if leadership is not None:
            leadership.snapshot = snapshot
            needed_from = leadership.log_needed_from(self._now)
        base = log.border_at_or_before(min(message.compact_to, needed_from))
        # What an earlier mark has let go of does not come back.
        base = max(base, self._compactions[-1][1] if self._compactions else log.base_index)
        term = log.term_at(base)
        assert term is not None
        self.snapshot = snapshot
        if self._needed_index <= snapshot.index:
            self._needed_index = 0
        mark = Mark(snapshot, base, term, resets=False)
        number = self._outbox.record_mark(mark, safe_index=self._handed_index)
        self._compactions.append((number, base))

    def _compact(self) -> None:
        """Marks have become durable: let go of what they stand for."""
        persisted = self._outbox.persisted_number
        while self._compactions and self._compactions[0][0] <= persisted:
            base = self._compactions.pop(0)[1]
            if base > self.log.base_index:
                self.log.compact_to(base)
        assert self.snapshot is not None
        if self._history.base_index < self.snapshot.index <= self._handed_index:
            self._history.compact_to(self.snapshot.index, self.snapshot.configuration)

    def _on_snapshot_lost(self, message: SnapshotLost) -> None:
        """It stays the one that stands for the log, but there is nothing to send any more."""
        if self._leadership is not None:
            self._leadership.on_snapshot_lost(message.snapshot)

    # ------------------------------------------------------------------ one of the leader's

    def _on_snapshot_chunk(self, message: SnapshotChunk) -> None:
        self._follow(message.sender)
        snapshot = message.snapshot
        if self.wants(snapshot):
            self._check_wanted(snapshot)
            self._received.append(message)
            return
        if snapshot.index <= self.commit_index:
            if self.log.term_at(snapshot.index) not in (None, snapshot.term):
                raise Contradiction(
                    f"{message.sender} has a snapshot of {snapshot.index} with another history"
                )
            self._acknowledge(self.commit_index)
            return
        if self._log_has(snapshot):
            self._keep_log(snapshot)
            return
        self._received.append(message)

    def _on_chunk_stored(self, message: ChunkStored) -> None:
        """Tell the leader how far it has come; if it is not known who that is, he will ask."""
        if self.leader is None or self.leader == self.me:
            return
        snapshot = message.snapshot
        self._outbox.promise_term(
            SnapshotReply(
                self.me, self.leader, self.term, snapshot.index, snapshot.term, message.offset
            )
        )

    def _on_snapshot_received(self, message: SnapshotReceived) -> None:
        snapshot = message.snapshot
        if self.role != FOLLOWER:
            self._become_follower(self.term)  # the log that it stands with is about to be another
        if snapshot.index <= self.commit_index:
            self._ignore("a snapshot that is not newer than what is committed")
            if self.leader is not None:
                self._acknowledge(self.commit_index)
        elif self._log_has(snapshot):
            self._keep_log(snapshot)
        else:
            self._install(snapshot)

    def _log_has(self, snapshot: SnapshotMeta) -> bool:
        return (
            snapshot.index <= self.durable_index
            and self.log.term_at(snapshot.index) == snapshot.term
        )

    def _keep_log(self, snapshot: SnapshotMeta) -> None:
        """What the snapshot stands for is committed, and it is in this log."""
        self._raise_commit(snapshot.index)
        if self.leader is not None:
            self._acknowledge(self.commit_index)

    def _install(self, snapshot: SnapshotMeta) -> None:
        assert snapshot.term <= self.term, "a snapshot of a term that nobody has told of"
        self.log.reset(snapshot.index, snapshot.term)
        self._history.reset(snapshot.index, snapshot.configuration)
        self._configuration_changed()
        self.snapshot = snapshot
        self._needed_index = 0  # it is above what was needed, which is in the log
        self.commit_index = snapshot.index
        self._compactions.clear()
        mark = Mark(snapshot, snapshot.index, snapshot.term, resets=True)
        self._outbox.record_mark(mark, safe_index=self._handed_index)
        self._restoring = snapshot
        if self.leader is not None:
            self._acknowledge(snapshot.index)

    def _acknowledge(self, index: int) -> None:
        assert self.leader is not None
        self._outbox.promise_all(AppendReply(self.me, self.leader, self.term, index))

    def _take_restore(self) -> SnapshotMeta | None:
        """The installed snapshot, once the WAL knows of it."""
        restoring = self._restoring
        if restoring is None or self.durable_index < restoring.index:
            return None
        self._restoring = None
        self._handed_index = restoring.index
        return restoring
