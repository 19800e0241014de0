"""Two subspaces compared: the angles between them, and how much they share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.diagnostics.second_moments import Covariance, check_widths


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Principal angles between two subspaces.

    Small angles are computed from their sines, which are exact where cosines are not (Björck and Golub, 1973). The largest
    one is theta_max of arXiv 2602.07026 for a = U_t and b = U.

    Parameters
    ----------
    a, b : ndarray
        float64 (d, p) and (d, q), orthonormal columns that span the subspaces.

    Returns
    -------
    ndarray
        float64 (min(p, q),), in radians, ascending.

    Raises
    ------
    InputError
        Columns that are not orthonormal, or of different lengths.

    Examples
    --------
    >>> import numpy as np
    >>> principal_angles(np.eye(3)[:, :2], np.eye(3)[:, 1:]).round(3)
    array([0.   , 1.571])
    """
    a, b = _basis(a), _basis(b)
    check_widths(len(a), len(b))
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosines = np.linalg.svd(a.T @ b, compute_uv=False)
    sines = np.linalg.svd(b - a @ (a.T @ b), compute_uv=False)[::-1]
    small = cosines**2 > 0.5
    return np.where(small, np.arcsin(np.minimum(sines, 1.0)), np.arccos(np.minimum(cosines, 1.0)))


def _basis(columns: np.ndarray) -> np.ndarray:
    found = np.asarray(columns)
    if found.ndim != 2 or found.dtype.kind != "f" or not 0 < found.shape[1] <= len(found):
        raise InputError(f"a basis of shape {found.shape} ({found.dtype}): expected floats (d, q), q columns, 1 to d")
    if not np.abs(found.T @ found - np.eye(found.shape[1])).max() < 1e-6:
        raise InputError("the columns of a basis are not orthonormal; numpy.linalg.qr(columns)[0] makes them so")
    return found


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
    check_widths(x.d, y.d)
    rank = min(x.rank, y.rank)
    q = whole("q", q, 1, rank, why="the lesser rank of both sides")
    product = x.eigenvectors[:, :q].T @ y.eigenvectors[:, :q]
    return Overlap(float(np.sum(product**2) / q), q / x.d, q)
