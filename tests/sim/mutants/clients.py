"""Bugs of what clients are told: lies, silence, and writes that happen twice."""

from __future__ import annotations

from typing import Any, Final

from actors import group_admin
from actors.clients import Clients, Gathered
from actors.group import GroupActor
from actors.routing import Pending, Routing
from tests.sim.mutants.mutant import Change, Mutant, nothing
from transport import protocol


def _definite(code: int) -> list[Change]:
    finish = Clients.finish_all

    def sure(
        clients: Clients, messages: Any, which: int, text: str, *, maybe_applied: bool
    ) -> None:
        finish(clients, messages, which, text, maybe_applied=maybe_applied and which != code)

    return [(Clients, "finish_all", sure)]


def _definite_loss() -> list[Change]:
    def sure(routing: Routing, pending: Pending, text: str) -> None:
        routing._finish(pending, protocol.encode_whole(protocol.UNAVAILABLE, text))

    return [(Routing, "_unavailable", sure)]


def _proposed_after_all() -> list[Change]:
    def all_of_them(gathered: Gathered) -> Gathered:
        return gathered

    return [(Gathered, "without_answered", all_of_them)]


def _hand_back_what_is_appended() -> list[Change]:
    def back(actor: GroupActor) -> None:
        appended, actor._appended = actor._appended, {}
        for messages in appended.values():
            for pending in messages:
                if not pending.answered:
                    pending.appended = False
                    actor.clients.unaccept(pending)

    return [(GroupActor, "_step_down", back)]


def _given_twice() -> list[Change]:
    def again(routing: Routing, node: str) -> None:
        lost = routing._forwards.pop(node, {})
        routing._forwards_count -= len(lost)
        for pending in lost.values():
            routing._forward_anywhere(pending, routing.by_group[pending.group])

    return [(Routing, "on_peer_lost", again)]


def _forgotten_command() -> list[Change]:
    place, _ = group_admin._COMMANDS["doSnapshot"]
    commands = {**group_admin._COMMANDS, "doSnapshot": (place, nothing)}
    return [(group_admin, "_COMMANDS", commands)]


MUTANTS: Final[dict[str, Mutant]] = {
    "definite-timeout": Mutant(
        "a time-out is told as a failure (pitfall 52)", lambda: _definite(protocol.TIMEOUT)
    ),
    "definite-step-down": Mutant(
        "who steps down says that nothing happened (pitfall 52)",
        lambda: _definite(protocol.NOT_LEADER),
    ),
    "definite-loss": Mutant("a lost connection is told as a failure (pitfall 52)", _definite_loss),
    "proposed-after-all": Mutant(
        "proposes what was refused for its deadline (pitfall 52)", _proposed_after_all
    ),
    "forgotten-request": Mutant(
        "a command is accepted and never answered (docs/protocol.md)", _forgotten_command
    ),
    "wall-time": Mutant(
        "log time follows the wall clock (docs/protocol.md)",
        lambda: [(GroupActor, "_time_ms", lambda actor, now: actor._wall_ms())],
    ),
    "hand-back-appended": Mutant(
        "what is in the log is handed to the next leader (pitfall 54)", _hand_back_what_is_appended
    ),
    "given-twice": Mutant(
        "a message whose taker is lost is given to another (pitfall 54)", _given_twice
    ),
}
