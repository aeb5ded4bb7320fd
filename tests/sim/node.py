"""The node process of a simulated host: which groups it has, and as which life of its disk.

Real are the placement and its file, :class:`actors.rebirths.Rebirths` and
:class:`actors.local_groups.LocalGroups`; calls to workers and to the router stand in for frames,
and arrive some time later, if at all.

It can die in the middle of writing the placement: then the host has no power, and comes back with
what is on its disks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from actors import wire
from actors.catalog import SYSTEM_GROUP
from actors.catalog_members import Row
from actors.known_nodes import KnownNodes
from actors.local_groups import LocalGroups
from actors.rebirths import Answered, Rebirths, Ways
from actors.wire import LOST
from raft.lives import replica_of
from raft.messages import Replica
from raft.store.files import make_directory
from raft.store.memory import PowerLoss
from raft.store.placement import LEFT, PlacedGroup, Placement
from tests.sim.loop import SimLoop
from tests.sim.slot_files import SlotFiles
from tests.sim.world import MS
from transport import protocol
from transport.protocol import AdminOperation

if TYPE_CHECKING:
    from tests.sim.host import Host

DATA: Final = "/data"
GROUPS_PER_WORKER: Final = 8  # more than there are: all new ones come into the first slot
NOTICE_US_MAX: Final = 5 * MS  # until a process hears what another one says
CATALOG_US_MAX: Final = 200 * MS  # until a process that has started knows what is wanted


class NodeDied(BaseException):
    """Out of whatever it was doing."""


class NodeProcess:
    """``me``: the host with its disk.  Lives as long as the disk; :meth:`start` begins a life."""

    def __init__(self, host: Host, placed: Mapping[int, PlacedGroup]) -> None:
        self.host = host
        self._rng: random.Random = host.world.stream(f"lives/{host.name}/{host.me.incarnation}")
        self.files = SlotFiles(recording=False)
        make_directory(self.files, DATA)
        self.placement = Placement.load(self.files, DATA)
        self.placement.replace(placed)
        self.heard: dict[int, Row] = {}  # what the catalog wants, as far as this host was told
        self.at_next_placing: Callable[[int], None] | None = None  # hears of the slot
        self.counts = {"left": 0, "returned": 0, "placed": 0, "died placing": 0}

    def start(self) -> None:
        self.placement = Placement.load(self.files, DATA)
        self.loop = SimLoop(lambda: self.host.world.now_us, self.later_us)
        self.rebirths = Rebirths(
            self.host.me,
            self.placement,
            Ways(self.place, self._ask_of_rebirths, self._later, self._reload, _nothing),
        )
        self.local = LocalGroups(
            self.host.me,
            self.placement,
            KnownNodes(self.files, DATA, {}, on_full=_never),
            GROUPS_PER_WORKER,
            frozenset(),
            self,
        )
        self.rebirths.begin()
        self.later_us(self._rng.randrange(CATALOG_US_MAX), self._on_catalog)

    def _on_catalog(self) -> None:
        self.local.on_current()
        if self.heard:
            self.local.learn(list(self.heard.values()))

    def learn(self, row: Row) -> None:
        """The catalog's log has come so far on this host."""
        known = self.heard.get(row["id"])
        if known is None or row["version"] > known["version"]:
            self.heard[row["id"]] = row
        if self.host.is_up:
            self._run(lambda: self.local.learn([row]))

    def heal(self) -> None:
        self.at_next_placing = None
        self.files.kill()  # nothing of it is open, and no power is about to go

    def add(self, group: int, placed: PlacedGroup) -> None:
        """Without the catalog's word."""

        def add() -> None:
            self.place({**self.placement.groups, group: placed})
            self._reload(placed.slot)
            self.tell_routes()

        self._run(add)

    def replica(self, group: int) -> Replica:
        """Who this host is in the group, or was when its log was lost, or it was left."""
        placed = self.placement.groups.get(group)
        return self.host.me if placed is None else replica_of(self.host.me, group, placed.life)

    def has(self, group: int) -> PlacedGroup | None:
        """Where the group is placed, unless it was left."""
        placed = self.placement.groups.get(group)
        return None if placed is None or LEFT in placed.options else placed

    # ------------------------------------------------------------------ the placement

    def place(self, groups: Mapping[int, PlacedGroup]) -> bool:
        before = self.placement.groups
        try:
            self.placement.replace(groups)
        except PowerLoss as error:
            self.counts["died placing"] += 1
            self.host.world.after(0, self.host.world_crash)
            self.host.life += 1  # nothing more is done by this life
            raise NodeDied from error
        for group, placed in groups.items():
            if placed != before.get(group):
                self._note_placed(group, before.get(group), placed)
        return True

    def _note_placed(self, group: int, before: PlacedGroup | None, placed: PlacedGroup) -> None:
        me, world = self.host, self.host.world
        was_left = before is not None and LEFT in before.options
        if before is None:
            self.counts["placed"] += 1
        elif LEFT in placed.options and not was_left:
            self.counts["left"] += 1
            world.note(me.name, f"has left {group}, life {placed.life}")
            me.checkers[group].note_left(replica_of(me.me, group, placed.life))
        elif was_left and LEFT not in placed.options:
            self.counts["returned"] += 1
            world.note(me.name, f"is back in {group}, life {placed.life}")
        hears, self.at_next_placing = self.at_next_placing, None
        if hears is not None:
            hears(placed.slot)

    # ------------------------------------------------------------------ what workers tell

    def on_replicas(self, rows: list[list[Any]]) -> None:
        for group, life, what, reason in rows:
            if what == LOST:
                self.host.world.note(self.host.name, f"has lost life {life} of {group}: {reason}")
        if rows:
            self._soon(lambda: self.rebirths.on_replicas(rows))

    def on_worker(self, slot: int) -> None:
        """It has begun, and read the placement as it was then."""
        self._soon(lambda: self.local.tell_desired(slot=slot))

    # ------------------------------------------------------------------ ways out

    def send(self, kind: int, *fields: Any) -> None:
        _FRAMES[kind](self, *fields)

    def _reload(self, slot: int) -> None:
        self._soon(self.host.slot(slot).reload)

    def _send_desired(self, slot: int, rows: list[list[Any]]) -> None:
        self._soon(lambda: self.host.slot(slot).take_desired(rows))

    def tell_routes(self) -> None:
        self._soon(self.host.set_routes)

    def start_worker(self, slot: int) -> None:
        """It is always about to be started."""

    def has_worker(self, slot: int) -> bool:
        return True

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.loop.spawn(coroutine)

    async def ask(
        self, group: str, batch: bytes, *, elsewhere: bool = False
    ) -> tuple[int, str, bytes]:
        future: Any = self.loop.create_future()

        def answered(code: int, reason: str, data: bytes) -> None:
            future.set_result((code, reason, data))

        if group == SYSTEM_GROUP:
            self._ask_catalog(batch, future)
        else:
            self.host.ask(group, batch, answered, elsewhere=elsewhere)
        answer: tuple[int, str, bytes] = await future
        return answer

    def _ask_catalog(self, batch: bytes, future: Any) -> None:
        """It may take what it is asked for, and its answer may be lost."""
        decoded = protocol.decode_batch(SYSTEM_GROUP, batch)
        assert isinstance(decoded, AdminOperation)
        assert decoded.command == "setMembers", decoded
        lost = protocol.TIMEOUT, "the catalog does not answer", b""

        def ask() -> None:
            answer = self.host.catalog.set_members(decoded.value, decoded.options)
            if self._rng.random() < 0.1:
                answer = lost
            self._soon(lambda: future.set_result(answer))

        if self._rng.random() < 0.1:
            self._soon(lambda: future.set_result(lost))
        else:
            self.later_us(self._rng.randrange(CATALOG_US_MAX), ask)

    def take_question(self, frame: list[Any]) -> None:
        """Of a leader, to the catalog."""
        self._soon(lambda: self.spawn(self.local.carry_question(frame)))

    def _send_answer(self, slot: int, *answer: Any) -> None:
        self._soon(lambda: self.host.slot(slot).take_answer(list(answer)))

    def _ask_of_rebirths(
        self, group: str, batch: bytes, elsewhere: bool, answered: Answered
    ) -> None:
        self.host.ask(group, batch, answered, elsewhere=elsewhere)

    def leave_cluster(self) -> None:
        raise AssertionError("no node is removed")

    def lose(self, group: int, life: int, reason: str) -> None:
        raise AssertionError("the catalog's own group is not simulated, and no other is given up")

    @property
    def is_stopping(self) -> bool:
        return not self.host.is_up

    # ------------------------------------------------------------------ time

    def _later(self, ms: int, what: Callable[[], None]) -> None:
        self.later_us(self._rng.randint(ms // 2, 2 * ms) * MS, what)

    def _soon(self, what: Callable[[], object]) -> None:
        self.later_us(1 + self._rng.randrange(NOTICE_US_MAX), what)

    def later_us(self, delay_us: int, what: Callable[[], object]) -> None:
        self.host.world.after(delay_us, self._on_later, self.host.life, what)

    def _on_later(self, life: int, what: Callable[[], object]) -> None:
        if life != self.host.life or self.host.node is not self:
            return
        if self.host.paused_until_us > self.host.world.now_us:
            self.host.world.at(self.host.paused_until_us, self._on_later, life, what)
            return
        self._run(what)

    def _run(self, what: Callable[[], object]) -> None:
        try:
            what()
        except NodeDied:
            return


def _nothing() -> None:
    """Nobody asks why."""


def _never(_: Callable[[], None]) -> None:
    raise AssertionError("nothing is written down that this disk has no room for")


_FRAMES: Final[dict[int, Callable[..., None]]] = {
    wire.RELOAD: NodeProcess._reload,
    wire.DESIRED: NodeProcess._send_desired,
    wire.CATALOG_ANSWER: NodeProcess._send_answer,
}
