"""The processes of a node as the kernel sees them, whatever the node says of itself.

Every process of a cluster under test inherits one variable in its environment, and /proc shows the
environment that a process began with, also after a fork. So nobody can hide: not a worker whose
router is gone, not an orphan of a forkserver that was killed.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

MARK = "PROCESS_OF_CLUSTER_UNDER_TEST"


@dataclass(slots=True, frozen=True)
class Process:
    """``start`` tells it from a later process of the same pid."""

    pid: int
    start: int
    parent: int = field(compare=False)
    state: str = field(compare=False)
    command: str = field(compare=False)

    def is_alive(self) -> bool:
        now = read(self.pid)
        return now is not None and now.start == self.start and now.state not in "ZX"

    def is_stopped(self) -> bool:
        now = read(self.pid)
        return now is not None and now.start == self.start and now.state == "T"

    def signal(self, number: signal.Signals) -> None:
        """Of a process that is gone: nothing."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive():
                signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return
        finally:
            os.close(descriptor)


def read(pid: int) -> Process | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        start=int(fields[19]),
        parent=int(fields[1]),
        state=fields[0].decode(),
        command=command.replace(b"\0", b" ").decode(errors="replace"),
    )


# Environments of living processes that were looked at before, by pid and start time.
_environments: dict[tuple[int, int], bytes] = {}


def marked(mark: str) -> list[Process]:
    """All living processes whose variable begins with ``mark``, the oldest first.

    A process that is about to end has let go of its memory, and with it of its environment, some
    time before it is gone: then it is known by what was there when it was seen before.
    """
    wanted = f"{MARK}={mark}".encode()
    known = {pid for pid, _ in _environments}
    seen: dict[tuple[int, int], bytes] = {}
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            environment = b""
        pid = int(entry.name)
        process = read(pid) if environment or pid in known else None
        if process is None or process.state in "ZX":
            continue
        key = (process.pid, process.start)
        environment = environment or _environments.get(key, b"")
        seen[key] = environment
        if environment.startswith(wanted) or b"\0" + wanted in environment:
            found.append(process)
    _environments.clear()
    _environments.update(seen)
    return sorted(found, key=lambda process: (process.start, process.pid))
