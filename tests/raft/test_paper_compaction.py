"""Log compaction by section: paper 7, thesis 5.

What the driver does with the files (write aside, sync, rename) is tested in tests/raft/store; here
is what consensus makes of them.
"""

from __future__ import annotations

import pytest

from raft.configuration import Configuration
from raft.messages import (
    Append,
    AppendReply,
    ChunkStored,
    Heartbeat,
    Mark,
    SnapshotChunk,
    SnapshotMeta,
    SnapshotReceived,
    SnapshotReply,
    SnapshotTaken,
)
from raft.progress import REPLICATE, SNAPSHOT
from raft.settings import RaftSettings
from tests.raft.network import (
    Network,
    go_on_until_chunk,
    make_run,
    replica,
    sent_by,
    to,
)

N1, N2, N3 = (replica(f"n{number}") for number in range(1, 4))
SETTINGS = RaftSettings(snapshot_chunk_bytes=40)
BOTH = Configuration.of(N1, N2, N3)


def meta(index: int, term: int, *, size_bytes: int = 100) -> SnapshotMeta:
    return SnapshotMeta(index, term, BOTH, index, 1, size_bytes, 7)


def chunk(snapshot: SnapshotMeta, offset: int = 0, *, term: int = 5) -> SnapshotChunk:
    return SnapshotChunk(N2, N1, term, snapshot, offset, b"s" * 40)


def led(entries: int = 10) -> Network:
    """n1 leads; entries 1 .. 1 + entries are applied everywhere."""
    network = Network(3, settings=SETTINGS)
    network.elect("n1")
    for _ in range(entries):
        network.propose("n1")
    network.run(200)
    return network


def n3_is_behind() -> Network:
    """n3 was away while 11 entries were written, and a snapshot of them is all that is left."""
    network = led(0)
    network.isolate("n3")
    for _ in range(11):
        network.propose("n1")
    network.run(200)
    network.snapshot("n1")
    network.heal()
    return network


def sent_chunks(network: Network) -> list[SnapshotChunk]:
    """With bytes; the others ask."""
    sent = [message for message in network["n1"].sent if isinstance(message, SnapshotChunk)]
    return [message for message in sent if message.data]


# --------------------------------------------------------------------------- 7 taking one


def test_7_a_snapshot_replaces_the_log_up_to_its_index_and_keeps_its_term() -> None:
    network = led()
    network.snapshot("n1")
    core = network.core("n1")
    assert (core.first_index, core.last_index) == (12, 11)
    assert (core.log.base_index, core.log.base_term, core.last_term) == (11, 1, 1)
    assert network["n1"].disk.base == (11, 1)
    assert network["n1"].disk.runs == []
    assert core.status().snapshot_index == 11


def test_7_each_replica_takes_its_own_and_what_comes_after_goes_on_as_before() -> None:
    """The consistency check of the first append behind a snapshot needs its index and term."""
    network = led()
    network.snapshot("n1")
    network.snapshot("n2", keep=3)
    network.propose("n1")
    network.run(200)
    for name in ("n1", "n2", "n3"):
        core = network.core(name)
        assert (core.last_index, core.commit_index, core.handed_index) == (12, 12, 12)
    assert not sent_chunks(network)


def test_7_a_restart_begins_behind_the_snapshot() -> None:
    network = led()
    network.snapshot("n2", keep=4)
    network.propose("n1")
    network.settle()
    network.crash("n2")
    network.restart("n2")
    core = network.core("n2")
    assert (core.log.base_index, core.commit_index, core.handed_index) == (7, 11, 11)
    assert core.last_index == 12
    network.run(2_500)
    assert [run.first for run in network["n2"].applied] == [12]


def test_7_the_log_goes_only_when_the_mark_is_durable() -> None:
    network = led()
    network.hold_disk("n1")
    network.snapshot("n1")
    core = network.core("n1")
    assert core.first_index == 1
    (save,) = network["n1"].saves
    assert save.mark == Mark(core.snapshot, 11, 1, resets=False)  # type: ignore[arg-type]
    network.persist("n1")
    assert core.first_index == 12


def test_7_a_part_of_the_log_may_be_kept_up_to_a_border_between_runs() -> None:
    network = led(0)
    network.propose("n1", count=5)  # 2 .. 6
    network.propose("n1")
    network.settle()
    snapshot = meta(7, 1)
    network.step("n1", SnapshotTaken(snapshot, compact_to=4))
    assert network.core("n1").first_index == 2, "4 lies inside a run, which stays"
    assert network.core("n1").snapshot == snapshot


def test_7_an_older_snapshot_than_the_last_one_changes_nothing() -> None:
    network = led()
    newest = network.snapshot("n1", keep=2)
    for index in (newest.index, newest.index - 1):
        network.step("n1", SnapshotTaken(meta(index, 1), compact_to=index))
    assert network.core("n1").snapshot == newest
    assert network.core("n1").first_index == 10
    assert network.core("n1").status().ignored["a newer snapshot is here"] == 2


