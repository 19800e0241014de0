"""reduce against the float64 reference: every element type and width, every layout of memory, every kind of odd row."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core import ops, reference
from fastrealign.core.bad_rows import COLLAPSED, GOOD, NOT_FINITE, ZERO, Counts
from fastrealign.core.cpu import instruction_sets
from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import FRACTION_BITS, ExactSum
from fastrealign.core.row_map import UNIT, RowMap

WIDTHS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 96, 257, 768, 4097]
ROWS = [1, 15, 17, 129, 257]
TERMS = ["unit", "s", "b", "bc"]

# What rounding may do to an entry: half a step of 2^-40 for alpha y, a quarter each for beta b and gamma c.
ROUNDING = 0.5**40


@pytest.fixture(params=instruction_sets())
def isa(request):
    return request.param


def reduce(rows, row_map=UNIT, **options):
    sums = ExactSum(rows.shape[1])
    counts = ops.reduce(rows, row_map, sums, **options)
    assert counts.good == sums.count
    assert counts.good + counts.bad == len(rows)
    return sums, counts


def reference_mean(rows, row_map):
    """The mean of f over the rows; summed in long double, so that only f's own rounding is left."""
    mapped = reference.row_map(rows.astype(np.float64), row_map.s, row_map.b, row_map.c)
    return (mapped.sum(axis=0, dtype=np.longdouble) / len(rows)).astype(np.float64)


def total_of(sums):
    return [int(high) * 2**64 + int(low) for low, high in zip(sums.low, sums.high, strict=True)]


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", WIDTHS)
def test_mean_is_that_of_the_reference(rows_of, map_of, in_dtype, isa, d):
    for i, n in enumerate(ROWS):
        rows = rows_of(n, d, in_dtype)
        row_map = map_of(d, TERMS[(i + d) % len(TERMS)])
        sums, counts = reduce(rows, row_map, isa=isa)
        assert (counts.good, counts.bad, counts.first_bad) == (n, 0, -1)
        np.testing.assert_allclose(sums.mean, reference_mean(rows, row_map), rtol=0, atol=ROUNDING + 1e-14)


@pytest.mark.parametrize(("d", "terms"), [(3, "bc"), (8, "unit")])
def test_mean_of_a_million_rows(rows_of, map_of, d, terms):
    rows = rows_of(1_000_003, d)
    row_map = map_of(d, terms)
    expected = reference_mean(rows, row_map)
    for isa in instruction_sets():
        sums, _ = reduce(rows, row_map, isa=isa)
        assert np.linalg.norm(sums.mean - expected) <= 1e-12, isa


@pytest.mark.slow
def test_mean_of_half_a_million_real_rows(rows_of, map_of):
    rows = rows_of(500_000, 768)
    row_map = map_of(768)
    expected = sum(reference_mean(part, row_map) * len(part) for part in np.array_split(rows, 50)) / len(rows)
    sums, _ = reduce(rows, row_map)
    assert np.linalg.norm(sums.mean - expected) <= 1e-12


@pytest.mark.parametrize("size", [1e30, 1e-30, 1e-42])
def test_float32_rows_of_extreme_length(rows_of, map_of, isa, size):
    rows = (rows_of(23, 33, np.float64) * size).astype(np.float32)
    row_map = map_of(33)
    sums, counts = reduce(rows, row_map, isa=isa)
    assert counts.good == 23
    np.testing.assert_allclose(sums.mean, reference_mean(rows, row_map), rtol=0, atol=ROUNDING + 1e-14)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e-320, 1e306])
def test_float64_rows_of_extreme_length(rows_of, map_of, isa, size):
    rows = rows_of(23, 33, np.float64) * size
    row_map = map_of(33)
    sums, counts = reduce(rows, row_map, isa=isa)
    assert counts.good == 23
    np.testing.assert_allclose(sums.mean, reference_mean(rows, row_map), rtol=0, atol=ROUNDING + 1e-14)


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float16, 2.0**-20), (np.float16, 1e3), (BFLOAT16, 5e36), (BFLOAT16, 1e-38)]
)
def test_16_bit_rows_of_extreme_length(rows_of, map_of, isa, dtype, size):
    rows = (rows_of(23, 33, np.float64) * size).astype(dtype)
    rows[:, 0] = np.float32(size * 8)
    row_map = map_of(33)
    sums, counts = reduce(rows, row_map, isa=isa)
    assert counts.good == 23
    np.testing.assert_allclose(sums.mean, reference_mean(rows, row_map), rtol=0, atol=ROUNDING + 1e-14)


