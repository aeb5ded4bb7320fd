"""The vocabulary of consensus: what a replica says to another, to its driver, and hears back.

What may live here: plain slotted records and the numbers that name their kinds. No behaviour beyond
one-line properties, no import but the standard library.

Three families:

* **peer messages** travel between replicas of one group. Every one carries the sender's ``term``;
  ``sender`` and ``to`` are replicas, that is (node id, incarnation) pairs, so that a removed and
  re-added replica never believes old replies (pitfall 21);
* **local messages** come from the driver of this replica: a proposal, a read, a change of
  membership, the news that a save is durable, that time has passed, that a link has closed;
* :class:`Output` is what the core wants done, with its fields in the order in which they are to be
  carried out (see :mod:`raft.core`).

A message is never changed after it was handed over. Times are integer milliseconds of a monotonic
clock that the driver injects.

Entries travel as **runs** (:class:`Run`): a block of consecutive log indexes of one term, encoded
once by the leader. The run is the unit of replication and storage: it is present on a replica as a
whole or not at all, so a log conflict can only lie on a border between runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from raft.configuration import Configuration

# Kinds of run. A kind that a replica does not know stops the replica; it is never skipped.
NOOP = 0
COMMAND = 1
READ = 2
CONFIG = 3
SESSION = 4
TICK = 5
MACHINE_VERSION = 6

KINDS = frozenset((NOOP, COMMAND, READ, CONFIG, SESSION, TICK, MACHINE_VERSION))


class Replica(NamedTuple):
    """Who takes part in a group: a node's name and the random number of its blank disk."""

    node: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.node}#{self.incarnation:016x}"


@dataclass(slots=True)
class Run:
    """Consecutive entries of one term: indexes ``first`` .. ``first + count - 1``.

    ``body`` holds the bytes that the leader encoded, the same on the wire and on every disk;
    ``crc`` is their CRC32C. The core never looks inside ``body``.
    """

    kind: int
    term: int
    first: int
    count: int
    body: bytes
    crc: int

    @property
    def last(self) -> int:
        return self.first + self.count - 1

    @property
    def size_bytes(self) -> int:
        return len(self.body)


@dataclass(slots=True, frozen=True)
class SnapshotMeta:
    """A snapshot of one group: which entry it stands for, and who took part then (pitfall 25).

    ``size_bytes`` and ``crc`` describe the file that holds it; ``time_ms`` is the log time of the
    entry at ``index``. Two snapshots with the same (index, term, crc) have the same bytes.
    """

    index: int
    term: int
    configuration: Configuration
    time_ms: int
    machine_version: int
    size_bytes: int
    crc: int


# How fresh a read has to be.
LINEARIZABLE = 0
LEASE = 1  # linearizable as long as clocks run at about the same speed; else as LINEARIZABLE
STALE = 2  # whatever is here, unless this replica has not heard of a leader for long


# --------------------------------------------------------------------------- peer messages


@dataclass(slots=True)
class PreVote:
    """Would you vote for me in ``term``? Changes no term and no vote anywhere (thesis 9.6).

    ``term`` is the term the sender *would* campaign in, its own term + 1; ``campaign`` numbers its
    attempts, for several may ask for the same term (pitfall 3).
    """

    sender: Replica
    to: Replica
    term: int
    last_index: int
    last_term: int
    campaign: int = 0


@dataclass(slots=True)
class PreVoteReply:
    """``term``: the campaign term of the request if granted, otherwise the term of who refuses.

    ``campaign`` is repeated.
    """

    sender: Replica
    to: Replica
    term: int
    granted: bool
    campaign: int = 0


@dataclass(slots=True)
class Vote:
    """RequestVote (paper 5.2)."""

    sender: Replica
    to: Replica
    term: int
    last_index: int
    last_term: int
    transfer: bool = False


@dataclass(slots=True)
class VoteReply:
    sender: Replica
    to: Replica
    term: int
    granted: bool


@dataclass(slots=True)
class Append:
    """AppendEntries (paper 5.3): ``runs`` follow directly after (``prev_index``, ``prev_term``)."""

    sender: Replica
    to: Replica
    term: int
    prev_index: int
    prev_term: int
    commit: int
    runs: list[Run]


@dataclass(slots=True)
class AppendReply:
    """``rejected`` false: everything up to ``match`` is durable here and equal to the leader's log.

    ``rejected`` true: the entry (``match``, ``its term``) that the append wanted as predecessor is
    not here; (``hint_index``, ``hint_term``) is the last entry at which the logs may still agree.
    """

    sender: Replica
    to: Replica
    term: int
    match: int
    rejected: bool = False
    hint_index: int = 0
    hint_term: int = 0


@dataclass(slots=True)
class Heartbeat:
    """The leader lives. ``commit`` is min(commit, match of the receiver), as lanes overtake.

    ``round`` numbers the leader's rounds within its term; the reply repeats it (pitfall 30).
    """

    sender: Replica
    to: Replica
    term: int
    commit: int
    round: int


