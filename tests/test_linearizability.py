"""The checker of histories, on histories of which the verdict is known."""

from __future__ import annotations

import itertools
import random
import time

import msgpack
import pytest

from tests.linearizability import (
    DONE,
    REJECTED,
    UNANSWERED,
    UNKNOWN,
    Answer,
    NotLinearizable,
    Operation,
    State,
    check,
    step,
)


def op(
    asked: float,
    answered: float,
    action: str,
    argument: bytes | int | tuple[State, State] | None = None,
    answer: Answer = DONE,
    key: str = "k",
) -> Operation:
    return Operation(0, key, action, argument, asked, answered, answer)


def lost(
    asked: float, action: str, argument: bytes | int | tuple[State, State] | None = None
) -> Operation:
    return op(asked, UNANSWERED, action, argument, UNKNOWN)


def get(asked: float, answered: float, value: State, key: str = "k") -> Operation:
    return op(asked, answered, "get", None, value, key)


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "an absent key": [get(0, 1, None)],
    "a write is read": [op(0, 1, "put", b"a"), get(2, 3, b"a")],
    "a read beside a write sees the old value": [op(0, 9, "put", b"a"), get(1, 2, None)],
    "a read beside a write sees the new value": [op(0, 9, "put", b"a"), get(1, 2, b"a")],
    "writes beside each other, in the order of their ends": [
        op(0, 9, "put", b"a"),
        op(1, 8, "put", b"b"),
        get(10, 11, b"a"),
    ],
    "writes beside each other, in the other order": [
        op(0, 9, "put", b"a"),
        op(1, 8, "put", b"b"),
        get(10, 11, b"b"),
    ],
    "a lost write never happened": [lost(0, "put", b"a"), get(1, 2, None)],
    "a lost write happened": [lost(0, "put", b"a"), get(1, 2, b"a")],
    "a lost write happened long after": [
        lost(0, "put", b"a"),
        op(1, 2, "put", b"b"),
        get(3, 4, b"b"),
        get(5, 6, b"a"),
    ],
    "a lost write nobody read explains a refusal": [
        op(0, 1, "put", b"a"),
        lost(2, "put", b"x"),
        op(3, 4, "cas", (b"a", b"b"), REJECTED),
        get(5, 6, b"x"),
    ],
    "a lost delete": [op(0, 1, "put", b"a"), lost(2, "delete"), get(3, 4, b"a"), get(5, 6, None)],
    "a cas on an absent key": [op(0, 1, "cas", (None, b"a")), get(2, 3, b"a")],
    "a cas that deletes": [
        op(0, 1, "put", b"a"),
        op(2, 3, "cas", (b"a", None)),
        get(4, 5, None),
    ],
    "one of two rivals wins": [
        op(0, 1, "put", b"a"),
        op(2, 9, "cas", (b"a", b"b")),
        op(2, 9, "cas", (b"a", b"c"), REJECTED),
        get(10, 11, b"b"),
    ],
    "counting": [op(0, 1, "add", 2, 2), op(2, 3, "add", -5, -3), get(4, 5, msgpack.packb(-3))],
    "counting with a lost step": [op(0, 1, "add", 2, 2), lost(2, "add", 3), op(4, 5, "add", 1, 6)],
    "no counter": [op(0, 1, "put", b"text"), op(2, 3, "add", 1, REJECTED)],
    "answer and question at one moment are beside each other": [
        op(0, 1, "put", b"a"),
        get(1, 2, None),
    ],
    "keys know nothing of each other": [
        op(0, 1, "put", b"a", key="one"),
        get(2, 3, None, key="two"),
        get(4, 5, b"a", key="one"),
    ],
}

