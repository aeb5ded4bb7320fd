"""The logs of nodes that do not run, read from disk and held against what clients were told."""

from __future__ import annotations

import os
from collections import Counter

from actors.machine import WRITE_TAG
from raft.messages import COMMAND
from raft.store.files import Files
from raft.store.placement import Placement
from raft.store.recovery import recover
from raft.store.runs import decode_run
from tests.cluster.harness import Cluster, Node
from tests.cluster.workload import Workload
from transport.protocol import parse_write

Log = dict[int, str]  # index -> tag of the command there; empty: a command without one


def read_log(node: Node, group: str) -> Log:
    """Every command in a replica's log, committed or not."""
    assert not node.is_running
    files = Files()
    data = str(node.data)
    placement = Placement.load(files, data)
    found = [number for number, placed in placement.groups.items() if placed.name == group]
    assert len(found) == 1, f"{node.name} has placed {group} as {found}"
    slot = placement.groups[found[0]].slot
    recovered = recover(files, os.path.join(data, "wal", str(slot)), slot, None).groups[found[0]]
    log: Log = {}
    for run in recovered.runs:
        if run.kind == COMMAND:
            for index, command in enumerate(decode_run(run.body).commands, run.first):
                assert command[3][:2] == WRITE_TAG
                log[index] = parse_write(command[3][2:]).type
    return log


def check_logs(cluster: Cluster, group: str, *workloads: Workload) -> None:
    """What was acknowledged is in each log where it was said to be; what was refused, in none; and
    nothing twice.  The replicas must have been equal before they were stopped."""
    for node in cluster.nodes:
        log = read_log(node, group)
        tags = Counter(tag for tag in log.values() if tag)
        twice = [tag for tag, count in tags.items() if count > 1]
        assert not twice, f"{node.name} has in its log more than once: {twice[:10]}"
        for workload in workloads:
            wrong = {
                tag: (index, log.get(index))
                for tag, index in workload.acknowledged.items()
                if log.get(index) != tag
            }
            assert not wrong, f"{node.name} lacks {len(wrong)}, first {list(wrong.items())[:5]}"
            refused = {tag: error for tag, error in workload.refused.items() if tag in tags}
            assert not refused, f"{node.name} has in its log what was refused: {refused}"
            unexplained = [
                tag
                for tag in tags
                if int(tag.split(".")[0]) in workload.clients
                and tag not in workload.acknowledged
                and tag not in workload.unknown
            ]
            assert not unexplained, f"{node.name} has what nobody sent: {unexplained}"
