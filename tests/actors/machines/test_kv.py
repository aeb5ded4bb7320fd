"""The built-in ``kv``: every operation, every refusal, and a naive model beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.machines import Context, Contexts, Response, View
from actors.machines import kv as kv_module
from actors.machines.kv import (
    ANSWER_BYTES_MAX,
    INT64_MAX,
    INT64_MIN,
    KEY_BYTES_MAX,
    RANGE_LIMIT_DEFAULT,
    RANGE_LIMIT_MAX,
    KeyValueMachine,
)

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Write:
    operation: str
    key: str
    data: bytes = b""
    group: str = ""
    type: str = ""
    extendInfo: Mapping[str, str] = field(default_factory=dict)  # noqa: N815 - as on the wire


@dataclass
class Query:
    data: bytes
    group: str = ""
    extendInfo: Mapping[str, str] = field(default_factory=dict)  # noqa: N815 - as on the wire


def no_events(kind: str, values: Mapping[str, Any]) -> NoReturn:
    raise AssertionError("kv has no events")


class Replica:
    """A machine and the index of the next entry."""

    def __init__(self) -> None:
        self.machine = KeyValueMachine()
        self.index = 0

    def write(self, operation: str, key: str, data: bytes = b"") -> Response:
        self.index += 1
        context = Context(self.index, 0, 1, no_events)
        return self.machine.apply(Write(operation, key, data), context)

    def put(self, key: str, value: bytes) -> Response:
        return self.write("PUT", key, value)

    def cas(self, key: str, expected: object, new: object) -> Response:
        return self.write("CAS", key, msgpack.packb([expected, new]))

    def add(self, key: str, amount: object) -> Response:
        return self.write("ADD", key, msgpack.packb(amount))

    def ask(self, query: object) -> Response:
        return self.machine.read(Query(msgpack.packb(query)))

    def get(self, key: str) -> Any:
        return answer(self.ask({"get": key}))

    def range(self, start: str = "", end: str | None = None, **more: object) -> Any:
        return answer(self.ask({"range": [start, end], **more}))

    @property
    def digest(self) -> bytes:
        return self.machine.digest()


def answer(response: Response) -> Any:
    assert response.success, response.error
    return msgpack.unpackb(response.data)


def refused(response: Response) -> str:
    assert not response.success, response.data
    assert response.data == b""
    assert response.error
    return response.error


@pytest.fixture
def kv() -> Replica:
    return Replica()


# --------------------------------------------------------------------------- writes


def test_a_put_is_read_with_the_index_of_its_write(kv: Replica) -> None:
    assert kv.put("a", b"1").data == b""
    assert kv.put("a", b"2").success
    assert kv.get("a") == {"value": b"2", "version": 2}
    assert kv.get("b") is None


def test_an_empty_value_is_a_value(kv: Replica) -> None:
    kv.put("a", b"")
    assert kv.get("a") == {"value": b"", "version": 1}


def test_deleting_what_is_absent_is_ok(kv: Replica) -> None:
    assert kv.write("DELETE", "a").success
    kv.put("a", b"1")
    assert kv.write("DELETE", "a").data == b""
    assert kv.get("a") is None
    assert answer(kv.ask({"size": True})) == 0


def test_cas_creates_replaces_and_deletes(kv: Replica) -> None:
    assert kv.cas("a", None, b"1").data == b""
    assert kv.get("a") == {"value": b"1", "version": 1}
    assert kv.cas("a", b"1", b"2").success
    assert kv.get("a") == {"value": b"2", "version": 2}
    assert kv.cas("a", b"2", None).success
    assert kv.get("a") is None
    assert kv.cas("a", None, None).success


def test_cas_on_another_value_is_refused_and_changes_nothing(kv: Replica) -> None:
    kv.put("a", b"1")
    before = kv.digest
    assert "differs" in refused(kv.cas("a", b"2", b"3"))
    assert "differs" in refused(kv.cas("a", None, b"3"))
    assert "differs" in refused(kv.cas("b", b"", b"3"))
    assert kv.get("a") == {"value": b"1", "version": 1}
    assert kv.digest == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb(None),
        msgpack.packb([b"1"]),
        msgpack.packb([b"1", b"2", b"3"]),
        msgpack.packb([b"1", "2"]),
        msgpack.packb([1, b"2"]),
        msgpack.packb([b"1", b"2"]) + b"\0",
    ],
)
def test_a_malformed_cas_is_refused(kv: Replica, data: bytes) -> None:
    assert "CAS" in refused(kv.write("CAS", "a", data))


def test_add_starts_at_zero_and_answers_the_new_value(kv: Replica) -> None:
    assert answer(kv.add("n", 5)) == 5
    assert answer(kv.add("n", -7)) == -2
    assert kv.get("n") == {"value": msgpack.packb(-2), "version": 2}


@pytest.mark.parametrize("amount", [INT64_MAX, INT64_MIN])
def test_add_reaches_the_ends_of_64_bits_but_not_beyond(kv: Replica, amount: int) -> None:
    assert answer(kv.add("n", amount)) == amount
    step = 1 if amount > 0 else -1
    assert "64 bits" in refused(kv.add("n", step))
    assert answer(kv.add("n", 0)) == amount


@pytest.mark.parametrize("amount", [True, 1.0, "1", b"1", None, [1], INT64_MAX + 1])
def test_add_of_no_integer_is_refused(kv: Replica, amount: object) -> None:
    assert "ADD" in refused(kv.add("n", amount))
    assert kv.get("n") is None


def test_add_without_msgpack_is_refused(kv: Replica) -> None:
    assert "ADD" in refused(kv.write("ADD", "n", b""))
    assert "ADD" in refused(kv.write("ADD", "n", b"\x01\x01"))


@pytest.mark.parametrize("value", [b"", b"text", msgpack.packb(1.5), msgpack.packb(INT64_MAX + 1)])
def test_add_to_a_value_that_is_no_integer_is_refused(kv: Replica, value: bytes) -> None:
    kv.put("n", value)
    assert "no integer" in refused(kv.add("n", 1))
    assert kv.get("n") == {"value": value, "version": 1}


@pytest.mark.parametrize("operation", ["PUT", "DELETE", "CAS", "ADD", "NOPE"])
def test_a_missing_or_overlong_key_is_refused(kv: Replica, operation: str) -> None:
    assert "missing" in refused(kv.write(operation, ""))
    assert str(KEY_BYTES_MAX) in refused(kv.write(operation, "k" * (KEY_BYTES_MAX + 1)))


def test_the_length_of_a_key_is_counted_in_bytes(kv: Replica) -> None:
    assert kv.put("k" * KEY_BYTES_MAX, b"1").success
    assert kv.put("é" * (KEY_BYTES_MAX // 2), b"1").success
    assert str(KEY_BYTES_MAX) in refused(kv.put("é" * (KEY_BYTES_MAX // 2 + 1), b"1"))
    assert str(KEY_BYTES_MAX) in refused(kv.put("𝄞" * (KEY_BYTES_MAX // 4) + "k", b"1"))


@pytest.mark.parametrize("operation", ["", "put", "INCREMENT", "x" * 10_000])
def test_an_unknown_operation_is_refused_by_name(kv: Replica, operation: str) -> None:
    error = refused(kv.write(operation, "a", b"1"))
    assert "unknown operation" in error
    assert len(error) < 200, "what a client sent is not repeated at any length"


# --------------------------------------------------------------------------- reads


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", msgpack.packb([1]), msgpack.packb({"get": "a"})[:-1]]
)
def test_a_read_that_is_no_map_is_refused(kv: Replica, data: bytes) -> None:
    assert "map" in refused(kv.machine.read(Query(data)))


@pytest.mark.parametrize("query", [{}, {"got": "a"}, {"Get": "a"}])
def test_a_read_of_nothing_known_is_refused(kv: Replica, query: object) -> None:
    assert "get, range, size" in refused(kv.ask(query))


@pytest.mark.parametrize("key", ["", b"a", 1, None, "k" * (KEY_BYTES_MAX + 1)])
def test_a_get_without_a_proper_key_is_refused(kv: Replica, key: object) -> None:
    refused(kv.ask({"get": key}))


def test_a_range_is_half_open_and_in_the_order_of_bytes(kv: Replica) -> None:
    for key in ("b", "a", "𝄞", "￿", "ab", "B"):
        kv.put(key, key.encode())
    keys = [row[0] for row in kv.range()]
    assert keys == sorted(keys, key=str.encode)
    assert keys == ["B", "a", "ab", "b", "￿", "𝄞"]
    assert [row[0] for row in kv.range("a", "b")] == ["a", "ab"]
    assert kv.range("a", "ab") == [["a", b"a", 2]]
    assert kv.range("b", "a") == []
    assert kv.range("𝄞𝄞") == []


def test_ranges_see_what_was_written_since_the_last_one(kv: Replica) -> None:
    kv.put("b", b"1")
    assert [row[0] for row in kv.range()] == ["b"]
    kv.put("a", b"1")
    kv.write("DELETE", "b")
    assert [row[0] for row in kv.range()] == ["a"]
    kv.put("b", b"2")  # gone and back between two ranges
    kv.write("DELETE", "b")
    kv.put("b", b"3")
    assert kv.range() == [["a", b"1", 2], ["b", b"3", 6]]


def test_a_range_stops_at_its_limit(kv: Replica) -> None:
    for number in range(RANGE_LIMIT_DEFAULT + 1):
        kv.put(f"{number:05}", b"")
    assert len(kv.range()) == RANGE_LIMIT_DEFAULT
    assert len(kv.range(limit=RANGE_LIMIT_MAX)) == RANGE_LIMIT_DEFAULT + 1
    assert [row[0] for row in kv.range("00007", limit=2)] == ["00007", "00008"]


@pytest.mark.parametrize("limit", [0, -1, RANGE_LIMIT_MAX + 1, 1.0, True, "5", None])
def test_a_limit_out_of_bounds_is_refused(kv: Replica, limit: object) -> None:
    assert "limit" in refused(kv.ask({"range": ["", None], "limit": limit}))


@pytest.mark.parametrize("bounds", [None, "a", [], ["a"], ["a", "b", "c"], [None, None], ["a", 1]])
def test_a_range_without_proper_bounds_is_refused(kv: Replica, bounds: object) -> None:
    assert "range" in refused(kv.ask({"range": bounds}))


def test_an_answer_above_4_mib_is_refused_and_a_smaller_question_is_not(kv: Replica) -> None:
    for number in range(5):
        kv.put(f"k{number}", bytes(ANSWER_BYTES_MAX // 4))
    assert str(ANSWER_BYTES_MAX) in refused(kv.ask({"range": ["", None]}))
    assert len(kv.range(limit=3)) == 3
    kv.put("large", bytes(ANSWER_BYTES_MAX))
    assert str(ANSWER_BYTES_MAX) in refused(kv.ask({"get": "large"}))


def test_many_small_rows_count_as_they_are_sent(kv: Replica) -> None:
    """The bound is on the answer, and msgpack adds bytes of its own to each row."""
    rows = RANGE_LIMIT_MAX
    for number in range(rows):
        kv.put(f"{number:05}", bytes(ANSWER_BYTES_MAX // rows - 5))
    assert str(ANSWER_BYTES_MAX) in refused(kv.ask({"range": ["", None], "limit": rows}))


@given(st.binary(max_size=40))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    kv = Replica()
    kv.put("a", data)
    for operation in ("CAS", "ADD"):
        kv.write(operation, "a", data)
    kv.machine.read(Query(data))


# --------------------------------------------------------------------------- model and determinism

KEYS = st.sampled_from(["a", "b", "ab", "é", "𝄞", "￿"])
VALUES = st.sampled_from([b"", b"x", b"yy", msgpack.packb(3), msgpack.packb(INT64_MAX)])
OPTIONAL = st.none() | VALUES
OPERATIONS = st.one_of(
    st.tuples(st.just("PUT"), KEYS, VALUES),
    st.tuples(st.just("DELETE"), KEYS, st.just(b"")),
    st.tuples(st.just("CAS"), KEYS, st.tuples(OPTIONAL, OPTIONAL).map(msgpack.packb)),
    st.tuples(st.just("ADD"), KEYS, st.sampled_from([1, -4, INT64_MIN]).map(msgpack.packb)),
    st.tuples(st.just("RANGE"), KEYS, st.just(b"")),
)


class Model:
    """The same in the plainest words."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[bytes, int]] = {}

    def write(self, operation: str, key: str, data: bytes, index: int) -> bool:
        old = self.entries.get(key)
        if operation == "PUT":
            self.entries[key] = (data, index)
        elif operation == "DELETE":
            self.entries.pop(key, None)
        elif operation == "CAS":
            expected, new = msgpack.unpackb(data)
            if (old[0] if old else None) != expected:
                return False
            if new is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = (new, index)
        else:
            return self._add(key, old, msgpack.unpackb(data), index)
        return True

    def _add(self, key: str, old: tuple[bytes, int] | None, amount: int, index: int) -> bool:
        try:
            value = msgpack.unpackb(old[0]) if old else 0
        except ValueError:
            return False
        if type(value) is not int or not INT64_MIN <= value + amount <= INT64_MAX:
            return False
        self.entries[key] = (msgpack.packb(value + amount), index)
        return True

    def rows(self, start: str) -> list[list[object]]:
        wanted = [key for key in self.entries if key.encode() >= start.encode()]
        return [[key, *self.entries[key]] for key in sorted(wanted, key=str.encode)]


