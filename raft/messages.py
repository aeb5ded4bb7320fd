"""The vocabulary of consensus: what a replica says to another, to its driver, and hears back.

What may live here: plain slotted records and the numbers that name their kinds. No behaviour beyond
one-line properties, no import but the standard library.

Three families:

* **peer messages** travel between replicas of one group. Every one carries the sender's ``term``;
  ``sender`` and ``to`` are replicas, that is (node id, incarnation) pairs, so that a removed and
  re-added replica never believes old replies (pitfall 21);
* **local messages** come from the driver of this replica: a proposal, a read, the news that a save
  is durable, that time has passed, that the link to a node has closed;
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
from typing import NamedTuple

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


# --------------------------------------------------------------------------- peer messages


@dataclass(slots=True)
class PreVote:
    """Would you vote for me in ``term``? Changes no term and no vote anywhere (thesis 9.6).

    ``term`` is the term the sender *would* campaign in, its own term + 1.
    """

    sender: Replica
    to: Replica
    term: int
    last_index: int
    last_term: int


@dataclass(slots=True)
class PreVoteReply:
    """``term``: the campaign term of the request if granted, otherwise the term of who refuses."""

    sender: Replica
    to: Replica
    term: int
    granted: bool


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


PeerMessage = (
    PreVote | PreVoteReply | Vote | VoteReply | Append | AppendReply | Heartbeat | HeartbeatReply
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
    """Tell me when it is safe to read: one token for all reads that arrived before this message."""

    token: int


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


LocalMessage = Tick | Propose | Read | Persisted | LinkClosed
LOCAL_MESSAGES: tuple[type, ...] = (Tick, Propose, Read, Persisted, LinkClosed)
Message = PeerMessage | LocalMessage


# --------------------------------------------------------------------------- output


@dataclass(slots=True)
class HardState:
    """What must never be forgotten: the term, and who got the vote in it."""

    term: int = 0
    vote: Replica | None = None


@dataclass(slots=True)
class Save:
    """To be written to the WAL, in this order: hard state, truncation, runs.

    ``number`` rises by one with each save. ``truncate_from``: the first index that is to vanish.
    """

    number: int
    hard_state: HardState | None = None
    truncate_from: int | None = None
    runs: list[Run] = field(default_factory=list)

    @property
    def last(self) -> tuple[int, int]:
        """(term, index) of the last entry in this save; (0, 0) without one."""
        if not self.runs:
            return (0, 0)
        run = self.runs[-1]
        return (run.term, run.last)


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
    changed: bool = False  # role, term, leader or "may serve" changed
