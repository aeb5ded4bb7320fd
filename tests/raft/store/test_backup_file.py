"""A backup: whole and sound, or refused with the place."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest
from google_crc32c import value as crc32c
from hypothesis import given
from hypothesis import strategies as st

from raft.configuration import Configuration
from raft.messages import Replica, SnapshotMeta
from raft.store.backup_file import (
    END_MAGIC,
    NUMBERS_END,
    WRITING,
    BackupFile,
    BackupHead,
    BackupWriter,
    BadBackup,
    meta_of,
    meta_values,
    refuse_to_replace,
    with_members,
)
from raft.store.errors import UnknownFormat
from raft.store.memory import MemoryFiles
from raft.store.snapshot_file import CHUNK_BYTES
from raft.store.snapshots import SnapshotStore
from tests.crash_points.disk import Choice
from tests.raft.store.kit import CONFIGURATION, configurations

PATH = "/backups/kv"
STATE = bytes(range(256)) * (CHUNK_BYTES // 200)
N7 = Replica("n7", 0x77)


def a_snapshot(files: MemoryFiles) -> tuple[SnapshotMeta, bytes]:
    store = SnapshotStore(files, "/snapshots")
    writer = store.begin(9, 4, CONFIGURATION, 5, 2)
    writer.write(STATE)
    meta = writer.finish()
    return meta, store.read_raw(meta, 0, meta.size_bytes)


def head_of(meta: SnapshotMeta) -> BackupHead:
    return BackupHead("kv", "kv", "cc", "n1", meta, 1_700_000_000_000, "0.1")


def a_backup() -> tuple[MemoryFiles, SnapshotMeta]:
    files = MemoryFiles()
    files.mkdir("/backups")
    meta, data = a_snapshot(files)
    writer = BackupWriter(files, PATH, head_of(meta))
    for at in range(0, len(data), 100_000):
        writer.write(data[at : at + 100_000])
    assert not files.exists(PATH)
    size_bytes = writer.finish()
    assert size_bytes == len(files.content(PATH))
    return files, meta


FILES, META = a_backup()
CONTENT = FILES.content(PATH)


def opened(content: bytes) -> BackupFile:
    files = MemoryFiles()
    files.mkdir("/backups")
    files.put(PATH, content)
    return BackupFile(files, PATH)


def test_a_file_is_laid_out_as_documented() -> None:
    length = int.from_bytes(CONTENT[12:16], "little")
    assert CONTENT[:12] == b"PRbackup" + bytes((1, 0, 0, 0))
    head, frames = CONTENT[16 : 16 + length], CONTENT[20 + length : -20]
    assert json.loads(head)["snapshot"]["members"][0][1:] == ["0000000000000011", 1]
    assert crc32c(CONTENT[: 16 + length]).to_bytes(4, "little") == CONTENT[16 + length :][:4]
    assert (len(frames), crc32c(frames)) == (META.size_bytes, META.crc)
    assert CONTENT[-20:-4] == b"PRbk-end" + len(CONTENT).to_bytes(8, "little")
    assert CONTENT[-4:] == crc32c(CONTENT[:-4]).to_bytes(4, "little")


def test_what_was_written_is_read_and_says_what_it_is() -> None:
    backup = BackupFile(FILES, PATH)
    backup.verify()
    assert backup.head == head_of(META)
    assert b"".join(backup.machine_bytes()) == STATE
    assert FILES.listdir("/backups") == ["kv"]


@pytest.mark.parametrize("seed", range(60))
def test_no_bit_of_it_can_change_unseen(seed: int) -> None:
    at = (seed * 7919) % len(CONTENT) if seed < 50 else len(CONTENT) - 1 - seed % 10 * 2
    changed = CONTENT[:at] + bytes((CONTENT[at] ^ 1 << seed % 8,)) + CONTENT[at + 1 :]
    with pytest.raises((BadBackup, UnknownFormat)):
        opened(changed).verify()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 100, 5_000, len(CONTENT) - 1])
def test_one_that_was_cut_off_is_refused(length: int) -> None:
    with pytest.raises(BadBackup):
        opened(CONTENT[:length]).verify()


def test_one_with_something_behind_it_is_refused() -> None:
    with pytest.raises(BadBackup, match="instead of"):
        opened(CONTENT + b"\0").verify()


def test_damage_in_a_frame_is_told_with_its_place_in_the_file() -> None:
    at = CONTENT.index(STATE[:64]) + 10
    with pytest.raises(BadBackup, match="checksum of frame 1 is wrong") as caught:
        opened(CONTENT[:at] + b"\xff" + CONTENT[at + 1 :]).verify()
    assert caught.value.offset == CONTENT.index(STATE[:64]) - 20


def test_one_of_a_newer_format_is_refused_as_such() -> None:
    with pytest.raises(UnknownFormat):
        opened(CONTENT[:8] + b"\x02" + CONTENT[9:])
    with pytest.raises(BadBackup, match="no backup of a group"):
        opened(b"PRwl" + CONTENT)
    with pytest.raises(BadBackup, match="no such file"):
        BackupFile(FILES, "/backups/other")


def test_another_snapshot_than_was_announced_gets_no_name() -> None:
    files = MemoryFiles()
    files.mkdir("/backups")
    meta, data = a_snapshot(files)
    writer = BackupWriter(files, PATH, head_of(meta))
    writer.write(data[:-1] + b"?")
    with pytest.raises(BadBackup, match="not the snapshot that was announced"):
        writer.finish()
    writer.abort()
    assert files.listdir("/backups") == []


def test_a_file_that_is_there_is_never_replaced() -> None:
    before = FILES.content(PATH)
    with pytest.raises(BadBackup, match="never replaced"):
        BackupWriter(FILES, PATH, head_of(META))
    assert FILES.content(PATH) == before


def test_a_full_disk_leaves_no_file() -> None:
    files = MemoryFiles()
    files.mkdir("/backups")
    meta, data = a_snapshot(files)
    writer = BackupWriter(files, PATH, head_of(meta))
    writer.write(data)
    files.fail("fsync", errno.ENOSPC)
    with pytest.raises(OSError, match=str(errno.ENOSPC)):
        writer.finish()
    writer.abort()
    assert files.listdir("/backups") == []


def test_it_has_its_name_only_when_it_is_durable() -> None:
    files, _ = a_backup()
    operations = [str(each) for each in files.operations if "/backups" in str(each)]
    kinds = [each[0] for each in files.operations if "/backups" in str(each)]
    assert kinds.index("rename") > kinds.index("fsync"), operations
    assert kinds[-1] == "fsync_dir"
    assert not files.unsynced(PATH)
    assert not files.exists(PATH + WRITING)


def test_for_other_members_it_is_the_same_snapshot_with_another_head() -> None:
    backup = BackupFile(FILES, PATH)
    others = Configuration.of(N7)
    meta = with_members(backup, others)
    assert (meta.index, meta.term, meta.configuration) == (META.index, META.term, others)
    store = SnapshotStore(MemoryFiles(), "/snapshots")
    offset = 0
    for piece in backup.frames(others):
        offset += len(piece)
        assert store.receive(meta, offset - len(piece), piece) == offset
    assert store.complete(meta)
    store.verify(meta)
    assert b"".join(store.read(meta)) == STATE
    assert with_members(backup, CONFIGURATION) == META, "the same members give the same file"


@given(configurations(), st.integers(1, NUMBERS_END - 1), st.integers(0, 2**32 - 1))
def test_what_identifies_a_snapshot_survives_json(
    configuration: Configuration, index: int, crc: int
) -> None:
    meta = replace(META, configuration=configuration, index=index, crc=crc)
    assert meta_of(meta_values(meta)) == meta


@pytest.mark.parametrize(
    "change",
    [
        {"index": 0},
        {"index": "9"},
        {"term": -1},
        {"size_bytes": None},
        {"crc": "xyz"},
        {"crc": "1ffffffff"},
        {"members": 3},
        {"members": [["n1", 5, 1]]},
        {"members": [["n1", "zz", 1]]},
        {"members": [["n1", "11", 99]]},
    ],
)
def test_what_identifies_none_is_a_value_error(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        meta_of({**meta_values(META), **change})
    with pytest.raises(ValueError):
        meta_of([])


def test_the_end_s_mark_is_no_part_of_a_frame() -> None:
    assert CONTENT[-20:-12] == END_MAGIC


def test_a_backup_that_is_said_to_be_there_is_there_for_good() -> None:
    """Its maker died between giving it its name and syncing that."""
    files, _ = a_backup()
    files.rename(PATH, PATH + ".kept")
    files.fsync_dir("/backups")
    files.rename(PATH + ".kept", PATH)
    files.kill()
    with pytest.raises(BadBackup, match="is there already"):
        refuse_to_replace(files, PATH)
    files.crash(Choice(names=False, content=False))
    BackupFile(files, PATH).verify()
