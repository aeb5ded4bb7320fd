"""What one node is told: read from three places, checked once, then never changed.

Precedence, value by value: the command line, then the environment (``POLYRAFT_`` and the key in
capitals), then the TOML file, then the default.  Two tables are special: ``groups`` is the union
of all three places, since each of them *declares* groups; ``members`` is one list, taken whole
from the first place that has one.

An unknown key of the file or the command line is an error.  An unknown ``POLYRAFT_...`` in the
environment is not: orchestrators put variables of their own there (a service called polyraft
gives ``POLYRAFT_SERVICE_HOST`` to every container beside it).

Exit codes, from :mod:`actors.config_values`: 2 for what is wrong as written; 1 for what is well
written and refused: machines that this version has not, and an address that other hosts can reach
while nothing authenticates them and ``--insecure`` does not say that this is meant.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TypedDict

from actors.config_values import (
    ConfigError,
    ConfigRefused,
    Given,
    address,
    boolean,
    group_name,
    integer,
    machine_kind,
    node_id,
    one_of,
    pairs,
    text,
    unknown,
)
from actors.ports import PORTS_PER_NODE
from actors.raft_keys import raft_settings
from actors.settings import GROUPS_DECLARED_MAX, MEMBERS_MAX, SnapshotSettings
from raft.settings import RaftSettings
from transport.addresses import TcpAddress

LOG_LEVELS = ("debug", "info", "warning", "error")
ENVIRONMENT_PREFIX = "POLYRAFT_"

DEFAULT_CLIENT = "tcp://127.0.0.1:7001"
DEFAULT_PEER = "tcp://127.0.0.1:7101"
DEFAULT_EVENTS = "tcp://127.0.0.1:7201"

VALUES = (
    "id",
    "data",
    "client",
    "peer",
    "events",
    "advertise_client",
    "advertise_peer",
    "advertise_events",
    "groups_per_worker",
    "join",
    "insecure",
    "log_level",
    "runtime_dir",
)
TABLES = ("members", "groups", "raft")
KEYS = VALUES + TABLES

Source = Mapping[str, Given]  # key of KEYS -> what one place says


@dataclass(slots=True, frozen=True, kw_only=True)
class NodeConfig:
    """Everything that a node is told.  Plain values: can be handed to a child process."""

    id: str
    data: Path
    client: str = DEFAULT_CLIENT  # where the sockets are bound
    peer: str = DEFAULT_PEER
    events: str = DEFAULT_EVENTS
    advertise_client: str = DEFAULT_CLIENT  # where others reach them
    advertise_peer: str = DEFAULT_PEER
    advertise_events: str = DEFAULT_EVENTS
    members: Mapping[str, str]  # node id -> peer address, this node included
    groups: Mapping[str, str] = field(default_factory=dict)  # name -> machine
    groups_per_worker: int = 1
    join: str | None = None
    insecure: bool = False
    sync: bool = True  # False only for benchmarks: nothing is durable then
    raft: RaftSettings = field(default_factory=RaftSettings)
    snapshots: SnapshotSettings = field(default_factory=SnapshotSettings)
    log_level: str = "info"
    runtime_dir: Path | None = None  # None: where the user's runtime files belong
    notices: tuple[str, ...] = ()  # to be logged once at start

    def arguments(self) -> list[str]:
        """The command line that gives this configuration again, whatever the environment says."""
        line = ["--id", self.id, "--data", str(self.data), "--log-level", self.log_level]
        for name in ("client", "peer", "events"):
            line += [f"--{name}", getattr(self, name)]
            line += [f"--advertise-{name}", getattr(self, f"advertise_{name}")]
        if self.join is None:
            line += ["--members", ",".join(f"{name}={at}" for name, at in self.members.items())]
        else:
            line += ["--join", self.join]
        line += ["--groups-per-worker", str(self.groups_per_worker)]
        for name, machine in self.groups.items():
            line += ["--group", f"{name}={machine}"]
        for settings in (self.raft, self.snapshots):
            for item in fields(settings):
                line += ["--raft", f"{item.name}={getattr(settings, item.name)}"]
        if self.runtime_dir is not None:
            line += ["--runtime-dir", str(self.runtime_dir)]
        line += ["--insecure"] if self.insecure else []
        line += [] if self.sync else ["--no-sync"]
        return line


# --------------------------------------------------------------------------- the three places


def from_file(path: Path) -> dict[str, Given]:
    """The TOML file, with unknown keys refused."""
    try:
        content = path.read_bytes().decode()
        table = tomllib.loads(content)
    except OSError as error:
        raise ConfigError(f"--config: {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config: {path}: {error}") from error
    for key in table:
        if key not in KEYS:
            raise unknown(key, KEYS, path.name)
    return {key: Given(value, f"{path.name}: {key}") for key, value in table.items()}


def from_environment(environment: Mapping[str, str]) -> dict[str, Given]:
    """``POLYRAFT_GROUPS_PER_WORKER`` and the like; an empty variable is as good as none."""
    return {
        key: Given(environment[name], name)
        for key in KEYS
        if environment.get(name := ENVIRONMENT_PREFIX + key.upper())
    }


# --------------------------------------------------------------------------- putting it together


def node_config(
    line: Source, environment: Source, file: Source, *, sync: bool = True
) -> NodeConfig:
    """One node out of what the three places say; raises ConfigError with one line."""
    given = _first_of(line, environment, file)
    name = node_id(_needed(given, "id"))
    data = Path(text(_needed(given, "data")))
    members = _members(given)
    if members and "join" in given:
        raise ConfigError(
            f"{given['join'].where}: who joins a cluster asks it for its members; leave "
            f"{given['members'].where} away"
        )
    if members and name not in members:
        raise ConfigError(f"{given['members'].where}: {name}, this node, is not among the members")
    binds = _binds(given, members.get(name))
    insecure = boolean(given["insecure"]) if "insecure" in given else False
    if not insecure:
        _refuse_open_addresses(binds)
    advertised = _advertised(given, binds, members.get(name))
    raft, snapshots, notices = _raft(line, environment, file)
    return NodeConfig(
        id=name,
        data=data,
        client=str(address(binds["client"])),
        peer=str(address(binds["peer"])),
        events=str(address(binds["events"])),
        advertise_client=str(advertised["client"]),
        advertise_peer=str(advertised["peer"]),
        advertise_events=str(advertised["events"]),
        members=members or {name: str(advertised["peer"])},
        groups=_groups(line, environment, file),
        join=str(address(given["join"])) if "join" in given else None,
        insecure=insecure,
        sync=sync,
        raft=raft,
        snapshots=snapshots,
        notices=tuple(notices),
        **_common(given),
    )


def dev_configs(
    count: int,
    data: Path,
    line: Source,
    environment: Source,
    file: Source,
    *,
    ports: list[int],
    sync: bool = True,
) -> list[NodeConfig]:
    """``--dev``: ``count`` nodes n1, n2, ... of one cluster on loopback, with data under ``data``.

    ``ports`` has PORTS_PER_NODE for each node.  What only one node can be told is refused on the
    command line and in the file, and not looked at in the environment.
    """
    assert len(ports) == PORTS_PER_NODE * count, f"{len(ports)} ports for {count} nodes"
    for place in (line, file):
        for key in place:
            if key not in ("groups", "raft", "groups_per_worker", "log_level", "runtime_dir"):
                raise ConfigError(f"{place[key].where}: cannot be given together with --dev")
    addresses = [f"tcp://127.0.0.1:{port}" for port in ports]
    members = {f"n{i + 1}": addresses[3 * i + 1] for i in range(count)}
    raft, snapshots, notices = _raft(line, environment, file)
    groups = _groups(line, environment, file) or {"kv": "kv"}
    common = _common(_first_of(line, environment, file))
    return [
        NodeConfig(
            id=name,
            data=data / name,
            client=addresses[3 * i],
            peer=addresses[3 * i + 1],
            events=addresses[3 * i + 2],
            advertise_client=addresses[3 * i],
            advertise_peer=addresses[3 * i + 1],
            advertise_events=addresses[3 * i + 2],
            members=members,
            groups=groups,
            sync=sync,
            raft=raft,
            snapshots=snapshots,
            notices=tuple(notices) if i == 0 else (),
            **common,
        )
        for i, name in enumerate(members)
    ]


def _first_of(*places: Source) -> dict[str, Given]:
    return {key: given for place in reversed(places) for key, given in place.items()}


def _needed(given: Source, key: str) -> Given:
    if key not in given:
        raise ConfigError(f"--{key} is needed (or {key} in the file given by --config, or --dev N)")
    return given[key]


class _Common(TypedDict, total=False):
    """What means the same for one node and for ``--dev``."""

    groups_per_worker: int
    log_level: str
    runtime_dir: Path


def _common(given: Source) -> _Common:
    common: _Common = {}
    if "groups_per_worker" in given:
        common["groups_per_worker"] = integer(given["groups_per_worker"], 1, GROUPS_DECLARED_MAX)
    if "log_level" in given:
        common["log_level"] = one_of(given["log_level"], LOG_LEVELS)
    if "runtime_dir" in given:
        common["runtime_dir"] = Path(text(given["runtime_dir"]))
    return common


def _members(given: Source) -> dict[str, str]:
    if "members" not in given:
        return {}
    listed = pairs(given["members"], "node=tcp://host:port")
    if not 1 <= len(listed) <= MEMBERS_MAX:
        raise ConfigError(
            f"{given['members'].where}: 1 to {MEMBERS_MAX} members, not {len(listed)}"
        )
    members: dict[str, str] = {}
    for name, item in listed.items():
        at = address(item)
        if not at.is_connectable:
            raise ConfigError(f"{item.where}: nobody can connect to {at}")
        if str(at) in members.values():
            raise ConfigError(f"{item.where}: {at} is given for two members")
        members[node_id(Given(name, given["members"].where))] = str(at)
    return members


def _binds(given: Source, own_member: str | None) -> dict[str, Given]:
    """Where to bind.  The list of members says where this node's peer socket is expected."""
    return {
        "client": given.get("client", Given(DEFAULT_CLIENT, "--client")),
        "peer": given.get("peer", Given(own_member or DEFAULT_PEER, "--peer")),
        "events": given.get("events", Given(DEFAULT_EVENTS, "--events")),
    }


