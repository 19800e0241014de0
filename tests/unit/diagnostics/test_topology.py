"""Densities of angles against scipy and against distributions that are known, and errors against repeated sampling."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign import diagnostics as D
from fastrealign.core.errors import InputError
from fastrealign.diagnostics.topology import jensen_shannon, kernel_density
from fastrealign.diagnostics.unit_rows import draw


def sphere(rng, n, d, within=None):
    """Rows spread evenly over the sphere of the first `d` of `within` dimensions."""
    rows = np.zeros((n, within or d))
    rows[:, :d] = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def even_density(d):
    """The density of the cosine between two directions at random in d dimensions."""
    beta = pytest.importorskip("scipy.special").beta
    return lambda t: (1 - t * t) ** ((d - 3) / 2) / beta(0.5, (d - 1) / 2)


# --- densities and their divergence ----------------------------------------------------------------------------------


def test_divergence_of_known_densities():
    grid = np.linspace(-9, 12, 4001)
    step = grid[1] - grid[0]
    normal = lambda m, s: np.exp(-0.5 * ((grid - m) / s) ** 2) / (s * np.sqrt(2 * np.pi))  # noqa: E731
    p = normal(0, 1)
    assert jensen_shannon(p, p, step) == pytest.approx(0, abs=1e-15)
    apart = np.where(grid < 1, p, 0), np.where(grid >= 1, p, 0)
    assert jensen_shannon(*apart, step) == pytest.approx(np.log(2), rel=1e-12)
    # Half of each lies where the other is too: ln 2 times the share that does not.
    box = lambda lo: ((grid >= lo) & (grid < lo + 2)).astype(float)  # noqa: E731
    assert jensen_shannon(box(0), box(1), step) == pytest.approx(np.log(2) / 2, rel=5e-3)
    distance = pytest.importorskip("scipy.spatial.distance")
    q = normal(1.5, 2)
    assert jensen_shannon(p, q, step) == pytest.approx(distance.jensenshannon(p, q) ** 2, rel=1e-9)
    assert jensen_shannon(p, q, step) == jensen_shannon(q, p, step)


def test_kernel_density_is_scipys(rng):
    kde = pytest.importorskip("scipy.stats").gaussian_kde(rng.beta(2, 5, 3000))
    points = kde.dataset[0]
    bandwidth = points.std(ddof=1) * 3000**-0.2
    grid = np.linspace(points.min() - 5 * bandwidth, points.max() + 5 * bandwidth, 4096)
    counts = np.histogram(points, np.append(grid, 2 * grid[-1] - grid[-2]) - (grid[1] - grid[0]) / 2)[0]
    found = kernel_density(counts.astype(float), grid[1] - grid[0], bandwidth)
    np.testing.assert_allclose(found, kde(grid), atol=2e-3 * found.max())


def test_topology_has_scipys_densities(spherical):
    stats = pytest.importorskip("scipy.stats")
    x, y = spherical(150, 8, offset=1.0), spherical(130, 8, offset=0.2)
    found = D.angular_topology(x, y, rows=None)
    for rows, density in ((x, found.x), (y, found.y)):
        cosines = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
        np.testing.assert_allclose(density, stats.gaussian_kde(cosines)(found.grid), atol=1e-3 * density.max())
        assert np.sum(density) * (found.grid[1] - found.grid[0]) == pytest.approx(1, abs=1e-3)
    assert (found.divergence.error, found.divergence.seed, found.divergence.n) == (0.0, None, 150)


def test_divergence_of_even_spheres_of_two_dimensions(rng):
    """Cosines of evenly spread directions have a known density, so the divergence is an integral."""
    integrate = pytest.importorskip("scipy.integrate")
    p, q = even_density(40), even_density(12)

    def half(a, b):
        def integrand(t):
            return a(t) * np.log(2 * a(t) / (a(t) + b(t))) if a(t) > 0 else 0.0

        return integrate.quad(integrand, -1, 1, limit=200)[0] / 2

    truth = half(p, q) + half(q, p)
    found = D.angular_topology(sphere(rng, 3000, 40), sphere(rng, 3000, 12, within=40), rows=1500).divergence
    assert found.value == pytest.approx(truth, rel=0.03)
    assert 0 < found.error < 0.03 * truth and found.seed == 0 and found.n == 1500


def test_the_error_is_that_of_repeated_sampling(rng, cloud):
    x, y = cloud(3000, 12, alpha=1.0, offset=0.8), cloud(3000, 12, alpha=0.4, offset=0.5)
    found = [D.angular_topology(x, y, rows=300, seed=seed).divergence for seed in range(24)]
    spread = np.std([e.value for e in found], ddof=1)
    assert 0.5 < np.mean([e.error for e in found]) / spread < 2
    assert len({e.value for e in found}) == 24
    again = D.angular_topology(x, [y[:1000], y[1000:]], rows=300, seed=5).divergence
    assert again == found[5]


def test_sides_of_one_shape_have_little_divergence(rng):
    x = sphere(rng, 2000, 20)
    turned = x @ np.linalg.qr(rng.standard_normal((20, 20)))[0]
    assert D.angular_topology(x, turned, rows=None).divergence.value < 1e-9
    assert D.angular_topology(x, sphere(rng, 2000, 20)).divergence.value < 1e-4


def test_what_topology_refuses(rng):
    rows = sphere(rng, 50, 6)
    with pytest.raises(InputError, match="target: 2 rows, expected at least 3"):
        D.angular_topology(rows[:2], rows)
    with pytest.raises(InputError, match="source: all rows sampled are at one angle"):
        D.angular_topology(rows, np.repeat(rows[:1], 50, 0))
    with pytest.raises(InputError, match="rows=1: expected a whole number of at least 2"):
        D.angular_topology(rows, rows, rows=1)


# --- what a map keeps ------------------------------------------------------------------------------------------------


def test_instance_cosine_of_a_rotation(rng):
    rows = sphere(rng, 300, 6)
    turn, angle = np.eye(6), 0.7
    for i in (0, 2, 4):
        turn[i : i + 2, i : i + 2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert D.instance_cosine(rows, 3 * rows) == pytest.approx(1)
    assert D.instance_cosine(rows, rows @ turn) == pytest.approx(np.cos(angle))
    assert D.instance_cosine(rows, [-rows[:50], -rows[50:]]) == pytest.approx(-1)
    with pytest.raises(InputError, match="instance cosine needs pairs"):
        D.instance_cosine(rows, rows[1:])


def test_pairwise_correlation_is_numpys(rng, spherical):
    before, after = spherical(120, 7), spherical(120, 7)
    mixed = before + 0.5 * after
    i, j = np.triu_indices(120, 1)
    unit = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
    expected = np.corrcoef((before @ before.T)[i, j], (unit @ unit.T)[i, j])[0, 1]
    found = D.pairwise_correlation(before, mixed, rows=None)
    assert found == D.Estimate(pytest.approx(expected), 0.0, 120, None)
    turned = before @ np.linalg.qr(rng.standard_normal((7, 7)))[0]
    assert D.pairwise_correlation(before, turned, rows=None).value == pytest.approx(1)


def test_the_error_of_the_pairwise_correlation(cloud, rng):
    before = cloud(3000, 16)
    after = before + 0.2 * rng.standard_normal(before.shape)
    whole = D.pairwise_correlation(before, after, rows=None).value
    found = [D.pairwise_correlation(before, after, rows=200, seed=seed) for seed in range(40)]
    spread = np.std([e.value for e in found], ddof=1)
    assert 0.5 < np.mean([e.error for e in found]) / spread < 2
    assert np.mean([e.value for e in found]) == pytest.approx(whole, abs=5 * spread / np.sqrt(40) + 0.003)


def test_what_pairwise_correlation_refuses(rng):
    rows = sphere(rng, 40, 5)
    with pytest.raises(InputError, match="needs pairs"):
        D.pairwise_correlation(rows, rows[:-1])
    with pytest.raises(InputError, match="nothing to correlate"):
        D.pairwise_correlation(rows, np.repeat(rows[:1], 40, 0))
    with pytest.raises(InputError, match="3 rows sampled of 40, expected at least 4"):
        D.pairwise_correlation(rows, 2 * rows, rows=3)
    assert D.pairwise_correlation(rows[:3], rows[:3], rows=3).value == pytest.approx(1)
    assert np.isfinite(D.pairwise_correlation(rows, rows + 0.1, rows=4).error)


def test_a_correlation_that_hangs_on_one_row_has_no_error(rng):
    """Without it all cosines are equal, and what is left of their variance is rounding."""
    rows = np.repeat(rng.standard_normal((1, 8)), 300, 0)
    rows[5] = rng.standard_normal(8)
    assert D.pairwise_correlation(rows, rows + 0.3, rows=None).value == pytest.approx(1, abs=0.5)
    seed = next(seed for seed in range(50) if 5 in draw(300, 200, seed))
    with pytest.raises(InputError, match="too few for the standard error of their correlation"):
        D.pairwise_correlation(rows, rows + 0.3, rows=200, seed=seed)
