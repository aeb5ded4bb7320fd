"""The doors of the core, its tables, and what it says about itself."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import pytest

import raft
from raft.configuration import Configuration
from raft.core import HANDLERS, IGNORED, OLDER_TERM, Core
from raft.errors import Contradiction
from raft.log import Log
from raft.messages import (
    COMMAND,
    LOCAL_MESSAGES,
    NOOP,
    PEER_MESSAGES,
    Append,
    AppendReply,
    HardState,
    Heartbeat,
    HeartbeatReply,
    LinkClosed,
    PreVoteReply,
    Propose,
    Tick,
    Vote,
    VoteReply,
)
from raft.reads import NEVER_MS
from raft.roles import CANDIDATE, FOLLOWER, LEADER, PRE_CANDIDATE, ROLES
from raft.settings import RaftSettings
from tests.raft.network import Network, make_run, read_configuration, replica, to

ALLOWED_IMPORTS = {
    "__future__",
    "array",
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "hashlib",  # identities of lives: computed from numbers alone
    "itertools",
    "operator",
    "typing",
}


def test_every_message_is_handled_or_ignored_for_a_reason_in_every_role() -> None:
    for role in ROLES:
        for kind in PEER_MESSAGES + LOCAL_MESSAGES:
            handled = kind in HANDLERS[role]
            ignored = (role, kind) in IGNORED
            assert handled != ignored, f"{kind.__name__} in role {role}"
    assert all(reason for reason in IGNORED.values())
    assert set(OLDER_TERM) <= set(PEER_MESSAGES)


def test_the_core_imports_nothing_that_touches_the_world() -> None:
    for path in Path(raft.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                own = name.split(".")[0] == "raft" and not name.startswith("raft.store")
                assert own or name in ALLOWED_IMPORTS, f"{path.name} imports {name}"


def test_a_message_that_is_none_is_an_error_of_ours() -> None:
    network = Network(3)
    with pytest.raises(KeyError):
        network.core("n1").step(object(), network.now)  # type: ignore[arg-type]


def test_time_that_goes_back_is_an_error_of_ours() -> None:
    network = Network(3)
    with pytest.raises(AssertionError, match="time went back"):
        network.core("n1").step(Tick(), network.now - 1)


def test_a_tick_before_the_deadline_does_nothing() -> None:
    network = Network(3)
    core = network.core("n1")
    core.step(Tick(), core.next_deadline() - 1)
    assert core.take_output() is None
    assert core.role == FOLLOWER


def test_a_new_leader_announces_itself_and_appends_an_entry_of_its_term() -> None:
    network = Network(3)
    network.elect("n1")
    core = network.core("n1")
    assert (core.role, core.term, core.leader, core.vote) == (LEADER, 1, core.me, core.me)
    last = core.last_run()
    assert last is not None
    assert (last.kind, last.term, last.first) == (NOOP, 1, 1)
    assert (core.first_index, core.last_index, core.next_index, core.last_term) == (1, 1, 2, 1)
    assert core.can_serve
    assert [node.core.leader for node in network.nodes.values()] == [core.me] * 3


def test_changed_is_told_once_for_every_change() -> None:
    network = Network(3)
    network.elect("n1")
    changes = [output for output in network["n1"].outputs if output.changed]
    assert len(changes) == 4  # pre-candidate, candidate, leader, may serve
    assert network.core("n1").take_output() is None


def test_several_proposals_leave_in_one_append_and_one_save() -> None:
    network = Network(3)
    network.elect("n1")
    node = network["n1"]
    del node.outputs[:]
    core = node.core
    for _ in range(5):
        network.feed("n1", Propose([make_run(COMMAND, core.term, core.next_index)]))
    network.hold_disk("n1")
    network.collect("n1")
    (output,) = node.outputs
    assert output.save is not None
    assert len(output.save.runs) == 5
    appends = [message for message in output.messages if isinstance(message, Append)]
    assert [len(message.runs) for message in appends] == [5, 5]


def test_a_proposal_to_who_does_not_lead_is_an_error_of_the_driver() -> None:
    network = Network(3)
    with pytest.raises(AssertionError, match="proposal of 1 runs to a follower"):
        network.propose("n1")


@pytest.mark.parametrize(("term", "first"), [(1, 3), (1, 1), (0, 2), (2, 2)])
def test_a_proposal_for_another_place_is_an_error_of_the_driver(term: int, first: int) -> None:
    network = Network(3)
    network.elect("n1")
    with pytest.raises(AssertionError):
        network.step("n1", Propose([make_run(COMMAND, term, first)]))


def test_uncommitted_bytes_rise_with_proposals_and_fall_with_commits() -> None:
    network = Network(3)
    network.elect("n1")
    core = network.core("n1")
    assert core.uncommitted_bytes == 0
    network.propose("n1", body=b"x" * 100)
    network.propose("n1", body=b"x" * 11)
    assert core.uncommitted_bytes == 111
    network.settle()
    assert core.uncommitted_bytes == 0


def test_a_new_leader_counts_the_uncommitted_bytes_that_it_found() -> None:
    network = Network(3)
    network.elect("n1")
    network.isolate("n3")
    network.propose("n1", body=b"x" * 50)
    network.deliver(to("n2"))
    network.drop()
    network.heal()
    network.now += 2_000
    network.tick("n2")
    network.deliver(to("n3"))
    network.deliver(to("n2"))
    network.deliver(to("n3"))
    network.deliver(to("n2"))
    core = network.core("n2")
    assert core.is_leader
    assert not core.can_serve
    assert core.uncommitted_bytes == 50 + len(b"2:3")
    network.step("n2", HeartbeatReply(replica("n1"), core.me, 9, 1))
    assert core.uncommitted_bytes == 0


def test_messages_for_somebody_else_are_not_listened_to() -> None:
    network = Network(3)
    core = network.core("n1")
    for receiver in (replica("n2"), replica("n1", incarnation=2)):
        core.step(Vote(replica("n2"), receiver, 9, 9, 9), network.now)
    assert core.take_output() is None
    assert core.term == 0
    assert core.status().ignored == {"addressed to another replica": 2}


def test_a_message_that_came_back_is_not_listened_to() -> None:
    network = Network(3)
    network.elect("n1")
    me = network.core("n1").me
    network.step("n1", AppendReply(me, me, 1, 1))
    network.step("n1", Vote(me, me, 5, 9, 9))
    assert network.core("n1").status().ignored["sent by this replica itself"] == 2
    assert network.core("n1").term == 1


def test_answers_of_strangers_do_not_count() -> None:
    """Pitfall 21: the former n2, before it was removed and added again."""
    network = Network(3)
    network.elect("n1")
    network.propose("n1")
    network.drop()
    core = network.core("n1")
    for stranger in (replica("n2", incarnation=2), replica("n9")):
        network.step("n1", AppendReply(stranger, core.me, core.term, 2))
        network.step("n1", HeartbeatReply(stranger, core.me, core.term + 5, 1))
    assert core.commit_index == 1
    assert core.is_leader
    assert core.status().ignored["answer of a replica that is no member"] == 4


def test_a_leader_that_is_no_member_yet_is_followed() -> None:
    """Thesis 4.2.2: the follower may lag behind the change that added it."""
    network = Network(3)
    stranger = replica("n9")
    run = make_run(NOOP, 3, 1)
    network.step("n1", Append(stranger, replica("n1"), 3, 0, 0, 0, [run]))
    assert network.core("n1").leader == stranger
    assert network.core("n1").last_index == 1


def test_an_append_with_a_gap_is_not_stored() -> None:
    network = Network(3)
    leader, me = replica("n2"), replica("n1")
    for runs in (
        [make_run(COMMAND, 1, 2)],
        [make_run(COMMAND, 1, 1), make_run(COMMAND, 1, 3)],
        [make_run(COMMAND, 1, 1, count=0)],
        [make_run(COMMAND, 2, 1)],
    ):
        network.step("n1", Append(leader, me, 1, 0, 0, 5, runs))
    assert network.core("n1").last_index == 0
    assert network.core("n1").leader == leader
    assert network.core("n1").status().ignored == {"append with a gap": 4}


def test_an_answer_that_claims_more_than_there_is_is_not_believed() -> None:
    network = Network(3)
    network.elect("n1")
    core = network.core("n1")
    network.step("n1", AppendReply(replica("n2"), core.me, core.term, 99))
    assert core.commit_index == 1
    assert max(peer.match for peer in core.progress()) == 1


def test_two_leaders_in_one_term_are_noticed() -> None:
    network = Network(3)
    network.step("n1", Heartbeat(replica("n2"), replica("n1"), 4, 0, 1))
    with pytest.raises(Contradiction, match="both lead term 4"):
        network.step("n1", Heartbeat(replica("n3"), replica("n1"), 4, 0, 1))
    network = Network(3)
    network.elect("n1")
    with pytest.raises(Contradiction, match="leads term 1 too"):
        network.step("n1", Heartbeat(replica("n3"), replica("n1"), 1, 0, 1))


def test_a_commit_index_that_the_log_cannot_have_is_noticed() -> None:
    network = Network(3)
    with pytest.raises(Contradiction, match="knows 7 to be here, the log ends at 0"):
        network.step("n1", Heartbeat(replica("n2"), replica("n1"), 1, 7, 1))


def test_committed_entries_that_differ_are_noticed() -> None:
    """Somebody has lost what it had promised: this replica stops instead of agreeing to both."""
    network = Network(3)
    runs = [make_run(COMMAND, 1, 1), make_run(COMMAND, 1, 2)]
    network.step("n1", Append(replica("n2"), replica("n1"), 1, 0, 0, 2, runs))
    other = [make_run(COMMAND, 2, 1), make_run(COMMAND, 2, 2)]
    with pytest.raises(Contradiction, match=r"n3.* has another entry at 1, .* \(up to 2\)"):
        network.step("n1", Append(replica("n3"), replica("n1"), 2, 0, 0, 0, other))


def test_answers_do_not_gather_while_a_disk_takes_its_time() -> None:
    network = Network(3)
    network.elect("n1")
    network.run(200)
    network.hold_disk("n2")
    network.elect("n3")
    network.run(20_000)
    assert network.leader is network["n3"]
    assert network.core("n2").term == network.core("n3").term
    assert network.core("n2").status().held_count <= 4


def test_late_answers_are_ignored_by_name() -> None:
    network = Network(3)
    core = network.core("n1")
    for message in (
        PreVoteReply(replica("n2"), core.me, 0, False),
        VoteReply(replica("n2"), core.me, 0, True),
        AppendReply(replica("n2"), core.me, 0, 0),
    ):
        network.step("n1", message)
    assert sum(core.status().ignored.values()) == 3


def test_a_group_of_one_leads_as_soon_as_its_vote_is_durable() -> None:
    network = Network(1)
    assert network.core("n1").next_deadline() <= network.now
    network.tick("n1")
    core = network.core("n1")
    assert core.can_serve
    assert core.next_deadline() == NEVER_MS
    network.propose("n1")
    assert core.commit_index == 2
    assert network.read("n1") == 1
    assert network["n1"].reads == [(1, 2)]


def test_a_group_of_one_brings_its_learner_up_to_date() -> None:
    network = Network(1, learners=1)
    network.tick("n1")
    network.settle()
    network.propose("n1")
    network.settle()
    assert network.core("n2").last_index == 2
    network.run(300)
    assert network.core("n2").commit_index == 2
    assert network.core("n2").leader == replica("n1")


def test_a_learner_never_stands_and_notes_the_silence() -> None:
    network = Network(3, learners=1)
    network.elect("n1")
    network.isolate("n4")
    network.run(5_000)
    core = network.core("n4")
    assert (core.role, core.leader, core.term) == (FOLLOWER, None, 1)
    network.heal()
    network.run(500)
    assert core.leader == replica("n1")


def test_status_tells_what_there_is_to_know() -> None:
    network = Network(3, learners=1)
    network.elect("n1")
    network.hold_disk("n1")
    network.propose("n1")
    network.read("n1")
    status = network.core("n1").status()
    assert (status.role_name, status.term, status.can_serve) == ("leader", 1, True)
    assert (status.last_index, status.durable_index, status.commit_index) == (2, 1, 1)
    assert (status.reads_pending_count, status.uncommitted_bytes) == (1, 3)
    assert [(peer.replica.node, peer.votes) for peer in status.peers] == [
        ("n2", True),
        ("n3", True),
        ("n4", False),
    ]
    first = status.peers[0]
    assert (first.match, first.next, first.state_name) == (1, 3, "replicate")
    assert (first.inflight_count, first.inflight_bytes) == (1, 3)
    assert network.core("n2").status().peers == ()


def test_a_log_ahead_of_its_term_is_damage_that_starts_nothing() -> None:
    with pytest.raises(AssertionError, match="ahead of the term"):
        Core(
            me=replica("n1"),
            configuration=Configuration.of(replica("n1")),
            hard_state=HardState(term=1),
            log=Log([make_run(COMMAND, 2, 1)]),
            settings=RaftSettings(),
            random=random.Random(1),
            make_run=make_run,
            read_configuration=read_configuration,
            now=0,
        )


def test_a_link_that_closes_matters_only_if_the_leader_is_behind_it() -> None:
    network = Network(3)
    network.elect("n1")
    deadline = network.core("n2").next_deadline()
    network.step("n2", LinkClosed("n3"))
    assert network.core("n2").next_deadline() == deadline
    network.step("n2", LinkClosed("n1"))
    soon = network.core("n2").next_deadline() - network.now
    assert 50 <= soon <= 300


def test_a_killed_leader_is_replaced_within_the_retry_times() -> None:
    network = Network(3, seed=4)
    network.elect("n1")
    network.run(500)
    network.crash("n1")
    for name in ("n2", "n3"):
        network.step(name, LinkClosed("n1"))
    network.run(600)
    assert network.leader is not None
    assert network.leader.core.can_serve


def test_who_still_hears_the_leader_refuses_whoever_lost_only_the_link() -> None:
    network = Network(3)
    network.elect("n1")
    network.step("n2", LinkClosed("n1"))
    network.cut("n1", "n2")
    network.run(2_000)
    assert network.leader is network["n1"]
    assert network.core("n2").role in (FOLLOWER, PRE_CANDIDATE)
    assert network.core("n2").term == 1


def test_roles_are_left_when_a_leader_is_heard() -> None:
    network = Network(3)
    network.tick("n1")
    assert network.core("n1").role == PRE_CANDIDATE
    network.step("n1", Heartbeat(replica("n2"), replica("n1"), 0, 0, 1))
    assert network.core("n1").role == FOLLOWER
    network.tick("n1")
    network.answer_pre_vote("n1", replica("n3"))
    assert network.core("n1").role == CANDIDATE
    network.step("n1", Heartbeat(replica("n2"), replica("n1"), 1, 0, 1))
    assert (network.core("n1").role, network.core("n1").leader) == (FOLLOWER, replica("n2"))
    assert network.core("n1").vote == replica("n1")
