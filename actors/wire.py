"""What the processes of one node say to each other over their Unix links.

Every frame is ``[kind, from epoch, to epoch, fields...]`` (:mod:`transport.frames`); this file
names the kinds and their fields.  *R* is the router, *W* a worker, *N* the node process.
"Flat" is one array with the fields of all items in a row: cheaper than an array for each.

A ``token`` is the router's number for a client message that it handed over; it means nothing to
anybody else and is good for one life of the router: each life begins at another number.
A ``summary`` is the map of :meth:`actors.group.GroupActor.summary`.
"""

from __future__ import annotations

from typing import Final

# W, N -> R.  First frame of a link; the to-epoch is 0.
# role "worker" | "node", slot, pid, [[group id, summary] ...]
HELLO: Final = 1
# R -> W, N.  Answer: from here on frames carry both epochs.
# node id, addresses {"client", "peer", "events"} as bound, or an empty map while nothing is bound
WELCOME: Final = 2
# R -> W.  flat [token, group id, remaining ms, rights, RequestBatch]
REQUESTS: Final = 3
# R -> W, in the lane that it travelled in.  flat [node, incarnation, [group id, message] flat];
# here and below incarnation is that of a disk, 0: the message says for whom it is
PEER_IN: Final = 4
# W -> R.  What one turn made: flat [node, incarnation, group id, message] for the bulk lane,
# flat [token, ReplyBatch], flat [token, leader's node | nil, term, reason] (not accepted)
ROUND: Final = 5
# W -> R, control.  flat [node, incarnation, group id, message] for the control lane
PEER_CONTROL: Final = 6
# W -> R, control.  [[group id, summary] ...]: these have changed
SUMMARIES: Final = 7
# R -> W, control.  query id, group ids
DESCRIBE: Final = 8
# W -> R, control.  query id, [[group id, description] ...], {"disk", "log"}: what they share
DESCRIBED: Final = 9
# R -> W, control.  node: the connection to it was reset
LINK_CLOSED: Final = 10
# W -> R -> N, control.  The catalog as the local replica of _system has applied it:
# {"nodes": [...], "groups": [...]}, complete or what is new
CATALOG: Final = 11
# N -> R, control.  cluster id (empty: blank), [[node, incarnation] ...] who formed it
IDENTITY: Final = 12
# N -> R, control.  [[group id, name, machine, [node ...], slot | nil] ...], complete
GROUPS: Final = 13
# N -> R, control.  [[node, incarnation, {"peer", "client", "events"}, version, awaits, removed]
# ...]: who is who and where they are reached (actors/known_nodes.py), complete
NODES: Final = 14
# N -> R, control.  {"processes": [...], "forming": text | nil, "damaged": {slot: text},
# "ended": {slot: text}}: the last words of workers that are down
STATE: Final = 15
# N -> R, as a client of its own node.  number, group name, RequestBatch, elsewhere? (not to be
# given to a worker of this node)
REQUEST: Final = 16
# R -> N.  number, ReplyBatch
REPLY: Final = 17
# R -> N, control.  A worker said HELLO or its link ended: slot, pid, up?, [group id ...]
WORKER: Final = 18
# R -> N, control.  A peer said who it is: node, incarnation, cluster, members hash, pairs, and
# what it knows of nodes (transport.frames.Hello)
PEER_HELLO: Final = 19
# N -> R -> W, control.  slot: read the placement again, it has news for you; answered by REPLICAS
RELOAD: Final = 20
# N -> R -> W, control.  Accept nothing more; W answers DRAINED when nothing is under way
DRAIN: Final = 21
# W -> R -> N, control.  slot
DRAINED: Final = 22
# R -> W, control.  To the worker of _system: send the complete CATALOG again
CATALOG_WANTED: Final = 23
# N -> R -> W, control.  slot, [[group id, version, voters, learners] ...], the latter two as
# [[node, incarnation] ...]: what the catalog wants of these groups (actors/desired.py)
DESIRED: Final = 30
# W -> R -> N, control.  slot, group id, token, command, value, options: an Admin for the catalog
ASK_CATALOG: Final = 31
# N -> R -> W, control.  slot, group id, token, code, reason, data: what came of it
CATALOG_ANSWER: Final = 32
# R -> N, control.  A blank disk calls itself by the name of a node: node, incarnation, {"client",
# "peer", "events"}
CANDIDATE: Final = 33
# W -> R -> N, control.  [[group id, life, what, reason] ...]: replicas that wait for the placement.
# "begun": its first record is durable, and it is opened when the placement says so; "lost": its log
# is, for that reason, and it may come back as another replica
REPLICAS: Final = 24
BEGUN: Final = "begun"
LOST: Final = "lost"
# R -> N, control.  The local replica of _system has applied all that is committed, as a leader of
# the present term has told it
CATALOG_CURRENT: Final = 34
