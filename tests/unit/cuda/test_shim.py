"""The CUDA kernels, run on the CPU, against the float64 reference and the CPU core: every type, path and guard."""

from __future__ import annotations

import numpy as np
import pytest
from shim_kernels import DTYPES, FLUSH_AFTER, FLUSH_WEIGHT, Results

from fastrealign.core import ops, reference
from fastrealign.core.bad_rows import COLLAPSED, GOOD, NOT_FINITE, ZERO
from fastrealign.core.exact_sum import FRACTION_BITS, ExactSum
from fastrealign.core.row_map import RowMap
from fastrealign.core.rows import empty_rows

# Widths for each path: packs with a warp a row (one for each width compiled, and ones that do not fill it), packs with
# a block a row; and single elements.
WIDE = [16, 384, 512, 768, 1000, 1024, 1280, 1536, 4096]
ODD = [1, 3, 15, 17, 33, 300, 769]


def reference_rows(x, row_map):
    return reference.row_map(np.asarray(x, np.float64), row_map.s, row_map.b, row_map.c)


def tolerance(expected, dtype):
    """|out - expected| allowed: 3e-7 for float32, twice the error of rounding to 16 bits."""
    if dtype in (np.float32, np.float64):
        return 3e-7 if dtype == np.float32 else 1e-14
    return 2 * np.abs(expected.astype(dtype).astype(np.float64) - expected).max() + 1e-12


def rounded(x):
    """x (1 + 2^-52) in steps of 2^-40, exactly: half-way cases away from zero."""
    scaled = np.ldexp(np.abs(x), 40)
    whole = np.floor(scaled)
    up = np.ldexp(scaled, -52) >= 0.5 - (scaled - whole)
    return (np.copysign(1, x) * (whole + up)).astype(np.int64)


def steps_of(rows):
    """The exact totals of rows as stored and rounded to steps of 2^-40, as Python integers in units of 2^-88."""
    steps = rounded(rows.astype(np.float64))
    return [sum(map(int, column)) << FRACTION_BITS - 40 for column in steps.T]


def total_steps(sums: ExactSum):
    return [int(h) * 2**64 + int(low) for h, low in zip(sums.high, sums.low, strict=True)]


def aligned_rows(x, out=False):
    """A copy that starts on 16 bytes."""
    held = empty_rows(*x.shape, x.dtype)
    held[:] = x
    return held


@pytest.mark.parametrize("d", WIDE + ODD)
def test_apply_is_the_reference_for_every_pair_of_types(kernels, rows_of, map_of, in_dtype, d):
    for out_dtype in DTYPES:
        x = aligned_rows(rows_of(9, d, in_dtype))
        row_map = map_of(d)
        out = empty_rows(9, d, out_dtype)
        out[:] = np.nan
        results = kernels.apply(x, row_map, out, sums=True)
        expected = reference_rows(x, row_map)
        assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(expected, out_dtype)
        assert (results.flags == GOOD).all()
        assert results.bad[0] == 0
        assert total_steps(results.sums) == steps_of(out)
        again = np.empty_like(out)
        kernels.apply(x, row_map, again)
        if (in_dtype.itemsize == out_dtype.itemsize and d <= 1280) or d in ODD:
            # Without sums it may be another kernel, with the same arithmetic.
            assert again.tobytes() == out.tobytes()
        else:
            assert np.abs(again.astype(np.float64) - expected).max() <= tolerance(expected, out_dtype)


@pytest.mark.parametrize("d", WIDE + ODD)
def test_reduce_adds_what_the_cpu_core_adds(kernels, rows_of, map_of, in_dtype, d):
    for terms in ("unit", "s", "b", "bc"):
        n = 11
        x = aligned_rows(rows_of(n, d, in_dtype))
        row_map = map_of(d, terms)
        results = kernels.reduce(x, row_map)
        core = ExactSum(d)
        ops.reduce(x, row_map, core)
        ours = np.array(total_steps(results.sums)) * 2.0**-FRACTION_BITS
        assert np.abs(ours - core.mean * n).max() <= 1e-12 * n
        assert np.abs(ours - reference_rows(x, row_map).sum(axis=0)).max() <= 1e-12 * n
        assert (results.flags == GOOD).all()