def _refuse_open_addresses(binds: Mapping[str, Given]) -> None:
    for item in binds.values():
        if not address(item).is_loopback:
            raise ConfigRefused(
                f"{item.where}: {item.value} can be reached by other hosts and nothing "
                "authenticates them; bind to loopback, or say --insecure if the network is trusted"
            )


def _advertised(
    given: Source, binds: Mapping[str, Given], own_member: str | None
) -> dict[str, TcpAddress]:
    """What others are told: by default the address bound, for the peer socket the member's."""
    advertised: dict[str, TcpAddress] = {}
    for name, bind in binds.items():
        own = own_member if name == "peer" else None
        fallback = Given(own, "--members") if own else bind
        item = given.get(f"advertise_{name}", fallback)
        advertised[name] = address(item)
        if not advertised[name].is_connectable:
            raise ConfigError(
                f"{item.where}: nobody can connect to {item.value}, "
                f"say the address for others with --advertise-{name}"
            )
        if own and str(advertised[name]) != own:
            raise ConfigError(f"{item.where}: {item.value} is not {own}, which the members know")
    if len({address(item) for item in binds.values()}) != len(binds):
        raise ConfigError("--client, --peer and --events must be three different addresses")
    return advertised


def _groups(*places: Source) -> dict[str, str]:
    groups: dict[str, str] = {}
    for place in reversed(places):  # the first place has the last word on a group
        if "groups" not in place:
            continue
        for name, item in pairs(place["groups"], "name=machine").items():
            groups[group_name(Given(name, place["groups"].where))] = machine_kind(_machine(item))
    if len(groups) > GROUPS_DECLARED_MAX:
        raise ConfigError(
            f"{len(groups)} groups are declared, at most {GROUPS_DECLARED_MAX} are possible"
        )
    return groups


def _machine(item: Given) -> Given:
    """``name=machine`` has the machine itself; the TOML table of a group has it by key."""
    if isinstance(item.value, str):
        return item
    if not isinstance(item.value, Mapping):
        raise ConfigError(f'{item.where}: must be a table with machine = "kv"')
    for key in item.value:
        if key != "machine":
            raise unknown(str(key), ("machine",), item.where)
    if "machine" not in item.value:
        raise ConfigError(f"{item.where}: machine is missing")
    return Given(item.value["machine"], f"{item.where}.machine")


def _raft(*places: Source) -> tuple[RaftSettings, SnapshotSettings, list[str]]:
    table: dict[str, Given] = {}
    for place in reversed(places):
        if "raft" in place:
            table |= pairs(place["raft"], "key=value")
    return raft_settings(table, "[raft]")
