"""What the catalog says of nodes and of members: rows, and the commands that change them.

Part of the machine of ``_system`` (:mod:`actors.catalog`); pure functions of its two tables and one
command each, so that every replica makes the same of it.

**A node's row**: ``id``, ``incarnation`` (of the disk that counts at present), where it is reached
(``client``, ``peer``, ``events``), ``awaits`` (its disk may be taken over by a new one, once:
``awaited``, or whichever comes first if that is 0), ``past`` (incarnations of disks that have had
this name: never again), ``removed``, and ``version``,
the index of the entry that changed it last.  Rows travel between nodes, and the higher version
counts; so a row is never deleted, for an old one could come back.

**A group's row** has the members that are *wanted*: ``members`` vote, ``learners`` do not.  What
the members *are* says the group's own log, and its leader makes the one follow the other
(:mod:`actors.group_members`).  ``founders`` are those with whom the group's log begins;
``version`` is the index of the entry that changed what is wanted.

A member is wanted as a *disk*, ``[node, incarnation]``.  Which of its lives (:mod:`raft.lives`) is
the replica is the business of that disk and of the group's log.

Everything is idempotent: a command that finds what it asks for changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgpack

from actors.machines import Context, Response

MEMBERS_MAX: Final = 64  # of one group
PAST_MAX: Final = 64  # disks of one node that are remembered; the oldest is forgotten
NODES_MAX: Final = 256  # of a cluster, those that were removed included

Row = dict[str, Any]
Pair = list[Any]  # [node, incarnation]


def node_row(node: str, incarnation: int, version: int = 0) -> Row:
    """A node of which nothing else is known yet."""
    return {
        "id": node,
        "incarnation": incarnation,
        "client": None,
        "peer": None,
        "events": None,
        "awaits": False,
        "awaited": 0,
        "past": [],
        "removed": False,
        "version": version,
    }


def group_row(index: int, name: str, machine: str, members: list[Pair]) -> Row:
    return {
        "id": index,
        "name": name,
        "machine": machine,
        "members": members,
        "learners": [],
        "founders": members,
        "version": index,
    }


def complete_node(row: Row) -> Row:
    """One that an earlier version wrote."""
    return {**node_row(row["id"], row["incarnation"]), **row}


def complete_group(row: Row) -> Row:
    return {**group_row(row["id"], row["name"], row["machine"], row["members"]), **row}


def living(nodes: Mapping[str, Row]) -> list[Row]:
    """Those that are part of the cluster, by name."""
    return [row for _, row in sorted(nodes.items()) if not row["removed"]]


def system_members(nodes: Mapping[str, Row]) -> list[Pair]:
    """Who is to vote in ``_system``: every node."""
    return [[row["id"], row["incarnation"]] for row in living(nodes)]


def system_version(nodes: Mapping[str, Row]) -> int:
    return max((int(row["version"]) for row in nodes.values()), default=0)


# ------------------------------------------------------------------------------------------- nodes


def replace_node(nodes: dict[str, Row], node: str, wanted: Row, context: Context) -> Response:
    """``{"incarnation"}``: the new disk that is the node's disk; 0: the next one that says so."""
    incarnation = wanted.get("incarnation", 0)
    if type(incarnation) is not int or incarnation < 0:
        return Response.refuse("the incarnation is no number")
    row = nodes.get(node)
    if row is None or row["removed"]:
        return Response.refuse(f"{node[:64]!r} is no node of this cluster")
    if incarnation in (row["incarnation"], *row["past"]):
        return Response.refuse(f"that disk of {node} is not a new one")
    if (row["awaits"], row["awaited"]) != (True, incarnation):
        row.update(awaits=True, awaited=incarnation, version=context.index)
        context.emit("node", row)
    return Response(msgpack.packb({"node": node}))


def remove_node(
    nodes: dict[str, Row], groups: Mapping[str, Row], node: str, context: Context
) -> Response:
    """It leaves the cluster; whoever is to come under this name must join."""
    row = nodes.get(node)
    if row is None:
        return Response.refuse(f"{node[:64]!r} is no node of this cluster")
    if row["removed"]:
        return Response(msgpack.packb({"node": node}))
    holding = [name for name, group in sorted(groups.items()) if node in node_names(group)]
    if holding:
        more = "" if len(holding) <= 3 else f" and {len(holding) - 3} more"
        text = f"{node} is to have replicas of {', '.join(holding[:3])}{more}; remove those first"
        return Response.refuse(text)
    if len(living(nodes)) == 1:
        return Response.refuse(f"{node} is the only node of this cluster")
    _retire(row)
    row.update(removed=True, awaits=False, awaited=0, version=context.index)
    context.emit("node", row)
    return Response(msgpack.packb({"node": node}))


