"""Bugs of the log: entries that are lost, differ, or count too soon."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from raft import leader as leader_module
from raft.core import Core
from raft.leader import Leadership
from raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Persisted,
    Run,
)
from raft.outbox import Outbox
from raft.progress import Progress
from raft.state import State
from tests.sim.mutants.mutant import Change, Mutant, handlers
from tests.sim.mutants.votes import impatient


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


def _any_predecessor() -> list[Change]:
    on_append = Core._on_append

    def trusting(core: Core, message: Append) -> None:
        known = core.log.term_at(message.prev_index)
        term = message.prev_term if known is None else known
        on_append(core, replace(message, prev_term=term))

    return handlers({Append: trusting})


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

    return handlers({Append: trusting})


def _heartbeat_tells_all() -> list[Change]:
    def everything(leadership: Leadership, peer: Progress, commit: int) -> None:
        leadership._outbox.send(
            Heartbeat(leadership._me, peer.replica, leadership._term, commit, leadership._round)
        )

    def believing(core: Core, message: Heartbeat) -> None:
        core._follow(message.sender)
        core._raise_commit(min(message.commit, core.log.last_index))
        core._outbox.promise_term(HeartbeatReply(core.me, message.sender, core.term, message.round))

    return [(Leadership, "_send_heartbeat", everything), *handlers({Heartbeat: believing})]


def _success_proves_what_came_back() -> list[Change]:
    """The race of pitfall 13, in which a truncation lies between an entry and its return."""
    record, persisted = Outbox.record_truncation, Outbox.on_persisted

    def trusting(outbox: Outbox, index: int) -> None:
        proves = [save.proves_index for save in outbox._outstanding]
        record(outbox, index)
        for save, proved in zip(outbox._outstanding, proves, strict=True):
            save.proves_index = proved

    def capped(outbox: Outbox, message: Persisted) -> bool:
        known = persisted(outbox, message)
        outbox.durable_index = min(outbox.durable_index, outbox._disk_index)
        return known

    return [(Outbox, "record_truncation", trusting), (Outbox, "on_persisted", capped)]


def _hand_out(limit: str) -> list[Change]:
    def too_much(core: State) -> list[Run]:
        last = getattr(core, limit)
        if core._restoring is not None or last <= core.handed_index:
            return []
        runs = core.log.between(core.handed_index + 1, last)
        core._handed_index = last
        return runs

    return [(State, "_take_committed", too_much)]


def _all_is_committed_after_restart() -> list[Change]:
    init = State.__init__

    def begins(core: State, **rest: Any) -> None:
        init(core, **rest)
        core.commit_index = core.log.last_index

    return [(State, "__init__", begins)]


MUTANTS: Final[dict[str, Mutant]] = {
    "commit-older-term": Mutant(
        "commits entries of older terms by counting (pitfall 11)", _commit_older_term
    ),
    "leader-memory": Mutant(
        "a leader counts what only its memory holds (pitfall 12)", _leader_counts_its_memory
    ),
    "ack-before-sync": Mutant(
        "acknowledges what is received, not what is durable (pitfall 13)",
        lambda: impatient(AppendReply),
    ),
    "success-proves": Mutant(
        "a late success of the disk counts for what came back since (pitfall 13)",
        _success_proves_what_came_back,
    ),
    "truncate-always": Mutant(
        "a short append cuts what is behind it (pitfall 14)", _truncate_always
    ),
    "any-predecessor": Mutant(
        "appends behind any entry that stands in that place (paper 5.3)", _any_predecessor
    ),
    "unverified-commit": Mutant(
        "commits up to the end of its log, verified or not (pitfall 16)",
        _commit_what_is_not_verified,
    ),
    "heartbeat-commit": Mutant(
        "a heartbeat carries the commit index, whatever the receiver has (pitfall 16)",
        _heartbeat_tells_all,
    ),
    "small-majority": Mutant("half is a majority (pitfall 17)", _small_majority),
    "apply-uncommitted": Mutant(
        "applies what is durable and not committed (pitfall 18)", lambda: _hand_out("durable_index")
    ),
    "apply-before-sync": Mutant(
        "applies what is committed and not durable here (pitfall 18)",
        lambda: _hand_out("commit_index"),
    ),
    "restart-commits-all": Mutant(
        "a restart takes all that its disk holds for committed (pitfall 19)",
        _all_is_committed_after_restart,
    ),
}
