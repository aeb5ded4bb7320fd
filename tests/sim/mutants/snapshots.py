"""Bugs of snapshots: what stands for the log is something else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from actors.group_messages import WriteSnapshot
from actors.machine import MachineActor, Rebuild, Restore, SnapshotView
from actors.machines.kv import KeyValueMachine
from actors.rebuild import GroupRebuild
from actors.runtime import Tell
from actors.snapshots import GroupSnapshots
from raft.configuration import Configuration, History
from raft.core import Core
from raft.messages import Save, SnapshotChunk, SnapshotMeta, SnapshotReceived
from raft.snapshots import SnapshotRules
from raft.store.incoming import Incoming
from raft.store.memory import MemoryFiles
from tests.sim.mutants.mutant import Change, Mutant, handlers


def _snapshot_without_members() -> list[Change]:
    reset = History.reset

    def keeps(history: History, index: int, configuration: Configuration) -> None:
        reset(history, index, history.latest)

    return [(History, "reset", keeps)]


def _members_of_later() -> list[Change]:
    on_view = GroupSnapshots.on_view

    def newest(snapshots: GroupSnapshots, message: SnapshotView) -> list[object]:
        return [
            replace(effect, configuration=snapshots._core.configuration)
            if isinstance(effect, WriteSnapshot)
            else effect
            for effect in on_view(snapshots, message)
        ]

    return [(GroupSnapshots, "on_view", newest)]


def _view_goes_on_changing() -> list[Change]:
    def nothing(machine: KeyValueMachine, key: str, entry: Any) -> None:
        """What the view needs as it was is not put aside for it."""

    return [(KeyValueMachine, "_put_aside", nothing)]


def _restore_adds() -> list[Change]:
    restore = KeyValueMachine.restore

    def onto(machine: KeyValueMachine, reader: Any, version: int) -> None:
        before = dict(machine._entries)
        restore(machine, reader, version)
        for key, entry in before.items():
            if key not in machine._entries:
                machine._entries[key] = entry
                machine._digest = (machine._digest + entry[2]) & ((1 << 64) - 1)

    return [(KeyValueMachine, "restore", onto)]


def _restore_overtakes() -> list[Change]:
    def first(machine: MachineActor, message: Restore) -> list[object]:
        machine._queue.appendleft(message)
        return machine._begin_work()

    return [(MachineActor, "_on_restore", first)]


def _old_one_installed() -> list[Change]:
    def any_chunk(core: Core, message: SnapshotChunk) -> None:
        core._follow(message.sender)
        core._received.append(message)

    def install(core: Core, message: SnapshotReceived) -> None:
        core._install(message.snapshot)

    return handlers({SnapshotChunk: any_chunk, SnapshotReceived: install})


def _log_of_another_history() -> list[Change]:
    def long_enough(core: SnapshotRules, snapshot: SnapshotMeta) -> bool:
        return snapshot.index <= core.durable_index

    return [(SnapshotRules, "_log_has", long_enough)]


def _index_of_what_is_handed_out() -> list[Change]:
    on_view = GroupSnapshots.on_view

    def ahead(snapshots: GroupSnapshots, message: SnapshotView) -> list[object]:
        return on_view(snapshots, replace(message, index=snapshots._core.handed_index))

    return [(GroupSnapshots, "on_view", ahead)]


def _half_changed_machine() -> list[Change]:
    """As long as there is no snapshot, nothing else makes it begin anew."""
    return [(MachineActor, "_replace_machine", lambda *_: True)]


def _not_synced() -> list[Change]:
    sync = MemoryFiles.fsync

    def hasty(files: MemoryFiles, descriptor: int) -> None:
        if not files._inode(descriptor)[1].endswith((".writing", ".receiving")):
            sync(files, descriptor)

    return [(MemoryFiles, "fsync", hasty)]


def _received_is_not_checked() -> list[Change]:
    def believed(incoming: Incoming, part: Any) -> bool:
        return bool(part.held == part.meta.size_bytes)

    return [(Incoming, "_is_what_was_sent", believed)]


def _spare_without_log() -> list[Change]:
    """The snapshot before the newest stays, and the log behind it goes all the same."""
    rebuild_from = GroupRebuild._rebuild_from

    def trusting(rebuild: GroupRebuild, snapshot: SnapshotMeta | None) -> list[object]:
        effects = rebuild_from(rebuild, snapshot)
        newest = rebuild._group.core.snapshot
        if snapshot is not None and newest is not None and snapshot.index < newest.index:
            for each in effects:
                if isinstance(each, Tell) and isinstance(each.message, Rebuild):
                    each.message.runs.clear()
        return effects

    return [(GroupRebuild, "_rebuild_from", trusting)]


def _compacts_too_soon() -> list[Change]:
    """The file goes before the record that names the next one is durable (pitfall 41)."""

    def forgets(snapshots: GroupSnapshots, save: Save) -> None:
        if save.mark is not None:
            snapshots._want_keep()

    return [(GroupSnapshots, "note_save", forgets)]


MUTANTS: Final[dict[str, Mutant]] = {
    "snapshot-without-members": Mutant(
        "a snapshot leaves the configuration as it was (pitfall 25)", _snapshot_without_members
    ),
    "snapshot-of-later-members": Mutant(
        "a snapshot carries the newest configuration (pitfall 25)", _members_of_later
    ),
    "shared-view": Mutant(
        "a view goes on changing while it is written (pitfall 37)", _view_goes_on_changing
    ),
    "restore-adds": Mutant("what is restored does not replace all (paper 7)", _restore_adds),
    "restore-overtakes": Mutant(
        "a snapshot overtakes what is to be applied before it (pitfall 37)", _restore_overtakes
    ),
    "older-installed": Mutant(
        "installs a snapshot that is older than its log (pitfall 38)", _old_one_installed
    ),
    "received-not-checked": Mutant(
        "takes what has arrived of a snapshot for what was sent (pitfall 41)",
        _received_is_not_checked,
    ),
    "spare-without-log": Mutant(
        "goes back to an older snapshot and not through the log behind it (pitfall 42)",
        _spare_without_log,
    ),
    "early-removal": Mutant(
        "removes a snapshot that the log still names (pitfall 41)", _compacts_too_soon
    ),
    "snapshot-not-synced": Mutant(
        "names a snapshot before its bytes are durable (pitfall 41)", _not_synced
    ),
    "log-of-another-history": Mutant(
        "keeps a log that ends otherwise than the snapshot (pitfall 42)", _log_of_another_history
    ),
    "half-changed-machine": Mutant(
        "applies the log again to a machine that has failed (pitfall 18)", _half_changed_machine
    ),
    "index-ahead": Mutant(
        "a snapshot stands for more than it holds (pitfall 42)", _index_of_what_is_handed_out
    ),
}
