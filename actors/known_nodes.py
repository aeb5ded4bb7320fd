"""Which nodes there are: the catalog's word on them, kept where it is needed before the catalog is.

    DATA/nodes    {"nodes": {node id: row}}

A node that starts has to know whom it may speak to, and whom not any more, before it can ask
anybody: of two disks that call themselves n2, one was replaced.  The founders of the cluster, which
every member has on disk, are only the first answer.  So what the catalog says of nodes
(:mod:`actors.catalog_members`) is written down here whenever it changes.

**Versions.**  Each row carries the index of the catalog's entry that made it, and the higher one
counts, whoever brings it.  Nodes tell each other their rows in HELLO: one that was down while
another was replaced could otherwise refuse the very peer that it needs to learn of it.  A row of
an older disk cannot come back, for its version is lower.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from actors.catalog_members import Row, node_row
from raft.store.documents import NODES, NODES_FORMAT, read_table, write_document
from raft.store.files import Files
from raft.store.space import is_full_error

log = logging.getLogger("polyraft.node")

ADDRESSES: Final = ("client", "peer", "events")
NUMBER: Final = "incarnation"  # of 64 bits: as hexadecimal text in JSON


OnFull = Callable[[Callable[[], None]], None]  # have it tried again when there may be room


class KnownNodes:
    """The file's content at the last load or merge, unless the disk has no room for it now."""

    def __init__(self, files: Files, path: str, rows: dict[str, Row], on_full: OnFull) -> None:
        self._files = files
        self._path = path
        self._on_full = on_full
        self._is_behind = False  # the file
        self.rows = rows

    @classmethod
    def load(cls, files: Files, data_dir: str, on_full: OnFull) -> KnownNodes:
        """Raises DamagedDocument and UnknownFormat; a missing file knows nobody."""
        path = os.path.join(data_dir, NODES)
        rows = read_table(files, path, NODES, NODES_FORMAT, "nodes", str, _decode)
        return cls(files, path, rows, on_full)

    def seed(self, founders: Iterable[tuple[str, int]]) -> None:
        """Those of whom nothing else is known are what they were when the cluster formed."""
        for node, incarnation in founders:
            self.rows.setdefault(node, node_row(node, incarnation))

    def merge(self, rows: Iterable[Row]) -> list[str]:
        """Take what is newer; durable when this returns, unless the disk is too full for it: then
        when there is room again.  The nodes of which it was.

        Without a version (0) a row is of the cluster's beginning, and nothing that needs keeping.
        """
        changed = newer(self.rows, rows)
        if changed:
            self.rows = {**self.rows, **changed}
            if any(row["version"] for row in changed.values()):
                self._write()
        return sorted(changed)

    def _write(self) -> None:
        body = {"nodes": {node: _encode(row) for node, row in self.rows.items()}}
        try:
            write_document(self._files, self._path, NODES, NODES_FORMAT, body)
        except OSError as error:
            if not is_full_error(error):
                raise
            if not self._is_behind:
                log.warning("what is known of the nodes is not written down: %s", error)
            self._is_behind = True
            self._on_full(self._write)
            return
        if self._is_behind:
            log.info("what is known of the nodes is written down")
        self._is_behind = False

    def frame_rows(self) -> list[list[Any]]:
        """As :data:`actors.wire.NODES` has it."""
        return [
            [
                node,
                row["incarnation"],
                {key: row[key] for key in ADDRESSES if row.get(key)},
                row["version"],
                bool(row["awaits"]),
                bool(row["removed"]),
            ]
            for node, row in sorted(self.rows.items())
        ]


def newer(known: Mapping[str, Row], rows: Iterable[Row]) -> dict[str, Row]:
    """Of rows that somebody tells, those that are news, by node."""
    return {
        row["id"]: dict(row)
        for row in rows
        if row["id"] not in known or row["version"] > known[row["id"]]["version"]
    }


def rows_of_hello(nodes: Iterable[Iterable[Any]]) -> list[Row]:
    """What a peer told of nodes (:class:`transport.frames.Hello`), as rows.

    It leaves out what only the catalog's own replicas need; they have it from their log.
    """
    rows = []
    for node, incarnation, version, addresses, awaits, removed in nodes:
        rows.append(
            {
                **node_row(node, incarnation, version),
                **dict(zip(ADDRESSES, (text or None for text in addresses), strict=True)),
                "awaits": bool(awaits),
                "removed": bool(removed),
            }
        )
    return rows


def _encode(row: Row) -> dict[str, Any]:
    encoded = {key: value for key, value in row.items() if key not in ("past", "awaited")}
    encoded[NUMBER] = f"{row[NUMBER]:016x}"
    return encoded


def _decode(row: dict[str, Any]) -> Row:
    incarnation = int(row[NUMBER], 16)
    decoded = {**node_row(str(row["id"]), incarnation), **row}
    return {**decoded, NUMBER: incarnation, "version": int(row["version"])}
