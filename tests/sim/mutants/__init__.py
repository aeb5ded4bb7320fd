"""Deliberate bugs, each of which some system really had: proof that the simulator can fail.

A mutant changes a few lines of production code in this process, and changes them back.  They are
sorted by what they break, one topic a file; :mod:`tests.sim.mutants.seeds` knows for each a seed
that finds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest.mock import patch

from tests.sim.mutants import (
    clients,
    disk,
    leaving,
    lives,
    log,
    members,
    reads,
    restores,
    snapshots,
    votes,
)
from tests.sim.mutants.mutant import Mutant

TOPICS: Final = (votes, log, disk, reads, members, lives, leaving, restores, snapshots, clients)
MUTANTS: Final[dict[str, Mutant]] = {
    name: mutant for topic in TOPICS for name, mutant in topic.MUTANTS.items()
}


@contextmanager
def applied(name: str | None) -> Iterator[None]:
    """With this bug in the code; None: with the code as it is."""
    with ExitStack() as stack:
        if name is not None:
            for owner, attribute, replacement in MUTANTS[name].changes():
                stack.enter_context(patch.object(owner, attribute, replacement))
        yield
