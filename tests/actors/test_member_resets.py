"""Members exchanged by hand, after a majority was lost: what the catalog hears of it, and when."""

from __future__ import annotations

import pytest

from actors import group_members as module
from actors.group_messages import CatalogAnswered
from tests.actors.cluster import Cluster, Node, Sent, put
from tests.actors.test_group_members import (
    TIMEOUT_MS,
    admin,
    ask_as_node,
    done,
    members,
    ran,
    refused,
    settled,
    three,
    wanted,
)
from transport import protocol


def one_is_left() -> tuple[Cluster, Node, tuple[Node, Node]]:
    """With those who are lost."""
    cluster, leader, (one, two) = three()
    cluster.catalog.say()
    cluster.settle()
    leader.crash()
    two.crash()
    cluster.run(4_000)
    return cluster, one, (leader, two)


def reset(cluster: Cluster, one: Node, **options: str) -> Sent:
    return admin(cluster, one, "resetPeers", one.name, **options)


def unknown(sent: Sent, code: int) -> str:
    assert sent.outcome.code == code, (sent.outcome.code, sent.outcome.error_text)
    assert sent.outcome.maybe_applied
    return sent.outcome.error_text


def test_after_a_reset_who_is_left_is_what_is_wanted() -> None:
    cluster, one, _ = one_is_left()
    sent = reset(cluster, one)
    cluster.run(3_000)
    done(sent)
    assert wanted(cluster) == ([one.name], [])
    last = one.core.last_index
    cluster.run(5 * module.PAUSE_MS_MAX)
    assert members(one) == ([one.name], [])
    assert one.core.last_index == last, "nobody tries to get the lost ones back"


def test_a_crash_right_after_a_reset_does_not_bring_back_who_was_lost() -> None:
    cluster, one, lost = one_is_left()
    sent = reset(cluster, one)
    cluster.catalog.answers = False  # from the first question on that comes after the reset
    cluster.settle()
    assert not one.core.is_leader, "the catalog is to hear of it first"
    cluster.catalog.answers = True
    cluster.run(module.ASK_AGAIN_MS)
    while members(one) != ([one.name], []) or one.core.commit_index < one.core.last_index:
        cluster.run(1)
    done(sent)
    cluster.catalog.answers = False
    one.crash()
    one.start()
    cluster.catalog.say()
    cluster.run(4_000)
    assert one.core.can_serve
    for each in lost:
        assert "not wanted" in refused(ask_as_node(cluster, one, each, "offerReplica"))
    cluster.run(5 * module.PAUSE_MS_MAX)
    assert members(one) == ([one.name], [])


def test_a_replica_that_is_restarted_in_between_is_asked_once_more() -> None:
    cluster, one, _ = one_is_left()
    cluster.catalog.answers = False
    reset(cluster, one)
    cluster.settle()
    one.crash()
    cluster.catalog.answers = True
    cluster.catalog.write("SET_MEMBERS", "kv", {"voters": [one.name], "learners": []})
    one.start()
    cluster.run(4_000)
    assert members(one) == (["n1", "n2", "n3"], [])
    done(ran(cluster, reset(cluster, one), 3_000))
    assert members(one) == wanted(cluster) == ([one.name], [])


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (protocol.NO_LEADER, "recover _system first"),
        (protocol.REJECTED, "the catalog refuses: no"),
    ],
)
def test_where_the_catalog_does_not_take_it_nothing_happens(code: int, text: str) -> None:
    cluster, one, _ = one_is_left()
    cluster.catalog.answers = False
    sent = reset(cluster, one)
    cluster.settle()
    answer(cluster, one, code, "no")
    definite = code == protocol.REJECTED
    assert text in (refused(sent) if definite else unknown(sent, protocol.UNAVAILABLE))
    cluster.run(3_000)
    assert members(one) == (["n1", "n2", "n3"], [])
    assert not one.core.is_leader
    assert not one.group.admin.members.resets.is_under_way


def answer(cluster: Cluster, node: Node, code: int, text: str) -> None:
    token = cluster.catalog.asked[-1].token
    node.tell(CatalogAnswered(token, code, text, b""), control=True)
    cluster.settle()


def test_a_leader_that_shows_itself_meanwhile_does_what_the_catalog_has_taken() -> None:
    cluster, leader, (one, _) = three()
    cluster.catalog.say()
    cluster.isolate(one.name)
    cluster.run(3 * TIMEOUT_MS)
    cluster.catalog.answers = False
    sent = reset(cluster, one)
    cluster.settle()
    cluster.heal()
    cluster.run(TIMEOUT_MS)
    cluster.catalog.answers = True
    cluster.run(module.ASK_AGAIN_MS)
    assert "the majority is not lost" in unknown(sent, protocol.INTERNAL)
    cluster.run(3_000)
    assert wanted(cluster) == members(cluster.leader()) == ([one.name], [])
    del leader


def test_of_two_resets_the_second_waits_unless_it_is_forced() -> None:
    cluster, one, _ = one_is_left()
    cluster.catalog.answers = False
    first = reset(cluster, one)
    cluster.settle()
    assert "under way" in refused(settled(cluster, reset(cluster, one)))
    forced = reset(cluster, one, force="true")
    cluster.run(1_000)
    assert done(forced) == {"voters": [one.name]}
    cluster.catalog.answers = True
    cluster.run(2 * module.ASK_AGAIN_MS)
    assert "another reset" in unknown(first, protocol.INTERNAL)
    assert wanted(cluster) == ([one.name], [])
    assert not one.group.admin.members.resets.is_under_way
    assert settled(cluster, cluster.request(one, put("a"))).outcome.code == protocol.OK


def test_a_forced_reset_is_not_undone_while_the_catalog_does_not_answer() -> None:
    cluster, one, lost = one_is_left()
    cluster.catalog.answers = False
    done(ran(cluster, reset(cluster, one, force="true"), 3_000))
    for each in lost:
        assert done(ask_as_node(cluster, one, each, "offerReplica")) == {"member": False}
    last = one.core.last_index
    cluster.run(60_000)
    assert one.core.last_index == last, "though those that were lost have come back"
    assert members(one) == ([one.name], [])
    assert "another change" in refused(
        settled(cluster, admin(cluster, one, "changePeers", "n1,n2"))
    )
    cluster.catalog.answers = True
    cluster.run(2 * module.ASK_AGAIN_MS)
    assert wanted(cluster) == ([one.name], [])


def test_of_two_resets_the_first_ends_nothing_for_the_second() -> None:
    """Otherwise what was wanted before would count in between, and bring back who was lost."""
    cluster, leader, (one, two) = three()
    leader.crash()
    two.crash()
    cluster.run(3 * TIMEOUT_MS)
    first = admin(cluster, one, "resetPeers", f"{one.name},{two.name}", force="true")
    cluster.run(50)
    cluster.catalog.answers = False
    second = admin(cluster, one, "resetPeers", one.name, force="true")
    cluster.run(20)
    assert "another reset" in refused(first)
    assert one.group.admin.members.resets.is_under_way
    cluster.run(1_000)
    assert done(second) == {"voters": [one.name]}
    assert one.group.admin.members.resets.is_under_way, "the catalog has not heard of it"
