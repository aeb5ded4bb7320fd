"""The machine actor: slices, waiting reads, and machines that misbehave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import pytest

from actors import machine as machine_module
from actors.machine import (
    ANSWER_BYTES_MAX,
    CHUNK_ENTRIES,
    ERROR_BYTES_MAX,
    WRITE_TAG,
    Answered,
    Applied,
    Apply,
    Describe,
    Described,
    Emitted,
    Leadership,
    MachineActor,
    Quarantined,
    Query,
)
from actors.machines import DONE, Context, Machine, ReadRequest, Response, WriteRequest
from actors.machines.kv import KeyValueMachine
from actors.runtime import StartTimer, Tell, TimerFired, VirtualClock
from actors.settings import APPLY_SLICE_ENTRIES_MAX, APPLY_SLICE_MS_MAX
from raft.messages import COMMAND, NOOP, TICK, Run
from raft.store.runs import encode_run
from transport import protocol

SIZE = protocol.ReadRequest(data=b"\x81\xa4size\xc3")


def run_of(first: int, keys: list[str], *, kind: int = COMMAND, time_ms: int = 5) -> Run:
    commands = [
        (0, 0, 0, WRITE_TAG + protocol.WriteRequest(operation="PUT", key=key).SerializeToString())
        for key in keys
    ]
    return encode_run(kind, 1, first, time_ms=time_ms, wall_ms=9, commands=commands)


class Asked:
    """What a group actor keeps of a read."""

    def __init__(self) -> None:
        self.answered = False


class Bench:
    """The actor alone: ``tell`` it, look at what it tells the group."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.clock = VirtualClock(1_000)
        self.machine = machine or KeyValueMachine()
        self.actor = MachineActor("machine/7", 7, self.machine, "group/7", self.clock)
        self.news: list[Any] = []
        self.emitted: list[tuple[int, int, str, Mapping[str, Any]]] = []
        self.to_itself: list[object] = []

    def tell(self, message: object) -> list[Any]:
        """The news that this makes for the group."""
        before = len(self.news)
        for effect in self.actor.handle(message) or ():
            if isinstance(effect, StartTimer):
                continue
            if isinstance(effect, Emitted):
                self.emitted += effect.events
                continue
            assert isinstance(effect, Tell)
            if effect.address == "group/7":
                assert effect.control, "news are never refused"
                self.news.append(effect.message)
            else:
                assert (effect.address, effect.control) == ("machine/7", False)
                self.to_itself.append(effect.message)
        return self.news[before:]

    def apply(self, *runs: Run) -> list[Any]:
        return self.tell(Apply([(run, None) for run in runs]))

    def go_on(self) -> list[Any]:
        waiting, self.to_itself = self.to_itself, []
        return [news for each in waiting for news in self.tell(each)]

    def go_on_to_the_end(self) -> list[Any]:
        news = []
        while self.to_itself:
            news += self.go_on()
        return news


# --------------------------------------------------------------------------- applying


def test_runs_are_applied_in_order_with_a_response_per_command() -> None:
    bench = Bench()
    noop = encode_run(NOOP, 1, 1, time_ms=3, wall_ms=9, commands=[])
    assert bench.apply(noop, run_of(2, ["a", ""])) == [
        Applied(1, 1, 3, []),
        bench.news[1],
    ]
    applied = bench.news[1]
    assert (applied.first, applied.last, applied.time_ms) == (2, 3, 5)
    assert applied.responses[0] is DONE
    assert applied.responses[1].error == "the key is missing"
    assert bench.actor.applied_index == 3


def test_commands_that_the_leader_kept_are_not_parsed_again() -> None:
    bench = Bench()
    kept: list[WriteRequest] = [protocol.WriteRequest(operation="PUT", key="kept")]
    bench.tell(Apply([(run_of(1, ["in the log"]), kept)]))
    query = protocol.ReadRequest(data=msgpack.packb({"get": "kept"}))
    (answered,) = bench.tell(Query(Asked(), 1, [query]))
    assert msgpack.unpackb(answered.responses[0].data)["version"] == 1


@pytest.mark.parametrize(
    "data", [b"", b"\x38", b"\x38\x03", b"XX", WRITE_TAG + b"\xff", b"\xff" * 9]
)
def test_a_command_that_does_not_parse_is_refused_on_all_replicas_alike(data: bytes) -> None:
    """Decoding in apply is total: it is REJECTED, and the next one is applied."""
    good = WRITE_TAG + protocol.WriteRequest(operation="PUT", key="a").SerializeToString()
    run = encode_run(
        COMMAND, 1, 1, time_ms=5, wall_ms=9, commands=[(0, 0, 0, data), (0, 0, 0, good)]
    )
    bench, other = Bench(), Bench()
    (applied,) = bench.apply(run)
    other.apply(run)
    assert [each.success for each in applied.responses] == [False, True]
    assert bench.actor.error is None
    assert bench.machine.digest() == other.machine.digest()


