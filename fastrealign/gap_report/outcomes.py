"""Outcomes: the figures by which methods are judged, each compared with doing nothing by its interval.

Scores are of rows: the share of a row's neighbours that are on the other side, 1 or 0 for a row found or classified right. The
same rows are scored for every method, so a difference between two methods has the standard error of the differences of their
scores. All differences from "none" that a report states hold together with CONFIDENCE (Bonferroni); so "better" is said of a
method that does nothing in one report of twenty, at most.

The gap has no scores. Whether it is more than chance is tested by Dempster's approximation: under one mean, |m_x - m_y|^2 is
about g chi2(h), with the mean and the variance that the covariances give, A = S_x/n + S_y/m: g h = tr A, 2 g^2 h = 2 tr A^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import NormalDist

import numpy as np

from fastrealign.diagnostics import Covariance

CONFIDENCE = 0.95
ACCURACY, MIXING, GAP, KEPT = "accuracy", "mixing", "gap", "kept"
# Recall among the target alone, and among both sides in one index.
SEARCH = ("recall@1", "recall@5", "recall@10", "one_index_recall@10")
# Scores hold for one fit of the method (and of the classifier) and one pool of rows, which vary, too. Over fresh draws of all
# rows the variance is about so many times that of the scores (tests/unit/gap_report/test_outcomes.py measures it).
WIDER = {ACCURACY: 2.0, **dict.fromkeys(SEARCH, 2.0), KEPT: 4.0}
# Fewer things than this say nothing of others: shares are then known to 1.
LEAST = 3
# In the order of the page: what users align for first.
NAMES = (ACCURACY, *SEARCH, MIXING, GAP, KEPT)

# The scores of one method: of each group of rows its weight and the score of each row; weights add up to 1.
Scores = Sequence[tuple[float, np.ndarray]]


@dataclass(frozen=True)
class Compared:
    """A figure of one method, with its 95 % interval, and its difference from doing nothing.

    Attributes
    ----------
    value, margin : float
        The interval is value ± margin, for other rows like these.
    change, change_margin : float
        value less that of "none". The intervals of all changes of a report together hold with 95 % confidence. 0 for "none".
    """

    value: float
    margin: float
    change: float = 0.0
    change_margin: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """A figure by which methods are judged: each is compared with doing nothing, on the same rows.

    Attributes
    ----------
    name : str
        One of NAMES.
    n : int
        Rows that it was measured on: of both sides (mixing), queries (search), or test rows (classifier). Copies count
        as one.
    methods : dict of Compared
        By name of the method; "none" is the first.
    best : tuple of str
        The methods better than doing nothing that are not worse than another by more than chance; empty where none is.
    lower : bool
        Whether lower is better.
    limit : float or None
        The highest value that there can be, where scores have limits; where "none" reaches it, nothing is better.
    """

    name: str
    n: int
    methods: dict[str, Compared]
    best: tuple[str, ...] = ()
    lower: bool = False
    limit: float | None = None

    @property
    def full(self) -> bool:
        """Whether doing nothing reaches the limit, so that there is nothing to gain."""
        none = self.methods["none"]
        return self.limit is not None and none.value + none.margin >= self.limit

    def better(self, method: str) -> bool | None:
        """True: better than doing nothing; False: worse; None: neither better nor worse, as far as these rows show."""
        of = self.methods[method]
        if abs(of.change) <= of.change_margin:
            return None
        if self.full:
            return None if of.change > 0 else False
        return (of.change < 0) == self.lower


@dataclass(frozen=True)
class Means:
    """Whether the two means differ by more than chance.

    Attributes
    ----------
    apart : bool
        The gap is too large for two samples of one distribution.
    margin : float
        The 95 % interval of the gap is gap ± margin.
    chance : float
        The gap of two such samples of one distribution (root mean square): a fit leaves about that on new rows.
    """

    apart: bool
    margin: float
    chance: float


@dataclass(frozen=True)
class Search:
    """How search was measured: `queries` source rows, each for its own among `pool` target rows, no two of them equal.

    sources: how many source rows there are beside these in one index, without the query itself; no two of them equal, too
    """

    queries: int
    pool: int
    sources: int


@dataclass(frozen=True)
class Classes:
    """How the classifier was measured.

    Attributes
    ----------
    names : tuple of str
        The classes that both sides have.
    train, test : int
        Source rows it was trained on, and target rows it was tested on.
    own : float
        Its accuracy when it is trained on other target rows: what no method can be expected to exceed.
    most : float
        The share of the most frequent class among the test rows.
    """

    names: tuple[str, ...]
    train: int
    test: int
    own: float
    most: float


def outcome(name: str, scores: dict[str, Scores], tests: int, *, limits: Sequence[float] | None = None) -> Outcome:
    """The outcome of these scores by method, "none" among them; higher is better, up to the limits.

    tests   how many differences the report states
    limits  of each group, the mean of its scores if the sides did not differ. What is beyond counts as missing, in each group
            by itself: noise moves source rows away from each other, so that target rows are nearer to them than other source
            rows, but they are no nearer to target rows, and the mean of both sides may be that of mixed ones
    """
    limit = None
    if limits is not None:
        limit = sum(weight * most for (weight, _), most in zip(scores["none"], limits, strict=True))
        scores = {method: _reflected(of, limits) for method, of in scores.items()}
    none, wider = scores["none"], WIDER.get(name, 1.0)
    n = sum(len(group) for _, group in none)
    found = {}
    for method, of in scores.items():
        value, margin = _mean(of, 1, wider)
        if margin == 0.0 and not (name == KEPT and method == "none"):
            margin = min(3.0 / n, 1.0)  # all rows alike: the rule of three
        apart = [(weight, a - b) for (weight, a), (_, b) in zip(of, none, strict=True)]
        change, of_change = (0.0, 0.0) if method == "none" else _mean(apart, tests, wider)
        if change and not of_change:  # every row changes alike: the rule of three, for as many tests
            of_change = min(-log((1 - CONFIDENCE) / tests) / n, 1.0)
        found[method] = Compared(value, min(margin, 1.0), change, of_change)
    result = Outcome(name, n, found, limit=limit)
    better = {method: of.change for method, of in found.items() if result.better(method)}
    if not better:
        return result
    first = scores[max(better, key=better.__getitem__)]
    behind = {
        method: _mean(
            [(weight, a - b) for (weight, a), (_, b) in zip(first, scores[method], strict=True)], tests, wider
        )
        for method in better
    }
    # At the limit there is nothing to gain.
    full = [
        method for method in better if limit is not None and abs(found[method].value - limit) <= found[method].margin
    ]
    best = tuple(method for method, (less, margin) in behind.items() if less <= margin or method in full)
    return replace(result, best=best)


def means_of(x: Covariance, y: Covariance, tests: int) -> Means:
    """Whether the means of two samples differ by more than chance."""
    n, m = x.count, y.count
    # Unbiased, for rows from a normal distribution: traces of products of sample covariances of few rows are far too large.
    of_x, of_y = x.matrix / (n - 1), y.matrix / (m - 1)
    trace = float(np.trace(of_x) + np.trace(of_y))
    square = _square(x) / n**2 + _square(y) / m**2 + 2 * float(np.sum(of_x * of_y))
    apart = x.mean - y.mean
    squared = float(apart @ apart)
    g, h = square / trace, trace * trace / square
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / tests)
    limit = g * h * (1 - 2 / (9 * h) + z * np.sqrt(2 / (9 * h))) ** 3
    along = float(apart @ (of_x + of_y) @ apart) / squared if squared else trace
    return Means(bool(squared > limit), quantile(1, min(n, m) - 1) * float(np.sqrt(along)), float(np.sqrt(trace)))


def gap_outcome(gaps: dict[str, float], means: Means, rows: int, tests: int) -> Outcome:
    """The gaps by method. Two gaps that differ by less than chance count as one: on new rows, their order is chance too."""
    none = gaps["none"]
    # Where the gap is chance, no change of it means anything.
    wider = means.margin * quantile(tests, rows) / quantile(1, rows) if means.apart else max(none, means.margin)
    found = {
        method: Compared(gap, means.margin if method == "none" else 0.0, gap - none, 0.0 if method == "none" else wider)
        for method, gap in gaps.items()
    }
    result = Outcome(GAP, rows, found, lower=True)
    better = {method: gap for method, gap in gaps.items() if result.better(method)}
    least = min(better.values(), default=0.0)
    return replace(result, best=tuple(method for method, gap in better.items() if gap <= least + means.chance))


def quantile(tests: int, degrees: int) -> float:
    """How many standard errors a two-sided interval reaches so that `tests` of them hold together: of Student's t.

    >>> round(quantile(1, 10**6), 2), round(quantile(1, 20), 2)
    (1.96, 2.09)
    """
    z = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / (2 * tests))
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def _mean(groups: Scores, tests: int, wider: float) -> tuple[float, float]:
    """The weighted mean of the groups' means, and the margin of its interval; wider: a factor of the variance."""
    value = sum(weight * float(group.mean()) for weight, group in groups)
    if min(len(group) for _, group in groups) < LEAST:
        return value, 1.0
    error = np.sqrt(wider * sum(weight**2 * float(group.var(ddof=1)) / len(group) for weight, group in groups))
    return value, quantile(tests, min(len(group) for _, group in groups) - 1) * float(error)


def _reflected(groups: Scores, limits: Sequence[float]) -> Scores:
    """Scores of groups with a mean above their limit, as others with one as far below it, but not below 0."""

    def reflected(group: np.ndarray, limit: float) -> np.ndarray:
        mean = group.mean()
        return group if mean <= limit else 2.0 * limit - group if mean < 2.0 * limit else np.zeros_like(group)

    return [(weight, reflected(group, limit)) for (weight, group), limit in zip(groups, limits, strict=True)]


def _square(of: Covariance) -> float:
    """tr(S^2) of the distribution, unbiased for normal rows, from the covariance of a sample."""
    n = of.count
    sample = of.matrix * n / (n - 1)
    bias = float(np.trace(sample)) ** 2 / (n - 1)
    square = float(np.sum(sample * sample))
    return max((n - 1) ** 2 / ((n + 1) * (n - 2)) * (square - bias), square / n)
