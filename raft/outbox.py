"""What leaves the core, and what has to wait for the disk.

Consensus rests on promises: a vote, an acknowledgement, a term that was shown to somebody. A
promise that a crash can undo is worth nothing (pitfalls 1, 12, 13). So there are three ways out::

    send(message)             promises nothing that is not durable           -> next output
    promise_term(message)     promises the term (and vote) known now         -> when that is durable
    promise_all(message)      promises all that is known now, entries too    -> when that is durable

Saves are numbered; ``_number`` is the last one given out, what has been recorded since goes into
the next. Saves become durable in order. A held message remembers the number that covers it.

**What is durable** is the front part of the *present* log that the disk holds. A save that is still
under way when part of its entries is cut again must not make them count when its success is
reported, not even if the very same entries have come back meanwhile: between the two lies a
truncation that a crash may or may not keep. So every truncation shortens what the outstanding saves
can still prove (the race of pitfall 13, in which comparing (term, index) alone is not enough).

Promises of an older term are dropped when the term changes: nobody can use them any more, and
entries that they speak of may be gone before they were ever written.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from raft.messages import (
    AppendReply,
    HardState,
    HeartbeatReply,
    Mark,
    PeerMessage,
    Persisted,
    Replica,
    Run,
    Save,
)


@dataclass(slots=True)
class _Outstanding:
    """A save that was given out and is not known to be durable."""

    number: int
    last: tuple[int, int]  # (term, index) of its last entry, (0, 0) without one
    proves_index: int  # what will be durable with it; falls with every later truncation
    since_ms: int


class Outbox:
    __slots__ = (
        "_disk_index",
        "_hard_number",
        "_hard_state",
        "_held",
        "_mark",
        "_number",
        "_outstanding",
        "_persisted_number",
        "_runs",
        "_truncate_from",
        "durable_index",
        "messages",
    )

    def __init__(self, durable_index: int) -> None:
        self.messages: list[PeerMessage] = []
        # The end of the log that is on disk for certain.
        self.durable_index = durable_index
        # The end of the log that will be on disk when every save given out is durable.
        self._disk_index = durable_index
        self._number = 0
        self._persisted_number = 0
        self._hard_number = 0  # the save that holds the newest term and vote
        self._outstanding: deque[_Outstanding] = deque()
        self._held: deque[tuple[int, PeerMessage]] = deque()
        # What has been recorded since the last save was given out:
        self._hard_state: HardState | None = None
        self._truncate_from: int | None = None
        self._runs: list[Run] = []
        self._mark: Mark | None = None

    # ------------------------------------------------------------------ messages

    def send(self, message: PeerMessage) -> None:
        self.messages.append(message)

    def promise_term(self, message: PeerMessage) -> None:
        self._hold(self._hard_number, message)

    def promise_all(self, message: PeerMessage) -> None:
        self._hold(self._covering_number, message)

    def drop_promises(self) -> None:
        self._held.clear()

    @property
    def held_count(self) -> int:
        return len(self._held)

    @property
    def term_is_durable(self) -> bool:
        return self._hard_number <= self._persisted_number

    def _hold(self, number: int, message: PeerMessage) -> None:
        if number <= self._persisted_number:
            self.messages.append(message)
            return
        held = self._held
        if held and held[-1][0] == number and _supersedes(message, held[-1][1]):
            held.pop()
        held.append((number, message))

    # ------------------------------------------------------------------ recording

    def record_hard_state(self, term: int, vote: Replica | None) -> None:
        self._hard_state = HardState(term, vote)
        self._hard_number = self._number + 1

    def record_runs(self, runs: list[Run]) -> None:
        self._runs.extend(runs)

    def record_truncation(self, index: int) -> None:
        """The log was cut at ``index``: forget what was not given out, cut the rest on disk."""
        self._runs = [run for run in self._runs if run.first < index]
        if index <= self._disk_index:
            self._truncate_from = index
            self._disk_index = index - 1
        for save in self._outstanding:
            save.proves_index = min(save.proves_index, index - 1)
        self.durable_index = min(self.durable_index, index - 1)

    def record_mark(self, mark: Mark, *, safe_index: int) -> int:
        """A snapshot stands for the front of the log; return the number of the save that says so.

        If it ``resets`` the log, nothing of the present log is on the disk before that save is:
        ``safe_index``, what was handed out to be applied, is all that counts until then.
        """
        if mark.resets:
            self._runs = []
            self._truncate_from = None
            self._disk_index = mark.base_index
            for save in self._outstanding:
                save.proves_index = min(save.proves_index, safe_index)
            self.durable_index = safe_index
            # They speak of a log that is gone before it was ever written.
            self._held = deque(
                held for held in self._held if type(held[1]) is not AppendReply or held[1].rejected
            )
        else:
            assert self._mark is None or not self._mark.resets, "taken before it was restored"
        self._mark = mark
        return self._number + 1

    @property
    def persisted_number(self) -> int:
        """The last save that is known to be durable."""
        return self._persisted_number

    @property
    def _is_dirty(self) -> bool:
        return (
            bool(self._runs)
            or self._hard_state is not None
            or self._truncate_from is not None
            or self._mark is not None
        )

    @property
    def _covering_number(self) -> int:
        return self._number + 1 if self._is_dirty else self._number

    # ------------------------------------------------------------------ saves

    def take_save(self, now: int) -> Save | None:
        if not self._is_dirty:
            return None
        self._number += 1
        save = Save(self._number, self._hard_state, self._truncate_from, self._runs, self._mark)
        self._mark = None
        self._hard_state = None
        self._truncate_from = None
        self._runs = []
        if save.runs:
            assert save.runs[0].first == self._disk_index + 1, "a save leaves a hole on the disk"
            self._disk_index = save.runs[-1].last
        self._outstanding.append(_Outstanding(save.number, save.last, self._disk_index, now))
        return save

    def on_persisted(self, message: Persisted) -> bool:
        """Note how far the disk has come; False if that was known."""
        if message.number <= self._persisted_number:
            return False
        assert message.number <= self._number, (
            f"save {message.number} is durable, but only {self._number} were given out"
        )
        last = (0, 0)
        outstanding = self._outstanding
        while outstanding and outstanding[0].number <= message.number:
            save = outstanding.popleft()
            self.durable_index = max(self.durable_index, save.proves_index)
            last = save.last if save.last != (0, 0) else last
        assert message.index == 0 or (message.term, message.index) == last, (
            f"save {message.number} ends with (term, index) {last}, "
            f"the disk reports {(message.term, message.index)}"
        )
        self._persisted_number = message.number
        self._release()
        return True

    def stalled_since(self) -> int | None:
        """When the oldest save was given out of which no success has been heard."""
        return self._outstanding[0].since_ms if self._outstanding else None

    def _release(self) -> None:
        held = self._held
        while held and held[0][0] <= self._persisted_number:
            message = held.popleft()[1]
            if self.messages and _supersedes(message, self.messages[-1]):
                self.messages.pop()
            self.messages.append(message)


def _supersedes(later: PeerMessage, earlier: PeerMessage) -> bool:
    """Whether the later answer says all that the earlier one said."""
    if type(later) is HeartbeatReply and type(earlier) is HeartbeatReply:
        return (
            later.to == earlier.to and later.term == earlier.term and later.round >= earlier.round
        )
    return (
        type(later) is AppendReply
        and type(earlier) is AppendReply
        and not later.rejected
        and not earlier.rejected
        and later.to == earlier.to
        and later.term == earlier.term
        and later.match >= earlier.match
    )
