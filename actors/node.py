"""The node process: who this node is, which processes it has, and which groups live here.

It owns DATA: takes its lock, keeps ``node.json`` and ``placement``, and is the only one to
change them. It does no consensus and carries no request; if it dies, the others end with it,
and the next one finds everything on disk.

::

    lock DATA -> identity -> left-over children -> router -> (formed?) -> workers of the
    placement
                                                     |
                                          blank: formation -> placement, then node.json ->
                                          _system

The **catalog** comes from the local replica of ``_system`` by way of the router.  Reconciling
is one direction only: a group in the catalog that has this replica among its members and is not
placed gets a slot, durably, before its worker hears of it.  Groups start from placement and
disk without asking anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import uvloop

from actors import wire
from actors.admission import Admission
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.children import ChildProcess, end_left_over, make_context
from actors.config import NodeConfig
from actors.entries import begin_router, begin_worker
from actors.formation import Formation, Formed, Hello, Pair, Refused, Wait, members_hash
from actors.known_nodes import KnownNodes, newer, rows_of_hello
from actors.local_groups import SYSTEM_SLOT, LocalGroups
from actors.machines.registry import DECLARED
from actors.node_data import NodeRefused, open_data
from actors.placing import Placing
from actors.process import DAMAGED, start_logging
from actors.rebirths import Answered, Rebirths, Ways
from actors.router_arguments import RouterArguments
from actors.runtime import MonotonicClock
from actors.settings import (
    ROUTER_MEMORY_BYTES_MAX,
    ROUTER_MEMORY_CHECK_MS,
    STOP_MS_MAX,
)
from actors.worker_arguments import WorkerArguments
from raft.messages import Replica
from raft.store.errors import StoreError
from raft.store.files import Files
from raft.store.identity import DataLock, NodeIdentity
from raft.store.placement import LEFT, PlacedGroup, Placement
from raft.store.space import is_full_error
from transport import frames, links, protocol
from transport.addresses import AddressError, runtime_socket_path

log = logging.getLogger("polyraft.node")

CHECK_SYSTEM_MS: Final = 30_000  # whether this node is a member of the catalog's group still
DECLARE_RETRY_MS: Final = 300
DECLARE_TIMEOUT_MS: Final = 3_000
DRAIN_WAIT_MS: Final = 3_000
REFUSED_LINGER_MS: Final = 500


class Node:
    """One life of the node process."""

    def __init__(
        self,
        config: NodeConfig,
        files: Files,
        lock: DataLock,
        identity: NodeIdentity,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._config = config
        self._files = files
        self._lock = lock
        self._identity = identity
        self._loop = loop
        self._clock = MonotonicClock()
        self._data = str(config.data)
        self._placement = Placement.load(files, self._data)
        self._placing = Placing(self._placement, loop, self._place_again)
        if identity.cluster is not None and SYSTEM_GROUP_ID not in self._placement.groups:
            raise NodeRefused(
                f"{self._data}/placement is gone, though this node belongs to a cluster; "
                "restore the file, or replace the node"
            )
        self._socket_path = _socket_path(config)
        self._epoch = secrets.randbits(63) | 1
        self._router_epoch = 0
        self._link: links.LinkProtocol | None = None
        self._bound: dict[str, str] = {}
        self._context = make_context()
        self._workers: dict[int, ChildProcess] = {}
        self._reported: set[int] = set()  # slots that have said HELLO, or failed, once
        self._damaged: dict[int, str] = {}
        self._ended_by: dict[int, str] = {}  # slots whose worker is down, with its last words
        self._formation: Formation | None = None
        self._forming: str | None = None
        self._told: dict[str, Any] = {}  # rows of nodes, as HELLOs said, while blank
        self._refused = False  # by everybody who was heard; soon that is final
        self._nodes = KnownNodes.load(files, self._data, self._placing.wait)
        self._nodes.seed(self._founders())
        me = Replica(config.id, identity.incarnation)
        declared = frozenset(config.groups.values())
        self._groups = LocalGroups(
            me, self._placement, self._nodes, config.groups_per_worker, declared, self
        )
        self._admission = Admission(self._nodes, self.ask, self.spawn)
        self._requests: dict[int, asyncio.Future[bytes]] = {}
        self._request_number = 0
        self._ready = False
        self._stopping = False
        self._drained: set[int] = set()
        self._ended = loop.create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._router = self._child("router", None, begin_router, self._router_arguments())
        self._rebirths = Rebirths(
            Replica(config.id, identity.incarnation),
            self._placement,
            Ways(self._placing.place, self._ask, self._later, self._reload, self._send_state),
        )
        self._handlers: dict[int, Callable[[list[Any]], None]] = {
            wire.WELCOME: self._on_welcome,
            wire.WORKER: self._on_worker,
            wire.PEER_HELLO: self._on_peer_hello,
            wire.CATALOG: self._on_catalog,
            wire.REPLY: self._on_reply,
            wire.DRAINED: self._on_drained,
            wire.CANDIDATE: self._admission.on_candidate,
            wire.ASK_CATALOG: lambda frame: self.spawn(self._groups.carry_question(frame[3:9])),
            wire.CATALOG_CURRENT: lambda frame: self._groups.on_current(),
            wire.REPLICAS: lambda frame: self._rebirths.on_replicas(frame[3]),
        }

    # ------------------------------------------------------------------ life

    async def run(self) -> int:
        self._loop.set_exception_handler(self._on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        end_left_over(self._lock.left_over, self._clock)
        formed_with = self._identity.members_hash
        listed = (None, members_hash(self._config.members).hex())
        if self._config.join is None and formed_with not in listed:
            names = ", ".join(node for node, _ in self._founders())
            log.warning(
                "--members differ from those that formed this cluster (%s), which stay", names
            )
        self._mark_declared()
        self._rebirths.begin()
        if self._identity.cluster is None:
            self._formation = Formation(
                self._config.id,
                self._identity.incarnation,
                self._config.members,
                joins=self._config.join is not None,
            )
            self._forming = "waiting for the other members"
        self._router.start()
        self.spawn(
            links.stay_connected(
                self._loop,
                self._socket_path,
                self._on_frames,
                self._on_connected,
                self._on_link_lost,
            )
        )
        self._watch_memory()
        self._check_system()
        try:
            code: int = await self._ended
            return code
        finally:
            for task in self._tasks:
                task.cancel()
            self._lock.close()

    def spawn(self, coroutine: Any) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(f"internal error: {task.exception()!r}")

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A callback raised: a bug of ours, after which nothing here can be relied on; or the disk
        of DATA fails, and so does the node."""
        error = context.get("exception")
        if isinstance(error, OSError | StoreError):
            self._fail(str(error))
            return
        log.critical("%s", context.get("message"), exc_info=error)
        self._fail(f"internal error: {error!r}")

    def _fail(self, reason: str) -> None:
        """Give up: one line, exit code 1."""
        if not self._ended.done():
            self._kill_all()
            self._ended.set_exception(NodeRefused(reason))

    def _child(
        self, kind: str, slot: int | None, target: Callable[..., None], arguments: object
    ) -> ChildProcess:
        return ChildProcess(
            self._context,
            self._loop,
            self._clock,
            kind,
            slot,
            target,
            arguments,
            self._on_child_end,
            self._on_children_changed,
        )

    def _router_arguments(self) -> RouterArguments:
        config = self._config
        return RouterArguments(
            node=config.id,
            incarnation=self._identity.incarnation,
            socket_path=self._socket_path,
            client=config.client,
            peer=config.peer,
            events=config.events,
            advertise={
                "client": config.advertise_client,
                "peer": config.advertise_peer,
                "events": config.advertise_events,
            },
            members=dict(config.members),
            members_hash=members_hash(config.members),
            log_level=config.log_level,
        )

    # ------------------------------------------------------------------ children

    def _children(self) -> list[ChildProcess]:
        return [self._router, *self._workers.values()]

    def _on_children_changed(self) -> None:
        if self._ended.done():
            return  # the lock may be gone already; who comes next ends what it finds in the file
        try:
            self._lock.set_children([each.as_child() for each in self._children() if each.pid])
        except OSError as error:
            if not is_full_error(error):
                raise
            # Only a next life of this node would miss it; the children end with us by themselves.
            log.warning("the children cannot be written down: %s", error)
        self._send_state()

    def _on_child_end(self, child: ChildProcess, words: str) -> None:
        if child is self._router:
            if not self._bound and words:
                child.forget()
                self._fail(words)
            return
        assert child.slot is not None
        if words:
            is_damage = words.startswith(DAMAGED)
            (self._damaged if is_damage else self._ended_by)[child.slot] = words
        self._reported.add(child.slot)
        self._maybe_ready()

    def start_worker(self, slot: int) -> None:
        if slot in self._workers or self._stopping:
            return
        config = self._config
        arguments = WorkerArguments(
            slot=slot,
            data=self._data,
            node=config.id,
            incarnation=self._identity.incarnation,
            router_socket=self._socket_path,
            client_address=config.advertise_client,
            raft=config.raft,
            snapshots=config.snapshots,
            disk=config.disk,
            sync=config.sync,
            log_level=config.log_level,
            machines=frozenset(config.groups.values()),
        )
        worker = self._child("worker", slot, begin_worker, arguments)
        self._workers[slot] = worker
        worker.start()

    def _mark_declared(self) -> None:
        """Groups that were placed before their machine was declared here may run from now on.

        On a full disk they run in this life all the same, by the configuration.
        """
        declared = set(self._config.groups.values())
        marked = {
            group: replace(placed, options={**placed.options, DECLARED: True})
            for group, placed in self._placement.groups.items()
            if placed.machine in declared and not placed.options.get(DECLARED)
        }
        if marked:
            self._placing.place({**self._placement.groups, **marked})

    def _start_workers(self) -> None:
        for placed in self._placement.groups.values():
            self.start_worker(placed.slot)

    def _watch_memory(self) -> None:
        """libzmq bounds no message that never ends: the router's memory is watched from outside."""
        if self._router.pid is not None:
            used = _resident_bytes(self._router.pid)
            if used > ROUTER_MEMORY_BYTES_MAX:
                log.error("the router uses %d bytes of memory: restarting it", used)
                self._router.signal(signal.SIGKILL)
        self._loop.call_later(ROUTER_MEMORY_CHECK_MS / 1_000, self._watch_memory)

    # ------------------------------------------------------------------ the link to the router

    def _on_connected(self, link: links.LinkProtocol) -> None:
        self._link = link
        self._router_epoch = 0
        link.send(self._pack(wire.HELLO, "node", 0, os.getpid(), []), control=True)

    def _on_link_lost(self, link: links.LinkProtocol, error: Exception | None) -> None:
        self._link = None
        self._router_epoch = 0
        requests, self._requests = self._requests, {}
        for future in requests.values():
            if not future.done():
                future.set_exception(ConnectionResetError("the router was lost"))

    def _on_frames(self, link: links.LinkProtocol, received: list[bytes]) -> None:
        for data in received:
            frame = frames.unpack_link(data)
            if frame[2] == self._epoch:
                self._handlers[frame[0]](frame)

    def _pack(self, kind: int, *fields: Any) -> bytes:
        return frames.pack_link(kind, self._epoch, self._router_epoch, *fields)

    def _send(self, kind: int, *fields: Any) -> None:
        """Lost without a router; everything is told again in answer to its WELCOME."""
        if self._link is not None and self._router_epoch:
            self._link.send(self._pack(kind, *fields), control=True)

    def _on_welcome(self, frame: list[Any]) -> None:
        self._router_epoch = frame[1]
        self._bound = frame[4]
        self._send_identity()
        self.tell_routes()
        self._send_state()
        if self._identity.cluster is None:
            self._decide()
        else:
            self._start_workers()
        self._maybe_ready()

    def _send_identity(self) -> None:
        cluster = self._identity.cluster
        self._send(
            wire.IDENTITY,
            b"" if cluster is None else bytes.fromhex(cluster),
            [list(pair) for pair in self._founders()],
        )

    def _founders(self) -> tuple[Pair, ...]:
        placed = self._placement.groups.get(SYSTEM_GROUP_ID)
        if placed is None or self._identity.cluster is None:
            return ()
        return tuple((each.node, each.incarnation) for each in placed.members)

    def tell_routes(self) -> None:
        self._send(wire.NODES, self._nodes.frame_rows())
        self._send(wire.GROUPS, self._groups.routes())

    def _send_state(self) -> None:
        processes = [
            {
                "kind": each.kind,
                "pid": each.pid,
                "restarts": each.restarts,
                "slot": each.slot,
            }
            for each in self._children()
        ]
        processes.insert(0, {"kind": "node", "pid": os.getpid(), "restarts": 0, "slot": None})
        state = {
            "processes": processes,
            "forming": self._forming,
            "damaged": {str(slot): words for slot, words in self._damaged.items()},
            "ended": {str(slot): words for slot, words in self._ended_by.items()},
            "rebirths": self._rebirths.state(),
            "rebirths_counts": dict(self._rebirths.counts),
        }
        self._send(wire.STATE, state)

    def _maybe_ready(self) -> None:
        """Say so once: sockets bound, and every placed slot recovered, or tried to."""
        slots = {placed.slot for placed in self._placement.groups.values()}
        if self._ready or not self._bound or (self._identity.cluster and slots - self._reported):
            return
        self._ready = True
        shown = " ".join(
            f"{name}={_shown(self._bound[name], getattr(self._config, f'advertise_{name}'))}"
            for name in ("client", "peer", "events")
        )
        sys.stdout.write(f"ready node={self._config.id} {shown} pid={os.getpid()}\n")
        sys.stdout.flush()
        if self._identity.cluster is not None:
            self.spawn(self._declare())

    # ------------------------------------------------------------------ formation

    def _on_peer_hello(self, frame: list[Any]) -> None:
        node, incarnation, cluster, their_hash, founders, nodes = frame[3:9]
        rows = rows_of_hello(nodes)
        if self._formation is None:
            is_ours = cluster and cluster.hex() == self._identity.cluster
            if is_ours and self._learn_nodes(rows):
                self._send(wire.NODES, self._nodes.frame_rows())
            return
        try:
            pairs = tuple((str(name), int(number)) for name, number in founders)
        except (TypeError, ValueError):
            log.error("the HELLO of %s does not say who formed its cluster", node)
            return
        known = {row["id"]: (row["incarnation"], row["awaits"]) for row in rows}
        self._formation.on_hello(Hello(node, incarnation, cluster, their_hash, pairs, known))
        self._told |= newer(self._told, rows)
        self._decide()

    def _decide(self) -> None:
        if self._formation is None:
            return
        decision = self._formation.decide()
        if isinstance(decision, Wait):
            if decision.text != self._forming:
                log.info("%s", decision.text)
            self._forming = decision.text
            self._send_state()
        elif isinstance(decision, Refused):
            # The others are being asked at this moment: who hears us can say why we are not there,
            # and one of them may know better.
            if not self._refused:
                self._refused = True
                self._loop.call_later(REFUSED_LINGER_MS / 1_000, self._give_up)
        else:
            self._form(decision)

    def _give_up(self) -> None:
        self._refused = False
        decision = None if self._formation is None else self._formation.decide()
        if isinstance(decision, Refused):
            self._formation = None
            self._fail(decision.text)

    def _form(self, formed: Formed) -> None:
        """Placement first: a node that is formed on disk knows who formed it."""
        self._formation = None
        self._nodes.merge(self._told.values())
        self._nodes.seed(formed.pairs)
        members = tuple(Replica(node, incarnation) for node, incarnation in formed.pairs)
        system = PlacedGroup(SYSTEM_SLOT, 1, SYSTEM_GROUP, "_catalog", members)
        self._placement.replace({SYSTEM_GROUP_ID: system})
        self._identity = self._identity.adopt(
            self._files,
            self._data,
            formed.cluster.hex(),
            members_hash(self._config.members).hex(),
        )
        log.info(
            "cluster %s: %s", formed.cluster.hex(), ", ".join(node for node, _ in formed.pairs)
        )
        self._forming = None
        self._send_identity()
        self.tell_routes()
        self._send_state()
        self._start_workers()
        if self._ready:
            self.spawn(self._declare())

    # ------------------------------------------------------------------ groups

    def _on_worker(self, frame: list[Any]) -> None:
        slot, _pid, up, groups = frame[3:7]
        if not up:
            return
        self._damaged.pop(slot, None)
        self._ended_by.pop(slot, None)
        self._reported.add(slot)
        if self._is_behind(slot, groups):
            self._send(wire.RELOAD, slot)
        self._groups.tell_desired(slot=slot)
        self._groups.reconcile_system()
        self._send_state()
        self._maybe_ready()

    def _is_behind(self, slot: int, running: list[int]) -> bool:
        """Whether a worker in which these groups run has not read the placement that there is: it
        may have begun before, and RELOAD found no link."""
        placed = self._placement.groups
        if any(group in placed and placed[group].slot != slot for group in running):
            return True
        return any(
            group in running
            if LEFT in each.options
            # What runs of a life that was not born yet is the one before it.
            else not each.is_born and (group not in running or each.life)
            for group, each in self._placement.in_slot(slot).items()
        )

    def _on_catalog(self, frame: list[Any]) -> None:
        table = frame[3]
        self._learn_nodes(table["nodes"])
        self._groups.learn(table["groups"])
        self.tell_routes()

    def _place_again(self) -> None:
        """There may be room again: workers tell once more what was to be written down."""
        self._groups.reconcile()
        for slot in sorted(self._workers):
            self._reload(slot)

    def _learn_nodes(self, rows: list[dict[str, Any]]) -> bool:
        """Take what is newer; whether anything is.  It may be the end of this node."""
        if not self._nodes.merge(rows):
            return False
        mine = self._nodes.rows.get(self._config.id)
        if mine is not None and mine["incarnation"] != self._identity.incarnation:
            self._fail(
                f"the disk of {self._config.id} was replaced by another one; "
                f"{self._data} can never be used again"
            )
        self._groups.on_nodes()
        return True

    def leave_cluster(self) -> None:
        self._fail(f"node {self._config.id} was removed from this cluster")

    # ------------------------------------------------------------------ what its groups need of it

    def place(self, groups: Mapping[int, PlacedGroup]) -> bool:
        return self._placing.place(groups)

    def send(self, kind: int, *fields: Any) -> None:
        self._send(kind, *fields)

    def has_worker(self, slot: int) -> bool:
        return slot in self._workers

    def lose(self, group: int, life: int, reason: str) -> None:
        self._rebirths.on_replicas([[group, life, wire.LOST, reason]])

    def _ask(self, group: str, batch: bytes, elsewhere: bool, answered: Answered) -> None:
        async def ask() -> None:
            answered(*await self.ask(group, batch, elsewhere=elsewhere))

        if not self._stopping:
            self.spawn(ask())

    def _reload(self, slot: int) -> None:
        self._send(wire.RELOAD, slot)

    def _check_system(self) -> None:
        self._groups.check_system()
        self._later(CHECK_SYSTEM_MS, self._check_system)

    def _later(self, ms: int, what: Callable[[], None]) -> None:
        self._loop.call_later(ms / 1_000, what)

    @property
    def is_stopping(self) -> bool:
        return self._stopping

    async def _declare(self) -> None:
        """Tell the catalog where this node is reached, and create the groups that it was given."""
        config = self._config
        options = {
            "incarnation": str(self._identity.incarnation),
            "client": config.advertise_client,
            "peer": config.advertise_peer,
            "events": config.advertise_events,
        }
        await self._declare_one("registerNode", config.id, options)
        for name, machine in config.groups.items():
            await self._declare_one("createGroup", name, {"machine": machine})

    async def _declare_one(self, command: str, value: str, options: Mapping[str, str]) -> None:
        batch = protocol.encode_admin(command, value, options, timeout_ms=DECLARE_TIMEOUT_MS)
        while not self._stopping:
            code, text, _ = await self.ask(SYSTEM_GROUP, batch)
            if code == protocol.OK:
                return
            if code == protocol.REJECTED:
                log.error("%s %s: %s", command, value, text)
                return
            log.debug("%s %s: %s; trying again", command, value, text)
            await asyncio.sleep(DECLARE_RETRY_MS / 1_000)

    async def ask(
        self, group: str, batch: bytes, *, elsewhere: bool = False
    ) -> tuple[int, str, bytes]:
        """A request as a client of our own router: (code, reason, data)."""
        if self._link is None or not self._router_epoch:
            return protocol.NO_LEADER, "no router", b""
        self._request_number += 1
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._requests[self._request_number] = future
        self._send(wire.REQUEST, self._request_number, group, batch, elsewhere)
        try:
            return protocol.first_reply(await future)
        except ConnectionResetError as error:
            return protocol.UNAVAILABLE, str(error), b""

    def _on_reply(self, frame: list[Any]) -> None:
        future = self._requests.pop(frame[3], None)
        if future is not None and not future.done():
            future.set_result(frame[4])

    # ------------------------------------------------------------------ stopping

    def _on_signal(self) -> None:
        if self._stopping:
            self._kill_all()
            self._end()
            return
        self._stopping = True
        log.info("stopping")
        self.spawn(self._stop())

    async def _stop(self) -> None:
        """Answer what is under way, then end workers, then the router."""
        for child in self._children():
            child.forget()
        self._send(wire.DRAIN)
        running = {slot for slot, worker in self._workers.items() if worker.pid}
        await self._until(lambda: not self._link or running <= self._drained, DRAIN_WAIT_MS)
        for worker in self._workers.values():
            worker.signal(signal.SIGTERM)
        await self._until(lambda: not any(w.pid for w in self._workers.values()), STOP_MS_MAX)
        self._router.signal(signal.SIGTERM)
        await self._until(lambda: self._router.pid is None, STOP_MS_MAX)
        self._kill_all()
        await self._until(lambda: not any(each.pid for each in self._children()), STOP_MS_MAX)
        self._end()

    async def _until(self, done: Callable[[], bool], ms: int) -> None:
        deadline_ms = self._clock.now_ms() + ms
        while not done() and self._clock.now_ms() < deadline_ms:  # noqa: ASYNC110 - many conditions
            await asyncio.sleep(0.01)

    def _on_drained(self, frame: list[Any]) -> None:
        self._drained.add(frame[3])

    def _kill_all(self) -> None:
        for child in self._children():
            child.forget()
            child.signal(signal.SIGKILL)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(0)


