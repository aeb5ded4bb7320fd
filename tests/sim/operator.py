"""Those who are no clients: who runs the cluster, and who looks for leaders of the past.

The **operator** asks for leaders and snapshots, the way that `ctl` does.  Nothing is promised to it
but an answer: a leader that is asked for may not come to be.

The **reader** waits for the moment in which a group has a new leader and somebody else still takes
itself for one, and then reads there: such moments are short, and clients rarely meet one.  What it
is answered does not matter; the checker sees at which index it may read.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from tests.sim.clients import check_calm, check_expected
from tests.sim.plan import Plan
from tests.sim.world import MS, World
from transport.client import wire
from transport.client.kv import encode_get
from transport.client.wire import Outcome

if TYPE_CHECKING:
    from tests.sim.host import Host

IDENTITY: Final = b"operator"
READER: Final = b"reader"
TIMEOUT_MS: Final = 1_000
SILENCE_US: Final = (TIMEOUT_MS + 500) * MS  # then nobody waits any more
AGAIN_US: Final = 50 * MS
READS: Final = 4  # after each election
WHO_IS_NO_MEMBER: Final = wire.BAD_REQUEST  # what it is told about somebody it has named


Then = Callable[[Outcome | None], None]


class Operator:
    def __init__(self, world: World, hosts: Mapping[str, Host]) -> None:
        self._world = world
        self._hosts = hosts
        self._asked: dict[int, tuple[str, int]] = {}  # number -> command, when
        self._thens: dict[int, Then] = {}  # by number
        self._writes: dict[int, str] = {}  # number -> group
        self.unwritten: set[str] = set()  # groups that have not taken a write yet
        self._rng = world.stream("operator")
        self._number = 0
        self.counts: Counter[str] = Counter()

    def ask(self, rng: random.Random, group: str, command: str, value: str) -> None:
        """Of any node that is up; it is handed on to whoever can do it."""
        self.ask_at(rng.choice(list(self._hosts.values())), group, command, value, {})

    def ask_at(
        self,
        host: Host,
        group: str,
        command: str,
        value: str,
        options: Mapping[str, str],
        then: Then | None = None,
    ) -> int:
        """Its number, for :meth:`is_asked`.  ``then`` hears what came of it; None: nothing did."""
        self._number = number = self._number + 1
        batch = wire.join_batch([wire.encode_admin(command, value, options)], TIMEOUT_MS)
        self._asked[number] = command, self._world.now_us
        if then is not None:
            self._thens[number] = then
            self._world.after(SILENCE_US, self._on_silence, number)
        self._world.note("ops", f"asks {host.name}: {command} {group} {value or 'any'}")
        host.take_client_message(IDENTITY, str(number).encode(), group, batch)
        return number

    def _on_silence(self, number: int) -> None:
        then = self._thens.pop(number, None)
        if then is not None:
            del self._asked[number]
            then(None)

    def is_asked(self, number: int) -> bool:
        """It has not been answered."""
        return number in self._asked

    def write(self, group: str) -> None:
        """Again and again until it is taken."""
        self.unwritten.add(group)
        self._number += 1
        self._writes[self._number] = group
        request = wire.encode_write("PUT", "calm", b"", type_name=f"calm.{self._number}")
        host = self._rng.choice(list(self._hosts.values()))
        batch = wire.join_batch([request], TIMEOUT_MS)
        correlation = str(self._number).encode()
        assert host.take_client_message(IDENTITY, correlation, group, batch), "a host is down"

    def write_at(self, host: Host, group: str) -> None:
        """Whatever becomes of it."""
        self._number += 1
        request = wire.encode_write("PUT", "alone", b"", type_name=f"alone.{self._number}")
        host.take_client_message(READER, b"", group, wire.join_batch([request], TIMEOUT_MS))

    def _on_written(self, group: str, payload: bytes) -> None:
        (outcome,) = wire.decode_replies(payload, 1)
        check_expected(f"who writes to {group}", outcome)
        self._world.note("ops", f"hears {wire.CODE_NAMES[outcome.code]}: write {group}")
        if outcome.code == wire.OK:
            self.unwritten.discard(group)
        else:
            self._world.after(AGAIN_US, self.write, group)

    def take_reply(self, correlation: bytes, payload: bytes) -> None:
        group = self._writes.pop(int(correlation), None)
        if group is not None:
            self._on_written(group, payload)
            return
        if int(correlation) not in self._asked:
            return  # nobody waits for it any more
        command, asked_us = self._asked.pop(int(correlation))
        (outcome,) = wire.decode_replies(payload, 1)
        if outcome.code != WHO_IS_NO_MEMBER:
            check_expected(f"who asks for {command}", outcome)
        check_calm(self._world, asked_us, outcome)
        name = wire.CODE_NAMES[outcome.code]
        said = json.loads(outcome.data) if outcome.code == wire.OK else outcome.error_text
        self.counts[f"{command} {name}"] += 1
        self._world.note("ops", f"hears {name}: {command} {said}")
        then = self._thens.pop(int(correlation), None)
        if then is not None:
            then(outcome)


class Reader:
    def __init__(self, world: World, plan: Plan, hosts: Mapping[str, Host]) -> None:
        self._world = world
        self._plan = plan
        self._hosts = hosts
        self._rng = world.stream("reader")
        self.count = 0

    def on_leader(self, group: int) -> None:
        election_us = self._plan.settings.election_timeout_ms * MS
        for _ in range(READS):
            self._world.after(int(self._rng.random() * election_us), self._look, group)

    def _look(self, group: int) -> None:
        plan = self._plan.group(group)
        leading = [
            host
            for host in self._hosts.values()
            if host.is_up and (slot := host.placed(group)) is not None and slot.leads(group)
        ]
        if len(leading) < 2:
            return
        consistency = self._rng.choice((wire.LINEARIZABLE, wire.LEASE))
        read = wire.encode_read(encode_get("k"), consistency=consistency)
        for host in leading:
            self.count += 1
            host.take_client_message(READER, b"", plan.name, wire.join_batch([read], TIMEOUT_MS))
