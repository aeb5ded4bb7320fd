"""The cold half of the load generator: where to send, and many client processes as one.

Every client beyond one is a process of its own, since a single Python process would measure itself.
They are spawned, not forked, connect and prepare their messages, and all start at one moment that
the parent names; after each run each of them hands over what it counted. A client that dies ends
the measurement: figures from a part of the clients would look like slow servers.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from transport.client.blocking import Client
from transport.client.errors import NoSuchGroup, OutcomeUnknown, PolyraftError
from transport.client.load import Load, LoadPlan, Target, Window

CLIENTS_MAX = 64
READY_WAIT_S = 60.0
# A window may be reported this late: a client looks at its clock at least every receive wait.
WINDOW_GRACE_S = 15.0
START_DELAY_NS = 50_000_000
LEADER_WAIT_MS = 30_000
ASK_MS = 2_000


# Between two questions about something that happens in other processes.
ASK_AGAIN_S = 0.05


class BenchError(Exception):
    """The measurement cannot go on; the text is for the operator."""


def group_names(name: str, count: int) -> list[str]:
    """The groups under load: the name itself, or name1, name2, ... for several."""
    return [name] if count == 1 else [f"{name}{number}" for number in range(1, count + 1)]


def pause() -> None:
    """A moment before a cluster is asked again; nothing of it is here to be waited on."""
    threading.Event().wait(ASK_AGAIN_S)


def wait_for_group(client: Client, group: str) -> None:
    """Return when the group takes a write; BenchError says why it does not."""
    deadline = time.monotonic() + LEADER_WAIT_MS / 1000
    while True:
        try:
            client.write(group, "PUT", "bench/ready", b"", timeout_ms=LEADER_WAIT_MS)
        except NoSuchGroup as error:
            # A young cluster creates the groups it was started with a moment after it is ready.
            if time.monotonic() >= deadline:
                raise BenchError(f"group {group}: {error}") from error
            pause()
        except OutcomeUnknown:
            # Fine as a sign of life; the measurement will show whether it stays so.
            return
        except PolyraftError as error:
            raise BenchError(f"group {group}: {error}") from error
        else:
            return


def find_leader_address(client: Client, addresses: list[str], group: str) -> str:
    """The client address of the node that leads a group, as the first node that knows says."""
    deadline = time.monotonic() + LEADER_WAIT_MS / 1000
    wait_for_group(client, group)
    while time.monotonic() < deadline:
        for address in addresses:
            try:
                metadata = client.admin(group, "metadata", address=address, timeout_ms=ASK_MS)
            except PolyraftError:
                continue
            leader_address = metadata.get("leader_address")
            if isinstance(leader_address, str) and leader_address:
                return leader_address
        pause()
    raise BenchError(f"nobody knows the leader of group {group}")


def choose_targets(
    client: int, addresses: list[str], groups: list[str], leaders: dict[str, str]
) -> list[Target]:
    """Which groups a client loads and through whom: their leaders when known, else one node."""
    own = addresses[client % len(addresses)]
    return [Target(address=leaders.get(group, own), group=group) for group in groups]


def _client_main(plan: LoadPlan, pipe: Connection) -> None:
    load = Load(plan, pipe.send)
    pipe.send("ready")
    load.run(pipe.recv())


class Fleet:
    """The client processes of one measurement."""

    def __init__(self, plans: list[LoadPlan]) -> None:
        assert 0 < len(plans) <= CLIENTS_MAX, len(plans)
        self._plans = plans
        spawn = multiprocessing.get_context("spawn")
        self._members: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        for plan in plans:
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_client_main, args=(plan, theirs), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def windows(self) -> Iterator[Window]:
        """Start everybody at one moment and yield each run's sum over all clients."""
        for number, (_, pipe) in enumerate(self._members):
            assert self._receive(number, pipe, READY_WAIT_S) == "ready"
        start_ns = time.monotonic_ns() + START_DELAY_NS
        for _, pipe in self._members:
            pipe.send(start_ns)
        plan = self._plans[0]
        wait_s = plan.warmup_s + plan.seconds + WINDOW_GRACE_S
        for _ in range(plan.runs):
            total = Window()
            for number, (_, pipe) in enumerate(self._members):
                window = self._receive(number, pipe, wait_s)
                assert isinstance(window, Window)
                total.merge(window)
            yield total

    @staticmethod
    def _receive(number: int, pipe: Connection, wait_s: float) -> object:
        try:
            if not pipe.poll(wait_s):
                raise BenchError(f"client {number} is stuck")
            return pipe.recv()
        except EOFError as error:
            raise BenchError(f"client {number} died") from error

    def close(self) -> None:
        """End every client process."""
        for process, pipe in self._members:
            process.terminate()
            process.join()
            pipe.close()


def run_load(plans: list[LoadPlan], on_window: Callable[[Window], None]) -> None:
    """Run all clients; one alone runs in this process."""
    if len(plans) == 1:
        Load(plans[0], on_window).run(time.monotonic_ns())
        return
    fleet = Fleet(plans)
    try:
        for window in fleet.windows():
            on_window(window)
    finally:
        fleet.close()
