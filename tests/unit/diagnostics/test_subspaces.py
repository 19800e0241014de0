"""Subspaces at chosen angles, and random ones."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign import diagnostics as D
from fastrealign.diagnostics import Covariance


def of(spectrum, basis):
    return Covariance(np.zeros(len(basis)), (basis * spectrum) @ basis.T, 100)


@pytest.mark.parametrize("angles", [(0.0, 0.7), (1e-9, 1e-4), (0.3, 1.2), (np.pi / 2, np.pi / 2)])
def test_principal_angles_are_those_chosen(orthonormal, angles):
    basis = orthonormal(9, 4)
    cos, sin = np.cos(angles), np.sin(angles)
    turned = basis[:, :2] * cos + basis[:, 2:] * sin
    # In another basis of the same plane.
    found = D.principal_angles(basis[:, :2] @ orthonormal(2, 2), turned @ orthonormal(2, 2))
    # An angle of 0 is rounding alone: up to 1.3e-15 in 2,000 draws; from its cosine it would be 1e-8.
    np.testing.assert_allclose(found, angles, rtol=1e-6, atol=1e-14)


def test_principal_angles_are_scipys(orthonormal):
    linalg = pytest.importorskip("scipy.linalg")
    for p, q in ((3, 5), (5, 3), (4, 4)):
        a, b = orthonormal(10, p), orthonormal(10, q)
        np.testing.assert_allclose(D.principal_angles(a, b), linalg.subspace_angles(a, b)[::-1], atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 2])
def test_subspace_overlap_of_a_rotated_plane(orthonormal, angle):
    d, q = 12, 4
    basis = orthonormal(d, d)
    spectrum = np.arange(d, 0, -1.0)
    turned = basis.copy()
    turned[:, 3] = np.cos(angle) * basis[:, 3] + np.sin(angle) * basis[:, 9]
    turned[:, 9] = np.cos(angle) * basis[:, 9] - np.sin(angle) * basis[:, 3]
    found = D.subspace_overlap(of(spectrum, basis), of(spectrum, turned), q)
    assert found == D.Overlap(pytest.approx((3 + np.cos(angle) ** 2) / 4), q / d, q)


def test_the_baseline_of_the_overlap_is_that_of_random_subspaces(orthonormal):
    spectrum = np.arange(24, 0, -1.0)
    found = [D.subspace_overlap(of(spectrum, orthonormal(24, 24)), of(spectrum, np.eye(24)), 6) for _ in range(200)]
    assert np.mean([o.value for o in found]) == pytest.approx(found[0].baseline, abs=0.02)