def rebuilt(entries: Mapping[str, tuple[bytes, int]]) -> Replica:
    """The same state by the shortest way: one put for each entry, at its version."""
    kv = Replica()
    for key, (value, version) in sorted(entries.items(), key=lambda item: item[1][1]):
        kv.index = version - 1
        kv.put(key, value)
    return kv


@settings(max_examples=150)
@given(st.lists(OPERATIONS, max_size=60))
def test_it_agrees_with_a_naive_model_and_the_digest_tells_the_state_alone(
    history: list[tuple[str, str, bytes]],
) -> None:
    kv, model = Replica(), Model()
    for operation, key, data in history:
        if operation == "RANGE":
            assert kv.range(key) == model.rows(key)
            continue
        response = kv.write(operation, key, data)
        assert response.success == model.write(operation, key, data, kv.index)
    assert kv.range() == model.rows("")
    assert answer(kv.ask({"size": True})) == len(model.entries)
    assert kv.digest == rebuilt(model.entries).digest


def test_the_digest_sees_keys_values_and_versions() -> None:
    def digest(*writes: tuple[str, str, bytes]) -> bytes:
        kv = Replica()
        for write in writes:
            kv.write(*write)
        return kv.digest

    nop = ("DELETE", "zz", b"")
    digests = [
        digest(),
        digest(("PUT", "a", b"1")),
        digest(("PUT", "a", b"2")),
        digest(("PUT", "b", b"1")),
        digest(nop, ("PUT", "a", b"1")),
        digest(("PUT", "a1", b"")),
        digest(("PUT", "a", b"1"), ("PUT", "b", b"1")),
        digest(("PUT", "b", b"1"), ("PUT", "a", b"1")),
    ]
    assert len(set(digests)) == len(digests)
    assert digest(("PUT", "a", b"1"), ("DELETE", "a", b"")) == digest()


