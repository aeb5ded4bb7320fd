"""The worker without a process: its link is a list, its disk in memory, its loop a toy."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from actors import hosting
from actors import wire as kinds
from actors import worker as worker_module
from actors.catalog import SYSTEM_GROUP, SYSTEM_GROUP_ID
from actors.group_messages import SendPeers, actor_name
from actors.hosting import WHY_LEFT, WHY_OVER
from actors.runtime import VirtualClock
from actors.settings import DiskSettings, SnapshotSettings
from actors.worker import Worker
from actors.worker_arguments import WorkerArguments
from raft.configuration import Configuration
from raft.lives import replica_of
from raft.messages import (
    COMMAND,
    CONFIG,
    Append,
    AppendReply,
    ClockAnomaly,
    HardState,
    Heartbeat,
    HeartbeatReply,
    PeerMessage,
    PreVote,
    Replica,
    Run,
    Save,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReply,
)
from raft.settings import RaftSettings
from raft.store.memory import MemoryFiles
from raft.store.placement import BORN, LEFT, PlacedGroup, Placement
from raft.store.records import DAMAGED
from raft.store.runs import encode_run
from raft.store.wal import Batch
from tests.actors.cluster import batch_of, put
from transport import peer_codec, protocol
from transport.client import wire
from transport.frames import pack_link, unpack_link
from transport.links import LinkProtocol

ME = Replica("n1", 0x11)
N2, N3 = Replica("n2", 0x22), Replica("n3", 0x33)
KV, OTHER = 7, 8
ROUTER_EPOCH = 77


class Loop:
    """What the worker asks of an event loop; :meth:`turn` does it."""

    def __init__(self) -> None:
        self.soon: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.later: list[float] = []

    def create_future(self) -> object:
        return object()

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.soon.append((callback, arguments))

    call_soon_threadsafe = call_soon

    def call_later(self, delay_s: float, callback: Callable[..., None], *_: Any) -> Loop:
        self.later.append(delay_s)
        return self

    def cancel(self) -> None:
        """As the handle of a timer."""

    def turn(self) -> None:
        for _ in range(100):
            soon, self.soon = self.soon, []
            if not soon:
                return
            for callback, arguments in soon:
                callback(*arguments)
        raise AssertionError("the loop does not come to rest")


class Disk:
    """Stands for the disk thread: batches wait for :meth:`Bench.sync`."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    def submit(self, batch: Batch) -> None:
        self.batches.append(batch)

    def beside(self, work: Callable[[], None] | None) -> None:
        if work is not None:
            with contextlib.suppress(OSError):
                work()


class Threads:
    """Stands for the threads of snapshots: work waits for :meth:`Bench.work`."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[[], object], Callable[[object], None], bool]] = []

    def submit(
        self, work: Callable[[], object], on_done: Callable[[object], None], *, long: bool
    ) -> None:
        self.waiting.append((work, on_done, long))


class Link:
    """The router's end: every frame that was sent, and in which lane."""

    def __init__(self) -> None:
        self.frames: list[list[Any]] = []
        self.control: list[bool] = []
        self.full = False
        self.aborted = False
        self.queued_bytes = 0

    def send(self, data: bytes, *, control: bool = False) -> bool:
        if self.full:
            return False
        self.frames.append(unpack_link(data))
        self.control.append(control)
        return True

    def abort(self) -> None:
        self.aborted = True

    def of(self, kind: int) -> list[list[Any]]:
        return [frame[3:] for frame in self.frames if frame[0] == kind]


