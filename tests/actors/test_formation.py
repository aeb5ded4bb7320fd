"""Formation without a network: hellos in, one decision out."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from actors.formation import (
    Formation,
    Formed,
    Hello,
    Pair,
    Refused,
    Wait,
    cluster_id,
    members_hash,
)

MEMBERS = {name: f"tcp://10.0.0.{at}:7101" for at, name in enumerate(("n1", "n2", "n3"), 1)}
PAIRS: tuple[Pair, ...] = (("n1", 11), ("n2", 22), ("n3", 33))
CLUSTER = cluster_id(PAIRS)


def formation(node: str = "n1", incarnation: int = 11) -> Formation:
    return Formation(node, incarnation, MEMBERS)


def blank(node: str, incarnation: int | None = None) -> Hello:
    return Hello(node, incarnation or dict(PAIRS)[node], b"", members_hash(MEMBERS))


def formed(node: str, pairs: tuple[Pair, ...] = PAIRS) -> Hello:
    return Hello(node, dict(pairs)[node], cluster_id(pairs), members_hash(MEMBERS), pairs)


def test_who_has_heard_nobody_waits_and_names_them() -> None:
    decision = formation().decide()
    assert isinstance(decision, Wait)
    assert decision.silent == ("n2", "n3")
    assert "n2" in decision.text
    assert "n3" in decision.text


def test_one_silent_member_is_enough_to_wait() -> None:
    """Two of three could form; but the third might be part of a cluster that forms without them."""
    one = formation()
    one.on_hello(blank("n2"))
    decision = one.decide()
    assert isinstance(decision, Wait)
    assert decision.silent == ("n3",)


def test_all_blank_with_the_same_list_form_one_cluster_whoever_looks() -> None:
    decisions = []
    for node, incarnation in PAIRS:
        one = formation(node, incarnation)
        for other, _ in PAIRS:
            if other != node:
                one.on_hello(blank(other))
        decisions.append(one.decide())
    assert decisions == [Formed(CLUSTER, PAIRS)] * 3


def test_a_single_member_forms_at_once() -> None:
    assert Formation("n1", 11, {"n1": "tcp://10.0.0.1:7101"}).decide() == Formed(
        cluster_id([("n1", 11)]), (("n1", 11),)
    )


def test_the_id_is_16_bytes_and_depends_on_names_and_disks_but_on_no_order() -> None:
    assert len(CLUSTER) == 16
    assert {cluster_id(pairs) for pairs in permutations(PAIRS)} == {CLUSTER}
    assert cluster_id((("n1", 12), *PAIRS[1:])) != CLUSTER
    assert cluster_id((("m1", 11), *PAIRS[1:])) != CLUSTER
    assert cluster_id(PAIRS[:2]) != CLUSTER


def test_the_hash_of_the_list_depends_on_names_and_addresses_but_on_no_order() -> None:
    assert members_hash(dict(reversed(MEMBERS.items()))) == members_hash(MEMBERS)
    assert members_hash({**MEMBERS, "n3": "tcp://10.0.0.9:7101"}) != members_hash(MEMBERS)
    assert members_hash({"n1": MEMBERS["n1"]}) != members_hash(MEMBERS)


def test_another_list_is_not_agreed_to() -> None:
    one = formation()
    one.on_hello(blank("n2"))
    one.on_hello(replace(blank("n3"), members_hash=b"another list 16b"))
    decision = one.decide()
    assert isinstance(decision, Wait)
    assert "n3" in decision.text
    assert "list" in decision.text


def test_a_late_or_crashed_founder_adopts_the_cluster_that_names_it() -> None:
    """One answer is enough: the others may be down by now."""
    one = formation()
    one.on_hello(formed("n3"))
    assert one.decide() == Formed(CLUSTER, PAIRS)


@pytest.mark.parametrize("first", ["blank", "formed"])
def test_a_formed_member_outweighs_blank_ones_in_any_order(first: str) -> None:
    one = formation()
    for hello in sorted(
        (blank("n2"), formed("n3")), key=lambda it: it.formed == (first != "formed")
    ):
        one.on_hello(hello)
    assert one.decide() == Formed(CLUSTER, PAIRS)


def test_a_wiped_disk_under_an_old_name_is_refused() -> None:
    """Pitfalls 19, 20: what the old disk promised is lost."""
    one = formation(incarnation=99)
    one.on_hello(formed("n2"))
    assert one.decide() == Refused("the disk of n1 is new; use `bin/ctl node replace n1`")


def test_a_cluster_without_us_is_not_ours() -> None:
    one = formation()
    one.on_hello(formed("n2", PAIRS[1:]))
    decision = one.decide()
    assert isinstance(decision, Refused)
    assert "no member n1" in decision.text


def test_a_cluster_whose_id_does_not_follow_from_its_members_is_not_believed() -> None:
    one = formation()
    one.on_hello(replace(formed("n2"), cluster=bytes(16)))
    decision = one.decide()
    assert isinstance(decision, Wait)
    assert "n2" in decision.text


def test_the_newest_word_of_a_member_counts() -> None:
    """It was blank, was replaced by another blank disk, then formed."""
    one = formation()
    one.on_hello(blank("n2", 1))
    one.on_hello(blank("n2"))
    one.on_hello(blank("n3"))
    assert one.decide() == Formed(CLUSTER, PAIRS)
    one.on_hello(formed("n2"))
    assert one.decide() == Formed(CLUSTER, PAIRS)


def test_strangers_and_our_own_echo_are_not_heard() -> None:
    one = formation()
    one.on_hello(Hello("n9", 9, b"x" * 16, members_hash(MEMBERS), (("n9", 9),)))
    one.on_hello(blank("n1", 5))
    one.on_hello(blank("n2"))
    one.on_hello(blank("n3"))
    assert one.decide() == Formed(CLUSTER, PAIRS)


def test_members_that_look_like_the_same_disk_still_make_different_voters() -> None:
    """A disk image copied to all nodes gives them one incarnation; names keep them apart."""
    one = formation(incarnation=7)
    one.on_hello(blank("n2", 7))
    one.on_hello(blank("n3", 7))
    decision = one.decide()
    assert isinstance(decision, Formed)
    assert decision.pairs == (("n1", 7), ("n2", 7), ("n3", 7))


# --------------------------------------------------------------------------- disks of later days


def formed_knowing(node: str, **nodes: tuple[int, bool]) -> Hello:
    return replace(formed(node), nodes=nodes)


def test_a_new_disk_that_the_catalog_has_is_part_of_the_cluster() -> None:
    one = formation(incarnation=111)
    one.on_hello(formed_knowing("n2", n1=(111, False)))
    assert one.decide() == Formed(CLUSTER, PAIRS)


def test_a_new_disk_that_is_awaited_waits() -> None:
    one = formation(incarnation=111)
    one.on_hello(formed_knowing("n2", n1=(11, True)))
    decision = one.decide()
    assert isinstance(decision, Wait)
    assert "in the place of the old disk" in decision.text


def test_the_old_disk_of_a_founder_is_refused_when_another_one_has_its_name() -> None:
    one = formation()
    one.on_hello(formed_knowing("n2", n1=(111, False)))
    assert isinstance(one.decide(), Refused)


def test_of_several_answers_the_one_that_knows_most_counts() -> None:
    one = formation(incarnation=111)
    one.on_hello(formed("n3"))
    assert isinstance(one.decide(), Refused)
    one.on_hello(formed_knowing("n2", n1=(111, False)))
    assert isinstance(one.decide(), Formed)


def test_who_joins_founds_nothing_and_waits_for_those_who_are_behind() -> None:
    one = Formation("n4", 44, {**MEMBERS, "n4": "tcp://10.0.0.4:7101"}, joins=True)
    for node in ("n1", "n2", "n3"):
        one.on_hello(replace(blank(node), members_hash=one._hash))
    assert isinstance(one.decide(), Wait)
    one.on_hello(formed("n3"))
    assert isinstance(one.decide(), Wait)
    one.on_hello(formed_knowing("n2", n4=(44, False)))
    assert one.decide() == Formed(CLUSTER, PAIRS)
