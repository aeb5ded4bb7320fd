"""Addresses as people write them, and the place of the worker sockets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from transport import addresses
from transport.addresses import AddressError, TcpAddress, parse_tcp


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://127.0.0.1:7001", "127.0.0.1", 7001),
        ("tcp://localhost:1", "localhost", 1),
        ("tcp://db-1.example.org:65535", "db-1.example.org", 65535),
        ("tcp://[::1]:7001", "::1", 7001),
        ("tcp://*:7001", "*", 7001),
        ("tcp://127.0.0.1:*", "127.0.0.1", 0),
    ],
)
def test_an_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    address = parse_tcp(text)
    assert address == TcpAddress(host, port)
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:7001",
        "ipc://x",
        "tcp://",
        "tcp://host",
        "tcp://:7001",
        "tcp://host:",
        "tcp://host:70000",
        "tcp://host:-1",
        "tcp://host:12ab",
        "tcp://host:١٢",
        "tcp://ho st:1",
        "tcp://::1:7001",
        "tcp://[127.0.0.1]:1",
        "tcp://[::1:1",
        "tcp://-host:1",
        "tcp://" + "h" * 300 + ":1",
    ],
)
def test_what_is_no_address_is_refused_and_named(text: str) -> None:
    with pytest.raises(AddressError) as error:
        parse_tcp(text)
    assert "address" in str(error.value) or text in str(error.value)


def test_loopback_is_what_only_this_machine_can_reach() -> None:
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        assert TcpAddress(host, 1).is_loopback
    for host in ("10.0.0.1", "0.0.0.0", "*", "::", "example.org", "localhost.example.org"):
        assert not TcpAddress(host, 1).is_loopback


def test_a_wildcard_is_not_connectable() -> None:
    assert TcpAddress("10.0.0.1", 7001).is_connectable
    for address in (TcpAddress("*", 1), TcpAddress("0.0.0.0", 1), TcpAddress("h", 0)):
        assert not address.is_connectable


def test_a_list_names_its_bad_member() -> None:
    assert len(addresses.parse_tcp_list("tcp://a:1, tcp://b:2")) == 2
    with pytest.raises(AddressError, match="nonsense"):
        addresses.parse_tcp_list("tcp://a:1,nonsense")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty runtime directory of a path as short as real ones are."""
    with tempfile.TemporaryDirectory(prefix="pr-", dir="/tmp") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name)


def test_the_socket_path_is_short_and_private_however_long_data_is(
    runtime: Path, tmp_path: Path
) -> None:
    data = tmp_path / ("d" * 200)
    path = addresses.runtime_socket_path(data)
    assert path.startswith(str(runtime))
    assert len(os.fsencode(path)) <= addresses.SOCKET_PATH_BYTES_MAX
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    assert path == addresses.runtime_socket_path(f"{data}/../{data.name}")  # the same directory
    assert path != addresses.runtime_socket_path(tmp_path / "other")


def test_a_runtime_directory_too_deep_for_a_socket_is_not_used(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = runtime / ("d" * 60)
    deep.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(deep))
    path = addresses.runtime_socket_path(tmp_path)
    assert path.startswith(f"/tmp/polyraft-{os.getuid()}/")


def test_a_runtime_directory_that_others_may_enter_is_refused(runtime: Path) -> None:
    (runtime / "polyraft").mkdir()
    (runtime / "polyraft").chmod(0o755)
    with pytest.raises(AddressError, match="others"):
        addresses.runtime_socket_path("/data")


def test_a_runtime_directory_that_is_a_link_is_refused(runtime: Path) -> None:
    (runtime / "elsewhere").mkdir(mode=0o700)
    (runtime / "polyraft").symlink_to(runtime / "elsewhere")
    with pytest.raises(AddressError, match="not a directory of this user"):
        addresses.runtime_directory()


def test_a_chosen_directory_goes_before_the_environment(runtime: Path) -> None:
    chosen = runtime / "chosen"
    chosen.mkdir()
    assert addresses.runtime_directory(chosen) == chosen / "polyraft"
    assert addresses.runtime_socket_path("/data", directory=chosen).startswith(f"{chosen}/")
    deep = runtime / ("d" * 90)
    deep.mkdir()
    with pytest.raises(AddressError, match="longer than 100 bytes"):
        addresses.runtime_socket_path("/data", directory=deep)
