"""Somebody takes a backup of a group, and makes a new group of it later.

Once in a history at most.  The backup is asked for as `ctl backup` does, and tried again until
there is one: what it holds reaches all that was acknowledged before, and its bytes are those of the
snapshot that was written.  Some time later it is brought to the disks of all nodes, as
`ctl restore` does, by what the replica of ``_system`` would do with it (:mod:`raft.store.uploads`);
when all have it, the catalog says that there is such a group, and with what it begins
(docs/decisions/0013).

To the checkers the new group's log is that of the backup's, up to its index; so its state there,
and whatever becomes of it, is held against the old one's (:meth:`GroupChecker.begin_with`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from actors.backups import decode_data
from actors.catalog_members import group_row
from raft.configuration import Configuration
from raft.messages import SnapshotMeta
from raft.store.backup_file import (
    BackupFile,
    BackupHead,
    BackupWriter,
    meta_of,
    meta_values,
    with_members,
)
from raft.store.errors import StoreError
from raft.store.snapshots import snapshot_name
from raft.store.uploads import RESTORE, Uploads, directory_of
from tests.sim.checkers import Beginning
from tests.sim.plan import GroupPlan
from tests.sim.slot import Slot
from tests.sim.slot_files import SlotFiles
from tests.sim.slot_parts import DATA
from tests.sim.world import MS, draw_us
from transport.client import wire
from transport.client.wire import Outcome

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

AGAIN_US: Final = (20 * MS, 400 * MS)
KEPT_US: Final = (1 * MS, 3_000 * MS)  # between backup and restore
PIECE_BYTES: Final = 100
SLOT: Final = 1  # where a node places a new group
FILE: Final = "/backup"

Then = Callable[[Any], None]


class Restoring:
    """Of one group of the simulation; ends by itself, or when the world is healed."""

    def __init__(self, simulation: Simulation, source: GroupPlan, rng: random.Random) -> None:
        self._simulation = simulation
        self._source = source
        self._checker = simulation.checkers[source.group]
        self._rng = rng
        self._meta: SnapshotMeta | None = None
        self._node = ""
        self._min_index = 0  # what the backup has to reach
        self._beginning: Beginning | None = None
        self.has_backup = False
        self.group: int | None = None  # the new one

    # ------------------------------------------------------------------ the backup

    def begin(self) -> None:
        asked = self._checker.committed_now()

        def then(answer: Any) -> None:
            self._checker.check_read("the backup", answer["index"], asked)
            self._min_index = int(answer["index"])
            self._ask("backupBegin", "", {"min_index": str(answer["index"])}, self._on_begun)

        self._ask("readIndex", "", {}, then)

    def _ask(self, command: str, value: str, options: dict[str, str], then: Then) -> None:
        """Whatever goes wrong, it begins anew."""

        def heard(outcome: Outcome | None) -> None:
            if outcome is not None and outcome.code == wire.OK:
                then(json.loads(outcome.data))
            else:
                delay_us = draw_us(self._rng, *AGAIN_US)
                world = self._simulation.world
                world.after(delay_us, self._simulation.unless_healed, self.begin)

        host = self._rng.choice(list(self._simulation.hosts.values()))
        operator, name = self._simulation.operator, self._source.name
        operator.ask_at(host, name, command, value, options, heard)

    def _on_begun(self, answer: Any) -> None:
        self._meta = meta = meta_of(answer["snapshot"])
        assert meta.index >= self._min_index, (
            f"the backup of {self._source.group} ends at {meta.index}, and {self._min_index} was "
            "committed before it was asked for"
        )
        self._node = answer["node"]
        self._ask("backupRead", self._node, _place(meta, 0), self._on_read)

    def _on_read(self, answer: Any) -> None:
        meta = self._meta
        assert meta is not None
        data = decode_data(answer["data"])
        assert data is not None
        self._checker.check_sent(self._node, meta, answer["offset"], data)
        assert len(data) == meta.size_bytes, "these snapshots are small"
        head = BackupHead(self._source.name, "kv", "c", self._node, meta, 0, "v")
        self._disk = SlotFiles(recording=False)
        writer = BackupWriter(self._disk, FILE, head)
        writer.write(data)
        writer.finish()
        self._beginning = self._checker.beginning_at(meta)
        if self._beginning is None:
            return  # the group has begun anew without that
        self.has_backup = True
        self._simulation.note("ops", f"has a backup of {self._source.group} at {meta.index}")
        delay_us = draw_us(self._rng, *KEPT_US)
        self._simulation.world.after(delay_us, self._simulation.unless_healed, self._restore)

    # ------------------------------------------------------------------ the restore

    @property
    def is_beginning(self) -> bool:
        """Not all of those that the new group begins with have heard of it."""
        if self.group is None:
            return False
        group, hosts = self.group, self._simulation.hosts.values()
        founders = self._simulation.checkers[group].founders
        return any(host.me in founders and host.node.has(group) is None for host in hosts)

    def _restore(self) -> None:
        """All nodes have to be up and to have it, at the same time."""
        simulation = self._simulation
        hosts = list(simulation.hosts.values())
        backup = BackupFile(self._disk, FILE)
        backup.verify()
        meta = with_members(backup, Configuration(frozenset(host.me for host in hosts)))
        frames = b"".join(backup.frames(meta.configuration))
        slots = [host.slot(SLOT) for host in hosts]
        if all(slot.is_up and _bring(slot, meta, frames) for slot in slots):
            self._make_group(meta, frames)
        else:
            delay_us = draw_us(self._rng, *AGAIN_US)
            simulation.world.after(delay_us, simulation.unless_healed, self._restore)

    def _make_group(self, meta: SnapshotMeta, frames: bytes) -> None:
        simulation = self._simulation
        plan = replace(
            self._source,
            group=simulation.plan.groups[-1].group + 1,
            name=f"{self._source.name}r",
            slot=SLOT,
            members=tuple(sorted(simulation.hosts)),
        )
        self.group = plan.group
        assert self._beginning is not None
        simulation.note("ops", f"restores {plan.group} as {self._source.group} at {meta.index}")
        checker = simulation.add_group(plan, meta.configuration)
        checker.begin_with(self._beginning, meta, frames)
        founders = [list(each) for each in sorted(meta.configuration.voters)]
        row = {
            **group_row(plan.group, plan.name, "kv", founders),
            RESTORE: meta_values(meta),
        }
        simulation.desire.make(row)
        for _ in range(plan.clients):
            simulation.add_client(plan).start()


def _place(meta: SnapshotMeta, offset: int) -> dict[str, str]:
    return {"backup": snapshot_name(meta), "offset": str(offset)}


def _bring(slot: Slot, meta: SnapshotMeta, frames: bytes) -> bool:
    """False: the disk has refused it, and it is tried again."""
    files = slot.space.files_of_snapshots(DATA)
    if files.exists(f"{directory_of(DATA)}/{snapshot_name(meta)}"):
        return True
    uploads = Uploads(files, DATA)
    try:
        for at in range(0, len(frames), PIECE_BYTES):
            uploads.receive(meta, at, frames[at : at + PIECE_BYTES])
    except (StoreError, OSError):
        return False
    return True
