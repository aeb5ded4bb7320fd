"""Disks that are full, hang or err, under real nodes, while five clients work.

What holds whatever happens to them: nothing that was acknowledged is lost, nothing that was refused
is anywhere (:func:`tests.cluster.test_failures.under_load` looks), and everything goes on by itself
when the disk does.
"""

from __future__ import annotations

import contextlib
import itertools
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.runtime import MonotonicClock
from actors.settings import DiskSettings
from actors.space import DiskSpace
from raft.messages import HardState, Replica, Save
from raft.store.files import Files
from raft.store.wal import RecoveredGroup, Wal
from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.logs import check_logs
from tests.cluster.test_failures import under_load
from tests.cluster.volumes import Volume
from tests.cluster.workload import Workload
from tests.linearizability import check

pytestmark = pytest.mark.cluster

MIB = 1 << 20
VOLUME_BYTES = 64 * MIB
SOFT_LIMIT_BYTES = 8 * MIB
RESERVE_BYTES = 2 * MIB
LIMITS = [
    *("--disk-soft-limit-bytes", str(SOFT_LIMIT_BYTES)),
    *("--disk-reserve-bytes", str(RESERVE_BYTES)),
]
MakeDisks = Callable[..., tuple[Cluster, dict[str, Volume]]]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[contextlib.ExitStack]:
    """Unmounts when the cluster is gone: asked for before the cluster is made."""
    reason = Volume.why_not(tmp_path)
    if reason:
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def make_disks(
    mounted: contextlib.ExitStack, make_cluster: Callable[..., Cluster], tmp_path: Path
) -> MakeDisks:
    """A started cluster in which each node has a small file system of its own, by its name."""

    def make(*, image: bool = False) -> tuple[Cluster, dict[str, Volume]]:
        cluster = make_cluster(started=False)
        volumes = {}
        for node in cluster.nodes:
            node.arguments += LIMITS
            volume = Volume(node.data, size_bytes=VOLUME_BYTES, image=tmp_path if image else None)
            volumes[node.name] = mounted.enter_context(volume)
        cluster.start()
        for node in cluster.nodes:
            wait_until(lambda node=node: len(_reserves(node)) == 2, "the reserves are made")  # type: ignore[misc]
        return cluster, volumes

    return make


def _reserves(node: Node) -> list[Path]:
    return [
        path for path in node.data.glob("wal/*/reserve") if path.stat().st_size == RESERVE_BYTES
    ]


def state_of(node: Node) -> str | None:
    return (node.metadata("kv") or {}).get("state")


def restarts_of(cluster: Cluster) -> dict[tuple[str, str, int | None], int]:
    found = {}
    for node in cluster.running:
        status = wait_until(node.status, f"{node.name} answers")
        assert status is not None
        for row in status["processes"]:
            found[node.name, row["kind"], row["slot"]] = row["restarts"]
    return found


@contextlib.contextmanager
def under_refused_load(cluster: Cluster) -> Iterator[Workload]:
    """As ``under_load``, and writes may hear READ_ONLY."""
    with Workload(cluster.addresses, also_expected=("READ_ONLY",)) as workload:
        workload.wait_alive()
        yield workload
        workload.wait_alive()
        workload.stop()
    assert len(cluster.running) == len(cluster.nodes)
    cluster.wait_equal("kv")
    check(workload.history)
    cluster.close()
    check_logs(cluster, "kv", workload)
    for error in workload.refused.values():
        assert not error.maybe_applied, error


def wait_refused(workload: Workload, count: int = 20) -> str:
    """So many writes that were asked from now on are refused; what the last one was told."""
    before = set(workload.refused)

    def refused() -> list[str]:
        found = [
            str(error)
            for tag, error in list(workload.refused.items())
            if tag not in before and error.code == "READ_ONLY"
        ]
        return found if len(found) >= count else []

    return wait_until(refused, f"{count} writes are refused")[-1]


