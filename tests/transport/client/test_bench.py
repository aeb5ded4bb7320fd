"""The load generator, its clusters and its failover measurement, against faked nodes."""

from __future__ import annotations

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from tests.transport.client.fake_node import Answer, FakeNode, KVMachine, each, reply, whole
from transport import polyraft_pb2 as pb
from transport.client import bench, fleet, own_cluster
from transport.client.blocking import Client
from transport.client.errors import OutcomeUnknown
from transport.client.load import GET, Load, LoadPlan, Target, Window, kv_get, make_bodies
from transport.client.own_cluster import ClusterError, OwnCluster

PROGRAM = (sys.executable, "-m", "tests.transport.client.fake_program")
SECONDS = 0.1
PAUSE_NS_MAX = 5_000_000


class PatientClock:
    """A monotonic clock that sees no pause, be it the collector's or the machine's.

    Windows of a tenth of a second end within such a pause, with nothing answered in them. Between
    two looks at this clock at most PAUSE_NS_MAX pass.
    """

    def __init__(self) -> None:
        self._real_ns = self._now_ns = time.monotonic_ns()

    def __call__(self) -> int:
        real_ns = time.monotonic_ns()
        self._now_ns += min(real_ns - self._real_ns, PAUSE_NS_MAX)
        self._real_ns = real_ns
        return self._now_ns


@pytest.fixture(autouse=True)
def _one_client_is_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client that runs in this process measures by a clock of its own."""

    def patient(plan: LoadPlan, on_window: Callable[[Window], None]) -> Load:
        return Load(plan, on_window, PatientClock())

    monkeypatch.setattr(fleet, "Load", patient)


def ok(group: str, batch: pb.RequestBatch) -> Answer:
    """Every command is OK."""
    return each(*(reply(index=1) for _ in batch.requests))


def run(*addresses: str, groups: int = 1, **options: int | str) -> list[Window]:
    """One client's windows."""
    windows: list[Window] = []
    targets = [
        Target(address=address, group=f"kv{group}")
        for address in addresses
        for group in range(groups)
    ]
    plan = LoadPlan(client=0, targets=targets, warmup_s=0.05, seconds=SECONDS, runs=2)
    for name, value in options.items():
        setattr(plan, name, value)
    fleet.run_load([plan], windows.append)
    return windows


def test_a_load_counts_commands_messages_and_latencies_in_each_window() -> None:
    with FakeNode(ok) as node:
        windows = run(node.address, batch=7, in_flight=3)
    assert len(windows) == 2
    for window in windows:
        assert window.completed_count == 7 * window.message_count > 0
        assert window.histogram.total_count == window.message_count
        assert (window.refused, window.lost_count) == ({}, 0)
        assert window.cpu_s > 0
    in_windows = sum(window.message_count for window in windows)
    assert in_windows <= len(node.messages)


def test_what_is_in_flight_never_exceeds_what_was_asked_for() -> None:
    with FakeNode(lambda group, batch: None) as node:
        windows = run(node.address, in_flight=5)
    assert len(node.messages) == 5
    assert [window.completed_count for window in windows] == [0, 0]


def test_several_nodes_and_groups_share_the_load() -> None:
    with FakeNode(ok) as one, FakeNode(ok) as other:
        run(one.address, other.address, groups=2, in_flight=8)
    for node in (one, other):
        assert {group for group, _ in node.messages} == {"kv0", "kv1"}


def test_refusals_are_counted_by_code_and_rest_as_long_as_they_ask() -> None:
    refusal = whole(reply(pb.NO_LEADER, retry_after_ms=60))
    with FakeNode(lambda group, batch: refusal) as node:
        windows = run(node.address, in_flight=2, batch=3)
    assert set(windows[1].refused) == {"NO_LEADER"}
    assert windows[1].refused["NO_LEADER"] % 3 == 0
    assert len(node.messages) <= 2 * (2 + (0.05 + 2 * SECONDS) / 0.06)


def test_a_message_is_partly_refused_and_its_slot_goes_on() -> None:
    mixed = each(reply(index=1), reply(pb.REJECTED))
    with FakeNode(lambda group, batch: mixed) as node:
        windows = run(node.address, in_flight=1, batch=2)
    assert windows[1].completed_count == windows[1].refused["REJECTED"] > 0


def test_nonsense_is_counted_not_believed() -> None:
    with FakeNode(lambda group, batch: b"\xff\xff") as node:
        windows = run(node.address, in_flight=1)
    assert windows[1].completed_count == 0
    assert windows[1].refused["BAD_REPLY"] > 0


