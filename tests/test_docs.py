"""What the documents promise about the checkout."""

from __future__ import annotations

import re
from pathlib import Path

from actors import cli
from actors.config import from_file, node_config
from actors.version import VERSION

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


def test_the_python_in_readme_compiles() -> None:
    for block in blocks("python"):
        compile(block, "README.md", "exec")


def test_the_changelog_knows_this_version_or_what_comes_after_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in text or f"## [{VERSION}]" in text
