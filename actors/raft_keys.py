"""The ``[raft]`` table: our own names of the settings of a group, and those of Nacos.

Who moves a cluster over brings the keys of ``nacos.core.protocol.raft.data.`` along.  Each of
them is accepted and means one of three things, kept apart in the three tables below:

* it has a counterpart here and sets it (:data:`TRANSLATED`);
* it asks for what is always done here, or for the tuning of a part that does not exist here: it
  is checked for its type and then has no effect, which the node says once at start
  (:data:`WITHOUT_EFFECT`);
* it asks for what is not done (:func:`_refuse`): not starting is better than starting otherwise.

Nothing is raised to a hidden minimum: what is written is what is used, or is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from actors.config_values import (
    ConfigError,
    ConfigRefused,
    Given,
    boolean,
    integer,
    one_of,
    unknown,
)
from actors.settings import SnapshotSettings
from raft.settings import RaftSettings

_MOST = 1 << 40

# Our own keys, with their defaults, whose types they have.
OWN: Mapping[str, int | bool] = {
    field.name: getattr(defaults, field.name)
    for defaults in (RaftSettings(), SnapshotSettings())
    for field in fields(defaults)
}
_MAY_BE_ZERO = frozenset(
    (
        "lease_drift_percent",
        "snapshot_trailing_entries",
        "snapshot_trailing_bytes",
        "snapshot_interval_ms",
        "snapshot_send_bytes_per_s",
    )
)
_OF_SNAPSHOTS = frozenset(field.name for field in fields(SnapshotSettings))

# Integers of Nacos that set one of ours directly.
TRANSLATED: Mapping[str, str] = {
    "max_body_size": "append_bytes_max",
    "max_replicator_inflight_msgs": "inflight_messages_max",
    "max_byte_count_per_rpc": "snapshot_chunk_bytes",
}

# Accepted, and why nothing changes.
WITHOUT_EFFECT: Mapping[str, tuple[type[int], str]] = {
    "request_failoverRetries": (int, "clients retry until their deadline"),
    "core_thread_num": (int, "there are no thread pools"),
    "cli_service_thread_num": (int, "there are no thread pools"),
    "rpc_request_timeout_ms": (int, "each request brings its own deadline"),
    "max_entries_size": (int, "appends are limited by bytes, see append_bytes_max"),
    "max_append_buffer_size": (int, "one write gathers what arrived during the last one"),
    "max_election_delay_ms": (int, "the timeout is spread over once to twice its length"),
    "apply_batch": (int, "apply runs in slices of time"),
    "sync_meta": (bool, "term and vote are always synced"),
    "disruptor_buffer_size": (int, "queues are limited by the settings of the node"),
    "enable_log_entry_checksum": (bool, "every entry has a checksum"),
    "strictMode": (bool, "readiness is asked for with status and why"),
}

# Keys with a rule of their own, in _special.
SPECIAL = frozenset(
    (
        "election_heartbeat_factor",
        "replicator_pipeline",
        "read_index_type",
        "snapshot_interval_secs",
        "sync",
    )
)

KNOWN = OWN.keys() | TRANSLATED.keys() | WITHOUT_EFFECT.keys() | SPECIAL


def raft_settings(
    table: Mapping[str, Given], where: str
) -> tuple[RaftSettings, SnapshotSettings, list[str]]:
    """The settings that ``table`` asks for, and a line for each key that has no effect."""
    values: dict[str, Any] = {}
    notices: list[str] = []

    def put(name: str, value: int | bool, key: str) -> None:
        if name in values:
            raise ConfigError(f"{where}: {key} and another key both set {name}")
        values[name] = value

    for key, given in table.items():
        if key in OWN:
            put(key, _own(key, given), key)
        elif key in TRANSLATED:
            put(TRANSLATED[key], integer(given, 1, _MOST), key)
        elif key in WITHOUT_EFFECT:
            kind, reason = WITHOUT_EFFECT[key]
            _ = boolean(given) if kind is bool else integer(given, 0, _MOST)
            notices.append(f"{given.where} has no effect: {reason}")
        elif key not in SPECIAL:
            raise unknown(key, KNOWN, where)
    _refuse(table)
    if "read_index_type" in table:
        given = table["read_index_type"]
        by_lease = one_of(given, ("ReadOnlySafe", "ReadOnlyLeaseBased")) == "ReadOnlyLeaseBased"
        put("lease_reads", by_lease, "read_index_type")
    if "snapshot_interval_secs" in table:
        interval_s = integer(table["snapshot_interval_secs"], 0, _MOST // 1_000)
        put("snapshot_interval_ms", 1_000 * interval_s, "snapshot_interval_secs")
    if "replicator_pipeline" in table and not boolean(table["replicator_pipeline"]):
        put("inflight_messages_max", 1, "replicator_pipeline")
    if "election_heartbeat_factor" in table:
        factor = integer(table["election_heartbeat_factor"], 3, 1_000)
        timeout = values.get("election_timeout_ms", RaftSettings().election_timeout_ms)
        put("heartbeat_ms", max(1, timeout // factor), "election_heartbeat_factor")
    snapshots = {name: values.pop(name) for name in list(values) if name in _OF_SNAPSHOTS}
    try:
        return RaftSettings(**values), SnapshotSettings(**snapshots), notices
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _own(key: str, given: Given) -> int | bool:
    if isinstance(OWN[key], bool):
        return boolean(given)
    return integer(given, 0 if key in _MAY_BE_ZERO else 1, _MOST)


def _refuse(table: Mapping[str, Given]) -> None:
    """What Nacos can be told to do and this version does not."""
    if "sync" in table and not boolean(table["sync"]):
        raise ConfigRefused(
            f"{table['sync'].where}: false would acknowledge writes that a power cut can take back"
        )
