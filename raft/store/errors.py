"""What the store refuses.  Each message is one line that an operator can act on.

Damage and unknown formats are never repaired by guessing: who meets one stops (pitfall 45).
"""

from __future__ import annotations


class StoreError(Exception):
    """Whatever the disk, or another process on it, did to us."""


class LockHeld(StoreError):
    """Another process lives and holds the lock.  The caller may wait and try again."""

    def __init__(self, path: str, holder: str) -> None:
        super().__init__(f"{path} is locked by {holder}")
        self.path = path
        self.holder = holder


class UnknownFormat(StoreError):
    """Written by a newer version.  Never skipped, never cut."""

    def __init__(self, file: str, what: str, offset: int | None = None) -> None:
        place = file if offset is None else f"{file} at offset {offset}"
        super().__init__(f"{place}: {what}; a newer version of polyraft wrote this")
        self.file = file
        self.offset = offset


class WalDamaged(StoreError):
    """Something that was durable is no longer there.  ``groups`` are those known to be hit.

    ``group`` is the first of them, or ``None`` where the damage does not tell.
    """

    def __init__(self, file: str, offset: int, groups: tuple[int, ...], reason: str) -> None:
        hit = ", ".join(map(str, groups)) if groups else "unknown"
        super().__init__(f"{file} is damaged at offset {offset} (group {hit}): {reason}")
        self.file = file
        self.offset = offset
        self.groups = groups
        self.group = groups[0] if groups else None
        self.reason = reason


class ForeignWal(StoreError):
    """The log of another disk, copied here.  With its votes nobody but that node may vote."""

    def __init__(self, file: str, written_for: int, here: int) -> None:
        super().__init__(
            f"{file} was written for the disk with incarnation {written_for:016x}, and this is "
            f"{here:016x}: a log that was copied from another node is not used"
        )
        self.file = file
        self.written_for = written_for
        self.here = here


class WalPoisoned(StoreError):
    """A write or sync failed.  Final: this process must acknowledge nothing more (pitfall 44)."""


class DamagedDocument(StoreError):
    """A small file (node.json, placement) whose checksum or shape is wrong."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file} is damaged: {reason}")
        self.file = file
        self.reason = reason


class SnapshotDamaged(StoreError):
    """A snapshot file that is gone, or not what was written.  Log and votes are not concerned."""

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(f"{file} is damaged at offset {offset}: {reason}")
        self.file = file
        self.offset = offset
        self.reason = reason


class DamagedRun(StoreError):
    """The body of a run is not what the format says."""


class UnknownRun(DamagedRun):
    """A run of a kind, or with flags, that only a newer version knows: stops the replica."""
