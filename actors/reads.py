"""The reads of one group, from the message that holds them to the machine's answer.

**Bookkeeping.**  ``_gathered`` -> ``_pending`` (by ReadIndex token) -> query of the machine ->
answered.  All reads of one turn and consistency share one token.  Reads that lose their leader were
never accepted: they are handed back.  One that is good by the lease is asked for again, without it,
if the lease is over when the machine's answer comes (pitfall 33).

A message of no reads at all (never a client's) asks for the index alone: what all that was
acknowledged before it was asked is covered by.
"""

from __future__ import annotations

from typing import Any

from actors import machine as machines
from actors.clients import Clients, Pending
from actors.runtime import Clock, Tell
from raft.core import Core
from raft.messages import Read
from transport import protocol

LINEARIZABLE, LEASE, STALE = protocol.LINEARIZABLE, protocol.LEASE, protocol.STALE


class GroupReads:
    """Part of one group actor; ``first_token`` is drawn anew in each life."""

    __slots__ = ("_clients", "_clock", "_core", "_gathered", "_machine", "_pending", "_token")

    def __init__(
        self, core: Core, clients: Clients, clock: Clock, machine: str, first_token: int
    ) -> None:
        self._core = core
        self._clients = clients
        self._clock = clock
        self._machine = machine
        self._gathered: dict[int, list[Pending]] = {}  # by consistency
        self._pending: dict[int, list[Pending]] = {}
        self._token = first_token

    @property
    def is_dirty(self) -> bool:
        return bool(self._gathered)

    def gather(self, pending: Pending, requests: list[Any], consistency: int) -> None:
        """Of a message that is not admitted yet."""
        pending.reads = requests
        self._gathered.setdefault(consistency, []).append(pending)
        self._clients.admit(pending)

    def confirm(self, pending: Pending, values: dict[str, Any]) -> None:
        """The answer to a message that is not admitted yet, when it is certain that nobody else led
        when it came."""
        pending.confirms = values
        self.gather(pending, [], LINEARIZABLE)

    def start(self, now: int) -> None:
        """One token for all reads of the same consistency."""
        gathered, self._gathered = self._gathered, {}
        by_lease = gathered.pop(LEASE, None)
        if by_lease is not None:
            core = self._core
            if core.is_leader and now < core.lease_until_ms:
                for pending in by_lease:
                    pending.by_lease = True
                gathered[LEASE] = by_lease
            else:
                gathered.setdefault(LINEARIZABLE, []).extend(by_lease)
        for mode, reads in gathered.items():
            self._token += 1
            self._pending[self._token] = reads
            self._core.step(Read(self._token, mode), now)

    def query(self, token: int, index: int) -> list[object]:
        """They are good for the state at ``index``: ask the machine."""
        effects: list[object] = []
        for pending in self._pending.pop(token, ()):
            if pending.answered:
                continue
            if not pending.reads:
                values = {"index": index} if pending.confirms is None else pending.confirms
                self._clients.finish_json(pending, values)
                continue
            query = machines.Query(pending, max(index, pending.min_index), pending.reads)
            effects.append(Tell(self._machine, query, control=True))
        return effects

    def fail(self, token: int) -> None:
        """Nobody says for which index they are good."""
        for pending in self._pending.pop(token, ()):
            if not pending.answered:
                self._clients.unaccept(pending)

    def on_answered(self, message: machines.Answered) -> None:
        pending: Pending = message.key
        if pending.answered:
            return
        if pending.by_lease and self._clock.now_ms() >= self._core.lease_until_ms:
            # It was over before the answer could leave, and somebody else may lead.
            pending.by_lease = False
            self._gathered.setdefault(LINEARIZABLE, []).append(pending)
            return
        self._clients.finish_reads(pending, message)
