"""Transcripts: what is done to a small cluster, and everything that can be seen of it.

The files in ``transcripts/`` are read as documentation, and replayed here word by word; their
language is in :mod:`tests.raft.transcript`. Each begins with what it shows, and with the section of
the Raft paper, of the thesis or the number of the pitfall that it is about.

To record them anew after a wanted change, and then read the difference::

    RECORD_TRANSCRIPTS=1 pytest tests/raft/test_transcripts.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.raft.transcript import Player, replay

FOLDER = Path(__file__).parent / "transcripts"
FILES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_transcript_is_what_happens(path: Path) -> None:
    text = path.read_text()
    happened = replay(text)
    if os.environ.get("RECORD_TRANSCRIPTS"):
        path.write_text(happened)
    assert happened.splitlines() == path.read_text().splitlines()


def test_there_are_transcripts_and_a_wrong_one_would_be_noticed() -> None:
    assert len(FILES) >= 30
    text = FILES[0].read_text()
    assert replay(text.replace("term=1", "term=7")) == text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_first_what_it_shows(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert max(len(line) for line in lines if line.startswith("#")) <= 110


def test_every_command_of_the_language_is_used() -> None:
    words = {
        word
        for path in FILES
        for line in path.read_text().splitlines()
        if line.startswith(">")
        for word in line[1:].split()[:2]
    }
    assert set(Player().commands) | {"briefly", "quietly"} <= words
