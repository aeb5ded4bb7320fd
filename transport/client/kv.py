"""The built-in `kv` machine's operations and answers, as bytes and values.

Its operations and encodings are part of the machine's contract: values are bytes, keys are text,
and what has structure is MessagePack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from transport.client.errors import PolyraftError

RANGE_LIMIT_DEFAULT = 1_000


@dataclass(slots=True, frozen=True)
class KVEntry:
    """A value and the log index of its last write."""

    value: bytes
    version: int


def encode_cas(expected: bytes | None, new: bytes | None) -> bytes:
    """CAS: None stands for an absent key."""
    packed: bytes = msgpack.packb([expected, new])
    return packed


def encode_add(amount: int) -> bytes:
    """ADD."""
    packed: bytes = msgpack.packb(amount)
    return packed


def encode_get(key: str) -> bytes:
    """One key."""
    packed: bytes = msgpack.packb({"get": key})
    return packed


def encode_range(start: str, end: str | None, limit: int) -> bytes:
    """Keys in [start, end), in byte order."""
    packed: bytes = msgpack.packb({"range": [start, end], "limit": limit})
    return packed


def encode_size() -> bytes:
    """How many keys there are."""
    packed: bytes = msgpack.packb({"size": True})
    return packed


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise PolyraftError(f"the kv machine's answer is no MessagePack: {error}") from error


def _misshapen(answer: object) -> PolyraftError:
    return PolyraftError(f"the kv machine's answer has an unknown shape: {answer!r:.80}")


def decode_number(data: bytes) -> int:
    """The answer to ADD and to size."""
    answer = _unpack(data)
    if not isinstance(answer, int):
        raise _misshapen(answer)
    return answer


def decode_get(data: bytes) -> KVEntry | None:
    """The answer to get."""
    answer = _unpack(data)
    if answer is None:
        return None
    try:
        return KVEntry(value=bytes(answer["value"]), version=int(answer["version"]))
    except (TypeError, KeyError, ValueError) as error:
        raise _misshapen(answer) from error


def decode_range(data: bytes) -> list[tuple[str, KVEntry]]:
    """The answer to range."""
    answer = _unpack(data)
    try:
        return [(str(key), KVEntry(bytes(value), int(version))) for key, value, version in answer]
    except (TypeError, ValueError) as error:
        raise _misshapen(answer) from error
