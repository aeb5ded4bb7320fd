"""Where the children of a node begin.

The node names these functions to the forkserver and calls none of them.  So what a child imports is
imported in them, by the child: to the node it would be a third of the time of its start.
"""

from __future__ import annotations

from multiprocessing.connection import Connection

from actors.router_arguments import RouterArguments
from actors.worker_arguments import WorkerArguments


def begin_router(arguments: RouterArguments, said: Connection) -> None:
    from actors.router import router_process

    router_process(arguments, said)


def begin_worker(arguments: WorkerArguments, said: Connection) -> None:
    from actors.worker import worker_process

    worker_process(arguments, said)
