"""How a node joins and leaves groups: questions to leaders, until they agree."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import pytest

from actors import local_groups, wire
from actors.catalog import SYSTEM_GROUP_ID
from actors.catalog_members import group_row, node_row
from actors.known_nodes import KnownNodes
from actors.local_groups import LocalGroups
from raft.messages import Replica
from raft.store.memory import MemoryFiles
from raft.store.placement import BORN, LEFT, REJOINING, PlacedGroup, Placement
from raft.store.placement import MEMBER as MEMBER_OPTION
from transport import protocol

ME = Replica("n1", 11)
OTHERS: list[list[Any]] = [["n2", 22], ["n3", 33]]
GROUP = 5
Answer = tuple[int, str, bytes]
sleep = asyncio.sleep
MEMBER: Answer = (protocol.OK, "", b'{"member": true}')
NOT_YET: Answer = (protocol.OK, "", b'{"member": false}')
GO: Answer = (protocol.OK, "", b"{}")
GIVEN_UP: Answer = (protocol.OK, "", b'{"member": false, "given_up": true}')
NO_LEADER: Answer = (protocol.NO_LEADER, "nobody leads", b"")
STILL: Answer = (protocol.REJECTED, "is a member", b"")


class Host:
    """Answers in turn; the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, str], bool]] = []
        self.frames: list[tuple[int, Any]] = []
        self.coroutines: list[Coroutine[Any, Any, None]] = []
        self.started: list[int] = []
        self.is_stopping = False
        self.has_left = False
        self.lost: list[tuple[int, int]] = []
        self.is_full = False  # the disk
        self.routes_told = 0
        self.placement: Placement | None = None
        self.before_answer: Callable[[], None] = lambda: None

    def place(self, groups: Mapping[int, PlacedGroup]) -> bool:
        assert self.placement is not None
        if not self.is_full:
            self.placement.replace(groups)
        return not self.is_full

    def send(self, kind: int, *fields: Any) -> None:
        self.frames.append((kind, fields))

    def tell_routes(self) -> None:
        self.routes_told += 1

    def start_worker(self, slot: int) -> None:
        self.started.append(slot)

    def has_worker(self, slot: int) -> bool:
        return slot in self.started

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutines.append(coroutine)

    def leave_cluster(self) -> None:
        self.has_left = True

    def lose(self, group: int, life: int, reason: str) -> None:
        self.lost.append((group, life))

    async def ask(self, group: str, batch: bytes, *, elsewhere: bool = False) -> Answer:
        decoded = protocol.decode_batch(group, batch)
        assert isinstance(decoded, protocol.AdminOperation)
        self.asked.append((group, decoded.command, decoded.options, elsewhere))
        self.before_answer()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Bench:
    def __init__(
        self,
        *answers: Answer,
        founders: tuple[Replica, ...] = (Replica("n2", 22), Replica("n3", 33)),
    ) -> None:
        files = MemoryFiles()
        files.mkdir("/data")
        self.placement = Placement.load(files, "/data")
        system = PlacedGroup(0, 1, "_system", "_", founders, {BORN: True})
        self.placement.replace({SYSTEM_GROUP_ID: system})
        self.nodes = KnownNodes.load(files, "/data", lambda again: None)
        self.host = Host(*answers)
        self.host.placement = self.placement
        self.groups = LocalGroups(ME, self.placement, self.nodes, 1, frozenset(), self.host)
        self.groups.on_current()

    def want(self, version: int, *members: list[Any]) -> None:
        row = group_row(GROUP, "kv", "kv", OTHERS)
        self.groups.learn([{**row, "members": list(members), "version": version}])
        if GROUP in self.placement.groups and LEFT not in self.placed.options:
            self.bear()

    def run(self) -> None:
        async def all_of_it() -> None:
            while self.host.coroutines:
                coroutines, self.host.coroutines = self.host.coroutines, []
                await asyncio.gather(*coroutines)

        asyncio.run(all_of_it())

    def bear(self) -> None:
        """Its worker has begun its log."""
        born = replace(self.placed, options={**self.placed.options, BORN: True})
        self.placement.replace({**self.placement.groups, GROUP: born})

    @property
    def placed(self) -> PlacedGroup:
        return self.placement.groups[GROUP]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pause(_: float) -> None:
        """Time is no matter here."""

    monkeypatch.setattr(asyncio, "sleep", pause)


def test_a_newcomer_offers_itself_until_it_is_a_member_and_asks_others_in_turn() -> None:
    bench = Bench(NO_LEADER, NOT_YET, NOT_YET, MEMBER)
    bench.want(9, list(ME), *OTHERS)
    bench.run()
    assert [elsewhere for *_, elsewhere in bench.host.asked] == [False, True, False, True]
    assert {it[:2] for it in bench.host.asked} == {("kv", "offerReplica")}
    assert bench.host.asked[0][2] == {"incarnation": "11", "life": "0"}
    bench.want(9, list(ME), *OTHERS)
    assert bench.host.coroutines == [], "that is settled"
    bench.want(12, list(ME), ["n2", 22])
    assert len(bench.host.coroutines) == 1, "after a change the leader may not know it any more"
    bench.run()


