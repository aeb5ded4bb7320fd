"""What a group answers, as bytes: the results of its machine, and the reasons why there are none.

Every answer names the leader as this replica knows it; when that is this replica itself, also the
address at which clients reach it, so that who came through another node can find the shorter way.
"""

from __future__ import annotations

import json

import msgpack

from actors.machine import ANSWER_BYTES_MAX, Answered
from actors.machines import DONE, Response
from actors.settings import RETRY_AFTER_MS
from transport import protocol


class ReplyEncoder:
    """``node``, ``address``: of this replica, and where clients reach it."""

    __slots__ = ("_address", "_node")

    def __init__(self, node: str, address: str) -> None:
        self._node = node
        self._address = address

    def whole(
        self,
        leader: str | None,
        code: int,
        text: str,
        *,
        maybe_applied: bool = False,
        retry_after_ms: int = 0,
        index: int = 0,
    ) -> bytes:
        """One Reply for all requests of a message."""
        return protocol.encode_whole(
            code,
            text,
            maybe_applied=maybe_applied,
            leader=leader or "",
            leader_address=self._address_of(leader),
            retry_after_ms=retry_after_ms,
            index=index,
        )

    def writes(self, first_index: int, responses: list[Response], as_json: bool = False) -> bytes:
        """The answers of the machine to consecutive writes that this leader appended."""
        if as_json:
            responses = [_to_json(each) for each in responses]
        elif responses.count(DONE) == len(responses):
            return protocol.ok_batch(first_index, len(responses), self._node, self._address)
        payload = protocol.encode_batch(
            [
                self._reply(self._node, response, index)
                for index, response in enumerate(responses, first_index)
            ]
        )
        if len(payload) > ANSWER_BYTES_MAX:
            text = f"applied, but the answers of this message exceed {ANSWER_BYTES_MAX} bytes"
            return self.whole(
                self._node, protocol.INTERNAL, text, maybe_applied=True, index=first_index
            )
        return payload

    def reads(self, leader: str | None, answered: Answered) -> bytes:
        """The answers to one read message, or why the machine gave none."""
        if answered.error is not None:
            return self.whole(leader, protocol.INTERNAL, answered.error, maybe_applied=True)
        if answered.busy:
            text = "too many reads wait for the machine"
            return self.whole(leader, protocol.BUSY, text, retry_after_ms=RETRY_AFTER_MS)
        if answered.too_large:
            text = f"the answers of this message exceed {ANSWER_BYTES_MAX} bytes; ask in several"
            return self.whole(leader, protocol.REJECTED, text, index=answered.index)
        return protocol.encode_batch(
            [self._reply(leader, each, answered.index) for each in answered.responses]
        )

    def data(self, leader: str | None, data: bytes) -> bytes:
        """OK with data, to a message of one request that stands in no log."""
        address = self._address_of(leader)
        return protocol.encode_batch([protocol.ok_reply_with_data(0, leader or "", data, address)])

    def _address_of(self, leader: str | None) -> str:
        return self._address if leader == self._node else ""

    def _reply(self, leader: str | None, response: Response, index: int) -> bytes:
        address = self._address_of(leader)
        if response.success:
            return protocol.ok_reply_with_data(index, leader or "", response.data, address)
        return protocol.encode_reply(
            protocol.REJECTED,
            response.error,
            data=response.data,
            index=index,
            leader=leader or "",
            leader_address=address,
        )


def _to_json(response: Response) -> Response:
    """Admin answers are JSON; the catalog's own are msgpack."""
    if not response.success:
        return response
    values = msgpack.unpackb(response.data) if response.data else {}
    return Response(json.dumps(values).encode())
