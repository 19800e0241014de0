"""The certified fit: on a random sample, just as large as a bound on its error needs.

Blocks are drawn at random from all over both sides, the alignment is fitted on them, and the spread between blocks bounds how
far the centroid of the whole aligned source may lie from that of the whole target. If that is more than `tol`, more are drawn.

What is certified, for the row map f that was fitted on the samples S (of the source Y) and T (of the target X):

    |mean_Y f - mean_X| <= |mean_S f - mean_T| + |mean_S f - mean_Y f| + |mean_T - mean_X|
                           = gap_left            <= bound

`bound` is on the norm of the sum of the last two terms, before absolute values are taken (error_bound.py): from its covariance,
as the differences between the two blocks that are drawn from each stratum tell it (strata.py, cluster_sampling.py), and from
what blocks that were not drawn can hide.

What is assumed: the error is a sum of independent parts, one a stratum, and is normal unless a few strata make up most of it;
where they do, the degrees of freedom are few and the bound is wide. Nothing is assumed of the order of rows or of what differs
between strata. Rows need not be alike either: a part of a source that is unlike all drawn rows, in one place or in many, counts
with as much as it can move the mean m of unit rows, at most p (1 + |m|) for a share p, and the probability that it is missed.

Each look at a larger sample costs confidence: look j may fail with a share 2^-j of the allowed probability, in all no more than
1 - confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.row_map import UNIT
from fastrealign.data.cluster_sampling import BlockSource, Spread, measure_spread
from fastrealign.data.error_bound import ErrorBound
from fastrealign.data.options import PassOptions
from fastrealign.data.pair import name_both
from fastrealign.data.row_source import RowSource
from fastrealign.data.strata import LARGEST_SHARE, Strata
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.fit_options import FitOptions
from fastrealign.methods.full_pass import fit_full
from fastrealign.methods.sampling import Sampling

# Rows of either side that are compared to find copies.
_COMPARED = 64
# How often two samples of the same rows may seem to have a gap. The bound at the confidence of the fit fails more often.
_SEEM_APART = 1e-4


class Looks:
    """Growing samples of one or more sources, and the probability with which a bound may fail at each look.

    wanted: the bound that the first sample should have
    """

    def __init__(self, sources: list[RowSource], wanted: float, confidence: float, seed: int) -> None:
        self._strata = [Strata(source, (seed, i)) for i, source in enumerate(sources)]
        self._shares = [strata.first_share(wanted) for strata in self._strata]
        self._allowed = (1.0 - confidence) / 2.0
        self.samples = self._draw()

    @property
    def whole(self) -> bool:
        return all(sample.whole for sample in self.samples)

    def error(self, spreads: dict[int, Spread], along: np.ndarray | None = None) -> ErrorBound:
        """The error of the mean of a sample, or of the difference of two; `spreads` by the number of their samples.

        along: float64 (d,); of along @ mean instead of the mean
        """
        errors = np.concatenate([spread.errors for spread in spreads.values()])
        reach = max(self._reach(i, spread) for i, spread in spreads.items())
        if along is None:
            return ErrorBound.of(errors, reach)
        return ErrorBound.of((errors @ along)[:, None], reach * _norm(along))

    def bound(self, error: ErrorBound, allowed: float = 1.0) -> float:
        """What an error is at most, with the confidence that is left for this look, or with a failure rate of `allowed`."""
        return error.at(min(allowed, self._allowed))

    def widen(self, spreads: dict[int, Spread], wanted: float, at_most: float = math.inf) -> None:
        """Draw as many more blocks as are predicted to bring the bound to 0.9 of `wanted`, from where they are worth most.

        One side grows 1.5 to `at_most` times.
        """
        self._allowed /= 2.0
        error = self.error(spreads)
        sides = [
            _Side(strata, share, float(np.square(spread.errors).sum()), self._reach(i, spread))
            for (i, spread), strata, share in zip(spreads.items(), self._strata, self._shares, strict=True)
        ]
        while any(side.errs for side in sides):
            grown = max(side.growth for side in sides)
            if grown >= at_most or (grown >= 1.5 and _predicted(error, sides, self._allowed) <= 0.9 * wanted):
                break
            max(sides, key=lambda side: side.worth).growth *= 1.1
        self._shares = [share * side.growth for share, side in zip(self._shares, sides, strict=True)]
        self.samples = self._draw()

    def _reach(self, which: int, spread: Spread) -> float:
        """How far a part that the draw misses moves the mean of a sample (`ErrorBound.reach`)."""
        return self.samples[which].rarity * min(2.0, 1.0 + _norm(spread.mean))

    def _draw(self) -> list[BlockSource]:
        return [strata.draw(share) for strata, share in zip(self._strata, self._shares, strict=True)]


@dataclass
class _Side:
    """A sample of `share` of the rows, and what is predicted of it if it grows.

    variance, reach   of the error of its mean, now
    """

    strata: Strata
    share: float
    variance: float
    reach: float
    growth: float = 1.0

    @property
    def errs(self) -> bool:
        """Whether it will not be read whole."""
        return self.share * self.growth <= LARGEST_SHARE

    @property
    def later(self) -> tuple[float, float]:
        """The variance and the reach after it has grown."""
        if not self.errs:
            return 0.0, 0.0
        size = self.strata.block_bytes(self.share * self.growth) / self.strata.block_bytes(self.share)
        return self.variance / self.growth, self.reach * size / self.growth

    @property
    def worth(self) -> float:
        """How much of the squared bound is its own, for each byte that is read."""
        variance, reach = self.later
        return (variance + (2.0 * reach) ** 2) / (self.share * self.growth * self.strata.nbytes)


def _predicted(error: ErrorBound, sides: list[_Side], allowed: float) -> float:
    """The bound after the sides have grown."""
    variances, reaches = zip(*(side.later for side in sides), strict=True)
    return error.at(allowed, _ratio(sum(variances), float(error.variances.sum())), _ratio(max(reaches), error.reach))


def _ratio(later: float, now: float) -> float:
    return later / now if now > 0.0 else 1.0


def _norm(vector: np.ndarray) -> float:
    return float(np.linalg.norm(vector))


def _check_differ(source: RowSource, target: RowSource) -> None:
    """InputError where both sides are copies of the same rows: their samples would differ, so `check_differ` would pass."""
    if source.rows is not None and source.rows == target.rows and source.d == target.d:
        ours, theirs = source.pilot(_COMPARED), target.pilot(_COMPARED)
        if ours.dtype == theirs.dtype and np.array_equal(ours, theirs):
            raise InputError(f"source and target hold the same rows: {source.name} and {target.name}; {name_both()}")


def fit_certified(source: RowSource, target: RowSource, fit: FitOptions, tol: float, options: PassOptions) -> Alignment:
    """Fit on samples until the bound is at most `tol`. Raises InputError for sources that cannot be sampled."""
    _check_differ(source, target)
    looks = Looks([source, target], tol, fit.confidence, fit.seed)
    while True:
        y, x = looks.samples
        alignment = fit_full(y, x, fit.centroid, options)
        of_y = measure_spread(y, alignment.row_map, "spread of the source", options.later)
        of_x = measure_spread(x, UNIT, "spread of the target", options.later)
        spreads = {0: of_y, 1: of_x}
        error = looks.error(spreads)
        bound = looks.bound(error)
        if bound <= tol:
            break
        looks.widen(spreads, tol)
    if alignment.gap_before <= (chance := looks.bound(error, _SEEM_APART)):
        warn(
            f"{source.name}: the gap before, {alignment.gap_before:.2g}, may be chance: samples of this size of the same rows "
            f"differ by up to {chance:.2g}; choose a smaller tol; are source and target different rows?"
        )
    return replace(
        alignment,
        gap_left=_norm(of_y.mean - of_x.mean),
        sampling=Sampling(
            how="certified",
            rows_source=y.rows,
            rows_target=x.rows,
            of_source=source.rows,
            of_target=target.rows,
            error=math.sqrt(error.variances.sum()),
            bound=bound,
            confidence=fit.confidence,
            seed=fit.seed,
        ),
    )
