"""A machine that is lost while its log is whole: how its replica comes by a snapshot.

A state machine can fail alone: an apply raised, or the snapshot that it was to begin with cannot be
read. Log, term and vote are intact then, so the replica goes on voting, appending and
acknowledging, and a group of which one more replica is down goes on committing. What it needs is a
state of a later moment, which only another replica has.

::

    driver        this replica's core            the leader's core          its driver
    SnapshotNeeded(index) ->
                  leader heard
                  SnapshotWanted(index)  ------->  its newest is older  ->  take_snapshot
                  (again and again)                it is new enough
                         <------------  chunks, as they are sent to anybody
    received  <-  though its index is committed here
    ...           SnapshotReply  --------------->  the next one
    SnapshotReceived ->  nothing: the log says all this and more
    SnapshotTaken ->  it is one of this replica's own from now on

Appends go on beside the chunks: the peer stays in the state that it was in, for a majority may need
its acknowledgements. Nothing here is remembered over a restart of either side, and no answer is
waited for: who wants something says so whenever the leader is heard, by a heartbeat or an append,
but at most twice in a heartbeat interval; a leader that has not heard it for an election timeout
forgets it.

The log is never touched. A snapshot whose last entry is not in this log (the replica lags as well)
takes the usual way: it is installed, and the log begins anew behind it (:mod:`raft.snapshots`).
"""

from __future__ import annotations

from raft.errors import Contradiction
from raft.messages import SnapshotMeta, SnapshotNeeded, SnapshotWanted
from raft.state import State


class RebuildRules(State):
    """Handlers of SnapshotNeeded and SnapshotWanted, and what they change about snapshots."""

    __slots__ = ()

    def _on_snapshot_needed(self, message: SnapshotNeeded) -> None:
        least = 0 if self.snapshot is None else self.snapshot.index
        assert message.index == 0 or message.index >= least, (
            f"needs a snapshot of {message.index}, has one of {least}"
        )
        self._needed_index = message.index

    def wants(self, snapshot: SnapshotMeta) -> bool:
        """Whether the driver needs it for the machine alone: its last entry is in this log."""
        return (
            0 < self._needed_index <= snapshot.index
            and snapshot.index <= self.durable_index
            and self.log.term_at(snapshot.index) == snapshot.term
        )

    def _check_wanted(self, snapshot: SnapshotMeta) -> None:
        """It is to take the place of one of our own, and so must say what the log says."""
        if self._history.at(snapshot.index) != snapshot.configuration:
            raise Contradiction(
                f"{self.leader} has a snapshot of {snapshot.index} with other members"
            )

    def _ask_for_snapshot(self) -> None:
        """With an answer: a leader is followed."""
        assert self.leader is not None
        asked_ms, pause_ms = self._needed_asked_ms, self._settings.heartbeat_ms // 2
        if asked_ms is not None and self._now - asked_ms < pause_ms:
            return
        self._needed_asked_ms = self._now
        self._outbox.promise_term(
            SnapshotWanted(self.me, self.leader, self.term, self._needed_index)
        )

    def _on_snapshot_wanted(self, message: SnapshotWanted) -> None:
        assert self._leadership is not None
        if message.index > self.commit_index:
            self._ignore("a snapshot wanted of what is not committed here yet")
            return
        if not self._leadership.on_snapshot_wanted(message, self._now):
            self._take_wanted = True