def test_a_hole_in_what_is_committed_is_our_own_bug() -> None:
    bench = Bench()
    with pytest.raises(AssertionError, match="run 2 after applied index 0"):
        bench.apply(run_of(2, ["a"]))


@pytest.mark.parametrize("kind", [TICK, 77])
def test_an_entry_of_an_unknown_kind_stops_the_machine_and_is_never_skipped(kind: int) -> None:
    bench = Bench()
    run = run_of(1, ["a"])
    body = msgpack.packb([kind, *msgpack.unpackb(run.body)[1:]])
    strange = Run(kind, 1, 1, 1, body, 0)
    (news,) = bench.apply(strange, run_of(2, ["b"]))
    assert isinstance(news, Quarantined)
    assert news.index == 1
    assert bench.actor.applied_index == 0
    assert bench.apply(run_of(3, ["c"])) == []


# --------------------------------------------------------------------------- slices


def test_a_slice_has_a_bounded_number_of_entries_and_goes_on_by_a_message_to_itself() -> None:
    """Pitfall 10: between slices the control lane is served."""
    bench = Bench()
    size = APPLY_SLICE_ENTRIES_MAX + 10
    first = bench.apply(run_of(1, ["k"] * size), run_of(size + 1, ["last"]))
    assert first == []
    assert bench.actor.applied_index == APPLY_SLICE_ENTRIES_MAX
    assert len(bench.to_itself) == 1
    # A read of what is applied already waits for the next slice, and is first in it.
    assert bench.tell(Query(Asked(), APPLY_SLICE_ENTRIES_MAX, [SIZE])) == []
    # More work in between does not begin a second slice.
    assert bench.apply(run_of(size + 2, ["more"])) == []
    assert len(bench.to_itself) == 1
    answered, *applied = bench.go_on()
    assert answered.index == APPLY_SLICE_ENTRIES_MAX
    assert [(each.first, each.last) for each in applied] == [
        (1, size),
        (size + 1, size + 1),
        (size + 2, size + 2),
    ]
    assert len(applied[0].responses) == size


def test_a_slice_ends_when_its_time_is_up() -> None:
    class Slow(KeyValueMachine):
        def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
            bench.clock.advance(APPLY_SLICE_MS_MAX)
            return super().apply_batch(requests, contexts)

    bench = Bench(Slow())
    bench.apply(run_of(1, ["k"] * (2 * CHUNK_ENTRIES)))
    assert bench.actor.applied_index == CHUNK_ENTRIES
    bench.go_on()
    assert bench.actor.applied_index == 2 * CHUNK_ENTRIES


# --------------------------------------------------------------------------- reads


def test_a_read_waits_until_its_index_is_applied() -> None:
    """Pitfall 31."""
    bench = Bench()
    early, late = Asked(), Asked()
    assert bench.tell(Query(early, 2, [SIZE, SIZE])) == []
    assert bench.tell(Query(late, 3, [SIZE])) == []
    assert not [news for news in bench.apply(run_of(1, ["a"])) if isinstance(news, Answered)]
    answered = [n for n in bench.apply(run_of(2, ["b"])) if isinstance(n, Answered)]
    (first,) = answered
    assert (first.key, first.index) == (early, 2)
    assert [each.data for each in first.responses] == [b"\x02", b"\x02"]
    (second,) = [n for n in bench.apply(run_of(3, ["c"])) if isinstance(n, Answered)]
    assert (second.key, second.index) == (late, 3)


def test_a_read_that_raises_is_refused_and_harms_nobody() -> None:
    class Curious(KeyValueMachine):
        def read(self, request: ReadRequest) -> Response:
            raise LookupError("nothing")

    bench = Bench(Curious())
    (answered,) = bench.tell(Query(Asked(), 0, [SIZE]))
    assert "LookupError: nothing" in answered.responses[0].error
    assert bench.actor.error is None


def test_reads_for_an_index_that_never_comes_do_not_keep_the_room_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_module, "WAITING_QUERIES_MAX", 3)
    bench = Bench()
    bench.actor._sweep_at = 3
    asked = [Asked() for _ in range(5)]
    for each in asked[:3]:
        bench.tell(Query(each, 1_000, [SIZE]))
    (refused,) = bench.tell(Query(asked[3], 1_000, [SIZE]))
    assert refused.busy
    for each in asked[:3]:
        each.answered = True  # their deadline passed, and the group has said so
    bench.actor._sweep_at = 3
    assert bench.tell(Query(asked[4], 1, [SIZE])) == []
    assert Answered in [type(news) for news in bench.apply(run_of(1, ["a"]))]


