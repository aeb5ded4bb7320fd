"""The node process without processes: formation, and bringing local groups into line.

Children, link and loop are toys; identity and placement are the real files, on a disk in memory.
"""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from actors import node as node_module
from actors import wire as kinds
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.catalog_members import group_row, node_row
from actors.config import NodeConfig
from actors.formation import Formation, cluster_id, members_hash
from actors.known_nodes import KnownNodes
from actors.local_groups import SYSTEM_SLOT, free_slot
from actors.machines.registry import DECLARED
from actors.node import Node, _shown
from actors.node_data import NodeRefused
from raft.messages import Replica
from raft.store.identity import DataLock, NodeIdentity
from raft.store.memory import MemoryFiles
from raft.store.placement import REJOINING, PlacedGroup, Placement
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
        self.node.spawn = self._task  # type: ignore[method-assign]
        self.node._admission._spawn = self._task
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

    def nodes(self, *rows: dict[str, Any]) -> None:
        self.frame(kinds.CATALOG, {"nodes": list(rows), "groups": []})

    def group(self, version: int, *members: tuple[str, int]) -> None:
        """Group 5, founded by n1, n2 and n3, and these are wanted."""
        founders = [[f"n{at}", 11 * at] for at in (1, 2, 3)]
        row = group_row(5, "g5", "kv", founders)
        row |= {"members": [list(pair) for pair in members], "version": version}
        self.frame(kinds.CATALOG, {"nodes": [], "groups": [row]})

    def placed_group(self, group: int) -> PlacedGroup:
        return Placement.load(self.files, "/data").groups[group]

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
    bench.frame(kinds.CATALOG_CURRENT)
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
    start = bench.node.start_worker

    def started(slot: int) -> None:
        seen.append(bench.placed())
        start(slot)

    bench.node.start_worker = started  # type: ignore[method-assign]
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


def test_a_worker_that_has_not_heard_which_group_was_left_is_told_again() -> None:
    """RELOAD found no router."""
    bench = formed()
    bench.catalog(5)
    bench.born(5)
    bench.node._groups._forget(5)
    bench.link.frames.clear()
    bench.frame(kinds.WORKER, 1, 100, True, [5])
    assert bench.link.of(kinds.RELOAD) == [[1]]
    bench.frame(kinds.WORKER, 1, 100, True, [])
    assert bench.link.of(kinds.RELOAD) == [[1]]


def test_a_worker_in_which_a_life_that_is_over_still_runs_is_told_again() -> None:
    """A replica that was given up runs until RELOAD, and that found no router."""
    bench = formed()
    bench.catalog(5)
    bench.born(5)
    begins = replace(bench.placed_group(5), life=1, generation=2, options={REJOINING: True})
    bench.node.place({**bench.node._placement.groups, 5: begins})
    bench.link.frames.clear()
    bench.frame(kinds.WORKER, 1, 100, True, [5])
    assert bench.link.of(kinds.RELOAD) == [[1]]
    bench.frame(kinds.REPLICAS, [[5, 1, kinds.BEGUN, ""]])
    bench.link.frames.clear()
    bench.frame(kinds.WORKER, 1, 100, True, [5])
    assert bench.link.of(kinds.RELOAD) == []


def test_a_worker_that_has_what_was_left_and_came_back_elsewhere_is_told_again() -> None:
    """RELOAD of the leaving found no router; the next life is in another slot."""
    bench = formed()
    bench.catalog(5)
    bench.born(5)
    elsewhere = replace(bench.placed_group(5), slot=2, life=1, generation=2, options={})
    bench.node.place({**bench.node._placement.groups, 5: elsewhere})
    bench.link.frames.clear()
    bench.frame(kinds.WORKER, 1, 100, True, [5])
    assert bench.link.of(kinds.RELOAD) == [[1]]


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


def test_a_node_that_starts_on_a_full_disk_marks_what_was_declared_another_time() -> None:
    bench = formed()
    bench.catalog(5)
    node, (kind,) = bench.node, {bench.placed_group(5).machine}
    node._placing.place({5: replace(bench.placed_group(5), options={})})
    node._config = replace(node._config, groups={"g5": kind})
    bench.files.fail("pwrite", errno.ENOSPC, path="placement.new")
    node._mark_declared()
    assert DECLARED not in bench.placed_group(5).options
    node._mark_declared()
    assert bench.placed_group(5).options[DECLARED]


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


# --------------------------------------------------------------------------- replaced disks

OLD_PAIRS = [["n1", 99], ["n2", 22], ["n3", 33]]
OLD_CLUSTER = cluster_id([(node, incarnation) for node, incarnation in OLD_PAIRS])  # type: ignore[misc]


