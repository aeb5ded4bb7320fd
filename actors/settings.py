"""Every limit of a node, with its unit and what happens when it is reached.

What may live here: numbers with names that belong to no single part, and the relations between
all of them.  A limit that one part can state alone is stated there: sizes on the wire in
``transport/frames.py``, queues of worker links in ``transport/links.py``, draining in
``transport/sockets.py``, lanes of a mailbox in ``actors/runtime/mailbox.py``, one group's
consensus in ``raft/settings.py``, segments in ``raft/store/segments.py``.

The rule: whatever can grow has a bound, and the bound says what it does.

* **refuse**: the caller gets BUSY, whole, with ``retry_after_ms``; nothing was appended;
* **slow down**: work is cut into slices, control messages go in between;
* **drop and count**: only for what the protocol resends by itself (peer traffic), or what nobody
  can be answered for any more (replies to a client that left);
* **restart**: the process is ended by its supervisor.

Operators may set the keys of :mod:`actors.config`; these numbers are for whoever changes the
program.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from actors.runtime.mailbox import CONTROL_MESSAGES_MAX
from raft.settings import RaftSettings
from transport.frames import BATCH_BYTES_MAX, PEER_FRAME_BYTES_MAX

KIB: Final = 1 << 10
MIB: Final = 1 << 20
GIB: Final = 1 << 30

# --------------------------------------------------------------------------- clients

# Refuse.  Request bytes of one client that this node has accepted and not answered yet.
CLIENT_IN_FLIGHT_BYTES_MAX: Final = 64 * MIB
# Refuse.  What a BUSY or NO_LEADER answer asks the client to wait before it tries again.
RETRY_AFTER_MS: Final = 50
# Refuse.  Messages that wait for an answer in the router, from all clients together.
ROUTER_PENDING_MESSAGES_MAX: Final = 200_000
# Refuse.  Messages that this node has forwarded to other nodes and has no answer for.
FORWARDS_IN_FLIGHT_MAX: Final = 50_000
# Answered from the last report, with its age, when a worker is slower than this.
ADMIN_ANSWER_MS_MAX: Final = 1_000

# --------------------------------------------------------------------------- groups

# Refuse.  Run bodies of one group that are proposed and not committed.
GROUP_UNCOMMITTED_BYTES_MAX: Final = 64 * MIB
# Refuse.  Client messages that wait in the mailbox of one group actor.
GROUP_MAILBOX_MESSAGES_MAX: Final = 10_000
# Slow down.  After either of the two, apply lets the control lane be served before it goes on.
APPLY_SLICE_MS_MAX: Final = 10
APPLY_SLICE_ENTRIES_MAX: Final = 1_000
# Refuse: OpenSession gets BUSY.
SESSIONS_PER_GROUP_MAX: Final = 100_000
# Refuse.  How far a sequence may be above ``acknowledged``; bounds what a session remembers.
SESSION_SEQUENCES_MAX: Final = 1_024
# A session that wrote nothing for this much log time is forgotten: SESSION_EXPIRED.
SESSION_EXPIRY_MS: Final = 600_000
# Refuse: wrong usage.  Groups declared at start, and groups that may share a worker.
GROUPS_DECLARED_MAX: Final = 10_000
# Refuse: wrong usage.
MEMBERS_MAX: Final = 64
NODE_ID_BYTES_MAX: Final = 64


# Refuse: wrong usage.  More of them would keep more log, and help against nothing else.
KEEP_SNAPSHOTS_MAX: Final = 2
# Refuse: wrong usage.  Below, a transfer would seem to stand still.
SNAPSHOT_SEND_BYTES_PER_S_MIN: Final = 64 * KIB


@dataclass(slots=True, frozen=True)
class SnapshotSettings:
    """When each replica of a group takes a snapshot, and what of the log stays behind it.

    Operators may set them, as keys of the ``[raft]`` table.
    """

    # Slow down: the log behind the last snapshot that makes the next one due, by either.
    snapshot_entries: int = 100_000
    snapshot_bytes: int = 64 * MIB
    # Kept for replicas that lag a little, and would need the whole snapshot otherwise; both bound.
    snapshot_trailing_entries: int = 10_000
    snapshot_trailing_bytes: int = 16 * MIB
    # Of what is applied, so much is held in memory: of one group, and of all groups of a worker,
    # in even shares.  The rest is read back from the disk by who needs it.
    log_memory_bytes: int = 8 * MIB
    log_memory_worker_bytes: int = 32 * MIB
    # After the first entry that is in no snapshot, at most so long until there is one; 0: never.
    snapshot_interval_ms: int = 1_800_000
    # 2: the one before the newest stays, and the log from there on: for a disk that damages the
    # newest one.
    keep_snapshots: int = 1
    # Slow down: of all groups of a worker together, what is read to be sent; 0: no limit.
    snapshot_send_bytes_per_s: int = 64 * MIB
    # Slow down: so many transfers of a worker at a time, in each direction; the others wait.
    snapshot_transfers_max: int = 4

    def __post_init__(self) -> None:
        if self.snapshot_entries < 1 or self.snapshot_bytes < 1:
            raise ValueError("snapshot_entries and snapshot_bytes must be at least 1")
        if self.snapshot_transfers_max < 1:
            raise ValueError("snapshot_transfers_max must be at least 1")
        if not 1 <= self.keep_snapshots <= KEEP_SNAPSHOTS_MAX:
            raise ValueError(f"keep_snapshots must be 1 to {KEEP_SNAPSHOTS_MAX}")
        if 0 < self.snapshot_send_bytes_per_s < SNAPSHOT_SEND_BYTES_PER_S_MIN:
            least = SNAPSHOT_SEND_BYTES_PER_S_MIN
            raise ValueError(f"snapshot_send_bytes_per_s must be 0 or at least {least}")
        for name in (
            "snapshot_trailing_entries",
            "snapshot_trailing_bytes",
            "log_memory_bytes",
            "log_memory_worker_bytes",
            "snapshot_interval_ms",
            "snapshot_send_bytes_per_s",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")


@dataclass(slots=True, frozen=True)
class DiskSettings:
    """How much room a worker's log wants to have.  Operators may set both, by the same names."""

    # Refuse, with READ_ONLY, while fewer bytes are free on the file system of the log.  Four of the
    # largest segments: the one made ahead, and three for what is in flight, snapshots and the
    # logs of other workers, while somebody finds out.  0: never.
    disk_soft_limit_bytes: int = 256 * MIB
    # Kept for the log of each worker, in a file of zeros: four of the least segments.
    disk_reserve_bytes: int = 4 * MIB


