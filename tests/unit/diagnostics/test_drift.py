"""The gap, and the drift of a mean that is projected: measured on rows whose answer is known, predicted to second order."""

from __future__ import annotations

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics as D
from fastrealign.core.errors import InputError


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_gap_of_rows_at_a_chosen_distance():
    assert D.gap(np.eye(3)[[0, 0]], np.eye(3)[[1, 1, 1]]) == pytest.approx(np.sqrt(2))
    assert D.gap(np.eye(3)[[0, 0]], -5 * np.eye(3)[[0]]) == pytest.approx(2)
    assert D.gap(np.array([[3.0, 0], [0, 2]]), np.array([[1.0, 1]])) == pytest.approx(1 / np.sqrt(2) * (np.sqrt(2) - 1))


def test_gap_is_that_of_the_alignment(cloud):
    x, y = cloud(600, 16, dtype=np.float32), cloud(500, 16, offset=0.7, dtype=np.float32)
    alignment = fr.fit(y, x)
    assert D.gap(x, [y[:50], y[50:]]) == pytest.approx(alignment.gap_before, abs=1e-12)
    assert D.gap(x, alignment(y, dtype="float64")) == pytest.approx(alignment.gap_left, abs=1e-12)


@pytest.mark.parametrize("length", [1.0, 0.6, 2.0])
def test_the_prediction_is_exact_to_second_order(rng, length):
    """Vectors mean +- h scaled down: what is left of the drift must fall as the fourth power (odd orders cancel)."""
    h = rng.standard_normal((40, 6)) * np.array([3, 1, 1, 0.5, 0.2, 0.1]) / 10
    mean = length * unit(rng.standard_normal(6))
    left = []
    for scale in (0.1, 0.05):
        u = np.concatenate([mean + scale * h, mean - scale * h])
        measured = unit(u).mean(axis=0) - unit(mean)
        predicted = D.predicted_drift(mean, scale**2 * h.T @ h / len(h))
        assert np.linalg.norm(predicted - measured) < 0.1 * np.linalg.norm(measured)
        left.append(np.linalg.norm(measured - predicted))
    assert left[0] / left[1] == pytest.approx(16, rel=0.25)


def test_isotropic_spread_draws_the_mean_inward():
    """Spread at right angles to the mean alone: the projected mean is shorter by tr/2r^2, to second order."""
    matrix = np.diag([0.0, 0.01, 0.01])
    np.testing.assert_allclose(D.predicted_drift(np.array([2.0, 0, 0]), matrix), [-0.5 * 0.02 / 4, 0, 0], atol=1e-18)


def test_the_drift_of_realign(spherical):
    y, x = spherical(3000, 24, alpha=0.5, offset=2.0), spherical(2500, 24, alpha=0.7, offset=2.5)
    alignment = fr.fit(y, x)
    drift = D.phantom_drift(y, alignment.s, alignment.b, D.covariance(y))
    mean_x = x.mean(axis=0)
    moved = alignment.s * (y - y.mean(axis=0)) + mean_x
    projected = unit(moved).mean(axis=0)
    np.testing.assert_allclose(drift.offset, projected - mean_x, atol=1e-12)
    np.testing.assert_allclose(drift.offset, -alignment.c, atol=1e-12)
    np.testing.assert_allclose(drift.measured, projected - unit(mean_x), atol=1e-12)
    assert drift.ratio == pytest.approx(np.mean(np.sum((moved - mean_x) ** 2, axis=1)) / np.sum(mean_x**2))
    assert np.linalg.norm(drift.predicted - drift.measured) < 0.15 * np.linalg.norm(drift.measured)


@pytest.mark.parametrize("offset", [0.3, 0.7, 1.0, 1.4, 2.0, 4.0])
def test_the_prediction_is_given_where_it_is_near(spherical, offset):
    """Rows of ever longer means: within the range the prediction is within a third of the drift; beyond it there is none."""
    y = spherical(4000, 16, alpha=0.5, offset=offset)
    of = D.covariance(y)
    drift = D.phantom_drift(y, 1.0, 0.5 * of.mean / np.linalg.norm(of.mean), of)
    error = np.linalg.norm(
        D.predicted_drift(of.mean + 0.5 * of.mean / np.linalg.norm(of.mean), of.matrix) - drift.measured
    )
    assert (drift.predicted is None) == (drift.ratio > 0.5)
    assert drift.predicted is None or error < np.linalg.norm(drift.measured) / 3


def test_far_out_of_range_the_expansion_would_mislead(spherical):
    """The case that the range is for: where the mean is short, the drift is at most 1 and the expansion is not."""
    y = spherical(4000, 16, alpha=0.5, offset=0.3)
    of = D.covariance(y)
    drift = D.phantom_drift(y, 1.0, np.zeros(16), of)
    assert drift.ratio > 5 and drift.predicted is None
    assert np.linalg.norm(D.predicted_drift(of.mean, of.matrix)) > 2 * np.linalg.norm(drift.measured)


@pytest.mark.parametrize("offsets", [(0.4, 0.6), (1.0, 1.0), (2.0, 0.5)])
def test_the_gap_left_is_at_most_the_drift(spherical, offsets):
    """Proposition B.19 of arXiv 2602.07026: |gap| <= |h|."""
    y, x = spherical(800, 12, alpha=1.0, offset=offsets[0]), spherical(900, 12, alpha=1.5, offset=offsets[1])
    alignment = fr.fit(y, x)
    drift = D.phantom_drift(y, alignment.s, alignment.b, D.covariance(y))
    assert 0 < D.gap(x, alignment(y)) <= np.linalg.norm(drift.offset)


def test_a_mean_of_zero_has_no_drift():
    with pytest.raises(InputError, match="no direction to drift from"):
        D.predicted_drift(np.zeros(3), np.eye(3))
