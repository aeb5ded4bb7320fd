"""The examples of docs/client.md are run, and its names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import transport.client
from tests.transport.client.fake_node import FakeNode, KVMachine
from transport.client import PolyraftError, bench, ctl
from transport.client.calls import ClientSettings

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs_as_it_stands(number: int, tmp_path: Path) -> None:
    with FakeNode(KVMachine()) as node:
        example = re.sub(r"tcp://127\.0\.0\.1:\d+", node.address, EXAMPLES[number])
        path = tmp_path / "example.py"
        path.write_text(example, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_every_exception_and_no_other() -> None:
    errors = {
        name
        for name in transport.client.__all__
        if isinstance(it := getattr(transport.client, name), type) and issubclass(it, PolyraftError)
    }
    table = TEXT[TEXT.index("| exception |") :].split("\n\n")[0]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", table))
    assert named == errors - {"PolyraftError"}


def test_the_numbers_of_the_page_are_the_defaults() -> None:
    settings = ClientSettings()
    for value in (settings.timeout_ms, settings.pending_calls_max):
        assert f"{value:,}" in TEXT
    for text in (
        f"at most {settings.batch_requests_max} commands",
        f"while {settings.messages_in_flight_max} messages",
        f"waits {settings.reply_grace_ms} ms",
        f"{settings.pending_bytes_max >> 20} MiB",
    ):
        assert text in TEXT


def test_the_command_lines_of_the_page_are_understood() -> None:
    lines = re.findall(r"^    bin/bench (.*?)  ", TEXT, re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        bench.make_parser().parse_args(line.split())
    known = ctl.make_parser().format_help()
    listed = re.search(r"command line: (.*?) and\n\n", TEXT, re.DOTALL)
    assert listed is not None
    for name in re.findall(r"`([a-z]+)", listed.group(1)):
        assert name in known
