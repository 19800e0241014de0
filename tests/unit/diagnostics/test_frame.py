"""The fixed frame: subspaces at chosen angles, gaps of chosen parts, couplings of a chosen strength."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign import diagnostics as D
from fastrealign.core.errors import InputError
from fastrealign.diagnostics import Covariance, Frame


def of(spectrum, basis):
    return Covariance(np.zeros(len(basis)), (basis * spectrum) @ basis.T, 100)


@pytest.fixture
def pairs(spherical, rng):
    """Unit rows of two sides, where y is x moved and disturbed."""
    x = spherical(2000, 12, alpha=1.0)
    y = x + 0.3 * rng.standard_normal(12) + 0.1 * rng.standard_normal(x.shape) * np.arange(12, 0, -1) / 12
    return x, y / np.linalg.norm(y, axis=1, keepdims=True)


def test_u_holds_the_energy_asked_for(orthonormal):
    basis = orthonormal(6, 6)
    x, y = of([4.0, 2, 1, 0.5, 0, 0], basis), of([2.0, 2, 1, 0.5, 0.5, 0.5], basis)  # together 6, 4, 2, 1, .5, .5 of 14
    for energy, rank, reached in ((0.4, 1, 6 / 14), (6 / 14, 1, 6 / 14), (0.5, 2, 10 / 14), (0.9, 4, 13 / 14)):
        frame = D.fixed_frame(x, y, energy=energy)
        assert (frame.rank, frame.energy) == (rank, pytest.approx(reached))
        np.testing.assert_allclose(frame.U @ frame.U.T, basis[:, :rank] @ basis[:, :rank].T, atol=1e-12)
        np.testing.assert_allclose(frame.V @ frame.V.T, basis[:, rank:] @ basis[:, rank:].T, atol=1e-12)
    assert D.fixed_frame(x, x, energy=0.999999).rank == 4
    full = of([1.0, 1, 1, 1, 1, 1], basis)
    assert D.fixed_frame(full, full, energy=0.9999).V.shape == (6, 1)


def test_what_a_frame_refuses(orthonormal):
    x = of([2.0, 1, 1], orthonormal(3, 3))
    for energy in (0, 1, -1, 2, np.nan):
        with pytest.raises(InputError, match="expected a number between 0 and 1, a share"):
            D.fixed_frame(x, x, energy=energy)
    with pytest.raises(InputError, match="widths 3 and 4"):
        D.fixed_frame(x, of([1.0, 1, 1, 1], np.eye(4)))
    one = of([1.0], np.eye(1))
    with pytest.raises(InputError, match="no two subspaces"):
        D.fixed_frame(one, one)


def test_restricted_spectra(orthonormal):
    basis = orthonormal(5, 5)
    frame = Frame(basis, 2, 0.9)
    in_u, in_v = frame.spectra(of([5.0, 3, 2, 0.1, 0.01], basis))
    np.testing.assert_allclose(in_u, [5, 3])
    np.testing.assert_allclose(in_v, [2, 0.1, 0.01])
    assert D.condition_number(in_v).value == pytest.approx(200)


def test_the_parts_of_the_gap_are_those_of_the_rows(pairs):
    x, y = pairs
    frame = D.fixed_frame(D.covariance(x), D.covariance(y), energy=0.8)
    assert 1 < frame.rank < 11
    in_u = frame.U @ frame.U.T
    difference = x - y
    m = difference.mean(axis=0)
    delta, zeta = (difference - m) @ in_u, (difference - m) @ (np.eye(12) - in_u)
    parts = D.decompose(frame, D.difference_covariance(x, y))
    np.testing.assert_allclose(parts.beta, in_u @ m, atol=1e-13)
    np.testing.assert_allclose(parts.gamma, m - in_u @ m, atol=1e-13)
    assert parts.bias_u == pytest.approx(np.sum((in_u @ m) ** 2))
    assert parts.bias_v == pytest.approx(np.sum((m - in_u @ m) ** 2))
    assert parts.residual_u == pytest.approx(np.mean(np.sum(delta**2, axis=1)))
    assert parts.residual_v == pytest.approx(np.mean(np.sum(zeta**2, axis=1)))
    assert parts.total == pytest.approx(np.mean(np.sum(difference**2, axis=1)))
    assert parts.eta_u == pytest.approx(np.trace(in_u @ np.cov(difference.T)) / np.trace(np.cov(difference.T)))
    assert parts.r_res == pytest.approx(1 - m @ m / np.mean(np.linalg.norm(difference, axis=1) ** 2))
    for found, expected in zip(frame.split(difference - m), (delta, zeta), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-13)


def test_pairs_without_a_residual_have_no_shares_of_it():
    frame = Frame(np.eye(3), 1, 0.9)
    shifted = D.decompose(frame, Covariance(np.array([0.3, 0.0, 0.4]), np.zeros((3, 3)), 5))
    assert (shifted.eta_u, shifted.r_res) == (None, 0.0)
    same = D.decompose(frame, Covariance(np.zeros(3), np.zeros((3, 3)), 5))
    assert (same.eta_u, same.r_res) == (None, None)


def test_leakage_of_gradients_in_a_turned_subspace(orthonormal, rng):
    basis = orthonormal(8, 8)
    frame, angle = Frame(basis, 3, 0.9), 0.4
    turned = basis[:, :3].copy()
    turned[:, 0] = np.cos(angle) * basis[:, 0] + np.sin(angle) * basis[:, 5]
    bound = np.sin(D.principal_angles(turned, frame.U)[-1])
    assert bound == pytest.approx(np.sin(angle))
    assert D.leakage(frame, rng.standard_normal((50, 1)) * turned[:, 0]) == pytest.approx(bound)
    assert 0 < D.leakage(frame, rng.standard_normal((50, 3)) @ turned.T) < bound
    assert D.leakage(frame, rng.standard_normal((50, 3)) @ frame.U.T) < 1e-15
    assert D.leakage(frame, rng.standard_normal((50, 5)) @ frame.V.T) == pytest.approx(1)
    for nothing in (np.zeros((4, 8)), np.full((4, 8), np.nan)):
        with pytest.raises(InputError, match="no energy"):
            D.leakage(frame, nothing)
    for other in (np.ones((4, 7)), np.ones(8)):
        with pytest.raises(InputError, match=r"gradients of shape .*: expected \(n, 8\), the width of the frame"):
            D.leakage(frame, other)


def test_coupling_finds_the_map_that_was_put_in(orthonormal, rng):
    basis, n = orthonormal(7, 7), 40_000
    frame = Frame(basis, 3, 0.9)
    chosen = 0.5 * orthonormal(4, 3)  # norm 0.5 in every direction
    delta = rng.standard_normal((n, 3))
    own = 0.25 * rng.standard_normal((n, 4))
    difference = np.concatenate([delta, delta @ chosen.T + own], axis=1) @ basis.T
    cov = Covariance(difference.mean(axis=0), np.cov(difference.T, bias=True), n)
    found = D.coupling(frame, cov, ridge=1e-9)
    assert found.norm == pytest.approx(0.5, abs=0.01)
    assert found.explained == pytest.approx(0.25 * 3 / (0.25 * 3 + 4 * 0.0625), abs=0.01)
    alone = Covariance(cov.mean, basis @ np.diag([1.0, 1, 1, 1, 1, 1, 1]) @ basis.T, n)
    assert D.coupling(frame, alone).norm < 1e-12


def test_coupling_is_sklearns_ridge(pairs):
    Ridge = pytest.importorskip("sklearn.linear_model").Ridge
    x, y = pairs
    frame = D.fixed_frame(D.covariance(x), D.covariance(y), energy=0.7)
    centred = x - y - (x - y).mean(axis=0)
    delta, zeta = centred @ frame.U, centred @ frame.V
    for ridge in (1e-3, 0.5):
        weight = ridge * np.sum(delta**2) / frame.rank
        model = Ridge(weight, fit_intercept=False).fit(delta, zeta)
        found = D.coupling(frame, D.difference_covariance(x, y), ridge=ridge)
        assert found.norm == pytest.approx(np.linalg.norm(model.coef_, 2), rel=1e-8)
        left = np.sum((zeta - model.predict(delta)) ** 2)
        assert found.explained == pytest.approx(1 - left / np.sum(zeta**2), rel=1e-8)


def test_coupling_of_pairs_that_differ_by_a_constant():
    frame = Frame(np.eye(4), 2, 0.9)
    with pytest.raises(InputError, match="nothing to regress"):
        D.coupling(frame, Covariance(np.ones(4), np.zeros((4, 4)), 5))
