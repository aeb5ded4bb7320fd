"""Addresses: ``tcp://`` endpoints as people write them, and where the worker sockets lie.

What may live here: text in, checked values out.  An address is never an identity: nodes are known
by (node id, incarnation), and an address may change (docs/protocol.md).
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import stat
from pathlib import Path
from typing import Final, NamedTuple

ADDRESS_BYTES_MAX: Final = 255
SOCKET_PATH_BYTES_MAX: Final = 100  # sun_path has 108; some room for a suffix

_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")
_WILDCARDS: Final = frozenset(("*", "0.0.0.0", "::"))


class AddressError(ValueError):
    """An address that nobody could bind or connect to; the text says which and why."""


class TcpAddress(NamedTuple):
    """Host without brackets, and port; port 0 is "any" and only good for binding."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port or '*'}"

    @property
    def is_loopback(self) -> bool:
        """Reachable from this machine alone.  A name other than ``localhost`` may mean anything."""
        if self.host == "localhost":
            return True
        literal = _ip(self.host)
        return literal is not None and literal.is_loopback

    @property
    def is_connectable(self) -> bool:
        """Others can connect to it as it stands: neither a wildcard host nor an open port."""
        return self.port != 0 and self.host not in _WILDCARDS


def parse_tcp(text: str) -> TcpAddress:
    """``tcp://host:port``: a name, an IPv4 or a bracketed IPv6 address; ``*`` for any."""
    if not text.startswith("tcp://"):
        raise AddressError(f"{text!r}: an address begins with tcp://")
    if len(text.encode(errors="replace")) > ADDRESS_BYTES_MAX:
        raise AddressError(f"an address of more than {ADDRESS_BYTES_MAX} bytes")
    host, colon, port_text = text[len("tcp://") :].rpartition(":")
    if not colon or not host:
        raise AddressError(f"{text!r}: an address has the form tcp://HOST:PORT")
    if port_text == "*":
        port = 0
    elif port_text.isascii() and port_text.isdigit() and len(port_text) <= 5:
        port = int(port_text)
    else:
        raise AddressError(f"{text!r}: {port_text!r} is no port")
    if port > 65_535:
        raise AddressError(f"{text!r}: ports end at 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        literal = _ip(host)
        if literal is None or literal.version != 6:
            raise AddressError(f"{text!r}: only an IPv6 address stands in brackets")
    elif host != "*" and _ip(host) is None and not _HOST_NAME.fullmatch(host):
        raise AddressError(f"{text!r}: {host!r} is no host")
    elif ":" in host:
        raise AddressError(f"{text!r}: an IPv6 address stands in brackets")
    return TcpAddress(host, port)


def parse_tcp_list(text: str) -> list[TcpAddress]:
    """Addresses with commas between them."""
    return [parse_tcp(part.strip()) for part in text.split(",")]


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def runtime_directory(chosen: str | os.PathLike[str] | None = None) -> Path:
    """The directory of this user's worker sockets, made if missing, with mode 0700.

    The mode is the whole protection of these sockets, so a directory of somebody else, or one that
    others may enter, is refused.
    """
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    user = os.getuid()
    if chosen is not None:
        path = Path(chosen) / "polyraft"
    elif base and os.path.isdir(base) and len(os.fsencode(base)) < SOCKET_PATH_BYTES_MAX - 40:
        path = Path(base) / "polyraft"
    else:
        path = Path("/tmp") / f"polyraft-{user}"
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user:
        raise AddressError(f"{path} is not a directory of this user")
    if status.st_mode & 0o077:
        raise AddressError(f"{path} may be entered by others (mode {status.st_mode & 0o777:o})")
    return path


def runtime_socket_path(
    data_directory: str | os.PathLike[str],
    name: str = "router",
    directory: str | os.PathLike[str] | None = None,
) -> str:
    """Where the router of the node with this DATA listens for its workers.

    A path below DATA may be too long for a socket; a hash of DATA never is.
    """
    real = os.path.realpath(data_directory)
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    path = str(runtime_directory(directory) / f"{digest}-{name}")
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise AddressError(f"{path}: longer than {SOCKET_PATH_BYTES_MAX} bytes")
    return path
