"""Rows of the same items by two encoders."""

from __future__ import annotations

import numpy as np


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pairs(rng, n, d_old, d_new, noise=0.3):
    """Rows of items by two encoders that share a linear world, each with a mean of its own."""
    world = rng.standard_normal((n, max(d_old, d_new)))
    sides = []
    for d in (d_old, d_new):
        mixed = world @ rng.standard_normal((world.shape[1], d)) + noise * rng.standard_normal((n, d))
        sides.append(mixed + 0.5 * rng.standard_normal(d))
    return sides
