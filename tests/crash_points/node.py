"""The story of a whole node: its own process and its workers, the real ones, on one disk.

What stands in for something else: the loop, threads and links, which call at once; the catalog and
the leaders of groups, who are somewhere else and always agree.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, cast
from unittest.mock import patch

from actors import known_nodes, node_data, snapshot_files, wire
from actors import node as node_module
from actors.catalog import SYSTEM_GROUP_ID
from actors.catalog_members import Row, group_row, node_row
from actors.config import NodeConfig
from actors.formation import Formed, cluster_id
from actors.group_messages import StoreUpload, UploadStored
from actors.local_groups import SYSTEM_SLOT
from actors.node import Node
from actors.node_data import open_data
from actors.replacing import DONE, LEARNER
from actors.settings import DiskSettings, SnapshotSettings
from actors.worker import Worker
from actors.worker_arguments import WorkerArguments
from raft.store import documents, identity, locks, placement
from raft.store.backup_file import meta_values
from raft.store.documents import NODES, NODES_FORMAT
from raft.store.files import make_directory
from raft.store.identity import Child as ChildRow
from raft.store.memory import MemoryFiles
from raft.store.placement import LEFT
from raft.store.snapshots import SnapshotStore
from raft.store.uploads import RESTORE, snapshots_of
from raft.store.wal import Batch, Wal
from tests.actors.test_node import Child
from tests.actors.test_worker import Threads, snapshot, write
from tests.crash_points.disk import LOST
from tests.crash_points.logs import seen
from tests.crash_points.story import Found, Promises, Story
from transport import protocol

DATA: Final = "/data"
ME: Final = "n1"
CONDEMNED: Final = "by hand"
SEGMENT_BYTES: Final = 1 << 14
LATER_MAX: Final = 200  # timers that go off before something is wrong
SNAPSHOTS: Final = SnapshotSettings(
    keep_snapshots=2, snapshot_trailing_entries=1, snapshot_trailing_bytes=1
)
CONFIG: Final = NodeConfig(
    id=ME,
    data=Path(DATA),
    members={ME: "tcp://n1:7101"},
    snapshots=SNAPSHOTS,
    disk=DiskSettings(disk_soft_limit_bytes=1 << 20, disk_reserve_bytes=1 << 20),
)
DOCUMENTS: Final = {
    identity.FILE: (identity.WHAT, identity.FORMAT),
    placement.FILE: (placement.WHAT, placement.FORMAT),
    NODES: (NODES, NODES_FORMAT),
}
Later = Callable[[], object]


class Loop:
    """Calls what it is given when :meth:`turn` comes round; timers, when nothing else is left."""

    def __init__(self) -> None:
        self.soon: list[Later] = []
        self.later: list[Later] = []

    def create_future(self) -> Any:
        return self

    def done(self) -> bool:
        """As a future that nobody is to set."""
        return False

    def set_exception(self, error: BaseException) -> None:
        raise error

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.soon.append(lambda: callback(*arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> Loop:
        self.later.append(lambda: callback(*arguments))
        return self

    def cancel(self) -> None:
        """As the handle of a timer."""

    def turn(self) -> bool:
        """Whether there was anything."""
        soon, self.soon = self.soon, []
        for each in soon:
            each()
        return bool(soon)


class QuietNode(Node):
    """Sends nothing; whom it asks agrees with it; its workers are in this process."""

    story: NodeStory

    def _send(self, kind: int, *fields: Any) -> None:
        if kind == wire.RELOAD and not self.story.is_deaf:
            self.story.reload(fields[0])

    def start_worker(self, slot: int) -> None:
        self.story.start_worker(slot)

    def has_worker(self, slot: int) -> bool:
        return slot in self.story.workers

    def spawn(self, coroutine: Any) -> None:
        """Up to where it would wait, which is nowhere for what is told here."""
        if coroutine.__name__ not in ("ask", "_leave"):
            coroutine.close()
            return
        _drive(coroutine)

    async def ask(
        self, group: str, batch: bytes, *, elsewhere: bool = False
    ) -> tuple[int, str, bytes]:
        decoded = protocol.decode_batch(group, batch)
        assert isinstance(decoded, protocol.AdminOperation)
        state = DONE if decoded.options.get("placed") == "true" else LEARNER
        return protocol.OK, "", json.dumps({"state": state}).encode()


def _drive(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError(f"{coroutine} waits")


class _Disk:
    """Stands for the threads that write."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)

    def beside(self, work: Callable[[], None] | None) -> None:
        if work is not None:
            work()


