"""The specific half, and the page that tells its contract."""

from __future__ import annotations

import copy
import re
import runpy
from pathlib import Path

import pytest

from actors.runtime import Actor, ActorRef, MonotonicClock, VirtualClock

PAGE = Path(__file__).parents[3] / "docs" / "actors.md"


def test_a_reference_is_a_value() -> None:
    ref = ActorRef("kv", 7)
    assert copy.deepcopy(ref) == ref
    assert len({ref, ActorRef("kv", 7), ActorRef("kv", 8)}) == 2
    assert str(ref) == "kv#7"


def test_an_actor_that_says_nothing_does_nothing() -> None:
    actor = Actor("idle")
    assert actor.on_start() is actor.end_turn() is actor.on_stop() is None
    assert actor.status() == {}
    with pytest.raises(NotImplementedError, match="Actor handles no messages"):
        actor.handle("x")


def test_a_slotted_actor_has_no_dictionary() -> None:
    class Slotted(Actor):
        __slots__ = ("count",)

    assert not hasattr(Slotted("lean"), "__dict__")


def test_the_systems_clock_does_not_go_back() -> None:
    clock = MonotonicClock()
    assert clock.now_ms() <= clock.now_ms()


def test_a_virtual_clock_moves_only_forward_and_only_when_told() -> None:
    clock = VirtualClock(5)
    clock.advance(3)
    clock.advance_to(7)
    assert clock.now_ms() == 8
    with pytest.raises(AssertionError, match="go back by 1 ms"):
        clock.advance(-1)


def test_the_example_of_the_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    runpy.run_path(str(script))
    assert capsys.readouterr().out == "the sum is 42\n"


def test_the_page_names_every_callback_effect_and_reason() -> None:
    from actors.runtime import dead_letters, effects

    page = PAGE.read_text(encoding="utf-8")
    names = [effect.__name__ + "(" for effect in effects.KERNEL_EFFECTS]
    names += [f"`{reason}`" for reason in dead_letters.REASONS]
    names += [name for name in vars(Actor) if callable(getattr(Actor, name)) and name[0] != "_"]
    assert [name for name in names if name not in page] == []
