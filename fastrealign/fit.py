"""fit: from a source and a target to an Alignment, in as many passes over the rows as the method needs.

    target   one pass    mean and trace
    source   one pass    mean and trace                                   -> s, b
    source   one pass    mean of the projected rows e' = pi(s pi(y) + b)  -> c as in the paper
    source   some more   only for centroid="exact"                        -> the c that leaves no gap
    source   one pass    the gap that is left (`apply` to files measures it while it writes)

Every mean is an exact sum (exact.py), so the result does not depend on chunks, order, threads or machine count.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastrealign import ops, reference
from fastrealign.alignment import Alignment
from fastrealign.errors import InputError
from fastrealign.ops import UNIT, RowMap
from fastrealign.pipeline import check_bad_rows, reduce_source
from fastrealign.progress import SILENT, Progress
from fastrealign.sources import RowSource, open_rows

CENTROIDS = ("paper", "exact")

# Below this trace the rows are one direction and rounding noise: sums are exact to 2^-41 an entry.
SMALLEST_TRACE = 1e-9
# Rows that the Jacobian of the exact centroid is estimated from.
SAMPLE_ROWS = 4096
# |F(c)| at which the exact centroid is found, and how many passes it may take. Converging slower means that the sums'
# own rounding has been reached.
EXACT_GAP = 1e-13
EXACT_PASSES = 24


class FitWarning(UserWarning):
    """The fit is valid, but its statistics are weak."""


@dataclass(frozen=True)
class Side:
    """Statistics of one side: float64 mean (d,), trace, number of rows, rows left out."""

    mean: np.ndarray
    trace: float
    count: int
    bad: int


def fit(
    source: Any,
    target: Any,
    *,
    centroid: str = "paper",
    bad_rows: str = "error",
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    encoder_source: str | None = None,
    encoder_target: str | None = None,
) -> Alignment:
    """Find the alignment that moves `source` (text) to `target` (images), ReAlign of arXiv 2602.07026.

    source, target   (rows, width) arrays or tensors of float16, bfloat16, float32 or float64; paths, globs, folders or lists
                     of paths of .npy, .parquet or reference-script pickles; or iterables of chunks that can be read again
    centroid         "paper" translates once, as published; "exact" solves for the translation that leaves no gap
    bad_rows         rows with NaN, Inf or only zeros: "error" raises BadRowsError naming the first, "skip" and "keep" leave
                     them out of the statistics
    column           the parquet column that holds the embeddings, where it cannot be told
    Raises InputError for widths that differ, fewer than 2 rows, or a side whose rows are all one direction. Warns (FitWarning)
    of fewer rows than the width, stating the expected error of the centroid, and of a target without a centroid.
    """
    rows = open_rows(source, "source", column)
    alignment, _ = fit_sides(
        rows,
        open_rows(target, "target", column),
        centroid=centroid,
        bad_rows=bad_rows,
        threads=threads,
        progress=progress,
    )
    left, _ = reduce_source(
        rows,
        alignment.row_map,
        "measuring the gap left",
        bad_rows=_lenient(bad_rows),
        threads=threads,
        progress=progress,
    )
    gap_left = float(np.linalg.norm(left.mean - alignment.mean_target))
    return replace(alignment, gap_left=gap_left, encoder_source=encoder_source, encoder_target=encoder_target)


def fit_sides(
    source: RowSource,
    target: RowSource,
    *,
    centroid: str = "paper",
    bad_rows: str = "error",
    threads: int | None = None,
    progress: Progress = SILENT,
) -> tuple[Alignment, tuple[Side, Side]]:
    """`fit` on opened sources, without the last pass: the alignment's gap_left is NaN. Also the statistics of both sides."""
    if centroid not in CENTROIDS:
        raise InputError(f"centroid={centroid!r}: expected one of {', '.join(CENTROIDS)}")
    check_bad_rows(bad_rows)
    if source.d != target.d:
        raise InputError(
            f"{source.name}: rows are {source.d} wide, those of {target.name} {target.d}; "
            "source and target must come from the same encoder pair"
        )
    options = {"threads": threads, "progress": progress}
    x = _statistics(target, "reading the target", bad_rows, **options)
    y = _statistics(source, "reading the source", bad_rows, **options)
    _check(target.name, x)
    _check(source.name, y)
    if np.linalg.norm(x.mean) < 1e-9:
        warnings.warn(
            f"{target.name}: the mean of the unit rows is zero, so there is no centroid to move to; were they centred already?",
            FitWarning,
            stacklevel=3,
        )
    s = float(np.sqrt(x.trace / y.trace))
    b = x.mean - s * y.mean
    sample = _Sample(source.rows) if centroid == "exact" else None
    projected, _ = reduce_source(
        source, RowMap(s, b), "centring", bad_rows=_lenient(bad_rows), look=sample and sample.look, **options
    )
    _check_rows_mapped(source.name, y.count, projected.count, bad_rows)
    c = x.mean - projected.mean
    if sample is not None:
        c = _exact_centroid(source, RowMap(s, b, c), x.mean, sample, bad_rows, **options)
    alignment = Alignment(
        s=s,
        b=b,
        c=c,
        mean_source=y.mean,
        mean_target=x.mean,
        trace_source=y.trace,
        trace_target=x.trace,
        count_source=y.count,
        count_target=x.count,
        gap_before=float(np.linalg.norm(x.mean - y.mean)),
        centroid=centroid,
    )
    return alignment, (y, x)


