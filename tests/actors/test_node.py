"""The node process without processes: formation, and bringing local groups into line.

Children, link and loop are toys; identity and placement are the real files, on a disk in memory.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from actors import node as node_module
from actors import wire as kinds
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.config import NodeConfig
from actors.formation import Formation, cluster_id, members_hash
from actors.local_groups import SYSTEM_SLOT, free_slot
from actors.node import Node, NodeRefused, _shown
from raft.messages import Replica
from raft.store.identity import DataLock, NodeIdentity
from raft.store.memory import MemoryFiles
from raft.store.placement import PlacedGroup, Placement
from transport.frames import pack_link, unpack_link
from transport.links import LinkProtocol

MEMBERS = {f"n{at}": f"tcp://n{at}:7101" for at in (1, 2, 3)}
ROUTER_EPOCH = 77


class Loop:
    """Its timers go off at once."""

    def create_future(self) -> Future:
        return Future()

    def call_later(self, delay_s: float, callback: Callable[..., None], *arguments: Any) -> None:
        assert 0 < delay_s <= 1
        callback(*arguments)


class Future:
    def __init__(self) -> None:
        self.error: BaseException | None = None

    def done(self) -> bool:
        return self.error is not None

    def set_exception(self, error: BaseException) -> None:
        self.error = error


class Lock:
    left_over: tuple[Any, ...] = ()

    def set_children(self, children: list[Any]) -> None:
        """Nobody reads it here."""


class Child:
    """A process that was asked for."""

    started: list[tuple[str, int | None]] = []

    def __init__(self, *arguments: Any) -> None:
        self.kind, self.slot = arguments[3], arguments[4]
        self.pid: int | None = None
        self.restarts = 0

    def start(self) -> None:
        self.pid = 1
        Child.started.append((self.kind, self.slot))

    def forget(self) -> None:
        """No restart."""

    def signal(self, number: int) -> None:
        """Nobody is there."""


class Link:
    def __init__(self) -> None:
        self.frames: list[list[Any]] = []

    def send(self, data: bytes, *, control: bool = False) -> bool:
        self.frames.append(unpack_link(data))
        return True

    def of(self, kind: int) -> list[list[Any]]:
        return [frame[3:] for frame in self.frames if frame[0] == kind]


class Bench:
    def __init__(self, files: MemoryFiles | None = None, **options: Any) -> None:
        if files is None:
            files = MemoryFiles()
            files.mkdir("/data")
            NodeIdentity.create(files, "/data", "n1", 11)
        self.files = files
        identity = NodeIdentity.load(files, "/data")
        assert identity is not None
        config = NodeConfig(id="n1", data=Path("/data"), members=MEMBERS, **options)
        self.node = Node(
            config,
            files,
            cast(DataLock, Lock()),
            identity,
            cast(asyncio.AbstractEventLoop, Loop()),
        )
        self.declared: list[str] = []
        self.node._task = self._task  # type: ignore[method-assign]
        if identity.cluster is None:
            self.node._formation = Formation("n1", identity.incarnation, MEMBERS)
        self.link = Link()
        self.node._on_connected(cast(LinkProtocol, self.link))

    def _task(self, coroutine: Any) -> None:
        self.declared.append(coroutine.__name__)
        coroutine.close()

    def frame(self, kind: int, *fields: Any) -> None:
        data = pack_link(kind, ROUTER_EPOCH, self.node._epoch, *fields)
        self.node._on_frames(cast(LinkProtocol, self.link), [data])

    def welcome(self) -> None:
        bound = {
            name: f"tcp://0.0.0.0:{at}" for at, name in enumerate(("client", "peer", "events"))
        }
        self.frame(kinds.WELCOME, "n1", bound)

    def hello(
        self,
        node: str,
        incarnation: int,
        cluster: bytes = b"",
        pairs: Any = (),
        nodes: Any = (),
    ) -> None:
        fingerprint = members_hash(MEMBERS)
        self.frame(kinds.PEER_HELLO, node, incarnation, cluster, fingerprint, pairs, nodes)

    def catalog(self, *groups: int, members: tuple[int, ...] = (11, 22, 33)) -> None:
        rows = [[f"n{at}", incarnation] for at, incarnation in enumerate(members, 1)]
        self.frame(
            kinds.CATALOG,
            {
                "nodes": [],
                "groups": [
                    {"id": group, "name": f"g{group}", "machine": "kv", "members": rows}
                    for group in groups
                ],
            },
        )

    def born(self, *groups: int) -> None:
        """Their worker says that their first records are durable."""
        self.frame(kinds.REPLICAS, [[group, 0, kinds.BEGUN, ""] for group in groups])

    def placed(self) -> dict[int, int]:
        """Group -> slot, as the disk has it."""
        groups = Placement.load(self.files, "/data").groups
        return {group: placed.slot for group, placed in groups.items()}

    def error(self) -> str:
        return str(cast(Future, self.node._ended).error)


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "ChildProcess", Child)
    monkeypatch.setattr(node_module, "make_context", lambda: None)
    monkeypatch.setattr(node_module, "_socket_path", lambda config: "/nowhere")
    monkeypatch.setattr(Child, "started", [])


def formed(**options: Any) -> Bench:
    bench = Bench(**options)
    bench.welcome()
    bench.hello("n2", 22)
    bench.hello("n3", 33)
    return bench


# --------------------------------------------------------------------------- pure parts


def placed(*slots: int) -> dict[int, PlacedGroup]:
    return {at: PlacedGroup(slot, 1, f"g{at}", "kv") for at, slot in enumerate(slots, 1)}


@pytest.mark.parametrize(
    ("slots", "groups_per_worker", "free"),
    [
        ((), 1, 1),
        ((SYSTEM_SLOT,), 1, 1),
        ((SYSTEM_SLOT,), 64, 1),
        ((0, 1, 2, 3), 1, 4),
        ((0, 1, 3), 1, 2),
        ((0, 1, 1, 2), 2, 2),
        ((0, 1, 1, 2, 2), 2, 3),
        ((0, 5), 1, 1),
        ((0, 1, 1, 1), 2, 2),
    ],
)
def test_a_group_gets_the_lowest_slot_with_room_and_never_the_system_s(
    slots: tuple[int, ...], groups_per_worker: int, free: int
) -> None:
    assert free_slot(placed(*slots), groups_per_worker) == free


@pytest.mark.parametrize(
    ("bound", "shown"),
    [
        ("tcp://127.0.0.1:7001", "tcp://127.0.0.1:7001"),
        ("tcp://10.0.0.1:7001", "tcp://10.0.0.1:7001"),
        ("tcp://0.0.0.0:7001", "tcp://advertised:1"),
        ("tcp://[::]:7001", "tcp://advertised:1"),
        ("tcp://*:7001", "tcp://advertised:1"),
    ],
)
def test_a_wildcard_is_shown_as_what_others_can_use(bound: str, shown: str) -> None:
    assert _shown(bound, "tcp://advertised:1") == shown


# --------------------------------------------------------------------------- formation


def test_a_cluster_forms_when_all_are_heard_and_is_durable_before_anybody_runs() -> None:
    bench = Bench()
    bench.welcome()
    bench.hello("n2", 22)
    assert bench.node._identity.cluster is None
    assert "n3" in str(bench.link.of(kinds.STATE)[-1][0]["forming"])
    assert Child.started == []
    begin = len(bench.files.operations)
    bench.hello("n3", 33)
    pairs = (("n1", 11), ("n2", 22), ("n3", 33))
    cluster = cluster_id(pairs)
    identity = NodeIdentity.load(bench.files, "/data")
    assert identity is not None
    assert identity.cluster == cluster.hex()
    assert bench.placed() == {SYSTEM_GROUP_ID: SYSTEM_SLOT}
    renames = [each[2] for each in bench.files.operations[begin:] if each[0] == "rename"]
    assert [str(each).rsplit("/", 1)[1] for each in renames] == ["placement", "node.json"]
    assert Child.started == [("worker", SYSTEM_SLOT)]
    told, founders = bench.link.of(kinds.IDENTITY)[-1]
    assert told == cluster
    assert founders == [list(pair) for pair in pairs]
    assert bench.link.of(kinds.STATE)[-1][0]["forming"] is None


def test_a_node_that_crashed_between_placement_and_identity_forms_again() -> None:
    bench = Bench()
    members = tuple(Replica(f"n{at}", 11 * at) for at in (1, 2, 3))
    system = PlacedGroup(SYSTEM_SLOT, 1, SYSTEM_GROUP, "_catalog", members)
    Placement.load(bench.files, "/data").replace({SYSTEM_GROUP_ID: system})
    again = Bench(bench.files)
    again.welcome()
    assert again.link.of(kinds.IDENTITY)[-1] == [b"", []], "it is nobody's founder yet"
    assert Child.started == []
    again.hello("n2", 22)
    again.hello("n3", 33)
    assert again.node._identity.cluster == cluster_id(tuple(members)).hex()


def test_a_formed_node_starts_its_workers_without_asking_anybody() -> None:
    bench = formed()
    bench.catalog(5, 6)
    Child.started.clear()
    again = Bench(bench.files)
    again.welcome()
    assert sorted(Child.started) == [("worker", 0), ("worker", 1), ("worker", 2)]
    assert again.link.of(kinds.IDENTITY)[-1][0] == bytes.fromhex(str(again.node._identity.cluster))


def test_a_new_disk_under_an_old_name_ends_the_node_with_one_line() -> None:
    """Pitfalls 19, 20."""
    bench = Bench()
    bench.welcome()
    pairs = [["n1", 99], ["n2", 22], ["n3", 33]]
    cluster = cluster_id([(node, incarnation) for node, incarnation in pairs])  # type: ignore[misc]
    bench.hello("n2", 22, cluster, pairs)
    assert "the disk of n1 is new" in bench.error()
    assert isinstance(cast(Future, bench.node._ended).error, NodeRefused)
    assert bench.node._identity.cluster is None
    assert bench.placed() == {}


def test_a_child_that_ends_after_the_node_has_given_up_is_not_written_down() -> None:
    """The lock may be let go already, and then the file is somebody else's."""
    bench = Bench()
    bench.node._fail("the disk is new")
    written: list[object] = []
    bench.node._lock.set_children = written.append  # type: ignore[method-assign, assignment]
    bench.node._on_children_changed()
    assert written == []


