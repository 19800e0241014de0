"""vjp against the float64 reference, which is compared with finite differences of the row map."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core import cpu, reference
from fastrealign.core.bad_rows import ZERO, Counts
from fastrealign.core.errors import InputError
from fastrealign.core.row_map import RowMap

TERMS = ["unit", "s", "b", "bc"]
WIDTHS = [1, 3, 7, 8, 9, 17, 33, 96, 257, 768, 4097]


def vjp(rows, gradient, row_map, **options):
    out = np.full(rows.shape, np.nan, rows.dtype)
    counts = cpu.vjp(rows, gradient, row_map, out, **options)
    return out, counts


def expected(rows, gradient, row_map):
    return reference.vjp(rows, gradient, row_map.s, row_map.b, row_map.c)


def assert_close(out, exact, float64_error=1e-12):
    size = np.abs(exact).max()
    error = np.abs(out.astype(np.float64) - exact).max()
    if out.dtype == np.float64:
        assert error <= float64_error * size
    else:
        assert error <= 2 * np.abs(exact.astype(out.dtype).astype(np.float64) - exact).max()


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("d", [2, 5, 24])
def test_the_reference_is_the_derivative(rng, rows_of, map_of, terms, d):
    rows, row_map, g = rows_of(4, d, np.float64), map_of(d, terms), rng.standard_normal((4, d))
    step = 1e-6

    def along(e):
        moved = [reference.row_map(rows + sign * step * e, row_map.s, row_map.b, row_map.c) for sign in (1, -1)]
        return (g * (moved[0] - moved[1]) / (2 * step)).sum(axis=1)

    numeric = np.stack([along(e) for e in np.eye(d)], axis=1)
    np.testing.assert_allclose(expected(rows, g, row_map), numeric, atol=1e-8 * np.abs(numeric).max() + 1e-9)


@pytest.mark.parametrize("d", WIDTHS)
def test_matches_the_reference(rng, rows_of, map_of, in_dtype, isa, d):
    for i, n in enumerate((1, 15, 130)):
        rows, row_map = rows_of(n, d, in_dtype), map_of(d, TERMS[(i + d) % 4])
        g = rng.standard_normal((n, d)).astype(in_dtype)
        out, counts = vjp(rows, g, row_map, isa=isa)
        assert counts == Counts(good=n)
        if d > 1:  # in one dimension the map is constant, and its derivative rounding noise
            assert_close(out, expected(rows, g, row_map))
        else:
            assert np.abs(out.astype(np.float64)).max() < 1e-2


@pytest.mark.parametrize("size", [1e-35, 1e-20, 1e25])
def test_rows_of_extreme_length(rng, rows_of, map_of, isa, size):
    rows = (rows_of(9, 33, np.float64) * size).astype(np.float32)
    g = (rng.standard_normal((9, 33)) * min(size, 1.0)).astype(np.float32)
    row_map = map_of(33)
    assert_close(vjp(rows, g, row_map, isa=isa)[0], expected(rows, g, row_map))


@pytest.mark.parametrize("size", [1e-1, 1e-3])
def test_rows_that_nearly_cancel(rng, rows_of, isa, size):
    for row in rows_of(20, 24, np.float64)[:, None]:
        opposite = size * reference.project(rng.standard_normal((1, 24)))[0] - reference.project(row)[0]
        g = rng.standard_normal((1, 24))
        for row_map in (RowMap(1.0, opposite), RowMap(1.0, None, opposite)):
            out, _ = vjp(row, g, row_map, isa=isa)
            assert_close(out, expected(row, g, row_map), float64_error=1e-11 / size**2)


def test_rows_without_a_direction_get_zeros(rng, rows_of, map_of, in_dtype, isa):
    rows, row_map = rows_of(7, 20, in_dtype), map_of(20)
    rows[2] = 0
    rows[4, 3] = np.nan
    g = rng.standard_normal((7, 20)).astype(in_dtype)
    out, counts = vjp(rows, g, row_map, isa=isa)
    assert counts == Counts(good=5, bad=2, first_bad=2, reason=ZERO)
    assert not out[[2, 4]].any()
    good = [0, 1, 3, 5, 6]
    assert_close(out[good], expected(rows[good], g[good], row_map))


def test_any_number_of_threads_gives_the_same_bits(rng, rows_of, map_of):
    rows, row_map = rows_of(20_011, 33), map_of(33)
    g = rng.standard_normal(rows.shape).astype(np.float32)
    first, _ = vjp(rows, g, row_map, threads=1)
    for threads in (2, 5):
        np.testing.assert_array_equal(vjp(rows, g, row_map, threads=threads)[0], first)


def test_what_does_not_fit_together(rows_of, map_of):
    rows = rows_of(4, 8)
    with pytest.raises(InputError, match="one shape and one element type"):
        cpu.vjp(rows, rows.astype(np.float64), map_of(8), np.empty_like(rows))
