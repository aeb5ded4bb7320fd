"""``DATA/placement``: the only authority on where a group of this node lives.

The node process alone replaces it, atomically; a worker reads it.  A group is in the WAL of the
slot named here, under the generation named here; records of the group anywhere else are left-overs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raft.messages import Replica
from raft.store.documents import read_document, write_document
from raft.store.errors import DamagedDocument
from raft.store.files import Files

FILE = "placement"
WHAT = "placement"
FORMAT = 1


@dataclass(slots=True, frozen=True)
class PlacedGroup:
    """Where a group lives and what it was created as; ``members`` are its first ones."""

    slot: int
    generation: int
    name: str
    machine: str
    members: tuple[Replica, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


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
        body = read_document(files, path, WHAT, FORMAT)
        if body is None:
            return cls(files, path, {})
        try:
            groups = {int(group): _decode(value) for group, value in body["groups"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamagedDocument(path, f"a group has the wrong shape ({error})") from error
        return cls(files, path, groups)

    @property
    def groups(self) -> Mapping[int, PlacedGroup]:
        return self._groups

    def in_slot(self, slot: int) -> dict[int, PlacedGroup]:
        return {group: placed for group, placed in self._groups.items() if placed.slot == slot}

    def replace(self, groups: Mapping[int, PlacedGroup]) -> None:
        """Durable when this returns; after an OSError the file holds old or new content."""
        body = {"groups": {str(group): _encode(placed) for group, placed in groups.items()}}
        write_document(self._files, self._path, WHAT, FORMAT, body)
        self._groups = dict(groups)


def _encode(placed: PlacedGroup) -> dict[str, Any]:
    return {
        "slot": placed.slot,
        "generation": placed.generation,
        "name": placed.name,
        "machine": placed.machine,
        # Hexadecimal text: 64-bit numbers do not survive every JSON reader.
        "members": [[member.node, f"{member.incarnation:016x}"] for member in placed.members],
        "options": dict(placed.options),
    }


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
    )
