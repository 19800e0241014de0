"""Pairs of sides to measure."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.cli.demo import samples


@pytest.fixture(scope="session")
def sides():
    """(source, target): 1000 paired rows each, float32, 64 wide."""
    return tuple(samples.load(name)[:1000, :64].astype(np.float32) for name in ("pairs_text", "pairs_image"))


@pytest.fixture
def few(rng):
    """few(n, d): (source, target) of n paired rows, apart and of different spread."""

    def few(n, d, dtype=np.float32):
        x = rng.standard_normal((n, d)) / np.sqrt(d) + 2 * np.eye(d)[0]
        y = 0.5 * rng.standard_normal((n, d)) / np.sqrt(d) + 2 * np.eye(d)[-1]
        return y.astype(dtype), x.astype(dtype)

    return few
