"""``status``, ``metadata`` and ``why``: answered by this node, in time, whatever its workers do."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from actors import status as status_module
from actors import wire as kinds
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.neighbours import Listener, Neighbours, Self
from actors.routing import CLIENT, Outcomes, Pending, Route, Routing, WorkerLink
from actors.runtime import VirtualClock
from actors.status import Shown, Status
from tests.actors.cluster import batch_of, put
from transport import protocol
from transport.client import wire
from transport.peers import UP

KV = 7


class Loop:
    """Its timers go off when told to."""

    def __init__(self) -> None:
        self.timers: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.cancelled = 0

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> Loop:
        assert delay_s < 1, "a node answers within a second"
        self.timers.append((callback, arguments))
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def ring(self) -> None:
        timers, self.timers = self.timers, []
        for callback, arguments in timers:
            callback(*arguments)


class Peer:
    def __init__(self) -> None:
        self.state = UP
        self.counts = {"hello_received": 1}

    def status(self) -> dict[str, Any]:
        return {"state": self.state}


class Bench:
    """Node n1 of three, with the group ``kv`` led by n2, in a worker of slot 1."""

    def __init__(self) -> None:
        self.clock = VirtualClock(10_000)
        self.loop = Loop()
        self.asked: list[tuple[int, int, list[int]]] = []  # slot, query, groups
        self.replies: list[bytes] = []
        routing = Routing(
            "n1",
            5,
            Outcomes(
                lambda pending, payload: self.replies.append(payload),
                lambda node, forward: False,
                lambda pending, leader, term: None,
                lambda pending, group: self.status.on_admin(pending, group),
            ),
            self.clock.now_ms,
        )
        self.routing = routing
        self.peers = {"n2": Peer(), "n3": Peer()}
        me = Self("n1", 0x11, 5, {}, {}, b"")
        listener = Listener(*[cast(Any, None)] * 6)  # hears nothing: no link is real here
        self.neighbours = Neighbours(
            me, cast(Any, None), cast(Any, self.loop), self.clock, Counter(), listener
        )
        self.neighbours.cluster = b"c" * 16
        self.neighbours.links = cast(Any, self.peers)
        self.router = SimpleNamespace(
            node="n1",
            bound={"client": "tcp://127.0.0.1:1", "peer": "p", "events": "e"},
            routing=routing,
            counts=Counter(),
            client_sender=SimpleNamespace(full=1, gone=2),
            monitors={"client": SimpleNamespace(counts={"ACCEPTED": 3})},
            neighbours=self.neighbours,
            now_ms=self.clock.now_ms,
        )
        self.status = Status(cast(Shown, self.router))
        self.status.state = {
            "processes": [
                {"kind": "node", "pid": 1, "restarts": 0, "slot": None},
                {"kind": "worker", "pid": 55, "restarts": 2, "slot": 1},
            ],
            "forming": None,
            "damaged": {},
        }
        members = ["n1", "n2", "n3"]
        routing.set_routes(
            [
                Route(KV, "kv", "kv", members, 1, summary(leader="n2")),
                Route(SYSTEM_GROUP_ID, SYSTEM_GROUP, "_catalog", members, 0, summary(leader="n1")),
            ]
        )
        routing.addresses.update({"n1": "tcp://n1:1", "n2": "tcp://n2:1"})
        self.workers = {slot: self.worker(slot, group) for slot, group in ((0, 1), (1, KV))}

    def worker(self, slot: int, group: int) -> WorkerLink:
        def send(kind: int, number: int, wanted: list[int], *, control: bool) -> bool:
            assert (kind, control) == (kinds.DESCRIBE, True)
            self.asked.append((slot, number, wanted))
            return True

        worker = WorkerLink(slot, 50 + slot, 1, send)
        self.routing.on_worker(worker, [group])
        return worker

    def send(self, command: str, value: str = "", *, group: str = "") -> None:
        batch = batch_of(wire.encode_admin(command, value))
        self.routing.on_message(CLIENT, b"alice", False, b"c", group.encode(), batch)

    def describe(
        self, slot: int, shared: dict[str, Any] | None = None, **rows: dict[str, Any]
    ) -> None:
        """The worker answers the newest question that it was asked."""
        number = max(asked for at, asked, _ in self.asked if at == slot)
        found = [[int(key[1:]), row] for key, row in rows.items()]
        self.status.on_described(slot, number, found, shared or {})

    @property
    def outcome(self) -> wire.Outcome:
        (payload,) = self.replies
        (outcome,) = wire.decode_replies(payload, 1)
        return outcome

    def answer(self) -> dict[str, Any]:
        """Of the only question so far, taken."""
        assert self.outcome.code == protocol.OK
        value: dict[str, Any] = json.loads(self.outcome.data)
        self.replies.clear()
        return value

    def why(self, group: str = "kv") -> dict[str, Any]:
        self.send("why", group=group)
        self.loop.ring()
        return self.answer()


def summary(
    *, leader: str | None, state: str = "running", error: str | None = None
) -> dict[str, Any]:
    return {
        "role": "follower",
        "term": 4,
        "leader": leader,
        "state": state,
        "current": True,
        "error": error,
    }


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: bench.loop)
    return bench


# --------------------------------------------------------------------------- metadata


def test_metadata_asks_the_worker_and_shows_what_it_says(bench: Bench) -> None:
    bench.send("metadata", group="kv")
    assert bench.replies == []
    assert [each[::2] for each in bench.asked] == [(1, [KV])]
    peers = {"n2": {"match": 4, "lag": 0, "active_ms_ago": 3}}
    bench.describe(1, g7={"commit_index": 5, "applied_index": 4, "last_index": 6, "peers": peers})
    told = bench.answer()
    assert bench.loop.cancelled == 1
    assert (told["group"], told["id"], told["machine"]) == ("kv", KV, "kv")
    assert (told["leader"], told["leader_address"], told["term"]) == ("n2", "tcp://n2:1", 4)
    assert (told["commit_index"], told["applied_index"], told["first_index"]) == (5, 4, None)
    assert told["worker"] == {"slot": 1, "pid": 55, "restarts": 2}
    assert told["members"][2] == {"id": "n3", "address": None, "voter": True}
    assert (told["state"], told["age_ms"], told["peers"]) == ("running", 0, peers)


def test_a_stuck_worker_is_answered_for_from_its_last_report_with_its_age(bench: Bench) -> None:
    bench.send("metadata", group="kv")
    bench.describe(1, g7={"commit_index": 5})
    bench.answer()
    bench.clock.advance(30_000)
    bench.send("metadata", group="kv")
    assert bench.replies == []
    bench.loop.ring()
    told = bench.answer()
    assert (told["commit_index"], told["age_ms"]) == (5, 30_000)
    bench.describe(1, g7={"commit_index": 6})  # too late for anybody
    assert bench.replies == []


def test_a_worker_that_never_reported_is_answered_for_with_nulls(bench: Bench) -> None:
    bench.send("metadata", group="kv")
    bench.loop.ring()
    told = bench.answer()
    assert told["commit_index"] is told["age_ms"] is told["digest"] is None
    assert told["peers"] == {}


def test_without_a_worker_metadata_is_answered_at_once(bench: Bench) -> None:
    bench.routing.on_worker_lost(bench.workers[1])
    bench.send("metadata", group="kv")
    told = bench.answer()
    assert (told["state"], told["leader"]) == ("down", None)
    bench.status.state["damaged"] = {"1": "segment 3 at 184"}
    bench.send("metadata", "kv")
    assert bench.answer()["state"] == "damaged"


def test_metadata_of_no_group_is_a_bad_request(bench: Bench) -> None:
    bench.send("metadata")
    assert bench.outcome.code == protocol.BAD_REQUEST


def test_too_many_questions_are_answered_from_last_reports(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_module, "QUESTIONS_MAX", 1)
    bench.send("metadata", group="kv")
    bench.send("metadata", group="kv")
    assert len(bench.replies) == 1


# --------------------------------------------------------------------------- status


def test_status_shows_every_group_and_what_each_worker_says_of_its_log(bench: Bench) -> None:
    bench.send("status")
    assert [(slot, groups) for slot, _, groups in bench.asked] == [(0, []), (1, [])]
    logs = {slot: {"disk": {"free_bytes": slot}, "log": {"bytes": 10 + slot}} for slot in (0, 1)}
    bench.describe(0, logs[0])
    assert bench.replies == []
    bench.describe(1, logs[1])
    told = bench.answer()
    assert told["slots"] == {
        "0": {**logs[0], "age_ms": 0},
        "1": {**logs[1], "age_ms": 0},
    }
    assert (told["node"], told["incarnation"]) == ("n1", "0" * 14 + "11")
    assert told["cluster"] == (b"c" * 16).hex()
    assert told["groups"]["kv"] == {
        "role": "follower",
        "term": 4,
        "leader": "n2",
        "state": "running",
    }
    assert told["processes"] == bench.status.state["processes"]
    assert told["counts"]["replies_dropped_gone"] == 2
    assert told["connections"] == {"client": {"ACCEPTED": 3}}
    assert told["under_way"] == 1, "the question itself"


def test_status_says_what_was_heard_last_of_the_log_of_a_worker_that_is_down_or_stuck(
    bench: Bench,
) -> None:
    bench.send("status")
    bench.describe(0, {"log": {"bytes": 7}})
    bench.loop.ring()
    told = bench.answer()["slots"]
    assert told["0"] == {"disk": None, "log": {"bytes": 7}, "age_ms": 0}
    assert told["1"] == {"disk": None, "log": None, "age_ms": None}
    bench.clock.advance(2_000)
    bench.routing.on_worker_lost(bench.workers[0])
    bench.routing.on_worker_lost(bench.workers[1])
    bench.send("status")
    told = bench.answer()["slots"]
    assert told["0"] == {"disk": None, "log": {"bytes": 7}, "age_ms": 2_000}


# --------------------------------------------------------------------------- what is for whom


def ask(bench: Bench, batch: bytes, group: str = "") -> bool:
    pending = Pending(1, CLIENT, b"a", False, b"c", 0, batch, 0, 500)
    bench.routing._admit(pending)
    return bench.status.on_admin(pending, group)


def test_admins_for_a_group_go_on_to_it(bench: Bench) -> None:
    assert not ask(bench, batch_of(wire.encode_admin("createGroup", "x")), SYSTEM_GROUP)
    assert bench.replies == []


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (batch_of(wire.encode_admin("fly", "")), "unknown command 'fly'"),
        (batch_of(put("a")), "the group frame is empty"),
        (b"\xff", "not a RequestBatch"),
        (b"", "at least one request"),
    ],
)
def test_what_a_node_does_not_understand_is_a_bad_request(
    bench: Bench, batch: bytes, text: str
) -> None:
    assert ask(bench, batch)
    assert bench.outcome.code == protocol.BAD_REQUEST
    assert text in bench.outcome.error_text


# --------------------------------------------------------------------------- why


def test_all_is_well(bench: Bench) -> None:
    told = bench.why()
    assert (told["ok"], told["reason"], told["silent"]) == (True, "ok", [])
    assert told["text"] == "n2 leads in term 4"
    assert bench.why("")["reason"] == "ok"


def test_why_names_the_first_reason_of_all(bench: Bench) -> None:
    """In the order in which one would look: each is worse than the one before."""
    route = bench.routing.by_group[KV]
    route.summary = summary(leader=None)
    assert bench.why()["reason"] == "electing"
    bench.peers["n2"].state = bench.peers["n3"].state = "down"
    bench.neighbours.down_since_ms.update(n2=4_000, n3=9_000)
    told = bench.why()
    assert told["reason"] == "no_quorum"
    assert told["silent"] == [
        {"node": "n2", "since_ms": 6_000},
        {"node": "n3", "since_ms": 1_000},
    ]
    route.summary = summary(leader=None, state="quarantined", error="moody")
    assert bench.why()["reason"] == "quarantined"
    assert "moody" in bench.why()["text"]
    bench.routing.on_worker_lost(bench.workers[1])
    assert bench.why()["reason"] == "worker_down"
    bench.status.state["damaged"] = {"1": "segment 3 at 184"}
    told = bench.why()
    assert (told["reason"], told["text"]) == ("damaged", "segment 3 at 184")
    bench.status.state["rebirths"] = {str(KV): "catching up 40 %", "99": "no"}
    assert bench.why()["text"] == "segment 3 at 184; catching up 40 %"
    del bench.status.state["rebirths"]
    bench.status.state["forming"] = "waiting for n3"
    bench.peers["n3"].counts["hello_received"] = 0
    told = bench.why()
    assert (told["reason"], told["text"]) == ("forming", "waiting for n3")
    assert [each["node"] for each in told["silent"]] == ["n3"]
    assert not told["ok"]


def test_a_leader_out_of_reach_leads_nobody_here(bench: Bench) -> None:
    bench.peers["n2"].state = "down"
    told = bench.why()
    assert told["reason"] == "electing"
    assert [each["node"] for each in told["silent"]] == ["n2"]


def test_one_of_two_members_is_no_quorum(bench: Bench) -> None:
    route = bench.routing.by_group[KV]
    route.members = ["n1", "n2"]
    route.summary = summary(leader=None)
    bench.peers["n2"].state = "down"
    assert bench.why()["reason"] == "no_quorum"


def test_a_link_that_was_refused_is_said_beside_any_reason(bench: Bench) -> None:
    bench.neighbours.refused["n3"] = ("n3 has a new disk; replace the node", 0)
    assert "n3 has a new disk" in bench.why()["text"]
    bench.neighbours.cluster = b""
    assert bench.why()["reason"] == "forming"


def test_an_unknown_group_is_said_not_to_exist_only_with_a_current_catalog(bench: Bench) -> None:
    bench.routing.catalog_is_current = False
    assert bench.why("nowhere")["reason"] == "electing"
    bench.routing.catalog_is_current = True
    assert bench.why("nowhere")["reason"] == "no_such_group"


# --------------------------------------------------------------------------- disks


def test_a_full_disk_is_the_reason_and_its_text_says_what_to_do(bench: Bench) -> None:
    error = "the disk is full: /data has 5 bytes free, less than 10; make room there"
    bench.routing.by_group[KV].summary = summary(leader="n2", state="read_only", error=error)
    told = bench.why()
    assert (told["ok"], told["reason"], told["text"]) == (False, "disk_full", error)


def test_a_worker_that_found_no_room_to_start_is_down_for_a_full_disk(bench: Bench) -> None:
    bench.routing.on_worker_lost(bench.workers[1])
    for words, reason in (("full: no space left", "disk_full"), ("failed: fsync", "worker_down")):
        bench.status.state["ended"] = {"1": words}
        told = bench.why()
        assert (told["ok"], told["reason"], told["text"]) == (False, reason, words)
        bench.send("metadata", "kv")
        assert bench.answer()["state"] == "down", "nothing is damaged"


@pytest.mark.parametrize(
    ("sync_ms", "look_ms", "text"),
    [
        (3_100, None, "; the disk of n1 has not finished a sync for 3 s"),
        (900, 4_000, "; the disk of n1 has not said how full it is for 4 s"),
        (900, 900, ""),
    ],
)
def test_a_disk_that_keeps_everybody_waiting_is_named(
    bench: Bench, sync_ms: int, look_ms: int | None, text: str
) -> None:
    disk = {"sync_ms": sync_ms, "look_ms": look_ms}
    bench.send("metadata", group="kv")
    bench.describe(1, {"disk": disk}, g7={})
    assert bench.answer()["disk"] == disk
    bench.send("why", group="kv")
    bench.describe(1, {"disk": disk}, g7={})
    told = bench.answer()
    assert told["ok"]
    assert told["text"] == "n2 leads in term 4" + text


def test_a_disk_that_hangs_and_takes_its_worker_along_is_named_with_the_time_since(
    bench: Bench,
) -> None:
    bench.send("metadata", group="kv")
    bench.describe(1, {"disk": {"sync_ms": 3_100, "look_ms": None}})
    bench.answer()
    bench.clock.advance(2_000)
    assert bench.why()["text"].endswith("; the disk of n1 has not finished a sync for 5 s")
