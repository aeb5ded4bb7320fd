"""``bin/ctl`` as an operator runs it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Final

from tests.cluster.harness import ROOT

CTL_S_MAX: Final = 90.0


def ctl(*arguments: str, connect: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actors.ctl"]
    if connect:
        command += ["--connect", ",".join(connect)]
    environment = {name: value for name, value in os.environ.items() if "POLYRAFT" not in name}
    return subprocess.run(
        [*command, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CTL_S_MAX,
        check=False,
    )


def done(*arguments: str, connect: list[str] | None = None) -> dict[str, Any]:
    """Its JSON; it must succeed."""
    ended = ctl(*arguments, "--json", connect=connect)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def refused(*arguments: str, connect: list[str] | None = None, code: int = 1) -> str:
    """Its one line on stderr; it must fail."""
    ended = ctl(*arguments, connect=connect)
    assert ended.returncode == code, (ended.returncode, ended.stdout, ended.stderr)
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr
