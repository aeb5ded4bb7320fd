"""`ctl`: the operator's command line.

    ctl --connect tcp://127.0.0.1:7001 status
    ctl --connect tcp://127.0.0.1:7001,tcp://127.0.0.1:7002 put kv color blue
    ctl --connect ... why kv

Answers go to stdout, for people or with --json as one JSON object; a failure is one line on stderr.
Exit codes: 0 done, 1 refused or failed, 2 wrong usage. `get` of an absent key is exit 1, so that
scripts can tell it from an empty value. `why` of a group that does not work is exit 1 too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import zmq

from transport.client.blocking import Client
from transport.client.errors import PolyraftError
from transport.client.fleet import pause
from transport.client.wire import TIMEOUT_MS_MAX

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

SYSTEM_GROUP = "_system"
EVENT_BYTES_MAX = 1 << 20

Options = argparse.Namespace
Command = Callable[[Client, Options], int]
OfflineCommand = Callable[[Options], int]  # on files, without a cluster
Commands = argparse._SubParsersAction  # what a command is added to
Extend = Callable[["Commands[argparse.ArgumentParser]"], None]


class CtlError(Exception):
    """The command failed for a reason that is no reply; the text is for the operator."""


class UsageError(CtlError):
    """What was named on the command line is not there."""


# -- showing -------------------------------------------------------------------------------------


def show_json(answer: dict[str, Any]) -> None:
    """One JSON object on one line."""
    print(json.dumps(answer, sort_keys=True, ensure_ascii=False))


def text_of(value: object) -> str:
    """A JSON value in a table cell."""
    if value is None:
        return "-"
    if isinstance(value, list):
        return ",".join(text_of(item) for item in value) or "-"
    if isinstance(value, dict):
        node = value.get("id", value.get("node"))
        if node is not None:
            return text_of(node)
        return json.dumps(value, sort_keys=True)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell."""
    cells = [[text_of(cell) for cell in row] for row in rows]
    table = [[column.upper() for column in columns], *cells]
    widths = [max(len(row[position]) for row in table) for position in range(len(columns))]
    for row in table:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


def show_fields(answer: dict[str, Any]) -> None:
    """One field per line; nested objects indented below their name."""
    width = max((len(name) for name in answer), default=0)
    for name, value in answer.items():
        if isinstance(value, dict) and value:
            print(f"{name}:")
            for inner, inner_value in value.items():
                print(f"  {inner}: {text_of(inner_value)}")
        else:
            print(f"{name.ljust(width)}  {text_of(value)}")


