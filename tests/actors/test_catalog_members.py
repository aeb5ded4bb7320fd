"""The catalog's word on members and disks: what is wanted, and what is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from actors import catalog_members as module
from actors.machines import Response
from tests.actors.test_catalog import ADDRESSES, Replica, refused, snapshot_of

N1, N2, N3 = ["n1", 11], ["n2", 22], ["n3", 33]


@pytest.fixture
def replica() -> Replica:
    """Nodes n1 and n2, registered, with a group each of them has a replica of."""
    it = Replica()
    it.register("n1", 11)
    it.register("n2", 22)
    it.create("kv")
    it.events.clear()
    return it


def group(replica: Replica, name: str = "kv") -> dict[str, Any]:
    return replica.machine.groups[name]


def want(replica: Replica, voters: object, learners: object = (), **more: object) -> Response:
    values = {"voters": voters, "learners": list(learners), **more}  # type: ignore[call-overload]
    return replica.write("SET_MEMBERS", "kv", values)


def admit(replica: Replica, node: str, incarnation: object, **more: object) -> Response:
    return replica.write("ADMIT_NODE", node, {"incarnation": incarnation, **ADDRESSES, **more})


def replace(replica: Replica, node: str) -> None:
    assert replica.write("REPLACE_NODE", node, {}).success


# --------------------------------------------------------------------------- members


def test_what_is_wanted_changes_and_the_founders_stay(replica: Replica) -> None:
    answer = msgpack.unpackb(want(replica, ["n1"], ["n2"]).data)
    version = replica.index
    assert answer == {
        "voters": [["n1", f"{11:016x}"]],
        "learners": [["n2", f"{22:016x}"]],
        "version": version,
    }
    row = group(replica)
    assert (row["members"], row["learners"], row["version"]) == ([N1], [N2], version)
    assert row["founders"] == [N1, N2]
    assert [kind for kind, _ in replica.events] == ["group"]


def test_wanting_what_is_wanted_already_changes_nothing(replica: Replica) -> None:
    before = replica.machine.digest()
    assert want(replica, ["n2", "n1", "n1"]).success
    assert replica.events == []
    assert replica.machine.digest() == before


@pytest.mark.parametrize(
    ("voters", "learners", "text"),
    [
        ([], [], "at least one"),
        (None, [], "at least one"),
        ([1], [], "at least one"),
        (["n1"], ["n1"], "at once"),
        (["n1", "n9"], [], "'n9' is no node"),
        ([f"n{at}" for at in range(65)], [], "at most 64"),
    ],
)
def test_members_that_cannot_be_are_refused(
    replica: Replica, voters: object, learners: list[str], text: str
) -> None:
    before = replica.machine.digest()
    assert text in refused(want(replica, voters, learners))
    assert replica.machine.digest() == before


def test_a_group_that_is_not_there_has_no_members(replica: Replica) -> None:
    for name in ("none", "_system"):
        response = replica.write("SET_MEMBERS", name, {"voters": ["n1"]})
        assert "there is no group" in refused(response)


def test_who_takes_something_back_does_not_undo_what_came_after_it(replica: Replica) -> None:
    want(replica, ["n1"])
    version = replica.index
    want(replica, ["n2"])
    assert "changed meanwhile" in refused(want(replica, ["n1", "n2"], if_version=version))
    assert want(replica, ["n1", "n2"], if_version=replica.index - 1).success


def test_a_node_without_an_address_or_whose_disk_is_awaited_gets_no_new_replica() -> None:
    replica = Replica()
    replica.register("n1", 11)
    replica.create("kv")
    want(replica, ["n1"])
    assert "address of n2 is not known" in refused(want(replica, ["n1", "n2"]))
    replica.register("n2", 22)
    replace(replica, "n2")
    assert "n2 is to be replaced" in refused(want(replica, ["n1", "n2"]))


# --------------------------------------------------------------------------- disks


def test_a_new_disk_takes_the_place_of_the_old_one_in_all_that_is_wanted_at_once(
    replica: Replica,
) -> None:
    replica.create("other")
    want(replica, ["n1"], ["n2"])
    replace(replica, "n2")
    replica.events.clear()
    assert admit(replica, "n2", 222).success
    index = replica.index
    assert group(replica)["learners"] == [["n2", 222]]
    assert group(replica, "other")["members"] == [N1, ["n2", 222]]
    assert group(replica, "other")["founders"] == [N1, N2]
    assert {group(replica, name)["version"] for name in ("kv", "other")} == {index}
    row = replica.machine.nodes["n2"]
    assert (row["incarnation"], row["past"], row["awaits"]) == (222, [22], False)
    assert sorted(kind for kind, _ in replica.events) == ["group", "group", "node"]
    assert module.system_members(replica.machine.nodes) == [N1, ["n2", 222]]
    assert module.system_version(replica.machine.nodes) == index


def test_of_several_new_disks_under_one_name_the_one_that_was_named_is_taken_in(
    replica: Replica,
) -> None:
    def named(incarnation: object) -> Response:
        return replica.write("REPLACE_NODE", "n2", {"incarnation": incarnation})

    assert "no number" in refused(named("222"))
    assert "no number" in refused(named(-1))
    assert "not a new one" in refused(named(22))
    assert named(222).success
    assert replica.read("nodes")[1]["awaited"] == f"{222:016x}"
    assert refused(admit(replica, "n2", 333)) == f"another disk of n2 is awaited, {222:016x}"
    assert named(333).success, "on second thoughts"
    assert "another disk" in refused(admit(replica, "n2", 222))
    assert admit(replica, "n2", 333).success
    row = replica.machine.nodes["n2"]
    assert (row["incarnation"], row["awaits"], row["awaited"]) == (333, False, 0)
    replace(replica, "n2")
    assert "not a new one" in refused(named(22)), "it was replaced"
    assert admit(replica, "n2", 444).success, "whichever comes first"


def test_a_disk_is_taken_in_once_and_the_old_one_never_again(replica: Replica) -> None:
    """Pitfall 20."""
    assert "replace the node" in refused(admit(replica, "n2", 222))
    replace(replica, "n2")
    replace(replica, "n2")
    assert admit(replica, "n2", 222).success
    replica.events.clear()
    assert admit(replica, "n2", 222).success
    assert replica.events == [], "who heard the blank disk too finds it there"
    assert "replace the node" in refused(admit(replica, "n2", 223)), "only once"
    replace(replica, "n2")
    assert "can never be used again" in refused(admit(replica, "n2", 22))
    assert "the disk of n2 is new" in refused(replica.register("n2", 22))


@pytest.mark.parametrize("incarnation", [None, 0, -1, "222"])
def test_a_disk_has_an_incarnation(replica: Replica, incarnation: object) -> None:
    replace(replica, "n2")
    assert "incarnation is missing" in refused(admit(replica, "n2", incarnation))


def test_only_nodes_of_the_cluster_are_replaced_or_removed(replica: Replica) -> None:
    for operation in ("REPLACE_NODE", "REMOVE_NODE"):
        assert "no node of this cluster" in refused(replica.write(operation, "n9", {}))
    assert "no member" in refused(admit(replica, "n9", 99))


def test_a_node_without_replicas_is_removed_and_comes_back_as_another_disk_only(
    replica: Replica,
) -> None:
    assert "replicas of kv; remove those" in refused(replica.write("REMOVE_NODE", "n2", {}))
    want(replica, ["n1"])
    for _ in range(2):
        assert replica.write("REMOVE_NODE", "n2", {}).success
    assert module.system_members(replica.machine.nodes) == [N1]
    assert [it["id"] for it in replica.read("nodes")] == ["n1"]
    assert "no member" in refused(replica.register("n2", 22))
    assert "never be used again" in refused(admit(replica, "n2", 22, joins=True))
    assert admit(replica, "n2", 222, joins=True).success
    assert module.system_members(replica.machine.nodes) == [N1, ["n2", 222]]
    replica.create("late")
    assert group(replica, "late")["members"] == [N1, ["n2", 222]]


def test_the_last_node_stays() -> None:
    replica = Replica()
    assert replica.write("REMOVE_NODE", "n2", {}).success
    assert "only node" in refused(replica.write("REMOVE_NODE", "n1", {}))


def test_a_new_node_joins(replica: Replica) -> None:
    assert admit(replica, "n3", 33, joins=True).success
    assert module.system_members(replica.machine.nodes) == [N1, N2, N3]
    assert group(replica)["members"] == [N1, N2], "groups are not moved to it by that"
    assert want(replica, ["n1", "n2", "n3"]).success


def test_there_is_a_most_of_nodes(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NODES_MAX", 2)
    assert "2 nodes already" in refused(admit(replica, "n3", 33, joins=True))


@pytest.mark.parametrize("name", ["", "a b", "x" * 129])
def test_a_node_that_joins_has_a_name(replica: Replica, name: str) -> None:
    assert "no node id" in refused(admit(replica, name, 33, joins=True))


# --------------------------------------------------------------------------- snapshots


def test_a_snapshot_of_an_earlier_version_has_what_it_did_not_know_of(replica: Replica) -> None:
    old_node = {"id": "n1", "incarnation": 11, **ADDRESSES}
    old_group = {"id": 3, "name": "kv", "machine": "kv", "members": [N1, N2]}
    chunks = [msgpack.packb(it) for it in ([1, 1, 1], old_node, old_group)]
    replica.machine.restore(iter(chunks), 1)
    assert replica.machine.nodes["n1"] == {**module.node_row("n1", 11), **ADDRESSES}
    assert group(replica)["founders"] == [N1, N2]
    assert group(replica)["version"] == 3


def test_all_of_it_is_in_a_snapshot(replica: Replica) -> None:
    want(replica, ["n1"], ["n2"])
    replace(replica, "n2")
    admit(replica, "n2", 222)
    other = Replica()
    other.machine.restore(iter(snapshot_of(replica)), 1)
    assert other.machine.table() == replica.machine.table()
    assert other.machine.digest() == replica.machine.digest()