class _Worker:
    """A worker process of one slot."""

    def __init__(self, story: NodeStory, slot: int) -> None:
        self.slot = slot
        self.loop = Loop()
        self.disk = _Disk()
        self.threads = Threads()
        arguments = WorkerArguments(
            slot=slot,
            data=DATA,
            node=ME,
            incarnation=story.node._identity.incarnation,
            router_socket="/nowhere",
            client_address="tcp://n1:7001",
            raft=CONFIG.raft,
            sync=True,
            log_level="info",
            snapshots=SNAPSHOTS,
            disk=CONFIG.disk,
        )
        self.worker = worker = Worker(arguments, cast(asyncio.AbstractEventLoop, self.loop))
        worker._files = story.files
        worker._disk = self.disk  # type: ignore[assignment]
        worker._threads = self.threads  # type: ignore[assignment]
        worker._open_wal()
        self.found = seen(worker._hosting._recovered)
        self.snapshots = {
            group: (it.generation, it.snapshot)
            for group, it in worker._hosting._recovered.items()
            if it.snapshot is not None and not it.damaged
        }

    def load(self) -> None:
        self.worker._load_groups()
        self.worker._turn()


class NodeStory(Story):
    """A blank disk joins a cluster, is given groups, which write and take snapshots; one of them
    loses its log and begins another life, another one is left, and comes back elsewhere."""

    title = "a node"
    points_min = 300
    is_quick = False
    made_by_starting = frozenset((identity.FILE,))

    @classmethod
    def settings(cls) -> AbstractContextManager[object]:
        patches = ExitStack()
        patches.enter_context(patch.object(node_module, "ChildProcess", Child))
        patches.enter_context(patch.object(node_module, "make_context", lambda: None))
        patches.enter_context(patch.object(node_module, "_socket_path", lambda _: "/nowhere"))
        # It is read from /proc, for each lock that is taken.
        patches.enter_context(patch.object(locks, "process_start_time", lambda _: 5))
        limits = {"segment_bytes_first": SEGMENT_BYTES, "segment_bytes_max": SEGMENT_BYTES}
        defaults = cast(Any, Wal.open).__func__.__kwdefaults__
        patches.enter_context(patch.dict(defaults, limits))
        return patches

    def __init__(self, files: MemoryFiles, promises: Promises) -> None:
        super().__init__(files, promises)
        self.workers: dict[int, _Worker] = {}
        self.is_deaf = False  # workers are, for a while

    # ------------------------------------------------------------------ processes

    def prepare(self) -> None:
        """Nothing: a blank disk."""

    def start(self) -> None:
        loop = self.loop = Loop()
        self.workers = {}
        with patch.object(node_data, "Files", lambda: self.files), self._promised_documents():
            self.found = self._documents()
            files, lock, who = open_data(CONFIG)
            self.node = QuietNode(CONFIG, files, lock, who, cast(asyncio.AbstractEventLoop, loop))
        self.node.story = self
        self.node._ready = True
        lock.set_children([ChildRow(4711, 5, "worker", 1)])
        is_formed = self.node._identity.cluster is not None
        placed = self.node._placement.groups.values() if is_formed else ()
        for slot in sorted({each.slot for each in placed}):
            worker = self.workers[slot] = _Worker(self, slot)
            if worker.found:
                self.found[f"log {slot}"] = worker.found
            self._see_snapshots(worker)
        self._is_running = False

    def _documents(self) -> Found:
        found: Found = {}
        for name, (what, format_) in DOCUMENTS.items():
            body = documents.read_document(self.files, f"{DATA}/{name}", what, format_)
            if body is not None:
                found[name] = body
        return found

    def _see_snapshots(self, worker: _Worker) -> None:
        """What a log names is there, and whole."""
        groups = self.node._placement.groups
        for group, (generation, meta) in worker.snapshots.items():
            placed = groups.get(group)
            if placed is not None and LEFT not in placed.options:
                assert generation <= placed.generation
                if generation == placed.generation:
                    assert meta is not None
                    SnapshotStore(self.files, snapshots_of(DATA, group)).verify(meta)

    @contextmanager
    def _promised_documents(self) -> Iterator[None]:
        """Whoever writes one is promised all of it, or what was there before."""
        write_document = documents.write_document

        def promised(files: Any, path: str, what: str, format_: int, body: dict[str, Any]) -> None:
            content = json.loads(json.dumps(body))
            with self.promises.making(path.rpartition("/")[2], lambda: content):
                write_document(files, path, what, format_, body)

        with ExitStack() as patches:
            for module in (identity, placement, known_nodes):
                patches.enter_context(patch.object(module, "write_document", promised))
            yield

    def start_worker(self, slot: int) -> None:
        if slot not in self.workers:
            self.workers[slot] = worker = _Worker(self, slot)
            if self._is_running:
                worker.load()

    def reload(self, slot: int) -> None:
        self.workers[slot].worker._on_reload([])

    def _settle(self) -> None:
        """Until everybody has done all that there is to do."""
        self._is_running = True
        for _ in range(LATER_MAX):
            busy = [self._work(each) for each in list(self.workers.values())]
            if not any(busy):
                later, self.loop.later = self.loop.later, []
                if not later:
                    break
                for each in later:
                    each()
        else:
            raise AssertionError("it does not come to rest")
        for worker in self.workers.values():
            worker.worker._space.look()
            for shown in worker.worker._hosting.broken.values():
                assert CONDEMNED in shown["error"], shown

    def _work(self, worker: _Worker) -> bool:
        """What one worker has to do now; whether there was anything."""
        busy = worker.loop.turn()
        while worker.disk.batches:
            busy = True
            batch = worker.disk.batches.pop(0)
            with self.promises.making(f"log {worker.slot}", lambda: self._on_disk(worker)):
                batch.run()
                worker.worker._on_disk_done(batch, None)
        while worker.threads.waiting:
            busy = True
            work, on_done, _ = worker.threads.waiting.pop(0)
            on_done(work())
        told = worker.worker._hosting.births.rows()
        groups = self.node._placement.groups
        if any(life == groups[group].life for group, life, _, _ in told if group in groups):
            before = dict(groups)
            self.node._rebirths.on_replicas(told)
            busy = busy or before != self.node._placement.groups
            worker.worker._turn()
        return busy

    def _on_disk(self, worker: _Worker) -> object:
        twin = self.files.fork()
        twin.kill()
        story = NodeStory(twin, Promises(is_kept=False))
        story.node = self.node
        return _Worker(story, worker.slot).found

    # ------------------------------------------------------------------ the story

    def episodes(self) -> list[Callable[[], None]]:
        told = (
            self._it_joins,
            self._it_is_given_groups,
            self._they_write,
            self._one_takes_snapshots,
            self._another_begins_with_it,
            self._nodes_come,
            self._one_loses_its_log,
            self._one_is_left,
            self._another_is_placed,
            self._it_comes_back,
            self._it_is_left_and_wanted_at_once,
            self._power_is_lost,
        )
        return [lambda each=each: self._tell(each) for each in told]  # type: ignore[misc]

    def _tell(self, episode: Callable[[], None]) -> None:
        with self._promised_documents():
            self._run()
            episode()
            self._settle()

    def _run(self) -> None:
        """What a start goes on with."""
        if self._is_running:
            return
        self._is_running = True
        self.node._mark_declared()
        self.node._rebirths.begin()
        for worker in self.workers.values():
            worker.load()
        self._settle()

    @property
    def _pair(self) -> list[Any]:
        return [ME, self.node._identity.incarnation]

    def _it_joins(self) -> None:
        if self.node._identity.cluster is None:
            pairs = ((ME, self.node._identity.incarnation),)
            self.node._told = {"n2": node_row("n2", 22, 3)}
            self.node._form(Formed(cluster_id(pairs), pairs))

    def _row(self, group: int, version: int = 0, *, is_wanted: bool = True) -> Row:
        row = group_row(group, f"group-{group}", "kv", [self._pair])
        members = [self._pair] if is_wanted else [["n2", 22]]
        return {**row, "version": version or group, "members": members}

    def _learn(self, *rows: Row) -> None:
        """The catalog's rows, as they are by now."""
        self.node._groups.learn(list(rows))
        self.node._groups.on_current()
        self._settle()

    def _it_is_given_groups(self) -> None:
        self._learn(self._row(7), self._row(8))

    def _request(self, group: int, items: list[Any]) -> None:
        slot = self.node._placement.groups[group].slot
        self.workers[slot].worker._on_requests([0, 0, 0, items])
        self._settle()

    def _they_write(self) -> None:
        self._learn(self._row(7), self._row(8))
        for token, group in ((1, 7), (2, 8), (3, 8)):
            self._request(group, write(token, group))

    def _one_takes_snapshots(self) -> None:
        self._learn(self._row(7), self._row(8))
        for token in (4, 6, 8):
            self._request(8, write(token, 8))
            self._request(8, snapshot(token + 1, 8))

    def _another_begins_with_it(self) -> None:
        """With the snapshot, as if it had been backed up."""
        self._learn(self._row(7), self._row(8))
        if 10 in self.node._placement.groups:
            return
        donor = self.workers[self.node._placement.groups[8].slot].worker
        meta = donor._groups[8].core.snapshot
        assert meta is not None
        whole = donor._hosting.stores[8].read_raw(meta, 0, meta.size_bytes)
        taker = self.workers[SYSTEM_SLOT].worker._hosting.stores[SYSTEM_GROUP_ID]
        held = 0
        while held < meta.size_bytes:
            upload = StoreUpload(SYSTEM_GROUP_ID, None, meta, held, whole[held : held + 100])
            stored = snapshot_files.carry_out(taker, upload)
            assert isinstance(stored, UploadStored)
            held = stored.held_bytes
        self._learn({**self._row(10), RESTORE: meta_values(meta)})

    def _nodes_come(self) -> None:
        for version in (40, 41):
            row = {**node_row("n3", 33, version), "client": f"tcp://n3:{version}"}
            self.node._learn_nodes([row])

    def _one_loses_its_log(self) -> None:
        self._learn(self._row(7), self._row(8))
        placed = self.node._placement.groups[7]
        if placed.life == 0:
            worker = self.workers[placed.slot].worker
            if worker._wal._groups[7].damaged is None:
                worker._wal.mark_damaged(7, CONDEMNED)
                worker._write()
                self._settle()
            for group in (7, 8):
                self._a_snapshot_is_not_finished(group)
            self.starts_again()
            self._run()

    def _a_snapshot_is_not_finished(self, group: int) -> None:
        """What a process leaves that ends meanwhile."""
        directory = snapshots_of(DATA, group)
        make_directory(self.files, directory)
        self.files.put(f"{directory}/{'0' * 16}-{'0' * 16}.writing", b"half of it")

    def _one_is_left(self) -> None:
        if LEFT not in self.node._placement.groups[8].options:
            self._a_snapshot_is_not_finished(8)
        self._learn(self._row(7), self._row(8, 50, is_wanted=False))

    def _another_is_placed(self) -> None:
        self._learn(self._row(7), self._row(8, 50, is_wanted=False), self._row(9))

    def _it_comes_back(self) -> None:
        self._learn(self._row(7), self._row(9), self._row(8, 60))

    def _it_is_left_and_wanted_at_once(self) -> None:
        """Its worker reads of both at the same time."""
        self._learn(self._row(7), self._row(9))
        self.is_deaf = True
        if self.node._placement.groups[8].life < 2:
            self._learn(self._row(8, 70, is_wanted=False))
        self._learn(self._row(8, 80))
        self.is_deaf = False
        for slot in list(self.workers):
            self.reload(slot)

    def _power_is_lost(self) -> None:
        self.starts_again(LOST)
        self._run()

    # ------------------------------------------------------------------ what is left of it

    def end(self) -> Found:
        """Not the numbers that were drawn, nor how often somebody was elected."""
        who = cast(dict[str, Any], self.found.get(identity.FILE, {}))
        known = cast(dict[str, Any], self.found.get(NODES, {"nodes": {}}))
        groups = self.node._placement.groups
        logs = {
            (name, group): values[:2]
            for name, log in self.found.items()
            if name.startswith("log ")
            for group, values in cast(dict[int, tuple[object, ...]], log).items()
        }
        return {
            "formed": who.get("cluster") is not None,
            "nodes": {node: row["version"] for node, row in known["nodes"].items()},
            "groups": {
                group: (it.slot, it.generation, it.life, sorted(it.options))
                for group, it in groups.items()
            },
            "logs": logs,
        }
