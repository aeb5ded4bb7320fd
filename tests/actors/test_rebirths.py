"""A node whose replica has lost its log: what it asks, what it writes down, and in which order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from actors import rebirths as rebirths_module
from actors.rebirths import NOBODY_LEADS, PAUSE_MAX_MS, PAUSE_MIN_MS, POLL_MS, Rebirths, Ways
from actors.replacing import DONE, LEARNER, REPLACE, USED, WAITING
from actors.wire import BEGUN, LOST
from raft.lives import LIVES_MAX
from raft.messages import Replica
from raft.store.memory import MemoryFiles
from raft.store.placement import BORN, LEFT, REJOINING, PlacedGroup, Placement
from transport import protocol

ME = Replica("n1", 11)
KV, OTHER = 7, 8


@dataclass
class Bench:
    """A node's half, its disk in memory.  ``said``: all that it has done, in order."""

    files: MemoryFiles = field(default_factory=MemoryFiles)
    said: list[Any] = field(default_factory=list)
    asked: list[tuple[dict[str, str], Callable[..., None]]] = field(default_factory=list)
    timers: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    is_full: bool = False  # the disk

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """The node process begins another life of its own."""
        self.asked.clear()
        self.timers.clear()
        self.placement = Placement.load(self.files, ".")
        ways = Ways(
            self.write,
            self._ask,
            self._later,
            lambda slot: self.said.append(("reload", slot)),
            self._changed,
        )
        self.rebirths = Rebirths(ME, self.placement, ways)
        self.rebirths.begin()

    def place(self, *groups: int, life: int = 0, **options: bool) -> None:
        rows = {
            group: PlacedGroup(group - 6, 1 + life, f"g{group}", "kv", (ME,), options, life)
            for group in groups
        }
        self.placement.replace({**self.placement.groups, **rows})

    def write(self, groups: Mapping[int, PlacedGroup]) -> bool:
        if not self.is_full:
            self.placement.replace(groups)
        return not self.is_full

    def _ask(
        self, group: str, batch: bytes, elsewhere: bool, answered: Callable[..., None]
    ) -> None:
        decoded = protocol.decode_batch(group, batch)
        assert isinstance(decoded, protocol.AdminOperation)
        assert (decoded.command, decoded.value) == (REPLACE, ME.node)
        assert elsewhere == (decoded.options["placed"] == "false"), "the lost one is not asked"
        self.asked.append(({"group": group, **decoded.options}, answered))

    def _later(self, ms: int, what: Callable[[], None]) -> None:
        self.timers.append((ms, what))

    def _changed(self) -> None:
        self.said.append("changed")

    def lose(self, group: int = KV, life: int = 0) -> None:
        self.rebirths.on_replicas([[group, life, LOST, "a sector"]])

    def question(self) -> tuple[int, bool]:
        """(life, placed) of the only question that is not answered."""
        ((options, _),) = self.asked
        assert options["incarnation"] == "11"
        return int(options["life"]), options["placed"] == "true"

    def answer(self, state: str, match: int | None = None, last: int = 0) -> None:
        ((_, answered),) = self.asked
        self.asked.clear()
        data = json.dumps({"state": state, "match": match, "last": last}).encode()
        answered(protocol.OK, "", data)

    def refuse(self, code: int, text: str = "") -> None:
        ((_, answered),) = self.asked
        self.asked.clear()
        answered(code, text, b"")

    def wait(self) -> int:
        """The only timer goes off; how long it took, in ms."""
        ((ms, what),) = self.timers
        self.timers.clear()
        what()
        return ms

    def question_after_wait(self) -> tuple[int, bool]:
        self.wait()
        return self.question()

    @property
    def disk(self) -> PlacedGroup:
        return Placement.load(self.files, ".").groups[KV]

    @property
    def text(self) -> str:
        return str(self.rebirths.state().get(str(KV), ""))


@pytest.fixture
def bench() -> Bench:
    found = Bench()
    found.place(KV, born=True)
    return found


