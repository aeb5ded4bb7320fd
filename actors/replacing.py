"""The leader's half of a rebirth: a disk that has lost a group's log comes back as another replica.

Which disk, and as which life of it, the node asks (:mod:`actors.rebirths`); everything else follows
from the configuration in force, so that the question may be asked as often as anybody likes, by
whoever leads by then.  Each time it is answered where things stand, and the next step is begun if
nothing else is under way::

    the life is no member            ->  add it as a learner              "waiting"
    it is a learner, committed       ->  nothing                          "learner": begin it
    it is begun (``placed``)         ->  one joint change: it catches up,
                                         votes, and the lives before go   "waiting"
    none of the lives before is left                                      "done"

**"learner" is more than an answer.**  Its entry is committed, so there is a majority without the
replica that is lost: only then its node lets go of what is left of the log.  Where there is none,
people may still want those remains.

**Given up.**  Of the catalog's own group every node is to be a member.  If no life of its disk is
one, those who are left were told to go on without it (``resetPeers``), and what its log has is of a
history that is over.  It comes back in the same way, only that it takes nobody's place.

**From who leads.**  A life ends by these answers.  So they leave when a majority has said that
nobody else led when the question came: a leader that was deposed and does not know it would speak
of members that were.

**"used"**: the life is a member, and its node does not know that it has begun it: the placement was
put back from an old copy.  What that life has promised is not known there any more; the next one is
asked for.  Or it was begun, is to vote, and is no member: it was given up as well.

**Who lost its log before it was a member** has nothing that a majority could miss: as long as its
disk is wanted, its next life may begin, and offers itself as any newcomer does.

**What comes late** asks for a life that is over.  None of the lives before it is a member then, and
neither is it: refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raft.configuration import Configuration
from raft.core import Core
from raft.lives import LIVES_MAX, earlier_lives, replica_of
from raft.messages import Decision, Reconfigure, Replica
from raft.quorum import majority
from transport import protocol
from transport.frames import UINT64_MAX

if TYPE_CHECKING:
    from actors.clients import Pending
    from actors.group import GroupActor

log = logging.getLogger("polyraft.group")

REPLACE: Final = "replaceReplica"

WAITING: Final = "waiting"
LEARNER: Final = "learner"
DONE: Final = "done"
USED: Final = "used"


@dataclass(slots=True, frozen=True)
class Wanted:
    """``new``, the next life of ``disk``, is to be what one of ``old`` is; ``placed``: its node has
    begun it."""

    disk: Replica
    new: Replica
    old: frozenset[Replica]
    placed: bool


@dataclass(slots=True, frozen=True)
class Standing:
    """Where it stands; or why it cannot go on.  ``change``: (voters, learners) to go to."""

    state: str = WAITING
    error: str = ""
    change: tuple[frozenset[Replica], frozenset[Replica]] | None = None


def encode_question(disk: Replica, life: int, *, placed: bool, timeout_ms: int) -> bytes:
    """RequestBatch with the Admin."""
    options = {
        "incarnation": str(disk.incarnation),
        "life": str(life),
        "placed": "true" if placed else "false",
    }
    return protocol.encode_admin(REPLACE, disk.node, options, timeout_ms)


def read_question(group: int, node: str, options: Mapping[str, str]) -> Wanted | None:
    """None: it does not say which disk, or which life."""
    incarnation, life = (_number(options.get(key, "")) for key in ("incarnation", "life"))
    if not node or not 0 < incarnation <= UINT64_MAX or not 0 < life <= LIVES_MAX:
        return None
    disk = Replica(node, incarnation)
    placed = options.get("placed") == "true"
    return Wanted(disk, replica_of(disk, group, life), earlier_lives(disk, group, life), placed)


def stand(
    core: Core,
    wanted: Wanted,
    now_ms: int,
    *,
    is_to_vote: bool = False,
    is_desired: bool = False,
) -> Standing:
    """``core`` leads; ``is_to_vote``: the disk, whether or not anything of it is a member;
    ``is_desired``: the catalog wants the disk as a member."""
    configuration = core.configuration
    new, old = wanted.new, wanted.old.intersection(configuration.members)
    if not old and new not in configuration and not is_to_vote:
        if is_desired and core.can_serve:
            is_next = not (wanted.placed or core.is_changing)
            return Standing(LEARNER if is_next else WAITING)
        return Standing(error=f"no replica of {new.node} that was lost is a member")
    if core.is_changing:
        return Standing()
    if not wanted.placed:
        return _stand_before(core, wanted, now_ms)
    if not old and new not in configuration:
        return Standing(USED)
    voters, learners = configuration.voters, configuration.learners
    if not old and (new in voters or not is_to_vote):
        return Standing(DONE)
    place = frozenset((new,))
    if is_to_vote or old & voters:
        return Standing(change=((voters - old) | place, learners - old - place))
    return Standing(change=(voters, (learners - old) | (place - voters)))


def _stand_before(core: Core, wanted: Wanted, now_ms: int) -> Standing:
    configuration, new = core.configuration, wanted.new
    if new in configuration.voters:
        return Standing(USED)
    if new in configuration.learners:
        match = next((each.match for each in core.progress() if each.replica == new), 0)
        return Standing(USED if match else LEARNER)
    error = _majority_error(core, configuration, wanted.old, now_ms)
    if error:
        return Standing(error=error)
    return Standing(change=(configuration.voters, configuration.learners | {new}))


def _majority_error(
    core: Core, configuration: Configuration, old: frozenset[Replica], now_ms: int
) -> str:
    """Why the voters that are left cannot agree on anything; empty: they can."""
    timeout_ms = core.settings.election_timeout_ms
    voters = configuration.voters
    heard = {each.replica for each in core.progress() if now_ms - each.active_ms < timeout_ms}
    left = (voters & (heard | {core.me})) - old
    if len(left) >= majority(len(voters)):
        return ""
    return f"only {len(left)} of {len(voters)} voters are heard without it: no majority"


def _number(text: str) -> int:
    """A non-negative number, or -1."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1


