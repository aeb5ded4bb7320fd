"""What a deliberate bug is, and what several of them need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raft import core as core_module
from raft.roles import ROLES

Change = tuple[Any, str, Any]  # (owner, name, replacement)


@dataclass(slots=True, frozen=True)
class Mutant:
    """``what`` names the rule that is broken: the number of a pitfall (docs/pitfalls.md), a section
    of the paper or of the thesis."""

    what: str
    changes: Callable[[], list[Change]]


def handlers(table: dict[type, Any], *roles: int) -> list[Change]:
    """The core's dispatch tables with these handlers instead: in these roles, by default in
    whatever role has one."""
    changed = {
        role: {
            kind: table.get(kind, handler) if role in (roles or ROLES) else handler
            for kind, handler in known.items()
        }
        for role, known in core_module.HANDLERS.items()
    }
    return [(core_module, "HANDLERS", changed)]


def nothing(*_: Any, **__: Any) -> None:
    """What is left of a method that was forgotten."""