def test_a_lost_replica_comes_back_step_by_step(bench: Bench) -> None:
    bench.lose()
    assert bench.question() == (1, False)
    bench.answer(WAITING)
    assert bench.wait() == POLL_MS
    assert (bench.disk.life, bench.disk.is_born) == (0, True), "nothing is given up yet"
    bench.answer(LEARNER)
    assert bench.disk == PlacedGroup(1, 2, "g7", "kv", (ME,), {REJOINING: True}, 1)
    assert ("reload", 1) in bench.said
    bench.wait()
    assert bench.question() == (1, True)
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    assert bench.disk.options == {REJOINING: True, BORN: True}
    bench.answer(WAITING, match=40, last=100)
    assert bench.text == "it comes back as a new replica: catching up 40 %"
    bench.wait()
    bench.answer(DONE, match=100, last=100)
    assert bench.disk.options == {BORN: True}
    assert bench.rebirths.is_idle
    assert bench.timers == []
    assert bench.rebirths.counts == {"lost": 1, "begun": 1, "done": 1}


def test_the_life_before_is_over_on_disk_before_the_worker_hears_of_the_next(bench: Bench) -> None:
    """Pitfall 20: it must not be able to speak again, whatever crashes in between."""
    bench.lose()
    found: list[int] = []
    bench.rebirths._ways = replace(
        bench.rebirths._ways, reload=lambda slot: found.append(bench.disk.life)
    )
    bench.answer(LEARNER)
    assert found == [1]


def test_on_a_full_disk_each_step_waits_until_it_can_be_written_down(bench: Bench) -> None:
    bench.lose()
    bench.is_full = True
    bench.answer(LEARNER)
    assert (bench.disk.life, bench.question_after_wait()) == (0, (1, False))
    bench.is_full = False
    bench.answer(LEARNER)
    assert (bench.disk.life, bench.question_after_wait()) == (1, (1, True))
    bench.is_full = True
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    bench.answer(DONE)
    assert (bench.disk.is_born, bench.rebirths.is_idle) == (False, False)
    bench.is_full = False
    bench.wait()
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    bench.answer(DONE)
    assert (bench.disk.is_born, bench.rebirths.is_idle) == (True, True)


@pytest.mark.parametrize("dies_after", range(5))
def test_a_node_that_dies_in_between_goes_on_where_it_was(bench: Bench, dies_after: int) -> None:
    steps: list[Callable[[], object]] = [
        bench.lose,
        lambda: bench.answer(WAITING),
        bench.wait,
        lambda: bench.answer(LEARNER),
        lambda: bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]]),
    ]
    for step in steps[: dies_after + 1]:
        step()
    bench.start()
    if bench.disk.life == 0:
        assert bench.rebirths.is_idle, "the worker will tell again"
        bench.lose()
        assert bench.question() == (1, False)
        bench.answer(LEARNER)
        bench.wait()
    assert bench.question() == (1, True)
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    bench.answer(DONE)
    assert (bench.disk.life, bench.disk.generation, bench.disk.options) == (1, 2, {BORN: True})


def test_without_a_leader_it_keeps_what_is_left_and_says_what_can_be_done(bench: Bench) -> None:
    bench.lose()
    pauses = []
    for _ in range(8):
        bench.refuse(protocol.NO_LEADER)
        assert bench.text == NOBODY_LEADS
        pauses.append(bench.wait())
    assert pauses[0] == 2 * PAUSE_MIN_MS
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_MS
    bench.refuse(protocol.REJECTED, "no majority")
    assert bench.text == "the leader refuses: no majority"
    assert (bench.disk.life, bench.disk.is_born) == (0, True)


def test_an_answer_that_is_none_is_a_refusal(bench: Bench) -> None:
    bench.lose()
    for data in (b"", b"[]", b'{"state": "new"}', b"\xff"):
        ((_, answered),) = bench.asked
        bench.asked.clear()
        answered(protocol.OK, "", data)
        assert bench.disk.life == 0
        bench.wait()


def test_what_a_worker_says_of_a_life_that_is_over_begins_no_other(bench: Bench) -> None:
    bench.lose()
    bench.lose()
    bench.answer(LEARNER)
    bench.said.clear()
    bench.lose(life=0)
    assert bench.said == [("reload", 1)], "it has not read the placement yet"
    assert bench.disk.life == 1
    bench.rebirths.on_replicas([[KV, 0, BEGUN, ""]])
    assert not bench.disk.is_born


