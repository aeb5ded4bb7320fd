"""Snapshots in the core, where the paper is silent: races between the disk, the leader and the log.

By section: test_paper_compaction.py; by pitfall: test_pitfalls_snapshots.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from raft.configuration import Configuration
from raft.messages import (
    Append,
    AppendReply,
    ChunkStored,
    HardState,
    Heartbeat,
    PreVote,
    SnapshotMeta,
    SnapshotReceived,
    SnapshotReply,
    SnapshotTaken,
)
from raft.settings import RaftSettings
from tests.raft.network import Disk, Network, make_run, replica

N1, N2, N3 = (replica(f"n{number}") for number in range(1, 4))
THREE = Configuration.of(N1, N2, N3)


def meta(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(index, term, THREE, index, 1, 100, 7)


def following(*indexes: int, commit: int = 0) -> Network:
    """n1 follows n2 in term 1, has these entries, and its disk takes its time from now on."""
    network = Network(3)
    runs = [make_run(1, 1, index) for index in indexes]
    network.step("n1", Append(N2, N1, 1, 0, 0, commit, runs))
    network.hold_disk("n1")
    for index in range(1, 40):
        network._applied.setdefault(index, 1)
    return network


def test_a_save_under_way_proves_nothing_of_the_log_that_a_snapshot_replaced() -> None:
    network = following(1, commit=1)
    network.step("n1", Append(N2, N1, 1, 1, 1, 1, [make_run(1, 1, 2), make_run(1, 1, 3)]))
    network.step("n1", SnapshotReceived(meta(9)))
    core = network.core("n1")
    network.persist("n1", count=1)
    assert (core.durable_index, core.handed_index) == (1, 1)
    assert core.restoring == meta(9)
    network.persist("n1", count=1)
    assert (core.durable_index, core.handed_index) == (9, 9)
    assert network.core("n1").restoring is None


def test_a_snapshot_that_overtakes_another_on_its_way_to_the_disk_is_the_one_restored() -> None:
    network = following()
    network.step("n1", SnapshotReceived(meta(5)))
    network.step("n1", SnapshotReceived(meta(9)))
    core = network.core("n1")
    network.persist("n1", count=1)
    assert (core.restoring, core.handed_index) == (meta(9), 0)
    network.persist("n1", count=1)
    assert [output.restore for output in network["n1"].outputs if output.restore] == [meta(9)]
    assert network["n1"].disk.base == (9, 1)


def test_an_entry_that_is_not_on_the_disk_does_not_keep_the_log() -> None:
    """It might be lost in a crash, and the snapshot would be thrown away by now."""
    network = following()
    network.step("n1", Append(N2, N1, 1, 0, 0, 0, [make_run(1, 1, 1), make_run(1, 1, 2)]))
    network.step("n1", SnapshotReceived(meta(2)))
    core = network.core("n1")
    assert (core.log.base_index, core.restoring) == (2, meta(2))
    network.persist("n1")
    assert network["n1"].state_index == 2


def test_a_snapshot_of_ones_own_that_is_under_way_gives_way_to_the_leaders() -> None:
    network = following(1, 2, 3, commit=3)
    network.snapshot("n1", index=2)
    network.step("n1", SnapshotReceived(meta(9)))
    network.persist("n1")
    core = network.core("n1")
    assert core.snapshot == meta(9)
    assert network["n1"].disk.snapshot == meta(9)
    assert core.first_index == 10


def test_a_snapshot_taken_while_another_waits_to_be_restored_is_older() -> None:
    network = following(1, 2, commit=2)
    network.step("n1", SnapshotReceived(meta(9)))
    network.step("n1", SnapshotTaken(meta(2), 2))
    assert network.core("n1").snapshot == meta(9)
    assert network.core("n1").status().ignored == {"a newer snapshot is here": 1}


def test_a_snapshot_has_the_configuration_of_its_index_and_no_other() -> None:
    network = following(1, 2, commit=2)
    network.persist("n1")
    wrong = replace(meta(2), configuration=Configuration.of(N1, N2))
    with pytest.raises(AssertionError, match="the configuration of another moment"):
        network.step("n1", SnapshotTaken(wrong, 2))


def test_a_snapshot_of_a_term_that_nobody_told_of_is_an_error_of_ours() -> None:
    network = Network(3)
    with pytest.raises(AssertionError, match="a term that nobody has told of"):
        network.step("n1", SnapshotReceived(meta(9, 4)))


def test_how_far_it_has_come_is_told_to_who_leads_now() -> None:
    network = Network(3)
    network.step("n1", Heartbeat(N2, N1, 1, 0, 1))
    network.step("n1", Heartbeat(N3, N1, 2, 0, 1))
    network.step("n1", ChunkStored(meta(9), 40))
    assert network["n1"].sent[-1] == SnapshotReply(N1, N3, 2, 9, 1, 40)


def test_and_not_before_the_term_is_durable() -> None:
    network = Network(3)
    network.hold_disk("n1")
    network.step("n1", Heartbeat(N2, N1, 3, 0, 1))
    network.step("n1", ChunkStored(meta(9), 40))
    assert network["n1"].sent == []
    network.persist("n1")
    assert network["n1"].sent[-1] == SnapshotReply(N1, N2, 3, 9, 1, 40)


def test_configurations_before_a_snapshot_are_forgotten_and_those_behind_it_kept() -> None:
    network = Network(3, learners=2)
    n4, n5 = replica("n4"), replica("n5")
    one, two, three = (
        Configuration.of(N1, N2, N3, learners=[n4]),
        Configuration.of(N1, N2, N3),
        Configuration.of(N1, N2, N3, learners=[n5]),
    )
    runs = [make_run(3, 1, index, each) for index, each in ((1, one), (2, two), (3, three))]
    network.step("n1", Append(N2, N1, 1, 0, 0, 3, runs))
    network.snapshot("n1", index=2)
    core = network.core("n1")
    assert core.configuration_at(2) == two
    assert core.configuration == core.configuration_at(3) == three
    with pytest.raises(AssertionError, match="no configuration is known at 1"):
        core.configuration_at(1)
    network.crash("n1")
    network.restart("n1")
    assert network.core("n1").configuration == three
    assert network.core("n1").committed_configuration == two


def test_a_replica_stands_with_the_last_entry_of_its_snapshot() -> None:
    disk = Disk(HardState(3, None), [], (9, 2), meta(9, 2))
    network = Network(3, disks={"n1": disk})
    network.tick("n1")
    assert network.in_flight[0] == PreVote(N1, N2, 4, 9, 2, campaign=network.core("n1")._campaign)


def test_the_answer_to_a_snapshot_covers_what_is_committed_and_waits_for_the_disk() -> None:
    network = following(1)
    network.step("n1", Append(N2, N1, 1, 1, 1, 2, [make_run(1, 1, 2)]))
    sent = len(network["n1"].sent)
    network.step("n1", SnapshotReceived(meta(2)))
    assert network["n1"].sent[sent:] == []
    network.persist("n1")
    assert network["n1"].sent[sent:] == [AppendReply(N1, N2, 1, 2)]


def test_a_chunk_without_bytes_would_never_end() -> None:
    with pytest.raises(ValueError, match="snapshot_chunk_bytes must be at least 1"):
        RaftSettings(snapshot_chunk_bytes=0)
