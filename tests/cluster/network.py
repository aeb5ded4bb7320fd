"""A network for the nodes of one test: each in a namespace of its own, on one bridge.

A packet between two nodes can be dropped without a word, in one direction or both, as a broken
switch does it: no reset, no refusal. The tests themselves stay where they are and reach every
node, so clients of a node that is cut off go on talking to it.

::

    host .254 ---- bridge --+-- veth --- namespace of n1: .1
                            +-- veth --- namespace of n2: .2     blackhole .1/32 in here:
                            +-- veth --- namespace of n3: .3     nothing from n2 reaches n1

Needs root and iproute2; where they are missing, :meth:`Network.why_not` says so.

A process that is killed leaves its network behind, and two bridges with the same subnet would take
each other's packets.  So names tell whose they are, the next one removes what nobody owns any more,
and a subnet is drawn that no interface has.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Final

_NAME: Final = re.compile(r"prt([0-9a-f]+)x[0-9a-f]+")  # its owner's process id, and a number
_numbers = itertools.count()


def _new_name() -> str:
    """Short: an interface has 15 characters, and some are added."""
    return f"prt{os.getpid():x}x{next(_numbers) % 256:x}"


def _free_subnet() -> str:
    """One of a range that is for benchmarks, which no interface of this host is in."""
    shown = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True, check=True)
    free = [it for it in (f"198.18.{i}" for i in range(1, 255)) if f" {it}." not in shown.stdout]
    assert free, "all subnets of 198.18.0.0/16 are in use here"
    return secrets.choice(free)


def _remove_orphans() -> None:
    """What processes that are no more have left: a bridge, its links, and the namespaces."""
    for kind, place in (("link", "/sys/class/net"), ("netns", "/var/run/netns")):
        for name in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            found = _NAME.match(name)
            # One may go with another, or be removed by somebody else at the same time.
            if found and not os.path.exists(f"/proc/{int(found[1], 16)}"):
                subprocess.run(["ip", kind, "del", name], capture_output=True)


class Network:
    """``with Network(3) as network``; hosts are numbered from 1."""

    def __init__(self, hosts: int) -> None:
        self.hosts = range(1, hosts + 1)
        _remove_orphans()
        self._name = _new_name()
        self._subnet = _free_subnet()
        self._blocked: set[tuple[int, int]] = set()

    @staticmethod
    def why_not() -> str:
        """Why there can be no network here; empty if there can."""
        if os.geteuid() != 0:
            return "namespaces need root"
        missing = [name for name in ("ip", "nsenter") if shutil.which(name) is None]
        if missing:
            return f"there is no {' and no '.join(missing)}"
        name = _new_name()
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if made.returncode != 0:
            return f"no namespace can be made: {made.stderr.strip()}"
        bridge = subprocess.run(
            ["ip", "-n", name, "link", "add", name, "type", "bridge"],
            capture_output=True,
            text=True,
        )
        _ip("netns", "del", name)
        return f"no bridge can be made: {bridge.stderr.strip()}" if bridge.returncode else ""

    def address(self, host: int) -> str:
        return f"{self._subnet}.{host}"

    def enter(self, host: int) -> list[str]:
        """What is put before a command to run it on a host."""
        return ["nsenter", f"--net=/var/run/netns/{self._namespace(host)}"]

    def __enter__(self) -> Network:
        try:
            _ip("link", "add", self._name, "type", "bridge")
            _ip("addr", "add", f"{self._subnet}.254/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
            for host in self.hosts:
                self._add(host)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._remove()

    def block(self, source: int, target: int) -> None:
        """Drop what ``source`` sends to ``target``."""
        if (source, target) not in self._blocked:
            self._blocked.add((source, target))
            self._route(source, "add", target)

    def cut(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Drop everything between the two sides."""
        for one, other in itertools.product(some, others):
            self.block(one, other)
            self.block(other, one)

    def heal(self) -> None:
        for source, target in self._blocked:
            self._route(source, "del", target)
        self._blocked.clear()

    # ------------------------------------------------------------------ carried out

    def _namespace(self, host: int) -> str:
        return f"{self._name}-{host}"

    def _link(self, host: int) -> str:
        return f"{self._name}v{host}"

    def _add(self, host: int) -> None:
        namespace, link = self._namespace(host), self._link(host)
        _ip("netns", "add", namespace)
        _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        _ip("link", "set", link, "master", self._name, "up")
        _ip("-n", namespace, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", namespace, "link", "set", device, "up")

    def _route(self, host: int, action: str, target: int) -> None:
        route = ("route", action, "blackhole", f"{self.address(target)}/32")
        _ip("-n", self._namespace(host), *route)

    def _remove(self) -> None:
        """What there is of it."""
        for host in self.hosts:
            # A namespace would take its link along, but lives on while a connection that was cut
            # has not given up.
            if os.path.exists(f"/sys/class/net/{self._link(host)}"):
                _ip("link", "del", self._link(host))
            if os.path.exists(f"/var/run/netns/{self._namespace(host)}"):
                _ip("netns", "del", self._namespace(host))
        if os.path.exists(f"/sys/class/net/{self._name}"):
            _ip("link", "del", self._name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr.strip()}"
