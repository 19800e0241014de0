"""The specification against the equations written out row by row, and against what must be true of it."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core import reference


@pytest.fixture
def sides(rng):
    """Two clouds of rows around different centres, as two encoders make them."""
    d = 12
    x = rng.standard_normal((300, d)) + 3 * rng.standard_normal(d) / np.sqrt(d)
    y = 0.7 * rng.standard_normal((200, d)) + 3 * rng.standard_normal(d) / np.sqrt(d)
    return y, x


def test_project_divides_by_the_norm(rng):
    v = rng.standard_normal((7, 5))
    for row, unit in zip(v, reference.project(v), strict=True):
        np.testing.assert_allclose(unit, row / np.sqrt(sum(a * a for a in row)), rtol=1e-15)


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_project_neither_overflows_nor_underflows(rng, scale):
    v = rng.standard_normal((3, 5))
    np.testing.assert_allclose(reference.project(scale * v), reference.project(v), rtol=1e-14)


def test_row_map_is_the_formula(rng):
    y, b, c, s = rng.standard_normal((6, 9)), rng.standard_normal(9), rng.standard_normal(9), 0.8
    for row, out in zip(y, reference.row_map(y, s, b, c), strict=True):
        u = s * row / np.linalg.norm(row) + b
        v = u / np.linalg.norm(u) + c
        np.testing.assert_allclose(out, v / np.linalg.norm(v), rtol=0, atol=1e-15)


def test_row_map_without_terms(rng):
    y, b = rng.standard_normal((6, 9)), rng.standard_normal(9)
    unit = reference.project(y)
    np.testing.assert_array_equal(reference.row_map(y), unit)
    np.testing.assert_allclose(reference.row_map(y, 0.3), unit, rtol=1e-15)
    np.testing.assert_array_equal(reference.row_map(y, 1.0, b), reference.project(unit + b))
    np.testing.assert_array_equal(reference.row_map(y, 1.0, None, b), reference.project(unit + b))


def test_trace_of_unit_rows_is_one_minus_the_squared_mean(sides):
    mean, trace = reference.moments(sides[0])
    assert trace == pytest.approx(1 - mean @ mean, abs=1e-14)


def test_fit_is_the_steps_of_the_paper(sides):
    y, x = sides
    unit_y, unit_x = reference.project(y), reference.project(x)
    mean_y, mean_x = unit_y.mean(0), unit_x.mean(0)
    trace_y = np.trace(np.cov(unit_y.T, bias=True))
    trace_x = np.trace(np.cov(unit_x.T, bias=True))
    anchored = np.sqrt(trace_x / trace_y) * (unit_y - mean_y) + mean_x
    projected = reference.project(anchored)
    expected = reference.project(projected - projected.mean(0) + mean_x)

    found = reference.fit(y, x)
    assert found.s == pytest.approx(np.sqrt(trace_x / trace_y), rel=1e-12)
    assert found.trace_source == pytest.approx(trace_y, rel=1e-12)
    assert found.trace_target == pytest.approx(trace_x, rel=1e-12)
    np.testing.assert_allclose(found.mean_source, mean_y, atol=1e-15)
    np.testing.assert_allclose(found.mean_target, mean_x, atol=1e-15)
    np.testing.assert_allclose(reference.row_map(y, found.s, found.b, found.c), expected, atol=1e-14)


def test_the_paper_leaves_a_gap_and_the_exact_centroid_none(sides):
    y, x = sides
    unit_x = reference.project(x)
    left = {}
    for centroid in ("paper", "exact"):
        found = reference.fit(y, x, centroid)
        left[centroid] = reference.gap(unit_x, reference.row_map(y, found.s, found.b, found.c))
    before = reference.gap(unit_x, reference.project(y))
    assert left["paper"] < 0.1 * before
    assert left["paper"] > 1e-6
    assert left["exact"] < 1e-13


def test_gap(rng):
    x = rng.standard_normal((40, 3)).astype(np.float32)
    assert reference.gap(x, x) == 0.0
    assert reference.gap(x, x.astype(np.float64) + np.array([3.0, 0.0, 4.0])) == pytest.approx(5.0, rel=1e-12)
