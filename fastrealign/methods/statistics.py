"""The statistics of one side of a fit, and what they must be for the fit to mean anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.formatting import count
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.pair import name_both
from fastrealign.data.reduction import reduce_source
from fastrealign.data.row_source import RowSource
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.moments import trace_of_unit_rows
from fastrealign.methods.sampling import Sampling

if TYPE_CHECKING:
    from fastrealign.diagnostics.second_moments import Covariance

# Below this trace the rows are one direction and rounding noise: sums are exact to 2^-41 an entry.
SMALLEST_TRACE = 1e-9
# Below this length a mean is that of rows which were centred.
NO_CENTROID = 1e-9


@dataclass(frozen=True)
class SideStatistics:
    """Of one side: float64 mean (d,) of its unit rows, trace, number of rows, rows left out."""

    mean: np.ndarray
    trace: float
    count: int
    bad: int

    @classmethod
    def around(cls, mean: np.ndarray, count: int, bad: int) -> SideStatistics:
        """Of unit rows with this mean."""
        return cls(mean, trace_of_unit_rows(mean), count, bad)

    @classmethod
    def of(cls, sums: ExactSum, bad: int) -> SideStatistics:
        """From the sums of unit rows."""
        return cls.around(sums.mean, sums.count, bad)


class Known(NamedTuple):
    """What a fit need not read: the statistics of its source and of its target, checked already, and the covariance of its
    target; None to read it."""

    source: SideStatistics | None = None
    target: SideStatistics | None = None
    covariance: Covariance | None = None


NOTHING = Known()


def scale_and_shift(source: SideStatistics, target: SideStatistics) -> tuple[float, np.ndarray]:
    """s and b of the row map: the trace scaled, the mean shifted (arXiv 2602.07026, anchor and trace)."""
    s = float(np.sqrt(target.trace / source.trace))
    return s, target.mean - s * source.mean


def anchored(source: SideStatistics, target: SideStatistics) -> RowMap:
    """The row map of `scale_and_shift`."""
    return RowMap(*scale_and_shift(source, target))


def alignment_of(
    source: SideStatistics, target: SideStatistics, c: np.ndarray, centroid: str, sampling: Sampling | None = None
) -> Alignment:
    """The alignment that these statistics and this centroid correction make; gap_left is NaN."""
    s, b = scale_and_shift(source, target)
    return Alignment(
        s=s,
        b=b,
        c=c,
        mean_source=source.mean,
        mean_target=target.mean,
        trace_source=source.trace,
        trace_target=target.trace,
        count_source=source.count,
        count_target=target.count,
        gap_before=float(np.linalg.norm(target.mean - source.mean)),
        centroid=centroid,
        sampling=sampling,
    )


def read_side(source: RowSource, phase: str, options: PassOptions) -> SideStatistics:
    """One pass over a source for its mean and trace."""
    sums, this = reduce_source(source, UNIT, phase, options)
    return SideStatistics.of(sums, this.bad)


def source_side(source: RowSource, options: PassOptions, known: Known) -> SideStatistics:
    """The statistics of the source of a fit, read and checked where they are not known."""
    if known.source is not None:
        return known.source
    found = read_side(source, "reading the source", options)
    check_side(source.name, found)
    return found


def target_side(target: RowSource, options: PassOptions, known: Known) -> SideStatistics:
    """The same of the target."""
    if known.target is not None:
        return known.target
    found = read_side(target, "reading the target", options)
    check_target(target.name, found)
    return found


def check_widths(source: RowSource, target: RowSource) -> None:
    if source.d != target.d:
        raise InputError(
            f"{source.name}: rows are {source.d} wide, those of {target.name} {target.d}; "
            "source and target must come from the same encoder pair"
        )


def check_side(name: str, side: SideStatistics) -> None:
    """InputError where there is nothing to fit to; a warning where the mean is uncertain."""
    if side.count < 2:
        left_out = f" ({side.bad} without a direction left out)" if side.bad else ""
        raise InputError(f"{name}: {count(side.count, 'row')}{left_out}, expected at least 2 to fit a mean and a trace")
    if side.trace < SMALLEST_TRACE:
        raise InputError(
            f"{name}: all {side.count} rows point the same way (trace {side.trace:.1e}), so there is no spread to scale; "
            "are these different embeddings?"
        )
    d = len(side.mean)
    if side.count < d:
        warn(
            f"{name}: {side.count} rows for a width of {d}; the mean is uncertain by about "
            f"{np.sqrt(side.trace / side.count):.2g} (sqrt(trace/rows)), aim for 10,000 rows or more"
        )


def check_target(name: str, side: SideStatistics) -> None:
    """The same for the side that rows move to, which needs a centroid."""
    check_side(name, side)
    warn_of_no_centroid(name, side)


def warn_of_no_centroid(name: str, side: SideStatistics) -> None:
    """A warning where there is no centroid to move to."""
    if np.linalg.norm(side.mean) < NO_CENTROID:
        warn(
            f"{name}: the mean of the unit rows is zero, so it has no direction to move rows to; were they centred already?"
        )


def check_differ(source: str, y: SideStatistics, target: str, x: SideStatistics) -> None:
    """InputError where both sides have one mean to the last bit, as exact sums of the same rows do in any order."""
    if np.linalg.norm(x.mean) >= NO_CENTROID and np.array_equal(y.mean, x.mean):
        raise InputError(
            f"source and target hold the same rows: those of {source} and of {target} have one mean to the last bit, "
            f"and no gap between them; {name_both()}"
        )


def check_projected(name: str, before: int, after: int) -> None:
    if after == 0:
        raise InputError(
            f"{name}: the map sends all {before} rows to zero; source and target are opposite in every way"
        )
