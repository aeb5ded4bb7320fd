"""A small actor kernel in the manner of Erlang/OTP; it knows neither Raft nor ZeroMQ nor asyncio.

::

    who writes an actor                        who runs it
    -------------------                        -----------
    actor.py       on_start, handle,    <----  scheduler.py   turns, mailboxes, failure
                   end_turn, on_stop           cell.py        one actor as the scheduler sees it
    effects.py     what it may return   ---->  mailbox.py     two lanes, a limit, a policy
                                               timers.py      one heap, re-armed lazily
                                               supervisor.py  restarts as data
                                               dispatcher.py  a thread for who must block
                                               dead_letters.py, statistics.py, clock.py

The contract is told in ``docs/actors.md``.  Rule for what may live here: nothing that knows what a
message means.
"""

from actors.runtime.actor import Actor, ActorRef, Address, Effects
from actors.runtime.clock import Clock, MonotonicClock, VirtualClock
from actors.runtime.dead_letters import DeadLetter, DeadLetters
from actors.runtime.effects import (
    BadEffect,
    CancelTimer,
    Ended,
    Spawn,
    StartTimer,
    Stop,
    Tell,
    TimerFired,
    Watch,
)
from actors.runtime.mailbox import DROP_NEW, DROP_OLD, REJECT, Mailbox
from actors.runtime.scheduler import Scheduler
from actors.runtime.statistics import ActorStatistics, SchedulerStatistics
from actors.runtime.supervisor import ActorSpec, CrashReport, RestartBudget, RestartSpec

__all__ = [
    "DROP_NEW",
    "DROP_OLD",
    "REJECT",
    "Actor",
    "ActorRef",
    "ActorSpec",
    "ActorStatistics",
    "Address",
    "BadEffect",
    "CancelTimer",
    "Clock",
    "CrashReport",
    "DeadLetter",
    "DeadLetters",
    "Effects",
    "Ended",
    "Mailbox",
    "MonotonicClock",
    "RestartBudget",
    "RestartSpec",
    "Scheduler",
    "SchedulerStatistics",
    "Spawn",
    "StartTimer",
    "Stop",
    "Tell",
    "TimerFired",
    "VirtualClock",
    "Watch",
]
