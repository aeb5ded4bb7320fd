"""Single values of the configuration: from text to a typed value, and how mistakes are reported.

What may live here: checks of one value.  Relations between values belong to :mod:`actors.config`.

Every value travels with ``where``, the place that it came from, in the words of who wrote it
(``--groups-per-worker``, ``POLYRAFT_GROUPS_PER_WORKER``, ``node.toml: groups_per_worker``), so
that a message names the place to change.  Messages are one line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from actors.machines.registry import BUILT_IN
from actors.settings import NODE_ID_BYTES_MAX
from transport.addresses import AddressError, TcpAddress, parse_tcp
from transport.frames import GROUP_BYTES_MAX


class ConfigError(Exception):
    """Wrong usage: the command line or a file must be changed.  One line, exit code 2."""

    exit_code = 2


class ConfigRefused(ConfigError):
    """Well-formed, and understood, and not done: exit code 1."""

    exit_code = 1


class Given(NamedTuple):
    """A value as somebody wrote it, and where."""

    value: object
    where: str


MACHINES = frozenset(BUILT_IN)
MACHINES_TO_COME = frozenset(("naming", "switches", "sql", "lock"))

_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_MACHINE_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_TRUTH: Mapping[str, bool] = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}


def unknown(key: str, known: Iterable[str], where: str) -> ConfigError:
    """The error for a key that nobody knows: says the nearest one that somebody does."""
    close = difflib.get_close_matches(key.lower().replace("-", "_"), sorted(known), n=1, cutoff=0.5)
    hint = f", did you mean {close[0]}?" if close else f" (known: {', '.join(sorted(known))})"
    return ConfigError(f"{where}: unknown key {key}{hint}")


# --------------------------------------------------------------------------- plain types


def text(given: Given) -> str:
    if not isinstance(given.value, str) or not given.value:
        raise ConfigError(f"{given.where}: must be text, not {given.value!r}")
    if not given.value.isprintable():
        raise ConfigError(f"{given.where}: {given.value!r} holds unprintable characters")
    return given.value


def integer(given: Given, least: int, most: int) -> int:
    """From TOML an integer; from the command line and the environment its digits."""
    value = given.value
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{given.where}: must be an integer, not {given.value!r}")
    if not least <= value <= most:
        raise ConfigError(f"{given.where}: must be {least} to {most}, not {value}")
    return value


def boolean(given: Given) -> bool:
    """From TOML true or false; from the environment also 1, 0, yes, no, on, off."""
    if isinstance(given.value, bool):
        return given.value
    if isinstance(given.value, str) and given.value.lower() in _TRUTH:
        return _TRUTH[given.value.lower()]
    raise ConfigError(f"{given.where}: must be true or false, not {given.value!r}")


def one_of(given: Given, choices: Iterable[str]) -> str:
    value = text(given)
    if value not in choices:
        raise ConfigError(f"{given.where}: must be one of {', '.join(choices)}, not {value!r}")
    return value


def pairs(given: Given, what: str) -> dict[str, Given]:
    """``a=1,b=2`` (from text or from several texts) or a TOML table, as a mapping."""
    value = given.value
    if isinstance(value, Mapping):
        return {str(key): Given(item, f"{given.where}.{key}") for key, item in value.items()}
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise ConfigError(f"{given.where}: must be a table, not {value!r}")
    result: dict[str, Given] = {}
    for item in (part.strip() for text_ in items for part in text_.split(",")):
        name, equals, rest = item.partition("=")
        if not equals or not name or not rest:
            raise ConfigError(f"{given.where}: {item!r} is not {what}")
        if name in result:
            raise ConfigError(f"{given.where}: {name} is given twice")
        result[name] = Given(rest, given.where)
    return result


# --------------------------------------------------------------------------- names


def node_id(given: Given) -> str:
    value = text(given)
    if not _NAME.fullmatch(value) or len(value) > NODE_ID_BYTES_MAX:
        raise ConfigError(
            f"{given.where}: a node id is 1 to {NODE_ID_BYTES_MAX} of A-Z a-z 0-9 . _ -, "
            f"not {value!r}"
        )
    return value


def group_name(given: Given) -> str:
    value = text(given)
    if not _NAME.fullmatch(value) or len(value) > GROUP_BYTES_MAX:
        raise ConfigError(
            f"{given.where}: a group name is 1 to {GROUP_BYTES_MAX} of A-Z a-z 0-9 . _ -, "
            f"not {value!r}"
        )
    if value.startswith("_"):
        raise ConfigError(f"{given.where}: {value}: names that begin with _ are the system's")
    return value


def machine_kind(given: Given) -> str:
    """A built-in name or ``package.module:Class``; the class is loaded by the worker, not here."""
    value = text(given)
    if value in MACHINES or _MACHINE_CLASS.fullmatch(value):
        return value
    if value in MACHINES_TO_COME:
        raise ConfigRefused(f"{given.where}: machine {value} is not in this version")
    raise ConfigError(
        f"{given.where}: {value!r} is no machine: {', '.join(sorted(MACHINES))} or "
        "package.module:Class"
    )


# --------------------------------------------------------------------------- addresses


def address(given: Given) -> TcpAddress:
    try:
        return parse_tcp(text(given))
    except AddressError as error:
        raise ConfigError(f"{given.where}: {error}") from error
