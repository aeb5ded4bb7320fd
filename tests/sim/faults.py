"""Everything that goes wrong, as a table: what it is called, how often it may come, what it does.

A fault is a function of the simulation and of a source of chance that belongs to this fault alone.
It comes again and again, after waits drawn around the mean that the plan has drawn.  What lasts for
a while ends by itself, or when the world is healed: then nothing may be left of it.

**What a group must survive.**  A minority of its replicas may be lost for good, through a wiped or
a decayed disk; whoever takes a disk away asks :meth:`Simulation.may_lose` first.  Everything else
may hit everybody at once: crashes and power losses of all hosts included.

What operators do is in the table, too: it happens at bad moments like everything else.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raft.configuration import Configuration
from raft.core import LEASE_PAUSE_HEARTBEATS
from raft.messages import Decision
from tests.sim.checkers import shown
from tests.sim.clock import RATE_EXACT
from tests.sim.disaster import maybe_strike
from tests.sim.host import Host
from tests.sim.machines import APPLY, HOOKS, READ, RESTORE, SNAPSHOT, WRITE
from tests.sim.network import Pair
from tests.sim.node import NOTICE_US_MAX
from tests.sim.restoring import Restoring
from tests.sim.slot import Slot
from tests.sim.slot_parts import DIRECTORY, SOFT_LIMIT_SEGMENTS
from tests.sim.watched import ChangeMembers
from tests.sim.world import MS, draw_us

if TYPE_CHECKING:
    from tests.sim.simulation import Simulation

CHUNKS_MAX: Final = 5  # of snapshots, after which a process may die
EFFECTS_MAX: Final = 12  # of a turn, before which a process may die
RATE_SPAN: Final = 100_000  # how much faster or slower than exact a clock may run, per million
# With leases: two clocks may differ by lease_drift_percent.
RATE_SPAN_LEASE_PER_PERCENT: Final = 4_500
VOTERS_WEIGHTS: Final = (10, 10, 45, 15, 20)  # of a new configuration with one, two, ... voters
DISK_FACTOR_MAX: Final = 50
LONE_WRITES_MAX: Final = 8
LONE_ELECTIONS_MAX: Final = 8  # election timeouts for which a leader is alone
APPLY_US_MAX: Final = 4_000
FAILING_CALLS: Final = (
    (APPLY,),
    (APPLY,),
    (APPLY, HOOKS),
    (READ,),
    (SNAPSHOT,),
    (WRITE,),
    (RESTORE,),
    (APPLY, READ, SNAPSHOT, WRITE, RESTORE, HOOKS),
)
PLACING_OPERATIONS: Final = 6  # of a placement that is written
FOREVER_TIMES: Final = 1 << 30  # as good as always

Apply = Callable[["Simulation", random.Random], None]


@dataclass(slots=True, frozen=True)
class Fault:
    """``mean_ms``: the shortest and the longest mean time between two of them."""

    mean_ms: tuple[int, int]
    apply: Apply


# --------------------------------------------------------------------------- processes and hosts


def _crash_process(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is not None:
        slot.die("killed")


def _crash_in_turn(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is not None:
        slot.dies_after = rng.randrange(EFFECTS_MAX)


def _crash_host(simulation: Simulation, rng: random.Random) -> None:
    simulation.crash(_any_host(simulation, rng), "killed", power=False, closes=rng.random() < 0.8)


def _power_loss(simulation: Simulation, rng: random.Random) -> None:
    simulation.crash(_any_host(simulation, rng), "no power", power=True, closes=rng.random() < 0.1)


def _blackout(simulation: Simulation, rng: random.Random) -> None:
    """The power fails everywhere at once, or on a majority."""
    hosts = list(simulation.hosts.values())
    count = rng.randint(len(hosts) // 2 + 1, len(hosts))
    for host in rng.sample(hosts, count):
        simulation.crash(host, "blackout", power=True, closes=False)


def _drain(simulation: Simulation, rng: random.Random) -> None:
    """An orderly restart of a process."""
    slot = _any_slot(simulation, rng)
    if slot is not None:
        slot.drain()


def _pause(simulation: Simulation, rng: random.Random) -> None:
    """A process, or all of a host, gets no time for a while."""
    host = _any_host(simulation, rng)
    election_ms = simulation.plan.settings.election_timeout_ms
    until_us = simulation.world.now_us + draw_us(rng, 1 * MS, 3 * election_ms * MS)
    if rng.random() < 0.5:
        simulation.note(host.name, "pauses")
        host.pause_until(until_us)
    else:
        slot = rng.choice(host.slots)
        simulation.note(slot.where, "pauses")
        slot.pause_until(until_us)


# --------------------------------------------------------------------------- clocks


def _clock_jump(simulation: Simulation, rng: random.Random) -> None:
    """Leases rest on monotonic clocks that do not jump; wall clocks may, always."""
    host = _any_host(simulation, rng)
    host.wall_skew_ms += rng.randrange(-5_000, 5_000)
    ahead_ms = rng.choice((5, 50, 500, 5_000))
    if simulation.plan.settings.lease_reads or host.paused_until_us > simulation.world.now_us:
        return
    simulation.note(host.name, f"its clock jumps by {ahead_ms} ms")
    host.clock.jump(ahead_ms * MS)
    host.on_clock_changed()


def _clock_drift(simulation: Simulation, rng: random.Random) -> None:
    host = _any_host(simulation, rng)
    settings = simulation.plan.settings
    span = RATE_SPAN
    if settings.lease_reads:
        span = RATE_SPAN_LEASE_PER_PERCENT * settings.lease_drift_percent
    rate = RATE_EXACT + rng.randint(-span, span)
    simulation.note(host.name, f"its clock runs at {rate} ppm")
    host.clock.run_at(rate)
    host.on_clock_changed()


def _suspend(simulation: Simulation, rng: random.Random) -> None:
    """A host sleeps, and its monotonic clock with it."""
    host = _any_host(simulation, rng)
    election_ms = simulation.plan.settings.election_timeout_ms
    if host.is_up:
        simulation.note(host.name, "is suspended")
        host.suspend_until(simulation.world.now_us + draw_us(rng, 25 * MS, 4 * election_ms * MS))


# --------------------------------------------------------------------------- machines


def _slow_apply(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is None:
        return
    slot.troubles.apply_us = rng.randrange(1, APPLY_US_MAX)
    simulation.note(slot.where, f"applies slowly: {slot.troubles.apply_us} us")
    simulation.later(rng, 2_000, lambda: setattr(slot.troubles, "apply_us", 0))


def _machine_fails(simulation: Simulation, rng: random.Random) -> None:
    """Machines of one process raise for a while, also those that are made in their place; perhaps
    somebody restarts the process afterwards."""
    slot = _any_slot(simulation, rng)
    if slot is None:
        return
    calls = rng.choice(FAILING_CALLS)
    slot.troubles.calls = frozenset(calls)
    simulation.note(slot.where, f"its machines fail in {', '.join(calls)}")
    mends = rng.random() < 0.5

    def end() -> None:
        simulation.note(slot.where, "its machines work")
        slot.troubles.calls = frozenset()
        if mends and slot.is_quarantined:
            slot.drain()

    simulation.later(rng, 2_000, end)


def _machine_fails_once(simulation: Simulation, rng: random.Random) -> None:
    """One apply raises on one replica, and would not if it were tried again."""
    slot = _any_slot(simulation, rng)
    if slot is not None:
        slot.troubles.apply_once = True
        simulation.note(slot.where, "its next apply fails")


# --------------------------------------------------------------------------- disks


def _disk_error(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is None:
        return
    path, operations = rng.choice(
        (
            (".wal", ("pwrite", "fdatasync", "fdatasync", "pread", "create", "unlink")),
            (DIRECTORY, ("fsync_dir",)),
            (".writing", ("create", "pwrite", "fsync", "rename")),
            (".receiving", ("create", "pwrite", "fdatasync", "rename")),
        )
    )
    operation = rng.choice(operations)
    simulation.note(slot.where, f"its next {operation} of a {path} fails")
    slot.files.fail(operation, errno.EIO, path=path)


def _disk_full(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is None:
        return
    simulation.note(slot.where, "its disk is full")
    slot.files.fail("pwrite", errno.ENOSPC, times=FOREVER_TIMES)
    files = slot.files

    def free() -> None:
        simulation.note(slot.where, "its disk has room")
        files.repair()

    simulation.later(rng, 2_000, free)


def _disk_fills(simulation: Simulation, rng: random.Random) -> None:
    """Somebody else takes the room of one host's disk, or of all disks: down to the limit at which
    writes are refused, to hardly anything, or to nothing.  Some time later it is there again; in
    between it may have been taken again and again, as fast as it was given back."""
    slots = [slot for host in simulation.hosts.values() for slot in host.slots if slot.is_up]
    slot = _any_slot(simulation, rng)
    if slot is None:
        return
    if rng.random() < 0.7:
        slots = [slot]
    soft_bytes = SOFT_LIMIT_SEGMENTS * simulation.plan.segment_bytes
    free_bytes = rng.choice((0, 0, soft_bytes // 16, soft_bytes // 4, soft_bytes))
    again = rng.choice((0, 0, 3))

    def fill(left: int) -> None:
        for each in slots:
            each.files.limit_bytes = each.files.used_bytes + free_bytes
            simulation.note(each.where, f"its disk has {free_bytes} bytes free")
        if left:
            after_us = draw_us(rng, 10 * MS, 500 * MS)
            simulation.world.after(after_us, simulation.unless_healed, lambda: refill(left - 1))

    def refill(left: int) -> None:
        if any(each.files.limit_bytes is not None for each in slots):
            fill(left)

    def free() -> None:
        for each in slots:
            each.files.limit_bytes = None
            simulation.note(each.where, "its disk has room")

    fill(again)
    simulation.later(rng, 4_000, free)


def _disk_stall(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is not None:
        election_ms = simulation.plan.settings.election_timeout_ms
        stall_us = draw_us(rng, 10 * MS, 4 * election_ms * MS)
        simulation.note(slot.where, f"its disk hangs for {stall_us} us")
        slot.disk_free_us = simulation.world.now_us + stall_us


def _disk_slow(simulation: Simulation, rng: random.Random) -> None:
    slot = _any_slot(simulation, rng)
    if slot is None:
        return
    slot.disk_factor = rng.randrange(2, DISK_FACTOR_MAX)
    simulation.note(slot.where, f"its disk is {slot.disk_factor} times slower")
    simulation.later(rng, 3_000, lambda: setattr(slot, "disk_factor", 1))


def _bit_flip(simulation: Simulation, rng: random.Random) -> None:
    """One bit of what the WAL has written decays; whoever reads it next finds out."""
    slot = _any_slot(simulation, rng)
    if slot is None or not simulation.may_lose(slot):
        return
    names = [each for each in slot.files.listdir(DIRECTORY) if each.endswith(".wal")]
    path = f"{DIRECTORY}/{rng.choice(names)}"
    used = len(slot.files.content(path).rstrip(b"\0"))
    if used:
        offset = rng.randrange(used)
        slot.is_flipped = True
        slot.files.flip(path, offset, rng.randrange(8))
        simulation.note(slot.where, f"a bit flips in {path} at {offset}")


def _log_loss(simulation: Simulation, rng: random.Random) -> None:
    """A process finds, when it starts again, that the log of one of its groups cannot be read; or
    there is no log at all any more.  These replicas never speak again; others take their places.
    Mostly it is one that the catalog wants and that is no member yet, if there is one."""
    slot = _any_slot(simulation, rng)
    newcomers = _newcomers(simulation)
    if newcomers and rng.random() < 0.7:
        slot = rng.choice(newcomers)
    if slot is None or slot.is_lost or slot.is_flipped:
        return
    groups = [
        group
        for group in slot.plans
        if slot.is_sound(group) and simulation.can_do_without(slot.host.replica(group), group)
    ]
    if not groups:
        return
    whole = len(groups) == len(slot.plans) and rng.random() < 0.5
    if not whole:
        groups = [rng.choice(groups)]
    slot.die("its log is lost")
    slot.condemn(groups, whole=whole)


def _newcomers(simulation: Simulation) -> list[Slot]:
    return [
        slot
        for group, checker in simulation.checkers.items()
        if simulation.desire.has_wanted(group)
        for host in simulation.hosts.values()
        if (slot := host.placed(group)) is not None
        and slot.is_up
        and host.replica(group) not in checker.configuration
    ]


def _log_decay(simulation: Simulation, rng: random.Random) -> None:
    """More than a bit of the WAL: of any segment but the newest, a sector, a tail, or the file; or
    two trade their names.  (Of the newest that would look like writes that never were.)  The
    process ends, so that somebody reads it."""
    slot = _any_slot(simulation, rng)
    if slot is None or not simulation.may_lose(slot):
        return
    slot.is_flipped = True
    slot.die("killed")
    files = slot.files
    files.repair()  # what is done here is no operation of the process that is to fail
    paths = [f"{DIRECTORY}/{it}" for it in files.listdir(DIRECTORY) if it.endswith(".wal")]
    contents = {path: files.content(path).rstrip(b"\0") for path in paths}
    *older, newest = [path for path in paths if contents[path]]
    if not older or files.unsynced(newest):
        return
    path = rng.choice(older)
    data, other = contents[path], rng.choice([*older, newest])
    start = rng.randrange(len(data))
    sector = start - start % 512
    kind = rng.randrange(4)
    simulation.note(slot.where, f"{path} decays at {start}, kind {kind}")
    if kind == 0:
        files.put(path, data[:sector] + bytes(512) + data[sector + 512 :])
    elif kind == 1:
        files.put(path, data[:start])
    elif kind == 2:
        files.unlink(path)
        files.fsync_dir(DIRECTORY)
    else:
        files.put(path, contents[other])
        files.put(other, data)


def _snapshot_flip(simulation: Simulation, rng: random.Random) -> None:
    """One bit of a snapshot decays; who is restored from it, or sends it, finds out.  Mostly the
    next snapshot is there before anybody has looked, so perhaps it is one that is being sent, or
    the process is restarted.  If not, the disk is perhaps so bad that the next snapshot fails."""
    slot = _any_slot(simulation, rng)
    senders = simulation.senders_of_snapshots()
    if senders and rng.random() < 0.7:
        slot = rng.choice(senders)
    if slot is None:
        return
    has_one = [group for group in slot.plans if slot.snapshot_paths(group)]
    groups = [group for group in has_one if simulation.may_lose_snapshot(slot, group)]
    if groups:
        path = rng.choice(slot.snapshot_paths(rng.choice(groups)))
        offset = slot.files.decay(rng, path)
        simulation.note(slot.where, f"a bit flips in {path} at {offset}")
        if rng.random() < 0.5:
            slot.die("killed")
        elif rng.random() < 0.5:
            slot.files.fail("pwrite", errno.EIO, path=".writing")


def _transfer_break(simulation: Simulation, rng: random.Random) -> None:
    """A process ends when it has read or stored so many chunks of a snapshot; what is there of it
    lives on, and is perhaps not what was written."""
    for host in simulation.hosts.values():
        for slot in host.slots:
            if slot.dies_at_chunk is None and rng.random() < 0.5:
                slot.dies_at_chunk = rng.randrange(CHUNKS_MAX)


def _placing_break(simulation: Simulation, rng: random.Random) -> None:
    """When a host next writes down that it has a group, begins another life, or has left one: the
    power goes in the middle of that, or a moment later, or the process that is to hear of it dies
    about then."""
    for host in simulation.hosts.values():
        if rng.random() < 0.5:
            continue
        if rng.random() < 0.4:
            host.node.files.lose_power_after(rng.randrange(PLACING_OPERATIONS))
        else:
            host.node.at_next_placing = _dies_soon(simulation, host, rng)


def _dies_soon(simulation: Simulation, host: Host, rng: random.Random) -> Callable[[int], None]:
    power, whole = rng.random() < 0.5, rng.random() < 0.3
    after_us = draw_us(rng, 1, 2 * NOTICE_US_MAX)

    def die(number: int) -> None:
        if whole:
            simulation.crash(host, "no power", power=power, closes=False)
        else:
            host.slot(number).die("killed", power=power)

    def hears(number: int) -> None:
        simulation.world.after(after_us, simulation.unless_healed, lambda: die(number))

    return hears


def _wipe(simulation: Simulation, rng: random.Random) -> None:
    """A host comes back with blank disks: under its old name it is somebody else."""
    host = _any_host(simulation, rng)
    if all(slot.is_lost or slot.is_flipped or simulation.may_lose(slot) for slot in host.slots):
        simulation.crash(host, "its disks are wiped", power=True, closes=False)
        host.wipe()


# --------------------------------------------------------------------------- the network


def _wall_for(simulation: Simulation, rng: random.Random, pairs: list[Pair], what: str) -> None:
    network = simulation.network
    election_ms = simulation.plan.settings.election_timeout_ms
    thick = rng.random() < 0.5
    simulation.note("net", what)
    network.wall(pairs, thick=thick)

    def end() -> None:
        simulation.note("net", f"no more: {what}")
        network.unwall(pairs, thick=thick)

    simulation.later(rng, rng.choice((election_ms // 2, 2 * election_ms, 5 * election_ms)), end)


def _partition(simulation: Simulation, rng: random.Random) -> None:
    """Mostly somebody who leads is alone on one side.  Whoever builds the wall may close the
    connections through it, so that the others do not wait for an election timeout."""
    names = list(simulation.hosts)
    if len(names) < 2:
        return
    side = [_any_host(simulation, rng).name]
    if rng.random() < 0.4:
        side = rng.sample(names, rng.randint(1, len(names) - 1))
    if rng.random() < 0.4:
        for first in side:
            for second in names:
                if second not in side:
                    simulation.break_link(rng, first, second)
    pairs = [pair for pair in simulation.network.pairs() if (pair[0] in side) != (pair[1] in side)]
    _wall_for(simulation, rng, pairs, f"{', '.join(sorted(side))} cut off")


def _bridge(simulation: Simulation, rng: random.Random) -> None:
    """Two hosts do not hear each other; the others hear both."""
    names = list(simulation.hosts)
    if len(names) < 2:
        return
    first = _any_host(simulation, rng).name
    second = rng.choice([name for name in names if name != first])
    pairs = [(first, second), (second, first)]
    _wall_for(simulation, rng, pairs, f"{first} and {second} do not hear each other")


def _one_way(simulation: Simulation, rng: random.Random) -> None:
    pairs = simulation.network.pairs()
    if not pairs:
        return
    host = _any_host(simulation, rng).name
    wall = rng.choice(
        (
            [rng.choice(pairs)],
            [pair for pair in pairs if pair[0] == host],
            [pair for pair in pairs if pair[1] == host],
        )
    )
    _wall_for(simulation, rng, wall, f"walls: {' '.join('>'.join(pair) for pair in wall)}")


def _flap(simulation: Simulation, rng: random.Random) -> None:
    """Connections break: what is under way is lost, and both ends may hear of it."""
    pairs = simulation.network.pairs()
    if pairs:
        for first, second in rng.sample(pairs, rng.randint(1, min(3, len(pairs)))):
            simulation.break_link(rng, first, second)


def _lone_leader(simulation: Simulation, rng: random.Random) -> None:
    """A leader is cut off at the worst moment for its lease: it has just asked whether it leads,
    and gets no time to hear the answers; or the others restart and have to remember it.  Meanwhile
    somebody gives it commands, which are in no other log."""
    group = rng.choice(list(simulation.checkers))
    leader = simulation.leader_of(group)
    if leader is None or len(simulation.hosts) < 2:
        return
    host, plan = leader.host, simulation.plan.group(group)
    settings, now_us = simulation.plan.settings, simulation.world.now_us
    election_us = settings.election_timeout_ms * MS
    asks_us = host.clock.when_us(leader.groups[group].core.next_deadline() * MS)
    moment_us = min(asks_us, now_us + election_us) + simulation.plan.turn_us
    # Not so long that it would know that it has stood still.
    pause_us = int(LEASE_PAUSE_HEARTBEATS * settings.heartbeat_ms * MS * rng.uniform(0.3, 1.1))
    pauses = rng.random() < 0.5
    lasts_ms = LONE_ELECTIONS_MAX * settings.election_timeout_ms

    def begin() -> None:
        if pauses:
            simulation.note(host.name, "pauses")
            host.pause_until(simulation.world.now_us + pause_us)
        else:
            for other in simulation.hosts.values():
                if other is not host:
                    other.slot(leader.number).die("killed")
        simulation.note("net", f"{host.name} is alone")
        simulation.network.wall(pairs, thick=False)
        for _ in range(rng.randrange(LONE_WRITES_MAX)):
            write_us = rng.randrange(2 * election_us)
            simulation.world.after(write_us, simulation.operator.write_at, host, plan.name)
        simulation.later(rng, lasts_ms, end)

    def end() -> None:
        simulation.note("net", f"{host.name} is alone no more")
        simulation.network.unwall(pairs, thick=False)

    pairs = simulation.network.around(host.name)
    simulation.world.at(moment_us, simulation.unless_healed, begin)


# --------------------------------------------------------------------------- operators


def _reset_peers(simulation: Simulation, rng: random.Random) -> None:
    """A majority of one group is lost for good; of a group that has its processes for itself."""
    if simulation.disaster is None:
        maybe_strike(simulation, rng.choice(list(simulation.checkers)), rng)


def _members(simulation: Simulation, rng: random.Random) -> None:
    """Other voters and learners, of hosts that are there and whose disks are sound."""
    group = rng.choice(list(simulation.checkers))
    leader = simulation.leader_of(group)
    disaster = simulation.disaster
    if leader is None or (disaster is not None and not disaster.is_over):
        return
    if simulation.desire.has_wanted(group):
        return
    voters, learners = _draw_members(simulation, rng, group)
    if not voters:
        return
    for slot in (*voters, *learners):
        if slot.host.placed(group) is None:
            slot.host.host_group(simulation.plan.group(group))
    wanted = Configuration(
        frozenset(slot.host.replica(group) for slot in voters),
        frozenset(slot.host.replica(group) for slot in learners),
    )
    undecided = simulation.wanted[group]
    undecided.append(wanted)

    def decided(decision: Decision) -> None:
        simulation.note("ops", f"members of {group}: {_said(decision)}")
        if not decision.unknown and wanted in undecided:
            undecided.remove(wanted)

    simulation.note("ops", f"members of {group} shall be {shown(wanted)}")
    leader.tell(group, ChangeMembers(wanted.voters, wanted.learners, decided), control=True)


def _desire(simulation: Simulation, rng: random.Random) -> None:
    """The same by way of the catalog, which says what is wanted, and sees to it for good: who is
    not wanted any more leaves, and may have to come back."""
    group = rng.choice(list(simulation.checkers))
    if simulation.disaster is not None or not simulation.desire.may_want(group):
        return
    voters, learners = _draw_members(simulation, rng, group)
    if any(slot.is_flipped for host in simulation.hosts.values() for slot in host.slots):
        # Whoever has that damage will be lost when it is read: with fewer members, so might the
        # majority be, and nobody here knows.
        return
    if voters and simulation.desire.has_wanted(group) and rng.random() < 0.6:
        command = rng.choice(("changePeers", "changePeers", "removePeers", "addLearner"))
        named = voters if command == "changePeers" else voters[:1]
        names = ",".join(slot.host.name for slot in named)
        simulation.operator.ask(rng, simulation.plan.group(group).name, command, names)
    elif voters:
        simulation.desire.want(group, [it.host for it in voters], [it.host for it in learners])


def _draw_members(
    simulation: Simulation, rng: random.Random, group: int
) -> tuple[list[Slot], list[Slot]]:
    slots = simulation.slots_for(group)
    count = min(len(slots), rng.choices((1, 2, 3, 4, 5), VOTERS_WEIGHTS)[0])
    voters = rng.sample(slots, count)
    others = [slot for slot in slots if slot not in voters]
    return voters, rng.sample(others, min(len(others), rng.choice((0, 0, 0, 1, 2))))


def _said(decision: Decision) -> str:
    if decision.error is None:
        return f"done at {decision.index}"
    return f"{'perhaps' if decision.unknown else 'no'}: {decision.error}"


def _transfer(simulation: Simulation, rng: random.Random) -> None:
    group = rng.choice(simulation.plan.groups)
    target = rng.choice(("", *simulation.hosts))
    simulation.operator.ask(rng, group.name, "transferLeader", target)


def _snapshot(simulation: Simulation, rng: random.Random) -> None:
    group = rng.choice(simulation.plan.groups)
    node = rng.choice(("", "", *simulation.hosts))
    simulation.operator.ask(rng, group.name, "doSnapshot", node)


def _restore(simulation: Simulation, rng: random.Random) -> None:
    """A backup of a group, and later a new group of it; once in a history."""
    if simulation.restoring is None:
        source = rng.choice(simulation.plan.groups)
        simulation.restoring = Restoring(simulation, source, rng)
        simulation.restoring.begin()


# --------------------------------------------------------------------------- choosing


def _any_host(simulation: Simulation, rng: random.Random) -> Host:
    """Mostly one that leads: there the most happens."""
    leaders = simulation.leading_hosts()
    if leaders and rng.random() < 0.5:
        return rng.choice(leaders)
    return rng.choice(list(simulation.hosts.values()))


def _any_slot(simulation: Simulation, rng: random.Random) -> Slot | None:
    """A slot that is up, of :func:`_any_host`; None if there is none."""
    slots = [slot for slot in _any_host(simulation, rng).slots if slot.is_up]
    return rng.choice(slots) if slots else None


FAULTS: Final[dict[str, Fault]] = {
    "crash": Fault((300, 4_000), _crash_process),
    "crash-in-turn": Fault((200, 3_000), _crash_in_turn),
    "host-crash": Fault((1_000, 6_000), _crash_host),
    "power-loss": Fault((1_000, 6_000), _power_loss),
    "blackout": Fault((3_000, 12_000), _blackout),
    "drain": Fault((500, 4_000), _drain),
    "pause": Fault((300, 4_000), _pause),
    "suspend": Fault((300, 4_000), _suspend),
    "clock-jump": Fault((300, 5_000), _clock_jump),
    "clock-drift": Fault((500, 4_000), _clock_drift),
    "slow-apply": Fault((1_000, 5_000), _slow_apply),
    "machine-fails": Fault((500, 5_000), _machine_fails),
    "machine-fails-once": Fault((300, 4_000), _machine_fails_once),
    "disk-error": Fault((1_000, 6_000), _disk_error),
    "disk-full": Fault((2_000, 8_000), _disk_full),
    "disk-fills": Fault((500, 5_000), _disk_fills),
    "disk-stall": Fault((300, 5_000), _disk_stall),
    "disk-slow": Fault((1_000, 5_000), _disk_slow),
    "bit-flip": Fault((1_000, 8_000), _bit_flip),
    "log-loss": Fault((500, 6_000), _log_loss),
    "log-decay": Fault((1_000, 8_000), _log_decay),
    "snapshot-flip": Fault((200, 3_000), _snapshot_flip),
    "transfer-break": Fault((100, 2_000), _transfer_break),
    "placing-break": Fault((200, 2_000), _placing_break),
    "wipe": Fault((3_000, 12_000), _wipe),
    "partition": Fault((500, 5_000), _partition),
    "bridge": Fault((500, 4_000), _bridge),
    "one-way": Fault((500, 5_000), _one_way),
    "lone-leader": Fault((500, 5_000), _lone_leader),
    "flap": Fault((100, 3_000), _flap),
    "reset-peers": Fault((1_000, 8_000), _reset_peers),
    "members": Fault((200, 3_000), _members),
    "transfer": Fault((100, 2_000), _transfer),
    "snapshot": Fault((100, 2_000), _snapshot),
    "restore": Fault((200, 4_000), _restore),
    "desire": Fault((300, 3_000), _desire),
}
# Parts of the weather that the command line can switch off like faults.
WEATHER: Final = ("loss", "doubling", "disorder")
