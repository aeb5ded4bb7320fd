"""``ctl restore FILE``: a backup becomes a new group of a cluster that runs.

What it does: checks the backup; asks the cluster for its nodes; puts them as the members into the
head of the snapshot; brings the file to each of them; and only when all of them have it on their
disks tells the catalog that there is such a group and with what it begins. From then on it is a
group like any other (actors/restores.py says why none of its members can begin empty).

It may be given again at any moment, as after a break: what a node has is not sent again, and a
group that was restored from the same file with the same members is not made twice.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Iterator
from typing import Any, Final

from actors.catalog import group_name_error
from actors.ctl_backup import Progress, persist, told
from actors.restores import CHUNK_BYTES
from raft.configuration import Configuration
from raft.messages import Replica, SnapshotMeta
from raft.store.backup_file import BackupFile, meta_values, with_members
from raft.store.inspect import ReadingFiles
from transport.client.blocking import Client
from transport.client.ctl import (
    EXIT_DONE,
    SYSTEM_GROUP,
    Commands,
    CtlError,
    Options,
    add_command,
    show_json,
    text_of,
)
from transport.client.fleet import pause

READY_MS: Final = 60_000  # for the machines to be restored, and a leader


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """The command of this file."""
    restore = add_command(
        commands, "restore", do_restore, "file", text="make a new group of what a backup holds"
    )
    restore.add_argument("--group", metavar="NAME", help="its name, by default that of the backup")


def do_restore(client: Client, options: Options) -> int:
    with told():
        backup = BackupFile(ReadingFiles(), options.file)
        backup.verify()
        name = options.group or backup.head.group
        error = group_name_error(name)
        if error is not None:
            raise CtlError(error)
        members = _nodes(client)
        meta = with_members(backup, Configuration(members))
        _check_group(client, name, meta)
        for node in sorted(members):
            _bring(client, options, backup, meta, node.node)
        more = {"machine": backup.head.machine, "snapshot": _described(meta)}
        answer = client.admin(SYSTEM_GROUP, "restoreGroup", name, more)
    _wait_until_ready(client, options, name)
    values = {**answer, "group": name, "index": meta.index, "members": [m.node for m in members]}
    if options.json:
        show_json(values)
    else:
        print(
            f"{name}: restored up to index {meta.index} on {', '.join(sorted(values['members']))}"
        )
    return EXIT_DONE


def _described(meta: SnapshotMeta) -> str:
    return json.dumps(meta_values(meta), sort_keys=True)


def _nodes(client: Client) -> frozenset[Replica]:
    rows = client.admin(SYSTEM_GROUP, "nodes").get("nodes")
    try:
        assert isinstance(rows, list)
        found = frozenset(Replica(str(row["id"]), int(row["incarnation"], 16)) for row in rows)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise CtlError("the answer has no list of nodes") from error
    if not found:
        raise CtlError("the cluster has no nodes")
    return found


def _check_group(client: Client, name: str, meta: SnapshotMeta) -> None:
    """Before anything is sent: a group is never restored into."""
    for row in client.admin(SYSTEM_GROUP, "groups").get("groups") or []:
        if row.get("name") == name and row.get("restore") != meta_values(meta):
            raise CtlError(
                f"there is a group {name} already; give another name with --group, or restore "
                "before a node is started with --group"
            )


def _bring(
    client: Client, options: Options, backup: BackupFile, meta: SnapshotMeta, node: str
) -> None:
    """All of it, onto the disk of this node; from wherever it has come to."""
    described = _described(meta)
    progress = Progress(node, meta.size_bytes)
    pieces, held_bytes = _pieces(backup, meta, 0), 0
    restarted = 0
    try:
        while held_bytes < meta.size_bytes:
            more = {
                "snapshot": described,
                "offset": str(held_bytes),
                "data": base64.b64encode(next(pieces)).decode(),
            }

            def ask(address: str, more: dict[str, str] = more) -> dict[str, Any]:
                # Whoever is asked passes it on to the node that is meant.
                return client.admin(SYSTEM_GROUP, "restoreWrite", node, more, address=address)

            answer = persist(ask, options.addresses)
            now_held = answer.get("held")
            if answer.get("node") != node or not isinstance(now_held, int):
                raise CtlError(f"{node} does not say what it holds of the snapshot")
            if now_held != held_bytes + len(_data_of(more)):
                # It has more already, or its process is another one and has forgotten.
                restarted += now_held <= held_bytes
                if restarted > 3:
                    raise CtlError(f"{node} does not keep what it is sent")
                pieces = _pieces(backup, meta, now_held)
            held_bytes = now_held
            progress.show(held_bytes)
    finally:
        progress.end()


def _data_of(more: dict[str, str]) -> bytes:
    return base64.b64decode(more["data"])


def _pieces(backup: BackupFile, meta: SnapshotMeta, offset: int) -> Iterator[bytes]:
    """Of CHUNK_BYTES each, but the last one."""
    rest = b""
    for piece in backup.frames(meta.configuration, offset):
        rest += piece
        while len(rest) >= CHUNK_BYTES:
            yield rest[:CHUNK_BYTES]
            rest = rest[CHUNK_BYTES:]
    if rest:
        yield rest


def _wait_until_ready(client: Client, options: Options, name: str) -> None:
    deadline_s = time.monotonic() + max(READY_MS, options.timeout_ms) / 1_000
    for address in options.addresses:
        while not (why := client.admin(name, "why", address=address)).get("ok"):
            if time.monotonic() >= deadline_s:
                text = f"{text_of(why.get('reason'))}: {text_of(why.get('text'))}"
                raise CtlError(f"{name} is restored, but does not work yet: {text}")
            pause()
