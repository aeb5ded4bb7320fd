"""All stories, by title."""

from __future__ import annotations

from typing import Final

from tests.crash_points import logs, node, snapshots
from tests.crash_points.story import Story

STORIES: Final[tuple[type[Story], ...]] = (
    logs.LogStory,
    logs.DamagedRecordStory,
    logs.DamagedEndStory,
    logs.CopiedSegmentStory,
    logs.FullDiskStory,
    snapshots.SnapshotStory,
    snapshots.ReceivingStory,
    snapshots.RestoreStory,
    snapshots.BackupStory,
    node.NodeStory,
)
