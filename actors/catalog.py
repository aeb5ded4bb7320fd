"""The catalog: which nodes and which groups a cluster has.  The machine of the group ``_system``.

It is an ordinary state machine of an ordinary group; what is special is who listens: every node
applies the same entries and brings its local groups into line with them.  The **group id** is
the index of the entry that created the group, so it is unique for ever without any counter.

Commands (``operation``, key, msgpack data):

* ``REGISTER_NODE``, node id, ``{"incarnation", "client", "peer", "events"}``: where a node can be
  reached.  Refused for a node that is no member, and for another disk under a member's name.
* ``CREATE_GROUP``, group name, ``{"machine"}``: answers ``{"id", "created"}``.  Creating what is
  there already with the same machine is no error; that is how ``--group`` on every node is
  safe.
* ``SET_MEMBERS``, ``REPLACE_NODE``, ``ADMIT_NODE``, ``REMOVE_NODE``: who is to
  be a member of what, and which disks are which nodes (:mod:`actors.catalog_members`).
* ``RESTORE_GROUP``, group name, ``{"machine", "restore"}``: the same for a group that begins as
  what a backup held (:mod:`actors.restores`). An operation of its own, since a version that does
  not know it must not make an empty group of it.

Reads: data is ``b"nodes"``, ``b"groups"``, or a JSON list of group names, of which those that
exist are answered; the answer is JSON.

**Snapshots.**  A stream of msgpack: ``[format, nodes, groups]``, both counts, then that many maps,
nodes by name and groups by id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from zlib import crc32

import msgpack

from actors import catalog_members as rules
from actors.beginnings import members_in, meta_in
from actors.machines import Context, Machine, ReadRequest, Response, WriteRequest

SYSTEM_GROUP = "_system"
SYSTEM_GROUP_ID = 1
GROUPS_MAX = 10_000  # groups of a cluster; CREATE_GROUP is refused beyond
GROUP_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")
MACHINE_NAME_BYTES_MAX = 256
ADDRESS_BYTES_MAX = 256
ADDRESSES = ("client", "peer", "events")
SNAPSHOT_FORMAT = 1
SNAPSHOT_CHUNK_BYTES = 128 << 10


def node_name_error(name: str) -> str | None:
    """Why ``name`` cannot name a node, or None."""
    if not GROUP_NAME.match(name):
        return f"{name[:140]!r} is no node id: 1 to 128 of A-Z a-z 0-9 . _ -"
    return None


def group_name_error(name: str) -> str | None:
    """Why ``name`` cannot name a user's group, or None."""
    if not GROUP_NAME.match(name):
        return f"{name[:140]!r} is no group name: 1 to 128 of A-Z a-z 0-9 . _ -"
    if name.startswith("_"):
        return f"{name!r}: names that begin with _ are the system's"
    return None


class _View:
    """Copies of all rows: a node's row changes in place."""

    __slots__ = ("_groups", "_nodes")

    def __init__(self, nodes: list[dict[str, Any]], groups: list[dict[str, Any]]) -> None:
        self._nodes = nodes
        self._groups = groups

    def write(self, sink: Callable[[bytes], None]) -> None:
        chunk: bytes = msgpack.packb([SNAPSHOT_FORMAT, len(self._nodes), len(self._groups)])
        for row in self._nodes + self._groups:
            chunk += msgpack.packb(row)
            if len(chunk) >= SNAPSHOT_CHUNK_BYTES:
                sink(chunk)
                chunk = b""
        if chunk:
            sink(chunk)


