"""The fit of a source that is read once: a pilot, exact sums of the rows mapped by the pilot's map, and a sample.

The centroid correction needs the mean of the rows projected by (s, b), and these need all of the source. So a few rows, the
pilot, give an (s0, b0) to begin with. One pass adds up the unit rows, from which (s, b) follow, and the rows mapped by the
pilot; a sample of rows then tells how the mean differs between the two maps (a control variate):

    mean f(.; s, b) ~ mean over all rows of f(.; s0, b0) + mean over the sample of f(.; s, b) - f(.; s0, b0)

The difference is small and alike for all rows, so a few thousand rows tell it well; its spread gives the standard error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign import ops, reference
from fastrealign.errors import InputError
from fastrealign.exact import ExactSum
from fastrealign.ops import UNIT, Counts, RowMap
from fastrealign.pipeline import Pass, Work
from fastrealign.progress import Progress
from fastrealign.reservoir import Reservoir
from fastrealign.sides import SMALLEST_TRACE, Side, check_projected, check_side
from fastrealign.sources import Piece, RowSource

# Rows that the pilot's map is made from.
PILOT_ROWS = 8192


@dataclass(frozen=True)
class OnePass:
    """What one pass over a source found.

    side    its statistics
    c       the centroid correction, float64 (d,)
    error   standard error of the centroid of the aligned rows (Euclidean norm); 0 where the sample is the whole source
    """

    side: Side
    c: np.ndarray
    error: float


def fit_one_pass(
    source: RowSource, target: Side, centroid: str, bad_rows: str, threads: int | None, progress: Progress
) -> OnePass:
    """s, b and c of a source that is read once; s and b follow from `side`. Raises InputError as `fit` does."""
    pilot = _pilot_map(source, target, centroid)
    unit, mapped, sample = ExactSum(source.d), ExactSum(source.d), Reservoir.of_width(source.d)
    parts: list[tuple[ExactSum, ExactSum]] = []

    def make_work() -> Work:
        part = ExactSum(source.d), ExactSum(source.d)
        parts.append(part)

        def work(piece: Piece, lo: int, rows: np.ndarray, kernel_threads: int) -> Counts:
            sample.look(piece.first - piece.lo + lo, rows)
            counts = ops.reduce(rows, UNIT, part[0], threads=kernel_threads)
            ops.reduce(rows, pilot, part[1], threads=kernel_threads)  # from the cache
            return counts

        return work

    this = Pass(source, "reading the source", bad_rows=bad_rows, threads=threads, progress=progress)
    this.run(make_work)
    for part in parts:
        unit.add(part[0])
        mapped.add(part[1])
    side = Side.of(unit, this.bad)
    check_side(source.name, side)
    check_projected(source.name, side.count, mapped.count)
    return _corrected(side, target, centroid, pilot, mapped, sample)


def _pilot_map(source: RowSource, target: Side, centroid: str) -> RowMap:
    rows = np.asarray(source.pilot(PILOT_ROWS), dtype=np.float64)
    rows = rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]
    mean, trace = reference.moments(rows) if len(rows) else (np.zeros(source.d), 0.0)
    s = float(np.sqrt(target.trace / trace)) if trace > SMALLEST_TRACE else 1.0
    b = target.mean - s * mean
    if centroid == "paper":
        return RowMap(s, b)
    projected = reference.row_map(rows, s, b)
    return RowMap(s, b, reference.exact_centroid(projected, target.mean, target.mean - projected.mean(axis=0), steps=4))


def _corrected(side: Side, target: Side, centroid: str, pilot: RowMap, mapped: ExactSum, sample: Reservoir) -> OnePass:
    s = float(np.sqrt(target.trace / side.trace))
    b = target.mean - s * side.mean
    rows = sample.rows()
    good = [reference.has_direction(rows, *map) == ops.GOOD for map in ((pilot.s, pilot.b, pilot.c), (s, b))]
    rows = rows[good[0] & good[1]]
    if not len(rows):
        raise InputError(
            "no row of the sample has a direction under the map; source and target are opposite in every way"
        )
    before = reference.row_map(rows, pilot.s, pilot.b, pilot.c)
    after = reference.row_map(rows, s, b)
    if centroid == "paper":
        c = target.mean - (mapped.mean + (after - before).mean(axis=0))
    else:
        # On the sample, the mean that leaves no gap over all rows.
        aim = target.mean - mapped.mean + before.mean(axis=0)
        c = reference.exact_centroid(after, aim, pilot.c)
        after = reference.project(after + c)
    spread = (after - before).var(axis=0, ddof=1).sum() if len(rows) > 1 else 0.0
    error = 0.0 if sample.whole else float(np.sqrt(spread / len(rows) * (1.0 - len(rows) / side.count)))
    return OnePass(side, c, error)