def test_a_batch_is_the_same_as_its_commands_one_by_one() -> None:
    writes = [Write("PUT", f"k{number % 7}", bytes([number])) for number in range(50)]
    writes[20] = Write("NOPE", "k")
    one, many = Replica(), Replica()
    for write in writes:
        one.write(write.operation, write.key, write.data)
    responses = many.machine.apply_batch(writes, Contexts(1, 50, 0, 1, no_events))
    assert [response.success for response in responses] == [at != 20 for at in range(50)]
    assert many.digest == one.digest
    assert many.machine.apply_batch([], Contexts(51, 0, 0, 1, no_events)) == []


_HISTORY = """
import random, msgpack
from tests.actors.machines.test_kv import Replica
draw, kv = random.Random(20), Replica()
for _ in range(3000):
    key = f"key{draw.randrange(300)}"
    kv.write(*draw.choice([
        ("PUT", key, draw.randbytes(draw.randrange(20))), ("DELETE", key),
        ("CAS", key, msgpack.packb([None, b"new"])), ("ADD", "n", msgpack.packb(draw.randrange(9))),
    ]))
    if draw.random() < 0.01:
        kv.range()
print(kv.digest.hex(), hash("key") % 100, len(kv.range()))
"""


def test_processes_with_different_hash_seeds_reach_the_same_digest() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _HISTORY],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    outputs = [child.communicate(timeout=60)[0].split() for child in children]
    (digest, hashed, rows), (other_digest, other_hashed, other_rows) = outputs
    assert hashed != other_hashed, "the seeds did not make a difference"
    assert (digest, rows) == (other_digest, other_rows)


