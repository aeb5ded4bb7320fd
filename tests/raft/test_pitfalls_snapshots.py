"""Pitfalls of snapshots (15, 25, 37 to 43), by number, as far as the core decides them.

The order of rename and directory sync (41) is tested with the files, the machine's queue (37) with
the machine: docs/raft.md has the table.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from raft.configuration import Configuration
from raft.core import Core
from raft.errors import Contradiction
from raft.leader import CHUNK_AGAIN_HEARTBEATS, SNAPSHOT_PATIENCE_TIMEOUTS, SNAPSHOT_PEERS_MAX
from raft.log import Log
from raft.messages import (
    Append,
    AppendReply,
    ChunkStored,
    HardState,
    Heartbeat,
    PeerMessage,
    SendChunk,
    SnapshotChunk,
    SnapshotLost,
    SnapshotMeta,
    SnapshotReceived,
    SnapshotReply,
    SnapshotTaken,
    Tick,
)
from raft.progress import REPLICATE, SNAPSHOT, Progress
from raft.roles import FOLLOWER, PRE_CANDIDATE
from raft.settings import RaftSettings
from tests.raft.network import (
    Network,
    Node,
    go_on_until_chunk,
    make_run,
    read_configuration,
    replica,
    sent_by,
    to,
)

N1, N2, N3 = (replica(f"n{number}") for number in range(1, 4))
SETTINGS = RaftSettings(snapshot_chunk_bytes=40)
THREE = Configuration.of(N1, N2, N3)
PATIENCE_MS = SNAPSHOT_PATIENCE_TIMEOUTS * SETTINGS.election_timeout_ms


def meta(index: int, term: int) -> SnapshotMeta:
    return SnapshotMeta(index, term, THREE, index, 1, 100, 7)


def chunk(snapshot: SnapshotMeta, offset: int = 0, *, term: int = 5) -> SnapshotChunk:
    return SnapshotChunk(N2, N1, term, snapshot, offset, b"s" * 40)


def without(*behind: str, voters: int = 3) -> Network:
    """These lack eleven entries, of which a snapshot is all that is left; n1 leads."""
    network = Network(voters, settings=SETTINGS)
    network.elect("n1")
    network.isolate(*behind)
    for _ in range(11):
        network.propose("n1")
    network.run(200)
    network.snapshot("n1")
    network.heal()
    return network


def wanted(network: Network) -> list[SendChunk]:
    return [each for output in network["n1"].outputs for each in output.send_chunks]


def chunks(network: Network) -> list[SendChunk]:
    """With bytes; without any it only asks."""
    return [each for each in wanted(network) if not each.asks]


def questions(network: Network) -> list[SendChunk]:
    return [each for each in wanted(network) if each.asks]


def test_pitfall_15_a_predecessor_that_is_compacted_is_no_conflict() -> None:
    network = Network(3)
    runs = [make_run(1, 1, index) for index in range(1, 6)]
    network.step("n1", Append(N2, N1, 1, 0, 0, 4, runs))
    network.snapshot("n1")
    assert network.core("n1").log.base_index == 4
    late = Append(N2, N1, 1, 2, 1, 4, runs[2:])
    network.step("n1", late)
    assert network["n1"].sent[-1] == AppendReply(N1, N2, 1, 5)
    network.step("n1", Append(N2, N1, 1, 2, 1, 4, runs[2:3]))
    assert network["n1"].sent[-1] == AppendReply(N1, N2, 1, 4)
    assert network.core("n1").last_index == 5


def test_pitfall_15_what_is_compacted_can_still_contradict_where_its_term_is_known() -> None:
    """Of what a snapshot has replaced only the last term is left: that one must be the same."""
    runs = [make_run(1, 1, index) for index in range(1, 6)]
    other = [make_run(1, 2, index) for index in range(1, 6)]
    for contradiction in (
        Append(N3, N1, 2, 2, 1, 4, other[2:4]),  # ends where the log begins
        Append(N3, N1, 2, 2, 1, 4, [make_run(1, 2, 3, count=3)]),  # and this one beyond it
        chunk(meta(4, 2), term=2),
    ):
        network = Network(3)
        network.step("n1", Append(N2, N1, 1, 0, 0, 4, runs))
        network.snapshot("n1")
        assert network.core("n1").log.base_index == 4
        with pytest.raises(Contradiction):
            network.step("n1", contradiction)


def test_pitfall_37_a_snapshot_is_restored_in_the_order_of_what_is_applied() -> None:
    """One output has both: the machine becomes the snapshot, then come the entries behind it."""
    network = Network(3)
    network.step("n1", Append(N2, N1, 1, 0, 0, 2, [make_run(1, 1, 1), make_run(1, 1, 2)]))
    assert [run.first for run in network["n1"].applied] == [1, 2]
    network.hold_disk("n1")
    network._applied[6] = 1
    network.step("n1", SnapshotReceived(meta(6, 1)))
    network.step("n1", Append(N2, N1, 1, 6, 1, 7, [make_run(1, 1, 7)]))
    assert [output.apply for output in network["n1"].outputs[-2:]] == [[], []]
    network.persist("n1")
    output = network["n1"].outputs[-1]
    assert output.restore == meta(6, 1)
    assert [run.first for run in output.apply] == [7]


def test_pitfall_38_a_snapshot_that_is_older_is_answered_with_where_this_replica_is() -> None:
    network = Network(3)
    runs = [make_run(1, 1, index) for index in range(1, 6)]
    network.step("n1", Append(N2, N1, 1, 0, 0, 5, runs))
    sent = len(network["n1"].sent)
    network.step("n1", chunk(meta(5, 1), term=1))
    assert network["n1"].sent[sent:] == [AppendReply(N1, N2, 1, 5)]
    network.step("n1", SnapshotReceived(meta(3, 1)))
    assert network["n1"].sent[sent + 1 :] == [AppendReply(N1, N2, 1, 5)]
    assert network.core("n1").snapshot is None
    assert not any(output.received or output.restore for output in network["n1"].outputs)


def test_pitfall_38_so_is_one_whose_last_entry_is_in_the_log() -> None:
    network = Network(3)
    runs = [make_run(1, 1, index) for index in range(1, 6)]
    network.step("n1", Append(N2, N1, 1, 0, 0, 1, runs))
    network.step("n1", chunk(meta(4, 1), term=1))
    assert network.core("n1").commit_index == 4, "a snapshot is of what is committed"
    assert network["n1"].sent[-1] == AppendReply(N1, N2, 1, 4)


def test_pitfall_38_the_leader_goes_on_from_there_and_sends_no_more_of_it() -> None:
    """Stopped and continued: meanwhile it has got there by other means."""
    network = without("n3")
    go_on_until_chunk(network)
    network.drop()
    network.step("n1", AppendReply(N3, N1, 1, 12))
    (_, peer) = network.core("n1").progress()
    assert (peer.state, peer.match) == (REPLICATE, 12)
    count = len(chunks(network))
    network.isolate("n3")
    network.run(900)
    assert len(chunks(network)) == count


def test_pitfall_38_who_is_at_a_snapshot_that_the_log_left_behind_gets_a_newer_one() -> None:
    """Otherwise the same snapshot would be sent, and answered, for ever."""
    network = without("n3")
    go_on_until_chunk(network)
    network.cut("n1", "n3")
    network.in_flight.clear()
    network.run(1_200)  # n3 is silent: nothing is kept for it any more
    for _ in range(3):
        network.propose("n1")
    network.run(200)
    second = network.snapshot("n1")
    core = network.core("n1")
    assert core.log.base_index == second.index == 15
    network.step("n1", AppendReply(N3, N1, 1, 12))
    assert wanted(network)[-1] == SendChunk(N3, 1, second, 0, asks=True)


def test_pitfall_39_each_chunk_is_a_sign_of_life_and_so_is_each_answer() -> None:
    network = Network(3)
    for offset in range(20):
        network.now += 900
        network.step("n1", chunk(meta(9, 2), offset))
        network.step("n1", Tick())
    assert (network.core("n1").role, network.core("n1").leader) == (FOLLOWER, N2)
    network = without("n3")
    go_on_until_chunk(network)
    network.isolate("n1")
    for offset in range(20):
        network.now += 300
        network.step("n1", SnapshotReply(N3, N1, 1, 12, 1, offset))
        network.step("n1", Tick())
    assert network.core("n1").is_leader, "n1 and n3 are a majority"


def test_pitfall_39_a_slow_install_is_waited_for_and_nothing_is_sent_anew() -> None:
    network = without("n3")
    go_on_until_chunk(network)
    network.hold_disk("n3")
    network.run(5_000)
    assert [each.offset for each in chunks(network)] == [0, 40, 80]
    first, *again = [each.offset for each in questions(network)]
    assert first == 0
    assert set(again) == {80}, "only whether the last one has come is asked, now and then"
    assert len(again) <= 5_000 // (CHUNK_AGAIN_HEARTBEATS * network.settings.heartbeat_ms)
    network.persist("n3")
    network.run(500)
    assert network["n3"].state_index == 12


def test_pitfall_40_the_log_behind_a_snapshot_that_travels_is_kept() -> None:
    network = without("n3")
    first = go_on_until_chunk(network).snapshot
    core = network.core("n1")
    for _ in range(5):
        network.propose("n1")
        network.deliver(to("n2"))
        network.deliver(sent_by("n2"))
    network.snapshot("n1")
    assert core.log.base_index == first.index
    assert core.snapshots_in_use == [first]
    network.run(1_000)
    assert network["n3"].log[-1] == (core.last_index, 1)
    assert {each.snapshot for each in chunks(network)} == {first}
    network.propose("n1")
    network.settle()
    network.snapshot("n1")
    assert core.log.base_index == core.commit_index, "it is not needed any more"
    assert core.snapshots_in_use == []


def test_pitfall_40_but_not_for_somebody_who_is_silent() -> None:
    network = without("n3")
    go_on_until_chunk(network)
    network.isolate("n3")
    network.run(1_100)
    network.propose("n1")
    network.settle()
    network.snapshot("n1")
    core = network.core("n1")
    assert core.log.base_index == core.last_index


def test_pitfall_40_but_no_more_than_so_many_bytes_of_log_and_then_it_begins_anew() -> None:
    """Who is slower than the writes would need another snapshot for ever, and all of the log."""
    network = without("n3")
    core = network.core("n1")
    first = go_on_until_chunk(network).snapshot
    assert core._leadership is not None
    core._leadership._settings = replace(SETTINGS, snapshot_log_bytes_max=300)
    taken = 0
    while core.snapshots_in_use == [first]:
        network.propose("n1")
        network.deliver(to("n2"))
        network.deliver(sent_by("n2"))
        network.snapshot("n1")
        kept = core.log.between(core.log.first_index, core.log.last_index)
        assert sum(len(run.body) for run in kept) <= 300
        network.step("n1", SnapshotReply(N3, N1, 1, first.index, 1, taken % 2 * 40))
        taken += 1
        assert taken < 100
    assert taken > 2
    assert core.snapshots_in_use == [core.snapshot]
    assert wanted(network)[-1].asks
    network.run(500)
    assert network.core("n3").last_index == core.last_index


def test_pitfall_40_who_waits_for_its_turn_gets_the_newest_snapshot_when_it_comes() -> None:
    """Nothing of the old one has arrived, and nobody keeps its log."""
    network = without("n3")
    core = network.core("n1")
    while not questions(network):
        if not network.deliver(count=1):
            network.tick("n1")
    (old,) = core.snapshots_in_use
    network.drop()
    network.cut("n1", "n3")
    network.propose("n1")
    network.settle()
    newer = network.snapshot("n1")
    network.run(400)
    assert core.snapshots_in_use == [newer] != [old]
    network.heal()
    network.run(700)
    assert network["n3"].state_index == newer.index


def test_pitfall_39_a_receiver_that_holds_a_part_from_before_its_restart_goes_on_there() -> None:
    network = without("n3")
    key = network.core("n1").snapshot
    assert key is not None
    network["n3"].received = {(key.index, key.term, key.crc): 80}
    network.run(500)
    assert [each.offset for each in chunks(network)] == [80]
    assert network["n3"].state_index == 12


def test_pitfall_41_the_log_in_memory_goes_with_the_mark_and_not_with_a_save_before() -> None:
    network = without("n3")
    network.hold_disk("n1")
    core = network.core("n1")
    for _ in range(2):
        network.propose("n1")
        network.settle()
        network.release_disk("n1")
        network.hold_disk("n1")
        network.settle()
    base = core.log.base_index
    network.propose("n1")
    network.snapshot("n1", index=core.handed_index)
    network.persist("n1", count=1)
    assert core.log.base_index == base, "a restart would find the old mark, and need this log"
    network.release_disk("n1")
    assert core.log.base_index > base


def test_pitfall_41_a_snapshot_counts_when_the_mark_is_durable_and_not_before() -> None:
    network = without("n3")
    network.hold_disk("n3")
    go_on_until_chunk(network)
    network.run(500)
    node = network["n3"]
    assert node.core.restoring is not None
    assert (node.state_index, node.disk.snapshot) == (0, None)
    network.crash("n3")
    network.restart("n3")
    assert (network.core("n3").commit_index, network.core("n3").snapshot) == (0, None)


@pytest.mark.parametrize(
    ("base", "runs", "snapshot"),
    [
        ((5, 1), [6, 7], None),  # the beginning of the log is gone, and nothing stands for it
        ((5, 1), [6, 7], 4),
        ((5, 1), [6, 7], 9),  # a hole between log and snapshot
    ],
)
def test_pitfall_42_log_and_snapshot_that_do_not_fit_start_nothing(
    base: tuple[int, int], runs: list[int], snapshot: int | None
) -> None:
    log = Log([make_run(1, 1, index) for index in runs], base_index=base[0], base_term=base[1])
    with pytest.raises(AssertionError, match=r"snapshot \d, the log has 6\.\.7"):
        Core(
            me=N1,
            configuration=THREE,
            hard_state=HardState(term=1),
            log=log,
            snapshot=None if snapshot is None else meta(snapshot, 1),
            settings=SETTINGS,
            random=random.Random(1),
            make_run=make_run,
            read_configuration=read_configuration,
            now=0,
        )


def test_pitfall_42_a_snapshot_of_another_history_is_not_taken() -> None:
    network = Network(3)
    network.step("n1", Append(N2, N1, 2, 0, 0, 2, [make_run(1, 1, 1), make_run(1, 1, 2)]))
    with pytest.raises(AssertionError, match="another history"):
        network.step("n1", SnapshotTaken(meta(2, 2), 2))
    with pytest.raises(AssertionError, match="applied is 2 at most"):
        network.step("n1", SnapshotTaken(meta(3, 1), 3))


def test_pitfall_43_only_so_many_get_a_snapshot_at_the_same_time() -> None:
    network = without("n4", "n5", "n6", "n7", voters=9)
    seen: set[int] = set()
    for _ in range(2_000):
        if not network.deliver(count=1):
            network.tick("n1")
        seen.add(len(network.core("n1").snapshots_in_use))
    assert max(seen) == SNAPSHOT_PEERS_MAX
    for name in ("n4", "n5", "n6", "n7"):
        assert network[name].state_index == 12


def test_pitfall_43_who_is_silent_holds_up_nobody() -> None:
    network = without("n4", "n5", "n6", voters=7)
    core = network.core("n1")

    def without_log() -> set[str]:
        return {peer.replica.node for peer in core.progress() if peer.state == SNAPSHOT}

    for _ in range(200):
        if len(without_log()) == 3:
            break
        if not network.deliver(lambda m: not isinstance(m, SnapshotReply), count=1):
            network.tick("n1")
    getting = {each.to.node for each in wanted(network)}
    (waiting,) = without_log() - getting
    network.isolate(*getting)
    network.run(PATIENCE_MS - 300)
    assert network[waiting].state_index == 0
    network.run(600)
    assert network[waiting].state_index == 12


def test_pitfall_43_nor_does_who_answers_and_cannot_keep_anything() -> None:
    """Two learners with full disks have both places; the third has to get its snapshot all the
    same."""
    network = Network(1, learners=3, settings=SETTINGS)
    network.isolate("n1")
    network.elect("n1")
    network.propose("n1")
    network.snapshot("n1")
    network.heal()
    store = network._store_chunk

    def store_or_not(node: Node, chunk: SnapshotChunk) -> None:
        if node.name in ("n2", "n3"):
            network.step(node.name, ChunkStored(chunk.snapshot, 0))
        else:
            store(node, chunk)

    network._store_chunk = store_or_not  # type: ignore[method-assign]
    network.run(PATIENCE_MS - 300)
    assert {each.to.node for each in chunks(network)} == {"n2", "n3"}
    network.run(900)
    assert network["n4"].state_index == 2
    assert all(peer.active_ms > network.now - 300 for peer in peers(network))


def peers(network: Network) -> Iterable[Progress]:
    leadership = network.core("n1")._leadership
    assert leadership is not None
    return leadership.progress.values()


def test_pitfall_43_an_answer_that_comes_twice_brings_no_chunk_twice() -> None:
    """Otherwise each chunk from there on would be sent and answered twice, or four times."""
    network = without("n3")
    go_on_until_chunk(network)
    network.deliver(lambda m: isinstance(m, SnapshotChunk))
    (answer,) = (m for m in network.in_flight if isinstance(m, SnapshotReply))
    network.in_flight += [answer, answer]
    network.run(200)
    assert network["n3"].state_index == 12
    assert [each.offset for each in chunks(network)] == [0, 40, 80]


@pytest.mark.parametrize("delay_ms", [10, 140, 160, 300, 400])
def test_pitfall_43_chunks_do_not_multiply_on_a_slow_line(delay_ms: int) -> None:
    """Slower than a chunk waits for its answer: it is sent again, and answered more than once."""
    network = Network(1, learners=1, settings=SETTINGS)
    network.isolate("n1")
    network.elect("n1")
    network.propose("n1")
    network.snapshot("n1", size_bytes=4_000)
    network.heal()
    line: list[tuple[int, PeerMessage]] = []
    while network["n2"].state_index == 0:
        network.now += 10
        for name in ("n1", "n2"):
            if network.core(name).next_deadline() <= network.now:
                network.step(name, Tick())
        while line and line[0][0] <= network.now:
            network.deliver_again(line.pop(0)[1])
        line += [(network.now + delay_ms, message) for message in network.in_flight]
        network.in_flight.clear()
    again_ms = CHUNK_AGAIN_HEARTBEATS * SETTINGS.heartbeat_ms
    assert len(chunks(network)) <= 100 * (1 + 2 * delay_ms // again_ms) + 10
    assert len(questions(network)) <= 100 * 2 * delay_ms // again_ms + 10


def test_a_snapshot_that_cannot_be_read_is_sent_no_more() -> None:
    network = without("n3")
    lost = go_on_until_chunk(network).snapshot
    network.step("n1", SnapshotLost(lost))
    network.drop()
    count = len(chunks(network))
    network.step("n1", SnapshotReply(N3, N1, 1, lost.index, lost.term, 40))
    network.run(500)
    assert len(chunks(network)) == count
    network.propose("n1")
    network.run(100)
    newer = network.snapshot("n1")
    network.run(500)
    assert network["n3"].state_index == newer.index
    network.step("n2", SnapshotLost(lost))  # a follower sends none


@pytest.mark.parametrize("at", ["leader", "follower"])
def test_a_snapshot_whose_file_was_lost_may_be_taken_again_at_the_same_index(at: str) -> None:
    """A leader has nothing else to send to whoever needs it; elsewhere it changes nothing."""
    network = without("n3")
    name = "n1" if at == "leader" else "n2"
    network.isolate("n3")
    lost = network.core(name).snapshot or network.snapshot(name)
    assert network.snapshot(name, size_bytes=101).index == lost.index
    assert network.core(name).snapshot == lost, "the first one is as good"
    network.step(name, SnapshotLost(lost))
    second = network.snapshot(name, size_bytes=101)
    assert network.core(name).snapshot == (second if at == "leader" else lost)
    network.heal()
    network.run(1_000)
    assert network["n3"].state_index == 12


def test_a_chunk_that_was_asked_for_in_an_older_term_does_not_speak_for_a_newer_one() -> None:
    """The driver read the file, and meanwhile somebody else was elected."""
    network = without("n3")
    first = go_on_until_chunk(network)
    network.drop()
    (asked_for,) = chunks(network)
    network.step("n1", Heartbeat(N2, N1, 7, 0, 1))
    network.step("n3", Heartbeat(N2, N3, 7, 0, 1))
    late = network.chunk(network["n1"], asked_for)
    assert (asked_for.term, late.term) == (1, 1)
    assert late == first
    network.step("n3", late)
    assert network.core("n3").leader == N2
    assert network["n3"].received == {}


def test_a_closed_link_brings_the_next_question_at_once() -> None:
    network = without("n3")
    first = go_on_until_chunk(network)
    network.drop()
    core = network.core("n1")
    assert core._leadership is not None
    core._leadership.on_link_closed("n3")
    network.collect("n1")
    assert wanted(network)[-1] == SendChunk(N3, 1, first.snapshot, 0, asks=True)
    network.settle()
    assert chunks(network)[1] == SendChunk(N3, 1, first.snapshot, 0)


def test_a_snapshot_that_arrives_while_standing_ends_the_campaign() -> None:
    """The log with which it asked for votes is about to be another."""
    network = Network(3)
    network.step("n1", Heartbeat(N2, N1, 5, 0, 1))
    network.tick("n1")
    assert network.core("n1").role == PRE_CANDIDATE
    network._applied[4] = 3
    network.step("n1", SnapshotReceived(meta(4, 3)))
    core = network.core("n1")
    assert (core.role, core.last_index, core.leader) == (FOLLOWER, 4, None)
    network.tick("n1")
    network.step("n1", SnapshotReceived(meta(4, 3)))
    assert core.role == FOLLOWER


def test_a_snapshot_of_what_is_committed_meanwhile_is_not_installed_without_a_leader() -> None:
    network = Network(3)
    runs = [make_run(1, 1, index) for index in range(1, 6)]
    network.step("n1", Append(N2, N1, 1, 0, 0, 2, runs))
    network.tick("n1")
    sent = len(network["n1"].sent)
    network.step("n1", SnapshotReceived(meta(2, 1)))
    network.step("n1", SnapshotReceived(meta(4, 1)))
    assert network.core("n1").commit_index == 4, "the log has it"
    assert network["n1"].sent[sent:] == []
