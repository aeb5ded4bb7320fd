"""Routing: which process gets a client message, and what the client hears if none does.

What may live here: the route table, the messages under way, and the rules of the client
contract about both (docs/protocol.md).  No socket and no event loop: the router hands in what
arrives, together with the ways out, so a test can do the same.

One message, from receipt to reply::

    client -> accept -> worker here  --accepted--------------------------> reply
                  |         |  not the leader, not accepted
                  |         v
                  +----> leader's node --accepted-----------------------> reply
                            |  not accepted: one more node, once
                            v
                         NO_LEADER

* Whole messages are passed on undecoded, and never held: no worker right now is NO_LEADER at
  once.
* Whoever accepted a message answers it.  A message is never given to a second one after that:
  if the link to who has it ends, its outcome is unknown and the client hears so at once
  (pitfall 54).
* What a stuck worker never answers, :meth:`Routing.expire` answers: TIMEOUT, outcome unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID, group_name_error, unpack_names
from actors.settings import (
    CLIENT_IN_FLIGHT_BYTES_MAX,
    FORWARDS_IN_FLIGHT_MAX,
    RETRY_AFTER_MS,
    ROUTER_PENDING_MESSAGES_MAX,
)
from transport import protocol
from transport.frames import BODY_ADMIN, Forward, ForwardReply, peek

FORWARD_NODES_MAX: Final = 2  # nodes that a message is tried on beyond its own
UNKNOWN_GROUPS_MAX: Final = 10_000  # messages that wait for word of the catalog; then BUSY
CATALOG_TIMEOUT_MS: Final = 3_000  # for that word; then NO_LEADER
EXPIRE_GRACE_MS: Final = 1_000  # a worker that turns answers first; this is for those that do not
EXPIRE_AFTER_MS_MIN: Final = 100  # a message younger than this is not looked at

# Where a message came from.
CLIENT: Final = 0
PEER: Final = 1  # forwarded by another node
OWN: Final = 2  # this node's own process
CATALOG: Final = 3  # this router: does a group exist?


@dataclass(slots=True, eq=False)
class Pending:
    """One message under way."""

    token: int
    origin: int
    source: Any  # CLIENT: identity; PEER: node; OWN: number
    delimited: bool
    correlation: bytes
    group: int
    batch: bytes
    received_ms: int
    timeout_ms: int
    rights: int = protocol.RIGHTS_ALL
    source_epoch: int = 0  # PEER: of its router
    source_id: int = 0  # PEER: its own number for this message
    tried: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Route:
    """A group as the catalog has it, and where it runs."""

    group: int
    name: str
    machine: str
    members: list[str]
    slot: int | None  # of the local worker; None: not placed here
    summary: dict[str, Any] = field(default_factory=dict)  # of the local replica

    @property
    def leader(self) -> str | None:
        leader = self.summary.get("leader")
        return leader if isinstance(leader, str) else None


class WorkerLink:
    """One connected worker: what it was handed, and what it is to be handed at the next flush."""

    __slots__ = ("epoch", "groups", "pending", "pid", "requests", "send", "slot")

    def __init__(self, slot: int, pid: int, epoch: int, send: Callable[..., bool]) -> None:
        self.slot = slot
        self.pid = pid
        self.epoch = epoch
        self.send = send  # (kind, *fields, control=) -> taken?
        self.groups: set[int] = set()
        self.pending: dict[int, Pending] = {}
        self.requests: list[Any] = []


@dataclass(slots=True)
class Outcomes:
    """The ways out of here."""

    reply: Callable[[Pending, bytes], None]  # to whoever sent it
    forward: Callable[[str, Forward], bool]  # to a node; False: it cannot be reached
    not_accepted: Callable[[Pending, str | None, int], None]  # back to the node that forwarded it
    admin: Callable[[Pending, str], bool]  # an Admin of this node; False: for the group


class Routing:
    """``me``: this node; ``epoch``: of this router process; ``now_ms``: the clock."""

    def __init__(self, me: str, epoch: int, outcomes: Outcomes, now_ms: Callable[[], int]) -> None:
        self._me = me
        self._epoch = epoch
        self._out = outcomes
        self._now_ms = now_ms
        # Beginning at the epoch, which is random: a worker that still holds a token of an earlier
        # life of the router can never answer a message of this one with it.
        self._token = epoch
        self._in_flight_bytes: dict[bytes, int] = {}
        self._unknown: list[tuple[Pending, str]] = []  # messages for groups not in the table
        self._asking = False
        self._asked: list[tuple[Pending, str]] = []  # those whose names the catalog is asked for
        self._forwards: dict[str, dict[int, Pending]] = {}
        self._forwards_count = 0
        self._pending_count = 0
        self.routes: dict[bytes, Route] = {}
        self.by_group: dict[int, Route] = {}
        self.workers: dict[int, WorkerLink] = {}  # by slot
        self.hosts: dict[int, WorkerLink] = {}  # by group
        self.addresses: dict[str, str] = {}  # node -> client address
        self.gathered_bytes = 0  # of requests that wait for the flush; who flushes sets it back
        self.dirty: dict[int, WorkerLink] = {}  # workers with requests to flush, by slot
        self.catalog_is_current = False
        self.stopping = False
        self.counts = {
            "messages": 0,
            "replies": 0,
            "bad_requests": 0,
            "busy": 0,
            "no_leader": 0,
            "no_such_group": 0,
            "unavailable": 0,
            "forwarded": 0,
            "forwards_received": 0,
            "expired": 0,
            "late_replies": 0,
        }

    # ------------------------------------------------------------------ in: clients and own process

    def on_message(
        self,
        origin: int,
        source: Any,
        delimited: bool,
        correlation: bytes,
        group: bytes,
        batch: bytes,
        *,
        elsewhere: bool = False,
    ) -> None:
        """A well-formed message of a client (``source``: identity) or of this node's process.

        ``elsewhere``: about a replica of this node, which is not to be asked itself.
        """
        self.counts["messages"] += 1
        self._token = token = self._token + 1
        body, timeout_ms = peek(batch)
        pending = Pending(
            token,
            origin,
            source,
            delimited,
            correlation,
            0,
            batch,
            self._now_ms(),
            timeout_ms or protocol.default_timeout_ms(body),
        )
        if origin == OWN:
            pending.rights |= protocol.RIGHT_NODE
        if not self._admit(pending):
            return
        if (body == BODY_ADMIN or not group) and self._out.admin(pending, group.decode()):
            return
        if self.stopping:
            self.refuse(pending, protocol.SHUTTING_DOWN, "the node is shutting down")
            return
        route = self.routes.get(group)
        if route is None:
            self.on_unknown_group(pending, group.decode())
            return
        pending.group = route.group
        worker = self.hosts.get(route.group)
        if worker is not None and not elsewhere:
            self._hand_over(worker, pending)
        else:
            self._forward_anywhere(pending, route)

    def _admit(self, pending: Pending) -> bool:
        self._pending_count += 1
        if pending.origin == CLIENT:
            used = self._in_flight_bytes.get(pending.source, 0) + len(pending.batch)
            self._in_flight_bytes[pending.source] = used
            if used > CLIENT_IN_FLIGHT_BYTES_MAX:
                text = f"more than {CLIENT_IN_FLIGHT_BYTES_MAX} bytes of this client are under way"
                self._busy(pending, text)
                return False
        if self._pending_count > ROUTER_PENDING_MESSAGES_MAX:
            self._busy(pending, "too many messages are under way in this node")
            return False
        return True

    def _busy(self, pending: Pending, text: str) -> None:
        self.counts["busy"] += 1
        self.refuse(pending, protocol.BUSY, text, retry_after_ms=RETRY_AFTER_MS)

    def on_unknown_group(self, pending: Pending, name: str) -> None:
        """Not in our table.  Whether it exists only the catalog's leader can say."""
        if not name:
            self.refuse(pending, protocol.BAD_REQUEST, "the group frame is empty")
        elif (error := group_name_error(name)) is not None and name != SYSTEM_GROUP:
            self._no_such_group(pending, error)
        elif SYSTEM_GROUP.encode() not in self.routes:
            self._no_leader(pending, None, f"no group {name!r} is known here yet")
        elif len(self._unknown) >= UNKNOWN_GROUPS_MAX:
            self._busy(pending, "too many messages name groups that are not known here")
        else:
            self._unknown.append((pending, name))
            self._ask_catalog()

    def _ask_catalog(self) -> None:
        """One linearizable read for all names that wait; those that come meanwhile wait for the
        next one, for a read tells nothing of what was asked after it."""
        if self._asking or not self._unknown:
            return
        self._asking = True
        self._asked, self._unknown = self._unknown, []
        names = sorted({name for _, name in self._asked})
        batch = protocol.encode_read(json.dumps(names).encode(), CATALOG_TIMEOUT_MS)
        self.on_message(CATALOG, names, False, b"", SYSTEM_GROUP.encode(), batch)

    def _on_catalog_answer(self, payload: bytes) -> None:
        asked, self._asked = self._asked, []
        self._asking = False
        code, text, data = protocol.first_reply(payload)
        existing = unpack_names(data) if code == protocol.OK else None
        for pending, name in asked:
            if existing is None:
                why = f"no group {name!r} is known here, and the catalog does not answer: {text}"
                self._no_leader(pending, None, why)
            elif name in existing:
                self._no_leader(pending, None, f"group {name!r} is just being created")
            else:
                self._no_such_group(pending, f"there is no group {name!r}")
        self._ask_catalog()

    def _no_such_group(self, pending: Pending, text: str) -> None:
        self.counts["no_such_group"] += 1
        self.refuse(pending, protocol.NO_SUCH_GROUP, text)

    # ------------------------------------------------------------------ in: workers

    def on_worker(self, worker: WorkerLink, groups: Iterable[int]) -> None:
        self.workers[worker.slot] = worker
        for group in groups:
            self.add_host(worker, group)

    def add_host(self, worker: WorkerLink, group: int) -> None:
        worker.groups.add(group)
        self.hosts[group] = worker

    def remove_host(self, worker: WorkerLink, group: int) -> None:
        """Its replica of the group has stopped, and answers nothing more."""
        worker.groups.discard(group)
        self._unhost(worker, group)
        for token in [token for token, each in worker.pending.items() if each.group == group]:
            self._unavailable(worker.pending.pop(token), "the replica that held it has stopped")

    def _unhost(self, worker: WorkerLink, group: int) -> bool:
        """Whether it had it.  One that did not know yet that the group has moved to another slot
        leaves it to the worker there."""
        if self.hosts.get(group) is not worker:
            return False
        del self.hosts[group]
        for other in self.workers.values():
            if other is not worker and group in other.groups:
                self.hosts[group] = other
        return True

    def on_worker_lost(self, worker: WorkerLink) -> None:
        """Its process or its link has ended: what it held is unknown, and said to be, at once."""
        if self.workers.get(worker.slot) is worker:
            del self.workers[worker.slot]
        self.dirty.pop(worker.slot, None)
        for group in worker.groups:
            if self._unhost(worker, group):
                route = self.by_group.get(group)
                if route is not None:
                    route.summary = {}
        if SYSTEM_GROUP_ID in worker.groups:
            self.catalog_is_current = False
        pending, worker.pending = worker.pending, {}
        for each in pending.values():
            self._unavailable(each, "the worker that held it was lost")

    def on_not_taken(self, worker: WorkerLink, tokens: Iterable[int]) -> None:
        """The worker's queue is full: these never left, so nothing of them was appended."""
        for token in tokens:
            pending = worker.pending.pop(token, None)
            if pending is not None:
                self._busy(pending, "the worker of the group is behind")

    def on_reply(self, worker: WorkerLink, token: int, payload: bytes) -> None:
        pending = worker.pending.pop(token, None)
        if pending is None:
            self.counts["late_replies"] += 1
            return
        self._finish(pending, payload)

    def on_hand_back(
        self, worker: WorkerLink, token: int, leader: str | None, term: int, reason: str
    ) -> None:
        """Not accepted: nothing was appended.  Try the leader's node."""
        pending = worker.pending.pop(token, None)
        if pending is None:
            self.counts["late_replies"] += 1
            return
        if pending.origin == PEER:
            self._pending_count -= 1
            self._out.not_accepted(pending, leader, term)
        else:
            self._forward_to(pending, leader)

    def _hand_over(self, worker: WorkerLink, pending: Pending) -> None:
        worker.pending[pending.token] = pending
        remaining_ms = pending.timeout_ms - (self._now_ms() - pending.received_ms)
        worker.requests += (
            pending.token,
            pending.group,
            max(0, remaining_ms),
            pending.rights,
            pending.batch,
        )
        self.gathered_bytes += len(pending.batch)
        self.dirty[worker.slot] = worker

    # ------------------------------------------------------------------ in: other nodes

    def on_forward(self, node: str, forward: Forward) -> None:
        """Another node sends a client's message here; it goes no further."""
        self.counts["forwards_received"] += 1
        self._token = token = self._token + 1
        pending = Pending(
            token,
            PEER,
            node,
            False,
            b"",
            forward.group,
            forward.batch,
            self._now_ms(),
            forward.remaining_ms,
            forward.rights,
            forward.origin_epoch,
            forward.forward_id,
        )
        worker = self.hosts.get(forward.group)
        if worker is None or self.stopping:
            self._out.not_accepted(pending, None, 0)
            return
        self._pending_count += 1
        self._hand_over(worker, pending)

    def on_forward_reply(self, node: str, reply: ForwardReply) -> None:
        pending = None
        if reply.origin_epoch == self._epoch:
            pending = self._take_forward(node, reply.forward_id)
        if pending is None:
            self.counts["late_replies"] += 1
        elif reply.accepted:
            self._finish(pending, reply.payload)
        elif reply.leader is None and pending.origin == OWN and pending.group in self.by_group:
            # About a replica that is none of theirs yet: that one knows no leader means little.
            self._forward_anywhere(pending, self.by_group[pending.group])
        else:
            self._forward_to(pending, reply.leader)

    def on_peer_lost(self, node: str) -> None:
        """The link is gone or the other end is another process: what it held is unknown."""
        lost = self._forwards.pop(node, {})
        self._forwards_count -= len(lost)
        for pending in lost.values():
            self._unavailable(pending, f"the connection to {node}, which held it, was lost")

    def _forward_anywhere(self, pending: Pending, route: Route) -> None:
        """No worker here has the group: the leader's node, else any member that is reached."""
        if route.leader is not None and route.leader != self._me:
            self._forward_to(pending, route.leader)
            return
        members = route.members
        if pending.origin == OWN and members:
            # It asks again and again, and the first of them may have no replica any more, either.
            at = pending.token % len(members)
            members = members[at:] + members[:at]
        for node in members if len(pending.tried) < FORWARD_NODES_MAX else ():
            if node not in (self._me, *pending.tried) and self._try_forward(pending, node):
                return
        self._no_leader(pending, None, "no worker of the group is reached right now")

    def _forward_to(self, pending: Pending, node: str | None) -> None:
        if node is None:
            self._no_leader(pending, None, "the group has no leader right now")
        elif node == self._me or node in pending.tried or len(pending.tried) >= FORWARD_NODES_MAX:
            self._no_leader(pending, node, "leadership is changing hands")
        elif not self._try_forward(pending, node):
            self._no_leader(pending, node, f"the leader's node {node} is not reached")

    def _try_forward(self, pending: Pending, node: str) -> bool:
        if self._forwards_count >= FORWARDS_IN_FLIGHT_MAX:
            self._busy(pending, "too many messages are forwarded at the moment")
            return True
        remaining_ms = pending.timeout_ms - (self._now_ms() - pending.received_ms)
        if remaining_ms <= 0:
            self.counts["expired"] += 1
            self.refuse(pending, protocol.TIMEOUT, "the deadline passed before a leader was found")
            return True
        forward = Forward(
            self._epoch,
            pending.token,
            pending.group,
            remaining_ms,
            pending.rights,
            pending.batch,
        )
        if not self._out.forward(node, forward):
            return False
        pending.tried.append(node)
        self.counts["forwarded"] += 1
        self._forwards_count += 1
        self._forwards.setdefault(node, {})[pending.token] = pending
        return True

    def _take_forward(self, node: str, token: int) -> Pending | None:
        pending = self._forwards.get(node, {}).pop(token, None)
        if pending is not None:
            self._forwards_count -= 1
        return pending

    # ------------------------------------------------------------------ out

    def answer(self, pending: Pending, payload: bytes) -> None:
        """The answer of somebody who took a message over: an Admin of this node."""
        self._finish(pending, payload)

    def refuse(
        self, pending: Pending, code: int, text: str, *, leader: str = "", retry_after_ms: int = 0
    ) -> None:
        payload = protocol.encode_whole(
            code,
            text,
            leader=leader,
            leader_address=self.addresses.get(leader, ""),
            retry_after_ms=retry_after_ms,
        )
        self._finish(pending, payload)

    def _no_leader(self, pending: Pending, leader: str | None, text: str) -> None:
        self.counts["no_leader"] += 1
        self.refuse(
            pending,
            protocol.NO_LEADER,
            text,
            leader=leader or "",
            retry_after_ms=RETRY_AFTER_MS,
        )

    def _unavailable(self, pending: Pending, text: str) -> None:
        self.counts["unavailable"] += 1
        payload = protocol.encode_whole(protocol.UNAVAILABLE, text, maybe_applied=True)
        self._finish(pending, payload)

    def _finish(self, pending: Pending, payload: bytes) -> None:
        self._pending_count -= 1
        if pending.origin == CLIENT:
            identity = pending.source
            # An empty batch counts nothing, so it may outlive the entry.
            left = self._in_flight_bytes.get(identity, 0) - len(pending.batch)
            if left > 0:
                self._in_flight_bytes[identity] = left
            else:
                self._in_flight_bytes.pop(identity, None)
        if pending.origin == CATALOG:
            self._on_catalog_answer(payload)
            return
        self.counts["replies"] += 1
        self._out.reply(pending, payload)

    # ------------------------------------------------------------------ time

    def expire(self) -> None:
        """Answer what nobody answered: the worker is stuck, or an answer was lost on its way."""
        now = self._now_ms()
        # An answer may lead to the next question, and so change these tables.
        for worker in list(self.workers.values()):
            for token in self._overdue(worker.pending, now):
                self._expire(worker.pending.pop(token))
        for forwards in list(self._forwards.values()):
            for token in self._overdue(forwards, now):
                self._forwards_count -= 1
                self._expire(forwards.pop(token))
        self._asked = self._expire_unknown(self._asked, now)
        self._unknown = self._expire_unknown(self._unknown, now)

    def _expire_unknown(
        self, waiting: list[tuple[Pending, str]], now: int
    ) -> list[tuple[Pending, str]]:
        """Answer the overdue among messages that nobody was given; the others."""
        overdue = [
            pending for pending, _ in waiting if now - pending.received_ms >= pending.timeout_ms
        ]
        if not overdue:
            return waiting
        gone = {pending.token for pending in overdue}
        for pending in overdue:
            self.counts["expired"] += 1
            self.refuse(pending, protocol.TIMEOUT, "the deadline passed")
        return [(pending, name) for pending, name in waiting if pending.token not in gone]

    def _overdue(self, pending: dict[int, Pending], now: int) -> list[int]:
        overdue = []
        for token, each in pending.items():
            age_ms = now - each.received_ms
            if age_ms < EXPIRE_AFTER_MS_MIN:
                break  # tokens rise with time: the rest is younger
            if age_ms >= each.timeout_ms + EXPIRE_GRACE_MS and age_ms >= self._longest_ms(each):
                overdue.append(token)
        return overdue

    def _longest_ms(self, pending: Pending) -> int:
        """The longest time-out in the message, plus grace; decoded now, for it is late anyway."""
        longest_ms = getattr(self._decode(pending), "timeout_ms", 0)
        pending.timeout_ms = max(pending.timeout_ms, longest_ms)
        return pending.timeout_ms + EXPIRE_GRACE_MS

    def _expire(self, pending: Pending) -> None:
        self.counts["expired"] += 1
        payload = protocol.encode_whole(
            protocol.TIMEOUT,
            "the deadline passed without an answer",
            maybe_applied=not isinstance(self._decode(pending), protocol.Reads),
        )
        self._finish(pending, payload)

    def _decode(self, pending: Pending) -> protocol.Decoded | protocol.BadBatch:
        route = self.by_group.get(pending.group)
        return protocol.decode_batch("" if route is None else route.name, pending.batch)

    # ------------------------------------------------------------------ the table

    def set_routes(self, routes: Iterable[Route]) -> None:
        """The complete list; what is known of local replicas is kept."""
        old = self.by_group
        self.by_group = {}
        self.routes = {}
        for route in routes:
            known = old.get(route.group)
            if known is not None:
                route.summary = known.summary
            self.by_group[route.group] = route
            self.routes[route.name.encode()] = route

    @property
    def under_way(self) -> int:
        return self._pending_count
