"""A replica whose machine is lost, and what its leader does: a snapshot beside the appends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raft.configuration import Configuration
from raft.errors import Contradiction
from raft.messages import (
    Append,
    AppendReply,
    Heartbeat,
    LinkClosed,
    Replica,
    SendChunk,
    SnapshotChunk,
    SnapshotLost,
    SnapshotMeta,
    SnapshotNeeded,
    SnapshotReceived,
    SnapshotReply,
    SnapshotTaken,
    SnapshotWanted,
    TimeoutNow,
    Transfer,
)
from raft.progress import PROBE, REPLICATE, Progress
from raft.settings import RaftSettings
from tests.raft.network import Network, go_on_until_chunk, led, replica

N1, N2, N3 = (replica(f"n{number}") for number in range(1, 4))
SETTINGS = RaftSettings(snapshot_chunk_bytes=40)
TIMEOUT_MS = SETTINGS.election_timeout_ms


def lost(index: int = 8) -> Network:
    """n1 leads, all have eleven entries, and the machine of n3 needs a snapshot of ``index``."""
    network = led(settings=SETTINGS)
    for _ in range(10):
        network.propose("n1")
    network.run(200)
    network.step("n3", SnapshotNeeded(index))
    return network


def peer(network: Network, who: str = "n3") -> Progress:
    leadership = network.core("n1")._leadership
    assert leadership is not None
    return leadership.progress[replica(who)]


def asked(network: Network) -> list[SnapshotWanted]:
    return [each for each in network["n3"].sent if type(each) is SnapshotWanted]


def chunks(network: Network) -> list[SendChunk]:
    return [each for output in network["n1"].outputs for each in output.send_chunks]


def takes(network: Network) -> int:
    return sum(output.take_snapshot for output in network["n1"].outputs)


def newest(network: Network, who: str = "n1") -> SnapshotMeta:
    snapshot = network.core(who).snapshot
    assert snapshot is not None
    return snapshot


def test_it_asks_whenever_it_hears_the_leader_but_not_with_each_message() -> None:
    network = lost()
    term = network.core("n1").term
    network.step("n3", Append(N1, N3, term, 11, 1, 11, []))
    assert asked(network) == [SnapshotWanted(N3, N1, term, 8)], "a busy leader sends no heartbeats"
    network.step("n3", Append(N1, N3, term, 11, 1, 11, []))
    network.step("n3", Heartbeat(N1, N3, term, 11, 100))
    assert len(asked(network)) == 1
    network.now += SETTINGS.heartbeat_ms
    network.step("n3", Heartbeat(N1, N3, term, 11, 101))
    assert len(asked(network)) == 2
    network.step("n3", SnapshotNeeded(0))
    network.now += SETTINGS.heartbeat_ms
    network.step("n3", Heartbeat(N1, N3, term, 11, 102))
    assert len(asked(network)) == 2


def test_a_leader_whose_snapshot_is_too_old_asks_its_driver_for_one_again_and_again() -> None:
    network = lost(index=9)
    network.run(350)
    assert takes(network) >= 3
    assert chunks(network) == []
    network.snapshot("n1")
    assert newest(network).index >= 9
    before = takes(network)
    network.run(100)
    assert chunks(network)[0].snapshot == newest(network)
    assert takes(network) == before


def test_one_that_is_new_enough_is_sent_as_it_is() -> None:
    network = led(settings=SETTINGS)
    for _ in range(10):
        network.propose("n1")
    network.run(200)
    network.snapshot("n1")
    network.step("n3", SnapshotNeeded(4))
    network.run(150)
    assert takes(network) == 0
    assert chunks(network)[0].snapshot == newest(network)


def test_appends_and_acknowledgements_go_on_beside_it() -> None:
    """n2 is down: without n3 nothing is committed."""
    network = lost()
    network.snapshot("n1")
    network.isolate("n2")
    network.run(150)
    assert peer(network).snapshot == newest(network)
    for _ in range(3):
        network.propose("n1")
    network.settle()
    assert peer(network).state == REPLICATE
    assert network.core("n1").commit_index == network.core("n1").last_index == 14
    network.run(300)
    assert {each.offset for each in chunks(network)} == {0, 40, 80}
    assert sum(network["n3"].received.values()) == 100


def test_what_was_received_changes_nothing_until_the_driver_takes_it() -> None:
    network = lost()
    network.snapshot("n1")
    before = network.core("n3").log.base_index
    network.run(500)
    core, snapshot = network.core("n3"), newest(network)
    assert network["n3"].received == {(snapshot.index, snapshot.term, snapshot.crc): 100}
    assert network.core("n3").snapshot is None
    assert (core.log.base_index, core.last_index, core.commit_index) == (before, 11, 11)
    network.step("n3", SnapshotTaken(snapshot, 6))
    assert core.snapshot == snapshot
    (mark,) = (it.save.mark for it in network["n3"].outputs if it.save and it.save.mark)
    assert (mark.snapshot, mark.base_index, mark.resets) == (snapshot, 6, False)
    assert (core.log.base_index, core.last_index) == (6, 11)
    assert not core.wants(snapshot)
    count = len(asked(network))
    network.run(300)
    assert len(asked(network)) == count, "it is well"


def test_a_leader_that_is_not_asked_any_more_forgets_it() -> None:
    network = lost()
    network.snapshot("n1")
    network.run(150)
    assert network.core("n1").snapshots_in_use
    network.step("n3", SnapshotNeeded(0))
    network.run(TIMEOUT_MS + 200)
    assert not network.core("n1").snapshots_in_use
    assert peer(network).wants_index == 0
    count = len(chunks(network))
    network.run(1_000)
    assert len(chunks(network)) == count


def test_one_that_fails_behind_what_it_was_sent_is_sent_the_next() -> None:
    network = lost()
    network.snapshot("n1")
    network.run(150)
    first = newest(network)
    for _ in range(5):
        network.propose("n1")
    network.run(100)
    network.step("n3", SnapshotNeeded(14))
    network.run(150)
    assert peer(network).snapshot is None
    assert takes(network) > 0
    network.snapshot("n1")
    network.run(150)
    assert peer(network).snapshot == newest(network) != first


def test_one_of_the_same_index_takes_the_place_of_one_that_is_damaged() -> None:
    network = lost()
    for name in ("n1", "n3"):
        network.snapshot(name)
    own = newest(network, "n3")
    other = replace(own, crc=own.crc + 1)
    network.step("n3", SnapshotTaken(other, own.index))
    assert newest(network, "n3") == own
    network.step("n3", SnapshotNeeded(own.index))
    network.step("n3", SnapshotTaken(other, own.index))
    assert newest(network, "n3") == other


def test_what_is_not_in_its_log_is_installed_as_by_anybody() -> None:
    """Its log lags as well, or ends otherwise."""
    network = lost()
    beyond = SnapshotMeta(20, 1, Configuration.of(N1, N2, N3), 20, 1, 100, 7)
    core = network.core("n3")
    assert not core.wants(beyond)
    network._applied[20] = 1
    network.step("n3", SnapshotReceived(beyond))
    assert core.snapshot == beyond
    assert core.log.base_index == core.last_index == 20
    network.step("n3", Heartbeat(N1, N3, core.term, 20, 100))
    assert asked(network) == [], "it is above what was needed"


def test_who_needs_none_takes_none() -> None:
    """Pitfall 38: it is answered with what is committed here."""
    network = lost()
    network.snapshot("n1")
    network.step("n3", SnapshotNeeded(0))
    term = network.core("n1").term
    network.step("n3", SnapshotChunk(N1, N3, term, newest(network), 0, b"s" * 40))
    assert network["n3"].sent[-1] == AppendReply(N3, N1, term, 11)
    assert network["n3"].received == {}


def test_a_snapshot_that_says_otherwise_than_the_log_is_a_contradiction() -> None:
    network = lost()
    term = network.core("n1").term
    snapshot = SnapshotMeta(9, term, Configuration.of(N1, N2), 9, 1, 100, 7)
    with pytest.raises(Contradiction, match="other members"):
        network.step("n3", SnapshotChunk(N1, N3, term, snapshot, 0, b"s"))
    network.snapshot("n3")
    with pytest.raises(AssertionError, match="needs a snapshot of 3"):
        network.step("n3", SnapshotNeeded(3))


def test_what_is_not_committed_here_cannot_be_wanted() -> None:
    network = lost()
    term = network.core("n1").term
    network.step("n1", SnapshotWanted(N3, N1, term, 12))
    assert peer(network).wants_index == 0
    network.step("n1", SnapshotReply(N3, N1, term, 12, 1, 0))
    assert takes(network) == 0


def test_leadership_goes_to_somebody_with_a_machine_to_serve_with() -> None:
    network = lost()
    network.run(150)
    assert peer(network).wants_index == 8
    network.step("n1", Transfer(1))
    targets = [each.to for each in network["n1"].sent if type(each) is TimeoutNow]
    assert targets == [N2], "n3 would come first otherwise"


def test_a_lost_chunk_is_sent_again_though_appends_are_answered_all_the_time() -> None:
    network = lost()
    network.snapshot("n1")
    go_on_until_chunk(network)
    network.drop(lambda it: type(it) is SnapshotChunk)
    for _ in range(20):
        network.propose("n1")
        network.run(40)
    assert sum(network["n3"].received.values()) == 100


@pytest.mark.parametrize("target", [N3, None])
def test_a_leader_that_appends_nothing_can_hand_over_after_a_link_has_broken(
    target: Replica | None,
) -> None:
    """It takes no commands while its machine is lost: nothing would ever end the probing."""
    network = led()
    for name in ("n2", "n3"):
        network.step("n1", LinkClosed(name))
    assert peer(network).state == PROBE
    network.run(150)
    network.step("n1", Transfer(1, target))
    assert [each.to for each in network["n1"].sent if type(each) is TimeoutNow] == [N3]


def test_a_link_that_breaks_does_not_make_the_transfer_begin_anew_with_a_newer_one() -> None:
    """Where lines are bad and snapshots are taken often, it would never come to an end."""
    network = lost()
    network.snapshot("n1")
    first = newest(network)
    go_on_until_chunk(network)
    network.deliver()
    network.deliver()
    assert peer(network).reached == 40
    network.propose("n1")
    while network.deliver(lambda message: type(message) is not SnapshotChunk):
        pass
    network.drop()
    network.snapshot("n1")
    assert newest(network) != first
    network.step("n1", LinkClosed("n3"))
    before = len(chunks(network))
    network.run(300)
    later = chunks(network)[before:]
    assert {each.snapshot for each in later} == {first}
    assert network["n3"].received[first.index, first.term, first.crc] == 100


def test_who_lacks_log_as_well_gets_the_snapshot_that_brings_both() -> None:
    network = lost(index=5)
    network.isolate("n3")
    for _ in range(5):
        network.propose("n1")
    network.run(300)
    network.snapshot("n1")
    network.heal()
    network.run(2_000)
    core = network.core("n3")
    assert core.snapshot == newest(network)
    assert core.log.base_index == newest(network).index, "it began anew"
    assert not network.core("n1").snapshots_in_use
    assert takes(network) <= 3, "none was asked for once it was known to lag"


def test_a_snapshot_that_cannot_be_read_is_followed_by_the_next_beside_the_appends() -> None:
    network = lost()
    network.snapshot("n1")
    network.run(100)
    network.drop(lambda it: type(it) is SnapshotChunk)
    damaged = newest(network)
    network.step("n1", SnapshotLost(damaged))
    assert peer(network).state == REPLICATE
    assert not network.core("n1").snapshots_in_use
    network.propose("n1")
    network.run(200)
    assert takes(network) > 0
    network.snapshot("n1")
    network.run(800)
    assert peer(network).snapshot in (newest(network), None)
    assert sum(network["n3"].received.values()) == 100
    assert newest(network) != damaged
