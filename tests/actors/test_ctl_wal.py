"""``ctl wal``: a stopped node's log under the eyes of its operator."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors import ctl
from raft.store.files import Files
from raft.store.locks import FileLock
from raft.store.placement import LEFT, Placement
from raft.store.records import HEADER_BYTES, padded
from raft.store.wal import Wal
from tests.actors.data_directory import INCARNATION, KV, NAMES, make_data

Run = Callable[..., tuple[int, str, str]]
SEGMENT = "0000000000000001.wal"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def run_it(*arguments: str) -> tuple[int, str, str]:
        code = ctl.main(["wal", *arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    make_data(path)
    return path


def tree(path: Path) -> dict[str, tuple[bytes, int]]:
    """Every byte, every name, and when it was last written."""
    return {
        str(each): (each.read_bytes() if each.is_file() else b"", each.stat().st_mtime_ns)
        for each in sorted(path.rglob("*"))
    }


def records(run: Run, data: Path, *more: str) -> list[dict[str, Any]]:
    code, out, err = run("dump", str(data), "--json", *more)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def place_of(run: Run, data: Path, **wanted: object) -> int:
    """Where the first record with these fields stands."""
    found = [each for each in records(run, data) if wanted.items() <= each.items()]
    return int(found[0]["offset"])


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# --------------------------------------------------------------------------- verify


def test_a_sound_directory_is_said_to_be_and_not_a_byte_of_it_is_changed(
    run: Run, data: Path
) -> None:
    before = tree(data)
    code, out, err = run("verify", str(data))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"node n1  cluster {'cc' * 16}",
        "slot 1: 1 segments, 5 batches, 11 records, 2 groups",
        "snapshots: 1 sound",
        "sound",
    ]
    for command in (("verify", "--json"), ("stat",), ("dump", "--bodies")):
        assert run(*command, str(data))[0] == 0
    assert tree(data) == before


def test_damage_is_told_with_its_place_and_changed_by_nobody(run: Run, data: Path) -> None:
    segment = data / "wal" / "1" / SEGMENT
    offset = place_of(run, data, kind="RUN", group=NAMES)
    flip(segment, offset + HEADER_BYTES)
    before = tree(data)
    code, out, err = run("verify", str(data))
    assert code == 1
    line = f"{segment} offset {offset} group {NAMES} (names) index 1: the body's checksum is wrong"
    assert out.splitlines()[-1] == f"damaged: {line}"
    assert err == f"ctl: {data}: one place is damaged, the first in {line}\n"
    code, out, _ = run("verify", str(data), "--json")
    assert code == 1
    assert json.loads(out)["damage"] == [
        {
            "file": str(segment),
            "offset": offset,
            "groups": [NAMES],
            "names": ["names"],
            "index": 1,
            "reason": "the body's checksum is wrong",
        }
    ]
    assert tree(data) == before


def test_one_slot_can_be_looked_at_alone(run: Run, data: Path) -> None:
    code, out, _ = run("verify", str(data / "wal" / "1"))
    assert (code, out.splitlines()[0][:8]) == (0, "slot 1: ")


def spoil_snapshot(data: Path) -> str:
    (path,) = (data / "groups" / str(KV) / "snapshots").iterdir()
    flip(path, 200)
    return f"{path.name} offset"


def remove_snapshot(data: Path) -> str:
    (path,) = (data / "groups" / str(KV) / "snapshots").iterdir()
    path.unlink()
    return "it is missing"


def spoil_identity(data: Path) -> str:
    flip(data / "node.json", 120)
    return "node.json: its checksum is wrong"


def spoil_placement(data: Path) -> str:
    flip(data / "placement", 160)
    return "placement: its checksum is wrong"


def remove_placement(data: Path) -> str:
    """Of a node that belongs to a cluster, which does not start without it."""
    (data / "placement").unlink()
    return "placement: it is missing"


def spoil_nodes(data: Path) -> str:
    flip(data / "nodes", 80)
    return "nodes: its checksum is wrong"


def remove_log(data: Path) -> str:
    (data / "wal" / "1" / SEGMENT).unlink()
    return f"group {KV} (kv): its log is gone"


def remove_slot(data: Path) -> str:
    for path in (data / "wal" / "1").iterdir():
        path.unlink()
    (data / "wal" / "1").rmdir()
    return f"group {NAMES} (names): its log is gone"


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_snapshot,
        remove_snapshot,
        spoil_identity,
        spoil_placement,
        remove_placement,
        spoil_nodes,
        remove_log,
        remove_slot,
    ],
)
def test_whatever_else_is_wrong_is_told(run: Run, data: Path, spoil: Callable[[Path], str]) -> None:
    said = spoil(data)
    code, out, err = run("verify", str(data))
    assert code == 1
    assert said in out
    assert err.count("\n") == 1


def place(data: Path, group: int, **changes: Any) -> None:
    placement = Placement.load(Files(), str(data))
    changed = replace(placement.groups[group], **changes)
    placement.replace({**placement.groups, group: changed})


def mark(data: Path, group: int) -> None:
    """As its worker does when this node has no part in the group any more."""
    ids = itertools.count(0xFEDCBA)
    wal, _ = Wal.open(
        Files(),
        str(data / "wal" / "1"),
        slot=1,
        incarnation=INCARNATION,
        random_id=lambda: next(ids),
    )
    wal.forget_group(group, "this node is no member of the group any more")
    batch = wal.take_batch()
    assert batch is not None
    batch.run()
    wal.complete(batch)
    wal.close()


def test_what_stays_of_a_group_that_was_left_is_no_damage(run: Run, data: Path) -> None:
    """Its snapshots are gone, and of its log nothing counts but the mark."""
    remove_snapshot(data)
    mark(data, KV)
    assert "was marked as damaged" in run("verify", str(data))[1]
    for changes in (
        {"options": {LEFT: 12}},
        {"options": {"born": True}, "generation": 2, "slot": 2, "life": 1},
    ):
        place(data, KV, **changes)
        lines = run("verify", str(data))[1].splitlines()
        assert f"note: slot 1 has left-overs of group {KV}" in lines
        assert not [line for line in lines if "marked" in line or "missing" in line], lines
    assert "its log is gone" in lines[-1], "of the replica that is in another slot"
    (slot,) = json.loads(run("stat", str(data), "--json")[1])["slots"]
    (left,) = (each for each in slot["groups"] if each["group"] == KV)
    (only,) = records(run, data, "--group", str(KV), "--limit", "100")[-1:]
    assert only["kind"] == "DAMAGED"
    assert left["live_bytes"] == HEADER_BYTES + padded(only["length"])


def test_a_node_that_runs_is_not_looked_into_and_its_process_is_named(run: Run, data: Path) -> None:
    for held in (data / "lock", data / "wal" / "1" / "lock"):
        lock = FileLock(Files(), str(held))
        lock.write({"pid": 4711, "start": 12})
        before = tree(data)
        code, out, err = run("verify", str(data))
        assert (code, out) == (1, "")
        assert "is locked by process 4711 (start time 12)" in err
        assert tree(data) == before
        lock.close()
    assert run("verify", str(data))[0] == 0


def test_while_it_is_looked_at_no_node_can_start_on_it(data: Path) -> None:
    from actors.ctl_wal import quietly_held
    from raft.store.errors import LockHeld

    with quietly_held(str(data)), pytest.raises(LockHeld):
        FileLock(Files(), str(data / "lock"))
    FileLock(Files(), str(data / "lock")).close()


def test_what_is_no_data_of_a_node_is_wrong_usage(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        for command in ("verify", "stat", "dump"):
            code, out, err = run(command, str(path))
            assert (code, out, err.count("\n")) == (2, "", 1)
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------- stat


def test_stat_tells_what_each_group_has(run: Run, data: Path) -> None:
    code, out, _ = run("stat", str(data), "--json")
    assert code == 0
    (slot,) = json.loads(out)["slots"]
    kv, names = slot["groups"]
    assert (slot["slot"], slot["segments"], slot["damage"]) == (1, 1, 0)
    assert {
        key: kv[key] for key in ("name", "first", "last", "term", "vote", "snapshot", "gseq")
    } == {
        "name": "kv",
        "first": 3,
        "last": 4,
        "term": 3,
        "vote": "n1",
        "snapshot": 2,
        "gseq": 6,
    }
    assert (names["first"], names["last"], names["snapshot"]) == (1, 1, None)
    assert 0 < kv["live_bytes"] < kv["bytes"] < slot["used_bytes"] < slot["bytes"]
    assert names["live_bytes"] == names["bytes"]
    lines = run("stat", str(data))[1].splitlines()
    assert lines[1].split()[:3] == ["GROUP", "NAME", "GENERATION"]


# --------------------------------------------------------------------------- dump


def test_dump_shows_every_record_in_its_order(run: Run, data: Path) -> None:
    shown = records(run, data)
    assert [each["kind"] for each in shown if each["group"] == KV] == [
        "BOOTSTRAP",
        "HARD_STATE",
        "RUN",
        "SNAPSHOT",
        "RUN",
        "RUN",
    ]
    assert [each["gseq"] for each in shown if each["group"] == KV] == [1, 2, 3, 4, 5, 6]
    assert [each["offset"] for each in shown] == sorted(each["offset"] for each in shown)
    assert shown[0]["kind"] == "SEGMENT"
    config = next(each for each in shown if each.get("run") == "CONFIG")
    assert (config["voters"], config["joint"], config["wall_ms"]) == (
        f"n1/{0x11:016x},n2/{0x22:016x}",
        False,
        8,
    )


def test_dump_can_be_narrowed(run: Run, data: Path) -> None:
    assert {each["group"] for each in records(run, data, "--group", "names")} == {NAMES}
    assert {each["group"] for each in records(run, data, "--group", str(KV))} == {KV}
    assert [each["first"] for each in records(run, data, "--group", "kv", "--from", "3")] == [3, 4]
    assert len(records(run, data, "--limit", "3")) == 3
    assert len(records(run, data, "--slot", "1")) == len(records(run, data))
    for wrong in (("--slot", "2"), ("--group", "nobody"), ("--limit", "0")):
        assert run("dump", str(data), *wrong)[0] == 2


def test_bodies_are_shown_as_far_as_they_are_known(run: Run, data: Path) -> None:
    shown = records(run, data, "--group", "kv", "--from", "4", "--bodies")
    assert shown[0]["entries"] == [
        {"index": 4, "operation": "PUT", "key": "c", "data": "b'value of c'"}
    ]
    out = run("dump", str(data), "--group", "kv", "--from", "4", "--bodies")[1]
    assert "    index 4  operation PUT  key c  data b'value of c'" in out.splitlines()


def test_dump_goes_on_behind_damage_and_says_so(run: Run, data: Path) -> None:
    whole = records(run, data)
    offset = place_of(run, data, kind="RUN", group=KV, first=1)
    flip(data / "wal" / "1" / SEGMENT, offset + 20)
    shown = records(run, data)
    holes = [each for each in shown if each["kind"] == "(DAMAGED)"]
    assert [(each["offset"], each["reason"]) for each in holes] == [
        (offset, "no valid record header")
    ]
    assert shown[-1] == whole[-1]
    frame = next(each for each in shown if each["offset"] == holes[0]["end"])
    assert (frame["kind"], frame["batch_is_whole"]) == ("COMMIT", False)
    text = run("dump", str(data))[1]
    assert f"@{offset} -- DAMAGED: no valid record header; going on at {holes[0]['end']}" in text


def test_what_clients_have_stored_cannot_steer_the_terminal() -> None:
    from actors.ctl_wal import _shown

    assert _shown("a\x1b[2J") == repr("a\x1b[2J")
