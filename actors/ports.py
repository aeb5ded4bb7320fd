"""Free ports on loopback, for clusters that live on one machine.

Not taken from the kernel (``bind`` to port 0), and the reason is worth knowing: such a port comes
from the range of ephemeral ports, out of which every outgoing connection draws its own.  Between
our look and the node's ``bind`` any program may get it; and a peer link that tries again and
again to connect to a port of that range on its own machine will, sooner or later, be given
exactly this port as its *source*, and be connected to itself, which keeps the node from ever
binding it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from pathlib import Path

from actors.config_values import ConfigRefused

PORTS_PER_NODE = 3  # client, peer, events

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_EPHEMERAL_DEFAULT = 32_768
_PROBES_MAX = 2_000


def free_loopback_ports(count: int, generator: random.Random | None = None) -> list[int]:
    """Different ports below the ephemeral range on which nobody listens now."""
    draw = generator or random.SystemRandom()
    highest = _ephemeral_first() - 1
    ports: list[int] = []
    for _ in range(_PROBES_MAX):
        port = draw.randint(_LOWEST, highest)
        if port not in ports and _is_free(port):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError(f"no {count} free ports between {_LOWEST} and {highest} on 127.0.0.1")


def _ephemeral_first() -> int:
    try:
        first = int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = _EPHEMERAL_DEFAULT
    return first if first > _LOWEST + 1_000 else _EPHEMERAL_DEFAULT


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def remembered_ports(path: Path, count: int) -> list[int]:
    """The ports that ``path`` holds, drawn and written there the first time.

    So that a development cluster comes back under the addresses that its clients know.  Whoever
    links the file into place first has drawn for everybody: two starters at once get the same
    ports.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{os.getpid()}")
        aside.write_text(json.dumps({"ports": free_loopback_ports(count)}))
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
    try:
        ports = json.loads(path.read_text())["ports"]
        valid = [port for port in ports if type(port) is int and 1 <= port <= 65_535]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigRefused(f"{path}: is not what --dev wrote there: {error!r}") from error
    if len(valid) != count:
        raise ConfigRefused(
            f"{path.parent} holds a cluster of {len(valid) // PORTS_PER_NODE} nodes, "
            f"not {count // PORTS_PER_NODE}"
        )
    return valid
