"""Rows with a known shape, for the tests of the metrics."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def orthonormal(rng):
    """orthonormal(d, k): k random orthonormal columns of length d."""
    return lambda d, k: np.linalg.qr(rng.standard_normal((d, k)))[0]


@pytest.fixture
def cloud(rng, orthonormal):
    """cloud(n, d, alpha, offset): rows around a mean of length `offset`, of a spectrum k^-alpha in random directions."""

    def cloud(n, d, alpha=1.0, offset=1.0, dtype=np.float64):
        scales = np.arange(1, d + 1) ** (-alpha / 2)
        rows = (rng.standard_normal((n, d)) * (scales / np.linalg.norm(scales))) @ orthonormal(d, d).T
        return (rows + offset * orthonormal(d, 1)[:, 0]).astype(dtype)

    return cloud


@pytest.fixture
def spherical(cloud):
    """spherical(...): the same as float64 unit rows, normalised by NumPy."""

    def spherical(*args, **options):
        rows = cloud(*args, **options)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return spherical