class CatalogMachine(Machine):
    """``members``: the (node id, incarnation) pairs that formed the cluster."""

    version = 1

    def __init__(self, members: Iterable[tuple[str, int]] = ()) -> None:
        self.nodes: dict[str, dict[str, Any]] = {
            node: rules.node_row(node, incarnation) for node, incarnation in sorted(members)
        }
        self.groups: dict[str, dict[str, Any]] = {}
        self._operations: dict[str, Callable[[WriteRequest, Context], Response]] = {
            "REGISTER_NODE": self._register_node,
            "CREATE_GROUP": self._create_group,
            "SET_MEMBERS": self._set_members,
            "REPLACE_NODE": self._replace_node,
            "ADMIT_NODE": self._admit_node,
            "REMOVE_NODE": self._remove_node,
            "RESTORE_GROUP": self._restore_group,
        }

    def apply(self, request: WriteRequest, context: Context) -> Response:
        operation = self._operations.get(request.operation)
        if operation is None:
            return Response.refuse(f"unknown operation {request.operation[:64]!r}")
        return operation(request, context)

    def _register_node(self, request: WriteRequest, context: Context) -> Response:
        wanted = _unpack_map(request.data)
        node = self.nodes.get(request.key)
        if node is None or node["removed"]:
            return Response.refuse(f"{request.key[:64]!r} is no member of this cluster")
        if wanted.get("incarnation") != node["incarnation"]:
            return Response.refuse(f"the disk of {request.key} is new; replace the node")
        error = _addresses_error(wanted)
        if error is not None:
            return Response.refuse(error)
        if any(node[name] != wanted[name] for name in ADDRESSES):
            node.update({name: wanted[name] for name in ADDRESSES}, version=context.index)
            context.emit("node", node)
        return Response()

    def _admit_node(self, request: WriteRequest, context: Context) -> Response:
        wanted = _unpack_map(request.data)
        error = _addresses_error(wanted) or node_name_error(request.key)
        if error is not None:
            return Response.refuse(error)
        return rules.admit_node(self.nodes, self.groups, request.key, wanted, ADDRESSES, context)

    def _replace_node(self, request: WriteRequest, context: Context) -> Response:
        return rules.replace_node(self.nodes, request.key, _unpack_map(request.data), context)

    def _remove_node(self, request: WriteRequest, context: Context) -> Response:
        return rules.remove_node(self.nodes, self.groups, request.key, context)

    def _set_members(self, request: WriteRequest, context: Context) -> Response:
        name, wanted = request.key, _unpack_map(request.data)
        return rules.set_members(self.nodes, self.groups.get(name), name, wanted, context)

    def _restore_group(self, request: WriteRequest, context: Context) -> Response:
        """A group is never restored into: it begins as what its backup held, or there is none."""
        values = _unpack_map(request.data).get("restore")
        if meta_in(values) is None:
            return Response.refuse("what the group is to begin with is no snapshot")
        group = self.groups.get(request.key)
        if group is not None and group.get("restore") != values:
            return Response.refuse(f"group {request.key} exists, and began as something else")
        return self._create_group(request, context, values)

    def _create_group(
        self, request: WriteRequest, context: Context, restore: dict[str, Any] | None = None
    ) -> Response:
        name = request.key
        machine = _unpack_map(request.data).get("machine")
        error = group_name_error(name)
        if error is not None:
            return Response.refuse(error)
        if not isinstance(machine, str) or not 0 < len(machine) <= MACHINE_NAME_BYTES_MAX:
            return Response.refuse("the machine kind is missing or too long")
        group = self.groups.get(name)
        if group is not None:
            if group["machine"] != machine:
                return Response.refuse(f"group {name} exists with machine {group['machine']}")
            return Response(msgpack.packb({"id": group["id"], "created": False}))
        if len(self.groups) >= GROUPS_MAX:
            return Response.refuse(f"the cluster has {GROUPS_MAX} groups already")
        members = [[node["id"], node["incarnation"]] for node in rules.living(self.nodes)]
        group = rules.group_row(context.index, name, machine, members)
        if restore is not None:
            if members_in(restore) != members:
                return Response.refuse("the nodes of the cluster are others by now; restore again")
            group["restore"] = restore
        self.groups[name] = group
        context.emit("group", group)
        return Response(msgpack.packb({"id": context.index, "created": True}))

    def read(self, request: ReadRequest) -> Response:
        what = request.data
        if what == b"nodes":
            nodes = [_shown_node(node) for node in self.nodes.values() if not node["removed"]]
            return Response(json.dumps({"nodes": nodes}).encode())
        if what == b"groups":
            groups = [
                {**group, **{key: rules.shown_pairs(group[key]) for key in _PAIRS}}
                for group in self.groups.values()
            ]
            return Response(json.dumps({"groups": groups}).encode())
        names = unpack_names(what)
        if names is not None:
            return Response(json.dumps([name for name in names if name in self.groups]).encode())
        return Response.refuse("a read of the catalog asks for nodes, groups, or names in JSON")

    def table(self) -> dict[str, Any]:
        """Everything, for who was not listening when it happened."""
        return {"nodes": list(self.nodes.values()), "groups": list(self.groups.values())}

    def snapshot(self) -> _View:
        nodes = [dict(sorted(node.items())) for _, node in sorted(self.nodes.items())]
        groups = sorted(self.groups.values(), key=lambda group: int(group["id"]))
        return _View(nodes, [dict(sorted(group.items())) for group in groups])

    def restore(self, reader: Iterator[bytes], version: int) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=0)
        rows: list[Any] = []
        for chunk in reader:
            unpacker.feed(chunk)
            rows += unpacker
        head = rows[0] if rows else None
        if not isinstance(head, list) or len(head) < 3 or head[0] != SNAPSHOT_FORMAT:
            raise ValueError(f"no snapshot of a catalog that this version can read: {head!r:.80}")
        nodes_count, groups_count = head[1:3]
        nodes, groups = rows[1 : 1 + nodes_count], rows[1 + nodes_count :]
        if len(nodes) != nodes_count or len(groups) != groups_count:
            raise ValueError(f"the snapshot has {len(rows) - 1} rows, not {head[1:3]}")
        by_id = {node["id"]: rules.complete_node(node) for node in nodes}
        by_name = {group["name"]: rules.complete_group(group) for group in groups}
        self.nodes, self.groups = by_id, by_name

    def digest(self) -> bytes:
        rows = [sorted(node.items()) for _, node in sorted(self.nodes.items())]
        rows += [sorted(group.items()) for _, group in sorted(self.groups.items())]
        return crc32(msgpack.packb(rows)).to_bytes(8, "big")


_PAIRS = ("members", "learners", "founders")


def _shown_node(node: dict[str, Any]) -> dict[str, Any]:
    """Numbers of 64 bits as ``status`` shows them: not every reader of JSON can take them."""
    shown = {**node, "incarnation": f"{node['incarnation']:016x}"}
    shown["past"] = [f"{number:016x}" for number in node["past"]]
    shown["awaited"] = f"{node['awaited']:016x}" if node["awaited"] else None
    return shown


def _addresses_error(wanted: dict[str, Any]) -> str | None:
    for name in ADDRESSES:
        address = wanted.get(name)
        if not isinstance(address, str) or len(address) > ADDRESS_BYTES_MAX:
            return f"the {name} address is missing or too long"
    return None


def unpack_names(data: bytes) -> list[str] | None:
    """A JSON list of texts, or None."""
    try:
        names = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return names
    return None


def _unpack_map(data: bytes) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException):
        return {}
    return value if isinstance(value, dict) else {}
