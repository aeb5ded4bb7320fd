"""Who may write.  Only a lock proves that its last holder is dead; nothing else does.

An exclusive ``flock`` belongs to the open file description, and the kernel lets go of it when the
last descriptor of that description is closed, at the latest when its process dies.  So the holder
opens the file itself, keeps the descriptor until death, and never passes it on.

The content is for people and for the supervisor that cleans up: JSON with the holder's pid and the
start time of that process, which together name a process for good (pids are used again).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from raft.store.errors import LockHeld
from raft.store.files import Files, read_whole

CONTENT_BYTES_MAX = 1 << 20


def process_start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of ``pid`` (stat, field 22); None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is a name in parentheses that may itself hold spaces and parentheses.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def me() -> dict[str, Any]:
    """How this process signs a lock file."""
    pid = os.getpid()
    return {"pid": pid, "start": process_start_time(pid)}


class FileLock:
    """An exclusive lock on ``path``, held from construction to :meth:`close`.

    ``previous`` is what the last holder had written: empty when that was nothing readable.
    """

    __slots__ = ("_descriptor", "_files", "path", "previous")

    def __init__(self, files: Files, path: str) -> None:
        self._files = files
        self.path = path
        self._descriptor: int | None = None
        descriptor = files.open(path, create=True)
        try:
            content = files.pread(descriptor, CONTENT_BYTES_MAX, 0)
            if not files.flock(descriptor):
                raise LockHeld(path, _describe(_parse(content)))
            # Read again: the holder may have written between the first look and its end.
            self.previous = _parse(files.pread(descriptor, CONTENT_BYTES_MAX, 0))
        except BaseException:
            files.close(descriptor)
            raise
        self._descriptor = descriptor

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the content.  Not synced: it describes processes, which no reboot survives."""
        assert self._descriptor is not None, "lock is closed"
        data = json.dumps(content).encode()
        assert len(data) <= CONTENT_BYTES_MAX, len(data)
        # In place first: a full disk has no room for what is freed and then asked for again.
        self._files.pwrite(self._descriptor, data, 0)
        self._files.truncate(self._descriptor, len(data))

    def close(self) -> None:
        """Let go.  The file stays: removing it would let two processes lock two files."""
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None


def read_lock_file(files: Files, path: str) -> dict[str, Any]:
    """What the file says, whether anybody holds the lock or not; empty if nothing readable."""
    return _parse(read_whole(files, path)) if files.exists(path) else {}


def _parse(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content) if content else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _describe(content: dict[str, Any]) -> str:
    pid = content.get("pid")
    if pid is None:
        return "another process"
    start = content.get("start")
    return f"process {pid}" if start is None else f"process {pid} (start time {start})"


class QuietLock:
    """The same lock, for who only looks: nothing is written, no file is created.

    No lock file: nobody has ever run there, and there is nothing to hold.
    """

    __slots__ = ("_descriptor", "_files")

    def __init__(self, files: Files, path: str) -> None:
        """Raises LockHeld."""
        self._files = files
        self._descriptor: int | None = None
        if not files.exists(path):
            return
        descriptor = files.open(path)
        try:
            if not files.flock(descriptor):
                content = _parse(files.pread(descriptor, CONTENT_BYTES_MAX, 0))
                raise LockHeld(path, _describe(content))
        except BaseException:
            files.close(descriptor)
            raise
        self._descriptor = descriptor

    def close(self) -> None:
        if self._descriptor is not None:
            self._files.close(self._descriptor)
            self._descriptor = None
