"""Admins of a group: who leads, who counts; and leaders that step aside by themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest

from actors import group_admin as module
from actors.group_messages import Drain
from actors.machines import Response
from actors.machines.kv import KeyValueMachine
from raft.messages import TimeoutNow, Vote
from raft.settings import RaftSettings
from tests.actors.cluster import Cluster, Node, Sent, put
from transport import protocol
from transport.client import wire

SIZE = wire.encode_read(b"\x81\xa4size\xc3")
TIMEOUT_MS = RaftSettings().election_timeout_ms


def three(**options: Any) -> tuple[Cluster, Node, list[Node]]:
    cluster = Cluster(**options)
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader, cluster.followers()


def admin(cluster: Cluster, node: Node, command: str, value: str = "", **options: str) -> Sent:
    return cluster.request(node, wire.encode_admin(command, value, options))


def no_campaigns(message: object) -> bool:
    return isinstance(message, TimeoutNow | Vote)


def run_without_campaigns(cluster: Cluster, duration_ms: int) -> None:
    """Heartbeats and appends arrive, and nobody can be elected."""
    until_ms = cluster.clock.now_ms() + duration_ms
    while cluster.clock.now_ms() < until_ms:
        cluster.clock.advance(10)
        for _ in range(4):
            for node in cluster.up():
                node.turn()
                node.sync()
            cluster.drop(no_campaigns)
            cluster.deliver()


# --------------------------------------------------------------------------- transferLeader


@pytest.mark.parametrize("named", [True, False])
def test_leadership_goes_where_it_is_wanted_and_the_answer_says_where(named: bool) -> None:
    cluster, leader, followers = three()
    value = followers[1].name if named else ""
    sent = admin(cluster, leader, "transferLeader", value)
    cluster.run(100)
    successor = cluster.leader()
    assert successor is not leader
    assert successor.name == value or not named
    assert json.loads(sent.outcome.data) == {"leader": successor.name}
    assert sent.outcome.leader == successor.name
    assert leader.group.is_drained


def test_to_itself_is_done_at_once() -> None:
    cluster, leader, _ = three()
    sent = admin(cluster, leader, "transferLeader", leader.name)
    cluster.settle()
    assert json.loads(sent.outcome.data) == {"leader": leader.name}
    assert leader.core.is_leader


def test_a_transfer_is_the_leader_s_business() -> None:
    cluster, leader, followers = three()
    sent = admin(cluster, followers[0], "transferLeader", followers[0].name)
    cluster.settle()
    assert sent.handed_back == (leader.name, leader.core.term, "")


def test_who_does_not_vote_cannot_lead() -> None:
    cluster, leader, _ = three()
    sent = admin(cluster, leader, "transferLeader", "n9")
    cluster.settle()
    assert sent.outcome.code == protocol.BAD_REQUEST
    assert "'n9' does not vote in group kv" in sent.outcome.error_text


def test_what_the_group_refuses_has_certainly_not_happened() -> None:
    cluster, leader, followers = three()
    followers[0].crash()
    cluster.run(TIMEOUT_MS + 200)
    sent = admin(cluster, leader, "transferLeader", followers[0].name)
    cluster.settle()
    assert sent.outcome.code == protocol.REJECTED
    assert not sent.outcome.maybe_applied
    assert "is not heard" in sent.outcome.error_text
    assert leader.core.is_leader


def test_a_target_that_does_not_take_over_leaves_it_open_what_becomes_of_it() -> None:
    cluster, leader, followers = three()
    sent = admin(cluster, leader, "transferLeader", followers[0].name)
    run_without_campaigns(cluster, TIMEOUT_MS + 50)
    assert sent.outcome.code == protocol.INTERNAL
    assert sent.outcome.maybe_applied
    assert leader.core.is_leader, "and it goes on leading"


def test_a_deadline_that_passes_meanwhile_leaves_it_open_too() -> None:
    cluster, leader, followers = three()
    request = wire.encode_admin("transferLeader", followers[0].name)
    sent = cluster.request(leader, request, timeout_ms=50)
    run_without_campaigns(cluster, 80)
    assert sent.outcome.code == protocol.TIMEOUT
    assert sent.outcome.maybe_applied
    cluster.run(3_000)
    assert len([node for node in cluster.up() if node.core.is_leader]) == 1


# --------------------------------------------------------------------------- meanwhile


def under_transfer() -> tuple[Cluster, Node, list[Node]]:
    """TimeoutNow lies in the network."""
    cluster, leader, followers = three()
    admin(cluster, leader, "transferLeader", followers[0].name)
    leader.turn()
    assert leader.core.is_transferring
    return cluster, leader, followers


def test_commands_wait_for_a_transfer_and_go_to_the_new_leader_if_it_succeeds() -> None:
    cluster, leader, followers = under_transfer()
    sent = cluster.request(leader, put("a"))
    leader.turn()
    assert leader.core.last_index == 1
    assert sent.outcomes is None
    cluster.run(100)
    successor = cluster.leader()
    assert successor is followers[0]
    assert sent.handed_back == (successor.name, successor.core.term, "")


def test_commands_wait_for_a_transfer_and_are_proposed_if_it_fails() -> None:
    cluster, leader, _ = under_transfer()
    sent = [cluster.request(leader, put(f"{at}"), put(f"{at}b")) for at in range(3)]
    leader.turn()
    more = cluster.request(leader, put("c"))
    run_without_campaigns(cluster, TIMEOUT_MS // 2)
    assert leader.core.is_transferring
    run_without_campaigns(cluster, TIMEOUT_MS)
    assert leader.core.is_leader
    assert [each.outcome.index for each in sent] == [2, 4, 6]
    assert more.outcome.index == 8


def test_a_command_that_is_given_up_while_it_waits_is_never_proposed() -> None:
    cluster, leader, _ = under_transfer()
    late = cluster.request(leader, put("late"), timeout_ms=100)
    kept = cluster.request(leader, put("kept"))
    run_without_campaigns(cluster, 200)
    assert late.outcome.code == protocol.TIMEOUT
    assert not late.outcome.maybe_applied
    assert leader.core.is_transferring
    run_without_campaigns(cluster, TIMEOUT_MS)
    assert kept.outcome.index == 2
    assert leader.core.last_index == 2


def test_reads_go_on_during_a_transfer() -> None:
    cluster, leader, _ = under_transfer()
    sent = cluster.request(leader, SIZE)
    run_without_campaigns(cluster, 50)
    assert sent.outcome.code == protocol.OK
    assert leader.core.is_transferring


# --------------------------------------------------------------------------- a node that stops


def drain(node: Node) -> None:
    node.tell(Drain(), control=True)


def test_a_leader_that_is_to_stop_hands_over_first() -> None:
    cluster, leader, _ = three()
    drain(leader)
    leader.turn()
    under_way = not leader.group.is_drained
    assert under_way
    cluster.run(100)
    assert cluster.leader() is not leader
    assert leader.group.is_drained


def test_writes_that_are_in_the_log_are_answered_before_it_hands_over() -> None:
    cluster, leader, _ = three()
    leader.syncs_at_once = False
    sent = cluster.request(leader, put("a"))
    cluster.settle()
    drain(leader)
    cluster.settle()
    assert not leader.core.is_transferring
    assert sent.outcomes is None
    leader.syncs_at_once = True
    cluster.settle()
    assert sent.outcome.code == protocol.OK
    cluster.run(100)
    assert cluster.leader() is not leader


def test_whoever_is_alone_stops_at_once() -> None:
    cluster = Cluster(("n1",))
    leader = cluster.leader()
    drain(leader)
    leader.turn()
    assert leader.group.is_drained
    assert leader.core.is_leader


def test_when_all_stop_at_once_leadership_does_not_go_round_for_ever() -> None:
    cluster, _, _ = three()
    for node in cluster.up():
        drain(node)
    cluster.run(2_000)
    assert all(node.group.is_drained for node in cluster.up())
    term = max(node.core.term for node in cluster.up())
    assert term <= 1 + len(cluster.up())
    cluster.run(2_000)
    assert max(node.core.term for node in cluster.up()) == term


def test_a_replica_that_stops_hands_everything_to_who_leads_now() -> None:
    cluster, leader, _ = three()
    drain(leader)
    cluster.run(100)
    successor = cluster.leader()
    for request in (put("a"), SIZE, wire.encode_admin("doSnapshot", "")):
        sent = cluster.request(leader, request)
        cluster.settle()
        assert sent.handed_back == (successor.name, successor.core.term, "")


# --------------------------------------------------------------------------- quarantine


class Fragile(KeyValueMachine):
    def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
        if any(request.key == "poison" for request in requests):
            raise ValueError("poison")
        return super().apply_batch(requests, contexts)


def test_a_leader_whose_machine_failed_lets_somebody_lead_who_can_serve() -> None:
    cluster = Cluster(machines={"n1": Fragile()})
    leader = cluster.leader()
    if leader.name != "n1":
        admin(cluster, leader, "transferLeader", "n1")
        cluster.run(500)
    leader = cluster.leader()
    assert leader.name == "n1"
    cluster.request(leader, put("poison"))
    cluster.run(500)
    successor = cluster.leader()
    assert successor is not leader
    sent = cluster.request(successor, put("b"))
    cluster.run(500)
    assert sent.outcome.code == protocol.OK
    assert cluster.leader() is successor


def test_where_all_machines_failed_leadership_does_not_go_round_for_ever() -> None:
    cluster = Cluster(machines={name: Fragile() for name in ("n1", "n2", "n3")})
    leader = cluster.leader()
    cluster.request(leader, put("poison"))
    cluster.run(2_000)
    term = cluster.leader().core.term
    assert term <= 4
    refused = cluster.request(cluster.leader(), put("b"))
    cluster.run(2_000)
    assert refused.outcome.code == protocol.READ_ONLY
    assert cluster.leader().core.term == term
    cluster.run(module.HAND_OVER_AGAIN_MS)
    assert term < cluster.leader().core.term <= term + 4, "but it is tried again"


def poisoned(*fragile: str, names: tuple[str, ...] = ("n1", "n2", "n3")) -> Cluster:
    """The machines of these have failed, and the last attempts to hand over are long ago."""
    cluster = Cluster(names, machines={name: Fragile() for name in fragile})
    cluster.request(cluster.leader(), put("poison"))
    cluster.run(module.HAND_OVER_AGAIN_MS + 1_000)
    return cluster


def test_a_failed_machine_s_replica_that_is_elected_gives_leadership_away_at_once() -> None:
    """Not after the pause between two such steps: no peer has answered a leader that is new."""
    cluster = poisoned("n1")
    assert cluster.leader().name != "n1"
    admin(cluster, cluster.leader(), "transferLeader", "n1")
    cluster.run(3 * TIMEOUT_MS)
    assert cluster.leader().name != "n1"


def test_two_with_failed_machines_do_not_keep_leadership_between_them() -> None:
    names = ("n1", "n2", "n3", "n4", "n5")
    cluster = poisoned("n4", "n5", names=names)
    for name in ("n4", "n5"):
        admin(cluster, cluster.leader(), "transferLeader", name)
        cluster.run(2 * module.HAND_OVER_AGAIN_MS)
        assert cluster.leader().name not in ("n4", "n5")


# --------------------------------------------------------------------------- resetPeers


def survivor() -> tuple[Cluster, Node]:
    """Two of three are lost for good."""
    cluster, leader, followers = three()
    sent = cluster.request(leader, put("a"))
    cluster.run(50)
    assert sent.outcome.code == protocol.OK
    leader.crash()
    followers[1].crash()
    cluster.run(4_000)
    left = followers[0]
    assert not left.core.is_leader
    return cluster, left


@pytest.mark.parametrize("by_option", [True, False])
def test_after_the_loss_of_a_majority_the_rest_goes_on_by_hand(by_option: bool) -> None:
    cluster, left = survivor()
    if by_option:
        sent = admin(cluster, left, "resetPeers", voters=left.name)
    else:
        sent = admin(cluster, left, "resetPeers", f" {left.name} ,")
    cluster.run(2_000)
    assert json.loads(sent.outcome.data) == {"voters": [left.name]}
    assert left.core.is_leader
    read = cluster.request(left, SIZE)
    write = cluster.request(left, put("b"))
    cluster.settle()
    assert read.outcome.data == b"\x01"
    assert write.outcome.code == protocol.OK
    assert left.machine.applied_index == left.core.last_index, "configurations are applied, too"


def test_while_a_leader_is_heard_it_takes_force() -> None:
    cluster, leader, (follower, _) = three()
    sent = admin(cluster, follower, "resetPeers", follower.name)
    cluster.settle()
    assert sent.outcome.code == protocol.REJECTED
    assert "the majority is not lost" in sent.outcome.error_text
    cluster.isolate(follower.name)
    forced = admin(cluster, follower, "resetPeers", follower.name, force="true")
    cluster.settle()
    assert forced.outcome.code == protocol.OK
    del leader


@pytest.mark.parametrize(
    ("value", "text"), [("", "nobody"), (" , ", "nobody"), ("n1,n9,n8", "n9, n8")]
)
def test_only_members_can_be_named(value: str, text: str) -> None:
    cluster, leader, _ = three()
    sent = admin(cluster, leader, "resetPeers", value)
    cluster.settle()
    assert sent.outcome.code == protocol.BAD_REQUEST
    assert text in sent.outcome.error_text


# --------------------------------------------------------------------------- the rest


@pytest.mark.parametrize("command", ["deleteGroup"])
def test_what_is_to_come_is_refused_by_name_everywhere(command: str) -> None:
    cluster, leader, (follower, _) = three()
    for node in (leader, follower):
        sent = admin(cluster, node, command, "n1")
        cluster.settle()
        assert sent.outcome.code == protocol.BAD_REQUEST
        assert sent.outcome.error_text == f"{command} is not in this version"


def test_the_description_names_the_members_of_the_log() -> None:
    cluster, left = survivor()
    admin(cluster, left, "resetPeers", left.name)
    cluster.run(2_000)
    effects = left.group._on_described(machine_description(left))
    (described,) = effects
    assert described.description["members"] == [  # type: ignore[attr-defined]
        [left.name, left.me.incarnation, True]
    ]


def machine_description(node: Node) -> Any:
    from actors.machine import Described

    return Described("key", node.machine.applied_index, None, None)


def test_a_change_of_the_leader_is_told_to_the_router() -> None:
    cluster, leader, followers = three()
    admin(cluster, leader, "transferLeader", followers[0].name)
    cluster.run(100)
    assert leader.summary["role"] == "follower"
    assert leader.summary["leader"] == followers[0].name
