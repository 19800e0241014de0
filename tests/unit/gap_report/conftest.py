"""Pairs of sides to measure."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.cli.demo import samples
from fastrealign.diagnostics import topology
from fastrealign.gap_report import measure
from fastrealign.gap_report.copies import first_rows, numbered


@pytest.fixture(scope="package", autouse=True)
def few_angles():
    """Angles of fewer rows, on a coarser grid: a third of the time of a report. test_topology.py has what is computed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "ANGLES", 400)
        patch.setattr(topology, "POINTS", 512)
        yield


@pytest.fixture(scope="session")
def sides():
    """(source, target): 1000 paired rows each, float32, 64 wide."""
    return tuple(samples.load(name)[:1000, :64].astype(np.float32) for name in ("pairs_text", "pairs_image"))


@pytest.fixture
def few(rng):
    """few(n, d): (source, target) of n paired rows, apart and of different spread; none is a copy of another.

    In few columns, one pair of hundreds of random rows is now and then as near as copies are.
    """

    def distinct(n, d, spread, at, dtype):
        rows, again = np.empty((n, d), dtype), np.arange(n)
        while len(again):
            rows[again] = spread * rng.standard_normal((len(again), d)) / np.sqrt(d) + 2 * np.eye(d)[at]
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            again = np.setdiff1d(np.arange(n), first_rows(numbered(unit)))
        return rows

    def few(n, d, dtype=np.float32):
        x = distinct(n, d, 1.0, 0, dtype)
        return distinct(n, d, 0.5, -1, dtype), x

    return few
