"""What a node says of itself and its groups, also when something is dead, stuck or cut off."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.wire import (
    Wire,
    admin,
    data_of,
    describe,
    get,
    put,
    shared_cluster,
    show_logs_of,
    wires,
    write,
)
from transport import polyraft_pb2 as pb

pytestmark = pytest.mark.cluster

MakeWire = Callable[..., Wire]
ADMIN_S_MAX = 1.0

METADATA = {
    *("group", "id", "machine", "leader", "leader_address", "term", "role", "state", "members"),
    *("commit_index", "applied_index", "first_index", "last_index", "peers", "worker", "error"),
    "age_ms",
}
STATUS = {"node", "incarnation", "cluster", "version", "addresses", "processes", "groups"}
WHY = {"group", "ok", "reason", "text", "silent"}
STATES = {"running", "starting", "read_only", "quarantined", "damaged", "down"}
REASONS = {
    *("ok", "forming", "electing", "no_quorum", "worker_down", "quarantined", "damaged"),
    *("disk_full", "no_such_group"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    groups = {
        "kv": "kv",
        "stock": "examples.counter:Counter",
        "fragile": "tests.cluster.fragile:Fragile",
    }
    with shared_cluster(tmp_path_factory, groups=groups) as cluster:
        yield cluster


@pytest.fixture
def three(shared: Cluster, request: pytest.FixtureRequest) -> Cluster:
    show_logs_of(shared, request)
    return shared


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    with wires() as make:
        yield make


@pytest.fixture
def every(three: Cluster, make_wire: MakeWire) -> list[Wire]:
    return [make_wire(node.client) for node in three.nodes]


def ask_in_time(wire: Wire, group: str, command: str) -> dict[str, Any]:
    """An Admin must be answered within a second; a noisy machine gets a second try."""
    for _ in range(2):
        begun = time.monotonic()
        answer = wire.ask(group, command)
        took_s = time.monotonic() - begun
        if took_s < ADMIN_S_MAX:
            return answer
    raise AssertionError(f"{command} took {took_s:.2f} s")


def metadata_of(wire: Wire, group: str) -> dict[str, Any]:
    found = ask_in_time(wire, group, "metadata")
    assert METADATA <= found.keys()
    assert found["group"] == group
    assert found["state"] in STATES
    assert found["worker"].keys() == {"slot", "pid", "restarts"}
    for member in found["members"]:
        assert member.keys() == {"id", "address", "voter"}
    for peer in found["peers"].values():
        assert peer.keys() == {"match", "lag", "active_ms_ago"}
    return found


def status_of(wire: Wire) -> dict[str, Any]:
    found = ask_in_time(wire, "", "status")
    assert STATUS <= found.keys()
    assert found["addresses"].keys() == {"client", "peer", "events"}
    for process in found["processes"]:
        assert process.keys() == {"kind", "pid", "restarts", "slot"}
    for group in found["groups"].values():
        assert group.keys() == {"role", "term", "leader", "state"}
        assert group["state"] in STATES
    return found


def why_of(wire: Wire, group: str) -> dict[str, Any]:
    found = ask_in_time(wire, group, "why")
    assert WHY <= found.keys()
    assert found["group"] == group
    assert found["reason"] in REASONS
    assert found["ok"] == (found["reason"] == "ok")
    assert found["text"]
    for silent in found["silent"]:
        assert silent.keys() == {"node", "since_ms"}
    return found


# --------------------------------------------------------------------------- all is well


def test_metadata(three: Cluster, every: list[Wire]) -> None:
    leader = three.leader("kv")
    index = every[0].one("kv", put("k")).index
    for node, wire in zip(three.nodes, every, strict=True):

        def has_it(wire: Wire = wire) -> dict[str, Any] | None:
            found = metadata_of(wire, "kv")
            return found if found["applied_index"] >= index else None

        found = wait_until(has_it, "the write is applied everywhere")
        assert found is not None
        assert found["machine"] == "kv"
        assert found["leader"] == leader.name
        assert found["leader_address"] == leader.client
        assert found["role"] == ("leader" if node is leader else "follower")
        assert found["state"] == "running"
        assert found["members"] == [
            {"id": each.name, "address": each.client, "voter": True} for each in three.nodes
        ]
        assert found["commit_index"] <= found["last_index"]
        assert found["first_index"] == 1
        assert found["error"] is None
        assert found["age_ms"] < 1_000
        assert found["worker"]["pid"] == node.worker_of("kv").pid
        others = {each.name for each in three.nodes if each is not node}
        assert set(found["peers"]) == (others if node is leader else set())


def test_status(three: Cluster, every: list[Wire]) -> None:
    clusters = set()
    for node, wire in zip(three.nodes, every, strict=True):
        found = status_of(wire)
        assert found["node"] == node.name
        assert found["addresses"] == {
            "client": node.client,
            "peer": node.peer,
            "events": node.events,
        }
        assert node.process is not None
        kinds = [process["kind"] for process in found["processes"]]
        assert sorted(kinds) == ["node", "router", "worker", "worker", "worker", "worker"]
        assert node.process.pid in [process["pid"] for process in found["processes"]]
        assert {"_system", "kv", "stock", "fragile"} <= found["groups"].keys()
        clusters.add(found["cluster"])
    assert len(clusters) == 1
    assert len({status_of(wire)["incarnation"] for wire in every}) == 3


def test_why_when_all_is_well(every: list[Wire]) -> None:
    for wire in every:
        for group in ("kv", "_system", "stock"):
            found = why_of(wire, group)
            assert found["ok"], found
            assert found["silent"] == []
        assert why_of(wire, "")["ok"]
        assert why_of(wire, "nobody")["reason"] == "no_such_group"


def test_nodes_and_groups_of_the_cluster(three: Cluster, every: list[Wire]) -> None:
    expected = [(node.name, node.client, node.peer, node.events) for node in three.nodes]
    for wire in every:
        counts = status_of(wire)["counts"]
        # Nobody's answer is lost because one direction between two nodes came up before the other.
        assert counts.get("forward_replies_dropped", 0) == 0
        assert counts["expired"] == 0
    for wire in every:

        def nodes(wire: Wire = wire) -> list[tuple[str, str, str, str]]:
            rows = wire.ask("_system", "nodes")["nodes"]
            return [(row["id"], row["client"], row["peer"], row["events"]) for row in rows]

        wait_until(lambda: nodes() == expected, "every node has registered")
        groups = {row["name"]: row for row in wire.ask("_system", "groups")["groups"]}
        assert groups["kv"]["machine"] == "kv"
        assert groups["kv"]["id"] == wire.ask("kv", "metadata")["id"]
        assert [name for name, _ in groups["kv"]["members"]] == ["n1", "n2", "n3"]


@pytest.mark.parametrize("group", ["", "_system", "kv"])
def test_an_unknown_admin(every: list[Wire], group: str) -> None:
    for wire in every:
        payload = wire.call(group, admin("reboot"))
        assert payload.whole
        assert payload.replies[0].code == pb.BAD_REQUEST
        assert "'reboot'" in payload.replies[0].response.errMsg


# --------------------------------------------------------------------------- groups are made


def make_group(wire: Wire, name: str, machine: str) -> pb.Reply:
    return wire.one("_system", admin("createGroup", name, 0, machine=machine))


def wait_usable(every: list[Wire], name: str) -> None:
    for wire in every:
        wait_until(lambda wire=wire: wire.one(name, put("k")).code == pb.OK, f"{name} is usable")  # type: ignore[misc]


def test_a_group_that_is_created_is_usable_from_every_node(every: list[Wire]) -> None:
    """Each node is asked once; so one request is of the leader's own node and two travel."""
    ids = set()
    for number, wire in enumerate(every):
        name = f"made{number}"
        made = wire.ask("_system", "createGroup", name, machine="kv")
        assert made["created"] is True
        ids.add(made["id"])
        wait_usable(every, name)
        for other in every:
            assert data_of(other.one(name, get("k")))["value"] == b"v"
            again = other.ask("_system", "createGroup", name, machine="kv")
            assert again == {"id": made["id"], "created": False}
            assert metadata_of(other, name)["id"] == made["id"]
    assert len(ids) == 3


