"""The Python client of a polyraft cluster, and the programs made of it.

errors        what can become of a call, as exceptions
wire          requests to bytes, replies to outcomes: the only user of the generated protobuf code
calls         calls, the lanes they queue in, the messages they travel in
routes        which node to send to: addresses, links, known leaders
engine        all of the above together, without sockets, clock or threads
carrier       an engine over DEALER sockets on an asyncio loop
requests      what can be asked, and its result; shared by both front ends
asynchronous  AsyncClient, AsyncSession, AsyncKV
blocking      Client, Session, KV
ctl           the operator's command line
bench         the load generator: load, fleet, histogram, ask and more belong to it
"""

from transport.client.asynchronous import AsyncClient, AsyncKV, AsyncSession
from transport.client.blocking import KV, Client, Session
from transport.client.calls import ClientSettings
from transport.client.errors import (
    ApplyFailed,
    BadRequest,
    Busy,
    ClientClosed,
    Forbidden,
    NoLeader,
    NoSuchGroup,
    OutcomeUnknown,
    PolyraftError,
    ReadOnly,
    Rejected,
    SessionExpired,
    ShuttingDown,
    TimedOut,
    Unreachable,
)
from transport.client.kv import KVEntry
from transport.client.requests import ReadResult, WriteResult

__all__ = [
    "KV",
    "ApplyFailed",
    "AsyncClient",
    "AsyncKV",
    "AsyncSession",
    "BadRequest",
    "Busy",
    "Client",
    "ClientClosed",
    "ClientSettings",
    "Forbidden",
    "KVEntry",
    "NoLeader",
    "NoSuchGroup",
    "OutcomeUnknown",
    "PolyraftError",
    "ReadOnly",
    "ReadResult",
    "Rejected",
    "Session",
    "SessionExpired",
    "ShuttingDown",
    "TimedOut",
    "Unreachable",
    "WriteResult",
]
