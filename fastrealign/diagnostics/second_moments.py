"""Covariances of unit rows by streamed matrix products, and their eigendecomposition.

Eigenvalues are in descending order, without a unit (rows have length 1). Covariances are divided by n, so that the trace is
E|e - mean|^2 as in ReAlign (arXiv 2602.07026, section on trace alignment).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.unit_rows import applying, open_sides, paired_blocks, unit_blocks

# An eigenvalue below this share of the largest counts as rounding, or as a direction without rows.
FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Covariance:
    """Mean and covariance of rows, with the eigendecomposition on first use.

    Attributes
    ----------
    mean : ndarray
        float64 (d,).
    matrix : ndarray
        float64 (d, d): E[(e - mean)(e - mean)^T].
    count : int
        Number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.diagnostics import covariance
    >>> rows = np.random.default_rng(0).standard_normal((400, 8)) - 1.0
    >>> of = covariance(rows)  # of the unit rows, so that E|e|^2 = 1
    >>> of.count, of.matrix.shape, np.allclose(of.trace, 1 - of.mean @ of.mean)
    (400, (8, 8), True)
    >>> np.allclose(of.eigenvalues.sum(), of.trace)
    True
    """

    mean: np.ndarray
    matrix: np.ndarray
    count: int

    @property
    def d(self) -> int:
        """Width of the rows."""
        return len(self.mean)

    @property
    def trace(self) -> float:
        """E|e - mean|^2."""
        return float(np.trace(self.matrix))

    @property
    def eigenvalues(self) -> np.ndarray:
        """Eigenvalues float64 (d,), descending, none below zero."""
        return self._eigen[0]

    @property
    def eigenvectors(self) -> np.ndarray:
        """Eigenvectors float64 (d, d), orthonormal columns in the order of the eigenvalues."""
        return self._eigen[1]

    @property
    def uncentred(self) -> Covariance:
        """The second moments about zero, E[e e^T], in the place of the covariance."""
        return Covariance(np.zeros(self.d), self.matrix + np.outer(self.mean, self.mean), self.count)

    @cached_property
    def rank(self) -> int:
        """How many eigenvalues exceed FLOOR times the largest; fewer than `d` with n <= d rows."""
        return int(np.count_nonzero(above(self.eigenvalues, FLOOR)))

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self.matrix)
        return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1])


@computes
def covariance(rows: RowsLike, *, row_map: RowMap = UNIT) -> Covariance:
    """Mean and covariance of the unit rows, or of the rows that a map gives, in one pass and bounded memory.

    Computed in float64, eigenvalues to 1e-12 of the largest: products in float32 would be faster and lose the small ones.

    Parameters
    ----------
    rows : RowsLike
        Rows (n, d), n >= 2; any kind that `fastrealign.fit` takes.
    row_map : RowMap
        What to measure instead of the unit rows: `Alignment.row_map`.

    Returns
    -------
    Covariance

    Raises
    ------
    InputError
        Fewer than 2 rows.
    BadRowsError
        A row has no direction; the message names the first.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.tile(np.eye(2), (5, 1))
    >>> covariance(rows).matrix
    array([[ 0.25, -0.25],
           [-0.25,  0.25]])
    """
    source = open_rows(rows, "source")
    return _accumulate((block for _, block in unit_blocks(source, apply=applying(row_map))), source.d, source.name)


@computes
def difference_covariance(x: RowsLike, y: RowsLike) -> Covariance:
    """Mean and covariance of the differences e_x - e_y of pairs of unit rows (arXiv 2602.07026, section 3.1).

    Parameters
    ----------
    x, y : RowsLike
        Rows (n, d), row i of one belonging to row i of the other.

    Returns
    -------
    Covariance
        For `decompose`, `coupling`, `anisotropy` and `effective_dimension`.

    Raises
    ------
    InputError
        Widths or numbers of rows differ.

    Examples
    --------
    >>> import numpy as np
    >>> images, text = np.tile([1.0, 0.0], (10, 1)), np.tile([0.0, 1.0], (10, 1))
    >>> difference_covariance(images, text).mean
    array([ 1., -1.])
    """
    target, source = open_sides(x, y, "the covariance of differences")
    differences = (a - b for a, b in paired_blocks(target, source))
    return _accumulate(differences, target.d, target.name)


def _accumulate(blocks: Iterable[np.ndarray], d: int, name: str) -> Covariance:
    # Each block about its own mean, and blocks put together as Chan, Golub and LeVeque do: nothing cancels where the rows
    # have a mean near 1, nor where they come sorted.
    products, mean, n = np.zeros((d, d)), np.zeros(d), 0
    for block in blocks:
        own, rows = block.mean(axis=0), len(block)
        centred = block - own
        apart = own - mean
        # NumPy sees that both are one array and takes half the product (syrk).
        products += centred.T @ centred
        products += n * rows / (n + rows) * np.outer(apart, apart)
        mean += rows / (n + rows) * apart
        n += rows
    if n < 2:
        raise InputError(f"{name}: {n} rows, expected at least 2 for a covariance")
    return Covariance(mean, products / n, n)


def check_widths(*widths: int) -> None:
    """InputError for statistics of rows of different widths."""
    found = list(dict.fromkeys(widths))
    if len(found) > 1:
        raise InputError(f"widths {' and '.join(map(str, found))}: all must be of rows of one encoder pair")


def above(eigenvalues: np.ndarray, floor: float) -> np.ndarray:
    """Which eigenvalues exceed floor times the largest. InputError for a NaN or Inf, and without a spread beyond rounding."""
    if not np.isfinite(eigenvalues).all():
        raise InputError("the eigenvalues have a NaN or Inf, expected those of a covariance")
    largest = float(np.max(eigenvalues, initial=0.0))
    # Unit rows are rounded to 2^-24 at best where they came as float32: a spread of its square is none.
    if largest <= 2.0**-48:
        raise InputError(
            "the rows have no spread beyond rounding in the directions measured, so there is no spectrum: they point the same "
            "way, or span few directions"
        )
    return np.asarray(eigenvalues) > floor * largest