# --------------------------------------------------------------------------- between processes

# Drop and count, per peer and lane; Raft resends.
PEER_CONTROL_QUEUE_BYTES_MAX: Final = 8 * MIB
PEER_BULK_QUEUE_BYTES_MAX: Final = 64 * MIB
# --------------------------------------------------------------------------- processes

# Restart.  Resident bytes of the router: libzmq offers no bound for a message that never ends.
ROUTER_MEMORY_BYTES_MAX: Final = 1 * GIB
ROUTER_MEMORY_CHECK_MS: Final = 1_000
# Slow down.  This many restarts in the period are immediate, further ones are delayed.
RESTART_INTENSITY: Final = 5
RESTART_PERIOD_MS: Final = 60_000
RESTART_BACKOFF_MIN_MS: Final = 500
RESTART_BACKOFF_MAX_MS: Final = 30_000
# Exit 1 naming the holder, when a lock on the data is still held after this.
LOCK_WAIT_MS_MAX: Final = 10_000
# Exit 1 naming the address, when a port or a socket file is still in use after this.
BIND_RETRY_MS_MAX: Final = 5_000
# SIGKILL, when a process has not stopped this long after it was asked to.
STOP_MS_MAX: Final = 10_000

# --------------------------------------------------------------------------- development

# Refuse: wrong usage.  ``--dev N`` is for one machine.
DEV_NODES_MAX: Final = 9

assert 4 * CLIENT_IN_FLIGHT_BYTES_MAX <= ROUTER_MEMORY_BYTES_MAX, "four clients fill the router"
assert BATCH_BYTES_MAX < CLIENT_IN_FLIGHT_BYTES_MAX, "the largest batch could never be accepted"
assert BATCH_BYTES_MAX < GROUP_UNCOMMITTED_BYTES_MAX, "the largest batch could never be accepted"
assert GROUP_UNCOMMITTED_BYTES_MAX == RaftSettings().uncommitted_bytes_max
assert RaftSettings().inflight_bytes_max < PEER_BULK_QUEUE_BYTES_MAX, "one group fills the lane"
assert PEER_FRAME_BYTES_MAX < PEER_BULK_QUEUE_BYTES_MAX, "the largest frame could never be sent"
assert GROUP_MAILBOX_MESSAGES_MAX < ROUTER_PENDING_MESSAGES_MAX, "one group fills the router"
assert GROUP_MAILBOX_MESSAGES_MAX < CONTROL_MESSAGES_MAX, "control would be lost before bulk"
assert FORWARDS_IN_FLIGHT_MAX < ROUTER_PENDING_MESSAGES_MAX
assert APPLY_SLICE_MS_MAX < RaftSettings().heartbeat_ms, "apply would hold heartbeats back"
assert RESTART_BACKOFF_MIN_MS <= RESTART_BACKOFF_MAX_MS < RESTART_PERIOD_MS
