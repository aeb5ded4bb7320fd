"""DATA of a node that starts: whose it is, and that nobody else has it."""

from __future__ import annotations

import secrets
import threading

from actors.config import NodeConfig
from actors.runtime import MonotonicClock
from actors.settings import LOCK_WAIT_MS_MAX
from raft.store.errors import LockHeld
from raft.store.files import Files, make_directory
from raft.store.identity import DataLock, NodeIdentity


class NodeRefused(Exception):
    """This node cannot run; one line says why."""


def open_data(config: NodeConfig) -> tuple[Files, DataLock, NodeIdentity]:
    """Lock DATA and find out who its disk is; raises NodeRefused, StoreError."""
    files = Files()
    data = str(config.data)
    make_directory(files, data)
    lock = _take_lock(files, data)
    # A life before may have ended between the renaming of a document and its being durable. What is
    # read here is told to others, and to the workers, whose logs rely on it.
    files.fsync_dir(data)
    identity = NodeIdentity.load(files, data)
    if identity is None:
        identity = NodeIdentity.create(files, data, config.id, secrets.randbits(63) | 1)
    elif identity.node != config.id:
        raise NodeRefused(f"{data} is the data of node {identity.node}, not of {config.id}")
    return files, lock, identity


def _take_lock(files: Files, data: str) -> DataLock:
    """A node that is just ending may still hold it."""
    clock = MonotonicClock()
    deadline_ms = clock.now_ms() + LOCK_WAIT_MS_MAX
    while True:
        try:
            return DataLock(files, data)
        except LockHeld as error:
            if clock.now_ms() >= deadline_ms:
                raise NodeRefused(f"the data is in use: {error}") from error
            threading.Event().wait(0.02)
