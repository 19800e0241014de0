"""Whether an alignment still holds for rows of another time or domain, and how to bring it up to date.

`check` reads a sample of the new rows, as large as the answer needs. `update` merges new rows into the statistics of an
alignment, whose own rows are gone.
"""

from __future__ import annotations

import math
import numbers
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.cluster_sampling import Spread, measure_spread
from fastrealign.data.options import Compute, PassOptions, ReadOptions
from fastrealign.data.pair import open_target
from fastrealign.data.pipeline import reduce_source
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import open_rows
from fastrealign.methods.alignment import Alignment, Sampling
from fastrealign.methods.centroid import exact_centroid
from fastrealign.methods.certified import Bound, Looks
from fastrealign.methods.loading import told_if_swapped
from fastrealign.methods.misfit import TOLERATED, warn_of_encoder
from fastrealign.methods.options import check_sampling, check_tol
from fastrealign.methods.statistics import (
    SideStatistics,
    alignment_of,
    anchored,
    check_differ,
    check_projected,
    check_side,
    check_target,
    read_side,
)


@dataclass(frozen=True)
class Change:
    """What became of one side's statistics, each with its bound at the confidence of the check.

    shift    |mean of the new unit rows - the alignment's mean|
    trace    of the new rows; `trace_change` is relative to the alignment's
    rows     that were read, of `of` rows
    column   the name under which files hold them (column, key, tensor), if they have one
    """

    shift: float
    shift_bound: float
    trace: float
    trace_change: float
    trace_change_bound: float
    rows: int
    of: int
    column: str | None = None


@dataclass(frozen=True)
class Check:
    """What `check` found.

    holds        whether the gap that the alignment leaves on the new rows is at most `tol`
    gap_before   |mean of the new unit rows - mean of the target|
    gap_left     |mean of the new rows, aligned - mean of the target|, which is certain to `bound`
    confidence   with which each bound holds
    source, target   what became of each side; target is None where no new one was given
    """

    holds: bool
    gap_before: float
    gap_left: float
    bound: float
    tol: float
    confidence: float
    source: Change
    target: Change | None

    def to_json(self) -> dict[str, Any]:
        return {"kind": "check", **asdict(self)}

    def __str__(self) -> str:
        verdict = "holds" if self.holds else "does not hold"
        lines = [
            f"the alignment {verdict}: it leaves a gap of {self.gap_left:.3g} +- {self.bound:.2g} on these rows, "
            f"at most {self.tol:.3g} is tolerated",
            f"  gap before     {self.gap_before:.4g}",
        ]
        for name, side in (("source", self.source), ("target", self.target)):
            if side is not None:
                lines.append(
                    f"  {name:<15}centroid moved by {side.shift:.3g} +- {side.shift_bound:.2g}, trace by "
                    f"{side.trace_change:+.2%} +- {side.trace_change_bound:.2%} ({side.rows:,} of {side.of:,} rows read"
                    f"{'' if side.column is None else f' of {side.column!r}'})"
                )
        lines.append(f"  confidence     {self.confidence:.0%}")
        if not self.holds:
            lines.append(
                "  next           fastrealign fit NEW_SOURCE --target NEW_IMAGES --from ALIGNMENT, or fit anew"
            )
        return "\n".join(lines)


