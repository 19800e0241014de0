"""Third and fourth moments along directions: skewness and tails of a side, which a covariance does not show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.row_argument import unmasked
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.unit_rows import applying, unit_blocks

# A variance below this is rounding: unit rows are rounded to 2^-24 at best where they came as float32.
LEAST_VARIANCE = 2.0**-48


@dataclass(frozen=True, eq=False)
class Shape:
    """Moments of the coordinates of rows along k directions; all arrays float64 (k,).

    Attributes
    ----------
    mean, std : ndarray
        Of the coordinate, without a unit (rows have length 1).
    skewness : ndarray
        E[z^3] of the standardised coordinate z; 0 for a normal distribution.
    kurtosis : ndarray
        Excess kurtosis E[z^4] - 3; 0 for a normal distribution, at least -2.
    skewness_error, kurtosis_error : ndarray
        Standard errors for any distribution with eight moments (delta method).
    count : int
        Number of rows.
    """

    mean: np.ndarray
    std: np.ndarray
    skewness: np.ndarray
    kurtosis: np.ndarray
    skewness_error: np.ndarray
    kurtosis_error: np.ndarray
    count: int


@computes
def shape(rows: RowsLike, directions: np.ndarray, *, row_map: RowMap = UNIT) -> Shape:
    """Skewness and excess kurtosis of the unit rows, or of the rows that a map gives, along each direction.

    Both as in scipy.stats.skew and kurtosis: moments divided by n. A standard error is the root mean square of the influence
    function over sqrt(n): z^3 - g - 3z - 3g(z^2 - 1)/2 of the skewness g, z^4 - b - 4gz - 2b(z^2 - 1) of b = E[z^4]. Whether
    ReAlign aligns these moments is a question that arXiv 2602.07026 leaves open.

    Parameters
    ----------
    rows : RowsLike
        Rows (n, d), n >= 2; read twice, in bounded memory.
    directions : ndarray
        (d, k), such as leading columns of `Covariance.eigenvectors`; need not be orthonormal.
    row_map : RowMap
        What to measure instead of the unit rows: `Alignment.row_map`.

    Returns
    -------
    Shape

    Raises
    ------
    InputError
        Directions of another width, or along which the rows have no spread.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.tile(np.eye(2), (5, 1))
    >>> found = shape(rows, np.eye(2)[:, :1])
    >>> found.mean, found.kurtosis
    (array([0.5]), array([-2.]))
    """
    source = open_rows(rows, "source")
    directions = unmasked(directions, "directions").astype(np.float64, copy=False)
    if directions.ndim != 2 or len(directions) != source.d or not directions.shape[1]:
        raise InputError(
            f"directions of shape {directions.shape}: expected ({source.d}, k), the width of {source.name}"
        )
    # About a pilot, the first block's mean, so that squares do not cancel where the rows have a mean near 1.
    pilot, n = np.zeros(directions.shape[1]), 0
    sums, squares = np.zeros((2, directions.shape[1]))
    for _, block in unit_blocks(source, apply=applying(row_map)):
        along = block @ directions
        if n == 0:
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
    for _, block in unit_blocks(source, apply=applying(row_map)):
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


def _mean_square(terms: list[tuple[int, float | np.ndarray]], m: np.ndarray) -> np.ndarray:
    """E of the square of a polynomial in z, given as (power, coefficient), from the moments m (9, k) of z; none below 0."""
    total = sum(a * b * m[i + j] for i, a in terms for j, b in terms)
    return np.maximum(total, 0.0)
