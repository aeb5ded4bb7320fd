"""What a node says of itself: the Admins ``status``, ``metadata`` and ``why``.

They are answered by the node that received them, from the router, within a second, also when a
worker is dead or stuck: the router asks the workers concerned, and takes what it last heard of
those that do not answer in time, with its age.  Unknown values are null; keys are added, never
removed.

``why`` is for the person at whom a client shouts "no leader": it names the one reason that
comes first, in the order in which one would look for it.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from actors import wire
from actors.neighbours import Neighbours
from actors.process import FULL
from actors.routing import Pending, Route, Routing
from actors.version import VERSION
from transport import protocol
from transport.frames import GROUP_BYTES_MAX
from transport.monitors import SocketMonitor
from transport.protocol import AdminOperation, BadBatch
from transport.sockets import RouterSender


class Shown(Protocol):
    """What a router shows of itself."""

    node: str
    bound: dict[str, str]
    routing: Routing
    neighbours: Neighbours
    monitors: dict[str, SocketMonitor]
    counts: Counter[str]
    client_sender: RouterSender

    def now_ms(self) -> int: ...


ADMIN_BYTES_MAX: Final = 64 << 10
UNKNOWN_GROUP_MS_MAX: Final = 700  # for the catalog's word on it: an Admin is answered in a second
STALL_SHOWN_MS: Final = 1_000  # a sync takes milliseconds; so long is worth a word
ASK_MS: Final = 400  # how long workers may take before their last report stands in
QUESTIONS_MAX: Final = (
    1_000  # Admins that wait for workers; then answered from last reports at once
)


@dataclass(slots=True)
class Question:
    """One Admin that waits for the workers in ``waits_for`` (slots)."""

    pending: Pending
    compose: Callable[[], bytes]
    waits_for: set[int]
    timer: asyncio.TimerHandle | None = None


@dataclass(slots=True)
class LastReport:
    """What a group, or a worker, said last, and when (ms of the router's clock)."""

    description: dict[str, Any] = field(default_factory=dict)
    at_ms: int | None = None


class Status:
    """``router`` owns everything that is shown here; nothing is kept but the last reports."""

    def __init__(self, router: Shown) -> None:
        self._router = router
        self._reports: dict[int, LastReport] = {}
        self._shared: dict[int, LastReport] = {}  # by slot: of what all groups there share
        self._questions: dict[int, Question] = {}
        self._number = 0
        # What the node process told: processes, and why it is not formed yet.
        self.state: dict[str, Any] = {}
        self._commands: dict[str, Callable[[Pending, str], None]] = {
            "status": self._on_status,
            "metadata": self._on_metadata,
            "why": self._on_why,
        }

    # ------------------------------------------------------------------ questions

    def on_admin(self, pending: Pending, group: str) -> bool:
        """Whether the message is answered here; otherwise it is for the group."""
        routing = self._router.routing
        if len(pending.batch) > ADMIN_BYTES_MAX:
            # Decoding megabytes here would hold up the heartbeats of all groups.
            routing.counts["bad_requests"] += 1
            text = f"an Admin, or a message without a group, has at most {ADMIN_BYTES_MAX} bytes"
            routing.refuse(pending, protocol.BAD_REQUEST, text)
            return True
        decoded = protocol.decode_batch(group, pending.batch)
        if isinstance(decoded, BadBatch):
            routing.counts["bad_requests"] += 1
            routing.refuse(pending, protocol.BAD_REQUEST, decoded.reason)
            return True
        if isinstance(decoded, AdminOperation):
            command = self._commands.get(decoded.command)
            if command is not None:
                about = group or decoded.value
                if len(about.encode()) > GROUP_BYTES_MAX:
                    text = f"the name of a group has at most {GROUP_BYTES_MAX} bytes"
                    routing.refuse(pending, protocol.BAD_REQUEST, text)
                else:
                    command(pending, about)
                return True
            if not group:
                text = f"unknown command {decoded.command[:64]!r} for a node"
                routing.refuse(pending, protocol.BAD_REQUEST, text)
                return True
        elif not group:
            routing.refuse(pending, protocol.BAD_REQUEST, "the group frame is empty")
            return True
        return False

    def _ask(self, pending: Pending, groups: list[int], compose: Callable[[], bytes]) -> None:
        """Have the workers describe ``groups``, then answer; in time, whatever they do."""
        hosts = self._router.routing.hosts
        by_slot: dict[int, list[int]] = {}
        for group in groups:
            worker = hosts.get(group)
            if worker is not None:
                by_slot.setdefault(worker.slot, []).append(group)
        self._ask_slots(pending, by_slot, compose)

    def _ask_slots(
        self, pending: Pending, by_slot: dict[int, list[int]], compose: Callable[[], bytes]
    ) -> None:
        if not by_slot or len(self._questions) >= QUESTIONS_MAX:
            self._answer(pending, compose())
            return
        self._number += 1
        number = self._number
        question = Question(pending, compose, set(by_slot))
        self._questions[number] = question
        loop = asyncio.get_running_loop()
        question.timer = loop.call_later(ASK_MS / 1_000, self._finish, number)
        for slot, wanted in by_slot.items():
            self._router.routing.workers[slot].send(wire.DESCRIBE, number, wanted, control=True)

    def on_described(self, slot: int, number: int, rows: list[Any], shared: dict[str, Any]) -> None:
        now = self._router.now_ms()
        self._shared[slot] = LastReport(shared, now)
        for group, description in rows:
            self._reports[group] = LastReport(description, now)
        question = self._questions.get(number)
        if question is not None:
            question.waits_for.discard(slot)
            if not question.waits_for:
                self._finish(number)

    def _finish(self, number: int) -> None:
        question = self._questions.pop(number, None)
        if question is None:
            return
        if question.timer is not None:
            question.timer.cancel()
        self._answer(question.pending, question.compose())

    def _answer(self, pending: Pending, data: bytes) -> None:
        reply = protocol.ok_reply_with_data(0, "", data)
        self._router.routing.answer(pending, protocol.encode_batch([reply]))

    # ------------------------------------------------------------------ metadata

    def _on_metadata(self, pending: Pending, group: str) -> None:
        route = self._router.routing.routes.get(group.encode())
        if route is None:
            pending.timeout_ms = min(pending.timeout_ms, UNKNOWN_GROUP_MS_MAX)
            self._router.routing.on_unknown_group(pending, group)
            return
        found = route
        self._ask(pending, [route.group], lambda: _dump(self._metadata(found)))

    def _metadata(self, route: Route) -> dict[str, Any]:
        router = self._router
        report = self._reports.get(route.group, LastReport())
        known = report.description
        summary = route.summary or known
        leader = summary.get("leader")
        addresses = router.routing.addresses
        return {
            "group": route.name,
            "id": route.group,
            "machine": route.machine,
            "leader": leader,
            "leader_address": addresses.get(leader or "") or None,
            "term": summary.get("term"),
            "role": summary.get("role"),
            "state": self._state_of(route),
            "members": [
                {"id": node, "address": addresses.get(node) or None, "voter": voter}
                for node, voter in self._members(route, known)
            ],
            "replicas": [
                {"node": node, "incarnation": f"{incarnation:016x}", "voter": voter}
                for node, incarnation, voter in known.get("members", ())
            ],
            "commit_index": known.get("commit_index"),
            "applied_index": known.get("applied_index"),
            "first_index": known.get("first_index"),
            "last_index": known.get("last_index"),
            "last_term": known.get("last_term"),
            "snapshot_index": known.get("snapshot_index"),
            "peers": known.get("peers", {}),
            "worker": self._worker_of(route),
            "error": summary.get("error"),
            "age_ms": None if report.at_ms is None else router.now_ms() - report.at_ms,
            **self._shared_in(route.slot),
            "digest": known.get("digest"),
            "counts": known.get("counts"),
        }

    def _shared_in(self, slot: int | None) -> dict[str, Any]:
        report = self._shared.get(-1 if slot is None else slot, LastReport())
        return {key: report.description.get(key) for key in ("disk", "log")}

    def _members(self, route: Route, known: dict[str, Any]) -> list[tuple[str, bool]]:
        """As the replica has them in its log; without its word, those that it began with."""
        if "members" not in known:
            return [(node, True) for node in route.members]
        voters: dict[str, bool] = {}
        for node, _, voter in known["members"]:
            # Twice, while a replica of another disk takes its place.
            voters[node] = voters.get(node, False) or voter
        return list(voters.items())

    def _state_of(self, route: Route) -> str:
        if route.summary.get("role") == "none":
            return str(route.summary["state"])
        if route.group not in self._router.routing.hosts:
            damaged = self.state.get("damaged", {})
            return "damaged" if str(route.slot) in damaged else "down"
        state = route.summary.get("state", "starting")
        return str(state)

    def _worker_of(self, route: Route) -> dict[str, Any]:
        for process in self.state.get("processes", ()):
            if process["kind"] == "worker" and process["slot"] == route.slot:
                return {
                    "slot": route.slot,
                    "pid": process["pid"],
                    "restarts": process["restarts"],
                }
        return {"slot": route.slot, "pid": None, "restarts": None}

    # ------------------------------------------------------------------ status

    def _on_status(self, pending: Pending, group: str) -> None:
        every: dict[int, list[int]] = {slot: [] for slot in self._router.routing.workers}
        self._ask_slots(pending, every, lambda: _dump(self._status()))

    def _slots(self) -> list[int]:
        """Also those whose worker is down."""
        routing = self._router.routing
        placed = {it.slot for it in routing.by_group.values() if it.slot is not None}
        return sorted(placed | routing.workers.keys())

    def _slot(self, slot: int) -> dict[str, Any]:
        at_ms = self._shared.get(slot, LastReport()).at_ms
        age_ms = None if at_ms is None else self._router.now_ms() - at_ms
        return {**self._shared_in(slot), "age_ms": age_ms}

    def _status(self) -> dict[str, Any]:
        router = self._router
        routing = router.routing
        return {
            "node": router.node,
            "incarnation": f"{router.neighbours.endpoint().incarnation:016x}",
            "cluster": router.neighbours.cluster.hex() or None,
            "version": VERSION,
            "addresses": router.bound,
            "processes": self.state.get("processes", []),
            "groups": {
                route.name: {
                    "role": route.summary.get("role"),
                    "term": route.summary.get("term"),
                    "leader": route.summary.get("leader"),
                    "state": self._state_of(route),
                }
                for route in routing.by_group.values()
            },
            "slots": {str(slot): self._slot(slot) for slot in self._slots()},
            "catalog_current": routing.catalog_is_current,
            "under_way": routing.under_way,
            "counts": {
                **routing.counts,
                **router.counts,
                "replies_dropped_full": router.client_sender.full,
                "replies_dropped_gone": router.client_sender.gone,
            },
            "connections": {
                name: dict(monitor.counts) for name, monitor in router.monitors.items()
            },
            "peers": {node: peer.status() for node, peer in router.neighbours.links.items()},
            "rebirths": self.state.get("rebirths_counts"),
            "refused": {node: reason for node, (reason, _) in router.neighbours.refused.items()},
        }

    # ------------------------------------------------------------------ why

    def _on_why(self, pending: Pending, group: str) -> None:
        route = self._router.routing.routes.get(group.encode())
        groups = [] if route is None else [route.group]
        self._ask(pending, groups, lambda: _dump(self._why(group)))

    def _why(self, group: str) -> dict[str, Any]:
        reason, text, silent = self._reason(group)
        back = self._coming_back(group)
        if back:
            text = f"{text}; {back}"
        refused = "; ".join(reason for reason, _ in self._router.neighbours.refused.values())
        return {
            "group": group,
            "ok": reason == "ok",
            "reason": reason,
            "text": f"{text}; link refused: {refused}" if refused else text,
            "silent": silent,
        }

    def _coming_back(self, group: str) -> str:
        """Where the local replica stands, if its log was lost."""
        route = self._router.routing.routes.get(group.encode())
        rebirths = self.state.get("rebirths", {})
        return "" if route is None else str(rebirths.get(str(route.group), ""))

    def _reason(self, group: str) -> tuple[str, str, list[dict[str, Any]]]:
        router = self._router
        forming = self.state.get("forming")
        if forming is not None or not router.neighbours.cluster:
            silent = [
                {"node": node, "since_ms": router.neighbours.silent_ms(node)}
                for node, peer in router.neighbours.links.items()
                if not peer.counts["hello_received"]
            ]
            return "forming", forming or "the node is starting", silent
        route = router.routing.routes.get(group.encode())
        if route is None:
            return self._reason_unknown(group)
        silent = [
            {"node": node, "since_ms": router.neighbours.silent_ms(node)}
            for node in route.members
            if node != router.node and not self._router.neighbours.is_up(node)
        ]
        reason, text = self._reason_of(route, len(silent))
        stall = self._stall_of(route)
        return reason, f"{text}; {stall}" if stall else text, silent

    def _stall_of(self, route: Route) -> str:
        """Whose disk keeps the group waiting, whatever else is wrong with it."""
        report = self._shared.get(-1 if route.slot is None else route.slot)
        disk = None if report is None else report.description.get("disk")
        if report is None or disk is None or report.at_ms is None:
            return ""
        more_ms = self._router.now_ms() - report.at_ms
        sync_ms, look_ms = (disk[key] for key in ("sync_ms", "look_ms"))
        if sync_ms is not None and sync_ms >= STALL_SHOWN_MS:
            what, since_ms = "finished a sync", sync_ms + more_ms
        elif look_ms is not None and look_ms >= STALL_SHOWN_MS:
            what, since_ms = "said how full it is", look_ms + more_ms
        else:
            return ""
        return f"the disk of {self._router.node} has not {what} for {since_ms // 1_000} s"

    def _reason_unknown(self, group: str) -> tuple[str, str, list[dict[str, Any]]]:
        if not group:
            return "ok", f"node {self._router.node} runs", []
        if self._router.routing.catalog_is_current:
            return "no_such_group", f"there is no group {group!r}", []
        return "electing", f"group {group!r} is not known here; the catalog may be behind", []

    def _reason_of(self, route: Route, silent_count: int) -> tuple[str, str]:
        state = self._state_of(route)
        error = route.summary.get("error")
        if state == "damaged":
            damaged = self.state.get("damaged", {}).get(str(route.slot))
            return "damaged", error or damaged or "the replica's log is damaged"
        if state == "quarantined":
            return "quarantined", f"the state machine failed: {error}"
        if state == "read_only":
            return "disk_full", str(error)
        if route.slot is not None and state == "down":
            words = self.state.get("ended", {}).get(str(route.slot))
            if words is not None and words.startswith(FULL):
                return "disk_full", words
            error = error or words
            return "worker_down", error or f"the worker of slot {route.slot} does not run"
        leader = route.leader
        reachable = len(route.members) - silent_count
        if leader is not None and (
            leader == self._router.node or self._router.neighbours.is_up(leader)
        ):
            return "ok", f"{leader} leads in term {route.summary.get('term')}"
        if reachable * 2 <= len(route.members):
            return (
                "no_quorum",
                f"only {reachable} of {len(route.members)} members are reached from here",
            )
        return "electing", "the members are electing a leader"


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
