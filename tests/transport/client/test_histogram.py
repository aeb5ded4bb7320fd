"""Latencies by bucket: exact when small, close when large, alike when merged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from transport.client.histogram import (
    BUCKETS_COUNT,
    SUB_COUNT,
    VALUE_US_MAX,
    Histogram,
    bucket_of,
    middle_of,
)


@given(st.integers(0, VALUE_US_MAX))
def test_a_value_is_within_two_percent_of_the_middle_of_its_bucket(value: int) -> None:
    bucket = bucket_of(value)
    assert 0 <= bucket < BUCKETS_COUNT
    error = abs(middle_of(bucket) - value)
    assert error <= (0 if value < SUB_COUNT else value * 0.017)


@given(st.integers(0, VALUE_US_MAX - 1))
def test_buckets_rise_with_values(value: int) -> None:
    assert bucket_of(value) <= bucket_of(value + 1)


def test_impossible_values_go_to_the_ends() -> None:
    assert bucket_of(-1) == 0
    assert bucket_of(VALUE_US_MAX * 100) == bucket_of(VALUE_US_MAX) < BUCKETS_COUNT


def test_percentiles_are_those_of_the_sorted_list() -> None:
    histogram = Histogram()
    for value in range(1, 51):
        histogram.add(value)
    assert histogram.percentile_us(50) == 25
    assert histogram.percentile_us(99) == 50
    assert histogram.percentile_us(100) == 50
    assert histogram.percentile_us(0.001) == 1


def test_nothing_counted_has_no_percentile() -> None:
    assert Histogram().percentile_us(50) is None


def test_merging_is_counting_both() -> None:
    one, other, both = Histogram(), Histogram(), Histogram()
    for value in (5, 700, 90_000):
        one.add(value)
        both.add(value)
    for value in (6, 800):
        other.add(value)
        both.add(value)
    one.merge(other)
    assert (one.counts, one.total_count) == (both.counts, 5)
    assert Histogram(one.counts).total_count == 5
