"""Wherever a story stops, what was promised is found; and no operation of the code is left out."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from functools import cache
from typing import Final

import pytest

from raft.store.memory import CHANGES
from tests.crash_points.call_sites import all_calls, is_operation
from tests.crash_points.disk import FATES, LOST, Site
from tests.crash_points.node import NodeStory
from tests.crash_points.stories import STORIES
from tests.crash_points.story import (
    Crash,
    Story,
    Told,
    enumerate_crashes,
    say,
    some,
    survive,
    tell,
)

POINTS_MIN: Final = 1_300  # of all stories

# File and function -> why no story comes by. What is not needed any more has to go.
NOT_TOLD: Final = {
    ("raft/store/backup_file.py", "_Within.open"): "reads alone: nobody asks it to create",
    ("actors/cli.py", "_run"): "the program: the story of a node is what it runs",
    ("actors/cli.py", "main"): "the program",
    ("actors/cli.py", ""): "the program",
    ("actors/ctl_backup.py", "do_backup"): "asks a cluster; the story has all that it writes",
    ("actors/demo.py", "Story.tell"): "a demonstration, in a directory of its own",
    ("actors/demo.py", "Story._start_all"): "a demonstration, in a directory of its own",
    ("actors/ports.py", "remembered_ports"): "numbers of ports, for --dev",
    ("actors/node.py", "run_node"): "the process: the story calls what it calls",
    ("actors/worker.py", "Worker.run"): "the process: the story calls what it calls",
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Each crash is news to whoever starts."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@cache
def told(kind: type[Story]) -> Told:
    return tell(kind)


@pytest.mark.parametrize("kind", STORIES, ids=lambda kind: kind.title)
def test_wherever_it_stops_what_was_promised_is_found(
    kind: type[Story], capsys: pytest.CaptureFixture[str]
) -> None:
    tally = enumerate_crashes(told(kind), some(told(kind)))
    with capsys.disabled():
        say(f"\n{told(kind).line(tally)} ")
    assert not tally.failures, "\n".join(tally.failures)
    assert len(told(kind).points) >= kind.points_min
    assert tally.crashes >= len(told(kind).points)


def test_all_stories_together_have_every_kind_of_operation(
    capsys: pytest.CaptureFixture[str],
) -> None:
    points = sum(len(told(kind).points) for kind in STORIES)
    operations = sum((told(kind).operations for kind in STORIES[1:]), told(STORIES[0]).operations)
    with capsys.disabled():
        counts = ", ".join(f"{count} {name}" for name, count in sorted(operations.items()))
        say(f"\n{points} crash points in {len(STORIES)} stories: {counts} ")
    assert points >= POINTS_MIN
    assert set(operations) == CHANGES | {"end"}


def test_every_call_that_changes_a_disk_is_in_some_story() -> None:
    seen: set[Site] = set().union(*(told(kind).sites for kind in STORIES))
    calls = all_calls()
    assert len(calls) > 140
    excused = {
        call: (call.site.path, call.function)
        for call in calls
        if (call.site.path, call.function) in NOT_TOLD
    }
    missing = [str(call) for call in calls if call.site not in seen and call not in excused]
    assert not missing, "no story comes by:\n" + "\n".join(missing)
    needed = {where for call, where in excused.items() if call.site not in seen}
    assert needed >= set(NOT_TOLD), "an exception that is not needed any more"


def test_each_operation_of_the_layer_that_changes_something_is_looked_for() -> None:
    """What raft.store.memory counts as a change is what the trees are searched for."""
    names = {"open" if name == "create" else name for name in CHANGES}
    for name in sorted(names):
        keywords = ", create=True" if name == "open" else ""
        assert _is_found(f"files.{name}(path{keywords})"), name
    assert not _is_found("files.open(path)")
    assert not _is_found("files.pread(descriptor, 1, 0)")
    assert not _is_found("os.unlink(path)")


def _is_found(code: str) -> bool:
    call = ast.parse(code, mode="eval").body
    assert isinstance(call, ast.Call)
    return is_operation(call)


def test_a_promise_that_is_not_kept_fails_with_its_place() -> None:
    """The enumeration itself: a point whose promise is another one."""
    node = told(NodeStory)
    at = next(at for at, point in enumerate(node.points) if "placement" in point.right)
    point = node.points[at]
    broken = point._replace(right={**point.right, "placement": ("something else",)})
    twin = Told(node.kind, [*node.points[:at], broken], node.ends, node.sites)
    with node.kind.settings(), pytest.raises(AssertionError, match="placement is "):
        survive(twin, at, Crash(LOST))
    tally = enumerate_crashes(twin, [(at, Crash(FATES[1]))])
    assert f"point {at}, before {point.operation} {point.path}" in tally.failures[0]
