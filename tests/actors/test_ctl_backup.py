"""``ctl backup`` against a faked node."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from actors import ctl, ctl_backup
from raft.store.backup_file import BackupFile, meta_values
from raft.store.files import Files
from raft.store.snapshots import SnapshotStore, snapshot_name
from tests.actors.data_directory import make_snapshot
from tests.transport.client.fake_node import Answer, FakeNode, each, reply, whole
from transport import polyraft_pb2 as pb

Run = Callable[..., tuple[int, str, str]]
PIECE = 1_000


class Holder:
    """A node that has a snapshot; ``fails``: what it says to so many reads first."""

    def __init__(self, directory: Path) -> None:
        store = SnapshotStore(Files(), str(directory / "snapshots"))
        self.meta = make_snapshot(store)
        self.data = store.read_raw(self.meta, 0, self.meta.size_bytes)
        self.fails: list[Answer] = []
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []
        self.begin: Answer = None

    def __call__(self, group: str, batch: pb.RequestBatch) -> Answer:
        admin = batch.requests[0].admin
        options = dict(admin.options)
        self.asked.append((group, admin.command, admin.value, options))
        return getattr(self, f"on_{admin.command}")(options)  # type: ignore[no-any-return]

    def on_status(self, options: dict[str, str]) -> Answer:
        return _json({"cluster": "cc", "version": "0.1", "node": "n2"})

    def on_readIndex(self, options: dict[str, str]) -> Answer:  # noqa: N802
        return _json({"index": 2})

    def on_backupBegin(self, options: dict[str, str]) -> Answer:  # noqa: N802
        values = {
            "backup": snapshot_name(self.meta),
            "node": "n2",
            "group": "kv",
            "machine": "kv",
            "snapshot": meta_values(self.meta),
        }
        return self.begin or _json(values)

    def on_backupRead(self, options: dict[str, str]) -> Answer:  # noqa: N802
        if self.fails:
            return self.fails.pop(0)
        offset = int(options["offset"])
        data = base64.b64encode(self.data[offset : offset + PIECE]).decode()
        return _json({"offset": offset, "data": data})


def _json(values: dict[str, Any]) -> pb.ReplyBatch:
    return each(reply(data=json.dumps(values).encode()))


@pytest.fixture
def holder(tmp_path: Path) -> Holder:
    return Holder(tmp_path)


@pytest.fixture
def run(holder: Holder, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with FakeNode(holder) as node:

        def run_it(*arguments: str) -> tuple[int, str, str]:
            code = ctl.main(["--connect", node.address, "--timeout-ms", "2000", *arguments])
            captured = capfd.readouterr()
            return code, captured.out, captured.err

        yield run_it


def test_a_backup_is_whole_when_it_has_its_name(run: Run, holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "kv.backup"
    code, out, err = run("backup", "kv", str(path))
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}: group kv up to index 2 (term 3), of n2, ")
    assert [each[:3] for each in holder.asked] == [
        ("kv", "readIndex", ""),
        ("kv", "backupBegin", ""),
        ("", "status", ""),
        ("kv", "backupRead", "n2"),
        ("kv", "backupRead", "n2"),
        ("kv", "backupRead", "n2"),
    ]
    assert holder.asked[1][3] == {"min_index": "2"}
    backup = BackupFile(Files(), str(path))
    backup.verify()
    assert (backup.head.cluster, backup.head.node, backup.head.snapshot) == (
        "cc",
        "n2",
        holder.meta,
    )
    code, out, _ = run("backup-verify", str(path))
    assert (code, out.splitlines()[0].split()) == (0, ["group", "kv"])
    assert json.loads(run("backup-verify", str(path), "--json")[1])["sound"] is True


def test_what_a_replica_has_is_asked_for_without_a_leader(
    run: Run, holder: Holder, tmp_path: Path
) -> None:
    assert run("backup", "kv", str(tmp_path / "b"), "--stale", "--node", "n2")[0] == 0
    assert holder.asked[0] == ("kv", "backupBegin", "n2", {})


def test_a_break_is_waited_for_and_reading_goes_on_where_it_was(
    run: Run, holder: Holder, tmp_path: Path
) -> None:
    lost = whole(reply(pb.UNAVAILABLE, text="the link was lost", maybe=True))
    busy = whole(reply(pb.BUSY, text="too much is read", retry_after_ms=1))
    holder.fails = [lost, busy, lost]
    assert run("backup", "kv", str(tmp_path / "b"))[0] == 0
    BackupFile(Files(), str(tmp_path / "b")).verify()
    offsets = [each[3]["offset"] for each in holder.asked if each[1] == "backupRead"]
    assert sorted(set(offsets), key=int) == ["0", "1000", "2000"]


def test_a_break_that_lasts_leaves_no_file(
    run: Run, holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctl_backup, "RESUME_MS", 0)
    holder.fails = [whole(reply(pb.UNAVAILABLE, text="the link was lost", maybe=True))]
    code, _, err = run("backup", "kv", str(tmp_path / "b"))
    assert (code, err) == (1, "ctl: UNAVAILABLE: the link was lost\n")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["snapshots"]


@pytest.mark.parametrize("data", ["", "?", base64.b64encode(bytes(9_000)).decode()])
def test_bytes_that_are_none_of_the_snapshot_are_refused(
    run: Run, holder: Holder, tmp_path: Path, data: str
) -> None:
    holder.fails = [_json({"offset": 0, "data": data})]
    code, _, err = run("backup", "kv", str(tmp_path / "b"))
    assert (code, "something else than bytes" in err) == (1, True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["snapshots"]


def test_bytes_that_were_changed_on_the_way_are_refused(
    run: Run, holder: Holder, tmp_path: Path
) -> None:
    holder.data = holder.data[:500] + b"?" + holder.data[501:]
    code, _, err = run("backup", "kv", str(tmp_path / "b"))
    assert (code, "not the snapshot that was announced" in err) == (1, True)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["snapshots"]


def test_a_refusal_is_told_at_once_and_in_one_line(
    run: Run, holder: Holder, tmp_path: Path
) -> None:
    holder.begin = whole(reply(pb.REJECTED, text="this machine has no snapshots"))
    code, _, err = run("backup", "kv", str(tmp_path / "b"))
    assert (code, err) == (1, "ctl: REJECTED: this machine has no snapshots\n")


def test_a_file_that_is_there_is_left_alone(run: Run, holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"precious")
    code, _, err = run("backup", "kv", str(path))
    assert (code, err.count("\n"), holder.asked) == (1, 1, [])
    assert path.read_bytes() == b"precious"


def test_a_place_that_cannot_be_written_is_one_line(run: Run, tmp_path: Path) -> None:
    code, _, err = run("backup", "kv", str(tmp_path / "none" / "b"))
    assert (code, err) == (1, f"ctl: {tmp_path}/none/b.writing: open: No such file or directory\n")


def test_a_damaged_backup_is_told_with_its_place(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "b"
    assert run("backup", "kv", str(path))[0] == 0
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    code, out, err = run("backup-verify", str(path))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{path} at offset " in err
    assert run("backup-verify", str(tmp_path / "nothing"))[0] == 1
