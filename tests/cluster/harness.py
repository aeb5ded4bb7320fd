"""A cluster of real node processes under test.

::

    def test_story(make_cluster):                    # the fixture of tests/cluster/conftest.py
        cluster = make_cluster(groups={"kv": "kv"})  # three nodes, ready, every group with a leader
        leader = cluster.leader("kv")
        leader.kill()
        cluster.wait_until(lambda: cluster.leader_now("kv") is not None, "a new leader")
        leader.start()
        cluster.wait_equal("kv")                      # digests at one applied index

Each node is an ordinary ``python -m actors.cli``; what is known of it comes from its Admins
(``status``, ``metadata``), asked by a plain DEALER, and from /proc
(:mod:`tests.cluster.processes`).
Nothing here waits for a time: everything waits for a condition, with a deadline.

``close`` ends everything and is itself a check: nodes that run must stop on SIGTERM with exit code
0, and no process may be left behind.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import zmq

from actors.catalog import SYSTEM_GROUP
from actors.ports import PORTS_PER_NODE, free_loopback_ports
from tests.cluster import processes
from tests.cluster.network import Network
from tests.cluster.processes import MARK, Process
from transport import polyraft_pb2 as pb

ROOT: Final = Path(__file__).resolve().parent.parent.parent
RECOVERY_S_MAX: Final = 10.0  # what a cluster may take to come back from anything tested here
READY_S_MAX: Final = 30.0  # a start on a noisy machine, imports included
STOP_S_MAX: Final = 20.0
ASK_S_MAX: Final = 2.0  # an Admin is answered within one second
POLL_S: Final = 0.02
LOG_LINES_SHOWN: Final = 120

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, deadline_s: float = RECOVERY_S_MAX) -> T:
    """The first true value of ``condition``; AssertionError naming ``what`` at the deadline."""
    pause = threading.Event()
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}; last seen: {value!r}"
        pause.wait(POLL_S)


def ask(
    address: str,
    group: str,
    command: str,
    value: str = "",
    options: Mapping[str, str] | None = None,
    *,
    deadline_s: float = ASK_S_MAX,
) -> dict[str, Any] | None:
    """An Admin to one node; None when it does not answer OK in time."""
    admin = pb.Admin(command=command, value=value, options=dict(options or {}))
    request = pb.Request(admin=admin, timeout_ms=int(deadline_s * 1_000))
    batch = pb.RequestBatch(requests=[request]).SerializeToString()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(address)
        socket.send_multipart([b"ask", group.encode(), batch])
        if not socket.poll(int(deadline_s * 1_000)):
            return None
        _, payload = socket.recv_multipart()
    reply = pb.ReplyBatch.FromString(payload).replies[0]
    if reply.code != pb.OK:
        return None
    answer: dict[str, Any] = json.loads(reply.response.data)
    return answer


class Node:
    """One node: its arguments, its directory, and its process while it runs."""

    def __init__(
        self,
        name: str,
        addresses: list[str],
        directory: Path,
        mark: str,
        arguments: list[str],
        prefix: list[str],
    ) -> None:
        self.name = name
        self.client, self.peer, self.events = addresses
        self.data = directory / name
        self.log = directory / f"{name}.log"
        self.lives = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._mark = f"{mark}/{name}/"
        self._output = directory / f"{name}.out"
        self.arguments = list(arguments)  # of its next start, beside identity and addresses
        self._prefix = prefix

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # ------------------------------------------------------------------ life

    def command(self) -> list[str]:
        return [
            *self._prefix,
            *(sys.executable, "-m", "actors.cli", "--id", self.name, "--data", str(self.data)),
            *("--client", self.client, "--peer", self.peer, "--events", self.events),
            *self.arguments,
        ]

    def start(self, *, wait: bool = True) -> None:
        """Start the process; with ``wait``, return when it says that it is ready."""
        assert self.process is None, f"{self.name} runs"
        self.lives += 1
        environment = {name: value for name, value in os.environ.items() if "POLYRAFT" not in name}
        environment[MARK] = self._mark
        with self.log.open("ab") as log, self._output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                start_new_session=True,
            )
        if wait:
            self.wait_ready()

    def wait_ready(self, deadline_s: float = READY_S_MAX) -> None:
        def is_ready() -> bool:
            assert self.process is not None
            code = self.process.poll()
            assert code is None, f"{self.name} ended with {code} before it was ready"
            return self.ready_line() != ""

        wait_until(is_ready, f"{self.name} says that it is ready", deadline_s)

    def ready_line(self) -> str:
        """What this life of the node has printed, once the line is whole; otherwise empty."""
        text = self._output.read_text()
        return text.strip() if text.endswith("\n") else ""

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """To the node process alone."""
        assert self.process is not None, f"{self.name} does not run"
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the node process; its children have to notice by themselves."""
        self.signal(signal.SIGKILL)
        self.wait_end()

    def kill_all(self) -> None:
        """SIGKILL to every process of the node at once, as a host dies."""
        # Stopped first: nobody may react to the end of another, or start a new one.
        wait_until(self._stop_all, f"{self.name} stands still")
        left: list[Process] = []

        def is_gone() -> bool:
            left[:] = self.processes()
            for process in left:
                process.signal(signal.SIGKILL)
            # The node process is ours to signal, also in a moment in which /proc does not show it.
            self.signal(signal.SIGKILL)
            return not left and not self.is_running

        try:
            wait_until(is_gone, f"{self.name} is gone")
        except AssertionError as error:
            raise AssertionError(f"{error}; left: {left}") from None
        self.wait_end()

    def _stop_all(self) -> bool:
        self.signal(signal.SIGSTOP)
        found = self.processes()
        for process in found:
            process.signal(signal.SIGSTOP)
        return all(process.is_stopped() for process in found) and found == self.processes()

    def stop(self) -> int:
        """SIGTERM, then the exit code; nothing of the node may be left."""
        self.signal(signal.SIGTERM)
        code = self.wait_end(STOP_S_MAX)
        wait_until(lambda: not self.processes(), f"no process of {self.name} is left")
        return code

    def wait_end(self, deadline_s: float = RECOVERY_S_MAX) -> int:
        """The exit code of the node process; negative: the signal that ended it."""
        assert self.process is not None
        code = self.process.wait(deadline_s)
        self.process = None
        return code

    # ------------------------------------------------------------------ processes

    def processes(self) -> list[Process]:
        """Every living process of this node, also of lives before this one."""
        return processes.marked(self._mark)

    def forkserver(self) -> Process:
        """The forkserver; a direct child of the node process."""
        assert self.process is not None
        for process in self.processes():
            if process.parent == self.process.pid and "forkserver import main" in process.command:
                return process
        raise AssertionError(f"{self.name} has no forkserver")

    def child(self, kind: str, slot: int | None = None) -> Process:
        """The router, or the worker of a slot, as the node's ``status`` names it."""

        def find() -> Process | None:
            for row in (self.status() or {}).get("processes", ()):
                if row["kind"] == kind and row["slot"] == slot and row["pid"] is not None:
                    return processes.read(row["pid"])
            return None

        process = wait_until(find, f"{self.name} has a {kind} {slot}")
        assert process is not None
        return process

    def router(self) -> Process:
        return self.child("router")

    def worker_of(self, group: str) -> Process:
        """The worker process in which a group runs here."""

        def find() -> Process | None:
            worker = (self.metadata(group) or {}).get("worker") or {}
            return None if worker.get("pid") is None else processes.read(worker["pid"])

        process = wait_until(find, f"{self.name} has a worker for {group}")
        assert process is not None
        return process

    # ------------------------------------------------------------------ what it says

    def ask(
        self, group: str, command: str, value: str = "", **options: str
    ) -> dict[str, Any] | None:
        return ask(self.client, group, command, value, options)

    def status(self) -> dict[str, Any] | None:
        return self.ask("", "status")

    def metadata(self, group: str) -> dict[str, Any] | None:
        return self.ask(group, "metadata")

    def why(self, group: str) -> dict[str, Any] | None:
        return self.ask(group, "why")

    def log_tail(self, lines: int = LOG_LINES_SHOWN) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