@pytest.mark.parametrize("size", [1e-1, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("d", [5, 40])
def test_rows_that_nearly_cancel(rng, isa, d, size):
    """s pi(y) + b, and then pi(...) + c, is a vector of length `size` between two of length 1."""
    b = rng.standard_normal(d)
    b /= np.linalg.norm(b)
    rows = -b + size * reference.project(rng.standard_normal((20, d)))
    for row_map in (RowMap(1.0, b), RowMap(1.0, None, b)):
        for row in rows:
            sums, _ = reduce(row[None], row_map, isa=isa)
            expected = reference_mean(row[None], row_map)
            np.testing.assert_allclose(sums.mean, expected, rtol=0, atol=ROUNDING + 1e-14 / size)


# --- exact sums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "threads"), [(1, 1), (-1, 1), (1, 2)])
def test_the_largest_sums_do_not_overflow(value, threads):
    """All entries 1: the sum that grows fastest. 2^11 rows would leave the range of an accumulator, a flush comes before."""
    n = 2**23 + 5
    rows = np.broadcast_to(np.float16(value), (n, 1))
    sums, counts = reduce(rows, threads=threads)
    assert counts.good == n
    assert total_of(sums) == [value * n << FRACTION_BITS]
    assert sums.mean[0] == value


@pytest.mark.parametrize("before", [2**64 - 1, 2**64 - 2**39, -1, -(2**64), -(2**40), 2**120, -(2**120), 0])
@pytest.mark.parametrize("value", [1.0, -1.0])
def test_totals_carry_between_the_limbs(isa, before, value):
    sums = ExactSum(3)
    sums.low[:] = before % 2**64
    sums.high[:] = before // 2**64
    sums.count = 11
    ops.reduce(np.full((7, 1), value, np.float32).repeat(3, 1) * [[0.0, 1.0, 0.0]], UNIT, sums, isa=isa)
    assert total_of(sums) == [before, before + 7 * int(value) * 2**88, before]
    assert sums.count == 18


def test_sums_are_added_to(rows_of, map_of, isa):
    rows, row_map = rows_of(50, 9), map_of(9)
    whole, _ = reduce(rows, row_map, isa=isa)
    sums = ExactSum(9)
    for part in np.split(rows, [1, 4, 4, 31]):
        ops.reduce(part, row_map, sums, isa=isa)
    assert sums == whole


def test_no_rows_add_nothing(isa):
    sums, counts = reduce(np.empty((0, 5), np.float32), isa=isa)
    assert counts == Counts(0, 0, -1, GOOD)
    assert sums == ExactSum(5)


# --- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 7, 8, 17, 96])
def test_any_layout_gives_the_same_bits(rows_of, map_of, layouts, in_dtype, isa, d):
    rows = rows_of(19, d, in_dtype)
    for terms in TERMS:
        row_map = map_of(d, terms)
        expected, _ = reduce(rows, row_map, isa=isa)
        for name, view in layouts(rows):
            assert reduce(view, row_map, isa=isa)[0] == expected, name


@pytest.mark.parametrize("terms", TERMS)
def test_any_order_and_threads_give_the_same_bits(rng, rows_of, map_of, in_dtype, isa, terms):
    rows = rows_of(20_011, 33, in_dtype)
    row_map = map_of(33, terms)
    expected, _ = reduce(rows, row_map, isa=isa, threads=1)
    for threads in (2, 3, 8, 64):
        assert reduce(rows, row_map, isa=isa, threads=threads)[0] == expected
    assert reduce(rows[rng.permutation(len(rows))], row_map, isa=isa)[0] == expected


def test_repeated_runs_give_the_same_bits(rows_of, map_of):
    rows, row_map = rows_of(40_000, 65), map_of(65)
    expected, _ = reduce(rows, row_map, threads=1)
    for _ in range(20):
        assert reduce(rows, row_map, threads=4)[0] == expected


def test_every_instruction_set_gives_the_same_bits(rows_of, map_of, in_dtype):
    for d in WIDTHS:
        for terms in TERMS:
            rows, row_map = rows_of(130, d, in_dtype), map_of(d, terms)
            sums = [reduce(rows, row_map, isa=isa)[0] for isa in instruction_sets()]
            assert all(one == sums[0] for one in sums), (d, terms)


def halfway(rng, n, d):
    """Rows whose unit entries alpha y lie half-way between two steps of 2^-40, were alpha not made odd."""
    rows = rng.integers(-4, 4, (n, d)) * 2.0**-41 + rng.integers(0, 2, (n, d)) * 2.0**-40
    rows[:, 0] = rng.choice([-1.0, 1.0], n)
    return rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties_do_not_depend_on_the_order(rng, isa, dtype):
    """A fused multiply-add onto a running sum rounds a tie by the sum so far: there must be none."""
    rows = halfway(rng, 500, 9).astype(dtype)
    expected, _ = reduce(rows, isa=isa)
    for _ in range(20):
        assert reduce(rng.permutation(rows), isa=isa)[0] == expected
    parts = ExactSum(9)
    for part in np.array_split(rng.permutation(rows), 23):
        ops.reduce(part, UNIT, parts, isa=isa)
    assert parts == expected
    np.testing.assert_allclose(expected.mean, reference_mean(rows, UNIT), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("size", [1e-150, 1e-12, 1e-3, 1.0, 40.0, 1e9])
def test_shifts_of_every_size(rng, isa, size):
    """beta and gamma are summed apart from the rows, scaled by the largest entries of b and c."""
    rows, directions = rng.standard_normal((700, 20)), reference.project(rng.standard_normal((2, 20)))
    for row_map in (RowMap(0.7, size * directions[0]), RowMap(1.3, 0.4 * directions[0], size * directions[1])):
        sums, _ = reduce(rows, row_map, isa=isa)
        np.testing.assert_allclose(sums.mean, reference_mean(rows, row_map), rtol=0, atol=ROUNDING + 1e-14)


def test_large_coefficients_flush_the_accumulators_in_time(rng, isa):
    """Rows that b nearly cancels have alpha y of up to 128 and more: thousands of them, of one sign."""
    d, n = 10, 4000
    b = -reference.project(rng.standard_normal((1, d)))[0]
    rows = reference.project(-b + rng.uniform(0.004, 0.5, (n, 1)) * reference.project(rng.standard_normal((n, d))))
    sums, _ = reduce(rows, RowMap(1.0, b), isa=isa)
    np.testing.assert_allclose(sums.mean, reference_mean(rows, RowMap(1.0, b)), rtol=0, atol=1e-12)
    parts = ExactSum(d)
    for part in np.array_split(rows[::-1], 17):
        ops.reduce(part, RowMap(1.0, b), parts, isa=isa)
    assert parts == sums


# --- rows without a direction ----------------------------------------------------------------------------------------

BAD = [(0.0, ZERO), (np.nan, NOT_FINITE), (np.inf, NOT_FINITE), (-np.inf, NOT_FINITE)]


def spoil(row, value, column):
    if value == 0:
        row[:] = 0
    else:
        row[column] = value


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("d", [1, 8, 21])
def test_a_bad_row_at_any_place(rng, rows_of, map_of, in_dtype, isa, d, terms):
    """Four rows are taken at once: each place among them, and among the rows left over, is tried."""
    row_map = map_of(d, terms)
    rows = rows_of(11, d, in_dtype)
    for at in range(len(rows)):
        value, reason = BAD[rng.integers(len(BAD))]
        spoiled = rows.copy()
        spoil(spoiled[at], value, rng.integers(d))
        flags = np.full(len(rows), 99, np.uint8)
        sums, counts = reduce(spoiled, row_map, isa=isa, flags=flags)
        assert counts == Counts(good=10, bad=1, first_bad=at, reason=reason)
        assert flags.tolist() == [reason if i == at else GOOD for i in range(len(rows))]
        assert sums == reduce(np.delete(rows, at, 0), row_map, isa=isa)[0]


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_of_many_bad_rows_is_located(rng, rows_of, isa, threads):
    rows = rows_of(50_000, 16)
    bad = np.sort(rng.choice(len(rows), 500, replace=False))
    kinds = rng.integers(len(BAD), size=len(bad))
    for at, kind in zip(bad, kinds, strict=True):
        spoil(rows[at], BAD[kind][0], at % 16)
    flags = np.empty(len(rows), np.uint8)
    sums, counts = reduce(rows, isa=isa, threads=threads, flags=flags)
    expected = np.zeros(len(rows), np.uint8)
    expected[bad] = [BAD[kind][1] for kind in kinds]
    assert counts == Counts(good=len(rows) - 500, bad=500, first_bad=bad[0], reason=expected[bad[0]])
    np.testing.assert_array_equal(flags, expected)
    assert sums == reduce(np.delete(rows, bad, 0), isa=isa)[0]


@pytest.mark.parametrize("d", [1, 3, 20])
def test_rows_that_the_map_sends_to_zero(rng, isa, d):
    row = rng.standard_normal(d)
    opposite = -reference.project(row[None])[0]
    rows = np.stack([row, -row, 3 * row])
    for row_map in (RowMap(1.0, opposite), RowMap(1.0, None, opposite)):
        flags = np.empty(3, np.uint8)
        sums, counts = reduce(rows, row_map, isa=isa, flags=flags)
        assert counts == Counts(good=1, bad=2, first_bad=0, reason=COLLAPSED)
        assert counts.why == "is sent to zero by the map"
        assert flags.tolist() == [COLLAPSED, GOOD, COLLAPSED]
        np.testing.assert_allclose(sums.mean, opposite, rtol=0, atol=ROUNDING + 1e-14)


def test_all_rows_bad(isa):
    sums, counts = reduce(np.zeros((9, 4), np.float32), isa=isa)
    assert counts == Counts(good=0, bad=9, first_bad=0, reason=ZERO)
    assert sums == ExactSum(4)


def test_rows_of_another_shape_are_refused():
    with pytest.raises(InputError, match="expected two dimensions"):
        ops.reduce(np.ones(3, np.float32), UNIT, ExactSum(3))
