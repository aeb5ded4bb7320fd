"""node.json and placement: replaced as a whole, checked when read."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import pytest

from raft.lives import LIVES_MAX
from raft.messages import Replica
from raft.store.documents import write_document
from raft.store.errors import DamagedDocument, StoreError, UnknownFormat
from raft.store.files import Files
from raft.store.identity import NodeIdentity
from raft.store.memory import MemoryFiles
from raft.store.placement import PlacedGroup, Placement

KV = PlacedGroup(0, 1, "kv", "kv", (Replica("n1", 2**64 - 1), Replica("n2", 5)), {"limit": 7})
NAMES = PlacedGroup(1, 3, "names", "naming")


def test_a_placement_comes_back(tmp_path: Path) -> None:
    placement = Placement.load(Files(), str(tmp_path))
    assert placement.groups == {}
    placement.replace({1: KV, 2**63: NAMES})
    assert placement.groups == {1: KV, 2**63: NAMES}
    again = Placement.load(Files(), str(tmp_path))
    assert again.groups == {1: KV, 2**63: NAMES}
    assert again.in_slot(1) == {2**63: NAMES}
    assert [path.name for path in tmp_path.iterdir()] == ["placement"]


def test_an_identity_comes_back(tmp_path: Path) -> None:
    data = str(tmp_path)
    assert NodeIdentity.load(Files(), data) is None
    identity = NodeIdentity.create(Files(), data, "n1", 2**64 - 1)
    assert NodeIdentity.load(Files(), data) == identity == NodeIdentity("n1", 2**64 - 1)
    formed = identity.adopt(Files(), data, "ab" * 16, "cd" * 32)
    assert NodeIdentity.load(Files(), data) == formed
    assert (formed.cluster, formed.members_hash) == ("ab" * 16, "cd" * 32)
    assert formed.adopt(Files(), data, "ab" * 16) == formed


def test_an_identity_is_drawn_once(tmp_path: Path) -> None:
    """Pitfall 20: a node never becomes another one on the same disk."""
    identity = NodeIdentity.create(Files(), str(tmp_path), "n1", 7)
    with pytest.raises(StoreError, match="drawn once"):
        NodeIdentity.create(Files(), str(tmp_path), "n1", 8)
    formed = identity.adopt(Files(), str(tmp_path), "ab" * 16)
    with pytest.raises(StoreError, match="belongs to cluster"):
        formed.adopt(Files(), str(tmp_path), "cd" * 16)
    assert NodeIdentity.load(Files(), str(tmp_path)) == formed


def test_people_and_other_programs_can_read_it(tmp_path: Path) -> None:
    NodeIdentity.create(Files(), str(tmp_path), "n1", 0xAB)
    first, second = (tmp_path / "node.json").read_text().splitlines()
    assert json.loads(first).keys() == {"polyraft", "format", "crc32c"}
    assert json.loads(second)["incarnation"] == "00000000000000ab"


def test_every_flipped_bit_is_refused() -> None:
    files = MemoryFiles(recording=False)
    Placement.load(files, ".").replace({1: KV})
    good = files.content("./placement")
    refused = 0
    for position in range(len(good) * 8):
        files.flip("./placement", position // 8, position % 8)
        try:
            groups = Placement.load(files, ".").groups
        except (DamagedDocument, UnknownFormat):
            refused += 1
        else:
            assert groups == {1: KV}  # white space, or the case of a digit
        files.flip("./placement", position // 8, position % 8)
    assert refused > len(good) * 8 - 20


@pytest.mark.parametrize("content", [b"", b"{}", b"[]\n{}\n", b'{"polyraft": "node"}\n{}\n'])
def test_a_file_of_another_kind_is_refused(content: bytes) -> None:
    files = MemoryFiles()
    files.put("./placement", content)
    with pytest.raises(DamagedDocument):
        Placement.load(files, ".")


def test_a_later_life_is_kept_and_is_nothing_for_an_older_version() -> None:
    """It would open the group as the life before, which must not speak again (pitfall 20)."""
    files = MemoryFiles()
    placement = Placement.load(files, ".")
    placement.replace({1: KV})
    assert b'"format": 1' in files.content("./placement")
    assert b"life" not in files.content("./placement")
    later = replace(KV, generation=2, life=1)
    placement.replace({1: later})
    assert b'"format": 2' in files.content("./placement")
    assert Placement.load(files, ".").groups == {1: later}


@pytest.mark.parametrize("life", [-1, "1", 1.0, True, None, LIVES_MAX + 1])
def test_what_is_no_life_is_a_damaged_placement(life: object) -> None:
    files = MemoryFiles()
    Placement.load(files, ".").replace({1: KV})
    body = json.loads(files.content("./placement").splitlines()[1])
    body["groups"]["1"]["life"] = life
    write_document(files, "./placement", "placement", 2, body)
    with pytest.raises(DamagedDocument, match="is no life"):
        Placement.load(files, ".")


def test_a_newer_format_is_refused_by_name() -> None:
    files = MemoryFiles()
    for name, what in (("node.json", "node"), ("placement", "placement")):
        files.put(f"./{name}", b'{"polyraft": "%s", "format": 3}\nanything' % what.encode())
    with pytest.raises(UnknownFormat, match=r"placement: placement file of format 3.* reads 2"):
        Placement.load(files, ".")
    with pytest.raises(UnknownFormat, match="newer version"):
        NodeIdentity.load(files, ".")


@pytest.mark.parametrize("operation", ["pwrite", "fsync", "rename", "fsync_dir"])
def test_a_disk_that_fails_leaves_one_of_the_two(operation: str) -> None:
    files = MemoryFiles()
    placement = Placement.load(files, ".")
    placement.replace({1: KV})
    files.fail(operation, errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        placement.replace({2: NAMES})
    assert placement.groups == {1: KV}
    assert Placement.load(files, ".").groups in ({1: KV}, {2: NAMES})
    placement.replace({2: NAMES})
    assert Placement.load(files, ".").groups == {2: NAMES}
