"""docs/storage.md names the numbers and the names that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from actors import rebirths, snapshots, space, worker
from actors.ctl_wal import KIND_NAMES
from actors.settings import DiskSettings, SnapshotSettings
from raft.lives import LIVES_MAX
from raft.store import evidence, incoming, records, segments, snapshot_file, tidying, wal
from raft.store import space as room

PAGE = Path(__file__).resolve().parent.parent / "docs" / "storage.md"
TEXT = " ".join(PAGE.read_text().split())
KIB, MIB = 1 << 10, 1 << 20
DISK = DiskSettings()

PROMISES = [
    f"A header of {records.HEADER_BYTES} bytes, the body, zeros up to the next multiple of "
    f"{records.ALIGNMENT_BYTES}.",
    f"at most {records.RECORD_BODY_BYTES_MAX // MIB} MiB for a record of a group",
    f"UTF-8 reason, at most {evidence.REASON_BYTES_MAX} bytes",
    f"The first of a process has {segments.SEGMENT_BYTES_FIRST // MIB} MiB, each further one twice "
    f"the last, up to {segments.SEGMENT_BYTES_MAX // MIB} MiB",
    f"fill the record up to a multiple of {segments.OPENING_BYTES_MULTIPLE // KIB} KiB",
    f"at most {tidying.COPY_BYTES_MAX // MIB} MiB or {tidying.COPY_RECORDS_MAX:,} records",
    f"if there are more than {tidying.SEGMENTS_MAX}.",
    f"{snapshot_file.CHUNK_BYTES:,} of them (the frame has {snapshot_file.FRAME_BYTES // KIB} KiB)",
    f"at most {snapshot_file.HEAD_BYTES_MAX // MIB} MiB; new fields go to the end",
    f"is received is synced in steps of {incoming.SYNC_BYTES // MIB} MiB",
    f"the default is {SnapshotSettings().keep_snapshots})",
    f"at most {LIVES_MAX:,})",
    f"with pauses of up to {rebirths.PAUSE_MAX_MS // 1_000} s",
    f"waits {space.ROOM_WAIT_MS_MAX // 1_000} s for room",
    f"more than {worker.WAL_BEHIND_BYTES_MAX // MIB} MiB gathered",
    f"it is tried again {snapshots.FAILED_PAUSE_MS // 1_000} s later",
    f"`disk_soft_limit_bytes` | {DISK.disk_soft_limit_bytes // MIB} MiB",
    f"`disk_reserve_bytes` | {DISK.disk_reserve_bytes // MIB} MiB",
    f"mostly costs {segments.SEGMENT_BYTES_FIRST // room.GIVE_PART // KIB} KiB",
    f"less {segments.SEGMENT_BYTES_FIRST // space.VOTES_PART // KIB} KiB",
]


@pytest.mark.parametrize("promise", PROMISES)
def test_a_number_is_the_one_in_the_code(promise: str) -> None:
    assert promise in TEXT


def test_numbers_that_are_written_out_are_those_in_the_code() -> None:
    words = {
        "as long as at least a quarter of that is live, or three segments are needed": (
            wal.SEGMENTS_FEW == 3
        ),
        "if that is at most a quarter of it": tidying.CHEAP_PART == 4,
        "more than twice the live bytes": tidying.GARBAGE_FACTOR == 2,
        "At most four groups of a node do this": rebirths.REBIRTHS_MAX == 4,
        "nobody has sent any of it for an hour": snapshots.RECEIVED_AGE_MS_MAX == 3_600_000,
        "less than four and a half times the limit": (
            room.PLENTY_FACTOR * (room.LIMIT_PART + 1) * 2 == 9 * room.LIMIT_PART
        ),
    }
    assert [text for text, is_so in words.items() if not is_so or text not in TEXT] == []


def test_the_table_of_kinds_has_every_kind_of_record() -> None:
    told = re.findall(r"^\| (\d) \| ([A-Z_]+) \|", PAGE.read_text(), re.MULTILINE)
    assert {int(number): name for number, name in told} == KIND_NAMES


def test_every_failure_has_a_column_for_the_operator() -> None:
    table = PAGE.read_text().split("| failure | what happens | the operator |\n")[1]
    rows = table.split("\n\n")[0].splitlines()[1:]
    assert len(rows) > 30
    assert [row for row in rows if len(re.split(r"(?<!\\) \|", row)) != 4] == []
