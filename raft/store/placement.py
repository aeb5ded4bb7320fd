"""``DATA/placement``: the only authority on where a group of this node lives.

The node process alone replaces it, atomically; a worker reads it.  A group is in the WAL of the
slot named here, under the generation named here; records of the group anywhere else are left-overs.

It is also the memory of **lives** (:mod:`raft.lives`): which replica of the group this disk is.  A
life begins here, with a generation of its own, before anything of it is in the log; from that
moment on nothing of this node speaks as an earlier one.  A file with such a group has the higher
format: an older version, which would speak as the first life, must not read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raft.lives import LIVES_MAX
from raft.messages import Replica
from raft.store.documents import read_table, write_document
from raft.store.files import Files

FILE = "placement"
WHAT = "placement"
FORMAT = 2
FORMAT_WITHOUT_LIVES = 1

# Names of options.
BORN = "born"  # its log was durable once, and may never be missing again
REJOINING = "rejoining"  # it has yet to take the place of the life before
MEMBER = "member"  # of _system: it was one, though it did not found the cluster
# This node has no part in the group any more, since this version of its row in the catalog. Rows
# are heard again, from the first one on, whenever the catalog's log is applied anew.
LEFT = "left"


@dataclass(slots=True, frozen=True)
class PlacedGroup:
    """Where a group lives and what it was created as; ``members`` are its first ones.

    ``life``: how often the log of this group was lost from this disk.
    """

    slot: int
    generation: int
    name: str
    machine: str
    members: tuple[Replica, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    life: int = 0

    @property
    def is_born(self) -> bool:
        return bool(self.options.get(BORN))


class Placement:
    """The file's content at the last load or replace."""

    __slots__ = ("_files", "_groups", "_path")

    def __init__(self, files: Files, path: str, groups: dict[int, PlacedGroup]) -> None:
        self._files = files
        self._path = path
        self._groups = groups

    @classmethod
    def load(cls, files: Files, data_dir: str) -> Placement:
        """Raises DamagedDocument and UnknownFormat; a missing file is an empty placement."""
        path = os.path.join(data_dir, FILE)
        return cls(files, path, read_table(files, path, WHAT, FORMAT, "groups", int, _decode))

    @property
    def groups(self) -> Mapping[int, PlacedGroup]:
        return self._groups

    def in_slot(self, slot: int) -> dict[int, PlacedGroup]:
        return {group: placed for group, placed in self._groups.items() if placed.slot == slot}

    def has_elsewhere(self, group: int, slot: int, generation: int) -> bool:
        """Whether the group is in another slot, and what the log of this one has of it, under this
        generation, is a left-over.  It is none if this file may be an old copy."""
        placed = self._groups.get(group)
        return placed is not None and placed.slot != slot and generation < placed.generation

    def replace(self, groups: Mapping[int, PlacedGroup]) -> None:
        """Durable when this returns; after an OSError the file holds old or new content."""
        body = {"groups": {str(group): _encode(placed) for group, placed in groups.items()}}
        has_lives = any(placed.life for placed in groups.values())
        format_ = FORMAT if has_lives else FORMAT_WITHOUT_LIVES
        write_document(self._files, self._path, WHAT, format_, body)
        self._groups = dict(groups)


def _encode(placed: PlacedGroup) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "slot": placed.slot,
        "generation": placed.generation,
        "name": placed.name,
        "machine": placed.machine,
        # Hexadecimal text: 64-bit numbers do not survive every JSON reader.
        "members": [[member.node, f"{member.incarnation:016x}"] for member in placed.members],
        "options": dict(placed.options),
    }
    if placed.life:
        encoded["life"] = placed.life
    return encoded


def _decode(value: dict[str, Any]) -> PlacedGroup:
    return PlacedGroup(
        slot=int(value["slot"]),
        generation=int(value["generation"]),
        name=str(value["name"]),
        machine=str(value["machine"]),
        members=tuple(
            Replica(str(node), int(incarnation, 16)) for node, incarnation in value["members"]
        ),
        options=dict(value["options"]),
        life=_life(value.get("life", 0)),
    )


def _life(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= LIVES_MAX:
        raise ValueError(f"{value!r} is no life")
    return value
