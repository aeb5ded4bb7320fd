"""The Admins of one group, and who leads it by somebody's wish.

Each command says where it is carried out: by the leader of ``_system`` (the catalog's own), by the
leader of the group, or by whichever replica got it.  A replica that is not the one hands the
message back, for the router to forward.

A change of the leader is a message to the core, answered by a
:class:`~raft.messages.Decision`, perhaps much later.  Until then it may yet take effect: a deadline
that passes meanwhile says so.

**Leading and not able to serve.**  A leader that is about to stop, whose machine is quarantined or
whose disk is full, gives leadership to somebody else by itself.  In a group in which all machines
fail alike, or all disks are full, that would go round and round, so one that is quarantined or
full does it rarely; three of them take turns in the time of one pause and then stay.  Each time it
is somebody else's turn, who asks for a snapshot for a quarantined machine comes last: two of them
must not have it from each other for ever.  An offer that came to nothing, as while nobody has
answered a leader that is new, is made again soon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack

from actors.catalog import ADDRESSES
from actors.clients import Pending
from actors.group_members import COMMANDS as MEMBER_COMMANDS
from actors.group_members import GroupMembers
from actors.group_messages import LATER_ADMINS
from actors.machines.registry import kind_error
from actors.replacing import REPLACE, Replacing
from actors.restores import Uploading, described
from raft.messages import Decision, Replica, Transfer
from raft.store.backup_file import meta_values
from transport import protocol
from transport.addresses import AddressError, parse_tcp
from transport.frames import UINT64_MAX
from transport.protocol import AdminOperation

if TYPE_CHECKING:
    from actors.group import GroupActor

HAND_OVER_AGAIN_MS: Final = 30_000  # between two attempts of a leader that goes on and cannot serve

SYSTEM_LEADER, LEADER, ANYWHERE = range(3)

# Asked by node processes, never by clients.
RIGHTS_NEEDED: Final[Mapping[str, int]] = dict.fromkeys(
    ("registerNode", "admitNode", "setMembers", "offerReplica", "mayLeave", REPLACE),
    protocol.RIGHT_NODE,
)

Handler = Callable[["GroupAdmin", Pending, AdminOperation], None]


class GroupAdmin:
    """Part of one group actor."""

    __slots__ = (
        "_decisions",
        "_group",
        "_hands_over",
        "_next_heir",
        "_not_before_ms",
        "_offered",
        "_token",
        "_transfers",
        "members",
        "uploading",
    )

    def __init__(self, group: GroupActor) -> None:
        self._group = group
        self.uploading = Uploading(group)
        self._token = 0
        self._decisions: dict[int, Callable[[Decision], None]] = {}
        self._transfers: set[int] = set()  # tokens of those that are not decided
        self._hands_over = False  # by itself: the decision is outstanding
        self._next_heir = 0  # whose turn it is, among the other voters
        self._offered = False  # it has been tried since the node began to stop
        self._not_before_ms = 0
        self.members = GroupMembers(group, self)

    def accept(self, pending: Pending, admin: AdminOperation) -> None:
        group = self._group
        if admin.command in MEMBER_COMMANDS:
            if group.core.is_leader:
                MEMBER_COMMANDS[admin.command](self.members, pending, admin)
            else:
                group.clients.hand_back(pending.token)
            return
        place, handler = _COMMANDS.get(admin.command, (ANYWHERE, GroupAdmin._refuse_unknown))
        if place == SYSTEM_LEADER and not group.is_system:
            self._refuse_unknown(pending, admin)
        elif place != ANYWHERE and not group.core.is_leader:
            group.clients.hand_back(pending.token)
        else:
            handler(self, pending, admin)

    def _refuse(self, pending: Pending, code: int, text: str) -> None:
        """Before it was admitted."""
        self._group.clients.refuse(pending.token, code, text)

    def _refuse_unknown(self, pending: Pending, admin: AdminOperation) -> None:
        text = f"unknown command {admin.command[:64]!r} for group {self._group.group_name}"
        if admin.command in LATER_ADMINS:
            text = f"{admin.command} is not in this version"
        self._refuse(pending, protocol.BAD_REQUEST, text)

    # ------------------------------------------------------------------ the catalog

    def _read_catalog(self, pending: Pending, admin: AdminOperation) -> None:
        request = protocol.ReadRequest(data=admin.command.encode())
        self._group.gather_reads(pending, [request], protocol.LINEARIZABLE)

    def _create_group(self, pending: Pending, admin: AdminOperation) -> None:
        machine = admin.options.get("machine", "")
        error = kind_error(machine)
        if error is not None:
            self._refuse(pending, protocol.BAD_REQUEST, error)
            return
        self._write_catalog(pending, "CREATE_GROUP", admin.value, {"machine": machine})

    def _register_node(self, pending: Pending, admin: AdminOperation) -> None:
        self._write_node(pending, admin, "REGISTER_NODE", {})

    def _admit_node(self, pending: Pending, admin: AdminOperation) -> None:
        self._write_node(pending, admin, "ADMIT_NODE", {})

    def _join_node(self, pending: Pending, admin: AdminOperation) -> None:
        self._write_node(pending, admin, "ADMIT_NODE", {"joins": True})

    def _write_node(
        self, pending: Pending, admin: AdminOperation, operation: str, more: Mapping[str, Any]
    ) -> None:
        values: dict[str, Any] = {key: admin.options.get(key, "") for key in ADDRESSES}
        try:
            for address in values.values():
                parse_tcp(address)
        except AddressError as error:
            self._refuse(pending, protocol.BAD_REQUEST, str(error))
            return
        values["incarnation"] = _decimal(admin.options.get("incarnation", ""))
        self._write_catalog(pending, operation, admin.value, {**values, **more})

    def _replace_node(self, pending: Pending, admin: AdminOperation) -> None:
        """Whose disk is lost is not heard here: this group is on all nodes."""
        core = self._group.core
        silence_ms = core.settings.election_timeout_ms
        now = self._group.now_ms()
        is_heard = admin.value == core.me.node or any(
            peer.replica.node == admin.value and now - peer.active_ms < silence_ms
            for peer in core.progress()
        )
        if is_heard and not _is_true(admin, "force"):
            text = f"{admin.value} is alive: stop it first, or force it"
            self._refuse(pending, protocol.REJECTED, text)
            return
        values = {"incarnation": _decimal(admin.options.get("incarnation", "0"))}
        self._write_catalog(pending, "REPLACE_NODE", admin.value, values)

    def _remove_node(self, pending: Pending, admin: AdminOperation) -> None:
        self._write_catalog(pending, "REMOVE_NODE", admin.value, {})

    def _set_members(self, pending: Pending, admin: AdminOperation) -> None:
        values: dict[str, Any] = {
            key: [name for name in admin.options.get(key, "").split(",") if name]
            for key in ("voters", "learners")
        }
        if "if_version" in admin.options:
            values["if_version"] = _decimal(admin.options["if_version"])
        self._write_catalog(pending, "SET_MEMBERS", admin.value, values)

    def _write_catalog(
        self, pending: Pending, operation: str, key: str, values: Mapping[str, Any]
    ) -> None:
        request = protocol.WriteRequest(operation=operation, key=key, data=msgpack.packb(values))
        pending.json = True
        self._group.gather_write(pending, request)

    # ------------------------------------------------------------------ leader and members

    def _transfer_leader(self, pending: Pending, admin: AdminOperation) -> None:
        group = self._group
        target = None
        if admin.value:
            target = _of_node(group.core.configuration.voters, admin.value)
            if target is None:
                text = f"{admin.value[:64]!r} does not vote in group {group.group_name}"
                self._refuse(pending, protocol.BAD_REQUEST, text)
                return

        def answer() -> dict[str, Any]:
            return {"leader": group.clients.leader_node}

        self._transfer(self._await(pending, answer), target)

    def _transfer(self, token: int, target: Replica | None) -> None:
        self._transfers.add(token)
        self._group.core.step(Transfer(token, target), self._group.now_ms())

    @property
    def awaits_transfer(self) -> bool:
        """One was asked for here, and nobody leads yet, nor has it failed."""
        return bool(self._transfers)

    def _reset_peers(self, pending: Pending, admin: AdminOperation) -> None:
        members = self._group.core.configuration.members
        named = admin.options.get("voters") or admin.value
        names = [name for part in named.split(",") if (name := part.strip())]
        voters = {name: _of_node(members, name) for name in names}
        strangers = [name for name, voter in voters.items() if voter is None]
        if strangers or not names:
            text = f"{', '.join(strangers)[:256] or 'nobody'}: name members of the group as voters"
            self._refuse(pending, protocol.BAD_REQUEST, text)
            return
        replicas = frozenset(voter for voter in voters.values() if voter is not None)
        self.members.resets.begin(pending, replicas, force=_is_true(admin, "force"))

    def _replace_replica(self, pending: Pending, admin: AdminOperation) -> None:
        Replacing(self._group).accept(pending, admin.value, admin.options)

    def _do_snapshot(self, pending: Pending, admin: AdminOperation) -> None:
        if self._is_meant(pending, admin):
            self._group.snapshots.ask(pending)

    def _is_meant(self, pending: Pending, admin: AdminOperation) -> bool:
        """Each replica has its own snapshots: let the router ask the one that is named."""
        group = self._group
        if admin.value in ("", group.core.me.node):
            return True
        if _of_node(group.core.configuration.members, admin.value) is None:
            text = f"{admin.value[:64]!r} is no member of group {group.group_name}"
            self._refuse(pending, protocol.BAD_REQUEST, text)
        else:
            group.clients.hand_back(pending.token, admin.value)
        return False

    # ------------------------------------------------------------------ backups

    def _read_index(self, pending: Pending, admin: AdminOperation) -> None:
        """An index that covers all that was answered to anybody before this was asked."""
        self._group.gather_reads(pending, [], protocol.LINEARIZABLE)

    def _backup_begin(self, pending: Pending, admin: AdminOperation) -> None:
        if self._is_meant(pending, admin):
            self._group.backups.begin(pending, admin)

    def _backup_read(self, pending: Pending, admin: AdminOperation) -> None:
        if self._is_meant(pending, admin):
            self._group.backups.read(pending, admin)

    # ------------------------------------------------------------------ restoring

    def _restore_write(self, pending: Pending, admin: AdminOperation) -> None:
        if not self._group.is_system:
            self._refuse_unknown(pending, admin)
        elif self._is_meant(pending, admin):
            self.uploading.write(pending, admin)

    def _restore_group(self, pending: Pending, admin: AdminOperation) -> None:
        machine = admin.options.get("machine", "")
        error = kind_error(machine)
        meta = described(admin)
        if error is not None or meta is None:
            text = error or "restoreGroup needs a snapshot whose members all vote"
            self._refuse(pending, protocol.BAD_REQUEST, text)
            return
        values = {"machine": machine, "restore": meta_values(meta)}
        self._write_catalog(pending, "RESTORE_GROUP", admin.value, values)

    # ------------------------------------------------------------------ decisions

    def _await(
        self,
        pending: Pending,
        answer: Callable[[], dict[str, Any]],
    ) -> int:
        """Admit the message; its answer comes with the decision on the token returned."""
        clients = self._group.clients
        pending.appended = True  # from now on it may take effect
        clients.admit(pending)

        def decide(decision: Decision) -> None:
            if pending.answered:
                return
            if decision.error is None:
                clients.finish_json(pending, answer())
                return
            code = protocol.INTERNAL if decision.unknown else protocol.REJECTED
            clients.finish_all([pending], code, decision.error, maybe_applied=decision.unknown)

        return self.expect(decide)

    def expect(self, decide: Callable[[Decision], None]) -> int:
        self._token += 1
        self._decisions[self._token] = decide
        return self._token

    def on_decision(self, decision: Decision) -> None:
        self._transfers.discard(decision.token)
        self._decisions.pop(decision.token)(decision)

    # ------------------------------------------------------------------ by itself

    def offer_leadership(self, *, stopping: bool) -> None:
        """This replica leads and should not: let another one, if there is one that can."""
        now = self._group.now_ms()
        if self._hands_over or self._group.core.is_transferring:
            return
        heir = None
        if stopping:
            if self._offered:
                return
            self._offered = True
        elif now < self._not_before_ms:
            return
        else:
            heir = self._take_heir()
        self._not_before_ms = now + HAND_OVER_AGAIN_MS
        self._hands_over = True
        self._transfer(self.expect(self._on_handed_over), heir)

    def _take_heir(self) -> Replica | None:
        core = self._group.core
        others = core.configuration.voters - {core.me}
        if not others:
            return None
        lost = {peer.replica for peer in core.progress() if peer.wants_snapshot}
        heirs = sorted(others - lost or others)
        self._next_heir += 1
        return heirs[self._next_heir % len(heirs)]

    def _on_handed_over(self, decision: Decision) -> None:
        self._hands_over = False
        if decision.error is not None:
            election_timeout_ms = self._group.core.settings.election_timeout_ms
            self._not_before_ms = self._group.now_ms() + election_timeout_ms

    @property
    def hands_over(self) -> bool:
        return self._hands_over


def _of_node(replicas: Iterable[Replica], node: str) -> Replica | None:
    """The replica on this node; None also if there are two, of which one is about to go."""
    found = [replica for replica in replicas if replica.node == node]
    return found[0] if len(found) == 1 else None


def _is_true(admin: AdminOperation, option: str) -> bool:
    return admin.options.get(option, "").lower() in ("true", "1", "yes")


def _decimal(text: str) -> int:
    """A non-negative number of at most 64 bits, or -1."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else -1
    return number if number <= UINT64_MAX else -1


