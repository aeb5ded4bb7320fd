"""Changes of membership by command: what the catalog wants becomes what the group is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from actors import group_members as module
from actors.group_messages import DesiredMembers
from actors.replacing import LEARNER, REPLACE, WAITING, encode_question
from actors.settings import SnapshotSettings
from raft import membership
from raft.lives import replica_of
from raft.messages import Append, Replica
from raft.settings import RaftSettings
from tests.actors.cluster import GROUP, NAME, Cluster, Node, Sent, put
from transport import protocol
from transport.client import wire

TIMEOUT_MS = RaftSettings().election_timeout_ms
OTHER = 8  # a group of the same process
GIVEN_UP_MS = 12 * TIMEOUT_MS  # a newcomer that is not heard


def three(**options: Any) -> tuple[Cluster, Node, list[Node]]:
    cluster = Cluster(**options)
    leader = cluster.leader()
    cluster.settle()
    return cluster, leader, cluster.followers()


def admin(cluster: Cluster, node: Node, command: str, value: str = "", **options: str) -> Sent:
    timeout_ms = int(options.pop("timeout_ms", "60000"))
    request = wire.encode_admin(command, value, options)
    return cluster.request(node, request, timeout_ms=timeout_ms)


def done(sent: Sent) -> Any:
    assert sent.outcome.code == protocol.OK, sent.outcome.error_text
    return json.loads(sent.outcome.data)


def refused(sent: Sent, code: int = protocol.REJECTED) -> str:
    assert sent.outcome.code == code, (sent.outcome.code, sent.outcome.error_text)
    assert not sent.outcome.maybe_applied
    return sent.outcome.error_text


def names(replicas: Iterable[Replica]) -> list[str]:
    return sorted(replica.node for replica in replicas)


def wanted(cluster: Cluster) -> tuple[list[str], list[str]]:
    desired = cluster.catalog.desired()
    return names(desired.voters), names(desired.learners)


def want(cluster: Cluster, *voters: str, learners: Iterable[str] = ()) -> None:
    """By an order of which nobody waits for the answer any more."""
    values = {"voters": list(voters), "learners": list(learners)}
    response = cluster.catalog.write("SET_MEMBERS", NAME, values)
    assert response.success, response.error
    cluster.catalog.say()


def members(node: Node) -> tuple[list[str], list[str]]:
    configuration = node.core.configuration
    return names(configuration.voters), names(configuration.learners)


# --------------------------------------------------------------------------- changes


def test_a_member_is_removed_and_the_catalog_and_the_log_say_so() -> None:
    cluster, leader, (one, two) = three()
    rest = sorted((leader.name, one.name))
    sent = admin(cluster, leader, "removePeer", two.name)
    cluster.run(100)
    assert done(sent) == {"members": rest, "learners": [], "changed": True}
    assert wanted(cluster) == (rest, [])
    assert members(leader) == (rest, [])
    assert not leader.core.configuration.is_joint


def test_a_newcomer_gets_everything_before_it_votes() -> None:
    cluster, leader, _ = three()
    for number in range(20):
        cluster.request(leader, put(f"k{number}"))
    cluster.settle()
    newcomer = cluster.add_node("n4")
    cluster.settle()
    assert not newcomer.core.may_stand
    sent = admin(cluster, leader, "changePeers", "n1, n2,n3 ,n4")
    cluster.run(500)
    assert done(sent)["members"] == ["n1", "n2", "n3", "n4"]
    assert members(newcomer) == (["n1", "n2", "n3", "n4"], [])
    assert newcomer.machine.machine.digest() == leader.machine.machine.digest()


def test_three_become_two_and_three_again_with_another_one() -> None:
    cluster, leader, (one, two) = three()
    done_ = admin(cluster, leader, "changePeers", f"{leader.name},{one.name}")
    cluster.run(100)
    done(done_)
    two.crash()
    cluster.add_node("n4")
    sent = admin(cluster, leader, "changePeers", f"{leader.name},{one.name},n4")
    cluster.run(500)
    assert done(sent)["members"] == sorted((leader.name, one.name, "n4"))
    write = cluster.request(leader, put("a"))
    cluster.settle()
    assert write.outcome.code == protocol.OK


def test_a_new_disk_takes_the_place_of_the_old_one_and_the_voters_never_fall_below_three() -> None:
    cluster, leader, (one, two) = three()
    cluster.catalog.write("REPLACE_NODE", two.name, {})
    new = cluster.add_node(two.name, 999)
    voters = []
    cluster.catalog.say()
    for _ in range(200):
        cluster.run(10)
        voters.append(len(leader.core.configuration.voters))
    assert new.me in leader.core.configuration.voters
    assert two.me not in leader.core.configuration
    assert set(voters) == {3}
    assert new.machine.machine.digest() == leader.machine.machine.digest()
    assert one.core.configuration == leader.core.configuration


def test_a_leader_that_is_removed_says_so_and_another_one_leads() -> None:
    cluster, leader, followers = three()
    sent = admin(cluster, leader, "removePeer", leader.name)
    cluster.run(500)
    rest = names(node.me for node in followers)
    assert done(sent)["members"] == rest
    successor = cluster.leader()
    assert successor is not leader
    write = cluster.request(successor, put("a"))
    cluster.settle()
    assert write.outcome.code == protocol.OK


def test_a_learner_is_added_promoted_and_removed() -> None:
    cluster, leader, _ = three()
    cluster.add_node("n4")
    sent = admin(cluster, leader, "addLearner", "n4")
    cluster.run(100)
    assert done(sent)["learners"] == ["n4"]
    assert "votes already" in refused(
        settled(cluster, admin(cluster, leader, "addLearner", leader.name)), protocol.BAD_REQUEST
    )
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3")
    cluster.run(100)
    assert done(sent) == {"members": ["n1", "n2", "n3"], "learners": ["n4"], "changed": False}
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3,n4")
    cluster.run(500)
    assert done(sent) == {"members": ["n1", "n2", "n3", "n4"], "learners": [], "changed": True}


def settled(cluster: Cluster, sent: Sent) -> Sent:
    cluster.settle()
    return sent


@pytest.mark.parametrize(
    ("command", "value"),
    [
        ("changePeers", "n3,n2,n1,n1"),
        ("restRaftCluster", "n1,n2,n3"),
        ("resetRaftCluster", "n1,n2,n3"),
        ("removePeer", "n9"),
        ("removePeers", "n8,n9"),
    ],
)
def test_what_is_so_already_is_done_and_asks_nobody(command: str, value: str) -> None:
    cluster, leader, _ = three()
    last = leader.core.last_index
    sent = settled(cluster, admin(cluster, leader, command, value))
    assert done(sent)["changed"] is False
    assert cluster.catalog.asked == []
    assert leader.core.last_index == last


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", ["", " , "])
def test_somebody_has_to_be_named(value: str) -> None:
    cluster, leader, _ = three()
    for command in ("changePeers", "removePeer", "removePeers", "addLearner"):
        sent = settled(cluster, admin(cluster, leader, command, value))
        assert "needs the nodes" in refused(sent, protocol.BAD_REQUEST)


def test_nobody_would_remain() -> None:
    cluster, leader, _ = three()
    sent = settled(cluster, admin(cluster, leader, "removePeers", "n1,n2,n3"))
    assert "nobody would remain" in refused(sent, protocol.BAD_REQUEST)


def test_the_catalog_refuses_whom_it_does_not_know() -> None:
    cluster, leader, _ = three()
    sent = settled(cluster, admin(cluster, leader, "changePeers", "n1,n2,n9"))
    assert "'n9' is no node" in refused(sent)
    sent = settled(cluster, admin(cluster, leader, "changePeers", "n1,n2"))
    cluster.run(100)
    assert done(sent)["members"] == ["n1", "n2"], "and the next one is taken"


def test_a_majority_of_the_new_voters_must_be_alive() -> None:
    cluster, leader, (one, two) = three()
    one.crash()
    cluster.run(2 * TIMEOUT_MS)
    sent = settled(cluster, admin(cluster, leader, "removePeer", two.name))
    assert f"{one.name} cannot be heard" in refused(sent)
    assert cluster.catalog.asked == []
    sent = admin(cluster, leader, "removePeer", one.name)
    cluster.run(100)
    assert done(sent)["changed"], "but the dead one can be removed"


def rebirth(cluster: Cluster, leader: Node, lost: Node) -> Replica:
    """The lost one is to come back as its next life, which has not begun yet."""
    new = replica_of(lost.core.me, GROUP, 1)
    lost.crash()
    cluster.run(2 * TIMEOUT_MS)
    batch = encode_question(lost.core.me, 1, placed=False, timeout_ms=1_000)
    cluster.request_raw(leader, batch, rights=protocol.RIGHTS_ALL | protocol.RIGHT_NODE)
    cluster.settle()
    assert leader.core.configuration.learners == {new}
    return new


def test_two_silent_lives_of_one_disk_are_one_node_that_is_silent() -> None:
    cluster, leader, (_, lost) = three()
    new = rebirth(cluster, leader, lost)
    cluster.add_node("n4")
    sent = admin(cluster, leader, "addLearner", "n4")
    cluster.run(500)
    assert done(sent)["learners"] == ["n4"]
    assert members(leader) == (["n1", "n2", "n3"], sorted((new.node, "n4")))


def test_a_node_of_which_one_life_votes_and_another_does_not_yet_votes() -> None:
    """It would be named twice otherwise, which the catalog refuses."""
    cluster, leader, (one, lost) = three()
    rebirth(cluster, leader, lost)
    sent = admin(cluster, leader, "removePeer", one.name)
    cluster.settle()
    assert sent.outcomes is None, "it waits until the lost one votes again"
    assert wanted(cluster) == (sorted((leader.name, lost.name)), [])


def test_one_change_at_a_time() -> None:
    cluster, leader, (one, two) = three()
    first = admin(cluster, leader, "removePeer", one.name)
    second = admin(cluster, leader, "removePeer", two.name)
    cluster.run(100)
    assert done(first)["changed"]
    assert "another change" in refused(second)


def test_a_follower_hands_it_to_the_leader() -> None:
    cluster, leader, (one, two) = three()
    sent = settled(cluster, admin(cluster, one, "removePeer", two.name))
    assert sent.handed_back == (leader.name, leader.core.term, "")


# --------------------------------------------------------------------------- when somebody fails


def test_a_newcomer_that_is_never_heard_ends_the_change_and_is_wanted_no_more() -> None:
    cluster, leader, _ = three()
    cluster.add_node("n4").crash()
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3,n4")
    cluster.run(100)
    assert wanted(cluster)[0] == ["n1", "n2", "n3", "n4"]
    cluster.run(GIVEN_UP_MS)
    assert "n4 has not shown its replica" in refused(sent)
    assert wanted(cluster) == (["n1", "n2", "n3"], [])
    assert members(leader) == (["n1", "n2", "n3"], [])
    last = leader.core.last_index
    cluster.run(10 * module.PAUSE_MS_MAX)
    assert leader.core.last_index == last, "and nothing of it is tried again"


def test_a_new_disk_that_is_not_heard_is_tried_again_with_pauses() -> None:
    cluster, leader, (_, two) = three()
    cluster.catalog.write("REPLACE_NODE", two.name, {})
    new = cluster.add_node(two.name, 999)
    new.crash()
    cluster.catalog.say()
    cluster.run(10 * TIMEOUT_MS + module.PAUSE_MS_MIN // 2)
    assert new.me not in leader.core.configuration
    before = leader.core.last_index
    cluster.run(10 * 60_000)
    assert leader.core.last_index - before < 30
    new.start()
    cluster.run(module.PAUSE_MS_MAX + 2_000)
    assert new.me in leader.core.configuration.voters


def test_who_is_there_does_not_wait_for_who_never_comes() -> None:
    """And nobody goes meanwhile, but the old disk of one that has a new one."""
    cluster, leader, (one, two) = three()
    newcomer = cluster.add_node("n4")
    lost = cluster.add_node("n5")
    lost.crash()
    want(cluster, leader.name, two.name, "n4", "n5")
    cluster.run(GIVEN_UP_MS)
    assert members(leader) == (["n1", "n2", "n3", "n4"], []), "n5 may be what is to replace one"
    assert newcomer.me in leader.core.configuration.voters
    cluster.catalog.write("REPLACE_NODE", two.name, {})
    new = cluster.add_node(two.name, 999)
    cluster.catalog.say()
    cluster.run(GIVEN_UP_MS)
    assert new.me in leader.core.configuration.voters
    assert two.me not in leader.core.configuration
    assert one.me in leader.core.configuration.voters
    lost.start()
    cluster.run(GIVEN_UP_MS)
    assert members(leader) == (sorted((leader.name, two.name, "n4", "n5")), [])


def test_nobody_loses_a_vote_while_somebody_is_waited_for() -> None:
    cluster, leader, (one, two) = three()
    lost = cluster.add_node("n5")
    lost.crash()
    want(cluster, leader.name, one.name, "n5", learners=(two.name,))
    cluster.run(GIVEN_UP_MS)
    assert members(leader) == (["n1", "n2", "n3"], [])
    lost.start()
    cluster.run(GIVEN_UP_MS)
    assert members(leader) == (sorted((leader.name, one.name, "n5")), [two.name])


def test_what_was_offered_before_it_left_is_not_taken_for_what_comes_back() -> None:
    """That is another life, which the node has yet to tell of."""
    cluster, leader, _ = three()
    newcomer = cluster.add_node("n4")
    for voters in ("n1,n2,n3,n4", "n1,n2,n3"):
        sent = admin(cluster, leader, "changePeers", voters)
        cluster.run(500)
        assert ",".join(done(sent)["members"]) == voters
    newcomer.crash()
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3,n4")
    cluster.run(GIVEN_UP_MS)
    assert "n4 has not shown its replica" in refused(sent)


def test_the_deadline_passes_and_the_change_goes_on() -> None:
    cluster, leader, _ = three()
    newcomer = cluster.add_node("n4")
    newcomer.crash()
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3,n4", timeout_ms="500")
    cluster.run(600)
    assert sent.outcome.code == protocol.TIMEOUT
    assert sent.outcome.maybe_applied
    newcomer.start()
    cluster.run(1_000)
    assert members(leader)[0] == ["n1", "n2", "n3", "n4"]


@pytest.mark.parametrize("after_ms", [0, 1, 300])
def test_the_next_leader_goes_on_with_what_the_catalog_has_taken(after_ms: int) -> None:
    cluster, leader, followers = three()
    newcomer = cluster.add_node("n4")
    newcomer.crash()
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3,n4")
    while wanted(cluster)[0] != ["n1", "n2", "n3", "n4"]:
        leader.turn()
        cluster.catalog.work()
    cluster.run(after_ms)
    leader.crash()
    newcomer.start()
    cluster.run(4_000)
    successor = cluster.leader()
    assert successor in (*followers, newcomer)
    assert members(successor)[0] == ["n1", "n2", "n3", "n4"]
    assert sent.outcomes is None, "and who asked hears that its connection is lost"


def test_a_leader_that_is_deposed_meanwhile_does_not_claim_to_have_done_it() -> None:
    cluster, leader, (one, two) = three()
    cluster.catalog.answers = False
    sent = admin(cluster, leader, "removePeer", two.name)
    cluster.settle()
    cluster.isolate(leader.name)
    cluster.run(5 * TIMEOUT_MS)
    assert sent.outcome.code == protocol.NOT_LEADER
    assert sent.outcome.maybe_applied
    assert members(one)[0] == ["n1", "n2", "n3"]


def test_a_question_whose_answer_was_lost_is_asked_again() -> None:
    cluster, leader, (_, two) = three()
    cluster.catalog.answers = False
    sent = admin(cluster, leader, "removePeer", two.name)
    cluster.run(100)
    assert len(cluster.catalog.asked) == 1
    cluster.catalog.answers = True
    cluster.run(module.ASK_AGAIN_MS + 100)
    assert done(sent)["changed"]
    assert len(cluster.catalog.asked) == 2
    assert cluster.catalog.asked[0] == cluster.catalog.asked[1]


def test_an_old_word_of_the_catalog_does_not_undo_a_newer_one() -> None:
    cluster, leader, (one, two) = three()
    old = cluster.catalog.desired()
    sent = admin(cluster, leader, "removePeer", two.name)
    cluster.run(100)
    done(sent)
    for node in (leader, one):
        node.tell(DesiredMembers(old.version, old.voters, old.learners), control=True)
    cluster.run(1_000)
    assert members(leader)[0] == names((leader.me, one.me))
    done(ask_to_leave(cluster, leader, two))


# --------------------------------------------------------------------------- leaving


def ask_to_leave(cluster: Cluster, leader: Node, node: Node) -> Sent:
    return ask_as_node(cluster, leader, node, "mayLeave")


def ask_as_node(cluster: Cluster, leader: Node, node: Node, command: str, **options: str) -> Sent:
    request = wire.encode_admin(
        command, node.name, {"incarnation": str(node.me.incarnation), "life": "0", **options}
    )
    batch = wire.join_batch([request], 10_000)
    rights = protocol.RIGHTS_ALL | protocol.RIGHT_NODE
    sent = cluster.request_raw(leader, batch, rights=rights)
    cluster.settle()
    return sent


def test_a_replica_may_leave_when_its_removal_is_committed_and_not_before() -> None:
    cluster, leader, (one, two) = three()
    assert "not settled" in refused(ask_to_leave(cluster, leader, two)), "nothing is known"
    cluster.catalog.say()
    cluster.settle()
    assert "is a member" in refused(ask_to_leave(cluster, leader, two))
    for name in (one.name, two.name):
        cluster.cut(name, leader.name)
    admin(cluster, leader, "removePeer", two.name)
    leader.turn()
    cluster.catalog.work()
    leader.turn()
    assert leader.core.configuration.is_joint
    assert "changing" in refused(ask_to_leave(cluster, leader, two))
    cluster.heal()
    cluster.run(500)
    assert two.me not in cluster.leader().core.configuration
    done(ask_to_leave(cluster, cluster.leader(), two))


def test_no_client_can_send_a_replica_away() -> None:
    cluster, leader, (_, two) = three()
    sent = settled(cluster, admin(cluster, leader, "mayLeave", two.name, incarnation="66"))
    assert sent.outcome.code == protocol.FORBIDDEN


# --------------------------------------------------------------------------- by force


def reset_of_the_catalog() -> tuple[Cluster, Node, Node]:
    """Of the three nodes one is left, and was told to go on alone; all are wanted."""
    cluster, leader, (one, two) = three()
    for node in cluster.up():
        node.group.is_system = True
    cluster.catalog.say()
    cluster.settle()
    leader.crash()
    two.crash()
    cluster.run(4_000)
    sent = admin(cluster, one, "resetPeers", one.name)
    cluster.run(3_000)
    done(sent)
    assert members(one) == ([one.name], [])
    return cluster, one, two


def test_who_was_given_up_of_the_catalog_s_group_is_told_so_and_comes_back_as_another() -> None:
    cluster, one, two = reset_of_the_catalog()
    offer = ask_as_node(cluster, one, two, "offerReplica", was_member="true")
    assert done(offer) == {"member": False, "given_up": True}
    cluster.run(5 * module.PAUSE_MS_MAX)
    assert members(one) == ([one.name], []), "never as who it was"
    states = []
    for placed in (False, False, True):
        sent = ask_as_node(cluster, one, two, REPLACE, life="1", placed=str(placed).lower())
        states.append(done(sent)["state"])
    assert states == [WAITING, LEARNER, WAITING]
    assert one.core.is_changing, "it catches up, to vote"
    assert one.core.configuration.learners == {replica_of(two.me, GROUP, 1)}


def test_a_life_that_has_not_begun_is_not_waited_for_to_catch_up() -> None:
    """Its node begins it when it is a learner and nothing else is changing."""
    cluster, leader, (one, two) = three()
    for node in cluster.up():
        node.group.is_system = True
    cluster.catalog.say()
    cluster.settle()
    leader.crash()
    reset = admin(cluster, one, "resetPeers", f"{one.name},{two.name}", force="true")
    cluster.run(6_000)
    done(reset)
    left = cluster.leader()
    for state in (WAITING, LEARNER):
        sent = ask_as_node(cluster, left, leader, REPLACE, life="1")
        assert done(sent)["state"] == state
        left.group.admin.members.look()
        cluster.run(3 * module.LOOK_AGAIN_MS)


def test_of_those_who_were_given_up_no_life_that_is_over_comes_back() -> None:
    cluster, one, two = reset_of_the_catalog()
    done(ask_as_node(cluster, one, two, REPLACE, life="2"))
    assert one.core.configuration.learners == {replica_of(two.me, GROUP, 2)}
    late = ask_as_node(cluster, one, two, REPLACE, life="1")
    assert "no replica of" in refused(late)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("offerReplica", {"was_member": "true"}),
        (REPLACE, {"life": "1"}),
        ("mayLeave", {}),
    ],
)
def test_a_leader_that_was_deposed_and_does_not_know_it_ends_no_life(
    command: str, options: dict[str, str]
) -> None:
    """Those who lead by now may have taken that very replica in."""
    cluster, leader, _ = three()
    other = cluster.add_node("n4")
    cluster.catalog.say()
    cluster.settle()
    if command != "mayLeave":
        wanted = cluster.catalog.desired()
        learners = wanted.learners | {other.me}
        leader.tell(replace(wanted, version=wanted.version + 1, learners=learners), control=True)
    other.crash()
    cluster.isolate(leader.name)
    sent = ask_as_node(cluster, leader, other, command, **options)
    assert leader.core.can_serve
    assert sent.outcomes is None
    cluster.run(2 * cluster.settings.election_timeout_ms)
    assert not leader.core.is_leader
    assert sent.handed_back is not None
    cluster.heal()
    cluster.run(1_000)
    assert ask_as_node(cluster, cluster.leader(), other, command, **options).outcomes is not None


def test_a_member_is_not_given_up() -> None:
    cluster, leader, (_, two) = three()
    cluster.catalog.say()
    cluster.settle()
    for who in ("true", "false"):
        sent = ask_as_node(cluster, leader, two, "offerReplica", was_member=who)
        assert done(sent) == {"member": True}


def ran(cluster: Cluster, sent: Sent, duration_ms: int) -> Sent:
    cluster.run(duration_ms)
    return sent


def test_a_follower_that_gets_no_appends_is_no_member_by_what_it_hears_of_the_catalog() -> None:
    """What is wanted is nobody's configuration: only the log's counts."""
    cluster, leader, (one, two) = three()
    admin(cluster, leader, "removePeer", two.name)
    leader.turn()
    cluster.catalog.work()
    cluster.drop(lambda message: isinstance(message, Append))
    for node in cluster.up():
        node.turn()
    assert two.me in two.core.configuration
    assert one.core.configuration == two.core.configuration


def test_an_order_whose_answer_was_lost_is_not_given_again_by_who_leads_no_more() -> None:
    """Somebody else leads by then, and what was ordered from him is newer."""
    cluster, leader, (one, two) = three()
    cluster.catalog.answers = False
    admin(cluster, leader, "removePeer", two.name)
    cluster.settle()
    assert len(cluster.catalog.asked) == 1
    transfer = admin(cluster, leader, "transferLeader", one.name)
    cluster.run(300)
    assert transfer.outcome.code == protocol.OK
    cluster.run(2 * module.ASK_AGAIN_MS)
    assert len(cluster.catalog.asked) == 1, "it is the same order, and would undo newer ones"


def in_line() -> tuple[Cluster, Node, Node, Sent]:
    """A newcomer that needs a snapshot, and whose process has the only place taken."""
    often = SnapshotSettings(
        snapshot_entries=10, snapshot_trailing_entries=2, snapshot_transfers_max=1
    )
    cluster, leader, _ = three(snapshots=often)
    for number in range(30):
        cluster.request(leader, put(f"k{number}"))
        cluster.settle()
    newcomer = cluster.add_node("n4")
    cluster.settle()
    sent = admin(cluster, leader, "changePeers", "n1,n2,n3,n4", timeout_ms="120000")
    places = newcomer.traffic.receiving
    for step in range(2 * GIVEN_UP_MS // 100):
        assert places.may(OTHER, newcomer.group.now_ms())
        places.note_reached(OTHER, step + 1, newcomer.group.now_ms())
        cluster.run(100)
    return cluster, leader, newcomer, sent


def test_a_newcomer_that_waits_for_its_turn_to_get_a_snapshot_is_not_given_up() -> None:
    """Many groups move to its node at once, and others are before it in line."""
    cluster, leader, newcomer, sent = in_line()
    assert members(leader) == (["n1", "n2", "n3"], ["n4"])
    newcomer.traffic.receiving.leave(OTHER)
    cluster.run(1_000)
    assert done(sent)["members"] == ["n1", "n2", "n3", "n4"]


def test_nor_is_waited_for_its_turn_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "NEWCOMER_WAITING_TIMEOUTS", 15)
    _, leader, _, sent = in_line()
    assert "does not come nearer" in refused(sent)
    assert members(leader) == (["n1", "n2", "n3"], [])