def test_a_message_without_a_reply_is_lost_and_its_slot_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transport.client.load.REPLY_GRACE_MS", 0)
    monkeypatch.setattr("transport.client.load.LOST_CHECK_NS", 10_000_000)
    with FakeNode(lambda group, batch: None) as node:
        windows = run(node.address, in_flight=1, timeout_ms=50)
    assert sum(window.lost_count for window in windows) >= 2
    assert len(node.messages) >= 3


def test_reads_are_a_load_too() -> None:
    with FakeNode(KVMachine()) as node:
        windows = run(node.address, in_flight=2, operation=GET)
        assert node.messages[0][1].requests[0].WhichOneof("body") == "read"
    assert windows[1].completed_count > 0


def test_the_question_for_a_key_is_message_pack() -> None:
    assert msgpack.unpackb(kv_get("bench/0/1")) == {"get": "bench/0/1"}


def test_every_client_writes_keys_of_its_own() -> None:
    def keys(client: int) -> set[str]:
        plan = LoadPlan(client=client, targets=[Target(address="", group="kv")], batch=2)
        batches = [pb.RequestBatch.FromString(body) for body in make_bodies(plan)]
        return {request.write.key for batch in batches for request in batch.requests}

    assert len(keys(0)) == len(keys(1)) == 512
    assert not keys(0) & keys(1)


def test_clients_go_to_the_leader_when_it_is_known_else_each_to_one_node() -> None:
    def choose(client: int, leaders: dict[str, str]) -> list[str]:
        targets = fleet.choose_targets(client, ["a", "b"], ["kv1", "kv2"], leaders)
        return [f"{target.group}@{target.address}" for target in targets]

    assert choose(0, {}) == ["kv1@a", "kv2@a"]
    assert choose(1, {}) == ["kv1@b", "kv2@b"]
    assert choose(1, {"kv1": "a", "kv2": "c"}) == ["kv1@a", "kv2@c"]


# -- the command ---------------------------------------------------------------------------------

QUICK = ["--seconds", "0.1", "--warmup", "0.05", "--runs", "2"]
# For clients in processes of their own, which see every pause of this one, where the node runs.
PATIENT = ["--seconds", "2", "--warmup", "0.05", "--runs", "2"]


def test_bench_prints_a_line_per_run_and_the_median(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(ok) as node:
        assert bench.main(["--connect", node.address, *QUICK, "--sequential"]) == 0
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines] == ["put:", "run", "run", "median"]
    assert "1 in flight each" in lines[0]
    assert "commands/s   p50 " in lines[3]
    assert err == ""


