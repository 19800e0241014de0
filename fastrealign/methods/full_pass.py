"""The full-pass fit: on every row, in as many passes as it takes.

    target   one pass    mean and trace
    source   one pass    mean and trace                                   -> s, b
    source   one pass    mean of the projected rows e' = pi(s pi(y) + b)  -> c as in the paper
    source   some more   only for centroid="exact"                        -> the c that leaves no gap
    source   one pass    the gap that is left (`apply` to files measures it while it writes)

Every mean is an exact sum (core/exact_sum.py), so the result does not depend on chunks, their order, threads or the number of
machines. A source that is read once is fitted in one pass (one_pass.py), and its centroid correction is an estimate.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastrealign.data.options import PassOptions
from fastrealign.data.reduction import reduce_source
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.row_source import RowSource
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.centroid import exact_centroid
from fastrealign.methods.one_pass import fit_one_pass
from fastrealign.methods.sampling import Sampling
from fastrealign.methods.statistics import (
    NOTHING,
    Known,
    SideStatistics,
    alignment_of,
    anchored,
    check_differ,
    check_projected,
    source_side,
    target_side,
)


def fit_full(
    source: RowSource,
    target: RowSource,
    centroid: str,
    options: PassOptions,
    one_pass: bool | None = None,
    known: Known = NOTHING,
) -> Alignment:
    """`fit` on opened sources, without the last pass: the alignment's gap_left is NaN."""
    x = target_side(target, options, known)
    if one_pass or (one_pass is None and not source.again):
        found = fit_one_pass(source, x, centroid, options)
        check_differ(source.name, found.side, target.name, x)
        rows = found.side.count
        sampling = Sampling("one pass", rows, x.count, rows, x.count, found.error)
        return alignment_of(found.side, x, found.c, centroid, sampling)
    y = source_side(source, options, known)
    check_differ(source.name, y, target.name, x)
    return alignment_of(y, x, _correction(source, y, x, centroid, options.later), centroid)


def _correction(
    source: RowSource, y: SideStatistics, x: SideStatistics, centroid: str, options: PassOptions
) -> np.ndarray:
    """c, from every row of the source."""
    start = anchored(y, x)
    sample = Reservoir.of_width(source.d) if centroid == "exact" else None
    projected, _ = reduce_source(source, start, "centring", options, sample)
    check_projected(source.name, y.count, projected.count)
    c = x.mean - projected.mean
    return c if sample is None else exact_centroid(source, replace(start, c=c), x.mean, sample.rows(), options)
