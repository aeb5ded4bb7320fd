"""Who is a member of a group: the Admins that change it, and how a change comes about.

**Two truths.**  The catalog says which members are *wanted*; the group's own log says which there
*are*.  Whoever leads the group makes the one follow the other, and does so whether or not anybody
still waits for it::

    Admin at the group's leader --SET_MEMBERS--> catalog: wanted
                                                    |   told to every node, by each to its workers
      nodes that are to have a replica make one,    +
      and offer it to the leader                    |   leader: wanted is not what is -> Reconfigure
                                                    |   (learner, catch up, joint, done)
      nodes that are to have none any more ask the leader, and forget theirs when it agrees

Each step is idempotent and looks at nothing but the two truths, so the next leader, or the next
life of a node, goes on where somebody died.

**Disks and lives.**  The catalog wants disks; the members are replicas, each a life of one
(:mod:`raft.lives`).  Any life of a disk that is a member is what was wanted, and two of one disk
are a rebirth under way (:mod:`actors.replacing`), which is left alone.  Of a disk that has none
among the members the leader cannot know which life it is to be.  The node says so: it *offers* its
replica, and goes on until it is one of the members.  So nothing begins before a newcomer is there.
Of several, who is there does not wait for who is not: that one may never come.

**An Admin** is answered when its change is committed.  Until the catalog has taken it nothing has
happened; from then on it stands, also beyond its deadline and the life of its leader.  A change
that failed for good while this leader led, for the newcomer did not show itself or did not catch
up, is taken out of the catalog again.  What is wanted for another reason (a new disk in the place
of an old one) is tried again, with growing pauses.

One change at a time: a second Admin is refused while the first is under way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from actors.clients import Pending
from actors.group_messages import AskCatalog, CatalogAnswered, DesiredMembers
from actors.member_resets import Resets
from actors.runtime import StartTimer
from raft.configuration import Configuration
from raft.lives import DERIVED_BIT, LIVES_MAX, incarnation_of, replica_of
from raft.membership import NEWCOMER_SILENT_TIMEOUTS
from raft.messages import Decision, Reconfigure, Replica
from transport import protocol
from transport.frames import UINT64_MAX
from transport.protocol import AdminOperation

if TYPE_CHECKING:
    from actors.group import GroupActor
    from actors.group_admin import GroupAdmin

TIMER: Final = "members"
LOOK_AGAIN_MS: Final = 300  # while a step is under way of which no news comes by itself
ASK_AGAIN_MS: Final = 5_000  # a question to the catalog whose answer was lost on the way
PAUSE_MS_MIN: Final = 1_000  # after a change that failed; doubled each time
PAUSE_MS_MAX: Final = 60_000
NAMES_MAX: Final = 64  # nodes that one Admin names

Target = tuple[frozenset[Replica], frozenset[Replica]]  # voters, learners


@dataclass(slots=True)
class _Order:
    """An Admin under way.  ``version``: of the catalog's entry that took it; 0 before."""

    pending: Pending
    given_up_ms: int  # unless the newcomers have shown themselves by then
    version: int = 0


@dataclass(slots=True)
class _Question:
    """To the catalog, until it is answered."""

    ask: AskCatalog
    then: Callable[[CatalogAnswered], None]
    again_ms: int


