"""Third and fourth moments against scipy, distributions whose moments are known, and their own scatter over draws."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign import diagnostics as D
from fastrealign.core import ops
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.row_map import RowMap


def sphere(first):
    """Unit rows (n, 3) whose first coordinate is `first`, all in -1 to 1."""
    return np.stack([first, np.sqrt(1 - first**2), np.zeros_like(first)], axis=1)


ALONG = np.eye(3)[:, :1]


def test_the_moments_are_those_of_scipy(spherical, orthonormal):
    stats = pytest.importorskip("scipy.stats")
    rows, directions = spherical(3000, 24, alpha=1.5, offset=0.8), orthonormal(24, 5)
    found = D.shape(rows, directions)
    along = rows @ directions
    np.testing.assert_allclose(found.skewness, stats.skew(along), atol=1e-11)
    np.testing.assert_allclose(found.kurtosis, stats.kurtosis(along), atol=1e-11)
    np.testing.assert_allclose(found.mean, along.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(found.std, along.std(axis=0), rtol=1e-12)
    assert found.count == 3000


def test_known_shapes(rng):
    """A sphere's coordinate in three dimensions is uniform: excess kurtosis -6/5. Two points: -2. A rare one: both large."""
    ball = rng.standard_normal((200_000, 3))
    even = D.shape(ball, np.eye(3))
    np.testing.assert_allclose(even.kurtosis, -1.2, atol=0.04)
    np.testing.assert_allclose(even.skewness, 0.0, atol=0.03)
    two = D.shape(sphere(np.tile([0.5, -0.5], 50)), ALONG)
    np.testing.assert_allclose([two.skewness[0], two.kurtosis[0]], [0.0, -2.0], atol=1e-12)
    assert two.kurtosis_error[0] < 1e-6
    p = 0.01
    rare = D.shape(sphere(np.where(np.arange(1000) < 10, 0.9, 0.1)), ALONG)
    assert rare.skewness[0] == pytest.approx((1 - 2 * p) / np.sqrt(p * (1 - p)), rel=1e-9)
    assert rare.kurtosis[0] == pytest.approx((1 - 6 * p * (1 - p)) / (p * (1 - p)), rel=1e-9)


@pytest.mark.parametrize("draw", ["beta", "normal"])
def test_errors_are_the_scatter_over_draws(rng, draw):
    """300 draws of 800 rows tell their spread to 4 %: 30 % are seven of that."""
    found = []
    for _ in range(300):
        first = rng.beta(1.0, 3.0, 800) if draw == "beta" else 0.1 * rng.standard_normal(800)
        found.append(D.shape(sphere(first), ALONG))
    for name in ("skewness", "kurtosis"):
        values = np.array([getattr(of, name)[0] for of in found])
        stated = np.array([getattr(of, f"{name}_error")[0] for of in found])
        assert np.sqrt(np.mean(stated**2)) == pytest.approx(values.std(), rel=0.3)


def test_a_mean_near_one_and_chunks_do_not_matter(rng):
    """Rows within 1e-4 of a point, in chunks, ordered so that the first block says nothing of the rest."""
    first = np.sort(1e-4 * rng.standard_normal(5000))
    rows = np.stack([first, np.ones_like(first), np.zeros_like(first)], axis=1)
    z = (first - first.mean()) / first.std()
    for given in (rows, [rows[:7], rows[7:4000], rows[4000:]]):
        found = D.shape(given, ALONG)
        assert found.skewness[0] == pytest.approx(np.mean(z**3), abs=1e-6)
        assert found.kurtosis[0] == pytest.approx(np.mean(z**4) - 3, abs=1e-6)


def test_a_shift_and_a_scale_change_neither_and_rows_may_be_mapped(spherical, orthonormal):
    rows, directions = spherical(2000, 8), orthonormal(8, 3)
    plain, scaled = D.shape(rows, directions), D.shape(rows, -3.0 * directions)
    np.testing.assert_allclose(scaled.skewness, -plain.skewness, atol=1e-11)
    np.testing.assert_allclose(scaled.kurtosis, plain.kurtosis, atol=1e-11)
    moved = RowMap(1.0, 0.4 * orthonormal(8, 1)[:, 0])
    out = np.empty(rows.shape)
    ops.apply(rows, moved, out)
    np.testing.assert_allclose(
        D.shape(rows, directions, row_map=moved).skewness, D.shape(out, directions).skewness, atol=1e-9
    )


def test_bad_input(spherical):
    rows = spherical(20, 4)
    with pytest.raises(InputError, match=r"directions of shape \(3, 1\): expected \(4, k\)"):
        D.shape(rows, np.ones((3, 1)))
    with pytest.raises(InputError, match="no spread along direction 1"):
        D.shape(sphere(np.linspace(-0.5, 0.5, 9)), np.eye(3)[:, ::2])
    with pytest.raises(InputError, match="1 rows, expected at least 2"):
        D.shape(rows[:1], np.eye(4))
    rows[3, 2] = np.nan
    with pytest.raises(BadRowsError, match="row 3"):
        D.shape(rows, np.eye(4))
