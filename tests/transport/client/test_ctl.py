"""The operator's command line against a faked node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
import zmq

from tests.transport.client.fake_node import Answer, FakeNode, KVMachine, each, reply, whole
from transport import polyraft_pb2 as pb
from transport.client import Client, ctl

ADMIN = {
    "status": {
        "node": "n1",
        "incarnation": "aa",
        "cluster": "cc",
        "version": "0.1",
        "addresses": {"client": "tcp://127.0.0.1:7001"},
        "processes": [{"kind": "worker", "pid": 12, "restarts": 0, "slot": 3}],
        "slots": {
            "3": {
                "log": {"segments": 2, "bytes": 4096, "live_bytes": 99, "tidying_stopped": None},
                "disk": {"free_bytes": 7, "refusal": "the disk is full"},
            },
            "4": {
                "log": {"segments": 1, "bytes": 64, "live_bytes": 0, "tidying_stopped": "1.wal"},
                "disk": {"free_bytes": 7, "refusal": None},
            },
            "5": {"log": None, "disk": None, "age_ms": None},
        },
        "groups": {"kv": {"role": "leader", "term": 4, "leader": "n1", "state": "running"}},
    },
    "nodes": {"nodes": [{"id": "n1", "incarnation": "aa", "client": "c", "peer": "p"}]},
    "groups": {
        "groups": [{"id": 2, "name": "kv", "machine": "kv", "members": [["n1", 5], ["n2", 6]]}]
    },
    "metadata": {"group": "kv", "leader": None, "peers": {"n2": {"match": 5}}, "voters": ["n1"]},
}


@pytest.fixture
def node() -> Iterator[FakeNode]:
    """A node of a healthy cluster."""
    machine = KVMachine()
    machine.admin = {name: json.dumps(answer).encode() for name, answer in ADMIN.items()}
    with FakeNode(machine) as it:
        yield it


@pytest.fixture
def run(node: FakeNode, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; its exit code, stdout and stderr."""

    def run_it(*arguments: str, connect: str = "") -> tuple[int, str, str]:
        code = ctl.main(["--connect", connect or node.address, "--timeout-ms", "2000", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run_it


Run = Callable[..., tuple[int, str, str]]


def test_put_and_get(run: Run) -> None:
    assert run("put", "kv", "color", "blue") == (0, "index 1\n", "")
    assert run("get", "kv", "color") == (0, "blue\n", "")
    code, out, _ = run("get", "kv", "color", "--json")
    assert (code, json.loads(out)) == (0, {"value": "blue", "version": 1})
    code, out, _ = run("--json", "put", "kv", "color", "red")
    assert (code, json.loads(out)) == (0, {"index": 2})


def test_an_absent_key_is_a_failure_in_one_line(run: Run) -> None:
    assert run("get", "kv", "nothing") == (1, "", "ctl: no key nothing in kv\n")


def test_status_for_people_and_for_programs(run: Run) -> None:
    code, out, err = run("status")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "node n1  cluster cc  version 0.1  client tcp://127.0.0.1:7001",
        "KIND    SLOT  PID  RESTARTS",
        "worker  3     12   0",
        "SLOT  SEGMENTS  LOG_BYTES  LIVE_BYTES  FREE_BYTES  TROUBLE",
        "3     2         4096       99          7           the disk is full",
        "4     1         64         0           7           nothing of the log is given up: 1.wal",
        "5     -         -          -           -           -",
        "GROUP  ROLE    TERM  LEADER  STATE",
        "kv     leader  4     n1      running",
    ]
    assert json.loads(run("status", "--json")[1]) == ADMIN["status"]


def test_status_says_whom_a_node_refuses_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    ctl.show_status({"node": "n2", "refused": {"n1": "n1 has a new disk; replace the node"}})
    assert capsys.readouterr().out.endswith("refused n1: n1 has a new disk; replace the node\n")


def test_status_asks_every_given_node_and_tells_of_the_one_that_is_gone(
    run: Run, node: FakeNode
) -> None:
    with FakeNode(KVMachine()) as gone:
        address = gone.address
    code, out, _ = run("--timeout-ms", "1000", "status", connect=f"{node.address},{address}")
    assert code == 1
    assert out.startswith("node n1")
    assert f"{address}: UNREACHABLE" in out
    code, out, _ = run(
        "--timeout-ms", "1000", "--json", "status", connect=f"{node.address},{address}"
    )
    assert [it["node"] for it in json.loads(out)["nodes"]] == ["n1", None]


def test_nodes_and_groups_are_asked_of_the_system_group(run: Run, node: FakeNode) -> None:
    assert run("nodes")[1].splitlines() == [
        "ID  INCARNATION  CLIENT  PEER  EVENTS",
        "n1  aa           c       p     -",
    ]
    assert run("groups")[1].splitlines()[1] == "2   kv    kv       n1,n2"
    assert json.loads(run("groups", "--json")[1]) == ADMIN["groups"]
    assert {group for group, _ in node.messages} == {"_system"}


def test_metadata_shows_what_is_unknown_as_a_dash(run: Run) -> None:
    code, out, _ = run("metadata", "kv")
    assert (code, out.splitlines()) == (
        0,
        ["group   kv", "leader  -", "peers:", '  n2: {"match": 5}', "voters  n1"],
    )


def test_groups_are_created_and_deleted(capfd: pytest.CaptureFixture[str]) -> None:
    answers = iter([b"{}", b'{"ok": false}', b'{"ok": true}', b"{}"])
    with FakeNode(lambda group, batch: each(reply(data=next(answers)))) as node:
        connect = ["--connect", node.address]
        assert ctl.main([*connect, "group", "create", "names", "--machine", "naming"]) == 0
        assert ctl.main([*connect, "group", "delete", "names"]) == 0
        admins = [(group, batch.requests[0].admin) for group, batch in node.messages]
    assert capfd.readouterr().out == "created names\ndeleted names\n"
    assert [(group, it.command, it.value, dict(it.options)) for group, it in admins] == [
        ("_system", "createGroup", "names", {"machine": "naming"}),
        ("names", "why", "", {}),
        ("names", "why", "", {}),
        ("_system", "deleteGroup", "names", {}),
    ]


def test_any_machine_can_be_written_and_read(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(lambda group, batch: each(reply(index=4, data=b"answer"))) as node:
        connect = ["--connect", node.address]
        assert ctl.main([*connect, "write", "names", "REGISTER", "a", "data"]) == 0
        assert ctl.main([*connect, "read", "names", "question"]) == 0
        assert ctl.main([*connect, "read", "names", "question", "--json"]) == 0
        write, read, _ = (batch.requests[0] for _, batch in node.messages)
    assert (write.write.operation, write.write.data) == ("REGISTER", b"data")
    assert read.read.request.data == b"question"
    assert capfd.readouterr().out.splitlines() == [
        "index 4",
        "answer",
        "answer",
        '{"data": "answer", "index": 4}',
    ]


def test_changes_of_a_group_are_one_admin_command_each(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(lambda group, batch: each(reply())) as node:
        for name in ctl.GROUP_COMMANDS:
            assert ctl.main(["--connect", node.address, name, "kv", "n2"]) == 0
        admins = [(group, batch.requests[0].admin) for group, batch in node.messages]
    assert {(group, it.value) for group, it in admins} == {("kv", "n2")}
    assert [it.command for _, it in admins][:2] == ["transferLeader", "changePeers"]
    assert capfd.readouterr().out.startswith("transfer-leader kv n2: done\n")


def of_a_cluster(why: dict[str, object]) -> Callable[[str, Any], Any]:
    """A node of a cluster with two groups, of which n1 has one."""
    groups = [
        {"id": 5, "name": "kv", "members": [["n1", "0b"], ["n2", "16"]]},
        {"id": 6, "name": "other", "members": [["n2", "16"]]},
    ]
    answers = {
        "replaceNode": {"node": "n1"},
        "removeNode": {"node": "n1"},
        "groups": {"groups": groups},
        "why": why,
    }

    def answer(group: str, batch: Any) -> Any:
        return each(reply(data=json.dumps(answers[batch.requests[0].admin.command]).encode()))

    return answer


def test_a_lost_disk_is_replaced_and_the_operator_hears_what_to_do(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with FakeNode(of_a_cluster({"ok": True})) as node:
        assert ctl.main(["--connect", node.address, "node", "replace", "n1"]) == 0
        assert ctl.main(["--connect", node.address, "node", "replace", "n1", "--force"]) == 0
        admins = [(group, batch.requests[0].admin) for group, batch in node.messages]
    asked = [(group, it.command, it.value, dict(it.options)) for group, it in admins]
    assert asked[:3] == [
        ("_system", "replaceNode", "n1", {}),
        ("_system", "groups", "", {}),
        ("kv", "why", "", {}),
    ]
    assert asked[3] == ("_system", "replaceNode", "n1", {"force": "true"})
    assert "blank disk" in capfd.readouterr().out


def test_of_several_new_disks_the_operator_may_name_one(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(of_a_cluster({"ok": True})) as node:
        command = ["--connect", node.address, "node", "replace", "n1", "--incarnation"]
        assert ctl.main([*command, "00000000000000fe"]) == 0
        admin = node.messages[0][1].requests[0].admin
    assert dict(admin.options) == {"incarnation": "254"}
    for wrong in ("0", "n1", "10000000000000000", "-1"):
        with pytest.raises(SystemExit) as error:
            ctl.main([*command, wrong])
        assert error.value.code == 2


def test_groups_that_cannot_take_the_new_disk_in_are_named(
    capfd: pytest.CaptureFixture[str],
) -> None:
    why = {"ok": False, "reason": "no_quorum", "text": "only 1 of 2 members are reached"}
    with FakeNode(of_a_cluster(why)) as node:
        assert ctl.main(["--connect", node.address, "node", "replace", "n1"]) == 1
        out, err = capfd.readouterr()
        assert "kv cannot take it in: no_quorum: only 1 of 2" in out
        assert "other" not in out
        assert err.count("\n") == 1
        assert "reset-peers" in err
        assert ctl.main(["--connect", node.address, "node", "replace", "n1", "--json"]) == 1
        assert json.loads(capfd.readouterr().out)["stuck"].keys() == {"kv"}


def test_a_node_is_removed(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(of_a_cluster({})) as node:
        assert ctl.main(["--connect", node.address, "node", "remove", "n1"]) == 0
        (group, batch) = node.messages[0]
    assert (group, batch.requests[0].admin.command) == ("_system", "removeNode")
    assert capfd.readouterr().out == "removed n1\n"


def test_whom_a_change_is_about_may_be_left_to_the_group(
    capfd: pytest.CaptureFixture[str],
) -> None:
    answers = iter([b'{"leader": "n3"}', b'{"node": "n1", "index": 9, "size_bytes": 70}'])
    with FakeNode(lambda group, batch: each(reply(data=next(answers)))) as node:
        for command in ("transfer-leader", "snapshot"):
            assert ctl.main(["--connect", node.address, command, "kv"]) == 0
        admins = [batch.requests[0].admin for _, batch in node.messages]
    assert [(it.command, it.value) for it in admins] == [("transferLeader", ""), ("doSnapshot", "")]
    assert capfd.readouterr().out.splitlines() == [
        "transfer-leader kv: done, leader n3",
        "snapshot kv: done, node n1, index 9, size_bytes 70",
    ]
    for command in ("change-peers", "reset-peers"):
        with pytest.raises(SystemExit):
            ctl.main(["--connect", node.address, command, "kv"])


def test_what_a_replica_does_alone_is_asked_of_the_first_address_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not of the leader, which the client would find: a lost majority has none."""
    asked: list[tuple[Any, ...]] = []

    def admin(_: Client, *what: Any, address: str = "") -> dict[str, Any]:
        asked.append((*what, address))
        return {}

    monkeypatch.setattr(Client, "admin", admin)
    connect = ["--connect", "tcp://127.0.0.1:1,tcp://127.0.0.1:2"]
    first = "tcp://127.0.0.1:1"
    assert ctl.main([*connect, "reset-peers", "kv", "n1,n2"]) == 0
    assert ctl.main([*connect, "reset-peers", "kv", "n1", "--force"]) == 0
    assert ctl.main([*connect, "snapshot", "kv"]) == 0
    assert ctl.main([*connect, "transfer-leader", "kv", "n2"]) == 0
    assert asked == [
        ("kv", "resetPeers", "n1,n2", None, first),
        ("kv", "resetPeers", "n1", {"force": "true"}, first),
        ("kv", "doSnapshot", "", None, first),
        ("kv", "transferLeader", "n2", None, ""),
    ]


def test_events_are_shown_as_they_come(capfd: pytest.CaptureFixture[str]) -> None:
    machine = KVMachine()
    with zmq.Context() as context, context.socket(zmq.XPUB) as events:
        events.setsockopt(zmq.LINGER, 0)
        events.bind("tcp://127.0.0.1:*")
        place = events.getsockopt_string(zmq.LAST_ENDPOINT)
        machine.admin = {"status": json.dumps({"addresses": {"events": place}}).encode()}

        def publish() -> None:
            assert events.poll(5_000)
            assert events.recv() == b"\x01group/kv"
            events.send_multipart([b"group/kv/leader", msgpack.packb({"node": "n1", "term": 4})])
            events.send_multipart([b"group/kv/leader", b"\xc1"])

        with FakeNode(machine) as node, ThreadPoolExecutor(1) as executor:
            published = executor.submit(publish)
            watch = ["--connect", node.address, "watch", "group/kv", "--count", "2"]
            assert ctl.main(watch) == 0
            published.result()
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "group/kv/leader  node=n1  term=4"
    assert lines[1].startswith("group/kv/leader  error=no MessagePack")


def test_a_node_without_events_cannot_be_watched(run: Run) -> None:
    code, _, err = run("watch")
    assert (code, "does not say where its events are" in err) == (1, True)


def test_a_new_group_that_does_not_work_in_time_is_a_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with FakeNode(_why({"ok": False, "reason": "electing", "text": "no leader yet"})) as node:
        connect = ["--connect", node.address, "--timeout-ms", "500"]
        assert ctl.main([*connect, "group", "create", "names", "--machine", "naming"]) == 1
    said = "ctl: names is created, but does not work yet: electing: no leader yet\n"
    assert capfd.readouterr().err == said


def _why(answer: object) -> Callable[[str, pb.RequestBatch], Answer]:
    return lambda group, batch: each(reply(data=json.dumps(answer).encode()))


def test_why_is_an_exit_code_too(capfd: pytest.CaptureFixture[str]) -> None:
    broken = {
        "group": "kv",
        "ok": False,
        "reason": "no_quorum",
        "text": "2 of 3 voters are silent",
        "silent": [{"node": "n2", "since_ms": 4000}],
    }
    with FakeNode(_why(broken)) as node:
        assert ctl.main(["--connect", node.address, "why", "kv"]) == 1
    assert capfd.readouterr().out.splitlines() == [
        "kv: no_quorum: 2 of 3 voters are silent",
        "silent: n2 for 4000 ms",
    ]
    with FakeNode(_why({"ok": True, "reason": "ok", "text": "led by n1"})) as node:
        assert ctl.main(["--connect", node.address, "why", "kv", "--json"]) == 0


def test_a_refusal_is_one_line_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    refusal = whole(reply(pb.NO_SUCH_GROUP, text="no group nope"))
    with FakeNode(lambda group, batch: refusal) as node:
        assert ctl.main(["--connect", node.address, "put", "nope", "k", "v"]) == 1
    assert capfd.readouterr().err == "ctl: NO_SUCH_GROUP: no group nope\n"


def test_an_answer_without_its_list_is_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(_why({"nodes": "?"})) as node:
        assert ctl.main(["--connect", node.address, "nodes"]) == 1
    assert capfd.readouterr().err == "ctl: the answer has no list of nodes\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["--connect", "nonsense", "status"],
        ["--connect", "tcp://127.0.0.1:1"],
        ["--connect", "tcp://127.0.0.1:1", "put", "kv"],
        ["--connect", "tcp://127.0.0.1:1", "group", "create", "x"],
        ["--connect", "tcp://127.0.0.1:1", "--timeout-ms", "0", "status"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POLYRAFT_CONNECT", raising=False)
    with pytest.raises(SystemExit) as caught:
        ctl.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capfd.readouterr().err


def test_the_addresses_may_come_from_the_environment(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POLYRAFT_CONNECT", node.address)
    assert ctl.main(["put", "kv", "a", "b"]) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ([], "-"),
        (["n1", {"id": "n2"}], "n1,n2"),
        (True, "yes"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_a_value_has_a_text_also_when_there_is_none(value: object, text: str) -> None:
    assert ctl.text_of(value) == text