def _lenient(bad_rows: str) -> str:
    """After the first pass bad rows are known and reported; later passes leave the same ones out."""
    return "error" if bad_rows == "error" else "skip"


def _statistics(source: RowSource, phase: str, bad_rows: str, threads: int | None, progress: Progress) -> Side:
    sums, this = reduce_source(source, UNIT, phase, bad_rows=bad_rows, threads=threads, progress=progress)
    mean = sums.mean
    # For unit rows E|e - mean|^2 = 1 - |mean|^2, exactly.
    return Side(mean, max(0.0, 1.0 - float(mean @ mean)), sums.count, this.bad)


def _check(name: str, side: Side) -> None:
    if side.count < 2:
        left_out = f" ({side.bad} without a direction left out)" if side.bad else ""
        raise InputError(f"{name}: {side.count} rows{left_out}, expected at least 2 to fit a mean and a trace")
    if side.trace < SMALLEST_TRACE:
        raise InputError(
            f"{name}: all {side.count} rows point the same way (trace {side.trace:.1e}), so there is no spread to scale; "
            "are these different embeddings?"
        )
    d = len(side.mean)
    if side.count < d:
        warnings.warn(
            f"{name}: {side.count} rows for a width of {d}; the centroid is uncertain by about "
            f"{np.sqrt(side.trace / side.count):.2g} (sqrt(trace/rows)), aim for 10,000 rows or more",
            FitWarning,
            stacklevel=4,
        )


def _check_rows_mapped(name: str, before: int, after: int, bad_rows: str) -> None:
    if after == 0:
        raise InputError(
            f"{name}: the map sends all {before} rows to zero; source and target are opposite in every way"
        )


class _Sample:
    """Every k-th row of the source, some SAMPLE_ROWS of them, as they are seen during a pass."""

    def __init__(self, rows: int | None) -> None:
        self._every = max(1, -(-(rows or 1) // SAMPLE_ROWS))
        self._taken: list[tuple[int, np.ndarray]] = []

    def look(self, first: int, rows: np.ndarray) -> None:
        taken = rows[-first % self._every :: self._every]
        taken = taken.double().cpu().numpy() if ops.is_tensor(taken) else taken.astype(np.float64)
        good = np.isfinite(taken).all(axis=1) & taken.any(axis=1)
        self._taken.append((first, taken[good]))

    def rows(self) -> np.ndarray:
        # In the order of the source, whichever thread came first: what is computed from them must not depend on it.
        return np.concatenate([rows for _, rows in sorted(self._taken, key=lambda taken: taken[0])])


def _exact_centroid(
    source: RowSource,
    start: RowMap,
    mean_target: np.ndarray,
    sample: _Sample,
    bad_rows: str,
    threads: int | None,
    progress: Progress,
) -> np.ndarray:
    """The c that solves F(c) = E[pi(e' + c)] - mean_target = 0.

    Newton's method with the Jacobian E[(I - p p^T)/|e' + c|] of a sample, which each pass betters by what it has seen
    (Broyden's update); F itself is exact, over all rows.
    """
    c = start.c
    projected = reference.row_map(sample.rows(), start.s, start.b) + c
    norm = np.linalg.norm(projected, axis=1)
    p = projected / norm[:, None]
    jacobian = np.mean(1.0 / norm) * np.eye(len(c)) - (p / norm[:, None]).T @ p / len(p)
    inverse = np.linalg.pinv(jacobian, hermitian=True)

    def left_by(c: np.ndarray) -> np.ndarray:
        sums, _ = reduce_source(
            source,
            RowMap(start.s, start.b, c),
            "exact centroid",
            bad_rows=_lenient(bad_rows),
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
        warnings.warn(
            f"{source.name}: the exact centroid was not reached, a gap of {best_gap:.1e} is left after {EXACT_PASSES} passes",
            FitWarning,
            stacklevel=4,
        )
    return best