# --------------------------------------------------------------------------- snapshots


def chunks_of(machine: KeyValueMachine) -> list[bytes]:
    return written(machine.snapshot())


def written(view: View, each: Callable[[], object] = lambda: None) -> list[bytes]:
    """``each`` is called between two pieces, as another thread might get its turn."""
    chunks: list[bytes] = []

    def sink(data: bytes) -> None:
        chunks.append(data)
        each()

    view.write(sink)
    return [chunk for chunk in chunks if chunk]


def restored(chunks: list[bytes]) -> KeyValueMachine:
    machine = KeyValueMachine()
    machine.restore(iter(chunks), 1)
    return machine


def test_a_snapshot_brings_everything_back_and_forgets_what_was() -> None:
    kv = Replica()
    for number in range(300):
        kv.put(f"key {number % 90}", b"v" * number)
    kv.write("DELETE", "key 7")
    other = Replica()
    other.put("to be forgotten", b"")
    other.range()
    other.machine.restore(iter(chunks_of(kv.machine)), 1)
    assert other.digest == kv.digest
    assert other.range() == kv.range()
    other.index = kv.index
    for each in (kv, other):
        each.put("key 7", b"")
        each.write("DELETE", "key 8")
    assert other.digest == kv.digest
    assert other.range() == kv.range()