def test_a_replica_is_not_offered_before_its_log_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be opened would be waited for, and given up, again and again."""
    bench = Bench(MEMBER)
    row = group_row(GROUP, "kv", "kv", OTHERS)
    bench.groups.learn([{**row, "members": [list(ME), *OTHERS], "version": 9}])
    asked: list[int] = []

    async def pause(_: float) -> None:
        asked.append(len(bench.host.asked))
        if len(asked) == 3:
            bench.bear()

    monkeypatch.setattr(asyncio, "sleep", pause)
    bench.run()
    assert asked == [0, 0, 0]
    assert len(bench.host.asked) == 1


def test_a_replica_leaves_when_the_leader_says_so_and_not_before() -> None:
    bench = Bench(MEMBER)
    bench.want(9, list(ME), *OTHERS)
    bench.run()
    bench.host.answers = [NO_LEADER, STILL, GO]
    bench.host.before_answer = lambda: seen.append("left" in bench.placed.options)
    seen: list[bool] = []
    bench.want(12, *OTHERS)
    bench.run()
    assert seen == [False] * 3
    assert bench.placed.options == {"left": 12}
    kind, fields = bench.host.frames[-1]
    assert (kind, fields) == (wire.RELOAD, (bench.placed.slot,))
    assert GROUP not in {row[0] for row in bench.groups.routes() if row[4] is not None}


def test_on_a_full_disk_a_replica_leaves_when_that_can_be_written_down() -> None:
    bench = Bench(MEMBER)
    bench.want(9, list(ME), *OTHERS)
    bench.run()
    bench.host.answers = [GO]
    bench.host.asked.clear()

    def room() -> None:
        bench.host.is_full = len(bench.host.asked) < 3

    bench.host.before_answer = room
    bench.want(12, *OTHERS)
    bench.run()
    assert (len(bench.host.asked), "left" in bench.placed.options) == (3, True)


def test_of_many_groups_that_are_left_at_a_time_few_ask_their_leaders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_groups, "QUESTIONS_MAX", 2)
    bench = Bench(GO)
    groups = range(GROUP, GROUP + 6)
    rows = [group_row(group, f"g{group}", "kv", [list(ME)]) for group in groups]
    bench.groups.learn(rows)
    asking: list[int] = []
    at_once: list[int] = []

    async def ask(group: str, batch: bytes, *, elsewhere: bool = False) -> Answer:
        asking.append(1)
        at_once.append(len(asking))
        for _ in range(10):
            await sleep(0)
        asking.pop()
        return GO

    bench.host.ask = ask  # type: ignore[method-assign]
    bench.groups.learn([{**row, "members": OTHERS, "version": 90} for row in rows])
    bench.run()
    assert all(LEFT in bench.placement.groups[group].options for group in groups)
    assert (len(at_once), max(at_once)) == (6, 2)


def test_who_is_wanted_again_before_it_has_left_stays_what_it_is() -> None:
    """Its log is whole; but the leader may have taken it out, so it offers itself again."""
    bench = Bench(MEMBER)
    bench.want(9, list(ME), *OTHERS)
    bench.run()
    bench.host.answers = [STILL, GO, NOT_YET, MEMBER]
    counts: list[int] = []

    def change_of_mind() -> None:
        counts.append(1)
        if len(counts) == 2:
            bench.want(15, list(ME), *OTHERS)

    bench.host.before_answer = change_of_mind
    bench.want(12, *OTHERS)
    bench.run()
    assert bench.placed.life == 0
    assert "left" not in bench.placed.options
    assert [it[1] for it in bench.host.asked[1:]] == ["mayLeave"] * 2 + ["offerReplica"] * 2


def test_the_next_life_of_a_disk_is_what_is_offered() -> None:
    bench = Bench(MEMBER)
    bench.want(9, list(ME), *OTHERS)
    bench.run()
    bench.host.answers = [GO]
    bench.want(12, *OTHERS)
    bench.run()
    bench.host.answers = [MEMBER]
    bench.want(15, list(ME), *OTHERS)
    bench.run()
    assert bench.host.asked[-1][1:3] == ("offerReplica", {"incarnation": "11", "life": "1"})
    assert (bench.placed.life, bench.placed.generation) == (1, 2)


def test_a_node_that_did_not_found_the_cluster_offers_itself_to_the_catalog() -> None:
    bench = Bench(NOT_YET, MEMBER)
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22), node_row("n3", 33)])
    bench.groups.on_nodes()
    bench.run()
    assert {it[:2] for it in bench.host.asked} == {("_system", "offerReplica")}
    assert not bench.host.has_left


def system_options(bench: Bench) -> dict[str, Any]:
    return dict(bench.placement.groups[SYSTEM_GROUP_ID].options)


def test_a_founder_asks_now_and_then_whether_it_is_a_member_still() -> None:
    bench = Bench(MEMBER, founders=(ME, Replica("n2", 22)))
    bench.groups.check_system()
    assert bench.host.coroutines == [], "nothing was ever changed"
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22)])
    bench.groups.on_nodes()
    assert bench.host.coroutines == []
    for _ in range(2):
        bench.groups.check_system()
        bench.run()
    asked = [("_system", "offerReplica", {"incarnation": "11", "life": "0", "was_member": "true"})]
    assert [it[:3] for it in bench.host.asked] == 2 * asked
    assert system_options(bench) == {BORN: True}


def test_a_founder_that_was_given_up_has_lost_its_log() -> None:
    bench = Bench(*5 * [NO_LEADER], GIVEN_UP, founders=(ME, Replica("n2", 22)))
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22)])
    bench.groups.check_system()
    bench.run()
    assert bench.host.lost == [(SYSTEM_GROUP_ID, 0)]
    others = [it[3] for it in bench.host.asked]
    assert others == [*5 * [False], True], "a moment without a leader is no reason to ask others"


def test_so_has_a_node_that_joined_when_it_has_been_a_member_and_not_before() -> None:
    bench = Bench(NOT_YET, MEMBER)
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22), node_row("n3", 33)])
    bench.groups.on_nodes()
    bench.run()
    assert ["was_member" in it[2] for it in bench.host.asked] == [False, False]
    assert system_options(bench) == {BORN: True, MEMBER_OPTION: True}
    bench.host.answers = [GIVEN_UP]
    bench.groups.check_system()
    bench.run()
    assert bench.host.asked[-1][2]["was_member"] == "true"
    assert bench.host.lost == [(SYSTEM_GROUP_ID, 0)]


def test_a_life_that_is_coming_back_was_a_member_when_it_began() -> None:
    bench = Bench(GIVEN_UP)
    placed = bench.placement.groups[SYSTEM_GROUP_ID]
    again = replace(placed, life=1, generation=2, options={BORN: True, REJOINING: True})
    bench.placement.replace({SYSTEM_GROUP_ID: again})
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22), node_row("n3", 33)])
    bench.groups.check_system()
    bench.run()
    assert bench.host.asked[-1][2]["was_member"] == "true"
    assert bench.host.lost == [(SYSTEM_GROUP_ID, 1)]
    bench.host.answers = [MEMBER]
    bench.groups.check_system()
    bench.run()
    assert system_options(bench) == {BORN: True, REJOINING: True, MEMBER_OPTION: True}


def test_an_answer_about_a_life_that_is_over_by_now_says_nothing_of_the_next() -> None:
    bench = Bench(MEMBER, NOT_YET, MEMBER)
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22), node_row("n3", 33)])
    placed = bench.placement.groups[SYSTEM_GROUP_ID]

    def begin_another() -> None:
        again = replace(placed, life=1, generation=2)
        bench.placement.replace({SYSTEM_GROUP_ID: again})
        bench.host.before_answer = lambda: None

    bench.host.before_answer = begin_another
    bench.groups.on_nodes()
    bench.run()
    assert [it[2]["life"] for it in bench.host.asked] == ["0", "1", "1"]


def test_a_node_that_was_removed_ends_when_the_catalog_s_group_lets_it_go() -> None:
    bench = Bench(MEMBER)
    bench.nodes.merge([node_row("n1", 11, 7), node_row("n2", 22)])
    bench.groups.on_nodes()
    bench.run()
    bench.host.answers = [STILL, GO]
    bench.nodes.merge([{**node_row("n1", 11, 9), "removed": True}])
    bench.groups.on_nodes()
    bench.run()
    assert bench.host.has_left
    assert [it[1] for it in bench.host.asked[1:]] == ["mayLeave", "mayLeave"]
    assert "left" not in bench.placement.groups[SYSTEM_GROUP_ID].options


def test_what_a_group_asks_the_catalog_comes_back_to_its_worker() -> None:
    bench = Bench((protocol.OK, "", json.dumps({"version": 9}).encode()))
    question = [3, GROUP, 77, "setMembers", "kv", {"voters": "n1"}]
    asyncio.run(bench.groups.carry_question(question))
    assert bench.host.asked[0][:3] == ("_system", "setMembers", {"voters": "n1"})
    answer = (3, GROUP, 77, protocol.OK, "", b'{"version": 9}')
    assert bench.host.frames[-1] == (wire.CATALOG_ANSWER, answer)