def admit_node(
    nodes: dict[str, Row],
    groups: Mapping[str, Row],
    node: str,
    wanted: Row,
    addresses: Iterable[str],
    context: Context,
) -> Response:
    """``{"incarnation", "client", "peer", "events", "joins"}``: a blank disk wants to be ``node``.

    In all that is wanted, the new disk takes the place of the old one, in this very entry: no group
    can be forgotten, whoever dies next.
    """
    row = nodes.get(node)
    incarnation = wanted.get("incarnation")
    if not isinstance(incarnation, int) or incarnation <= 0:
        return Response.refuse("the incarnation is missing")
    if row is not None and incarnation in row["past"]:
        return Response.refuse(f"this disk of {node} was replaced, and can never be used again")
    if row is not None and not row["removed"] and incarnation != row["incarnation"]:
        if not row["awaits"]:
            return Response.refuse(f"the disk of {node} is new; replace the node")
        if row["awaited"] not in (0, incarnation):
            return Response.refuse(f"another disk of {node} is awaited, {row['awaited']:016x}")
        _exchange(groups, node, incarnation, context)
        _retire(row)
    elif row is None or row["removed"]:
        if not wanted.get("joins"):
            return Response.refuse(f"{node[:64]!r} is no member of this cluster")
        if row is None and len(nodes) >= NODES_MAX:
            return Response.refuse(f"the cluster has had {NODES_MAX} nodes already")
        row = nodes.setdefault(node, node_row(node, incarnation))
    changes = {
        "incarnation": incarnation,
        "awaits": False,
        "awaited": 0,
        "removed": False,
        **{name: wanted[name] for name in addresses},
    }
    if any(row[key] != value for key, value in changes.items()) or not row["version"]:
        row.update(changes, version=context.index)
        context.emit("node", row)
    return Response(msgpack.packb({"node": node}))


def _retire(row: Row) -> None:
    """The disk that has counted counts no more."""
    row["past"] = [*row["past"], row["incarnation"]][-PAST_MAX:]


def _exchange(groups: Mapping[str, Row], node: str, incarnation: int, context: Context) -> None:
    for _, group in sorted(groups.items()):
        if node in node_names(group):
            for key in ("members", "learners"):
                group[key] = [
                    [node, incarnation] if pair[0] == node else pair for pair in group[key]
                ]
            group["version"] = context.index
            context.emit("group", group)


# ----------------------------------------------------------------------------------------- members


def node_names(group: Row) -> set[str]:
    """All nodes that are to have a replica."""
    return {pair[0] for pair in group["members"] + group["learners"]}


def set_members(
    nodes: Mapping[str, Row], group: Row | None, name: str, wanted: Row, context: Context
) -> Response:
    """``{"voters": [node...], "learners": [node...], "if_version"}``: what is wanted from now on.

    A node that has a replica keeps it; on the others there is to be one of the disk that counts.
    Answers what is wanted now: ``{"voters": [[node, incarnation hex]...], "learners", "version"}``.
    """
    if group is None:
        return Response.refuse(f"there is no group {name[:140]!r}")
    voters, learners = _names(wanted.get("voters")), _names(wanted.get("learners", []))
    if voters is None or learners is None or not voters:
        return Response.refuse("name the nodes that are to vote, at least one")
    both = sorted(set(voters) & set(learners))
    if both:
        return Response.refuse(f"{both[0][:64]!r} cannot vote and be a learner at once")
    if len(voters) + len(learners) > MEMBERS_MAX:
        return Response.refuse(f"a group has at most {MEMBERS_MAX} members")
    if_version = wanted.get("if_version")
    if if_version is not None and if_version != group["version"]:
        return Response.refuse("what is wanted has changed meanwhile")
    present = {pair[0]: pair for pair in group["members"] + group["learners"]}
    pairs: dict[str, Pair] = {}
    for node in voters + learners:
        row = nodes.get(node)
        if node in present:
            pairs[node] = present[node]
        elif row is None or row["removed"]:
            return Response.refuse(f"{node[:64]!r} is no node of this cluster")
        elif not row["peer"]:
            return Response.refuse(f"the address of {node} is not known: it has never registered")
        elif row["awaits"]:
            return Response.refuse(f"the disk of {node} is to be replaced, and the new one awaited")
        else:
            pairs[node] = [node, row["incarnation"]]
    _want(group, [pairs[it] for it in voters], [pairs[it] for it in learners], context)
    return Response(msgpack.packb(shown_members(group)))


def _want(group: Row, voters: list[Pair], learners: list[Pair], context: Context) -> None:
    voters, learners = sorted(voters), sorted(learners)
    if (group["members"], group["learners"]) != (voters, learners):
        group.update(members=voters, learners=learners, version=context.index)
        context.emit("group", group)


def shown_members(group: Row) -> Row:
    return {
        "voters": shown_pairs(group["members"]),
        "learners": shown_pairs(group["learners"]),
        "version": group["version"],
    }


def shown_pairs(pairs: Iterable[Pair]) -> list[Pair]:
    """Numbers of 64 bits do not survive every reader of JSON."""
    return [[node, f"{incarnation:016x}"] for node, incarnation in pairs]


def _names(value: object) -> list[str] | None:
    """Each once, sorted; None for what is no list of texts."""
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        return None
    return sorted(set(value))
