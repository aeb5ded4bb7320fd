"""A node that speaks the wire contract and nothing more: a ROUTER in a thread, with a script.

What it answers is one function from (group, RequestBatch) to a ReplyBatch, to bytes that are sent
as they are, or to None for silence. `KVMachine` is such a function: one kv group, applied at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgpack
import zmq

from transport import polyraft_pb2 as pb

Answer = pb.ReplyBatch | bytes | None
Script = Callable[[str, pb.RequestBatch], Answer]


def reply(
    code: int = 0,
    *,
    data: bytes = b"",
    text: str = "",
    maybe: bool = False,
    leader_address: str = "",
    index: int = 0,
    retry_after_ms: int = 0,
    session: int = 0,
) -> pb.Reply:
    """One Reply."""
    return pb.Reply(
        response=pb.Response(data=data, errMsg=text, success=code == 0),
        code=pb.Code.Name(code),
        maybe_applied=maybe,
        leader_address=leader_address,
        index=index,
        retry_after_ms=retry_after_ms,
        session=session,
    )


def each(*replies: pb.Reply) -> pb.ReplyBatch:
    """A reply for each request."""
    return pb.ReplyBatch(replies=replies)


def whole(one: pb.Reply) -> pb.ReplyBatch:
    """One reply for the whole message."""
    return pb.ReplyBatch(replies=[one], whole=True)


class FakeNode:
    """A node in a thread; stop() leaves its port free, start() takes the same one again."""

    def __init__(self, script: Script, address: str = "") -> None:
        self.script = script
        self.messages: list[tuple[str, pb.RequestBatch]] = []
        self.address = address
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._thread = threading.Thread()
        self.start()

    def start(self) -> None:
        """Bind, then answer."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(self.address or "tcp://127.0.0.1:*")
        self.address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, args=(context, socket), daemon=True)
        self._thread.start()

    def _run(self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes]) -> None:
        while not self._stopping.is_set():
            if not socket.poll(10):
                continue
            identity, correlation, group, batch = socket.recv_multipart()
            message = (group.decode(), pb.RequestBatch.FromString(batch))
            with self._changed:
                self.messages.append(message)
                self._changed.notify_all()
            answer = self.script(*message)
            if answer is not None:
                payload = answer if isinstance(answer, bytes) else answer.SerializeToString()
                socket.send_multipart([identity, correlation, payload])
        socket.close()
        context.term()

    def wait_messages(self, count: int) -> None:
        """Return when the node has received so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.messages) >= count, timeout=60)

    def stop(self) -> None:
        """End the node, its connections too."""
        self._stopping.set()
        self._thread.join()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class KVMachine:
    """The kv group of a one-node cluster: a dict and a log index."""

    def __init__(self, leader_address: str = "") -> None:
        self.values: dict[str, tuple[bytes, int]] = {}
        self.index = 0
        self.leader_address = leader_address
        self.admin: Mapping[str, bytes] = {}

    def __call__(self, group: str, batch: pb.RequestBatch) -> pb.ReplyBatch:
        """Answer each request."""
        return each(*(self._answer(request) for request in batch.requests))

    def _answer(self, request: pb.Request) -> pb.Reply:
        kind = request.WhichOneof("body")
        if kind == "write":
            return self._write(request.write)
        if kind == "read":
            data = self._read(msgpack.unpackb(request.read.request.data))
            return reply(data=msgpack.packb(data), index=self.index)
        if kind == "open_session":
            return reply(session=request.session or 77)
        if kind == "admin" and request.admin.command in self.admin:
            return reply(data=self.admin[request.admin.command])
        return reply() if kind == "close_session" else reply(pb.BAD_REQUEST, text="unknown")

    def _write(self, write: pb.WriteRequest) -> pb.Reply:
        self.index += 1
        old = self.values.get(write.key)
        if write.operation == "PUT":
            self.values[write.key] = (write.data, self.index)
        elif write.operation == "DELETE":
            self.values.pop(write.key, None)
        elif write.operation == "CAS":
            expected, new = msgpack.unpackb(write.data)
            if (old[0] if old else None) != expected:
                return reply(pb.REJECTED, text="the value differs", index=self.index)
            self.values[write.key] = (new, self.index)
        elif write.operation == "ADD":
            total = (int(old[0]) if old else 0) + msgpack.unpackb(write.data)
            self.values[write.key] = (str(total).encode(), self.index)
            return reply(data=msgpack.packb(total), index=self.index)
        else:
            return reply(pb.REJECTED, text="unknown operation", index=self.index)
        return reply(index=self.index, leader_address=self.leader_address)

    def _read(self, question: dict[str, object]) -> object:
        if "get" in question:
            found = self.values.get(str(question["get"]))
            return None if found is None else {"value": found[0], "version": found[1]}
        if "size" in question:
            return len(self.values)
        return [[key, value, version] for key, (value, version) in sorted(self.values.items())]
