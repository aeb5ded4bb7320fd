"""What can become of a call, as exceptions.

One question decides what a caller may do next: can the command have been applied? `definite` is
True when it certainly was not (or, for a read, when there is nothing to apply). It is False only
for `OutcomeUnknown`: the command may have been applied, may still be applied later, or not at all.
A time-out is not a failure; it is a question left open.
"""

from __future__ import annotations

from transport.client import wire


class PolyraftError(Exception):
    """A call that did not end with OK. `code` is a name of the contract or one of the client's."""

    code = "INTERNAL"

    def __init__(
        self, message: str, *, code: str | None = None, maybe_applied: bool = False, index: int = 0
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.message = message
        self.maybe_applied = maybe_applied
        self.index = index

    @property
    def definite(self) -> bool:
        """True: the command was certainly not applied."""
        return not self.maybe_applied

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class Rejected(PolyraftError):
    """The machine said no. The command is in the log at `index` and changed nothing."""

    code = "REJECTED"


class ApplyFailed(PolyraftError):
    """The machine failed on this command; it is skipped on all replicas alike."""

    code = "APPLY_FAILED"


class OutcomeUnknown(PolyraftError):
    """The answer is lost. The command may have been applied once, or may yet be, or never."""

    code = "UNAVAILABLE"

    def __init__(self, message: str, *, code: str | None = None, index: int = 0) -> None:
        super().__init__(message, code=code, maybe_applied=True, index=index)


class TimedOut(PolyraftError):
    """The time limit passed, and nothing was applied."""

    code = "TIMEOUT"


class NoLeader(PolyraftError):
    """The group had no leader until the time limit; `ctl why GROUP` says the reason."""

    code = "NO_LEADER"


class Unreachable(PolyraftError):
    """No node could be reached until the time limit, or the last one was lost before it answered.

    Of a read or a question only, or of a command that was never sent.
    """

    code = "UNREACHABLE"


class Busy(PolyraftError):
    """Too much is in flight, in the cluster until the time limit or in this client."""

    code = "BUSY"


class ShuttingDown(PolyraftError):
    """The node is stopping and no other one answered until the time limit."""

    code = "SHUTTING_DOWN"


class NoSuchGroup(PolyraftError):
    """The cluster knows no group of this name."""

    code = "NO_SUCH_GROUP"


class BadRequest(PolyraftError):
    """The request breaks the contract; the message names the place."""

    code = "BAD_REQUEST"


class SessionExpired(PolyraftError):
    """The session is gone, and with it the knowledge of what was applied in it.

    A repeat that meets this is `OutcomeUnknown` instead: its first attempt may have been applied.
    """

    code = "SESSION_EXPIRED"


class ReadOnly(PolyraftError):
    """The group takes no writes now, for instance because a disk is full."""

    code = "READ_ONLY"


class Forbidden(PolyraftError):
    """This client's key has no right to do this."""

    code = "FORBIDDEN"


class ClientClosed(PolyraftError):
    """The client was closed before the call was sent."""

    code = "CLIENT_CLOSED"


_BY_CODE: dict[int, type[PolyraftError]] = {
    wire.REJECTED: Rejected,
    wire.NO_SUCH_GROUP: NoSuchGroup,
    wire.NO_LEADER: NoLeader,
    wire.BUSY: Busy,
    wire.TIMEOUT: TimedOut,
    wire.BAD_REQUEST: BadRequest,
    wire.SESSION_EXPIRED: SessionExpired,
    wire.APPLY_FAILED: ApplyFailed,
    wire.READ_ONLY: ReadOnly,
    wire.FORBIDDEN: Forbidden,
    wire.SHUTTING_DOWN: ShuttingDown,
}


def error_of(outcome: wire.Outcome, *, maybe_applied: bool) -> PolyraftError:
    """The exception for a reply that is not OK; `maybe_applied` speaks of all attempts together."""
    assert outcome.code != wire.OK
    code = wire.CODE_NAMES.get(outcome.code, f"CODE_{outcome.code}")
    if maybe_applied:
        return OutcomeUnknown(outcome.error_text, code=code, index=outcome.index)
    kind = _BY_CODE.get(outcome.code, PolyraftError)
    return kind(outcome.error_text, code=code, index=outcome.index)