@pytest.mark.parametrize("founders", [[["n1"]], [["n1", "x"]], [5], [["n1", 1, 2]]])
def test_a_hello_with_impossible_founders_is_not_heard(founders: Any) -> None:
    bench = Bench()
    bench.welcome()
    bench.hello("n2", 22, b"c" * 16, founders)
    bench.hello("n3", 33)
    assert bench.node._identity.cluster is None
    assert not cast(Future, bench.node._ended).done()


def test_a_frame_of_another_life_of_this_process_is_dropped() -> None:
    """Pitfall 55."""
    bench = Bench()
    bench.welcome()
    data = pack_link(kinds.PEER_HELLO, ROUTER_EPOCH, bench.node._epoch ^ 2, "n2", 22, b"", b"", [])
    bench.node._on_frames(cast(LinkProtocol, bench.link), [data])
    bench.hello("n3", 33)
    assert bench.node._identity.cluster is None


# --------------------------------------------------------------------------- groups


def test_a_group_of_the_catalog_is_placed_durably_before_its_worker_starts() -> None:
    bench = formed()
    Child.started.clear()
    seen: list[dict[int, int]] = []
    start = bench.node._start_worker

    def started(slot: int) -> None:
        seen.append(bench.placed())
        start(slot)

    bench.node._start_worker = started  # type: ignore[method-assign]
    bench.catalog(5, 6)
    assert bench.placed() == {SYSTEM_GROUP_ID: 0, 5: 1, 6: 2}
    assert seen == [bench.placed()] * 2
    assert Child.started == [("worker", 1), ("worker", 2)]
    rows = bench.link.of(kinds.GROUPS)[-1][0]
    assert [row[:2] + row[4:] for row in rows if row[0] == 5] == [[5, "g5", 1]]
    bench.catalog(5, 6)
    assert len(Child.started) == 2, "what is placed stays where it is"


