"""DATA of a node that starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import node_data
from actors.config import NodeConfig
from actors.node_data import open_data
from raft.store.identity import NodeIdentity
from raft.store.memory import MemoryFiles, PowerLoss
from raft.store.placement import PlacedGroup, Placement
from tests.crash_points.disk import Choice

CONFIG = NodeConfig(id="n1", data=Path("/data"), members={"n1": "tcp://n1:7101"})
KV = PlacedGroup(1, 1, "kv", "kv")


def test_what_a_start_finds_of_a_life_that_did_not_live_to_sync_it_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers begin logs by the placement: one that went back would condemn what they have."""
    files = MemoryFiles()
    monkeypatch.setattr(node_data, "Files", lambda: files)
    open_data(CONFIG)
    placement = Placement.load(files, "/data")
    files.lose_power_after(5)  # created, cut, written, synced, renamed; not synced
    with pytest.raises(PowerLoss):
        placement.replace({7: KV})
    files.kill()
    _, lock, identity = open_data(CONFIG)
    assert Placement.load(files, "/data").groups == {7: KV}
    lock.close()
    files.crash(Choice(names=False, content=False))
    assert Placement.load(files, "/data").groups == {7: KV}
    assert NodeIdentity.load(files, "/data") == identity
