"""What a node is told, and what it answers to a mistake."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest

from actors import config
from actors.config import NodeConfig, dev_configs, from_environment, from_file, node_config
from actors.config_values import ConfigError, ConfigRefused, Given
from actors.raft_keys import KNOWN, OWN, SPECIAL, TRANSLATED, WITHOUT_EFFECT, raft_settings
from actors.settings import SnapshotSettings
from raft.settings import RaftSettings

LINE: Mapping[str, object] = {"id": "n1", "data": "/tmp/n1"}


def given(values: Mapping[str, object], where: str = "--{}") -> dict[str, Given]:
    return {key: Given(value, where.format(key)) for key, value in values.items()}


def node(**line: object) -> NodeConfig:
    return node_config(given({**LINE, **line}), {}, {})


def toml(directory: Path, content: str) -> dict[str, Given]:
    path = directory / "node.toml"
    path.write_text(content)
    return from_file(path)


# --------------------------------------------------------------------------- where values come from


def test_the_least_that_can_be_said_gives_a_cluster_of_one_on_loopback() -> None:
    alone = node()
    assert alone.members == {"n1": "tcp://127.0.0.1:7101"}
    assert (alone.client, alone.peer, alone.events) == (
        "tcp://127.0.0.1:7001",
        "tcp://127.0.0.1:7101",
        "tcp://127.0.0.1:7201",
    )
    assert alone.advertise_client == alone.client
    assert (alone.groups, alone.groups_per_worker, alone.sync) == ({}, 1, True)
    assert alone.raft == RaftSettings()


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(
    tmp_path: Path,
) -> None:
    file = toml(tmp_path, 'groups_per_worker = 3\nlog_level = "error"\nclient = "tcp://[::1]:3"\n')
    environment = from_environment(
        {"POLYRAFT_GROUPS_PER_WORKER": "2", "POLYRAFT_LOG_LEVEL": "debug", "POLYRAFT_PEER": ""}
    )
    line = given({**LINE, "groups_per_worker": "1"})
    merged = node_config(line, environment, file)
    assert (merged.groups_per_worker, merged.log_level, merged.client) == (
        1,
        "debug",
        "tcp://[::1]:3",
    )
    assert node_config(given(LINE), environment, file).groups_per_worker == 2
    assert node_config(given(LINE), {}, file).groups_per_worker == 3


def test_every_place_declares_groups_and_one_place_lists_the_members(tmp_path: Path) -> None:
    file = toml(
        tmp_path,
        '[groups.kv]\nmachine = "kv"\n[groups.own]\nmachine = "shop.machines:Stock"\n'
        '[members]\nn1 = "tcp://127.0.0.1:1"\nn9 = "tcp://127.0.0.1:9"\n',
    )
    line = given({**LINE, "groups": ["own=kv", "more=kv"], "members": ["n1=tcp://127.0.0.1:1"]})
    merged = node_config(line, {}, file)
    assert merged.groups == {"kv": "kv", "own": "kv", "more": "kv"}
    assert merged.members == {"n1": "tcp://127.0.0.1:1"}
    assert set(node_config(given(LINE), {}, file).members) == {"n1", "n9"}


def test_a_strange_variable_beside_us_is_not_ours() -> None:
    assert from_environment({"POLYRAFT_SERVICE_HOST": "10.0.0.1", "HOME": "/root"}) == {}


def test_lists_in_the_environment_are_written_as_on_the_command_line() -> None:
    environment = from_environment(
        {
            "POLYRAFT_GROUPS": "a=kv, b=kv",
            "POLYRAFT_INSECURE": "yes",
            "POLYRAFT_RAFT": "heartbeat_ms=50",
        }
    )
    merged = node_config(given({**LINE, "client": "tcp://10.0.0.1:1"}), environment, {})
    assert merged.groups == {"a": "kv", "b": "kv"}
    assert merged.insecure
    assert merged.raft.heartbeat_ms == 50


def test_the_command_line_of_a_configuration_gives_it_again() -> None:
    from actors import cli

    one = node(
        members="n1=tcp://127.0.0.1:1,n2=tcp://127.0.0.1:2",
        groups="a=kv,b=x.y:Z",
        groups_per_worker="7",
        runtime_dir="/run/x",
        raft="election_timeout_ms=900",
        insecure=True,
        log_level="debug",
    )
    one = dataclasses.replace(one, sync=False)
    namespace = cli._parse(one.arguments())
    again = node_config(cli._given_on(namespace), {}, {}, sync=not namespace.no_sync)
    assert again == one


def test_a_configuration_can_be_handed_to_a_child_process() -> None:
    one = node(groups="a=kv")
    assert ForkingPickler.loads(ForkingPickler.dumps(one)) == one


# --------------------------------------------------------------------------- addresses


def test_the_members_say_where_the_peer_socket_of_this_node_is() -> None:
    one = node(members="n1=tcp://127.0.0.1:71,n2=tcp://127.0.0.1:72")
    assert (one.peer, one.advertise_peer) == ("tcp://127.0.0.1:71", "tcp://127.0.0.1:71")


def test_an_address_that_others_can_reach_is_refused_until_somebody_says_that_it_is_meant() -> None:
    for key in ("client", "peer", "events"):
        for reachable in ("tcp://10.0.0.1:9", "tcp://0.0.0.0:9", "tcp://*:9", "tcp://db1:9"):
            with pytest.raises(ConfigRefused, match=f"--{key}: .* --insecure"):
                node(**{key: reachable})
    opened = node(client="tcp://10.0.0.1:9", insecure=True)
    assert opened.advertise_client == "tcp://10.0.0.1:9"


def test_a_wildcard_is_bound_and_never_told_to_others() -> None:
    with pytest.raises(ConfigError, match="--advertise-client"):
        node(client="tcp://0.0.0.0:9", insecure=True)
    one = node(client="tcp://0.0.0.0:9", advertise_client="tcp://h:9", insecure=True)
    assert (one.client, one.advertise_client) == ("tcp://0.0.0.0:9", "tcp://h:9")
    with pytest.raises(ConfigError, match="nobody can connect"):
        node(members="n1=tcp://0.0.0.0:1", insecure=True)


def test_a_peer_address_that_contradicts_the_members_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="which the members know"):
        node(members="n1=tcp://127.0.0.1:1", advertise_peer="tcp://127.0.0.1:2")


# --------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"id": "n 1"}, "--id: a node id is"),
        ({"id": "n" * 65}, "--id: a node id is"),
        ({"groups_per_worker": "0"}, "--groups_per_worker: must be 1 to 10000, not 0"),
        ({"groups_per_worker": "many"}, "--groups_per_worker: must be an integer, not 'many'"),
        ({"log_level": "loud"}, "--log_level: must be one of debug, info, warning, error"),
        ({"client": "127.0.0.1:7001"}, "--client: .*tcp://"),
        ({"client": "tcp://127.0.0.1:70001"}, "--client: .*65535"),
        ({"client": "tcp://127.0.0.1:7101"}, "three different addresses"),
        ({"members": "n1"}, "'n1' is not node=tcp://host:port"),
        ({"members": "n2=tcp://127.0.0.1:1"}, "n1, this node, is not among the members"),
        ({"members": "n1=tcp://127.0.0.1:1,n1=tcp://127.0.0.1:2"}, "n1 is given twice"),
        ({"members": "n1=tcp://127.0.0.1:1,n2=tcp://127.0.0.1:1"}, "given for two members"),
        ({"groups": "kv"}, "'kv' is not name=machine"),
        ({"groups": ["kv=kv", "kv=kv"]}, "kv is given twice"),
        ({"groups": "_system=kv"}, "names that begin with _ are the system's"),
        ({"groups": "a/b=kv"}, "a group name is 1 to 128"),
        ({"groups": "g" * 129 + "=kv"}, "a group name is 1 to 128"),
        ({"groups": "a=kvv"}, "'kvv' is no machine: kv or package.module:Class"),
        ({"groups": "a=x.y:"}, "is no machine"),
        ({"raft": "heartbeat_ms=400"}, "at least three times heartbeat_ms"),
        ({"raft": "heartbeat_ms=fast"}, "must be an integer"),
        ({"raft": "snapshot_entries=0"}, "must be 1 to"),
        ({"raft": "lease_reads=2"}, "must be true or false"),
    ],
)
def test_a_mistake_is_wrong_usage_and_says_where(line: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        node(**line)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (
            "group_per_worker = 1",
            "node.toml: unknown key group_per_worker, did you mean groups_per_worker",
        ),
        (
            "[raft]\nelection_timeout = 1",
            r"\[raft\]: unknown key election_timeout, did you mean election_timeout_ms",
        ),
        (
            "[groups.kv]\nmachin = 'kv'",
            "node.toml: groups.kv: unknown key machin, did you mean machine",
        ),
        ("[groups.kv]", "groups.kv: machine is missing"),
        ("[groups.kv]\nmachine = 1", "groups.kv.machine: must be text, not 1"),
        ("groups_per_worker = '1.5'", "groups_per_worker: must be an integer"),
        ("groups_per_worker = true", "groups_per_worker: must be an integer, not True"),
        ("insecure = 1", "insecure: must be true or false, not 1"),
        ("client = 7001", "client: must be text"),
        ("members = 3", "members: must be a table"),
        ("[members]\nn1 = 7", "members.n1: must be text"),
        ("raft = [1]", "raft: must be a table"),
        ("[raft]\nsync_meta = 'maybe'", "raft.sync_meta: must be true or false"),
        ("id = ", "node.toml: "),
    ],
)
def test_a_mistake_in_the_file_names_the_key_by_its_table(
    tmp_path: Path, content: str, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint) as caught:
        node_config(given(LINE), {}, toml(tmp_path, content))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        from_file(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        *(
            ({"groups": f"a={kind}"}, "not in this version")
            for kind in ("naming", "switches", "sql", "lock")
        ),
        ({"raft": "sync=false"}, "power cut"),
    ],
)
def test_what_this_version_does_not_do_is_refused(line: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigRefused, match=complaint) as caught:
        node(**line)
    assert caught.value.exit_code == 1


# --------------------------------------------------------------------------- the keys of Nacos


NACOS = {
    "election_timeout_ms": 5000,
    "snapshot_interval_secs": 1800,
    "request_failoverRetries": 3,
    "core_thread_num": 8,
    "cli_service_thread_num": 4,
    "read_index_type": "ReadOnlySafe",
    "rpc_request_timeout_ms": 5000,
    "max_byte_count_per_rpc": 131072,
    "max_entries_size": 1024,
    "max_body_size": 524288,
    "max_append_buffer_size": 262144,
    "max_election_delay_ms": 1000,
    "election_heartbeat_factor": 10,
    "apply_batch": 32,
    "sync": True,
    "sync_meta": False,
    "disruptor_buffer_size": 16384,
    "replicator_pipeline": True,
    "max_replicator_inflight_msgs": 256,
    "enable_log_entry_checksum": False,
    "strictMode": False,
}


def test_every_key_of_nacos_is_understood() -> None:
    settings, snapshots, notices = raft_settings(given(NACOS, "raft.{}"), "[raft]")
    assert settings == RaftSettings(
        election_timeout_ms=5000,
        heartbeat_ms=500,
        append_bytes_max=524288,
        inflight_messages_max=256,
        snapshot_chunk_bytes=131072,
    )
    assert snapshots == SnapshotSettings(snapshot_interval_ms=1_800_000)
    assert len(notices) == len(WITHOUT_EFFECT)
    assert NACOS.keys() - OWN.keys() == KNOWN - OWN.keys()


def test_each_raft_key_has_one_meaning() -> None:
    tables = [frozenset(OWN), frozenset(TRANSLATED), frozenset(WITHOUT_EFFECT), SPECIAL]
    assert sum(map(len, tables)) == len(KNOWN)
    assert set(TRANSLATED.values()) <= OWN.keys()


def test_two_keys_for_one_setting_are_a_contradiction() -> None:
    both = given({"heartbeat_ms": 100, "election_heartbeat_factor": 10})
    with pytest.raises(ConfigError, match="both set heartbeat_ms"):
        raft_settings(both, "[raft]")


def test_no_pipeline_means_one_append_at_a_time() -> None:
    settings, _, _ = raft_settings(given({"replicator_pipeline": False}), "[raft]")
    assert settings.inflight_messages_max == 1


def test_reads_by_lease_are_on_where_nacos_asks_for_them() -> None:
    table = given({"read_index_type": "ReadOnlyLeaseBased"})
    assert raft_settings(table, "[raft]")[0].lease_reads
    assert not raft_settings({}, "[raft]")[0].lease_reads
    both = given({"read_index_type": "ReadOnlySafe", "lease_reads": True})
    with pytest.raises(ConfigError, match="both set lease_reads"):
        raft_settings(both, "[raft]")


def test_settings_of_snapshots_stand_in_the_same_table_and_come_back_from_the_line() -> None:
    raft = "snapshot_entries=50,snapshot_trailing_entries=0,lease_reads=true,follower_reads=yes"
    told = node(raft=raft)
    assert told.snapshots == SnapshotSettings(snapshot_entries=50, snapshot_trailing_entries=0)
    assert told.raft.lease_reads
    assert told.raft.follower_reads
    line = told.arguments()
    again = [line[at + 1] for at, word in enumerate(line) if word == "--raft"]
    settings, snapshots, _ = raft_settings(given(dict(item.split("=") for item in again)), "[raft]")
    assert (settings, snapshots) == (told.raft, told.snapshots)


# --------------------------------------------------------------------------- --dev


def dev(count: int, **line: object) -> list[NodeConfig]:
    ports = list(range(20_000, 20_000 + 3 * count))
    return dev_configs(count, Path("/tmp/dev"), given(line), {}, {}, ports=ports)


def test_a_development_cluster_is_a_list_of_ordinary_nodes() -> None:
    nodes = dev(3)
    assert [it.id for it in nodes] == ["n1", "n2", "n3"]
    assert [it.data for it in nodes] == [Path(f"/tmp/dev/n{i}") for i in (1, 2, 3)]
    assert len({address for it in nodes for address in (it.client, it.peer, it.events)}) == 9
    for it in nodes:
        assert it.members == {other.id: other.peer for other in nodes}
        assert it.groups == {"kv": "kv"}
        assert it == dataclasses.replace(
            node_config(
                given(
                    {
                        "id": it.id,
                        "data": str(it.data),
                        "members": dict(it.members),
                        "client": it.client,
                        "events": it.events,
                        "groups": "kv=kv",
                    }
                ),
                {},
                {},
            )
        )


def test_what_only_one_node_can_be_told_does_not_go_with_dev() -> None:
    for key in set(config.KEYS) - {
        "groups",
        "raft",
        "groups_per_worker",
        "log_level",
        "runtime_dir",
    }:
        with pytest.raises(ConfigError, match=f"--{key}: cannot be given together with --dev"):
            dev(3, **{key: "x"})
    assert dev(1, groups="a=kv", groups_per_worker="9")[0].groups == {"a": "kv"}
