"""A host: the worker processes of a node, its router, its clock, and what befalls all of them.

The router's sockets are gone, its mind is real: :class:`actors.routing.Routing` decides which
process or node gets a client's message, and what the client hears when none does.  Frames between
processes of one host are calls; those to other hosts go through the network.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from actors.catalog_members import Row
from actors.rebirths import Answered
from actors.routing import OWN, PEER, Outcomes, Pending, Route, Routing, WorkerLink
from raft.messages import PEER_MESSAGES, Append, PeerMessage, Replica, SnapshotChunk
from raft.store.placement import PlacedGroup
from tests.sim.checkers import GroupChecker
from tests.sim.clock import HostClock
from tests.sim.network import Network
from tests.sim.node import NOTICE_US_MAX, NodeProcess
from tests.sim.plan import GroupPlan, Plan
from tests.sim.slot import Slot
from tests.sim.world import MS, SECOND, World, draw_us
from transport import frames, peer_codec, protocol
from transport.frames import LANE_BULK, Forward, ForwardReply

RAFT: Final = "raft"
FORWARD: Final = "forward"
FORWARD_REPLY: Final = "forward reply"

EXPIRE_EVERY_US: Final = 200 * MS
WIPE_STEP: Final = 100  # between two incarnations of a host
RECONNECT_MS: Final = (20, 1_000)  # until a link that was closed is there again
RESTART_MS: Final = (5, 3_000)  # until a host that is down comes back
WALL_START_MS: Final = 1_800_000_000_000

if TYPE_CHECKING:
    from tests.sim.desire import Desire

# (kind, sender, receiver, body)
Frame = tuple[str, Replica, Replica, Any]
ReplyTo = Callable[[bytes, bytes, bytes], None]  # identity, correlation, payload


class Host:
    """``checkers`` by group; ``reply_to``: the way to the clients."""

    def __init__(
        self,
        world: World,
        plan: Plan,
        network: Network,
        me: Replica,
        checkers: dict[int, GroupChecker],
        reply_to: ReplyTo,
    ) -> None:
        self.world = world
        self.plan = plan
        self.network = network
        self.me = me
        self.name = me.node
        self.checkers = checkers
        self.peers: dict[str, Replica] = {}  # of all hosts, by name
        self.catalog: Desire  # as soon as there is one
        self.rng: random.Random = world.stream(f"host/{self.name}")
        self.clock = HostClock(world, self.rng.randrange(1_000 * SECOND))
        self.wall_skew_ms = self.rng.randrange(-10_000, 10_000)
        self.life = 0
        self.is_up = False
        self.paused_until_us = 0
        self._lost_us = 0  # of time, while it was suspended
        self._reply_to = reply_to
        self._reached: set[str] = set()  # peers whose link is not known to be down
        self._workers: dict[int, WorkerLink] = {}
        mine = [each for each in plan.groups if self.name in each.members]
        self._groups = {each.group: each for each in plan.groups}
        self._asked: dict[int, Answered] = {}  # by this host's own process
        self._asked_count = 0
        self.node = NodeProcess(self, {each.group: self._place(each) for each in mine})
        self.slots = [Slot(self, number + 1) for number in range(plan.slots)]
        self.routing: Routing
        self.messages: Counter[str] = Counter()  # of peers that have arrived, by kind
        self.misdirected = 0  # messages for replicas that are gone
        self._frames: dict[str, Callable[[str, int, Any], None]] = {
            RAFT: self._on_raft,
            FORWARD: self._on_forward,
            FORWARD_REPLY: self._on_forward_reply,
        }
        network.join(self.name, self.receive)

    def wall_ms(self) -> int:
        """The wall clock: for display, and wrong."""
        return WALL_START_MS + self.wall_skew_ms + self.clock.now_ms()

    def _place(self, plan: GroupPlan) -> PlacedGroup:
        founders = self.checkers[plan.group].founders.members
        return PlacedGroup(plan.slot, 1, plan.name, "kv", founders)

    def host_group(self, plan: GroupPlan) -> None:
        """A new replica, which no configuration knows of yet."""
        self.world.note(self.name, f"hosts {plan.group}")
        self.node.add(plan.group, self._place(plan))

    def replica(self, group: int) -> Replica:
        """Who this host is in the group, or was when its log was lost, or it was left."""
        return self.node.replica(group)

    def slot(self, number: int) -> Slot:
        return self.slots[number - 1]

    def placed(self, group: int) -> Slot | None:
        """Where the group is placed; None: nowhere, or it was left."""
        placed = self.node.has(group)
        return None if placed is None else self.slot(placed.slot)

    def hosts(self, group: int) -> Slot | None:
        """Where a replica of the group is, up or not; None if there is none, or no more."""
        slot = self.placed(group)
        return None if slot is None or slot.is_lost or group in slot.condemned else slot

    # ------------------------------------------------------------------ life

    def start(self) -> None:
        assert not self.is_up
        self.is_up = True
        self.life += 1
        self.paused_until_us = 0
        self._reached = set(self.peers) - {self.name}
        self._workers = {}
        self.routing = Routing(
            self.name,
            self.rng.randrange(1, 1 << 32),
            Outcomes(self._reply, self._send_forward, self._send_not_accepted, _no_admin),
            self.clock.now_ms,
        )
        for peer in self.peers:
            self.routing.addresses[peer] = f"tcp://{peer}:7001"
        self.set_routes()
        self.world.note(self.name, "starts")
        self.world.after(EXPIRE_EVERY_US, self._expire, self.life)
        self._asked.clear()
        self.node.start()
        for slot in self.slots:
            if not slot.is_lost:
                slot.start()

    # ------------------------------------------------------------------ its node process

    def ask(self, group: str, batch: bytes, answered: Answered, *, elsewhere: bool = False) -> None:
        self._asked_count += 1
        number = self._asked_count
        self._asked[number] = answered
        self.routing.on_message(OWN, number, False, b"", group.encode(), batch, elsewhere=elsewhere)
        self._flush()

    def node_learns(self, row: Row) -> None:
        """Of the catalog, whatever disk it has by now."""
        if self.paused_until_us > self.world.now_us:
            self.world.at(self.paused_until_us, self.node_learns, row)
        else:
            self.node.learn(row)

    def add_group(self, plan: GroupPlan) -> None:
        """There is one more, wherever it is."""
        self._groups[plan.group] = plan
        if self.is_up:
            self.set_routes()

    def set_routes(self) -> None:
        self.routing.set_routes([self._route(each) for each in self._groups.values()])

    def _route(self, plan: GroupPlan) -> Route:
        slot = self.hosts(plan.group)
        number = None if slot is None else slot.number
        return Route(plan.group, plan.name, "kv", self._nodes_of(plan.group), number)

    def _nodes_of(self, group: int) -> list[str]:
        return sorted({each.node for each in self.checkers[group].configuration.members})

    def on_members_changed(self, group: int) -> None:
        """As the catalog would tell, one day."""
        if self.is_up:
            self.routing.by_group[group].members = self._nodes_of(group)

    def crash(self, why: str, *, power: bool) -> None:
        """All its processes end at once."""
        if not self.is_up:
            if power:
                self.node.files.crash(self.rng)
                for slot in self.slots:
                    slot.die(why, power=True)
            return
        self.is_up = False
        self.life += 1
        self.world.note(self.name, f"goes down: {why}")
        if power:
            self.node.files.crash(self.rng)
        else:
            self.node.files.kill()
        for slot in self.slots:
            slot.die(why, power=power)
        self.network.reset(pair for pair in self.network.around(self.name) if pair[1] == self.name)
        if self.rng.random() < 0.5:
            self.network.reset(self.network.around(self.name))
        self.world.after(draw_us(self.rng, RESTART_MS[0] * MS, RESTART_MS[1] * MS), self.restart)

    def world_crash(self) -> None:
        """It had no power while it wrote the placement."""
        self.crash("no power for a placement", power=True)

    def restart(self) -> None:
        if not self.is_up:
            self.start()

    def wipe(self) -> None:
        """Blank disks: from now on another replica lives here, under the same name."""
        assert not self.is_up
        self.me = self.peers[self.name] = Replica(self.name, self.me.incarnation + WIPE_STEP)
        self.node = NodeProcess(self, {})
        for slot in self.slots:
            slot.wipe()

    def _expire(self, life: int) -> None:
        if life != self.life:
            return
        if self.paused_until_us > self.world.now_us:
            self.world.at(self.paused_until_us, self._expire, life)
            return
        self.routing.expire()
        self._flush()
        self.world.after(EXPIRE_EVERY_US, self._expire, life)

    def pause_until(self, when_us: int) -> None:
        """Nothing on this host gets any time before that."""
        self.paused_until_us = max(self.paused_until_us, when_us)
        for slot in self.slots:
            slot.pause_until(when_us)

    def suspend_until(self, when_us: int) -> None:
        """Like a pause, but its monotonic clock stands still, too; only boot time goes on."""
        if self.paused_until_us > self.world.now_us:
            return
        self.pause_until(when_us)
        stands_at_us = self.clock.now_us()
        self.world.at(when_us - 1, self._resume, self.life, stands_at_us)

    def _resume(self, life: int, stood_at_us: int) -> None:
        if life != self.life:
            return  # it was switched off and on again
        lost_us = self.clock.stand_at(stood_at_us)
        self._lost_us += lost_us
        self.on_clock_changed()

    def boot_ms(self) -> int:
        """CLOCK_BOOTTIME: the monotonic clock, and what that has missed."""
        return (self.clock.now_us() + self._lost_us) // 1_000

    def on_clock_changed(self) -> None:
        for slot in self.slots:
            slot.on_clock_changed()

    # ------------------------------------------------------------------ links

    def receive(self, sender: str, lane: int, frame: Frame) -> None:
        if not self.is_up:
            return
        if self.paused_until_us > self.world.now_us:
            self.world.at(self.paused_until_us, self.receive, sender, lane, frame)
            return
        kind, who, to, body = frame
        if to != self.me or self.peers[sender] != who:
            return  # of an incarnation that is gone, or for one
        self._reached.add(sender)
        self._frames[kind](sender, lane, body)
        self._flush()

    def on_link_closed(self, peer: str) -> None:
        """The other end has closed the connection, or it broke."""
        if not self.is_up:
            return
        if self.paused_until_us > self.world.now_us:
            self.world.at(self.paused_until_us, self.on_link_closed, peer)
            return
        self.world.note(self.name, f"link to {peer} closed")
        self._reached.discard(peer)
        self.world.after(
            draw_us(self.rng, RECONNECT_MS[0] * MS, RECONNECT_MS[1] * MS),
            self._reconnect,
            self.life,
            peer,
        )
        self.routing.on_peer_lost(peer)
        for slot in self.slots:
            slot.on_link_closed(peer)
        self._flush()

    def _reconnect(self, life: int, peer: str) -> None:
        """Whether anything arrives there is another question."""
        if life == self.life:
            self._reached.add(peer)

    def _send(self, to: str, lane: int, kind: str, body: Any) -> None:
        frame = (kind, self.me, self.peers[to], body)
        self.network.send(self.name, to, lane, frame, doubles=kind == RAFT)

    def send_raft(self, to: str, lane: int, items: list[Any]) -> None:
        """Flat [group, incarnation, message].  A message is for one replica, and not for who has
        its name by now (pitfall 21); 0: the message says for whom.  To itself a host has no
        link: who is meant there is a life that is over."""
        flat: list[Any] = []
        for at in range(0, len(items), 3):
            group, incarnation, data = items[at : at + 3]
            if to != self.name and incarnation in (0, self.peers[to].incarnation):
                flat += (group, data)
            else:
                self.misdirected += 1
        if flat:
            self._send(to, lane, RAFT, flat)

    def _on_raft(self, sender: str, lane: int, flat: list[Any]) -> None:
        who = self.peers[sender]
        by_slot: dict[int, dict[int, list[PeerMessage]]] = {}
        texts = []
        for at in range(0, len(flat), 2):
            group = flat[at]
            message = peer_codec.decode(flat[at + 1], who, self.me)
            texts.append(f"{group}:{brief(message)}")
            self.messages[type(message).__name__] += 1
            placed = self.node.has(group)
            if placed is not None:
                by_slot.setdefault(placed.slot, {}).setdefault(group, []).append(message)
        self.world.note(self.name, f"<{sender} {' '.join(texts)}")
        for number, messages in by_slot.items():
            slot = self.slot(number)
            if slot.is_up:
                slot.take_peer_messages(lane, messages)

    # ------------------------------------------------------------------ the router

    def take_client_message(
        self, identity: bytes, correlation: bytes, group: str, batch: bytes
    ) -> bool:
        """False: nobody listens there."""
        if not self.is_up:
            return False
        if self.paused_until_us > self.world.now_us:
            self.world.at(
                self.paused_until_us, self.take_client_message, identity, correlation, group, batch
            )
            return True
        self.routing.on_message(0, identity, False, correlation, group.encode(), batch)
        self._flush()
        return True

    def _flush(self) -> None:
        dirty = self.routing.dirty
        if not dirty:
            return
        self.routing.dirty = {}
        self.routing.gathered_bytes = 0
        for worker in dirty.values():
            requests, worker.requests = worker.requests, []
            self.slot(worker.slot).take_requests(requests)

    def on_slot_up(self, slot: Slot) -> None:
        if not self.is_up:
            return
        old = self._workers.get(slot.number)
        if old is not None:
            self.routing.on_worker_lost(old)
        worker = WorkerLink(slot.number, slot.life, slot.life, _no_frames)
        self._workers[slot.number] = worker
        self.routing.on_worker(worker, slot.groups)
        summaries = {group: actor.summary() for group, actor in slot.groups.items()}
        self.on_summaries(slot, {**summaries, **slot.hosting.broken})
        self.node.on_worker(slot.number)

    def on_slot_down(self, slot: Slot) -> None:
        worker = self._workers.get(slot.number)
        if self.is_up and worker is not None:
            self.world.after(
                self.rng.randrange(NOTICE_US_MAX), self._on_worker_lost, self.life, worker
            )

    def _on_worker_lost(self, life: int, worker: WorkerLink) -> None:
        if life == self.life and self._workers.get(worker.slot) is worker:
            del self._workers[worker.slot]
            self.routing.on_worker_lost(worker)
            self._flush()

    def on_summaries(self, slot: Slot, summaries: Mapping[int, Mapping[str, Any]]) -> None:
        """As :mod:`actors.router` takes them."""
        worker = self._workers.get(slot.number)
        if worker is None:
            return
        for group, summary in summaries.items():
            runs = summary["role"] != "none"
            if runs and group not in worker.groups:
                self.routing.add_host(worker, group)
            elif not runs and group in worker.groups:
                self.routing.remove_host(worker, group)
            self.routing.by_group[group].summary = dict(summary)

    def on_answers(self, slot: Slot, replies: Sequence[Any], hand_backs: Sequence[Any]) -> None:
        worker = self._workers.get(slot.number)
        if not (replies or hand_backs) or worker is None:
            return
        for at in range(0, len(replies), 2):
            self.routing.on_reply(worker, replies[at], replies[at + 1])
        for at in range(0, len(hand_backs), 4):
            token, leader, term, reason = hand_backs[at : at + 4]
            self.routing.on_hand_back(worker, token, leader, term, reason)
        self._flush()

    def _reply(self, pending: Pending, payload: bytes) -> None:
        if pending.origin == PEER:
            reply = ForwardReply(pending.source_epoch, pending.source_id, True, payload, None, 0)
            self._send_forward_reply(pending.source, reply)
        elif pending.origin == OWN:
            answered = self._asked.pop(pending.source)
            answer = protocol.first_reply(payload)
            self.node.later_us(1, lambda: answered(*answer))
        else:
            self._reply_to(pending.source, pending.correlation, payload)

    def _send_forward(self, node: str, forward: Forward) -> bool:
        if node not in self._reached:
            return False
        self._send(node, LANE_BULK, FORWARD, frames.pack_forward(forward))
        return True

    def _send_not_accepted(self, pending: Pending, leader: str | None, term: int) -> None:
        reply = ForwardReply(pending.source_epoch, pending.source_id, False, b"", leader, term)
        self._send_forward_reply(pending.source, reply)

    def _send_forward_reply(self, node: str, reply: ForwardReply) -> None:
        self._send(node, LANE_BULK, FORWARD_REPLY, frames.pack_forward_reply(reply))

    def _on_forward(self, sender: str, lane: int, body: bytes) -> None:
        self.world.note(self.name, f"<{sender} forward")
        self.routing.on_forward(sender, frames.unpack_forward(body))

    def _on_forward_reply(self, sender: str, lane: int, body: bytes) -> None:
        reply = frames.unpack_forward_reply(body)
        self.world.note(self.name, f"<{sender} forward reply, accepted {reply.accepted}")
        self.routing.on_forward_reply(sender, reply)


def _no_admin(pending: Pending, command: str) -> bool:
    return False


def _no_frames(kind: int, *fields: Any, control: bool = False) -> bool:
    raise AssertionError("frames to processes are calls here")


def brief(message: PeerMessage) -> str:
    """A message in a word, for the trace."""
    kind = type(message).__name__
    if type(message) is Append:
        runs = message.runs
        until = f"..{runs[-1].last}" if runs else ""
        return f"{kind}(t{message.term} {message.prev_index}{until} c{message.commit})"
    if type(message) is SnapshotChunk:
        snapshot, offset = message.snapshot, message.offset
        until = f"{offset}..{offset + len(message.data)}/{snapshot.size_bytes}"
        return f"{kind}(t{message.term} {snapshot.index} {until})"
    rest = " ".join(f"{name}={getattr(message, name)}" for name in _FIELDS[type(message)])
    return f"{kind}(t{message.term} {rest})"


_FIELDS: Final = {
    kind: tuple(it.name for it in fields(kind) if it.name not in ("sender", "to", "term"))
    for kind in PEER_MESSAGES
}
