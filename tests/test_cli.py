"""The command line up to the point where something would be started."""

from __future__ import annotations

import random
import socket
import sys
import types
from pathlib import Path

import pytest

from actors import cli
from actors.config import NodeConfig
from actors.config_values import ConfigRefused
from actors.ports import free_loopback_ports, remembered_ports
from actors.version import VERSION


class Started:
    """Stands in for the modules that start something, and remembers what they were given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.configs: list[NodeConfig] = []
        self.data_existed = False
        node = types.ModuleType("actors.node")
        dev = types.ModuleType("actors.dev")
        node.run_node = self.run_node  # type: ignore[attr-defined]
        dev.run_dev = self.run_dev  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "actors.node", node)
        monkeypatch.setitem(sys.modules, "actors.dev", dev)

    def run_node(self, config: NodeConfig) -> int:
        self.configs.append(config)
        return 0

    def run_dev(self, configs: list[NodeConfig]) -> int:
        self.configs += configs
        self.data_existed = configs[0].data.parent.is_dir()
        return 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    for name in ("POLYRAFT_ID", "POLYRAFT_DATA", "POLYRAFT_GROUPS_PER_WORKER"):
        monkeypatch.delenv(name, raising=False)
    return Started(monkeypatch)


def test_a_node_is_started_with_what_the_line_says(started: Started) -> None:
    line = "--id n1 --data /tmp/d --group kv=kv --group b=kv --groups-per-worker=4 --no-sync"
    assert cli.main(line.split()) == 0
    (one,) = started.configs
    assert (one.id, one.groups, one.groups_per_worker, one.sync) == (
        "n1",
        {"kv": "kv", "b": "kv"},
        4,
        False,
    )


def test_a_file_and_the_environment_are_looked_at(
    started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node.toml").write_text('id = "n7"\ndata = "/tmp/d"\ngroups_per_worker = 2\n')
    monkeypatch.setenv("POLYRAFT_GROUPS_PER_WORKER", "64")
    assert cli.main(["--config", str(tmp_path / "node.toml")]) == 0
    assert (started.configs[0].id, started.configs[0].groups_per_worker) == ("n7", 64)


def test_a_development_cluster_without_data_leaves_nothing_behind(started: Started) -> None:
    assert cli.main(["--dev", "3"]) == 0
    assert len(started.configs) == 3
    assert started.data_existed
    assert not started.configs[0].data.parent.exists()


def test_a_development_cluster_with_data_comes_back_under_its_addresses(
    started: Started, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["--dev", "2", "--data", str(tmp_path / "new" / "data")]
    assert cli.main(line) == 0
    assert cli.main(line) == 0
    first, second = started.configs[:2], started.configs[2:]
    assert first == second
    assert (tmp_path / "new" / "data").is_dir()
    assert cli.main(["--dev", "3", *line[2:]]) == 1
    assert "holds a cluster of 2 nodes, not 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "complaint"),
    [
        ("", 2, "--id is needed"),
        ("--id n1", 2, "--data is needed"),
        ("--id", 2, "--id: expected one argument"),
        ("--grops a=kv", 2, "unknown option --grops, did you mean --group?"),
        ("--groups-per-work 1", 2, "did you mean --groups-per-worker?"),
        ("start", 2, "start: there are no arguments without an option"),
        ("--dev 0", 2, "--dev: must be 1 to 9, not 0"),
        ("--dev x", 2, "--dev: must be an integer"),
        ("--dev 3 --id n1", 2, "--id: cannot be given together with --dev"),
        ("--config /nowhere.toml", 2, "/nowhere.toml: No such file"),
        ("--id n1 --data d --join tcp://a:1 --members n1=tcp://b:2", 2, "leave --members away"),
        ("--id n1 --data d --client tcp://0.0.0.0:1", 1, "--insecure"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    started: Started, capsys: pytest.CaptureFixture[str], line: str, code: int, complaint: str
) -> None:
    assert cli.main(line.split()) == code
    output = capsys.readouterr()
    assert complaint in output.err
    assert output.err.startswith("polyraft-node: ")
    assert (output.err.count("\n"), output.out) == (1, "")
    assert not started.configs


def test_help_and_version_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"polyraft {VERSION}\n"
    assert cli.main(["--help"]) == 0
    assert "--no-sync" not in capsys.readouterr().out


# --------------------------------------------------------------------------- ports


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_loopback_ports(9)
    assert len(set(ports)) == 9
    assert all(port < max(lowest, 32_768) for port in ports)


def test_a_port_on_which_somebody_listens_is_not_free() -> None:
    (first,) = free_loopback_ports(1, random.Random(7))
    with socket.create_server(("127.0.0.1", first)):
        assert free_loopback_ports(1, random.Random(7)) != [first]


def test_two_starters_at_once_get_the_same_ports(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    first = remembered_ports(path, 6)
    assert remembered_ports(path, 6) == first
    assert [it.name for it in tmp_path.iterdir()] == ["dev.json"]


def test_a_file_of_ports_that_is_damaged_is_refused(tmp_path: Path) -> None:
    for content in ("", "{}", "[1]", '{"ports": 3}'):
        (tmp_path / "dev.json").write_text(content)
        with pytest.raises(ConfigRefused, match="is not what --dev wrote there"):
            remembered_ports(tmp_path / "dev.json", 3)
