"""``ctl recover``: who is asked, what is proposed, and when it is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from actors import ctl
from actors.ctl_recover import Replica, make_plan
from tests.transport.client.fake_node import Answer, FakeNode, each, reply, whole
from transport import polyraft_pb2 as pb
from transport.client.ctl import CtlError

THREE = ("n1", "n2", "n3")
Run = Callable[..., tuple[int, str, str]]


def metadata(
    last: tuple[int, int], *, state: str = "running", voters: tuple[str, ...] = THREE, **more: Any
) -> dict[str, Any]:
    term, index = last
    return {
        "state": state,
        "role": "follower",
        "term": 9,
        "last_term": term,
        "last_index": index,
        "commit_index": 5,
        "applied_index": 5,
        "leader": None,
        "members": [{"id": node, "voter": node in voters} for node in THREE],
        **more,
    }


def replica(node: str, last: tuple[int, int], **more: Any) -> Replica:
    return Replica(f"tcp://{node}", node, metadata(last, **more))


def silent(node: str) -> Replica:
    return Replica(f"tcp://{node}", None, {}, "UNREACHABLE")


# --------------------------------------------------------------------------- the plan


def test_the_newest_last_entry_counts_not_the_longest_log() -> None:
    five = ("n1", "n2", "n3", "n4", "n5")
    members = [{"id": node, "voter": True} for node in five]
    replicas = [
        replica("n1", (3, 900), members=members),
        replica("n2", (4, 20), members=members),
        silent("n3"),
    ]
    plan = make_plan("kv", replicas, force=False)
    assert plan.best.node == "n2"
    assert plan.voters == ["n1", "n2"]
    assert plan.given_up == ["n3", "n4", "n5"]


def test_of_equal_terms_the_longer_log_counts() -> None:
    replicas = [replica("n1", (3, 7)), replica("n2", (3, 8))]
    assert make_plan("kv", replicas, force=True).best.node == "n2"


def test_a_majority_that_answers_is_not_lost() -> None:
    replicas = [replica("n1", (3, 7)), replica("n2", (3, 7)), silent("n3")]
    with pytest.raises(CtlError, match="2 of 3 voters of kv answer: that is a majority"):
        make_plan("kv", replicas, force=False)
    assert make_plan("kv", replicas, force=True).voters == ["n1", "n2"]


def test_a_group_with_a_leader_has_lost_nothing() -> None:
    replicas = [replica("n1", (3, 7), leader="n2"), silent("n2")]
    with pytest.raises(CtlError, match="has a leader, n2"):
        make_plan("kv", replicas, force=False)


@pytest.mark.parametrize("state", ["damaged", "down"])
def test_a_replica_that_must_not_vote_is_not_gone_on_with(state: str) -> None:
    replicas = [replica("n1", (9, 9), state=state), replica("n2", (3, 8))]
    plan = make_plan("kv", replicas, force=False)
    assert (plan.best.node, plan.voters) == ("n2", ["n2"])
    with pytest.raises(CtlError, match="no replica of kv is left"):
        make_plan("kv", [replicas[0], silent("n3")], force=False)


def test_a_replica_that_never_voted_is_not_made_the_one_that_counts() -> None:
    replicas = [replica("n3", (4, 8), voters=("n1", "n2"))]
    with pytest.raises(CtlError, match="n3 has the newest log of kv and does not vote"):
        make_plan("kv", replicas, force=False)


# --------------------------------------------------------------------------- carried out


class Survivor:
    """The last of three nodes. ``reset_answers``: what it says to resetPeers, one by one."""

    def __init__(self) -> None:
        self.known = metadata((3, 8))
        self.reset_answers: list[Answer] = [each(reply(data=b"{}"))]
        self.resets: list[tuple[str, dict[str, str]]] = []

    def __call__(self, group: str, batch: pb.RequestBatch) -> Answer:
        admin = batch.requests[0].admin
        if admin.command == "status":
            return _json({"node": "n1"})
        if admin.command == "metadata":
            return _json(self.known)
        assert admin.command == "resetPeers"
        assert group == "kv"
        self.resets.append((admin.value, dict(admin.options)))
        answer = self.reset_answers.pop(0)
        if not self.reset_answers:
            self.known = {**self.known, "leader": "n1", "term": 1_009}
        return answer


def _json(values: dict[str, Any]) -> pb.ReplyBatch:
    return each(reply(data=json.dumps(values).encode()))


@pytest.fixture
def survivor() -> Survivor:
    return Survivor()


@pytest.fixture
def run(survivor: Survivor, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    with ExitStack() as stack:
        node = stack.enter_context(FakeNode(survivor))
        gone = FakeNode(survivor)
        gone.stop()

        def run_it(*arguments: str) -> tuple[int, str, str]:
            connect = f"{node.address},{gone.address}"
            code = ctl.main(["--connect", connect, "--timeout-ms", "600", "recover", *arguments])
            captured = capfd.readouterr()
            return code, captured.out, captured.err

        yield run_it


def test_the_name_of_the_group_has_to_be_typed_in(
    run: Run, survivor: Survivor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("yes\n"))
    code, out, err = run("kv")
    assert code == 1
    assert "not confirmed" in err
    assert "given up for good: n2, n3" in out
    assert "UNREACHABLE" in out
    assert survivor.resets == []
    assert run("kv", "--yes", "kw")[0] == 1
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run("kv")[0] == 1
    assert survivor.resets == []
    monkeypatch.setattr("sys.stdin", io.StringIO("kv\n"))
    code, out, _ = run("kv")
    assert code == 0
    assert survivor.resets == [("n1", {})]
    assert out.splitlines()[-1].endswith("kv: n1 leads in term 1009; members n1,n2,n3; index 8")


def test_a_plan_changes_nothing(run: Run, survivor: Survivor) -> None:
    code, out, _ = run("kv", "--plan", "--json")
    assert code == 0
    plan = json.loads(out)
    assert (plan["proposed"], plan["voters"], plan["given_up"]) == ("n1", ["n1"], ["n2", "n3"])
    assert plan["replicas"][0]["node"] == "n1"
    assert survivor.resets == []


def test_a_node_that_started_a_moment_ago_is_asked_again(run: Run, survivor: Survivor) -> None:
    text = "started a moment ago: a leader may yet be heard"
    survivor.reset_answers.insert(0, whole(reply(pb.REJECTED, text=text)))
    assert run("kv", "--yes", "kv")[0] == 0
    assert len(survivor.resets) == 2


def test_what_the_node_refuses_is_told(run: Run, survivor: Survivor) -> None:
    text = "the leader n2 is heard: the majority is not lost"
    survivor.reset_answers = [whole(reply(pb.REJECTED, text=text))] * 2
    code, _, err = run("kv", "--yes", "kv")
    assert (code, err) == (1, f"ctl: REJECTED: {text}\n")


def test_by_force_the_node_is_forced_too(run: Run, survivor: Survivor) -> None:
    survivor.known["leader"] = "n2"
    assert run("kv", "--yes", "kv")[0] == 1
    assert run("kv", "--yes", "kv", "--force")[0] == 0
    assert survivor.resets == [("n1", {"force": "true"})]