def _records(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    records = answer.get(name)
    if not isinstance(records, list) or not all(isinstance(it, dict) for it in records):
        raise CtlError(f"the answer has no list of {name}")
    return records


# -- commands ------------------------------------------------------------------------------------


def do_status(client: Client, options: Options) -> int:
    """What each given node says of itself."""
    answers: list[dict[str, Any]] = []
    failed = False
    for address in options.addresses:
        try:
            answers.append(client.admin("", "status", address=address))
        except PolyraftError as error:
            failed = True
            answers.append({"node": None, "address": address, "error": str(error)})
    if options.json:
        show_json(answers[0] if len(answers) == 1 else {"nodes": answers})
    for answer in [] if options.json else answers:
        show_status(answer)
    return EXIT_FAILED if failed else EXIT_DONE


def show_status(answer: dict[str, Any]) -> None:
    """One node for people."""
    if answer.get("error"):
        print(f"{answer.get('address')}: {answer['error']}")
        return
    addresses = answer.get("addresses") or {}
    print(
        f"node {text_of(answer.get('node'))}  cluster {text_of(answer.get('cluster'))}  "
        f"version {text_of(answer.get('version'))}  client {text_of(addresses.get('client'))}"
    )
    processes = answer.get("processes") or []
    if processes:
        columns = ("kind", "slot", "pid", "restarts")
        show_table(columns, [[it.get(column) for column in columns] for it in processes])
    slots = answer.get("slots") or {}
    if slots:
        shown = ("slot", "segments", "log_bytes", "live_bytes", "free_bytes", "trouble")
        show_table(shown, [_slot_row(slot, it) for slot, it in slots.items()])
    groups = answer.get("groups") or {}
    if groups:
        columns = ("role", "term", "leader", "state")
        rows = [[name, *(it.get(column) for column in columns)] for name, it in groups.items()]
        show_table(("group", *columns), rows)
    for node, reason in (answer.get("refused") or {}).items():
        print(f"refused {node}: {text_of(reason)}")


def _slot_row(slot: str, shown: dict[str, Any]) -> list[Any]:
    """The log of one worker, and what keeps it from writing or from getting smaller."""
    log, disk = shown.get("log") or {}, shown.get("disk") or {}
    stopped = log.get("tidying_stopped")
    troubles = [disk.get("refusal"), stopped and f"nothing of the log is given up: {stopped}"]
    return [
        slot,
        *(log.get(key) for key in ("segments", "bytes", "live_bytes")),
        disk.get("free_bytes"),
        "; ".join(filter(None, troubles)) or None,
    ]


def do_nodes(client: Client, options: Options) -> int:
    """All nodes of the cluster."""
    answer = client.admin(SYSTEM_GROUP, "nodes")
    columns = ("id", "incarnation", "client", "peer", "events")
    return show_records(answer, "nodes", columns, as_json=options.json)


def do_groups(client: Client, options: Options) -> int:
    """All groups of the cluster."""
    answer = client.admin(SYSTEM_GROUP, "groups")
    if not options.json:
        for record in _records(answer, "groups"):
            # A member is a node id with its incarnation; people need the first.
            members = record.get("members") or []
            record["members"] = [it[0] if isinstance(it, list) and it else it for it in members]
    columns = ("id", "name", "machine", "members")
    return show_records(answer, "groups", columns, as_json=options.json)


def show_records(
    answer: dict[str, Any], name: str, columns: Sequence[str], *, as_json: bool
) -> int:
    """A list of records as a table."""
    if as_json:
        show_json(answer)
    else:
        rows = [[it.get(column) for column in columns] for it in _records(answer, name)]
        show_table(columns, rows)
    return EXIT_DONE


def do_group_create(client: Client, options: Options) -> int:
    """Create a group on the cluster, and wait until all given nodes see it led."""
    answer = client.admin(SYSTEM_GROUP, "createGroup", options.name, {"machine": options.machine})
    deadline = time.monotonic() + options.timeout_ms / 1000
    for address in options.addresses:
        while not (why := client.admin(options.name, "why", address=address)).get("ok"):
            if time.monotonic() >= deadline:
                text = f"{text_of(why.get('reason'))}: {text_of(why.get('text'))}"
                raise CtlError(f"{options.name} is created, but does not work yet: {text}")
            pause()
    return show_done(answer, f"created {options.name}", as_json=options.json)


def do_group_delete(client: Client, options: Options) -> int:
    """Delete a group and its data."""
    answer = client.admin(SYSTEM_GROUP, "deleteGroup", options.name)
    return show_done(answer, f"deleted {options.name}", as_json=options.json)


def do_node_replace(client: Client, options: Options) -> int:
    """Let the next blank disk that calls itself NODE take the place of its lost one."""
    more = {"force": "true"} if options.force else {}
    if options.incarnation is not None:
        more["incarnation"] = str(options.incarnation)
    answer = client.admin(SYSTEM_GROUP, "replaceNode", options.name, more)
    stuck = _stuck_groups(client, options.name)
    if options.json:
        show_json({**answer, "stuck": stuck})
    else:
        print(f"replace {options.name}: start it now, with a blank disk and the options it had")
        for group, why in stuck.items():
            print(f"{group} cannot take it in: {why}")
    if stuck:
        raise CtlError(
            f"{len(stuck)} groups of {options.name} do not work: bring back a majority of their "
            "other members, or give up what only the lost ones had with reset-peers"
        )
    return EXIT_DONE


def _stuck_groups(client: Client, node: str) -> dict[str, str]:
    """Groups of the node that do not work without it, and why."""
    records = _records(client.admin(SYSTEM_GROUP, "groups"), "groups")
    stuck = {}
    for record in records:
        members = [it[0] if isinstance(it, list) and it else it for it in record["members"]]
        if node in members:
            why = client.admin(record["name"], "why")
            if not why.get("ok"):
                stuck[record["name"]] = f"{text_of(why.get('reason'))}: {text_of(why.get('text'))}"
    return stuck


def do_node_remove(client: Client, options: Options) -> int:
    """Remove a node that has no replicas any more, for good."""
    answer = client.admin(SYSTEM_GROUP, "removeNode", options.name)
    return show_done(answer, f"removed {options.name}", as_json=options.json)


def show_done(answer: dict[str, Any], text: str, *, as_json: bool) -> int:
    """A change that succeeded."""
    if as_json:
        show_json(answer)
    else:
        print(text)
    return EXIT_DONE


def do_put(client: Client, options: Options) -> int:
    """Set a key of a kv group."""
    index = client.kv(options.group).put(options.key, os.fsencode(options.value))
    if options.json:
        show_json({"index": index})
    else:
        print(f"index {index}")
    return EXIT_DONE


def do_get(client: Client, options: Options) -> int:
    """Read a key of a kv group, linearizably."""
    entry = client.kv(options.group).get(options.key)
    if options.json:
        value = None if entry is None else entry.value.decode(errors="replace")
        show_json({"value": value, "version": None if entry is None else entry.version})
    elif entry is not None:
        sys.stdout.buffer.write(entry.value + b"\n")
        sys.stdout.flush()
    if entry is None:
        raise CtlError(f"no key {options.key} in {options.group}")
    return EXIT_DONE


def do_why(client: Client, options: Options) -> int:
    """Why a group does not work, as the first reachable node sees it."""
    answer = client.admin(options.group, "why")
    if options.json:
        show_json(answer)
    else:
        silent = ", ".join(
            f"{text_of(it.get('node'))} for {text_of(it.get('since_ms'))} ms"
            for it in answer.get("silent") or []
        )
        print(f"{options.group}: {text_of(answer.get('reason'))}: {text_of(answer.get('text'))}")
        if silent:
            print(f"silent: {silent}")
    return EXIT_DONE if answer.get("ok") else EXIT_FAILED


def do_metadata(client: Client, options: Options) -> int:
    """Everything one node knows of a group."""
    answer = client.admin(options.group, "metadata")
    if options.json:
        show_json(answer)
    else:
        show_fields(answer)
    return EXIT_DONE


def do_write(client: Client, options: Options) -> int:
    """Write to any machine: an operation on a key."""
    result = client.write(options.group, options.operation, options.key, os.fsencode(options.data))
    if options.json:
        show_json({"index": result.index, "data": result.data.decode(errors="replace")})
    else:
        print(f"index {result.index}")
        _show_data(result.data)
    return EXIT_DONE


def do_read(client: Client, options: Options) -> int:
    """Read from any machine, linearizably."""
    result = client.read(options.group, os.fsencode(options.data))
    if options.json:
        show_json({"index": result.index, "data": result.data.decode(errors="replace")})
    else:
        _show_data(result.data)
    return EXIT_DONE


def _show_data(data: bytes) -> None:
    if data:
        sys.stdout.flush()
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.flush()


def do_admin(client: Client, options: Options) -> int:
    """Give a group one of the commands below."""
    it = GROUP_COMMANDS[options.command]
    more = {"force": "true"} if getattr(options, "force", False) else None
    # What one replica does by itself is asked of the node that was named with --connect.
    address = options.addresses[0] if it.is_local else ""
    answer = client.admin(options.group, it.command, options.value, more, address=address)
    text = f"{options.command} {options.group} {options.value}".rstrip()
    shown = "".join(f", {name} {text_of(value)}" for name, value in answer.items())
    return show_done(answer, f"{text}: done{shown}", as_json=options.json)


@dataclass(frozen=True, slots=True)
class GroupCommand:
    """A change of a group, by one Admin command with one value."""

    command: str
    value: str
    text: str
    is_optional: bool = False  # the value
    is_local: bool = False  # to the node that is asked
    may_force: bool = False


GROUP_COMMANDS = {
    "transfer-leader": GroupCommand(
        "transferLeader",
        "node",
        "let another node lead, by default the one that lacks least",
        is_optional=True,
    ),
    "change-peers": GroupCommand("changePeers", "nodes", "make these nodes the members"),
    "remove-peer": GroupCommand("removePeer", "node", "remove a member"),
    "remove-peers": GroupCommand("removePeers", "nodes", "remove members"),
    "add-learner": GroupCommand("addLearner", "node", "add a member without a vote"),
    "snapshot": GroupCommand(
        "doSnapshot",
        "node",
        "let a node take a snapshot, by default the one that is asked",
        is_optional=True,
        is_local=True,
    ),
    "reset-peers": GroupCommand(
        "resetPeers",
        "nodes",
        "unsafe, for a lost majority: on the asked node alone",
        is_local=True,
        may_force=True,
    ),
}


def do_watch(client: Client, options: Options) -> int:
    """Print events of all given nodes as they come."""
    places = []
    for address in options.addresses:
        events = (client.admin("", "status", address=address).get("addresses") or {}).get("events")
        if not isinstance(events, str):
            raise CtlError(f"{address} does not say where its events are")
        places.append(events)
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, EVENT_BYTES_MAX)
        socket.setsockopt_string(zmq.SUBSCRIBE, options.topic)
        for events in places:
            socket.connect(events)
        shown = 0
        while options.count is None or shown < options.count:
            frames = socket.recv_multipart()
            if len(frames) == 2:
                show_event(frames[0], frames[1], as_json=options.json)
                shown += 1
    return EXIT_DONE


