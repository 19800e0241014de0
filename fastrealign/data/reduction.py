"""Exact sums of mapped rows over a whole source: one pass, and the ranks of a process group together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.pipeline import Pass, Work
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.row_source import Piece, RowSource
from fastrealign.data.workers import Device, Host


def reduce_source(
    source: RowSource, row_map: RowMap, phase: str, options: PassOptions | None = None, sample: Reservoir | None = None
) -> tuple[ExactSum, Pass]:
    """The exact sums of f(row) over a whole source, and the pass that made them (its counts of good and bad rows).

    `sample` sees the rows too. Of a source that is shared between ranks, all of this is over the rows of every rank.
    """
    (sums,), this = reduce_maps(source, [row_map], phase, options, sample)
    return sums, this


def reduce_maps(
    source: RowSource,
    maps: Sequence[RowMap],
    phase: str,
    options: PassOptions | None = None,
    sample: Reservoir | None = None,
) -> tuple[list[ExactSum], Pass]:
    """What `reduce_source` finds for each of several maps, in one pass; bad rows are those of the first map."""
    if sample is not None and source.rows:
        sample.foresee(source.rows)
    totals = [ExactSum(source.d) for _ in maps]
    parts: list[list[ExactSum]] = []

    def make_work(place: Host | Device) -> Work:
        part = [ExactSum(source.d) for _ in maps]
        parts.append(part)

        def work(piece: Piece, lo: int, rows: np.ndarray, kernel_threads: int) -> Counts:
            if sample is not None:
                sample.look(piece.first - piece.lo + lo, rows)
            return place.reduce(rows, maps, part, kernel_threads)

        return work

    ranks = source.ranks
    this = Pass(source, phase, options)
    with ranks.fail_together():
        this.run(make_work)
        source.check_unchanged()
    for part in parts:
        for total, sums in zip(totals, part, strict=True):
            total.add(sums)
    for total in totals:
        ranks.all_reduce(total)
    this.good, this.bad = (sum(counts) for counts in zip(*ranks.all_gather((this.good, this.bad)), strict=True))
    if sample is not None:
        sample.join(ranks.all_gather(sample.held))
    return totals, this
