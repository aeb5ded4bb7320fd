"""What every child process does alike."""

from __future__ import annotations

import subprocess
import sys

import pytest

_TAKES_TURNS = """
import sys, threading
from actors.process import share_memory_between_threads

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

def run(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

if sys.argv[1] == "shared":
    assert share_memory_between_threads()
state = {}
begin = resident_mb()
run(lambda: state.update((at, bytes(1_000)) for at in range(40_000)))
once = resident_mb() - begin
kept = [state[at] for at in range(0, 40_000, 20)]  # so that no page is free as a whole
state.clear()
state.update((at, bytes(1_000)) for at in range(40_000))
print((resident_mb() - begin) / once)
"""


def memory_of(kind: str) -> float:
    """How many times the memory of a state a process has whose threads build it in turn."""
    command = [sys.executable, "-c", _TAKES_TURNS, kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc; nodes run on Linux alone")
def test_what_one_thread_lets_go_of_another_can_use() -> None:
    assert memory_of("shared") < 1.2
    assert memory_of("each its own") > 1.5, "otherwise there is nothing to be shared"
