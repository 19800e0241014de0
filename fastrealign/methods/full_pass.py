"""The fit on every row, in as many passes as the method needs.

    target   one pass    mean and trace
    source   one pass    mean and trace                                   -> s, b
    source   one pass    mean of the projected rows e' = pi(s pi(y) + b)  -> c as in the paper
    source   some more   only for centroid="exact"                        -> the c that leaves no gap
    source   one pass    the gap that is left (`apply` to files measures it while it writes)

Every mean is an exact sum (exact.py), so the result does not depend on chunks, order, threads or machine count. A source that
is read once takes one pass in all (onepass.py), and its centroid correction is an estimate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.pipeline import check_bad_rows, lenient, reduce_source
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.sources import RowSource
from fastrealign.data.workers import Workers
from fastrealign.methods.alignment import Alignment, Sampling
from fastrealign.methods.centroid import exact_centroid
from fastrealign.methods.one_pass import fit_one_pass
from fastrealign.methods.statistics import (
    Side,
    alignment_of,
    anchored,
    check_differ,
    check_projected,
    check_side,
    check_target,
    check_widths,
    read_side,
)

CENTROIDS = ("paper", "exact")


def fit_sides(
    source: RowSource,
    target: RowSource,
    *,
    centroid: str = "paper",
    bad_rows: str = "error",
    one_pass: bool | None = None,
    threads: int | Workers | None = None,
    progress: Progress = SILENT,
) -> Alignment:
    """`fit` on opened sources, without the last pass: the alignment's gap_left is NaN."""
    check_options(centroid, bad_rows)
    check_widths(source, target)
    options = {"threads": threads, "progress": progress}
    x = read_side(target, "reading the target", bad_rows, **options)
    check_target(target.name, x)
    if one_pass or (one_pass is None and not source.again):
        y, c, sampling = _in_one_pass(source, x, centroid, bad_rows, **options)
        check_differ(source.name, y, target.name, x)
    else:
        y, c, sampling = *_in_passes(source, x, target.name, centroid, bad_rows, **options), None
    return alignment_of(y, x, c, centroid, sampling=sampling)


def check_options(centroid: str, bad_rows: str) -> None:
    if centroid not in CENTROIDS:
        raise InputError(f"centroid={centroid!r}: expected one of {', '.join(CENTROIDS)}")
    check_bad_rows(bad_rows)


def _in_passes(
    source: RowSource, x: Side, target_name: str, centroid: str, bad_rows: str, **options: Any
) -> tuple[Side, np.ndarray]:
    """Statistics of the source and the centroid correction, both of every row."""
    y = read_side(source, "reading the source", bad_rows, **options)
    check_side(source.name, y)
    check_differ(source.name, y, target_name, x)
    start = anchored(y, x)
    sample = Reservoir.of_width(source.d) if centroid == "exact" else None
    projected, _ = reduce_source(source, start, "centring", bad_rows=lenient(bad_rows), sample=sample, **options)
    check_projected(source.name, y.count, projected.count)
    c = x.mean - projected.mean
    if sample is not None:
        c = exact_centroid(source, replace(start, c=c), x.mean, sample.rows(), bad_rows, **options)
    return y, c


def _in_one_pass(
    source: RowSource, x: Side, centroid: str, bad_rows: str, **options: Any
) -> tuple[Side, np.ndarray, Sampling]:
    found = fit_one_pass(source, x, centroid, bad_rows, **options)
    rows = found.side.count
    return found.side, found.c, Sampling("one pass", rows, x.count, rows, x.count, found.error)
