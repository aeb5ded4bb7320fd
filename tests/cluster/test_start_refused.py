"""A node that must not run says so in one line and with its exit code, and harms nobody.

Two refusals come only after a time of trying (a port, a lock that a dying node may still hold), so
all are started at once, before the first test, and looked at by the last ones.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from actors.ports import free_loopback_ports
from tests.cluster.harness import ROOT, Cluster, Node, wait_until
from tests.cluster.wire import Wire, counted, put, shared_cluster, show_logs_of, wires
from transport import polyraft_pb2 as pb
from transport.frames import (
    PEER_FORWARD,
    PEER_RAFT,
    Endpoint,
    Forward,
    Hello,
    PeerHeader,
    pack_forward,
    pack_hello_frame,
    pack_peer_frame,
    pack_raft,
)

pytestmark = pytest.mark.cluster

START_S_MAX = 40.0  # ten seconds for a lock, and a slow machine
MakeWire = Callable[..., Wire]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared_cluster(tmp_path_factory) as cluster:
        yield cluster


@pytest.fixture
def three(shared: Cluster, request: pytest.FixtureRequest) -> Cluster:
    show_logs_of(shared, request)
    return shared


@pytest.fixture
def make_wire() -> Iterator[MakeWire]:
    with wires() as make:
        yield make


# --------------------------------------------------------------------------- the command line


@dataclass
class Ended:
    code: int
    output: str
    errors: list[str]


def arguments(directory: Path, **others: object) -> list[str]:
    """Of a node that could run; ``others`` replace."""
    drawn = [f"tcp://127.0.0.1:{port}" for port in free_loopback_ports(3)]
    values: dict[str, object] = {
        "id": "n1",
        "data": directory / "data",
        **dict(zip(("client", "peer", "events"), drawn, strict=True)),
        "log-level": "error",
        **others,
    }
    values.setdefault("members", f"{values['id']}={values['peer']}")
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def copied_identity(node: Node, directory: Path) -> Path:
    data = directory / "copied"
    data.mkdir()
    shutil.copy(node.data / "node.json", data)
    return data


def misspelt(directory: Path) -> Path:
    file = directory / "node.toml"
    file.write_text('id = "n1"\ngroups_per_wroker = 4\n')
    return file


@pytest.fixture(scope="module", autouse=True)
def children(
    shared: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    running = shared.nodes[0]
    directory = tmp_path_factory.mktemp("refused")
    lines = {
        "port": arguments(directory / "a", client=running.client),
        "peer port": arguments(directory / "b", peer=running.peer),
        "running": arguments(directory, data=running.data),
        "other": arguments(directory, id="n9", data=copied_identity(running, directory)),
        "not a host": [*arguments(directory / "c", client="tcp://192.0.2.7:7001"), "--insecure"],
        "misspelt": ["--config", str(misspelt(directory))],
        "no data": arguments(directory, data=misspelt(directory) / "x"),
    }
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, line in lines.items():
            started[name] = subprocess.Popen(
                [sys.executable, "-m", "actors.cli", *line],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        yield started
    finally:
        for child in started.values():
            child.kill()
            child.communicate()


@pytest.fixture(scope="module")
def ended(children: dict[str, subprocess.Popen[str]]) -> dict[str, Ended]:
    found = {}
    for name, child in children.items():
        output, errors = child.communicate(timeout=START_S_MAX)
        found[name] = Ended(child.returncode, output, errors.splitlines())
    return found


# --------------------------------------------------------------------------- a new disk, a stranger


def test_a_wiped_disk_under_an_old_id(three: Cluster, make_wire: MakeWire) -> None:
    """Pitfalls 19, 20: it refuses, the others say why, and the old disk still counts."""
    node, other = three["n3"], three["n1"]
    assert node.stop() == 0
    aside = node.data.with_suffix(".aside")
    node.data.rename(aside)
    before = len(node.log.read_text())
    node.start(wait=False)
    assert node.wait_end() == 1
    said = node.log.read_text()[before:].splitlines()
    assert said[-1] == "n3: the disk of n3 is new; use `bin/ctl node replace n3`"
    assert not [line for line in said if "Traceback" in line]
    wait_until(lambda: not node.processes(), "its children have ended too")
    wait_until(lambda: "new disk" in (other.why("kv") or {})["text"], "why says it")
    assert make_wire(other.client).one("kv", put("k")).code == pb.OK, "two of three go on"
    shutil.rmtree(node.data)
    aside.rename(node.data)
    node.start()
    three.wait_serving()
    three.wait_equal("kv")
    wait_until(lambda: "new disk" not in (other.why("kv") or {})["text"], "and no longer")


class Stranger:
    """A node of another cluster that has our address on its list."""

    def __init__(self, name: str, cluster: bytes) -> None:
        self.me = Endpoint(cluster, name, 7, 8)

    def hello(self, receiver: str) -> bytes:
        hello = Hello(
            bool(self.me.cluster),
            b"h" * 16,
            "tcp://127.0.0.1:1",
            "tcp://127.0.0.1:2",
            "tcp://127.0.0.1:3",
            1,
            1,
            [[self.me.node, self.me.incarnation]],
        )
        return pack_hello_frame(self.me, receiver, 0, hello)

    def frame(self, kind: int, receiver: str, incarnation: int, body: bytes) -> bytes:
        return pack_peer_frame(kind, PeerHeader(*self.me, receiver, incarnation), body)


def test_a_node_of_another_cluster(three: Cluster, make_wire: MakeWire) -> None:
    """Its link is refused: said once, shown by ``why``; what it sends is dropped and counted."""
    node = three.nodes[0]
    stranger = Stranger("x7", b"another cluster!")
    wire = make_wire(node.peer, zmq.DEALER)
    for _ in range(50):
        wire.send_frames(stranger.hello(node.name))
        assert wire.receive_frames()
    why = node.why("kv")
    assert why is not None
    assert why["ok"], "it is no trouble of ours"
    assert "link refused: " in why["text"]
    assert "x7 at tcp://127.0.0.1:2 belongs to another cluster" in why["text"]
    lines = re.findall(r"^.*link refused: x7.*$", node.log.read_text(), re.MULTILINE)
    assert len(lines) == 1

    before = node.status()
    assert before is not None
    incarnation = int(before["incarnation"], 16)
    forward = pack_forward(Forward(1, 1, 1, 1_000, 7, b""))
    wire.send_frames(stranger.frame(PEER_RAFT, node.name, incarnation, pack_raft([1, b"vote"])))
    wire.send_frames(stranger.frame(PEER_FORWARD, node.name, incarnation, forward))
    wire.send_frames(b"PR nonsense")
    wire.send_frames(b"a", b"b", b"c")

    def are_counted() -> bool:
        now = node.status()
        assert now is not None
        return (
            counted(now, "wrong_cluster") >= counted(before, "wrong_cluster") + 2
            and counted(now, "peer_malformed") >= counted(before, "peer_malformed") + 2
            and counted(now, "forwards_received") == counted(before, "forwards_received")
        )

    wait_until(are_counted, "all four are dropped and counted")


def test_an_impostor_with_the_name_of_a_member(three: Cluster, make_wire: MakeWire) -> None:
    """The name is right and so is the cluster, but not the disk: its votes count for nobody."""
    node = three.nodes[0]
    before = node.status()
    assert before is not None
    impostor = Stranger("n2", bytes.fromhex(before["cluster"]))
    incarnation = int(before["incarnation"], 16)
    wire = make_wire(node.peer, zmq.DEALER)
    wire.send_frames(impostor.frame(PEER_RAFT, node.name, incarnation, pack_raft([1, b"vote"])))

    def is_counted() -> bool:
        now = node.status()
        assert now is not None
        return counted(now, "wrong_sender") > counted(before, "wrong_sender")

    wait_until(is_counted, "it is dropped and counted")
    metadata = node.metadata("_system")
    assert metadata is not None
    addresses = {member["id"]: member["address"] for member in metadata["members"]}
    assert addresses["n2"] == three["n2"].client


# --------------------------------------------------------------------------- how they ended


def check_refused(ended: Ended, *words: str, code: int = 1) -> None:
    assert ended.code == code, ended
    assert ended.output == ""
    assert len(ended.errors) == 1, ended.errors
    for word in words:
        assert word in ended.errors[0]


def test_a_port_in_use(ended: dict[str, Ended], three: Cluster) -> None:
    check_refused(ended["port"], three.nodes[0].client, "in use")
    check_refused(ended["peer port"], three.nodes[0].peer, "in use")


def test_an_address_of_another_host(ended: dict[str, Ended]) -> None:
    check_refused(ended["not a host"], "tcp://192.0.2.7:7001")


def test_the_data_of_a_running_node(ended: dict[str, Ended], three: Cluster) -> None:
    """Who holds it is named."""
    process = three.nodes[0].process
    assert process is not None
    check_refused(ended["running"], "in use", str(process.pid))


def test_the_data_of_another_node(ended: dict[str, Ended]) -> None:
    check_refused(ended["other"], "node n1", "not of n9")


def test_data_that_cannot_be_made(ended: dict[str, Ended]) -> None:
    check_refused(ended["no data"], "node.toml")


def test_a_misspelt_key(ended: dict[str, Ended]) -> None:
    check_refused(ended["misspelt"], "groups_per_wroker", "did you mean groups_per_worker", code=2)


def test_nobody_was_harmed(ended: dict[str, Ended], three: Cluster) -> None:
    three.wait_serving()
    assert three.nodes[0].is_running
    assert three.nodes[0].lives == 1