def test_7_two_snapshots_at_once_let_go_of_what_the_first_let_go_of() -> None:
    network = led()
    network.hold_disk("n1")
    network.snapshot("n1", index=6)
    network.snapshot("n1", index=9, keep=9)
    marks = [save.mark for save in network["n1"].saves]
    assert [(mark.snapshot.index, mark.base_index) for mark in marks if mark] == [(6, 6), (9, 6)]
    network.persist("n1", count=1)
    assert network.core("n1").first_index == 7
    network.persist("n1")
    assert network.core("n1").first_index == 7


# --------------------------------------------------------------------------- 7 InstallSnapshot


def test_7_a_follower_that_lacks_what_is_compacted_gets_the_snapshot_in_chunks() -> None:
    network = n3_is_behind()
    network.run(1_000)
    assert [(each.to, each.offset, len(each.data)) for each in sent_chunks(network)] == [
        (N3, 0, 40),
        (N3, 40, 40),
        (N3, 80, 20),
    ]
    node = network["n3"]
    assert (node.state_index, node.core.handed_index, node.core.last_index) == (12, 12, 12)
    assert node.disk.snapshot == network.core("n1").snapshot
    network.propose("n1")
    network.settle()
    assert node.core.last_index == 13
    (_, peer) = network.core("n1").progress()
    assert (peer.match, peer.state) == (13, REPLICATE)


def test_7_one_chunk_is_on_its_way_at_a_time() -> None:
    network = n3_is_behind()
    first = go_on_until_chunk(network)
    network.drop()
    for _ in range(2):
        network.tick("n1")
        network.drop(to("n3"))
    assert sent_chunks(network) == [first]
    network.step("n1", SnapshotReply(N3, N1, 1, 12, 1, 40))
    assert [each.offset for each in sent_chunks(network)] == [0, 40]


def test_7_a_lost_chunk_is_sent_again_and_so_is_a_lost_answer() -> None:
    network = n3_is_behind()
    go_on_until_chunk(network)
    network.drop(to("n3"))
    network.run(250)
    assert network["n3"].state_index == 0
    network.run(500)
    assert network["n3"].state_index == 12
    network = n3_is_behind()
    go_on_until_chunk(network)
    network.deliver(to("n3"))
    network.drop(sent_by("n3"))
    network.run(800)
    assert network["n3"].state_index == 12
    assert [each.offset for each in sent_chunks(network)].count(40) == 1


def test_7_the_answer_says_where_to_go_on() -> None:
    """The driver may have lost what it held, or hold more than the leader knows."""
    network = n3_is_behind()
    go_on_until_chunk(network)
    network.drop()
    network.step("n1", SnapshotReply(N3, N1, 1, 12, 1, 80))
    assert sent_chunks(network)[-1].offset == 80
    network.step("n1", SnapshotReply(N3, N1, 1, 12, 1, 0))
    assert sent_chunks(network)[-1].offset == 0


def test_7_an_answer_about_another_snapshot_is_a_sign_of_life_and_no_more() -> None:
    network = n3_is_behind()
    go_on_until_chunk(network)
    network.drop()
    network.step("n1", SnapshotReply(N3, N1, 1, 11, 1, 80))
    assert [each.offset for each in sent_chunks(network)] == [0]


def test_7_step_1_a_chunk_of_an_older_term_is_refused_with_the_newer_one() -> None:
    network = Network(3)
    network.step("n1", Heartbeat(N3, N1, 7, 0, 1))
    network.step("n1", chunk(meta(9, 2), term=5))
    assert network["n1"].sent[-1] == SnapshotReply(N1, N2, 7, 9, 2, 0)
    assert not any(output.received for output in network["n1"].outputs)
    network = n3_is_behind()
    go_on_until_chunk(network)
    network.step("n1", SnapshotReply(N3, N1, 7, 12, 1, 0))
    assert not network.core("n1").is_leader


def test_7_a_chunk_comes_from_the_leader_and_keeps_it_alive() -> None:
    network = Network(3)
    core = network.core("n1")
    core.step(chunk(meta(9, 2)), network.now)
    assert (core.leader, core.term) == (N2, 5)
    assert core.next_deadline() >= network.now + 1_000
    output = core.take_output()
    assert output is not None
    assert output.received == [chunk(meta(9, 2))]


