"""apply against the float64 reference: every element type in and out, every layout of memory, every kind of odd row."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core import ops, reference
from fastrealign.core.bad_rows import COLLAPSED, GOOD, NOT_FINITE, ZERO, Counts
from fastrealign.core.cpu import instruction_sets
from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import UNIT, RowMap

WIDTHS = [1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 96, 257, 768, 4097]
ROWS = [1, 15, 17, 129, 257]
TERMS = ["unit", "s", "b", "bc"]

BOTH_VECTOR_SETS = pytest.mark.skipif(
    not {"avx512", "avx2"} <= set(instruction_sets()), reason="needs a machine with AVX-512"
)


def apply(rows, row_map, dtype=None, **options):
    out = np.full(rows.shape, np.nan, dtype or rows.dtype)
    counts = ops.apply(rows, row_map, out, **options)
    assert counts.good + counts.bad == len(rows)
    return out, counts


def mapped(rows, row_map):
    return reference.row_map(rows.astype(np.float64), row_map.s, row_map.b, row_map.c)


def assert_close(out, expected, float64_error=2e-13):
    """float32 to 3e-7; 16-bit types to twice what rounding the exact result would do; float64 to its own digits."""
    found = out.astype(np.float64)
    error = np.abs(found - expected).max()  # NaN where anything is left unwritten
    if out.dtype == np.float64:
        allowed = float64_error
    elif out.dtype == np.float32:
        allowed = 3e-7
    else:
        allowed = 2 * np.abs(expected.astype(out.dtype).astype(np.float64) - expected).max()
    assert error <= allowed
    if out.dtype.itemsize >= 4:
        assert np.abs(np.linalg.norm(found, axis=1) - 1).max() <= allowed


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", WIDTHS)
def test_matches_the_reference(rows_of, map_of, in_dtype, isa, d):
    for i, n in enumerate(ROWS):
        rows = rows_of(n, d, in_dtype)
        row_map = map_of(d, "bc" if n == 257 else TERMS[(i + d) % len(TERMS)])
        expected = mapped(rows, row_map)
        for dtype in (np.float32, np.float16, BFLOAT16, np.float64):
            out, counts = apply(rows, row_map, dtype, isa=isa)
            assert counts == Counts(good=n)
            assert_close(out, expected)


@pytest.mark.parametrize("d", [3, 8])
def test_a_million_rows_match_the_reference(rows_of, map_of, d):
    rows, row_map = rows_of(1_000_003, d), map_of(d)
    expected = mapped(rows, row_map)
    for isa in instruction_sets():
        out, counts = apply(rows, row_map, isa=isa)
        assert counts == Counts(good=len(rows)), isa
        assert_close(out, expected)


EXTREMES = [
    (np.float32, 1e30),
    (np.float32, 1e-30),
    (np.float32, 1e-42),
    (np.float64, 1e200),
    (np.float64, 1e-200),
    (np.float64, 1e-320),
    (np.float64, 1e306),
    (np.float16, 2.0**-20),
    (np.float16, 1e3),
    (BFLOAT16, 1e36),
    (BFLOAT16, 1e-38),
]


@pytest.mark.parametrize(("dtype", "size"), EXTREMES)
def test_rows_of_extreme_length(rows_of, map_of, out_dtype, isa, dtype, size):
    for d in (5, 40):
        rows = (rows_of(23, d, np.float64) * size).astype(dtype)
        rows[:, 0] = np.float64(size) * 8
        row_map = map_of(d)
        out, counts = apply(rows, row_map, out_dtype, isa=isa)
        assert counts.good == 23
        assert_close(out, mapped(rows, row_map))


def test_rows_of_all_lengths_together(rng, rows_of, map_of, out_dtype, isa):
    """A long row among short ones takes another way through the kernel than its neighbours."""
    rows = rows_of(60, 33, np.float64) * 10.0 ** rng.integers(-30, 30, (60, 1))
    rows, row_map = rows.astype(np.float32), map_of(33)
    assert_close(apply(rows, row_map, out_dtype, isa=isa)[0], mapped(rows, row_map))


@pytest.mark.parametrize("d", [5, 40])
def test_rows_that_nearly_cancel(rng, rows_of, in_dtype, out_dtype, isa, d):
    """s pi(y) + b, and then pi(...) + c, is a vector of length `size` between two of length 1."""
    for size in (1e-1, 1e-2, 1e-4, 1e-6):
        for row in rows_of(20, d, in_dtype)[:, None]:
            opposite = size * reference.project(rng.standard_normal((1, d)))[0] - mapped(row, UNIT)[0]
            for row_map in (RowMap(1.0, opposite), RowMap(1.0, None, opposite)):
                out, counts = apply(row, row_map, out_dtype, isa=isa)
                assert counts.good == 1
                assert_close(out, mapped(row, row_map), float64_error=2e-13 + 1e-14 / size)


@pytest.mark.parametrize("d", [1, 16, 17, 40])
def test_one_hot_rows_with_a_large_shift(rng, out_dtype, isa, d):
    """All of a row in one column, and a shift of that column: float32 terms several times as large as their sum."""
    for _ in range(100):
        rows = np.zeros((4, d), np.float32)
        column = rng.integers(d)
        rows[:, column] = rng.uniform(0.1, 10, 4) * [1, -1, 1, -1]
        s = rng.uniform(0.5, 2.5)
        b, c = np.zeros(d), np.zeros(d)
        b[column], c[column] = s * rng.uniform(-0.97, 0.97), rng.uniform(-0.97, 0.97)
        if d > 1:
            b += rng.standard_normal(d) * 0.01
        row_map = RowMap(s, b, c)
        assert_close(apply(rows, row_map, out_dtype, isa=isa)[0], mapped(rows, row_map), float64_error=1e-10)


@pytest.mark.parametrize("shift", [-0.2, -0.28, -0.35, -0.4, -0.44, -0.46])
def test_nearly_one_hot_rows_with_opposite_shifts(rng, isa, shift):
    """The worst there is for float32: the sum is the smallest that the kernel takes the quick way for."""
    d = 16
    rows = (rng.standard_normal((20_000, d)) * 0.03).astype(np.float32)
    rows[:, 0] = rng.uniform(0.5, 2, len(rows))
    for s in (1.0, 1.466):
        b, c = rng.standard_normal((2, d)) * 0.01
        b[0], c[0] = s * shift, shift + 0.02
        row_map = RowMap(s, b, c)
        assert_close(apply(rows, row_map, isa=isa)[0], mapped(rows, row_map))


# --- memory ----------------------------------------------------------------------------------------------------------


def poisoned(n, d, dtype, *, columns=0, offset=0, backwards=False):
    """An (n, d) output of 0xFF bytes (NaN), and a function that says whether a byte outside of it was touched."""
    dtype = np.dtype(dtype)
    guard = 256
    stride = (d + columns) * dtype.itemsize
    memory = np.full(guard + offset + n * stride + guard, 0xFF, np.uint8)
    wide = np.ndarray((n, d + columns), dtype, memory, guard + offset)
    out = wide[:, columns // 2 : columns // 2 + d]
    if backwards:
        out = out[::-1]

    def intact():
        outside = memory != 0xFF
        start = guard + offset + columns // 2 * dtype.itemsize
        ours = np.ndarray((n, d * dtype.itemsize), bool, outside, start, (stride, 1))
        ours[:] = False
        return not outside.any()

    return out, intact


OUTPUTS = [
    {},
    {"columns": 5},
    {"columns": 1, "backwards": True},
    {"offset": 1},
    {"offset": 8, "columns": 3},
    {"backwards": True},
]


def test_nothing_outside_the_output_is_written(rows_of, map_of, in_dtype, out_dtype, isa):
    for d in (1, 7, 8, 17, 96):
        rows, row_map = rows_of(11, d, in_dtype), map_of(d)
        expected, _ = apply(rows, row_map, out_dtype, isa=isa)
        for kind in OUTPUTS:
            out, intact = poisoned(11, d, out_dtype, **kind)
            ops.apply(rows, row_map, out, isa=isa)
            assert intact(), kind
            np.testing.assert_array_equal(out, expected, strict=True, err_msg=str(kind))


@pytest.mark.parametrize("d", [1, 7, 8, 17, 96])
def test_any_layout_gives_the_same_bits(rows_of, map_of, layouts, in_dtype, isa, d):
    rows, row_map = rows_of(19, d, in_dtype), map_of(d)
    for dtype in (np.float32, BFLOAT16):
        expected, _ = apply(rows, row_map, dtype, isa=isa)
        for name, view in layouts(rows):
            out = np.full(rows.shape, np.nan, dtype)
            ops.apply(view, row_map, out, isa=isa)
            np.testing.assert_array_equal(out, expected, err_msg=name)


@pytest.mark.parametrize("d", [1, 8, 33])
def test_in_place(rows_of, map_of, in_dtype, isa, d):
    rows, row_map = rows_of(300, d, in_dtype), map_of(d)
    expected, _ = apply(rows, row_map, isa=isa)
    for view in (rows.copy(), np.ascontiguousarray(rows[::-1])[::-1], np.repeat(rows, 2, axis=0)[::2]):
        ops.apply(view, row_map, view, isa=isa, threads=4)
        np.testing.assert_array_equal(view, expected)


PAST_CACHE = 16 << 20  # an output larger than this is always written past the cache


@pytest.mark.parametrize(("d", "offset"), [(96, 0), (2048, 0), (257, 0), (257, 4), (33, 8), (33, 1), (5, 2)])
def test_an_output_larger_than_the_cache_has_the_same_bits(rows_of, map_of, out_dtype, d, offset):
    """It is written past the cache in whole lines, with a beginning and an end of each row that are not.

    Rows that lie a multiple of 4 KiB apart (2048) are written one at a time.
    """
    n = PAST_CACHE // (d * out_dtype.itemsize) + 100
    row_map = map_of(d)
    # The plain code has no stores past the cache, and takes long.
    sets = [isa for isa in instruction_sets() if isa != "baseline"] or ["baseline"]
    # With AVX2 only bfloat16 rows are added to the sums of bfloat16 results as integers.
    for in_dtype in [np.float32, BFLOAT16] if out_dtype == BFLOAT16 else [np.float32]:
        few = rows_of(4093, d, in_dtype)
        rows = few[np.arange(n) % len(few)]
        for isa in sets:
            of_few = ExactSum(d)
            in_cache, _ = apply(few, row_map, out_dtype, isa=isa, into=of_few)
            out, intact = poisoned(n, d, out_dtype, offset=offset, columns=3 if d == 33 else 0)
            sums, parts = ExactSum(d), ExactSum(d)
            ops.apply(rows, row_map, out, isa=isa, into=sums)
            for start in range(0, n, len(few)):
                part = out[start : start + len(few)]
                assert np.array_equal(part, in_cache[: len(part)])
                if len(part) == len(few):
                    parts.add(of_few)
                else:
                    apply(few[: len(part)], row_map, out_dtype, isa=isa, into=parts)
            assert intact()
            assert sums == parts


# --- the same bits ---------------------------------------------------------------------------------------------------


def test_any_number_of_threads_gives_the_same_bits(rows_of, map_of, in_dtype, out_dtype, isa):
    rows, row_map = rows_of(20_011, 33, in_dtype), map_of(33)
    sums = ExactSum(33)
    expected, _ = apply(rows, row_map, out_dtype, isa=isa, threads=1, into=sums)
    for threads in (2, 3, 8):
        again = ExactSum(33)
        out, _ = apply(rows, row_map, out_dtype, isa=isa, threads=threads, into=again)
        np.testing.assert_array_equal(out, expected)
        assert again == sums


def test_repeated_runs_give_the_same_bits(rows_of, map_of):
    rows, row_map = rows_of(40_000, 65), map_of(65)
    expected, _ = apply(rows, row_map, threads=1)
    for _ in range(20):
        assert np.array_equal(apply(rows, row_map, threads=4)[0], expected)


def test_a_row_does_not_depend_on_its_neighbours(rows_of, map_of, in_dtype, out_dtype, isa):
    rows, row_map = rows_of(9, 40, in_dtype), map_of(40)
    together, _ = apply(rows, row_map, out_dtype, isa=isa)
    for i in range(len(rows)):
        alone, _ = apply(rows[i : i + 1], row_map, out_dtype, isa=isa)
        np.testing.assert_array_equal(alone[0], together[i])


@BOTH_VECTOR_SETS
def test_avx2_and_avx512_give_the_same_bits(rows_of, map_of, in_dtype, out_dtype):
    for d in WIDTHS:
        for terms in TERMS:
            rows, row_map = rows_of(130, d, in_dtype), map_of(d, terms)
            narrow, _ = apply(rows, row_map, out_dtype, isa="avx2")
            wide, _ = apply(rows, row_map, out_dtype, isa="avx512")
            np.testing.assert_array_equal(narrow, wide, err_msg=f"{d} {terms}")


# --- sums of what is stored ------------------------------------------------------------------------------------------


def in_steps(x):
    """x (1 + 2^-52) in whole steps of 2^-40, half-way cases to even, as integers: a Fraction takes five times as long."""
    above, below = x.as_integer_ratio()
    whole, rest = divmod(above * (2**52 + 1), below << 12)
    return whole + (2 * rest + (whole & 1) > below << 12)


def steps_of(stored):
    """The exact total, as Python integers in units of 2^-88, of entries times 1 + 2^-52 in whole steps of 2^-40."""
    return [sum(map(in_steps, column)) << 48 for column in stored.T.astype(np.float64).tolist()]


def test_sums_are_those_of_the_stored_rows(rows_of, map_of, in_dtype, out_dtype, isa):
    for d in (1, 7, 8, 17, 96):
        rows, row_map = rows_of(67, d, in_dtype), map_of(d)
        rows[5] = 0
        rows[6, d - 1] = np.nan
        rows[7] = rows[7].astype(np.float64) * 1e-4  # for float16 and float32 the slow path, at times
        sums = ExactSum(d)
        out, counts = apply(rows, row_map, out_dtype, isa=isa, into=sums)
        assert counts.good == sums.count == 65
        totals = [int(high) * 2**64 + int(low) for low, high in zip(sums.low, sums.high, strict=True)]
        assert totals == steps_of(np.delete(out, [5, 6], 0))


def test_sums_of_entries_of_every_size(rng, in_dtype, out_dtype, isa):
    """From 1 to the smallest of each type, zeros among them, and more rows than an int32 of 2^-24 holds."""
    d, n = 64, 140
    rows = np.zeros((n, d))
    rows[:, 0] = 1.0
    rows[:, 1:] = rng.choice([-1.0, 1.0], (n, d - 1)) * 2.0 ** rng.uniform(-40, -8, (n, d - 1))
    rows[:, 40:] = np.where(np.abs(rows[:, 40:]) < 2.0**-16, 2.0**-15, rows[:, 40:])  # all are whole steps
    rows[::3, 7] = 0.0
    rows = rows.astype(in_dtype)
    sums = ExactSum(d)
    out, counts = apply(rows, RowMap(1.0), out_dtype, isa=isa, into=sums, threads=1)
    assert counts.good == n
    totals = [int(high) * 2**64 + int(low) for low, high in zip(sums.low, sums.high, strict=True)]
    assert totals == steps_of(out)


def test_sums_do_not_change_what_is_stored(rows_of, map_of, in_dtype, out_dtype, isa):
    rows, row_map = rows_of(67, 33, in_dtype), map_of(33)
    with_sums, _ = apply(rows, row_map, out_dtype, isa=isa, into=ExactSum(33))
    np.testing.assert_array_equal(with_sums, apply(rows, row_map, out_dtype, isa=isa)[0])


# --- rows without a direction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 8, 21])
def test_a_bad_row_at_any_place_is_stored_as_it_came(rng, rows_of, map_of, in_dtype, out_dtype, isa, d):
    for terms in TERMS:
        row_map = map_of(d, terms)
        rows = rows_of(7, d, in_dtype)
        expected, _ = apply(rows, row_map, out_dtype, isa=isa)
        for at in range(len(rows)):
            spoiled = rows.copy()
            # Small whole numbers are the same in every element type.
            spoiled[at] = rng.integers(-100, 100, d)
            value, reason = [(0, ZERO), (np.nan, NOT_FINITE), (np.inf, NOT_FINITE)][rng.integers(3)]
            if reason == ZERO:
                spoiled[at] = 0
            else:
                spoiled[at, rng.integers(d)] = value
            flags = np.full(len(rows), 99, np.uint8)
            out, counts = apply(spoiled, row_map, out_dtype, isa=isa, flags=flags)
            assert counts == Counts(good=6, bad=1, first_bad=at, reason=reason)
            assert flags.tolist() == [reason if i == at else GOOD for i in range(len(rows))]
            np.testing.assert_array_equal(out[at].astype(np.float64), spoiled[at].astype(np.float64))
            np.testing.assert_array_equal(np.delete(out, at, 0), np.delete(expected, at, 0))


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_of_many_bad_rows_is_located(rng, rows_of, map_of, isa, threads):
    rows, row_map = rows_of(30_000, 33), map_of(33)
    bad = np.sort(rng.choice(len(rows), 300, replace=False))
    rows[bad[::2]] = 0
    rows[bad[1::2], bad[1::2] % 33] = np.nan
    states = np.zeros(len(rows), np.uint8)
    states[bad[::2]], states[bad[1::2]] = ZERO, NOT_FINITE
    flags = np.empty(len(rows), np.uint8)
    out, counts = apply(rows, row_map, isa=isa, threads=threads, flags=flags)
    assert counts == Counts(good=len(rows) - 300, bad=300, first_bad=bad[0], reason=states[bad[0]])
    np.testing.assert_array_equal(flags, states)
    np.testing.assert_array_equal(out[bad], rows[bad])


@pytest.mark.parametrize("d", [1, 3, 20])
def test_rows_that_the_map_sends_to_zero(rng, out_dtype, isa, d):
    row = rng.integers(-8, 8, d) + 0.5
    opposite = -reference.project(row[None])[0]
    rows = np.stack([row, -row, 2 * row, 3 * row])
    for row_map in (RowMap(1.0, opposite), RowMap(1.0, None, opposite)):
        flags = np.empty(4, np.uint8)
        out, counts = apply(rows, row_map, out_dtype, isa=isa, flags=flags)
        assert counts == Counts(good=1, bad=3, first_bad=0, reason=COLLAPSED)
        assert flags.tolist() == [COLLAPSED, GOOD, COLLAPSED, COLLAPSED]
        np.testing.assert_array_equal(out[[0, 2, 3]].astype(np.float64), rows[[0, 2, 3]])
        assert_close(out[1:2], opposite[None])


def test_no_rows(out_dtype, isa):
    out, counts = apply(np.empty((0, 5), np.float32), RowMap(1.0, np.ones(5)), out_dtype, isa=isa)
    assert counts == Counts(0, 0, -1, GOOD)
    assert out.shape == (0, 5)