@pytest.mark.parametrize("name", ["", "a b", "_mine", "ä", "x" * 129])
def test_a_group_with_a_bad_name_is_not_created(every: list[Wire], name: str) -> None:
    for wire in every:
        reply = make_group(wire, name, "kv")
        assert reply.code == pb.REJECTED, describe(reply)


def test_a_group_cannot_change_its_machine(every: list[Wire]) -> None:
    for wire in every:
        reply = make_group(wire, "kv", "examples.counter:Counter")
        assert reply.code == pb.REJECTED
        assert "machine kv" in reply.response.errMsg


@pytest.mark.parametrize("machine", ["", "kw", "os.system", "a b:C", ":", "a:b.c"])
def test_a_machine_kind_that_cannot_be_one_is_refused(every: list[Wire], machine: str) -> None:
    for wire in every:
        reply = make_group(wire, "never", machine)
        assert reply.code == pb.BAD_REQUEST, describe(reply)
        # Who has not applied yet what was committed just before does not know all groups.
        wait_until(
            lambda wire=wire: why_of(wire, "never")["reason"] == "no_such_group",  # type: ignore[misc]
            "it is known that there is none",
        )


# --------------------------------------------------------------------------- machines of users


def count(wire: Wire, name: str, amount: bytes) -> pb.Reply:
    return wire.one("stock", write("ADD", name, amount))


