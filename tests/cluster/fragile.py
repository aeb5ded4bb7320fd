"""Machines that fail, for groups of clusters under test."""

from __future__ import annotations

from typing import NoReturn

from actors.machines import DONE, Context, Machine, ReadRequest, Response, WriteRequest


class Fragile(Machine):
    """Does what it is told; ``BREAK`` is a bug."""

    def __init__(self) -> None:
        self.applied = 0

    def apply(self, request: WriteRequest, context: Context) -> Response:
        if request.operation == "BREAK":
            raise ZeroDivisionError("this command is a bug")
        self.applied += 1
        return DONE

    def read(self, request: ReadRequest) -> Response:
        if request.data == b"break":
            raise ZeroDivisionError("this read is a bug")
        return Response(b"%d" % self.applied)

    def digest(self) -> bytes:
        return self.applied.to_bytes(8, "big")


class Unmakeable(Machine):
    """Cannot even be made."""

    def __init__(self) -> NoReturn:
        raise LookupError("this machine cannot be made")
