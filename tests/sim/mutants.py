"""Deliberate bugs, each of which some system really had: proof that the simulator can fail.

A mutant changes a few lines of production code in this process, and changes them back.  Each has to
be caught by one of the first seeds; ``seeds`` says by how many, for those that need a rare
coincidence.  :mod:`tests.sim.test_mutants` holds that for the others, and that the same seed finds
nothing without the bug; `bin/sim --mutants` tries all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest.mock import patch

from actors import group_admin
from actors.clients import Clients
from actors.group import GroupActor
from actors.machine import MachineActor, Query
from actors.machines.kv import KeyValueMachine
from actors.snapshots import GroupSnapshots
from raft import core as core_module
from raft import leader as leader_module
from raft.configuration import Configuration, History
from raft.core import Core
from raft.leader import Leadership
from raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    Persisted,
    Replica,
    Run,
    Save,
    Vote,
    VoteReply,
)
from raft.outbox import Outbox
from raft.progress import Progress
from raft.reads import Lease, PendingRead, ReadQueue
from raft.roles import CANDIDATE
from raft.state import State
from raft.store import recovery as recovery_module
from raft.store.memory import MemoryFiles
from raft.store.reader import SegmentReader
from raft.store.segments import segment_name

Change = tuple[Any, str, Any]  # (owner, name, replacement)

SEEDS_MAX: Final = 100
RARE_SEEDS_MAX: Final = 400


@dataclass(slots=True, frozen=True)
class Mutant:
    what: str
    changes: Callable[[], list[Change]]
    seeds: int = SEEDS_MAX  # of which one finds it

    @property
    def is_rare(self) -> bool:
        return self.seeds > SEEDS_MAX


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """With this bug in the code; None: with the code as it is."""
    with ExitStack() as stack:
        if name is not None:
            for owner, attribute, replacement in MUTANTS[name].changes():
                stack.enter_context(patch.object(owner, attribute, replacement))
        yield


def _handlers(table: dict[type, Any]) -> list[Change]:
    """The core's dispatch tables with these handlers instead, in whatever role has one."""
    changed = {
        role: {kind: table.get(kind, handler) for kind, handler in handlers.items()}
        for role, handlers in core_module.HANDLERS.items()
    }
    return [(core_module, "HANDLERS", changed)]


def _nothing(*_: Any, **__: Any) -> None:
    """What is left of a method that was forgotten."""


# --------------------------------------------------------------------------- promises, votes


def _impatient(kind: type) -> list[Change]:
    hold = Outbox._hold

    def at_once(outbox: Outbox, number: int, message: PeerMessage) -> None:
        hold(outbox, 0 if type(message) is kind else number, message)

    return [(Outbox, "_hold", at_once)]


def _forgotten_vote() -> list[Change]:
    record = Outbox.record_hard_state

    def without_vote(outbox: Outbox, term: int, vote: object) -> None:
        record(outbox, term, None)

    return [(Outbox, "record_hard_state", without_vote)]


def _second_vote() -> list[Change]:
    grant = Core._on_vote

    def generous(core: Core, message: Vote) -> None:
        core.vote = None
        grant(core, message)

    return _handlers({Vote: generous})


def _vote_cleared() -> list[Change]:
    become = State._become_follower

    def forgetful(core: State, term: int) -> None:
        become(core, term)
        core.vote = None

    return [(State, "_become_follower", forgetful)]


def _old_votes_count() -> list[Change]:
    def anyway(core: Core, message: VoteReply) -> bool:
        return bool(core.role == CANDIDATE)

    return [(core_module, "OLDER_TERM", {**core_module.OLDER_TERM, VoteReply: anyway})]


# --------------------------------------------------------------------------- log and commit


def _leader_counts_its_memory() -> list[Change]:
    count = Leadership.quorum_match

    def hasty(leadership: Leadership, durable_index: int) -> int:
        return count(leadership, leadership._log.last_index)

    return [(Leadership, "quorum_match", hasty)]


