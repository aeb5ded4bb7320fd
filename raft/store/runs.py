"""The bytes of a run: encoded once by the leader, the same on the wire and on every disk.

    body = msgpack [kind, flags, term, first index, time_ms, wall_ms,
                    [[session, sequence, acknowledged, data], ...]]

One CRC32C covers the body; it travels beside it and is computed once, by :func:`encode_run`.

A run holds at least one entry.  A NOOP has no commands and is one entry; every other kind has one
entry per command.  New fields go at the end of either list and are ignored by who does not know
them; a change of meaning needs a flag, and an unknown flag or kind stops the replica (it is never
skipped).

A CONFIG run is one command, whose data is the msgpack of the members
(:mod:`raft.store.configurations`).

Decoding is total: :func:`decode_run` answers or raises :class:`DamagedRun`, whatever the bytes, and
so does :func:`read_configuration`, which may also raise :class:`~raft.configuration.UnknownPart`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
from google_crc32c import value as crc32c

from raft.configuration import Configuration, UnknownPart
from raft.messages import CONFIG, KINDS, NOOP, Run
from raft.store.configurations import configuration_fields, configuration_of
from raft.store.errors import DamagedRun, UnknownRun

FLAGS_KNOWN = 0
RUN_FIELDS = 7
COMMAND_FIELDS = 4

_packb = msgpack.packb
_unpackb = msgpack.unpackb


@dataclass(slots=True)
class RunBody:
    """A decoded run.  Each command is ``[session, sequence, acknowledged, data]``."""

    kind: int
    flags: int
    term: int
    first: int
    time_ms: int
    wall_ms: int
    commands: list[list[Any]]


def encode_run(
    kind: int,
    term: int,
    first: int,
    *,
    time_ms: int,
    wall_ms: int,
    commands: Sequence[Sequence[Any]],
) -> Run:
    """Build the run whose first entry is ``first``."""
    assert kind in KINDS, kind
    assert (kind == NOOP) == (not commands), (kind, len(commands))
    body: bytes = _packb([kind, FLAGS_KNOWN, term, first, time_ms, wall_ms, commands])
    return Run(kind, term, first, len(commands) or 1, body, crc32c(body))


def decode_run(body: bytes) -> RunBody:
    """The run in ``body``; raises DamagedRun (UnknownRun: a newer version's) and nothing else."""
    try:
        fields = _unpackb(body)
    # msgpack's own exceptions: ValueError and its kin for bad bytes, a RecursionError-like
    # StackError (a ValueError too) for nesting, TypeError for a map with an unhashable key.
    except (ValueError, TypeError) as error:
        raise DamagedRun(f"run body is no msgpack: {error}") from error
    if type(fields) is not list or len(fields) < RUN_FIELDS:
        raise DamagedRun("run body is no list of seven fields")
    kind, flags, term, first, time_ms, wall_ms, commands = fields[:RUN_FIELDS]
    for number in (kind, flags, term, first, time_ms, wall_ms):
        if type(number) is not int or number < 0:
            raise DamagedRun(f"run body has {number!r} where a number belongs")
    if kind not in KINDS:
        raise UnknownRun(f"run of unknown kind {kind}")
    if flags & ~FLAGS_KNOWN:
        raise UnknownRun(f"run with unknown flags {flags:#x}")
    if type(commands) is not list or (kind == NOOP) != (not commands):
        raise DamagedRun(f"run of kind {kind} has the wrong commands")
    for position, command in enumerate(commands):
        if type(command) is not list or len(command) < COMMAND_FIELDS:
            raise DamagedRun(f"command {position} is no list of four fields")
        session, sequence, acknowledged, data = command[:COMMAND_FIELDS]
        if not (
            type(session) is int
            and type(sequence) is int
            and type(acknowledged) is int
            and type(data) is bytes
            and session >= 0
            and sequence >= 0
            and acknowledged >= 0
        ):
            raise DamagedRun(f"command {position} has a field of the wrong type")
    return RunBody(kind, flags, term, first, time_ms, wall_ms, commands)


def check_run(run: Run) -> bool:
    """Are these the bytes that the leader encoded?"""
    return bool(crc32c(run.body) == run.crc)


def open_run(run: Run) -> RunBody:
    """Decode ``run.body`` and hold it against what the run says of itself."""
    body = decode_run(run.body)
    said = (run.kind, run.term, run.first, run.count)
    found = (body.kind, body.term, body.first, len(body.commands) or 1)
    if said != found:
        raise DamagedRun(f"run says (kind, term, first, count) {said}, its body {found}")
    return body


# --------------------------------------------------------------------------- configurations


def encode_configuration(configuration: Configuration) -> bytes:
    body: bytes = _packb(configuration_fields(configuration))
    return body


def encode_configuration_run(
    term: int, first: int, configuration: Configuration, time_ms: int, wall_ms: int
) -> Run:
    """The run that is the one entry ``first``, and nothing but this configuration."""
    data = encode_configuration(configuration)
    commands = [(0, 0, 0, data)]
    return encode_run(CONFIG, term, first, time_ms=time_ms, wall_ms=wall_ms, commands=commands)


def read_configuration(run: Run) -> Configuration:
    """What a CONFIG run says; raises DamagedRun, UnknownPart (a newer version's), nothing else."""
    body = open_run(run)
    if body.kind != CONFIG or len(body.commands) != 1:
        raise DamagedRun(f"run of kind {body.kind} and {len(body.commands)} commands: no CONFIG")
    try:
        return configuration_of(_unpackb(body.commands[0][3]))
    except UnknownPart:
        raise  # no damage: it stops the replica, as an unknown kind does
    except (ValueError, TypeError) as error:
        raise DamagedRun(f"the configuration at {run.first} cannot be read: {error}") from error