def show_event(topic: bytes, payload: bytes, *, as_json: bool) -> None:
    """One event on one line; one that cannot be read is shown as what it is."""
    try:
        event = msgpack.unpackb(payload)
    except (ValueError, msgpack.UnpackException) as error:
        event = {"error": f"no MessagePack: {error}"}
    fields = event if isinstance(event, dict) else {"event": event}
    if as_json:
        print(json.dumps({"topic": topic.decode(errors="replace"), **fields}, default=repr))
    else:
        rest = "  ".join(f"{name}={text_of(value)}" for name, value in fields.items())
        print(f"{topic.decode(errors='replace')}  {rest}")
    sys.stdout.flush()


# -- the command line ----------------------------------------------------------------------------


def make_parser(extend: Extend | None = None) -> argparse.ArgumentParser:
    """The command line; ``extend`` adds the commands that are kept elsewhere."""
    parser = argparse.ArgumentParser(prog="ctl", description="Ask and change a cluster.")
    parser.add_argument("--connect", metavar="A[,B]", help="client addresses; or POLYRAFT_CONNECT")
    parser.add_argument("--timeout-ms", type=int, default=10_000, metavar="MS")
    _add_json(parser, default=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add(commands, "status", do_status)
    _add(commands, "nodes", do_nodes)
    _add(commands, "groups", do_groups)
    _add(commands, "put", do_put, "group", "key", "value")
    _add(commands, "get", do_get, "group", "key")
    _add(commands, "why", do_why, "group")
    _add(commands, "metadata", do_metadata, "group")
    write = _add(commands, "write", do_write, "group", "operation", "key")
    write.add_argument("data", nargs="?", default="")
    _add(commands, "read", do_read, "group", "data")
    for name, it in GROUP_COMMANDS.items():
        change = _add(commands, name, do_admin, "group", text=it.text)
        arity = "?" if it.is_optional else None
        metavar = it.value.upper()
        change.add_argument("value", metavar=metavar, help=it.value, nargs=arity, default="")
        if it.may_force:
            change.add_argument("--force", action="store_true", help="though a leader is heard")
    watch = _add(commands, "watch", do_watch)
    watch.add_argument("topic", nargs="?", default="", help="the beginning of a topic")
    watch.add_argument("--count", type=int, metavar="N", help="end after N events")
    group = commands.add_parser("group", help="create or delete a group")
    changes = group.add_subparsers(dest="change", required=True, metavar="create|delete")
    create = _add(changes, "create", do_group_create, "name")
    create.add_argument("--machine", required=True, metavar="KIND", help="e.g. kv")
    _add(changes, "delete", do_group_delete, "name")
    node = commands.add_parser("node", help="replace or remove a node")
    changes = node.add_subparsers(dest="change", required=True, metavar="replace|remove")
    replace = _add(changes, "replace", do_node_replace, "name")
    replace.add_argument("--force", action="store_true", help="though it is alive")
    replace.add_argument(
        "--incarnation",
        type=_incarnation,
        metavar="HEX",
        help="this new disk and no other, by what its node.json says",
    )
    _add(changes, "remove", do_node_remove, "name")
    if extend is not None:
        extend(commands)
    return parser


def _incarnation(text: str) -> int:
    """As ``status``, ``nodes`` and node.json show it."""
    if not re.fullmatch("[0-9a-fA-F]{1,16}", text) or not int(text, 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not 16 hexadecimal digits")
    return int(text, 16)


def _add_json(parser: argparse.ArgumentParser, default: object) -> None:
    parser.add_argument(
        "--json", action="store_true", default=default, help="one JSON object on stdout"
    )


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    *arguments: str,
    text: str = "",
) -> argparse.ArgumentParser:
    documentation = text or (run.__doc__ or "").rstrip(".").lower()
    command = commands.add_parser(name, help=documentation, description=documentation)
    for argument in arguments:
        command.add_argument(argument)
    # After the command too; a default here would undo a --json given before it.
    _add_json(command, argparse.SUPPRESS)
    command.set_defaults(run=run)
    return command


def add_offline(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    run: OfflineCommand,
    *arguments: str,
    text: str,
) -> argparse.ArgumentParser:
    """A command that needs no cluster; :func:`add_command` is for the others."""
    command = _add(commands, name, lambda client, options: 0, *arguments, text=text)
    command.set_defaults(run_offline=run)
    return command


add_command = _add


def main(argv: Sequence[str] | None = None, extend: Extend | None = None) -> int:
    """Run one command; the exit code."""
    parser = make_parser(extend)
    options = parser.parse_args(argv)
    run_offline: OfflineCommand | None = getattr(options, "run_offline", None)
    if run_offline is not None:
        return _guarded(options, lambda: run_offline(options))
    connect = options.connect or os.environ.get("POLYRAFT_CONNECT", "")
    if not connect:
        parser.error("--connect is needed")
    if not 0 < options.timeout_ms <= TIMEOUT_MS_MAX:
        parser.error(f"--timeout-ms must be 1..{TIMEOUT_MS_MAX}")
    try:
        client = Client(connect, timeout_ms=options.timeout_ms)
    except ValueError as error:
        parser.error(str(error))
    options.addresses = [part.strip() for part in connect.split(",") if part.strip()]
    with client:
        return _guarded(options, lambda: int(options.run(client, options)))


def _guarded(options: Options, run: Callable[[], int]) -> int:
    """What goes wrong is one line on stderr."""
    try:
        code = run()
        sys.stdout.flush()
    except (PolyraftError, CtlError) as error:
        print(f"ctl: {error}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except BrokenPipeError:
        # Who read our output has gone, as `head` does; Python must not complain of it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        if options.command == "watch":
            return 0
        print("ctl: interrupted", file=sys.stderr)
        return EXIT_FAILED
    return code


if __name__ == "__main__":
    sys.exit(main())
