"""Covariances of unit rows by streamed matrix products, and metrics of their spectra.

All spectra are eigenvalues in descending order, without a unit (rows have length 1); covariances are divided by n, so
that the trace is E|e - mean|^2 as in ReAlign (arXiv 2602.07026, section on trace alignment).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.rows import RowsLike, open_sides, paired_blocks, unit_blocks

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
    return _accumulate((block for _, block in unit_blocks(source, row_map=row_map)), source.d, source.name)


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


def above(eigenvalues: np.ndarray, floor: float) -> np.ndarray:
    """Which eigenvalues exceed floor times the largest. InputError for a NaN or Inf, and without a spread beyond rounding."""
    if not np.isfinite(eigenvalues).all():
        raise InputError("the eigenvalues have a NaN or Inf, expected those of a covariance")
    largest = float(np.max(eigenvalues, initial=0.0))
    # Unit rows are rounded to 2^-24 at best where they came as float32: a spread of its square is none.
    if largest <= 2.0**-48:
        raise InputError("the rows have no spread: all point the same way, so there is no spectrum")
    return np.asarray(eigenvalues) > floor * largest


def sigma_gap(x: Covariance, y: Covariance) -> float:
    """Relative distance of two covariances, |S_x - S_y|_F / |S_x|_F (AnisoAlign, arXiv 2605.07825).

    Parameters
    ----------
    x, y : Covariance
        Of the target and of the source.

    Returns
    -------
    float
        0 where the covariances are equal.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> sigma_gap(covariance(rows), covariance(-rows)) < 1e-12
    True
    """
    above(x.eigenvalues, FLOOR)
    return float(np.linalg.norm(x.matrix - y.matrix) / np.linalg.norm(x.matrix))


@dataclass(frozen=True)
class Condition:
    """An effective condition number.

    Attributes
    ----------
    value : float
        Largest over smallest eigenvalue of those kept.
    kept, of : int
        `kept` of `of` eigenvalues exceed `floor` times the largest.
    floor : float
    """

    value: float
    kept: int
    of: int
    floor: float


def condition_number(eigenvalues: np.ndarray, *, floor: float = FLOOR) -> Condition:
    """Effective condition number kappa of a spectrum, over the eigenvalues above a floor.

    arXiv 2602.07026 reports it of S_U and S_V (`Frame.spectra`), above 1e3 in U.

    Parameters
    ----------
    eigenvalues : ndarray
        (d,).
    floor : float
        Eigenvalues up to this share of the largest are left out.

    Returns
    -------
    Condition

    Examples
    --------
    >>> import numpy as np
    >>> condition_number(np.array([4.0, 2.0, 1.0, 0.0]))
    Condition(value=4.0, kept=3, of=4, floor=1e-06)
    """
    kept = np.asarray(eigenvalues)[above(eigenvalues, floor)]
    return Condition(float(kept.max() / kept.min()), len(kept), len(eigenvalues), floor)


@dataclass(frozen=True)
class PowerLaw:
    """A power law lambda_k / sum(lambda) = scale k^-alpha.

    Attributes
    ----------
    alpha, scale : float
    r2 : float
        Coefficient of determination of the fit in logarithms.
    first, last : int
        The range of k that was fitted, counted from 1.
    """

    alpha: float
    scale: float
    r2: float
    first: int
    last: int


def power_law(eigenvalues: np.ndarray, *, first: int = 1, last: int | None = None) -> PowerLaw:
    """Exponent alpha of a spectrum: minus the slope of log lambda_k on log k, by least squares (arXiv 2602.07026).

    Spectra are divided by their trace, so that the curves of several sides have one scale; alpha does not depend on it.

    Parameters
    ----------
    eigenvalues : ndarray
        (d,), descending.
    first, last : int
        The range of k, counted from 1; `last` is d/2 by default, and at most the number of eigenvalues above FLOOR times the
        largest. The result states the range.

    Returns
    -------
    PowerLaw

    Raises
    ------
    InputError
        The range has fewer than 2 eigenvalues with a spread.

    Examples
    --------
    >>> import numpy as np
    >>> round(power_law(1 / np.arange(1, 11) ** 2).alpha, 6)
    2.0
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    if last is None:
        last = max(len(values) // 2, first + 1)
    last = min(last, int(np.count_nonzero(above(values, FLOOR))))
    if not 1 <= first < last:
        raise InputError(
            f"a power law from eigenvalue {first} to {last}: expected a range of at least 2 that have a spread"
        )
    k = np.log(np.arange(first, last + 1))
    fitted = np.log(values[first - 1 : last] / values.sum())
    slope, intercept = np.polyfit(k, fitted, 1)
    total = np.sum((fitted - fitted.mean()) ** 2)
    residual = np.sum((fitted - slope * k - intercept) ** 2)
    return PowerLaw(-float(slope), float(np.exp(intercept)), float(1 - residual / total) if total else 1.0, first, last)


def effective_rank(eigenvalues: np.ndarray) -> float:
    """exp of the entropy of the normalised spectrum (Roy and Vetterli, 2007; used in arXiv 2602.07026).

    Parameters
    ----------
    eigenvalues : ndarray
        (d,).

    Returns
    -------
    float
        1 to d.

    Examples
    --------
    >>> import numpy as np
    >>> round(effective_rank(np.ones(10)), 6)
    10.0
    """
    values = np.asarray(eigenvalues)[above(eigenvalues, 0.0)]
    p = values / values.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def spectral_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """C_lambda: Pearson correlation of the logarithms of two spectra (AnisoAlign, arXiv 2605.07825).

    Over the leading eigenvalues that exceed FLOOR times the largest on both sides.

    Parameters
    ----------
    x, y : ndarray
        Eigenvalues (d,), descending.

    Returns
    -------
    float
        -1 to 1.

    Raises
    ------
    InputError
        Fewer than 3 eigenvalues to correlate, or all of one side are equal.

    Examples
    --------
    >>> import numpy as np
    >>> k = np.arange(1, 11)
    >>> round(spectral_correlation(1 / k, 1 / k**2), 6)
    1.0
    """
    k = int(min(np.count_nonzero(above(x, FLOOR)), np.count_nonzero(above(y, FLOOR))))
    if k < 3:
        raise InputError(f"only {k} eigenvalues are above {FLOOR:g} of the largest on both sides: too few to correlate")
    logs = np.log([x[:k], y[:k]])
    if np.ptp(logs, axis=1).min() < 1e-12:
        raise InputError("all eigenvalues of one side are equal, so there is nothing to correlate")
    return float(np.corrcoef(logs)[0, 1])


@dataclass(frozen=True)
class Overlap:
    """How much two subspaces share.

    Attributes
    ----------
    value : float
        |U_x^T U_y|_F^2 / q, 0 to 1.
    baseline : float
        q/d: the mean of random subspaces.
    q : int
        Their dimension.
    """

    value: float
    baseline: float
    q: int


def subspace_overlap(x: Covariance, y: Covariance, q: int) -> Overlap:
    """O_q: how much of the span of the leading q eigenvectors two sides share (AnisoAlign, arXiv 2605.07825).

    Parameters
    ----------
    x, y : Covariance
    q : int
        1 to the lesser rank of both sides.

    Returns
    -------
    Overlap

    Raises
    ------
    InputError
        q is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = (Covariance(np.zeros(3), np.diag(values), 10) for values in ([3.0, 2, 1], [3.0, 1, 2]))
    >>> subspace_overlap(x, y, 2).value
    0.5
    """
    rank = min(x.rank, y.rank)
    if not 1 <= q <= rank:
        raise InputError(f"q={q} directions: expected 1 to {rank}, the lesser rank of both sides")
    product = x.eigenvectors[:, :q].T @ y.eigenvectors[:, :q]
    return Overlap(float(np.sum(product**2) / q), q / x.d, q)


def anisotropy(residual: Covariance) -> float:
    """A_r = lambda_max / (trace / d), the anisotropy of the residual of pairs (AnisoAlign, arXiv 2605.07825).

    Parameters
    ----------
    residual : Covariance
        `difference_covariance` of the pairs.

    Returns
    -------
    float
        1 to d.

    Examples
    --------
    >>> import numpy as np
    >>> anisotropy(Covariance(np.zeros(2), np.diag([3.0, 1.0]), 10))
    1.5
    """
    above(residual.eigenvalues, FLOOR)
    return float(residual.eigenvalues[0] * residual.d / residual.trace)


def effective_dimension(residual: Covariance) -> float:
    """d_eff / d = tr(S)^2 / tr(S^2) / d, the effective dimension of the residual of pairs (AnisoAlign, arXiv 2605.07825).

    Parameters
    ----------
    residual : Covariance
        `difference_covariance` of the pairs.

    Returns
    -------
    float
        1/d to 1.

    Examples
    --------
    >>> import numpy as np
    >>> effective_dimension(Covariance(np.zeros(2), np.diag([3.0, 1.0]), 10))
    0.8
    """
    above(residual.eigenvalues, FLOOR)
    return float(residual.trace**2 / np.sum(residual.matrix**2) / residual.d)
