"""What lies between hosts: frames that are late, lost, doubled, overtaken, or walled off.

A frame is what one host has for another at the end of a turn, in one of two lanes, as in
production; what it holds is bytes made by the codec of peers.  Each direction between two hosts is
a :class:`Link` of its own, so a wall may be one-way.

A link that is *reset* forgets what is under way.  Whether the other end hears of it is another
question: a process that is killed closes its connections, a host whose power fails does not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from tests.sim.world import World, draw_us
from transport.frames import LANE_BULK, LANE_CONTROL

LANES: Final = (LANE_CONTROL, LANE_BULK)
LATE_FACTORS: Final = (10, 30, 150)  # how much longer than usual a frame takes that is late

Pair = tuple[str, str]
Receive = Callable[[str, int, Any], None]  # (sender, lane, frame)


@dataclass(slots=True)
class Weather:
    """How bad the network is, all the time.  Chances are per frame."""

    delay_min_us: int = 50
    delay_max_us: int = 500
    loss: float = 0.0
    doubling: float = 0.0
    lateness: float = 0.0  # takes much longer
    keeps_order: bool = True  # frames of a lane do not overtake each other, as in a connection


class Link:
    """One direction.  ``walls``: how many faults block it at present; through those that are not
    ``thick`` what was under way before still comes."""

    __slots__ = ("generation", "last_us", "thick", "walls")

    def __init__(self) -> None:
        self.generation = 0
        self.walls = 0
        self.thick = 0
        self.last_us = [0] * (max(LANES) + 1)


class Network:
    """``weather`` may be changed at any time; it holds for what is sent from then on."""

    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self._rng: random.Random = world.stream("network")
        self._receivers: dict[str, Receive] = {}
        self._links: dict[Pair, Link] = {}
        self.weather = weather
        self.counts = {"sent": 0, "lost": 0, "doubled": 0, "walled": 0, "reset": 0}

    def join(self, host: str, receive: Receive) -> None:
        for other in self._receivers:
            self._links[host, other] = Link()
            self._links[other, host] = Link()
        self._receivers[host] = receive

    def pairs(self) -> list[Pair]:
        return list(self._links)

    # ------------------------------------------------------------------ frames

    def send(self, sender: str, to: str, lane: int, frame: Any, *, doubles: bool) -> None:
        """``doubles``: whoever made the frame can bear it twice.  A connection never doubles; what
        consensus says to itself has to bear it all the same."""
        link = self._links[sender, to]
        weather, chance = self.weather, self._rng.random
        self.counts["sent"] += 1
        if link.walls:
            self.counts["walled"] += 1
            return
        if weather.loss and chance() < weather.loss:
            self.counts["lost"] += 1
            self._world.note(sender, f"lost to {to}")
            return
        self._put(link, sender, to, lane, frame)
        if doubles and weather.doubling and chance() < weather.doubling:
            self.counts["doubled"] += 1
            self._world.note(sender, f"doubled to {to}")
            self._put(link, sender, to, lane, frame)

    def _put(self, link: Link, sender: str, to: str, lane: int, frame: Any) -> None:
        weather = self.weather
        delay_us = draw_us(self._rng, weather.delay_min_us, weather.delay_max_us)
        if weather.lateness and self._rng.random() < weather.lateness:
            delay_us *= self._rng.choice(LATE_FACTORS)
        when_us = self._world.now_us + delay_us
        if weather.keeps_order:
            when_us = max(when_us, link.last_us[lane])
            link.last_us[lane] = when_us
        self._world.at(when_us, self._arrive, link, link.generation, sender, to, lane, frame)

    def _arrive(
        self, link: Link, generation: int, sender: str, to: str, lane: int, frame: Any
    ) -> None:
        if generation != link.generation:
            self.counts["reset"] += 1
            return
        if link.thick:
            self.counts["walled"] += 1
            return
        self._receivers[to](sender, lane, frame)

    # ------------------------------------------------------------------ faults

    def wall(self, pairs: Iterable[Pair], *, thick: bool = True) -> None:
        for pair in pairs:
            self._links[pair].walls += 1
            self._links[pair].thick += thick

    def unwall(self, pairs: Iterable[Pair], *, thick: bool = True) -> None:
        """Undo one :meth:`wall`; nothing is left to undo once the network was healed."""
        for pair in pairs:
            link = self._links[pair]
            link.walls = max(0, link.walls - 1)
            link.thick = max(0, link.thick - thick)

    def reset(self, pairs: Iterable[Pair]) -> None:
        """What is under way there never arrives."""
        for pair in pairs:
            self._links[pair].generation += 1

    def heal(self) -> None:
        """No walls, no loss: all that is sent from now on arrives, soon and in order."""
        for link in self._links.values():
            link.walls = link.thick = 0
        weather = self.weather
        self.weather = Weather(weather.delay_min_us, weather.delay_max_us)

    def around(self, host: str) -> list[Pair]:
        """Both directions of all its links."""
        return [pair for pair in self._links if host in pair]