BAD: dict[str, list[Operation]] = {
    "a lost write after all: it was acknowledged": [op(0, 1, "put", b"a"), get(2, 3, None)],
    "a stale read": [op(0, 1, "put", b"a"), op(2, 3, "put", b"b"), get(4, 5, b"a")],
    "a value nobody wrote": [get(0, 1, b"x")],
    "a read of what is asked for later": [get(0, 1, b"a"), op(2, 3, "put", b"a")],
    "a lost write read before it was asked for": [get(0, 1, b"a"), lost(2, "put", b"a")],
    "back and forth": [
        op(0, 9, "put", b"a"),
        op(0, 9, "put", b"b"),
        get(10, 11, b"a"),
        get(12, 13, b"b"),
    ],
    "a lost write happens once": [
        lost(0, "put", b"a"),
        get(1, 2, b"a"),
        op(3, 4, "put", b"b"),
        get(5, 6, b"b"),
        get(7, 8, b"a"),
    ],
    "new, then old, while the write is under way": [
        op(0, 9, "put", b"a"),
        get(1, 2, b"a"),
        get(3, 4, None),
    ],
    "both rivals win": [
        op(0, 1, "put", b"a"),
        op(2, 9, "cas", (b"a", b"b")),
        op(2, 9, "cas", (b"a", b"c")),
    ],
    "a refusal without a reason": [
        op(0, 1, "put", b"a"),
        op(2, 3, "cas", (b"a", b"b"), REJECTED),
    ],
    "a step counted twice": [op(0, 1, "add", 2, 2), op(2, 3, "add", 3, 8)],
    "a lost step counted twice": [
        lost(0, "add", 3),
        op(1, 2, "add", 1, 4),
        op(3, 4, "add", 1, 8),
    ],
    "zero is no refusal": [op(0, 1, "add", 0, REJECTED)],
    "a deleted value comes back": [
        op(0, 1, "put", b"a"),
        op(2, 3, "delete"),
        get(4, 5, b"a"),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good(name: str) -> None:
    check(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad(name: str) -> None:
    with pytest.raises(NotLinearizable):
        check(BAD[name])


def test_the_text_says_where_it_ends() -> None:
    with pytest.raises(NotLinearizable) as caught:
        check([op(0, 1, "put", b"a"), lost(1.5, "put", b"c"), get(2, 3, b"b")])
    text = str(caught.value)
    assert "1 of 2 answers explained" in text
    assert "get k -> b'b'" in text
    assert "these may have happened" in text


def random_operation(
    draw: random.Random, number: int, client: int, asked: float, amount_max: int
) -> Operation:
    values = [None, *(b"%d" % n for n in range(max(0, number - 3), number + 1))]
    action = draw.choice(("get", "put", "delete", "cas", "add"))
    argument: bytes | int | tuple[State, State] | None = None
    if action == "put":
        argument = b"%d" % number
    elif action == "cas":
        argument = (draw.choice(values), b"%d" % number)
    elif action == "add":
        argument = draw.randint(-amount_max, amount_max)
    return Operation(client, "k", action, argument, asked, UNANSWERED, UNKNOWN)


def lived(
    draw: random.Random, count: int, clients: int, loss: float, amount_max: int = 2
) -> list[Operation]:
    """A history of a true register: each operation happens at one moment between its two ends."""
    history = []
    free = dict.fromkeys(range(clients), 0.0)
    moments: list[tuple[float, Operation, float]] = []
    for number in range(count):
        client = min(free, key=lambda it: free[it])
        asked = free[client] + draw.random() * 0.1
        happens = asked + draw.random()
        answered = happens + draw.random()
        free[client] = answered
        operation = random_operation(draw, number, client, asked, amount_max)
        moments.append((happens, operation, answered))
    state: State = None
    for _, operation, answered in sorted(moments, key=lambda it: it[0]):
        is_lost = operation.action != "get" and draw.random() < loss
        if is_lost and draw.random() < 0.5:
            history.append(operation)
            continue
        state, answer = step(state, operation)
        if is_lost:
            history.append(operation)
        else:
            history.append(
                Operation(
                    operation.client, "k", operation.action, operation.argument,
                    operation.asked, answered, answer,
                )
            )  # fmt: skip
    return history


def is_linearizable_by_trying_everything(history: list[Operation]) -> bool:
    answered = [it for it in history if not it.is_unknown]
    unknown = [it for it in history if it.is_unknown]
    for count in range(len(unknown) + 1):
        for some in itertools.combinations(unknown, count):
            if any(explains(line) for line in itertools.permutations([*answered, *some])):
                return True
    return False


def explains(line: tuple[Operation, ...]) -> bool:
    state: State = None
    latest_asked = 0.0
    for operation in line:
        if operation.answered < latest_asked:
            return False
        latest_asked = max(latest_asked, operation.asked)
        state, answer = step(state, operation)
        if not operation.is_unknown and answer != operation.answer:
            return False
    return True


@pytest.mark.parametrize("seed", range(20))
def test_what_was_lived_is_good(seed: int) -> None:
    check(lived(random.Random(seed), 300, clients=5, loss=0.05))


@pytest.mark.parametrize("seed", range(10))
def test_small_histories_as_by_trying_everything(seed: int) -> None:
    """Lived ones with one answer exchanged for another: some stay good, most do not."""
    draw = random.Random(seed)
    verdicts = set()
    for _ in range(40):
        history = lived(draw, 5, clients=3, loss=0.3)
        at = draw.randrange(len(history))
        spoiled = history[at]
        if not spoiled.is_unknown:
            answers: tuple[Answer, ...] = (None, b"0", b"1", b"3", DONE, REJECTED, 1)
            history[at] = Operation(
                spoiled.client, "k", spoiled.action, spoiled.argument,
                spoiled.asked, spoiled.answered, draw.choice(answers),
            )  # fmt: skip
        expected = is_linearizable_by_trying_everything(history)
        verdicts.add(expected)
        try:
            check(history)
        except NotLinearizable:
            assert not expected, "\n".join(map(str, history))
        else:
            assert expected, "\n".join(map(str, history))
    assert verdicts == {True, False}


def test_a_long_history_with_lost_writes_is_quick() -> None:
    began = time.process_time()
    history = lived(random.Random(1), 1_000, clients=3, loss=0.02, amount_max=10**6)
    assert sum(operation.is_unknown for operation in history) >= 5
    check(history)
    end = max(operation.answered for operation in history if not operation.is_unknown)
    with pytest.raises(NotLinearizable):
        check([*history, get(end + 1, end + 2, b"never written")])
    assert time.process_time() - began < 10
