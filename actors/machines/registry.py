"""From the name of a machine kind to a machine: a built-in name or ``package.module:Class``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from actors.machines import Machine
from actors.machines.kv import KeyValueMachine

DECLARED = "declared"  # option of a placed group: this node's operator has named its machine
BUILT_IN: dict[str, Callable[[], Machine]] = {"kv": KeyValueMachine}


class UnknownMachine(ValueError):
    """No such machine kind; the message names it."""


def kind_error(kind: str) -> str | None:
    """Why ``kind`` cannot name a machine anywhere, or None; whether it is here is another thing."""
    if kind in BUILT_IN:
        return None
    module_name, _, class_name = kind.partition(":")
    if class_name.isidentifier() and all(map(str.isidentifier, module_name.split("."))):
        return None
    known = ", ".join(sorted(BUILT_IN))
    return f"no machine kind {kind[:64]!r}; built in: {known}; or package.module:Class"


def make_machine(kind: str) -> Machine:
    """A new, empty machine.  Raises UnknownMachine with one line."""
    make = BUILT_IN.get(kind)
    if make is not None:
        return make()
    trouble = kind_error(kind)
    if trouble is not None:
        raise UnknownMachine(trouble)
    module_name, _, class_name = kind.partition(":")
    try:
        found = getattr(import_module(module_name), class_name)
    except Exception as error:  # a module of a user may raise anything
        raise UnknownMachine(_line(kind, error)) from error
    if not (isinstance(found, type) and issubclass(found, Machine)):
        raise UnknownMachine(f"machine kind {kind!r} is no class derived from Machine")
    try:
        return found()
    except Exception as error:  # and so may its constructor
        raise UnknownMachine(_line(kind, error)) from error


def _line(kind: str, error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"machine kind {kind!r}: {type(error).__name__}: {said}"
