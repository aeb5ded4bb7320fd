"""A backup is made while everything runs, and becomes a group of a cluster that never knew it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.harness import Cluster, Node, wait_until
from tests.cluster.operator import ctl, done, refused
from tests.cluster.wire import shared_cluster, show_logs_of
from transport.client import Client

pytestmark = pytest.mark.cluster

MakeCluster = Callable[..., Cluster]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with shared_cluster(tmp_path_factory) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared: Cluster, request: pytest.FixtureRequest) -> Cluster:
    """One for all who leave it as it was."""
    show_logs_of(shared, request)
    return shared


class Load:
    """Writes one key after the other, from ``with`` to its end; ``acknowledged``: so many."""

    def __init__(self, cluster: Cluster) -> None:
        self._addresses = cluster.addresses
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged = 0

    def _run(self) -> None:
        with Client(self._addresses) as client:
            kv = client.kv("kv")
            while not self._ends.is_set():
                kv.put(f"k{self.acknowledged:06}", b"v%d" % self.acknowledged)
                self.acknowledged += 1

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()


def digest_of(node: Node, group: str) -> tuple[int, str]:
    found = wait_until(lambda: node.metadata(group), f"{node.name} says where it stands")
    assert found is not None
    return found["applied_index"], found["digest"]


def keys_of(cluster: Cluster, group: str) -> set[str]:
    found: set[str] = set()
    with Client(cluster.addresses) as client:
        kv, start = client.kv(group), ""
        while page := kv.range(start, None, limit=10_000):
            found.update(key for key, _ in page)
            start = page[-1][0] + "\0"
    return found


def test_a_follower_s_backup_under_load_becomes_a_group_of_another_cluster(
    make_cluster: MakeCluster, tmp_path: Path
) -> None:
    old = make_cluster()
    path = str(tmp_path / "kv.backup")
    with Load(old) as load:
        wait_until(lambda: load.acknowledged > 300, "there is something to back up")
        follower = old.followers("kv")[0]
        before = load.acknowledged
        made = done("backup", "kv", path, connect=[follower.client, *old.addresses])
        after = load.acknowledged
    assert made["node"] == follower.name
    assert done("backup-verify", path)["index"] == made["index"]
    assert after > before, "and writes went on meanwhile"
    # The same state once more, by the same replica, to hold the restored one against.
    old.wait_equal("kv")
    whole = str(tmp_path / "whole.backup")
    done("backup", "kv", whole, connect=[follower.client])
    index, digest = digest_of(follower, "kv")
    everything = keys_of(old, "kv")
    for node in old.nodes:
        node.stop()

    new = make_cluster(groups={})
    assert done("restore", path, connect=new.addresses)["index"] == made["index"]
    new.groups["kv"] = "kv"
    new.wait_serving()
    new.wait_equal("kv")
    found = keys_of(new, "kv")
    missing = {f"k{at:06}" for at in range(before)} - found
    assert not missing, "acknowledged before the backup, and not in it"
    assert found <= everything

    done("restore", whole, "--group", "kv-whole", connect=new.addresses)
    new.groups["kv-whole"] = "kv"
    new.wait_serving()
    new.wait_equal("kv-whole")
    assert keys_of(new, "kv-whole") == everything
    for node in new.nodes:
        applied, found_digest = digest_of(node, "kv-whole")
        assert applied > index, "behind it, the new leader's own first entry"
        assert found_digest == digest

    # It is a group like any other: it takes writes, and all of it survives.
    with Client(new.addresses) as client:
        client.kv("kv").put("new", b"value")
    for node in new.nodes:
        node.kill_all()
    new.start()
    assert keys_of(new, "kv") == found | {"new"}
    for node in new.nodes:
        node.stop()
        assert done("wal", "verify", str(node.data))["sound"] is True


def test_what_cannot_be_restored_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    with Client(cluster.addresses) as client:
        client.kv("kv").put("a", b"1")
    path = tmp_path / "kv.backup"
    done("backup", "kv", str(path), connect=cluster.addresses)
    assert "there is a group kv already" in refused("restore", str(path), connect=cluster.addresses)
    assert "there already" in refused("backup", "kv", str(path), connect=cluster.addresses)
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    where = cluster.addresses
    assert "offset" in refused("restore", str(path), "--group", "other", connect=where)
    assert not list(cluster.nodes[0].data.glob("groups/1/restores/*"))
    with Client(cluster.addresses) as client:
        groups = client.admin("_system", "groups")["groups"]
    assert [row["name"] for row in groups] == ["kv"]


def test_a_log_is_looked_into_when_its_node_is_stopped_and_not_before(
    cluster: Cluster,
) -> None:
    with Client(cluster.addresses) as client:
        client.kv("kv").put("a", b"1")
    node = cluster.nodes[0]
    assert "is locked by process" in refused("wal", "verify", str(node.data))
    node.kill_all()
    assert done("wal", "verify", str(node.data))["sound"] is True
    shown = ctl("wal", "dump", str(node.data), "--group", "kv", "--bodies").stdout
    assert "operation PUT  key a" in shown
    node.start()
    cluster.wait_serving()
