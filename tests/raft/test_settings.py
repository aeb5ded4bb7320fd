"""Timing and limits that cannot work are refused where they are made."""

from __future__ import annotations

from typing import Any

import pytest

from raft.settings import RaftSettings


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"heartbeat_ms": 0}, "heartbeat_ms"),
        ({"heartbeat_ms": 400}, "three times heartbeat_ms"),
        ({"retry_min_ms": 0}, "retry_min_ms"),
        ({"retry_min_ms": 400}, "retry_min_ms"),
        ({"retry_max_ms": 1_001}, "retry_max_ms"),
        ({"append_bytes_max": 0}, "append_bytes_max"),
        ({"inflight_bytes_max": 1}, "inflight_bytes_max"),
        ({"inflight_messages_max": 0}, "inflight_messages_max"),
        ({"reads_pending_max": 0}, "reads_pending_max"),
        ({"commit_notice_ms": 0}, "commit_notice_ms"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        RaftSettings(**wrong)


def test_the_defaults_work() -> None:
    assert RaftSettings().election_timeout_ms == 1_000