def _small_majority() -> list[Change]:
    def half(values: list[int]) -> int:
        return sorted(values, reverse=True)[max(0, (len(values) - 1) // 2 - 1)]

    return [(leader_module, "reached_by_majority", half)]


def _commit_older_term() -> list[Change]:
    maybe = Core._maybe_commit

    def counting(core: Core) -> None:
        leadership = core._leadership
        assert leadership is not None
        core._raise_commit(max(leadership.quorum_match(core.durable_index), core.commit_index))
        maybe(core)

    return [(Core, "_maybe_commit", counting)]


def _truncate_always() -> list[Change]:
    def cut(core: Core, runs: list[Run]) -> None:
        log = core.log
        for position, run in enumerate(runs):
            if run.last <= core.commit_index or run.last <= log.base_index:
                continue
            if run.first <= log.last_index:
                log.truncate_from(run.first)
                core._outbox.record_truncation(run.first)
                if core._history.truncate_from(run.first):
                    core._configuration_changed()
            log.append(runs[position:])
            core._outbox.record_runs(runs[position:])
            core._adopt_configurations(runs[position:])
            return

    return [(Core, "_store_missing", cut)]


def _commit_what_is_not_verified() -> list[Change]:
    on_append = Core._on_append

    def trusting(core: Core, message: Append) -> None:
        on_append(core, message)
        core._raise_commit(min(message.commit, core.log.last_index))

    return _handlers({Append: trusting})


def _heartbeat_tells_all() -> list[Change]:
    def everything(leadership: Leadership, peer: Progress, commit: int) -> None:
        leadership._outbox.send(
            Heartbeat(leadership._me, peer.replica, leadership._term, commit, leadership._round)
        )

    def believing(core: Core, message: Heartbeat) -> None:
        core._follow(message.sender)
        core._raise_commit(min(message.commit, core.log.last_index))
        core._outbox.promise_term(HeartbeatReply(core.me, message.sender, core.term, message.round))

    return [(Leadership, "_send_heartbeat", everything), *_handlers({Heartbeat: believing})]


def _success_proves_what_came_back() -> list[Change]:
    """The race of pitfall 13, in which a truncation lies between an entry and its return."""
    record = Outbox.record_truncation

    def trusting(outbox: Outbox, index: int) -> None:
        proves = [save.proves_index for save in outbox._outstanding]
        record(outbox, index)
        for save, proved in zip(outbox._outstanding, proves, strict=True):
            save.proves_index = proved

    def capped(outbox: Outbox, message: Persisted) -> bool:
        known = persisted(outbox, message)
        outbox.durable_index = min(outbox.durable_index, outbox._disk_index)
        return known

    persisted = Outbox.on_persisted
    return [(Outbox, "record_truncation", trusting), (Outbox, "on_persisted", capped)]


# --------------------------------------------------------------------------- the disk


def _no_sync(name: str) -> list[Change]:
    return [(MemoryFiles, name, _nothing)]


def _damage_is_cut() -> list[Change]:
    """NATS 2.12.1: whatever cannot be read is taken for a torn tail."""

    def cut(recovery: Any, number: int, reader: SegmentReader, stop: Any, last: bool) -> None:
        recovery._result.torn = True
        if reader.offset == 0:
            recovery._result.discard.append(segment_name(number))

    return [(recovery_module._Recovery, "_cut_or_refuse", cut)]


def _sync_again() -> list[Change]:
    """PostgreSQL, until 2018: an fsync that failed is tried again, and has nothing to do."""
    sync = MemoryFiles.fdatasync

    def stubborn(files: MemoryFiles, descriptor: int) -> None:
        try:
            sync(files, descriptor)
        except OSError:
            sync(files, descriptor)

    return [(MemoryFiles, "fdatasync", stubborn)]


# --------------------------------------------------------------------------- reads


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


def _read_before_applied() -> list[Change]:
    on_query = MachineActor._on_query

    def at_once(machine: MachineActor, query: Query) -> list[object]:
        return on_query(machine, Query(query.key, 0, query.requests))

    return [(MachineActor, "_on_query", at_once)]


def _long_lease() -> list[Change]:
    def twice(lease: Lease) -> int:
        return 0 if lease._from_ms is None else lease._from_ms + 2 * lease._duration_ms

    return [(Lease, "until_ms", property(twice))]


# --------------------------------------------------------------------------- members, snapshots


def _half_of_joint() -> list[Change]:
    return [(Configuration, "halves", property(lambda configuration: (configuration.voters,)))]


def _no_way_back() -> list[Change]:
    def keeps(history: History, index: int) -> bool:
        while history._indexes[-1] >= index and len(history._indexes) > 1:
            history._indexes.pop()
            last = history._configurations.pop()
            history._configurations[-1] = last
        return False

    return [(History, "truncate_from", keeps)]


def _impatient_change() -> list[Change]:
    """The next configuration does not wait for the last one (pitfall 22)."""
    advance = Core._advance_change

    def at_once(core: Core) -> None:
        commit = core.commit_index
        core.commit_index = core.log.last_index
        try:
            advance(core)
        finally:
            core.commit_index = commit

    return [(Core, "_advance_change", at_once)]


def _snapshot_without_members() -> list[Change]:
    reset = History.reset

    def keeps(history: History, index: int, configuration: Configuration) -> None:
        reset(history, index, history.latest)

    return [(History, "reset", keeps)]


def _view_is_no_copy() -> list[Change]:
    view = KeyValueMachine.snapshot

    class Shared(dict[str, Any]):
        def copy(self) -> Shared:
            return self

    begin = KeyValueMachine.__init__

    def shared(machine: KeyValueMachine) -> None:
        begin(machine)
        machine._entries = Shared()

    return [(KeyValueMachine, "__init__", shared), (KeyValueMachine, "snapshot", view)]


def _restore_adds() -> list[Change]:
    restore = KeyValueMachine.restore

    def onto(machine: KeyValueMachine, reader: Any, version: int) -> None:
        before = dict(machine._entries)
        restore(machine, reader, version)
        for key, entry in before.items():
            if key not in machine._entries:
                machine._entries[key] = entry
                machine._digest = (machine._digest + entry[2]) & ((1 << 64) - 1)

    return [(KeyValueMachine, "restore", onto)]


def _compacts_too_soon() -> list[Change]:
    """The file goes before the record that names the next one is durable (pitfall 41)."""

    def forgets(snapshots: GroupSnapshots, save: Save) -> None:
        if save.mark is not None:
            snapshots._want_keep()

    return [(GroupSnapshots, "note_save", forgets)]


# --------------------------------------------------------------------------- clients


def _definite(code: int) -> list[Change]:
    finish = Clients.finish_all

    def sure(
        clients: Clients, messages: Any, which: int, text: str, *, maybe_applied: bool
    ) -> None:
        finish(clients, messages, which, text, maybe_applied=maybe_applied and which != code)

    return [(Clients, "finish_all", sure)]


def _hand_back_what_is_appended() -> list[Change]:
    def back(actor: GroupActor) -> None:
        appended, actor._appended = actor._appended, {}
        for messages in appended.values():
            for pending in messages:
                if not pending.answered:
                    pending.appended = False
                    actor.clients.unaccept(pending)

    return [(GroupActor, "_step_down", back)]


def _log_time_is_wall_time() -> list[Change]:
    return [(GroupActor, "_time_ms", lambda actor, now: actor._wall_ms())]


def _forgotten_command() -> list[Change]:
    place, _ = group_admin._COMMANDS["doSnapshot"]
    commands = {**group_admin._COMMANDS, "doSnapshot": (place, _nothing)}
    return [(group_admin, "_COMMANDS", commands)]


NOT_LEADER, TIMEOUT = 4, 6

MUTANTS: Final[dict[str, Mutant]] = {
    # Promises and votes.
    "ack-before-sync": Mutant(
        "acknowledges what is received, not what is durable (pitfall 13)",
        lambda: _impatient(AppendReply),
    ),
    "vote-before-sync": Mutant(
        "votes before the vote is durable (pitfall 1)", lambda: _impatient(VoteReply)
    ),
    "forgotten-vote": Mutant("does not store whom it voted for (pitfall 1)", _forgotten_vote),
    "second-vote": Mutant("votes again in the same term (paper 5.2)", _second_vote),
    "vote-cleared": Mutant("forgets its vote when it steps down (pitfall 2)", _vote_cleared),
    "old-votes-count": Mutant(
        "counts votes of an earlier campaign (pitfall 3)", _old_votes_count, seeds=RARE_SEEDS_MAX
    ),
    "any-log": Mutant(
        "votes for a log that lacks entries (paper 5.4.1)",
        lambda: [(Core, "_is_up_to_date", lambda *_: True)],
    ),
    # Log and commit.
    "leader-memory": Mutant(
        "a leader counts what only its memory holds (pitfall 12)", _leader_counts_its_memory
    ),
    "small-majority": Mutant("half is a majority", _small_majority),
    "commit-older-term": Mutant(
        "commits entries of older terms by counting (pitfall 11)", _commit_older_term
    ),
    "truncate-always": Mutant(
        "a short append cuts what is behind it (pitfall 14)", _truncate_always
    ),
    "unverified-commit": Mutant(
        "commits up to the end of its log, verified or not (pitfall 16)",
        _commit_what_is_not_verified,
    ),
    "heartbeat-commit": Mutant(
        "a heartbeat carries the commit index, whatever the receiver has", _heartbeat_tells_all
    ),
    "success-proves": Mutant(
        "a late success of the disk counts for what came back since (pitfall 13)",
        _success_proves_what_came_back,
    ),
    # The disk.
    "no-sync": Mutant("takes a write for durable without a sync", lambda: _no_sync("fdatasync")),
    "no-directory-sync": Mutant(
        "does not sync the directory of a new file (pitfall 46)", lambda: _no_sync("fsync_dir")
    ),
    "damage-is-cut": Mutant("cuts damage like a torn tail (pitfall 45)", _damage_is_cut),
    "sync-again": Mutant("tries a failed sync again (pitfall 44)", _sync_again),
    # Reads.
    "read-without-round": Mutant(
        "a leader reads without asking whether it still leads",
        _read_without_round,
        seeds=RARE_SEEDS_MAX,
    ),
    "read-in-earlier-round": Mutant(
        "a read joins a round that began before it (pitfall 30)",
        _read_in_earlier_round,
        seeds=RARE_SEEDS_MAX,
    ),
    "read-before-applied": Mutant(
        "a read does not wait for its index (pitfall 31)", _read_before_applied
    ),
    "long-lease": Mutant("a lease of two election timeouts", _long_lease, seeds=RARE_SEEDS_MAX),
    "lease-after-transfer": Mutant(
        "a transfer leaves the lease as it is (pitfall 36)",
        lambda: [(Lease, "end", _nothing)],
        seeds=RARE_SEEDS_MAX,
    ),
    "lease-after-suspend": Mutant(
        "lost time leaves the lease as it is (pitfall 35)",
        lambda: [(Lease, "void", _nothing)],
        seeds=RARE_SEEDS_MAX,
    ),
    # Members and snapshots.
    "half-of-joint": Mutant("one half of a joint configuration decides", _half_of_joint),
    "no-way-back": Mutant(
        "a configuration stays when its entry is cut off (pitfall 23)", _no_way_back
    ),
    "impatient-change": Mutant(
        "the next configuration does not wait for the last (pitfall 22)", _impatient_change
    ),
    "snapshot-without-members": Mutant(
        "a snapshot leaves the configuration as it was (pitfall 25)",
        _snapshot_without_members,
        seeds=RARE_SEEDS_MAX,
    ),
    "shared-view": Mutant("a view goes on changing while it is written", _view_is_no_copy),
    "restore-adds": Mutant("what is restored does not replace all", _restore_adds),
    "early-removal": Mutant(
        "removes a snapshot that the log still names (pitfall 41)",
        _compacts_too_soon,
        seeds=RARE_SEEDS_MAX,
    ),
    # Clients.
    "definite-timeout": Mutant(
        "a time-out is told as a failure (pitfall 52)", lambda: _definite(TIMEOUT)
    ),
    "definite-step-down": Mutant(
        "who steps down says that nothing happened", lambda: _definite(NOT_LEADER)
    ),
    "hand-back-appended": Mutant(
        "what is in the log is handed to the next leader", _hand_back_what_is_appended
    ),
    "forgotten-request": Mutant(
        "a command is accepted and never answered",
        _forgotten_command,
    ),
    "wall-time": Mutant("log time follows the wall clock", _log_time_is_wall_time),
}
