"""Worker links: frames out of a stream however it is cut, and two lanes that never block."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.helpers import RUNNER_NAMES, RUNNERS, run_story, until
from transport import links
from transport.frames import LINK_FRAME_BYTES_MAX, FrameError
from transport.links import FrameParser, LinkProtocol


def framed(*payloads: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(payload)) + payload for payload in payloads)


PAYLOADS = (b"one", b"", b"x" * 300, b"last")

# ------------------------------------------------------------------------------------------ parser


def test_all_complete_frames_of_a_read_come_in_one_list() -> None:
    assert FrameParser().feed(framed(*PAYLOADS)) == list(PAYLOADS)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 64, 1_000])
def test_frames_come_whole_however_the_stream_is_cut(step: int) -> None:
    parser = FrameParser()
    stream = framed(*PAYLOADS) * 3
    frames: list[bytes] = []
    for at in range(0, len(stream), step):
        frames += parser.feed(stream[at : at + step])
    assert frames == list(PAYLOADS) * 3
    assert parser.is_between_frames


@given(st.lists(st.binary(max_size=20), max_size=8), st.lists(st.integers(1, 9), min_size=1))
def test_any_cuts_give_the_same_frames(payloads: list[bytes], steps: list[int]) -> None:
    parser = FrameParser()
    stream = framed(*payloads)
    frames: list[bytes] = []
    at = turn = 0
    while at < len(stream):
        step = steps[turn % len(steps)]
        frames += parser.feed(stream[at : at + step])
        at += step
        turn += 1
    assert frames == payloads


def test_an_incomplete_frame_is_kept_in_pieces_and_joined_once() -> None:
    parser = FrameParser()
    assert parser.feed(struct.pack("<I", 30) + b"a" * 10) == []
    assert parser.feed(b"b" * 10) == []
    assert [len(piece) for piece in parser._pieces] == [10, 10]
    assert not parser.is_between_frames
    assert parser.feed(b"c" * 10 + framed(b"next")) == [b"a" * 10 + b"b" * 10 + b"c" * 10, b"next"]
    assert parser._pieces == []


def test_a_length_above_the_limit_is_refused_before_anything_is_kept() -> None:
    parser = FrameParser()
    with pytest.raises(FrameError):
        parser.feed(struct.pack("<I", LINK_FRAME_BYTES_MAX + 1))
    assert FrameParser().feed(struct.pack("<I", LINK_FRAME_BYTES_MAX)) == []


# ------------------------------------------------------------------------ the protocol, pretended


class Wire(asyncio.Transport):
    """A transport that takes everything and reports pressure as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.pieces: list[bytes] = []
        self.closing = False
        self.aborted = False
        self.limits: tuple[int | None, int | None] = (None, None)

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = (high, low)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Ends:
    """Records what a link calls."""

    def __init__(self, **limits: Any) -> None:
        self.frames: list[list[bytes]] = []
        self.closed: list[Exception | None] = []
        self.dropped: list[tuple[int, bool]] = []
        self.link = LinkProtocol(
            lambda _, frames: self.frames.append(frames),
            lambda _, error: self.closed.append(error),
            on_dropped=lambda _, count, control: self.dropped.append((count, control)),
            **limits,
        )
        self.wire = Wire()
        self.link.connection_made(self.wire)


def test_one_read_is_one_call() -> None:
    ends = Ends()
    ends.link.data_received(framed(b"a", b"b") + b"\x05")
    ends.link.data_received(b"\0\0")
    ends.link.data_received(b"\0hello")
    assert ends.frames == [[b"a", b"b"], [b"hello"]]
    assert ends.link.statistics()["frames_in"] == 3


def test_the_transport_is_told_to_hold_256_kib_at_most() -> None:
    assert Ends().wire.limits == (256 << 10, 128 << 10)


def test_under_pressure_control_goes_before_bulk() -> None:
    ends = Ends()
    assert ends.link.send(b"first")
    ends.link.pause_writing()
    assert ends.link.send(b"bulk 1")
    assert ends.link.send(b"bulk 2")
    assert ends.link.send(b"control", control=True)
    assert ends.wire.written == framed(b"first")
    ends.link.resume_writing()
    assert ends.wire.written == framed(b"first", b"control", b"bulk 1", b"bulk 2")
    assert ends.link.queued_bytes == 0


def test_pressure_that_returns_while_the_queue_is_written_stops_it_again() -> None:
    ends = Ends()
    ends.link.pause_writing()
    for number in range(4):
        ends.link.send(b"%d" % number)
    original = ends.wire.write

    def write(data: Any) -> None:
        original(data)
        ends.link.pause_writing()

    ends.wire.write = write  # type: ignore[method-assign]
    ends.link.resume_writing()
    assert ends.wire.written == framed(b"0")
    ends.link.send(b"control", control=True)
    ends.link.resume_writing()
    assert ends.wire.written == framed(b"0", b"control")
    assert ends.link.queued_bytes == 3