def stock_read(wire: Wire, name: bytes) -> bytes:
    body = pb.Read(request=pb.ReadRequest(data=name))
    reply = wire.one("stock", pb.Request(read=body))
    assert reply.code == pb.OK, describe(reply)
    return reply.response.data


def test_the_example_machine_counts_on_every_node(three: Cluster, every: list[Wire]) -> None:
    for number, wire in enumerate(every, 1):
        assert count(wire, "apples", b"5").response.data == b"%d" % (5 * number)
    refused = count(every[1], "apples", b"-16")
    assert refused.code == pb.REJECTED
    assert "-1" in refused.response.errMsg
    assert count(every[2], "apples", b"-15").response.data == b"0"
    assert count(every[0], "apples", b"many").code == pb.REJECTED
    count(every[0], "pears", b"3")
    assert [stock_read(wire, b"pears") for wire in every] == [b"3"] * 3
    assert three.wait_equal("stock") > 0


def test_a_read_that_raises_is_rejected_and_harms_nobody(every: list[Wire]) -> None:
    for wire in every:
        body = pb.Read(request=pb.ReadRequest(data=b"break"))
        reply = wire.one("fragile", pb.Request(read=body))
        assert reply.code == pb.REJECTED, describe(reply)
        assert "ZeroDivisionError" in reply.response.errMsg
        assert wire.done("fragile", write("OK")).code == pb.OK


def test_a_machine_that_cannot_be_had_takes_no_other_group_down(
    three: Cluster, every: list[Wire]
) -> None:
    """A machine that no node's own configuration names is not even looked for: its name came over
    the wire."""
    machines = {
        "absent": "no.such.module:Machine",
        "classless": "examples.counter:NoSuchClass",
        "unmakeable": "tests.cluster.fragile:Unmakeable",
        "no-machine": "json:JSONDecoder",
    }
    for name, machine in machines.items():
        assert make_group(every[0], name, machine).code == pb.OK
    for wire in every:
        for name in machines:
            wait_until(
                lambda wire=wire, name=name: "is not declared" in why_of(wire, name)["text"],  # type: ignore[misc]
                f"{name} is known not to run, and why",
            )
            reply = wire.one(name, put("k", timeout_ms=500))
            assert reply.code in (pb.NO_LEADER, pb.READ_ONLY, pb.UNAVAILABLE), describe(reply)
    for wire in every:
        assert "no.such.module:Machine is not declared" in why_of(wire, "absent")["text"]
        assert wire.done("kv", put("k")).code == pb.OK
    assert three.leader("kv").worker_of("kv").is_alive()


# --------------------------------------------------------------------------- stuck, dead, cut off


@contextlib.contextmanager
def stopped(*processes: Any) -> Iterator[None]:
    try:
        for process in processes:
            process.signal(signal.SIGSTOP)
        wait_until(lambda: all(each.is_stopped() for each in processes), "they stand still")
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)