def told(node: str, incarnation: int, version: int, *, awaits: bool = False) -> list[Any]:
    """A row of HELLO."""
    return [node, incarnation, version, ["tcp://c:1", f"tcp://{node}:2", ""], awaits, False]


def test_a_new_disk_waits_while_it_is_awaited_and_comes_in_when_it_is_in_the_catalog() -> None:
    bench = Bench()
    bench.welcome()
    rest = [told("n2", 222, 7), told("n3", 33, 0)]
    awaited = [told("n1", 99, 8, awaits=True), *rest]
    bench.hello("n2", 222, OLD_CLUSTER, OLD_PAIRS, awaited)
    assert bench.error() == "None"
    assert "taken in" in str(bench.link.of(kinds.STATE)[-1][0]["forming"])
    begin = len(bench.files.operations)
    bench.hello("n2", 222, OLD_CLUSTER, OLD_PAIRS, [told("n1", 11, 9), *rest])
    assert bench.node._identity.cluster == OLD_CLUSTER.hex()
    renames = [each[2] for each in bench.files.operations[begin:] if each[0] == "rename"]
    names = [str(each).rsplit("/", 1)[1] for each in renames]
    assert names == ["nodes", "placement", "node.json"], "who it may speak to comes first"
    system = bench.placed_group(SYSTEM_GROUP_ID)
    assert [list(each) for each in system.members] == OLD_PAIRS, "it is no founder"
    rows = {row[0]: row[1] for row in bench.link.of(kinds.NODES)[-1][0]}
    assert rows == {"n1": 11, "n2": 222, "n3": 33}
    assert bench.declared == ["_declare"]


def test_one_that_is_behind_does_not_send_a_new_disk_away_that_another_one_awaits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(bench.node._loop, "call_later", lambda _, what, *__: later.append(what))
    bench.welcome()
    bench.hello("n3", 33, OLD_CLUSTER, OLD_PAIRS)
    bench.hello("n2", 22, OLD_CLUSTER, OLD_PAIRS, [told("n1", 99, 8, awaits=True)])
    for what in later:
        what()
    assert bench.error() == "None"
    bench.hello("n2", 22, OLD_CLUSTER, OLD_PAIRS, [told("n1", 99, 8)])
    for what in later[1:]:
        what()
    assert "the disk of n1 is new" in bench.error()


def test_a_member_has_the_catalog_take_in_the_new_disk_that_is_awaited_and_no_other() -> None:
    bench = formed()
    bench.declared.clear()
    addresses = {"client": "tcp://c:1", "peer": "tcp://p:1", "events": "tcp://e:1"}
    bench.frame(kinds.CANDIDATE, "n2", 222, addresses)
    assert bench.declared == []
    bench.nodes({**node_row("n2", 22, 8), "awaits": True})
    bench.frame(kinds.CANDIDATE, "n3", 222, addresses)
    assert bench.declared == []
    for _ in range(2):
        bench.frame(kinds.CANDIDATE, "n2", 222, addresses)
    assert bench.declared == ["_admit"]


def test_the_old_disk_ends_when_it_hears_that_it_was_replaced() -> None:
    """Pitfall 20: it never votes again, for it never runs again."""
    bench = formed()
    cluster = bytes.fromhex(str(bench.node._identity.cluster))
    bench.hello("n2", 22, b"x" * 16, [], [told("n1", 111, 9)])
    assert bench.error() == "None", "of another cluster"
    bench.hello("n2", 22, cluster, [], [told("n1", 111, 9)])
    assert "the disk of n1 was replaced by another one" in bench.error()


def test_what_is_known_of_nodes_outlives_the_process() -> None:
    bench = formed()
    bench.nodes(node_row("n2", 222, 9))
    again = Bench(bench.files)
    again.welcome()
    rows = {row[0]: (row[1], row[3]) for row in again.link.of(kinds.NODES)[-1][0]}
    assert rows == {"n1": (11, 0), "n2": (222, 9), "n3": (33, 0)}
    again.nodes(node_row("n2", 22, 3))
    rows = {row[0]: (row[1], row[3]) for row in again.link.of(kinds.NODES)[-1][0]}
    assert rows["n2"] == (222, 9), "an older word is no news"


