"""Third and fourth moments along directions: how lopsided and how heavy-tailed a side is, which no covariance tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.arrays import unmasked
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.ops import UNIT, RowMap
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.rows import unit_blocks

# A variance below this is rounding: unit rows are rounded to 2^-24 at best where they came as float32.
LEAST_VARIANCE = 2.0**-48


@dataclass(frozen=True, eq=False)
class Shape:
    """Of the rows' coordinates along k directions, all float64 (k,).

    mean, std         of the coordinate, no unit (rows have length 1)
    skewness          E[z^3] of the standardised coordinate z; 0 of a normal one
    kurtosis          E[z^4] - 3: excess; 0 of a normal one, -2 at least
    skewness_error, kurtosis_error   standard errors, of any distribution with eight moments (delta method)
    count             the rows it is of
    """

    mean: np.ndarray
    std: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray
    skewness_error: np.ndarray
    kurtosis_error: np.ndarray
    count: int


@computes
def shape(rows: Any, directions: np.ndarray, *, row_map: RowMap = UNIT) -> Shape:
    """Skewness and excess kurtosis of the unit rows (or of the rows mapped by `row_map`) along each direction.

    rows        (n, d) array or tensor, files, or chunks that can be read again: two passes in bounded memory; n >= 2
    directions  (d, k), such as leading columns of `Covariance.eigenvectors`; need not be orthonormal
    Both are those of scipy.stats.skew and kurtosis: moments divided by n. An error is the root mean square of what one row
    adds, the influence functions z^3 - g - 3z - 3g(z^2 - 1)/2 of skewness g and z^4 - b - 4gz - 2b(z^2 - 1) of b = E[z^4],
    over sqrt(n). Whether ReAlign aligns these moments is a question that arXiv 2602.07026 leaves open.
    Raises InputError for directions of another width, or along which the rows have no spread.
    """
    source = open_rows(rows, "source")
    directions = unmasked(directions, "directions").astype(np.float64, copy=False)
    if directions.ndim != 2 or len(directions) != source.d or not directions.shape[1]:
        raise InputError(
            f"directions of shape {directions.shape}: expected ({source.d}, k), the width of {source.name}"
        )
    # About a pilot, the first block's mean, so that squares do not cancel where the rows have a mean near 1.
    pilot, n = None, 0
    sums, squares = np.zeros((2, directions.shape[1]))
    for _, block in unit_blocks(source, row_map=row_map):
        along = block @ directions
        if pilot is None:
            pilot = along.mean(axis=0)
        along -= pilot
        sums += along.sum(axis=0)
        squares += np.sum(along**2, axis=0)
        n += len(along)
    if n < 2:
        raise InputError(f"{source.name}: {n} rows, expected at least 2 for a shape")
    mean, variance = pilot + sums / n, squares / n - (sums / n) ** 2
    flat = np.flatnonzero(variance <= LEAST_VARIANCE * np.sum(directions**2, axis=0))
    if len(flat):
        raise InputError(f"{source.name}: the rows have no spread along direction {flat[0]}, so no shape")
    std = np.sqrt(variance)
    powers = np.zeros((9, directions.shape[1]))
    for _, block in unit_blocks(source, row_map=row_map):
        z = (block @ directions - mean) / std
        power = np.ones_like(z)
        for order in range(3, 9):
            power = z**3 if order == 3 else power * z
            powers[order] += power.sum(axis=0)
    m = powers / n
    m[0], m[1], m[2] = 1.0, 0.0, 1.0
    g, b = m[3], m[4]
    of_skewness = _mean_square([(3, 1.0), (0, -g), (1, -3.0), (2, -1.5 * g), (0, 1.5 * g)], m)
    of_kurtosis = _mean_square([(4, 1.0), (0, -b), (1, -4.0 * g), (2, -2.0 * b), (0, 2.0 * b)], m)
    return Shape(mean, std, g, b - 3.0, np.sqrt(of_skewness / n), np.sqrt(of_kurtosis / n), n)


def _mean_square(terms: list[tuple[int, Any]], m: np.ndarray) -> np.ndarray:
    """E of the square of a polynomial in z, given as (power, coefficient), from the moments m (9, k) of z; none below 0."""
    total = sum(a * b * m[i + j] for i, a in terms for j, b in terms)
    return np.maximum(total, 0.0)