_COMMANDS: Final[Mapping[str, tuple[int, Handler]]] = {
    "nodes": (SYSTEM_LEADER, GroupAdmin._read_catalog),
    "groups": (SYSTEM_LEADER, GroupAdmin._read_catalog),
    "createGroup": (SYSTEM_LEADER, GroupAdmin._create_group),
    "restoreWrite": (ANYWHERE, GroupAdmin._restore_write),
    "restoreGroup": (SYSTEM_LEADER, GroupAdmin._restore_group),
    "registerNode": (SYSTEM_LEADER, GroupAdmin._register_node),
    "admitNode": (SYSTEM_LEADER, GroupAdmin._admit_node),
    "joinNode": (SYSTEM_LEADER, GroupAdmin._join_node),
    "replaceNode": (SYSTEM_LEADER, GroupAdmin._replace_node),
    "removeNode": (SYSTEM_LEADER, GroupAdmin._remove_node),
    "setMembers": (SYSTEM_LEADER, GroupAdmin._set_members),
    "transferLeader": (LEADER, GroupAdmin._transfer_leader),
    "readIndex": (LEADER, GroupAdmin._read_index),
    "backupBegin": (ANYWHERE, GroupAdmin._backup_begin),
    "backupRead": (ANYWHERE, GroupAdmin._backup_read),
    "doSnapshot": (ANYWHERE, GroupAdmin._do_snapshot),
    "resetPeers": (ANYWHERE, GroupAdmin._reset_peers),
    REPLACE: (LEADER, GroupAdmin._replace_replica),
}
