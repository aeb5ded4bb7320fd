"""What waits in a client: calls, the lanes they queue in, the messages they travel in.

A lane is a queue of calls that may share messages: one group, one class (a message is of one
class), one fixed node if the caller asked for one. A lane that was refused pauses as a whole, so
that what was refused goes out first and in order when it resumes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from transport.client import wire
from transport.client.errors import PolyraftError

WRITE = 0
READ = 1
ADMIN = 2
SESSION = 3

LaneKey = tuple[str, int, str]


@dataclass(slots=True, kw_only=True)
class ClientSettings:
    """Limits and waits of one client."""

    timeout_ms: int = 10_000
    # A message of many calls is what makes throughput; 256 commands of 256 bytes are 80 KiB.
    batch_requests_max: int = 256
    batch_bytes_max: int = 1 << 20
    # Messages of one lane in flight. At the limit calls queue and the next messages are fuller.
    messages_in_flight_max: int = 16
    # Calls of this client not yet answered. Above either: Busy, at once and definite.
    pending_calls_max: int = 65_536
    pending_bytes_max: int = 64 << 20
    # A node that is not connected after this is tried again later, and the next one now.
    connect_wait_ms: int = 1_000
    # Pauses after refusals and failed links: doubled each time between these, jittered.
    backoff_ms_min: int = 20
    backoff_ms_max: int = 1_000
    # Refusals of one lane by one node, without word of a leader, before the next node is asked.
    refusals_per_node_max: int = 3
    # The server's own answer at the time limit is worth waiting for: it may say "not applied".
    reply_grace_ms: int = 250

    def __post_init__(self) -> None:
        bounds = (
            ("timeout_ms", self.timeout_ms, wire.TIMEOUT_MS_MAX),
            ("batch_requests_max", self.batch_requests_max, wire.BATCH_REQUESTS_MAX),
            ("batch_bytes_max", self.batch_bytes_max, wire.BATCH_BYTES_MAX),
            ("messages_in_flight_max", self.messages_in_flight_max, 65_536),
            ("backoff_ms_max", self.backoff_ms_max, wire.TIMEOUT_MS_MAX),
            ("backoff_ms_min", self.backoff_ms_min, self.backoff_ms_max),
        )
        for name, value, most in bounds:
            if not 0 < value <= most:
                raise ValueError(f"{name} must be 1..{most}, not {value}")


class Call:
    """One request and the caller who waits for it.

    `attempt_unknown` is set once any attempt ended without an answer although it may have been
    applied: from then on the call can end with OK or a verdict of the machine, but never with a
    definite "not applied". `refusal` is the last reply that sent it back into the queue.
    """

    __slots__ = (
        "address",
        "attempt_unknown",
        "deadline_ms",
        "group",
        "kind",
        "on_done",
        "refusal",
        "repeatable",
        "request",
    )

    def __init__(
        self,
        group: str,
        kind: int,
        request: bytes,
        *,
        deadline_ms: int,
        repeatable: bool,
        on_done: Callable[[wire.Outcome | PolyraftError], None],
        address: str = "",
    ) -> None:
        self.group = group
        self.kind = kind
        self.request = request
        self.deadline_ms = deadline_ms
        self.repeatable = repeatable
        self.on_done = on_done
        self.address = address
        self.attempt_unknown = False
        self.refusal: wire.Outcome | None = None

    @property
    def lane_key(self) -> LaneKey:
        """The lane this call queues in."""
        return (self.group, self.kind, self.address)

    @property
    def changes(self) -> bool:
        """Whether an attempt without an answer may have changed something."""
        return self.kind == WRITE or self.kind == SESSION or not self.repeatable


class Lane:
    """Calls that may share messages, in the order they were made."""

    __slots__ = ("address", "group", "key", "kind", "not_before_ms", "queue", "refusals", "turn")

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.group, self.kind, self.address = key
        self.queue: deque[Call] = deque()
        # Refused as a whole until then.
        self.not_before_ms = 0
        # Refusals since the last OK: the exponent of the pause.
        self.refusals = 0
        # How many nodes beyond the client's usual one this lane has moved on.
        self.turn = 0

    def put_back(self, calls: list[Call]) -> None:
        """Calls that were sent and shall be sent again, ahead of those that were not."""
        self.queue.extendleft(reversed(calls))

    def keep(self, calls: list[Call]) -> None:
        """Replace the queue by those of its calls that still wait."""
        self.queue = deque(calls)

    def take_batch(self, now_ms: int, settings: ClientSettings) -> list[Call]:
        """The calls of the next message.

        A message has one time limit in effect, and its reply comes when all its requests are
        decided. So a batch ends where deadlines part by more than an eighth of what is left.
        """
        assert self.queue
        queue = self.queue
        first = queue.popleft()
        calls = [first]
        count_max = settings.batch_requests_max if self.kind in (WRITE, READ) else 1
        bytes_left = settings.batch_bytes_max - len(first.request)
        spread_ms = (first.deadline_ms - now_ms) // 8
        while queue and len(calls) < count_max:
            call = queue[0]
            bytes_left -= len(call.request) + wire.REQUEST_OVERHEAD_BYTES_MAX
            if bytes_left < 0 or abs(call.deadline_ms - first.deadline_ms) > spread_ms:
                break
            calls.append(queue.popleft())
        return calls


class Message:
    """Calls in flight together over one link."""

    __slots__ = ("calls", "correlation", "lane", "link", "sent_ms")

    def __init__(
        self, correlation: bytes, lane: Lane, link: int, calls: list[Call], sent_ms: int
    ) -> None:
        self.correlation = correlation
        self.lane = lane
        self.link = link
        self.calls = calls
        self.sent_ms = sent_ms
