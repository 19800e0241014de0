"""The exact centroid: the c of the row map that leaves no gap at all, solved over all rows of a source.

Sums over rows are exact, so the result has the same bits for any number of threads and workers, if no other step depends on
these. Linear algebra does: the last digits of a product depend on how a library divides it between threads. Its results are
therefore rounded to far fewer digits, which costs no accuracy, since they only decide where to search next.
"""

from __future__ import annotations

import numpy as np

from fastrealign.core import reference
from fastrealign.core.errors import warn
from fastrealign.core.row_map import RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.reduction import reduce_source
from fastrealign.data.row_source import RowSource

# The search ends at this |F(c)|, or after so many passes.
EXACT_GAP = 1e-13
EXACT_PASSES = 24
# |F(c)| up to which the Jacobian at one point is good enough.
FAR = 0.01


def exact_centroid(
    source: RowSource, start: RowMap, mean_target: np.ndarray, sample: np.ndarray, options: PassOptions
) -> np.ndarray:
    """The c that solves F(c) = E[pi(e' + c)] - mean_target = 0; `start` has s, b and a c to begin with.

    Newton's method with the Jacobian E[(I - p p^T)/|e' + c|] of a sample, which each pass improves by Broyden's
    update; F itself is exact, over all rows. sample: rows of the source, (n, d).
    """
    projected = reference.row_map(sample, start.s, start.b)

    def left_by(c: np.ndarray) -> np.ndarray:
        sums, _ = reduce_source(source, RowMap(start.s, start.b, c), "exact centroid", options)
        return sums.mean - mean_target

    c = np.zeros(source.d) if start.c is None else start.c
    left = left_by(c)
    gap = float(np.linalg.norm(left))
    if gap > FAR:
        # Too far for one Jacobian: solve on the sample, for a mean shifted by the difference between sample and all rows.
        c = few_digits(reference.exact_centroid(projected, reference.project(projected + c).mean(axis=0) - left, c))
        left = left_by(c)
        gap = float(np.linalg.norm(left))
    inverse = few_digits(_inverse_jacobian(projected + c))
    shorter = 1.0
    for _ in range(EXACT_PASSES):
        if gap <= EXACT_GAP:
            break
        step = -shorter * (inverse * left).sum(axis=1)
        after = left_by(c + step)
        gap_after = float(np.linalg.norm(after))
        if min(gap, gap_after) < 1e-11 and gap_after > 0.5 * gap:
            if gap_after < gap:
                c, gap = c + step, gap_after
            break
        change = after - left
        seen = (inverse * change).sum(axis=1)
        scale = float((step * seen).sum())
        if abs(scale) > 0.0:
            inverse += np.outer(step - seen, (step[:, None] * inverse).sum(axis=0)) / scale
        if gap_after < gap:
            c, left, gap, shorter = c + step, after, gap_after, 1.0
        else:
            shorter *= 0.25  # F is the gradient of a convex function: short enough a step makes it smaller
    if gap > 1e-9:
        warn(
            f"{source.name}: the exact centroid was not reached, a gap of {gap:.1e} is left after {EXACT_PASSES} passes"
        )
    return c


def _inverse_jacobian(v: np.ndarray) -> np.ndarray:
    """Pseudo-inverse of the Jacobian of E[pi(v)] with respect to a shift of v; v float64 (n, d)."""
    norm = np.linalg.norm(v, axis=1)
    p = v / norm[:, None]
    jacobian = np.mean(1.0 / norm) * np.eye(v.shape[1]) - (p / norm[:, None]).T @ p / len(p)
    return np.linalg.pinv(jacobian, hermitian=True)


def few_digits(a: np.ndarray) -> np.ndarray:
    """Entries rounded to 14 bits below the largest, so that results that differ only in their last bits become equal."""
    largest = np.abs(a).max(initial=0.0)
    if not largest > 0.0:
        return a
    step = 2.0 ** (np.frexp(largest)[1] - 14)
    return np.rint(a / step) * step
