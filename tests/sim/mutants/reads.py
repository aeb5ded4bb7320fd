"""Bugs of reads and leases: a leader of the past answers from the past."""

from __future__ import annotations

from typing import Any, Final

from actors.clock_watch import ClockWatch
from actors.machine import MachineActor, Query
from raft.core import Core
from raft.election import ElectionTimer
from raft.leader import Leadership
from raft.messages import HeartbeatReply, Read, Replica
from raft.reads import Lease, PendingRead, ReadQueue
from raft.roles import CANDIDATE, FOLLOWER, PRE_CANDIDATE
from raft.state import State
from tests.sim.mutants.mutant import Change, Mutant, handlers, nothing

# --------------------------------------------------------------------------- rounds


def _read_without_round() -> list[Change]:
    def all_of_them(queue: ReadQueue, round_: int, commit: int) -> list[PendingRead]:
        return queue.take_all()

    return [(ReadQueue, "take_confirmed", all_of_them)]


def _read_in_earlier_round() -> list[Change]:
    def earlier(
        leadership: Leadership, token: int, commit: int, asker: Replica | None = None
    ) -> bool:
        index = max(commit, leadership.noop_index)
        return leadership._reads.maybe_add(PendingRead(token, leadership._round, index, asker))

    return [(Leadership, "maybe_add_read", earlier)]


def _read_before_own_commit() -> list[Change]:
    def at_once(
        leadership: Leadership, token: int, commit: int, asker: Replica | None = None
    ) -> bool:
        leadership._round_wanted = True
        return leadership._reads.maybe_add(PendingRead(token, leadership._round + 1, commit, asker))

    def confirmed(leadership: Leadership, commit: int) -> list[PendingRead]:
        return leadership._reads.take_confirmed(leadership._confirmed_round(), commit)

    return [(Leadership, "maybe_add_read", at_once), (Leadership, "take_safe_reads", confirmed)]


def _read_before_applied() -> list[Change]:
    on_query = MachineActor._on_query

    def at_once(machine: MachineActor, query: Query) -> list[object]:
        return on_query(machine, Query(query.key, 0, query.requests))

    return [(MachineActor, "_on_query", at_once)]


def _read_of_the_deposed() -> list[Change]:
    lose = State._lose_leadership

    def served(core: State) -> None:
        assert core._leadership is not None
        for read in core._leadership.take_all_reads():
            if read.asker is None:
                core._reads.append((read.token, read.read_index))
        lose(core)

    return [(State, "_lose_leadership", served)]


def _follower_reads_alone() -> list[Change]:
    def at_once(core: Core, message: Read) -> None:
        core._reads.append((message.token, core.commit_index))

    return handlers({Read: at_once}, FOLLOWER, PRE_CANDIDATE, CANDIDATE)


# --------------------------------------------------------------------------- leases


def _long_lease() -> list[Change]:
    def twice(lease: Lease) -> int:
        return 0 if lease._from_ms is None else lease._from_ms + 2 * lease._duration_ms

    return [(Lease, "until_ms", property(twice))]


def _lease_from_answer() -> list[Change]:
    on_reply = Leadership.on_heartbeat_reply

    def later(leadership: Leadership, message: HeartbeatReply, commit: int, now: int) -> None:
        lease = leadership.lease
        before = lease._from_ms
        on_reply(leadership, message, commit, now)
        if lease._from_ms != before:
            lease._from_ms = now

    return [(Leadership, "on_heartbeat_reply", later)]


def _votes_after_restart() -> list[Change]:
    init = ElectionTimer.__init__

    def at_once(timer: ElectionTimer, *rest: Any, now: int, is_restart: bool) -> None:
        init(timer, *rest, now=now, is_restart=False)

    return [(ElectionTimer, "__init__", at_once)]


def _reset_ends_promise() -> list[Change]:
    def ended(timer: ElectionTimer, now: int) -> None:
        timer._alive_until_ms = now
        timer.hurry(now)

    return [(ElectionTimer, "lost_leader", ended)]


MUTANTS: Final[dict[str, Mutant]] = {
    "read-without-round": Mutant(
        "a leader reads without asking whether it still leads (thesis 6.4)", _read_without_round
    ),
    "follower-reads-alone": Mutant(
        "a follower reads without asking the leader (thesis 6.4)", _follower_reads_alone
    ),
    "read-before-own-commit": Mutant(
        "a leader reads before an entry of its own is committed (pitfall 29)",
        _read_before_own_commit,
    ),
    "read-in-earlier-round": Mutant(
        "a read joins a round that began before it (pitfall 30)", _read_in_earlier_round
    ),
    "read-before-applied": Mutant(
        "a read does not wait for its index (pitfall 31)", _read_before_applied
    ),
    "read-of-the-deposed": Mutant(
        "a leader that steps down serves the reads that wait (pitfall 31)", _read_of_the_deposed
    ),
    "long-lease": Mutant("a lease of two election timeouts (pitfall 32)", _long_lease),
    "lease-from-answer": Mutant(
        "a lease begins when the answers come, not when they were asked for (pitfall 32)",
        _lease_from_answer,
    ),
    "reset-ends-promise": Mutant(
        "a broken link ends the promise that a lease rests on (pitfall 32)", _reset_ends_promise
    ),
    "faithless-voter": Mutant(
        "votes while the leader is alive (pitfall 7)",
        lambda: [(ElectionTimer, "may_vote", lambda *_: True)],
    ),
    "votes-after-restart": Mutant(
        "a restart forgets the promise to the leader (pitfall 34)", _votes_after_restart
    ),
    "lease-after-suspend": Mutant(
        "lost time leaves the lease as it is (pitfall 35)", lambda: [(Lease, "void", nothing)]
    ),
    "clocks-not-watched": Mutant(
        "nobody looks whether the clock stood still (pitfall 35)",
        lambda: [(ClockWatch, "look", nothing)],
    ),
    "lease-after-transfer": Mutant(
        "a transfer leaves the lease as it is (pitfall 36)", lambda: [(Lease, "end", nothing)]
    ),
}
