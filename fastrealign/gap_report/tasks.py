"""Tasks that users align for: search across the sides, and a classifier trained on the source and tested on the target."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from fastrealign.core.optional import optional

# Rows of a product of matrices at a time.
STEP = 256
RECALLS = (1, 5, 10)


def hits(
    queries: np.ndarray, answers: np.ndarray, selves: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """Whether each query finds its own target row: scores (q,) of 0 to 1.

    queries          (q, d) unit rows, of the source as mapped
    answers, selves  (q,), which row of x belongs to a query, and which row of y is the query itself
    x, y             (n, d) and (m, d) unit rows of both sides, no row twice

    Returns the scores at the ranks RECALLS among the target, and at the last of them among both sides, without the query
    itself. Rows at one cosine share their ranks: a map that makes all rows equal finds nothing.
    """
    alone = np.empty((len(RECALLS), len(queries)))
    both = np.empty(len(queries))
    for lo in range(0, len(queries), STEP):
        here = slice(lo, lo + STEP)
        own = answers[here]
        to_x = np.rint(queries[here] @ x.T * 2.0**40)
        to_y = np.rint(queries[here] @ y.T * 2.0**40)
        at = np.arange(len(own))
        mine = to_x[at, own][:, None]
        to_y[at, selves[here]] = -np.inf
        before, equal = (to_x > mine).sum(axis=1), (to_x == mine).sum(axis=1)
        alone[:, here] = [_found(before, equal, k) for k in RECALLS]
        before, equal = before + (to_y > mine).sum(axis=1), equal + (to_y == mine).sum(axis=1)
        both[here] = _found(before, equal, RECALLS[-1])
    return list(alone), both


def _found(before: np.ndarray, equal: np.ndarray, k: int) -> np.ndarray:
    """How probable it is that one of `equal` rows at ranks after `before` is among the first k."""
    return np.clip((k - before) / equal, 0.0, 1.0)


def fitted_classifier(rows: np.ndarray, classes: np.ndarray) -> Any:
    """Logistic regression on unit rows, with the strength that scikit-learn has by default, as people use it.

    Raises InputError without scikit-learn.
    """
    found = optional("sklearn.linear_model", "sklearn", "a classifier of labels").LogisticRegression(max_iter=1000)
    with warnings.catch_warnings():
        # scikit-learn warns that so many classes look like a regression target; they are classes.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return found.fit(rows, classes)
