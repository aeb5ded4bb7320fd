"""A state machine of one's own: counters that never fall below zero, say stocks of goods.

::

    bin/node --dev 3 --group stock=examples.counter:Counter

Writes: operation ``ADD``, the name of the counter as key, the amount as decimal text in data.  The
answer is the new count; what would make it negative is refused, alike on all replicas.  Reads: data
is a name, the answer its count.
"""

from __future__ import annotations

from actors.machines import Context, Machine, ReadRequest, Response, WriteRequest

DIGITS_MAX = 18  # of an amount, and of a count; so no number grows without end


class Counter(Machine):
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.applied = (
            0  # commands that changed something; with it, the digest tells histories apart
        )

    def apply(self, request: WriteRequest, context: Context) -> Response:
        amount = request.data.removeprefix(b"-")
        if request.operation != "ADD" or not 0 < len(amount) <= DIGITS_MAX or not amount.isdigit():
            return Response.refuse("ADD wants a decimal amount")
        count = self.counts.get(request.key, 0) + int(request.data)
        if not 0 <= count < 10**DIGITS_MAX:
            return Response.refuse(f"the count of {request.key!r} would be {count}")
        self.counts[request.key] = count
        self.applied += 1
        return Response(b"%d" % count)

    def read(self, request: ReadRequest) -> Response:
        return Response(b"%d" % self.counts.get(request.data.decode(), 0))

    def digest(self) -> bytes:
        return b"%d/%d" % (self.applied, sum(self.counts.values()))
