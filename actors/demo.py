"""``bin/demo``: three nodes, a killed leader, nothing lost.

A story that is also a check: every line that it prints was true when it was printed, and the exit
code is 0 only if all of them were.  It uses what anybody has: the command line of a node,
signals, and the client.  The data lives in a temporary directory, which is removed at the end.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from actors.config import NodeConfig, dev_configs
from actors.dev import end_with_parent
from actors.ports import PORTS_PER_NODE, free_loopback_ports
from transport.client import Client, PolyraftError
from transport.client.kv import decode_range, encode_range

GROUP: Final = "kv"
NODES: Final = 3
READY_S_MAX: Final = 30.0
STOP_S_MAX: Final = 15.0
LEADER_S_MAX: Final = 20.0
READ_MS_MAX: Final = 30_000
CATCH_UP_S_MAX: Final = 30.0
STREAM_WRITE_MS_MAX: Final = 2_000
LOG_LINES_SHOWN: Final = 15


class NotTrueError(Exception):
    """What the story was about to say is not so."""


class NodeProcess:
    """One node as its operator has it: a command line, a data directory, a process."""

    def __init__(self, config: NodeConfig) -> None:
        self.config = config
        self.log = config.data.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("POLYRAFT_")
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "actors.cli", *self.config.arguments()],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                preexec_fn=end_with_parent,
            )

    def wait_ready(self) -> None:
        """Until the node has said its one line."""
        assert self._process is not None
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        line = b""
        deadline = time.monotonic() + READY_S_MAX
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise NotTrueError(f"{self.config.id} was not ready after {READY_S_MAX:.0f} s")
            piece = os.read(output, 4_096)
            if not piece:
                code = self._process.wait()
                raise NotTrueError(f"{self.config.id} ended with exit code {code}")
            line += piece
        if not line.startswith(b"ready node="):
            raise NotTrueError(f"{self.config.id} said {line!r} in place of ready")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close_output()

    def ask_to_stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait_stopped(self) -> int:
        """The exit code; SIGKILL for one that does not stop."""
        if self._process is None:
            return 0
        try:
            code = self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._close_output()
        return code

    def log_tail(self) -> str:
        if not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        return "\n".join(f"    {self.config.id} | {line}" for line in lines)

    def _close_output(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


class Stream:
    """A client that writes one key after the other, and remembers what it was promised."""

    def __init__(self, addresses: list[str]) -> None:
        self.acknowledged: dict[str, float] = {}  # key -> when
        self.unknown = 0
        self.refused = 0
        self.last_index = 0
        self._news = threading.Condition()
        self._stop = False
        self._addresses = addresses
        self._thread = threading.Thread(target=self._run, name="stream")

    def start(self) -> None:
        self._thread.start()

    def wait_acknowledged_after(self, moment: float, count: int, seconds_max: float) -> float:
        """When the first write after ``moment`` was acknowledged, once ``count`` of them were."""

        def later() -> list[float]:
            return [at for at in self.acknowledged.values() if at > moment]

        with self._news:
            if not self._news.wait_for(lambda: len(later()) >= count, seconds_max):
                raise NotTrueError(f"no {count} writes were acknowledged in {seconds_max:.0f} s")
            return min(later())

    def stop(self) -> None:
        self._stop = True
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        with Client(self._addresses, timeout_ms=STREAM_WRITE_MS_MAX) as client:
            kv = client.kv(GROUP)
            number = 0
            while not self._stop:
                number += 1
                key = f"stream/{number:06}"
                try:
                    index = kv.put(key, key.encode())
                except PolyraftError as error:
                    if error.maybe_applied:
                        self.unknown += 1
                    else:
                        self.refused += 1
                    continue
                with self._news:
                    self.last_index = index
                    self.acknowledged[key] = time.monotonic()
                    self._news.notify_all()


class Story:
    def __init__(self, directory: Path) -> None:
        self._began = time.monotonic()
        configs = dev_configs(
            NODES, directory, {}, {}, {}, ports=free_loopback_ports(PORTS_PER_NODE * NODES)
        )
        self.nodes = {config.id: NodeProcess(config) for config in configs}
        self.addresses = {config.id: config.client for config in configs}

    def say(self, line: str) -> None:
        print(f"{time.monotonic() - self._began:6.2f} s  {line}", flush=True)

    def tell(self) -> None:
        """The whole story; raises NotTrueError where it is not so."""
        self._start_all()
        leader = self._write_and_read()
        survivors = [name for name in self.nodes if name != leader]
        stream = Stream([self.addresses[name] for name in survivors])
        try:
            stream.start()
            stream.wait_acknowledged_after(0.0, 50, LEADER_S_MAX)
            self._kill(leader, survivors, stream)
            self._restart(leader, stream)
        finally:
            stream.stop()
        self._show_all_well(stream)
        self._stop_all()

    def _start_all(self) -> None:
        self.say("starting three nodes on this machine, each with a disk of its own")
        for node in self.nodes.values():
            node.config.data.parent.mkdir(parents=True, exist_ok=True)
            node.start()
        for name, node in self.nodes.items():
            node.wait_ready()
            self.say(f"{name} is ready: pid {node.pid}, clients at {node.config.client}")

    def _write_and_read(self) -> str:
        with Client(list(self.addresses.values())) as client:
            self._wait_group(client)
            index = client.kv(GROUP).put("greeting", b"hello")
            self.say(f"wrote greeting = hello: durable on two disks at least, log index {index}")
            self._expect_greeting(client, "the cluster")
            leader = self._wait_leader(client)
        self.say(f"{leader} leads the group {GROUP}; a client now writes through the other two")
        return leader

    def _expect_greeting(self, client: Client, through: str) -> None:
        entry = client.kv(GROUP).get("greeting")
        if entry is None or entry.value != b"hello":
            raise NotTrueError(f"greeting reads as {entry} through {through}")
        self.say(f"read greeting = hello through {through}")

    def _wait_group(self, client: Client) -> None:
        """The nodes have found each other; now the group that they declare is created."""
        deadline = time.monotonic() + LEADER_S_MAX
        reason = "no node answers"
        while time.monotonic() < deadline:
            try:
                answer = client.admin(GROUP, "why")
            except PolyraftError as error:
                reason = str(error)
            else:
                if answer["ok"]:
                    return
                reason = answer["text"]
            time.sleep(0.05)
        raise NotTrueError(f"the group {GROUP} does not serve: {reason}")

    def _wait_leader(self, client: Client) -> str:
        deadline = time.monotonic() + LEADER_S_MAX
        while time.monotonic() < deadline:
            leader = client.admin(GROUP, "metadata")["leader"]
            if leader in self.nodes:
                return str(leader)
            time.sleep(0.05)
        raise NotTrueError("no node knows the leader of the group")

    def _kill(self, leader: str, survivors: list[str], stream: Stream) -> None:
        before = len(stream.acknowledged)
        killed_at = time.monotonic()
        self.nodes[leader].kill()
        self.say(f"killed {leader} with SIGKILL, after {before} acknowledged writes")
        first_at = stream.wait_acknowledged_after(killed_at + 0.05, 50, LEADER_S_MAX)
        self.say(
            f"writes go on, the first one {(first_at - killed_at) * 1000:.0f} ms after the kill"
        )
        for name in survivors:
            with Client(self.addresses[name]) as client:
                self._expect_greeting(client, f"{name}, a survivor")
        with Client([self.addresses[name] for name in survivors]) as client:
            successor = self._wait_leader(client)
        if successor == leader:
            raise NotTrueError(f"{leader} is dead and still taken for the leader")
        self.say(f"{successor} leads now")

    def _restart(self, name: str, stream: Stream) -> None:
        self.nodes[name].start()
        self.nodes[name].wait_ready()
        self.say(f"{name} is back, from the disk that it left: pid {self.nodes[name].pid}")
        stream.wait_acknowledged_after(time.monotonic(), 20, LEADER_S_MAX)

    def _show_all_well(self, stream: Stream) -> None:
        self.say(
            f"the client has stopped: {len(stream.acknowledged)} writes acknowledged, "
            f"{stream.unknown} with an unknown outcome, {stream.refused} refused"
        )
        for name, address in self.addresses.items():
            with Client(address, timeout_ms=READ_MS_MAX) as client:
                missing = self._missing(client, stream)
            if missing:
                raise NotTrueError(f"{name} lost {len(missing)} writes, {missing[0]} the first")
            self.say(f"read every one of them back through {name}")
        index, digest = self._wait_equal_copies()
        self.say(f"all three copies are equal at log index {index}: digest {digest}")

    def _missing(self, client: Client, stream: Stream) -> list[str]:
        """Acknowledged keys that a read through this node does not find."""
        found: set[str] = set()
        start = "stream/"
        while True:
            result = client.read(
                GROUP,
                encode_range(start, "stream0", 10_000),
                min_index=stream.last_index,
            )
            page = decode_range(result.data)
            found.update(key for key, entry in page if entry.value == key.encode())
            if not page:
                return sorted(stream.acknowledged.keys() - found)
            start = page[-1][0] + "\0"

    def _wait_equal_copies(self) -> tuple[int, str]:
        """(applied index, digest) once each node says the same of its own replica."""
        deadline = time.monotonic() + CATCH_UP_S_MAX
        while time.monotonic() < deadline:
            copies = set()
            for address in self.addresses.values():
                with Client(address) as client:
                    answer = client.admin(GROUP, "metadata")
                copies.add((answer["applied_index"], answer["digest"]))
            if len(copies) == 1:
                return copies.pop()
            time.sleep(0.05)
        raise NotTrueError(f"the copies differ: {sorted(copies)}")

    def _stop_all(self) -> None:
        for node in self.nodes.values():
            node.ask_to_stop()
        codes = {name: node.wait_stopped() for name, node in self.nodes.items()}
        if any(codes.values()):
            raise NotTrueError(f"not every node stopped cleanly: exit codes {codes}")
        self.say("all nodes stopped cleanly; nothing was lost")

    def end(self) -> None:
        """Leave no process behind, however the story ended."""
        for node in self.nodes.values():
            node.ask_to_stop()
        for node in self.nodes.values():
            node.wait_stopped()


def _on_signal(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bin/demo", description=__doc__.split("\n")[0])
    parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _on_signal)
    with tempfile.TemporaryDirectory(prefix="polyraft-demo-", ignore_cleanup_errors=True) as aside:
        story = Story(Path(aside) / "data")
        try:
            story.tell()
        except (NotTrueError, PolyraftError) as error:
            story.end()
            print("\n".join(node.log_tail() for node in story.nodes.values()), file=sys.stderr)
            print(f"bin/demo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("bin/demo: stopped", file=sys.stderr)
            return 130
        finally:
            story.end()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
