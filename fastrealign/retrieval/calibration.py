"""Calibration of the cosines of one modality pair: a monotone map, fitted on scores of that pair, stored as plain arrays.

    none        the cosine
    z-score     (c - mean) / deviation of the scores of random pairs
    quantile    the share of scores of random pairs below c
    isotonic    the probability that a pair of cosine c is relevant: a step-like curve that never falls
    logistic    the same as 1 / (1 + exp(-(slope c + intercept))): Platt's, two numbers

z-score and quantile need scores of random query-document pairs; isotonic and logistic need labelled pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.retrieval.array_arguments import array_of

UNLABELLED = ("none", "z-score", "quantile")
LABELLED = ("isotonic", "logistic")
SCORE_METHODS = (*UNLABELLED, *LABELLED)
FORMS = ("linear", "sigmoid", "knots")
# A cosine beyond 1 by more than this is no rounding, not even of float16 rows.
ROUNDING = 2e-3
# Knots of a stored distribution: evenly spaced by rank, and from each end on, the first ones all of them.
_EVEN, _ENDS = 1024, 512


@dataclass(frozen=True, eq=False)
class Calibration:
    """A monotone map of cosines: `form` says how `values` is read.

    linear and sigmoid: slope and intercept (2,); knots: cosines and their values (2, k), linear between, constant beyond.
    """

    form: str
    values: np.ndarray

    def __call__(self, cosines: np.ndarray) -> np.ndarray:
        """Of any shape, float64."""
        if self.form == "knots":
            return np.interp(cosines, self.values[0], self.values[1])
        scaled = self.values[0] * cosines + self.values[1]
        return scaled if self.form == "linear" else 0.5 * (1.0 + np.tanh(0.5 * scaled))


def checked_cosines(cosines: Any) -> np.ndarray:
    """As float64. InputError for a NaN, another type, or a value that no cosine has; within rounding, clipped."""
    found = array_of(cosines, "cosines", "f").astype(np.float64)
    bad = ~(np.abs(found) <= 1.0 + ROUNDING)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        where = f"entry {', '.join(map(str, at))} is " if at else ""
        raise InputError(
            f"cosines: {where}{found[at]:.6g}, expected -1 to 1; take them of unit rows, such as those of a fitted map"
        )
    return found.clip(-1.0, 1.0)


def fit_background(method: str, scores: np.ndarray) -> Calibration:
    """Of scores (n,) of random pairs."""
    if method == "none":
        return Calibration("linear", np.array([1.0, 0.0]))
    deviation = float(scores.std())
    if not deviation > 1e-9:
        raise InputError(f"all {len(scores):,} scores of random pairs are equal: nothing to calibrate on")
    if method == "z-score":
        return Calibration("linear", np.array([1.0 / deviation, -float(scores.mean()) / deviation]))
    return Calibration("knots", _distribution(np.sort(scores)))


def _distribution(ordered: np.ndarray) -> np.ndarray:
    """Knots of the empirical distribution: equal scores share the mean of their ranks; 0 at cosine -1, 1 at cosine 1.

    Between the largest score and 1 (and the smallest and -1) it is linear, so that it rises everywhere.
    """
    n = len(ordered)
    ends = np.unique(np.concatenate([np.arange(min(n, _ENDS)), np.geomspace(1, n, _ENDS).astype(int) - 1]))
    ranks = np.unique(np.concatenate([np.linspace(0, n - 1, _EVEN).astype(int), ends, n - 1 - ends]))
    at = np.unique(ordered[ranks])
    low, high = (np.searchsorted(ordered, at, side) for side in ("left", "right"))
    share = (low + high) / (2.0 * n)
    inside = (at > -1.0) & (at < 1.0)
    return np.stack([np.r_[-1.0, at[inside], 1.0], np.r_[0.0, share[inside], 1.0]])


def fit_labelled(method: str, scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> Calibration:
    """Of scores (n,), whether each pair is relevant, and how many pairs of the collection each stands for."""
    fit = _isotonic if method == "isotonic" else _logistic
    found = fit(scores, relevant.astype(np.float64), weights)
    ends = found(np.array([scores.min(), scores.max()]))
    if not ends[1] > ends[0]:
        raise InputError(
            "relevant pairs do not score above others: are the rows of one encoder pair, and the labels theirs?"
        )
    return found


def _isotonic(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> Calibration:
    model = optional("sklearn.isotonic", "sklearn", "isotonic calibration").IsotonicRegression(out_of_bounds="clip")
    model.fit(scores, relevant, weights)
    return Calibration("knots", np.stack([model.X_thresholds_, model.y_thresholds_]).astype(np.float64))


def _logistic(scores: np.ndarray, relevant: np.ndarray, weights: np.ndarray) -> Calibration:
    library = optional("sklearn.linear_model", "sklearn", "logistic calibration")
    # On scores of deviation 1; a penalty this weak only keeps the slope finite where a threshold separates the classes.
    middle, deviation = float(np.average(scores, weights=weights)), float(scores.std()) or 1.0
    model = library.LogisticRegression(C=1e4, tol=1e-8, max_iter=1000)
    model.fit(((scores - middle) / deviation)[:, None], relevant, weights)
    slope = float(model.coef_[0, 0]) / deviation
    return Calibration("sigmoid", np.array([slope, float(model.intercept_[0]) - slope * middle]))