class GroupMembers:
    """Part of one group actor."""

    __slots__ = (
        "_admin",
        "_change",
        "_desired",
        "_effects",
        "_failures",
        "_group",
        "_not_before_ms",
        "_offers",
        "_order",
        "_questions",
        "_timer_ms",
        "_token",
        "resets",
    )

    def __init__(self, group: GroupActor, admin: GroupAdmin) -> None:
        self._group = group
        self._admin = admin
        self._desired: DesiredMembers | None = None
        self._order: _Order | None = None
        self._change: DesiredMembers | None = None  # what the core is asked to bring about
        self.resets = Resets(group, admin, self)
        self._failures = 0
        self._not_before_ms = 0
        self._offers: dict[Replica, Replica] = {}  # disk -> its replica, while this one leads
        self._questions: dict[int, _Question] = {}
        self._token = 0
        self._effects: list[object] = []
        self._timer_ms: int | None = None

    # ------------------------------------------------------------------ Admins

    def change_peers(self, pending: Pending, admin: AdminOperation) -> None:
        """Exactly these nodes vote; learners that are not among them stay."""
        named = self._named(pending, admin)
        if named is not None:
            _, learners = self.present()
            self._begin(pending, named, learners - named)

    def remove_peers(self, pending: Pending, admin: AdminOperation) -> None:
        """Who is no member is removed already."""
        named = self._named(pending, admin)
        if named is not None:
            voters, learners = self.present()
            self._begin(pending, voters - named, learners - named)

    def add_learner(self, pending: Pending, admin: AdminOperation) -> None:
        named = self._named(pending, admin)
        if named is None:
            return
        voters, learners = self.present()
        voting = sorted(named & voters)
        if voting:
            self._refuse(pending, protocol.BAD_REQUEST, f"{', '.join(voting)} votes already")
        else:
            self._begin(pending, voters, learners | named)

    def offer(self, pending: Pending, admin: AdminOperation) -> None:
        """A node that is to have a replica has made one, and waits to become a member.

        Or it was one (``was_member``): then it may have been given up meanwhile (``resetPeers``).
        """
        disk, replica = self._read_replica(admin)
        core, desired = self._group.core, self._desired
        if disk is None or replica is None:
            text = f"{admin.command} names a node, the incarnation of its disk, and a life of it"
            self._refuse(pending, protocol.BAD_REQUEST, text)
        elif desired is None or disk not in desired.voters | desired.learners:
            self._refuse(pending, protocol.REJECTED, f"{disk} is not wanted, as far as is known")
        elif not core.is_changing and replica in core.configuration:
            self._answer_at_once(pending, {"member": True})
        elif admin.options.get("was_member") == "true" and not self.lives_of(disk):
            # Never as who it was: what its log has may be of another history.
            given_up = core.can_serve and not core.is_changing
            self._group.reads.confirm(pending, {"member": False, "given_up": given_up})
        else:
            self._offers[disk] = replica
            self._answer_at_once(pending, {"member": False})
            self.look()

    def may_leave(self, pending: Pending, admin: AdminOperation) -> None:
        """A node that is to have no replica any more asks whether its own may be forgotten.

        Only the leader can say so: what the replica has in its log may be behind.
        """
        disk, replica = self._read_replica(admin)
        core, desired = self._group.core, self._desired
        if disk is None or replica is None:
            text = f"{admin.command} names a node, the incarnation of its disk, and a life of it"
            self._refuse(pending, protocol.BAD_REQUEST, text)
        elif not core.can_serve or core.is_changing or desired is None:
            text = "the members are changing, or not settled yet"
            self._refuse(pending, protocol.REJECTED, text)
        elif disk in desired.voters | desired.learners or self.lives_of(disk):
            text = f"{disk} is a member of group {self._group.group_name}"
            self._refuse(pending, protocol.REJECTED, text)
        else:
            self._group.reads.confirm(pending, {})

    def desires(self, disk: Replica) -> bool:
        """Whether it is to be a member, as far as is known here."""
        desired = self._desired
        return desired is not None and disk in desired.voters | desired.learners

    def _read_replica(self, admin: AdminOperation) -> tuple[Replica | None, Replica | None]:
        """The disk that a node speaks of, and its replica; None: it names none."""
        incarnation, life = (_number(admin.options.get(key, "")) for key in ("incarnation", "life"))
        if not admin.value or not 0 < incarnation <= UINT64_MAX or not 0 <= life <= LIVES_MAX:
            return None, None
        disk = Replica(admin.value, incarnation)
        return disk, replica_of(disk, self._group.group, life)

    def is_to_vote(self, disk: Replica) -> bool:
        """As the catalog wants it."""
        return self._desired is not None and disk in self._desired.voters

    def lives_of(self, disk: Replica) -> list[Replica]:
        """Members that are lives of it."""
        group, members = self._group.group, self._group.core.configuration.members
        return [each for each in members if _is_life(disk, each, group)]

    def _named(self, pending: Pending, admin: AdminOperation) -> frozenset[str] | None:
        """The nodes that the value names; None: it was refused."""
        group = self._group
        named = frozenset(name for part in admin.value.split(",") if (name := part.strip()))
        if group.is_system:
            text = "all nodes are members of _system: replace, add or remove a node instead"
        elif not named:
            text = f"{admin.command} needs the nodes it is about, separated by commas"
        elif len(named) > NAMES_MAX:
            text = f"{admin.command} names at most {NAMES_MAX} nodes"
        else:
            return named
        self._refuse(pending, protocol.BAD_REQUEST, text)
        return None

    def _begin(self, pending: Pending, voters: frozenset[str], learners: frozenset[str]) -> None:
        core = self._group.core
        if not voters:
            self._refuse(pending, protocol.BAD_REQUEST, "nobody would remain who votes")
            return
        if self._order is not None or self.resets.is_under_way:
            self._refuse(pending, protocol.REJECTED, "another change of membership is under way")
            return
        if self._is_settled and (voters, learners) == self.present():
            self._answer_at_once(pending, {**self._shown(), "changed": False})
            return
        if core.is_transferring or not core.can_serve:
            text = "leadership is changing hands: try again"
            self._refuse(pending, protocol.REJECTED, text)
            return
        if self._change is not None or core.is_changing:
            self._refuse(pending, protocol.REJECTED, "another change of membership is under way")
            return
        silent = self._silent_among(voters)
        if 2 * len(silent) >= len(voters):
            text = f"no majority of the new voters is alive: {', '.join(silent)} cannot be heard"
            self._refuse(pending, protocol.REJECTED, text)
            return
        pending.appended = True  # from now on it may take effect
        self._group.clients.admit(pending)
        patience_ms = NEWCOMER_SILENT_TIMEOUTS * core.settings.election_timeout_ms
        self._order = _Order(pending, self._group.now_ms() + patience_ms)
        self.set_wanted(voters, learners, self._on_order_taken)

    def _silent_among(self, voters: frozenset[str]) -> list[str]:
        """Nodes that are to vote and are not heard, as any life of theirs.  Newcomers have to show
        themselves anyway."""
        core, now = self._group.core, self._group.now_ms()
        silence_ms = core.settings.election_timeout_ms
        members = [peer for peer in core.progress() if peer.replica in core.configuration]
        heard = {it.replica.node for it in members if now - it.active_ms < silence_ms}
        return sorted(voters & {it.replica.node for it in members} - heard)

    def _lacks_majority(self, voters: frozenset[Replica]) -> bool:
        """Members that are to vote, and are silent, or have not answered this leader yet, would be
        half of those who decide, or more."""
        core, now = self._group.core, self._group.now_ms()
        silence_ms = core.settings.election_timeout_ms
        silent = [
            peer.replica
            for peer in core.progress()
            if peer.replica in voters and (not peer.match or now - peer.active_ms >= silence_ms)
        ]
        return 2 * len(silent) >= len(voters)

    def _has_unheard(self, voters: frozenset[Replica]) -> bool:
        """A learner that is to vote has never answered: it may be a life that has not begun."""
        newcomers = voters - self._group.core.configuration.voters
        return any(
            each.replica in newcomers and not each.match for each in self._group.core.progress()
        )

    def present(self) -> tuple[frozenset[str], frozenset[str]]:
        """Names of voters and learners, as the log has them; of a rebirth under way it counts what
        votes."""
        configuration = self._group.core.configuration
        voters = _names(configuration.voters)
        return voters, _names(configuration.learners) - voters

    @property
    def _is_settled(self) -> bool:
        """The members are those that are wanted, as far as is known here."""
        core, desired = self._group.core, self._desired
        if core.is_changing or self._change is not None:
            return False
        if desired is None:
            return True
        target, is_all = self._target(desired)
        return is_all and _is_in_force(core.configuration, target)

    def _target(self, desired: DesiredMembers) -> tuple[Target, bool]:
        """The replicas that are to be voters and learners, and whether these are all.

        As long as one has not shown itself, nobody goes, nor loses a vote, but for another disk of
        the same node: there are not to be fewer while somebody is waited for.
        """
        configuration = self._group.core.configuration
        is_all = True
        voters: set[Replica] = set()
        learners: set[Replica] = set()
        for disks, part in ((desired.voters, voters), (desired.learners, learners)):
            for disk in disks:
                lives = self.lives_of(disk)
                if len(lives) > 1:  # somebody else's change: each stays what it is
                    voters |= configuration.voters.intersection(lives)
                    learners |= configuration.learners.intersection(lives)
                elif lives:
                    part.add(lives[0])
                elif disk in self._offers:
                    part.add(self._offers[disk])
                else:
                    is_all = False
        if not is_all:
            shown = _names(frozenset(voters | learners))
            voters |= {
                each for each in configuration.voters if each in learners or each.node not in shown
            }
            learners |= {each for each in configuration.learners if each.node not in shown}
        return (frozenset(voters), frozenset(learners - voters)), is_all

    def _shown(self) -> dict[str, Any]:
        voters, learners = self.present()
        return {"members": sorted(voters), "learners": sorted(learners)}

    def _answer_at_once(self, pending: Pending, values: dict[str, Any]) -> None:
        self._group.clients.admit(pending)
        self._group.clients.finish_json(pending, values)

    def _refuse(self, pending: Pending, code: int, text: str) -> None:
        """Before it was admitted."""
        self._group.clients.refuse(pending.token, code, text)

    # ------------------------------------------------------------------ the catalog

    def set_wanted(
        self,
        voters: Iterable[str],
        learners: Iterable[str],
        then: Callable[[CatalogAnswered], None],
        if_version: int = 0,
    ) -> None:
        options = {"voters": ",".join(sorted(voters)), "learners": ",".join(sorted(learners))}
        if if_version:
            options["if_version"] = str(if_version)
        self._token += 1
        ask = AskCatalog(
            self._group.group, self._token, "setMembers", self._group.group_name, options
        )
        self._questions[self._token] = _Question(ask, then, self._group.now_ms() + ASK_AGAIN_MS)
        self._effects.append(ask)

    def on_answered(self, message: CatalogAnswered) -> None:
        question = self._questions.pop(message.token, None)
        if question is not None:
            question.then(message)
            self.look()

    def on_desired(self, message: DesiredMembers) -> None:
        """The newest word of the catalog counts; two may come in any order."""
        if self._desired is None or message.version > self._desired.version:
            self._desired = message
            # Who is wanted no more comes back as another life, if at all, and then says so.
            disks = message.voters | message.learners
            self._offers = {disk: it for disk, it in self._offers.items() if disk in disks}
            self._failures = self._not_before_ms = 0
            self.look()

    def on_wanted(self, answered: CatalogAnswered) -> None:
        """The catalog has taken what was asked of it: that counts from now on."""
        self.on_desired(_read_members(answered.data))

    def _on_order_taken(self, answered: CatalogAnswered) -> None:
        order = self._order
        if order is None:
            return  # this replica leads no more, and has said so
        if answered.code == protocol.OK:
            desired = _read_members(answered.data)
            order.version = desired.version
            self.on_desired(desired)
            return
        self._order = None
        definite = answered.code in (protocol.REJECTED, protocol.BAD_REQUEST)
        text = answered.text if definite else f"the catalog does not answer: {answered.text}"
        code = protocol.REJECTED if definite else protocol.UNAVAILABLE
        self._finish(order, code, text, maybe_applied=not definite)

    def _finish(self, order: _Order, code: int, text: str, *, maybe_applied: bool) -> None:
        self._group.clients.finish_all([order.pending], code, text, maybe_applied=maybe_applied)

    # ------------------------------------------------------------------ what is wanted and what is

    def look(self) -> None:
        """Take the next step, if there is one to take.  Called whenever something has changed."""
        group, order, desired = self._group, self._order, self._desired
        core = group.core
        if not core.is_leader:
            self._change = None
            self._failures = self._not_before_ms = 0
            self._offers.clear()
            # An order whose answer was lost is not given again: it could undo the next leader's.
            self._questions = {
                token: each
                for token, each in self._questions.items()
                if each.then != self._on_order_taken
            }
            if order is not None:
                self._order = None
                text = (
                    "leadership was lost; whoever leads next goes on with the change, if it stands"
                )
                self._finish(order, protocol.NOT_LEADER, text, maybe_applied=True)
            return
        if desired is None or self._change is not None or self.resets.is_under_way:
            return
        if core.is_changing or not core.can_serve or core.is_transferring:
            self._look_at(group.now_ms() + LOOK_AGAIN_MS)
            return
        target, is_all = self._target(desired)
        if not is_all and order is not None:
            self._await_newcomers(desired)
        elif _is_in_force(core.configuration, target):
            if is_all:
                self._on_done(desired)
        elif group.now_ms() < self._not_before_ms:
            self._look_at(self._not_before_ms)
        elif self._lacks_majority(target[0]) or (order is None and self._has_unheard(target[0])):
            # Those that are lost may come back as others first; behind a joint configuration that
            # nobody can leave they could not, nor while one of them is waited for to catch up.
            self._look_at(group.now_ms() + LOOK_AGAIN_MS)
        else:
            self._change = desired
            token = self._admin.expect(self._on_decision)
            core.step(Reconfigure(token, *target), group.now_ms())

    def _await_newcomers(self, desired: DesiredMembers) -> None:
        """They are to show themselves; who has asked for them does not wait for ever."""
        order = self._order
        if order is None or order.version != desired.version:
            return
        if self._group.now_ms() < order.given_up_ms:
            self._look_at(order.given_up_ms)
            return
        missing = sorted(
            disk.node
            for disk in desired.voters | desired.learners
            if disk not in self._offers and not self.lives_of(disk)
        )
        self._give_up(order, f"{', '.join(missing)} has not shown its replica: does the node run?")

    def _give_up(self, order: _Order, text: str) -> None:
        """Nobody wants any more what could not be had."""
        self._order = None
        self._finish(order, protocol.REJECTED, text, maybe_applied=False)
        self.set_wanted(*self.present(), _nothing_more, if_version=order.version)

    def _on_done(self, desired: DesiredMembers) -> None:
        order, self._failures = self._order, 0
        if order is not None and 0 < order.version <= desired.version:
            self._order = None
            if not order.pending.answered:
                clients = self._group.clients
                clients.finish_json(order.pending, {**self._shown(), "changed": True})

    def _on_decision(self, decision: Decision) -> None:
        change, order = self._change, self._order
        self._change = None
        if decision.error is None or change is None:
            if change is not None:
                # At once: this replica may have ceased to lead by it.
                self._on_done(change)
            self.look()
            return
        if order is not None and order.version == change.version:
            if decision.unknown:
                self._order = None
                self._finish(order, protocol.INTERNAL, decision.error, maybe_applied=True)
            else:
                self._give_up(order, decision.error)
        self._failures += 1
        pause_ms = min(PAUSE_MS_MAX, PAUSE_MS_MIN << min(self._failures - 1, 10))
        self._not_before_ms = self._group.now_ms() + pause_ms
        self.look()

    # ------------------------------------------------------------------ time

    def _look_at(self, due_ms: int) -> None:
        if self._timer_ms is None or due_ms < self._timer_ms:
            self._timer_ms = due_ms
            self._effects.append(StartTimer(TIMER, due_ms))

    def on_timer(self) -> None:
        self._timer_ms = None
        now = self._group.now_ms()
        for question in self._questions.values():
            if question.again_ms <= now:
                question.again_ms = now + ASK_AGAIN_MS
                self._effects.append(question.ask)
        self.look()

    def take_effects(self) -> list[object]:
        """At the end of a turn."""
        if self._questions:
            self._look_at(min(each.again_ms for each in self._questions.values()))
        effects, self._effects = self._effects, []
        return effects

    @property
    def is_dirty(self) -> bool:
        return bool(self._effects or self._questions)