@pytest.mark.parametrize("terms", ["unit", "s", "b"])
@pytest.mark.parametrize("d", [17, 768, 2048])
def test_apply_without_all_terms(kernels, rows_of, map_of, in_dtype, terms, d):
    x = aligned_rows(rows_of(5, d, in_dtype))
    row_map = map_of(d, terms)
    out = empty_rows(5, d, np.dtype(np.float32))
    kernels.apply(x, row_map, out)
    assert np.abs(out - reference_rows(x, row_map)).max() <= 3e-7


@pytest.mark.parametrize("d", [5, 64, 768, 1536])
def test_rows_may_lie_anywhere(kernels, layouts, rows_of, map_of, d, in_dtype):
    n = 7
    rows = rows_of(n, d, in_dtype)
    row_map = map_of(d)
    expected = reference_rows(rows, row_map)
    for name, x in layouts(rows):
        if (
            x.dtype != rows.dtype
            or (d > 1 and x.strides[1] != x.itemsize)
            or x.ctypes.data % x.itemsize
            or x.strides[0] % x.itemsize
        ):
            continue  # a copy is made of these before a kernel sees them
        for gap in (1, 16):  # the output in a wider array, at single elements and at whole packs
            wide = empty_rows(n, d + 2 * gap, in_dtype)
            wide[:] = np.nan
            out = wide[:, gap : d + gap]
            kernels.apply(x, row_map, out)
            assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(expected, in_dtype), name
            assert np.isnan(wide[:, :gap].astype(np.float64)).all(), name
            assert np.isnan(wide[:, d + gap :].astype(np.float64)).all(), name
        sums = kernels.reduce(x, row_map).sums
        assert np.abs(np.array(total_steps(sums)) * 2.0**-FRACTION_BITS - expected.sum(axis=0)).max() <= n * 1e-12, name


@pytest.mark.parametrize("d", [7, 768, 1536])
def test_out_may_be_the_rows_themselves(kernels, rows_of, map_of, in_dtype, d):
    x = aligned_rows(rows_of(7, d, in_dtype))
    row_map = map_of(d)
    out = empty_rows(7, d, in_dtype)
    kernels.apply(x, row_map, out)
    kernels.apply(x, row_map, x)
    assert x.tobytes() == out.tobytes()