def test_what_is_known_of_nodes_is_written_down_when_a_full_disk_has_room_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No later news of them may ever come."""
    bench = formed()
    later: list[Callable[[], None]] = []
    monkeypatch.setattr(bench.node._loop, "call_later", lambda _, what, *__: later.append(what))
    bench.files.fail("pwrite", errno.ENOSPC, path="nodes.new", times=3)
    bench.nodes(node_row("n2", 222, 9))
    bench.nodes(node_row("n3", 333, 10))
    reloads = len(bench.link.of(kinds.RELOAD))

    def on_disk() -> dict[str, int]:
        known = KnownNodes.load(bench.files, "/data", lambda again: None)
        return {node: row["incarnation"] for node, row in known.rows.items()}

    for _ in range(2):
        assert on_disk() == {}
        (retry,) = later
        later.clear()
        retry()
    assert on_disk() == {"n1": 11, "n2": 222, "n3": 333}
    assert later == []
    assert len(bench.link.of(kinds.RELOAD)) == reloads, "which is no matter of the workers"


# --------------------------------------------------------------------------- members


def test_a_newcomer_s_log_begins_with_the_founders_to_whom_it_does_not_belong() -> None:
    bench = formed()
    bench.declared.clear()
    row = group_row(5, "g5", "kv", [["n2", 22], ["n3", 33]])
    bench.frame(kinds.CATALOG, {"nodes": [], "groups": [row]})
    assert bench.placed() == {SYSTEM_GROUP_ID: 0}
    row |= {"members": [["n1", 11], *row["founders"]], "version": 9}
    bench.frame(kinds.CATALOG, {"nodes": [], "groups": [row]})
    assert bench.placed_group(5).members == (Replica("n2", 22), Replica("n3", 33))
    assert bench.declared == ["_join"]


def test_a_group_that_is_not_wanted_here_any_more_is_asked_for_and_not_dropped() -> None:
    bench = formed()
    bench.group(5, ("n1", 11), ("n2", 22), ("n3", 33))
    bench.declared.clear()
    bench.group(9, ("n2", 22), ("n3", 33))
    assert bench.declared == ["_leave"]
    assert "left" not in bench.placed_group(5).options
    bench.group(9, ("n2", 22), ("n3", 33))
    assert bench.declared == ["_leave"], "once at a time"


def test_who_comes_back_to_a_group_comes_as_its_next_life() -> None:
    bench = formed()
    bench.group(5, ("n1", 11), ("n2", 22), ("n3", 33))
    bench.group(9, ("n2", 22), ("n3", 33))
    bench.node._groups._forget(5)
    left = bench.placed_group(5)
    assert (left.life, left.generation, dict(left.options)) == (0, 1, {"left": 9})
    assert bench.link.of(kinds.RELOAD)[-1] == [left.slot]
    bench.group(5, ("n1", 11), ("n2", 22), ("n3", 33))
    bench = Bench(bench.files)
    bench.welcome()
    bench.frame(kinds.CATALOG_CURRENT)
    bench.group(5, ("n1", 11), ("n2", 22), ("n3", 33))
    assert bench.placed_group(5) == left, "what was wanted once is no news, also after a restart"
    bench.group(12, ("n1", 11), ("n2", 22))
    back = bench.placed_group(5)
    assert (back.life, back.generation, dict(back.options)) == (1, 2, {})


def test_nothing_is_done_before_the_catalog_has_caught_up() -> None:
    """Its log is applied anew, from the beginning, and tells what was wanted once."""
    bench = formed()
    bench.group(9, ("n1", 11), ("n2", 22))
    again = Bench(bench.files)
    again.welcome()
    again.frame(kinds.WORKER, 1, 100, True, [5])
    again.group(6, ("n2", 22), ("n3", 33))
    assert again.link.of(kinds.DESIRED) == []
    assert "_leave" not in again.declared
    again.group(9, ("n1", 11), ("n2", 22))
    again.frame(kinds.CATALOG_CURRENT)
    wanted = [row for _, rows in again.link.of(kinds.DESIRED) for row in rows if row[0] == 5]
    assert wanted == [[5, 9, [["n1", 11], ["n2", 22]], []]]
    assert "_leave" not in again.declared


def test_all_nodes_are_wanted_in_the_catalog_s_own_group() -> None:
    bench = formed()
    assert bench.link.of(kinds.DESIRED) == [], "nothing was ever changed"
    bench.nodes(node_row("n4", 44, 9))
    (row,) = bench.link.of(kinds.DESIRED)[-1][1]
    members = [["n1", 11], ["n2", 22], ["n3", 33], ["n4", 44]]
    assert row == [SYSTEM_GROUP_ID, 9, members, []]
    bench.nodes({**node_row("n2", 22, 12), "removed": True})
    (row,) = bench.link.of(kinds.DESIRED)[-1][1]
    assert row[1:3] == [12, [members[0], members[2], members[3]]]


def test_a_node_that_was_removed_leaves_before_it_ends() -> None:
    """Its vote may be needed for the change that removes it."""
    bench = formed()
    bench.declared.clear()
    bench.nodes({**node_row("n1", 11, 12), "removed": True})
    assert bench.declared == ["_leave"]
    assert bench.error() == "None"


def test_a_node_starts_without_what_its_children_alone_need() -> None:
    """Imports are most of the time of a start."""
    code = "import sys, actors.node; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "actors.node" in loaded
    assert not loaded & {"zmq", "actors.router", "actors.worker", "transport.client"}
