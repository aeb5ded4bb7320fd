"""``ctl wal verify|stat|dump DIR``: looking into the log of a node that does not run.

DIR is the data of a node, or the directory of one of its slots. Nothing in it is changed, and the
node cannot be started meanwhile.

Exit codes of ``verify``: 0 sound, 1 damage was found (or the directory is in use), 2 there is
nothing of that kind. ``dump`` goes on behind damage, as far as it is certain where a record begins
(see raft/store/inspect.py), and says what it left out.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgpack

from actors.machine import WRITE_TAG
from raft.configuration import UnknownPart
from raft.messages import COMMAND, CONFIG, MACHINE_VERSION, NOOP, READ, SESSION, TICK, Replica, Run
from raft.store import records
from raft.store.errors import LockHeld, StoreError
from raft.store.files import Files
from raft.store.inspect import (
    Finding,
    Hole,
    ReadingFiles,
    SeenBatch,
    SeenGroup,
    Survey,
    batches_of,
    last_in_use,
    open_segment,
    segment_numbers,
)
from raft.store.placement import Placement
from raft.store.records import Record
from raft.store.runs import decode_run, read_configuration
from raft.store.survey import DataSurvey, NoData, hold, slot_directories, survey
from transport.client.ctl import (
    EXIT_DONE,
    Commands,
    CtlError,
    Options,
    UsageError,
    add_offline,
    show_json,
    show_table,
)
from transport.frames import FrameError
from transport.protocol import parse_write

DATA_SHOWN_BYTES_MAX = 120  # of a value with --bodies

KIND_NAMES = {
    records.RUN: "RUN",
    records.HARD_STATE: "HARD_STATE",
    records.TRUNCATE: "TRUNCATE",
    records.BOOTSTRAP: "BOOTSTRAP",
    records.COMMIT: "COMMIT",
    records.SEGMENT: "SEGMENT",
    records.DAMAGED: "DAMAGED",
    records.SNAPSHOT: "SNAPSHOT",
    records.OLDEST: "OLDEST",
}
RUN_NAMES = {
    NOOP: "NOOP",
    COMMAND: "COMMAND",
    READ: "READ",
    CONFIG: "CONFIG",
    SESSION: "SESSION",
    TICK: "TICK",
    MACHINE_VERSION: "MACHINE_VERSION",
}


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """The commands of this file."""
    wal = commands.add_parser("wal", help="look into the log of a node that does not run")
    ways = wal.add_subparsers(dest="way", required=True, metavar="verify|stat|dump")
    add_offline(ways, "verify", do_verify, "directory", text="read everything, tell what is wrong")
    add_offline(ways, "stat", do_stat, "directory", text="what each slot and group has")
    dump = add_offline(ways, "dump", do_dump, "directory", text="one line per record")
    dump.add_argument("--slot", type=int, metavar="N", help="of this slot alone")
    dump.add_argument("--group", metavar="NAME|ID", help="of this group alone")
    dump.add_argument("--from", type=int, default=0, dest="first", metavar="INDEX")
    dump.add_argument("--limit", type=int, metavar="N", help="end after N records")
    dump.add_argument("--bodies", action="store_true", help="also what the records hold")


@contextmanager
def quietly_held(directory: str) -> Iterator[Files]:
    """The files of a node that does not run, to be read. Raises CtlError."""
    files = ReadingFiles()
    try:
        with hold(files, directory):
            yield files
    except NoData as error:
        raise UsageError(str(error)) from error
    except LockHeld as error:
        raise CtlError(f"{error}: it runs; this is for the data of a stopped node") from error
    except StoreError as error:
        raise CtlError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CtlError(f"{where}{error.strerror or error}") from error


# --------------------------------------------------------------------------- verify


def do_verify(options: Options) -> int:
    with quietly_held(options.directory) as files:
        seen = survey(files, options.directory)
    if options.json:
        show_json(_verified(seen))
    else:
        _show_verified(seen)
    found = seen.all_findings
    if not found:
        return EXIT_DONE
    one = f"{len(found)} places are damaged" if len(found) > 1 else "one place is damaged"
    raise CtlError(f"{options.directory}: {one}, the first in {_place(seen, found[0])}")


def _verified(seen: DataSurvey) -> dict[str, Any]:
    identity = seen.identity
    return {
        "directory": seen.directory,
        "node": None if identity is None else identity.node,
        "cluster": None if identity is None else identity.cluster,
        "sound": not seen.all_findings,
        "slots": [
            {
                "slot": slot.slot,
                "directory": slot.directory,
                "segments": len(slot.segments),
                "batches": slot.batches,
                "records": slot.records,
                "groups": len(slot.groups),
                "torn": None if slot.torn is None else slot.torn.offset,
            }
            for slot in seen.slots
        ],
        "snapshots": seen.snapshots,
        "damage": [
            {
                "file": each.file,
                "offset": each.offset,
                "groups": list(each.groups),
                "names": [seen.name_of(group) for group in each.groups],
                "index": each.index,
                "reason": each.reason,
            }
            for each in seen.all_findings
        ],
        "notes": seen.notes,
    }


def _show_verified(seen: DataSurvey) -> None:
    if seen.identity is not None:
        print(f"node {seen.identity.node}  cluster {seen.identity.cluster or '-'}")
    for slot in seen.slots:
        line = (
            f"slot {slot.slot}: {len(slot.segments)} segments, {slot.batches} batches, "
            f"{slot.records} records, {len(slot.groups)} groups"
        )
        if slot.torn is not None:
            line += f"; the last write was cut off at {slot.torn.offset}, nothing is lost by that"
        print(line)
    print(f"snapshots: {seen.snapshots} sound")
    for note in seen.notes:
        print(f"note: {note}")
    for finding in seen.all_findings:
        print(f"damaged: {_place(seen, finding)}")
    if not seen.all_findings:
        print("sound")


def _place(seen: DataSurvey, finding: Finding) -> str:
    parts = [finding.file]
    if finding.offset is not None:
        parts.append(f"offset {finding.offset}")
    for group in finding.groups:
        name = seen.name_of(group)
        parts.append(f"group {group} ({name})" if name else f"group {group}")
    if finding.index is not None:
        parts.append(f"index {finding.index}")
    return f"{' '.join(parts)}: {finding.reason}"


# --------------------------------------------------------------------------- stat


def do_stat(options: Options) -> int:
    with quietly_held(options.directory) as files:
        _, directories = slot_directories(files, options.directory)
        names = _group_names(files, options.directory)
        slots = [Survey(files, path, _slot_in(path)).run() for path in directories]
    if options.json:
        show_json({"slots": [_slot_values(slot, names) for slot in slots]})
        return EXIT_DONE
    for slot in slots:
        values = _slot_values(slot, names)
        rows = values.pop("groups")
        print("  ".join(f"{name} {value}" for name, value in values.items()))
        columns = tuple(rows[0]) if rows else ()
        if rows:
            show_table(columns, [[row[column] for column in columns] for row in rows])
    return EXIT_DONE


def _slot_values(slot: Survey, names: dict[int, str]) -> dict[str, Any]:
    return {
        "slot": slot.slot,
        "segments": len(slot.segments),
        "bytes": sum(each.size_bytes for each in slot.segments),
        "used_bytes": sum(each.used_bytes for each in slot.segments),
        "live_bytes": sum(each.live_bytes for each in slot.groups.values()),
        "damage": len(slot.findings),
        "groups": [
            _group_values(group, seen, names) for group, seen in sorted(slot.groups.items())
        ],
    }


def _group_values(group: int, seen: SeenGroup, names: dict[int, str]) -> dict[str, Any]:
    return {
        "group": group,
        "name": names.get(group),
        "generation": seen.generation,
        "gseq": seen.gseq,
        "records": seen.records,
        "segments": len(seen.segments),
        "bytes": seen.size_bytes,
        "live_bytes": seen.live_bytes,
        "first": seen.first,
        "last": seen.last[0],
        "last_term": seen.last[1],
        "term": seen.state.term,
        "vote": None if seen.state.vote is None else seen.state.vote.node,
        "snapshot": None if seen.snapshot is None else seen.snapshot.index,
        "whole": seen.is_whole and seen.marked is None,
    }


def _slot_in(path: str) -> int | None:
    name = os.path.basename(os.path.normpath(path))
    return int(name) if name.isdigit() else None


def _group_names(files: Files, directory: str) -> dict[int, str]:
    """As the placement has them; none where it cannot be read, which ``verify`` tells."""
    try:
        placed = Placement.load(files, directory).groups
    except StoreError:
        return {}
    return {group: each.name for group, each in placed.items()}


# --------------------------------------------------------------------------- dump


@dataclass(slots=True)
class _Wanted:
    """What is to be shown, and how many more records of it."""

    group: int | None
    first: int
    left: int
    bodies: bool
    as_json: bool
    names: dict[int, str]

    def shows(self, record: Record) -> bool:
        header = record.header
        if self.group is not None and header.group != self.group:
            return False
        if not self.first:
            return True
        last = _last_index(record)
        return last is not None and last >= self.first


def do_dump(options: Options) -> int:
    if options.limit is not None and options.limit < 1:
        raise UsageError("--limit is at least 1")
    with quietly_held(options.directory) as files:
        _, directories = slot_directories(files, options.directory)
        if options.slot is not None:
            directories = [path for path in directories if _slot_in(path) == options.slot]
            if not directories:
                raise UsageError(f"{options.directory} has no slot {options.slot}")
        names = _group_names(files, options.directory)
        wanted = _Wanted(
            _group_of(options.group, names),
            options.first,
            options.limit or -1,
            options.bodies,
            options.json,
            names,
        )
        for path in directories:
            if not _dump_slot(files, path, wanted):
                break
    return EXIT_DONE


def _group_of(text: str | None, names: dict[int, str]) -> int | None:
    if text is None:
        return None
    for group, name in names.items():
        if name == text:
            return group
    if text.isdigit():
        return int(text)
    raise UsageError(f"no group {text} is placed here; a number may be any group")


def _dump_slot(files: Files, directory: str, wanted: _Wanted) -> bool:
    """False when enough has been shown."""
    slot = _slot_in(directory)
    numbers = segment_numbers(files, directory)
    last = last_in_use(files, directory, numbers)
    batch_number = 0
    for number in numbers:
        reader = open_segment(files, directory, number)
        for batch in batches_of(reader, batch_number, is_last=number >= last):
            batch_number = batch.number or batch_number
            for item in _in_order(batch):
                if isinstance(item, Hole):
                    _show_hole(slot, number, item, wanted)
                    continue
                if not wanted.shows(item):
                    continue
                _show_record(slot, number, batch, item, wanted)
                wanted.left -= 1
                if wanted.left == 0:
                    return False
    return True


def _in_order(batch: SeenBatch) -> list[Record | Hole]:
    return batch.items + ([] if batch.frame is None else [batch.frame])


def _show_hole(slot: int | None, segment: int, hole: Hole, wanted: _Wanted) -> None:
    what = "TORN" if hole.torn else "DAMAGED"
    if wanted.as_json:
        show_json(
            {
                "slot": slot,
                "segment": segment,
                "offset": hole.offset,
                "kind": f"({what})",
                "end": hole.end,
                "reason": hole.reason,
            }
        )
        return
    then = "an unfinished write" if hole.torn else f"going on at {hole.end}"
    print(f"slot {slot} segment {segment} @{hole.offset} -- {what}: {hole.reason}; {then}")


def _show_record(
    slot: int | None, segment: int, batch: SeenBatch, record: Record, wanted: _Wanted
) -> None:
    header = record.header
    kind = KIND_NAMES.get(header.kind, f"KIND_{header.kind}")
    detail = _detail(record, bodies=wanted.bodies)
    if wanted.as_json:
        values = {
            "slot": slot,
            "segment": segment,
            "offset": record.offset,
            "batch": batch.number,
            "batch_is_whole": batch.is_whole,
            "kind": kind,
            "group": header.group,
            "generation": header.generation,
            "gseq": header.gseq,
            "term": header.term,
            "first": header.first,
            "count": header.entries,
            "length": header.length,
            **detail,
        }
        show_json(values)
        return
    number = "-" if batch.number is None else batch.number
    parts = [f"slot {slot} segment {segment} @{record.offset} batch {number} {kind}"]
    if header.kind in records.GROUP_KINDS:
        name = wanted.names.get(header.group)
        parts.append(f"group {header.group}" + (f" ({name})" if name else ""))
        parts.append(f"gseq {header.gseq} term {header.term}")
    if header.kind == records.RUN:
        parts.append(f"first {header.first} count {header.entries}")
    parts.append(f"length {header.length}")
    entries = detail.pop("entries", [])
    parts += [f"{name} {_shown(value)}" for name, value in detail.items()]
    if not batch.is_whole:
        parts.append("(of a batch that is not whole)")
    print("  ".join(parts))
    for entry in entries:
        print("    " + "  ".join(f"{name} {_shown(value)}" for name, value in entry.items()))


def _shown(value: object) -> str:
    """On one line, whatever it is: what clients have stored must not steer a terminal."""
    if isinstance(value, str) and value.isprintable():
        return value
    if isinstance(value, list | dict):
        return json.dumps(value)
    return repr(value)


def _last_index(record: Record) -> int | None:
    header = record.header
    if header.kind == records.RUN:
        return header.first + header.entries - 1
    if header.kind in (records.TRUNCATE, records.SNAPSHOT):
        return header.first
    return None


# --------------------------------------------------------------------------- what records hold


def _detail(record: Record, *, bodies: bool) -> dict[str, Any]:
    """Never raises: a body whose checksum is right may be of a version that is not known here."""
    try:
        detail = _DETAILS.get(record.header.kind)
        return {} if detail is None else detail(record, bodies)
    except (StoreError, ValueError, TypeError, UnknownPart) as error:
        return {"undecodable": str(error)}


def _replica(replica: Replica | None) -> str | None:
    return None if replica is None else f"{replica.node}/{replica.incarnation:016x}"


def _of_hard_state(record: Record, bodies: bool) -> dict[str, Any]:
    state = records.decode_hard_state(record.body)
    return {"state_term": state.term, "vote": _replica(state.vote)}


def _of_truncate(record: Record, bodies: bool) -> dict[str, Any]:
    return {"from": record.header.first}


def _of_bootstrap(record: Record, bodies: bool) -> dict[str, Any]:
    values = msgpack.unpackb(record.body)
    if not (isinstance(values, list) and len(values) >= 3):
        return {"bytes": repr(record.body[:DATA_SHOWN_BYTES_MAX])}
    name, machine, members = values[:3]
    nodes = [str(member[0]) for member in members]
    return {"name": str(name), "machine": str(machine), "members": ",".join(nodes)}


def _of_commit(record: Record, bodies: bool) -> dict[str, Any]:
    commit = records.decode_commit(record.body)
    shown: dict[str, Any] = {"records": record.header.entries, "groups": len(commit.groups)}
    if bodies:
        shown["segment_id"] = f"{commit.segment_id:016x}"
        shown["entries"] = [{"group": g, "gseq": gseq} for g, gseq in sorted(commit.groups.items())]
    return shown


def _of_segment(record: Record, bodies: bool) -> dict[str, Any]:
    info = records.decode_segment(record.body)
    shown: dict[str, Any] = {
        "number": info.number,
        "segment_id": f"{info.segment_id:016x}",
        "previous_id": f"{info.previous_id:016x}",
        "sealed_bytes": info.sealed_bytes,
        "last_batch": info.batch,
        "of_slot": info.slot,
        "groups": len(info.table),
    }
    if bodies:
        shown["entries"] = [
            {
                "group": group,
                "generation": row.generation,
                "gseq": row.gseq,
                "term": row.term,
                "vote": _replica(row.vote),
                "snapshot": row.snapshot_index,
            }
            for group, row in sorted(info.table.items())
        ]
    return shown


def _of_damaged(record: Record, bodies: bool) -> dict[str, Any]:
    return {"reason": record.body.decode("utf-8", "replace")}


def _of_snapshot(record: Record, bodies: bool) -> dict[str, Any]:
    mark = records.decode_mark(record.header, record.body)
    snapshot = mark.snapshot
    return {
        "index": snapshot.index,
        "base": mark.base_index,
        "base_term": mark.base_term,
        "resets": mark.resets,
        "size_bytes": snapshot.size_bytes,
        "crc": f"{snapshot.crc:08x}",
        "machine_version": snapshot.machine_version,
        "members": ",".join(str(_replica(each)) for each in sorted(snapshot.configuration.members)),
    }


def _of_oldest(record: Record, bodies: bool) -> dict[str, Any]:
    return {"oldest_segment": record.header.first}


def _of_run(record: Record, bodies: bool) -> dict[str, Any]:
    header = record.header
    shown: dict[str, Any] = {"run": RUN_NAMES.get(header.run_kind, str(header.run_kind))}
    if header.run_kind == CONFIG:
        run = Run(CONFIG, header.term, header.first, header.entries, record.body, header.body_crc)
        configuration = read_configuration(run)
        shown["voters"] = ",".join(str(_replica(each)) for each in sorted(configuration.voters))
        shown["learners"] = ",".join(str(_replica(each)) for each in sorted(configuration.learners))
        shown["joint"] = configuration.is_joint
    if header.run_kind == CONFIG or bodies:
        body = decode_run(record.body)
        shown["wall_ms"] = body.wall_ms
        if bodies and header.run_kind not in (NOOP, CONFIG):
            shown["time_ms"] = body.time_ms
            shown["entries"] = [
                {"index": index, **_command(command)}
                for index, command in enumerate(body.commands, header.first)
            ]
    return shown


def _command(command: list[Any]) -> dict[str, Any]:
    session, sequence, _, data = command[:4]
    shown: dict[str, Any] = {"session": session, "sequence": sequence} if session else {}
    if data[:2] == WRITE_TAG:
        try:
            request = parse_write(data[2:])
        except FrameError:
            shown["data"] = _bytes(data)
        else:
            shown |= {"operation": request.operation, "key": request.key}
            shown["data"] = _bytes(request.data)
    else:
        shown["data"] = _bytes(data)
    return shown


def _bytes(data: bytes) -> str:
    rest = len(data) - DATA_SHOWN_BYTES_MAX
    return repr(data[:DATA_SHOWN_BYTES_MAX]) + (f" and {rest} bytes more" if rest > 0 else "")


_DETAILS: dict[int, Callable[[Record, bool], dict[str, Any]]] = {
    records.RUN: _of_run,
    records.HARD_STATE: _of_hard_state,
    records.TRUNCATE: _of_truncate,
    records.BOOTSTRAP: _of_bootstrap,
    records.COMMIT: _of_commit,
    records.SEGMENT: _of_segment,
    records.DAMAGED: _of_damaged,
    records.SNAPSHOT: _of_snapshot,
    records.OLDEST: _of_oldest,
}