class Bench:
    """A worker of n1 with some groups; started, its first batch on disk."""

    def __init__(
        self,
        *groups: int,
        files: MemoryFiles | None = None,
        members: tuple[Replica, ...] = (ME,),
        synced: bool = True,
        raft: RaftSettings | None = None,
        disk: DiskSettings | None = None,
        keep: bool = False,  # the placement as it is
        **options: Any,
    ) -> None:
        self.files = files or MemoryFiles()
        self.members = members
        if files is None:
            self.files.mkdir("/data")
        if not keep:
            self.place(*groups or (KV,), **options)
        self.loop = Loop()
        arguments = WorkerArguments(
            slot=1,
            data="/data",
            node=ME.node,
            incarnation=ME.incarnation,
            router_socket="/nowhere",
            client_address="tcp://n1:7001",
            raft=raft or RaftSettings(),
            sync=True,
            log_level="info",
            disk=disk or DiskSettings(),
        )
        self.worker = worker = Worker(arguments, cast(asyncio.AbstractEventLoop, self.loop))
        worker._files = self.files
        self.disk = worker._disk = Disk()  # type: ignore[assignment]
        self.threads = worker._threads = Threads()  # type: ignore[assignment]
        worker._open_wal()
        worker._load_groups()
        worker._turn()
        self.loop.turn()
        if synced:
            self.sync()
        self.link = Link()

    def place(self, *groups: int, **options: Any) -> None:
        placement = Placement.load(self.files, "/data")
        wanted = {
            group: PlacedGroup(1, 1, name_of(group), "kv", self.members, dict(options))
            for group in groups
        }
        if not wanted.items() <= placement.groups.items():
            placement.replace({**placement.groups, **wanted})

    def sync(self) -> None:
        """The disk finishes, and the node process writes down who is born, until all is done."""
        for _ in range(100):
            self.sync_disk()
            if not self.bear():
                return
        raise AssertionError("it is born again and again")

    def sync_disk(self) -> None:
        """The disk finishes, again and again until it has nothing."""
        while self.disk.batches:
            batch = self.disk.batches.pop(0)
            batch.run()
            self.worker._on_disk_done(batch, None)
            self.loop.turn()

    def bear(self) -> bool:
        """What the node process does about REPLICAS; whether there was anything to do."""
        placement = Placement.load(self.files, "/data")
        groups = placement.groups
        born = {
            group: replace(groups[group], options={**groups[group].options, BORN: True})
            for group, _, what, _ in self.worker._hosting.births.rows()
            if what == kinds.BEGUN
        }
        if born:
            placement.replace({**groups, **born})
            self.worker._on_reload([])
            self.loop.turn()
            self.worker._turn()  # whose time has come at once: who votes alone
            self.loop.turn()
        return bool(born)

    def work(self) -> None:
        """So do the threads of snapshots, and the disk after them."""
        while self.threads.waiting:
            work, on_done, _ = self.threads.waiting.pop(0)
            on_done(work())
            self.loop.turn()
            self.sync()

    def connect(self) -> Link:
        self.link = Link()
        self.worker._on_connected(cast(LinkProtocol, self.link))
        self.loop.turn()
        return self.link

    def welcome(self, epoch: int = ROUTER_EPOCH) -> None:
        self.frame(kinds.WELCOME, "n1", {}, epoch=epoch)

    def join(self) -> Link:
        link = self.connect()
        self.welcome()
        return link

    def frame(
        self, kind: int, *fields: Any, epoch: int = ROUTER_EPOCH, to_epoch: int | None = None
    ) -> None:
        to_epoch = self.worker._epoch if to_epoch is None else to_epoch
        data = pack_link(kind, epoch, to_epoch, *fields)
        self.worker._on_frames(cast(LinkProtocol, self.link), [data])
        self.loop.turn()

    def request(self, *items: Any) -> None:
        self.frame(kinds.REQUESTS, list(items))

    def peer(self, sender: Replica, *messages: PeerMessage, group: int = KV) -> None:
        flat = [each for it in messages for each in (group, peer_codec.encode(it))]
        self.frame(kinds.PEER_IN, [sender.node, sender.incarnation, flat])

    def replies(self) -> dict[int, int]:
        """Token -> code, of all rounds."""
        found = {}
        for _, replies, _ in self.link.of(kinds.ROUND):
            for token, payload in zip(replies[::2], replies[1::2], strict=True):
                found[token] = wire.decode_replies(payload, 1)[0].code
        return found

    def hand_backs(self) -> list[Any]:
        return [each for _, _, hand_backs in self.link.of(kinds.ROUND) for each in hand_backs]


def name_of(group: int) -> str:
    return SYSTEM_GROUP if group == SYSTEM_GROUP_ID else f"group-{group}"


def write(token: int, group: int = KV) -> list[Any]:
    return [token, group, 500, protocol.RIGHTS_ALL, batch_of(put("a"))]


# --------------------------------------------------------------------------- requests and rounds


def test_requests_of_a_frame_reach_their_groups_and_leave_as_one_round() -> None:
    bench = Bench(KV, OTHER)
    link = bench.join()
    bench.request(*write(1), *write(2, OTHER), *write(3))
    assert bench.replies() == {}, "nothing is on disk yet"
    assert len(bench.disk.batches) == 1, "one batch for all groups"
    bench.sync()
    assert bench.replies() == {1: protocol.OK, 2: protocol.OK, 3: protocol.OK}
    assert len(link.of(kinds.ROUND)) == 1
    assert bench.worker._scheduler.statistics().dead_letters.get("no_actor", 0) == 0


def test_while_a_batch_is_unsynced_the_next_gathers() -> None:
    bench = Bench()
    bench.join()
    for token in range(1, 5):
        bench.request(*write(token))
    assert len(bench.disk.batches) == 1
    first = bench.disk.batches.pop()
    first.run()
    bench.worker._on_disk_done(first, None)
    bench.loop.turn()
    assert bench.replies() == {1: protocol.OK}
    assert len(bench.disk.batches) == 1
    bench.sync()
    assert bench.replies().keys() == {1, 2, 3, 4}


def test_a_message_for_a_group_that_is_not_here_is_handed_back() -> None:
    bench = Bench()
    bench.join()
    bench.request(*write(1, 99))
    assert bench.hand_backs() == [1, None, 0, "the group does not run here"]
    assert bench.worker.counts["unknown_group"] == 1