@dataclass(slots=True)
class HeartbeatReply:
    sender: Replica
    to: Replica
    term: int
    round: int


@dataclass(slots=True)
class TimeoutNow:
    """Stand for election at once: the leader hands over (thesis 3.10)."""

    sender: Replica
    to: Replica
    term: int


@dataclass(slots=True)
class ReadIndex:
    """A follower or learner asks the leader for an index that a linearizable read is good at."""

    sender: Replica
    to: Replica
    term: int
    token: int


@dataclass(slots=True)
class ReadIndexReply:
    """``index`` 0: the leader cannot say."""

    sender: Replica
    to: Replica
    term: int
    token: int
    index: int


@dataclass(slots=True)
class SnapshotChunk:
    """InstallSnapshot (paper 7): bytes of the snapshot's file from ``offset`` on.

    The last chunk ends at ``snapshot.size_bytes``. One without bytes asks how much is there: it is
    answered like any other. Each is sign enough that the leader lives.
    """

    sender: Replica
    to: Replica
    term: int
    snapshot: SnapshotMeta
    offset: int
    data: bytes


@dataclass(slots=True)
class SnapshotReply:
    """Of the snapshot (``index``, ``snapshot_term``) everything before ``offset`` is here.

    Progress and sign of life at once (pitfall 39). That it is installed, an AppendReply says.
    """

    sender: Replica
    to: Replica
    term: int
    index: int
    snapshot_term: int
    offset: int


@dataclass(slots=True)
class SnapshotWanted:
    """A replica whose machine is lost asks its leader for a snapshot of ``index`` at least.

    Its log lacks nothing. Repeated with every answer to a heartbeat for as long as it holds.
    """

    sender: Replica
    to: Replica
    term: int
    index: int


PeerMessage = (
    PreVote
    | PreVoteReply
    | Vote
    | VoteReply
    | Append
    | AppendReply
    | Heartbeat
    | HeartbeatReply
    | TimeoutNow
    | ReadIndex
    | ReadIndexReply
    | SnapshotChunk
    | SnapshotReply
    | SnapshotWanted
)
PEER_MESSAGES: tuple[type, ...] = (
    PreVote,
    PreVoteReply,
    Vote,
    VoteReply,
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    TimeoutNow,
    ReadIndex,
    ReadIndexReply,
    SnapshotChunk,
    SnapshotReply,
    SnapshotWanted,
)


# --------------------------------------------------------------------------- local messages


@dataclass(slots=True)
class Tick:
    """Time has passed: look at the deadlines."""


@dataclass(slots=True)
class Propose:
    """Append these runs. Only to a leader, for its ``next_index`` and ``term`` exactly."""

    runs: list[Run]


@dataclass(slots=True)
class Read:
    """Tell me when it is safe to read: one token for all reads that arrived before this message.

    On a follower or learner, a LINEARIZABLE or LEASE read asks the leader. A token is never used
    twice, not in another life of the driver either: an answer may be late by any time.
    """

    token: int
    mode: int = LINEARIZABLE


@dataclass(slots=True)
class Persisted:
    """Save ``number`` and all before it are durable; (``term``, ``index``) is the last entry in it.

    ``index`` 0: the save held no entries.
    """

    number: int
    term: int
    index: int


@dataclass(slots=True)
class LinkClosed:
    """The connection to a node was reset (not: is silent)."""

    node: str


@dataclass(slots=True)
class ClockAnomaly:
    """Clocks disagree, or time was lost: whatever was concluded from elapsed time is void
    (pitfalls 33, 35)."""


@dataclass(slots=True)
class Reconfigure:
    """Make exactly these replicas the voters and learners. Answered by a :class:`Decision`.

    Any difference at once: new voters join as learners and catch up first, then the voters change
    by joint consensus (paper 6). One change at a time (pitfall 22).
    """

    token: int
    voters: frozenset[Replica]
    learners: frozenset[Replica] = frozenset()


@dataclass(slots=True)
class Transfer:
    """Hand leadership over to this voter, or to the one that is furthest. A :class:`Decision`."""

    token: int
    to: Replica | None = None


@dataclass(slots=True)
class ResetPeers:
    """The majority is lost for good: go on with these voters alone, this replica among them.

    Local and dangerous: what only the lost ones had is lost, and if they are alive after all, the
    group is split. Refused while a leader is heard, unless ``force``. Answered by a Decision; the
    election that follows goes the usual way.
    """

    token: int
    voters: frozenset[Replica]
    force: bool = False


@dataclass(slots=True)
class SnapshotTaken:
    """The driver holds this snapshot of ours, durably; the log up to ``compact_to`` may go.

    ``compact_to`` is at most ``snapshot.index`` and may lie inside a run, which then stays.
    """

    snapshot: SnapshotMeta
    compact_to: int