def test_a_group_of_others_is_known_and_not_placed() -> None:
    bench = formed()
    bench.catalog(5, members=(99, 22, 33))  # n1 with another disk is not us
    assert bench.placed() == {SYSTEM_GROUP_ID: 0}
    rows = {row[0]: row[4] for row in bench.link.of(kinds.GROUPS)[-1][0]}
    assert rows == {SYSTEM_GROUP_ID: 0, 5: None}


def test_groups_that_share_a_worker_are_told_to_it_by_reload() -> None:
    bench = formed(groups_per_worker=2)
    bench.catalog(5)
    bench.catalog(5, 6, 7)
    assert bench.placed() == {SYSTEM_GROUP_ID: 0, 5: 1, 6: 1, 7: 2}
    assert bench.link.of(kinds.RELOAD) == [[1]]
    assert Child.started[-2:] == [("worker", 1), ("worker", 2)]


def test_a_worker_that_came_without_a_group_that_it_has_is_told_again() -> None:
    """RELOAD finds no link while a worker starts, and it may have read the placement before."""
    bench = formed(groups_per_worker=4)
    bench.catalog(5)
    bench.born(5)
    bench.link.frames.clear()
    bench.frame(kinds.WORKER, 1, 100, True, [5])
    assert bench.link.of(kinds.RELOAD) == []
    bench.catalog(5, 6)
    assert bench.link.of(kinds.RELOAD) == [[1]]
    bench.frame(kinds.WORKER, 1, 100, True, [])
    assert bench.link.of(kinds.RELOAD) == [[1], [1]]
    bench.born(6)
    bench.link.frames.clear()
    bench.frame(kinds.WORKER, 1, 100, True, [6])
    assert bench.link.of(kinds.RELOAD) == []


