"""Covariances against np.cov, and metrics of spectra against known answers and scipy."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics as D
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.diagnostics import Covariance


def of(spectrum, basis=None, mean=None):
    """A Covariance with this spectrum."""
    d = len(spectrum)
    basis = np.eye(d) if basis is None else basis
    return Covariance(np.zeros(d) if mean is None else mean, (basis * spectrum) @ basis.T, 100)


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# --- covariance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
def test_eigenvalues_are_those_of_numpy(cloud, offset):
    """float32 rows whose mean is up to 1 - 1e-3 long."""
    rows = cloud(30_000, 96, alpha=1.3, offset=offset, dtype=np.float32)
    truth = np.cov(unit(rows).T, bias=True)
    expected = np.linalg.eigvalsh(truth)[::-1]
    found = D.covariance(rows)
    np.testing.assert_allclose(found.eigenvalues, expected, rtol=0, atol=1e-12 * expected[0])
    np.testing.assert_allclose(found.mean, unit(rows).mean(axis=0), atol=1e-14)
    assert found.count == 30_000 and found.trace == pytest.approx(np.trace(truth), rel=1e-7)
    vectors = found.eigenvectors
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(96), atol=1e-12)
    np.testing.assert_allclose((vectors * found.eigenvalues) @ vectors.T, found.matrix, atol=1e-9)


@pytest.mark.parametrize("n", [20, 50, 300, 1000, 5000])
def test_small_eigenvalues_are_those_of_numpy_(rng, orthonormal, n):
    """A thousandth of the largest to 1e-6 of itself and better, however few the rows: products in float32 lose that."""
    basis = orthonormal(16, 16)
    rows = (0.05 * rng.standard_normal((n, 16)) * np.sqrt(np.logspace(0, -2.9, 16))) @ basis + basis[0]
    expected = np.linalg.eigvalsh(np.cov(unit(rows).T, bias=True))[::-1]
    found = D.covariance(rows).eigenvalues
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12 * expected[0])
    np.testing.assert_allclose(D.difference_covariance(rows, -rows).eigenvalues, 4 * expected, rtol=1e-6)


def test_rows_sorted_by_topic(rng, orthonormal):
    """The first block lies opposite to all others, so that its mean says nothing of theirs."""
    rows = 0.01 * rng.standard_normal((100_000, 8)) + np.eye(8)[0]
    rows[:1024, 0] -= 2
    rows = rows @ orthonormal(8, 8)
    truth = np.cov(unit(rows).T, bias=True)
    found = D.covariance(rows)
    np.testing.assert_allclose(found.matrix, truth, rtol=0, atol=1e-12 * np.trace(truth))
    np.testing.assert_allclose(found.mean, unit(rows).mean(axis=0), atol=1e-13)


def test_a_spectrum_known_without_any_library(orthonormal):
    """Rows sqrt(1 - a^2) u0 +- a u_i: variances a_i^2 / (number of directions) and that of the first coordinate."""
    basis, a = orthonormal(8, 5), np.array([0.8, 0.5, 0.2, 0.05])
    first = np.sqrt(1 - a**2)
    rows = np.concatenate([(first[:, None] * basis[:, 0]) + sign * a[:, None] * basis[:, 1:].T for sign in (1, -1)])
    expected = np.sort([*(a**2 / 4), first.var(), 0, 0, 0])[::-1]
    found = D.covariance(rows)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-15)
    np.testing.assert_allclose(found.mean, first.mean() * basis[:, 0], atol=1e-15)
    assert found.rank == 5 and found.trace == pytest.approx(1 - first.mean() ** 2, rel=1e-12)


def test_chunks_do_not_change_a_bit(cloud):
    rows = cloud(3000, 20, dtype=np.float32)
    expected = D.covariance(rows)
    found = D.covariance([rows[:7], rows[7:2000], rows[2000:]])
    assert found.matrix.tobytes() == expected.matrix.tobytes() and found.mean.tobytes() == expected.mean.tobytes()


def test_every_element_type_and_tensors(cloud, in_dtype):
    rows = cloud(500, 12).astype(in_dtype)
    expected = np.cov(unit(rows).T, bias=True)
    np.testing.assert_allclose(D.covariance(rows).matrix, expected, atol=1e-14)
    torch = pytest.importorskip("torch")
    if in_dtype.name != "bfloat16":
        found = D.covariance(torch.from_numpy(rows))
        np.testing.assert_allclose(found.matrix, expected, atol=1e-14)


def test_a_million_rows_are_not_held():
    class Million:
        def __iter__(self):
            for seed in range(250):
                yield np.random.default_rng(seed).standard_normal((4000, 16), dtype=np.float32)

    tracemalloc.start()
    try:
        found = D.covariance(Million())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.count == 1_000_000 and peak < 4 << 20  # the rows are 61 MiB
    np.testing.assert_allclose(found.eigenvalues, 1 / 16, rtol=0.02)


def test_of_mapped_rows(cloud):
    y, x = cloud(800, 10), cloud(700, 10, alpha=0.5)
    alignment = fr.fit(y, x)
    expected = np.cov(alignment(y, dtype="float64").T, bias=True)
    found = D.covariance(y, row_map=alignment.row_map)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-14)


def test_of_differences(cloud):
    x, y = cloud(900, 10), cloud(900, 10, alpha=0.3)
    difference = unit(x) - unit(y)
    found = D.difference_covariance(x, [y[:100], y[100:]])
    np.testing.assert_allclose(found.matrix, np.cov(difference.T, bias=True), atol=1e-14)
    np.testing.assert_allclose(found.mean, difference.mean(axis=0), atol=1e-14)
    with pytest.raises(InputError, match=r"needs pairs.*900 rows, source 899"):
        D.difference_covariance(x, y[:-1])


def test_fewer_rows_than_the_width_are_rank_deficient_and_not_nan(cloud):
    found = D.covariance(cloud(10, 30))
    assert found.rank == 9 and np.isfinite(found.eigenvalues).all() and (found.eigenvalues >= 0).all()
    assert D.condition_number(found.eigenvalues).kept == 9
    assert D.power_law(found.eigenvalues).last == 9
    assert 1 < D.effective_rank(found.eigenvalues) < 9.1
    with pytest.raises(InputError, match="q=10: expected a whole number from 1 to 9, the lesser rank of both sides"):
        D.subspace_overlap(found, found, 10)


def test_what_covariance_refuses(cloud):
    rows = cloud(20, 4)
    with pytest.raises(InputError, match="1 rows, expected at least 2"):
        D.covariance(rows[:1])
    rows[13, 2] = np.inf
    with pytest.raises(BadRowsError, match="row 13 has a NaN or Inf"):
        D.covariance(rows)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_of_one_direction_have_no_spectrum(rng, dtype):
    rows = (rng.uniform(0.5, 2, (200, 1)) * rng.standard_normal(24)).astype(np.float32)
    constant = D.covariance(np.repeat(rows[:1], 200, 0).astype(dtype))
    for nothing in (constant, D.covariance(rows)):
        for metric in (D.condition_number, D.power_law, D.effective_rank):
            with pytest.raises(InputError, match="no spread"):
                metric(nothing.eigenvalues)
        for metric in (D.anisotropy, D.effective_dimension):
            with pytest.raises(InputError, match="no spread"):
                metric(nothing)
        with pytest.raises(InputError, match="no spread"):
            D.sigma_gap(nothing, constant)
        with pytest.raises(InputError, match="no spread"):
            D.fixed_frame(nothing, constant)


# --- metrics of spectra ----------------------------------------------------------------------------------------------


def test_sigma_gap(orthonormal):
    basis = orthonormal(6, 6)
    x = of(np.array([3.0, 2, 1, 0.5, 0.2, 0.1]), basis)
    assert D.sigma_gap(x, x) == 0
    assert D.sigma_gap(x, Covariance(x.mean, 1.25 * x.matrix, 9)) == pytest.approx(0.25)
    moved = of(np.array([3.0, 2, 1, 0.5, 0.2, 0.6]), basis)
    assert D.sigma_gap(x, moved) == pytest.approx(0.5 / np.sqrt(9 + 4 + 1 + 0.25 + 0.04 + 0.01))


def test_condition_number_states_its_floor():
    values = np.array([100.0, 10, 1, 1e-3, 1e-9, 0])
    assert D.condition_number(values) == D.Condition(pytest.approx(1e5), 4, 6, 1e-6)
    assert D.condition_number(values, floor=1e-3) == D.Condition(pytest.approx(100), 3, 6, 1e-3)
    assert D.condition_number(np.full(5, 0.2)).value == pytest.approx(1)
    for value in (np.nan, np.inf):
        with pytest.raises(InputError, match="eigenvalues have a NaN or Inf"):
            D.condition_number(np.append(values, value))


def test_power_law():
    values = 7 * np.arange(1, 201) ** -1.33
    found = D.power_law(values)
    assert (found.alpha, found.r2, found.first, found.last) == (pytest.approx(1.33), pytest.approx(1), 1, 100)
    assert found.scale == pytest.approx(7 / values.sum())
    assert D.power_law(values / 50).alpha == pytest.approx(found.alpha)
    bent = np.concatenate([np.full(9, 1.0), 100 * np.arange(10, 201.0) ** -2])
    assert D.power_law(bent, first=10, last=200).alpha == pytest.approx(2)
    assert D.power_law(np.append(values[:50], np.zeros(150)), last=180).last == 50
    for first, last in ((9, 9), (60, 50), (9, 2)):
        with pytest.raises(InputError, match="expected a range"):
            D.power_law(values, first=first, last=last)


def test_power_law_is_scipys_regression(rng):
    stats = pytest.importorskip("scipy.stats")
    values = np.sort(np.arange(1, 301) ** -1.1 * np.exp(0.2 * rng.standard_normal(300)))[::-1]
    line = stats.linregress(np.log(np.arange(3, 251)), np.log(values[2:250]))
    found = D.power_law(values, first=3, last=250)
    assert (found.alpha, found.r2) == (pytest.approx(-line.slope), pytest.approx(line.rvalue**2))


def test_isotropic_noise_lowers_the_exponent(cloud, rng):
    """What C3 does to a spectrum."""
    rows = cloud(20_000, 64, alpha=1.4, offset=0.5)
    noisy = rows + 0.1 * rng.standard_normal(rows.shape)
    before, after = (D.power_law(D.covariance(r).eigenvalues).alpha for r in (rows, noisy))
    assert before > 1.2 and after < 0.7 * before


def test_effective_rank(rng):
    assert D.effective_rank(np.append(np.full(7, 0.3), np.zeros(5))) == pytest.approx(7)
    assert D.effective_rank(np.array([1.0, 0, 0])) == pytest.approx(1)
    entropy = pytest.importorskip("scipy.stats").entropy
    values = np.sort(rng.exponential(size=40))[::-1]
    assert D.effective_rank(values) == pytest.approx(np.exp(entropy(values)))


def test_spectral_correlation(rng):
    x = np.sort(rng.exponential(size=50))[::-1] + 0.01
    assert D.spectral_correlation(x, 3 * x**1.7) == pytest.approx(1)
    y = np.sort(rng.exponential(size=50))[::-1] + 0.01
    pearson = pytest.importorskip("scipy.stats").pearsonr
    assert D.spectral_correlation(x, y) == pytest.approx(pearson(np.log(x), np.log(y)).statistic)
    cut = np.append(y[:20], np.zeros(30))
    assert D.spectral_correlation(x, cut) == pytest.approx(pearson(np.log(x[:20]), np.log(y[:20])).statistic)
    with pytest.raises(InputError, match="only 2 eigenvalues"):
        D.spectral_correlation(x, np.append(y[:2], np.zeros(48)))
    with pytest.raises(InputError, match="nothing to correlate"):
        D.spectral_correlation(x, np.full(50, 0.02))


def test_anisotropy_and_effective_dimension(orthonormal):
    residual = of(np.array([4.0, 1, 1, 1, 1]), orthonormal(5, 5))
    assert D.anisotropy(residual) == pytest.approx(4 / (8 / 5))
    assert D.effective_dimension(residual) == pytest.approx(64 / 20 / 5)
    rows = np.array([[2.0, 0, 0], [2, 1, 0], [2, 0, 1], [2, 1, 1]])  # of pairs a constant apart but for small residuals
    moments = rows.T @ rows / 4
    found = Covariance(rows.mean(axis=0), np.cov(rows.T, bias=True), 4).uncentred
    assert D.anisotropy(found) == pytest.approx(3 * np.linalg.eigvalsh(moments)[-1] / np.trace(moments))
    assert (found.mean.tolist(), found.count) == ([0, 0, 0], 4)
    even = of(np.full(9, 0.1))
    assert (D.anisotropy(even), D.effective_dimension(even)) == (pytest.approx(1), pytest.approx(1))