def test_equal_states_give_equal_bytes_whatever_led_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kv_module, "SORT_KEYS_MAX", 3)
    one, two = KeyValueMachine(), KeyValueMachine()
    for index, key in enumerate("hebfcagd", 1):
        one.apply(Write("PUT", key), Context(index, 0, 1, no_events))
    for index, key in reversed(list(enumerate("hebfcagd", 1))):
        two.apply(Write("PUT", "x" + key), Context(9, 0, 1, no_events))
        two.apply(Write("PUT", key), Context(index, 0, 1, no_events))
        two.apply(Write("DELETE", "x" + key), Context(9, 0, 1, no_events))
    assert chunks_of(one) == chunks_of(two) == chunks_of(restored(chunks_of(two)))
    keys = [key for flat in map(msgpack.unpackb, chunks_of(one)[1:]) for key in flat[::3]]
    assert keys == sorted("hebfcagd")


def test_a_view_is_of_its_moment() -> None:
    kv = Replica()
    kv.put("a", b"1")
    kv.put("b", b"2")
    view, expected = kv.machine.snapshot(), chunks_of(kv.machine)
    kv.put("a", b"changed")
    kv.write("DELETE", "b")
    kv.put("c", b"")
    assert written(view) == expected


KEYS = st.sampled_from("abcdefghij")
CHANGES = st.lists(st.tuples(st.sampled_from(("PUT", "DELETE", "RANGE")), KEYS), max_size=30)


@settings(max_examples=200)
@given(CHANGES, CHANGES, CHANGES, st.integers(1, 7))
def test_a_view_is_of_its_moment_whatever_changes_before_and_while_it_is_written(
    before: list[tuple[str, str]],
    between: list[tuple[str, str]],
    meanwhile: list[tuple[str, str]],
    sort_max: int,
) -> None:
    kv = Replica()

    def change(operation: str, key: str) -> None:
        if operation == "RANGE":
            kv.range()
        else:
            kv.write(operation, key, b"value %d" % kv.index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kv_module, "SORT_KEYS_MAX", sort_max)
        patch.setattr(kv_module, "SNAPSHOT_CHUNK_BYTES", 1)
        patch.setattr(kv_module, "REMOVED_KEYS_MAX", 2)
        for step in before:
            change(*step)
        digest, view = kv.digest, kv.machine.snapshot()
        for step in between:
            change(*step)
        later_digest, later = kv.digest, kv.machine.snapshot()
        rest = iter(meanwhile)

        def go_on() -> None:
            step = next(rest, None)
            if step is not None:
                change(*step)

        assert restored(written(view, go_on)).digest() == digest
        assert restored(written(later, go_on)).digest() == later_digest
    assert kv.machine._pasts == {}, "nothing is put aside any more"


