"""Synthetic sides with given spectra and axes, where the rendered encoder is unlike those of the paper."""

from __future__ import annotations

import numpy as np

from bench.paper.common import Sides


def orthonormal(rng: np.random.Generator, d: int, k: int) -> np.ndarray:
    """float64 (d, k): random orthonormal columns."""
    return np.linalg.qr(rng.standard_normal((d, k)))[0]


def power_law_sides(
    rows: int, d: int, alpha_text: float, alpha_image: float, turn: float, seed: int, radius: float = 0.6
) -> Sides:
    """Normal clouds with eigenvalues k^-alpha around means `radius` long in random directions, total energy 1 a row.

    turn  how far the images' axes are turned from the texts': the orthonormal factor of 1 + turn G / sqrt(d), G normal; 0:
          the same axes in the same order; inf: random axes
    """
    rng = np.random.default_rng(seed)
    axes = orthonormal(rng, d, d)
    disorder = rng.standard_normal((d, d)) / np.sqrt(d)
    turned = axes @ np.linalg.qr(disorder if np.isinf(turn) else np.eye(d) + turn * disorder)[0]
    means = radius * orthonormal(rng, d, 2).T
    sides = []
    for basis, mean, alpha in ((axes, means[0], alpha_text), (turned, means[1], alpha_image)):
        scales = np.arange(1, d + 1) ** (-alpha / 2)
        scales *= np.sqrt(1 - radius**2) / np.linalg.norm(scales)
        sides.append((rng.standard_normal((rows, d)) * scales) @ basis.T + mean)
    text, image = sides
    return Sides(text, image, text, image)
