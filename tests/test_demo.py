"""The show of README, run as a newcomer runs it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from actors.demo import NotTrueError, Story, Stream

PROGRAM = Path(__file__).resolve().parent.parent / "bin" / "demo"
WAIT_S_MAX = 120


def start(cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(cwd)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.cluster
def test_a_leader_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    process = start(tmp_path)
    output, errors = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 0, output + errors
    assert output.splitlines()[-1].endswith("nothing was lost")
    assert output.count("read greeting = hello through") == 3
    assert not list(tmp_path.glob("polyraft-*"))


@pytest.mark.cluster
def test_a_show_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    pids = []
    for line in process.stdout:
        if " is ready: pid " in line:
            pids.append(int(line.split("pid ")[1].split(",")[0]))
        if len(pids) == 3:
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 130, errors
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.glob("polyraft-*"))


@pytest.mark.cluster
def test_a_loss_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def promised_too_much(stream: Stream) -> None:
        stream.acknowledged["stream/999999"] = 0.0
        stop(stream)

    stop = Stream.stop
    monkeypatch.setattr(Stream, "stop", promised_too_much)
    story = Story(tmp_path / "data")
    try:
        with pytest.raises(NotTrueError, match="n1 lost 1 writes, stream/999999 the first"):
            story.tell()
    finally:
        story.end()
