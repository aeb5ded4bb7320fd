"""A blank node asks a cluster to take it in, as a client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from actors.config import NodeConfig
from actors.joining import ask_to_join
from actors.node_data import NodeRefused
from tests.transport.client.fake_node import FakeNode, each, reply
from transport import polyraft_pb2 as pb

NODES = {"nodes": [{"id": "n1", "peer": "tcp://n1:1"}, {"id": "n2", "peer": None}]}


def config(address: str) -> NodeConfig:
    return NodeConfig(
        id="n4",
        data=Path("/data"),
        members={"n4": "tcp://n4:1"},
        join=address,
        advertise_peer="tcp://n4:1",
        advertise_client="tcp://n4:0",
        advertise_events="tcp://n4:2",
    )


def test_it_says_who_it_is_and_learns_where_the_others_are() -> None:
    def answer(group: str, batch: Any) -> Any:
        is_read = batch.requests[0].admin.command == "nodes"
        return each(reply(data=json.dumps(NODES if is_read else {"node": "n4"}).encode()))

    with FakeNode(answer) as node:
        asked = ask_to_join(config(node.address), 44)
        admins = [(group, batch.requests[0].admin) for group, batch in node.messages]
    assert [(group, it.command) for group, it in admins] == [
        ("_system", "joinNode"),
        ("_system", "nodes"),
    ]
    assert admins[0][1].value == "n4"
    assert dict(admins[0][1].options) == {
        "incarnation": "44",
        "client": "tcp://n4:0",
        "peer": "tcp://n4:1",
        "events": "tcp://n4:2",
    }
    assert asked.members == {"n1": "tcp://n1:1", "n4": "tcp://n4:1"}


def test_a_cluster_that_refuses_says_why_in_one_line() -> None:
    no = reply(code=pb.REJECTED, text="replace the node")
    with (
        FakeNode(lambda group, batch: each(no)) as node,
        pytest.raises(NodeRefused, match="replace the node") as caught,
    ):
        ask_to_join(config(node.address), 44)
    assert "\n" not in str(caught.value)