def test_the_next_life_can_be_lost_before_it_has_come_back(bench: Bench) -> None:
    bench.lose()
    bench.answer(LEARNER)
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    bench.wait()
    bench.lose(life=1)
    text = bench.text
    bench.answer(WAITING, match=4, last=8)
    assert bench.text == text, "that was an answer of the life before"
    bench.wait()
    assert bench.question() == (2, False)
    bench.answer(LEARNER)
    assert (bench.disk.life, bench.disk.generation) == (2, 3)


def test_a_life_that_others_know_already_is_not_begun_again(bench: Bench) -> None:
    """The placement was put back from an old copy."""
    bench.lose()
    bench.answer(USED)
    bench.wait()
    assert bench.question() == (2, False)
    bench.answer(LEARNER)
    assert bench.disk.life == 2


def test_a_life_that_is_given_up_before_it_has_come_back_is_followed_by_the_next(
    bench: Bench,
) -> None:
    bench.lose()
    bench.answer(LEARNER)
    bench.wait()
    assert bench.question() == (1, True)
    bench.answer(USED)
    assert bench.disk.life == 1, "nothing is let go of before the next one is a learner"
    bench.wait()
    assert bench.question() == (2, False)
    bench.answer(LEARNER)
    assert (bench.disk.life, bench.disk.generation) == (2, 3)
    assert bench.disk.options == {REJOINING: True}
    bench.wait()
    assert bench.question() == (2, True)


def test_a_replica_that_is_not_born_has_not_come_back(bench: Bench) -> None:
    bench.lose()
    bench.answer(LEARNER)
    bench.wait()
    bench.answer(DONE)
    assert bench.disk.options == {REJOINING: True}
    assert not bench.rebirths.is_idle


def test_only_some_come_back_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebirths_module, "REBIRTHS_MAX", 1)
    bench.place(OTHER, born=True)
    bench.lose()
    bench.answer(LEARNER)
    bench.lose(OTHER)
    assert bench.asked == []
    assert "until other groups" in bench.rebirths.state()[str(OTHER)]
    (_, first), (_, other) = bench.timers
    bench.timers.clear()
    first()
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    bench.answer(DONE)
    other()
    assert bench.question() == (1, False)


@pytest.mark.parametrize("is_gone", [True, False])
def test_a_group_that_the_node_has_no_more_is_forgotten(bench: Bench, is_gone: bool) -> None:
    bench.lose()
    bench.refuse(protocol.NO_LEADER)
    bench.placement.replace({} if is_gone else {KV: replace(bench.disk, options={LEFT: 12})})
    bench.wait()
    assert bench.rebirths.is_idle
    bench.lose()
    assert bench.rebirths.is_idle


def left_and_back(bench: Bench) -> None:
    """The node leaves the group and is wanted again: with the life after this one, and born."""
    placed = bench.disk
    back = replace(
        placed, life=placed.life + 1, generation=placed.generation + 1, options={BORN: True}
    )
    bench.placement.replace({KV: back})


@pytest.mark.parametrize("answer", [LEARNER, USED])
@pytest.mark.parametrize("is_under_way", [True, False])
def test_who_has_come_back_by_another_way_is_not_ended_once_more(
    bench: Bench, answer: str, is_under_way: bool
) -> None:
    """Somebody removed the lost replica and added the node again, quicker than the pauses here."""
    bench.lose()
    if is_under_way:
        left_and_back(bench)
        bench.answer(answer)
    else:
        bench.refuse(protocol.NO_LEADER)
        left_and_back(bench)
    bench.wait()
    assert (bench.asked, bench.rebirths.is_idle) == ([], True)
    assert (bench.disk.life, bench.disk.options) == (1, {BORN: True})


def test_one_that_is_catching_up_is_given_up_with_its_group_and_its_successor_can_be_lost(
    bench: Bench,
) -> None:
    bench.lose()
    bench.answer(LEARNER)
    bench.rebirths.on_replicas([[KV, 1, BEGUN, ""]])
    left_and_back(bench)
    bench.lose(life=2)
    bench.wait()
    assert bench.question() == (3, False)
    bench.refuse(protocol.NO_LEADER)
    left_and_back(bench)
    bench.wait()
    assert bench.rebirths.is_idle


def test_a_disk_that_has_lost_it_too_often_is_left_alone() -> None:
    bench = Bench()
    bench.place(KV, life=LIVES_MAX, born=True)
    bench.lose(life=LIVES_MAX)
    assert bench.asked == []