# --------------------------------------------------------------------------- a log alone


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_log_is_opened_again_and_again_on_a_disk_without_a_free_byte(
    mounted: contextlib.ExitStack, tmp_path: Path, kind: str
) -> None:
    """Without a node: what the reserve is worth on a real file system."""
    reason = Volume.why_not_frozen(tmp_path) if kind == "ext4" else ""
    if reason:
        pytest.skip(reason)
    image = tmp_path if kind == "ext4" else None
    volume = mounted.enter_context(Volume(tmp_path / "data", size_bytes=VOLUME_BYTES, image=image))
    files, directory = Files(), str(tmp_path / "data" / "wal" / "1")
    settings = DiskSettings(SOFT_LIMIT_BYTES, RESERVE_BYTES)
    ids = itertools.count(1)
    me = Replica("n1", 1)

    def start() -> tuple[DiskSpace, Wal, dict[int, RecoveredGroup]]:
        space = DiskSpace(files, directory, settings, MonotonicClock())
        opened = space.open(
            lambda: Wal.open(
                files, directory, slot=1, incarnation=me.incarnation, random_id=lambda: next(ids)
            )
        )
        return (space, *opened)

    space, wal, _ = start()
    while not space._reserve._is_whole:
        space.look()
    wal.add_group(7, 1, b"members")
    for term in range(1, 21):
        volume.fill()
        assert volume.free_bytes == 0
        wal.save(7, Save(term, HardState(term, me)))
        batch = wal.take_batch()
        assert batch is not None
        batch.run()
        wal.complete(batch)
        wal.close()
        volume.fill()
        space, wal, found = start()
        assert found[7].hard_state == HardState(term, me)
        assert space.refusal is not None
    assert (tmp_path / "data/wal/1/reserve").stat().st_size > 0
    volume.empty()
    space.look()
    assert space.take(space._judge.room)
    assert space.refusal is None
    wal.close()


# --------------------------------------------------------------------------- full


@pytest.mark.parametrize("leave_bytes", [4 * MIB, 0], ids=["below the limit", "to the brim"])
def test_all_disks_fill_up_and_are_emptied(make_disks: MakeDisks, leave_bytes: int) -> None:
    cluster, volumes = make_disks()
    before = restarts_of(cluster)
    with under_refused_load(cluster) as workload:
        for volume in volumes.values():
            volume.fill(leave_bytes)
        for node in cluster.nodes:
            wait_until(lambda node=node: state_of(node) == "read_only", f"{node.name} is full")  # type: ignore[misc]
        text = wait_refused(workload)
        for part in ("disk is full", "bytes free", str(SOFT_LIMIT_BYTES), "/wal/"):
            assert part in text, text
        why = cluster.nodes[0].why("kv") or {}
        assert (why["ok"], why["reason"]) == (False, "disk_full"), why
        assert "make room" in why["text"]
        acknowledged = len(workload.acknowledged)
        workload.wait_read(200)
        wait_refused(workload)
        assert len(workload.acknowledged) == acknowledged, "somebody wrote to a full disk"
        for volume in volumes.values():
            volume.empty()
        workload.wait_acknowledged()
        for node in cluster.nodes:
            wait_until(lambda node=node: state_of(node) == "running", f"{node.name} has room")  # type: ignore[misc]
            wait_until(lambda node=node: (node.why("kv") or {}).get("ok"), "and says so")  # type: ignore[misc]
        assert restarts_of(cluster) == before, "it needed no restart"


def test_while_one_disk_is_full_somebody_else_leads(make_disks: MakeDisks) -> None:
    cluster, volumes = make_disks()
    with under_refused_load(cluster) as workload:
        leader = cluster.leader("kv")
        volumes[leader.name].fill(2 * MIB)
        wait_until(lambda: state_of(leader) == "read_only", "its disk is full")
        wait_until(lambda: (cluster.leader_now("kv") or leader) is not leader, "it has handed over")
        workload.wait_acknowledged(200)
        assert (leader.why("kv") or {})["reason"] == "disk_full"
        for other in cluster.others(leader):
            assert (other.why("kv") or {})["ok"]
        volumes[leader.name].empty()
        wait_until(lambda: state_of(leader) == "running", "it has room")