@computes
def check(
    alignment: Alignment | str | os.PathLike,
    source: Any,
    target: Any = None,
    *,
    tol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    bad_rows: str = "error",
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
) -> Check:
    """Does the alignment close the gap on new rows? Reads a random sample, larger until the answer is sure.

    alignment     an Alignment, or the path of a saved one
    source        new rows of the source: files, an array or a tensor
    target        new rows of the target; without them, its centroid is taken to be what it was
    tol           the gap that may be left; by default a tenth of the gap that the alignment was fitted to close
    confidence    that the answer, and each bound, is right
    column, target_column   as for `fit`
    Raises InputError for widths that differ, fewer than 2 rows, and sources that cannot be sampled.
    """
    read = ReadOptions(column, target_column, bad_rows)
    check_sampling(confidence, seed)
    with told_if_swapped(alignment, source):
        alignment = Alignment.of(alignment)
    if min(alignment.trace_source, alignment.trace_target) <= 0.0:
        raise InputError("the alignment is of rows that all point the same way, so a spread cannot change; fit anew")
    tol = float(TOLERATED * alignment.gap_before if tol is None else check_tol(tol))
    sources = [side for side in _opened(source, target, read, alignment) if side is not None]
    options = PassOptions(bad_rows, Compute(threads).workers, progress)
    looks = Looks(sources, confidence, seed)
    while True:
        found, bound = _look(looks, alignment, tol, confidence, options)
        away = abs(found.gap_left - tol)
        if looks.whole or found.bound < away:
            return found
        looks.widen(bound, max(away, bound.total / 4.0), at_most=16.0)


def _look(
    looks: Looks, alignment: Alignment, tol: float, confidence: float, options: PassOptions
) -> tuple[Check, Bound]:
    """What the samples tell, and the parts of the bound."""
    sides: list[SideStatistics] = []
    changes: list[Change] = []
    units: list[Spread] = []
    means, traces = (alignment.mean_source, alignment.mean_target), (alignment.trace_source, alignment.trace_target)
    for name, sample, mean, trace in zip(("source", "target"), looks.samples, means, traces, strict=False):
        side = read_side(sample, f"reading the {name}", options)
        if side.count < 2:
            raise InputError(f"{sample.name}: {side.count} rows, expected at least 2 to check an alignment on")
        spread = measure_spread(sample, UNIT, side.mean, f"spread of the {name}", options.later)
        sides.append(side)
        units.append(spread)
        changes.append(_change(side, spread, looks, len(changes), mean, trace))
    mapped = measure_spread(looks.samples[0], alignment.row_map, alignment.mean_source, "gap left", options.later)
    check_projected(looks.samples[0].name, sides[0].count, mapped.rows)
    if len(sides) > 1:
        check_differ(looks.samples[0].name, sides[0], looks.samples[1].name, sides[1])
    mean_target = sides[1].mean if len(sides) > 1 else alignment.mean_target
    gap_left = float(np.linalg.norm(mapped.mean - mean_target))
    bound = looks.bound([mapped, *units[1:]])
    found = Check(
        holds=gap_left <= tol,
        gap_before=float(np.linalg.norm(sides[0].mean - mean_target)),
        gap_left=gap_left,
        bound=bound.total,
        tol=tol,
        confidence=confidence,
        source=changes[0],
        target=changes[1] if len(changes) > 1 else None,
    )
    return found, bound


def _change(side: SideStatistics, spread: Spread, looks: Looks, which: int, mean: np.ndarray, trace: float) -> Change:
    sample, unseen = looks.samples[which], looks.unseen(which, spread)
    sure = 0.0 if sample.whole else looks.quantile(spread.blocks)
    # T = 1 - |mean|^2, so an error e of the mean changes it by 2 mean @ e.
    trace_bound = 2.0 * (sure * math.sqrt(spread.variance_along(sample.share)) + np.linalg.norm(side.mean) * unseen)
    return Change(
        shift=float(np.linalg.norm(side.mean - mean)),
        shift_bound=sure * math.sqrt(spread.variance(sample.share)) + unseen,
        trace=side.trace,
        trace_change=side.trace / trace - 1.0,
        trace_change_bound=float(trace_bound / trace),
        rows=sample.rows,
        of=sample.of,
        column=sample.column,
    )


