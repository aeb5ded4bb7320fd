"""Small files that are replaced as a whole: two lines of JSON.

    {"polyraft": <what this is>, "format": <number>, "crc32c": "<8 hex digits of the second line>"}
    {...}

People can read them; the checksum tells an edit or a decayed disk from what we wrote.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from google_crc32c import value as crc32c

from raft.store.errors import DamagedDocument, UnknownFormat
from raft.store.files import Files, read_whole, replace_whole

# ``DATA/nodes``, which has its content from the catalog (actors/known_nodes.py).
NODES = "nodes"
NODES_FORMAT = 1

Key = TypeVar("Key")
Value = TypeVar("Value")


def write_document(files: Files, path: str, what: str, format_: int, body: dict[str, Any]) -> None:
    line = json.dumps(body, sort_keys=True).encode()
    head = {"polyraft": what, "format": format_, "crc32c": f"{crc32c(line):08x}"}
    replace_whole(files, path, json.dumps(head).encode() + b"\n" + line + b"\n")


def read_document(files: Files, path: str, what: str, format_: int) -> dict[str, Any] | None:
    """The body, or None when there is no such file.  Raises DamagedDocument, UnknownFormat."""
    if not files.exists(path):
        return None
    first, newline, line = read_whole(files, path).partition(b"\n")
    try:
        head = json.loads(first)
    except ValueError as error:
        raise DamagedDocument(path, "its first line is no JSON") from error
    if not isinstance(head, dict) or head.get("polyraft") != what:
        raise DamagedDocument(path, f"its first line does not say that it is a {what} file")
    found = head.get("format")
    if type(found) is not int or found < 1:
        raise DamagedDocument(path, "its first line names no format")
    if found > format_:
        raise UnknownFormat(path, f"{what} file of format {found}, this version reads {format_}")
    line = line.removesuffix(b"\n")
    if not newline or head.get("crc32c") != f"{crc32c(line):08x}":
        raise DamagedDocument(path, "its checksum is wrong")
    try:
        body = json.loads(line)
    except ValueError as error:
        raise DamagedDocument(path, "its second line is no JSON") from error
    if not isinstance(body, dict):
        raise DamagedDocument(path, "its second line is no object")
    return body


def read_table(
    files: Files,
    path: str,
    what: str,
    format_: int,
    name: str,
    key_of: Callable[[str], Key],
    value_of: Callable[[Any], Value],
) -> dict[Key, Value]:
    """What the body has under ``name``, decoded; nothing when there is no such file.

    Raises DamagedDocument, also for what ``key_of`` and ``value_of`` cannot decode; UnknownFormat.
    """
    body = read_document(files, path, what, format_)
    if body is None:
        return {}
    try:
        return {key_of(key): value_of(value) for key, value in body[name].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedDocument(path, f"one of the {name} has the wrong shape ({error})") from error
