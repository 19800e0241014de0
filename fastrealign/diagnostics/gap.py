"""The gap between two modalities, and the drift that projecting onto the sphere gives to a mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.ops import UNIT, RowMap
from fastrealign.data.pipeline import reduce_source
from fastrealign.data.sources import RowSource, open_rows
from fastrealign.diagnostics.rows import open_sides
from fastrealign.diagnostics.spectrum import Covariance


@computes
def gap(x: Any, y: Any) -> float:
    """|mean(x) - mean(y)|_2 of the unit rows of x (n, d) and y (m, d), 0 to 2, over all rows (arXiv 2602.07026)."""
    means = [_mean(side, UNIT) for side in open_sides(x, y)]
    return float(np.linalg.norm(means[0] - means[1]))


@dataclass(frozen=True, eq=False)
class Drift:
    """All float64 (d,).

    measured   E[pi(u)] - pi(E[u])
    predicted  the same to second order, from mean and covariance of u
    offset     E[pi(u)] - E[u]: for the u of ReAlign, whose mean is the target's, the phantom drift mu' - mu_x
    """

    measured: np.ndarray
    predicted: np.ndarray
    offset: np.ndarray


def predicted_drift(mean: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """E[pi(u)] - pi(E[u]) to second order for u of this mean (d,) and covariance (d, d): float64 (d,).

    -S a / r^2 - a tr(S) / 2r^2 + 3 a (a^T S a) / 2r^2,  a = mean / r, r = |mean| (arXiv 2602.07026, phantom drift).
    """
    r = float(np.linalg.norm(mean))
    if r < 1e-9:
        raise InputError("the mean is zero, so it has no direction to drift from")
    a = mean / r
    spread = matrix @ a
    return (-spread - 0.5 * np.trace(matrix) * a + 1.5 * (a @ spread) * a) / r**2


@computes
def phantom_drift(rows: Any, s: float, b: np.ndarray, of: Covariance) -> Drift:
    """The drift of u = s pi(y) + b over all rows y (n, d), measured and predicted.

    s, b   of an Alignment: b float64 (d,)
    of     `spectrum.covariance` of the rows
    """
    mean = s * of.mean + b
    predicted = predicted_drift(mean, s * s * of.matrix)
    projected = _mean(open_rows(rows, "source"), RowMap(s, b))
    return Drift(projected - mean / np.linalg.norm(mean), predicted, projected - mean)


def _mean(source: RowSource, row_map: RowMap) -> np.ndarray:
    sums, _ = reduce_source(source, row_map, "measuring the mean")
    return sums.mean