@pytest.mark.parametrize("d", [40, 41, 768, 1536])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bad_rows_are_counted_located_and_left_as_they_came(kernels, rows_of, map_of, dtype, d):
    x = aligned_rows(rows_of(21, d, dtype))
    row_map = map_of(d)
    x[20, d - 1] = np.inf
    x[13] = 0
    x[6, d // 2] = np.nan
    x[5] = 0
    expected = np.zeros(21, np.uint8)
    expected[[5, 13]], expected[[6, 20]] = ZERO, NOT_FINITE
    good = expected == GOOD
    out = empty_rows(21, d, dtype)
    stored = kernels.apply(x, row_map, out, sums=True)
    added = kernels.reduce(x, row_map, first_row=1000)
    for results in (stored, added):
        assert results.flags.tolist() == expected.tolist()
        assert results.bad[0] == 4
    assert stored.first_bad == (5, ZERO)
    assert added.first_bad == (1005, ZERO)
    np.testing.assert_array_equal(out[~good].astype(np.float64), x[~good].astype(np.float64))
    assert total_steps(stored.sums) == steps_of(out[good])
    total = reference_rows(x[good], row_map).sum(axis=0)
    assert np.abs(np.array(total_steps(added.sums)) * 2.0**-FRACTION_BITS - total).max() <= 21e-12


@pytest.mark.parametrize("d", [24, 768, 1536])
@pytest.mark.parametrize("which", ["u", "v"])
def test_a_row_that_the_map_sends_to_zero_is_collapsed(kernels, rows_of, d, which):
    x = aligned_rows(rows_of(5, d, np.float64))
    unit = reference.project(x)
    row_map = RowMap(1.0, -unit[3], np.zeros(d)) if which == "u" else RowMap(1.0, np.zeros(d), -unit[3])
    out = empty_rows(5, d, np.dtype(np.float64))
    results = kernels.apply(x, row_map, out)
    assert results.first_bad == (3, COLLAPSED)
    assert kernels.reduce(x, row_map).first_bad == (3, COLLAPSED)
    assert np.abs(np.delete(out, 3, 0) - reference_rows(np.delete(x, 3, 0), row_map)).max() < 1e-13


@pytest.mark.parametrize("d", [48, 769, 1024, 2048])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_rows_that_cancel_take_the_slow_path(kernels, rows_of, rng, dtype, d):
    """Rows close to -b and then to -c: what is left of them has few digits in float32."""
    x = rows_of(8, d, dtype)
    x[1::2] = (x[1] + 0.01 * np.linalg.norm(x[1].astype(np.float64)) / np.sqrt(d) * rng.standard_normal((4, d))).astype(
        dtype
    )
    x = aligned_rows(x)
    row_map = RowMap(1.0, -reference.project(x[1:2])[0] * 0.99, rng.standard_normal(d) * 0.3 / np.sqrt(d))
    expected = reference_rows(x, row_map)
    for out_dtype in DTYPES[:3]:
        out = empty_rows(8, d, out_dtype)
        results = kernels.apply(x, row_map, out, sums=True)
        assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(expected, out_dtype)
        assert (results.flags == GOOD).all()
        assert total_steps(results.sums) == steps_of(out)
    sums = np.array(total_steps(kernels.reduce(x, row_map).sums)) * 2.0**-FRACTION_BITS
    assert np.abs(sums - expected.sum(axis=0)).max() <= 8e-12


@pytest.mark.parametrize(
    "dtype, scales",
    [(np.float32, [1e-40, 1e-30, 1e30]), (np.float64, [5e-324, 1e-300, 1e300]), (np.float16, [6e-8, 1e3])],
)
@pytest.mark.parametrize("d", [48, 300, 1536])
def test_very_long_and_very_short_rows(kernels, rows_of, map_of, dtype, scales, d):
    row_map = map_of(d)
    x = aligned_rows(
        np.concatenate([np.abs(rows_of(2, d, np.float64)) * scale + scale for scale in scales]).astype(dtype)
    )
    out = empty_rows(*x.shape, np.dtype(np.float32))
    kernels.apply(x, row_map, out)
    assert np.abs(out - reference_rows(x, row_map)).max() <= 3e-7


@pytest.mark.parametrize("d", [9, 16, 768, 1280, 1536])
def test_float32_rows_with_one_large_entry_keep_their_digits(kernels, rng, d):
    """Squares just below half a float32 step of the largest: a float32 sum that begins with it would lose them all."""
    x = aligned_rows(np.full((d, d), 0.45**0.5 * 2.0**-12, np.float32)[:40])
    x[np.arange(len(x)), rng.integers(0, d, len(x))] = 1
    row_map = RowMap(0.9, rng.standard_normal(d) * 0.03 / np.sqrt(d), rng.standard_normal(d) * 0.03 / np.sqrt(d))
    out = empty_rows(*x.shape, np.dtype(np.float32))
    kernels.apply(x, row_map, out)
    assert np.abs(out - reference_rows(x, row_map)).max() <= 3e-7


# Half of the types at each width: each of them with a warp and with a block a row.
@pytest.mark.parametrize(
    ("d", "dtype"), [(d, dtype) for i, d in enumerate((33, 384, 768, 2048)) for dtype in DTYPES[(i + i // 2) % 2 :: 2]]
)
def test_any_grid_and_any_order_of_threads_give_the_same_bits(kernels, rows_of, map_of, dtype, d):
    x = aligned_rows(rows_of(53, d, dtype))
    x[17] = 0
    row_map = map_of(d)
    seen = set()
    for blocks, backwards in [(0, False), (0, True), (1, False), (3, True), (50, False)]:
        kernels.settings(backwards=backwards)
        out = empty_rows(53, d, dtype)
        stored = kernels.apply(x, row_map, out, sums=True, blocks=blocks)
        added = kernels.reduce(x, row_map, blocks=blocks)
        seen.add(
            (out.tobytes(), *(a.tobytes() for r in (stored, added) for a in (r.sums.low, r.sums.high, r.bad, r.flags)))
        )
    assert len(seen) == 1


def assert_any_split_gives_the_same_sums(kernels, x, row_map):
    """The totals of reduce: in one launch or in many, in few blocks or in many, forwards and backwards."""
    n, d = x.shape
    whole = kernels.reduce(x, row_map, blocks=1)
    for blocks, backwards, piece in [(0, False, n), (7, True, n), (3, False, 13), (1, True, 5)]:
        kernels.settings(backwards=backwards)
        parts = Results(n, d)
        for lo in range(0, n, piece):
            kernels.reduce(x[lo : lo + piece], row_map, blocks=blocks, into=parts)
        assert total_steps(parts.sums) == total_steps(whole.sums)
    kernels.settings()
    return np.array(total_steps(whole.sums)) * 2.0**-FRACTION_BITS


WEIGHTS = [(1, 30), (30, 128), (100, 1000)]


# One range of weights for each width and type: each of the three with every width and with every type.
@pytest.mark.parametrize(
    ("d", "dtype", "weights"),
    [(d, dtype, WEIGHTS[(i + k) % 3]) for i, d in enumerate((65, 256, 768, 1536)) for k, dtype in enumerate(DTYPES)],
)
def test_heavy_rows_flush_earlier_or_take_the_slow_path(kernels, rng, dtype, weights, d):
    """Rows so close to -b that what is left of them is lengthened up to a thousand times."""
    n = 60 if d < 512 else 20
    b = rng.standard_normal(d)
    b /= np.linalg.norm(b)
    aside = rng.standard_normal((n, d))
    aside -= np.outer(aside @ b, b)
    aside /= np.linalg.norm(aside, axis=1, keepdims=True) * np.exp(rng.uniform(*np.log(weights), (n, 1)))
    x = aligned_rows((3 * (aside - b)).astype(dtype))
    row_map = RowMap(1.0, b, rng.standard_normal(d) * 0.1 / np.sqrt(d))
    sums = assert_any_split_gives_the_same_sums(kernels, x, row_map)
    # The fast path's relative error is 2^-52 / cancelled_below for each row.
    assert np.abs(sums - reference_rows(x, row_map).sum(axis=0)).max() <= n * 1e-11


ANY_SIZE = [(s, scale) for s in (1e-9, 1.0, 1e9) for scale in (1e-300, 1e-9, 0.0, 1e3, 1e9, 1e100)]
FAR_APART = [(1e-9, 1e100), (1.0, 0.0), (1.0, 1e3), (1e9, 1e-300)]


@pytest.mark.parametrize(
    "d, dtype, s, scale",
    [
        *((65, np.float32, *size) for size in ANY_SIZE),
        *((768, np.float16, *size) for size in FAR_APART[::2]),
        *((d, np.float32, *size) for d in (768, 1536) for size in FAR_APART[1::2]),
    ],
)
def test_vectors_of_any_size(kernels, rows_of, rng, d, dtype, s, scale):
    x = aligned_rows(rows_of(23, d, dtype))
    for c in (None, scale * rng.standard_normal(d) / np.sqrt(d)):
        row_map = RowMap(s, scale * rng.standard_normal(d) / np.sqrt(d), c)
        sums = assert_any_split_gives_the_same_sums(kernels, x, row_map)
        assert np.abs(sums - reference_rows(x, row_map).sum(axis=0)).max() <= 23e-12


@pytest.mark.parametrize("d", [64, 768, 1024, 1280, 1536])
@pytest.mark.parametrize(
    "dtype, large, of, step", [(np.float32, 1.0, 4, 2.0**-40), (np.float16, 2.0**15, 16, 2.0**-24)], ids=str
)
def test_no_tie_depends_on_the_order(kernels, rng, dtype, large, of, step, d):
    """A few large entries make the norm a power of two; of all others, a half of an odd number of steps is added."""
    n = FLUSH_AFTER + 26  # the sums of a block are flushed in the middle
    x = (2 * rng.integers(-60, 60, (n, d)) + 1) * step
    x[:, :of] = rng.choice([-large, large], (n, of))
    x = aligned_rows(x.astype(dtype))
    exact = x.astype(np.float64) / (large * of**0.5)
    assert (np.ldexp(exact[:, of:], 41) % 2 == 1).all()
    sums = assert_any_split_gives_the_same_sums(kernels, x, RowMap(1.0, None, None))
    assert (np.ldexp(sums.astype(np.float64), 40) == rounded(exact).sum(axis=0)).all()
    out = empty_rows(n, d, np.dtype(np.float32))
    stored = kernels.apply(x, RowMap(1.0, None, None), out, sums=True)
    np.testing.assert_array_equal(out, exact)
    assert total_steps(stored.sums) == steps_of(out)


@pytest.mark.parametrize("d", [48, 768, 1536])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_rows_that_are_not_good_leave_no_trace_in_the_sums(kernels, rows_of, map_of, rng, dtype, d):
    """Anywhere in a tile, whatever their numbers."""
    x = aligned_rows(rows_of(41, d, dtype))
    bad = np.sort(rng.choice(41, 12, replace=False))
    x[bad[0::3]] = 0
    x[bad[1::3], rng.integers(0, d, 4)] = np.nan
    x[bad[2::3]] = np.inf
    good = np.delete(x, bad, 0)
    for row_map in (map_of(d, "unit"), map_of(d)):
        assert total_steps(kernels.reduce(x, row_map).sums) == total_steps(
            kernels.reduce(aligned_rows(good), row_map).sums
        )
        out = empty_rows(41, d, np.dtype(dtype))
        stored = kernels.apply(x, row_map, out, sums=True)
        assert total_steps(stored.sums) == steps_of(np.delete(out, bad, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_accumulators_of_stored_rows_are_emptied_in_time(kernels, rows_of, map_of, dtype):
    n = 5 * FLUSH_WEIGHT
    x = aligned_rows(rows_of(n, 8, dtype))
    x[:, 0] = np.abs(x[:, 0]) * 100  # one column that grows by one a row
    out = empty_rows(n, 8, np.dtype(dtype))
    assert total_steps(kernels.apply(x, map_of(8), out, sums=True, blocks=1).sums) == steps_of(out)
    unit = np.array(total_steps(kernels.reduce(x, RowMap(1.0, None, None), blocks=1).sums)) * 2.0**-FRACTION_BITS
    assert np.abs(unit - reference.project(x.astype(np.float64)).sum(axis=0)).max() <= n * 1e-12


@pytest.mark.parametrize("d", [2, 65, 256])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=str)
def test_sums_are_flushed_before_they_are_full(kernels, rows_of, map_of, dtype, d):
    n = 3 * FLUSH_AFTER + 5
    x = aligned_rows(rows_of(n, d, dtype))
    whole = kernels.reduce(x, map_of(d, "unit"), blocks=1)
    parts = Results(n, d)
    for lo in range(0, n, 50):
        kernels.reduce(x[lo : lo + 50], map_of(d, "unit"), into=parts)
    assert total_steps(whole.sums) == total_steps(parts.sums)
    out = empty_rows(n, d, np.dtype(dtype))
    assert total_steps(kernels.apply(x, map_of(d), out, sums=True, blocks=1).sums) == steps_of(out)


def test_sums_carry_into_the_high_limb_and_back(kernels, rows_of, map_of):
    d = 64
    x = aligned_rows(rows_of(40, d))
    results = Results(40, d)
    results.sums.low[:] = np.where(np.arange(d) % 2, np.uint64(2**64 - 3), np.uint64(2))
    results.sums.high[:] = -1
    before = total_steps(results.sums)
    kernels.reduce(x, map_of(d, "unit"), into=results)
    alone = total_steps(kernels.reduce(x, map_of(d, "unit")).sums)
    assert total_steps(results.sums) == [a + b for a, b in zip(before, alone, strict=True)]


@pytest.mark.parametrize("d", [9, 768, 1536])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", [0, 1])
def test_no_row_and_one_row(kernels, rows_of, map_of, dtype, n, d):
    x = aligned_rows(rows_of(n, d, dtype)) if n else np.empty((0, d), dtype)
    row_map = map_of(d)
    out = np.empty((n, d), dtype)
    stored = kernels.apply(x, row_map, out, sums=True)
    assert total_steps(stored.sums) == (steps_of(out) if n else [0] * d)
    if n:
        expected = reference_rows(x, row_map)
        assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(expected, dtype)
    assert (kernels.reduce(x, row_map).bad == 0).all()


@pytest.mark.parametrize("d", [1280, 9000, 12288, 16384, 20000])
@pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
def test_wide_rows_and_little_shared_memory(kernels, rows_of, map_of, dtype, d):
    x = aligned_rows(rows_of(3, d, dtype))
    row_map = map_of(d)
    expected = reference_rows(x, row_map)
    for limit in (227 * 1024, 99 * 1024, 8 * 1024):
        kernels.settings(shared_limit=limit)
        out = empty_rows(3, d, dtype)
        stored = kernels.apply(x, row_map, out, sums=True)
        assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(expected, dtype)
        assert total_steps(stored.sums) == steps_of(out)
        plain = empty_rows(3, d, dtype)
        kernels.apply(x, row_map, plain)
        assert np.abs(plain.astype(np.float64) - expected).max() <= tolerance(expected, dtype)
        sums = np.array(total_steps(kernels.reduce(x, row_map).sums)) * 2.0**-FRACTION_BITS
        assert np.abs(sums - expected.sum(axis=0)).max() <= 3e-12


def test_devices_and_kernels_are_asked_once(kernels, rows_of, map_of):
    x, y, row_map = aligned_rows(rows_of(5, 1280)), aligned_rows(rows_of(5, 512)), map_of(1280)
    asked = []
    for device, rows in ((1, x), (1, x), (1, y), (2, x), (1, x)):
        kernels.settings(device=device)
        before = kernels.questions
        kernels.reduce(rows, row_map if rows is x else map_of(512))
        asked.append(kernels.questions - before)
    # Two attributes; for a kernel its occupancy, after a request for more shared memory than is there without one.
    assert asked == [4, 0, 1, 4, 0]


def test_threads_ask_a_device_once(kernels):
    before = kernels.questions
    kernels.ask_from_threads(77, 16)
    assert kernels.questions == before + 1


# The shim's device holds 4 blocks at once; a block has 16 rows here.
@pytest.mark.parametrize(
    ("rows", "grid"), [(1, 1), (16, 1), (17, 2), (64, 4), (65, 3), (80, 3), (128, 4), (129, 3), (640, 4)]
)
def test_blocks_have_equally_many_rows(kernels, rows_of, map_of, rows, grid):
    x = aligned_rows(rows_of(rows, 768, np.float16))
    kernels.reduce(x, map_of(768))
    assert kernels.grid == grid


def reference_vjp(y, gradient, row_map):
    """J^T g for each row, by the chain rule through the two projections, in float64."""
    y, g = np.asarray(y, np.float64), np.asarray(gradient, np.float64)

    def back(v, g):
        norm = np.linalg.norm(v, axis=1, keepdims=True)
        unit = v / norm
        return (g - (g * unit).sum(axis=1, keepdims=True) * unit) / norm

    unit = reference.project(y)
    if row_map.b is not None or row_map.s != 1.0:
        u = row_map.s * unit + (0 if row_map.b is None else row_map.b)
        if row_map.c is not None:
            g = back(reference.project(u) + row_map.c, g)
        g = row_map.s * back(u, g)
    return back(y, g)


@pytest.mark.parametrize("d", [16, 40, 769, 768, 1280, 1536, 4096])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vjp_is_the_chain_rule(kernels, rows_of, map_of, rng, dtype, d):
    for terms in ("unit", "s", "b", "bc"):
        n = 5
        x = aligned_rows(rows_of(n, d, dtype))
        g = aligned_rows(rng.standard_normal((n, d)).astype(dtype))
        row_map = map_of(d, terms)
        out = empty_rows(n, d, dtype)
        kernels.vjp(x, g, row_map, out)
        expected = reference_vjp(x, g, row_map)
        size = np.abs(expected).max()
        assert np.abs(out.astype(np.float64) - expected).max() / size <= {8: 1e-13, 4: 1e-6}.get(dtype.itemsize, 0.01)
        mixed = empty_rows(n, d, np.dtype(np.float64))
        kernels.vjp(x, g.astype(np.float64), row_map, mixed)
        assert np.abs(mixed - expected).max() / size <= 1e-12


def test_reference_vjp_is_the_derivative(rng):
    """The yardstick of the test above, against differences of the reference."""
    y, g = rng.standard_normal((1, 12)), rng.standard_normal((1, 12))
    row_map = RowMap(0.8, rng.standard_normal(12) * 0.2, rng.standard_normal(12) * 0.1)
    step = 1e-6
    numeric = [
        ((reference_rows(y + e, row_map) - reference_rows(y - e, row_map)) * g).sum() / (2 * step)
        for e in step * np.eye(12)
    ]
    np.testing.assert_allclose(reference_vjp(y, g, row_map)[0], numeric, atol=1e-8)


@pytest.mark.parametrize("d", [40, 768, 1536])
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=str)
def test_vjp_of_bad_and_cancelling_rows(kernels, rows_of, rng, dtype, d):
    x = aligned_rows(rows_of(7, d, dtype))
    x[2] = 0
    x[3, 1] = np.nan
    g = aligned_rows(rng.standard_normal((7, d)).astype(dtype))
    row_map = RowMap(1.0, -reference.project(x[5:6])[0] * 0.97, rng.standard_normal(d) * 0.3 / np.sqrt(d))
    out = empty_rows(7, d, np.dtype(dtype))
    kernels.vjp(x, g, row_map, out)
    assert (out[2:4] == 0).all()
    keep = [0, 1, 4, 5, 6]
    expected = reference_vjp(x[keep], g[keep], row_map)
    size = np.linalg.norm(expected, axis=1, keepdims=True)
    assert (np.abs(out[keep] - expected) / size).max() <= (1e-6 if dtype == np.float32 else 1e-11)
