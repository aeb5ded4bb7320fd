"""What a seed stands for: the size of the cluster, the load, and which faults come how often.

**Swarm.**  Each seed switches a random subset of the faults on and draws how often each comes.
Histories in which everything goes wrong at once all look alike, and hide what only happens when,
say, clocks jump while disks are fine.

A plan is drawn once, from streams of its own, and is plain data; the command line may overrule
parts of it, without moving any other draw.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from actors.settings import SnapshotSettings
from raft.settings import RaftSettings
from tests.sim.network import Weather
from tests.sim.world import MS, SECOND, World

FAULTS_SECONDS: Final = (6, 12)
NODES: Final = ((1, 2), (2, 2), (3, 70), (4, 4), (5, 22))  # (count, weight)
MEMBERS_MAX: Final = 5
BLOCKING: Final = 0.25  # of the groups
PADDING: Final = (0, 0, 100, 400)
GROUP_FIRST: Final = 7  # ids of groups are arbitrary numbers above 1
# The longest a client thinks between two operations: some groups are busy, few all the time.
THINK_MS: Final = (20, 100, 400, 1_000)
THINK_WEIGHTS: Final = (8, 30, 40, 22)


@dataclass(slots=True, frozen=True)
class GroupPlan:
    group: int
    name: str
    slot: int
    members: tuple[str, ...]
    clients: int
    think_max_us: int  # between two operations of a client
    keys: int
    blocking: bool  # its machines have threads of their own
    padding: int  # bytes that each text has besides


@dataclass(slots=True)
class Plan:
    seed: int
    nodes: tuple[str, ...]
    slots: int
    groups: tuple[GroupPlan, ...]
    settings: RaftSettings
    snapshots: SnapshotSettings
    weather: Weather
    faults_us: int
    segment_bytes: int
    disk_us: tuple[int, int]  # how long a batch takes
    turn_us: int  # how long a process takes at most to get to what has arrived
    shuffles: bool  # actors of a process take turns in a random order
    faults: dict[str, int] = field(default_factory=dict)  # name -> mean time between two, in us

    def group(self, group: int) -> GroupPlan:
        return self.groups[group - GROUP_FIRST]

    def describe(self) -> str:
        faults = ", ".join(f"{name} {mean // MS} ms" for name, mean in self.faults.items())
        return (
            f"{len(self.nodes)} nodes, {self.slots} slots, {len(self.groups)} groups, election "
            f"{self.settings.election_timeout_ms} ms, {self.faults_us / SECOND:g} s of: "
            f"{faults or 'no faults'}"
        )


def draw_plan(
    world: World,
    kinds: dict[str, tuple[int, int]],
    *,
    nodes: int | None = None,
    seconds: float | None = None,
    without: Collection[str] = (),
) -> Plan:
    """``kinds``: each fault with the shortest and the longest mean time between two, in ms."""
    rng = world.stream("plan")
    counts, weights = zip(*NODES, strict=True)
    count = rng.choices(counts, weights)[0]
    count = nodes or count
    names = tuple(f"n{at}" for at in range(1, count + 1))
    slots = rng.choice((1, 1, 2))
    plan = Plan(
        seed=world.seed,
        nodes=names,
        slots=slots,
        groups=tuple(_draw_groups(world, names, slots)),
        settings=_draw_settings(world),
        snapshots=_draw_snapshots(world),
        weather=_draw_weather(world),
        faults_us=rng.randint(*FAULTS_SECONDS) * SECOND,
        segment_bytes=1 << rng.randrange(10, 15),
        disk_us=rng.choice(((50, 500), (200, 5_000), (1_000, 20_000))),
        turn_us=rng.choice((10, 100, 2_000)),
        shuffles=rng.random() < 0.3,
    )
    if seconds is not None:
        plan.faults_us = int(seconds * SECOND)
    for name, (shortest_ms, longest_ms) in kinds.items():
        own = world.stream(f"plan/{name}")
        is_on, mean_ms = own.random() < 0.45, own.uniform(shortest_ms, longest_ms)
        if is_on and name not in without:
            plan.faults[name] = int(mean_ms * MS)
    if "loss" in without:
        plan.weather.loss = 0.0
    if "doubling" in without:
        plan.weather.doubling = 0.0
    if "disorder" in without:
        plan.weather.keeps_order, plan.weather.lateness = True, 0.0
    return plan


def _draw_settings(world: World) -> RaftSettings:
    rng = world.stream("plan/settings")
    election_ms = rng.choice((150, 300, 300, 600, 1_000))
    return RaftSettings(
        election_timeout_ms=election_ms,
        heartbeat_ms=election_ms // rng.choice((4, 6, 10)),
        retry_min_ms=max(5, election_ms // 20),
        retry_max_ms=max(20, election_ms // 3),
        append_bytes_max=rng.choice((200, 2_000, 1 << 20)),
        inflight_messages_max=rng.choice((1, 4, 256)),
        commit_notice_ms=rng.choice((1, 10)),
        lease_reads=rng.random() < 0.4,
        follower_reads=rng.random() < 0.5,
        read_lag_entries_max=rng.choice((3, 10_000)),
        stale_read_ms_max=rng.choice((100, 10_000)),
        catch_up_rounds_max=rng.choice((2, 10)),
        transfer_lag_entries_max=rng.choice((2, 10_000)),
        snapshot_chunk_bytes=rng.choice((50, 50, 150, 500, 256 << 10)),
        snapshot_log_bytes_max=world.stream("plan/log kept").choice((300, 256 << 20)),
    )


def _draw_snapshots(world: World) -> SnapshotSettings:
    rng, memory = world.stream("plan/snapshots"), world.stream("plan/log memory")
    return SnapshotSettings(
        log_memory_bytes=memory.choice((0, 0, 300, 8 << 20)),
        log_memory_worker_bytes=memory.choice((500, 32 << 20)),
        snapshot_entries=rng.choice((5, 5, 5, 30, 100_000)),
        snapshot_trailing_entries=rng.choice((0, 0, 0, 5, 50)),
        snapshot_interval_ms=rng.choice((0, 0, 500)),
        keep_snapshots=rng.choice((1, 1, 2)),
        snapshot_send_bytes_per_s=rng.choice((0, 0, 64 << 10)),
        snapshot_transfers_max=rng.choice((1, 2, 4)),
    )


def _draw_groups(world: World, names: tuple[str, ...], slots: int) -> list[GroupPlan]:
    rng = world.stream("plan/groups")
    count = rng.choice((1, 1, 1, 1, 2, 3))
    found = []
    for at in range(count):
        least = min(len(names), 3)
        size = rng.randint(least, min(len(names), MEMBERS_MAX))
        found.append(
            GroupPlan(
                group=GROUP_FIRST + at,
                name=f"g{at}",
                slot=1 + rng.randrange(slots),
                members=tuple(sorted(rng.sample(names, size))),
                clients=rng.choice((1, 2, 4)),
                think_max_us=rng.choices(THINK_MS, THINK_WEIGHTS)[0] * MS,
                keys=rng.choice((1, 2, 4)),
                blocking=world.stream(f"plan/groups/{at}").random() < BLOCKING,
                padding=world.stream(f"plan/padding/{at}").choice(PADDING),
            )
        )
    return found


def _draw_weather(world: World) -> Weather:
    rng = world.stream("plan/weather")
    delay_us = rng.choice((300, 2_000, 20_000))
    is_ordered = rng.random() < 0.5
    return Weather(
        delay_min_us=20,
        delay_max_us=delay_us,
        loss=rng.choice((0.0, 0.0, 0.001, 0.02, 0.1)),
        doubling=rng.choice((0.0, 0.0, 0.01, 0.1)),
        lateness=0.0 if is_ordered else rng.choice((0.0, 0.01, 0.1)),
        keeps_order=is_ordered,
    )
