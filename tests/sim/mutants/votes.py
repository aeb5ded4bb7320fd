"""Bugs of promises and votes: two leaders in a term, or none for ever."""

from __future__ import annotations

from typing import Final

from raft import core as core_module
from raft.core import Core
from raft.membership import MembershipRules
from raft.messages import (
    PeerMessage,
    PreVoteReply,
    Transfer,
    Vote,
    VoteReply,
)
from raft.outbox import Outbox
from raft.quorum import WON
from raft.reads import NEVER_MS
from raft.roles import CANDIDATE, LEADER
from raft.state import State
from tests.sim.mutants.mutant import Change, Mutant, handlers


def impatient(kind: type) -> list[Change]:
    """Messages of this kind do not wait for the disk."""
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

    return handlers({Vote: generous})


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


def _by_length() -> list[Change]:
    def longer(core: Core, last_term: int, last_index: int) -> bool:
        return last_index >= core.log.last_index

    return [(Core, "_is_up_to_date", longer)]


def _deaf_pre_candidate() -> list[Change]:
    admit = Core._admit_newer_term

    def unmoved(core: Core, message: PeerMessage) -> bool:
        return type(message) is PreVoteReply or admit(core, message)

    return [(Core, "_admit_newer_term", unmoved)]


def _elects_itself_at_once() -> list[Change]:
    become = State._become_candidate

    def hasty(core: Core, *, transfer: bool = False) -> None:
        become(core, transfer=transfer)
        if core._count(core.me, True) == WON:
            core._become_leader()

    return [
        (State, "_become_candidate", hasty),
        (Outbox, "term_is_durable", property(lambda _: True)),
    ]


def _endless_transfer() -> list[Change]:
    begin, hand_over = MembershipRules._on_transfer, MembershipRules._hand_over

    def for_ever(core: MembershipRules, message: Transfer) -> None:
        begin(core, message)
        if core._handover is not None:
            core._handover.deadline_ms = NEVER_MS

    def once(core: MembershipRules) -> None:
        assert core._handover is not None
        if core._handover.sent_ms is None:
            hand_over(core)

    return [(MembershipRules, "_hand_over", once), *handlers({Transfer: for_ever}, LEADER)]


MUTANTS: Final[dict[str, Mutant]] = {
    "vote-before-sync": Mutant(
        "votes before the vote is durable (pitfall 1)", lambda: impatient(VoteReply)
    ),
    "campaign-before-sync": Mutant(
        "asks for votes before its own is durable (pitfall 1)", lambda: impatient(Vote)
    ),
    "forgotten-vote": Mutant("does not store whom it voted for (pitfall 1)", _forgotten_vote),
    "second-vote": Mutant("votes again in the same term (paper 5.2)", _second_vote),
    "vote-cleared": Mutant("forgets its vote when it steps down (pitfall 2)", _vote_cleared),
    "old-votes-count": Mutant("counts votes of an earlier campaign (pitfall 3)", _old_votes_count),
    "any-log": Mutant(
        "votes for a log that lacks entries (paper 5.4.1)",
        lambda: [(Core, "_is_up_to_date", lambda *_: True)],
    ),
    "longer-log": Mutant("votes for the longer log, not for the later (pitfall 4)", _by_length),
    "deaf-pre-candidate": Mutant(
        "learns no term from who refuses a pre-vote (pitfall 5)", _deaf_pre_candidate
    ),
    "endless-transfer": Mutant(
        "a transfer that fails is never given up (pitfall 6)", _endless_transfer
    ),
    "own-vote-before-sync": Mutant(
        "elects itself before its vote is durable (pitfall 8)", _elects_itself_at_once
    ),
}
