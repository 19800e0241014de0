"""Metrics of the spectra of covariances; eigenvalues are in descending order, without a unit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.checks import number, whole
from fastrealign.core.errors import InputError
from fastrealign.core.text import brief
from fastrealign.diagnostics.second_moments import FLOOR, Covariance, above, check_widths


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
    >>> from fastrealign.diagnostics import covariance
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> sigma_gap(covariance(rows), covariance(-rows)) < 1e-12
    True
    """
    check_widths(x.d, y.d)
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
    """Effective condition number kappa, over the eigenvalues above a floor (arXiv 2602.07026: above 1e3 in U).

    Parameters
    ----------
    eigenvalues : ndarray
        (d,).
    floor : float
        Eigenvalues up to this share of the largest are left out; 0 to below 1.

    Returns
    -------
    Condition

    Examples
    --------
    >>> import numpy as np
    >>> condition_number(np.array([4.0, 2.0, 1.0, 0.0]))
    Condition(value=4.0, kept=3, of=4, floor=1e-06)
    """
    values = _checked_eigenvalues(eigenvalues)
    floor = number("floor", floor, lambda share: 0.0 <= share < 1.0, "from 0 to below 1, a share of the largest")
    kept = values[above(values, floor)]
    return Condition(float(kept.max() / kept.min()), len(kept), len(values), floor)


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

    Spectra are divided by their trace, so that the curves of several sides have one scale; alpha does not depend on it. Of
    singular values, of which the paper may speak, the exponent is half as large.

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
    values = _checked_eigenvalues(eigenvalues, ordered=True)
    first = whole("first", first, 1)
    last = max(len(values) // 2, first + 1) if last is None else whole("last", last, 2)
    last = min(last, int(np.count_nonzero(above(values, FLOOR))))
    if last <= first:
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
    values = _checked_eigenvalues(eigenvalues)
    values = values[above(values, 0.0)]
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
    x, y = (_checked_eigenvalues(side, ordered=True) for side in (x, y))
    k = int(min(np.count_nonzero(above(x, FLOOR)), np.count_nonzero(above(y, FLOOR))))
    if k < 3:
        raise InputError(f"only {k} eigenvalues are above {FLOOR:g} of the largest on both sides: too few to correlate")
    logs = np.log([x[:k], y[:k]])
    if np.ptp(logs, axis=1).min() < 1e-12:
        raise InputError("all eigenvalues of one side are equal, so there is nothing to correlate")
    return float(np.corrcoef(logs)[0, 1])


def anisotropy(residual: Covariance) -> float:
    """A_r = lambda_max / (trace / d), the anisotropy of the residual of pairs (AnisoAlign, arXiv 2605.07825).

    Parameters
    ----------
    residual : Covariance
        `difference_covariance` of the pairs gives the anisotropy beside the gap; AnisoAlign's own (28.6) is that of the
        residual with its mean, `difference_covariance(x, y).uncentred`.

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


def _checked_eigenvalues(given: object, *, ordered: bool = False) -> np.ndarray:
    """Eigenvalues as float64 (d,). InputError for anything but one list of numbers; ordered: that descend."""
    try:
        if np.asarray(given).dtype.kind == "c":  # a conversion of them to floats drops the imaginary part
            raise TypeError
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"the eigenvalues are {brief(given)}, expected real numbers (d,)") from None
    if values.ndim != 1:
        raise InputError(
            f"the eigenvalues have shape {values.shape}, expected (d,): those of a matrix are its Covariance.eigenvalues, or "
            "numpy.linalg.eigvalsh(matrix)[::-1]"
        )
    if ordered and (np.diff(values) > 1e-9 * np.abs(values).max(initial=0.0)).any():
        raise InputError("the eigenvalues are not in descending order; sort them: numpy.sort(values)[::-1]")
    return values
