"""What a client can ask: each call as a request, checked before it is queued, and its result.

Both front ends build their calls here and turn outcomes into results here, so that they cannot
differ in anything but how they wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transport.client import wire
from transport.client.calls import ADMIN, READ, SESSION, WRITE
from transport.client.errors import BadRequest, Busy, PolyraftError, error_of
from transport.client.routes import is_address

# Questions change nothing and may be asked again; every other Admin command may not.
QUESTIONS = frozenset(("status", "why", "metadata", "nodes", "groups"))

# Sequences of a session that may be unanswered at once; a node refuses what is further ahead.
SESSION_WINDOW_MAX = 1_024

CONSISTENCIES: Mapping[str, int] = {
    "linearizable": wire.LINEARIZABLE,
    "lease": wire.LEASE,
    "stale": wire.STALE,
}


@dataclass(slots=True, frozen=True)
class WriteResult:
    """An applied command: the machine's answer and the command's place in the log."""

    data: bytes
    index: int


@dataclass(slots=True, frozen=True)
class ReadResult:
    """A read: the machine's answer and the log index it is good for."""

    data: bytes
    index: int


@dataclass(slots=True)
class Prepared:
    """A request ready to be queued."""

    group: str
    kind: int
    request: bytes
    repeatable: bool
    timeout_ms: int
    address: str = ""


def parse_addresses(addresses: str | Sequence[str]) -> list[str]:
    """The addresses of a client: a list, or one text with commas. ValueError if one is none."""
    parts = addresses.split(",") if isinstance(addresses, str) else list(addresses)
    found = [part.strip() for part in parts if part.strip()]
    if not found:
        raise ValueError("no address given")
    for address in found:
        if not is_address(address):
            raise ValueError(f"not an address: {address!r} (tcp://host:port)")
    return found


def _checked(prepared: Prepared) -> Prepared:
    """Refuse here what every node would refuse, with the same error."""
    if len(prepared.group.encode()) > wire.GROUP_BYTES_MAX:
        raise BadRequest(f"a group name has at most {wire.GROUP_BYTES_MAX} bytes")
    size = len(prepared.request) + wire.REQUEST_OVERHEAD_BYTES_MAX
    if size > wire.BATCH_BYTES_MAX:
        raise BadRequest(f"the request has {size} bytes, the limit is {wire.BATCH_BYTES_MAX}")
    if not 0 < prepared.timeout_ms <= wire.TIMEOUT_MS_MAX:
        raise BadRequest(f"timeout_ms must be 1..{wire.TIMEOUT_MS_MAX}, not {prepared.timeout_ms}")
    if prepared.address and not is_address(prepared.address):
        raise BadRequest(f"not an address: {prepared.address!r}")
    return prepared


def prepare_write(
    group: str,
    operation: str,
    key: str,
    data: bytes,
    *,
    type_name: str,
    extend: Mapping[str, str] | None,
    timeout_ms: int,
    mark: wire.SessionMark | None = None,
) -> Prepared:
    """A write. Only one with a session may be sent again after an attempt without an answer."""
    request = wire.encode_write(operation, key, data, type_name=type_name, extend=extend, mark=mark)
    return _checked(Prepared(group, WRITE, request, mark is not None, timeout_ms))


def prepare_read(
    group: str, data: bytes, *, consistency: str, min_index: int, timeout_ms: int
) -> Prepared:
    """A read."""
    number = CONSISTENCIES.get(consistency)
    if number is None:
        raise BadRequest(f"unknown consistency {consistency!r}: {', '.join(CONSISTENCIES)}")
    request = wire.encode_read(data, consistency=number, min_index=min_index)
    return _checked(Prepared(group, READ, request, True, timeout_ms))


def prepare_admin(
    group: str,
    command: str,
    value: str,
    *,
    options: Mapping[str, str] | None,
    address: str,
    timeout_ms: int,
) -> Prepared:
    """A question to a node or a change of the cluster."""
    request = wire.encode_admin(command, value, options)
    return _checked(Prepared(group, ADMIN, request, command in QUESTIONS, timeout_ms, address))


def prepare_open_session(group: str, session: int, timeout_ms: int) -> Prepared:
    """Open a session or renew one. A repeat at worst leaves a session behind that expires."""
    return _checked(Prepared(group, SESSION, wire.encode_open_session(session), True, timeout_ms))


def prepare_close_session(group: str, session: int, timeout_ms: int) -> Prepared:
    """End a session; closing it twice is harmless."""
    return _checked(Prepared(group, SESSION, wire.encode_close_session(session), True, timeout_ms))


def parse_admin(outcome: wire.Outcome) -> dict[str, Any]:
    """The JSON object an Admin command is answered with; nothing at all counts as {}."""
    if not outcome.data:
        return {}
    try:
        answer = json.loads(outcome.data)
    except ValueError as error:
        raise PolyraftError(f"the answer is no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise PolyraftError("the answer is no JSON object")
    return answer


def outcome_of(verdict: wire.Outcome | PolyraftError) -> wire.Outcome:
    """The OK outcome of a finished call; raises what it failed with."""
    if isinstance(verdict, PolyraftError):
        raise verdict
    if verdict.code != wire.OK:
        raise error_of(verdict, maybe_applied=verdict.maybe_applied)
    return verdict


class Sequences:
    """The numbers of one session's writes.

    `acknowledged` is the highest number up to which every write has ended, one way or another: the
    replicas forget those outcomes, so a write that was given up is never asked for again.
    """

    __slots__ = ("_open", "next_sequence")

    def __init__(self) -> None:
        self.next_sequence = 1
        self._open: dict[int, None] = {}

    @property
    def acknowledged(self) -> int:
        """All numbers up to this one are done with."""
        # Numbers are opened in rising order, and a dict keeps that order.
        oldest = next(iter(self._open), self.next_sequence)
        return oldest - 1

    def start(self, session: int) -> wire.SessionMark:
        """The mark of the next write; Busy when the oldest unanswered one is too far behind."""
        acknowledged = self.acknowledged
        if self.next_sequence > acknowledged + SESSION_WINDOW_MAX:
            raise Busy(f"{SESSION_WINDOW_MAX} writes of this session are unanswered")
        sequence = self.next_sequence
        self.next_sequence += 1
        self._open[sequence] = None
        return wire.SessionMark(session=session, sequence=sequence, acknowledged=acknowledged)

    def end(self, mark: wire.SessionMark) -> None:
        """A write has ended and will not be asked for again."""
        del self._open[mark.sequence]