def test_what_does_not_fit_its_queue_is_dropped_and_told() -> None:
    ends = Ends(bulk_queue_bytes_max=10, control_queue_bytes_max=5)
    ends.link.pause_writing()
    assert ends.link.send(b"x" * 10)
    assert not ends.link.send(b"y")
    assert ends.link.send(b"c" * 5, control=True)
    assert not ends.link.send(b"d", control=True)
    assert ends.dropped == [(1, False), (1, True)]
    assert ends.link.dropped == 2
    ends.link.resume_writing()
    assert ends.wire.written == framed(b"c" * 5, b"x" * 10)


def test_after_the_end_everything_is_dropped_and_the_end_is_told_once() -> None:
    ends = Ends()
    ends.link.pause_writing()
    ends.link.send(b"waits")
    ends.link.connection_lost(None)
    assert ends.closed == [None]
    assert not ends.link.send(b"late")
    assert not ends.link.is_open
    assert ends.link.queued_bytes == 0


def test_an_end_inside_a_frame_is_not_a_plain_end() -> None:
    ends = Ends()
    ends.link.data_received(b"\x05\0\0\0he")
    ends.link.connection_lost(None)
    assert type(ends.closed[0]) is FrameError


def test_a_frame_above_the_limit_ends_the_link_with_the_reason() -> None:
    ends = Ends()
    ends.link.data_received(b"\xff\xff\xff\xff")
    assert ends.wire.aborted
    ends.link.connection_lost(None)
    assert type(ends.closed[0]) is FrameError


# ------------------------------------------------------------------------------- over real sockets


@pytest.mark.parametrize("run", RUNNERS, ids=RUNNER_NAMES)
def test_a_worker_that_does_not_read_delays_nobody_and_gets_control_first(
    run: Callable[..., None], tmp_path: Path
) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "s")
        router_ends: list[LinkProtocol] = []
        got: list[bytes] = []
        closed: list[Exception | None] = []

        def make(on_connected: Callable[[LinkProtocol], None] | None) -> LinkProtocol:
            return LinkProtocol(
                lambda _, frames: got.extend(frames),
                lambda _, error: closed.append(error),
                on_connected=on_connected,
            )

        server = await links.listen(loop, path, lambda: make(router_ends.append))
        assert os.stat(path).st_mode & 0o777 == 0o600
        worker = await links.connect(loop, path, lambda: make(None))
        await until(lambda: router_ends)
        (router,) = router_ends
        assert worker._transport is not None
        worker._transport.pause_reading()

        bulk = [bytes([n]) * (64 << 10) for n in range(64)]
        for payload in bulk:
            assert router.send(payload)
        assert router.queued_bytes > 2 << 20  # 4 MiB sent, 256 KiB and the kernel's buffer gone
        assert router.send(b"heartbeat", control=True)
        worker._transport.resume_reading()
        await until(lambda: len(got) == len(bulk) + 1)
        assert [frame for frame in got if frame != b"heartbeat"] == bulk
        assert got.index(b"heartbeat") < 32

        worker.close()
        await until(lambda: len(closed) == 2)
        assert closed == [None, None]
        server.close()

    run(story())


def test_a_socket_file_left_behind_is_replaced(tmp_path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "s")
        (tmp_path / "s").write_text("left over")

        def make() -> LinkProtocol:
            return LinkProtocol(lambda *_: None, lambda *_: None)

        server = await links.listen(loop, path, make)
        (await links.connect(loop, path, make)).close()
        server.close()

    run_story(story())


def test_who_stays_connected_comes_back_when_the_other_end_does(tmp_path: Path) -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "s")
        router_ends: list[LinkProtocol] = []
        heard: list[str] = []

        def router_end() -> LinkProtocol:
            return LinkProtocol(lambda *_: None, lambda *_: None, on_connected=router_ends.append)

        staying = loop.create_task(
            links.stay_connected(
                loop,
                path,
                lambda link, frames: heard.extend(frame.decode() for frame in frames),
                lambda link: heard.append("connected"),
                lambda link, error: heard.append("closed"),
            )
        )
        # Nobody listens yet; then somebody does, ends the link, and takes the next one.
        server = await links.listen(loop, path, router_end)
        await until(lambda: router_ends)
        router_ends[0].send(b"hello")
        await until(lambda: "hello" in heard)
        router_ends[0].close()
        await until(lambda: len(router_ends) == 2)
        await until(lambda: heard == ["connected", "hello", "closed", "connected"])
        staying.cancel()
        server.close()

    run_story(story())
