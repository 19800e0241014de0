"""The exact centroid: the c of the row map that leaves no gap at all, solved over all rows of a source."""

from __future__ import annotations

import numpy as np

from fastrealign import reference
from fastrealign.errors import warn
from fastrealign.ops import RowMap
from fastrealign.pipeline import lenient, reduce_source
from fastrealign.progress import Progress
from fastrealign.sources import RowSource

# |F(c)| at which the exact centroid is found, and how many passes it may take. Converging slower means that the sums'
# own rounding has been reached.
EXACT_GAP = 1e-13
EXACT_PASSES = 24


def exact_centroid(
    source: RowSource,
    start: RowMap,
    mean_target: np.ndarray,
    sample: np.ndarray,
    bad_rows: str,
    threads: int | None,
    progress: Progress,
) -> np.ndarray:
    """The c that solves F(c) = E[pi(e' + c)] - mean_target = 0.

    Newton's method with the Jacobian E[(I - p p^T)/|e' + c|] of a sample, which each pass betters by what it has seen
    (Broyden's update); F itself is exact, over all rows. sample: rows of the source, float64 (n, d).
    """
    c = start.c
    projected = reference.row_map(sample, start.s, start.b) + c
    norm = np.linalg.norm(projected, axis=1)
    p = projected / norm[:, None]
    jacobian = np.mean(1.0 / norm) * np.eye(len(c)) - (p / norm[:, None]).T @ p / len(p)
    inverse = np.linalg.pinv(jacobian, hermitian=True)

    def left_by(c: np.ndarray) -> np.ndarray:
        sums, _ = reduce_source(
            source,
            RowMap(start.s, start.b, c),
            "exact centroid",
            bad_rows=lenient(bad_rows),
            threads=threads,
            progress=progress,
        )
        return sums.mean - mean_target

    left = left_by(c)
    best, best_gap = c, float(np.linalg.norm(left))
    for _ in range(EXACT_PASSES):
        if best_gap <= EXACT_GAP:
            break
        step = -inverse @ left
        c = c + step
        after = left_by(c)
        gap = float(np.linalg.norm(after))
        if gap < best_gap:
            slow = gap > 0.5 * best_gap
            best, best_gap = c, gap
            if slow and gap < 1e-11:
                break
        elif best_gap < 1e-11:
            break
        change = after - left
        seen = inverse @ change
        scale = float(step @ seen)
        if abs(scale) > 0.0:
            inverse += np.outer(step - seen, step @ inverse) / scale
        left = after
    if best_gap > 1e-9:
        warn(
            f"{source.name}: the exact centroid was not reached, a gap of {best_gap:.1e} is left after {EXACT_PASSES} passes"
        )
    return best
