"""``ctl backup GROUP FILE`` and ``ctl backup-verify FILE``.

A backup is asked of the node that is named first with --connect, or of --node: a follower does as
well as the leader, and is better. It holds all that the cluster had acknowledged to anybody before
the command was given (``readIndex`` of the leader), or with ``--stale`` what that replica has,
which needs no leader.

A connection that breaks is waited for; the node keeps the snapshot meanwhile, for a minute. FILE
appears when all of it is there, checked and synced, and never before.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

from actors.backups import decode_data
from raft.store.backup_file import (
    BackupFile,
    BackupHead,
    BackupWriter,
    meta_of,
    refuse_to_replace,
)
from raft.store.errors import StoreError
from raft.store.files import Files
from raft.store.inspect import ReadingFiles
from transport.client.blocking import Client
from transport.client.ctl import (
    EXIT_DONE,
    Commands,
    CtlError,
    Options,
    add_command,
    add_offline,
    show_fields,
    show_json,
)
from transport.client.errors import (
    BadRequest,
    Forbidden,
    NoSuchGroup,
    PolyraftError,
    Rejected,
)
from transport.client.fleet import pause

BEGIN_MS: Final = 300_000  # for a large machine to be written out
RESUME_MS: Final = 30_000  # how long a break may be
FINAL: Final = (Rejected, BadRequest, Forbidden, NoSuchGroup)  # no use in asking again


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """The commands of this file."""
    backup = add_command(
        commands, "backup", do_backup, "group", "file", text="a group's state into a file"
    )
    backup.add_argument("--node", default="", help="whose replica, by default the asked one's")
    backup.add_argument(
        "--stale", action="store_true", help="what that replica has; needs no leader"
    )
    add_offline(commands, "backup-verify", do_verify, "file", text="read a backup, tell if sound")


@contextmanager
def told() -> Iterator[None]:
    """What a disk does to us is one line for the operator."""
    try:
        yield
    except StoreError as error:
        raise CtlError(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise CtlError(f"{where}{error.strerror or error}") from error


# --------------------------------------------------------------------------- backup


def do_backup(client: Client, options: Options) -> int:
    with told():
        refuse_to_replace(Files(), options.file)
        wanted = {}
        if not options.stale:
            wanted["min_index"] = str(client.admin(options.group, "readIndex")["index"])
        begun = persist(lambda address: _begin(client, options, wanted, address), options.addresses)
        head = _head_of(begun, client, options)
        size_bytes = _receive(client, options, begun["backup"], head)
    values = {
        "file": options.file,
        "group": head.group,
        "index": head.snapshot.index,
        "term": head.snapshot.term,
        "node": head.node,
        "size_bytes": size_bytes,
    }
    if options.json:
        show_json(values)
    else:
        print(
            f"{options.file}: group {head.group} up to index {head.snapshot.index} "
            f"(term {head.snapshot.term}), of {head.node}, {size_bytes} bytes"
        )
    return EXIT_DONE


def _begin(
    client: Client, options: Options, wanted: dict[str, str], address: str
) -> dict[str, Any]:
    timeout_ms = max(BEGIN_MS, options.timeout_ms)
    return client.admin(
        options.group, "backupBegin", options.node, wanted, address=address, timeout_ms=timeout_ms
    )


def _head_of(begun: dict[str, Any], client: Client, options: Options) -> BackupHead:
    status = client.admin("", "status")
    try:
        return BackupHead(
            group=str(begun["group"]),
            machine=str(begun["machine"]),
            cluster=str(status["cluster"]),
            node=str(begun["node"]),
            snapshot=meta_of(begun["snapshot"]),
            made_ms=time.time_ns() // 1_000_000,
            version=str(status["version"]),
        )
    except (KeyError, ValueError) as error:
        raise CtlError(f"the node's answer describes no snapshot: {error}") from error


def _receive(client: Client, options: Options, name: str, head: BackupHead) -> int:
    total = head.snapshot.size_bytes
    writer = BackupWriter(Files(), options.file, head)
    progress = Progress(options.file, total)
    try:
        while writer.held_bytes < total:
            more = {"backup": name, "offset": str(writer.held_bytes)}

            def ask(address: str, more: dict[str, str] = more) -> dict[str, Any]:
                # Whoever is asked passes it on to the node that holds the snapshot.
                return client.admin(options.group, "backupRead", head.node, more, address=address)

            data = decode_data(str(persist(ask, options.addresses).get("data")))
            if not data or writer.held_bytes + len(data) > total:
                raise CtlError(f"{head.node} sent something else than bytes of the snapshot")
            writer.write(data)
            progress.show(writer.held_bytes)
        return writer.finish()
    finally:
        progress.end()
        writer.abort()  # nothing, if it is finished


def persist(ask: Callable[[str], dict[str, Any]], addresses: list[str]) -> dict[str, Any]:
    """Ask the first address, then the others, and again, until one answers or it takes too long."""
    deadline_s = time.monotonic() + RESUME_MS / 1_000
    while True:
        for address in addresses:
            try:
                return ask(address)
            except PolyraftError as error:
                if isinstance(error, FINAL) or time.monotonic() >= deadline_s:
                    raise
        pause()


class Progress:
    """On a terminal, once in a while; elsewhere nothing."""

    def __init__(self, what: str, total_bytes: int) -> None:
        self._what = what
        self._total = total_bytes
        self._shown_s = time.monotonic()
        self._is_shown = False

    def show(self, done_bytes: int) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s < 0.5 or not sys.stderr.isatty():
            return
        self._shown_s = now_s
        self._is_shown = True
        percent = 100 * done_bytes // self._total
        print(f"\r{self._what}: {percent} %", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_shown:
            print(file=sys.stderr)


# --------------------------------------------------------------------------- backup-verify


def do_verify(options: Options) -> int:
    with told():
        backup = BackupFile(ReadingFiles(), options.file)
        backup.verify()
    head = backup.head
    made = datetime.fromtimestamp(head.made_ms / 1_000, UTC).isoformat(timespec="seconds")
    values = {
        "group": head.group,
        "machine": head.machine,
        "index": head.snapshot.index,
        "term": head.snapshot.term,
        "machine_version": head.snapshot.machine_version,
        "node": head.node,
        "cluster": head.cluster,
        "made": made,
        "version": head.version,
        "size_bytes": head.snapshot.size_bytes,
        "sound": True,
    }
    if options.json:
        show_json(values)
    else:
        show_fields(values)
    return EXIT_DONE
