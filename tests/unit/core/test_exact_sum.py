"""Two 64-bit limbs against Python's integers: additions, carries, signs, and the mean."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastrealign.core.exact_sum import FRACTION_BITS, ExactSum

# The limbs are a two's complement number of 128 bits.
LOW, HALF = 1 << 64, 1 << 127
totals = st.integers(-HALF, HALF - 1)
# What columns of real sums hold: 2^38 rows at most.
real_totals = st.integers(-(1 << 126), 1 << 126)


def sum_of(totals: list[int], count: int = 1) -> ExactSum:
    result = ExactSum(len(totals))
    for j, total in enumerate(totals):
        result.low[j] = total % LOW
        result.high[j] = total // LOW
    result.count = count
    return result


def total_of(sums: ExactSum) -> list[int]:
    return [int(high) * LOW + int(low) for low, high in zip(sums.low, sums.high, strict=True)]


def wrapped(total: int) -> int:
    return (total + HALF) % (2 * HALF) - HALF


def test_starts_at_nothing():
    sums = ExactSum(3)
    assert total_of(sums) == [0, 0, 0]
    assert sums.count == 0
    assert np.isnan(sums.mean).all()


@given(totals, totals)
@example(LOW - 1, 1)  # a carry out of the low limb
@example(-1, 1)  # all bits set, then none
@example(-LOW, LOW - 1)
@example(5, -7)  # a total that turns negative
def test_addition_is_that_of_integers(a, b):
    sums = sum_of([a, b], 3)
    sums.add(sum_of([b, a], 4))
    assert total_of(sums) == [wrapped(a + b)] * 2
    assert sums.count == 7


@given(st.lists(totals, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_grouping_and_order_gives_the_same(terms, random):
    parts = [sum_of([term, -term if term != -HALF else 0], 1) for term in terms]
    forward = ExactSum(2)
    for part in parts:
        forward.add(part)
    random.shuffle(parts)
    while len(parts) > 1:
        # A random tree of merges.
        left = parts.pop(random.randrange(len(parts)))
        right = parts[random.randrange(len(parts))]
        right.add(left)
    assert parts[0] == forward
    assert total_of(forward)[0] == wrapped(sum(terms))


@given(st.lists(real_totals, min_size=1, max_size=5), st.integers(1, 10**13))
@example([-1], 1)
@example([-LOW], 3)
@example([-LOW - 1, -LOW + 1, LOW - 1, LOW], 7)
@example([1 << FRACTION_BITS], 1)
def test_mean_is_the_quotient(terms, count):
    for term, mean in zip(terms, sum_of(terms, count).mean, strict=True):
        exact = Fraction(term, count << FRACTION_BITS)
        assert abs(Fraction(float(mean)) - exact) <= abs(exact) * Fraction(1, 1 << 51)


def test_mean_of_opposites_is_zero():
    sums = sum_of([123456789 << 50])
    sums.add(sum_of([-123456789 << 50]))
    assert sums.mean[0] == 0.0


@given(st.lists(st.integers(-(1 << 62), 1 << 62), min_size=1, max_size=4), st.integers(1, 63))
def test_scaling_is_a_shift(terms, bits):
    sums = sum_of(terms)
    sums.scale(bits)
    assert total_of(sums) == [term << bits for term in terms]


def test_rows_are_rounded_to_steps(rng):
    rows = rng.uniform(-2, 2, (33, 5))
    sums = ExactSum(5)
    rows[:9, 0] = np.ldexp([1, 3, -1, -3, 1 - 2**-53, 1 - 2**-52, 2**40 - 1, 1 + 2**-52, -1 + 2**-53], -41)  # half-way
    sums.add_rows(rows)
    steps = [[round(Fraction(float(value)) * (2**52 + 1) / 2**12) for value in column] for column in rows.T]
    assert total_of(sums) == [sum(column) << FRACTION_BITS - 40 for column in steps]
    assert sums.count == 33


def test_sums_of_version_0_1_had_40_fraction_bits():
    rows = np.array([[1.0, -0.25], [0.5, 0.125]])
    expected = ExactSum(2)
    expected.add_rows(rows)
    steps = np.ldexp(rows.sum(axis=0), 40).astype(np.int64)
    assert ExactSum.saved(steps, steps >> 63, 2, None) == expected
    assert ExactSum.saved(expected.low, expected.high, 2, FRACTION_BITS) == expected
    with pytest.raises(ValueError, match="39 fraction bits"):
        ExactSum.saved(steps, steps, 2, 39)


@pytest.mark.parametrize(
    "other", [sum_of([1, 2], 5), sum_of([1, 3], 4), sum_of([1, 2 + LOW], 4), sum_of([1, 2, 0], 4), "no sum"]
)
def test_equal_is_all_equal(other):
    assert sum_of([1, 2], 4) == sum_of([1, 2], 4)
    assert sum_of([1, 2], 4) != other
