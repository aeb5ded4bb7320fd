"""``bin/node --dev N``: a cluster of N nodes on this machine, each a node as anywhere else.

The nodes are ordinary ``bin/node`` processes; this one starts them, repeats their ready lines,
says ``ready cluster`` when every group has a leader, and ends them when it is told to.  It
restarts nobody: to see what a cluster does without a node, kill one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from actors.catalog import SYSTEM_GROUP
from actors.config import NodeConfig
from actors.settings import STOP_MS_MAX
from transport.client import AsyncClient, PolyraftError

ASK_AGAIN_MS: Final = 100
STOP_NODES_MS_MAX: Final = 2 * STOP_MS_MAX
_PR_SET_PDEATHSIG: Final = 1
_ROOT: Final = Path(__file__).resolve().parent.parent


class DevCluster:
    """The nodes of one ``--dev``."""

    def __init__(self, configs: Sequence[NodeConfig]) -> None:
        self._configs = configs
        self._nodes: list[asyncio.subprocess.Process] = []
        self._addresses: list[str] = []
        self._stop = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        try:
            return await self._run()
        finally:
            await self._end_all()

    async def _run(self) -> int:
        for config in self._configs:
            self._nodes.append(await self._start(config))
        stopping = asyncio.create_task(self._stop.wait())
        working = asyncio.create_task(self._announce())
        await asyncio.wait((stopping, working), return_when=asyncio.FIRST_COMPLETED)
        if working.done() and not working.result():
            return 1
        if not working.done():
            working.cancel()
        await stopping
        return 0

    async def _start(self, config: NodeConfig) -> asyncio.subprocess.Process:
        environment = dict(os.environ)
        path = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{path}" if path else str(_ROOT)
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "actors.cli",
            *config.arguments(),
            stdout=asyncio.subprocess.PIPE,
            stdin=asyncio.subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # an interrupt at the terminal comes to us, and we end them
            preexec_fn=end_with_parent,
        )

    async def _announce(self) -> bool:
        """Ready lines as they come, then the cluster; False when a node ended before that."""
        for node in self._nodes:
            assert node.stdout is not None
            line = (await node.stdout.readline()).decode()
            if not line.startswith("ready "):
                return False
            sys.stdout.write(line)
            sys.stdout.flush()
            fields = dict(field.split("=", 1) for field in line.split()[1:])
            self._addresses.append(fields["client"])
        groups = {name for config in self._configs for name in config.groups}
        async with AsyncClient(self._addresses) as client:
            for group in (SYSTEM_GROUP, *sorted(groups)):
                while not await _has_leader(client, group):  # noqa: ASYNC110 - of other processes
                    await asyncio.sleep(ASK_AGAIN_MS / 1_000)
        sys.stdout.write("ready cluster\n")
        sys.stdout.flush()
        return True

    async def _end_all(self) -> None:
        running = [node for node in self._nodes if node.returncode is None]
        for node in running:
            node.terminate()
        ends = [asyncio.create_task(node.wait()) for node in running]
        if ends:
            _, late = await asyncio.wait(ends, timeout=STOP_NODES_MS_MAX / 1_000)
            for node in running:
                if late and node.returncode is None:
                    node.kill()


async def _has_leader(client: AsyncClient, group: str) -> bool:
    try:
        answer = await client.admin(group, "why")
    except PolyraftError:
        return False
    return bool(answer["ok"])


def end_with_parent() -> None:
    """In the child: SIGTERM when this process is gone, however it went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def run_dev(configs: Sequence[NodeConfig]) -> int:
    return asyncio.run(DevCluster(configs).run())