def test_a_view_copies_nothing_and_one_that_is_given_up_costs_nothing() -> None:
    kv = Replica()
    for number in range(20_000):
        kv.put(f"key {number}", b"v")
    tracemalloc.start()
    try:
        view = kv.machine.snapshot()
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()
    del view
    kv.put("key 1", b"other")
    assert kv.machine._pasts == {}


def test_keys_that_come_and_go_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock, say: nobody ever asks for a range."""
    monkeypatch.setattr(kv_module, "REMOVED_KEYS_MAX", 100)
    kv = Replica()
    kv.put("stays", b"")
    for _ in range(1_000):
        kv.put("lock", b"")
        kv.write("DELETE", "lock")
        assert len(kv.machine._unsorted) <= 110
    assert [key for key, _, _ in kv.range()] == ["stays"]
    assert restored(chunks_of(kv.machine)).digest() == kv.digest


def test_a_restore_needs_no_memory_for_what_was_there_before() -> None:
    """A lagging replica has nearly the same state already: it must not be there twice."""
    kv = Replica()
    for number in range(20_000):
        kv.put(f"key {number}", b"v" * 200)
    whole = b"".join(chunks_of(kv.machine))
    pieces = [whole[at : at + 4_096] for at in range(0, len(whole), 4_096)]
    tracemalloc.start()
    try:
        machine = restored(pieces)
        state = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        machine.restore(iter(pieces), 1)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert state > 4_000_000
    assert peak < state + (3 << 20)
    assert machine.digest() == kv.digest


def test_a_view_of_what_was_replaced_by_a_restore_cannot_be_written() -> None:
    kv = Replica()
    kv.put("a", b"1")
    view = kv.machine.snapshot()
    kv.machine.restore(iter(chunks_of(KeyValueMachine())), 1)
    with pytest.raises(RuntimeError, match="replaced"):
        written(view)


def test_chunks_are_bounded_and_any_cut_of_them_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_module, "SNAPSHOT_CHUNK_BYTES", 256)
    kv = Replica()
    for number in range(100):
        kv.put(f"key {number}", b"v" * 20)
    kv.put("large", b"v" * 5_000)
    chunks = chunks_of(kv.machine)
    assert sorted(map(len, chunks))[-2] < 512
    whole = b"".join(chunks)
    for size in (1, 1_000, len(whole)):
        cut = [whole[at : at + size] for at in range(0, len(whole), size)]
        assert restored(cut).digest() == kv.digest


def test_an_empty_map_has_a_snapshot_too() -> None:
    assert restored(chunks_of(KeyValueMachine())).digest() == KeyValueMachine().digest()


@pytest.mark.parametrize(
    "damaged",
    [
        [],
        [b""],
        [b"\x01"],
        [msgpack.packb([2, 0])],
        [msgpack.packb([1])],
        [msgpack.packb([1, 1])],
        [msgpack.packb([1, 0]), msgpack.packb(["a", b"", 1])],
        [msgpack.packb([1, 1]), msgpack.packb(["a", b""])],
        [msgpack.packb([1, 1]), msgpack.packb([b"a", b"", 1])],
        [msgpack.packb([1, 1]), msgpack.packb(["a", 1, 1])],
        [msgpack.packb([1, 1]), msgpack.packb(["a", b"", 1])[:-1]],
        [msgpack.packb([1, 1]), b"\xc1"],
    ],
)
def test_what_is_no_whole_snapshot_is_refused_and_leaves_nothing(damaged: list[bytes]) -> None:
    """Also of what was there before: there is no room for both."""
    kv = Replica()
    kv.put("a", b"")
    with pytest.raises((ValueError, TypeError, AttributeError, msgpack.FormatError)):
        kv.machine.restore(iter(damaged), 1)
    assert kv.digest == KeyValueMachine().digest()
    assert kv.range() == []


@settings(max_examples=100)
@given(st.dictionaries(st.text(min_size=1, max_size=9), st.binary(max_size=30)))
def test_whatever_is_in_it_comes_back(entries: dict[str, bytes]) -> None:
    kv = Replica()
    for key, value in entries.items():
        kv.put(key, value)
    again = restored(chunks_of(kv.machine))
    assert again.digest() == kv.digest
    assert chunks_of(again) == chunks_of(kv.machine)
