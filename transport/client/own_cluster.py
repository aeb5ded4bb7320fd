"""A cluster of the load generator's own: nodes on loopback, each a session of processes of its own.

They are ordinary `bin/node` processes with an identity, addresses and a data directory each. The
bench starts them itself rather than through `--dev`, since it must be able to end one without
warning and to start the same one again. A node is killed as a host would die: its supervisor,
router and workers at once, by the process group that was made for it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# A node must say that it is ready within this, and must be gone within this after SIGTERM.
READY_WAIT_S = 60.0
STOP_WAIT_S = 20.0
NODES_MAX = 9
READY_LINE_BYTES_MAX = 4_096
LOG_TAIL_BYTES = 600

NODE_COMMAND = (sys.executable, "-m", "actors.cli")


class ClusterError(Exception):
    """A node did not do what it was told; the text is for the operator."""


@dataclass(slots=True)
class Ports:
    """The addresses of one node."""

    client: str
    peer: str
    events: str


def free_addresses(count: int) -> list[str]:
    """Loopback addresses that nobody listens on now, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for it in sockets:
            it.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{it.getsockname()[1]}" for it in sockets]


class OwnNode:
    """One node: its arguments, and its process while it lives."""

    def __init__(self, name: str, ports: Ports, directory: Path, command: list[str]) -> None:
        self.name = name
        self.ports = ports
        self.directory = directory
        self.log = directory.with_suffix(".log")
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        assert self._process is None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        """Return when the node has printed its ready line."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + READY_WAIT_S
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ClusterError(f"{self.name} is not ready after {READY_WAIT_S:g} s")
                piece = os.read(self._process.stdout.fileno(), READY_LINE_BYTES_MAX)
                if not piece or len(line) > READY_LINE_BYTES_MAX:
                    raise ClusterError(f"{self.name} did not start: {self._log_tail()}")
                line += piece
        if not line.startswith(b"ready "):
            raise ClusterError(f"{self.name} said {line[:80]!r} instead of being ready")

    def kill(self) -> None:
        """End all processes of the node, with no time to say anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the node to stop, and insist when it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            pass
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        # The group lives as long as any of its processes; an empty one has nobody to end.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        self._process = None

    def _log_tail(self) -> str:
        tail = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return tail.splitlines()[-1] if tail else "it ended without a word"


class OwnCluster:
    """All nodes; ends them on the way out."""

    def __init__(
        self,
        count: int,
        data: Path,
        groups: list[str],
        *,
        machine: str = "kv",
        sync: bool = True,
        more: list[str] | None = None,
        command: tuple[str, ...] = NODE_COMMAND,
    ) -> None:
        assert 0 < count <= NODES_MAX
        names = [f"n{number}" for number in range(1, count + 1)]
        free = free_addresses(3 * count)
        ports = {
            name: Ports(*free[3 * position : 3 * position + 3])
            for position, name in enumerate(names)
        }
        members = ",".join(f"{name}={ports[name].peer}" for name in names)
        shared = ["--members", members, *([] if sync else ["--no-sync"]), *(more or [])]
        for group in groups:
            shared += ["--group", f"{group}={machine}"]
        self.nodes: dict[str, OwnNode] = {}
        for name in names:
            mine = ["--id", name, "--data", str(data / name)]
            for kind in ("client", "peer", "events"):
                mine += [f"--{kind}", getattr(ports[name], kind)]
            arguments = [*command, *mine, *shared]
            self.nodes[name] = OwnNode(name, ports[name], data / name, arguments)

    @property
    def addresses(self) -> list[str]:
        """The client addresses."""
        return [node.ports.client for node in self.nodes.values()]

    def at(self, client_address: str) -> OwnNode:
        """The node with this client address."""
        for node in self.nodes.values():
            if node.ports.client == client_address:
                return node
        raise ClusterError(f"no node of this cluster has the address {client_address}")

    def start(self) -> None:
        """Start all nodes and wait until each is ready."""
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes.values():
            node.stop()

    def __enter__(self) -> OwnCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