def test_a_full_mailbox_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosting, "GROUP_MAILBOX_MESSAGES_MAX", 1)
    bench = Bench()
    bench.join()
    batch = [pack_link(kinds.REQUESTS, ROUTER_EPOCH, bench.worker._epoch, write(t)) for t in (1, 2)]
    bench.worker._on_frames(cast(LinkProtocol, bench.link), batch)
    bench.loop.turn()
    bench.sync()
    assert bench.replies() == {1: protocol.OK, 2: protocol.BUSY}


def test_a_router_that_does_not_read_is_cut_off() -> None:
    bench = Bench()
    link = bench.join()
    bench.request(*write(1))
    link.full = True
    bench.sync()
    assert link.aborted


def test_answers_without_a_router_are_dropped_not_kept_for_the_next_one() -> None:
    bench = Bench()
    bench.join()
    bench.request(*write(1))
    bench.worker._on_link_lost(cast(LinkProtocol, bench.link), None)
    bench.sync()
    link = bench.connect()
    bench.welcome(epoch=88)
    assert link.of(kinds.ROUND) == []


# --------------------------------------------------------------------------- epochs, HELLO


def test_frames_of_another_epoch_are_dropped_and_counted() -> None:
    """Pitfall 55: meant for an earlier life of one of the two."""
    bench = Bench()
    bench.join()
    bench.frame(kinds.REQUESTS, write(1), to_epoch=bench.worker._epoch ^ 2)
    bench.frame(kinds.REQUESTS, write(2), epoch=ROUTER_EPOCH + 1)
    bench.worker._on_frames(cast(LinkProtocol, bench.link), [b"\xc1 nonsense"])
    bench.sync()
    assert bench.replies() == {}
    assert bench.worker.counts["bad_frames"] == 3


def test_hello_names_the_groups_that_are_born() -> None:
    bench = Bench(KV, OTHER)
    link = bench.connect()
    ((role, slot, _pid, rows),) = link.of(kinds.HELLO)
    assert (role, slot) == ("worker", 1)
    assert {group: summary["role"] for group, summary in rows} == {KV: "leader", OTHER: "leader"}
    assert link.control == [True]


def test_a_group_is_shown_to_nobody_before_its_first_record_is_on_disk() -> None:
    """From then on a missing log is a loss, and never again a beginning (pitfall 20)."""
    bench = Bench(synced=False)
    link = bench.join()
    ((_, _, _, rows),) = link.of(kinds.HELLO)
    assert rows == []
    assert link.of(kinds.SUMMARIES) == []
    bench.sync()
    assert {group for (rows,) in link.of(kinds.SUMMARIES) for group, _ in rows} == {KV}


def test_what_changes_between_hello_and_welcome_is_told_after_welcome() -> None:
    bench = Bench(synced=False)
    link = bench.connect()
    bench.sync()  # born, elected and ready, with nobody welcome yet
    assert link.of(kinds.SUMMARIES) == []
    bench.welcome()
    ((rows,),) = link.of(kinds.SUMMARIES)
    assert [(group, summary["role"]) for group, summary in rows] == [(KV, "leader")]


