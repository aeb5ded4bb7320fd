"""What a leader knows about one of the others.

::

              match                     next
    ------------|-------------------------|-----------------> the leader's log
    durable there, equal   sent, unanswered   not yet sent

``match`` only rises, ``next`` is where the next append starts: always behind a border between runs,
and always above ``match``. Three states:

* PROBE: where the logs agree is not known, or the line was lost. One append at a time, ``next``
  stays where it is until the answer comes.
* REPLICATE: appends follow each other without waiting, ``next`` runs ahead; the window bounds how
  far, in messages and in bytes.
* SNAPSHOT: what it lacks is in no log any more. A snapshot travels in chunks, one at a time, until
  the peer acknowledges an entry from which the log goes on. How much of it the peer holds is asked
  before the first chunk, and again whenever something was lost: perhaps it holds a part from before
  a restart, of either side.

A lost append in REPLICATE makes the follower refuse the one behind it. If none is behind it,
nothing would ever happen: so ``quiet_ms`` remembers since when something is outstanding without an
answer, and the leader then asks with an empty append (:mod:`raft.leader`).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from raft.messages import Replica, SnapshotMeta
from raft.settings import RaftSettings

PROBE: Final = 0
REPLICATE: Final = 1
SNAPSHOT: Final = 2

STATE_NAMES: Final = ("probe", "replicate", "snapshot")


class Window:
    """Appends on their way to one peer, oldest first: (last index, bytes)."""

    __slots__ = ("_appends", "_bytes", "_bytes_max", "_messages_max")

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        assert messages_max > 0
        assert bytes_max > 0
        self._appends: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._messages_max = messages_max
        self._bytes_max = bytes_max

    @property
    def count(self) -> int:
        return len(self._appends)

    @property
    def bytes(self) -> int:
        return self._bytes

    @property
    def is_full(self) -> bool:
        """The append that fills the window may exceed its bytes: a large run must get through."""
        return len(self._appends) >= self._messages_max or self._bytes >= self._bytes_max

    def add(self, last_index: int, size_bytes: int) -> None:
        assert not self.is_full, "sent into a full window"
        assert not self._appends or last_index > self._appends[-1][0]
        self._appends.append((last_index, size_bytes))
        self._bytes += size_bytes

    def free_to(self, index: int) -> None:
        """Everything up to ``index`` is acknowledged: by index, so a lost answer costs nothing."""
        appends = self._appends
        while appends and appends[0][0] <= index:
            self._bytes -= appends.popleft()[1]
        assert self._bytes >= 0

    def clear(self) -> None:
        self._appends.clear()
        self._bytes = 0


class CatchUp:
    """The rounds in which a new voter comes up to the leader's log (thesis 4.2.1).

    Each round replicates what the log held when it began. Once a round takes less than an election
    timeout, the replica is so close that its vote will not hold commits up.
    """

    __slots__ = ("is_done", "moved_ms", "round", "since_ms", "target_index")

    def __init__(self, target_index: int, now: int) -> None:
        self.round = 1
        self.target_index = target_index
        self.since_ms = now
        self.moved_ms = now  # when it last came nearer, by entries or by bytes of a snapshot
        self.is_done = False

    def on_match(self, match: int, last_index: int, now: int, round_ms_max: int) -> None:
        """It has come to hold everything up to ``match``."""
        self.moved_ms = now
        if self.is_done or match < self.target_index:
            return
        if now - self.since_ms <= round_ms_max:
            self.is_done = True
            return
        self.round += 1
        self.target_index = last_index
        self.since_ms = now
        self.is_done = match >= last_index  # a round in which nothing came takes no time


class Progress:
    """One peer, voter or learner, in the eyes of the leader."""

    __slots__ = (
        "active_ms",
        "agreed",
        "answered_ms",
        "catch_up",
        "chunk_ms",
        "chunk_sent",
        "commit_told",
        "departs_ms",
        "match",
        "moved_ms",
        "next",
        "offset",
        "probe_sent",
        "quiet_ms",
        "reached",
        "reading",
        "replica",
        "round",
        "sent_ms",
        "snapshot",
        "state",
        "votes",
        "wants_index",
        "wants_until_ms",
        "window",
    )

    def __init__(
        self, replica: Replica, *, votes: bool, next_index: int, settings: RaftSettings, now: int
    ) -> None:
        self.replica = replica
        self.votes = votes
        self.match = 0
        self.next = next_index
        self.state: int = PROBE
        # PROBE only: an append is on its way and nothing more is sent until something is heard.
        self.probe_sent = False
        # What it gets next is being read from the disk.
        self.reading = False
        # The highest round of heartbeats that it has answered in this term.
        self.round = 0
        # The highest commit index that a message to it has carried; a lost one is repaired by the
        # next heartbeat, which does not look here.
        self.commit_told = 0
        # When it was last heard of in this term; a new leader gives everybody one election timeout.
        self.active_ms = now
        # When an append with entries last left for it, and when an answer to one last came: what
        # was sent arrives where the line is there.
        self.sent_ms = self.answered_ms = now - settings.heartbeat_ms
        # Since when something is outstanding and no answer has come.
        self.quiet_ms = now
        # Its machine is lost: in any state it gets a snapshot of this index at least, beside what
        # else it gets, for as long as it goes on asking (:mod:`raft.rebuild`). 0: it is well.
        self.wants_index = 0
        self.wants_until_ms = now
        # Which snapshot it gets, how many of its bytes it has, whether it has said so itself since
        # the last loss, whether a chunk is on its way.
        self.snapshot: SnapshotMeta | None = None
        self.offset = 0
        self.agreed = False
        self.reached = 0  # the most it has ever had of it
        self.chunk_sent = False
        self.chunk_ms = now  # since when a chunk is unanswered
        self.moved_ms = now  # when it last came nearer to having the snapshot
        # On its way to vote.
        self.catch_up: CatchUp | None = None
        # It has left the group and is only told so, until this moment.
        self.departs_ms: int | None = None
        self.window = Window(
            messages_max=settings.inflight_messages_max, bytes_max=settings.inflight_bytes_max
        )

    @property
    def gets_snapshot(self) -> bool:
        return self.state == SNAPSHOT or self.wants_index > 0

    @property
    def is_paused(self) -> bool:
        if self.state == REPLICATE:
            return self.reading or self.window.is_full
        return self.state == SNAPSHOT or self.probe_sent

    def become_snapshot(self) -> None:
        """Which snapshot, the leader decides when it can send one."""
        self.state = SNAPSHOT
        self.drop_snapshot()
        self.probe_sent = False
        self.next = self.match + 1
        self.window.clear()

    def drop_snapshot(self) -> None:
        """It gets another one, or none; what it has of this one, it says when it gets it again."""
        self.snapshot = None
        self.offset = 0
        self.agreed = False
        self.chunk_sent = False

    def become_probe(self) -> None:
        """Start again behind what is known to agree: what was on its way may be lost.

        Not for one that gets a snapshot in place of log. One that gets it beside goes on with it.
        """
        assert self.state != SNAPSHOT
        self.state = PROBE
        self.probe_sent = False
        self.next = self.match + 1
        self.window.clear()

    def become_replicate(self) -> None:
        if self.state == SNAPSHOT:
            self.drop_snapshot()
        self.state = REPLICATE
        self.probe_sent = False
        self.next = self.match + 1
        self.window.clear()

    def maybe_match(self, index: int) -> bool:
        """Take an acknowledgement in; False if it is old news."""
        self.window.free_to(index)
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        return True

    def maybe_retreat(self, refused_index: int, agreed_index: int) -> bool:
        """The predecessor ``refused_index`` is not there; ``agreed_index``, a border, may be.

        False if the refusal answers an append that is no longer of interest: with many appends on
        their way behind a lost one each of them is refused, and only the first tells something new.
        """
        if self.state == REPLICATE:
            if not self.match < refused_index < self.next:
                return False
            self.become_probe()
            return True
        if refused_index != self.next - 1:
            return False
        self.next = max(self.match, min(refused_index - 1, agreed_index)) + 1
        self.probe_sent = False
        return True