class Replacing:
    """Part of the Admins of one group."""

    __slots__ = ("_group",)

    def __init__(self, group: GroupActor) -> None:
        self._group = group

    def accept(self, pending: Pending, node: str, options: Mapping[str, str]) -> None:
        group = self._group
        core, now_ms = group.core, group.now_ms()
        wanted = read_question(group.group, node, options)
        if wanted is None:
            text = f"{REPLACE} names a node, the incarnation of its disk, and a life of it"
            group.clients.refuse(pending.token, protocol.BAD_REQUEST, text)
            return
        standing = stand(
            core,
            wanted,
            now_ms,
            is_to_vote=self._is_to_vote(wanted),
            is_desired=group.admin.members.desires(wanted.disk) and self._is_newest(wanted),
        )
        if standing.error:
            group.clients.refuse(pending.token, protocol.REJECTED, standing.error)
            return
        if standing.change is not None:
            self._begin(wanted, *standing.change)
        values = {"state": standing.state, **self._progress(wanted.new)}
        group.reads.confirm(pending, values)

    def _is_to_vote(self, wanted: Wanted) -> bool:
        """Not in a group of which whoever is left is all that is wanted
        (:mod:`actors.group_members`)."""
        is_wanted = self._group.admin.members.is_to_vote(wanted.disk)
        return self._group.is_system and is_wanted and self._is_newest(wanted)

    def _is_newest(self, wanted: Wanted) -> bool:
        """No life that comes after it is a member."""
        lives = self._group.admin.members.lives_of(wanted.disk)
        return wanted.old.union((wanted.new,)).issuperset(lives)

    def _begin(
        self, wanted: Wanted, voters: frozenset[Replica], learners: frozenset[Replica]
    ) -> None:
        group, new = self._group, wanted.new

        def decided(decision: Decision) -> None:
            # It is asked for again, whatever has come in between.
            if decision.error is not None:
                name = group.group_name
                log.info("group %s: %s is not in its place: %s", name, new, decision.error)

        token = group.admin.expect(decided)
        group.core.step(Reconfigure(token, voters, learners), group.now_ms())

    def _progress(self, replica: Replica) -> dict[str, Any]:
        core = self._group.core
        match = next((each.match for each in core.progress() if each.replica == replica), None)
        return {"match": match, "last": core.last_index}