class Cluster:
    """The nodes of one test; made by the fixture ``make_cluster``."""

    def __init__(
        self,
        directory: Path,
        *,
        nodes: int = 3,
        groups: Mapping[str, str] | None = None,
        groups_per_worker: int = 1,
        raft: Mapping[str, object] | None = None,
        network: Network | None = None,
    ) -> None:
        self.groups = dict({"kv": "kv"} if groups is None else groups)
        self.mark = secrets.token_hex(8)
        ports = free_loopback_ports(PORTS_PER_NODE * nodes)
        drawn: dict[str, list[str]] = {}
        prefixes: dict[str, list[str]] = {}
        for number in range(1, nodes + 1):
            name = f"n{number}"
            host = "127.0.0.1" if network is None else network.address(number)
            own, ports = ports[:PORTS_PER_NODE], ports[PORTS_PER_NODE:]
            drawn[name] = [f"tcp://{host}:{port}" for port in own]
            prefixes[name] = [] if network is None else network.enter(number)
        members = ",".join(f"{name}={addresses[1]}" for name, addresses in drawn.items())
        common = ["--members", members, "--groups-per-worker", str(groups_per_worker)]
        for name, machine in self.groups.items():
            common += ["--group", f"{name}={machine}"]
        for key, value in (raft or {}).items():
            common += ["--raft", f"{key}={value}"]
        if network is not None:
            common.append("--insecure")
        self.nodes = [
            Node(name, addresses, directory, self.mark, common, prefixes[name])
            for name, addresses in drawn.items()
        ]

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        """Start all nodes that do not run; return when every group has a leader that serves."""
        for node in self.nodes:
            if node.process is None:
                node.start(wait=False)
        for node in self.nodes:
            node.wait_ready()
        self.wait_serving(deadline_s=READY_S_MAX)

    def close(self) -> None:
        """End all.  Raises AssertionError when a node does not stop well or leaves something."""
        troubles = []
        for process in processes.marked(self.mark):
            process.signal(signal.SIGCONT)
        running = [node for node in self.nodes if node.is_running]
        for node in running:
            node.signal(signal.SIGTERM)
        for node in running:
            try:
                code = node.wait_end(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                troubles.append(f"{node.name} does not stop")
                continue
            if code != 0:
                troubles.append(f"{node.name} ended with exit code {code} on SIGTERM")
        try:
            wait_until(lambda: not self.processes(), "no process is left behind")
        except AssertionError:
            troubles.append(f"left behind: {self.processes()}")
            self.end_all()
        assert not troubles, "; ".join(troubles)

    def end_all(self) -> None:
        """SIGKILL to whatever is there."""
        for process in self.processes():
            process.signal(signal.SIGKILL)
        for node in self.nodes:
            if node.process is not None:
                node.wait_end()
        wait_until(lambda: not self.processes(), "SIGKILL ends everything")

    def processes(self) -> list[Process]:
        """Every living process of the cluster."""
        return processes.marked(self.mark)

    # ------------------------------------------------------------------ what it says

    @property
    def addresses(self) -> list[str]:
        """Client addresses of all nodes, running or not."""
        return [node.client for node in self.nodes]

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.is_running]

    def others(self, node: Node) -> list[Node]:
        return [each for each in self.nodes if each is not node]

    def wait_until(
        self, condition: Callable[[], T], what: str, deadline_s: float = RECOVERY_S_MAX
    ) -> T:
        return wait_until(condition, what, deadline_s)

    def leader_now(self, group: str) -> Node | None:
        """The running node that says, with the highest term, that it leads; None: none does."""
        found: list[tuple[int, Node]] = []
        for node in self.running:
            metadata = node.metadata(group)
            # A last report that stands in for a stuck worker proves nothing.
            if metadata is not None and metadata["role"] == "leader" and _is_fresh(metadata):
                found.append((metadata["term"], node))
        return max(found, key=lambda pair: pair[0])[1] if found else None

    def leader(self, group: str, deadline_s: float = RECOVERY_S_MAX) -> Node:
        node = wait_until(lambda: self.leader_now(group), f"{group} has a leader", deadline_s)
        assert node is not None
        return node

    def followers(self, group: str) -> list[Node]:
        leader = self.leader(group)
        return [node for node in self.running if node is not leader]

    def wait_serving(
        self, groups: list[str] | None = None, deadline_s: float = RECOVERY_S_MAX
    ) -> None:
        """Every group is ok in the eyes of every running node."""
        for group in groups or [SYSTEM_GROUP, *self.groups]:
            for node in self.running:
                wait_until(
                    lambda node=node, group=group: (node.why(group) or {}).get("ok"),  # type: ignore[misc]
                    f"{group} is ok at {node.name}",
                    deadline_s,
                )

    def positions(self, group: str) -> dict[str, tuple[int, int, int, str] | None]:
        """(last, commit, applied index, digest) of each running replica; None: unknown."""
        found: dict[str, tuple[int, int, int, str] | None] = {}
        for node in self.running:
            it = node.metadata(group)
            found[node.name] = (
                (it["last_index"], it["commit_index"], it["applied_index"], it["digest"])
                if it is not None and it["digest"] is not None and _is_fresh(it)
                else None
            )
        return found

    def wait_equal(self, group: str, deadline_s: float = RECOVERY_S_MAX) -> int:
        """All running replicas have applied all that any has in its log, and are alike; the index.

        No writes may be under way.  Raises AssertionError at once when digests differ at one index.
        """

        def settled() -> dict[str, tuple[int, int, int, str] | None] | None:
            found = self.positions(group)
            indexes = {None if it is None else it[:3] for it in found.values()}
            only = indexes.pop() if len(indexes) == 1 else None
            return found if only is not None and len(set(only)) == 1 else None

        try:
            found = wait_until(settled, f"the replicas of {group} are at one index", deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.positions(group)}") from None
        assert found is not None
        rows = [row for row in found.values() if row is not None]
        assert len({row[3] for row in rows}) == 1, f"the replicas of {group} differ: {found}"
        return rows[0][2]


def _is_fresh(metadata: Mapping[str, Any]) -> bool:
    age_ms = metadata["age_ms"]
    return metadata["state"] != "down" and age_ms is not None and age_ms < 300