# --------------------------------------------------------------------------- misbehaviour


def quarantined(bench: Bench, *runs: Run) -> str:
    news = bench.apply(*runs)
    assert type(news[-1]) is Quarantined
    assert bench.actor.error == news[-1].error
    error: str = news[-1].error
    return error


class Odd(Machine):
    """Answers what it is told to."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def apply(self, request: WriteRequest, context: Context) -> Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        response: Response = self.answer
        return response

    def digest(self) -> bytes:
        return b""


@pytest.mark.parametrize(
    "error", [ValueError("no"), RecursionError("deep"), MemoryError("full"), AssertionError()]
)
def test_whatever_a_machine_raises_quarantines_it_for_good(error: Exception) -> None:
    bench = Bench(Odd(error))
    waiting = Asked()
    bench.tell(Query(waiting, 5, [SIZE]))
    assert type(error).__name__ in quarantined(bench, run_of(1, ["a"]), run_of(2, ["b"]))
    (answered,) = [news for news in bench.news if isinstance(news, Answered)]
    assert answered.key is waiting
    assert "quarantined" in str(answered.error)
    (later,) = bench.tell(Query(Asked(), 0, [SIZE]))
    assert "quarantined" in later.error
    assert bench.apply(run_of(3, ["c"])) == []
    (described,) = bench.tell(Describe(1))
    assert described == Described(1, 0, None, bench.actor.error)


def test_runs_before_the_one_that_failed_are_answered_first() -> None:
    class Second(Odd):
        def apply(self, request: WriteRequest, context: Context) -> Response:
            if context.index == 2:
                raise ValueError("second")
            return DONE

    bench = Bench(Second(None))
    news = bench.apply(run_of(1, ["a"]), run_of(2, ["b"]))
    assert [type(each) for each in news] == [Applied, Quarantined]
    assert news[1].index == 2


@pytest.mark.parametrize(
    "answer",
    [None, b"bytes", Response("text"), Response(b"", None, False)],  # type: ignore[arg-type]
)
def test_an_answer_that_is_none_is_the_machine_s_failure_not_the_group_s(answer: Any) -> None:
    assert "Response" in quarantined(Bench(Odd(answer)), run_of(1, ["a"]))


@pytest.mark.parametrize(
    "answer", [None, [], [DONE], [DONE, DONE, DONE], (DONE, DONE), [DONE, None]]
)
def test_a_batch_answered_with_anything_but_a_response_each_quarantines(answer: Any) -> None:
    class Batched(Odd):
        def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
            responses: list[Response] = self.answer
            return responses

    quarantined(Bench(Batched(answer)), run_of(1, ["a", "b"]))


def test_a_read_answered_with_nonsense_is_refused() -> None:
    class Mute(KeyValueMachine):
        def read(self, request: ReadRequest) -> Response:
            return None  # type: ignore[return-value]

    (answered,) = Bench(Mute()).tell(Query(Asked(), 0, [SIZE]))
    assert not answered.responses[0].success


def test_a_machine_that_fails_in_its_hooks_ends_nobody() -> None:
    class Jumpy(Odd):
        def on_error(self, error: BaseException) -> None:
            raise OSError("on_error")

        def on_leader_start(self, term: int) -> None:
            raise OSError("start")

        def on_leader_stop(self, term: int) -> None:
            raise OSError("stop")

        def digest(self) -> bytes:
            raise OSError("digest")

    bench = Bench(Jumpy(ValueError("first")))
    bench.tell(Leadership(True, 3))
    bench.tell(Leadership(False, 4))
    (described,) = bench.tell(Describe(1))
    assert described.digest is None
    assert "first" in quarantined(bench, run_of(1, ["a"]))


def test_a_machine_hears_of_its_leadership() -> None:
    heard = []

    class Proud(KeyValueMachine):
        def on_leader_start(self, term: int) -> None:
            heard.append(("start", term))

        def on_leader_stop(self, term: int) -> None:
            heard.append(("stop", term))

    bench = Bench(Proud())
    bench.tell(Leadership(True, 3))
    bench.tell(Leadership(False, 4))
    assert heard == [("start", 3), ("stop", 4)]


# --------------------------------------------------------------------------- events


class Talker(Machine):
    def apply(self, request: WriteRequest, context: Context) -> Response:
        for at in range(len(request.key)):
            context.emit("said", {"at": at})
        return DONE

    def digest(self) -> bytes:
        return b""


def test_events_are_numbered_within_their_entry_alike_on_all_replicas() -> None:
    """(index, ordinal) names an event whoever publishes it, however the entries were sliced."""
    runs = [run_of(1, ["ab", "c"]), run_of(3, ["", "def"])]
    together, apart = Bench(Talker()), Bench(Talker())
    together.apply(*runs)
    for run in runs:
        apart.apply(run)
    names = [(index, ordinal) for index, ordinal, _, _ in together.emitted]
    assert names == [(1, 0), (1, 1), (2, 0), (4, 0), (4, 1), (4, 2)]
    assert apart.emitted == together.emitted


# --------------------------------------------------------------------------- what machines say


@pytest.mark.parametrize("text", ["x" * 30_000_000, "\ud800", "\0"])
def test_whatever_an_exception_says_is_told_in_a_short_line_that_can_be_sent(text: str) -> None:
    class Failing(KeyValueMachine):
        def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
            raise ValueError(text)

        def read(self, request: Any) -> Response:
            raise KeyError(text)

    bench = Bench(Failing())
    (answered,) = bench.tell(Query(Asked(), 0, [SIZE]))
    (quarantined,) = bench.apply(run_of(1, ["a"]))
    for line in (answered.responses[0].error, quarantined.error):
        assert 0 < len(line.encode()) < 3_000


def test_an_exception_that_has_no_text_is_told_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    class Failing(KeyValueMachine):
        def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
            raise Mute

    (quarantined,) = Bench(Failing()).apply(run_of(1, ["a"]))
    assert "Mute" in quarantined.error


@pytest.mark.parametrize("error", ["\ud800", "x" * (ERROR_BYTES_MAX + 1)])
def test_a_refusal_that_cannot_be_sent_is_a_failure_of_the_machine(error: str) -> None:
    class Failing(KeyValueMachine):
        def apply_batch(self, requests: Any, contexts: Any) -> list[Response]:
            return [Response.refuse(error)] * len(requests)

    (quarantined,) = Bench(Failing()).apply(run_of(1, ["a"]))
    assert isinstance(quarantined, Quarantined)


def test_reads_wait_while_earlier_answers_have_not_left() -> None:
    bench = Bench()
    may_answer = [False]
    bench.actor._may_answer = lambda: may_answer[0]
    assert bench.tell(Query(Asked(), 0, [SIZE])) == []
    (applied,) = bench.apply(run_of(1, ["a"]))
    assert applied.last == 1, "applies do not wait"
    may_answer[0] = True
    (answered,) = bench.tell(TimerFired("answer", 0))
    assert answered.index == 1


# --------------------------------------------------------------------------- large answers


class Talkative(KeyValueMachine):
    """Every read takes its time and answers a megabyte."""

    def __init__(self, bench: list[Bench]) -> None:
        super().__init__()
        self.reads = 0
        self._bench = bench

    def read(self, request: Any) -> Response:
        self.reads += 1
        self._bench[0].clock.advance(APPLY_SLICE_MS_MAX)
        return Response(bytes(1 << 20))


def test_reads_of_one_message_are_sliced_and_see_one_state() -> None:
    """Pitfall 10: a message of many slow reads must not stop the heartbeats."""
    benches: list[Bench] = []
    machine = Talkative(benches)
    benches.append(bench := Bench(machine))
    assert bench.tell(Query(Asked(), 0, [SIZE] * 3)) == []
    assert machine.reads == 1
    assert bench.apply(run_of(1, ["a"])) == []
    assert bench.actor.applied_index == 0, "applied in the middle of a read message"
    answered, *applied = bench.go_on_to_the_end()
    assert (answered.index, len(answered.responses), machine.reads) == (0, 3, 3)
    assert [each.last for each in applied] == [1]


def test_answers_above_the_limit_end_the_reading() -> None:
    benches: list[Bench] = []
    machine = Talkative(benches)
    benches.append(bench := Bench(machine))
    bench.tell(Query(Asked(), 0, [SIZE] * 1_000))
    (answered,) = bench.go_on_to_the_end()
    assert answered.too_large
    assert machine.reads == ANSWER_BYTES_MAX >> 20


def test_a_message_that_is_begun_is_finished_before_anything_is_applied() -> None:
    """Also when its first answers fill the way out: all its reads see the same state."""
    benches: list[Bench] = []
    machine = Talkative(benches)
    benches.append(bench := Bench(machine))
    bench.actor._may_answer = lambda: machine.reads == 0
    assert bench.tell(Query(Asked(), 0, [SIZE] * 2)) == []
    assert machine.reads == 1
    assert bench.apply(run_of(1, ["a"])) == []
    answered, *applied = bench.go_on_to_the_end()
    assert (answered.index, machine.reads) == (0, 2)
    assert [each.last for each in applied] == [1]
