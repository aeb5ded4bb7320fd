"""``ctl recover GROUP``: when the majority of a group's disks is lost for good.

What it does, in this order:

1. asks every node given with --connect what its replica has;
2. refuses where nothing is lost: somebody leads, or a majority of the voters answers;
3. proposes the replica whose last entry is the newest, by (term, index), as an election would, and
   says who is left, who is given up, and what may be lost;
4. has the name of the group typed in, or given with --yes;
5. has that replica replace the configuration by the voters that are left (``resetPeers``), waits
   until it leads, and shows what has become of it.

The new configuration is an entry of the log, with its time; `ctl wal dump` shows it. Nobody can
find out what the lost disks had: all that was acknowledged is on *some* majority, and that may have
been one without those who are left. Where a majority of the lost nodes comes back after all, there
are two histories of one group (docs/raft.md). One that comes back alone becomes a new replica
(docs/operations.md).
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from transport.client.blocking import Client
from transport.client.ctl import (
    EXIT_DONE,
    Commands,
    CtlError,
    Options,
    add_command,
    show_json,
    show_table,
    text_of,
)
from transport.client.errors import PolyraftError, Rejected
from transport.client.fleet import pause

RESET_MS: Final = 30_000  # for the election that follows
ASK_MS_MAX: Final = 3_000  # a node answers both questions within one second, or not at all
ASK_THREADS_MAX: Final = 8

USABLE: Final = frozenset(("running", "starting", "read_only", "quarantined"))  # states
COLUMNS: Final = (
    *("node", "state", "role", "term", "last_term", "last_index", "commit_index"),
    *("applied_index", "digest", "error"),
)


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """The command of this file."""
    recover = add_command(
        commands,
        "recover",
        do_recover,
        "group",
        text="when the majority is lost: let those who are left go on alone",
    )
    recover.add_argument("--plan", action="store_true", help="show what would be done, and end")
    recover.add_argument("--yes", metavar="GROUP", help="the name again, instead of typing it in")
    recover.add_argument(
        "--force",
        action="store_true",
        help="whatever is heard, and without _system",
    )


@dataclass(slots=True)
class Replica:
    """What one node says. ``metadata`` is empty where it does not answer."""

    address: str
    node: str | None
    metadata: dict[str, Any]
    error: str | None = None

    @property
    def is_usable(self) -> bool:
        has_log = self.metadata.get("last_index") is not None
        return has_log and self.metadata.get("state") in USABLE

    @property
    def newest(self) -> tuple[int, int, int, str]:
        """By which the best one is the largest: last entry, what is known to be committed."""
        known = self.metadata
        numbers = [known.get(key) or 0 for key in ("last_term", "last_index", "commit_index")]
        return (numbers[0], numbers[1], numbers[2], self.node or "")

    @property
    def voters(self) -> set[str]:
        members = self.metadata.get("members") or []
        return {str(each["id"]) for each in members if each.get("voter")}

    def row(self) -> list[object]:
        known = {**self.metadata, "node": self.node or self.address}
        known["error"] = self.error or known.get("error")
        return [known.get(column) for column in COLUMNS]


@dataclass(slots=True)
class Plan:
    group: str
    replicas: list[Replica]
    best: Replica
    voters: list[str]  # who is left
    given_up: list[str]

    def values(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "group": self.group,
            "replicas": [
                dict(zip(COLUMNS, replica.row(), strict=True)) for replica in self.replicas
            ],
            "proposed": self.best.node,
            "voters": self.voters,
            "given_up": self.given_up,
        }


def do_recover(client: Client, options: Options) -> int:
    # Some of them do not answer, and each would be waited for.
    with ThreadPoolExecutor(ASK_THREADS_MAX) as threads:
        ask_ms = min(ASK_MS_MAX, options.timeout_ms)
        asked = partial(_ask, client, options.group, ask_ms)
        replicas = list(threads.map(asked, options.addresses))
    plan = make_plan(options.group, replicas, force=options.force)
    if not options.json:
        _show(plan)
    if options.plan:
        if options.json:
            show_json(plan.values())
        return EXIT_DONE
    _confirm(options)
    _reset(client, options, plan)
    after = _wait_until_led(client, options, plan)
    if options.json:
        show_json({**plan.values(), "leader": after["leader"], "term": after["term"]})
    else:
        print(
            f"{plan.group}: {after['leader']} leads in term {after['term']}; members "
            f"{text_of(after['members'])}; index {after['last_index']}"
        )
    return EXIT_DONE


def _ask(client: Client, group: str, ask_ms: int, address: str) -> Replica:
    try:
        status = client.admin("", "status", address=address, timeout_ms=ask_ms)
        metadata = client.admin(group, "metadata", address=address, timeout_ms=ask_ms)
    except PolyraftError as error:
        return Replica(address, None, {}, str(error))
    node = status.get("node")
    return Replica(address, None if node is None else str(node), metadata)


def make_plan(group: str, replicas: list[Replica], *, force: bool) -> Plan:
    """Raises CtlError where there is nothing to recover, or nothing to recover it from."""
    usable = [each for each in replicas if each.is_usable]
    if not usable:
        reasons = "; ".join(
            f"{each.node or each.address}: {each.error or each.metadata.get('error') or 'no log'}"
            for each in replicas
        )
        raise CtlError(f"no replica of {group} is left to recover from ({reasons})")
    leaders = {each.metadata["leader"] for each in usable if each.metadata.get("leader")}
    if leaders and not force:
        raise CtlError(f"{group} has a leader, {', '.join(sorted(leaders))}: nothing is lost")
    best = max(usable, key=lambda each: each.newest)
    all_voters = best.voters
    left = sorted(each.node for each in usable if each.node in all_voters and each.node)
    if 2 * len(left) > len(all_voters) and not force:
        raise CtlError(
            f"{len(left)} of {len(all_voters)} voters of {group} answer: that is a majority, and "
            "it will elect a leader; ask `why` what it waits for"
        )
    if best.node not in left:
        raise CtlError(f"{best.node} has the newest log of {group} and does not vote in it")
    return Plan(group, replicas, best, left, sorted(all_voters - set(left)))


def _show(plan: Plan) -> None:
    show_table(COLUMNS, [replica.row() for replica in plan.replicas])
    best = plan.best
    print(f"newest: {best.node}, whose last entry is {best.newest[1]} of term {best.newest[0]}")
    print(f"left as the voters of {plan.group}: {', '.join(plan.voters)}")
    if plan.given_up:
        names = ", ".join(plan.given_up)
        print(f"given up for good: {names}. What only they have is lost, also if they come back.")
    print(
        "Whatever was acknowledged and is on none of the replicas above is lost: at worst all "
        f"behind index {best.metadata.get('commit_index')}, which is known to be committed."
    )


def _confirm(options: Options) -> None:
    typed = options.yes
    if typed is None:
        print(f"Type the name of the group ({options.group}) to do this: ", end="", flush=True)
        typed = sys.stdin.readline().strip()
    if typed != options.group:
        raise CtlError(f"not confirmed: {typed!r} is not {options.group!r}; nothing was changed")


def _reset(client: Client, options: Options, plan: Plan) -> None:
    more = {"force": "true"} if options.force else {}
    deadline_s = time.monotonic() + RESET_MS / 1_000
    while True:
        try:
            client.admin(
                plan.group,
                "resetPeers",
                ",".join(plan.voters),
                more,
                address=plan.best.address,
                timeout_ms=RESET_MS,
            )
            return
        except Rejected as error:
            # It wants to be sure that no leader is there, and has run for too short a time.
            if "a moment ago" not in str(error) or time.monotonic() >= deadline_s:
                raise
        pause()


def _wait_until_led(client: Client, options: Options, plan: Plan) -> dict[str, Any]:
    deadline_s = time.monotonic() + max(RESET_MS, options.timeout_ms) / 1_000
    while True:
        after = client.admin(plan.group, "metadata", address=plan.best.address)
        if after.get("leader"):
            return after
        if time.monotonic() >= deadline_s:
            raise CtlError(f"{plan.group} was reset on {plan.best.node}, and nobody leads yet")
        pause()