def test_bench_of_two_processes_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    with FakeNode(ok) as node:
        options = [*PATIENT, "--clients", "2", "--in-flight", "2", "--batch", "5", "--json"]
        assert bench.main(["--connect", node.address, *options]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert len(answer["runs"]) == 2
    rates = sorted(run["commands_per_s"] for run in answer["runs"])
    assert rates[0] > 0
    assert answer["median"]["commands_per_s"] == pytest.approx(sum(rates) / 2)
    assert answer["options"]["batch"] == 5
    writers = {batch.requests[0].write.key.split("/")[1] for _, batch in node.messages}
    assert {"0", "1"} <= writers


def test_bench_loads_the_leader_when_told_to_find_it() -> None:
    with FakeNode(KVMachine()) as leader:
        machine = KVMachine()
        machine.admin = {"metadata": json.dumps({"leader_address": leader.address}).encode()}
        with FakeNode(machine) as follower:
            arguments = ["--connect", follower.address, *QUICK, "--find", "leader"]
            assert bench.main(arguments) == 0
            assert len(follower.messages) == 2
        assert len(leader.messages) > 2


def test_a_run_without_an_answer_is_a_failure_and_says_what_hangs(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("transport.client.load.OVERDUE_NS", 10_000_000)

    def only_ready(group: str, batch: pb.RequestBatch) -> Answer:
        return ok(group, batch) if batch.requests[0].write.key == "bench/ready" else None

    with FakeNode(only_ready) as node:
        assert bench.main(["--connect", node.address, *QUICK, "--in-flight", "4"]) == 1
    out, err = capfd.readouterr()
    assert "unanswered for a second 4" in out.splitlines()[1]
    assert err == "bench: a run without a single command answered OK\n"


def test_a_group_that_is_not_there_is_one_line_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fleet, "LEADER_WAIT_MS", 200)
    with FakeNode(lambda group, batch: whole(reply(pb.NO_SUCH_GROUP, text="no kv"))) as node:
        assert bench.main(["--connect", node.address, *QUICK]) == 1
    out, err = capfd.readouterr()
    assert (out, err) == ("", "bench: group kv: NO_SUCH_GROUP: no kv\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--connect", "nonsense"],
        ["--connect", "tcp://127.0.0.1:1", "--failover", "3"],
        ["--failover", "3", "--groups", "2"],
        ["--batch", "1025"],
        ["--batch", "0"],
        ["--seconds", "0"],
        ["--kill", "everybody"],
        ["--in-flight", "x"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(arguments)
    assert caught.value.code == 2
    assert "usage:" in capfd.readouterr().err


def test_a_client_process_that_dies_ends_the_measurement() -> None:
    with FakeNode(ok) as node:
        targets = [Target(address=node.address, group="kv")]
        plans = [LoadPlan(client=it, targets=targets, seconds=5, runs=1) for it in (0, 1)]
        crew = fleet.Fleet(plans)
        crew._members[1][0].terminate()
        with pytest.raises(fleet.BenchError, match="client 1 died"):
            next(crew.windows())
        crew.close()


# -- clusters of its own -------------------------------------------------------------------------


@pytest.fixture
def cluster_of(tmp_path: Path) -> Callable[[int], OwnCluster]:
    """A cluster of fake nodes."""
    return lambda count: OwnCluster(count, tmp_path, ["kv"], command=PROGRAM)


def put_whatever_becomes_of_the_first(client: Client) -> None:
    """The one whose node was just killed may not have been seen to be gone."""
    try:
        client.write("kv", "PUT", "a", b"")
    except OutcomeUnknown:
        client.write("kv", "PUT", "a", b"")


def test_nodes_start_die_and_start_again_at_the_same_address(
    cluster_of: Callable[[int], OwnCluster],
) -> None:
    with cluster_of(2) as cluster, Client(cluster.addresses) as client:
        node = cluster.at(cluster.addresses[0])
        assert node.name == "n1"
        client.admin("kv", "metadata", address=cluster.addresses[0])
        node.kill()
        node.kill()
        put_whatever_becomes_of_the_first(client)
        node.start()
        node.wait_ready()
        client.admin("kv", "metadata", address=cluster.addresses[0])
        with pytest.raises(ClusterError, match="no node"):
            cluster.at("tcp://127.0.0.1:1")


@pytest.mark.parametrize(
    ("does", "complaint"),
    [("fail", "n1 did not start: polyraft-node: the disk is new"), ("lie", "n1 said b'hello")],
)
def test_a_node_that_does_not_start_is_named_with_its_last_word(
    does: str,
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    cluster_of: Callable[[int], OwnCluster],
) -> None:
    monkeypatch.setenv("FAKE_DOES", does)
    with pytest.raises(ClusterError, match=complaint), cluster_of(1):
        pass


def test_a_node_that_is_never_ready_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(own_cluster, "READY_WAIT_S", 0.1)
    sleeper = (sys.executable, "-c", "import signal; signal.pause()")
    with (
        pytest.raises(ClusterError, match="not ready"),
        OwnCluster(1, tmp_path, ["kv"], command=sleeper),
    ):
        pass


@pytest.fixture
def fake_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """bench starts fake nodes."""
    monkeypatch.setattr(bench, "OwnCluster", functools.partial(OwnCluster, command=PROGRAM))
    monkeypatch.setattr("transport.client.failover.STEADY_S", 0.05)


@pytest.mark.usefixtures("fake_clusters")
def test_bench_starts_a_cluster_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--nodes", "2", *QUICK]) == 0
    assert "median" in capfd.readouterr().out


@pytest.mark.usefixtures("fake_clusters")
@pytest.mark.parametrize("target", ["node", "all"])
def test_failover_prints_each_gap_and_that_nothing_is_lost(
    target: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench.main(["--nodes", "2", "--failover", "2", "--kill", target, "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert len(answer["gaps_ms"]) == 2
    assert answer["worst_ms"] == max(answer["gaps_ms"]) < 5_000
    assert answer["probes"]["acknowledged_count"] >= 4


@pytest.mark.usefixtures("fake_clusters")
def test_an_acknowledged_write_that_is_missing_fails_the_measurement(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_LOSES", "1")
    assert bench.main(["--nodes", "2", "--failover", "1"]) == 1
    assert "LOST WRITES" in capfd.readouterr().err


@pytest.mark.usefixtures("fake_clusters")
def test_a_directory_that_is_in_use_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "n1").mkdir()
    assert bench.main(["--data", str(tmp_path)]) == 1
    assert capfd.readouterr().err == f"bench: {tmp_path} is not empty\n"