def test_a_stuck_worker_is_described_from_its_last_report(
    three: Cluster, make_wire: MakeWire
) -> None:
    node = three.followers("kv")[0]
    wire, worker = make_wire(node.client), node.worker_of("kv")
    fresh = metadata_of(wire, "kv")
    with stopped(worker):
        ages = []
        for _ in range(3):
            found = metadata_of(wire, "kv")
            ages.append(found["age_ms"])
            for name in ("id", "machine", "first_index", "members", "worker"):
                assert found[name] == fresh[name]
            assert found["last_index"] is not None
        assert ages[0] > 300
        assert ages == sorted(ages)
        assert ages[2] >= ages[0] + 600, "the age grows"
        assert "kv" in status_of(wire)["groups"]
        why_of(wire, "kv")
        # Others on this node notice nothing; and who waits for this worker hears in time.
        assert wire.done("stock", write("ADD", "plums", b"1")).code == pb.OK
        begun = time.monotonic()
        reply = wire.one("kv", put("k", timeout_ms=300))
        assert reply.code == pb.TIMEOUT, describe(reply)
        assert reply.maybe_applied, "the router cannot know"
        assert time.monotonic() - begun < 3
    wait_until(lambda: metadata_of(wire, "kv")["age_ms"] < 300, "it is asked again")
    assert wire.done("kv", put("k")).code == pb.OK


def test_a_dead_worker_is_named_until_it_is_back(three: Cluster, make_wire: MakeWire) -> None:
    """Its node process stands still, so nobody restarts it."""
    node = three.followers("kv")[0]
    wire, worker = make_wire(node.client), node.worker_of("kv")
    metadata_of(wire, "kv")
    assert node.process is not None
    supervisor = next(each for each in node.processes() if each.pid == node.process.pid)
    with stopped(supervisor):
        worker.signal(signal.SIGKILL)
        wait_until(lambda: metadata_of(wire, "kv")["state"] == "down", "it is seen")
        found = metadata_of(wire, "kv")
        assert found["age_ms"] >= 0
        assert found["last_index"] is not None
        assert status_of(wire)["groups"]["kv"]["state"] == "down"
        found = why_of(wire, "kv")
        assert found["reason"] == "worker_down"
        # The group lives on: this node forwards.
        assert wire.done("kv", put("k")).code == pb.OK
    wait_until(lambda: metadata_of(wire, "kv")["worker"]["restarts"] >= 1, "it is restarted")
    three.wait_equal("kv")


def test_without_a_quorum_every_refusal_says_what_became_of_the_write(
    three: Cluster, make_wire: MakeWire
) -> None:
    """The leader is cut off: its followers' nodes stand still."""
    leader = three.leader("kv")
    wire = make_wire(leader.client)
    sent = ("in flight", 2_500), ("short", 100), ("shortest", 1)
    others = [process for node in three.others(leader) for process in node.processes()]
    with stopped(*others):
        begun = time.monotonic()
        keys = {
            wire.send("kv", put(key, timeout_ms=timeout_ms)): (key, timeout_ms)
            for key, timeout_ms in sent
        }
        for _ in sent:
            correlation, payload = wire.receive(6)
            key, timeout_ms = keys.pop(correlation)
            took_ms = (time.monotonic() - begun) * 1_000
            (reply,) = payload.replies
            assert reply.code in (pb.TIMEOUT, pb.NOT_LEADER), describe(reply)
            assert reply.maybe_applied, f"{key} is in the leader's log: {describe(reply)}"
            assert took_ms < timeout_ms + 1_500, f"{key}: {took_ms} ms"
        _is_cut_off(wire, three.others(leader))
        _refuses_without_a_trace(wire)
    three.wait_serving()
    # What may have been applied was, or was not; what certainly was not never appears.
    found = data_of(wire.one("kv", get("refused")))
    assert found is None
    three.wait_equal("kv")


def _is_cut_off(wire: Wire, silent: list[Node]) -> None:
    def reason() -> dict[str, Any] | None:
        found = why_of(wire, "kv")
        return found if found["reason"] == "no_quorum" else None

    found = wait_until(reason, "why says no_quorum")
    assert found is not None
    assert {each["node"] for each in found["silent"]} == {node.name for node in silent}
    for each in found["silent"]:
        assert each["since_ms"] >= 0
    wait_until(lambda: metadata_of(wire, "kv")["role"] != "leader", "it has stepped down")
    assert status_of(wire)["groups"]["kv"]["leader"] is None