@dataclass(slots=True)
class SnapshotLost:
    """The driver cannot read this snapshot any more; it is not to be sent."""

    snapshot: SnapshotMeta


@dataclass(slots=True)
class ChunkStored:
    """Of this leader's snapshot, everything before ``offset`` is with the driver."""

    snapshot: SnapshotMeta
    offset: int


@dataclass(slots=True)
class SnapshotReceived:
    """All chunks are here, checked and durable: install it."""

    snapshot: SnapshotMeta


@dataclass(slots=True)
class RunsRead:
    """What a :class:`ReadRuns` has asked for, in this term or an earlier one: they are committed.

    Without runs: the log on the disk has let go of them, as a snapshot stands for them.
    """

    to: Replica
    runs: list[Run]


@dataclass(slots=True)
class SnapshotNeeded:
    """The machine is lost: a snapshot of ``index`` at least would help it; 0: no longer.

    ``index`` is not below the newest snapshot of this replica. What comes of it is the driver's to
    take (:mod:`raft.rebuild`): the log and the votes stay as they are.
    """

    index: int


LocalMessage = (
    Tick
    | Propose
    | Read
    | Persisted
    | LinkClosed
    | ClockAnomaly
    | Reconfigure
    | Transfer
    | ResetPeers
    | SnapshotTaken
    | SnapshotLost
    | ChunkStored
    | SnapshotReceived
    | RunsRead
    | SnapshotNeeded
)
LOCAL_MESSAGES: tuple[type, ...] = (
    Tick,
    Propose,
    Read,
    Persisted,
    LinkClosed,
    ClockAnomaly,
    Reconfigure,
    Transfer,
    ResetPeers,
    SnapshotTaken,
    SnapshotLost,
    ChunkStored,
    SnapshotReceived,
    RunsRead,
    SnapshotNeeded,
)
Message = PeerMessage | LocalMessage


# --------------------------------------------------------------------------- output


@dataclass(slots=True)
class HardState:
    """What must never be forgotten: the term, and who got the vote in it."""

    term: int = 0
    vote: Replica | None = None


@dataclass(slots=True)
class Mark:
    """From here on ``snapshot`` stands for the log up to its index.

    ``base_index``, ``base_term``: the entry before the first one that the log keeps, a border
    between runs. Behind ``snapshot.index`` lies nothing of the old log if ``resets``: then the log
    begins anew there, and base and snapshot are the same entry.
    """

    snapshot: SnapshotMeta
    base_index: int
    base_term: int
    resets: bool


@dataclass(slots=True)
class Save:
    """To be written to the WAL, in this order: hard state, truncation, mark, runs.

    ``number`` rises by one with each save. ``truncate_from``: the first index that is to vanish.
    """

    number: int
    hard_state: HardState | None = None
    truncate_from: int | None = None
    runs: list[Run] = field(default_factory=list)
    mark: Mark | None = None

    @property
    def last(self) -> tuple[int, int]:
        """(term, index) of the last entry in this save; (0, 0) without one."""
        if not self.runs:
            return (0, 0)
        run = self.runs[-1]
        return (run.term, run.last)


@dataclass(slots=True)
class Decision:
    """What became of a Reconfigure, Transfer or ResetPeers.

    ``error`` None: done, ``index`` is that of the configuration in force. ``unknown``: it was begun
    and may yet take effect; otherwise an error means that nothing was changed.
    """

    token: int
    error: str | None = None
    index: int = 0
    unknown: bool = False


@dataclass(slots=True)
class SendChunk:
    """Read this snapshot from ``offset`` on and send a SnapshotChunk of this ``term``; none is on
    its way.  ``asks``: without bytes, for it is not known how much of it is there."""

    to: Replica
    term: int
    snapshot: SnapshotMeta
    offset: int
    asks: bool = False


@dataclass(slots=True)
class ReadRuns:
    """Read these runs, whose bodies are on the disk alone, and step a :class:`RunsRead`, whatever
    comes of it; none is on its way for this receiver."""

    to: Replica
    first: int
    last: int


@dataclass(slots=True)
class Output:
    """What is to be done now, field by field in this order.

    ``messages`` promise nothing that is not durable: either they need no disk, or the save that
    they wait for has been reported as persisted.
    """

    messages: list[PeerMessage] = field(default_factory=list)
    save: Save | None = None
    apply: list[Run] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)  # (token, read index)
    reads_failed: list[int] = field(default_factory=list)  # tokens; leadership was lost
    changed: bool = False  # role, term, leader, configuration or "may serve" changed
    restore: SnapshotMeta | None = None  # durable: the machine is to become this, before ``apply``
    send_chunks: list[SendChunk] = field(default_factory=list)
    received: list[SnapshotChunk] = field(default_factory=list)  # of the leader, to be kept
    decisions: list[Decision] = field(default_factory=list)
    read_runs: list[ReadRuns] = field(default_factory=list)
    take_snapshot: bool = False  # somebody waits for a newer one than there is; said again
