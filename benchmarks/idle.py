"""What an idle cluster costs: resident memory and CPU of each process over a minute.

    python benchmarks/idle.py [SECONDS]

Starts three nodes with one group on this machine, waits for its leader, and reads /proc.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def status_of(address: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "bin/ctl"), "--connect", address, "--json", "status"]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    found: dict[str, Any] = answer["nodes"][0] if "nodes" in answer else answer
    return found


def rows_of(status: dict[str, Any]) -> list[tuple[str, int]]:
    rows: list[tuple[str, int]] = []
    for each in status["processes"]:
        group = {0: "_system", 1: "kv"}.get(each["slot"])
        what = each["kind"]
        if group is not None:
            what += f" of {group}, {status['groups'][group]['role']}"
        rows.append((f"{status['node']} {what}", each["pid"]))
    return rows


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    command = [sys.executable, str(ROOT / "bin/node"), "--dev", "3", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cluster:
        try:
            assert cluster.stdout is not None
            lines: list[str] = []
            while not lines or lines[-1] != "ready cluster\n":
                lines.append(cluster.stdout.readline())
                assert lines[-1], "the cluster ended"
            addresses = [line.split("client=")[1].split()[0] for line in lines[:-1]]
            rows = [row for address in addresses for row in rows_of(status_of(address))]
            before = {pid: cpu_seconds(pid) for _, pid in rows}
            time.sleep(seconds)
            for what, pid in rows:
                percent = 100 * (cpu_seconds(pid) - before[pid]) / seconds
                print(f"{what:32s} {percent:5.2f} % of a core  {resident_mb(pid):5.1f} MB resident")
        finally:
            cluster.terminate()


if __name__ == "__main__":
    main()
