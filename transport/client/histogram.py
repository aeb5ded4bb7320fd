"""Latencies in a fixed number of counters: exact below 64 us, within 2 % above, up to an hour.

A value of more than SUB_BITS bits falls into a bucket by its leading bits, as in a floating-point
number: the position of the highest bit chooses the octave, the bits after it the bucket within.
Adding is two shifts, merging is adding counters, and the worst error of a percentile is one bucket.
"""

from __future__ import annotations

from collections.abc import Sequence

SUB_BITS = 6
SUB_COUNT = 1 << SUB_BITS
VALUE_US_MAX = (1 << 32) - 1
BUCKETS_COUNT = (32 - SUB_BITS + 1) * SUB_COUNT


def bucket_of(value_us: int) -> int:
    """The bucket of a latency in microseconds; what is above the maximum goes into the last."""
    if value_us < SUB_COUNT:
        return value_us if value_us > 0 else 0
    if value_us > VALUE_US_MAX:
        value_us = VALUE_US_MAX
    shift = value_us.bit_length() - SUB_BITS
    # The leading bits are SUB_COUNT/2 .. SUB_COUNT-1, so each octave uses half a row.
    return shift * SUB_COUNT + (value_us >> shift)


def middle_of(bucket: int) -> float:
    """The middle of the values that fall into a bucket."""
    shift, leading = divmod(bucket, SUB_COUNT)
    if shift == 0:
        return float(leading)
    return (leading << shift) + (1 << shift) / 2


class Histogram:
    """Counts of latencies by bucket."""

    __slots__ = ("counts", "total_count")

    def __init__(self, counts: Sequence[int] = ()) -> None:
        self.counts = list(counts) if counts else [0] * BUCKETS_COUNT
        self.total_count = sum(self.counts)
        assert len(self.counts) == BUCKETS_COUNT

    def add(self, value_us: int) -> None:
        """Count one latency."""
        self.counts[bucket_of(value_us)] += 1
        self.total_count += 1

    def merge(self, other: Histogram) -> None:
        """Add the counts of another histogram."""
        self.counts = [
            mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)
        ]
        self.total_count += other.total_count

    def percentile_us(self, percent: float) -> float | None:
        """The latency that `percent` of all do not exceed; None when nothing was counted."""
        assert 0 < percent <= 100, percent
        if self.total_count == 0:
            return None
        rank = max(1, -(-self.total_count * percent // 100))
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return middle_of(bucket)
        raise AssertionError(f"counts {seen} below total {self.total_count}")
