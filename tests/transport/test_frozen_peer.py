"""A peer whose process stands still: its connection stays open, and must not look alive."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.transport.helpers import FreshContext, run_story, until
from transport.frames import LANE_CONTROL, PEER_RAFT, Endpoint, Hello
from transport.peers import CONNECTING, UP, PeerLink

CLUSTER = b"c" * 16
HELLO = Hello(True, b"", "", "", "", 1, 1, [])

OTHER_NODE = """
import zmq
from transport import sockets
from transport.frames import Endpoint, Hello, PeerFrameParser, pack_hello_frame
router = sockets.peer_router(sockets.make_context())
router.bind("tcp://127.0.0.1:*")
print(sockets.bound_address(router), flush=True)
parser = PeerFrameParser()
while True:
    identity, data = router.recv_multipart()
    header = parser.parse(data).header
    me = Endpoint(b"c" * 16, "n2", 22, 222)
    hello = Hello(True, b"", "", "", "", 1, 1, [])
    answer = pack_hello_frame(me, header.sender, header.sender_incarnation, hello)
    router.send_multipart([identity, answer])
"""


@pytest.mark.cluster
def test_a_frozen_peer_is_down_after_two_heartbeats_and_up_when_it_thaws() -> None:
    async def story(address: str, pid: int) -> None:
        with FreshContext() as context:
            reasons: list[str] = []
            link = PeerLink(
                context,
                asyncio.get_running_loop(),
                me=Endpoint(CLUSTER, "n1", 11, 111),
                node="n2",
                address=address,
                make_hello=lambda: HELLO,
                on_up=lambda _: None,
                on_down=lambda _, reason: reasons.append(reason),
            )
            link.start()
            await until(lambda: link.state == UP)
            os.kill(pid, signal.SIGSTOP)
            await until(lambda: link.state == CONNECTING)
            assert reasons == ["disconnected"]
            assert not link.send(LANE_CONTROL, PEER_RAFT, b"x")
            os.kill(pid, signal.SIGCONT)
            await until(lambda: link.state == UP)
            link.close()

    root = Path(__file__).parent.parent.parent
    child = subprocess.Popen(
        [sys.executable, "-c", OTHER_NODE], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        run_story(story(address, child.pid))
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