def test_on_a_disk_without_a_free_byte_a_worker_starts_and_serves_reads(
    make_disks: MakeDisks,
) -> None:
    cluster, volumes = make_disks()
    with under_refused_load(cluster) as workload:
        for volume in volumes.values():
            volume.fill()
        wait_refused(workload)
        before = restarts_of(cluster)
        for life in (1, 2, 3):
            for node in cluster.nodes:
                # Before, not after: a start that gives up some of its reserve is to have it itself.
                volumes[node.name].fill()
                worker = node.worker_of("kv")
                worker.signal(signal.SIGKILL)
                wait_until(lambda worker=worker: not worker.is_alive(), "it is gone")  # type: ignore[misc]
                wait_until(
                    lambda node=node: state_of(node) == "read_only",  # type: ignore[misc]
                    f"{node.name} is back, and full",
                )
                volumes[node.name].fill()
            workload.wait_read(100)
            expected = {
                key: count + (life if key[1] == "worker" and key[2] == 1 else 0)
                for key, count in before.items()
            }
            assert restarts_of(cluster) == expected, "it is started once, not again and again"
        wait_refused(workload)
        for volume in volumes.values():
            volume.empty()


def test_a_snapshot_that_finds_no_room_fails_alone(make_disks: MakeDisks) -> None:
    cluster, volumes = make_disks()
    with under_refused_load(cluster) as workload:
        node = cluster.leader("kv")
        volumes[node.name].fill()
        wait_until(lambda: state_of(node) == "read_only", "its disk is full")
        worker = node.worker_of("kv")
        assert node.ask("kv", "doSnapshot", node.name) is None, "it has written a snapshot"
        wait_until(lambda: _failed_snapshots(node) > 0, "it has tried to")
        assert worker.is_alive()
        workload.wait_read(100)
        volumes[node.name].empty()
        wait_until(lambda: state_of(node) == "running", "it has room")
        wait_until(lambda: node.ask("kv", "doSnapshot", node.name), "now it can", deadline_s=20.0)


def _failed_snapshots(node: Node) -> int:
    counts: dict[str, Any] = (node.metadata("kv") or {}).get("counts") or {}
    return int(counts.get("snapshots", {}).get("failed", 0))


# --------------------------------------------------------------------------- hanging


def test_the_leaders_disk_hangs_and_goes_on(make_disks: MakeDisks, tmp_path: Path) -> None:
    reason = Volume.why_not_frozen(tmp_path)
    if reason:
        pytest.skip(reason)
    cluster, volumes = make_disks(image=True)
    with under_load(cluster) as workload:
        leader = cluster.leader("kv")
        before = restarts_of(cluster)
        with volumes[leader.name].frozen():
            wait_until(
                lambda: (cluster.leader_now("kv") or leader) is not leader, "another one leads"
            )
            workload.wait_acknowledged(100)
            text = wait_until(lambda: _stall_in(leader), f"{leader.name} says what it waits for")
            assert f"the disk of {leader.name} has not finished a sync for" in text
            workload.wait_acknowledged(100)
        wait_until(lambda: not _stall_in(leader), "its disk goes on")
        assert restarts_of(cluster) == before, "nobody had to be restarted"


def _stall_in(node: Node) -> str:
    text = str((node.why("kv") or {}).get("text", ""))
    return text if "not finished a sync" in text else ""


# --------------------------------------------------------------------------- erring


@pytest.mark.parametrize("of_leader", [True, False], ids=["of the leader", "of a follower"])
def test_a_write_that_fails_ends_the_worker_which_says_why_and_is_restarted(
    make_cluster: Callable[..., Cluster], of_leader: bool
) -> None:
    """The kernel refuses to write so far into a file: to the worker, a disk like any that errs."""
    cluster = make_cluster()
    with under_load(cluster) as workload:
        node = cluster.leader("kv") if of_leader else cluster.followers("kv")[0]
        worker = node.worker_of("kv")
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, 0))
        wait_until(lambda: not worker.is_alive(), "it has ended")
        workload.wait_acknowledged()
        wait_until(lambda: node.worker_of("kv") != worker, "it is restarted")
        wait_until(lambda: (node.why("kv") or {}).get("ok"), "its group is back")
        words = [line for line in node.log_tail().splitlines() if f"(pid {worker.pid})" in line]
        assert len(words) == 1, words
        for part in ("failed: ", "pwrite", "File too large", "Errno 27", "/wal/1/"):
            assert part in words[0], words[0]
        assert "Traceback" not in node.log_tail()
