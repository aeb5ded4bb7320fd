"""What peers say to the groups of one worker: from bytes to messages, by group and lane."""

from __future__ import annotations

import logging
from typing import Any

from raft.messages import Append, Replica, SnapshotChunk
from raft.store.runs import check_run
from transport import peer_codec
from transport.frames import FrameError

log = logging.getLogger("polyraft.worker")

ByGroup = dict[int, list[Any]]


def sort_messages(items: list[Any], me: Replica, counts: dict[str, int]) -> tuple[ByGroup, ByGroup]:
    """(control, bulk) of a frame PEER_IN to this node.

    ``items``: node, incarnation of its disk, and flat (group, bytes)... of each peer.  What does
    not parse, or is not what its sender wrote, is counted and dropped: peers send again.
    """
    control: ByGroup = {}
    bulk: ByGroup = {}
    for at in range(0, len(items), 3):
        node, incarnation, flat = items[at : at + 3]
        sender = Replica(node, incarnation)
        for position in range(0, len(flat), 2):
            group = flat[position]
            try:
                message = peer_codec.decode(flat[position + 1], sender, me)
            except FrameError as error:
                counts["bad_frames"] += 1
                log.error("a message of %s does not parse: %s", node, error)
                continue
            if type(message) is Append:
                # All appends in one lane: an empty one that overtook others would be refused.
                if not all(map(check_run, message.runs)):
                    counts["bad_runs"] += 1
                    log.error("an append of %s has a run with a wrong checksum", node)
                    continue
                bulk.setdefault(group, []).append(message)
            elif type(message) is SnapshotChunk:
                bulk.setdefault(group, []).append(message)
            else:
                control.setdefault(group, []).append(message)
    return control, bulk
