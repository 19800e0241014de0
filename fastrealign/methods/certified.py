"""The certified fit: on a random sample, just as large as a bound on its error needs.

Blocks are drawn at random from all over both sides, the alignment is fitted on them, and the spread between blocks bounds how
far the centroid of the whole aligned source may lie from that of the whole target. If that is more than `tol`, more are drawn.

What is certified, for the row map f that was fitted on the samples S (of the source Y) and T (of the target X):

    |mean_Y f - mean_X| <= |mean_S f - mean_T| + |mean_S f - mean_Y f| + |mean_T - mean_X|
                           = gap_left            <= bound

`bound` has two parts, each of which may fail with half of the allowed probability.

- The spread between the drawn blocks. The errors of the two means are independent; their variances, between blocks and with
  the correction for drawing without replacement, add. At the confidences that matter, the norm of an error with given variances
  is largest where all of it lies in one direction, so Student's t of a single number bounds it.
- Blocks unlike all drawn ones (a run of empty captions, another language), which the spread does not show. At the wanted
  confidence they hold at most a share p of the rows (`Blocks.unseen`), and can move the mean m of unit rows by at most
  p (1 + |m|).

Each look at a larger sample costs confidence: look j may fail with a share 1 / (j (j + 1)) of the allowed probability, in all
no more than 1 - confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.row_map import UNIT
from fastrealign.data.cluster_sampling import Blocks, BlockSource, Spread, measure_spread, quantile
from fastrealign.data.options import PassOptions
from fastrealign.data.pair import NAME_BOTH
from fastrealign.data.row_source import RowSource
from fastrealign.methods.alignment import Alignment, Sampling
from fastrealign.methods.fit_options import FitOptions
from fastrealign.methods.full_pass import fit_sides

# Blocks of a side in the first sample: fewer do not suffice to estimate the spread between them.
FEWEST_BLOCKS = 64
# Share of a side from which on reading all of it in order is as fast as reading blocks.
LARGEST_SHARE = 0.5
# Rows of either side that are compared to find copies.
_COMPARED = 64


@dataclass(frozen=True)
class Bound:
    """The two parts of a bound: from the spread between drawn blocks, and from blocks that were not drawn."""

    seen: float
    unseen: float

    @property
    def total(self) -> float:
        return self.seen + self.unseen

    def growth(self, wanted: float) -> float:
        """The factor by which more blocks bring the total to `wanted`: `seen` falls as 1 / √n, `unseen` as 1 / n."""
        return ((self.seen + math.sqrt(self.seen**2 + 4.0 * wanted * self.unseen)) / (2.0 * wanted)) ** 2


class Looks:
    """Growing samples of one or more sources, and the confidence that each look costs."""

    def __init__(self, sources: list[RowSource], confidence: float, seed: int) -> None:
        self.samples: list[BlockSource] = []
        self._blocks = [Blocks(source, seed + i) for i, source in enumerate(sources)]
        self._wanted = float(FEWEST_BLOCKS)
        self._confidence = confidence
        self._looks = 0
        self._draw()

    @property
    def whole(self) -> bool:
        return all(sample.whole for sample in self.samples)

    def bound(self, spreads: list[Spread]) -> Bound:
        """How far, at most, the difference of the means of all samples is from that of their sources."""
        sampled = [i for i, sample in enumerate(self.samples) if not sample.whole]
        if not sampled:
            return Bound(0.0, 0.0)
        variance = sum(spreads[i].variance(self.samples[i].share) for i in sampled)
        seen = math.sqrt(variance) * self.quantile(min(spreads[i].blocks for i in sampled))
        return Bound(seen, sum(self.unseen(i, spreads[i], len(sampled)) for i in sampled))

    def quantile(self, blocks: int) -> float:
        """The quantile of Student's t at this look, for the spread between so many blocks."""
        return quantile(1.0 - self._allowed, max(1, blocks - 1))

    def unseen(self, which: int, spread: Spread, sampled: int = 1) -> float:
        """How far blocks of which none was drawn can move the mean of one of `sampled` sources; 0 if all were drawn."""
        if self.samples[which].whole:
            return 0.0
        share = self._blocks[which].unseen(self.samples[which].blocks, self._allowed / sampled)
        return share * min(2.0, 1.0 + float(np.linalg.norm(spread.mean)))

    def widen(self, bound: Bound, wanted: float, at_most: float = math.inf) -> None:
        """Draw a fifth more blocks than are predicted to bring `bound` to `wanted`; at least 1.5 times as many as before."""
        self._wanted *= min(at_most, max(1.5, 1.2 * bound.growth(wanted)))
        self._draw()

    @property
    def _allowed(self) -> float:
        """The probability with which each part of a bound may fail at this look."""
        return (1.0 - self._confidence) / (2 * self._looks * (self._looks + 1))

    def _draw(self) -> None:
        self._looks += 1
        self.samples = []
        for blocks in self._blocks:
            count = math.ceil(self._wanted)
            self.samples.append(blocks.draw(blocks.count if count > LARGEST_SHARE * blocks.count else count))


def _check_differ(source: RowSource, target: RowSource) -> None:
    """InputError where both sides are copies of the same rows: their samples would differ, so `check_differ` would pass."""
    if source.rows is not None and source.rows == target.rows and source.d == target.d:
        ours, theirs = source.pilot(_COMPARED), target.pilot(_COMPARED)
        if ours.dtype == theirs.dtype and np.array_equal(ours, theirs):
            raise InputError(f"source and target hold the same rows: {source.name} and {target.name}; {NAME_BOTH}")


def fit_certified(source: RowSource, target: RowSource, fit: FitOptions, tol: float, options: PassOptions) -> Alignment:
    """Fit on samples until the bound is at most `tol`. Raises InputError for sources that cannot be sampled."""
    _check_differ(source, target)
    looks = Looks([source, target], fit.confidence, fit.seed)
    while True:
        y, x = looks.samples
        alignment = fit_sides(y, x, fit.centroid, options)
        of_y = measure_spread(y, alignment.row_map, alignment.mean_source, "spread of the source", options.later)
        of_x = measure_spread(x, UNIT, alignment.mean_target, "spread of the target", options.later)
        bound = looks.bound([of_y, of_x])
        if bound.total <= tol:
            break
        looks.widen(bound, tol)
    if alignment.gap_before <= bound.total:
        warn(
            f"{source.name}: the gap before, {alignment.gap_before:.2g}, is no larger than what this sample leaves open, "
            f"{bound.total:.2g}: choose a smaller tol; are source and target different rows?"
        )
    return replace(
        alignment,
        gap_left=float(np.linalg.norm(of_y.mean - alignment.mean_target)),
        sampling=Sampling(
            how="certified",
            rows_source=y.rows,
            rows_target=x.rows,
            of_source=source.rows,
            of_target=target.rows,
            error=math.sqrt(of_y.variance(y.share) + of_x.variance(x.share)),
            bound=bound.total,
            confidence=fit.confidence,
            seed=fit.seed,
        ),
    )
