"""`update`: new rows merged into the statistics of an alignment, without its old rows."""

from __future__ import annotations

import os

import numpy as np

from fastrealign.core.checks import number
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.row_map import RowMap
from fastrealign.core.wording import either
from fastrealign.data.options import Compute, PassOptions, ReadOptions, documented
from fastrealign.data.reduction import reduce_source
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.alignment_argument import alignment_for
from fastrealign.methods.centroid import exact_centroid
from fastrealign.methods.misfit import open_new, warn_of_update_at_target
from fastrealign.methods.sampling import Generation, Sampling, weights
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


@computes
@documented(ReadOptions, Compute)
def update(
    alignment: Alignment | str | os.PathLike,
    source: RowsLike,
    target: RowsLike = None,
    *,
    decay: float = 1.0,
    bad_rows: str = "error",
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
) -> Alignment:
    """Bring an alignment up to date with new rows of the source, and of the target if they are given.

    Means are weighted ones: a new row has the weight 1, and every update multiplies the weights of all earlier rows by its
    decay. The sums of the new rows are exact and merged with the old mean in float64, entry by entry, so the same file, rows
    and decay give the same bits. With decay 1 the means are those of a fit on all rows together, but for rounding (1e-16 an
    update). A trace is 1 - |mean|^2. The centroid correction needs the old rows mapped by the new s and b, which are gone:
    they are assumed to move, from the old map to the new one, as the new rows do. gap_left is NaN.

    Parameters
    ----------
    alignment : Alignment or path
        An alignment, or the path of a saved one.
    source, target
        New rows, as for `fastrealign.fit`.
    decay : float, default 1
        Factor of the weight of the old rows, above 0 and at most 1: 1 merges, as if they were read again; 0.5 halves their
        weight, and that of a row k updates ago is 0.5^k. Updates of n rows each come to a weight of n / (1 - decay). A side
        without new rows stays as it is.
    {ReadOptions}
    {Compute}
    progress : Progress
        Called as the passes advance; by default nothing is shown.

    Returns
    -------
    Alignment

    Raises
    ------
    InputError
        As `fastrealign.fit` does.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text, images = rng.standard_normal((500, 8)) + 1.0, rng.standard_normal((500, 8)) - 1.0
    >>> fr.update(fr.fit(text, images), rng.standard_normal((100, 8)) + 1.1).count_source
    600
    """
    one_role = "fastrealign.Roles.load(path)[{role!r}]"
    alignment = alignment_for(alignment, "an update", either(f"what {one_role}.save(file) writes", one_role))
    which = "above 0, at most 1 (old rows keep their weight); to keep nothing, fit the new rows"
    decay = number("decay", decay, lambda decay: 0.0 < decay <= 1.0, which)
    read = ReadOptions(column, target_column, bad_rows)
    options = PassOptions(bad_rows, Compute(threads).workers, progress)
    rows, there = open_new(source, target, read, alignment)
    y = read_side(rows, "reading the source", options)
    check_side(rows.name, y)
    past = _generations(alignment)
    kept_y, kept_x = (decay * weight for weight in weights(past))
    all_y = _merged(alignment.mean_source, kept_y, y)
    if there is None:
        all_x, x_rows = SideStatistics(alignment.mean_target, alignment.trace_target, alignment.count_target, 0), 0
    else:
        x = read_side(there, "reading the target", options)
        check_differ(rows.name, y, there.name, x)
        all_x = _merged(alignment.mean_target, kept_x, x)
        check_target(there.name, all_x)
        x_rows = x.count
    warn_of_update_at_target(alignment, y.mean, all_x.mean, rows.name)
    share = kept_y / (kept_y + y.count)
    c = _centroid(alignment, rows, anchored(all_y, all_x), all_x.mean, share, options.later)
    generations = (*past, Generation(y.count, x_rows, decay))
    sampling = Sampling("updated", y.count, x_rows, all_y.count, all_x.count, None, generations=generations)
    encoders = alignment.encoder_source, alignment.encoder_target
    columns = rows.column, alignment.column_target if there is None else there.column
    return alignment_of(all_y, all_x, c, alignment.centroid, sampling).named(encoders, columns)


def _generations(alignment: Alignment) -> tuple[Generation, ...]:
    """Those of an updated alignment; of any other, the fit itself."""
    known = () if alignment.sampling is None else alignment.sampling.generations
    return known or (Generation(alignment.count_source, alignment.count_target, 1.0),)


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
    # The mean of the old rows under the old map: mean_target - c without c, mean_target with an exact c.
    was = old.mean_target if exact else old.mean_target - old.c
    paper = mean_target - (after.mean + share * (was - before.mean))
    if not exact:
        return paper
    aim = mean_target - share * (was - before.mean)
    return exact_centroid(rows, RowMap(new.s, new.b, paper), aim, sample.rows(), options)
