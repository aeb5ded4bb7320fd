"""What the documents promise about the checkout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from actors import cli
from actors.config import from_file, node_config
from actors.machines import Context
from actors.version import VERSION
from transport.polyraft_pb2 import ReadRequest, WriteRequest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(language: str) -> list[str]:
    """Fenced blocks of README in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def test_every_link_between_pages_leads_somewhere() -> None:
    wrong = []
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            path = target.partition("#")[0]
            if path and "://" not in path and not (page.parent / path).exists():
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong


def test_the_file_in_readme_is_a_configuration(tmp_path: Path) -> None:
    (content,) = blocks("toml")
    (tmp_path / "node.toml").write_text(content)
    config = node_config({}, {}, from_file(tmp_path / "node.toml"))
    assert config.members["n1"] == config.advertise_peer
    assert config.groups == {"kv": "kv"}


def test_the_command_lines_in_readme_are_understood() -> None:
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    lines = re.findall(r"^    bin/node (.*)$", text, re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        cli._parse(line.split())


def test_the_machine_in_readme_counts_and_refuses() -> None:
    client, machine = blocks("python")
    compile(client, "README.md", "exec")
    names: dict[str, Any] = {}
    exec(compile(machine, "README.md", "exec"), names)
    counter = names["Counter"]()
    context = Context(index=1, time_ms=0, version=1, emit=lambda kind, values: None)
    assert counter.apply(WriteRequest(data=b"four"), context).data == b"4"
    assert not counter.apply(WriteRequest(), context).success
    assert counter.read(ReadRequest()).data == b"4"
    assert len(counter.digest()) == 8


def test_the_changelog_knows_this_version_or_what_comes_after_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{VERSION}]" in text
