"""The disk of a process of the simulation: in memory, and without what differs from run to run."""

from __future__ import annotations

from raft.store.memory import MemoryFiles


class SlotFiles(MemoryFiles):
    """A lock file names a process by its id, another one each time: here it names nobody."""

    __slots__ = ()

    def pwrite(self, descriptor: int, data: bytes, offset: int) -> None:
        path = self._inode(descriptor)[1]
        super().pwrite(descriptor, b"{}" if path.endswith("/lock") else data, offset)