def test_groups_share_the_memory_of_their_logs_also_with_those_that_come_later() -> None:
    def shares(bench: Bench) -> set[int]:
        return {actor.log_memory._bytes_max for actor in bench.worker._groups.values()}

    settings = SnapshotSettings()
    bench = Bench(*range(10, 20))
    assert shares(bench) == {settings.log_memory_worker_bytes // 10}
    bench.join()
    bench.place(*range(20, 30))
    bench.frame(kinds.RELOAD)
    bench.sync()
    assert shares(bench) == {settings.log_memory_worker_bytes // 20}


def test_a_group_placed_later_is_opened_by_reload_and_told_when_born() -> None:
    bench = Bench()
    link = bench.join()
    bench.place(OTHER)
    bench.frame(kinds.RELOAD)
    assert link.of(kinds.REPLICAS) == []
    bench.sync_disk()
    assert link.of(kinds.REPLICAS) == [[[[OTHER, 0, kinds.BEGUN, ""]]]]
    bench.worker._on_timer()
    assert OTHER not in bench.worker._groups
    assert link.of(kinds.SUMMARIES) == []
    bench.sync()
    assert {group for (rows,) in link.of(kinds.SUMMARIES) for group, _ in rows} == {OTHER}
    bench.request(*write(1, OTHER))
    bench.sync()
    assert bench.replies() == {1: protocol.OK}


def test_a_group_that_this_node_has_left_is_let_go_of_and_may_come_back_as_another_life() -> None:
    bench = Bench(KV, OTHER)
    bench.join()
    bench.request(*write(1), *write(2, OTHER))
    bench.sync()
    bench.place(KV, **{BORN: True, LEFT: 9})
    bench.frame(kinds.RELOAD)
    bench.worker._turn()
    bench.sync()
    assert set(bench.worker._groups) == {OTHER}
    gseq = bench.worker._wal._groups[KV].gseq
    bench.files.kill()
    again = Bench(KV, OTHER, files=bench.files, keep=True)
    assert set(again.worker._groups) == {OTHER}
    log = again.worker._wal._groups[KV]
    assert log.gseq == gseq, "it is not said twice"
    assert (log.live_bytes, log.damaged) == (log.fixed[DAMAGED][1], WHY_LEFT)
    placement = Placement.load(again.files, "/data")
    back = PlacedGroup(1, 2, name_of(KV), "kv", (ME,), {}, 1)
    placement.replace({**placement.groups, KV: back})
    again.frame(kinds.RELOAD)
    again.worker._turn()
    again.sync()
    assert set(again.worker._groups) == {KV, OTHER}
    assert again.worker._groups[KV].core.last_index == 0


@pytest.mark.parametrize("failing", ["listdir", "unlink"])
def test_snapshots_of_a_group_that_was_left_may_stay_where_the_disk_refuses(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other groups of the worker are not concerned, now or at its next start."""
    bench = Bench(KV, OTHER)
    for directory in ("/data/groups", f"/data/groups/{KV}", f"/data/groups/{KV}/snapshots"):
        bench.files.mkdir(directory)
    name = f"{1:016x}-{1:016x}-{7:08x}"
    for suffix in (".snapshot", ".writing"):
        bench.files.put(f"{directory}/{name}{suffix}", b"of a replica that left")
    do = getattr(MemoryFiles, failing)

    def refuse(files: MemoryFiles, path: str) -> Any:
        if path.startswith(directory):
            raise OSError(errno.EIO, "it is old", path)
        return do(files, path)

    monkeypatch.setattr(MemoryFiles, failing, refuse)
    bench.place(KV, **{BORN: True, LEFT: 9})
    bench.frame(kinds.RELOAD)
    bench.worker._turn()
    bench.work()
    assert set(bench.worker._groups) == {OTHER}
    bench.files.kill()
    again = Bench(files=bench.files, keep=True)
    again.work()
    assert set(again.worker._groups) == {OTHER}


@pytest.mark.parametrize("slot", [1, 2])
def test_snapshots_of_a_life_that_has_come_are_not_removed_for_one_that_left(slot: int) -> None:
    """The thread that removes them was busy until then; all lives of a group have one directory."""
    bench = Bench(KV, OTHER)
    bench.place(KV, **{BORN: True, LEFT: 9})
    bench.frame(kinds.RELOAD)
    bench.worker._turn()
    placement = Placement.load(bench.files, "/data")
    back = PlacedGroup(slot, 2, name_of(KV), "kv", (ME,), {}, 1)
    placement.replace({**placement.groups, KV: back})
    for directory in ("/data/groups", f"/data/groups/{KV}", f"/data/groups/{KV}/snapshots"):
        bench.files.mkdir(directory)
    path = f"{directory}/{1:016x}-{1:016x}-{7:08x}.snapshot"
    bench.files.put(path, b"of the life that has come")
    bench.work()
    assert bench.files.exists(path)


def test_a_group_that_was_left_and_wanted_again_before_the_worker_heard_is_another_life() -> None:
    bench = Bench(KV, OTHER)
    bench.join()
    bench.request(*write(1), *write(2, OTHER))
    bench.sync()
    placement = Placement.load(bench.files, "/data")
    back = {
        KV: PlacedGroup(1, 2, name_of(KV), "kv", (ME,), {}, 1),
        OTHER: PlacedGroup(2, 2, name_of(OTHER), "kv", (ME,), {}, 1),  # in another slot
    }
    placement.replace({**placement.groups, **back})
    bench.frame(kinds.RELOAD)
    bench.worker._turn()
    bench.sync()
    assert set(bench.worker._groups) == {KV}
    core = bench.worker._groups[KV].core
    assert (core.me, core.last_index) == (replica_of(ME, KV, 1), 0)
    assert bench.worker._wal._groups[OTHER].damaged == WHY_OVER


# --------------------------------------------------------------------------- lives


def test_after_the_death_of_the_process_everything_answered_is_there() -> None:
    bench = Bench()
    bench.join()
    bench.request(*write(1))
    bench.sync()
    bench.files.kill()
    again = Bench(files=bench.files)
    again.join()
    query = batch_of(wire.encode_read(b"\x81\xa4size\xc3"))
    again.request(1, KV, 500, 7, query)
    again.sync()
    ((_, (_, payload), _),) = again.link.of(kinds.ROUND)
    assert wire.decode_replies(payload, 1)[0].data == b"\x01"


def test_a_replica_that_was_born_and_has_no_log_never_votes_again() -> None:
    """Pitfall 19, 20: it says why, and the groups beside it run."""
    files = MemoryFiles()
    files.mkdir("/data")
    bench = Bench(KV, files=files, born=True)
    bench.place(OTHER)
    bench.worker._load_groups()
    bench.worker._turn()
    bench.sync()
    bench.link = bench.join()
    ((_, _, _, rows),) = bench.link.of(kinds.HELLO)
    told = dict(rows)
    assert told[KV]["state"] == "damaged"
    assert "must be replaced" in told[KV]["error"]
    assert told[KV].keys() == told[OTHER].keys()
    assert told[OTHER]["state"] == "running"
    bench.request(*write(1))
    assert bench.hand_backs() == [1, None, 0, "the group does not run here"]


# --------------------------------------------------------------------------- peers


def of_three() -> tuple[Bench, Link]:
    bench = Bench(members=(ME, N2, N3))
    return bench, bench.join()


def test_votes_and_heartbeats_leave_in_the_control_lane_and_appends_in_bulk() -> None:
    bench, link = of_three()
    bench.peer(N2, Heartbeat(N2, ME, 1, 0, 5))
    bench.sync()
    (items,) = [frame[0] for frame in link.of(kinds.PEER_CONTROL)][-1:]
    assert items[:3] == [N2.node, N2.incarnation, KV]
    assert peer_codec.decode(items[3], ME, N2) == HeartbeatReply(ME, N2, 1, 5)
    assert link.of(kinds.ROUND) == []
    assert link.control[-1]


def test_what_peers_say_that_cannot_be_is_counted_and_dropped_and_the_rest_is_heard() -> None:
    bench, link = of_three()
    good = encode_run(COMMAND, 1, 1, time_ms=1, wall_ms=1, commands=[(0, 0, 0, b"x")])
    bad = Run(good.kind, 1, 1, 1, good.body, good.crc ^ 1)
    flat = [KV, b"\xc1", KV, peer_codec.encode(Append(N2, ME, 1, 0, 0, 0, [bad]))]
    flat += [99, peer_codec.encode(Heartbeat(N2, ME, 9, 0, 1))]  # no such group
    flat += [KV, peer_codec.encode(Heartbeat(N2, ME, 1, 0, 5))]
    bench.frame(kinds.PEER_IN, [N2.node, N2.incarnation, flat])
    bench.sync()
    assert bench.worker.counts["bad_frames"] == 1
    assert bench.worker.counts["bad_runs"] == 1
    core = bench.worker._groups[KV].core
    assert (core.last_index, core.term) == (0, 1)
    assert len(link.of(kinds.PEER_CONTROL)) == 1


def test_the_incarnation_of_a_sender_is_what_its_header_said() -> None:
    """Pitfall 21: another disk of n2 is another replica, and no member."""
    bench, _ = of_three()
    stranger = Replica("n2", 0x99)
    bench.peer(stranger, HeartbeatReply(stranger, ME, 9, 1))
    bench.sync()
    assert bench.worker._groups[KV].core.term == 0


def test_a_closed_link_is_told_to_every_group() -> None:
    bench, link = of_three()
    bench.peer(N2, Heartbeat(N2, ME, 1, 0, 5))
    bench.sync()
    core = bench.worker._groups[KV].core
    far_ms = core.next_deadline()
    bench.frame(kinds.LINK_CLOSED, "n2")
    assert core.next_deadline() < far_ms
    del link


def test_a_pre_vote_is_answered_at_once_without_the_disk() -> None:
    bench, link = of_three()
    bench.peer(N2, PreVote(N2, ME, 1, 0, 0))
    assert len(link.of(kinds.PEER_CONTROL)) == 1
    assert bench.disk.batches == []


# --------------------------------------------------------------------------- questions, the end


def test_a_question_is_answered_with_a_row_per_group() -> None:
    bench = Bench(KV, OTHER)
    link = bench.join()
    bench.frame(kinds.DESCRIBE, 5, [KV, 99])
    bench.frame(kinds.DESCRIBE, 6, [])  # what they share alone
    bench.frame(kinds.DESCRIBE, 7, [99])
    answers = {}
    for query, rows, shared in link.of(kinds.DESCRIBED):
        answers[query] = [group for group, _ in rows]
        assert shared["disk"]["path"] == "/data/wal/1"
        assert (shared["log"]["segments"], shared["log"]["tidying_stopped"]) == (1, None)
        assert 0 < shared["log"]["live_bytes"] < shared["log"]["bytes"]
    assert {query: sorted(groups) for query, groups in answers.items()} == {
        5: [KV],
        6: [],
        7: [],
    }
    assert bench.worker._describing._questions == {}


def test_a_draining_worker_says_so_when_nothing_is_under_way() -> None:
    bench = Bench()
    link = bench.join()
    bench.request(*write(1))
    bench.frame(kinds.DRAIN)
    assert link.of(kinds.DRAINED) == []
    bench.request(*write(2))
    bench.sync()
    assert bench.replies() == {1: protocol.OK, 2: protocol.SHUTTING_DOWN}
    bench.worker._watch_drain(0)
    assert link.of(kinds.DRAINED) == [[1]]


def test_the_catalog_is_told_whole_to_every_router_and_its_news_as_they_come() -> None:
    bench = Bench(SYSTEM_GROUP_ID)
    link = bench.join()
    ((table,),) = link.of(kinds.CATALOG)
    assert [node["id"] for node in table["nodes"]] == ["n1"]
    assert table["groups"] == []
    create = batch_of(wire.encode_admin("createGroup", "kv", {"machine": "kv"}))
    bench.request(1, SYSTEM_GROUP_ID, 500, 7, create)
    bench.sync()
    _, (news,) = link.of(kinds.CATALOG)
    assert [group["name"] for group in news["groups"]] == ["kv"]


def test_the_timer_of_the_loop_follows_the_earliest_deadline() -> None:
    bench, _ = of_three()
    assert bench.loop.later
    settings = RaftSettings()
    assert 0 <= bench.loop.later[0] <= 2 * settings.election_timeout_ms / 1_000


# --------------------------------------------------------------------------- snapshots


def snapshot(token: int, group: int = KV) -> list[Any]:
    return [token, group, 500, protocol.RIGHTS_ALL, batch_of(wire.encode_admin("doSnapshot", ""))]


SIZE = batch_of(wire.encode_read(b"\x81\xa4size\xc3"))


def with_snapshot(*groups: int) -> Bench:
    """A worker whose groups have one key each, and a snapshot of it."""
    bench = Bench(*groups or (KV,))
    bench.join()
    for token, group in enumerate(groups or (KV,)):
        bench.request(*write(2 * token, group))
        bench.sync()
        bench.request(*snapshot(2 * token + 1, group))
        bench.work()
    assert set(bench.replies().values()) == {protocol.OK}
    return bench


def test_a_restart_begins_with_the_snapshot_and_goes_on_behind_it() -> None:
    bench = with_snapshot(KV, OTHER)
    bench.request(*write(9))
    bench.sync()
    bench.files.kill()
    again = Bench(KV, OTHER, files=bench.files)
    again.join()
    again.request(1, KV, 500, 7, SIZE)
    again.sync()
    assert again.replies() == {}, "its machine is not what it was yet"
    assert [long for _, _, long in again.threads.waiting] == [False, False, True, True]
    again.work()
    assert again.replies() == {1: protocol.OK}
    assert again.worker._groups[KV].snapshots.index == 2
    assert again.files.listdir("/data/groups/7/snapshots") == bench.files.listdir(
        "/data/groups/7/snapshots"
    )


def test_while_it_is_being_restored_a_group_is_starting() -> None:
    bench = with_snapshot()
    bench.files.kill()
    again = Bench(files=bench.files)
    link = again.connect()
    ((_, _, _, rows),) = link.of(kinds.HELLO)
    assert dict(rows)[KV]["state"] == "starting"
    again.welcome()
    again.work()
    told = [summary for (rows,) in link.of(kinds.SUMMARIES) for _, summary in rows]
    assert told[-1]["state"] == "running"


def test_in_place_of_a_missing_snapshot_the_whole_log_is_applied_again() -> None:
    bench = with_snapshot(KV, OTHER)
    (name,) = bench.files.listdir("/data/groups/7/snapshots")
    bench.files.unlink(f"/data/groups/7/snapshots/{name}")
    bench.files.kill()
    again = Bench(KV, OTHER, files=bench.files)
    again.join()
    again.work()
    states = {group: actor.summary()["state"] for group, actor in again.worker._groups.items()}
    assert states == {KV: "running", OTHER: "running"}
    assert again.worker._groups[KV].rebuild.counts == {"attempts": 1, "rebuilt": 1}
    assert again.worker._groups[KV].snapshots.index > 2, "and a new one is taken"
    again.request(*write(1), *write(2, OTHER))
    again.sync()
    assert again.replies() == {1: protocol.OK, 2: protocol.OK}


def test_a_catalog_that_was_restored_is_told_whole() -> None:
    """No entry has told of what came with the snapshot."""
    bench = Bench(SYSTEM_GROUP_ID)
    bench.join()
    create = batch_of(wire.encode_admin("createGroup", "kv", {"machine": "kv"}))
    bench.request(1, SYSTEM_GROUP_ID, 500, 7, create)
    bench.sync()
    bench.request(*snapshot(2, SYSTEM_GROUP_ID))
    bench.work()
    bench.files.kill()
    again = Bench(SYSTEM_GROUP_ID, files=bench.files)
    link = again.join()
    ((empty,),) = link.of(kinds.CATALOG)
    assert empty["groups"] == []
    again.work()
    _, (table,) = link.of(kinds.CATALOG)
    assert [group["name"] for group in table["groups"]] == ["kv"]


def test_chunks_of_a_snapshot_travel_with_appends_and_are_stored_and_answered() -> None:
    donor = with_snapshot()
    store = donor.worker._hosting.stores[KV]
    meta = donor.worker._groups[KV].core.snapshot
    assert meta is not None
    data = store.read_raw(meta, 0, meta.size_bytes)
    bench, link = of_three()
    bench.peer(N2, SnapshotChunk(N2, ME, 5, meta, 0, data[:60]))
    bench.sync()
    bench.work()
    (items,) = [frame[0] for frame in link.of(kinds.PEER_CONTROL)][-1:]
    reply = peer_codec.decode(items[3], ME, N2)
    assert reply == SnapshotReply(ME, N2, 5, meta.index, meta.term, 60)
    bench.peer(N2, SnapshotChunk(N2, ME, 5, meta, 60, data[60:]))
    bench.sync()
    bench.work()
    (items,) = [frame[0] for frame in link.of(kinds.PEER_CONTROL)][-1:]
    assert peer_codec.decode(items[3], ME, N2) == AppendReply(ME, N2, 5, meta.index)
    kv = bench.worker._scheduler.actor(f"machine/{KV}")
    donors = donor.worker._scheduler.actor(f"machine/{KV}")
    assert kv.applied_index == meta.index  # type: ignore[union-attr]
    assert kv.machine.digest() == donors.machine.digest()  # type: ignore[union-attr]


def test_a_chunk_leaves_in_the_bulk_lane() -> None:
    bench, link = of_three()
    meta = SnapshotMeta(9, 1, Configuration.of(ME, N2), 5, 1, 100, 7)
    chunk = SnapshotChunk(ME, N2, 1, meta, 0, b"x" * 50)
    bench.worker._carry_peers(SendPeers(KV, [chunk]), actor_name(KV))
    bench.worker._flush()
    ((items, _, _),) = link.of(kinds.ROUND)
    assert items[:3] == [N2.node, N2.incarnation, KV]
    assert peer_codec.decode(items[3], ME, N2) == chunk
    assert link.control[-1] is False


def test_a_configuration_of_a_newer_version_harms_its_own_group_alone() -> None:
    """Counting members otherwise than the others do could commit without a majority."""
    bench, _ = of_three()
    bench.place(OTHER)
    data = b"\x91\x93\xa2n1\x11\x09"  # [["n1", 0x11, 9]]: nobody knows that part
    run = encode_run(CONFIG, 1, 1, time_ms=1, wall_ms=1, commands=[(0, 0, 0, data)])
    bench.worker._wal.save(KV, Save(1, HardState(1, None), None, [run]))
    batch = bench.worker._wal.take_batch()
    assert batch is not None
    batch.run()
    bench.files.kill()
    again = Bench(KV, OTHER, files=bench.files, members=(ME, N2, N3))
    link = again.connect()
    ((_, _, _, rows),) = link.of(kinds.HELLO)
    told = dict(rows)
    assert told[KV]["state"] == "down"
    assert "part 9" in told[KV]["error"]
    assert told[OTHER]["state"] == "running"


def test_where_two_histories_of_a_group_meet_it_stops_alone_and_says_why() -> None:
    """After a reset while the majority lived, or a disk that came back from a backup."""
    bench, link = of_three()
    bench.place(OTHER)
    bench.frame(kinds.RELOAD)
    bench.sync()
    ours, theirs = (
        encode_run(COMMAND, term, 1, time_ms=1, wall_ms=1, commands=[(0, 0, 0, b"x")])
        for term in (1, 2)
    )
    bench.peer(N2, Append(N2, ME, 1, 0, 0, 1, [ours]))
    bench.sync()
    assert bench.worker._groups[KV].core.commit_index == 1
    said = len(link.frames)
    bench.peer(N3, Heartbeat(N3, ME, 2, 1, 1), Append(N3, ME, 2, 0, 0, 1, [theirs]))
    bench.sync()
    frames = [frame for frame in link.frames[said:] if frame[0] != kinds.SUMMARIES]
    promised = [peer_codec.decode(frame[3][3], ME, N3) for frame in frames]
    assert [each for each in promised if type(each) is AppendReply] == []
    ((group, summary),) = link.of(kinds.SUMMARIES)[-1][0]
    assert (group, summary["role"], summary["state"]) == (KV, "none", "damaged")
    assert "another entry at 1, which is committed here" in summary["error"]
    scheduler = bench.worker._scheduler
    assert [scheduler.actor(f"{it}/{KV}") for it in ("group", "machine")] == [None, None]
    bench.request(7, KV, 1_000, 0, b"")
    assert bench.hand_backs() == [7, None, 0, "the group does not run here"]
    bench.peer(N2, Heartbeat(N2, ME, 1, 0, 5), group=OTHER)
    bench.sync()
    assert bench.worker._groups[OTHER].core.term == 1
    bench.frame(kinds.RELOAD)
    assert KV not in bench.worker._groups, "not before the process is another"


def test_a_configuration_that_cannot_be_read_stops_its_own_group_alone() -> None:
    bench, link = of_three()
    data = b"\x91\x93\xa2n1\x11\x09"  # [["n1", 0x11, 9]]: nobody knows that part
    run = encode_run(CONFIG, 1, 1, time_ms=1, wall_ms=1, commands=[(0, 0, 0, data)])
    bench.peer(N2, Append(N2, ME, 1, 0, 0, 0, [run]))
    bench.sync()
    ((_, summary),) = link.of(kinds.SUMMARIES)[-1][0]
    assert summary["state"] == "down"
    assert "part 9" in summary["error"]
    bench.files.kill()
    again = Bench(files=bench.files, members=(ME, N2, N3))
    assert again.worker._groups[KV].core.last_index == 0, "nothing of it was written"


# --------------------------------------------------------------------------- clocks, the end


def test_lost_time_ends_the_leases_of_all_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 35."""
    boot_ms = [50_000]
    monkeypatch.setattr(worker_module, "boot_ms", lambda: boot_ms[0])
    told: list[tuple[str, object]] = []
    for lease_reads in (True, False):
        bench = Bench(KV, OTHER, raft=RaftSettings(lease_reads=lease_reads))
        bench.worker._clock = VirtualClock(1_000)  # type: ignore[assignment]
        bench.worker._clock_watch.look(1_000, 50_000, 0)
        bench.worker._timer.passed()
        bench.worker._watch_clocks()
        tell = bench.worker._scheduler.tell

        def listen(to: Any, message: object, control: bool = False, tell: Any = tell) -> bool:
            if isinstance(message, ClockAnomaly):
                told.append((to, control))
            return bool(tell(to, message, control))

        monkeypatch.setattr(bench.worker._scheduler, "tell", listen)
        monkeypatch.setattr(bench.worker._scheduler, "run_turn", lambda: False)
        boot_ms[0] += 5_000
        bench.worker._turn()
        if lease_reads:
            assert told == [(f"group/{KV}", True), (f"group/{OTHER}", True)]
            told.clear()
    assert told == [], "without leases nobody cares, and nobody looks"


def test_a_draining_leader_waits_for_somebody_else_to_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    link = bench.join()
    actor = bench.worker._groups[KV]
    monkeypatch.setattr(type(actor), "is_drained", property(lambda _: False))
    bench.frame(kinds.DRAIN)
    assert link.of(kinds.DRAINED) == []
    monkeypatch.setattr(type(actor), "is_drained", property(lambda _: True))
    bench.worker._watch_drain(1 << 60)
    assert link.of(kinds.DRAINED) == [[1]]


WAL = "/data/wal/1/0000000000000001.wal"


def two_logs() -> tuple[MemoryFiles, int]:
    """Both groups have a command in the log; where the one of KV is."""
    bench = Bench(KV, OTHER)
    bench.join()
    for group in (KV, OTHER):
        bench.request(group, group, 1_000, 7, batch_of(put(f"k{group}", b"value of %d" % group)))
        bench.sync()
    bench.files.kill()
    return bench.files, bench.files.content(WAL).index(b"value of 7")


def states_of(bench: Bench) -> dict[int, dict[str, Any]]:
    ((_, _, _, rows),) = bench.connect().of(kinds.HELLO)
    return dict(rows)


def test_damage_in_the_log_stops_the_group_that_lost_something_and_says_where() -> None:
    """Pitfall 45: the group beside it serves, and the one that is hit never votes again."""
    files, offset = two_logs()
    files.flip(WAL, offset)
    for _ in range(3):
        bench = Bench(KV, OTHER, files=files)
        told = states_of(bench)
        assert (told[KV]["state"], told[OTHER]["state"]) == ("damaged", "running")
        error = told[KV]["error"]
        assert f"(index 2) is lost: {WAL} at offset " in error
        assert "checksum" in error
        bench.welcome()
        bench.request(1, KV, 1_000, 7, batch_of(put("k", b"v")))
        assert bench.hand_backs() == [1, None, 0, "the group does not run here"]
        bench.request(2, OTHER, 1_000, 7, batch_of(put("k", b"v")))
        bench.sync()
        assert bench.replies() == {2: protocol.OK}
        files.kill()


def test_a_record_of_a_newer_version_stops_its_group_alone() -> None:
    files, _ = two_logs()
    bench = Bench(KV, OTHER, files=files)
    log = bench.worker._wal._groups[KV]
    bench.worker._wal._record(log, 100, body=b"of a newer version")
    bench.worker._write()
    bench.sync()
    files.kill()
    told = states_of(Bench(KV, OTHER, files=files))
    assert (told[KV]["state"], told[OTHER]["state"]) == ("down", "running")
    assert "a newer version of polyraft wrote this" in told[KV]["error"]
