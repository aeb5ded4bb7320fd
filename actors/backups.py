"""Backups of one group: a snapshot is held for a reader, who gets it piece by piece.

    readIndex      by the leader: an index that covers all that was acknowledged before
    backupBegin    by any replica: a snapshot of at least that index, taken if there is none
    backupRead     by the same replica: bytes of its file

Nothing is remembered of a reader but until when the snapshot must stay; it is known by what
identifies it (index, term, checksum). So who reads may lose the connection and go on, also through
another node, and who does not come back is forgotten. A held snapshot costs disk and nothing else:
the log is let go of as always.

Limits: so many snapshots are held at once; each for a while after the last read, and not for ever.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from actors.clients import Pending
from actors.group_messages import BackupChunk, ReadBackup
from actors.runtime import StartTimer
from raft.messages import SnapshotLost, SnapshotMeta
from raft.store.backup_file import meta_values
from raft.store.snapshots import snapshot_name
from transport import protocol
from transport.protocol import AdminOperation

if TYPE_CHECKING:
    from actors.group import GroupActor

TIMER: Final = "backups"
CHUNK_BYTES: Final = 512 << 10  # of the file in one answer; as base64 in JSON about 700 KiB
HELD_MS: Final = 60_000  # after the last read
HELD_MS_MAX: Final = 12 * 3_600_000  # after the first, whatever is read
HELD_MAX: Final = 4  # snapshots; then BUSY
READING_MAX: Final = 8  # chunks on their way from the disk; then BUSY
WAITING_MAX: Final = 100  # backupBegin messages that wait; then BUSY


@dataclass(slots=True)
class _Held:
    meta: SnapshotMeta
    until_ms: int
    last_ms: int  # not later, whatever is read


@dataclass(slots=True)
class _Waiting:
    pending: Pending
    min_index: int


class GroupBackups:
    """Part of one group actor; what is to be done leaves with :meth:`end_turn`."""

    __slots__ = ("_group", "_held", "_reading", "_waiting", "effects")

    def __init__(self, group: GroupActor) -> None:
        self._group = group
        self._held: dict[str, _Held] = {}  # by the name of the file
        self._waiting: list[_Waiting] = []
        self._reading = 0
        self.effects: list[object] = []  # for the end of the turn
        group.snapshots.on_fail = self._on_failed

    @property
    def is_dirty(self) -> bool:
        return bool(self._waiting or self.effects)

    # ------------------------------------------------------------------ beginning

    def begin(self, pending: Pending, admin: AdminOperation) -> None:
        """``min_index``: what the backup must hold; without it, what is applied here by now."""
        group = self._group
        error = group.machine_error
        text = admin.options.get("min_index", "")
        min_index = _decimal(text) if text else group.applied_index
        if min_index < 0:
            self._refuse(pending, protocol.BAD_REQUEST, f"min_index is {text[:32]!r}, no number")
        elif error is not None:
            self._refuse(pending, protocol.REJECTED, f"the machine is quarantined: {error}")
        elif group.snapshots.has_none:
            self._refuse(pending, protocol.REJECTED, "this machine has no snapshots")
        elif len(self._waiting) >= WAITING_MAX:
            self._refuse(pending, protocol.BUSY, "too many wait for a backup of this group")
        else:
            group.clients.admit(pending)
            self._waiting.append(_Waiting(pending, min_index))

    def _refuse(self, pending: Pending, code: int, text: str) -> None:
        self._group.clients.refuse(pending.token, code, text)

    def _on_failed(self, error: str) -> None:
        """The attempt to take a snapshot: of all who wait, none gets one."""
        waiting, self._waiting = self._waiting, []
        self._finish_all(waiting, error)

    def _finish_all(self, waiting: list[_Waiting], text: str) -> None:
        messages = [each.pending for each in waiting]
        self._group.clients.finish_all(messages, protocol.REJECTED, text, maybe_applied=False)

    def _look_at_waiting(self) -> None:
        group, snapshots = self._group, self._group.snapshots
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if each.pending.answered:
                continue  # its deadline has passed
            if each.min_index <= snapshots.index and snapshots.index and not snapshots.is_lost:
                self._grant(each)
                continue
            self._waiting.append(each)
        if any(each.min_index <= group.applied_index for each in self._waiting):
            if not group.applied_index:
                waiting, self._waiting = self._waiting, []
                self._finish_all(waiting, "nothing has been applied yet")
            elif not snapshots.is_lost:  # the next one comes by itself, as soon as it can
                snapshots.want_one()

    def _grant(self, waiting: _Waiting) -> None:
        group = self._group
        meta = group.core.snapshot
        assert meta is not None
        if not self._hold(meta):
            text = f"{HELD_MAX} snapshots are held for backups already"
            pending = [waiting.pending]
            group.clients.finish_all(pending, protocol.BUSY, text, maybe_applied=False)
            return
        values = {
            "backup": snapshot_name(meta),
            "node": group.core.me.node,
            "group": group.group_name,
            "id": group.group,
            "machine": group.machine_kind,
            "snapshot": meta_values(meta),
            "chunk_bytes": CHUNK_BYTES,
            "held_ms": HELD_MS,
        }
        group.clients.finish_json(waiting.pending, values)

    # ------------------------------------------------------------------ holding

    def _hold(self, meta: SnapshotMeta) -> bool:
        now = self._group.now_ms()
        self._let_go(now)
        name = snapshot_name(meta)
        held = self._held.get(name)
        if held is None:
            if len(self._held) >= HELD_MAX:
                return False
            held = self._held[name] = _Held(meta, now, now + HELD_MS_MAX)
        held.until_ms = min(now + HELD_MS, held.last_ms)
        self._update()
        return True

    def _let_go(self, now: int) -> None:
        over = [name for name, held in self._held.items() if held.until_ms <= now]
        for name in over:
            del self._held[name]
        if over:
            self._update()
            self._group.snapshots.let_go()

    def _update(self) -> None:
        self._group.snapshots.held = [held.meta for held in self._held.values()]
        if self._held:
            first_ms = min(held.until_ms for held in self._held.values())
            self.effects.append(StartTimer(TIMER, first_ms))

    def on_timer(self) -> None:
        """Of one of them the time is over, or was prolonged."""
        self._let_go(self._group.now_ms())
        self._update()

    # ------------------------------------------------------------------ reading

    def read(self, pending: Pending, admin: AdminOperation) -> None:
        group = self._group
        name = admin.options.get("backup", "")
        text = admin.options.get("offset", "")
        offset = _decimal(text)
        held = self._held.get(name)
        newest = group.core.snapshot
        meta = None if held is None else held.meta
        if meta is None and newest is not None and snapshot_name(newest) == name:
            meta = newest  # this process is another one than began it
        if offset < 0:
            self._refuse(pending, protocol.BAD_REQUEST, f"offset is {text[:32]!r}, no number")
        elif meta is None:
            text = f"the snapshot {name[:64]!r} is not held here any more; begin anew"
            self._refuse(pending, protocol.REJECTED, text)
        elif self._reading >= READING_MAX or not self._hold(meta):
            self._refuse(pending, protocol.BUSY, "too much of this group is being read")
        else:
            group.clients.admit(pending)
            self._reading += 1
            self.effects.append(ReadBackup(group.group, pending, meta, offset, CHUNK_BYTES))

    def on_chunk(self, message: BackupChunk) -> None:
        """The bytes are there, or why they are not."""
        self._reading -= 1
        group, pending = self._group, message.key
        if message.error is not None:
            group.snapshots.on_lost(SnapshotLost(message.snapshot))
            text = f"the snapshot cannot be read: {message.error}"
            group.clients.finish_all([pending], protocol.REJECTED, text, maybe_applied=False)
        elif not pending.answered:
            data = base64.b64encode(message.data).decode()
            values = {"offset": message.offset, "data": data}
            group.clients.finish_json(pending, values)

    # ------------------------------------------------------------------ the turn's end

    def end_turn(self) -> list[object]:
        """If ``is_dirty``."""
        if self._waiting:
            self._look_at_waiting()
        effects, self.effects = self.effects, []
        return effects


def decode_data(text: str) -> bytes | None:
    """What :meth:`GroupBackups.on_chunk` encodes; None: it is nothing of the kind."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _decimal(text: str) -> int:
    """A non-negative number of at most 19 digits, or -1."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 19 else -1
