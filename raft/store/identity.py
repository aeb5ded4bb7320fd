"""``DATA/node.json``: who this disk is; and ``DATA/lock``: which process may use it.

A blank disk draws an incarnation and writes it down before the node sends anything, so that a node
that lost its disk comes back as somebody else (pitfall 20).  The cluster id is added once, when the
cluster forms or is joined, before the first vote.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from raft.store.documents import read_document, write_document
from raft.store.errors import DamagedDocument, StoreError
from raft.store.files import Files
from raft.store.locks import FileLock, me, process_start_time, read_lock_file

__all__ = ["Child", "DataLock", "NodeIdentity", "process_start_time"]

FILE = "node.json"
WHAT = "node"
FORMAT = 1
LOCK_FILE = "lock"


@dataclass(slots=True, frozen=True)
class NodeIdentity:
    """``cluster``: 32 hex digits once formed; ``members_hash``: of the list it formed with."""

    node: str
    incarnation: int
    cluster: str | None = None
    members_hash: str | None = None
    format: int = FORMAT

    @classmethod
    def load(cls, files: Files, data_dir: str) -> NodeIdentity | None:
        """None: a blank disk.  Raises DamagedDocument, UnknownFormat."""
        path = os.path.join(data_dir, FILE)
        body = read_document(files, path, WHAT, FORMAT)
        if body is None:
            return None
        try:
            return cls(
                node=_text(body["node"]),
                incarnation=int(_text(body["incarnation"]), 16),
                cluster=None if body["cluster"] is None else _text(body["cluster"]),
                members_hash=None if body["members_hash"] is None else _text(body["members_hash"]),
            )
        except (KeyError, ValueError) as error:
            raise DamagedDocument(path, f"wrong shape ({error})") from error

    @classmethod
    def create(cls, files: Files, data_dir: str, node: str, incarnation: int) -> NodeIdentity:
        """Give a blank disk its identity, durably.  Refuses a disk that has one."""
        assert 0 < incarnation < 1 << 64, incarnation
        if files.exists(os.path.join(data_dir, FILE)):
            raise StoreError(f"{os.path.join(data_dir, FILE)} exists; an identity is drawn once")
        identity = cls(node, incarnation)
        identity._write(files, data_dir)
        return identity

    def adopt(
        self, files: Files, data_dir: str, cluster: str, members_hash: str | None = None
    ) -> NodeIdentity:
        """The same node as part of a cluster, durably.  A cluster is never changed for another."""
        if self.cluster is not None and self.cluster != cluster:
            raise StoreError(
                f"{os.path.join(data_dir, FILE)} belongs to cluster {self.cluster}, not {cluster}"
            )
        identity = replace(self, cluster=cluster, members_hash=members_hash or self.members_hash)
        identity._write(files, data_dir)
        return identity

    def _write(self, files: Files, data_dir: str) -> None:
        body = {
            "node": self.node,
            "incarnation": f"{self.incarnation:016x}",
            "cluster": self.cluster,
            "members_hash": self.members_hash,
        }
        write_document(files, os.path.join(data_dir, FILE), WHAT, FORMAT, body)


@dataclass(slots=True, frozen=True)
class Child:
    """A process that the node process started; ``start`` tells it from a later one of this pid."""

    pid: int
    start: int | None
    kind: str
    slot: int | None = None


class DataLock:
    """The lock on DATA, held from construction until :meth:`close` or death.

    ``left_over``: the children that the last holder had when it ended.  They stay in the file until
    :meth:`set_children`, so that a second crash does not lose sight of them.
    """

    __slots__ = ("_lock", "left_over")

    def __init__(self, files: Files, data_dir: str) -> None:
        """Raises LockHeld."""
        self._lock = FileLock(files, os.path.join(data_dir, LOCK_FILE))
        self.left_over = _children(self._lock.previous)
        self.set_children(self.left_over)

    def set_children(self, children: Sequence[Child]) -> None:
        listed = [
            {"pid": child.pid, "start": child.start, "kind": child.kind, "slot": child.slot}
            for child in children
        ]
        self._lock.write({**me(), "children": listed})

    def close(self) -> None:
        self._lock.close()

    @staticmethod
    def read(files: Files, data_dir: str) -> dict[str, Any]:
        """What the lock file says, without taking the lock; empty if nothing readable."""
        return read_lock_file(files, os.path.join(data_dir, LOCK_FILE))


def _children(content: dict[str, Any]) -> tuple[Child, ...]:
    """Those that can be told apart; the file may have been cut off while it was written."""
    listed = content.get("children")
    found = []
    for child in listed if isinstance(listed, list) else ():
        if not isinstance(child, dict) or not isinstance(child.get("pid"), int):
            continue
        start, slot = child.get("start"), child.get("slot")
        found.append(
            Child(
                pid=child["pid"],
                start=start if isinstance(start, int) else None,
                kind=str(child.get("kind")),
                slot=slot if isinstance(slot, int) else None,
            )
        )
    return tuple(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} where a text belongs")
    return value
