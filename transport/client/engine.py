"""The client without sockets, clock or threads: calls and replies in, frames and verdicts out.

Rule for this file: no I/O, no time, no chance of its own. A front end calls one of the methods with
what happened and the time, and then carries out `take_output()`. The asyncio and the blocking
client are the same engine under two ways of waiting.

How a call goes:

    submit --> lane queue --flush--> message in flight --reply--> done
                 ^                        |
                 +------ sent again ------+-- link lost, refused, deadline --> failed

* `flush` runs once per turn of the front end's loop. All calls of a turn to one group and class
  share a message; while a lane has its share of messages in flight, calls queue and the next
  message is fuller.
* What is sent again: a call that was refused (nothing was appended) always; a call whose attempt
  ended without an answer only when a repeat cannot do harm: reads, questions, and writes that carry
  a session. Everything else ends as OutcomeUnknown at once: to wait for the deadline would not tell
  more, and to send it again could apply it twice.
* The verdict of the machine ends a call, whatever attempts came before. Any other end after an
  attempt without an answer is OutcomeUnknown, however definite the last refusal was, since a reply
  speaks of its own attempt alone.
* Deadlines are looked at together: the engine knows the earliest that may matter and walks over
  everything pending only then, so that a call that is answered in time costs nothing for its timer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from transport.client import wire
from transport.client.calls import Call, ClientSettings, Lane, LaneKey, Message
from transport.client.errors import (
    ApplyFailed,
    Busy,
    ClientClosed,
    OutcomeUnknown,
    PolyraftError,
    Rejected,
    TimedOut,
    Unreachable,
    error_of,
)
from transport.client.routes import CONNECTING, RETIRING, UP, Chance, Link, Routes

_CORRELATION = struct.Struct("<Q")
# Less than this before its deadline, a refused call is not worth another attempt.
ATTEMPT_MS_MIN = 5
# Deadlines closer together than this are handled in one walk.
DEADLINE_STEP_MS = 10

# The table of the contract, as far as it matters here. In the first set the call may be sent again
# if nothing was appended or a repeat does no harm; the second set are verdicts that a repeat within
# the deadline would not change. Codes of a later version count among the second.
_TRY_AGAIN = frozenset(
    (
        wire.NO_LEADER,
        wire.NOT_LEADER,
        wire.BUSY,
        wire.TIMEOUT,
        wire.SHUTTING_DOWN,
        wire.INTERNAL,
        wire.UNAVAILABLE,
    )
)
# Verdicts of the replicated log on this very command, or of its session: true for all attempts.
_MACHINE_VERDICTS = frozenset((wire.REJECTED, wire.APPLY_FAILED))


@dataclass(slots=True)
class Output:
    """What a front end carries out, in this order."""

    closes: list[int] = field(default_factory=list)
    opens: list[tuple[int, str]] = field(default_factory=list)
    # (link, correlation id, group, RequestBatch)
    sends: list[tuple[int, bytes, bytes, bytes]] = field(default_factory=list)
    done: list[tuple[Call, wire.Outcome | PolyraftError]] = field(default_factory=list)


class Engine:
    """All calls of one client."""

    def __init__(self, addresses: list[str], settings: ClientSettings, chance: Chance) -> None:
        assert addresses
        self._settings = settings
        self._routes = Routes(addresses, settings, chance)
        self._lanes: dict[LaneKey, Lane] = {}
        # Lanes with calls that are not sent: the only ones that flush looks at.
        self._waiting: dict[LaneKey, Lane] = {}
        self._messages: dict[bytes, Message] = {}
        self._next_correlation = 1
        self._pending_count = 0
        self._pending_bytes = 0
        # No deadline is earlier than this; None: nothing pending.
        self._earliest_ms: int | None = None
        self._output = Output()
        self.closed = False
        self.stray_replies_count = 0
        self.bad_replies_count = 0

    # -- what a front end tells ------------------------------------------------------------------

    def submit(self, call: Call) -> None:
        """A new call; it is sent by the next flush. Raises Busy or ClientClosed, both definite."""
        if self.closed:
            raise ClientClosed("the client is closed")
        settings = self._settings
        size = len(call.request)
        if self._pending_count >= settings.pending_calls_max:
            raise Busy(f"{self._pending_count} calls are pending in this client")
        if self._pending_bytes + size > settings.pending_bytes_max:
            raise Busy(f"{self._pending_bytes} bytes are pending in this client")
        self._pending_count += 1
        self._pending_bytes += size
        lane = self._lanes.get(call.lane_key)
        if lane is None:
            lane = self._lanes[call.lane_key] = Lane(call.lane_key)
        lane.queue.append(call)
        self._waiting[lane.key] = lane
        self._watch(call.deadline_ms)

    def flush(self, now_ms: int) -> None:
        """Send what waits and may go."""
        for lane in list(self._waiting.values()):
            if lane.not_before_ms <= now_ms:
                self._flush_lane(lane, now_ms)

    def on_link_up(self, number: int, now_ms: int) -> None:
        """A connection stands."""
        link = self._routes.links.get(number)
        if link is not None:
            self._routes.up(link)
            self.flush(now_ms)

    def on_link_down(self, number: int, reason: str, now_ms: int) -> None:
        """A connection is lost, or could not be made."""
        link = self._routes.links.get(number)
        if link is None:
            return
        self._routes.failed(link, now_ms)
        lost = [message for message in self._messages.values() if message.link == number]
        # From the last to the first, since what is sent again goes to the front of its queue.
        for message in reversed(lost):
            del self._messages[message.correlation]
            self._lose(
                message, Unreachable(f"{link.address}: {reason}", code="UNAVAILABLE"), now_ms
            )
        self.flush(now_ms)

    def on_send_refused(self, number: int, correlation: bytes, now_ms: int) -> None:
        """A connection took no more: this message was certainly not sent."""
        message = self._messages.pop(correlation, None)
        if message is None or message.link != number:
            return
        self._forget_message(message)
        lane = self._queue_again(message.lane, message.calls)
        lane.not_before_ms = now_ms + self._settings.backoff_ms_min

    def on_message(self, number: int, frames: list[bytes], now_ms: int) -> None:
        """A reply came in."""
        link = self._routes.links.get(number)
        message = self._messages.get(frames[0]) if len(frames) == 2 else None
        if link is None or message is None or message.link != number:
            self.stray_replies_count += 1
            return
        del self._messages[message.correlation]
        try:
            outcomes = wire.decode_replies(frames[1], len(message.calls))
        except wire.BadReplyError as error:
            self.bad_replies_count += 1
            lost = Unreachable(f"{link.address}: {error}", code="UNAVAILABLE")
            self._lose(message, lost, now_ms)
            return
        self._forget_message(message)
        self._routes.heard(link, now_ms)
        self._answer(message, link, outcomes, now_ms)
        self._routes.close_if_done(link)
        if message.lane.queue:
            self._flush_lane_if_due(message.lane, now_ms)

    def on_time(self, now_ms: int) -> None:
        """Time has passed: deadlines, pauses, connections that never came."""
        for link in self._routes.overdue(now_ms):
            self.on_link_down(link.number, "no connection in time", now_ms)
        if self._earliest_ms is not None and self._earliest_ms <= now_ms:
            self._expire(now_ms)
        self.flush(now_ms)

    def close(self) -> None:
        """End all calls: what was not sent, definitely; what was, as unknown."""
        self.closed = True
        for lane in self._waiting.values():
            for call in lane.queue:
                self._fail(call, ClientClosed("the client was closed"))
            lane.queue.clear()
        self._waiting.clear()
        for message in self._messages.values():
            for call in message.calls:
                call.attempt_unknown = call.attempt_unknown or call.changes
                self._fail(call, ClientClosed("the client was closed"))
        self._messages.clear()
        for link in list(self._routes.links.values()):
            self._routes.close(link)

    def next_deadline_ms(self, now_ms: int) -> int | None:
        """When on_time should be called, at the latest."""
        moments = [
            moment
            for moment in (self._earliest_ms, self._routes.next_deadline_ms(now_ms))
            if moment is not None
        ]
        moments += [
            lane.not_before_ms for lane in self._waiting.values() if lane.not_before_ms > now_ms
        ]
        return min(moments, default=None)

    def take_output(self) -> Output:
        """What is to be done now."""
        output = self._output
        routes = self._routes
        closed = {link.number for link in routes.closed}
        output.closes += [link.number for link in routes.closed]
        output.opens += [
            (link.number, link.address) for link in routes.opened if link.number not in closed
        ]
        routes.opened.clear()
        routes.closed.clear()
        self._output = Output()
        return output

    def statistics(self) -> dict[str, int]:
        """Counts, for tests and for people."""
        return {
            "pending_calls": self._pending_count,
            "pending_bytes": self._pending_bytes,
            "messages_in_flight": len(self._messages),
            "links": len(self._routes.links),
            "lanes": len(self._lanes),
            "stray_replies": self.stray_replies_count,
            "bad_replies": self.bad_replies_count,
        }

    # -- sending ---------------------------------------------------------------------------------

    def _flush_lane_if_due(self, lane: Lane, now_ms: int) -> None:
        if lane.not_before_ms <= now_ms:
            self._flush_lane(lane, now_ms)

    def _flush_lane(self, lane: Lane, now_ms: int) -> None:
        link = self._routes.choose(lane, now_ms)
        if link is None or link.state != UP:
            return
        in_flight_max = self._settings.messages_in_flight_max
        while lane.queue and link.in_flight.get(lane.key, 0) < in_flight_max:
            calls = lane.take_batch(now_ms, self._settings)
            timeout_ms = min(call.deadline_ms for call in calls) - now_ms
            if timeout_ms <= 0:
                # Their walk is due now; better no attempt than one without time.
                lane.put_back(calls)
                self._watch(now_ms)
                return
            self._send(lane, link, calls, min(timeout_ms, wire.TIMEOUT_MS_MAX), now_ms)
        if not lane.queue:
            self._waiting.pop(lane.key, None)

    def _send(
        self, lane: Lane, link: Link, calls: list[Call], timeout_ms: int, now_ms: int
    ) -> None:
        correlation = _CORRELATION.pack(self._next_correlation)
        self._next_correlation += 1
        self._messages[correlation] = Message(correlation, lane, link.number, calls, now_ms)
        link.add(lane.key)
        batch = wire.join_batch([call.request for call in calls], timeout_ms)
        self._output.sends.append((link.number, correlation, lane.group.encode(), batch))

    # -- answers ---------------------------------------------------------------------------------

    def _answer(
        self, message: Message, link: Link, outcomes: list[wire.Outcome], now_ms: int
    ) -> None:
        """Finish the calls of a message, or send them again."""
        lane = message.lane
        last = outcomes[-1]
        if last.leader_address:
            self._routes.learn_leader(lane.group, last.leader_address)
        again: list[Call] = []
        for call, outcome in zip(message.calls, outcomes, strict=True):
            if outcome.code == wire.OK:
                self._finish(call, outcome)
            elif self._may_try_again(call, outcome, now_ms):
                again.append(call)
            else:
                self._fail(call, self._verdict(call, outcome))
        if not again:
            lane.refusals = 0
            self._drop_if_idle(lane)
            return
        lane = self._queue_again(lane, again)
        lane.not_before_ms = now_ms + self._pause_ms(lane, link, last)

    def _may_try_again(self, call: Call, outcome: wire.Outcome, now_ms: int) -> bool:
        if outcome.code not in _TRY_AGAIN:
            return False
        if outcome.maybe_applied:
            if not call.repeatable:
                return False
            call.attempt_unknown = call.attempt_unknown or call.changes
        call.refusal = outcome
        return call.deadline_ms - now_ms > ATTEMPT_MS_MIN

    @staticmethod
    def _verdict(call: Call, outcome: wire.Outcome) -> PolyraftError:
        if outcome.code in _MACHINE_VERDICTS:
            return error_of(outcome, maybe_applied=False)
        maybe = outcome.maybe_applied and call.changes
        return error_of(outcome, maybe_applied=maybe)

    def _pause_ms(self, lane: Lane, link: Link, refusal: wire.Outcome) -> int:
        """How long a refused lane waits, and whom it asks next."""
        lane.refusals += 1
        known = self._routes.leader_of(lane.group)
        if refusal.code in (wire.NO_LEADER, wire.NOT_LEADER, wire.SHUTTING_DOWN):
            if known is not None and known != link.address and lane.refusals == 1:
                return 0
            if known == link.address:
                self._routes.forget_leader(lane.group, link.address)
            elif lane.refusals % self._settings.refusals_per_node_max == 0:
                lane.turn += 1
        if refusal.code == wire.SHUTTING_DOWN:
            lane.turn += 1
        return max(refusal.retry_after_ms, 0) + self._routes.backoff_ms(lane.refusals)

    def _queue_again(self, lane: Lane, calls: list[Call]) -> Lane:
        """Put calls back into their lane, which may have been dropped as idle since."""
        lane = self._lanes.setdefault(lane.key, lane)
        lane.put_back(calls)
        self._waiting[lane.key] = lane
        return lane

    def _lose(self, message: Message, error: PolyraftError, now_ms: int) -> None:
        """A message ended without an answer: repeat what may be, the rest is unknown."""
        self._forget_message(message)
        again: list[Call] = []
        for call in message.calls:
            call.attempt_unknown = call.attempt_unknown or call.changes
            if call.repeatable and call.deadline_ms - now_ms > ATTEMPT_MS_MIN:
                again.append(call)
            else:
                self._fail(call, error)
        if again:
            self._queue_again(message.lane, again)
        else:
            self._drop_if_idle(message.lane)

    def _forget_message(self, message: Message) -> None:
        link = self._routes.links.get(message.link)
        if link is not None:
            link.remove(message.lane.key)

    def _drop_if_idle(self, lane: Lane) -> None:
        """Lanes are cheap to make again; what is known about leaders is kept elsewhere."""
        if lane.queue or any(lane.key in link.in_flight for link in self._routes.links.values()):
            return
        self._lanes.pop(lane.key, None)
        self._waiting.pop(lane.key, None)

    # -- the end of a call -----------------------------------------------------------------------

    def _finish(self, call: Call, outcome: wire.Outcome) -> None:
        self._pending_count -= 1
        self._pending_bytes -= len(call.request)
        self._output.done.append((call, outcome))

    def _fail(self, call: Call, error: PolyraftError) -> None:
        self._pending_count -= 1
        self._pending_bytes -= len(call.request)
        is_final = isinstance(error, (Rejected, ApplyFailed, OutcomeUnknown))
        if call.attempt_unknown and not is_final:
            error = OutcomeUnknown(error.message, code=error.code, index=error.index)
        self._output.done.append((call, error))

    # -- deadlines -------------------------------------------------------------------------------

    def _watch(self, deadline_ms: int) -> None:
        if self._earliest_ms is None or deadline_ms < self._earliest_ms:
            self._earliest_ms = deadline_ms

    def _expire(self, now_ms: int) -> None:
        """Walk over all that is pending and end what is past its deadline."""
        self._earliest_ms = None
        # Messages first: what they give back to their lanes is then seen there.
        earliest = self._expire_messages(now_ms)
        for lane in list(self._waiting.values()):
            overdue = [call for call in lane.queue if call.deadline_ms <= now_ms]
            if overdue:
                lane.keep([call for call in lane.queue if call.deadline_ms > now_ms])
                for call in overdue:
                    self._fail(call, self._too_late(call, lane, now_ms))
                self._drop_if_idle(lane)
            if lane.queue:
                earliest.append(min(call.deadline_ms for call in lane.queue))
        if earliest:
            self._watch(max(min(earliest), now_ms + DEADLINE_STEP_MS))

    def _expire_messages(self, now_ms: int) -> list[int]:
        grace_ms = self._settings.reply_grace_ms
        deadlines: list[int] = []
        for message in list(self._messages.values()):
            # All deadlines of a batch are close together, and its reply is one: it ends as a whole.
            deadline_ms = min(call.deadline_ms for call in message.calls) + grace_ms
            if deadline_ms > now_ms:
                deadlines.append(deadline_ms)
                continue
            del self._messages[message.correlation]
            link = self._routes.links[message.link]
            self._lose(message, TimedOut(f"{link.address} did not answer in time"), now_ms)
            if link.heard_ms <= message.sent_ms and link.state != RETIRING:
                self._routes.retire(link, now_ms)
            self._routes.close_if_done(link)
        return deadlines

    def _too_late(self, call: Call, lane: Lane, now_ms: int) -> PolyraftError:
        """Why a call that waited in its queue came to its deadline."""
        if call.refusal is not None:
            return error_of(call.refusal, maybe_applied=False)
        link = self._routes.choose(lane, now_ms)
        if link is None or link.state == CONNECTING:
            return Unreachable("no node could be reached within the time limit")
        return TimedOut("the call waited behind others until its time limit")