def _refuses_without_a_trace(wire: Wire) -> None:
    for timeout_ms in (1, 300):
        for request in (put("refused", timeout_ms=timeout_ms), get("k", timeout_ms=timeout_ms)):
            begun = time.monotonic()
            payload = wire.call("kv", request, deadline_s=5)
            reply = payload.replies[0]
            assert payload.whole
            assert reply.code in (pb.NO_LEADER, pb.TIMEOUT), describe(reply)
            assert not reply.maybe_applied
            assert time.monotonic() - begun < 2.5
            if reply.code == pb.NO_LEADER:
                assert reply.retry_after_ms > 0
    reply = wire.one("_system", admin("createGroup", "refused", 300, machine="kv"))
    assert reply.code in (pb.NO_LEADER, pb.TIMEOUT), describe(reply)
    assert not reply.maybe_applied


def test_what_was_forwarded_to_a_node_that_stands_still_is_answered_in_time(
    three: Cluster, make_wire: MakeWire
) -> None:
    leader = three.leader("kv")
    other = three.others(leader)[0]
    wire = make_wire(other.client)
    with stopped(*leader.processes()):
        begun = time.monotonic()
        sent = [wire.send("kv", put(f"hung{at}", timeout_ms=3_000)) for at in range(20)]
        sent += [wire.send("kv", get("k", timeout_ms=3_000)) for _ in range(20)]
        found = wire.receive_all(len(sent), 5)
        assert found.keys() == set(sent)
        assert time.monotonic() - begun < 5
        for payload in found.values():
            (reply,) = payload.replies
            assert reply.code in (pb.UNAVAILABLE, pb.TIMEOUT, pb.NO_LEADER, pb.OK), describe(reply)
            assert reply.maybe_applied == (reply.code in (pb.UNAVAILABLE, pb.TIMEOUT))
        wait_until(
            lambda: wire.one("kv", put("k", timeout_ms=1_000)).code == pb.OK,
            "the others have elected a leader",
        )
        why = why_of(wire, "kv")
        assert why["ok"]
        assert [each["node"] for each in why["silent"]] == [leader.name]
    three.wait_serving()
    three.wait_equal("kv")
    assert wire.is_quiet(), "the node that came back answers nothing a second time"


# --------------------------------------------------------------------------- the last, for it stays


def test_a_machine_that_raises_is_quarantined_and_the_rest_goes_on(
    three: Cluster, every: list[Wire]
) -> None:
    assert every[0].done("fragile", write("OK")).code == pb.OK
    reply = every[0].done("fragile", write("BREAK"))
    assert reply.code == pb.INTERNAL, describe(reply)
    assert reply.maybe_applied
    assert "ZeroDivisionError" in reply.response.errMsg
    for wire in every:
        wait_until(
            lambda wire=wire: metadata_of(wire, "fragile")["state"] == "quarantined",  # type: ignore[misc]
            "every replica is quarantined: they all have the bug",
        )
        assert "ZeroDivisionError" in metadata_of(wire, "fragile")["error"]
        assert status_of(wire)["groups"]["fragile"]["state"] == "quarantined"
        wait_until(
            lambda wire=wire: why_of(wire, "fragile")["reason"] == "quarantined",  # type: ignore[misc]
            "that is the reason, once somebody leads",
        )
        assert "ZeroDivisionError" in why_of(wire, "fragile")["text"]
        # Leaders that are quarantined offer leadership to the others, once each; then one stays.
        wait_until(
            lambda wire=wire: wire.one("fragile", write("OK")).code == pb.READ_ONLY,  # type: ignore[misc]
            "writes are refused, and why is said",
        )
        wait_until(
            lambda wire=wire: wire.one("fragile", get("k")).code == pb.INTERNAL,  # type: ignore[misc]
            "and reads",
        )
        assert wire.done("kv", put("k")).code == pb.OK
        assert why_of(wire, "kv")["ok"]
    # Consensus goes on: it leads, and its log is intact.
    leader = three.leader("fragile")
    wire = every[three.nodes.index(leader)]
    wait_until(
        lambda: metadata_of(wire, "fragile")["leader"] is not None, "somebody is said to lead it"
    )
    worker = leader.worker_of("fragile")
    worker.signal(signal.SIGKILL)
    wait_until(
        lambda: metadata_of(wire, "fragile")["worker"]["pid"] not in (None, worker.pid),
        "its worker is restarted",
    )
    wait_until(
        lambda: metadata_of(wire, "fragile")["state"] == "quarantined",
        "the same entry quarantines it again",
    )
    three.wait_serving(["kv", "stock", "_system"])
