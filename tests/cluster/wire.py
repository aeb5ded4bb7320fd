"""A client in the plainest form: frames as the contract has them, over any ZeroMQ socket.

Nothing is retried, coalesced or interpreted, so a test sees exactly what the node said.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgpack
import pytest
import zmq

from tests.cluster.conftest import CLUSTERS
from tests.cluster.harness import Cluster, wait_until
from transport import polyraft_pb2 as pb

REPLY_S_MAX: Final = 10.0
_numbers = itertools.count(1)


# --------------------------------------------------------------------------- requests


def write(
    operation: str, key: str = "", data: bytes = b"", *, group: str = "", **fields: Any
) -> pb.Request:
    body = pb.WriteRequest(operation=operation, key=key, data=data, group=group)
    return pb.Request(write=body, **fields)


def put(key: str, value: bytes = b"v", **fields: Any) -> pb.Request:
    return write("PUT", key, value, **fields)


def add(key: str, amount: int, **fields: Any) -> pb.Request:
    return write("ADD", key, msgpack.packb(amount), **fields)


def read(
    query: object,
    *,
    consistency: int = pb.LINEARIZABLE,
    min_index: int = 0,
    group: str = "",
    **fields: Any,
) -> pb.Request:
    body = pb.Read(
        request=pb.ReadRequest(data=msgpack.packb(query), group=group),
        consistency=consistency,  # type: ignore[arg-type]  # an open enum
        min_index=min_index,
    )
    return pb.Request(read=body, **fields)


def get(key: str, **fields: Any) -> pb.Request:
    return read({"get": key}, **fields)


def admin(command: str, value: str = "", timeout_ms: int = 0, **options: str) -> pb.Request:
    body = pb.Admin(command=command, value=value, options=options)
    return pb.Request(admin=body, timeout_ms=timeout_ms)


def batch(*requests: pb.Request) -> bytes:
    return pb.RequestBatch(requests=requests).SerializeToString()


# --------------------------------------------------------------------------- replies


def data_of(reply: pb.Reply) -> Any:
    """The msgpack value of an OK reply."""
    assert reply.code == pb.OK, describe(reply)
    return msgpack.unpackb(reply.response.data)


def describe(reply: pb.Reply) -> str:
    return f"{pb.Code.Name(reply.code)}: {reply.response.errMsg}"


def check_shape(payload: pb.ReplyBatch, requests: int) -> None:
    """What holds for each reply message there is."""
    assert len(payload.replies) == (1 if payload.whole else requests)
    for reply in payload.replies:
        assert reply.response.success == (reply.code == pb.OK)
        assert bool(reply.response.errMsg) == (reply.code != pb.OK), describe(reply)
        if reply.code in (pb.NOT_LEADER, pb.UNAVAILABLE, pb.INTERNAL):
            assert reply.maybe_applied, describe(reply)
        elif reply.code != pb.TIMEOUT:
            assert not reply.maybe_applied, describe(reply)
        if reply.code == pb.BUSY:
            assert reply.retry_after_ms > 0
        assert not reply.session


class Wire:
    """One socket to one node."""

    def __init__(self, address: str, kind: int = zmq.DEALER, **options: int) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket = context.socket(kind)
        self.socket.setsockopt(zmq.LINGER, 0)
        for name, value in options.items():
            self.socket.setsockopt(getattr(zmq, name), value)
        self.socket.connect(address)

    def close(self) -> None:
        self.socket.close()

    def send(self, group: str, *requests: pb.Request) -> bytes:
        """The correlation id."""
        correlation = b"c%d" % next(_numbers)
        self.send_frames(correlation, group.encode(), batch(*requests))
        return correlation

    def send_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def receive_frames(self, deadline_s: float = REPLY_S_MAX) -> list[bytes]:
        assert self.socket.poll(int(deadline_s * 1_000)), f"no reply within {deadline_s} s"
        return self.socket.recv_multipart()

    def receive(self, deadline_s: float = REPLY_S_MAX) -> tuple[bytes, pb.ReplyBatch]:
        frames = self.receive_frames(deadline_s)
        assert len(frames) == 2, frames
        return frames[0], pb.ReplyBatch.FromString(frames[1])

    def receive_all(
        self, count: int, deadline_s: float = REPLY_S_MAX
    ) -> dict[bytes, pb.ReplyBatch]:
        """So many replies, by correlation id; each may come once."""
        found: dict[bytes, pb.ReplyBatch] = {}
        for _ in range(count):
            correlation, payload = self.receive(deadline_s)
            assert correlation not in found, f"a second reply to {correlation!r}"
            found[correlation] = payload
        return found

    def is_quiet(self) -> bool:
        """Whether nothing more comes; a round trip through the node has to show it."""
        correlation = self.send("", admin("status"))
        return self.receive()[0] == correlation

    def call(
        self, group: str, *requests: pb.Request, deadline_s: float = REPLY_S_MAX
    ) -> pb.ReplyBatch:
        correlation = self.send(group, *requests)
        got, payload = self.receive(deadline_s)
        assert got == correlation
        check_shape(payload, len(requests))
        return payload

    def one(self, group: str, request: pb.Request, deadline_s: float = REPLY_S_MAX) -> pb.Reply:
        return self.call(group, request, deadline_s=deadline_s).replies[0]

    def done(self, group: str, request: pb.Request) -> pb.Reply:
        """The answer once somebody leads: who stood still may cost an election later yet."""

        def led() -> pb.Reply | None:
            reply = self.one(group, request)
            return None if reply.code == pb.NO_LEADER and not reply.maybe_applied else reply

        reply = wait_until(led, f"somebody leads {group}")
        assert reply is not None
        return reply

    def ask(self, group: str, command: str, value: str = "", **options: str) -> dict[str, Any]:
        """The JSON of an Admin that must succeed."""
        reply = self.one(group, admin(command, value, 0, **options))
        assert reply.code == pb.OK, describe(reply)
        answer: dict[str, Any] = json.loads(reply.response.data)
        return answer


@contextmanager
def wires() -> Iterator[Callable[..., Wire]]:
    """Makes :class:`Wire`, and closes them all."""
    made: list[Wire] = []

    def make(address: str, kind: int = zmq.DEALER, **options: int) -> Wire:
        made.append(Wire(address, kind, **options))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()


@contextmanager
def shared_cluster(directories: pytest.TempPathFactory, **arguments: Any) -> Iterator[Cluster]:
    """A started cluster for all tests of a module; ended, and checked, after the last."""
    cluster = Cluster(directories.mktemp("cluster"), **arguments)
    try:
        cluster.start()
        yield cluster
        cluster.close()
    finally:
        cluster.end_all()


def show_logs_of(cluster: Cluster, request: pytest.FixtureRequest) -> None:
    """For a fixture of each test that uses a shared cluster."""
    request.node.stash[CLUSTERS] = [cluster]


def counted(status: Mapping[str, Any], name: str) -> int:
    return int(status["counts"].get(name, 0))
