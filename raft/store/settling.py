"""What is done to the disk of a slot when it is opened, before anything is built on what was found.

::

    1  segments in which nothing became durable go       so that their names can be made again
    2  the last batch is written again, in place, and    a kernel may hold it in pages marked clean
       the file is cut behind it                         that never reached the disk (pitfall 44)
    3  a new segment, whose first batch says who is      from here on they are condemned, whatever
       condemned: a DAMAGED record each, and its table   happens to the segments with the damage
    4  files that stand in the way are set aside

A crash between any two steps leaves either the damage, which is found again, or the marks.

**A segment with damage in it is never written to**: it is evidence, and what a disk does with a
write beside a bad sector is unknown.  What step 2 would have made durable is copied instead, record
by record, into the first batch of the next segment.  Bytes behind what was proven need not be cut:
the next segment says where this one ends, and nobody reads on behind that.

Damaged segments stay where they are, under their names, until they are given up like all others,
when what is alive in them has been copied.  What is no part of the log any more, a segment of which
nothing could be read at all, is set aside by the opening after the one that condemned for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from raft.store.files import Files
from raft.store.group_log import GroupLog
from raft.store.records import Record
from raft.store.recovery import Recovered

ASIDE_SUFFIX = ".aside"


def settle(files: Files, directory: str, found: Recovered) -> None:
    """Steps 1 and 2: bring the disk to exactly what recovery says is there."""
    for name in found.discard:
        files.unlink(os.path.join(directory, name))
    if found.discard:
        files.fsync_dir(directory)  # gone before the same name is made again
    if not found.last_batch:
        return
    descriptor = files.open(found.last)
    try:
        files.pwrite(descriptor, found.last_batch, found.end - len(found.last_batch))
        files.truncate(descriptor, found.end)
        files.fsync(descriptor)
    finally:
        files.close(descriptor)


def floors_of(carried: Iterable[Record], groups: Mapping[int, GroupLog]) -> dict[int, int]:
    """Of groups in a last batch that is copied: the gseq above which the copy has all records.

    Truncations are among them, and what they truncated.  So for the segment that begins with the
    copy these are no copies of what is live, but the group's records in their order, as when that
    batch had opened it.
    """
    copied: dict[int, set[int]] = {}
    for record in carried:
        copied.setdefault(record.header.group, set()).add(record.header.gseq)
    floors = {}
    for group, gseqs in copied.items():
        floor = groups[group].gseq
        while floor in gseqs:
            floor -= 1
        floors[group] = floor
    return floors


def set_aside(files: Files, directory: str, found: Recovered) -> None:
    """Step 4, for the operator to look at: files that no segment of ours can be."""
    for name in found.aside:
        path = os.path.join(directory, name)
        files.rename(path, path + ASIDE_SUFFIX)
    if found.aside:
        files.fsync_dir(directory)