def _socket_path(config: NodeConfig) -> str:
    try:
        return runtime_socket_path(config.data, directory=config.runtime_dir)
    except AddressError as error:
        raise NodeRefused(str(error)) from error


def _shown(bound: str, advertised: str) -> str:
    wildcard = any(f"//{host}:" in bound for host in ("0.0.0.0", "[::]", "*"))
    return advertised if wildcard else bound


def _resident_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return 0


def run_node(config: NodeConfig) -> int:
    """Run one node until it is stopped; the exit code.  One line on stderr says why it is not 0."""
    start_logging(config.log_level, config.id)
    for notice in config.notices:
        log.info("%s", notice)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        files, lock, identity = open_data(config)
        if config.join is not None and identity.cluster is None:
            from actors.joining import ask_to_join  # the whole client, for once in a life

            config = ask_to_join(config, identity.incarnation)
        node = Node(config, files, lock, identity, loop)
        return loop.run_until_complete(node.run())
    except KeyboardInterrupt:
        return 130
    except (NodeRefused, StoreError) as error:
        sys.stderr.write(f"{config.id}: {error}\n")
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        sys.stderr.write(f"{config.id}: {error.strerror or error}{where}\n")
        return 1
    finally:
        with contextlib.suppress(RuntimeError):
            loop.close()
