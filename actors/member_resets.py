"""A group's members are exchanged by hand, because a majority of them is lost (``resetPeers``).

Who is left is all that is wanted of the group from then on, and the catalog has to have taken that
*before* anything happens here: were it told afterwards, a restart in between would leave the lost
ones wanted, and nobody who knows better.  So, as with every other change, nothing has happened
until the catalog has taken it; a replica that is restarted then is asked once more.

By force it is done at once, for there may be no catalog; that is told as soon as it answers, if
this replica leads that long.  ``_system`` has no catalog but itself: all nodes are wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from actors.clients import Pending
from actors.group_messages import CatalogAnswered
from raft.messages import Decision, Replica, ResetPeers
from transport import protocol

if TYPE_CHECKING:
    from actors.group import GroupActor
    from actors.group_admin import GroupAdmin
    from actors.group_members import GroupMembers

_DEFINITE = (protocol.REJECTED, protocol.BAD_REQUEST)  # the catalog has taken nothing


@dataclass(slots=True, eq=False)
class _Reset:
    """``is_told``: the catalog has taken it."""

    pending: Pending
    voters: frozenset[Replica]
    is_told: bool = False


class Resets:
    """Part of one group actor."""

    __slots__ = ("_admin", "_group", "_last", "_members")

    def __init__(self, group: GroupActor, admin: GroupAdmin, members: GroupMembers) -> None:
        self._group = group
        self._admin = admin
        self._members = members
        self._last: _Reset | None = None  # until it is decided and told

    @property
    def is_under_way(self) -> bool:
        """What was wanted before must not undo it."""
        return self._last is not None

    def begin(self, pending: Pending, voters: frozenset[Replica], *, force: bool) -> None:
        group = self._group
        error = group.core.reset_error(ResetPeers(0, voters, force), group.now_ms())
        if error is None and self._last is not None and not force:
            error = "another reset is under way"
        if error is not None:
            group.clients.refuse(pending.token, protocol.REJECTED, error)
            return
        pending.appended = True  # from now on it may take effect
        group.clients.admit(pending)
        reset = self._last = _Reset(pending, voters)
        if force or group.is_system:
            self._step(reset, force=force)
        else:
            names = {each.node for each in voters}
            self._members.set_wanted(names, (), partial(self._on_taken, reset))

    def _on_taken(self, reset: _Reset, answered: CatalogAnswered) -> None:
        is_taken = answered.code == protocol.OK
        if is_taken:
            reset.is_told = True
            self._members.on_wanted(answered)
        if self._last is not reset:
            self._fail(reset, protocol.REJECTED, "another reset has replaced this one")
            return
        if is_taken:
            self._step(reset, force=False)
            return
        self._last = None
        if answered.code in _DEFINITE:
            self._fail(reset, protocol.REJECTED, f"the catalog refuses: {answered.text}")
        else:
            text = "the catalog does not answer (recover _system first, or force it)"
            self._fail(reset, protocol.UNAVAILABLE, f"{text}: {answered.text}")

    def _step(self, reset: _Reset, *, force: bool) -> None:
        token = self._admin.expect(partial(self._on_decision, reset))
        self._group.core.step(ResetPeers(token, reset.voters, force), self._group.now_ms())

    def _on_decision(self, reset: _Reset, decision: Decision) -> None:
        if decision.error is not None:
            code = protocol.INTERNAL if decision.unknown else protocol.REJECTED
            self._fail(reset, code, decision.error)
        elif not reset.pending.answered:
            voters = sorted(each.node for each in reset.voters)
            self._group.clients.finish_json(reset.pending, {"voters": voters})
        if self._last is not reset:
            return
        if decision.error is None and not reset.is_told and not self._group.is_system:
            self._tell(reset)
        else:
            self._last = None

    def _tell(self, reset: _Reset) -> None:
        self._members.set_wanted(*self._members.present(), partial(self._on_told, reset))

    def _on_told(self, reset: _Reset, answered: CatalogAnswered) -> None:
        if self._last is not reset:
            return
        is_heard = answered.code == protocol.OK or answered.code in _DEFINITE
        if not is_heard and self._group.core.is_leader:
            self._tell(reset)
            return
        self._last = None
        if answered.code == protocol.OK:
            self._members.on_wanted(answered)

    def _fail(self, reset: _Reset, code: int, text: str) -> None:
        """What the catalog has taken is wanted all the same, and whoever leads goes by it."""
        if reset.is_told:
            code = protocol.INTERNAL
        unknown = code != protocol.REJECTED
        self._group.clients.finish_all([reset.pending], code, text, maybe_applied=unknown)