def test_7_step_6_a_log_that_has_the_last_entry_keeps_what_is_behind_it() -> None:
    network = Network(3)
    runs = [make_run(1, 3, index) for index in range(1, 6)]
    network.step("n1", Append(N2, N1, 3, 0, 0, 0, runs))
    network.step("n1", SnapshotReceived(meta(3, 3)))
    core = network.core("n1")
    assert (core.first_index, core.last_index, core.commit_index) == (1, 5, 3)
    assert core.snapshot is None
    assert network["n1"].sent[-1] == AppendReply(N1, N2, 3, 3)
    assert [run.first for run in network["n1"].applied] == [1, 2, 3]


@pytest.mark.parametrize("terms", [(), (1, 1), (1, 1, 1, 1, 1)])
def test_7_step_7_any_other_log_is_discarded_as_a_whole(terms: tuple[int, ...]) -> None:
    network = Network(3)
    runs = [make_run(1, term, index) for index, term in enumerate(terms, 1)]
    network.step("n1", Append(N3, N1, 1, 0, 0, 0, runs))
    network.step("n1", chunk(meta(4, 3)))
    network._applied[4] = 3
    network.step("n1", SnapshotReceived(meta(4, 3)))
    core = network.core("n1")
    assert (core.first_index, core.last_index, core.last_term) == (5, 4, 3)
    assert (core.commit_index, core.handed_index, core.durable_index) == (4, 4, 4)
    assert network["n1"].state_index == 4
    assert network["n1"].disk.runs == []
    assert network["n1"].sent[-1] == AppendReply(N1, N2, 5, 4)


def test_7_step_8_the_configuration_of_the_snapshot_is_in_force() -> None:
    there = Configuration.of(N1, replica("n8"), replica("n9"))
    network = Network(3)
    network._applied[4] = 3
    network.step("n1", Heartbeat(N2, N1, 5, 0, 1))
    network.step("n1", SnapshotReceived(SnapshotMeta(4, 3, there, 4, 1, 100, 7)))
    core = network.core("n1")
    assert core.configuration == core.committed_configuration == there
    assert core.configuration_index == 4


def test_7_what_is_written_behind_a_snapshot_on_its_way_to_the_disk_waits_for_it() -> None:
    """Nothing is acknowledged, restored or applied before the mark is durable."""
    network = Network(3)
    network.step("n1", Heartbeat(N2, N1, 5, 0, 1))
    network.hold_disk("n1")
    network._applied[4] = 3
    sent = len(network["n1"].sent)
    network.step("n1", SnapshotReceived(meta(4, 3)))
    network.step("n1", Append(N2, N1, 5, 4, 3, 5, [make_run(1, 5, 5)]))
    core = network.core("n1")
    assert core.restoring == meta(4, 3)
    assert (core.commit_index, core.handed_index) == (5, 0)
    assert network["n1"].sent[sent:] == []
    network.persist("n1", count=1)
    assert (network["n1"].state_index, core.handed_index) == (4, 4)
    assert network.core("n1").restoring is None
    assert network["n1"].sent[sent:] == [AppendReply(N1, N2, 5, 4)]
    network.persist("n1")
    assert [run.first for run in network["n1"].applied] == [5]


# --------------------------------------------------------------------------- thesis 5


def test_thesis_5_3_a_leader_sends_what_it_has_and_goes_on_with_the_log() -> None:
    """The transfer spans a newer snapshot of the leader: the first one stays good (5.1.3)."""
    network = n3_is_behind()
    go_on_until_chunk(network)
    network.propose("n1")
    network.deliver(to("n2"))
    network.deliver(sent_by("n2"))
    second = network.snapshot("n1")
    assert second.index == 13
    assert network.core("n1").first_index == 13, "entry 13 is kept for n3"
    network.run(1_000)
    assert {each.snapshot.index for each in sent_chunks(network)} == {12}
    assert network["n3"].core.last_index == 13


def test_thesis_5_a_peer_without_a_snapshot_to_get_waits_for_one() -> None:
    network = led(0)
    network.isolate("n3")
    for _ in range(11):
        network.propose("n1")
    network.run(200)
    snapshot = network.snapshot("n1")
    core = network.core("n1")
    assert core._leadership is not None
    core._leadership.on_snapshot_lost(snapshot)
    network.heal()
    network.run(500)
    (_, peer) = core.progress()
    assert peer.state == SNAPSHOT
    assert not sent_chunks(network)
    network.propose("n1")
    network.run(200)
    network.snapshot("n1")
    network.run(500)
    assert network["n3"].core.last_index == 13


def test_thesis_5_a_snapshot_without_bytes_is_one_too() -> None:
    network = led(0)
    network.isolate("n3")
    network.propose("n1")
    network.run(200)
    network.snapshot("n1", size_bytes=0)
    network.heal()
    network.run(1_000)
    assert network["n3"].state_index == 2


def test_thesis_5_whoever_does_not_know_the_leader_says_nothing() -> None:
    network = Network(3)
    network.step("n1", ChunkStored(meta(9, 2), 40))
    assert network["n1"].sent == []
