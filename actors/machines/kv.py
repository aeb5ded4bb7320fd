"""``kv``: a map from text keys to bytes, with compare-and-set and counters.

Writes, by ``operation``:

* ``PUT``, data: the value.  OK.
* ``DELETE``.  OK, also when the key is absent.
* ``CAS``, data: msgpack [expected or nil, new or nil].  REJECTED when the value differs; new nil
  deletes.
* ``ADD``, data: msgpack integer.  The new value as msgpack; starts at 0.

Reads: data is a msgpack map, ``{"get": key}``, ``{"range": [start, end|nil], "limit": n}`` or
``{"size": true}``.  An answer above :data:`ANSWER_BYTES_MAX` is refused.

**Order.**  Ranges are in the byte order of UTF-8, which is the code-point order of Python
strings.  The sorted list of keys is brought up to date by the first range after a change, not
by each write: writes are many, ranges few, and merging two sorted runs is what list.sort does
fastest.

**Digest.**  A sum over all entries, modulo 2**64, of a number made from key, value and version;
so it changes by one subtraction and one addition per write and does not depend on any order.

**Snapshots.**  A stream of msgpack: ``[format, count of entries]``, then arrays of key, value and
version, one entry after the other, in the order of the keys: equal states give equal bytes.

The view copies nothing.  From the moment it is made until it is written, whatever changes an entry
first puts the old one aside for it, so it takes the same short time whatever the size of the map,
and as much memory as changes meanwhile.  The writer, in another thread, reads an entry *and then*
looks whether an older one was put aside: whatever happens in between, it is the right one.  Which
keys there are it learns from the lists of the next paragraph but one: they only grow, or are
replaced.  Sorting is done by whoever writes, in pieces: one call that sorts a million keys would
hold Python's lock, and with it every heartbeat of the process, for half a second.

A restore builds the map in the place of the old one, which goes first: a machine in memory twice
could be too much for a host that it fits well.  What fails leaves nothing, and is quarantined.

**Lists of keys.**  ``_sorted``, of the last range, and ``_unsorted``, of keys that came since: in
both together is every key, and some that are there no more, or twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from typing import Any
from zlib import crc32

import msgpack

from actors.machines import DONE, Context, Contexts, Machine, ReadRequest, Response, WriteRequest

KEY_BYTES_MAX = 4_096
ANSWER_BYTES_MAX = 4 << 20
RANGE_LIMIT_DEFAULT = 1_000
RANGE_LIMIT_MAX = 10_000
SNAPSHOT_FORMAT = 1
SNAPSHOT_CHUNK_BYTES = 32 << 10  # so much at once, half a millisecond; more for a larger entry
SORT_KEYS_MAX = 4_096  # in one call, about a millisecond
REMOVED_KEYS_MAX = 10_000  # and as many as there are keys: so many are listed in vain
_ENTRY_OVERHEAD_BYTES = 16  # of an entry in a snapshot
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1

_KEY_SURELY_SHORT = KEY_BYTES_MAX // 4  # characters; so few are never too many bytes
_MASK = (1 << 64) - 1
_MIX_CONTENT = 0x9E3779B97F4A7C15  # odd: multiplication permutes 64-bit numbers
_MIX_VERSION = 0xC2B2AE3D27D4EB4F

# value, index of the last write, share of the digest
Entry = tuple[bytes, int, int]


def _share(key: str, value: bytes, version: int) -> int:
    content = crc32(value, crc32(key.encode())) | len(value) << 32
    mixed = (content ^ version * _MIX_VERSION) * _MIX_CONTENT & _MASK
    return mixed ^ mixed >> 32  # not linear: exchanged values or versions do not cancel out


class _Past:
    """What a view and the machine know together: the map, and what has changed since.

    ``entries`` is None once the machine has been restored: there is nothing to look back to.
    """

    __slots__ = ("changed", "entries")

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.entries: dict[str, Entry] | None = entries
        self.changed: dict[str, Entry | None] = {}  # as it was then; None: it was not there


class _View:
    """The entries of one moment."""

    __slots__ = ("_count", "_forget", "_past", "_sorted", "_unsorted", "_unsorted_count")

    def __init__(
        self,
        past: _Past,
        count: int,
        keys: tuple[list[str], list[str]],
        forget: Callable[[_Past], None],
    ) -> None:
        self._past = past
        self._count = count
        self._sorted, self._unsorted = keys
        self._unsorted_count = len(self._unsorted)
        self._forget = forget

    def __del__(self) -> None:
        self._forget(self._past)

    def write(self, sink: Callable[[bytes], None]) -> None:
        try:
            self._write(sink)
        finally:
            self._forget(self._past)

    def _write(self, sink: Callable[[bytes], None]) -> None:
        sink(msgpack.packb([SNAPSHOT_FORMAT, self._count]))
        flat: list[Any] = []
        size_bytes = written = 0
        for key, (value, version, _) in self._in_order(sink):
            flat += (key, value, version)
            size_bytes += len(key) + len(value) + _ENTRY_OVERHEAD_BYTES
            if size_bytes >= SNAPSHOT_CHUNK_BYTES:
                written += len(flat) // 3
                sink(msgpack.packb(flat))
                flat, size_bytes = [], 0
        if flat:
            sink(msgpack.packb(flat))
        assert written + len(flat) // 3 == self._count, "entries of another moment"

    def _in_order(self, sink: Callable[[bytes], None]) -> Iterator[tuple[str, Entry]]:
        changed = self._past.changed
        last = None
        for key in merge(self._sorted, *self._sorted_pieces(sink)):
            if key == last:
                continue
            last = key
            entries = self._past.entries
            if entries is None:
                raise RuntimeError("the state was replaced before it was written")
            # In this order: what is put aside after the first line does not change what it gave.
            entry = entries.get(key)
            was = changed.get(key, _SAME)
            if was is not _SAME:
                entry = was
            if entry is not None:
                yield key, entry

    def _sorted_pieces(self, sink: Callable[[bytes], None]) -> list[list[str]]:
        pieces = []
        for at in range(0, self._unsorted_count, SORT_KEYS_MAX):
            end = min(at + SORT_KEYS_MAX, self._unsorted_count)
            pieces.append(sorted(self._unsorted[at:end]))
            sink(b"")  # a chance for others
        return pieces


_SAME: Any = object()


def key_error(key: str) -> str | None:
    """Why this is no key, or None."""
    if not key:
        return "the key is missing"
    if len(key) > _KEY_SURELY_SHORT and len(key.encode()) > KEY_BYTES_MAX:
        return f"the key has more than {KEY_BYTES_MAX} bytes"
    return None


class KeyValueMachine(Machine):
    version = 1

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._sorted: list[str] = []  # superset of the keys at the last range, in order
        self._unsorted: list[str] = []  # keys that came since
        self._digest = 0
        # Of views that are not written yet; by id, since both threads take out and put in.
        self._pasts: dict[int, _Past] = {}
        self._operations: dict[str, Callable[[WriteRequest, int], Response]] = {
            "PUT": self._put,
            "DELETE": self._delete,
            "CAS": self._cas,
            "ADD": self._add,
        }
        self._reads: dict[str, Callable[[dict[str, Any]], Response]] = {
            "get": self._get,
            "range": self._range,
            "size": self._size,
        }

    # ------------------------------------------------------------------ writes

    def apply(self, request: WriteRequest, context: Context) -> Response:
        return self._apply_one(request, context.index)

    def apply_batch(
        self, requests: Sequence[WriteRequest], contexts: Sequence[Context]
    ) -> list[Response]:
        if not requests:
            return []
        index = contexts.first if isinstance(contexts, Contexts) else contexts[0].index
        apply_one, store = self._apply_one, self._store
        responses: list[Response] = []
        for at, request in enumerate(requests, index):
            key = request.key
            if request.operation == "PUT" and 0 < len(key) <= _KEY_SURELY_SHORT:
                store(key, request.data, at)
                responses.append(DONE)
            else:
                responses.append(apply_one(request, at))
        return responses

    def _apply_one(self, request: WriteRequest, index: int) -> Response:
        error = key_error(request.key)
        if error is not None:
            return Response.refuse(error)
        operation = self._operations.get(request.operation)
        if operation is None:
            return Response.refuse(f"unknown operation {request.operation[:64]!r}")
        return operation(request, index)

    def _store(self, key: str, value: bytes, index: int) -> None:
        share = _share(key, value, index)
        old = self._entries.get(key)
        if self._pasts:
            self._put_aside(key, old)
        if old is None:
            self._unsorted.append(key)
            if len(self._unsorted) > 2 * len(self._entries) + REMOVED_KEYS_MAX:
                self._sorted, self._unsorted = [], [*self._entries, key]
            self._digest = (self._digest + share) & _MASK
        else:
            self._digest = (self._digest + share - old[2]) & _MASK
        self._entries[key] = (value, index, share)

    def _put_aside(self, key: str, entry: Entry | None) -> None:
        """It is about to change; views that are being written want it as it was."""
        for past in list(self._pasts.values()):
            past.changed.setdefault(key, entry)

    def _remove(self, key: str) -> None:
        if self._pasts:
            self._put_aside(key, self._entries.get(key))
        old = self._entries.pop(key, None)
        if old is not None:
            self._digest = (self._digest - old[2]) & _MASK

    def _put(self, request: WriteRequest, index: int) -> Response:
        self._store(request.key, request.data, index)
        return DONE

    def _delete(self, request: WriteRequest, index: int) -> Response:
        self._remove(request.key)
        return DONE

    def _cas(self, request: WriteRequest, index: int) -> Response:
        pair = _unpack(request.data)
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_bytes_or_nil, pair))):
            return Response.refuse("CAS wants msgpack [expected bytes or nil, new bytes or nil]")
        expected, new = pair
        entry = self._entries.get(request.key)
        if (None if entry is None else entry[0]) != expected:
            return Response.refuse("the value differs from the expected one")
        if new is None:
            self._remove(request.key)
        else:
            self._store(request.key, new, index)
        return DONE

    def _add(self, request: WriteRequest, index: int) -> Response:
        amount = _unpack(request.data)
        if not _is_int64(amount):
            return Response.refuse("ADD wants one msgpack integer of 64 bits")
        entry = self._entries.get(request.key)
        value = 0 if entry is None else _unpack(entry[0])
        if not _is_int64(value):
            return Response.refuse("the value is no integer of 64 bits")
        total = value + amount
        if not INT64_MIN <= total <= INT64_MAX:
            return Response.refuse("the sum does not fit into 64 bits")
        data: bytes = msgpack.packb(total)
        self._store(request.key, data, index)
        return Response(data)

    # ------------------------------------------------------------------ reads

    def read(self, request: ReadRequest) -> Response:
        query = _unpack(request.data)
        if not isinstance(query, dict):
            return Response.refuse("a read is a msgpack map")
        for name, answer in self._reads.items():
            if name in query:
                return answer(query)
        return Response.refuse("a read asks for one of: get, range, size")

    def _get(self, query: dict[str, Any]) -> Response:
        key = query["get"]
        if not isinstance(key, str):
            return Response.refuse("get wants a text key")
        error = key_error(key)
        if error is not None:
            return Response.refuse(error)
        entry = self._entries.get(key)
        if entry is None:
            return Response(msgpack.packb(None))
        return _bounded(msgpack.packb({"value": entry[0], "version": entry[1]}))

    def _range(self, query: dict[str, Any]) -> Response:
        bounds = query["range"]
        if not (isinstance(bounds, list) and len(bounds) == 2):
            return Response.refuse("range wants [start, end or nil]")
        start, end = bounds
        if not isinstance(start, str) or not (end is None or isinstance(end, str)):
            return Response.refuse("range wants [start text, end text or nil]")
        limit = query.get("limit", RANGE_LIMIT_DEFAULT)
        if type(limit) is not int or not 1 <= limit <= RANGE_LIMIT_MAX:
            return Response.refuse(f"limit is 1 to {RANGE_LIMIT_MAX}")
        return self._collect(start, end, limit)

    def _collect(self, start: str, end: str | None, limit: int) -> Response:
        keys = self._keys_in_order()
        found: list[list[Any]] = []
        total_bytes = 0
        for at in range(bisect_left(keys, start), len(keys)):
            key = keys[at]
            if len(found) == limit or (end is not None and key >= end):
                break
            value, version, _ = self._entries[key]
            total_bytes += len(key) + len(value)
            if total_bytes > ANSWER_BYTES_MAX:
                return _too_large()
            found.append([key, value, version])
        return _bounded(msgpack.packb(found))

    def _keys_in_order(self) -> list[str]:
        if self._unsorted or len(self._sorted) != len(self._entries):
            entries = self._entries
            merged = [key for key in self._sorted if key in entries]
            merged += sorted(key for key in self._unsorted if key in entries)
            merged.sort()
            # A key that was removed and came back stands in both lists.
            self._sorted = list(dict.fromkeys(merged))
            self._unsorted = []
        assert len(self._sorted) == len(self._entries)
        return self._sorted

    def _size(self, query: dict[str, Any]) -> Response:
        return Response(msgpack.packb(len(self._entries)))

    # ------------------------------------------------------------------ snapshots

    def snapshot(self) -> _View:
        past = _Past(self._entries)
        self._pasts[id(past)] = past
        keys = (self._sorted, self._unsorted)
        return _View(past, len(self._entries), keys, self._forget)

    def _forget(self, past: _Past) -> None:
        """Nothing need be put aside for it any more; in whatever thread."""
        self._pasts.pop(id(past), None)

    def restore(self, reader: Iterator[bytes], version: int) -> None:
        """What raises here leaves nothing."""
        self._become({}, 0)
        unpacker = msgpack.Unpacker(max_buffer_size=0)  # no limit but that of an entry
        entries: dict[str, Entry] = {}
        digest = 0
        count: int | None = None
        for chunk in reader:
            unpacker.feed(chunk)
            for flat in unpacker:
                if count is None:
                    count = _count_of(flat)
                    continue
                for at in range(0, len(flat), 3):
                    key, value, index = flat[at : at + 3]
                    share = _share(key, value, index)
                    entries[key] = (value, index, share)
                    digest += share
        if count != len(entries):
            raise ValueError(f"the snapshot has {len(entries)} entries, not {count}")
        self._become(entries, digest & _MASK)

    def _become(self, entries: dict[str, Entry], digest: int) -> None:
        for past in list(self._pasts.values()):
            past.entries = None
            self._forget(past)
        self._entries = entries
        self._sorted, self._unsorted = list(entries), []
        self._digest = digest

    def digest(self) -> bytes:
        return self._digest.to_bytes(8, "big")


def _count_of(head: Any) -> int:
    """How many entries the snapshot says it has."""
    if not isinstance(head, list) or len(head) < 2 or head[0] != SNAPSHOT_FORMAT:
        raise ValueError(f"no snapshot of kv that this version can read: {head!r:.80}")
    return int(head[1])


def _unpack(data: bytes) -> Any:
    """The msgpack value in ``data``, or an object that is none of the expected types."""
    try:
        return msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException):
        return _NOT_MSGPACK


_NOT_MSGPACK = object()


def _bytes_or_nil(value: object) -> bool:
    return value is None or isinstance(value, bytes)


def _is_int64(value: object) -> bool:
    return type(value) is int and INT64_MIN <= value <= INT64_MAX


def _bounded(data: bytes) -> Response:
    return _too_large() if len(data) > ANSWER_BYTES_MAX else Response(data)


def _too_large() -> Response:
    return Response.refuse(f"the answer would exceed {ANSWER_BYTES_MAX} bytes; ask for less")