@computes
def update(
    alignment: Alignment | str | os.PathLike,
    source: Any,
    target: Any = None,
    *,
    forget: float = 0.0,
    bad_rows: str = "error",
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
) -> Alignment:
    """The alignment, brought up to date with new rows of the source, and of the target if they are given.

    forget    0 merges: the old rows count as if they were read again. 0.5 halves their weight; 1 forgets them.
    column, target_column   as for `fit`

    Means and traces are those of all rows together, exactly. The centroid correction needs the old rows mapped by the new s
    and b, and they are gone: they are taken to move, from the old map to the new one, as the new rows do. gap_left is NaN.
    Raises InputError as `fit` does.
    """
    alignment = Alignment.of(alignment)
    if not isinstance(forget, numbers.Real) or not 0.0 <= forget <= 1.0:
        raise InputError(f"forget={forget!r}: expected 0 (merge) to 1 (keep nothing of the old rows)")
    read = ReadOptions(column, target_column, bad_rows)
    options = PassOptions(bad_rows, Compute(threads).workers, progress)
    rows, there = _opened(source, target, read, alignment)
    y = read_side(rows, "reading the source", options)
    check_side(rows.name, y)
    kept = (1.0 - forget) * alignment.count_source
    all_y = _merged(alignment.mean_source, kept, y)
    if there is None:
        all_x, x_rows = SideStatistics(alignment.mean_target, alignment.trace_target, alignment.count_target, 0), 0
    else:
        x = read_side(there, "reading the target", options)
        check_differ(rows.name, y, there.name, x)
        all_x = _merged(alignment.mean_target, (1.0 - forget) * alignment.count_target, x)
        check_target(there.name, all_x)
        x_rows = x.count
    share = kept / (kept + y.count)
    c = _centroid(alignment, rows, anchored(all_y, all_x), all_x.mean, share, options.later)
    sampling = Sampling("updated", y.count, x_rows, all_y.count, all_x.count, None)
    return alignment_of(all_y, all_x, c, alignment.centroid, sampling).named(
        alignment.encoder_source,
        alignment.encoder_target,
        rows.column,
        alignment.column_target if there is None else there.column,
    )


def _merged(mean: np.ndarray, weight: float, new: SideStatistics) -> SideStatistics:
    """The old rows, of this mean and weight, and the new ones together."""
    total = weight + new.count
    together = (weight * mean + new.count * new.mean) / total
    return SideStatistics.around(together, round(total), new.bad)


def _centroid(
    old: Alignment, rows: RowSource, new: RowMap, mean_target: np.ndarray, share: float, options: PassOptions
) -> np.ndarray:
    """c for old rows, `share` of all, and new ones together: old rows move from the old map to the new one as new ones do."""
    sample = Reservoir.of_width(rows.d)
    exact = old.centroid == "exact"
    before, _ = reduce_source(rows, old.row_map if exact else RowMap(old.s, old.b), "as it was", options)
    after, _ = reduce_source(rows, new, "centring", options, sample)
    check_projected(rows.name, before.count, min(before.count, after.count))
    # Where the old map takes the old rows: without c to the target less c, with an exact c to the target.
    was = old.mean_target if exact else old.mean_target - old.c
    paper = mean_target - (after.mean + share * (was - before.mean))
    if not exact:
        return paper
    aim = mean_target - share * (was - before.mean)
    return exact_centroid(rows, RowMap(new.s, new.b, paper), aim, sample.rows(), options)


def _opened(source: Any, target: Any, read: ReadOptions, alignment: Alignment) -> tuple[RowSource, RowSource | None]:
    """The source, and the target if there is one."""
    if target is None and read.target_column is not None:
        raise InputError(
            f"target_column={read.target_column!r} (--target-column) without a target; name the target, or leave the column out"
        )
    rows = open_rows(source, "source", read.column)
    alignment.check_width(rows.d, rows.name)
    warn_of_encoder(alignment, rows)
    if target is None:
        return rows, None
    there = open_target(target, rows, read.column, read.target_column)
    alignment.check_width(there.d, there.name)
    return rows, there
