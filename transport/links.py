"""Links: the Unix stream between the router and a worker, as frames with two lanes.

What may live here: cutting a stream into frames, and deciding what is written next.  What a frame
means is in :mod:`transport.frames`; no ZeroMQ here, because workers never import it.

How it works.  A frame is a u32 little-endian length and that many bytes.  One ``data_received``
is one round: all frames that are complete are handed over in one list.  A frame that is not
complete is kept in pieces and joined once, when its last byte is there; growing a buffer and
scanning it again would cost the square of the frame's size.  A length above the limit ends the
link before anything is allocated.

Nobody ever blocks on a link, and nobody may stop reading one: with both sides blocked in a send
neither would ever go on.  What the transport cannot take waits in two queues, control before
bulk, and a frame that does not fit into its queue is dropped, counted, and reported to the
sender, who answers BUSY.  The transport holds at most ``UNSENT_BYTES_MAX`` and one frame, so that
control never waits behind more.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from transport.frames import LINK_FRAME_BYTES_MAX, FrameError

UNSENT_BYTES_MAX: Final = 256 << 10  # given to the transport and not yet taken by the kernel
UNSENT_BYTES_RESUME: Final = 128 << 10
BULK_QUEUE_BYTES_MAX: Final = 64 << 20
CONTROL_QUEUE_BYTES_MAX: Final = 18 << 20
RECONNECT_MS: Final = 20  # between two attempts; a router that restarts is back in little more

assert BULK_QUEUE_BYTES_MAX > LINK_FRAME_BYTES_MAX
assert CONTROL_QUEUE_BYTES_MAX > LINK_FRAME_BYTES_MAX

_LENGTH = struct.Struct("<I")
_LENGTH_BYTES: Final = _LENGTH.size
_unpack_length = _LENGTH.unpack_from
_pack_length = _LENGTH.pack


class FrameParser:
    """Stream in, frames out.  After a FrameError the stream has no borders any more: close it."""

    __slots__ = ("_frame_bytes_max", "_head", "_missing", "_pieces")

    def __init__(self, frame_bytes_max: int = LINK_FRAME_BYTES_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._head = b""  # 0..3 bytes of a length
        self._pieces: list[bytes] = []  # of the payload that is under way
        self._missing = 0  # its bytes that are still to come; 0: between frames

    @property
    def is_between_frames(self) -> bool:
        return not self._missing and not self._head

    def feed(self, data: bytes) -> list[bytes]:
        frames: list[bytes] = []
        at = 0
        end = len(data)
        if self._missing:
            if end < self._missing:
                self._pieces.append(data)
                self._missing -= end
                return frames
            at = self._missing
            self._pieces.append(data[:at])
            frames.append(b"".join(self._pieces))
            self._pieces = []
            self._missing = 0
        elif self._head:
            data = self._head + data
            end = len(data)
        while end - at >= _LENGTH_BYTES:
            length = _unpack_length(data, at)[0]
            if length > self._frame_bytes_max:
                raise FrameError(f"a frame of {length} bytes, above {self._frame_bytes_max}")
            at += _LENGTH_BYTES
            stop = at + length
            if stop > end:
                self._head = b""
                self._pieces = [data[at:]]
                self._missing = stop - end
                return frames
            frames.append(data[at:stop])
            at = stop
        self._head = data[at:]
        return frames


class LinkProtocol(asyncio.Protocol):
    """One end of a link.  All callbacks run in the loop's thread.

    ``on_frames(link, frames)`` once for each read; ``on_connected(link)``;
    ``on_closed(link, error)`` exactly once for each link that was connected, with the reason when
    it was not a plain end.
    """

    def __init__(
        self,
        on_frames: Callable[[LinkProtocol, list[bytes]], None],
        on_closed: Callable[[LinkProtocol, Exception | None], None],
        *,
        on_connected: Callable[[LinkProtocol], None] | None = None,
        on_dropped: Callable[[LinkProtocol, int, bool], None] | None = None,
        bulk_queue_bytes_max: int = BULK_QUEUE_BYTES_MAX,
        control_queue_bytes_max: int = CONTROL_QUEUE_BYTES_MAX,
    ) -> None:
        self._on_frames = on_frames
        self._on_closed = on_closed
        self._on_connected = on_connected
        self._on_dropped = on_dropped  # (link, bytes, control)
        self._bulk_queue_bytes_max = bulk_queue_bytes_max
        self._control_queue_bytes_max = control_queue_bytes_max
        self._parser = FrameParser()
        self._transport: asyncio.Transport | None = None
        self._error: Exception | None = None
        self._paused = False
        self._control: deque[bytes] = deque()
        self._bulk: deque[bytes] = deque()
        self._control_bytes = 0  # in the queue
        self._bulk_bytes = 0
        self.frames_in = self.frames_out = self.bytes_in = self.bytes_out = self.dropped = 0

    # -- called by the loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._transport is None, "a LinkProtocol serves one connection"
        self._transport = transport  # type: ignore[assignment]  # a stream, by construction
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=UNSENT_BYTES_MAX, low=UNSENT_BYTES_RESUME)
        if self._on_connected is not None:
            self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        self.bytes_in += len(data)
        try:
            frames = self._parser.feed(data)
        except FrameError as error:
            self._error = error
            self.abort()
            return
        if frames:
            self.frames_in += len(frames)
            self._on_frames(self, frames)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write_queued()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._control.clear()
        self._bulk.clear()
        self._control_bytes = self._bulk_bytes = 0
        if self._error is None and exc is None and not self._parser.is_between_frames:
            self._error = FrameError("the stream ended inside a frame")
        self._on_closed(self, self._error or exc)

    # -- called by the owner

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def queued_bytes(self) -> int:
        """What waits here; what the transport itself holds comes on top."""
        return self._control_bytes + self._bulk_bytes

    def send(self, payload: bytes, control: bool = False) -> bool:
        """Queue or write one frame.  False: it was dropped, and the sender must say so."""
        length = len(payload)
        assert length <= LINK_FRAME_BYTES_MAX, "senders split before the limit"
        transport = self._transport
        if transport is None or transport.is_closing():
            return self._drop(length, control)
        if not self._paused:  # then nothing waits
            self._write(transport, payload)
            return True
        if control:
            if self._control_bytes + length > self._control_queue_bytes_max:
                return self._drop(length, control)
            self._control.append(payload)
            self._control_bytes += length
        else:
            if self._bulk_bytes + length > self._bulk_queue_bytes_max:
                return self._drop(length, control)
            self._bulk.append(payload)
            self._bulk_bytes += length
        return True

    def close(self) -> None:
        """Write what the transport holds, then close; what waits in the queues is given up."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def statistics(self) -> dict[str, int]:
        return {
            "frames_in": self.frames_in,
            "frames_out": self.frames_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": self.dropped,
            "queued_bytes": self.queued_bytes,
        }

    def _write(self, transport: asyncio.Transport, payload: bytes) -> None:
        length = len(payload)
        self.frames_out += 1
        self.bytes_out += length + _LENGTH_BYTES
        if length < 16 << 10:
            transport.write(_pack_length(length) + payload)
        else:
            transport.writelines((_pack_length(length), payload))

    def _write_queued(self) -> None:
        transport = self._transport
        if transport is None:
            return
        while self._control and not self._paused:
            payload = self._control.popleft()
            self._control_bytes -= len(payload)
            self._write(transport, payload)
        while self._bulk and not self._paused:
            payload = self._bulk.popleft()
            self._bulk_bytes -= len(payload)
            self._write(transport, payload)

    def _drop(self, length: int, control: bool) -> bool:
        self.dropped += 1
        if self._on_dropped is not None:
            self._on_dropped(self, length, control)
        return False


