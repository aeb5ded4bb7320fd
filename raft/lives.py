"""Lives: which replica of a group a disk is, after it has lost that group's log.

A replica is (node id, incarnation), and a disk has one incarnation for all its groups.  When the
log of *one* group on it is lost, what this replica has voted and acknowledged there is lost with
it.  It may never speak again; all others of the disk may.  So a disk counts its **lives** in each
group::

    life 0      (node, the disk's own incarnation)
    life k > 0  (node, the first 8 bytes of SHA-256 over incarnation, group and k, top bit set)

Each life is a replica of its own, to everybody: it joins as a learner, catches up, and takes the
place of the one before it (docs/decisions/0014-a-lost-log-ends-a-life.md).  To the core this is
nothing new: it compares replicas, and never asks where their numbers come from.

The number is *derived*, so that whoever knows disk, group and life names the same replica, however
often and after whatever crash it is asked.  The top bit tells derived numbers from drawn ones,
which have 63 bits: messages of, and to, a drawn one need not carry it.  Where a disk had drawn one
with that bit nothing would be wrong, only longer.
"""

from __future__ import annotations

import hashlib
from typing import Final

from raft.messages import Replica

DERIVED_BIT: Final = 1 << 63
LIVES_MAX: Final = 1_000  # of one disk in one group; one that loses its log so often is no disk

_DOMAIN: Final = b"polyraft life"


def incarnation_of(incarnation: int, group: int, life: int) -> int:
    """Of the replica that the disk ``incarnation`` has of ``group`` in this life; never 0."""
    assert 0 < incarnation < 1 << 64, incarnation
    assert 0 < group < 1 << 64, group
    assert 0 <= life <= LIVES_MAX, life
    if life == 0:
        return incarnation
    numbers = b"".join(number.to_bytes(8, "big") for number in (incarnation, group, life))
    return int.from_bytes(hashlib.sha256(_DOMAIN + numbers).digest()[:8], "big") | DERIVED_BIT


def replica_of(disk: Replica, group: int, life: int) -> Replica:
    """``disk``: the node's name with its disk's own incarnation."""
    return Replica(disk.node, incarnation_of(disk.incarnation, group, life))


def life_of(replica: Replica, disk: Replica, group: int) -> int | None:
    """Which life of this disk the replica is, or None.  For a look at members, not at messages."""
    if replica.node != disk.node:
        return None
    if replica == disk:
        return 0
    if not replica.incarnation & DERIVED_BIT:
        return None
    lives = range(1, LIVES_MAX + 1)
    return next((life for life in lives if replica_of(disk, group, life) == replica), None)


def earlier_lives(disk: Replica, group: int, life: int) -> frozenset[Replica]:
    """All that this disk was in the group before: none of them speaks any more."""
    return frozenset(replica_of(disk, group, each) for each in range(life))
