"""The catalog as a machine: which nodes, which groups, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import catalog
from actors.catalog import CatalogMachine, group_name_error
from actors.machines import Context, Response
from transport.protocol import ReadRequest, WriteRequest

MEMBERS = [("n2", 22), ("n1", 11)]
ADDRESSES = {
    name: f"tcp://10.0.0.1:{port}" for name, port in zip(catalog.ADDRESSES, (1, 2, 3), strict=True)
}


class Replica:
    def __init__(self) -> None:
        self.machine = CatalogMachine(MEMBERS)
        self.index = 0
        self.events: list[tuple[str, dict[str, Any]]] = []

    def write(self, operation: str, key: str, values: object) -> Response:
        return self.write_raw(operation, key, msgpack.packb(values))

    def write_raw(self, operation: str, key: str, data: bytes) -> Response:
        self.index += 1
        request = WriteRequest(operation=operation, key=key, data=data)
        return self.machine.apply(request, Context(self.index, 0, 1, self._emit))

    def _emit(self, kind: str, values: Mapping[str, Any]) -> None:
        self.events.append((kind, dict(values)))

    def register(self, node: str, incarnation: object, **addresses: object) -> Response:
        values = {"incarnation": incarnation, **ADDRESSES, **addresses}
        return self.write("REGISTER_NODE", node, values)

    def create(self, name: str, machine: object = "kv") -> Response:
        return self.write("CREATE_GROUP", name, {"machine": machine})

    def read(self, what: str) -> Any:
        response = self.machine.read(ReadRequest(data=what.encode()))
        assert response.success, response.error
        return json.loads(response.data)[what]


@pytest.fixture
def replica() -> Replica:
    return Replica()


def refused(response: Response) -> str:
    assert not response.success
    return response.error


def created(response: Response) -> tuple[int, bool]:
    assert response.success, response.error
    answer = msgpack.unpackb(response.data)
    return answer["id"], answer["created"]


# --------------------------------------------------------------------------- groups


def test_a_group_gets_the_index_of_its_entry_as_id_and_all_nodes_as_members(
    replica: Replica,
) -> None:
    replica.index = 6
    assert created(replica.create("orders")) == (7, True)
    pairs = [["n1", 11], ["n2", 22]]
    group = {"id": 7, "name": "orders", "machine": "kv", "learners": [], "version": 7}
    assert replica.events == [("group", {**group, "members": pairs, "founders": pairs})]
    shown = [["n1", f"{11:016x}"], ["n2", f"{22:016x}"]]
    assert replica.read("groups") == [{**group, "members": shown, "founders": shown}]


def test_creating_what_is_there_already_is_no_error_and_no_event(replica: Replica) -> None:
    assert created(replica.create("orders")) == (1, True)
    assert created(replica.create("orders")) == (1, False)
    assert len(replica.events) == 1


def test_the_same_name_with_another_machine_is_refused(replica: Replica) -> None:
    replica.create("orders")
    assert "exists with machine kv" in refused(replica.create("orders", "pack.mod:Class"))


@pytest.mark.parametrize("name", ["", "a b", "ä", "a/b", "a\n", "x" * 129, "_mine", "_system"])
def test_what_is_no_name_of_a_user_group_is_refused(replica: Replica, name: str) -> None:
    assert group_name_error(name)
    assert len(refused(replica.create(name))) < 250
    assert replica.read("groups") == []


@pytest.mark.parametrize("name", ["a", "x" * 128, "A-z.0_9", "-", "..", "9"])
def test_names_of_user_groups(replica: Replica, name: str) -> None:
    assert group_name_error(name) is None
    assert created(replica.create(name)) == (1, True)


@pytest.mark.parametrize("machine", ["", None, 5, b"kv", "m" * 257])
def test_a_machine_kind_must_be_there(replica: Replica, machine: object) -> None:
    assert "machine kind" in refused(replica.create("orders", machine))


def test_there_is_a_most_of_groups(replica: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "GROUPS_MAX", 2)
    replica.create("a")
    replica.create("b")
    assert "2 groups already" in refused(replica.create("c"))
    assert created(replica.create("b")) == (2, False)


# --------------------------------------------------------------------------- nodes


def test_nodes_are_there_from_the_beginning_without_addresses(replica: Replica) -> None:
    nothing = dict.fromkeys(catalog.ADDRESSES)
    nothing |= {"awaits": False, "awaited": None, "past": [], "removed": False, "version": 0}
    assert replica.read("nodes") == [
        {"id": "n1", "incarnation": f"{11:016x}", **nothing},
        {"id": "n2", "incarnation": f"{22:016x}", **nothing},
    ]


def test_a_node_that_registers_is_found_at_its_addresses(replica: Replica) -> None:
    assert replica.register("n1", 11).success
    row = replica.read("nodes")[0]
    assert {**row, "id": "n1", "incarnation": f"{11:016x}", **ADDRESSES, "version": 1} == row
    assert [kind for kind, _ in replica.events] == ["node"]


def test_registering_again_says_something_only_when_an_address_changed(replica: Replica) -> None:
    replica.register("n1", 11)
    replica.register("n1", 11)
    assert len(replica.events) == 1
    replica.register("n1", 11, client="tcp://10.0.0.9:1")
    assert len(replica.events) == 2
    assert replica.read("nodes")[0]["client"] == "tcp://10.0.0.9:1"


def test_a_new_disk_under_an_old_name_does_not_register(replica: Replica) -> None:
    """Pitfall 20."""
    assert "the disk of n1 is new" in refused(replica.register("n1", 12))
    assert replica.read("nodes")[0]["client"] is None


@pytest.mark.parametrize("incarnation", ["11", None, -1, 11.5])
def test_an_incarnation_of_another_type_is_no_incarnation(
    replica: Replica, incarnation: object
) -> None:
    refused(replica.register("n1", incarnation))


def test_who_is_no_member_does_not_register(replica: Replica) -> None:
    assert "no member" in refused(replica.register("n3", 33))


@pytest.mark.parametrize("address", [None, 7, b"tcp://1.2.3.4:5", "x" * 257])
def test_an_address_is_a_text_of_sensible_length(replica: Replica, address: object) -> None:
    assert "peer address" in refused(replica.register("n1", 11, peer=address))


# --------------------------------------------------------------------------- all the rest


@pytest.mark.parametrize("what", ["", "node", "groups ", "status"])
def test_reads_of_anything_else_are_refused(replica: Replica, what: str) -> None:
    assert "nodes, groups" in refused(replica.machine.read(ReadRequest(data=what.encode())))


def test_an_unknown_operation_is_refused_by_name(replica: Replica) -> None:
    assert "'PUT'" in refused(replica.write("PUT", "a", {}))


READS = (b"nodes", b"groups", b"[]")


@given(st.binary(max_size=40))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    replica = Replica()
    assert not replica.write_raw("CREATE_GROUP", "a", data).success
    assert not replica.write_raw("REGISTER_NODE", "n1", data).success
    assert replica.machine.read(ReadRequest(data=data)).success == (data in READS)


def test_the_table_is_what_the_events_add_up_to(replica: Replica) -> None:
    replica.create("a")
    replica.register("n2", 22)
    replica.create("b")
    replica.create("a")
    table = {"nodes": {"n1": Replica().machine.table()["nodes"][0]}, "groups": {}}
    for kind, values in replica.events:
        table[f"{kind}s"][values["id"]] = values
    assert list(table["groups"].values()) == replica.machine.table()["groups"]
    assert list(table["nodes"].values()) == replica.machine.table()["nodes"]


def test_a_table_that_was_given_away_does_not_change_any_more(replica: Replica) -> None:
    replica.register("n1", 11)
    _, event = replica.events[0]
    replica.register("n1", 11, client="tcp://10.0.0.9:1")
    assert event["client"] == ADDRESSES["client"]


def test_the_digest_tells_states_apart_and_nothing_else() -> None:
    one, two = Replica(), Replica()
    assert one.machine.digest() == two.machine.digest()
    one.create("a")
    assert one.machine.digest() != two.machine.digest()
    two.create("a")
    assert one.machine.digest() == two.machine.digest()
    one.register("n1", 11)
    one.create("b")
    two.create("b")  # at another index: another id
    two.register("n1", 11)
    assert one.machine.digest() != two.machine.digest()


def test_of_the_names_asked_for_those_that_exist_are_answered(replica: Replica) -> None:
    replica.write("CREATE_GROUP", "kv", {"machine": "kv"})
    answer = replica.machine.read(ReadRequest(data=b'["kv", "none", "_system"]'))
    assert json.loads(answer.data) == ["kv"]


# --------------------------------------------------------------------------- snapshots


def snapshot_of(replica: Replica) -> list[bytes]:
    chunks: list[bytes] = []
    replica.machine.snapshot().write(chunks.append)
    return chunks


def test_a_snapshot_brings_everything_back(replica: Replica) -> None:
    replica.create("b")
    replica.register("n2", 22)
    replica.create("a")
    other = Replica()
    other.create("to be forgotten")
    other.machine.restore(iter(snapshot_of(replica)), 1)
    assert other.machine.digest() == replica.machine.digest()
    assert other.machine.table() == replica.machine.table()
    assert [each["name"] for each in other.read("groups")] == ["b", "a"]
    assert snapshot_of(other) == snapshot_of(replica)
    other.index = replica.index
    assert replica.create("c").data == other.create("c").data, "it goes on alike"


def test_a_view_is_of_its_moment(replica: Replica) -> None:
    replica.register("n1", 11)
    view, expected = replica.machine.snapshot(), snapshot_of(replica)
    replica.register("n1", 11, client="tcp://10.0.0.9:1")
    replica.create("late")
    chunks: list[bytes] = []
    view.write(chunks.append)
    assert chunks == expected


def test_many_groups_are_several_chunks_and_any_cut_of_them_will_do(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "SNAPSHOT_CHUNK_BYTES", 500)
    for number in range(100):
        replica.create(f"group-{number}")
    chunks = snapshot_of(replica)
    assert len(chunks) >= 10
    assert max(map(len, chunks)) < 700
    other = Replica()
    whole = b"".join(chunks)
    other.machine.restore(iter([whole[at : at + 7] for at in range(0, len(whole), 7)]), 1)
    assert other.machine.table() == replica.machine.table()


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        [b"\x01"],
        [msgpack.packb([2, 0, 0])],
        [msgpack.packb([1, 0])],
        [msgpack.packb([1, 1, 0])],
        [msgpack.packb([1, 0, 0]), msgpack.packb({"id": 5})],
        [msgpack.packb([1, 0, 1]), msgpack.packb({"id": 5})],
    ],
)
def test_what_is_no_whole_snapshot_is_refused_and_changes_nothing(
    replica: Replica, damaged: list[bytes]
) -> None:
    replica.create("a")
    before = replica.machine.digest()
    with pytest.raises((ValueError, KeyError)):
        replica.machine.restore(iter(damaged), 1)
    assert replica.machine.digest() == before
