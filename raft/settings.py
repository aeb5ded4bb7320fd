"""Timing and limits of one group's consensus, with units in their names.

Times are milliseconds of the injected monotonic clock. Key names of other systems are translated by
the configuration (``actors/raft_keys.py``), never here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class RaftSettings:
    """Defaults of the design; every attempt draws up to twice ``election_timeout_ms``."""

    election_timeout_ms: int = 1_000
    heartbeat_ms: int = 100
    retry_min_ms: int = 50  # after a split vote, and when the link to the leader has closed
    retry_max_ms: int = 300
    append_bytes_max: int = 1 << 20  # of run bodies in one Append; a single larger run goes alone
    inflight_messages_max: int = 256  # Appends without an answer, per peer
    inflight_bytes_max: int = 16 << 20
    uncommitted_bytes_max: int = 64 << 20  # run bodies proposed and not yet committed: then BUSY
    commit_notice_ms: int = 10  # how long a new commit index waits for an append to travel with
    reads_pending_max: int = 65_536  # reads waiting for their round; one more fails at once
    lease_reads: bool = False  # serve LEASE reads by the clock; else they are linearizable
    lease_drift_percent: int = 10  # by how much clocks may differ in speed: shortens the lease
    follower_reads: bool = False  # followers and learners serve linearizable reads too
    read_lag_entries_max: int = 10_000  # who lags further behind serves no reads but the leader's
    stale_read_ms_max: int = 10_000  # how long after the leader was heard STALE reads are served
    catch_up_rounds_max: int = 10  # thesis 4.2.1; a new voter that needs more is too slow
    transfer_lag_entries_max: int = 10_000  # who lags further behind does not become leader
    snapshot_chunk_bytes: int = 1 << 20
    snapshot_log_bytes_max: int = 256 << 20  # of log kept for who gets a snapshot; then a newer one

    def __post_init__(self) -> None:
        if self.heartbeat_ms < 1:
            raise ValueError("heartbeat_ms must be at least 1")
        if self.election_timeout_ms < 3 * self.heartbeat_ms:
            raise ValueError("election_timeout_ms must be at least three times heartbeat_ms")
        if not 0 < self.retry_min_ms <= self.retry_max_ms <= self.election_timeout_ms:
            raise ValueError(
                "0 < retry_min_ms <= retry_max_ms <= election_timeout_ms does not hold"
            )
        if self.commit_notice_ms < 1:
            raise ValueError("commit_notice_ms must be at least 1")
        if self.inflight_messages_max < 1 or self.reads_pending_max < 1:
            raise ValueError("inflight_messages_max and reads_pending_max must be at least 1")
        if not 0 <= self.lease_drift_percent < 100:
            raise ValueError("lease_drift_percent must be at least 0 and below 100")
        for name in (
            "read_lag_entries_max",
            "stale_read_ms_max",
            "catch_up_rounds_max",
            "transfer_lag_entries_max",
            "snapshot_chunk_bytes",
            "snapshot_log_bytes_max",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.append_bytes_max < 1:
            raise ValueError("append_bytes_max must be at least 1")
        if self.inflight_bytes_max < self.append_bytes_max:
            raise ValueError("inflight_bytes_max must be at least append_bytes_max")