def _nothing_more(answered: CatalogAnswered) -> None:
    """What came of it, the catalog tells everybody; a refusal says that something newer counts."""


def _is_in_force(configuration: Configuration, target: Target) -> bool:
    return (configuration.voters, configuration.learners) == target


@lru_cache(maxsize=4_096)
def _is_life(disk: Replica, replica: Replica, group: int) -> bool:
    if replica.node != disk.node:
        return False
    if not replica.incarnation & DERIVED_BIT:
        return replica.incarnation == disk.incarnation
    return any(
        incarnation_of(disk.incarnation, group, life) == replica.incarnation
        for life in range(1, LIVES_MAX + 1)
    )


def _names(replicas: Iterable[Replica]) -> frozenset[str]:
    return frozenset(replica.node for replica in replicas)


def _number(text: str) -> int:
    """A non-negative number, or -1."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1


def _read_members(data: bytes) -> DesiredMembers:
    """The catalog's answer to setMembers."""
    values = json.loads(data)
    return DesiredMembers(
        values["version"], _read_pairs(values["voters"]), _read_pairs(values["learners"])
    )


def _read_pairs(pairs: Iterable[tuple[str, str]]) -> frozenset[Replica]:
    return frozenset(Replica(node, int(number, 16)) for node, number in pairs)


Handler = Callable[[GroupMembers, Pending, AdminOperation], None]

# What the leader of the group does.  Two names of nacos for one thing (docs/protocol.md).
COMMANDS: Final[Mapping[str, Handler]] = {
    "changePeers": GroupMembers.change_peers,
    "restRaftCluster": GroupMembers.change_peers,
    "resetRaftCluster": GroupMembers.change_peers,
    "removePeer": GroupMembers.remove_peers,
    "removePeers": GroupMembers.remove_peers,
    "addLearner": GroupMembers.add_learner,
    "offerReplica": GroupMembers.offer,
    "mayLeave": GroupMembers.may_leave,
}
