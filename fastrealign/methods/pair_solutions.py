"""Maps e -> M e + shift from the moments of pairs of unit rows (e, f): scaled Procrustes, and ridge regression.

Callers run them inside `one_thread`, so that the same moments give the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.methods.moments import trace_of_unit_rows
from fastrealign.methods.pair_moments import PairMoments
from fastrealign.methods.statistics import SMALLEST_TRACE

# Strengths that ridge chooses from, added to the eigenvalues of the covariance of old rows, which add up to 1 at most.
STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-14, 1))
# A singular value below this share of the largest is rounding: a direction in which the pairs do not vary.
_FLOOR = 1e-10
# A cross-covariance below this is rounding.
_NO_SPREAD = 1e-12


class Solution(NamedTuple):
    """M, float64 (d_new, d_old), the shift, float64 (d_new,), and the strength of a ridge."""

    matrix: np.ndarray
    shift: np.ndarray
    strength: float | None = None


def procrustes(moments: PairMoments) -> Solution:
    """M = k V U^T, of the singular value decomposition U S V^T of the cross-covariance; shift = mean_new - M mean_old.

    V U^T is the rotation that brings old rows nearest to new ones in least squares (Schönemann 1966). Of unequal widths it is
    semi-orthogonal: where rows grow wider, differences of rows keep their angles; where they grow narrower, those directions
    are kept that vary with the new rows. k = trace(S) / trace of the covariance of old rows, the scale of least squares for
    equal widths. Directions in which the pairs do not vary together are sent to zero.
    """
    old, new = moments.means
    u, s, vt = np.linalg.svd(moments.cross, full_matrices=False)
    trace = trace_of_unit_rows(old)
    _check_spread(trace, float(s[0]))
    kept = s > _FLOOR * s[0]
    matrix = (s[kept].sum() / trace) * (vt[kept].T @ u[:, kept].T)
    return Solution(matrix, new - matrix @ old)


def ridge(moments: PairMoments, others: PairMoments) -> Solution:
    """M = C^T (G + strength I)^-1 with the cross-covariance C and the covariance G of old rows; shift as in `procrustes`.

    The strength is the one of STRENGTHS whose map, fitted on `moments`, has the least squared error on `others`; then both are
    fitted on, and `moments` holds both.
    """
    errors = []
    values, vectors, cross = _eigen(moments)
    old, new = moments.means
    there, target = others.means
    for strength in STRENGTHS:
        matrix = _solved(values, vectors, cross, strength)
        # Of the pairs (e, f) of `others`: E|M e + shift - f|^2 without E|f|^2, from their moments about their means.
        bias = matrix @ (there - old) + new - target
        spread = np.sum((matrix @ others.own) * matrix) - 2.0 * np.sum(matrix.T * others.cross)
        errors.append(float(spread + bias @ bias))
    strength = STRENGTHS[int(np.argmin(errors))]
    moments.join(others)
    old, new = moments.means
    matrix = _solved(*_eigen(moments), strength)
    return Solution(matrix, new - matrix @ old, strength)


def _eigen(moments: PairMoments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of G, and C in their frame."""
    own, cross = moments.own, moments.cross
    _check_spread(trace_of_unit_rows(moments.means[0]), float(np.abs(cross).max()))
    values, vectors = np.linalg.eigh(own)
    return np.maximum(values, 0.0), vectors, vectors.T @ cross


def _solved(values: np.ndarray, vectors: np.ndarray, cross: np.ndarray, strength: float) -> np.ndarray:
    return (cross.T / (values + strength)) @ vectors.T


def _check_spread(trace: float, largest: float) -> None:
    if trace < SMALLEST_TRACE or largest < _NO_SPREAD:
        raise InputError(
            "the old rows all point the same way, or do not vary with the new ones: no map can be found from such pairs; are "
            "the pairs matched, row i of old and row i of new of one item?"
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """With BLAS on one thread, where threadpoolctl is installed: LAPACK's last digits depend on their number."""
    try:
        limited = optional("threadpoolctl", "sklearn", "one thread of BLAS").threadpool_limits(1, "blas")
    except InputError:
        limited = nullcontext()
    with limited:
        yield
