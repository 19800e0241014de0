"""Covariances of unit rows by streamed matrix products, and what their spectra say.

All spectra are eigenvalues in descending order, without a unit (rows have length 1); covariances are divided by n, so
that the trace is E|e - mean|^2 as in ReAlign (arXiv 2602.07026, section on trace alignment).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.ops import UNIT, RowMap
from fastrealign.data.sources import open_rows
from fastrealign.diagnostics.rows import open_sides, paired_blocks, unit_blocks

# An eigenvalue below this part of the largest is taken for rounding, or for a direction in which there are no rows.
FLOOR = 1e-6


@dataclass(frozen=True, eq=False)
class Covariance:
    """mean float64 (d,), matrix float64 (d, d) = E[(e - mean)(e - mean)^T], count the rows it is of."""

    mean: np.ndarray
    matrix: np.ndarray
    count: int

    @property
    def d(self) -> int:
        return len(self.mean)

    @property
    def trace(self) -> float:
        return float(np.trace(self.matrix))

    @property
    def eigenvalues(self) -> np.ndarray:
        """float64 (d,), descending, none below zero."""
        return self._eigen[0]

    @property
    def eigenvectors(self) -> np.ndarray:
        """float64 (d, d), orthonormal columns in the order of the eigenvalues."""
        return self._eigen[1]

    @cached_property
    def rank(self) -> int:
        """Eigenvalues above FLOOR times the largest; below `d` the spectrum is rank-deficient, as with n <= d rows."""
        return int(np.count_nonzero(above(self.eigenvalues, FLOOR)))

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = np.linalg.eigh(self.matrix)
        return np.maximum(values[::-1], 0.0), np.ascontiguousarray(vectors[:, ::-1])


@computes
def covariance(rows: Any, *, row_map: RowMap = UNIT) -> Covariance:
    """Mean and covariance of the unit rows (or of the rows mapped by `row_map`), in one pass and bounded memory.

    rows   (n, d) array or tensor, files, or an iterable of chunks; n >= 2

    In float64, eigenvalues to 1e-12 of the largest: products in float32 would be quicker, and lose digits of the small ones.
    """
    source = open_rows(rows, "source")
    return _accumulate((block for _, block in unit_blocks(source, row_map=row_map)), source.d, source.name)


@computes
def difference_covariance(x: Any, y: Any) -> Covariance:
    """Mean and covariance of e_x - e_y over pairs, of which `frame.decompose` and the anisotropy of the residual are made.

    Raises InputError where the counts of rows differ.
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
    """Which eigenvalues exceed floor times the largest. Raises InputError for a NaN or Inf, and where the largest is rounding:
    no spread.
    """
    if not np.isfinite(eigenvalues).all():
        raise InputError("the eigenvalues have a NaN or Inf, expected those of a covariance")
    largest = float(np.max(eigenvalues, initial=0.0))
    # Unit rows are rounded to 2^-24 at best where they came as float32: a spread of its square is none.
    if largest <= 2.0**-48:
        raise InputError("the rows have no spread: all point the same way, so there is no spectrum")
    return np.asarray(eigenvalues) > floor * largest


def sigma_gap(x: Covariance, y: Covariance) -> float:
    """|S_x - S_y|_F / |S_x|_F of the covariances, x the target (AnisoAlign, arXiv 2605.07825). 0: equal second moments."""
    above(x.eigenvalues, FLOOR)
    return float(np.linalg.norm(x.matrix - y.matrix) / np.linalg.norm(x.matrix))


@dataclass(frozen=True)
class Condition:
    """value: largest over smallest eigenvalue; `kept` of `of` eigenvalues exceed floor times the largest."""

    value: float
    kept: int
    of: int
    floor: float


def condition_number(eigenvalues: np.ndarray, *, floor: float = FLOOR) -> Condition:
    """The effective condition number kappa of a spectrum (d,): over the eigenvalues above floor times the largest.

    arXiv 2602.07026 reports it of S_U and S_V (`Frame.restrict`), above 1e3 in U.
    """
    kept = np.asarray(eigenvalues)[above(eigenvalues, floor)]
    return Condition(float(kept.max() / kept.min()), len(kept), len(eigenvalues), floor)


@dataclass(frozen=True)
class PowerLaw:
    """lambda_k / sum(lambda) = scale k^-alpha, fitted for first <= k <= last (from 1); r2 of the fit in logarithms."""

    alpha: float
    scale: float
    r2: float
    first: int
    last: int


def power_law(eigenvalues: np.ndarray, *, first: int = 1, last: int | None = None) -> PowerLaw:
    """Exponent alpha of a spectrum (d,): minus the slope of log lambda_k on log k, by least squares (arXiv 2602.07026).

    Spectra are divided by their trace first, so that curves of several sides lie on one scale; alpha does not change by
    that. last: d/2 by default, and never beyond the eigenvalues above FLOOR times the largest: the result states the range.
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
    """exp of the entropy of the spectrum divided by its sum, from 1 to d (Roy and Vetterli; used in arXiv 2602.07026)."""
    values = np.asarray(eigenvalues)[above(eigenvalues, 0.0)]
    p = values / values.sum()
    return float(np.exp(-np.sum(p * np.log(p))))


def spectral_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """C_lambda: Pearson correlation of log lambda_k of two spectra (d,), -1 to 1 (AnisoAlign, arXiv 2605.07825).

    Over the leading eigenvalues that exceed FLOOR times the largest on both sides.
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
    """value |U_x^T U_y|_F^2 / q, 0 to 1; baseline q/d: what two subspaces at random have on average."""

    value: float
    baseline: float
    q: int


def subspace_overlap(x: Covariance, y: Covariance, q: int) -> Overlap:
    """O_q: how much of the span of x's leading q eigenvectors lies in that of y's (AnisoAlign, arXiv 2605.07825)."""
    rank = min(x.rank, y.rank)
    if not 1 <= q <= rank:
        raise InputError(f"q={q} directions: expected 1 to {rank}, the lesser rank of both sides")
    product = x.eigenvectors[:, :q].T @ y.eigenvectors[:, :q]
    return Overlap(float(np.sum(product**2) / q), q / x.d, q)


def anisotropy(residual: Covariance) -> float:
    """A_r = lambda_max / (trace / d), 1 to d; of `difference_covariance` as in AnisoAlign (arXiv 2605.07825)."""
    above(residual.eigenvalues, FLOOR)
    return float(residual.eigenvalues[0] * residual.d / residual.trace)


def effective_dimension(residual: Covariance) -> float:
    """d_eff / d = tr(S)^2 / tr(S^2) / d, 1/d to 1; of `difference_covariance` as in AnisoAlign (arXiv 2605.07825)."""
    above(residual.eigenvalues, FLOOR)
    return float(residual.trace**2 / np.sum(residual.matrix**2) / residual.d)
