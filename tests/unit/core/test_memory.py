"""No kernel reads or writes a byte beyond its rows, outputs and flags: they lie against pages that may not be touched."""

from __future__ import annotations

import numpy as np
import pytest
from fences import Fenced

from fastrealign.core import cpu, ops
from fastrealign.core.cpu import instruction_sets
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap

WIDTHS = [*range(1, 71), 511, 512, 513]
ROWS = 19  # two batches and a rest
PAST_THE_CACHE = 17 << 20  # bytes of an output that is not written through it


@pytest.fixture(scope="module")
def fences():
    return {name: Fenced(ROWS * (max(WIDTHS) + 8) * 8) for name in ("rows", "gradient", "out", "flags")}


def layouts(fence, shape, dtype):
    """Rows without gaps, apart, and backwards; against the end of the memory or against its beginning."""
    row = shape[1] * np.dtype(dtype).itemsize
    for stride, first in ((row, False), (row, True), (row + 1, False), (row + 64, True), (-row - 3, True)):
        yield fence.array(shape, dtype, stride, first=first)


@pytest.fixture
def problems(rows_of, map_of):
    """problems(dtype): rows of every width and a map. Last in a batch are rows that leave the fast path."""

    def problems(dtype):
        for d in WIDTHS:
            rows = rows_of(ROWS, d, dtype)
            rows[[7, 18]] = 0
            row_map = map_of(d)
            if d > 1:  # opposite to b, so that digits cancel
                rows[[14, 15]] = -10 * row_map.b
            yield rows, RowMap(float(np.linalg.norm(row_map.b)) * 1.001, row_map.b, row_map.c)

    return problems


@pytest.mark.parametrize("isa", instruction_sets())
def test_reduce(fences, problems, in_dtype, isa):
    flags = fences["flags"].array((1, ROWS), np.uint8)[0]
    for rows, row_map in problems(in_dtype):
        expected = ExactSum(rows.shape[1])
        counts = ops.reduce(rows, row_map, expected, isa=isa)
        assert counts.bad == 2
        for source in layouts(fences["rows"], rows.shape, in_dtype):
            source[:] = rows
            sums = ExactSum(rows.shape[1])
            assert ops.reduce(source, row_map, sums, flags=flags, isa=isa) == counts
            assert sums == expected


def test_apply(fences, problems, in_dtype, out_dtype, isa):
    for rows, row_map in problems(in_dtype):
        expected, sums = np.empty(rows.shape, out_dtype), ExactSum(rows.shape[1])
        ops.apply(rows, row_map, expected, into=sums, isa=isa)
        sources = layouts(fences["rows"], rows.shape, in_dtype)
        for source, out in zip(sources, layouts(fences["out"], rows.shape, out_dtype), strict=True):
            source[:] = rows
            found = ExactSum(rows.shape[1])
            ops.apply(source, row_map, out, into=found, isa=isa)
            assert found == sums
            np.testing.assert_array_equal(out, expected)


def test_vjp(fences, problems, rng, in_dtype, isa):
    for rows, row_map in problems(in_dtype):
        gradient, expected = rng.standard_normal(rows.shape).astype(in_dtype), np.empty(rows.shape, in_dtype)
        cpu.vjp(rows, gradient, row_map, expected, isa=isa)
        all_layouts = [layouts(fences[name], rows.shape, in_dtype) for name in ("rows", "gradient", "out")]
        for source, towards, out in zip(*all_layouts, strict=True):
            source[:], towards[:] = rows, gradient
            cpu.vjp(source, towards, row_map, out, isa=isa)
            np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("d", [33, 513])
def test_an_output_larger_than_the_cache(rows_of, map_of, out_dtype, isa, d):
    """Written past the cache in whole lines, which must not reach beyond the last row or before the first one."""
    if isa == "baseline":
        pytest.skip("no stores past the cache; slow")
    n = -(-PAST_THE_CACHE // (d * out_dtype.itemsize))
    few, row_map = rows_of(64, d), map_of(d)
    rows = np.tile(few, (-(-n // 64), 1))[:n]
    expected = np.empty((64, d), out_dtype)
    ops.apply(few, row_map, expected, isa=isa)
    fence = Fenced(n * d * out_dtype.itemsize)
    for first in (False, True):
        out = fence.array((n, d), out_dtype, first=first)
        ops.apply(rows, row_map, out, isa=isa)
        np.testing.assert_array_equal(out[:64], expected)
        np.testing.assert_array_equal(out[n // 64 * 64 :], expected[: n % 64])