async def listen(
    loop: asyncio.AbstractEventLoop, path: str, make_link: Callable[[], LinkProtocol]
) -> asyncio.AbstractServer:
    """Listen at ``path``.  A socket file that a dead router left behind is replaced.

    That no living router listens there is what the lock on DATA says, not the file.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    server: Any = await loop.create_unix_server(make_link, path)
    os.chmod(path, 0o600)
    return server  # type: ignore[no-any-return]


async def connect(
    loop: asyncio.AbstractEventLoop, path: str, make_link: Callable[[], LinkProtocol]
) -> LinkProtocol:
    """Connect to the router; OSError while none listens there."""
    _, link = await loop.create_unix_connection(make_link, path)
    return link


async def stay_connected(
    loop: asyncio.AbstractEventLoop,
    path: str,
    on_frames: Callable[[LinkProtocol, list[bytes]], None],
    on_connected: Callable[[LinkProtocol], None],
    on_closed: Callable[[LinkProtocol, Exception | None], None],
) -> None:
    """Connect, and connect again whenever the link has ended; until cancelled."""
    while True:
        closed: asyncio.Future[None] = loop.create_future()

        def end(
            link: LinkProtocol,
            error: Exception | None,
            closed: asyncio.Future[None] = closed,
        ) -> None:
            on_closed(link, error)
            if not closed.done():
                closed.set_result(None)

        def make(
            end: Callable[[LinkProtocol, Exception | None], None] = end,
        ) -> LinkProtocol:
            return LinkProtocol(on_frames, end, on_connected=on_connected)

        try:
            await connect(loop, path, make)
        except OSError:
            closed.cancel()
        else:
            await closed
        await asyncio.sleep(RECONNECT_MS / 1_000)
