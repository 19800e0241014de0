"""The fit of a source that is read once: a pilot, exact sums of the rows mapped by the pilot's map, and a sample.

The centroid correction needs the mean of the rows projected by (s, b), which are known only after the source was read. So a few
rows, the pilot, give a first (s0, b0). One pass adds up the unit rows, from which (s, b) follow, and the rows mapped by the
pilot; a sample of rows then estimates how the mean differs between the two maps (a control variate):

    mean f(.; s, b) ~ mean over all rows of f(.; s0, b0) + mean over the sample of f(.; s, b) - f(.; s0, b0)

The difference is small and alike for all rows, so a few thousand rows estimate it well; its spread gives the standard error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core import ops, reference
from fastrealign.core.bad_rows import GOOD
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.reduction import reduce_maps
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import ArraySource
from fastrealign.methods.centroid import exact_centroid, few_digits
from fastrealign.methods.statistics import SMALLEST_TRACE, SideStatistics, anchored, check_projected, check_side

# Rows of the sample that are mapped at a time.
_BLOCK = 512
# Rows of the pilot.
PILOT_ROWS = 4096


@dataclass(frozen=True)
class OnePass:
    """What one pass over a source found.

    side    its statistics
    c       the centroid correction, float64 (d,)
    error   standard error of the mean of the aligned rows (Euclidean norm); 0 where the sample is the whole source
    """

    side: SideStatistics
    c: np.ndarray
    error: float


def fit_one_pass(source: RowSource, target: SideStatistics, centroid: str, options: PassOptions) -> OnePass:
    """s, b and c of a source that is read once; s and b follow from `side`. Raises InputError as `fit` does."""
    pilot, sample = _pilot_map(source, target, centroid), Reservoir.of_width(source.d)
    (unit, mapped), this = reduce_maps(source, (UNIT, pilot), "reading the source", options, sample)
    side = SideStatistics.of(unit, this.bad)
    check_side(source.name, side)
    check_projected(source.name, side.count, mapped.count)
    final = anchored(side, target)
    rows, whole = _good(_good(sample.rows(), pilot), final), sample.whole
    del sample  # another copy of the rows
    if not len(rows):
        raise InputError(
            "no row of the sample has a direction under the map; source and target are opposite in every way"
        )
    if centroid == "paper":
        difference, spread = _difference(rows, final, pilot)
        c = target.mean - (mapped.mean + difference)
    else:
        # On the sample, the mean that leaves no gap over all rows.
        aim = target.mean - mapped.mean + _mean(rows, pilot)
        start = RowMap(final.s, final.b, target.mean - _mean(rows, final))
        c = exact_centroid(ArraySource(rows, "the sample"), start, aim, rows, PassOptions("skip"))
        _, spread = _difference(rows, RowMap(final.s, final.b, c), pilot)
    error = 0.0 if whole else float(np.sqrt(spread / len(rows) * (1.0 - len(rows) / side.count)))
    return OnePass(side, c, error)


def _pilot_map(source: RowSource, target: SideStatistics, centroid: str) -> RowMap:
    rows = _good(source.pilot(PILOT_ROWS), UNIT)
    sums = ExactSum(source.d)
    ops.reduce(rows, UNIT, sums)
    pilot = SideStatistics.of(sums, 0)
    s = float(np.sqrt(target.trace / pilot.trace)) if pilot.count and pilot.trace > SMALLEST_TRACE else 1.0
    b = target.mean - s * pilot.mean if pilot.count else target.mean
    if centroid == "paper" or not pilot.count:
        return RowMap(s, b)
    projected = _mapped(_good(rows, RowMap(s, b)), RowMap(s, b))
    start = target.mean - projected.mean(axis=0)
    return RowMap(s, b, few_digits(reference.exact_centroid(projected, target.mean, start, steps=4)))


def _difference(rows: np.ndarray, a: RowMap, b: RowMap) -> tuple[np.ndarray, float]:
    """Mean of f(row; a) - f(row; b), float64 (d,), and its variance, summed over the columns."""
    total, squares = np.zeros(rows.shape[1]), 0.0
    memory = np.empty((2, min(_BLOCK, len(rows)), rows.shape[1]))
    for lo in range(0, len(rows), _BLOCK):
        block = rows[lo : lo + _BLOCK]
        difference, other = memory[:, : len(block)]
        ops.apply(block, a, difference)
        ops.apply(block, b, other)
        difference -= other
        total += difference.sum(axis=0)
        squares += float(np.square(difference, out=other).sum())
    mean = total / len(rows)
    return mean, max(0.0, squares - len(rows) * float((mean * mean).sum())) / max(1, len(rows) - 1)


def _mean(rows: np.ndarray, row_map: RowMap) -> np.ndarray:
    sums = ExactSum(rows.shape[1])
    ops.reduce(rows, row_map, sums)
    return sums.mean


def _good(rows: np.ndarray, row_map: RowMap) -> np.ndarray:
    """Those that have a direction under the map."""
    flags = np.empty(len(rows), dtype=np.uint8)
    ops.reduce(rows, row_map, ExactSum(rows.shape[1]), flags=flags)
    return rows if (flags == GOOD).all() else rows[flags == GOOD]


def _mapped(rows: np.ndarray, row_map: RowMap) -> np.ndarray:
    """float64 (n, d)."""
    out = np.empty(rows.shape)
    ops.apply(rows, row_map, out)
    return out
