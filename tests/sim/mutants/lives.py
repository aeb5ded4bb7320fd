"""Bugs of who a disk is in a group after it has lost the group's log."""

from __future__ import annotations

from typing import Any, Final

from raft.messages import Replica
from tests.sim.host import Host
from tests.sim.mutants.mutant import Change, Mutant
from transport import peer_codec


def _same_replica() -> list[Change]:
    return [(Host, "replica", lambda host, group: host.me)]


def _answers_of_the_header() -> list[Change]:
    addresses = peer_codec._addresses

    def from_disks(fields: list[Any], sender: Replica, to: Replica) -> tuple[Replica, Replica]:
        return sender, addresses(fields, sender, to)[1]

    return [(peer_codec, "_addresses", from_disks)]


MUTANTS: Final[dict[str, Mutant]] = {
    "new-life-same-replica": Mutant(
        "who has lost its log goes on with a blank one as who it was (pitfall 20)", _same_replica
    ),
    "answers-of-the-disk": Mutant(
        "an answer of the next life counts for the one before (pitfall 21)", _answers_of_the_header
    ),
}
