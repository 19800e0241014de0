"""A bound on the norm of a mean's error, from vectors that estimate its covariance and from what the sample may have missed.

The error of a stratified mean is a sum of many small independent parts, so it is taken to be normal. The square of its norm is
then a sum of chi-squares, each times a variance, and a chi-square with the same first three moments has nearly the same upper
quantiles (Imhof, Biometrika 48, 1961): where the error has many directions these are little above the mean. The covariance is
an estimate; if few strata make up most of it, F takes the place of chi-square, with the degrees of freedom that Satterthwaite's
formula finds in the strata's squares. That holds for heavy tails too: a stratum that stands out leaves few degrees of freedom.

What was not drawn is not in the covariance: blocks unlike all drawn ones, such as a run of empty captions. A part of the source
that is missed with a probability of exp(-x) moves the mean by at most x * reach, in any direction. The bound is the largest,
over all x, of what the error exceeds with the rest of the allowed probability if such a part was missed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Parts that may have been missed, from none to the largest that the allowed probability leaves.
_STEPS = 33
# Points of the distribution function of F.
_POINTS = 20_001
# So many degrees of freedom are as good as any number of them.
_MANY = 1e4


@dataclass(frozen=True)
class ErrorBound:
    """What is known of the error of a mean.

    variances   along the axes of the error
    freedom     degrees of freedom of their estimate
    reach       how far a part that is missed with a probability of exp(-x) can move the mean, divided by x
    """

    variances: np.ndarray
    freedom: float
    reach: float

    @classmethod
    def of(cls, errors: np.ndarray, reach: float) -> ErrorBound:
        """From vectors (n, d), the sum of whose outer products estimates the covariance."""
        gram = errors @ errors.T if len(errors) < errors.shape[1] else errors.T @ errors
        squares = np.square(errors).sum(axis=1)
        total = squares.sum()
        freedom = total**2 / np.square(squares).sum() if total > 0.0 else 1.0
        return cls(np.maximum(0.0, np.linalg.eigvalsh(gram)) if total > 0.0 else np.zeros(1), freedom, reach)

    def at(self, allowed: float, variance: float = 1.0, reach: float = 1.0) -> float:
        """What the norm of the error exceeds with a probability of at most `allowed`.

        variance, reach: factors of the variances and of the reach, to predict it for another sample
        """
        missed = np.linspace(0.0, -math.log(allowed), _STEPS)
        left = np.minimum(1.0, allowed * np.exp(missed))
        moved = missed * self.reach * reach
        variances = self.variances * variance
        total, squares, cubes = (float((variances**i).sum()) for i in (1, 2, 3))
        square = moved**2
        if total > 0.0:
            terms = max(1.0, squares**3 / cubes**2)
            quantile = terms * _quantile(left, terms, _MANY)
            inflated = np.maximum(1.0, terms * _quantile(left, terms, self.freedom) / quantile)
            # |error + moved|^2 has the mean total + moved^2, and at most the variance 2 squares + 4 moved^2 max(variances).
            width = np.sqrt((squares + 2.0 * square * variances.max()) / terms)
            rest = total + width * (quantile - terms)
            square = square + np.where(rest > 0.0, inflated, 1.0) * rest
        return _rounded_up(math.sqrt(max(0.0, float(square.max()))))


def _quantile(exceeded: np.ndarray, terms: float, freedom: float) -> np.ndarray:
    """What F with so many degrees of freedom exceeds with these probabilities.

    freedom / (freedom + terms F) has a beta distribution; as the square of the sine of an angle its density has no poles.
    """
    at = np.linspace(0.0, 1.0, _POINTS)[1:-1]
    angle = math.pi / 2.0 * at**2 * (3.0 - 2.0 * at)  # denser at both ends, for tails and for many degrees of freedom
    log_density = (freedom - 1.0) * np.log(np.sin(angle)) + (terms - 1.0) * np.log(np.cos(angle)) + np.log(at - at**2)
    density = np.exp(log_density - log_density.max())
    below = np.cumsum(density) - density / 2.0
    return freedom / terms / np.tan(np.interp(exceeded, below / density.sum(), angle)) ** 2


def _rounded_up(value: float) -> float:
    """To four digits: further ones may differ with the linear algebra, and so between machines."""
    digits = 10.0 ** (3 - math.floor(math.log10(value))) if value > 0.0 else 1.0
    return math.ceil(value * digits) / digits