def test_what_a_worker_has_on_disk_is_marked_born_once_and_for_all() -> None:
    bench = formed()
    bench.catalog(5)
    groups = Placement.load(bench.files, "/data").groups
    assert not groups[5].is_born
    bench.frame(kinds.WORKER, 1, 100, True, [5, 99])
    assert not Placement.load(bench.files, "/data").groups[5].is_born, "it has not said so"
    bench.link.frames.clear()
    bench.born(5, 99)
    groups = Placement.load(bench.files, "/data").groups
    assert groups[5].options == {"born": True}
    assert bench.link.of(kinds.RELOAD) == [[1]], "the worker waits for it"
    begin = len(bench.files.operations)
    bench.born(5)
    assert bench.link.of(kinds.RELOAD) == [[1], [1]], "the first one may have found no link"
    assert not [it for it in bench.files.operations[begin:] if it[0] in ("pwrite", "rename")]
    bench.frame(kinds.WORKER, 1, 101, False, [])
    assert groups[5].options == {"born": True}


def test_nothing_is_placed_while_stopping() -> None:
    bench = formed()
    bench.node._stopping = True
    bench.catalog(5)
    assert bench.placed() == {SYSTEM_GROUP_ID: 0}


# --------------------------------------------------------------------------- ready


def test_ready_is_said_once_when_all_slots_have_reported_or_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = formed()
    # A blank node is ready when its sockets are bound: the others need it to form.
    assert capsys.readouterr().out.count("ready node=n1") == 1
    bench.catalog(5)
    again = Bench(bench.files, advertise_client="tcp://10.1.1.1:7001")
    again.welcome()
    assert capsys.readouterr().out == ""
    again.frame(kinds.WORKER, 0, 100, True, [SYSTEM_GROUP_ID])
    assert capsys.readouterr().out == ""
    again.node._on_child_end(again.node._workers[1], "damaged: at 184")
    line = capsys.readouterr().out
    assert line.startswith("ready node=n1 client=tcp://10.1.1.1:7001 peer=")
    assert line.count("\n") == 1
    assert again.declared == ["_declare"]
    again.frame(kinds.WORKER, 1, 100, True, [5])
    assert capsys.readouterr().out == ""


def test_a_worker_s_last_words_are_shown_until_it_is_back() -> None:
    bench = formed()
    bench.catalog(5)
    for words, key in (("damaged: at 184", "damaged"), ("failed: fsync", "ended")):
        bench.node._on_child_end(bench.node._workers[1], words)
        bench.node._send_state()
        state = bench.link.of(kinds.STATE)[-1][0]
        other = {"damaged": "ended", "ended": "damaged"}[key]
        assert (state[key], state[other]) == ({"1": words}, {})
        bench.frame(kinds.WORKER, 1, 100, True, [5])
        assert bench.link.of(kinds.STATE)[-1][0][key] == {}


# --------------------------------------------------------------------------- a disk without room


def test_a_group_that_finds_no_room_to_be_placed_is_placed_later_and_ends_nobody() -> None:
    bench = formed()
    bench.files.fail("pwrite", errno.ENOSPC, path="placement.new", times=3)
    bench.catalog(5)
    assert bench.placed() == {SYSTEM_GROUP_ID: 0, 5: 1}
    assert Child.started.count(("worker", 1)) == 1
    assert cast(Future, bench.node._ended).error is None


def test_that_a_group_was_born_is_written_down_when_there_is_room() -> None:
    bench = formed()
    bench.catalog(5)
    bench.files.fail("pwrite", errno.ENOSPC, path="placement.new", times=3)
    asked = len(bench.link.of(kinds.RELOAD))
    told: list[Any] = [[5, 0, kinds.BEGUN, ""]]
    for _ in range(3):
        bench.frame(kinds.REPLICAS, told)
        assert not Placement.load(bench.files, "/data").groups[5].is_born
    assert len(bench.link.of(kinds.RELOAD)) > asked, "the worker is to tell it again"
    bench.frame(kinds.REPLICAS, told)
    assert Placement.load(bench.files, "/data").groups[5].is_born


def test_a_disk_that_errs_ends_the_node_with_one_line() -> None:
    bench = formed()
    bench.files.fail("fsync", errno.EIO, path="placement.new")
    with pytest.raises(OSError, match="fsync") as failure:
        bench.catalog(5)
    bench.node._on_loop_error(cast(Any, None), {"exception": failure.value})
    assert bench.error() == "[Errno 5] fsync: Input/output error: '/data/placement.new'"


def test_children_that_cannot_be_written_down_for_want_of_room_run_all_the_same() -> None:
    bench = formed()

    def full(children: list[Any]) -> None:
        raise OSError(errno.ENOSPC, "no room")

    bench.node._children = list  # type: ignore[method-assign]
    bench.node._lock.set_children = full  # type: ignore[method-assign, assignment]
    bench.node._on_children_changed()
    assert cast(Future, bench.node._ended).error is None
